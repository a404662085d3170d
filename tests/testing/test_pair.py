"""A client and a server in memory: ``memory_websocket_pair``."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_ws
from trio_ws import testing
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    OpenTimeout,
)
from trio_ws.protocol.deflate import Deflate
from trio_ws.testing import (
    Corrupt,
    Delay,
    Drop,
    Fault,
    FaultyStream,
    Reset,
    Split,
    Stall,
    memory_websocket_pair,
)

from ..support import (
    PAIRS,
    Faulty,
    PipeStream,
    Streams,
    close,
    each_pair,
    memory_pair,
    parse_frames,
    pipe_pair,
    text,
)
from .streams import BEFORE_ACCEPT, Way, at_every_point, cancel_at, each_moment, log_of, settle, with_faults

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

each_handshake = pytest.mark.parametrize("handshake", [False, True], ids=["no handshake", "handshake"])


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
async def test_the_first_websocket_is_the_client(handshake: bool, autojump_clock: MockClock) -> None:
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
    # The client sent its Close frame first, and the server closed the stream.
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


class CustomBaseException(BaseException):
    """An exception that is not an ``Exception``."""


@pytest.mark.parametrize(
    "error", [ValueError("a"), CustomBaseException(), ConnectionClosedOK(None, None), ExceptionGroup("b", [OSError()])]
)
@each_handshake
async def test_exceptions_of_the_block_propagate(
    error: BaseException, handshake: bool, autojump_clock: MockClock
) -> None:
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
    assert client.close_code == 1006  # leaving has not waited
    assert ours.closed
    assert theirs.closed


async def test_leaving_does_not_wait(autojump_clock: MockClock) -> None:
    # A server that has just received a message may be about to answer it, but this block has ended.
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


async def test_leaving_closes_both(autojump_clock: MockClock) -> None:
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
        # The first use is not affected.
        await client.send("a")
        assert await server.receive() == "a"
    with pytest.raises(RuntimeError):
        await pair.__aenter__()


# -- A handshake that fails ------------------------------------------------------------------------------------------


BEFORE_KEY = b"GET / HTTP/1.1\r\nHost: memory.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "


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
async def test_failed_handshakes(
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

    # connect_over() raises the same exception.
    async with trio.open_nursery() as nursery:
        _, _, pair = streams()
        nursery.start_soon(partial(trio_ws.serve_over, pair[1], WebSocket.receive, open_timeout=8))
        with pytest.raises(error) as expected:
            async with trio_ws.connect_over(pair[0], "ws://memory.test/", open_timeout=6):
                raise AssertionError("not reached")
    assert type(raised.value) is type(expected.value)
    # The key and the values derived from it differ each time.
    assert re.sub(r"'\S{24,28}'", "", str(raised.value)) == re.sub(r"'\S{24,28}'", "", str(expected.value))


async def test_a_request_that_arrives_late(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    faulty = FaultyStream(ours, sending=[Split(10), Delay(20, seconds=2)], receiving=[Delay(30, seconds=3)])
    async with memory_websocket_pair((faulty, theirs), handshake=True, open_timeout=6) as (client, server):
        assert trio.current_time() == 5
        await client.send("a")
        assert await server.receive() == "a"


@pytest.mark.parametrize("name", ["send_error", "receive_error"])
async def test_a_server_whose_stream_fails(name: str, autojump_clock: MockClock) -> None:
    # The stream stays open after its error until the pair closes it.
    ours, theirs = pipe_pair()
    faulty = Faulty(theirs, **{name: OSError("out of order")})  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConnectFailed):
        async with memory_websocket_pair((ours, faulty), handshake=True):
            raise AssertionError("not reached")
    assert trio.current_time() == 0
    assert ours.closed
    assert theirs.closed


async def test_a_server_whose_stream_fails_after_the_response(autojump_clock: MockClock) -> None:
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
            except BaseExceptionGroup:  # must not propagate
                pytest.fail("a cancellation comes by itself")

        was_cancelled, fired = await cancel_at(number, before, call)
        assert ours.closed
        assert theirs.closed
        assert fired or (entered and not was_cancelled)
        return fired

    assert await at_every_point(run) > 50
