"""One-line error messages."""

from __future__ import annotations

from ..exceptions.shown import escape

__all__ = ["Failure", "one_line"]


class Failure(Exception):
    """An error to show to the user in one line, before exiting with status 1."""


def one_line(exc: BaseException) -> str:
    """Return the message of an exception on one line, or the name of its type if it has no message.

    Control characters are escaped, because the message may contain text of a peer.
    """
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror and not exc.filename else str(exc)
    return escape(" ".join(text.split())) or type(exc).__name__
