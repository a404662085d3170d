"""Scenarios that broke other libraries and are not in other tests. The table in README.md lists all of them.

The last tests check that the tests in that table exist, and that the diagram of the closing handshake in the
documentation is right.
"""

from __future__ import annotations

import ast
import base64
import functools
import itertools
import os
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection.core import GRACE
from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidMessage,
    TLSFailed,
)
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.http11 import ResponseParser
from trio_ws.http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS
from trio_ws.protocol import Role
from trio_ws.protocol.closing import CAN_RECEIVE, CAN_SEND, TRANSITIONS, ClosingEvent, ClosingState
from trio_ws.protocol.codec import serialize

from .support import (
    KEY,
    OTHER,
    PAIRS,
    URI,
    Faulty,
    Peer,
    PipeStream,
    Wrapped,
    binary,
    both,
    cancelled,
    close,
    each_role,
    echo,
    lockstep_pair,
    memory_pair,
    opened,
    peak_memory,
    ping,
    pipe_pair,
    pong,
    read_messages,
    text,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

HERE = Path(__file__).parent
settle = wait_all_tasks_blocked


def tasks_living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def talk(
    role: Role, stream: trio.abc.Stream, body: Callable[[WebSocket], Awaitable[object]], **options: float
) -> None:
    """Run a block as a client or as the handler of a server, after the opening handshake."""
    if role is Role.CLIENT:
        async with trio_ws.connect_over(stream, URI, **options) as ws:  # type: ignore[arg-type]  # all are numbers
            await body(ws)
    else:
        await trio_ws.serve_over(stream, body, **options)  # type: ignore[arg-type]  # all are numbers


# -- 1: both send and receive at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "lockstep"])
@pytest.mark.parametrize("with_pings", [False, True])
async def test_both_send_many_messages_at_once(kind: str, with_pings: bool, autojump_clock: MockClock) -> None:
    # Without buffers, each send() waits for the peer to read, while the peer also sends.
    messages = [bytes([i % 256]) * 8192 for i in range(256)]
    async with both(PAIRS[kind](), send_buffer=0, receive_buffer=0) as ends:
        pings = 0

        async def ping_loop(ws: WebSocket) -> None:
            nonlocal pings
            while True:
                await ws.ping()
                pings += 1

        async def send(ws: WebSocket) -> None:
            for message in messages:
                await ws.send(message)

        async def receive(ws: WebSocket) -> None:
            assert [await ws.receive() for _ in messages] == messages

        async with trio.open_nursery() as nursery:
            if with_pings:
                for ws in ends:
                    nursery.start_soon(ping_loop, ws)
            async with trio.open_nursery() as exchanges:
                for ws in ends:
                    exchanges.start_soon(send, ws)
                    exchanges.start_soon(receive, ws)
            nursery.cancel_scope.cancel()
        assert (pings > 0) is with_pings
        assert trio.current_time() == 0


# -- 5: left with a backlog ------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize("then", ["behaves", "ignores Close", "does not read", "sends on"])
async def test_left_with_a_backlog(role: Role, then: str, autojump_clock: MockClock) -> None:
    # One message is received. Many more are waiting, more than the inbox can hold.
    ours, theirs = pipe_pair(1000)
    peer = Peer(theirs, OTHER[role])
    codes: list[int] = []
    left_at = 0.0

    async def flood() -> None:
        try:
            await peer.handshake()
            for _ in range(200):
                await peer.send(text("x" * 1000))
            while then == "sends on":
                await trio.sleep(0.5)
                await peer.send(text("x" * 1000))
            if then != "does not read":
                frames = await (peer.behave() if then == "behaves" else peer.receive_all())
                codes.extend(Close.parse(frame.data).code for frame in frames if frame.opcode is Opcode.CLOSE)
        except trio.BrokenResourceError:
            pass

    async def body(ws: WebSocket) -> None:
        nonlocal left_at
        assert await ws.receive() == "x" * 1000
        # Two messages of the backlog are sent back, to a peer that may not read.
        for _ in range(2):
            await ws.send("y" * 1000)
        await trio.sleep(1)
        left_at = trio.current_time()

    before = tasks_living()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await talk(role, ours, body, receive_buffer=5000, close_timeout=7)
        assert ours.closed
        assert trio.current_time() - left_at == pytest.approx(0 if then == "behaves" else 7, abs=0.2)
        await settle()
        await theirs.aclose()
    assert tasks_living() == before
    assert codes == ([1000] if then in ("behaves", "ignores Close") else [])


# -- 8: pings that wait ----------------------------------------------------------------------------------------------


@each_role
@pytest.mark.parametrize("end", ["FIN", "RST", "Close", "violation", "aclose", "aclose, cancelled"])
async def test_pings_that_wait_for_the_end(
    role: Role, end: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ours, theirs = pipe_pair()
    async with opened(role, (ours, theirs), ping_interval=None) as (ws, peer):
        ends: list[ConnectionClosed] = []

        async def wait_for_pong(data: bytes | None) -> None:
            with pytest.raises(ConnectionClosed) as raised:
                await ws.ping(data)
            ends.append(raised.value)

        for data in (None, b"a", b"a"):
            nursery.start_soon(wait_for_pong, data)
        await settle()
        assert [frame.opcode for _ in range(3) if (frame := await peer.receive())] == [Opcode.PING] * 3
        if end == "FIN":
            await theirs.send_eof()
        elif end == "RST":
            theirs.reset()
        elif end == "Close":
            await peer.send(close(4000))
        elif end == "violation":
            await peer.send(b"\xff\xff")
        elif end == "aclose":
            nursery.start_soon(partial(peer.behave, pongs=False))
            await ws.aclose()
        else:
            assert await cancelled(ws.aclose)
        await settle()
        expected = ConnectionClosedLocally if end.startswith("aclose") else ConnectionClosedError
        assert [type(exc) for exc in ends] == [expected] * 3
        assert {exc.code for exc in ends} == {{"Close": 4000, "aclose": 1000}.get(end, 1006)}
        assert connection_of(ws).keepalive._pings == []
        with pytest.raises(expected):
            await ws.ping(b"a")
    assert trio.current_time() == 0


# -- 9: data received during our closing handshake -------------------------------------------------------------------


@each_role
@pytest.mark.parametrize("step", [None, 1])
async def test_data_received_during_our_closing_handshake(
    role: Role, step: int | None, autojump_clock: MockClock
) -> None:
    for frames in itertools.permutations([ping(b"a"), pong(b"b"), text("late")]):
        async with opened(role, pipe_pair(step=step)) as (ws, peer), trio.open_nursery() as nursery:
            nursery.start_soon(ws.aclose)
            assert await peer.receive() == close()
            await peer.send(*frames, close(4000, "theirs"))
            if role is Role.CLIENT:
                await peer.stream.send_eof()  # type: ignore[attr-defined]  # this one can
            # Nothing may follow our Close frame, not even a pong.
            assert await peer.receive() is None
            with pytest.raises(ConnectionClosedLocally) as raised:
                await ws.receive()
            exc = raised.value
            assert (exc.rcvd, exc.sent) == (Close(4000, "theirs"), Close(1000, ""))
            assert exc.rcvd_then_sent is False
            assert exc.__cause__ is None
    assert trio.current_time() == 0


@each_role
async def test_a_ping_and_a_close_meet_ours(role: Role, autojump_clock: MockClock) -> None:
    for delay in range(10):
        async with opened(role, pipe_pair()) as (ws, peer), trio.open_nursery() as nursery:
            frames: list[Frame] = []
            spoken = trio.Event()

            async def speak(peer: Peer = peer, spoken: trio.Event = spoken) -> None:
                await peer.send(ping(b"a"), close(4000))
                spoken.set()

            async def listen(peer: Peer = peer, frames: list[Frame] = frames, spoken: trio.Event = spoken) -> None:
                while (frame := await peer.receive()) is not None:
                    frames.append(frame)
                    if frame.opcode is Opcode.CLOSE:
                        break
                await spoken.wait()
                await peer.stream.aclose()

            nursery.start_soon(listen)
            nursery.start_soon(speak)
            for _ in range(delay):
                await trio.lowlevel.checkpoint()
            await ws.aclose(4001)
            await settle()
            _, last, _ = read_messages(frames)
            assert last in (close(4000), close(4001))
            assert frames[:-1] in ([], [pong(b"a")])
            with pytest.raises(ConnectionClosedLocally) as raised:
                await ws.send("a")
            exc = raised.value
            assert (exc.rcvd, exc.sent) == (Close(4000, ""), Close.parse(last.data))
            assert exc.__cause__ is None
    assert trio.current_time() == 0


# -- 10: a Close frame, and then a lost connection-------------------------------------------------------------------


@each_role
@pytest.mark.parametrize("how", ["FIN", "RST", "gone"])
@pytest.mark.parametrize("waiting", [False, True])
async def test_closed_by_the_peer_and_lost_while_our_answer_waits(
    role: Role, how: str, waiting: bool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(role, (ours, theirs), close_timeout=7) as (ws, peer):
        ends: list[ConnectionClosed] = []

        async def receive() -> None:
            with pytest.raises(ConnectionClosed) as raised:
                await ws.receive()
            ends.append(raised.value)

        # Our answer cannot be written before that.
        await ws.send(b"x" * 100)
        await peer.send(text("last"), close(4000, "bye"))
        assert await ws.receive() == "last"
        if waiting:
            nursery.start_soon(receive)
        await settle()
        if how == "FIN":
            await theirs.send_eof()
        elif how == "RST":
            theirs.reset()
        else:
            await theirs.aclose()
        if not waiting:
            await receive()
        await trio.sleep(8)
        (exc,) = ends
        assert type(exc) is ConnectionClosedError
        assert (exc.rcvd, exc.sent, exc.code, exc.reason) == (Close(4000, "bye"), None, 4000, "bye")
        # After a FIN, the deadline ends the connection.
        assert isinstance(exc.__cause__, trio.TooSlowError if how == "FIN" else trio.BrokenResourceError)
        assert (ws.close_code, ws.close_reason) == (4000, "bye")
        for call in (ws.receive, ws.ping, partial(ws.send, "a")):
            with pytest.raises(ConnectionClosedError) as raised:
                await call()
            assert raised.value.rcvd == Close(4000, "bye")


@each_role
@pytest.mark.parametrize("how", ["RST", "gone"])
async def test_the_loss_of_a_closing_peer_is_noticed_at_once(role: Role, how: str, autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(role, (ours, theirs), close_timeout=7) as (ws, peer):
        await ws.send(b"x" * 100)
        await peer.send(close(1000))
        await settle()
        if how == "RST":
            theirs.reset()
        else:
            await theirs.aclose()
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert raised.value.rcvd == Close(1000, "")
        assert trio.current_time() <= GRACE


# -- 14: exceptions in the block ------------------------------------------------------------------------------------

BODIES: dict[str, Callable[[], BaseException | None]] = {
    "ValueError": lambda: ValueError("mine"),
    "group of two": lambda: ExceptionGroup("two", [ValueError("mine"), KeyError("mine")]),
    "KeyboardInterrupt": KeyboardInterrupt,
    "Cancelled": lambda: None,
}
FAILURES = ["none", "reset now", "reset before", "write fails", "violation", "Close", "Close before"]


class Ending:
    """A block that ends with an exception, while the connection may fail."""

    def __init__(self, role: Role, body: str, failure: str) -> None:
        self.role = role
        self.failure = failure
        self.exc = BODIES[body]()
        self.shape = self.shape_of(self.exc)
        self.cause = OSError("cause")
        self.context: BaseException | None = None
        self.scope = trio.CancelScope()
        ours, self.theirs = pipe_pair()
        self.stream = Faulty(ours)
        self.peer = Peer(self.theirs, OTHER[role])
        self.frames: list[Frame] = []
        self.is_open = trio.Event()

    @staticmethod
    def shape_of(exc: BaseException | None) -> list[int]:
        """Return a value that identifies an exception and the exceptions in it."""
        return [id(exc), *(map(id, exc.exceptions) if isinstance(exc, ExceptionGroup) else ())]

    async def behave(self) -> None:
        await self.peer.handshake()
        self.is_open.set()
        self.frames += await self.peer.behave()

    async def live(self) -> BaseException | None:
        """Run the connection from beginning to end. Return the exception raised, except a cancellation."""
        with self.scope:
            try:
                await talk(self.role, self.stream, self.body)
            except trio.Cancelled:
                assert self.exc is None
                raise
            except BaseException as exc:  # KeyboardInterrupt is among the tested exceptions
                return exc
        return None

    async def body(self, _ws: WebSocket) -> None:
        await self.is_open.wait()
        if self.failure.startswith("reset"):
            self.theirs.reset()
        elif self.failure == "write fails":
            self.stream.send_error = trio.BrokenResourceError("gone")
        elif self.failure == "violation":
            await self.peer.send(b"\xff\xff")
        elif self.failure.startswith("Close"):
            await self.peer.send(close(4000))
        if self.failure.endswith("before"):
            await settle()
        if self.exc is None:
            self.scope.cancel()
            await trio.sleep_forever()
        else:
            try:
                raise KeyError("context")
            except KeyError as context:
                self.context = context
                raise self.exc from self.cause

    def check(self, raised: BaseException | None) -> None:
        """Check that the block raised the exception that was raised in it."""
        assert raised is self.exc
        assert self.shape_of(raised) == self.shape
        if raised is not None:
            assert (raised.__cause__, raised.__context__) == (self.cause, self.context)

    def codes(self) -> list[int]:
        return [Close.parse(frame.data).code for frame in self.frames if frame.opcode is Opcode.CLOSE]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("failure", FAILURES)
async def test_exceptions_from_the_block_of_a_client(
    body: str, failure: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ending = Ending(Role.CLIENT, body, failure)
    before = tasks_living()
    nursery.start_soon(ending.behave)
    raised = await ending.live()
    ending.check(raised)
    assert ending.scope.cancelled_caught is (body == "Cancelled")
    await settle()
    assert tasks_living() == before
    if failure == "none":
        assert ending.codes() == [1001 if body in ("Cancelled", "KeyboardInterrupt") else 1011]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("failure", FAILURES)
async def test_exceptions_from_a_handler(
    body: str, failure: str, autojump_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    ending = Ending(Role.SERVER, body, failure)
    before = tasks_living()
    nursery.start_soon(ending.behave)
    raised = await ending.live()
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    # An Exception is logged. Other BaseExceptions propagate to the caller of the server.
    if isinstance(ending.exc, Exception):
        assert raised is None
        (raised,) = logged
    else:
        assert logged == []
    ending.check(raised)
    assert ending.scope.cancelled_caught is (body == "Cancelled")
    await theirs_closed(ending.theirs)
    assert tasks_living() == before
    if failure == "none":
        assert ending.codes() == [1001 if body in ("Cancelled", "KeyboardInterrupt") else 1011]


async def theirs_closed(stream: PipeStream) -> None:
    """Close the peer's end too, as a client does after the server has closed the stream."""
    await settle()
    await stream.aclose()
    await settle()


# -- 16 to 18: one connection of a server among others ---------------------------------------------------------------


async def test_one_failure_among_many_connections(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A failing handler ends only its own connection, even if several fail at the same time."""
    fail_now = trio.Event()

    async def handler(ws: WebSocket) -> None:
        if ws.request.path == "/fails":
            await fail_now.wait()
            raise ValueError("mine")
        async for message in ws:
            await ws.send(message)

    codes: list[int] = []

    async def be_closed(stream: trio.abc.Stream) -> None:
        async with trio_ws.connect_over(stream, "ws://any/fails") as ws:
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.receive()
            codes.append(raised.value.code)

    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as servers:
            pairs = [memory_pair() for _ in range(6)]
            for _, theirs in pairs:
                servers.start_soon(trio_ws.serve_over, theirs, handler)
            for ours, _ in pairs[1:]:
                clients.start_soon(be_closed, ours)
            async with trio_ws.connect_over(pairs[0][0], "ws://any/echoes") as ws:
                await settle()
                fail_now.set()
                await settle()
                assert codes == [1011] * 5
                await ws.send("still here")
                assert await ws.receive() == "still here"
    assert trio.current_time() == 0


# -- 19: floods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"a"])
async def test_a_million_fragments(payload: bytes) -> None:
    # The test is that this finishes: more than linear time would take hours.
    async with opened(Role.SERVER, max_message_size=10**6, max_fragments=None, receive_buffer=10**7) as (ws, peer):
        await peer.send(binary(b"", fin=False))
        fragments = serialize(Frame(Opcode.CONT, payload, fin=False), KEY) * 10_000
        await settle()
        before = sys.getallocatedblocks()
        for _ in range(100):
            await peer.send(fragments)
            await settle()
        assert 10**6 * len(payload) <= connection_of(ws).protocol.held <= 2 * 10**6
        # One object per fragment would be a million.
        assert sys.getallocatedblocks() - before < 20_000
        await peer.send(Frame(Opcode.CONT, b""))
        assert await ws.receive() == payload * 10**6


HEADS = {
    Role.SERVER: b"GET / HTTP/1.1\r\nHost: example.org\r\n",
    Role.CLIENT: b"HTTP/1.1 101 Switching Protocols\r\n",
}


@each_role
@pytest.mark.parametrize("name", ["100,000 headers", "100,000 headers with one name", "a header without end"])
async def test_a_flood_of_headers_takes_little_memory(role: Role, name: str, autojump_clock: MockClock) -> None:
    if name == "a header without end":
        portions = [b"X: ", *[b"x" * 1000] * 1000]
    elif name == "100,000 headers":
        portions = [b"".join(b"X-%d: x\r\n" % i for i in range(j, j + 100)) for j in range(0, 100_000, 100)]
    else:
        portions = [b"X: x\r\n" * 100] * 1000
    ours, theirs = pipe_pair(1000)
    answer = b""

    async def flood() -> None:
        try:
            await theirs.send_all(HEADS[role])
            for portion in portions:
                await theirs.send_all(portion)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def listen() -> None:
        nonlocal answer
        while data := await theirs.receive_some():
            answer += data

    async def body(_ws: WebSocket) -> None:
        pytest.fail("that was no opening handshake")

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(listen)
            if role is Role.CLIENT:
                with pytest.raises(InvalidMessage) as raised:
                    await talk(role, ours, body)
                assert getattr(raised.value, "limit", 0) in (MAX_HEADERS, MAX_HEAD_SIZE)
            else:
                await talk(role, ours, body)
            nursery.cancel_scope.cancel()

    assert await peak_memory(run) < 500_000
    assert ours.closed
    if role is Role.SERVER:
        response = ResponseParser().feed(answer)
        assert response is not None
        assert response.status_code == 431


# -- 21: abandoned iterations ----------------------------------------------------------------------------------------


@each_role
async def test_abandoned_iterations(role: Role) -> None:
    async with opened(role) as (ws, peer):
        await peer.send(*[text(str(i)) for i in range(8)], close())
        async for message in ws:
            assert message == "0"
            break
        assert await ws.receive() == "1"
        with pytest.raises(KeyError):
            async for message in ws:
                assert message == "2"
                raise KeyError
        async with ws.receive_stream() as parts:
            async for part in parts:
                assert part == "3"
                break
        one, two = aiter_of(ws), aiter_of(ws)
        assert [await one.__anext__(), await two.__anext__(), await one.__anext__()] == ["4", "5", "6"]
        del one, two
        assert [message async for message in ws] == ["7"]
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()


def aiter_of(ws: WebSocket) -> WebSocket:
    iterator = ws.__aiter__()
    assert isinstance(iterator, WebSocket)
    return iterator


# -- 22: no task starves --------------------------------------------------------------------------------------------


async def test_a_third_task_runs_while_parts_flood_both_ways(autojump_clock: MockClock) -> None:
    async with both(send_buffer=10**6, receive_buffer=10**6) as (client, server):
        calls = 0
        between: list[int] = []

        async def send(ws: WebSocket) -> None:
            nonlocal calls
            async with ws.send_stream() as out:
                while True:
                    await out.send(b"a")
                    calls += 1

        async def receive(ws: WebSocket) -> None:
            nonlocal calls
            async with ws.receive_stream() as parts:
                async for _ in parts:
                    calls += 1

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for ws in (client, server):
                    nursery.start_soon(send, ws)
                    nursery.start_soon(receive, ws)
                last = 0
                for _ in range(300):
                    await trio.lowlevel.checkpoint()
                    between.append(calls - last)
                    last = calls
                scope.cancel()
        assert calls > 1000
        assert max(between) <= 2 * 4 * 32


# -- 23: streams of all kinds ----------------------------------------------------------------------------------------


class Minimal(Wrapped):
    """A minimal stream: no half-close, and ``receive_some`` returns a ``bytearray``."""

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return bytearray(await self.stream.receive_some(3))


@pytest.mark.parametrize("kind", PAIRS)
async def test_minimal_streams(kind: str, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    ours, theirs = map(Minimal, PAIRS[kind]())

    nursery.start_soon(trio_ws.serve_over, theirs, echo)
    async with trio_ws.connect_over(ours, URI) as ws:
        for message in ("héllo", b"\xff" * 300, "", b""):
            await ws.send(message)
            received = await ws.receive()
            assert (type(received), received) == (type(message), message)
        assert await ws.ping() >= 0
    assert ws.close_code == 1000
    assert trio.current_time() == 0


@each_role
@pytest.mark.parametrize("how", ["left", "left with an exception", "interrupted", "cancelled"])
async def test_leaving_while_the_stream_is_blocked(
    role: Role, how: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    # lockstep_stream_pair(): send_all() waits until all its data was read.
    ours, theirs = lockstep_pair()
    before = tasks_living()
    left_at = 0.0
    scope = trio.CancelScope()

    async def body(ws: WebSocket) -> None:
        nonlocal left_at
        await ws.send("x")
        await settle()
        left_at = trio.current_time()
        if how == "cancelled":
            scope.cancel()
            await trio.sleep_forever()
        elif how == "left with an exception":
            raise ValueError
        elif how == "interrupted":
            raise KeyboardInterrupt

    nursery.start_soon(Peer(theirs, OTHER[role]).handshake)
    with scope:
        try:
            await talk(role, ours, body, close_timeout=7)
            # The exception of a handler is logged.
            assert how == "left" or (how == "left with an exception" and role is Role.SERVER)
        except ValueError:
            assert how == "left with an exception"
            assert role is Role.CLIENT
        except KeyboardInterrupt:
            assert how == "interrupted"
    assert scope.cancelled_caught is (how == "cancelled")
    if how in ("cancelled", "interrupted"):
        assert trio.current_time() - left_at <= 0.2
    else:
        assert 7 <= trio.current_time() - left_at <= 7.2
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some(1)
    await settle()
    assert tasks_living() == before


# -- 24: entered and left incorrectly --------------------------------------------------------------------------------


async def test_a_client_left_in_another_task(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    ours, theirs = memory_pair()
    connecting = trio_ws.connect_over(ours, URI)
    before = tasks_living()
    ends: list[type[Exception]] = []
    peer = Peer(theirs)

    async def enter(task_status: trio.TaskStatus[None]) -> None:
        try:
            async with connecting as ws:
                task_status.started()
                await ws.receive()
        except ConnectionClosedError as exc:
            ends.append(type(exc))

    async with trio.open_nursery() as tasks:
        tasks.start_soon(peer.handshake)
        await tasks.start(enter)
        with pytest.raises(RuntimeError):
            await connecting.__aexit__(None, None, None)
    assert ends == [ConnectionClosedError]
    assert tasks_living() == before
    assert trio.current_time() == 0


async def test_clients_left_out_of_order(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    peers: list[Peer] = []

    def connect() -> trio_ws.Connecting:
        ours, theirs = memory_pair()
        peers.append(Peer(theirs))
        nursery.start_soon(peers[-1].handshake)
        return trio_ws.connect_over(ours, URI)

    first, second = connect(), connect()
    await first.__aenter__()
    ws = await second.__aenter__()
    with pytest.raises(RuntimeError):
        await first.__aexit__(None, None, None)
    # The other client still works.
    await ws.send("still here")
    assert await peers[1].receive() == text("still here")
    nursery.start_soon(peers[1].behave)
    await second.__aexit__(None, None, None)
    await first.__aexit__(None, None, None)
    assert ws.close_code == 1000


async def test_streams_left_in_another_task(nursery: trio.Nursery) -> None:
    """This works, and the WebSocket still works afterwards."""
    async with opened() as (ws, peer):
        out, parts = ws.send_stream(), ws.receive_stream()

        async def enter() -> None:
            await out.__aenter__()
            await parts.__aenter__()
            await out.send(b"a")
            assert await parts.__anext__() == "b"

        await peer.send(text("b", fin=False))
        async with trio.open_nursery() as tasks:
            tasks.start_soon(enter)
        await out.__aexit__(None, None, None)
        await parts.__aexit__(None, None, None)
        await peer.send(Frame(Opcode.CONT, b"rest"), text("next"))
        assert await ws.receive() == "next"
        await ws.send("next")
        expected = [binary(b"a", fin=False), Frame(Opcode.CONT, b""), text("next")]
        assert [await peer.receive() for _ in expected] == expected


async def test_streams_left_out_of_order() -> None:
    async with opened() as (ws, peer):
        out, parts = ws.send_stream(), ws.receive_stream()
        await peer.send(text("a"), text("next"))
        await out.__aenter__()
        await parts.__aenter__()
        await out.__aexit__(None, None, None)
        with pytest.raises(trio.ClosedResourceError):
            await out.send(b"b")
        assert [part async for part in parts] == ["a"]
        await parts.__aexit__(None, None, None)
        assert await ws.receive() == "next"
        await ws.send("next")
        assert [await peer.receive() for _ in range(2)] == [binary(b""), text("next")]


# -- Security --------------------------------------------------------------------------------------------------------


async def test_the_host_name_is_checked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the default TLS context, which trusts the certificate authority of the tests.
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)

    async def never(_ws: WebSocket) -> None:
        pytest.fail("the certificate was accepted")

    with authority.cert_pem.tempfile() as file:
        monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, file)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(trio_ws.serve, never, 0, host="127.0.0.1", ssl=context))
            with pytest.raises(TLSFailed, match="Hostname mismatch"):
                async with trio_ws.connect(f"wss://localhost:{server.port}", open_timeout=None):
                    pytest.fail("the certificate was accepted")
            nursery.cancel_scope.cancel()


async def test_masking_keys_come_from_the_operating_system(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = b""
    urandom = os.urandom

    def watched(size: int) -> bytes:
        nonlocal drawn
        data = urandom(size)
        drawn += data
        return data

    monkeypatch.setattr(os, "urandom", watched)
    ours, theirs = pipe_pair(logged=True)
    nursery.start_soon(partial(trio_ws.serve_over, theirs, WebSocket.receive, compression=None))
    async with trio_ws.connect_over(ours, URI, compression=None) as ws:
        key = ws.request.headers["Sec-WebSocket-Key"]
        await ws.send("héllo")
    assert ours.outgoing.log is not None
    _, _, frames = bytes(ours.outgoing.log).partition(b"\r\n\r\n")
    assert frames[:2] == b"\x81\x86"
    assert frames[2:6] in drawn
    assert frames[14:18] in drawn
    assert frames[2:6] != frames[14:18]
    assert base64.b64decode(key) in drawn


# -- The table of scenarios ------------------------------------------------------------------------------------------


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """Return the names of the tests in a file, including those in classes."""
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def table() -> str:
    return (HERE / "README.md").read_text(encoding="utf-8")


def test_every_test_in_the_table_exists() -> None:
    named = re.findall(r"`([\w./-]+\.py)::(\w+)`", table())
    assert len(named) > 100
    assert table().count("::") == len(named)
    assert {f"{file}::{test}" for file, test in named if test not in names_in(file)} == set()


def test_every_row_of_the_table_has_tests_or_says_why_not() -> None:
    rows = [line for line in table().splitlines() if re.match(r"\| (?!\| Scenario)(?!Scenario)", line)]
    assert len(rows) > 60
    assert [row for row in rows if "::" not in row and not re.search(r"\| not yet: [\w -]+\. \w", row)] == []
    # Each number occurs once.
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", table(), re.MULTILINE)]
    assert numbers == list(range(1, 25))


def test_every_test_here_is_in_the_table() -> None:
    here = Path(__file__).name
    for name in names_in(here):
        assert f"`{here}::{name}`" in table() or re.search("table|diagram", name)


# -- The diagram of the closing handshake ----------------------------------------------------------------------------


def test_the_diagram_of_the_closing_handshake_matches_its_table() -> None:
    page = (HERE.parent / "docs" / "closing.rst").read_text(encoding="utf-8")
    drawn: set[tuple[str, str, str]] = set()
    # A line of the diagram: STATE ── EVENT ──▶ STATE ── EVENT ──▶ STATE. The first state may be a list.
    for line in re.findall(r"^ +([A-Z, ]+ ─.*)$", page, re.MULTILINE):
        first = line.partition(" ─")[0]
        states = first.split(", ")
        for event, state in re.findall(r" ─+ ([A-Z]+) ─+▶ ([A-Z]+)", line):
            drawn |= {(each, event, state) for each in states}
            states = [state]
    table = {(state.name, event.name, new.name) for state, row in TRANSITIONS.items() for event, new in row.items()}
    assert drawn == table
    assert set(ClosingEvent) == {event for row in TRANSITIONS.values() for event in row}
    for state in ClosingState:
        (row,) = re.findall(rf"   \* - {state.name}\n     - (.*)\n     - (.*)\n     - (.*)\n", page)
        assert row == (state.value, "yes" if state in CAN_SEND else "no", "yes" if state in CAN_RECEIVE else "no")
