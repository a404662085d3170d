"""The closing handshake (RFC 6455, section 7) as a table of states.

Each side sends one Close frame, in either order; then the connection below is closed::

                          SEND                 RECEIVE
            ┌──────────▶ SENT ──────────────────────▶┐
          OPEN                                      DONE
            └──────────▶ RECEIVED ──────────────────▶┘
                          RECEIVE              SEND

Losing the connection (LOSE) leads to LOST from every state except DONE, after which the end of the connection is
expected. :class:`Closing` reads the table below. Transitions that are not in the table are not allowed.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ..exceptions import ProtocolError

if TYPE_CHECKING:
    from ..frames import Close

__all__ = ["TRANSITIONS", "Closing", "ClosingEvent", "ClosingState"]


class ClosingState(enum.Enum):
    """The state of the closing handshake."""

    OPEN = "no Close frame was sent or received"
    SENT = "this end has sent a Close frame"
    RECEIVED = "the peer has sent a Close frame"
    DONE = "both ends have sent a Close frame"
    LOST = "the connection was lost"


class ClosingEvent(enum.Enum):
    """An event that advances the closing handshake."""

    SEND = "send a Close frame"
    RECEIVE = "receive a Close frame"
    LOSE = "lose the connection"


TRANSITIONS: dict[ClosingState, dict[ClosingEvent, ClosingState]] = {
    ClosingState.OPEN: {
        ClosingEvent.SEND: ClosingState.SENT,
        ClosingEvent.RECEIVE: ClosingState.RECEIVED,
        ClosingEvent.LOSE: ClosingState.LOST,
    },
    ClosingState.SENT: {
        ClosingEvent.RECEIVE: ClosingState.DONE,
        ClosingEvent.LOSE: ClosingState.LOST,
    },
    ClosingState.RECEIVED: {
        ClosingEvent.SEND: ClosingState.DONE,
        ClosingEvent.LOSE: ClosingState.LOST,
    },
    ClosingState.DONE: {
        ClosingEvent.LOSE: ClosingState.DONE,
    },
    ClosingState.LOST: {
        ClosingEvent.LOSE: ClosingState.LOST,
    },
}

#: We may send until we have sent a Close frame. A peer that has sent one still gets the messages that were queued.
CAN_SEND = frozenset({ClosingState.OPEN, ClosingState.RECEIVED})
#: We receive until the peer has sent a Close frame.
CAN_RECEIVE = frozenset({ClosingState.OPEN, ClosingState.SENT})


class Closing:
    """The closing handshake of one connection.

    Attributes:
        state: The current state.
        rcvd: The content of the peer's Close frame; None before it was received.
        sent: The content of our Close frame; None before it was sent.
        rcvd_then_sent: Whether the peer's Close frame came first; None until both were sent.
        can_send: Whether frames may be sent.
        can_receive: Whether received frames count.
    """

    __slots__ = ("can_receive", "can_send", "rcvd", "rcvd_then_sent", "sent", "state")

    def __init__(self) -> None:
        self.state: ClosingState = ClosingState.OPEN
        self.rcvd: Close | None = None
        self.sent: Close | None = None
        self.rcvd_then_sent: bool | None = None
        # Derived from the state. These are attributes because they are read for every message.
        self.can_send: bool = True
        self.can_receive: bool = True

    @property
    def is_done(self) -> bool:
        """Whether both ends have sent a Close frame."""
        return self.state is ClosingState.DONE

    @property
    def is_clean(self) -> bool:
        """Whether both ends have sent a Close frame with a normal code."""
        if self.state is not ClosingState.DONE:
            return False
        return all(close is not None and close.is_normal for close in (self.rcvd, self.sent))

    def send(self, close: Close) -> None:
        """Record that a Close frame is sent.

        Raises:
            ProtocolError: If nothing may be sent any more.
        """
        self._advance(ClosingEvent.SEND)
        self.sent = close
        if self.rcvd is not None:
            self.rcvd_then_sent = True

    def receive(self, close: Close) -> None:
        """Record that a Close frame was received.

        Raises:
            ProtocolError: If nothing may be received any more.
        """
        self._advance(ClosingEvent.RECEIVE)
        self.rcvd = close
        if self.sent is not None:
            self.rcvd_then_sent = False

    def lose(self) -> None:
        """Record that the connection below has ended."""
        self._advance(ClosingEvent.LOSE)

    def _advance(self, event: ClosingEvent) -> None:
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise ProtocolError(f"cannot {event.value}: {self.state.value}") from None
        self.can_send = self.state in CAN_SEND
        self.can_receive = self.state in CAN_RECEIVE
