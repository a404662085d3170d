"""Tunnels through proxies: ``connect_through``, ``open_tunnel``."""

from __future__ import annotations

import base64
import math
import socket
import ssl as ssl_module
from typing import Any

import attrs
import trio

from ...connection.stream import StreamAdapter, StreamBroken
from ...exceptions import InvalidMessage, ProxyFailed
from ...http11 import Request, Response, TunnelParser
from ...http11.body import decode_body
from ...uri import WebSocketURI
from ..explain import explain, explain_addresses
from ..tls import start_tls
from .values import Proxy, authority

__all__ = ["connect_through", "open_tunnel"]

#: Seconds in which the body of a refusal must come. Without it the refusal is reported all the same.
BODY_TIMEOUT = 1.0


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
    target = authority(host, port)
    failure = _Failure(peer or target, proxy)
    try:
        if proxy.is_socks:
            assert isinstance(stream, trio.SocketStream)
            await _ask_socks(stream, proxy, host, port, failure)
        else:
            await _ask_http(StreamAdapter(stream), proxy, target, user_agent, failure)
    except BaseException:  # cancellation too: the stream is not left open
        await StreamAdapter(stream).aclose(0)
        raise
    return stream


@attrs.frozen
class _Failure:
    """Makes exceptions."""

    peer: str
    proxy: Proxy

    def __call__(self, reason: str, response: Response | None = None) -> ProxyFailed:
        return ProxyFailed(self.peer, reason, self.proxy.url, response)


# -- HTTP ------------------------------------------------------------------------------------------------------------


async def _ask_http(
    transport: StreamAdapter, proxy: Proxy, target: str, user_agent: str | None, failure: _Failure
) -> None:
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
        await transport.write([request.serialize()])
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


async def _receive_body(transport: StreamAdapter, parser: TunnelParser) -> Response:
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
