"""Every exception of the library, in one tree.

::

    WebSocketException
    ├── InvalidURI                  (ValueError)   parse_uri()
    ├── InvalidProxy                (ValueError)   parse_proxy()
    ├── ProtocolError               (ValueError)   a frame or message that RFC 6455 forbids
    │   ├── InvalidData                                 ... whose content is not what it says: 1007
    │   ├── MessageTooBig                               ... or is larger than we accept: 1009
    │   └── TooManyMessages                         more of them than we accept: 1008
    ├── ConnectFailed               (OSError)      no connection, or lost before it was a WebSocket
    │   ├── TLSFailed
    │   └── ProxyFailed                                 ... by a proxy
    ├── OpenTimeout                 (trio.TooSlowError, TimeoutError)
    ├── NotConnected                (trio.BrokenResourceError)  down at the moment, see open_reconnecting()
    ├── InvalidHandshake                           the opening handshake is not what it must be
    │   ├── InvalidMessage      (ValueError)            not HTTP/1.1
    │   │   ├── HeadTooBig, TooManyHeaders, BodyTooBig
    │   ├── InvalidMethod                               not GET
    │   ├── InvalidStatus                               a server's answer other than 101
    │   │   └── InvalidRedirect                             ... that leads where we do not go
    │   ├── InvalidHeader       (ValueError)            missing, malformed or with a wrong value
    │   │   ├── HostNotServed                           another server is meant
    │   │   ├── InvalidOrigin                           a page that may not connect
    │   │   └── InvalidUpgrade                          Connection, Upgrade, Sec-WebSocket-Version
    │   └── NegotiationError                            subprotocol or extension
    └── ConnectionClosed                           the WebSocket is not open any more
        ├── ConnectionClosedOK      (trio.EndOfChannel)
        ├── ConnectionClosedError   (trio.BrokenResourceError)
        └── ConnectionClosedLocally (trio.ClosedResourceError)

Each carries plain values as attributes, makes its message from them, and can be pickled.

This module knows nothing of I/O. It imports Trio for those of its exceptions that ours also are, so that code
written for any Trio channel handles a WebSocket too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from .datastructures import Headers
    from .frames import Close
    from .http11 import Response

__all__ = [
    "BodyTooBig",
    "ConnectFailed",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedLocally",
    "ConnectionClosedOK",
    "HeadTooBig",
    "HostNotServed",
    "InvalidData",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidMethod",
    "InvalidOrigin",
    "InvalidProxy",
    "InvalidRedirect",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "MessageTooBig",
    "NegotiationError",
    "NotConnected",
    "OpenTimeout",
    "ProtocolError",
    "ProxyFailed",
    "TLSFailed",
    "TooManyHeaders",
    "TooManyMessages",
    "WebSocketException",
]

# The classes are not frozen, because the interpreter sets __traceback__, __context__ and __notes__; not
# slotted, because two bases with slots do not mix; and compared by identity, as exceptions are. A subclass without
# attributes of its own takes everything from its base.


class WebSocketException(Exception):
    """Base class of every exception that this library defines."""


# -- URIs ----------------------------------------------------------------------------------------------------


@attrs.define(slots=False, eq=False)
class InvalidURI(WebSocketException, ValueError):
    """A string is not a valid WebSocket URI (RFC 6455, section 3).

    Attributes:
        uri: The string.
        reason: What is wrong with it.
    """

    uri: str
    reason: str

    def __str__(self) -> str:
        # A message ends up in logs, where a password has no place.
        shown = re.sub(r"(//[^/?#@]*:)[^/?#]*@", r"\1***@", str(self.uri))
        return f"{shown!r} is not a WebSocket URI: {self.reason}"


def _without_credentials(url: object) -> str:
    # Whatever is wrong with it. There is no "@" in a proxy but the one that ends the credentials.
    return re.sub(r"^(\w[\w+.\-]*://)?.*@", r"\1***@", str(url), flags=re.DOTALL)


@attrs.define(slots=False, eq=False)
class InvalidProxy(WebSocketException, ValueError):
    """A string does not name a proxy.

    Attributes:
        proxy: The string. Instead of user name and password, which must not end up in logs, it has ``***``.
        reason: What is wrong with it.
    """

    proxy: str = attrs.field(converter=_without_credentials)
    reason: str

    def __str__(self) -> str:
        return f"{self.proxy!r} is not a proxy: {self.reason}"


# -- Frames and messages -------------------------------------------------------------------------------------


@attrs.define(slots=False, eq=False)
class ProtocolError(WebSocketException, ValueError):
    """A frame or a sequence of frames that RFC 6455 does not allow.

    Raised where such a frame is constructed. When a peer sends one, it is the ``__cause__`` of the
    :exc:`ConnectionClosedError` that the connection ends with.

    Attributes:
        reason: What is wrong.
    """

    reason: str

    #: The close code (RFC 6455, section 7.4.1) that a connection fails with because of this.
    code = 1002

    def __str__(self) -> str:
        return self.reason


class InvalidData(ProtocolError):
    """The content of a message is not what its type says, such as text that is not UTF-8.

    Attributes:
        reason: What is wrong.
    """

    code = 1007


@attrs.define(slots=False, eq=False)
class MessageTooBig(ProtocolError):
    """A message is larger than this endpoint accepts.

    Attributes:
        reason: What is wrong.
        size: How large the message is at least, in bytes.
        limit: How large it may be, in bytes.
    """

    size: int
    limit: int
    reason: str = attrs.field(init=False)

    code = 1009

    @reason.default
    def _reason(self) -> str:
        return f"message of at least {self.size} bytes, the limit is {self.limit}"


@attrs.define(slots=False, eq=False)
class TooManyMessages(ProtocolError):
    """The peer sends more messages than we accept.

    Attributes:
        limit: How many per second it may send.
    """

    limit: float
    reason: str = attrs.field(init=False)

    code = 1008

    @reason.default
    def _reason(self) -> str:
        return f"more than {self.limit:g} messages per second"


# -- Connecting ----------------------------------------------------------------------------------------------


@attrs.define(slots=False, eq=False)
class ConnectFailed(WebSocketException, OSError):
    """The connection was not made, or was lost before the opening handshake was complete.

    It is also an :exc:`OSError`, and its ``__cause__`` tells more. Trying again may help.

    Attributes:
        peer: What we tried to reach, for messages.
        reason: What happened.
    """

    peer: str
    reason: str

    def __str__(self) -> str:
        return f"cannot connect to {self.peer}: {self.reason}"


class TLSFailed(ConnectFailed):
    """The TLS handshake failed, for example because the certificate is not to be trusted.

    Attributes:
        peer: What we tried to reach, for messages.
        reason: What failed to verify.
    """


@attrs.define(slots=False, eq=False)
class ProxyFailed(ConnectFailed):
    """The proxy cannot be reached, or there is no way through it.

    Attributes:
        peer: What we tried to reach through the proxy, for messages.
        reason: What happened.
        proxy: The proxy, without user name and password.
        response: The whole answer, where there is one: status code, reason phrase, headers and body. Of a body that is
            larger than 1 MiB, or that does not end, it has what came first. What was compressed is decompressed. None
            for a SOCKS proxy.
    """

    proxy: str
    response: Response | None = None

    def __str__(self) -> str:
        return f"cannot connect to {self.peer} through the proxy {self.proxy}: {self.reason}"


@attrs.define(slots=False, eq=False)
class OpenTimeout(WebSocketException, trio.TooSlowError, TimeoutError):
    """The connection was not open after ``open_timeout`` seconds.

    Attributes:
        peer: What we tried to reach, for messages.
        seconds: The time that was allowed.
    """

    peer: str
    seconds: float

    def __str__(self) -> str:
        return f"no open connection with {self.peer} after {self.seconds:g} seconds"


@attrs.define(slots=False, eq=False)
class NotConnected(WebSocketException, trio.BrokenResourceError):
    """There is no connection at the moment, and the message was to be sent at once or not at all.

    Nothing of it was sent. The ``__cause__``, if any, is why the last connection ended, or could not be made. See
    :func:`~trio_ws.open_reconnecting`.

    Attributes:
        reason: What is going on instead.
    """

    reason: str

    def __str__(self) -> str:
        return f"not connected: {self.reason}"


# -- The opening handshake -----------------------------------------------------------------------------------


class InvalidHandshake(WebSocketException):
    """The opening handshake (RFC 6455, section 4) failed because of what the peer sent.

    The subclasses say why.
    """


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
        return self.reason


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
class InvalidStatus(InvalidHandshake):
    """The server answered with another status than 101 Switching Protocols.

    The message has the headers and the beginning of the body too.

    Attributes:
        response: The whole answer: status code, reason phrase, headers and body. Of a body that is larger
            than 1 MiB, or that does not end, it has what came first. What was compressed with gzip or deflate is
            decompressed; the headers are as they came.
    """

    response: Response

    @property
    def status_code(self) -> int:
        """The status code."""
        return self.response.status_code

    @property
    def reason_phrase(self) -> str:
        """The text that goes with it; may be empty."""
        return self.response.reason_phrase

    @property
    def headers(self) -> Headers:
        """The headers."""
        return self.response.headers

    @property
    def body(self) -> bytes:
        """The body; empty if there is none."""
        return self.response.body or b""

    def __str__(self) -> str:
        return f"the server refused the WebSocket connection: {_show(self.response)}"


@attrs.define(slots=False, eq=False)
class InvalidRedirect(InvalidStatus):
    """The server sends us where we do not go: to ``ws`` from ``wss``, in a circle, once too often, or nowhere.

    Attributes:
        reason: Why we do not go there.
    """

    reason: str

    def __str__(self) -> str:
        return f"the server sent a redirect that is not followed, because {self.reason}: {_show(self.response)}"


#: How much of a response the message of an exception shows: headers, and characters of each and of the body.
_SHOWN_HEADERS = 20
_SHOWN_CHARACTERS = 500


def _show(response: Response) -> str:
    """Return what was in a response, on one line."""
    shown = f"HTTP status {response.status_code} {response.reason_phrase}".rstrip()
    headers = list(response.headers.raw_items())
    if headers:
        lines = [_shorten(f"{name}: {value}") for name, value in headers[:_SHOWN_HEADERS]]
        if len(headers) > _SHOWN_HEADERS:
            lines.append(f"and {len(headers) - _SHOWN_HEADERS} more")
        shown += f" ({'; '.join(lines)})"
    if response.body:
        shown += f" {_shorten(response.body[: 4 * _SHOWN_CHARACTERS].decode(errors='replace'))}"
    return shown


def _shorten(text: str) -> str:
    """Return text on one line, in characters that can be printed, and not too long."""
    line = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."


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
        return f"header {self.name!r}{shown}: {self.reason}"


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
        return self.reason


# -- The end of a connection ---------------------------------------------------------------------------------


@attrs.define(slots=False, eq=False)
class ConnectionClosed(WebSocketException):
    """The WebSocket is not open any more.

    Which subclass is raised follows from how the connection ended; catch this one when it does not matter.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None when none came.
        sent: The :class:`~trio_ws.Close` that we sent; None when we sent none.
        rcvd_then_sent: Whether the peer's came first; None unless there are both.
    """

    rcvd: Close | None
    sent: Close | None
    rcvd_then_sent: bool | None = None

    @property
    def code(self) -> int:
        """The peer's close code, or 1006 if the connection was lost without one (RFC 6455, section 7.1.5)."""
        return 1006 if self.rcvd is None else self.rcvd.code

    @property
    def reason(self) -> str:
        """The close reason of the peer (RFC 6455, section 7.1.6), or an empty string."""
        return "" if self.rcvd is None else self.rcvd.reason

    def __str__(self) -> str:
        received = None if self.rcvd is None else f"received {self.rcvd}"
        sent = None if self.sent is None else f"sent {self.sent}"
        if received and sent:
            return f"{received}, then {sent}" if self.rcvd_then_sent else f"{sent}, then {received}"
        if received or sent:
            return f"{received or sent}, then the connection was lost"
        return "the connection was lost without a closing handshake"


class ConnectionClosedOK(ConnectionClosed, trio.EndOfChannel):
    """The connection ended with a complete closing handshake and a normal code: 1000, 1001 or none.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent.
        sent: The :class:`~trio_ws.Close` that we sent.
        rcvd_then_sent: Whether the peer's came first.
    """


class ConnectionClosedError(ConnectionClosed, trio.BrokenResourceError):
    """The connection was lost, or ended with a code that says that something is wrong.

    The ``__cause__``, if any, is what went wrong on our side: a :exc:`ProtocolError` of the peer, or the
    error of the stream below.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None when none came.
        sent: The :class:`~trio_ws.Close` that we sent; None when we sent none.
        rcvd_then_sent: Whether the peer's came first; None unless there are both.
    """


class ConnectionClosedLocally(ConnectionClosed, trio.ClosedResourceError):
    """This end has closed the connection with ``aclose()`` or by leaving ``async with``.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None when none came.
        sent: The :class:`~trio_ws.Close` that we sent; None when we sent none.
        rcvd_then_sent: Whether the peer's came first; None unless there are both.
    """
