"""Conversion of the arguments of calls that send: messages, the payloads of control frames, and Close frames."""

from __future__ import annotations

from typing import TypeAlias

from ..exceptions import InvalidData
from ..frames import MAX_CONTROL_PAYLOAD, Close, Opcode, may_send
from ..misuse.values import check_instance

__all__ = ["Sendable", "make_close", "prepare", "prepare_control"]

# Looking up a member of an enum takes as long as three calls.
_TEXT, _BINARY = Opcode.TEXT, Opcode.BINARY

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
            return _BINARY, message
        if type(message) is str:
            return _TEXT, message.encode()
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


def prepare_control(data: str | bytes) -> bytes:
    """Return the payload of a ping or pong.

    Raises:
        TypeError: If ``data`` is neither text nor bytes.
        ValueError: If ``data`` is longer than 125 bytes.
    """
    payload = prepare(data, None)[1]
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"data must be at most {MAX_CONTROL_PAYLOAD} bytes long, not {len(payload)}")
    return payload


def make_close(code: int, reason: str) -> Close:
    """Return a Close frame for this end to send.

    Raises:
        ValueError: If the code may not be sent or the reason is too long.
        TypeError: If ``code`` is not an int or ``reason`` is not a str.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"code must be an int, not {code!r}")
    check_instance("reason", reason, str, "a str")
    if not may_send(code):
        raise ValueError(f"code must be 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455, section 7.4), not {code}")
    try:
        size = len(reason.encode())
    except UnicodeEncodeError:
        raise ValueError(f"reason must be text that UTF-8 can encode, not {reason!r}") from None
    if size > MAX_CONTROL_PAYLOAD - 2:
        raise ValueError(f"reason must be at most {MAX_CONTROL_PAYLOAD - 2} bytes of UTF-8, not {size}")
    return Close(code, reason)
