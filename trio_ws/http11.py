"""The HTTP/1.1 side of the opening handshake: requests and responses, as values and as bytes.

The grammar of HTTP is h11's, and this is the only module that imports it. An ``h11.Connection`` here never
outlives one message: a parser or a serializer brings a fresh one into the state in which it reads or writes
that message and asks it for nothing else. An interim response goes without: it has no body, and what stands in
its lines was checked when it was constructed. Limits are ours, each with its own error, and exact: so many
bytes pass, and one more does not.

What a message is does not depend on the pieces in which it arrives. Therefore h11 sees a head only when it is
whole, and a body in pieces of our own size.
"""

from __future__ import annotations

import http
import operator
import platform
import re
import zlib
from typing import Any

import attrs
import h11

from .datastructures import COMMON_NAMES, TOKEN, Headers, HeadersLike
from .exceptions import BodyTooBig, HeadTooBig, InvalidHeader, InvalidMessage, TooManyHeaders

__all__ = ["Request", "RequestParser", "Response", "ResponseParser", "TunnelParser"]

#: Most bytes of a start line and its headers.
MAX_HEAD_SIZE = 32 * 1024
#: Most headers of a message.
MAX_HEADERS = 128
#: Most bytes in the body of a response.
MAX_BODY_SIZE = 1024 * 1024
#: Most bytes of the header of a chunk, or of the trailers after the last one.
MAX_CHUNK_HEADER_SIZE = 4 * 1024
#: Most interim responses (1xx) before the one that counts.
MAX_INTERIM_RESPONSES = 16

# What h11 has to believe has been asked, before it reads or writes an answer to an opening handshake.
_UPGRADE_REQUEST = h11.Request(
    method="GET", target="/", headers=[("Host", ""), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
)

# The same for an answer to a request for a tunnel.
_CONNECT_REQUEST = h11.Request(method="CONNECT", target="example.org:443", headers=[("Host", "example.org:443")])

# The status codes whose responses have no body, besides 1xx (RFC 9112, section 6.3).
_BODILESS = (204, 304)

# How many bytes of a body are decompressed at a time. Where one is wrong, nothing comes out of those before it.
_PIECE = 4 * 1024

_NAMES = {name.encode(): name for name in COMMON_NAMES}

_HTTP_VERSION = re.compile(r"[0-9]\.[0-9]")
_REASON_PHRASE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# What may surround a value.
_SPACE = " \t"
# The empty line at the end of a head, the way h11 sees it.
_END_OF_HEAD = re.compile(rb"\n\r?\n")
# What no head may have: NUL, VT, FF, and a CR that no LF follows. h11 refuses them too, but its regular expression
# for a header takes quadratic time to find out that a long run of spaces ends with one of these: seconds for 32 KiB.
_SUSPECT = b"\x00\x0b\x0c\r"


def _copy_headers(headers: HeadersLike) -> Headers:
    return Headers(headers)


def _to_status_code(status_code: Any) -> int:
    # A function of ours: attrs looks for the signature of a converter, and to find one in C takes it as long as the
    # rest of this module.
    return operator.index(status_code)


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
        path: What is asked for: a path, with the query if there is one. Visible ASCII characters, starting
            with a slash unless it is the asterisk or absolute form of other requests.
        headers: Its headers, or whatever :class:`Headers` can be made from; copied.
        _exception: Why the handshake failed, for whoever is handed the request afterwards. Takes no part in
            comparisons.
        method: The method; an opening handshake has GET.
        http_version: The version of HTTP, such as ``"1.1"``, the only one that is ever sent.

    Raises:
        InvalidMessage: if ``path``, ``method`` or ``http_version`` cannot stand in a request line.
        InvalidHeader: if a header is not valid.
    """

    path: str = attrs.field(validator=attrs.validators.instance_of(str))
    headers: Headers = attrs.field(converter=_copy_headers)
    _exception: Exception | None = attrs.field(default=None, alias="_exception", eq=False, repr=False)
    method: str = attrs.field(default="GET", kw_only=True)
    http_version: str = attrs.field(default="1.1", kw_only=True)

    @path.validator
    def _check_path(self, _attribute: object, path: str) -> None:
        if not path or not _is_visible(path):
            raise InvalidMessage(f"a request cannot ask for {path!r}")

    @method.validator
    def _check_method(self, _attribute: object, method: str) -> None:
        if not TOKEN.fullmatch(method):
            raise InvalidMessage(f"{method!r} is not a method")

    @http_version.validator
    def _check_http_version(self, _attribute: object, http_version: str) -> None:
        if not _HTTP_VERSION.fullmatch(http_version):
            raise InvalidMessage(f"{http_version!r} is not a version of HTTP")

    def serialize(self) -> bytes:
        """Return the request as bytes.

        Raises:
            InvalidMessage: if it is no HTTP/1.1 request, for example without exactly one Host header.
        """
        try:
            request = h11.Request(
                method=self.method,
                target=self.path,
                headers=_to_h11(self.headers),
                http_version=self.http_version,
            )
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
        _exception: Why the handshake failed, for whoever is handed the response afterwards. Takes no part in
            comparisons.

    Raises:
        InvalidMessage: if the status code or the reason phrase cannot stand in a status line.
        InvalidHeader: if a header is not valid.
        TypeError: if the status code is not an int, or the body not bytes.
    """

    status_code: int = attrs.field(converter=_to_status_code)
    reason_phrase: str = attrs.field(validator=attrs.validators.instance_of(str))
    headers: Headers = attrs.field(converter=_copy_headers)
    body: bytes | None = attrs.field(default=None, converter=_to_body)
    _exception: Exception | None = attrs.field(default=None, alias="_exception", eq=False, repr=False)

    @status_code.validator
    def _check_status_code(self, _attribute: object, status_code: int) -> None:
        if not 100 <= status_code <= 599:
            raise InvalidMessage(f"{status_code} is not an HTTP status code")

    @reason_phrase.validator
    def _check_reason_phrase(self, _attribute: object, reason_phrase: str) -> None:
        if not _REASON_PHRASE.fullmatch(reason_phrase):
            raise InvalidMessage(f"{reason_phrase!r} cannot be a reason phrase")

    def serialize(self, *, head: bool = False) -> bytes:
        """Return the response as bytes, with a Content-Length header if it may have a body.

        Args:
            head: Whether it answers a HEAD request: then the body is left out, but not what is said about it.

        Raises:
            InvalidMessage: if it is no HTTP/1.1 response, for example with a body shorter than its
                Content-Length.
        """
        if self.status_code < 200:
            return self._serialize_interim()
        headers = _to_h11(self.headers)
        reason = self.reason_phrase.encode("iso-8859-1")
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(h11.Connection(h11.CLIENT).send(_UPGRADE_REQUEST) or b"")
        connection.next_event()
        try:
            body = self.body or b""
            has_body = self.status_code not in _BODILESS
            if has_body and "Content-Length" not in self.headers and "Transfer-Encoding" not in self.headers:
                headers.append((b"Content-Length", b"%d" % len(body)))
            response = h11.Response(status_code=self.status_code, headers=headers, reason=reason)
            parts = [
                connection.send(response),
                connection.send(h11.Data(data=body)),
                connection.send(h11.EndOfMessage()),
            ]
            return parts[0] or b"" if head else b"".join(part or b"" for part in parts)
        except h11.LocalProtocolError as exc:
            raise InvalidMessage(f"not a response: {exc}") from exc

    def _serialize_interim(self) -> bytes:
        # RFC 9112, section 6.3: it ends with the empty line.
        if self.body or "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            raise InvalidMessage(f"a {self.status_code} response has no body, and no header that gives it a length")
        lines = [f"HTTP/1.1 {self.status_code} {self.reason_phrase}"]
        lines += [f"{name}: {value.strip(_SPACE)}" for name, value in self.headers.raw_items()]
        return "\r\n".join([*lines, "", ""]).encode("iso-8859-1")


def _to_h11(headers: Headers) -> list[tuple[bytes, bytes]]:
    # As bytes: h11 encodes a str as ASCII.
    return [(name.encode(), value.strip(_SPACE).encode("iso-8859-1")) for name, value in headers.raw_items()]


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
        self._connection.receive_data(head)
        return True

    def _next_event(self) -> Any:
        try:
            return self._connection.next_event()
        except h11.RemoteProtocolError as exc:
            # Shortened, because it may quote a line, however long.
            raise InvalidMessage(f"{exc!s:.200}", exc.error_status_hint) from exc

    def _headers(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[str, str]]:
        pairs = event.headers.raw_items()
        if len(pairs) > self._max_headers:
            raise TooManyHeaders(self._max_headers)
        return [(_NAMES.get(name) or name.decode("ascii"), value.decode("iso-8859-1")) for name, value in pairs]


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
    _asked = _UPGRADE_REQUEST

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
        self._head: Response | None = None
        self._body = bytearray()

    @property
    def partial(self) -> Response | None:
        """The response as far as it has come, once its head has: for when the rest never comes."""
        if self._head is None or self._has_no_body(self._head.status_code):
            return self._head
        return attrs.evolve(self._head, body=bytes(self._body))

    def _has_no_body(self, status_code: int) -> bool:
        return status_code in _BODILESS

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


def decode_body(response: Response) -> Response:
    """Return a response with its body decompressed, as far as it has come, if it is compressed with gzip or deflate.

    At most as much comes out as a body may have. Other bodies stay as they are, and so do the headers.
    """
    codings = response.headers.get_all("Content-Encoding")
    if not response.body or len(codings) != 1:
        return response
    # It sees by itself which of the two formats it is. What is called deflate has one, and often comes without.
    for wbits in {"gzip": [47], "x-gzip": [47], "deflate": [47, -15]}.get(codings[0].strip(_SPACE).lower(), []):
        if body := _decompress(response.body, wbits):
            return attrs.evolve(response, body=body)
    return response


def _decompress(data: bytes, wbits: int) -> bytes:
    """Return what can be decompressed, which may be nothing."""
    body = bytearray()
    decompressor = zlib.decompressobj(wbits)
    position = 0
    while position < len(data) and len(body) < MAX_BODY_SIZE:
        if decompressor.eof:
            # What gzip makes may be several streams, one after the other (RFC 1952, section 2.2).
            decompressor = zlib.decompressobj(wbits)
        piece = data[position : position + _PIECE]
        try:
            body += decompressor.decompress(piece, MAX_BODY_SIZE - len(body))
        except zlib.error:
            break
        position += len(piece) - len(decompressor.unused_data)
    return bytes(body)


def reason_phrase(status_code: int) -> str:
    """The usual reason phrase for a status code; empty if there is none."""
    try:
        return http.HTTPStatus(status_code).phrase
    except ValueError:
        return ""


def software(version: str) -> str:
    """What we call ourselves in the User-Agent and Server headers."""
    return f"trio_ws/{version} Python/{platform.python_version()}"
