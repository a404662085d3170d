"""Limits on connections and messages: ``Limits``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

from ..connection.limits import NO_LIMITS, ConnectionLimits, NoLimits

__all__ = ["AddressSlot", "Limits"]


def _limit(default: float | None, *, whole: bool) -> Any:
    kind = "a whole number" if whole else "a number"

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TypeError(f"{attribute.name} is {kind} or None, not {value!r}")
        if not value > 0:
            raise ValueError(f"{attribute.name} is more than 0, not {value!r}")

    return attrs.field(default=default, validator=check)


@attrs.frozen(kw_only=True)
class Limits:
    """How much a server takes on. None stands for no limit.

    Connections above a limit are answered with 503 (service unavailable) and Retry-After, or closed at once where that
    would be too much, too. What a single connection may do is limited by :class:`Options`, such as
    ``max_message_size``; the head of a request by 32 KiB and 128 headers, which is answered with 431.

    Attributes:
        connections: Connections in all, those in the opening handshake included. Default: 10,000.
        per_address: Connections from one IP address. Default: None, as all that come through a proxy come from one,
            unless ``trusted_proxies`` or ``proxy_protocol`` of :func:`serve` let it say whose they are.
        openings: Opening handshakes in progress. Default: 1,000.
        messages_per_second: Messages that a client may send per second, on average; in a second it may send as many at
            once. One that sends more is closed with 1008. Default: None.
        idle: Seconds without a message in either direction after which a connection is closed with 1001. Default: None.
        lifetime: Seconds after which a connection is closed with 1001. Default: None.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if it is not more than 0.
    """

    connections: int | None = _limit(10_000, whole=True)
    per_address: int | None = _limit(None, whole=True)
    openings: int | None = _limit(1_000, whole=True)
    messages_per_second: float | None = _limit(None, whole=False)
    idle: float | None = _limit(None, whole=False)
    lifetime: float | None = _limit(None, whole=False)

    def for_connection(self) -> NoLimits:
        """Return the limits of a new connection."""
        if self.messages_per_second is None and self.idle is None and self.lifetime is None:
            return NO_LIMITS
        return ConnectionLimits(self.messages_per_second, self.idle, self.lifetime)


class AddressSlot:
    """One connection's share of :attr:`Limits.per_address`.

    Args:
        by_address: How many connections there are from each address.
        limit: How many there may be; None for any number.
    """

    __slots__ = ("_by_address", "_host", "_limit")

    def __init__(self, by_address: Counter[str], limit: int | None) -> None:
        self._by_address = by_address
        self._limit = limit
        self._host = ""

    def take(self, address: Any) -> str | None:
        """Take a slot at an address, and leave the one before. Return why there is none; None if there is one.

        What has no IP address, such as a Unix socket, is not counted.
        """
        host = str(address[0]) if isinstance(address, tuple) else ""
        if host == self._host:
            return None
        self.leave()
        if not host:
            return None
        if self._limit is not None and self._by_address[host] >= self._limit:
            return f"there are {self._by_address[host]} connections from its address"
        self._by_address[host] += 1
        self._host = host
        return None

    def leave(self) -> None:
        """Give the slot back. Idempotent."""
        if self._host:
            self._by_address[self._host] -= 1
            if not self._by_address[self._host]:
                del self._by_address[self._host]
            self._host = ""
