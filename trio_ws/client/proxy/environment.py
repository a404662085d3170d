"""Proxies from the environment and the system settings: ``find_proxy``."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping

import trio

from ...exceptions import InvalidProxy
from ...uri import ParseError, WebSocketURI, parse_host_and_port
from .values import Proxy, authority, parse_proxy

__all__ = ["find_proxy"]

_BRACKETS = re.compile(r"^\[([^\]]*)\](/[0-9]+)?$")


async def find_proxy(uri: WebSocketURI) -> Proxy | None:
    """Return the proxy to use for a URI, according to the environment variables or the system settings.

    The variables are read like :func:`urllib.request.getproxies` reads them, in lower or upper case. The first one that
    is set counts: for a ``wss`` URI ``wss_proxy``, ``https_proxy``, ``socks_proxy`` or ``all_proxy``; for a ``ws`` URI
    ``ws_proxy``, ``http_proxy``, ``socks_proxy`` or ``all_proxy``. A value without a scheme is an HTTP proxy, but in
    ``socks_proxy`` a SOCKS 5 proxy. ``socks://`` means ``socks5h://``. If no such variable is set, macOS and Windows
    use the system settings.

    Hosts listed in ``no_proxy`` are reached without a proxy. The entries are separated by commas or spaces.
    ``example.org`` also covers its subdomains, and so do ``.example.org`` and ``*.example.org``. ``10.1.2.3``,
    ``fd00::1`` and ``[fd00::1]`` are addresses, ``10.0.0.0/8`` and ``fd00::/8`` networks. ``example.org:81`` and
    ``[fd00::1]:81`` only cover that port, and ``*`` covers all hosts. Malformed entries are ignored. Names are not
    resolved, so networks only cover URIs with an address.

    This machine (``localhost`` and its subdomains, 127.0.0.0/8, ``::1``) is always reached without a proxy, which would
    take these names for itself. So are IPv6 addresses with a zone, which have a meaning on this machine only.

    Cancelling it abandons the thread that reads the system settings.

    Args:
        uri: The URI to connect to.

    Returns:
        The proxy, or None to connect directly.

    Raises:
        InvalidProxy: If the variable or setting does not name a valid proxy.
    """
    if _is_loopback(uri.host) or "%" in uri.host:
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
    from urllib.request import getproxies, getproxies_environment, proxy_bypass

    proxies = getproxies()
    host = uri.host.rstrip(".")
    environment = getproxies_environment()
    if environment:
        is_bypassed = any(_covers(each, host, uri.port) for each in re.split(r"[,\s]+", environment.get("no", "")))
    else:
        # The system settings may list IPv6 addresses with or without brackets.
        is_bypassed = any(map(proxy_bypass, dict.fromkeys((authority(host, uri.port), f"{host}:{uri.port}"))))
    return None if is_bypassed else _choose_proxy(uri, proxies)


def _covers(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of ``no_proxy`` covers a host and port."""
    address = _parse_address(host)
    try:
        # Addresses and networks, with or without brackets.
        network = ipaddress.ip_network(_BRACKETS.sub(r"\1\2", entry), strict=False)
    except ValueError:
        pass
    else:
        return address is not None and address in network
    if entry.startswith(("*.", ".")):
        entry = entry.lstrip("*.")
    try:
        name, only_port = parse_host_and_port(entry, 0)
    except ParseError:
        return False
    if only_port not in (0, port):
        return False
    if name == "*":
        return True
    if address is not None:
        return _parse_address(name) == address
    name = name.rstrip(".")
    return host == name or host.endswith(f".{name}")


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address if a host is one, as IPv4 if it is an IPv4 address in IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


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
    address = _parse_address(host)
    if address is not None:
        return address.is_loopback
    name = host.rstrip(".")
    return name == "localhost" or name.endswith(".localhost")
