"""The framing layer: bytes to pieces of frames and back (RFC 6455, section 5.2).

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| Payload len |    Extended payload length    |
    |I|S|S|S|  (4)  |A|     (7)     |             (16/64)           |
    |N|V|V|V|       |S|             |   (if payload len==126/127)   |
    | |1|2|3|       |K|             |                               |
    +-+-+-+-+-------+-+-------------+-------------------------------+

Reading does not wait for the end of a data frame. A :class:`FrameDecoder` returns what has come of it as a *piece*, a
plain tuple ``(first_byte, data, remaining)``: the first byte of the header as it stands above, some unmasked payload,
and how many bytes of the payload are still to come. A frame that is there whole is one piece with nothing remaining,
and so is every control frame. So nothing is looked at twice, and those above can judge a frame by its length before any
memory is spent on it and its text before it is complete.

Nearly all frames are whole messages. Many of these are taken at once, by :func:`~trio_ws.protocol.pure.take_messages`,
which leaves whatever is not as simple to what is written here.

Rules of a frame by itself are checked here: reserved bits, opcodes, masking, lengths, control frames. Those between
frames are checked in :mod:`trio_ws.protocol.messages`.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from ..exceptions import ProtocolError
from ..frames import MAX_CONTROL_PAYLOAD, Frame, Opcode
from .hot import Payload, apply_mask, pack, take_messages
from .pure import Buffer

__all__ = ["BATCH", "FIN", "RSV1", "RSV2", "RSV3", "FrameDecoder", "Piece", "Role", "serialize"]

FIN = 0x80
RSV1 = 0x40
RSV2 = 0x20
RSV3 = 0x10
_RSV = RSV1 | RSV2 | RSV3
_MASK = 0x80
_CONTROL = 0x08

_OPCODES = frozenset(Opcode)

_MAX_HEADER = 14

#: A binary message in one frame can be put together here if it has at least so many bytes: each piece of it would be
#: copied once more to join them. Text is judged piece by piece.
LARGE = 64 * 1024
_BINARY = FIN | Opcode.BINARY

#: How many messages are taken at once at most: each takes more memory than its bytes, and time.
BATCH = 256

#: ``(first_byte, data, remaining)``: see the top of the module.
Piece: TypeAlias = "tuple[int, bytes, int]"


class Role(enum.Enum):
    """Which end of the connection this is. A client masks what it sends, a server does not (RFC 6455, section 5.1)."""

    CLIENT = "client"
    SERVER = "server"


class FrameDecoder:
    """Cuts what arrives into pieces of frames.

    Args:
        role: Which end *we* are: frames are masked if we are the server.
        rsv: The reserved bits that the extensions in use may set on the first frame of a message.
        whole: Whether a large binary message in one frame is put together here: all of it comes with the last piece.
    """

    __slots__ = (
        *("_data", "_first_byte", "_key", "_masked", "_offset", "_payload", "_position", "_remaining", "_rsv", "_size"),
        "_whole",
    )

    def __init__(self, role: Role, rsv: int = 0, *, whole: bool = False) -> None:
        self._masked = role is Role.SERVER
        self._rsv = rsv
        self._whole = whole
        # What has arrived, and how far it was taken.
        self._data: Buffer = b""
        self._position = 0
        # The frame whose payload is coming in, or the last that did not come whole.
        self._first_byte = 0
        self._key = b""
        self._size = 0
        self._offset = 0
        self._remaining = 0
        self._payload: Payload | None = None

    def feed(self, data: Buffer) -> None:
        """Take what has arrived, once :meth:`next_piece` has returned None for what arrived before.

        Args:
            data: The bytes, in order. They are only borrowed, until :meth:`next_piece` returns None or :meth:`detach`
                is called: whatever comes in, what goes out is ``bytes``.
        """
        if not self._remaining and len(data) < self._size:
            self._size = 0  # what comes now is smaller than it was
        self._data = b"".join((self._data, data)) if self._data else data

    def detach(self) -> None:
        """Copy what is still to be taken: the memory that it came in is needed for something else."""
        self._data = bytes(self._data[self._position :])
        self._position = 0

    @property
    def assembled(self) -> int:
        """How many bytes have come of a large frame that is put together here."""
        return 0 if self._payload is None else self._payload.size

    def take_assembled(self) -> bytes:
        """Return these bytes. What else comes of that frame is not put together."""
        if self._payload is None:
            return b""
        data = self._payload.take()
        self._payload = None
        return data

    @property
    def expected(self) -> int:
        """How many bytes are likely to come soon: the rest of the frame in progress, and another one like it."""
        return self._remaining + self._size + _MAX_HEADER

    def take_messages(self, limit: int | None) -> list[str | bytes]:
        """Return the whole messages that come next, each in one frame that no extension has transformed.

        This is the short way, which nearly everything takes. It may be taken where a message can begin.

        Args:
            limit: How large a message may be, in bytes; None for any size.

        Returns:
            The messages, at most :data:`BATCH` of them. None at all says nothing about what comes next.
        """
        assert not self._remaining
        messages, self._position = take_messages(self._data, self._position, self._masked, limit, BATCH)
        return messages

    def is_used_up(self) -> bool:
        """Whether everything that has arrived was taken. Then nothing of it is kept."""
        if self._position < len(self._data):
            return False
        self._data = b""
        self._position = 0
        return True

    def next_piece(self) -> Piece | None:
        """Return the next piece of what has arrived, or None if there is none until more arrives.

        Raises:
            ProtocolError: If a frame is not allowed. There is no going on from there.
        """
        if self._remaining:
            if self._position < len(self._data):
                return self._take_payload()
        elif self._take_header():
            return self._take_payload()
        # What is left is the beginning of a header or of a control frame: at most 14 + 125 bytes.
        self.detach()
        return None

    def _take_header(self) -> bool:
        """Take the header of a frame, if it is complete. A control frame has to be complete to the end."""
        data, start = self._data, self._position
        end = len(data)
        if end - start < 2:
            return False
        first_byte = data[start]
        size = data[start + 1]
        if first_byte & _RSV or first_byte & 0x0F not in _OPCODES or (size >= _MASK) is not self._masked:
            self._check_header(first_byte, size)
        size &= 0x7F
        start += 2
        if size >= 126:
            if first_byte & _CONTROL:
                raise ProtocolError(f"a control frame has at most {MAX_CONTROL_PAYLOAD} bytes")
            length = 2 if size == 126 else 8
            if end < start + length:
                return False
            size = _extended_size(data[start : start + length])
            start += length
        if first_byte & _CONTROL and first_byte < FIN:
            raise ProtocolError("a control frame must not be fragmented")
        if self._masked:
            start += 4
        if end < (start + size if first_byte & _CONTROL else start):
            return False
        self._first_byte = first_byte
        self._key = bytes(data[start - 4 : start]) if self._masked else b""
        self._offset = 0
        self._size = self._remaining = size
        self._payload = Payload(size) if self._whole and size >= LARGE and first_byte == _BINARY else None
        self._position = start
        return True

    def _take_payload(self) -> Piece:
        """Take what there is of the payload of a frame."""
        data = memoryview(self._data)[self._position : self._position + self._remaining]
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

    def _check_header(self, first_byte: int, second_byte: int) -> None:
        opcode = first_byte & 0x0F
        if opcode not in _OPCODES:
            raise ProtocolError(f"{opcode:#x} is not an opcode")
        # An extension says with its bit how a whole message is to be read: on the first frame, and only there.
        allowed = self._rsv if opcode in (Opcode.TEXT, Opcode.BINARY) else 0
        if first_byte & _RSV & ~allowed:
            raise ProtocolError(f"reserved bits are set in a {Opcode(opcode).name} frame")
        if self._masked and not second_byte & _MASK:
            raise ProtocolError("a frame from a client must be masked")
        if not self._masked and second_byte & _MASK:
            raise ProtocolError("a frame from a server must not be masked")


def _extended_size(data: Buffer) -> int:
    size = int.from_bytes(data, "big")
    if size >> 63:
        raise ProtocolError("the most significant bit of a payload length is set")
    if size < (126 if len(data) == 2 else 0x10000):
        raise ProtocolError(f"the payload length {size} is not encoded in the fewest bytes")
    return size


def serialize(frame: Frame, key: bytes | None = None) -> bytes:
    """Return a frame as bytes.

    Args:
        frame: The frame.
        key: The masking key, four bytes; None from a server.
    """
    first_byte = (FIN if frame.fin else 0) | frame.opcode
    for is_set, bit in ((frame.rsv1, RSV1), (frame.rsv2, RSV2), (frame.rsv3, RSV3)):
        if is_set:
            first_byte |= bit
    return pack([(first_byte, frame.data, True)], key)
