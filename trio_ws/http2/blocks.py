"""Header blocks: HEADERS and CONTINUATION frames become lists of headers. ``BlockReader``.

h2 would end the connection for headers that are a fault of one stream. It gets HEADERS frames without headers instead,
from which it learns the states of the streams; see :mod:`~trio_ws.http2.protocol`.
"""

from __future__ import annotations

import attrs
from h2.errors import ErrorCodes
from hpack import Decoder, HeaderTuple, HPACKError, OversizedHeaderListError

from .floods import MAX_CONTINUATIONS, Flood
from .frames import PRIORITY_SIZE, Flag, FrameType, Violation, unpad

__all__ = ["BlockReader", "HeaderBlock"]


@attrs.frozen
class HeaderBlock:
    """A complete header block.

    Attributes:
        stream_id: The number of its stream.
        headers: The names and values.
        ends: Whether it ends its direction of the stream.
    """

    stream_id: int
    headers: list[HeaderTuple]
    ends: bool


class BlockReader:
    """Reads header blocks. Each is decoded, whatever becomes of its stream, because later ones may refer to it.

    Args:
        decoder: The decoder. It limits the size of the headers.
        max_size: Maximum size of a block before it is decoded, in bytes.
    """

    __slots__ = ("_continuations", "_data", "_decoder", "_ends", "_max_size", "_stream_id")

    def __init__(self, decoder: Decoder, max_size: int) -> None:
        self._decoder = decoder
        self._max_size = max_size
        # The number of the stream whose block is incomplete, or 0; and what is known of that block.
        self._stream_id = self._continuations = 0
        self._data = b""
        self._ends = False

    @property
    def is_incomplete(self) -> bool:
        """Whether the next frame must be a CONTINUATION frame."""
        return self._stream_id > 0

    def receive(self, payload: memoryview, kind: int, flags: int, stream_id: int) -> HeaderBlock | None:
        """Add a HEADERS or CONTINUATION frame. Return the block if it is complete.

        Raises:
            Violation: If the frame or the block is not valid.
            Flood: If the block is too large.
        """
        if kind == FrameType.HEADERS:
            if not stream_id:
                raise Violation(ErrorCodes.PROTOCOL_ERROR, "a HEADERS frame is for no stream")
            payload = unpad(payload, flags)
            if flags & Flag.PRIORITY:  # it has no effect (RFC 9113, section 5.3.2)
                if len(payload) < PRIORITY_SIZE:
                    raise Violation(ErrorCodes.FRAME_SIZE_ERROR, "a HEADERS frame is too short for its priority")
                payload = payload[PRIORITY_SIZE:]
            self._stream_id, self._continuations, self._data = stream_id, 0, b""
            self._ends = bool(flags & Flag.END_STREAM)
        elif stream_id != self._stream_id or not stream_id:
            raise Violation(ErrorCodes.PROTOCOL_ERROR, "a CONTINUATION frame belongs to no header block")
        else:
            self._continuations += 1
        self._data += payload
        if self._continuations > MAX_CONTINUATIONS:
            raise Flood(f"a header block has more than {MAX_CONTINUATIONS} CONTINUATION frames")
        if len(self._data) > self._max_size:
            raise Flood(f"a header block has more than {self._max_size} bytes")
        if not flags & Flag.END_HEADERS:
            return None
        block = HeaderBlock(stream_id, self._decode(self._data), self._ends)
        self._stream_id, self._data = 0, b""
        return block

    def _decode(self, data: bytes) -> list[HeaderTuple]:
        try:
            return list(self._decoder.decode(data, raw=True))
        except OversizedHeaderListError as exc:
            raise Flood(f"the headers of a message have more than {self._decoder.max_header_list_size} bytes") from exc
        except HPACKError as exc:
            raise Violation(ErrorCodes.COMPRESSION_ERROR, "a header block is not valid") from exc
