"""The closing handshake (RFC 6455, section 7) as data.

Each side sends one Close frame, in whichever order; then the connection below is closed::

                          SEND                 RECEIVE
            ┌──────────▶ SENT ──────────────────────▶┐
          OPEN                                      DONE
            └──────────▶ RECEIVED ──────────────────▶┘
                          RECEIVE              SEND

Losing the connection (LOSE) leads to LOST from anywhere but DONE, where it is how things end. The table below says the
same, and :class:`Closing` only reads it. What is not in the table is not allowed.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ..exceptions import ProtocolError

if TYPE_CHECKING:
    from ..frames import Close

__all__ = ["TRANSITIONS", "Closing", "ClosingEvent", "ClosingState"]


class ClosingState(enum.Enum):
    """How far the closing handshake has come."""

    OPEN = "no Close frame yet"
    SENT = "we have sent one and wait for the peer's"
    RECEIVED = "the peer has sent one and waits for ours"
    DONE = "both have sent one"
    LOST = "the connection ended before both had"


class ClosingEvent(enum.Enum):
    """What takes it further."""

    SEND = "we send a Close frame"
    RECEIVE = "a Close frame of the peer comes in"
    LOSE = "the connection below ends"


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

#: We may send until we have said that we will not. A peer that has said so itself still gets what was on its way.
CAN_SEND = frozenset({ClosingState.OPEN, ClosingState.RECEIVED})
#: We listen until the peer has said that it will send nothing more.
CAN_RECEIVE = frozenset({ClosingState.OPEN, ClosingState.SENT})


class Closing:
    """The closing handshake of one connection.

    Attributes:
        state: How far it has come.
        rcvd: What the peer's Close frame said, once it has come.
        sent: What ours said, once it was sent.
        rcvd_then_sent: Whether the peer's came first; None until there are both.
        can_send: Whether frames may be sent.
        can_receive: Whether what is received matters.
    """

    __slots__ = ("can_receive", "can_send", "rcvd", "rcvd_then_sent", "sent", "state")

    def __init__(self) -> None:
        self.state: ClosingState = ClosingState.OPEN
        self.rcvd: Close | None = None
        self.sent: Close | None = None
        self.rcvd_then_sent: bool | None = None
        # They follow from the state, and are asked for all the time.
        self.can_send: bool = True
        self.can_receive: bool = True

    @property
    def is_done(self) -> bool:
        """Whether both have closed."""
        return self.state is ClosingState.DONE

    @property
    def is_clean(self) -> bool:
        """Whether both have closed, and neither said that something is wrong."""
        if self.state is not ClosingState.DONE:
            return False
        return all(close is not None and close.is_normal for close in (self.rcvd, self.sent))

    def send(self, close: Close) -> None:
        """A Close frame is being sent.

        Raises:
            ProtocolError: If there is no sending any more.
        """
        self._advance(ClosingEvent.SEND)
        self.sent = close
        if self.rcvd is not None:
            self.rcvd_then_sent = True

    def receive(self, close: Close) -> None:
        """A Close frame has been received.

        Raises:
            ProtocolError: If there is no receiving any more.
        """
        self._advance(ClosingEvent.RECEIVE)
        self.rcvd = close
        if self.sent is not None:
            self.rcvd_then_sent = False

    def lose(self) -> None:
        """The connection below has ended."""
        self._advance(ClosingEvent.LOSE)

    def _advance(self, event: ClosingEvent) -> None:
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise ProtocolError(f"{event.value}, but {self.state.value}") from None
        self.can_send = self.state in CAN_SEND
        self.can_receive = self.state in CAN_RECEIVE
