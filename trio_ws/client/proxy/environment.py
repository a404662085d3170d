"""Proxies from the environment and the system settings: ``find_proxy``."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping

import trio

from ...exceptions import InvalidProxy
from ...uri import WebSocketURI
from .values import Proxy, authority, parse_proxy

__all__ = ["find_proxy"]


async def find_proxy(uri: WebSocketURI) -> Proxy | None:
    """Return the proxy to use for a URI, according to the environment variables or the system settings.

    The variables are read like :func:`urllib.request.getproxies` reads them, in lower or upper case. The first one that
    is set counts: for a ``wss`` URI ``wss_proxy``, ``https_proxy``, ``socks_proxy`` or ``all_proxy``; for a ``ws`` URI
    ``ws_proxy``, ``http_proxy``, ``socks_proxy`` or ``all_proxy``. A value without a scheme is an HTTP proxy, but in
    ``socks_proxy`` a SOCKS 5 proxy. ``socks://`` means ``socks5h://``. If no such variable is set, macOS and Windows
    use the system settings.

    Hosts listed in ``no_proxy`` are reached without a proxy. The list is comma-separated: ``example.org`` also covers
    its subdomains, ``example.org:81`` only that port, and ``*`` all hosts. This machine (``localhost`` and its
    subdomains, 127.0.0.0/8, ``::1``) is always reached without a proxy, which would take these names for itself.

    Cancelling it abandons the thread that reads the system settings.

    Args:
        uri: The URI to connect to.

    Returns:
        The proxy, or None to connect directly.

    Raises:
        InvalidProxy: If the variable or setting does not name a valid proxy.
    """
    if _is_loopback(uri.host):
        return None
    use_system_settings = sys.platform in ("win32", "darwin")
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        # In this most common case, save importing urllib.request, which takes longer than importing all of trio_ws.
        if not use_system_settings:
            return None
    else:
        from urllib.request import getproxies_environment

        use_system_settings = use_system_settings and not getproxies_environment()
    if use_system_settings:
        # proxy_bypass() may resolve host names, which blocks.
        return await trio.to_thread.run_sync(_find_proxy, uri, abandon_on_cancel=True)
    return _find_proxy(uri)


def _find_proxy(uri: WebSocketURI) -> Proxy | None:
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    # Entries of no_proxy have no trailing dot. Users write IPv6 addresses with or without brackets.
    host = uri.host.rstrip(".")
    if any(proxy_bypass(each) for each in dict.fromkeys((authority(host, uri.port), f"{host}:{uri.port}"))):
        return None
    return _choose_proxy(uri, proxies)


def _choose_proxy(uri: WebSocketURI, proxies: Mapping[str, str]) -> Proxy | None:
    for name in (*(("wss", "https") if uri.secure else ("ws", "http")), "socks", "all"):
        url = proxies.get(name, "").strip()
        if not url:
            continue
        scheme, separator, rest = url.partition("://")
        if not separator:
            scheme, rest = "http", url
        # macOS settings say "http://" for a SOCKS proxy too.
        if scheme.lower() == "socks" or (name == "socks" and scheme.lower() == "http"):
            scheme = "socks5h"
        try:
            return parse_proxy(f"{scheme}://{rest}")
        except InvalidProxy as exc:
            raise InvalidProxy(exc.proxy, f"{exc.reason} (set as {name}_proxy)") from None
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
