from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from sys import getsizeof
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.exceptions import InvalidData, MessageTooBig, ProtocolError, TooManyFragments
from trio_ws.frames import CloseCode, Frame, Opcode
from trio_ws.protocol import LastPart, Message, Role
from trio_ws.protocol.codec import RSV2, RSV3
from trio_ws.protocol.extensions import EncodingCache, Extension
from trio_ws.protocol.messages import MessageDecoder

from .strategies import (
    BINARY,
    BROKEN_OFF,
    CLOSE,
    CONT,
    FIN,
    NOT_UTF8,
    PING,
    PONG,
    ROLES,
    TEXT,
    VALID_TEXTS,
    Repeat,
    Reverse,
    cut,
    deterministic,
    frame_to,
    one_by_one,
    payloads,
    positions,
    roles,
    split,
    texts,
)

Item = Message | LastPart | Frame | None


def feed_to(decoder: MessageDecoder, data: bytes) -> Iterator[Message | LastPart | Frame | None]:
    """Feed some bytes, and yield the results one by one, control frames as :class:`Frame`."""
    for item in decoder.feed(data):
        if isinstance(item, list):
            yield from item
        elif isinstance(item, tuple):
            opcode, payload = item
            yield Frame(Opcode(opcode), payload)
        else:
            yield item


def read(decoder: MessageDecoder, chunks: Iterable[bytes]) -> tuple[list[Item], ProtocolError | None]:
    """Return the results of decoding some chunks, and the error if there is one."""
    items: list[Item] = []
    for chunk in chunks:
        try:
            for item in feed_to(decoder, chunk):
                items.append(item)  # keep the results before the error
        except ProtocolError as exc:
            return items, exc
    return items, None


def decode(
    role: Role, data: bytes, limit: int | None = None, extensions: Sequence[Extension] = ()
) -> tuple[list[Item], ProtocolError | None]:
    """Return the contents of ``data``, and check that they do not depend on how it is fed."""
    items, error = read(MessageDecoder(role, limit, extensions), [data])
    for chunks in (one_by_one(data), cut(data, range(0, len(data), 7))):
        again, error_again = read(MessageDecoder(role, limit, extensions), chunks)
        assert [(type(item), item) for item in again] == [(type(item), item) for item in items]
        assert type(error_again) is type(error)
        if error is not None:
            assert vars(error_again) == vars(error)
    return items, error


def good(role: Role, data: bytes, limit: int | None = None, extensions: Sequence[Extension] = ()) -> list[Item]:
    items, error = decode(role, data, limit, extensions)
    assert error is None
    return items


def bad(role: Role, data: bytes, limit: int | None = None) -> tuple[list[Item], ProtocolError]:
    items, error = decode(role, data, limit)
    assert error is not None
    return items, error


# -- Messages and fragments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [0, 1, 125, 126, 5000])
def test_whole_messages(role: Role, size: int) -> None:
    data = frame_to(role, FIN | TEXT, b"x" * size) + frame_to(role, FIN | BINARY, b"x" * size)
    assert good(role, data) == ["x" * size, b"x" * size]


@pytest.mark.parametrize("role", ROLES)
def test_fragments_make_a_message(role: Role) -> None:
    data = frame_to(role, TEXT, b"frag") + frame_to(role, CONT, b"men") + frame_to(role, FIN | CONT, b"ted")
    data += frame_to(role, BINARY, b"a") + frame_to(role, FIN | CONT, b"b") + frame_to(role, FIN | TEXT, b"c")
    assert good(role, data) == ["fragmented", b"ab", "c"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode, expected", [(TEXT, ""), (BINARY, b"")])
def test_empty_fragments_make_an_empty_message(role: Role, opcode: int, expected: Message) -> None:
    data = frame_to(role, opcode) + frame_to(role, CONT) + frame_to(role, FIN | CONT)
    assert good(role, data) == [expected]


@pytest.mark.parametrize("role", ROLES)
def test_control_frames_between_fragments(role: Role) -> None:
    data = frame_to(role, TEXT, "é".encode()[:1]) + frame_to(role, FIN | PING, b"1")
    data += frame_to(role, CONT) + frame_to(role, FIN | PONG, b"2") + frame_to(role, FIN | CLOSE, b"\x03\xe8")
    data += frame_to(role, FIN | CONT, "é".encode()[1:]) + frame_to(role, FIN | PING)
    assert good(role, data) == [
        Frame(Opcode.PING, b"1"),
        Frame(Opcode.PONG, b"2"),
        Frame(Opcode.CLOSE, b"\x03\xe8"),
        "é",
        Frame(Opcode.PING, b""),
    ]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("fin", [0, FIN])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_nothing_to_continue(role: Role, fin: int, payload: bytes) -> None:
    whole = frame_to(role, FIN | TEXT, b"whole") + frame_to(role, BINARY, b"in ") + frame_to(role, FIN | CONT, b"two")
    for before, expected in ((b"", []), (whole, ["whole", b"in two"])):
        items, error = bad(role, before + frame_to(role, fin | CONT, payload))
        assert items == expected
        assert type(error) is ProtocolError


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("fin", [0, FIN])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_message_within_a_message(role: Role, fin: int, opcode: int, payload: bytes) -> None:
    first = frame_to(role, TEXT, b"a") + frame_to(role, FIN | PING)
    for before in (first, first + frame_to(role, CONT)):
        items, error = bad(role, before + frame_to(role, fin | opcode, payload))
        assert items == [Frame(Opcode.PING, b"")]
        assert type(error) is ProtocolError


def test_violations_of_the_framing_pass_through() -> None:
    items, error = bad(Role.CLIENT, frame_to(Role.CLIENT, FIN | TEXT, b"a") + b"\xff\xff")
    assert items == ["a"]
    assert type(error) is ProtocolError


def test_close_frames_are_validated() -> None:
    for payload, type_ in ((b"\x00", ProtocolError), (b"\x03\xe7", ProtocolError), (b"\x03\xe8\xff", InvalidData)):
        items, error = bad(Role.CLIENT, frame_to(Role.CLIENT, FIN | CLOSE, payload))
        assert items == []
        assert type(error) is type_


@deterministic
@given(roles, st.lists(st.tuples(st.one_of(texts, payloads), positions), max_size=4), positions)
def test_fragments_and_chunks_do_not_matter(
    role: Role, messages: list[tuple[str | bytes, list[int]]], where: list[int]
) -> None:
    data = b""
    for message, fragments in messages:
        opcode = TEXT if isinstance(message, str) else BINARY
        payload = message.encode() if isinstance(message, str) else message
        for fragment, final in split(payload, fragments):
            data += frame_to(role, (FIN if final else 0) | opcode, fragment)
            opcode = CONT
    assert read(MessageDecoder(role), cut(data, where)) == ([message for message, _ in messages], None)


# -- UTF-8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", VALID_TEXTS)
def test_text_can_be_cut_anywhere(text: str) -> None:
    data = text.encode()
    for at in range(len(data) + 1):
        wire = frame_to(Role.CLIENT, TEXT, data[:at]) + frame_to(Role.CLIENT, FIN | CONT, data[at:])
        assert good(Role.CLIENT, wire) == [text]
    in_single_bytes = [frame_to(Role.SERVER, CONT, byte) for byte in one_by_one(data)]
    wire = frame_to(Role.SERVER, TEXT) + b"".join(in_single_bytes) + frame_to(Role.SERVER, FIN | CONT)
    assert good(Role.SERVER, wire) == [text]


@pytest.mark.parametrize("sequence, wrong", NOT_UTF8)
def test_text_fails_at_the_first_byte_that_cannot_be_utf8(sequence: bytes, wrong: int) -> None:
    for role in ROLES:
        for prefix in [b"", "κόσμε ".encode()]:
            payload = prefix + sequence + b" and more"
            at_fault = len(prefix) + wrong
            # As one frame, in two at every cut, and in single bytes.
            whole = frame_to(role, FIN | TEXT, payload)
            assert type(bad(role, whole)[1]) is InvalidData
            assert type(bad(role, frame_to(role, FIN | TEXT, prefix + sequence))[1]) is InvalidData
            header_size = len(whole) - len(payload)
            decoder = MessageDecoder(role)
            assert read(decoder, [whole[: header_size + at_fault]]) == ([], None)
            with pytest.raises(InvalidData) as caught:
                list(feed_to(decoder, whole[header_size + at_fault :][:1]))
            assert caught.value.code == 1007
            for at in range(len(payload)):
                first, second = frame_to(role, TEXT, payload[:at]), frame_to(role, CONT, payload[at:])
                assert type(bad(role, first + second)[1]) is InvalidData
                # It fails at exactly this byte, before the end of the message.
                items, error = read(MessageDecoder(role), [first])
                assert items == []
                assert type(error) is (InvalidData if at_fault < at else type(None))
            decoder = MessageDecoder(role)
            begun = [frame_to(role, TEXT), *(frame_to(role, CONT, byte) for byte in one_by_one(payload[:at_fault]))]
            assert read(decoder, begun) == ([], None)
            with pytest.raises(InvalidData):
                list(feed_to(decoder, frame_to(role, CONT, payload[at_fault : at_fault + 1])))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("sequence", BROKEN_OFF)
def test_text_must_not_end_within_a_character(role: Role, sequence: bytes) -> None:
    for payload in (sequence, b"abc" + sequence):
        assert type(bad(role, frame_to(role, FIN | TEXT, payload))[1]) is InvalidData
        for end in (FIN | CONT, CONT):
            begun = frame_to(role, TEXT, payload[:-1]) + frame_to(role, end, payload[-1:])
            if end >= FIN:
                assert type(bad(role, begun)[1]) is InvalidData
            else:
                assert good(role, begun) == []
                assert type(bad(role, begun + frame_to(role, FIN | CONT))[1]) is InvalidData


@pytest.mark.parametrize("sequence, _wrong", NOT_UTF8)
def test_binary_is_anything(sequence: bytes, _wrong: int) -> None:
    data = frame_to(Role.CLIENT, FIN | BINARY, sequence)
    data += frame_to(Role.CLIENT, BINARY, sequence) + frame_to(Role.CLIENT, FIN | CONT, sequence)
    assert good(Role.CLIENT, data) == [sequence, sequence * 2]


def test_one_text_does_not_disturb_the_next() -> None:
    data = frame_to(Role.CLIENT, TEXT, b"\xf0\x9f") + frame_to(Role.CLIENT, FIN | CONT, b"\x98\x80")
    assert good(Role.CLIENT, data * 2 + frame_to(Role.CLIENT, FIN | TEXT, b"x")) == ["\U0001f600", "\U0001f600", "x"]


# -- Limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [0, 1, 125, 126, 300, 5000])
def test_exactly_the_limit_passes(role: Role, opcode: int, limit: int) -> None:
    payload = b"x" * limit
    expected: Message = payload.decode() if opcode == TEXT else payload
    data = frame_to(role, FIN | opcode, payload)
    for at in (0, limit // 2, limit):
        data += frame_to(role, opcode, payload[:at]) + frame_to(role, CONT) + frame_to(role, FIN | PING, b"not counted")
        data += frame_to(role, FIN | CONT, payload[at:])
    items = [item for item in good(role, data, limit) if not isinstance(item, Frame)]
    assert items == [expected] * 4


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [0, 1, 125, 300, 5000])
def test_one_byte_more_fails_at_the_header(role: Role, opcode: int, limit: int) -> None:
    payload = b"x" * (limit + 1)
    whole = frame_to(role, FIN | opcode, payload)
    # Before any payload arrives, ...
    items, error = read(MessageDecoder(role, limit), one_by_one(whole[: len(whole) - len(payload)]))
    assert items == []
    assert isinstance(error, MessageTooBig)
    assert (error.code, error.size, error.limit) == (1009, limit + 1, limit)
    # ... together with its payload, ...
    items, error = bad(role, whole, limit)
    assert (items, type(error)) == ([], MessageTooBig)
    # ... and in the last of several fragments.
    begun = frame_to(role, opcode, payload[:-1]) + frame_to(role, CONT)
    assert good(role, begun, limit) == []
    items, error = bad(role, begun + frame_to(role, CONT, b"x")[: 6 if role is Role.SERVER else 2], limit)
    assert isinstance(error, MessageTooBig)
    assert (items, error.size, error.limit) == ([], limit + 1, limit)


@pytest.mark.parametrize("role", ROLES)
def test_huge_sizes_in_headers_cost_nothing(role: Role) -> None:
    for first_byte in (TEXT, FIN | TEXT, BINARY, FIN | BINARY):
        error = bad(role, frame_to(role, first_byte, b"", size=2**63 - 1), 2**20)[1]
        assert isinstance(error, MessageTooBig)
        assert error.size == 2**63 - 1
    # Two fragments that exceed the limit only together.
    error = bad(role, frame_to(role, BINARY, b"a") + frame_to(role, CONT, b"", size=2**63 - 1), 2**63 - 1)[1]
    assert isinstance(error, MessageTooBig)


def test_the_limit_is_for_each_message() -> None:
    data = frame_to(Role.CLIENT, TEXT, b"ab") + frame_to(Role.CLIENT, FIN | CONT, b"c")
    assert good(Role.CLIENT, data * 3, 3) == ["abc"] * 3


def test_the_limit_counts_bytes_not_characters() -> None:
    assert good(Role.CLIENT, frame_to(Role.CLIENT, FIN | TEXT, "é".encode()), 2) == ["é"]
    assert isinstance(bad(Role.CLIENT, frame_to(Role.CLIENT, FIN | TEXT, "é".encode()), 1)[1], MessageTooBig)


def test_no_limit() -> None:
    payload = bytes(3 * 2**20)
    assert read(MessageDecoder(Role.CLIENT), [frame_to(Role.CLIENT, FIN | BINARY, payload)]) == ([payload], None)


@pytest.mark.parametrize("claim", [None, "take_part", "skip"])
def test_the_limit_holds_for_claimed_messages(claim: str | None) -> None:
    decoder = MessageDecoder(Role.CLIENT, 5)
    assert list(feed_to(decoder, frame_to(Role.CLIENT, BINARY, b"abc"))) == []
    if claim:
        getattr(decoder, claim)()
    with pytest.raises(MessageTooBig):
        list(feed_to(decoder, frame_to(Role.CLIENT, CONT, b"def")))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("payload", [b"", b"ab"])
def test_many_fragments_take_little_memory(opcode: int, payload: bytes) -> None:
    # 20,000 objects of two bytes would take more than 800,000 bytes.
    decoder = MessageDecoder(Role.CLIENT)
    list(feed_to(decoder, frame_to(Role.CLIENT, opcode)))
    chunk = frame_to(Role.CLIENT, CONT, payload) * 100
    tracemalloc.start()
    try:
        for _ in range(200):
            assert not any(feed_to(decoder, chunk))
        memory, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert memory < 150_000
    assert 20_000 * len(payload) <= decoder.held <= memory
    message: Message = payload * 20_000
    if opcode == TEXT:
        message = payload.decode() * 20_000
    items = [item for item in feed_to(decoder, frame_to(Role.CLIENT, FIN | CONT)) if item is not None]
    assert items == [message]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_small_and_large_pieces_keep_their_order(opcode: int) -> None:
    sizes = [1, 4095, 4096, 2, 4097, 5000, 4095, 3, *[5] * 600, 9000, *[1] * 256, 4096, *[7] * 257]
    fragments = [bytes([65 + i % 26]) * size for i, size in enumerate(sizes)]
    data = frame_to(Role.CLIENT, opcode) + b"".join(frame_to(Role.CLIENT, CONT, each) for each in fragments)
    decoder = MessageDecoder(Role.CLIENT)
    assert not any(feed_to(decoder, data))
    assert sum(sizes) <= decoder.held <= sum(sizes) + 64 * len(sizes)
    whole = b"".join(fragments)
    items = [item for item in feed_to(decoder, frame_to(Role.CLIENT, FIN | CONT)) if item is not None]
    assert items == [whole.decode() if opcode == TEXT else whole]
    assert decoder.held == 0


def test_one_wide_character_makes_many_wide() -> None:
    # In a string with it, each character takes four bytes instead of one.
    fragments = [*["a" * 3000] * 255, "\N{GRINNING FACE}"] * 3
    data = frame_to(Role.CLIENT, TEXT) + b"".join(frame_to(Role.CLIENT, CONT, each.encode()) for each in fragments)
    decoder = MessageDecoder(Role.CLIENT)
    assert not any(feed_to(decoder, data))
    assert decoder.held >= 4 * 3 * 255 * 3000
    assert decoder.take_part() == "".join(fragments)


# -- Number of fragments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rsv", [0, RSV2])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 1023])
def test_too_many_small_fragments(role: Role, rsv: int, size: int) -> None:
    for claim, fin in itertools.product((None, "take_part", "skip"), (0, FIN)):
        decoder = MessageDecoder(role, None, [Reverse()], 3)
        start = frame_to(role, rsv | BINARY, b"x" * size) + frame_to(role, FIN | PING) * 5
        start += frame_to(role, CONT, b"x" * size) * 2 + frame_to(role, CONT, bytes(1024)) * 5
        pings = [item for item in feed_to(decoder, start) if item is not None]
        assert pings == [Frame(Opcode.PING, b"")] * 5
        if claim:
            getattr(decoder, claim)()
        # One more fails at its header, even if it is the last one.
        header = len(frame_to(role, fin | CONT, b"x" * size)) - size
        with pytest.raises(TooManyFragments) as caught:
            list(feed_to(decoder, frame_to(role, fin | CONT, b"x" * size)[:header]))
        assert (caught.value.limit, caught.value.code) == (3, 1009)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rsv", [0, RSV2])
def test_whole_messages_and_large_fragments_do_not_count(role: Role, rsv: int) -> None:
    decoder = MessageDecoder(role, None, [Reverse()], 2)
    message = frame_to(role, rsv | BINARY, b"a") + frame_to(role, FIN | CONT)
    whole = frame_to(role, FIN | rsv | BINARY, b"a")
    large = frame_to(role, rsv | BINARY, bytes(1024)) + frame_to(role, CONT, bytes(1024)) * 10
    large += frame_to(role, FIN | CONT)
    # The count starts again with each message, and messages in one frame have no fragments.
    items = [item for item in feed_to(decoder, (message + whole + large) * 5) if item is not None]
    assert items == [b"a", b"a", bytes(11 * 1024)] * 5


def test_no_limit_on_fragments() -> None:
    decoder = MessageDecoder(Role.CLIENT)
    wire = (
        frame_to(Role.CLIENT, BINARY) + frame_to(Role.CLIENT, CONT, b"a") * 20_000 + frame_to(Role.CLIENT, FIN | CONT)
    )
    assert [item for item in feed_to(decoder, wire) if item is not None] == [b"a" * 20_000]


# -- Messages in parts -----------------------------------------------------------------------------------------------


def test_no_incomplete_message() -> None:
    decoder = MessageDecoder(Role.CLIENT)
    whole = frame_to(Role.CLIENT, FIN | TEXT, b"whole")
    fragmented = frame_to(Role.CLIENT, TEXT, b"a") + frame_to(Role.CLIENT, FIN | CONT)
    for data in (b"", whole, fragmented, frame_to(Role.CLIENT, FIN | PING), frame_to(Role.CLIENT, TEXT)[:1]):
        list(feed_to(decoder, data))
        assert decoder.in_progress is None
        assert decoder.held == 0
        with pytest.raises(ProtocolError):
            decoder.take_part()
        with pytest.raises(ProtocolError):
            decoder.skip()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("first_byte", [TEXT, FIN | TEXT, BINARY, FIN | BINARY])
def test_incomplete_from_the_header_on(role: Role, first_byte: int) -> None:
    decoder = MessageDecoder(role)
    data = frame_to(role, first_byte, b"12")
    assert list(feed_to(decoder, data[:-2])) == []
    assert decoder.in_progress is Opcode(first_byte & 0x0F)
    assert decoder.held == 0
    assert list(feed_to(decoder, data[-2:-1])) == []
    assert decoder.held == getsizeof("1" if first_byte & TEXT else b"1")
    list(feed_to(decoder, data[-1:]))
    assert decoder.in_progress is (None if first_byte >= FIN else Opcode(first_byte))
    assert (decoder.held == 0) is (first_byte >= FIN)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("text", [True, False])
def test_claim_at_every_point(role: Role, text: bool) -> None:
    payload = "aé€\U0001f600z".encode()
    fragments = list(split(payload, [0, 3, 6]))
    data = b""
    for i, (fragment, final) in enumerate(fragments):
        opcode = CONT if i else TEXT if text else BINARY
        data += frame_to(role, (FIN if final else 0) | opcode, fragment) + frame_to(role, FIN | PING)
    message: Message = payload.decode() if text else payload
    nothing: Any = "" if text else b""
    after = frame_to(role, FIN | TEXT, b"next") + frame_to(role, TEXT, b"a") + frame_to(role, FIN | CONT, b"b")
    claimed = 0
    for at in range(len(data)):
        for again in range(at, len(data)):
            decoder = MessageDecoder(role)
            items = list(feed_to(decoder, data[:at]))
            if decoder.in_progress is None:
                continue
            claimed += 1
            parts = [decoder.take_part()]
            assert decoder.held == 0
            assert decoder.take_part() == nothing
            items += feed_to(decoder, data[at:again])
            if decoder.in_progress:
                parts.append(decoder.take_part())
            items += feed_to(decoder, data[again:] + after)
            ends = [item for item in items if isinstance(item, LastPart)]
            assert len(ends) == 1
            assert nothing.join([*parts, ends[0].data]) == message
            items.remove(ends[0])
            assert items == [*[Frame(Opcode.PING, b"")] * 4, "next", "ab"]
    assert claimed > 300


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("take_first", [True, False])
def test_skip_at_every_point(role: Role, opcode: int, take_first: bool) -> None:
    payload = "é".encode() * 5
    data = frame_to(role, opcode, payload[:3]) + frame_to(role, FIN | PONG) + frame_to(role, FIN | CONT, payload[3:])
    after = frame_to(role, FIN | TEXT, b"next") + frame_to(role, TEXT, b"a") + frame_to(role, FIN | CONT, b"b")
    for at in range(len(data)):
        decoder = MessageDecoder(role)
        items = list(feed_to(decoder, data[:at]))
        if decoder.in_progress is None:
            continue
        if take_first:
            decoder.take_part()
        decoder.skip()
        decoder.skip()
        items += feed_to(decoder, data[at:-1])
        assert decoder.held == 0
        assert not decoder.take_part()
        items += feed_to(decoder, data[-1:])
        assert decoder.in_progress is None
        items += feed_to(decoder, after)
        assert items == [Frame(Opcode.PONG, b""), "next", "ab"]


def test_skipped_messages_are_still_validated() -> None:
    for rest, type_ in (
        (frame_to(Role.CLIENT, CONT, b"\xff"), InvalidData),
        (frame_to(Role.CLIENT, FIN | CONT), InvalidData),
        (frame_to(Role.CLIENT, TEXT), ProtocolError),
        (frame_to(Role.CLIENT, CONT, b"123"), MessageTooBig),
    ):
        decoder = MessageDecoder(Role.CLIENT, 4)
        list(feed_to(decoder, frame_to(Role.CLIENT, TEXT, b"a\xc3")))
        decoder.skip()
        assert type(read(decoder, [rest])[1]) is type_


def test_skipped_messages_take_no_memory() -> None:
    decoder = MessageDecoder(Role.CLIENT)
    list(feed_to(decoder, frame_to(Role.CLIENT, BINARY, b"x" * 10_000)))
    assert decoder.held == getsizeof(b"x" * 10_000)
    decoder.skip()
    assert decoder.held == 0
    list(feed_to(decoder, frame_to(Role.CLIENT, CONT, b"x" * 10_000)))
    assert decoder.held == 0


# -- Extensions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_marked_messages_are_transformed(role: Role) -> None:
    data = frame_to(role, FIN | RSV2 | TEXT, b"cba") + frame_to(role, FIN | TEXT, b"plain")
    data += frame_to(role, RSV2 | BINARY, b"54") + frame_to(role, FIN | PING, b"not me") + frame_to(role, CONT, b"3")
    data += frame_to(role, FIN | CONT, b"21") + frame_to(role, BINARY, b"pl") + frame_to(role, FIN | CONT, b"ain")
    data += frame_to(role, FIN | RSV2 | TEXT)
    expected = ["abc", "plain", Frame(Opcode.PING, b"not me"), b"12345", b"plain", ""]
    assert good(role, data, None, [Reverse()]) == expected


def test_text_is_validated_after_the_transformation() -> None:
    backwards = "aé".encode()[::-1]
    assert good(Role.CLIENT, frame_to(Role.CLIENT, FIN | RSV2 | TEXT, backwards), None, [Reverse()]) == ["aé"]
    decoder = MessageDecoder(Role.CLIENT, None, [Reverse()])
    assert type(read(decoder, [frame_to(Role.CLIENT, FIN | RSV2 | TEXT, "aé".encode())])[1]) is InvalidData


@pytest.mark.parametrize("sequence", [*(sequence for sequence, _ in NOT_UTF8), *BROKEN_OFF])
def test_transformed_text_that_is_not_utf8(sequence: bytes) -> None:
    for role in ROLES:
        # The fast path and the slow path raise the same error. Fragments do not take the fast path.
        payload = ("κόσμε ".encode() + sequence)[::-1]
        begun = frame_to(role, RSV2 | TEXT, payload) + frame_to(role, FIN | CONT)
        _, error = decode(role, frame_to(role, FIN | RSV2 | TEXT, payload), None, [Reverse()])
        _, error_of_fragments = decode(role, begun, None, [Reverse()])
        assert isinstance(error, InvalidData)
        assert vars(error) == vars(error_of_fragments)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_the_fast_path_has_the_same_result(role: Role, size: int) -> None:
    # Whole frames of up to 1 KiB take the fast path; larger ones, and those that arrive in pieces, do not.
    wire = frame_to(role, FIN | RSV3 | TEXT, b"x" * size) + frame_to(role, FIN | RSV3 | BINARY, b"x" * size)
    wire += frame_to(role, RSV3 | BINARY, b"x" * size) + frame_to(role, FIN | CONT, b"x" * size)
    wire += frame_to(role, FIN | PING) + frame_to(role, FIN | TEXT, b"x" * size)
    whole = b"x" * 3 * size
    items, error = read(MessageDecoder(role, None, [Repeat(3)]), [wire])
    items_of_pieces, error_of_pieces = read(MessageDecoder(role, None, [Repeat(3)]), one_by_one(wire))
    assert error is error_of_pieces is None
    for each in (items, items_of_pieces):
        messages = [item for item in each if item is not None]
        assert messages == [whole.decode(), whole, whole * 2, Frame(Opcode.PING, b""), "x" * size]


@pytest.mark.parametrize("times", [0, 16])
@pytest.mark.parametrize("size", [100, 1024])
def test_pauses_on_the_fast_path(size: int, times: int) -> None:
    # Input counts 16 times here too. The output is as large as that, or nothing. Each frame counts for 1024 bytes.
    extensions = [Repeat(times)]
    whole = frame_to(Role.CLIENT, FIN | RSV3 | BINARY, b"x" * size)
    fragments = frame_to(Role.CLIENT, RSV3 | BINARY, b"x" * size) + frame_to(Role.CLIENT, FIN | CONT)
    for wire, frames in ((whole, 1), (fragments, 2)):
        items, _ = read(MessageDecoder(Role.CLIENT, None, extensions), [wire * 100])
        messages_per_pause = math.ceil(64 * 1024 / (size * (16 + times) + 1024 * frames))
        assert items.count(None) == 100 // messages_per_pause


def test_extensions_are_undone_in_reverse_order() -> None:
    class Suffix(Repeat):
        def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
            assert data.endswith(b"!")
            return data[:-1]

    extensions: list[Extension] = [Reverse(), Suffix(1)]
    wire = frame_to(Role.CLIENT, FIN | RSV2 | RSV3 | TEXT, b"cba!")
    assert list(MessageDecoder(Role.CLIENT, None, extensions).feed(wire)) == ["abc"]
    # A message that only one extension has transformed.
    wire = frame_to(Role.CLIENT, FIN | RSV3 | TEXT, b"cba!")
    assert list(MessageDecoder(Role.CLIENT, None, extensions).feed(wire)) == ["cba"]


def test_extensions_get_the_remaining_limit() -> None:
    extension = Repeat(10)
    decoder = MessageDecoder(Role.CLIENT, 50, [extension])
    list(feed_to(decoder, frame_to(Role.CLIENT, RSV3 | BINARY, b"ab")))
    list(feed_to(decoder, frame_to(Role.CLIENT, CONT, b"c") + frame_to(Role.CLIENT, CONT)))
    assert list(feed_to(decoder, frame_to(Role.CLIENT, FIN | CONT, b"de"))) == [
        b"".join(bytes([octet]) * 10 for octet in b"abcde")
    ]
    assert extension.limits == [50, 30, 20, 20]
    # The next message has its own limit.
    list(feed_to(decoder, frame_to(Role.CLIENT, RSV3 | BINARY, b"abcde")))
    with pytest.raises(MessageTooBig) as caught:
        list(feed_to(decoder, frame_to(Role.CLIENT, FIN | CONT, b"f")))
    assert caught.value.limit == 0


def test_extensions_without_a_limit() -> None:
    extension = Repeat(10)
    list(MessageDecoder(Role.CLIENT, None, [extension]).feed(frame_to(Role.CLIENT, FIN | RSV3 | BINARY, b"ab")))
    assert extension.limits == [None]


def test_transformed_messages_may_be_larger_on_the_wire() -> None:
    class Half(Reverse):
        def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
            return data[::2]

    decoder = MessageDecoder(Role.CLIENT, 2, [Half()])
    assert list(feed_to(decoder, frame_to(Role.CLIENT, FIN | RSV2 | BINARY, b"abcd"))) == [b"ac"]
    wire = frame_to(Role.CLIENT, RSV2 | BINARY, b"ab") + frame_to(Role.CLIENT, FIN | CONT, b"cd")
    assert list(feed_to(decoder, wire)) == [b"ac"]
    # A message that is not transformed fails at its header, before and after that.
    with pytest.raises(MessageTooBig):
        list(feed_to(decoder, frame_to(Role.CLIENT, FIN | BINARY, b"abc")[:2]))


@pytest.mark.parametrize("count", [1, 7, 100])
def test_pauses(count: int) -> None:
    # Input that grows a hundredfold is processed 1 KiB at a time, however it is fed.
    payload = random.Random(1).randbytes(10_000)
    extension = Repeat(100)
    wire = frame_to(Role.CLIENT, FIN | RSV3 | BINARY, payload)
    decoder = MessageDecoder(Role.CLIENT, None, [extension])
    parts: list[Message] = []
    for chunk in cut(wire, range(0, len(wire), -(-len(wire) // count))):
        for item in feed_to(decoder, chunk):
            # The message can be claimed during a pause.
            parts.append(decoder.take_part() if item is None else item.data if isinstance(item, LastPart) else b"?")
    expected = Repeat(100).decode(payload, final=True, limit=None)
    assert b"".join(part for part in parts if isinstance(part, bytes)) == expected
    assert max(map(len, parts)) < 64 * 1024 + 2 * 1024 * 100


def test_pauses_without_output() -> None:
    def items_of(extension: Extension, rsv: int) -> list[Item]:
        decoder = MessageDecoder(Role.CLIENT, None, [extension])
        return list(feed_to(decoder, frame_to(Role.CLIENT, FIN | rsv | BINARY, bytes(20_480))))

    *pauses, message = items_of(Repeat(0), RSV3)
    assert pauses == [None] * 5
    assert message == b""
    # This is fast.
    assert items_of(Repeat(0), 0) == [bytes(20_480)]


def test_no_pauses_for_little() -> None:
    extension = Repeat(3)
    decoder = MessageDecoder(Role.CLIENT, None, [extension])
    items = list(feed_to(decoder, frame_to(Role.CLIENT, FIN | RSV3 | BINARY, b"a" * 1000) * 30))
    # Each produces 3000 bytes, and its input counts for 16000.
    assert items == 3 * [b"a" * 3000] + ([None] + 4 * [b"a" * 3000]) * 6 + [None] + 3 * [b"a" * 3000]


@pytest.mark.parametrize("rsv", [0, RSV2])
def test_transformed_messages_can_be_claimed(rsv: int) -> None:
    decoder = MessageDecoder(Role.CLIENT, None, [Reverse()])
    list(feed_to(decoder, frame_to(Role.CLIENT, rsv | TEXT, b"ab")))
    part = decoder.take_part()
    (end,) = feed_to(decoder, frame_to(Role.CLIENT, FIN | CONT, b"cd"))
    assert (part, end) == (("", LastPart("dcba")) if rsv else ("ab", LastPart("cd")))


class _Doubling:
    """An extension that doubles the size of messages on decoding."""

    rsv = 0x40

    def encode(
        self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
    ) -> tuple[bytes, bool]:
        return data[::2], True

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        return data * 2

    def rest(self) -> None:
        pass


@pytest.mark.parametrize("size, passes", [(5, True), (6, False)])
def test_limit_after_decoding(size: int, passes: bool) -> None:
    decoder = MessageDecoder(Role.CLIENT, 10, [_Doubling()])
    pieces = feed_to(decoder, bytes((0x80 | 0x40 | Opcode.BINARY, size)) + b"x" * size)
    if passes:
        assert list(pieces) == [b"x" * 2 * size]
    else:
        with pytest.raises(MessageTooBig) as caught:
            list(pieces)
        assert (caught.value.size, caught.value.limit) == (12, 10)


def test_limit_after_decoding_fragments() -> None:
    decoder = MessageDecoder(Role.CLIENT, 10, [_Doubling()])
    wire = frame_to(Role.CLIENT, 0x40 | BINARY, b"abc") + frame_to(Role.CLIENT, FIN | CONT, b"de")
    assert list(feed_to(decoder, wire)) == [b"abcabcdede"]
    wire = frame_to(Role.CLIENT, 0x40 | BINARY, b"abc") + frame_to(Role.CLIENT, FIN | CONT, b"def")
    with pytest.raises(MessageTooBig) as caught:
        list(feed_to(decoder, wire))
    assert (caught.value.size, caught.value.limit) == (12, 10)


# -- Large binary messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_the_memory_of_a_large_message(role: Role) -> None:
    payload = bytes(i & 0xFF for i in range(200_000))
    data = frame_to(role, FIN | BINARY, payload)
    decoder = MessageDecoder(role)
    at_rest = decoder.expected
    assert list(decoder.feed(data[:100_000])) == []
    assert decoder.in_progress is Opcode.BINARY
    assert 99_000 < decoder.held <= 100_000
    assert decoder.expected > at_rest + 100_000
    assert list(decoder.feed(data[100_000:])) == [payload]
    assert decoder.held == 0


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("claim", ["take_part", "skip"])
def test_claiming_a_large_message(role: Role, claim: str) -> None:
    payload = bytes(i & 0xFF for i in range(200_000))
    data = frame_to(role, FIN | BINARY, payload)
    decoder = MessageDecoder(role)
    assert list(decoder.feed(data[:100_000])) == []
    taken = getattr(decoder, claim)()
    assert decoder.held == 0
    end = list(decoder.feed(data[100_000:]))
    if claim == "skip":
        assert end == []
    else:
        (last,) = end
        assert isinstance(last, LastPart)
        assert taken + last.data == payload


def test_the_buffer_is_used_until_a_pause() -> None:
    borrowed = bytearray(frame_to(Role.CLIENT, FIN | TEXT, b"ab") + frame_to(Role.CLIENT, FIN | PING, b"c") * 2)
    decoder = MessageDecoder(Role.CLIENT)
    items = decoder.feed(memoryview(borrowed))
    assert next(items) == ["ab"]
    decoder.detach()
    borrowed[:] = bytes(len(borrowed))
    assert list(items) == [(Opcode.PING, b"c")] * 2


def test_size_of_a_last_part() -> None:
    assert getsizeof(LastPart(b"x" * 1000)) - getsizeof(LastPart(b"")) == 1000


class Careless(Reverse):
    """An extension that returns something else than bytes."""

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        return bytearray(data)  # type: ignore[return-value]  # wrong on purpose


@pytest.mark.parametrize("size", [5, 2000], ids=["in one step", "in several"])
def test_extensions_that_return_no_bytes(size: int) -> None:
    decoder = MessageDecoder(Role.CLIENT, None, [Careless()])
    with pytest.raises(ProtocolError) as caught:
        list(decoder.feed(frame_to(Role.CLIENT, FIN | RSV2 | BINARY, bytes(size))))
    assert caught.value.code == CloseCode.INTERNAL_ERROR
    assert caught.value.reason == "an extension failed: TypeError"


class Failing(Reverse):
    """An extension that fails, with a violation by the peer or in another way."""

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        raise ProtocolError("no such data") if data == b"violation" else ZeroDivisionError


@pytest.mark.parametrize("size", [0, 2000], ids=["in one step", "in several"])
def test_extensions_that_fail(size: int) -> None:
    padding = bytes(size)
    decoder = MessageDecoder(Role.CLIENT, None, [Failing()])
    with pytest.raises(ProtocolError) as caught:
        list(decoder.feed(frame_to(Role.CLIENT, FIN | RSV2 | BINARY, b"other" + padding)))
    assert caught.value.code == CloseCode.INTERNAL_ERROR
    assert caught.value.reason == "an extension failed: ZeroDivisionError"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    decoder = MessageDecoder(Role.CLIENT, None, [Failing()])
    with pytest.raises(ProtocolError, match="no such data") as caught:
        list(decoder.feed(frame_to(Role.CLIENT, FIN | RSV2 | BINARY, b"violation")))
    assert caught.value.code == CloseCode.PROTOCOL_ERROR
