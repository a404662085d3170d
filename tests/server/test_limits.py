"""Limits on connections and messages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import Limits
from trio_ws.connection.core import Connection
from trio_ws.connection.limits import RateLimiter
from trio_ws.connection.session import Session
from trio_ws.connection.stream import StreamAdapter
from trio_ws.connection.websocket import WebSocket
from trio_ws.http11 import Request, Response
from trio_ws.protocol import Role
from trio_ws.server.accept import MAX_REJECTIONS
from trio_ws.settings import Settings

from ..support import Wrapped, echo, memory_pair, read_to_end
from .clients import MemoryListener, Stream, start

MockClock = trio.testing.MockClock


@contextlib.asynccontextmanager
async def server_with(limits: Limits, **options: Any) -> AsyncIterator[trio_ws.Server]:
    async with trio.open_nursery() as nursery:
        serve = partial(trio_ws.serve, echo, 0, host="127.0.0.1", limits=limits, **options)
        server: trio_ws.Server = await nursery.start(serve)
        yield server
        nursery.cancel_scope.cancel()


def uri(server: trio_ws.Server) -> str:
    return f"ws://127.0.0.1:{server.port}/"


async def refused(server: trio_ws.Server) -> trio_ws.InvalidStatus:
    with pytest.raises(trio_ws.InvalidStatus) as caught:
        async with trio_ws.connect(uri(server)):
            pytest.fail("the connection was opened")
    assert caught.value.status_code == 503
    assert caught.value.headers["Retry-After"] == "5"
    assert caught.value.headers["Connection"] == "close"
    return caught.value


async def answers(ws: trio_ws.WebSocket) -> bool:
    await ws.send("hello")
    return await ws.receive() == "hello"


# -- Connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(connections=2), Limits(per_address=2)])
async def test_connections(limits: Limits, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with server_with(limits) as server:
        async with trio_ws.connect(uri(server)) as one:
            async with trio_ws.connect(uri(server)) as two:
                await refused(server)
                await refused(server)
                assert await answers(one)
                assert await answers(two)
            # When a connection has ended, a new one is accepted.
            while len(server.connections) > 1:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            async with trio_ws.connect(uri(server)) as three:
                assert await answers(three)
    assert "rejected: the limit of 2 connections" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_each_address_has_its_own_limit() -> None:
    async with server_with(Limits(per_address=1)) as server:
        async with trio_ws.connect(uri(server)) as one, trio_ws.connect(uri(server), local_address="127.0.0.2") as two:
            assert await answers(one)
            assert await answers(two)
            await refused(server)
        while server.connections:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert not server._state.by_address
        assert server._state.count == 0


def health(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    return opening.respond(200, "ok") if request.path == "/health" else None


GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: example.org\r\n\r\n"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()


async def test_the_oldest_opening_handshake_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with server_with(Limits(openings=2)) as server:
        openings = server._state.openings
        async with trio_ws.connect(uri(server)) as one:  # its handshake is complete
            first = await trio.open_tcp_stream("127.0.0.1", server.port)
            await until(lambda: len(openings) == 1)
            second = await trio.open_tcp_stream("127.0.0.1", server.port)
            await second.send_all(b"GET / HTTP/1.1\r\n")
            await until(lambda: len(openings) == 2)
            async with trio_ws.connect(uri(server)) as two:
                assert await answers(two)
            response = await read_to_end(first)
            assert response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"Retry-After: 5\r\n" in response
            # The other one has not lost its place.
            await second.send_all(b"Host: example.org\r\n\r\n")
            assert (await second.receive_some()).startswith(b"HTTP/1.1 426")
            assert await answers(one)
            await first.aclose()
            await second.aclose()
        await until(lambda: server._state.count == 0)
        assert openings.leaving == 0
    assert "gave way to another one: the limit of 2 opening handshakes is reached" in caplog.text


@pytest.mark.parametrize("limits", [Limits(openings=10), Limits(connections=10)])
async def test_half_open_connections_lock_nobody_out(limits: Limits) -> None:
    async with server_with(limits) as server:
        clients = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(50)]
        async with trio_ws.connect(uri(server)) as ws:
            assert await answers(ws)
            await until(lambda: server._state.openings.leaving == 0)
            assert len(server._state.openings) <= 10
            for client in clients:
                await client.aclose()
        await until(lambda: server._state.count == 0)
        assert len(server._state.openings) == server._state.openings.leaving == 0
        assert not server._state.by_address


async def test_requests_that_are_being_answered_do_not_give_way() -> None:
    entered = trio.Event()

    async def wait(opening: trio_ws.Opening, request: trio_ws.Request) -> None:
        entered.set()
        await trio.sleep_forever()

    for limits in (Limits(openings=1), Limits(connections=1)):
        async with server_with(limits, process_request=wait) as server:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(GET_HEALTH)
                await entered.wait()
                entered = trio.Event()
                await refused(server)


async def test_a_client_over_the_limit_of_its_address_makes_nobody_give_way() -> None:
    async with server_with(Limits(openings=1, per_address=1)) as server:
        first = await trio.open_tcp_stream("127.0.0.1", server.port)
        await until(lambda: len(server._state.openings) == 1)
        await refused(server)
        await first.send_all(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert (await first.receive_some()).startswith(b"HTTP/1.1 426")
        await first.aclose()


async def test_idle_connections_are_no_opening_handshakes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with server_with(Limits(openings=1), process_request=health) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            for _ in range(3):
                await stream.send_all(GET_HEALTH)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
                await until(lambda: len(server._state.openings) == 0)
                async with trio_ws.connect(uri(server)) as ws:
                    assert await answers(ws)
            # With the next request, it is one.
            await stream.send_all(GET_HEALTH[:10])
            await until(lambda: len(server._state.openings) == 1)
            async with trio_ws.connect(uri(server)) as ws:
                assert await answers(ws)
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 503")


async def test_idle_connections_give_way_to_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with server_with(Limits(connections=2), process_request=health) as server:
        async with (
            await trio.open_tcp_stream("127.0.0.1", server.port) as begun,
            await trio.open_tcp_stream("127.0.0.1", server.port) as idle,
        ):
            await begun.send_all(GET_HEALTH[:10])
            await idle.send_all(GET_HEALTH)
            assert (await idle.receive_some()).startswith(b"HTTP/1.1 200")
            async with trio_ws.connect(uri(server)) as ws:
                # No request waits for a response there, and nothing has failed.
                assert await idle.receive_some() == b""
                assert not caplog.records
                assert await answers(ws)
                async with trio_ws.connect(uri(server)) as other:
                    assert await answers(other)
                    assert (await read_to_end(begun)).startswith(b"HTTP/1.1 503")
                    await refused(server)
    assert "gave way to another one: the limit of 2 connections is reached" in caplog.text


async def test_a_failed_opening_handshake_frees_its_slot() -> None:
    async with server_with(Limits(connections=1, per_address=1, openings=1)) as server:
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(b"nonsense\r\n\r\n")
                while await stream.receive_some():
                    pass
            while server._state.count:
                await trio.lowlevel.checkpoint()
        async with trio_ws.connect(uri(server)) as ws:
            assert await answers(ws)


async def test_the_number_of_rejections_in_progress_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ws.server.accept.MAX_REJECTIONS", 1)
    assert MAX_REJECTIONS == 100
    async with server_with(Limits(connections=1)) as server, trio_ws.connect(uri(server)) as ws:
        # The rejection of a slow client is in progress.
        async with await trio.open_tcp_stream("127.0.0.1", server.port):
            while not server._state.rejecting:
                await trio.lowlevel.checkpoint()
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                assert await stream.receive_some() == b""
        while server._state.rejecting:
            await trio.lowlevel.checkpoint()
        await refused(server)
        assert await answers(ws)


async def test_no_limits() -> None:
    none = Limits(connections=None, per_address=None, openings=None)
    async with server_with(none) as server, trio_ws.connect(uri(server)) as ws:
        assert await answers(ws)


def test_defaults() -> None:
    limits = Limits()
    assert (limits.connections, limits.per_address, limits.openings) == (10_000, None, 1_000)
    assert (limits.messages_per_second, limits.idle, limits.lifetime) == (None, None, None)


@pytest.mark.parametrize("name", ["connections", "per_address", "openings", "messages_per_second", "idle", "lifetime"])
def test_invalid_limits(name: str) -> None:
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"{name} must be greater than 0"):
            Limits(**{name: number})
    wrong: list[Any] = ["1", True, b"1"]
    if name in {"connections", "per_address", "openings"}:
        wrong.append(1.5)
    for value in wrong:
        with pytest.raises(TypeError, match=name):
            Limits(**{name: value})


async def test_limits_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match="limits must be a Limits"):
        await trio_ws.serve(echo, 0, host="127.0.0.1", limits={"connections": 1})  # type: ignore[arg-type]  # wrong on purpose


# -- Limits of a single connection -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(
    limits: Limits, handler: trio_ws.Handler = echo, wrap: Callable[[Stream], Stream] = lambda stream: stream
) -> AsyncIterator[trio_ws.WebSocket]:
    """Connect a client to a server over memory streams, which allow a mock clock."""
    listener = MemoryListener(wrap)
    async with trio.open_nursery() as nursery:
        await start(nursery, handler, listeners=[listener], limits=limits, ping_interval=None, close_timeout=1)
        async with trio_ws.connect_over(listener.connect(), "ws://example.org/", ping_interval=None) as ws:
            yield ws
        nursery.cancel_scope.cancel()


async def end_of(ws: trio_ws.WebSocket) -> trio_ws.Close | None:
    with pytest.raises(trio_ws.ConnectionClosed) as caught:
        while True:
            await ws.receive()
    return caught.value.rcvd


async def test_messages_per_second(autojump_clock: MockClock) -> None:
    async with connected(Limits(messages_per_second=5)) as ws:
        # A burst of five, and five per second, for any length of time.
        for _ in range(5):
            assert await answers(ws)
        for _ in range(50):
            await trio.sleep(0.21)
            assert await answers(ws)
        await trio.sleep(10)
        for number in range(6):
            await ws.send(str(number))
        # The messages within the limit are not lost.
        received = []
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            while True:
                received.append(await ws.receive())
        assert caught.value.rcvd == trio_ws.Close(1008, "at most 5 messages per second are allowed")
        assert received[:5] == ["0", "1", "2", "3", "4"]


async def test_fewer_than_one_message_per_second(autojump_clock: MockClock) -> None:
    async with connected(Limits(messages_per_second=0.1)) as ws:
        for _ in range(3):
            assert await answers(ws)
            await trio.sleep(10)
        assert await answers(ws)
        await ws.send("too soon")
        assert await end_of(ws) == trio_ws.Close(1008, "at most 0.1 messages per second are allowed")


async def test_pings_are_counted(autojump_clock: MockClock) -> None:
    async with connected(Limits(messages_per_second=1)) as ws:
        for _ in range(10):
            await ws.ping()
            await trio.sleep(1)
        assert await answers(ws)
        await ws.ping()
        assert await end_of(ws) == trio_ws.Close(1008, "at most 1 messages per second are allowed")


async def test_fragments_are_counted(autojump_clock: MockClock) -> None:
    async with connected(Limits(messages_per_second=6)) as ws:
        for _ in range(3):
            async with ws.send_stream(text=True) as out:
                for part in "hello":
                    await out.send(part)
            assert await ws.receive() == "hello"
            await trio.sleep(1)
        async with ws.send_stream() as out:
            for _ in range(6):
                await out.send(b"x")
        assert await end_of(ws) == trio_ws.Close(1008, "at most 6 messages per second are allowed")


async def test_solicited_pongs_are_not_counted(autojump_clock: MockClock) -> None:
    async def ping(ws: trio_ws.WebSocket) -> None:
        for _ in range(20):
            await ws.ping()
        await ws.send("done")
        await trio.sleep_forever()

    async with connected(Limits(messages_per_second=1), ping) as ws:
        assert await ws.receive() == "done"


@pytest.mark.parametrize(
    "opcode, fin, payload", [(0x9, 0x80, b""), (0xA, 0x80, b""), (0xA, 0x80, b"x"), (0x0, 0, b""), (0x0, 0, b"x")]
)
async def test_floods_of_frames(opcode: int, fin: int, payload: bytes, autojump_clock: MockClock) -> None:
    # The first frame starts a message.
    ours, theirs = memory_pair()
    limits = Limits(messages_per_second=100).for_connection()
    connection = Connection(Role.SERVER, StreamAdapter(theirs), Settings(), limits=limits)
    async with Session(WebSocket(connection, Request("/", {}), Response(101, "", {}), None)) as ws:
        frame = bytes([fin | opcode, 0x80 | len(payload)]) + bytes(4) + payload
        await ours.send_all(bytes([1, 0x80]) + bytes(4) + frame * 99)
        await trio.testing.wait_all_tasks_blocked()
        assert ws.state is trio_ws.State.OPEN
        await ours.send_all(frame * 3)
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await ws.receive()
        assert isinstance(caught.value.__cause__, trio_ws.TooManyMessages)
        assert caught.value.sent is not None
        assert caught.value.sent.code == 1008


async def test_rate(autojump_clock: MockClock) -> None:
    rate = RateLimiter(10)
    assert rate.take(10) == 0
    assert rate.take(1) == 1
    await trio.sleep(0.5)
    assert rate.take(4) == 0
    assert rate.take(1) == 1
    await trio.sleep(100)
    assert rate.take(10) == 0
    assert rate.take(1) == 1


async def test_no_more_messages_than_the_rate_are_received(autojump_clock: MockClock) -> None:
    """All of them come in one read."""
    ours, theirs = memory_pair()
    limits = Limits(messages_per_second=3).for_connection()
    connection = Connection(Role.SERVER, StreamAdapter(theirs), Settings(), limits=limits)
    received: list[object] = []
    async with Session(WebSocket(connection, Request("/", {}), Response(101, "", {}), None)) as ws:
        await ours.send_all(b"\x81\x81\0\0\0\0x" * 100)
        await ours.aclose()
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            while True:
                received.append(await ws.receive())
    assert received == ["x"] * 3
    assert isinstance(caught.value.__cause__, trio_ws.TooManyMessages)


async def test_idle(autojump_clock: MockClock) -> None:
    async with connected(Limits(idle=10)) as ws:
        for _ in range(3):
            await trio.sleep(9)
            assert await answers(ws)
        start = trio.current_time()
        assert await end_of(ws) == trio_ws.Close(1001, "idle for too long")
        assert trio.current_time() - start == 10


async def test_pings_do_not_keep_a_connection_from_being_idle(autojump_clock: MockClock) -> None:
    async with connected(Limits(idle=10)) as ws:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def ping() -> None:
                with contextlib.suppress(trio_ws.ConnectionClosed):
                    while True:
                        await ws.ping()
                        await trio.sleep(1)

            nursery.start_soon(ping)
            assert await end_of(ws) == trio_ws.Close(1001, "idle for too long")
        assert 10 <= trio.current_time() - start <= 11


async def test_messages_during_a_blocked_write_are_activity(autojump_clock: MockClock) -> None:
    class Stuck(Wrapped):
        """Accepts the response of the opening handshake, and then nothing."""

        accepts = True

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if not self.accepts:
                await trio.sleep_forever()
            self.accepts = False
            await super().send_all(data)

    received: list[str | bytes] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.send("blocked")
        async for message in ws:
            received.append(message)

    async with connected(Limits(idle=10), handler, Stuck) as ws:
        for number in range(5):
            await trio.sleep(9)
            await ws.send(str(number))
        assert await end_of(ws) is None  # a Close frame would have to wait, too
    assert received == ["0", "1", "2", "3", "4"]


async def test_sending_is_not_idle(autojump_clock: MockClock) -> None:
    async def tick(ws: trio_ws.WebSocket) -> None:
        for _ in range(5):
            await trio.sleep(9)
            await ws.send("tick")
        await trio.sleep_forever()

    async with connected(Limits(idle=10), tick) as ws:
        start = trio.current_time()
        assert await end_of(ws) == trio_ws.Close(1001, "idle for too long")
        assert trio.current_time() - start == 55


async def test_lifetime(autojump_clock: MockClock) -> None:
    async with connected(Limits(lifetime=10, idle=7)) as ws:
        for _ in range(3):
            assert await answers(ws)
            await trio.sleep(3)
        start = trio.current_time()
        assert await end_of(ws) == trio_ws.Close(1001, "open for too long")
        assert trio.current_time() - start == 1


async def test_idle_on_sockets() -> None:
    # Sockets need the real clock, so the limit is short.
    async with server_with(Limits(idle=0.001), ping_interval=None) as server:
        async with trio_ws.connect(uri(server)) as ws:
            assert await end_of(ws) == trio_ws.Close(1001, "idle for too long")


async def test_rate_on_sockets() -> None:
    async with server_with(Limits(messages_per_second=1), ping_interval=None) as server:
        async with trio_ws.connect(uri(server)) as ws:
            with contextlib.suppress(trio_ws.ConnectionClosed):
                for _ in range(1_000):  # enough for a machine on which that takes minutes
                    await ws.send("hello")
            assert await end_of(ws) == trio_ws.Close(1008, "at most 1 messages per second are allowed")
