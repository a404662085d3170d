"""An HTTP/2 connection with many streams: ``HTTP2Connection``.

::

    stream ──┐                               ┌──▶ writer task ──▶ ┐
    stream ──┼──▶ HTTP2Protocol ──▶ output ──┤                    ├── stream adapter ◀──▶ peer
    stream ◀─┴─── HTTP2Protocol ◀── reader task ◀──────────────── ┘

The rules:

1. **One reader task reads, always; it never waits for anybody else.** Data waits in its stream until somebody takes it;
   the window of the stream bounds it. Streams on which nobody reads do not hold up the others, because the window of
   the connection is as large as the windows of all streams together.
2. **One writer task writes.** Streams add frames to the output, and never more than
   :data:`~trio_ws.http2.output.MAX_OUTPUT` bytes, so that no stream waits for long behind another one. Those that wait
   for room take turns. If nothing is half-written, a frame is written at once without the writer task, as
   :func:`trio_ws.connection.writer.write_at_once` does.
3. **Answers to the peer are bounded.** A peer that makes this end answer, and does not read the answers, is dropped
   when there are :data:`MAX_BACKLOG` bytes of them.
4. **A connection ends in one place**, at the end of :meth:`HTTP2Connection.run`. All its streams fail then.
5. **Other tasks run in between.** Received frames are processed in steps, so that one connection cannot hold up others.

*Cancellation.* Both tasks are shielded: they end when :meth:`HTTP2Connection.finish` is called, or the connection is
lost. The tasks of the streams are cancelled before that, and still say goodbye through this connection. No method of a
stream waits inside the output, so cancelling a task of a stream leaves no half-written frame.
"""

from __future__ import annotations

from collections.abc import Callable

import h2.events
import h2.exceptions
import trio
from h2.errors import ErrorCodes

from ..connection.core import GOODBYE_TIMEOUT, GRACE
from ..connection.stream import RECEIVE_SIZE, StreamAdapter, StreamBroken
from .arrivals import Arrivals
from .floods import Flood
from .frames import DataEvent, Event, GoAwayEvent, ProtocolFailed, StreamViolationEvent, error_name
from .output import Output
from .protocol import HTTP2Protocol
from .stream import HTTP2Stream

__all__ = ["HTTP2Connection"]

#: The window of each stream, in bytes: how much the peer may send before the application takes it.
WINDOW = 256 * 1024

#: Number of bytes to read at a time, at most.
MAX_READ = 4 * RECEIVE_SIZE

#: Size of the output, without the data of streams, that ends the connection.
MAX_BACKLOG = 1024 * 1024


def _do_nothing() -> None:
    pass


class HTTP2Connection:
    """An HTTP/2 connection over a stream that this takes ownership of.

    Args:
        transport: The stream.
        is_client: Whether this is the client.
        max_streams: The number of streams that may be open: those of the peer, or those of a client.
        max_head_size: Maximum size of the headers of a message, in bytes. Larger ones end the stream or the connection.
        max_headers: Maximum number of headers of a message.
        received: Bytes that were already read from the stream.

    Attributes:
        transport: The stream.
        is_client: Whether this is the client.
        protocol: The protocol.
        output: The output.
        max_streams: The number of streams that may be open.
        streams: The open streams, by their numbers.
        arrivals: Those that the peer has opened and no task serves yet.
        failure: The reason why the connection is lost; None before that.
        error: The error of the transport, if that is the reason.
        peer_is_leaving: Whether the peer has sent GOAWAY.
        settled: Set when the peer's first SETTINGS frame has arrived, or the connection is lost.
        received_at: The time at which the peer's last bytes have arrived; in the beginning, the current time.
        on_end: A function that is called when the connection has ended.
    """

    def __init__(
        self,
        transport: StreamAdapter,
        *,
        is_client: bool,
        max_streams: int,
        max_head_size: int,
        max_headers: int,
        received: bytes = b"",
    ) -> None:
        transport.raise_unsent_limit()
        self.transport: StreamAdapter = transport
        self.is_client: bool = is_client
        self.max_streams: int = max_streams
        self.protocol: HTTP2Protocol = HTTP2Protocol(
            is_client=is_client,
            max_streams=max_streams,
            window=WINDOW,
            # Each header counts for 32 bytes more (RFC 9113, section 6.5.2).
            max_header_list=max_head_size + 32 * max_headers,
            clock=trio.current_time,
        )
        self.output: Output = Output(transport, self.protocol)
        self.streams: dict[int, HTTP2Stream] = {}
        self.failure: str | None = None
        self.error: StreamBroken | None = None
        self.peer_is_leaving: bool = False
        self.on_end: Callable[[], object] = _do_nothing
        self.arrivals: Arrivals = Arrivals()
        self._is_leaving = False
        # The reason in the peer's GOAWAY frame, as the end of a sentence.
        self._farewell = ""
        self._received = received
        self._read_size = RECEIVE_SIZE
        self.settled: trio.Event = trio.Event()
        self.received_at: float = trio.current_time()
        self._is_finishing = self._lingers = False
        self._reader_scope = trio.CancelScope()
        self._writer_scope = trio.CancelScope()
        self._done = trio.Event()

    # -- Tasks -----------------------------------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks of the connection in a nursery. They end when the connection does."""
        self.output.has_writer = True
        nursery.start_soon(self.run)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Read and write until the connection ends, and close the transport. Never raises."""
        self.output.has_writer = True
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_loop)
                    await self._read_loop()
                    self._is_finishing = True
                    self._writer_scope.deadline = trio.current_time() + GOODBYE_TIMEOUT
                    self.output.flush_later()
                if self._lingers or self.protocol.failed:
                    await self._linger()
        finally:
            self.fail("the connection was closed")
            await self.transport.aclose(GOODBYE_TIMEOUT)
            self.on_end()
            self.on_end = _do_nothing  # it may refer to this connection
            self._done.set()

    async def _read_loop(self) -> None:
        with self._reader_scope:
            while self.failure is None:
                await self._read()

    async def _read(self) -> None:
        """Read once, and process everything. Set ``failure`` if the connection is lost."""
        try:
            received, self._received = self._received, b""
            size = self._read_size
            data = received or await self.transport.receive_view(size)
            self._read_size = MAX_READ if len(data) == size else RECEIVE_SIZE
            if not data:
                self.fail(f"the peer has closed the connection{self._farewell}")
                return
            self.received_at = trio.current_time()
            self.protocol.feed(data)
            del data
            while True:
                for event in self.protocol.step():
                    self._dispatch(event)
                if self.protocol.measure_output() > MAX_BACKLOG:
                    self.fail("the peer does not read the answers to its frames")
                    self._writer_scope.cancel()
                    return
                if not self.protocol.has_more:
                    break
                if self.protocol.needs_pause:
                    # The rest stays in the buffer that all transports share, so it must be copied before others run.
                    self.protocol.pause()
                    self.output.flush()
                    await trio.lowlevel.cancel_shielded_checkpoint()
            if self.protocol.output_size:
                self.output.flush()
        except StreamBroken as exc:
            self.fail(str(exc), exc)
        except Flood as exc:  # of streams that were refused here
            self.fail(f"HTTP/2: {self.protocol.fail(exc)}")
        except Exception as exc:  # a violation; or h2 has failed with what the peer has sent
            self.fail(f"HTTP/2: {exc if isinstance(exc, ProtocolFailed) else repr(exc)}")

    @trio.lowlevel.enable_ki_protection
    async def _write_loop(self) -> None:
        with self._writer_scope:
            while not self.transport.poisoned:
                if not self.output.is_empty:
                    await self._write()
                elif self._is_finishing:
                    return
                else:
                    await self.output.wait()

    async def _write(self) -> None:
        try:
            await self.output.write()
        except StreamBroken as exc:
            self.fail(str(exc), exc)
            self._reader_scope.cancel()

    async def _linger(self) -> None:
        """Wait briefly until the peer has closed, too. Otherwise, a reset may overtake the last frames."""
        with trio.move_on_after(GRACE):
            try:
                await self.transport.send_eof()
                while await self.transport.receive():
                    pass
            except StreamBroken:
                pass

    # -- Received events -------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if isinstance(event, h2.events.RequestReceived):
            self._receive_request(event)
        elif isinstance(event, h2.events.DataReceived):
            self._receive_body(event, stream)
        elif isinstance(event, GoAwayEvent):
            self._receive_goaway(event)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled.set()
            for each in self.streams.values():
                each.receive_window_update()  # the windows of all streams may have changed
        elif isinstance(event, h2.events.WindowUpdated) and not event.stream_id:
            self.output.wake_first()
        elif stream is None:
            pass  # it was closed here
        elif isinstance(event, DataEvent):
            stream.receive_data(event.data)
        elif isinstance(event, h2.events.ResponseReceived):
            stream.receive_response(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            stream.end()
        elif isinstance(event, StreamViolationEvent):
            stream.fail(f"the peer has violated HTTP/2: {event.reason}")
        elif isinstance(event, h2.events.StreamReset) and not event.remote_reset:
            stream.fail(f"the peer has violated HTTP/2: {event.error_code!r}")
        elif isinstance(event, h2.events.StreamReset):
            stream.receive_reset(event.error_code)
        elif isinstance(event, h2.events.WindowUpdated):
            stream.receive_window_update()

    def _receive_request(self, event: h2.events.RequestReceived) -> None:
        if self.failure is not None:  # the connection was lost while this was read: nobody would end the stream
            return
        stream_id = event.stream_id
        # Streams that have ended do not count (RFC 9113, section 5.1.2), although their tasks may still have to notice.
        is_full = len(self.streams) >= self.max_streams <= sum(not each.is_over for each in self.streams.values())
        if is_full or self._is_leaving:
            self.protocol.floods.count_reset()
            self.protocol.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = self.streams[stream_id] = HTTP2Stream(self, stream_id)
        stream.headers = event.headers
        if any(name == b":protocol" for name, _ in event.headers) and event.stream_ended is None:
            stream.open_tunnel()
        self.arrivals.put(stream)

    def _receive_body(self, event: h2.events.DataReceived, stream: HTTP2Stream | None) -> None:
        """Store data that is not that of a WebSocket: the body of an error response. That of a request is dropped."""
        if stream is not None and self.is_client:
            stream.receive_data(event.data)
        # A body that nobody reads stops at the end of the window.
        if stream is None or stream.count_unread() < WINDOW:
            self.protocol.take_body(event.stream_id, event.flow_controlled_length)

    def _receive_goaway(self, event: GoAwayEvent) -> None:
        self.peer_is_leaving = True
        if event.error_code:
            self._farewell = f": {error_name(event.error_code)}"
        for stream in list(self.streams.values()) if self.is_client else []:
            if stream.stream_id > event.last_stream_id:
                if event.error_code == ErrorCodes.HTTP_1_1_REQUIRED:  # it holds for the request, too
                    stream.error_code = event.error_code
                stream.fail(f"the peer has closed the connection for new streams{self._farewell}", refused=True)
        self.finish_if_left()

    # -- Streams ---------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether a client may open another stream now."""
        limit = min(self.max_streams, self._peer_limit)
        return self.failure is None and not (self.peer_is_leaving or self._is_leaving) and len(self.streams) < limit

    @property
    def _peer_limit(self) -> int:
        limit: int = self.protocol.h2.remote_settings.max_concurrent_streams
        return limit

    def open_stream(self, headers: list[tuple[bytes, bytes]]) -> HTTP2Stream:
        """Open a stream with a request. Raise :exc:`trio.BrokenResourceError` if that is not possible."""
        if self.peer_is_leaving or self._is_leaving:
            who = "the server has" if self.peer_is_leaving else "this end has"
            raise trio.BrokenResourceError(f"{who} closed the connection for new streams{self._farewell}")
        if len(self.streams) >= self._peer_limit:
            raise trio.BrokenResourceError(f"the server allows {self._peer_limit} streams at a time")
        try:
            stream_id = self.protocol.h2.get_next_available_stream_id()
            stream = HTTP2Stream(self, stream_id)
            stream.headers_received = trio.Event()
            stream.failure = self.failure
            stream.send_headers(headers)
        except h2.exceptions.ProtocolError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        self.streams[stream_id] = stream
        return stream

    def discard(self, stream: HTTP2Stream) -> None:
        """Forget a closed stream."""
        self.streams.pop(stream.stream_id, None)
        self.finish_if_left()

    def finish_if_left(self) -> None:
        """End a client's connection on which no stream is open, and none can be opened."""
        if (
            self.is_client
            and self.output.has_writer
            and not self.streams
            and (self._is_leaving or self.peer_is_leaving)
        ):
            self.finish()

    # -- The opening of a client, and the end ----------------------------------------------------------------------

    async def wait_for(self, event: trio.Event) -> None:
        """Wait for an event. If the tasks are not running yet, do their work meanwhile.

        If this is cancelled then, the connection must be closed.
        """
        if self.output.has_writer:
            await event.wait()
            return
        while not event.is_set() and self.failure is None:
            await self._write()
            if not event.is_set() and self.failure is None:
                await self._read()
        await trio.lowlevel.checkpoint()

    @trio.lowlevel.enable_ki_protection
    def leave(self) -> None:
        """Send GOAWAY: accept no more streams, and leave the open ones alone. Idempotent."""
        if not self._is_leaving:
            self._is_leaving = True
            if self.failure is None:
                self.protocol.go_away()
                self.output.flush()
            self.arrivals.end()

    def fail(self, failure: str, error: StreamBroken | None = None) -> None:
        """Record that the connection is lost, and let all streams fail. Idempotent."""
        if self.failure is None:
            self.failure = failure
            self.error = None if error is None else error.with_traceback(None)
            self.settled.set()
            self.arrivals.end()
            self.output.end()
            for stream in list(self.streams.values()):
                stream.fail(failure)

    @trio.lowlevel.enable_ki_protection
    def finish(self, *, linger: bool = False) -> None:
        """Write what is left, and end the tasks.

        Args:
            linger: Whether to wait briefly until the peer has closed, too.
        """
        self._lingers = linger
        self.leave()
        self._reader_scope.cancel()

    async def aclose(self, seconds: float) -> None:
        """Close the connection with GOAWAY. Cannot be cancelled, and never raises.

        Args:
            seconds: Seconds for writing what is left, if the tasks are not running.
        """
        self.finish()
        with trio.CancelScope(shield=True):
            if self.output.has_writer:
                await self._done.wait()
                return
            with trio.move_on_after(seconds):
                try:
                    await self.transport.write(self.protocol.take_output())
                except StreamBroken:
                    pass
            self.fail("the connection was closed")
            await self.transport.aclose(seconds)
