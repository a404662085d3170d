"""Frames (RFC 6455, section 5), as immutable values.

The constructors of :class:`Frame` and :class:`Close` check every rule of the RFC that concerns a single frame, so other
code need not check these values again. The MASK bit, the payload length and the masking key belong to the wire format;
they appear only in :mod:`trio_ws.protocol.codec`.
"""

from __future__ import annotations

import codecs
import enum
from typing import Any

import attrs

from .exceptions.protocol import InvalidData, ProtocolError
from .exceptions.shown import show_fields

__all__ = ["Close", "CloseCode", "Frame", "Opcode"]

#: Maximum size of the payload of a control frame, in bytes (RFC 6455, section 5.5).
MAX_CONTROL_PAYLOAD = 125

#: Maximum number of payload characters that ``str(frame)`` shows.
MAX_SHOWN = 64


class Opcode(enum.IntEnum):
    """The opcode of a frame (RFC 6455, section 5.2)."""

    CONT = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """The close codes of RFC 6455, section 7.4.1, and of the IANA registry."""

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


#: The codes below 3000 that a Close frame may carry. 1004 is reserved; 1005, 1006 and 1015 are never sent.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def may_send(code: int) -> bool:
    """Return whether a close code may be sent in a Close frame (RFC 6455, section 7.4)."""
    return code in _SENDABLE or 3000 <= code <= 4999


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"code must be an int, not {value!r}")
    return int(value)


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"data must be bytes, a bytearray or a memoryview, not {type(value).__name__}")


def _to_opcode(value: Any) -> Opcode:
    try:
        return Opcode(value)
    except ValueError:
        raise ProtocolError(f"opcode must be 0x0 to 0x2 or 0x8 to 0xa, not {value!r}") from None


def _invalid_code(code: int) -> ProtocolError:
    return ProtocolError(f"the close code must be 1000 to 1003, 1007 to 1014 or 3000 to 4999, not {code}")


@attrs.frozen
class Close:
    """The content of a Close frame (RFC 6455, section 5.5.1): why the connection ends.

    ``Close(1005, "")`` stands for a Close frame without a payload.

    Args:
        code: The close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999; or 1005 for none.
        reason: Text for the peer's log, at most 123 bytes of UTF-8. Must be empty with 1005.

    Raises:
        ProtocolError: If a Close frame cannot carry the code, or the reason is too long or cannot be encoded.
        TypeError: If the code is not an int, or the reason is not a str.
    """

    code: int = attrs.field(converter=_to_int)
    reason: str = attrs.field()

    __repr__ = show_fields

    @code.validator
    def _check_code(self, _attribute: object, code: int) -> None:
        if not (may_send(code) or code == CloseCode.NO_STATUS_RCVD):
            raise _invalid_code(code)

    @reason.validator
    def _check_reason(self, _attribute: object, reason: str) -> None:
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {reason!r}")
        try:
            size = len(reason.encode())
        except UnicodeEncodeError as exc:
            raise ProtocolError(f"the close reason must be text that UTF-8 can encode, not {reason!r}") from exc
        if size > MAX_CONTROL_PAYLOAD - 2:
            raise ProtocolError(f"the close reason must be at most {MAX_CONTROL_PAYLOAD - 2} bytes, not {size}")
        if reason and self.code == CloseCode.NO_STATUS_RCVD:
            raise ProtocolError(f"the close reason must be empty with code 1005, not {reason!r}")

    @classmethod
    def parse(cls, data: bytes) -> Close:
        """Parse the payload of a Close frame.

        Args:
            data: The payload, at most 125 bytes.

        Raises:
            ProtocolError: If the payload is one byte long, or the code may not be sent.
            InvalidData: If the reason is not UTF-8.
        """
        data = bytes(data)
        if not data:
            return cls(CloseCode.NO_STATUS_RCVD, "")
        if len(data) == 1:
            raise ProtocolError("the payload of a Close frame must not be a single byte")
        code = int.from_bytes(data[:2], "big")
        if code == CloseCode.NO_STATUS_RCVD:
            raise _invalid_code(code)
        try:
            reason = data[2:].decode()
        except UnicodeDecodeError as exc:
            raise InvalidData(f"the close reason is not UTF-8: {data[2:]!r}") from exc
        return cls(code, reason)

    def serialize(self) -> bytes:
        """Return the payload of the Close frame."""
        if self.code == CloseCode.NO_STATUS_RCVD:
            return b""
        return self.code.to_bytes(2, "big") + self.reason.encode()

    @property
    def is_normal(self) -> bool:
        """Whether the code means that nothing went wrong: 1000, 1001 or 1005."""
        return self.code in (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)

    def __str__(self) -> str:
        try:
            name = CloseCode(self.code).name.lower().replace("_", " ")
        except ValueError:
            name = "registered" if self.code < 4000 else "private use"
        # The peer chose the reason. Control characters in it must not break the lines of a log or confuse a terminal.
        reason = self.reason if self.reason.isprintable() else repr(self.reason)
        return f"{self.code} ({name}){' ' + reason if reason else ''}"


@attrs.frozen
class Frame:
    """One WebSocket frame (RFC 6455, section 5.2).

    Args:
        opcode: The opcode. An int is converted.
        data: The payload, unmasked. A ``bytearray`` or ``memoryview`` is copied.
        fin: Whether this is the last frame of its message.
        rsv1: Reserved bit 1. Extensions define the meaning of the reserved bits.
        rsv2: Reserved bit 2.
        rsv3: Reserved bit 3.

    Raises:
        ProtocolError: If the opcode is unknown, a control frame is fragmented or has more than 125 bytes of payload, or
            :meth:`Close.parse` rejects the payload of a Close frame.
        TypeError: If the payload is not bytes.
    """

    opcode: Opcode = attrs.field(converter=_to_opcode)
    data: bytes = attrs.field(converter=_to_bytes)
    fin: bool = attrs.field(default=True, converter=bool)
    rsv1: bool = attrs.field(default=False, converter=bool)
    rsv2: bool = attrs.field(default=False, converter=bool)
    rsv3: bool = attrs.field(default=False, converter=bool)

    __repr__ = show_fields

    def __attrs_post_init__(self) -> None:
        if self.opcode < Opcode.CLOSE:
            return
        if not self.fin:
            raise ProtocolError(f"a {self.opcode.name} frame must not be fragmented")
        if len(self.data) > MAX_CONTROL_PAYLOAD:
            raise ProtocolError(
                f"a {self.opcode.name} frame must have at most {MAX_CONTROL_PAYLOAD} bytes, not {len(self.data)}"
            )
        if self.opcode is Opcode.CLOSE:
            Close.parse(self.data)

    def __str__(self) -> str:
        """Return one line for a log: opcode, the beginning of the payload, size and flags."""
        flags = [name for name in ("rsv1", "rsv2", "rsv3") if getattr(self, name)]
        if not self.fin:
            flags.append("continued")
        size = f"{len(self.data)} byte{'' if len(self.data) == 1 else 's'}"
        shown = show_payload(self.opcode, self.data, len(self.data), self.fin)
        return f"{self.opcode.name} {shown} [{', '.join([size, *flags])}]"


def show_payload(opcode: Opcode, start: bytes, size: int, fin: bool) -> str:
    """Return the beginning of a payload, formatted for a log.

    Args:
        opcode: The opcode of the frame.
        start: The first ``4 * MAX_SHOWN`` bytes of the payload; the whole payload of a control frame.
        size: Size of the whole payload in bytes.
        fin: Whether the frame is the last of its message.
    """
    if opcode is Opcode.CLOSE:
        return str(Close.parse(start))
    # A character takes at most four bytes in UTF-8, so this is enough even of a huge payload.
    start = start[: 4 * MAX_SHOWN]
    cut = len(start) < size
    try:
        # Cutting or fragmentation may have split the last character; the payload still counts as text.
        text = codecs.getincrementaldecoder("utf-8")().decode(start, final=fin and not cut)
    except UnicodeDecodeError:
        text = None
    if text is not None and (opcode is Opcode.TEXT or text.isprintable()):
        return repr(text) if not cut and len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}..."
    shown = start[: MAX_SHOWN // 2].hex(" ")
    return shown if len(start) <= MAX_SHOWN // 2 else f"{shown} ..."
