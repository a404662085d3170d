"""Streams that have more to send than their connection has room for take turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.connection.stream import StreamAdapter
from trio_ws.http2.connection import HTTP2Connection
from trio_ws.http2.floods import MAX_USELESS, UPDATES_PER_FRAME
from trio_ws.http2.stream import HTTP2Stream

from .peers import (
    CANCEL,
    CONNECT,
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawPeer,
    close_frame,
    frame,
    masked,
    raw_client,
    serving,
    settings,
)

#: The window of a connection in the beginning (RFC 9113, section 6.9.2).
FIRST_WINDOW = 65_535


def update(size: int, stream: int = 0) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


class Count(trio.abc.Instrument):
    """Counts the steps of tasks whose names end with a text."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += task.name.endswith(self.name)


async def send_much(ws: trio_ws.ServerWebSocket) -> None:
    await ws.send(bytes(100_000))
    await trio.sleep_forever()


@asynccontextmanager
async def waiting_streams(count: int, handler: Any = send_much, **options: Any) -> AsyncIterator[RawPeer]:
    """Yield a client that has opened streams which all have more to send than the window of the connection allows."""
    options = {"ping_interval": None, "write_timeout": None, **options}
    async with serving(handler, **options) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start(INITIAL_WINDOW_SIZE=2**30)
        await peer.send(b"".join(peer.headers(stream, CONNECT) for stream in range(1, 2 * count, 2)))
        size = 0
        while size < FIRST_WINDOW:
            size += len((await peer.receive_kind(DATA)).payload)
        opened = {each.stream for each in peer.frames if each.kind == HEADERS}
        while len(opened) < count:
            opened.add((await peer.receive_kind(HEADERS)).stream)
        await trio.testing.wait_all_tasks_blocked()
        yield peer


async def receive_sizes(peer: RawPeer, total: int) -> list[int]:
    """Receive a number of bytes, and return the streams of the frames."""
    found: list[int] = []
    while total > 0:
        received = await peer.receive_kind(DATA)
        found.append(received.stream)
        total -= len(received.payload)
    assert total == 0
    return found


async def take_turn(peer: RawPeer, size: int = 1000) -> int:
    """Give the connection some room, and return the stream that has used it."""
    await peer.send(update(size))
    (stream,) = set(await receive_sizes(peer, size))
    return stream


async def test_a_window_update_wakes_one_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with waiting_streams(100) as peer:
        count = Count("write_loop")
        trio.lowlevel.add_instrument(count)
        for _ in range(20):
            await take_turn(peer)
        trio.lowlevel.remove_instrument(count)
        # Not 100 for each; the writer of the HTTP/2 connection runs, too.
        assert count.steps <= 3 * 20


async def test_streams_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    async with waiting_streams(5) as peer:
        order = [await take_turn(peer) for _ in range(15)]
        assert sorted(order[:5]) == [1, 3, 5, 7, 9]
        assert order == 3 * order[:5]


async def test_streams_keep_their_places(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever waits for long looks for signs of life now and then; that is no reason to go to the end."""
    async with waiting_streams(5, ping_interval=1e5, ping_timeout=1e5, write_timeout=1e6) as peer:
        order = []
        for _ in range(15):
            await trio.sleep(1.7)
            order.append(await take_turn(peer))
        assert order == 3 * order[:5]


async def test_room_that_is_left_goes_to_the_next(autojump_clock: trio.testing.MockClock) -> None:
    async with waiting_streams(3) as peer:
        order = [await take_turn(peer) for _ in range(3)]
        # The rest of the first one, and some more.
        await peer.send(update(100_000))
        streams = await receive_sizes(peer, 100_000)
        assert order[0] in streams
        assert order[1] in streams


async def test_a_stream_without_a_window_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with waiting_streams(3) as peer:
        order = [await take_turn(peer) for _ in range(3)]
        # From now on, no stream has a window, and so the first one gives its turn away.
        await peer.send(settings(INITIAL_WINDOW_SIZE=0))
        await peer.receive(lambda each: each.kind == SETTINGS and each.flags)
        await peer.send(update(1000))
        await trio.testing.wait_all_tasks_blocked()
        # Until one of them gets one.
        await peer.send(update(2**30, order[1]))
        assert set(await receive_sizes(peer, 1000)) == {order[1]}
        assert await take_turn(peer) == order[1]
        # So do all others.
        await peer.send(settings(INITIAL_WINDOW_SIZE=2**30 - 1))
        assert {await take_turn(peer) for _ in range(3)} == set(order)


@pytest.mark.parametrize("together", [False, True], ids=["before", "at the same time"])
async def test_a_stream_that_is_reset_gives_its_turn_away(
    together: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with waiting_streams(3) as peer:
        order = [await take_turn(peer) for _ in range(3)]
        reset = frame(RST_STREAM, 0, order[0], CANCEL.to_bytes(4, "big"))
        if together:
            await peer.send(update(1000) + reset)  # it was woken already
        else:
            await peer.send(reset + update(1000))
        assert set(await receive_sizes(peer, 1000)) == {order[1]}


async def test_a_sender_that_is_cancelled_gives_its_turn_away(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    transport = StreamAdapter(near)
    connection = HTTP2Connection(transport, is_client=True, max_streams=10, max_head_size=1000, max_headers=10)
    peer = RawPeer(far, is_client=False)
    scopes = [trio.CancelScope() for _ in range(4)]

    async def send(stream: HTTP2Stream, scope: trio.CancelScope) -> None:
        with scope:
            await stream.send_all(bytes(FIRST_WINDOW + 1000))

    async with trio.open_nursery() as nursery:
        connection.start(nursery)
        await peer.start(INITIAL_WINDOW_SIZE=2**30)
        for scope in scopes:
            stream = connection.open_stream([(b":method", b"CONNECT"), (b":protocol", b"websocket")])
            stream.open_tunnel()
            nursery.start_soon(send, stream, scope)
            await trio.testing.wait_all_tasks_blocked()
        await receive_sizes(peer, FIRST_WINDOW)
        # The first one would send its rest, and the second one something.
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert await take_turn(peer) == 3
        # Now the third one is first. It is woken, and cancelled before it runs.
        connection.protocol.h2.outbound_flow_control_window += 1000
        connection.output.wake_first()
        scopes[2].cancel()
        assert set(await receive_sizes(peer, 1000)) <= {5, 7}
        for _ in range(4):
            assert await take_turn(peer) in (3, 7)
        for scope in scopes:
            scope.cancel()
        await connection.aclose(0)


async def test_a_sender_whose_stream_is_ended_holds_up_nobody(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    transport = StreamAdapter(near)
    connection = HTTP2Connection(transport, is_client=True, max_streams=10, max_head_size=1000, max_headers=10)
    peer = RawPeer(far, is_client=False)
    streams: list[HTTP2Stream] = []

    async def send(stream: HTTP2Stream, error: type[Exception] | None) -> None:
        if error is None:
            await stream.send_all(bytes(1000))
        else:
            with pytest.raises(error):
                await stream.send_all(bytes(FIRST_WINDOW + 1000))

    async with trio.open_nursery() as nursery:
        connection.start(nursery)
        await peer.start(INITIAL_WINDOW_SIZE=2**30)
        for error in (trio.ClosedResourceError, None):
            streams.append(connection.open_stream([(b":method", b"CONNECT"), (b":protocol", b"websocket")]))
            streams[-1].open_tunnel()
            nursery.start_soon(send, streams[-1], error)
            await trio.testing.wait_all_tasks_blocked()
        await receive_sizes(peer, FIRST_WINDOW)
        streams[0].end_now()
        assert (await peer.receive_kind(DATA, 1)).ends
        assert await take_turn(peer) == 3
        await connection.aclose(0)


async def test_a_flood_of_window_updates(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing was sent for which they could give room back."""
    async with raw_client() as peer:
        await peer.open()
        try:
            for _ in range(MAX_USELESS + 10):
                await peer.send(update(1))
        except trio.BrokenResourceError:
            pass
        frames = await peer.receive_all()
        assert [each.code for each in frames if each.kind == GOAWAY] == [ENHANCE_YOUR_CALM]


async def test_window_updates_that_dribble(autojump_clock: trio.testing.MockClock) -> None:
    """Each byte of room makes the server send a frame of one byte (CVE-2019-9511)."""
    async with waiting_streams(2) as peer:
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            for _ in range(MAX_USELESS + 200):
                await peer.send(update(1))
                await receive_sizes(peer, 1)
        assert [each.code for each in peer.frames if each.kind == GOAWAY] == [ENHANCE_YOUR_CALM]


@pytest.mark.parametrize("size", [1, 100])
async def test_window_updates_for_small_messages_are_no_flood(
    size: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with raw_client(ping_interval=None) as peer:
        await peer.open()
        message = frame(DATA, 0, 1, masked(bytes(size)))
        for _ in range(MAX_USELESS):
            await peer.send(message)
            count = len((await peer.receive_kind(DATA)).payload)
            for _ in range(UPDATES_PER_FRAME // 2):
                await peer.send(update(count, 1) + update(count))
        await peer.send(frame(DATA, 0, 1, close_frame()))
        await peer.receive_kind(DATA)
        assert trio.current_time() < 5


async def test_window_updates_for_parts_of_a_frame_are_no_flood(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await ws.send(bytes(4_000_000))

    async with raw_client(handler, ping_interval=None) as peer:
        await peer.open()
        rest = 4_000_000
        while rest > 0:
            size = len((await peer.receive_kind(DATA)).payload)
            rest -= size
            while size > 0:
                part = min(size, 1024)
                await peer.send(update(part, 1) + update(part))
                size -= part
