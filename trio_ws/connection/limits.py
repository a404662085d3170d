"""Limits that a server sets for a connection: message rate, idle time and lifetime."""

from __future__ import annotations

import math

import trio

from ..exceptions import TooManyMessages

__all__ = ["NO_LIMITS", "ConnectionLimits", "NoLimits", "RateLimiter"]


class RateLimiter:
    """So many messages per second on average, and as many at once.

    Args:
        limit: How many.
    """

    def __init__(self, limit: float) -> None:
        self.limit: float = limit
        self._left = max(limit, 1.0)
        self._at = trio.current_time()

    def take(self, count: int) -> bool:
        """Count messages. Return whether they are within the limit."""
        now = trio.current_time()
        self._left = min(max(self.limit, 1.0), self._left + (now - self._at) * self.limit) - count
        self._at = now
        return self._left >= 0


class NoLimits:
    """No limits: what a connection has unless a server says otherwise."""

    def check_received(self, count: int) -> TooManyMessages | None:
        """Count messages that came in. Return the violation if they are too many."""
        return None

    def note_sent(self) -> None:
        """Record that a message has gone out."""

    def due(self) -> float:
        """Return when :meth:`expired` should be asked next."""
        return math.inf

    def expired(self) -> str | None:
        """Return the reason to close the connection now, if there is one."""
        return None


NO_LIMITS: NoLimits = NoLimits()


class ConnectionLimits(NoLimits):
    """The limits of one connection, from now on; see :class:`trio_ws.Limits`.

    Args:
        messages_per_second: Messages that the peer may send per second; None for any number.
        idle: Seconds without a message after which the connection is closed; None for never.
        lifetime: Seconds after which the connection is closed; None for never.
    """

    def __init__(self, messages_per_second: float | None, idle: float | None, lifetime: float | None) -> None:
        now = trio.current_time()
        self._rate = None if messages_per_second is None else RateLimiter(messages_per_second)
        self._idle = math.inf if idle is None else idle
        self._expires_at = math.inf if lifetime is None else now + lifetime
        # When the last message came or went.
        self._active_at = now

    def check_received(self, count: int) -> TooManyMessages | None:
        """Count messages that came in. Return the violation if they are too many."""
        self._active_at = trio.current_time()
        if self._rate is None or self._rate.take(count):
            return None
        return TooManyMessages(self._rate.limit)

    def note_sent(self) -> None:
        """Record that a message has gone out."""
        self._active_at = trio.current_time()

    def due(self) -> float:
        """Return when :meth:`expired` should be asked next."""
        return min(self._active_at + self._idle, self._expires_at)

    def expired(self) -> str | None:
        """Return the reason to close the connection now, if there is one."""
        now = trio.current_time()
        if now >= self._active_at + self._idle:
            return "idle for too long"
        return "open for too long" if now >= self._expires_at else None
