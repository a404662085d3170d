"""The check of the Origin and Host headers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.exceptions import InvalidOrigin
from trio_ws.http11 import Request
from trio_ws.server.origins import ANY, SAME_HOST, check_origin, is_valid_host, validate_origins


def request(*origins: str, host: str = "example.org") -> Request:
    return Request("/", [("Host", host), *(("Origin", origin) for origin in origins)])


def is_allowed(request: Request, origins: Any) -> bool:
    try:
        check_origin(request, validate_origins(origins))
    except InvalidOrigin:
        return False
    return True


@pytest.mark.parametrize(
    "origin, host",
    [
        ("http://example.org", "example.org"),
        ("https://example.org", "example.org"),
        ("https://EXAMPLE.org", "Example.ORG"),
        ("https://example.org", "example.org:443"),
        ("https://example.org:443", "example.org"),
        ("http://example.org:80", "example.org"),
        ("http://example.org", "example.org:80"),
        ("http://localhost:8765", "localhost:8765"),
        ("http://127.0.0.1:8765", "127.0.0.1:8765"),
        ("http://[::1]:8765", "[::1]:8765"),
        ("http://[::1]", "[::1]"),
    ],
)
def test_pages_of_the_same_host(origin: str, host: str) -> None:
    assert is_allowed(request(origin, host=host), SAME_HOST)


@pytest.mark.parametrize(
    "origin, host",
    [
        ("https://example.com", "example.org"),
        ("https://www.example.org", "example.org"),
        ("https://example.org.evil.example", "example.org"),
        ("https://evil.example/example.org", "example.org"),
        ("https://example.org@evil.example", "example.org"),
        ("https://evil.example#example.org", "example.org"),
        ("https://example.org:8443", "example.org"),
        ("https://example.org", "example.org:80"),
        ("http://example.org", "example.org:443"),
        ("http://localhost:8765", "localhost:8766"),
        ("http://[::1]:8765", "[::2]:8765"),
        ("null", "example.org"),
        ("null", "null"),
        ("", "example.org"),
        ("file://", "example.org"),
        ("example.org", "example.org"),
        ("https://example.org/", "example.org"),
        ("https://example.org https://evil.example", "example.org"),
        ("app://example.org", "example.org:7"),
        ("https://example.org:99999999", "example.org"),
        ("app://example.org:7", "example.org:7"),
        ("ws://example.org", "example.org"),
        ("wss://example.org", "example.org"),
        ("chrome-extension://example.org:80", "example.org:80"),
    ],
)
def test_pages_of_other_hosts(origin: str, host: str) -> None:
    assert not is_allowed(request(origin, host=host), SAME_HOST)


@pytest.mark.parametrize("host", ["example.org", "example.org:8000"])
def test_the_port_of_a_host_behind_a_proxy_does_not_count(host: str) -> None:
    for origin, allowed in (
        ("https://example.org:8443", True),
        ("https://example.org", True),
        ("https://a.org", False),
    ):
        for header in ("example.org:1", "localhost"):  # only the given host counts
            try:
                check_origin(request(origin, host=header), SAME_HOST, host=host, any_port=True)
            except InvalidOrigin:
                assert not allowed
            else:
                assert allowed


@pytest.mark.parametrize(
    "origins, allowed",
    [
        (SAME_HOST, True),
        (ANY, True),
        ([], False),
        (["https://example.org"], False),
        ([None], True),
        ([re.compile(".*")], False),
    ],
)
def test_no_origin(origins: Any, allowed: bool) -> None:
    assert is_allowed(request(), origins) is allowed


@pytest.mark.parametrize("origins", [SAME_HOST, ["https://example.org"], [re.compile(".*")], [None]])
def test_two_origin_headers(origins: Any) -> None:
    assert not is_allowed(request("https://example.org", "https://example.org"), origins)


def test_any_origin_is_allowed() -> None:
    for origin in ("https://evil.example", "null", "", "nonsense"):
        assert is_allowed(request(origin), ANY)


@pytest.mark.parametrize(
    "origin, allowed",
    [
        ("https://example.org", True),
        ("https://example.org:443", True),
        ("HTTPS://Example.Org", True),
        ("http://example.org", False),
        ("https://example.org:444", False),
        ("https://example.org.evil.example", False),
        ("https://a.example.com", True),
        ("https://a.example.com:443", False),
        ("https://a.example.com.evil.example", False),
        ("https://evil.example/https://a.example.com", False),
        ("null", False),
    ],
)
def test_a_list_of_origins(origin: str, allowed: bool) -> None:
    origins = ["https://example.org", re.compile(r"https://\w+\.example\.com")]
    assert is_allowed(request(origin, host="other.example"), origins) is allowed


def test_an_origin_with_a_name_that_is_not_ascii() -> None:
    assert is_allowed(request("https://xn--mnchen-3ya.de"), ["https://münchen.de"])
    assert is_allowed(request("https://xn--mnchen-3ya.de:8443"), ["https://MÜNCHEN.de:8443"])
    assert not is_allowed(request("https://xn--mnchen-3ya.de"), ["https://münchen.de:8443"])
    with pytest.raises(ValueError, match="must have a valid host"):
        validate_origins(["https://\N{SNOWMAN}.example"])


def test_the_null_origin() -> None:
    assert is_allowed(request("null"), ["null"])
    assert not is_allowed(request("null"), [None])


@pytest.mark.parametrize("origins", ["https://example.org", b"https://example.org", re.compile("x"), [1], [b"x"], 1])
def test_origins_of_the_wrong_type(origins: Any) -> None:
    with pytest.raises(TypeError):
        validate_origins(origins)


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/", "https://", "", "*", "https://*.a.b", "https://a b"]
)
def test_invalid_origins(origin: str) -> None:
    with pytest.raises(ValueError, match=r"^each of origins must be like 'https://example\.org', not "):
        validate_origins([origin])


def test_repr_of_the_rules() -> None:
    assert (repr(SAME_HOST), repr(ANY)) == ("trio_ws.SAME_HOST", "trio_ws.ANY")


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:80", "a-b.c_d", "127.0.0.1:1", "[::1]", "[::1]:65535", "a:"]
)
def test_valid_hosts(host: str) -> None:
    assert is_valid_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a b",
        "a/b",
        "user@a",
        "a:b",
        "a:65536",
        "::1",
        "[::1",
        "a,b",
        "[::g]",
        "a:1:2",
        "ä",
        "a#",
        "a?b",
        "[1:2]",
        "[1.2.3.4]",
        "[::::]",
    ],
)
def test_invalid_hosts(host: str) -> None:
    assert not is_valid_host(host)


visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)


@given(visible, visible)
def test_arbitrary_origins_and_hosts(origin: str, host: str) -> None:
    # An origin is allowed only if it has exactly the host of the request.
    if is_allowed(request(origin, host=host), SAME_HOST):
        assert origin.lower().partition("://")[2].partition(":")[0] in host.lower()
