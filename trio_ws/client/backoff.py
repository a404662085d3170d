"""When to connect again, and whether it may help: ``Backoff`` and ``is_retryable``.

When: the n-th wait in a row is a random time from 0 to ``initial * factor ** (n - 1)`` seconds, at most ``maximum``.
All of it is random ("full jitter"), because clients that have lost a server at the same moment should not come back at
the same moment. For the same reason a random time is added to what the server asks for with ``Retry-After``.

In a row: that a connection was opened does not mean that all is well. A server that is overloaded, or falls over what
we send it, may accept connections and drop them at once, and deserves no more attempts than one that refuses them. So
only a connection that was open for ``reset_after`` seconds starts a new row. Its end is followed by a wait like that
after the first failure, not by an attempt at once: others have lost the same server.
"""

from __future__ import annotations

import datetime
import random
import re
import sys
from collections.abc import Callable, Iterator
from ssl import SSLCertVerificationError
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ..exceptions import (
    ConnectFailed,
    ConnectionClosed,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidStatus,
    OpenTimeout,
    TLSFailed,
)
from ..frames import CloseCode
from ..http11 import Response
from ..settings import _number

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["Backoff", "Retries", "is_retryable", "leaves", "retry_after"]

#: Close codes that say nothing against another attempt: the server goes, has failed, restarts, is overloaded, or is not
#: reached by what stands before it; or the connection just ended. Whether 1000 says so depends on who has closed.
TEMPORARY = frozenset(
    {
        CloseCode.NORMAL_CLOSURE,
        CloseCode.GOING_AWAY,
        CloseCode.NO_STATUS_RCVD,
        CloseCode.INTERNAL_ERROR,
        CloseCode.SERVICE_RESTART,
        CloseCode.TRY_AGAIN_LATER,
        CloseCode.BAD_GATEWAY,
    }
)

#: HTTP statuses below 500 that may be another one soon: Request Timeout, Too Early, Too Many Requests.
TEMPORARY_STATUSES = frozenset({408, 425, 429})

#: HTTP statuses from 500 that will not: Not Implemented, HTTP Version Not Supported.
LASTING_STATUSES = frozenset({501, 505})


def is_retryable(exc: Exception) -> bool:
    """Return whether connecting again may help after an exception. This is the default of ``is_retryable=``.

    It is for these:

    * :exc:`ConnectFailed`, unless the certificate of the server is not accepted: that should be seen by somebody.
    * :exc:`OpenTimeout`.
    * :exc:`InvalidStatus` with 408, 425, 429, or from 500 on, but for 501 and 505. Statuses that we do not know are
      meant to be treated like 500 (RFC 9110, section 15).
    * :exc:`ConnectionClosedError` if no Close frame came or went, or none that says anything but 1000, 1001, 1011,
      1012, 1013, 1014 or nothing. So it is not after 1008 (policy violation), for example, nor after the codes from
      3000 on, whose meaning is a matter between you and the server; and not after an error in the protocol or a message
      that is too large, which would most likely happen again.
    * :exc:`ConnectionClosedOK` if the server has closed with 1001 (going away), or with no code. 1000 means that what
      the connection was for is done.

    It is not for anything else, be it an exception of the library or another one.

    Args:
        exc: The exception: what connecting has raised, or how a connection ended. Never a group.
    """
    if isinstance(exc, TLSFailed):
        return not isinstance(exc.__cause__, SSLCertVerificationError)
    if isinstance(exc, (ConnectFailed, OpenTimeout)):
        return True
    if isinstance(exc, InvalidStatus):
        status = exc.response.status_code
        return status in TEMPORARY_STATUSES or (status >= 500 and status not in LASTING_STATUSES)
    if not isinstance(exc, ConnectionClosed) or isinstance(exc, ConnectionClosedLocally):
        return False
    if isinstance(exc, ConnectionClosedOK) and (exc.code == CloseCode.NORMAL_CLOSURE or not exc.rcvd_then_sent):
        return False
    return all(close is None or close.code in TEMPORARY for close in (exc.rcvd, exc.sent))


def _not_below_initial(backoff: Backoff, attribute: Attribute[float], value: float) -> None:
    if value < backoff.initial:
        raise ValueError(f"{attribute.name} is at least initial, {backoff.initial!r}, not {value!r}")


def _function(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{attribute.name} is a function, not {value!r}")


@attrs.frozen(kw_only=True)
class Backoff:
    """How long to wait before connecting again, and when to give up.

    The n-th wait in a row takes a random time from 0 to ``initial * factor ** (n - 1)`` seconds, but never more than
    ``maximum``. If the server asks for more with ``Retry-After``, that is added. A new row begins when a connection was
    open for ``reset_after`` seconds.

    By default it never gives up. It is immutable, and can be used for any number of connections.

    Attributes:
        initial: Seconds that the first wait takes at most.
        factor: How much longer each wait may be than the one before it.
        maximum: Seconds that a wait takes at most, without ``Retry-After``.
        reset_after: Seconds that a connection must have been open to count as a success.
        max_attempts: Give up after so many attempts in a row. None: no limit.
        max_elapsed: Give up when the next attempt would begin more than so many seconds after the row has begun. None:
            no limit.
        max_retry_after: Seconds of ``Retry-After`` that are heeded at most.
        random: Returns a random number from 0 to 1 each time. With another function, a test knows what comes.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if it is out of range.
    """

    initial: float = attrs.field(default=1.0, validator=_number(minimum=0, none=False, finite=True))
    factor: float = attrs.field(default=2.0, validator=_number(minimum=1, none=False, finite=True))
    maximum: float = attrs.field(
        default=60.0, validator=[_number(minimum=0, none=False, finite=True), _not_below_initial]
    )
    reset_after: float = attrs.field(default=60.0, validator=_number(minimum=0, none=False))
    max_attempts: int | None = attrs.field(default=None, validator=_number(minimum=1, none=True, whole=True))
    max_elapsed: float | None = attrs.field(default=None, validator=_number(minimum=0, none=True))
    max_retry_after: float = attrs.field(default=300.0, validator=_number(minimum=0, none=False, finite=True))
    random: Callable[[], float] = attrs.field(default=random.random, validator=_function, repr=False)

    def longest(self, number: int) -> float:
        """Return how many seconds a wait takes at most, without ``Retry-After``.

        Args:
            number: Which wait in a row it is, from 1 on.

        Raises:
            ValueError: if the number is less than 1.
        """
        if number < 1:
            raise ValueError(f"waits are counted from 1, not from {number!r}")
        if self.initial == 0 or self.factor == 1:
            return float(self.initial)
        try:
            return min(self.initial * float(self.factor) ** (number - 1), self.maximum)
        except OverflowError:
            return float(self.maximum)

    def delay(self, number: int) -> float:
        """Return how many seconds to wait: a random number from 0 to :meth:`longest`.

        Args:
            number: Which wait in a row it is, from 1 on.

        Raises:
            ValueError: if the number is less than 1.
        """
        return self.random() * self.longest(number)


class Retries:
    """The attempts of one client: how many there were, what has become of the last, and when the next one is due.

    Args:
        backoff: How long to wait.
        predicate: Says whether connecting again may help.
    """

    def __init__(self, backoff: Backoff, predicate: Callable[[Exception], bool]) -> None:
        self._backoff = backoff
        self._predicate = predicate
        self.attempts: int = 0
        self.last_error: BaseException | None = None
        #: When the next attempt is to begin.
        self.due: float = 0.0
        # How many attempts there were in this row, and when it has begun.
        self._in_row = 0
        self._row_began: float | None = None

    def begin(self) -> None:
        """Take note that an attempt begins."""
        self.attempts += 1
        self._in_row += 1
        if self._row_began is None:
            self._row_began = trio.current_time()

    def reset(self) -> None:
        """Reset the backoff; the next wait is the first of a new series."""
        self._in_row = 0
        self._row_began = trio.current_time()
        self.due = self._row_began + self._backoff.delay(1)

    def is_wanted(self, exc: BaseException) -> bool:
        """Return whether connecting again may help: of a group, after all that is in it."""
        return isinstance(exc, Exception) and all(
            isinstance(leaf, Exception) and self._predicate(leaf) for leaf in leaves(exc)
        )

    def schedule(self, exc: BaseException, lived: float | None = None) -> float | None:
        """Take note of a failure. Return the seconds to the next attempt, or None to give up.

        Args:
            exc: What has failed.
            lived: Seconds that the connection was open; None if it was not.
        """
        backoff = self._backoff
        self.last_error = exc
        now = trio.current_time()
        if lived is not None and lived >= backoff.reset_after:
            self._in_row, self._row_began = 0, now
        delay = backoff.delay(max(self._in_row, 1))
        if isinstance(exc, InvalidStatus):
            delay += min(retry_after(exc.response) or 0.0, backoff.max_retry_after)
        self.due = now + delay
        if backoff.max_attempts is not None and self._in_row >= backoff.max_attempts:
            return None
        assert self._row_began is not None
        if backoff.max_elapsed is not None and self.due - self._row_began > backoff.max_elapsed:
            return None
        return delay

    async def wait(self) -> None:
        """Wait until the next attempt is due. When cancelled, it is due at the same time as before."""
        await trio.sleep_until(self.due)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield what is in a group, and in groups in it; or the exception itself."""
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from leaves(each)
    else:
        yield exc


# -- Retry-After ---------------------------------------------------------------------------------------------------


def retry_after(response: Response, now: datetime.datetime | None = None) -> float | None:
    """Return how many seconds a response asks us to wait (RFC 9110, section 10.2.3), or None if it does not.

    A date is compared with the ``Date`` of the response, if there is one, because our clock may be wrong.

    Args:
        response: The response. What is malformed in it is ignored; of several values, the largest counts.
        now: The time, with a time zone. The default is that of the system.
    """
    if now is None:
        now = datetime.datetime.now(datetime.timezone.utc)
    dates = [_parse_date(value, now) for value in response.headers.get_all("Date")]
    base = dates[0] if len(dates) == 1 and dates[0] is not None else now
    found = []
    for value in response.headers.get_all("Retry-After"):
        if re.fullmatch("[0-9]+", value):
            found.append(float(value))  # however long, unlike int()
        elif (date := _parse_date(value, now)) is not None:
            found.append(max((date - base).total_seconds(), 0.0))
    return max(found, default=None)


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"

#: The three forms of a date that a recipient has to know (RFC 9110, section 5.6.7).
_DATES = (
    rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
    rf"[A-Z][a-z]+day, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
    rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
)


def _parse_date(value: str, now: datetime.datetime) -> datetime.datetime | None:
    # Not email.utils, which takes much for a date, nor strptime(), where months have the names of the locale.
    for pattern in _DATES:
        if match := re.fullmatch(pattern, value, re.ASCII):
            break
    else:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # A year more than 50 years ahead is the last one that ended with the same digits.
        year += now.year // 100 * 100
        if year > now.year + 50:
            year -= 100
    day, hour, minute, second = (int(match[name]) for name in ("day", "hour", "minute", "second"))
    try:
        return datetime.datetime(
            year,
            _MONTHS.index(match["month"]) + 1,
            day,
            hour,
            minute,
            min(second, 59) if second == 60 else second,  # a leap second
            tzinfo=datetime.timezone.utc,
        )
    except ValueError:
        return None
