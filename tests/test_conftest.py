"""Tests of conftest.py: skipped tests in CI, and the tests that sessions of nox leave out."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio.testing

from trio_ws.connection import core

from . import conftest
from .support import HANGS


def skipped(reason: str) -> pytest.TestReport:
    return pytest.TestReport("test", ("file", 1, "test"), {}, "skipped", ("file", 1, f"Skipped: {reason}"), "call")


def test_where_nothing_may_be_missing_a_skipped_test_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "NO_SKIPS", True)
    report = conftest._reject_skips(skipped("haproxy is not installed"))
    assert report.outcome == "failed"
    assert "haproxy is not installed" in str(report.longrepr)
    for reason in ("zlib-ng is not installed", "the guide is about aiohttp 3.14, not 3.10"):
        assert conftest._reject_skips(skipped(reason)).outcome == "skipped"
    expected_failure = skipped("reason")
    expected_failure.wasxfail = "reason"
    assert conftest._reject_skips(expected_failure).outcome == "skipped"


def test_elsewhere_tests_may_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "NO_SKIPS", False)
    assert conftest._reject_skips(skipped("haproxy is not installed")).outcome == "skipped"


def test_places_that_are_left_out_exist() -> None:
    for name in conftest.HARNESSES | conftest.SLOW:
        assert list(Path(__file__).parent.rglob(name)), name


async def test_nothing_is_cut_short_in_real_time() -> None:
    for module, name in conftest.SHORT_LIMITS:
        assert getattr(module, name) == HANGS


async def test_limits_are_in_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    assert core.GOODBYE_TIMEOUT == 0.1
