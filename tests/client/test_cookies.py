"""Cookies from mappings and jars. test_redirect.py tests them together with redirects."""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import pytest
from aiohttp import web

import trio_ws
from trio_ws.client.cookies import Cookies
from trio_ws.http11 import Response
from trio_ws.uri import parse_uri

from ..webserver import headers_seen, web_server

HERE = parse_uri("ws://example.org/chat")


def setting(*cookies: str) -> Response:
    return Response(200, "OK", [("Set-Cookie", cookie) for cookie in cookies])


def test_mapping() -> None:
    cookies = Cookies({"a": "1", "b": '"two"', "c": ""})
    assert cookies.header(HERE, first_origin=True) == 'a=1; b="two"; c='
    assert cookies.header(HERE, first_origin=False) is None
    cookies.store(HERE, setting("a=2"))
    assert cookies.header(HERE, first_origin=True) == 'a=1; b="two"; c='


def test_empty_mapping() -> None:
    assert Cookies({}).header(HERE, first_origin=True) is None


@pytest.mark.parametrize(
    "cookies, error",
    [
        ({"": "1"}, r"a cookie name must be a token \(RFC 9110, section 5\.6\.2\), not ''"),
        ({"a b": "1"}, "a cookie name must be a token"),
        ({"a=b": "1"}, "a cookie name must be a token"),
        ({"a\r\nb": "1"}, "a cookie name must be a token"),
        ({"\xe4": "1"}, "a cookie name must be a token"),
        ({"a": "1; b=2"}, r"the cookie 'a' must have a valid value \(RFC 6265, section 4\.1\.1\)$"),
        ({"a": "1 2"}, "must have a valid value"),
        ({"a": "1,2"}, "must have a valid value"),
        ({"a": '"'}, "must have a valid value"),
        ({"a": '"1'}, "must have a valid value"),
        ({"a": "1\r\nX: y"}, "must have a valid value"),
        ({"a": "\xe4"}, "must have a valid value"),
    ],
)
def test_invalid_cookies(cookies: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        trio_ws.connect("ws://example.org", cookies=cookies)


@pytest.mark.parametrize("cookies", [{"a": 1}, {1: "a"}, {"a": b"b"}, "a=b", [("a", "b")], 1])
def test_wrong_types(cookies: Any) -> None:
    with pytest.raises(TypeError, match="cookie"):
        trio_ws.connect("ws://example.org", cookies=cookies)


def test_a_jar_stores_cookies_from_servers() -> None:
    jar = CookieJar()
    cookies = Cookies(jar)
    assert cookies.header(HERE, first_origin=True) is None
    cookies.store(HERE, setting("a=1; Path=/", "b=2; Path=/chat; HttpOnly", "c=3; Secure; Path=/", "gone=1; Max-Age=0"))
    assert {cookie.name for cookie in jar} == {"a", "b", "c"}
    assert cookies.header(HERE, first_origin=True) == "b=2; a=1"
    # The jar chooses the cookies for an origin, whether it is the first one or not.
    assert cookies.header(HERE, first_origin=False) == "b=2; a=1"
    assert cookies.header(parse_uri("ws://example.org/other"), first_origin=True) == "a=1"
    assert cookies.header(parse_uri("wss://example.org/other"), first_origin=True) in {"a=1; c=3", "c=3; a=1"}
    assert cookies.header(parse_uri("ws://other.example/chat"), first_origin=True) is None


def test_a_jar_has_its_own_policy() -> None:
    cookies = Cookies(CookieJar(DefaultCookiePolicy(blocked_domains=["example.org"])))
    cookies.store(HERE, setting("a=1"))
    assert cookies.header(HERE, first_origin=True) is None


def test_a_response_without_cookies() -> None:
    jar = CookieJar()
    Cookies(jar).store(HERE, Response(200, "OK", {}))
    assert not list(jar)


async def test_a_jar_for_several_connections() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path == "/log-in":
            response = web.Response(status=403, text="not here, but you are known now")
            response.set_cookie("session", "abc")
            return response
        if "session" not in request.cookies:
            return web.Response(status=401)
        return await headers_seen(request)

    jar = CookieJar()
    with web_server(handle) as server:
        for path, status in (("/", 401), ("/log-in", 403)):
            with pytest.raises(trio_ws.InvalidStatus) as caught:
                async with trio_ws.connect(f"ws://{server.authority}{path}", cookies=jar):
                    pytest.fail("the connection was opened")
            assert caught.value.status_code == status
        async with trio_ws.connect(f"ws://{server.authority}/", cookies=jar) as ws:
            assert ws.request.headers["Cookie"] == "session=abc"


async def test_a_header_overrides_cookies() -> None:
    with web_server(headers_seen) as server:
        uri = f"ws://{server.authority}/"
        for replacing in ({"headers": {"Cookie": "mine=1"}}, {"credentials": lambda _: {"cookie": "mine=1"}}):
            async with trio_ws.connect(uri, cookies={"a": "b"}, **replacing) as ws:
                assert ws.request.headers.get_all("Cookie") == ["mine=1"]
