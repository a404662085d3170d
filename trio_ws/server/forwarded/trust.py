"""The trusted proxies of a server: ``Forwarding``."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from ...misuse import values
from ...misuse.values import to_tuple

__all__ = ["Forwarding", "TrustedProxies", "to_ip"]

IPAddress: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_IPNetwork: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

#: IP addresses and networks of proxies, and ``"unix"`` for everything that connects through a Unix socket.
TrustedProxies: TypeAlias = (
    "Sequence[str | ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network]"
)

UNIX = "unix"

_EXPECTED = f"an IP address, a network or {UNIX!r}"


def _to_proxies(proxies: TrustedProxies) -> tuple[_IPNetwork | str, ...]:
    return tuple(_to_network(proxy) for proxy in to_tuple("trusted_proxies", proxies, "a sequence of addresses"))


def _to_network(proxy: object) -> _IPNetwork | str:
    if proxy == UNIX:
        return UNIX
    if not isinstance(proxy, (str, *_IP_TYPES)):
        raise TypeError(f"each of trusted_proxies must be {_EXPECTED}, not {proxy!r}")
    try:
        network = ipaddress.ip_network(proxy)
    except ValueError as exc:
        raise ValueError(f"each of trusted_proxies must be {_EXPECTED}, not {proxy!r}: {exc}") from None
    # to_ip() converts IPv4-mapped IPv6 addresses to IPv4, so networks of them must be IPv4 too.
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


_IP_TYPES = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)


def to_ip(text: str) -> IPAddress | None:
    """Parse an IP address. Return IPv4 for an IPv4-mapped IPv6 address, and None for text that is not an address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Forwarding:
    """The options about proxies, validated. :class:`ServeOptions` describes them.

    Raises:
        TypeError: If ``trusted_proxies`` is not a sequence of addresses and networks, or ``proxy_protocol`` not a bool.
        ValueError: If a string is neither an IP address nor a network.
    """

    trusted_proxies: tuple[_IPNetwork | str, ...] = attrs.field(default=(), converter=_to_proxies)
    proxy_protocol: bool = attrs.field(default=False, validator=values.flag)

    def trusts(self, address: Any) -> bool:
        """Whether an address, as ``getpeername`` returns it, belongs to a trusted proxy."""
        if not self.trusted_proxies:
            return False
        if isinstance(address, (str, bytes)):
            return UNIX in self.trusted_proxies
        ip = to_ip(str(address[0]).partition("%")[0]) if isinstance(address, tuple) else None
        return ip is not None and any(not isinstance(each, str) and ip in each for each in self.trusted_proxies)
