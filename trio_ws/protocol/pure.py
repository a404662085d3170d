"""The functions that process every byte, in Python. :mod:`trio_ws.protocol.hot` chooses between these and Cython.

``compiled.pyx`` has the same functions in Cython. The documentation here applies to both, and
``tests/protocol/test_pure.py`` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Buffer", "Payload", "apply_mask", "header", "pack", "take_messages", "take_small_frames"]

#: Number of bytes to mask at a time: masking temporarily needs five times as much memory.
_BLOCK = 64 * 1024

#: Types of received data.
Buffer: TypeAlias = bytes | bytearray | memoryview

_TEXT = 0x81
_BINARY = 0x82
_MASK = 0x80


def apply_mask(data: Buffer, key: bytes, offset: int = 0) -> bytes:
    """Mask or unmask a payload (RFC 6455, section 5.3): the operation is its own inverse.

    Args:
        data: The payload, or a part of it.
        key: The masking key, four bytes.
        offset: Offset of this part in the payload, in bytes.
    """
    size = len(data)
    if size > _BLOCK:
        view = memoryview(data)
        return b"".join([apply_mask(view[at : at + _BLOCK], key, offset + at) for at in range(0, size, _BLOCK)])
    offset &= 3
    if offset:
        key = key[offset:] + key[:offset]
    # XOR of two very long integers is the fastest way in pure Python.
    repeated = (key * ((size + 3) >> 2))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def take_messages(
    data: Buffer, position: int, masked: bool, limit: int | None, count: int
) -> tuple[list[str | bytes], int]:
    """Decode consecutive messages that consist of a single frame not transformed by an extension.

    Decoding stops before anything else: a control frame, a fragment, an incomplete frame, or an error. The caller
    handles those.

    Args:
        data: The received bytes.
        position: Position of the first frame in ``data``.
        masked: Whether frames must be masked.
        limit: Maximum size of a message in bytes; None for no limit.
        count: Maximum number of messages.

    Returns:
        The messages, and the position after the last of them.
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


def take_small_frames(
    data: Buffer, position: int, masked: bool, allowed: bytes, count: int
) -> tuple[list[tuple[int, bytes, int]], int]:
    """Decode the next frames as long as they are complete and have at most 125 bytes of payload.

    Decoding stops before anything else: a frame whose first byte is not allowed, a larger or incomplete frame, or an
    error. The caller handles those.

    Args:
        data: The received bytes.
        position: Position of the first frame in ``data``.
        masked: Whether frames must be masked.
        allowed: 256 bytes, one for each first byte of a frame; 0 if it is not allowed.
        count: Maximum number of frames.

    Returns:
        The frames, as pieces ``(first_byte, payload, 0)``, and the position after the last of them.
    """
    frames: list[tuple[int, bytes, int]] = []
    end = len(data)
    mask, header = (_MASK, 6) if masked else (0, 2)
    while len(frames) < count:
        start = position + header
        if start > end:
            break
        first_byte = data[position]
        size = data[position + 1] ^ mask
        stop = start + size
        if size > 125 or stop > end or not allowed[first_byte]:
            break
        payload = bytes(data[start:stop])
        frames.append((first_byte, apply_mask(payload, bytes(data[start - 4 : start])) if masked else payload, 0))
        position = stop
    return frames, position


def pack(frames: Sequence[tuple[int, bytes, object]], keys: bytes | None = None) -> bytes:
    """Return the concatenated bytes of several frames.

    Args:
        frames: The first byte and the payload of each frame. The third item is ignored.
        keys: The concatenated masking keys, four bytes per frame; None on a server.
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
    """Return the header of a frame, without the masking key.

    Args:
        first_byte: FIN, reserved bits and opcode.
        size: Size of the payload in bytes.
        mask: 0x80 if a masking key follows, otherwise 0.
    """
    if size < 126:
        return bytes((first_byte, mask | size))
    if size < 0x10000:
        return bytes((first_byte, mask | 126)) + size.to_bytes(2, "big")
    return bytes((first_byte, mask | 127)) + size.to_bytes(8, "big")


class Payload:
    """A buffer in which the payload of a large frame is assembled as it arrives.

    It uses at most twice as much memory as the bytes that have arrived.

    Args:
        total: Maximum size of the payload in bytes.
    """

    __slots__ = ("_data", "_total")

    def __init__(self, total: int) -> None:
        if total < 0:
            raise ValueError("total must not be negative")
        self._total = total
        self._data = bytearray()

    @property
    def size(self) -> int:
        """Number of bytes added so far."""
        return len(self._data)

    def add(self, piece: Buffer, key: bytes) -> None:
        """Append received bytes, and unmask them.

        Args:
            piece: The next bytes, as received.
            key: The masking key, four bytes; empty if the payload is not masked.

        Raises:
            ValueError: If the payload would become larger than ``total``.
        """
        if len(piece) > self._total - self.size:
            raise ValueError("the payload must not be larger than its total size")
        self._data += apply_mask(piece, key, self.size) if key else piece

    def take(self) -> bytes:
        """Return the bytes added so far. Nothing can be added afterwards."""
        data = bytes(self._data)
        self._data.clear()
        self._total = 0
        return data
