"""The open WebSocket, as its user sees it.

What happens between the calls here and the peer is in :mod:`trio_ws.connection.core`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, overload

import trio

from ..exceptions import ConnectionClosedOK, InvalidData
from ..frames import MAX_CONTROL_PAYLOAD, Close, CloseCode
from ..http11 import Request, Response
from ..protocol import Message, Role
from ..protocol.codec import FIN
from ..protocol.connection import LARGE
from .checkpoints import call_counter
from .core import Connection
from .parts import ReceiveStream, SendStream
from .sendable import Sendable, prepare
from .state import Phase, State
from .writer import write_at_once

__all__ = ["WebSocket", "connection_of", "make_close"]

#: The numbers of connections.
_ids = itertools.count(1)


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
        remote_address: The address of the other end; None without a socket. On a server behind a proxy that it knows
            of, it is that of the client: see :class:`Opening`.
    """

    request: Request
    response: Response
    subprotocol: str | None
    id: int
    local_address: Any
    remote_address: Any

    def __init__(self, connection: Connection, request: Request, response: Response, subprotocol: str | None) -> None:
        self._connection = connection
        self.request = request
        self.response = response
        self.subprotocol = subprotocol
        self.id = next(_ids)
        self.local_address = connection.stream.local_address
        self.remote_address = connection.stream.remote_address
        self._inbox = connection.inbox
        self._checkpoint = call_counter.get().checkpoint

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.role.value} {self.request.path} {self.state.value}>"

    @property
    def role(self) -> Role:
        """Which end this is: ``CLIENT`` or ``SERVER``."""
        return self._connection.role

    @property
    def state(self) -> State:
        """How far the connection has come: open, closing or closed."""
        return self._connection.state.public

    @property
    def latency(self) -> float | None:
        """The last round trip of a ping, in seconds: of a :meth:`ping`, or of the keepalive. None before the first."""
        return self._connection.keepalive.latency

    @property
    def close_code(self) -> int | None:
        """The close code of the peer, 1006 if the connection was lost without one; None while that is not known."""
        state = self._connection.state
        return state.error().code if state.is_settled else None

    @property
    def close_reason(self) -> str | None:
        """The close reason of the peer, which may be empty; None while that is not known."""
        state = self._connection.state
        return state.error().reason if state.is_settled else None

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
        connection = self._connection
        frame = (FIN | opcode, data, compress)
        # Whoever still has messages to handle may send more, and what is small can go out in the same write.
        if (connection.inbox.is_empty or len(data) >= LARGE) and write_at_once(connection, frame):
            return
        if not connection.outbox.put_nowait(frame):
            connection.observer.report()
            if not await connection.outbox.put(frame):
                raise await connection.outcome()

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
            self._connection.observer.report()
            message = await self._inbox.get()
        if message is None:
            raise await self._connection.outcome()
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
        self._connection.observer.report()
        received: Message | None = await self._inbox.get()
        if received is not None:
            return received
        error = await self._connection.outcome()
        if isinstance(error, ConnectionClosedOK) or self._connection.state.is_clean:
            raise StopAsyncIteration
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame

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
        return SendStream(self._connection, text, compress)

    def receive_stream(self) -> ReceiveStream:
        """Receive the next message in parts, as they come in, however large it is.

        ::

            async with ws.receive_stream() as parts:
                async for part in parts: ...

        ``parts.text`` tells whether it is text. Where one part ends and the next begins means nothing; none is empty.
        Leaving the block early drops the rest of the message, and the next one can be received. Other tasks that
        receive wait until the block is left.
        """
        return ReceiveStream(self._connection)

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
            raise ValueError(f"the data of a ping must be at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
        await self._checkpoint()
        connection = self._connection
        if not connection.state.can_send:
            raise await connection.outcome()
        done = trio.Event()
        ping = connection.keepalive.send_ping(payload, done)
        try:
            await done.wait()
        finally:
            connection.keepalive.withdraw_ping(ping)
        if ping.round_trip is None:
            raise await connection.outcome()
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
        connection.close_locally(close)
        if trio.current_effective_deadline() == -math.inf:
            # We are cancelled already. Say so before the writer begins, or it may be cut off in the middle of a write.
            connection.cancel_tasks()
        try:
            await self.wait_closed()
        except BaseException:
            connection.cancel_tasks()
            # What is left to do takes GOODBYE_TIMEOUT twice at most.
            with trio.CancelScope(shield=True):
                await connection.state.wait_for(Phase.CLOSED)
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

    async def wait_closed(self) -> None:
        """Wait until the connection is over: it is known how it ended, and the stream is closed.

        It does not raise because of how that was; :attr:`close_code` and :attr:`close_reason` tell. It closes nothing
        itself. So a handler that neither sends nor receives learns that its peer has left. While messages that nobody
        receives fill the inbox, nothing of that can be noticed. When cancelled, nothing has happened.
        """
        await self._checkpoint()
        await self._connection.state.wait_for(Phase.CLOSED)

    def abort(self) -> None:
        """Drop the connection at once, without a Close frame.

        What waits to be sent is lost. Those who wait for something get a :exc:`ConnectionClosedError`. Messages that
        came in before can still be received. On a connection that is closed already it does nothing.
        """
        self._connection.abort()


def connection_of(ws: WebSocket) -> Connection:
    """Return what is behind a WebSocket, for the rest of the package."""
    return ws._connection


def make_close(code: int, reason: str) -> Close:
    """Return what to close with.

    Raises:
        ValueError: if that may not be sent.
        TypeError: if they are not an int and a str.
    """
    if code == CloseCode.NO_STATUS_RCVD:
        raise ValueError(f"code must be a close code that may be sent, not {code}")
    return Close(code, reason)
