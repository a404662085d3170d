"""Options of compression: ``Deflate``."""

from __future__ import annotations

from typing import Any

import attrs

from ...exceptions.shown import show_fields

__all__ = ["MAX_WINDOW_BITS", "WINDOW_BITS", "Deflate"]

#: The default window: 4 KiB has most of the benefit of 32 KiB for an eighth of the memory.
WINDOW_BITS: int = 12
MAX_WINDOW_BITS: int = 15


def _integer(minimum: int, maximum: int | None = None, *, optional: bool = False) -> Any:
    kind = "an int or None" if optional else "an int"
    allowed = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{attribute.name} must be {kind}, not {value!r}")
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"{attribute.name} must be {allowed}, not {value}")

    return check


_bits = _integer(8, MAX_WINDOW_BITS, optional=True)


def _flag(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be a bool, not {value!r}")


@attrs.frozen(kw_only=True)
class Deflate:
    """Options for compressing messages with permessage-deflate (RFC 7692).

    If the two ends have different options, they use the smaller window, and no context takeover if either wants none.

    Attributes:
        level: Compression level, from 1 (fastest) to 9 (smallest).
        mem_level: Memory of the compressor besides its window, from 1 (least) to 9. With zlib each step doubles it;
            zlib-ng uses more memory, and the level makes little difference.
        server_max_window_bits: Window size for messages from the server, as a power of two, from 8 to 15. None: 12 for
            servers; clients accept any. If a client sets it, connecting fails if the server compresses without
            agreeing.
        client_max_window_bits: Window size for messages from the client, as a power of two, from 8 to 15. None: 12. A
            server's setting takes effect only if the client supports it.
        server_no_context_takeover: Whether the server compresses each message independently: less memory, but larger
            messages. If a client sets it, connecting fails if the server compresses without agreeing.
        client_no_context_takeover: The same for the client. It needs no agreement when the client sets it.
        min_size: Minimum size of messages to compress, in bytes.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
    """

    level: int = attrs.field(default=4, validator=_integer(1, 9))
    mem_level: int = attrs.field(default=5, validator=_integer(1, 9))
    server_max_window_bits: int | None = attrs.field(default=None, validator=_bits)
    client_max_window_bits: int | None = attrs.field(default=None, validator=_bits)
    server_no_context_takeover: bool = attrs.field(default=False, validator=_flag)
    client_no_context_takeover: bool = attrs.field(default=False, validator=_flag)
    min_size: int = attrs.field(default=64, validator=_integer(0))

    __repr__ = show_fields
