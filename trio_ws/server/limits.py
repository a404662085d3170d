"""Limits on connections and messages: ``Limits``."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

from ..connection.limits import NO_LIMITS, ConnectionLimits, NoLimits
from ..exceptions.shown import show_fields

__all__ = ["AddressSlot", "Limits"]


def _limit(default: float | None, *, whole: bool) -> Any:
    kind = "a whole number" if whole else "a number"

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TypeError(f"{attribute.name} must be {kind} or None, not {value!r}")
        if not value > 0:
            raise ValueError(f"{attribute.name} must be greater than 0, not {value!r}")

    return attrs.field(default=default, validator=check)


@attrs.frozen(kw_only=True)
class Limits:
    """Limits on the connections of a server. None means no limit.

    When a limit on connections or opening handshakes is reached, the oldest connection that waits for its client gives
    way to a new one. It gets 503 (Service Unavailable) with Retry-After if its request is incomplete. If there is no
    such connection, the new one gets that response. It may be closed without a response if the server uses TLS or is
    rejecting many others.

    Further limits of a single connection, such as ``max_message_size``, ``max_fragments`` and ``max_head_size``,
    are among the :class:`Options`.

    Attributes:
        connections: Total connections, including those in the opening handshake. Default: 10,000.
        per_address: Connections from one IP address. Default: None, because all connections through a proxy come from
            the proxy's address, unless ``trusted_proxies`` or ``proxy_protocol`` of :func:`serve` is set.
        openings: Opening handshakes in progress, without connections that may send another plain HTTP request after one
            that was answered. Default: 1,000.
        streams: Streams of an HTTP/2 connection: WebSockets and requests. Further streams are refused. For the limits
            above, each stream counts as a connection, and an HTTP/2 connection without streams as one. Default: 1,000.
        messages_per_second: Messages that a client may send per second on average. It may send one second's worth in a
            burst. A client that sends more is closed with 1008 (policy violation). Every frame counts as a message:
            each fragment, each ping, and each pong that does not answer a ping. A Close frame does not count.
            Default: None.
        idle: Seconds without a message in either direction after which a connection is closed with 1001. Default: None.
        lifetime: Seconds after which a connection is closed with 1001. Default: None.

    Raises:
        TypeError: If a limit is not a number or None. The first four must be whole numbers.
        ValueError: If a limit is not greater than 0.
    """

    connections: int | None = _limit(10_000, whole=True)
    per_address: int | None = _limit(None, whole=True)
    openings: int | None = _limit(1_000, whole=True)
    streams: int | None = _limit(1_000, whole=True)
    messages_per_second: float | None = _limit(None, whole=False)
    idle: float | None = _limit(None, whole=False)
    lifetime: float | None = _limit(None, whole=False)

    __repr__ = show_fields

    def for_connection(self) -> NoLimits:
        """Return the limits of a new connection. Its idle time and lifetime start now."""
        if self.messages_per_second is None and self.idle is None and self.lifetime is None:
            return NO_LIMITS
        return ConnectionLimits(self.messages_per_second, self.idle, self.lifetime)


class AddressSlot:
    """One connection's share of :attr:`Limits.per_address`.

    Args:
        by_address: The number of connections from each address, shared by all slots of a server.
        limit: The most connections that one address may have; None for no limit.
    """

    __slots__ = ("_by_address", "_host", "_limit")

    def __init__(self, by_address: Counter[str], limit: int | None) -> None:
        self._by_address = by_address
        self._limit = limit
        self._host = ""

    def acquire(self, address: Any) -> str | None:
        """Acquire a slot for an address, and release the previous one.

        Peers without an IP address, such as those on Unix sockets, are not counted.

        Returns:
            The reason, as text for the log, if the limit is reached; None on success.
        """
        host = str(address[0]) if isinstance(address, tuple) else ""
        if host == self._host:
            return None
        self.release()
        if not host:
            return None
        if self._limit is not None and self._by_address[host] >= self._limit:
            return f"the limit of {self._limit} connections per address is reached"
        self._by_address[host] += 1
        self._host = host
        return None

    def release(self) -> None:
        """Release the slot. Idempotent."""
        if self._host:
            self._by_address[self._host] -= 1
            if not self._by_address[self._host]:
                del self._by_address[self._host]
            self._host = ""
