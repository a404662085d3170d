"""Cookies of requests and responses, and the other parts of a request that applications ask for.

The lines are Cookie or Set-Cookie headers. The first one is also the target of the request.
"""

from __future__ import annotations

import http.cookiejar

from tests.fuzz.harness import instrument, main, outcome

with instrument():
    from trio_ws.client.cookies import Cookies
    from trio_ws.exceptions import InvalidHandshake
    from trio_ws.http11 import Request, Response
    from trio_ws.server.request import decode_path, parse_cookies, parse_query
    from trio_ws.uri import parse_uri

URI = parse_uri("wss://example.org/a/b")


def TestOneInput(data: bytes) -> None:
    target, *lines = data.decode("iso-8859-1").split("\n")
    request = outcome(
        lambda: Request(target, [("Host", "example.org"), *(("Cookie", line) for line in lines)]), InvalidHandshake
    )
    if isinstance(request, Request):
        check_request(request)
    response = outcome(lambda: Response(101, "", [("Set-Cookie", line) for line in lines]), InvalidHandshake)
    if isinstance(response, Response):
        check_response(response)


def check_request(request: Request) -> None:
    decode_path(request)
    parse_query(request)
    cookies = parse_cookies(request)
    for name in cookies:
        assert name
        assert "=" not in name
        assert ";" not in name
    # A client sends back what a server understands, if it may send it at all.
    header = outcome(lambda: Cookies(cookies).header(URI, first_origin=True), ValueError)
    if isinstance(header, str) and all(len(value) < 2 or value[0] != '"' for value in cookies.values()):
        assert parse_cookies(Request("/", {"Cookie": header})) == cookies


def check_response(response: Response) -> None:
    cookies = Cookies(http.cookiejar.CookieJar())
    cookies.store(URI, response)
    header = cookies.header(URI, first_origin=True)
    if header is not None:
        request = Request("/", {"Host": "example.org", "Cookie": header})
        assert request.serialize().count(b"\r\n") == 4
    # Another host gets none of them.
    assert cookies.header(parse_uri("wss://example.com/a/b"), first_origin=False) is None


if __name__ == "__main__":
    main(TestOneInput)
