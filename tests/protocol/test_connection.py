from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from random import Random
from sys import getsizeof
from typing import Any

import attrs
import pytest
import websockets.frames
from hypothesis import given
from hypothesis import strategies as st
from websockets.protocol import Protocol as Peer
from websockets.protocol import Side

from trio_ws.exceptions import InvalidData, MessageTooBig, ProtocolError
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import Event, LastPart, Protocol, Role
from trio_ws.protocol.closing import ClosingState
from trio_ws.protocol.codec import RSV1, RSV2, RSV3
from trio_ws.protocol.connection import OutgoingFrame
from trio_ws.protocol.extensions import EncodingCache

from .strategies import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    OTHER,
    PING,
    PONG,
    ROLES,
    TEXT,
    VALID_TEXTS,
    Counting,
    Repeat,
    Reverse,
    comparable,
    control_payloads,
    cut,
    deterministic,
    drain,
    events_of,
    frame_to,
    no_random,
    one_by_one,
    payloads,
    positions,
    protocol,
    roles,
    split,
    texts,
    xor,
)

LIMIT = 100_000

Maker = Callable[[int, bytes], bytes]


def frames_for(role: Role) -> Maker:
    """Return a function that makes frames for this end."""

    def to(first_byte: int, payload: bytes) -> bytes:
        return frame_to(role, first_byte, payload)

    return to


def check(role: Role, data: bytes, *expected: Event | type[ProtocolError], limit: int | None = None) -> None:
    """Check the events, and that they do not depend on how the bytes are fed."""
    for pieces in ([data], one_by_one(data), cut(data, range(0, len(data), 3)), cut(data, range(1, len(data), 1000))):
        receiver = protocol(role, max_message_size=limit)
        for piece in pieces:
            receiver.receive(piece)
        events = drain(receiver)
        assert [type(e) if isinstance(e, ProtocolError) else (type(e), e) for e in events] == [
            e if isinstance(e, type) else (type(e), e) for e in expected
        ]


def ping(data: bytes = b"") -> Frame:
    return Frame(Opcode.PING, data)


def pong(data: bytes = b"") -> Frame:
    return Frame(Opcode.PONG, data)


def close(data: bytes = b"") -> Frame:
    return Frame(Opcode.CLOSE, data)


# -- Basic conformance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [0, 125, 126, 127, 128, 65535, 65536])
def test_echo(role: Role, size: int) -> None:
    """Messages arrive as they were sent, whole and in fragments."""
    sender, receiver = protocol(OTHER[role]), protocol(role)
    for opcode, payload in ((Opcode.TEXT, b"*" * size), (Opcode.BINARY, b"\xfe" * size)):
        receiver.receive(b"".join(sender.encode(opcode, payload)))
        for fragment, final in split(payload, range(997, size, 997)):
            receiver.receive(b"".join(sender.encode(opcode, fragment, final)))
            opcode = Opcode.CONT
    text, binary = "*" * size, b"\xfe" * size
    assert drain(receiver) == [text, text, binary, binary]


@pytest.mark.parametrize("role", ROLES)
def test_pings_and_pongs(role: Role) -> None:
    to = frames_for(role)
    check(role, to(FIN | PING, b""), ping())
    check(role, to(FIN | PING, b"\x00\xff\xfe\x00"), ping(b"\x00\xff\xfe\x00"))
    check(role, to(FIN | PING, b"x" * 125), ping(b"x" * 125))
    check(role, frame_to(role, FIN | PING, b"x" * 126, width=2), ProtocolError)
    check(role, to(FIN | PONG, b"unsolicited"), pong(b"unsolicited"))
    check(role, to(FIN | PONG, b"unsolicited") + to(FIN | PING, b"a"), pong(b"unsolicited"), ping(b"a"))
    # Each of ten pings needs an answer.
    ten = [b"ping %d" % i for i in range(10)]
    check(role, b"".join(to(FIN | PING, each) for each in ten), *map(ping, ten))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rsv", range(RSV3, RSV1 + RSV2 + RSV3 + 1, RSV3))
def test_reserved_bits(role: Role, rsv: int) -> None:
    to = frames_for(role)
    for opcode in (TEXT, BINARY, PING, PONG, CLOSE):
        before = to(FIN | TEXT, b"a") + to(FIN | PING, b"b")
        check(role, before + to(FIN | rsv | opcode, b"") + to(FIN | PING, b"c"), "a", ping(b"b"), ProtocolError)
    check(role, to(TEXT, b"a") + to(FIN | rsv | CONT, b"b"), ProtocolError)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes(role: Role, opcode: int) -> None:
    to = frames_for(role)
    for payload in (b"", b"payload"):
        check(role, to(FIN | opcode, payload) + to(FIN | PING, b""), ProtocolError)
        check(role, to(FIN | TEXT, b"a") + to(FIN | opcode, payload) + to(FIN | PING, b""), "a", ProtocolError)
        check(role, to(TEXT, b"a") + to(FIN | opcode, payload), ProtocolError)


@pytest.mark.parametrize("role", ROLES)
def test_fragmentation(role: Role) -> None:
    to = frames_for(role)
    check(role, to(PING, b"frag") + to(FIN | CONT, b"ment"), ProtocolError)
    check(role, to(PONG, b"frag") + to(FIN | CONT, b"ment"), ProtocolError)
    check(role, to(CLOSE, b"\x03\xe8") + to(FIN | CONT, b"bye"), ProtocolError)
    check(role, to(TEXT, b"frag") + to(FIN | CONT, b"ment"), "fragment")
    check(role, to(TEXT, b"frag") + to(FIN | PING, b"p") + to(FIN | CONT, b"ment"), ping(b"p"), "fragment")
    check(role, to(FIN | CONT, b"a") + to(FIN | TEXT, b"b"), ProtocolError)
    check(role, to(CONT, b"a") + to(FIN | TEXT, b"b"), ProtocolError)
    whole = to(TEXT, b"1") + to(CONT, b"2") + to(FIN | CONT, b"3")
    check(role, whole + to(CONT, b"4"), "123", ProtocolError)
    check(role, to(TEXT, b"1") + to(FIN | TEXT, b"2"), ProtocolError)
    check(role, to(TEXT, b"1") + to(BINARY, b"2"), ProtocolError)
    check(
        role,
        to(TEXT, b"1")
        + to(FIN | PING, b"a")
        + to(CONT, b"2")
        + to(FIN | PONG, b"b")
        + to(FIN | CONT, b"3")
        + to(FIN | BINARY, b"4"),
        ping(b"a"),
        pong(b"b"),
        "123",
        b"4",
    )


@pytest.mark.parametrize("role", ROLES)
def test_utf8(role: Role) -> None:
    to = frames_for(role)
    for text in VALID_TEXTS:
        data = text.encode()
        check(role, to(FIN | TEXT, data), text)
        check(role, to(TEXT, data[:3]) + to(CONT, b"") + to(FIN | PING, b"") + to(FIN | CONT, data[3:]), ping(), text)
    kosme = "κόσμε".encode()
    check(role, to(FIN | TEXT, kosme + b"\xed\xa0\x80edited"), InvalidData)
    # It fails before the end of the message, and even before the end of the frame.
    check(role, to(TEXT, kosme + b"\xf4\x90"), InvalidData)
    check(role, to(TEXT, kosme + b"\xf4") + to(CONT, b"\x90"), InvalidData)
    check(role, to(FIN | TEXT, kosme + b"\xed\xa0\x80edited" + bytes(100))[:30], InvalidData)


@pytest.mark.parametrize("role", ROLES)
def test_nothing_matters_after_a_close_frame(role: Role) -> None:
    to = frames_for(role)
    normal = to(FIN | CLOSE, b"\x03\xe8")
    expected = close(b"\x03\xe8")
    check(role, to(FIN | TEXT, b"a") + normal, "a", expected)
    for after in (normal, to(FIN | PING, b""), to(FIN | TEXT, b"late"), b"\xff" * 20, b"\x00"):
        check(role, normal + after, expected)
    # The rest of a message does not count either, but the message is lost.
    check(role, to(TEXT, b"frag") + normal + to(FIN | CONT, b"ment"), expected, ProtocolError)


@pytest.mark.parametrize("role", ROLES)
def test_nothing_matters_after_a_violation(role: Role) -> None:
    to = frames_for(role)
    for after in (to(FIN | CLOSE, b"\x03\xe8"), to(FIN | TEXT, b"late"), b"\xff" * 20):
        check(role, to(FIN | CONT, b"") + after, ProtocolError)


@pytest.mark.parametrize("role", ROLES)
def test_payloads_of_close_frames(role: Role) -> None:
    to = frames_for(role)
    check(role, to(FIN | CLOSE, b""), close())
    check(role, to(FIN | CLOSE, b"\x03"), ProtocolError)
    check(role, to(FIN | CLOSE, b"\x03\xe8"), close(b"\x03\xe8"))
    for reason in (b"bye", "wiedersehen, schön wars".encode(), b"x" * 123):
        check(role, to(FIN | CLOSE, b"\x03\xe8" + reason), close(b"\x03\xe8" + reason))
    check(role, to(FIN | CLOSE, b"\x03\xe8" + b"x" * 124), ProtocolError)
    check(role, to(FIN | CLOSE, b"\x03\xe8" + "κόσμε".encode() + b"\xed\xa0\x80"), InvalidData)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_close_codes(role: Role, code: int) -> None:
    payload = code.to_bytes(2, "big") + b"why"
    check(role, frame_to(role, FIN | CLOSE, payload), close(payload))
    receiver = protocol(role)
    receiver.receive(frame_to(role, FIN | CLOSE, payload))
    assert receiver.closing.rcvd == Close(code, "why")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_must_not_be_sent(role: Role, code: int) -> None:
    for reason in (b"", b"why"):
        check(role, frame_to(role, FIN | CLOSE, code.to_bytes(2, "big") + reason), ProtocolError)
    receiver = protocol(role)
    receiver.receive(frame_to(role, FIN | CLOSE, code.to_bytes(2, "big")))
    assert receiver.closing.state is ClosingState.OPEN
    assert receiver.closing.rcvd is None
    # We can still send a Close frame.
    receiver.encode_close(Close(1002, ""))
    assert receiver.closing.sent == Close(1002, "")


@pytest.mark.parametrize("role", ROLES)
def test_limits(role: Role) -> None:
    to = frames_for(role)
    for opcode, exact in ((TEXT, "x" * 300), (BINARY, b"x" * 300)):
        payload = b"x" * 300
        check(role, to(FIN | opcode, payload), exact, limit=300)
        check(
            role,
            to(opcode, payload[:150]) + to(FIN | PING, b"") + to(FIN | CONT, payload[150:]),
            ping(),
            exact,
            limit=300,
        )
        check(role, to(FIN | opcode, payload), MessageTooBig, limit=299)
        check(role, to(opcode, payload[:150]) + to(CONT, payload[150:]), MessageTooBig, limit=299)
        # It fails before any of its payload arrives.
        check(role, frame_to(role, FIN | opcode, b"", size=300), MessageTooBig, limit=299)
        check(role, frame_to(role, FIN | opcode, b"", size=2**63 - 1), MessageTooBig, limit=299)


def test_events_carry_the_close_code() -> None:
    for data, code in (
        (b"\x83\x00", 1002),
        (b"\x81\x01\xff", 1007),
        (b"\x82\x02", 1009),
        (b"\x88\x03\x03\xe8\xff", 1007),
    ):
        receiver = protocol(Role.CLIENT, max_message_size=1)
        receiver.receive(data)
        (event,) = drain(receiver)
        assert isinstance(event, ProtocolError)
        assert event.code == code


@pytest.mark.parametrize("type_", [bytes, bytearray])
def test_messages_are_bytes_for_every_type_of_buffer(type_: type[bytes | bytearray]) -> None:
    for role in ROLES:
        receiver = protocol(role)
        data = frame_to(role, FIN | BINARY, b"one") + frame_to(role, BINARY, b"t") + frame_to(role, FIN | CONT, b"wo")
        data += frame_to(role, FIN | PING, b"p") + frame_to(role, BINARY, b"par")
        buffer = type_(data)
        receiver.receive(buffer)
        if isinstance(buffer, bytearray):
            buffer[:] = bytes(len(buffer))
        events = drain(receiver)
        assert events == [b"one", b"two", ping(b"p")]
        assert [type(event) for event in events] == [bytes, bytes, Frame]
        part = receiver.take_part()
        assert (type(part), part) == (bytes, b"par")


# -- Events do not depend on the chunks -----------------------------------------------------------------------------


@attrs.frozen
class Script:
    """A sequence of frames, and the expected events."""

    wire: bytes
    expected: list[Any]


def violations(to: Maker, role: Role, in_message: bool) -> dict[str, tuple[bytes, type[ProtocolError]]]:
    wrong = {
        "reserved bit": (to(FIN | RSV1 | (CONT if in_message else BINARY), b"x"), ProtocolError),
        "reserved bit of a ping": (to(FIN | RSV2 | PING, b"x"), ProtocolError),
        "reserved opcode": (to(FIN | 0x5, b"x"), ProtocolError),
        "reserved control opcode": (to(FIN | 0xD, b"x"), ProtocolError),
        "fragmented ping": (to(PING, b"x"), ProtocolError),
        "fragmented close": (to(CLOSE, b""), ProtocolError),
        "long pong": (to(FIN | PONG, b"x" * 126), ProtocolError),
        "wrong mask": (
            frame_to(role, FIN | PING, b"x", mask=role is Role.CLIENT),
            ProtocolError,
        ),
        "length not minimal": (frame_to(role, CONT if in_message else TEXT, b"x", width=8), ProtocolError),
        "length with bit 63": (frame_to(role, CONT if in_message else TEXT, b"x", size=2**63), ProtocolError),
        "too big": (frame_to(role, CONT if in_message else TEXT, b"\xff", size=LIMIT + 1), MessageTooBig),
        "out of order": (to(FIN | (TEXT if in_message else CONT), b"\xff"), ProtocolError),
        "close code": (to(FIN | CLOSE, b"\x03\xed"), ProtocolError),
        "half a close code": (to(FIN | CLOSE, b"\x03"), ProtocolError),
        "close reason": (to(FIN | CLOSE, b"\x03\xe8\xc0\xaf"), InvalidData),
    }
    if not in_message:
        wrong["not UTF-8"] = (to(FIN | TEXT, b"ok \xed\xa0\x80 ok"), InvalidData)
        wrong["not UTF-8, unfinished"] = (to(TEXT, b"ok \xf0\x9f\xc3"), InvalidData)
        wrong["broken off"] = (to(TEXT, b"\xe2\x82") + to(FIN | CONT, b""), InvalidData)
    return wrong


@st.composite
def scripts(draw: st.DrawFn, role: Role) -> Script:
    wire: list[bytes] = []
    expected: list[Any] = []

    def to(first_byte: int, payload: bytes) -> bytes:
        key = draw(st.binary(min_size=4, max_size=4)) if role is Role.SERVER else b""
        return frame_to(role, first_byte, payload, key=key)

    def controls() -> None:
        for opcode, payload in draw(st.lists(st.tuples(st.sampled_from([PING, PONG]), control_payloads), max_size=2)):
            wire.append(to(FIN | opcode, payload))
            expected.append((Frame, Frame(Opcode(opcode), payload)))

    def message(whole: bool) -> None:
        content: str | bytes = draw(st.one_of(texts, payloads))
        data = content.encode() if isinstance(content, str) else content
        opcode = TEXT if isinstance(content, str) else BINARY
        fragments = list(split(data, draw(positions) if draw(st.booleans()) else []))
        for fragment, final in fragments if whole else fragments[:-1] or [(b"", False)]:
            wire.append(to((FIN if final else 0) | opcode, fragment))
            opcode = CONT
            if not final:
                controls()
        if whole:
            expected.append((type(content), content))

    for _ in range(draw(st.integers(min_value=0, max_value=4))):
        controls()
        message(whole=True)
    in_message = draw(st.booleans())
    if in_message:
        message(whole=False)
    controls()
    end = draw(st.sampled_from(["nothing", "close", "violation"]))
    if end == "close":
        payload = draw(st.sampled_from([b"", b"\x03\xe8", b"\x0f\xa0bye"]))
        wire.append(to(FIN | CLOSE, payload))
        expected.append((Frame, Frame(Opcode.CLOSE, payload)))
        if in_message:
            expected.append(ProtocolError)
    elif end == "violation":
        wrong = violations(to, role, in_message)
        data, type_ = wrong[draw(st.sampled_from(sorted(wrong)))]
        wire.append(data)
        expected.append(type_)
    if end != "nothing":
        wire.append(draw(st.binary(max_size=20)))
        wire.append(to(FIN | TEXT, b"late"))
    return Script(b"".join(wire), expected)


def without_details(event: Any) -> Any:
    """Return the type of an error, and other events unchanged."""
    return event[0] if issubclass(event[0], ProtocolError) else event


@deterministic
@given(st.data(), roles, st.lists(st.integers(min_value=0, max_value=3000), max_size=12))
def test_random_scripts(data: st.DataObject, role: Role, where: list[int]) -> None:
    script = data.draw(scripts(role))
    at_once = events_of(role, [script.wire], max_message_size=LIMIT)
    assert [without_details(event) for event in at_once] == script.expected
    assert events_of(role, cut(script.wire, where), max_message_size=LIMIT) == at_once
    if len(script.wire) < 3000:
        assert events_of(role, one_by_one(script.wire), max_message_size=LIMIT) == at_once


@st.composite
def soups(draw: st.DrawFn, role: Role) -> bytes:
    """Draw frames with random fields. Common values are more likely."""
    wire = b""
    for _ in range(draw(st.integers(min_value=1, max_value=8))):
        first_byte = draw(
            st.one_of(
                st.sampled_from(
                    [FIN | TEXT, TEXT, FIN | BINARY, BINARY, CONT, CONT, FIN | CONT, FIN | PING, FIN | CLOSE]
                ),
                st.sampled_from([RSV2 | TEXT, RSV2 | FIN | BINARY]),
                st.integers(min_value=0, max_value=255),
            )
        )
        payload = draw(
            st.one_of(
                st.text(max_size=6).map(str.encode),
                st.binary(max_size=6),
                st.sampled_from([b"\xed", b"\xed\xa0", b"\xe2\x82", b"\xac", b"\xf0\x9f", b"\x03\xe8", b"x" * 126]),
            )
        )
        wire += frame_to(
            role,
            first_byte,
            payload,
            mask=draw(st.sampled_from([None] * 9 + [True, False])),
            width=draw(st.sampled_from([None] * 9 + [2, 8])),
            key=draw(st.binary(min_size=4, max_size=4)),
        )
    return wire


@deterministic
@given(st.data(), roles, positions, st.sampled_from([None, 5, 200]), st.booleans())
def test_random_frames(data: st.DataObject, role: Role, where: list[int], limit: int | None, extended: bool) -> None:
    wire = data.draw(soups(role))
    expected = None
    for pieces in ([wire], one_by_one(wire), cut(wire, where)):
        events = events_of(role, pieces, max_message_size=limit, extensions=[Reverse()] if extended else [])
        if expected is None:
            expected = events
        # The size in the error depends on how much output the extension has produced.
        if extended:
            assert list(map(without_details, events)) == list(map(without_details, expected))
        else:
            assert events == expected


@deterministic
@given(roles, st.binary(max_size=60), positions)
def test_noise(role: Role, wire: bytes, where: list[int]) -> None:
    at_once = events_of(role, [wire])
    assert events_of(role, one_by_one(wire)) == at_once
    assert events_of(role, cut(wire, where)) == at_once


# -- Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"ab"])
def test_many_fragments_take_little_memory(payload: bytes) -> None:
    receiver = protocol(Role.CLIENT, max_message_size=2**20)
    receiver.receive(frame_to(Role.CLIENT, TEXT))
    chunk = frame_to(Role.CLIENT, CONT, payload) * 100
    tracemalloc.start()
    try:
        for _ in range(200):
            receiver.receive(chunk)
        memory, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert memory < 150_000
    assert 20_000 * len(payload) <= receiver.held <= memory
    assert drain(receiver) == []
    receiver.receive(frame_to(Role.CLIENT, FIN | CONT))
    assert drain(receiver) == [payload.decode() * 20_000]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [2**20, 2**62])
def test_huge_sizes_in_headers_cost_nothing(role: Role, size: int) -> None:
    receiver = protocol(role)
    tracemalloc.start()
    try:
        receiver.receive(frame_to(role, FIN | BINARY, b"abc", size=size))
        # No memory is allocated for it, not even temporarily.
        _, memory = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert memory < 10_000
    assert receiver.take_part() == b"abc"


def test_ignored_input_is_not_kept() -> None:
    for end in (b"\x88\x00", b"\xff\xff"):
        receiver = protocol(Role.CLIENT)
        receiver.receive(end)
        tracemalloc.start()
        try:
            for _ in range(100):
                receiver.receive(b"\x82\x7e\xff\xff" + bytes(65535))
            memory, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert memory < 10_000
        assert len(drain(receiver)) == 1


# -- Messages in parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_take_parts(role: Role) -> None:
    receiver = protocol(role)
    to = frames_for(role)
    assert receiver.message_in_progress is None
    receiver.receive(to(TEXT, "aé".encode()[:2]))
    assert receiver.message_in_progress is Opcode.TEXT
    assert receiver.next_event() is None
    # An incomplete character is held back.
    assert receiver.take_part() == "a"
    assert receiver.held == 0
    receiver.receive(to(FIN | PING, b"p") + to(CONT, "é".encode()[1:] + b"b"))
    assert receiver.held == getsizeof("éb")
    assert receiver.take_part() == "éb"
    receiver.receive(to(FIN | CONT, b"c") + to(FIN | TEXT, b"next") + to(BINARY, b"1"))
    assert drain(receiver) == [ping(b"p"), LastPart("c"), "next"]
    assert receiver.message_in_progress is Opcode.BINARY
    assert receiver.take_part() == b"1"
    receiver.receive(to(FIN | CONT, b""))
    assert drain(receiver) == [LastPart(b"")]
    assert receiver.message_in_progress is None
    with pytest.raises(ProtocolError):
        receiver.take_part()
    with pytest.raises(ProtocolError):
        receiver.skip_message()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("take_first", [True, False])
def test_skip_the_rest(role: Role, take_first: bool) -> None:
    receiver = protocol(role)
    to = frames_for(role)
    receiver.receive(to(BINARY, b"1"))
    if take_first:
        assert receiver.take_part() == b"1"
    receiver.skip_message()
    receiver.receive(to(CONT, b"2" * 10_000))
    assert receiver.held == 0
    assert receiver.message_in_progress is Opcode.BINARY
    receiver.receive(to(FIN | PING, b"p") + to(FIN | CONT, b"3") + to(FIN | TEXT, b"next"))
    assert receiver.message_in_progress is None
    assert drain(receiver) == [ping(b"p"), "next"]


def test_claimed_messages_that_fail() -> None:
    for rest, type_ in ((b"\x80\x01\xff", InvalidData), (b"\x00\x7d", MessageTooBig), (b"\x81\x00", ProtocolError)):
        for claim in ("take_part", "skip_message"):
            receiver = protocol(Role.CLIENT, max_message_size=100)
            receiver.receive(b"\x01\x01a")
            getattr(receiver, claim)()
            receiver.receive(rest)
            assert [type(event) for event in drain(receiver)] == [type_]


# -- Sending ---------------------------------------------------------------------------------------------------------


def test_only_clients_mask() -> None:
    assert Protocol(Role.CLIENT, random=Counting()).masks
    assert not Protocol(Role.SERVER, random=Counting()).masks


def test_a_server_does_not_mask() -> None:
    server = Protocol(Role.SERVER, random=no_random)
    large = bytes(100_000)
    assert server.encode(Opcode.TEXT, b"hello") == [b"\x81\x05hello"]
    chunks = server.encode(Opcode.BINARY, large)
    # A large payload is not copied.
    assert chunks[0] == b"\x82\x7f" + len(large).to_bytes(8, "big")
    assert chunks[1] is large
    assert b"".join(server.encode(Opcode.PING, b"p")) == b"\x89\x01p"
    assert b"".join(server.encode(Opcode.PONG, b"")) == b"\x8a\x00"
    assert b"".join(server.encode_close(Close(1001, "away"))) == b"\x88\x06\x03\xe9away"


def test_a_client_masks_each_frame_with_a_fresh_key() -> None:
    client = Protocol(Role.CLIENT, random=Counting())
    random = Counting()
    for i in range(2000):
        data = b"".join(client.encode(Opcode.BINARY, b"payload") if i % 2 else client.encode(Opcode.PING, b"payload"))
        assert data[:2] == (b"\x82\x87" if i % 2 else b"\x89\x87")
        # The random bytes are used once, in order.
        key = random(4)
        assert data[2:6] == key
        assert data[6:] == xor(b"payload", key)
    assert b"".join(client.encode_close(Close(1005, ""))) == b"\x88\x80" + random(4)


@pytest.mark.parametrize("sizes", [[7] * 1000, [7, 20_000, 7] * 100], ids=["small", "large too"])
def test_frames_encoded_together_have_different_keys(sizes: list[int]) -> None:
    client = Protocol(Role.CLIENT, random=Random(1).randbytes)
    frames = [(FIN | Opcode.BINARY, bytes(size), False) for size in sizes]
    keys = set()
    for _ in range(2):
        data = b"".join(client.encode_all(frames))
        for size in sizes:
            start = 6 if size < 126 else 8
            # The mask of a zero payload is the repeated key.
            key = data[start - 4 : start]
            assert data[start : start + size] == (key * (size // 4 + 1))[:size]
            keys.add(key)
            data = data[start + size :]
        assert data == b""
    assert len(keys) == 2 * len(sizes)


def test_keys_are_generated_on_demand() -> None:
    random = Counting()
    client = Protocol(Role.CLIENT, random=random)
    assert random.sizes == []
    client.encode(Opcode.TEXT, b"")
    assert random.sizes == [4]


@pytest.mark.parametrize("role", ROLES)
def test_fragments_to_send(role: Role) -> None:
    sender = protocol(role)
    with pytest.raises(ProtocolError):
        sender.encode(Opcode.CONT, b"")
    with pytest.raises(ProtocolError):
        sender.encode(Opcode.CONT, b"", False)
    for opcode in (Opcode.TEXT, Opcode.BINARY):
        sender.encode(opcode, b"1", False)
        for wrong in (Opcode.TEXT, Opcode.BINARY):
            with pytest.raises(ProtocolError):
                sender.encode(wrong, b"", False)
            with pytest.raises(ProtocolError):
                sender.encode(wrong, b"", True)
        sender.encode(Opcode.PING, b"")
        sender.encode(Opcode.CONT, b"2", False)
        sender.encode(Opcode.PONG, b"")
        sender.encode(Opcode.CONT, b"3", True)
        with pytest.raises(ProtocolError):
            sender.encode(Opcode.CONT, b"")
        sender.encode(opcode, b"4")


@pytest.mark.parametrize("role", ROLES)
def test_control_frames_to_send(role: Role) -> None:
    sender = protocol(role)
    for opcode in (Opcode.PING, Opcode.PONG):
        sender.encode(opcode, b"x" * 125)
        with pytest.raises(ProtocolError):
            sender.encode(opcode, b"x" * 126)
        with pytest.raises(ProtocolError):
            sender.encode(opcode, b"", False)
    with pytest.raises(ProtocolError):
        sender.encode(Opcode.CLOSE, b"")
    # The connection still works.
    assert sender.closing.state is ClosingState.OPEN
    sender.encode(Opcode.TEXT, b"")


@pytest.mark.parametrize("role", ROLES)
def test_extensions_mark_the_first_frame(role: Role) -> None:
    sender, receiver = protocol(role, extensions=[Reverse()]), protocol(OTHER[role], extensions=[Reverse()])
    steps: list[tuple[Opcode, bytes, bool]] = [
        (Opcode.BINARY, b"ab", False),
        (Opcode.PING, b"ping", True),
        (Opcode.CONT, b"cd", False),
        (Opcode.CONT, b"ef", True),
        (Opcode.TEXT, b"x", True),
        (Opcode.TEXT, b"xyz", True),
    ]
    first_bytes = []
    for step in steps:
        data = b"".join(sender.encode(*step))
        first_bytes.append(data[0])
        receiver.receive(data)
    marked = [RSV2 | BINARY, FIN | PING, CONT, FIN | CONT, FIN | TEXT, FIN | RSV2 | TEXT]
    assert first_bytes == marked
    assert drain(receiver) == [ping(b"ping"), b"abcdef", "x", "xyz"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("fragmented", [True, False])
def test_several_frames_at_once(role: Role, extended: bool, large: bool, fragmented: bool) -> None:
    frames = [
        (FIN | PONG, b"pong", False),
        (FIN | TEXT, b"hello", True),
        (FIN | BINARY, b"", True),
        (FIN | TEXT, b"not this", False),
        (FIN | TEXT, b"1", True),
        (FIN | BINARY, b"ab" * 500, True),
    ]
    if large:
        frames[3:3] = [(FIN | BINARY, b"cd" * 50_000, True)]
    if fragmented:
        frames[2:2] = [(TEXT, b"1", True), (FIN | PING, b"ping", False), (CONT, b"2", True), (FIN | CONT, b"3", True)]
    # The two methods draw keys in different portions, so all keys must be the same.
    at_once, singly = (
        Protocol(role, random=bytes, extensions=[Reverse(), Repeat(1)] if extended else []) for _ in range(2)
    )
    # A message may continue in the next call.
    for batch in (frames, [], frames[:3], frames[3:]):
        expected = b""
        for first_byte, data, transform in batch:
            opcode, fin = Opcode(first_byte & 0x0F), first_byte >= FIN
            expected += b"".join(singly.encode(opcode, data, fin, transform=transform))
        chunks = at_once.encode_all(batch)
        assert b"".join(chunks) == expected
        # Small frames are joined to one chunk.
        assert large or fragmented or len(chunks) == (1 if batch else 0)


def test_several_frames_at_once_have_fresh_keys() -> None:
    random = Counting()
    client = Protocol(Role.CLIENT, random=random)
    (chunk,) = client.encode_all([(FIN | BINARY, b"a", True)] * 3)
    assert random.sizes == [12]
    keys = Counting()(12)
    assert chunk == b"".join(b"\x82\x81" + key + xor(b"a", key) for key in cut(keys, [4, 8]))


@pytest.mark.parametrize("role", ROLES)
def test_several_frames_that_may_not_be_sent(role: Role) -> None:
    sender = protocol(role)
    with pytest.raises(ProtocolError):
        sender.encode_all([(FIN | TEXT, b"", True), (CONT, b"", True)])
    sender.encode_all([(TEXT, b"", True)])
    with pytest.raises(ProtocolError):
        sender.encode_all([(FIN | TEXT, b"", True)])
    sender.encode_close(Close(1000, ""))
    with pytest.raises(ProtocolError):
        sender.encode_all([(FIN | PONG, b"", False)])


# -- Resting ---------------------------------------------------------------------------------------------------------


def test_rest() -> None:
    extensions = [Repeat(2), Repeat(1)]
    random = Counting()
    client = Protocol(Role.CLIENT, random=random, extensions=extensions)
    client.encode(Opcode.PING, b"")
    client.rest()
    assert [extension.rests for extension in extensions] == [1, 1]
    # Unused keys are discarded.
    client.encode(Opcode.PING, b"")
    assert len(random.sizes) == 2


# -- Receiving in batches----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_whole_messages_before_the_next_event(role: Role) -> None:
    def plain(data: bytes) -> bytes:
        return frame_to(role, FIN | TEXT, data)

    def marked(data: bytes) -> bytes:
        return frame_to(role, FIN | RSV2 | TEXT, data)

    receiver = protocol(role, extensions=[Reverse()])
    receiver.receive(plain(b"1") + plain(b"2") + marked(b"3") + marked(b"4") + plain(b"5"))
    assert receiver.next_messages() == ["1", "2", "3", "4", "5"]
    assert receiver.next_event() is None
    # Messages after a control frame are events, in order.
    receiver.receive(marked(b"6") + plain(b"7") + frame_to(role, FIN | PING, b"p") + plain(b"8") + marked(b"9"))
    assert receiver.next_messages() == ["6", "7"]
    assert receiver.next_messages() == []
    assert drain(receiver) == [ping(b"p"), "8", "9"]
    receiver.receive(marked(b"6") + plain(b"7") + frame_to(role, FIN | PING, b"p") + plain(b"8"))
    assert drain(receiver) == ["6", "7", ping(b"p"), "8"]
    assert receiver.next_messages() == []


@pytest.mark.parametrize("role", ROLES)
def test_receive_in_steps(role: Role) -> None:
    receiver = protocol(role, extensions=[Repeat(1000)])
    wire = frame_to(role, FIN | BINARY, b"before") + frame_to(role, FIN | RSV3 | BINARY, b"abc" * 1000)
    steps = receiver.receive_in_steps(wire + frame_to(role, FIN | PING))
    next(steps)
    # Events are available between two steps.
    assert drain(receiver) == [b"before"]
    assert receiver.held >= 64 * 1024
    assert receiver.take_part() == b"".join(bytes([octet]) * 1000 for octet in (b"abc" * 1000)[:1024])
    assert len(list(steps)) >= 1
    last, control = drain(receiver)
    assert isinstance(last, LastPart)
    assert control == ping()


def test_many_small_messages_come_in_steps() -> None:
    receiver = protocol(Role.CLIENT)
    counts = []
    for _ in receiver.receive_in_steps(frame_to(Role.CLIENT, FIN | BINARY, b"a") * 1000):
        counts.append(len(drain(receiver)))
    counts.append(len(drain(receiver)))
    assert counts == [256, 256, 256, 232]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "first_byte, payload",
    [(FIN | PING, b""), (FIN | PONG, b"a"), (CONT, b""), (CONT, b"a"), (CONT, bytes(200)), (FIN | RSV2 | TEXT, b"a")],
)
def test_many_small_frames_take_several_steps(role: Role, first_byte: int, payload: bytes) -> None:
    receiver = protocol(role, extensions=[Reverse()])
    if not first_byte & 0x0F:
        receiver.receive(frame_to(role, BINARY))
    frames = []
    receiver.take_frame_count()
    for _ in receiver.receive_in_steps(frame_to(role, first_byte, payload) * 1000):
        frames.append(receiver.take_frame_count())
        assert len(drain(receiver)) <= 64
    frames.append(receiver.take_frame_count())
    assert sum(frames) == 1000
    assert max(frames) <= 65


def test_every_frame_is_counted_once() -> None:
    kinds = (FIN | TEXT, TEXT, FIN | PING, CONT, FIN | PONG, FIN | CONT, FIN | RSV2 | BINARY)
    wire = b"".join(frame_to(Role.SERVER, first_byte, b"ab") for first_byte in kinds)
    wire += frame_to(Role.SERVER, FIN | CLOSE, b"\x03\xe8")
    for chunks in ([wire], one_by_one(wire)):
        receiver = protocol(Role.SERVER, extensions=[Reverse()])
        counts = []
        for chunk in chunks:
            receiver.receive(chunk)
            counts.append(receiver.take_frame_count())
        assert sum(counts) == 8
    large = frame_to(Role.CLIENT, FIN | BINARY, bytes(100_000))
    receiver = protocol(Role.CLIENT)
    receiver.receive(large[:1000])
    assert receiver.take_frame_count() == 1
    receiver.receive(large[1000:])
    assert receiver.take_frame_count() == 0


def test_receive_all_steps_at_once() -> None:
    receiver = protocol(Role.CLIENT, extensions=[Repeat(1000)])
    receiver.receive(frame_to(Role.CLIENT, FIN | RSV3 | BINARY, b"a" * 3000))
    assert drain(receiver) == [b"a" * 3_000_000]


def test_receive_in_steps_until_a_violation() -> None:
    receiver = protocol(Role.CLIENT, max_message_size=10**6, extensions=[Repeat(1000)])
    steps = receiver.receive_in_steps(frame_to(Role.CLIENT, FIN | RSV3 | BINARY, b"abc" * 1000))
    for _ in steps:
        assert receiver.next_event() is None
    (error,) = drain(receiver)
    assert isinstance(error, MessageTooBig)
    assert list(receiver.receive_in_steps(frame_to(Role.CLIENT, FIN | PING))) == drain(receiver) == []


# -- Closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "away"), (1005, ""), (4999, "é" * 61)])
def test_closing_handshake(role: Role, code: int, reason: str) -> None:
    first, second = protocol(role), protocol(OTHER[role])
    said = Close(code, reason)
    second.receive(b"".join(first.encode(Opcode.TEXT, b"last")))
    second.receive(b"".join(first.encode_close(said)))
    assert first.closing.state is ClosingState.SENT
    # The closing end still receives messages that were on their way, but cannot send any.
    first.receive(b"".join(second.encode(Opcode.TEXT, b"crossing")))
    for opcode in (Opcode.TEXT, Opcode.PING, Opcode.PONG):
        with pytest.raises(ProtocolError):
            first.encode(opcode, b"")
    with pytest.raises(ProtocolError):
        first.encode_close(said)
    assert drain(second) == ["last", close(said.serialize())]
    assert second.closing.state is ClosingState.RECEIVED
    # The other end may finish its messages before it closes too.
    first.receive(b"".join(second.encode(Opcode.BINARY, b"bye")))
    first.receive(b"".join(second.encode_close(said)))
    with pytest.raises(ProtocolError):
        second.encode(Opcode.PONG, b"")
    assert drain(first) == ["crossing", b"bye", close(said.serialize())]
    for end, rcvd_then_sent in ((first, False), (second, True)):
        assert end.closing.state is ClosingState.DONE
        assert (end.closing.rcvd, end.closing.sent) == (said, said)
        assert end.closing.rcvd_then_sent is rcvd_then_sent
        end.receive_eof()
        assert end.closing.state is ClosingState.DONE
        assert end.closing.is_clean is (code < 3000)


def test_both_close_at_once() -> None:
    client, server = protocol(Role.CLIENT), protocol(Role.SERVER)
    from_client = b"".join(client.encode_close(Close(1000, "client")))
    from_server = b"".join(server.encode_close(Close(1001, "server")))
    client.receive(from_server)
    server.receive(from_client)
    for end, rcvd in ((client, Close(1001, "server")), (server, Close(1000, "client"))):
        assert end.closing.state is ClosingState.DONE
        assert end.closing.rcvd == rcvd
        assert end.closing.rcvd_then_sent is False
        with pytest.raises(ProtocolError):
            end.encode_close(Close(1000, ""))


@pytest.mark.parametrize("role", ROLES)
def test_ping_during_our_closing_handshake(role: Role) -> None:
    end = protocol(role)
    end.encode_close(Close(1000, ""))
    end.receive(frame_to(role, FIN | PING, b"p") + frame_to(role, FIN | CLOSE))
    assert drain(end) == [ping(b"p"), close()]
    assert end.closing.state is ClosingState.DONE


@pytest.mark.parametrize("role", ROLES)
def test_close_in_the_middle_of_a_message(role: Role) -> None:
    end = protocol(role)
    end.encode(Opcode.TEXT, b"begun", False)
    end.receive(frame_to(role, TEXT, b"begun"))
    end.encode_close(Close(1001, ""))
    with pytest.raises(ProtocolError):
        end.encode(Opcode.CONT, b"")
    end.receive(frame_to(role, FIN | CONT, b" and ended") + frame_to(role, FIN | CLOSE))
    assert drain(end) == ["begun and ended", close()]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("start", [b"", b"half a mess"])
@pytest.mark.parametrize("claim", [None, "take_part", "skip_message"])
def test_close_frame_in_the_middle_of_a_message(role: Role, start: bytes, claim: str | None) -> None:
    end = protocol(role)
    end.receive(frame_to(role, FIN | TEXT, b"whole") + frame_to(role, BINARY, start) + frame_to(role, FIN | PING))
    if claim:
        getattr(end, claim)()
    end.receive(frame_to(role, FIN | CLOSE, b"\x03\xe8") + frame_to(role, FIN | CONT, b"age"))
    *events, error = drain(end)
    assert events == ["whole", ping(), close(b"\x03\xe8")]
    assert type(error) is ProtocolError
    # It is answered as usual.
    assert (end.closing.state, end.closing.rcvd) == (ClosingState.RECEIVED, Close(1000, ""))
    end.encode_close(Close(1000, ""))
    assert end.closing.is_clean


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("received", [b"", b"part", b"\x01", b"\x81"])
def test_lost(role: Role, sent: bool, received: bytes) -> None:
    end = protocol(role)
    if sent:
        end.encode_close(Close(1000, ""))
    end.receive(frame_to(role, TEXT, b"begun") if received == b"part" else received)
    end.receive_eof()
    assert end.closing.state is ClosingState.LOST
    assert not end.closing.is_clean
    # Nothing can be received or sent any more.
    end.receive(frame_to(role, FIN | TEXT, b"late"))
    assert drain(end) == []
    with pytest.raises(ProtocolError):
        end.encode(Opcode.PING, b"")
    with pytest.raises(ProtocolError):
        end.encode_close(Close(1000, ""))
    end.receive_eof()
    assert end.closing.state is ClosingState.LOST


@pytest.mark.parametrize("role", ROLES)
def test_events_remain_after_the_end(role: Role) -> None:
    end = protocol(role)
    end.receive(frame_to(role, FIN | TEXT, b"a") + frame_to(role, FIN | CLOSE, b"\x03\xe9"))
    end.receive_eof()
    assert drain(end) == ["a", close(b"\x03\xe9")]
    assert (end.closing.state, end.closing.rcvd) == (ClosingState.LOST, Close(1001, ""))


@pytest.mark.parametrize("role", ROLES)
def test_failing_the_connection(role: Role) -> None:
    end, peer = protocol(role), protocol(OTHER[role])
    end.receive(frame_to(role, FIN | CONT))
    (violation,) = drain(end)
    assert isinstance(violation, ProtocolError)
    peer.receive(b"".join(end.encode_close(Close(violation.code, "why"))))
    assert peer.closing.rcvd == Close(1002, "why")
    # RFC 6455, section 7.1.7: even the peer's Close frame is ignored.
    end.receive(b"".join(peer.encode_close(Close(1002, ""))))
    assert drain(end) == []
    assert end.closing.rcvd is None
    end.receive_eof()
    assert end.closing.state is ClosingState.LOST


# -- Against another implementation -----------------------------------------------------------------------------------

Step = tuple[Opcode, bytes, bool]


@st.composite
def conversations(draw: st.DrawFn) -> list[Step]:
    steps: list[Step] = []
    for _ in range(draw(st.integers(min_value=0, max_value=3))):
        content = draw(
            st.one_of(texts.map(lambda text: (Opcode.TEXT, text.encode())), payloads.map(lambda p: (Opcode.BINARY, p)))
        )
        opcode, data = content
        for fragment, final in split(data, draw(positions)):
            steps.append((opcode, fragment, final))
            steps += [(Opcode.PING, p, True) for p in draw(st.lists(control_payloads, max_size=1))]
            opcode = Opcode.CONT
    return steps


SIDES = {Role.CLIENT: Side.CLIENT, Role.SERVER: Side.SERVER}


@deterministic
@given(roles, conversations(), positions)
def test_another_implementation_understands_us(role: Role, steps: list[Step], where: list[int]) -> None:
    sender = protocol(role)
    peer = Peer(SIDES[OTHER[role]])
    wire = b"".join(b"".join(sender.encode(*step)) for step in steps)
    wire += b"".join(sender.encode_close(Close(4000, "bye")))
    for piece in cut(wire, where):
        peer.receive_data(piece)
    events = peer.events_received()
    assert peer.parser_exc is None or isinstance(peer.parser_exc, EOFError)
    received = []
    for event in events:
        assert isinstance(event, websockets.frames.Frame)
        received.append((Opcode(event.opcode), bytes(event.data), event.fin))
    assert received == [*steps, (Opcode.CLOSE, b"\x0f\xa0bye", True)]
    assert peer.close_rcvd == websockets.frames.Close(4000, "bye")


@deterministic
@given(roles, conversations(), positions)
def test_we_understand_another_implementation(role: Role, steps: list[Step], where: list[int]) -> None:
    peer = Peer(SIDES[OTHER[role]])
    expected: list[Any] = []
    message = b""
    is_text = False
    for opcode, data, fin in steps:
        if opcode is Opcode.PING:
            peer.send_ping(data)
            expected.append(ping(data))
            continue
        if opcode is Opcode.CONT:
            peer.send_continuation(data, fin)
        elif opcode is Opcode.TEXT:
            peer.send_text(data, fin)
        else:
            peer.send_binary(data, fin)
        if opcode is not Opcode.CONT:
            is_text = opcode is Opcode.TEXT
            message = b""
        message += data
        if fin:
            expected.append(message.decode() if is_text else message)
    peer.send_close(1001, "bye")
    wire = b"".join(peer.data_to_send())
    expected.append(close(b"\x03\xe9bye"))
    assert events_of(role, cut(wire, where)) == [comparable(event) for event in expected]


# -- Size hints and reused buffers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_expected_size_of_a_large_frame(role: Role) -> None:
    receiver = protocol(role)
    at_rest = receiver.expected
    receiver.receive(frame_to(role, FIN | BINARY, bytes(100_000))[:1000])
    assert receiver.expected > at_rest + 190_000


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("frame", [b"", b"a"])
def test_the_buffer_is_used_for_one_step_only(role: Role, frame: bytes) -> None:
    one = frame_to(role, FIN | BINARY, frame)
    borrowed = bytearray(one * 1000)
    receiver = protocol(role)
    messages = []
    for _ in receiver.receive_in_steps(memoryview(borrowed)):
        messages += drain(receiver)
        borrowed[:] = bytes(len(borrowed))
    assert messages + drain(receiver) == [frame] * 1000


def test_a_frame_for_many_connections_is_serialized_once() -> None:
    cache = EncodingCache()
    frame: OutgoingFrame = (FIN | Opcode.TEXT, b"hello", cache)
    servers = [protocol(Role.SERVER) for _ in range(3)]
    wires = [server.encode_all([frame]) for server in servers]
    assert wires[0] == [b"\x81\x05hello"]
    assert all(wire[0] is wires[0][0] for wire in wires)
    assert len(cache.frames) == 1
    # Among other frames it is copied, and a client masks it.
    assert servers[0].encode_all([frame, frame]) == [b"\x81\x05hello" * 2]
    clients = [protocol(Role.CLIENT) for _ in range(2)]
    assert [len(client.encode_all([frame])[0]) for client in clients] == [11, 11]
    assert len(cache.frames) == 1
    # A different payload is a different frame, and so is one transformed by an extension.
    assert servers[0].encode_all([(FIN | Opcode.TEXT, b"other", cache)]) == [b"\x81\x05other"]
    reversing = protocol(Role.SERVER, extensions=[Reverse()])
    assert reversing.encode_all([frame]) == [b"\xa1\x05olleh"]
    assert len(cache.frames) == 3


def test_an_extension_must_use_a_reserved_bit() -> None:
    extension = Reverse()
    extension.rsv = FIN
    with pytest.raises(ValueError, match=r"^the rsv of an extension must be RSV1, RSV2 or RSV3, not 128$"):
        Protocol(Role.CLIENT, random=bytes, extensions=[extension])


def test_received_frames_are_reported() -> None:
    frames: list[str] = []
    receiver = Protocol(Role.CLIENT, random=bytes, on_frame=lambda frame: frames.append(str(frame)))
    receiver.receive(b"\x81\x05hello" + b"\x89\x00")
    assert drain(receiver) == ["hello", Frame(PING, b"")]
    assert frames == ["TEXT 'hello' [5 bytes]", "PING '' [0 bytes]"]
