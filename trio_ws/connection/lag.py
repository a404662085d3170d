"""The lag: how long messages from :func:`~trio_ws.broadcast` wait in an outbox.

No task waits with such a message, so a timer must find out that its peer is too slow. Each message may wait
``max_lag`` seconds until its write starts. After that, it is late only if the peer has accepted none of it for that
long: a write that makes progress is not late, however long it takes.

The peer is not to blame for time in which this end had nothing to write, or in which the whole process was blocked. A
timer that fires late reveals such a delay. So there are several checks while a message waits, and only a check can
declare it late, not the next call of ``broadcast()``.

Messages are numbered in the order in which they are written. One :class:`_Group` stands for all messages that are
posted in a row within a tenth of a second, so a burst takes little memory here.
"""

from __future__ import annotations

import math

import attrs
import trio

__all__ = ["Lag", "PostLimits"]

#: The number of groups per second, at most. Their times are rounded up to a multiple of the inverse.
_GROUPS_PER_SECOND = 10

#: The longest interval between two checks while a message waits, as a fraction of ``max_lag``.
_CHECK_INTERVAL = 1 / 4

#: The delay of a check that means that the process was blocked, as a fraction of ``max_lag``.
_BLOCKED_DELAY = 1 / 10


@attrs.frozen(repr=False)
class PostLimits:
    """The limits beyond which a peer is too slow for a posted message.

    Attributes:
        max_backlog: Memory of the messages that may wait for the peer, in bytes; infinite for no limit.
        max_lag: Seconds that the message may wait; infinite for no limit.
        drops: Whether to close the connection when the message has waited too long.
    """

    max_backlog: float
    max_lag: float
    drops: bool


class _Group:
    """Messages that were posted at about the same time.

    Attributes:
        last: The number of the last message; infinite while they are held and have no numbers.
        posted_at: The time at which the last message was posted, rounded up.
        limits: Their limits.
        is_late: Whether one of the messages has waited too long.
    """

    __slots__ = ("is_late", "last", "limits", "posted_at")

    def __init__(self, last: float, posted_at: float, limits: PostLimits) -> None:
        self.last = last
        self.posted_at = posted_at
        self.limits = limits
        self.is_late = False


class Lag:
    """The waiting times of the posted messages of one connection.

    Attributes:
        timer_scope: The cancel scope of the timer task while it sleeps. Its deadline is the time of the next check.
            None while there is no such task.
        resumed_at: The end of the last delay at this end. Waiting times start then at the earliest.
    """

    def __init__(self) -> None:
        self._groups: list[_Group] = []
        self.timer_scope: trio.CancelScope | None = None
        self.resumed_at: float = -math.inf

    @property
    def needs_timer(self) -> bool:
        """Whether the timer task must be started."""
        return self.timer_scope is None and bool(self._groups)

    @property
    def is_exceeded(self) -> bool:
        """Whether a message that still waits has waited too long."""
        return any(group.is_late for group in self._groups)

    def record_posted(self, number: float, limits: PostLimits) -> None:
        """Record that a message was posted.

        Args:
            number: Its number; infinite if it is held, and gets its number from :meth:`record_released`.
            limits: Its limits.
        """
        if limits.max_lag == math.inf:
            return
        now = math.ceil(trio.current_time() * _GROUPS_PER_SECOND) / _GROUPS_PER_SECOND
        group = self._groups[-1] if self._groups else None
        if (
            group is not None
            and (group.posted_at, group.limits) == (now, limits)
            and (group.last == math.inf) == (number == math.inf)
        ):
            group.last = number
        else:
            self._groups.append(_Group(number, now, limits))
        if self.timer_scope is not None:
            self.timer_scope.deadline = min(self.timer_scope.deadline, now + limits.max_lag * _CHECK_INTERVAL)

    def record_released(self, number: int) -> None:
        """Record that the held messages are in the channel now, and that the last of them has this number."""
        for group in self._groups:
            group.last = min(group.last, number)

    def record_written(self, number: float) -> None:
        """Forget the messages up to this number, because they are written."""
        if self._groups:
            self._groups = [group for group in self._groups if group.last > number]

    def stop(self) -> None:
        """Forget all messages and end the timer task."""
        self._groups.clear()
        if self.timer_scope is not None:
            self.timer_scope.cancel()

    def find_next_check(self, last_taken: int, progress_at: float, is_idle: bool) -> float:
        """Return the time of the next check; infinite if no message waits, apart from late ones.

        Args:
            last_taken: The number of the last message that is being written.
            progress_at: The time at which the stream last accepted a part of an unfinished write.
            is_idle: Whether the peer has nothing to read, so that only held messages wait.
        """
        now = trio.current_time()
        checks = [
            min(self._deadline(group, last_taken, progress_at, is_idle), now + group.limits.max_lag * _CHECK_INTERVAL)
            for group in self._groups
            if not group.is_late
        ]
        return min(checks, default=math.inf)

    def check(self, delay: float, last_taken: int, progress_at: float, is_idle: bool) -> PostLimits | None:
        """Find the messages that have waited too long.

        Args:
            delay: Seconds by which this check is late.
            last_taken: As for :meth:`find_next_check`.
            progress_at: As for :meth:`find_next_check`.
            is_idle: As for :meth:`find_next_check`.

        Returns:
            The limits of a late message because of which the connection must be dropped; None if there is none.
        """
        now = trio.current_time()
        if any(delay > group.limits.max_lag * _BLOCKED_DELAY for group in self._groups):
            self.resumed_at = now
        for group in self._groups:
            group.is_late = group.is_late or self._deadline(group, last_taken, progress_at, is_idle) <= now
        return next((group.limits for group in self._groups if group.is_late and group.limits.drops), None)

    def _deadline(self, group: _Group, last_taken: int, progress_at: float, is_idle: bool) -> float:
        since = trio.current_time() if is_idle else max(group.posted_at, self.resumed_at)
        if group.last <= last_taken:
            since = max(since, progress_at)
        return since + group.limits.max_lag
