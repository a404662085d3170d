"""Requests as lists of headers, and back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trio_ws import Request
from trio_ws.exceptions import HeadTooBig, InvalidMessage, TooManyHeaders
from trio_ws.http2.headers import from_request, to_request

from .peers import CONNECT, GET


def read(headers: Sequence[tuple[str, str]], max_head_size: int = 8192, max_headers: int = 100) -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    return to_request(pairs, max_head_size=max_head_size, max_headers=max_headers)


def change(headers: Sequence[tuple[str, str]], **changes: str) -> list[tuple[str, str]]:
    """Return headers with other values of pseudo-headers."""
    return [(name, changes.get(name[1:], value)) for name, value in headers]


@pytest.mark.parametrize(
    "method, path, valid",
    [
        ("GET", "/", True),
        ("GET", "//example.org/", True),
        ("OPTIONS", "/", True),
        ("OPTIONS", "*", True),
        ("GET", "*", False),
        ("GET", "", False),
        ("GET", "a", False),
        ("GET", "?a", False),
        ("GET", "https://example.org/", False),
        ("OPTIONS", "https://example.org/", False),
    ],
)
def test_paths(method: str, path: str, valid: bool) -> None:
    headers = change(GET, method=method, path=path)
    if valid:
        assert read(headers).path == path
    else:
        with pytest.raises(InvalidMessage, match=":path must begin with a slash"):
            read(headers)


@pytest.mark.parametrize("path", ["*", "https://example.org/"])
def test_the_path_of_a_websocket_is_a_path(path: str) -> None:
    with pytest.raises(InvalidMessage, match=":path must begin with a slash"):
        read(change(CONNECT, path=path))


def test_a_cookie_that_is_split_is_one_header() -> None:
    crumbs = [("cookie", f"c{index}=v") for index in range(150)]
    cookie = "; ".join(value for _, value in crumbs)
    limits = {"max_headers": 2, "max_head_size": len(cookie) + 150}
    request = read([*CONNECT, *crumbs], **limits)
    assert request.headers.get_all("Cookie") == [cookie]
    assert request == read([*CONNECT, ("cookie", cookie)], **limits)
    with pytest.raises(TooManyHeaders):
        read([*CONNECT, *crumbs, ("x", "y")], **limits)
    with pytest.raises(HeadTooBig):
        read([*CONNECT, *crumbs, ("cookie", "x" * 150)], **limits)


@pytest.mark.parametrize(
    "scheme, authority, host, equal",
    [
        ("https", "example.org", "Example.ORG", True),
        ("https", "example.org", "example.org:443", True),
        ("https", "EXAMPLE.org:443", "example.org", True),
        ("HTTPS", "example.org", "example.org:443", True),
        ("http", "example.org", "example.org:80", True),
        ("https", "example.org:", "example.org", True),
        ("https", "[::1]", "[::1]:443", True),
        ("https", "example.org:8443", "Example.org:8443", True),
        ("http", "example.org", "example.org:443", False),
        ("https", "example.org", "example.org:80", False),
        ("https", "example.org", "example.org:8443", False),
        ("https", "example.org", "example.com", False),
        ("https", "[::1]", "[::]:1", False),
        ("other", "example.org", "example.org:80", False),
    ],
)
def test_equal_hosts(scheme: str, authority: str, host: str, equal: bool) -> None:
    headers = [*change(CONNECT, scheme=scheme, authority=authority), ("host", host)]
    if equal:
        assert read(headers).headers.get_all("Host") == [authority]
    else:
        with pytest.raises(InvalidMessage, match="Host"):
            read(headers)


@pytest.mark.parametrize("value, sent", [("trailers", True), ("gzip", False), ("trailers, gzip", False)])
def test_te_may_only_name_trailers(value: str, sent: bool) -> None:
    request = Request("/", {"Host": "example.org", "TE": value}, method="CONNECT", protocol="websocket")
    headers = from_request(request, "https")
    assert [each for name, each in headers if name == b"te"] == ([b"trailers"] if sent else [])
    assert to_request(headers, max_head_size=1000, max_headers=10).path == "/"
