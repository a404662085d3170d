"""The server's side of the opening handshake: hooks, origins, hosts and persistent connections."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import Headers, Opening, Request, Response
from trio_ws.server import date

from ..support import echo

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

URI = "ws://example.org/chat"
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


def get(
    path: str = "/", *headers: str, method: str = "GET", version: str = "1.1", host: str | None = "example.org"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", *([] if host is None else [f"Host: {host}"]), *headers, "", ""]
    return "\r\n".join(lines).encode()


class Client:
    """The client's end of a connection, for raw requests."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = b""

    async def ask(self, *requests: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send requests and read one response. Return its status, headers and body, which is empty for HEAD."""
        if requests:
            await self.stream.send_all(b"".join(requests))
        while b"\r\n\r\n" not in self._received:
            data = bytes(await self.stream.receive_some())
            assert data, self._received
            self._received += data
        head, _, rest = self._received.partition(b"\r\n\r\n")
        status, *lines = head.decode("iso-8859-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = 0 if requests and requests[-1].startswith(b"HEAD") else int(headers.get("content-length", "0"))
        while len(rest) < size:
            rest += await self.stream.receive_some()
        self._received = rest[size:]
        return int(status.split()[1]), headers, rest[:size]

    async def is_closed(self) -> bool:
        """Whether the server has ended the stream."""
        return not self._received and not await self.stream.receive_some()


@asynccontextmanager
async def served(handler: trio_ws.Handler = echo, **options: Any) -> AsyncIterator[Client]:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await trio_ws.serve_over(theirs, handler, **options)

        nursery.start_soon(serve)
        yield Client(ours)
        await ours.aclose()


@asynccontextmanager
async def connected(
    handler: trio_ws.Handler = echo, client: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[trio_ws.WebSocket]:
    async with served(handler, **options) as end, trio_ws.connect_over(end.stream, URI, **(client or {})) as ws:
        yield ws


async def refusal(client: dict[str, Any] | None = None, **options: Any) -> trio_ws.InvalidStatus:
    with pytest.raises(trio_ws.InvalidStatus) as caught:
        async with served(**options) as end:
            try:
                async with trio_ws.connect_over(end.stream, URI, **(client or {})):
                    raise AssertionError("the connection was opened")
            except trio_ws.InvalidStatus as exc:
                refused = exc
        raise refused
    return caught.value


# -- process_request -------------------------------------------------------------------------------------------------


async def test_plain_requests_are_answered_on_one_connection(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[str] = []

    def answer(opening: Opening, request: Request) -> Response | None:
        seen.append(f"{request.method} {request.path}")
        if request.path == "/page":
            return opening.respond(200, "<p>ü</p>", {"Content-Type": "text/html"})
        return opening.respond(404, b"no such page") if request.path != "/ws" else None

    async with served(process_request=answer) as client:
        status, headers, body = await client.ask(get("/page"))
        assert (status, headers["content-type"], body) == (200, "text/html", "<p>ü</p>".encode())
        assert headers["content-length"] == "9"
        assert headers["server"].startswith("trio_ws/")
        assert "connection" not in headers
        status, headers, body = await client.ask(get("/page", method="HEAD"))
        assert (status, headers["content-length"], body) == (200, "9", b"")
        status, headers, body = await client.ask(get("/nothing"))
        assert (status, headers["content-type"], body) == (404, "text/plain; charset=utf-8", b"no such page")
        # Then the connection becomes a WebSocket.
        status, headers, _ = await client.ask(get("/ws", *UPGRADE), b"\x81\x82\0\0\0\0hi")
        assert (status, headers["upgrade"]) == (101, "websocket")
        assert await client.stream.receive_some() == b"\x81\x02hi"
        await client.stream.send_all(b"\x88\x80\0\0\0\0")
    assert seen == ["GET /page", "HEAD /page", "GET /nothing", "GET /ws"]


async def test_pipelined_requests_are_answered_in_order() -> None:
    def answer(opening: Opening, request: Request) -> Response:
        return opening.respond(200, request.path)

    async with served(process_request=answer) as client:
        await client.stream.send_all(b"".join(get(f"/{number}") for number in range(5)))
        assert [(await client.ask())[2] for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


async def test_without_process_request_plain_requests_get_426() -> None:
    for method in ("GET", "HEAD"):
        async with served() as client:
            status, headers, body = await client.ask(get(method=method))
            assert (status, headers["upgrade"], headers["connection"]) == (426, "websocket", "Upgrade, close")
            assert bool(body) is (method == "GET")
            assert await client.is_closed()


@pytest.mark.parametrize(
    "request_, kept",
    [
        (get(), True),
        (get("/", "Connection: keep-alive"), True),
        (get("/", "Content-Length: 0"), True),
        (get("/", "Connection: close"), False),
        (get("/", "Connection: Keep-Alive, Close"), False),
        (get("/", version="1.0"), False),
        (get("/", version="1.0", host=None), False),
        (get("/", "Content-Length: 5") + b"hello", False),
        (get("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n", False),
        (get(method="POST"), True),
    ],
)
async def test_persistent_connections(request_: bytes, kept: bool, autojump_clock: trio.testing.MockClock) -> None:
    async with served(process_request=lambda opening, _: opening.respond(200, "yes")) as client:
        status, headers, body = await client.ask(request_)
        assert (status, body) == (200, b"yes")
        assert headers.get("connection") == (None if kept else "close")
        if kept:
            assert (await client.ask(get()))[0] == 200
        else:
            assert await client.is_closed()


async def test_the_application_can_close_the_connection() -> None:
    async with served(
        process_request=lambda opening, _: opening.respond(200, "bye", {"Connection": "close"})
    ) as client:
        assert (await client.ask(get()))[1]["connection"] == "close"
        assert await client.is_closed()


async def test_each_request_has_its_own_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async def answer(opening: Opening, _: Request) -> Response:
        await trio.sleep(6)
        return opening.respond(200)

    async with served(process_request=answer, open_timeout=10) as client:
        for _ in range(3):
            await trio.sleep(3)
            assert (await client.ask(get()))[0] == 200
        start = trio.current_time()
        assert await client.is_closed()
        assert trio.current_time() - start == 10


async def test_a_slow_process_request_times_out(autojump_clock: trio.testing.MockClock) -> None:
    async def wait(_: Opening, __: Request) -> None:
        await trio.sleep_forever()

    async with served(process_request=wait, open_timeout=10) as client:
        assert (await client.ask(get()))[0] == 408
        assert await client.is_closed()
        assert trio.current_time() == 10


@pytest.mark.parametrize("hook", ["process_request", "process_response"])
async def test_tasks_of_a_hook_that_fail_when_they_are_cancelled(
    hook: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The nursery combines ``Cancelled`` with their exceptions. These must not end the server."""

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("oops")

    async def work(*args: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    async with served(**{hook: work}, open_timeout=10) as client:
        assert (await client.ask(get("/", *UPGRADE)))[0] == 408
        assert await client.is_closed()
    assert "the opening handshake failed" in caplog.text
    assert "LookupError: oops" in caplog.text


async def test_a_hook_that_raises_keyboard_interrupt_while_it_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def interrupt() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyboardInterrupt

    async def work(*args: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            nursery.start_soon(trio.sleep_forever)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with served(process_request=work, open_timeout=10) as client:
            await client.stream.send_all(get())
            await trio.sleep_forever()
    assert caught.value.subgroup(KeyboardInterrupt) is not None


async def test_a_client_that_leaves_after_a_response_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with served(process_request=lambda opening, _: opening.respond(200)) as client:
        await client.ask(get())
    assert not caplog.records


async def test_an_incomplete_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with served(process_request=lambda opening, _: opening.respond(200)) as client:
        await client.ask(get())
        await client.stream.send_all(b"GET /")
    assert "closed before the end of the request" in caplog.text


async def test_the_first_response_is_sent() -> None:
    called: list[str] = []

    def nothing(_: Opening, __: Request) -> None:
        called.append("nothing")

    async def something(opening: Opening, _: Request) -> Response:
        called.append("something")
        return opening.respond(503, "not now")

    def never(_: Opening, __: Request) -> Response | None:
        raise AssertionError

    exc = await refusal(process_request=[nothing, something, never])
    assert (exc.status_code, exc.body) == (503, b"not now")
    assert called == ["nothing", "something"]
    async with connected(process_request=[nothing, nothing]) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_attributes_of_the_opening(nursery: trio.Nursery) -> None:
    openings: list[Opening] = []
    seen: list[trio_ws.ServerWebSocket] = []

    def identify(opening: Opening, request: Request) -> None:
        openings.append(opening)
        opening.username = request.headers["X-Name"]

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seen.append(ws)
        await echo(ws)

    async def serve(task_status: trio.TaskStatus[trio_ws.Server]) -> None:
        await trio_ws.serve(handler, 0, host="127.0.0.1", process_request=identify, task_status=task_status)

    server: trio_ws.Server = await nursery.start(serve)
    async with trio_ws.connect(f"ws://127.0.0.1:{server.port}/", headers={"X-Name": "ann"}) as ws:
        await ws.send("hello")
        await ws.receive()
        assert seen[0].opening is openings[0]
        assert openings[0].username == "ann"
        assert openings[0].server is server
        assert openings[0].remote_address == seen[0].remote_address == ws.local_address
        assert openings[0].local_address == ws.remote_address
        assert isinstance(seen[0], trio_ws.ServerWebSocket)
        assert server.connections == {seen[0]}
        assert not isinstance(ws, trio_ws.ServerWebSocket)
        assert not hasattr(ws, "opening")
    nursery.cancel_scope.cancel()


async def test_basic_auth() -> None:
    names: list[str | None] = []

    # The type checker knows the types of ``opening`` and ``username``.
    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        names.append(ws.opening.username)

    authenticate = trio_ws.basic_auth({"ann": "secret"})
    async with served(handler, process_request=authenticate) as end:
        async with trio_ws.connect_over(end.stream, "ws://ann:secret@example.org") as ws:
            with pytest.raises(trio_ws.ConnectionClosedOK):
                await ws.receive()
    assert names == ["ann"]
    assert (await refusal(process_request=authenticate)).status_code == 401


# -- Hooks that fail -------------------------------------------------------------------------------------------------


def fail(*_: object) -> Response | None:
    raise ZeroDivisionError


async def fail_later(*_: object) -> Response | None:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


def interim(opening: Opening, *_: object) -> Response:
    return Response(101, "Switching Protocols", {})


def wrong_length(opening: Opening, *_: object) -> Response:
    return opening.respond(200, "short", {"Content-Length": "1000"})


def not_a_response(*_: object) -> Any:
    return "hello"


@pytest.mark.parametrize("hook", ["process_request", "process_response"])
@pytest.mark.parametrize("function", [fail, fail_later, interim, wrong_length, not_a_response])
async def test_an_exception_in_a_hook_becomes_500(hook: str, function: Any, caplog: pytest.LogCaptureFixture) -> None:
    exc = await refusal(**{hook: function})
    assert exc.status_code == 500
    assert exc.body == b"internal server error, try again later\n"
    assert exc.headers["Connection"] == "close"
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info is not None


async def test_an_invalid_subprotocol_choice_becomes_500(caplog: pytest.LogCaptureFixture) -> None:
    exc = await refusal(select_subprotocol=lambda *_: "chat", client={"subprotocols": ["news"]})
    assert exc.status_code == 500
    assert "select_subprotocol must return one of" in caplog.text


async def test_the_server_continues_after_an_exception_in_a_hook(nursery: trio.Nursery) -> None:
    failures = iter([True, False])

    def sometimes(_: Opening, __: Request) -> None:
        if next(failures):
            raise ZeroDivisionError

    async def serve(task_status: trio.TaskStatus[trio_ws.Server]) -> None:
        await trio_ws.serve(echo, 0, host="127.0.0.1", process_request=sometimes, task_status=task_status)

    server: trio_ws.Server = await nursery.start(serve)
    uri = f"ws://127.0.0.1:{server.port}/"
    with pytest.raises(trio_ws.InvalidStatus, match="500"):
        async with trio_ws.connect(uri):
            pytest.fail("the connection was opened")
    async with trio_ws.connect(uri) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
    nursery.cancel_scope.cancel()


# -- process_response, select_subprotocol, headers -------------------------------------------------------------------


async def test_process_response_replaces_the_response() -> None:
    async def change(opening: Opening, request: Request, response: Response) -> Response:
        assert (request.path, opening.username) == ("/chat", None)
        return attrs.evolve(response, headers=Headers([*response.headers.raw_items(), ("Set-Cookie", "a=b")]))

    async with connected(process_response=change) as ws:
        assert ws.response.headers["Set-Cookie"] == "a=b"
    exc = await refusal(process_response=change, client={"headers": {"Origin": "https://evil.example"}})
    assert exc.status_code == 403
    assert "Set-Cookie" not in exc.headers  # the request is refused before process_request is called


async def test_process_response_refuses_a_handshake() -> None:
    exc = await refusal(process_response=lambda opening, *_: opening.respond(409, "one is enough"))
    assert (exc.status_code, exc.body) == (409, b"one is enough")


async def test_process_response_replaces_a_refusal() -> None:
    def change(opening: Opening, _: Request, response: Response) -> Response | None:
        return opening.respond(418) if response.status_code == 426 else None

    async with served(process_response=change) as client:
        request = get("/", "Upgrade: websocket", "Connection: Upgrade", *UPGRADE[2:3], "Sec-WebSocket-Version: 12")
        assert (await client.ask(request))[0] == 418
    async with served(process_response=change) as client:
        assert (await client.ask(get()))[0] == 426  # not an opening handshake


@pytest.mark.parametrize("name", ["Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions"])
async def test_process_response_cannot_change_the_handshake_headers(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def change(_: Opening, __: Request, response: Response) -> Response:
        pairs = [(key, "other" if key == name else value) for key, value in response.headers.raw_items()]
        return attrs.evolve(response, headers=Headers(pairs))

    assert (await refusal(process_response=change)).status_code == 500
    assert "process_response must not change the handshake headers" in caplog.text


@pytest.mark.parametrize("choice", ["chat.v1", "chat.v2", None])
async def test_select_subprotocol(choice: str | None) -> None:
    offers: list[list[str]] = []

    def select(opening: Opening, offered: Any) -> str | None:
        assert isinstance(opening, Opening)
        offers.append(list(offered))
        return choice

    client = {"subprotocols": ["chat.v2", "chat.v1"]}
    async with connected(client=client, select_subprotocol=select, subprotocols=["other"]) as ws:
        assert ws.subprotocol == choice
    assert offers == [["chat.v2", "chat.v1"]]


async def test_select_subprotocol_without_an_offer() -> None:
    async with connected(select_subprotocol=lambda _, offered: offered[0] if offered else None) as ws:
        assert ws.subprotocol is None


async def test_headers_of_every_response() -> None:
    options: dict[str, Any] = {
        "headers": {"Strict-Transport-Security": "max-age=1", "X-A": "1"},
        "server_header": "mine",
        "process_request": lambda opening, request: opening.respond(404) if request.path == "/404" else None,
    }
    async with connected(**options) as ws:
        assert ws.response.headers["Strict-Transport-Security"] == "max-age=1"
        assert ws.response.headers["Server"] == "mine"
    for request in (get("/404"), get("/"), get("/", host=None)):
        async with served(**options) as client:
            _, headers, _ = await client.ask(request)
            assert (headers["x-a"], headers["server"]) == ("1", "mine")


async def test_every_final_response_has_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(opening: Opening, request: Request) -> Response | None:
        dated = {"Date": "Tue, 15 Nov 1994 08:12:31 GMT"} if request.path == "/dated" else {}
        return opening.respond(200, "", dated) if request.path != "/" else None

    made: list[int] = []

    def note_and_format(seconds: int) -> str:
        made.append(seconds)
        return real(seconds)

    now = 784111777.25
    real = date._format
    monkeypatch.setattr(date, "_format", note_and_format)
    monkeypatch.setattr("time.time", lambda: now)
    for request, expected in (
        (get("/page"), "Sun, 06 Nov 1994 08:49:37 GMT"),
        (get("/dated"), "Tue, 15 Nov 1994 08:12:31 GMT"),
        (get("/"), "Sun, 06 Nov 1994 08:49:37 GMT"),
        (get("/", *UPGRADE, "Origin: https://evil.example"), "Sun, 06 Nov 1994 08:49:37 GMT"),
        (b"nonsense\r\n", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ):
        async with served(process_request=answer) as client:
            _, headers, _ = await client.ask(request)
            assert headers["date"] == expected
    assert made == [784111777]
    now += 1
    async with served(process_request=answer) as client:
        assert (await client.ask(get("/page")))[1]["date"] == "Sun, 06 Nov 1994 08:49:38 GMT"
    async with served(headers={"Date": "x"}) as client:
        assert (await client.ask(get("/")))[1]["date"] == "x"
    async with connected() as ws:
        assert "Date" not in ws.response.headers


@pytest.mark.parametrize(
    "value, error", [("a\n", ValueError), ("\u263a", ValueError), (b"a", TypeError), (1, TypeError)]
)
async def test_invalid_server_header(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="server_header must be"):
        await trio_ws.serve(echo, 0, server_header=value)


async def test_no_server_header() -> None:
    async with connected(server_header=None) as ws:
        assert "Server" not in ws.response.headers
    async with served(server_header=None) as client:
        assert "server" not in (await client.ask(get()))[1]


async def test_headers_of_a_response_take_precedence() -> None:
    def answer(opening: Opening, _: Request) -> Response:
        return opening.respond(200, "", {"X-A": "2", "Server": "other"})

    async with served(headers={"X-A": "1"}, process_request=answer) as client:
        _, headers, _ = await client.ask(get())
        assert (headers["x-a"], headers["server"]) == ("2", "other")


@pytest.mark.parametrize("headers", [{"Upgrade": "x"}, {"Sec-WebSocket-Accept": "x"}])
async def test_handshake_headers_cannot_be_set(headers: dict[str, str]) -> None:
    with pytest.raises(trio_ws.InvalidHeader):
        await trio_ws.serve(echo, 0, host="127.0.0.1", headers=headers)


# -- Origins and hosts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origins, origin, allowed",
    [
        (trio_ws.SAME_HOST, "https://example.org", True),
        (trio_ws.SAME_HOST, "https://evil.example", False),
        (trio_ws.SAME_HOST, None, True),
        (trio_ws.ANY, "https://evil.example", True),
        (["https://pages.example"], "https://pages.example", True),
        (["https://pages.example"], "https://example.org", False),
        (["https://pages.example"], None, False),
        ([re.compile(r"https://\w+\.example"), None], "https://any.example", True),
        ([re.compile(r"https://\w+\.example"), None], None, True),
    ],
)
async def test_origins(origins: Any, origin: str | None, allowed: bool) -> None:
    if allowed:
        async with connected(origins=origins, client={"origin": origin}) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
    else:
        exc = await refusal(origins=origins, client={"origin": origin})
        assert exc.status_code == 403
        assert b"Origin" in exc.body
        assert (b"it is required" in exc.body) is (origin is None)


async def test_pages_of_other_hosts_are_refused_by_default() -> None:
    assert (await refusal(client={"origin": "https://evil.example"})).status_code == 403


async def test_plain_requests_are_allowed_from_every_page() -> None:
    async with served(process_request=lambda opening, _: opening.respond(200)) as client:
        assert (await client.ask(get("/", "Origin: https://evil.example")))[0] == 200


@pytest.mark.parametrize("host", [None, "", "a b", "user@example.org", "example.org/path", "example.org:99999"])
async def test_invalid_host(host: str | None) -> None:
    called: list[Request] = []
    async with served(process_request=lambda _, request: called.append(request)) as client:
        status, headers, _ = await client.ask(get("/", *UPGRADE, host=host))
        assert (status, headers["connection"]) == (400, "close")
    assert not called


@pytest.mark.parametrize(
    "hosts, host, served_",
    [
        (None, "any.example:1", True),
        (["example.org"], "example.org", True),
        (["example.org"], "EXAMPLE.org:8765", True),
        (["Example.org:8765"], "example.org:8765", True),
        (["example.org:8765"], "example.org", False),
        (["example.org"], "other.example", False),
        (["example.org"], "www.example.org", False),
        (["[::1]"], "[::1]:80", True),
        (["[::1]"], "[::1]", True),
        (["::1"], "[::1]:80", True),
        (["münchen.de"], "xn--mnchen-3ya.de:8765", True),
        ({"my_service"}, "my_service", True),
        ([], "example.org", False),
    ],
)
async def test_hosts(hosts: Collection[str] | None, host: str, served_: bool) -> None:
    async with served(hosts=hosts) as client:
        status, _, _ = await client.ask(get("/", *UPGRADE, host=host))
        assert status == (101 if served_ else 421)
        if served_:
            await client.stream.send_all(b"\x88\x80\0\0\0\0")


@pytest.mark.parametrize(
    "target", ["*", "evil:80", "foo", "?a", "http:/a", "ftp://example.org/", "http://", "http:///a"]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_targets_that_are_no_path(target: str, method: str) -> None:
    called: list[Request] = []
    async with served(process_request=lambda _, request: called.append(request)) as client:
        status, headers, body = await client.ask(get(target, *UPGRADE, method=method))
        assert (status, headers["connection"]) == (400, "close")
        assert repr(target) in body.decode()
    assert not called


@pytest.mark.parametrize(
    "target", ["http://user@example.org/", "http://a_b!/", "http://example.org:99999/", "http://example.org#a"]
)
async def test_invalid_hosts_of_targets(target: str) -> None:
    async with served() as client:
        assert (await client.ask(get(target, *UPGRADE)))[0] == 400


async def test_connect_is_another_method() -> None:
    called: list[Request] = []
    async with served(process_request=lambda _, request: called.append(request)) as client:
        assert (await client.ask(get("example.org:443", method="CONNECT")))[0] == 405
    assert not called


@pytest.mark.parametrize(
    "target, host, path",
    [
        ("http://other.example/path?a=b", "other.example", "/path?a=b"),
        ("https://other.example:8443/a//b", "other.example:8443", "/a//b"),
        ("WS://other.example", "other.example", "/"),
        ("wss://[::1]?a", "[::1]", "/?a"),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_the_host_of_a_target_replaces_that_of_the_header(
    target: str, host: str, path: str, version: str
) -> None:
    def answer(opening: Opening, request: Request) -> Response:
        return opening.respond(200, f"{opening.host} {request.headers['Host']} {request.path}")

    async with served(process_request=answer) as client:
        header = "example.org" if version == "1.1" else None
        _, _, body = await client.ask(get(target, version=version, host=header))
        assert body.decode() == f"{host} {host} {path}"


async def test_hosts_and_origins_are_compared_with_the_host_of_the_target() -> None:
    for target, host, status in (
        ("http://example.org/", "evil.example", 101),
        ("http://evil.example/", "example.org", 421),
        ("http://example.net/", "example.org", 403),
    ):
        async with served(hosts=["example.org", "example.net"]) as client:
            origin = "Origin: https://example.org"
            assert (await client.ask(get(target, *UPGRADE, origin, host=host)))[0] == status
            await client.stream.send_all(b"\x88\x80\0\0\0\0")


@pytest.mark.parametrize(
    "options", [{"hosts": "example.org"}, {"hosts": b"a"}, {"hosts": [b"a"]}, {"origins": "https://example.org"}]
)
async def test_options_of_the_wrong_type(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        await trio_ws.serve(echo, 0, host="127.0.0.1", **options)


@pytest.mark.parametrize("host", ["http://example.org", "example.org/", "*.example.org", "", "example.org:x", "a b"])
async def test_hosts_that_no_request_can_have(host: str) -> None:
    with pytest.raises(ValueError, match="each of hosts must be"):
        await trio_ws.serve(echo, 0, host="127.0.0.1", hosts=[host])


# -- Cancellation ----------------------------------------------------------------------------------------------------


async def test_cancelled_in_process_request(nursery: trio.Nursery) -> None:
    entered = trio.Event()

    async def wait(_: Opening, __: Request) -> None:
        entered.set()
        await trio.sleep_forever()

    ours, theirs = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as serving:

            async def serve() -> None:
                await trio_ws.serve_over(theirs, echo, process_request=wait)

            serving.start_soon(serve)
            await ours.send_all(get("/", *UPGRADE))
            await entered.wait()
            scope.cancel()
    client = Client(ours)
    status, headers, _ = await client.ask()
    assert (status, headers["retry-after"], headers["connection"]) == (503, "5", "close")
    assert await client.is_closed()


@pytest.mark.parametrize("begun", [True, False])
async def test_cancelled_after_a_request(begun: bool) -> None:
    async def answer(opening: Opening, request: Request) -> Response:
        if request.path == "/slow":
            await trio.sleep_forever()
        return opening.respond(200, "yes")

    ours, theirs = trio.testing.memory_stream_pair()
    client = Client(ours)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as serving:

            async def serve() -> None:
                await trio_ws.serve_over(theirs, echo, process_request=answer)

            serving.start_soon(serve)
            assert (await client.ask(get()))[0] == 200
            if begun:
                await ours.send_all(get("/slow"))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    # A client that waits for a response gets one; a client that has sent no new request does not.
    if begun:
        assert (await client.ask())[0] == 503
    assert await client.is_closed()
