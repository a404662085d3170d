"""The state of a connection, as data: how far its end has come, and all that follows from that.

The closing handshake has a table of its own, :mod:`trio_ws.protocol.closing`. This one builds on it and adds only what
the protocol cannot know: that a Close frame waits to be sent, that the outcome is known, that the stream is closed::

            PEER_ENDS        CLOSE           SETTLE          STREAM_CLOSED
       OPEN ───────▶ ENDING ──────▶ CLOSING ───────▶ SETTLED ─────────▶ CLOSED
         │                            ▲   │              │                 ▲
         └───────── CLOSE ────────────┘   └── ABORT ──▶ ABORTED ───────────┘

SETTLE and ABORT are possible from any earlier phase. A phase is never left backwards.
"""

from __future__ import annotations

import enum

import trio

from ..exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedLocally, ConnectionClosedOK
from ..protocol.closing import Closing

__all__ = ["TRANSITIONS", "ConnectionState", "Event", "Phase", "State"]


class State(enum.Enum):
    """How far a :class:`WebSocket` has come (RFC 6455, section 7.1).

    Attributes:
        OPEN: Messages can be sent and received.
        CLOSING: The closing handshake has begun, by either end. Messages that came in before can still be received.
        CLOSED: The outcome is known and the stream is closed. What came in before can still be received.
    """

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Phase(enum.IntEnum):
    """How far the end of a connection has come."""

    #: Both ends may send.
    OPEN = 0
    #: The peer has closed, or broken the protocol. What came before it may be received, and answered.
    ENDING = 1
    #: Nothing more can be sent: our Close frame is queued or sent, or there is nobody to send one to.
    CLOSING = 2
    #: It is known how the connection ended.
    SETTLED = 3
    #: The same, and nothing is waited for any more.
    ABORTED = 4
    #: The stream is closed too.
    CLOSED = 5


class Event(enum.IntEnum):
    """What takes the end of a connection further."""

    #: A Close frame or a violation of the peer was read.
    PEER_ENDS = 0
    #: No more messages are accepted for sending.
    CLOSE = 1
    #: The outcome is known.
    SETTLE = 2
    #: The connection is dropped.
    ABORT = 3
    #: The stream is closed.
    STREAM_CLOSED = 4


_SETTLE = {Event.SETTLE: Phase.SETTLED, Event.ABORT: Phase.ABORTED}

#: What is not in the table changes nothing.
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
        closing: The state of the closing handshake, which the protocol owns.

    Attributes:
        phase: How far the end has come.
        can_send: Whether messages are accepted for sending.
        closed_locally: Whether the user has closed this end, so that using it is a mistake.
        cause: The first thing that went wrong on our side or below, without its traceback.
    """

    def __init__(self, closing: Closing) -> None:
        self._closing = closing
        self._changed = trio.lowlevel.ParkingLot()
        self.phase: Phase = Phase.OPEN
        # It follows from the phase, and each message asks for it.
        self.can_send: bool = True
        self.closed_locally: bool = False
        self.cause: BaseException | None = None

    def advance(self, event: Event) -> bool:
        """Go on to the next phase and wake those who wait for it. Return whether there was one."""
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
        """Wait until the end has come so far; at least :attr:`Phase.SETTLED`."""
        while self.phase < phase:
            await self._changed.park()

    def fail(self, cause: BaseException | None) -> None:
        """Record a cause. The first one counts, and none that comes when the outcome is known."""
        if self.cause is None and cause is not None and not self.is_settled:
            self.cause = _without_traceback(cause)

    @property
    def public(self) -> State:
        """The state as the user sees it."""
        if self.phase is Phase.OPEN:
            return State.OPEN
        return State.CLOSED if self.phase >= Phase.ABORTED else State.CLOSING

    @property
    def is_settled(self) -> bool:
        """Whether it is known how the connection ended."""
        return self.phase >= Phase.SETTLED

    @property
    def is_clean(self) -> bool:
        """Whether both ends have closed, and neither said that something is wrong."""
        return self._closing.is_clean and self.cause is None

    def error(self) -> ConnectionClosed:
        """Return a new exception that says how the connection ended."""
        error = ConnectionClosedOK if self.is_clean else ConnectionClosedError
        closing = self._closing
        exc: ConnectionClosed = (ConnectionClosedLocally if self.closed_locally else error)(
            closing.rcvd, closing.sent, closing.rcvd_then_sent
        )
        exc.__cause__ = self.cause
        return exc


def _without_traceback(exc: BaseException) -> BaseException:
    """Return an exception without the frames that it would keep alive, and with them the connection."""
    todo: list[BaseException | None] = [exc]
    for each in todo:  # which grows meanwhile
        if each is not None:
            each.__traceback__ = None
            related = [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
            todo += [other for other in related if all(other is not seen for seen in todo)]
    return exc
