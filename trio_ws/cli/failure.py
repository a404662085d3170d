"""Errors that are told in one line."""

from __future__ import annotations

__all__ = ["Failure", "one_line"]


class Failure(Exception):
    """What to tell the user, in one line, before exiting with status 1."""


def one_line(exc: BaseException) -> str:
    """Return the message of an exception on one line; its type if it has none."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror and not exc.filename else str(exc)
    return " ".join(text.split()) or type(exc).__name__
