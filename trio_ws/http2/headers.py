"""Requests and responses as lists of HTTP/2 headers, and back (RFC 9113, section 8).

A request keeps the form that it has in HTTP/1.1 as far as possible: ``:authority`` becomes the Host header, so that
whatever looks at the host works with both versions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpack import NeverIndexedHeaderTuple

from ..datastructures import COMMON_NAMES, TOKEN, Headers
from ..exceptions import HeadTooBig, InvalidHeader, InvalidMessage, TooManyHeaders
from ..http11 import Request, Response
from ..http11.messages import BODILESS, EMPTY, SPACE, reason_phrase

__all__ = [
    "HeaderList",
    "check_fields",
    "expect_length",
    "from_request",
    "from_response",
    "is_interim",
    "to_request",
    "to_response",
]

#: Headers as they are received, with names before values.
HeaderList = Sequence[tuple[bytes, bytes]]

#: Headers about the connection, which must not occur in HTTP/2 (RFC 9113, section 8.2.2).
_CONNECTION_HEADERS = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})

#: Headers that are not sent. The host is in ``:authority``.
_OMITTED = _CONNECTION_HEADERS | {"host"}

#: Headers with credentials. They are sent in a form that compression leaves alone, so that nobody can guess them by
#: the size of what it makes of them (RFC 7541, section 7.1.3).
_CREDENTIALS = frozenset({"authorization", "proxy-authorization"})

#: So is a Cookie header that is shorter than this, in characters. A longer one cannot be guessed.
_LONG_COOKIE = 20

#: The pseudo-headers of a request (RFC 9113, section 8.3.1; RFC 8441, section 4), and that of a response.
_OF_REQUESTS = frozenset({":method", ":scheme", ":authority", ":path", ":protocol"})
_OF_RESPONSES = frozenset({":status"})

#: The ports that a host need not name.
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_STATUS = re.compile(r"[0-9]{3}")
_INTERIM = re.compile(rb"1[0-9]{2}")

#: A Content-Length header may list the same length several times (RFC 9110, section 8.6).
_LENGTHS = re.compile(rb"[0-9]{1,18}([ \t]*,[ \t]*[0-9]{1,18})*")

#: Sharing these strings saves memory: every connection keeps its headers.
_SHARED = {name.lower().encode(): name.lower() for name in COMMON_NAMES}


def to_request(headers: HeaderList, *, max_head_size: int, max_headers: int) -> Request:
    """Return the request with these headers.

    Args:
        headers: The headers.
        max_head_size: Maximum size of all names and values, in bytes.
        max_headers: Maximum number of headers.

    Raises:
        InvalidMessage: If the request is malformed (RFC 9113, section 8.1.1), too large or has too many headers.
        InvalidHeader: If a header has a value that is not allowed.
    """
    pseudo, pairs = _split(headers, _OF_REQUESTS, max_head_size, max_headers)
    parse_length(headers)
    method = pseudo.get(":method", "")
    is_tunnel = method == "CONNECT" and ":protocol" not in pseudo
    required = {":method", ":authority"} if is_tunnel else {":method", ":scheme", ":path"}
    missing = required - set(pseudo)
    if missing:
        raise InvalidMessage(f"{' and '.join(sorted(missing))} must be among the pseudo-headers")
    if method != "CONNECT" and ":protocol" in pseudo:
        raise InvalidMessage("the method must be CONNECT if there is a :protocol")
    path = pseudo.get(":path", "")
    # A whole URL would bring along another host than that of :authority (RFC 9113, section 8.3.1).
    if not (is_tunnel or path.startswith("/") or (path == "*" and method == "OPTIONS")):
        raise InvalidMessage(f"the :path must begin with a slash, not {path[:100]!r}")
    return Request(
        pseudo[":authority"] if is_tunnel else path,
        _with_host(pairs, pseudo.get(":authority"), pseudo.get(":scheme", "")),
        method=method,
        http_version="2",
        protocol=pseudo.get(":protocol"),
    )


def _split(
    headers: HeaderList, known: frozenset[str], max_head_size: int, max_headers: int
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the pseudo-headers and the other headers of a message, with one Cookie header."""
    pseudo: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for raw_name, raw_value in headers:
        name, value = _decode(raw_name, raw_value)
        if not name.startswith(":"):
            _check_header(name, value)
            pairs.append((name, value))
        elif pairs or name in pseudo or name not in known:
            raise InvalidMessage(f"{name[:100]!r} must be a known pseudo-header, occur only once, and come first")
        else:
            pseudo[name] = value
    pairs = _join_cookies(pairs)
    # As if written in lines of HTTP/1.1.
    if sum(len(name) + len(value) + 4 for name, value in (*pseudo.items(), *pairs)) > max_head_size:
        raise HeadTooBig(max_head_size)
    if len(pairs) > max_headers:
        raise TooManyHeaders(max_headers)
    return pseudo, pairs


def _decode(name: bytes, value: bytes) -> tuple[str, str]:
    return _SHARED.get(name) or name.decode("iso-8859-1"), value.decode("iso-8859-1")


def _check_header(name: str, value: str) -> None:
    if not TOKEN.fullmatch(name) or name != name.lower():
        raise InvalidMessage(f"the name of a header must be a token in lower case, not {name[:100]!r}")
    if name in _CONNECTION_HEADERS or (name == "te" and value != "trailers"):
        raise InvalidMessage(f"a message of HTTP/2 must not have this header: {name!r}")
    if value != value.strip(SPACE):
        raise InvalidHeader(name, value, "there must be no space around the value")


def check_fields(headers: HeaderList) -> None:
    """Check headers none of which may be a pseudo-header, such as trailers.

    Raises:
        InvalidMessage: If a name is not valid.
        InvalidHeader: If a value is not valid.
    """
    pairs = [_decode(name, value) for name, value in headers]
    for name, value in pairs:
        _check_header(name, value)
    Headers(pairs)


def is_interim(headers: HeaderList) -> bool:
    """Whether these are the headers of an interim response, which another one follows (RFC 9110, section 15.2)."""
    return _INTERIM.fullmatch(dict(headers).get(b":status", b"")) is not None


def parse_length(headers: HeaderList) -> int | None:
    """Return the value of the Content-Length header; None if there is none.

    Raises:
        InvalidHeader: If it is not a number, or there are several.
    """
    values = [value for name, value in headers if name == b"content-length"]
    if not values:
        return None
    text = b", ".join(values)
    lengths = {int(each) for each in text.split(b",")} if _LENGTHS.fullmatch(text) else set()
    if len(lengths) != 1:
        raise InvalidHeader("Content-Length", text.decode("iso-8859-1"), "there must be one length, in decimal digits")
    return lengths.pop()


def expect_length(headers: HeaderList) -> int | None:
    """Return the number of bytes of data that must follow these headers; None if they do not say it."""
    found = dict(headers)
    status = found.get(b":status", b"")
    # These have a WebSocket or no data, whatever the header says (RFC 9110, sections 8.6 and 9.3.6).
    if found.get(b":method") == b"CONNECT" or status.startswith(b"2") or status == b"304":
        return None
    try:
        return parse_length(headers)
    except InvalidHeader:
        return None  # the message will be refused for it


def _join_cookies(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return headers with one Cookie header, which HTTP/2 may split (RFC 9113, section 8.2.3)."""
    cookies = [value for name, value in pairs if name == "cookie"]
    if len(cookies) < 2:
        return pairs
    return [*(pair for pair in pairs if pair[0] != "cookie"), ("cookie", "; ".join(cookies))]


def _with_host(pairs: list[tuple[str, str]], authority: str | None, scheme: str) -> list[tuple[str, str]]:
    """Return headers with a Host header that has the value of ``:authority``."""
    if authority is None:
        return pairs
    hosts = [_normalize_host(value, scheme) for name, value in pairs if name == "host"]
    if hosts and hosts != [_normalize_host(authority, scheme)]:
        raise InvalidMessage("the Host header must be the same as :authority")
    return [("Host", authority), *(pair for pair in pairs if pair[0] != "host")]


def _normalize_host(host: str, scheme: str) -> str:
    """Return a host in the form in which equal ones are the same (RFC 3986, section 6.2.3)."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port in ("", _DEFAULT_PORTS.get(scheme.lower())) else host).lower()


def from_request(request: Request, scheme: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of an extended CONNECT request (RFC 8441, section 4).

    Args:
        request: The request, with a Host header.
        scheme: ``"https"`` or ``"http"``.
    """
    pseudo = [
        (":method", request.method),
        (":protocol", request.protocol or ""),
        (":scheme", scheme),
        (":path", request.path),
        (":authority", request.headers["Host"]),
    ]
    return [(name.encode(), value.encode()) for name, value in pseudo] + _encode(request.headers)


def from_response(response: Response, *, opens: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response. Headers about the connection are left out.

    Args:
        response: The response.
        opens: Whether it turns the stream into a WebSocket. Otherwise, it gets a Content-Length header if its status
            allows a body.

    Raises:
        InvalidMessage: If there is a body although the status allows none, or it does not have the length in the
            Content-Length header.
    """
    size = len(response.body or b"")
    if size and response.status_code in EMPTY:
        raise InvalidMessage(f"a {response.status_code} response must not have a body")
    lengths = response.headers.get_all("Content-Length")
    if response.body is not None and any(length.strip(SPACE) != str(size) for length in lengths):
        raise InvalidMessage(f"Content-Length must be the length of the body, {size}, not {', '.join(lengths)}")
    headers = [(b":status", b"%d" % response.status_code), *_encode(response.headers)]
    if not opens and response.status_code not in BODILESS and "Content-Length" not in response.headers:
        headers.append((b"content-length", b"%d" % size))
    return headers


def _encode(headers: Headers) -> list[tuple[bytes, bytes]]:
    encoded: list[tuple[bytes, bytes]] = []
    for spelling, value in headers.raw_items():
        name, value = spelling.lower(), value.strip(SPACE)
        # A TE header with another value would be malformed (RFC 9113, section 8.2.2).
        if name not in _OMITTED and (name != "te" or value == "trailers"):
            pair = name.encode(), value.encode("iso-8859-1")
            is_secret = name in _CREDENTIALS or (name == "cookie" and len(value) < _LONG_COOKIE)
            encoded.append(NeverIndexedHeaderTuple(*pair) if is_secret else pair)
    return encoded


def to_response(headers: HeaderList, *, max_head_size: int, max_headers: int) -> Response:
    """Return the response with these headers, without its body.

    Args:
        headers: The headers.
        max_head_size: Maximum size of all names and values, in bytes.
        max_headers: Maximum number of headers.

    Raises:
        InvalidMessage: If the response is malformed (RFC 9113, section 8.1.1), too large or has too many headers.
        InvalidHeader: If a header is not valid.
    """
    pseudo, pairs = _split(headers, _OF_RESPONSES, max_head_size, max_headers)
    text = pseudo.get(":status", "")
    if not _STATUS.fullmatch(text):
        raise InvalidMessage(f"there must be a :status with three digits, not {text[:100]!r}")
    status = int(text)
    if not 200 <= status < 300:  # the length of a WebSocket means nothing (RFC 9110, section 9.3.6)
        parse_length(headers)
    return Response(status, reason_phrase(status), pairs)
