"""The proxies that a server trusts: ``Forwarding``."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

__all__ = ["Forwarding", "TrustedProxies", "to_ip"]

IPAddress: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_IPNetwork: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

#: Proxies: IP addresses, networks, and ``"unix"`` for all that connect through a Unix socket.
TrustedProxies: TypeAlias = (
    "Sequence[str | ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network]"
)

UNIX = "unix"


def _to_proxies(proxies: TrustedProxies) -> tuple[_IPNetwork | str, ...]:
    if isinstance(proxies, (str, bytes)):
        raise TypeError(f"trusted_proxies is a sequence of addresses, not {proxies!r}")
    return tuple(_to_network(proxy) for proxy in proxies)


def _to_network(proxy: object) -> _IPNetwork | str:
    if proxy == UNIX:
        return UNIX
    if not isinstance(proxy, (str, *_IP_TYPES)):
        raise TypeError(f"a proxy is an IP address, a network or {UNIX!r}, not {proxy!r}")
    network = ipaddress.ip_network(proxy)
    # Addresses of IPv4 in those of IPv6 are not looked at as such, see to_ip().
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


_IP_TYPES = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)


def to_ip(text: str) -> IPAddress | None:
    """Return an IP address, that of IPv4 if it stands for one; None if it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


@attrs.frozen(kw_only=True)
class Forwarding:
    """Which proxies a server is behind: see :func:`serve`.

    Raises:
        TypeError: if ``trusted_proxies`` is no sequence of such things, or ``proxy_protocol`` no bool.
        ValueError: if a string is no IP address, and no network.
    """

    trusted_proxies: tuple[_IPNetwork | str, ...] = attrs.field(default=(), converter=_to_proxies)
    proxy_protocol: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))

    def trusts(self, address: Any) -> bool:
        """Whether an address, in the form that a socket gives it, is that of a trusted proxy."""
        if not self.trusted_proxies:
            return False
        if isinstance(address, (str, bytes)):
            return UNIX in self.trusted_proxies
        ip = to_ip(str(address[0]).partition("%")[0]) if isinstance(address, tuple) else None
        return ip is not None and any(not isinstance(each, str) and ip in each for each in self.trusted_proxies)
