"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from . import before, machine, report, tls
from .chart import render_chart
from .contenders import BEFORE, Contender
from .measurements import MEASUREMENTS, Measurement, Scale
from .process import WorkerFailed
from .results import Results
from .worker import ROOT

#: The paths of the page, its plots, and the results of the last full run.
PAGE = ROOT / "docs" / "benchmarks.md"
PLOTS = ("_static/benchmarks.svg", "_static/benchmarks-lines.svg")
FIGURES = Path(__file__).parent / "results.json"
#: Files for the results of sections that are measured on their own, with all contenders.
SECTION_FIGURES = {"hostile": Path(__file__).parent / "hostile.json"}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements or sections, as patterns (default: all)")
    parser.add_argument("-c", "--contender", action="append", metavar="NAME", help="contenders, as patterns")
    parser.add_argument("--quick", action="store_true", help="one round of short turns, and fewer connections")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds (default: 5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long a turn measures (default: 0.3)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where to save the figures, as JSON")
    parser.add_argument("--page", action="store_true", help="write the page also when this is not a full run")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing; write the page from figures")
    parser.add_argument(
        "--judge", type=Path, nargs="+", metavar="FILE", help="compare figures of runs with the targets"
    )
    parser.add_argument("--list", action="store_true", help="list the measurements")
    options = parser.parse_args(arguments)
    for name in options.names:
        if not select(MEASUREMENTS, [name]):
            parser.error(f"there is no measurement {name!r}; see --list")
    return options


def select(measurements: Sequence[Measurement], names: Sequence[str]) -> list[Measurement]:
    """Return the measurements with these names; all of them without names."""
    return [each for each in measurements if not names or any(selects(name, each) for name in names)]


def selects(name: str, measurement: Measurement) -> bool:
    """Return whether a pattern matches the name of a measurement or of its section (``echo-server``)."""
    section = measurement.section.lower().replace(" ", "-")
    return fnmatchcase(measurement.name, name) or fnmatchcase(section, name)


def selected(contender: Contender, patterns: Sequence[str] | None) -> bool:
    return not patterns or any(fnmatchcase(contender.name, each) for each in patterns)


def take_part(contender: Contender, patterns: Sequence[str] | None) -> bool:
    return contender.installed and selected(contender, patterns)


def prepare(measurements: Sequence[Measurement], options: argparse.Namespace, results: Results) -> list[Measurement]:
    """Build the version before if necessary, and return the measurements that are possible on this machine.

    The results list the others, with the reasons.
    """
    able = []
    for measurement in measurements:
        obstacle = measurement.obstacle()
        if obstacle is None:
            able.append(measurement)
        else:
            skip(results, measurement.name, obstacle)
    if any(BEFORE in each.contenders for each in able) and selected(BEFORE, options.contender):
        try:
            before.build()
        except before.CannotBuild as exc:
            skip(results, BEFORE.name, str(exc))
    return able


def skip(results: Results, what: str, reason: str) -> None:
    print(f"{what}: skipped: {reason}", file=sys.stderr)
    results.skipped[what] = reason


def measure(measurements: Sequence[Measurement], options: argparse.Namespace, results: Results, scale: Scale) -> None:
    """Run the measurements in rounds. A contender that fails is skipped in that round."""
    for at, measurement in enumerate(measurements, 1):
        print(f"[{at}/{len(measurements)}] {measurement.name}", file=sys.stderr, flush=True)
        contenders = [each for each in measurement.contenders if take_part(each, options.contender)]
        for _ in range(min(results.rounds, measurement.most_rounds)):
            for contender in contenders:
                try:
                    results.add(measurement.name, contender.name, measurement.turn(contender, scale))
                except WorkerFailed as exc:
                    print(f"{measurement.name}: {contender.name}: {exc}", file=sys.stderr)


def write_page(results: Results) -> None:
    """Write the page and its plots."""
    from .plot import plot_lines  # imported late, because nothing else needs Matplotlib

    (PAGE.parent / "_static").mkdir(exist_ok=True)
    (PAGE.parent / PLOTS[0]).write_text(render_chart(results), encoding="utf-8")
    plot_lines(results, PAGE.parent / PLOTS[1])
    PAGE.write_text(report.render_page(results, PLOTS), encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    if options.list:
        for each in MEASUREMENTS:
            print(f"{each.name:20} {each.section}: {each.title}")
        return
    if options.render:
        write_page(Results.load(options.render))
        return
    if options.judge:
        print(report.to_text(report.targets_table([Results.load(each) for each in options.judge])))
        return
    rounds = options.rounds or (1 if options.quick else 5)
    seconds = options.seconds or (0.15 if options.quick else 0.3)
    full = not (options.names or options.contender or options.quick)
    idle = 500 if options.quick else 5000
    results = Results(datetime.date.today().isoformat(), machine.describe(), rounds, seconds, idle)
    with tempfile.TemporaryDirectory() as certificates:
        tls.make_certificates(Path(certificates))
        scale = Scale(
            seconds=seconds,
            idle=idle,
            imports=3 if options.quick else 5,
            quick=options.quick,
            certificates=certificates,
        )
        measure(prepare(select(MEASUREMENTS, options.names), options, results), options, results, scale)
    print(report.render_text(results))
    path = options.save or (FIGURES if full else None)
    if path is None and len(options.names) == 1 and not (options.contender or options.quick):
        path = SECTION_FIGURES.get(options.names[0])
    if path is not None:
        results.save(path)
    if options.page or full:
        write_page(results)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
