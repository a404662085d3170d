"""What the library is to reach, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .contenders import AIOHTTP, OURS, PICOWS, PURE, RAW, WEBSOCKETS_TRIO, ZLIB, Contender
from .job import KIB
from .results import Results


class Verdict(NamedTuple):
    """What has come of a target. None: it was not measured."""

    required: str
    reached: str | None
    met: bool | None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A limit for a figure of ours, or for how many times the figure of another contender it is.

    Attributes:
        title: What it is about.
        measurement: The measurement.
        metric: The metric.
        at_least: The lower limit.
        at_most: The upper limit.
        of: The other contender; None for a limit that stands by itself.
        ours: Which of ours.
        factor: What a figure is multiplied with, to be in the unit.
        unit: The unit of a limit that stands by itself.
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

    def judge(self, results: Results) -> Verdict:
        """Compare the target with what was measured."""
        limit = self.at_least if self.at_most is None else self.at_most
        required = f"{'at most' if self.at_least is None else 'at least'} {limit:g} {self.unit}"
        if self.of is None:
            value = results.median(self.measurement, self.ours.name, self.metric)
        else:
            required += f" {self.of.name}"
            value = results.ratio(self.measurement, self.metric, self.ours.name, self.of.name)
        if value is None:
            return Verdict(required, None, None)
        value *= self.factor
        met = (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
        return Verdict(required, f"{value:.2f} {self.unit}" if value < 10 else f"{value:.1f} {self.unit}", met)


TARGETS = (
    *(
        Target(title=f"pipelined echo, {label}", measurement=f"echo-{key}", at_least=limit, of=other)
        for key, label in (("32", "32 B"), ("1k", "1 KiB"))
        for other, limit in ((PICOWS, 1.1), (WEBSOCKETS_TRIO, 15))
    ),
    *(
        Target(
            title=f"pipelined echo, {label}, without compiled code",
            measurement=f"echo-{key}",
            at_least=6,
            of=WEBSOCKETS_TRIO,
            ours=PURE,
        )
        for key, label in (("32", "32 B"), ("1k", "1 KiB"))
    ),
    *(
        Target(title="round trip, 32 B", measurement="round-trip", metric="median", at_most=limit, of=other)
        for other, limit in ((RAW, 1.2), (AIOHTTP, 1))
    ),
    *(
        Target(title=f"pipelined echo, {label}", measurement=f"echo-{key}", at_least=limit, of=other)
        for key, label in (("64k", "64 KiB"), ("1m", "1 MiB"))
        for other, limit in ((PICOWS, 0.9), (WEBSOCKETS_TRIO, 2.5))
    ),
    Target(title="TLS echo, 64 KiB", measurement="tls-64k", at_least=0.9, of=RAW),
    Target(title="compressed JSON, 1 KiB", measurement="compressed", at_least=3, of=WEBSOCKETS_TRIO),
    Target(
        title="compressed JSON, 1 KiB: bytes on the wire",
        measurement="compressed",
        metric="wire",
        at_most=1.1,
        of=WEBSOCKETS_TRIO,
    ),
    Target(title="connections opened and closed", measurement="handshakes", at_least=2, of=WEBSOCKETS_TRIO),
    Target(
        title="memory per idle connection",
        measurement="memory",
        metric="memory",
        at_most=16,
        factor=1 / KIB,
        unit="KiB",
    ),
    *(
        Target(
            title=f"memory per idle connection, compressed, equal parameters, {back_end}",
            measurement="memory-compressed",
            metric="memory",
            at_most=1,
            of=WEBSOCKETS_TRIO,
            ours=ours,
        )
        for back_end, ours in (("zlib-ng", OURS), ("zlib", ZLIB))
    ),
    Target(title="one message to 1,000 connections", measurement="fan-out", at_least=8, of=WEBSOCKETS_TRIO),
    Target(
        title="import of trio_ws after trio", measurement="import", metric="seconds", at_most=60, factor=1000, unit="ms"
    ),
)
