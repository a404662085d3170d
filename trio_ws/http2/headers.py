"""Requests and responses as lists of HTTP/2 headers, and back (RFC 9113, section 8).

A request keeps the form that it has in HTTP/1.1 as far as possible: ``:authority`` becomes the Host header, so that
whatever looks at the host works with both versions. Malformed requests are found here, not by h2, which would end the
whole connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..datastructures import COMMON_NAMES, TOKEN, Headers
from ..exceptions import HeadTooBig, InvalidMessage, TooManyHeaders
from ..http11 import Request, Response
from ..http11.messages import BODILESS, SPACE, reason_phrase

__all__ = ["HeaderList", "from_request", "from_response", "to_request", "to_response"]

#: Headers as h2 returns them.
HeaderList = Iterable[tuple[bytes, bytes]]

#: Headers about the connection, which must not occur in HTTP/2 (RFC 9113, section 8.2.2).
_CONNECTION_HEADERS = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})

_PSEUDO_HEADERS = frozenset({":method", ":scheme", ":authority", ":path", ":protocol"})

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
    pseudo: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    size = 0
    for raw_name, raw_value in headers:
        size += len(raw_name) + len(raw_value) + 4  # as if written in a line of HTTP/1.1
        name, value = _decode(raw_name, raw_value)
        if not name.startswith(":"):
            _check_header(name, value)
            pairs.append((name, value))
        elif pairs or name in pseudo or name not in _PSEUDO_HEADERS:
            raise InvalidMessage(f"{name[:100]!r} must be a known pseudo-header, occur only once, and come first")
        else:
            pseudo[name] = value
    if size > max_head_size:
        raise HeadTooBig(max_head_size)
    if len(pairs) > max_headers:
        raise TooManyHeaders(max_headers)
    method = pseudo.get(":method", "")
    is_tunnel = method == "CONNECT" and ":protocol" not in pseudo
    required = {":method", ":authority"} if is_tunnel else {":method", ":scheme", ":path"}
    missing = required - set(pseudo)
    if missing:
        raise InvalidMessage(f"{' and '.join(sorted(missing))} must be among the pseudo-headers")
    if method != "CONNECT" and ":protocol" in pseudo:
        raise InvalidMessage("the method must be CONNECT if there is a :protocol")
    return Request(
        pseudo[":authority"] if is_tunnel else pseudo[":path"],
        _with_host(pairs, pseudo.get(":authority")),
        method=method,
        http_version="2",
        protocol=pseudo.get(":protocol"),
    )


def _decode(name: bytes, value: bytes) -> tuple[str, str]:
    return _SHARED.get(name) or name.decode("iso-8859-1"), value.decode("iso-8859-1")


def _check_header(name: str, value: str) -> None:
    if not TOKEN.fullmatch(name) or name != name.lower():
        raise InvalidMessage(f"the name of a header must be a token in lower case, not {name[:100]!r}")
    if name in _CONNECTION_HEADERS or (name == "te" and value != "trailers"):
        raise InvalidMessage(f"a request of HTTP/2 must not have this header: {name!r}")


def _with_host(pairs: list[tuple[str, str]], authority: str | None) -> Headers:
    """Return headers with a Host header that has the value of ``:authority``."""
    if authority is None:
        return Headers(pairs)
    hosts = [value.strip(SPACE) for name, value in pairs if name == "host"]
    if hosts and hosts != [authority]:
        raise InvalidMessage("the Host header must be the same as :authority")
    return Headers([("Host", authority), *(pair for pair in pairs if pair[0] != "host")])


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
        InvalidMessage: If the body does not have the length in the Content-Length header.
    """
    size = len(response.body or b"")
    lengths = response.headers.get_all("Content-Length")
    if response.body is not None and any(length.strip(SPACE) != str(size) for length in lengths):
        raise InvalidMessage(f"Content-Length must be the length of the body, {size}, not {', '.join(lengths)}")
    headers = [(b":status", b"%d" % response.status_code), *_encode(response.headers)]
    if not opens and response.status_code not in BODILESS and "Content-Length" not in response.headers:
        headers.append((b"content-length", b"%d" % size))
    return headers


def _encode(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode(), value.strip(SPACE).encode("iso-8859-1"))
        for name, value in headers.raw_items()
        if name.lower() not in _CONNECTION_HEADERS and name.lower() != "host"
    ]


def to_response(headers: HeaderList, *, max_head_size: int, max_headers: int) -> Response:
    """Return the response with these headers, without its body.

    Args:
        headers: The headers.
        max_head_size: Maximum size of all names and values, in bytes.
        max_headers: Maximum number of headers.

    Raises:
        InvalidMessage: If the status is missing or malformed, or the response is too large or has too many headers.
        InvalidHeader: If a header is not valid.
    """
    pairs = [_decode(name, value) for name, value in headers]
    if sum(len(name) + len(value) + 4 for name, value in pairs) > max_head_size:
        raise HeadTooBig(max_head_size)
    if len(pairs) - 1 > max_headers:
        raise TooManyHeaders(max_headers)
    statuses = [value for name, value in pairs if name == ":status"]
    if len(statuses) != 1 or not (statuses[0].isascii() and statuses[0].isdigit() and len(statuses[0]) == 3):
        raise InvalidMessage(f"there must be one :status with three digits, not {statuses[:2]!r}")
    status = int(statuses[0])
    others = [(name, value) for name, value in pairs if not name.startswith(":")]
    return Response(status, reason_phrase(status), others)
