"""The plot of the lines that should be straight, as SVG with the colours of the reader's system."""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .measurements import LINEAR, MEASUREMENTS
from .results import Results, fit_line

mpl.use("Agg")

INK, PAPER = "#010203", "#040506"  # placeholders: the SVG has variables in their place
OURS, OTHERS = "#2b88a8", "#d1495b"
#: Size of the picture in inches. It is narrow, so that its text is readable on a phone.
WIDTH, HEIGHT = 6.4, 12.8

#: The colours of a light and of a dark page.
STYLE = """<style>
:root { --ink: #1f2328; --paper: #ffffff }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #16191d } }
</style>"""

mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "trio_ws",
        "font.family": "sans-serif",
        "font.size": 11,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), PAPER),
    }
)


def plot_lines(results: Results, path: Path) -> None:
    """Plot points and the straight lines through them: one panel per series."""
    shown = [each for each in MEASUREMENTS if each.section == LINEAR and each.name in results.figures]
    figure, axes = plt.subplots(max(1, len(shown)), 1, figsize=(WIDTH, HEIGHT), squeeze=False)
    for panel, measurement in zip(axes.flat, shown, strict=False):
        for contender, colour in zip(measurement.contenders, (OURS, OTHERS), strict=False):
            points = results.points(measurement.name, contender.name)
            if points:
                line = fit_line(points)
                xs, ys = zip(*points, strict=True)
                panel.plot(xs, [1000 * y for y in ys], "o", color=colour, label=contender.name)
                panel.plot(xs, [1000 * (line.base + line.slope * x) for x in xs], "-", color=colour, linewidth=1)
        panel.set_xlabel(measurement.title)
        panel.set_ylabel("ms")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.legend()
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    picture = buffer.getvalue().replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    path.write_text(re.sub(r"(<svg [^>]*>)", rf"\1\n{STYLE}", picture, count=1), encoding="utf-8")
