"""Messages that are not what an opening handshake must be."""

from __future__ import annotations

import attrs

from .base import WebSocketException

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
    """The opening handshake (RFC 6455, section 4) failed because of what the peer sent.

    The subclasses say why.

    Attributes:
        peer: The server that a client has received the message from, for messages; None on servers.
    """

    peer: str | None = None

    def _name_peer(self, text: str) -> str:
        return text if self.peer is None else f"the response of {self.peer} is not valid: {text}"


@attrs.define(slots=False, eq=False)
class InvalidMessage(InvalidHandshake, ValueError):
    """Something is not an HTTP/1.1 message (RFC 9112), or one that no opening handshake has.

    Attributes:
        reason: What is wrong.
        status: The status code that a server answers with.
    """

    reason: str
    status: int = 400

    def __str__(self) -> str:
        return self._name_peer(self.reason)


@attrs.define(slots=False, eq=False)
class HeadTooBig(InvalidMessage):
    """The start line and the headers take more bytes than we accept.

    Attributes:
        limit: How many bytes they may take.
    """

    limit: int
    reason: str = attrs.field(init=False)
    status: int = attrs.field(init=False, default=431)

    @reason.default
    def _reason(self) -> str:
        return f"start line and headers of more than {self.limit} bytes"


@attrs.define(slots=False, eq=False)
class TooManyHeaders(InvalidMessage):
    """There are more headers than we accept.

    Attributes:
        limit: How many there may be.
    """

    limit: int
    reason: str = attrs.field(init=False)
    status: int = attrs.field(init=False, default=431)

    @reason.default
    def _reason(self) -> str:
        return f"more than {self.limit} headers"


@attrs.define(slots=False, eq=False)
class BodyTooBig(InvalidMessage):
    """The body of a response is larger than we accept.

    Attributes:
        limit: How many bytes it may have.
    """

    limit: int
    reason: str = attrs.field(init=False)
    status: int = attrs.field(init=False, default=413)

    @reason.default
    def _reason(self) -> str:
        return f"body of more than {self.limit} bytes"


@attrs.define(slots=False, eq=False)
class InvalidMethod(InvalidHandshake):
    """The request method is not GET (RFC 6455, section 4.1).

    Attributes:
        method: The method.
    """

    method: str

    def __str__(self) -> str:
        return f"the method of an opening handshake is GET, not {self.method}"


@attrs.define(slots=False, eq=False)
class InvalidHeader(InvalidHandshake, ValueError):
    """A header is missing, malformed or has a value that it must not have.

    Attributes:
        name: The name of the header.
        value: Its value; None when it is missing.
        reason: What is wrong with it.
    """

    name: str
    value: str | None
    reason: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" {self.value!r}"
        return self._name_peer(f"header {self.name!r}{shown}: {self.reason}")


class InvalidUpgrade(InvalidHeader):
    """The message is no upgrade to the version of WebSocket that we speak.

    Attributes:
        name: The name of the header that should say so.
        value: Its value; None when it is missing.
        reason: What is wrong with it.
    """


class HostNotServed(InvalidHeader):
    """The request is for a host that is not ours.

    Attributes:
        name: ``Host``.
        value: The host.
        reason: What is wrong with it.
    """


class InvalidOrigin(InvalidHeader):
    """The page that wants to connect may not (RFC 6455, section 10.2).

    Attributes:
        name: ``Origin``.
        value: What the browser says where the page is from; None if it does not say.
        reason: What is wrong with it.
    """


@attrs.define(slots=False, eq=False)
class NegotiationError(InvalidHandshake):
    """The peers do not agree on a subprotocol or an extension.

    Attributes:
        reason: What they do not agree on.
    """

    reason: str

    def __str__(self) -> str:
        return self._name_peer(self.reason)
