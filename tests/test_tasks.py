"""The tasks behind a connection: keepalive, backpressure, floods, what is written and when, deadlines, the end."""

from __future__ import annotations

import os
import signal
import tracemalloc
from functools import partial
from sys import getsizeof

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.connection.outbox import MAX_PONGS
from trio_ws.connection.stream import RECEIVE_SIZE
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally, MessageTooBig
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import Role

from .support import (
    Faulty,
    Peer,
    attempt,
    binary,
    born_open,
    cancelled,
    close,
    cont,
    each_role,
    lockstep_pair,
    memory_pair,
    opened,
    parse_frames,
    peak_memory,
    ping,
    pipe_pair,
    pong,
    stream_parts,
    text,
)

settle = wait_all_tasks_blocked


def kinds(frames: list[Frame]) -> list[Opcode]:
    return [frame.opcode for frame in frames]


# -- Keepalive -------------------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize(
    "interval, allowed",
    [
        *[(20, 20), (20, 5), (5, 20), (1, 0.001), (0.001, 1), (1, 3.5)],
        # The sum of these is a little less than it should be, by the limits of floating-point numbers.
        *[(3, 0.3), (1, 1.3), (7, 0.1), (2.3, 1.3), (30, 0.7), (20, 5.7)],
    ],
)
async def test_a_silent_peer(role: Role, interval: float, allowed: float, autojump_clock: MockClock) -> None:
    async with opened(role, ping_interval=interval, ping_timeout=allowed) as (ws, peer):
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert interval + allowed <= trio.current_time() <= interval + allowed + 0.5
        assert isinstance(raised.value.__cause__, trio.TooSlowError)
        assert raised.value.rcvd is None
        assert raised.value.sent is not None
        assert raised.value.sent.code == 1011
        frames = await peer.receive_all()
        assert frames[-1] == close(1011, raised.value.sent.reason)
        # It has had as many chances as there were intervals.
        assert kinds(frames[:-1]) == [Opcode.PING]


async def test_a_silent_peer_that_does_not_read(autojump_clock: MockClock) -> None:
    for streams in (lockstep_pair(), pipe_pair(10)):
        async with opened(streams=streams) as (ws, _):
            start = trio.current_time()
            await ws.send(b"x" * 1000)
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.receive()
            assert 40 <= trio.current_time() - start <= 40.5
            assert isinstance(raised.value.__cause__, trio.TooSlowError)


@pytest.mark.parametrize("interval, allowed", [(20, 20), (20, 5), (5, 20)])
async def test_a_peer_that_answers(
    interval: float, allowed: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(ping_interval=interval, ping_timeout=allowed) as (ws, peer):
        payloads = []

        async def answer() -> None:
            while (frame := await peer.receive()) is not None:
                payloads.append(frame.data)
                await trio.sleep(1)
                await peer.send(pong(frame.data))

        nursery.start_soon(answer)
        await trio.sleep(100 * interval + 0.5)
        assert len(payloads) == len(set(payloads)) == 100
        assert ws.latency == 1
        await ws.send("still here")


@pytest.mark.parametrize("frame", [pong(b"unsolicited"), text("a"), text("", fin=False), b"\x82\x7e"])
async def test_any_byte_is_a_sign_of_life(frame: Frame | bytes, autojump_clock: MockClock) -> None:
    async with opened(ping_interval=20, ping_timeout=5) as (ws, peer):
        await trio.sleep(24)
        await peer.send(frame)
        await trio.sleep(20)
        assert "open" in repr(ws)
        # Pings go on, and the one that was not answered is forgotten.
        assert [await peer.receive(), await peer.receive()] == [ping(b"\0\0\0\0"), ping(b"\0\0\0\1")]
        with pytest.raises(ConnectionClosedError):
            while True:
                await ws.receive()
        assert trio.current_time() == 45


async def test_a_byte_at_the_time_of_the_ping(autojump_clock: MockClock) -> None:
    # What came in before the ping was sent says nothing about what became of the ping.
    async with opened(ping_interval=20, ping_timeout=5) as (ws, peer):
        await trio.sleep(19)
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        with pytest.raises(ConnectionClosedError):
            await ws.receive()
        assert trio.current_time() == 25


async def test_pings_that_were_not_answered_do_not_pile_up(autojump_clock: MockClock) -> None:
    async with opened(ping_interval=1, ping_timeout=None) as (ws, peer):
        await trio.sleep(1000.5)
        assert len(ws._connection.pings) == 1
        # A late pong is not taken for that of a later ping.
        await peer.send(pong(b"\0\0\0\0"))
        await settle()
        assert ws.latency is None
        await peer.send(pong((999).to_bytes(4, "big")))
        await settle()
        assert ws.latency == 0.5


async def test_without_a_limit_a_silent_peer_lives(autojump_clock: MockClock) -> None:
    async with opened(ping_interval=20, ping_timeout=None) as (ws, peer):
        await trio.sleep(10_010)
        await ws.send("a")
        frames = [await peer.receive() for _ in range(501)]
        assert frames[-1] == text("a")
        assert {frame and frame.opcode for frame in frames[:-1]} == {Opcode.PING}


async def test_without_keepalive_nothing_is_sent(autojump_clock: MockClock) -> None:
    async with opened(ping_interval=None, ping_timeout=1) as (ws, peer):
        await trio.sleep(80_000)
        await ws.send("a")
        assert await peer.receive() == text("a")


async def test_a_slow_consumer_is_not_killed(autojump_clock: MockClock) -> None:
    # The peer would answer every ping; but we do not read as long as nobody wants what we have read.
    ours, theirs = pipe_pair(1000)
    async with opened(streams=(ours, theirs), receive_buffer=100, ping_interval=20, ping_timeout=5) as (ws, peer):

        async def send() -> None:
            for i in range(100):
                await peer.send(text(b"%d" % i * 50))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(peer.behave)
            for i in range(100):
                await trio.sleep(200)
                assert await ws.receive() == str(i) * 50
            nursery.cancel_scope.cancel()


async def test_the_clock_stands_still_while_nobody_reads(autojump_clock: MockClock) -> None:
    async with opened(receive_buffer=0, ping_interval=20, ping_timeout=5) as (ws, peer):
        await trio.sleep(15)
        await peer.send(text("a"))
        await trio.sleep(985)
        assert await ws.receive() == "a"
        # From here on we listen, and the peer is silent.
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, trio.TooSlowError)
        assert trio.current_time() == 1005


async def test_a_peer_that_only_sends_lives(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    # It does not read, so our ping does not even go out.
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), ping_interval=20, ping_timeout=5, write_timeout=None) as (ws, peer):

        async def send() -> None:
            for _ in range(100):
                await peer.send(text("a"))
                await trio.sleep(4)

        await ws.send(b"x" * 100)
        nursery.start_soon(send)
        for _ in range(100):
            assert await ws.receive() == "a"
        assert trio.current_time() == 396


@pytest.mark.parametrize("at", [0, 10, 22])
async def test_the_closing_handshake_has_its_own_deadline(at: float, autojump_clock: MockClock) -> None:
    # After a Close frame no ping may follow, so nothing can be concluded from there being no pong.
    async with opened(ping_interval=20, ping_timeout=5, close_timeout=300) as (ws, peer):
        await trio.sleep(at)
        await ws.send_close()
        await trio.sleep(290)
        await peer.send(text("last"), close())
        assert await ws.receive() == "last"
        with pytest.raises(trio.EndOfChannel):
            await ws.receive()
        frames = await peer_frames(peer)
        assert kinds(frames) == [Opcode.PING] * (at > 20) + [Opcode.CLOSE]


async def peer_frames(peer: Peer) -> list[Frame]:
    """Return the frames up to and including the Close frame."""
    frames = []
    while True:
        frame = await peer.receive()
        assert frame is not None
        frames.append(frame)
        if frame.opcode is Opcode.CLOSE:
            return frames


async def test_one_stuck_peer_among_others(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    # A broadcast: those who read get everything in time, the one who does not is dropped.
    stuck_streams = pipe_pair(10)
    pairs = [memory_pair(), memory_pair(), stuck_streams]
    behaving = [Peer(theirs) for _, theirs in pairs[:2]]
    frames: list[list[Frame]] = [[], []]

    async def behave(index: int) -> None:
        frames[index] = await behaving[index].behave()

    for index in range(2):
        nursery.start_soon(behave, index)
    dropped_at = 0.0
    async with born_open(pairs[0][0]) as one, born_open(pairs[1][0]) as two, born_open(pairs[2][0]) as stuck:
        members = {one, two, stuck}

        async def send(ws: WebSocket, message: str) -> None:
            nonlocal dropped_at
            with trio.move_on_after(0.5):
                try:
                    await ws.send(message)
                except ConnectionClosedError:
                    members.discard(ws)
                    dropped_at = trio.current_time()

        for i in range(60):
            async with trio.open_nursery() as senders:
                for ws in members:
                    senders.start_soon(send, ws, f"{i} " + "x" * 10_000)
            await trio.sleep(1 - trio.current_time() % 1)
        assert members == {one, two}
        assert 40 <= dropped_at <= 42
    await settle()
    for seen in frames:
        assert [frame.data.split()[0] for frame in seen if frame.opcode is Opcode.TEXT] == [
            b"%d" % i for i in range(60)
        ]


# -- Backpressure ----------------------------------------------------------------------------------------------------


@each_role
async def test_what_nobody_wants_is_not_read(role: Role, nursery: trio.Nursery) -> None:
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
        # What fits into the inbox, one read more, and what fits into the stream.
        assert 10 <= sent <= 24
        for i in range(1000):
            assert await ws.receive() == i.to_bytes(2, "big") * 250
        assert sent == 1000


async def test_a_large_message_goes_through_a_small_inbox(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1000)
    async with opened(streams=(ours, theirs), receive_buffer=0) as (ws, peer):
        nursery.start_soon(peer.send, binary(b"x" * 50_000, fin=False), cont(b"y" * 50_000, fin=True), text("next"))
        await settle()
        assert ws._connection.protocol.held <= 1000 + getsizeof(b"")
        assert await ws.receive() == b"x" * 50_000 + b"y" * 50_000
        assert await ws.receive() == "next"


async def test_a_receiver_that_gives_up_does_not_keep_the_reader_going(nursery: trio.Nursery) -> None:
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
        assert ws._connection.protocol.held < 40_000
        assert await ws.receive() == b"x" * 50_000


async def test_the_reader_does_not_wait_for_the_writer(nursery: trio.Nursery) -> None:
    # Nothing of what we want to say goes out; what the peer says comes in all the same.
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
        # This is read when aclose() drops the other message, and the Close frame cuts it.
        await peer.send(text("half a mess", fin=False), close())
        nursery.start_soon(ws.aclose)
        await settle()
        with pytest.raises(ConnectionClosedLocally):
            await ws.receive_stream().__aenter__()


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
        # What was being written, what had been gathered meanwhile, and what is left of the rest.
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
    async with opened(max_message_size=None) as (ws, peer):
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
    async with opened(max_message_size=1000) as (ws, peer):
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

            # All of them would take 50 times as much.
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
            # Its pongs are in the memory of the stream.
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


# -- What is written -------------------------------------------------------------------------------------------------


async def test_what_waits_is_written_at_once() -> None:
    ours, theirs = pipe_pair()
    async with opened(streams=(ours, theirs)) as (ws, peer):
        for i in range(100):
            await ws.send(b"%d" % i)
        await settle()
        assert ours.writes <= 5
        assert [await peer.receive() for _ in range(100)] == [binary(b"%d" % i) for i in range(100)]


async def test_control_frames_go_before_messages() -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await ws.send(b"1" * 100)
        await settle()
        await ws.send(b"2")
        await peer.send(ping(b"p"))
        await settle()
        assert [await peer.receive() for _ in range(3)] == [binary(b"1" * 100), pong(b"p"), binary(b"2")]


async def test_nothing_is_written_after_half_a_frame(autojump_clock: MockClock) -> None:
    # The write is cancelled when the deadline comes; a Close frame after that would be read as payload.
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), close_timeout=5) as (ws, peer):
        await ws.send(b"x" * 100)
        await ws.aclose()
        assert trio.current_time() == 5
        frames, rest = parse_frames(await peer.receive_bytes(), masked=True)
        assert frames == []
        assert len(rest) == 10


async def test_cancelled_with_messages_in_the_outbox(autojump_clock: MockClock) -> None:
    # Everything that was sent goes out, if it takes no waiting.
    async with opened() as (ws, peer):
        for i in range(5):
            await ws.send(b"%d" % i)
        assert await cancelled(partial(ws.aclose, 4000))
        assert await peer.receive_all() == [*[binary(b"%d" % i) for i in range(5)], close(4000)]


async def test_a_goodbye_that_fails() -> None:
    ours, theirs = memory_pair()
    stream = Faulty(ours)
    async with opened(streams=(stream, theirs)) as (ws, peer):
        await settle()
        stream.send_error = error = OSError(32, "EPIPE")
        assert await cancelled(ws.aclose)
        with pytest.raises(ConnectionClosedLocally) as raised:
            await ws.receive()
        assert raised.value.__cause__ is error
        assert await peer.receive() is None


async def test_a_goodbye_that_takes_too_long(autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair(3)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        assert await cancelled(ws.aclose)
        assert trio.current_time() == 0.1
        frames, rest = parse_frames(await peer.receive_bytes(), masked=True)
        assert (frames, rest[:2], len(rest)) == ([], b"\x88\x82", 3)


async def test_a_frame_taken_back_leaves_nothing_to_write(nursery: trio.Nursery) -> None:
    # What woke the writer is gone when it comes to look: it must neither write nothing nor stop.
    ours, theirs = pipe_pair()
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await settle()
        sent = ws._connection.send_ping(b"a")
        ws._connection.forget_ping(sent)
        ws._connection.forget_ping(sent)
        await settle()
        assert ours.writes == 0
        await ws.send("next")
        assert await peer.receive() == text("next")


# -- Deadlines -------------------------------------------------------------------------------------------------------


async def test_the_deadline_is_only_moved_forward(autojump_clock: MockClock) -> None:
    async with opened(close_timeout=7) as (ws, _):
        await ws.send_close()
        await trio.sleep(5)
        await ws.aclose()
        assert trio.current_time() == 7


async def test_no_time_to_close(autojump_clock: MockClock) -> None:
    async with opened(close_timeout=0) as (ws, peer):
        await ws.send("a")
        await ws.aclose()
        assert trio.current_time() == 0
        assert await peer.receive_all() == [text("a"), close()]


async def test_leaving_while_the_answer_to_a_close_is_held_back(autojump_clock: MockClock) -> None:
    # The application is not coming back for the next message, and says so.
    async with opened(Role.SERVER) as (ws, peer):
        await peer.send(text("a"), close(4000))
        assert await ws.receive() == "a"
        await ws.aclose(4001)
        assert trio.current_time() == 0
        assert await peer.receive_all() == [close(4001)]


async def test_a_violation_and_a_peer_that_never_hangs_up(autojump_clock: MockClock) -> None:
    async with opened(close_timeout=7) as (ws, peer):
        await peer.send(b"\xff\xff")
        with pytest.raises(ConnectionClosedError):
            await ws.receive()
        assert trio.current_time() == 0
        await ws.aclose()
        assert trio.current_time() == 7
        assert [Close.parse(frame.data).code for frame in await peer.receive_all()] == [1002]


@pytest.mark.parametrize("close_timeout, takes", [(7, 0.5), (0.1, 0.1)])
async def test_a_violation_on_a_stream_that_cannot_be_half_closed(
    close_timeout: float, takes: float, autojump_clock: MockClock
) -> None:
    # The peer cannot be told to hang up. It is given a while, but not longer than everything may take.
    ours, theirs = memory_pair()
    async with opened(streams=(Faulty(ours), theirs), close_timeout=close_timeout) as (ws, peer):
        await peer.send(b"\xff\xff")
        with pytest.raises(ConnectionClosedError):
            await ws.receive()
        await ws.aclose()
        assert trio.current_time() == takes
        assert [Close.parse(frame.data).code for frame in await peer.receive_all()] == [1002]


async def test_a_reset_after_the_closing_handshake() -> None:
    ours, theirs = pipe_pair()
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await peer.send(close())
        assert await peer.receive() == close()
        theirs.reset()
        await ws.aclose()
        assert ours.closed
        assert ws.close_code == 1000


# -- The end ---------------------------------------------------------------------------------------------------------


async def test_the_stream_is_closed_whatever_happens(autojump_clock: MockClock) -> None:
    for how in ("left", "closed by the peer", "lost", "reset", "violation", "silent", "write fails"):
        ours, theirs = pipe_pair()
        stream = Faulty(ours)
        async with opened(streams=(stream, theirs)) as (ws, peer):
            if how == "left":
                assert await cancelled(ws.aclose)
            elif how == "closed by the peer":
                await peer.send(close())
            elif how == "lost":
                await theirs.send_eof()
            elif how == "reset":
                theirs.reset()
            elif how == "violation":
                await peer.send(b"\xff\xff")
            elif how == "write fails":
                stream.send_error = OSError(32, "EPIPE")
                await ws.send("a")
            await trio.sleep(60)
            assert ours.closed
            assert ours.closings == 1
            assert "closed" in repr(ws)
            assert ws._connection.pings == []


@pytest.mark.parametrize("error", [RuntimeError("a"), trio.BusyResourceError("b"), trio.ClosedResourceError("c")])
async def test_tasks_do_not_raise(error: Exception, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    for where in ("send_error", "receive_error", "close_error"):
        ours, theirs = memory_pair()
        stream = Faulty(ours)
        setattr(stream, where, error)
        peer = Peer(theirs)
        async with born_open(stream) as ws:
            if where != "close_error":
                with pytest.raises(ConnectionClosedError) as raised:
                    await ws.send("a")
                    await ws.receive()
                assert raised.value.__cause__ is error
            else:
                nursery.start_soon(peer.behave)


def test_keyboard_interrupt_goes_to_the_main_task() -> None:
    # Python raises it in whatever runs when Ctrl-C is pressed; here that is the reader.
    pressed: list[bool] = []

    def press() -> None:
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    ours, theirs = memory_pair()
    stream = Faulty(ours, on_receive=press)
    peer = Peer(theirs)

    async def main() -> None:
        async with born_open(stream):
            await trio.sleep_forever()

    async def read() -> list[Frame]:
        return await peer.receive_all()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert pressed
    assert [Close.parse(frame.data).code for frame in trio.run(read)] == [1001]


async def test_explanations_are_cut_to_what_a_close_frame_holds() -> None:
    # The explanation of this violation quotes what was wrong.
    async with opened() as (_, peer):
        await peer.send(b"\x88\x7d\x03\xe8" + b"\xff" * 123)
        frames = await peer.receive_all()
        assert [Close.parse(frame.data).code for frame in frames] == [1007]
        assert len(frames[0].data) == 125


async def test_large_reads_come_in_whole() -> None:
    async with opened() as (ws, peer):
        await peer.send(*[binary(bytes([i]) * RECEIVE_SIZE) for i in range(5)])
        for i in range(5):
            assert await ws.receive() == bytes([i]) * RECEIVE_SIZE


# -- Receivers that read for themselves ------------------------------------------------------------------------------

unix_only = pytest.mark.skipif(not hasattr(os, "writev"), reason="elsewhere the reader reads")


def sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the ends of sockets where what one end writes is there at the other at once."""
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


def tasks_living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@unix_only
@each_role
async def test_a_connection_that_is_only_used_has_no_tasks(role: Role, autojump_clock: MockClock) -> None:
    # The reader of the first one looks after all.
    async with opened(streams=sockets(), ping_interval=None):
        before = tasks_living()
        async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
            for message in (text("a"), binary(b"b")):
                await peer.send(message)
                assert await ws.receive() == (message.data if message.opcode is Opcode.BINARY else "a")
                await ws.send("answer")
                assert await peer.receive() == text("answer")
            assert tasks_living() == before


@unix_only
@each_role
async def test_read_also_when_nobody_receives(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        for data in (b"1", b"2"):
            # Before anything was received, and after it.
            await peer.send(ping(data))
            assert await peer.receive() == pong(data)
            await peer.send(text("a"))
            assert await ws.receive() == "a"


@unix_only
async def test_the_one_that_looks_after_all_closes(autojump_clock: MockClock) -> None:
    async with opened(streams=sockets(), ping_interval=None) as (keeper, its_peer):
        async with opened(streams=sockets(), ping_interval=None) as (_, peer):
            await settle()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(its_peer.receive_all)
                await keeper.aclose()
            await peer.send(ping(b"a"))
            assert await peer.receive() == pong(b"a")


@unix_only
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


@unix_only
async def test_a_call_that_needs_the_reader_wakes_it() -> None:
    # No time passes here: nothing but the call itself can wake it.
    async with opened(streams=sockets(), ping_interval=None) as (ws, peer):
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.ping, b"p")
            assert await peer.receive() == ping(b"p")
            await peer.send(pong(b"p"))
        assert ws.latency is not None


async def end_of(ws: WebSocket) -> ConnectionClosed:
    """Return what a call to receive raises."""
    with pytest.raises(ConnectionClosed) as raised:
        await ws.receive()
    return raised.value


@unix_only
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


@unix_only
@pytest.mark.parametrize("call", ["receive", "iterate"])
async def test_a_server_that_is_closed_needs_no_tasks(call: str, autojump_clock: MockClock) -> None:
    # The reader of the first one looks after all.
    async with opened(streams=sockets(), ping_interval=None):
        before = tasks_living()
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
            assert tasks_living() == before
            with pytest.raises(ConnectionClosedError):
                await ws.send("too late")
            await ws.aclose()


@unix_only
@each_role
async def test_what_comes_with_a_close_frame_can_be_answered(role: Role, autojump_clock: MockClock) -> None:
    # The reader of the first one looks after all.
    async with opened(streams=sockets(), ping_interval=None):
        async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
            await peer.send(text("a"), close(4000))
            assert await ws.receive() == "a"
            await ws.send("answer")
            assert await peer.receive() == text("answer")


@unix_only
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


@unix_only
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


@unix_only
@each_role
async def test_much_in_one_read(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        await peer.send(text("first"))
        assert await ws.receive() == "first"
        for count in (1000, 3):
            await peer.send(*[binary(b"%d" % i) for i in range(count)])
            assert [await ws.receive() for _ in range(count)] == [b"%d" % i for i in range(count)]


@unix_only
@each_role
async def test_large_messages_in_large_reads(role: Role, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    messages = [bytes([i]) * 300_000 for i in range(5)]
    async with opened(role, streams=sockets(), ping_interval=None) as (ws, peer):
        nursery.start_soon(peer.send, *map(binary, messages))
        assert [await ws.receive() for _ in messages] == messages


@unix_only
async def test_cancelled_while_it_reads(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with opened(streams=sockets(), ping_interval=None) as (ws, peer):
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        with trio.move_on_after(1):
            await ws.receive()
        await peer.send(ping(b"p"), text("b"))
        assert await peer.receive() == pong(b"p")
        assert await ws.receive() == "b"
