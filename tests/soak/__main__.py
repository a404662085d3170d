"""The soak test: ``nox -s soak``. Hundreds of clients and a server for a long time, in one process.

It fails if a message is not as it was sent, if a task raises an exception, or if memory, descriptors or tasks grow.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import logging
import os
import platform
import random
import sys
import time
from functools import partial
from pathlib import Path

import attrs
import trio

import trio_ws
from trio_ws.protocol import hot

from .clients import TIMEOUTS, Load, serve_echo
from .samples import Sample, judge, take_sample

MIB = 1024 * 1024


class Errors(logging.Handler):
    """Collects what the library logs as an error, such as a handler that has raised an exception."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@attrs.define
class Result:
    """The result of a run.

    Attributes:
        seconds: How long it took.
        busy: The processor time that it took, in seconds. It is less if the machine was busy with other work.
        clients: The number of clients at a time.
        load: What they did.
        samples: Samples under load.
        faults: What was wrong.
    """

    seconds: float
    busy: float
    clients: int
    load: Load
    samples: list[Sample]
    faults: list[str]


async def soak(seconds: float, clients: int, seed: int, lives: int | None = None, interval: float = 1.0) -> Result:
    """Run clients and a server.

    Args:
        seconds: How long.
        clients: The number of clients at a time.
        seed: Of all random decisions.
        lives: The number of connections after which it ends earlier; None for no such limit.
        interval: Seconds between two samples.
    """
    errors = Errors()
    logger = logging.getLogger("trio_ws")
    logger.addHandler(errors)
    samples: list[Sample] = []
    # Trio opens descriptors when it first needs them, for example for threads.
    await trio.to_thread.run_sync(bool)
    begin, busy = trio.current_time(), time.process_time()
    try:
        async with trio.open_nursery() as nursery:
            idle = take_sample()
            server = await nursery.start(partial(trio_ws.serve, serve_echo, 0, host="127.0.0.1", **TIMEOUTS))
            load = Load(server.port, random.Random(seed), lives=lives)
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as tasks:

                    async def sample() -> None:
                        while True:
                            await trio.sleep(interval)
                            samples.append(take_sample())

                    async with trio.open_nursery() as running:
                        tasks.start_soon(sample)
                        for _ in range(clients):
                            running.start_soon(load.run_client)
                    tasks.cancel_scope.cancel()
            # Every client has left. When the last handler has returned, so does serve().
            await server.drain(timeout=60)
            gc.collect()
            faults = judge(idle, samples, take_sample())
            nursery.cancel_scope.cancel()
    finally:
        logger.removeHandler(errors)
    seconds, busy = trio.current_time() - begin, time.process_time() - busy
    return Result(seconds, busy, clients, load, samples, faults + errors.lines)


def report(result: Result) -> str:
    """Return the page for the documentation, as Markdown."""
    counts = result.load.counts
    quarter = max(1, len(result.samples) // 4)
    first, last = result.samples[quarter : 2 * quarter] or result.samples, result.samples[-quarter:]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processor cores"
    compiled = "compiled" if hot.COMPILED else "pure Python"
    versions = f"trio_ws {trio_ws.__version__} ({compiled}), Trio {trio.__version__}, "
    versions += f"CPython {platform.python_version()}"

    def most(name: str, samples: list[Sample], unit: int = 1) -> str:
        return f"{max((getattr(sample, name) for sample in samples), default=0) / unit:,.0f}"

    rows = [
        ("connections", counts["connections"]),
        ("of these, compressed", counts["compressed"]),
        ("messages, there and back", counts["messages"]),
        ("of these, text", counts["text"]),
        ("of these, in parts", counts["in parts"]),
        ("MiB, there and back", counts["bytes"] // MIB),
        ("pings", counts["pings"]),
        ("cancelled `send` and `receive`", counts["cancelled calls"]),
        ("connections left by the client: `aclose`, end of the block", counts["close"] + counts["return"]),
        ("cancelled connections", counts["cancel"]),
        ("connections reset by the client", counts["abort"]),
        ("connections closed by the server", counts["be_closed"]),
        ("connections reset by the server", counts["be_aborted"]),
        ("TCP connections that did not become WebSockets", counts["strangers"]),
    ]
    lines = [
        "# Soak test",
        "",
        "`nox -s soak` runs a server and hundreds of clients in one process, for ten minutes, or for an hour with",
        "`-- --long`. The clients connect over TCP, exchange messages and leave, in every way, again and again.",
        "Each message has a checksum, which the server verifies before it answers; the client compares the answer",
        "with the message. The test fails if a message is not as it was sent, if a task raises an exception, or if",
        "memory, file descriptors or tasks grow.",
        "",
        f"The last run, on {datetime.date.today():%d %B %Y}: {result.clients} clients at a time, for",
        f"{result.seconds:,.0f} seconds, of which the process had a processor for {result.busy:,.0f}; {versions};",
        f"{machine}.",
        "",
        "| | number |",
        "|---|--:|",
        *(f"| {name} | {number:,} |" for name, number in rows),
        "",
        "The most in use during a quarter of the run:",
        "",
        "| | second quarter | last quarter |",
        "|---|--:|--:|",
        f"| memory, MiB | {most('memory', first, MIB)} | {most('memory', last, MIB)} |",
        f"| file descriptors | {most('descriptors', first)} | {most('descriptors', last)} |",
        f"| tasks | {most('tasks', first)} | {most('tasks', last)} |",
        "",
        "Afterwards, there were as many descriptors and tasks as before the first connection.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long it runs (default: 600)")
    parser.add_argument("--long", action="store_const", const=3600.0, dest="seconds", help="an hour")
    parser.add_argument("--clients", type=int, default=200, help="clients at a time (default: 200)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random decisions")
    parser.add_argument("--save", type=Path, help="write the figures into this page")
    options = parser.parse_args()
    print(f"{options.clients} clients for {options.seconds:g} seconds, seed {options.seed}", flush=True)
    result = trio.run(soak, options.seconds, options.clients, options.seed)
    print(report(result).partition("\n\n")[2])
    for fault in result.faults:
        print(f"FAULT: {fault}")
    if not result.faults and options.save:
        options.save.write_text(report(result), encoding="utf-8")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
