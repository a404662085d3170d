"""The open WebSocket, as its user sees it.

What happens between the calls here and the peer is in :mod:`trio_ws.tasks`.
"""

from __future__ import annotations

import codecs
import itertools
import math
import sys
from collections.abc import Awaitable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from .exceptions import ConnectionClosed, ConnectionClosedOK, InvalidData
from .frames import MAX_CONTROL_PAYLOAD, Close, CloseCode, Opcode
from .http11 import Request, Response
from .per_run import PerRun
from .protocol import Message
from .protocol.codec import FIN
from .tasks import Connection, run

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReceiveStream", "SendStream", "Sendable", "Session", "WebSocket", "code_after", "make_close", "prepare"]

#: What can be sent as one message.
Sendable: TypeAlias = str | bytes | bytearray | memoryview

#: A call lets other tasks run at least once in so many calls.
CALLS_PER_TURN = 32


class Turn:
    """How many calls were made since other tasks could run.

    They are counted per run of Trio, not per connection, so that a task that goes round many connections lets others
    run too.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls = 0

    def checkpoint(self) -> Awaitable[None]:
        """Return what to wait for in each call: all of them can be cancelled, one in CALLS_PER_TURN lets others run."""
        self._calls += 1
        if self._calls < CALLS_PER_TURN:
            return checkpoint_if_cancelled()  # noqa: ASYNC105  # the caller does
        self._calls = 0
        return checkpoint()  # noqa: ASYNC105  # the caller does


#: The numbers of connections.
_ids = itertools.count(1)


_turn = PerRun(Turn)


class WebSocket(trio.abc.Channel[Message]):
    """An open WebSocket connection: a Trio channel of messages, ``str`` for text and ``bytes`` for binary.

    Get one from :func:`connect` or as the argument of a handler of :func:`serve`. Any number of tasks may use it at the
    same time: messages are neither mixed nor torn, and each is received once.

    All methods marked ``async`` can be cancelled, and check for it on every call. They let other tasks run whenever
    they wait, and at least once in 32 calls (that is the difference to Trio's own channels, where it is every call).

    When the connection is not open any more, they raise a :exc:`ConnectionClosed`: :exc:`ConnectionClosedOK` after a
    normal closure by the peer, :exc:`ConnectionClosedLocally` after one by this end, :exc:`ConnectionClosedError`
    otherwise. Messages that came in before are received first, unless this end has closed.

    Iterating with ``async for`` receives messages until the connection is closed normally by either end.

    Attributes:
        request: The request of the opening handshake.
        response: Its response.
        subprotocol: The subprotocol that was agreed on, or None.
        id: A number that no other connection of this process has, for logs.
        local_address: The address of this end, in the form that the socket gives it; None without a socket.
        remote_address: The address of the other end, in the same form; None without a socket.
    """

    request: Request
    response: Response
    subprotocol: str | None
    id: int
    local_address: Any
    remote_address: Any

    def __init__(
        self,
        connection: Connection,
        request: Request,
        response: Response,
        subprotocol: str | None,
    ) -> None:
        self._connection = connection
        self.request = request
        self.response = response
        self.subprotocol = subprotocol
        self.id = next(_ids)
        self.local_address = connection.transport.local_address
        self.remote_address = connection.transport.remote_address
        self._inbox = connection.inbox
        self._checkpoint = _turn.get().checkpoint

    def __repr__(self) -> str:
        connection = self._connection
        state = "closed" if connection.settled.is_set() else "closing" if connection.outbox.finished else "open"
        return f"<{type(self).__name__} {connection.role.value} {self.request.path} {state}>"

    @property
    def latency(self) -> float | None:
        """The last round trip of a ping, in seconds: of a :meth:`ping`, or of the keepalive. None before the first."""
        return self._connection.latency

    @property
    def close_code(self) -> int | None:
        """The close code of the peer, 1006 if the connection was lost without one; None while it is open."""
        return self._connection.error().code if self._connection.settled.is_set() else None

    @property
    def close_reason(self) -> str | None:
        """The close reason of the peer, which may be empty; None while the connection is open."""
        return self._connection.error().reason if self._connection.settled.is_set() else None

    # -- Messages --------------------------------------------------------------------------------------------------

    async def send(self, message: Sendable, *, text: bool | None = None, compress: bool = True) -> None:
        """Send a message.

        It returns when the message is in the outbox of the connection, which has room for 64 KiB (see ``send_buffer``)
        and for one message of any size, and waits while there is no room. When cancelled, nothing of the message is
        sent; otherwise all of it is, as long as the connection lives.

        Args:
            message: A ``str`` goes out as text, bytes as binary. The content of a ``bytearray`` or ``memoryview`` is
                copied.
            text: True to send bytes that are UTF-8 as text, False to send the UTF-8 of a ``str`` as binary.
            compress: False not to compress this message, where compression is in use.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            TypeError: if the message is neither text nor bytes.
            ValueError: if it is to be text and cannot be.
        """
        opcode, data = prepare(message, text)
        await self._checkpoint()
        frame = (FIN | opcode, data, compress)
        if not self._connection.send_nowait(frame):
            self._check_not_streaming()
            self._connection.relieve()  # the peer may wait for us to read before it does
            self._connection.report()
            if not await self._connection.outbox.put(frame):
                raise await self._closed()

    @overload
    async def receive(self, *, decode: None = None) -> Message: ...
    @overload
    async def receive(self, *, decode: Literal[True]) -> str: ...
    @overload
    async def receive(self, *, decode: Literal[False]) -> bytes: ...
    @overload
    async def receive(self, *, decode: bool | None) -> Message: ...

    async def receive(self, *, decode: bool | None = None) -> Message:
        """Receive the next message.

        When cancelled, no message is lost, and none is received twice.

        Args:
            decode: True to get binary messages as ``str`` too, False to get text as ``bytes``, which are known to be
                UTF-8.

        Raises:
            ConnectionClosed: if the connection is closed and there is no message left.
            InvalidData: if ``decode`` is true and a binary message is not UTF-8. It was received all the same, and is
                the ``object`` of the exception's ``__cause__``.
        """
        await self._checkpoint()
        message = self._inbox.get_nowait()
        if message is None:
            message = await self._wait_for_message()
        if decode is None or isinstance(message, str) is decode:
            return message
        if isinstance(message, str):
            return message.encode()
        try:
            return message.decode()
        except UnicodeDecodeError as exc:
            raise InvalidData(f"a binary message is not UTF-8: {exc.reason} at byte {exc.start}") from exc

    async def __anext__(self) -> Message:
        await self._checkpoint()
        message = self._inbox.get_nowait()
        if message is not None:
            return message
        try:
            return await self._wait_for_message()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None
        except ConnectionClosed:
            if self._connection.is_clean:
                raise StopAsyncIteration from None
            raise

    def send_stream(self, *, text: bool = False, compress: bool = True) -> SendStream:
        """Send a message in parts, without knowing its end.

        ::

            async with ws.send_stream(text=True) as out:
                await out.send("part")

        Parts go out as they come. Other tasks that send wait until the message is complete.

        Leaving the block with an exception abandons the message. There is no way to tell the peer so in the middle of a
        message, so if a part was sent, the connection is closed with 1011; otherwise nothing happens. Leaving it after
        the connection was closed raises a :exc:`ConnectionClosed`, as the message is not complete.

        Args:
            text: True for a text message, False for a binary one.
            compress: False not to compress it, where compression is in use.
        """
        return SendStream(self, text, compress)

    def receive_stream(self) -> ReceiveStream:
        """Receive the next message in parts, as they come in, however large it is.

        ::

            async with ws.receive_stream() as parts:
                async for part in parts: ...

        ``parts.text`` tells whether it is text. Where one part ends and the next begins means nothing; none is empty.
        Leaving the block early drops the rest of the message, and the next one can be received. Other tasks that
        receive wait until the block is left.
        """
        return ReceiveStream(self)

    # -- Control ---------------------------------------------------------------------------------------------------

    async def ping(self, data: str | bytes | None = None) -> float:
        """Send a ping and wait for its pong. When cancelled, the pong is ignored.

        The pong comes after what the peer has sent before it. So when messages fill the inbox, another task has to
        receive them meanwhile.

        Args:
            data: What the ping carries, at most 125 bytes. None: something that no other ping carries.

        Returns:
            The round trip in seconds.

        Raises:
            ConnectionClosed: if the connection is closed, or before the pong comes.
            TypeError: if the data are neither text nor bytes.
            ValueError: if they are too long.
        """
        payload = None if data is None else prepare(data, None)[1]
        if payload is not None and len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a ping carries at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
        await self._checkpoint()
        connection = self._connection
        if connection.outbox.finished:
            raise await self._closed()
        ping = connection.send_ping(payload)
        try:
            await ping.done.wait()
        finally:
            connection.forget_ping(ping)
        if ping.round_trip is None:
            raise connection.error()
        return ping.round_trip

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection.

        What was sent before goes out first; messages that were not received are dropped. Then this waits until the peer
        has closed too, at most ``close_timeout`` seconds, and the stream below is closed in any case. On a connection
        that is closed already it does nothing.

        When cancelled, it does not wait: the stream is closed at once, after a Close frame if there is room for it.

        Args:
            code: The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455, section 7.4).
            reason: Text for the peer's log, at most 123 bytes of UTF-8.

        Raises:
            ValueError: if the code may not be sent, or the reason is too long; nothing has happened then.
            TypeError: if they are not an int and a str.
        """
        close = make_close(code, reason)
        connection = self._connection
        connection.closed_locally = True
        connection.begin_closing(close)
        connection.inbox.discard()
        if trio.current_effective_deadline() == -math.inf:
            # We are cancelled already. Say so before the writer begins, or it may be cut off in the middle of a write.
            connection.abort()
        try:
            await connection.closed.wait()
        except BaseException:
            connection.abort()
            # What is left to do takes GOODBYE_TIMEOUT twice at most.
            with trio.CancelScope(shield=True):
                await connection.closed.wait()
            raise

    async def send_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close this direction: nothing can be sent any more, but the peer's last messages can be received.

        The peer has ``close_timeout`` seconds to close too. On a connection that is closing already it does nothing.

        Args:
            code: As for :meth:`aclose`.
            reason: As for :meth:`aclose`.

        Raises:
            ValueError: if the code may not be sent, or the reason is too long; nothing has happened then.
            TypeError: if they are not an int and a str.
        """
        close = make_close(code, reason)
        await self._checkpoint()
        self._connection.begin_closing(close)

    # -- What the methods have in common ---------------------------------------------------------------------------

    async def _wait_for_message(self) -> Message:
        message = await self._connection.next_message()
        if message is None:
            raise await self._closed()
        return message

    async def _closed(self) -> ConnectionClosed:
        """Wait until it is known how the connection ends, and return the exception that says it."""
        await self._connection.settled.wait()
        return self._connection.error()

    def _check_not_streaming(self) -> None:
        stream = self._connection.outbox.stream
        if isinstance(stream, SendStream) and stream.task is trio.lowlevel.current_task():
            raise RuntimeError("this task is in the middle of a send_stream() on the same WebSocket")


class SendStream:
    """A message that is sent in parts; see :meth:`WebSocket.send_stream`."""

    def __init__(self, ws: WebSocket, text: bool, compress: bool) -> None:
        self._ws = ws
        self._outbox = ws._connection.outbox
        self._text = text
        self._compress = compress
        self._opcode = Opcode.TEXT if text else Opcode.BINARY
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._active = False
        self._busy = False
        #: The task that is in the block.
        self.task: trio.lowlevel.Task | None = None

    async def __aenter__(self) -> Self:
        if self.task is not None:
            raise RuntimeError("a send_stream() sends one message")
        self.task = trio.lowlevel.current_task()
        ws = self._ws
        await ws._checkpoint()
        ws._check_not_streaming()
        if not await self._outbox.begin_stream(self):
            raise await ws._closed()
        self._active = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._active = False
        started = self._opcode is Opcode.CONT
        try:
            if exc is None:
                self._utf8.decode(b"", True)
        except UnicodeDecodeError as error:
            self._abandon(started)
            raise InvalidData("the text ends in the middle of a character") from error
        if exc is not None:
            self._abandon(started)
            return
        if not self._outbox.end_stream((FIN | self._opcode, b"", self._compress)):
            raise await self._ws._closed()
        await self._ws._checkpoint()

    def _abandon(self, started: bool) -> None:
        if started:
            self._ws._connection.begin_closing(Close(CloseCode.INTERNAL_ERROR, "message abandoned"))
        self._outbox.end_stream(None)

    async def send(self, part: Sendable) -> None:
        """Send a part of the message. When cancelled, nothing of this part is sent.

        Args:
            part: ``str`` or bytes, whichever kind the message is of: bytes are UTF-8 in a text message, and may end in
                the middle of a character.

        Raises:
            ConnectionClosed: if the connection is closed, or closing.
            TypeError: if the part is neither text nor bytes, or text in a binary message.
            ValueError: if it cannot be text, in a text message.
            trio.ClosedResourceError: outside of the block.
            trio.BusyResourceError: if another task is sending a part.
        """
        if isinstance(part, str) and not self._text:
            raise TypeError("a part of a binary message is bytes, not str")
        data = prepare(part, None)[1]
        await self._ws._checkpoint()
        self._check_active()
        if self._busy:
            raise trio.BusyResourceError("another task is sending a part of this message")
        before = self._utf8.getstate()
        if self._text:
            try:
                self._utf8.decode(data)
            except UnicodeDecodeError as exc:
                self._utf8.setstate(before)
                raise InvalidData(f"a part of a text message is not UTF-8: {exc.reason}") from exc
        if not data:
            return
        self._ws._connection.report()
        self._busy = True
        sent = False
        try:
            sent = await self._outbox.put((self._opcode, data, self._compress), self)
        finally:
            self._busy = False
            if not sent:
                self._utf8.setstate(before)
        if not sent:
            self._check_active()
            raise await self._ws._closed()
        self._opcode = Opcode.CONT

    def _check_active(self) -> None:
        if not self._active:
            raise trio.ClosedResourceError("this message is not being sent any more, or not yet")


class ReceiveStream:
    """A message that is received in parts: an asynchronous iterator; see :meth:`WebSocket.receive_stream`.

    Attributes:
        text: Whether the message is text; its parts are ``str`` then, and ``bytes`` otherwise.
    """

    text: bool

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._inbox = ws._connection.inbox
        self._entered = False
        self._active = False
        self._busy = False
        self._complete = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a receive_stream() receives one message")
        self._entered = True
        await self._ws._checkpoint()
        await self._inbox.begin_turn()
        self._ws._connection.relieve()
        try:
            if not await self._inbox.begin_parts(self):
                raise await self._ws._closed()
        except BaseException:
            self._inbox.end_turn()
            raise
        self._active = True
        self.text = self._inbox.next_is_text()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._active = False
        if not self._complete:
            self._inbox.skip_parts()
        self._inbox.end_turn()
        if exc is None:
            await self._ws._checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Receive the next part. When cancelled, no part is lost.

        Raises:
            ConnectionClosed: if the connection is closed before the message is complete.
            trio.ClosedResourceError: outside of the block.
            trio.BusyResourceError: if another task is receiving a part.
        """
        await self._ws._checkpoint()
        self._check_active()
        if self._busy:
            raise trio.BusyResourceError("another task is receiving a part of this message")
        while not self._complete:
            self._busy = True
            try:
                part = await self._inbox.get_part(self)
            finally:
                self._busy = False
            if part is None:
                self._check_active()
                raise await self._ws._closed()
            data, self._complete = part
            if data:
                return data
        raise StopAsyncIteration

    def _check_active(self) -> None:
        if not self._active:
            raise trio.ClosedResourceError("this message is not being received any more, or not yet")


class Session:
    """Runs a connection for as long as a block: ``async with Session(...) as ws``.

    It closes the connection on the way out, whichever way that is, and what comes out of the block comes out of the
    session as it is. It is a class because a nursery must not be held across the ``yield`` of a generator; and it holds
    the nursery by hand because the exceptions of the block must not end up in the nursery's ExceptionGroup.
    """

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._connection = ws._connection
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> WebSocket:
        self._nursery = await self._manager.__aenter__()
        self._connection.open(partial(self._nursery.start_soon, run, self._connection))
        if self._connection.observer is not None:
            self._connection.observer.open(self._ws)
        return self._ws

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        nurseries = trio.lowlevel.current_task().child_nurseries
        if not nurseries or nurseries[-1] is not self._nursery:
            self._connection.abort()
            raise RuntimeError(
                "a WebSocket must be left in the task that entered it, after everything that was entered later"
            )
        try:
            await self._ws.aclose(code_after(exc))
        except trio.Cancelled:
            if exc is None:
                raise
            # The exception of the block goes on. The cancellation is not lost: the next checkpoint meets it again.
        finally:
            # Nothing is left in the nursery by now, so this does not wait.
            await self._manager.__aexit__(None, None, None)


def code_after(exc: BaseException | None) -> CloseCode:
    """Return the code to close with when a block has ended, with an exception or without."""
    if exc is None:
        return CloseCode.NORMAL_CLOSURE
    return CloseCode.GOING_AWAY if _has_cancelled(exc) else CloseCode.INTERNAL_ERROR


def _has_cancelled(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(_has_cancelled(each) for each in exc.exceptions)
    return isinstance(exc, trio.Cancelled)


def make_close(code: int, reason: str) -> Close:
    """Return what to close with. Raises ValueError if that may not be sent."""
    if code == CloseCode.NO_STATUS_RCVD:
        raise ValueError(f"{code} is not a close code that may be sent")
    return Close(code, reason)


def prepare(message: Sendable, text: bool | None) -> tuple[Opcode, bytes]:
    """Return how to send a message, and its bytes, which nobody else can change."""
    if text is None:
        # Nearly all are of these.
        if type(message) is bytes:
            return Opcode.BINARY, message
        if type(message) is str:
            return Opcode.TEXT, message.encode()
    if isinstance(message, str):
        return (Opcode.BINARY if text is False else Opcode.TEXT), message.encode()
    if isinstance(message, (bytes, bytearray, memoryview)):
        data = bytes(message)
        if not text:
            return Opcode.BINARY, data
        try:
            data.decode()
        except UnicodeDecodeError as exc:
            raise InvalidData(f"the message is not UTF-8: {exc.reason} at byte {exc.start}") from exc
        return Opcode.TEXT, data
    raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
