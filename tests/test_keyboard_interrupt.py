"""Ctrl-C at each line of the code that enters or leaves a block: the program ends, and with nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.client.backoff import leaves
from trio_ws.hub.memory import MemoryBackend
from trio_ws.testing import memory_websocket_pair

from .support import echo

#: The functions at whose lines Ctrl-C is pressed, if they are of the package.
FUNCTIONS = {"__aenter__", "__aexit__", "aclose", "close_after", "_close_nursery"}

Make = Callable[[trio.Nursery], AbstractAsyncContextManager[Any]]


def connect(nursery: trio.Nursery) -> trio_ws.Connecting:
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(trio_ws.serve_over, server, echo)
    return trio_ws.connect_over(client, "ws://memory/")


@asynccontextmanager
async def attempt(nursery: trio.Nursery) -> AsyncIterator[trio_ws.WebSocket]:
    async for attempt in trio_ws.attempts(lambda: connect(nursery)):
        async with attempt as ws:
            yield ws


def reconnect(nursery: trio.Nursery) -> trio_ws.ReconnectingChannel:
    return trio_ws.open_reconnecting(lambda: connect(nursery))


BLOCKS: dict[str, Make] = {
    "connect": connect,
    "attempts": attempt,
    "open_reconnecting": reconnect,
    "memory_websocket_pair": lambda _: memory_websocket_pair(),
    "memory_websocket_pair with a handshake": lambda _: memory_websocket_pair(handshake=True),
    "back end": lambda _: MemoryBackend(),
    "HTTP2Pool": lambda _: trio_ws.HTTP2Pool(),
}


class Interrupter:
    """Presses Ctrl-C before the n-th line."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.place: str | None = None

    def trace(self, frame: Any, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_name not in FUNCTIONS or "trio_ws" not in code.co_filename or self.place is not None:
            return None
        if event == "line":
            self._left -= 1
            if not self._left:
                self.place = f"{code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self.trace


@contextmanager
def tracing(trace: Callable[[Any, str, object], Any]) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def run_and_catch(main: Callable[[], Awaitable[None]]) -> set[type[BaseException]]:
    """Run a program, and return the types of the exceptions with which it ends."""
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as exc:  # KeyboardInterrupt is one; the caller checks that there is no other type
        return {type(leaf) for leaf in leaves(exc)}
    return set()


@pytest.mark.parametrize("name", BLOCKS)
def test_ctrl_c_at_each_line(name: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with tracing(interrupter.trace):
                async with BLOCKS[name](nursery):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    places: list[str] = []
    while True:
        interrupter = Interrupter(len(places) + 1)
        caught = run_and_catch(main)
        if interrupter.place is None:
            break
        assert caught == {KeyboardInterrupt}, interrupter.place
        places.append(interrupter.place)
    assert caught == set()
    assert len(places) > 4
