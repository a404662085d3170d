"""Delays, ``Retry-After``, limits, and retryable errors: ``Backoff``, ``is_retryable``, ``Retries``."""

from __future__ import annotations

import datetime
import itertools
import math
import socket
import ssl
import sys
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_ws.client.backoff import Backoff, Retries, is_retryable, leaves, retry_after
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    NotConnected,
    OpenTimeout,
    ProxyFailed,
    TLSFailed,
)
from trio_ws.frames import Close
from trio_ws.http11 import Response

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

#: Always waits for the longest time: 1, 2, 4, 8, ... seconds.
LONGEST = Backoff(random=lambda: 1.0)

LOST = ConnectFailed("example.org", "it is down")


def refusal(status: int, *headers: tuple[str, str]) -> InvalidStatus:
    return InvalidStatus(Response(status, "", headers))


# -- Backoff -------------------------------------------------------------------------------------------------------


def test_the_delays_grow() -> None:
    assert [LONGEST.delay(number) for number in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    backoff = Backoff(initial=0.5, factor=3, maximum=10, random=lambda: 0.5)
    assert [backoff.delay(number) for number in range(1, 5)] == [0.25, 0.75, 2.25, 5]
    assert [backoff.longest(number) for number in range(1, 5)] == [0.5, 1.5, 4.5, 10]


def test_the_default_is_random() -> None:
    delays = {Backoff().delay(10) for _ in range(10)}
    assert len(delays) == 10
    assert all(0 <= delay <= 60 for delay in delays)


numbers = st.floats(min_value=0, allow_infinity=False, allow_nan=False)


@given(
    initial=numbers,
    factor=st.floats(min_value=1, allow_infinity=False) | st.integers(min_value=1, max_value=10**300),
    more=numbers,
    number=st.integers(min_value=1, max_value=10**400),
    chance=st.floats(min_value=0, max_value=1),
)
def test_a_delay_is_within_its_bounds(initial: float, factor: float, more: float, number: int, chance: float) -> None:
    maximum = min(initial + more, sys.float_info.max)
    backoff = Backoff(initial=initial, factor=factor, maximum=maximum, random=lambda: chance)
    longest = backoff.longest(number)
    assert initial <= longest <= maximum
    assert longest <= backoff.longest(number + 1) * 1.000001
    assert 0 <= backoff.delay(number) <= longest
    assert backoff.longest(1) == initial


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("initial", "1", TypeError),
        ("initial", None, TypeError),
        ("initial", True, TypeError),
        ("initial", -0.1, ValueError),
        ("initial", math.nan, ValueError),
        ("initial", math.inf, ValueError),
        ("initial", 61, ValueError),
        ("factor", 0.9, ValueError),
        ("factor", math.nan, ValueError),
        ("factor", math.inf, ValueError),
        ("factor", "2", TypeError),
        ("maximum", 0.9, ValueError),
        ("maximum", math.inf, ValueError),
        ("maximum", None, TypeError),
        ("reset_after", -1, ValueError),
        ("reset_after", None, TypeError),
        ("max_attempts", 0, ValueError),
        ("max_attempts", 1.5, TypeError),
        ("max_elapsed", -1, ValueError),
        ("max_elapsed", "1", TypeError),
        ("max_retry_after", -1, ValueError),
        ("max_retry_after", math.inf, ValueError),
        ("random", 0.5, TypeError),
    ],
)
def test_invalid_backoffs(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"maximum" if name == "initial" and value == 61 else name):
        Backoff(**{name: value})


def test_valid_backoffs() -> None:
    backoff = Backoff(initial=0, maximum=0, factor=1, reset_after=math.inf, max_attempts=1, max_elapsed=0)
    assert backoff.delay(1) == backoff.delay(10**6) == 0
    assert Backoff(max_retry_after=0, reset_after=0).reset_after == 0


def test_a_backoff_is_a_value() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Backoff().initial = 2.0  # type: ignore[misc]  # it is frozen
    assert Backoff() == Backoff()
    assert hash(Backoff()) == hash(Backoff())
    assert Backoff() != Backoff(initial=2)
    assert attrs.evolve(Backoff(), maximum=30) == Backoff(maximum=30)
    with pytest.raises(TypeError):
        Backoff(1.0)  # type: ignore[call-arg]  # wrong on purpose


@pytest.mark.parametrize("number", [0, -1])
def test_delays_are_counted_from_one(number: int) -> None:
    for method in (Backoff().delay, Backoff().longest):
        with pytest.raises(ValueError, match="number must be at least 1"):
            method(number)


# -- is_retryable --------------------------------------------------------------------------------------------------


def tls_failure(cause: BaseException | None) -> TLSFailed:
    exc = TLSFailed("example.org", "no")
    exc.__cause__ = cause
    return exc


def tls_error(reason: str) -> ssl.SSLError:
    exc = ssl.SSLError(1, f"[SSL: {reason}]")
    exc.reason = reason
    return exc


def connect_failure(cause: BaseException) -> ConnectFailed:
    # As it comes from a stream.
    lost = trio.BrokenResourceError()
    lost.__cause__ = cause
    exc = ConnectFailed("example.org", "no")
    exc.__cause__ = lost
    return exc


def proxy_failure(status: int | None, cause: BaseException | None = None) -> ProxyFailed:
    response = None if status is None else Response(status, "", [])
    exc = ProxyFailed("example.org", "no", "http://proxy.example", response)
    exc.__cause__ = cause
    return exc


def closed_error(rcvd: int | None, sent: int | None, rcvd_then_sent: bool | None = None) -> ConnectionClosedError:
    ours, theirs = (None if code is None else Close(code, "") for code in (sent, rcvd))
    return ConnectionClosedError(theirs, ours, rcvd_then_sent)


def closed_ok(code: int, *, by_peer: bool = True) -> ConnectionClosedOK:
    return ConnectionClosedOK(Close(code, ""), Close(code, ""), by_peer)


@pytest.mark.parametrize(
    "exc",
    [
        LOST,
        tls_failure(ssl.SSLEOFError("gone")),
        tls_failure(ConnectionResetError("gone")),
        tls_failure(None),
        OpenTimeout("example.org", 10),
        *(refusal(status) for status in (408, 425, 429, 500, 502, 503, 504, 520, 530, 599)),
        closed_error(None, None),
        closed_error(None, 1011),  # the keepalive
        closed_error(None, 1002),  # The server violated the protocol on this connection.
        closed_error(1002, 1002, False),
        closed_error(1000, 1007, False),
        connect_failure(socket.gaierror(socket.EAI_NONAME, "no such name")),
        connect_failure(FileNotFoundError("no socket")),
        *(proxy_failure(status) for status in (408, 425, 429, 500, 502, 503, 504)),
        proxy_failure(None),
        proxy_failure(None, ConnectionRefusedError("down")),
        tls_failure(tls_error("TLSV1_ALERT_INTERNAL_ERROR")),
        tls_failure(tls_error("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")),
        closed_error(1000, None),  # The server disconnected before it got our Close frame.
        closed_error(1001, None),
        *(closed_error(code, code, True) for code in (1011, 1012, 1013, 1014)),
        closed_ok(1001),
        closed_ok(1005),
    ],
    ids=repr,
)
def test_retryable(exc: Exception) -> None:
    assert is_retryable(exc)


@pytest.mark.parametrize(
    "exc",
    [
        tls_failure(ssl.SSLCertVerificationError("self-signed")),
        *(refusal(status) for status in (200, 301, 400, 401, 403, 404, 410, 426, 501, 505)),
        InvalidURI("x", "y"),
        InvalidHandshake(),
        InvalidMessage("no HTTP"),
        InvalidUpgrade("Upgrade", None, "missing"),
        NegotiationError("no"),
        NotConnected("waiting"),
        *(closed_error(code, code, True) for code in (1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003, 4000, 4999)),
        closed_error(1002, None),
        closed_error(None, 1009),
        closed_error(None, 1008),
        closed_error(1000, 1009, False),
        *(proxy_failure(status) for status in (101, 200, 301, 400, 401, 403, 404, 407, 410, 501, 505)),
        proxy_failure(None, InvalidMessage("no HTTP")),
        proxy_failure(None, ssl.SSLCertVerificationError("self-signed")),
        proxy_failure(None, PermissionError("no")),
        *(
            failure(tls_error(reason))
            for failure in (tls_failure, connect_failure, partial(proxy_failure, None))
            for reason in (
                "WRONG_VERSION_NUMBER",
                "TLSV13_ALERT_CERTIFICATE_REQUIRED",
                "TLSV1_ALERT_UNKNOWN_CA",
                "SSLV3_ALERT_HANDSHAKE_FAILURE",
                "TLSV1_ALERT_PROTOCOL_VERSION",
                "UNSUPPORTED_PROTOCOL",
            )
        ),
        connect_failure(PermissionError("denied")),
        closed_error(1008, None),
        closed_ok(1000),
        closed_ok(1001, by_peer=False),
        ConnectionClosedLocally(None, None),
        ConnectionClosedLocally(Close(1001, ""), Close(1001, ""), True),
        ValueError(),
        OSError(),
        TimeoutError(),
        trio.TooSlowError(),
        trio.EndOfChannel(),
        trio.BrokenResourceError(),
        ExceptionGroup("", [LOST]),
    ],
    ids=repr,
)
def test_not_retryable(exc: Exception) -> None:
    assert not is_retryable(exc)


# -- Retry-After ---------------------------------------------------------------------------------------------------

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.timezone.utc)
FIFTY_YEARS = (NOW.replace(year=2076) - NOW).total_seconds()


@pytest.mark.parametrize(
    "values, expected",
    [
        ([], None),
        (["0"], 0),
        (["120"], 120),
        (["007"], 7),
        (["9" * 5000], math.inf),
        (["Sun, 01 Mar 2026 12:00:30 GMT"], 30),
        (["Sunday, 01-Mar-26 12:00:30 GMT"], 30),
        (["Sun Mar  1 12:00:30 2026"], 30),
        (["Tue Mar 10 12:00:00 2026"], 9 * 86400),
        (["Sun, 01 Mar 2026 11:59:59 GMT"], 0),  # in the past
        (["Sunday, 01-Mar-77 12:00:00 GMT"], 0),  # 1977, since 2077 is more than 50 years ahead
        (["Sunday, 01-Mar-76 12:00:00 GMT"], FIFTY_YEARS),
        (["Sun, 01 Mar 2026 12:00:60 GMT"], 59),  # a leap second
        (["120", "Sun, 01 Mar 2026 12:00:30 GMT", "nonsense"], 120),
        # Malformed values.
        ([""], None),
        (["-1"], None),
        (["+1"], None),
        (["1.5"], None),
        (["1 2"], None),
        (["soon"], None),
        (["Sun, 01 Mar 2026 12:00:30"], None),
        (["Sun, 01 Mar 2026 12:00:30 CET"], None),
        (["Sun, 01 Mar 2026 12:00:61 GMT"], None),
        (["Sun, 01 Mar 2026 24:00:00 GMT"], None),
        (["Mon, 30 Feb 2026 12:00:00 GMT"], None),
        (["Sun, 01 Mar 0000 12:00:00 GMT"], None),
        (["Sun, 1 Mar 2026 12:00:30 GMT"], None),
        (["Sun, 01 mar 2026 12:00:30 GMT"], None),
        (["2026-03-01T12:00:30Z"], None),
    ],
)  # fmt: skip
def test_retry_after(values: list[str], expected: float | None) -> None:
    headers = [("Retry-After", value) for value in values]
    assert retry_after(Response(503, "", headers), NOW) == expected


def test_a_date_is_compared_with_the_date_header() -> None:
    later = ("Retry-After", "Sun, 01 Mar 2026 12:00:30 GMT")
    for date, expected in [
        ("Sun, 01 Mar 2026 12:00:10 GMT", 20),
        ("Sun Mar  1 11:00:30 2026", 3600),
        ("no date", 30),
    ]:
        assert retry_after(Response(503, "", [("Date", date), later]), NOW) == expected
    # Two Date headers are ignored.
    two = [("Date", "Sun, 01 Mar 2026 12:00:10 GMT")] * 2
    assert retry_after(Response(503, "", [*two, later]), NOW) == 30


def test_a_date_is_compared_with_the_clock_without_a_date_header() -> None:
    long_ago = retry_after(Response(503, "", {"Retry-After": "Tue, 15 Nov 1994 08:12:31 GMT"}))
    some_day = retry_after(Response(503, "", {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}))
    assert long_ago == 0
    assert some_day is not None
    assert 60 * 60 * 24 * 365 * 7000 < some_day < math.inf


@given(st.text(st.characters(codec="latin-1", exclude_characters="\0\r\n"), max_size=60))
def test_any_header_value_is_accepted(value: str) -> None:
    value = value.strip(" \t")
    try:
        response = Response(503, "", {"Retry-After": value, "Date": value})
    except ValueError:
        return  # not a valid header value
    found = retry_after(response)
    assert found is None or found >= 0


@given(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(9999, 12, 31)), st.integers(0, 2))
def test_every_date_in_every_format(date: datetime.datetime, form: int) -> None:
    date = date.replace(microsecond=0, tzinfo=datetime.timezone.utc)
    day = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[date.weekday()]
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    month = months[date.month - 1]
    value = (
        f"{day[:3]}, {date.day:02} {month} {date.year:04} {date:%H:%M:%S} GMT",
        f"{day}, {date.day:02}-{month}-{date.year % 100:02} {date:%H:%M:%S} GMT",
        f"{day[:3]} {month} {date.day:2} {date:%H:%M:%S} {date.year:04}",
    )[form]
    before = date - datetime.timedelta(seconds=7)
    assert retry_after(Response(503, "", {"Retry-After": value}), before) == 7


# -- Retries: consecutive attempts ---------------------------------------------------------------------------------


async def fail(retries: Retries, exc: Exception = LOST, lived: float | None = None) -> float | None:
    """Begin an attempt, let it fail, and wait. Return the seconds of the wait."""
    retries.begin_attempt()
    if lived is not None:
        await trio.sleep(lived)
    delay = retries.schedule(exc, lived)
    began = trio.current_time()
    await retries.wait()
    assert delay is None or trio.current_time() - began == pytest.approx(delay)
    return delay


async def test_a_series_of_failures(autojump_clock: MockClock) -> None:
    retries = Retries(LONGEST, is_retryable)
    assert (retries.attempts, retries.last_error) == (0, None)
    assert [await fail(retries) for _ in range(4)] == [1, 2, 4, 8]
    assert (retries.attempts, retries.last_error) == (4, LOST)


async def test_only_a_long_connection_starts_a_new_series(autojump_clock: MockClock) -> None:
    retries = Retries(attrs.evolve(LONGEST, reset_after=10), is_retryable)
    assert [await fail(retries) for _ in range(3)] == [1, 2, 4]
    assert await fail(retries, lived=9.9) == 8
    assert await fail(retries, lived=10) == 1
    assert [await fail(retries) for _ in range(3)] == [1, 2, 4]
    retries.begin_attempt()
    retries.reset()
    assert retries.due == trio.current_time() + 1
    assert [await fail(retries) for _ in range(2)] == [1, 2]
    assert retries.attempts == 11


async def test_one_random_number_for_each_delay(autojump_clock: MockClock) -> None:
    chances = itertools.cycle([0.5, 1.0])
    retries = Retries(Backoff(random=chances.__next__, reset_after=10), is_retryable)
    assert [await fail(retries) for _ in range(3)] == [0.5, 2, 2]
    assert await fail(retries, lived=10) == 1
    assert await fail(retries, lived=10) == 0.5


async def test_limit_of_attempts(autojump_clock: MockClock) -> None:
    retries = Retries(attrs.evolve(LONGEST, max_attempts=3, reset_after=10), is_retryable)
    assert [await fail(retries) for _ in range(3)] == [1, 2, None]
    retries = Retries(attrs.evolve(LONGEST, max_attempts=1, reset_after=10), is_retryable)
    # The end of a long connection starts a new series.
    assert await fail(retries, lived=10) == 1
    assert await fail(retries, lived=10) == 1
    assert await fail(retries, lived=9) is None


async def test_limit_of_time(autojump_clock: MockClock) -> None:
    retries = Retries(attrs.evolve(LONGEST, max_elapsed=10, reset_after=10), is_retryable)
    await trio.sleep(100)  # The time before the first attempt does not count.
    # The next attempt would begin after 15 seconds.
    assert [await fail(retries) for _ in range(4)] == [1, 2, 4, None]
    retries = Retries(attrs.evolve(LONGEST, max_elapsed=10, reset_after=10), is_retryable)
    for _ in range(3):
        assert await fail(retries, lived=10) == 1
    assert [await fail(retries) for _ in range(4)] == [1, 2, 4, None]


async def test_retry_after_is_added(autojump_clock: MockClock) -> None:
    retries = Retries(attrs.evolve(LONGEST, max_retry_after=100), is_retryable)
    assert await fail(retries, refusal(503, ("Retry-After", "30"))) == 31
    assert await fail(retries, refusal(429, ("Retry-After", "100000"))) == 102
    assert await fail(retries, refusal(503, ("Retry-After", "soon"))) == 4
    assert await fail(retries, refusal(503)) == 8
    limited = Retries(attrs.evolve(LONGEST, max_elapsed=10), is_retryable)
    assert await fail(limited, refusal(503, ("Retry-After", "30"))) is None


async def test_a_cancelled_wait_ends_at_the_same_time(autojump_clock: MockClock) -> None:
    retries = Retries(LONGEST, is_retryable)
    retries.begin_attempt()
    retries.schedule(LOST)
    for seconds in (0.25, 0.25):
        with trio.move_on_after(seconds) as scope:
            await retries.wait()
        assert scope.cancelled_caught
    began = trio.current_time()
    await retries.wait()
    assert trio.current_time() - began == pytest.approx(0.5)


async def test_all_members_of_a_group_must_be_retryable() -> None:
    retries = Retries(LONGEST, is_retryable)
    also = OpenTimeout("x", 1)
    assert retries.is_retryable(LOST)
    assert retries.is_retryable(ExceptionGroup("", [LOST, ExceptionGroup("", [also])]))
    assert not retries.is_retryable(ExceptionGroup("", [LOST, ValueError()]))
    assert not retries.is_retryable(BaseExceptionGroup("", [LOST, KeyboardInterrupt()]))
    assert not retries.is_retryable(KeyboardInterrupt())
    assert list(leaves(ExceptionGroup("", [LOST, ExceptionGroup("", [also])]))) == [LOST, also]


async def test_another_predicate() -> None:
    asked: list[Exception] = []

    def always(exc: Exception) -> bool:
        asked.append(exc)
        return True

    retries = Retries(LONGEST, always)
    error = ValueError()
    assert retries.is_retryable(error)
    assert retries.is_retryable(ExceptionGroup("", [error, LOST]))
    assert not retries.is_retryable(SystemExit())
    assert asked == [error, error, LOST]
