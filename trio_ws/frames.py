"""Frames (RFC 6455, section 5), as immutable values.

A :class:`Frame` or a :class:`Close` that exists is valid: whatever the RFC says about one frame by itself is
checked when it is constructed, and what receives it does not check again. The MASK bit, the length of the
payload and the masking key are not here: they are how a frame travels, and appear only in
:mod:`trio_ws.protocol.codec`.
"""

from __future__ import annotations

import codecs
import enum
from typing import Any

import attrs

from .exceptions.protocol import InvalidData, ProtocolError

__all__ = ["Close", "CloseCode", "Frame", "Opcode"]

#: Most bytes that the payload of a control frame may have (RFC 6455, section 5.5).
MAX_CONTROL_PAYLOAD = 125

#: Most characters of a payload that ``str(frame)`` shows.
MAX_SHOWN = 64


class Opcode(enum.IntEnum):
    """What a frame is (RFC 6455, section 5.2)."""

    CONT = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """The close codes of RFC 6455, section 7.4.1, and of the IANA registry that it founded."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    UNAUTHORIZED = 3000
    FORBIDDEN = 3003
    TIMEOUT = 3008


#: The codes below 3000 that may stand in a Close frame. 1004 is reserved; 1005, 1006 and 1015 never travel.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a close code is an int, not {value!r}")
    return int(value)


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"the payload of a frame is bytes, not {type(value).__name__}")


def _to_opcode(value: Any) -> Opcode:
    try:
        return Opcode(value)
    except ValueError:
        raise ProtocolError(f"{value!r} is not an opcode") from None


@attrs.frozen
class Close:
    """What a Close frame says (RFC 6455, section 5.5.1): why the connection ends.

    ``Close(1005, "")`` is an empty Close frame, the way the RFC reads one; it has no other spelling.

    Args:
        code: The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999; or 1005.
        reason: Text for the log of the peer, at most 123 bytes of UTF-8; empty with 1005.

    Raises:
        ProtocolError: if the code may not be sent, or the reason is too long for a control frame or not
            Unicode.
        TypeError: if the code is not an int, or the reason not a str.
    """

    code: int = attrs.field(converter=_to_int)
    reason: str = attrs.field(validator=attrs.validators.instance_of(str))

    @code.validator
    def _check_code(self, _attribute: object, code: int) -> None:
        if not (code in _SENDABLE or 3000 <= code <= 4999 or code == CloseCode.NO_STATUS_RCVD):
            raise ProtocolError(f"{code} is not a close code that may be sent")

    @reason.validator
    def _check_reason(self, _attribute: object, reason: str) -> None:
        try:
            size = len(reason.encode())
        except UnicodeEncodeError as exc:
            raise ProtocolError(f"the close reason {reason!r} cannot be encoded as UTF-8") from exc
        if size > MAX_CONTROL_PAYLOAD - 2:
            raise ProtocolError(f"the close reason takes {size} bytes, more than {MAX_CONTROL_PAYLOAD - 2}")
        if reason and self.code == CloseCode.NO_STATUS_RCVD:
            raise ProtocolError("a close reason needs a close code, and 1005 stands for none")

    @classmethod
    def parse(cls, data: bytes) -> Close:
        """Read the payload of a Close frame.

        Args:
            data: The payload, at most 125 bytes.

        Raises:
            ProtocolError: if it is one byte long, or the code may not be sent.
            InvalidData: if the reason is not UTF-8.
        """
        data = bytes(data)
        if not data:
            return cls(CloseCode.NO_STATUS_RCVD, "")
        if len(data) == 1:
            raise ProtocolError("the payload of a Close frame is one byte, too short for a close code")
        code = int.from_bytes(data[:2], "big")
        if code == CloseCode.NO_STATUS_RCVD:
            raise ProtocolError(f"{code} is not a close code that may be sent")
        try:
            reason = data[2:].decode()
        except UnicodeDecodeError as exc:
            raise InvalidData(f"the close reason {data[2:]!r} is not UTF-8") from exc
        return cls(code, reason)

    def serialize(self) -> bytes:
        """Write the payload of a Close frame."""
        if self.code == CloseCode.NO_STATUS_RCVD:
            return b""
        return self.code.to_bytes(2, "big") + self.reason.encode()

    @property
    def is_normal(self) -> bool:
        """Whether this ends a connection on which nothing went wrong: 1000, 1001 or no code."""
        return self.code in (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)

    def __str__(self) -> str:
        try:
            name = CloseCode(self.code).name.lower().replace("_", " ")
        except ValueError:
            name = "registered" if self.code < 4000 else "private use"
        # The peer chose the reason: it must not break a log into lines, or a terminal.
        reason = self.reason if self.reason.isprintable() else repr(self.reason)
        return f"{self.code} ({name}){' ' + reason if reason else ''}"


@attrs.frozen
class Frame:
    """One WebSocket frame (RFC 6455, section 5.2).

    Args:
        opcode: What it is; an int that is an opcode will do.
        data: Its payload, unmasked. A ``bytearray`` or ``memoryview`` is copied.
        fin: Whether it is the last frame of its message.
        rsv1: The reserved bit 1. Its meaning, like that of the other two, is up to an extension.
        rsv2: The reserved bit 2.
        rsv3: The reserved bit 3.

    Raises:
        ProtocolError: if the opcode is unknown, or if a control frame is fragmented, has more than 125 bytes,
            or is a Close frame with a payload that :meth:`Close.parse` refuses.
        TypeError: if the payload is not bytes.
    """

    opcode: Opcode = attrs.field(converter=_to_opcode)
    data: bytes = attrs.field(converter=_to_bytes)
    fin: bool = attrs.field(default=True, converter=bool)
    rsv1: bool = attrs.field(default=False, converter=bool)
    rsv2: bool = attrs.field(default=False, converter=bool)
    rsv3: bool = attrs.field(default=False, converter=bool)

    def __attrs_post_init__(self) -> None:
        if self.opcode < Opcode.CLOSE:
            return
        if not self.fin:
            raise ProtocolError(f"a {self.opcode.name} frame must not be fragmented")
        if len(self.data) > MAX_CONTROL_PAYLOAD:
            raise ProtocolError(
                f"a {self.opcode.name} frame has at most {MAX_CONTROL_PAYLOAD} bytes, not {len(self.data)}"
            )
        if self.opcode is Opcode.CLOSE:
            Close.parse(self.data)

    def __str__(self) -> str:
        """One line for a log: opcode, flags, the size, and the payload as far as it fits."""
        flags = [name for name in ("rsv1", "rsv2", "rsv3") if getattr(self, name)]
        if not self.fin:
            flags.append("continued")
        size = f"{len(self.data)} byte{'' if len(self.data) == 1 else 's'}"
        shown = show_payload(self.opcode, self.data, len(self.data), self.fin)
        return f"{self.opcode.name} {shown} [{', '.join([size, *flags])}]"


def show_payload(opcode: Opcode, start: bytes, size: int, fin: bool) -> str:
    """Return the payload of a frame for a log, as far as it fits.

    Args:
        opcode: What the frame is.
        start: The beginning of the payload: ``4 * MAX_SHOWN`` bytes are enough, but all of a control frame.
        size: The size of the payload.
        fin: Whether it is the last frame of its message.
    """
    if opcode is Opcode.CLOSE:
        return str(Close.parse(start))
    # Four bytes are the most that a character takes. Whatever follows is not looked at, however long it is.
    start = start[: 4 * MAX_SHOWN]
    cut = len(start) < size
    try:
        # The last character may be cut, here or by fragmentation: that does not make it any less text.
        text = codecs.getincrementaldecoder("utf-8")().decode(start, final=fin and not cut)
    except UnicodeDecodeError:
        text = None
    if text is not None and (opcode is Opcode.TEXT or text.isprintable()):
        return repr(text) if not cut and len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}..."
    shown = start[: MAX_SHOWN // 2].hex(" ")
    return shown if len(start) <= MAX_SHOWN // 2 else f"{shown} ..."
