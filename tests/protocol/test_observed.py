"""The message decoder that reports frames: same messages as without, and every frame is reported."""

from __future__ import annotations

import pytest

from trio_ws.exceptions import ProtocolError
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import LastPart, Message, Role
from trio_ws.protocol.codec import RSV1, serialize
from trio_ws.protocol.messages import MessageDecoder
from trio_ws.protocol.observed import START, FrameInfo, ObservedDecoder, size_of

KEY = b"\x01\x02\x03\x04"


class Reversing:
    """An extension that reverses whole messages."""

    rsv = RSV1

    def encode(self, data: bytes, *, first: bool, final: bool, cache: object = None) -> tuple[bytes, bool]:
        raise NotImplementedError

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        return data[::-1]

    def rest(self) -> None:
        raise NotImplementedError


def decode(
    *frames: Frame, role: Role = Role.CLIENT, step: int | None = None, limit: int | None = None, extended: bool = False
) -> tuple[list[object], list[FrameInfo]]:
    """Return the events and the reported frames. Check that the events are those of an ordinary decoder."""
    extensions = [Reversing()] if extended else []
    told: list[FrameInfo] = []
    observed = ObservedDecoder(role, limit, extensions, told.append)
    data = b"".join(serialize(frame, KEY if role is Role.SERVER else None) for frame in frames)
    results = []
    for decoder in (observed, MessageDecoder(role, limit, extensions)):
        events: list[object] = []
        try:
            for at in range(0, len(data), step or len(data)):
                for event in decoder.feed(data[at : at + (step or len(data))]):
                    events += event if isinstance(event, list) else [event]
        except ProtocolError as exc:
            events.append((type(exc), str(exc)))
        results.append([event for event in events if event is not None])
    assert results[0] == results[1]
    return results[0], told


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("step", [None, 1, 2, 7])
def test_every_kind_of_frame(role: Role, step: int | None) -> None:
    close = Close(1000, "bye")
    events, told = decode(
        Frame(Opcode.TEXT, b"hello"),
        Frame(Opcode.BINARY, b"\x00"),
        Frame(Opcode.TEXT, "é".encode()[:1], False),
        Frame(Opcode.PING, b"p"),
        Frame(Opcode.CONT, b"", False),
        Frame(Opcode.CONT, "é".encode()[1:]),
        Frame(Opcode.PONG, b""),
        Frame(Opcode.CLOSE, close.serialize()),
        role=role,
        step=step,
    )
    assert [event for event in events if isinstance(event, (str, bytes))] == ["hello", b"\x00", "é"]
    assert told == [
        FrameInfo(Opcode.TEXT, 5, b"hello"),
        FrameInfo(Opcode.BINARY, 1, b"\x00"),
        FrameInfo(Opcode.TEXT, 1, b"\xc3", False),
        FrameInfo(Opcode.PING, 1, b"p"),
        FrameInfo(Opcode.CONT, 0, b"", False),
        FrameInfo(Opcode.CONT, 1, b"\xa9"),
        FrameInfo(Opcode.PONG, 0, b""),
        FrameInfo(Opcode.CLOSE, 5, close.serialize()),
    ]
    assert [str(each) for each in told] == [
        "TEXT 'hello' [5 bytes]",
        "BINARY 00 [1 byte]",
        "TEXT '' [1 byte, continued]",
        "PING 'p' [1 byte]",
        "CONT '' [0 bytes, continued]",
        "CONT a9 [1 byte]",
        "PONG '' [0 bytes]",
        "CLOSE 1000 (normal closure) bye [5 bytes]",
    ]


@pytest.mark.parametrize("step", [None, 1000])
@pytest.mark.parametrize(
    "opcode, data",
    [(Opcode.TEXT, b"a" * 100_000), (Opcode.TEXT, "é".encode() * 50_000), (Opcode.BINARY, bytes(100_000))],
)
def test_the_beginning_of_large_frames_is_reported(opcode: Opcode, data: bytes, step: int | None) -> None:
    _, told = decode(Frame(opcode, data), step=step)
    assert told == [FrameInfo(opcode, len(data), data[:START])]
    assert str(told[0]).endswith("[100000 bytes]")


@pytest.mark.parametrize("step", [None, 1])
def test_transformed_messages_are_reported_in_their_original_form(step: int | None) -> None:
    events, told = decode(
        Frame(Opcode.TEXT, b"olleh", rsv1=True),
        Frame(Opcode.BINARY, b"abc"),
        Frame(Opcode.BINARY, b"ab", False, rsv1=True),
        Frame(Opcode.CONT, b"cd"),
        extended=True,
        step=step,
    )
    if step is None:
        assert events == ["hello", b"abc", b"badc"]
        assert told == [
            FrameInfo(Opcode.TEXT, 5, b"hello"),
            FrameInfo(Opcode.BINARY, 3, b"abc"),
            FrameInfo(Opcode.BINARY, 2, b"ba", False),
            FrameInfo(Opcode.CONT, 2, b"dc"),
        ]
    else:
        assert [(each.opcode, each.size) for each in told] == [
            (Opcode.TEXT, 5),
            (Opcode.BINARY, 3),
            (Opcode.BINARY, 2),
            (Opcode.CONT, 2),
        ]


def test_messages_in_parts() -> None:
    told: list[FrameInfo] = []
    decoder = ObservedDecoder(Role.CLIENT, None, [], told.append)
    data = serialize(Frame(Opcode.BINARY, bytes(100_000)))
    assert list(decoder.feed(data[:60_000])) == []
    first = len(decoder.take_part())
    assert told == []
    (last,) = decoder.feed(data[60_000:])
    assert isinstance(last, LastPart)
    assert (first + len(last.data), last.size) == (100_000, 100_000)
    assert [each.size for each in told] == [100_000]


def test_invalid_frames_are_not_reported() -> None:
    events, told = decode(Frame(Opcode.BINARY, b"a"), Frame(Opcode.BINARY, b"abcde", False), limit=4)
    assert len(events) == 2
    assert told == [FrameInfo(Opcode.BINARY, 1, b"a")]
    events, told = decode(Frame(Opcode.TEXT, b"\xff"))
    assert told == []


@pytest.mark.parametrize("message, size", [("", 0), (b"", 0), ("abc", 3), (b"abc", 3), ("é", 2), ("😀", 4)])
def test_size_of(message: Message, size: int) -> None:
    assert size_of(message) == size


@pytest.mark.parametrize("first_byte, fin", [(0x81, True), (0x01, False)])
def test_frame_info_of_a_sent_frame(first_byte: int, fin: bool) -> None:
    assert FrameInfo.of(first_byte, bytes(300)) == FrameInfo(Opcode.TEXT, 300, bytes(START), fin)
