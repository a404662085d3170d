"""Tests of ByteStream: Trio's own conformance checks, bytes, text messages, and each kind of end."""

from __future__ import annotations

import array
import random
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import ByteStream
from trio_ws.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import Role
from trio_ws.protocol.codec import serialize
from trio_ws.protocol.deflate import Deflate, PerMessageDeflate
from trio_ws.settings import MIB

from ..support import (
    KEY,
    PAIRS,
    URI,
    Faulty,
    Streams,
    attempt,
    binary,
    both,
    close,
    cont,
    each_role,
    echo,
    lockstep_pair,
    memory_pair,
    opened,
    peak_memory,
    ping,
    pipe_pair,
    settle_and_cancel,
    split_frames,
    text,
    tls_pair,
)

settle = wait_all_tasks_blocked

Call = Callable[[], Awaitable[object]]
ByteStreams = tuple[trio.abc.Stream, trio.abc.Stream]

each_pair = pytest.mark.parametrize("kind", PAIRS)


async def receive_all(stream: trio.abc.Stream, max_bytes: int | None = None) -> bytes:
    received = bytearray()
    while data := await stream.receive_some(max_bytes):
        received += data
    return bytes(received)


async def receive_exactly(stream: trio.abc.Stream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = await stream.receive_some(size - len(received))
        assert data
        received += data
    return received


def calls_of(stream: ByteStream) -> list[Call]:
    return [
        stream.receive_some,
        partial(stream.receive_some, 1),
        partial(stream.send_all, b"x"),
        stream.wait_send_all_might_not_block,
    ]


def calls_of_closed(stream: ByteStream) -> list[Call]:
    return [*calls_of(stream), partial(stream.send_all, b"")]


# -- Trio's own checks -----------------------------------------------------------------------------------------------


class Maker:
    """Makes byte streams over WebSockets, which live until the end of the test.

    Args:
        nursery: Where they live.
        make_streams: Makes what is below.
        **options: Of the WebSockets.
    """

    def __init__(self, nursery: trio.Nursery, make_streams: Callable[[], Streams], **options: Any) -> None:
        self._nursery = nursery
        self._make_streams = make_streams
        self._options = options

    async def _hold(self, *, task_status: trio.TaskStatus[ByteStreams]) -> None:
        async with both(self._make_streams(), **self._options) as (client, server):
            task_status.started((ByteStream(client), ByteStream(server)))
            await trio.sleep_forever()

    async def make(self) -> ByteStreams:
        streams: ByteStreams = await self._nursery.start(self._hold)
        return streams

    async def make_clogged(self) -> ByteStreams:
        """Make streams that wait before they send another byte, until the other end has received something."""
        streams = await self.make()
        for stream in streams:
            with trio.CancelScope() as scope:
                self._nursery.start_soon(settle_and_cancel, scope)
                while True:
                    await stream.send_all(b"x")
        return streams


def narrow_pair() -> Streams:
    return pipe_pair(10)


@pytest.mark.parametrize(
    "make_streams, make_narrow, buffer",
    [
        (memory_pair, lockstep_pair, 0),
        (lockstep_pair, lockstep_pair, 4096),
        (pipe_pair, narrow_pair, 0),
        (tls_pair, narrow_pair, 4096),
    ],
)
async def test_conformance(
    make_streams: Callable[[], Streams],
    make_narrow: Callable[[], Streams],
    buffer: int,
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        options: dict[str, Any] = {"send_buffer": buffer, "receive_buffer": buffer}
        maker = Maker(nursery, make_streams, **options)
        # Filling a stream with large or unlimited buffers would take too long.
        narrow = Maker(nursery, make_narrow, **options)
        await trio.testing.check_two_way_stream(maker.make, narrow.make_clogged)
        nursery.cancel_scope.cancel()


async def test_there_is_no_half_closing() -> None:
    async with both() as (client, _):
        assert not isinstance(ByteStream(client), trio.abc.HalfCloseableStream)


# -- Bytes -----------------------------------------------------------------------------------------------------------


@given(
    sent=st.lists(st.binary(max_size=40), max_size=8),
    kinds=st.lists(st.sampled_from([bytes, bytearray, memoryview]), min_size=8, max_size=8),
    message_size=st.integers(1, 50),
    sizes=st.lists(st.none() | st.integers(1, 50), min_size=1, max_size=8),
    buffer=st.sampled_from([0, 100, 65536]),
)
async def test_bytes_come_out_as_they_went_in(
    sent: list[bytes], kinds: list[type], message_size: int, sizes: list[int | None], buffer: int
) -> None:
    whole = b"".join(sent)

    async def send(stream: ByteStream) -> None:
        for data, kind in zip(sent, kinds, strict=False):
            await stream.send_all(kind(data))

    async def receive(stream: ByteStream) -> None:
        received = b""
        count = 0
        while len(received) < len(whole):
            size = sizes[count % len(sizes)]
            data = await stream.receive_some(size)
            assert type(data) is bytes
            assert 1 <= len(data) <= (size or len(whole))
            received += data
            count += 1
        assert received == whole
        assert await attempt(stream.receive_some) == []

    async with both(send_buffer=buffer, receive_buffer=buffer) as websockets:
        streams = [ByteStream(ws, message_size=message_size) for ws in websockets]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(send, stream)
            # One after the other, because attempt() waits until all tasks are blocked.
            for stream in streams:
                await receive(stream)


@given(
    messages=st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=6),
    ending=st.sampled_from([close(), close(1001), Frame(Opcode.CLOSE, b"")]),
    cuts=st.lists(st.integers(1, 30), max_size=20),
    max_bytes=st.none() | st.integers(1, 30),
    role=st.sampled_from(Role),
)
async def test_payloads_come_out_whatever_the_frames(
    messages: list[list[bytes]], ending: Frame, cuts: list[int], max_bytes: int | None, role: Role
) -> None:
    frames = []
    for parts in messages:
        last = len(parts) - 1
        for number, part in enumerate(parts):
            frames += [Frame(Opcode.CONT if number else Opcode.BINARY, part, number == last), ping()]
    ours, theirs = pipe_pair()
    async with opened(role, (ours, theirs)) as (ws, _):
        stream = ByteStream(ws)

        async def send() -> None:
            key = KEY if role is Role.SERVER else None
            data = b"".join(serialize(frame, key) for frame in [*frames, ending])
            for cut in [*cuts, len(data)]:
                if data:
                    await theirs.send_all(data[:cut])
                    data = data[cut:]
                    await settle()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await receive_all(stream, max_bytes) == b"".join(part for parts in messages for part in parts)


@each_role
async def test_parts_are_received_as_they_come(role: Role) -> None:
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        for frame in (binary(b"a", fin=False), cont(b"b"), cont(b"", fin=False), cont(b"c", fin=True), binary(b"d")):
            await peer.send(frame)
            if frame.data:
                assert await stream.receive_some() == frame.data
        # A frame is passed on, too, before all of it has arrived.
        await peer.stream.send_all(binary_head(role, 1000) + b"e" * 10)
        assert await stream.receive_some() == b"e" * 10


def binary_head(role: Role, size: int) -> bytes:
    """Return the header of a frame from the peer of this end, with a masking key of zeros for a client."""
    mask = role is Role.SERVER
    return bytes([0x82, (0x80 if mask else 0) | 126]) + size.to_bytes(2, "big") + (bytes(4) if mask else b"")


@pytest.mark.parametrize("max_bytes", [1, 3, 4, 10])
async def test_at_most_so_many_bytes_are_received(max_bytes: int) -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abcdefg"), binary(b"h"))
        received = b""
        while len(received) < 8:
            data = await stream.receive_some(max_bytes)
            # All bytes of one message that have arrived.
            assert len(data) == min(max_bytes, (7 if len(received) < 7 else 8) - len(received))
            received += data
        assert received == b"abcdefgh"


async def test_the_rest_of_a_part_is_received_without_a_limit() -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abcdefg"))
        assert await stream.receive_some(2) == b"ab"
        assert await stream.receive_some() == b"cdefg"


async def test_taking_a_large_part_byte_by_byte_copies_nothing() -> None:
    async with opened(receive_buffer=2 * MIB) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(bytes(MIB)))
        await settle()
        assert len(await stream.receive_some(MIB // 2)) == MIB // 2

        async def take() -> None:
            for _ in range(10):
                assert len(await stream.receive_some(1)) == 1

        assert await peak_memory(take) < 10_000


async def test_iteration() -> None:
    async with both() as (client, server):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                async with ByteStream(client) as stream:
                    for data in (b"a", b"bc"):
                        await stream.send_all(data)

            assert [data async for data in ByteStream(server)] == [b"a", b"bc"]


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"abc", b"abc"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abc"), b"abc"),
        (memoryview(b"abcdef")[::2], b"ace"),
        (memoryview(array.array("H", [1, 2])), array.array("H", [1, 2]).tobytes()),
        (memoryview(array.array("H", [1, 2, 3, 4]))[::2], array.array("H", [1, 3]).tobytes()),
        (array.array("H", [1, 2]), array.array("H", [1, 2]).tobytes()),
    ],
    ids=["bytes", "bytearray", "memoryview", "with gaps", "of numbers", "of numbers with gaps", "array"],
)
async def test_what_can_be_sent(data: Any, expected: bytes) -> None:
    async with opened() as (ws, peer):
        await ByteStream(ws).send_all(data)
        await ByteStream(ws, message_size=1).send_all(data)
        assert await peer.receive() == binary(expected)
        for byte in expected:
            assert await peer.receive() == binary(bytes([byte]))


@pytest.mark.parametrize("data", ["abc", None, 3, [1, 2], [b"a"]], ids=str)
async def test_what_cannot_be_sent(data: Any) -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        with pytest.raises(TypeError):
            await stream.send_all(data)
        await stream.send_all(b"abc")
        assert await peer.receive() == binary(b"abc")


async def test_data_can_be_changed_when_they_are_sent() -> None:
    async with opened() as (ws, peer):
        data = bytearray(b"abcdef")
        await ByteStream(ws).send_all(data)
        await ByteStream(ws, message_size=4).send_all(data)
        data[:] = b"changed"
        assert [await peer.receive() for _ in range(3)] == [binary(b"abcdef"), binary(b"abcd"), binary(b"ef")]


async def test_messages_have_a_bounded_size() -> None:
    data = random.Random(1).randbytes(150_000)
    async with opened(streams=pipe_pair(10**6)) as (ws, peer):
        await ByteStream(ws).send_all(data)
        frames = [await peer.receive() for _ in range(3)]
        assert frames == [binary(data[:65536]), binary(data[65536:131072]), binary(data[131072:])]
        # No bytes are no message.
        await ByteStream(ws).send_all(b"")
        await ByteStream(ws, message_size=3).send_all(b"abcdefg")
        assert [await peer.receive() for _ in range(3)] == [binary(b"abc"), binary(b"def"), binary(b"g")]


async def test_a_peer_with_the_default_limit_takes_everything() -> None:
    data = random.Random(1).randbytes(3 * MIB)
    async with both() as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ByteStream(client).send_all, data)
            assert await receive_exactly(ByteStream(server), len(data)) == data


@pytest.mark.parametrize("compress", [True, False])
@each_role
async def test_compression(compress: bool, role: Role) -> None:
    deflate = PerMessageDeflate(Deflate(min_size=0), send_bits=15, receive_bits=15)
    ours, theirs = pipe_pair(logged=True)
    async with opened(role, (ours, theirs), [deflate]) as (ws, _):
        await ByteStream(ws, compress=compress).send_all(b"x" * 100)
        await settle()
        assert ours.outgoing.log is not None
        ((first, payload),), rest = split_frames(bytes(ours.outgoing.log), masked=role is Role.CLIENT)
        assert not rest
        assert (first, len(payload) < 100) == ((0xC2, True) if compress else (0x82, False))


@each_pair
async def test_much_both_ways_at_once(kind: str, autojump_clock: MockClock) -> None:
    size = 200 if kind == "one byte" else 3 * MIB
    there, back = (random.Random(seed).randbytes(size) for seed in range(2))

    async def send(stream: ByteStream, data: bytes) -> None:
        await stream.send_all(data)

    async def receive(stream: ByteStream, data: bytes) -> None:
        assert await receive_exactly(stream, size) == data

    async with both(PAIRS[kind]()) as (client, server):
        ours, theirs = ByteStream(client), ByteStream(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, ours, there)
            nursery.start_soon(send, theirs, back)
            nursery.start_soon(receive, ours, back)
            nursery.start_soon(receive, theirs, there)


@each_role
async def test_a_message_of_any_size_takes_little_memory(role: Role, autojump_clock: MockClock) -> None:
    count, size = 64, 512 * 1024

    async with opened(role, lockstep_pair(), max_message_size=None) as (ws, peer):
        stream = ByteStream(ws)
        part = bytes(size)
        # Prepared in advance, because masking may take several times as much memory.
        key = KEY if role is Role.SERVER else None
        frames = [Frame(Opcode.BINARY, part, False), Frame(Opcode.CONT, part, False), Frame(Opcode.CONT, part)]
        first, middle, last = (serialize(frame, key) for frame in frames)

        async def send() -> None:
            for data in (first, *[middle] * (count - 2), last):
                await peer.send(data)

        async def receive() -> None:
            left = count * size
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while left:
                    left -= len(await stream.receive_some())

        # The frame that is being sent, with its copies, and a few reads.
        assert await peak_memory(receive) < 4 * size


async def test_an_empty_stream_keeps_nothing() -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(bytes(MIB)), binary(b"x"))
        await settle()
        tracemalloc.start()
        try:
            await receive_exactly(stream, MIB)
            assert await stream.receive_some(1) == b"x"
            assert tracemalloc.get_traced_memory()[0] < 100_000
        finally:
            tracemalloc.stop()


# -- Waiting for room ------------------------------------------------------------------------------------------------


async def test_waiting_until_sending_might_not_block() -> None:
    async with opened(streams=pipe_pair(10), send_buffer=0) as (ws, peer):
        stream = ByteStream(ws)
        assert await attempt(stream.wait_send_all_might_not_block) == [None]
        await stream.send_all(bytes(100))
        assert await attempt(stream.wait_send_all_might_not_block) == []
        assert await attempt(partial(stream.send_all, b"x")) == []
        assert await peer.receive() == binary(bytes(100))
        await settle()
        assert await attempt(stream.wait_send_all_might_not_block) == [None]
        # Waiting sends nothing.
        await stream.send_all(b"x")
        assert await peer.receive() == binary(b"x")


async def test_waiting_does_not_return_late() -> None:
    async with opened(streams=pipe_pair(10), send_buffer=2000) as (ws, _):
        stream = ByteStream(ws)
        sent = 0
        while True:
            ready = await attempt(stream.wait_send_all_might_not_block) == [None]
            if not await attempt(partial(stream.send_all, b"x")):
                break
            assert ready
            sent += 1
        assert sent > 10


# -- The end ---------------------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize("ending", [close(), close(1001, "bye"), Frame(Opcode.CLOSE, b"")], ids=str)
async def test_closed_normally_by_the_peer(role: Role, ending: Frame, autojump_clock: MockClock) -> None:
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abc"), ending)
        assert await stream.receive_some(2) == b"ab"
        assert await stream.receive_some(2) == b"c"
        for _ in range(3):
            assert await stream.receive_some() == b""
        # Sending raises, because the peer has closed.
        for call in (partial(stream.send_all, b"x"), stream.wait_send_all_might_not_block):
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError) as raised:
                    await call()
                assert isinstance(raised.value, ConnectionClosedError)
                assert raised.value.rcvd == Close.parse(ending.data)
                assert raised.value.rcvd_then_sent is True
        assert await peer.receive() == ending


async def test_what_comes_before_the_end_can_be_answered(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"question"), close())
        assert await stream.receive_some() == b"question"
        await stream.send_all(b"answer")
        assert await stream.receive_some() == b""
        assert [await peer.receive(), await peer.receive()] == [binary(b"answer"), close()]


@each_role
async def test_the_end_is_the_end_though_our_answer_is_lost(role: Role, autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    faulty = Faulty(ours)
    async with opened(role, (faulty, theirs)) as (ws, peer):
        stream = ByteStream(ws)
        faulty.send_error = trio.BrokenResourceError()
        await peer.send(binary(b"abc"), close())
        assert await receive_all(stream) == b"abc"
        assert await stream.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


@each_role
async def test_the_end_is_the_end_though_our_answer_waits(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, pipe_pair(10)) as (ws, peer):
        stream = ByteStream(ws)
        await stream.send_all(bytes(1000))
        await peer.send(binary(b"a"), close())
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def go() -> None:
                await settle()
                await peer.stream.aclose()

            assert await receive_all(stream) == b"a"
        with pytest.raises(ConnectionClosedError) as raised:
            await stream.send_all(b"x")
        assert (raised.value.rcvd, raised.value.sent) == (Close(1000, ""), None)


@each_role
@pytest.mark.parametrize("ours, theirs", [(1000, 4000), (4000, 1000), (1011, 1001)])
async def test_both_close_and_one_says_that_something_is_wrong(
    role: Role, ours: int, theirs: int, autojump_clock: MockClock
) -> None:
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await ws.send_close(ours)
        await peer.send(binary(b"abc"), close(theirs))
        await peer.stream.aclose()
        assert await stream.receive_some() == b"abc"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError) as raised:
                await stream.receive_some()
            assert isinstance(raised.value, ConnectionClosedError)
            assert raised.value.rcvd == Close(theirs, "")


@each_role
@pytest.mark.parametrize("code", [1002, 1008, 1011, 4000])
async def test_closed_by_the_peer_because_something_is_wrong(role: Role, code: int, autojump_clock: MockClock) -> None:
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abc"), close(code, "why"))
        # Bytes that arrived before are received.
        assert await stream.receive_some() == b"abc"
        for call in calls_of(stream):
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError) as raised:
                    await call()
                assert isinstance(raised.value, ConnectionClosedError)
                assert raised.value.rcvd == Close(code, "why")


@each_role
async def test_closed_by_the_peer_in_the_middle_of_a_message(role: Role, autojump_clock: MockClock) -> None:
    # The peer has not sent the whole message that it began.
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abc", fin=False), close())
        assert await stream.receive_some() == b"abc"
        for _ in range(3):
            with pytest.raises(trio.BrokenResourceError) as raised:
                await stream.receive_some()
            assert isinstance(raised.value, ConnectionClosedError)
            assert raised.value.rcvd == Close(1000, "")


@each_role
@pytest.mark.parametrize("fin", [True, False])
async def test_lost(role: Role, fin: bool, autojump_clock: MockClock) -> None:
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abc", fin=fin))
        await peer.stream.aclose()
        assert await stream.receive_some() == b"abc"
        for call in calls_of(stream):
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError) as raised:
                    await call()
                assert isinstance(raised.value, ConnectionClosedError)
                assert raised.value.rcvd is None


@each_role
@pytest.mark.parametrize("waiting", ["send_all", "wait_send_all_might_not_block", "receive_some"])
@pytest.mark.parametrize("how", ["closed", "lost"])
async def test_the_peer_goes_while_a_call_waits(role: Role, waiting: str, how: str, autojump_clock: MockClock) -> None:
    async with opened(role, pipe_pair(100), send_buffer=0) as (ws, peer):
        stream = ByteStream(ws)
        await stream.send_all(bytes(1000))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                if waiting == "receive_some" and how == "closed":
                    assert await stream.receive_some() == b""
                    return
                calls: dict[str, Call] = {
                    "send_all": partial(stream.send_all, b"x"),
                    "wait_send_all_might_not_block": stream.wait_send_all_might_not_block,
                    "receive_some": stream.receive_some,
                }
                with pytest.raises(trio.BrokenResourceError):
                    await calls[waiting]()

            await settle()
            if how == "closed":
                await peer.send(close())
                await peer.behave()
            else:
                await peer.stream.aclose()


# -- Text ------------------------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize(
    "frames",
    [[text("abc")], [text("")], [text("a", fin=False), ping(), cont(b"b", fin=True)], [text("a", fin=False)]],
    ids=["whole", "empty", "fragments", "incomplete"],
)
async def test_text_fails_the_connection(role: Role, frames: list[Frame], autojump_clock: MockClock) -> None:
    expected = close(1003, "only binary messages are accepted")
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abc"), *frames)
        assert await stream.receive_some() == b"abc"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.behave)
            for call in calls_of(stream) * 2:
                with pytest.raises(trio.BrokenResourceError) as raised:
                    await call()
                assert isinstance(raised.value, ConnectionClosedError)
                assert raised.value.sent == Close.parse(expected.data)


@each_role
async def test_nothing_is_received_after_text(role: Role, autojump_clock: MockClock) -> None:
    # This is more than the inbox holds. The answer to our Close frame follows it, and must not take longer than needed.
    async with opened(role, pipe_pair(100), receive_buffer=0) as (ws, peer):
        stream = ByteStream(ws)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk() -> None:
                await peer.send(text("a"), *[binary(b"b" * 50)] * 10, text("c"), *[binary(b"d")] * 10)
                await peer.behave()

            for _ in range(2):
                with pytest.raises(ConnectionClosedError) as raised:
                    await stream.receive_some()
                assert raised.value.rcvd == raised.value.sent
        assert trio.current_time() == 0


@each_role
async def test_text_before_a_normal_end(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(text("a"), binary(b"b"), close())
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_text_after_this_end_has_closed_its_direction(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await ws.send_close()
        await peer.send(binary(b"last"), text("a"), close())
        assert await stream.receive_some() == b"last"
        await peer.stream.aclose()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_a_peer_that_sends_text_and_does_not_close(autojump_clock: MockClock) -> None:
    async with opened(close_timeout=3) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(text("a"))
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert 3 <= trio.current_time() <= 3.3


async def test_a_handler_that_gets_text_is_not_to_blame(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = memory_pair()

    async def handler(ws: trio_ws.WebSocket) -> None:
        await ByteStream(ws).receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, theirs, handler)
        async with trio_ws.connect_over(ours, URI) as ws:
            await ws.send("text")
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.receive()
            assert raised.value.rcvd == Close(1003, "only binary messages are accepted")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- Closing ---------------------------------------------------------------------------------------------------------


async def close_stream(stream: ByteStream) -> None:
    await stream.aclose()


async def close_websocket(stream: ByteStream) -> None:
    await stream.ws.aclose(4000)


async def close_forcefully(stream: ByteStream) -> None:
    await trio.aclose_forcefully(stream)


each_closing = pytest.mark.parametrize("aclose", [close_stream, close_websocket, close_forcefully])


@each_role
@each_closing
async def test_closed_by_this_end(
    role: Role, aclose: Callable[[ByteStream], Awaitable[None]], autojump_clock: MockClock
) -> None:
    async with opened(role) as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"abc"), binary(b"def"), binary(b"ghi", fin=False))
        await settle()
        # The rest of the first message is dropped, too.
        assert await stream.receive_some(1) == b"a"
        await stream.send_all(b"sent")
        async with trio.open_nursery() as nursery:
            await aclose(stream)
            frames = await peer.behave()
            nursery.cancel_scope.cancel()
        assert frames == [binary(b"sent"), close(4000 if aclose is close_websocket else 1000)]
        for call in calls_of_closed(stream) * 2:
            with pytest.raises(trio.ClosedResourceError) as raised:
                await call()
            assert isinstance(raised.value, ConnectionClosedLocally)
        # Closing again does nothing.
        for _ in range(2):
            await aclose(stream)


async def test_closed_after_the_end(autojump_clock: MockClock) -> None:
    async with both() as (client, server):
        ours, theirs = ByteStream(client), ByteStream(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.aclose)
            assert await ours.receive_some() == b""
        await ours.aclose()
        for call in calls_of_closed(ours):
            with pytest.raises(trio.ClosedResourceError):
                await call()


async def test_closed_by_leaving_the_websocket(autojump_clock: MockClock) -> None:
    async with both() as (client, server):
        stream = ByteStream(client)
        await server.send(b"abc")
        assert await stream.receive_some(1) == b"a"
    for call in calls_of_closed(stream):
        with pytest.raises(trio.ClosedResourceError):
            await call()


@each_role
@each_closing
@pytest.mark.parametrize("waiting", range(4))
async def test_closed_while_a_call_waits(
    role: Role, aclose: Callable[[ByteStream], Awaitable[None]], waiting: int, autojump_clock: MockClock
) -> None:
    async with opened(role, pipe_pair(10), send_buffer=0) as (ws, peer):
        stream = ByteStream(ws)
        await stream.send_all(bytes(100))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await calls_of(stream)[waiting]()

            await settle()
            nursery.start_soon(aclose, stream)
            await settle()
            await peer.behave()
        assert trio.current_time() <= 0.2


async def test_what_was_sent_goes_out_before_the_end(autojump_clock: MockClock) -> None:
    data = random.Random(1).randbytes(300_000)
    async with both(pipe_pair(1000)) as (client, server):
        ours, theirs = ByteStream(client), ByteStream(server)

        async def send() -> None:
            async with ours:
                await ours.send_all(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await receive_all(theirs) == data


async def test_what_the_peer_sends_can_be_received_after_send_close(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await ws.send_close()
        await peer.send(binary(b"last"), binary(b"words"), close())
        await peer.stream.aclose()
        assert await receive_all(stream) == b"lastwords"
        assert await stream.receive_some() == b""


# -- Usage -----------------------------------------------------------------------------------------------------------


async def test_one_task_at_a_time() -> None:
    async with opened(streams=pipe_pair(10), send_buffer=0) as (ws, peer):
        stream = ByteStream(ws)
        await stream.send_all(bytes(100))
        sending: list[Call] = [partial(stream.send_all, b"x"), stream.wait_send_all_might_not_block]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await settle()
            for _ in range(2):
                with pytest.raises(trio.BusyResourceError):
                    await stream.receive_some(1)
            for first in sending:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as senders:
                        senders.start_soon(first)
                        await settle()
                        for second in sending:
                            with pytest.raises(trio.BusyResourceError):
                                await second()
                        scope.cancel()
            # The refused calls have done no harm.
            assert await peer.receive() == binary(bytes(100))
            await stream.send_all(b"x")
            assert await peer.receive() == binary(b"x")
            await peer.send(binary(b"y"))


@pytest.mark.parametrize("max_bytes", [0, -1])
async def test_max_bytes_out_of_range(max_bytes: int) -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"x"))
        with pytest.raises(ValueError):
            await stream.receive_some(max_bytes)
        assert await stream.receive_some() == b"x"


@pytest.mark.parametrize("max_bytes", [1.5, "1", b"1"])
async def test_max_bytes_that_are_no_number(max_bytes: Any) -> None:
    async with opened() as (ws, peer):
        stream = ByteStream(ws)
        await peer.send(binary(b"x"))
        with pytest.raises(TypeError):
            await stream.receive_some(max_bytes)
        assert await stream.receive_some() == b"x"


async def test_message_size_out_of_range() -> None:
    async with opened() as (ws, _):
        for size in (0, -1):
            with pytest.raises(ValueError):
                ByteStream(ws, message_size=size)
        for wrong in (1.5, None, "1"):
            with pytest.raises(TypeError):
                ByteStream(ws, message_size=wrong)  # type: ignore[arg-type]  # that is what is tested


async def test_messages_first_and_bytes_then() -> None:
    async with both() as (client, server):
        await client.send("switch to bytes")
        assert await server.receive() == "switch to bytes"
        await server.send("yes")
        assert await client.receive() == "yes"
        await ByteStream(client).send_all(b"bytes")
        assert await ByteStream(server).receive_some() == b"bytes"


async def test_repr() -> None:
    async with both() as (client, _):
        stream = ByteStream(client)
        assert stream.ws is client
        assert repr(stream) == f"<ByteStream over {client!r}>"


async def exchange(ours: trio.abc.Stream, theirs: trio.abc.Stream) -> None:
    """Send much in both directions, and close."""
    data = random.Random(1).randbytes(300_000)

    async def send(stream: trio.abc.Stream) -> None:
        await stream.send_all(data)

    async def receive(stream: trio.abc.Stream) -> None:
        assert await receive_exactly(stream, len(data)) == data

    async with trio.open_nursery() as nursery:
        for stream in (ours, theirs):
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.aclose)
        assert await receive_all(theirs) == b""
        await theirs.aclose()


@each_pair
async def test_tls_within(kind: str, autojump_clock: MockClock) -> None:
    if kind == "one byte":
        kind = "pipe"  # a TLS handshake inside a WebSocket would need thousands of steps
    async with both(PAIRS[kind]()) as (client, server):
        ours, theirs = tls_pair((ByteStream(client), ByteStream(server)))
        await exchange(ours, theirs)
        assert isinstance(ours, trio.SSLStream)
        assert ours.server_hostname == "example.org"


@each_pair
async def test_a_websocket_within(kind: str, autojump_clock: MockClock) -> None:
    async with both(PAIRS[kind]()) as (client, server):
        async with trio.open_nursery() as nursery:
            # The mock clock does not see a thread that compresses.
            nursery.start_soon(partial(trio_ws.serve_over, ByteStream(server), echo, compression=None))
            async with trio_ws.connect_over(ByteStream(client), URI, compression=None) as inner:
                for message in ("text", b"", bytes(100 if kind == "one byte" else 100_000)):
                    await inner.send(message)
                    assert await inner.receive() == message
                assert await inner.ping() >= 0
        for ws in (client, server):
            with pytest.raises(ConnectionClosed):
                await ws.receive()
