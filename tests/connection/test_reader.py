"""Tests of the reader task: backpressure, floods, and the reasons for which a connection ends."""

from __future__ import annotations

import logging
import tracemalloc
from functools import partial
from sys import getsizeof

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.connection.bytestream import ByteStream
from trio_ws.connection.outbox import MAX_PONGS
from trio_ws.connection.state import State
from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    MessageTooBig,
    ProtocolError,
    TooManyFragments,
)
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.instruments.interface import ConnectionSummary, Instrument, ObservedWebSocket
from trio_ws.observe.logs import LogFrames
from trio_ws.protocol import Role
from trio_ws.protocol.deflate import Deflate, PerMessageDeflate

from ..support import (
    Peer,
    Task,
    attempt,
    binary,
    close,
    cont,
    each_role,
    opened,
    peak_memory,
    ping,
    pipe_pair,
    pong,
    sockets,
    stream_parts,
    text,
)

settle = wait_all_tasks_blocked


# -- Backpressure ----------------------------------------------------------------------------------------------------


@each_role
async def test_nothing_is_read_while_the_inbox_is_full(role: Role, nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1000)
    async with opened(role, (ours, theirs), receive_buffer=10_000) as (ws, peer):
        sent = 0

        async def send() -> None:
            nonlocal sent
            for i in range(1000):
                await peer.send(binary(i.to_bytes(2, "big") * 250))
                sent += 1

        nursery.start_soon(send)
        await settle()
        # The content of the inbox, one more read, and the content of the stream's buffers.
        assert 10 <= sent <= 24
        for i in range(1000):
            assert await ws.receive() == i.to_bytes(2, "big") * 250
        assert sent == 1000


async def test_a_large_message_goes_through_a_small_inbox(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1000)
    async with opened(streams=(ours, theirs), receive_buffer=0) as (ws, peer):
        nursery.start_soon(peer.send, binary(b"x" * 50_000, fin=False), cont(b"y" * 50_000, fin=True), text("next"))
        await settle()
        assert connection_of(ws).protocol.held <= 1000 + getsizeof(b"")
        assert await ws.receive() == b"x" * 50_000 + b"y" * 50_000
        assert await ws.receive() == "next"


async def test_a_cancelled_receive_does_not_keep_the_reader_reading(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1000)
    async with opened(streams=(ours, theirs), receive_buffer=0) as (ws, peer):
        nursery.start_soon(peer.send, binary(b"x" * 50_000))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(ws.receive)
                for _ in range(10):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        await settle()
        assert connection_of(ws).protocol.held < 40_000
        assert await ws.receive() == b"x" * 50_000


async def test_the_reader_does_not_wait_for_the_writer(nursery: trio.Nursery) -> None:
    # Nothing can be written, but frames from the peer are still read.
    ours, theirs = pipe_pair(100)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        await ws.send(b"x" * 1000)
        for data in (b"y", b"z"):
            nursery.start_soon(ws.send, data)
            await settle()
        nursery.start_soon(peer.send, *[text("a"), ping(b"b")] * 1000)
        for _ in range(1000):
            assert await ws.receive() == "a"
        frames = [await peer.receive()]
        while frames[-1] != binary(b"z"):
            frames.append(await peer.receive())
        assert [frame for frame in frames if frame and frame.opcode is not Opcode.PONG] == [
            binary(b"x" * 1000),
            binary(b"y"),
            binary(b"z"),
        ]


async def test_empty_messages_in_parts_wait_for_room() -> None:
    async with opened(streams=pipe_pair(10), send_buffer=0) as (ws, _):
        await ws.send(b"x" * 1000)
        assert not await attempt(partial(stream_parts, ws))


async def test_nothing_of_a_message_is_left_after_aclose(nursery: trio.Nursery) -> None:
    async with opened(receive_buffer=1) as (ws, peer):
        await peer.send(text("fills the inbox"))
        await settle()
        # The reader reads this when aclose() drops the other message, and the Close frame cuts it.
        await peer.send(text("half a mess", fin=False), close())
        nursery.start_soon(ws.aclose)
        await settle()
        with pytest.raises(ConnectionClosedLocally):
            await ws.receive_stream().__aenter__()


# -- Shutdown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1])
async def test_shutting_down_lets_the_reader_go_on(before: int, autojump_clock: MockClock) -> None:
    async with opened(Role.SERVER, pipe_pair(), receive_buffer=0) as (ws, peer):
        for letter in "abc"[: 2 * before]:
            await peer.send(text(letter))
            await settle()
        connection_of(ws).shut_down(Close(1001, ""))
        for letter in "abc"[2 * before :]:
            await peer.send(text(letter))
            await settle()
        await peer.send(close())
        assert await peer.receive_all() == [close(1001)]
        assert trio.current_time() == 0
        # Messages that did not fit are dropped with all later ones, so there is no gap, and the end is not clean.
        received = []
        with pytest.raises(ConnectionClosedError) as caught:
            while True:
                received.append(await ws.receive())
        assert received == ["a"]
        assert (caught.value.rcvd, caught.value.sent) == (Close(1000, ""), Close(1001, ""))
        assert "messages were lost" in str(caught.value.__cause__)


async def test_shutting_down_leaves_no_gap(nursery: trio.Nursery) -> None:
    async with opened(Role.SERVER, pipe_pair(), receive_buffer=2 * getsizeof("a")) as (ws, peer):
        connection_of(ws).shut_down(Close(1001, ""))
        for letter in "abc":
            await peer.send(text(letter))
            await settle()
        assert await ws.receive() == "a"
        # There would be room again.
        await peer.send(text("d"), text("e" * 10, fin=False))
        await settle()
        assert await ws.receive() == "b"
        await peer.send(close())
        with pytest.raises(ConnectionClosed):
            await ws.receive()
        assert connection_of(ws).protocol.held == 0


async def test_shutting_down_while_there_is_room_is_clean(nursery: trio.Nursery) -> None:
    async with opened(Role.SERVER, pipe_pair()) as (ws, peer):
        connection_of(ws).shut_down(Close(1001, ""))
        await peer.send(text("a"), close())
        assert await ws.receive() == "a"
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()


async def test_shutting_down_a_byte_stream_that_is_full(nursery: trio.Nursery) -> None:
    """The loss of what follows: the end must not look like the end of what the peer has sent."""
    async with opened(Role.SERVER, pipe_pair(), receive_buffer=0) as (ws, peer):
        await peer.send(binary(b"a"))
        await settle()
        connection_of(ws).shut_down(Close(1001, ""))
        await peer.send(binary(b"b"), close())
        await settle()
        stream = ByteStream(ws)
        assert await stream.receive_some() == b"a"
        with pytest.raises(ConnectionClosedError):
            await stream.receive_some()


async def test_shutting_down_keeps_the_end_of_a_message_that_is_taken_in_parts(nursery: trio.Nursery) -> None:
    async with opened(Role.SERVER, pipe_pair(), receive_buffer=0) as (ws, peer):
        await peer.send(text("a", fin=False))
        async with ws.receive_stream() as parts:
            assert await parts.__anext__() == "a"
            connection_of(ws).shut_down(Close(1001, ""))
            # When the last part arrives, the next message fills the inbox.
            await peer.send(cont(b"b", fin=True), text("c", fin=False))
            await peer.send(cont(b"d", fin=True), close())
            await settle()
            assert await parts.__anext__() == "b"
            with pytest.raises(StopAsyncIteration):
                await parts.__anext__()


# -- Floods ----------------------------------------------------------------------------------------------------------


async def test_an_idle_connection_keeps_no_message() -> None:
    async def exchange(ws: WebSocket, peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.send, bytes(10**6))
            nursery.start_soon(peer.send, binary(bytes(10**6)))
            assert len(await ws.receive()) == 10**6
            assert await peer.receive()
        await settle()

    async with opened() as (ws, peer):
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await exchange(ws, peer)
            assert tracemalloc.get_traced_memory()[0] - before < 100_000
        finally:
            tracemalloc.stop()


async def test_a_flood_of_pings_from_a_peer_that_does_not_read() -> None:
    ours, theirs = pipe_pair(100)
    async with opened(streams=(ours, theirs)) as (_, peer):
        for i in range(0, 10_000, 100):
            await peer.send(*[ping(b"%d" % j) for j in range(i, i + 100)])
        await settle()
        received: list[Frame] = []
        while not received or received[-1] != pong(b"9999"):
            frame = await peer.receive()
            assert frame is not None
            received.append(frame)
        # The pongs in the interrupted write, those gathered meanwhile, and the kept ones of the rest.
        assert len(received) <= 3 * MAX_PONGS
        numbers = [int(frame.data) for frame in received]
        assert numbers == sorted(numbers)


async def test_ten_pings_get_ten_pongs() -> None:
    async with opened() as (_, peer):
        await peer.send(*[ping(b"%d" % i) for i in range(10)])
        assert [await peer.receive() for _ in range(10)] == [pong(b"%d" % i) for i in range(10)]


@pytest.mark.parametrize("fragment", [b"", b"a"])
async def test_a_flood_of_fragments(fragment: bytes) -> None:
    count = 20_000
    async with opened(max_message_size=None, max_fragments=None) as (ws, peer):
        piece = bytes([0, len(fragment)]) + fragment
        data = piece * 1000

        async def flood() -> None:
            for _ in range(count // 1000):
                await peer.send(data)
            await peer.send(b"\x80\x00")
            assert await ws.receive() == fragment * count

        await peer.send(b"\x02\x00")
        assert await peak_memory(flood) < 2_000_000


async def test_fragments_count_towards_the_limit() -> None:
    async with opened(max_message_size=1000, max_fragments=None) as (ws, peer):
        await peer.send(b"\x02\x00" + b"\x00\x00" * 30_000 + b"\x00\x01a" * 1001)
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, MessageTooBig)
        assert (raised.value.__cause__.size, raised.value.__cause__.limit) == (1001, 1000)


@pytest.mark.parametrize("frame", [b"\x81\x00", b"\x82\x00", b"\x81\x01a"])
async def test_a_flood_of_small_messages_that_nobody_wants(frame: bytes) -> None:
    ours, theirs = pipe_pair(10_000)
    async with opened(streams=(ours, theirs)) as (ws, _):
        async with trio.open_nursery() as nursery:
            data = frame * 1_000_000

            async def flood() -> None:
                nursery.start_soon(theirs.send_all, data)
                await settle()

            # All messages would take 50 times as much memory.
            assert await peak_memory(flood) < 1_000_000
            for _ in range(20_000):
                await ws.receive()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("frame", [pong(b"a" * 125), ping(b"a" * 125)])
async def test_a_flood_of_control_frames(frame: Frame, nursery: trio.Nursery) -> None:
    async with opened() as (_, peer):

        async def flood() -> None:
            for _ in range(100):
                await peer.send(*[frame] * 100)
                await settle()
            # The pongs are in the memory of the stream.
            assert isinstance(peer.stream, trio.StapledStream)

        bound = 100 * 100 * 127 * 3 if frame.opcode is Opcode.PING else 500_000
        assert await peak_memory(flood) < bound


async def test_a_huge_message_while_closing_takes_no_memory(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair()
    async with opened(streams=(ours, theirs), max_message_size=None) as (ws, peer):
        data = b"x" * 1_000_000
        nursery.start_soon(ws.aclose)

        async def flood() -> None:
            await theirs.send_all(b"\x02\x7f\x00\x00\x00\x00\x40\x00\x00\x00")
            for _ in range(20):
                await theirs.send_all(data)
            await settle()

        await settle()
        assert await peak_memory(flood) < 1_000_000
        assert await peer.receive() == close()


# -- Over sockets -----------------------------------------------------------------------------------------------------


@each_role
async def test_read_also_when_nobody_receives(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        for data in (b"1", b"2"):
            # Before anything was received, and after that.
            await peer.send(ping(data))
            assert await peer.receive() == pong(data)
            await peer.send(text("a"))
            assert await ws.receive() == "a"


async def test_closing_one_of_several_connections(autojump_clock: MockClock) -> None:
    async with opened(streams=sockets(), ping_interval=None) as (keeper, its_peer):
        async with opened(streams=sockets(), ping_interval=None) as (_, peer):
            await settle()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(its_peer.receive_all)
                await keeper.aclose()
            await peer.send(ping(b"a"))
            assert await peer.receive() == pong(b"a")


@each_role
async def test_other_calls_while_a_receiver_reads(role: Role, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        await peer.send(text("first"))
        assert await ws.receive() == "first"
        received: list[object] = []

        async def receive() -> None:
            received.append(await ws.receive())
            async with ws.receive_stream() as parts:
                received.append([part async for part in parts])

        nursery.start_soon(receive)
        await settle()
        nursery.start_soon(ws.ping, b"p")
        assert await peer.receive() == ping(b"p")
        await peer.send(ping(b"q"), pong(b"p"), text("second"))
        assert await peer.receive() == pong(b"q")
        await settle()
        assert ws.latency is not None
        assert received == ["second"]
        await peer.send(text("th", fin=False))
        await settle()
        await peer.send(cont(b"ird", fin=True))
        await settle()
        assert received[1] == ["th", "ird"]


async def test_a_call_that_needs_the_reader_wakes_it() -> None:
    # No time passes here, so only the call itself can wake the reader.
    async with opened(streams=sockets(), ping_interval=None) as (ws, peer):
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.ping, b"p")
            assert await peer.receive() == ping(b"p")
            await peer.send(pong(b"p"))
        assert ws.latency is not None


async def end_of(ws: WebSocket) -> ConnectionClosed:
    """Return the exception that receive() raises."""
    with pytest.raises(ConnectionClosed) as raised:
        await ws.receive()
    return raised.value


@each_role
@pytest.mark.parametrize("how", ["EOF", "RST", "violation", "Close", "Close, and more"])
async def test_what_ends_it_is_read_by_a_receiver(role: Role, how: str, autojump_clock: MockClock) -> None:
    ours, theirs = sockets()
    async with opened(role, streams=(ours, theirs), ping_interval=None) as (ws, peer):
        for _ in range(2):
            await peer.send(text("a"))
            assert await ws.receive() == "a"
        async with trio.open_nursery() as nursery:
            outcomes: list[BaseException] = []
            frames: list[Frame] = []

            async def receive() -> None:
                outcomes.append(await end_of(ws))

            nursery.start_soon(receive)
            await settle()
            if how == "EOF":
                await theirs.send_eof()
            elif how == "RST":
                await peer.send(b"unread")
                await theirs.aclose()
            elif how == "violation":
                await peer.send(b"\xff\x00")
            else:
                await peer.send(close(4000), b"" if how == "Close" else b"\xff\x00")
            if how != "RST":
                frames = await peer.receive_all()
        (outcome,) = outcomes
        assert isinstance(outcome, ConnectionClosedError)
        if how.startswith("Close"):
            assert outcome.rcvd == Close(4000, "")
            assert frames == [close(4000)]
        elif how == "EOF":
            assert outcome.rcvd is None


@pytest.mark.parametrize("call", ["receive", "iterate"])
async def test_a_server_that_is_closed_while_somebody_receives(call: str, autojump_clock: MockClock) -> None:
    # Another connection is open at the same time.
    async with opened(streams=sockets(), ping_interval=None):
        async with opened(Role.SERVER, streams=sockets(), ping_interval=None) as (ws, peer):
            await peer.send(text("a"), ping(b"b"))
            assert await ws.receive() == "a"
            await peer.send(close(4000, "bye"))
            with pytest.raises(ConnectionClosedError) as raised:
                await (ws.receive() if call == "receive" else anext(ws))
            assert (raised.value.rcvd, raised.value.sent) == (Close(4000, "bye"), Close(4000, "bye"))
            assert raised.value.rcvd_then_sent is True
            assert ws.close_code == 4000
            assert await peer.receive_all() == [pong(b"b"), close(4000, "bye")]
            with pytest.raises(ConnectionClosedError):
                await ws.send("too late")
            await ws.aclose()


@each_role
async def test_what_comes_with_a_close_frame_can_be_answered(role: Role, autojump_clock: MockClock) -> None:
    # Another connection is open at the same time.
    async with opened(streams=sockets(), ping_interval=None):
        async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
            await peer.send(text("a"), close(4000))
            assert await ws.receive() == "a"
            await ws.send("answer")
            assert await peer.receive() == text("answer")


@each_role
async def test_closed_while_a_receiver_reads(role: Role, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        for _ in range(2):
            await peer.send(text("a"))
            assert await ws.receive() == "a"
        outcomes: list[BaseException] = []

        async def receive() -> None:
            outcomes.append(await end_of(ws))

        nursery.start_soon(receive)
        await settle()
        nursery.start_soon(peer.receive_all)
        await ws.aclose(4001)
        await settle()
        (outcome,) = outcomes
        assert isinstance(outcome, ConnectionClosedLocally)
        assert outcome.sent == Close(4001, "")


async def test_closed_when_the_peer_does_not_answer_a_receiver_that_reads(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with opened(streams=sockets(), ping_interval=None, close_timeout=3) as (ws, peer):
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        outcomes: list[BaseException] = []

        async def receive() -> None:
            outcomes.append(await end_of(ws))

        nursery.start_soon(receive)
        await settle()
        start = trio.current_time()
        await ws.send_close(4001)
        await settle()
        assert outcomes == []
        await trio.sleep(4)
        (outcome,) = outcomes
        assert isinstance(outcome, ConnectionClosedError)
        assert (outcome.rcvd, outcome.sent) == (None, Close(4001, ""))
        assert start <= trio.current_time()


@each_role
async def test_much_in_one_read(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        await peer.send(text("first"))
        assert await ws.receive() == "first"
        for count in (1000, 3):
            await peer.send(*[binary(b"%d" % i) for i in range(count)])
            assert [await ws.receive() for _ in range(count)] == [b"%d" % i for i in range(count)]


@each_role
async def test_large_messages_in_large_reads(role: Role, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    messages = [bytes([i]) * 300_000 for i in range(5)]
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        nursery.start_soon(peer.send, *map(binary, messages))
        assert [await ws.receive() for _ in messages] == messages


async def test_cancelled_while_it_reads(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with opened(streams=sockets(), ping_interval=None) as (ws, peer):
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        with trio.move_on_after(1):
            await ws.receive()
        await peer.send(ping(b"p"), text("b"))
        assert await peer.receive() == pong(b"p")
        assert await ws.receive() == "b"


# -- Many small frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("observed", [False, True])
async def test_too_many_fragments(compressed: bool, observed: bool, autojump_clock: trio.testing.MockClock) -> None:
    extensions = [PerMessageDeflate(Deflate(), send_bits=15, receive_bits=15)] if compressed else []
    instruments = [LogFrames(logging.CRITICAL)] if observed else []
    async with opened(extensions=extensions, instruments=instruments) as (ws, peer):
        await peer.send((b"\x41\x00" if compressed else b"\x01\x00") + (b"\x00\x00" + b"\x8a\x00") * 16_383)
        await settle()
        assert ws.state is State.OPEN
        await peer.send(b"\x00\x00")
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, TooManyFragments)
        assert raised.value.__cause__.limit == 16_384
        (frame,) = await peer.receive_all()
        assert Close.parse(frame.data).code == 1009


async def test_maximum_number_of_fragments() -> None:
    async with opened(max_fragments=3) as (ws, peer):
        for _ in range(3):
            await peer.send(text("a", fin=False), cont(b"x" * 1024), cont(b"b"), ping(), cont(b"c", fin=True))
            assert await ws.receive() == "a" + "x" * 1024 + "bc"
        await peer.send(text("a", fin=False))
        async with ws.receive_stream() as parts:
            await peer.send(*[cont(b"b")] * 3)
            with pytest.raises(ConnectionClosedError) as raised:
                async for _ in parts:
                    pass
        assert isinstance(raised.value.__cause__, TooManyFragments)


@pytest.mark.parametrize("frame", [b"\x89\x00", b"\x8a\x00", b"\x00\x00", b"\x00\x01a"])
async def test_other_tasks_run_during_a_flood_of_small_frames(frame: bytes, nursery: trio.Nursery) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    ours, theirs = pipe_pair(1_000_000)
    async with opened(streams=(ours, theirs), max_fragments=None) as (ws, peer):
        # All of this arrives in one read.
        await peer.send(b"\x02\x00" + frame * 20_000 + b"\x80\x00" + b"\x81\x03end")
        nursery.start_soon(count)
        assert len(await ws.receive()) in (0, 20_000)
        assert await ws.receive() == "end"
        assert turns >= 300


# -- A Close frame in the middle of a message ------------------------------------------------------------------------


async def iterate(ws: WebSocket) -> None:
    async for _ in ws:
        pass


async def receive_parts(ws: WebSocket) -> None:
    async with ws.receive_stream() as parts:
        async for _ in parts:
            pass


async def receive_and_leave(ws: WebSocket) -> None:
    async with ws.receive_stream() as parts:
        async for _ in parts:
            break
    await ws.receive()


async def receive_bytes(ws: WebSocket) -> None:
    async for _ in ByteStream(ws):
        pass


async def send(ws: WebSocket) -> None:
    while True:
        await ws.send("x")
        await settle()


@each_role
@pytest.mark.parametrize("code", [1000, 1001, 4000])
@pytest.mark.parametrize("start", [b"", b"half a mess"])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_close_frame_in_the_middle_of_a_message(role: Role, code: int, start: bytes, at_once: bool) -> None:
    for call in (iterate, WebSocket.receive, receive_parts, receive_and_leave, receive_bytes, send, WebSocket.ping):
        log = Summaries()
        async with opened(role, instruments=[log]) as (ws, peer), trio.open_nursery() as nursery:
            task = Task(nursery, call, ws)
            await settle()
            if at_once:
                await peer.send(binary(start, fin=False), cont(start), close(code, "bye"))
            else:
                await peer.send(binary(start, fin=False), cont(start))
                await settle()
                await peer.send(close(code, "bye"))
            await settle()
            # The peer gets the usual answer.
            while (frame := await peer.receive()) is not None and frame.opcode is not Opcode.CLOSE:
                pass
            assert frame == close(code, "bye")
            await trio.aclose_forcefully(peer.stream)
            await settle()
            assert type(task.error) is ConnectionClosedError
            assert type(task.error.__cause__) is ProtocolError
            assert (task.error.rcvd, task.error.sent) == (Close(code, "bye"), Close(code, "bye"))
            assert (ws.close_code, ws.close_reason) == (code, "bye")
            with pytest.raises(ConnectionClosedError):
                await iterate(ws)
        (summary,) = log.summaries
        assert (summary.clean, summary.code) == (False, code)
        assert type(summary.error.__cause__) is ProtocolError


class Summaries(Instrument):
    """An instrument that collects the summaries of closed connections."""

    def __init__(self) -> None:
        self.summaries: list[ConnectionSummary] = []

    def connection_closed(self, ws: ObservedWebSocket, summary: ConnectionSummary) -> None:
        self.summaries.append(summary)


async def test_messages_before_an_incomplete_one_are_received() -> None:
    async with opened(Role.SERVER) as (ws, peer):
        await peer.send(text("a"), text("b"), text("half a mess", fin=False), close())
        await settle()
        received = []
        with pytest.raises(ConnectionClosedError) as raised:
            async for message in ws:
                received.append(message)
        assert received == ["a", "b"]
        assert type(raised.value.__cause__) is ProtocolError


async def test_incomplete_message_when_this_end_closes() -> None:
    # The message will not be received any more, so the peer may answer in the middle of it.
    log = Summaries()
    async with opened(instruments=[log]) as (ws, peer), trio.open_nursery() as nursery:
        await peer.send(text("half", fin=False))
        await settle()
        nursery.start_soon(ws.aclose)
        await settle()
        await peer.send(cont(b" a mess"), close())
        await trio.aclose_forcefully(peer.stream)
    assert [summary.clean for summary in log.summaries] == [True]
    with pytest.raises(ConnectionClosedLocally) as raised:
        await ws.receive()
    assert raised.value.__cause__ is None


async def test_incomplete_message_after_send_close() -> None:
    async with opened() as (ws, peer), trio.open_nursery() as nursery:
        await ws.send_close()
        task = Task(nursery, iterate, ws)
        await peer.send(text("half a mess", fin=False), close())
        await trio.aclose_forcefully(peer.stream)
        await settle()
        assert type(task.error) is ConnectionClosedError
        assert type(task.error.__cause__) is ProtocolError
