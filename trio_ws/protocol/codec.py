"""The framing layer (RFC 6455, section 5.2).

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| Payload len |    Extended payload length    |
    |I|S|S|S|  (4)  |A|     (7)     |             (16/64)           |
    |N|V|V|V|       |S|             |   (if payload len==126/127)   |
    | |1|2|3|       |K|             |                               |
    +-+-+-+-+-------+-+-------------+-------------------------------+

A :class:`FrameDecoder` does not wait for the end of a data frame. It returns the payload in *pieces* as it arrives. A
piece is a tuple ``(first_byte, data, remaining)``: the first byte of the header as shown above, a part of the payload,
unmasked, and the number of payload bytes that are yet to arrive. A frame that has arrived completely is a single piece,
and so is every control frame. So no byte is processed twice, and the message decoder can check the length of a frame
before memory is allocated for it, and its text before the frame is complete.

Nearly all frames are whole messages. :func:`~trio_ws.protocol.pure.take_messages` decodes many of those at once, and
:func:`~trio_ws.protocol.pure.take_small_frames` many other small frames. Both leave the remaining frames to this
module.

This module checks the rules for single frames: reserved bits, opcodes, masking, lengths, control frames.
:mod:`trio_ws.protocol.messages` checks the rules for sequences of frames.
"""

from __future__ import annotations

import enum
import functools
from typing import TypeAlias

from ..exceptions import ProtocolError
from ..frames import MAX_CONTROL_PAYLOAD, Frame, Opcode
from .hot import Payload, apply_mask, pack, take_messages, take_small_frames
from .pure import Buffer

__all__ = [
    "BATCH",
    "CONTROL",
    "FIN",
    "FRAME_BATCH",
    "RSV1",
    "RSV2",
    "RSV3",
    "FrameDecoder",
    "Piece",
    "Role",
    "serialize",
]

FIN = 0x80
RSV1 = 0x40
RSV2 = 0x20
RSV3 = 0x10
_RSV = RSV1 | RSV2 | RSV3
_MASK = 0x80
CONTROL = 0x08

_OPCODES = frozenset(Opcode)

_MAX_HEADER = 14

#: Minimum size of a binary message in one frame for the decoder to assemble it, in bytes. This saves copying the pieces
#: once more to join them. Text is not assembled because it is validated piece by piece.
LARGE = 64 * 1024
_BINARY = FIN | Opcode.BINARY

#: Maximum number of messages to decode at once, because every message costs time and extra memory.
BATCH = 256

#: Maximum number of other small frames to decode at once. Each takes about four times as long as a message.
FRAME_BATCH = 64

#: ``(first_byte, data, remaining)``; see the docstring of this module.
Piece: TypeAlias = "tuple[int, bytes, int]"


class Role(enum.Enum):
    """The role of an endpoint. Clients mask the frames they send, servers do not (RFC 6455, section 5.1)."""

    CLIENT = "client"
    SERVER = "server"


class FrameDecoder:
    """Decodes received bytes into pieces of frames.

    Args:
        role: The role of this end. A server expects masked frames.
        rsv: The reserved bits that the extensions in use may set on the first frame of a message.
        assemble: Whether to assemble a large binary message in one frame: its last piece then has the whole payload,
            the others are empty.
    """

    __slots__ = (
        *("_data", "_first_byte", "_key", "_masked", "_offset", "_payload", "_position", "_remaining", "_size"),
        *("_assemble", "_small_frames", "_valid"),
    )

    def __init__(self, role: Role, rsv: int = 0, *, assemble: bool = False) -> None:
        self._masked = role is Role.SERVER
        self._assemble = assemble
        self._small_frames, self._valid = _small_frames(rsv), _valid_frames(rsv)
        # The received bytes, and the number of them that were decoded.
        self._data: Buffer = b""
        self._position = 0
        # The current frame, or the last one that was not decoded by take_messages().
        self._first_byte = 0
        self._key = b""
        self._size = 0
        self._offset = 0
        self._remaining = 0
        self._payload: Payload | None = None

    def feed(self, data: Buffer) -> None:
        """Feed received bytes. Call this only after :meth:`next_piece` has returned None, or :meth:`release` True.

        Args:
            data: The next bytes. A mutable buffer must not change until :meth:`next_piece` returns None or
                :meth:`detach` is called.
        """
        if not self._remaining and len(data) < self._size:
            self._size = 0  # the reads have become smaller than the last large frame
        self._data = b"".join((self._data, data)) if self._data else data

    def detach(self) -> None:
        """Copy the bytes that are not decoded yet, so that the buffer they came in can be reused."""
        self._data = bytes(self._data[self._position :])
        self._position = 0

    @property
    def assembled(self) -> int:
        """Number of bytes of the frame that is being assembled."""
        return 0 if self._payload is None else self._payload.size

    def take_assembled(self) -> bytes:
        """Return these bytes, and stop assembling the frame."""
        if self._payload is None:
            return b""
        data = self._payload.take()
        self._payload = None
        return data

    @property
    def expected(self) -> int:
        """Number of bytes likely to arrive next: the rest of the current frame, and another one of its size."""
        return self._remaining + self._size + _MAX_HEADER

    def take_messages(self, limit: int | None) -> list[str | bytes]:
        """Return the next messages that consist of a single frame not transformed by an extension.

        This is the fast path, for nearly all messages. Call it only between two messages.

        Args:
            limit: Maximum size of a message in bytes; None for no limit.

        Returns:
            At most :data:`BATCH` messages. If there are none, :meth:`next_piece` may still return a piece.
        """
        assert not self._remaining
        data, position = self._data, self._position
        if position < len(data) and data[position] & _RSV:  # transformed by an extension, or invalid
            return []
        messages, self._position = take_messages(data, position, self._masked, limit, BATCH)
        return messages

    def take_pieces(self) -> list[Piece]:
        """Return the next pieces: many small frames at once, or the result of :meth:`next_piece`.

        Small frames are control frames, fragments, and messages transformed by an extension, with at most 125 bytes of
        payload. Other whole messages are left to :meth:`take_messages`.

        Returns:
            At most :data:`FRAME_BATCH` pieces. An empty list until more bytes are fed.

        Raises:
            ProtocolError: If the peer violates the protocol. The decoder cannot be used any more then.
        """
        data, position = self._data, self._position
        # A frame with an extended length (RFC 6455, section 5.2) is not small.
        if not self._remaining and (len(data) < position + 2 or data[position + 1] & 0x7F < 126):
            pieces, self._position = take_small_frames(data, position, self._masked, self._small_frames, FRAME_BATCH)
            if pieces:
                return pieces
        piece = self.next_piece()
        return [] if piece is None else [piece]

    def release(self) -> bool:
        """Release the received bytes if all of them were decoded. Return whether they were."""
        if self._position < len(self._data):
            return False
        self._data = b""
        self._position = 0
        return True

    def next_piece(self) -> Piece | None:
        """Return the next piece, or None until more bytes are fed.

        Raises:
            ProtocolError: If the peer violates the protocol. The decoder cannot be used any more then.
        """
        if self._remaining:
            if self._position < len(self._data):
                return self._take_payload()
        elif self._take_header():
            return self._take_payload()
        # The rest is an incomplete header or control frame: at most 14 + 125 bytes.
        self.detach()
        return None

    def _take_header(self) -> bool:
        """Decode the header of a frame. Return whether it was complete; a control frame must have its payload too."""
        data, start = self._data, self._position
        end = len(data)
        if end - start < 2:
            return False
        first_byte = data[start]
        size = data[start + 1]
        if not self._valid[first_byte] or (size >= _MASK) is not self._masked:
            raise self._header_error(first_byte)
        size &= 0x7F
        start += 2
        if first_byte & CONTROL:
            if size >= 126:
                raise ProtocolError(f"a control frame must have at most {MAX_CONTROL_PAYLOAD} bytes of payload")
            if first_byte < FIN:
                raise ProtocolError("a control frame must not be fragmented")
            needed = size
        else:
            needed = 0
            if size >= 126:
                length = 2 if size == 126 else 8
                if end < start + length:
                    return False
                # The first case is that of most frames, and does without a copy of the bytes.
                size = data[start] << 8 | data[start + 1] if length == 2 else _large_size(data[start : start + length])
                if size < 126:
                    raise _wasted_bytes(size)
                start += length
        if self._masked:
            start += 4
        if end < start + needed:
            return False
        self._first_byte = first_byte
        self._key = bytes(data[start - 4 : start]) if self._masked else b""
        self._offset = 0
        self._size = self._remaining = size
        self._payload = Payload(size) if self._assemble and size >= LARGE and first_byte == _BINARY else None
        self._position = start
        return True

    def _take_payload(self) -> Piece:
        """Decode the payload of the current frame as far as it has arrived."""
        data = self._data if isinstance(self._data, memoryview) else memoryview(self._data)
        data = data[self._position : self._position + self._remaining]
        size = len(data)
        self._position += size
        self._remaining -= size
        if self._payload is not None:
            self._payload.add(data, self._key)
            payload = b"" if self._remaining else self.take_assembled()
        elif self._masked:
            payload = apply_mask(data, self._key, self._offset)
        else:
            payload = bytes(data)
        self._offset += size
        return self._first_byte, payload, self._remaining

    def _header_error(self, first_byte: int) -> ProtocolError:
        """Return the error for a header that is not valid."""
        opcode = first_byte & 0x0F
        if opcode not in _OPCODES:
            return ProtocolError(f"unknown opcode {opcode:#x}")
        if not self._valid[first_byte]:
            return ProtocolError(f"reserved bits must not be set in this {Opcode(opcode).name} frame")
        if self._masked:
            return ProtocolError("a frame from a client must be masked")
        return ProtocolError("a frame from a server must not be masked")


@functools.cache
def _valid_frames(rsv: int) -> bytes:
    """Return 256 bytes: for each first byte of a frame, whether its opcode and its reserved bits are valid.

    Args:
        rsv: The reserved bits that the extensions in use may set on the first frame of a message.
    """
    valid = bytearray(256)
    for first_byte in range(256):
        opcode = first_byte & 0x0F
        # An extension marks a message with its bit on the first frame only.
        allowed = rsv if opcode in (Opcode.TEXT, Opcode.BINARY) else 0
        valid[first_byte] = opcode in _OPCODES and not first_byte & _RSV & ~allowed
    return bytes(valid)


@functools.cache
def _small_frames(rsv: int) -> bytes:
    """Return which frames to take with :func:`take_small_frames`: the valid ones, except untransformed whole messages.

    Args:
        rsv: The reserved bits that the extensions in use may set on the first frame of a message.

    Returns:
        256 bytes: for each first byte of a frame, whether to take the frame.
    """
    taken = bytearray(256)
    for first_byte, valid in enumerate(_valid_frames(rsv)):
        control, fin = first_byte & CONTROL, first_byte >= FIN
        whole = fin and not first_byte & _RSV and first_byte & 0x0F in (Opcode.TEXT, Opcode.BINARY)
        taken[first_byte] = valid and not whole and (fin or not control)
    return bytes(taken)


def _large_size(data: Buffer) -> int:
    size = int.from_bytes(data, "big")
    if size >> 63:
        raise ProtocolError("the most significant bit of the payload length must not be set")
    if size < 0x10000:
        raise _wasted_bytes(size)
    return size


def _wasted_bytes(size: int) -> ProtocolError:
    return ProtocolError(f"the payload length {size} must be encoded in the fewest bytes")


def serialize(frame: Frame, key: bytes | None = None) -> bytes:
    """Return a frame as bytes.

    Args:
        frame: The frame.
        key: The masking key, four bytes; None on a server.
    """
    first_byte = (FIN if frame.fin else 0) | frame.opcode
    for is_set, bit in ((frame.rsv1, RSV1), (frame.rsv2, RSV2), (frame.rsv3, RSV3)):
        if is_set:
            first_byte |= bit
    return pack([(first_byte, frame.data, True)], key)
