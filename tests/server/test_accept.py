"""The opening handshake of a server, and its handlers."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.connection.core import GRACE
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
)
from trio_ws.http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS

from ..support import Send, Wrapped, echo, in_bytes, in_one_piece, read_to_end, reset
from .clients import (
    KEY,
    MASK,
    TEXT_HI,
    Logs,
    Stream,
    closing_of,
    failures,
    never,
    read_response,
    request,
    start_in_memory,
    start_tcp,
    url,
)

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.usefixtures("watchdog")

ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the example of RFC 6455, section 1.3

CLOSE_1000 = b"\x88\x82" + MASK + b"\x03\xe8"


# -- Scripted clients ------------------------------------------------------------------------------------------------


async def test_other_tasks_run_between_pipelined_requests(nursery: trio.Nursery) -> None:
    """Reading and writing need not wait here: the requests are all there, and the answers fit into the socket."""
    turns, seen = 0, []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    def answer(opening: trio_ws.Opening, _request: trio_ws.Request) -> trio_ws.Response:
        seen.append(turns)
        return opening.respond(404, "")

    server = await start_tcp(nursery, never, process_request=answer)
    nursery.start_soon(count_turns)
    client = await trio.open_tcp_stream("127.0.0.1", server.port)
    await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
    received = b""
    while received.count(b"HTTP/1.1 404") < 20:
        received += await client.receive_some()
    await client.aclose()
    # In each turn, the order of the tasks is random.
    assert len(set(seen)) >= 10
    nursery.cancel_scope.cancel()


def start_over(nursery: trio.Nursery, handler: trio_ws.Handler, **options: Any) -> Stream:
    """Serve one end of a stream with ``serve_over``, and return the other end."""
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(partial(trio_ws.serve_over, server, handler, **options))
    return client


# -- The opening handshake -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", [in_one_piece, in_bytes])
async def test_opening_handshake(send: Send, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    seen: list[trio_ws.WebSocket] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.append(ws)

    client = start_over(nursery, handler)
    await send(client, request("X: é", line="GET /path?query HTTP/1.1"))
    response, _ = await read_response(client)
    assert response.status_code == 101
    assert list(response.headers.raw_items()) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", ACCEPT),
        ("Server", response.headers["Server"]),
    ]
    assert response.headers["Server"].startswith(f"trio_ws/{trio_ws.__version__} ")
    (ws,) = seen
    assert ws.request.path == "/path?query"
    assert ws.request.headers["X"] == "é"
    assert ws.response == response
    assert ws.subprotocol is None
    assert (ws.local_address, ws.remote_address) == (None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"Connection": "keep-alive, UPGRADE"},
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Content_Length": "0"},
        {"Sec_WebSocket_Extensions": "x-unheard-of, permessage-deflate; x-unheard-of"},
        {"Sec_WebSocket_Protocol": "a, b"},
    ],
)
async def test_equivalent_requests(
    changes: dict[str, str], autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    client = start_over(nursery, echo)
    await client.send_all(request(**changes))
    response, _ = await read_response(client)
    assert response.status_code == 101
    assert "Sec-WebSocket-Extensions" not in response.headers
    assert "Sec-WebSocket-Protocol" not in response.headers
    await client.aclose()


@pytest.mark.parametrize(
    "values, agreed", [(["a, b"], "b"), (["a", "b"], "b"), (["a"], "a"), (["c"], None), (["A"], None)]
)
async def test_subprotocols(
    values: list[str], agreed: str | None, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    seen: list[str | None] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.append(ws.subprotocol)

    client = start_over(nursery, handler, subprotocols=["b", "a"])
    await client.send_all(request(*(f"Sec-WebSocket-Protocol: {value}" for value in values)))
    response, _ = await read_response(client)
    assert response.headers.get("Sec-WebSocket-Protocol") == agreed
    await client.aclose()
    assert seen == [agreed]


@pytest.mark.parametrize("send", [in_one_piece, in_bytes])
async def test_frames_sent_with_the_request(
    send: Send, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    seen: list[str | bytes] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.extend([message async for message in ws])

    client = start_over(nursery, handler)
    await send(client, request() + TEXT_HI + b"\x82\x81" + MASK + b"\x00" + CLOSE_1000)
    response, frames = await read_response(client)
    assert response.status_code == 101
    assert frames + await read_to_end(client) == b"\x88\x02\x03\xe8"
    assert seen == ["hi", b"\x00"]


BAD_REQUESTS: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "an empty line": (b"\r\n\r\n", 400),
    "half a request": (request()[:50], 400),
    "HTTP/1.0": (request(line="GET / HTTP/1.0"), 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "POST": (request(line="POST / HTTP/1.1"), 405),
    "HEAD": (request(line="HEAD / HTTP/1.1"), 405),
    "get": (request(line="get / HTTP/1.1"), 405),
    "CONNECT": (request(line="CONNECT example.org:443 HTTP/1.1"), 405),
    "a body": (request(Content_Length="5") + b"hello", 400),
    "a chunked body": (request(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
    "a length that is none": (request(Content_Length="-1"), 400),
    "no Host": (request(Host=None), 400),
    "two Hosts": (request("Host: other.example"), 400),
    "no Upgrade": (request(Upgrade=None), 426),
    "other Upgrade": (request(Upgrade="h2c"), 426),
    "no Connection": (request(Connection=None), 426),
    "other Connection": (request(Connection="notupgrade, keep-alive"), 426),
    "a browser": (b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: keep-alive\r\n\r\n", 426),
    "no key": (request(Sec_WebSocket_Key=None), 400),
    "an empty key": (request(Sec_WebSocket_Key=""), 400),
    "a short key": (request(Sec_WebSocket_Key="c2hvcnQ="), 400),
    "two keys": (request(f"Sec-WebSocket-Key: {KEY}"), 400),
    "no version": (request(Sec_WebSocket_Version=None), 400),
    "version 8": (request(Sec_WebSocket_Version="8"), 426),
    "version 013": (request(Sec_WebSocket_Version="013"), 426),
    "two versions": (request("Sec-WebSocket-Version: 13"), 400),
    "malformed subprotocols": (request(Sec_WebSocket_Protocol="a b"), 400),
    "malformed extensions": (request(Sec_WebSocket_Extensions="a;;b"), 400),
    "a space before the colon": (request("X : x"), 400),
    "a header without a colon": (request("X"), 400),
    "a NUL": (request("X: a\0b"), 400),
    "a stray CR": (request("X: a\rb"), 400),
    "a path that is not ASCII": (request(line="GET /é HTTP/1.1"), 400),
    "no path": (request(line="GET  HTTP/1.1"), 400),
    "a long path": (request(line=f"GET /{MAX_HEAD_SIZE * 'x'} HTTP/1.1"), 431),
    "a large head": (request(f"X: {MAX_HEAD_SIZE * 'x'}"), 431),
    "a head without end": (b"GET /" + MAX_HEAD_SIZE * b"x", 431),
    "many headers": (request(*((MAX_HEADERS - 4) * ["X: x"])), 431),
}


@pytest.mark.parametrize("send", [in_one_piece, in_bytes])
@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_bad_requests(
    name: str, send: Send, caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    caplog.set_level(logging.INFO)
    data, status = BAD_REQUESTS[name]
    client = start_over(nursery, never)
    begin = trio.current_time()

    async def send_request() -> None:
        with contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError
        ):  # the stream may be closed by this test
            await send(client, data)
            if name == "half a request":
                assert isinstance(client, trio.abc.HalfCloseableStream)
                await client.send_eof()

    nursery.start_soon(send_request)
    response, behind = await read_response(client)
    assert response.status_code == status
    assert response.reason_phrase
    assert bool(response.body) is (name != "HEAD")
    assert response.headers.get("Allow") == ("GET" if status == 405 else None)
    assert response.headers.get("Upgrade") == ("websocket" if status == 426 else None)
    assert response.headers.get("Sec-WebSocket-Version") == ("13" if status == 426 else None)
    assert response.headers["Connection"] == ("Upgrade, close" if status == 426 else "close")
    assert int(response.headers["Content-Length"]) == len(response.body or b"")
    assert behind + await read_to_end(client) == b""
    # The server ends the stream with the response, and then gives the client a moment to close its side.
    assert trio.current_time() == begin
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == begin
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "opening handshake" in caplog.records[0].getMessage()


@pytest.mark.parametrize("tls", [False, True])
async def test_response_to_a_client_that_is_still_writing(
    tls: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    """Closing a socket with unread bytes resets it, which could destroy the response before it is read."""
    client, server = trio.testing.memory_stream_pair()
    if tls:
        client = trio.SSLStream(client, client_context, server_hostname="localhost", https_compatible=True)  # type: ignore[assignment]
        server = trio.SSLStream(server, server_context, server_side=True, https_compatible=True)  # type: ignore[assignment]
    nursery.start_soon(trio_ws.serve_over, server, never)
    begin = trio.current_time()
    await client.send_all(b"x" * (MAX_HEAD_SIZE + 1))
    response, _ = await read_response(client)
    assert response.status_code == 431
    await client.send_all(b"x" * 100_000)
    await trio.sleep(GRACE / 2)
    await client.send_all(b"x" * 100_000)
    # The server does not wait for ever.
    await trio.sleep(GRACE)
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x" * 100_000)
    assert trio.current_time() - begin == 1.5 * GRACE


@pytest.mark.parametrize("tls", [False, True])
async def test_100_000_headers(
    tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext, nursery: trio.Nursery
) -> None:
    server = await start_tcp(nursery, never, ssl=server_context if tls else None)
    stream: Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if tls:
        stream = trio.SSLStream(stream, client_context, server_hostname="localhost", https_compatible=True)

    async def send() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(request(*(f"X-{n}: x" for n in range(100_000))))

    async with trio.open_nursery() as sending:
        sending.start_soon(send)
        response, _ = await read_response(stream)
        assert response.status_code == 431
        sending.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("options, seconds", [({}, 10), ({"open_timeout": 2.5}, 2.5)])
@pytest.mark.parametrize("data", [b"", request()])
async def test_slow_clients(
    data: bytes,
    options: dict[str, Any],
    seconds: float,
    caplog: Logs,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    """The timeout is for the whole handshake, not for each byte."""
    caplog.set_level(logging.INFO)
    begin = trio.current_time()
    client = start_over(nursery, never, **options)

    async def trickle() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            for i in range(len(data)):
                await client.send_all(data[i : i + 1])
                await trio.sleep(0.4)

    nursery.start_soon(trickle)
    assert (await read_to_end(client)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert trio.current_time() - begin == seconds
    if not data:  # no handshake has begun, so none has failed
        assert not caplog.records
        return
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert f"{seconds:g} seconds" in record.getMessage()


@pytest.mark.parametrize("how", ["timeout", "end", "close"])
@pytest.mark.parametrize("answered", [True, False])
async def test_connections_without_a_request_are_not_logged(
    how: str, answered: bool, caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    def answer(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response:
        return opening.respond(200, "ok")

    caplog.set_level(logging.INFO)
    client = start_over(nursery, never, process_request=answer, open_timeout=5)
    if answered:
        await client.send_all(request(Upgrade=None))
        assert (await read_response(client))[0].status_code == 200
    if how == "timeout":
        begin = trio.current_time()
        assert (await read_to_end(client)).startswith(b"" if answered else b"HTTP/1.1 408")
        assert trio.current_time() - begin == 5
    elif how == "end":
        assert isinstance(client, trio.abc.HalfCloseableStream)
        await client.send_eof()
        assert await read_to_end(client) == b""
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert not caplog.records


async def test_no_open_timeout(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    client = start_over(nursery, echo, open_timeout=None)
    await trio.sleep(10_000)
    await client.send_all(request())
    response, _ = await read_response(client)
    assert response.status_code == 101
    await client.aclose()


async def test_client_that_does_not_read_the_response(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.lockstep_stream_pair()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, server, never)
        await client.send_all(request())
    assert trio.current_time() - begin == 10


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the buffers of other sockets grow")
@pytest.mark.parametrize("change, status_code", [("websocket", 101), ("h2c", 426)])
async def test_response_when_the_socket_buffer_is_full(change: str, status_code: int, nursery: trio.Nursery) -> None:
    """The rest of the response is written when there is room."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    filling = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filling += theirs.send(b"x")
    client, server = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (ours, theirs))
    nursery.start_soon(trio_ws.serve_over, server, echo)
    await client.send_all(request(Upgrade=change))
    await trio.testing.wait_all_tasks_blocked()
    while filling:
        filling -= len(await client.receive_some(filling))
    response, _ = await read_response(client)
    assert response.status_code == status_code
    await client.aclose()


async def test_silent_tls_client(server_context: ssl.SSLContext, autojump_clock: trio.testing.MockClock) -> None:
    """``open_timeout`` includes the TLS handshake."""
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, never, ssl=server_context)
        client = listener.connect()
        assert await read_to_end(client) == b""
        assert trio.current_time() - begin == 10
        await server.aclose()


class Broken(Wrapped):
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise trio.BrokenResourceError from BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("data", [request(), request(Upgrade="h2c")])
async def test_client_that_leaves_before_the_response(
    data: bytes, caplog: Logs, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO)
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(data)
    await trio_ws.serve_over(Broken(server), never)
    assert await read_to_end(client) == b""
    assert {record.levelno for record in caplog.records} == {logging.INFO}


async def test_stream_that_cannot_be_closed(autojump_clock: trio.testing.MockClock) -> None:
    """An exception from ``aclose()`` after a failed handshake does not end the server."""

    class Stubborn(Wrapped):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("no, I will not")

    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"hello\r\n\r\n")
    await trio_ws.serve_over(Stubborn(server), never)
    response, _ = await read_response(client)
    assert response.status_code == 400
    assert await read_to_end(client) == b""


@pytest.mark.parametrize("how", ["nothing", "garbage", "FIN", "RST"])
@pytest.mark.parametrize("tls", [False, True])
async def test_clients_that_leave_during_the_handshake(
    tls: bool, how: str, server_context: ssl.SSLContext, caplog: Logs, nothing_left: Callable[[], None]
) -> None:
    """The clients leave no tasks, file descriptors or errors in the log."""
    async with trio.open_nursery() as nursery:
        server = await start_tcp(nursery, never, ssl=server_context if tls else None)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        if how == "garbage":
            await stream.send_all(b"\0" * 100)
            with contextlib.suppress(trio.BrokenResourceError):
                await read_to_end(stream)
        elif how == "FIN":
            await stream.send_eof()
            await read_to_end(stream)
        elif how == "RST":
            reset(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == frozenset()
        await server.aclose()
        assert len(server._state.openings) == 0
        await stream.aclose()
    assert caplog.records == []
    nothing_left()


# -- Handlers --------------------------------------------------------------------------------------------------------


async def test_handler_that_returns(
    caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.send("bye")

    server, listener = await start_in_memory(nursery, handler)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        assert await ws.receive() == "bye"
        exc = await closing_of(ws)
    assert isinstance(exc, ConnectionClosedOK)
    assert exc.rcvd == trio_ws.Close(1000, "")
    await trio.testing.wait_all_tasks_blocked()
    assert server.connections == frozenset()
    assert caplog.records == []


async def fail(ws: trio_ws.WebSocket) -> None:
    raise ValueError("mine")


async def fail_in_nursery(ws: trio_ws.WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, ws)
        nursery.start_soon(ws.receive)


async def fail_in_nurseries(ws: trio_ws.WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_in_nursery, ws)
        nursery.start_soon(fail, ws)


def not_async(ws: trio_ws.WebSocket) -> Any:
    return None


@pytest.mark.parametrize(
    "bad, kind",
    [
        (fail, ValueError),
        (fail_in_nursery, ExceptionGroup),
        (fail_in_nurseries, ExceptionGroup),
        (not_async, TypeError),
    ],
)
async def test_handler_that_raises(
    bad: trio_ws.Handler, kind: type[Exception], caplog: Logs, nursery: trio.Nursery, nothing_left: Callable[[], None]
) -> None:
    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await (bad if ws.request.path == "/bad" else echo)(ws)

    async with trio.open_nursery() as servers:
        server = await start_tcp(servers, handler)
        async with trio_ws.connect(url(server)) as other:
            async with trio_ws.connect(url(server) + "bad") as ws:
                exc = await closing_of(ws)
            assert exc.rcvd == trio_ws.Close(1011, "")
            assert isinstance(exc, ConnectionClosedError)
            # The other connections continue, and new ones are accepted.
            await other.send("hello")
            assert await other.receive() == "hello"
            async with trio_ws.connect(url(server)) as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
        await server.aclose()
    (failure,) = failures(caplog)
    assert type(failure) is kind
    assert "handler" in caplog.text
    nothing_left()


async def test_handler_of_serve_over_that_raises(
    caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    async with trio_ws.connect_over(start_over(nursery, fail), "ws://any/") as ws:
        exc = await closing_of(ws)
    assert exc.code == 1011
    (failure,) = failures(caplog)
    assert isinstance(failure, ValueError)
    assert failure.__context__ is None


class Interrupt(BaseException):
    pass


async def test_handler_that_raises_a_base_exception(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    """The exception propagates out of the server, as everywhere in Trio. The peer gets a Close frame."""

    async def handler(ws: trio_ws.WebSocket) -> None:
        raise Interrupt

    closings: list[ConnectionClosed] = []
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            _, listener = await start_in_memory(nursery, handler)
            with trio.CancelScope(shield=True):
                async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
                    closings.append(await closing_of(ws))
    assert caught.value.subgroup(Interrupt) is not None
    assert caught.value.split(Interrupt)[1] is None
    assert [exc.code for exc in closings] == [1011]
    assert failures(caplog) == []


class ExceptionsInBaseGroup(BaseExceptionGroup[BaseException]):
    """A BaseExceptionGroup that contains only ``Exception``s and is not an ExceptionGroup."""

    def derive(self, excs: Any) -> Any:
        return ExceptionsInBaseGroup(self.message, excs)


@pytest.mark.parametrize(
    "group, raised, logged",
    [
        (BaseExceptionGroup("", [Interrupt(), ValueError("mine")]), [Interrupt], [ValueError]),
        (BaseExceptionGroup("", [Interrupt(), Interrupt()]), [Interrupt, Interrupt], None),
        (ExceptionsInBaseGroup("", [ValueError("mine")]), None, [ValueError]),
    ],
)
async def test_handler_that_raises_a_group(
    group: BaseExceptionGroup[Any],
    raised: list[type[BaseException]] | None,
    logged: list[type[BaseException]] | None,
    caplog: Logs,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(ws: trio_ws.WebSocket) -> None:
        raise group

    client, server = trio.testing.memory_stream_pair()
    await client.send_all(request() + CLOSE_1000)
    caught: BaseException | None = None
    try:
        await trio_ws.serve_over(server, handler)
    except BaseExceptionGroup as exc:
        caught = exc
    for found, kinds in ((caught, raised), (next(iter(failures(caplog)), None), logged)):
        assert (found is None) is (kinds is None)
        if isinstance(found, BaseExceptionGroup):
            assert [type(each) for each in found.exceptions] == kinds


async def test_handler_that_fails_when_it_is_cancelled(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    """In a group of Cancelled and ValueError, Cancelled propagates and ValueError is logged."""

    async def clean_up() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("mine")

    groups: list[BaseException] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(clean_up)
                nursery.start_soon(trio.sleep_forever)
        except BaseException as exc:
            groups.append(exc)
            raise

    async with trio.open_nursery() as nursery:
        _, listener = await start_in_memory(nursery, handler)
        client = listener.connect()
        await client.send_all(request())
        await read_response(client)
        nursery.cancel_scope.cancel()
    assert isinstance(groups[0], BaseExceptionGroup)
    assert groups[0].subgroup(trio.Cancelled) is not None
    (failure,) = failures(caplog)
    assert isinstance(failure, ExceptionGroup)
    assert [type(exc) for exc in failure.exceptions] == [ValueError]
    assert await read_to_end(client) == b"\x88\x02\x03\xe9"


async def receive(ws: trio_ws.WebSocket) -> None:
    while True:
        await ws.receive()


async def receive_in_nursery(ws: trio_ws.WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, ws)
        async with trio.open_nursery() as inner:
            inner.start_soon(receive, ws)


async def send(ws: trio_ws.WebSocket) -> None:
    while True:
        await ws.send("hello")


@pytest.mark.parametrize("handler", [echo, receive, receive_in_nursery, send])
@pytest.mark.parametrize("how", ["FIN", "RST", "Close"])
async def test_client_that_leaves(
    how: str, handler: trio_ws.Handler, caplog: Logs, nothing_left: Callable[[], None]
) -> None:
    """Other connections are not affected, and it does not count as a failure of the handler."""
    caplog.set_level(logging.INFO)
    over = trio.Event()

    async def watch(ws: trio_ws.ServerWebSocket) -> None:
        if ws.request.path == "/stay":
            await echo(ws)
        else:
            try:
                await handler(ws)
            finally:
                over.set()

    async with trio.open_nursery() as nursery:
        server = await start_tcp(nursery, watch)
        async with trio_ws.connect(url(server) + "stay") as other:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(request())
            await read_response(stream)
            if how == "RST":
                reset(stream)
            elif how == "FIN":
                await stream.aclose()
            else:
                await stream.send_all(CLOSE_1000)
                await read_to_end(stream)
                await stream.aclose()
            await over.wait()
            await other.send("hello")
            assert await other.receive() == "hello"
        await server.aclose()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    nothing_left()


async def test_tls_stream_that_ends_without_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, nursery: trio.Nursery
) -> None:
    """Many clients do not send close_notify. Without a Close frame before it, something may have been cut off."""
    ends: list[ConnectionClosed] = []
    over = trio.Event()

    async def handler(ws: trio_ws.WebSocket) -> None:
        ends.append(await closing_of(ws))
        over.set()

    server = await start_tcp(nursery, handler, ssl=server_context)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    tls = trio.SSLStream(stream, client_context, server_hostname="localhost")
    await tls.send_all(request())
    await read_response(tls)
    await stream.aclose()
    await over.wait()
    assert ends[0].code == 1006
    assert "close_notify" in str(ends[0].__cause__)


async def test_handler_whose_upstream_connection_is_closed(
    caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """An unhandled ConnectionClosed from another connection is a failure of the handler."""

    async def handler(ws: trio_ws.WebSocket) -> None:
        async with trio_ws.connect_over(start_over(nursery, fail), "ws://upstream/") as upstream:
            await ws.send(await upstream.receive())

    async with trio_ws.connect_over(start_over(nursery, handler), "ws://any/") as ws:
        exc = await closing_of(ws)
    assert exc.code == 1011
    upstream, ours = failures(caplog)
    assert isinstance(upstream, ValueError)
    assert isinstance(ours, ConnectionClosedError)
    assert ours.code == 1011


async def test_handler_that_fails_after_its_client_left(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    async def handler(ws: trio_ws.WebSocket) -> None:
        await closing_of(ws)
        raise ValueError("mine")

    client, server = trio.testing.memory_stream_pair()
    await client.send_all(request() + CLOSE_1000)
    await trio_ws.serve_over(server, handler)
    (failure,) = failures(caplog)
    assert isinstance(failure, ValueError)


async def test_handler_that_closes(caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.aclose(4000, "enough")

    async with trio_ws.connect_over(start_over(nursery, handler), "ws://any/") as ws:
        exc = await closing_of(ws)
    assert exc.rcvd == trio_ws.Close(4000, "enough")
    assert caplog.records == []
