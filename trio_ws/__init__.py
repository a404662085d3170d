"""WebSocket for Trio: client, server and sans-I/O protocol (RFC 6455).

===============================  =================================================================================
:mod:`trio_ws.exceptions`        every exception
:mod:`trio_ws.misuse`            errors for wrong calls; they say what to write instead
:mod:`trio_ws.frames`            ``Frame``, ``Opcode``, ``Close``, ``CloseCode``
:mod:`trio_ws.datastructures`    ``Headers``
:mod:`trio_ws.uri`               ``parse_uri``
:mod:`trio_ws.http11`            ``Request``, ``Response``
:mod:`trio_ws.protocol`          the protocol without I/O: bytes in, events out
:mod:`trio_ws.instruments`       ``Instrument``: the interface for observing connections
:mod:`trio_ws.settings`          connection options, validated
:mod:`trio_ws.connection`        open connections: ``WebSocket``, ``ByteStream``, ``TypedChannel``
:mod:`trio_ws.http2`             WebSocket over HTTP/2
:mod:`trio_ws.client`            opening connections: ``connect``, ``attempts``, ``open_reconnecting``
:mod:`trio_ws.server`            accepting connections: ``serve``, ``route``, ``basic_auth``, ``Limits``
:mod:`trio_ws.hub`               sending a message to many connections: ``broadcast``, ``Hub``
:mod:`trio_ws.observe`           logging, metrics and traces: ``LogConnections``, ``PrometheusInstrument``
:mod:`trio_ws.testing`           testing tools: WebSocket pairs in memory, scripted peers, faulty streams
:mod:`trio_ws.cli`               the command line
===============================  =================================================================================

Run ``python -m trio_ws demo`` for a demonstration.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from .client.connect import connect, connect_in, connect_over, connect_unix
from .client.connecting import Connecting
from .client.cookies import CookiesLike
from .client.options import ConnectOptions, ConnectOverOptions, ConnectUnixOptions, Credentials
from .client.proxy.values import Proxy, parse_proxy
from .connection.parts import ReceiveStream, SendStream
from .connection.state import State
from .connection.websocket import WebSocket
from .datastructures import Headers, MultipleValuesError
from .exceptions import (
    BackendUnavailable,
    BodyTooBig,
    ConnectFailed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    DecodeError,
    HeadTooBig,
    HostNotServed,
    InvalidData,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidProxy,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    MessagesRefused,
    MessageTooBig,
    NegotiationError,
    NotConnected,
    OpenTimeout,
    ProtocolError,
    ProxyFailed,
    TLSFailed,
    TooManyFragments,
    TooManyHeaders,
    TooManyMessages,
    WebSocketException,
)
from .frames import Close, CloseCode, Frame, Opcode
from .http11 import Request, Response
from .protocol.deflate import Deflate
from .settings import Options
from .uri import WebSocketURI, parse_uri
from .version import __version__

if TYPE_CHECKING:
    from .client.attempts import Attempt, Attempts, attempts
    from .client.backoff import Backoff, is_retryable
    from .client.pool import HTTP2Pool
    from .client.reconnecting.channel import ReconnectingChannel, WhenDown, open_reconnecting
    from .client.reconnecting.state import ReconnectPhase, ReconnectState
    from .connection.bytestream import ByteStream
    from .connection.tls_info import TLSInfo
    from .connection.typed import TypedChannel
    from .hub.backend import Backend, History, Lost, Position, Publication, Received
    from .hub.broadcast import WhenFull, broadcast
    from .hub.core import WhenLost
    from .hub.hub import Hub, Topic
    from .hub.joining import Joined
    from .hub.memory import MemoryBackend, MemoryStore
    from .hub.redis.backend import RedisBackend
    from .instruments.interface import (
        ConnectionSummary,
        FrameInfo,
        HandshakeFailure,
        Instrument,
        ObservedHub,
        ObservedWebSocket,
    )
    from .observe.logs import LogConnections, LogFrames
    from .observe.opentelemetry import OpenTelemetryInstrument
    from .observe.prometheus import PrometheusInstrument
    from .server.auth import CheckCredentials, basic_auth
    from .server.forwarded.trust import TrustedProxies
    from .server.limits import Limits
    from .server.listeners import open_systemd_listeners
    from .server.options import ServeOptions
    from .server.origins import ANY, SAME_HOST, Origins
    from .server.routing import RouteHandler, Router, route
    from .server.serve import serve, serve_over
    from .server.server import (
        Handler,
        Opening,
        ProcessRequest,
        ProcessResponse,
        SelectSubprotocol,
        Server,
        ServerWebSocket,
    )

__all__ = [
    "ANY",
    "SAME_HOST",
    "Attempt",
    "Attempts",
    "Backend",
    "BackendUnavailable",
    "Backoff",
    "BodyTooBig",
    "ByteStream",
    "CheckCredentials",
    "Close",
    "CloseCode",
    "ConnectFailed",
    "ConnectOptions",
    "ConnectOverOptions",
    "ConnectUnixOptions",
    "Connecting",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedLocally",
    "ConnectionClosedOK",
    "ConnectionSummary",
    "CookiesLike",
    "Credentials",
    "DecodeError",
    "Deflate",
    "Frame",
    "FrameInfo",
    "HTTP2Pool",
    "Handler",
    "HandshakeFailure",
    "HeadTooBig",
    "Headers",
    "History",
    "HostNotServed",
    "Hub",
    "Instrument",
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
    "Joined",
    "Limits",
    "LogConnections",
    "LogFrames",
    "Lost",
    "MemoryBackend",
    "MemoryStore",
    "MessageTooBig",
    "MessagesRefused",
    "MultipleValuesError",
    "NegotiationError",
    "NotConnected",
    "ObservedHub",
    "ObservedWebSocket",
    "Opcode",
    "OpenTelemetryInstrument",
    "OpenTimeout",
    "Opening",
    "Options",
    "Origins",
    "Position",
    "ProcessRequest",
    "ProcessResponse",
    "PrometheusInstrument",
    "ProtocolError",
    "Proxy",
    "ProxyFailed",
    "Publication",
    "ReceiveStream",
    "Received",
    "ReconnectPhase",
    "ReconnectState",
    "ReconnectingChannel",
    "RedisBackend",
    "Request",
    "Response",
    "RouteHandler",
    "Router",
    "SelectSubprotocol",
    "SendStream",
    "ServeOptions",
    "Server",
    "ServerWebSocket",
    "State",
    "TLSFailed",
    "TLSInfo",
    "TooManyFragments",
    "TooManyHeaders",
    "TooManyMessages",
    "Topic",
    "TrustedProxies",
    "TypedChannel",
    "WebSocket",
    "WebSocketException",
    "WebSocketURI",
    "WhenDown",
    "WhenFull",
    "WhenLost",
    "__version__",
    "attempts",
    "basic_auth",
    "broadcast",
    "connect",
    "connect_in",
    "connect_over",
    "connect_unix",
    "is_retryable",
    "open_reconnecting",
    "open_systemd_listeners",
    "parse_proxy",
    "parse_uri",
    "route",
    "serve",
    "serve_over",
]

#: Names that only some programs need, by the modules that define them. These modules are imported on the first use of
#: one of the names, and take some milliseconds then. ``from trio_ws import serve`` is a use, too.
_LATE = {
    "client.attempts": "Attempt Attempts attempts",
    "client.backoff": "Backoff is_retryable",
    "client.pool": "HTTP2Pool",
    "client.reconnecting.channel": "ReconnectingChannel WhenDown open_reconnecting",
    "client.reconnecting.state": "ReconnectPhase ReconnectState",
    "connection.bytestream": "ByteStream",
    "connection.tls_info": "TLSInfo",
    "connection.typed": "TypedChannel",
    "hub.backend": "Backend History Lost Position Publication Received",
    "hub.broadcast": "WhenFull broadcast",
    "hub.core": "WhenLost",
    "hub.hub": "Hub Topic",
    "hub.joining": "Joined",
    "hub.memory": "MemoryBackend MemoryStore",
    "hub.redis.backend": "RedisBackend",
    "instruments.interface": ("ConnectionSummary FrameInfo HandshakeFailure Instrument ObservedHub ObservedWebSocket"),
    "observe.logs": "LogConnections LogFrames",
    "observe.opentelemetry": "OpenTelemetryInstrument",
    "observe.prometheus": "PrometheusInstrument",
    "server.auth": "CheckCredentials basic_auth",
    "server.forwarded.trust": "TrustedProxies",
    "server.limits": "Limits",
    "server.listeners": "open_systemd_listeners",
    "server.options": "ServeOptions",
    "server.origins": "ANY SAME_HOST Origins",
    "server.routing": "RouteHandler Router route",
    "server.serve": "serve serve_over",
    "server.server": "Handler Opening ProcessRequest ProcessResponse SelectSubprotocol Server ServerWebSocket",
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _LATE.items() for name in names.split()}


def _show_public_names() -> None:
    """Make ``repr`` and pickles show ``trio_ws.WebSocket``, wherever the class is defined. Trio does the same."""
    for name in __all__:
        value = globals().get(name)
        if value is None:  # it is in the table; perhaps its module has been imported, by whatever path
            value = getattr(sys.modules.get(_MODULES[name]), name, None)
        if getattr(value, "__module__", "").startswith(f"{__name__}."):
            value.__module__ = __name__


if not TYPE_CHECKING:  # for type checkers, there are the imports above

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        _show_public_names()
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


_show_public_names()
