"""Figures: what a run has measured, kept as they came, and the statistics of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that so many percent of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass
class Results:
    """What a run has measured.

    Attributes:
        date: The day.
        machine: What the machine is, and the versions of what was measured, in the order in which to show them.
        rounds: How often each measurement was made, at most.
        seconds: How long each took.
        idle: How many connections were opened to see what they take.
        skipped: Why something was not measured, by what it is.
        figures: By measurement, contender and metric, a value for each round.
    """

    date: str
    machine: dict[str, str]
    rounds: int
    seconds: float
    idle: int
    skipped: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, measurement: str, contender: str, values: dict[str, float]) -> None:
        """Add what one round has measured."""
        metrics = self.figures.setdefault(measurement, {}).setdefault(contender, {})
        for metric, value in values.items():
            metrics.setdefault(metric, []).append(value)

    def median(self, measurement: str, contender: str, metric: str) -> float | None:
        """Return the median over the rounds; None if it was not measured."""
        values = self.figures.get(measurement, {}).get(contender, {}).get(metric)
        return statistics.median(values) if values else None

    def ratio(self, measurement: str, metric: str, one: str, other: str) -> float | None:
        """Return how many times the median of the other contender that of the one is; None if either is missing."""
        value, base = (self.median(measurement, contender, metric) for contender in (one, other))
        return None if value is None or not base else value / base

    def points(self, measurement: str, contender: str) -> list[tuple[float, float]]:
        """Return the medians of a measurement whose metrics are numbers, as points of a line."""
        metrics = self.figures.get(measurement, {}).get(contender, {})
        return sorted((float(metric), statistics.median(values)) for metric, values in metrics.items())

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Line(NamedTuple):
    """A straight line, and how well it goes through some points: 1 is exactly."""

    base: float
    slope: float
    fit: float


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Return the line with the least squares, and its coefficient of determination."""
    xs, ys = zip(*points, strict=True)
    slope, base = statistics.linear_regression(xs, ys)
    total = math.fsum((y - statistics.fmean(ys)) ** 2 for y in ys)
    left = math.fsum((y - base - slope * x) ** 2 for x, y in points)
    return Line(base, slope, 1 - left / total if total else 1.0)
