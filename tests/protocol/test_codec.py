from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

import pytest
import websockets.frames
from hypothesis import given
from hypothesis import strategies as st
from websockets.streams import StreamReader

from trio_ws.exceptions import ProtocolError
from trio_ws.frames import Frame, Opcode
from trio_ws.protocol.codec import BATCH, LARGE, RSV1, RSV2, RSV3, FrameDecoder, Piece, Role, serialize

from .strategies import (
    BINARY,
    BOUNDARIES,
    CLOSE,
    CONT,
    FIN,
    KEY,
    PING,
    PONG,
    ROLES,
    TEXT,
    control_payloads,
    cut,
    deterministic,
    frame_to,
    masking_keys,
    one_by_one,
    payloads,
    positions,
    roles,
)

T = TypeVar("T")


def feed(decoder: FrameDecoder, data: bytes | bytearray) -> Iterator[Piece]:
    decoder.feed(data)
    return iter(decoder.next_piece, None)


def pieces_of(role: Role, chunks: Iterable[bytes], rsv: int = 0) -> tuple[list[Piece], ProtocolError | None]:
    """Return the pieces in the chunks, and the error if there is one."""
    decoder = FrameDecoder(role, rsv)
    pieces = []
    for chunk in chunks:
        try:
            for piece in feed(decoder, chunk):
                pieces.append(piece)  # keep the pieces before the error
        except ProtocolError as exc:
            return pieces, exc
    return pieces, None


def join(pieces: Iterable[Piece]) -> list[tuple[int, bytes]]:
    """Join the pieces of each frame, and check that they fit."""
    frames = []
    begun: list[bytes] = []
    expected: tuple[int, int] | None = None
    for first_byte, data, remaining in pieces:
        assert type(data) is bytes
        assert expected in (None, (first_byte, len(data) + remaining))
        begun.append(data)
        expected = (first_byte, remaining) if remaining else None
        if not remaining:
            frames.append((first_byte, b"".join(begun)))
            begun = []
    assert expected is None
    return frames


def frames_of(role: Role, data: bytes, rsv: int = 0) -> list[tuple[int, bytes]]:
    """Return the frames in ``data``, and check that they do not depend on how it is fed."""
    pieces, error = pieces_of(role, [data], rsv)
    assert error is None
    frames = join(pieces)
    pieces, error = pieces_of(role, one_by_one(data), rsv)
    assert error is None
    assert join(pieces) == frames
    return frames


def error_of(role: Role, data: bytes, rsv: int = 0) -> ProtocolError:
    """Return the error at the beginning of ``data``, and check that it does not depend on how it is fed."""
    pieces, error = pieces_of(role, [data], rsv)
    assert pieces == []
    assert type(error) is ProtocolError
    one_at_a_time = pieces_of(role, one_by_one(data), rsv)
    assert one_at_a_time[0] == []
    assert type(one_at_a_time[1]) is ProtocolError
    assert one_at_a_time[1].reason == error.reason
    return error


# -- Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role, wire, first_byte, payload",
    [
        # RFC 6455, section 5.7.
        (Role.CLIENT, "810548656c6c6f", FIN | TEXT, b"Hello"),
        (Role.SERVER, "818537fa213d7f9f4d5158", FIN | TEXT, b"Hello"),
        (Role.CLIENT, "010348656c", TEXT, b"Hel"),
        (Role.CLIENT, "80026c6f", FIN | CONT, b"lo"),
        (Role.CLIENT, "890548656c6c6f", FIN | PING, b"Hello"),
        (Role.SERVER, "8a8537fa213d7f9f4d5158", FIN | PONG, b"Hello"),
        (Role.CLIENT, "827e0100" + "2a" * 256, FIN | BINARY, b"*" * 256),
        (Role.CLIENT, "827f0000000000010000" + "2a" * 65536, FIN | BINARY, b"*" * 65536),
    ],
)
def test_examples_of_the_rfc(role: Role, wire: str, first_byte: int, payload: bytes) -> None:
    data = bytes.fromhex(wire)
    assert frames_of(role, data) == [(first_byte, payload)]
    frame = Frame(Opcode(first_byte & 0x0F), payload, first_byte >= FIN)
    assert serialize(frame, KEY if role is Role.SERVER else None) == data


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", BOUNDARIES)
def test_sizes(role: Role, size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    data = frame_to(role, FIN | BINARY, payload)
    assert frames_of(role, data * 2) == [(FIN | BINARY, payload)] * 2


@pytest.mark.parametrize("role", ROLES)
def test_whole_frames_are_one_piece_each(role: Role) -> None:
    data = frame_to(role, TEXT, b"a") + frame_to(role, FIN | PING) + frame_to(role, FIN | CONT, b"bc")
    assert pieces_of(role, [data]) == ([(TEXT, b"a", 0), (FIN | PING, b"", 0), (FIN | CONT, b"bc", 0)], None)


@pytest.mark.parametrize("role", ROLES)
def test_pieces_are_bytes_for_every_type_of_buffer(role: Role) -> None:
    decoder = FrameDecoder(role)
    data = bytearray(frame_to(role, FIN | PING, b"p") + frame_to(role, FIN | BINARY, b"abcd"))
    pieces = list(feed(decoder, data[:-1])) + list(feed(decoder, data[-1:]))
    assert pieces == [(FIN | PING, b"p", 0), (FIN | BINARY, b"abc", 1), (FIN | BINARY, b"d", 0)]
    assert {type(payload) for _, payload, _ in pieces} == {bytes}


@pytest.mark.parametrize("role", ROLES)
def test_data_frames_are_returned_as_they_arrive(role: Role) -> None:
    decoder = FrameDecoder(role)
    data = frame_to(role, FIN | BINARY, b"0123456789")
    header_size = len(data) - 10
    assert list(feed(decoder, data[: header_size - 1])) == []
    # The header alone is enough to know the size.
    assert list(feed(decoder, data[header_size - 1 : header_size])) == [(FIN | BINARY, b"", 10)]
    assert list(feed(decoder, b"")) == []
    assert list(feed(decoder, data[header_size : header_size + 3])) == [(FIN | BINARY, b"012", 7)]
    rest = data[header_size + 3 :]
    assert list(feed(decoder, rest + data[:-1])) == [(FIN | BINARY, b"3456789", 0), (FIN | BINARY, b"012345678", 1)]
    assert list(feed(decoder, data[-1:])) == [(FIN | BINARY, b"9", 0)]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frames_are_returned_whole(role: Role, opcode: int) -> None:
    decoder = FrameDecoder(role)
    payload = bytes(range(125))
    *most, last = one_by_one(frame_to(role, FIN | opcode, payload))
    assert [piece for chunk in most for piece in feed(decoder, chunk)] == []
    assert list(feed(decoder, last)) == [(FIN | opcode, payload, 0)]


@pytest.mark.parametrize("role", ROLES)
def test_largest_length(role: Role) -> None:
    data = frame_to(role, FIN | BINARY, b"ab", size=2**63 - 1)
    assert pieces_of(role, [data])[0] == [(FIN | BINARY, b"ab", 2**63 - 3)]


@deterministic
@given(
    roles,
    st.lists(st.tuples(st.sampled_from([TEXT, FIN | TEXT, CONT, FIN | BINARY]), payloads), max_size=3),
    st.lists(st.tuples(st.sampled_from([FIN | PING, FIN | PONG, FIN | CLOSE]), control_payloads), max_size=3),
    masking_keys,
    positions,
)
def test_chunks_do_not_matter(
    role: Role,
    data_frames: list[tuple[int, bytes]],
    control_frames: list[tuple[int, bytes]],
    key: bytes,
    where: list[int],
) -> None:
    frames = data_frames + control_frames + data_frames
    data = b"".join(frame_to(role, first_byte, payload, key=key) for first_byte, payload in frames)
    pieces, error = pieces_of(role, cut(data, where))
    assert error is None
    assert join(pieces) == frames


# -- Violations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF])
@pytest.mark.parametrize("fin", [0, FIN])
def test_unknown_opcodes(role: Role, opcode: int, fin: int) -> None:
    error_of(role, frame_to(role, fin | opcode, b"x"))
    error_of(role, frame_to(role, fin | opcode), RSV1 | RSV2 | RSV3)


@pytest.mark.parametrize("role", ROLES)
def test_reserved_bits_without_an_extension(role: Role) -> None:
    for opcode in [CONT, TEXT, BINARY, CLOSE, PING, PONG]:
        for rsv in range(RSV3, RSV1 + RSV2 + RSV3 + 1, RSV3):
            error_of(role, frame_to(role, FIN | rsv | opcode, b"x"))


@pytest.mark.parametrize("role", ROLES)
def test_take_messages_stops_at_reserved_bits(role: Role) -> None:
    decoder = FrameDecoder(role, RSV1)
    decoder.feed(frame_to(role, FIN | RSV1 | TEXT, b"x") + frame_to(role, FIN | TEXT, b"y"))
    assert decoder.take_messages(None) == []
    assert decoder.next_piece() == (FIN | RSV1 | TEXT, b"x", 0)
    assert decoder.take_messages(None) == ["y"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("rsv", [RSV1, RSV2, RSV3, RSV1 | RSV3, RSV1 | RSV2 | RSV3])
def test_reserved_bits_in_use(role: Role, opcode: int, rsv: int) -> None:
    for fin in (0, FIN):
        data = frame_to(role, fin | rsv | opcode, b"x") + frame_to(role, FIN | PING) + frame_to(role, fin | opcode)
        expected = [(fin | rsv | opcode, b"x"), (FIN | PING, b""), (fin | opcode, b"")]
        assert frames_of(role, data, rsv) == expected
    # The other bits are still rejected, ...
    for other in {RSV1, RSV2, RSV3} - {bit for bit in (RSV1, RSV2, RSV3) if bit & rsv}:
        error_of(role, frame_to(role, FIN | rsv | other | opcode, b"x"), rsv)
    # ... and so is this one, except at the beginning of a message.
    for elsewhere in (CONT, CLOSE, PING, PONG):
        error_of(role, frame_to(role, FIN | rsv | elsewhere, b"x"), rsv)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [CONT, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("payload", [b"", b"x" * 125])
def test_wrong_masking(role: Role, opcode: int, payload: bytes) -> None:
    error_of(role, frame_to(role, FIN | opcode, payload, mask=role is Role.CLIENT))
    # The decoder waits for neither the payload nor the key.
    error_of(role, frame_to(role, FIN | opcode, payload, mask=role is Role.CLIENT)[:2])


@pytest.mark.parametrize("role", ROLES)
def test_lengths_in_more_bytes_than_needed(role: Role) -> None:
    for opcode in [CONT, TEXT, BINARY]:
        for width, size in [(2, 0), (2, 1), (2, 125), (8, 0), (8, 125), (8, 126), (8, 0xFFFF)]:
            error_of(role, frame_to(role, FIN | opcode, bytes(size), width=width))
            error_of(
                role, frame_to(role, FIN | opcode, b"", width=width, size=size, mask=role is Role.SERVER)[: 2 + width]
            )


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [2**63, 2**63 + 1, 2**64 - 1])
def test_bit_63_of_a_length(role: Role, size: int) -> None:
    error_of(role, frame_to(role, FIN | BINARY, b"", size=size)[:10])
    error_of(role, frame_to(role, FIN | BINARY, b"abc", size=size))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frames_that_are_fragmented(role: Role, opcode: int) -> None:
    error_of(role, frame_to(role, opcode))
    error_of(role, frame_to(role, opcode, b"x" * 125)[:2])


@pytest.mark.parametrize("role", ROLES)
def test_control_frames_that_are_too_long(role: Role) -> None:
    for opcode in [CLOSE, PING, PONG]:
        for fin in [0, FIN]:
            for width, size in [(2, 0), (2, 126), (8, 1), (8, 65536), (8, 2**64 - 1)]:
                # The first two bytes are enough to fail.
                error_of(role, frame_to(role, fin | opcode, b"", width=width, size=size)[:2])


def test_frames_before_a_violation_are_returned() -> None:
    good = frame_to(Role.CLIENT, TEXT, b"good") + frame_to(Role.CLIENT, FIN | PING)
    begun = frame_to(Role.CLIENT, FIN | CONT, b"more")
    data = good + begun + frame_to(Role.CLIENT, FIN | RSV1 | BINARY) + good
    for chunks in ([data], one_by_one(data), [data[: len(good) + 4], data[len(good) + 4 :]]):
        pieces, error = pieces_of(Role.CLIENT, chunks)
        assert join(pieces) == [(TEXT, b"good"), (FIN | PING, b""), (FIN | CONT, b"more")]
        assert type(error) is ProtocolError
        assert error.code == 1002


@pytest.mark.parametrize("role", ROLES)
def test_take_messages_between_messages(role: Role) -> None:
    decoder = FrameDecoder(role)
    good = frame_to(role, FIN | TEXT, b"a") + frame_to(role, FIN | BINARY, b"bc")
    decoder.feed(good + frame_to(role, FIN | PING, b"p") + good * BATCH)
    assert decoder.take_messages(None) == ["a", b"bc"]
    # next_piece() returns the rest.
    assert decoder.take_messages(None) == []
    assert decoder.next_piece() == (FIN | PING, b"p", 0)
    assert decoder.take_messages(1) == ["a"]
    assert decoder.next_piece() == (FIN | BINARY, b"bc", 0)
    assert len(decoder.take_messages(None)) == BATCH
    assert len(decoder.take_messages(None)) == BATCH - 2
    assert decoder.next_piece() is None


# -- Large frames, reused buffers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 3 * LARGE])
@pytest.mark.parametrize("first_byte", [FIN | BINARY, BINARY, FIN | TEXT, FIN | CONT])
def test_large_messages_are_assembled(role: Role, size: int, first_byte: int) -> None:
    payload = bytes(i & 0x7F for i in range(size))
    data = frame_to(role, first_byte, payload)
    decoder = FrameDecoder(role, assemble=True)
    pieces = [piece for chunk in cut(data, range(5, len(data), 30_000)) for piece in feed(decoder, chunk)]
    assert pieces[-1][2] == 0
    assert b"".join(piece for _, piece, _ in pieces) == payload
    together = first_byte == FIN | BINARY and size >= LARGE
    assert [bool(piece) for _, piece, _ in pieces[:-1]] == [not together] * (len(pieces) - 1)
    assert decoder.assembled == 0


@pytest.mark.parametrize("role", ROLES)
def test_take_assembled(role: Role) -> None:
    payload = bytes(i & 0xFF for i in range(2 * LARGE))
    data = frame_to(role, FIN | BINARY, payload)
    header_size = len(data) - len(payload)
    decoder = FrameDecoder(role, assemble=True)
    assert decoder.take_assembled() == b""
    assert list(feed(decoder, data[: header_size + LARGE])) == [(FIN | BINARY, b"", LARGE)]
    assert decoder.assembled == LARGE
    assert decoder.take_assembled() == payload[:LARGE]
    assert decoder.assembled == 0
    assert list(feed(decoder, data[header_size + LARGE :])) == [(FIN | BINARY, payload[LARGE:], 0)]


@pytest.mark.parametrize("role", ROLES)
def test_expected(role: Role) -> None:
    decoder = FrameDecoder(role)
    at_rest = decoder.expected
    data = frame_to(role, FIN | BINARY, bytes(100_000))
    list(feed(decoder, data[:50_000]))
    # The rest of this frame, and another one.
    assert decoder.expected == len(data) - 50_000 + 100_000 + at_rest
    list(feed(decoder, data[50_000:] + data[:10]))
    assert decoder.expected >= 100_000
    list(feed(decoder, data[10:]))
    # The reads have become small.
    assert list(feed(decoder, frame_to(role, FIN | TEXT, b"a"))) == [(FIN | TEXT, b"a", 0)]
    assert decoder.expected <= at_rest + 1


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("at", [1, 7, 20, 50])
def test_detach(role: Role, at: int) -> None:
    data = b"".join(frame_to(role, FIN | BINARY, bytes([size]) * size) for size in range(1, 20))
    decoder = FrameDecoder(role)
    pieces = []
    for chunk in (data[:at], data[at:]):
        borrowed = bytearray(chunk)
        decoder.feed(memoryview(borrowed))
        if (piece := decoder.next_piece()) is not None:
            pieces.append(piece)
            decoder.detach()
        borrowed[:] = bytes(len(borrowed))
        pieces += iter(decoder.next_piece, None)
    assert b"".join(payload for _, payload, _ in pieces) == b"".join(bytes([size]) * size for size in range(1, 20))


# -- Writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("rsv", [(), (1,), (2,), (3,), (1, 2, 3)])
@pytest.mark.parametrize("fin", [True, False])
def test_serialize(key: bytes | None, rsv: tuple[int, ...], fin: bool) -> None:
    frame = Frame(Opcode.TEXT, b"text", fin, rsv1=1 in rsv, rsv2=2 in rsv, rsv3=3 in rsv)
    first_byte = (FIN if fin else 0) | sum({1: RSV1, 2: RSV2, 3: RSV3}[bit] for bit in rsv) | TEXT
    role = Role.CLIENT if key is None else Role.SERVER
    assert serialize(frame, key) == frame_to(role, first_byte, b"text")
    assert frames_of(role, serialize(frame, key), RSV1 | RSV2 | RSV3) == [(first_byte, b"text")]


# -- Against another implementation -----------------------------------------------------------------------------------

any_frames = st.one_of(
    st.builds(
        Frame,
        st.sampled_from([Opcode.CONT, Opcode.TEXT, Opcode.BINARY]),
        payloads,
        st.booleans(),
    ),
    st.builds(Frame, st.sampled_from([Opcode.PING, Opcode.PONG]), control_payloads),
    st.just(Frame(Opcode.CLOSE, b"\x03\xe8bye")),
)


def run(generator: Generator[None, None, T]) -> T:
    """Run a generator that never has to wait, and return its result."""
    with pytest.raises(StopIteration) as caught:
        next(generator)
    value: T = caught.value.value
    return value


def parse_with_websockets(data: bytes, mask: bool) -> list[Frame]:
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    frames = []
    while not run(reader.at_eof()):
        theirs: Any = run(websockets.frames.Frame.parse(reader.read_exact, mask=mask))
        frames.append(Frame(theirs.opcode, theirs.data, theirs.fin, theirs.rsv1, theirs.rsv2, theirs.rsv3))
    return frames


@deterministic
@given(st.lists(any_frames, max_size=5), st.one_of(st.none(), masking_keys))
def test_websockets_reads_our_frames(frames: list[Frame], key: bytes | None) -> None:
    data = b"".join(serialize(frame, key) for frame in frames)
    assert parse_with_websockets(data, mask=key is not None) == frames


@deterministic
@given(st.lists(any_frames, max_size=5), roles, positions)
def test_we_read_frames_of_websockets(frames: list[Frame], role: Role, where: list[int]) -> None:
    data = b"".join(
        websockets.frames.Frame(websockets.frames.Opcode(frame.opcode), frame.data, frame.fin).serialize(
            mask=role is Role.SERVER
        )
        for frame in frames
    )
    pieces, error = pieces_of(role, cut(data, where))
    assert error is None
    assert join(pieces) == [((FIN if frame.fin else 0) | frame.opcode, frame.data) for frame in frames]


def test_decoded_bytes_are_released() -> None:
    decoder = FrameDecoder(Role.CLIENT)
    message = serialize(Frame(Opcode.TEXT, b"a"))
    decoder.feed(message + message[:2])
    assert decoder.take_messages(None) == ["a"]
    assert not decoder.release()
    assert decoder.next_piece() == (FIN | TEXT, b"", 1)
    assert decoder.release()
    assert list(feed(decoder, message[2:])) == [(FIN | TEXT, b"a", 0)]
    decoder.feed(message)
    assert decoder.take_messages(None) == ["a"]
    assert decoder.release()
    assert decoder.next_piece() is None


@pytest.mark.parametrize("role", ROLES)
def test_pieces_of_small_frames_and_of_others(role: Role) -> None:
    decoder = FrameDecoder(role, RSV2)
    small = [(FIN | PING, b"a"), (BINARY, b""), (CONT, b"b" * 125), (FIN | RSV2 | TEXT, b"c")]
    large = (FIN | CONT, b"d" * 126)
    wire = b"".join(frame_to(role, first_byte, data) for first_byte, data in [*small, large])
    assert decoder.take_pieces() == []
    decoder.feed(wire[:-1])
    assert decoder.take_pieces() == [(first_byte, data, 0) for first_byte, data in small]
    assert decoder.take_pieces() == [(large[0], large[1][:-1], 1)]
    assert decoder.take_pieces() == []
    decoder.feed(wire[-1:])
    assert decoder.take_pieces() == [(large[0], large[1][-1:], 0)]
