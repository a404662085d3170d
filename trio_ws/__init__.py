"""WebSocket for Trio: client, server, and the protocol itself (RFC 6455).

==============================  ==================================================================================
:mod:`trio_ws.client`           ``connect``, ``connect_unix``, ``connect_over``
:mod:`trio_ws.server`           ``serve``, ``serve_over``, ``Server``
:mod:`trio_ws.opening`          a server's side of the opening handshake
:mod:`trio_ws.origins`          which pages may connect
:mod:`trio_ws.forwarded`        who the client is, behind a proxy
:mod:`trio_ws.auth`             ``basic_auth``
:mod:`trio_ws.routing`          ``route``: a handler for each path
:mod:`trio_ws.limits`           ``Limits``: how much a server takes on
:mod:`trio_ws.listeners`        what a server listens on
:mod:`trio_ws.websocket`        ``WebSocket``: send, receive, ping, close
``trio_ws.broadcast``           ``broadcast``: one message to many connections
:mod:`trio_ws.hub`              ``Hub``: topics to subscribe to
:mod:`trio_ws.reconnect`        ``open_reconnecting``, ``attempts``: connecting again when a connection is lost
:mod:`trio_ws.backoff`          ``Backoff``, ``is_retryable``: when, and whether
:mod:`trio_ws.bytestream`       ``ByteStream``: a stream of bytes over a ``WebSocket``
:mod:`trio_ws.instruments`      ``Instrument``: what is told of all that happens
:mod:`trio_ws.logs`             ``LogConnections``, ``LogFrames``
:mod:`trio_ws.prometheus`       ``PrometheusInstrument``
:mod:`trio_ws.tasks`            the tasks behind it, and the rules of a connection
:mod:`trio_ws.channels`         the inbox and the outbox between the two
:mod:`trio_ws.stream`           the Trio stream below
:mod:`trio_ws.proxy`            ``Proxy``, ``parse_proxy``, and the way through one
:mod:`trio_ws.settings`         the options
:mod:`trio_ws.protocol`         the protocol without I/O: bytes in, events out
:mod:`trio_ws.frames`           ``Frame``, ``Opcode``, ``Close``, ``CloseCode``
:mod:`trio_ws.http11`           ``Request``, ``Response``
:mod:`trio_ws.datastructures`   ``Headers``
:mod:`trio_ws.uri`              ``parse_uri``
:mod:`trio_ws.exceptions`       every exception
==============================  ==================================================================================

``python -m trio_ws demo`` shows it at work.
"""

from .auth import CheckCredentials, basic_auth
from .backoff import Backoff, is_retryable
from .broadcast import WhenFull, broadcast
from .bytestream import ByteStream
from .client import Connecting, Credentials, connect, connect_over, connect_unix
from .cookies import CookiesLike
from .datastructures import Headers, MultipleValuesError
from .exceptions import (
    BodyTooBig,
    ConnectFailed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
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
    MessageTooBig,
    NegotiationError,
    NotConnected,
    OpenTimeout,
    ProtocolError,
    ProxyFailed,
    TLSFailed,
    TooManyHeaders,
    TooManyMessages,
    WebSocketException,
)
from .forwarded import TrustedProxies
from .frames import Close, CloseCode, Frame, Opcode
from .http11 import Request, Response
from .hub import Backend, Hub, Topic
from .instruments import ConnectionSummary, FrameInfo, Instrument
from .limits import Limits
from .listeners import open_systemd_listeners
from .logs import LogConnections, LogFrames
from .opening import Opening, ProcessRequest, ProcessResponse, SelectSubprotocol
from .origins import ANY, SAME_HOST, Origins
from .prometheus import PrometheusInstrument
from .protocol.deflate import Deflate
from .proxy import Proxy, parse_proxy
from .reconnect import (
    Attempt,
    Attempts,
    ConnectOptions,
    ReconnectingChannel,
    ReconnectPhase,
    ReconnectState,
    WhenDown,
    attempts,
    open_reconnecting,
)
from .routing import RouteHandler, Router, route
from .server import Handler, Server, serve, serve_over
from .settings import Options
from .uri import WebSocketURI, parse_uri
from .version import __version__
from .websocket import ReceiveStream, SendStream, WebSocket

__all__ = [
    "ANY",
    "SAME_HOST",
    "Attempt",
    "Attempts",
    "Backend",
    "Backoff",
    "BodyTooBig",
    "ByteStream",
    "CheckCredentials",
    "Close",
    "CloseCode",
    "ConnectFailed",
    "ConnectOptions",
    "Connecting",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedLocally",
    "ConnectionClosedOK",
    "ConnectionSummary",
    "CookiesLike",
    "Credentials",
    "Deflate",
    "Frame",
    "FrameInfo",
    "Handler",
    "HeadTooBig",
    "Headers",
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
    "Limits",
    "LogConnections",
    "LogFrames",
    "MessageTooBig",
    "MultipleValuesError",
    "NegotiationError",
    "NotConnected",
    "Opcode",
    "OpenTimeout",
    "Opening",
    "Options",
    "Origins",
    "ProcessRequest",
    "ProcessResponse",
    "PrometheusInstrument",
    "ProtocolError",
    "Proxy",
    "ProxyFailed",
    "ReceiveStream",
    "ReconnectPhase",
    "ReconnectState",
    "ReconnectingChannel",
    "Request",
    "Response",
    "RouteHandler",
    "Router",
    "SelectSubprotocol",
    "SendStream",
    "Server",
    "TLSFailed",
    "TooManyHeaders",
    "TooManyMessages",
    "Topic",
    "TrustedProxies",
    "WebSocket",
    "WebSocketException",
    "WebSocketURI",
    "WhenDown",
    "WhenFull",
    "__version__",
    "attempts",
    "basic_auth",
    "broadcast",
    "connect",
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
