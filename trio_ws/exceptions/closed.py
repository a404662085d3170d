"""The end of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from .base import WebSocketException

if TYPE_CHECKING:
    from ..frames import Close

__all__ = ["ConnectionClosed", "ConnectionClosedError", "ConnectionClosedLocally", "ConnectionClosedOK"]


@attrs.define(slots=False, eq=False)
class ConnectionClosed(WebSocketException):
    """The WebSocket is not open any more.

    Which subclass is raised follows from how the connection ended; catch this one when it does not matter.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None when none came.
        sent: The :class:`~trio_ws.Close` that we sent; None when we sent none.
        rcvd_then_sent: Whether the peer's came first; None unless there are both.
    """

    rcvd: Close | None
    sent: Close | None
    rcvd_then_sent: bool | None = None

    @property
    def code(self) -> int:
        """The peer's close code, or 1006 if the connection was lost without one (RFC 6455, section 7.1.5)."""
        return 1006 if self.rcvd is None else self.rcvd.code

    @property
    def reason(self) -> str:
        """The close reason of the peer (RFC 6455, section 7.1.6), or an empty string."""
        return "" if self.rcvd is None else self.rcvd.reason

    def __str__(self) -> str:
        received = None if self.rcvd is None else f"received {self.rcvd}"
        sent = None if self.sent is None else f"sent {self.sent}"
        if received and sent:
            return f"{received}, then {sent}" if self.rcvd_then_sent else f"{sent}, then {received}"
        if received or sent:
            return f"{received or sent}, then the connection was lost"
        return "the connection was lost without a closing handshake"


class ConnectionClosedOK(ConnectionClosed, trio.EndOfChannel):
    """The connection ended with a complete closing handshake and a normal code: 1000, 1001 or none.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent.
        sent: The :class:`~trio_ws.Close` that we sent.
        rcvd_then_sent: Whether the peer's came first.
    """


class ConnectionClosedError(ConnectionClosed, trio.BrokenResourceError):
    """The connection was lost, or ended with a code that says that something is wrong.

    The ``__cause__``, if any, is what went wrong on our side: a :exc:`ProtocolError` of the peer, the error of the
    stream below, or a :exc:`trio.TooSlowError` if the peer was considered dead or the closing handshake took too long.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None when none came.
        sent: The :class:`~trio_ws.Close` that we sent; None when we sent none.
        rcvd_then_sent: Whether the peer's came first; None unless there are both.
    """


class ConnectionClosedLocally(ConnectionClosed, trio.ClosedResourceError):
    """This end has closed the connection with ``aclose()`` or by leaving ``async with``.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None when none came.
        sent: The :class:`~trio_ws.Close` that we sent; None when we sent none.
        rcvd_then_sent: Whether the peer's came first; None unless there are both.
    """
