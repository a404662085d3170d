"""The checkpoint at the start of every public call: always a cancel point, and every 32nd time a schedule point."""

from __future__ import annotations

from collections.abc import Awaitable

from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from .run_local import RunLocal

__all__ = ["CALLS_PER_SCHEDULE_POINT", "CallCounter", "call_counter"]

#: One call in this many is a schedule point even if it does not wait.
CALLS_PER_SCHEDULE_POINT = 32


class CallCounter:
    """Counts the calls since the last schedule point.

    It counts per run of Trio, not per connection, so a task that loops over many connections lets others run, too.
    """

    def __init__(self) -> None:
        self._calls = 0

    def checkpoint(self) -> Awaitable[None]:
        """Return the awaitable with which a call must begin."""
        self._calls += 1
        if self._calls < CALLS_PER_SCHEDULE_POINT:
            return checkpoint_if_cancelled()  # noqa: ASYNC105  # the caller awaits it
        self._calls = 0
        return checkpoint()  # noqa: ASYNC105  # the caller awaits it


#: The counter of this run of Trio.
call_counter: RunLocal[CallCounter] = RunLocal(CallCounter)
