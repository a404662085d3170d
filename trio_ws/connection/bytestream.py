"""A WebSocket as a Trio stream of bytes, to tunnel a protocol without messages: SSH, VNC, a database protocol.

Sent bytes become binary messages. Received bytes are the payloads of the binary messages, joined. The boundaries of
messages have no meaning, and empty messages are ignored. Messages are received in parts as they arrive, so their size
does not matter either, as long as it is not more than ``max_message_size``.

The peer's Close frame is the end of the stream. It is a normal end, ``b""``, if its code is a normal one and no message
is incomplete. Whether our answer to it arrives does not matter for the received bytes.

There is no ``send_eof()``, so this is not a :class:`trio.abc.HalfCloseableStream`. Only a Close frame could end one
direction, but its receiver must answer "as soon as practical" and cannot send anything after that (RFC 6455, section
5.5.1). So a Close frame ends both directions, and ``send_eof()`` would lose the peer's reply. A protocol that needs to
announce the end of its data must do so within the data, as it does over TLS.
"""

from __future__ import annotations

import contextlib
import operator
from typing import SupportsIndex

import trio

from ..exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    ProtocolError,
)
from ..frames import CloseCode
from ..misuse.values import check_instance
from .parts import ReceiveStream
from .websocket import WebSocket, connection_of

__all__ = ["ByteStream"]

#: Default message size, in bytes. It makes the overhead per message negligible, and common peers accept it.
MESSAGE_SIZE = 64 * 1024


class ByteStream(trio.abc.Stream):
    """The bytes of an open WebSocket, as a Trio stream.

    ::

        async with trio_ws.connect("wss://example.org/ssh") as ws:
            stream = trio_ws.ByteStream(ws)
            await stream.send_all(b"hello")
            async for data in stream: ...

    Like any Trio stream, it may be used by one task that sends and one that receives at the same time, and every call
    is a checkpoint. It can be the transport of a :class:`trio.SSLStream` or of another WebSocket.

    Do not send or receive on the WebSocket directly as long as this stream is in use. A text message from the peer
    closes the connection with 1003.

    Calls raise:

    - a subclass of :exc:`trio.ClosedResourceError` if this end has closed the stream or the WebSocket;
    - a subclass of :exc:`trio.BrokenResourceError` if the connection was lost or has failed, if the peer has closed
      with an error code or in the middle of a message, or, when sending, if the peer has closed at all;
    - :exc:`trio.BusyResourceError` if another task is sending, or receiving, at the same time.

    The first two are also subclasses of :exc:`ConnectionClosed`, which tells the reason.

    Args:
        ws: The WebSocket. Messages may have been exchanged on it before.
        message_size: Maximum size of the sent messages, in bytes. Peers refuse messages that are too large for them.
        compress: Whether to compress messages if compression was negotiated. Use False for data that is encrypted or
            compressed already.

    Attributes:
        ws: The WebSocket.

    Raises:
        ValueError: If ``message_size`` is less than 1.
        TypeError: If ``message_size`` is not an int.
    """

    ws: WebSocket

    def __init__(self, ws: WebSocket, *, message_size: int = MESSAGE_SIZE, compress: bool = True) -> None:
        check_instance("ws", ws, WebSocket, "a WebSocket")
        self.ws = ws
        self._message_size = _positive("message_size", message_size)
        self._compress = compress
        self._sending = _ExclusiveUse("sending")
        self._receiving = _ExclusiveUse("receiving")
        # The message that is being received, and the rest of its last part.
        self._message: ReceiveStream | None = None
        self._rest: memoryview | None = None
        # True once the peer has sent a text message.
        self._text_received = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.ws!r}>"

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, as one or more binary messages.

        This waits for room in the outbox of the connection, and returns when all messages are there. When cancelled,
        some messages with the beginning of the data may have been sent. The connection stays open, but the peer may not
        be able to interpret incomplete data.

        Args:
            data: The bytes. If there are none, no message is sent.

        Raises:
            TypeError: If ``data`` is not bytes.
        """
        if not isinstance(data, bytes):
            view = memoryview(data)
            data = view.cast("B") if view.c_contiguous else view.tobytes()
        with self._sending:
            await self._checkpoint()
            try:
                for start in range(0, len(data), self._message_size):
                    await self.ws.send(data[start : start + self._message_size], compress=self._compress)
            except ConnectionClosedOK as exc:
                raise _as_error(exc) from exc

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room for at least one byte in the outbox of the connection."""
        with self._sending:
            await self._checkpoint()
            try:
                # Entering a send_stream() waits for room, and abandoning it before the first part sends nothing.
                with contextlib.suppress(_Abandoned):
                    async with self.ws.send_stream():
                        raise _Abandoned
            except ConnectionClosedOK as exc:
                raise _as_error(exc) from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return some of them. When cancelled, no bytes are lost.

        Args:
            max_bytes: Maximum number of bytes to return; None for as many as have arrived together.

        Returns:
            The bytes, at least one; ``b""`` on every call after the peer has closed normally and all bytes were
            received.

        Raises:
            ValueError: If ``max_bytes`` is less than 1.
            TypeError: If ``max_bytes`` is neither an int nor None.
        """
        if max_bytes is not None:
            max_bytes = _positive("max_bytes", max_bytes)
        with self._receiving:
            await self._checkpoint()
            if self._rest is None:
                part = await self._receive_part()
                if max_bytes is None or len(part) <= max_bytes:
                    return part
                # A view, because slicing bytes would copy the rest of a large part on every call.
                self._rest = memoryview(part)
            data = bytes(self._rest[:max_bytes])
            self._rest = self._rest[len(data) :] or None
            return data

    async def aclose(self) -> None:
        """Close the WebSocket with 1000; see :meth:`WebSocket.aclose`.

        Bytes that were sent before go out first, if the peer accepts them within ``close_timeout`` seconds. Bytes that
        were not received are dropped. When cancelled, this closes the connection without waiting. On a closed stream,
        it does nothing.
        """
        await self.ws.aclose()
        await trio.lowlevel.checkpoint()  # every call of a stream must be a checkpoint, even without any waiting

    async def _checkpoint(self) -> None:
        """Begin a call with a checkpoint, which every call of a stream must have, and check that this end is open."""
        await trio.lowlevel.checkpoint()
        state = connection_of(self.ws).state
        if state.closed_locally:
            raise state.error()

    async def _receive_part(self) -> bytes:
        """Return the next part of a message, or ``b""`` at the end."""
        try:
            # When cancelled, the next call continues: nothing here can be cancelled after it has taken a part.
            while True:
                if self._message is None:
                    message = self.ws.receive_stream()
                    await message.__aenter__()
                    self._message = message
                if self._message.text:
                    # From now on, everything that arrives before the peer's Close frame is dropped.
                    self._text_received = True
                    await self.ws.send_close(CloseCode.UNSUPPORTED_DATA, "only binary messages are accepted")
                async for part in self._message:
                    if not self._text_received:
                        assert isinstance(part, bytes)
                        return part
                message, self._message = self._message, None
                await message.__aexit__(None, None, None)
        except ConnectionClosedLocally:
            raise
        except ConnectionClosed as exc:
            is_cut = self._message is not None or self._text_received or connection_of(self.ws).inbox.has_lost
            if _is_end(exc) and not is_cut:
                return b""
            if isinstance(exc, ConnectionClosedOK):
                raise _as_error(exc) from exc
            raise


class _ExclusiveUse:
    """A context manager that only one task may enter at a time."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is {self._doing} on this stream")
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False


class _Abandoned(Exception):
    """Leaves a send_stream() block without sending a message."""


def _positive(name: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def _is_end(exc: ConnectionClosed) -> bool:
    """Whether the peer has closed between two messages, and no Close frame has an error code."""
    rcvd, sent = exc.rcvd, exc.sent
    if isinstance(exc.__cause__, ProtocolError):  # the Close frame came in the middle of a message
        return False
    return rcvd is not None and rcvd.is_normal and (sent is None or sent.is_normal)


def _as_error(exc: ConnectionClosedOK) -> ConnectionClosedError:
    """Convert a normal closure into an error, for a stream that was still in use."""
    return ConnectionClosedError(exc.rcvd, exc.sent, exc.rcvd_then_sent)
