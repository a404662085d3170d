"""The observer of a connection without instruments.

It stands for itself, because most programs have no instruments, and need nothing else of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from ..exceptions import ConnectionClosed
from ..protocol import LastPart, Message
from ..protocol.connection import OutgoingFrame

if TYPE_CHECKING:
    from ..protocol.observed import OnFrame
    from .interface import ObservedWebSocket

__all__ = ["NULL_OBSERVER", "NullObserver", "Queue"]


class Queue(Protocol):
    """A queue of the connection whose size is reported to instruments."""

    @property
    def size(self) -> int:
        """Memory used by the queued items, in bytes."""


class NullObserver:
    """The observer of a connection without instruments. Does nothing."""

    #: Called with each received frame; None if no instrument needs frames.
    on_frame: OnFrame | None = None

    def record_received(self, size: int) -> None:
        """Record that bytes were received."""

    def record_messages(self, messages: Sequence[Message | LastPart]) -> None:
        """Record that messages were received."""

    def record_sent(self, frames: Sequence[OutgoingFrame], chunks: Sequence[bytes]) -> None:
        """Record that frames are sent. The chunks are their encoded bytes."""

    def record_pong(self, seconds: float) -> None:
        """Record that a ping was answered."""

    def open(self, ws: ObservedWebSocket, inbox: Queue, outbox: Queue) -> None:
        """Report that the connection is open."""

    def report(self) -> None:
        """Report the recorded events. The state of the connection must be consistent."""

    def close(self, make_error: Callable[[], ConnectionClosed], clean: bool) -> None:
        """Report that the connection has ended. This is the last report."""


#: The one that all these connections share.
NULL_OBSERVER: NullObserver = NullObserver()
