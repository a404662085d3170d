from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake as TheirInvalidHandshake
from websockets.server import ServerProtocol
from websockets.uri import parse_uri as their_parse_uri

from trio_ws.datastructures import Headers
from trio_ws.exceptions import (
    HeadTooBig,
    HostNotServed,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
)
from trio_ws.http11 import Request, RequestParser, Response, ResponseParser
from trio_ws.protocol.handshake import (
    Agreement,
    accept,
    build_request,
    check_headers,
    check_response,
    check_subprotocols,
    is_upgrade,
    reject,
)
from trio_ws.uri import parse_uri

from .strategies import AnswerReverse, Counting, OfferReverse, Repeats, Reverse, deterministic

# RFC 6455, section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

Pairs = list[tuple[str, str]]

REQUEST: Pairs = [
    ("Host", "example.org"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Version", "13"),
]
RESPONSE: Pairs = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Accept", ACCEPT),
]


def replace(pairs: Pairs, name: str, *values: str) -> Pairs:
    """Return the headers with new values for one of them: none, one or several."""
    return [pair for pair in pairs if pair[0].lower() != name.lower()] + [(name, value) for value in values]


def request(pairs: Pairs = REQUEST, **kwargs: Any) -> Request:
    return Request("/chat", Headers(pairs), **kwargs)


def response(pairs: Pairs = RESPONSE, status: int = 101) -> Response:
    return Response(status, "", Headers(pairs))


def answer_to(data: bytes, **kwargs: Any) -> tuple[Response, InvalidHandshake | None]:
    """Return the server's response to these bytes, as a client parses it, and the error if any."""
    failure = None
    try:
        parsed = RequestParser().feed(data)
        assert parsed is not None
        answer, _ = accept(parsed, **kwargs)
    except InvalidHandshake as exc:
        failure = exc
        answer = reject(exc)
    read = ResponseParser().feed(answer.serialize())
    assert read is not None
    assert read.status_code == answer.status_code
    return read, failure


def to_bytes(pairs: Pairs, start: str = "GET /chat HTTP/1.1") -> bytes:
    return "\r\n".join([start, *(f"{name}: {value}" for name, value in pairs), "", ""]).encode("iso-8859-1")


# -- Subprotocols ----------------------------------------------------------------------------------------------------


def test_check_subprotocols() -> None:
    assert check_subprotocols([]) == ()
    assert check_subprotocols(["chat", "v10.stomp"]) == ("chat", "v10.stomp")
    # Subprotocols are case-sensitive.
    assert check_subprotocols(("chat", "Chat")) == ("chat", "Chat")


@pytest.mark.parametrize("subprotocols", ["chat", b"chat", [b"chat"], [None], ["chat", 1]])
def test_check_subprotocols_types(subprotocols: Any) -> None:
    with pytest.raises(TypeError):
        check_subprotocols(subprotocols)


@pytest.mark.parametrize("subprotocols", [[""], ["a b"], ["a,b"], ["ä"], ["a\r\n"], ["chat", "chat"]])
def test_check_subprotocols_values(subprotocols: list[str]) -> None:
    with pytest.raises(ValueError):
        check_subprotocols(subprotocols)


# -- The request of a client -----------------------------------------------------------------------------------------


def test_request_of_a_client() -> None:
    random = Counting()
    made = build_request(parse_uri("ws://example.org/chat?room=1"), random=random)
    assert random.sizes == [16]
    assert made.method == "GET"
    assert made.path == "/chat?room=1"
    assert made.http_version == "1.1"
    headers = dict(made.headers.raw_items())
    key = headers.pop("Sec-WebSocket-Key")
    assert base64.b64decode(key, validate=True) == Counting()(16)
    # No optional headers, and a Connection header with a single token.
    assert headers == {
        "Host": "example.org",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
    }


@pytest.mark.parametrize(
    "uri, host",
    [
        ("ws://example.org/", "example.org"),
        ("ws://example.org:80/", "example.org"),
        ("ws://example.org:443/", "example.org:443"),
        ("wss://example.org:443/", "example.org"),
        ("wss://example.org:80/", "example.org:80"),
        ("ws://[2001:db8::1]/", "[2001:db8::1]"),
        ("ws://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
    ],
)
def test_host(uri: str, host: str) -> None:
    assert build_request(parse_uri(uri), random=Counting()).headers["Host"] == host


def test_request_with_all_options() -> None:
    made = build_request(
        parse_uri("ws://user:p%C3%A4ss%3Aword@example.org"),
        random=Counting(),
        subprotocols=["chat", "superchat"],
        extensions=[OfferReverse((("level", "9"),), ()), Repeats(3)],
        user_agent="test/1.0",
        headers=[("Cookie", "a=1"), ("Cookie", "b=2"), ("X-More", "more")],
    )
    assert made.path == "/"
    headers = made.headers
    assert headers["Sec-WebSocket-Protocol"] == "chat, superchat"
    assert headers["Sec-WebSocket-Extensions"] == "x-reverse; level=9, x-reverse, x-repeat; times=3"
    assert headers["User-Agent"] == "test/1.0"
    assert headers["X-More"] == "more"
    assert headers.get_all("Cookie") == ["a=1", "b=2"]
    scheme, credentials = headers["Authorization"].split()
    assert scheme == "Basic"
    assert base64.b64decode(credentials).decode() == "user:päss:word"


def test_request_over_http2() -> None:
    def no_key(size: int) -> bytes:
        pytest.fail("a key is for HTTP/1.1 only")

    request = build_request(parse_uri("wss://example.org/chat?a=b"), random=no_key, http_version="2")
    assert request == Request(
        "/chat?a=b",
        Headers([("Host", "example.org"), ("Sec-WebSocket-Version", "13")]),
        method="CONNECT",
        http_version="2",
        protocol="websocket",
    )


def test_response_over_http2() -> None:
    request = build_request(parse_uri("wss://example.org/"), random=bytes, subprotocols=["a", "b"], http_version="2")
    headers = Headers({"Sec-WebSocket-Protocol": "b"})
    for status in (200, 204):
        assert check_response(request, Response(status, "", headers), subprotocols=["a", "b"]).subprotocol == "b"
    for status in (101, 302, 404):
        with pytest.raises(InvalidStatus):
            check_response(request, Response(status, "", headers), subprotocols=["a", "b"])


def test_reject_over_http2() -> None:
    response = reject(InvalidUpgrade("Upgrade", None, "it must be there"), http_version="2")
    assert response.status_code == 400
    assert "Connection" not in response.headers  # headers about the connection are malformed (RFC 9113, section 8.2.2)
    assert "Upgrade" not in response.headers


def test_no_header_without_offers() -> None:
    class OffersNothing(OfferReverse):
        def offers(self) -> Sequence[Any]:
            return ()

    made = build_request(parse_uri("ws://example.org/"), random=Counting(), extensions=[OffersNothing()])
    assert "Sec-WebSocket-Extensions" not in made.headers
    accept(made)


def test_additional_headers_replace_defaults() -> None:
    made = build_request(
        parse_uri("ws://user:password@example.org/"),
        random=Counting(),
        user_agent="test/1.0",
        headers={"HOST": "other.example", "authorization": "Bearer token", "user-agent": "mine"},
    )
    assert made.headers.get_all("Host") == ["other.example"]
    assert made.headers.get_all("Authorization") == ["Bearer token"]
    assert made.headers.get_all("User-Agent") == ["mine"]
    made.serialize()


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Content-Length",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_headers_that_a_client_must_not_set(name: str) -> None:
    for spelled in (name, name.lower(), name.upper()):
        with pytest.raises(InvalidHeader) as caught:
            build_request(parse_uri("ws://example.org/"), random=Counting(), headers={spelled: "x"})
        assert caught.value.name == spelled
        assert caught.value.value == "x"


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\rb", "a\x00b", "\u20ac"])
def test_headers_cannot_be_split(value: str) -> None:
    with pytest.raises(InvalidHeader):
        build_request(parse_uri("ws://example.org/"), random=Counting(), headers={"X": value})
    with pytest.raises(InvalidHeader):
        build_request(parse_uri("ws://example.org/"), random=Counting(), user_agent=value)
    with pytest.raises(InvalidHeader):
        accept(request(), server=value)
    with pytest.raises(InvalidHeader):
        reject(InvalidMethod("POST"), server=value)


# -- Responses of a server: accepted ---------------------------------------------------------------------------------


def test_example_of_the_rfc() -> None:
    answer, agreement = accept(request())
    assert answer.status_code == 101
    assert answer.reason_phrase == "Switching Protocols"
    assert dict(answer.headers.raw_items()) == dict(RESPONSE)
    assert answer.body is None
    assert agreement == Agreement(None, ()) == Agreement()


def test_additional_headers() -> None:
    answer, _ = accept(request(), headers=[("X-A", "1"), ("X-A", "2")])
    assert answer.headers.get_all("X-A") == ["1", "2"]
    assert answer.status_code == 101


@pytest.mark.parametrize("name", ["Upgrade", "sec-websocket-accept", "Connection", "Content-Length"])
def test_headers_that_a_server_must_not_set(name: str) -> None:
    with pytest.raises(InvalidHeader, match="sets this header itself"):
        accept(request(), headers={name: "x"})
    with pytest.raises(InvalidHeader):
        check_headers({name: "x"})


def test_headers_are_copied() -> None:
    headers = Headers({"X-A": "1"})
    copied = check_headers(headers)
    assert copied == headers
    assert copied is not headers


@pytest.mark.parametrize("offered", [[], ["chat"], ["chat.v2, chat.v1", "news"]])
def test_a_subprotocol_is_selected(offered: list[str]) -> None:
    seen: list[Sequence[str]] = []

    def select(subprotocols: Sequence[str]) -> str | None:
        seen.append(subprotocols)
        return subprotocols[-1] if subprotocols else None

    asked = request([*REQUEST, *(("Sec-WebSocket-Protocol", value) for value in offered)])
    answer, agreement = accept(asked, subprotocols=["chat"], select_subprotocol=select)
    expected = [each for value in offered for each in value.split(", ")]
    assert [list(each) for each in seen] == [expected]
    assert agreement.subprotocol == answer.headers.get("Sec-WebSocket-Protocol") == (expected[-1] if expected else None)


def test_no_subprotocol_is_selected() -> None:
    asked = request([*REQUEST, ("Sec-WebSocket-Protocol", "chat")])
    answer, agreement = accept(asked, subprotocols=["chat"], select_subprotocol=lambda _: None)
    assert agreement.subprotocol is None
    assert "Sec-WebSocket-Protocol" not in answer.headers


@pytest.mark.parametrize("offered", [[], ["news"]])
def test_selecting_a_subprotocol_that_was_not_offered(offered: list[str]) -> None:
    asked = request([*REQUEST, *(("Sec-WebSocket-Protocol", value) for value in offered)])
    with pytest.raises(ValueError, match=r"select_subprotocol must return one of .* not 'chat'"):
        accept(asked, select_subprotocol=lambda _: "chat")


@pytest.mark.parametrize(
    "values, expected",
    [
        ([], False),
        (["websocket"], True),
        (["WebSocket"], True),
        (["h2c, websocket"], True),
        (["h2c", " websocket "], True),
        (["websocket/13"], True),
        (["h2c"], False),
        (["websockets"], False),
        ([""], False),
    ],
)
def test_is_upgrade(values: list[str], expected: bool) -> None:
    assert is_upgrade(request(replace(REQUEST, "Upgrade", *values))) is expected


def test_server_header() -> None:
    assert accept(request(), server="test/1.0")[0].headers["Server"] == "test/1.0"
    assert reject(InvalidMethod("POST"), server="test/1.0").headers["Server"] == "test/1.0"
    assert "Server" not in reject(InvalidMethod("POST")).headers


@pytest.mark.parametrize(
    "name, values",
    [
        ("Connection", ["upgrade"]),
        ("Connection", ["UPGRADE"]),
        ("CONNECTION", ["keep-alive, Upgrade"]),
        ("connection", ["keep-alive,Upgrade,"]),
        ("Connection", ["keep-alive", "Upgrade"]),
        ("Connection", ["Upgrade", "Upgrade"]),
        ("Upgrade", ["WebSocket"]),
        ("UPGRADE", ["WEBSOCKET"]),
        # A client may list other protocols as well (RFC 9110, section 7.8).
        ("Upgrade", ["h2c, websocket"]),
        ("Upgrade", ["HTTP/2.0, websocket"]),
        ("Upgrade", ["h2c", "websocket"]),
        ("upgrade", [" websocket\t"]),
        ("sec-websocket-key", [f"  {KEY}\t"]),
        ("SEC-WEBSOCKET-VERSION", [" 13 "]),
        ("Content-Length", ["0"]),
        ("HOST", [""]),
        ("Host", ["[2001:db8::1]:8080"]),
        ("Origin", ["https://example.org"]),
    ],
)
def test_valid_requests(name: str, values: list[str]) -> None:
    pairs = replace(REQUEST, name, *values)
    answer, agreement = accept(request(pairs))
    assert answer.headers["Sec-WebSocket-Accept"] == ACCEPT
    assert agreement == Agreement()
    assert answer_to(to_bytes(pairs))[0].status_code == 101


@pytest.mark.parametrize(
    "offered, supported, chosen",
    [
        ([], [], None),
        ([], ["chat"], None),
        (["chat"], [], None),
        (["chat"], ["chat"], "chat"),
        # In the server's order of preference.
        (["a, b, c"], ["c", "b"], "c"),
        (["a", "b, c"], ["b", "a"], "b"),
        # None in common. Subprotocols are case-sensitive.
        (["a, b"], ["c"], None),
        (["Chat"], ["chat"], None),
        (["a, a"], ["a"], "a"),
    ],
)
def test_subprotocols(offered: list[str], supported: list[str], chosen: str | None) -> None:
    answer, agreement = accept(request(replace(REQUEST, "Sec-WebSocket-Protocol", *offered)), subprotocols=supported)
    assert agreement.subprotocol == chosen
    assert answer.headers.get("Sec-WebSocket-Protocol") == chosen


@pytest.mark.parametrize(
    "offered, accepted",
    [
        ([], None),
        (["x-unknown"], None),
        (["x-reverse"], "x-reverse"),
        (["x-unknown, x-reverse; bad, x-reverse"], "x-reverse"),
        (["x-unknown; x=1", "x-reverse"], "x-reverse"),
        # Each extension is accepted once.
        (["x-reverse, x-reverse"], "x-reverse"),
        (['x-repeat; times="7", x-reverse'], "x-repeat; times=7, x-reverse"),
    ],
)
def test_extensions(offered: list[str], accepted: str | None) -> None:
    answer, agreement = accept(
        request(replace(REQUEST, "Sec-WebSocket-Extensions", *offered)),
        extensions=[AnswerReverse(), Repeats()],
    )
    assert answer.headers.get("Sec-WebSocket-Extensions") == accepted
    assert len(agreement.extensions) == (accepted.count("x-") if accepted else 0)


def test_no_extension_twice() -> None:
    # This extension uses no reserved bit: with one, the second offer would be declined for that reason.
    twice = ("Sec-WebSocket-Extensions", "x-repeat; times=2, x-repeat; times=2")
    answer, agreement = accept(request([*REQUEST, twice]), extensions=[Repeats(2, rsv=0)])
    assert answer.headers["Sec-WebSocket-Extensions"] == "x-repeat; times=2"
    assert len(agreement.extensions) == 1
    with pytest.raises(NegotiationError):
        check([*RESPONSE, twice], extensions=[Repeats(2, rsv=0)])


def test_extensions_that_use_the_same_bit() -> None:
    answer, agreement = accept(
        request([*REQUEST, ("Sec-WebSocket-Extensions", "x-reverse, x-repeat; times=2")]),
        extensions=[Repeats(2, Reverse.rsv), AnswerReverse()],
    )
    # The client's order of preference decides.
    assert answer.headers["Sec-WebSocket-Extensions"] == "x-reverse"
    assert [type(extension) for extension in agreement.extensions] == [Reverse]


# -- Responses of a server: rejected ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, values, type_, status",
    [
        ("Host", [], InvalidHeader, 400),
        ("Host", ["a", "b"], InvalidHeader, 400),
        ("Host", ["a", "a"], InvalidHeader, 400),
        ("Connection", [], InvalidUpgrade, 426),
        ("Connection", ["close"], InvalidUpgrade, 426),
        ("Connection", ["keep-alive"], InvalidUpgrade, 426),
        ("Connection", ["notupgrade"], InvalidUpgrade, 426),
        ("Connection", ["upgrade-insecure"], InvalidUpgrade, 426),
        ("Connection", ["keep-alive", "notupgrade"], InvalidUpgrade, 426),
        ("Connection", [""], InvalidHeader, 400),
        ("Connection", ["keep-alive Upgrade"], InvalidHeader, 400),
        ("Connection", ["keep-alive; Upgrade"], InvalidHeader, 400),
        ("Connection", ['"Upgrade"'], InvalidHeader, 400),
        ("Upgrade", [], InvalidUpgrade, 426),
        ("Upgrade", [""], InvalidUpgrade, 426),
        ("Upgrade", ["h2c"], InvalidUpgrade, 426),
        ("Upgrade", ["notwebsocket"], InvalidUpgrade, 426),
        ("Upgrade", ["websocket/13"], InvalidUpgrade, 426),
        ("Upgrade", ["web socket"], InvalidUpgrade, 426),
        ("Upgrade", ["web", "socket"], InvalidUpgrade, 426),
        ("Sec-WebSocket-Key", [], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [KEY, KEY], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [""], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [KEY[:-1]], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [KEY[:-2]], InvalidHeader, 400),
        ("Sec-WebSocket-Key", ["A" + KEY], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [KEY + "="], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [f"{KEY}, {KEY}"], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [base64.b64encode(bytes(15)).decode()], InvalidHeader, 400),
        ("Sec-WebSocket-Key", [base64.b64encode(bytes(17)).decode()], InvalidHeader, 400),
        ("Sec-WebSocket-Key", ["-" * 22 + "=="], InvalidHeader, 400),
        ("Sec-WebSocket-Key", ["dGhlIHNhbXBsZ SBub25jZQ=="], InvalidHeader, 400),
        ("Sec-WebSocket-Key", ["ä" * 22 + "=="], InvalidHeader, 400),
        ("Sec-WebSocket-Version", [], InvalidHeader, 400),
        ("Sec-WebSocket-Version", ["13", "13"], InvalidHeader, 400),
        ("Sec-WebSocket-Version", [""], InvalidUpgrade, 426),
        ("Sec-WebSocket-Version", ["8"], InvalidUpgrade, 426),
        ("Sec-WebSocket-Version", ["14"], InvalidUpgrade, 426),
        ("Sec-WebSocket-Version", ["013"], InvalidUpgrade, 426),
        ("Sec-WebSocket-Version", ["13, 8"], InvalidUpgrade, 426),
        ("Sec-WebSocket-Version", ["\xb2"], InvalidUpgrade, 426),
        ("Sec-WebSocket-Protocol", [""], InvalidHeader, 400),
        ("Sec-WebSocket-Protocol", ["a b"], InvalidHeader, 400),
        ("Sec-WebSocket-Protocol", ["a", "@"], InvalidHeader, 400),
        ("Sec-WebSocket-Extensions", [""], InvalidHeader, 400),
        ("Sec-WebSocket-Extensions", ["a; b=ä"], InvalidHeader, 400),
        ("Sec-WebSocket-Extensions", ['a; b="1'], InvalidHeader, 400),
        # A body is not allowed.
        ("Content-Length", ["1"], InvalidMessage, 400),
        ("Content-Length", ["-0"], InvalidMessage, 400),
        ("Content-Length", ["0", "1"], InvalidMessage, 400),
        ("Content-Length", [""], InvalidMessage, 400),
        ("Transfer-Encoding", ["chunked"], InvalidMessage, 400),
    ],
)
@pytest.mark.parametrize("spelled", [str, str.lower, str.upper])
def test_invalid_requests(
    name: str, values: list[str], type_: type[InvalidHandshake], status: int, spelled: Any
) -> None:
    pairs = replace(REQUEST, spelled(name), *values)
    with pytest.raises(InvalidHandshake) as caught:
        accept(request(pairs), subprotocols=["a"], extensions=[AnswerReverse()])
    exc = caught.value
    assert type(exc) is type_
    if isinstance(exc, InvalidHeader):
        assert exc.name == name
        assert exc.value == (", ".join(values) if values else None)
    answer = reject(exc)
    assert answer.status_code == status
    assert answer._exception is exc
    assert answer.body
    # The same in bytes: the HTTP parser may reject the request first.
    read, failure = answer_to(to_bytes(pairs), subprotocols=["a"], extensions=[AnswerReverse()])
    assert read.status_code == status
    assert isinstance(failure, (type_, InvalidMessage))
    assert "Sec-WebSocket-Accept" not in read.headers
    if status == 426:
        assert read.headers["Upgrade"] == "websocket"
        assert read.headers["Sec-WebSocket-Version"] == "13"
        assert read.headers["Connection"] == "Upgrade, close"
    else:
        assert read.headers["Connection"] == "close"
        assert "Upgrade" not in read.headers


@pytest.mark.parametrize("method", ["POST", "HEAD", "get", "CONNECT", "OPTIONS", "PRI"])
def test_methods(method: str) -> None:
    with pytest.raises(InvalidMethod) as caught:
        accept(request(method=method))
    assert caught.value.method == method
    answer = reject(caught.value)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET"
    read, _ = answer_to(to_bytes([("Content-Length", "1"), *REQUEST], f"{method} /chat HTTP/1.1"))
    assert read.status_code == 405


@pytest.mark.parametrize("version", ["0.9", "1.0", "1.2", "2.0"])
def test_versions_of_http(version: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        accept(request(http_version=version))
    assert caught.value.status == 505
    read, _ = answer_to(to_bytes(REQUEST, f"GET /chat HTTP/{version}"))
    assert read.status_code == 505


@pytest.mark.parametrize(
    "data, status",
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET /chat HTTP/1.1\r\n\r\n", 400),
        (b"GET  /chat HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /chat HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET /chat HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", 400),
        (to_bytes([*REQUEST, ("X", "x" * 32 * 1024)]), 431),
        (to_bytes([*REQUEST, *[("X", "x")] * 200]), 431),
        (to_bytes([*REQUEST, ("Transfer-Encoding", "gzip")]), 501),
    ],
)
def test_bytes_that_are_not_a_request(data: bytes, status: int) -> None:
    read, failure = answer_to(data)
    assert read.status_code == status
    assert isinstance(failure, InvalidMessage)


@pytest.mark.parametrize(
    "exc, status",
    [
        (InvalidMessage("reason"), 400),
        (InvalidMessage("reason", 505), 505),
        (HeadTooBig(1), 431),
        (InvalidMethod("POST"), 405),
        (InvalidHeader("Name", None, "reason"), 400),
        (InvalidHeader("Name", "\xe9\udcff\x1b\r\n", "reason"), 400),
        (InvalidUpgrade("Name", "value", "reason"), 426),
        (InvalidOrigin("Origin", "https://evil.example", "reason"), 403),
        (HostNotServed("Host", "other.example", "reason"), 421),
        (NegotiationError("reason"), 400),
        (InvalidHandshake("reason"), 400),
    ],
)
def test_reject(exc: InvalidHandshake, status: int) -> None:
    answer = reject(exc)
    assert answer.status_code == status
    assert answer._exception is exc
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.body is not None
    answer.body.decode()
    read = ResponseParser().feed(answer.serialize())
    assert read is not None
    assert (read.status_code, read.body) == (status, answer.body)


@deterministic
@given(
    st.sampled_from([name for name, _ in REQUEST] + ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"]),
    st.lists(st.text(alphabet=st.characters(max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=8), max_size=3),
)
def test_any_value_gets_a_response(name: str, values: list[str]) -> None:
    answer, failure = answer_to(to_bytes(replace(REQUEST, name, *values)))
    if failure is None:
        assert answer.status_code == 101
    else:
        assert 400 <= answer.status_code < 500


@pytest.mark.parametrize("value", ["," * 200_000, "a;" * 100_000, '"' * 200_000, 'a; b="' + "\\" * 200_000])
@pytest.mark.parametrize(
    "name",
    [name for name, _ in REQUEST if name != "Host"] + ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"],
)
def test_large_values(name: str, value: str) -> None:
    # The test is that this finishes: more than linear time would take minutes.
    with pytest.raises(InvalidHeader) as caught:
        accept(request(replace(REQUEST, name, value)), extensions=[AnswerReverse()])
    assert reject(caught.value).status_code in (400, 426)


def test_many_offers() -> None:
    offers = ", ".join(["x-reverse; bad", "x-unknown"] * 20_000)
    pairs = [*REQUEST, ("Sec-WebSocket-Extensions", offers), ("Sec-WebSocket-Protocol", "a, " * 50_000)]
    assert accept(request(pairs), subprotocols=["b"], extensions=[AnswerReverse()])[1] == Agreement()


# -- Checks of a client ----------------------------------------------------------------------------------------------


def check(pairs: Pairs = RESPONSE, status: int = 101, **kwargs: Any) -> Agreement:
    return check_response(request(), response(pairs, status), **kwargs)


def test_good_response() -> None:
    assert check() == Agreement()
    more = [*RESPONSE, ("Sec-WebSocket-Protocol", "chat"), ("Server", "x"), ("Date", "now"), ("Set-Cookie", "a=b")]
    assert check(more, subprotocols=["superchat", "chat"]) == Agreement("chat", ())


@pytest.mark.parametrize(
    "name, values",
    [
        ("CONNECTION", ["upgrade"]),
        ("Connection", ["keep-alive, Upgrade"]),
        ("Connection", ["keep-alive", "Upgrade"]),
        ("Connection", ["", "Upgrade"]),
        ("Connection", ["timeout=5; max, UPGRADE ,"]),
        ("upgrade", ["WebSocket"]),
        ("Upgrade", [" WEBSOCKET "]),
        # An empty list is none. The user of a client cannot change what the server sends.
        ("Sec-WebSocket-Protocol", [""]),
        ("Sec-WebSocket-Protocol", [" ", ", ,"]),
        ("Sec-WebSocket-Extensions", [""]),
        ("Sec-WebSocket-Extensions", [","]),
        ("sec-websocket-accept", [f" {ACCEPT}\t"]),
    ],
)
def test_valid_responses(name: str, values: list[str]) -> None:
    assert check(replace(RESPONSE, name, *values)) == Agreement()


@pytest.mark.parametrize(
    "name, values, type_",
    [
        ("Connection", [], InvalidUpgrade),
        ("Connection", ["close"], InvalidUpgrade),
        ("Connection", ["notupgrade"], InvalidUpgrade),
        ("Connection", [""], InvalidHeader),
        ("Connection", ["@"], InvalidHeader),
        ("Upgrade", [], InvalidUpgrade),
        ("Upgrade", [""], InvalidUpgrade),
        ("Upgrade", ["h2c"], InvalidUpgrade),
        ("Upgrade", ["notwebsocket"], InvalidUpgrade),
        # Two protocols in a response are layered on top of each other (RFC 9110, section 7.8). RFC 6455, section 4.1:
        # the value is "websocket", not a list in which it occurs.
        ("Upgrade", ["TLS/1.0, websocket"], InvalidUpgrade),
        ("Upgrade", ["websocket, h2c"], InvalidUpgrade),
        ("Upgrade", ["websocket", "h2c"], InvalidHeader),
        ("Sec-WebSocket-Accept", [], InvalidHeader),
        ("Sec-WebSocket-Accept", [""], InvalidHeader),
        ("Sec-WebSocket-Accept", [ACCEPT, ACCEPT], InvalidHeader),
        ("Sec-WebSocket-Accept", [ACCEPT.lower()], InvalidHeader),
        ("Sec-WebSocket-Accept", [ACCEPT[:-1]], InvalidHeader),
        ("Sec-WebSocket-Accept", [f'"{ACCEPT}"'], InvalidHeader),
        ("Sec-WebSocket-Accept", [KEY], InvalidHeader),
        ("Sec-WebSocket-Protocol", ["chat"], NegotiationError),
        ("Sec-WebSocket-Protocol", ["A"], NegotiationError),
        ("Sec-WebSocket-Protocol", ["a, b"], InvalidHeader),
        ("Sec-WebSocket-Protocol", ["a", "a"], InvalidHeader),
        ("Sec-WebSocket-Protocol", ["a b"], InvalidHeader),
        ("Sec-WebSocket-Extensions", ["x-unknown"], NegotiationError),
        ("Sec-WebSocket-Extensions", ["x-reverse, x-unknown"], NegotiationError),
        ("Sec-WebSocket-Extensions", ["x-reverse, x-reverse"], NegotiationError),
        ("Sec-WebSocket-Extensions", ["x-reverse; level=1"], NegotiationError),
        ("Sec-WebSocket-Extensions", ["x-reverse, x-repeat; times=2"], NegotiationError),
        ("Sec-WebSocket-Extensions", ["x-reverse;"], InvalidHeader),
    ],
)
def test_invalid_responses(name: str, values: list[str], type_: type[InvalidHandshake]) -> None:
    with pytest.raises(InvalidHandshake) as caught:
        check(
            replace(RESPONSE, name, *values),
            subprotocols=["a", "b"],
            # Two extensions with the same bit.
            extensions=[OfferReverse(), Repeats(2, Reverse.rsv)],
        )
    assert type(caught.value) is type_
    if isinstance(caught.value, InvalidHeader):
        assert caught.value.name == name


def test_extensions_that_were_not_offered() -> None:
    with pytest.raises(NegotiationError):
        check(replace(RESPONSE, "Sec-WebSocket-Protocol", "a"))
    with pytest.raises(NegotiationError):
        check(replace(RESPONSE, "Sec-WebSocket-Extensions", "x-reverse"))


def test_accepted_extensions() -> None:
    agreement = check(
        replace(RESPONSE, "Sec-WebSocket-Extensions", 'x-repeat; times="2", x-reverse'),
        extensions=[OfferReverse(), Repeats()],
    )
    assert [extension.rsv for extension in agreement.extensions] == [
        Repeats().accept((("times", "2"),)).rsv,
        Reverse.rsv,
    ]


@pytest.mark.parametrize("status", [100, 102, 200, 204, 301, 400, 401, 403, 404, 426, 500, 503])
def test_other_statuses(status: int) -> None:
    answer = Response(status, "", Headers(RESPONSE), b"body")
    with pytest.raises(InvalidStatus) as caught:
        check_response(request(), answer)
    assert caught.value.response is answer


# -- Against another implementation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("subprotocols, chosen", [([], None), (["x", "chat"], "chat"), (["x"], None)])
def test_with_another_server(subprotocols: list[str], chosen: str | None) -> None:
    ours = build_request(
        parse_uri("ws://example.org:8080/chat?x=1"),
        random=Counting(),
        subprotocols=subprotocols,
        extensions=[OfferReverse()],
        user_agent="test/1.0",
    )
    server = ServerProtocol(
        subprotocols=["chat"] if subprotocols else None,  # type: ignore[list-item]
        select_subprotocol=lambda _, offered: "chat" if "chat" in offered else None,  # type: ignore[arg-type, return-value]
    )
    server.receive_data(ours.serialize())
    (theirs,) = server.events_received()
    server.send_response(server.accept(theirs))  # type: ignore[arg-type]
    answer = ResponseParser().feed(b"".join(server.data_to_send()))
    assert answer is not None
    assert check_response(ours, answer, subprotocols=subprotocols, extensions=[OfferReverse()]) == Agreement(chosen)


@pytest.mark.parametrize("subprotocols, chosen", [(None, None), (["x", "chat"], "chat"), (["x"], None)])
def test_with_another_client(subprotocols: list[str] | None, chosen: str | None) -> None:
    client = ClientProtocol(
        their_parse_uri("ws://example.org:8080/chat?x=1"),
        subprotocols=subprotocols,  # type: ignore[arg-type]
    )
    client.send_request(client.connect())
    ours = RequestParser().feed(b"".join(client.data_to_send()))
    assert ours is not None
    answer, agreement = accept(ours, subprotocols=["chat"], extensions=[AnswerReverse()], server="test/1.0")
    assert agreement == Agreement(chosen)
    client.receive_data(answer.serialize())
    assert client.handshake_exc is None
    assert client.subprotocol == chosen


def test_rejections_are_short() -> None:
    response = reject(InvalidHeader("Name", "x" * 10_000, "reason"))
    assert response.body is not None
    assert len(response.body) < 1000


@pytest.mark.parametrize("method, has_body", [("HEAD", False), ("POST", True)])
def test_reject_has_no_body_for_head(method: str, has_body: bool) -> None:
    assert (reject(InvalidMethod(method)).body is not None) is has_body


def test_another_client_parses_our_rejection() -> None:
    client = ClientProtocol(their_parse_uri("ws://example.org/"))
    client.send_request(client.connect())
    client.receive_data(reject(InvalidHeader("Name", "value", "reason")).serialize())
    assert isinstance(client.handshake_exc, TheirInvalidHandshake)


@deterministic
@given(st.binary(min_size=16, max_size=16))
def test_our_client_with_our_server(key: bytes) -> None:
    asked = build_request(
        parse_uri("ws://example.org/"),
        random=lambda size: key[:size],
        subprotocols=["a", "b"],
        extensions=[Repeats(), OfferReverse()],
    )
    read = RequestParser().feed(asked.serialize())
    assert read is not None
    answer, theirs = accept(read, subprotocols=["b"], extensions=[AnswerReverse(), Repeats()])
    answered = ResponseParser().feed(answer.serialize())
    assert answered is not None
    ours = check_response(asked, answered, subprotocols=["a", "b"], extensions=[Repeats(), OfferReverse()])
    assert ours.subprotocol == theirs.subprotocol == "b"
    assert list(map(type, ours.extensions)) == list(map(type, theirs.extensions))
    # The response to a different key is rejected.
    other = build_request(parse_uri("ws://example.org/"), random=Counting())
    with pytest.raises(InvalidHeader):
        check_response(other, answered, subprotocols=["b"])
