"""Exceptions for the end of an open connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from .base import WebSocketException

if TYPE_CHECKING:
    from ..frames import Close

__all__ = ["ConnectionClosed", "ConnectionClosedError", "ConnectionClosedLocally", "ConnectionClosedOK"]


@attrs.define(slots=False, eq=False, repr=False)
class ConnectionClosed(WebSocketException):
    """The WebSocket is no longer open.

    One of the subclasses is raised, depending on how the connection ended. Catch this class if that does not matter.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None if it sent none.
        sent: The :class:`~trio_ws.Close` that we sent; None if we sent none.
        rcvd_then_sent: Whether the peer's Close came first; None unless both were sent.
    """

    rcvd: Close | None
    sent: Close | None
    rcvd_then_sent: bool | None = None

    @property
    def code(self) -> int:
        """The peer's close code, or 1006 if it sent no Close frame (RFC 6455, section 7.1.5)."""
        return 1006 if self.rcvd is None else self.rcvd.code

    @property
    def reason(self) -> str:
        """The peer's close reason (RFC 6455, section 7.1.6), or an empty string."""
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
    """The connection ended with a complete closing handshake between two messages, with code 1000, 1001 or none.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent.
        sent: The :class:`~trio_ws.Close` that we sent.
        rcvd_then_sent: Whether the peer's Close came first.
    """


class ConnectionClosedError(ConnectionClosed, trio.BrokenResourceError):
    """The connection was lost, or ended with an error code or in the middle of a message.

    The ``__cause__``, if any, is the error that this end noticed: a :exc:`ProtocolError` if the peer violated the
    protocol or sent its Close frame before the last fragment of a message, an error of the stream below, or a
    :exc:`trio.TooSlowError` if the peer was considered dead or the closing handshake timed out.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None if it sent none.
        sent: The :class:`~trio_ws.Close` that we sent; None if we sent none.
        rcvd_then_sent: Whether the peer's Close came first; None unless both were sent.
    """


class ConnectionClosedLocally(ConnectionClosed, trio.ClosedResourceError):
    """This end closed the connection, with ``aclose()`` or by leaving ``async with``.

    Attributes:
        rcvd: The :class:`~trio_ws.Close` that the peer sent; None if it sent none.
        sent: The :class:`~trio_ws.Close` that we sent; None if we sent none.
        rcvd_then_sent: Whether the peer's Close came first; None unless both were sent.
    """
