"""Serving connections: where it listens, bad requests, handlers that fail, the ways to end, and what is left behind.

Logic and timeouts are tested over memory streams and on a virtual clock, sockets and TLS over loopback.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

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
    ConnectionClosedError,
    ConnectionClosedOK,
)
from trio_ws.http11 import Response, ResponseParser
from trio_ws.http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS
from trio_ws.server.accept import ACCEPT_DELAY

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # the example of RFC 6455, section 1.3
MASK = b"\0\0\0\0"
TEXT_HI = b"\x81\x82" + MASK + b"hi"
CLOSE_1000 = b"\x88\x82" + MASK + b"\x03\xe8"

Stream = trio.abc.Stream
Logs = pytest.LogCaptureFixture


@pytest.fixture(autouse=True)
async def watchdog() -> AsyncIterator[None]:
    """Fails a test that hangs: with a virtual clock at once, because then there is nothing else to wait for."""
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)

    async def bark() -> None:
        await trio.sleep(1_000_000 if virtual else 60)
        pytest.fail("the test hangs")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bark)
        yield
        nursery.cancel_scope.cancel()


# -- Scripted clients ----------------------------------------------------------------------------------------------


HEADERS = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(*more: str, line: str = "GET / HTTP/1.1", **changes: str | None) -> bytes:
    """A request that is right but for the changes, whose names have underscores: ``Host=None`` leaves it out."""
    headers = {**HEADERS, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([line, *lines, *more, "", ""]).encode("iso-8859-1")


async def read_response(stream: Stream) -> tuple[Response, bytes]:
    """Return the response and what came in behind it."""
    parser = ResponseParser()
    response = None
    while response is None:
        response = parser.feed(bytes(await stream.receive_some()))
    return response, parser.unused


async def read_to_end(stream: Stream) -> bytes:
    data = b""
    while portion := await stream.receive_some():
        data += portion
    return data


async def in_one_piece(stream: Stream, data: bytes) -> None:
    await stream.send_all(data)


async def in_bytes(stream: Stream, data: bytes) -> None:
    portion = 1 + len(data) // 4096  # of what is very long, more
    for i in range(0, len(data), portion):
        await stream.send_all(data[i : i + portion])


Send = Callable[[Stream, bytes], Awaitable[None]]


def start_over(nursery: trio.Nursery, handler: trio_ws.Handler, **options: Any) -> Stream:
    """Let ``serve_over`` serve one end of a stream, and return the other."""
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(partial(trio_ws.serve_over, server, handler, **options))
    return client


# -- Handlers ------------------------------------------------------------------------------------------------------


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def ignore(ws: trio_ws.WebSocket) -> None:
    await trio.sleep_forever()


async def never(ws: trio_ws.WebSocket) -> None:
    pytest.fail("there was nothing to handle")


def failures(caplog: Logs) -> list[BaseException]:
    """The exceptions that were logged as failures of handlers, with their tracebacks."""
    found = []
    for record in caplog.records:
        if record.levelno >= logging.ERROR:
            assert record.name == "trio_ws.server"
            assert record.exc_info is not None
            exc = record.exc_info[1]
            assert exc is not None
            assert exc.__traceback__ is not None
            found.append(exc)
    return found


async def closing_of(ws: trio_ws.WebSocket) -> ConnectionClosed:
    """Return the exception that tells how a connection ends, when no message comes before that."""
    with pytest.raises(ConnectionClosed) as caught:
        pytest.fail(f"received {await ws.receive()!r}")
    return caught.value


# -- Where it listens ----------------------------------------------------------------------------------------------


class MemoryListener(trio.abc.Listener[Stream]):
    """A listener in memory, for the virtual clock."""

    def __init__(self, wrap: Callable[[Stream], Stream] = lambda stream: stream) -> None:
        self._sender, self._receiver = trio.open_memory_channel[Stream](100)
        self._wrap = wrap
        self.closed = False

    def connect(self) -> Stream:
        """Return the client's end of a new connection."""
        client, server = trio.testing.memory_stream_pair()
        self._sender.send_nowait(self._wrap(server))
        return client

    async def accept(self) -> Stream:
        return await self._receiver.receive()

    async def aclose(self) -> None:
        self.closed = True
        self._receiver.close()
        self._sender.close()
        await trio.lowlevel.checkpoint()


class Wrapped(trio.abc.Stream):
    """Another stream, for tests to change one thing about it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def start(nursery: trio.Nursery, handler: trio_ws.Handler, **options: Any) -> trio_ws.Server:
    server = await nursery.start(partial(trio_ws.serve, handler, **options))
    assert isinstance(server, trio_ws.Server)
    return server


async def start_tcp(nursery: trio.Nursery, handler: trio_ws.Handler = echo, **options: Any) -> trio_ws.Server:
    return await start(nursery, handler, port=0, host="127.0.0.1", **options)


async def start_in_memory(
    nursery: trio.Nursery, handler: trio_ws.Handler, **options: Any
) -> tuple[trio_ws.Server, MemoryListener]:
    listener = MemoryListener()
    return await start(nursery, handler, listeners=[listener], **options), listener


def url(server: trio_ws.Server) -> str:
    return f"ws://127.0.0.1:{server.port}/"


@pytest.fixture
async def nothing_left(watchdog: None) -> Callable[[], None]:
    """A function that checks that every task has ended and every file descriptor was closed since the test began."""

    def count() -> tuple[int, int]:
        gc.collect()
        try:
            return len(os.listdir("/proc/self/fd")), trio.lowlevel.current_statistics().tasks_living
        except FileNotFoundError:
            pytest.skip("this system does not tell which file descriptors are open")

    before = count()

    def check() -> None:
        assert count() == before

    return check


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def reset(stream: trio.SocketStream) -> None:
    """Close a socket with a RST instead of a FIN."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def test_serve(nursery: trio.Nursery) -> None:
    server = await start(nursery, echo, port=0, host="127.0.0.1")
    assert server.addresses == [("127.0.0.1", server.port)]
    assert server.port > 0
    assert repr(server) == f"<Server on [('127.0.0.1', {server.port})] with 0 connections>"
    async with trio_ws.connect(url(server)) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        assert [each.remote_address for each in server.connections] == [ws.local_address]
        assert repr(server).endswith(" with 1 connections>")
        async with trio_ws.connect(url(server)) as other:
            await other.send("hello")
            assert await other.receive() == "hello"
            assert len(server.connections) == 2
            before = server.connections
    await server.aclose()
    # What it returned stays as it was, and is not its own.
    assert len(before) == 2
    assert server.connections == frozenset()
    server.addresses.clear()
    assert len(server.addresses) == 1


async def test_serve_without_start() -> None:
    """As a plain call, with the port as the second argument."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve, echo, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


async def test_several_listeners(nursery: trio.Nursery) -> None:
    listeners: list[trio.abc.Listener[Any]] = [MemoryListener()]
    listeners += await trio.open_tcp_listeners(0, host="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listeners += await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    server = await start(nursery, echo, listeners=listeners)
    first, second, third = server.addresses
    assert first is None
    assert second == ("127.0.0.1", server.port)
    assert third[0] == "127.0.0.1"
    assert third[1] != server.port
    assert isinstance(listeners[0], MemoryListener)
    async with trio_ws.connect(url(server)), trio_ws.connect_over(listeners[0].connect(), "ws://any/"):
        assert len(server.connections) == 2
    await server.aclose()
    assert listeners[0].closed


async def test_no_tcp_port(nursery: trio.Nursery) -> None:
    server, _ = await start_in_memory(nursery, echo)
    assert server.addresses == [None]
    with pytest.raises(AttributeError):
        server.port  # noqa: B018


async def test_tls(nursery: trio.Nursery, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    server = await start_tcp(nursery, ssl=server_context)
    async with trio_ws.connect(f"wss://127.0.0.1:{server.port}", ssl=client_context) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        (ours,) = server.connections
        assert (ours.local_address, ours.remote_address) == (ws.remote_address, ws.local_address)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets on this system")
class TestUnixSocket:
    @pytest.mark.parametrize("convert", [str, Path])
    async def test_it_is_there_while_it_serves(self, convert: Callable[[Path], Any], tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            server = await start(nursery, echo, path=convert(path))
            assert server.addresses == [str(path)]
            with pytest.raises(AttributeError):
                server.port  # noqa: B018
            stream = await trio.open_unix_socket(path)
            async with trio_ws.connect_over(stream, "ws://any/") as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
            await server.aclose()
            assert not path.exists()

    async def test_cancelled(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            await start(nursery, echo, path=path, backlog=1)
            assert path.exists()
            nursery.cancel_scope.cancel()
        assert not path.exists()

    async def test_in_use(self, tmp_path: Path, nothing_left: Callable[[], None]) -> None:
        path = tmp_path / "socket"
        path.write_text("mine")
        with pytest.raises(OSError) as caught:
            await trio_ws.serve(echo, path=path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.read_text() == "mine"
        nothing_left()

    async def test_not_in_the_file_system(self, nothing_left: Callable[[], None]) -> None:
        with pytest.raises(ValueError):
            await trio_ws.serve(echo, path=f"\0trio_ws {os.getpid()}")
        nothing_left()

    async def test_removed_meanwhile(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            await start(nursery, echo, path=path)
            path.unlink()
            nursery.cancel_scope.cancel()

    async def test_taken_over_meanwhile(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            old = await start(nursery, echo, path=path)
            # Not removed but moved, so that the new one is not the same file again by chance.
            path.rename(tmp_path / "old")
            new = await start(nursery, echo, path=path)
            await old.aclose()
            assert path.exists()
            await new.aclose()
            assert not path.exists()


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({}, TypeError),
        ({"port": 0, "path": "socket"}, TypeError),
        ({"port": 0, "listeners": [MemoryListener()]}, TypeError),
        ({"path": "socket", "listeners": [MemoryListener()]}, TypeError),
        ({"path": "socket", "host": "127.0.0.1"}, TypeError),
        ({"host": "127.0.0.1"}, TypeError),
        ({"listeners": []}, ValueError),
        ({"port": 0, "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, ValueError),
        ({"port": 0, "nonsense": 1}, TypeError),
        ({"port": 0, "max_message_size": -1}, ValueError),
        ({"port": 0, "subprotocols": "chat"}, TypeError),
        ({"port": 0, "host": "203.0.113.1"}, OSError),
    ],
)
async def test_arguments(arguments: dict[str, Any], error: type[Exception], nothing_left: Callable[[], None]) -> None:
    with pytest.raises(error):
        await trio_ws.serve(never, **arguments)
    nothing_left()


@pytest.mark.parametrize("options, error", [({"nonsense": 1}, TypeError), ({"open_timeout": -1}, ValueError)])
async def test_arguments_of_serve_over(options: dict[str, Any], error: type[Exception]) -> None:
    _, stream = trio.testing.memory_stream_pair()
    with pytest.raises(error):
        await trio_ws.serve_over(stream, never, **options)


async def test_port_in_use(nursery: trio.Nursery) -> None:
    server = await start_tcp(nursery)
    with pytest.raises(OSError) as caught:
        await trio_ws.serve(never, server.port, host="127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE


# -- The opening handshake -----------------------------------------------------------------------------------------


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
async def test_requests_in_other_words(
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
async def test_frames_right_behind_the_request(
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
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
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
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # closed: by this test
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
    # The end of the stream comes with the answer, and then the client has a moment to close its side.
    assert trio.current_time() == begin
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == begin
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "opening handshake" in caplog.records[0].getMessage()


@pytest.mark.parametrize("tls", [False, True])
async def test_answer_to_a_client_that_is_still_writing(
    tls: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    """A socket that is closed with unread bytes in it is reset, and that may destroy the answer on its way."""
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
    # ... but not for ever.
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
    """The time is for all of the handshake, not for each byte."""
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
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert f"{seconds:g} seconds" in record.getMessage()


async def test_no_open_timeout(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    client = start_over(nursery, echo, open_timeout=None)
    await trio.sleep(10_000)
    await client.send_all(request())
    response, _ = await read_response(client)
    assert response.status_code == 101
    await client.aclose()


async def test_client_that_does_not_read_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.lockstep_stream_pair()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, server, never)
        await client.send_all(request())
    assert trio.current_time() - begin == 10


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the buffers of other sockets grow")
@pytest.mark.parametrize("change, status_code", [("websocket", 101), ("h2c", 426)])
async def test_answer_when_the_socket_takes_no_more(change: str, status_code: int, nursery: trio.Nursery) -> None:
    """What cannot be written at once is written when there is room."""
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
    """The time for opening includes TLS."""
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
async def test_client_that_is_gone_before_the_answer(
    data: bytes, caplog: Logs, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO)
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(data)
    await trio_ws.serve_over(Broken(server), never)
    assert await read_to_end(client) == b""
    assert {record.levelno for record in caplog.records} == {logging.INFO}


async def test_stream_that_cannot_be_closed(autojump_clock: trio.testing.MockClock) -> None:
    """What a stream raises when a handshake has failed does not end the server."""

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
async def test_clients_that_do_not_get_far(
    tls: bool, how: str, server_context: ssl.SSLContext, caplog: Logs, nothing_left: Callable[[], None]
) -> None:
    """What is left of them: nothing, also in the log of errors."""
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


# -- Handlers ------------------------------------------------------------------------------------------------------


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
            # The others live on, and there may be new ones.
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


async def test_handler_that_raises_what_is_no_exception(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    """That is for whoever runs the server, as it is everywhere in Trio. The peer is told."""

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


class Odd(BaseExceptionGroup[BaseException]):
    """A group that has only exceptions in it, and is none."""

    def derive(self, excs: Any) -> Any:
        return Odd(self.message, excs)


@pytest.mark.parametrize(
    "group, raised, logged",
    [
        (BaseExceptionGroup("", [Interrupt(), ValueError("mine")]), [Interrupt], [ValueError]),
        (BaseExceptionGroup("", [Interrupt(), Interrupt()]), [Interrupt, Interrupt], None),
        (Odd("", [ValueError("mine")]), None, [ValueError]),
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
    """A group of Cancelled and ValueError: the one goes on, the other is logged."""

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


async def ping(ws: trio_ws.WebSocket) -> None:
    await ws.ping()
    await trio.sleep_forever()


@pytest.mark.parametrize("handler", [echo, receive, receive_in_nursery, send])
@pytest.mark.parametrize("how", ["FIN", "RST", "Close"])
async def test_client_that_goes_away(
    how: str, handler: trio_ws.Handler, caplog: Logs, nothing_left: Callable[[], None]
) -> None:
    """It does not disturb the others, and it is no failure of the handler."""
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


async def test_end_of_stream_without_the_goodbye_of_tls(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, nursery: trio.Nursery
) -> None:
    """Many clients end that way. It is the end, and no error of the stream."""
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
    assert ends[0].__cause__ is None


async def test_handler_whose_other_connection_goes_away(
    caplog: Logs, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A handler that connects to somewhere else, and does not handle that this fails, has failed."""

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


async def test_handler_that_fails_after_its_client_is_gone(
    caplog: Logs, autojump_clock: trio.testing.MockClock
) -> None:
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


# -- The end of a server -------------------------------------------------------------------------------------------


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
    await server.aclose()  # does nothing any more, and does not wait


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
async def test_handlers_that_loop_end_quietly(
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


async def test_close_delivers_what_was_sent_before(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Of both sides."""
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
    """What the client had sent before it answers does not keep the server from seeing the answer."""
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
    """It ignores the Close frame and goes on sending. The handler reads all of it."""
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
async def test_grace_that_is_none(grace: float, nursery: trio.Nursery) -> None:
    server = await start_tcp(nursery)
    with pytest.raises(ValueError, match="grace"):
        await server.aclose(grace=grace)
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
        stream = connection_of(ws).stream._stream
        assert isinstance(stream, trio.SSLStream)
        return stream.getpeercert()["serialNumber"]

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
    """When the answer is written already, the connection is open, though nobody knows of it yet."""

    class Slow(Wrapped):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await super().send_all(data)
            written.set()
            # As sockets do: what has been written cannot be cancelled.
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
    """It does not wait then; the server goes on closing."""
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
async def test_close_with_what_cannot_be_sent(
    code: int, reason: str, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Nothing happens."""
    server, listener = await start_in_memory(nursery, echo)
    with pytest.raises(ValueError):
        await server.aclose(code, reason)
    async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_close_by_a_handler(caplog: Logs, autojump_clock: trio.testing.MockClock) -> None:
    """The handler waits for itself, until it is cancelled."""

    async def handler(ws: trio_ws.WebSocket) -> None:
        await server.aclose()

    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, handler, close_timeout=3)
        begin = trio.current_time()
        async with trio_ws.connect_over(listener.connect(), "ws://any/") as ws:
            assert (await closing_of(ws)).code == 1001
    assert trio.current_time() - begin == 3 + GRACE
    assert caplog.records == []


async def test_close_while_a_handler_has_just_returned(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """Its connection is in the closing handshake already, with a client that does not answer."""

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


async def test_cancelled_while_it_closes(autojump_clock: trio.testing.MockClock) -> None:
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
    """Then the server ends, and the clients are told."""

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
async def test_no_more_connections_for_a_while(
    number: int, caplog: Logs, autojump_clock: trio.testing.MockClock
) -> None:
    """What the system cannot accept now it can perhaps accept later."""

    class Overloaded(MemoryListener):
        failures = 2

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
        assert trio.current_time() - begin == pytest.approx(2 * ACCEPT_DELAY)
        await server.aclose()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert os.strerror(number) in caplog.text
