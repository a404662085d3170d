"""The nursery of a connection, which lives as long as an ``async with`` block, or a task of its own."""

from __future__ import annotations

import sys
from types import TracebackType

import trio

from ..frames import CloseCode
from .reader import run
from .websocket import WebSocket, connection_of
from .writer import write

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Session", "close_after", "code_after", "run_until_closed"]


class Session:
    """Runs the tasks of a connection during a block: ``async with Session(ws):``.

    Leaving the block closes the connection, with or without an exception. The exception of the block propagates
    unchanged. This is a class because an async generator must not hold a nursery across a ``yield``. It enters and
    exits the nursery by hand because the nursery would wrap the exception of the block in an ExceptionGroup.

    Args:
        ws: The WebSocket.
    """

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> WebSocket:
        self._nursery = await self._manager.__aenter__()
        _start_tasks(self._nursery, self._ws)
        return self._ws

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        nurseries = trio.lowlevel.current_task().child_nurseries
        if not nurseries or nurseries[-1] is not self._nursery:
            connection_of(self._ws).cancel_tasks()
            raise RuntimeError(
                "a WebSocket must be left in the task that entered it, after everything that was entered later"
            )
        try:
            await close_after(self._ws, exc)
        finally:
            # All tasks have ended, so this does not wait.
            connection_of(self._ws).nursery = None
            await self._manager.__aexit__(None, None, None)


@trio.lowlevel.enable_ki_protection
async def run_until_closed(ws: WebSocket) -> None:
    """Run a connection until it is closed, by whichever end. Never raises, except for cancellation.

    A connection that ends by itself is not closed by this end, as a :class:`Session` would do: the user learns how it
    ended, and can still receive the messages that arrived before. If cancelled, it closes the connection with 1001 and
    does not wait for the peer.
    """
    async with trio.open_nursery() as nursery:
        _start_tasks(nursery, ws)
        try:
            await ws.wait_closed()
        except trio.Cancelled:
            await ws.aclose(CloseCode.GOING_AWAY)  # it is cancelled, too, so it does not wait
            raise
        finally:
            connection_of(ws).nursery = None


def _start_tasks(nursery: trio.Nursery, ws: WebSocket) -> None:
    connection = connection_of(ws)
    connection.nursery = nursery
    connection.stream.start(nursery)
    nursery.start_soon(run, connection)
    nursery.start_soon(write, connection)
    connection.observer.open(ws, connection.inbox, connection.outbox)


async def close_after(ws: WebSocket, exc: BaseException | None) -> None:
    """Close a WebSocket when its block has ended, with an exception or without."""
    code = code_after(exc)
    try:
        if code == CloseCode.GOING_AWAY:
            with trio.CancelScope() as scope:
                scope.cancel()  # an interrupted block must not wait for the peer
                await ws.aclose(code)
        else:
            await ws.aclose(code)
    except trio.Cancelled:
        if exc is None:
            raise
        # The exception of the block propagates. The next checkpoint raises the cancellation again.


def code_after(exc: BaseException | None) -> CloseCode:
    """Return the close code after a block that raised ``exc``, or None."""
    if exc is None:
        return CloseCode.NORMAL_CLOSURE
    return CloseCode.GOING_AWAY if _is_interrupted(exc) else CloseCode.INTERNAL_ERROR


def _is_interrupted(exc: BaseException) -> bool:
    """Whether an exception is or contains a cancellation, KeyboardInterrupt or SystemExit."""
    if isinstance(exc, BaseExceptionGroup):
        return any(_is_interrupted(each) for each in exc.exceptions)
    return isinstance(exc, (trio.Cancelled, KeyboardInterrupt, SystemExit))
