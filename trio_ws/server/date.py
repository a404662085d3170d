"""The Date header of responses (RFC 9110, section 6.6.1): ``http_date``."""

from __future__ import annotations

import email.utils
import time

__all__ = ["http_date"]

#: The second for which the text below was made, and the text.
_last: tuple[int, str] = (-1, "")


def http_date() -> str:
    """Return the current time as a Date header has it. The text is made at most once a second."""
    global _last
    second, text = _last
    now = int(time.time())
    if now != second:
        text = email.utils.formatdate(now, usegmt=True)
        _last = now, text
    return text
