"""Tables of the results of a run: as text, and as the Markdown page of the documentation."""

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

#: The contenders, in the order of the columns.
COLUMNS = (*LIBRARIES[:2], ZLIB, BEFORE, *LIBRARIES[2:], RAW)
#: Sections with a table of medians and a table of ratios.
SECTIONS = tuple(dict.fromkeys(each.section for each in MEASUREMENTS if each.section not in (LINEAR, INSTRUCTIONS)))


class Table(NamedTuple):
    """A table, with its header as the first row, and the number of its leading text columns. The others are numbers."""

    title: str
    rows: list[list[str]]
    words: int = 1


# -- Tables --------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Format a number with about three digits."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def advantage(results: Results, measurement: Measurement, metric: Metric, contender: Contender) -> float | None:
    """Return the factor by which we are better than a contender."""
    pair = (OURS.name, contender.name) if metric.more_is_better else (contender.name, OURS.name)
    return results.ratio(measurement.name, metric.key, *pair)


def section_tables(results: Results, section: str) -> Iterator[Table]:
    """Yield the tables of medians and ratios of a section, as far as it was measured."""
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
            continue  # the results are from an earlier run, without this measurement
        medians.append([label, *(number(None if value is None else value * metric.factor) for value in values)])
        ratios.append([label, *(number(advantage(results, measurement, metric, each)) for each in columns)])
    yield Table("Medians", medians)
    if OURS in columns and len(columns) > 1:
        yield Table("Ratios (above 1, trio_ws is better)", ratios)


def instructions_table(results: Results) -> Table:
    """Return the table of instructions, compared with raw Trio and with websockets on Trio."""
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
    """Return the table of measured targets, with the medians over the runs."""
    rows = [["Target", "Required", "Before", "Reached", "Met"]]
    for target in TARGETS:
        required, before, reached, met = target.judge(runs)
        if before is not None or reached is not None:
            verdict = "–" if met is None else "yes" if met else "no"
            rows.append([target.title, required, before or "–", reached or "–", verdict])
    return Table("Targets", rows, words=2)


def lines_table(results: Results) -> Table:
    """Return the table of measured lines: their slope and their linearity."""
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
    """Format a table in columns. Wide headers are wrapped."""
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
    """Return all results, for a terminal."""
    tables = [table for section in SECTIONS for table in section_tables(results, section)]
    others = (instructions_table(results), lines_table(results), targets_table([results]))
    tables += [table for table in others if len(table.rows) > 1]
    machine = [f"{key}: {value}" for key, value in results.machine.items()]
    skipped = [f"{what}: skipped: {reason}" for what, reason in results.skipped.items()]
    return "\n".join([*machine, *skipped, "", *map(to_text, tables)])


# -- Markdown ------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """Format a table in Markdown, with numbers on the right."""
    header, *rows = table.rows
    rule = ["---" if at < table.words else "--:" for at in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows)) + "\n"


def description(contender: Contender) -> str:
    """Return the docstring of a contender's module, without importing it."""
    path = Path(__file__).parent / "contenders" / f"{contender.module}.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    return " ".join(docstring.split()).replace("``", "`")


def bullets(items: Sequence[str]) -> str:
    return "".join(f"- {item}\n" for item in items)


INTRODUCTION = """\
# Benchmarks

The speed of a server, compared with other libraries. The tables below have all figures, those of clients too.
"""

ORIGIN = """\
`nox -s bench` creates this page in about half an hour, and anybody can run it. Compare only figures of the same run. On
other machines only the ratios are meaningful. The targets of the library are in [Performance](performance.rst).
"""

METHOD = """\
## Method

All contenders do the same work. Each runs in its own process, which is started anew for each measurement. The
contenders take turns in every round, so that a temporary load on the machine affects all of them. The figures are
medians over the rounds.

- **Servers** get their load from one generator: a process with raw sockets that uses no library. It has created all
  frames before the clock starts. In the pipelined echo, at most 64 KiB are in flight, or two messages if that is more.
  It counts the bytes that come back, and compares the first and the last echo with what was sent.
- **Clients** connect to one raw echo server, which does not parse anything and answers each frame with a prepared one.
  One task sends and another receives, with the same amount in flight as above.
- **Round trip**: one message at a time. The table has the median and the 99th percentile.
- **CPU**: user and system processor time of the server, divided by the number of messages that it echoes.
- **Instructions**: the number of instructions that the server executes for one operation, as counted by Valgrind's
  callgrind, without those of the kernel. They do not depend on the speed or the load of the machine. The server is
  warmed up; a short and a long run are counted, and the difference of the counts is divided by the difference of the
  lengths. Programs run about fifty times slower under callgrind, so the timers of a library expire earlier relative to
  its work. At most {in_flight} messages of 64 KiB are in flight. Connections are opened one after the other, and the
  Close frame arrives when the server sleeps. Raw Trio answers the opening handshake and the Close frame with fixed
  code, and checks nothing. Keepalive pings, if any, are 20 seconds apart, which is the default of trio_ws and
  websockets.
- **Compressed**: 256 different messages that resemble a feed of market data and chat, repeated. The server negotiates
  its own settings. The first echo of each message is decompressed and compared.
- **Opened and closed**: four clients at a time connect, do the opening handshake, send a Close frame, and wait for the
  server to close the stream.
- **Memory**: the growth of the private pages of the server when {idle:,} more connections are opened. With compression,
  this is measured after one message of 1 KiB in each direction and 6 seconds without messages. In that time, trio_ws
  and websockets send keepalive pings, 2 seconds apart; trio_ws frees its compressor with each of them. Equal parameters
  are the defaults of websockets: a window of 12 bits and `memLevel` 5.
- **Hostile**: the processor time of a server for about 1 MB of small frames on one connection. Then three connections
  send such frames as fast as the server reads them, and another client sends one ping at a time. There are no limits on
  rates or fragments.
- **TLS**: the load generator is as busy as the fastest servers. They may be faster than it can show.
- **One message to 1,000 connections**: the next message is sent when all connections have received the one before.
- **Import**: the time of the import after Trio or asyncio was imported, with cached bytecode.

Messages are ASCII. Servers listen on the loopback interface. Keepalive pings are off, except for memory with
compression. Size limits are disabled, and compression is off unless it is measured. All other settings are the
defaults:
"""

EXPLANATION = """\
The second table of each pair has ratios: above 1, `trio_ws` is faster than the other contender, or needs less.
`trio_ws pure` is trio_ws without its compiled code, `trio_ws zlib` is trio_ws without zlib-ng, and `{before}` is an
earlier commit. Raw Trio sends bytes back as they arrive. It is only comparable if messages are large or are sent one at
a time.
"""

LINES = """\
## Scaling

Each of these lines should be straight: ten times as much takes ten times as long, whatever a peer sends. The fit is the
coefficient of determination, which is 1 if all points are exactly on a line.
"""


def render_page(results: Results, plots: Sequence[str]) -> str:
    """Return the page of the documentation.

    Args:
        results: The results.
        plots: The paths of the two pictures, relative to the page: the chart, and the lines.
    """
    machine = [f"{key}: {value}" for key, value in results.machine.items()]
    parts = [
        INTRODUCTION,
        f"![The most important figures as bars]({plots[0]})\n",
        ORIGIN,
        f"Measured on {results.date}, in {results.rounds} rounds of {results.seconds:g} s, on this machine:\n",
        bullets(machine),
        "## Figures\n",
        EXPLANATION.format(before=BEFORE.name),
    ]
    if results.skipped:
        # A reason may be the output of a failed program, with several lines.
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
