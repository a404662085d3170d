"""``Server.drain``: the server stops accepting, and its connections go on until they end by themselves."""

from __future__ import annotations

import logging
import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws

from ..support import HANGS, Wrapped, echo, read_to_end
from .clients import (
    MASK,
    TEXT_HI,
    Logs,
    MemoryListener,
    Stream,
    closing_of,
    never,
    read_response,
    request,
    start,
    start_in_memory,
    start_tcp,
    url,
)

pytestmark = pytest.mark.usefixtures("watchdog")

PLAIN = b"GET /page HTTP/1.1\r\nHost: example.org\r\n\r\n"
CLOSE = b"\x88\x82" + MASK + b"\x03\xe8"


def answer(opening: trio_ws.Opening, _: trio_ws.Request) -> trio_ws.Response | None:
    return opening.respond(200, "a page") if opening.path == "/page" else None


class Draining:
    """A call of ``drain`` in another task."""

    def __init__(self, nursery: trio.Nursery, server: trio_ws.Server, timeout: float | None = None) -> None:
        self._outcome: tuple[bool, float] | None = None
        nursery.start_soon(self._run, partial(server.drain, timeout))

    async def _run(self, drain: Callable[[], Awaitable[bool]]) -> None:
        begin = trio.current_time()
        result = await drain()
        self._outcome = result, trio.current_time() - begin

    def outcome(self) -> tuple[bool, float] | None:
        """Return what the call has returned, and how many seconds it took; None while it waits."""
        return self._outcome

    def result(self) -> bool | None:
        """Return what the call has returned; None while it waits."""
        return self._outcome and self._outcome[0]


async def is_echoed(client: Stream) -> bool:
    await client.send_all(TEXT_HI)
    return await client.receive_some() == b"\x81\x02hi"


async def open_raw(listener: MemoryListener) -> Stream:
    client = listener.connect()
    await client.send_all(request())
    await read_response(client)
    return client


# -- Connections -----------------------------------------------------------------------------------------------------


async def test_connections_go_on(caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    caplog.set_level(logging.INFO)
    listener = MemoryListener()
    served = trio.Event()

    async def serve(task_status: trio.TaskStatus[trio_ws.Server]) -> None:
        await trio_ws.serve(echo, listeners=[listener], ping_interval=None, task_status=task_status)
        served.set()

    server = await nursery.start(serve)
    clients = [await open_raw(listener) for _ in range(3)]
    draining = Draining(nursery, server)
    await trio.testing.wait_all_tasks_blocked()
    assert listener.closed
    assert len(server.connections) == 3
    for client in clients:
        assert await is_echoed(client)
    for client in clients:
        await trio.sleep(10)
        assert draining.result() is None
        assert not served.is_set()
        await client.send_all(CLOSE)
        assert await read_to_end(client) == b"\x88\x02\x03\xe8"
    await trio.testing.wait_all_tasks_blocked()
    assert draining.outcome() == (True, 30)
    assert served.is_set()
    assert not caplog.records
    assert await server.drain()


async def test_it_waits_for_handlers(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()
        await trio.sleep(5)

    server, listener = await start_in_memory(nursery, handler)
    client = await open_raw(listener)
    draining = Draining(nursery, server)
    await client.send_all(CLOSE)
    await trio.sleep(4.9)
    assert draining.result() is None
    await trio.sleep(0.2)
    assert draining.result()


async def test_a_server_without_connections(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    for timeout in (None, 0.5, 10):
        server, listener = await start_in_memory(nursery, never)
        begin = trio.current_time()
        assert await server.drain(timeout)
        assert listener.closed
        assert trio.current_time() == begin
        assert await server.drain(0)
        await server.aclose()


@pytest.mark.parametrize("tls", [False, True])
async def test_with_sockets(
    tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext, nothing_left: Callable[[], None]
) -> None:
    async with trio.open_nursery() as nursery:
        server = await start_tcp(nursery, ssl=server_context if tls else None, process_request=answer)
        uri = f"{'wss' if tls else 'ws'}://127.0.0.1:{server.port}/"
        options: dict[str, Any] = {"ssl": client_context} if tls else {}
        idle: Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        if tls:
            idle = trio.SSLStream(idle, client_context, server_hostname="127.0.0.1", https_compatible=True)
        await idle.send_all(PLAIN)
        assert (await read_response(idle))[0].body == b"a page"
        async with trio_ws.connect(uri, **options) as ws:
            draining = Draining(nursery, server)
            assert await read_to_end(idle) == b""
            with pytest.raises(trio_ws.ConnectFailed):
                async with trio_ws.connect(uri, **options):
                    pytest.fail("it is still listening")
            await ws.send("hello")
            assert await ws.receive() == "hello"
            assert draining.result() is None
    assert draining.result()
    await idle.aclose()
    nothing_left()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets here")
async def test_a_new_server_takes_over_a_unix_socket(nursery: trio.Nursery, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    old = await start(nursery, echo, path=path)
    async with trio_ws.connect_unix(path, "ws://old/") as ws:
        draining = Draining(nursery, old)
        await trio.testing.wait_all_tasks_blocked()
        await start(nursery, echo, path=path)
        async with trio_ws.connect_unix(path, "ws://new/") as other:
            for each in (ws, other):
                await each.send("hello")
                assert await each.receive() == "hello"
    with trio.fail_after(HANGS):
        assert await old.drain()
    await trio.testing.wait_all_tasks_blocked()
    assert draining.result()
    assert path.is_socket()
    async with trio_ws.connect_unix(path, "ws://new/"):
        pass


async def test_a_new_process_takes_over_a_port(nursery: trio.Nursery) -> None:
    """Two servers with ``reuse_port`` stand for two processes."""
    old = await start_tcp(nursery, reuse_port=True)
    async with trio_ws.connect(url(old)) as ws:
        new = await start(nursery, echo, port=old.port, host="127.0.0.1", reuse_port=True)
        Draining(nursery, old)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            async with trio_ws.connect(url(old)) as other:
                assert len(new.connections) == 1
                await other.send("hello")
                assert await other.receive() == "hello"
            while new.connections:
                await trio.testing.wait_all_tasks_blocked()
        assert ws.state is trio_ws.State.OPEN


# -- Opening handshakes and HTTP connections -------------------------------------------------------------------------


async def test_opening_handshakes_are_completed(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    go_on = trio.Event()

    async def wait(opening: trio_ws.Opening, _: trio_ws.Request) -> None:
        if opening.path == "/slow":
            await go_on.wait()

    server, listener = await start_in_memory(nursery, echo, process_request=wait)
    silent, begun, slow = (listener.connect() for _ in range(3))
    await begun.send_all(request()[:20])
    await slow.send_all(request(line="GET /slow HTTP/1.1"))
    await trio.testing.wait_all_tasks_blocked()
    draining = Draining(nursery, server)
    await trio.sleep(1)
    assert draining.result() is None
    go_on.set()
    await begun.send_all(request()[20:])
    await silent.send_all(request())
    for client in (silent, begun, slow):
        assert (await read_response(client))[0].status_code == 101
        assert await is_echoed(client)
        assert draining.result() is None
        await client.send_all(CLOSE)
        await read_to_end(client)
    await trio.testing.wait_all_tasks_blocked()
    assert draining.outcome() == (True, 1)


async def test_clients_that_send_nothing_time_out(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    server, listener = await start_in_memory(nursery, never, open_timeout=7)
    client = listener.connect()
    await trio.testing.wait_all_tasks_blocked()
    begin = trio.current_time()
    assert await server.drain()
    assert trio.current_time() - begin == 7
    assert (await read_response(client))[0].status_code == 408


async def test_idle_http_connections_are_closed(
    caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    caplog.set_level(logging.INFO)
    server, listener = await start_in_memory(nursery, echo, process_request=answer, open_timeout=None)
    clients = [listener.connect() for _ in range(3)]
    for client in clients:
        await client.send_all(PLAIN)
        response, _ = await read_response(client)
        assert "Connection" not in response.headers
    begin = trio.current_time()
    assert await server.drain()
    assert trio.current_time() == begin
    for client in clients:
        assert await read_to_end(client) == b""
    assert not caplog.records


async def test_http_connections_are_closed_after_the_response(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    go_on = trio.Event()

    async def wait(opening: trio_ws.Opening, _: trio_ws.Request) -> trio_ws.Response:
        await go_on.wait()
        return opening.respond(200, "a page")

    server, listener = await start_in_memory(nursery, never, process_request=wait, open_timeout=None)
    reading, answering = listener.connect(), listener.connect()
    await reading.send_all(PLAIN[:10])
    await answering.send_all(PLAIN + PLAIN)  # the second request is not answered
    await trio.testing.wait_all_tasks_blocked()
    draining = Draining(nursery, server)
    await trio.sleep(1)
    assert draining.result() is None
    go_on.set()
    await reading.send_all(PLAIN[10:])
    for client in (reading, answering):
        response, rest = await read_response(client)
        assert (response.status_code, response.body, response.headers["Connection"]) == (200, b"a page", "close")
        assert rest + await read_to_end(client) == b""
        await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert draining.outcome() == (True, 1)


async def test_http_connections_whose_response_is_being_written(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The response does not say that the connection will be closed, but it will."""

    class Slow(Wrapped):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep(3)
            await super().send_all(data)

    listener = MemoryListener(Slow)
    server = await start(nursery, never, listeners=[listener], process_request=answer, open_timeout=None)
    client = listener.connect()
    await client.send_all(PLAIN)
    await trio.sleep(1)
    draining = Draining(nursery, server)
    response, _ = await read_response(client)
    assert (response.body, "Connection" in response.headers) == (b"a page", False)
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert draining.outcome() == (True, 2)


async def test_a_response_that_the_client_is_reading_is_not_cut(nursery: trio.Nursery) -> None:
    """Closing the socket too early would reset it, because a part of the request was not read."""
    server = await start_tcp(nursery, never, process_request=answer)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        await stream.send_all(b"POST /page HTTP/1.1\r\nHost: example.org\r\nContent-Length: 1000000\r\n\r\n")
        response, _ = await read_response(stream)
        draining = Draining(nursery, server)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(bytes(1_000_000))
        assert response.body == b"a page"
        assert await stream.receive_some() == b""
    assert await server.drain()
    await trio.testing.wait_all_tasks_blocked()
    assert draining.result()


async def test_a_request_that_has_just_arrived(
    caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """It is answered, if only with 503, or the connection is closed as if the request had not arrived."""
    caplog.set_level(logging.INFO)

    async def wait(opening: trio_ws.Opening, _: trio_ws.Request) -> trio_ws.Response:
        await trio.lowlevel.checkpoint()
        return opening.respond(200, "a page")

    server, listener = await start_in_memory(nursery, never, process_request=wait)
    client = listener.connect()
    await client.send_all(PLAIN)
    await read_response(client)
    await trio.testing.wait_all_tasks_blocked()
    await client.send_all(PLAIN)
    assert await server.drain()
    assert (await read_to_end(client)).startswith((b"", b"HTTP/1.1 200", b"HTTP/1.1 503"))
    assert all("the server is draining" in record.getMessage() for record in caplog.records)


# -- Timeout, cancellation, several calls ----------------------------------------------------------------------------


async def test_timeout(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    server, listener = await start_in_memory(nursery, echo)
    client = await open_raw(listener)
    for timeout in (0, 3, 0.5):
        begin = trio.current_time()
        assert await server.drain(timeout) is False
        assert trio.current_time() - begin == timeout
        assert listener.closed
        assert await is_echoed(client)
    draining = Draining(nursery, server, 10)
    await trio.sleep(4)
    await client.send_all(CLOSE)
    await trio.testing.wait_all_tasks_blocked()
    assert draining.outcome() == (True, 4)


async def test_close_after_a_timeout(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    server, listener = await start_in_memory(nursery, echo)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        assert not await server.drain(5)
        nursery.start_soon(server.aclose, 1012)
        assert (await closing_of(ws)).rcvd == trio_ws.Close(1012, "")
    assert await server.drain(5)


async def test_close_while_draining(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    server, listener = await start_in_memory(nursery, echo, process_request=answer)
    silent = listener.connect()
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        drainings = [Draining(nursery, server, timeout) for timeout in (None, 2, 10)]
        await trio.sleep(5)
        assert [each.result() for each in drainings] == [None, False, None]
        begin = trio.current_time()
        nursery.start_soon(server.aclose)
        assert (await closing_of(ws)).code == 1001
    assert (await read_response(silent))[0].status_code == 503
    await trio.testing.wait_all_tasks_blocked()
    assert [each.result() for each in drainings] == [True, False, True]
    assert trio.current_time() == begin


async def test_drain_while_closing(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """It waits for the end, and neither delays nor prevents it."""

    async def stubborn(_: trio_ws.WebSocket) -> None:
        await trio.sleep_forever()

    server, listener = await start_in_memory(nursery, stubborn)
    await open_raw(listener)
    nursery.start_soon(partial(server.aclose, grace=3))
    await trio.sleep(1)
    assert not await server.drain(1)
    begin = trio.current_time()
    assert await server.drain()
    assert trio.current_time() - begin == 1


async def test_cancelled(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    server, listener = await start_in_memory(nursery, echo)
    client = await open_raw(listener)
    with trio.move_on_after(1) as scope:
        await server.drain()
    assert scope.cancelled_caught
    assert listener.closed
    assert await is_echoed(client)
    nursery.start_soon(server.aclose)
    assert await read_to_end(client) == b"\x88\x02\x03\xe9"


@pytest.mark.parametrize("seconds", [None, 0, 5])
async def test_cancelled_before_it_is_called(
    seconds: float | None, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    server, listener = await start_in_memory(nursery, echo)
    client = await open_raw(listener)
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.drain(seconds)
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert listener.closed
    assert await is_echoed(client)


async def test_the_server_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            server, listener = await start_in_memory(nursery, echo)
            client = await open_raw(listener)
            draining = Draining(outer, server)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await read_to_end(client) == b"\x88\x02\x03\xe9"
    assert draining.result()


async def test_called_by_a_handler(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """The handler waits for itself, but a timeout ends that."""
    results: list[bool] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        assert ws.opening.server is not None
        results.append(await ws.opening.server.drain(3))

    server, listener = await start_in_memory(nursery, handler)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        assert (await closing_of(ws)).code == 1000
    assert await server.drain()
    assert results == [False]


@pytest.mark.parametrize("seconds", [-1, float("nan")])
async def test_invalid_timeout(seconds: float, nursery: trio.Nursery) -> None:
    server = await start_tcp(nursery)
    with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
        await server.drain(seconds)
    async with trio_ws.connect(url(server)):
        pass


async def test_many_connections_that_come_and_go(nursery: trio.Nursery) -> None:
    """Each client is either served as usual, or cannot connect. None is cut off."""
    server = await start_tcp(nursery)
    served: list[bool] = []

    async def client() -> None:
        try:
            async with trio_ws.connect(url(server)) as ws:
                for _ in range(5):
                    await ws.send("hello")
                    assert await ws.receive() == "hello"
            served.append(True)
        except trio_ws.ConnectFailed:
            served.append(False)

    async with trio.open_nursery() as clients:
        for n in range(60):
            clients.start_soon(client)
            if n == 30:
                Draining(nursery, server)
            await trio.lowlevel.checkpoint()
    assert await server.drain()
    assert len(served) == 60
    assert set(served) == {True, False}
