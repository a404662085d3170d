"""Routing: the handler and its arguments, responses without a handler, and invalid tables."""

from __future__ import annotations

import inspect
import subprocess
import sys
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import Forbidden
from werkzeug.routing import BaseConverter, Map, Rule, Subdomain

import trio_ws
from trio_ws import Headers, Opening, Request, Response, Router, connect, route
from trio_ws.connection.stream import StreamAdapter
from trio_ws.server.routing import RouteHandler
from trio_ws.testing import memory_websocket_pair

ROOT = Path(__file__).resolve().parent.parent.parent

UPGRADE = Headers(
    {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
)


async def tell(ws: trio_ws.WebSocket, **arguments: object) -> None:
    """Send the client the arguments of the handler."""
    await ws.send(repr(arguments))


def handler(name: str) -> RouteHandler:
    async def tell_name(ws: trio_ws.WebSocket, **arguments: object) -> None:
        await ws.send(f"{name} {arguments}" if arguments else name)

    return tell_name


def make_opening() -> Opening:
    return Opening(StreamAdapter(trio.testing.memory_stream_pair()[0]), None)


def ask(router: Router, path: str, host: str = "example.org", method: str = "GET") -> Response | dict[str, Any]:
    """Return the response of a router, or the arguments of the handler that it has chosen."""
    headers = Headers(UPGRADE)
    headers["Host"] = host
    opening = make_opening()
    response = router.process_request(opening, Request(path, headers, method=method))
    if response is not None:
        assert opening._match is None
        return response
    assert opening._match is not None
    return dict(opening._match[1])


def status(router: Router, path: str, host: str = "example.org", method: str = "GET") -> int:
    answer = ask(router, path, host, method)
    return answer.status_code if isinstance(answer, Response) else 101


def location(router: Router, path: str, host: str = "example.org") -> str:
    answer = ask(router, path, host)
    assert isinstance(answer, Response)
    assert answer.status_code == 308
    return answer.headers["Location"]


@asynccontextmanager
async def serving(router: trio_ws.Handler, **options: Any) -> AsyncIterator[str]:
    """Run a server with real sockets. Yield its URI, without a path."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, router, 0, host="localhost", **options))
        yield f"ws://localhost:{server.port}"
        await server.aclose()


async def hear(uri: str, **options: Any) -> str | bytes:
    async with connect(uri, **options) as ws:
        return await ws.receive()


async def refusal(uri: str, **options: Any) -> trio_ws.InvalidStatus:
    with pytest.raises(trio_ws.InvalidStatus) as caught:
        async with connect(uri, **options):
            pass
    return caught.value


# -- With a server ---------------------------------------------------------------------------------------------------


async def test_each_path_calls_its_handler() -> None:
    table = {"/news": handler("news"), "/": handler("home"), "/chat/<room>": handler("chat")}
    async with serving(route(table)) as uri:
        assert await hear(f"{uri}/news") == "news"
        assert await hear(uri) == "home"
        assert await hear(f"{uri}/news?since=1") == "news"
        assert await hear(f"{uri}/chat/trio?a=b") == "chat {'room': 'trio'}"
        assert await hear(f"{uri}/chat/gr%C3%BC%C3%9Fe%20an%20alle") == "chat {'room': 'grüße an alle'}"


async def test_an_unknown_path_gets_404_in_the_opening_handshake() -> None:
    async with serving(route({"/news": tell})) as uri:
        for path in ("", "/", "/new", "/news/", "/news/1", "//news", "/News"):
            refused = await refusal(uri + path)
            assert (refused.status_code, refused.body) == (404, b"not found, check the URL\n")


async def test_a_redirect_is_followed() -> None:
    table = {"/chat/<room>/": handler("chat")}
    async with serving(route(table)) as uri:
        refused = await refusal(f"{uri}/chat/gr%C3%BC%C3%9Fe?a=%20b", max_redirects=0)
        assert refused.status_code == 308
        assert refused.headers["Location"] == "/chat/gr%C3%BC%C3%9Fe/?a=%20b"
        async with connect(f"{uri}/chat/a%2520b?a=b") as ws:
            assert await ws.receive() == "chat {'room': 'a%20b'}"
            assert ws.request.path == "/chat/a%2520b/?a=b"


async def test_process_request_comes_first() -> None:
    asked: list[str] = []

    def answer(opening: Opening, request: Request) -> Response | None:
        asked.append(request.path)
        return opening.respond(200, "OK\n") if request.path == "/healthz" else None

    async with serving(route({"/news": handler("news")}), process_request=answer) as uri:
        assert (await refusal(f"{uri}/healthz")).status_code == 200
        assert (await refusal(f"{uri}/nowhere")).status_code == 404
        assert await hear(f"{uri}/news") == "news"
    assert asked == ["/healthz", "/nowhere", "/news"]

    auth = trio_ws.basic_auth({"ann": "secret"})
    async with serving(route({"/news": handler("news")}), process_request=[answer, auth]) as uri:
        # A rejected client does not learn which paths exist.
        assert [(await refusal(uri + path)).status_code for path in ("/news", "/nowhere")] == [401, 401]


async def test_process_response_gets_the_response_of_the_router() -> None:
    def change(opening: Opening, request: Request, response: Response) -> Response | None:
        return opening.respond(410, "gone\n") if response.status_code == 404 else None

    async with serving(route({"/news": handler("news")}), process_response=change) as uri:
        assert (await refusal(f"{uri}/nowhere")).status_code == 410
        assert await hear(f"{uri}/news") == "news"


async def test_a_router_within_a_handler() -> None:
    router = route({"/news": handler("news")})
    called: list[str] = []

    async def measured(ws: trio_ws.ServerWebSocket) -> None:
        called.append(ws.request.path)
        await router(ws)

    async with serving(measured, process_request=router.process_request) as uri:
        assert await hear(f"{uri}/news") == "news"
        assert (await refusal(f"{uri}/nowhere")).status_code == 404
    assert called == ["/news"]


async def test_a_router_whose_process_request_was_not_called(caplog: pytest.LogCaptureFixture) -> None:
    router = route({"/": tell})

    async def call_router(ws: trio_ws.ServerWebSocket) -> None:
        await router(ws)

    async with serving(call_router) as uri:
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await hear(uri)
        assert caught.value.code == 1011
    assert "process_request" in caplog.text

    async with memory_websocket_pair() as (_, server):
        with pytest.raises(RuntimeError):
            await router(server)


async def test_a_handler_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(ws: trio_ws.WebSocket) -> None:
        raise LookupError("my own")

    async with serving(route({"/": fail, "/news": handler("news")})) as uri:
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await hear(uri)
        assert caught.value.code == 1011
        assert await hear(f"{uri}/news") == "news"
    assert "my own" in caplog.text


async def test_one_connection_over_a_stream() -> None:
    router = route({"/chat/<int:number>": tell})
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(trio_ws.serve_over, theirs, router)
        async with trio_ws.connect_over(ours, "ws://example.org/chat/7") as ws:
            assert await ws.receive() == "{'number': 7}"
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(trio_ws.serve_over, theirs, router)
        with pytest.raises(trio_ws.InvalidStatus) as caught:
            async with trio_ws.connect_over(ours, "ws://example.org/chat/x"):
                pass
        assert caught.value.status_code == 404


@pytest.mark.parametrize(
    "path, expected", [("/news", 426), ("/nowhere", 404), ("/rooms/1", 308), ("/rooms/1/", 426), ("/news?a=b", 426)]
)
async def test_plain_requests_are_routed_too(path: str, expected: int) -> None:
    router = route({"/news": tell, "/rooms/<room>/": tell})
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, theirs, router)
        await ours.send_all(f"GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n".encode())
        assert (await ours.receive_some()).startswith(f"HTTP/1.1 {expected} ".encode())
        await ours.aclose()


async def test_a_websocket_after_other_requests() -> None:
    router = route({"/news": handler("news")})
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, theirs, router)
        for _ in range(2):
            await ours.send_all(b"GET /nowhere HTTP/1.1\r\nHost: example.org\r\n\r\n")
            assert (await ours.receive_some()).startswith(b"HTTP/1.1 404 ")
        async with trio_ws.connect_over(ours, "ws://example.org/news") as ws:
            assert await ws.receive() == "news"


# -- Paths -----------------------------------------------------------------------------------------------------------

# Any characters that a path in a table may contain.
paths = st.text(st.characters(exclude_characters="<?#", exclude_categories=["Cs"])).map(lambda text: f"/{text}")


@given(paths, st.data())
def test_a_path_is_found_with_any_percent_encoding(path: str, data: st.DataObject) -> None:
    safe = "".join(data.draw(st.sets(st.sampled_from("!$&'()*+,;=:@/~"))))
    router = route({path: tell})
    assert ask(router, "/" + urllib.parse.quote(path[1:], safe=safe)) == {}
    assert ask(router, urllib.parse.quote(path) + "?query=/%") == {}
    assert ask(router, "/" + "".join(f"%{byte:02x}" for byte in path[1:].encode())) == {}
    assert status(router, urllib.parse.quote(path + "x")) == 404


@given(st.text(min_size=1).filter(lambda text: "/" not in text and text.isprintable() and text.isalnum()))
def test_the_value_of_a_converter_is_decoded(text: str) -> None:
    assert ask(route({"/rooms/<room>": tell}), f"/rooms/{urllib.parse.quote(text)}") == {"room": text}


visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(visible.map(lambda text: f"/{text}") | visible, st.sampled_from(["GET", "POST", "HEAD"]))
def test_every_request_gets_a_response(path: str, method: str) -> None:
    table = {"/": tell, "/a": tell, "/a/<x>/": tell, "/b/<int:x>": tell, "/c/<path:x>": tell}
    answer = ask(route(table), path, method=method)
    if isinstance(answer, Response):
        assert answer.status_code in (308, 404)
        if answer.status_code == 308:
            # A redirect leads to an existing path on this host.
            target = answer.headers["Location"]
            assert target.startswith("/")
            assert not target.startswith(("//", "/\\"))
            assert status(route(table), target) == 101


@pytest.mark.parametrize("path", ["/%ff", "/%C3", "/%ED%A0%80", "/chat/%ff"])
def test_a_path_that_is_not_utf8_is_not_found(path: str) -> None:
    assert status(route({"/": tell, "/\ufffd": tell, "/chat/<room>": tell}), path) == 404


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/a%2Fb", 101),
        ("/%61/b", 101),
        ("/a/b", 101),
        ("/a%252Fb", 404),
        ("/a/./b", 404),
        ("/a/x/../b", 404),
        ("/a/b%", 404),
        ("/a/b#", 404),
        ("http://example.org/a/b", 101),
        ("http://example.org/a/b?c", 101),
        ("http://example.org", 404),
        ("*", 404),
    ],
)
def test_equivalent_paths(path: str, expected: int) -> None:
    assert status(route({"/a/b": tell}), path) == expected


def test_a_uri_without_a_path() -> None:
    assert status(route({"/": tell}), "http://example.org") == 101
    assert status(route({"/": tell}), "http://example.org?query") == 101


# -- Converters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern, path, expected",
    [
        ("/<int:x>", "/42", {"x": 42}),
        ("/<int:x>", "/4.2", None),
        ("/<int(min=3):x>", "/2", None),
        ("/<float:x>", "/4.2", {"x": 4.2}),
        ("/<path:x>", "/a/b/c", {"x": "a/b/c"}),
        ("/<any(a, b):x>", "/b", {"x": "b"}),
        ("/<any(a, b):x>", "/c", None),
        ("/<string(length=2):x>", "/de", {"x": "de"}),
        ("/<x>-<y>", "/a-b", {"x": "a", "y": "b"}),
        ("/<x>", "/a%2Fb", None),
        ("/grüße/<x>", "/gr%C3%BC%C3%9Fe/%E2%82%AC", {"x": "€"}),
        ("/<uuid:x>", f"/{uuid.UUID(int=7)}", {"x": uuid.UUID(int=7)}),
    ],
)
def test_converters(pattern: str, path: str, expected: dict[str, Any] | None) -> None:
    answer = ask(route({pattern: tell}), path)
    if expected is None:
        assert isinstance(answer, Response)
        assert answer.status_code == 404
    else:
        assert answer == expected


def test_paths_without_converters_take_precedence() -> None:
    router = route({"/<room>": tell, "/news": partial(tell, room=None)})
    assert ask(router, "/news") == {}
    assert ask(router, "/other") == {"room": "other"}


def test_redirects_of_slashes() -> None:
    router = route({"/rooms/<room>/": tell})
    assert location(router, "/rooms/a?b=c&d") == "/rooms/a/?b=c&d"
    assert location(router, "/rooms//a") == "/rooms/a/"
    assert location(router, "//rooms/a") == "/rooms/a/"
    assert location(router, "/rooms/%5C%5Cexample.com") == "/rooms/%5C%5Cexample.com/"
    assert location(router, "/rooms/a", host="localhost:8765") == "/rooms/a/"
    assert location(router, "http://example.org/rooms/a") == "/rooms/a/"
    # A rule that matches everything must not redirect to another host.
    everything = route({"/<path:anything>/": tell})
    for path in ("//example.com", "/%2Fexample.com", "/%5Cexample.com", "///example.com/x"):
        found = location(everything, path)
        assert found.startswith("/")
        assert not found.startswith(("//", "/\\"))


# -- Maps of werkzeug ------------------------------------------------------------------------------------------------


def test_a_map() -> None:
    router = route(Map([Rule("/a/<int:x>", endpoint=tell), Rule("/b", endpoint=tell, defaults={"y": 1})]))
    assert ask(router, "/a/1") == {"x": 1}
    assert ask(router, "/b") == {"y": 1}
    assert status(router, "/c") == 404
    assert status(route(Map()), "/") == 404


def test_a_map_with_other_rules_than_websocket_rules() -> None:
    router = route(Map([Rule("/page", endpoint="a page"), Rule("/ws", endpoint=tell, websocket=True)]))
    assert status(router, "/ws") == 101
    assert status(router, "/page") == 404


def test_methods() -> None:
    router = route(Map([Rule("/", endpoint=tell, methods=["POST", "PUT"])]))
    answer = ask(router, "/")
    assert isinstance(answer, Response)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST, PUT")
    assert status(router, "/", method="POST") == 101


@pytest.mark.parametrize(
    "target, expected",
    [
        ("/new/<x>", "/new/%C3%A4"),
        ("new/<x>", "/new/%C3%A4"),
        ("/grüße", "/gr%C3%BC%C3%9Fe"),
        ("//other.example/new", "//other.example/new"),
        ("http://other.example/new", "//other.example/new"),
        ("ws://other.example/new", "//other.example/new"),
        ("wss://other.example/new?a=b", "https://other.example/new?a=b"),
        ("https://other.example:444", "https://other.example:444/"),
        ("\\\\other.example", "/%5C%5Cother.example"),
        (lambda adapter, x: f"/new/{len(x)}", "/new/1"),
    ],
)
def test_redirects_of_rules(target: str | Callable[..., str], expected: str) -> None:
    router = route(Map([Rule("/old/<x>", redirect_to=target)]))
    assert location(router, "/old/%C3%A4", host="localhost:8765") == expected


def test_redirects_to_defaults_and_from_aliases() -> None:
    rules = [
        Rule("/all/", defaults={"page": 1}, endpoint=tell),
        Rule("/all/<int:page>", endpoint=tell),
        Rule("/index", defaults={"page": 1}, endpoint=tell, alias=True),
    ]
    for websocket in (True, False):
        for rule in rules:
            rule.websocket = websocket
        router = route(Map([rule.empty() for rule in rules]))
        assert location(router, "/all/1?a=b") == "/all/?a=b"
        assert location(router, "/index") == "/all/"
        assert ask(router, "/all/2") == {"page": 2}


def test_subdomains() -> None:
    map = Map(
        [
            Rule("/", endpoint=tell, defaults={"x": 0}),
            Subdomain("chat", [Rule("/", endpoint=tell), Rule("/room/", endpoint=tell)]),
            Subdomain("<user>", [Rule("/", endpoint=tell)]),
        ]
    )
    router = route(map, server_name="Example.org")
    assert ask(router, "/", "example.org:8765") == {"x": 0}
    assert ask(router, "/", "CHAT.example.org") == {}
    assert ask(router, "/", "ann.example.org") == {"user": "ann"}
    assert location(router, "/room", "chat.example.org:8765") == "/room/"
    for host in ("badexample.org", "example.org.evil.example", "example.com", "127.0.0.1", "[::1]:8765", ""):
        assert status(router, "/", host) == 404
    # Without server_name, subdomains are ignored.
    assert ask(route(map), "/", "chat.example.org") == {"x": 0}


def test_hosts() -> None:
    map = Map(
        [
            Rule("/", endpoint=tell, host="a.example"),
            Rule("/<x>/", endpoint=tell, host="<y>.b.example"),
            Rule("/old", host="a.example", redirect_to="/"),
            Rule("/v6", host="[::1]", endpoint=tell),
        ],
        host_matching=True,
    )
    router = route(map)
    assert ask(router, "/", "A.example:8765") == {}
    assert ask(router, "/1/", "me.b.example") == {"x": "1", "y": "me"}
    assert location(router, "/1", "me.b.example:8765") == "/1/"
    assert location(router, "/old", "a.example") == "/"
    assert ask(router, "/v6", "[::1]:8765") == {}
    assert status(router, "/", "b.example") == 404
    with pytest.raises(ValueError):
        route(map, server_name="a.example")


def test_an_invalid_host() -> None:
    assert status(route({"/<x>": tell}), "/1", "x" * 64 + ".example") == 400


def test_converters_of_the_application() -> None:
    class Secret(BaseConverter):
        def to_python(self, value: str) -> str:
            if value == "secret":
                raise Forbidden
            if value == "broken":
                raise RuntimeError
            return value[::-1]

    router = route(Map([Rule("/<secret:x>", endpoint=tell)], converters={"secret": Secret}))
    assert ask(router, "/abc") == {"x": "cba"}
    assert status(router, "/secret") == 403
    with pytest.raises(RuntimeError):  # the server responds with 500 then
        ask(router, "/broken")


def test_rules_added_later() -> None:
    map = Map([Rule("/a", endpoint=tell)])
    router = route(map)
    map.add(Rule("/b", endpoint=tell))
    assert status(router, "/b") == 101


# -- Invalid tables --------------------------------------------------------------------------------------------------


async def no_arguments(ws: trio_ws.WebSocket) -> None: ...


async def needs_a_room(ws: trio_ws.WebSocket, room: str) -> None: ...


@pytest.mark.parametrize(
    "table, error",
    [
        (None, TypeError),
        ([("/", tell)], TypeError),
        ({b"/": tell}, TypeError),
        ({"/": None}, TypeError),
        ({"/": trio_ws.route({"/": tell})}, TypeError),
        ({"/<x>": "handler"}, TypeError),
        ({"": tell}, ValueError),
        ({"news": tell}, ValueError),
        ({"<x>": tell}, ValueError),
        ({"/news?x=1": tell}, ValueError),
        ({"/news#x": tell}, ValueError),
        ({"/<x": tell}, ValueError),
        ({"/<nothing:x>": tell}, LookupError),
        ({"/<room>": no_arguments}, TypeError),
        ({"/<ws>": no_arguments}, TypeError),
        ({"/": needs_a_room}, TypeError),
        ({"/<name>": needs_a_room}, TypeError),
        (Map([Rule("/", endpoint="page")]), TypeError),
        (Map([Rule("/<x>", endpoint=needs_a_room)]), TypeError),
    ],
)
def test_invalid_tables(table: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        route(table)


def test_handlers_without_a_signature() -> None:
    silent: Any = iter  # like some callables that are not written in Python
    with pytest.raises(ValueError):
        inspect.signature(silent)
    assert ask(route({"/<x>": silent}), "/1") == {"x": "1"}


def test_endpoints_that_need_not_be_handlers() -> None:
    rules = [Rule("/a", endpoint="static", build_only=True), Rule("/b", endpoint=None, redirect_to="/")]
    router = route(Map(rules))
    assert status(router, "/a") == 404
    assert location(router, "/b") == "/"


def test_repr_of_a_router() -> None:
    assert repr(route({"/a": tell, "/<x>": tell})) == "<Router with 2 routes>"
    assert repr(route(Map([Rule("/a", endpoint=tell)]))) == "<Router with 1 route>"


# -- Without werkzeug ------------------------------------------------------------------------------------------------


def test_werkzeug_is_imported_only_for_converters() -> None:
    code = """
import sys, trio_ws
trio_ws.route({"/": print})
assert not [name for name in sys.modules if name.startswith("werkzeug")]
trio_ws.route({"/<file>": print})
assert "werkzeug.routing" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_error_without_werkzeug_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "werkzeug.routing", None)
    with pytest.raises(ImportError) as caught:
        route({"/<file>": tell})
    assert "pip install trio-ws[routing]" in str(caught.value)
    assert status(route({"/news": tell}), "/news") == 101
    nothing: Any = 3
    with pytest.raises(TypeError):
        route(nothing)


def test_a_server_name_without_a_map() -> None:
    for path in ("/", "/<room>"):
        with pytest.raises(TypeError, match="server_name must be given together with a"):
            route({path: handler("x")}, server_name="example.org")
