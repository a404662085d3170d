"""A channel that reconnects: ``open_reconnecting``, ``ReconnectingChannel``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import trio

from ...connection.sendable import Sendable, make_close, prepare
from ...connection.session import code_after
from ...connection.websocket import WebSocket, connection_of
from ...exceptions import ConnectionClosed, NotConnected
from ...frames import CloseCode, Opcode
from ...misuse.usage import AsyncWithOnly, check_async_function, check_in_trio
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

#: The behavior of :meth:`ReconnectingChannel.send` while there is no connection: wait for one, or raise.
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
    """Open a channel that reconnects when its connection is lost, for the duration of an ``async with`` block.

    ::

        async def subscribe(ws: trio_ws.WebSocket) -> None:
            await ws.send('{"subscribe": "prices"}')

        async with trio_ws.open_reconnecting("wss://example.org/feed", on_connect=subscribe) as feed:
            async for message in feed: ...

    Entering the block does not wait for the first connection, which is opened in the background like all others. If an
    error occurs that connecting again cannot fix, the next call of :meth:`~ReconnectingChannel.receive` or
    :meth:`~ReconnectingChannel.send` raises it.

    Leaving the block closes the connection: with 1000 normally, with 1001 and without waiting for the server if the
    block is cancelled, with 1011 if it raises an exception. Exceptions from the block propagate unchanged.

    Args:
        uri: The URI. Or a function, async or not, that is called for each attempt and returns the result of
            :func:`connect` or :func:`connect_over`. Use it for credentials that expire and for other kinds of streams.
            An :exc:`OSError` from the function counts as a :exc:`ConnectFailed`.
        on_connect: An async function that is called with each new connection, before the channel uses it. Use it to log
            in or to subscribe. It must use the connection that it is given, because the channel is not open yet, and
            has ``open_timeout`` seconds. If it raises an exception, the connection is closed, and ``is_retryable`` is
            called with the exception.
        backoff: The delays between attempts, and the limits after which to give up.
        is_retryable: A function that takes an exception and returns whether connecting again may help. It is called
            with exceptions from connecting and from ``on_connect``, and with the exception for every end of a
            connection. It is not called if you close :attr:`ReconnectingChannel.ws`: then the channel always
            reconnects.
        when_down: The behavior of :meth:`~ReconnectingChannel.send` while there is no connection: ``"wait"`` for the
            next one, or ``"fail"`` with :exc:`NotConnected`.
        **options: The keyword arguments of :func:`connect`; not allowed with a function.

    Raises:
        InvalidURI: If the URI is not valid.
        TypeError: If an option has the wrong type or does not exist.
        ValueError: If an option is out of range.
    """
    check_retrying(backoff, is_retryable)
    if on_connect is not None:
        check_async_function("on_connect", on_connect)
    _check_when_down(when_down)
    connector = Connector(open_reconnecting, uri, options)
    check_in_trio("open_reconnecting()")
    return ReconnectingChannel(connector, Retries(backoff, is_retryable), on_connect, when_down)


class ReconnectingChannel(trio.abc.Channel[Message], AsyncWithOnly):
    """A channel of messages that reconnects when its connection is lost; see :func:`open_reconnecting`.

    Use it like a :class:`WebSocket`: any number of tasks may send, receive and iterate at the same time. Every async
    method is a checkpoint and can be cancelled.

    After the channel has ended, calls raise an exception: the error that connecting again cannot fix,
    :exc:`ConnectionClosedOK` if the server closed and ``is_retryable`` returned False for it, or
    :exc:`ConnectionClosedLocally` if you closed the channel. In the last two cases, ``async for`` ends without an
    exception. Messages that arrived before the end are received first, unless you closed the channel.
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
        """The current connection; None while there is none.

        Use it for methods that the channel does not have, such as :meth:`WebSocket.ping`. Closing it makes the channel
        reconnect.
        """
        return self._supervisor.ws

    @property
    def state(self) -> ReconnectState:
        """The current state of the channel."""
        return self._supervisor.state

    @property
    def attempts(self) -> int:
        """The number of attempts to connect so far."""
        return self._retries.attempts

    @property
    def last_error(self) -> BaseException | None:
        """The exception of the last failed attempt or lost connection; None before the first one.

        A successful attempt does not reset it.
        """
        return self._retries.last_error

    def states(self) -> AsyncIterator[ReconnectState]:
        """Return an asynchronous iterator over the states, which ends after the phase CLOSED.

        It yields the current state first. A slow watcher gets the latest state and misses the ones in between, so it
        never delays the channel.
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
        """Send a message on the current connection or, if there is none, on the next one.

        Like :meth:`WebSocket.send`, it returns when a connection has accepted the message. The message may be lost if
        that connection is lost soon afterwards. It is not sent again, because it may have arrived. If cancelled, it
        sends nothing.

        Args:
            message: The message: a ``str`` is sent as a text message, bytes as a binary message.
            text: True to send bytes with valid UTF-8 as a text message, False to send a ``str`` as a binary message
                encoded with UTF-8.
            compress: False to send this message uncompressed, if compression is in use.
            when_down: The behavior while there is no connection, ``"wait"`` or ``"fail"``; None for that of
                :func:`open_reconnecting`.

        Raises:
            NotConnected: If there is no connection and ``when_down`` is ``"fail"``.
            Exception: If the channel has ended; see :class:`ReconnectingChannel`.
            TypeError: If the message is neither a str nor bytes.
            ValueError: If the message is not valid as a text message, or ``when_down`` has another value.
        """
        if when_down is not None:
            _check_when_down(when_down)
        # This copies a message that could change while it waits.
        opcode, message = prepare(message, text)
        ws = self._supervisor.ws
        if ws is None or not _is_open(ws):
            await trio.lowlevel.checkpoint()
        while self._supervisor.outcome is None:
            ws = self._supervisor.ws
            if ws is not None and _is_open(ws):
                try:
                    return await ws.send(message, text=opcode is Opcode.TEXT, compress=compress)
                except ConnectionClosed:
                    pass  # The connection has not accepted the message: wait for the next one.
            elif (when_down or self._when_down) == "fail":
                self._check_entered()
                is_open = self._supervisor.state.phase is ReconnectPhase.OPEN
                reason = "the connection is closing" if is_open else str(self._supervisor.state)
                raise NotConnected(reason) from self._supervisor.state.error
            else:
                await self._wait_for_change()
        raise self._supervisor.outcome.with_traceback(self._supervisor.traceback)

    async def receive(self) -> Message:
        """Receive the next message from the current connection or, if there is none, from the next one.

        Messages that had arrived when their connection ended are received first. If they exceed ``receive_buffer``
        because nobody receives, messages from older connections are dropped. Cancelling it loses no message.

        Raises:
            Exception: If the channel has ended and no message is left; see :class:`ReconnectingChannel`.
        """
        while True:
            if self._supervisor.backlog or self._supervisor.outcome is not None:
                await trio.lowlevel.checkpoint()
                # Another task may have emptied the backlog meanwhile.
                if self._supervisor.backlog:
                    return self._supervisor.backlog.popleft()
                if self._supervisor.outcome is not None:
                    raise self._supervisor.outcome.with_traceback(self._supervisor.traceback)
            elif self._supervisor.ws is None:
                await self._wait_for_change()
            else:
                try:
                    return await self._supervisor.ws.receive()
                except ConnectionClosed:
                    pass  # The supervisor saves the backlog and reconnects.

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            if not self._supervisor.is_clean:
                raise
            raise StopAsyncIteration from None

    async def _wait_for_change(self) -> None:
        """Wait until the state changes."""
        self._check_entered()
        await self._supervisor.state_changed.park()

    def _check_entered(self) -> None:
        if self._nursery is None:
            raise RuntimeError(self._explain_use())

    # -- Opening and closing ---------------------------------------------------------------------------------------

    def _explain_use(self) -> str:
        return "open_reconnecting() must be used as `async with open_reconnecting(...) as channel:`"

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._nursery is not None:
            raise RuntimeError("the channel must be entered only once: call open_reconnecting() again")
        await trio.lowlevel.checkpoint()
        self._nursery = await self._manager.__aenter__()
        self._supervisor.begin_attempt()
        self._nursery.start_soon(self._supervisor.run)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        nurseries = trio.lowlevel.current_task().child_nurseries
        if not nurseries or nurseries[-1] is not self._nursery:
            self._supervisor.scope.cancel()
            raise RuntimeError(
                "the channel must be left in the task that entered it, after everything that was entered later"
            )
        try:
            await self.aclose(code_after(exc))
        except trio.Cancelled:
            if exc is None:
                raise
            # The block's exception propagates instead. The next checkpoint raises Cancelled again.
        finally:
            # Wait for the supervisor, which is about to end. The nursery does so even if this task is cancelled.
            await self._manager.__aexit__(None, None, None)

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the channel, and its connection if there is one.

        Unreceived messages are dropped. If cancelled, it closes without waiting for the server; see
        :meth:`WebSocket.aclose`.

        Args:
            code: The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455, section 7.4).
            reason: A text for the server's log, at most 123 bytes of UTF-8.

        Raises:
            ValueError: If the code must not be sent or the reason is too long. The channel stays open.
            TypeError: If the code is not an int or the reason is not a str. The channel stays open.
        """
        make_close(code, reason)
        self._check_entered()
        self._supervisor.closing = True
        try:
            if self._supervisor.attempt_ws is None:
                await trio.lowlevel.checkpoint()
            else:
                await self._supervisor.attempt_ws.aclose(code, reason)
        finally:
            # Interrupt the supervisor, which may be dialing, waiting, or calling on_connect.
            self._supervisor.scope.cancel()
            if self._supervisor.done.is_set():  # It had ended before.
                self._supervisor.end_locally()
        # This must not be shielded: on_connect may call aclose(), and the supervisor waits for on_connect.
        await self._supervisor.done.wait()


class _States(AsyncIterator[ReconnectState]):
    """The iterator over the states of a channel, for one watcher."""

    def __init__(self, channel: ReconnectingChannel) -> None:
        self._channel = channel
        self._seen: ReconnectState | None = None

    async def __anext__(self) -> ReconnectState:
        await trio.lowlevel.checkpoint()
        while self._channel._supervisor.state is self._seen:
            if self._seen.phase is ReconnectPhase.CLOSED:
                raise StopAsyncIteration
            await self._channel._wait_for_change()
        self._seen = self._channel._supervisor.state
        return self._seen


def _is_open(ws: WebSocket) -> bool:
    return connection_of(ws).state.can_send


def _check_when_down(when_down: Any) -> None:
    if when_down not in get_args(WhenDown):
        raise ValueError(f"when_down must be one of {', '.join(map(repr, get_args(WhenDown)))}, not {when_down!r}")
