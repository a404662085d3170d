"""The public ways to end a connection at once and to see that it has ended: ``abort``, ``wait_closed``, ``state``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection.core import GOODBYE_TIMEOUT, Connection
from trio_ws.connection.session import Session
from trio_ws.connection.stream import StreamAdapter
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally, ConnectionClosedOK
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.http11 import Request, Response
from trio_ws.protocol import Role
from trio_ws.settings import Settings

from ..support import (
    HANGS,
    OTHER,
    Faulty,
    Peer,
    PipeStream,
    Streams,
    Task,
    binary,
    born_open,
    close,
    each_role,
    echo,
    memory_pair,
    opened,
    pipe_pair,
    sockets,
    text,
)

settle = wait_all_tasks_blocked


def state_of(ws: WebSocket) -> trio_ws.State:
    """Return the state. A function, because a type checker assumes that an attribute has not changed."""
    return ws.state


Ways = dict[str, Callable[[Peer], Awaitable[object]]]


async def send_fin(peer: Peer) -> None:
    assert isinstance(peer.stream, PipeStream)
    await peer.stream.send_eof()


async def send_rst(peer: Peer) -> None:
    assert isinstance(peer.stream, PipeStream)
    peer.stream.reset()


async def send_close(peer: Peer) -> None:
    await peer.send(close(4000, "bye"))
    await peer.receive()
    await peer.stream.aclose()


async def send_close_of_success(peer: Peer) -> None:
    await peer.send(close())
    await peer.receive()
    await peer.stream.aclose()


async def break_the_protocol(peer: Peer) -> None:
    await peer.send(b"\xff\xff")
    await peer.receive_all()
    await peer.stream.aclose()


#: How a peer can go.
PEERS: Ways = {
    "FIN": send_fin,
    "RST": send_rst,
    "Close 4000": send_close,
    "Close 1000": send_close_of_success,
    "violation": break_the_protocol,
}

each_way = pytest.mark.parametrize("how", PEERS)


# -- wait_closed -----------------------------------------------------------------------------------------------------


@each_role
@each_way
async def test_it_returns_when_the_peer_has_gone(
    role: Role, how: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, theirs = pipe_pair()
    async with opened(role, (ours, theirs)) as (ws, peer):
        tasks = [Task(nursery, ws.wait_closed) for _ in range(2)]
        await settle()
        assert not any(task.done for task in tasks)
        await PEERS[how](peer)
        await settle()
        assert [(task.done, task.error) for task in tasks] == [(True, None)] * 2
        assert ours.closed
        assert state_of(ws) is trio_ws.State.CLOSED
        assert ws.close_code == {"Close 4000": 4000, "Close 1000": 1000}.get(how, 1006)
        # The connection is closed already, so this does not wait.
        await ws.wait_closed()
        with pytest.raises(ConnectionClosedOK if how == "Close 1000" else ConnectionClosedError):
            await ws.receive()
    assert trio.current_time() == 0


@each_role
async def test_it_returns_when_this_end_has_closed(role: Role, nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair()
    async with opened(role, (ours, theirs)) as (ws, peer):
        waits = Task(nursery, ws.wait_closed)
        nursery.start_soon(peer.behave)
        await ws.send_close(4000)
        assert state_of(ws) is trio_ws.State.CLOSING
        await settle()
        if role is Role.SERVER:
            assert waits.done
        await theirs.aclose()
        await settle()
        assert (waits.done, waits.error, ours.closed) == (True, None, True)


@each_role
async def test_it_waits_until_the_stream_is_closed(
    role: Role, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, theirs = memory_pair()
    # Closing this stream never returns by itself.
    async with opened(role, (Faulty(ours, closing=trio.Event()), theirs)) as (ws, peer):
        waits = Task(nursery, ws.wait_closed)
        await settle()
        await peer.send(close(4000))
        await trio.aclose_forcefully(theirs)
        await settle()
        assert ws.close_code == 4000
        assert (state_of(ws), waits.done) == (trio_ws.State.CLOSING, False)
        await trio.sleep(GOODBYE_TIMEOUT + 0.01)
        assert (state_of(ws), waits.done) == (trio_ws.State.CLOSED, True)


async def test_it_does_not_count_messages_that_are_left(nursery: trio.Nursery) -> None:
    async with opened(streams=pipe_pair()) as (ws, peer):
        await peer.send(text("a"), text("b"))
        await settle()
        await send_fin(peer)
        await ws.wait_closed()
        assert [await ws.receive(), await ws.receive()] == ["a", "b"]
        with pytest.raises(ConnectionClosedError):
            await ws.receive()


@each_role
async def test_cancelled_nothing_has_happened(role: Role) -> None:
    async with opened(role) as (ws, peer):
        for delay in (0, 1):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ws.wait_closed)
                    if delay:
                        await settle()
                    scope.cancel()
            assert scope.cancelled_caught
        assert state_of(ws) is trio_ws.State.OPEN
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        await ws.send("b")
        assert await peer.receive() == text("b")


@each_way
async def test_a_handler_that_neither_sends_nor_receives_learns_it(
    how: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, theirs = pipe_pair()
    seen: list[tuple[trio_ws.State, int | None]] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await ws.wait_closed()
        seen.append((state_of(ws), ws.close_code))

    peer = Peer(theirs, Role.CLIENT)
    nursery.start_soon(trio_ws.serve_over, ours, handler)
    await peer.handshake()
    await settle()
    assert seen == []
    await PEERS[how](peer)
    await settle()
    assert seen == [(trio_ws.State.CLOSED, {"Close 4000": 4000, "Close 1000": 1000}.get(how, 1006))]


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_handler_of_a_server_learns_it(how: str) -> None:
    seen: list[int | None] = []
    over = trio.Event()

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await ws.wait_closed()
        seen.append(ws.close_code)
        over.set()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1"))
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}") as ws:
            await settle()
            assert seen == []
            if how == "abort":
                ws.abort()
            else:
                await ws.aclose(4000)
            with trio.fail_after(HANGS):
                await over.wait()
        await server.aclose()
    assert seen == [4000 if how == "close" else 1006]


# -- abort -----------------------------------------------------------------------------------------------------------


async def send_in_parts(ws: WebSocket) -> None:
    async with ws.send_stream() as out:
        await out.send(b"x" * 100_000)
        await out.send(b"x" * 100_000)


async def receive_in_parts(ws: WebSocket) -> None:
    async with ws.receive_stream() as parts:
        async for _ in parts:
            pass


CALLS: dict[str, Callable[[WebSocket], Awaitable[object]]] = {
    "send": lambda ws: ws.send(b"x" * 100_000),
    "receive": lambda ws: ws.receive(),
    "iterate": lambda ws: ws.__anext__(),
    "ping": lambda ws: ws.ping(),
    "send_stream": send_in_parts,
    "receive_stream": receive_in_parts,
}
KINDS: dict[str, Callable[[], Streams]] = {"pipe": pipe_pair, "sockets": sockets}

each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
@each_role
@pytest.mark.parametrize("name", CALLS)
async def test_those_who_wait_get_an_error(name: str, role: Role, kind: str, nursery: trio.Nursery) -> None:
    async with opened(role, KINDS[kind]()) as (ws, peer):
        if name.startswith("send"):
            await ws.send(b"x" * 10_000_000)  # the peer does not read
        elif name == "receive_stream":
            await peer.send(binary(b"a", fin=False))
        await settle()
        waiting = [Task(nursery, CALLS[name], ws) for _ in range(3)]
        await settle()
        assert not any(task.done for task in waiting)
        ws.abort()
        assert state_of(ws) is trio_ws.State.CLOSED
        await settle()
        assert [type(task.error) for task in waiting] == [ConnectionClosedError] * 3
        for call in CALLS.values():
            with pytest.raises(ConnectionClosedError) as raised:
                await call(ws)
            assert (raised.value.rcvd, raised.value.sent) == (None, None)


@each_kind
@each_role
async def test_those_who_close_are_done(role: Role, kind: str, nursery: trio.Nursery) -> None:
    async with opened(role, KINDS[kind]()) as (ws, _):
        closing, waits = Task(nursery, ws.aclose), Task(nursery, ws.wait_closed)
        await settle()
        assert (closing.done, waits.done) == (False, False)
        ws.abort()
        assert state_of(ws) is trio_ws.State.CLOSED
        await settle()
        assert [(task.done, task.error) for task in (closing, waits)] == [(True, None)] * 2
        with pytest.raises(ConnectionClosedLocally):
            await ws.receive()


@each_kind
@each_role
async def test_no_close_frame_reaches_the_peer(role: Role, kind: str) -> None:
    async with opened(role, KINDS[kind]()) as (ws, peer):
        await ws.send("a")
        await settle()
        ws.abort()
        assert await peer.receive_all() == [text("a")]
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1006, "")


@each_kind
@each_role
async def test_no_close_frame_is_sent_if_abort_comes_first(role: Role, kind: str) -> None:
    async with opened(role, KINDS[kind]()) as (ws, peer):
        ws.abort()
        assert await peer.receive_all() == []


@each_kind
async def test_what_waits_to_be_sent_is_lost(kind: str) -> None:
    async with opened(streams=KINDS[kind]()) as (ws, peer):
        await ws.send(b"x" * 10_000_000)
        await settle()
        ws.abort()
        await settle()
        assert len(await peer.receive_bytes()) < 10_000_000


@each_kind
@each_role
async def test_aborting_twice(role: Role, kind: str) -> None:
    async with opened(role, KINDS[kind]()) as (ws, peer):
        ws.abort()
        ws.abort()
        await ws.wait_closed()
        ws.abort()
        assert state_of(ws) is trio_ws.State.CLOSED
        assert ws.close_code == 1006
        assert await peer.receive_all() == []


@each_role
async def test_messages_that_came_in_before_can_be_received(role: Role) -> None:
    async with opened(role) as (ws, peer):
        await peer.send(text("a"), text("b"))
        await settle()
        ws.abort()
        assert await ws.receive() == "a"
        await ws.wait_closed()
        assert await ws.receive() == "b"
        with pytest.raises(ConnectionClosedError):
            await ws.receive()


@each_role
async def test_after_the_peer_has_closed_its_code_is_kept(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, pipe_pair()) as (ws, peer):
        await send_close(peer)
        await ws.wait_closed()
        ws.abort()
        assert (ws.close_code, ws.close_reason) == (4000, "bye")
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert (raised.value.rcvd, raised.value.sent) == (Close(4000, "bye"), Close(4000, "bye"))


@each_role
async def test_while_the_answer_to_a_close_is_held_back(role: Role) -> None:
    async with opened(role, pipe_pair()) as (ws, peer):
        await peer.send(text("a"), close(4000))
        assert await ws.receive() == "a"
        await settle()
        assert state_of(ws) is trio_ws.State.CLOSING
        ws.abort()
        assert state_of(ws) is trio_ws.State.CLOSED
        assert await peer.receive_all() == []
        with pytest.raises(ConnectionClosedError) as raised:
            await ws.receive()
        assert (raised.value.rcvd, raised.value.sent) == (Close(4000, ""), None)


@each_role
async def test_while_the_stream_closes(role: Role, autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    async with opened(role, (Faulty(ours, closing=trio.Event()), theirs)) as (ws, peer):
        await peer.send(close(4000))
        await trio.aclose_forcefully(theirs)
        await settle()
        assert state_of(ws) is trio_ws.State.CLOSING
        ws.abort()
        assert state_of(ws) is trio_ws.State.CLOSED
        assert ws.close_code == 4000


@each_role
async def test_before_the_session_is_entered(role: Role) -> None:
    ours, theirs = pipe_pair()
    connection = Connection(role, StreamAdapter(ours), Settings())
    ws = WebSocket(connection, Request("/", {"Host": "example.org"}), Response(101, "", {}), None)
    ws.abort()
    assert state_of(ws) is trio_ws.State.CLOSED
    async with Session(ws) as entered:
        assert entered is ws
        with pytest.raises(ConnectionClosedError):
            await ws.send("a")
        with pytest.raises(ConnectionClosedError):
            await ws.receive()
        await ws.wait_closed()
    assert ours.closed
    assert await Peer(theirs, OTHER[role]).receive_all() == []


@each_role
async def test_after_the_session_is_left(role: Role) -> None:
    async with opened(role) as (ws, _):
        pass
    code = ws.close_code
    ws.abort()
    assert (state_of(ws), ws.close_code) == (trio_ws.State.CLOSED, code)


@each_role
async def test_leaving_after_it_does_not_wait(role: Role, autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair()
    with pytest.raises(ZeroDivisionError):
        async with born_open(ours, role) as ws:
            ws.abort()
            raise ZeroDivisionError
    assert trio.current_time() == 0
    assert ours.closed
    assert await Peer(theirs, OTHER[role]).receive_all() == []


# -- state and role --------------------------------------------------------------------------------------------------


@each_role
async def test_the_states_in_their_order(role: Role, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with opened(role, pipe_pair()) as (ws, peer):
        assert ws.role is role
        assert state_of(ws) is trio_ws.State.OPEN
        assert repr(ws).endswith(f" {role.value} / open>")
        closing = Task(nursery, ws.aclose)
        await settle()
        assert state_of(ws) is trio_ws.State.CLOSING
        assert repr(ws).endswith(f" {role.value} / closing>")
        assert ws.close_code is None
        nursery.start_soon(peer.behave)
        await settle()
        await peer.stream.aclose()
        await settle()
        assert closing.done
        assert state_of(ws) is trio_ws.State.CLOSED
        assert repr(ws).endswith(f" {role.value} / closed>")


@each_role
async def test_the_states_when_the_peer_closes(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role, pipe_pair()) as (ws, peer):
        await peer.send(text("a"), close(4000))
        await settle()
        # There is a message to receive and to answer.
        assert state_of(ws) is trio_ws.State.CLOSING
        assert ws.close_code is None
        assert await ws.receive() == "a"
        await ws.send("b")
        with pytest.raises(ConnectionClosed):
            await ws.receive()
        assert [frame.opcode for frame in await peer_frames(peer)] == [Opcode.TEXT, Opcode.CLOSE]
        await peer.stream.aclose()
        await settle()
        assert state_of(ws) is trio_ws.State.CLOSED


async def peer_frames(peer: Peer) -> list[Frame]:
    """Return the frames up to and including the Close frame."""
    frames: list[Frame] = []
    while not frames or frames[-1].opcode is not Opcode.CLOSE:
        frame = await peer.receive()
        assert frame is not None
        frames.append(frame)
    return frames


class Stall(trio.abc.Instrument):
    """Lets a second pass before the next tasks run, as if the process had been held up."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock

    def before_io_wait(self, timeout: float) -> None:
        self._clock.jump(1)
        trio.lowlevel.remove_instrument(self)


async def test_a_message_before_the_end_can_be_answered_after_a_stall(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    class Observer(trio_ws.Instrument):
        def message_received(self, ws: trio_ws.ObservedWebSocket, opcode: Opcode, size: int) -> None:
            # The reader decides next how long it waits for an answer; the handler has not run yet.
            trio.lowlevel.add_instrument(Stall(mock_clock))

    for _ in range(20):  # Trio runs tasks in random order
        async with opened(Role.SERVER, instruments=[Observer()]) as (ws, peer):
            nursery.start_soon(echo, ws)
            await settle()
            await peer.send(text("hello"), close(1000))
            assert [frame.opcode for frame in await peer.receive_all()] == [Opcode.TEXT, Opcode.CLOSE]
