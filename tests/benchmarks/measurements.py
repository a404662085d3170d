"""All measurements: their names, their contenders, and the turn of one contender."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from . import hostile, instructions, linear, load
from .contenders import (
    AIOHTTP,
    BEFORE,
    LIBRARIES,
    OURS,
    PURE,
    RAW,
    WEBSOCKETS_ASYNCIO,
    WEBSOCKETS_TRIO,
    ZLIB,
    Contender,
)
from .job import KIB, MIB, Job
from .process import Process, WorkerFailed, run
from .worker import ROOT


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The amount of work in a run.

    Attributes:
        seconds: Duration of a turn.
        idle: Number of idle connections for measuring memory.
        imports: Number of imports of a module in a turn.
        quick: Whether to count instructions less exactly.
        certificates: A folder with certificates for TLS.
    """

    seconds: float
    idle: int
    imports: int
    quick: bool
    certificates: str


#: The result of a turn: a value for each metric.
Values: TypeAlias = "dict[str, float]"
Turn: TypeAlias = Callable[[Contender, Scale], Values]


@dataclass(frozen=True)
class Metric:
    """A value that a measurement returns, and its format.

    Attributes:
        key: The key in the results of turns.
        unit: The unit to show.
        factor: The factor that converts the value to the unit.
        more_is_better: Whether larger values are better.
    """

    key: str
    unit: str
    factor: float = 1.0
    more_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A measurement.

    Attributes:
        name: The name for the command line.
        section: The table with the measurement.
        title: The title in the table.
        metrics: Its metrics. Measurements of the points of a line have none.
        contenders: The measured libraries.
        turn: Measures one contender once.
        most_rounds: Maximum number of rounds.
        obstacle: Returns the reason why the measurement is not possible on this machine; None if it is.
    """

    name: str
    section: str
    title: str
    metrics: Sequence[Metric] = ()
    contenders: Sequence[Contender]
    turn: Turn
    most_rounds: int = 1_000_000
    obstacle: Callable[[], str | None] = lambda: None


#: Seconds in which a connection has come to rest. Those with compression have keepalive pings: with these, trio_ws
#: gives back memory.
REST = 6.0

SERVER, INSTRUCTIONS, CLIENT, COMPRESSION, CONNECTIONS, HOSTILE, IMPORTS, LINEAR = (
    "Echo server",
    "Instructions",
    "Client",
    "Compression",
    "Connections",
    "Hostile",
    "Import",
    "Linear",
)


# -- Turns ---------------------------------------------------------------------------------------------------------


def serve(contender: Contender, job: Job) -> Process:
    """Start the server of a contender."""
    return Process(f"contenders.{contender.module}", "serve", job, contender.environ)


def with_server(function: str, *, tls: bool = False, **parameters: Any) -> Turn:
    """Return a turn in which the load generator uses the server of a contender."""

    def turn(contender: Contender, scale: Scale) -> Values:
        job = Job(seconds=scale.seconds, raw=contender.raw, **parameters)
        if tls:
            job = replace(job, certificates=scale.certificates)
        with serve(contender, job) as server:
            job = replace(job, port=server.read("port"))
            load.probe(job)
            server.wait_until_asleep()
            before = server.ask("cpu")
            values: Values = run("load", function, job)
            server.wait_until_asleep()
            if "messages" in values:
                values["cpu"] = (server.ask("cpu") - before) / values["messages"]
        return values

    return turn


def with_client(**parameters: Any) -> Turn:
    """Return a turn in which the client of a contender uses the raw echo server."""

    def turn(contender: Contender, scale: Scale) -> Values:
        job = Job(seconds=scale.seconds, **parameters)
        with Process("echo_server", "serve", job) as server:
            job = replace(job, port=server.read("port"))
            values: Values = run(f"contenders.{contender.module}", "client", job, contender.environ)
        return values

    return turn


def idle(
    compression: str | None = None, ping_interval: float | None = None, *, rest: bool = True, count: int | None = None
) -> Turn:
    """Return a turn that opens connections, and measures the memory of the server for each.

    Args:
        compression: The parameters of compression. With compression, each connection echoes a message first.
        ping_interval: Seconds between keepalive pings, without compression.
        rest: Whether to wait until connections with compression have freed what they need for sending.
        count: Number of connections; None for that of the scale.
    """

    def turn(contender: Contender, scale: Scale) -> Values:
        # Without compression, idle connections free no memory.
        interval = ping_interval if compression is None or not rest else REST / 3
        connections = count or scale.idle
        job = Job(size=KIB, text=True, compression=compression, ping_interval=interval)
        with serve(contender, job) as server:
            job = replace(job, port=server.read("port"))
            # The first connections cause allocations that happen only once.
            with Process("load", "hold", replace(job, connections=100, compression=None)) as first:
                first.read("open")
                before = server.ask("memory")
                with Process("load", "hold", replace(job, connections=connections)) as load:
                    load.read("open")
                    if compression is not None and rest:
                        time.sleep(REST)  # connections free memory at their next ping, on the real clock
                    return {"memory": (server.ask("memory") - before) / connections}

    return turn


def under_attack(kind: str) -> Turn:
    """Return a turn in which hostile peers send small frames, which measures their cost and the effect on others."""

    def turn(contender: Contender, scale: Scale) -> Values:
        compression = "default" if hostile.KINDS[kind].compressed else None
        size = 256 * KIB if scale.quick else MIB
        # Long enough for several pings even if each takes a tenth of a second.
        job = Job(seconds=5 * scale.seconds, sink=True, kind=kind, size=size, compression=compression)
        with serve(contender, job) as server:
            job = replace(job, port=server.read("port"))
            load.probe(job)
            run("hostile", "send", replace(job, size=hostile.BATCH))
            server.wait_until_asleep()
            before = server.ask("cpu")
            sent = run("hostile", "send", job)["bytes"]
            server.wait_until_asleep()
            seconds = (server.ask("cpu") - before) / (sent / 1e6)
            with Process("hostile", "flood", job) as flood:
                flood.read("open")
                values: Values = run("hostile", "pings", job)
        return {"cpu": seconds, **values}

    return turn


def imports(contender: Contender, scale: Scale) -> Values:
    """Import a library in new processes, after its event loop library.

    Each has been imported before, so that its bytecode is there, as it is for everything that is installed. It would
    not be for what is installed in editable mode, where the environment forbids to write bytecode.
    """
    code = (
        f"import {contender.loop}; from time import perf_counter; start = perf_counter(); "
        f"import {contender.imports}; print(perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    times = []
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, **contender.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(1 + scale.imports):
            done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
            if done.returncode:
                raise WorkerFailed(done.stderr)
            times.append(float(done.stdout))
    return {"seconds": statistics.median(times[1:])}


def line_of(function: str, counts: Sequence[int], parameters: Callable[[int], Any]) -> Turn:
    """Return a turn that measures the points of a line: seconds of the load generator, by a parameter."""

    def turn(contender: Contender, scale: Scale) -> Values:
        values = {}
        with serve(contender, Job()) as server:
            port = server.read("port")
            for count in counts:
                job = Job(port=port, seconds=scale.seconds / 3, **parameters(count))
                values[str(count)] = run("load", function, job)["median"]
        return values

    return turn


def counted(row: instructions.Row) -> Turn:
    """Return a turn that counts the instructions of the server for one operation."""

    def turn(contender: Contender, scale: Scale) -> Values:
        if scale.quick:
            number, _ = instructions.count(contender, row.shortened(), repetitions=1)
        else:
            number, _ = instructions.count(contender, row)
        return {"instructions": number}

    return turn


def counted_import(contender: Contender, _: Scale) -> Values:
    """Count the instructions of a program that imports a library."""
    return {"instructions": instructions.count_import(contender)}


def reads(contender: Contender, scale: Scale) -> Values:
    """Measure the points of a line: seconds to parse a message, by the number of reads."""
    values: Values = run("linear", "reads", Job(seconds=scale.seconds / 3), contender.environ)
    return values


# -- The list ------------------------------------------------------------------------------------------------------

SIZES = {"32": (32, "32 B"), "1k": (KIB, "1 KiB"), "64k": (64 * KIB, "64 KiB"), "1m": (MIB, "1 MiB")}

ROUND_TRIP = (
    Metric("median", "µs, median", 1e6, more_is_better=False),
    Metric("p99", "µs, 99th percentile", 1e6, more_is_better=False),
)


#: All libraries, and the version before.
AND_BEFORE = (*LIBRARIES, BEFORE)


def throughput(size: int) -> Metric:
    """Return messages per second for small messages, and MB/s for large ones."""
    return Metric("rate", "messages/s") if size < 64 * KIB else Metric("rate", "MB/s", size / 1e6)


def of_server() -> Iterator[Measurement]:
    for (key, (size, label)), text in ((item, text) for text in (False, True) for item in SIZES.items()):
        metrics = [throughput(size)]
        if not text:
            metrics.append(Metric("cpu", "CPU µs per message", 1e6, more_is_better=False))
        libraries = LIBRARIES if text else AND_BEFORE
        yield Measurement(
            name=f"echo-{key}{'-text' if text else ''}",
            section=SERVER,
            title=f"{label} {'text' if text else 'binary'}",
            metrics=metrics,
            # For a byte stream, reads are not messages. For large messages the work is the same.
            contenders=libraries if size < 64 * KIB else (*libraries, RAW),
            turn=with_server("echo", size=size, text=text),
        )
    yield Measurement(
        name="round-trip",
        section=SERVER,
        title="round trip, 32 B",
        metrics=ROUND_TRIP,
        contenders=(*AND_BEFORE, RAW),
        turn=with_server("round_trip"),
    )
    yield Measurement(
        name="tls-64k",
        section=SERVER,
        title="TLS, 64 KiB",
        metrics=[throughput(64 * KIB)],
        contenders=(*LIBRARIES, RAW),
        turn=with_server("echo", tls=True, size=64 * KIB),
    )
    yield Measurement(
        name="tls-32",
        section=SERVER,
        title="TLS, 32 B",
        metrics=[throughput(32)],
        contenders=LIBRARIES,
        turn=with_server("echo", tls=True),
    )


def of_instructions() -> Iterator[Measurement]:
    for key, row in instructions.ROWS.items():
        yield Measurement(
            name=f"instructions-{key}",
            section=INSTRUCTIONS,
            title=row.title,
            metrics=[Metric("instructions", "thousands", 1e-3, more_is_better=False)],
            contenders=(OURS, *row.others),
            turn=counted(row),
            # The counts are repeated within each turn, and hardly vary.
            most_rounds=1,
            obstacle=instructions.missing,
        )
    yield Measurement(
        name="instructions-import",
        section=INSTRUCTIONS,
        title="a program that only imports the library",
        metrics=[Metric("instructions", "thousands", 1e-3, more_is_better=False)],
        contenders=(OURS, WEBSOCKETS_TRIO, WEBSOCKETS_ASYNCIO, RAW),
        turn=counted_import,
        most_rounds=1,
        obstacle=instructions.missing,
    )


def of_client() -> Iterator[Measurement]:
    for (key, (size, label)), text in ((item, text) for text in (False, True) for item in SIZES.items()):
        yield Measurement(
            name=f"client-{key}{'-text' if text else ''}",
            section=CLIENT,
            title=f"{label} {'text' if text else 'binary'}",
            metrics=[throughput(size)],
            contenders=LIBRARIES,
            turn=with_client(size=size, text=text),
        )
    yield Measurement(
        name="client-round-trip",
        section=CLIENT,
        title="round trip, 32 B",
        metrics=ROUND_TRIP,
        contenders=LIBRARIES,
        turn=with_client(round_trip=True),
    )


def of_compression() -> Iterator[Measurement]:
    compressing = (OURS, PURE, ZLIB, AIOHTTP, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO)
    memory = [Metric("memory", "KiB", 1 / KIB, more_is_better=False)]
    yield Measurement(
        name="compressed",
        section=COMPRESSION,
        title="JSON of 1 KiB",
        metrics=[Metric("rate", "messages/s"), Metric("wire", "bytes on the wire", more_is_better=False)],
        contenders=compressing,
        turn=with_server("compressed", size=KIB, text=True, compression="default"),
    )
    yield Measurement(
        name="memory-compressed",
        section=COMPRESSION,
        title="memory per idle connection, equal parameters",
        metrics=memory,
        contenders=(OURS, ZLIB, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO),
        turn=idle("equal"),
        most_rounds=1,
    )
    for count in (400, 1000):
        yield Measurement(
            name=f"memory-compressed-{count}",
            section=COMPRESSION,
            title=f"memory per connection after a message, {count:,} connections, equal parameters",
            metrics=memory,
            contenders=(OURS, ZLIB, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO),
            turn=idle("equal", rest=False, count=count),
            most_rounds=1,
        )
    yield Measurement(
        name="memory-defaults",
        section=COMPRESSION,
        title="memory per idle connection, defaults",
        metrics=memory,
        contenders=(OURS, ZLIB, AIOHTTP),
        turn=idle("default"),
        most_rounds=1,
    )


def of_connections() -> Iterator[Measurement]:
    yield Measurement(
        name="handshakes",
        section=CONNECTIONS,
        title="opened and closed",
        metrics=[Metric("rate", "per second")],
        contenders=AND_BEFORE,
        turn=with_server("handshakes"),
    )
    yield Measurement(
        name="memory",
        section=CONNECTIONS,
        title="memory per idle connection",
        metrics=[Metric("memory", "KiB", 1 / KIB, more_is_better=False)],
        contenders=AND_BEFORE,
        turn=idle(),
        most_rounds=1,
    )
    yield Measurement(
        name="memory-keepalive",
        section=CONNECTIONS,
        title="memory per idle connection, with keepalive pings",
        metrics=[Metric("memory", "KiB", 1 / KIB, more_is_better=False)],
        contenders=(OURS, BEFORE, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO),
        # No ping is sent during the measurement, but the keepalive is active.
        turn=idle(ping_interval=10 * instructions.PING_INTERVAL),
        most_rounds=1,
    )
    yield Measurement(
        name="fan-out",
        section=CONNECTIONS,
        title="one message to 1,000 connections",
        metrics=[Metric("rate", "times per second")],
        contenders=AND_BEFORE,
        turn=with_server("fan_out", fan_out=True, connections=1000),
    )


def of_hostile() -> Iterator[Measurement]:
    for key, kind in hostile.KINDS.items():
        yield Measurement(
            name=f"hostile-{key}",
            section=HOSTILE,
            title=kind.title,
            metrics=[
                Metric("cpu", "CPU s per MB", more_is_better=False),
                Metric("median", "ping of another client, ms, median", 1e3, more_is_better=False),
                Metric("p99", "ping of another client, ms, 99th percentile", 1e3, more_is_better=False),
            ],
            contenders=(OURS, PURE, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO),
            turn=under_attack(key),
        )


def of_lines() -> Iterator[Measurement]:
    turns = {
        "size": ("size of a message, bytes", line_of("round_trip", linear.SIZES, lambda count: {"size": count})),
        "fragments": (
            f"fragments of a message, {linear.FRAGMENT} B each",
            line_of(
                "round_trip", linear.FRAGMENTS, lambda count: {"size": count * linear.FRAGMENT, "fragments": count}
            ),
        ),
        "reads": (f"reads in which a message of {linear.MESSAGE // KIB} KiB comes", reads),
        "connections": (
            "connections, each of which echoes a message",
            line_of("echo_all", linear.CONNECTIONS, lambda count: {"connections": count}),
        ),
    }
    for key, (title, turn) in turns.items():
        yield Measurement(
            name=f"linear-{key}", section=LINEAR, title=title, contenders=(OURS, PURE), turn=turn, most_rounds=3
        )


MEASUREMENTS = (
    *of_server(),
    *of_instructions(),
    *of_client(),
    *of_compression(),
    *of_connections(),
    *of_hostile(),
    Measurement(
        name="import",
        section=IMPORTS,
        title="after its event loop",
        metrics=[Metric("seconds", "ms", 1000, more_is_better=False)],
        contenders=LIBRARIES,
        turn=imports,
        most_rounds=3,
    ),
    *of_lines(),
)
