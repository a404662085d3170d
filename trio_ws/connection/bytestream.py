"""A WebSocket as a Trio stream of bytes, to tunnel a protocol that knows nothing of messages: SSH, VNC, a database's.

Bytes that are sent become binary messages, and what is received are the payloads of the binary messages that come, one
after the other. Where one message ends and the next begins means nothing, and an empty one means nothing at all. A
message is taken in parts as it comes in, so how large it is does not matter either, but to ``max_message_size``.

The peer's Close frame is the end of what it sends. It is the end as it should be, ``b""``, if it says that all is well
and does not cut a message; whether our answer to it arrives does not matter to what was received.

There is no ``send_eof``, so this is no :class:`trio.abc.HalfCloseableStream`. A Close frame is the only thing that says
that no more will come, and whoever gets one has to answer it "as soon as practical" and cannot send after that (RFC
6455, section 5.5.1). So it ends both directions; and a stream that said otherwise would lose the answer to all that was
sent before. A protocol that needs to say "this is all, now you" has to say so in its bytes, as it does over TLS.
"""

from __future__ import annotations

import operator
from typing import SupportsIndex

import trio

from ..exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally, ConnectionClosedOK
from ..frames import CloseCode
from ..misuse.values import check_instance
from .parts import ReceiveStream
from .websocket import WebSocket, connection_of

__all__ = ["ByteStream"]

#: Large enough that what is done for each message does not count, and not larger than what common peers accept.
MESSAGE_SIZE = 64 * 1024


class ByteStream(trio.abc.Stream):
    """The bytes of an open WebSocket, as a Trio stream.

    ::

        async with trio_ws.connect("wss://example.org/ssh") as ws:
            stream = trio_ws.ByteStream(ws)
            await stream.send_all(b"hello")
            async for data in stream: ...

    It is used as any Trio stream is: by one task that sends and one that receives, and each call is a checkpoint. It
    can be what is below :class:`trio.SSLStream`, or another WebSocket.

    From now on nobody else should send or receive on the WebSocket. A text message from the peer fails the connection
    with 1003.

    A call raises

    - what is a :exc:`trio.ClosedResourceError` when this end has closed, be it the stream or the WebSocket;
    - what is a :exc:`trio.BrokenResourceError` when the connection was lost or has failed, when the peer has closed
      with a code that says that something is wrong, or in the middle of a message, and on sending when it has closed at
      all;
    - :exc:`trio.BusyResourceError` when another task is doing the same.

    All but the last are also a :exc:`ConnectionClosed`, which tells why.

    Args:
        ws: The WebSocket. It need not be a new one: messages may have been exchanged before.
        message_size: How many bytes go into one message at most. Peers refuse messages that are too large for them.
        compress: False not to compress what is sent, where compression is in use. What is encrypted or compressed
            already does not become smaller.

    Attributes:
        ws: The WebSocket.

    Raises:
        ValueError: if the size is less than 1.
        TypeError: if it is not an int.
    """

    ws: WebSocket

    def __init__(self, ws: WebSocket, *, message_size: int = MESSAGE_SIZE, compress: bool = True) -> None:
        check_instance("ws", ws, WebSocket, "a WebSocket")
        self.ws = ws
        self._message_size = _positive("message_size", message_size)
        self._compress = compress
        self._sending = _OneTask("sending")
        self._receiving = _OneTask("receiving")
        # The message that is coming in, until its end was seen; and what is left of the part that was taken last.
        self._message: ReceiveStream | None = None
        self._rest: memoryview | None = None
        # Whether there was a text message.
        self._failed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.ws!r}>"

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes.

        It returns when all is in the outbox of the connection, and waits while there is no room. When cancelled, the
        beginning of the data may have been sent, in whole messages, and the connection goes on. Whether the peer can
        make sense of that is up to the protocol.

        Args:
            data: The bytes, of any number. None at all is no message.

        Raises:
            TypeError: if they are not bytes.
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
                # A message begins when there is room, and is nothing if it is abandoned before a part of it was sent.
                async with self.ws.send_stream():
                    raise _Abandoned
            except _Abandoned:
                pass
            except ConnectionClosedOK as exc:
                raise _as_error(exc) from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait until bytes have come in, and return some of them. When cancelled, nothing is lost.

        Args:
            max_bytes: How many to return at most. None: as many as are there together.

        Returns:
            The bytes, at least one; ``b""`` when the peer has closed normally and all was received, each time.

        Raises:
            ValueError: if ``max_bytes`` is less than 1.
            TypeError: if it is neither an int nor None.
        """
        if max_bytes is not None:
            max_bytes = _positive("max_bytes", max_bytes)
        with self._receiving:
            await self._checkpoint()
            if self._rest is None:
                part = await self._receive_part()
                if max_bytes is None or len(part) <= max_bytes:
                    return part
                # A view, so that taking a large part byte by byte does not copy the rest of it each time.
                self._rest = memoryview(part)
            data = bytes(self._rest[:max_bytes])
            self._rest = self._rest[len(data) :] or None
            return data

    async def aclose(self) -> None:
        """Close the WebSocket with 1000, as :meth:`WebSocket.aclose` does.

        What was sent before goes out first, if the peer takes it within ``close_timeout``; what was not received is
        dropped. When cancelled, the connection is cut. On a stream that is closed already it does nothing.
        """
        await self.ws.aclose()
        await trio.lowlevel.checkpoint()  # as each call of a stream is, also where there was nothing to wait for

    async def _checkpoint(self) -> None:
        """Begin a call: one of a stream lets other tasks run each time, and tells even if there is nothing to do."""
        await trio.lowlevel.checkpoint()
        state = connection_of(self.ws).state
        if state.closed_locally:
            raise state.error()

    async def _receive_part(self) -> bytes:
        """Return what has come in of the next message, or of the one that is coming in; ``b""`` at the end."""
        try:
            # When cancelled, it goes on in the next call: none of these takes something away and does not return it.
            while True:
                if self._message is None:
                    message = self.ws.receive_stream()
                    await message.__aenter__()
                    self._message = message
                if self._message.text:
                    # From now on everything is dropped, so that the answer comes in.
                    self._failed = True
                    await self.ws.send_close(CloseCode.UNSUPPORTED_DATA, "only binary messages are accepted")
                async for part in self._message:
                    if not self._failed:
                        assert isinstance(part, bytes)
                        return part
                message, self._message = self._message, None
                await message.__aexit__(None, None, None)
        except ConnectionClosedLocally:
            raise
        except ConnectionClosed as exc:
            if self._message is None and not self._failed and _is_end(exc):
                return b""
            if isinstance(exc, ConnectionClosedOK):
                raise _as_error(exc) from exc
            raise


class _OneTask:
    """Lets one task at a time do something."""

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
    """A message was begun, and will not be sent."""


def _positive(name: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def _is_end(exc: ConnectionClosed) -> bool:
    """Whether the peer has said that no more will come, and nobody that something is wrong."""
    rcvd, sent = exc.rcvd, exc.sent
    return rcvd is not None and rcvd.is_normal and (sent is None or sent.is_normal)


def _as_error(exc: ConnectionClosedOK) -> ConnectionClosedError:
    """Return what a normal closure is in the middle of something."""
    return ConnectionClosedError(exc.rcvd, exc.sent, exc.rcvd_then_sent)
