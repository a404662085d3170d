"""``Opening``: the data of the request for hooks and handlers, and the state of the application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import Opening, Request, Response
from trio_ws.connection.stream import StreamAdapter
from trio_ws.http11 import RequestParser
from trio_ws.server.request import decode_path, parse_cookies, parse_query

from .test_handshake import UPGRADE, URI, connected, get, served


def parse(path: str = "/", *headers: str) -> Request:
    """Return a request as it comes from the network."""
    request = RequestParser().feed(get(path, *headers))
    assert request is not None
    return request


# -- The parts of a request ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, path",
    [
        ("/", "/"),
        ("/chat/room?x=/y", "/chat/room"),
        ("/?", "/"),
        ("/gr%C3%BC%c3%9fe", "/grüße"),
        ("/a%2Fb", "/a/b"),
        ("/a%252Fb", "/a%2Fb"),
        ("/a+b", "/a+b"),
        ("//example.org/x", "//example.org/x"),
        ("/a%3Fb?c", "/a?b"),
        # Malformed
        ("/%", "/%"),
        ("/%g1/%4", "/%g1/%4"),
        ("/%ff/x", "/\ufffd/x"),
        ("/%C3", "/\ufffd"),
        ("/%ED%A0%80", "/\ufffd\ufffd\ufffd"),
        ("/%00", "/\0"),
    ],
)
def test_path(target: str, path: str) -> None:
    assert decode_path(parse(target)) == path


@pytest.mark.parametrize(
    "target, query",
    [
        ("/", {}),
        ("/?", {}),
        ("/?a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
        ("/?a=&b", {"a": [""], "b": [""]}),
        ("/?a=b=c", {"a": ["b=c"]}),
        ("/?a=1;b=2", {"a": ["1;b=2"]}),
        ("/?a=x?y", {"a": ["x?y"]}),
        ("/?gr%C3%BC%C3%9Fe=a+b%2B", {"grüße": ["a b+"]}),
        ("/?=1&&", {"": ["1"]}),
        # Malformed
        ("/?a=%&b=%zz&c=%ff", {"a": ["%"], "b": ["%zz"], "c": ["\ufffd"]}),
    ],
)
def test_query(target: str, query: dict[str, list[str]]) -> None:
    assert parse_query(parse(target)) == query


@pytest.mark.parametrize(
    "headers, cookies",
    [
        ([], {}),
        ([""], {}),
        (["a=1"], {"a": "1"}),
        (["a=1; b=2;c=3"], {"a": "1", "b": "2", "c": "3"}),
        (["a=1", "b=2"], {"a": "1", "b": "2"}),
        (["a=specific; a=general"], {"a": "specific"}),
        (["a=b=c=="], {"a": "b=c=="}),
        (['a="1"; b=""; c="; d="x'], {"a": "1", "b": "", "c": '"', "d": '"x'}),
        (["a=%20; b=x+y"], {"a": "%20", "b": "x+y"}),
        (["a="], {"a": ""}),
        # Malformed
        (["stray; a=1"], {"a": "1"}),
        (["a=1; =nameless; stray; ;; b=2;"], {"a": "1", "b": "2"}),
        (["a[0]=1; b:c=2; d,e=3; f=g h; i=4"], {"a[0]": "1", "b:c": "2", "d,e": "3", "f": "g h", "i": "4"}),
        (["a=\xff; b=2"], {"a": "\xff", "b": "2"}),
    ],
)
def test_cookies(headers: list[str], cookies: dict[str, str]) -> None:
    request = Request("/", trio_ws.Headers([("Cookie", value) for value in headers]))
    assert parse_cookies(request) == cookies


# -- The attributes of an opening ------------------------------------------------------------------------------------


async def test_hooks_and_handlers_see_the_request() -> None:
    seen: list[object] = []

    def look(opening: Opening) -> None:
        seen.append((opening.path, opening.query, opening.cookies))

    def select(opening: Opening, _: Sequence[str]) -> str | None:
        look(opening)
        return None

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        look(ws.opening)

    async with (
        served(
            handler,
            process_request=lambda opening, _: look(opening),
            process_response=lambda opening, *_: look(opening),
            select_subprotocol=select,
        ) as client,
        trio_ws.connect_over(
            client.stream, "ws://example.org/gr%C3%BC%C3%9Fe?a=1&b", cookies={"c": "2"}, subprotocols=["x"]
        ) as ws,
    ):
        await ws.wait_closed()
    assert seen == 4 * [("/grüße", {"a": ["1"], "b": [""]}, {"c": "2"})]


async def test_the_path_of_a_request_for_a_whole_url() -> None:
    def answer(opening: Opening, _: Request) -> Response:
        return opening.respond(200, f"{opening.path} {opening.query}")

    async with served(process_request=answer) as client:
        assert (await client.ask(get("http://other.example?x=1")))[2] == b"/ {'x': ['1']}"
        assert (await client.ask(get("http://other.example/a%20b?x=1")))[2] == b"/a b {'x': ['1']}"


async def test_malformed_encoding_reaches_the_application() -> None:
    def answer(opening: Opening, _: Request) -> Response:
        assert opening.state == {}
        return opening.respond(200, repr((opening.path, opening.query)))

    async with served(process_request=answer) as client:
        assert (await client.ask(get("/%ff%?%ff=%")))[2] == repr(("/\ufffd%", {"\ufffd": ["%"]})).encode()


async def test_the_parts_of_a_request_can_be_changed_without_effect() -> None:
    openings: list[Opening] = []
    async with connected(process_request=lambda opening, _: openings.append(opening)):
        (opening,) = openings
        opening.query["x"] = ["1"]
        opening.cookies["x"] = "1"
        assert (opening.query, opening.cookies) == ({}, {})
        for name in ("state", "path", "query", "cookies"):
            with pytest.raises(AttributeError):
                setattr(opening, name, {})


async def test_an_opening_without_a_request() -> None:
    """Before a request has arrived."""
    opening = Opening(StreamAdapter(trio.testing.memory_stream_pair()[0]), None)
    assert (opening.path, opening.query, opening.cookies, opening.state) == ("", {}, {}, {})


# -- The state of the application ------------------------------------------------------------------------------------


async def test_state_is_one_object_from_the_first_hook_to_the_handler() -> None:
    states: list[dict[str, Any]] = []

    async def authenticate(opening: Opening, request: Request) -> None:
        states.append(opening.state)
        opening.state["user"] = {"name": request.headers["X-Name"]}

    def select(opening: Opening, offered: Sequence[str]) -> str | None:
        states.append(opening.state)
        return offered[-1]

    def answer(opening: Opening, _: Request, response: Response) -> None:
        states.append(opening.state)
        assert response.status_code == 101

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        states.append(ws.opening.state)
        await ws.send(ws.opening.state["user"]["name"])

    options: dict[str, Any] = {
        "process_request": [authenticate, lambda opening, _: states.append(opening.state)],
        "select_subprotocol": select,
        "process_response": answer,
    }
    client = {"headers": {"X-Name": "ann"}, "subprotocols": ["a", "b"]}
    async with connected(handler, client, **options) as ws:
        assert await ws.receive() == "ann"
    assert len(states) == 5
    assert all(state is states[0] for state in states)


@pytest.mark.parametrize("trusted", [(), ["unix"]])
async def test_each_request_of_a_connection_has_its_own_state(trusted: Sequence[str]) -> None:
    states: list[dict[str, Any]] = []

    def answer(opening: Opening, request: Request) -> Response | None:
        assert (opening.state, opening.username) == ({}, None)
        opening.state["path"] = opening.username = opening.path
        states.append(opening.state)
        return None if "Upgrade" in request.headers else opening.respond(200)

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        assert ws.opening.state is states[-1]
        await ws.send(f"{ws.opening.state['path']} {ws.opening.username}")

    async with served(handler, process_request=answer, trusted_proxies=trusted) as client:
        # Sent together, so that one is read while the other is answered.
        await client.stream.send_all(get("/1") + get("/2"))
        assert [(await client.ask())[0] for _ in range(2)] == [200, 200]
        assert (await client.ask(get("/3", *UPGRADE)))[0] == 101
        assert await client.stream.receive_some() == b"\x81\x05/3 /3"
        await client.stream.send_all(b"\x88\x80\0\0\0\0")
    assert [state["path"] for state in states] == ["/1", "/2", "/3"]


async def test_each_connection_has_its_own_state() -> None:
    seen: list[dict[str, Any]] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        ws.opening.state["n"] = len(seen)
        seen.append(ws.opening.state)

    for _ in range(2):
        async with served(handler) as client, trio_ws.connect_over(client.stream, URI) as ws:
            await ws.wait_closed()
    assert seen == [{"n": 0}, {"n": 1}]


# -- Functions of the application that are wrong ---------------------------------------------------------------------


async def raise_status(*_: object) -> Response:
    """Be a client of another server, which refuses."""
    raise trio_ws.InvalidStatus(Response(403, "Forbidden", {"Set-Cookie": "SECRET"}, b"SECRET"))


def respond_wrongly(opening: Opening, *_: object) -> Response:
    return opening.respond(401, "", {"X-Note": "a\nb"})


@pytest.mark.parametrize("option", ["process_request", "process_response"])
@pytest.mark.parametrize("function", [raise_status, respond_wrongly])
async def test_an_invalid_handshake_of_the_application_is_not_the_clients_fault(
    option: str, function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(**{option: function}) as client:
        status, headers, body = await client.ask(get("/", *UPGRADE))
    assert status == 500
    assert "SECRET" not in f"{headers}{body!r}"
    assert option in caplog.text
    assert caplog.records[-1].exc_info is not None


@pytest.mark.parametrize("option", ["process_request", "process_response"])
@pytest.mark.parametrize("wrong", ["no", (401, "x"), True])
async def test_a_function_that_returns_no_response(
    option: str, wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {option: lambda *_: wrong}
    async with served(**options) as client:
        assert (await client.ask(get("/", *UPGRADE)))[0] == 500
    assert f"{option} must return a Response or None, not {wrong!r}" in caplog.text
