"""Masking (RFC 6455, section 5.3)."""

from __future__ import annotations

__all__ = ["apply_mask"]


def apply_mask(data: bytes, key: bytes, offset: int = 0) -> bytes:
    """Mask or unmask a payload: the operation is its own inverse.

    Args:
        data: The payload, or a piece of one.
        key: The masking key, four bytes.
        offset: How many bytes of the payload came before this piece.
    """
    size = len(data)
    offset &= 3
    if offset:
        key = key[offset:] + key[:offset]
    # One XOR of two very long integers: what pure Python has that comes nearest to a loop in C.
    repeated = (key * ((size + 3) >> 2))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
