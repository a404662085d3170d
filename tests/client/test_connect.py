"""Opening connections: ``connect``, ``connect_over``."""

from __future__ import annotations

import binascii
import contextlib
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.client.connecting import BODY_TIMEOUT
from trio_ws.datastructures import HeadersLike
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HeadTooBig,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    OpenTimeout,
    ProtocolError,
    TooManyHeaders,
)
from trio_ws.http11 import Request
from trio_ws.http11.body import MAX_BODY_SIZE
from trio_ws.http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS, MAX_INTERIM_RESPONSES

from ..support import Send, Wrapped, and_eof, echo, in_bytes, in_one_piece
from .servers import (
    TEXT_HI,
    URI,
    Answer,
    Breaking,
    Stream,
    accept_key,
    expect_failure,
    failure_of,
    is_closed,
    read_request,
    refusal,
    refused,
    scripted_server,
    start_server,
    start_tcp,
    switch,
)

pytestmark = pytest.mark.usefixtures("watchdog")

CLOSE_1000 = b"\x88\x02\x03\xe8"


# -- Sockets, TLS and leaks ------------------------------------------------------------------------------------------


def connect_over(uri: str, **options: Any) -> trio_ws.Connecting:
    client, _ = trio.testing.memory_stream_pair()
    return trio_ws.connect_over(client, uri, **options)


# -- A connection that works -----------------------------------------------------------------------------------------


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
    """Return the request that the server receives."""
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


async def test_every_request_has_a_new_key(autojump_clock: trio.testing.MockClock) -> None:
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


async def test_ssl_requires_wss() -> None:
    with pytest.raises(ValueError, match="wss"):
        trio_ws.connect(URI, ssl=ssl.create_default_context())


@pytest.mark.parametrize("server_hostname", ["", ".", ".example.org", "example.org:443", "[::1]", "a\0b", "\u2029"])
async def test_invalid_server_hostnames(server_hostname: str) -> None:
    # It raises before it opens a socket.
    with pytest.raises(ValueError, match="server_hostname must be a name, or an IP address without brackets, not '"):
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


# -- Subprotocols ----------------------------------------------------------------------------------------------------


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


# -- Answers that are right ------------------------------------------------------------------------------------------


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


# -- Answers that are wrong ------------------------------------------------------------------------------------------


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
        lambda request: switch(request, "Sec-WebSocket-Protocol: a b"),
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


# -- Refusals --------------------------------------------------------------------------------------------------------


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


async def test_a_redirect_is_a_refusal_over_one_stream(autojump_clock: trio.testing.MockClock) -> None:
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
    """The server uses nearly all of open_timeout, and then the body stalls."""
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


# -- No answer -------------------------------------------------------------------------------------------------------


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
    start = trio.current_time()

    async def slowly(stream: Stream, data: bytes) -> None:
        await trio.sleep(10_000)
        await stream.send_all(data)

    async with scripted_server(lambda request: switch(request) + CLOSE_1000, slowly) as (client, _):
        async with trio_ws.connect_over(client, URI, open_timeout=None):
            assert trio.current_time() - start == 10_000


async def test_server_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    client, server = trio.testing.lockstep_stream_pair()
    exc = await expect_failure(trio_ws.connect_over(client, URI))
    assert isinstance(exc, OpenTimeout)
    assert trio.current_time() - start == 10
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")


async def test_answer_that_trickles(autojump_clock: trio.testing.MockClock) -> None:
    """The timeout is for the whole answer, not for each byte."""

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
    """The error from closing does not hide the reason why the handshake failed."""

    class Stubborn(Wrapped):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("no, I will not")

    async with scripted_server(refusal("Content-Length: 0")) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(Stubborn(client), URI))
        assert await is_closed(server)
    assert isinstance(exc, InvalidStatus)


# -- Cancellation, and the end of the block --------------------------------------------------------------------------


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


async def test_cancelled_by_a_deadline_equal_to_open_timeout(autojump_clock: trio.testing.MockClock) -> None:
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
    await trio.testing.wait_all_tasks_blocked()  # An interrupted block does not wait for the peer.
    assert seen == [code]


@pytest.mark.parametrize("_", range(8))  # several times, because Trio schedules tasks in random order
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


# -- Who we are ------------------------------------------------------------------------------------------------------


async def test_credentials_are_fetched_when_it_connects(nursery: trio.Nursery) -> None:
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


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": "Bearer secret\n"}},
        {"headers": {"Authorization": b"Bearer secret"}},
        {"headers": "Authorization: secret"},
        {"cookies": {"session": "secret value"}},
        {"cookies": {"session": b"secret"}},
        {"cookies": [("session", "secret")]},
        {"proxy": {"http": "http://user:secret@proxy.example:3128"}},
        {"proxy": b"http://user:secret@proxy.example:3128"},
        {"proxy": "http://user:secret@proxy.example:0"},
    ],
)
async def test_errors_show_no_secrets(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        trio_ws.connect("ws://example.org/", **options)
    assert "secret" not in str(caught.value)


async def fail_to_fetch(_: trio_ws.WebSocketURI) -> dict[str, str]:
    raise ZeroDivisionError


async def fetch_forever(_: trio_ws.WebSocketURI) -> dict[str, str]:
    await trio.sleep_forever()
    raise AssertionError


async def test_the_stream_is_closed_if_there_are_no_credentials(autojump_clock: trio.testing.MockClock) -> None:
    for credentials, expected in (
        (fail_to_fetch, ZeroDivisionError),
        (fetch_forever, OpenTimeout),
        (fetch_forever, trio.Cancelled),
    ):
        client, server = trio.testing.memory_stream_pair()
        with trio.move_on_after(1 if expected is trio.Cancelled else 60), pytest.raises(expected):
            async with trio_ws.connect_over(client, URI, credentials=credentials, open_timeout=10):
                pytest.fail("the connection was opened")
        assert await server.receive_some() == b""


async def test_credentials_that_fail(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connect_over(URI, credentials=fail_to_fetch):
            pytest.fail("the connection was opened")
    exc = await expect_failure(connect_over(URI, credentials=fetch_forever, open_timeout=3))
    assert isinstance(exc, OpenTimeout)
    assert trio.current_time() == 3
    with pytest.raises(trio_ws.InvalidHeader):
        async with connect_over(URI, credentials=lambda _: {"Upgrade": "x"}):
            pytest.fail("the connection was opened")
    for returned in (None, "Bearer secret", ["secret"]):
        credentials: Any = partial(lambda value, _uri: value, returned)
        with pytest.raises(TypeError, match="credentials must return valid headers: headers must be") as caught:
            async with connect_over(URI, credentials=credentials):
                pytest.fail("the connection was opened")
        assert "secret" not in str(caught.value)


async def test_origin(autojump_clock: trio.testing.MockClock) -> None:
    assert "Origin" not in (await requested()).headers
    assert (await requested(origin="https://example.org")).headers["Origin"] == "https://example.org"
    request = await requested(origin="https://example.org", headers={"origin": "null"})
    assert request.headers.get_all("Origin") == ["null"]
    with pytest.raises(trio_ws.InvalidHeader):
        connect_over(URI, origin="a\r\nb")
