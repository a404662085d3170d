"""The interface for observing connections: ``Instrument`` and the arguments of its methods."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
import trio

from ..exceptions import BackendUnavailable, ConnectionClosed
from ..exceptions.shown import show_fields
from ..frames import Opcode
from ..http11 import Request, Response
from ..protocol import Role
from ..protocol.observed import FrameInfo

__all__ = [
    "ConnectionSummary",
    "FrameInfo",
    "HandshakeFailure",
    "Instrument",
    "ObservedHub",
    "ObservedWebSocket",
    "call_instrument",
    "report_failure",
]

logger: logging.Logger = logging.getLogger("trio_ws.instruments")


@attrs.frozen(kw_only=True, eq=False)  # it holds an exception, which is compared by identity
class ConnectionSummary:
    """The outcome and the statistics of a closed connection.

    Byte counts are of the WebSocket frames, headers and control frames included, without the opening handshake and TLS.

    Attributes:
        code: The peer's close code, or 1006 if the peer sent no Close frame.
        reason: The peer's close reason; may be empty.
        clean: Whether the closing handshake was complete and both close codes were normal.
        error: The exception that ``receive()`` raises now. Its ``str()`` describes on one line how the connection
            ended; its ``__cause__``, if any, is the error that this end noticed.
        seconds: Time for which the connection was open, in seconds.
        bytes_received: Number of bytes received.
        bytes_sent: Number of bytes sent. If the connection was lost, the last ones may not have reached the peer.
        messages_received: Number of messages received from the peer, whether or not ``receive()`` returned them. A
            message received in parts counts only if it was read to its end.
        messages_sent: Number of messages sent.
    """

    code: int
    reason: str
    clean: bool
    error: ConnectionClosed
    seconds: float
    bytes_received: int
    bytes_sent: int
    messages_received: int
    messages_sent: int

    __repr__ = show_fields


@attrs.frozen(kw_only=True, eq=False)  # it holds an exception, which is compared by identity
class HandshakeFailure:
    """An opening handshake that has failed.

    Attributes:
        role: The role of this end: client or server.
        request: The request of the handshake; None if a server has not received a complete one. After redirects, the
            last request of a client.
        response: The response that refused the handshake; None if there was none.
        error: Why this end gave up; None if a hook of a server refused the handshake, or its limits or timeouts did.
        seconds: How long it took until then, in seconds; see ``handshake_seconds`` of :class:`WebSocket`.
        remote_address: The address of a server's client; None on a client, and without a socket.
    """

    role: Role
    request: Request | None
    response: Response | None
    error: Exception | None
    seconds: float
    remote_address: Any = None

    __repr__ = show_fields


class ObservedWebSocket(Protocol):
    """The part of a :class:`WebSocket` that instruments can rely on."""

    @property
    def id(self) -> int:
        """A number that is unique to this connection within the process."""

    @property
    def role(self) -> Role:
        """The role of this end: client or server."""

    @property
    def request(self) -> Request:
        """The request of the opening handshake."""

    @property
    def response(self) -> Response:
        """The response of the opening handshake."""

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None."""

    @property
    def local_address(self) -> Any:
        """The address of this end; None if the connection has no socket."""

    @property
    def remote_address(self) -> Any:
        """The address of the peer; None if the connection has no socket."""

    @property
    def handshake_seconds(self) -> float:
        """Duration of the opening handshake, in seconds; see :class:`WebSocket`."""

    @property
    def latency(self) -> float | None:
        """The round-trip time of the last answered ping, in seconds; None before the first."""


class ObservedHub(Protocol):
    """The part of a :class:`Hub` that instruments can rely on."""

    @property
    def topics(self) -> frozenset[str]:
        """The names of the topics that have members in this process."""


class Instrument:
    """Base class for observers of connections. Override methods for the events you need; by default they do nothing.

    ::

        class CountText(trio_ws.Instrument):
            def __init__(self) -> None:
                self.count = 0

            def message_received(self, ws: trio_ws.ObservedWebSocket, opcode: trio_ws.Opcode, size: int) -> None:
                self.count += opcode is trio_ws.Opcode.TEXT

        await trio_ws.serve(handler, 8765, instruments=[CountText()])

    The same instrument can observe several servers and clients. Methods that are not overridden cost nothing.

    The methods are synchronous and are called in the order of the events. No other task runs meanwhile, so they must be
    quick. They must not send messages or close connections.

    If a method raises an exception, it is logged to ``trio_ws.instruments`` with its traceback, and the instrument is
    not called again for any connection. The connection itself is not affected.
    """

    _is_broken = False

    def wants_connection(self) -> bool:
        """Return whether to observe the next connection. Called once per connection, before ``connection_opened``."""
        return True

    def handshake_failed(self, failure: HandshakeFailure) -> None:
        """Called when an opening handshake has failed, whether or not ``wants_connection`` would return True.

        A server also reports connections that were lost, or timed out, after a part of a request had arrived, and
        failed TLS handshakes. It does not report plain HTTP requests, nor the probes of clients that send nothing. A
        client does not report handshakes that were cancelled.

        Args:
            failure: What is known about it.
        """

    def connection_opened(self, ws: ObservedWebSocket) -> None:
        """Called when a connection is open, after the opening handshake."""

    def connection_closed(self, ws: ObservedWebSocket, summary: ConnectionSummary) -> None:
        """Called when a connection has ended and its stream is closed. This is its last event.

        Args:
            ws: The connection.
            summary: The outcome and the statistics of the connection.
        """

    def message_received(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """Called when a message has arrived and can be received.

        Args:
            ws: The connection.
            opcode: ``TEXT`` or ``BINARY``.
            size: Size of the decompressed message in bytes.
        """

    def message_sent(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """Called when a whole message has been sent.

        Args:
            ws: The connection.
            opcode: ``TEXT`` or ``BINARY``.
            size: Size of the uncompressed message in bytes.
        """

    def bytes_received(self, ws: ObservedWebSocket, size: int) -> None:
        """Called when bytes have arrived: many messages at once, or a part of a message.

        Args:
            ws: The connection.
            size: Number of bytes.
        """

    def bytes_sent(self, ws: ObservedWebSocket, size: int) -> None:
        """Called when bytes have been sent: many messages at once, or a part of a message.

        Args:
            ws: The connection.
            size: Number of bytes.
        """

    def frame_received(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """Called when a frame has arrived: a whole message, a fragment or a control frame.

        Overriding this method makes receiving slower.

        Args:
            ws: The connection.
            frame: The opcode, the size and the beginning of the payload.
        """

    def frame_sent(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """Called when a frame has been sent.

        Args:
            ws: The connection.
            frame: The opcode, the size and the beginning of the payload.
        """

    def ping_answered(self, ws: ObservedWebSocket, seconds: float) -> None:
        """Called when the pong for a ``ping()`` or a keepalive ping has arrived.

        Args:
            ws: The connection.
            seconds: The round-trip time in seconds.
        """

    def queue_changed(self, ws: ObservedWebSocket, inbox: int, outbox: int) -> None:
        """Called when the size of a connection's buffers has changed since the last call.

        The sizes are compared after reads and writes, when ``receive()`` starts to wait for a message, when ``send()``
        starts to wait for room, and when ``broadcast()`` leaves a message in the buffer, but not for every message.

        Args:
            ws: The connection.
            inbox: Memory used by messages that wait to be received, in bytes; see ``receive_buffer``.
            outbox: Memory used by messages that wait to be written, in bytes; see ``send_buffer``, and the
                ``max_backlog`` of :func:`broadcast`.
        """

    def hub_connected(self, hub: ObservedHub, attempts: int) -> None:
        """Called when the back end of a hub is connected, and has subscribed to the topics.

        Args:
            hub: The hub.
            attempts: The number of attempts since :meth:`Hub.run` began; 1 if it was never disconnected.
        """

    def hub_disconnected(self, hub: ObservedHub, error: BackendUnavailable | None) -> None:
        """Called when the back end of a hub is no longer connected.

        Args:
            hub: The hub.
            error: What happened, if the engine no longer answers; the hub tries again. None if :meth:`Hub.run` has been
                cancelled, or ends with another exception.
        """

    def hub_lost(self, hub: ObservedHub, topic: str) -> None:
        """Called when messages from other processes were lost, or may have been.

        Also called in the process that has published a message that the engine will never accept, such as one that is
        too large for it.

        Args:
            hub: The hub.
            topic: The name of the topic.
        """

    def hub_backlog_changed(self, hub: ObservedHub, messages: int, size: int) -> None:
        """Called when the queue of messages for the back end has changed.

        Args:
            hub: The hub.
            messages: The number of messages in the queue.
            size: Memory that they use, in bytes.
        """

    def hub_published(self, hub: ObservedHub, messages: int, seconds: float) -> None:
        """Called when the engine has accepted a batch of messages.

        Args:
            hub: The hub.
            messages: The number of messages in the batch.
            seconds: The lag: the time since the first of them was published, in seconds.
        """


def call_instrument(instrument: Instrument, name: str, *args: Any) -> Any:
    """Call a method of an instrument. If it raises, log the exception and never call the instrument again."""
    if instrument._is_broken:
        return None
    try:
        return getattr(instrument, name)(*args)
    except BaseException:  # like Trio: an instrument must not break what it observes
        # The class of the instrument may be frozen.
        object.__setattr__(instrument, "_is_broken", True)
        logger.exception("instrument %s failed and will not be called again", type(instrument).__qualname__)
        return None


@trio.lowlevel.enable_ki_protection
def report_failure(instruments: Sequence[Instrument], failure: HandshakeFailure) -> None:
    """Report a failed opening handshake to instruments."""
    for instrument in instruments:
        call_instrument(instrument, "handshake_failed", failure)
