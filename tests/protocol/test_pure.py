"""The functions that process every byte: in Python, and compiled if available."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol import Role, pure
from trio_ws.protocol.pure import apply_mask, header

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
    VALID_TEXTS,
    deterministic,
    frame_to,
    masking_keys,
    payloads,
    roles,
    texts,
    xor,
)

try:
    from trio_ws.protocol import compiled
except ImportError:
    compiled = None  # type: ignore[assignment]  # not everybody has a C compiler

each_implementation = pytest.mark.parametrize(
    "hot",
    [
        pure,
        pytest.param(compiled, marks=pytest.mark.skipif(compiled is None, reason="it was built without a C compiler")),
    ],
    ids=["pure", "compiled"],
)


# -- Masking ---------------------------------------------------------------------------------------------------------


@each_implementation
def test_example_of_the_rfc(hot: Any) -> None:
    # RFC 6455, section 5.7: "Hello" from a client.
    assert hot.apply_mask(b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("7f9f4d5158")


@each_implementation
@deterministic
@given(data=st.binary(max_size=100), key=masking_keys, offset=st.integers(min_value=0, max_value=9))
def test_each_octet_with_its_octet_of_the_key(hot: Any, data: bytes, key: bytes, offset: int) -> None:
    assert hot.apply_mask(data, key, offset) == xor(bytes(offset) + data, key)[offset:]


@each_implementation
@deterministic
@given(data=st.binary(max_size=100), key=masking_keys, offset=st.integers(min_value=0, max_value=2**64))
def test_is_its_own_inverse(hot: Any, data: bytes, key: bytes, offset: int) -> None:
    assert hot.apply_mask(hot.apply_mask(data, key, offset), key, offset) == data


@each_implementation
@deterministic
@given(data=st.binary(max_size=100), key=masking_keys, at=st.integers(min_value=0, max_value=100))
def test_in_two_pieces(hot: Any, data: bytes, key: bytes, at: int) -> None:
    whole = hot.apply_mask(data, key)
    assert hot.apply_mask(data[:at], key) + hot.apply_mask(data[at:], key, len(data[:at])) == whole


@each_implementation
def test_sizes(hot: Any) -> None:
    for size in [*range(20), 125, 126, 4095, 4096, 4097, 65535, 65536, 1_000_003]:
        data = bytes(range(256)) * (size // 256 + 1)
        data = data[:size]
        masked = hot.apply_mask(data, b"\x80\x00\xff\x01")
        assert type(masked) is bytes
        assert masked == xor(data, b"\x80\x00\xff\x01")
        # Python shares empty bytes and single bytes, so these objects must not have been modified.
        assert (b"", bytes([0])) == (bytes(0), b"\x00")


@each_implementation
def test_zero_key_changes_nothing(hot: Any) -> None:
    assert hot.apply_mask(b"\x00\x00\xff\x00", bytes(4)) == b"\x00\x00\xff\x00"


# -- Taking messages -------------------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", BOUNDARIES)
def test_take_messages(hot: Any, role: Role, size: int) -> None:
    payload = ("é€\N{GRINNING FACE}a" * size).encode()[: size - size % 10]
    binary = bytes(i & 0xFF for i in range(size))
    before = b"before"
    data = before + frame_to(role, FIN | TEXT, payload) + frame_to(role, FIN | BINARY, binary)
    taken = hot.take_messages(data, len(before), role is Role.SERVER, None, 10)
    assert taken == ([payload.decode(), binary], len(data))
    assert [type(message) for message in taken[0]] == [str, bytes]


@each_implementation
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("text", VALID_TEXTS)
def test_take_text(hot: Any, role: Role, text: str) -> None:
    data = frame_to(role, FIN | TEXT, text.encode())
    assert hot.take_messages(data, 0, role is Role.SERVER, None, 1) == ([text], len(data))


def others(role: Role) -> dict[str, bytes]:
    """Return frames that are not whole valid messages."""
    good = frame_to(role, FIN | BINARY, b"123")
    long, huge = frame_to(role, FIN | BINARY, bytes(200)), frame_to(role, FIN | BINARY, bytes(0x10000))
    return {
        "nothing": b"",
        **{f"{size} bytes of it": good[:size] for size in range(1, len(good))},
        **{f"{size} bytes of a long one": long[:size] for size in (2, 3, 4, 7, 8, 100)},
        "all but one byte of a long one": long[:-1],
        **{f"{size} bytes of a huge one": huge[:size] for size in (2, 5, 9, 10, 13, 14)},
        "all but one byte of a huge one": huge[:-1],
        "a fragment": frame_to(role, BINARY, b"123"),
        "the first fragment of text": frame_to(role, TEXT, b"123"),
        "the last fragment": frame_to(role, FIN | CONT, b"123"),
        **{f"opcode {opcode}": frame_to(role, FIN | opcode, b"123") for opcode in (CLOSE, PING, PONG, 3, 7, 11, 15)},
        **{f"reserved bit {bit:#x}": frame_to(role, FIN | bit | BINARY, b"123") for bit in (0x10, 0x20, 0x40)},
        "masked the wrong way": frame_to(role, FIN | BINARY, b"123", mask=role is Role.CLIENT),
        "no UTF-8": frame_to(role, FIN | TEXT, b"\xff"),
        "half a character": frame_to(role, FIN | TEXT, "é".encode()[:1]),
        "much that is no UTF-8": frame_to(role, FIN | TEXT, b"a" * 5000 + b"\xff"),
        "a surrogate": frame_to(role, FIN | TEXT, b"\xed\xa0\x80"),
        "two bytes of length for 125": frame_to(role, FIN | BINARY, bytes(125), width=2),
        "eight bytes of length for 125": frame_to(role, FIN | BINARY, bytes(125), width=8),
        "eight bytes of length for 65535": frame_to(role, FIN | BINARY, bytes(65535), width=8),
        "the most significant bit": frame_to(role, FIN | BINARY, b"123", size=2**64 - 1),
        "as much as there can be": frame_to(role, FIN | BINARY, b"123", size=2**63 - 1),
    }


@each_implementation
def test_frames_that_are_not_taken(hot: Any) -> None:
    for role in ROLES:
        for name in others(Role.CLIENT):
            good = frame_to(role, FIN | TEXT, b"good")
            data = good + others(role)[name]
            assert hot.take_messages(data, 0, role is Role.SERVER, None, 10) == (["good"], len(good))
            assert hot.take_messages(data, len(good), role is Role.SERVER, None, 10) == ([], len(good))


@each_implementation
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [1, 126, 65536])
def test_limit(hot: Any, role: Role, size: int) -> None:
    data = frame_to(role, FIN | BINARY, bytes(size))
    for limit in (size, size + 1, 2**62, 2**70, None):
        assert hot.take_messages(data, 0, role is Role.SERVER, limit, 10) == ([bytes(size)], len(data))
    for limit in (size - 1, 0):
        assert hot.take_messages(data, 0, role is Role.SERVER, limit, 10) == ([], 0)


@each_implementation
@pytest.mark.parametrize("role", ROLES)
def test_count(hot: Any, role: Role) -> None:
    one = frame_to(role, FIN | BINARY, b"1")
    for count in range(5):
        taken, position = hot.take_messages(one * 3, 0, role is Role.SERVER, None, count)
        assert taken == [b"1"] * min(count, 3)
        assert position == len(one) * min(count, 3)


# -- Other small frames ----------------------------------------------------------------------------------------------

#: Allow every first byte, or all except those of whole messages.
ALL = bytes([1]) * 256
OTHERS = bytes(first_byte not in (FIN | TEXT, FIN | BINARY) for first_byte in range(256))


@each_implementation
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 124, 125])
def test_take_small_frames(hot: Any, role: Role, size: int) -> None:
    payload = bytes(i & 0xFF for i in range(size))
    kinds = (FIN | PING, FIN | PONG, FIN | CLOSE, TEXT, CONT, FIN | CONT, FIN | 0x40 | BINARY, 3)
    before = b"before"
    data = before + b"".join(frame_to(role, first_byte, payload) for first_byte in kinds)
    masked = role is Role.SERVER
    expected = [(first_byte, payload, 0) for first_byte in kinds]
    assert hot.take_small_frames(data, len(before), masked, ALL, 10) == (expected, len(data))
    for count in range(9):
        taken, position = hot.take_small_frames(memoryview(data), len(before), masked, ALL, count)
        assert taken == expected[:count]
        assert len(data) - position == (8 - count) * len(frame_to(role, PING, payload))


@each_implementation
@pytest.mark.parametrize("role", ROLES)
def test_take_small_frames_stops_before_other_frames(hot: Any, role: Role) -> None:
    good = frame_to(role, CONT, b"good")
    whole = frame_to(role, FIN | PING, bytes(125))
    for other in (
        *(whole[:size] for size in range(len(whole))),
        frame_to(role, FIN | TEXT, b"a whole message"),
        frame_to(role, CONT, bytes(126)),
        frame_to(role, CONT, bytes(70_000)),
        frame_to(role, CONT, b"123", width=2),
        frame_to(role, CONT, b"123", width=8),
        frame_to(role, CONT, b"123", mask=role is Role.CLIENT),
    ):
        data = good + other
        masked = role is Role.SERVER
        assert hot.take_small_frames(data, 0, masked, OTHERS, 10) == ([(CONT, b"good", 0)], len(good))
        assert hot.take_small_frames(data, len(good), masked, OTHERS, 10) == ([], len(good))


# -- Packing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, expected",
    [
        (0, "8200"),
        (125, "827d"),
        (126, "827e007e"),
        (65535, "827effff"),
        (65536, "827f0000000000010000"),
        (2**63 - 1, "827f7fffffffffffffff"),
    ],
)
def test_headers(size: int, expected: str) -> None:
    wanted = bytes.fromhex(expected)
    assert header(FIN | BINARY, size) == wanted
    assert header(FIN | BINARY, size, 0x80) == bytes([wanted[0], wanted[1] | 0x80]) + wanted[2:]


@each_implementation
def test_pack(hot: Any) -> None:
    frames = [
        (first_byte, bytes(i & 0xFF for i in range(size)), True) for first_byte in (0x82, 1) for size in BOUNDARIES
    ]
    packed = hot.pack(frames)
    assert type(packed) is bytes
    assert packed == b"".join(frame_to(Role.CLIENT, first_byte, data) for first_byte, data, _ in frames)
    keys = random.Random(0).randbytes(4 * len(frames))
    expected = [
        frame_to(Role.SERVER, first_byte, data, key=keys[4 * i : 4 * i + 4])
        for i, (first_byte, data, _) in enumerate(frames)
    ]
    assert hot.pack(frames, keys) == b"".join(expected)
    assert hot.pack([]) == hot.pack([], b"") == b""


# -- Large payloads --------------------------------------------------------------------------------------------------


@each_implementation
@deterministic
@given(
    pieces=st.lists(st.binary(max_size=50), max_size=8),
    key=st.one_of(st.just(b""), masking_keys),
    more=st.integers(0, 99),
)
def test_payload(hot: Any, pieces: list[bytes], key: bytes, more: int) -> None:
    data = b"".join(pieces)
    payload = hot.Payload(len(data) + more)
    came = 0
    for piece in pieces:
        payload.add(memoryview(piece), key)
        came += len(piece)
        assert payload.size == came
    with pytest.raises(ValueError):
        payload.add(bytes(more + 1), key)
    taken = payload.take()
    assert type(taken) is bytes
    assert taken == (xor(data, key) if key else data)
    # Nothing can be added now.
    assert (payload.size, payload.take()) == (0, b"")
    with pytest.raises(ValueError):
        payload.add(b"a", b"")


@each_implementation
def test_a_payload_takes_at_most_twice_the_received_memory(hot: Any) -> None:
    def check(most: int) -> None:
        assert tracemalloc.get_traced_memory()[0] - before < most + 10_000

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        payload = hot.Payload(2**40)
        check(0)
        piece = bytes(10_000)
        for count in range(1, 100):
            payload.add(piece, KEY)
            check(2 * count * len(piece) + len(piece))
        data = payload.take()
        check(100 * len(piece))
        assert data == hot.apply_mask(bytes(99 * 10_000), KEY)
    finally:
        tracemalloc.stop()


@each_implementation
@pytest.mark.parametrize("total", [-1, -(2**62)])
def test_a_payload_of_negative_size(hot: Any, total: int) -> None:
    with pytest.raises(ValueError):
        hot.Payload(total)


# -- The compiled functions are equal and safe-----------------------------------------------------------------------


#: Errors for frame_to(): lengths of any size in any number of bytes, a mask or none.
wrong_headers: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"mask": st.booleans()}),
    st.fixed_dictionaries({"width": st.just(2), "size": st.one_of(st.integers(0, 200), st.integers(0, 2**16 - 1))}),
    st.fixed_dictionaries({"width": st.just(8), "size": st.one_of(st.integers(0, 200), st.integers(0, 2**64 - 1))}),
)


@pytest.mark.skipif(compiled is None, reason="it was built without a C compiler")
class TestCompiled:
    @deterministic
    @given(
        role=roles,
        frames=st.lists(
            st.one_of(
                st.tuples(
                    st.sampled_from([FIN | TEXT, FIN | BINARY] * 5 + [*range(256)]),
                    st.one_of(payloads, texts.map(str.encode)),
                    wrong_headers,
                ),
                st.binary(max_size=20),
            ),
            max_size=8,
        ),
        flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), max_size=2),
        limit=st.one_of(st.none(), st.integers(0, 200), st.integers(0, 2**65)),
        count=st.integers(0, 9),
        position=st.integers(0, 300),
        cut=st.integers(0, 300),
    )
    def test_take_messages(
        self,
        role: Role,
        frames: list[tuple[int, bytes, dict[str, Any]] | bytes],
        flips: list[tuple[int, int]],
        limit: int | None,
        count: int,
        position: int,
        cut: int,
    ) -> None:
        data = bytearray()
        for frame in frames:
            data += frame if isinstance(frame, bytes) else frame_to(role, frame[0], frame[1], **frame[2])
        for at, bits in flips:
            if at < len(data):
                data[at] ^= bits
        for received in (bytes(data), bytes(data[: len(data) - cut])):
            for start in (0, min(position, len(received))):
                arguments = (received, start, role is Role.SERVER, limit, count)
                assert compiled.take_messages(*arguments) == pure.take_messages(*arguments)

    @deterministic
    @given(
        role=roles,
        frames=st.lists(
            st.one_of(st.tuples(st.integers(0, 255), payloads, wrong_headers), st.binary(max_size=20)), max_size=8
        ),
        allowed=st.one_of(st.just(ALL), st.just(OTHERS), st.binary(min_size=256, max_size=256)),
        count=st.integers(0, 9),
        position=st.integers(0, 300),
        cut=st.integers(0, 300),
    )
    def test_take_small_frames(
        self,
        role: Role,
        frames: list[tuple[int, bytes, dict[str, Any]] | bytes],
        allowed: bytes,
        count: int,
        position: int,
        cut: int,
    ) -> None:
        wires = (
            frame if isinstance(frame, bytes) else frame_to(role, frame[0], frame[1], **frame[2]) for frame in frames
        )
        data = b"".join(wires)
        for received in (data, data[: len(data) - cut]):
            for start in (0, min(position, len(received))):
                arguments = (received, start, role is Role.SERVER, allowed, count)
                assert compiled.take_small_frames(*arguments) == pure.take_small_frames(*arguments)

    @pytest.mark.parametrize(
        "arguments",
        [
            (None, 0, True, ALL, 1),
            ("a", 0, True, ALL, 1),
            (b"a", -1, True, ALL, 1),
            (b"a", 0, True, None, 1),
            (b"a", 0, True, bytes(255), 1),
            (b"a", 0, True, bytearray(256), 1),
            (b"a", 0, True, ALL, None),
        ],
    )
    def test_take_small_frames_with_invalid_arguments(self, arguments: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            compiled.take_small_frames(*arguments)

    def test_take_small_frames_from_beyond_the_end(self) -> None:
        assert compiled.take_small_frames(b"abc", 2**62, False, ALL, 1) == ([], 2**62)

    @deterministic
    @given(
        frames=st.lists(st.tuples(st.integers(0, 255), payloads, st.booleans()), max_size=5),
        masked=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def test_pack(self, frames: list[tuple[int, bytes, bool]], masked: bool, seed: int) -> None:
        keys = random.Random(seed).randbytes(4 * len(frames)) if masked else None
        assert compiled.pack(frames, keys) == pure.pack(frames, keys)

    @deterministic
    @given(st.binary(max_size=200), masking_keys, st.integers(0, 2**40))
    def test_apply_mask(self, data: bytes, key: bytes, offset: int) -> None:
        assert compiled.apply_mask(data, key, offset) == apply_mask(data, key, offset)

    @pytest.mark.parametrize(
        "arguments",
        [
            (None, KEY),
            ("a", KEY),
            (b"a", None),
            (b"a", bytearray(KEY)),
            (b"a", KEY, None),
            (b"a", KEY, 1.5),
            (b"a", b"123"),
            (b"a", b"12345"),
        ],
    )
    def test_apply_mask_with_wrong_arguments(self, arguments: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            compiled.apply_mask(*arguments)

    def test_apply_mask_from_any_offset(self) -> None:
        class Treacherous(int):
            def __and__(self, other: int) -> int:
                return 2**63 - 1

        # Reads stay within the key for any offset.
        assert compiled.apply_mask(bytes(8), KEY, Treacherous()) == (KEY[3:] + KEY[:3]) * 2

    @pytest.mark.parametrize(
        "arguments", [(None, KEY), ("a", KEY), (b"a", None), (b"a", bytearray(KEY)), (b"a", b"123")]
    )
    def test_add_with_wrong_arguments(self, arguments: Any) -> None:
        payload = compiled.Payload(10)
        with pytest.raises((TypeError, ValueError)):
            payload.add(*arguments)
        assert payload.size == 0

    @pytest.mark.parametrize("arguments", [(), (None,), (1.5,), (2**70,)])
    def test_payload_with_wrong_arguments(self, arguments: Any) -> None:
        with pytest.raises((TypeError, OverflowError)):
            compiled.Payload(*arguments)

    def test_a_huge_payload_allocates_nothing_at_first(self) -> None:
        payload = compiled.Payload(2**62)
        payload.add(b"abc", b"")
        assert payload.take() == b"abc"

    @pytest.mark.parametrize(
        "arguments",
        [
            (None, 0, True, None, 1),
            ("a", 0, True, None, 1),
            (b"a", -1, True, None, 1),
            (b"a", -(2**62), True, None, 1),
            (b"a", 2**70, True, None, 1),
            (b"a", 0, True, "1", 1),
            (b"a", 0, True, -1, 1),
            (b"a", 0, True, None, None),
        ],
    )
    def test_take_messages_with_wrong_arguments(self, arguments: Any) -> None:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            compiled.take_messages(*arguments)

    def test_take_messages_from_beyond_the_end(self) -> None:
        assert compiled.take_messages(b"\x82\x00", 3, False, None, 1) == ([], 3)
        assert compiled.take_messages(b"\x82\x00", 2**62, True, None, 1) == ([], 2**62)

    @pytest.mark.parametrize(
        "arguments",
        [
            (None,),
            ((),),
            ([None],),
            ([()],),
            ([(0x82,)],),
            ([(0x82, None, True)],),
            ([(0x82, bytearray(b"a"), True)],),
            ([(None, b"a", True)],),
            ([(256, b"a", True)],),
            ([(-1, b"a", True)],),
            ([(0x82, b"a", True)], b"123"),
            ([(0x82, b"a", True)] * 2, KEY),
            ([(0x82, b"a", True)], bytearray(KEY)),
        ],
    )
    def test_pack_with_wrong_arguments(self, arguments: Any) -> None:
        with pytest.raises((TypeError, ValueError, OverflowError, IndexError)):
            compiled.pack(*arguments)

    @pytest.mark.parametrize("size", [0, 1, 100, 100_000])
    def test_pack_frames_that_change_meanwhile(self, size: int) -> None:
        class Treacherous:
            def __int__(self) -> int:
                frames[1] = (0x82, bytes(size), True)
                return 0x82

        frames: list[Any] = [(Treacherous(), b"a", True), (0x82, bytes(50), True)]
        with pytest.raises(RuntimeError):
            compiled.pack(frames)

    def test_pack_with_more_frames_meanwhile(self) -> None:
        class Treacherous:
            def __int__(self) -> int:
                frames[1:] = [(0x82, b"", True)] * 17
                return 0x82

        # They would fit into the result, but there are too few keys.
        frames: list[Any] = [(Treacherous(), b"", True), (0x82, bytes(96), True)]
        with pytest.raises(RuntimeError):
            compiled.pack(frames, KEY * 2)
