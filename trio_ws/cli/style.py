"""Colors, progress bars and block characters, where the terminal has them."""

from __future__ import annotations

import os
import time
from typing import TextIO

__all__ = ["ProgressBar", "StatusLine", "bar", "format_size", "is_capable", "is_terminal", "paint"]

_CODES = {"dim": "2", "red": "31", "green": "32", "cyan": "36"}

#: Seconds between two updates of a line on a terminal.
INTERVAL = 0.1


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream is a terminal. Python sets it to None if it is closed."""
    return stream is not None and not stream.closed and stream.isatty()


def is_capable(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that understands escape sequences."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def has_colors(stream: TextIO | None) -> bool:
    """Return whether to use colors: on a capable terminal, unless NO_COLOR is set (https://no-color.org)."""
    return is_capable(stream) and not os.environ.get("NO_COLOR")


def paint(text: str, color: str, stream: TextIO | None) -> str:
    """Return the text in a color, if the stream has colors."""
    return f"\x1b[{_CODES[color]}m{text}\x1b[0m" if has_colors(stream) else text


def bar(fraction: float, width: int, stream: TextIO | None) -> str:
    """Return a bar for a fraction between 0 and 1, as wide as the width, of blocks if the stream can encode them."""
    length = max(0.0, min(1.0, fraction)) * width
    try:
        "█▏".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ("#" * round(length)).ljust(width)
    eighths = round(length * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]).rstrip().ljust(width)


def format_size(size: float) -> str:
    """Return a number of bytes for people, such as ``1.5 MiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024 or unit == "GiB":
            break
    return f"{size:.1f} {unit}"


class StatusLine:
    """A line on a terminal that is overwritten. On anything else, nothing is written.

    Args:
        stream: The stream, which may be None.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if is_capable(stream) else None
        self._due = 0.0

    def update(self, text: str, *, now: bool = False) -> None:
        """Overwrite the line, unless that was done less than :data:`INTERVAL` seconds ago and ``now`` is false."""
        if self._stream is None or (time.monotonic() < self._due and not now):
            return
        self._due = time.monotonic() + INTERVAL
        # Erase to the end of the line first, because the line may become shorter.
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()

    def clear(self) -> None:
        """Erase the line."""
        self.update("", now=True)


class ProgressBar:
    """A progress bar for bytes, on a terminal only.

    Args:
        stream: The stream, which may be None.
        total: The number of bytes; None if it is not known.
    """

    def __init__(self, stream: TextIO | None, total: int | None) -> None:
        self._stream = stream
        self._line = StatusLine(stream)
        self._total = total
        self._done = 0
        self._start = time.monotonic()

    def advance(self, size: int) -> None:
        """Add bytes, and show the progress."""
        self._done += size
        elapsed = time.monotonic() - self._start
        speed = f", {format_size(self._done / elapsed)}/s" if elapsed > 0 else ""
        text = f"sent {format_size(self._done)}{speed}"
        if self._total:
            fraction = self._done / self._total
            text = f"|{bar(fraction, 30, self._stream)}| {fraction:4.0%}  {text}"
        self._line.update(text, now=self._done == self._total)

    def close(self) -> None:
        """Erase the progress bar."""
        self._line.clear()
