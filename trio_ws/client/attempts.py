"""A loop that reconnects: ``attempts``.

Rules 1 to 4 are in :mod:`trio_ws.client.connector`. These rules hold for the loop:

5. **Only the ``async with`` block holds a connection**, so ``break``, exceptions and cancellation are safe anywhere in
   the loop. This is why ``async with`` connects, and not the loop: otherwise a ``break`` before the block would leave a
   connection open. An ``async with`` cannot skip its block, so it retries until it has a connection.
6. **An exception in the block is suppressed if it reports the end of this connection** and the predicate allows a
   retry; the next iteration follows. The same holds for an exception group that contains only such exceptions. All
   other exceptions, and cancellation, propagate unchanged. If the application catches one inside the loop, the next
   iteration follows too.
   An iteration that never enters its ``async with`` is an error: the wait is between two connections, so the loop would
   spin.
7. **The loop ends when the block completes**, unless the block has been told that the connection ended, by the end of
   an ``async for`` or by an exception that it caught: then the predicate decides, as in rule 6. If the
   connection is lost after the last call in the block, the loop ends all the same, so the outcome does not depend on
   timing. The loop also ends if the block closes the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import trio

from ..connection.session import Session
from ..connection.websocket import WebSocket, connection_of
from ..exceptions import ConnectionClosed
from ..misuse.usage import AsyncWithOnly, check_in_trio
from .backoff import Backoff, Retries, leaves
from .backoff import is_retryable as is_retryable_by_default
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
    """Return a loop that reconnects, with one connection per iteration.

    ::

        async for attempt in trio_ws.attempts("wss://example.org/feed"):
            async with attempt as ws:
                async for message in ws: ...

    The ``async with`` connects. If connecting fails and ``is_retryable`` allows it, it waits and tries again, so the
    block always has a connection. The connection is closed at the end of the block, as with :func:`connect`. Nothing is
    open between two iterations, so it is safe to leave the loop anywhere and in any way. An iteration that goes on to
    the next one without the ``async with`` raises :exc:`RuntimeError`.

    If the block raises the exception that reports the end of its connection, and ``is_retryable`` allows a retry, the
    exception is suppressed, and the next iteration begins after a delay. The same holds for an exception group that
    contains only such exceptions. All other exceptions propagate unchanged. If you catch one inside the loop, the next
    iteration begins after a delay too.

    If the block completes, the loop ends, unless the block has been told that the connection ended: by the end of an
    ``async for``, or by an exception that it caught. Then ``is_retryable`` decides whether the loop continues. By
    default, it continues if the server closed with 1001, and ends if the server closed with 1000.
    :meth:`WebSocket.wait_closed` and attributes such as :attr:`WebSocket.close_code` do not count: the loop ends.

    Args:
        uri: The URI. Or a function, async or not, that is called for each attempt and returns the result of
            :func:`connect` or :func:`connect_over`. Use it for credentials that expire and for other kinds of streams.
            An :exc:`OSError` from the function counts as a :exc:`ConnectFailed`.
        backoff: The delays between attempts, and the limits after which to give up.
        is_retryable: A function that takes an exception and returns whether connecting again may help.
        **options: The keyword arguments of :func:`connect`; not allowed with a function.

    Raises:
        InvalidURI: If the URI is not valid.
        TypeError: If an option has the wrong type or does not exist.
        ValueError: If an option is out of range.
    """
    check_retrying(backoff, is_retryable)
    return Attempts(Connector(attempts, uri, options), Retries(backoff, is_retryable))


class Attempts:
    """An asynchronous iterator with one connection per iteration; see :func:`attempts`."""

    def __init__(self, connector: Connector, retries: Retries) -> None:
        self._connector = connector
        self._retries = retries
        #: The attempt of this iteration.
        self.current: Attempt | None = None
        # True in the last iteration; and the exception to raise after it.
        self._finished = False
        self._error: BaseException | None = None

    @property
    def attempts(self) -> int:
        """The number of attempts to connect so far."""
        return self._retries.attempts

    @property
    def last_error(self) -> BaseException | None:
        """The exception of the last failed attempt or lost connection; None before the first one."""
        return self._retries.last_error

    if not TYPE_CHECKING:

        def __aenter__(self) -> NoReturn:
            raise TypeError("attempts() must be used as `async for attempt in attempts(...):`, not with `async with`")

        def __aexit__(self, *_: object) -> None:
            """Exist only because `async with` looks this method up before it calls `__aenter__`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        """Wait until the next attempt is due, and return it. Safe to cancel: it can be called again.

        Raises:
            Exception: If a limit of the backoff is reached: the exception with which the last connection ended.
            RuntimeError: If the block of the previous attempt has not been entered, or has not been left.
        """
        if self.current is not None:
            if self.current.is_active:
                raise RuntimeError("the block of the previous attempt must be left first")
            if not self.current.was_entered:
                raise RuntimeError("each iteration of attempts() must connect: `async with attempt as ws:`")
        check_in_trio("attempts()")
        await trio.lowlevel.checkpoint()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._finished:
            raise StopAsyncIteration
        await self._retries.wait()
        self.current = Attempt(self)
        return self.current

    async def connect(self) -> WebSocket:
        """Connect, and retry until there is a connection. The caller must enter a :class:`Session`.

        Raises:
            Exception: If connecting fails, and the predicate or the backoff allows no retry.
        """
        retries = self._retries
        while True:
            retries.begin_attempt()
            try:
                connecting = await self._connector.dial()
                return await connecting.open()
            except Exception as exc:
                if not (self._schedule(exc) and retries.is_retryable(exc)):
                    raise
            await retries.wait()

    def finish(self) -> None:
        """End the loop after this iteration."""
        self._finished = True

    def end_turn(self, end: ConnectionClosed | None, lived: float, raised: BaseException | None) -> bool:
        """Decide how the loop continues after a block.

        Args:
            end: The exception that reports the end of the connection, if the block was left because of it; else None.
            lived: Seconds that the connection was open.
            raised: The exception that the block raised, or None.

        Returns:
            Whether to suppress the exception of the block.
        """
        if end is None:
            self._retries.reset()
            return False
        retryable = self._retries.is_retryable(raised or end)
        within_limits = self._schedule(end, lived)
        if raised is not None:
            return retryable and within_limits
        if not retryable:
            self._finished = True
        elif not within_limits:
            self._error = end
        return False

    def _schedule(self, exc: BaseException, lived: float | None = None) -> bool:
        """Schedule the next attempt. Return whether the limits of the backoff allow it; if not, end the loop."""
        within_limits = self._retries.schedule(exc, lived) is not None
        self._finished = self._finished or not within_limits
        return within_limits


class Attempt(AsyncWithOnly):
    """One iteration of an :func:`attempts` loop. ``async with`` connects; use it once, within its iteration.

    Attributes:
        is_active: Whether the block has been entered and not left.
        was_entered: Whether the block has been entered, or connecting was tried.
    """

    def __init__(self, owner: Attempts) -> None:
        self._owner = owner
        self.was_entered: bool = False
        self.is_active: bool = False
        self._ws: WebSocket | None = None
        self._session: Session | None = None
        self._opened_at = 0.0

    def _explain_use(self) -> str:
        return "an attempt must be used as `async with attempt as ws:`"

    async def __aenter__(self) -> WebSocket:
        if self.was_entered or self._owner.current is not self:
            raise RuntimeError("an attempt must be entered only once, and within its iteration of the loop")
        self.was_entered = self.is_active = True
        try:
            self._ws = await self._owner.connect()
        except BaseException:  # The block is not entered, also if this is cancelled.
            self.is_active = False
            raise
        self._opened_at = trio.current_time()
        self._session = Session(self._ws)
        return await self._session.__aenter__()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._session is None or self._ws is None:
            raise RuntimeError("the attempt was not entered")
        connection = connection_of(self._ws)
        lived = trio.current_time() - self._opened_at
        told = connection.outcome_reported
        end = connection.state.error() if connection.state.is_settled else None
        if connection.state.closed_locally:
            end = None  # The application closed the connection, so an exception from using it is a bug.
        if exc is None:
            if not told or end is None:
                end = None
                self._owner.finish()
        elif end is None or not all(_reports(leaf, end) for leaf in leaves(exc)):
            end = None
        try:
            await self._session.__aexit__(exc_type, exc, traceback)
        finally:
            self.is_active = False
        return self._owner.end_turn(end, lived, exc)


def _reports(exc: BaseException, end: ConnectionClosed) -> bool:
    """Return whether an exception reports this end of a connection, and not the end of another connection."""
    return isinstance(exc, ConnectionClosed) and (exc.rcvd, exc.sent) == (end.rcvd, end.sent)
