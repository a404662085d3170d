"""What a :class:`ReconnectingChannel` is doing: ``ReconnectPhase``, ``ReconnectState``."""

from __future__ import annotations

import enum

import attrs

__all__ = ["ReconnectPhase", "ReconnectState"]


class ReconnectPhase(enum.Enum):
    """What a :class:`ReconnectingChannel` is doing.

    Attributes:
        CONNECTING: It connects, or ``on_connect`` is running.
        OPEN: There is a connection.
        WAITING: It waits before it tries again.
        CLOSED: It has ended, and will not connect again.
    """

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@attrs.frozen
class ReconnectState:
    """What a :class:`ReconnectingChannel` is doing, and why. As a string, it is made for logs.

    Attributes:
        phase: What it is doing.
        attempts: How many times it has tried to connect, the attempt included that is under way.
        error: Why the last connection ended, or could not be made; when it has ended, why. None if nothing has gone
            wrong: there is a connection, or was none before, or you have closed it.
        delay: Seconds from the beginning of the wait to the next attempt; None while it does not wait.
    """

    phase: ReconnectPhase
    attempts: int
    error: BaseException | None = None
    delay: float | None = None

    def __str__(self) -> str:
        if self.phase is ReconnectPhase.WAITING:
            return f"waiting {self.delay:.3g} seconds after attempt {self.attempts}: {_say(self.error)}"
        if self.phase is ReconnectPhase.CLOSED:
            return "closed" if self.error is None else f"closed: {_say(self.error)}"
        return f"{self.phase.value}, attempt {self.attempts}"


def _say(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
