"""The ``Dialer``, which opens streams to the server: over TCP, through a proxy or over a Unix socket, and with TLS."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl as ssl_module
from collections.abc import Hashable, Sequence
from typing import Literal

import attrs
import trio

from ..connection.stream import StreamAdapter, StreamBroken
from ..exceptions import ConnectFailed, TLSFailed
from ..http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS
from ..misuse import values
from ..misuse.values import number
from ..uri import ParseError, WebSocketURI, parse_host
from .explain import explain, explain_addresses
from .proxy.environment import find_proxy
from .proxy.tunnel import connect_through
from .proxy.values import Proxy, to_proxy
from .redirect import same_origin, without_credentials
from .tls import load_default_context, start_tls

__all__ = ["Dialer"]


def _check_local_address(_instance: Dialer, _attribute: attrs.Attribute[str | None], address: str | None) -> None:
    if not (address is None or isinstance(address, str)):
        raise TypeError(f"local_address must be a str or None, not {address!r}")
    if address is not None:
        try:
            ipaddress.ip_address(address)
        except ValueError as exc:
            raise ValueError(f"local_address must be an IP address, not {address!r}") from exc


def _to_host(host: str | None) -> str | None:
    return _parse_name("host", host)


def _to_server_hostname(name: str | None) -> str | None:
    return _parse_name("server_hostname", name)


def _parse_name(option: str, host: str | None) -> str | None:
    if host is None:
        return None
    values.check_instance(option, host, str, "a str or None")
    try:
        return parse_host(host)
    except ParseError as exc:
        raise ValueError(f"{option} must be a name, or an IP address without brackets, not {host!r}") from exc


def _check_port(_instance: Dialer, _attribute: attrs.Attribute[int | None], port: int | None) -> None:
    if port is not None:
        values.check_int("port", port, 1, 0xFFFF)


@attrs.define(eq=False, repr=False)
class Dialer:
    """Opens a stream to the server of a URI.

    Attributes:
        first: The URI that the user gave; dialed URIs may differ after a redirect.
        path: The file name of the Unix socket to connect to, whatever the URI; None to use TCP.
        user_agent_for_proxy: The User-Agent header for an HTTP proxy; None for none.
        ssl: See :class:`ConnectOptions`.
        server_hostname: See :class:`ConnectOptions`. It only applies to the origin of ``first``.
        host: See :class:`ConnectOptions`. It only applies to the origin of ``first``.
        port: See :class:`ConnectOptions`. It only applies to the origin of ``first``.
        happy_eyeballs_delay: See :class:`ConnectOptions`.
        local_address: See :class:`ConnectOptions`.
        proxy: See :class:`ConnectOptions`. Unix sockets are never reached through a proxy.
        proxy_ssl: See :class:`ConnectOptions`.
        max_head_size: See :class:`Options`. For the answer of an HTTP proxy, and for HTTP/2 connections.
        max_headers: See :class:`Options`. For the answer of an HTTP proxy, and for HTTP/2 connections.

    Raises:
        InvalidProxy: If ``proxy`` is not valid.
        TypeError: If an option has the wrong type.
        ValueError: If the options contradict each other or would have no effect, a TLS context is not for clients, or
            an option is not valid.
    """

    first: WebSocketURI
    path: str | None
    user_agent_for_proxy: str | None
    ssl: ssl_module.SSLContext | None = attrs.field(default=None, kw_only=True, validator=values.tls_context)
    server_hostname: str | None = attrs.field(default=None, kw_only=True, converter=_to_server_hostname)
    host: str | None = attrs.field(default=None, kw_only=True, converter=_to_host)
    port: int | None = attrs.field(default=None, kw_only=True, validator=_check_port)
    happy_eyeballs_delay: float = attrs.field(default=0.25, kw_only=True, validator=number(minimum=0, none=False))
    local_address: str | None = attrs.field(default=None, kw_only=True, validator=_check_local_address)
    proxy: Proxy | Literal["auto"] | None = attrs.field(default="auto", kw_only=True, converter=to_proxy)
    proxy_ssl: ssl_module.SSLContext | None = attrs.field(default=None, kw_only=True, validator=values.tls_context)
    max_head_size: int = attrs.field(default=MAX_HEAD_SIZE, kw_only=True)
    max_headers: int = attrs.field(default=MAX_HEADERS, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.ssl is not None:
            if not self.first.secure:
                raise ValueError(f"ssl must only be given for a wss:// URI, not for {without_credentials(self.first)}")
            _check_client_context("ssl", self.ssl)
        if self.server_hostname is not None and not self.first.secure:
            shown = without_credentials(self.first)
            raise ValueError(f"server_hostname must only be given for a wss:// URI, not for {shown}")
        if self.proxy_ssl is not None:
            if self.proxy != "auto" and (self.proxy is None or self.proxy.scheme != "https"):
                raise ValueError("proxy_ssl must only be given for an https:// proxy")
            _check_client_context("proxy_ssl", self.proxy_ssl)
        if self.path is not None and isinstance(self.proxy, Proxy):
            raise ValueError(f"proxy must not be given for a Unix socket ({self.path!r})")

    async def dial(self, uri: WebSocketURI, alpn: Sequence[str] | None = None) -> StreamAdapter:
        """Open a stream to the server, and do the TLS handshake for a ``wss`` URI.

        If it raises or is cancelled, nothing is left open.

        Args:
            uri: The URI.
            alpn: The protocols to offer in the TLS handshake; None to leave that to the TLS context.

        Raises:
            ConnectFailed: If the server cannot be reached; :exc:`TLSFailed` if the TLS handshake fails,
                :exc:`ProxyFailed` if there is no way through the proxy.
            InvalidProxy: If the environment does not name a valid proxy.
            ImportError: If it is a SOCKS proxy and python-socks is not installed.
        """
        context = None
        if uri.secure:
            context = self.ssl or await load_default_context()
        stream = await self._dial(self._address(uri))
        if context is None:
            adapter = StreamAdapter(stream)
            adapter.tls_object = None  # the TLS of a proxy is not that of the connection
            return adapter
        try:
            return await start_tls(stream, context, self._certificate_name(uri), alpn=alpn)
        except StreamBroken as exc:
            raise TLSFailed(uri.host_header, str(exc)) from exc.__cause__

    def get_key(self, uri: WebSocketURI) -> Hashable:
        """Return a value that is the same for all connections that lead to the same server in the same way.

        The limits of headers hold for a whole HTTP/2 connection, so connections with different limits differ.
        """
        address = self._address(uri)
        name = self._certificate_name(uri)
        limits = (self.max_head_size, self.max_headers)
        way = (address.host, address.port, self.path, self.ssl, name, self.proxy, self.proxy_ssl, self.local_address)
        return uri.secure, uri.host, uri.port, way, limits

    def _address(self, uri: WebSocketURI) -> WebSocketURI:
        """Return the URI with the host and port to connect to."""
        if (self.host is None and self.port is None) or not same_origin(uri, self.first):
            return uri
        return attrs.evolve(uri, host=self.host or uri.host, port=self.port or uri.port)

    async def _dial(self, uri: WebSocketURI) -> trio.abc.Stream:
        if self.path is None:
            proxy = await find_proxy(uri) if self.proxy == "auto" else self.proxy
            if proxy is not None:
                return await connect_through(
                    proxy,
                    uri,
                    ssl=self.proxy_ssl,
                    user_agent=self.user_agent_for_proxy,
                    max_head_size=self.max_head_size,
                    max_headers=self.max_headers,
                    happy_eyeballs_delay=self.happy_eyeballs_delay,
                    local_address=self.local_address,
                )
        stream: trio.abc.Stream
        try:
            if self.path is not None:
                if not hasattr(socket, "AF_UNIX"):
                    raise OSError(errno.EOPNOTSUPP, "this system has no Unix sockets")
                stream = await trio.open_unix_socket(self.path)
            else:
                stream = await self._open_tcp_stream(uri.host, uri.port)
        except OSError as exc:
            reason = explain(exc) if self.path is not None else await explain_addresses(exc, uri.host, uri.port)
            # An abstract Unix socket is written with an "@", as by the tools of Linux.
            peer = uri.host_header if self.path is None else self.path.replace("\0", "@")
            if "%" in uri.host:
                reason += f" (with the zone {uri.host.partition('%')[2]})"
            raise ConnectFailed(peer, reason) from exc
        return stream

    async def _open_tcp_stream(self, host: str, port: int) -> trio.SocketStream:
        """Open a TCP connection. An IP address needs no look-up and no race: a sixth of the cost of connecting."""
        family = _address_family(host)
        if family is None or self.local_address is not None:
            return await trio.open_tcp_stream(
                host, port, happy_eyeballs_delay=self.happy_eyeballs_delay, local_address=self.local_address
            )
        sock = trio.socket.socket(family)
        try:
            await sock.connect((host, port))
        except BaseException:  # Cancellation must not leave the socket open either.
            sock.close()
            raise
        return trio.SocketStream(sock)

    def _certificate_name(self, uri: WebSocketURI) -> str:
        """Return the name that the server's certificate must be valid for."""
        name = uri.host_without_zone
        if self.server_hostname is not None and same_origin(uri, self.first):
            name = self.server_hostname
        return name.rstrip(".")  # host names in certificates have no trailing dot


def _address_family(host: str) -> int | None:
    """Return the address family of an IP address without a zone; None for a host name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return trio.socket.AF_INET
    return None if address.scope_id else trio.socket.AF_INET6


def _check_client_context(option: str, context: ssl_module.SSLContext) -> None:
    if context.protocol == ssl_module.PROTOCOL_TLS_SERVER:
        raise ValueError(f"{option} must be a context for clients, not for servers")
