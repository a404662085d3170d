"""Requests and responses of the opening handshake: as values, and as bytes."""

from __future__ import annotations

import http
import operator
import platform
import re
from typing import Any

import attrs
import h11

from ..datastructures import TOKEN, Headers, HeadersLike
from ..exceptions.handshake import InvalidMessage
from .lines import explain_local_error

__all__ = ["BODILESS", "SPACE", "UPGRADE_REQUEST", "Request", "Response", "reason_phrase", "software"]

#: What h11 has to believe has been asked, before it reads or writes an answer to an opening handshake.
UPGRADE_REQUEST: h11.Request = h11.Request(
    method="GET", target="/", headers=[("Host", ""), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
)

#: The status codes whose responses have no body, besides 1xx (RFC 9112, section 6.3).
BODILESS: tuple[int, ...] = (204, 304)

_HTTP_VERSION = re.compile(r"[0-9]\.[0-9]")
_REASON_PHRASE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: What may surround a value.
SPACE: str = " \t"


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
            raise InvalidMessage(f"not a request: {explain_local_error(str(exc))}") from exc


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
        connection.receive_data(h11.Connection(h11.CLIENT).send(UPGRADE_REQUEST) or b"")
        connection.next_event()
        try:
            body = self.body or b""
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
            raise InvalidMessage(f"not a response: {explain_local_error(str(exc))}") from exc

    def _serialize_interim(self) -> bytes:
        # RFC 9112, section 6.3: it ends with the empty line.
        if self.body or "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            raise InvalidMessage(f"a {self.status_code} response has no body, and no header that gives it a length")
        lines = [f"HTTP/1.1 {self.status_code} {self.reason_phrase}"]
        lines += [f"{name}: {value.strip(SPACE)}" for name, value in self.headers.raw_items()]
        return "\r\n".join([*lines, "", ""]).encode("iso-8859-1")


def _to_h11(headers: Headers) -> list[tuple[bytes, bytes]]:
    # As bytes: h11 encodes a str as ASCII.
    return [(name.encode(), value.strip(SPACE).encode("iso-8859-1")) for name, value in headers.raw_items()]


def reason_phrase(status_code: int) -> str:
    """The usual reason phrase for a status code; empty if there is none."""
    try:
        return http.HTTPStatus(status_code).phrase
    except ValueError:
        return ""


def software(version: str) -> str:
    """What we call ourselves in the User-Agent and Server headers."""
    return f"trio_ws/{version} Python/{platform.python_version()}"
