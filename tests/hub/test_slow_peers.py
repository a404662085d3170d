"""When a peer is too slow for a broadcast: a burst is not slowness; a backlog and a lag are."""

from __future__ import annotations

import gc
import math
import socket
import tracemalloc
from collections.abc import Callable
from functools import partial
from sys import getsizeof
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import Hub, Instrument, WebSocket, broadcast
from trio_ws.connection.websocket import connection_of
from trio_ws.exceptions import ConnectionClosedError, ConnectionClosedOK
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.hub.broadcast import WhenFull
from trio_ws.protocol import Role

from ..cancellation import socket_pair
from ..support import (
    HANGS,
    PAIRS,
    Peer,
    Streams,
    Task,
    born_open,
    close,
    memory_pair,
    opened,
    pipe_pair,
    pong,
    text,
)

settle = wait_all_tasks_blocked

#: More than the buffers of ``socket_pair()`` and of the pipes hold.
LARGE = "x" * 40_000


def tiny_pipe() -> Streams:
    return pipe_pair(1000)


each_clogged = pytest.mark.parametrize("streams", [tiny_pipe, socket_pair], ids=["pipe", "sockets"])


async def receive_all(peer: Peer, count: int) -> list[str]:
    frames = [await peer.receive() for _ in range(count)]
    return [frame.data.decode() for frame in frames if frame is not None]


async def dropped(ws: WebSocket) -> tuple[float, ConnectionClosedError]:
    """Wait until the connection ends because the peer is slow. Return when, and the exception."""
    with pytest.raises(ConnectionClosedError) as raised:
        await ws.receive()
    assert isinstance(raised.value.__cause__, trio.TooSlowError)
    return trio.current_time(), raised.value


# -- A burst ---------------------------------------------------------------------------------------------------------

each_burst = pytest.mark.parametrize("count, size", [(400, 1000), (5_000, 100), (40, 10_000), (4, 1_000_000)])
each_way = pytest.mark.parametrize("way", ["broadcast", "publish"])


def sender(way: str, ws: WebSocket) -> Callable[[str], list[WebSocket]]:
    """Return a function that sends a message to a connection."""
    if way == "broadcast":
        return partial(broadcast, [ws])
    topic = Hub().topic("news")
    topic.hub._core.change_subscriptions("news", ws, 1)
    return topic.publish


def burst(count: int, size: int) -> list[str]:
    return [str(number).ljust(size) for number in range(count)]


@pytest.mark.parametrize("kind", ["memory", "lockstep", "pipe", "tls"])
@each_burst
@each_way
async def test_a_peer_that_reads_gets_all_of_a_burst(
    kind: str, count: int, size: int, way: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(Role.SERVER, PAIRS[kind]()) as (ws, peer):
        send = sender(way, ws)
        for message in burst(count, size):
            assert send(message) == []
        assert await receive_all(peer, count) == burst(count, size)
        await ws.send("last")
        assert await receive_all(peer, 1) == ["last"]
        await settle()
        assert connection_of(ws).outbox.size == 0


@each_burst
@each_way
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_client_of_a_server_gets_all_of_a_burst(count: int, size: int, way: str, compression: Any) -> None:
    async def handle(ws: WebSocket) -> None:
        send = sender(way, ws)
        async for _ in ws:
            for message in burst(count, size):
                assert send(message) == []

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, handle, 0, host="127.0.0.1", compression=compression))
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}/", compression=compression) as ws:
            for _ in range(2):
                await ws.send("go")
                assert [await ws.receive() for _ in range(count)] == burst(count, size)
        await server.aclose()


async def test_sending_waits_until_a_burst_has_gone_out(nursery: trio.Nursery) -> None:
    async with opened(Role.SERVER, pipe_pair(1000)) as (ws, peer):
        for message in burst(10, 40_000):
            broadcast([ws], message)
        task = Task(nursery, ws.send, "y" * 40_000)
        await settle()
        assert not task.done
        assert await receive_all(peer, 11) == [*burst(10, 40_000), "y" * 40_000]
        await settle()
        assert task.done


async def test_pings_and_pongs_pass_a_burst(nursery: trio.Nursery) -> None:
    async with opened(Role.SERVER, tiny_pipe()) as (ws, peer):
        for message in burst(50, 20_000):
            broadcast([ws], message)
        await settle()
        await peer.send(Frame(Opcode.PING, b"hello"))
        task = Task(nursery, ws.ping)
        await settle()
        seen: list[Opcode] = []
        while len(seen) < 52:
            frame = await peer.receive()
            assert frame is not None
            seen.append(frame.opcode)
            if frame.opcode is Opcode.PING:
                await peer.send(pong(frame.data))
        assert seen.index(Opcode.PONG) < 10
        assert seen.index(Opcode.PING) < 10
        await settle()
        assert task.done


# -- A backlog -------------------------------------------------------------------------------------------------------


async def test_the_limits_are_8_mib_and_10_seconds(autojump_clock: MockClock) -> None:
    for send in (broadcast, lambda ends, message: sender("publish", ends[0])(message)):
        async with opened(Role.SERVER, tiny_pipe(), close_timeout=1) as (ws, _):
            start = trio.current_time()
            count = 0
            while not send([ws], LARGE):
                count += 1
            assert 8 * 2**20 - 100_000 < count * len(LARGE) <= 8 * 2**20
            assert ws.state is trio_ws.State.CLOSING
            assert (await dropped(ws))[0] == start + 1
        async with opened(Role.SERVER, tiny_pipe(), close_timeout=1) as (ws, _):
            start = trio.current_time()
            send([ws], LARGE)
            assert start + 11 <= (await dropped(ws))[0] <= start + 11.1


@each_clogged
@pytest.mark.parametrize("when_full", ["drop", "skip", "newest"])
async def test_a_backlog_is_bounded(streams: Callable[[], Streams], when_full: WhenFull) -> None:
    message = "x" * 1000
    async with opened(Role.SERVER, streams(), close_timeout=0) as (ws, _):
        slow = []
        for _ in range(1000):
            slow += broadcast([ws], message, when_full=when_full, max_backlog=200_000)
        assert (len(slow) == 1) if when_full == "drop" else (len(slow) > 700)
        bound = 200_000 + (2000 if when_full == "newest" else 0)
        assert bound - 3000 <= connection_of(ws).outbox.size <= bound
        assert (ws.state is trio_ws.State.OPEN) == (when_full != "drop")


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("message", ["", "a", "x" * 1000])
async def test_memory_is_bounded(compress: bool, message: str) -> None:
    async with opened(Role.SERVER, tiny_pipe(), close_timeout=0) as (ws, _):
        gc.collect()
        tracemalloc.start()
        for number in range(6_000):
            fresh = f"{number}{message}" if message else ""
            broadcast([ws], fresh, compress=compress, when_full="skip", max_backlog=250_000)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert used < 330_000


async def test_a_message_to_many_counts_for_each() -> None:
    async with opened(Role.SERVER, tiny_pipe(), close_timeout=0) as (one, _):
        async with opened(Role.SERVER, tiny_pipe(), close_timeout=0) as (two, _):
            broadcast([one, two], b"x" * 1000)
            for ws in (one, two):
                assert connection_of(ws).outbox.size > getsizeof(b"x" * 1000)


@pytest.mark.parametrize("when_full", ["drop", "skip", "newest"])
async def test_without_limits(when_full: WhenFull, autojump_clock: MockClock) -> None:
    async with opened(Role.SERVER, tiny_pipe(), ping_interval=None, write_timeout=None) as (ws, peer):
        for _ in range(1000):
            assert broadcast([ws], LARGE, when_full=when_full, max_backlog=None, max_lag=None) == []
        await trio.sleep(1000)
        assert broadcast([ws], "last", when_full=when_full, max_backlog=None, max_lag=None) == []
        assert ws.state is trio_ws.State.OPEN
        await peer.stream.aclose()


async def test_what_waits_is_told_to_instruments() -> None:
    sizes: list[int] = []

    class Sizes(Instrument):
        def queue_changed(self, ws: object, inbox: int, outbox: int) -> None:
            sizes.append(outbox)

    async with opened(Role.SERVER, pipe_pair(1000), instruments=[Sizes()]) as (ws, peer):
        for message in burst(10, 40_000):
            broadcast([ws], message)
            assert sizes[-1] == connection_of(ws).outbox.size
        assert sizes == sorted(sizes)
        assert sizes[-1] > 400_000
        broadcast([ws], LARGE, when_full="newest", max_backlog=0)
        assert sizes[-1] > 440_000
        await receive_all(peer, 11)
        await settle()
        assert sizes[-1] == 0


# -- A lag -----------------------------------------------------------------------------------------------------------


@each_clogged
@each_way
async def test_a_timer_drops_a_peer_that_reads_nothing(
    streams: Callable[[], Streams], way: str, autojump_clock: MockClock
) -> None:
    async with opened(Role.SERVER, streams(), close_timeout=3) as (ws, _):
        await trio.sleep(5)
        sender(way, ws)(LARGE)
        await trio.sleep(9.9)
        assert "open" in repr(ws)
        await trio.sleep(0.2)
        assert "closing" in repr(ws)
        at, error = await dropped(ws)
        assert 18 <= at <= 18.2
        assert "10 seconds" in str(error.__cause__)


@each_clogged
async def test_a_dropped_peer_that_reads_again_learns_why(
    streams: Callable[[], Streams], autojump_clock: MockClock
) -> None:
    async with opened(Role.SERVER, streams()) as (ws, peer):
        broadcast([ws], LARGE, max_lag=2)
        broadcast([ws], "a", max_lag=2)
        await trio.sleep(3)
        assert broadcast([ws], "too late") == []  # it is closing
        assert await peer.behave() == [text(LARGE), text("a"), close(1013, "too slow")]
        _, error = await dropped(ws)
        assert error.sent == Close(1013, "too slow")


@each_clogged
async def test_one_message_after_another_in_time(streams: Callable[[], Streams], autojump_clock: MockClock) -> None:
    # There is always one that waits, but none for long.
    async with opened(Role.SERVER, streams(), ping_interval=None) as (ws, peer):
        for number in range(30):
            for _ in range(2 if number == 0 else 1):
                assert broadcast([ws], LARGE) == []
            await trio.sleep(4)
            assert await peer.receive() == text(LARGE)
        assert ws.state is trio_ws.State.OPEN
        assert trio.current_time() == 120
        assert await peer.receive() == text(LARGE)


async def test_the_oldest_message_counts(autojump_clock: MockClock) -> None:
    # The messages take longer and longer to get through.
    async with opened(Role.SERVER, tiny_pipe(), close_timeout=1000) as (ws, peer):
        for number in range(100):
            broadcast([ws], str(number))
            broadcast([ws], LARGE)
            await trio.sleep(1)
            if ws.state is not trio_ws.State.OPEN:
                break
            if number % 2:
                await receive_all(peer, 1)
        assert 10 <= trio.current_time() <= 30


@each_clogged
async def test_messages_behind_a_sender_have_a_limit_too(
    streams: Callable[[], Streams], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async with opened(Role.SERVER, streams(), close_timeout=3) as (ws, _):
        await ws.send(LARGE)
        waiting = Task(nursery, ws.send, LARGE)
        await settle()
        broadcast([ws], "a")
        assert 13 <= (await dropped(ws))[0] <= 13.2
        await settle()
        assert waiting.done


@each_clogged
async def test_messages_behind_parts_have_a_limit_too(
    streams: Callable[[], Streams], autojump_clock: MockClock
) -> None:
    async with opened(Role.SERVER, streams(), close_timeout=3, ping_interval=None) as (ws, _):
        with pytest.raises(ConnectionClosedError):
            async with ws.send_stream(text=True) as out:
                broadcast([ws], "a")
                await trio.sleep(100)
                # Until here, it is not the peer that takes its time.
                assert ws.state is trio_ws.State.OPEN
                while True:
                    await out.send(LARGE)
        assert 109 <= trio.current_time() <= 114


async def test_a_peer_is_not_to_blame_for_a_message_in_parts(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with opened(Role.SERVER, ping_interval=None) as (ws, peer):
        async with ws.send_stream(text=True) as out:
            for _ in range(10):
                assert broadcast([ws], "a") == []
                await trio.sleep(7)
                await out.send("part")
                assert (await peer.receive() or text("")).data == b"part"
        assert len(await receive_all(peer, 11)) == 11
        assert ws.state is trio_ws.State.OPEN


async def test_nor_for_a_message_that_is_abandoned(autojump_clock: MockClock) -> None:
    async with opened(Role.SERVER, tiny_pipe(), ping_interval=None) as (ws, peer):
        with pytest.raises(ZeroDivisionError):
            async with ws.send_stream():
                broadcast([ws], LARGE)
                await trio.sleep(100)
                raise ZeroDivisionError
        await trio.sleep(9)
        assert ws.state is trio_ws.State.OPEN
        assert await receive_all(peer, 1) == [LARGE]


@pytest.mark.parametrize("streams", [pipe_pair, socket_pair], ids=["pipe", "sockets"])
async def test_a_large_message_that_makes_progress_is_not_late(
    streams: Callable[[], Streams], autojump_clock: MockClock
) -> None:
    async with opened(Role.SERVER, streams(), close_timeout=1) as (ws, peer):
        broadcast([ws], "x" * 2_000_000)
        for _ in range(20):
            await trio.sleep(8)
            left = 70_000  # more than a piece, so that this is seen
            while left > 0:
                left -= len(await peer.stream.receive_some(left))
        assert ws.state is trio_ws.State.OPEN
        assert 170 <= (await dropped(ws))[0] <= 172


@pytest.mark.parametrize("when_full", ["skip", "newest"])
@each_clogged
async def test_other_policies_after_the_lag(
    streams: Callable[[], Streams], when_full: WhenFull, autojump_clock: MockClock
) -> None:
    async with opened(Role.SERVER, streams(), ping_interval=None) as (ws, peer):
        post = partial(broadcast, [ws], when_full=when_full)
        assert post(LARGE) == []
        await trio.sleep(9)
        assert post("in time") == []
        await trio.sleep(2)
        assert [post(message) for message in "abc"] == [[ws]] * 3
        assert ws.state is trio_ws.State.OPEN
        assert await receive_all(peer, 2) == [LARGE, "in time"]
        await settle()
        assert post("again") == []
        assert await receive_all(peer, 1 + (when_full == "newest")) == ["c", "again"][when_full == "skip" :]


async def test_each_message_has_its_own_limit(autojump_clock: MockClock) -> None:
    async with opened(Role.SERVER, tiny_pipe(), close_timeout=1) as (ws, _):
        broadcast([ws], LARGE, max_lag=30)
        await trio.sleep(1)
        broadcast([ws], "a", max_lag=None)
        broadcast([ws], "b", max_lag=4, when_full="skip")
        await trio.sleep(1)
        broadcast([ws], "c", max_lag=20)
        assert 22 + 1 <= (await dropped(ws))[0] <= 22 + 1.1


async def test_a_process_that_was_held_up(autojump_clock: MockClock) -> None:
    async with opened(Role.SERVER, tiny_pipe(), close_timeout=1, ping_interval=None) as (ws, _):
        broadcast([ws], LARGE)
        await settle()
        autojump_clock.jump(10.5)  # nothing has run meanwhile
        assert broadcast([ws], "a") == []
        await trio.sleep(9)
        assert ws.state is trio_ws.State.OPEN
        assert 20.5 <= (await dropped(ws))[0] <= 21.7


@each_clogged
async def test_closing_ends_the_timer(streams: Callable[[], Streams], autojump_clock: MockClock) -> None:
    ours, theirs = streams()
    async with born_open(ours, Role.SERVER) as ws:
        peer = Peer(theirs, Role.CLIENT)
        broadcast([ws], LARGE)
        await settle()
        await ws.send_close(1001)
        await trio.sleep(9)
        nursery = trio.lowlevel.current_task().child_nurseries[-1]
        assert len(nursery.child_tasks) == 2
        frames = await peer.behave()
        assert frames == [text(LARGE), close(1001)]
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()
        await trio.aclose_forcefully(theirs)
    assert trio.current_time() < 10


async def test_nothing_is_left_of_the_timer(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    async with born_open(ours, Role.SERVER) as ws:
        nursery = trio.lowlevel.current_task().child_nurseries[-1]
        broadcast([ws], "a")
        assert len(nursery.child_tasks) == 3
        broadcast([ws], "b")
        assert len(nursery.child_tasks) == 3
        await trio.sleep(3)
        assert len(nursery.child_tasks) == 2
        await trio.aclose_forcefully(theirs)


# -- The limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits, error, message",
    [
        ({"max_backlog": -1}, ValueError, "max_backlog must be at least 0, not -1"),
        ({"max_backlog": 1.5}, TypeError, "max_backlog must be a whole number or None, not 1.5"),
        ({"max_backlog": True}, TypeError, "max_backlog must be a whole number or None, not True"),
        ({"max_backlog": "1"}, TypeError, "max_backlog must be a whole number or None, not '1'"),
        ({"max_lag": 0}, ValueError, "max_lag must be greater than 0, not 0"),
        ({"max_lag": -1.5}, ValueError, "max_lag must be greater than 0, not -1.5"),
        ({"max_lag": math.nan}, ValueError, "max_lag must be greater than 0, not nan"),
        ({"max_lag": False}, TypeError, "max_lag must be a number or None, not False"),
        ({"max_lag": "1"}, TypeError, "max_lag must be a number or None, not '1'"),
    ],
)
async def test_invalid_limits(limits: dict[str, Any], error: type[Exception], message: str) -> None:
    for call in (partial(broadcast, [], "a", **limits), partial(Hub, **limits)):
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value) == message


async def test_a_hub_with_limits(autojump_clock: MockClock) -> None:
    topic = Hub(max_backlog=50_000, max_lag=3).topic("news")
    async with opened(Role.SERVER, tiny_pipe(), close_timeout=1) as (one, _):
        async with opened(Role.SERVER, tiny_pipe(), close_timeout=1) as (two, _):
            with topic.subscribe(one), topic.subscribe(two):
                assert topic.publish(LARGE) == []
                assert topic.publish(LARGE, exclude=[two]) == [one]
                assert 4 <= (await dropped(two))[0] <= 4.1


@pytest.mark.usefixtures("short_limits")
async def test_real_time() -> None:
    # A client that does not read, and a server with nothing else to do.
    ended = trio.Event()

    async def handle(ws: WebSocket) -> None:
        broadcast([ws], bytes(4_000_000), max_lag=0.1)
        broadcast([ws], bytes(4_000_000), max_lag=0.1)
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, trio.TooSlowError)
        ended.set()

    async with trio.open_nursery() as nursery:
        serve = partial(trio_ws.serve, handle, 0, host="127.0.0.1", compression=None, close_timeout=0.1)
        server = await nursery.start(serve)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stream.send_all(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with trio.fail_after(HANGS):
            await ended.wait()
            await server.aclose()
        await stream.aclose()
