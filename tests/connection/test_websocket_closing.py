"""Tests of the end of a WebSocket: closed by either end, lost, failed, and all ways to leave the block."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection.session import Session
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidData,
    MessageTooBig,
    ProtocolError,
)
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import Role

from ..support import (
    HANGS,
    OTHER,
    PAIRS,
    URI,
    Faulty,
    Peer,
    binary,
    born_open,
    cancelled,
    close,
    cont,
    each_pair,
    each_role,
    lockstep_pair,
    memory_pair,
    opened,
    ping,
    pipe_pair,
    pong,
    stream_parts,
    text,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

settle = wait_all_tasks_blocked


# -- Closing by this end ---------------------------------------------------------------------------------------------


@each_role
@each_pair
async def test_aclose(role: Role, kind: str, nursery: trio.Nursery) -> None:
    streams = PAIRS[kind]()
    ours, theirs = streams if role is Role.CLIENT else streams[::-1]
    peer = Peer(theirs, OTHER[role])
    seen: list[Frame] = []

    async def behave() -> None:
        seen.extend(await peer.behave())

    nursery.start_soon(behave)
    async with born_open(ours, role) as ws:
        await ws.send("last words")
        await ws.aclose(4000, "bye")
        assert "closed" in repr(ws)
        # Closing twice is allowed, and so is leaving the block after that.
        await ws.aclose()
        await ws.aclose(4001)
        for call in (ws.receive, partial(ws.send, "a"), ws.ping, ws.send_stream().__aenter__):
            with pytest.raises(ConnectionClosedLocally) as raised:
                await call()
            assert isinstance(raised.value, trio.ClosedResourceError)
            assert raised.value.sent == raised.value.rcvd == Close(4000, "bye")
            assert raised.value.rcvd_then_sent is False
    await settle()
    assert seen == [text("last words"), close(4000, "bye")]


async def test_aclose_drops_what_was_not_received() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("unread"), text("half", fin=False))
        await settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.behave)
            await ws.aclose()
        with pytest.raises(ConnectionClosedLocally):
            await ws.receive()
        with pytest.raises(ConnectionClosedLocally):
            await ws.receive_stream().__aenter__()


async def check_still_open(ws: WebSocket, peer: Peer) -> None:
    """Check that nothing has changed. In particular, this end does not count as the one that has closed."""
    await ws.send("still here")
    assert await peer.receive() == text("still here")
    await peer.send(text("still there"), close())
    assert await ws.receive() == "still there"
    with pytest.raises(ConnectionClosedOK):
        await ws.receive()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1])
async def test_codes_that_may_not_be_sent(code: int) -> None:
    async with opened() as (ws, peer):
        for closing in (ws.aclose, ws.send_close):
            with pytest.raises(ValueError):
                await closing(code)
        await check_still_open(ws, peer)


@pytest.mark.parametrize("reason", ["x" * 124, "é" * 62, "\ud800"])
async def test_reasons_that_may_not_be_sent(reason: str) -> None:
    async with opened() as (ws, peer):
        for closing in (ws.aclose, ws.send_close):
            with pytest.raises(ValueError):
                await closing(1000, reason)
        await check_still_open(ws, peer)


@pytest.mark.parametrize("args", [("1000",), (None,), (True,), (1000, b"why"), (1000, None)])
async def test_codes_and_reasons_of_the_wrong_type(args: tuple[Any, ...]) -> None:
    async with opened() as (ws, peer):
        for closing in (ws.aclose, ws.send_close):
            with pytest.raises(TypeError):
                await closing(*args)
        await check_still_open(ws, peer)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
async def test_codes_that_may_be_sent(code: int) -> None:
    async with opened() as (ws, peer):
        await ws.send_close(code, "x" * 123)
        assert await peer.receive() == close(code, "x" * 123)


async def test_aclose_lets_others_know(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        outcomes: dict[str, ConnectionClosed] = {}

        async def call(name: str, function: Callable[[], Awaitable[object]]) -> None:
            try:
                await function()
            except ConnectionClosed as exc:
                outcomes[name] = exc

        async def iterate() -> None:
            async for _ in ws:
                raise AssertionError

        async def receive_in_parts() -> None:
            async with ws.receive_stream():
                raise AssertionError

        await ws.send(b"x" * 100)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "receive": ws.receive,
            "receive, too": ws.receive,
            "receive_stream": receive_in_parts,
            "send": partial(ws.send, "a"),
            "send_stream": partial(stream_parts, ws, b"a"),
            "ping": ws.ping,
            "iterate": iterate,
        }
        for name, function in calls.items():
            nursery.start_soon(call, name, function)
            await settle()
        nursery.start_soon(partial(peer.behave, pongs=False))
        await ws.aclose(1001)
        await settle()
        # A normal closure ends an iteration.
        assert set(outcomes) == set(calls) - {"iterate"}
        for exc in outcomes.values():
            assert type(exc) is ConnectionClosedLocally
            assert exc.rcvd == exc.sent == Close(1001, "")


async def test_iteration_when_this_end_closes_with_an_error(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        raised: list[ConnectionClosed] = []

        async def iterate() -> None:
            try:
                async for _ in ws:
                    raise AssertionError
            except ConnectionClosed as exc:
                raised.append(exc)

        nursery.start_soon(iterate)
        nursery.start_soon(peer.behave)
        await settle()
        await ws.aclose(1011)
        await settle()
        assert [type(exc) for exc in raised] == [ConnectionClosedLocally]


async def test_several_close_at_the_same_time(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        done = []

        async def close_with(code: int) -> None:
            await ws.aclose(code)
            done.append(code)

        for code in (4000, 4001, 4002):
            nursery.start_soon(close_with, code)
            await settle()
        assert await peer.receive() == close(4000)
        assert done == []
        await peer.send(close(4000))
        await peer.stream.aclose()
        await settle()
        assert sorted(done) == [4000, 4001, 4002]


async def test_ping_and_messages_during_the_closing_handshake(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        nursery.start_soon(ws.aclose)
        assert await peer.receive() == close()
        await peer.send(ping(b"a"), text("late"), text("half", fin=False), pong(b"b"), ping(b"c"))
        await settle()
        await peer.send(cont(b"", fin=True), close(4000))
        await peer.stream.send_eof()  # type: ignore[attr-defined]  # this one can
        # Nothing may follow our Close frame.
        assert await peer.receive() is None
        with pytest.raises(ConnectionClosedLocally) as raised:
            await ws.receive()
        assert raised.value.code == 4000


async def test_both_close_at_the_same_time(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        # Neither end has seen the Close frame of the other.
        await ws.send_close(4001, "ours")
        await peer.send(close(4000, "theirs"))
        assert await peer.receive() == close(4001, "ours")
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert (raised.value.rcvd, raised.value.sent) == (Close(4000, "theirs"), Close(4001, "ours"))
        assert raised.value.rcvd_then_sent is False


async def test_aclose_during_a_write(nursery: trio.Nursery) -> None:
    # The Close frame is queued while the writer waits for the stream. It must not wait for the deadline.
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await ws.send(b"x" * 100)
        await settle()
        await ws.send("y")
        nursery.start_soon(ws.aclose, 4000)
        await settle()
        assert [await peer.receive() for _ in range(3)] == [binary(b"x" * 100), text("y"), close(4000)]


@each_role
async def test_aclose_when_the_peer_ignores_it(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, close_timeout=7) as (ws, peer):
        start = trio.current_time()
        await ws.aclose()
        assert trio.current_time() - start == 7
        assert await peer.receive_all() == [close()]
        with pytest.raises(ConnectionClosedLocally) as raised:
            await ws.receive()
        assert (raised.value.rcvd, raised.value.sent) == (None, Close(1000, ""))
        with pytest.raises(ConnectionClosedLocally):
            async for _ in ws:
                raise AssertionError


async def test_aclose_when_the_server_does_not_hang_up(autojump_clock: MockClock) -> None:
    async with opened(Role.CLIENT, close_timeout=7) as (ws, peer):
        await peer.send(close())
        await settle()
        # The client knows the outcome, but the server must close the stream first (RFC 6455, section 7.1.1).
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()
        start = trio.current_time()
        await ws.aclose()
        assert trio.current_time() - start == 7


async def test_a_server_hangs_up_at_once(autojump_clock: MockClock) -> None:
    async with opened(Role.SERVER) as (ws, peer):
        await peer.send(close(1000))
        start = trio.current_time()
        await ws.aclose()
        assert trio.current_time() == start
        assert await peer.receive_all() == [close(1000)]


async def test_aclose_when_the_peer_does_not_read(autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), close_timeout=7) as (ws, _):
        await ws.send(b"x" * 1000)
        start = trio.current_time()
        await ws.aclose()
        assert trio.current_time() - start == 7
        assert ours.closed


async def test_aclose_in_a_cancelled_scope(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        await ws.send("before")
        start = trio.current_time()
        assert await cancelled(partial(ws.aclose, 4000))
        assert trio.current_time() == start
        assert await peer.receive_all() == [text("before"), close(4000)]
        # The connection is closed, so this does nothing, but it is a checkpoint.
        await ws.aclose()
        assert await cancelled(ws.aclose)
        assert trio.current_time() == start


async def test_aclose_in_a_cancelled_scope_when_the_stream_is_clogged(autojump_clock: MockClock) -> None:
    for streams in (lockstep_pair(), pipe_pair(10)):
        ours = Faulty(streams[0], closing=trio.Event())
        async with opened(streams=(ours, streams[1])) as (ws, _):
            await ws.send(b"x" * 1000)
            start = trio.current_time()
            assert await cancelled(ws.aclose)
            assert trio.current_time() - start <= 0.2


async def test_aclose_cancelled_while_it_waits(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        with trio.move_on_after(3) as scope:
            await ws.aclose()
        assert scope.cancelled_caught
        assert trio.current_time() == 3
        assert await peer.receive_all() == [close()]


async def test_leaving_with_a_backlog_that_nobody_reads(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1000)
    peer = Peer(theirs)

    async def flood() -> None:
        for _ in range(1000):
            await peer.send(text("x" * 1000))
        await peer.behave()

    nursery.start_soon(flood)
    async with born_open(ours, receive_buffer=5000) as ws:
        assert await ws.receive() == "x" * 1000
        await settle()
    assert ours.closed
    assert trio.current_time() == 0


async def test_the_deadline_is_absolute(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    ours, theirs = memory_pair()
    peer = Peer(theirs)
    received: list[Frame] = []

    async def trickle() -> None:
        try:
            while True:
                await peer.send(text("x"), ping(b"y"), text("half", fin=False), cont(b"", fin=True))
                await trio.sleep(0.5)
        except trio.BrokenResourceError:
            received.extend(await peer.receive_all())

    nursery.start_soon(trickle)
    async with born_open(ours, close_timeout=7) as ws:
        assert await ws.receive() == "x"
    assert trio.current_time() == 7
    await trio.sleep(1)
    assert received[-1] == close()


# -- send_close ------------------------------------------------------------------------------------------------------


async def test_send_close_leaves_the_other_direction_open(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        await ws.send("before")
        await ws.send_close(4000, "done")
        await ws.send_close(4001)
        assert [await peer.receive() for _ in range(2)] == [text("before"), close(4000, "done")]
        await trio.sleep(5)
        await peer.send(text("last"), close(4000, "done"))
        assert await ws.receive() == "last"
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert raised.value.rcvd == raised.value.sent == Close(4000, "done")


async def test_nothing_is_sent_after_send_close(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        await ws.send_close()
        nursery.start_soon(peer.behave)
        for call in (partial(ws.send, "a"), partial(stream_parts, ws), ws.ping):
            with pytest.raises(ConnectionClosedOK):
                await call()


async def test_send_close_has_a_deadline(autojump_clock: MockClock) -> None:
    async with opened(close_timeout=7) as (ws, peer):
        await peer.send(text("before"))
        await ws.send_close()
        assert await ws.receive() == "before"
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert trio.current_time() == 7
        assert (raised.value.rcvd, raised.value.sent) == (None, Close(1000, ""))


# -- Closing by the peer ---------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize("code", [1000, 1001])
async def test_normal_closure(role: Role, code: int) -> None:
    async with opened(role) as (ws, peer):
        await peer.send(text("a"), close(code, "bye"))
        assert await ws.receive() == "a"
        for call in (ws.receive, partial(ws.send, "a"), ws.ping, partial(stream_parts, ws)):
            with pytest.raises(ConnectionClosedOK) as raised:
                await call()
            assert isinstance(raised.value, trio.EndOfChannel)
            assert raised.value.rcvd == Close(code, "bye")
            assert raised.value.sent == Close(code, "bye")
            assert raised.value.rcvd_then_sent is True
            assert raised.value.__cause__ is None
        assert await peer.receive() == close(code, "bye")


@each_role
@pytest.mark.parametrize("code", [1002, 1003, 1011, 3000, 4999])
async def test_other_closures(role: Role, code: int) -> None:
    async with opened(role) as (ws, peer):
        await peer.send(text("a"), close(code, "bye"))
        received = []
        with pytest.raises(ConnectionClosedError) as raised:
            async for message in ws:
                received.append(message)
        assert received == ["a"]
        assert isinstance(raised.value, trio.BrokenResourceError)
        assert raised.value.rcvd == raised.value.sent == Close(code, "bye")
        assert await peer.receive() == close(code, "bye")


@each_role
async def test_closure_without_a_code(role: Role) -> None:
    async with opened(role) as (ws, peer):
        await peer.send(Frame(Opcode.CLOSE, b""))
        assert [message async for message in ws] == []
        assert ws.close_code == 1005
        assert await peer.receive() == Frame(Opcode.CLOSE, b"")


async def test_messages_before_the_close_may_be_answered(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        await peer.send(text("1"), text("2"), close())
        async for message in ws:
            await trio.sleep(0.2)
            await ws.send(f"answer to {message!r}")
        # The connection ended as soon as that was done.
        assert trio.current_time() == 0.4
        assert [await peer.receive() for _ in range(3)] == [text("answer to '1'"), text("answer to '2'"), close()]


async def test_the_grace_period_for_answers(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        await peer.send(text("1"), text("2"), close())
        assert await ws.receive() == "1"
        assert [await peer.receive()] == [close()]
        assert 0 < trio.current_time() <= 0.5
        # Messages that arrived before can be received. It is only too late to answer them.
        with pytest.raises(ConnectionClosedOK):
            await ws.send("answer")
        assert await ws.receive() == "2"
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()


async def test_nobody_receives_when_the_peer_closes(autojump_clock: MockClock) -> None:
    # Nobody has ever asked for a message, and there is none, so nobody can be about to answer.
    async with opened() as (_, peer):
        await peer.send(close())
        assert await peer.receive() == close()
        assert trio.current_time() == 0


async def test_closed_by_the_peer_and_lost_before_our_answer() -> None:
    ours, theirs = memory_pair()
    stream = Faulty(ours)
    async with opened(streams=(stream, theirs)) as (ws, peer):
        stream.send_error = trio.BrokenResourceError("gone")
        await peer.send(close(4000, "bye"))
        await peer.stream.aclose()
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert raised.value.rcvd == Close(4000, "bye")


async def test_a_failed_write_lets_the_last_words_of_the_peer_in(autojump_clock: MockClock) -> None:
    # Our write fails because the peer has gone. Its Close frame has arrived, but we have not read it yet.
    ours, theirs = memory_pair()
    stream = Faulty(ours)
    async with opened(streams=(stream, theirs)) as (ws, peer):
        error = stream.send_error = trio.BrokenResourceError("gone")
        await ws.send("a")
        await settle()
        await trio.sleep(0.1)
        await peer.send(text("last words"), close(4000, "bye"))
        assert await ws.receive() == "last words"
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert (raised.value.rcvd, raised.value.sent) == (Close(4000, "bye"), None)
        assert raised.value.__cause__ is error


async def test_a_failed_write_ends_the_connection(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    stream = Faulty(ours)
    async with opened(streams=(stream, theirs)) as (ws, _):
        error = stream.send_error = OSError(32, "EPIPE")
        await ws.send("a")
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert trio.current_time() <= 0.5
        assert raised.value.__cause__ is error
        with pytest.raises(ConnectionClosedError):
            await ws.send("b")


@pytest.mark.parametrize("code", [None, 1000, 4000])
async def test_closing_races_with_calls(code: int | None, nursery: trio.Nursery) -> None:
    # Every call that notices the end reports the code and the reason.
    for delay in range(12):
        ours, theirs = pipe_pair(10)
        async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
            outcomes: list[ConnectionClosed] = []

            for call in (ws.receive, partial(ws.send, b"x" * 100), ws.ping, partial(stream_parts, ws, b"a")):
                nursery.start_soon(repeat, call, outcomes)
            for _ in range(delay):
                await trio.lowlevel.checkpoint()
            if code is not None:
                await peer.send(close(code, "y"))
            nursery.start_soon(hang_up, peer, code)
            with trio.fail_after(HANGS):
                while len(outcomes) < 4:
                    await trio.lowlevel.checkpoint()
            for exc in outcomes:
                assert exc.rcvd == (None if code is None else Close(code, "y"))


async def repeat(call: Callable[[], Awaitable[object]], outcomes: list[ConnectionClosed]) -> None:
    """Make calls until the connection is closed, and record how they end."""
    try:
        while True:
            await call()
    except ConnectionClosed as exc:
        outcomes.append(exc)


async def hang_up(peer: Peer, code: int | None) -> None:
    if code is None:
        await peer.stream.aclose()
    else:
        with contextlib.suppress(trio.ClosedResourceError):  # all calls may notice the end before this one
            while (frame := await peer.receive()) is not None:
                if frame.opcode is Opcode.CLOSE:
                    await peer.stream.aclose()
                    return


# -- Lost connections ------------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_lost(role: Role, how: str, nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair()
    async with opened(role, (ours, theirs)) as (ws, peer):
        await peer.send(text("before"))
        await settle()
        outcomes: list[ConnectionClosed] = []

        async def wait_for_pong() -> None:
            try:
                await ws.ping()
            except ConnectionClosed as exc:
                outcomes.append(exc)

        nursery.start_soon(wait_for_pong)
        await settle()
        if how == "eof":
            await theirs.send_eof()
        else:
            theirs.reset()
        await settle()
        assert len(outcomes) == 1
        assert await ws.receive() == "before"
        for call in (ws.receive, partial(ws.send, "a"), ws.ping, ws.__anext__):
            with pytest.raises(ConnectionClosedError) as raised:
                await call()
            outcomes.append(raised.value)
        for exc in outcomes:
            assert isinstance(exc, trio.BrokenResourceError)
            assert (exc.rcvd, exc.sent, exc.code) == (None, None, 1006)
            assert isinstance(exc.__cause__, trio.BrokenResourceError) is (how == "reset")


async def test_errors_of_the_stream_are_the_cause() -> None:
    ours, theirs = memory_pair()
    error = OSError(104, "ECONNRESET")
    stream = Faulty(ours)
    async with opened(streams=(stream, theirs)) as (ws, peer):
        await settle()
        stream.receive_error = error
        await peer.send(text("wakes the reader"))
        assert await ws.receive() == "wakes the reader"
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert raised.value.__cause__ is error


# -- Violations ------------------------------------------------------------------------------------------------------

#: Bytes from a server, and the close code of the answer.
VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "reserved bit 1": (b"\xc1\x01a", 1002),
    "reserved bit 2": (b"\xa1\x01a", 1002),
    "reserved bit 3": (b"\x91\x01a", 1002),
    "reserved bit 1 in a continuation": (b"\x01\x01a\xc0\x01b", 1002),
    "reserved bit 1 in a ping": (b"\xc9\x00", 1002),
    "unknown opcode": (b"\x83\x00", 1002),
    "unknown control opcode": (b"\x8b\x00", 1002),
    "masked": (b"\x81\x81\x00\x00\x00\x00a", 1002),
    "length not minimal": (b"\x82\x7e\x00\x01a", 1002),
    "length with its highest bit": (b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", 1002),
    "fragmented ping": (b"\x09\x00", 1002),
    "long ping": (b"\x89\x7e\x00\x7e" + b"x" * 126, 1002),
    "continuation of nothing": (b"\x80\x00", 1002),
    "message in a message": (b"\x01\x01a\x81\x01b", 1002),
    "close code too short": (b"\x88\x01\x03", 1002),
    "close code that may not be sent": (b"\x88\x02\x03\xee", 1002),
    "close reason that is no text": (b"\x88\x03\x03\xe8\xff", 1007),
    "no text": (b"\x81\x01\xff", 1007),
    "text cut in a character": (b"\x81\x01\xc3", 1007),
    "no text in a fragment": (b"\x01\x01\xff", 1007),
    "too big": (b"\x82\x7e\x03\xe9", 1009),
    "too big in fragments": (b"\x02\x7e\x03\xe8" + b"x" * 1000 + b"\x00\x01", 1009),
    "enormous": (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
}
KINDS = {1002: ProtocolError, 1007: InvalidData, 1009: MessageTooBig}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_violations(name: str) -> None:
    data, code = VIOLATIONS[name]
    async with opened(max_message_size=1000) as (ws, peer):
        await peer.send(text("before"), data, text("after"))
        assert await ws.receive() == "before"
        await ws.send("answer")
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        exc = raised.value
        assert isinstance(exc.__cause__, ProtocolError)
        assert type(exc.__cause__) is KINDS[code]
        assert exc.__cause__.code == code
        assert (exc.rcvd, exc.sent and exc.sent.code) == (None, code)
        with pytest.raises(ConnectionClosedError):
            await ws.send("late")
        assert await peer.receive() == text("answer")
        frame = await peer.receive()
        assert frame is not None
        assert Close.parse(frame.data).code == code
        # This end closes its sending direction at once.
        assert await peer.receive() is None


async def test_a_client_that_does_not_mask() -> None:
    async with opened(Role.SERVER) as (ws, peer):
        await peer.send(b"\x81\x01a")
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, ProtocolError)
        frames = await peer.receive_all()
        assert [Close.parse(frame.data).code for frame in frames] == [1002]


async def test_exactly_as_large_as_allowed() -> None:
    async with opened(max_message_size=1000) as (ws, peer):
        await peer.send(binary(b"x" * 1000), binary(b"x" * 500, fin=False), cont(b"x" * 500, fin=True))
        assert await ws.receive() == b"x" * 1000
        assert await ws.receive() == b"x" * 1000


async def test_a_violation_while_the_application_is_busy(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        await peer.send(text("before"), b"\xff\xff")
        assert await ws.receive() == "before"
        frames = await peer.receive_all()
        assert [Close.parse(frame.data).code for frame in frames] == [1002]
        assert 0 < trio.current_time() <= 0.5


async def test_a_violation_when_the_peer_does_not_read(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await ws.send(b"x" * 100)
        await settle()
        nursery.start_soon(peer.send, b"\xff\xff")
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, ProtocolError)
        await ws.aclose()
        assert trio.current_time() <= 1
        assert ours.closed


async def test_a_violation_over_a_stream_that_cannot_be_closed_by_half(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    async with opened(streams=(Faulty(ours), theirs)) as (_, peer):
        await peer.send(b"\xff\xff")
        frames = await peer.receive_all()
        assert [Close.parse(frame.data).code for frame in frames] == [1002]
        assert trio.current_time() <= 0.5


async def test_a_violation_by_a_peer_that_goes_on_sending(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    # Frames from the peer are read and dropped until the deadline, so that it can get to our Close frame.
    ours, theirs = pipe_pair(1000)
    async with born_open(ours, close_timeout=7) as ws:
        peer = Peer(theirs)

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await theirs.send_all(b"\xff" * 10_000)
                    await trio.sleep(0.1)

        nursery.start_soon(flood)
        with pytest.raises(ConnectionClosedError):
            await ws.receive()
        assert [Close.parse(frame.data).code for frame in await peer.receive_all()] == [1002]
    assert trio.current_time() <= 7
    await trio.sleep(1)


async def test_a_violation_during_the_closing_handshake(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        await ws.send_close()
        assert await peer.receive() == close()
        await peer.send(b"\xff\xff")
        assert await peer.receive() is None
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert isinstance(raised.value.__cause__, ProtocolError)
        assert (raised.value.rcvd, raised.value.sent) == (None, Close(1000, ""))


# -- Leaving the block -----------------------------------------------------------------------------------------------


class Leaving:
    """A connection made with ``connect_over``, and a peer that behaves."""

    def __init__(self, nursery: trio.Nursery) -> None:
        ours, theirs = memory_pair()
        self.stream = Faulty(ours)
        self.peer = Peer(theirs)
        self.frames: list[Frame] = []
        self.connecting = trio_ws.connect_over(self.stream, URI)
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        await self.peer.handshake()
        self.frames += await self.peer.behave()

    def codes(self) -> list[int]:
        """Return the close codes that the peer has received."""
        return [Close.parse(frame.data).code for frame in self.frames if frame.opcode is Opcode.CLOSE]


async def test_leaving_normally(nursery: trio.Nursery) -> None:
    leaving = Leaving(nursery)
    async with leaving.connecting as ws:
        await ws.send("a")
    await settle()
    assert leaving.frames == [text("a"), close(1000)]


EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("a"),
    "group": lambda: ExceptionGroup("two", [ValueError(), KeyError()]),
    "group with KeyboardInterrupt": lambda: BaseExceptionGroup("two", [ValueError(), KeyboardInterrupt()]),
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "ConnectionClosed": lambda: ConnectionClosedError(None, None),
    "StopAsyncIteration": StopAsyncIteration,
}


@pytest.mark.parametrize("name", EXCEPTIONS)
@pytest.mark.parametrize("failure", ["no failure", "stream fails", "peer closes", "violation"])
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_leaving_with_an_exception(name: str, failure: str, is_cancelled: bool, nursery: trio.Nursery) -> None:
    leaving = Leaving(nursery)
    exc = EXCEPTIONS[name]()
    context = exc.__context__ = OSError("context")
    with trio.CancelScope() as scope, pytest.raises(type(exc)) as raised:
        async with leaving.connecting:
            if failure == "stream fails":
                leaving.stream.receive_error = leaving.stream.send_error = OSError(5, "EIO")
            elif failure == "peer closes":
                await leaving.peer.send(close(4000))
            elif failure == "violation":
                await leaving.peer.send(b"\xff\xff")
            if is_cancelled:
                scope.cancel()
            raise exc
    assert raised.value is exc
    assert (exc.__context__, exc.__cause__) == (context, None)
    # The block raised its own exception, not a cancellation that the scope would have caught.
    assert not scope.cancelled_caught
    if failure == "no failure":
        await settle()
        # An interrupted block closes with "going away", which is no error.
        interrupted = isinstance(exc, (KeyboardInterrupt, SystemExit)) or name == "group with KeyboardInterrupt"
        assert leaving.codes() == [1001 if interrupted else 1011]


async def test_the_context_of_an_exception_is_kept(nursery: trio.Nursery) -> None:
    leaving = Leaving(nursery)
    with pytest.raises(ValueError) as raised:
        async with leaving.connecting:
            try:
                raise KeyError
            except KeyError:
                raise ValueError from None
    assert isinstance(raised.value.__context__, KeyError)
    assert raised.value.__suppress_context__


async def test_leaving_when_cancelled(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    leaving = Leaving(nursery)
    with trio.move_on_after(3) as scope:
        async with leaving.connecting:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 3
    await settle()
    assert leaving.codes() == [1001]


async def test_leaving_when_cancelled_with_a_clogged_stream(autojump_clock: MockClock) -> None:
    ours, _ = pipe_pair(10)
    with trio.move_on_after(3) as scope:
        async with born_open(Faulty(ours, closing=trio.Event())) as ws:
            await ws.send(b"x" * 100)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() <= 3.2


async def test_leaving_with_a_group_that_holds_a_cancellation(nursery: trio.Nursery) -> None:
    leaving = Leaving(nursery)
    with trio.CancelScope() as scope, pytest.raises(BaseExceptionGroup) as raised:
        async with leaving.connecting:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as exc:
                raise BaseExceptionGroup("both", [ExceptionGroup("inner", [KeyError()]), exc]) from None
    assert len(raised.value.exceptions) == 2
    await settle()
    assert leaving.codes() == [1001]


async def test_leaving_in_a_scope_that_is_cancelled(nursery: trio.Nursery) -> None:
    # The block ends normally, and the cancellation takes effect while closing.
    leaving = Leaving(nursery)
    with trio.CancelScope() as scope:
        async with leaving.connecting:
            scope.cancel()
    assert scope.cancelled_caught
    await settle()
    assert leaving.codes() == [1000]


async def test_a_cancellation_within_the_block_stays_there(nursery: trio.Nursery) -> None:
    leaving = Leaving(nursery)
    async with leaving.connecting as ws:
        with trio.move_on_after(0):
            await ws.receive()
        await ws.send("still here")
    await settle()
    assert leaving.frames == [text("still here"), close(1000)]


async def test_leaving_by_break_and_return(nursery: trio.Nursery) -> None:
    async def talk() -> str:
        while True:
            async with Leaving(nursery).connecting:
                break
        async with Leaving(nursery).connecting:
            return "returned"

    assert await talk() == "returned"


async def test_exceptions_of_other_tasks_in_the_block(nursery: trio.Nursery) -> None:
    leaving = Leaving(nursery)

    async def fail() -> None:
        raise KeyError

    with pytest.raises(ExceptionGroup) as raised:
        async with leaving.connecting:
            async with trio.open_nursery() as inner:
                inner.start_soon(fail)
                await trio.sleep_forever()
    assert [type(exc) for exc in raised.value.exceptions] == [KeyError]
    await settle()
    assert leaving.codes() == [1011]


async def test_connection_errors_come_out_of_the_block(nursery: trio.Nursery) -> None:
    leaving = Leaving(nursery)
    with pytest.raises(ConnectionClosedError) as raised:
        async with leaving.connecting as ws:
            await leaving.peer.send(close(4000))
            await ws.receive()
    assert raised.value.code == 4000


async def test_several_connections_in_one_task(nursery: trio.Nursery) -> None:
    leavings = [Leaving(nursery) for _ in range(3)]
    async with leavings[0].connecting as a, leavings[1].connecting as b:
        await b.aclose(4000)
        async with leavings[2].connecting as c:
            await c.send("c")
        await a.send("a")
    await settle()
    assert [leaving.codes() for leaving in leavings] == [[1000], [4000], [1000]]


# -- Entering and leaving in the wrong way ---------------------------------------------------------------------------


async def test_left_in_another_task() -> None:
    ours, theirs = memory_pair()
    session = born_open(ours)
    outcomes: list[object] = []

    async def enter(task_status: trio.TaskStatus[None]) -> None:
        async with session as ws:
            task_status.started()
            with pytest.raises(ConnectionClosedError):
                await ws.receive()
            outcomes.append("woken")

    async with trio.open_nursery() as nursery:
        await nursery.start(enter)
        with pytest.raises(RuntimeError):
            await session.__aexit__(None, None, None)
    # No open connection is left behind in the task that has entered it.
    assert outcomes == ["woken"]
    assert await theirs.receive_some() == b""


async def test_left_before_a_nursery_that_was_opened_later() -> None:
    ours, theirs = memory_pair()
    session = born_open(ours)
    await session.__aenter__()
    async with trio.open_nursery():
        with pytest.raises(RuntimeError):
            await session.__aexit__(None, None, None)
    # Now the connection can be left normally.
    await session.__aexit__(None, None, None)
    assert await theirs.receive_some() != b"more"


async def test_left_before_a_connection_that_was_entered_later(autojump_clock: MockClock) -> None:
    first, second = born_open(memory_pair()[0]), born_open(memory_pair()[0])
    await first.__aenter__()
    ws = await second.__aenter__()
    with pytest.raises(RuntimeError):
        await first.__aexit__(None, None, None)
    await ws.send("the other one lives")
    await second.__aexit__(None, None, None)
    await first.__aexit__(None, None, None)


async def test_left_before_a_scope_that_was_opened_later(autojump_clock: MockClock) -> None:
    session = born_open(memory_pair()[0])
    await session.__aenter__()
    with pytest.raises(RuntimeError):
        with trio.CancelScope():
            await session.__aexit__(None, None, None)


async def test_left_without_being_entered() -> None:
    session: Session = born_open(memory_pair()[0])
    with pytest.raises(RuntimeError):
        await session.__aexit__(None, None, None)
    connecting = trio_ws.connect_over(memory_pair()[0], URI)
    with pytest.raises(RuntimeError):
        await connecting.__aexit__(None, None, None)
