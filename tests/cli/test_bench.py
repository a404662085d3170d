"""``trio-ws bench``, its histogram, and bars on a terminal."""

from __future__ import annotations

import io
import json
import math
import random
import re
import sys
from pathlib import Path

import pytest
import trio

import trio_ws
from trio_ws.cli import bench, plot, style
from trio_ws.cli.histogram import Histogram, format_seconds
from trio_ws.cli.main import _parser

from ..support import HANGS, echo
from .commands import HOST, Command, process, serving

# -- Histogram -------------------------------------------------------------------------------------------------------


def filled(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    return histogram


def test_percentiles() -> None:
    random.seed(1)
    durations = [random.lognormvariate(-8, 1) for _ in range(10_000)]
    histogram = filled(durations)
    durations.sort()
    summary = histogram.summary()
    assert (summary["min"], summary["max"]) == (durations[0], durations[-1])
    assert math.isclose(summary["mean"], sum(durations) / 10_000)
    for percent in (50, 90, 99, 99.9):
        exact = durations[math.ceil(10_000 * percent / 100) - 1]
        assert math.isclose(summary[f"p{percent}"], exact, rel_tol=0.0051)
    assert histogram.count == 10_000
    assert len(histogram.buckets) < 1000


def test_one_duration() -> None:
    assert set(filled([0.0123]).summary().values()) == {0.0123}
    with pytest.raises(ValueError, match="empty"):
        Histogram().percentile(50)


def test_histograms_can_be_added() -> None:
    one, two = filled([0.001, 0.002]), filled([0.004, 0.0005])
    both = filled([0.001, 0.002, 0.004, 0.0005])
    copy = Histogram.from_values(json.loads(json.dumps(list(two.values()))), two.summary())
    one.merge(copy)
    assert one.buckets == both.buckets
    assert one.summary() == pytest.approx(both.summary())


def test_chart() -> None:
    lines = filled([0.0011, 0.0012, 0.0012, 0.0014, 0.0021, 0.0029]).draw(None, width=8)
    assert lines == [
        " 1.00 ms .. 1.50 ms |########| 66.67%",
        " 1.50 ms .. 2.00 ms |        |  0.00%",
        " 2.00 ms .. 3.00 ms |####    | 33.33%",
    ]
    assert Histogram().draw(None) == []
    for seconds in (1e-9, 1e-6, 9.99e-6, 1e-3, 0.1, 0.7, 1.0, 7.0, 99.0):
        (line,) = filled([seconds]).draw(None)
        assert line.endswith("|100.00%")


def test_durations_for_people() -> None:
    seconds = [12, 1, 0.5, 0.0123, 0.001, 0.000999, 1.5e-6, 1e-9]
    shown = ["12.0 s", "1.00 s", "500 ms", "12.3 ms", "1.00 ms", "999 µs", "1.50 µs", "0.00 µs"]
    assert [format_seconds(value) for value in seconds] == shown


# -- Terminals -------------------------------------------------------------------------------------------------------


class FakeTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_bars() -> None:
    terminal = FakeTerminal()
    assert style.bar(0.5, 3, terminal) == "█▌ "
    assert [style.bar(fraction, 2, terminal) for fraction in (-1, 0, 1, 2)] == ["  ", "  ", "██", "██"]
    assert style.bar(0.5, 4, io.TextIOWrapper(io.BytesIO(), "ascii")) == "##  "
    assert style.bar(0.5, 4, None) == "##  "


def test_sizes_for_people() -> None:
    sizes = [0, 1023, 1024, 1536, 2**20, 2**30, 2**40]
    shown = ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 GiB", "1024.0 GiB"]
    assert [style.format_size(size) for size in sizes] == shown


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setattr(style, "INTERVAL", HANGS)
    terminal = FakeTerminal()
    progress = style.ProgressBar(terminal, 2048)
    progress.advance(1024)
    progress.advance(1)  # This comes too early to be shown.
    progress.advance(1023)
    progress.close()
    assert [part.partition("sent")[0] for part in terminal.getvalue().split("\r\x1b[K")] == [
        "",
        f"|{'█' * 15}{' ' * 15}|  50%  ",
        f"|{'█' * 30}| 100%  ",
        "",
    ]
    for stream in (io.StringIO(), None):
        progress = style.ProgressBar(stream, None)
        progress.advance(1)
        progress.close()
        assert stream is None or stream.getvalue() == ""


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = FakeTerminal()
    assert style.paint("x", "red", terminal) == "\x1b[31mx\x1b[0m"
    assert style.paint("x", "red", io.StringIO()) == style.paint("x", "red", None) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert style.paint("x", "red", terminal) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert style.paint("x", "red", terminal) == "x"
    monkeypatch.setenv("NO_COLOR", "")  # This counts as not set.
    assert style.paint("x", "red", terminal) != "x"


# -- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def until_enough(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let runs end when each connection has done some round trips, however long that takes. Return arguments for it."""
    round_trips = bench._round_trips

    async def some_round_trips(ws: trio_ws.WebSocket, message: str | bytes, window: int, histogram: Histogram) -> None:
        class Enough(Histogram):
            def add(self, seconds: float) -> None:
                super().add(seconds)
                if self.count == 20:
                    scope.cancel()

        own = Enough()
        with trio.CancelScope() as scope:
            await round_trips(ws, message, window, own)
        histogram.merge(own)

    monkeypatch.setattr(bench, "_round_trips", some_round_trips)
    return ["--duration", str(HANGS)]


@pytest.mark.parametrize("extra", [[], ["--window", "8"], ["--binary", "--compression"]])
def test_bench_json(extra: list[str], until_enough: list[str], command: Command) -> None:
    with serving(echo) as port:
        arguments = ["--size", "32,64K", "--connections", "2", "--json", *until_enough, *extra]
        result = command("bench", *arguments, f"ws://me:secret@{HOST}:{port}")
    assert (result.status, result.err) == (0, "")
    runs = [json.loads(line) for line in result.out.splitlines()]
    assert [run["size"] for run in runs] == [32, 65536]
    for run in runs:
        assert run["uri"] == f"ws://me:***@{HOST}:{port}"
        assert run["connections"] == 2
        assert 0 < run["seconds"] < HANGS
        assert run["messages"] == sum(count for _, count in run["histogram"]) > 0
        assert run["messages_per_second"] == pytest.approx(run["messages"] / run["seconds"])
        assert run["bytes_per_second"] == pytest.approx(run["messages_per_second"] * run["size"])
        times = [run["round_trip"][name] for name in ("min", "p50", "p90", "p99", "p99.9", "max")]
        assert times == sorted(times)
        assert run["busy"] > 0


def test_bench_for_people(until_enough: list[str], command: Command) -> None:
    with serving(echo) as port:
        result = command("bench", "--connections", "3", *until_enough, f"ws://{HOST}:{port}")
    lines = result.out.splitlines()
    assert result.status == 0
    assert re.fullmatch(r"32 bytes, 3 connections, \d+\.\d s", lines[0])
    assert [line.split()[0] for line in lines[1:3]] == ["throughput", "round"]
    assert lines[-1].startswith("  the bench itself used ")


def test_a_busy_bench_says_so() -> None:
    options = _parser().parse_args(["bench", "ws://example.org", "--processes", "2"])
    result = bench.Run(32, 1.0, 0.95, filled([0.001]))
    assert bench._describe(options, result)[-1] == (
        "  the bench itself used 95% of a processor in its busiest process:"
        " it may be the bottleneck, so try more --processes"
    )


def test_bench_with_processes() -> None:
    with serving(echo) as port:
        arguments = ["--duration=2", "--connections=3", "--processes=2", "--json", f"ws://{HOST}:{port}"]
        with process("bench", *arguments) as running:
            out, err = running.communicate(timeout=HANGS)
    assert (running.returncode, err) == (0, "")
    run = json.loads(out)
    assert (run["connections"], run["processes"]) == (3, 2)
    assert run["seconds"] >= 2
    assert run["messages"] == sum(count for _, count in run["histogram"]) > 0


def test_a_server_that_does_not_echo(command: Command) -> None:
    async def shout(ws: trio_ws.WebSocket) -> None:
        async for _ in ws:
            await ws.send("SOMETHING ELSE")

    async def leave(ws: trio_ws.WebSocket) -> None:
        await ws.receive()

    async def answer_too_much(ws: trio_ws.WebSocket) -> None:
        await ws.send("x" * 33)
        await ws.wait_closed()

    async def ignore(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()

    for handler, seconds, expected in (
        (shout, HANGS, "send each message back"),
        (leave, HANGS, "a connection was closed: received 1000"),
        (answer_too_much, HANGS, "a connection was closed: sent 1009"),
        (ignore, 0.1, "no message of 32 bytes"),
    ):
        with serving(handler) as port:
            result = command("bench", "--duration", str(seconds), f"ws://{HOST}:{port}")
        assert result.is_failure, result
        assert expected in result.err


def test_wrong_arguments(command: Command, tmp_path: Path) -> None:
    assert command("bench", "http://example.org").is_wrong_usage
    assert command("bench", "--processes", "11", "ws://example.org").is_wrong_usage
    assert command("bench", "--plot", str(tmp_path / "missing" / "x.png"), "ws://example.org").is_wrong_usage


def test_plot_without_matplotlib(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = command("bench", "--plot", "x.png", "ws://example.org")
    assert result.is_failure, result
    assert "matplotlib" in result.err


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are optional, and it is too large for the tests")
    file = tmp_path / "plot.png"
    plot.plot(str(file), [(32, filled([0.001, 0.002, 0.003])), (65536, filled([0.004, 0.1]))])
    assert file.read_bytes().startswith(b"\x89PNG")
