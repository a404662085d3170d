"""The proxy that the environment, or the system, has for a URI: ``find_proxy``."""

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
    if any(proxy_bypass(each) for each in dict.fromkeys((authority(host, uri.port), f"{host}:{uri.port}"))):
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
