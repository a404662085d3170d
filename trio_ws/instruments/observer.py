"""Observing a connection: what counts, and what calls the instruments.

An :class:`Observer` counts, and takes notes of what happens, which it passes on when the connection says so: where
everything is in order, so that an instrument never sees a connection between two states. Which events an instrument
wants is found out once for each connection; of others no notes are taken. A connection that nobody observes has a
:class:`NullObserver`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from ..exceptions import ConnectionClosed
from ..frames import Opcode
from ..protocol import LastPart, Message
from ..protocol.codec import FIN
from ..protocol.connection import OutgoingFrame
from ..protocol.observed import FrameInfo, OnFrame, size_of
from .interface import ConnectionSummary, Instrument, ObservedWebSocket, call_instrument

__all__ = ["NullObserver", "Observer", "make_observer"]

_EVENTS = [name for name in vars(Instrument) if name[0] != "_" and name != "wants_connection"]


class Queue(Protocol):
    """A queue of the connection, whose size is told to instruments."""

    @property
    def size(self) -> int:
        """Bytes of memory that its items use."""


class NullObserver:
    """The observer of a connection that nobody observes."""

    #: What is to be called with each frame that comes in, if an instrument wants it.
    on_frame: OnFrame | None = None

    def note_received(self, size: int) -> None:
        """Note bytes that have come in."""

    def note_messages(self, messages: Sequence[Message | LastPart]) -> None:
        """Note messages that have come in."""

    def note_sent(self, frames: Sequence[OutgoingFrame], chunks: Sequence[bytes]) -> None:
        """Note frames that go out now, and the bytes that they have become."""

    def note_pong(self, seconds: float) -> None:
        """Note a ping that was answered."""

    def open(self, ws: ObservedWebSocket, inbox: Queue, outbox: Queue) -> None:
        """Tell that the connection is open."""

    def report(self) -> None:
        """Tell what was noted. Everything must be in order here."""

    def close(self, make_error: Callable[[], ConnectionClosed], clean: bool) -> None:
        """Tell that the connection is over. Nothing is told after that."""


class Observer(NullObserver):
    """Counts what happens on a connection, and calls its instruments.

    Args:
        instruments: The instruments.
    """

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        # Those that want an event, for each.
        self._instruments = {
            name: [each for each in instruments if getattr(type(each), name) is not getattr(Instrument, name)]
            for name in _EVENTS
        }
        # Events that were noted and not told yet; and whether they are being told.
        self._events: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._reporting = False
        # The connection and its queues while it is open, and since when it is.
        self._ws: ObservedWebSocket | None = None
        self._queues: tuple[Queue, ...] = ()
        self._opened_at = 0.0
        self._bytes_received = self._bytes_sent = 0
        self._messages_received = self._messages_sent = 0
        # The message that goes out in fragments: its opcode, and its size so far.
        self._outgoing = Opcode.CONT
        self._outgoing_size = 0
        # The sizes of the queues as they were last told.
        self._sizes: tuple[int, ...] = (0, 0)
        self.on_frame: OnFrame | None = self._note_frame if self._instruments["frame_received"] else None

    # -- Taking notes ----------------------------------------------------------------------------------------------

    def note_received(self, size: int) -> None:
        """Note bytes that have come in."""
        self._bytes_received += size
        self._note("bytes_received", size)

    def note_messages(self, messages: Sequence[Message | LastPart]) -> None:
        """Note messages that have come in."""
        self._messages_received += len(messages)
        if self._instruments["message_received"]:
            for message in messages:
                if isinstance(message, LastPart):
                    size, data = message.size, message.data
                else:
                    size, data = size_of(message), message
                self._note("message_received", Opcode.TEXT if isinstance(data, str) else Opcode.BINARY, size)

    def note_sent(self, frames: Sequence[OutgoingFrame], chunks: Sequence[bytes]) -> None:
        """Note frames that go out now, and the bytes that they have become."""
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
        """Note a ping that was answered."""
        self._note("ping_answered", seconds)

    def _note_frame(self, frame: FrameInfo) -> None:
        self._note("frame_received", frame)

    def _note(self, event: str, *args: Any) -> None:
        if self._instruments[event]:
            self._events.append((event, args))

    # -- Telling ---------------------------------------------------------------------------------------------------

    def open(self, ws: ObservedWebSocket, inbox: Queue, outbox: Queue) -> None:
        """Tell that the connection is open."""
        self._ws = ws
        self._queues = inbox, outbox
        self._opened_at = trio.current_time()
        self._note("connection_opened")
        self.report()

    @trio.lowlevel.enable_ki_protection
    def report(self) -> None:
        """Tell what was noted, if the connection is open and this is not called in the middle of telling."""
        if self._queues and self._instruments["queue_changed"]:
            sizes = tuple(queue.size for queue in self._queues)
            if sizes != self._sizes:
                self._sizes = sizes
                self._note("queue_changed", *sizes)
        ws = self._ws
        if self._reporting or ws is None:
            return
        self._reporting = True
        while self._events:
            event, args = self._events.popleft()
            for instrument in self._instruments[event]:
                call_instrument(instrument, event, ws, *args)
        self._reporting = False
        if not self._queues:  # it was closed, here or by an instrument
            self._ws = None

    def close(self, make_error: Callable[[], ConnectionClosed], clean: bool) -> None:
        """Tell that the connection is over. Nothing is told after that."""
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
        self._note("connection_closed", summary)
        self.report()


_NOBODY = NullObserver()


def make_observer(instruments: Sequence[Instrument]) -> NullObserver:
    """Return the observer of a new connection."""
    wanted = [each for each in instruments if call_instrument(each, "wants_connection")]
    return Observer(wanted) if wanted else _NOBODY
