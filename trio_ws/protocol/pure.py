"""The functions that all bytes pass through, in Python; :mod:`trio_ws.protocol.hot` says when these are used.

``compiled.pyx`` has the same again in Cython. What is said here holds for both, and ``tests/protocol/test_pure.py``
compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Buffer", "Payload", "apply_mask", "header", "pack", "take_messages"]

#: So much is masked at once: it takes five times as much memory while it is done.
_BLOCK = 64 * 1024

#: Bytes that come in.
Buffer: TypeAlias = bytes | bytearray | memoryview

_TEXT = 0x81
_BINARY = 0x82
_MASK = 0x80


def apply_mask(data: Buffer, key: bytes, offset: int = 0) -> bytes:
    """Mask or unmask a payload (RFC 6455, section 5.3): the operation is its own inverse.

    Args:
        data: The payload, or a piece of one.
        key: The masking key, four bytes.
        offset: How many bytes of the payload came before this piece.
    """
    size = len(data)
    if size > _BLOCK:
        view = memoryview(data)
        return b"".join([apply_mask(view[at : at + _BLOCK], key, offset + at) for at in range(0, size, _BLOCK)])
    offset &= 3
    if offset:
        key = key[offset:] + key[:offset]
    # One XOR of two very long integers: what pure Python has that comes nearest to a loop in C.
    repeated = (key * ((size + 3) >> 2))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def take_messages(
    data: Buffer, position: int, masked: bool, limit: int | None, count: int
) -> tuple[list[str | bytes], int]:
    """Take the whole messages that come next: those in one frame that no extension has transformed.

    It stops in front of anything else, be it a control frame, a fragment, something incomplete, or something wrong.
    That is for others to judge.

    Args:
        data: What has come in.
        position: Where a frame begins in it.
        masked: Whether frames have to be masked.
        limit: How large a message may be, in bytes; None for any size.
        count: How many messages to take at most.

    Returns:
        The messages, and where what follows them begins.
    """
    messages: list[str | bytes] = []
    end = len(data)
    mask, header = (_MASK, 6) if masked else (0, 2)
    while len(messages) < count:
        start = position + header
        if start > end:
            break
        first_byte = data[position]
        size = data[position + 1] ^ mask
        if size > 125:
            length = {126: 2, 127: 8}.get(size, end)
            start += length
            if start > end:
                break
            size = int.from_bytes(data[position + 2 : position + 2 + length], "big")
            if size < (126 if length == 2 else 0x10000):
                break
        stop = start + size
        if stop > end or (limit is not None and size > limit):
            break
        message: str | bytes
        message = payload = (
            apply_mask(data[start:stop], bytes(data[start - 4 : start])) if masked else bytes(data[start:stop])
        )
        if first_byte == _TEXT:
            try:
                message = payload.decode()
            except UnicodeDecodeError:
                break
        elif first_byte != _BINARY:
            break
        messages.append(message)
        position = stop
    return messages, position


def pack(frames: Sequence[tuple[int, bytes, object]], keys: bytes | None = None) -> bytes:
    """Return frames as bytes, one after the other.

    Args:
        frames: The first byte of each, and its payload. What else is there of them does not matter here.
        keys: The masking keys, four bytes for each frame; None from a server.
    """
    chunks = []
    for index, (first_byte, data, _) in enumerate(frames):
        if keys is None:
            chunks += [header(first_byte, len(data)), data]
        else:
            key = keys[4 * index : 4 * index + 4]
            chunks += [header(first_byte, len(data), _MASK), key, apply_mask(data, key)]
    return b"".join(chunks)


def header(first_byte: int, size: int, mask: int = 0) -> bytes:
    """Return the header of a frame, but for the masking key.

    Args:
        first_byte: FIN, reserved bits and opcode.
        size: The length of the payload, in bytes.
        mask: 0x80 if a masking key follows, otherwise 0.
    """
    if size < 126:
        return bytes((first_byte, mask | size))
    if size < 0x10000:
        return bytes((first_byte, mask | 126)) + size.to_bytes(2, "big")
    return bytes((first_byte, mask | 127)) + size.to_bytes(8, "big")


class Payload:
    """The payload of a large frame, which is put together in one piece of memory as it comes in.

    That is at most twice as large as what has come.

    Args:
        total: How many bytes it will have at most.
    """

    __slots__ = ("_data", "_total")

    def __init__(self, total: int) -> None:
        if total < 0:
            raise ValueError("a size is not negative")
        self._total = total
        self._data = bytearray()

    @property
    def size(self) -> int:
        """How many bytes have come."""
        return len(self._data)

    def add(self, piece: Buffer, key: bytes) -> None:
        """Add what has come.

        Args:
            piece: The next bytes, as they are on the wire.
            key: The masking key, four bytes; empty if they are not masked.

        Raises:
            ValueError: If that would be more than all.
        """
        if len(piece) > self._total - self.size:
            raise ValueError("this is more than was announced")
        self._data += apply_mask(piece, key, self.size) if key else piece

    def take(self) -> bytes:
        """Return what has come. It is over then: nothing can be added any more."""
        data = bytes(self._data)
        self._data.clear()
        self._total = 0
        return data
