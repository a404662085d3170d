"""The end of a server: ``Server.aclose``, and cancellation."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws.connection.core import GOODBYE_TIMEOUT, GRACE
from trio_ws.connection.websocket import connection_of
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosed,
)
from trio_ws.server.listeners import ACCEPT_DELAY

from ..support import Wrapped, echo, read_to_end
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

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.usefixtures("watchdog")

# -- Handlers --------------------------------------------------------------------------------------------------------


async def ignore(ws: trio_ws.WebSocket) -> None:
    await trio.sleep_forever()


# -- The end of a server ---------------------------------------------------------------------------------------------


async def test_cancelled(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    begin = trio.current_time()
    closings: list[ConnectionClosed] = []

    async def client(stream: Stream) -> None:
        async with trio_ws.connect_over(stream, "ws://any/") as ws:
            closings.append(await closing_of(ws))

    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as nursery:
            server, listener = await start_in_memory(nursery, ignore)
            for _ in range(8):
                clients.start_soon(client, listener.connect())
            opening = listener.connect()
            await trio.testing.wait_all_tasks_blocked()
            assert len(server.connections) == 8
            nursery.cancel_scope.cancel()
        assert listener.closed
        assert server.connections == frozenset()
    assert [exc.rcvd for exc in closings] == 8 * [trio_ws.Close(1001, "")]
    assert (await read_to_end(opening)).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert trio.current_time() == begin
    assert caplog.records == []
    await server.aclose()  # does nothing and does not wait: the server has ended


async def test_cancelled_with_sockets(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, nothing_left: Callable[[], None]
) -> None:
    codes: list[int] = []

    async def client(uri: str, context: ssl.SSLContext | None, task_status: trio.TaskStatus[None]) -> None:
        async with trio_ws.connect(uri, ssl=context) as ws:
            task_status.started()
            codes.append((await closing_of(ws)).code)

    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as nursery:
            plain = await start_tcp(nursery, ignore)
            await clients.start(client, url(plain), None)
            tls = await start_tcp(nursery, ignore, ssl=server_context)
            await clients.start(client, f"wss://127.0.0.1:{tls.port}/", client_context)
            nursery.cancel_scope.cancel()
    assert codes == [1001, 1001]
    nothing_left()


async def test_close(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    caplog.set_level(logging.INFO)
    begin = trio.current_time()
    returned: list[str] = []
    closings: list[ConnectionClosed] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        with contextlib.suppress(ConnectionClosed):
            await echo(ws)
        returned.append(ws.request.path)

    async def client(stream: Stream, uri: str) -> None:
        async with trio_ws.connect_over(stream, uri) as ws:
            closings.append(await closing_of(ws))

    async with trio.open_nursery() as nursery:
        listener = MemoryListener()
        served = trio.Event()

        async def serve(task_status: trio.TaskStatus[trio_ws.Server]) -> None:
            await trio_ws.serve(handler, listeners=[listener], task_status=task_status)
            served.set()

        server = await nursery.start(serve)
        for n in range(8):
            nursery.start_soon(client, listener.connect(), f"ws://any/{n}")
        await trio.testing.wait_all_tasks_blocked()
        await server.aclose(1012, "restart")
        assert listener.closed
        assert server.connections == frozenset()
        await trio.testing.wait_all_tasks_blocked()
        assert served.is_set()
    assert [exc.rcvd for exc in closings] == 8 * [trio_ws.Close(1012, "restart")]
    assert sorted(returned) == [f"/{n}" for n in range(8)]
    assert trio.current_time() == begin
    assert caplog.records == []


@pytest.mark.parametrize("code, clean", [(1000, True), (1001, True), (1012, False), (4000, False)])
async def test_close_ends_receive_loops_without_an_error(
    code: int, clean: bool, caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    caplog.set_level(logging.INFO)
    server, listener = await start_in_memory(nursery, echo)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.aclose, code)
        exc = await closing_of(ws)
    assert exc.code == code
    await server.aclose()
    assert [record.levelno for record in caplog.records] == ([] if clean else [logging.INFO])


async def test_close_delivers_messages_sent_before(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Messages of both sides are delivered."""
    seen: list[str | bytes] = []
    go_on = trio.Event()

    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.send("from the server")
        await go_on.wait()
        seen.append(await ws.receive())

    server, listener = await start_in_memory(nursery, handler)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        await ws.send("from the client")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.aclose, 1001)
        assert await ws.receive() == "from the server"
        assert (await closing_of(ws)).code == 1001
    go_on.set()
    await server.aclose()
    assert seen == ["from the client"]


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("close_timeout", [0, 3])
async def test_close_with_handlers_that_ignore_it(
    answers: bool, close_timeout: float, caplog: Logs, autojump_clock: trio.testing.MockClock
) -> None:
    cancelled_at: list[float] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time() - begin)

    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, handler, close_timeout=close_timeout)
        client = listener.connect()
        await client.send_all(request())
        await read_response(client)
        begin = trio.current_time()
        nursery.start_soon(server.aclose, 1012)
        if close_timeout:
            assert await client.receive_some() == b"\x88\x02\x03\xf4"
            assert trio.current_time() == begin
            if answers:
                await client.send_all(b"\x88\x82" + MASK + b"\x03\xf4")
        assert await read_to_end(client) in (b"", b"\x88\x02\x03\xf4")
        assert trio.current_time() - begin <= (0 if answers else close_timeout)
    assert cancelled_at == [close_timeout + GRACE]
    assert trio.current_time() - begin == close_timeout + GRACE
    assert caplog.records == []


async def test_close_with_more_than_the_handler_receives(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Unread messages of the client do not keep the server from seeing the client's Close frame."""
    server, listener = await start_in_memory(nursery, ignore, close_timeout=3, receive_buffer=1000)
    client = listener.connect()
    await client.send_all(request())
    await read_response(client)
    for _ in range(1000):
        await client.send_all(TEXT_HI)
    begin = trio.current_time()
    nursery.start_soon(server.aclose)
    assert await client.receive_some() == b"\x88\x02\x03\xe9"
    await client.send_all(b"\x88\x82" + MASK + b"\x03\xe9")
    assert await read_to_end(client) == b""
    assert trio.current_time() == begin


async def test_close_with_a_stubborn_client(autojump_clock: trio.testing.MockClock) -> None:
    """The client ignores the Close frame and continues sending. The handler reads everything."""
    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, echo, close_timeout=3)
        client = listener.connect()
        await client.send_all(request())
        await read_response(client)

        async def flood() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await client.send_all(TEXT_HI)
                    await trio.sleep(0.1)

        nursery.start_soon(flood)
        await trio.sleep(1)
        begin = trio.current_time()
        await server.aclose()
        assert 3 <= trio.current_time() - begin <= 3 + GRACE


async def test_close_cuts_opening_handshakes(
    caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    begin = trio.current_time()
    server, listener = await start_in_memory(nursery, never)
    clients = [listener.connect() for _ in range(3)]
    await clients[1].send_all(request()[:-2])
    await trio.testing.wait_all_tasks_blocked()
    await server.aclose()
    for client in clients:
        answer = await read_to_end(client)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 5\r\n" in answer
    assert trio.current_time() == begin
    assert caplog.records == []


@pytest.mark.parametrize("grace", [0, 3])
async def test_grace(grace: float, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    begin = trio.current_time()
    ended: list[float] = []

    async def busy(_: trio_ws.WebSocket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time() - begin)

    server, listener = await start_in_memory(nursery, busy)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        await server.aclose(1012, "restarting", grace=grace)
        assert (await closing_of(ws)).rcvd == trio_ws.Close(1012, "restarting")
    assert ended == [max(grace, GOODBYE_TIMEOUT)]


async def test_grace_can_be_shortened(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    begin = trio.current_time()
    server, listener = await start_in_memory(nursery, never_ends)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        async with trio.open_nursery() as closing:
            closing.start_soon(partial(server.aclose, grace=100))
            await trio.sleep(2)
            closing.start_soon(partial(server.aclose, grace=1))
            closing.start_soon(partial(server.aclose, grace=50))
        assert trio.current_time() - begin == 3
        await closing_of(ws)


async def never_ends(_: trio_ws.WebSocket) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("grace", [-1, float("nan")])
async def test_invalid_grace(grace: float, nursery: trio.Nursery) -> None:
    server = await start_tcp(nursery)
    with pytest.raises(ValueError, match="grace"):
        await server.aclose(grace=grace)
    with pytest.raises(TypeError, match="grace must be a number or None, not '3'"):
        await server.aclose(grace="3")  # type: ignore[arg-type]  # wrong on purpose
    assert await answers(server)


async def answers(server: trio_ws.Server) -> bool:
    async with trio_ws.connect(url(server)) as ws:
        await ws.send("hello")
        return await ws.receive() == "hello"


async def test_a_new_certificate(
    authority: trustme.CA, server_context: ssl.SSLContext, nursery: trio.Nursery, tmp_path: Path
) -> None:
    server = await start_tcp(nursery, ssl=server_context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    uri = f"wss://localhost:{server.port}"

    def serial(ws: trio_ws.WebSocket) -> object:
        return connection_of(ws).stream.tls_object.getpeercert()["serialNumber"]

    async with trio_ws.connect(uri, ssl=trusting) as old:
        issued = authority.issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "new.pem")
        server_context.load_cert_chain(tmp_path / "new.pem")
        async with trio_ws.connect(uri, ssl=trusting) as new:
            assert serial(new) != serial(old)
            for ws in (old, new):
                await ws.send("hello")
                assert await ws.receive() == "hello"


async def test_close_at_the_end_of_an_opening_handshake(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Once the response is written, the connection is open, although its handler has not started yet."""

    class Slow(Wrapped):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await super().send_all(data)
            written.set()
            # Like a socket: bytes that were written cannot be cancelled.
            with trio.CancelScope(shield=True):
                await go_on.wait()

    written, go_on = trio.Event(), trio.Event()
    listener = MemoryListener(Slow)
    server = await start(nursery, echo, listeners=[listener])
    begin = trio.current_time()
    async with trio.open_nursery() as closing:
        client = listener.connect()
        await client.send_all(request())
        await written.wait()
        closing.start_soon(server.aclose, 1012)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        response, frames = await read_response(client)
        assert response.status_code == 101
        frames += bytes(await client.receive_some())
        assert frames == b"\x88\x02\x03\xf4"
        await client.send_all(b"\x88\x82" + MASK + b"\x03\xf4")
        assert await read_to_end(client) == b""
    assert trio.current_time() == begin


async def test_close_twice(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    server, listener = await start_in_memory(nursery, echo)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as closing:
            closing.start_soon(server.aclose, 1012, "first")
            await trio.testing.wait_all_tasks_blocked()
            closing.start_soon(server.aclose, 1000, "second")
            exc = await closing_of(ws)
            assert exc.rcvd == trio_ws.Close(1012, "first")
    begin = trio.current_time()
    await server.aclose()
    assert trio.current_time() == begin


async def test_close_twice_does_not_give_more_time(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    server, listener = await start_in_memory(nursery, ignore, close_timeout=3)
    client = listener.connect()
    await client.send_all(request())
    await read_response(client)
    begin = trio.current_time()
    async with trio.open_nursery() as closing:
        closing.start_soon(server.aclose)
        await trio.sleep(2)
        closing.start_soon(server.aclose)
    assert trio.current_time() - begin == 3 + GRACE


async def test_close_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    """The call stops waiting, but the server continues closing."""
    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, ignore, close_timeout=3)
        client = listener.connect()
        await client.send_all(request())
        await read_response(client)
        begin = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.aclose(1012)
        assert scope.cancelled_caught
        assert trio.current_time() == begin
        assert await client.receive_some() == b"\x88\x02\x03\xf4"
    assert trio.current_time() - begin == 3 + GRACE


async def test_closed_server_is_a_cancel_point(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    server, _ = await start_in_memory(nursery, never)
    await server.aclose()
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.aclose()
    assert scope.cancelled_caught


@pytest.mark.parametrize("code, reason", [(1005, ""), (1006, ""), (1015, ""), (999, ""), (5000, ""), (1000, 124 * "x")])
async def test_close_with_an_invalid_code_or_reason(
    code: int, reason: str, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The server is not affected."""
    server, listener = await start_in_memory(nursery, echo)
    with pytest.raises(ValueError):
        await server.aclose(code, reason)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_close_called_by_a_handler(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    """The handler waits for itself until it is cancelled."""

    async def handler(ws: trio_ws.WebSocket) -> None:
        await server.aclose()

    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, handler, close_timeout=3)
        begin = trio.current_time()
        async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
            assert (await closing_of(ws)).code == 1001
    assert trio.current_time() - begin == 3 + GRACE
    assert caplog.records == []


async def test_close_after_a_handler_has_returned(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The connection is already in the closing handshake, with a client that does not answer."""

    async def handler(ws: trio_ws.WebSocket) -> None:
        return

    server, listener = await start_in_memory(nursery, handler, close_timeout=3)
    client = listener.connect()
    await client.send_all(request())
    await trio.testing.wait_all_tasks_blocked()
    begin = trio.current_time()
    assert server.connections == frozenset()
    await server.aclose()
    assert trio.current_time() - begin == 3
    _, frames = await read_response(client)
    assert frames + await read_to_end(client) == b"\x88\x02\x03\xe8"


async def test_close_with_sockets(nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        server = await start_tcp(nursery)
        async with trio_ws.connect(url(server)) as ws:
            nursery.start_soon(server.aclose, 1013, "later")
            exc = await closing_of(ws)
        assert exc.rcvd == trio_ws.Close(1013, "later")
        await server.aclose()
        with pytest.raises(ConnectFailed):
            async with trio_ws.connect(url(server)):
                pytest.fail("it is still listening")
    nothing_left()


async def test_cancelled_while_closing(autojump_clock: trio.testing.MockClock) -> None:
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, ignore)
        client = listener.connect()
        await client.send_all(request())
        await read_response(client)
        nursery.start_soon(server.aclose, 1012)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await read_to_end(client) == b"\x88\x02\x03\xf4"
    assert trio.current_time() == begin


async def test_listener_that_fails(autojump_clock: trio.testing.MockClock) -> None:
    """The server ends, and its clients get a Close frame."""

    class Failing(MemoryListener):
        async def accept(self) -> Stream:
            stream = await super().accept()
            if self.last:
                raise OSError(errno.EIO, "Input/output error")
            self.last = True
            return stream

        last = False

    listener = Failing()
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await start(nursery, ignore, listeners=[listener])
            client = listener.connect()
            await client.send_all(request())
            await read_response(client)
            listener.connect()
    assert caught.value.subgroup(OSError) is not None
    assert await read_to_end(client) == b"\x88\x02\x03\xe9"
    assert listener.closed


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
async def test_accept_fails_for_lack_of_resources(
    number: int, caplog: Logs, autojump_clock: trio.testing.MockClock
) -> None:
    """The server waits and tries again."""

    class Overloaded(MemoryListener):
        failures = 15

        async def accept(self) -> Stream:
            if self.failures:
                self.failures -= 1
                raise OSError(number, os.strerror(number))
            return await super().accept()

    listener = Overloaded()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        server = await start(nursery, echo, listeners=[listener])
        async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
        assert trio.current_time() - begin == pytest.approx(15 * ACCEPT_DELAY)
        await server.aclose()
    # At most one line a second.
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert os.strerror(number) in caplog.text


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM], ids=errno.errorcode.get)
async def test_accept_fails_for_one_connection(
    number: int, caplog: Logs, autojump_clock: trio.testing.MockClock
) -> None:
    """The server accepts the next one."""

    class Dropped(MemoryListener):
        failures = 3

        async def accept(self) -> Stream:
            if self.failures:
                self.failures -= 1
                raise OSError(number, os.strerror(number))
            return await super().accept()

    listener = Dropped()
    async with trio.open_nursery() as nursery:
        server = await start(nursery, echo, listeners=[listener])
        async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
        await server.aclose()
    assert not caplog.records
