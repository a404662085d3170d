"""A stream of HTTP/2 as a Trio stream: ``HTTP2Stream``.

* Received bytes wait here until they are taken. Only then may the peer send more.
* Sending goes as far as the windows of the peer, and the output of the connection, have room. The rest waits.
* Closing a stream sends END_STREAM, as closing a socket sends FIN, and then RST_STREAM if the peer has not ended its
  direction. Aborting sends RST_STREAM(CANCEL) alone (RFC 8441, section 5). Neither waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import h2.exceptions
import trio
from h2.errors import ErrorCodes
from h2.stream import H2Stream

from ..connection.stream import RECEIVE_SIZE, StreamAdapter
from .frames import Chunk, error_name
from .headers import HeaderList
from .output import Output
from .protocol import HTTP2Protocol
from .tunnels import Tunnel

__all__ = ["Carrier", "HTTP2Stream"]

#: Size up to which received pieces are joined, in bytes.
JOINED = 1024


class Carrier(Protocol):
    """The part of an HTTP/2 connection that its streams use.

    Attributes:
        protocol: The protocol.
        is_client: Whether this is the client.
        transport: The stream that carries the connection.
        output: The output of the connection.
        failure: The reason why the connection is lost; None before that.
    """

    protocol: HTTP2Protocol
    is_client: bool
    transport: StreamAdapter
    output: Output
    failure: str | None

    def discard(self, stream: HTTP2Stream) -> None:
        """Forget a stream that is closed."""
        ...


class HTTP2Stream(trio.abc.HalfCloseableStream):
    """One stream of an HTTP/2 connection.

    Like any Trio stream, it may be used by one task for sending and one for receiving at the same time. All methods
    raise :exc:`trio.BrokenResourceError` if the stream or the connection is lost, :exc:`trio.ClosedResourceError` if it
    was closed here. Cancelling ``receive_some`` loses nothing. After a cancelled ``send_all``, nobody knows how much
    was sent.

    Args:
        carrier: The connection.
        stream_id: The number of the stream.

    Attributes:
        carrier: The connection.
        stream_id: The number of the stream.
        headers: The headers of the request or the response, from their arrival until they are taken.
        headers_received: Set when they have arrived, or the stream has ended without them.
        tunnel: The flow control, once the stream is a tunnel.
        ended: Whether the peer has ended its direction.
        failure: The reason why the stream is lost; None if it is not.
        error_code: The reason if the peer has reset the stream; None if it has not.
        refused: Whether it is known that the peer has not processed anything of this stream.
        closed: Whether the stream was closed here.
    """

    def __init__(self, carrier: Carrier, stream_id: int) -> None:
        self.carrier: Carrier = carrier
        self.stream_id: int = stream_id
        self.headers: HeaderList = ()
        self.headers_received: trio.Event | None = None
        self.tunnel: Tunnel | None = None
        self.ended: bool = False
        self.failure: str | None = None
        self.error_code: ErrorCodes | int | None = None
        self.refused: bool = False
        self.closed: bool = False
        self.on_failure: Callable[[], object] | None = None
        self._h2_stream: H2Stream | None = None
        self._received: deque[bytes] = deque()
        self._unread = 0
        self._sent_end = False
        # Events of the tasks that wait to receive and to send.
        self._readable: trio.Event | None = None
        self._writable: trio.Event | None = None

    # -- The connection's side -------------------------------------------------------------------------------------

    def open_tunnel(self) -> None:
        """Treat all further data as that of a WebSocket."""
        self.tunnel = self.carrier.protocol.open_tunnel(self.stream_id)

    def receive_response(self, headers: HeaderList) -> None:
        """Store the headers of the response. A status of 2xx opens the tunnel."""
        if dict(headers).get(b":status", b"").startswith(b"2"):
            self.open_tunnel()
        self.headers = headers
        self._wake(self.headers_received)

    def take_headers(self) -> HeaderList:
        """Return the headers, and keep them no longer: they are in a request or a response then."""
        headers, self.headers = self.headers, ()
        return headers

    def receive_data(self, data: bytes) -> None:
        """Store received bytes. Small pieces are joined, because each takes as much memory as a hundred bytes."""
        if not data:  # for a reader, that would be the end
            return
        if self._received and len(self._received[-1]) + len(data) <= JOINED:
            self._received[-1] += data
        else:
            self._received.append(data)
        self._unread += len(data)
        self._wake_reader()

    def end(self) -> None:
        """Record that the peer has ended its direction."""
        self.ended = True
        if self.tunnel is not None:
            self.tunnel.ended = True
        self._wake_reader()
        self._wake(self.headers_received)

    def receive_reset(self, error_code: ErrorCodes | int) -> None:
        """Record that the peer has reset the stream."""
        # After the end, a server resets a stream to say that it needs nothing more (RFC 9113, section 8.1).
        self.error_code = error_code
        reason = f"the peer has reset the stream: {error_name(error_code)}"
        self.fail(reason, refused=error_code == ErrorCodes.REFUSED_STREAM)

    def fail(self, failure: str, *, refused: bool = False) -> None:
        """Record that the stream is lost, and wake its tasks. Idempotent."""
        if self.failure is None:
            self.failure = failure
            self.refused = refused
            if self.tunnel is not None:
                self.tunnel.ended = True
            self._wake_reader()
            self.wake_writer()
            self.carrier.output.leave(self)
            self._wake(self.headers_received)
            if self.on_failure is not None:
                self.on_failure()

    def receive_window_update(self) -> None:
        """Go on with sending if the window of this stream has held it up."""
        if not self.carrier.output.is_queued(self):
            self.wake_writer()

    def _wake_reader(self) -> None:
        self._wake(self._readable)
        self._readable = None

    def wake_writer(self) -> None:
        """Wake the task that waits for room to send."""
        self._wake(self._writable)
        self._writable = None

    @staticmethod
    def _wake(event: trio.Event | None) -> None:
        if event is not None:
            event.set()

    # -- Reading ---------------------------------------------------------------------------------------------------

    async def wait_readable(self) -> None:
        """Wait until :meth:`receive_now` returns something or raises. Only one task may wait at a time."""
        if self._received or self.ended or self.failure is not None or self.closed:
            await trio.lowlevel.checkpoint()
            return
        self._readable = trio.Event()
        await self._readable.wait()

    def receive_now(self, size: int) -> bytes | None:
        """Return at most ``size`` bytes, ``b""`` at the end of the stream, or None if no bytes have arrived.

        Bytes that arrived before the stream was lost come first.
        """
        if self.closed:
            raise trio.ClosedResourceError("the stream is closed")
        if not self._received:
            if self.ended:
                return b""
            if self.failure is not None:
                raise trio.BrokenResourceError(self.failure)
            return None
        taken = [self._received.popleft()]
        count = len(taken[0])
        while self._received and count + len(self._received[0]) <= size:
            taken.append(self._received.popleft())
            count += len(taken[-1])
        if count > size:
            self._received.appendleft(taken[0][size:])
            taken[0], count = taken[0][:size], size
        self._unread -= count
        if self.tunnel is not None:
            self.carrier.protocol.take(self.tunnel, count)
            if self.carrier.protocol.output_size:
                self.carrier.output.flush()
        return taken[0] if len(taken) == 1 else b"".join(taken)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes, as any Trio stream does."""
        while True:
            await self.wait_readable()
            data = self.receive_now(RECEIVE_SIZE if max_bytes is None else max_bytes)
            if data is not None:
                return data

    def count_unread(self) -> int:
        """Return the number of received bytes that were not taken yet."""
        return self._unread

    @property
    def is_over(self) -> bool:
        """Whether both ends have ended their directions, or the stream is lost; and nothing waits to be taken."""
        return (self.failure is not None or (self.ended and self._sent_end)) and not self._received

    @property
    def has_unread(self) -> bool:
        """Whether received bytes, or the end of the stream, wait to be taken."""
        return bool(self._received) or self.ended

    # -- Writing ---------------------------------------------------------------------------------------------------

    async def wait_writable(self) -> None:
        """Wait until :meth:`send_now` may send more, or raises. Call it next: other streams may wait for this one.

        Only one task may wait at a time.
        """
        if self.failure is not None or self.closed or (self.carrier.output.count_room(self) and self.has_window):
            await trio.lowlevel.checkpoint()
            return
        if self.has_window:
            self.carrier.output.join(self)
        self._writable = trio.Event()
        try:
            await self._writable.wait()
        except BaseException:  # also when cancelled: others must not wait for a task that is gone
            self._writable = None
            self.carrier.output.skip(self)
            raise

    def send_now(self, chunks: list[Chunk]) -> int:
        """Send as many bytes as there is room for, and remove them from the list.

        Returns:
            The number of bytes that were sent.
        """
        self.check_open()
        sent = self.carrier.protocol.send_data(self._get_h2_stream(), chunks, self.carrier.output.count_room(self))
        self.carrier.output.flush()
        if sent or not self.has_window:
            self.carrier.output.leave(self)
        return sent

    def _get_h2_stream(self) -> H2Stream:
        if self._h2_stream is None:
            self._h2_stream = self.carrier.protocol.h2.streams[self.stream_id]
        return self._h2_stream

    @property
    def has_window(self) -> bool:
        """Whether the peer's window of this stream has room, be there room in the connection or not."""
        if self.closed or self.failure is not None:
            return True
        return self._get_h2_stream().outbound_flow_control_window > 0

    def check_open(self) -> None:
        """Raise the exception for a stream on which nothing can be sent, if it is one."""
        if self.closed or self._sent_end:
            raise trio.ClosedResourceError("the stream is closed")
        if self.failure is not None:
            raise trio.BrokenResourceError(self.failure)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, as any Trio stream does."""
        await trio.lowlevel.checkpoint()
        chunks: list[Chunk] = [bytes(data)] if len(data) else []
        self.check_open()
        while chunks:
            self.send_now(chunks)
            if chunks:
                await self.wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: what does not fit waits in :meth:`send_all`."""
        await trio.lowlevel.checkpoint()
        self.check_open()

    def send_headers(self, headers: list[tuple[bytes, bytes]], *, end: bool = False) -> None:
        """Send the headers of a request or a response.

        Args:
            headers: The headers.
            end: Whether nothing follows them.
        """
        self.check_open()
        self._sent_end = end
        self.carrier.protocol.h2.send_headers(self.stream_id, headers, end_stream=end)
        self.carrier.output.flush_later()

    async def send_eof(self) -> None:
        """End this direction. It never waits."""
        await trio.lowlevel.checkpoint()
        self.end_now()

    def end_now(self) -> None:
        """End this direction. Idempotent; nothing happens if the stream is lost."""
        self._end()
        self.carrier.output.flush()

    def _end(self) -> None:
        """Add END_STREAM to the output. It is not written yet, because what follows can go out with it."""
        if not (self.closed or self._sent_end or self.failure is not None):
            self._sent_end = True
            self.carrier.output.leave(self)
            self.wake_writer()
            try:
                self.carrier.protocol.h2.end_stream(self.stream_id)
            except h2.exceptions.ProtocolError:
                pass  # the connection is lost, or h2 has closed the stream for a violation of the peer

    # -- Closing ---------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the stream. It never waits."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self, error_code: ErrorCodes | None = None) -> None:
        """Close the stream. Idempotent.

        Args:
            error_code: The reason to tell the peer if it has not ended its direction; None for the usual one.
        """
        if not self.closed:
            self._end()
            # A server has sent all of its response, whatever the client still has to send (RFC 9113, section 8.1).
            usual = ErrorCodes.CANCEL if self.carrier.is_client else ErrorCodes.NO_ERROR
            self._close(usual if error_code is None else error_code)

    def abort(self, error_code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Close the stream without sending what may still have to be sent. Idempotent."""
        if not self.closed:
            self._close(error_code)

    def _close(self, error_code: ErrorCodes) -> None:
        self.closed = True
        protocol = self.carrier.protocol
        if self.failure is None and not (self._sent_end and self.ended):
            protocol.reset_stream(self.stream_id, error_code)
        if self.tunnel is not None:
            protocol.close_tunnel(self.tunnel, self._unread)
        self._received.clear()
        self._h2_stream = None
        self._wake_reader()
        self.wake_writer()
        self.carrier.output.leave(self)
        self.carrier.discard(self)
        self.carrier.output.flush_later()
