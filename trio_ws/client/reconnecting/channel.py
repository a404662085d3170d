"""A channel that lives across connections: ``open_reconnecting``, ``ReconnectingChannel``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import trio

from ...connection.sendable import Sendable, prepare
from ...connection.session import code_after
from ...connection.websocket import WebSocket, connection_of, make_close
from ...exceptions import ConnectionClosed, NotConnected
from ...frames import CloseCode, Opcode
from ...protocol import Message
from ..backoff import Backoff, Retries
from ..backoff import is_retryable as is_retryable_by_default
from ..connector import Connector, Target, check_retrying
from ..options import ConnectOptions
from .state import ReconnectPhase, ReconnectState
from .supervisor import Supervisor

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["ReconnectingChannel", "WhenDown", "open_reconnecting"]

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
        self._retries = retries
        self._when_down = when_down
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self._supervisor = Supervisor(connector, retries, on_connect)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._supervisor.state}>"

    @property
    def ws(self) -> WebSocket | None:
        """The connection that is open at the moment, or None.

        It has what this class has not, such as :meth:`WebSocket.ping`. Closing it makes the channel go on to the next
        connection.
        """
        return self._supervisor.ws

    @property
    def state(self) -> ReconnectState:
        """What it is doing."""
        return self._supervisor.state

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
        ws = self._supervisor.ws
        if ws is not None and _is_open(ws):
            try:
                return await ws.send(message, text=text, compress=compress)
            except ConnectionClosed:
                pass  # it has taken nothing
        # What cannot be sent is to be known now; and what waits cannot be changed any more.
        opcode, message = prepare(message, text)
        await trio.lowlevel.checkpoint()
        while self._supervisor.failure is None:
            ws = self._supervisor.ws
            if ws is not None and _is_open(ws):
                try:
                    return await ws.send(message, text=opcode is Opcode.TEXT, compress=compress)
                except ConnectionClosed:
                    pass
            elif (when_down or self._when_down) == "fail":
                self._check_entered()
                is_open = self._supervisor.state.phase is ReconnectPhase.OPEN
                reason = "the connection is closing" if is_open else str(self._supervisor.state)
                raise NotConnected(reason) from self._supervisor.state.error
            else:
                await self._wait()
        raise self._supervisor.failure.with_traceback(self._supervisor.traceback)

    async def receive(self) -> Message:
        """Receive the next message, of the connection that there is or of the next one.

        What had come in when a connection ended is received before anything else; if too much of that piles up because
        nobody receives, messages of older connections are dropped. When cancelled, no message is lost, and none is
        received twice.

        Raises:
            Exception: if the channel has ended and there is no message left: see :class:`ReconnectingChannel`.
        """
        while True:
            if self._supervisor.left or self._supervisor.failure is not None:
                await trio.lowlevel.checkpoint()
                # Meanwhile somebody else may have taken what was left.
                if self._supervisor.left:
                    return self._supervisor.left.popleft()
                if self._supervisor.failure is not None:
                    raise self._supervisor.failure.with_traceback(self._supervisor.traceback)
            elif self._supervisor.ws is None:
                await self._wait()
            else:
                try:
                    return await self._supervisor.ws.receive()
                except ConnectionClosed:
                    pass  # the supervisor looks for what is left, and for the next one

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            if not self._supervisor.is_clean:
                raise
            raise StopAsyncIteration from None

    async def _wait(self) -> None:
        """Wait for another state."""
        self._check_entered()
        await self._supervisor.waiting.park()

    def _check_entered(self) -> None:
        if self._nursery is None:
            raise RuntimeError("enter it with async with: until then it does not connect")

    # -- Beginning and end -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._nursery is not None:
            raise RuntimeError("it is entered once: call open_reconnecting() again")
        await trio.lowlevel.checkpoint()
        self._nursery = await self._manager.__aenter__()
        self._supervisor.begin()
        self._nursery.start_soon(self._supervisor.run)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        nurseries = trio.lowlevel.current_task().child_nurseries
        if not nurseries or nurseries[-1] is not self._nursery:
            self._supervisor.scope.cancel()
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
        self._supervisor.closing = True
        try:
            if self._supervisor.made is None:
                await trio.lowlevel.checkpoint()
            else:
                await self._supervisor.made.aclose(code, reason)
        finally:
            # Whatever else the supervisor is doing: dialing, waiting, or calling on_connect.
            self._supervisor.scope.cancel()
            if self._supervisor.over.is_set():  # it had ended by itself
                self._supervisor.end_locally()
        # Not shielded: this may be on_connect, which is to end first. It is __aexit__() that sees to it.
        await self._supervisor.over.wait()


class _States(AsyncIterator[ReconnectState]):
    """The states of a channel, for one watcher."""

    def __init__(self, channel: ReconnectingChannel) -> None:
        self._channel = channel
        self._seen: ReconnectState | None = None

    async def __anext__(self) -> ReconnectState:
        await trio.lowlevel.checkpoint()
        while self._channel._supervisor.state is self._seen:
            if self._seen.phase is ReconnectPhase.CLOSED:
                raise StopAsyncIteration
            await self._channel._wait()
        self._seen = self._channel._supervisor.state
        return self._seen


def _is_open(ws: WebSocket) -> bool:
    return connection_of(ws).state.can_send


def _check_when_down(when_down: Any) -> None:
    if when_down not in get_args(WhenDown):
        raise ValueError(f"when_down is one of {', '.join(map(repr, get_args(WhenDown)))}, not {when_down!r}")
