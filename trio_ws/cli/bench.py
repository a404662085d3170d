"""``trio-ws bench``: round trips to an echo server.

Each connection has ``--window`` messages under way and sends another when one has returned, so the load adapts to the
server (a closed loop): a server that stalls gets no more messages, and a stall counts once for each message under way.

The bench must not be the bottleneck of what it measures. Its loop is one task per connection that does nothing but
receive, count and send. It reports how much of a processor it has used, and warns when that was nearly all:
``--processes`` spreads the connections over several processes, each of which runs this module and prints its counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import ssl
import sys
import time
from collections import deque
from typing import Any

import attrs
import trio

from ..client.connect import connect
from ..client.connecting import Connecting
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed
from ..exceptions.shown import hide_passwords
from .failure import Failure, WrongUsage, one_line
from .histogram import Histogram, format_seconds
from .plot import check_plot, plot
from .style import StatusLine, bar, format_size, paint
from .workers import run_workers

__all__ = ["Run", "run"]

#: The share of a processor above which the bench may limit the results.
BUSY = 0.9

#: Seconds between two updates of the progress.
PROGRESS_INTERVAL = 0.2

#: Bytes that a connection may have for a message besides its payload.
_OVERHEAD = 1024


@attrs.define
class Run:
    """The result of one run.

    Attributes:
        size: The size of the messages in bytes.
        seconds: The duration of the run, from the first message on.
        busy: The highest share of a processor that one process of the bench has used; 1.0 is one whole processor.
        histogram: The round trips.
    """

    size: int
    seconds: float = 0.0
    busy: float = 0.0
    histogram: Histogram = attrs.field(factory=Histogram)

    def merge(self, other: Run) -> None:
        """Add the result of another process."""
        self.seconds = max(self.seconds, other.seconds)
        self.busy = max(self.busy, other.busy)
        self.histogram.merge(other.histogram)


async def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    if options.plot is not None:
        check_plot(options.plot)
    if options.processes > options.connections:
        raise WrongUsage("--processes must not exceed --connections")
    _connect(options, 0)  # Raise for wrong arguments now.
    runs = []
    for size in options.size:
        result = Run(size)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show_progress, options, result)
            if options.processes == 1:
                await _measure(options, result)
            else:
                for output in await run_workers(options, size):
                    result.merge(_from_json(output))
            nursery.cancel_scope.cancel()
        if not result.histogram.count:
            raise Failure(f"no message of {size} bytes has returned within {options.duration:g} seconds")
        runs.append(result)
        if options.json:
            print(json.dumps(_to_json(options, result)), flush=True)
        else:
            print("\n".join(_describe(options, result)), flush=True)
    if options.plot is not None:
        await trio.to_thread.run_sync(plot, options.plot, [(result.size, result.histogram) for result in runs])
    return 0


# -- Measuring -------------------------------------------------------------------------------------------------------


async def _measure(options: argparse.Namespace, result: Run) -> None:
    """Open the connections, and then measure round trips for the duration of a run."""
    message: str | bytes = b"x" * result.size if options.binary else "x" * result.size
    async with contextlib.AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(_connect(options, result.size)) for _ in range(options.connections)
        ]
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with trio.move_on_after(options.duration):
                async with trio.open_nursery() as nursery:
                    for ws in connections:
                        nursery.start_soon(_round_trips, ws, message, options.window, result.histogram)
        finally:
            result.seconds = time.perf_counter() - wall
            result.busy = (time.process_time() - cpu) / result.seconds


async def _round_trips(ws: WebSocket, message: str | bytes, window: int, histogram: Histogram) -> None:
    """Send messages, and another one for each that returns, until cancelled."""
    clock = time.perf_counter
    try:
        sent: deque[float] = deque()
        for _ in range(window):
            sent.append(clock())
            await ws.send(message)
        if await ws.receive() != message:
            raise Failure("the server must send each message back: this one has sent something else")
        while True:
            now = clock()
            histogram.add(now - sent.popleft())
            sent.append(now)
            await ws.send(message)
            await ws.receive()
    except ConnectionClosed as exc:
        raise Failure(f"a connection was closed: {one_line(exc)}") from exc


def _connect(options: argparse.Namespace, size: int) -> Connecting:
    arguments: dict[str, Any] = {
        "compression": "deflate" if options.compression else None,
        "max_message_size": size,
        # There is room for all messages under way, so send() never waits for the server: while it did, nothing would
        # be received.
        "send_buffer": (size + _OVERHEAD) * options.window,
    }
    if options.insecure and options.uri.lower().startswith("wss:"):
        arguments["ssl"] = ssl.create_default_context()
        arguments["ssl"].check_hostname = False
        arguments["ssl"].verify_mode = ssl.CERT_NONE
    try:
        return connect(options.uri, **arguments)
    except ValueError as exc:
        raise WrongUsage(str(exc)) from exc


# -- Reporting -------------------------------------------------------------------------------------------------------


async def _show_progress(options: argparse.Namespace, result: Run) -> None:
    """Show the progress on a terminal until cancelled."""
    line = StatusLine(sys.stderr)
    start = time.monotonic()
    try:
        while True:
            await trio.sleep(PROGRESS_INTERVAL)
            elapsed = min(time.monotonic() - start, options.duration)
            count = result.histogram.count  # Those of other processes are not known yet.
            messages = f", {count:,} messages, {count / elapsed:,.0f}/s" if count else ""
            shown = bar(elapsed / options.duration, 30, sys.stderr)
            line.update(f"|{shown}| {elapsed:.1f} s of {options.duration:g} s{messages}", now=True)
    finally:
        line.clear()


def _describe(options: argparse.Namespace, result: Run) -> list[str]:
    """Return the lines of a report."""
    histogram = result.histogram
    rate = histogram.count / result.seconds
    window = f", {options.window} messages under way on each" if options.window > 1 else ""
    heading = f"{result.size:,} bytes, {options.connections} connections{window}, {result.seconds:.1f} s"
    times = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in histogram.summary().items())
    lines = [
        paint(heading, "cyan", sys.stdout),
        f"  throughput  {rate:,.0f} messages/s, {format_size(rate * result.size)}/s in each direction",
        f"  round trip  {times}",
        *(f"  {line}" for line in histogram.draw(sys.stdout)),
    ]
    busy = f"  the bench itself used {result.busy:.0%} of a processor"
    if options.processes > 1:
        busy += " in its busiest process"
    if result.busy >= BUSY:
        busy = paint(f"{busy}: it may be the bottleneck, so try more --processes", "red", sys.stdout)
    return [*lines, busy]


def _to_json(options: argparse.Namespace, result: Run) -> dict[str, Any]:
    count = result.histogram.count
    return {
        "uri": hide_passwords(options.uri),
        "size": result.size,
        "connections": options.connections,
        "window": options.window,
        "processes": options.processes,
        "seconds": result.seconds,
        "messages": count,
        "messages_per_second": count / result.seconds,
        "bytes_per_second": count * result.size / result.seconds,
        "round_trip": result.histogram.summary(),
        "busy": result.busy,
        "histogram": list(result.histogram.values()),
    }


def _from_json(output: bytes) -> Run:
    """Return the result of another process."""
    value = json.loads(output)
    histogram = Histogram.from_values(value["histogram"], value["round_trip"])
    return Run(value["size"], value["seconds"], value["busy"], histogram)
