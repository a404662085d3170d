"""Streams with faults: ``FaultyStream``."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_ws
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectionClosedError,
)
from trio_ws.frames import Close
from trio_ws.testing import (
    Corrupt,
    Delay,
    Drop,
    Fault,
    FaultyStream,
    Reset,
    Role,
    Split,
    Stall,
    memory_websocket_pair,
)

from ..support import (
    URI,
    Faulty,
    attempt,
    cancelled,
    each_role,
    echo,
    memory_pair,
    pipe_pair,
)
from .streams import Way, at_every_point, cancel_at, each_moment, settle, with_faults

# -- A handshake that fails ------------------------------------------------------------------------------------------


each_way = pytest.mark.parametrize("way", ["sending", "receiving"])


# -- Faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Fault, Split, partial(Delay, seconds=1), Drop, Corrupt, Stall, Reset])
@pytest.mark.parametrize(
    "at, error", [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError), ("1", TypeError)]
)
def test_invalid_positions(kind: Callable[[Any], Fault], at: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        kind(at)
    assert kind(0).at == 0


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Delay(0, seconds=-1), ValueError),
        (lambda: Delay(0, seconds=math.nan), ValueError),
        (lambda: Delay(0, seconds="1"), TypeError),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Delay(0, seconds=None), TypeError),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Delay(0, seconds=True), TypeError),
        (lambda: Delay(0), TypeError),  # type: ignore[call-arg]  # wrong on purpose
        (lambda: Drop(0, count=-1), ValueError),
        (lambda: Drop(0, count=1.5), TypeError),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Drop(0, count=False), TypeError),
        (lambda: Corrupt(0, bits=0), ValueError),
        (lambda: Corrupt(0, bits=256), ValueError),
        (lambda: Corrupt(0, bits=None), TypeError),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Corrupt(0, bits=b"\xff"), TypeError),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_invalid_values(make: Callable[[], Fault], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_faults_are_values() -> None:
    assert Drop(1) == Drop(1, 1) != Drop(1, None)
    assert len({Split(1), Stall(1), Split(2)}) == 3
    assert Corrupt(2).bits == 0xFF
    assert Delay(3, 0.5).seconds == 0.5
    assert {Reset(1), Reset(1)} == {Reset(1)}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Reset(1).at = 2  # type: ignore[misc]  # wrong on purpose


@pytest.mark.parametrize("wrong", [Fault(0), 0, Reset, None])
@each_way
def test_invalid_faults(wrong: Any, way: Way) -> None:
    with pytest.raises(TypeError):
        with_faults(memory_pair()[0], way, [Split(0), wrong])
    with pytest.raises(TypeError):
        with_faults(memory_pair()[0], way, Split(0))  # type: ignore[arg-type]  # wrong on purpose


# -- A stream with faults --------------------------------------------------------------------------------------------


DIGITS = b"0123456789"


class RecordingStream(trio.abc.Stream):
    """A stream that records what is sent and returns prepared bytes."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.written: list[tuple[float, bytes]] = []
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError
        self.written.append((trio.current_time(), bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError
        return self.chunks.pop(0) if self.chunks else b""

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@attrs.define
class Transfer:
    """The result of sending or receiving bytes through a stream with faults.

    Attributes:
        chunks: The bytes as they were sent to the wrapped stream or received from the faulty one, with their times.
        ending: The exception, or the time at which the last byte was sent or the end received; None if it never ended.
    """

    chunks: list[tuple[float, bytes]]
    ending: float | type[Exception] | None
    below: RecordingStream

    @property
    def data(self) -> bytes:
        return b"".join(chunk for _, chunk in self.chunks)


async def transfer(way: Way, faults: Sequence[Fault], *chunks: bytes) -> Transfer:
    """Send or receive bytes through a stream with faults, for at most a minute."""
    start = trio.current_time()
    tape = RecordingStream() if way == "sending" else RecordingStream(*chunks)
    stream = with_faults(tape, way, faults)
    received: list[tuple[float, bytes]] = []
    ending: float | type[Exception] | None = None
    with trio.move_on_after(60):
        try:
            if way == "sending":
                for chunk in chunks:
                    await stream.send_all(chunk)
            else:
                while data := await stream.receive_some():
                    received.append((trio.current_time(), data))
            ending = trio.current_time() - start
        except Exception as exc:  # the tests check which exception it is
            ending = type(exc)
    return Transfer([(at - start, data) for at, data in (tape.written if way == "sending" else received)], ending, tape)


each_step = pytest.mark.parametrize("size", [10, 4, 1], ids=["at once", "in pieces", "bytes"])


def cut(size: int) -> list[bytes]:
    return [DIGITS[start : start + size] for start in range(0, len(DIGITS), size)]


@each_way
@each_step
@pytest.mark.parametrize(
    "faults, expected",
    [
        ([], DIGITS),
        ([Split(0)], DIGITS),
        ([Split(5)], DIGITS),
        ([Split(10)], DIGITS),
        ([Split(3), Split(6), Split(3)], DIGITS),
        ([Corrupt(0, bits=1)], b"1123456789"),
        ([Corrupt(5, bits=0x40)], b"01234u6789"),
        ([Corrupt(9)], b"012345678\xc6"),
        ([Corrupt(10)], DIGITS),
        ([Corrupt(2), Corrupt(2)], DIGITS),
        ([Corrupt(2, bits=1), Corrupt(3, bits=1), Corrupt(2, bits=2)], b"0112456789"),
        ([Drop(0)], b"123456789"),
        ([Drop(4, count=3)], b"0123789"),
        ([Drop(9)], b"012345678"),
        ([Drop(10)], DIGITS),
        ([Drop(8, count=5)], b"01234567"),
        ([Drop(3, count=0)], DIGITS),
        ([Drop(0, count=None)], b""),
        ([Drop(3, count=None)], b"012"),
        ([Drop(10, count=None)], DIGITS),
        # Positions count dropped bytes too.
        ([Drop(2, count=3), Drop(4, count=3)], b"01789"),
        ([Drop(2, count=5), Drop(3, count=1)], b"01789"),
        ([Drop(7), Drop(7), Drop(2)], b"01345689"),
        ([Drop(2, count=2), Corrupt(4, bits=1)], b"01556789"),
        ([Drop(2, count=2), Corrupt(2)], b"01456789"),
        ([Drop(2, count=4), Corrupt(3)], b"016789"),
        ([Corrupt(2), Drop(2)], b"013456789"),
        ([Drop(1, count=8), Split(5), Delay(6, seconds=1)], b"09"),
    ],
)
async def test_which_bytes_pass(
    way: Way, size: int, faults: list[Fault], expected: bytes, autojump_clock: MockClock
) -> None:
    passage = await transfer(way, faults, *cut(size))
    assert passage.data == expected
    assert isinstance(passage.ending, float)
    assert not passage.below.closed
    assert all(chunk for _, chunk in passage.chunks)


@each_way
@pytest.mark.parametrize(
    "faults, expected, end",
    [
        ([], [(0, DIGITS)], 0),
        ([Split(0)], [(0, DIGITS)], 0),
        ([Split(5)], [(0, b"01234"), (0, b"56789")], 0),
        ([Split(10)], [(0, DIGITS)], 0),
        ([Split(5), Split(5), Split(6)], [(0, b"01234"), (0, b"5"), (0, b"6789")], 0),
        ([Drop(4, count=2)], [(0, b"0123"), (0, b"6789")], 0),
        ([Corrupt(8)], [(0, b"01234567"), (0, b"\xc79")], 0),
        ([Delay(0, seconds=5)], [(5, DIGITS)], 5),
        ([Delay(0, seconds=0)], [(0, DIGITS)], 0),
        ([Delay(5, seconds=2)], [(0, b"01234"), (2, b"56789")], 2),
        ([Delay(5, seconds=1.5), Delay(5, seconds=2)], [(0, b"01234"), (3.5, b"56789")], 3.5),
        ([Delay(5, seconds=2), Delay(7, seconds=3)], [(0, b"01234"), (2, b"56"), (5, b"789")], 5),
        ([Drop(3, count=4), Delay(5, seconds=2)], [(0, b"012"), (2, b"789")], 2),
        ([Delay(11, seconds=2)], [(0, DIGITS)], 0),
    ],
)
async def test_when_bytes_pass(
    way: Way, faults: list[Fault], expected: list[tuple[float, bytes]], end: float, autojump_clock: MockClock
) -> None:
    passage = await transfer(way, faults, DIGITS)
    assert passage.chunks == expected
    assert passage.ending == end


async def test_a_delay_at_the_end(autojump_clock: MockClock) -> None:
    # No more bytes are sent, so nothing is delayed. The end is received late.
    passage = await transfer("sending", [Delay(10, seconds=3)], DIGITS)
    assert (passage.chunks, passage.ending) == ([(0, DIGITS)], 0)
    passage = await transfer("receiving", [Delay(10, seconds=3)], DIGITS)
    assert (passage.chunks, passage.ending) == ([(0, DIGITS)], 3)


@each_way
@each_step
@pytest.mark.parametrize("at", [0, 5, 9])
async def test_stall(way: Way, size: int, at: int, autojump_clock: MockClock) -> None:
    passage = await transfer(way, [Stall(at), Reset(at), Split(at)], *cut(size))
    assert passage.data == DIGITS[:at]
    assert passage.ending is None
    assert not passage.below.closed


async def test_a_stall_at_the_end(autojump_clock: MockClock) -> None:
    assert (await transfer("sending", [Stall(10)], DIGITS)).ending == 0
    passage = await transfer("receiving", [Stall(10)], DIGITS)
    assert (passage.data, passage.ending) == (DIGITS, None)


@each_way
@each_step
@pytest.mark.parametrize("at", [0, 5, 9])
@pytest.mark.parametrize("lost", [False, True])
async def test_reset(way: Way, size: int, at: int, lost: bool, autojump_clock: MockClock) -> None:
    faults: list[Fault] = [Reset(at), Drop(0, count=None)] if lost else [Reset(at), Split(3)]
    passage = await transfer(way, faults, *cut(size))
    assert passage.data == (b"" if lost else DIGITS[:at])
    assert passage.ending is trio.BrokenResourceError
    assert passage.below.closed


@pytest.mark.parametrize(
    "faults", [[Reset(10)], [Split(10), Reset(10)], [Drop(10), Reset(10)], [Split(10), Drop(10), Reset(10), Stall(10)]]
)
async def test_a_reset_at_the_end(faults: list[Fault], autojump_clock: MockClock) -> None:
    # Everything was sent, but no answer arrives.
    passage = await transfer("sending", faults, DIGITS)
    assert passage.ending == 0
    assert passage.below.closed
    passage = await transfer("receiving", faults, DIGITS)
    assert passage.ending is trio.BrokenResourceError


async def test_a_reset_after_a_delay(autojump_clock: MockClock) -> None:
    faults = [Delay(10, seconds=2), Reset(10)]
    passage = await transfer("sending", faults, DIGITS)
    assert (passage.ending, passage.below.closed) == (0, False)
    passage = await transfer("sending", faults, DIGITS, b"more")
    assert passage.ending is trio.BrokenResourceError
    assert passage.data == DIGITS
    assert trio.current_time() == 2


async def test_a_reset_is_seen_at_the_other_end(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(ours, sending=[Reset(5)])
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(DIGITS)
    assert await theirs.receive_some() == b"01234"
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"a")
    # From now on, this end sees it too.
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await stream.send_all(b"a")
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.wait_send_all_might_not_block()
    # It ends when the stream is closed.
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


# -- Waking waiting tasks --------------------------------------------------------------------------------------------


SLOW = [Stall(0), Delay(0, seconds=3600)]


@each_way
@pytest.mark.parametrize("fault", SLOW)
async def test_closing_wakes_waiting_tasks(way: Way, fault: Fault, autojump_clock: MockClock) -> None:
    tape = RecordingStream(DIGITS)
    stream = with_faults(tape, way, [fault])
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def use() -> None:
            with pytest.raises(trio.ClosedResourceError, match="closed"):
                await (stream.send_all(DIGITS) if way == "sending" else stream.receive_some())

        await settle()
        await stream.aclose()
    assert tape.closed
    assert tape.written == []
    assert trio.current_time() == 0


@pytest.mark.parametrize("fault", SLOW)
@pytest.mark.parametrize("at", [0, 10])
async def test_a_reset_while_sending_wakes_the_receiver(fault: Fault, at: int, autojump_clock: MockClock) -> None:
    for receiving in ([fault], []):
        ours, theirs = pipe_pair()
        stream = FaultyStream(ours, sending=[Reset(at)], receiving=receiving)
        if receiving:
            await theirs.send_all(b"a")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def use(stream: FaultyStream = stream) -> None:
                with pytest.raises(trio.BrokenResourceError, match="reset"):
                    await stream.receive_some()

            await settle()
            if at:
                await stream.send_all(DIGITS)
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(DIGITS)
        assert ours.closed
    assert trio.current_time() == 0


@pytest.mark.parametrize("fault", SLOW)
async def test_a_reset_while_receiving_wakes_the_sender(fault: Fault, autojump_clock: MockClock) -> None:
    for sending in ([fault], []):
        ours, theirs = pipe_pair(5)
        stream = FaultyStream(ours, sending=sending, receiving=[Reset(1)])
        await theirs.send_all(b"ab")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def use(stream: FaultyStream = stream) -> None:
                with pytest.raises(trio.BrokenResourceError, match="reset"):
                    await stream.send_all(DIGITS)

            await settle()
            assert await stream.receive_some() == b"a"
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    assert trio.current_time() == 0


async def test_nothing_is_received_after_closing(autojump_clock: MockClock) -> None:
    stream = FaultyStream(RecordingStream(DIGITS), receiving=[Split(5)])
    assert await stream.receive_some() == b"01234"
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


@pytest.mark.parametrize("fault", SLOW)
async def test_one_task_at_a_time(fault: Fault, autojump_clock: MockClock) -> None:
    stream = FaultyStream(RecordingStream(DIGITS), sending=[fault], receiving=[fault])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, DIGITS)
        nursery.start_soon(stream.receive_some)
        await settle()
        with pytest.raises(trio.BusyResourceError):
            await stream.send_all(b"a")
        with pytest.raises(trio.BusyResourceError):
            await stream.wait_send_all_might_not_block()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_some()
        nursery.cancel_scope.cancel()
    await stream.wait_send_all_might_not_block()


# -- Cancellation of a stream with faults ----------------------------------------------------------------------------


@each_moment
async def test_receive_some_is_cancelled(before: bool, autojump_clock: MockClock) -> None:
    faults = [Delay(0, seconds=1), Split(2), Corrupt(3, bits=1), Delay(5, seconds=2), Drop(6), Delay(10, seconds=1)]

    async def run(number: int) -> bool:
        ours, theirs = pipe_pair(4, step=3)
        stream = FaultyStream(theirs, receiving=faults)
        received: list[bytes] = []

        async def call() -> None:
            while not received or received[-1]:
                received.append(await stream.receive_some())

        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                await ours.send_all(DIGITS)
                await ours.send_eof()

            _, fired = await cancel_at(number, before, call)
            await call()
        assert b"".join(received) == b"012245789"
        assert trio.current_time() - start == 4
        return fired

    assert await at_every_point(run) > 15


async def test_a_cancelled_delay_continues(autojump_clock: MockClock) -> None:
    stream = FaultyStream(RecordingStream(DIGITS), receiving=[Delay(0, seconds=3)])
    for _ in range(5):
        with trio.move_on_after(0.5) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
    assert await stream.receive_some() == DIGITS
    assert trio.current_time() == 3


async def test_a_delay_begins_when_bytes_arrive(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(theirs, receiving=[Delay(0, seconds=3), Delay(10, seconds=4)])
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await trio.sleep(10)
            await ours.send_all(DIGITS)
            await trio.sleep(10)
            await ours.aclose()

        assert await stream.receive_some() == DIGITS
        assert trio.current_time() == 13
        assert await stream.receive_some() == b""
        assert trio.current_time() == 24


async def test_sending_is_cancelled_in_a_delay(autojump_clock: MockClock) -> None:
    tape = RecordingStream()
    stream = FaultyStream(tape, sending=[Delay(5, seconds=3)])
    with trio.move_on_after(1) as scope:
        await stream.send_all(DIGITS)
    assert scope.cancelled_caught
    assert tape.written == [(0, b"01234")]
    # Bytes that were not sent are not sent later.
    await stream.send_all(b"more")
    assert tape.written == [(0, b"01234"), (3, b"more")]


async def test_every_call_is_a_checkpoint(autojump_clock: MockClock) -> None:
    stream = FaultyStream(RecordingStream(DIGITS), sending=[Drop(0, count=None)], receiving=[Split(5)])
    calls: list[Callable[[], Awaitable[object]]] = [
        partial(stream.send_all, b"lost"),
        partial(stream.send_all, b""),
        stream.receive_some,
        stream.wait_send_all_might_not_block,
    ]
    for _ in range(2):
        for call in calls:
            assert await cancelled(call)
        for call in calls:
            with trio.testing.assert_checkpoints():
                await call()
    assert await cancelled(stream.aclose)


# -- Conformance -----------------------------------------------------------------------------------------------------


async def faulty_memory() -> tuple[FaultyStream, FaultyStream]:
    ours, theirs = memory_pair()
    return FaultyStream(ours), FaultyStream(theirs)


async def faulty_lockstep() -> tuple[FaultyStream, FaultyStream]:
    ours, theirs = trio.testing.lockstep_stream_pair()
    return FaultyStream(ours), FaultyStream(theirs)


async def with_splits() -> tuple[FaultyStream, FaultyStream]:
    # Faults at the end of the stream wait for the end, and bytes sent one at a time are split already.
    ours, theirs = memory_pair()
    splits = [Split(place) for place in range(1000)]
    return FaultyStream(ours, sending=splits, receiving=splits), FaultyStream(theirs, sending=splits)


@pytest.mark.parametrize(
    "make, clogged", [(faulty_memory, None), (faulty_lockstep, faulty_lockstep), (with_splits, None)]
)
async def test_stream_conformance(make: Any, clogged: Any) -> None:
    await trio.testing.check_two_way_stream(make, clogged)


async def test_not_half_closeable() -> None:
    stream = FaultyStream(pipe_pair()[0])
    assert not isinstance(stream, trio.abc.HalfCloseableStream)
    assert isinstance(stream.stream, trio.abc.HalfCloseableStream)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_all_bytes_like_types(kind: Callable[[bytes], Any]) -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(ours, sending=[Corrupt(1, bits=1)])
    await stream.send_all(kind(b"000"))
    received = await FaultyStream(theirs).receive_some()
    assert type(received) is bytes
    assert received == b"010"


async def test_max_bytes() -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(theirs, receiving=[Split(5)])
    await ours.send_all(DIGITS)
    assert [await stream.receive_some(size) for size in (3, 3, 1, 4)] == [b"012", b"34", b"5", b"6789"]
    stream = FaultyStream(theirs, receiving=[Split(5)])
    await ours.send_all(DIGITS)
    assert await stream.receive_some() == b"01234"
    for wrong in (0, -1):
        with pytest.raises(ValueError):
            await stream.receive_some(wrong)
    assert [await stream.receive_some(size) for size in (3, 3)] == [b"567", b"89"]


async def test_errors_of_the_wrapped_stream() -> None:
    ours, _ = pipe_pair()
    stream = FaultyStream(ours)
    ours.reset()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"a")
    await ours.aclose()  # without going through the faulty stream
    with pytest.raises(trio.ClosedResourceError, match="this stream was closed"):
        await stream.receive_some()
    stream = FaultyStream(Faulty(memory_pair()[0], send_error=OSError("odd"), receive_error=OSError("odd")))
    with pytest.raises(OSError, match="odd"):
        await stream.send_all(b"a")
    with pytest.raises(OSError, match="odd"):
        await stream.receive_some()


# -- Below a connection ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def echo_over(ours: trio.abc.Stream, theirs: trio.abc.Stream, **options: Any) -> AsyncIterator[WebSocket]:
    """Open a connection with an echo server over these streams."""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, echo, **options))
        async with trio_ws.connect_over(ours, URI, **options) as ws:
            yield ws


async def test_a_connection_byte_by_byte(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    splits = [Split(place) for place in range(2000)]
    ends = [FaultyStream(each, sending=splits, receiving=splits) for each in (ours, theirs)]
    async with echo_over(*ends) as ws:
        for message in ("a", b"b" * 500, "é" * 100):
            await ws.send(message)
            assert await ws.receive() == message
    assert ws.close_code == 1000


@pytest.mark.parametrize("end", [0, 1])
@each_way
async def test_a_slow_connection(end: int, way: Way, autojump_clock: MockClock) -> None:
    ends: list[trio.abc.Stream] = list(memory_pair())
    ends[end] = with_faults(ends[end], way, [Delay(place, seconds=0.1) for place in range(20)])
    async with echo_over(*ends) as ws:
        assert trio.current_time() == pytest.approx(2)
        await ws.send("a")
        assert await ws.receive() == "a"
    assert ws.close_code == 1000


@each_role
@each_way
async def test_a_connection_that_is_reset(role: Role, way: Way, autojump_clock: MockClock) -> None:
    streams: list[trio.abc.Stream] = list(memory_pair())
    # In the second message.
    streams[role is Role.SERVER] = with_faults(streams[role is Role.SERVER], way, [Reset(20)])
    async with memory_websocket_pair((streams[0], streams[1])) as (client, server):
        for here, there in ((client, server), (server, client)):
            if (here is client) is ((role is Role.CLIENT) is (way == "sending")):
                await here.send(b"0123456789")
                assert await there.receive() == b"0123456789"
                await here.send(b"0123456789")
                for ws in (client, server):
                    with pytest.raises(ConnectionClosedError):
                        await ws.receive()
                    assert ws.close_code == 1006
    assert trio.current_time() <= 1


@each_role
@each_way
async def test_a_connection_that_stalls(role: Role, way: Way, autojump_clock: MockClock) -> None:
    streams: list[trio.abc.Stream] = list(memory_pair())
    streams[role is Role.SERVER] = with_faults(streams[role is Role.SERVER], way, [Stall(0)])
    options: trio_ws.Options = {"ping_interval": 20, "ping_timeout": 10, "close_timeout": 3}
    async with memory_websocket_pair((streams[0], streams[1]), **options) as (client, server):
        # Pings pass in one direction only, so both ends detect the failure.
        for ws in (client, server):
            with pytest.raises(ConnectionClosedError):
                await ws.receive()
    assert 30 <= trio.current_time() < 35


async def test_a_connection_with_a_corrupt_byte(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    async with memory_websocket_pair((FaultyStream(ours, receiving=[Corrupt(2, bits=0x80)]), theirs)) as (
        client,
        server,
    ):
        await server.send("text", compress=False)
        with pytest.raises(ConnectionClosedError) as raised:
            await client.receive()
        assert raised.value.sent is not None
        assert raised.value.sent.code == 1007


async def test_a_connection_that_stops_receiving(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    pair = memory_websocket_pair((ours, FaultyStream(theirs, sending=[Drop(0, count=None)])), ping_timeout=5)
    async with pair as (client, server):
        assert await attempt(partial(client.send, "a")) == [None]
        assert await server.receive() == "a"
        with pytest.raises(ConnectionClosedError) as raised:
            await client.receive()
        assert raised.value.sent == Close(1011, "keepalive ping timeout")
    assert trio.current_time() == pytest.approx(25, abs=1)
