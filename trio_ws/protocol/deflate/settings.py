"""How to compress messages: ``Deflate``."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["MAX_WINDOW_BITS", "WINDOW_BITS", "Deflate"]

#: How large our window is where nobody asks for another: it has most of the benefit, and an eighth of the memory.
WINDOW_BITS: int = 12
MAX_WINDOW_BITS: int = 15


def _integer(minimum: int, maximum: int | None = None, *, optional: bool = False) -> Any:
    kind = "an int or None" if optional else "an int"
    allowed = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{attribute.name} is {kind}, not {value!r}")
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"{attribute.name} is {allowed}, not {value}")

    return check


_bits = _integer(8, MAX_WINDOW_BITS, optional=True)


def _flag(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} is True or False, not {value!r}")


@attrs.frozen(kw_only=True)
class Deflate:
    """How to compress messages.

    Where the two ends differ, the smaller window is agreed on, and no context takeover if either wants none.

    Attributes:
        level: How hard to try, from 1, the fastest, to 9, the smallest.
        mem_level: Memory for the compressor besides its window, from 1, the least, to 9. With zlib each step doubles
            it; zlib-ng takes more, and hardly minds this.
        server_max_window_bits: The window of what the server sends, from 8 to 15. A client that sets it refuses a
            server that compresses without agreeing to it.
        client_max_window_bits: The window of what the client sends, from 8 to 15. A server can only ask for it when the
            client says that it understands.
        server_no_context_takeover: Whether the server compresses each message by itself: less memory, less compression.
            A client that sets it refuses a server that does not agree to it.
        client_no_context_takeover: The same for the client, which can do so by itself.
        min_size: Messages of fewer bytes are not compressed.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If it is out of range.
    """

    level: int = attrs.field(default=4, validator=_integer(1, 9))
    mem_level: int = attrs.field(default=5, validator=_integer(1, 9))
    server_max_window_bits: int | None = attrs.field(default=None, validator=_bits)
    client_max_window_bits: int | None = attrs.field(default=None, validator=_bits)
    server_no_context_takeover: bool = attrs.field(default=False, validator=_flag)
    client_no_context_takeover: bool = attrs.field(default=False, validator=_flag)
    min_size: int = attrs.field(default=64, validator=_integer(0))
