"""The number of instructions that a server needs for one operation, counted with Valgrind's callgrind.

It depends neither on the load nor on the speed of the machine::

    python -m tests.benchmarks.instructions --contender trio_ws --row roundtrip
    python -m tests.benchmarks.instructions --contender trio_ws --row roundtrip --tree PATH

prints one number. With ``--tree``, the server imports the ``trio_ws`` in that folder.

The server runs under callgrind and is warmed up. Then ``vgdb``, which comes with Valgrind, turns counting on. A short
run of operations is followed by a long one. The result is the difference of their counts, divided by the difference of
their lengths, so work that is done once per run cancels out. The instructions of the kernel are not counted.

Under callgrind a server is about fifty times slower, so timers expire after fewer operations than usual. Therefore
there are two rows of round trips: a timer of a few milliseconds always expires in one, and rarely in the other.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from . import load, wire
from .contenders import BEFORE, CONTENDERS, RAW, WEBSOCKETS_ASYNCIO, WEBSOCKETS_TRIO, Contender
from .job import KIB, Job
from .process import Process, WorkerFailed
from .worker import ROOT, TREE

#: Number of runs; the result is the median, because Python's garbage collector runs only in some of them.
REPETITIONS = 3
#: Maximum number of unanswered messages of 64 KiB, and the socket buffers of the client, for all contenders.
IN_FLIGHT = 4
BUFFER = 1024 * KIB
#: Number of small messages that are sent at once.
BURST = 500
#: Number of connections for a message to many.
CROWD = 200
#: Seconds after which all timers of a few milliseconds have expired in a sleeping server.
PAUSE = 0.02
#: Seconds between keepalive pings, if enabled: the default of trio_ws and of websockets.
PING_INTERVAL = 20.0
#: Timeout for answers of Valgrind, in seconds.
PATIENCE = 60.0

CLOSE = wire.frame(wire.CLOSE, (1000).to_bytes(2, "big"), masked=True)


def missing() -> str | None:
    """Return the reason why instructions cannot be counted on this machine; None if they can."""
    if all(map(shutil.which, ("valgrind", "vgdb"))):
        return None
    return "Valgrind is not installed (try `apt install valgrind`)"


def read_total(dump: Path) -> int:
    """Return the number of instructions in a file that callgrind has written."""
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise WorkerFailed("callgrind has counted nothing")
    return int(found[1])


class CountingServer:
    """The server of a contender under callgrind, within a block.

    Args:
        contender: The contender.
        job: The job.
    """

    def __init__(self, contender: Contender, job: Job) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._counts = Path(self._folder.name, "counts")
        self._dumps = 0
        options = ["--instr-atstart=no", "--dump-line=no", f"--callgrind-out-file={self._counts}"]
        self._process = Process(
            f"contenders.{contender.module}",
            "serve",
            job,
            # Otherwise the random hashes of strings would change the order of sets.
            {**contender.environ, "PYTHONHASHSEED": "0"},
            ["valgrind", "--quiet", "--tool=callgrind", *options],
        )
        try:
            self.job = replace(job, port=self._process.read("port"))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> CountingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__(None, None, None)
        self._folder.cleanup()

    def wait_until_asleep(self) -> None:
        self._process.wait_until_asleep()

    def library(self) -> dict[str, Any]:
        """Return the ``trio_ws`` that the server has imported, and whether it is compiled."""
        found: dict[str, Any] = self._process.ask("library")
        return found

    def start_counting(self) -> None:
        self._command("instrumentation on")
        self._command("zero")

    def count(self) -> int:
        """Return the number of instructions since the last call."""
        self._command("dump")
        self._dumps += 1
        dump = Path(f"{self._counts}.{self._dumps}")
        number = read_total(dump)
        dump.unlink()
        return number

    def _command(self, command: str) -> None:
        try:
            subprocess.run(
                ["vgdb", f"--pid={self._process.pid}", *command.split()],
                check=True,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.SubprocessError as exc:
            raise WorkerFailed(f"callgrind does not do {command!r}: {exc}") from exc


# -- Operations ----------------------------------------------------------------------------------------------------

#: A function that does this number of operations.
Run: TypeAlias = Callable[[int], None]


def round_trips(server: CountingServer, pause: float = 0.0) -> Run:
    """Return a function that sends messages, each while the server sleeps, and receives the echoes.

    Args:
        server: The server.
        pause: Seconds for which the server sleeps before each message.
    """
    request, answer = load.request_and_echo(server.job)
    sock = load.open_websocket(server.job)

    def run(count: int) -> None:
        for _ in range(count):
            server.wait_until_asleep()
            if pause:
                time.sleep(pause)  # timers of the server must expire meanwhile, on the real clock
                server.wait_until_asleep()
            load.exchange(sock, request, answer)
        server.wait_until_asleep()

    return run


def pipelined(server: CountingServer) -> Run:
    """Return a function that sends messages without waiting for each echo, and receives the echoes."""
    request, answer = load.request_and_echo(server.job)
    sock = load.open_websocket(server.job, BUFFER)

    def run(count: int) -> None:
        server.wait_until_asleep()
        for at in range(count + IN_FLIGHT):
            if at >= IN_FLIGHT and load.receive_exactly(sock, len(answer)) != answer:
                raise ValueError("this is not what was sent")
            if at < count:
                sock.sendall(request)
        server.wait_until_asleep()

    return run


def bursts(server: CountingServer) -> Run:
    """Return a function that sends messages, many at once to a sleeping server, and receives the echoes."""
    request, answer = load.request_and_echo(server.job)
    sock = load.open_websocket(server.job, BUFFER)

    def run(count: int) -> None:
        for _ in range(count // BURST):
            server.wait_until_asleep()
            load.exchange(sock, request * BURST, answer * BURST)
        server.wait_until_asleep()

    return run


def openings(server: CountingServer) -> Run:
    """Return a function that opens and closes connections in sequence. Close frames are sent to a sleeping server."""

    def run(count: int) -> None:
        for _ in range(count):
            server.wait_until_asleep()
            with load.open_websocket(server.job) as sock:
                server.wait_until_asleep()
                sock.sendall(CLOSE)
                while sock.recv(4096):  # the server disconnects first
                    pass
        server.wait_until_asleep()

    return run


def broadcasts(server: CountingServer) -> Run:
    """Return a function that makes the server send a message to each of many connections.

    An operation is the message on one connection. The number of operations is rounded down to whole messages.
    """
    crowd, control = load.Crowd(server.job), load.open_websocket(server.job)

    def run(count: int) -> None:
        for _ in range(count // server.job.connections):
            server.wait_until_asleep()
            control.sendall(crowd.request)
            crowd.receive()
        server.wait_until_asleep()

    return run


def compressed_round_trips(server: CountingServer) -> Run:
    """Return a function that sends compressed messages, each while the server sleeps, and receives the echoes."""
    from .compression import feed  # imported late, because it imports the library

    messages = feed(server.job.size, load.DISTINCT)
    sock = load.connect(server.job)
    bits = wire.client_window_bits(wire.shake_hands(sock, compression=True))
    frames = itertools.cycle(
        [wire.frame(wire.TEXT, each, masked=True, rsv1=True) for each in load.compress(messages, bits)]
    )
    counter = load.CompressedMessages(keep=load.DISTINCT)

    def run(count: int) -> None:
        for at in range(counter.messages + 1, counter.messages + 1 + count):
            server.wait_until_asleep()
            sock.sendall(next(frames))
            while counter.messages < at:
                counter.feed(memoryview(sock.recv(4096)))
        server.wait_until_asleep()
        expected = list(itertools.islice(itertools.cycle(messages), len(counter.payloads)))
        if load.decompress(counter.payloads) != expected:
            raise ValueError("these are not the messages that were sent")

    return run


@dataclass(frozen=True, kw_only=True)
class Row:
    """A kind of operation.

    Attributes:
        title: The title in tables.
        operations: Returns the function that does the operations with a server.
        few: Number of operations in a short run.
        many: Number of operations in a long run.
        size: Size of a message in bytes.
        ping_interval: Seconds between keepalive pings; None for no pings.
        echo: Whether the raw server echoes bytes; it answers handshakes otherwise.
        job: More parameters of the job.
        others: The contenders to compare with.
    """

    title: str
    operations: Callable[[CountingServer], Run]
    few: int
    many: int
    size: int = 32
    ping_interval: float | None = None
    echo: bool = True
    job: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[Contender, ...] = (BEFORE, WEBSOCKETS_TRIO, RAW)

    def shortened(self) -> Row:
        """Return the same row with a quarter of the operations, for a rough figure."""
        return replace(self, few=self.few // 4, many=self.many // 4)


ROWS = {
    "roundtrip": Row(
        title="round trip, 32 B, sent as soon as the server sleeps", operations=round_trips, few=50, many=250
    ),
    "paused": Row(
        title="round trip, 32 B, sent when the server has slept for 20 ms",
        operations=partial(round_trips, pause=PAUSE),
        few=20,
        many=120,
    ),
    "pipelined": Row(title="64 KiB, pipelined", operations=pipelined, few=50, many=250, size=64 * KIB),
    "bursts": Row(title=f"32 B, in bursts of {BURST}", operations=bursts, few=4 * BURST, many=20 * BURST),
    "opening": Row(title="opened and closed", operations=openings, few=10, many=60, echo=False),
    "opening-keepalive": Row(
        title="opened and closed, with keepalive pings",
        operations=openings,
        few=10,
        many=60,
        echo=False,
        ping_interval=PING_INTERVAL,
    ),
    "broadcast": Row(
        title=f"one message of 100 B to {CROWD} connections, for each",
        operations=broadcasts,
        few=CROWD,
        many=5 * CROWD,
        size=100,
        job={"fan_out": True, "connections": CROWD},
        others=(BEFORE, WEBSOCKETS_TRIO, WEBSOCKETS_ASYNCIO),
    ),
    "compressed": Row(
        title="round trip, compressed JSON of 1 KiB, sent as soon as the server sleeps",
        operations=compressed_round_trips,
        few=50,
        many=250,
        size=KIB,
        job={"text": True, "compression": "default"},
        others=(BEFORE, WEBSOCKETS_TRIO, WEBSOCKETS_ASYNCIO),
    ),
}


def count(contender: Contender, row: Row, repetitions: int = REPETITIONS) -> tuple[float, dict[str, Any]]:
    """Count the instructions that the server of a contender needs for one operation.

    Returns:
        The number, and the ``trio_ws`` that the server has imported.

    Raises:
        WorkerFailed: If the server or Valgrind fails.
    """
    job = Job(size=row.size, raw=contender.raw and row.echo, ping_interval=row.ping_interval, **row.job)
    with CountingServer(contender, job) as server:
        load.probe(server.job)
        server.wait_until_asleep()
        library = server.library()
        if library and contender.tree is not None and library["tree"] != contender.tree:
            raise WorkerFailed(f"trio_ws is that of {library['tree']}, not of {contender.tree}")
        run = row.operations(server)
        run(row.many)
        server.start_counting()
        run(row.few)
        server.count()
        figures = []
        for _ in range(repetitions):
            run(row.few)
            base = server.count()
            run(row.many)
            figures.append((server.count() - base) / (row.many - row.few))
    return statistics.median(figures), library


def count_import(contender: Contender) -> int:
    """Count the instructions of a Python program that imports a contender and does nothing else.

    Its bytecode has been written before, as that of installed packages has. The raw contender imports Trio and the
    other dependencies of trio_ws.
    """
    code = f"import {'trio, attrs, h11, idna' if contender.raw else contender.imports}"
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, **contender.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        environ["PYTHONHASHSEED"] = "0"
        counts = Path(folder, "counts")
        callgrind = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={counts}"]
        for under in ([], callgrind):
            done = subprocess.run(
                [*under, sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True
            )
            if done.returncode:
                raise WorkerFailed(done.stderr)
        return read_total(counts)


def main() -> None:
    names = {each.name.lower().replace(" ", "-"): each for each in CONTENDERS}
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.instructions", description="Count the instructions of a server."
    )
    parser.add_argument("--contender", default="trio_ws", choices=names)
    parser.add_argument("--row", required=True, choices=(*ROWS, "import"))
    parser.add_argument("--tree", type=Path, help="the folder to import trio_ws from, with its compiled module")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="how often to count, for the median")
    options = parser.parse_args()
    if (reason := missing()) is not None:
        parser.exit(2, f"{reason}\n")
    contender = names[options.contender]
    if options.row == "import":
        print(count_import(contender))
        return
    if options.tree:
        contender = replace(contender, environ={**contender.environ, TREE: str(options.tree.resolve())})
    number, library = count(contender, ROWS[options.row], options.repetitions)
    if library and not library["compiled"]:
        print(f"{library['tree']} has no compiled code", file=sys.stderr)
    print(round(number))


if __name__ == "__main__":
    main()
