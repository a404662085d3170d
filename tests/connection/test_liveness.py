"""Tests of the evidence by which a slow, stuck or silent peer is alive or dead, on pipes and on sockets.

The clock is virtual, but the sockets' buffers and the acknowledgements of the peer's system are real. The loopback
interface delivers nearly everything at once, so that the system needs no time between two steps of the clock.
"""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import ConnectionClosedError
from trio_ws.frames import Opcode
from trio_ws.protocol import Role

from ..support import Peer, Streams, close, memory_pair, opened, ping, pipe_pair, pong, sockets, text

settle = wait_all_tasks_blocked

#: Seconds by which the connection may fail late: deliveries are sampled once per second, and the last flush takes time.
LATE = 1.2


def late(kind: str, limit: float) -> float:
    """Return the seconds by which a connection may fail late that fails ``limit`` seconds after the last delivery.

    TCP has clocks of its own: an acknowledgement may come up to 0.2 s later, and so may a probe that fills the peer's
    window. On a busy machine, the virtual clock has gone on meanwhile, and the time begins again. On pipes it cannot.
    """
    return LATE + 2 * limit if kind == "TCP" else LATE


LARGE = 64 * 1024

#: Number of bytes that a slow peer reads at a time: more than its system buffers, so that this end notices it.
STEP = 10 * LARGE


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the ends of a TCP connection with small buffers."""
    listener = trio.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    with listener:
        ours = trio.socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        await ours.connect(listener.getsockname())
        theirs, _ = await listener.accept()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


@asynccontextmanager
async def talk(kind: str, role: Role = Role.SERVER, **options: Any) -> AsyncIterator[tuple[WebSocket, Peer]]:
    """A connection over a pipe or a socket, and its peer."""
    makers: dict[str, Callable[[], Streams]] = {
        "memory": memory_pair,
        "pipe": lambda: pipe_pair(LARGE),
        "sockets": sockets,
    }
    streams = await tcp_pair() if kind == "TCP" else makers[kind]()
    async with opened(role, streams, **options) as (ws, peer):
        yield ws, peer


async def take(peer: Peer, size: int) -> None:
    """Make the peer read this many bytes. The clock stands still while the system delivers them."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    threshold, clock.autojump_threshold = clock.autojump_threshold, math.inf
    while size:
        came = await peer.stream.receive_some(min(LARGE, size))
        assert came
        size -= len(came)
    clock.autojump_threshold = threshold


async def death_of(ws: WebSocket) -> tuple[float, str]:
    """Wait until the connection fails because of its peer. Return the time and the message of the cause."""
    with pytest.raises(ConnectionClosedError) as raised:
        while True:
            await ws.receive()
    assert isinstance(raised.value.__cause__, trio.TooSlowError)
    return trio.current_time(), str(raised.value.__cause__)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not report acknowledgements")

each_kind = pytest.mark.parametrize("kind", ["pipe", pytest.param("TCP", marks=linux_only)])
any_kind = pytest.mark.parametrize("kind", ["memory", "pipe", "TCP", "sockets"])


# -- A peer that reads slowly ----------------------------------------------------------------------------------------


@each_kind
async def test_a_peer_that_reads_a_large_message_slowly_lives(
    kind: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    # No ping can be sent, so no pong can arrive. The deliveries are the only sign of life.
    async with talk(kind, ping_interval=20, ping_timeout=20, max_message_size=None) as (ws, peer):
        size = 20 * STEP
        await ws.send(bytes(size))
        for _ in range(20):
            await trio.sleep(30)
            assert ws.state is trio_ws.State.OPEN
            await take(peer, STEP)
        # Once everything was delivered, a ping is sent, and it must be answered.
        started = trio.current_time()
        died, why = await death_of(ws)
        assert "after a ping" in why
        assert started + 20 <= died <= started + (40 if kind == "pipe" else 60) + late(kind, 40)


@each_kind
@pytest.mark.parametrize("interval, allowed", [(20, 20), (20, 5), (5, 20)])
async def test_a_peer_that_reads_nothing_is_dead(
    kind: str, interval: float, allowed: float, autojump_clock: MockClock
) -> None:
    async with talk(kind, ping_interval=interval, ping_timeout=allowed) as (ws, _):
        await ws.send(bytes(10_000_000))
        died, why = await death_of(ws)
        assert interval + allowed <= died <= interval + allowed + late(kind, interval + allowed)
        assert "no sign of life" in why


@each_kind
async def test_a_peer_that_stops_reading_is_dead(kind: str, autojump_clock: MockClock) -> None:
    async with talk(kind, ping_interval=20, ping_timeout=20) as (ws, peer):
        await ws.send(bytes(10_000_000))
        for _ in range(5):
            await trio.sleep(30)
            await take(peer, STEP)
        died, _ = await death_of(ws)
        assert 150 + 40 <= died <= 150 + 40 + late(kind, 40)


@any_kind
@pytest.mark.parametrize("interval, allowed", [(20, 20), (20, 5), (5, 20), (3, 0.3)])
async def test_a_silent_peer_is_dead(kind: str, interval: float, allowed: float, autojump_clock: MockClock) -> None:
    async with talk(kind, ping_interval=interval, ping_timeout=allowed) as (ws, peer):
        died, why = await death_of(ws)
        assert interval + allowed <= died <= interval + allowed + late(kind, interval + allowed)
        assert "after a ping" in why
        frames = await peer.receive_all()
        assert [frame.opcode for frame in frames] == [Opcode.PING, Opcode.CLOSE]


@any_kind
async def test_a_peer_that_answers_lives(kind: str, autojump_clock: MockClock) -> None:
    async with talk(kind, ping_interval=20, ping_timeout=5) as (ws, peer):

        async def answer() -> None:
            while (frame := await peer.receive()) is not None:
                if frame.opcode is Opcode.PING:
                    await trio.sleep(4)
                    await peer.send(pong(frame.data))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await trio.sleep(1000)
            assert ws.state is trio_ws.State.OPEN
            assert ws.latency is not None
            assert 4 <= ws.latency < 4 + LATE
            nursery.cancel_scope.cancel()


# -- write_timeout ---------------------------------------------------------------------------------------------------


async def keep_sending(peer: Peer) -> None:
    while True:
        try:
            await peer.send(text("a"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await trio.sleep(5)


@each_kind
@pytest.mark.parametrize("limit", [10, 60, 300])
async def test_a_peer_that_sends_but_does_not_read_is_dead_in_the_end(
    kind: str, limit: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with talk(kind, write_timeout=limit) as (ws, peer):
        await ws.send(bytes(10_000_000))
        nursery.start_soon(keep_sending, peer)
        died, why = await death_of(ws)
        # The acknowledgement of the bytes read at the beginning may arrive with the next bytes from the peer.
        assert limit <= died <= limit + 5 + LATE + late(kind, limit)
        assert why == f"the peer accepted no bytes for {limit:g} seconds (write_timeout)"


@each_kind
async def test_without_a_write_timeout_it_lives(kind: str, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with talk(kind, write_timeout=None) as (ws, peer):
        await ws.send(bytes(10_000_000))
        nursery.start_soon(keep_sending, peer)
        with trio.move_on_after(1000):
            while True:
                await ws.receive()
        assert ws.state is trio_ws.State.OPEN


@each_kind
async def test_a_write_timeout_without_pings(kind: str, autojump_clock: MockClock) -> None:
    async with talk(kind, ping_interval=None, write_timeout=60) as (ws, _):
        await trio.sleep(100)
        await ws.send(bytes(10_000_000))
        died, why = await death_of(ws)
        assert 160 <= died <= 160 + late(kind, 60)
        assert "write_timeout" in why


@each_kind
async def test_a_peer_that_reads_slowly_has_no_write_timeout(
    kind: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with talk(kind, ping_timeout=None, write_timeout=60) as (ws, peer):
        await ws.send(bytes(10_000_000))
        for _ in range(10):
            await trio.sleep(50)
            await take(peer, STEP)
        assert ws.state is trio_ws.State.OPEN
        died, why = await death_of(ws)
        assert 560 <= died <= 560 + late(kind, 60)
        assert "write_timeout" in why


@any_kind
async def test_no_write_timeout_while_nothing_waits(kind: str, autojump_clock: MockClock) -> None:
    async with talk(kind, ping_interval=None, write_timeout=1) as (ws, peer):
        for _ in range(5):
            await ws.send("a")
            await settle()
            await take(peer, 3)
            await trio.sleep(100)
        assert ws.state is trio_ws.State.OPEN


# -- The start of ping_timeout ---------------------------------------------------------------------------------------


@each_kind
async def test_ping_timeout_starts_with_the_delivery_of_the_ping(kind: str, autojump_clock: MockClock) -> None:
    async with talk(kind, ping_interval=20, ping_timeout=5) as (ws, peer):
        await ws.send(bytes(200_000))
        # The ping is due at 20, and cannot be sent before this.
        await trio.sleep(23)
        await take(peer, 200_010)  # with the header
        await settle()
        died, why = await death_of(ws)
        # The ping may be acknowledged only after the clock has moved on.
        assert 28 <= died <= (28 if kind == "pipe" else 48) + LATE + late(kind, 28)
        assert "after a ping" in why


@each_kind
async def test_a_ping_that_could_not_be_sent_is_answered(kind: str, autojump_clock: MockClock) -> None:
    async with talk(kind, ping_interval=20, ping_timeout=5) as (ws, peer):
        await ws.send(bytes(200_000))
        await trio.sleep(23)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.behave)
            await trio.sleep(200)
            assert ws.state is trio_ws.State.OPEN
            nursery.cancel_scope.cancel()


# -- Delays at this end ----------------------------------------------------------------------------------------------


@any_kind
async def test_time_in_which_the_reader_does_not_read_does_not_count(kind: str, autojump_clock: MockClock) -> None:
    # The peer does not read the ping either, which Unix sockets report.
    async with talk(kind, receive_buffer=0, ping_interval=20, ping_timeout=5, write_timeout=None) as (ws, peer):
        await trio.sleep(15)
        for message in ("a", "b"):  # the second one is not read
            await peer.send(text(message))
            await settle()
        await trio.sleep(985)
        assert ws.state is trio_ws.State.OPEN
        assert [await ws.receive() for _ in range(2)] == ["a", "b"]
        died, _ = await death_of(ws)
        # The Unix socket reports that the ping was not read, so its timeout does not start.
        assert 1005 <= died <= (1025 if kind == "sockets" else 1005) + LATE


async def run_to(clock: MockClock, time: float) -> None:
    """Advance the clock to a time, second by second, and run all tasks in between."""
    await settle()
    while clock.current_time() < time:
        clock.jump(1)
        await settle()


@any_kind
@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER])
async def test_held_up_while_a_pong_lies_in_the_stream(kind: str, role: Role, mock_clock: MockClock) -> None:
    async with talk(kind, role, ping_interval=20, ping_timeout=20) as (ws, peer):
        await run_to(mock_clock, 20)
        frame = await peer.receive()
        assert frame == ping(b"\0\0\0\0")
        await peer.send(pong(frame.data))
        # Nothing of this process has run in the meantime.
        mock_clock.jump(1000)
        await settle()
        assert ws.state is trio_ws.State.OPEN
        await run_to(mock_clock, mock_clock.current_time() + 10)
        assert ws.state is trio_ws.State.OPEN
        await ws.send("a")
        while (frame := await peer.receive()) != text("a"):
            assert frame is not None
            assert frame.opcode is Opcode.PING


@any_kind
async def test_held_up_before_the_peer_could_answer(kind: str, mock_clock: MockClock) -> None:
    async with talk(kind, ping_interval=20, ping_timeout=20) as (ws, peer):
        await run_to(mock_clock, 20)
        mock_clock.jump(1000)
        await settle()
        assert ws.state is trio_ws.State.OPEN
        # The peer gets its full time from here.
        await run_to(mock_clock, mock_clock.current_time() + 15)
        frame = await peer.receive()
        assert frame is not None
        await peer.send(pong(frame.data))
        await settle()
        assert ws.state is trio_ws.State.OPEN


@each_kind
async def test_held_up_during_a_write_that_goes_on(kind: str, mock_clock: MockClock) -> None:
    async with talk(kind, ping_interval=20, ping_timeout=20) as (ws, peer):
        await ws.send(bytes(10_000_000))
        await run_to(mock_clock, 5)
        mock_clock.jump(1000)
        if kind == "pipe":
            # A write to this kind of stream can be neither interrupted nor observed, so its limit includes all delays.
            await settle()
            assert ws.state is trio_ws.State.CLOSED
            return
        await settle()
        assert ws.state is trio_ws.State.OPEN
        await run_to(mock_clock, mock_clock.current_time() + 10)
        await take(peer, STEP)
        await settle()
        assert ws.state is trio_ws.State.OPEN


# -- Closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "sockets"])
async def test_the_keepalive_does_not_interrupt_the_last_writes(kind: str, autojump_clock: MockClock) -> None:
    """Closing begins before the next ping, which would be due while the last message is written."""
    message = bytes(8 * LARGE)
    async with talk(kind, ping_interval=3) as (ws, peer):
        await trio.sleep(2)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send_and_close() -> None:
                await ws.send(message)
                await ws.aclose()

            await trio.sleep(2)
            frame = await peer.receive()
            assert frame is not None
            assert frame.data == message
            assert await peer.receive() == close(1000)
            await peer.send(close(1000))
        assert ws.close_code == 1000
