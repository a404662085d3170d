"""Cancelled at every point: a scenario runs again and again, cancelled at its first, second, ... scheduling point.

The points are those of all tasks, not only of the one that is cancelled: so it meets what it calls in every state that
the tasks behind the connection and the peer can bring about. At each, the scope is cancelled once before the step, so
that the step meets a cancellation at its next checkpoint, and once after it, so that a wait is interrupted.

After each run nothing may be left behind, and what the peer has seen is read with the parser in ``support``, which
knows nothing of the package: whole frames, and at most one that is cut, at the very end; whole messages, each once and
in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.exceptions import ConnectionClosedError
from trio_ws.frames import Close, Frame
from trio_ws.protocol import Message, Role
from trio_ws.websocket import WebSocket

from .support import (
    OTHER,
    URI,
    Peer,
    PipeStream,
    binary,
    born_open,
    cont,
    each_role,
    parse_frames,
    ping,
    pipe_pair,
    read_messages,
    text,
)

settle = wait_all_tasks_blocked

each_moment = pytest.mark.parametrize("before", [True, False], ids=["before a step", "after a step"])


class Canceller(trio.abc.Instrument):
    """Cancels a scope at the n-th scheduling point."""

    def __init__(self, scope: trio.CancelScope, number: int, before: bool) -> None:
        self.fired = False
        self._scope = scope
        self._left = number
        self._before = before

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._before:
            self._check()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self._before:
            self._check()

    def _check(self) -> None:
        if self._left == 0 and not self.fired:
            self.fired = True
            self._scope.cancel()


@attrs.define
class Outcome:
    """What has become of a call that may have been cancelled."""

    cancelled: bool
    result: Any = None


async def cancel_at(number: int, before: bool, call: Callable[[], Awaitable[Any]]) -> tuple[Outcome, bool]:
    """Call something, and cancel it at a point. Return what became of it, and whether it came to that point."""
    outcome = Outcome(cancelled=True)
    with trio.CancelScope() as scope:
        canceller = Canceller(scope, number, before)
        trio.lowlevel.add_instrument(canceller)
        try:
            outcome.result = await call()
            outcome.cancelled = False
        finally:
            trio.lowlevel.remove_instrument(canceller)
    return outcome, canceller.fired


async def at_every_point(run: Callable[[int], Awaitable[bool]]) -> int:
    """Run something with 1, 2, ... until it says that there was no such point. Return how many there were."""
    before = trio.lowlevel.current_statistics().tasks_living
    nurseries = list(trio.lowlevel.current_task().child_nurseries)
    number = 0
    fired = True
    while fired:
        number += 1
        fired = await run(number)
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living == before
        assert trio.lowlevel.current_task().child_nurseries == nurseries
    return number - 1


def seen_by_peer(stream: PipeStream, *, masked: bool, head: bool = False) -> tuple[list[Message], Close | None]:
    """Check everything that was written to a stream, and return the whole messages and the Close frame in it."""
    assert stream.outgoing.log is not None
    data = bytes(stream.outgoing.log)
    if head:
        _, separator, data = data.partition(b"\r\n\r\n")
        if not separator:
            return [], None
    frames, rest = parse_frames(data, masked=masked)
    messages, closed, _ = read_messages(frames)
    assert not (closed and rest), "nothing follows a Close frame"
    return messages, None if closed is None else Close.parse(closed.data)


# -- The whole life of a connection ----------------------------------------------------------------------------------


async def just_open(_ws: WebSocket) -> None:
    pass


async def send_small(ws: WebSocket) -> None:
    for message in ("small", b"", "é"):
        await ws.send(message)


async def send_large(ws: WebSocket) -> None:
    for name in (b"1", b"2", b"3"):
        await ws.send(name * 200)


async def send_in_parts(ws: WebSocket) -> None:
    async with ws.send_stream() as out:
        for name in (b"1", b"2", b"3"):
            await out.send(name * 100)


async def receive_all(ws: WebSocket) -> None:
    assert [await ws.receive() for _ in range(3)] == ["first", b"fragments", "last"]


async def receive_in_parts(ws: WebSocket) -> None:
    async with ws.receive_stream() as parts:
        assert "".join([str(part) async for part in parts]) == "first"
    async with ws.receive_stream() as parts:
        assert await parts.__anext__()
    assert await ws.receive() == "last"


async def send_ping(ws: WebSocket) -> None:
    # A pong is read after what came before it, so that must be received.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all, ws)
        assert await ws.ping() >= 0


async def close_it(ws: WebSocket) -> None:
    await ws.aclose(4000)


async def two_tasks(ws: WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_large, ws)
        nursery.start_soon(receive_all, ws)


#: What is done with the connection, and the messages that the peer gets if it is not cancelled.
LIVES: dict[str, tuple[Callable[[WebSocket], Awaitable[None]], list[Message]]] = {
    "open": (just_open, []),
    "send": (send_small, ["small", b"", "é"]),
    "send large": (send_large, [b"1" * 200, b"2" * 200, b"3" * 200]),
    "send_stream": (send_in_parts, [b"1" * 100 + b"2" * 100 + b"3" * 100]),
    "receive": (receive_all, []),
    "receive_stream": (receive_in_parts, []),
    "ping": (send_ping, []),
    "aclose": (close_it, []),
    "two tasks": (two_tasks, [b"1" * 200, b"2" * 200, b"3" * 200]),
}

SCRIPT = [text("first"), binary(b"frag", fin=False), ping(b"in between"), cont(b"ments", fin=True), text("last")]


async def behave(peer: Peer) -> None:
    """Do the opening handshake, say everything, and answer what wants an answer."""
    try:
        await peer.handshake()
        for frame in SCRIPT:
            await peer.send(frame)
        await peer.behave()
    except (trio.BrokenResourceError, ValueError):
        # The connection ended in the middle of something. What came of it is looked at later.
        pass
    finally:
        await trio.aclose_forcefully(peer.stream)


@each_role
@each_moment
@pytest.mark.parametrize("name", LIVES)
async def test_cancel_a_whole_connection(role: Role, before: bool, name: str, autojump_clock: MockClock) -> None:
    live, expected = LIVES[name]

    async def run(number: int) -> bool:
        ours, theirs = pipe_pair(100, logged=True)
        start = trio.current_time()

        async def connect() -> None:
            async with trio_ws.connect_over(ours, URI, send_buffer=200, receive_buffer=0) as ws:
                await live(ws)

        async def call() -> None:
            if role is Role.CLIENT:
                await connect()
            else:
                await trio_ws.serve_over(ours, live, send_buffer=200, receive_buffer=0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(behave, Peer(theirs, OTHER[role]))
            outcome, fired = await cancel_at(number, before, call)
            assert ours.closed
            # A Close frame and the closing of the stream are all that may hold up a cancellation.
            assert trio.current_time() - start <= 0.2
        messages, closed = seen_by_peer(ours, masked=role is Role.CLIENT, head=True)
        assert messages == expected[: len(messages)]
        if not outcome.cancelled:
            assert messages == expected
            assert closed == Close(4000 if name == "aclose" else 1000, "")
        elif closed is not None:
            assert closed.code in ((1000, 1001, 1011) if name == "send_stream" else (1000, 1001, 4000))
        return fired

    assert await at_every_point(run) > 10


# -- One call --------------------------------------------------------------------------------------------------------


class Talk:
    """An open connection, on which one call is cancelled, and which is used on afterwards."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.ours, theirs = pipe_pair(20, logged=True)
        self.peer = Peer(theirs, OTHER[role])
        self.session = born_open(self.ours, role, send_buffer=0, receive_buffer=0)

    async def say(self, frames: list[Frame]) -> None:
        try:
            await self.peer.send(*frames)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def listen(self) -> None:
        await self.peer.behave()

    def messages(self) -> list[Message]:
        return seen_by_peer(self.ours, masked=self.role is Role.CLIENT)[0]

    def closed(self) -> Close | None:
        return seen_by_peer(self.ours, masked=self.role is Role.CLIENT)[1]


async def cancel_a_call(
    role: Role,
    before: bool,
    call: Callable[[WebSocket], Awaitable[Any]],
    frames: list[Frame],
    then: Callable[[Talk, WebSocket, Outcome], Awaitable[None]],
) -> None:
    """Cancel a call at every point, while the peer says something, and do something after each time."""

    async def run(number: int) -> bool:
        talk = Talk(role)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.listen)
            async with talk.session as ws:
                nursery.start_soon(talk.say, frames)
                outcome, fired = await cancel_at(number, before, lambda: call(ws))
                with trio.fail_after(60):
                    await then(talk, ws, outcome)
            assert talk.ours.closed
            nursery.cancel_scope.cancel()
        return fired

    assert await at_every_point(run) > 3


async def check_usable(talk: Talk, ws: WebSocket) -> None:
    await ws.send("still here")
    assert await ws.ping(b"still here") >= 0
    assert talk.messages()[-1] == "still here"
    await talk.peer.send(text("still there"))
    assert await ws.receive() == "still there"


@each_role
@each_moment
@pytest.mark.parametrize("size", [0, 5, 200])
async def test_cancel_send(role: Role, before: bool, size: int, autojump_clock: MockClock) -> None:
    messages = [name * size + b"." for name in (b"1", b"2", b"3")]
    done: list[Message] = []

    async def call(ws: WebSocket) -> None:
        done.clear()
        for message in messages:
            await ws.send(message)
            done.append(message)

    async def then(talk: Talk, ws: WebSocket, outcome: Outcome) -> None:
        await check_usable(talk, ws)
        # What was sent, and no more: a call that was cancelled has sent nothing.
        assert talk.messages() == [*done, "still here"]
        assert outcome.cancelled or done == messages

    await cancel_a_call(role, before, call, [], then)


@each_role
@each_moment
async def test_cancel_one_of_several_senders(role: Role, before: bool, autojump_clock: MockClock) -> None:
    done: list[Message] = []

    async def send(ws: WebSocket, message: bytes) -> None:
        await ws.send(message)
        done.append(message)

    async def call(ws: WebSocket) -> None:
        done.clear()
        async with trio.open_nursery() as nursery:
            for name in (b"1", b"2", b"3", b"4"):
                nursery.start_soon(send, ws, name * 100)

    async def then(talk: Talk, ws: WebSocket, _outcome: Outcome) -> None:
        await check_usable(talk, ws)
        messages = talk.messages()
        assert messages.pop() == "still here"
        assert sorted(map(bytes, messages)) == sorted(map(bytes, done))  # type: ignore[arg-type]  # all are bytes

    await cancel_a_call(role, before, call, [], then)


@each_role
@each_moment
async def test_cancel_receive(role: Role, before: bool, autojump_clock: MockClock) -> None:
    received: list[Message] = []
    frames = [*SCRIPT, binary(b"x" * 50), text("é".encode()[:1], fin=False), cont("é".encode()[1:], fin=True)]
    expected = ["first", b"fragments", "last", b"x" * 50, "é"]

    async def call(ws: WebSocket) -> None:
        received.clear()
        for _ in expected:
            received.append(await ws.receive())

    async def then(talk: Talk, ws: WebSocket, outcome: Outcome) -> None:
        assert outcome.cancelled or received == expected
        while len(received) < len(expected):
            received.append(await ws.receive())
        assert received == expected
        await check_usable(talk, ws)

    await cancel_a_call(role, before, call, frames, then)


@each_role
@each_moment
async def test_cancel_several_receivers(role: Role, before: bool, autojump_clock: MockClock) -> None:
    received: list[Message] = []
    expected = [str(i) for i in range(8)]
    frames = [frame for i in expected for frame in (text("", fin=False), cont(i.encode(), fin=True))]

    async def receive(ws: WebSocket) -> None:
        for _ in range(2):
            received.append(await ws.receive())

    async def receive_part(ws: WebSocket) -> None:
        for _ in range(2):
            async with ws.receive_stream() as parts:
                received.append("".join([str(part) async for part in parts]))

    async def call(ws: WebSocket) -> None:
        received.clear()
        async with trio.open_nursery() as nursery:
            for function in (receive, receive, receive_part, receive):
                nursery.start_soon(function, ws)

    async def then(talk: Talk, ws: WebSocket, _outcome: Outcome) -> None:
        # A message of which a part was taken by a stream that was cancelled then is dropped: at most one.
        while (message := await ws.receive()) != "end":
            received.append(message)
        assert len(set(received)) == len(received) >= len(expected) - 1
        assert set(received) <= set(expected)
        await check_usable(talk, ws)

    await cancel_a_call(role, before, call, [*frames, text("end")], then)


@each_role
@each_moment
async def test_cancel_send_stream(role: Role, before: bool, autojump_clock: MockClock) -> None:
    sent: list[bytes] = []
    complete = False

    async def call(ws: WebSocket) -> None:
        nonlocal complete
        sent.clear()
        complete = False
        async with ws.send_stream() as out:
            for name in (b"1", b"2", b"3"):
                await out.send(name * 50)
                sent.append(name * 50)
            complete = True

    async def then(talk: Talk, ws: WebSocket, _outcome: Outcome) -> None:
        if complete:
            await check_usable(talk, ws)
            assert talk.messages() == [b"".join(sent), "still here"]
        elif not sent:
            await check_usable(talk, ws)
            assert talk.messages() == ["still here"]
        else:
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.send("a")
            assert raised.value.sent is not None
            assert raised.value.sent.code == 1011
            assert talk.messages() == []
            assert talk.closed() == raised.value.sent

    await cancel_a_call(role, before, call, [], then)


@each_role
@each_moment
@pytest.mark.parametrize("take", [0, 1, 100])
async def test_cancel_receive_stream(role: Role, before: bool, take: int, autojump_clock: MockClock) -> None:
    frames = [binary(b"1" * 10, fin=False), ping(), cont(b"2" * 50), cont(b"3" * 10, fin=True), text("next")]
    whole = b"1" * 10 + b"2" * 50 + b"3" * 10
    entered = False
    received = b""

    async def call(ws: WebSocket) -> None:
        nonlocal entered, received
        entered, received = False, b""
        async with ws.receive_stream() as parts:
            entered = True
            assert not parts.text
            for _ in range(take):
                try:
                    received += await parts.__anext__()  # type: ignore[operator]  # these are bytes
                except StopAsyncIteration:
                    break

    async def then(talk: Talk, ws: WebSocket, outcome: Outcome) -> None:
        assert whole.startswith(received)
        if take == 100 and not outcome.cancelled:
            assert received == whole
        if not entered:
            assert await ws.receive() == whole
        assert await ws.receive() == "next"
        await check_usable(talk, ws)

    await cancel_a_call(role, before, call, frames, then)


@each_role
@each_moment
async def test_cancel_ping(role: Role, before: bool, autojump_clock: MockClock) -> None:
    async def call(ws: WebSocket) -> float:
        return await ws.ping(b"a")

    async def then(talk: Talk, ws: WebSocket, outcome: Outcome) -> None:
        assert outcome.cancelled or outcome.result >= 0
        assert await ws.ping(b"a") >= 0
        await check_usable(talk, ws)
        assert ws._connection.pings == []

    await cancel_a_call(role, before, call, [], then)


@each_role
@each_moment
@pytest.mark.parametrize("half_way", [True, False])
async def test_cancel_aclose(role: Role, before: bool, half_way: bool, autojump_clock: MockClock) -> None:
    start = 0.0

    async def call(ws: WebSocket) -> None:
        nonlocal start
        start = trio.current_time()
        await ws.send(b"x" * 100)
        if half_way:
            await ws.send_close(4000)
        await ws.aclose(4000)

    async def then(talk: Talk, ws: WebSocket, outcome: Outcome) -> None:
        assert trio.current_time() - start <= 0.2
        assert talk.ours.closed or not talk.messages()
        await ws.aclose()
        assert talk.ours.closed
        closed = talk.closed()
        if not outcome.cancelled:
            assert talk.messages() == [b"x" * 100]
            assert closed == Close(4000, "")
        with pytest.raises(trio.ClosedResourceError):
            await ws.receive()

    await cancel_a_call(role, before, call, [text("unread" * 10)] * 3, then)
