"""The background task of a :class:`ReconnectingChannel`: ``Supervisor``."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from sys import getsizeof
from types import TracebackType

import trio

from ...connection.core import GRACE
from ...connection.state import Phase
from ...connection.websocket import WebSocket, connection_of
from ...exceptions import ConnectionClosedLocally, ConnectionClosedOK, OpenTimeout
from ...misuse.usage import call_async
from ...protocol import Message
from ..backoff import Retries
from ..connector import Connector
from .state import ReconnectPhase, ReconnectState

__all__ = ["Supervisor"]


class Supervisor:
    """Connects, and reconnects when the connection is lost. The channel reads its attributes.

    Args:
        connector: Creates the connections.
        retries: Decides when to connect again.
        on_connect: See :func:`open_reconnecting`.

    Attributes:
        scope: The cancel scope around :meth:`run`.
        state_changed: The parking lot where senders, receivers and watchers wait for the next state.
        state: The state of the channel.
        ws: The connection that users can see; None while there is none.
        attempt_ws: The connection of this attempt, also while ``on_connect`` runs and while it closes.
        backlog: The unreceived messages of connections that have ended.
        outcome: The exception that calls raise after the channel has ended; None before that.
        traceback: The traceback of the outcome.
        is_clean: Whether the outcome is a normal end.
        closing: Whether the user has closed the channel.
        done: Set when :meth:`run` has ended.
    """

    def __init__(
        self,
        connector: Connector,
        retries: Retries,
        on_connect: Callable[[WebSocket], Awaitable[object]] | None,
    ) -> None:
        self._connector = connector
        self._retries = retries
        self._on_connect = on_connect
        self.scope: trio.CancelScope = trio.CancelScope(shield=True)
        self.state_changed: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.state: ReconnectState = ReconnectState(ReconnectPhase.CONNECTING, 0)
        self.ws: WebSocket | None = None
        self.attempt_ws: WebSocket | None = None
        self.backlog: deque[Message] = deque()
        self.outcome: BaseException | None = None
        self.traceback: TracebackType | None = None
        self.is_clean: bool = False
        self.closing: bool = False
        self.done: trio.Event = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Connect and reconnect until the channel ends. Never raises."""
        try:
            with self.scope:
                while await self._attempt():
                    self.attempt_ws = None
                    await self._retries.wait()
                    self.begin_attempt()
        except BaseException as exc:
            # on_connect has raised a BaseException that is not an Exception, or the user's predicate or random number
            # function has failed.
            self._end_with_error(exc)
        finally:
            if self.closing or self.outcome is None:
                self.end_locally()
            self.done.set()

    def begin_attempt(self) -> None:
        """Count an attempt that begins now, and publish the state."""
        self._retries.begin_attempt()
        self._set_state(ReconnectPhase.CONNECTING, self._retries.last_error)

    async def _attempt(self) -> bool:
        """Connect once, and handle the failure if there is one. Return whether to connect again."""
        try:
            return await self._run_connection()
        except Exception as exc:
            return self._schedule_retry(exc)

    async def _run_connection(self) -> bool:
        """Open a connection and wait until it ends. Return whether to connect again."""
        async with await self._connector.dial() as ws:
            self.attempt_ws = ws
            await self._call_on_connect(ws)
            if self.closing:
                return False
            connection = connection_of(ws)
            opened_at = trio.current_time()
            self.ws = ws
            self._set_state(ReconnectPhase.OPEN)
            await connection.state.wait_for(Phase.SETTLED)
            lived = trio.current_time() - opened_at
            # Messages may be on their way to tasks that have not run yet. After this, they have them.
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._save_backlog(ws)
            retry = self._schedule_retry(connection.state.error(), lived)
            # Give the server a moment to close the connection. Meanwhile, the tasks that were just woken can still see
            # how the connection ended, which leaving the block would replace by a local close.
            with trio.move_on_after(GRACE):
                await ws.wait_closed()
            connection.cancel_tasks()
        return retry

    async def _call_on_connect(self, ws: WebSocket) -> None:
        if self._on_connect is None or self.closing:
            return
        timeout = connection_of(ws).settings.open_timeout
        with trio.move_on_after(math.inf if timeout is None else timeout) as scope:
            await call_async("on_connect", self._on_connect, ws)
        if scope.cancelled_caught:
            assert timeout is not None
            raise OpenTimeout(ws.request.headers["Host"], timeout)

    def _save_backlog(self, ws: WebSocket) -> None:
        """Save the unreceived messages of a connection that has ended."""
        self.ws = None
        messages = connection_of(ws).inbox.drain()
        # Each inbox is bounded, but the messages of many connections may pile up. Drop the oldest ones.
        size = sum(map(getsizeof, messages)) + sum(map(getsizeof, self.backlog))
        while self.backlog and size > connection_of(ws).settings.receive_buffer:
            size -= getsizeof(self.backlog.popleft())
        self.backlog.extend(messages)

    def _schedule_retry(self, exc: BaseException, lived: float | None = None) -> bool:
        """Schedule the next attempt after a failure or the end of a connection, or end the channel.

        Args:
            exc: The exception.
            lived: Seconds that the connection was open; None if it was never open.

        Returns:
            Whether to connect again.
        """
        if self.closing:
            return False
        # Users can close channel.ws to ask for a new connection, whatever the predicate says.
        retryable = lived is not None and isinstance(exc, ConnectionClosedLocally)
        retryable = retryable or self._retries.is_retryable(exc)
        delay = self._retries.schedule(exc, lived)
        if not retryable or delay is None:
            self._end_with_error(exc, is_clean=isinstance(exc, ConnectionClosedOK) and not retryable)
            return False
        self._set_state(ReconnectPhase.WAITING, exc, delay)
        return True

    def _end_with_error(self, exc: BaseException, *, is_clean: bool = False) -> None:
        """End the channel because of an exception."""
        self._set_outcome(exc, is_clean)
        self._set_state(ReconnectPhase.CLOSED, exc)

    def end_locally(self) -> None:
        """End the channel because the user has closed it. Replaces an earlier outcome."""
        ws = self.attempt_ws
        self.backlog.clear()
        self._set_outcome(_ChannelClosed(None, None) if ws is None else connection_of(ws).state.error(), True)
        if self.state.phase is not ReconnectPhase.CLOSED:
            self._set_state(ReconnectPhase.CLOSED)

    def _set_outcome(self, exc: BaseException, is_clean: bool) -> None:
        self.ws = None
        self.outcome = exc
        self.traceback = exc.__traceback__
        self.is_clean = is_clean

    def _set_state(self, phase: ReconnectPhase, error: BaseException | None = None, delay: float | None = None) -> None:
        self.state = ReconnectState(phase, self._retries.attempts, error, delay)
        self.state_changed.unpark_all()


class _ChannelClosed(ConnectionClosedLocally):
    """The user has closed a channel that had no connection at that moment."""

    def __str__(self) -> str:
        return "the channel was closed"
