"""Seeing what happens: the :class:`Instrument`, and what tells it.

A connection that is watched has an :class:`Observer`. It counts, and it takes notes of what happens, which it passes on
when the connection says so (see :mod:`trio_ws.tasks`). Which events anybody wants is found out once for each
connection; of others no notes are taken. A connection that nobody watches has no observer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .exceptions import ConnectionClosed
from .frames import Opcode
from .protocol import LastPart, Message
from .protocol.codec import FIN
from .protocol.connection import OutgoingFrame
from .protocol.observed import FrameInfo, OnFrame, size_of

if TYPE_CHECKING:
    from .tasks import Connection
    from .websocket import WebSocket

__all__ = ["ConnectionSummary", "FrameInfo", "Instrument", "Observer"]

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


class Instrument:
    """Is told what happens on connections. Override the methods that you want; they do nothing.

    ::

        class CountText(trio_ws.Instrument):
            def __init__(self) -> None:
                self.count = 0

            def message_received(self, ws: trio_ws.WebSocket, opcode: trio_ws.Opcode, size: int) -> None:
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

    def connection_opened(self, ws: WebSocket) -> None:
        """A connection is open: the opening handshake is over."""

    def connection_closed(self, ws: WebSocket, summary: ConnectionSummary) -> None:
        """A connection is over, and its stream is closed. It is the last that is heard of it.

        Args:
            ws: The connection.
            summary: How it ended, and how much there was.
        """

    def message_received(self, ws: WebSocket, opcode: Opcode, size: int) -> None:
        """A message has come in, and waits to be received.

        Args:
            ws: The connection.
            opcode: ``TEXT`` or ``BINARY``.
            size: Its size in bytes, after it was decompressed.
        """

    def message_sent(self, ws: WebSocket, opcode: Opcode, size: int) -> None:
        """A message has gone out, all of it.

        Args:
            ws: The connection.
            opcode: ``TEXT`` or ``BINARY``.
            size: Its size in bytes, before it was compressed.
        """

    def bytes_received(self, ws: WebSocket, size: int) -> None:
        """Bytes have come in. There may be many messages in them, or a part of one.

        Args:
            ws: The connection.
            size: How many.
        """

    def bytes_sent(self, ws: WebSocket, size: int) -> None:
        """Bytes have gone out. There may be many messages in them, or a part of one.

        Args:
            ws: The connection.
            size: How many.
        """

    def frame_received(self, ws: WebSocket, frame: FrameInfo) -> None:
        """A frame has come in: a message, a fragment of one, or a control frame.

        Where this is overridden, receiving takes more time.

        Args:
            ws: The connection.
            frame: What there is to say about it.
        """

    def frame_sent(self, ws: WebSocket, frame: FrameInfo) -> None:
        """A frame has gone out.

        Args:
            ws: The connection.
            frame: What there is to say about it.
        """

    def ping_answered(self, ws: WebSocket, seconds: float) -> None:
        """A pong has come: for a ``ping()``, or for one of the pings that keep the connection alive.

        Args:
            ws: The connection.
            seconds: The round trip.
        """

    def queue_changed(self, ws: WebSocket, inbox: int, outbox: int) -> None:
        """There is more or less in the buffers of a connection than at the last call.

        They are looked at when messages have come in or gone out, when ``receive()`` begins to wait for the next
        message, and when ``send()`` begins to wait for room: not with each message.

        Args:
            ws: The connection.
            inbox: Bytes of memory of what has come in and was not received; see ``receive_buffer``.
            outbox: Bytes of memory of what was sent and has not gone out; see ``send_buffer``.
        """


_EVENTS = [name for name in vars(Instrument) if name[0] != "_" and name != "wants_connection"]


class Observer:
    """Counts what happens on a connection, and tells its instruments.

    Args:
        instruments: The instruments.
    """

    __slots__ = (
        "_bytes_received",
        "_bytes_sent",
        "_delivering",
        "_events",
        "_instruments",
        "_messages_received",
        "_messages_sent",
        "_opened_at",
        "_outgoing",
        "_outgoing_size",
        "_queues",
        "_ws",
        "on_frame",
    )

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        # Those that want to know, for each event.
        self._instruments = {
            name: [each for each in instruments if getattr(type(each), name) is not getattr(Instrument, name)]
            for name in _EVENTS
        }
        # What has happened and was not told yet; and whether it is being told.
        self._events: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._delivering = False
        # The connection while it is open, and since when it is.
        self._ws: WebSocket | None = None
        self._opened_at = 0.0
        self._bytes_received = self._bytes_sent = 0
        self._messages_received = self._messages_sent = 0
        # The message that goes out in fragments: its opcode, and its size so far.
        self._outgoing = Opcode.CONT
        self._outgoing_size = 0
        # What was last told of them.
        self._queues = 0, 0
        #: What is to be told of each frame that comes in, if anybody wants to know.
        self.on_frame: OnFrame | None = self._note_frame if self._instruments["frame_received"] else None

    @classmethod
    def of(cls, instruments: Sequence[Instrument]) -> Observer | None:
        """Return the observer of a new connection; None if nobody wants to watch it."""
        if not instruments:
            return None
        wanted = [each for each in instruments if _wants_connection(each)]
        return cls(wanted) if wanted else None

    # -- Taking notes ----------------------------------------------------------------------------------------------

    def note_received(self, size: int) -> None:
        """Take note of bytes that have come in."""
        self._bytes_received += size
        self._note("bytes_received", size)

    def note_messages(self, messages: Sequence[Message | LastPart]) -> None:
        """Take note of messages that have come in."""
        self._messages_received += len(messages)
        if self._instruments["message_received"]:
            for message in messages:
                if isinstance(message, LastPart):
                    size, data = message.size, message.data
                else:
                    size, data = size_of(message), message
                self._note("message_received", Opcode.TEXT if isinstance(data, str) else Opcode.BINARY, size)

    def note_sent(self, frames: Sequence[OutgoingFrame], chunks: Sequence[bytes]) -> None:
        """Take note of frames that go out now, and of the bytes that they have become."""
        size = sum(map(len, chunks))
        if size:
            self._bytes_sent += size
            self._note("bytes_sent", size)
        wants_frames = bool(self._instruments["frame_sent"])
        for first_byte, data, _ in frames:
            if wants_frames:
                self._note("frame_sent", FrameInfo.of(first_byte, data))
            opcode = first_byte & 0x0F
            if opcode >= Opcode.CLOSE:
                continue
            if opcode != Opcode.CONT:
                self._outgoing = Opcode(opcode)
                self._outgoing_size = 0
            self._outgoing_size += len(data)
            if first_byte >= FIN:
                self._messages_sent += 1
                self._note("message_sent", self._outgoing, self._outgoing_size)

    def note_pong(self, seconds: float) -> None:
        """Take note of a ping that was answered."""
        self._note("ping_answered", seconds)

    def _note_frame(self, frame: FrameInfo) -> None:
        self._note("frame_received", frame)

    def _note(self, event: str, *args: Any) -> None:
        if self._instruments[event]:
            self._events.append((event, args))

    # -- Telling ---------------------------------------------------------------------------------------------------

    def open(self, ws: WebSocket) -> None:
        """Tell that the connection is open."""
        self._ws = ws
        self._opened_at = trio.current_time()
        self._note("connection_opened")
        self.deliver(ws._connection)

    def close(self, connection: Connection) -> None:
        """Tell that the connection is over. Nothing is told after that."""
        error = connection.error()
        summary = ConnectionSummary(
            code=error.code,
            reason=error.reason,
            clean=connection.is_clean,
            error=error,
            seconds=trio.current_time() - self._opened_at,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
            messages_received=self._messages_received,
            messages_sent=self._messages_sent,
        )
        self._note("connection_closed", summary)
        self.deliver(connection)
        if not self._delivering:
            self._ws = None

    @trio.lowlevel.enable_ki_protection
    def deliver(self, connection: Connection) -> None:
        """Tell what has happened, if the connection is open, and not already in the middle of telling."""
        if self._instruments["queue_changed"] and not connection.closed.is_set():
            queues = connection.inbox.size, connection.outbox.size
            if queues != self._queues:
                self._queues = queues
                self._note("queue_changed", *queues)
        ws = self._ws
        if self._delivering or ws is None:
            return
        self._delivering = True
        while self._events:
            event, args = self._events.popleft()
            for instrument in self._instruments[event]:
                _call(instrument, event, ws, *args)
        self._delivering = False
        if connection.closed.is_set():
            self._ws = None


def _wants_connection(instrument: Instrument) -> bool:
    return bool(_call(instrument, "wants_connection"))


def _call(instrument: Instrument, name: str, *args: Any) -> Any:
    """Call a method of an instrument, unless one has failed. Whatever it raises goes no further, as with Trio's own."""
    if instrument._is_broken:
        return None
    try:
        return getattr(instrument, name)(*args)
    except BaseException:  # as Trio does: nothing that an instrument raises may harm what it is told of
        # It may be frozen.
        object.__setattr__(instrument, "_is_broken", True)
        logger.exception("the instrument %s failed, and is not called any more", type(instrument).__qualname__)
        return None
