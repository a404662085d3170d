"""The soak test itself: a short run, and the verdict on samples."""

from __future__ import annotations

import random
import sys

import pytest
import trio

from ..support import HANGS
from .__main__ import report, soak
from .clients import Corrupt, Load, add_checksum, check
from .samples import Sample, judge

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

IDLE = Sample(memory=50_000_000, descriptors=10, tasks=5)


async def test_a_short_run() -> None:
    # No samples under load: for a few seconds, ten clients are sometimes busy, and sometimes not.
    result = await soak(300, clients=10, seed=1, lives=60, interval=1000)
    assert result.faults == []
    counts = result.load.counts
    assert counts["strangers"] + counts["connections"] == 60
    endings = ("return", "close", "abort", "cancel", "be_closed", "be_aborted")
    assert sum(counts[name] for name in endings) == counts["connections"]
    assert counts["messages"] > 60
    assert "| messages, there and back |" in report(result)
    result.samples.extend([IDLE, IDLE])
    assert "| tasks | 5 | 5 |" in report(result)


def test_flat() -> None:
    load = [Sample(60_000_000 + 1000 * number, 200, 600) for number in range(20)]
    assert judge(IDLE, load, IDLE) == []
    assert judge(IDLE, [], IDLE) == []


@pytest.mark.parametrize("name", ["memory", "descriptors", "tasks"])
def test_growth_is_found(name: str) -> None:
    load = []
    for number in range(20):
        values = {"memory": 60_000_000, "descriptors": 200, "tasks": 600}
        values[name] += values[name] * number // 30
        load.append(Sample(**values))
    (fault,) = judge(IDLE, load, IDLE)
    assert fault.startswith(f"{name} grew from ")


def test_what_is_left_is_found() -> None:
    assert judge(IDLE, [], Sample(IDLE.memory, 11, 7)) == [
        "11 descriptors are open, 10 before",
        "7 tasks are left, 5 before",
    ]


def test_checksums() -> None:
    check(add_checksum(b"hello"))
    for wrong in (b"", b"hello", add_checksum(b"hello")[:-1], add_checksum(b"hello").replace(b"h", b"j")):
        with pytest.raises(Corrupt):
            check(wrong)
    load = Load(0, random.Random(1))
    for _ in range(100):
        message = load.message()
        check(message.encode() if isinstance(message, str) else message)
    with pytest.raises(Corrupt):
        load.compare("a", "b")


async def test_an_error_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Load) -> None:
        raise Corrupt("for the test")

    monkeypatch.setattr(Load, "run_client", fail)
    with pytest.raises((Corrupt, BaseExceptionGroup)):
        with trio.fail_after(HANGS):
            await soak(300, clients=1, seed=1)
