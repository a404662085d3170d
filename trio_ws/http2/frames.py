"""Frames of HTTP/2, as far as they are read and written without h2; and the events that h2 does not have."""

from __future__ import annotations

import enum
import struct
from typing import TypeAlias

import attrs
import h2.events
from h2.errors import ErrorCodes

__all__ = [
    "HEADER_SIZE",
    "MAX_FRAME_SIZE",
    "MAX_WINDOW",
    "PRIORITY_SIZE",
    "Chunk",
    "DataEvent",
    "Event",
    "Flag",
    "FrameType",
    "GoAwayEvent",
    "ProtocolFailed",
    "StreamViolation",
    "StreamViolationEvent",
    "Violation",
    "check_priority",
    "error_name",
    "frame_header",
    "parse_goaway",
    "parse_header",
    "take_frame",
    "unpad",
]

Chunk: TypeAlias = "bytes | memoryview"

#: The size of the header of a frame, in bytes.
HEADER_SIZE: int = 9

#: The largest frame that the peer may send, in bytes. Larger frames cost less, but hold up other streams for longer.
MAX_FRAME_SIZE: int = 128 * 1024

#: The size of a priority: the payload of a PRIORITY frame, and a part of some HEADERS frames, in bytes.
PRIORITY_SIZE: int = 5

#: The largest flow control window (RFC 9113, section 6.9.1).
MAX_WINDOW: int = 2**31 - 1

_HEADER = struct.Struct(">HBBBL")


class FrameType(enum.IntEnum):
    """The types of frames (RFC 9113, section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(enum.IntEnum):
    """The flags of frames. ACK is that of SETTINGS and PING, END_STREAM that of DATA and HEADERS.

    They are ints, because operations of an ``IntFlag`` take ten times as long.
    """

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


@attrs.frozen
class DataEvent:
    """Bytes for a tunnel.

    Attributes:
        stream_id: The number of the stream.
        data: The bytes.
    """

    stream_id: int
    data: bytes


@attrs.frozen
class GoAwayEvent:
    """The peer accepts no more streams.

    Attributes:
        last_stream_id: The last stream of this end that the peer has processed, or may process.
        error_code: The reason.
    """

    last_stream_id: int
    error_code: int


@attrs.frozen
class StreamViolationEvent:
    """The peer has violated HTTP/2 on a stream, which was reset for it.

    Attributes:
        stream_id: The number of the stream.
        reason: The violation, as text.
    """

    stream_id: int
    reason: str


Event: TypeAlias = "h2.events.Event | DataEvent | GoAwayEvent | StreamViolationEvent"


class Violation(Exception):
    """The peer has violated HTTP/2. The connection ends (RFC 9113, section 5.4.1).

    Args:
        error_code: The error code for the GOAWAY frame.
        reason: The violation, as text.
    """

    def __init__(self, error_code: ErrorCodes, reason: str) -> None:
        super().__init__(reason)
        self.error_code: ErrorCodes = error_code


class StreamViolation(Exception):
    """The peer has violated HTTP/2 on one stream, which ends (RFC 9113, section 5.4.2).

    Args:
        stream_id: The number of the stream.
        error_code: The error code for the RST_STREAM frame.
        reason: The violation, as text.
    """

    def __init__(self, stream_id: int, error_code: ErrorCodes, reason: str) -> None:
        super().__init__(reason)
        self.stream_id: int = stream_id
        self.error_code: ErrorCodes = error_code


class ProtocolFailed(Exception):
    """The peer has violated HTTP/2, or a limit. A GOAWAY frame for it waits to be written."""


def frame_header(size: int, kind: FrameType, flags: int, stream_id: int) -> bytes:
    """Return the header of a frame.

    Args:
        size: The size of the payload, in bytes.
        kind: The type.
        flags: The flags.
        stream_id: The number of the stream; 0 for the connection.
    """
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def parse_header(data: memoryview, position: int) -> tuple[int, int, int, int]:
    """Return the size, the type, the flags and the stream of the frame that begins at a position."""
    high, low, kind, flags, stream_id = _HEADER.unpack_from(data, position)
    return high << 8 | low, kind, flags, stream_id & 0x7FFFFFFF


def error_name(error_code: int) -> str:
    """Return the name of an error code; its number if it has none."""
    try:
        return ErrorCodes(error_code).name
    except ValueError:
        return str(error_code)


def parse_goaway(payload: memoryview, stream_id: int) -> GoAwayEvent:
    """Return the content of a GOAWAY frame (RFC 9113, section 6.8).

    Raises:
        Violation: If the frame is not valid.
    """
    if len(payload) < 8:
        raise Violation(ErrorCodes.FRAME_SIZE_ERROR, "a GOAWAY frame has less than 8 bytes")
    if stream_id:
        raise Violation(ErrorCodes.PROTOCOL_ERROR, "a GOAWAY frame is for a stream")
    last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
    return GoAwayEvent(last, int.from_bytes(payload[4:8], "big"))


def check_priority(payload: memoryview, stream_id: int) -> None:
    """Check a PRIORITY frame (RFC 9113, section 6.3). What it says has no effect.

    Raises:
        Violation: If it is for no stream.
        StreamViolation: If it has the wrong size.
    """
    if not stream_id:
        raise Violation(ErrorCodes.PROTOCOL_ERROR, "a PRIORITY frame is for no stream")
    if len(payload) != PRIORITY_SIZE:
        raise StreamViolation(stream_id, ErrorCodes.FRAME_SIZE_ERROR, f"a PRIORITY frame has {len(payload)} bytes")


def unpad(payload: memoryview, flags: int) -> memoryview:
    """Return the payload of a DATA or HEADERS frame without its padding, if it is padded (RFC 9113, section 6.1).

    Raises:
        Violation: If the padding is not valid.
    """
    if not flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation(ErrorCodes.PROTOCOL_ERROR, "a frame has invalid padding")
    return payload[1 : len(payload) - payload[0]]


def take_frame(chunks: list[Chunk], allowed: int) -> tuple[list[Chunk], int]:
    """Remove the payload of one frame from a list of chunks.

    Args:
        chunks: The bytes, in order. There must be some.
        allowed: Maximum size of the payload, in bytes.

    Returns:
        The payload, and its size in bytes.
    """
    frame = [chunks.pop(0)]
    size = len(frame[0])
    while chunks and size + len(chunks[0]) <= allowed:
        frame.append(chunks.pop(0))
        size += len(frame[-1])
    if size > allowed:
        view = memoryview(frame[0])
        frame[0], size = view[:allowed], allowed
        chunks.insert(0, view[allowed:])
    return frame, size
