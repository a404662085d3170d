"""Dialing: a stream to the server, over TCP, through a proxy or over a Unix socket, with TLS for a ``wss`` URI."""

from __future__ import annotations

import ssl as ssl_module
from typing import Literal

import attrs
import trio

from ..connection.stream import StreamBroken
from ..exceptions import ConnectFailed, TLSFailed
from ..uri import WebSocketURI
from .explain import explain, explain_addresses
from .proxy.environment import find_proxy
from .proxy.tunnel import connect_through
from .proxy.values import Proxy, to_proxy
from .redirect import same_origin, show
from .tls import start_tls

__all__ = ["Dialer"]


@attrs.define(eq=False)
class Dialer:
    """Opens a stream to the server of a URI. For the options see :class:`ConnectOptions`.

    Attributes:
        first: The URI that the user has given.
        path: The file of a Unix socket, for that URI and all others; None for TCP. There is no proxy on the way to one.
        user_agent_for_proxy: The User-Agent header for an HTTP proxy; None for none.

    Raises:
        InvalidProxy: if ``proxy`` is not valid.
        TypeError: if ``proxy`` is something else.
        ValueError: if ``ssl``, ``server_hostname``, ``proxy`` or ``proxy_ssl`` do not go with the rest, or TLS cannot
            be done in this way.
    """

    first: WebSocketURI
    path: str | None
    user_agent_for_proxy: str | None
    ssl: ssl_module.SSLContext | None = attrs.field(default=None, kw_only=True)
    server_hostname: str | None = attrs.field(default=None, kw_only=True)
    happy_eyeballs_delay: float = attrs.field(default=0.25, kw_only=True)
    local_address: str | None = attrs.field(default=None, kw_only=True)
    proxy: Proxy | Literal["auto"] | None = attrs.field(default="auto", kw_only=True, converter=to_proxy)
    proxy_ssl: ssl_module.SSLContext | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.ssl is not None and not self.first.secure:
            raise ValueError(f"ssl is for wss:// URIs, and this is {show(self.first)}")
        if self.proxy_ssl is not None:
            if self.proxy != "auto" and (self.proxy is None or self.proxy.scheme != "https"):
                raise ValueError("proxy_ssl is for https:// proxies")
            _check_tls(self.proxy_ssl, "localhost", "proxy_ssl")
        if self.path is not None and isinstance(self.proxy, Proxy):
            raise ValueError(f"there is no proxy on the way to a Unix socket, and this is {self.path!r}")
        if self.first.secure:
            _check_tls(self._context(), self._name(self.first))

    async def dial(self, uri: WebSocketURI) -> trio.abc.Stream:
        """Return a stream, after the handshake of TLS if there is one. When cancelled, nothing is left open."""
        context = self._context() if uri.secure else None
        stream = await self._dial(uri)
        if context is None:
            return stream
        try:
            return await start_tls(stream, context, self._name(uri))
        except StreamBroken as exc:
            raise TLSFailed(uri.host_header, str(exc)) from exc.__cause__

    async def _dial(self, uri: WebSocketURI) -> trio.abc.Stream:
        if self.path is None:
            proxy = await find_proxy(uri) if self.proxy == "auto" else self.proxy
            if proxy is not None:
                return await connect_through(
                    proxy,
                    uri,
                    ssl=self.proxy_ssl,
                    user_agent=self.user_agent_for_proxy,
                    happy_eyeballs_delay=self.happy_eyeballs_delay,
                    local_address=self.local_address,
                )
        stream: trio.abc.Stream
        try:
            if self.path is not None:
                stream = await trio.open_unix_socket(self.path)
            else:
                stream = await trio.open_tcp_stream(
                    uri.host,
                    uri.port,
                    happy_eyeballs_delay=self.happy_eyeballs_delay,
                    local_address=self.local_address,
                )
        except OSError as exc:
            reason = explain(exc) if self.path is not None else await explain_addresses(exc, uri.host, uri.port)
            raise ConnectFailed(self.path or uri.host_header, reason) from exc
        return stream

    def _context(self) -> ssl_module.SSLContext:
        if self.ssl is None:
            self.ssl = ssl_module.create_default_context()
        return self.ssl

    def _name(self, uri: WebSocketURI) -> str:
        """Return the name that the server has to prove."""
        if self.server_hostname is not None and same_origin(uri, self.first):
            return self.server_hostname
        # The dot that ends a complete name is not part of it in a certificate.
        return uri.host.rstrip(".")


def _check_tls(context: ssl_module.SSLContext, name: str, option: str = "ssl") -> None:
    """Raise now what would otherwise be raised when there is a connection, whoever the server is."""
    try:
        context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_hostname=name)
    except ssl_module.SSLError as exc:
        raise ValueError(f"{option} is not a context for clients") from exc
