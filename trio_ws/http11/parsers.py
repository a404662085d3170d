"""Parsers for requests and responses."""

from __future__ import annotations

import re
from typing import Any

import attrs
import h11

from ..datastructures import COMMON_NAMES
from ..exceptions.handshake import BodyTooBig, HeadTooBig, InvalidHeader, InvalidMessage, TooManyHeaders
from ..exceptions.shown import quote
from .body import MAX_BODY_SIZE
from .heads import Head, check_start
from .lines import check_request_line, explain_head
from .messages import BODILESS, UPGRADE_REQUEST, Request, Response

__all__ = ["RequestParser", "ResponseParser", "TunnelParser"]

#: Maximum size of the start line and the headers, in bytes.
MAX_HEAD_SIZE = 32 * 1024
#: Maximum number of headers.
MAX_HEADERS = 128
#: Maximum size of a chunk header, or of the trailers after the last chunk, in bytes.
MAX_CHUNK_HEADER_SIZE = 4 * 1024
#: Maximum number of interim responses (1xx) before the final response.
MAX_INTERIM_RESPONSES = 16

# The request that h11 must see before it reads a proxy's response to CONNECT.
_CONNECT_REQUEST = h11.Request(method="CONNECT", target="example.org:443", headers=[("Host", "example.org:443")])

_NAMES = {name.encode(): name for name in COMMON_NAMES}

# The empty line at the end of a head. Like h11, this accepts LF for CRLF.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
# NUL, VT, FF, and a CR without LF are not allowed in a head. h11 rejects them too, but its regular expression for
# headers takes quadratic time when one of them follows a long run of spaces: seconds for 32 KiB.
_SUSPECT = b"\x00\x0b\x0c\r"


class _Parser:
    """Common base class of the parsers: splits off the head and hands it to h11."""

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER], max_head_size: int, max_headers: int) -> None:
        # h11 gets only complete heads, so this limit applies to chunk headers and trailers. See _read_body().
        self._connection = h11.Connection(role, max_incomplete_event_size=MAX_CHUNK_HEADER_SIZE - 1)
        self._max_head_size = max_head_size
        self._max_headers = max_headers
        self._head_size = 0
        # Bytes that h11 has not got yet, and the position up to which they contain no empty line.
        self._buffer = bytearray()
        self._searched = 0
        # True once the start line has arrived and is well-formed; and the last head that was passed to h11.
        self._is_http = False
        self._last_head = b""

    @property
    def unused(self) -> bytes:
        """Bytes fed after the end of the message: the beginning of the WebSocket connection or tunnel."""
        return self._connection.trailing_data[0] + bytes(self._buffer)

    def _pass_head_to_h11(self) -> bool:
        """Pass the next head to h11 if it is complete. Return whether it was."""
        room = self._max_head_size - self._head_size
        if not self._is_http:
            # Another protocol may never send an empty line.
            line_end = self._buffer.find(b"\n", self._searched, room)
            self._check_start_line(bytes(self._buffer[: min(room, len(self._buffer))]), line_end)
            self._is_http = line_end >= 0
        end = _END_OF_HEAD.search(self._buffer, self._searched, room)
        if end is None:
            if len(self._buffer) > room:
                raise HeadTooBig(self._max_head_size)
            self._searched = max(0, len(self._buffer) - 2)
            return False
        head = bytes(self._buffer[: end.end()])
        # The only suspect characters must be the CRs at the ends of lines.
        if len(head) - len(head.translate(None, _SUSPECT)) != head.count(b"\r\n"):
            raise InvalidMessage(explain_head(head))
        del self._buffer[: len(head)]
        self._is_http = False
        self._last_head = head
        self._searched = 0
        self._head_size += len(head)
        self._connection.receive_data(self._prepare(head))
        return True

    def _prepare(self, head: bytes) -> bytes:
        """Return the head for h11."""
        return head

    def _next_event(self) -> Any:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as exc:
            exc.__traceback__ = None  # a frame of h11 refers to the exception
            raise InvalidMessage(self._explain(str(exc)), exc.error_status_hint) from None

    def _check_start_line(self, data: bytes, end: int) -> None:
        """Check the start line, as far as it has arrived. Each parser has its own."""

    def _explain(self, error: str) -> str:
        """Return what is wrong, in our words, when h11 has refused something."""
        return explain_head(self._last_head)

    def _headers(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[str, str]]:
        pairs = event.headers.raw_items()
        if len(pairs) > self._max_headers:
            raise TooManyHeaders(self._max_headers)
        return [(_to_name(name), value.decode("iso-8859-1")) for name, value in pairs]


def _to_name(name: bytes) -> str:
    return _NAMES.get(name) or name.decode("ascii")


class RequestParser(_Parser):
    """Parses one request head, fed in chunks of any size.

    A body is not read: opening handshakes have none.

    Args:
        max_head_size: Maximum size of the request line and the headers, in bytes.
        max_headers: Maximum number of headers.
    """

    def __init__(self, *, max_head_size: int = MAX_HEAD_SIZE, max_headers: int = MAX_HEADERS) -> None:
        super().__init__(h11.SERVER, max_head_size, max_headers)

    @property
    def is_empty(self) -> bool:
        """Whether no part of a request has arrived."""
        return not self._buffer

    def feed(self, data: bytes) -> Request | None:
        """Feed received bytes, and return the request once it is complete.

        Args:
            data: The next bytes; empty at the end of the stream.

        Returns:
            The request, or None if it is not complete yet.

        Raises:
            InvalidMessage: If the bytes are not a valid request, or end too early.
            HeadTooBig: If the request line and the headers have more than ``max_head_size`` bytes.
            TooManyHeaders: If there are more than ``max_headers`` headers.
        """
        if not data:
            seen = f": {quote(bytes(self._buffer))}" if self._buffer else ""
            raise InvalidMessage(f"the connection was closed before the end of the request{seen}")
        self._buffer += data
        if not self._skip_empty_line() or not self._pass_head_to_h11():
            return None
        event = self._next_event()
        try:
            return Request(
                event.target.decode("ascii"),
                self._headers(event),
                method=event.method.decode("ascii"),
                http_version=event.http_version.decode("ascii"),
            )
        except InvalidHeader:
            raise InvalidMessage(explain_head(self._last_head)) from None

    def _skip_empty_line(self) -> bool:
        """Remove an empty line before the request (RFC 9112, section 2.2). Return False if more bytes must tell.

        Two of them are not removed, because the PROXY protocol begins with two. :func:`check_request_line` knows it.
        """
        start = bytes(self._buffer[:3])
        if start in (b"\r", b"\r\n"):
            return False
        if start.startswith(b"\r\n") and start != b"\r\n\r":
            del self._buffer[:2]
        return True

    def _check_start_line(self, data: bytes, end: int) -> None:
        check_request_line(data, end)


class ResponseParser(_Parser):
    """Parses one response to an opening handshake, fed in chunks of any size.

    Interim responses (1xx other than 101) are skipped (RFC 9110, section 15.2). A body may have a Content-Length, be
    chunked, or end with the connection.

    Args:
        max_head_size: Maximum size of the status line and the headers, including interim responses, in bytes.
        max_headers: Maximum number of headers.
        max_body_size: Maximum size of the body, in bytes.
    """

    # The request that h11 must see before it reads the response.
    _request = UPGRADE_REQUEST

    def __init__(
        self,
        *,
        max_head_size: int = MAX_HEAD_SIZE,
        max_headers: int = MAX_HEADERS,
        max_body_size: int = MAX_BODY_SIZE,
    ) -> None:
        super().__init__(h11.CLIENT, max_head_size, max_headers)
        self._connection.send(self._request)
        self._connection.send(h11.EndOfMessage())
        self._max_body_size = max_body_size
        self._interim_responses = 0
        self._names: list[bytes] = []
        self._head: Response | None = None
        self._body = bytearray()

    @property
    def partial(self) -> Response | None:
        """The response as received so far, in case its body never ends; None before its head is complete."""
        if self._head is None or self._has_no_body(self._head.status_code):
            return self._head
        return attrs.evolve(self._head, body=bytes(self._body))

    def _has_no_body(self, status_code: int) -> bool:
        return status_code in BODILESS

    def feed(self, data: bytes) -> Response | None:
        """Feed received bytes, and return the response once it is complete.

        Args:
            data: The next bytes; empty at the end of the stream.

        Returns:
            The response, or None if it is not complete yet.

        Raises:
            InvalidMessage: If the bytes are not a valid response, or end too early.
            HeadTooBig: If the status lines and the headers have more than ``max_head_size`` bytes.
            TooManyHeaders: If there are more than ``max_headers`` headers.
            BodyTooBig: If the body has more than ``max_body_size`` bytes; :attr:`partial` has the first
                ``max_body_size`` bytes of it.
        """
        if data:
            self._buffer += data
        elif self._head is None:
            seen = f": {quote(bytes(self._buffer))}" if self._buffer else ""
            raise InvalidMessage(f"the connection was closed before the end of the response{seen}")
        else:
            self._connection.receive_data(b"")
        while self._head is None:
            if not self._pass_head_to_h11():
                return None
            event = self._next_event()
            if isinstance(event, h11.Response):
                self._head = self._convert_head(event)
            elif event.status_code == 101:
                return self._convert_head(event)
            else:
                self._interim_responses += 1
                if self._interim_responses > MAX_INTERIM_RESPONSES:
                    raise InvalidMessage(f"more than {MAX_INTERIM_RESPONSES} interim responses")
        return self._read_body()

    def _prepare(self, head: bytes) -> bytes:
        prepared = Head(head, is_tunnel=self._request is _CONNECT_REQUEST)
        self._names = prepared.names
        if prepared.status_code == 101 and self._request is not UPGRADE_REQUEST:
            status_line = head.partition(b"\n")[0].rstrip()
            raise InvalidMessage(f"a proxy must not respond to CONNECT with {quote(status_line)}")
        return prepared.data

    def _headers(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[str, str]]:
        # h11 has got other names, and perhaps one more header. See Head.
        if len(self._names) > self._max_headers:
            raise TooManyHeaders(self._max_headers)
        pairs = zip(self._names, event.headers, strict=False)
        return [(_to_name(name), value.decode("iso-8859-1")) for name, (_, value) in pairs]

    def _read_body(self) -> Response | None:
        while True:
            event = self._next_event()
            if isinstance(event, h11.Data):
                room = self._max_body_size - len(self._body)
                self._body += event.data[:room]
                if len(event.data) > room:
                    raise BodyTooBig(self._max_body_size)
            elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                # h11 pauses where a tunnel begins.
                return self.partial
            elif self._buffer:
                # h11 fails when it holds this many bytes that it cannot use. Feeding it no more than that makes the
                # limit exact, and independent of the chunks in which the bytes arrived.
                room = MAX_CHUNK_HEADER_SIZE - len(self._connection.trailing_data[0])
                self._connection.receive_data(bytes(self._buffer[:room]))
                del self._buffer[:room]
            else:
                return None

    def _convert_head(self, event: h11.Response | h11.InformationalResponse) -> Response:
        version = event.http_version.decode("ascii")
        # HTTP/1.0 has no Upgrade (RFC 9110, section 7.8).
        if not version.startswith("1.") or (version == "1.0" and event.status_code == 101):
            raise InvalidMessage(f"the response must be HTTP/1.1, not HTTP/{version}")
        return Response(event.status_code, event.reason.decode("iso-8859-1"), self._headers(event))

    def _check_start_line(self, data: bytes, end: int) -> None:
        check_start(data)

    def _explain(self, error: str) -> str:
        if self._head is None:
            return super()._explain(error)
        if error.startswith("peer "):
            return "the connection was closed before the end of the body"
        if error.startswith("Receive buffer"):
            return f"a chunk header, or the trailers, of more than {MAX_CHUNK_HEADER_SIZE} bytes"
        return "malformed chunk in the body"


class TunnelParser(ResponseParser):
    """Parses the response of a proxy to a CONNECT request, fed in chunks of any size.

    A 2xx response has no body, even if a header gives it a length: the tunnel begins right after the headers (RFC 9110,
    section 9.3.6). Other responses are parsed as by :class:`ResponseParser`.
    """

    _request = _CONNECT_REQUEST

    def _has_no_body(self, status_code: int) -> bool:
        return status_code < 300 or super()._has_no_body(status_code)
