"""The performance targets, and whether they are met. ``docs/performance.rst`` has the same list, with explanations."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .contenders import AIOHTTP, BEFORE, OURS, PICOWS, PURE, RAW, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO, ZLIB, Contender
from .job import KIB
from .results import Results


class Verdict(NamedTuple):
    """The result of a target. Values that were not measured are None.

    Attributes:
        required: The limit.
        before: The value of the version before.
        reached: The measured value.
        met: Whether the value is within the limit.
    """

    required: str
    before: str | None
    reached: str | None
    met: bool | None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A limit for one of our figures, or for its ratio to the figure of another contender.

    Attributes:
        title: The title in the table.
        measurement: The measurement.
        metric: The metric.
        at_least: The lower limit.
        at_most: The upper limit.
        of: The other contender; None for an absolute limit.
        ours: The name of our contender.
        factor: The factor that converts a figure to the unit.
        unit: The unit of an absolute limit.
    """

    title: str
    measurement: str
    metric: str = "rate"
    at_least: float | None = None
    at_most: float | None = None
    of: Contender | None = None
    ours: Contender = OURS
    factor: float = 1.0
    unit: str = "×"

    def judge(self, runs: Sequence[Results]) -> Verdict:
        """Compare the target with the median over the runs."""
        limit = self.at_least if self.at_most is None else self.at_most
        required = f"{'at most' if self.at_least is None else 'at least'} {limit:g} {self.unit}"
        if self.of is not None:
            required += f" {self.of.name}"
        before = self._value(runs, BEFORE) if self.ours is OURS and self.of is not BEFORE else None
        value = self._value(runs, self.ours)
        if value is None:
            return Verdict(required, self._show(before), None, None)
        met = (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
        return Verdict(required, self._show(before), self._show(value), met)

    def _value(self, runs: Sequence[Results], contender: Contender) -> float | None:
        if self.of is None:
            values = [each.median(self.measurement, contender.name, self.metric) for each in runs]
        else:
            # Compute ratios within each run, because the speed of the machine varies between runs.
            values = [each.ratio(self.measurement, self.metric, contender.name, self.of.name) for each in runs]
        measured = [each for each in values if each is not None]
        return statistics.median(measured) * self.factor if measured else None

    def _show(self, value: float | None) -> str | None:
        if value is None:
            return None
        return f"{value:.2f} {self.unit}" if value < 10 else f"{value:.1f} {self.unit}"


def of_speed() -> Iterator[Target]:
    """Yield the targets for speed and memory without TLS and compression."""
    for key, title in (("roundtrip", "as soon as the server sleeps"), ("paused", "when the server has slept")):
        yield Target(
            title=f"round trip, 32 B, sent {title}, instructions",
            measurement=f"instructions-{key}",
            metric="instructions",
            at_most=1.15,
            of=RAW,
        )
    for other, limit in ((BEFORE, 1.15), (AIOHTTP, 1)):
        yield Target(title="round trip, 32 B", measurement="round-trip", metric="median", at_most=limit, of=other)
    for key, label in (("32", "32 B"), ("1k", "1 KiB")):
        for other, limit in ((PICOWS, 1.3), (BEFORE, 0.9)):
            yield Target(title=f"pipelined echo, {label}", measurement=f"echo-{key}", at_least=limit, of=other)
        yield Target(
            title=f"pipelined echo, {label}, without compiled code",
            measurement=f"echo-{key}",
            at_least=6,
            of=WEBSOCKETS_TRIO,
            ours=PURE,
        )
    yield Target(title="pipelined echo, 64 KiB", measurement="echo-64k", at_least=0.95, of=BEFORE)
    yield Target(
        title="pipelined echo, 64 KiB, instructions",
        measurement="instructions-pipelined",
        metric="instructions",
        at_most=1.2,
        of=RAW,
    )
    yield Target(title="pipelined echo, 1 MiB, processor time", measurement="echo-1m", metric="cpu", at_most=1, of=RAW)
    for key, title in (("opening", ""), ("opening-keepalive", ", with keepalive pings")):
        yield Target(
            title=f"connections opened and closed{title}, instructions",
            measurement=f"instructions-{key}",
            metric="instructions",
            at_most=0.75,
            of=WEBSOCKETS_TRIO,
        )
    yield Target(title="one message to 1,000 connections", measurement="fan-out", at_least=9, of=WEBSOCKETS_TRIO)
    yield Target(
        title="one message to many connections, for each, instructions",
        measurement="instructions-broadcast",
        metric="instructions",
        at_most=1,
        of=WEBSOCKETS_ASYNCIO,
    )
    for key, title, limit in (("memory", "", 16), ("memory-keepalive", ", with keepalive pings", 17)):
        yield Target(
            title=f"memory per idle connection{title}",
            measurement=key,
            metric="memory",
            at_most=limit,
            factor=1 / KIB,
            unit="KiB",
        )


def of_extras() -> Iterator[Target]:
    """Yield the targets for TLS, compression and imports."""
    yield Target(title="TLS echo, 64 KiB", measurement="tls-64k", at_least=0.9, of=RAW)
    yield Target(title="compressed JSON, 1 KiB", measurement="compressed", at_least=3, of=WEBSOCKETS_TRIO)
    yield Target(
        title="compressed JSON, 1 KiB: bytes on the wire",
        measurement="compressed",
        metric="wire",
        at_most=1.1,
        of=WEBSOCKETS_TRIO,
    )
    for back_end, ours in (("zlib-ng", OURS), ("zlib", ZLIB)):
        yield Target(
            title=f"memory per idle connection, compressed, equal parameters, {back_end}",
            measurement="memory-compressed",
            metric="memory",
            at_most=1,
            of=WEBSOCKETS_TRIO,
            ours=ours,
        )
        for count in (400, 1000):
            yield Target(
                title=f"memory per connection after a message, {count:,} connections, compressed, {back_end}",
                measurement=f"memory-compressed-{count}",
                metric="memory",
                at_most=1,
                of=WEBSOCKETS_TRIO,
                ours=ours,
            )
    yield Target(
        title="compressed JSON, 1 KiB, round trip, instructions",
        measurement="instructions-compressed",
        metric="instructions",
        at_most=1.1,
        of=WEBSOCKETS_ASYNCIO,
    )
    yield Target(
        title="a program that only imports trio_ws, instructions",
        measurement="instructions-import",
        metric="instructions",
        at_most=1.25,
        of=RAW,
    )
    yield Target(
        title="import of trio_ws after trio", measurement="import", metric="seconds", at_most=60, factor=1000, unit="ms"
    )


TARGETS = (*of_speed(), *of_extras())
