"""A histogram of durations, with percentiles.

Its buckets grow by 1 %, so that it needs little memory for any number of durations, and percentiles are off by at most
half a percent. Histograms of several processes can be added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO

from .style import bar

__all__ = ["PERCENTILES", "Histogram", "format_seconds"]

#: The percentiles that are reported.
PERCENTILES = (50.0, 90.0, 99.0, 99.9)

#: Buckets per factor e.
_FINENESS = 1 / math.log(1.01)

#: The bounds of the bars in a decade.
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


class Histogram:
    """Counts of durations in seconds, which must be positive.

    Attributes:
        buckets: The counts, by the index of the bucket.
        shortest: The shortest duration; infinity if there is none.
        longest: The longest duration; 0 if there is none.
        total: The sum of the durations.
    """

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.shortest: float = math.inf
        self.longest: float = 0.0
        self.total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.buckets[round(math.log(seconds) * _FINENESS)] += 1
        self.total += seconds
        if seconds < self.shortest:
            self.shortest = seconds
        if seconds > self.longest:
            self.longest = seconds

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self.buckets.update(other.buckets)
        self.total += other.total
        self.shortest = min(self.shortest, other.shortest)
        self.longest = max(self.longest, other.longest)

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.buckets.values())

    @property
    def mean(self) -> float:
        """The mean duration; there must be one."""
        return self.total / self.count

    def percentile(self, percent: float) -> float:
        """Return the duration that this percentage of all durations do not exceed; there must be one."""
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= rank:
                break
        else:
            raise ValueError("the histogram must not be empty")
        return min(max(math.exp(index / _FINENESS), self.shortest), self.longest)

    def summary(self) -> dict[str, float]:
        """Return the shortest, mean and longest duration and the percentiles, in seconds; there must be a duration."""
        percentiles = {f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES}
        return {"min": self.shortest, "mean": self.mean, **percentiles, "max": self.longest}

    def values(self) -> Iterator[tuple[float, int]]:
        """Yield the durations in the middle of the buckets, ascending, and their counts."""
        for index in sorted(self.buckets):
            yield math.exp(index / _FINENESS), self.buckets[index]

    def draw(self, stream: TextIO | None, width: int = 40) -> list[str]:
        """Return the lines of a bar chart.

        Args:
            stream: The stream that the lines are for, which decides about the characters.
            width: The width of the longest bar.
        """
        rows: Counter[int] = Counter()
        for seconds, count in self.values():
            rows[_row(seconds)] += count
        lines = []
        for row in range(min(rows), max(rows) + 1) if rows else ():
            shown = bar(rows[row] / max(rows.values()), width, stream)
            share = rows[row] / self.count
            lines.append(
                f"{format_seconds(_bound(row)):>8} .. {format_seconds(_bound(row + 1)):<8}|{shown}|{share:7.2%}"
            )
        return lines

    @classmethod
    def from_values(cls, values: Iterable[tuple[float, int]], summary: Mapping[str, float]) -> Histogram:
        """Return the histogram that had these :meth:`values` and this :meth:`summary`."""
        histogram = cls()
        for seconds, count in values:
            histogram.buckets[round(math.log(seconds) * _FINENESS)] += count
        histogram.shortest, histogram.longest = summary["min"], summary["max"]
        histogram.total = summary["mean"] * histogram.count
        return histogram


def _bound(row: int) -> float:
    """Return the lower bound of a row of the bar chart, in seconds."""
    decade, step = divmod(row, len(_STEPS))
    return float(f"{_STEPS[step]}e{decade}")


def _row(seconds: float) -> int:
    """Return the row of the bar chart for a duration."""
    row = math.floor(math.log10(seconds)) * len(_STEPS)
    while _bound(row) > seconds:
        row -= 1
    while _bound(row + 1) <= seconds:
        row += 1
    return row


def format_seconds(seconds: float) -> str:
    """Return a duration for people, with two or three digits and a unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor or unit == "µs":
            break
    number = seconds / factor
    return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2}f} {unit}"
