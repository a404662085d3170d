"""Drawing the round trips of ``trio-ws bench`` with matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .failure import Failure, WrongUsage, one_line
from .histogram import Histogram
from .style import format_size

__all__ = ["check_plot", "plot"]


def check_plot(path: str) -> None:
    """Check that a plot can be drawn, which is better known before the measurement.

    Raises:
        Failure: If matplotlib is not installed.
        WrongUsage: If the folder of the file does not exist.
    """
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise WrongUsage(f"cannot write {path}: its folder does not exist")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as exc:
        raise Failure("--plot needs matplotlib: pip install matplotlib") from exc


def plot(path: str, runs: Sequence[tuple[int, Histogram]]) -> None:
    """Draw the share of messages that returned within a time, one curve for each message size.

    Args:
        path: The file to write. Its suffix selects the format.
        runs: The message sizes in bytes, and the round trips.

    Raises:
        Failure: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for size, histogram in runs:
        milliseconds, shares = [histogram.shortest * 1000], [0.0]
        seen = 0
        for seconds, count in histogram.values():
            seen += count
            milliseconds.append(seconds * 1000)
            shares.append(100 * seen / histogram.count)
        axes.plot(milliseconds, shares, drawstyle="steps-post", label=format_size(size))
    axes.set(xscale="log", xlabel="round trip in ms", ylabel="share of messages in %", ylim=(0, 100))
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(title="message size")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as exc:
        raise Failure(f"cannot write {path}: {one_line(exc)}") from exc
