"""Conversion of the argument of ``send()`` to an opcode and a payload."""

from __future__ import annotations

from typing import TypeAlias

from ..exceptions import InvalidData
from ..frames import Opcode

__all__ = ["Sendable", "prepare"]

#: The types that can be sent as one message.
Sendable: TypeAlias = str | bytes | bytearray | memoryview


def prepare(message: Sendable, text: bool | None) -> tuple[Opcode, bytes]:
    """Return the opcode and the payload of a message. The payload is immutable.

    Args:
        message: The message.
        text: True for a text message, False for a binary one, None to decide by the type.

    Raises:
        TypeError: If the message is neither text nor bytes.
        InvalidData: If ``text`` is true and the bytes are not UTF-8.
    """
    if text is None:
        # Nearly all messages take one of these two exits.
        if type(message) is bytes:
            return Opcode.BINARY, message
        if type(message) is str:
            return Opcode.TEXT, message.encode()
    if isinstance(message, str):
        return (Opcode.BINARY if text is False else Opcode.TEXT), message.encode()
    if isinstance(message, (bytes, bytearray, memoryview)):
        data = bytes(message)
        if not text:
            return Opcode.BINARY, data
        try:
            data.decode()
        except UnicodeDecodeError as exc:
            raise InvalidData(f"the message must be UTF-8: {exc.reason} at byte {exc.start}") from exc
        return Opcode.TEXT, data
    raise TypeError(f"a message must be str or bytes, not {type(message).__name__}")
