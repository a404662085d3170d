"""The Date header of responses (RFC 9110, section 6.6.1): ``http_date``."""

from __future__ import annotations

import time

__all__ = ["http_date"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: The second for which the text below was made, and the text.
_last: tuple[int, str] = (-1, "")


def http_date() -> str:
    """Return the current time as a Date header has it. The text is made at most once a second."""
    global _last
    second, text = _last
    now = int(time.time())
    if now != second:
        text = _format(now)
        _last = now, text
    return text


def _format(seconds: int) -> str:
    # strftime() uses the names of the current locale. email.utils would take a tenth of the import of trio_ws.
    utc = time.gmtime(seconds)
    day = f"{_DAYS[utc.tm_wday]}, {utc.tm_mday:02} {_MONTHS[utc.tm_mon - 1]} {utc.tm_year:04}"
    return f"{day} {utc.tm_hour:02}:{utc.tm_min:02}:{utc.tm_sec:02} GMT"
