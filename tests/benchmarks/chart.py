"""Charts as SVG: of the main results, for README.md, the home page and the page about benchmarks; and of topics.

They are written by hand, and not by Matplotlib, because their text must be readable on a phone and in dark mode: the
pictures are narrow, and their colours are those of the reader's system. They have a background of their own, so they
are also readable on a page that is light on a dark system.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from .contenders import OURS
from .measurements import MEASUREMENTS
from .report import number
from .results import Results

#: The measurements, with their titles.
PANELS = {
    "echo-32": "Echo of 32 bytes, messages per second",
    "echo-64k": "Echo of 64 KiB, MB per second",
    "round-trip": "Round trip of 32 bytes, µs (less is better)",
    "handshakes": "Connections opened and closed per second",
    "memory": "Memory per idle connection, KiB (less is better)",
    "fan-out": "One message to 1,000 connections, times per second",
}
#: The libraries, with their event loops.
LOOPS = {
    "trio_ws": "Trio",
    "websockets trio": "Trio",
    "trio-websocket": "Trio",
    "picows": "asyncio",
    "aiohttp": "asyncio",
    "websockets asyncio": "asyncio",
}

WIDTH = 560
#: The x coordinate at which bars begin, and the length of the longest. Its figure needs the rest of the width.
LEFT, LONGEST = 186, 286
ROW, BAR = 23, 15

STYLE = """\
    rect.page { fill: #ffffff; stroke: #d0d7de }
    text { font: 15px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328 }
    .title { font-weight: bold; font-size: 16px }
    .label { text-anchor: end }
    .ours { fill: #1f6f8b }
    .Trio { fill: #a8651d }
    .asyncio { fill: #818b96 }
    @media (prefers-color-scheme: dark) {
      rect.page { fill: #16191d; stroke: #3d444d }
      text { fill: #e6edf3 }
      .ours { fill: #4cb4d4 }
      .Trio { fill: #d9a05b }
      .asyncio { fill: #7d8894 }
    }
"""


def render_chart(results: Results) -> str:
    """Return the chart: one panel for each measurement, with the best library first."""
    by_name = {each.name: each for each in MEASUREMENTS}
    parts: list[str] = []
    y = draw_legend(parts, 30)
    for name, title in PANELS.items():
        (metric, *_) = by_name[name].metrics
        medians = {library: results.median(name, library, metric.key) for library in LOOPS}
        values = {library: value * metric.factor for library, value in medians.items() if value is not None}
        if values:
            y = draw_panel(parts, y + 22, title, values, more_is_better=metric.more_is_better)
    return finish(parts, y + 8, "Benchmarks of WebSocket servers in Python")


def finish(parts: list[str], height: int, title: str) -> str:
    """Return the elements of a chart as an SVG document."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">'
    page = f'  <rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    heading = f'  <title id="title">{escape(title)}</title>'
    return "\n".join([head, heading, f"  <style>\n{STYLE}  </style>", page, *parts, "</svg>", ""])


def draw_legend(parts: list[str], y: int) -> int:
    """Add the legend. Return the y coordinate below it."""
    for x, kind, text in (
        (20, "ours", "trio_ws"),
        (130, "Trio", "other, on Trio"),
        (290, "asyncio", "other, on asyncio"),
    ):
        parts.append(f'  <rect class="{kind}" x="{x}" y="{y - 12}" width="{BAR}" height="{BAR}" rx="2"/>')
        parts.append(f'  <text x="{x + BAR + 8}" y="{y}">{text}</text>')
    return y


def draw_panel(parts: list[str], y: int, title: str, values: dict[str, float], *, more_is_better: bool) -> int:
    """Add a title and bars. Return the y coordinate below them."""
    y += 18
    parts.append(f'  <text class="title" x="20" y="{y}">{escape(title)}</text>')
    y += 10
    for library, value in sorted(values.items(), key=lambda item: item[1], reverse=more_is_better):
        kind = LOOPS[library] if library in LOOPS and library != OURS.name else "ours"
        length = max(1, round(LONGEST * value / max(values.values())))
        parts.append(f'  <text class="label" x="{LEFT - 8}" y="{y + 13}">{escape(library)}</text>')
        parts.append(f'  <rect class="{kind}" x="{LEFT}" y="{y}" width="{length}" height="{BAR}" rx="2"/>')
        parts.append(f'  <text x="{LEFT + length + 6}" y="{y + 13}">{number(value)}</text>')
        y += ROW
    return y
