"""Failed opening handshakes, as instruments see them."""

from __future__ import annotations

import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock

import trio_ws
from trio_ws import HandshakeFailure, Opening, Request, Response
from trio_ws.exceptions import ConnectFailed, InvalidOrigin, InvalidStatus, OpenTimeout
from trio_ws.protocol import Role

from ..server.clients import request
from ..support import HANGS, echo, read_to_end

URI = "ws://example.org/"


class Failures(trio_ws.Instrument):
    def __init__(self) -> None:
        self.all: list[HandshakeFailure] = []
        self.seconds: list[float] = []

    def wants_connection(self) -> bool:
        return False

    def handshake_failed(self, failure: HandshakeFailure) -> None:
        self.all.append(failure)

    def the_only_one(self) -> HandshakeFailure:
        (failure,) = self.all
        return failure


@asynccontextmanager
async def serving(failures: Failures, **options: Any) -> AsyncIterator[trio.StapledStream[Any, Any]]:
    """Serve a connection in memory, and yield its other end."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, echo, instruments=[failures], **options))
        yield ours
        nursery.cancel_scope.cancel()


def refuse(opening: Opening, request: Request) -> Response | None:
    return opening.respond(401, "who are you?\n")


def fail(opening: Opening, request: Request) -> Response | None:
    raise ZeroDivisionError


async def answer_slowly(opening: Opening, request: Request) -> Response | None:
    await trio.sleep(3)
    return refuse(opening, request)


@pytest.mark.parametrize(
    ("data", "options", "status", "error"),
    [
        (request(), {"process_request": refuse}, 401, None),
        (request(), {"process_request": fail}, 500, ZeroDivisionError),
        (request(Origin="https://evil.example"), {}, 403, InvalidOrigin),
        (request(Sec_WebSocket_Version="12"), {}, 426, trio_ws.InvalidHandshake),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", {}, 400, trio_ws.InvalidMessage),
    ],
    ids=["hook", "broken hook", "origin", "version", "no request"],
)
async def test_refused_by_a_server(
    data: bytes, options: dict[str, Any], status: int, error: type[Exception] | None, autojump_clock: MockClock
) -> None:
    failures = Failures()
    async with serving(failures, **options) as client:
        await trio.sleep(2)  # silence before the request does not count
        await client.send_all(data)
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 %d" % status)
    failure = failures.the_only_one()
    assert failure.role is Role.SERVER
    assert failure.response is not None
    assert failure.response.status_code == status
    assert isinstance(failure.error, error or type(None))
    assert (failure.request is not None) == data.startswith(b"GET / HTTP/1.1\r\nHost")
    assert failure.seconds == 0


async def test_the_time_includes_hooks(autojump_clock: MockClock) -> None:
    failures = Failures()
    async with serving(failures, process_request=answer_slowly) as client:
        await client.send_all(request())
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 401")
    assert failures.the_only_one().seconds == pytest.approx(3)


@pytest.mark.parametrize("complete", [False, True])
async def test_timed_out_on_a_server(complete: bool, autojump_clock: MockClock) -> None:
    failures = Failures()
    async with serving(failures, process_request=answer_slowly, open_timeout=2) as client:
        await client.send_all(request() if complete else request()[:20])
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 408")
    failure = failures.the_only_one()
    assert failure.response is not None
    assert failure.response.status_code == 408
    assert failure.error is None
    assert (failure.request is not None) == complete
    assert failure.seconds == pytest.approx(2)


async def test_lost_on_a_server(autojump_clock: MockClock) -> None:
    failures = Failures()
    async with serving(failures) as client:
        await client.send_all(request()[:20])
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        failure = failures.the_only_one()
    assert (failure.request, failure.response) == (None, None)
    assert isinstance(failure.error, trio.BrokenResourceError)


@pytest.mark.parametrize(
    "requests",
    [[], [b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"], [request()]],
    ids=["nothing", "plain HTTP", "WebSocket"],
)
async def test_no_failure(requests: Sequence[bytes], autojump_clock: MockClock) -> None:
    failures = Failures()
    async with serving(failures) as client:
        for data in requests:
            await client.send_all(data)
            await client.receive_some()
        await client.send_stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
    assert failures.all == []


async def test_a_second_request_on_the_same_connection(autojump_clock: MockClock) -> None:
    failures = Failures()

    def answer(opening: Opening, request: Request) -> Response | None:
        return opening.respond(200 if request.path == "/health" else 404)

    async with serving(failures, process_request=answer) as client:
        for line in ("/health", "/feed", "/health"):
            plain = {"Upgrade": None, "Connection": None} if line == "/health" else {}
            await client.send_all(request(line=f"GET {line} HTTP/1.1", **plain))
            await client.receive_some()
    failure = failures.the_only_one()
    assert failure.request is not None
    assert failure.request.path == "/feed"


async def test_tls_failed() -> None:
    class Reported(Failures):
        def __init__(self) -> None:
            super().__init__()
            self.event = trio.Event()

        def handshake_failed(self, failure: HandshakeFailure) -> None:
            super().handshake_failed(failure)
            self.event.set()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    at_server, at_client = Reported(), Reported()
    async with trio.open_nursery() as nursery:
        serve = partial(trio_ws.serve, echo, 0, host="127.0.0.1", ssl=context, instruments=[at_server])
        server = await nursery.start(serve)
        uri = f"wss://localhost:{server.port}"
        with pytest.raises(trio_ws.TLSFailed):
            await trio_ws.connect(uri, host="127.0.0.1", instruments=[at_client]).__aenter__()
        with trio.fail_after(HANGS):
            await at_server.event.wait()
        await server.aclose()
    assert isinstance(at_client.the_only_one().error, trio_ws.TLSFailed)
    failure = at_server.the_only_one()
    assert "alert unknown ca" in str(failure.error)
    assert failure.remote_address[0] == "127.0.0.1"


async def open_over(client: trio.abc.Stream, failures: Failures, **options: Any) -> None:
    async with trio_ws.connect_over(client, URI, instruments=[failures], **options):
        pytest.fail("the handshake must fail")


async def test_refused_client(autojump_clock: MockClock) -> None:
    at_server, at_client = Failures(), Failures()
    async with serving(at_server, process_request=answer_slowly) as client:
        with pytest.raises(InvalidStatus) as raised:
            await open_over(client, at_client)
    failure = at_client.the_only_one()
    assert failure.role is Role.CLIENT
    assert failure.request is not None
    assert failure.request.headers["Host"] == "example.org"
    assert failure.response is raised.value.response
    assert failure.error is raised.value
    assert failure.seconds == pytest.approx(3)
    assert at_server.the_only_one().seconds == pytest.approx(3)


async def test_client_without_a_response(autojump_clock: MockClock) -> None:
    failures = Failures()
    client, server = trio.testing.memory_stream_pair()
    with pytest.raises(OpenTimeout):
        await open_over(client, failures, open_timeout=4)
    client, server = trio.testing.memory_stream_pair()
    await server.aclose()
    with pytest.raises(ConnectFailed):
        await open_over(client, failures)
    assert [(type(each.error), each.response, each.seconds) for each in failures.all] == [
        (OpenTimeout, None, pytest.approx(4)),
        (ConnectFailed, None, 0),
    ]


async def test_a_cancelled_client_is_no_failure(autojump_clock: MockClock) -> None:
    failures = Failures()
    client, _server = trio.testing.memory_stream_pair()
    with trio.move_on_after(1) as scope:
        await open_over(client, failures)
    assert scope.cancelled_caught
    assert failures.all == []


async def test_handshake_seconds(autojump_clock: MockClock) -> None:
    async def let_in(opening: Opening, request: Request) -> None:
        await trio.sleep(3)

    seconds = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seconds.append(ws.handshake_seconds)

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, handler, process_request=let_in))
        async with trio_ws.connect_over(ours, URI) as ws:
            seconds.append(ws.handshake_seconds)
    assert seconds == [pytest.approx(3)] * 2


async def test_probes_of_a_tls_port_are_no_failures() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    failures = Failures()
    async with trio.open_nursery() as nursery:
        serve = partial(trio_ws.serve, echo, 0, host="127.0.0.1", ssl=context, instruments=[failures])
        server = await nursery.start(serve)
        probe = await trio.open_tcp_stream("127.0.0.1", server.port)
        await probe.aclose()
        assert await server.drain()
    assert failures.all == []


async def test_the_client_of_the_last_request_is_not_blamed() -> None:
    def answer(opening: Opening, request: Request) -> Response:
        return opening.respond(200)

    failures = Failures()
    async with trio.open_nursery() as nursery:
        serve = partial(
            trio_ws.serve, echo, 0, host="127.0.0.1", trusted_proxies=["127.0.0.0/8"], process_request=answer
        )
        server = await nursery.start(partial(serve, instruments=[failures]))
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as proxy:
            plain: dict[str, Any] = {"Upgrade": None, "Connection": None}
            await proxy.send_all(request("X-Forwarded-For: 192.0.2.1", **plain))
            assert (await proxy.receive_some()).startswith(b"HTTP/1.1 200")
            await proxy.send_all(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
            assert (await read_to_end(proxy)).startswith(b"HTTP/1.1 400")
        await server.aclose()
    assert failures.the_only_one().remote_address[0] == "127.0.0.1"


async def test_a_failed_connection_leaves_no_cycle() -> None:
    async def connect() -> weakref.ref[trio_ws.Connecting]:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))  # a port on which nobody listens
            port = sock.getsockname()[1]
            connecting = trio_ws.connect(f"ws://127.0.0.1:{port}/")
        failed = False
        try:  # pytest.raises() would keep the exception
            await connecting.__aenter__()
        except ConnectFailed:
            failed = True
        assert failed
        return weakref.ref(connecting)

    gc.disable()
    try:
        reference = await connect()
        assert reference() is None
    finally:
        gc.enable()
