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

Nothing in here knows of I/O. Trio is imported for those of its exceptions that ours also are, so that code written for
any Trio channel handles a WebSocket too.

=====================================  =====================================================
:mod:`~trio_ws.exceptions.base`        ``WebSocketException``
:mod:`~trio_ws.exceptions.shown`       text from peers and users in messages
:mod:`~trio_ws.exceptions.addresses`   URIs and proxies
:mod:`~trio_ws.exceptions.protocol`    frames and messages
:mod:`~trio_ws.exceptions.handshake`   messages of the opening handshake
:mod:`~trio_ws.exceptions.connecting`  connections that were not made
:mod:`~trio_ws.exceptions.refused`     responses other than 101
:mod:`~trio_ws.exceptions.closed`      the end of a connection
=====================================  =====================================================

Some exceptions have attributes that are values of :mod:`trio_ws.frames` or :mod:`trio_ws.http11`. So these import the
modules of this folder that they need, and not the folder.
"""

from .addresses import InvalidProxy, InvalidURI
from .base import WebSocketException
from .closed import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally, ConnectionClosedOK
from .connecting import ConnectFailed, NotConnected, OpenTimeout, ProxyFailed, TLSFailed
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
from .protocol import InvalidData, MessageTooBig, ProtocolError, TooManyMessages
from .refused import InvalidRedirect, InvalidStatus

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
