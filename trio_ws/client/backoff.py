"""Delays between attempts to connect, and errors after which to retry: ``Backoff`` and ``is_retryable``.

The n-th delay in a series is a random time between 0 and ``initial * factor ** (n - 1)`` seconds, at most ``maximum``
(exponential backoff with full jitter). The randomness keeps clients that lost a server at the same moment from
reconnecting at the same moment. For the same reason the delay is added to the time that the server requests with
``Retry-After``.

A new connection does not end the series by itself. A server that is overloaded, or crashes on our messages, may accept
connections and drop them at once, and should not get more attempts than a server that refuses them. Only a connection
that was open for at least ``reset_after`` seconds starts a new series. When such a connection is lost, the client waits
like after a first failure instead of reconnecting at once, because other clients have lost the same server.
"""

from __future__ import annotations

import errno
import random
import re
import sys
from collections.abc import Callable, Iterator
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
    ProxyFailed,
)
from ..exceptions.shown import show_fields
from ..frames import CloseCode
from ..http11 import Response
from ..misuse.values import number
from .explain import find_tls_error

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    import datetime

    from attrs import Attribute

__all__ = ["Backoff", "Retries", "is_retryable", "leaves", "retry_after"]

#: Close codes after which a retry may help: the server shuts down, failed, restarts, is overloaded or cannot be reached
#: by its gateway, or the connection ended without giving a reason. For 1000, is_retryable() also looks at who closed.
RETRYABLE_CODES = frozenset(
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

#: HTTP statuses below 500 that are temporary: Request Timeout, Too Early, Too Many Requests.
TEMPORARY_STATUSES = frozenset({408, 425, 429})

#: Close codes that this end sends when the peer has violated the protocol.
VIOLATIONS = frozenset({CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA})

#: TLS errors that are not about the configuration of either end, but about one connection or the state of a server.
TEMPORARY_TLS_ERRORS = frozenset(
    {
        "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
        "SSLV3_ALERT_BAD_RECORD_MAC",
        "TLSV1_ALERT_DECRYPTION_FAILED",
        "TLSV1_ALERT_INTERNAL_ERROR",
        "TLSV1_ALERT_RECORD_OVERFLOW",
        "TLSV1_ALERT_USER_CANCELLED",
        "UNEXPECTED_EOF_WHILE_READING",
    }
)

#: HTTP statuses from 500 on that are permanent: Not Implemented, HTTP Version Not Supported.
PERMANENT_STATUSES = frozenset({501, 505})


def is_retryable(exc: Exception) -> bool:
    """Return whether connecting again may help after an exception. This is the default for ``is_retryable=``.

    The cause decides, not the type of the exception. It returns True for these exceptions:

    * :exc:`ConnectFailed`, if its cause may go away by itself: the name cannot be looked up, nobody listens, or the
      connection is lost. The result is False if somebody must change something first: if TLS fails because of a
      certificate, a version, or a server that speaks no TLS; if a proxy refuses; if the answer is not HTTP or SOCKS; or
      if the system denies permission.
    * :exc:`OpenTimeout`.
    * :exc:`InvalidStatus`, and :exc:`ProxyFailed` with a response, with status 408, 425 or 429, or 500 and above except
      501 and 505. Clients treat unknown statuses from 500 on like 500 (RFC 9110, section 15).
    * :exc:`ConnectionClosedError`, if each Close frame that was sent or received has no code or one of 1000, 1001,
      1011, 1012, 1013 and 1014. The result is False after 1008 (policy violation), for example, and after codes from
      3000 on, whose meaning is defined by the application. It is also False after a message that is too large, since
      the same would most likely happen again.
    * :exc:`ConnectionClosedError`, if this end closed with 1002 or 1007, because the server violated the protocol on
      this connection.
    * :exc:`ConnectionClosedOK`, if the server closed with 1001 (going away) or without a code. The code 1000 means that
      the purpose of the connection is fulfilled.

    It returns False for all other exceptions, including those from outside the library.

    Args:
        exc: An exception from connecting, or one that tells how a connection ended. Never an exception group.
    """
    if (response := _response(exc)) is not None:
        status = response.status_code
        return status in TEMPORARY_STATUSES or (status >= 500 and status not in PERMANENT_STATUSES)
    if isinstance(exc, ConnectFailed):
        return not _is_permanent(exc.__cause__)
    if isinstance(exc, OpenTimeout):
        return True
    if not isinstance(exc, ConnectionClosed) or isinstance(exc, ConnectionClosedLocally):
        return False
    if isinstance(exc, ConnectionClosedOK) and (exc.code == CloseCode.NORMAL_CLOSURE or not exc.rcvd_then_sent):
        return False
    if exc.sent is not None and not exc.rcvd_then_sent and exc.sent.code in VIOLATIONS:
        return True  # The server may have answered with the same code.
    return all(close is None or close.code in RETRYABLE_CODES for close in (exc.rcvd, exc.sent))


def _response(exc: BaseException) -> Response | None:
    """Return the HTTP response that refused a connection, if there is one."""
    return exc.response if isinstance(exc, (InvalidStatus, ProxyFailed)) else None


def _is_permanent(cause: BaseException | None) -> bool:
    """Return whether the cause of a :exc:`ConnectFailed` will not go away by itself."""
    tls_error = find_tls_error(cause)
    if tls_error is not None:
        return getattr(tls_error, "reason", None) not in TEMPORARY_TLS_ERRORS
    while cause is not None:
        # A PermissionError comes from the system or a SOCKS proxy; a ValueError is an InvalidMessage, for example.
        if isinstance(cause, (PermissionError, ValueError)) or getattr(cause, "errno", None) == errno.EOPNOTSUPP:
            return True
        cause = cause.__cause__
    return False


def _check_at_least_initial(backoff: Backoff, attribute: Attribute[float], value: float) -> None:
    if value < backoff.initial:
        raise ValueError(f"{attribute.name} must be at least initial ({backoff.initial!r}), not {value!r}")


def _check_callable(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{attribute.name} must be callable, not {value!r}")


@attrs.frozen(kw_only=True)
class Backoff:
    """The delays between attempts to connect, and the limits after which to give up.

    The n-th delay in a series is a random time between 0 and ``initial * factor ** (n - 1)`` seconds, at most
    ``maximum``. If the server sends ``Retry-After``, that time is added. A connection that was open for at least
    ``reset_after`` seconds starts a new series.

    By default there is no limit. A Backoff is immutable, and can be shared by any number of connections.

    Attributes:
        initial: Upper bound of the first delay in a series, in seconds.
        factor: Growth of the upper bound from one delay to the next.
        maximum: Upper bound of all delays, in seconds, without ``Retry-After``.
        reset_after: Seconds that a connection must have been open to count as a success.
        max_attempts: Number of attempts in a series after which to give up; None for no limit.
        max_elapsed: Give up when the next attempt would begin more than this many seconds after the start of the
            series; None for no limit.
        max_retry_after: Upper bound of the time that is added for ``Retry-After``, in seconds.
        random: A function that returns a random number between 0 and 1. Tests can replace it.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
    """

    initial: float = attrs.field(default=1.0, validator=number(minimum=0, none=False, finite=True))
    factor: float = attrs.field(default=2.0, validator=number(minimum=1, none=False, finite=True))
    maximum: float = attrs.field(
        default=60.0, validator=[number(minimum=0, none=False, finite=True), _check_at_least_initial]
    )
    reset_after: float = attrs.field(default=60.0, validator=number(minimum=0, none=False))
    max_attempts: int | None = attrs.field(default=None, validator=number(minimum=1, none=True, whole=True))
    max_elapsed: float | None = attrs.field(default=None, validator=number(minimum=0, none=True))
    max_retry_after: float = attrs.field(default=300.0, validator=number(minimum=0, none=False, finite=True))
    random: Callable[[], float] = attrs.field(default=random.random, validator=_check_callable, repr=False)

    __repr__ = show_fields

    def longest(self, number: int) -> float:
        """Return the upper bound of a delay in seconds, without ``Retry-After``.

        Args:
            number: The number of the delay in its series, starting at 1.

        Raises:
            ValueError: If the number is less than 1.
        """
        if number < 1:
            raise ValueError(f"number must be at least 1, not {number!r}")
        if self.initial == 0 or self.factor == 1:
            return float(self.initial)
        try:
            return min(self.initial * float(self.factor) ** (number - 1), self.maximum)
        except OverflowError:
            return float(self.maximum)

    def delay(self, number: int) -> float:
        """Return a random delay in seconds, between 0 and :meth:`longest`.

        Args:
            number: The number of the delay in its series, starting at 1.

        Raises:
            ValueError: If the number is less than 1.
        """
        return self.random() * self.longest(number)


class Retries:
    """The retry state of one client: counts attempts, records the last error, and schedules the next attempt.

    Args:
        backoff: The delays and limits.
        predicate: The ``is_retryable`` function.

    Attributes:
        attempts: The number of attempts so far.
        last_error: The last error; None before the first one.
        due: The time on Trio's clock at which the next attempt is due.
    """

    def __init__(self, backoff: Backoff, predicate: Callable[[Exception], bool]) -> None:
        self._backoff = backoff
        self._predicate = predicate
        self.attempts: int = 0
        self.last_error: BaseException | None = None
        self.due: float = 0.0
        # The number of attempts in the current series, and the time of its start.
        self._attempts_in_series = 0
        self._series_start: float | None = None

    def begin_attempt(self) -> None:
        """Count an attempt that begins now."""
        self.attempts += 1
        self._attempts_in_series += 1
        if self._series_start is None:
            self._series_start = trio.current_time()

    def reset(self) -> None:
        """Reset the backoff; the next wait is the first of a new series."""
        self._attempts_in_series = 0
        self._series_start = trio.current_time()
        self.due = self._series_start + self._backoff.delay(1)

    def is_retryable(self, exc: BaseException) -> bool:
        """Return whether connecting again may help: for an exception group, whether that is so for all its members."""
        return isinstance(exc, Exception) and all(
            isinstance(leaf, Exception) and self._predicate(leaf) for leaf in leaves(exc)
        )

    def schedule(self, exc: BaseException, lived: float | None = None) -> float | None:
        """Record a failure and schedule the next attempt.

        Args:
            exc: The error.
            lived: Seconds that the connection was open; None if it was never open.

        Returns:
            The seconds until the next attempt, or None to give up because a limit of the backoff is reached.
        """
        backoff = self._backoff
        self.last_error = exc
        now = trio.current_time()
        if lived is not None and lived >= backoff.reset_after:
            self._attempts_in_series, self._series_start = 0, now
        delay = backoff.delay(max(self._attempts_in_series, 1))
        if (response := _response(exc)) is not None:
            delay += min(retry_after(response) or 0.0, backoff.max_retry_after)
        self.due = now + delay
        if backoff.max_attempts is not None and self._attempts_in_series >= backoff.max_attempts:
            return None
        assert self._series_start is not None
        if backoff.max_elapsed is not None and self.due - self._series_start > backoff.max_elapsed:
            return None
        return delay

    async def wait(self) -> None:
        """Wait until the next attempt is due. Safe to cancel: the due time stays the same."""
        await trio.sleep_until(self.due)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the members of an exception group and its subgroups, or the exception itself if it is not a group."""
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from leaves(each)
    else:
        yield exc


# -- Retry-After ---------------------------------------------------------------------------------------------------


def retry_after(response: Response, now: datetime.datetime | None = None) -> float | None:
    """Return the seconds that a response asks the client to wait (RFC 9110, section 10.2.3).

    A date in ``Retry-After`` is compared with the ``Date`` header if there is one, because the local clock may be
    wrong.

    Args:
        response: The response. Malformed values are ignored; the largest of several values counts.
        now: The current time with a time zone; None for the system's time.

    Returns:
        The seconds, or None if there is no valid ``Retry-After``.
    """
    import datetime  # needed only after some failed attempts

    if now is None:
        now = datetime.datetime.now(datetime.timezone.utc)
    dates = [_parse_date(value, now) for value in response.headers.get_all("Date")]
    base = dates[0] if len(dates) == 1 and dates[0] is not None else now
    found = []
    for value in response.headers.get_all("Retry-After"):
        if re.fullmatch("[0-9]+", value):
            found.append(float(value))  # float() has no limit on the number of digits, unlike int().
        elif (date := _parse_date(value, now)) is not None:
            found.append(max((date - base).total_seconds(), 0.0))
    return max(found, default=None)


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"

#: The three date formats that a recipient must accept (RFC 9110, section 5.6.7).
_DATES = (
    rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
    rf"[A-Z][a-z]+day, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
    rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
)


def _parse_date(value: str, now: datetime.datetime) -> datetime.datetime | None:
    import datetime

    # email.utils is too lenient, and strptime() expects the month names of the current locale.
    for pattern in _DATES:
        if match := re.fullmatch(pattern, value, re.ASCII):
            break
    else:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # RFC 9110, section 5.6.7: a two-digit year more than 50 years in the future belongs to the previous century.
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
