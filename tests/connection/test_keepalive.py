"""Tests of the keepalive: a silent peer is dropped, and one that shows signs of life is not."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.exceptions import ConnectionClosedError
from trio_ws.frames import Frame, Opcode
from trio_ws.protocol import Role

from ..support import (
    Peer,
    born_open,
    close,
    each_role,
    kinds,
    lockstep_pair,
    memory_pair,
    opened,
    ping,
    pipe_pair,
    pong,
    text,
)

settle = wait_all_tasks_blocked


# -- Keepalive -------------------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize(
    "interval, allowed",
    [
        *[(20, 20), (20, 5), (5, 20), (1, 0.001), (0.001, 1), (1, 3.5)],
        # The sums of these are slightly too small because of rounding.
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
        # There was one ping per interval.
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
        # Pings continue, and the unanswered one is forgotten.
        assert [await peer.receive(), await peer.receive()] == [ping(b"\0\0\0\0"), ping(b"\0\0\0\1")]
        with pytest.raises(ConnectionClosedError):
            while True:
                await ws.receive()
        assert trio.current_time() == 45


async def test_a_byte_at_the_time_of_the_ping(autojump_clock: MockClock) -> None:
    # Bytes that arrived before the ping was queued do not answer it.
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
        assert len(connection_of(ws).keepalive._pings) == 1
        # A late pong must not answer a later ping.
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
    # The peer would answer every ping, but the reader is paused while nobody receives the messages in the inbox.
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


async def test_ping_timeout_stands_still_while_the_reader_is_paused(autojump_clock: MockClock) -> None:
    async with opened(receive_buffer=0, ping_interval=20, ping_timeout=5) as (ws, peer):
        await trio.sleep(15)
        await peer.send(text("a"))
        await trio.sleep(985)
        assert await ws.receive() == "a"
        # From here on, this end reads, and the peer is silent.
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, trio.TooSlowError)
        assert trio.current_time() == 1005


async def test_a_peer_that_only_sends_lives(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    # The peer does not read, so our ping cannot even be sent.
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
    # No ping may follow a Close frame, so a missing pong means nothing.
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
    # In a broadcast, peers that read get every message in time, and the one that does not read is dropped.
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
