"""Unit tests of the limits of one connection, on a virtual clock. The limits of a server are tested in server/."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from trio_ws.connection.limits import NO_LIMITS, ConnectionLimits, RateLimiter
from trio_ws.exceptions import TooManyMessages

# -- Rate ------------------------------------------------------------------------------------------------------------


async def test_so_many_at_once(mock_clock: MockClock) -> None:
    limiter = RateLimiter(5)
    assert [limiter.take(1) for _ in range(6)] == [True] * 5 + [False]


async def test_many_count_as_many(mock_clock: MockClock) -> None:
    limiter = RateLimiter(5)
    assert limiter.take(4)
    assert not limiter.take(2)
    assert not RateLimiter(5).take(6)
    assert RateLimiter(5).take(5)


async def test_so_many_per_second(mock_clock: MockClock) -> None:
    limiter = RateLimiter(10)
    assert limiter.take(10)
    for _ in range(100):
        mock_clock.jump(0.5)
        assert limiter.take(5)
    assert not limiter.take(1)


async def test_the_burst_is_bounded(mock_clock: MockClock) -> None:
    limiter = RateLimiter(10)
    mock_clock.jump(1000)
    assert limiter.take(10)
    assert not limiter.take(1)


@pytest.mark.parametrize("limit", [0.25, 1])
async def test_one_message_is_always_allowed_after_a_while(limit: float, mock_clock: MockClock) -> None:
    limiter = RateLimiter(limit)
    for _ in range(5):
        assert limiter.take(1)
        mock_clock.jump(1 / limit)
    assert limiter.take(1)
    mock_clock.jump(0.5 / limit)
    assert not limiter.take(1)


# -- All limits ------------------------------------------------------------------------------------------------------


async def test_without_limits(mock_clock: MockClock) -> None:
    for limits in (NO_LIMITS, ConnectionLimits(None, None, None)):
        limits.record_sent()
        limits.record_received()
        assert limits.check_frames(10**9) is None
        assert limits.deadline() == math.inf
        mock_clock.jump(10**6)
        assert limits.expiry_reason() is None


async def test_rate(mock_clock: MockClock) -> None:
    limits = ConnectionLimits(2, None, None)
    assert limits.check_frames(2) is None
    mock_clock.jump(0.5)
    assert limits.check_frames(1) is None
    violation = limits.check_frames(1)
    assert isinstance(violation, TooManyMessages)
    assert violation.limit == 2
    assert violation.code == 1008


async def test_lifetime(mock_clock: MockClock) -> None:
    mock_clock.jump(100)
    limits = ConnectionLimits(None, None, 60)
    assert limits.deadline() == trio.current_time() + 60
    mock_clock.jump(59)
    limits.record_sent()
    limits.record_received()
    assert limits.expiry_reason() is None
    mock_clock.jump(1)
    assert limits.deadline() == trio.current_time()
    assert limits.expiry_reason() == "open for too long"


@pytest.mark.parametrize("way", ["in", "out"])
async def test_idle(way: str, mock_clock: MockClock) -> None:
    limits = ConnectionLimits(None, 10, None)
    for _ in range(5):
        mock_clock.jump(9)
        assert limits.expiry_reason() is None
        if way == "in":
            limits.record_received()
        else:
            limits.record_sent()
        assert limits.deadline() == trio.current_time() + 10
    mock_clock.jump(10)
    assert limits.expiry_reason() == "idle for too long"


async def test_the_first_limit_counts(mock_clock: MockClock) -> None:
    limits = ConnectionLimits(None, 10, 15)
    assert limits.deadline() == trio.current_time() + 10
    mock_clock.jump(8)
    limits.record_sent()
    assert limits.deadline() == trio.current_time() + 7
    mock_clock.jump(7)
    assert limits.expiry_reason() == "open for too long"
