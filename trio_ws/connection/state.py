"""The state of a connection, as a table of phases and events.

The closing handshake has its own table in :mod:`trio_ws.protocol.closing`. The table here builds on it, and adds only
facts that the protocol does not know: that a Close frame is queued, that the outcome is known, that the stream is
closed::

            PEER_ENDS        CLOSE           SETTLE          STREAM_CLOSED
       OPEN ───────▶ ENDING ──────▶ CLOSING ───────▶ SETTLED ─────────▶ CLOSED
         │                            ▲   │              │                 ▲
         └───────── CLOSE ────────────┘   └── ABORT ──▶ ABORTED ───────────┘

SETTLE and ABORT are possible in every earlier phase. A connection never goes back to an earlier phase.
"""

from __future__ import annotations

import enum

import trio

from ..exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally, ConnectionClosedOK
from ..protocol.closing import Closing

__all__ = ["TRANSITIONS", "ConnectionState", "Event", "Phase", "State"]


class State(enum.Enum):
    """The state of a :class:`WebSocket` (RFC 6455, section 7.1).

    Attributes:
        OPEN: Messages can be sent and received.
        CLOSING: Either end has begun to close. Messages that arrived before can still be received.
        CLOSED: The outcome is known and the stream is closed. Messages that arrived before can still be received.
    """

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Phase(enum.IntEnum):
    """The phases of a connection, in order."""

    #: Both ends may send.
    OPEN = 0
    #: The peer has closed or violated the protocol. Earlier messages can still be received and answered.
    ENDING = 1
    #: No more messages are accepted: our Close frame is queued or sent, or the connection is lost.
    CLOSING = 2
    #: The outcome is known.
    SETTLED = 3
    #: The outcome is known, and the tasks have been cancelled by ``abort()``.
    ABORTED = 4
    #: The outcome is known, and the stream is closed.
    CLOSED = 5


class Event(enum.IntEnum):
    """The events that move a connection to its next phase."""

    #: The reader has read a Close frame or a violation.
    PEER_ENDS = 0
    #: The outbox stops accepting messages.
    CLOSE = 1
    #: The outcome is known.
    SETTLE = 2
    #: The user calls ``abort()``.
    ABORT = 3
    #: The stream has been closed.
    STREAM_CLOSED = 4


_SETTLE = {Event.SETTLE: Phase.SETTLED, Event.ABORT: Phase.ABORTED}

#: An event that is not in the row of the current phase has no effect.
TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.OPEN: {Event.PEER_ENDS: Phase.ENDING, Event.CLOSE: Phase.CLOSING, **_SETTLE},
    Phase.ENDING: {Event.CLOSE: Phase.CLOSING, **_SETTLE},
    Phase.CLOSING: {**_SETTLE},
    Phase.SETTLED: {Event.ABORT: Phase.ABORTED, Event.STREAM_CLOSED: Phase.CLOSED},
    Phase.ABORTED: {Event.STREAM_CLOSED: Phase.CLOSED},
    Phase.CLOSED: {},
}


class ConnectionState:
    """The state of one connection.

    Args:
        closing: The protocol's state of the closing handshake.

    Attributes:
        phase: The current phase.
        can_send: Whether messages are accepted for sending.
        closed_locally: Whether the user has closed this end. Using the WebSocket is then a bug of the application.
        cause: The first failure of this end or of the stream, without its traceback.
    """

    def __init__(self, closing: Closing) -> None:
        self._closing = closing
        self._changed = trio.lowlevel.ParkingLot()
        self.phase: Phase = Phase.OPEN
        # Derived from the phase. An attribute, because every send() reads it.
        self.can_send: bool = True
        self.closed_locally: bool = False
        self.cause: BaseException | None = None

    def advance(self, event: Event) -> bool:
        """Apply an event, and wake the waiters of the new phase. Return whether the phase has changed."""
        phase = TRANSITIONS[self.phase].get(event)
        if phase is None:
            return False
        self.phase = phase
        self.can_send = phase < Phase.CLOSING
        if phase >= Phase.SETTLED:
            self._closing.lose()
            self._changed.unpark_all()
        return True

    async def wait_for(self, phase: Phase) -> None:
        """Wait until the connection has reached a phase: :attr:`Phase.SETTLED` or a later one."""
        while self.phase < phase:
            await self._changed.park()

    def fail(self, cause: BaseException | None) -> None:
        """Record the cause of a failure, unless there is one already or the outcome is known."""
        if self.cause is None and cause is not None and not self.is_settled:
            self.cause = _without_traceback(cause)

    @property
    def public(self) -> State:
        """The state that users see."""
        if self.phase is Phase.OPEN:
            return State.OPEN
        return State.CLOSED if self.phase >= Phase.ABORTED else State.CLOSING

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is known."""
        return self.phase >= Phase.SETTLED

    @property
    def is_clean(self) -> bool:
        """Whether both ends have closed normally."""
        return self._closing.is_clean and self.cause is None

    def error(self) -> ConnectionClosed:
        """Return a new exception that describes the outcome."""
        error = ConnectionClosedOK if self.is_clean else ConnectionClosedError
        closing = self._closing
        exc: ConnectionClosed = (ConnectionClosedLocally if self.closed_locally else error)(
            closing.rcvd, closing.sent, closing.rcvd_then_sent
        )
        exc.__cause__ = self.cause
        return exc


def _without_traceback(exc: BaseException) -> BaseException:
    """Remove the tracebacks of an exception and of all related ones: their frames would keep the connection alive."""
    todo: list[BaseException | None] = [exc]
    for each in todo:  # the loop itself appends to the list
        if each is not None:
            each.__traceback__ = None
            related = [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
            todo += [other for other in related if all(other is not seen for seen in todo)]
    return exc
