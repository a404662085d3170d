"""The exception for a message that a ``TypedChannel`` cannot decode."""

from __future__ import annotations

import attrs

from .base import WebSocketException

__all__ = ["DecodeError"]


@attrs.define(slots=False, eq=False, repr=False)
class DecodeError(WebSocketException, ValueError):
    """A message was received, but ``decode`` of the :class:`TypedChannel` raised an exception for it.

    That exception is the ``__cause__``. The connection is still open, and the next call of ``receive()`` returns the
    next message.

    Attributes:
        message: The message, as it was received.
        reason: The text of the exception that ``decode`` raised. It may have several lines.
    """

    message: str | bytes
    reason: str

    def __str__(self) -> str:
        kind, unit = ("text", "characters") if isinstance(self.message, str) else ("binary", "bytes")
        return f"cannot decode a {kind} message of {len(self.message)} {unit}: {' '.join(self.reason.split())}"
