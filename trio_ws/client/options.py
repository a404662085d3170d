"""The options of ``connect``, ``connect_unix`` and ``connect_over``, as typed keyword arguments.

Their defaults are in the classes that use them: :class:`~trio_ws.settings.Settings`,
:class:`~trio_ws.client.request.RequestBuilder`, :class:`~trio_ws.client.dial.Dialer` and
:class:`~trio_ws.client.connect.Connecting`.
"""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..datastructures import HeadersLike
from ..settings import Options
from ..uri import WebSocketURI
from .cookies import CookiesLike
from .proxy.values import Proxy

__all__ = ["ConnectOptions", "ConnectOverOptions", "ConnectUnixOptions", "Credentials"]

#: Called before each attempt, with the URI, for headers that say who we are.
Credentials: TypeAlias = Callable[[WebSocketURI], "HeadersLike | Awaitable[HeadersLike]"]


class ConnectOverOptions(Options, total=False):
    """The keyword arguments of :func:`connect_over`: :class:`Options`, and those of the request.

    Attributes:
        headers: More headers for the request. Default: none.
        user_agent: The User-Agent header; None for none. Default: the names and versions of trio_ws and Python.
        origin: The Origin header, such as ``https://example.org``; None for none. Default: None.
        cookies: Cookies for the request: a mapping of names to values, or an :class:`http.cookiejar.CookieJar`, which
            also takes those that servers set. A Cookie header in ``headers`` or from ``credentials`` replaces them.
            Default: none.
        credentials: Called before each attempt, with the URI, for headers that say who we are; they replace those of
            the same name in ``headers``. It may be async. What it raises comes out. Default: None.
    """

    headers: HeadersLike
    user_agent: str | None
    origin: str | None
    cookies: CookiesLike | None
    credentials: Credentials | None


class ConnectUnixOptions(ConnectOverOptions, total=False):
    """The keyword arguments of :func:`connect_unix`: :class:`ConnectOverOptions`, and those for TLS and redirects.

    Attributes:
        ssl: The TLS context for a ``wss://`` URI. Default: one that trusts the authorities that the system trusts, and
            checks the host name.
        server_hostname: The name that the certificate is checked against. Default: the host of the URI.
        max_redirects: How many redirects to follow, one after the other; 0 for none, which makes a redirect an
            :exc:`InvalidStatus`. Default: 10.
    """

    ssl: ssl_module.SSLContext | None
    server_hostname: str | None
    max_redirects: int


class ConnectOptions(ConnectUnixOptions, total=False):
    """The keyword arguments of :func:`connect`: :class:`ConnectUnixOptions`, and those for TCP and proxies.

    Attributes:
        happy_eyeballs_delay: Seconds after which the next address of the host is tried too. Default: 0.25.
        local_address: The local IP address to connect from. Default: the system chooses one.
        proxy: The proxy to connect through: the URL of one, such as ``"http://proxy.example:3128"``, or a
            :class:`Proxy`. ``"auto"`` for the one that the environment says, as other programs on the machine do: see
            :func:`~trio_ws.client.proxy.find_proxy`. None for no proxy. Default: ``"auto"``.
        proxy_ssl: The TLS context for an ``https://`` proxy. Default: like that of ``ssl``.
    """

    happy_eyeballs_delay: float
    local_address: str | None
    proxy: Proxy | str | None
    proxy_ssl: ssl_module.SSLContext | None
