"""The task behind a :class:`ReconnectingChannel`: ``Supervisor``."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType

import trio

from ...connection.core import GRACE
from ...connection.state import Phase
from ...connection.websocket import WebSocket, connection_of
from ...exceptions import ConnectionClosedLocally, ConnectionClosedOK, OpenTimeout
from ...protocol import Message
from ..backoff import Retries
from ..connect import Connecting
from ..connector import Connector
from .state import ReconnectPhase, ReconnectState

__all__ = ["Supervisor"]


class Supervisor:
    """Connects, and connects again when the connection is lost. The channel reads its attributes.

    Attributes:
        scope: The cancel scope around :meth:`run`.
        waiting: Where senders, receivers and watchers wait for the next state.
        state: What it is doing.
        ws: The connection that is visible to users; None while there is none.
        made: The connection of this attempt, also while it is opening or closing.
        left: Messages of connections that have ended.
        failure: The exception that it has ended with; None before that.
        traceback: Where that was raised.
        is_clean: Whether that is a normal end.
        closing: Whether the user has closed the channel.
        over: Set when :meth:`run` has ended.
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
        self.waiting: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.state: ReconnectState = ReconnectState(ReconnectPhase.CONNECTING, 0)
        self.ws: WebSocket | None = None
        self.made: WebSocket | None = None
        self.left: deque[Message] = deque()
        self.failure: BaseException | None = None
        self.traceback: TracebackType | None = None
        self.is_clean: bool = False
        self.closing: bool = False
        self.over: trio.Event = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Connect again and again. Never raises."""
        try:
            with self.scope:
                while await self._try():
                    self.made = None
                    await self._retries.wait()
                    self.begin()
        except BaseException as exc:
            # What on_connect raises that is no Exception; or what the predicate raises, or the source of random
            # numbers.
            self._fail(exc)
        finally:
            if self.closing or self.failure is None:
                self.end_locally()
            self.over.set()

    def begin(self) -> None:
        """Begin an attempt."""
        self._retries.begin()
        self._set(ReconnectPhase.CONNECTING, self._retries.last_error)

    async def _try(self) -> bool:
        """Try to be connected. Return whether to connect again."""
        try:
            return await self._be_connected()
        except Exception as exc:
            return self._decide(exc)

    async def _be_connected(self) -> bool:
        """Be connected once, from the attempt to the end. Return whether to connect again."""
        connecting = await self._connector.dial()
        async with connecting as ws:
            self.made = ws
            await self._greet(ws, connecting)
            if self.closing:
                return False
            connection = connection_of(ws)
            opened_at = trio.current_time()
            self.ws = ws
            self._set(ReconnectPhase.OPEN)
            await connection.state.wait_for(Phase.SETTLED)
            lived = trio.current_time() - opened_at
            self._keep_the_rest(ws)
            go_on = self._decide(connection.state.error(), lived)
            # The server should hang up; nobody is to wait for that for long. And those who were woken in the same
            # moment are told how it ended, before we close it.
            with trio.move_on_after(GRACE):
                await ws.wait_closed()
            connection.cut()
        return go_on

    async def _greet(self, ws: WebSocket, connecting: Connecting) -> None:
        if self._on_connect is None or self.closing:
            return
        timeout = connecting._settings.open_timeout
        with trio.move_on_after(math.inf if timeout is None else timeout) as scope:
            await self._on_connect(ws)
        if scope.cancelled_caught:
            assert timeout is not None
            raise OpenTimeout(connecting._uri.host_header, timeout)

    def _keep_the_rest(self, ws: WebSocket) -> None:
        """Keep the messages of a connection that has ended, until they are received."""
        self.ws = None
        left = connection_of(ws).inbox.take_rest()
        # An inbox is bounded, but there may be any number of them.
        excess = sum(map(len, left)) + sum(map(len, self.left)) - connection_of(ws).settings.receive_buffer
        while self.left and excess > 0:
            excess -= len(self.left.popleft())
        self.left.extend(left)

    def _decide(self, exc: BaseException, lived: float | None = None) -> bool:
        """Decide what follows on a failure, or on the end of a connection. Return whether to connect again."""
        if self.closing:
            return False
        # Closing the connection by hand is how to ask for the next one.
        wanted = lived is not None and isinstance(exc, ConnectionClosedLocally)
        wanted = wanted or self._retries.is_wanted(exc)
        delay = self._retries.schedule(exc, lived)
        if not wanted or delay is None:
            self._fail(exc, is_clean=isinstance(exc, ConnectionClosedOK) and not wanted)
            return False
        self._set(ReconnectPhase.WAITING, exc, delay)
        return True

    def _fail(self, exc: BaseException, *, is_clean: bool = False) -> None:
        """End because of an exception."""
        self._end_with(exc, is_clean)
        self._set(ReconnectPhase.CLOSED, exc)

    def end_locally(self) -> None:
        """End because the user has closed it, whatever it had ended with before."""
        made = self.made
        self.left.clear()
        self._end_with(ConnectionClosedLocally(None, None) if made is None else connection_of(made).state.error(), True)
        if self.state.phase is not ReconnectPhase.CLOSED:
            self._set(ReconnectPhase.CLOSED)

    def _end_with(self, exc: BaseException, is_clean: bool) -> None:
        self.ws = None
        self.failure = exc
        self.traceback = exc.__traceback__
        self.is_clean = is_clean

    def _set(self, phase: ReconnectPhase, error: BaseException | None = None, delay: float | None = None) -> None:
        self.state = ReconnectState(phase, self._retries.attempts, error, delay)
        self.waiting.unpark_all()
