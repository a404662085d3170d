"""The raw results of a run, and their statistics."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that this percentage of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass
class Results:
    """The results of a run.

    Attributes:
        date: The date of the run.
        machine: The machine, and the versions of the libraries, in the order in which to show them.
        rounds: Maximum number of rounds.
        seconds: Duration of each measurement.
        idle: Number of idle connections for measuring memory.
        skipped: The reasons for skipped measurements.
        figures: The values of each round, by measurement, contender and metric.
    """

    date: str
    machine: dict[str, str]
    rounds: int
    seconds: float
    idle: int
    skipped: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, measurement: str, contender: str, values: dict[str, float]) -> None:
        """Add the results of one round."""
        metrics = self.figures.setdefault(measurement, {}).setdefault(contender, {})
        for metric, value in values.items():
            metrics.setdefault(metric, []).append(value)

    def median(self, measurement: str, contender: str, metric: str) -> float | None:
        """Return the median over the rounds; None if it was not measured."""
        values = self.figures.get(measurement, {}).get(contender, {}).get(metric)
        return statistics.median(values) if values else None

    def ratio(self, measurement: str, metric: str, one: str, other: str) -> float | None:
        """Return the median of a contender divided by that of another one; None if either is missing."""
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
    """A straight line, and how well it fits some points; 1 is an exact fit."""

    base: float
    slope: float
    fit: float


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Fit a line by least squares. Return it with its coefficient of determination."""
    xs, ys = zip(*points, strict=True)
    slope, base = statistics.linear_regression(xs, ys)
    total = math.fsum((y - statistics.fmean(ys)) ** 2 for y in ys)
    left = math.fsum((y - base - slope * x) ** 2 for x, y in points)
    return Line(base, slope, 1 - left / total if total else 1.0)
