"""Plots of the results of a run."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .measurements import LINEAR, MEASUREMENTS, Measurement
from .report import COLUMNS
from .results import Results, fit_line

mpl.use("Agg")

#: The measurements in the first plot.
BARS = (
    "echo-32",
    "echo-1k",
    "echo-64k",
    "echo-1m",
    "round-trip",
    "tls-64k",
    "client-32",
    "client-64k",
    "compressed",
    "handshakes",
    "memory",
    "fan-out",
)
OURS, OTHERS = "#1f6f8b", "#b8c4cc"
WIDTH, DPI = 11, 110


def short(value: float, _position: object = None) -> str:
    """Format a number for an axis."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def plot_bars(results: Results, path: Path) -> None:
    """Plot bars: one panel per main measurement, one bar per contender."""
    by_name = {each.name: each for each in MEASUREMENTS}
    shown = [by_name[name] for name in BARS if name in results.figures]
    rows = max(1, -(-len(shown) // 3))
    figure, axes = plt.subplots(rows, 3, figsize=(WIDTH, 2.1 * rows), squeeze=False)
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, measurement in zip(axes.flat, shown, strict=False):
        draw_bars(panel, results, measurement)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def draw_bars(panel: Axes, results: Results, measurement: Measurement) -> None:
    metric = measurement.metrics[0]
    medians = {each.name: results.median(measurement.name, each.name, metric.key) for each in COLUMNS}
    bars = {name: value * metric.factor for name, value in reversed(medians.items()) if value is not None}
    colours = [OURS if name.startswith("trio_ws") else OTHERS for name in bars]
    panel.barh(list(bars), list(bars.values()), color=colours)
    better = "" if metric.more_is_better else " (less is better)"
    kind = "client, " if measurement.name.startswith("client") else ""
    panel.set_title(f"{kind}{measurement.title}\n{metric.unit}{better}", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(FuncFormatter(short))
    panel.spines[["top", "right"]].set_visible(False)


def plot_lines(results: Results, path: Path) -> None:
    """Plot points and the straight lines through them: one panel per series."""
    shown = [each for each in MEASUREMENTS if each.section == LINEAR and each.name in results.figures]
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 7), squeeze=False)
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, measurement in zip(axes.flat, shown, strict=False):
        for contender, colour in zip(measurement.contenders, (OURS, "#d1495b"), strict=False):
            points = results.points(measurement.name, contender.name)
            if points:
                line = fit_line(points)
                xs, ys = zip(*points, strict=True)
                panel.plot(xs, [1000 * y for y in ys], "o", color=colour, label=contender.name)
                panel.plot(xs, [1000 * (line.base + line.slope * x) for x in xs], "-", color=colour, linewidth=1)
        panel.set_xlabel(measurement.title, fontsize=8)
        panel.set_ylabel("ms", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.legend(fontsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
