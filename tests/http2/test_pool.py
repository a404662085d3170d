"""The pool closes, and uses, its connections as it should. The servers are raw peers over streams in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import HTTP2Pool
from trio_ws.client import http2
from trio_ws.client.dial import Dialer
from trio_ws.client.pool import MAX_UNSUPPORTED
from trio_ws.connection.stream import StreamAdapter
from trio_ws.exceptions import ConnectFailed, OpenTimeout
from trio_ws.http2.connection import HTTP2Connection
from trio_ws.http2.floods import MAX_USELESS
from trio_ws.uri import WebSocketURI

from .peers import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    REFUSED_STREAM,
    RST_STREAM,
    RawPeer,
    frame,
    settings,
)

connect = partial(trio_ws.connect, "ws://example.org/", http2="prior-knowledge", compression=None, ping_interval=None)


@asynccontextmanager
async def raw_servers(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[RawPeer, int], Awaitable[object]]
) -> AsyncIterator[list[RawPeer]]:
    """Let a function be the server of each connection, which it gets with its number. Yield them."""
    peers: list[RawPeer] = []

    async def handle(peer: RawPeer, number: int) -> None:
        async with peer.stream:
            await serve(peer, number)

    async def dial(dialer: Dialer, uri: WebSocketURI, alpn: object = None) -> StreamAdapter:
        client, server = trio.testing.memory_stream_pair()
        peers.append(RawPeer(server, is_client=False))
        nursery.start_soon(handle, peers[-1], len(peers))
        await trio.lowlevel.checkpoint()
        return StreamAdapter(client)

    monkeypatch.setattr(Dialer, "dial", dial)
    async with trio.open_nursery() as nursery:
        yield peers
        nursery.cancel_scope.cancel()


async def accept(peer: RawPeer) -> int:
    """Accept the next request for a WebSocket, and return its stream."""
    request = await peer.receive_kind(HEADERS)
    await peer.send(peer.headers(request.stream, [(":status", "200")]))
    return request.stream


async def end(peer: RawPeer, stream: int) -> None:
    """Wait for the client's close frame, and answer it."""
    await peer.receive(lambda each: each.kind == DATA and each.stream == stream and each.payload[:1] == b"\x88")
    await peer.send(frame(DATA, END_STREAM, stream, b"\x88\x02\x03\xe8"))


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_server_that_leaves_at_once(
    pooled: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """GOAWAY comes with the settings, so no stream may be opened any more (RFC 9113, section 6.8)."""

    async def serve(peer: RawPeer, number: int) -> None:
        goaway = frame(GOAWAY, payload=bytes(8)) if number == 1 else b""
        await peer.send(settings(ENABLE_CONNECT=1) + goaway)
        if number > 1:
            await end(peer, await accept(peer))
        await peer.receive_all()

    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        options: Any = {"pool": pool} if pooled else {}
        async with connect(**options) as ws:
            assert ws.http_version == "2"
        assert trio.current_time() < 1
    assert len(peers) == 2
    assert not [each for each in peers[0].frames if each.kind == HEADERS]


async def test_late_answers_to_a_cancelled_request(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """They are no flood: some servers answer each frame of a stream that was reset with another reset."""

    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        stream = await accept(peer)
        cancelled = (await peer.receive_kind(RST_STREAM)).stream
        for _ in range(MAX_USELESS):
            await peer.send(peer.headers(cancelled, [(":status", "200")]))
            await peer.send(frame(RST_STREAM, 0, cancelled, bytes(4)))
        await peer.send(frame(DATA, 0, stream, b"\x81\x01x"))
        await end(peer, stream)
        await peer.receive_all()

    async with raw_servers(monkeypatch, serve), HTTP2Pool() as pool, connect(pool=pool) as ws:
        with pytest.raises(OpenTimeout):
            async with connect(pool=pool, open_timeout=0.5):
                pass
        assert await ws.receive() == "x"


async def test_a_dead_connection_is_left(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        stream = await accept(peer)
        await end(peer, stream)
        if number > 1:
            await peer.receive_all()
        await trio.sleep_forever()  # the first one never answers again

    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        async with connect(pool=pool):
            pass
        await trio.sleep(10)
        with pytest.raises(OpenTimeout):
            async with connect(pool=pool, open_timeout=5):
                pass
        async with connect(pool=pool):
            pass
        assert len(peers) == 2
        await trio.sleep(10)
        assert pool.connections == 1


async def test_websockets_on_a_connection_that_is_left_go_on(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        stream = await accept(peer)
        await peer.receive_kind(GOAWAY)
        await peer.send(frame(DATA, 0, stream, b"\x81\x01x"))
        await end(peer, stream)
        await peer.receive_all()

    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        async with connect(pool=pool) as ws:
            await trio.sleep(10)
            with pytest.raises(OpenTimeout):
                async with connect(pool=pool, open_timeout=5):
                    pass
            assert pool.connections == 1
            with trio.fail_after(60):
                assert await ws.receive() == "x"
        await trio.testing.wait_all_tasks_blocked()
        assert pool.connections == 0
        assert len(peers) == 1


@pytest.mark.parametrize("alive, seconds", [(True, 5), (False, 0.5)], ids=["alive", "cancelled early"])
async def test_a_connection_that_may_be_alive_is_kept(
    alive: bool, seconds: float, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        await end(peer, await accept(peer))
        await peer.receive_kind(HEADERS)
        if alive:
            await peer.send(frame(PING, 0, 0, bytes(8)))
        await end(peer, await accept(peer))
        await peer.receive_all()

    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        async with connect(pool=pool):
            pass
        await trio.sleep(10)
        with pytest.raises(OpenTimeout):
            async with connect(pool=pool, open_timeout=seconds):
                pass
        async with connect(pool=pool):
            pass
        assert len(peers) == pool.connections == 1


async def test_a_connection_that_allows_no_stream_is_dropped(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1, MAX_CONCURRENT_STREAMS=0)
        await peer.receive_kind(GOAWAY)
        assert not await peer.receive_all()

    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        for attempts in (3, 6):
            with pytest.raises(ConnectFailed, match="the server allows 0 streams at a time"):
                async with connect(pool=pool):
                    pass
            assert len(peers) == attempts
        await trio.testing.wait_all_tasks_blocked()
        assert pool.connections == 0


async def test_after_a_refusal_another_connection_is_used(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The server may have reached a limit that it has not announced."""
    refusals = 0

    async def serve(peer: RawPeer, number: int) -> None:
        nonlocal refusals
        await peer.start(ENABLE_CONNECT=1)
        count = 0
        while (received := await peer.next_frame()) is not None:
            if received.kind == HEADERS and count and number == 1:
                refusals += 1
                await peer.send(frame(RST_STREAM, 0, received.stream, REFUSED_STREAM.to_bytes(4, "big")))
            elif received.kind == HEADERS:
                count += 1
                await peer.send(peer.headers(received.stream, [(":status", "200")]))
            elif received.payload[:1] == b"\x88":
                count -= 1
                await peer.send(frame(DATA, END_STREAM, received.stream, b"\x88\x02\x03\xe8"))

    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        async with connect(pool=pool):
            async with connect(pool=pool), connect(pool=pool):
                assert refusals == 2
                assert pool.connections == len(peers) == 2
        # The connection that has refused streams may accept others.
        async with connect(pool=pool):
            assert pool.connections == len(peers) == refusals == 2
            assert peers[0].frames[-1].kind == HEADERS


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_server_that_refuses_everything(
    leaves: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        request = await peer.receive_kind(HEADERS)
        refusal = frame(RST_STREAM, 0, request.stream, REFUSED_STREAM.to_bytes(4, "big"))
        await peer.send(frame(GOAWAY, 0, 0, bytes(8)) if leaves else refusal)
        await peer.receive_all()

    reason = "closed the connection for new streams" if leaves else "REFUSED_STREAM"
    async with raw_servers(monkeypatch, serve) as peers:
        with pytest.raises(ConnectFailed, match=reason):
            async with connect(open_timeout=None):
                pass
        assert len(peers) == 3
        async with HTTP2Pool() as pool:
            with pytest.raises(ConnectFailed):
                async with connect(open_timeout=None, pool=pool):
                    pass
            assert len(peers) == 6


async def test_a_server_that_leaves_after_a_number_of_requests(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """So does nginx. The others, which were requested meanwhile, need not fail."""

    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        await accept(peer)
        last = await accept(peer)
        await peer.send(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4)))
        while (received := await peer.next_frame()) is not None:
            if received.payload[:1] == b"\x88":
                await peer.send(frame(DATA, END_STREAM, received.stream, b"\x88\x02\x03\xe8"))

    async def use() -> None:
        async with connect(pool=pool) as ws:
            await trio.sleep(1)
        codes.append(ws.close_code)

    codes: list[int | None] = []
    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(use)
        assert codes == [1000] * 20
        assert len(peers) == 10


async def test_a_connection_without_numbers_for_streams_is_left(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        first = await accept(peer)
        if number == 1:
            assert first == 2**31 - 1
            await peer.receive_kind(GOAWAY)
        await end(peer, first)
        await peer.receive_all()

    async def use_up(connection: HTTP2Connection, event: trio.Event) -> None:
        if event is connection.settled and len(peers) == 1:
            connection.protocol.h2.highest_outbound_stream_id = 2**31 - 3
        await wait_for(connection, event)

    wait_for = HTTP2Connection.wait_for
    monkeypatch.setattr(HTTP2Connection, "wait_for", use_up)
    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        async with connect(pool=pool) as first:
            async with connect(pool=pool):
                assert pool.connections == len(peers) == 2
            assert first.close_code is None
        assert first.close_code == 1000
        await trio.testing.wait_all_tasks_blocked()
        assert pool.connections == 1


@pytest.mark.parametrize("options", [{"max_head_size": 800}, {"max_headers": 20}], ids=["size", "number"])
async def test_limits_of_headers_are_not_those_of_another_websocket(
    options: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        while (request := await peer.next_frame()) is not None:
            if request.kind != HEADERS:
                continue
            large = [(f"x-{index}", "y" * 100) for index in range(100)] if request.headers[":path"] == "/large" else []
            await peer.send(peer.headers(request.stream, [(":status", "200"), *large]))

    async with raw_servers(monkeypatch, serve), HTTP2Pool() as pool:
        async with connect(pool=pool, **options) as ws:
            async with trio_ws.connect("ws://example.org/large", http2="prior-knowledge", pool=pool, close_timeout=1):
                assert pool.connections == 2
            assert ws.close_code is None
            async with connect(pool=pool, **options, close_timeout=1):
                assert pool.connections == 2


@pytest.mark.parametrize("early", [False, True])
async def test_a_connection_that_the_server_leaves_is_dropped(
    early: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The server sends GOAWAY, but does not close the connection."""

    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        stream = await accept(peer)
        leave = frame(GOAWAY, 0, 0, stream.to_bytes(4, "big") + bytes(4))
        if early:
            await peer.send(leave)
        await end(peer, stream)
        if not early:
            await peer.send(leave)
        await peer.receive_all()

    async with raw_servers(monkeypatch, serve) as peers, HTTP2Pool() as pool:
        for count in range(1, 4):
            async with connect(pool=pool):
                await trio.testing.wait_all_tasks_blocked()
                assert pool.connections == 1
            await trio.testing.wait_all_tasks_blocked()
            assert pool.connections == 0
            assert len(peers) == count


async def test_a_connection_that_cannot_be_made_is_closed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise KeyError

    async def serve(peer: RawPeer, number: int) -> None:
        assert not await peer.receive_all()
        closed.set()

    closed = trio.Event()
    monkeypatch.setattr(http2, "HTTP2Connection", fail)
    async with raw_servers(monkeypatch, serve):
        with pytest.raises(KeyError):
            async with connect():
                pass
        with trio.fail_after(60):
            await closed.wait()


class FakeConnection:
    """A connection that records how many connections were being closed together with it."""

    def __init__(self, closing: list[FakeConnection], counts: list[int]) -> None:
        self.on_end: Callable[[], object] = lambda: None
        self.has_room = False
        self._closing = closing
        self._counts = counts

    def start(self, nursery: trio.Nursery) -> None:
        pass

    async def aclose(self, seconds: float) -> None:
        self._closing.append(self)
        await trio.testing.wait_all_tasks_blocked()
        self._counts.append(len(self._closing))
        self.on_end()


async def test_leaving_a_pool_closes_its_connections_at_the_same_time() -> None:
    async def dial() -> FakeConnection:
        await trio.lowlevel.checkpoint()
        return FakeConnection(closing, counts)

    closing: list[FakeConnection] = []
    counts: list[int] = []
    async with HTTP2Pool() as pool:
        for key in ("a", "b", "c"):
            for _ in range(2):
                await pool.get(key, dial)
        assert pool.connections == 6
    assert pool.connections == 0
    assert counts == [6] * 6


async def test_tasks_that_dial_or_wait_are_woken_when_the_pool_is_closed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.receive_all()  # it answers nothing
        closed.set()

    async def use() -> None:
        with pytest.raises(RuntimeError, match="the pool was closed"):
            async with connect(pool=pool, open_timeout=None):
                pass

    closed = trio.Event()
    async with raw_servers(monkeypatch, serve) as peers:
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                async with HTTP2Pool() as pool:
                    for _ in range(3):
                        nursery.start_soon(use)
                    await trio.testing.wait_all_tasks_blocked()
        assert len(peers) == 1
        assert not pool._entries
        assert not pool._scopes
        with trio.fail_after(60):
            await closed.wait()


async def test_a_connection_that_is_opened_just_after_the_pool_was_closed_is_closed() -> None:
    closing: list[FakeConnection] = []
    go_on = trio.Event()

    async def dial() -> FakeConnection:
        with trio.CancelScope(shield=True):
            await go_on.wait()
        return FakeConnection(closing, [])

    async def get() -> None:
        with pytest.raises(RuntimeError, match="the pool was closed"):
            await pool.get("a", dial)

    async with trio.open_nursery() as nursery:
        async with HTTP2Pool() as pool:
            nursery.start_soon(get)
            await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert len(closing) == 1
    assert not pool._entries


async def test_a_pool_forgets_servers(autojump_clock: trio.testing.MockClock) -> None:
    """A program may connect to any number of servers."""
    connections: list[FakeConnection] = []

    async def dial() -> FakeConnection:
        await trio.lowlevel.checkpoint()
        connections.append(FakeConnection([], []))
        return connections[-1]

    async def fail() -> FakeConnection:
        raise OSError("not reachable")

    async def wait() -> FakeConnection:
        await trio.sleep_forever()
        raise AssertionError

    async def find_none() -> FakeConnection | None:
        await trio.lowlevel.checkpoint()
        return None

    async with HTTP2Pool() as pool:
        for key in range(10):
            await pool.get(key, dial)
            await pool.get(key, dial)
        assert pool.connections == 20
        assert len(pool._entries) == 10
        for connection in connections:
            connection.on_end()
        assert not pool._entries
        for key in range(10):
            with pytest.raises(OSError, match="not reachable"):
                await pool.get(key, fail)
            with trio.move_on_after(1) as scope:
                await pool.get(key, wait)
            assert scope.cancelled_caught
            assert not pool._entries
        # It remembers some of those that do not speak HTTP/2, the last used ones.
        for key in range(2 * MAX_UNSUPPORTED):
            assert await pool.get(key, find_none) is None
            assert await pool.get(0, fail) is None
        assert not pool._entries
        assert len(pool._unsupported) == MAX_UNSUPPORTED
        assert await pool.get(2 * MAX_UNSUPPORTED - 1, fail) is None
        with pytest.raises(OSError, match="not reachable"):
            await pool.get(1, fail)


async def test_a_closed_connection_of_a_pool_is_freed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        await end(peer, await accept(peer))

    references: list[weakref.ref[object]] = []
    async with raw_servers(monkeypatch, serve), HTTP2Pool() as pool:
        gc.collect()
        gc.disable()
        try:
            async with connect(pool=pool):
                (entry,) = pool._entries.values()
                references += [weakref.ref(connection) for connection in entry.connections]
                del entry
            await trio.testing.wait_all_tasks_blocked()
            assert pool.connections == 0
            await trio.sleep(1)  # the loop of Trio keeps the last task until the next one runs
            assert [reference() for reference in references] == [None]
        finally:
            gc.enable()


async def test_a_connection_with_room_is_returned_at_once() -> None:
    """Tasks that open WebSockets at the same time do not wait for each other, so that their requests go out at once."""

    class Connection:
        has_room = True
        on_end: Any = None

        def start(self, nursery: trio.Nursery) -> None:
            pass

        async def aclose(self, seconds: float) -> None:
            self.on_end()

    async def dial() -> Connection:
        return Connection()

    async with HTTP2Pool() as pool:
        first = await pool.get("key", dial)
        call = pool.get("key", dial)
        with pytest.raises(StopIteration) as caught:
            call.send(None)
        assert caught.value.value is first
