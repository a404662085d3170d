"""All exceptions of the library.

::

    WebSocketException
    ├── InvalidURI                  (ValueError)   parse_uri()
    ├── InvalidProxy                (ValueError)   parse_proxy()
    ├── ProtocolError               (ValueError)   frame or message not allowed by RFC 6455
    │   ├── InvalidData                                 payload does not match its type: 1007
    │   ├── MessageTooBig                               message above our size limit: 1009
    │   ├── TooManyFragments                            message in too many small fragments: 1009
    │   └── TooManyMessages                             messages above our rate limit: 1008
    ├── DecodeError                 (ValueError)   message that a TypedChannel cannot decode
    ├── ConnectFailed               (OSError)      cannot connect, or lost during the opening handshake
    │   ├── TLSFailed                                   TLS handshake failed
    │   └── ProxyFailed                                 cannot connect through the proxy
    ├── OpenTimeout                 (trio.TooSlowError, TimeoutError)
    ├── NotConnected                (trio.BrokenResourceError)  no connection right now, see open_reconnecting()
    ├── BackendUnavailable                         the engine that connects hubs does not answer, see Backend
    ├── MessagesRefused                            messages that the engine will never accept, see Backend
    ├── InvalidHandshake                           invalid opening handshake
    │   ├── InvalidMessage      (ValueError)            not valid HTTP/1.1
    │   │   └── HeadTooBig, TooManyHeaders, BodyTooBig
    │   ├── InvalidMethod                               method other than GET
    │   ├── InvalidStatus                               status other than 101
    │   │   └── InvalidRedirect                             redirect that is not followed
    │   ├── InvalidHeader       (ValueError)            missing, malformed or with a wrong value
    │   │   ├── HostNotServed                           Host that this server does not serve
    │   │   ├── InvalidOrigin                           Origin that is not allowed
    │   │   └── InvalidUpgrade                          Connection, Upgrade, Sec-WebSocket-Version
    │   └── NegotiationError                            no agreement on a subprotocol or extension
    └── ConnectionClosed                           the WebSocket is no longer open
        ├── ConnectionClosedOK      (trio.EndOfChannel)
        ├── ConnectionClosedError   (trio.BrokenResourceError)
        └── ConnectionClosedLocally (trio.ClosedResourceError)

Exceptions have plain values as attributes, build their message from them, and can be pickled.

This package does no I/O. It imports Trio because some of our exceptions are subclasses of Trio's: code written for any
Trio channel also handles a WebSocket.

=====================================  =====================================================
:mod:`~trio_ws.exceptions.shown`       text from peers and users in messages; ``repr``
:mod:`~trio_ws.exceptions.base`        ``WebSocketException``
:mod:`~trio_ws.exceptions.addresses`   URIs and proxies
:mod:`~trio_ws.exceptions.backend`     engines that connect hubs
:mod:`~trio_ws.exceptions.decoding`    messages that cannot be decoded
:mod:`~trio_ws.exceptions.protocol`    frames and messages
:mod:`~trio_ws.exceptions.handshake`   messages of the opening handshake
:mod:`~trio_ws.exceptions.connecting`  failed attempts to connect
:mod:`~trio_ws.exceptions.refused`     responses other than 101
:mod:`~trio_ws.exceptions.closed`      ends of open connections
=====================================  =====================================================

:mod:`trio_ws.frames` and :mod:`trio_ws.http11` import modules of this package instead of the package itself: the
attributes of some exceptions are values from there, and importing the package would be circular.
"""

from .addresses import InvalidProxy, InvalidURI
from .backend import BackendUnavailable, MessagesRefused
from .base import WebSocketException
from .closed import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally, ConnectionClosedOK
from .connecting import ConnectFailed, NotConnected, OpenTimeout, ProxyFailed, TLSFailed
from .decoding import DecodeError
from .handshake import (
    BodyTooBig,
    HeadTooBig,
    HostNotServed,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidUpgrade,
    NegotiationError,
    TooManyHeaders,
)
from .protocol import InvalidData, MessageTooBig, ProtocolError, TooManyFragments, TooManyMessages
from .refused import InvalidRedirect, InvalidStatus

__all__ = [
    "BackendUnavailable",
    "BodyTooBig",
    "ConnectFailed",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedLocally",
    "ConnectionClosedOK",
    "DecodeError",
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
    "MessagesRefused",
    "NegotiationError",
    "NotConnected",
    "OpenTimeout",
    "ProtocolError",
    "ProxyFailed",
    "TLSFailed",
    "TooManyFragments",
    "TooManyHeaders",
    "TooManyMessages",
    "WebSocketException",
]
