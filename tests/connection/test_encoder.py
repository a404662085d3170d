"""Tests of the encoder: the cache of compressors, and encoding in threads."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
import trio.testing

from trio_ws.connection import encoder as encoding
from trio_ws.connection.encoder import THREAD_SIZE, CompressorCache, Encoder, EncodingFailed
from trio_ws.connection.limits import ConnectionLimits
from trio_ws.frames import Close, Opcode
from trio_ws.instruments.null import NullObserver
from trio_ws.protocol import Protocol, Role
from trio_ws.protocol.codec import FIN
from trio_ws.protocol.connection import OutgoingFrame

from ..support import parse_frames


class FakeEncoder:
    """Counts the calls of free_memory()."""

    def __init__(self) -> None:
        self.freed = 0

    def free_memory(self) -> None:
        self.freed += 1


def frame(data: bytes, compress: bool = True) -> OutgoingFrame:
    return (FIN | Opcode.BINARY, data, compress)


def make(limits: ConnectionLimits | None = None, compresses: bool = False) -> Encoder:
    protocol = Protocol(Role.SERVER, random=os.urandom)
    return Encoder(protocol, compresses, limits or ConnectionLimits(None, None, None), NullObserver())


# -- The cache -------------------------------------------------------------------------------------------------------


def touch(cache: CompressorCache, *encoders: Any) -> None:
    for each in encoders:
        cache.touch(each)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> CompressorCache:
    """A cache with room for three encoders."""
    monkeypatch.setattr(encoding, "MAX_COMPRESSORS", 3)
    return CompressorCache()


def test_the_least_recently_used_encoder_frees_its_memory(three: CompressorCache) -> None:
    a, b, c, d, e = (FakeEncoder() for _ in range(5))
    touch(three, a, b, c)
    assert [each.freed for each in (a, b, c)] == [0, 0, 0]
    touch(three, a, d)
    assert [each.freed for each in (a, b, c, d)] == [0, 1, 0, 0]
    touch(three, a, d, e)
    assert [each.freed for each in (a, b, c, d, e)] == [0, 1, 1, 0, 0]


def test_an_encoder_that_is_used_again_is_the_latest(three: CompressorCache) -> None:
    a, b, c, d = (FakeEncoder() for _ in range(4))
    touch(three, a, b, c, d, a)
    assert [each.freed for each in (a, b, c, d)] == [1, 1, 0, 0]


def test_removing_an_encoder_makes_room(three: CompressorCache) -> None:
    a, b, c, d = (FakeEncoder() for _ in range(4))
    touch(three, a, b, c)
    three.remove(b)  # type: ignore[arg-type]  # it stands for one
    three.remove(b)  # type: ignore[arg-type]  # it stands for one
    touch(three, d)
    assert [each.freed for each in (a, b, c, d)] == [0, 0, 0, 0]


# -- The encoder -----------------------------------------------------------------------------------------------------


async def test_frames_are_encoded_in_order() -> None:
    encoder = make()
    data = b"".join(encoder.encode([frame(b"a"), frame(b"b")]) + encoder.encode_close(Close(1000, "")))
    frames, rest = parse_frames(data, masked=False)
    assert [each.data for each in frames] == [b"a", b"b", b"\x03\xe8"]
    assert rest == b""
    assert not encoder.interrupted


@pytest.mark.parametrize(
    "sizes, compress, compresses, expected",
    [
        ([THREAD_SIZE - 1], True, True, False),
        ([THREAD_SIZE], True, True, True),
        ([THREAD_SIZE - 1, 1], True, True, True),
        ([THREAD_SIZE], False, True, False),
        ([THREAD_SIZE], True, False, False),
        ([], True, True, False),
    ],
)
async def test_large_messages_need_a_thread(sizes: list[int], compress: bool, compresses: bool, expected: bool) -> None:
    assert make(compresses=compresses).needs_thread([frame(bytes(size), compress) for size in sizes]) is expected


async def test_a_thread_encodes_the_same() -> None:
    data = await make().encode_in_thread([frame(b"a" * 1000), frame(b"b")])
    assert (
        parse_frames(b"".join(data), masked=False)[0]
        == parse_frames(b"".join(make().encode([frame(b"a" * 1000), frame(b"b")])), masked=False)[0]
    )


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
async def test_an_extension_fails_in_a_thread(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """A RuntimeError of the extension does not mean that there is no thread: the message is encoded only once."""
    calls = 0

    def fail(_protocol: Protocol, _frames: object) -> list[bytes]:
        nonlocal calls
        calls += 1
        raise error("the extension has failed")

    encoder = make()
    monkeypatch.setattr(Protocol, "encode_all", fail)
    with pytest.raises(EncodingFailed) as caught:
        await encoder.encode_in_thread([frame(b"a")])
    assert type(caught.value.__cause__) is error
    assert (calls, encoder.interrupted) == (1, True)


async def test_cancelled_while_a_thread_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make()
    with trio.CancelScope() as scope:
        scope.cancel()
        await encoder.encode_in_thread([frame(b"a")])
    assert scope.cancelled_caught
    assert encoder.interrupted
    encoder.free_memory()  # it leaves the compressor alone


async def test_messages_count_as_activity(mock_clock: trio.testing.MockClock) -> None:
    limits = ConnectionLimits(None, 10, None)
    encoder = make(limits)
    mock_clock.jump(5)
    encoder.encode([(FIN | Opcode.PONG, b"", False)])
    encoder.encode([])
    assert limits.deadline() == trio.current_time() + 5
    encoder.encode([(FIN | Opcode.PONG, b"", False), frame(b"a")])
    assert limits.deadline() == trio.current_time() + 10


def test_the_number_of_compressors() -> None:
    # The documentation promises at most this many compressors per run of Trio.
    assert encoding.MAX_COMPRESSORS == 32
