"""The figures of a run as tables: as text, and as the Markdown page of the documentation."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .contenders import BEFORE, LIBRARIES, OURS, RAW, WEBSOCKETS_TRIO, ZLIB, Contender
from .instructions import IN_FLIGHT
from .measurements import INSTRUCTIONS, LINEAR, MEASUREMENTS, Measurement, Metric
from .results import Results, fit_line
from .targets import TARGETS

#: In the order of the columns.
COLUMNS = (*LIBRARIES[:2], ZLIB, BEFORE, *LIBRARIES[2:], RAW)
#: Those with a table of medians and one of ratios.
SECTIONS = tuple(dict.fromkeys(each.section for each in MEASUREMENTS if each.section not in (LINEAR, INSTRUCTIONS)))


class Table(NamedTuple):
    """A table, whose first row is the header, and how many of its columns are words. The others are numbers."""

    title: str
    rows: list[list[str]]
    words: int = 1


# -- Tables --------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Return a number with about three digits."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def advantage(results: Results, measurement: Measurement, metric: Metric, contender: Contender) -> float | None:
    """Return how many times better we are than a contender."""
    pair = (OURS.name, contender.name) if metric.more_is_better else (contender.name, OURS.name)
    return results.ratio(measurement.name, metric.key, *pair)


def section_tables(results: Results, section: str) -> Iterator[Table]:
    """Yield the medians, and the ratios, of the measurements in a section that were made."""
    measurements = [each for each in MEASUREMENTS if each.section == section and each.name in results.figures]
    columns = [each for each in COLUMNS if any(each.name in results.figures[one.name] for one in measurements)]
    rows = [(measurement, metric) for measurement in measurements for metric in measurement.metrics]
    if not rows:
        return
    header = [section, *(each.name for each in columns)]
    medians, ratios = [header], [header]
    for measurement, metric in rows:
        label = f"{measurement.title}, {metric.unit}"
        values = [results.median(measurement.name, each.name, metric.key) for each in columns]
        if not any(values):
            continue  # the figures are those of an earlier run, which did not measure this
        medians.append([label, *(number(None if value is None else value * metric.factor) for value in values)])
        ratios.append([label, *(number(advantage(results, measurement, metric, each)) for each in columns)])
    yield Table("Medians", medians)
    if OURS in columns and len(columns) > 1:
        yield Table("How many times better trio_ws is", ratios)


def instructions_table(results: Results) -> Table:
    """Return the instructions that were counted, next to those of raw Trio and of websockets on Trio."""
    rows = [["Instructions of the server", "Of", "Thousands", f"× {RAW.name}", f"× {WEBSOCKETS_TRIO.name}"]]
    for measurement in MEASUREMENTS:
        for contender in measurement.contenders if measurement.section == INSTRUCTIONS else ():
            (metric,) = measurement.metrics
            value = results.median(measurement.name, contender.name, metric.key)
            if value is not None:
                ratios = (
                    results.ratio(measurement.name, metric.key, contender.name, each.name)
                    for each in (RAW, WEBSOCKETS_TRIO)
                )
                figures = [f"{value * metric.factor:,.0f}", *map(number, ratios)]
                rows.append([measurement.title, contender.name, *figures])
    return Table("Instructions", rows, words=2)


def targets_table(runs: Sequence[Results]) -> Table:
    """Return the targets that were measured, with the medians over the runs."""
    rows = [["Target", "Required", "Before", "Reached", "Met"]]
    for target in TARGETS:
        required, before, reached, met = target.judge(runs)
        if before is not None or reached is not None:
            verdict = "–" if met is None else "yes" if met else "no"
            rows.append([target.title, required, before or "–", reached or "–", verdict])
    return Table("Targets", rows, words=2)


def lines_table(results: Results) -> Table:
    """Return the lines that were measured: what one more costs, and how straight they are."""
    rows = [["Time by …", "Of", "Least", "Most", "µs for one more", "Fit"]]
    for measurement in MEASUREMENTS:
        for contender in measurement.contenders if measurement.section == LINEAR else ():
            points = results.points(measurement.name, contender.name)
            if points:
                line = fit_line(points)
                ends = (f"{x:,.0f}: {number(y * 1000)} ms" for x, y in (points[0], points[-1]))
                rows.append([measurement.title, contender.name, *ends, f"{line.slope * 1e6:.4g}", f"{line.fit:.4f}"])
    return Table("Straight lines", rows, words=2)


# -- Text ----------------------------------------------------------------------------------------------------------


def to_text(table: Table) -> str:
    """Return a table in columns. Words in the header that would widen them go one below the other."""
    header, *rows = table.rows
    words = [header[0:1], *(name.split() for name in header[1:])]
    height = max(map(len, words))
    heads = [[column[at] if at < len(column) else "" for column in words] for at in range(height)]
    widths = [max(map(len, column)) for column in zip(*heads, *rows, strict=True)]
    rule = ["=" * width for width in widths]
    justify = [str.ljust if at < table.words else str.rjust for at in range(len(header))]
    lines = [
        "  ".join(each(cell, width) for each, cell, width in zip(justify, row, widths, strict=True)).rstrip()
        for row in (*heads, rule, *rows)
    ]
    return "\n".join([table.title, "", *lines, ""])


def render_text(results: Results) -> str:
    """Return everything that was measured, for a terminal."""
    tables = [table for section in SECTIONS for table in section_tables(results, section)]
    others = (instructions_table(results), lines_table(results), targets_table([results]))
    tables += [table for table in others if len(table.rows) > 1]
    machine = [f"{key}: {value}" for key, value in results.machine.items()]
    skipped = [f"{what}: skipped: {reason}" for what, reason in results.skipped.items()]
    return "\n".join([*machine, *skipped, "", *map(to_text, tables)])


# -- Markdown ------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """Return a table in Markdown, with numbers to the right."""
    header, *rows = table.rows
    rule = ["---" if at < table.words else "--:" for at in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows)) + "\n"


def description(contender: Contender) -> str:
    """Return what the module of a contender says about it, without importing it."""
    path = Path(__file__).parent / "contenders" / f"{contender.module}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    return " ".join(docstring.split()).replace("``", "`")


def bullets(items: Sequence[str]) -> str:
    return "".join(f"- {item}\n" for item in items)


INTRODUCTION = """\
# Benchmarks

How fast the library is, next to others. This page is made by `nox -s bench`, which anybody can run; it takes about
half an hour. Only figures of one run can be compared with each other, and only their ratios mean anything
elsewhere. What the library is meant to reach is in [Why it is fast](performance.rst).
"""

METHOD = """\
## How it is measured

All contenders do the same work, each in a process of its own, started for each turn. They take turns: each has one in
every round, so that a machine that is busy for a while is busy for all. The figures are medians over the rounds.

- **Servers** are given their work by one load generator: a process with raw sockets, which knows no library. It has
  made all frames before the clock starts. For the pipelined echo it has at most 64 KiB on the way, or two messages if
  that is more. It counts the bytes that come back, and compares the first and the last echo with what was sent.
- **Clients** work with one raw echo server, which looks into nothing and answers each frame with one that it has made
  before. One task sends and another receives, with as much on the way as above.
- **Round trip**: one message at a time. The table has the median and the 99th percentile.
- **CPU**: processor time of the server, user and system, by the number of messages that it echoes.
- **Instructions**: what the server executes for one operation, as Valgrind's callgrind counts it, without those of the
  kernel. They depend neither on the machine's speed nor on how busy it is. The server is warmed up; a short and a long
  run are counted, and the difference of the counts is divided by that of the lengths. It is about fifty times slower
  under callgrind, so timers of a library have another meaning than in life. {in_flight} messages of 64 KiB are on the
  way at most. Connections are opened one after the other, and the Close frame comes when the server sleeps. Raw Trio
  answers the opening handshake and the Close frame by hand, and checks nothing. Keepalive pings are 20 seconds apart
  where there are any, which is the default of trio_ws and of websockets.
- **Compressed**: 256 different messages that look like a feed of market data and chat, again and again. The server
  negotiates what it wants. The first echo of each is decompressed and compared.
- **Opened and closed**: four clients at a time connect, do the opening handshake, send a Close frame, and wait for the
  server to hang up.
- **Memory**: what the private pages of the server grow by, when {idle:,} more connections are opened; with
  compression, after one message of 1 KiB in either direction and 6 seconds without any. In these, trio_ws and
  websockets send keepalive pings, 2 seconds apart: with each, trio_ws puts its compressor away. Equal parameters are
  those that websockets has by
  default: a window of 12 bits and `memLevel` 5.
- **TLS**: the load generator is as busy as the fastest servers here. They may be faster than it can show.
- **One message to 1,000 connections**: until all have received it; then the next.
- **Import**: how long it takes after Trio, or asyncio, was imported, and with the bytecode that Python has kept.

Messages are ASCII. Servers listen on the loopback interface. But for memory with compression, keepalive pings
are off; limits of size are out of the way, and compression is off but where it is measured. Everything else is left as
it is by default:
"""

EXPLANATION = """\
The second table of each kind says how many times better `trio_ws` is: above 1 it is faster than the other, or needs
less. `trio_ws pure` is the same without its compiled code, `trio_ws zlib` the same without zlib-ng, `{before}` this
library as it was at that commit. Raw Trio sends back bytes as they come; what it does is an echo only where messages
are large, or come one at a time.
"""

LINES = """\
## Straight lines

What costs grow with. Each line should be straight: ten times as much takes ten times as long, whatever a peer sends.
The fit says how straight it is: it is the coefficient of determination, 1 for points that all lie on the line.
"""


def render_page(results: Results, plots: Sequence[str]) -> str:
    """Return the page of the documentation.

    Args:
        results: The figures.
        plots: The paths of the plots, seen from the page: that of the figures, and that of the lines.
    """
    machine = [f"{key}: {value}" for key, value in results.machine.items()]
    parts = [
        INTRODUCTION,
        f"This one was made on {results.date}, in {results.rounds} rounds of {results.seconds:g} s, on this machine:\n",
        bullets(machine),
        "## Figures\n",
        f"![The figures as bars]({plots[0]})\n",
        EXPLANATION.format(before=BEFORE.name),
    ]
    if results.skipped:
        # The reasons may have several lines, those of a program that has failed.
        reasons = [f"{what}: {' '.join(reason.split())}" for what, reason in results.skipped.items()]
        parts += ["Not measured:\n", bullets(reasons)]
    for section in SECTIONS:
        tables = list(section_tables(results, section))
        if tables:
            parts.append(f"### {section}\n")
            for table in tables:
                parts += [f"{table.title}:\n", to_markdown(table)]
    table = instructions_table(results)
    if len(table.rows) > 1:
        parts += [f"### {table.title}\n", to_markdown(table)]
    parts += [LINES, f"![Time by size, fragments, reads and connections]({plots[1]})\n"]
    parts += [to_markdown(lines_table(results)), METHOD.format(idle=results.idle, in_flight=IN_FLIGHT)]
    contenders = dict.fromkeys(each.module for each in COLUMNS)
    parts.append(bullets([description(next(each for each in COLUMNS if each.module == name)) for name in contenders]))
    return "\n".join(parts)
