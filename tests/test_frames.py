"""Frame and Close: validation, comparison, and text for logs."""

from __future__ import annotations

import copy
import enum
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws.exceptions import InvalidData, ProtocolError
from trio_ws.frames import Close, CloseCode, Frame, Opcode

from .protocol.strategies import deterministic

DATA_OPCODES = [Opcode.CONT, Opcode.TEXT, Opcode.BINARY]
CONTROL_OPCODES = [Opcode.CLOSE, Opcode.PING, Opcode.PONG]

#: The valid codes (RFC 6455, section 7.4.2, and the IANA registry).
CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


def by_name(value: object) -> str:
    return value.name if isinstance(value, enum.Enum) else repr(value)


# -- Opcode and CloseCode ------------------------------------------------------------------------------------


def test_opcodes() -> None:
    assert {opcode.name: opcode.value for opcode in Opcode} == {
        "CONT": 0,
        "TEXT": 1,
        "BINARY": 2,
        "CLOSE": 8,
        "PING": 9,
        "PONG": 10,
    }


def test_opcode_is_an_int() -> None:
    assert issubclass(Opcode, enum.IntEnum)
    assert Opcode(9) is Opcode.PING
    assert int(Opcode.PONG) == 10


@pytest.mark.parametrize("value", [3, 7, 11, 15, 16, -1])
def test_reserved_opcodes(value: int) -> None:
    with pytest.raises(ValueError):
        Opcode(value)


def test_close_codes() -> None:
    assert issubclass(CloseCode, enum.IntEnum)
    assert {code.name: code.value for code in CloseCode} == {
        # RFC 6455, section 7.4.1. 1004 is reserved and has no name.
        "NORMAL_CLOSURE": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "NO_STATUS_RCVD": 1005,
        "ABNORMAL_CLOSURE": 1006,
        "INVALID_DATA": 1007,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "MANDATORY_EXTENSION": 1010,
        "INTERNAL_ERROR": 1011,
        "TLS_HANDSHAKE": 1015,
        # https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "BAD_GATEWAY": 1014,
        "UNAUTHORIZED": 3000,
        "FORBIDDEN": 3003,
        "TIMEOUT": 3008,
    }


# -- Close: construction -------------------------------------------------------------------------------------


def test_close_has_a_code_and_a_reason() -> None:
    close = Close(1000, "bye")
    assert (close.code, close.reason) == (1000, "bye")
    assert Close(code=1000, reason="bye") == close
    assert [field.name for field in attrs.fields(Close)] == ["code", "reason"]


@pytest.mark.parametrize("args", [(), (1000,)])
def test_close_needs_both(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        Close(*args)


def test_close_codes_that_may_be_sent() -> None:
    accepted = set()
    for code in range(0x10000):
        try:
            accepted.add(Close(code, "").code)
        except ProtocolError:
            pass
    # 1005 stands for a frame without a code.
    assert accepted == CODES | {1005}


@pytest.mark.parametrize("code", [-1, -1000, 0x10000 + 1000, 10**30])
def test_close_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ProtocolError):
        Close(code, "")


@pytest.mark.parametrize("code", ["1000", 1000.0, None, True, b"1000"])
def test_close_code_of_another_type(code: Any) -> None:
    with pytest.raises(TypeError, match=r"^code must be an int, not "):
        Close(code, "")


@pytest.mark.parametrize("reason", [b"bye", None, 1])
def test_close_reason_of_another_type(reason: Any) -> None:
    with pytest.raises(TypeError, match=r"^reason must be a str, not "):
        Close(1000, reason)


def test_close_code_is_a_plain_int() -> None:
    close = Close(CloseCode.GOING_AWAY, "")
    assert type(close.code) is int
    assert close == Close(1001, "")


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"])
def test_close_reason_is_at_most_123_bytes(character: str) -> None:
    size = len(character.encode())
    longest = character * (123 // size) + "x" * (123 % size)
    close = Close(1000, longest)
    assert len(close.serialize()) == 125
    with pytest.raises(ProtocolError):
        Close(1000, longest + "x")


def test_close_reason_must_be_unicode() -> None:
    with pytest.raises(ProtocolError) as caught:
        Close(1000, "\ud800")
    assert isinstance(caught.value.__cause__, UnicodeEncodeError)


def test_close_reason_needs_a_code() -> None:
    assert Close(1005, "").reason == ""
    with pytest.raises(ProtocolError):
        Close(1005, "bye")


# -- Close: parsing and serializing --------------------------------------------------------------------------


def test_close_serialize() -> None:
    assert Close(1000, "").serialize() == b"\x03\xe8"
    assert Close(1001, "é").serialize() == b"\x03\xe9\xc3\xa9"
    assert Close(1005, "").serialize() == b""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_close_parse(kind: Callable[[bytes], bytes]) -> None:
    assert Close.parse(kind(b"\x03\xe8")) == Close(1000, "")
    assert Close.parse(kind(b"\x03\xe9\xc3\xa9")) == Close(1001, "é")
    assert Close.parse(kind(b"")) == Close(1005, "")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x03", id="one byte"),
        pytest.param(b"\x00\x00", id="code 0"),
        pytest.param(b"\x03\xec", id="code 1004"),
        pytest.param(b"\x03\xed", id="code 1005"),
        pytest.param(b"\x03\xee", id="code 1006"),
        pytest.param(b"\x03\xf7", id="code 1015"),
        pytest.param(b"\x13\x88", id="code 5000"),
        pytest.param(b"\x03\xe8" + b"x" * 124, id="reason too long"),
    ],
)
def test_close_parse_rejects(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Close.parse(data)
    assert caught.value.code == 1002


@pytest.mark.parametrize("reason", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_close_parse_rejects_invalid_utf_8(reason: bytes) -> None:
    with pytest.raises(InvalidData) as caught:
        Close.parse(b"\x03\xe8" + reason)
    assert caught.value.code == 1007
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)


@deterministic
@given(st.sampled_from(sorted(CODES)), st.text().filter(lambda text: len(text.encode()) <= 123))
def test_close_round_trip(code: int, reason: str) -> None:
    close = Close(code, reason)
    assert Close.parse(close.serialize()) == close


@deterministic
@given(st.binary(max_size=125))
@example(b"\x03\xed")
def test_close_parse_is_strict_and_total(data: bytes) -> None:
    try:
        close = Close.parse(data)
    except ProtocolError:
        return
    # Parsing and serializing is a round trip.
    assert close.serialize() == data


@pytest.mark.parametrize("code, normal", [(1000, True), (1001, True), (1005, True), (1002, False), (4000, False)])
def test_close_is_normal(code: int, normal: bool) -> None:
    assert Close(code, "").is_normal is normal


# -- Close: values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "close, shown",
    [
        (Close(1000, "bye"), "1000 (normal closure) bye"),
        (Close(1001, ""), "1001 (going away)"),
        (Close(1005, ""), "1005 (no status rcvd)"),
        (Close(3000, ""), "3000 (unauthorized)"),
        (Close(3999, "x"), "3999 (registered) x"),
        (Close(4000, "x"), "4000 (private use) x"),
    ],
    ids=lambda value: str(value.code) if isinstance(value, Close) else "",
)
def test_close_str(close: Close, shown: str) -> None:
    assert str(close) == shown


@pytest.mark.parametrize("reason", ["a\nb", "\x1b[2J", "\u2028", "\u202e", "\x00"], ids=ascii)
def test_close_str_escapes_control_characters(reason: str) -> None:
    assert str(Close(1000, reason)) == f"1000 (normal closure) {reason!r}"


VALUES = {
    "Close": (Close(1000, "bye"), Close(1001, "bye"), "code"),
    "Frame": (Frame(Opcode.TEXT, b"hi"), Frame(Opcode.BINARY, b"hi"), "opcode"),
}
values = pytest.mark.parametrize("value, other, name", VALUES.values(), ids=VALUES.keys())


@values
def test_values_compare_and_hash_by_content(value: Any, other: Any, name: str) -> None:
    same = attrs.evolve(value)
    assert same is not value
    assert same == value
    assert hash(same) == hash(value)
    assert value != other
    assert len({value, same, other}) == 2
    assert value != attrs.astuple(value)


@values
def test_values_are_immutable_and_slotted(value: Any, other: Any, name: str) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, name, getattr(other, name))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        delattr(value, name)
    with pytest.raises(AttributeError):
        value.extra = 1
    assert not hasattr(value, "__dict__")


@values
def test_values_can_be_pickled_and_copied(value: Any, other: Any, name: str) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value


@values
def test_values_have_no_order(value: Any, other: Any, name: str) -> None:
    with pytest.raises(TypeError):
        value < other  # noqa: B015


def test_evolve_validates_again() -> None:
    with pytest.raises(ProtocolError):
        attrs.evolve(Close(1000, ""), code=1006)
    with pytest.raises(ProtocolError):
        attrs.evolve(Frame(Opcode.PING, b""), fin=False)


# -- Frame: construction -------------------------------------------------------------------------------------


def test_frame_defaults() -> None:
    frame = Frame(Opcode.TEXT, b"hi")
    assert (frame.opcode, frame.data) == (Opcode.TEXT, b"hi")
    assert frame.fin is True
    assert (frame.rsv1, frame.rsv2, frame.rsv3) == (False, False, False)


def test_frame_fields_in_order() -> None:
    frame = Frame(Opcode.CONT, b"hi", False, True, False, True)
    assert frame == Frame(opcode=Opcode.CONT, data=b"hi", fin=False, rsv1=True, rsv2=False, rsv3=True)
    assert attrs.astuple(frame) == (Opcode.CONT, b"hi", False, True, False, True)


@pytest.mark.parametrize("name", ["fin", "rsv1", "rsv2", "rsv3"])
def test_frame_flags_are_independent(name: str) -> None:
    plain = Frame(Opcode.TEXT, b"")
    frame = attrs.evolve(plain, **{name: not getattr(plain, name)})
    changed = [field.name for field in attrs.fields(Frame) if getattr(plain, field.name) != getattr(frame, field.name)]
    assert changed == [name]


def test_frame_flags_are_bools() -> None:
    flags: Any = (1, 0x40, 0, "")
    frame = Frame(Opcode.TEXT, b"", *flags)
    assert [frame.fin, frame.rsv1, frame.rsv2, frame.rsv3] == [True, True, False, False]
    assert all(type(flag) is bool for flag in attrs.astuple(frame)[2:])


@pytest.mark.parametrize("opcode", Opcode, ids=by_name)
def test_frame_opcode_may_be_an_int(opcode: Opcode) -> None:
    value: Any = int(opcode)
    assert Frame(value, b"").opcode is opcode


@pytest.mark.parametrize("opcode", [3, 7, 11, 15, -1, "TEXT", None, []], ids=repr)
def test_frame_opcode_unknown(opcode: Any) -> None:
    with pytest.raises(ProtocolError):
        Frame(opcode, b"")


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_frame_data_is_always_bytes(kind: Callable[[bytes], Any]) -> None:
    data = kind(b"hi")
    frame = Frame(Opcode.TEXT, data)
    assert type(frame.data) is bytes
    assert frame == Frame(Opcode.TEXT, b"hi")
    assert hash(frame) == hash(Frame(Opcode.TEXT, b"hi"))


def test_mutable_frame_data_is_copied() -> None:
    data = bytearray(b"hi")
    frame = Frame(Opcode.TEXT, data)
    data[0] = 0
    assert frame.data == b"hi"


def test_frame_data_of_type_bytes_is_not_copied() -> None:
    data = b"x" * 1000
    assert Frame(Opcode.TEXT, data).data is data


def test_frame_data_from_a_view_of_numbers() -> None:
    view = memoryview(b"abcdefgh").cast("I")
    assert Frame(Opcode.BINARY, view).data == b"abcdefgh"
    assert Frame(Opcode.BINARY, memoryview(b"abcdef")[::2]).data == b"ace"


@pytest.mark.parametrize("data", ["hi", 5, None, [1, 2]], ids=repr)
def test_frame_data_of_another_type(data: Any) -> None:
    with pytest.raises(TypeError, match=r"^data must be bytes, "):
        Frame(Opcode.TEXT, data)


# -- Frame: control frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", CONTROL_OPCODES, ids=by_name)
def test_control_frame_is_not_fragmented(opcode: Opcode) -> None:
    assert Frame(opcode, b"").fin
    with pytest.raises(ProtocolError) as caught:
        Frame(opcode, b"", fin=False)
    assert caught.value.code == 1002


@pytest.mark.parametrize("opcode", CONTROL_OPCODES, ids=by_name)
def test_control_frame_has_at_most_125_bytes(opcode: Opcode) -> None:
    longest = b"\x03\xe8" + b"x" * 123
    assert Frame(opcode, longest).data == longest
    with pytest.raises(ProtocolError):
        Frame(opcode, longest + b"x")


@pytest.mark.parametrize("opcode", DATA_OPCODES, ids=by_name)
def test_data_frame_has_any_size_and_may_be_fragmented(opcode: Opcode) -> None:
    frame = Frame(opcode, b"x" * 100_000, fin=False)
    assert len(frame.data) == 100_000
    assert frame.fin is False


@pytest.mark.parametrize("opcode", Opcode, ids=by_name)
def test_reserved_bits_are_up_to_extensions(opcode: Opcode) -> None:
    frame = Frame(opcode, b"", rsv1=True, rsv2=True, rsv3=True)
    assert (frame.rsv1, frame.rsv2, frame.rsv3) == (True, True, True)


def test_text_need_not_be_whole_characters() -> None:
    # The whole message must be UTF-8, but a character may be split between frames.
    assert Frame(Opcode.TEXT, b"\xc3", fin=False).data == b"\xc3"
    assert Frame(Opcode.CONT, b"\xa9").data == b"\xa9"


@deterministic
@given(st.binary(max_size=130))
@example(b"\x03\xe8\xff")
def test_close_frame_holds_a_close(data: bytes) -> None:
    refusal: type[ProtocolError] | None = None
    try:
        Close.parse(data)
    except ProtocolError as exc:
        refusal = type(exc)
    if refusal is None:
        assert Frame(Opcode.CLOSE, data).data == data
    else:
        with pytest.raises(ProtocolError) as caught:
            Frame(Opcode.CLOSE, data)
        # The size is checked first.
        assert type(caught.value) is (refusal if len(data) <= 125 else ProtocolError)


@deterministic
@given(st.integers(-1, 16), st.binary(max_size=130), st.booleans(), st.booleans())
def test_only_valid_frames_can_be_constructed(opcode: Any, data: bytes, fin: bool, rsv1: bool) -> None:
    try:
        frame = Frame(opcode, data, fin, rsv1)
    except ProtocolError:
        assert opcode not in DATA_OPCODES
        return
    assert frame.opcode in Opcode
    assert frame.opcode in DATA_OPCODES or (frame.fin and len(frame.data) <= 125)


# -- Frame: text for logs--------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame, shown",
    [
        (Frame(Opcode.TEXT, b"hi"), "TEXT 'hi' [2 bytes]"),
        (Frame(Opcode.TEXT, b""), "TEXT '' [0 bytes]"),
        (Frame(Opcode.TEXT, b"x"), "TEXT 'x' [1 byte]"),
        (Frame(Opcode.TEXT, "naïve".encode()), "TEXT 'naïve' [6 bytes]"),
        (Frame(Opcode.TEXT, b"a\nb"), r"TEXT 'a\nb' [3 bytes]"),
        (Frame(Opcode.TEXT, b"\xff\xfe"), "TEXT ff fe [2 bytes]"),
        (Frame(Opcode.TEXT, b"hi", fin=False), "TEXT 'hi' [2 bytes, continued]"),
        (Frame(Opcode.TEXT, b"na\xc3", fin=False), "TEXT 'na' [3 bytes, continued]"),
        (Frame(Opcode.TEXT, b"na\xc3"), "TEXT 6e 61 c3 [3 bytes]"),
        (Frame(Opcode.CONT, b"x", fin=False), "CONT 'x' [1 byte, continued]"),
        (Frame(Opcode.CONT, b"\xafve"), "CONT af 76 65 [3 bytes]"),
        (Frame(Opcode.BINARY, b"hi"), "BINARY 'hi' [2 bytes]"),
        (Frame(Opcode.BINARY, b"\x00\xff"), "BINARY 00 ff [2 bytes]"),
        (Frame(Opcode.BINARY, b"a\nb"), "BINARY 61 0a 62 [3 bytes]"),
        (Frame(Opcode.PING, b"1"), "PING '1' [1 byte]"),
        (Frame(Opcode.PONG, b""), "PONG '' [0 bytes]"),
        (Frame(Opcode.CLOSE, b"\x03\xe8bye"), "CLOSE 1000 (normal closure) bye [5 bytes]"),
        (Frame(Opcode.CLOSE, b""), "CLOSE 1005 (no status rcvd) [0 bytes]"),
        (Frame(Opcode.BINARY, b"", rsv1=True, rsv2=True, rsv3=True), "BINARY '' [0 bytes, rsv1, rsv2, rsv3]"),
        (Frame(Opcode.BINARY, b"", fin=False, rsv1=True), "BINARY '' [0 bytes, rsv1, continued]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_frame_str(frame: Frame, shown: str) -> None:
    assert str(frame) == shown


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"], ids=["1 byte", "2 bytes", "3 bytes", "4 bytes"])
def test_long_text_is_shortened(character: str) -> None:
    assert str(Frame(Opcode.TEXT, (character * 64).encode())).startswith(f"TEXT {character * 64!r} [")
    assert str(Frame(Opcode.TEXT, (character * 65).encode())).startswith(f"TEXT {character * 64!r}... [")
    assert str(Frame(Opcode.TEXT, (character * 10_000).encode())).startswith(f"TEXT {character * 64!r}... [")
    # Cut within a character.
    assert str(Frame(Opcode.TEXT, ("x" + character * 1000).encode())).startswith(f"TEXT {'x' + character * 63!r}... [")


def test_long_binary_is_shortened() -> None:
    assert str(Frame(Opcode.BINARY, b"\xff" * 32)) == "BINARY " + " ".join(["ff"] * 32) + " [32 bytes]"
    assert str(Frame(Opcode.BINARY, b"\xff" * 33)) == "BINARY " + " ".join(["ff"] * 32) + " ... [33 bytes]"


@deterministic
@given(
    st.sampled_from([opcode for opcode in Opcode if opcode is not Opcode.CLOSE]),
    st.one_of(st.binary(max_size=125), st.text(max_size=31).map(str.encode)),
    st.integers(1, 100),
)
def test_frame_str_is_one_short_line(opcode: Opcode, data: bytes, repeat: int) -> None:
    if opcode in DATA_OPCODES:
        data *= repeat
    shown = str(Frame(opcode, data))
    assert shown.isprintable()
    assert shown.startswith(opcode.name)
    assert len(shown) < 1000


@deterministic
@given(st.text(max_size=30))
def test_close_frame_str_is_one_line(reason: str) -> None:
    assert str(Frame(Opcode.CLOSE, Close(1000, reason).serialize())).isprintable()
