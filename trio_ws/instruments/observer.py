"""The observer of a connection with instruments: counts its traffic and calls them.

An :class:`Observer` queues events while they happen. The connection calls :meth:`Observer.report` when its state is
consistent, and only then the instruments are called. Events that no instrument overrides are not queued; this is
determined once per connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from ..exceptions import ConnectionClosed
from ..frames import Opcode
from ..protocol import LastPart, Message
from ..protocol.codec import FIN
from ..protocol.connection import OutgoingFrame
from ..protocol.observed import FrameInfo, OnFrame, size_of
from .interface import ConnectionSummary, Instrument, ObservedWebSocket, call_instrument
from .null import NULL_OBSERVER, NullObserver, Queue

__all__ = ["Observer", "make_observer"]

#: The methods of instruments that are called for events of an open connection.
_EVENTS = [
    name
    for name in vars(Instrument)
    if name not in ("wants_connection", "handshake_failed") and not name.startswith(("_", "hub_"))
]


class Observer(NullObserver):
    """Counts the traffic of a connection and calls its instruments.

    Args:
        instruments: The instruments that observe the connection.
    """

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        # The instruments that override the method, by event.
        self._instruments = {
            name: [
                instrument
                for instrument in instruments
                if getattr(type(instrument), name) is not getattr(Instrument, name)
            ]
            for name in _EVENTS
        }
        # Events that were not reported yet, and whether report() is running.
        self._events: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._reporting = False
        # The connection and its queues while it is open, and the time when it was opened.
        self._ws: ObservedWebSocket | None = None
        self._queues: tuple[Queue, ...] = ()
        self._opened_at = 0.0
        self._bytes_received = self._bytes_sent = 0
        self._messages_received = self._messages_sent = 0
        # The fragmented message that is being sent: its opcode, and its size so far.
        self._outgoing = Opcode.CONT
        self._outgoing_size = 0
        # The sizes of the queues in the last queue_changed event.
        self._sizes: tuple[int, ...] = (0, 0)
        self.on_frame: OnFrame | None = self._record_frame if self._instruments["frame_received"] else None

    # -- Recording -------------------------------------------------------------------------------------------------

    def record_received(self, size: int) -> None:
        """Record that bytes were received."""
        self._bytes_received += size
        self._record("bytes_received", size)

    def record_messages(self, messages: Sequence[Message | LastPart]) -> None:
        """Record that messages were received."""
        self._messages_received += len(messages)
        if self._instruments["message_received"]:
            for message in messages:
                if isinstance(message, LastPart):
                    size, data = message.size, message.data
                else:
                    size, data = size_of(message), message
                self._record("message_received", Opcode.TEXT if isinstance(data, str) else Opcode.BINARY, size)

    def record_sent(self, frames: Sequence[OutgoingFrame], chunks: Sequence[bytes]) -> None:
        """Record that frames are sent. The chunks are their encoded bytes."""
        size = sum(map(len, chunks))
        if size:
            self._bytes_sent += size
            self._record("bytes_sent", size)
        wants_frames = bool(self._instruments["frame_sent"])
        for first_byte, data, _ in frames:
            if wants_frames:
                self._record("frame_sent", FrameInfo.of(first_byte, data))
            opcode = first_byte & 0x0F
            if opcode >= Opcode.CLOSE:
                continue
            if opcode != Opcode.CONT:
                self._outgoing = Opcode(opcode)
                self._outgoing_size = 0
            self._outgoing_size += len(data)
            if first_byte >= FIN:
                self._messages_sent += 1
                self._record("message_sent", self._outgoing, self._outgoing_size)

    def record_pong(self, seconds: float) -> None:
        """Record that a ping was answered."""
        self._record("ping_answered", seconds)

    def _record_frame(self, frame: FrameInfo) -> None:
        self._record("frame_received", frame)

    def _record(self, event: str, *args: Any) -> None:
        if self._instruments[event]:
            self._events.append((event, args))

    # -- Reporting -------------------------------------------------------------------------------------------------

    def open(self, ws: ObservedWebSocket, inbox: Queue, outbox: Queue) -> None:
        """Report that the connection is open."""
        self._ws = ws
        self._queues = inbox, outbox
        self._opened_at = trio.current_time()
        self._record("connection_opened")
        self.report()

    @trio.lowlevel.enable_ki_protection
    def report(self) -> None:
        """Report the recorded events if the connection is open. Reentrant calls do nothing."""
        if self._queues and self._instruments["queue_changed"]:
            sizes = tuple(queue.size for queue in self._queues)
            if sizes != self._sizes:
                self._sizes = sizes
                self._record("queue_changed", *sizes)
        ws = self._ws
        if self._reporting or ws is None:
            return
        self._reporting = True
        while self._events:
            event, args = self._events.popleft()
            for instrument in self._instruments[event]:
                call_instrument(instrument, event, ws, *args)
        self._reporting = False
        if not self._queues:  # closed, perhaps by an instrument
            self._ws = None

    def close(self, make_error: Callable[[], ConnectionClosed], clean: bool) -> None:
        """Report that the connection has ended. This is the last report."""
        self._queues = ()
        error = make_error()
        summary = ConnectionSummary(
            code=error.code,
            reason=error.reason,
            clean=clean,
            error=error,
            seconds=trio.current_time() - self._opened_at,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
            messages_received=self._messages_received,
            messages_sent=self._messages_sent,
        )
        self._record("connection_closed", summary)
        self.report()


@trio.lowlevel.enable_ki_protection
def make_observer(instruments: Sequence[Instrument]) -> NullObserver:
    """Return the observer of a new connection."""
    active = [instrument for instrument in instruments if call_instrument(instrument, "wants_connection")]
    return Observer(active) if active else NULL_OBSERVER
