"""Helpers for the tests of ``trio_ws.testing``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from trio_ws.testing import (
    Fault,
    FaultyStream,
)

from ..support import (
    PipeStream,
)

settle = wait_all_tasks_blocked


class Canceller(trio.abc.Instrument):
    """Cancels a scope before the n-th step of any task, or after it."""

    def __init__(self, scope: trio.CancelScope, number: int, before: bool) -> None:
        self.scope = scope
        self.left = number
        self.before = before

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0 and self.before:
            self.scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.left == 0 and not self.before:
            self.scope.cancel()


async def cancel_at(number: int, before: bool, call: Callable[[], Awaitable[object]]) -> tuple[bool, bool]:
    """Call a function and cancel it at a point. Return whether it was cancelled, and whether it reached that point."""
    with trio.CancelScope() as scope:
        canceller = Canceller(scope, number, before)
        trio.lowlevel.add_instrument(canceller)
        try:
            await call()
        finally:
            trio.lowlevel.remove_instrument(canceller)
    return scope.cancelled_caught, canceller.left <= 0


async def at_every_point(run: Callable[[int], Awaitable[bool]]) -> int:
    """Call a function with 1, 2, ... until it returns that there is no such point. Return the number of points."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    number = 1
    while await run(number):
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        number += 1
    return number - 1


each_moment = pytest.mark.parametrize("before", [True, False], ids=["before a step", "after a step"])


def log_of(stream: PipeStream) -> bytes:
    """Return the bytes that were written to a stream with a log."""
    assert stream.outgoing.log is not None
    return bytes(stream.outgoing.log)


BEFORE_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)

Way = Literal["sending", "receiving"]


def with_faults(stream: trio.abc.Stream, way: Way, faults: Sequence[Fault]) -> FaultyStream:
    return FaultyStream(stream, sending=faults) if way == "sending" else FaultyStream(stream, receiving=faults)
