"""The checkpoint of every public call: a cancel point each time, a schedule point once in 32 times."""

from __future__ import annotations

from collections.abc import Awaitable

from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from .run_local import RunLocal

__all__ = ["CALLS_PER_SCHEDULE_POINT", "CallCounter", "call_counter"]

#: A call lets other tasks run at least once in so many calls.
CALLS_PER_SCHEDULE_POINT = 32


class CallCounter:
    """Counts calls since other tasks could run.

    They are counted per run of Trio, not per connection, so that a task that goes round many connections lets others
    run too.
    """

    def __init__(self) -> None:
        self._calls = 0

    def checkpoint(self) -> Awaitable[None]:
        """Return the awaitable for the beginning of a call."""
        self._calls += 1
        if self._calls < CALLS_PER_SCHEDULE_POINT:
            return checkpoint_if_cancelled()  # noqa: ASYNC105  # the caller does
        self._calls = 0
        return checkpoint()  # noqa: ASYNC105  # the caller does


#: The counter of this run of Trio.
call_counter: RunLocal[CallCounter] = RunLocal(CallCounter)
