"""The HTTP/1.1 side of the opening handshake: requests and responses, as values and as bytes.

The grammar of HTTP is h11's, and this is the only module that imports it. An ``h11.Connection`` here never outlives one
message: a parser or a serializer brings a fresh one into the state in which it reads or writes that message and asks it
for nothing else. Limits are ours, each with its own error, and exact: so many bytes pass, and one more does not.
"""

from __future__ import annotations

import http
import platform
from typing import Any

import attrs
import h11

from .datastructures import Headers, HeadersLike
from .exceptions import BodyTooBig, HeadTooBig, InvalidHeader, InvalidMessage, TooManyHeaders

__all__ = ["Request", "RequestParser", "Response", "ResponseParser"]

#: Most bytes of a start line and its headers.
MAX_HEAD_SIZE = 32 * 1024
#: Most headers of a message.
MAX_HEADERS = 128
#: Most bytes in the body of a response.
MAX_BODY_SIZE = 1024 * 1024
#: Most interim responses (1xx) before the one that counts.
MAX_INTERIM_RESPONSES = 16

# What h11 has to believe has been asked, before it reads or writes an answer to an opening handshake.
_UPGRADE_REQUEST = h11.Request(
    method="GET", target="/", headers=[("Host", ""), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
)


def _copy_headers(headers: HeadersLike) -> Headers:
    return Headers(headers)


def _to_body(body: Any) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    raise TypeError(f"a body is bytes, not {type(body).__name__}")


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


@attrs.frozen
class Request:
    """The request of an opening handshake.

    Args:
        path: What is asked for: a path, with the query if there is one. Visible ASCII characters, starting with a slash
            unless it is the asterisk or absolute form of other requests.
        headers: Its headers, or whatever :class:`Headers` can be made from; copied.
        _exception: Why the handshake failed, for whoever is handed the request afterwards. Takes no part in comparisons.
        method: The method; an opening handshake has GET.
        http_version: ``"1.1"`` or ``"1.0"``.

    Raises:
        InvalidMessage: if ``path`` or ``method`` cannot stand in a request line.
        InvalidHeader: if a header is not valid.
    """

    path: str = attrs.field(validator=attrs.validators.instance_of(str))
    headers: Headers = attrs.field(converter=_copy_headers)
    _exception: Exception | None = attrs.field(default=None, alias="_exception", eq=False, repr=False)
    method: str = attrs.field(default="GET", kw_only=True)
    http_version: str = attrs.field(default="1.1", kw_only=True)

    __hash__ = None  # type: ignore[assignment]  # headers are mutable

    @path.validator
    def _check_path(self, _attribute: object, path: str) -> None:
        if not path or not _is_visible(path):
            raise InvalidMessage(f"a request cannot ask for {path!r}")

    @method.validator
    def _check_method(self, _attribute: object, method: str) -> None:
        if not method or not _is_visible(method):
            raise InvalidMessage(f"{method!r} is not a method")

    def serialize(self) -> bytes:
        """Return the request as bytes.

        Raises:
            InvalidMessage: if it is no HTTP/1.1 request, for example without exactly one Host header.
        """
        try:
            request = h11.Request(method=self.method, target=self.path, headers=_to_h11(self.headers))
            return h11.Connection(h11.CLIENT).send(request) or b""
        except h11.LocalProtocolError as exc:
            raise InvalidMessage(f"not a request: {exc}") from exc


@attrs.frozen
class Response:
    """The response of an opening handshake.

    Args:
        status_code: From 100 to 599.
        reason_phrase: Text that goes with it, in visible ISO 8859-1 characters; may be empty.
        headers: Its headers, or whatever :class:`Headers` can be made from; copied.
        body: Its body, if it has one.
        _exception: Why the handshake failed, for whoever is handed the response afterwards. Takes no part in comparisons.

    Raises:
        InvalidMessage: if the status code or the reason phrase cannot stand in a status line.
        InvalidHeader: if a header is not valid.
        TypeError: if the body is not bytes.
    """

    status_code: int = attrs.field(converter=int)
    reason_phrase: str = attrs.field(validator=attrs.validators.instance_of(str))
    headers: Headers = attrs.field(converter=_copy_headers)
    body: bytes | None = attrs.field(default=None, converter=_to_body)
    _exception: Exception | None = attrs.field(default=None, alias="_exception", eq=False, repr=False)

    __hash__ = None  # type: ignore[assignment]  # headers are mutable

    @status_code.validator
    def _check_status_code(self, _attribute: object, status_code: int) -> None:
        if not 100 <= status_code <= 599:
            raise InvalidMessage(f"{status_code} is not an HTTP status code")

    @reason_phrase.validator
    def _check_reason_phrase(self, _attribute: object, reason_phrase: str) -> None:
        if not all(c == "\t" or " " <= c <= "~" or "\x80" <= c <= "\xff" for c in reason_phrase):
            raise InvalidMessage(f"{reason_phrase!r} cannot be a reason phrase")

    def serialize(self) -> bytes:
        """Return the response as bytes, with a Content-Length header if it may have a body.

        Raises:
            InvalidMessage: if it is no HTTP/1.1 response, for example with a body shorter than its Content-Length.
        """
        headers = _to_h11(self.headers)
        reason = self.reason_phrase.encode("iso-8859-1")
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(h11.Connection(h11.CLIENT).send(_UPGRADE_REQUEST) or b"")
        connection.next_event()
        try:
            if self.status_code < 200:
                if self.body:
                    raise h11.LocalProtocolError(f"a {self.status_code} response has no body")
                interim = h11.InformationalResponse(status_code=self.status_code, headers=headers, reason=reason)
                return connection.send(interim) or b""
            body = self.body or b""
            has_body = self.status_code not in (204, 304)
            if has_body and "Content-Length" not in self.headers and "Transfer-Encoding" not in self.headers:
                headers.append(("Content-Length", str(len(body))))
            response = h11.Response(status_code=self.status_code, headers=headers, reason=reason)
            parts = [connection.send(response), connection.send(h11.Data(data=body)), connection.send(h11.EndOfMessage())]
            return b"".join(part or b"" for part in parts)
        except h11.LocalProtocolError as exc:
            raise InvalidMessage(f"not a response: {exc}") from exc


def _to_h11(headers: Headers) -> list[tuple[str, str]]:
    return [(name, value.strip(" \t")) for name, value in headers.raw_items()]


class _Parser:
    """What reading a request and reading a response have in common."""

    def __init__(
        self, role: type[h11.CLIENT] | type[h11.SERVER], max_head_size: int, max_headers: int
    ) -> None:
        # One byte more than ours, so that it is our limit that is reached.
        self._connection = h11.Connection(role, max_incomplete_event_size=max_head_size + 1)
        self._max_head_size = max_head_size
        self._max_headers = max_headers
        self._head_size = 0
        self._in_head = True
        # What was fed and is not h11's to see: bytes past the limit of the head, or past the message.
        self._held = bytearray()

    @property
    def unused(self) -> bytes:
        """The bytes that were fed and came after the message: the first of the WebSocket connection."""
        return self._connection.trailing_data[0] + bytes(self._held)

    def _feed(self, data: bytes) -> None:
        self._held += data
        self._feed_held()

    def _feed_held(self) -> bool:
        """Hand on what is held, within the limit of the head. Return whether that was anything."""
        room = self._max_head_size - self._head_size if self._in_head else len(self._held)
        data = bytes(self._held[:room])
        if not data:
            return False
        del self._held[:room]
        self._head_size += len(data)
        self._connection.receive_data(data)
        return True

    def _next_event(self) -> Any:
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as exc:
            raise InvalidMessage(str(exc), exc.error_status_hint) from exc
        if event is h11.NEED_DATA and self._in_head and self._held:
            raise HeadTooBig(self._max_head_size)
        return event

    def _convert_headers(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> Headers:
        pairs = event.headers.raw_items()
        if len(pairs) > self._max_headers:
            raise TooManyHeaders(self._max_headers)
        try:
            return Headers((name.decode("iso-8859-1"), value.decode("iso-8859-1")) for name, value in pairs)
        except InvalidHeader as exc:
            raise InvalidMessage(str(exc)) from exc


class RequestParser(_Parser):
    """Reads one request head, fed in pieces of any size.

    The body, if there is one, is left alone: no opening handshake has one.

    Args:
        max_head_size: Most bytes that the request line and the headers may take.
        max_headers: Most headers that there may be.
    """

    def __init__(self, *, max_head_size: int = MAX_HEAD_SIZE, max_headers: int = MAX_HEADERS) -> None:
        super().__init__(h11.SERVER, max_head_size, max_headers)

    def feed(self, data: bytes) -> Request | None:
        """Take what has arrived; return the request once it is whole.

        Args:
            data: The bytes, in order. Empty means that no more will come.

        Raises:
            InvalidMessage: if it is not a request, or ends too early.
            HeadTooBig: if it takes more than ``max_head_size`` bytes.
            TooManyHeaders: if it has more than ``max_headers`` headers.
        """
        if data:
            self._feed(data)
        else:
            self._connection.receive_data(b"")
        event = self._next_event()
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.Request):
            raise InvalidMessage("the connection was closed before the end of the request")
        return Request(
            event.target.decode("ascii"),
            self._convert_headers(event),
            method=event.method.decode("ascii"),
            http_version=event.http_version.decode("ascii"),
        )


class ResponseParser(_Parser):
    """Reads one response to an opening handshake, fed in pieces of any size.

    Interim responses (1xx other than 101) are passed over (RFC 9110, section 15.2). A body may have a Content-Length, be
    chunked, or end with the connection.

    Args:
        max_head_size: Most bytes that status line and headers may take, those of interim responses included.
        max_headers: Most headers that there may be.
        max_body_size: Most bytes that the body may have.
    """

    def __init__(
        self,
        *,
        max_head_size: int = MAX_HEAD_SIZE,
        max_headers: int = MAX_HEADERS,
        max_body_size: int = MAX_BODY_SIZE,
    ) -> None:
        super().__init__(h11.CLIENT, max_head_size, max_headers)
        self._connection.send(_UPGRADE_REQUEST)
        self._connection.send(h11.EndOfMessage())
        self._max_body_size = max_body_size
        self._interim_responses = 0
        self._head: Response | None = None
        self._body = bytearray()

    @property
    def partial(self) -> Response | None:
        """The response as far as it has come, once its head has: for when the rest never comes."""
        return None if self._head is None else attrs.evolve(self._head, body=bytes(self._body))

    def feed(self, data: bytes) -> Response | None:
        """Take what has arrived; return the response once it is whole.

        Args:
            data: The bytes, in order. Empty means that no more will come.

        Raises:
            InvalidMessage: if it is not a response, or ends too early.
            HeadTooBig: if status line and headers take more than ``max_head_size`` bytes.
            TooManyHeaders: if it has more than ``max_headers`` headers.
            BodyTooBig: if the body has more than ``max_body_size`` bytes; :attr:`partial` has the first of them.
        """
        if data:
            self._feed(data)
        else:
            self._connection.receive_data(b"")
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                if not self._feed_held():
                    return None
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return self._convert_head(event)
                self._interim_responses += 1
                if self._interim_responses > MAX_INTERIM_RESPONSES:
                    raise InvalidMessage(f"more than {MAX_INTERIM_RESPONSES} interim responses")
            elif isinstance(event, h11.Response):
                self._head = self._convert_head(event)
                self._in_head = False
                self._feed_held()
            elif isinstance(event, h11.Data):
                room = self._max_body_size - len(self._body)
                self._body += event.data[:room]
                if len(event.data) > room:
                    raise BodyTooBig(self._max_body_size)
            elif isinstance(event, h11.EndOfMessage):
                return self.partial
            else:
                raise InvalidMessage("the connection was closed before the end of the response")

    def _convert_head(self, event: h11.Response | h11.InformationalResponse) -> Response:
        return Response(event.status_code, event.reason.decode("iso-8859-1"), self._convert_headers(event))


def reason_phrase(status_code: int) -> str:
    """The usual reason phrase for a status code."""
    return http.HTTPStatus(status_code).phrase


def software(version: str) -> str:
    """What we call ourselves in the User-Agent and Server headers."""
    return f"trio_ws/{version} Python/{platform.python_version()}"
