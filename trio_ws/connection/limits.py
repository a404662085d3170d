"""Limits that a server sets for a connection: message rate, idle time and lifetime."""

from __future__ import annotations

import math

import trio

from ..exceptions import TooManyMessages
from ..protocol import LastPart, Message

__all__ = ["NO_LIMITS", "ConnectionLimits", "NoLimits", "RateLimiter"]


class RateLimiter:
    """A token bucket: ``limit`` frames per second on average, and a burst of as many, but at least one.

    Args:
        limit: Frames per second.
    """

    def __init__(self, limit: float) -> None:
        self.limit: float = limit
        self._tokens = max(limit, 1.0)
        self._updated_at = trio.current_time()

    def take(self, count: int) -> int:
        """Count frames. Return how many of them are beyond the limit."""
        now = trio.current_time()
        self._tokens = min(max(self.limit, 1.0), self._tokens + (now - self._updated_at) * self.limit) - count
        self._updated_at = now
        return max(0, math.ceil(-self._tokens))


class NoLimits:
    """No limits: the default, and always used by clients."""

    def record_received(self) -> None:
        """Record that a message was received."""

    def check_frames(self, count: int, items: list[Message | LastPart]) -> TooManyMessages | None:
        """Count received frames. If there are too many, remove messages, and return the violation.

        Args:
            count: The number of frames.
            items: The messages among them, in order.
        """
        return None

    def record_sent(self) -> None:
        """Record that a message was sent."""

    def deadline(self) -> float:
        """Return the earliest time at which :meth:`expiry_reason` can return a reason."""
        return math.inf

    def expiry_reason(self) -> str | None:
        """Return the close reason if the connection must be closed now, and None otherwise."""
        return None


NO_LIMITS: NoLimits = NoLimits()


class ConnectionLimits(NoLimits):
    """The limits of one connection, which starts now; see :class:`trio_ws.Limits`.

    Args:
        messages_per_second: Frames that the peer may send per second; None for no limit.
        idle: Seconds without a message after which the connection is closed; None for no limit.
        lifetime: Seconds after which the connection is closed; None for no limit.
    """

    def __init__(self, messages_per_second: float | None, idle: float | None, lifetime: float | None) -> None:
        now = trio.current_time()
        self._rate = None if messages_per_second is None else RateLimiter(messages_per_second)
        self._idle = math.inf if idle is None else idle
        self._expires_at = math.inf if lifetime is None else now + lifetime
        # The time of the last message in either direction.
        self._active_at = now

    def record_received(self) -> None:
        """Record that a message was received."""
        self._active_at = trio.current_time()

    def check_frames(self, count: int, items: list[Message | LastPart]) -> TooManyMessages | None:
        """Count received frames. If there are too many, remove messages, and return the violation."""
        excess = 0 if self._rate is None else self._rate.take(count)
        if self._rate is None or not excess:
            return None
        del items[max(len(items) - excess, 0) :]
        return TooManyMessages(self._rate.limit)

    def record_sent(self) -> None:
        """Record that a message was sent."""
        self._active_at = trio.current_time()

    def deadline(self) -> float:
        """Return the earliest time at which :meth:`expiry_reason` can return a reason."""
        return min(self._active_at + self._idle, self._expires_at)

    def expiry_reason(self) -> str | None:
        """Return the close reason if the connection must be closed now, and None otherwise."""
        now = trio.current_time()
        if now >= self._active_at + self._idle:
            return "idle for too long"
        return "open for too long" if now >= self._expires_at else None
