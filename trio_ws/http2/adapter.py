"""The stream adapter for a stream of HTTP/2. ``HTTP2StreamAdapter``.

It does for an :class:`~trio_ws.http2.stream.HTTP2Stream` what :class:`~trio_ws.connection.stream.StreamAdapter` does
for a plain socket: neither reading nor writing waits inside it, and the number of written bytes is always known. So the
connection of a WebSocket treats both alike, and cancelling a write loses nothing: the next one begins with the rest. If
the stream is closed while a part of a frame is unsent, the peer gets RST_STREAM(CANCEL), and does not take the part for
the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ..connection.stream import StreamAdapter, StreamBroken, stream_broken
from ..connection.tls_info import TLSInfo
from .stream import HTTP2Stream

__all__ = ["HTTP2StreamAdapter"]


class HTTP2StreamAdapter(StreamAdapter):
    """The stream adapter for a stream of HTTP/2.

    Args:
        stream: The stream.
        start: A function that is called with the nursery of the WebSocket, when there is one; see :meth:`start`.
        on_close: An async function that is called with the seconds to wait, once the stream is closed.
    """

    local_address: Any
    remote_address: Any
    tls_object: Any
    bytes_written: int
    poisoned: bool

    def __init__(
        self,
        stream: HTTP2Stream,
        start: Callable[[trio.Nursery], object] | None = None,
        on_close: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(stream)
        self._stream = stream
        self._start = start
        self._on_close = on_close
        transport = stream.carrier.transport
        self._transport = transport
        self._position = 0
        self.local_address = transport.local_address
        self.remote_address = transport.remote_address
        self.tls_object = transport.tls_object

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks of the HTTP/2 connection, if it exists for this stream alone."""
        if self._start is not None:
            self._start(nursery)

    def get_tls_info(self) -> TLSInfo | None:
        """Return the parameters of the TLS connection, which all streams of an HTTP/2 connection share."""
        return self._transport.get_tls_info()

    # -- Reading ---------------------------------------------------------------------------------------------------

    @property
    def is_socket(self) -> bool:
        """Whether it can be read and written without waiting, as a plain socket: it can."""
        return True

    async def receive_view(self, size: int) -> bytes | memoryview:
        """Wait for bytes and return them, or ``b""`` at the end of the stream. When cancelled, no bytes are lost.

        Raises:
            StreamBroken: If the stream is lost.
        """
        while True:
            await self._stream.wait_readable()
            data = self._receive(size)
            if data is not None:
                return data

    async def wait_readable(self) -> None:
        """Wait until :meth:`receive_now` has something to return, or an error to raise."""
        await self._stream.wait_readable()

    def receive_now(self, size: int) -> memoryview | None:
        """Return received bytes, nothing at the end of the stream, or None if none have arrived.

        Raises:
            StreamBroken: If the stream is lost; also on every later call.
        """
        data = self._receive(size)
        return None if data is None else memoryview(data)

    def _receive(self, size: int) -> bytes | None:
        try:
            return self._stream.receive_now(size)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise stream_broken(exc) from exc

    def has_unread(self) -> bool:
        """Whether received bytes or the end of the stream have arrived, as far as the system can tell."""
        return self._stream.has_unread or self._transport.has_unread()

    # -- Writing ---------------------------------------------------------------------------------------------------

    def can_write_now(self) -> bool:
        """Whether :meth:`write_now` may be called, provided that no other task is writing."""
        return not self._unwritten and not self.poisoned and self._stream.carrier.output.count_room(self._stream) > 0

    def write_now(self, chunks: list[bytes]) -> bool:
        """Send as many bytes as there is room for. The next :meth:`write` begins with the rest. Never raises."""
        self._add(chunks)
        try:
            return self._write_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False

    async def write(self, chunks: list[bytes], before_wait: Callable[[], object] = lambda: None) -> None:
        """Send the rest of earlier writes, and then these bytes. When cancelled, the next call goes on.

        Args:
            chunks: The bytes, in order. The list is emptied.
            before_wait: A function to call before each wait.

        Raises:
            StreamBroken: If the stream is lost, or the adapter is poisoned.
        """
        if self.poisoned:
            raise StreamBroken("an earlier write was not completed")
        self._add(chunks)
        try:
            while self._unwritten and not self._write_some():
                before_wait()
                await self._stream.wait_writable()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.poisoned = True
            raise stream_broken(exc) from exc

    def _write_some(self) -> bool:
        rest = self._unwritten
        sent = self._stream.send_now(rest)
        if sent:
            self.bytes_written += sent
            self._position = self._stream.carrier.protocol.data_sent
        if rest:
            self._record_progress()
        return not rest

    async def send_eof(self) -> bool:
        """End the sending direction. Return whether that was possible."""
        if self.poisoned or self.has_unwritten:
            return False
        self.poisoned = True
        self._stream.end_now()
        return True

    def count_undelivered(self) -> tuple[int, int]:
        """Return the number of bytes of this stream that are not acknowledged, and of those that are not sent.

        Both include the bytes that the peer's windows hold back, and those in the output of the connection.
        """
        unwritten = sum(map(len, self._unwritten))
        protocol = self._stream.carrier.protocol
        # Bytes that other streams have added to the output after the last ones of this stream do not count.
        later = protocol.data_sent - self._position
        undelivered, unsent = self._transport.count_undelivered()
        waiting = protocol.measure_output()
        return unwritten + max(undelivered + waiting - later, 0), unwritten + max(unsent + waiting - later, 0)

    def count_delivered_ahead(self) -> int:
        """Return the number of bytes that the connection has delivered; 0 if this stream does not wait for them.

        Bytes of a stream wait for those that others have sent before, unless the peer's window of the stream is full.
        """
        if self._unwritten and not self._stream.has_window:
            return 0
        return self._transport.bytes_written - self._transport.count_undelivered()[0]

    # -- Closing ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Abort the stream at once."""
        self._stream.abort()

    async def aclose(self, seconds: float) -> None:
        """Close the stream; with RST_STREAM(CANCEL) alone if a part of a frame is unsent.

        Cannot be cancelled, and never raises.

        Args:
            seconds: Seconds for closing the connection, if it exists for this stream alone.
        """
        if self._unwritten:
            self._stream.abort()
        else:
            self._stream.close()
        self._unwritten.clear()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            await on_close(seconds)
