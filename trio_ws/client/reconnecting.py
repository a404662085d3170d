"""Connecting again when a connection is lost, behind a channel that lives across connections: ``open_reconnecting``.

A task behind the channel, the *supervisor*, connects, calls ``on_connect``, and connects again; whoever sends or
receives need not know.

Rules 1 to 4 are in :mod:`trio_ws.client.connector`. The rules of the channel:

8. **Received messages are delivered**, in order and once, also those that had come in when their connection ended. No
   more are taken from a connection than is asked for, so backpressure reaches the server.
9. **A message is sent once, on one connection, or not at all.** ``send`` tries the next connection only if the last one
   has not taken the message.
10. **A connection is open when on_connect has returned.** Nobody else uses it before. It has ``open_timeout`` seconds,
    like the opening handshake before it; without a limit, a server that accepts and then says nothing would be the end
    of reconnecting. What it raises is asked about as if connecting had raised it.
11. **Errors come out of calls**: of ``receive``, ``send`` and iteration, as they are. The supervisor does not raise, so
    nothing comes out of the block by itself.
12. **Who watches never holds up anybody**: a watcher gets the newest state, and misses those in between.

What if it is cancelled? The supervisor is shielded, like the tasks of a connection, so that the user can still clean
up when the block is cancelled: it is on the way out that ``aclose()`` is cancelled, which ends the connection at once.
Then it cancels the supervisor, in whatever that is doing, and waits for it: it has nothing to do that takes time, if
``on_connect`` has not. Those who wait to send or receive have changed nothing.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import attrs
import trio

from ..connection.core import GRACE
from ..connection.sendable import Sendable, prepare
from ..connection.session import code_after
from ..connection.state import Phase
from ..connection.websocket import WebSocket, connection_of, make_close
from ..exceptions import ConnectionClosed, ConnectionClosedLocally, ConnectionClosedOK, NotConnected, OpenTimeout
from ..frames import CloseCode, Opcode
from ..protocol import Message
from .backoff import Backoff, Retries
from .backoff import is_retryable as is_retryable_by_default
from .connect import Connecting
from .connector import Connector, Target, check_retrying
from .options import ConnectOptions

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["ReconnectPhase", "ReconnectState", "ReconnectingChannel", "WhenDown", "open_reconnecting"]

#: What :meth:`ReconnectingChannel.send` does while there is no connection.
WhenDown: TypeAlias = Literal["wait", "fail"]


def open_reconnecting(
    uri: Target,
    *,
    on_connect: Callable[[WebSocket], Awaitable[object]] | None = None,
    backoff: Backoff = Backoff(),  # noqa: B008  # immutable
    is_retryable: Callable[[Exception], bool] = is_retryable_by_default,
    when_down: WhenDown = "wait",
    **options: Unpack[ConnectOptions],
) -> ReconnectingChannel:
    """Open a channel of messages that connects again when its connection is lost, for as long as a block.

    ::

        async def subscribe(ws: trio_ws.WebSocket) -> None:
            await ws.send('{"subscribe": "prices"}')

        async with trio_ws.open_reconnecting("wss://example.org/feed", on_connect=subscribe) as feed:
            async for message in feed: ...

    Entering the block does not wait for the first connection: it is made in the background, like all others. What
    cannot be helped by connecting again is raised by the next :meth:`~ReconnectingChannel.receive` or
    :meth:`~ReconnectingChannel.send`.

    Leaving the block closes the connection: with 1000 normally, 1001 when it is cancelled (without waiting), 1011 when
    it raises. What the block raises comes out as it is.

    Args:
        uri: The URI. Or a function, which may be ``async``, that is called for each attempt, and returns what
            :func:`connect` or :func:`connect_over` return: for credentials that expire, or streams of another kind. An
            :exc:`OSError` that it raises counts as a :exc:`ConnectFailed`.
        on_connect: An async function that is called with each new connection, before anybody else can use it: to log
            in, to subscribe. It sends and receives on that connection, as the channel is not open yet, and has
            ``open_timeout`` seconds. When it raises, the connection is closed, and ``is_retryable`` is asked about the
            exception.
        backoff: How long to wait between two attempts, and when to give up.
        is_retryable: Says of an exception whether connecting again may help. It is asked about what connecting and
            ``on_connect`` raise, and about how each connection has ended. What it is not asked about: that you have
            closed :attr:`ReconnectingChannel.ws`, which makes the channel connect again.
        when_down: What :meth:`~ReconnectingChannel.send` does while there is no connection: ``"wait"`` for the next
            one, or ``"fail"`` with :exc:`NotConnected`.
        **options: The keyword arguments of :func:`connect`. Not with a function.

    Raises:
        InvalidURI: if the URI is not valid.
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range.
    """
    check_retrying(backoff, is_retryable)
    if on_connect is not None and not callable(on_connect):
        raise TypeError(f"on_connect is a function or None, not {on_connect!r}")
    _check_when_down(when_down)
    connector = Connector("open_reconnecting", uri, options)
    return ReconnectingChannel(connector, Retries(backoff, is_retryable), on_connect, when_down)


class ReconnectPhase(enum.Enum):
    """What a :class:`ReconnectingChannel` is doing.

    Attributes:
        CONNECTING: It connects, or ``on_connect`` is running.
        OPEN: There is a connection.
        WAITING: It waits before it tries again.
        CLOSED: It has ended, and will not connect again.
    """

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@attrs.frozen
class ReconnectState:
    """What a :class:`ReconnectingChannel` is doing, and why. As a string, it is made for logs.

    Attributes:
        phase: What it is doing.
        attempts: How many times it has tried to connect, the attempt included that is under way.
        error: Why the last connection ended, or could not be made; when it has ended, why. None if nothing has gone
            wrong: there is a connection, or was none before, or you have closed it.
        delay: Seconds from the beginning of the wait to the next attempt; None while it does not wait.
    """

    phase: ReconnectPhase
    attempts: int
    error: BaseException | None = None
    delay: float | None = None

    def __str__(self) -> str:
        if self.phase is ReconnectPhase.WAITING:
            return f"waiting {self.delay:.3g} seconds after attempt {self.attempts}: {_say(self.error)}"
        if self.phase is ReconnectPhase.CLOSED:
            return "closed" if self.error is None else f"closed: {_say(self.error)}"
        return f"{self.phase.value}, attempt {self.attempts}"


class ReconnectingChannel(trio.abc.Channel[Message]):
    """A channel of messages that lives across connections; see :func:`open_reconnecting`.

    It is used like a :class:`WebSocket`: any number of tasks may send, receive and iterate at the same time, and all
    methods marked ``async`` can be cancelled and check for it on every call.

    When it has ended, calls raise why: what connecting again cannot help, :exc:`ConnectionClosedOK` if the server has
    closed for good, or :exc:`ConnectionClosedLocally` if you have closed it. Messages that came in before are received
    first, unless you have closed it. ``async for`` ends without an exception in the last two cases.
    """

    def __init__(
        self,
        connector: Connector,
        retries: Retries,
        on_connect: Callable[[WebSocket], Awaitable[object]] | None,
        when_down: WhenDown,
    ) -> None:
        self._connector = connector
        self._retries = retries
        self._on_connect = on_connect
        self._when_down = when_down
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        # Around the supervisor.
        self._scope = trio.CancelScope(shield=True)
        # What all wait in who wait for another state: senders, receivers, watchers.
        self._waiting = trio.lowlevel.ParkingLot()
        self._state = ReconnectState(ReconnectPhase.CONNECTING, 0)
        # The connection that is open; and the one that the supervisor has to do with, be it open yet or still.
        self._ws: WebSocket | None = None
        self._made: WebSocket | None = None
        # Messages of connections that have ended.
        self._left: deque[Message] = deque()
        # What it has ended with; where that was raised; and whether it is an end as it should be.
        self._failure: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._is_clean = False
        # Whether the user has closed it; and whether the supervisor has ended.
        self._closing = False
        self._over = trio.Event()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state}>"

    @property
    def ws(self) -> WebSocket | None:
        """The connection that is open at the moment, or None.

        It has what this class has not, such as :meth:`WebSocket.ping`. Closing it makes the channel go on to the next
        connection.
        """
        return self._ws

    @property
    def state(self) -> ReconnectState:
        """What it is doing."""
        return self._state

    @property
    def attempts(self) -> int:
        """How many times it has tried to connect."""
        return self._retries.attempts

    @property
    def last_error(self) -> BaseException | None:
        """Why the last connection ended, or could not be made; None before that. It stays when there is a new one."""
        return self._retries.last_error

    def states(self) -> AsyncIterator[ReconnectState]:
        """Return an asynchronous iterator of states: the present one, then each that follows, and the end.

        A watcher that is slow gets the newest state, and misses those in between. So it holds up nobody.
        """
        return _States(self)

    # -- Messages --------------------------------------------------------------------------------------------------

    async def send(
        self,
        message: Sendable,
        *,
        text: bool | None = None,
        compress: bool = True,
        when_down: WhenDown | None = None,
    ) -> None:
        """Send a message, on the connection that there is or on the next one.

        It returns when a connection has taken the message, as :meth:`WebSocket.send` does. If that connection is lost
        soon after, so may be the message; it is not sent again, as nobody knows whether it has arrived. When cancelled,
        nothing of the message is sent.

        Args:
            message: A ``str`` goes out as text, bytes as binary.
            text: True to send bytes that are UTF-8 as text, False to send the UTF-8 of a ``str`` as binary.
            compress: False not to compress this message, where compression is in use.
            when_down: What to do while there is no connection, if not what :func:`open_reconnecting` was told:
                ``"wait"`` or ``"fail"``.

        Raises:
            NotConnected: if there is no connection, and this is not to wait for one.
            Exception: if the channel has ended: see :class:`ReconnectingChannel`.
            TypeError: if the message is neither text nor bytes.
            ValueError: if it is to be text and cannot be.
        """
        if when_down is not None:
            _check_when_down(when_down)
        ws = self._ws
        if ws is not None and _is_open(ws):
            try:
                return await ws.send(message, text=text, compress=compress)
            except ConnectionClosed:
                pass  # it has taken nothing
        # What cannot be sent is to be known now; and what waits cannot be changed any more.
        opcode, message = prepare(message, text)
        await trio.lowlevel.checkpoint()
        while self._failure is None:
            ws = self._ws
            if ws is not None and _is_open(ws):
                try:
                    return await ws.send(message, text=opcode is Opcode.TEXT, compress=compress)
                except ConnectionClosed:
                    pass
            elif (when_down or self._when_down) == "fail":
                self._check_entered()
                is_open = self._state.phase is ReconnectPhase.OPEN
                reason = "the connection is closing" if is_open else str(self._state)
                raise NotConnected(reason) from self._state.error
            else:
                await self._wait()
        raise self._failure.with_traceback(self._traceback)

    async def receive(self) -> Message:
        """Receive the next message, of the connection that there is or of the next one.

        What had come in when a connection ended is received before anything else; if too much of that piles up because
        nobody receives, messages of older connections are dropped. When cancelled, no message is lost, and none is
        received twice.

        Raises:
            Exception: if the channel has ended and there is no message left: see :class:`ReconnectingChannel`.
        """
        while True:
            if self._left or self._failure is not None:
                await trio.lowlevel.checkpoint()
                # Meanwhile somebody else may have taken what was left.
                if self._left:
                    return self._left.popleft()
                if self._failure is not None:
                    raise self._failure.with_traceback(self._traceback)
            elif self._ws is None:
                await self._wait()
            else:
                try:
                    return await self._ws.receive()
                except ConnectionClosed:
                    pass  # the supervisor looks for what is left, and for the next one

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            if not self._is_clean:
                raise
            raise StopAsyncIteration from None

    async def _wait(self) -> None:
        """Wait for another state."""
        self._check_entered()
        await self._waiting.park()

    def _check_entered(self) -> None:
        if self._nursery is None:
            raise RuntimeError("enter it with async with: until then it does not connect")

    # -- Beginning and end -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._nursery is not None:
            raise RuntimeError("it is entered once: call open_reconnecting() again")
        await trio.lowlevel.checkpoint()
        self._nursery = await self._manager.__aenter__()
        self._begin()
        self._nursery.start_soon(self._supervise)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        nurseries = trio.lowlevel.current_task().child_nurseries
        if not nurseries or nurseries[-1] is not self._nursery:
            self._scope.cancel()
            raise RuntimeError("it must be left in the task that entered it, after everything that was entered later")
        try:
            await self.aclose(code_after(exc))
        except trio.Cancelled:
            if exc is None:
                raise
            # The exception of the block goes on. The cancellation is not lost: the next checkpoint meets it again.
        finally:
            # The supervisor is about to end. This waits for it, cancelled or not.
            await self._manager.__aexit__(None, None, None)

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection, if there is one, and do not connect again.

        Messages that were not received are dropped. When cancelled, it does not wait for the server: see
        :meth:`WebSocket.aclose`.

        Args:
            code: The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455, section 7.4).
            reason: Text for the server's log, at most 123 bytes of UTF-8.

        Raises:
            ValueError: if the code may not be sent, or the reason is too long; nothing has happened then.
            TypeError: if they are not an int and a str.
        """
        make_close(code, reason)
        self._check_entered()
        self._closing = True
        try:
            if self._made is None:
                await trio.lowlevel.checkpoint()
            else:
                await self._made.aclose(code, reason)
        finally:
            # Whatever else the supervisor is doing: dialing, waiting, or calling on_connect.
            self._scope.cancel()
            if self._over.is_set():  # it had ended by itself
                self._end_locally()
        # Not shielded: this may be on_connect, which is to end first. It is __aexit__() that sees to it.
        await self._over.wait()

    # -- The supervisor --------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _supervise(self) -> None:
        """Be connected, again and again. Never raises."""
        try:
            with self._scope:
                while await self._try():
                    self._made = None
                    await self._retries.wait()
                    self._begin()
        except BaseException as exc:
            # What on_connect raises that is no Exception; or what the predicate raises, or the source of random
            # numbers.
            self._fail(exc)
        finally:
            if self._closing or self._failure is None:
                self._end_locally()
            self._over.set()

    def _begin(self) -> None:
        self._retries.begin()
        self._set(ReconnectPhase.CONNECTING, self.last_error)

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
            self._made = ws
            await self._greet(ws, connecting)
            if self._closing:
                return False
            connection = connection_of(ws)
            opened_at = trio.current_time()
            self._ws = ws
            self._set(ReconnectPhase.OPEN)
            await connection.state.wait_for(Phase.SETTLED)
            lived = trio.current_time() - opened_at
            self._keep_what_is_left(ws)
            go_on = self._decide(connection.state.error(), lived)
            # The server should hang up; nobody is to wait for that for long. And those who were woken in the same
            # moment are told how it ended, before we close it.
            with trio.move_on_after(GRACE):
                await ws.wait_closed()
            connection.cut()
        return go_on

    async def _greet(self, ws: WebSocket, connecting: Connecting) -> None:
        if self._on_connect is None or self._closing:
            return
        timeout = connecting._settings.open_timeout
        with trio.move_on_after(math.inf if timeout is None else timeout) as scope:
            await self._on_connect(ws)
        if scope.cancelled_caught:
            assert timeout is not None
            raise OpenTimeout(connecting._uri.host_header, timeout)

    def _keep_what_is_left(self, ws: WebSocket) -> None:
        """Keep the messages of a connection that has ended, until they are received."""
        self._ws = None
        left = connection_of(ws).inbox.take_rest()
        # An inbox is bounded, but there may be any number of them.
        excess = sum(map(len, left)) + sum(map(len, self._left)) - connection_of(ws).settings.receive_buffer
        while self._left and excess > 0:
            excess -= len(self._left.popleft())
        self._left.extend(left)

    def _decide(self, exc: BaseException, lived: float | None = None) -> bool:
        """Decide what follows on a failure, or on the end of a connection. Return whether to connect again."""
        if self._closing:
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

    def _end_locally(self) -> None:
        """End because the user has closed it, whatever it had ended with before."""
        made = self._made
        self._left.clear()
        self._end_with(ConnectionClosedLocally(None, None) if made is None else connection_of(made).state.error(), True)
        if self._state.phase is not ReconnectPhase.CLOSED:
            self._set(ReconnectPhase.CLOSED)

    def _end_with(self, exc: BaseException, is_clean: bool) -> None:
        self._ws = None
        self._failure = exc
        self._traceback = exc.__traceback__
        self._is_clean = is_clean

    def _set(self, phase: ReconnectPhase, error: BaseException | None = None, delay: float | None = None) -> None:
        self._state = ReconnectState(phase, self.attempts, error, delay)
        self._waiting.unpark_all()


class _States(AsyncIterator[ReconnectState]):
    """The states of a channel, for one watcher."""

    def __init__(self, channel: ReconnectingChannel) -> None:
        self._channel = channel
        self._seen: ReconnectState | None = None

    async def __anext__(self) -> ReconnectState:
        await trio.lowlevel.checkpoint()
        while self._channel._state is self._seen:
            if self._seen.phase is ReconnectPhase.CLOSED:
                raise StopAsyncIteration
            await self._channel._wait()
        self._seen = self._channel._state
        return self._seen


def _is_open(ws: WebSocket) -> bool:
    return connection_of(ws).state.can_send


def _say(error: BaseException | None) -> str:
    return str(error) or type(error).__name__


def _check_when_down(when_down: Any) -> None:
    if when_down not in get_args(WhenDown):
        raise ValueError(f"when_down is one of {', '.join(map(repr, get_args(WhenDown)))}, not {when_down!r}")
