"""Tests of the end of a connection: deadlines, failures and cleanup."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.connection.stream import RECEIVE_SIZE
from trio_ws.connection.websocket import connection_of
from trio_ws.exceptions import ConnectionClosedError, ConnectionClosedOK
from trio_ws.frames import Close, Frame
from trio_ws.protocol import Role

from ..support import (
    Faulty,
    Peer,
    binary,
    born_open,
    cancelled,
    close,
    memory_pair,
    opened,
    pipe_pair,
    text,
)

settle = wait_all_tasks_blocked


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


async def test_no_time_to_answer_a_close(autojump_clock: MockClock) -> None:
    """The answer is written all the same, so the end is clean."""
    async with opened(Role.SERVER, close_timeout=0) as (ws, peer):
        await peer.send(text("a"), close())
        assert await ws.receive() == "a"
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()
        assert await peer.receive_all() == [close()]
        assert trio.current_time() == 0


async def test_leaving_while_the_answer_to_a_close_is_held_back(autojump_clock: MockClock) -> None:
    # By closing, the application shows that it will not ask for the next message.
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
    # The peer cannot be asked to close. It has some time, but not more than the deadline allows.
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
            assert connection_of(ws).keepalive._pings == []


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
    # Python raises it in whatever code runs when Ctrl-C is pressed; here, that is the reader task.
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
    # The reason of this violation quotes the wrong data.
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
