"""Reading requests and responses from bytes."""

from __future__ import annotations

import re
from typing import Any

import attrs
import h11

from ..datastructures import COMMON_NAMES
from ..exceptions.handshake import BodyTooBig, HeadTooBig, InvalidHeader, InvalidMessage, TooManyHeaders
from .body import MAX_BODY_SIZE
from .heads import Head, check_start
from .messages import BODILESS, UPGRADE_REQUEST, Request, Response

__all__ = ["RequestParser", "ResponseParser", "TunnelParser"]

#: Most bytes of a start line and its headers.
MAX_HEAD_SIZE = 32 * 1024
#: Most headers of a message.
MAX_HEADERS = 128
#: Most bytes of the header of a chunk, or of the trailers after the last one.
MAX_CHUNK_HEADER_SIZE = 4 * 1024
#: Most interim responses (1xx) before the one that counts.
MAX_INTERIM_RESPONSES = 16

# What h11 has to believe has been asked, before it reads an answer to a request for a tunnel.
_CONNECT_REQUEST = h11.Request(method="CONNECT", target="example.org:443", headers=[("Host", "example.org:443")])

_NAMES = {name.encode(): name for name in COMMON_NAMES}

# The empty line at the end of a head, the way h11 sees it.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
# What no head may have: NUL, VT, FF, and a CR that no LF follows. h11 refuses them too, but its regular expression
# for a header takes quadratic time to find out that a long run of spaces ends with one of these: seconds for 32 KiB.
_SUSPECT = b"\x00\x0b\x0c\r"


class _Parser:
    """What reading a request and reading a response have in common."""

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER], max_head_size: int, max_headers: int) -> None:
        # Heads are whole when h11 sees them. What this limits is what else can be incomplete. See _read_body().
        self._connection = h11.Connection(role, max_incomplete_event_size=MAX_CHUNK_HEADER_SIZE - 1)
        self._max_head_size = max_head_size
        self._max_headers = max_headers
        self._head_size = 0
        # What was fed and h11 has not seen, and how far there is no empty line in it.
        self._held = bytearray()
        self._searched = 0

    @property
    def unused(self) -> bytes:
        """The bytes that were fed and came after the message: the first of the WebSocket connection, or tunnel."""
        return self._connection.trailing_data[0] + bytes(self._held)

    def _hand_on_head(self) -> bool:
        """Hand the next head to h11, as soon as it is whole. Return whether it is."""
        # No HTTP, but perhaps TLS: an empty line may never come.
        if self._held and self._held[0] <= 0x20:
            raise InvalidMessage("it starts with a space or a control character")
        room = self._max_head_size - self._head_size
        end = _END_OF_HEAD.search(self._held, self._searched, room)
        if end is None:
            if len(self._held) > room:
                raise HeadTooBig(self._max_head_size)
            self._searched = max(0, len(self._held) - 2)
            return False
        head = bytes(self._held[: end.end()])
        # No more of these than CRs at the ends of lines?
        if len(head) - len(head.translate(None, _SUSPECT)) != head.count(b"\r\n"):
            raise InvalidMessage("start line or headers have a NUL, a stray CR or another control character")
        del self._held[: len(head)]
        self._searched = 0
        self._head_size += len(head)
        self._connection.receive_data(self._prepare(head))
        return True

    def _prepare(self, head: bytes) -> bytes:
        """Return a head in the way that h11 is to see it."""
        return head

    def _next_event(self) -> Any:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as exc:
            raise InvalidMessage(_describe(exc), exc.error_status_hint) from exc

    def _headers(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[str, str]]:
        pairs = event.headers.raw_items()
        if len(pairs) > self._max_headers:
            raise TooManyHeaders(self._max_headers)
        return [(_to_name(name), value.decode("iso-8859-1")) for name, value in pairs]


def _to_name(name: bytes) -> str:
    return _NAMES.get(name) or name.decode("ascii")


def _describe(exc: h11.RemoteProtocolError) -> str:
    """Return the message of an error of h11 without its insides."""
    # It may quote a line, however long.
    return re.sub(r"bytearray\(b(.*)\)", r"\1", str(exc), flags=re.DOTALL)[:200]


class RequestParser(_Parser):
    """Reads one request head, fed in pieces of any size.

    The body, if there is one, is left alone: no opening handshake has one.

    Args:
        max_head_size: Most bytes that the request line and the headers may take.
        max_headers: Most headers that there may be.
    """

    def __init__(self, *, max_head_size: int = MAX_HEAD_SIZE, max_headers: int = MAX_HEADERS) -> None:
        super().__init__(h11.SERVER, max_head_size, max_headers)

    @property
    def is_empty(self) -> bool:
        """Whether there is no part of a request."""
        return not self._held

    def feed(self, data: bytes) -> Request | None:
        """Take what has arrived; return the request once it is whole.

        Args:
            data: The bytes, in order. Empty means that no more will come.

        Raises:
            InvalidMessage: if it is not a request, or ends too early.
            HeadTooBig: if it takes more than ``max_head_size`` bytes.
            TooManyHeaders: if it has more than ``max_headers`` headers.
        """
        if not data:
            raise InvalidMessage("the connection was closed before the end of the request")
        self._held += data
        if not self._hand_on_head():
            return None
        event = self._next_event()
        try:
            return Request(
                event.target.decode("ascii"),
                self._headers(event),
                method=event.method.decode("ascii"),
                http_version=event.http_version.decode("ascii"),
            )
        except InvalidHeader as exc:
            raise InvalidMessage(str(exc)) from exc


class ResponseParser(_Parser):
    """Reads one response to an opening handshake, fed in pieces of any size.

    Interim responses (1xx other than 101) are passed over (RFC 9110, section 15.2). A body may have a
    Content-Length, be chunked, or end with the connection.

    Args:
        max_head_size: Most bytes that status line and headers may take, those of interim responses included.
        max_headers: Most headers that there may be.
        max_body_size: Most bytes that the body may have.
    """

    # What it is an answer to.
    _asked = UPGRADE_REQUEST

    def __init__(
        self,
        *,
        max_head_size: int = MAX_HEAD_SIZE,
        max_headers: int = MAX_HEADERS,
        max_body_size: int = MAX_BODY_SIZE,
    ) -> None:
        super().__init__(h11.CLIENT, max_head_size, max_headers)
        self._connection.send(self._asked)
        self._connection.send(h11.EndOfMessage())
        self._max_body_size = max_body_size
        self._interim_responses = 0
        self._names: list[bytes] = []
        self._head: Response | None = None
        self._body = bytearray()

    @property
    def partial(self) -> Response | None:
        """The response as far as it has come, once its head has: for when the rest never comes."""
        if self._head is None or self._has_no_body(self._head.status_code):
            return self._head
        return attrs.evolve(self._head, body=bytes(self._body))

    def _has_no_body(self, status_code: int) -> bool:
        return status_code in BODILESS

    def feed(self, data: bytes) -> Response | None:
        """Take what has arrived; return the response once it is whole.

        Args:
            data: The bytes, in order. Empty means that no more will come.

        Raises:
            InvalidMessage: if it is not a response, or ends too early.
            HeadTooBig: if status line and headers take more than ``max_head_size`` bytes.
            TooManyHeaders: if it has more than ``max_headers`` headers.
            BodyTooBig: if the body has more than ``max_body_size`` bytes; :attr:`partial` has the first of
                them.
        """
        if data:
            self._held += data
        elif self._head is None:
            raise InvalidMessage("the connection was closed before the end of the response")
        else:
            self._connection.receive_data(b"")
        while self._head is None:
            check_start(self._held)
            if not self._hand_on_head():
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
        prepared = Head(head, is_tunnel=self._asked is _CONNECT_REQUEST)
        self._names = prepared.names
        if prepared.status_code == 101 and self._asked is not UPGRADE_REQUEST:
            raise InvalidMessage("it is 101 (Switching Protocols), which the request did not ask for")
        return prepared.data

    def _headers(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[str, str]]:
        # h11 has seen other names, and perhaps one header more. See Head.
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
                # Paused is what h11 is where a tunnel begins.
                return self.partial
            elif self._held:
                # With so many bytes that it cannot use, h11 gives up. It never has more of them, so that it
                # refuses the same things however they arrive.
                room = MAX_CHUNK_HEADER_SIZE - len(self._connection.trailing_data[0])
                self._connection.receive_data(bytes(self._held[:room]))
                del self._held[:room]
            else:
                return None

    def _convert_head(self, event: h11.Response | h11.InformationalResponse) -> Response:
        version = event.http_version.decode("ascii")
        # RFC 9110, section 7.8: there is no Upgrade in HTTP/1.0.
        if not version.startswith("1.") or (version == "1.0" and event.status_code == 101):
            raise InvalidMessage(f"HTTP/{version} has no such response")
        try:
            return Response(event.status_code, event.reason.decode("iso-8859-1"), self._headers(event))
        except InvalidHeader as exc:
            raise InvalidMessage(str(exc)) from exc


class TunnelParser(ResponseParser):
    """Reads the response of a proxy to a CONNECT request, fed in pieces of any size.

    If it is 2xx, a tunnel begins right behind the headers. There is no body then, even where the headers give it a
    length (RFC 9110, section 9.3.6). Anything else is read as :class:`ResponseParser` reads it.
    """

    _asked = _CONNECT_REQUEST

    def _has_no_body(self, status_code: int) -> bool:
        return status_code < 300 or super()._has_no_body(status_code)
