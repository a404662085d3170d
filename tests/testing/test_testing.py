"""What ``trio_ws.testing`` offers: two WebSockets in memory, a peer that follows a script, streams with faults."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import testing
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidStatus,
    InvalidURI,
    OpenTimeout,
    ProtocolError,
)
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.http11 import Request, RequestParser, Response
from trio_ws.protocol.codec import serialize
from trio_ws.protocol.deflate import Deflate
from trio_ws.protocol.handshake import accept
from trio_ws.testing import (
    Corrupt,
    Delay,
    Drop,
    Fault,
    FaultyStream,
    Reset,
    Role,
    ScriptedPeer,
    Split,
    Stall,
    memory_websocket_pair,
)

from ..support import (
    KEY,
    OTHER,
    PAIRS,
    URI,
    Faulty,
    PipeStream,
    Streams,
    attempt,
    binary,
    cancelled,
    close,
    cont,
    each_pair,
    each_role,
    memory_pair,
    one_byte_pair,
    parse_frames,
    ping,
    pipe_pair,
    pong,
    split_frames,
    text,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

settle = wait_all_tasks_blocked

each_handshake = pytest.mark.parametrize("handshake", [False, True], ids=["no handshake", "handshake"])


class Canceller(trio.abc.Instrument):
    """Cancels a scope before the n-th step of any task, or after it."""

    def __init__(self, scope: trio.CancelScope, number: int, before: bool) -> None:
        self.scope = scope
        self.left = number
        self.before = before

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0 and self.before:
            self.scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.left == 0 and not self.before:
            self.scope.cancel()


async def cancel_at(number: int, before: bool, call: Callable[[], Awaitable[object]]) -> tuple[bool, bool]:
    """Call something, and cancel it at a point. Return whether it was cancelled, and whether it came to that point."""
    with trio.CancelScope() as scope:
        canceller = Canceller(scope, number, before)
        trio.lowlevel.add_instrument(canceller)
        try:
            await call()
        finally:
            trio.lowlevel.remove_instrument(canceller)
    return scope.cancelled_caught, canceller.left <= 0


async def at_every_point(run: Callable[[int], Awaitable[bool]]) -> int:
    """Run something with 1, 2, ... until it says that there was no such point. Return how many there were."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    number = 1
    while await run(number):
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        number += 1
    return number - 1


each_moment = pytest.mark.parametrize("before", [True, False], ids=["before a step", "after a step"])


def log_of(stream: PipeStream) -> bytes:
    """Return what was written to a stream that keeps a log."""
    assert stream.outgoing.log is not None
    return bytes(stream.outgoing.log)


def test_all_names() -> None:
    for name in testing.__all__:
        assert hasattr(testing, name)
    assert testing.Role is trio_ws.protocol.Role


# -- Two WebSockets --------------------------------------------------------------------------------------------------


@each_handshake
@each_pair
async def test_pair(kind: str, handshake: bool, autojump_clock: MockClock) -> None:
    async with memory_websocket_pair(PAIRS[kind](), handshake=handshake) as (client, server):
        for here, there in ((client, server), (server, client)):
            await here.send("text")
            await here.send(bytes(range(256)))
            assert await there.receive() == "text"
            assert await there.receive() == bytes(range(256))
            assert await here.ping() >= 0
        assert repr(client) == "<WebSocket client / open>"
        assert repr(server) == "<ServerWebSocket server / open>"
    for ws in (client, server):
        assert ws.close_code == 1000
        assert repr(ws).endswith(" closed>")


@each_handshake
async def test_pair_by_default(handshake: bool, autojump_clock: MockClock) -> None:
    async with memory_websocket_pair(handshake=handshake) as (client, server):
        await client.send("hello")
        assert await server.receive() == "hello"
        assert client.local_address is client.remote_address is server.local_address is server.remote_address is None
        assert client.request == server.request
        assert client.response == server.response
        assert client.response.status_code == 101
        assert server.request.headers["Host"] == "memory.test"


@each_handshake
async def test_the_first_client_in_the_pair_is_the_client(handshake: bool, autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair(logged=True)
    async with memory_websocket_pair((ours, theirs), handshake=handshake, compression=None) as (client, server):
        await client.send("from the client")
        await server.send("from the server")
        await settle()
    sent, answered = log_of(ours), log_of(theirs)
    if handshake:
        head, _, sent = sent.partition(b"\r\n\r\n")
        assert head.startswith(b"GET / HTTP/1.1\r\nHost: memory.test\r\n")
        head, _, answered = answered.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
    assert parse_frames(sent, masked=True) == ([text("from the client"), close()], b"")
    assert parse_frames(answered, masked=False) == ([text("from the server"), close()], b"")
    # The client has closed first, and the server the stream.
    assert ours.closed
    assert theirs.closed


@each_handshake
async def test_pair_with_options(handshake: bool, autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair(logged=True)
    async with memory_websocket_pair(
        (ours, theirs),
        handshake=handshake,
        uri="ws://ann:secret@example.org/chat?room=1",
        subprotocols=["second", "first"],
        compression=Deflate(server_max_window_bits=10),
        max_message_size=50_000,
    ) as (client, server):
        for ws in (client, server):
            assert ws.subprotocol == "second"
            assert ws.request.path == "/chat?room=1"
            assert ws.request.headers["Host"] == "example.org"
            assert ws.request.headers["Authorization"].startswith("Basic ")
            assert "server_max_window_bits=10" in ws.response.headers["Sec-WebSocket-Extensions"]
        await client.send("a" * 50_000)
        await server.send("b" * 50_000)
        assert await server.receive() == "a" * 50_000
        assert await client.receive() == "b" * 50_000
        await client.send(bytes(50_001))
        with pytest.raises(ConnectionClosedError) as raised:
            await server.receive()
        assert raised.value.sent is not None
        assert raised.value.sent.code == 1009
    for stream in (ours, theirs):
        assert len(log_of(stream)) < 2000


@each_handshake
async def test_pair_without_compression(handshake: bool, autojump_clock: MockClock) -> None:
    async with memory_websocket_pair(handshake=handshake, compression=None) as (client, server):
        assert client.subprotocol is server.subprotocol is None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


@pytest.mark.parametrize(
    "options, error",
    [
        ({"nonsense": 1}, TypeError),
        ({"ping_interval": "soon"}, TypeError),
        ({"compression": "brotli"}, TypeError),
        ({"subprotocols": "chat"}, TypeError),
        ({"close_timeout": -1}, ValueError),
        ({"subprotocols": ["no token"]}, ValueError),
        ({"uri": "http://example.org"}, InvalidURI),
    ],
)
@each_handshake
def test_pair_with_wrong_options(options: dict[str, Any], error: type[Exception], handshake: bool) -> None:
    with pytest.raises(error):
        memory_websocket_pair(handshake=handshake, **options)


class Odd(BaseException):
    """It is no Exception."""


@pytest.mark.parametrize(
    "error", [ValueError("a"), Odd(), ConnectionClosedOK(None, None), ExceptionGroup("b", [OSError()])]
)
@each_handshake
async def test_what_the_block_raises(error: BaseException, handshake: bool, autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair()
    start = trio.current_time()
    with pytest.raises(type(error)) as raised:
        async with memory_websocket_pair((ours, theirs), handshake=handshake) as (client, server):
            await client.send("a")
            await server.receive()
            raise error
    assert raised.value is error
    assert error.__cause__ is error.__context__ is None
    assert trio.current_time() == start
    assert client.close_code == server.close_code == 1011
    assert ours.closed
    assert theirs.closed


async def test_the_block_is_cancelled(autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair()
    with trio.move_on_after(5) as scope:
        async with memory_websocket_pair((ours, theirs)) as (client, server):
            await server.receive()
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert server.close_code == 1001
    assert client.close_code == 1006  # it has not waited
    assert ours.closed
    assert theirs.closed


async def test_leaving_takes_no_time(autojump_clock: MockClock) -> None:
    # A server that has just received may be about to answer. This one is not: the block has ended.
    async with memory_websocket_pair() as (client, server):
        await client.send("a")
        await server.send("b")
        assert await server.receive() == "a"
        assert await client.receive() == "b"
    assert trio.current_time() == 0


async def test_leaving_lets_the_messages_arrive(autojump_clock: MockClock) -> None:
    received = []

    async def collect(ws: WebSocket) -> None:
        async for message in ws:
            received.append(message)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        async with memory_websocket_pair() as (client, server):
            nursery.start_soon(collect, server)
            for message in ("a", "b", "c"):
                await client.send(message)
    assert received == ["a", "b", "c"]


async def test_the_block_has_closed_them(autojump_clock: MockClock) -> None:
    async with memory_websocket_pair() as (client, server):
        await server.aclose(4000, "enough")
        with pytest.raises(ConnectionClosedError):
            await client.receive()
        await client.aclose()
    assert client.close_code == 4000
    assert client.close_reason == "enough"


@each_handshake
async def test_a_pair_is_entered_once(handshake: bool, autojump_clock: MockClock) -> None:
    pair = memory_websocket_pair(handshake=handshake)
    with pytest.raises(RuntimeError):
        await pair.__aexit__(None, None, None)
    async with pair as (client, server):
        with pytest.raises(RuntimeError):
            async with pair:
                raise AssertionError("not reached")
        # It does not mind.
        await client.send("a")
        assert await server.receive() == "a"
    with pytest.raises(RuntimeError):
        await pair.__aenter__()


# -- A handshake that fails ------------------------------------------------------------------------------------------

BEFORE_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)
BEFORE_KEY = b"GET / HTTP/1.1\r\nHost: memory.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "

Way = Literal["sending", "receiving"]
each_way = pytest.mark.parametrize("way", ["sending", "receiving"])


def with_faults(stream: trio.abc.Stream, way: Way, faults: Sequence[Fault]) -> FaultyStream:
    return FaultyStream(stream, sending=faults) if way == "sending" else FaultyStream(stream, receiving=faults)


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize(
    "what, faults, error",
    [
        ("request", [Reset(0)], ConnectFailed),
        ("request", [Reset(40)], ConnectFailed),
        ("request", [Split(40), Reset(41)], ConnectFailed),
        ("request", [Stall(0)], OpenTimeout),
        ("request", [Stall(40)], OpenTimeout),
        ("request", [Delay(40, seconds=7)], OpenTimeout),
        ("request", [Drop(40, count=None)], OpenTimeout),
        ("request", [Drop(0)], InvalidStatus),
        ("request", [Corrupt(0)], InvalidStatus),
        ("request", [Corrupt(len(BEFORE_KEY), bits=0x80)], InvalidStatus),
        ("answer", [Reset(0)], ConnectFailed),
        ("answer", [Reset(40)], ConnectFailed),
        ("answer", [Split(40), Reset(41)], ConnectFailed),
        ("answer", [Stall(0)], OpenTimeout),
        ("answer", [Stall(40)], OpenTimeout),
        ("answer", [Delay(40, seconds=7)], OpenTimeout),
        ("answer", [Drop(40, count=None)], OpenTimeout),
        ("answer", [Drop(0)], InvalidMessage),
        ("answer", [Corrupt(0)], InvalidMessage),
        ("answer", [Corrupt(len(BEFORE_ACCEPT), bits=1)], InvalidHeader),
    ],
)
async def test_a_handshake_that_fails(
    end: str, what: str, faults: list[Fault], error: type[Exception], autojump_clock: MockClock
) -> None:
    way: Way = "sending" if (end == "client") is (what == "request") else "receiving"

    def streams() -> tuple[PipeStream, PipeStream, Streams]:
        ours, theirs = pipe_pair()
        if end == "client":
            return ours, theirs, (with_faults(ours, way, faults), theirs)
        return ours, theirs, (ours, with_faults(theirs, way, faults))

    tasks = trio.lowlevel.current_statistics().tasks_living
    nurseries = list(trio.lowlevel.current_task().child_nurseries)
    ours, theirs, pair = streams()
    start = trio.current_time()
    with pytest.raises(error) as raised:
        async with memory_websocket_pair(pair, handshake=True, open_timeout=6):
            raise AssertionError("not reached")
    assert trio.current_time() - start == (6 if error is OpenTimeout else 0)
    assert ours.closed
    assert theirs.closed
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert trio.lowlevel.current_task().child_nurseries == nurseries

    # It is what connect_over() raises.
    async with trio.open_nursery() as nursery:
        _, _, pair = streams()
        nursery.start_soon(partial(trio_ws.serve_over, pair[1], WebSocket.receive, open_timeout=8))
        with pytest.raises(error) as expected:
            async with trio_ws.connect_over(pair[0], "ws://memory.test/", open_timeout=6):
                raise AssertionError("not reached")
    assert type(raised.value) is type(expected.value)
    # The key, and what follows from it, is another one each time.
    assert re.sub(r"'\S{24,28}'", "", str(raised.value)) == re.sub(r"'\S{24,28}'", "", str(expected.value))


async def test_a_request_that_arrives_after_all(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    faulty = FaultyStream(ours, sending=[Split(10), Delay(20, seconds=2)], receiving=[Delay(30, seconds=3)])
    async with memory_websocket_pair((faulty, theirs), handshake=True, open_timeout=6) as (client, server):
        assert trio.current_time() == 5
        await client.send("a")
        assert await server.receive() == "a"


@pytest.mark.parametrize("name", ["send_error", "receive_error"])
async def test_a_server_whose_stream_fails(name: str, autojump_clock: MockClock) -> None:
    # Nothing closes this stream by itself.
    ours, theirs = pipe_pair()
    faulty = Faulty(theirs, **{name: OSError("out of order")})  # type: ignore[arg-type]  # that is what it is for
    with pytest.raises(ConnectFailed):
        async with memory_websocket_pair((ours, faulty), handshake=True):
            raise AssertionError("not reached")
    assert trio.current_time() == 0
    assert ours.closed
    assert theirs.closed


async def test_a_server_whose_stream_fails_after_all_was_sent(autojump_clock: MockClock) -> None:
    ours, theirs = pipe_pair()
    faulty = Faulty(theirs, send_error=OSError("out of order"), sent_before=100_000)
    with pytest.raises(ConnectFailed, match=r"memory\.test: the server's stream failed"):
        async with memory_websocket_pair((ours, faulty), handshake=True):
            raise AssertionError("not reached")
    assert ours.closed
    assert theirs.closed


@each_moment
async def test_cancelled_during_the_handshake(before: bool, autojump_clock: MockClock) -> None:
    async def run(number: int) -> bool:
        ours, theirs = pipe_pair(30, step=25)
        entered = False

        async def call() -> None:
            nonlocal entered
            try:
                async with memory_websocket_pair((ours, theirs), handshake=True) as (client, server):
                    entered = True
                    await client.send("a")
                    assert await server.receive() == "a"
            except BaseExceptionGroup:  # that is what must not come out
                pytest.fail("a cancellation comes by itself")

        was_cancelled, fired = await cancel_at(number, before, call)
        assert ours.closed
        assert theirs.closed
        assert fired or (entered and not was_cancelled)
        return fired

    assert await at_every_point(run) > 50


# -- A peer that follows a script: the opening handshake -------------------------------------------------------------


@pytest.mark.parametrize("pair", [memory_pair, one_byte_pair, trio.testing.lockstep_stream_pair])
async def test_the_peer_as_a_server(pair: Callable[[], Streams], autojump_clock: MockClock) -> None:
    ours, theirs = pair()
    peer = ScriptedPeer(theirs)
    assert peer.stream is theirs
    assert peer.role is Role.SERVER
    requests = []

    async def follow() -> None:
        requests.append(await peer.handshake())
        await peer.send(text("half a mess", fin=False), ping(b"?"))
        assert await peer.receive() == pong(b"?")
        await peer.send(cont(b"age", fin=True))
        assert await peer.receive() == text("thanks")
        assert await peer.receive() == close()
        await peer.send(close())
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        async with trio_ws.connect_over(ours, URI, subprotocols=["chat"]) as ws:
            assert await ws.receive() == "half a message"
            await ws.send("thanks")
            # It was offered, and nothing is agreed on.
            assert ws.subprotocol is None
            assert "Sec-WebSocket-Extensions" not in ws.response.headers
    assert requests == [ws.request]
    assert isinstance(requests[0], Request)
    assert requests[0].headers["Sec-WebSocket-Protocol"] == "chat"


@pytest.mark.parametrize("pair", [memory_pair, one_byte_pair, trio.testing.lockstep_stream_pair])
async def test_the_peer_as_a_client(pair: Callable[[], Streams], autojump_clock: MockClock) -> None:
    ours, theirs = pair()
    peer = ScriptedPeer(theirs, Role.CLIENT)
    assert peer.role is Role.CLIENT
    responses: list[object] = []

    async def handler(ws: WebSocket) -> None:
        responses.append(ws.response)
        assert ws.subprotocol is None
        async for message in ws:
            await ws.send(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, ours, handler, subprotocols=["chat"]))
        responses.append(await peer.handshake())
        await peer.send(text("é"), binary(b"\x00"))
        assert await peer.receive() == text("é")
        assert await peer.receive() == binary(b"\x00")
        await peer.send(close(4000))
        assert await peer.receive() == close(4000)
        assert await peer.receive() is None
        await peer.aclose()
    assert responses[0] == responses[1]
    assert isinstance(responses[0], Response)
    assert "Sec-WebSocket-Extensions" not in responses[0].headers


@pytest.mark.parametrize(
    "data, error",
    [
        (b"", InvalidMessage),
        (b"GET / HTTP/1.1\r\nHost: test\r\n", InvalidMessage),
        (b"\x16\x03\x01\r\n\r\n", InvalidMessage),
        (b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", InvalidHeader),
        (b"POST / HTTP/1.1\r\nHost: test\r\n\r\n", InvalidMethod),
    ],
)
async def test_a_client_without_manners(data: bytes, error: type[InvalidHandshake]) -> None:
    ours, theirs = pipe_pair(logged=True)
    await ours.send_all(data)
    await ours.send_eof()
    with pytest.raises(error):
        await ScriptedPeer(theirs).handshake()
    assert log_of(theirs) == b""


@pytest.mark.parametrize(
    "data, error",
    [
        (b"", InvalidMessage),
        (b"HTTP/1.1 101 Switching", InvalidMessage),
        (b"+OK ready\r\n\r\n", InvalidMessage),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone", InvalidStatus),
        (BEFORE_ACCEPT + b"wrong\r\n\r\n", InvalidHeader),
    ],
)
async def test_a_server_without_manners(data: bytes, error: type[InvalidHandshake]) -> None:
    ours, theirs = pipe_pair(logged=True)
    await ours.send_all(data)
    await ours.send_eof()
    with pytest.raises(error):
        await ScriptedPeer(theirs, Role.CLIENT).handshake()
    assert log_of(theirs).startswith(b"GET / HTTP/1.1\r\n")


@each_role
async def test_the_connection_of_the_peer_is_lost(role: Role) -> None:
    for call in (ScriptedPeer.handshake, ScriptedPeer.receive):
        ours, theirs = pipe_pair()
        ours.reset()
        with pytest.raises(trio.BrokenResourceError):
            await call(ScriptedPeer(theirs, role))


REQUEST = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@each_role
@pytest.mark.parametrize("step", [None, 1])
async def test_frames_that_come_with_the_handshake(role: Role, step: int | None) -> None:
    ours, theirs = pipe_pair(step=step)
    peer = ScriptedPeer(theirs, role)
    key = KEY if role is Role.SERVER else None
    wrong = b"\x83\x80"  # 3 is not an opcode
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.handshake)
        head = REQUEST
        if role is Role.CLIENT:
            requests = RequestParser()
            request = None
            while request is None:
                request = requests.feed(await ours.receive_some())
            head = accept(request)[0].serialize()
        await ours.send_all(head + serialize(text("a"), key) + serialize(ping(), key) + wrong)
    assert await peer.receive() == text("a")
    assert await peer.receive() == ping()
    with pytest.raises(ProtocolError):
        await peer.receive()


# -- A peer that follows a script: frames ----------------------------------------------------------------------------

FRAMES = [
    text(""),
    text("é"),
    text(b"\xff"),
    text("not the end", fin=False),
    cont(b"in the middle"),
    cont(b"the end", fin=True),
    binary(bytes(125)),
    binary(bytes(126)),
    binary(bytes(0xFFFF)),
    binary(bytes(0x10000), fin=False),
    ping(),
    ping(bytes(125)),
    pong(b"unasked"),
    Frame(Opcode.TEXT, b"a", rsv1=True),
    Frame(Opcode.BINARY, b"b", False, rsv2=True, rsv3=True),
    Frame(Opcode.CLOSE, b""),
    close(4000, "reason"),
    text("after the end"),
]


@each_role
async def test_frames(role: Role) -> None:
    ours, theirs = pipe_pair(1_000_000, logged=True)
    peer, other = ScriptedPeer(ours, role), ScriptedPeer(theirs, OTHER[role])
    await peer.send(*FRAMES)
    assert ours.writes == 1
    assert [await other.receive() for _ in FRAMES] == FRAMES
    await peer.aclose()
    assert ours.closed
    assert await other.receive() is None
    assert await other.receive() is None
    # By the RFC too.
    frames, rest = split_frames(log_of(ours), masked=role is Role.CLIENT)
    assert rest == b""
    assert [payload for _, payload in frames] == [frame.data for frame in FRAMES]
    assert [first for first, _ in frames[-5:]] == [0xC1, 0x32, 0x88, 0x88, 0x81]
    # It has answered nothing.
    assert log_of(theirs) == b""


@each_role
async def test_frames_in_pieces(role: Role) -> None:
    frames = [frame for frame in FRAMES if len(frame.data) < 0xFFFF]
    data = b"".join(serialize(frame, KEY if role is Role.SERVER else None) for frame in frames)
    ours, theirs = pipe_pair(step=1)
    await ours.send_all(data)
    await ours.send_eof()
    peer = ScriptedPeer(theirs, role)
    assert [await peer.receive() for _ in frames] == frames
    assert await peer.receive() is None


async def test_a_client_masks_with_the_same_key() -> None:
    ours, _ = pipe_pair(logged=True)
    peer = ScriptedPeer(ours, Role.CLIENT)
    await peer.send(text("a" * 9))
    once = log_of(ours)
    await peer.send(text("a" * 9))
    assert log_of(ours) == once + once
    assert once[2:6] != bytes(4)
    assert b"aaa" not in once


@each_role
async def test_bytes_go_out_as_they_are(role: Role) -> None:
    ours, _ = pipe_pair(logged=True)
    peer = ScriptedPeer(ours, role)
    await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert log_of(ours) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await peer.send(b"\xff", ping(), b"\x00")
    masked = serialize(ping(), trio_ws.testing.peer.KEY if role is Role.CLIENT else None)
    assert log_of(ours)[25:] == b"\xff" + masked + b"\x00"
    await peer.send()
    assert ours.writes == 3
    assert parse_frames(log_of(ours)[26:-1], masked=role is Role.CLIENT) == ([ping()], b"")


@each_role
@pytest.mark.parametrize("frame", [binary(bytes(200), fin=False), ping(b"abc"), text("a")])
async def test_the_end_within_a_frame(role: Role, frame: Frame) -> None:
    key = KEY if role is Role.SERVER else None
    data = serialize(frame, key)
    for size in range(len(data) + 1):
        ours, theirs = pipe_pair()
        await ours.send_all(serialize(text("before"), key) + data[:size])
        await ours.send_eof()
        peer = ScriptedPeer(theirs, role)
        assert await peer.receive() == text("before")
        if size == len(data):
            assert await peer.receive() == frame
        if 0 < size < len(data):
            for _ in range(2):
                with pytest.raises(ProtocolError, match="within a frame"):
                    await peer.receive()
        else:
            assert await peer.receive() is None


def bad_frames(role: Role) -> dict[str, bytes]:
    """Return what is no frame, for a peer in this role."""
    mask, key = (0x80, bytes(4)) if role is Role.SERVER else (0, b"")
    return {
        "masked or not": bytes([0x81, 0x01 | (mask ^ 0x80)]) + (b"a" if mask else bytes(4) + b"a"),
        "opcode": bytes([0x83, mask]) + key,
        "fragmented ping": bytes([0x09, mask]) + key,
        "long ping": bytes([0x89, mask | 126, 0, 126]) + key + bytes(126),
        "length": bytes([0x82, mask | 126, 0, 1]) + key + b"a",
        "bit in the middle": bytes([0xC0, mask]) + key,
        "bit of a ping": bytes([0xA9, mask]) + key,
        "short Close": bytes([0x88, mask | 1]) + key + b"\x03",
        "close code": bytes([0x88, mask | 2]) + key + b"\x03\xed",
        "close reason": bytes([0x88, mask | 3]) + key + b"\x03\xe8\xff",
    }


@each_role
@pytest.mark.parametrize("kind", bad_frames(Role.SERVER))
@pytest.mark.parametrize("step", [None, 1])
async def test_what_is_no_frame(role: Role, kind: str, step: int | None) -> None:
    key = KEY if role is Role.SERVER else None
    ours, theirs = pipe_pair(step=step)
    await ours.send_all(b"".join(serialize(each, key) for each in (text("a", fin=False), ping())))
    await ours.send_all(bad_frames(role)[kind] + serialize(text("after"), key))
    peer = ScriptedPeer(theirs, role)
    assert await peer.receive() == text("a", fin=False)
    assert await peer.receive() == ping()
    for _ in range(2):
        with pytest.raises(ProtocolError):
            await peer.receive()


@each_role
@each_moment
async def test_receive_is_cancelled(role: Role, before: bool) -> None:
    frames = [text("a", fin=False), ping(b"b"), cont(b"c" * 200, fin=True), text("d")]

    async def run(number: int) -> bool:
        ours, theirs = pipe_pair(5, step=3)
        peer, other = ScriptedPeer(theirs, role), ScriptedPeer(ours, OTHER[role])
        received: list[Frame | None] = []

        async def call() -> None:
            while len(received) < len(frames):
                received.append(await peer.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.send, *frames)
            _, fired = await cancel_at(number, before, call)
            await call()
        assert received == frames
        return fired

    assert await at_every_point(run) > 100


async def test_violations_of_a_peer_end_the_connection(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    peer = ScriptedPeer(theirs)

    async def follow() -> None:
        await peer.handshake()
        await peer.send(cont(b"of nothing", fin=True))
        frame = await peer.receive()
        assert frame is not None
        assert Close.parse(frame.data).code == 1002
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        async with trio_ws.connect_over(ours, URI) as ws:
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.receive()
            assert isinstance(raised.value.__cause__, ProtocolError)


async def test_the_peer_answers_nothing(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    peer = ScriptedPeer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.handshake)
        async with trio_ws.connect_over(ours, URI, ping_interval=5, ping_timeout=3) as ws:
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.receive()
    assert raised.value.sent == Close(1011, "keepalive ping timeout")
    assert trio.current_time() == 8
    frame = await peer.receive()
    assert frame is not None
    assert frame.opcode is Opcode.PING
    assert await peer.receive() == close(1011, "keepalive ping timeout")
    assert await peer.receive() is None


# -- Faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Fault, Split, partial(Delay, seconds=1), Drop, Corrupt, Stall, Reset])
@pytest.mark.parametrize(
    "at, error", [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError), ("1", TypeError)]
)
def test_a_wrong_place(kind: Callable[[Any], Fault], at: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        kind(at)
    assert kind(0).at == 0


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Delay(0, seconds=-1), ValueError),
        (lambda: Delay(0, seconds=math.nan), ValueError),
        (lambda: Delay(0, seconds="1"), TypeError),  # type: ignore[arg-type]  # that is the point
        (lambda: Delay(0, seconds=None), TypeError),  # type: ignore[arg-type]  # that is the point
        (lambda: Delay(0, seconds=True), TypeError),
        (lambda: Delay(0), TypeError),  # type: ignore[call-arg]  # that is the point
        (lambda: Drop(0, count=-1), ValueError),
        (lambda: Drop(0, count=1.5), TypeError),  # type: ignore[arg-type]  # that is the point
        (lambda: Drop(0, count=False), TypeError),
        (lambda: Corrupt(0, bits=0), ValueError),
        (lambda: Corrupt(0, bits=256), ValueError),
        (lambda: Corrupt(0, bits=None), TypeError),  # type: ignore[arg-type]  # that is the point
        (lambda: Corrupt(0, bits=b"\xff"), TypeError),  # type: ignore[arg-type]  # that is the point
    ],
)
def test_wrong_values(make: Callable[[], Fault], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_faults_are_values() -> None:
    assert Drop(1) == Drop(1, 1) != Drop(1, None)
    assert len({Split(1), Stall(1), Split(2)}) == 3
    assert Corrupt(2).bits == 0xFF
    assert Delay(3, 0.5).seconds == 0.5
    assert {Reset(1), Reset(1)} == {Reset(1)}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Reset(1).at = 2  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("wrong", [Fault(0), 0, Reset, None])
@each_way
def test_what_is_no_fault(wrong: Any, way: Way) -> None:
    with pytest.raises(TypeError):
        with_faults(memory_pair()[0], way, [Split(0), wrong])
    with pytest.raises(TypeError):
        with_faults(memory_pair()[0], way, Split(0))  # type: ignore[arg-type]  # that is the point


# -- A stream with faults --------------------------------------------------------------------------------------------

DIGITS = b"0123456789"


class Tape(trio.abc.Stream):
    """A stream that takes note of what is written to it, and that gives out what is on it."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.written: list[tuple[float, bytes]] = []
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError
        self.written.append((trio.current_time(), bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError
        return self.chunks.pop(0) if self.chunks else b""

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@attrs.define
class Passage:
    """What has passed a stream with faults.

    Attributes:
        chunks: The bytes, as they were sent below or received above, and when.
        ending: The exception, or when the last byte was sent or the end received; None if that does not come.
    """

    chunks: list[tuple[float, bytes]]
    ending: float | type[Exception] | None
    below: Tape

    @property
    def data(self) -> bytes:
        return b"".join(chunk for _, chunk in self.chunks)


async def pass_through(way: Way, faults: Sequence[Fault], *chunks: bytes) -> Passage:
    """Let bytes pass a stream with faults, for a minute."""
    start = trio.current_time()
    tape = Tape() if way == "sending" else Tape(*chunks)
    stream = with_faults(tape, way, faults)
    received: list[tuple[float, bytes]] = []
    ending: float | type[Exception] | None = None
    with trio.move_on_after(60):
        try:
            if way == "sending":
                for chunk in chunks:
                    await stream.send_all(chunk)
            else:
                while data := await stream.receive_some():
                    received.append((trio.current_time(), data))
            ending = trio.current_time() - start
        except Exception as exc:  # what it is, the tests compare with what it has to be
            ending = type(exc)
    return Passage([(at - start, data) for at, data in (tape.written if way == "sending" else received)], ending, tape)


each_step = pytest.mark.parametrize("size", [10, 4, 1], ids=["at once", "in pieces", "bytes"])


def cut(size: int) -> list[bytes]:
    return [DIGITS[start : start + size] for start in range(0, len(DIGITS), size)]


@each_way
@each_step
@pytest.mark.parametrize(
    "faults, expected",
    [
        ([], DIGITS),
        ([Split(0)], DIGITS),
        ([Split(5)], DIGITS),
        ([Split(10)], DIGITS),
        ([Split(3), Split(6), Split(3)], DIGITS),
        ([Corrupt(0, bits=1)], b"1123456789"),
        ([Corrupt(5, bits=0x40)], b"01234u6789"),
        ([Corrupt(9)], b"012345678\xc6"),
        ([Corrupt(10)], DIGITS),
        ([Corrupt(2), Corrupt(2)], DIGITS),
        ([Corrupt(2, bits=1), Corrupt(3, bits=1), Corrupt(2, bits=2)], b"0112456789"),
        ([Drop(0)], b"123456789"),
        ([Drop(4, count=3)], b"0123789"),
        ([Drop(9)], b"012345678"),
        ([Drop(10)], DIGITS),
        ([Drop(8, count=5)], b"01234567"),
        ([Drop(3, count=0)], DIGITS),
        ([Drop(0, count=None)], b""),
        ([Drop(3, count=None)], b"012"),
        ([Drop(10, count=None)], DIGITS),
        # Places are those of the bytes that were there, lost or not.
        ([Drop(2, count=3), Drop(4, count=3)], b"01789"),
        ([Drop(2, count=5), Drop(3, count=1)], b"01789"),
        ([Drop(7), Drop(7), Drop(2)], b"01345689"),
        ([Drop(2, count=2), Corrupt(4, bits=1)], b"01556789"),
        ([Drop(2, count=2), Corrupt(2)], b"01456789"),
        ([Drop(2, count=4), Corrupt(3)], b"016789"),
        ([Corrupt(2), Drop(2)], b"013456789"),
        ([Drop(1, count=8), Split(5), Delay(6, seconds=1)], b"09"),
    ],
)
async def test_what_passes(
    way: Way, size: int, faults: list[Fault], expected: bytes, autojump_clock: MockClock
) -> None:
    passage = await pass_through(way, faults, *cut(size))
    assert passage.data == expected
    assert isinstance(passage.ending, float)
    assert not passage.below.closed
    assert all(chunk for _, chunk in passage.chunks)


@each_way
@pytest.mark.parametrize(
    "faults, expected, end",
    [
        ([], [(0, DIGITS)], 0),
        ([Split(0)], [(0, DIGITS)], 0),
        ([Split(5)], [(0, b"01234"), (0, b"56789")], 0),
        ([Split(10)], [(0, DIGITS)], 0),
        ([Split(5), Split(5), Split(6)], [(0, b"01234"), (0, b"5"), (0, b"6789")], 0),
        ([Drop(4, count=2)], [(0, b"0123"), (0, b"6789")], 0),
        ([Corrupt(8)], [(0, b"01234567"), (0, b"\xc79")], 0),
        ([Delay(0, seconds=5)], [(5, DIGITS)], 5),
        ([Delay(0, seconds=0)], [(0, DIGITS)], 0),
        ([Delay(5, seconds=2)], [(0, b"01234"), (2, b"56789")], 2),
        ([Delay(5, seconds=1.5), Delay(5, seconds=2)], [(0, b"01234"), (3.5, b"56789")], 3.5),
        ([Delay(5, seconds=2), Delay(7, seconds=3)], [(0, b"01234"), (2, b"56"), (5, b"789")], 5),
        ([Drop(3, count=4), Delay(5, seconds=2)], [(0, b"012"), (2, b"789")], 2),
        ([Delay(11, seconds=2)], [(0, DIGITS)], 0),
    ],
)
async def test_how_it_passes(
    way: Way, faults: list[Fault], expected: list[tuple[float, bytes]], end: float, autojump_clock: MockClock
) -> None:
    passage = await pass_through(way, faults, DIGITS)
    assert passage.chunks == expected
    assert passage.ending == end


async def test_a_delay_at_the_end(autojump_clock: MockClock) -> None:
    # Nothing more is sent, so nothing is late. The end is received late.
    passage = await pass_through("sending", [Delay(10, seconds=3)], DIGITS)
    assert (passage.chunks, passage.ending) == ([(0, DIGITS)], 0)
    passage = await pass_through("receiving", [Delay(10, seconds=3)], DIGITS)
    assert (passage.chunks, passage.ending) == ([(0, DIGITS)], 3)


@each_way
@each_step
@pytest.mark.parametrize("at", [0, 5, 9])
async def test_stall(way: Way, size: int, at: int, autojump_clock: MockClock) -> None:
    passage = await pass_through(way, [Stall(at), Reset(at), Split(at)], *cut(size))
    assert passage.data == DIGITS[:at]
    assert passage.ending is None
    assert not passage.below.closed


async def test_a_stall_at_the_end(autojump_clock: MockClock) -> None:
    assert (await pass_through("sending", [Stall(10)], DIGITS)).ending == 0
    passage = await pass_through("receiving", [Stall(10)], DIGITS)
    assert (passage.data, passage.ending) == (DIGITS, None)


@each_way
@each_step
@pytest.mark.parametrize("at", [0, 5, 9])
@pytest.mark.parametrize("lost", [False, True])
async def test_reset(way: Way, size: int, at: int, lost: bool, autojump_clock: MockClock) -> None:
    faults: list[Fault] = [Reset(at), Drop(0, count=None)] if lost else [Reset(at), Split(3)]
    passage = await pass_through(way, faults, *cut(size))
    assert passage.data == (b"" if lost else DIGITS[:at])
    assert passage.ending is trio.BrokenResourceError
    assert passage.below.closed


@pytest.mark.parametrize(
    "faults", [[Reset(10)], [Split(10), Reset(10)], [Drop(10), Reset(10)], [Split(10), Drop(10), Reset(10), Stall(10)]]
)
async def test_a_reset_at_the_end(faults: list[Fault], autojump_clock: MockClock) -> None:
    # All was sent. But no answer comes.
    passage = await pass_through("sending", faults, DIGITS)
    assert passage.ending == 0
    assert passage.below.closed
    passage = await pass_through("receiving", faults, DIGITS)
    assert passage.ending is trio.BrokenResourceError


async def test_a_reset_after_a_delay(autojump_clock: MockClock) -> None:
    faults = [Delay(10, seconds=2), Reset(10)]
    passage = await pass_through("sending", faults, DIGITS)
    assert (passage.ending, passage.below.closed) == (0, False)
    passage = await pass_through("sending", faults, DIGITS, b"more")
    assert passage.ending is trio.BrokenResourceError
    assert passage.data == DIGITS
    assert trio.current_time() == 2


async def test_a_reset_is_seen_at_the_other_end(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(ours, sending=[Reset(5)])
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(DIGITS)
    assert await theirs.receive_some() == b"01234"
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"a")
    # And from now on here.
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await stream.send_all(b"a")
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.wait_send_all_might_not_block()
    # Until we close it.
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


# -- Who waits when it is over ---------------------------------------------------------------------------------------

SLOW = [Stall(0), Delay(0, seconds=3600)]


@each_way
@pytest.mark.parametrize("fault", SLOW)
async def test_closing_wakes_who_waits(way: Way, fault: Fault, autojump_clock: MockClock) -> None:
    tape = Tape(DIGITS)
    stream = with_faults(tape, way, [fault])
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def use() -> None:
            with pytest.raises(trio.ClosedResourceError, match="closed"):
                await (stream.send_all(DIGITS) if way == "sending" else stream.receive_some())

        await settle()
        await stream.aclose()
    assert tape.closed
    assert tape.written == []
    assert trio.current_time() == 0


@pytest.mark.parametrize("fault", SLOW)
@pytest.mark.parametrize("at", [0, 10])
async def test_a_reset_of_what_is_sent_wakes_who_receives(fault: Fault, at: int, autojump_clock: MockClock) -> None:
    for receiving in ([fault], []):
        ours, theirs = pipe_pair()
        stream = FaultyStream(ours, sending=[Reset(at)], receiving=receiving)
        if receiving:
            await theirs.send_all(b"a")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def use(stream: FaultyStream = stream) -> None:
                with pytest.raises(trio.BrokenResourceError, match="reset"):
                    await stream.receive_some()

            await settle()
            if at:
                await stream.send_all(DIGITS)
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(DIGITS)
        assert ours.closed
    assert trio.current_time() == 0


@pytest.mark.parametrize("fault", SLOW)
async def test_a_reset_of_what_is_received_wakes_who_sends(fault: Fault, autojump_clock: MockClock) -> None:
    for sending in ([fault], []):
        ours, theirs = pipe_pair(5)
        stream = FaultyStream(ours, sending=sending, receiving=[Reset(1)])
        await theirs.send_all(b"ab")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def use(stream: FaultyStream = stream) -> None:
                with pytest.raises(trio.BrokenResourceError, match="reset"):
                    await stream.send_all(DIGITS)

            await settle()
            assert await stream.receive_some() == b"a"
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    assert trio.current_time() == 0


async def test_nothing_is_received_after_closing(autojump_clock: MockClock) -> None:
    stream = FaultyStream(Tape(DIGITS), receiving=[Split(5)])
    assert await stream.receive_some() == b"01234"
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


@pytest.mark.parametrize("fault", SLOW)
async def test_one_task_at_a_time(fault: Fault, autojump_clock: MockClock) -> None:
    stream = FaultyStream(Tape(DIGITS), sending=[fault], receiving=[fault])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, DIGITS)
        nursery.start_soon(stream.receive_some)
        await settle()
        with pytest.raises(trio.BusyResourceError):
            await stream.send_all(b"a")
        with pytest.raises(trio.BusyResourceError):
            await stream.wait_send_all_might_not_block()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_some()
        nursery.cancel_scope.cancel()
    await stream.wait_send_all_might_not_block()


# -- Cancellation of a stream with faults ----------------------------------------------------------------------------


@each_moment
async def test_receive_some_is_cancelled(before: bool, autojump_clock: MockClock) -> None:
    faults = [Delay(0, seconds=1), Split(2), Corrupt(3, bits=1), Delay(5, seconds=2), Drop(6), Delay(10, seconds=1)]

    async def run(number: int) -> bool:
        ours, theirs = pipe_pair(4, step=3)
        stream = FaultyStream(theirs, receiving=faults)
        received: list[bytes] = []

        async def call() -> None:
            while not received or received[-1]:
                received.append(await stream.receive_some())

        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                await ours.send_all(DIGITS)
                await ours.send_eof()

            _, fired = await cancel_at(number, before, call)
            await call()
        assert b"".join(received) == b"012245789"
        assert trio.current_time() - start == 4
        return fired

    assert await at_every_point(run) > 15


async def test_a_delay_goes_on_where_it_was_cancelled(autojump_clock: MockClock) -> None:
    stream = FaultyStream(Tape(DIGITS), receiving=[Delay(0, seconds=3)])
    for _ in range(5):
        with trio.move_on_after(0.5) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
    assert await stream.receive_some() == DIGITS
    assert trio.current_time() == 3


async def test_a_delay_begins_when_something_comes(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(theirs, receiving=[Delay(0, seconds=3), Delay(10, seconds=4)])
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await trio.sleep(10)
            await ours.send_all(DIGITS)
            await trio.sleep(10)
            await ours.aclose()

        assert await stream.receive_some() == DIGITS
        assert trio.current_time() == 13
        assert await stream.receive_some() == b""
        assert trio.current_time() == 24


async def test_sending_is_cancelled_in_a_delay(autojump_clock: MockClock) -> None:
    tape = Tape()
    stream = FaultyStream(tape, sending=[Delay(5, seconds=3)])
    with trio.move_on_after(1) as scope:
        await stream.send_all(DIGITS)
    assert scope.cancelled_caught
    assert tape.written == [(0, b"01234")]
    # What was not sent is not sent later.
    await stream.send_all(b"more")
    assert tape.written == [(0, b"01234"), (3, b"more")]


async def test_every_call_is_a_checkpoint(autojump_clock: MockClock) -> None:
    stream = FaultyStream(Tape(DIGITS), sending=[Drop(0, count=None)], receiving=[Split(5)])
    calls: list[Callable[[], Awaitable[object]]] = [
        partial(stream.send_all, b"lost"),
        partial(stream.send_all, b""),
        stream.receive_some,
        stream.wait_send_all_might_not_block,
    ]
    for _ in range(2):
        for call in calls:
            assert await cancelled(call)
        for call in calls:
            with trio.testing.assert_checkpoints():
                await call()
    assert await cancelled(stream.aclose)


# -- A stream like others --------------------------------------------------------------------------------------------


async def faulty_memory() -> tuple[FaultyStream, FaultyStream]:
    ours, theirs = memory_pair()
    return FaultyStream(ours), FaultyStream(theirs)


async def faulty_lockstep() -> tuple[FaultyStream, FaultyStream]:
    ours, theirs = trio.testing.lockstep_stream_pair()
    return FaultyStream(ours), FaultyStream(theirs)


async def with_splits() -> tuple[FaultyStream, FaultyStream]:
    # The faults of the end of the stream wait for it, and what is sent a byte at a time is split already.
    ours, theirs = memory_pair()
    splits = [Split(place) for place in range(1000)]
    return FaultyStream(ours, sending=splits, receiving=splits), FaultyStream(theirs, sending=splits)


@pytest.mark.parametrize(
    "make, clogged", [(faulty_memory, None), (faulty_lockstep, faulty_lockstep), (with_splits, None)]
)
async def test_it_is_a_stream(make: Any, clogged: Any) -> None:
    await trio.testing.check_two_way_stream(make, clogged)


async def test_it_is_not_half_closeable() -> None:
    stream = FaultyStream(pipe_pair()[0])
    assert not isinstance(stream, trio.abc.HalfCloseableStream)
    assert isinstance(stream.stream, trio.abc.HalfCloseableStream)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_all_kinds_of_bytes(kind: Callable[[bytes], Any]) -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(ours, sending=[Corrupt(1, bits=1)])
    await stream.send_all(kind(b"000"))
    received = await FaultyStream(theirs).receive_some()
    assert type(received) is bytes
    assert received == b"010"


async def test_max_bytes() -> None:
    ours, theirs = memory_pair()
    stream = FaultyStream(theirs, receiving=[Split(5)])
    await ours.send_all(DIGITS)
    assert [await stream.receive_some(size) for size in (3, 3, 1, 4)] == [b"012", b"34", b"5", b"6789"]
    stream = FaultyStream(theirs, receiving=[Split(5)])
    await ours.send_all(DIGITS)
    assert await stream.receive_some() == b"01234"
    for wrong in (0, -1):
        with pytest.raises(ValueError):
            await stream.receive_some(wrong)
    assert [await stream.receive_some(size) for size in (3, 3)] == [b"567", b"89"]


async def test_errors_of_the_stream_below() -> None:
    ours, _ = pipe_pair()
    stream = FaultyStream(ours)
    ours.reset()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"a")
    await ours.aclose()  # behind its back
    with pytest.raises(trio.ClosedResourceError, match="this stream was closed"):
        await stream.receive_some()
    stream = FaultyStream(Faulty(memory_pair()[0], send_error=OSError("odd"), receive_error=OSError("odd")))
    with pytest.raises(OSError, match="odd"):
        await stream.send_all(b"a")
    with pytest.raises(OSError, match="odd"):
        await stream.receive_some()


# -- Below a connection ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def echo_over(ours: trio.abc.Stream, theirs: trio.abc.Stream, **options: Any) -> AsyncIterator[WebSocket]:
    """Open a connection with an echo server over these streams."""

    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, echo, **options))
        async with trio_ws.connect_over(ours, URI, **options) as ws:
            yield ws


async def test_a_connection_byte_by_byte(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    splits = [Split(place) for place in range(2000)]
    ends = [FaultyStream(each, sending=splits, receiving=splits) for each in (ours, theirs)]
    async with echo_over(*ends) as ws:
        for message in ("a", b"b" * 500, "é" * 100):
            await ws.send(message)
            assert await ws.receive() == message
    assert ws.close_code == 1000


@pytest.mark.parametrize("end", [0, 1])
@each_way
async def test_a_slow_connection(end: int, way: Way, autojump_clock: MockClock) -> None:
    ends: list[trio.abc.Stream] = list(memory_pair())
    ends[end] = with_faults(ends[end], way, [Delay(place, seconds=0.1) for place in range(20)])
    async with echo_over(*ends) as ws:
        assert trio.current_time() == pytest.approx(2)
        await ws.send("a")
        assert await ws.receive() == "a"
    assert ws.close_code == 1000


@each_role
@each_way
async def test_a_connection_that_is_reset(role: Role, way: Way, autojump_clock: MockClock) -> None:
    streams: list[trio.abc.Stream] = list(memory_pair())
    # In the second message.
    streams[role is Role.SERVER] = with_faults(streams[role is Role.SERVER], way, [Reset(20)])
    async with memory_websocket_pair((streams[0], streams[1])) as (client, server):
        for here, there in ((client, server), (server, client)):
            if (here is client) is ((role is Role.CLIENT) is (way == "sending")):
                await here.send(b"0123456789")
                assert await there.receive() == b"0123456789"
                await here.send(b"0123456789")
                for ws in (client, server):
                    with pytest.raises(ConnectionClosedError):
                        await ws.receive()
                    assert ws.close_code == 1006
    assert trio.current_time() <= 1


@each_role
@each_way
async def test_a_connection_that_stalls(role: Role, way: Way, autojump_clock: MockClock) -> None:
    streams: list[trio.abc.Stream] = list(memory_pair())
    streams[role is Role.SERVER] = with_faults(streams[role is Role.SERVER], way, [Stall(0)])
    options: trio_ws.Options = {"ping_interval": 20, "ping_timeout": 10, "close_timeout": 3}
    async with memory_websocket_pair((streams[0], streams[1]), **options) as (client, server):
        # Pings get through in one direction only, so both ends see that something is wrong.
        for ws in (client, server):
            with pytest.raises(ConnectionClosedError):
                await ws.receive()
    assert 30 <= trio.current_time() < 35


async def test_a_connection_on_which_a_byte_changes(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    async with memory_websocket_pair((FaultyStream(ours, receiving=[Corrupt(2, bits=0x80)]), theirs)) as (
        client,
        server,
    ):
        await server.send("text", compress=False)
        with pytest.raises(ConnectionClosedError) as raised:
            await client.receive()
        assert raised.value.sent is not None
        assert raised.value.sent.code == 1007


async def test_a_connection_that_goes_deaf(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    pair = memory_websocket_pair((ours, FaultyStream(theirs, sending=[Drop(0, count=None)])), ping_timeout=5)
    async with pair as (client, server):
        assert await attempt(partial(client.send, "a")) == [None]
        assert await server.receive() == "a"
        with pytest.raises(ConnectionClosedError) as raised:
            await client.receive()
        assert raised.value.sent == Close(1011, "keepalive ping timeout")
    assert trio.current_time() == pytest.approx(25, abs=1)
