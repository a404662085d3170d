"""Requests and responses of the opening handshake, and their serialization."""

from __future__ import annotations

import operator
import re
import sys
from typing import TYPE_CHECKING, Any

import attrs
import h11

from ..datastructures import TOKEN, Headers, HeadersLike
from ..exceptions.handshake import InvalidMessage
from ..exceptions.shown import show_fields
from .lines import explain_local_error

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["BODILESS", "EMPTY", "SPACE", "UPGRADE_REQUEST", "Request", "Response", "reason_phrase", "software"]

#: The request that h11 must see before it reads or writes the response of an opening handshake.
UPGRADE_REQUEST: h11.Request = h11.Request(
    method="GET", target="/", headers=[("Host", ""), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
)

#: Status codes, besides 1xx, whose responses have no body (RFC 9112, section 6.3).
BODILESS: tuple[int, ...] = (204, 304)

#: Those, and the one whose responses have a body, which must be empty (RFC 9110, section 15.3.6).
EMPTY: tuple[int, ...] = (*BODILESS, 205)

_HTTP_VERSION = re.compile(r"[0-9]\.[0-9]|2")
_REASON_PHRASE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: Optional whitespace around header values (RFC 9110, section 5.6.3).
SPACE: str = " \t"


def _copy_headers(headers: HeadersLike) -> Headers:
    return Headers(headers)


def _to_status_code(status_code: Any) -> int:
    # attrs inspects the signature of a converter, which takes milliseconds for the builtin operator.index.
    try:
        return operator.index(status_code)
    except TypeError:
        raise TypeError(f"status_code must be an int, not {status_code!r}") from None


def _to_body(body: Any) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    raise TypeError(f"body must be bytes, a bytearray, a memoryview or None, not {type(body).__name__}")


def _check_str(_instance: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str, not {value!r}")


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


@attrs.frozen
class Request:
    """The request of an opening handshake.

    Args:
        path: The request target: the path, followed by the query if any, in visible ASCII characters. It starts with a
            slash, unless the request is not an opening handshake and has a target in asterisk or absolute form.
        headers: The headers, or anything that the constructor of :class:`Headers` accepts; copied.
        _exception: The reason why the handshake failed. Not compared.
        method: The method; in an opening handshake GET, or CONNECT over HTTP/2.
        http_version: The version of HTTP; ``"2"`` for a request of HTTP/2. Only requests with ``"1.1"`` can be
            serialized.
        protocol: The ``:protocol`` of an extended CONNECT request (RFC 8441); None for all others.

    Raises:
        InvalidMessage: If ``path``, ``method`` or ``http_version`` is not valid in a request line.
        InvalidHeader: If a header is not valid.
        TypeError: If ``path``, ``method`` or ``http_version`` is not a str, or ``protocol`` neither a str nor None.
    """

    path: str = attrs.field(validator=_check_str)
    headers: Headers = attrs.field(converter=_copy_headers)
    _exception: Exception | None = attrs.field(default=None, alias="_exception", eq=False, repr=False)
    method: str = attrs.field(default="GET", validator=_check_str, kw_only=True)
    http_version: str = attrs.field(default="1.1", validator=_check_str, kw_only=True)
    protocol: str | None = attrs.field(default=None, validator=attrs.validators.optional(_check_str), kw_only=True)

    __repr__ = show_fields

    @path.validator
    def _check_path(self, _attribute: object, path: str) -> None:
        if not path or not _is_visible(path):
            raise InvalidMessage(f"path must be visible ASCII characters, not {path!r}")

    @method.validator
    def _check_method(self, _attribute: object, method: str) -> None:
        if not TOKEN.fullmatch(method):
            raise InvalidMessage(f"method must be a token (RFC 9110, section 9.1), not {method!r}")

    @http_version.validator
    def _check_http_version(self, _attribute: object, http_version: str) -> None:
        if not _HTTP_VERSION.fullmatch(http_version):
            raise InvalidMessage(f"http_version must be 2, or two digits with a dot between them, not {http_version!r}")

    def serialize(self) -> bytes:
        """Return the request as bytes.

        Raises:
            InvalidMessage: If this is not a valid HTTP/1.1 request, for example without exactly one Host header.
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
            raise InvalidMessage(f"not a valid request: {explain_local_error(str(exc))}") from exc


@attrs.frozen
class Response:
    """The response of an opening handshake.

    Args:
        status_code: The status code, from 100 to 599.
        reason_phrase: The text after the status code, in visible ISO 8859-1 characters; may be empty.
        headers: The headers, or anything that the constructor of :class:`Headers` accepts; copied.
        body: The body; None if there is none.
        _exception: The reason why the handshake failed. Not compared.

    Raises:
        InvalidMessage: If the status code or the reason phrase is not valid in a status line.
        InvalidHeader: If a header is not valid.
        TypeError: If an argument has the wrong type.
    """

    status_code: int = attrs.field(converter=_to_status_code)
    reason_phrase: str = attrs.field(validator=_check_str)
    headers: Headers = attrs.field(converter=_copy_headers)
    body: bytes | None = attrs.field(default=None, converter=_to_body)
    _exception: Exception | None = attrs.field(default=None, alias="_exception", eq=False, repr=False)

    __repr__ = show_fields

    @status_code.validator
    def _check_status_code(self, _attribute: object, status_code: int) -> None:
        if not 100 <= status_code <= 599:
            raise InvalidMessage(f"status_code must be from 100 to 599, not {status_code}")

    @reason_phrase.validator
    def _check_reason_phrase(self, _attribute: object, reason_phrase: str) -> None:
        if not _REASON_PHRASE.fullmatch(reason_phrase):
            raise InvalidMessage(f"reason_phrase must be visible ISO 8859-1 characters, not {reason_phrase!r}")

    def serialize(self, *, head: bool = False) -> bytes:
        """Return the response as bytes, with a Content-Length header if its status allows a body.

        Args:
            head: Whether this is the response to a HEAD request: it has all the headers, but no body.

        Raises:
            InvalidMessage: If this is not a valid HTTP/1.1 response, for example with a body shorter than its
                Content-Length.
        """
        if self.status_code < 200:
            return self._serialize_interim()
        headers = _to_h11(self.headers)
        reason = self.reason_phrase.encode("iso-8859-1")
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(h11.Connection(h11.CLIENT).send(UPGRADE_REQUEST) or b"")
        connection.next_event()
        try:
            body = self.body or b""
            if body and self.status_code in EMPTY:
                raise InvalidMessage(f"a {self.status_code} response must not have a body")
            has_body = self.status_code not in BODILESS
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
            raise InvalidMessage(f"not a valid response: {explain_local_error(str(exc))}") from exc

    def _serialize_interim(self) -> bytes:
        # An interim response ends with the empty line (RFC 9112, section 6.3).
        if self.body or "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            raise InvalidMessage(
                f"a {self.status_code} response must not have a body, Content-Length or Transfer-Encoding"
            )
        lines = [f"HTTP/1.1 {self.status_code} {self.reason_phrase}"]
        lines += [f"{name}: {value.strip(SPACE)}" for name, value in self.headers.raw_items()]
        return "\r\n".join([*lines, "", ""]).encode("iso-8859-1")


def _to_h11(headers: Headers) -> list[tuple[bytes, bytes]]:
    # Encoded here because h11 would encode a str as ASCII.
    return [(name.encode(), value.strip(SPACE).encode("iso-8859-1")) for name, value in headers.raw_items()]


def reason_phrase(status_code: int) -> str:
    """Return the standard reason phrase of a status code, or an empty string."""
    if status_code == 101:
        return "Switching Protocols"
    from http import HTTPStatus  # most programs send no other response, and this takes a millisecond

    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return ""


def software(version: str) -> str:
    """Return the default value of the User-Agent and Server headers."""
    return f"trio_ws/{version} Python/{sys.version.partition(' ')[0]}"
