"""Tunnels through proxies: ``connect_through``, ``open_tunnel``."""

from __future__ import annotations

import base64
import math
import socket
import ssl as ssl_module
from typing import Any

import trio

from ...connection.stream import StreamAdapter, StreamBroken
from ...datastructures import Headers
from ...exceptions import InvalidMessage, ProxyFailed
from ...exceptions.shown import escape
from ...http11 import Request, Response, TunnelParser
from ...http11.body import decode_body
from ...http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS
from ...uri import WebSocketURI
from ..explain import explain, explain_addresses
from ..tls import load_default_context, start_tls
from .values import Proxy, authority

__all__ = ["connect_through", "open_tunnel"]

#: Seconds to wait for the body of an error response. After that, the error is reported without the rest of the body.
BODY_TIMEOUT = 1.0


async def connect_through(
    proxy: Proxy,
    uri: WebSocketURI,
    *,
    ssl: ssl_module.SSLContext | None,
    user_agent: str | None,
    max_head_size: int,
    max_headers: int,
    happy_eyeballs_delay: float,
    local_address: str | None,
) -> trio.abc.Stream:
    """Connect to a proxy, and open a tunnel through it to a server.

    If it raises or is cancelled, nothing is left open.

    Args:
        proxy: The proxy.
        uri: The URI of the server. TLS with the server is up to the caller.
        ssl: The TLS context for an ``https`` proxy; None for the default context.
        user_agent: The User-Agent header for an HTTP proxy; None for none.
        max_head_size: Maximum size of the head of the answer of an HTTP proxy, in bytes.
        max_headers: Maximum number of headers in it.
        happy_eyeballs_delay: Seconds after which the next address of the proxy is tried in parallel.
        local_address: The local IP address to connect from; None to let the system choose.

    Returns:
        A stream to the server.

    Raises:
        ProxyFailed: If the proxy cannot be reached or refuses to open a tunnel.
        ImportError: If it is a SOCKS proxy and python-socks is not installed.
    """
    if proxy.is_socks:
        _import_socks()  # Fail before connecting if it is not installed.
    context = ssl
    if proxy.scheme == "https" and context is None:
        context = await load_default_context()
    stream: trio.abc.Stream
    try:
        stream = await trio.open_tcp_stream(
            proxy.host, proxy.port, happy_eyeballs_delay=happy_eyeballs_delay, local_address=local_address
        )
    except OSError as exc:
        reason = f"the proxy cannot be reached: {await explain_addresses(exc, proxy.host, proxy.port)}"
        raise ProxyFailed(uri.host_header, reason, proxy.url) from exc
    if proxy.scheme == "https":
        assert context is not None
        try:
            # Host names in certificates have no trailing dot.
            name = proxy.host.partition("%")[0].rstrip(".")
            stream = (await start_tls(stream, context, name, nestable=True)).stream
        except StreamBroken as exc:
            raise ProxyFailed(uri.host_header, str(exc), proxy.url) from exc.__cause__
    return await open_tunnel(
        stream,
        proxy,
        uri.host_without_zone,
        uri.port,
        peer=uri.host_header,
        user_agent=user_agent,
        max_head_size=max_head_size,
        max_headers=max_headers,
    )


async def open_tunnel(
    stream: trio.abc.Stream,
    proxy: Proxy,
    host: str,
    port: int,
    *,
    peer: str | None = None,
    user_agent: str | None = None,
    max_head_size: int = MAX_HEAD_SIZE,
    max_headers: int = MAX_HEADERS,
) -> trio.abc.Stream:
    """Open a tunnel to a server over a stream to a proxy.

    If it raises or is cancelled, the stream is closed.

    Args:
        stream: A stream to the proxy, after the TLS handshake if it is an ``https`` proxy. For SOCKS, it must be a
            :class:`trio.SocketStream`.
        proxy: The proxy.
        host: The host name of the server in ASCII, or its IP address without brackets.
        port: The port of the server.
        peer: The name of the server in error messages; None for ``host:port``.
        user_agent: The User-Agent header for an HTTP proxy; None for none.
        max_head_size: Maximum size of the head of the answer of an HTTP proxy, in bytes.
        max_headers: Maximum number of headers in it.

    Returns:
        The same stream, which is now connected to the server.

    Raises:
        ProxyFailed: If the proxy refuses, closes the connection, or violates its protocol.
        InvalidHeader: If ``user_agent`` is not a valid header value.
        ImportError: If it is a SOCKS proxy and python-socks is not installed.
    """
    target = authority(host, port)
    make_error = _ErrorFactory(peer or target, proxy)
    try:
        if proxy.is_socks:
            assert isinstance(stream, trio.SocketStream)
            await _open_socks_tunnel(stream, proxy, host, port, make_error)
        else:
            parser = TunnelParser(max_head_size=max_head_size, max_headers=max_headers)
            await _open_http_tunnel(StreamAdapter(stream), proxy, target, user_agent, parser, make_error)
    except BaseException:  # Cancellation must not leave the stream open either.
        await StreamAdapter(stream).aclose(0)
        raise
    return stream


class _ErrorFactory:
    """Makes a :exc:`ProxyFailed` for a reason, with the names of the server and the proxy filled in."""

    def __init__(self, peer: str, proxy: Proxy) -> None:
        self._peer = peer
        self._proxy = proxy

    def __call__(self, reason: str, response: Response | None = None) -> ProxyFailed:
        return ProxyFailed(self._peer, reason, self._proxy.url, response)


# -- HTTP ------------------------------------------------------------------------------------------------------------


async def _open_http_tunnel(
    transport: StreamAdapter,
    proxy: Proxy,
    target: str,
    user_agent: str | None,
    parser: TunnelParser,
    make_error: _ErrorFactory,
) -> None:
    headers = Headers(Host=target)
    if proxy.username is not None and "Proxy-Authorization" not in proxy.headers:
        credentials = f"{proxy.username}:{proxy.password or ''}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    if user_agent is not None and "User-Agent" not in proxy.headers:
        headers["User-Agent"] = user_agent
    headers.update(proxy.headers)
    request = Request(target, headers, method="CONNECT")
    response = None
    try:
        await transport.write([request.serialize()])
        while parser.partial is None:
            data = await transport.receive()
            if not data:
                raise make_error("the proxy closed the connection without an answer")
            response = parser.feed(data)
    except StreamBroken as exc:
        raise make_error(explain(exc)) from exc.__cause__
    except InvalidMessage as exc:
        if parser.partial is None:
            raise make_error(f"the proxy's answer is not valid: {exc}") from exc
        # Only the body is malformed. It is an error response anyway, since only those have a body here.
    assert parser.partial is not None
    if parser.partial.status_code >= 300:
        if response is None:
            response = await _receive_body(transport, parser)
        status = f"{response.status_code} {escape(response.reason_phrase):.200}".rstrip()
        raise make_error(f"the proxy answered {status}", decode_body(response))
    if parser.unused:
        # We have sent nothing to the server yet, and a server never speaks first, with TLS or without. So these bytes
        # come from the proxy, and must not pass for the server's answer.
        raise make_error("the proxy sent data before the server could", parser.partial)


async def _receive_body(transport: StreamAdapter, parser: TunnelParser) -> Response:
    """Receive the body of an error response whose head has arrived.

    If the body is malformed or does not arrive in time, return the response with the part that did arrive.
    """
    now = trio.current_time()
    response = None
    # Use at most half of the time until the enclosing timeout, which would replace this error by a less useful one.
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

SOCKS_4 = ("socks4", "socks4a")


def _import_socks() -> Any:
    try:
        import python_socks.async_.trio
    except ImportError as exc:
        raise ImportError(
            "SOCKS proxies need python-socks: pip install trio-ws[socks]. To connect without a proxy, set proxy=None"
        ) from exc
    return python_socks


class _ConnectedSocket:
    """Makes python-socks use an existing socket to the proxy, by posing as an earlier proxy in a chain."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket

    async def connect(self, dest_host: str, dest_port: int, **_options: object) -> trio.socket.SocketType:
        return self._socket


async def _open_socks_tunnel(
    stream: trio.SocketStream, proxy: Proxy, host: str, port: int, make_error: _ErrorFactory
) -> None:
    if proxy.scheme in SOCKS_4 and ":" in host:
        reason = "SOCKS 4 does not support IPv6 addresses"
        raise make_error(reason) from ValueError(reason)
    python_socks = _import_socks()
    kind = python_socks.ProxyType.SOCKS4 if proxy.scheme in SOCKS_4 else python_socks.ProxyType.SOCKS5
    connector = python_socks.async_.trio.Proxy(
        kind,
        proxy.host,
        proxy.port,
        proxy.username,
        proxy.password,
        rdns=proxy.scheme in ("socks4a", "socks5h"),
        forward=_ConnectedSocket(stream.socket),
    )
    try:
        # The default is one minute, but open_timeout is the limit here.
        await connector.connect(host, port, timeout=math.inf)
    except python_socks.ProxyError as exc:
        # The message of a ProxyError is more helpful than that of its cause, which explain() would return.
        raise make_error(str(exc)) from (
            exc if _is_temporary(4 if proxy.scheme in SOCKS_4 else 5, exc) else PermissionError(str(exc))
        )
    except socket.gaierror as exc:
        raise make_error(f"cannot resolve {host}: {explain(exc)}") from exc
    except Exception as exc:
        # Catch everything: python-socks does not validate all that a proxy sends, and can fail in any way.
        raise make_error(explain(exc)) from exc


#: The SOCKS replies that are about the server or the network: the proxy may open the tunnel later. All others are about
#: the request or the credentials.
_TEMPORARY_REPLIES = {5: frozenset({1, 3, 4, 5, 6}), 4: frozenset({91})}


def _is_temporary(version: int, exc: Any) -> bool:
    """Return whether a ProxyError of python-socks reports that the proxy cannot open a tunnel at the moment."""
    # Only the causes that are about a reply have this attribute. The others are about the loss of the connection.
    return not hasattr(exc.__cause__, "error_code") or exc.error_code in _TEMPORARY_REPLIES[version]
