"""Opening connections: what goes over the wire, every way in which it can fail, and what is left behind (nothing).

Logic and timeouts are tested over memory streams and on a virtual clock, sockets and TLS over loopback.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import errno
import gc
import gzip
import hashlib
import os
import re
import socket
import ssl
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws.client.connect import BODY_TIMEOUT
from trio_ws.datastructures import HeadersLike
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HeadTooBig,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    OpenTimeout,
    ProtocolError,
    TLSFailed,
    TooManyHeaders,
)
from trio_ws.http11 import Request, RequestParser
from trio_ws.http11.body import MAX_BODY_SIZE
from trio_ws.http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS, MAX_INTERIM_RESPONSES

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

URI = "ws://example.org/"
TEXT_HI = b"\x81\x02hi"
CLOSE_1000 = b"\x88\x02\x03\xe8"

Stream = trio.abc.Stream


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


# -- Scripted servers ----------------------------------------------------------------------------------------------


async def read_request(stream: Stream) -> Request:
    parser = RequestParser()
    request = None
    while request is None:
        request = parser.feed(bytes(await stream.receive_some()))
    assert parser.unused == b""
    return request


def accept_key(request: Request) -> str:
    digest = hashlib.sha1(request.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
    return base64.b64encode(digest.digest()).decode()


def switch(request: Request, *more: str, without: str | None = None) -> bytes:
    """The right answer to a request, as far as the test does not want it otherwise."""
    headers = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept_key(request)}"]
    lines = [line for line in headers if without is None or not line.startswith(f"{without}:")]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, *more, "", ""]).encode("iso-8859-1")


async def in_one_piece(stream: Stream, data: bytes) -> None:
    await stream.send_all(data)


async def in_bytes(stream: Stream, data: bytes) -> None:
    portion = 1 + len(data) // 4096  # of what is very long, more
    for i in range(0, len(data), portion):
        await stream.send_all(data[i : i + portion])


Answer = Callable[[Request], bytes]
Send = Callable[[Stream, bytes], Awaitable[None]]


@contextlib.asynccontextmanager
async def scripted_server(answer: Answer, send: Send = in_one_piece) -> AsyncIterator[tuple[Stream, Stream]]:
    """Yield both ends of a stream, the client's first; the server answers one request and then leaves it alone."""
    client, server = trio.testing.memory_stream_pair()

    async def run() -> None:
        request = await read_request(server)
        with contextlib.suppress(trio.BrokenResourceError):
            await send(server, answer(request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield client, server
        nursery.cancel_scope.cancel()


async def is_closed(peer: Stream) -> bool:
    """Whether the other end of a memory stream is closed, in both directions."""
    with trio.move_on_after(1):
        while await peer.receive_some():
            pass
        try:
            await peer.send_all(b"x")
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # closed: by ourselves
            return True
    return False


async def expect_failure(connecting: trio_ws.Connecting) -> BaseException:
    """Return what is raised on entering."""
    with pytest.raises(trio_ws.WebSocketException) as caught:
        async with connecting:
            pytest.fail("the connection was opened")
    return caught.value


async def failure_of(answer: Answer, send: Send = in_one_piece, **options: Any) -> BaseException:
    """Return what connect_over() raises when that is the answer; the stream is closed then."""
    async with scripted_server(answer, send) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(client, URI, **options))
        assert await is_closed(server)
    return exc


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


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


class Breaking(Wrapped):
    """A stream that is reset as soon as so many portions were received from it."""

    def __init__(self, stream: Stream, portions: int) -> None:
        super().__init__(stream)
        self.portions = portions

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.portions == 0:
            raise trio.BrokenResourceError from ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        self.portions -= 1
        return await super().receive_some(max_bytes)


# -- Sockets, TLS, and what they leave behind ----------------------------------------------------------------------


@pytest.fixture
async def nothing_left(watchdog: None) -> Callable[[], None]:
    """A function that checks that every file descriptor was closed that was opened since the beginning of the test."""

    def count() -> int:
        gc.collect()
        try:
            return len(os.listdir("/proc/self/fd"))
        except FileNotFoundError:
            pytest.skip("this system does not tell which file descriptors are open")

    before = count()

    def check() -> None:
        assert count() == before

    return check


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("localhost", "127.0.0.1")), **options).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def start_server(nursery: trio.Nursery, handler: trio_ws.Handler = echo, **options: Any) -> trio_ws.Server:
    server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1", **options))
    assert isinstance(server, trio_ws.Server)
    return server


async def start_tcp(nursery: trio.Nursery, talk: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    """Let a function talk to every client that connects; return the port."""

    async def serve_one(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await talk(stream)

    listeners = await nursery.start(partial(trio.serve_tcp, serve_one, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    assert isinstance(port, int)
    return port


def reset(stream: trio.SocketStream) -> None:
    """Close a socket with a RST instead of a FIN."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def connect_over(uri: str, **options: Any) -> trio_ws.Connecting:
    client, _ = trio.testing.memory_stream_pair()
    return trio_ws.connect_over(client, uri, **options)


# -- A connection that works ---------------------------------------------------------------------------------------


async def test_connect(nursery: trio.Nursery) -> None:
    seen: list[trio_ws.WebSocket] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.append(ws)
        await echo(ws)

    server = await start_server(nursery, handler)
    async with trio_ws.connect(f"ws://127.0.0.1:{server.port}/path?query=1") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        assert ws.remote_address == ("127.0.0.1", server.port)
        assert ws.local_address == seen[0].remote_address
        assert seen[0].local_address == ("127.0.0.1", server.port)
        assert ws.request == seen[0].request
        assert ws.request.path == "/path?query=1"
        assert ws.request.headers["Host"] == f"127.0.0.1:{server.port}"
        assert ws.response == seen[0].response
        assert ws.response.status_code == 101
        assert ws.subprotocol is None
    assert (ws.close_code, seen[0].close_code) == (1000, 1000)


async def test_connect_from_a_local_address(nursery: trio.Nursery) -> None:
    server = await start_server(nursery)
    async with trio_ws.connect(f"ws://localhost:{server.port}", local_address="127.0.0.1") as ws:
        assert ws.local_address[0] == "127.0.0.1"
    exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{server.port}", local_address="203.0.113.1"))
    assert isinstance(exc, ConnectFailed)
    assert "203.0.113.1" in exc.reason


async def test_connect_over(nursery: trio.Nursery) -> None:
    seen: list[trio_ws.WebSocket] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.append(ws)
        await echo(ws)

    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(trio_ws.serve_over, server, handler)
    async with trio_ws.connect_over(client, "wss://any.example/chat?x") as ws:
        await ws.send(b"\x00")
        assert await ws.receive() == b"\x00"
        assert (ws.local_address, ws.remote_address) == (None, None)
        assert ws.request == seen[0].request
        assert ws.request.path == "/chat?x"
        assert ws.request.headers["Host"] == "any.example"
        assert ws.response == seen[0].response


@pytest.mark.parametrize("uri", ["ws://[::1]:8080/", "ws://[2001:db8::1]"])
async def test_ipv6_host_header(uri: str) -> None:
    requests: list[Request] = []

    def answer(request: Request) -> bytes:
        requests.append(request)
        return b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n"

    async with scripted_server(answer) as (client, _):
        await expect_failure(trio_ws.connect_over(client, uri))
    assert requests[0].headers["Host"] == uri[5:].rstrip("/")


async def requested(uri: str = URI, **options: Any) -> Request:
    """Return the request that a server gets to see."""
    requests: list[Request] = []

    def answer(request: Request) -> bytes:
        requests.append(request)
        return switch(request) + CLOSE_1000

    async with scripted_server(answer) as (client, _):
        async with trio_ws.connect_over(client, uri, **options) as ws:
            assert ws.request == requests[0]
    return requests[0]


async def test_request(autojump_clock: trio.testing.MockClock) -> None:
    request = await requested("ws://example.org:81/a?b")
    assert request.path == "/a?b"
    key = request.headers["Sec-WebSocket-Key"]
    assert len(binascii.a2b_base64(key)) == 16
    assert list(request.headers.raw_items()) == [
        ("Host", "example.org:81"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("User-Agent", request.headers["User-Agent"]),
    ]
    assert request.headers["User-Agent"].startswith(f"trio_ws/{trio_ws.__version__} ")


async def test_the_key_is_another_one_each_time(autojump_clock: trio.testing.MockClock) -> None:
    keys = {(await requested()).headers["Sec-WebSocket-Key"] for _ in range(8)}
    assert len(keys) == 8


async def test_user_agent(autojump_clock: trio.testing.MockClock) -> None:
    assert (await requested(user_agent="me/1")).headers.get_all("User-Agent") == ["me/1"]
    assert "User-Agent" not in (await requested(user_agent=None)).headers


@pytest.mark.parametrize(
    "headers",
    [{"Cookie": "a=b", "X-Y": "é"}, [("Cookie", "a=b"), ("X-Y", "é")], trio_ws.Headers({"Cookie": "a=b", "X-Y": "é"})],
    ids=["mapping", "pairs", "Headers"],
)
async def test_headers(headers: HeadersLike, autojump_clock: trio.testing.MockClock) -> None:
    request = await requested(headers=headers)
    assert request.headers["cookie"] == "a=b"
    assert request.headers["x-y"] == "é"


async def test_headers_replace_ours(autojump_clock: trio.testing.MockClock) -> None:
    headers = {"host": "other.example", "authorization": "Bearer x", "user-agent": "me/2"}
    request = await requested("ws://user:pass@example.org/", headers=headers)
    assert request.headers.get_all("Host") == ["other.example"]
    assert request.headers.get_all("Authorization") == ["Bearer x"]
    assert request.headers.get_all("User-Agent") == ["me/2"]


async def test_credentials(autojump_clock: trio.testing.MockClock) -> None:
    request = await requested("ws://us%C3%A9r:p%3Aw@example.org/")
    scheme, _, credentials = request.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    assert binascii.a2b_base64(credentials).decode() == "usér:p:w"
    assert request.headers["Host"] == "example.org"


@pytest.mark.parametrize("connect", [trio_ws.connect, connect_over])
@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"},
        {"X\r\nY": "b"},
        {"X": "\0"},
        {"Sec-WebSocket-Key": "x"},
        {"upgrade": "h2c"},
        {"Connection": "close"},
    ],
    ids=["newline", "name", "NUL", "key", "upgrade", "connection"],
)
async def test_headers_that_are_not_sent(connect: Callable[..., Any], headers: HeadersLike) -> None:
    with pytest.raises(InvalidHeader):
        connect(URI, headers=headers)


@pytest.mark.parametrize("connect", [trio_ws.connect, connect_over])
@pytest.mark.parametrize(
    "uri, options, error",
    [
        ("http://example.org/", {}, InvalidURI),
        ("ws://user@example.org/", {}, InvalidURI),
        (b"ws://example.org/", {}, InvalidURI),
        (URI, {"open_timeout": -1}, ValueError),
        (URI, {"open_timeout": "1"}, TypeError),
        (URI, {"close_timeout": None}, TypeError),
        (URI, {"subprotocols": "chat"}, TypeError),
        (URI, {"subprotocols": ["a b"]}, ValueError),
        (URI, {"nonsense": 1}, TypeError),
        (URI, {"user_agent": "a\nb"}, InvalidHeader),
    ],
)
async def test_arguments(
    connect: Callable[..., Any], uri: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        connect(uri, **options)


async def test_ssl_is_for_wss() -> None:
    with pytest.raises(ValueError, match="wss"):
        trio_ws.connect(URI, ssl=ssl.create_default_context())


@pytest.mark.parametrize("server_hostname", ["", ".example.org"])
async def test_server_hostname_that_is_none(server_hostname: str) -> None:
    # Before there is a socket that would be left open.
    with pytest.raises(ValueError):
        trio_ws.connect("wss://example.org/", server_hostname=server_hostname)


async def test_ssl_context_for_servers() -> None:
    with pytest.raises(ValueError, match="client"):
        trio_ws.connect("wss://example.org/", ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


async def test_a_connection_is_entered_once(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_server(lambda request: switch(request) + CLOSE_1000) as (client, _):
        connecting = trio_ws.connect_over(client, URI)
        async with connecting:
            with pytest.raises(RuntimeError):
                await connecting.__aenter__()
        with pytest.raises(RuntimeError):
            await connecting.__aenter__()


async def test_a_connection_is_left_after_it_is_entered() -> None:
    client, _ = trio.testing.memory_stream_pair()
    connecting = trio_ws.connect_over(client, URI)
    with pytest.raises(RuntimeError):
        await connecting.__aexit__(None, None, None)


# -- Subprotocols --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offered, supported, agreed",
    [
        ([], [], None),
        (["a"], [], None),
        ([], ["a"], None),
        (["a"], ["b"], None),
        (["a", "b"], ["b", "a"], "b"),
        (["b", "a"], ["c", "a"], "a"),
    ],
)
async def test_subprotocols(
    offered: list[str],
    supported: list[str],
    agreed: str | None,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    seen: list[str | None] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.append(ws.subprotocol)

    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(partial(trio_ws.serve_over, server, handler, subprotocols=supported))
    async with trio_ws.connect_over(client, URI, subprotocols=offered) as ws:
        assert ws.subprotocol == agreed
        assert ws.request.headers.get("Sec-WebSocket-Protocol") == (", ".join(offered) or None)
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()
    assert seen == [agreed]


# -- Answers that are right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", [in_one_piece, in_bytes])
@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * MAX_INTERIM_RESPONSES])
async def test_frames_right_behind_the_answer(
    send: Send, interim: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    frames = TEXT_HI + b"\x82\x01\x00" + b"\x88\x05\x03\xe8bye"
    async with scripted_server(lambda request: interim + switch(request) + frames, send) as (client, server):
        async with trio_ws.connect_over(client, URI) as ws:
            assert await ws.receive() == "hi"
            assert await ws.receive() == b"\x00"
            with pytest.raises(ConnectionClosedOK) as caught:
                await ws.receive()
            assert caught.value.rcvd == trio_ws.Close(1000, "bye")
            await server.aclose()


async def test_a_violation_right_behind_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_server(lambda request: switch(request) + TEXT_HI + b"\x83\x00") as (client, server):
        async with trio_ws.connect_over(client, URI) as ws:
            assert await ws.receive() == "hi"
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.receive()
            assert isinstance(caught.value.__cause__, ProtocolError)
            assert caught.value.sent is not None
            assert caught.value.sent.code == 1002
            await server.aclose()


async def test_the_end_right_behind_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    async def answer_and_hang_up(stream: Stream, data: bytes) -> None:
        await stream.send_all(data)
        await stream.aclose()

    async with scripted_server(lambda request: switch(request) + TEXT_HI, answer_and_hang_up) as (client, _):
        async with trio_ws.connect_over(client, URI) as ws:
            assert await ws.receive() == "hi"
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.receive()
            assert caught.value.code == 1006


@pytest.mark.parametrize(
    "upgrade, connection", [("WebSocket", "upgrade"), ("websocket", "keep-alive, UPGRADE"), (" websocket ", "Upgrade,")]
)
async def test_answers_in_other_words(upgrade: str, connection: str, autojump_clock: trio.testing.MockClock) -> None:
    def answer(request: Request) -> bytes:
        lines = [
            "HTTP/1.1 101 ",
            f"upgrade:{upgrade}",
            f"CONNECTION: {connection}",
            f"sec-websocket-accept:\t{accept_key(request)} ",
            "X-Other: 1",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + CLOSE_1000

    async with scripted_server(answer) as (client, _):
        async with trio_ws.connect_over(client, URI) as ws:
            assert ws.response.reason_phrase == ""
            assert ws.response.headers["X-Other"] == "1"


# -- Answers that are wrong ----------------------------------------------------------------------------------------


def with_accept(change: Callable[[str], str]) -> Answer:
    return lambda request: switch(
        request, f"Sec-WebSocket-Accept: {change(accept_key(request))}", without="Sec-WebSocket-Accept"
    )


WRONG_ANSWERS: dict[str, tuple[Answer, type[InvalidHandshake], dict[str, Any]]] = {
    "no accept": (
        partial(switch, without="Sec-WebSocket-Accept"),
        InvalidHeader,
        {"name": "Sec-WebSocket-Accept", "value": None},
    ),
    "accept of another key": (
        with_accept(lambda key: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        InvalidHeader,
        {"name": "Sec-WebSocket-Accept", "value": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
    ),
    "accept in another case": (with_accept(str.swapcase), InvalidHeader, {"name": "Sec-WebSocket-Accept"}),
    "empty accept": (with_accept(lambda key: ""), InvalidHeader, {"name": "Sec-WebSocket-Accept", "value": ""}),
    "two accepts": (
        lambda request: switch(request, f"Sec-WebSocket-Accept: {accept_key(request)}"),
        InvalidHeader,
        {"name": "Sec-WebSocket-Accept"},
    ),
    "no upgrade": (partial(switch, without="Upgrade"), InvalidUpgrade, {"name": "Upgrade", "value": None}),
    "other upgrade": (
        lambda request: switch(request, "Upgrade: h2c", without="Upgrade"),
        InvalidUpgrade,
        {"name": "Upgrade", "value": "h2c"},
    ),
    "two upgrades": (
        lambda request: switch(request, "Upgrade: h2c, websocket", without="Upgrade"),
        InvalidUpgrade,
        {"name": "Upgrade", "value": "h2c, websocket"},
    ),
    "no connection": (partial(switch, without="Connection"), InvalidUpgrade, {"name": "Connection", "value": None}),
    "other connection": (
        lambda request: switch(request, "Connection: notupgrade", without="Connection"),
        InvalidUpgrade,
        {"name": "Connection", "value": "notupgrade"},
    ),
    "subprotocol not offered": (
        lambda request: switch(request, "Sec-WebSocket-Protocol: chat"),
        NegotiationError,
        {},
    ),
    "subprotocol in another case": (lambda request: switch(request, "Sec-WebSocket-Protocol: A"), NegotiationError, {}),
    "two subprotocols": (
        lambda request: switch(request, "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b"),
        InvalidHeader,
        {"name": "Sec-WebSocket-Protocol", "value": "a, b"},
    ),
    "no subprotocol": (
        lambda request: switch(request, "Sec-WebSocket-Protocol: "),
        InvalidHeader,
        {"name": "Sec-WebSocket-Protocol"},
    ),
    "extension not offered": (
        lambda request: switch(request, "Sec-WebSocket-Extensions: x-unheard-of; a=1"),
        NegotiationError,
        {},
    ),
    "malformed extension": (
        lambda request: switch(request, "Sec-WebSocket-Extensions: ;"),
        InvalidHeader,
        {"name": "Sec-WebSocket-Extensions"},
    ),
    "HTTP/1.0": (
        lambda request: switch(request).replace(b"HTTP/1.1", b"HTTP/1.0"),
        InvalidMessage,
        {},
    ),
    "HTTP/2.0": (lambda request: switch(request).replace(b"HTTP/1.1", b"HTTP/2.0"), InvalidMessage, {}),
    "a TLS alert": (lambda request: b"\x15\x03\x01\x00\x02\x02\x46", InvalidMessage, {}),
    "an SSH banner": (lambda request: b"SSH-2.0-OpenSSH_9.6\r\n\r\n", InvalidMessage, {}),
    "a status of two digits": (lambda request: b"HTTP/1.1 10 Hm\r\n\r\n", InvalidMessage, {}),
    "a control character": (lambda request: switch(request, "X: a\0b"), InvalidMessage, {}),
    "a large head": (
        lambda request: switch(request, "X: " + MAX_HEAD_SIZE * "x"),
        HeadTooBig,
        {"limit": MAX_HEAD_SIZE},
    ),
    "a head without end": (lambda request: b"HTTP/1.1 101 " + MAX_HEAD_SIZE * b"x", HeadTooBig, {}),
    "many headers": (
        lambda request: switch(request, *(MAX_HEADERS - 2) * ["X: x"]),
        TooManyHeaders,
        {"limit": MAX_HEADERS},
    ),
    "many interim responses": (
        lambda request: (MAX_INTERIM_RESPONSES + 1) * b"HTTP/1.1 100 Continue\r\n\r\n" + switch(request),
        InvalidMessage,
        {},
    ),
}


@pytest.mark.parametrize("send", [in_one_piece, in_bytes])
@pytest.mark.parametrize("name", WRONG_ANSWERS)
async def test_wrong_answers(name: str, send: Send, autojump_clock: trio.testing.MockClock) -> None:
    answer, kind, attributes = WRONG_ANSWERS[name]
    exc = await failure_of(answer, send, subprotocols=["a", "b"])
    assert type(exc) is kind
    assert isinstance(exc, InvalidHandshake)
    assert {attribute: getattr(exc, attribute) for attribute in attributes} == attributes


# -- Refusals ------------------------------------------------------------------------------------------------------


def refusal(*headers: str, body: bytes = b"", status: str = "403 Forbidden") -> Answer:
    return lambda request: "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


async def refused(answer: Answer, send: Send = in_one_piece, **options: Any) -> trio_ws.Response:
    """Return the response that InvalidStatus has. Reporting it takes no time, unless the body keeps us waiting."""
    start = trio.current_time()
    async with scripted_server(answer, send) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(client, URI, **options))
        assert trio.current_time() - start <= BODY_TIMEOUT <= 1
        assert await is_closed(server)
    assert type(exc) is InvalidStatus
    return exc.response


async def and_eof(stream: Stream, data: bytes) -> None:
    await stream.send_all(data)
    assert isinstance(stream, trio.abc.HalfCloseableStream)
    await stream.send_eof()


@pytest.mark.parametrize("send", [in_one_piece, in_bytes, and_eof])
@pytest.mark.parametrize(
    "headers, body",
    [
        (["Content-Length: 5"], b"hello"),
        (["Transfer-Encoding: chunked"], b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    ],
    ids=["Content-Length", "chunked"],
)
async def test_refusal(headers: list[str], body: bytes, send: Send, autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    answer = refusal(*headers, "WWW-Authenticate: Basic", body=body, status="401 Who are you?")
    response = await refused(answer, send)
    assert (response.status_code, response.reason_phrase) == (401, "Who are you?")
    assert response.headers["WWW-Authenticate"] == "Basic"
    assert response.body == b"hello"
    assert trio.current_time() == start


async def test_refusal_until_eof(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    response = await refused(refusal(body=b"hello"), and_eof)
    assert response.body == b"hello"
    assert trio.current_time() == start


@pytest.mark.parametrize(
    "status, body",
    [
        ("200 OK", b""),
        ("204 No Content", None),
        ("304 Not Modified", None),
        ("426 Upgrade Required", b""),
        ("599 ", b""),
    ],
)
async def test_refusal_without_body(status: str, body: bytes | None, autojump_clock: trio.testing.MockClock) -> None:
    response = await refused(refusal("Content-Length: 0", status=status))
    assert response.status_code == int(status[:3])
    assert response.body == body


async def test_redirect_is_a_refusal_where_there_is_one_stream(autojump_clock: trio.testing.MockClock) -> None:
    response = await refused(refusal("Location: ws://other.example/", "Content-Length: 0", status="301 Moved"))
    assert response.headers["Location"] == "ws://other.example/"


async def test_refusal_by_http_1_0(autojump_clock: trio.testing.MockClock) -> None:
    response = await refused(lambda request: b"HTTP/1.0 400 Bad Request\r\n\r\nbad", and_eof)
    assert (response.status_code, response.body) == (400, b"bad")


@pytest.mark.parametrize("options", [{}, {"open_timeout": None}, {"open_timeout": BODY_TIMEOUT / 2}])
@pytest.mark.parametrize(
    "headers, body",
    [([], b"he"), (["Content-Length: 5"], b"he"), (["Transfer-Encoding: chunked"], b"2\r\nhe\r\n3\r\n")],
    ids=["until EOF", "Content-Length", "chunked"],
)
async def test_refusal_whose_body_stalls(
    headers: list[str], body: bytes, options: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    response = await refused(refusal(*headers, body=body), **options)
    assert response.status_code == 403
    assert response.body == b"he"


async def test_refusal_late(autojump_clock: trio.testing.MockClock) -> None:
    """The server takes nearly all of the time that there is, and then its body stalls."""
    start = trio.current_time()

    async def after_a_while(stream: Stream, data: bytes) -> None:
        await trio.sleep(9.5)
        await stream.send_all(data)

    async with scripted_server(refusal("Content-Length: 5", body=b"he"), after_a_while) as (client, _):
        exc = await expect_failure(trio_ws.connect_over(client, URI, open_timeout=10))
    assert type(exc) is InvalidStatus
    assert exc.response.body == b"he"
    assert trio.current_time() - start == 10


async def test_refusal_whose_body_trickles(autojump_clock: trio.testing.MockClock) -> None:
    async def trickle(stream: Stream, data: bytes) -> None:
        await stream.send_all(data)
        while True:
            await trio.sleep(0.3)
            await stream.send_all(b"x")

    response = await refused(refusal(), trickle)
    assert response.body == b"xxx"


async def test_refusal_whose_body_does_not_end(autojump_clock: trio.testing.MockClock) -> None:
    async def flood(stream: Stream, data: bytes) -> None:
        await stream.send_all(data)
        while True:
            await stream.send_all(65536 * b"x")

    start = trio.current_time()
    response = await refused(refusal(), flood)
    assert response.body == MAX_BODY_SIZE * b"x"
    assert MAX_BODY_SIZE == 1024 * 1024
    assert trio.current_time() == start


@pytest.mark.parametrize("size", [MAX_BODY_SIZE - 1, MAX_BODY_SIZE, MAX_BODY_SIZE + 1])
async def test_refusal_with_a_large_body(size: int, autojump_clock: trio.testing.MockClock) -> None:
    response = await refused(refusal(f"Content-Length: {size}", body=size * b"x"))
    assert response.body == min(size, MAX_BODY_SIZE) * b"x"


@pytest.mark.parametrize(
    "headers, body",
    [(["Content-Length: 5"], b"he"), (["Transfer-Encoding: chunked"], b"2\r\nhe\r\n")],
    ids=["Content-Length", "chunked"],
)
async def test_refusal_whose_body_is_cut(
    headers: list[str], body: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    response = await refused(refusal(*headers, body=body), and_eof)
    assert response.body == b"he"
    assert trio.current_time() == start


async def test_refusal_whose_body_is_nonsense(autojump_clock: trio.testing.MockClock) -> None:
    response = await refused(refusal("Transfer-Encoding: chunked", body=b"2\r\nhe\r\nzz\r\n"))
    assert response.body == b"he"


async def test_refusal_whose_body_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_server(refusal("Content-Length: 5", body=b"he")) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(Breaking(client, 1), URI))
        assert await is_closed(server)
    assert isinstance(exc, InvalidStatus)
    assert exc.response.body == b"he"


# -- No answer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, seconds", [({}, 10), ({"open_timeout": 2.5}, 2.5), ({"open_timeout": 0}, 0)])
async def test_silent_server(options: dict[str, Any], seconds: float, autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    client, server = trio.testing.memory_stream_pair()
    exc = await expect_failure(trio_ws.connect_over(client, "ws://example.org:81/", **options))
    assert trio.current_time() - start == seconds
    assert isinstance(exc, OpenTimeout)
    assert isinstance(exc, trio.TooSlowError)
    assert isinstance(exc, TimeoutError)
    assert (exc.peer, exc.seconds) == ("example.org:81", seconds)
    assert exc.__cause__ is None
    assert await is_closed(server)


async def test_no_open_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async def slowly(stream: Stream, data: bytes) -> None:
        await trio.sleep(10_000)
        await stream.send_all(data)

    async with scripted_server(lambda request: switch(request) + CLOSE_1000, slowly) as (client, _):
        async with trio_ws.connect_over(client, URI, open_timeout=None):
            pass


async def test_server_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    client, server = trio.testing.lockstep_stream_pair()
    exc = await expect_failure(trio_ws.connect_over(client, URI))
    assert isinstance(exc, OpenTimeout)
    assert trio.current_time() - start == 10
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")


async def test_answer_that_trickles(autojump_clock: trio.testing.MockClock) -> None:
    """The time is for all of it, not for each byte."""

    async def trickle(stream: Stream, data: bytes) -> None:
        for i in range(len(data)):
            await trio.sleep(1)
            await stream.send_all(data[i : i + 1])

    start = trio.current_time()
    exc = await failure_of(switch, trickle)
    assert isinstance(exc, OpenTimeout)
    assert trio.current_time() - start == 10


@pytest.mark.parametrize(
    "answer, kind",
    [
        (lambda request: b"", ConnectFailed),
        (lambda request: switch(request)[:40], ConnectFailed),
        (lambda request: b"HTTP/1.1 100 Continue\r\n\r\n", ConnectFailed),
        (switch, ConnectionClosedError),
    ],
    ids=["before", "in", "after an interim one", "after"],
)
async def test_end_of_stream_around_the_answer(
    answer: Answer, kind: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    start = trio.current_time()
    async with scripted_server(answer, and_eof) as (client, _):
        with pytest.raises(kind) as caught:
            async with trio_ws.connect_over(client, "ws://example.org:81/") as ws:
                await ws.receive()
    assert trio.current_time() == start
    if isinstance(caught.value, ConnectFailed):
        assert caught.value.peer == "example.org:81"
        assert "closed" in caught.value.reason
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("portions", [0, 1, 40])
async def test_reset_around_the_answer(portions: int, autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    async with scripted_server(switch, in_bytes) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(Breaking(client, portions), URI))
        assert await is_closed(server)
    assert isinstance(exc, ConnectFailed)
    assert exc.reason == "Connection reset by peer"
    assert isinstance(exc.__cause__, trio.BrokenResourceError)
    assert trio.current_time() == start


async def test_server_that_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    await server.aclose()
    exc = await expect_failure(trio_ws.connect_over(client, URI))
    assert isinstance(exc, ConnectFailed)
    assert isinstance(exc.__cause__, trio.BrokenResourceError)


async def test_stream_that_cannot_be_closed(autojump_clock: trio.testing.MockClock) -> None:
    """It does not hide why the handshake failed."""

    class Stubborn(Wrapped):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("no, I will not")

    async with scripted_server(refusal("Content-Length: 0")) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(Stubborn(client), URI))
        assert await is_closed(server)
    assert isinstance(exc, InvalidStatus)


# -- Cancellation, and the end of the block ------------------------------------------------------------------------


async def test_cancelled_while_it_connects(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    with trio.move_on_after(3) as scope:
        async with trio_ws.connect_over(client, URI):
            pytest.fail("the connection was opened")
    assert scope.cancelled_caught
    assert await is_closed(server)


async def test_cancelled_before_it_connects(autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with trio_ws.connect_over(client, URI):
            pytest.fail("the connection was opened")
    assert scope.cancelled_caught
    assert await is_closed(server)


async def test_cancelled_by_a_deadline_that_is_also_ours(autojump_clock: trio.testing.MockClock) -> None:
    client, _ = trio.testing.memory_stream_pair()
    with trio.move_on_after(10) as scope:
        async with trio_ws.connect_over(client, URI, open_timeout=10):
            pytest.fail("the connection was opened")
    assert scope.cancelled_caught


async def test_cancelled_while_a_refusal_comes_in(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_server(refusal(body=b"he")) as (client, server):
        with trio.move_on_after(0.5) as scope:
            async with trio_ws.connect_over(client, URI):
                pytest.fail("the connection was opened")
        assert scope.cancelled_caught
        assert await is_closed(server)


async def test_cancelled_while_a_socket_connects(nursery: trio.Nursery, nothing_left: Callable[[], None]) -> None:
    asked = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        await read_request(stream)
        asked.set()
        assert await stream.receive_some() == b""
        over.set()

    over = trio.Event()
    async with trio.open_nursery() as servers:
        port = await start_tcp(servers, talk)
        async with trio.open_nursery() as clients:

            async def connect() -> None:
                async with trio_ws.connect(f"ws://127.0.0.1:{port}", open_timeout=None):
                    pytest.fail("the connection was opened")

            clients.start_soon(connect)
            await asked.wait()
            clients.cancel_scope.cancel()
        await over.wait()
        servers.cancel_scope.cancel()
    nothing_left()


@pytest.mark.parametrize(
    "exc, code",
    [(None, 1000), (ValueError("mine"), 1011), (KeyboardInterrupt(), 1001)],
    ids=["nothing", "ValueError", "^C"],
)
async def test_the_end_of_the_block(
    exc: BaseException | None, code: int, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    seen: list[int | None] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        with contextlib.suppress(trio_ws.ConnectionClosed):
            await ws.receive()
        seen.append(ws.close_code)

    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(trio_ws.serve_over, server, handler)
    caught: BaseException | None = None
    try:
        async with trio_ws.connect_over(client, URI):
            if exc is not None:
                raise exc
    except BaseException as raised:
        caught = raised
    assert caught is exc
    await trio.testing.wait_all_tasks_blocked()  # it did not wait for the peer if it was interrupted
    assert seen == [code]


@pytest.mark.parametrize("_", range(8))  # however the tasks are scheduled
async def test_cancelled_in_the_block(_: int, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    seen: list[int | None] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        with contextlib.suppress(trio_ws.ConnectionClosed):
            await ws.receive()
        seen.append(ws.close_code)

    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(trio_ws.serve_over, server, handler)
    with trio.move_on_after(1) as scope:
        async with trio_ws.connect_over(client, URI):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert seen == [1001]


# -- Sockets -------------------------------------------------------------------------------------------------------


async def test_refused(nothing_left: Callable[[], None]) -> None:
    with socket.socket() as sock:
        # Bound, so that nobody else listens there; and not listening.
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{port}"))
    assert type(exc) is ConnectFailed
    assert isinstance(exc, OSError)
    assert exc.peer == f"127.0.0.1:{port}"
    assert os.strerror(errno.ECONNREFUSED) in exc.reason
    assert isinstance(exc.__cause__, OSError)
    assert str(port) in str(exc)
    assert exc.reason in str(exc)
    nothing_left()


class Resolver(trio.abc.HostnameResolver):
    """Resolves every name to these addresses, or to none."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> list[Any]:
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_unknown_host() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    exc = await expect_failure(trio_ws.connect("ws://nowhere.example/"))
    assert type(exc) is ConnectFailed
    assert (exc.peer, exc.reason) == ("nowhere.example", "Name or service not known")
    assert isinstance(exc.__cause__, socket.gaierror)


async def test_refused_by_several_addresses() -> None:
    refused = os.strerror(errno.ECONNREFUSED)
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        # The last one has no error of its own that tells where it was: the system refuses it at once.
        trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2", "127.0.0.1", "255.255.255.255"))
        exc = await expect_failure(trio_ws.connect(f"ws://many.example:{sock.getsockname()[1]}"))
    assert isinstance(exc, ConnectFailed)
    one, two, last = exc.reason.split("; ")
    assert [one, two] == [f"127.0.0.1: {refused}", f"127.0.0.2: {refused}"]
    assert re.fullmatch(r"255\.255\.255\.255: [^:]+", last)
    assert isinstance(exc.__cause__, OSError)


async def test_refused_by_the_only_address() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1"))
        exc = await expect_failure(trio_ws.connect(f"ws://one.example:{sock.getsockname()[1]}"))
    assert isinstance(exc, ConnectFailed)
    assert exc.reason == f"127.0.0.1: {os.strerror(errno.ECONNREFUSED)}"


async def test_refused_by_a_name_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("127.0.0.1", "127.0.0.2")
    trio.socket.set_custom_hostname_resolver(resolver)

    async def open_tcp_stream(*_: Any, **__: Any) -> trio.SocketStream:
        resolver.addresses = ()
        raise OSError("all failed") from ExceptionGroup(
            "all", [OSError(1, "this"), OSError(2, "that"), OSError(3, "this")]
        )

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    exc = await expect_failure(trio_ws.connect("ws://gone.example/"))
    assert isinstance(exc, ConnectFailed)
    assert exc.reason == "this; that"


async def test_the_next_address_is_tried(nursery: trio.Nursery) -> None:
    server = await start_server(nursery)
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.2", "127.0.0.1"))
    async with trio_ws.connect(f"ws://two.example:{server.port}", happy_eyeballs_delay=1000) as ws:
        assert ws.remote_address == ("127.0.0.1", server.port)
        assert ws.request.headers["Host"] == f"two.example:{server.port}"


async def test_how_to_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []

    async def open_tcp_stream(*arguments: Any, **options: Any) -> trio.SocketStream:
        calls.append((arguments, options))
        raise OSError("enough")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    await expect_failure(trio_ws.connect(URI))
    await expect_failure(trio_ws.connect("wss://[::1]", happy_eyeballs_delay=3, local_address="::1"))
    assert calls == [
        (("example.org", 80), {"happy_eyeballs_delay": 0.25, "local_address": None}),
        (("::1", 443), {"happy_eyeballs_delay": 3, "local_address": "::1"}),
    ]


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("when", ["at once", "before", "in"])
async def test_dropped_by_the_server(when: str, how: str, nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        if when != "at once":
            request = await read_request(stream)
            if when == "in":
                await stream.send_all(switch(request)[:40])
        if how == "RST":
            reset(stream)

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    assert type(exc) is ConnectFailed
    assert exc.reason
    assert exc.reason != "BrokenResourceError"
    nothing_left()


async def test_refused_by_a_web_server(nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnothing")

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    assert isinstance(exc, InvalidStatus)
    assert (exc.response.status_code, exc.response.body) == (404, b"nothing")
    nothing_left()


async def test_a_refusal_tells_all(autojump_clock: trio.testing.MockClock) -> None:
    body = gzip.compress(b"you are\nnot invited")
    headers = ["Content-Encoding: gzip", f"Content-Length: {len(body)}", "Retry-After: 60"]
    exc = await failure_of(refusal(*headers, body=body))
    assert isinstance(exc, InvalidStatus)
    assert (exc.status_code, exc.reason_phrase) == (403, "Forbidden")
    assert (exc.headers["Retry-After"], exc.headers["Content-Encoding"]) == ("60", "gzip")
    assert exc.body == exc.response.body == b"you are\nnot invited"
    for part in ("403 Forbidden", "Retry-After: 60", "you are not invited"):
        assert part in str(exc)


async def test_a_refusal_whose_compressed_body_stalls(autojump_clock: trio.testing.MockClock) -> None:
    body = gzip.compress(os.urandom(30_000))
    answer = refusal("Content-Encoding: gzip", "Content-Length: 100000", body=body[:20_000])
    for timeout in (10, BODY_TIMEOUT / 2):
        response = await refused(answer, open_timeout=timeout)
        assert response.body is not None
        assert len(response.body) > 10_000
        assert gzip.decompress(body).startswith(response.body)


# -- Unix sockets --------------------------------------------------------------------------------------------------


unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


@pytest.fixture
def socket_path() -> Iterator[str]:
    """Where a socket can be; the folder of pytest may have too long a name."""
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "app.sock")


async def start_unix_server(nursery: trio.Nursery, path: str, **options: Any) -> list[trio_ws.WebSocket]:
    """Let a server listen there. Return its connections, which grow."""
    seen: list[trio_ws.WebSocket] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.append(ws)
        await echo(ws)

    await nursery.start(partial(trio_ws.serve, handler, path=path, **options))
    return seen


@unix_only
async def test_connect_unix(nursery: trio.Nursery, socket_path: str, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as servers:
        seen = await start_unix_server(servers, socket_path)
        for connecting, host, path in (
            (trio_ws.connect_unix(socket_path), "localhost", "/"),
            (trio_ws.connect_unix(Path(socket_path), "ws://any.example/chat?x"), "any.example", "/chat?x"),
            (trio_ws.connect(f"ws+unix:{socket_path}"), "localhost", "/"),
            (
                trio_ws.connect(f"ws+unix://{socket_path}:/chat?x", headers={"Host": "a.example"}),
                "a.example",
                "/chat?x",
            ),
        ):
            async with connecting as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
                assert seen[-1].request.path == path
                assert seen[-1].request.headers["Host"] == host
                assert ws.remote_address == socket_path
        servers.cancel_scope.cancel()
    nothing_left()


@unix_only
async def test_connect_unix_with_everything(nursery: trio.Nursery, socket_path: str) -> None:
    seen = await start_unix_server(nursery, socket_path, subprotocols=["chat"], origins=trio_ws.ANY)
    async with trio_ws.connect_unix(
        socket_path,
        "ws://me:secret@localhost/",
        headers={"X-Mine": "1"},
        user_agent="me",
        origin="https://example.org",
        cookies={"a": "b"},
        credentials=lambda uri: {"X-Token": uri.host},
        subprotocols=["chat"],
    ) as ws:
        assert ws.subprotocol == "chat"
        headers = seen[0].request.headers
        assert headers["Authorization"] == "Basic bWU6c2VjcmV0"
        assert (headers["X-Mine"], headers["User-Agent"], headers["Origin"]) == ("1", "me", "https://example.org")
        assert (headers["Cookie"], headers["X-Token"]) == ("a=b", "localhost")


@unix_only
async def test_tls_over_a_unix_socket(authority: trustme.CA, nursery: trio.Nursery, socket_path: str) -> None:
    await start_unix_server(nursery, socket_path, ssl=server_context(authority, "localhost"))
    context = client_context(authority)
    for connecting in (
        trio_ws.connect(f"wss+unix:{socket_path}", ssl=context),
        trio_ws.connect_unix(socket_path, "wss://localhost", ssl=context),
        trio_ws.connect_unix(socket_path, "wss://other.example", ssl=context, server_hostname="localhost"),
    ):
        async with connecting as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
    exc = await expect_failure(trio_ws.connect_unix(socket_path, "wss://other.example", ssl=context))
    assert isinstance(exc, TLSFailed)
    assert "other.example" in exc.reason


@unix_only
async def test_unix_sockets_that_are_not_there(socket_path: str, nothing_left: Callable[[], None]) -> None:
    exc = await expect_failure(trio_ws.connect_unix(socket_path))
    assert type(exc) is ConnectFailed
    assert (exc.peer, exc.reason) == (socket_path, os.strerror(errno.ENOENT))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(socket_path)  # and nobody listens
    exc = await expect_failure(trio_ws.connect(f"ws+unix:{socket_path}"))
    assert type(exc) is ConnectFailed
    assert exc.reason == os.strerror(errno.ECONNREFUSED)
    nothing_left()


@unix_only
async def test_redirects_stay_on_the_unix_socket(nursery: trio.Nursery, socket_path: str) -> None:
    paths: list[str] = []

    async def talk(stream: trio.SocketStream) -> None:
        async with stream:
            request = await read_request(stream)
            paths.append(request.path)
            if request.path == "/here":
                await stream.send_all(switch(request))
                await stream.receive_some()
                return
            location = {"/": "/here", "/absolute": "http://localhost/here", "/away": "http://other.example/here"}
            await in_one_piece(stream, refusal(f"Location: {location[request.path]}", status="302 Found")(request))

    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(socket_path)
    sock.listen()
    nursery.start_soon(trio.serve_listeners, talk, [trio.SocketListener(sock)])
    for path in ("/", "/absolute"):
        async with trio_ws.connect(f"ws+unix:{socket_path}:{path}", close_timeout=0) as ws:
            assert ws.request.path == "/here"
    exc = await expect_failure(trio_ws.connect(f"ws+unix:{socket_path}:/away"))
    assert isinstance(exc, InvalidRedirect)
    assert exc.reason == "ws://other.example/here is not reached through this socket"
    assert paths == ["/", "/here", "/absolute", "/here", "/away"]


@pytest.mark.parametrize("connect", [trio_ws.connect, partial(trio_ws.connect_unix, "/run/app.sock")])
async def test_ssl_is_for_wss_on_unix_sockets_too(connect: Callable[..., object]) -> None:
    uri = "ws+unix:/run/app.sock" if connect is trio_ws.connect else "ws://localhost"
    with pytest.raises(ValueError, match=r"ssl is for wss:// URIs"):
        connect(uri, ssl=ssl.create_default_context())


# -- Who we are ----------------------------------------------------------------------------------------------------


async def test_credentials_are_asked_for_when_it_connects(nursery: trio.Nursery) -> None:
    tokens = iter(["one", "two"])
    server = await start_server(nursery)

    def credentials(uri: trio_ws.WebSocketURI) -> dict[str, str]:
        assert (uri.host, uri.port) == ("127.0.0.1", server.port)
        return {"Authorization": f"Bearer {next(tokens)}"}

    for token in ("one", "two"):
        connecting = trio_ws.connect(
            f"ws://me:secret@127.0.0.1:{server.port}", credentials=credentials, headers={"authorization": "replaced"}
        )
        async with connecting as ws:
            assert ws.request.headers.get_all("Authorization") == [f"Bearer {token}"]


async def test_credentials_that_fail(autojump_clock: trio.testing.MockClock) -> None:
    async def fail(_: trio_ws.WebSocketURI) -> dict[str, str]:
        raise ZeroDivisionError

    async def wait(_: trio_ws.WebSocketURI) -> dict[str, str]:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(ZeroDivisionError):
        async with connect_over(URI, credentials=fail):
            pytest.fail("the connection was opened")
    exc = await expect_failure(connect_over(URI, credentials=wait, open_timeout=3))
    assert isinstance(exc, OpenTimeout)
    assert trio.current_time() == 3
    with pytest.raises(trio_ws.InvalidHeader):
        async with connect_over(URI, credentials=lambda _: {"Upgrade": "x"}):
            pytest.fail("the connection was opened")


async def test_origin(autojump_clock: trio.testing.MockClock) -> None:
    assert "Origin" not in (await requested()).headers
    assert (await requested(origin="https://example.org")).headers["Origin"] == "https://example.org"
    request = await requested(origin="https://example.org", headers={"origin": "null"})
    assert request.headers.get_all("Origin") == ["null"]
    with pytest.raises(trio_ws.InvalidHeader):
        connect_over(URI, origin="a\r\nb")


# -- TLS -----------------------------------------------------------------------------------------------------------


async def test_tls(authority: trustme.CA, nursery: trio.Nursery) -> None:
    server = await start_server(nursery, ssl=server_context(authority))
    for host in ("localhost", "127.0.0.1"):
        async with trio_ws.connect(f"wss://{host}:{server.port}/", ssl=client_context(authority)) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
            assert ws.remote_address == ("127.0.0.1", server.port)
            assert ws.request.headers["Host"] == f"{host}:{server.port}"


async def test_tls_by_default_trusts_what_the_system_trusts(
    authority: trustme.CA, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(nursery, ssl=server_context(authority))
    with authority.cert_pem.tempfile() as file:
        monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, file)
        async with trio_ws.connect(f"wss://localhost:{server.port}/") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"


async def test_tls_with_the_dot_that_ends_a_name(authority: trustme.CA, nursery: trio.Nursery) -> None:
    server = await start_server(nursery, ssl=server_context(authority))
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1"))
    async with trio_ws.connect(f"wss://localhost.:{server.port}/", ssl=client_context(authority)) as ws:
        assert ws.request.headers["Host"] == f"localhost.:{server.port}"


async def test_server_hostname(authority: trustme.CA, nursery: trio.Nursery) -> None:
    context = server_context(authority, "other.example")
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    server = await start_server(nursery, ssl=context)
    uri = f"wss://127.0.0.1:{server.port}/"
    async with trio_ws.connect(uri, ssl=client_context(authority), server_hostname="other.example") as ws:
        assert ws.request.headers["Host"] == f"127.0.0.1:{server.port}"
    assert names == ["other.example"]


async def tls_failure(context: ssl.SSLContext, **options: Any) -> BaseException:
    """Return what it raises to connect to a server that has this context."""
    async with trio.open_nursery() as nursery:
        server = await start_server(nursery, ssl=context)
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{server.port}/", open_timeout=None, **options))
        assert isinstance(exc, ConnectFailed)
        assert exc.peer == f"localhost:{server.port}"
        nursery.cancel_scope.cancel()
    return exc


async def test_untrusted_authority(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    exc = await tls_failure(server_context(authority))
    assert isinstance(exc, TLSFailed)
    assert "certificate not accepted: " in exc.reason
    assert "issuer" in exc.reason or "self-signed" in exc.reason
    assert isinstance(exc.__cause__, ssl.SSLCertVerificationError)
    nothing_left()


async def test_certificate_of_another_host(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    exc = await tls_failure(server_context(authority, "other.example"), ssl=client_context(authority))
    assert isinstance(exc, TLSFailed)
    assert "certificate not accepted: " in exc.reason
    assert "Hostname mismatch" in exc.reason
    assert "localhost" in exc.reason
    nothing_left()


async def test_certificate_of_another_host_than_server_hostname(authority: trustme.CA) -> None:
    exc = await tls_failure(server_context(authority), ssl=client_context(authority), server_hostname="other.example")
    assert isinstance(exc, TLSFailed)
    assert "other.example" in exc.reason


async def test_expired_certificate(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    exc = await tls_failure(server_context(authority, not_after=past), ssl=client_context(authority))
    assert isinstance(exc, TLSFailed)
    assert "expired" in exc.reason
    nothing_left()


async def refuse_tls(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    """Fail to do a TLS handshake, and say why, as servers do, but not those made with Trio's SSLStream."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    with pytest.raises(ssl.SSLError):
        while True:
            incoming.write(bytes(await stream.receive_some()))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await stream.send_all(outgoing.read())
    await stream.send_all(outgoing.read())
    await stream.send_eof()
    while await stream.receive_some():
        pass


async def test_no_tls_version_in_common(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    server, client = server_context(authority), client_context(authority)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, partial(refuse_tls, context=server))
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{port}", ssl=client, open_timeout=None))
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    assert "protocol version" in exc.reason
    nothing_left()


@pytest.mark.parametrize(
    "version, kind", [(ssl.TLSVersion.TLSv1_2, TLSFailed), (ssl.TLSVersion.TLSv1_3, ConnectFailed)], ids=["1.2", "1.3"]
)
async def test_server_that_wants_a_certificate(
    version: ssl.TLSVersion, kind: type[Exception], authority: trustme.CA, nothing_left: Callable[[], None]
) -> None:
    server = server_context(authority)
    server.verify_mode = ssl.CERT_REQUIRED
    server.minimum_version = server.maximum_version = version
    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, partial(refuse_tls, context=server))
        exc = await expect_failure(
            trio_ws.connect(f"wss://localhost:{port}", ssl=client_context(authority), open_timeout=None)
        )
        nursery.cancel_scope.cancel()
    # With TLS 1.3 our handshake is over before the server says so, with 1.2 it is not.
    assert type(exc) is kind
    assert isinstance(exc, ConnectFailed)
    assert "certificate required" in exc.reason or "handshake failure" in exc.reason
    nothing_left()


async def test_tls_with_a_plain_server(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        assert await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while await stream.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(
            trio_ws.connect(f"wss://localhost:{port}", ssl=client_context(authority), open_timeout=None)
        )
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    assert "wrong version number" in exc.reason
    nothing_left()


async def test_tls_with_a_plain_websocket_server(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        server = await start_server(nursery)
        exc = await expect_failure(
            trio_ws.connect(f"wss://localhost:{server.port}", ssl=client_context(authority), open_timeout=None)
        )
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    nothing_left()


async def test_plain_with_a_tls_server(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        server = await start_server(nursery, ssl=server_context(authority))
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{server.port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    # It depends on the version of OpenSSL whether the server sends an alert before it hangs up.
    assert isinstance(exc, (ConnectFailed, InvalidMessage))
    nothing_left()


async def test_end_of_stream_without_the_goodbye_of_tls(authority: trustme.CA, nursery: trio.Nursery) -> None:
    """Many servers end that way. It is the end, and no error of the stream."""
    context = server_context(authority)

    async def talk(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        await tls.send_all(switch(await read_request(tls)) + TEXT_HI)
        await stream.aclose()

    port = await start_tcp(nursery, talk)
    async with trio_ws.connect(f"wss://localhost:{port}", ssl=client_context(authority)) as ws:
        assert await ws.receive() == "hi"
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.receive()
    assert caught.value.code == 1006
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_dropped_in_the_tls_handshake(how: str, nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if how == "RST":
            reset(stream)

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    assert exc.reason.startswith("TLS: ")
    nothing_left()


async def test_cancelled_in_the_tls_handshake(nothing_left: Callable[[], None]) -> None:
    greeted = trio.Event()
    over = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        assert await stream.receive_some()
        greeted.set()
        assert await stream.receive_some() == b""
        over.set()

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        async with trio.open_nursery() as clients:

            async def connect() -> None:
                async with trio_ws.connect(f"wss://localhost:{port}", open_timeout=None):
                    pytest.fail("the connection was opened")

            clients.start_soon(connect)
            await greeted.wait()
            clients.cancel_scope.cancel()
        await over.wait()
        nursery.cancel_scope.cancel()
    nothing_left()


async def test_silent_tls_server(nothing_left: Callable[[], None]) -> None:
    """The time for opening includes TLS."""
    over = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass
        over.set()

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{port}", open_timeout=0.1))
        await over.wait()
        nursery.cancel_scope.cancel()
    assert isinstance(exc, OpenTimeout)
    nothing_left()


async def test_connect_over_tls(authority: trustme.CA, nursery: trio.Nursery) -> None:
    """The caller's TLS, with an end of stream that is checked (``https_compatible`` is false)."""
    client, server = trio.testing.memory_stream_pair()
    client_tls = trio.SSLStream(client, client_context(authority), server_hostname="localhost")
    server_tls = trio.SSLStream(server, server_context(authority), server_side=True)
    nursery.start_soon(trio_ws.serve_over, server_tls, echo)
    async with trio_ws.connect_over(client_tls, "wss://localhost/") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        assert ws.remote_address is None
    assert ws.close_code == 1000
