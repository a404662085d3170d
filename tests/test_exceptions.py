"""Exceptions: their tree, their attributes, their messages, and pickling."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
import traceback
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio

from trio_ws import Headers, Limits, exceptions, parse_proxy, parse_uri
from trio_ws.exceptions import (
    BodyTooBig,
    ConnectFailed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    DecodeError,
    HeadTooBig,
    InvalidData,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidProxy,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    MessageTooBig,
    NegotiationError,
    NotConnected,
    OpenTimeout,
    ProtocolError,
    ProxyFailed,
    TLSFailed,
    TooManyHeaders,
    WebSocketException,
)
from trio_ws.exceptions.shown import MAX_QUOTED, quote
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.http11 import Response

BYE = Close(1000, "bye")
GOING_AWAY = Close(1001, "")
RESPONSE = Response(403, "Forbidden", {"Server": "x"}, b"no")

MODULES = [
    importlib.import_module(f"{exceptions.__name__}.{m.name}") for m in pkgutil.iter_modules(exceptions.__path__)
]

#: All exception classes in the folder, exported or not.
ALL = list(
    dict.fromkeys(
        cls
        for module in MODULES
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, BaseException)
    )
)

#: A value for each field of any exception, by name.
VALUES: dict[str, Any] = {
    "limit": 10,
    "message": "{",
    "method": "POST",
    "name": "Upgrade",
    "numbers": (3, 4),
    "peer": "ws://example.org/",
    "proxy": "http://proxy.example:3128",
    "rcvd": BYE,
    "rcvd_then_sent": True,
    "reason": "it is wrong",
    "response": RESPONSE,
    "seconds": 2.5,
    "sent": GOING_AWAY,
    "size": 11,
    "status": 505,
    "uri": "http://example.org/",
    "value": "h2c",
}

by_name = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


def fields_of(cls: type[BaseException]) -> list[attrs.Attribute[Any]]:
    return list(attrs.fields(cls)) if attrs.has(cls) else []


def make(cls: type[BaseException]) -> BaseException:
    return cls(*(VALUES[field.name] for field in fields_of(cls) if field.init))


def drawn_tree() -> Iterator[tuple[str, str, list[str]]]:
    """Yield the name, the parent and the other bases of each exception in the docstring's diagram."""
    path = {0: "WebSocketException"}
    for line in (exceptions.__doc__ or "").splitlines():
        match = re.match(r"([ │]*)[├└]── (\w+(?:, \w+)*) *(?:\(([\w., ]+)\))?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        for name in match[2].split(", "):
            path[depth] = name
            yield name, path[depth - 1], match[3].split(", ") if match[3] else []


TREE = list(drawn_tree())


# -- The tree ------------------------------------------------------------------------------------------------


def test_everything_is_exported() -> None:
    assert sorted(cls.__name__ for cls in ALL) == exceptions.__all__


def test_the_diagram_has_every_exception() -> None:
    assert sorted(["WebSocketException", *(name for name, _, _ in TREE)]) == exceptions.__all__


@pytest.mark.parametrize("name, parent, others", TREE, ids=[name for name, _, _ in TREE])
def test_the_tree_matches_the_diagram(name: str, parent: str, others: list[str]) -> None:
    names = {"trio": trio, "ValueError": ValueError, "OSError": OSError, "TimeoutError": TimeoutError}
    bases = [getattr(exceptions, parent)]
    for other in others:
        bases.append(getattr(trio, other[5:]) if other.startswith("trio.") else names[other])
    assert list(getattr(exceptions, name).__bases__) == bases


@pytest.mark.parametrize(
    "cls, expected",
    [
        (DecodeError, ValueError),
        (InvalidURI, ValueError),
        (InvalidProxy, ValueError),
        (ProtocolError, ValueError),
        (InvalidData, ProtocolError),
        (MessageTooBig, ProtocolError),
        (ConnectFailed, OSError),
        (TLSFailed, ConnectFailed),
        (ProxyFailed, ConnectFailed),
        (OpenTimeout, trio.TooSlowError),
        (OpenTimeout, TimeoutError),
        (NotConnected, trio.BrokenResourceError),
        (InvalidMessage, ValueError),
        (HeadTooBig, InvalidMessage),
        (TooManyHeaders, InvalidMessage),
        (BodyTooBig, InvalidMessage),
        (InvalidHeader, ValueError),
        (InvalidUpgrade, InvalidHeader),
        (InvalidMethod, InvalidHandshake),
        (InvalidStatus, InvalidHandshake),
        (NegotiationError, InvalidHandshake),
        (ConnectionClosedOK, trio.EndOfChannel),
        (ConnectionClosedError, trio.BrokenResourceError),
        (ConnectionClosedLocally, trio.ClosedResourceError),
    ],
)
def test_an_exception_is_caught_as(cls: type[BaseException], expected: type[BaseException]) -> None:
    with pytest.raises(expected) as caught:
        raise make(cls)
    assert type(caught.value) is cls


@by_name
def test_everything_is_caught_as_the_base_class(cls: type[BaseException]) -> None:
    with pytest.raises(WebSocketException):
        raise make(cls)


def test_ends_of_a_connection_differ() -> None:
    # Only EndOfChannel ends an `async for`.
    assert not issubclass(ConnectionClosedError, trio.EndOfChannel)
    assert not issubclass(ConnectionClosedLocally, trio.EndOfChannel)
    assert not issubclass(ConnectionClosedOK, (trio.BrokenResourceError, trio.ClosedResourceError))


# -- All exceptions ------------------------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("by_keyword", [False, True], ids=["positional", "keyword"])
def test_arguments_become_attributes(cls: type[BaseException], by_keyword: bool) -> None:
    given = {field.name: VALUES[field.name] for field in fields_of(cls) if field.init}
    exc = cls(**given) if by_keyword else cls(*given.values())
    assert {name: getattr(exc, name) for name in given} == given
    assert exc.args == tuple(given.values())


@by_name
def test_only_the_tree_has_no_fields(cls: type[BaseException]) -> None:
    assert bool(fields_of(cls)) == (cls not in (WebSocketException, InvalidHandshake))


def through_pickle(protocol: int) -> Any:
    return lambda exc: pickle.loads(pickle.dumps(exc, protocol))


WAYS = {f"pickle {n}": through_pickle(n) for n in range(2, pickle.HIGHEST_PROTOCOL + 1)}
WAYS |= {"copy": copy.copy, "deepcopy": copy.deepcopy}


@by_name
def test_round_trip(cls: type[BaseException]) -> None:
    for way in WAYS.values():
        exc = make(cls)
        again = way(exc)
        assert type(again) is cls
        assert str(again) == str(exc)
        assert repr(again) == repr(exc)
        assert again.args == exc.args
        assert vars(again) == vars(exc)
        for field in fields_of(cls):
            assert getattr(again, field.name) == getattr(exc, field.name)


@pytest.mark.parametrize(
    "exc",
    [ConnectionClosedError(None, None), InvalidHeader("Upgrade", None, "missing"), InvalidMessage("bad")],
    ids=lambda exc: type(exc).__name__,
)
def test_round_trip_of_optional_values(exc: BaseException) -> None:
    for way in WAYS.values():
        again = way(exc)
        assert (str(again), vars(again)) == (str(exc), vars(exc))


@by_name
def test_comparison_is_by_identity(cls: type[BaseException]) -> None:
    exc = make(cls)
    assert exc == exc
    assert exc != make(cls)
    assert len({exc, make(cls)}) == 2


@by_name
def test_message_is_one_line_made_from_the_attributes(cls: type[BaseException]) -> None:
    exc = make(cls)
    message = str(exc)
    assert message.isprintable()
    assert bool(message) == bool(fields_of(cls))
    # It is not the message that OSError makes of errno and strerror.
    assert "Errno" not in message
    shown = traceback.format_exception_only(type(exc), exc)
    assert message in shown[-1]


@by_name
def test_can_be_raised_with_a_cause_and_kept(cls: type[BaseException]) -> None:
    cause = KeyError("cause")
    with pytest.raises(cls) as caught:
        raise make(cls) from cause
    assert caught.value.__cause__ is cause
    assert caught.value.__traceback__ is not None
    caught.value.__notes__ = ["a note"]
    assert caught.value.__notes__ == ["a note"]


# -- Details -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exc, shown",
    [
        (InvalidURI("ws:/x", "no host"), ["ws:/x", "no host"]),
        (InvalidProxy("http:/x", "no host"), ["http:/x", "no host"]),
        (ProtocolError("bad frame"), ["bad frame"]),
        (InvalidData("not UTF-8"), ["not UTF-8"]),
        (DecodeError("{é", "no\nend"), ["text", "2 characters", "no end"]),
        (DecodeError(b"\x00", "no"), ["binary", "1 bytes"]),
        (MessageTooBig(11, 10), ["11", "10"]),
        (ConnectFailed("example.org", "refused"), ["example.org", "refused"]),
        (TLSFailed("example.org", "bad certificate"), ["example.org", "bad certificate"]),
        (ProxyFailed("example.org", "no", "http://a:1", RESPONSE), ["example.org", "no", "http://a:1"]),
        (OpenTimeout("example.org", 2.5), ["example.org", "2.5"]),
        (InvalidMessage("no HTTP"), ["no HTTP"]),
        (HeadTooBig(1234), ["1234"]),
        (TooManyHeaders(128), ["128"]),
        (BodyTooBig(4321), ["4321"]),
        (InvalidMethod("POST"), ["POST"]),
        (InvalidStatus(RESPONSE), ["403 Forbidden", "Server: x", "no"]),
        (InvalidRedirect(RESPONSE, "it leads away"), ["403 Forbidden", "Server: x", "no", "it leads away"]),
        (InvalidHeader("Host", "a b", "a space"), ["Host", "a b", "a space"]),
        (InvalidUpgrade("Upgrade", None, "missing"), ["Upgrade", "missing"]),
        (NegotiationError("no subprotocol"), ["no subprotocol"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_message_shows(exc: BaseException, shown: list[str]) -> None:
    for part in shown:
        assert part in str(exc)


@pytest.mark.parametrize(
    "exc, code",
    [(ProtocolError("x"), 1002), (InvalidData("x"), 1007), (MessageTooBig(2, 1), 1009)],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_close_code_to_fail_with(exc: ProtocolError, code: int) -> None:
    assert exc.code == code
    # The code and the reason may be sent in a Close frame.
    assert Close(exc.code, exc.reason).code == code


@pytest.mark.parametrize(
    "exc, status",
    [
        (InvalidMessage("x"), 400),
        (InvalidMessage("x", 505), 505),
        (InvalidMessage("x", status=505), 505),
        (HeadTooBig(1), 431),
        (TooManyHeaders(1), 431),
        (BodyTooBig(1), 413),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_status_to_answer_with(exc: InvalidMessage, status: int) -> None:
    assert exc.status == status


@pytest.mark.parametrize("cls", [HeadTooBig, TooManyHeaders, BodyTooBig])
def test_limits_are_attributes(cls: type[HeadTooBig | TooManyHeaders | BodyTooBig]) -> None:
    exc = cls(7)
    assert exc.limit == 7
    assert exc.reason == str(exc)


@pytest.mark.parametrize("cls, count", [(HeadTooBig, 1), (TooManyHeaders, 1), (BodyTooBig, 1), (MessageTooBig, 2)])
def test_reasons_of_limits_are_not_arguments(cls: Any, count: int) -> None:
    with pytest.raises(TypeError):
        cls(*[1] * count, "reason")
    with pytest.raises(TypeError):
        cls(*[1] * count, status=400)


def test_message_too_big_has_a_reason() -> None:
    exc = MessageTooBig(size=11, limit=10)
    assert (exc.size, exc.limit, exc.reason) == (11, 10, str(exc))


@pytest.mark.parametrize("cls", [ConnectFailed, TLSFailed, ProxyFailed, OpenTimeout])
def test_os_errors_have_no_errno(cls: type[OSError]) -> None:
    exc = make(cls)
    assert isinstance(exc, OSError)
    assert (exc.errno, exc.strerror, exc.filename) == (None, None, None)


def test_open_timeout_in_whole_seconds() -> None:
    assert " 10 seconds" in str(OpenTimeout("example.org", 10.0))


def test_invalid_status_without_a_reason_phrase() -> None:
    exc = InvalidStatus(Response(503, "", []))
    assert exc.response.status_code == 503
    assert str(exc).endswith(" 503")
    assert (exc.status_code, exc.reason_phrase, exc.body) == (503, "", b"")


def test_invalid_status_shows_the_response() -> None:
    exc = InvalidStatus(RESPONSE)
    assert (exc.status_code, exc.reason_phrase, exc.body) == (403, "Forbidden", b"no")
    assert exc.headers is RESPONSE.headers
    assert str(exc).endswith(": HTTP status 403 Forbidden (Server: x) no")


@pytest.mark.parametrize(
    "body, shown",
    [
        (b"<html>\r\n <h1>\tNo</h1>\n", "<html> <h1> No</h1>"),
        (b"\x1b[31m\x00\xff", "\ufffd[31m\ufffd\ufffd"),
        (b"a" * 1000, "a" * 500 + "..."),
        ("\xe4".encode() * 1000, "\xe4" * 500 + "..."),
        (b"\n", ""),
    ],
)
def test_the_body_in_a_message_is_short_and_printable(body: bytes, shown: str) -> None:
    message = str(InvalidStatus(Response(403, "No", [], body)))
    assert message.removeprefix("the server refused the WebSocket connection: HTTP status 403 No").strip() == shown
    assert message.isprintable()


def test_the_headers_in_a_message_are_few() -> None:
    exc = InvalidStatus(Response(403, "No", [(f"X-{number}", "x" * 1000) for number in range(100)]))
    assert "; and 80 more)" in str(exc)
    assert len(str(exc)) < 12_000


def test_invalid_header_that_is_missing() -> None:
    assert "None" not in str(InvalidHeader("Upgrade", None, "it is missing"))
    assert "''" in str(InvalidHeader("Upgrade", "", "it is empty"))


CLOSED = [ConnectionClosed, ConnectionClosedOK, ConnectionClosedError, ConnectionClosedLocally]


@pytest.mark.parametrize("cls", CLOSED)
@pytest.mark.parametrize(
    "rcvd, sent, rcvd_then_sent, code, reason, shown",
    [
        pytest.param(None, None, None, 1006, "", ["lost"], id="neither"),
        pytest.param(BYE, None, None, 1000, "bye", ["received 1000", "bye", "lost"], id="received"),
        pytest.param(None, BYE, None, 1006, "", ["sent 1000", "bye", "lost"], id="sent"),
        pytest.param(BYE, GOING_AWAY, True, 1000, "bye", ["received 1000", "then sent 1001"], id="received, sent"),
        pytest.param(BYE, GOING_AWAY, False, 1000, "bye", ["sent 1001", "then received 1000"], id="sent, received"),
        pytest.param(Close(1005, ""), BYE, True, 1005, "", ["received 1005", "then sent 1000"], id="no code"),
    ],
)
def test_connection_closed(
    cls: type[ConnectionClosed],
    rcvd: Close | None,
    sent: Close | None,
    rcvd_then_sent: bool | None,
    code: int,
    reason: str,
    shown: list[str],
) -> None:
    exc = cls(rcvd, sent, rcvd_then_sent)
    assert (exc.rcvd, exc.sent, exc.rcvd_then_sent) == (rcvd, sent, rcvd_then_sent)
    assert (exc.code, exc.reason) == (code, reason)
    for part in shown:
        assert part in str(exc)


@pytest.mark.parametrize("cls", CLOSED)
def test_connection_closed_order_is_optional(cls: type[ConnectionClosed]) -> None:
    assert cls(None, BYE).rcvd_then_sent is None


def test_peer_cannot_break_the_message_into_lines() -> None:
    exc = ConnectionClosedError(Close(4000, "first\r\nsecond \x1b[31m"), None)
    assert str(exc).isprintable()
    assert exc.reason == "first\r\nsecond \x1b[31m"


def test_a_refusal_shows_no_control_characters() -> None:
    response = Response(403, "\x9b31m\u00adno", [("X", "\x85a\x9b"), ("Location", "http://me:hunter2@example.org/")])
    for exc in InvalidStatus(response), InvalidRedirect(response, "reason"):
        assert str(exc).isprintable()
        assert r"403 \x9b31m\xadno (X: \x85a\x9b; Location: http://me:***@example.org/)" in str(exc)


def test_invalid_uri_does_not_show_the_password() -> None:
    exc = InvalidURI("http://user:pa@ss:word@example.org/", "reason")
    assert "word" not in str(exc)
    assert "user" in str(exc)
    assert exc.uri == "http://user:pa@ss:word@example.org/"


def test_invalid_uri_that_is_not_a_string() -> None:
    assert "42" in str(InvalidURI(42, "reason"))  # type: ignore[arg-type]  # that is the point


def test_quotations_of_what_a_peer_has_sent() -> None:
    assert quote(b"SSH-2.0\r\nmore") == "'SSH-2.0'"
    assert quote(bytearray(b"\x1b[2J\xe9")) == r"'\x1b[2Jé'"
    assert quote(b"x" * MAX_QUOTED) == repr("x" * MAX_QUOTED)
    assert quote(b"x" * (MAX_QUOTED + 1)) == repr("x" * MAX_QUOTED) + "..."


# -- repr ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        BYE,
        RESPONSE,
        Frame(Opcode.TEXT, b"x"),
        parse_uri("wss://user:secret@example.org/"),
        parse_proxy("http://user:secret@proxy.example:3128"),
        Limits(idle=1.5),
        InvalidURI("ws://user:secret@example.org:x/", "bad port"),
        InvalidUpgrade("Upgrade", None, "it is missing"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_repr_is_that_of_attrs(value: Any) -> None:
    """``show_fields`` replaces the methods that attrs would generate."""
    attributes = attrs.fields(type(value))
    fields = {field.name: attrs.field(repr=field.repr) for field in attributes}
    generated = attrs.make_class(type(value).__name__, fields, init=False)
    twin: Any = object.__new__(generated)
    for field in attributes:
        object.__setattr__(twin, field.name, getattr(value, field.name))
    assert repr(value) == repr(twin)
    assert "secret" not in repr(value)


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Set-Cookie", "Proxy-Authorization"])
def test_the_values_of_secret_headers_are_not_shown(name: str) -> None:
    assert str(InvalidHeader(name, "secret\n", "no")) == f"header {name!r} '***': no"
    assert f"{name}: ***" in str(InvalidStatus(Response(401, "Unauthorized", Headers({name: "secret"}))))


def test_repr_of_an_exception_without_fields_is_that_of_python() -> None:
    assert repr(InvalidHandshake("no")) == "InvalidHandshake('no')"


def test_repr_of_a_local_class_has_its_short_name() -> None:
    @attrs.define(slots=False, eq=False, repr=False)
    class Local(WebSocketException):
        reason: str

    assert repr(Local("x")) == "Local(reason='x')"
