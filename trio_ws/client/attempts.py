"""Connecting again when a connection is lost, in a loop with one connection in each turn: ``attempts``.

Rules 1 to 4 are in :mod:`trio_ws.client.connector`. The rules of the loop:

5. Everything that is open is so within the block of one turn, so a ``break``, an exception or a cancellation can come
   anywhere. That is why it is ``async with`` that connects, and does so again and again until there is a connection: a
   block cannot be skipped. (Were it the loop that connects, a ``break`` before the block would leave a connection
   behind.)
6. An exception in the block that tells how *this* connection ended is swallowed, if the predicate agrees, and the next
   turn follows; a group too, if there is nothing else in it. Every other exception, and cancellation, comes out as it
   went in. Whoever catches it within the loop gets another turn.
7. A block that comes to its end is done, and so is the loop; unless the block was told of the end of the connection, by
   the end of an ``async for`` or an exception that it has caught: then the predicate decides, as in rule 6. So it is
   not by chance: a connection that is lost after the last call does not count. Nor does it if the block has closed the
   connection itself.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from ..connection.websocket import WebSocket, connection_of
from ..exceptions import ConnectionClosed
from .backoff import Backoff, Retries, leaves
from .backoff import is_retryable as is_retryable_by_default
from .connect import Connecting
from .connector import Connector, Target, check_retrying
from .options import ConnectOptions

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["Attempt", "Attempts", "attempts"]


def attempts(
    uri: Target,
    *,
    backoff: Backoff = Backoff(),  # noqa: B008  # immutable
    is_retryable: Callable[[Exception], bool] = is_retryable_by_default,
    **options: Unpack[ConnectOptions],
) -> Attempts:
    """Connect again and again, in a loop with one connection in each turn.

    ::

        async for attempt in trio_ws.attempts("wss://example.org/feed"):
            async with attempt as ws:
                async for message in ws: ...

    The inner ``async with`` connects. If that fails and ``is_retryable`` agrees, it waits and tries again, so there
    always is a connection in the block. At the end of the block the connection is closed, as with :func:`connect`.
    Between two turns nothing is open, so you can leave the loop by any way and at any place.

    When the block raises what tells that its connection has ended, and ``is_retryable`` agrees, the exception is
    swallowed, and the next turn begins after a wait. The same goes for a group of nothing but such exceptions. All
    others come out of the block as they are; if you catch one within the loop, the next turn begins after a wait too.

    When the block comes to its end, the loop ends, as you have done what you wanted to do; it goes on if the block was
    told that the connection has ended, because an ``async for`` has come to its end or because it has caught the
    exception itself, and ``is_retryable`` agrees. By default it does if the server has closed with 1001, and does not
    if it has closed with 1000.

    Args:
        uri: The URI. Or a function, which may be ``async``, that is called for each attempt, and returns what
            :func:`connect` or :func:`connect_over` return: for credentials that expire, or streams of another kind. An
            :exc:`OSError` that it raises counts as a :exc:`ConnectFailed`.
        backoff: How long to wait, and when to give up.
        is_retryable: Says of an exception whether connecting again may help.
        **options: The keyword arguments of :func:`connect`. Not with a function.

    Raises:
        InvalidURI: if the URI is not valid.
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range.
    """
    check_retrying(backoff, is_retryable)
    return Attempts(Connector("attempts", uri, options), Retries(backoff, is_retryable))


class Attempts:
    """A loop with one connection in each turn: an asynchronous iterator; see :func:`attempts`."""

    def __init__(self, connector: Connector, retries: Retries) -> None:
        self._connector = connector
        self._retries = retries
        #: The attempt of this turn.
        self.current: Attempt | None = None
        # Whether there are no more turns; and what is to be raised instead of the next one.
        self._over = False
        self._error: BaseException | None = None

    @property
    def attempts(self) -> int:
        """How many times it was tried to connect."""
        return self._retries.attempts

    @property
    def last_error(self) -> BaseException | None:
        """Why the last connection that was lost ended, or could not be made; None before that."""
        return self._retries.last_error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        """Wait until the next attempt is due, and return it. When cancelled, nothing has happened.

        Raises:
            Exception: that which the last connection has ended with, if the limits of the backoff are reached.
            RuntimeError: in the block of the attempt before.
        """
        if self.current is not None and self.current.is_active:
            raise RuntimeError("the block of the attempt before is not left yet")
        await trio.lowlevel.checkpoint()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._over:
            raise StopAsyncIteration
        await self._retries.wait()
        self.current = Attempt(self)
        return self.current

    async def connect(self) -> tuple[Connecting, WebSocket]:
        """Connect, as many times as it takes.

        Returns:
            What has been entered, and the connection.

        Raises:
            Exception: the last error, when it is not to be tried again.
        """
        retries = self._retries
        while True:
            retries.begin()
            try:
                connecting = await self._connector.dial()
                return connecting, await connecting.__aenter__()
            except Exception as exc:
                if not (self._allow(exc) and retries.is_wanted(exc)):
                    raise
            await retries.wait()

    def finish(self) -> None:
        """End the loop after this turn."""
        self._over = True

    def end_turn(self, end: ConnectionClosed | None, lived: float, raised: BaseException | None) -> bool:
        """Decide what follows on a turn.

        Args:
            end: How the connection ended, if that is why the block was left; otherwise None.
            lived: Seconds that the connection was open.
            raised: What the block has raised.

        Returns:
            Whether to swallow that.
        """
        if end is None:
            self._retries.reset()
            return False
        wanted = self._retries.is_wanted(raised or end)
        allowed = self._allow(end, lived)
        if raised is not None:
            return wanted and allowed
        if not wanted:
            self._over = True
        elif not allowed:
            self._error = end
        return False

    def _allow(self, exc: BaseException, lived: float | None = None) -> bool:
        allowed = self._retries.schedule(exc, lived) is not None
        self._over = self._over or not allowed
        return allowed


class Attempt:
    """One turn of the loop of :func:`attempts`. Entering it connects; it can be used once, in its turn."""

    def __init__(self, owner: Attempts) -> None:
        self._owner = owner
        self._used = False
        #: Whether its block was entered and is not left.
        self.is_active: bool = False
        self._connecting: Connecting | None = None
        self._ws: WebSocket | None = None
        self._opened_at = 0.0

    async def __aenter__(self) -> WebSocket:
        if self._used or self._owner.current is not self:
            raise RuntimeError("an attempt is entered once, in its turn of the loop")
        self._used = self.is_active = True
        try:
            self._connecting, self._ws = await self._owner.connect()
        except BaseException:  # cancellation too: the turn has not begun
            self.is_active = False
            raise
        self._opened_at = trio.current_time()
        return self._ws

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._connecting is None or self._ws is None:
            raise RuntimeError("this attempt was not entered")
        connection = connection_of(self._ws)
        lived = trio.current_time() - self._opened_at
        told = connection.told
        end = connection.state.error() if connection.state.is_settled else None
        if connection.state.closed_locally:
            end = None  # whoever has closed it knows why, or makes a mistake in using it
        if exc is None:
            if not told or end is None:
                end = None
                self._owner.finish()
        elif end is None or not all(_tells(leaf, end) for leaf in leaves(exc)):
            end = None
        try:
            await self._connecting.__aexit__(exc_type, exc, traceback)
        finally:
            self.is_active = False
        return self._owner.end_turn(end, lived, exc)


def _tells(exc: BaseException, end: ConnectionClosed) -> bool:
    """Return whether an exception tells of the end of this connection, and not of that of another one."""
    return isinstance(exc, ConnectionClosed) and (exc.rcvd, exc.sent) == (end.rcvd, end.sent)
