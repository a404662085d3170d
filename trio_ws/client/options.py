"""The options of ``connect``, ``connect_unix`` and ``connect_over``, as typed keyword arguments.

The defaults are in the classes that use the options: :class:`~trio_ws.settings.Settings`,
:class:`~trio_ws.client.request.RequestBuilder`, :class:`~trio_ws.client.dial.Dialer` and
:class:`~trio_ws.client.connecting.Connecting`.
"""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..datastructures import HeadersLike
from ..http2.negotiation import HTTP2Option
from ..protocol.extensions import ClientExtension
from ..settings import Options
from ..uri import WebSocketURI
from .cookies import CookiesLike
from .proxy.values import Proxy

if TYPE_CHECKING:
    from .pool import HTTP2Pool

__all__ = ["ConnectOptions", "ConnectOverOptions", "ConnectUnixOptions", "Credentials"]

#: A function, async or not, that takes the URI and returns headers with credentials.
Credentials: TypeAlias = Callable[[WebSocketURI], "HeadersLike | Awaitable[HeadersLike]"]


class ConnectOverOptions(Options, total=False):
    """The keyword arguments of :func:`connect_over`: :class:`Options`, and options for the opening request.

    Attributes:
        headers: Additional headers for the request. Default: none.
        user_agent: The User-Agent header; None for none. A User-Agent header in ``headers`` or from ``credentials``
            overrides it. Default: the names and versions of trio_ws and Python.
        origin: The Origin header, such as ``https://example.org``; None for none. An Origin header in ``headers`` or
            from ``credentials`` overrides it. Default: None.
        cookies: Cookies for the request: a mapping of names to values, or an :class:`http.cookiejar.CookieJar`, which
            also stores the cookies that servers set. A Cookie header in ``headers`` or from ``credentials`` overrides
            them. Default: none.
        credentials: A function, async or not, that is called with the URI before each attempt and returns headers with
            credentials. They replace headers of the same name in ``headers``. Its exceptions propagate. Default: None.
        extensions: Extensions to offer besides compression, in order of preference; see
            :class:`~trio_ws.protocol.extensions.ClientExtension`. A sent message passes those that the server accepts
            in this order, and is compressed last. Default: none.
    """

    headers: HeadersLike
    user_agent: str | None
    origin: str | None
    cookies: CookiesLike | None
    credentials: Credentials | None
    extensions: Sequence[ClientExtension]


class ConnectUnixOptions(ConnectOverOptions, total=False):
    """The keyword arguments of :func:`connect_unix`: :class:`ConnectOverOptions`, and options for TLS and redirects.

    Attributes:
        ssl: The TLS context for a ``wss://`` URI. Default: a context that trusts the system's certificate authorities
            and checks the host name.
        server_hostname: The name that the certificate must be valid for. Default: the host of the URI.
        max_redirects: The maximum number of consecutive redirects. With 0, a redirect raises :exc:`InvalidStatus`.
            Default: 10.
        http2: True to open the WebSocket as a stream of HTTP/2 (RFC 8441) if the server accepts that, and with HTTP/1.1
            otherwise; only for ``wss://`` URIs. This sets the ALPN protocols of the TLS context.
            ``"prior-knowledge"`` to use HTTP/2 without TLS, for a ``ws://`` URI. It requires h2
            (``pip install trio-ws[http2]``). Default: False.
        pool: With ``http2``, a pool of HTTP/2 connections that several WebSockets share. None for a connection of its
            own. Default: None.
    """

    ssl: ssl_module.SSLContext | None
    server_hostname: str | None
    max_redirects: int
    http2: HTTP2Option
    pool: HTTP2Pool | None


class ConnectOptions(ConnectUnixOptions, total=False):
    """The keyword arguments of :func:`connect`: :class:`ConnectUnixOptions`, and options for TCP and proxies.

    Attributes:
        host: The host name or the IP address (without brackets) to connect to, instead of the host of the URI. The URI
            still determines the Host header, the name in TLS and the path. Through a proxy, this is the host that the
            proxy connects to. A redirect to another origin connects to that origin. Default: the host of the URI.
        port: The port to connect to, instead of the port of the URI; like ``host``. Default: the port of the URI.
        happy_eyeballs_delay: Seconds after which the next address of the host is tried in parallel. Default: 0.25.
        local_address: The local IP address to connect from. Default: the system chooses one.
        proxy: The proxy to connect through: a URL such as ``"http://proxy.example:3128"``, or a :class:`Proxy`.
            ``"auto"`` uses the proxy from the environment variables or the system settings; see
            :func:`~trio_ws.client.proxy.find_proxy`. None for no proxy. Default: ``"auto"``.
        proxy_ssl: The TLS context for an ``https://`` proxy. Default: a context like the default of ``ssl``.
    """

    host: str | None
    port: int | None
    happy_eyeballs_delay: float
    local_address: str | None
    proxy: Proxy | str | None
    proxy_ssl: ssl_module.SSLContext | None
