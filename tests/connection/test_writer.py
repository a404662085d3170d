"""Tests of the writer task: the order and the time of writes."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.connection.websocket import connection_of
from trio_ws.exceptions import ConnectionClosedLocally
from trio_ws.testing import Split

from ..cancellation import socket_pair
from ..support import (
    Faulty,
    binary,
    cancelled,
    close,
    memory_pair,
    opened,
    parse_frames,
    ping,
    pipe_pair,
    pong,
    text,
)
from ..taps import sockets_only, tapping

settle = wait_all_tasks_blocked


# -- Writes ----------------------------------------------------------------------------------------------------------


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
    # The deadline cancels the write. After that, a Close frame would be read as payload.
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), close_timeout=5) as (ws, peer):
        await ws.send(b"x" * 100)
        await ws.aclose()
        assert trio.current_time() == 5
        frames, rest = parse_frames(await peer.receive_bytes(), masked=True)
        assert frames == []
        assert len(rest) == 10


async def test_cancelled_with_messages_in_the_outbox(autojump_clock: MockClock) -> None:
    # Everything that was sent is written, if that takes no waiting.
    async with opened() as (ws, peer):
        for i in range(5):
            await ws.send(b"%d" % i)
        assert await cancelled(partial(ws.aclose, 4000))
        assert await peer.receive_all() == [*[binary(b"%d" % i) for i in range(5)], close(4000)]


@sockets_only
async def test_cancelled_in_the_middle_of_the_close_frame(autojump_clock: MockClock) -> None:
    # On a socket it is known how much of it is written, so the rest follows.
    ours, theirs = socket_pair()
    assert isinstance(ours, trio.SocketStream)
    with tapping() as taps:
        tap = taps.add(ours)
        async with opened(streams=(ours, theirs)) as (ws, peer):
            await ws.send(b"x" * 1000)
            await settle()
            tap.writing.faults.append(Split(tap.sent + 1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.aclose, 4000)
                await settle()
                assert tap.sent == tap.write_began + 1  # and now it waits: the system says that there is no room
                nursery.cancel_scope.cancel()
            assert await peer.receive_all() == [binary(b"x" * 1000), close(4000)]


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


async def test_a_withdrawn_ping_leaves_nothing_to_write(nursery: trio.Nursery) -> None:
    # The ping that woke the writer is withdrawn before it looks. It must neither write an empty chunk nor stop.
    ours, theirs = pipe_pair()
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await settle()
        keepalive = connection_of(ws).keepalive
        sent = keepalive.send_ping(b"a")
        keepalive.withdraw_ping(sent)
        keepalive.withdraw_ping(sent)
        await settle()
        assert ours.writes == 0
        await ws.send("next")
        assert await peer.receive() == text("next")
