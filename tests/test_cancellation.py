"""Cancellation at every point: of each call, each session, and each way of opening and closing a connection.

The tool for this is in cancellation.py. The scenarios are in two tables here, ``SCENARIOS`` and ``OPENINGS``. To add
one, write a function and a row. Below them are tests of the guarantees of single calls. They use a pipe with a small
buffer, and parse its log with ``support``.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_ws
from trio_ws.connection.bytestream import ByteStream
from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.exceptions import ConnectionClosedError
from trio_ws.frames import Close, Frame
from trio_ws.protocol import Message, Role
from trio_ws.settings import Options

from .cancellation import (
    SOCKETS,
    SOCKETS_OF_WRITER,
    TCP,
    UNIX,
    Opening,
    Outcome,
    Place,
    Scenario,
    Scheduling,
    Talk,
    at_every_point,
    cancel_at,
    cancel_call,
    cancel_opening,
    cancel_session,
    each_kind,
    fixture_shortcut,
)
from .support import (
    HANGS,
    OTHER,
    URI,
    Peer,
    PipeStream,
    binary,
    born_open,
    close,
    cont,
    each_role,
    parse_frames,
    ping,
    pipe_pair,
    read_messages,
    text,
)

__all__ = ["fixture_shortcut"]

# -- What is done with an open connection ----------------------------------------------------------------------------

PROSE = "bid price ask volume"


async def send(ws: WebSocket, talk: Talk) -> None:
    for message in ("a", b"", "é"):
        await talk.send(ws, message)


async def send_large(ws: WebSocket, talk: Talk) -> None:
    for message in (talk.large, "b"):
        await talk.send(ws, message)


async def send_compressed(ws: WebSocket, talk: Talk) -> None:
    for message in (PROSE, PROSE.encode(), PROSE):
        await talk.send(ws, message)


async def receive(ws: WebSocket, talk: Talk) -> None:
    while talk.taken < len(talk.script):
        await talk.receive(ws)


async def iterate(ws: WebSocket, talk: Talk) -> None:
    async for message in ws:
        talk.take(message)


async def wait_for_end(ws: WebSocket, talk: Talk) -> None:
    await talk.receive(ws)
    await ws.wait_closed()


async def send_parts(ws: WebSocket, talk: Talk) -> None:
    message = PROSE.encode()[:8]
    talk.begun.append(message)
    async with ws.send_stream() as out:
        for part in (message[:6], message[6:]):
            await out.send(part)
            talk.unfinished += part
        talk.sent.append(talk.unfinished)
        talk.unfinished = b""


async def receive_parts(ws: WebSocket, talk: Talk) -> None:
    while talk.taken < len(talk.script):
        message = talk.script[talk.taken]
        received = message[:0]
        async with ws.receive_stream() as parts:
            talk.taken += 1  # the rest of the message is dropped
            assert parts.text is isinstance(message, str)
            async for part in parts:
                received += part  # type: ignore[operator]  # both are of one kind
                assert received == message[: len(received)]
        assert received == message


async def stream_both_ways(ws: WebSocket, talk: Talk) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_parts, ws, talk)
        nursery.start_soon(receive_parts, ws, talk)


async def send_ping(ws: WebSocket, talk: Talk) -> None:
    assert await ws.ping(b"a") >= 0


async def send_control(ws: WebSocket, talk: Talk) -> None:
    await ws.pong(b"a")
    await ws.ping(b"b", wait=False)
    assert await ws.ping(b"c") >= 0


async def close_it(ws: WebSocket, talk: Talk) -> None:
    await talk.send(ws, "a")
    talk.taken = len(talk.script)
    talk.closed = True
    await ws.aclose(4000)


async def close_half(ws: WebSocket, talk: Talk) -> None:
    await talk.send(ws, "a")
    await ws.send_close(4000)
    talk.half_closed = True
    await receive(ws, talk)


def stream_over(ws: WebSocket, talk: Talk) -> ByteStream:
    """Use the connection as a byte stream in the scenario. Each ``send_all`` is one message."""
    talk.stream = ByteStream(ws, message_size=10**6)
    return talk.stream


async def send_bytes(ws: WebSocket, talk: Talk) -> None:
    stream_over(ws, talk)
    for data in (b"a", talk.large, b"b"):
        await talk.send(ws, data)


async def wait_for_room(ws: WebSocket, talk: Talk) -> None:
    stream = stream_over(ws, talk)
    await talk.send(ws, talk.large)
    await stream.wait_send_all_might_not_block()
    await talk.send(ws, b"b")


async def receive_bytes(ws: WebSocket, talk: Talk) -> None:
    stream_over(ws, talk)
    await receive(ws, talk)


async def bytes_both_ways(ws: WebSocket, talk: Talk) -> None:
    stream_over(ws, talk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, ws, talk)
        nursery.start_soon(talk.send, ws, b"a")


async def close_stream(ws: WebSocket, talk: Talk) -> None:
    stream = stream_over(ws, talk)
    await talk.send(ws, b"a")
    talk.taken = len(talk.script)
    talk.closed = True
    await stream.aclose()


FRAGMENTS = [binary(b"c", fin=False), ping(b"p"), cont(b"d", fin=True)]
#: The first scenario ends by itself.
PIECES = [binary(b"ef", fin=False), cont(b"", fin=True), binary(b"gh")]

SCENARIOS = {
    "send": Scenario(send, "WebSocket.send"),
    "send large": Scenario(send_large, "WebSocket.send"),
    "send compressed": Scenario(send_compressed, "WebSocket.send", compressed=True),
    "receive": Scenario(receive, "WebSocket.receive", ["b", *FRAGMENTS]),
    "receive compressed": Scenario(receive, "WebSocket.receive", [PROSE] * 3, compressed=True),
    "closed by the peer": Scenario(iterate, "WebSocket.__anext__", ["b", close()]),
    "wait_closed": Scenario(wait_for_end, "WebSocket.wait_closed", ["b", close()]),
    "send_stream": Scenario(send_parts, "SendStream.__aenter__ SendStream.__aexit__ SendStream.send"),
    "receive_stream": Scenario(
        receive_parts, "ReceiveStream.__aenter__ ReceiveStream.__aexit__ ReceiveStream.__anext__", FRAGMENTS
    ),
    "both ways": Scenario(stream_both_ways, "", FRAGMENTS, compressed=True),
    "ping": Scenario(send_ping, "WebSocket.ping"),
    "pong": Scenario(send_control, "WebSocket.pong WebSocket.ping"),
    "aclose": Scenario(close_it, "WebSocket.aclose", ["b"], code=4000),
    "no answer": Scenario(close_it, "WebSocket.aclose", answers_close=False, code=4000),
    "send_close": Scenario(close_half, "WebSocket.send_close", ["b"], code=4000),
    "bytes out": Scenario(send_bytes, "ByteStream.send_all"),
    "room for bytes": Scenario(wait_for_room, "ByteStream.wait_send_all_might_not_block"),
    "bytes in": Scenario(receive_bytes, "ByteStream.receive_some", [b"b", *FRAGMENTS, *PIECES]),
    "bytes both ways": Scenario(bytes_both_ways, "", FRAGMENTS, compressed=True),
    "close a stream": Scenario(close_stream, "ByteStream.aclose", [b"b"]),
}


@each_role
@each_kind
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("cancel", [cancel_call, cancel_session], ids=["call", "session"])
async def test_cancel_scenario(
    cancel: Callable[[str, Role, Scenario, int], Awaitable[bool]],
    role: Role,
    kind: str,
    name: str,
    scheduling: Scheduling,
    autojump_clock: MockClock,
) -> None:
    points = await at_every_point(scheduling, partial(cancel, kind, role, SCENARIOS[name]))
    # A socket accepts small data at once, so the only point is the checkpoint of the call.
    is_quick = kind == SOCKETS and cancel is cancel_call and name in ("send", "send compressed")
    assert points > (0 if is_quick else 3)


# -- How a connection comes into being -------------------------------------------------------------------------------


async def exchange(ws: WebSocket, place: Place) -> None:
    await place.talk.send(ws, "a")
    place.talk.take(await ws.receive())
    place.done.set()


async def exchange_and_wait(ws: WebSocket, place: Place) -> None:
    await exchange(ws, place)
    async for _ in ws:
        pass


OPTIONS: Options = {"compression": trio_ws.Deflate(min_size=0), "send_buffer": 0, "receive_buffer": 0}


async def connect(place: Place) -> None:
    async with trio_ws.connect(place.uri, ssl=place.ssl, user_agent=None, **OPTIONS) as ws:
        await exchange(ws, place)


async def connect_in(place: Place) -> None:
    async with trio.open_nursery() as nursery:
        ws = await trio_ws.connect_in(nursery, place.uri, ssl=place.ssl, user_agent=None, **OPTIONS)
        await exchange(ws, place)
        await ws.aclose()


async def connect_over(place: Place) -> None:
    async with trio_ws.connect_over(place.stream, URI, user_agent=None, **OPTIONS) as ws:
        await exchange(ws, place)


async def serve_over(place: Place) -> None:
    await trio_ws.serve_over(place.stream, partial(exchange, place=place), **OPTIONS)


async def serve(place: Place) -> None:
    async with trio.open_nursery() as nursery:
        server = await place.serve(nursery, partial(exchange_and_wait, place=place), **OPTIONS)
        await place.done.wait()
        await place.shut_down(server)


async def serve_and_drain(place: Place) -> None:
    async with trio.open_nursery() as nursery:
        server = await place.serve(nursery, partial(exchange, place=place), **OPTIONS)
        await place.done.wait()
        assert await server.drain()


OPENINGS = {
    "connect": Opening(connect, Role.CLIENT, "connect Connecting.open Connecting.__aenter__ Connecting.__aexit__"),
    "connect_in": Opening(connect_in, Role.CLIENT, "connect_in"),
    "connect_over": Opening(connect_over, Role.CLIENT, "connect_over"),
    "serve_over": Opening(serve_over, Role.SERVER, "serve_over"),
    "serve": Opening(serve, Role.SERVER, "serve Server.aclose", code=1001),
    "serve and drain": Opening(serve_and_drain, Role.SERVER, "Server.drain"),
}


@each_kind
@pytest.mark.parametrize("name", OPENINGS)
async def test_cancel_opening(kind: str, name: str, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    # Byte by byte, the heads of the opening handshake have about a thousand similar points.
    step = 5 if kind == "one byte" else 1
    assert await at_every_point(scheduling, partial(cancel_opening, kind, OPENINGS[name]), step) > (
        20 if kind in (SOCKETS, SOCKETS_OF_WRITER) else 30  # fewer reads and writes have to wait on a socket
    )


@each_kind
async def test_cancel_graceful_shutdown(kind: str, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    run = partial(cancel_opening, kind, OPENINGS["serve"], shutdown=True)
    assert await at_every_point(scheduling, run) > 10


@pytest.mark.parametrize("name", ["connect", "connect_in", "serve"])
async def test_cancel_opening_over_tcp(name: str, scheduling: Scheduling) -> None:
    assert await at_every_point(scheduling, partial(cancel_opening, TCP, OPENINGS[name])) > 30


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets on this system")
async def test_cancel_serve_on_a_unix_socket(scheduling: Scheduling, tmp_path: Path) -> None:
    run = partial(cancel_opening, UNIX, OPENINGS["serve"], path=tmp_path / "socket")
    assert await at_every_point(scheduling, run) > 30


def test_every_public_call_is_in_a_table() -> None:
    functions = (trio_ws.connect, trio_ws.connect_in, trio_ws.connect_over, trio_ws.serve, trio_ws.serve_over)
    classes = (
        trio_ws.WebSocket,
        trio_ws.SendStream,
        trio_ws.ReceiveStream,
        trio_ws.ByteStream,
        trio_ws.Connecting,
        trio_ws.Server,
    )
    calls = {function.__name__ for function in functions}
    for each in classes:
        for name, value in vars(each).items():
            if inspect.iscoroutinefunction(value) and (name.startswith("__") or not name.startswith("_")):
                calls.add(f"{each.__name__}.{name}")
    rows: list[Scenario | Opening] = [*SCENARIOS.values(), *OPENINGS.values()]
    assert {call for row in rows for call in row.calls.split()} == calls


# -- A closer look ---------------------------------------------------------------------------------------------------


def seen_by_peer(stream: PipeStream, *, masked: bool, head: bool = False) -> tuple[list[Message], Close | None]:
    """Validate everything written to a stream. Return the whole messages and the Close frame."""
    assert stream.outgoing.log is not None
    data = bytes(stream.outgoing.log)
    if head:
        answer, separator, data = data.partition(b"\r\n\r\n")
        if not separator or answer.startswith(b"HTTP/1.1 503 "):
            return [], None
    frames, rest = parse_frames(data, masked=masked)
    messages, closed, _ = read_messages(frames)
    assert not (closed and rest), "nothing follows a Close frame"
    return messages, None if closed is None else Close.parse(closed.data)


# -- The whole life of a connection ----------------------------------------------------------------------------------


async def just_open(_ws: WebSocket) -> None:
    pass


async def say_small(ws: WebSocket) -> None:
    for message in ("small", b"", "é"):
        await ws.send(message)


async def say_large(ws: WebSocket) -> None:
    for name in (b"1", b"2", b"3"):
        await ws.send(name * 200)


async def say_in_parts(ws: WebSocket) -> None:
    async with ws.send_stream() as out:
        for name in (b"1", b"2", b"3"):
            await out.send(name * 100)


async def hear_all(ws: WebSocket) -> None:
    assert [await ws.receive() for _ in range(3)] == ["first", b"fragments", "last"]


async def hear_in_parts(ws: WebSocket) -> None:
    async with ws.receive_stream() as parts:
        assert "".join([str(part) async for part in parts]) == "first"
    async with ws.receive_stream() as parts:
        assert await parts.__anext__()
    assert await ws.receive() == "last"


async def say_ping(ws: WebSocket) -> None:
    # A pong is read only after the messages before it, so these must be received.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_all, ws)
        assert await ws.ping() >= 0


async def say_goodbye(ws: WebSocket) -> None:
    await ws.aclose(4000)


async def two_tasks(ws: WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_large, ws)
        nursery.start_soon(hear_all, ws)


#: Uses of the connection, and the messages that the peer receives without a cancellation.
LIVES: dict[str, tuple[Callable[[WebSocket], Awaitable[None]], list[Message]]] = {
    "open": (just_open, []),
    "send": (say_small, ["small", b"", "é"]),
    "send large": (say_large, [b"1" * 200, b"2" * 200, b"3" * 200]),
    "send_stream": (say_in_parts, [b"1" * 100 + b"2" * 100 + b"3" * 100]),
    "receive": (hear_all, []),
    "receive_stream": (hear_in_parts, []),
    "ping": (say_ping, []),
    "aclose": (say_goodbye, []),
    "two tasks": (two_tasks, [b"1" * 200, b"2" * 200, b"3" * 200]),
}

SCRIPT = [text("first"), binary(b"frag", fin=False), ping(b"in between"), cont(b"ments", fin=True), text("last")]


async def behave(peer: Peer) -> None:
    """Do the opening handshake, send everything, and answer pings and the Close frame."""
    try:
        await peer.handshake()
        for frame in SCRIPT:
            await peer.send(frame)
        await peer.behave()
    except (trio.BrokenResourceError, ValueError, trio_ws.InvalidStatus):
        # The connection ended in the middle of something, or was rejected for that reason. The results are checked
        # later.
        pass
    finally:
        await trio.aclose_forcefully(peer.stream)


@each_role
@pytest.mark.parametrize("name", LIVES)
async def test_cancel_a_whole_connection(
    role: Role, name: str, scheduling: Scheduling, autojump_clock: MockClock
) -> None:
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
            outcome = await cancel_at(number, call)
            assert ours.closed
            # Only a Close frame and the closing of the stream may delay a cancellation.
            assert trio.current_time() - start <= 0.2
        messages, closed = seen_by_peer(ours, masked=role is Role.CLIENT, head=True)
        assert messages == expected[: len(messages)]
        if not outcome.cancelled:
            assert messages == expected
            assert closed == Close(4000 if name == "aclose" else 1000, "")
        elif closed is not None:
            assert closed.code in ((1000, 1001, 1011) if name == "send_stream" else (1000, 1001, 4000))
        return outcome.fired

    assert await at_every_point(scheduling, run) > 10


# -- One call --------------------------------------------------------------------------------------------------------


class Dialogue:
    """An open connection on which one call is cancelled, and which is used again afterwards."""

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
    scheduling: Scheduling,
    call: Callable[[WebSocket], Awaitable[Any]],
    frames: list[Frame],
    then: Callable[[Dialogue, WebSocket, Outcome], Awaitable[None]],
) -> None:
    """Cancel a call at every point, while the peer sends something, and do something after each run."""

    async def run(number: int) -> bool:
        dialogue = Dialogue(role)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialogue.listen)
            async with dialogue.session as ws:
                nursery.start_soon(dialogue.say, frames)
                outcome = await cancel_at(number, partial(call, ws))
                with trio.fail_after(HANGS):
                    await then(dialogue, ws, outcome)
            assert dialogue.ours.closed
            nursery.cancel_scope.cancel()
        return outcome.fired

    assert await at_every_point(scheduling, run) > 3


async def check_usable(dialogue: Dialogue, ws: WebSocket) -> None:
    await ws.send("still here")
    assert await ws.ping(b"still here") >= 0
    assert dialogue.messages()[-1] == "still here"
    await dialogue.peer.send(text("still there"))
    assert await ws.receive() == "still there"


@each_role
@pytest.mark.parametrize("size", [0, 5, 200])
async def test_cancel_send(role: Role, size: int, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    messages = [name * size + b"." for name in (b"1", b"2", b"3")]
    done: list[Message] = []

    async def call(ws: WebSocket) -> None:
        done.clear()
        for message in messages:
            await ws.send(message)
            done.append(message)

    async def then(dialogue: Dialogue, ws: WebSocket, outcome: Outcome) -> None:
        await check_usable(dialogue, ws)
        # Only the messages of completed calls: a cancelled call has sent nothing.
        assert dialogue.messages() == [*done, "still here"]
        assert outcome.cancelled or done == messages

    await cancel_a_call(role, scheduling, call, [], then)


@each_role
async def test_cancel_one_of_several_senders(role: Role, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    done: list[Message] = []

    async def send(ws: WebSocket, message: bytes) -> None:
        await ws.send(message)
        done.append(message)

    async def call(ws: WebSocket) -> None:
        done.clear()
        async with trio.open_nursery() as nursery:
            for name in (b"1", b"2", b"3", b"4"):
                nursery.start_soon(send, ws, name * 100)

    async def then(dialogue: Dialogue, ws: WebSocket, _outcome: Outcome) -> None:
        await check_usable(dialogue, ws)
        messages = dialogue.messages()
        assert messages.pop() == "still here"
        assert sorted(map(bytes, messages)) == sorted(map(bytes, done))  # type: ignore[arg-type]  # all are bytes

    await cancel_a_call(role, scheduling, call, [], then)


@each_role
async def test_cancel_bytes_in_several_messages(role: Role, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    data = bytes(range(100))
    pieces = [data[start : start + 30] for start in range(0, 100, 30)]

    async def call(ws: WebSocket) -> None:
        await ByteStream(ws, message_size=30).send_all(data)

    async def then(dialogue: Dialogue, ws: WebSocket, outcome: Outcome) -> None:
        await check_usable(dialogue, ws)
        messages = dialogue.messages()
        assert messages.pop() == "still here"
        # A prefix, in whole messages.
        assert messages == pieces[: len(messages)]
        assert outcome.cancelled or messages == pieces

    await cancel_a_call(role, scheduling, call, [], then)


@each_role
async def test_cancel_receive(role: Role, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    received: list[Message] = []
    frames = [*SCRIPT, binary(b"x" * 50), text("é".encode()[:1], fin=False), cont("é".encode()[1:], fin=True)]
    expected = ["first", b"fragments", "last", b"x" * 50, "é"]

    async def call(ws: WebSocket) -> None:
        received.clear()
        for _ in expected:
            received.append(await ws.receive())

    async def then(dialogue: Dialogue, ws: WebSocket, outcome: Outcome) -> None:
        assert outcome.cancelled or received == expected
        while len(received) < len(expected):
            received.append(await ws.receive())
        assert received == expected
        await check_usable(dialogue, ws)

    await cancel_a_call(role, scheduling, call, frames, then)


@each_role
async def test_cancel_several_receivers(role: Role, scheduling: Scheduling, autojump_clock: MockClock) -> None:
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

    async def then(dialogue: Dialogue, ws: WebSocket, _outcome: Outcome) -> None:
        # At most one message is dropped: the one that a cancelled stream had received in part.
        while (message := await ws.receive()) != "end":
            received.append(message)
        assert len(set(received)) == len(received) >= len(expected) - 1
        assert set(received) <= set(expected)
        await check_usable(dialogue, ws)

    await cancel_a_call(role, scheduling, call, [*frames, text("end")], then)


@each_role
async def test_cancel_send_stream(role: Role, scheduling: Scheduling, autojump_clock: MockClock) -> None:
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

    async def then(dialogue: Dialogue, ws: WebSocket, _outcome: Outcome) -> None:
        if complete:
            await check_usable(dialogue, ws)
            assert dialogue.messages() == [b"".join(sent), "still here"]
        elif not sent:
            await check_usable(dialogue, ws)
            assert dialogue.messages() == ["still here"]
        else:
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.send("a")
            assert raised.value.sent is not None
            assert raised.value.sent.code == 1011
            assert dialogue.messages() == []
            assert dialogue.closed() == raised.value.sent

    await cancel_a_call(role, scheduling, call, [], then)


@each_role
@pytest.mark.parametrize("take", [0, 1, 100])
async def test_cancel_receive_stream(role: Role, take: int, scheduling: Scheduling, autojump_clock: MockClock) -> None:
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

    async def then(dialogue: Dialogue, ws: WebSocket, outcome: Outcome) -> None:
        assert whole.startswith(received)
        if take == 100 and not outcome.cancelled:
            assert received == whole
        if not entered:
            assert await ws.receive() == whole
        assert await ws.receive() == "next"
        await check_usable(dialogue, ws)

    await cancel_a_call(role, scheduling, call, frames, then)


@each_role
async def test_cancel_receiving_a_part_and_go_on(role: Role, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    # The cancellation is caught within the block, and the next part is received as if nothing had happened.
    frames = [binary(b"1" * 10, fin=False), ping(), cont(b"2" * 50), cont(b""), cont(b"3" * 10, fin=True), text("next")]
    received: list[Message] = []

    async def run(number: int) -> bool:
        dialogue = Dialogue(role)
        received.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialogue.listen)
            async with dialogue.session as ws:
                nursery.start_soon(dialogue.say, frames)
                async with ws.receive_stream() as parts:

                    async def receive() -> None:
                        async for part in parts:
                            received.append(part)

                    outcome = await cancel_at(number, receive)
                    await receive()
                    assert b"".join(map(bytes, received)) == b"1" * 10 + b"2" * 50 + b"3" * 10  # type: ignore[arg-type]  # these are bytes
                assert await ws.receive() == "next"
                await check_usable(dialogue, ws)
            nursery.cancel_scope.cancel()
        return outcome.fired

    assert await at_every_point(scheduling, run) > 3


@each_role
async def test_cancel_ping(role: Role, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    async def call(ws: WebSocket) -> float:
        return await ws.ping(b"a")

    async def then(dialogue: Dialogue, ws: WebSocket, outcome: Outcome) -> None:
        assert outcome.cancelled or outcome.result >= 0
        assert await ws.ping(b"a") >= 0
        await check_usable(dialogue, ws)
        assert connection_of(ws).keepalive._pings == []

    await cancel_a_call(role, scheduling, call, [], then)


@each_role
@pytest.mark.parametrize("half_way", [True, False])
async def test_cancel_aclose(role: Role, half_way: bool, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    start = 0.0

    async def call(ws: WebSocket) -> None:
        nonlocal start
        start = trio.current_time()
        await ws.send(b"x" * 100)
        if half_way:
            await ws.send_close(4000)
        await ws.aclose(4000)

    async def then(dialogue: Dialogue, ws: WebSocket, outcome: Outcome) -> None:
        assert trio.current_time() - start <= 0.2
        assert dialogue.ours.closed or not dialogue.messages()
        await ws.aclose()
        assert dialogue.ours.closed
        closed = dialogue.closed()
        if not outcome.cancelled:
            assert dialogue.messages() == [b"x" * 100]
            assert closed == Close(4000, "")
        with pytest.raises(trio.ClosedResourceError):
            await ws.receive()

    await cancel_a_call(role, scheduling, call, [text("unread" * 10)] * 3, then)
