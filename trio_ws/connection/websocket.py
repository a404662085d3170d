"""``WebSocket``: the public interface of an open connection.

:mod:`trio_ws.connection.core` explains how its methods, the two tasks and the peer interact.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal, overload

import trio

from ..exceptions import ConnectionClosedOK, InvalidData
from ..frames import CloseCode
from ..http11 import Request, Response
from ..misuse.usage import check_in_thread_of_trio, check_in_trio, outside_of_trio
from ..protocol import Message, Role
from ..protocol.codec import FIN
from ..protocol.connection import LARGE
from .checkpoints import call_counter
from .core import Connection
from .parts import ReceiveStream, SendStream
from .sendable import Sendable, make_close, prepare, prepare_control
from .state import Phase, State
from .writer import write_at_once

if TYPE_CHECKING:
    from .tls_info import TLSInfo

__all__ = ["WebSocket", "connection_of"]

#: The values of :attr:`WebSocket.id`.
_ids = itertools.count(1)


class WebSocket(trio.abc.Channel[Message]):
    """An open WebSocket connection: a Trio channel of messages, ``str`` for text and ``bytes`` for binary.

    Get one from :func:`connect`, or as the argument of a handler of :func:`serve`. Any number of tasks may use it at
    the same time. Messages are never mixed, and each is received exactly once.

    All ``async`` methods can be cancelled, and every call is a cancel point. A call lets other tasks run if it waits,
    and at least every 32nd call does in any case. (Every call of Trio's own channels does.)

    When the connection is not open any more, calls raise a :exc:`ConnectionClosed`: :exc:`ConnectionClosedOK` if the
    peer has closed normally, :exc:`ConnectionClosedLocally` if this end has closed, :exc:`ConnectionClosedError`
    otherwise. Messages that arrived before can be received first, unless this end has closed.

    ``async for`` receives messages until either end closes the connection normally.

    Attributes:
        request: The request of the opening handshake.
        response: The response of the opening handshake.
        subprotocol: The negotiated subprotocol, or None.
        id: A number that is unique in this process, for logs.
        local_address: The address of this end, in the format of the socket; None without a socket.
        remote_address: The address of the peer, in the format of the socket; None without a socket. On a server behind
            a trusted proxy, the address of the client; see :class:`Opening`.
        handshake_seconds: How long the opening handshake took, in seconds. On a client, from the beginning of
            ``connect()``, so that it includes the name look-up, a proxy, TLS and redirects. On a server, from the first
            byte of the request to the response.
        tls: The parameters of the TLS connection, also after it is closed; None without TLS. TLS of a proxy does not
            count. Nor does that of a stream of your own, unless it is a :class:`trio.SSLStream`.
    """

    request: Request
    response: Response
    subprotocol: str | None
    id: int
    local_address: Any
    remote_address: Any
    handshake_seconds: float
    tls: TLSInfo | None

    def __init__(self, connection: Connection, request: Request, response: Response, subprotocol: str | None) -> None:
        self._connection = connection
        self.request = request
        self.response = response
        self.subprotocol = subprotocol
        self.id = next(_ids)
        self.local_address = connection.stream.local_address
        self.remote_address = connection.stream.remote_address
        self.handshake_seconds = 0.0  # until the caller knows it
        self.tls = connection.stream.get_tls_info()
        self._inbox = connection.inbox
        self._checkpoint = call_counter.get().checkpoint

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.role.value} {self.request.path} {self.state.value}>"

    @property
    def role(self) -> Role:
        """The role of this end: ``CLIENT`` or ``SERVER``."""
        return self._connection.role

    @property
    def http_version(self) -> str:
        """The version of HTTP that carries the connection: ``"1.1"``, or ``"2"`` for a stream of HTTP/2."""
        return self.request.http_version

    @property
    def state(self) -> State:
        """The state of the connection: open, closing or closed."""
        return self._connection.state.public

    @property
    def latency(self) -> float | None:
        """The last round trip of a :meth:`ping` or of the keepalive, in seconds; None before the first one."""
        return self._connection.keepalive.latency

    @property
    def close_code(self) -> int | None:
        """The close code of the peer; 1006 if the connection was lost without one; None until the outcome is known."""
        state = self._connection.state
        return state.error().code if state.is_settled else None

    @property
    def close_reason(self) -> str | None:
        """The close reason of the peer, which may be empty; None until the outcome is known."""
        state = self._connection.state
        return state.error().reason if state.is_settled else None

    # -- Messages --------------------------------------------------------------------------------------------------

    async def send(self, message: Sendable, *, text: bool | None = None, compress: bool = True) -> None:
        """Send a message.

        This waits for room in the outbox of the connection, and returns when the message is there. The outbox holds 64
        KiB (see ``send_buffer``), or one message of any size. When cancelled, nothing of the message is sent.
        Otherwise, all of it is, unless the connection is lost.

        Args:
            message: A ``str`` is sent as text, bytes as binary. A ``bytearray`` or ``memoryview`` is copied.
            text: True to send UTF-8 bytes as a text message, False to send a ``str`` as a binary message. None:
                decide by the type.
            compress: Whether to compress the message if compression was negotiated. False sends it without any
                extension.

        Raises:
            ConnectionClosed: If the connection is closing or closed.
            TypeError: If the message is neither text nor bytes.
            ValueError: If the message is sent as text but is not UTF-8, or is a ``str`` that UTF-8 cannot encode.
        """
        opcode, data = prepare(message, text)
        try:
            await self._checkpoint()
        except RuntimeError:
            raise outside_of_trio("WebSocket.send()") from None
        connection = self._connection
        frame = (FIN | opcode, data, compress)
        # If more received messages wait to be handled, their answers can be joined with a small message into one write.
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

        When cancelled, no message is lost or received twice.

        Args:
            decode: True to return binary messages as ``str``, too. False to return text messages as ``bytes``, which
                are valid UTF-8. None: ``str`` for text, ``bytes`` for binary.

        Raises:
            ConnectionClosed: If the connection is closed and no message is left.
            InvalidData: If ``decode`` is true and a binary message is not UTF-8. The message counts as received; it is
                in the ``object`` attribute of the exception's ``__cause__``.
        """
        try:
            await self._checkpoint()
        except RuntimeError:
            raise outside_of_trio("WebSocket.receive()") from None
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
            raise InvalidData(f"a message to decode must be UTF-8: {exc.reason} at byte {exc.start}") from exc

    async def __anext__(self) -> Message:
        try:
            await self._checkpoint()
        except RuntimeError:
            raise outside_of_trio("WebSocket.receive()") from None
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
            del error  # otherwise, this frame and the traceback would refer to each other

    def send_stream(self, *, text: bool = False, compress: bool = True) -> SendStream:
        """Send a message in parts, without knowing its size in advance.

        ::

            async with ws.send_stream(text=True) as out:
                await out.send("part")

        Each part is sent at once. Other tasks that send wait until the message is complete.

        Leaving the block with an exception abandons the message. WebSocket cannot tell the peer so within a message.
        So if a part was sent already, the connection is closed with 1011; otherwise, nothing happens. If the connection
        is closed before the message is complete, leaving the block raises a :exc:`ConnectionClosed`.

        Args:
            text: True for a text message, False for a binary one.
            compress: Whether to compress the message, as for :meth:`send`.
        """
        return SendStream(self._connection, text, compress)

    def receive_stream(self) -> ReceiveStream:
        """Receive the next message in parts as they arrive, so that a large message needs little memory.

        ::

            async with ws.receive_stream() as parts:
                async for part in parts: ...

        ``parts.text`` is True for a text message. The boundaries of parts have no meaning, and no part is empty.
        Leaving the block early drops the rest of the message, and then the next one can be received. Other tasks that
        receive wait until the block is left.
        """
        return ReceiveStream(self._connection)

    # -- Control ---------------------------------------------------------------------------------------------------

    @overload
    async def ping(self, data: str | bytes | None = None, *, wait: Literal[True] = True) -> float: ...
    @overload
    async def ping(self, data: str | bytes | None = None, *, wait: Literal[False]) -> None: ...
    @overload
    async def ping(self, data: str | bytes | None = None, *, wait: bool) -> float | None: ...

    async def ping(self, data: str | bytes | None = None, *, wait: bool = True) -> float | None:
        """Send a ping and wait for its pong. When cancelled, the pong is ignored.

        The pong arrives after the messages that the peer has sent before it. If they fill the inbox, another task must
        receive them, or the pong cannot be read.

        Args:
            data: The payload of the ping, at most 125 bytes; None for a payload that is unique on this connection.
            wait: False to return as soon as the ping is queued, or to send nothing when cancelled. Its pong updates
                :attr:`latency` when it arrives. If 64 such pings are unanswered, the oldest one is forgotten, and not
                sent if it is still queued.

        Returns:
            The round trip time, in seconds; None if ``wait`` is false.

        Raises:
            ConnectionClosed: If the connection is closing or closed, or is closed before the pong arrives.
            TypeError: If ``data`` is neither text nor bytes.
            ValueError: If ``data`` is longer than 125 bytes.
        """
        payload = None if data is None else prepare_control(data)
        await self._begin_control("WebSocket.ping()")
        keepalive = self._connection.keepalive
        if not wait:
            keepalive.send_ping(payload)
            return None
        done = trio.Event()
        ping = keepalive.send_ping(payload, done)
        try:
            await done.wait()
        finally:
            keepalive.withdraw_ping(ping)
        if ping.round_trip is None:
            raise await self._connection.outcome()
        return ping.round_trip

    async def pong(self, data: str | bytes = b"") -> None:
        """Send a pong that answers no ping (RFC 6455, section 5.5.3): a heartbeat that the peer does not answer.

        Pings of the peer are answered without this. It returns when the pong is queued. When cancelled, nothing is
        sent. A pong is left out while 64 others wait to be written.

        Args:
            data: The payload of the pong, at most 125 bytes.

        Raises:
            ConnectionClosed: If the connection is closing or closed.
            TypeError: If ``data`` is neither text nor bytes.
            ValueError: If ``data`` is longer than 125 bytes.
        """
        payload = prepare_control(data)
        await self._begin_control("WebSocket.pong()")
        self._connection.outbox.put_unsolicited_pong(payload)

    async def _begin_control(self, call: str) -> None:
        """Begin a call that sends a control frame: a checkpoint, and an exception if nothing may be sent."""
        try:
            await self._checkpoint()
        except RuntimeError:
            raise outside_of_trio(call) from None
        if not self._connection.state.can_send:
            raise await self._connection.outcome()

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection.

        Queued messages are sent first. Messages that were not received are dropped. Then this waits until the peer has
        closed, too, for at most ``close_timeout`` seconds, and closes the stream in any case. On a closed connection,
        it does nothing.

        When cancelled, it does not wait: it sends the Close frame if that is possible at once, and closes the stream.

        Args:
            code: The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455, section 7.4).
            reason: A text for the peer's log, at most 123 bytes of UTF-8.

        Raises:
            ValueError: If the code may not be sent or the reason is too long. The connection stays as it was.
            TypeError: If ``code`` is not an int or ``reason`` is not a str.
        """
        check_in_trio("WebSocket.aclose()")  # before anything changes, which would break the run of Trio
        close = make_close(code, reason)
        connection = self._connection
        connection.close_locally(close)
        if trio.current_effective_deadline() == -math.inf:
            # This task is cancelled already. If the writer began another write now, that would be interrupted.
            connection.cancel_tasks()
        try:
            await self.wait_closed()
        except BaseException:
            connection.cancel_tasks()
            # The last flush and closing the stream take at most GOODBYE_TIMEOUT each.
            with trio.CancelScope(shield=True):
                await connection.state.wait_for(Phase.CLOSED)
            raise

    async def send_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the sending direction. The peer's last messages can still be received.

        The peer has ``close_timeout`` seconds to close, too. On a connection that is closing or closed, this does
        nothing.

        Args:
            code: The close code, as for :meth:`aclose`.
            reason: The close reason, as for :meth:`aclose`.

        Raises:
            ValueError: If the code may not be sent or the reason is too long. The connection stays as it was.
            TypeError: If ``code`` is not an int or ``reason`` is not a str.
        """
        close = make_close(code, reason)
        await self._checkpoint()
        self._connection.begin_closing(close)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, without closing it.

        A handler that neither sends nor receives can use this to notice that its peer has left. But as long as messages
        that nobody receives fill the inbox, the end of the connection cannot be noticed. This does not raise an
        exception for an abnormal end; see :attr:`close_code` and :attr:`close_reason`. When cancelled, it only stops
        waiting.
        """
        await self._checkpoint()
        await self._connection.state.wait_for(Phase.CLOSED)

    def abort(self) -> None:
        """Drop the connection at once, without a Close frame.

        Queued messages are lost. Calls that are waiting raise :exc:`ConnectionClosedError`. Messages that arrived
        before can still be received. On a closed connection, this does nothing.

        Raises:
            RuntimeError: If Trio does not run in this thread.
        """
        if self.state is not State.CLOSED:
            check_in_thread_of_trio("WebSocket.abort()")
            self._connection.abort()


def connection_of(ws: WebSocket) -> Connection:
    """Return the connection of a WebSocket, for other modules of this package."""
    return ws._connection
