"""HTTP/2 without I/O: ``HTTP2Protocol``, which is h2 with a guard in front of it.

h2 keeps the state of the connection and of its streams, and encodes and decodes headers. Every received frame passes
through :class:`HTTP2Protocol` first, which deals with some of them itself:

* It counts the frames that a peer can flood the connection with; see :mod:`~trio_ws.http2.floods`.
* GOAWAY never reaches h2. For h2, it is the end of the connection; but streams that are open stay open (RFC 9113,
  section 6.8). For the same reason, this end's GOAWAY is not sent with h2.
* DATA frames of a *tunnel*, which is a stream that has become a WebSocket, do not reach h2, nor are they sent with it.
  A tunnel has no length that h2 would have to check, so what is left of its work is to add up sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import attrs
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from h2.stream import H2Stream

from .floods import MIN_FRAGMENT, Flood, FloodGuard
from .frames import (
    HEADER_SIZE,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    Chunk,
    DataEvent,
    Event,
    Flag,
    FrameType,
    GoAwayEvent,
    Violation,
    frame_header,
    parse_header,
)
from .negotiation import PREFACE

__all__ = ["HTTP2Protocol", "ProtocolFailed", "Tunnel"]

#: The size of the connection's window before any WINDOW_UPDATE (RFC 9113, section 6.9.2).
_FIRST_WINDOW = 65_535

#: Work for one step, in frames; a frame of 16 KiB counts twice. Between two steps, other tasks can run.
_STEP = 16


class ProtocolFailed(Exception):
    """The peer has violated HTTP/2, or a limit. A GOAWAY frame for it waits to be written."""


@attrs.define(eq=False)
class Tunnel:
    """The flow control of a stream whose DATA frames carry a WebSocket.

    Attributes:
        stream_id: The number of the stream.
        window: The number of bytes that the peer may still send.
        taken: Bytes that were taken since the last WINDOW_UPDATE.
        ended: Whether the peer has ended its direction.
    """

    stream_id: int
    window: int
    taken: int = 0
    ended: bool = False


class _Settings(h2.settings.Settings):
    """Settings with which h2 accepts streams beyond the limit, instead of ending the connection.

    The caller refuses them (RFC 9113, section 5.1.2): a client that does not know the limit yet cannot keep to it.
    """

    @property
    def max_concurrent_streams(self) -> int:
        return 2**32

    @max_concurrent_streams.setter
    def max_concurrent_streams(self, value: int) -> None:
        raise NotImplementedError


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
        # Malformed headers end a stream, not the connection; see trio_ws.http2.headers. Those of this end are valid.
        config = h2.config.H2Configuration(
            client_side=is_client, header_encoding=None, validate_inbound_headers=False, validate_outbound_headers=False
        )
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: window,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_header_list,
        }
        if is_client:
            settings[SettingCodes.ENABLE_PUSH] = 0
        else:
            settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        self.h2: h2.connection.H2Connection = h2.connection.H2Connection(config)
        self.h2.local_settings = _Settings(client=is_client, initial_values=settings)
        self.h2.max_inbound_frame_size = MAX_FRAME_SIZE
        self.h2.decoder.max_header_list_size = 2 * max_header_list
        self.h2.initiate_connection()
        self._window = window
        self._connection_window = min(max_streams * window, MAX_WINDOW)
        self.h2.increment_flow_control_window(self._connection_window - _FIRST_WINDOW)
        # Bytes of tunnels that were taken since the last WINDOW_UPDATE for the connection.
        self._taken = 0
        self._tunnels: dict[int, Tunnel] = {}
        self._is_client = is_client
        self.floods: FloodGuard = FloodGuard(2 * max_header_list, clock)
        self._output: list[Chunk] = []
        self.output_size: int = 0
        self.data_sent: int = 0
        self.may_connect: bool | None = None
        self.has_more: bool = False
        # Received bytes that were not processed yet; the rest of the preface of a client; whether a header block has
        # begun that CONTINUATION frames have to complete; whether the last frame has completed a request or a response.
        self._input: Chunk = b""
        self._preface = b"" if is_client else PREFACE
        self._in_block = self._opens = False
        self.failed: bool = False

    # -- Receiving -------------------------------------------------------------------------------------------------

    def feed(self, data: Chunk) -> None:
        """Add received bytes. Their memory must not be used again before :meth:`step` has processed all of them."""
        self._input = b"".join((self._input, data)) if self._input else data
        self.has_more = True

    def keep_input(self) -> None:
        """Copy what is left to process: the memory of the fed bytes will be used again."""
        self._input = bytes(self._input)

    def step(self) -> list[Event]:
        """Process some of the received frames, and return the events. If ``has_more`` is set then, call it again.

        The headers of a request or a response end a step: what the caller does with them decides about the next frames.

        Raises:
            ProtocolFailed: If the connection must end.
        """
        events: list[Event] = []
        work = 0
        view = memoryview(self._input)
        position = 0
        try:
            if self._preface:
                position = self._skip_preface(view)
            while work < _STEP:
                if len(view) - position < HEADER_SIZE:
                    break
                length, kind, flags, stream_id = parse_header(view, position)
                if length > MAX_FRAME_SIZE:
                    raise Violation(ErrorCodes.FRAME_SIZE_ERROR, f"a frame has {length} bytes")
                end = position + HEADER_SIZE + length
                if end > len(view):
                    break
                self._receive_frame(view[position:end], kind, flags, stream_id, events)
                work += 1 + length // (16 * 1024)
                position = end
                if self._opens:
                    break
        except Flood as exc:
            raise self.fail(ErrorCodes.ENHANCE_YOUR_CALM, exc) from exc
        except Violation as exc:
            raise self.fail(exc.error_code, exc) from exc
        except h2.exceptions.ProtocolError as exc:
            self.failed = True  # h2 has made the GOAWAY frame
            raise ProtocolFailed(str(exc) or type(exc).__name__) from exc
        # The memory of the view belongs to the caller. What stays until it is used again must be copied.
        self.has_more, self._opens = work >= _STEP or (self._opens and position < len(view)), False
        self._input = view[position:] if self.has_more else bytes(view[position:])
        return events

    def _skip_preface(self, view: memoryview) -> int:
        size = min(len(self._preface), len(view))
        if view[:size] != self._preface[:size]:
            raise Violation(ErrorCodes.PROTOCOL_ERROR, "the connection preface of HTTP/2 is missing")
        self.h2.receive_data(self._preface[:size])
        self._preface = self._preface[size:]
        return size

    def _receive_frame(self, frame: memoryview, kind: int, flags: int, stream_id: int, events: list[Event]) -> None:
        if self._in_block != (kind == FrameType.CONTINUATION):
            self._receive_in_h2(frame, events)  # a violation
            return
        if kind == FrameType.DATA:
            self._receive_data(frame, flags, stream_id, events)
            return
        if kind == FrameType.GOAWAY:
            self._receive_goaway(frame, stream_id, events)
            return
        if kind in (FrameType.HEADERS, FrameType.CONTINUATION, FrameType.PUSH_PROMISE):
            self._in_block = not flags & Flag.END_HEADERS
            self.floods.count_header_block(len(frame) - HEADER_SIZE, begins=(kind != FrameType.CONTINUATION))
        elif kind == FrameType.SETTINGS and not flags & Flag.ACK:
            self.floods.count_settings()
        elif kind == FrameType.PING and not flags & Flag.ACK:
            self.floods.count_ping()
        elif kind == FrameType.RST_STREAM and not self._is_client:
            self.floods.count_reset()
        elif kind == FrameType.WINDOW_UPDATE:
            self.floods.count_window_update()
        elif kind == FrameType.PRIORITY or kind > FrameType.CONTINUATION:
            self.floods.count_useless()
        self._receive_in_h2(frame, events)

    def _receive_in_h2(self, frame: Chunk, events: list[Event]) -> None:
        for event in self.h2.receive_data(frame):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                # It must not be taken back (RFC 8441, section 3).
                allowed = bool(self.h2.remote_settings.enable_connect_protocol)
                self.may_connect = self.may_connect or allowed
            elif isinstance(event, h2.events.StreamReset) and not event.remote_reset and not self._is_client:
                self.floods.count_reset()  # the peer has made h2 reset it (CVE-2025-8671)
            elif isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived)):
                # The next frames must find the tunnel if this opens one, or the stream reset if it is refused.
                self._opens = True
                self.floods.expect_window_updates(0)
            events.append(event)

    def _receive_goaway(self, frame: memoryview, stream_id: int, events: list[Event]) -> None:
        payload = frame[HEADER_SIZE:]
        if len(payload) < 8:
            raise Violation(ErrorCodes.FRAME_SIZE_ERROR, "a GOAWAY frame has less than 8 bytes")
        if stream_id:
            raise Violation(ErrorCodes.PROTOCOL_ERROR, "a GOAWAY frame is for a stream")
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        events.append(GoAwayEvent(last, int.from_bytes(payload[4:8], "big")))

    def _receive_data(self, frame: memoryview, flags: int, stream_id: int, events: list[Event]) -> None:
        size = len(frame) - HEADER_SIZE
        if not size and not flags & Flag.END_STREAM:
            self.floods.count_useless()
        tunnel = self._tunnels.get(stream_id)
        if tunnel is None or tunnel.ended:
            self._receive_in_h2(frame, events)
            return
        data = frame[HEADER_SIZE:]
        if flags & Flag.PADDED:
            if not data or data[0] >= size:
                raise Violation(ErrorCodes.PROTOCOL_ERROR, "a DATA frame has invalid padding")
            data = data[1 : size - data[0]]
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

    def fail(self, error_code: ErrorCodes, exc: Exception) -> ProtocolFailed:
        """End the connection with a GOAWAY frame. Return the exception to raise.

        Args:
            error_code: The reason.
            exc: The violation.
        """
        self.go_away(error_code, str(exc).encode())
        self.failed = True
        return ProtocolFailed(str(exc))

    # -- Tunnels ---------------------------------------------------------------------------------------------------

    def open_tunnel(self, stream_id: int) -> Tunnel:
        """Handle the DATA frames of a stream here, from now on."""
        tunnel = self._tunnels[stream_id] = Tunnel(stream_id, self._window)
        return tunnel

    def close_tunnel(self, tunnel: Tunnel, unread: int) -> None:
        """Forget a tunnel.

        Args:
            tunnel: The tunnel.
            unread: The number of received bytes that were not taken.
        """
        if self._tunnels.pop(tunnel.stream_id, None) is not None:
            self._return_to_connection(unread)

    def take(self, tunnel: Tunnel, size: int) -> None:
        """Record that the application's side has taken bytes: the peer may send as many more."""
        tunnel.taken += size
        if tunnel.taken * 2 >= self._window and not tunnel.ended:
            self._send_window_update(tunnel.stream_id, tunnel.taken)
            tunnel.window += tunnel.taken
            tunnel.taken = 0
        self._return_to_connection(size)

    def _return_to_connection(self, size: int) -> None:
        self._taken += size
        if self._taken * 2 >= self._connection_window or self._taken >= 8 * self._window:
            self._send_window_update(0, self._taken)
            self._taken = 0

    def _send_window_update(self, stream_id: int, size: int) -> None:
        self._put(frame_header(4, FrameType.WINDOW_UPDATE, 0, stream_id) + size.to_bytes(4, "big"))

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
            frame = [chunks.pop(0)]
            size = len(frame[0])
            while chunks and size + len(chunks[0]) <= allowed:
                frame.append(chunks.pop(0))
                size += len(frame[-1])
            if size > allowed:
                view = memoryview(frame[0])
                frame[0], size = view[:allowed], allowed
                chunks.insert(0, view[allowed:])
            self._put(frame_header(size, FrameType.DATA, 0, stream.stream_id), *frame)
            sent += size
            if not chunks or size >= MIN_FRAGMENT:
                self.floods.expect_window_updates(size)
        self.data_sent += sent
        stream.outbound_flow_control_window -= sent
        connection.outbound_flow_control_window -= sent
        return sent

    # -- Sending ---------------------------------------------------------------------------------------------------

    def go_away(self, error_code: ErrorCodes = ErrorCodes.NO_ERROR, reason: bytes = b"") -> None:
        """Tell the peer that its further streams are not accepted. Those that it has opened may go on.

        Args:
            error_code: The reason.
            reason: The reason as text, for the peer's log.
        """
        last = self.h2.highest_inbound_stream_id
        payload = last.to_bytes(4, "big") + int(error_code).to_bytes(4, "big") + reason
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
