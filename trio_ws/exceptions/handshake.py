"""Invalid messages in the opening handshake."""

from __future__ import annotations

import attrs

from .base import WebSocketException
from .shown import show_value

__all__ = [
    "BodyTooBig",
    "HeadTooBig",
    "HostNotServed",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidMethod",
    "InvalidOrigin",
    "InvalidUpgrade",
    "NegotiationError",
    "TooManyHeaders",
]


class InvalidHandshake(WebSocketException):
    """The peer's part of the opening handshake was invalid (RFC 6455, section 4).

    The subclasses tell the reasons apart.

    Attributes:
        peer: The server that the client received the message from; None on servers.
    """

    peer: str | None = None

    def _name_peer(self, text: str) -> str:
        return text if self.peer is None else f"the response of {self.peer} is not valid: {text}"


@attrs.define(slots=False, eq=False, repr=False)
class InvalidMessage(InvalidHandshake, ValueError):
    """The message is not valid HTTP/1.1 (RFC 9112), or cannot be part of an opening handshake.

    Attributes:
        reason: What is wrong.
        status: The status code of the server's response.
    """

    reason: str
    status: int = 400

    def __str__(self) -> str:
        return self._name_peer(self.reason)


@attrs.define(slots=False, eq=False, repr=False)
class HeadTooBig(InvalidMessage):
    """The start line and the headers are larger than this endpoint accepts.

    Attributes:
        limit: Maximum size in bytes.
    """

    limit: int
    reason: str = attrs.field(init=False)
    status: int = attrs.field(init=False, default=431)

    @reason.default
    def _reason(self) -> str:
        return f"the start line and the headers must have at most {self.limit} bytes"


@attrs.define(slots=False, eq=False, repr=False)
class TooManyHeaders(InvalidMessage):
    """The message has more headers than this endpoint accepts.

    Attributes:
        limit: Maximum number of headers.
    """

    limit: int
    reason: str = attrs.field(init=False)
    status: int = attrs.field(init=False, default=431)

    @reason.default
    def _reason(self) -> str:
        return f"the message must have at most {self.limit} headers"


@attrs.define(slots=False, eq=False, repr=False)
class BodyTooBig(InvalidMessage):
    """The body of the response is larger than this endpoint accepts.

    Attributes:
        limit: Maximum size in bytes.
    """

    limit: int
    reason: str = attrs.field(init=False)
    status: int = attrs.field(init=False, default=413)

    @reason.default
    def _reason(self) -> str:
        return f"the body must have at most {self.limit} bytes"


@attrs.define(slots=False, eq=False, repr=False)
class InvalidMethod(InvalidHandshake):
    """The request method is not GET (RFC 6455, section 4.1).

    Attributes:
        method: The method of the request.
    """

    method: str

    def __str__(self) -> str:
        return f"the method must be GET, not {self.method}"


@attrs.define(slots=False, eq=False, repr=False)
class InvalidHeader(InvalidHandshake, ValueError):
    """A header is missing, malformed or has a wrong value.

    Attributes:
        name: Name of the header.
        value: Value of the header; None if it is missing.
        reason: What is wrong.
    """

    name: str
    value: str | None
    reason: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" {show_value(self.name, self.value)!r}"
        return self._name_peer(f"header {self.name!r}{shown}: {self.reason}")


class InvalidUpgrade(InvalidHeader):
    """The message is not an upgrade to version 13 of WebSocket.

    Attributes:
        name: Name of the header: ``Connection``, ``Upgrade`` or ``Sec-WebSocket-Version``.
        value: Value of the header; None if it is missing.
        reason: What is wrong.
    """


class HostNotServed(InvalidHeader):
    """The request is for a host that this server does not serve.

    Attributes:
        name: ``Host``.
        value: Value of the header.
        reason: What is wrong.
    """


class InvalidOrigin(InvalidHeader):
    """Web pages from this origin are not allowed to connect (RFC 6455, section 10.2).

    Attributes:
        name: ``Origin``.
        value: Origin of the web page, as the browser reports it; None if the header is missing.
        reason: What is wrong.
    """


@attrs.define(slots=False, eq=False, repr=False)
class NegotiationError(InvalidHandshake):
    """Client and server did not agree on a subprotocol or an extension.

    Attributes:
        reason: What they did not agree on.
    """

    reason: str

    def __str__(self) -> str:
        return self._name_peer(self.reason)
