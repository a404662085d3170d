"""One-line error messages."""

from __future__ import annotations

import sys

from ..exceptions.shown import escape

__all__ = ["Failure", "WrongUsage", "one_line", "print_error"]


class Failure(Exception):
    """An error to show to the user in one line, before exiting with status 1."""


class WrongUsage(Failure):
    """Arguments that must not be used, or not together. The exit status is 2, as it is for those that argparse rejects.

    Raise this before anything is done: no file is sent, and no connection is opened or accepted.
    """


def one_line(exc: BaseException) -> str:
    """Return the message of an exception on one line, or the name of its type if it has no message.

    Control characters are escaped, because the message may contain text of a peer.
    """
    text = str(exc)
    if isinstance(exc, OSError) and exc.strerror:
        text = exc.strerror if exc.filename is None else f"{exc.strerror}: {exc.filename!r}"
    return escape(" ".join(text.split())) or type(exc).__name__


def print_error(line: str) -> None:
    """Print a line on standard error, if there is one: ``print()`` would use standard output instead."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)
