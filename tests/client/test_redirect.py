"""Redirects: resolving them, and following them with a real web server."""

from __future__ import annotations

import json
import ssl
from http.cookiejar import CookieJar
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from trio_ws.client.redirect import is_redirect, resolve_redirect, same_origin
from trio_ws.exceptions import InvalidRedirect, InvalidStatus, OpenTimeout, TLSFailed
from trio_ws.http11 import Response
from trio_ws.uri import WebSocketURI, parse_uri

from ..webserver import WebServer, headers_seen, web_server


def to(*locations: str, status: int = 302) -> Response:
    return Response(status, "Found", [("Location", location) for location in locations])


def show(uri: WebSocketURI) -> str:
    credentials = "" if uri.user_info is None else f"{':'.join(uri.user_info)}@"
    return f"{'wss' if uri.secure else 'ws'}://{credentials}{uri.host_header}{uri.resource_name}"


# -- Where they lead -------------------------------------------------------------------------------------------------


def test_redirect_statuses() -> None:
    for status in range(300, 400):
        assert is_redirect(Response(status, "", {})) is (status in {301, 302, 303, 307, 308})


@pytest.mark.parametrize("status", [101, 200, 404, 500])
def test_other_statuses(status: int) -> None:
    assert not is_redirect(Response(status, "", {"Location": "ws://example.org"}))


@pytest.mark.parametrize(
    "location, target",
    [
        ("ws://other.example/x?y", "ws://other.example/x?y"),
        ("wss://other.example:8443", "wss://other.example:8443/"),
        # Servers know themselves as http and https.
        ("http://other.example/x", "ws://other.example/x"),
        ("https://other.example/x", "wss://other.example/x"),
        ("HTTPS://Other.Example/X", "wss://other.example/X"),
        # Relative to the URI of the request (RFC 3986, section 5.2).
        ("/x", "ws://example.org:81/x"),
        ("x", "ws://example.org:81/a/x"),
        ("../x?y=z", "ws://example.org:81/x?y=z"),
        ("?y", "ws://example.org:81/a/b?y"),
        ("", "ws://example.org:81/a/b?q=1"),
        ("//other.example/x", "ws://other.example/x"),
        # Fragments are ignored.
        ("/x#part", "ws://example.org:81/x"),
        ("  /x ", "ws://example.org:81/x"),
        # The default port is the same origin; see below.
        ("http://example.org:81/x", "ws://example.org:81/x"),
        ("ws://[::1]:9/x", "ws://[::1]:9/x"),
        # What a URI must not contain is encoded, as browsers do.
        ("/p?c[]=a", "ws://example.org:81/p?c%5B%5D=a"),
        ('/p?f={"a":1}', "ws://example.org:81/p?f=%7B%22a%22:1%7D"),
        ("/a b|c^d`e<f>?100%&%zz", "ws://example.org:81/a%20b%7Cc%5Ed%60e%3Cf%3E?100%25&%25zz"),
        ("http://other.example/[x]?[y]#[z]", "ws://other.example/%5Bx%5D?%5By%5D"),
        ("\\\\other.example\\x?a\\b", "ws://other.example/x?a%5Cb"),
        # UTF-8, which headers pass on as ISO 8859-1; and bytes that are not UTF-8.
        ("/é/à".encode().decode("iso-8859-1"), "ws://example.org:81/%C3%A9/%C3%A0"),
        ("http://bücher.example/".encode().decode("iso-8859-1"), "ws://xn--bcher-kva.example/"),
        ("/caf\xe9", "ws://example.org:81/caf%E9"),
    ],
)
def test_locations(location: str, target: str) -> None:
    assert show(resolve_redirect(parse_uri("ws://example.org:81/a/b?q=1"), to(location))) == target


def test_a_location_that_occurs_twice() -> None:
    assert show(resolve_redirect(parse_uri("ws://example.org"), to("/x", " /x"))) == "ws://example.org/x"


@pytest.mark.parametrize("location", ["/x", "http://[fe80::1]:81/x", "?x", "//[FE80::1]:81"])
def test_a_redirect_keeps_the_zone(location: str) -> None:
    target = resolve_redirect(parse_uri("ws://me:secret@[fe80::1%25eth0]:81/"), to(location))
    assert (target.host, target.username) == ("fe80::1%eth0", "me")


def test_a_redirect_to_another_address_has_no_zone() -> None:
    assert resolve_redirect(parse_uri("ws://[fe80::1%25eth0]/"), to("http://[fe80::2]/")).host == "fe80::2"


@pytest.mark.parametrize("location", ["ftp://you:hunter2@example.org/", "ws://you:hunter2@example.org/"])
def test_passwords_in_locations_are_not_shown(location: str) -> None:
    with pytest.raises(InvalidRedirect) as caught:
        resolve_redirect(parse_uri("wss://example.org/"), to(location))
    assert "hunter2" not in str(caught.value)
    assert "you" in str(caught.value)


def test_relative_locations_stay_encrypted() -> None:
    assert show(resolve_redirect(parse_uri("wss://example.org"), to("/x"))) == "wss://example.org/x"
    assert show(resolve_redirect(parse_uri("wss://example.org"), to("//other.example/x"))) == "wss://other.example/x"


@pytest.mark.parametrize(
    "locations, reason",
    [
        ([], "it has no Location"),
        (["/a", "/b"], "it has more than one Location"),
        (["ftp://example.org/"], "the scheme must be ws or wss, not ftp"),
        (["javascript:alert(1)"], "the scheme must be ws or wss"),
        (["ws+unix:/run/app.sock"], "the scheme must be ws or wss"),
        (["/with\ttab"], "must be percent-encoded"),
        (["/x#part\tpart"], "must be percent-encoded"),
        (["ws:///nowhere"], "is not a WebSocket URI"),
        (["ws://example.org:99999/"], "is not a WebSocket URI"),
        (["http://[::1"], "is not a WebSocket URI"),
        (["//exam ple.org/"], "is not a WebSocket URI"),
    ],
)
def test_invalid_locations(locations: list[str], reason: str) -> None:
    response = to(*locations)
    with pytest.raises(InvalidRedirect, match=reason) as caught:
        resolve_redirect(parse_uri("ws://example.org/"), response)
    assert caught.value.response is response


@pytest.mark.parametrize("location", ["ws://example.org/", "http://example.org/", "ws://example.org:443/"])
def test_no_redirect_from_wss_to_ws(location: str) -> None:
    with pytest.raises(InvalidRedirect, match="from wss to ws"):
        resolve_redirect(parse_uri("wss://example.org/"), to(location))


@pytest.mark.parametrize(
    "uri, location, target",
    [
        ("ws://me:secret@example.org/a", "/b", "ws://me:secret@example.org/b"),
        ("ws://me:secret@example.org/a", "http://EXAMPLE.org:80/b", "ws://me:secret@example.org/b"),
        # Another host, port or scheme is another origin.
        ("ws://me:secret@example.org/a", "//other.example/b", "ws://other.example/b"),
        ("ws://me:secret@example.org/a", "//www.example.org/b", "ws://www.example.org/b"),
        ("ws://me:secret@example.org/a", "//example.org:81/b", "ws://example.org:81/b"),
        ("ws://me:secret@example.org/a", "https://example.org/b", "wss://example.org/b"),
        ("ws://me:secret@example.org/a", "https://example.org:80/b", "wss://example.org:80/b"),
        # User information from the server.
        ("ws://me:secret@example.org/a", "ws://you:known@example.org/b", "ws://you:known@example.org/b"),
        ("ws://me:secret@example.org/a", "ws://you:known@other.example/b", "ws://you:known@other.example/b"),
    ],
)
def test_user_information_stays_within_its_origin(uri: str, location: str, target: str) -> None:
    assert show(resolve_redirect(parse_uri(uri), to(location))) == target


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30))
def test_any_location(location: str) -> None:
    uri = parse_uri("wss://me:secret@example.org/a/b?c")
    try:
        target = resolve_redirect(uri, Response(302, "", [("Location", location)]))
    except InvalidRedirect:
        return
    assert target.secure
    assert same_origin(uri, target) or target.user_info != ("me", "secret")


# -- A client --------------------------------------------------------------------------------------------------------


def table(server_of: dict[str, WebServer], routes: dict[str, Any]) -> Any:
    """Return a handler that redirects paths to locations, in which ``{name}`` is the address of a server.

    Other paths accept WebSocket connections.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        route = routes.get(request.path_qs)
        if route is None:
            return await headers_seen(request)
        addresses = {name: server.authority for name, server in server_of.items()}
        return web.Response(status=302, headers={"Location": route.format(**addresses)})

    return handle


async def seen_by(server: WebServer, path: str, **options: Any) -> tuple[str, dict[str, str]]:
    """Connect to a path. Return the path and the headers of the last request, after redirects."""
    async with trio_ws.connect(f"ws://{options.pop('user', '')}{server.authority}{path}", **options) as ws:
        seen = json.loads(str(await ws.receive()))
        assert ws.request.path == seen["path"]
        assert ws.response.status_code == 101
    return seen["path"], dict(seen["headers"])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(status: int) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/from":
            return web.Response(status=status, headers={"Location": "/to?x=1"}, text="go there")
        return await headers_seen(request)

    with web_server(handle) as server:
        path, headers = await seen_by(server, "/from", headers={"X-Mine": "1"}, origin="https://example.org")
        assert path == "/to?x=1"
        assert headers["Host"] == server.authority
        assert headers["X-Mine"] == "1"
        assert headers["Origin"] == "https://example.org"
        assert server.paths == ["/from", "/to?x=1"]
        exc = await refusal(f"ws://{server.authority}/from", max_redirects=0)
        assert type(exc) is InvalidStatus
        assert (exc.status_code, exc.body) == (status, b"go there")


async def refusal(uri: str, **options: Any) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as caught:
        async with trio_ws.connect(uri, **options):
            pytest.fail("the connection was opened")
    return caught.value


@pytest.mark.parametrize("allowed", [1, 3, 10])
async def test_max_redirects(allowed: int) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        left = int(request.path[1:])
        if left:
            raise web.HTTPFound(f"/{left - 1}")
        return await headers_seen(request)

    with web_server(handle) as server:
        assert (await seen_by(server, f"/{allowed}", max_redirects=allowed))[0] == "/0"
        exc = await refusal(f"ws://{server.authority}/{allowed + 1}", max_redirects=allowed)
        assert isinstance(exc, InvalidRedirect)
        assert exc.reason == f"max_redirects is {allowed}"
        assert exc.status_code == 302
        # The target of the last redirect was not requested.
        assert server.paths[-1] == "/1"
        if allowed == 10:
            assert (await seen_by(server, "/10"))[0] == "/0"
            assert isinstance(await refusal(f"ws://{server.authority}/11"), InvalidRedirect)


@pytest.mark.parametrize("route", [["/a"], ["/a", "/b", "/c"]])
async def test_a_circle(route: list[str]) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(route[(route.index(request.path) + 1) % len(route)])

    with web_server(handle) as server:
        exc = await refusal(f"ws://me:secret@{server.authority}/a")
        assert isinstance(exc, InvalidRedirect)
        assert exc.reason == f"it leads in a circle, to ws://{server.authority}/a again"
        assert server.paths == route


async def test_with_another_cookie_it_is_no_circle() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if "seen" in request.cookies:
            return await headers_seen(request)
        response = web.Response(status=302, headers={"Location": "/"})
        response.set_cookie("seen", "1")
        return response

    with web_server(handle) as server:
        assert isinstance(await refusal(f"ws://{server.authority}/"), InvalidRedirect)
        jar = CookieJar()
        _, headers = await seen_by(server, "/", cookies=jar)
        assert headers["Cookie"] == "seen=1"
        assert [(cookie.name, cookie.value) for cookie in jar] == [("seen", "1")]
        # The next request has the cookie.
        server.paths.clear()
        await seen_by(server, "/", cookies=jar)
        assert server.paths == ["/"]


async def test_credentials_and_cookies_stay_within_their_origin() -> None:
    servers: dict[str, WebServer] = {}
    routes = {"/here": "/ws", "/away": "http://{other}/ws", "/and-back": "http://{other}/back", "/back": "//{one}/ws"}
    secrets = {
        "user": "me:secret@",
        "headers": {"Proxy-Authorization": "p", "X-Mine": "mine"},
        "cookies": {"a": "b"},
    }
    with web_server(table(servers, routes)) as one, web_server(table(servers, routes)) as other:
        servers.update(one=one, other=other)
        for path in ("/ws", "/here", "/and-back"):
            _, headers = await seen_by(one, path, **secrets)
            # The user information is lost after a visit to another origin. Headers and cookies return with the origin.
            assert headers.get("Authorization") == (None if path == "/and-back" else "Basic bWU6c2VjcmV0")
            assert headers["Cookie"] == "a=b"
            assert headers["Proxy-Authorization"] == "p"
        path, headers = await seen_by(one, "/away", **secrets)
        assert (path, headers["Host"]) == ("/ws", other.authority)
        assert not {"Authorization", "Cookie", "Proxy-Authorization"} & headers.keys()
        assert headers["X-Mine"] == "mine"
        _, headers = await seen_by(one, "/away", headers={"Host": "one.example"})
        assert headers["Host"] == other.authority


async def test_headers_with_credentials_stay_within_their_origin() -> None:
    servers: dict[str, WebServer] = {}
    routes = {"/away": "http://{other}/ws"}
    secrets = {"authorization": "Bearer x", "COOKIE": "a=b"}
    with web_server(table(servers, routes)) as one, web_server(table(servers, routes)) as other:
        servers.update(other=other)
        for path, there in (("/", {"authorization", "cookie"}), ("/away", set())):
            _, headers = await seen_by(one, path, headers=secrets)
            assert {"authorization", "cookie"} & {name.lower() for name in headers} == there


async def test_credentials_are_fetched_for_each_request_to_the_first_origin() -> None:
    servers: dict[str, WebServer] = {}
    routes = {"/a": "/b", "/b": "/c", "/away": "http://{other}/ws"}
    asked: list[str] = []

    async def credentials(uri: WebSocketURI) -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        asked.append(uri.path)
        return {"Authorization": f"Bearer {len(asked)}"}

    with web_server(table(servers, routes)) as one, web_server(table(servers, routes)) as other:
        servers.update(other=other)
        _, headers = await seen_by(one, "/a", credentials=credentials, headers={"Authorization": "replaced"})
        assert asked == ["/a", "/b", "/c"]
        assert headers["Authorization"] == "Bearer 3"
        _, headers = await seen_by(one, "/away", credentials=lambda uri: {"Authorization": uri.path})
        assert "Authorization" not in headers


async def test_to_tls_and_not_back() -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    servers: dict[str, WebServer] = {}
    routes = {"/": "https://{secure}/ws", "/plain": "http://{plain}/ws", "/here": "/ws"}
    with web_server(table(servers, routes)) as plain, web_server(table(servers, routes), tls=tls) as secure:
        servers.update(plain=plain, secure=secure)
        async with trio_ws.connect(f"wss://{secure.authority}/here", ssl=trusting) as ws:
            assert json.loads(str(await ws.receive()))["path"] == "/ws"
        exc = await refusal(f"wss://{secure.authority}/plain", ssl=trusting)
        assert isinstance(exc, InvalidRedirect)
        assert "from wss to ws" in exc.reason
        assert plain.paths == []
        # The certificate is verified, and this authority is not trusted.
        with pytest.raises(TLSFailed, match="certificate not accepted"):
            async with trio_ws.connect(f"ws://{plain.authority}/"):
                pytest.fail("the connection was opened")


async def test_server_hostname_applies_to_the_first_origin() -> None:
    authority = trustme.CA()
    contexts = []
    for name in ("first.example", "127.0.0.1"):
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        authority.issue_cert(name).configure_cert(contexts[-1])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    servers: dict[str, WebServer] = {}
    routes = {"/": "https://{other}/ws", "/here": "/ws"}
    with (
        web_server(table(servers, routes), tls=contexts[0]) as first,
        web_server(table(servers, routes), tls=contexts[1]) as other,
    ):
        servers.update(other=other)
        for path in ("/here", "/"):
            uri = f"wss://{first.authority}{path}"
            async with trio_ws.connect(uri, ssl=trusting, server_hostname="first.example") as ws:
                assert json.loads(str(await ws.receive()))["path"] == "/ws"
        assert other.paths == ["/ws"]


async def test_open_timeout_limits_all_redirects(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    async def redirect(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await trio.sleep(6)
        await stream.send_all(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: //slow.example/\r\n\r\n")

    async def open_tcp_stream(host: str, *_: Any, **__: Any) -> trio.abc.Stream:
        if host == "slow.example":
            await trio.sleep_forever()
        client, server = trio.testing.memory_stream_pair()
        nursery.start_soon(redirect, server)
        return client

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(OpenTimeout) as caught:
        async with trio_ws.connect("ws://example.org/", open_timeout=10):
            pytest.fail("the connection was opened")
    assert (caught.value.peer, caught.value.seconds) == ("slow.example", 10)
    assert trio.current_time() == 10


@pytest.mark.parametrize(
    "max_redirects, error", [(-1, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)]
)
def test_invalid_max_redirects(max_redirects: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_redirects must be"):
        trio_ws.connect("ws://example.org", max_redirects=max_redirects)
