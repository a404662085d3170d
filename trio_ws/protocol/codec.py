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

Reading does not wait for the end of a data frame. A :class:`FrameDecoder` yields what has come of it as a *piece*, a
plain tuple ``(first_byte, data, remaining)``: the first byte of the header as it stands above, some unmasked payload,
and how many bytes of the payload are still to come. A frame that is there whole is one piece with nothing remaining,
and so is every control frame. So nothing is looked at twice, a payload is copied once, and those above can judge a
frame by its length before any memory is spent on it and its text before it is complete.

Rules of a frame by itself are checked here: reserved bits, opcodes, masking, lengths, control frames. Those between
frames are checked in :mod:`trio_ws.protocol.messages`.

Together with :mod:`trio_ws.protocol.masking` this is the part of the library that compiled code may replace.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import TypeAlias

from ..exceptions import ProtocolError
from ..frames import MAX_CONTROL_PAYLOAD, Frame, Opcode
from .masking import apply_mask

__all__ = ["FIN", "RSV1", "RSV2", "RSV3", "FrameDecoder", "Piece", "Role", "header", "serialize"]

FIN = 0x80
RSV1 = 0x40
RSV2 = 0x20
RSV3 = 0x10
_RSV = RSV1 | RSV2 | RSV3
_MASK = 0x80
_CONTROL = 0x08

_OPCODES = frozenset(Opcode)

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
    """

    __slots__ = ("_buffer", "_first_byte", "_key", "_masked", "_offset", "_remaining", "_rsv")

    def __init__(self, role: Role, rsv: int = 0) -> None:
        self._masked = role is Role.SERVER
        self._rsv = rsv
        # The beginning of a header, or of a control frame: at most 14 + 125 bytes.
        self._buffer = b""
        # The data frame whose payload is coming in.
        self._first_byte = 0
        self._key = b""
        self._offset = 0
        self._remaining = 0

    def feed(self, data: bytes | bytearray) -> Iterator[Piece]:
        """Yield the pieces in what has arrived.

        Iterate to the end before feeding more.

        Args:
            data: The bytes, in order.

        Raises:
            ProtocolError: while iterating, if a frame is not allowed, after all that came before it was yielded. There
                is no going on from there.
        """
        # Whatever comes in, what goes out is bytes. Adding bytes to no bytes copies nothing.
        data = self._buffer + data
        position = 0
        end = len(data)
        if self._remaining:
            position = min(self._remaining, end)
            if position:
                yield self._continue_payload(data[:position])
        masked = self._masked
        while end - position >= 2:
            first_byte = data[position]
            size = data[position + 1]
            if first_byte & 0x70 or first_byte & 0x0F not in _OPCODES or (size >= _MASK) is not masked:
                self._check_header(first_byte, size)
            size &= 0x7F
            start = position + 2
            if size >= 126:
                if first_byte & _CONTROL:
                    raise ProtocolError(f"a control frame has at most {MAX_CONTROL_PAYLOAD} bytes")
                start += 2 if size == 126 else 8
                if end < start:
                    break
                size = _extended_size(data[position + 2 : start])
            if first_byte & _CONTROL and first_byte < FIN:
                raise ProtocolError("a control frame must not be fragmented")
            key = b""
            if masked:
                key = data[start : start + 4]
                start += 4
                if end < start:
                    break
            stop = start + size
            if stop <= end:
                payload = data[start:stop]
                yield first_byte, apply_mask(payload, key) if masked else payload, 0
                position = stop
            elif first_byte & _CONTROL:
                break
            else:
                self._first_byte = first_byte
                self._key = key
                self._offset = 0
                self._remaining = size
                yield self._continue_payload(data[start:])
                position = end
        self._buffer = data[position:]

    def _continue_payload(self, data: bytes) -> Piece:
        if self._masked:
            data = apply_mask(data, self._key, self._offset)
            self._offset += len(data)
        self._remaining -= len(data)
        return self._first_byte, data, self._remaining

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


def _extended_size(data: bytes) -> int:
    size = int.from_bytes(data, "big")
    if size >> 63:
        raise ProtocolError("the most significant bit of a payload length is set")
    if size < (126 if len(data) == 2 else 0x10000):
        raise ProtocolError(f"the payload length {size} is not encoded in the fewest bytes")
    return size


def header(first_byte: int, size: int, key: bytes | None = None) -> bytes:
    """Return the header of a frame.

    Args:
        first_byte: FIN, reserved bits and opcode.
        size: The length of the payload, in bytes.
        key: The masking key, four bytes; None from a server.
    """
    mask = 0 if key is None else _MASK
    if size < 126:
        start = bytes((first_byte, mask | size))
    elif size < 0x10000:
        start = bytes((first_byte, mask | 126)) + size.to_bytes(2, "big")
    else:
        start = bytes((first_byte, mask | 127)) + size.to_bytes(8, "big")
    return start if key is None else start + key


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
    payload = frame.data if key is None else apply_mask(frame.data, key)
    return header(first_byte, len(payload), key) + payload
