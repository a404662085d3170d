"""Proxies: how to name one, which one to use, and the way through it.

A proxy is asked for a tunnel to the server, whether the URI is ``ws`` or ``wss`` (RFC 6455, section 4.1): with CONNECT
over HTTP (RFC 9110, section 9.3.6), or with SOCKS. What is in the tunnel is not for the proxy: TLS begins inside it,
and so does the opening handshake with its headers and credentials. What is for the proxy is sent before, and never into
it.

SOCKS is the work of python-socks, which need not be installed, and is imported when there is a SOCKS proxy. It is
handed a socket that is connected already, as from a proxy in a chain: so it is connected like any other, to whichever
address of the proxy answers first and from the local address that was asked for.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import os
import re
import socket
import ssl as ssl_module
import sys
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import trio

from ..exceptions import InvalidMessage, InvalidProxy, ProxyFailed
from ..http11 import Request, Response, TunnelParser
from ..http11.body import decode_body
from ..stream import StreamBroken, Transport, explain, explain_addresses, start_tls
from ..uri import Invalid, WebSocketURI, parse_host_and_port, unquote_user_info

__all__ = ["Proxy", "connect_through", "find_proxy", "open_tunnel", "parse_proxy", "to_proxy"]

DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

#: Seconds in which the body of a refusal must come. Without it the refusal is reported all the same.
BODY_TIMEOUT = 1.0

_SCHEMES = "the scheme is http, https, socks4, socks4a, socks5 or socks5h"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(?:(.*)@)?([^@]*?)/?", re.DOTALL)


def _to_host(host: str) -> str:
    try:
        return parse_host_and_port(f"[{host}]" if ":" in host else host, 1)[0]
    except Invalid:
        # Nothing is quoted: this may be a whole URL.
        raise InvalidProxy(host, "the host is a name, or an IP address without brackets") from None


@attrs.frozen
class Proxy:
    """A proxy.

    Args:
        scheme: What it speaks: ``http``, ``https`` (that is HTTP inside TLS), ``socks4``, ``socks4a``, ``socks5`` or
            ``socks5h``. With ``socks4a`` and ``socks5h`` the proxy looks up the name of the server, with ``socks4`` and
            ``socks5`` we do.
        host: A name, which becomes ASCII in lower case, or an IP address without brackets.
        port: From 1 to 65535.
        username: None if it needs no credentials.
        password: None if there is none.

    Raises:
        InvalidProxy: if scheme, host or port are none of these, or if there is no way to send such credentials. HTTP
            cannot have a colon in the user name (RFC 7617, section 2). SOCKS 5 has both, ASCII only, of 1 to 255
            characters (RFC 1929, section 2), SOCKS 4 only a user name in ASCII. Control characters go nowhere.
    """

    scheme: str
    host: str = attrs.field(converter=_to_host)
    port: int
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=lambda value: "None" if value is None else "'***'")

    def __attrs_post_init__(self) -> None:
        reason = self._find_fault()
        if reason is not None:
            raise InvalidProxy(self.url, reason)

    def _find_fault(self) -> str | None:
        if self.scheme not in DEFAULT_PORTS:
            return _SCHEMES
        if not 1 <= self.port <= 65535:
            return "the port is a number from 1 to 65535"
        if self.username is None:
            return None if self.password is None else "it has a password without a user name"
        password = self.password or ""
        if not (self.username + password).isprintable():
            return "no user name and no password has control characters"
        if not self.is_socks:
            return "a user name has no colon (RFC 7617, section 2)" if ":" in self.username else None
        if not (self.username + password).isascii():
            return "with SOCKS, user name and password are ASCII"
        if self.scheme in ("socks4", "socks4a"):
            return "SOCKS 4 has no passwords" if password else None
        if not (1 <= len(self.username) <= 255 and 1 <= len(password) <= 255):
            return "with SOCKS 5, user name and password have 1 to 255 characters each (RFC 1929, section 2)"
        return None

    @property
    def is_socks(self) -> bool:
        """Whether it is asked with SOCKS, and not with HTTP."""
        return self.scheme.startswith("socks")

    @property
    def url(self) -> str:
        """The URL of the proxy, without user name and password, for messages."""
        return f"{self.scheme}://{_authority(self.host, self.port)}"


def parse_proxy(url: str) -> Proxy:
    """Parse and validate the URL of a proxy.

    Host names that are not ASCII are encoded with IDNA 2008.

    Args:
        url: Scheme and host, such as ``http://proxy.example``; with user name, password and port
            ``socks5://user:password@proxy.example:1080``. User name and password are percent-encoded. The default ports
            are 80 for ``http``, 443 for ``https`` and 1080 for SOCKS. A slash may follow.

    Raises:
        InvalidProxy: if it is not valid, whatever the reason. Neither its message nor its attributes have the password.
    """
    if not isinstance(url, str):
        raise InvalidProxy(repr(url), f"it is not a str but {type(url).__name__}")
    # There is nothing behind the host that could have an "@", so that whatever is wrong with a password, it is not
    # taken for something else, and quoted.
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidProxy(url, "it is not like http://proxy.example:3128")
    scheme, user_info, host_and_port = match[1].lower(), match[2], match[3]
    username = password = None
    try:
        if scheme not in DEFAULT_PORTS:
            raise Invalid(_SCHEMES)
        host, port = parse_host_and_port(host_and_port, DEFAULT_PORTS[scheme])
        if user_info is not None:
            username, colon, password = user_info.partition(":")
            username = unquote_user_info(username)
            password = unquote_user_info(password) if colon else None
    except Invalid as exc:
        raise InvalidProxy(url, exc.args[0]) from None
    return Proxy(scheme, host, port, username, password)


# -- The choice ------------------------------------------------------------------------------------------------------


def to_proxy(proxy: Proxy | str | None) -> Proxy | Literal["auto"] | None:
    """Convert the ``proxy`` option.

    Args:
        proxy: The proxy or its URL, ``"auto"``, or None.

    Returns:
        The proxy, ``"auto"`` if that is to be asked of :func:`find_proxy`, or None for no proxy.

    Raises:
        InvalidProxy: if that is no URL of a proxy.
        TypeError: if it is something else.
    """
    if isinstance(proxy, str):
        return "auto" if proxy == "auto" else parse_proxy(proxy)
    if not (proxy is None or isinstance(proxy, Proxy)):
        raise TypeError(f"proxy is a URL, a Proxy, 'auto' or None, not {proxy!r}")
    return proxy


async def find_proxy(uri: WebSocketURI) -> Proxy | None:
    """Return the proxy that the environment, or the system, has for a URI.

    They are read as :func:`urllib.request.getproxies` reads them. For a ``wss`` URI the first of these counts that is
    set: ``wss_proxy``, ``https_proxy``, ``socks_proxy``, ``all_proxy``; for a ``ws`` URI ``ws_proxy``, ``http_proxy``,
    ``socks_proxy``, ``all_proxy``; in capitals they mean the same. A value without a scheme is an HTTP proxy, in
    ``socks_proxy`` a SOCKS 5 proxy. ``socks://`` stands for ``socks5h://``. Where no such variable is set, macOS and
    Windows are asked for their settings.

    There is none for the hosts in ``no_proxy``, a list with commas in between: ``example.org`` is also for the names
    below it, ``example.org:81`` for one port only, and ``*`` for all hosts. And there never is one for this machine:
    ``localhost``, the names below it, 127.0.0.0/8 and ``::1`` are something else to a proxy.

    Args:
        uri: What to connect to.

    Raises:
        InvalidProxy: if what is set there is not a proxy.
    """
    if _is_loopback(uri.host):
        return None
    asks_system = sys.platform in ("win32", "darwin")
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        # The usual case. To import urllib.request takes longer than to import all of this package.
        if not asks_system:
            return None
    else:
        from urllib.request import getproxies_environment

        asks_system = asks_system and not getproxies_environment()
    if asks_system:
        # This may look up names.
        return await trio.to_thread.run_sync(_look_up, uri, abandon_on_cancel=True)
    return _look_up(uri)


def _look_up(uri: WebSocketURI) -> Proxy | None:
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    # The dot that ends a complete name is not in the list. An IPv6 address may be there with brackets, or without.
    host = uri.host.rstrip(".")
    if any(proxy_bypass(each) for each in dict.fromkeys((_authority(host, uri.port), f"{host}:{uri.port}"))):
        return None
    return _choose(uri, proxies)


def _choose(uri: WebSocketURI, proxies: Mapping[str, str]) -> Proxy | None:
    for name in (*(("wss", "https") if uri.secure else ("ws", "http")), "socks", "all"):
        url = proxies.get(name, "").strip()
        if not url:
            continue
        scheme, separator, rest = url.partition("://")
        if not separator:
            scheme, rest = "http", url
        # macOS has an "http" in front of any kind of proxy.
        if scheme.lower() == "socks" or (name == "socks" and scheme.lower() == "http"):
            scheme = "socks5h"
        try:
            return parse_proxy(f"{scheme}://{rest}")
        except InvalidProxy as exc:
            raise InvalidProxy(exc.proxy, f"{exc.reason} (it is set as {name}_proxy)") from None
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


# -- The way through it ----------------------------------------------------------------------------------------------


async def connect_through(
    proxy: Proxy,
    uri: WebSocketURI,
    *,
    ssl: ssl_module.SSLContext | None,
    user_agent: str | None,
    happy_eyeballs_delay: float,
    local_address: str | None,
) -> trio.abc.Stream:
    """Connect to a proxy, and through it to a server. When cancelled, nothing is left behind.

    Args:
        proxy: The proxy.
        uri: Says which server. TLS with it is not done here.
        ssl: How to do TLS with an ``https`` proxy; None for the default.
        user_agent: As in :func:`open_tunnel`.
        happy_eyeballs_delay: Seconds after which the next address of the proxy is tried too.
        local_address: The local IP address to connect from.

    Returns:
        A stream to the server.

    Raises:
        ProxyFailed: if the proxy cannot be reached, or refuses.
        ImportError: if it is a SOCKS proxy, and python-socks is not installed.
    """
    if proxy.is_socks:
        _import_socks()  # rather now than with a connection that is of no use
    context = ssl
    if proxy.scheme == "https" and context is None:
        context = ssl_module.create_default_context()
    stream: trio.abc.Stream
    try:
        stream = await trio.open_tcp_stream(
            proxy.host, proxy.port, happy_eyeballs_delay=happy_eyeballs_delay, local_address=local_address
        )
    except OSError as exc:
        reason = f"it cannot be reached: {await explain_addresses(exc, proxy.host, proxy.port)}"
        raise ProxyFailed(uri.host_header, reason, proxy.url) from exc
    if proxy.scheme == "https":
        assert context is not None
        try:
            # The dot that ends a complete name is not part of it in a certificate.
            stream = await start_tls(stream, context, proxy.host.rstrip("."))
        except StreamBroken as exc:
            raise ProxyFailed(uri.host_header, str(exc), proxy.url) from exc.__cause__
    return await open_tunnel(stream, proxy, uri.host, uri.port, peer=uri.host_header, user_agent=user_agent)


async def open_tunnel(
    stream: trio.abc.Stream,
    proxy: Proxy,
    host: str,
    port: int,
    *,
    peer: str | None = None,
    user_agent: str | None = None,
) -> trio.abc.Stream:
    """Ask a proxy for a tunnel to a server.

    If it raises, or is cancelled, the stream is closed.

    Args:
        stream: A stream to the proxy, inside TLS if that is an ``https`` proxy. For SOCKS, a
            :class:`trio.SocketStream`.
        proxy: The proxy.
        host: The name of the server, in ASCII, or its IP address without brackets.
        port: The port of the server.
        peer: What to call the server in messages; None for host and port.
        user_agent: The User-Agent header for an HTTP proxy; None for none.

    Returns:
        The stream, which leads to the server from now on.

    Raises:
        ProxyFailed: if the proxy refuses, hangs up, or does not speak its protocol.
        InvalidHeader: if ``user_agent`` cannot be the value of a header.
        ImportError: if it is a SOCKS proxy, and python-socks is not installed.
    """
    target = _authority(host, port)
    failure = _Failure(peer or target, proxy)
    try:
        if proxy.is_socks:
            assert isinstance(stream, trio.SocketStream)
            await _ask_socks(stream, proxy, host, port, failure)
        else:
            await _ask_http(Transport(stream), proxy, target, user_agent, failure)
    except BaseException:  # cancellation too: the stream is not left open
        await Transport(stream).aclose(0)
        raise
    return stream


@attrs.frozen
class _Failure:
    """Makes exceptions."""

    peer: str
    proxy: Proxy

    def __call__(self, reason: str, response: Response | None = None) -> ProxyFailed:
        return ProxyFailed(self.peer, reason, self.proxy.url, response)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- HTTP ------------------------------------------------------------------------------------------------------------


async def _ask_http(transport: Transport, proxy: Proxy, target: str, user_agent: str | None, failure: _Failure) -> None:
    headers = {"Host": target}
    if proxy.username is not None:
        credentials = f"{proxy.username}:{proxy.password or ''}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    if user_agent is not None:
        headers["User-Agent"] = user_agent
    request = Request(target, headers, method="CONNECT")
    parser = TunnelParser()
    response = None
    try:
        await transport.send([request.serialize()])
        while parser.partial is None:
            data = await transport.receive()
            if not data:
                raise failure("it closed the connection instead of an answer")
            response = parser.feed(data)
    except StreamBroken as exc:
        raise failure(explain(exc)) from exc.__cause__
    except InvalidMessage as exc:
        if parser.partial is None:
            raise failure(f"its answer is not HTTP: {exc}") from exc
        # What is wrong is in the body of a refusal.
    assert parser.partial is not None
    if parser.partial.status_code >= 300:
        if response is None:
            response = await _receive_body(transport, parser)
        status = f"{response.status_code} {response.reason_phrase:.200}".rstrip()
        raise failure(f"it answered {status}", decode_body(response))
    if parser.unused:
        # The server has not been sent anything, so these bytes do not come from it: it never speaks first, neither with
        # TLS nor without. They must not be taken for its answer.
        raise failure("it sent something before the server could", parser.partial)


async def _receive_body(transport: Transport, parser: TunnelParser) -> Response:
    """Return a refusal with its body. Its head is there: whatever becomes of the body does not change that."""
    now = trio.current_time()
    response = None
    # If the time is up for all of it, the refusal is lost. So the body gets half of what is left of that.
    with trio.move_on_at(min(now + BODY_TIMEOUT, (now + trio.current_effective_deadline()) / 2)):
        try:
            while response is None:
                response = parser.feed(await transport.receive())
        except (StreamBroken, InvalidMessage):
            pass
    response = response or parser.partial
    assert response is not None
    return response


# -- SOCKS -----------------------------------------------------------------------------------------------------------


def _import_socks() -> Any:
    try:
        import python_socks.async_.trio
    except ImportError as exc:
        raise ImportError(
            "SOCKS proxies need python-socks: pip install trio-ws[socks]. With proxy=None there is no proxy"
        ) from exc
    return python_socks


@attrs.frozen
class _Connected:
    """Takes the place of another proxy in a chain: one that leads to ours, and has done so already."""

    socket: trio.socket.SocketType

    async def connect(self, dest_host: str, dest_port: int, **_options: object) -> trio.socket.SocketType:
        return self.socket


async def _ask_socks(stream: trio.SocketStream, proxy: Proxy, host: str, port: int, failure: _Failure) -> None:
    if proxy.scheme in ("socks4", "socks4a") and ":" in host:
        raise failure("SOCKS 4 has no IPv6 addresses")
    python_socks = _import_socks()
    kind = python_socks.ProxyType.SOCKS4 if proxy.scheme in ("socks4", "socks4a") else python_socks.ProxyType.SOCKS5
    connector = python_socks.async_.trio.Proxy(
        kind,
        proxy.host,
        proxy.port,
        proxy.username,
        proxy.password,
        rdns=proxy.scheme in ("socks4a", "socks5h"),
        forward=_Connected(stream.socket),
    )
    try:
        # Without a number it is a minute. Ours is another.
        await connector.connect(host, port, timeout=math.inf)
    except python_socks.ProxyError as exc:
        # It says more than its cause does.
        raise failure(str(exc)) from exc
    except socket.gaierror as exc:
        raise failure(f"{host} is not known here: {explain(exc)}") from exc
    except Exception as exc:
        # Any exception: what a proxy sends is not checked for everything there.
        raise failure(explain(exc)) from exc
