"""The interface for observing connections: ``Instrument``, and what is passed to its methods."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import attrs

from ..exceptions import ConnectionClosed
from ..frames import Opcode
from ..http11 import Request, Response
from ..protocol import Role
from ..protocol.observed import FrameInfo

__all__ = ["ConnectionSummary", "FrameInfo", "Instrument", "ObservedWebSocket", "call_instrument"]

logger: logging.Logger = logging.getLogger("trio_ws.instruments")


@attrs.frozen(kw_only=True)
class ConnectionSummary:
    """What there is to say about a connection when it is over.

    Attributes:
        code: The close code of the peer, 1006 if the connection was lost without one.
        reason: The close reason of the peer, which may be empty.
        clean: Whether both ends have closed, and neither said that something is wrong.
        error: How it ended, both ends considered: what a ``receive()`` raises now. The ``__cause__``, if any, is what
            went wrong on this side. ``str()`` says it in a line.
        seconds: For how long it was open.
        bytes_received: How many bytes came in, after the opening handshake, headers of frames and control frames
            included. Inside TLS.
        bytes_sent: How many bytes went out. If the connection was lost, the peer may not have got the last ones.
        messages_received: How many messages came in, those included that nobody has received. One that was received in
            parts and left early does not count.
        messages_sent: How many messages went out.
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


class ObservedWebSocket(Protocol):
    """A :class:`WebSocket`, as instruments see it."""

    @property
    def id(self) -> int:
        """A number that no other connection of this process has."""

    @property
    def role(self) -> Role:
        """Which end this is."""

    @property
    def request(self) -> Request:
        """The request of the opening handshake."""

    @property
    def response(self) -> Response:
        """Its response."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, or None."""

    @property
    def local_address(self) -> Any:
        """The address of this end; None without a socket."""

    @property
    def remote_address(self) -> Any:
        """The address of the other end; None without a socket."""

    @property
    def latency(self) -> float | None:
        """The last round trip of a ping, in seconds; None before the first."""


class Instrument:
    """Is told what happens on connections. Override the methods that you want; they do nothing.

    ::

        class CountText(trio_ws.Instrument):
            def __init__(self) -> None:
                self.count = 0

            def message_received(self, ws: trio_ws.ObservedWebSocket, opcode: trio_ws.Opcode, size: int) -> None:
                self.count += opcode is trio_ws.Opcode.TEXT

        await trio_ws.serve(handler, 8765, instruments=[CountText()])

    An instrument can be given to servers and clients, and to several of them. What it does not override costs nothing,
    and without instruments everything is as fast as if there were none.

    The methods are ordinary functions: they are called at once, one after the other, in the order in which things have
    happened, and nothing else runs meanwhile. So they should be quick. They should not send anything, nor close.

    One that raises is logged to ``trio_ws.instruments``, with its traceback, and that instrument is not called any
    more, for no connection. Nothing else comes of it.
    """

    _is_broken = False

    def wants_connection(self) -> bool:
        """Return whether this instrument is to be told of the next connection. Called once for each."""
        return True

    def connection_opened(self, ws: ObservedWebSocket) -> None:
        """A connection is open: the opening handshake is over."""

    def connection_closed(self, ws: ObservedWebSocket, summary: ConnectionSummary) -> None:
        """A connection is over, and its stream is closed. It is the last that is heard of it.

        Args:
            ws: The connection.
            summary: How it ended, and how much there was.
        """

    def message_received(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """A message has come in, and waits to be received.

        Args:
            ws: The connection.
            opcode: ``TEXT`` or ``BINARY``.
            size: Its size in bytes, after it was decompressed.
        """

    def message_sent(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        """A message has gone out, all of it.

        Args:
            ws: The connection.
            opcode: ``TEXT`` or ``BINARY``.
            size: Its size in bytes, before it was compressed.
        """

    def bytes_received(self, ws: ObservedWebSocket, size: int) -> None:
        """Bytes have come in. There may be many messages in them, or a part of one.

        Args:
            ws: The connection.
            size: How many.
        """

    def bytes_sent(self, ws: ObservedWebSocket, size: int) -> None:
        """Bytes have gone out. There may be many messages in them, or a part of one.

        Args:
            ws: The connection.
            size: How many.
        """

    def frame_received(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """A frame has come in: a message, a fragment of one, or a control frame.

        Where this is overridden, receiving takes more time.

        Args:
            ws: The connection.
            frame: What there is to say about it.
        """

    def frame_sent(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """A frame has gone out.

        Args:
            ws: The connection.
            frame: What there is to say about it.
        """

    def ping_answered(self, ws: ObservedWebSocket, seconds: float) -> None:
        """A pong has come: for a ``ping()``, or for one of the pings that keep the connection alive.

        Args:
            ws: The connection.
            seconds: The round trip.
        """

    def queue_changed(self, ws: ObservedWebSocket, inbox: int, outbox: int) -> None:
        """There is more or less in the buffers of a connection than at the last call.

        They are looked at when messages have come in or gone out, when ``receive()`` begins to wait for the next
        message, and when ``send()`` begins to wait for room: not with each message.

        Args:
            ws: The connection.
            inbox: Bytes of memory of what has come in and was not received; see ``receive_buffer``.
            outbox: Bytes of memory of what was sent and has not gone out; see ``send_buffer``.
        """


def call_instrument(instrument: Instrument, name: str, *args: Any) -> Any:
    """Call a method of an instrument, unless one has failed. Whatever it raises goes no further, as with Trio's own."""
    if instrument._is_broken:
        return None
    try:
        return getattr(instrument, name)(*args)
    except BaseException:  # as Trio does: nothing that an instrument raises may harm what it observes
        # It may be frozen.
        object.__setattr__(instrument, "_is_broken", True)
        logger.exception("the instrument %s failed, and is not called any more", type(instrument).__qualname__)
        return None
