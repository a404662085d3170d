"""Requests and responses: validation, serialization, parsing in any chunks, and exact limits."""

from __future__ import annotations

import copy
import gzip
import http
import pickle
import platform
import random
import re
import string
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_ws.datastructures import Headers
from trio_ws.exceptions import BodyTooBig, HeadTooBig, InvalidHeader, InvalidMessage, TooManyHeaders
from trio_ws.http11 import Request, RequestParser, Response, ResponseParser, TunnelParser
from trio_ws.http11.body import MAX_BODY_SIZE, decode_body
from trio_ws.http11.messages import reason_phrase, software
from trio_ws.http11.parsers import MAX_CHUNK_HEADER_SIZE, MAX_HEAD_SIZE, MAX_HEADERS, MAX_INTERIM_RESPONSES

from .protocol.strategies import deterministic, one_by_one

REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\n"
    b"Host: example.org\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    b"\r\n"
)
LENGTH = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3;name=value\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
)
UNTIL_EOF = b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nhello"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OLD = b"HTTP/1.0 400 Bad Request\r\n\r\nbad"


def parse_request(data: bytes, **limits: int) -> Request:
    request = RequestParser(**limits).feed(data)
    assert request is not None
    return request


def parse_response(data: bytes, **limits: int) -> Response:
    """Parse a response that consists of these bytes and the end of the stream."""
    parser = ResponseParser(**limits)
    response = parser.feed(data) or parser.feed(b"")
    assert response is not None
    return response


def raw(message: Request | Response) -> list[tuple[str, str]]:
    return list(message.headers.raw_items())


# -- Request and Response as values --------------------------------------------------------------------------


def test_request_fields_in_order() -> None:
    error = ValueError("x")
    request = Request("/chat", Headers(Host="a"), error)
    assert request.path == "/chat"
    assert request.headers == Headers(Host="a")
    assert request._exception is error
    assert request.method == "GET"
    assert request.http_version == "1.1"
    assert request == Request(
        path="/chat", headers=Headers(Host="a"), _exception=error, method="GET", http_version="1.1"
    )


def test_response_fields_in_order() -> None:
    error = ValueError("x")
    response = Response(403, "Forbidden", Headers(Server="a"), b"no", error)
    assert response.status_code == 403
    assert response.reason_phrase == "Forbidden"
    assert response.headers == Headers(Server="a")
    assert response.body == b"no"
    assert response._exception is error
    assert response == Response(
        status_code=403, reason_phrase="Forbidden", headers=Headers(Server="a"), body=b"no", _exception=error
    )


def test_additional_fields_are_keyword_only() -> None:
    arguments: tuple[Any, ...] = ("/", [], None, "GET")
    with pytest.raises(TypeError):
        Request(*arguments)


def test_optional_fields() -> None:
    assert Request("/", Headers())._exception is None
    assert Response(200, "OK", Headers()).body is None
    assert Response(200, "OK", Headers())._exception is None


@pytest.mark.parametrize(
    "make",
    [
        lambda exception: Request("/", Headers(), exception),
        lambda exception: Request("/", Headers(), _exception=exception),
        lambda exception: Response(200, "OK", Headers(), None, exception),
        lambda exception: Response(200, "OK", Headers(), _exception=exception),
    ],
    ids=["request positional", "request keyword", "response positional", "response keyword"],
)
def test_the_exception_is_not_compared(make: Callable[[Exception | None], Request | Response]) -> None:
    error = ValueError("x")
    assert make(error)._exception is error
    assert make(error) == make(None) == make(KeyError("y"))
    assert "ValueError" not in repr(make(error))


MESSAGES: dict[str, tuple[Any, str, Any]] = {
    "request": (Request("/", {"Host": "a"}), "path", "/other"),
    "response": (Response(200, "OK", {"Server": "a"}, b"x"), "body", b"y"),
}
messages = pytest.mark.parametrize("message, name, value", MESSAGES.values(), ids=MESSAGES.keys())


@messages
def test_messages_compare_by_content(message: Any, name: str, value: Any) -> None:
    same = attrs.evolve(message)
    assert same is not message
    assert same == message
    assert attrs.evolve(message, **{name: value}) != message
    assert attrs.evolve(message, headers=Headers(Other="x")) != message
    assert message != None  # noqa: E711


@messages
def test_messages_are_immutable(message: Any, name: str, value: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(message, name, value)
    with pytest.raises(AttributeError):
        message.extra = 1
    assert not hasattr(message, "__dict__")


@messages
def test_messages_are_not_hashable(message: Any, name: str, value: Any) -> None:
    # Their headers can change.
    with pytest.raises(TypeError):
        hash(message)


@messages
def test_messages_can_be_pickled_and_copied(message: Any, name: str, value: Any) -> None:
    assert pickle.loads(pickle.dumps(message)) == message
    other = copy.deepcopy(message)
    assert other == message
    assert other.headers is not message.headers


@pytest.mark.parametrize(
    "make",
    [lambda headers: Request("/", headers), lambda headers: Response(200, "OK", headers)],
    ids=["request", "response"],
)
def test_messages_copy_the_headers(make: Callable[[Any], Request | Response]) -> None:
    headers = Headers([("Cookie", "a"), ("cookie", "b")])
    message = make(headers)
    assert message.headers is not headers
    headers["Cookie"] = "c"
    del message.headers["Cookie"]
    message.headers["X"] = "y"
    assert list(headers.raw_items()) == [("Cookie", "a"), ("cookie", "b"), ("Cookie", "c")]
    assert raw(message) == [("X", "y")]


@pytest.mark.parametrize(
    "make",
    [lambda headers: Request("/", headers), lambda headers: Response(200, "OK", headers)],
    ids=["request", "response"],
)
def test_headers_are_made_from_anything(make: Callable[[Any], Request | Response]) -> None:
    assert type(make({"A": "a"}).headers) is Headers
    assert raw(make({"A": "a"})) == raw(make([("A", "a")])) == [("A", "a")]
    with pytest.raises(InvalidHeader):
        make({"A": "a\r\nB: b"})
    with pytest.raises(TypeError):
        make(None)


@pytest.mark.parametrize("path", ["/", "/a?b", "*", "http://example.org/", "/%20"])
def test_request_paths(path: str) -> None:
    assert Request(path, []).path == path


@pytest.mark.parametrize(
    "path", ["", "/a b", "/\r\n", "/\0", "/\x7f", "/é", "/\u2028", "/ HTTP/1.1\r\nX: y"], ids=ascii
)
def test_request_paths_that_would_break_the_request_line(path: str) -> None:
    with pytest.raises(InvalidMessage):
        Request(path, [])


@pytest.mark.parametrize("method", ["", "G T", "GET\r\n", "GÉT", "G(T", "GET/"], ids=ascii)
def test_request_methods_are_tokens(method: str) -> None:
    assert Request("/", [], method="M-SEARCH").method == "M-SEARCH"
    with pytest.raises(InvalidMessage):
        Request("/", [], method=method)


@pytest.mark.parametrize("version", ["", "1", "1.1\r\n", "1.10", "HTTP/1.1", "x.y", "1.²"], ids=ascii)
def test_request_versions(version: str) -> None:
    assert Request("/", [], http_version="1.0").http_version == "1.0"
    with pytest.raises(InvalidMessage):
        Request("/", [], http_version=version)


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": b"/"},
        {"path": None},
        {"method": b"GET"},
        {"method": None},
        {"http_version": 1.1},
    ],
    ids=repr,
)
def test_request_fields_of_another_type(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(TypeError, match=f"^{name} must be a str, not {arguments[name]!r}$"):
        Request(**{"path": "/", "headers": [], **arguments})


@pytest.mark.parametrize("status_code", [100, 101, 200, 599])
def test_response_status_codes(status_code: int) -> None:
    assert Response(status_code, "", []).status_code == status_code


@pytest.mark.parametrize("status_code", [-1, 0, 99, 600, 1000, True])
def test_invalid_response_status_codes(status_code: int) -> None:
    with pytest.raises(InvalidMessage):
        Response(status_code, "", [])


def test_response_status_code_is_a_plain_int() -> None:
    assert type(Response(http.HTTPStatus.OK, "", []).status_code) is int


@pytest.mark.parametrize("phrase", ["", "OK", "I'm a teapot", "a\tb", "déjà vu", " OK "])
def test_response_reason_phrases(phrase: str) -> None:
    response = Response(200, phrase, [])
    assert response.reason_phrase == phrase
    assert parse_response(response.serialize()).reason_phrase == phrase


@pytest.mark.parametrize("phrase", ["\r", "\n", "OK\r\nX: y", "\0", "\x1b", "\x7f", "€"], ids=ascii)
def test_response_reason_phrases_that_would_break_the_status_line(phrase: str) -> None:
    with pytest.raises(InvalidMessage):
        Response(200, phrase, [])


def test_every_character_of_a_reason_phrase() -> None:
    accepted = []
    for character in map(chr, [*range(0x180), 0x2028, 0x1F600]):
        try:
            accepted.append(Response(200, character, []).reason_phrase)
        except InvalidMessage:
            pass
    assert accepted == ["\t", *map(chr, range(0x20, 0x7F)), *map(chr, range(0x80, 0x100))]


@pytest.mark.parametrize(
    "arguments",
    [
        {"status_code": "200"},
        {"status_code": 200.0},
        {"status_code": None},
        {"reason_phrase": b"OK"},
        {"reason_phrase": None},
        {"body": "text"},
        {"body": 5},
    ],
    ids=repr,
)
def test_response_fields_of_another_type(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(TypeError, match=f"^{name} must be .*, not "):
        Response(**{"status_code": 200, "reason_phrase": "OK", "headers": [], **arguments})


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_response_body_is_bytes(kind: Callable[[bytes], Any]) -> None:
    body = kind(b"body")
    response = Response(200, "OK", [], body)
    assert type(response.body) is bytes
    assert response.body == b"body"


# -- Serializing ---------------------------------------------------------------------------------------------


def test_serialize_request() -> None:
    request = Request("/chat", [("Host", "example.org"), ("Cookie", "a"), ("cookie", "b")])
    assert request.serialize() == b"GET /chat HTTP/1.1\r\nHost: example.org\r\nCookie: a\r\ncookie: b\r\n\r\n"


def test_serialize_response_that_upgrades() -> None:
    response = Response(101, "Switching Protocols", {"Upgrade": "websocket", "Connection": "Upgrade"})
    data = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    assert response.serialize() == data


def test_serialize_response_with_a_body() -> None:
    response = Response(403, "Forbidden", {"Server": "x"}, b"no")
    assert response.serialize() == b"HTTP/1.1 403 Forbidden\r\nServer: x\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("body", [None, b""])
def test_serialize_response_without_a_body(body: bytes | None) -> None:
    response = Response(403, "", [], body)
    assert response.serialize() == b"HTTP/1.1 403 \r\nContent-Length: 0\r\n\r\n"


def test_serialize_response_with_its_own_content_length() -> None:
    response = Response(200, "OK", {"content-length": "2"}, b"hi")
    assert response.serialize() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.mark.parametrize("body", [b"hello", b""])
def test_serialize_response_that_is_chunked(body: bytes) -> None:
    response = Response(200, "OK", {"Transfer-Encoding": "chunked"}, body)
    assert b"Content-Length" not in response.serialize()
    assert parse_response(response.serialize()).body == body


def test_serialize_response_whose_body_must_be_empty() -> None:
    assert Response(205, "", []).serialize() == b"HTTP/1.1 205 \r\nContent-Length: 0\r\n\r\n"
    assert parse_response(b"HTTP/1.1 205 \r\nContent-Length: 4\r\n\r\nbody").body == b"body"
    with pytest.raises(InvalidMessage, match="a 205 response must not have a body"):
        Response(205, "", [], b"body").serialize()


@pytest.mark.parametrize("status_code", [100, 102, 204, 304])
def test_serialize_response_that_has_no_body(status_code: int) -> None:
    data = Response(status_code, "", []).serialize()
    assert data == b"HTTP/1.1 %d \r\n\r\n" % status_code
    with pytest.raises(InvalidMessage):
        Response(status_code, "", [], b"body").serialize()


@pytest.mark.parametrize("headers", [{"content-length": "0"}, {"Transfer-Encoding": "chunked"}], ids=repr)
def test_serialize_interim_response_with_a_length(headers: dict[str, str]) -> None:
    # RFC 9110, section 8.6, and RFC 9112, section 6.1.
    with pytest.raises(InvalidMessage):
        Response(101, "Switching Protocols", headers).serialize()


@pytest.mark.parametrize(
    "headers, body",
    [
        ({"Content-Length": "3"}, b"hi"),
        ({"Content-Length": "1"}, b"hi"),
        ({"Content-Length": "x"}, b"hi"),
        ({"Transfer-Encoding": "gzip"}, b"hi"),
    ],
    ids=["body too short", "body too long", "no number", "unknown coding"],
)
def test_serialize_rejects_a_response(headers: dict[str, str], body: bytes) -> None:
    response = Response(200, "OK", headers, body)
    with pytest.raises(InvalidMessage) as caught:
        response.serialize()
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "request_",
    [
        Request("/", []),
        Request("/", [("Host", "a"), ("Host", "b")]),
        Request("/", [("Host", "a"), ("Content-Length", "x")]),
        # We only send HTTP/1.1.
        Request("/", [("Host", "a")], http_version="1.0"),
    ],
    ids=["no Host", "two Hosts", "bad Content-Length", "HTTP/1.0"],
)
def test_serialize_rejects_a_request(request_: Request) -> None:
    with pytest.raises(InvalidMessage) as caught:
        request_.serialize()
    assert caught.value.__cause__ is not None


def test_serialize_other_methods() -> None:
    data = b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"
    assert Request("example.org:443", {"Host": "example.org:443"}, method="CONNECT").serialize() == data


def test_serialize_headers_that_are_not_ascii() -> None:
    assert b"\r\nX: d\xe9j\xe0\r\n" in Request("/", {"Host": "a", "X": "déjà"}).serialize()
    assert b"\r\nX: d\xe9j\xe0\r\n" in Response(200, "OK", {"X": "déjà"}).serialize()
    assert b"\r\nX: d\xe9j\xe0\r\n" in Response(101, "OK", {"X": "déjà"}).serialize()


def test_serialize_trims_values() -> None:
    assert b"\r\nX: a b\r\n" in Request("/", {"Host": "a", "X": " \ta b\t "}).serialize()
    assert b"\r\nX: a b\r\n" in Response(200, "OK", {"X": " \ta b\t "}).serialize()
    assert b"\r\nX: a b\r\n" in Response(101, "OK", {"X": " \ta b\t "}).serialize()


# -- Parsing requests ----------------------------------------------------------------------------------------


def test_parse_request() -> None:
    parser = RequestParser()
    request = parser.feed(REQUEST)
    assert request == Request(
        "/chat?room=1",
        [
            ("Host", "example.org"),
            ("Upgrade", "websocket"),
            ("Connection", "keep-alive, Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ],
    )
    assert request is not None
    assert raw(request)[4] == ("Sec-WebSocket-Version", "13")
    assert parser.unused == b""


def test_parse_request_one_byte_at_a_time() -> None:
    parser = RequestParser()
    *earlier, last = [parser.feed(piece) for piece in one_by_one(REQUEST)]
    assert set(map(type, earlier)) == {type(None)}
    assert last == parse_request(REQUEST)


@pytest.mark.parametrize("rest", [b"\x81\x85" + bytes(9), b"\r\n", REQUEST], ids=["frame", "CRLF", "request"])
def test_data_after_a_request_is_unused(rest: bytes) -> None:
    parser = RequestParser()
    assert parser.feed(REQUEST + rest) is not None
    assert parser.unused == rest


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_feed_takes_other_bytes(kind: Callable[[bytes], bytes]) -> None:
    assert RequestParser().feed(kind(REQUEST)) == parse_request(REQUEST)
    assert ResponseParser().feed(kind(SWITCH)) == parse_response(SWITCH)


def test_parse_request_without_upgrade() -> None:
    request = parse_request(b"POST /x HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
    assert request.method == "POST"
    assert request.http_version == "1.0"
    assert raw(request) == [("Content-Length", "3")]


def test_parse_request_leaves_its_body_alone() -> None:
    parser = RequestParser()
    assert parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcdef") is not None
    assert parser.unused == b"abcdef"


def test_parse_request_with_an_unusual_method() -> None:
    assert parse_request(b"!#$ / HTTP/1.1\r\nHost: a\r\n\r\n").method == "!#$"


@pytest.mark.parametrize("first", [b"\x16", b"\0", b"\rG", b"\n", b" "], ids=repr)
@pytest.mark.parametrize("parser_type", [RequestParser, ResponseParser])
def test_data_that_is_not_http_is_rejected_at_once(
    parser_type: type[RequestParser | ResponseParser], first: bytes
) -> None:
    with pytest.raises(InvalidMessage):
        parser_type().feed(first)


def test_parse_request_of_another_version() -> None:
    # The handshake rejects it with 505.
    assert parse_request(b"GET / HTTP/2.0\r\n\r\n").http_version == "2.0"


def test_parse_request_values() -> None:
    request = parse_request(b"GET / HTTP/1.1\r\nHost:a\r\nX: \t d\xe9j\xe0  vu \t\r\nEmpty:\r\nX:\ta\tb\r\n\r\n")
    assert raw(request) == [("Host", "a"), ("X", "déjà  vu"), ("Empty", ""), ("X", "a\tb")]


def test_parse_request_with_bare_newlines() -> None:
    # RFC 9112, section 2.2, allows a recipient to accept LF alone as the end of a line.
    parser = RequestParser()
    request = parser.feed(b"GET / HTTP/1.1\nHost: a\n\nrest")
    assert request == Request("/", {"Host": "a"})
    assert parser.unused == b"rest"


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_an_empty_line_before_a_request_is_ignored(size: int) -> None:
    # RFC 9112, section 2.2.
    parser, data = RequestParser(), b"\r\n" + REQUEST
    *earlier, last = [parser.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert set(map(type, earlier)) <= {type(None)}
    assert last == parse_request(REQUEST)
    assert parser.unused == b""


def test_a_request_that_ends_within_an_empty_line() -> None:
    for data in (b"\r", b"\r\n"):
        parser = RequestParser()
        assert parser.feed(data) is None
        with pytest.raises(InvalidMessage, match="before the end of the request"):
            parser.feed(b"")


def test_parse_request_with_folded_lines() -> None:
    # RFC 9112, section 5.2: reject it, or replace each fold by a space.
    request = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n  b\r\n\tc\r\n\r\n")
    assert request.headers["X"] == "a b c"


BAD_REQUESTS = {
    "no request line": b"\r\n\r\n",
    "two empty lines": b"\r\n\r\n" + REQUEST,
    "CR at the start": b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no request line, LF": b"\n\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "NUL": b"\x00",
    "space at the start": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "one word": b"GET\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "bad version": b"GET / HTTP/x\r\nHost: a\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "version of three numbers": b"GET / HTTP/1.1.1\r\nHost: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the path": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "path not ASCII": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the path": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "method no token": b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "name no token": b"GET / HTTP/1.1\r\nHost: a\r\nX(: x\r\n\r\n",
    "name not ASCII": b"GET / HTTP/1.1\r\nHost: a\r\n\xc3\xa9: x\r\n\r\n",
    "fold before the first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "CR in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "CR twice": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "escape in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[2J\r\n\r\n",
    "DEL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
    "Content-Length no number": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "Content-Length signed": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
    "Content-Length twice": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["at once", "one by one"])
def test_bad_requests(data: bytes, cut: Callable[[bytes], list[bytes]]) -> None:
    parser = RequestParser()
    with pytest.raises(InvalidMessage) as caught:
        for piece in cut(data):
            assert parser.feed(piece) is None
    assert type(caught.value) is InvalidMessage
    assert caught.value.status == 400


def test_unknown_transfer_coding_is_501() -> None:
    # RFC 9112, section 6.1.
    with pytest.raises(InvalidMessage) as caught:
        parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n")
    assert caught.value.status == 501


@pytest.mark.parametrize("size", [0, 1, 20, len(REQUEST) - 1])
def test_request_that_ends_too_early(size: int) -> None:
    parser = RequestParser()
    if size:
        assert parser.feed(REQUEST[:size]) is None
    with pytest.raises(InvalidMessage) as caught:
        parser.feed(b"")
    assert type(caught.value) is InvalidMessage


def test_reasons_are_short() -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x" * 30_000 + b"\r\n\r\n")
    assert len(caught.value.reason) <= 200


# Bytes of other protocols, what the error names, and whether they can be a response in the beginning.
NOT_HTTP: dict[str, tuple[bytes, str]] = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01", r"TLS.* '\x16\x03\x01\x02\x00\x01'"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n", "HTTP/2.* 'PRI * HTTP/2.0'"),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", "SSH.* 'SSH-2.0-OpenSSH_9.9'"),
    "SMTP": (b"HELO relay.test\r\n", "'HELO relay.test'"),
    "banner": (b"220 mail.test ESMTP ready\r\n", "'220 mail.test ESMTP ready'"),
    "PROXY 1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY protocol.* 'PROXY TCP4 192.0.2.1"),
    "PROXY 2": (b"\r\n\r\n\0\r\nQUIT\n!!", "PROXY protocol"),
    "HTTP/0.9": (b"GET /\r\n", "'GET /'"),
    "binary": (b"\xff\xfd\x18", r"'ÿý\x18'"),
    "escapes": (b"a\x1b[2J\x9b\x7f", r"'a\x1b[2J\x9b\x7f'"),
}


@pytest.mark.parametrize("data, shown", NOT_HTTP.values(), ids=NOT_HTTP)
@pytest.mark.parametrize("parser_type", [RequestParser])
def test_other_protocols_are_recognized_at_their_first_line(
    parser_type: type[RequestParser | ResponseParser], data: bytes, shown: str
) -> None:
    with pytest.raises(InvalidMessage, match=".*".join(map(re.escape, shown.split(".*")))) as caught:
        parser_type().feed(data)
    assert type(caught.value) is InvalidMessage
    assert caught.value.reason.isprintable()
    # It does not matter in which pieces they arrive.
    parser = parser_type()
    with pytest.raises(InvalidMessage):
        for piece in one_by_one(data):
            assert parser.feed(piece) is None


@pytest.mark.parametrize("data", [b'{"type": "hello"}', b"hello world, hello", b"GET /\xc3\xa9", b"GET / FTP"])
def test_what_cannot_be_a_request_line_is_refused_before_its_end(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"not an HTTP/1\.1 request"):
        RequestParser().feed(data)


HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\n"
EXPLAINED: dict[str, tuple[type[RequestParser | ResponseParser], bytes, str]] = {
    "a header": (RequestParser, HEAD + b"X : y\r\n\r\n", "this is not a header: 'X : y'"),
    "a NUL": (RequestParser, HEAD + b"X: a\0b\r\n\r\n", r"this is not a header: 'X: a\x00b'"),
    "an escape": (RequestParser, HEAD + b"X: \x1b[2J\r\n\r\n", r"this is not a header: 'X: \x1b[2J'"),
    "a fold": (RequestParser, HEAD + b"X: a\r\n b\r\nY\r\n\r\n", "this is not a header: 'Y'"),
    "an early fold": (RequestParser, HEAD[:16] + b" X: a\r\n\r\n", "this is not a header: ' X: a'"),
    "no Host": (RequestParser, b"GET / HTTP/1.1\r\n\r\n", "there must be exactly one Host header"),
    "a length": (RequestParser, HEAD + b"Content-Length: \xe9\r\n\r\n", "invalid Content-Length: 'é'"),
    "a coding": (RequestParser, HEAD + b"Transfer-Encoding: br\r\n\r\n", "invalid Transfer-Encoding: 'br'"),
    "a status": (ResponseParser, b"HTTP/1.1 2x0 OK\r\n", "its first line is not a status line: 'HTTP/1.1 2x0 OK'"),
    "a chunk": (ResponseParser, ANSWER + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", "malformed chunk in the body"),
    "a long chunk header": (
        ResponseParser,
        ANSWER + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 10_000,
        "a chunk header, or the trailers, of more than 4096 bytes",
    ),
    "an early end": (
        ResponseParser,
        ANSWER + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
        "the connection was closed before the end of the body",
    ),
    "101 of a proxy": (
        TunnelParser,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "a proxy must not respond to CONNECT with 'HTTP/1.1 101 Switching Protocols'",
    ),
}


@pytest.mark.parametrize("parser_type, data, reason", EXPLAINED.values(), ids=EXPLAINED)
def test_errors_quote_the_line_and_not_h11(
    parser_type: type[RequestParser | ResponseParser], data: bytes, reason: str
) -> None:
    parser = parser_type()
    with pytest.raises(InvalidMessage) as caught:
        if parser.feed(data) is None:
            parser.feed(b"")
    assert caught.value.reason == reason
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "message, reason",
    [
        (Request("/", {}), "not a valid request: there must be exactly one Host header"),
        (Request("/", {"Host": "a"}, http_version="1.0"), "not a valid request: the version must be HTTP/1.1"),
        (Response(200, "OK", {"Content-Length": "1"}), "not a valid response: the body must not be shorter than"),
        (Response(200, "OK", {"Content-Length": "x"}), "not a valid response: Content-Length must be a number"),
        (Response(200, "OK", {"Transfer-Encoding": "br"}), "not a valid response: Transfer-Encoding must be chunked"),
    ],
    ids=["no Host", "version", "short body", "length", "coding"],
)
def test_errors_about_our_own_messages(message: Request | Response, reason: str) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        message.serialize()


# -- Parsing responses ---------------------------------------------------------------------------------------


def test_parse_response_that_upgrades() -> None:
    parser = ResponseParser()
    response = parser.feed(SWITCH + b"\x81\x05hello")
    assert response == Response(
        101,
        "Switching Protocols",
        {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        },
    )
    assert response is not None
    assert response.body is None
    assert parser.unused == b"\x81\x05hello"


RESPONSES = {
    "switch": (SWITCH, 101, None),
    "length": (LENGTH, 403, b"hello"),
    "length 0": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, b""),
    "length twice, the same": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5, 5\r\n\r\nhello", 403, b"hello"),
    "chunked": (CHUNKED, 503, b"hello"),
    "chunked, empty": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""),
    "chunked, upper case": (
        b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        200,
        b"0123456789",
    ),
    "chunked beats length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        200,
        b"hi",
    ),
    "until EOF": (UNTIL_EOF, 200, b"hello"),
    "until EOF, empty": (b"HTTP/1.1 200 OK\r\n\r\n", 200, b""),
    "no content": (NO_CONTENT, 204, None),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, None),
    "HTTP/1.0": (OLD, 400, b"bad"),
    "no reason phrase": (b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", 500, b""),
    "no reason phrase, no space": (b"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", 500, b""),
    "after an interim response": (CONTINUE + EARLY_HINTS + SWITCH, 101, None),
    "shorter than the interim response": (EARLY_HINTS + b"HTTP/1.1 204\r\n\r\n", 204, None),
    "body after an interim response": (EARLY_HINTS + CHUNKED, 503, b"hello"),
    # h11 refuses these. Browsers and curl do not, and the user of a client cannot change what a server sends.
    "spaces in the status line": (b"HTTP/1.1 \t 404 \t Not Found \r\nContent-Length: 2\r\n\r\nhi", 404, b"hi"),
    "control character in the reason": (b"HTTP/1.1 403 \x1b[2Jno\r\nContent-Length: 2\r\n\r\nhi", 403, b"hi"),
    "control character in a value": (
        b"HTTP/1.1 403 No\r\nX: \x01\r\nY: a\x7f\r\nContent-Length: 2\r\n\r\nhi",
        403,
        b"hi",
    ),
    "space before the colon": (b"HTTP/1.1 403 No\r\nX : x\r\nContent-Length\t : 2\r\n\r\nhi", 403, b"hi"),
    "folded lines": (b"HTTP/1.1 403 No\r\nX: x\r\n y\r\nContent-Length:\r\n\t2\r\n\r\nhi", 403, b"hi"),
    "identity": (b"HTTP/1.1 403 No\r\nTransfer-Encoding: Identity\r\nContent-Length: 2\r\n\r\nhi", 403, b"hi"),
    "empty coding": (b"HTTP/1.1 403 No\r\nTransfer-Encoding:\r\nContent-Length: 2\r\n\r\nhi", 403, b"hi"),
    "two codings": (b"HTTP/1.1 403 No\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 403, b"hi"),
    "chunked twice": (
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        403,
        b"hi",
    ),
    "chunked beats invalid length": (
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        403,
        b"hi",
    ),
    "unknown coding until EOF": (
        b"HTTP/1.1 403 No\r\nContent-Length: 2\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        403,
        b"hello",
    ),
    "no content, invalid length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 1, 2\r\n\r\n", 204, None),
    "switch with a length": (SWITCH[:-2] + b"Content-Length: x\r\n\r\n", 101, None),
    "switch with a coding": (SWITCH[:-2] + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 101, None),
    "switch in lower case": (SWITCH.lower().replace(b"http/", b"HTTP/"), 101, None),
    "switch without a reason": (SWITCH.replace(b" Switching Protocols", b""), 101, None),
}


@pytest.mark.parametrize("data, status_code, body", RESPONSES.values(), ids=RESPONSES.keys())
@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["at once", "one by one"])
def test_parse_response(data: bytes, status_code: int, body: bytes | None, cut: Callable[[bytes], list[bytes]]) -> None:
    parser = ResponseParser()
    response = None
    for piece in [*cut(data), b""]:
        response = parser.feed(piece)
        if response is not None:
            break
    assert response is not None
    assert (response.status_code, response.body) == (status_code, body)
    assert parser.unused == b""


@pytest.mark.parametrize("name", [name for name in RESPONSES if "EOF" not in name and name != "HTTP/1.0"])
def test_data_after_a_response_is_unused(name: str) -> None:
    data, status_code, body = RESPONSES[name]
    for rest in [b"\x81\x05hello", b"x" * 10_000]:
        parser = ResponseParser()
        response = parser.feed(data + rest)
        assert response is not None
        assert (response.status_code, response.body) == (status_code, body)
        assert parser.unused == rest


def test_parse_response_headers_and_reason() -> None:
    response = parse_response(b"HTTP/1.1 200 d\xe9j\xe0 vu\r\nSet-Cookie: a\r\nset-cookie: \xff\r\n\r\n")
    assert response.reason_phrase == "déjà vu"
    assert raw(response) == [("Set-Cookie", "a"), ("set-cookie", "\xff")]


def test_headers_are_shown_as_they_came() -> None:
    response = parse_response(
        b"HTTP/1.1 403 a\x1b\x7fb\r\nA : \x01x\ty\r\nTransfer-Encoding: gzip\r\nB:\r\n"
        b"Content-length: 1,\r\n 1\r\nB: 2\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n"
    )
    assert response.reason_phrase == "a  b"
    assert raw(response) == [
        ("A", "x\ty"),
        ("Transfer-Encoding", "gzip"),
        ("B", ""),
        ("Content-length", "1, 1"),
        ("B", "2"),
        ("transfer-encoding", "Chunked"),
    ]


@pytest.mark.parametrize(
    "data, text",
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "it is not HTTP, but begins with 'SSH-2.0-OpenSSH_9.9'"),
        (b"220 mail.test ESMTP ready\r\n", "it is not HTTP, but begins with '220 mail.test ESMTP ready'"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", r"it is not HTTP, but begins with '\x15\x03\x01\x00\x02\x02'"),
        (b"\x00\x00\x12\x04\x00\x9b", r"it is not HTTP, but begins with '\x00\x00\x12\x04\x00\x9b'"),
        (b"H", ""),
        (b"HTT", ""),
        (b"HX", "it is not HTTP, but begins with 'HX'"),
        (b"http/1.1 200 OK\r\n", "it is not HTTP, but begins with 'http/1.1 200 OK'"),
        (b"<html>" + b"x" * 1000, f"it is not HTTP, but begins with '<html>{'x' * 74}'..."),
        (b"HTTP/1.1 OK\r\n", "its first line is not a status line: 'HTTP/1.1 OK'"),
        (b"HTTP/1.1 OK", ""),
        (b"HTTP/1.1 2000 OK\n", "its first line is not a status line: 'HTTP/1.1 2000 OK'"),
        (SWITCH[:-2] + b"X\x1b\r\n\r\n", "a line is not a header: 'X '"),
        (b"HTTP/1.1 200 OK\r\n X: y\r\n\r\n", "its first header begins with a space: ' X: y'"),
        (CONTINUE + b"SSH-2.0\r\n", "it is not HTTP, but begins with 'SSH-2.0'"),
    ],
    ids=ascii,
)
def test_what_is_not_http_is_recognized_by_its_first_line(data: bytes, text: str) -> None:
    parser = ResponseParser()
    if not text:
        assert parser.feed(data) is None
        return
    with pytest.raises(InvalidMessage) as caught:
        parser.feed(data)
    assert caught.value.reason.startswith(text)
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize("parser_type", [ResponseParser, TunnelParser])
def test_errors_do_not_show_the_parser(parser_type: type[ResponseParser]) -> None:
    for data in BAD_RESPONSES.values():
        reason = ""
        parser = parser_type()
        try:
            parser.feed(data)
            parser.feed(b"")
        except InvalidMessage as exc:
            reason = exc.reason
        assert not re.search("bytearray|_SWITCH|h11|event|proposal|InformationalResponse", reason)


def test_headers_of_interim_responses_are_dropped() -> None:
    assert "Link" not in parse_response(EARLY_HINTS + SWITCH).headers


BAD_RESPONSES = {
    "request": REQUEST,
    "no status line": b"\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x0a",
    "HTTP/0.9": b"<html>\r\n\r\n",
    "other protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "lower-case version": b"http/1.1 200 OK\r\n\r\n",
    "version 2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "version 0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "switching in version 1.0": b"HTTP/1.0 101 Switching Protocols\r\n\r\n",
    "switching in version 2.0": b"HTTP/2.0 101 Switching Protocols\r\n\r\n",
    "no status code": b"HTTP/1.1\r\n\r\n",
    "status code of two digits": b"HTTP/1.1 99 x\r\n\r\n",
    "status code of four digits": b"HTTP/1.1 1000 x\r\n\r\n",
    "status code 000": b"HTTP/1.1 000 x\r\n\r\n",
    "status code 099": b"HTTP/1.1 099 x\r\n\r\n",
    "status code 600": b"HTTP/1.1 600 x\r\n\r\n",
    "status code no number": b"HTTP/1.1 2x0 x\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 \0\r\n\r\n",
    "CR in the reason": b"HTTP/1.1 200 a\rb\r\n\r\n",
    "NUL in an interim response": b"HTTP/1.1 100 OK\r\nX: \0\r\n\r\n" + SWITCH,
    "empty line after an interim response": CONTINUE + b"\r\n" + SWITCH,
    "Content-Length no number": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "Content-Length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
    "Content-Length too long": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 21 + b"\r\n\r\n",
    "chunk size no number": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "chunk size negative": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    "chunk size too long": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 21 + b"\r\n",
    "chunk longer than it says": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz",
    "bad trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx y\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["at once", "one by one"])
def test_bad_responses(data: bytes, cut: Callable[[bytes], list[bytes]]) -> None:
    parser = ResponseParser()
    with pytest.raises(InvalidMessage) as caught:
        for piece in cut(data):
            assert parser.feed(piece) is None
    assert type(caught.value) is InvalidMessage


@pytest.mark.parametrize("data", [SWITCH, LENGTH, CHUNKED, EARLY_HINTS + SWITCH])
@pytest.mark.parametrize("size", [0, 1, 30, -1])
def test_response_that_ends_too_early(data: bytes, size: int) -> None:
    parser = ResponseParser()
    if size:
        assert parser.feed(data[:size]) is None
    with pytest.raises(InvalidMessage) as caught:
        parser.feed(b"")
    assert type(caught.value) is InvalidMessage


def test_partial() -> None:
    parser = ResponseParser()
    assert parser.partial is None
    parser.feed(LENGTH[:20])
    assert parser.partial is None
    parser.feed(LENGTH[20:-5])
    assert parser.partial == Response(403, "Forbidden", {"Content-Length": "5"}, b"")
    parser.feed(LENGTH[-5:-2])
    assert parser.partial == Response(403, "Forbidden", {"Content-Length": "5"}, b"hel")
    with pytest.raises(InvalidMessage):
        parser.feed(b"")
    assert parser.partial == Response(403, "Forbidden", {"Content-Length": "5"}, b"hel")


def test_partial_becomes_the_response() -> None:
    parser = ResponseParser()
    assert parser.feed(LENGTH) == parser.partial


# -- Responses of proxies-------------------------------------------------------------------------------------

TUNNELS = {
    "plain": b"HTTP/1.1 200 Connection established\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nProxy-Agent: x\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "any 2xx": b"HTTP/1.1 299 x\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "after an interim response": CONTINUE + EARLY_HINTS + b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("name", TUNNELS)
@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["at once", "one by one"])
def test_a_tunnel_begins_after_the_headers(name: str, cut: Callable[[bytes], list[bytes]]) -> None:
    parser = TunnelParser()
    *pieces, last = cut(TUNNELS[name])
    for piece in pieces:
        assert parser.feed(piece) is None
        assert parser.partial is None
    response = parser.feed(last + b"hello")
    assert response is not None
    assert response.status_code // 100 == 2
    assert response.body is None
    assert parser.partial == response
    assert parser.unused == b"hello"


@pytest.mark.parametrize("name", [name for name, (_, status_code, _) in RESPONSES.items() if status_code >= 300])
def test_a_rejection_is_an_ordinary_response(name: str) -> None:
    data, status_code, body = RESPONSES[name]
    parser = TunnelParser()
    response = parser.feed(data) or parser.feed(b"")
    assert response is not None
    assert (response.status_code, response.body) == (status_code, body)


# What a head says about a body is not for tunnels (RFC 9110, section 9.3.6).
BAD_TUNNELS = {"switch": SWITCH} | {name: BAD_RESPONSES[name] for name in BAD_RESPONSES if "Content-Length" not in name}


@pytest.mark.parametrize("name", [name for name in BAD_RESPONSES if "Content-Length" in name])
def test_a_tunnel_has_no_length(name: str) -> None:
    response = TunnelParser().feed(BAD_RESPONSES[name])
    assert response is not None
    assert response.body is None


@pytest.mark.parametrize("data", BAD_TUNNELS.values(), ids=BAD_TUNNELS)
def test_bad_responses_of_proxies(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        parser = TunnelParser()
        if parser.feed(data) is not None and parser.unused:
            # A tunnel has no body that could be invalid.
            raise InvalidMessage("it is too early for that")
        parser.feed(b"")


# -- Limits --------------------------------------------------------------------------------------------------


def test_default_limits() -> None:
    assert MAX_BODY_SIZE == 1024 * 1024
    assert 8 * 1024 <= MAX_HEAD_SIZE <= 64 * 1024
    assert MAX_HEADERS >= 100


def head(first_line: bytes, size: int) -> bytes:
    """Return a head of this size."""
    start = first_line + b"\r\nHost: a\r\nX: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


HEADS: dict[str, tuple[type[RequestParser | ResponseParser], bytes, bytes]] = {
    "request": (RequestParser, b"GET / HTTP/1.1", b""),
    "switch": (ResponseParser, b"HTTP/1.1 101 OK", b""),
    "no body": (ResponseParser, b"HTTP/1.1 204 OK", b""),
    "body": (ResponseParser, b"HTTP/1.1 200 OK\r\nContent-Length: 5", b"hello"),
    "chunked body": (ResponseParser, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("parser_type, first_line, body", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["at once", "one by one"])
@pytest.mark.parametrize("limit", [100, MAX_HEAD_SIZE])
def test_head_size(
    parser_type: type[RequestParser | ResponseParser],
    first_line: bytes,
    body: bytes,
    cut: Callable[[bytes], list[bytes]],
    limit: int,
) -> None:
    limits = {} if limit == MAX_HEAD_SIZE else {"max_head_size": limit}
    rest = b"\x81\x05hello"
    longest = head(first_line, limit)
    assert len(longest) == limit
    parser = parser_type(**limits)
    results = [parser.feed(piece) for piece in cut(longest + body)]
    assert results[-1] is not None

    # Data after the head does not count.
    parser = parser_type(**limits)
    assert parser.feed(longest + body + rest * limit) == results[-1]
    assert parser.unused == rest * limit

    parser = parser_type(**limits)
    with pytest.raises(HeadTooBig) as caught:
        for piece in cut(head(first_line, limit + 1) + body):
            assert parser.feed(piece) is None
    assert (caught.value.limit, caught.value.status) == (limit, 431)


@pytest.mark.parametrize("parser_type", [RequestParser, ResponseParser])
def test_head_that_does_not_end(parser_type: type[RequestParser | ResponseParser]) -> None:
    parser = parser_type(max_head_size=100)
    start = b"HTTP/1.1 200 " if parser_type is ResponseParser else b""
    assert not start or parser.feed(start) is None
    for _ in range(100 - len(start)):
        assert parser.feed(b"x") is None
    with pytest.raises(HeadTooBig):
        parser.feed(b"x")


def test_heads_of_interim_responses_count_too() -> None:
    data = CONTINUE + EARLY_HINTS + SWITCH
    assert parse_response(data, max_head_size=len(data)).status_code == 101
    for pieces in [data], one_by_one(data), [CONTINUE, EARLY_HINTS, SWITCH]:
        parser = ResponseParser(max_head_size=len(data) - 1)
        with pytest.raises(HeadTooBig):
            for piece in pieces:
                assert parser.feed(piece) is None


def test_number_of_interim_responses() -> None:
    data = CONTINUE * MAX_INTERIM_RESPONSES
    assert parse_response(data + SWITCH).status_code == 101
    with pytest.raises(InvalidMessage) as caught:
        parse_response(data + CONTINUE + SWITCH)
    assert type(caught.value) is InvalidMessage


FIRST_LINES = [
    (RequestParser, b"GET / HTTP/1.1\r\nHost: a\r\n", 1),
    (ResponseParser, b"HTTP/1.1 101 OK\r\n", 0),
    (ResponseParser, b"HTTP/1.1 204 OK\r\n", 0),
]


@pytest.mark.parametrize("parser_type, first_line, count", FIRST_LINES, ids=["request", "switch", "other response"])
@pytest.mark.parametrize("limit", [3, MAX_HEADERS])
def test_number_of_headers(
    parser_type: type[RequestParser | ResponseParser], first_line: bytes, count: int, limit: int
) -> None:
    limits = {} if limit == MAX_HEADERS else {"max_headers": limit}
    result = parser_type(**limits).feed(first_line + b"X: y\r\n" * (limit - count) + b"\r\n")
    assert result is not None
    assert len(raw(result)) == limit
    with pytest.raises(TooManyHeaders) as caught:
        parser_type(**limits).feed(first_line + b"X: y\r\n" * (limit - count + 1) + b"\r\n")
    assert (caught.value.limit, caught.value.status) == (limit, 431)


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "Content-Length": lambda body: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
    "one chunk": lambda body: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(body, len(body)),
    "chunks": lambda body: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(body, 9000),
    "until EOF": lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body,
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS.keys())
@pytest.mark.parametrize("limit", [0, 10, MAX_BODY_SIZE])
@pytest.mark.parametrize("piece_size", [1, 1000, 2**24], ids=["one by one", "1000 bytes", "at once"])
def test_body_size(framing: Callable[[bytes], bytes], limit: int, piece_size: int) -> None:
    if limit == MAX_BODY_SIZE and piece_size == 1:
        piece_size = 50_000
    limits = {} if limit == MAX_BODY_SIZE else {"max_body_size": limit}
    body = (b"0123456789abcdef" * (limit // 16 + 1))[:limit]

    def feed(parser: ResponseParser, data: bytes) -> Response | None:
        for i in range(0, len(data), piece_size):
            if (result := parser.feed(data[i : i + piece_size])) is not None:
                return result
        return parser.feed(b"")

    if limit or framing is not FRAMINGS["one chunk"]:
        response = feed(ResponseParser(**limits), framing(body))
        assert response is not None
        assert response.body == body

    parser = ResponseParser(**limits)
    with pytest.raises(BodyTooBig) as caught:
        feed(parser, framing(body + b"x"))
    assert caught.value.limit == limit
    # The beginning of the body is available.
    assert parser.partial is not None
    assert parser.partial.body == body


@pytest.mark.parametrize("piece_size", [1, 100, 100_000])
def test_size_of_a_chunk_header(piece_size: int) -> None:
    def feed(size: int) -> Response | None:
        parser = ResponseParser()
        line = b"2;" + b"x" * (size - 4) + b"\r\n"
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n" + line + b"hi\r\n0\r\n\r\n"
        results = [parser.feed(data[i : i + piece_size]) for i in range(0, len(data), piece_size)]
        return results[-1]

    response = feed(MAX_CHUNK_HEADER_SIZE)
    assert response is not None
    assert response.body == b"xhi"
    with pytest.raises(InvalidMessage) as caught:
        feed(MAX_CHUNK_HEADER_SIZE + 1)
    assert "closed" not in caught.value.reason


@pytest.mark.parametrize("piece_size", [1, 100, 100_000])
def test_size_of_trailers(piece_size: int) -> None:
    def feed(size: int) -> Response | None:
        parser = ResponseParser()
        trailers = b"A: b\r\nX: " + b"x" * (size - 13) + b"\r\n\r\n"
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" + trailers
        results = [parser.feed(data[i : i + piece_size]) for i in range(0, len(data), piece_size)]
        return results[-1]

    response = feed(MAX_CHUNK_HEADER_SIZE)
    assert response is not None
    assert response.body == b"hi"
    with pytest.raises(InvalidMessage) as caught:
        feed(MAX_CHUNK_HEADER_SIZE + 1)
    assert "closed" not in caught.value.reason


#: A limit in seconds of processor time. It takes a thousandth of that, but many seconds if time is quadratic.
CHEAP = 5.0

# Each of these would take seconds with a simpler regular expression.
SLOW = {
    "spaces and NUL": b"X:" + b" " * 32_000 + b"\0",
    "spaces and vertical tab": b"X:" + b" \t" * 16_000 + b"\x0b",
    "spaces and form feed": b"X: x" + b" " * 32_000 + b"\x0c",
    "spaces and CR": b"X:" + b" " * 32_000 + b"\rx",
    "words and NUL": b"X:" + b" x" * 16_000 + b"\0",
    "folds and NUL": b"X:" + b"\r\n " * 10_000 + b"\0",
    "name without end": b"x" * 32_000 + b" ",
    "empty headers": b"\r\n".join([b"X:"] * 8_000),
}


@pytest.mark.parametrize("line", SLOW.values(), ids=SLOW.keys())
@pytest.mark.parametrize(
    "parser_type, first_line",
    [(RequestParser, b"GET / HTTP/1.1\r\nHost: a\r\n"), (ResponseParser, b"HTTP/1.1 101 OK\r\n")],
    ids=["request", "response"],
)
def test_a_hostile_head_is_cheap(
    parser_type: type[RequestParser | ResponseParser], first_line: bytes, line: bytes
) -> None:
    data = first_line + line + b"\r\n\r\n"
    assert len(data) <= MAX_HEAD_SIZE
    before = time.process_time()
    with pytest.raises(InvalidMessage):
        parser_type().feed(data)
    assert time.process_time() - before < CHEAP


@pytest.mark.parametrize(
    "parser_type, first_line",
    [(RequestParser, b"GET / HTTP/1.1\r\nHost: a\r\n"), (ResponseParser, b"HTTP/1.1 101 OK\r\n")],
    ids=["request", "response"],
)
def test_a_head_in_many_chunks_is_cheap(parser_type: type[RequestParser | ResponseParser], first_line: bytes) -> None:
    # Searching the whole head for an empty line after each byte would take many seconds.
    data = first_line + b"X:\r\n" * 8_000
    assert len(data) <= MAX_HEAD_SIZE
    parser = parser_type()
    before = time.process_time()
    for position in range(len(data)):
        assert parser.feed(data[position : position + 1]) is None
    assert time.process_time() - before < CHEAP


def test_hostile_trailers_are_cheap() -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX:" + b" " * 32_000 + b"\0\r\n\r\n"
    before = time.process_time()
    with pytest.raises(InvalidMessage):
        ResponseParser().feed(data)
    assert time.process_time() - before < CHEAP


# -- Properties ----------------------------------------------------------------------------------------------


def result_of(parser: RequestParser | ResponseParser, pieces: Iterable[bytes]) -> list[Any]:
    """Return everything observable after feeding these pieces and the end of the stream."""
    pieces = iter(pieces)
    outcome: list[Any] = ["nothing"]
    try:
        for piece in pieces:
            if (message := parser.feed(piece)) is not None:
                outcome = ["message", message, raw(message), parser.unused + b"".join(pieces)]
                break
        else:
            if (message := parser.feed(b"")) is not None:
                outcome = ["message", message, raw(message), parser.unused]
    except InvalidMessage as exc:
        outcome = ["error", type(exc), exc.status]
    if isinstance(parser, ResponseParser):
        outcome.append(parser.partial)
    return outcome


def cut_at(data: bytes, positions: Sequence[int]) -> list[bytes]:
    borders = [0, *sorted({position % (len(data) + 1) for position in positions}), len(data)]
    pieces = [data[start:end] for start, end in pairwise(borders)]
    return [piece for piece in pieces if piece]


positions = st.lists(st.integers(0, 10_000), max_size=10)

GOOD_REQUESTS = [REQUEST, REQUEST + b"\x81\x80abcd", b"POST / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n\n"]
GOOD_RESPONSES = [data for data, _, _ in RESPONSES.values()] + [SWITCH + b"\x81\x00", LENGTH + b"more", CHUNKED + b"x"]
ANY_LIMITS: list[dict[str, int]] = [{}, {"max_head_size": 60}, {"max_headers": 1}]


@settings(deterministic, max_examples=200)
@given(st.sampled_from([*GOOD_REQUESTS, *BAD_REQUESTS.values()]), st.sampled_from(ANY_LIMITS), positions)
def test_chunks_of_a_request_do_not_matter(data: bytes, limits: dict[str, int], at: list[int]) -> None:
    expected = result_of(RequestParser(**limits), [data])
    assert result_of(RequestParser(**limits), cut_at(data, at)) == expected
    assert result_of(RequestParser(**limits), one_by_one(data)) == expected


@settings(deterministic, max_examples=300)
@given(
    st.sampled_from([*GOOD_RESPONSES, *BAD_RESPONSES.values()]),
    st.sampled_from([*ANY_LIMITS, {"max_body_size": 3}, {"max_body_size": 5}]),
    positions,
)
def test_chunks_of_a_response_do_not_matter(data: bytes, limits: dict[str, int], at: list[int]) -> None:
    expected = result_of(ResponseParser(**limits), [data])
    assert result_of(ResponseParser(**limits), cut_at(data, at)) == expected
    assert result_of(ResponseParser(**limits), one_by_one(data)) == expected


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """Messages with a part that is missing, repeated or replaced."""
    data = draw(st.sampled_from(whole))
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 20)))
    other = draw(
        st.binary(max_size=4)
        | st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b":", b"0\r\n", data[:end]])
    )
    return data[:start] + other + data[end:]


@settings(deterministic, max_examples=300)
@given(damaged(GOOD_REQUESTS), positions)
def test_damaged_requests(data: bytes, at: list[int]) -> None:
    expected = result_of(RequestParser(), [data] if data else [])
    assert result_of(RequestParser(), cut_at(data, at)) == expected


@settings(deterministic, max_examples=400)
@given(damaged(GOOD_RESPONSES), positions)
def test_damaged_responses(data: bytes, at: list[int]) -> None:
    expected = result_of(ResponseParser(), [data] if data else [])
    assert result_of(ResponseParser(), cut_at(data, at)) == expected


@deterministic
@given(st.binary())
@example(b"\r\n")
def test_any_bytes(data: bytes) -> None:
    for parser in RequestParser(), ResponseParser():
        result_of(parser, [data])


names = st.text(string.ascii_letters + "-", min_size=1, max_size=10).filter(
    lambda name: name.lower() not in {"host", "content-length", "transfer-encoding"}
)
values = st.text([chr(i) for i in [9, *range(0x20, 0x7F), *range(0x80, 0x100)]], max_size=10)
headers = st.lists(st.tuples(names, values.map(lambda value: value.strip(" \t"))), max_size=5)
visible = st.text([chr(i) for i in range(0x21, 0x7F)], max_size=10)
phrases = st.text([chr(i) for i in [9, *range(0x20, 0x7F), *range(0x80, 0x100)]], max_size=10)


@deterministic
@given(visible, headers)
def test_request_round_trip(path: str, pairs: list[tuple[str, str]]) -> None:
    request = Request(f"/{path}", [("Host", "example.org"), *pairs])
    parser = RequestParser()
    parsed = parser.feed(request.serialize())
    assert parsed == request
    assert parsed is not None
    assert raw(parsed) == raw(request)
    assert parser.unused == b""


@deterministic
@given(st.integers(100, 599), phrases, headers, st.none() | st.binary(max_size=20))
@example(101, "Switching Protocols", [], None)
@example(204, "No Content", [], None)
@example(205, "Reset Content", [], b"body")
def test_response_round_trip(status_code: int, phrase: str, pairs: list[tuple[str, str]], body: bytes | None) -> None:
    bodiless = status_code < 200 or status_code in (204, 304)
    if status_code == 205:
        body = b""
    response = Response(status_code, phrase, pairs, None if bodiless else body)
    parser = ResponseParser()
    parsed = parser.feed(response.serialize())
    if status_code < 200 and status_code != 101:
        assert parsed is None
        return
    assert parsed is not None
    assert (parsed.status_code, parsed.reason_phrase) == (status_code, phrase)
    assert parsed.body == (None if bodiless else body or b"")
    extra = [] if bodiless else [("Content-Length", str(len(body or b"")))]
    assert raw(parsed) == pairs + extra
    assert parser.unused == b""


@deterministic
@given(st.text(), st.text(), st.text())
def test_values_stay_on_their_line(first: str, name: str, value: str) -> None:
    for make in (
        lambda: Request(first, [("Host", "a"), (name, value)]),
        lambda: Request("/", [("Host", "a")], method=first),
        lambda: Response(200, first, [(name, value)]),
        lambda: Response(101, first, [(name, value)]),
    ):
        try:
            data = make().serialize()
        except (InvalidMessage, InvalidHeader):
            continue
        start_line, *lines, empty, body = data.split(b"\r\n")
        assert empty == body == b""
        assert b"\r" not in start_line
        assert all(re.fullmatch(rb"[!#-'*+\-.0-9A-Z^-z|~]+: ?[^\r\n\0]*", line) for line in lines)


# -- Compressed bodies ---------------------------------------------------------------------------------------


TEXT = b"you are not invited " * 50
NOISE = random.Random(1).randbytes(9000)


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # deterministic, because the names of tests contain it


def compressed(data: bytes, wbits: int) -> bytes:
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(data) + compressor.flush()


def answer(body: bytes | None, *codings: str) -> Response:
    return Response(403, "Forbidden", [("Content-Encoding", coding) for coding in codings], body)


@pytest.mark.parametrize(
    "body, coding",
    [
        (gzipped(TEXT), "gzip"),
        (gzipped(TEXT), " GZIP "),
        (gzipped(TEXT), "x-gzip"),
        (gzipped(TEXT[:100]) + gzipped(TEXT[100:]), "gzip"),
        (gzipped(NOISE) + gzipped(TEXT), "gzip"),
        (gzipped(TEXT) + b"and something else", "gzip"),
        (compressed(TEXT, 15), "deflate"),
        (compressed(TEXT, -15), "deflate"),
    ],
)
def test_bodies_that_can_be_decompressed(body: bytes, coding: str) -> None:
    response = answer(body, coding)
    decoded = decode_body(response)
    assert decoded.body == (NOISE if len(body) > 9000 else b"") + TEXT
    assert decoded == attrs.evolve(response, body=decoded.body)


@pytest.mark.parametrize(
    "body, codings",
    [
        (TEXT, []),
        (gzipped(TEXT), []),
        (gzipped(TEXT), ["identity"]),
        (gzipped(TEXT), ["br"]),
        (gzipped(TEXT), ["gzip", "gzip"]),
        (gzipped(TEXT), ["gzip, gzip"]),
        (TEXT, ["gzip"]),
        (compressed(TEXT, -15), ["gzip"]),
        (b"", ["gzip"]),
        (None, ["gzip"]),
    ],
)
def test_bodies_that_are_returned_unchanged(body: bytes | None, codings: list[str]) -> None:
    response = answer(body, *codings)
    assert decode_body(response) is response


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: data[:-30] + bytes(30)])
def test_damaged_bodies_are_decompressed_as_far_as_possible(damage: Callable[[bytes], bytes]) -> None:
    content = random.Random(1).randbytes(30_000)
    body = decode_body(answer(damage(gzipped(content)), "gzip")).body
    assert body is not None
    assert content.startswith(body)
    assert len(body) > 20_000


def test_many_small_streams_are_not_copied_repeatedly() -> None:
    stream = gzipped(b"x")
    count = MAX_BODY_SIZE // len(stream)
    seen = Counting(stream * count)
    assert decode_body(answer(seen, "gzip")).body == b"x" * count
    assert seen.copied < 5000 * count


class Counting(bytes):
    """Bytes that count the number of copied bytes."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        self.copied += len(part) if isinstance(part, bytes) else 1
        return part


@pytest.mark.parametrize("unit", [b"\x03\0", zlib.compress(b"")], ids=["deflate", "zlib"])
def test_many_empty_streams_in_a_body_are_cheap(unit: bytes) -> None:
    """Only gzip allows more than one."""
    body = unit * (MAX_BODY_SIZE // len(unit))
    before = time.process_time()
    decode_body(answer(body, "deflate"))
    assert time.process_time() - before < CHEAP / 10


@pytest.mark.parametrize("size", [MAX_BODY_SIZE - 1, MAX_BODY_SIZE, MAX_BODY_SIZE + 1, 100 * MAX_BODY_SIZE])
@pytest.mark.parametrize("streams", [1, 3])
def test_the_size_of_a_decompressed_body_is_bounded(size: int, streams: int) -> None:
    body = decode_body(answer(gzipped(bytes(size)) * streams, "gzip")).body
    assert body is not None
    assert len(body) == min(streams * size, MAX_BODY_SIZE)


# -- Other ---------------------------------------------------------------------------------------------------


def test_reason_phrase() -> None:
    for status_code in list(http.HTTPStatus):
        phrase = reason_phrase(int(status_code))
        assert phrase == status_code.phrase
        assert Response(status_code, phrase, []).reason_phrase == phrase


@pytest.mark.parametrize("status_code", [299, 499, 599])
def test_reason_phrase_of_an_unusual_status(status_code: int) -> None:
    assert reason_phrase(status_code) == ""


def test_software() -> None:
    name = software("1.2.3")
    assert name == f"trio_ws/1.2.3 Python/{platform.python_version()}"
    assert Headers(Server=name)["Server"] == name


def test_is_empty() -> None:
    parser = RequestParser()
    assert parser.is_empty
    parser.feed(REQUEST[:10])
    assert not parser.is_empty


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_responses_to_head_have_no_body(body: bytes) -> None:
    data = Response(200, "OK", {"X-A": "1"}, body).serialize(head=True)
    assert data.endswith(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in data
    assert Response(200, "OK", {"X-A": "1"}, body).serialize() == data + body


@pytest.mark.parametrize(
    "parser, message", [(RequestParser, REQUEST), (ResponseParser, b"HTTP/1.1 101 X\r\nServer: a\r\n\r\n")]
)
def test_common_names_are_shared(parser: Any, message: bytes) -> None:
    one, other = (parser().feed(message) for _ in range(2))
    names = [[name for name, _ in each.headers.raw_items()] for each in (one, other)]
    shared = [name for name, same in zip(*names, strict=True) if name is same]
    assert "Host" in shared or "Server" in shared
    assert names[0] == names[1]
    # So are the lower-case names.
    assert all(any(name is same for same in other.headers) for name in one.headers if name in ("host", "server"))
