"""HTTP/2 without I/O: ``HTTP2Protocol``, which is h2 with a guard in front of it.

h2 keeps the state of the connection and of its streams, and encodes and decodes headers. Every received frame passes
through :class:`HTTP2Protocol` first, which deals with some of them itself:

* It counts the frames that a peer can flood the connection with; see :mod:`~trio_ws.http2.floods`.
* GOAWAY never reaches h2. For h2, it is the end of the connection; but streams that are open stay open (RFC 9113,
  section 6.8). For the same reason, this end's GOAWAY is not sent with h2.
* Headers are decoded here, and h2 gets a frame without any. It would end the connection if the Content-Length header of
  one message is wrong; here, that ends the stream. The states of the streams are still those of h2.
* PRIORITY frames have no effect, and unknown ones neither.
* DATA frames of a *tunnel*, which is a stream that has become a WebSocket, do not reach h2, nor are they sent with it.
  A tunnel has no length that h2 would have to check, so what is left of its work is to add up sizes.
* Frames of a stream that was reset here, which the peer has sent before it knew, do not reach h2. It would answer each
  with another RST_STREAM frame (RFC 9113, section 5.4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.stream import H2Stream
from hpack import HeaderTuple

from .blocks import BlockReader, HeaderBlock
from .floods import MIN_FRAGMENT, Flood, FloodGuard
from .frames import (
    HEADER_SIZE,
    MAX_WINDOW,
    Chunk,
    DataEvent,
    Event,
    Flag,
    FrameType,
    ProtocolFailed,
    StreamViolation,
    StreamViolationEvent,
    Violation,
    check_priority,
    frame_header,
    parse_goaway,
    take_frame,
    unpad,
)
from .headers import is_interim
from .input import Input
from .messages import MessageRules
from .negotiation import PREFACE
from .settings import H2, MAX_CLOSED, create_h2
from .tunnels import Tunnel, Tunnels

__all__ = ["MAX_WORK", "HTTP2Protocol"]

#: The size of the connection's window before any WINDOW_UPDATE (RFC 9113, section 6.9.2).
_FIRST_WINDOW = 65_535

#: The largest table for the compression of headers, in bytes. Searching a larger one would take too long, however much
#: memory the peer has for it (RFC 7541, section 4.2).
_MAX_TABLE = 4_096

#: Work between two pauses, in frames; a frame of 16 KiB counts twice.
MAX_WORK: int = 16


class HTTP2Protocol:
    """One HTTP/2 connection, without I/O.

    Args:
        is_client: Whether this is the client.
        max_streams: The number of streams that the peer may have open; also the number of tunnels whose windows the
            window of the connection covers, so that tunnels that nobody reads from do not hold up the others.
        window: The window of each stream, in bytes.
        max_header_list: Maximum size of decoded headers, in bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them. Twice
            this size ends the connection.
        clock: A function that returns the current time in seconds.

    Attributes:
        h2: The connection of h2.
        floods: The counters of useless frames.
        output_size: The number of bytes that wait to be written, except those that h2 still has.
        data_sent: The number of bytes of tunnels that were added to the output.
        failed: Whether the connection has failed, and its GOAWAY frame is in the output.
        has_more: Whether received frames may be left to process.
        may_connect: Whether the peer accepts extended CONNECT requests; None before its first SETTINGS frame.
    """

    def __init__(
        self, *, is_client: bool, max_streams: int, window: int, max_header_list: int, clock: Callable[[], float]
    ) -> None:
        self.h2: H2 = create_h2(
            is_client=is_client, max_streams=max_streams, window=window, max_header_list=max_header_list
        )
        self.h2.decoder.max_header_list_size = 2 * max_header_list
        # One more, for bytes that were taken and not given back yet.
        connection_window = min((max_streams + 1) * window, MAX_WINDOW)
        self.h2.increment_flow_control_window(connection_window - _FIRST_WINDOW)
        self._tunnels = Tunnels(window)
        self._messages = MessageRules()
        self._blocks = BlockReader(self.h2.decoder, 2 * max_header_list)
        self._is_client = is_client
        self.floods: FloodGuard = FloodGuard(clock)
        self._output: list[Chunk] = []
        self.output_size: int = 0
        self.data_sent: int = 0
        self.may_connect: bool | None = None
        self.has_more: bool = False
        # The frames since the last pause.
        self._work = 0
        self._input = Input(b"" if is_client else PREFACE)
        # Set by the headers of a request or a response, which end a step.
        self._opens = False
        # The streams that were reset here, as an ordered set; the stream in the first GOAWAY frame that was sent.
        self._reset: dict[int, None] = {}
        self._last: int | None = None
        self.failed: bool = False
        # The exception that the next step raises.
        self._failure: ProtocolFailed | None = None

    # -- Receiving -------------------------------------------------------------------------------------------------

    def feed(self, data: Chunk) -> None:
        """Add received bytes. Their memory must not be used again before :meth:`step` has processed all of them."""
        self._input.add(data)
        self.has_more = True
        self._work = 0

    @property
    def needs_pause(self) -> bool:
        """Whether other tasks should run before the next step."""
        return self._work >= MAX_WORK

    def pause(self) -> None:
        """Copy what is left to process: the memory of the fed bytes will be used again by other tasks."""
        self._input.copy()
        self._work = 0

    def step(self) -> list[Event]:
        """Process some of the received frames, and return the events. If ``has_more`` is set then, call it again.

        The headers of a request or a response end a step: what the caller does with them decides about the next frames.

        Raises:
            ProtocolFailed: If the connection must end.
        """
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None  # its traceback refers to this object
        events: list[Event] = []
        try:
            while not (self.needs_pause or self._opens) and (received := self._input.take()) is not None:
                frame, kind, flags, stream_id = received
                try:
                    self._receive_frame(frame, kind, flags, stream_id, events)
                except StreamViolation as exc:
                    self._end_stream(exc, events)
                self._work += 1 + len(frame) // (16 * 1024)
        except (Flood, Violation, h2.exceptions.ProtocolError) as exc:
            self._failure, self.has_more = self.fail(exc), True  # what came before takes effect first
            return events
        self.has_more, self._opens = self.needs_pause or (self._opens and not self._input.is_empty), False
        if not self.has_more:
            self._input.copy()  # the memory of the fed bytes belongs to the caller
        return events

    def _receive_frame(self, frame: memoryview, kind: int, flags: int, stream_id: int, events: list[Event]) -> None:
        payload = frame[HEADER_SIZE:]
        if self._blocks.is_incomplete and kind != FrameType.CONTINUATION:
            raise Violation(ErrorCodes.PROTOCOL_ERROR, "a header block is not complete")
        if self.may_connect is None and kind != FrameType.SETTINGS:
            raise Violation(ErrorCodes.PROTOCOL_ERROR, "the first frame is not a SETTINGS frame")
        if kind == FrameType.DATA:
            self._receive_data(frame, flags, stream_id, events)
        elif kind in (FrameType.HEADERS, FrameType.CONTINUATION):
            block = self._blocks.receive(payload, kind, flags, stream_id)
            if block is not None:
                self._receive_headers(block, events)
        elif kind == FrameType.GOAWAY:
            events.append(parse_goaway(payload, stream_id))
            self.floods.count_useless()
        elif kind == FrameType.PUSH_PROMISE:
            raise Violation(ErrorCodes.PROTOCOL_ERROR, "a PUSH_PROMISE frame is not allowed")
        elif kind == FrameType.PRIORITY:
            check_priority(payload, stream_id)
            self.floods.count_useless()
        elif kind == FrameType.RST_STREAM:
            self._receive_reset(frame, stream_id, events)
        elif kind > FrameType.CONTINUATION:
            self.floods.count_useless()
        else:
            self.floods.count_frame(kind, flags)
            if kind == FrameType.WINDOW_UPDATE and stream_id and payload in (bytes(4), b"\x80\0\0\0"):
                raise StreamViolation(stream_id, ErrorCodes.PROTOCOL_ERROR, "a WINDOW_UPDATE frame adds nothing")
            self._receive_in_h2(frame, events)

    def _receive_in_h2(self, frame: Chunk, events: list[Event], headers: Sequence[HeaderTuple] = ()) -> None:
        """Pass a frame to h2, and add the resulting events. A HEADERS frame must be empty: its headers are an argument.

        Raises:
            StreamViolation: If the message of the stream is malformed.
        """
        for event in self.h2.receive_data(frame):
            events.append(event)
            if isinstance(event, h2.events.RemoteSettingsChanged):
                # It must not be taken back (RFC 8441, section 3).
                allowed = bool(self.h2.remote_settings.enable_connect_protocol)
                self.may_connect = self.may_connect or allowed
                if self.h2.encoder.header_table_size > _MAX_TABLE:
                    self.h2.encoder.header_table_size = _MAX_TABLE
            elif isinstance(event, h2.events.StreamReset):
                self._messages.forget(event.stream_id)
                if not event.remote_reset:  # the peer has made h2 reset it (CVE-2025-8671)
                    self._remember_reset(event.stream_id)
                    if not self._is_client:
                        self.floods.count_reset()
            elif isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived)):
                event.headers = list(headers)
                self._messages.begin(event.stream_id, headers)
                self.floods.expect_window_updates(0)
                # The next frames must find the tunnel if this opens one, or the stream reset if it is refused.
                self._opens = True
            elif isinstance(event, h2.events.DataReceived):
                if event.flow_controlled_length:
                    # The window of the stream is enough to hold the peer up.
                    self.h2.increment_flow_control_window(event.flow_controlled_length)
                self._messages.receive_data(event.stream_id, len(event.data))
            elif isinstance(event, h2.events.StreamEnded):
                self._messages.end(event.stream_id)

    def _receive_headers(self, block: HeaderBlock, events: list[Event]) -> None:
        stream_id = block.stream_id
        if self._is_late(stream_id):
            if not self._is_client:  # a client may have cancelled many requests whose responses are on their way
                self.floods.count_useless()
            return
        if self._tunnels.get(stream_id) is not None:
            raise StreamViolation(stream_id, ErrorCodes.PROTOCOL_ERROR, "a WebSocket must not have trailers")
        self._messages.check_headers(block)
        is_first = self._is_client and stream_id not in self._messages and self.h2.is_open(stream_id)
        if is_first and is_interim(block.headers):
            self._messages.check_interim(block)
            self.floods.count_useless()
            return
        flags = Flag.END_HEADERS | (Flag.END_STREAM if block.ends else 0)
        self._receive_in_h2(frame_header(0, FrameType.HEADERS, flags, stream_id), events, block.headers)

    def _is_late(self, stream_id: int) -> bool:
        """Whether a stream was reset here, so that the peer may not know it yet. A client remembers no other reason."""
        is_forgotten = self._is_client and stream_id not in self.h2.streams and not self.h2.is_idle(stream_id)
        return is_forgotten or stream_id in self._reset

    def _end_stream(self, violation: StreamViolation, events: list[Event]) -> None:
        """Reset a stream on which the peer has violated HTTP/2."""
        stream_id = violation.stream_id
        if not self._is_client:
            self.floods.count_reset()
        self._messages.forget(stream_id)
        try:
            self._reset_in_h2(stream_id, violation.error_code)
        except h2.exceptions.StreamClosedError:
            pass
        except h2.exceptions.ProtocolError as exc:  # there was no such stream
            raise Violation(violation.error_code, str(violation)) from exc
        events.append(StreamViolationEvent(stream_id, str(violation)))

    def _receive_reset(self, frame: memoryview, stream_id: int, events: list[Event]) -> None:
        if self.h2.is_idle(stream_id):
            raise Violation(ErrorCodes.PROTOCOL_ERROR, f"stream {stream_id} is reset, but was never opened")
        if stream_id in self._reset:
            del self._reset[stream_id]  # both ends have reset it at the same time, so nothing else will come
        elif not self._is_client:
            # Some servers send one for each frame that comes late, so clients do not count them.
            (self.floods.count_reset if self.h2.is_open(stream_id) else self.floods.count_useless)()
        self._receive_in_h2(frame, events)

    def _receive_data(self, frame: memoryview, flags: int, stream_id: int, events: list[Event]) -> None:
        size = len(frame) - HEADER_SIZE
        data = unpad(frame[HEADER_SIZE:], flags)
        if not data and not flags & Flag.END_STREAM:
            self.floods.count_useless()
        if self._is_late(stream_id):
            self._put_if_any(self._tunnels.take_from_connection(size))
            return
        tunnel = self._tunnels.get(stream_id)
        if tunnel is None or tunnel.ended:
            if self._is_client and stream_id not in self._messages and self.h2.is_open(stream_id):
                self._put_if_any(self._tunnels.take_from_connection(size))
                raise StreamViolation(stream_id, ErrorCodes.PROTOCOL_ERROR, "there is data before a response")
            self._receive_in_h2(frame, events)
            return
        tunnel.window -= size
        if tunnel.window < 0:
            raise Violation(ErrorCodes.FLOW_CONTROL_ERROR, f"stream {stream_id} has received more than it may")
        if len(data) < size:
            self.take(tunnel, size - len(data))  # the padding
        if data:
            events.append(DataEvent(stream_id, bytes(data)))
        if flags & Flag.END_STREAM:
            tunnel.ended = True
            # h2 sees an empty frame.
            self._receive_in_h2(frame_header(0, FrameType.DATA, Flag.END_STREAM, stream_id), events)

    def fail(self, exc: Flood | Violation | h2.exceptions.ProtocolError) -> ProtocolFailed:
        """End the connection with a GOAWAY frame. Return the exception to raise."""
        reason = str(exc)
        if isinstance(exc, h2.exceptions.NoSuchStreamError):  # whose text is the number
            reason = f"there is no stream {reason}"
        self.go_away(ErrorCodes.ENHANCE_YOUR_CALM if isinstance(exc, Flood) else exc.error_code, reason.encode())
        self.failed = True
        return ProtocolFailed(reason)

    # -- Tunnels ---------------------------------------------------------------------------------------------------

    def open_tunnel(self, stream_id: int) -> Tunnel:
        """Handle the DATA frames of a stream here, from now on."""
        self._messages.forget(stream_id)
        return self._tunnels.open(stream_id)

    def close_tunnel(self, tunnel: Tunnel, unread: int) -> None:
        """Forget a tunnel; ``unread`` is the number of received bytes that were not taken."""
        self._put_if_any(self._tunnels.close(tunnel, unread))

    def take(self, tunnel: Tunnel, size: int) -> None:
        """Record that the application's side has taken bytes: the peer may send as many more."""
        self._put_if_any(self._tunnels.take(tunnel, size))

    def _put_if_any(self, frames: bytes) -> None:
        if frames:
            self._put(frames)

    def send_data(self, stream: H2Stream, chunks: list[Chunk], room: int) -> int:
        """Send bytes through a tunnel, as far as the windows of the peer allow.

        Args:
            stream: The stream of h2.
            chunks: The bytes, in order. Those that are sent are removed.
            room: Maximum number of bytes.

        Returns:
            The number of bytes that were sent.
        """
        connection = self.h2
        limit = min(stream.outbound_flow_control_window, connection.outbound_flow_control_window, room)
        sent = 0
        while chunks and sent < limit:
            allowed = min(limit - sent, connection.max_outbound_frame_size)
            frame, size = take_frame(chunks, allowed)
            self._put(frame_header(size, FrameType.DATA, 0, stream.stream_id), *frame)
            sent += size
            if not chunks or size >= MIN_FRAGMENT:
                self.floods.expect_window_updates(size)
        self.data_sent += sent
        stream.outbound_flow_control_window -= sent
        connection.outbound_flow_control_window -= sent
        return sent

    # -- Sending ---------------------------------------------------------------------------------------------------

    def reset_stream(self, stream_id: int, error_code: ErrorCodes) -> None:
        """Reset a stream. Nothing happens if it is closed already."""
        self._messages.forget(stream_id)
        try:
            self._reset_in_h2(stream_id, error_code)
        except h2.exceptions.ProtocolError:
            pass  # the connection is lost, or h2 has closed the stream for a violation of the peer

    def _reset_in_h2(self, stream_id: int, error_code: ErrorCodes) -> None:
        self.h2.reset_stream(stream_id, error_code)
        self._remember_reset(stream_id)

    def _remember_reset(self, stream_id: int) -> None:
        self._reset[stream_id] = None
        if len(self._reset) > MAX_CLOSED:
            del self._reset[next(iter(self._reset))]

    def take_body(self, stream_id: int, size: int) -> None:
        """Record that bytes of the body of a message were taken: the peer may send as many more on the stream."""
        if size and self.h2.is_open(stream_id):
            self.h2.increment_flow_control_window(size, stream_id)

    def go_away(self, error_code: ErrorCodes = ErrorCodes.NO_ERROR, reason: bytes = b"") -> None:
        """Tell the peer that its further streams are not accepted. Those that it has opened may go on.

        Args:
            error_code: The reason.
            reason: The reason as text, for the peer's log.
        """
        if self._last is None:
            self._last = self.h2.highest_inbound_stream_id  # no later frame may name a later one
        payload = self._last.to_bytes(4, "big") + int(error_code).to_bytes(4, "big") + reason
        self._put(frame_header(len(payload), FrameType.GOAWAY, 0, 0) + payload)

    def _put(self, *chunks: Chunk) -> None:
        """Add a frame to the output, after what h2 has made before."""
        if not self.failed:
            self._take_from_h2()
            self._output += chunks
            self.output_size += sum(map(len, chunks))

    def _take_from_h2(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self._output.append(data)
            self.output_size += len(data)

    def take_output(self) -> list[bytes]:
        """Return all bytes that wait to be written."""
        self._take_from_h2()
        output, self._output, self.output_size = self._output, [], 0
        return cast("list[bytes]", output)  # or views; whatever writes them does not care

    def measure_output(self) -> int:
        """Return the number of bytes that wait to be written."""
        self._take_from_h2()
        return self.output_size
