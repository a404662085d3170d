"""Tests of the rule for checkpoints: every call is a cancel point, and at least one in 32 lets other tasks run.

The first half makes every public ``async`` call in a scope that is cancelled already, in states in which the call would
not have to wait, and in states in which it would. Each call must raise ``Cancelled`` and do nothing. One test checks
that no call is missing. Cancellation in the middle of a call is tested in test_cancellation.py.

The second half counts calls. Trio's scheduler works in rounds, in which each runnable task has one turn. So if no turn
is long, no task waits for long.
"""

from __future__ import annotations

import inspect
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import ConnectionClosed
from trio_ws.frames import Frame
from trio_ws.protocol import Role
from trio_ws.protocol.handshake import build_request
from trio_ws.uri import parse_uri

from ..support import (
    URI,
    Peer,
    PipeStream,
    binary,
    born_open,
    both,
    close,
    cont,
    each_role,
    memory_pair,
    opened,
    parse_frames,
    pipe_pair,
    text,
)

settle = wait_all_tasks_blocked

Call = Callable[[], Awaitable[object]]

#: Often enough that a call with a schedule point is among them.
OFTEN = 40


# -- Everything public that is async ---------------------------------------------------------------------------------


def public_async() -> set[str]:
    """Return the names of all async functions and methods of the package; a method that is inherited counts once."""
    names = set()
    ours = [value for value in vars(trio_ws).values() if inspect.isclass(value)]
    for name in trio_ws.__all__:
        value = getattr(trio_ws, name)
        if inspect.iscoroutinefunction(value):
            names.add(name)
        elif inspect.isclass(value):
            bases = [base for base in value.__mro__[1:] if base in ours]
            for method in dir(value):
                if any(getattr(base, method, None) is getattr(value, method) for base in bases):
                    continue
                is_public = not method.startswith("_") or method in ("__aenter__", "__aexit__", "__anext__")
                if is_public and inspect.iscoroutinefunction(getattr(value, method)):
                    names.add(f"{name}.{method}")
    return names


#: Which test below is about what.
TESTED = {
    "WebSocket.send": "test_nothing_is_done_on_a_websocket",
    "WebSocket.receive": "test_nothing_is_done_on_a_websocket",
    "WebSocket.__anext__": "test_nothing_is_done_on_a_websocket",
    "WebSocket.ping": "test_nothing_is_done_on_a_websocket",
    "WebSocket.pong": "test_nothing_is_done_on_a_websocket",
    "WebSocket.send_close": "test_nothing_is_done_on_a_websocket",
    "SendStream.__aenter__": "test_nothing_is_done_on_a_websocket",
    "ReceiveStream.__aenter__": "test_nothing_is_done_on_a_websocket",
    "SendStream.send": "test_no_part_is_sent",
    "SendStream.__aexit__": "test_leaving_a_send_stream",
    "ReceiveStream.__anext__": "test_no_part_is_received",
    "ReceiveStream.__aexit__": "test_leaving_a_receive_stream",
    "WebSocket.wait_closed": "test_nothing_is_done_on_a_websocket",
    "WebSocket.aclose": "test_aclose_closes",
    "WebSocket.__aexit__": "test_aclose_closes",
    "ByteStream.send_all": "test_nothing_is_done_on_a_byte_stream",
    "ByteStream.wait_send_all_might_not_block": "test_nothing_is_done_on_a_byte_stream",
    "ByteStream.receive_some": "test_nothing_is_done_on_a_byte_stream",
    "ByteStream.__anext__": "test_nothing_is_done_on_a_byte_stream",
    "ByteStream.aclose": "test_aclose_closes",
    "ByteStream.__aexit__": "test_aclose_closes",
    "TypedChannel.send": "test_nothing_is_done_on_a_websocket",
    "TypedChannel.receive": "test_nothing_is_done_on_a_websocket",
    "TypedChannel.__anext__": "test_nothing_is_done_on_a_websocket",
    "TypedChannel.aclose": "test_aclose_closes",
    "TypedChannel.__aexit__": "test_aclose_closes",
    "connect_in": "test_nothing_is_connected",
    "Connecting.__aenter__": "test_nothing_is_connected",
    "Connecting.open": "test_nothing_is_connected",
    "Connecting.__aexit__": "test_leaving_a_connection",
    "HTTP2Pool.get": "test_nothing_is_taken_from_a_pool",
    "serve": "test_nothing_is_served",
    "serve_over": "test_nothing_is_served_over_a_stream",
    "Server.aclose": "test_a_server_closes",
    "Server.drain": "test_a_server_drains",
    "Hub.run": "test_nothing_is_counted_or_run",
    "Topic.count_members": "test_nothing_is_counted_or_run",
    "Backend.__aenter__": "test_nothing_is_done_by_a_back_end",
    "Backend.history": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.connect": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.count_members": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.history": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.publish": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.receive": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.set_members": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.subscribe": "test_nothing_is_done_by_a_back_end",
    "MemoryBackend.unsubscribe": "test_nothing_is_done_by_a_back_end",
}

#: Leaving a back end or a pool, which closes it even in a cancelled scope.
LEAVING = {
    *("Backend.__aexit__", "Backend.disconnect", "MemoryBackend.disconnect", "RedisBackend.disconnect"),
    "HTTP2Pool.__aexit__",
}

#: Those of RedisBackend need a server; test_nothing_is_done_by_redis in hub/test_redis.py is about them.
REDIS = {
    f"RedisBackend.{name}"
    for name in (
        "connect",
        "count_members",
        "history",
        "publish",
        "receive",
        "set_members",
        "subscribe",
        "unsubscribe",
    )
}

#: Those that connect again are in client/test_attempts.py and client/test_reconnecting.py, with the checkpoints and the
#: cancellation of their calls.
RECONNECTING = {
    *(f"Attempt.{name}" for name in ("__aenter__", "__aexit__")),
    *(f"Attempts.{name}" for name in ("__anext__", "connect")),
    *(f"ReconnectingChannel.{name}" for name in ("__aenter__", "__aexit__", "__anext__", "aclose", "receive", "send")),
}

#: Trio's, for every resource: it returns the resource, which is open already, and that is all. A pool opens a nursery,
#: which is no checkpoint in Trio either.
NOT_OURS = {"WebSocket.__aenter__", "ByteStream.__aenter__", "TypedChannel.__aenter__", "HTTP2Pool.__aenter__"}

#: To be implemented by others.
ABSTRACT = {f"Backend.{name}" for name in trio_ws.Backend.__abstractmethods__}


def test_everything_is_tested() -> None:
    assert set(TESTED) == public_async() - NOT_OURS - RECONNECTING - ABSTRACT - LEAVING - REDIS
    for name in TESTED.values():
        assert inspect.iscoroutinefunction(globals()[name])


async def in_cancelled_scope(call: Call) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await call()
    assert scope.cancelled_caught


async def after_deadline(call: Call) -> None:
    with trio.CancelScope(deadline=-math.inf) as scope:
        await call()
    assert scope.cancelled_caught


async def in_outer_scope(call: Call) -> None:
    with trio.CancelScope() as outer:
        with trio.move_on_after(math.inf) as inner:
            outer.cancel()
            await call()
    assert outer.cancelled_caught
    assert not inner.cancelled_caught


each_way = pytest.mark.parametrize("cancelled", [in_cancelled_scope, after_deadline, in_outer_scope])


# -- Calls of a connection in a scope that is cancelled --------------------------------------------------------------


@attrs.frozen
class Talk:
    """An open connection over a stream with a log."""

    role: Role
    ours: PipeStream
    ws: WebSocket
    peer: Peer

    def frames(self) -> list[Frame]:
        """Return the bytes written so far, which end with a whole frame."""
        log = self.ours.outgoing.log
        assert log is not None
        frames, rest = parse_frames(bytes(log), masked=self.role is Role.CLIENT)
        assert rest == b""
        return frames


@asynccontextmanager
async def talk(role: Role, capacity: int = 65536, **options: Any) -> AsyncIterator[Talk]:
    ours, theirs = pipe_pair(capacity, logged=True)
    async with opened(role, (ours, theirs), **options) as (ws, peer):
        yield Talk(role, ours, ws, peer)


def typed(ws: WebSocket) -> trio_ws.TypedChannel[str | bytes]:
    return trio_ws.TypedChannel(ws, lambda value: value, lambda message: message)


#: Calls that do nothing when they are cancelled.
CALLS: dict[str, Callable[[WebSocket], Awaitable[object]]] = {
    "send": lambda ws: ws.send("x"),
    "send nothing": lambda ws: ws.send(b""),
    "receive": lambda ws: ws.receive(),
    "receive and decode": lambda ws: ws.receive(decode=True),
    "__anext__": lambda ws: ws.__anext__(),
    "ping": lambda ws: ws.ping(),
    "ping with data": lambda ws: ws.ping(b"x"),
    "ping without waiting": lambda ws: ws.ping(wait=False),
    "pong": lambda ws: ws.pong(b"x"),
    "send_close": lambda ws: ws.send_close(4000),
    "send_stream": lambda ws: ws.send_stream().__aenter__(),
    "receive_stream": lambda ws: ws.receive_stream().__aenter__(),
    "send a value": lambda ws: typed(ws).send("x"),
    "receive a value": lambda ws: typed(ws).receive(),
    "iterate over values": lambda ws: typed(ws).__anext__(),
}


@each_role
@each_way
@pytest.mark.parametrize("state", ["ready", "waiting", "closing", "closed"])
async def test_nothing_is_done_on_a_websocket(
    role: Role, cancelled: Callable[[Call], Awaitable[None]], state: str
) -> None:
    for name in CALLS:
        # Ready: there is a message, and there is room. Waiting: there is no message and no room.
        async with talk(role, 10 if state == "waiting" else 65536, send_buffer=100) as each:
            ws, peer = each.ws, each.peer
            written = 0
            if state == "waiting":
                await ws.send(b"x" * 1000)
                written = 1
            else:
                await peer.send(text("first"), binary(b"\xff"), text("third"))
            if state == "closing":
                await ws.send_close()
                written = 1
            elif state == "closed":
                await peer.send(close())
                await settle()
            await settle()
            for _ in range(OFTEN):
                await cancelled(partial(CALLS[name], ws))
                await settle()
            if state == "waiting":
                assert await peer.receive() == binary(b"x" * 1000)
                await peer.send(text("first"), binary(b"\xff"), text("third"))
            assert [await ws.receive() for _ in range(3)] == ["first", b"\xff", "third"]
            if state == "closed":
                with pytest.raises(trio.EndOfChannel):
                    await ws.receive()
                assert each.frames() == [close()]
            else:
                await settle()
                assert len(each.frames()) == written
            if state in ("ready", "waiting"):
                await ws.send("still here")
                assert await peer.receive() == text("still here")


@each_role
@each_way
@pytest.mark.parametrize("room", [True, False])
async def test_no_part_is_sent(role: Role, cancelled: Callable[[Call], Awaitable[None]], room: bool) -> None:
    async with talk(role, 65536 if room else 10, send_buffer=100) as each:
        async with each.ws.send_stream() as out:
            if not room:
                await out.send(b"x" * 1000)
            for part in (b"y", b"", b"z" * 1000):
                for _ in range(OFTEN):
                    await cancelled(partial(out.send, part))
            if not room:
                assert await each.peer.receive() == binary(b"x" * 1000, fin=False)
            await settle()
        assert await each.peer.receive() == (binary(b"") if room else cont(b"", fin=True))


@each_role
@each_way
async def test_leaving_a_send_stream(role: Role, cancelled: Callable[[Call], Awaitable[None]]) -> None:
    # The end of the message is sent all the same, because the message is complete when the block is left.
    async with talk(role) as each:

        async def leave() -> None:
            await out.__aexit__(None, None, None)

        for _ in range(OFTEN):
            out = each.ws.send_stream()
            await out.__aenter__()
            await out.send(b"x")
            await cancelled(leave)
            assert [await each.peer.receive(), await each.peer.receive()] in (
                [binary(b"x", fin=False), cont(b"", fin=True)],
            )
        await each.ws.send("next")
        assert await each.peer.receive() == text("next")


@each_role
@each_way
async def test_no_part_is_received(role: Role, cancelled: Callable[[Call], Awaitable[None]]) -> None:
    async with talk(role) as each:
        await each.peer.send(text("a", fin=False))
        async with each.ws.receive_stream() as parts:
            for received, coming in (("a", cont(b"b")), ("b", cont(b"c", fin=True)), ("c", text("next"))):
                await settle()
                for _ in range(OFTEN):
                    await cancelled(parts.__anext__)
                assert await parts.__anext__() == received
                # Now there is no part, so a call would wait.
                if received != "c":
                    for _ in range(OFTEN):
                        await cancelled(parts.__anext__)
                await each.peer.send(coming)
            # A call is cancelled at the end of the message, too.
            for _ in range(OFTEN):
                await cancelled(parts.__anext__)
            with pytest.raises(StopAsyncIteration):
                await parts.__anext__()
        assert await each.ws.receive() == "next"


@each_role
@each_way
@pytest.mark.parametrize("whole", [True, False])
async def test_leaving_a_receive_stream(role: Role, cancelled: Callable[[Call], Awaitable[None]], whole: bool) -> None:
    # The block is left all the same, and the rest of the message is dropped.
    async with talk(role) as each:

        async def leave() -> None:
            await parts.__aexit__(None, None, None)

        for number in range(OFTEN):
            await each.peer.send(text("dropped", fin=whole))
            await settle()
            parts = each.ws.receive_stream()
            await parts.__aenter__()
            await cancelled(leave)
            if not whole:
                await each.peer.send(cont(b"dropped too", fin=True))
            await each.peer.send(text(str(number)))
            assert await each.ws.receive() == str(number)


#: Calls that do nothing on a stream of bytes when they are cancelled.
BYTE_CALLS: dict[str, Callable[[trio_ws.ByteStream], Awaitable[object]]] = {
    "send_all": lambda stream: stream.send_all(b"x"),
    "send_all nothing": lambda stream: stream.send_all(b""),
    "wait_send_all_might_not_block": lambda stream: stream.wait_send_all_might_not_block(),
    "receive_some": lambda stream: stream.receive_some(),
    "receive_some of them": lambda stream: stream.receive_some(1),
    "__anext__": lambda stream: stream.__anext__(),
}


@each_role
@each_way
@pytest.mark.parametrize("state", ["ready", "in a part", "waiting", "closed"])
async def test_nothing_is_done_on_a_byte_stream(
    role: Role, cancelled: Callable[[Call], Awaitable[None]], state: str
) -> None:
    for name in BYTE_CALLS:
        async with talk(role, 10 if state == "waiting" else 65536, send_buffer=100) as each:
            stream, peer = trio_ws.ByteStream(each.ws), each.peer
            expected = b"firstsecond"
            if state == "waiting":
                await stream.send_all(b"x" * 1000)
            else:
                await peer.send(binary(b"first"), binary(b"second"))
            if state == "in a part":
                assert await stream.receive_some(2) == b"fi"
                expected = expected[2:]
            elif state == "closed":
                await peer.send(close())
            await settle()
            for _ in range(OFTEN):
                await cancelled(partial(BYTE_CALLS[name], stream))
            if state == "waiting":
                assert await peer.receive() == binary(b"x" * 1000)
                await peer.send(binary(b"first"), binary(b"second"))
            received = b""
            while len(received) < len(expected):
                received += await stream.receive_some()
            assert received == expected
            if state == "closed":
                assert await stream.receive_some() == b""
            else:
                await stream.send_all(b"still here")
                assert await peer.receive() == binary(b"still here")


@each_role
@each_way
@pytest.mark.parametrize("wrap", [lambda ws: ws, trio_ws.ByteStream, typed], ids=["WebSocket", "bytes", "values"])
async def test_aclose_closes(
    role: Role,
    cancelled: Callable[[Call], Awaitable[None]],
    wrap: Callable[[WebSocket], trio.abc.AsyncResource],
    autojump_clock: MockClock,
) -> None:
    for name in ["aclose", "__aexit__"]:
        for room in [True, False]:
            async with talk(role, 65536 if room else 10) as each:
                resource = wrap(each.ws)
                call = resource.aclose if name == "aclose" else partial(resource.__aexit__, None, None, None)
                await each.ws.send(b"x" * 1000)
                await cancelled(call)
                # There was not even time for the answer of the peer.
                assert each.ours.closed
                assert trio.current_time() <= 0.2
                if room:
                    assert each.frames() == [binary(b"x" * 1000), close()]
                with pytest.raises(trio.ClosedResourceError):
                    await each.ws.receive()
                # Closing again does nothing, but is still a checkpoint.
                await call()
                for _ in range(OFTEN):
                    await cancelled(call)


# -- Connections and servers in a scope that is cancelled ------------------------------------------------------------


@each_way
async def test_nothing_is_connected(cancelled: Callable[[Call], Awaitable[None]]) -> None:
    for method in ("__aenter__", "open"):
        ours, theirs = pipe_pair(logged=True)
        await cancelled(getattr(trio_ws.connect_over(ours, URI), method))
        assert ours.closed
        assert await theirs.receive_some() == b""
        assert not ours.outgoing.log

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            await cancelled(getattr(trio_ws.connect(f"ws://127.0.0.1:{port}/"), method))
            await in_cancelled_scope(listener.accept)
            assert nobody_connects(listener)
            async with trio.open_nursery() as nursery:
                await cancelled(partial(trio_ws.connect_in, nursery, f"ws://127.0.0.1:{port}/"))
            assert nobody_connects(listener)


def nobody_connects(listener: trio.SocketListener) -> bool:
    try:
        listener.socket._sock.accept()  # type: ignore[attr-defined]  # Trio's own waits
    except BlockingIOError:
        return True
    return False


async def refuse(ws: WebSocket) -> None:
    raise AssertionError("the handler was called")


async def ignore(ws: WebSocket) -> None:
    with pytest.raises(ConnectionClosed):
        await ws.receive()


@pytest.mark.parametrize("by_deadline", [True, False])
async def test_leaving_a_connection(by_deadline: bool, nursery: trio.Nursery) -> None:
    for _ in range(OFTEN):
        ours, theirs = pipe_pair(logged=True)
        peer = Peer(theirs)
        nursery.start_soon(peer.handshake)
        with trio.CancelScope() as scope:
            async with trio_ws.connect_over(ours, URI):
                if by_deadline:
                    scope.deadline = -math.inf
                else:
                    scope.cancel()
        assert scope.cancelled_caught
        assert ours.closed
        # The connection was closed normally. Only the wait was cancelled.
        assert await peer.receive_all() == [close()]


@each_way
async def test_nothing_is_served(cancelled: Callable[[Call], Awaitable[None]], tmp_path: Path) -> None:
    await cancelled(partial(trio_ws.serve, refuse, 0, host="127.0.0.1"))
    path = tmp_path / "socket"
    await cancelled(partial(trio_ws.serve, refuse, path=path))
    assert not path.exists()
    # serve() owns these listeners, so it closes them.
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await cancelled(partial(trio_ws.serve, refuse, listeners=listeners))
    for listener in listeners:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


@each_way
async def test_nothing_is_served_over_a_stream(cancelled: Callable[[Call], Awaitable[None]]) -> None:
    ours, theirs = pipe_pair(logged=True)
    await theirs.send_all(build_request(parse_uri(URI), random=os.urandom).serialize())
    await cancelled(partial(trio_ws.serve_over, ours, refuse))
    assert ours.closed
    # Nothing but to say so.
    assert ours.outgoing.log is not None
    assert ours.outgoing.log.startswith(b"HTTP/1.1 503 ")


class OneConnection(trio.abc.Listener[trio.abc.Stream]):
    """A listener that accepts one client."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.streams = [stream]

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not self.streams:
            await trio.sleep_forever()
        return self.streams.pop()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@each_way
async def test_a_server_closes(cancelled: Callable[[Call], Awaitable[None]], autojump_clock: MockClock) -> None:
    # Only the wait ends: the server goes on closing, and its connections end normally.
    ours, theirs = pipe_pair()
    peer = Peer(theirs, Role.CLIENT)
    async with trio.open_nursery() as nursery:
        server: trio_ws.Server = await nursery.start(
            partial(trio_ws.serve, ignore, listeners=[OneConnection(ours)], close_timeout=3)
        )
        await peer.handshake()
        for _ in range(OFTEN):
            await cancelled(server.aclose)
        assert await peer.receive() == close(1001)
        await trio.sleep(2)
        assert not ours.closed
        await peer.send(close(1001))
    assert ours.closed
    for _ in range(OFTEN):
        await cancelled(server.aclose)


@each_way
async def test_a_server_drains(cancelled: Callable[[Call], Awaitable[None]], autojump_clock: MockClock) -> None:
    # Only the wait ends: the server does not accept again, and its connections go on.
    ours, theirs = pipe_pair()
    peer = Peer(theirs, Role.CLIENT)
    async with trio.open_nursery() as nursery:
        server: trio_ws.Server = await nursery.start(
            partial(trio_ws.serve, ignore, listeners=[OneConnection(ours)], close_timeout=3)
        )
        await peer.handshake()
        for _ in range(OFTEN):
            await cancelled(server.drain)
        await trio.sleep(2)
        assert not ours.closed
        await peer.send(close(1001))
    assert ours.closed
    for _ in range(OFTEN):
        await cancelled(server.drain)


@each_way
async def test_nothing_is_taken_from_a_pool(cancelled: Callable[[Call], Awaitable[None]]) -> None:
    dialed = []

    async def dial() -> None:
        dialed.append(1)

    async with trio_ws.HTTP2Pool() as pool:
        for _ in range(OFTEN):
            await cancelled(partial(pool.get, "key", dial))
    assert not dialed


class Quiet(trio_ws.MemoryBackend):
    """A back end that records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def subscribe(self, topics: Mapping[str, trio_ws.Position | None]) -> Mapping[str, trio_ws.Position | None]:
        await trio.lowlevel.checkpoint()
        self.calls.extend(topics)
        return await super().subscribe(topics)


@each_way
@pytest.mark.parametrize("backend", [Quiet(), None])
async def test_nothing_is_counted_or_run(cancelled: Callable[[Call], Awaitable[None]], backend: Quiet | None) -> None:
    hub = trio_ws.Hub(backend=backend)
    topic = hub.topic("news")
    async with opened() as (ws, _):
        with topic.subscribe(ws):
            topic.publish("x")
            for _ in range(OFTEN):
                await cancelled(hub.run)
            if backend is None:
                for _ in range(OFTEN):
                    await cancelled(topic.count_members)
            else:
                async with backend:
                    for _ in range(OFTEN):
                        await cancelled(topic.count_members)
    assert backend is None or not backend.calls


@each_way
@pytest.mark.parametrize("backend", [Quiet(), None])
async def test_nothing_is_joined(cancelled: Callable[[Call], Awaitable[None]], backend: Quiet | None) -> None:
    hub = trio_ws.Hub(backend=backend)
    topic = hub.topic("news")
    async with opened() as (ws, _):
        for since in (None, trio_ws.Position("", 1)):
            for _ in range(OFTEN):
                joining = topic.join(ws, since=since)
                await cancelled(joining.__aenter__)
                assert not topic.members
    assert not hub.topics


@each_way
async def test_nothing_is_done_by_a_back_end(cancelled: Callable[[Call], Awaitable[None]]) -> None:
    backend = trio_ws.MemoryBackend()
    for _ in range(OFTEN):
        await cancelled(backend.__aenter__)
        assert not backend._entered
    async with backend:
        for call in (
            partial(trio_ws.Backend.history, backend, "news", trio_ws.Position("", 1), 1000),
            partial(backend.publish, [trio_ws.Publication("news", "a", "", 1)]),
            partial(backend.subscribe, {"news": None}),
            partial(backend.unsubscribe, ["news"]),
            partial(backend.set_members, {"news": 1}),
            partial(backend.count_members, "news"),
            partial(backend.history, "news", trio_ws.Position("", 1), 1000),
            backend.receive,
        ):
            for _ in range(OFTEN):
                await cancelled(call)
        assert not backend._positions
        assert not backend.store._timelines
        assert not backend._counts


# -- At least once in 32 calls ---------------------------------------------------------------------------------------

#: How many calls there are at most in one turn of a task.
MOST = 32


class Turns(trio.abc.Instrument):
    """Counts the calls in each turn of a task, and in each round of the scheduler, in which each task has one turn."""

    def __init__(self) -> None:
        self.in_turn = 0
        self.in_round = 0
        self.most_in_turn = 0
        self.most_in_round = 0
        self.calls = 0
        self.turns: Counter[trio.lowlevel.Task] = Counter()

    def before_io_wait(self, timeout: float) -> None:
        self.in_round = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.in_turn = 0
        self.turns[task] += 1

    def called(self) -> None:
        self.calls += 1
        self.in_turn += 1
        self.in_round += 1
        self.most_in_turn = max(self.most_in_turn, self.in_turn)
        self.most_in_round = max(self.most_in_round, self.in_round)


async def flood(callers: Sequence[Callable[[Turns], Awaitable[None]]]) -> tuple[Turns, int, int]:
    """Make calls in some tasks as fast as possible, while another task counts them between its turns.

    Returns:
        The counts; the maximum number of calls between two turns of the other task; the number of turns of the callers.
    """
    turns = Turns()
    between: list[int] = []
    over = False

    async def third() -> None:
        last = 0
        while not over:
            between.append(turns.calls - last)
            last = turns.calls
            await trio.lowlevel.checkpoint()

    tasks: list[trio.lowlevel.Task] = []

    async def run(caller: Callable[[Turns], Awaitable[None]]) -> None:
        tasks.append(trio.lowlevel.current_task())
        await caller(turns)

    trio.lowlevel.add_instrument(turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(third)
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as inner:
            for caller in callers:
                inner.start_soon(run, caller)
        over = True
    trio.lowlevel.remove_instrument(turns)
    return turns, max(between), sum(turns.turns[task] for task in tasks)


async def repeat(call: Call, count: int, turns: Turns) -> None:
    for _ in range(count):
        await call()
        turns.called()


async def alternate(calls: list[Call], count: int, turns: Turns) -> None:
    """Make the calls one after the other."""
    for _, call in zip(range(count), cycle(calls), strict=False):
        await call()
        turns.called()


def check(counted: tuple[Turns, int, int], callers: int, count: int, *, is_fast: bool = True) -> None:
    turns, between, had = counted
    assert turns.calls == callers * count
    assert turns.most_in_turn <= MOST
    # A runnable task waits for one round until its turn. From one turn to the next, it may be two
    # rounds, if the other tasks run after it in one round and before it in the next.
    assert turns.most_in_round <= callers * MOST
    assert between <= 2 * callers * MOST
    if is_fast:
        # The wait was never longer than one call, so other tasks do not run on every call.
        assert had <= callers * 2 + turns.calls // (MOST // 2)


MUCH = {"send_buffer": 10**9, "receive_buffer": 10**9, "max_message_size": None}
COUNT = 3200


async def iterate(ws: WebSocket, count: int, turns: Turns) -> None:
    async for _ in ws:
        turns.called()
        count -= 1
        if not count:
            break


@pytest.mark.parametrize("name", ["send", "receive", "async for", "turn by turn", "in bursts", "pairs"])
async def test_one_task_on_one_connection(name: str) -> None:
    async with talk(Role.CLIENT, 10**9, **MUCH) as each:
        ws = each.ws
        await each.peer.send(b"\x81\x01a" * (COUNT + 1))
        await settle()
        send: Call = partial(ws.send, "a")
        callers: dict[str, Callable[[Turns], Awaitable[None]]] = {
            "send": partial(repeat, send, COUNT),
            "receive": partial(repeat, ws.receive, COUNT),
            "async for": partial(iterate, ws, COUNT),
            "turn by turn": partial(alternate, [send, ws.receive], COUNT),
            "in bursts": partial(alternate, [send] * 31 + [ws.receive] * 31, COUNT),
            "pairs": partial(alternate, [send, send, ws.receive], COUNT),
        }
        check(await flood([callers[name]]), 1, COUNT)


async def skip_one(ws: WebSocket) -> None:
    async with ws.receive_stream():
        pass


async def send_empty(ws: WebSocket) -> None:
    async with ws.send_stream():
        pass


@pytest.mark.parametrize("name", ["part out", "no part in", "stream out", "stream in", "send_close", "decode"])
async def test_what_else_need_not_wait(name: str) -> None:
    async with talk(Role.CLIENT, 10**9, **MUCH) as each:
        ws = each.ws
        await each.peer.send(b"\x82\x01\xff" * (COUNT + 1))
        await settle()

        async def no_more_parts() -> None:
            with pytest.raises(StopAsyncIteration):
                await parts.__anext__()

        async def receive_text() -> None:
            with pytest.raises(trio_ws.InvalidData):
                await ws.receive(decode=True)

        async with ws.receive_stream() as parts, ws.send_stream() as out:
            assert await parts.__anext__() == b"\xff"
            if name == "part out":
                check(await flood([partial(repeat, partial(out.send, b"a"), COUNT)]), 1, COUNT)
            elif name == "no part in":
                check(await flood([partial(repeat, no_more_parts, COUNT)]), 1, COUNT)
        calls: dict[str, Call] = {
            "stream out": partial(send_empty, ws),
            "stream in": partial(skip_one, ws),
            "send_close": ws.send_close,
            "decode": receive_text,
        }
        if name in calls:
            # Each block is two calls.
            check(await flood([partial(repeat, calls[name], COUNT)]), 1, COUNT, is_fast="stream" not in name)


@pytest.mark.parametrize("name", ["send", "receive", "__anext__", "ping", "send_stream", "receive_stream", "aclose"])
async def test_on_a_connection_that_is_closed(name: str) -> None:
    async with talk(Role.CLIENT) as each:
        await each.peer.send(close(4000))
        await settle()
        with pytest.raises(ConnectionClosed):
            await each.ws.receive()
        await each.peer.stream.aclose()
        await settle()
        call = each.ws.aclose if name == "aclose" else partial(CALLS[name], each.ws)

        async def raises() -> None:
            if name == "aclose":
                await call()
            else:
                with pytest.raises(ConnectionClosed):
                    await call()

        check(await flood([partial(repeat, raises, 320)]), 1, 320, is_fast=False)


async def test_bytes_let_others_run_in_each_call() -> None:
    # Trio's own streams let other tasks run on every call, and users of streams may rely on it.
    async with talk(Role.CLIENT, 10**9, **MUCH) as each:
        stream = trio_ws.ByteStream(each.ws)
        await each.peer.send(b"\x82\x05abcde" * COUNT)
        await settle()
        for call in (partial(stream.send_all, b"a"), partial(stream.receive_some, 1), partial(stream.send_all, b"")):
            turns, between, _ = await flood([partial(repeat, call, COUNT)])
            assert turns.calls == COUNT
            assert turns.most_in_turn == 1
            assert between <= 2


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("connections", [1, 2, 10])
async def test_several_tasks_and_connections(tasks: int, connections: int) -> None:
    # Each task loops over all connections, so no connection sees many of the calls of one turn.
    count = 960
    pairs = [pipe_pair(10**9) for _ in range(connections)]
    sessions = [born_open(ours, Role.CLIENT, **MUCH) for ours, _ in pairs]  # type: ignore[arg-type]  # all are options
    async with trio.open_nursery() as nursery:
        websockets: list[WebSocket] = []
        for session, (_, theirs) in zip(sessions, pairs, strict=True):
            websockets.append(await session.__aenter__())
            await theirs.send_all(b"\x81\x01a" * (tasks * count))
        await settle()
        calls: list[Call] = [call for ws in websockets for call in (partial(ws.send, "a"), ws.receive)]
        check(await flood([partial(alternate, calls, count)] * tasks), tasks, count)
        for session, (_, theirs) in zip(sessions[::-1], pairs[::-1], strict=True):
            await theirs.aclose()
            await session.__aexit__(None, None, None)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["memory", "pipe"])
async def test_both_ends_in_memory(kind: str) -> None:
    # The tasks of the connections run here, too, and the callers sometimes wait. The third task does not wait longer.
    count = 1000
    streams = memory_pair() if kind == "memory" else pipe_pair(1000)
    async with both(streams) as (client, server):
        callers = [
            partial(repeat, call, count) for ws in (client, server) for call in (partial(ws.send, "a"), ws.receive)
        ]
        check(await flood(callers), 4, count, is_fast=False)
