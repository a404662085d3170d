"""The state of a :class:`ReconnectingChannel`: ``ReconnectPhase``, ``ReconnectState``."""

from __future__ import annotations

import enum

import attrs

from ...exceptions.shown import show_fields

__all__ = ["ReconnectPhase", "ReconnectState"]


class ReconnectPhase(enum.Enum):
    """The phases of a :class:`ReconnectingChannel`.

    Attributes:
        CONNECTING: The channel is connecting, or ``on_connect`` is running.
        OPEN: The channel has a connection.
        WAITING: The channel waits before the next attempt.
        CLOSED: The channel has ended and will not connect again.
    """

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@attrs.frozen
class ReconnectState:
    """The state of a :class:`ReconnectingChannel`. Its ``str()`` is meant for logs.

    Attributes:
        phase: The phase.
        attempts: The number of attempts to connect so far, including the current one.
        error: The exception of the last failed attempt or lost connection, or the one that ended the channel. None in
            the phase OPEN, during the first attempt, and if you have closed the channel.
        delay: Seconds from the beginning of the wait to the next attempt; None in other phases than WAITING.
    """

    phase: ReconnectPhase
    attempts: int
    error: BaseException | None = None
    delay: float | None = None

    __repr__ = show_fields

    def __str__(self) -> str:
        if self.phase is ReconnectPhase.WAITING:
            return f"waiting {self.delay:.3g} seconds after attempt {self.attempts}: {_describe(self.error)}"
        if self.phase is ReconnectPhase.CLOSED:
            return "closed" if self.error is None else f"closed: {_describe(self.error)}"
        return f"{self.phase.value}, attempt {self.attempts}"


def _describe(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
