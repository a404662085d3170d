"""Unit tests of the limits of one connection, on a virtual clock. The limits of a server are tested in server/."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from trio_ws.connection.limits import NO_LIMITS, ConnectionLimits, RateLimiter
from trio_ws.exceptions import TooManyMessages
from trio_ws.protocol import LastPart, Message

# -- Rate ------------------------------------------------------------------------------------------------------------


async def test_so_many_at_once(mock_clock: MockClock) -> None:
    limiter = RateLimiter(5)
    assert [limiter.take(1) for _ in range(7)] == [0] * 5 + [1, 2]


async def test_many_count_as_many(mock_clock: MockClock) -> None:
    limiter = RateLimiter(5)
    assert limiter.take(4) == 0
    assert limiter.take(2) == 1
    assert RateLimiter(5).take(8) == 3
    assert RateLimiter(5).take(5) == 0


async def test_so_many_per_second(mock_clock: MockClock) -> None:
    limiter = RateLimiter(10)
    assert limiter.take(10) == 0
    for _ in range(100):
        mock_clock.jump(0.5)
        assert limiter.take(5) == 0
    assert limiter.take(1) == 1


async def test_the_burst_is_bounded(mock_clock: MockClock) -> None:
    limiter = RateLimiter(10)
    mock_clock.jump(1000)
    assert limiter.take(10) == 0
    assert limiter.take(1) == 1


@pytest.mark.parametrize("limit", [0.25, 1])
async def test_one_message_is_always_allowed_after_a_while(limit: float, mock_clock: MockClock) -> None:
    limiter = RateLimiter(limit)
    for _ in range(5):
        assert limiter.take(1) == 0
        mock_clock.jump(1 / limit)
    assert limiter.take(1) == 0
    mock_clock.jump(0.5 / limit)
    assert limiter.take(1) == 1


# -- All limits ------------------------------------------------------------------------------------------------------


async def test_without_limits(mock_clock: MockClock) -> None:
    for limits in (NO_LIMITS, ConnectionLimits(None, None, None)):
        limits.record_sent()
        limits.record_received()
        assert limits.check_frames(10**9, []) is None
        assert limits.deadline() == math.inf
        mock_clock.jump(10**6)
        assert limits.expiry_reason() is None


async def test_rate(mock_clock: MockClock) -> None:
    limits = ConnectionLimits(2, None, None)
    assert limits.check_frames(2, ["a", "b"]) is None
    mock_clock.jump(0.5)
    assert limits.check_frames(1, ["a"]) is None
    violation = limits.check_frames(1, [])
    assert isinstance(violation, TooManyMessages)
    assert violation.limit == 2
    assert violation.code == 1008


async def test_messages_beyond_the_rate_are_removed(mock_clock: MockClock) -> None:
    items: list[Message | LastPart] = ["a", "b", "c", "d"]
    assert ConnectionLimits(3, None, None).check_frames(4, items) is not None
    assert items == ["a", "b", "c"]
    # Fragments and control frames count, too.
    assert ConnectionLimits(3, None, None).check_frames(5, items) is not None
    assert items == ["a"]
    assert ConnectionLimits(3, None, None).check_frames(100, items) is not None
    assert items == []


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
