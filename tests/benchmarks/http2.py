"""WebSockets over HTTP/2, compared with ``wss://`` over HTTP/1.1 of this version and of the version before.

``python -m tests.benchmarks.http2`` measures three rounds in a few minutes, prints a table, and saves the figures in
http2.json; ``--rounds 1`` takes less. Each figure is taken with a server and a client in processes of their own, with
their own copy of the library. Times are processor times of both processes together, which depend less on other
programs than the clock does. It requires h2 and trustme.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).with_name("http2.json")

#: The variants, by name: the option ``http2``, and whether the version before is measured.
VARIANTS = {"before": (False, True), "1.1": (False, False), "2": (True, False)}

#: The rows: title, unit, whether more is better, and the target for the ratio to the version before.
ROWS = {
    "round trip": ("Round trip, 32 B", "µs", False, 1.8),
    "64 KiB": ("Echo, 64 KiB", "µs", False, 2.0),
    "opening": ("Opening", "µs", False, 1 / 3),
    "idle": ("Memory of the server, idle WebSocket", "KiB", False, 0.6),
}

IDLE = 300
KIB = 1024


# -- The processes ---------------------------------------------------------------------------------------------------


def run_server(folder: str, http2: bool) -> None:
    """Serve an echo server with TLS, and print its port."""
    import trio

    import trio_ws

    async def echo(ws: trio_ws.ServerWebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def main() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(Path(folder, "server.pem"))
        options: Any = {"http2": True} if http2 else {}
        async with trio.open_nursery() as nursery:
            serve = partial(trio_ws.serve, echo, 0, host="127.0.0.1", ssl=context, compression=None, **options)
            server = await nursery.start(serve)
            print(server.port, flush=True)

    trio.run(main)


def run_client(folder: str, http2: bool, port: int, pid: int) -> None:
    """Measure a server, and print the figures as JSON."""
    import trio

    import trio_ws

    context = ssl.create_default_context(cafile=str(Path(folder, "ca.pem")))
    uri = f"wss://127.0.0.1:{port}/"
    options: Any = {"ssl": context, "compression": None}
    if http2:
        options["http2"] = True

    def spent() -> float:
        """Return the processor time of both processes, in µs."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        of_server = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return (of_server + time.process_time()) * 1e6

    def memory() -> int:
        """Return the memory of the server, in KiB."""
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1])

    async def echo(ws: trio_ws.WebSocket, size: int, count: int) -> float:
        """Return the time for a round trip."""
        message = bytes(size)
        for _ in range(count // 10):
            await ws.send(message)
            await ws.receive()
        began = spent()
        for _ in range(count):
            await ws.send(message)
            await ws.receive()
        return (spent() - began) / count

    async def hold(done: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio_ws.connect(uri, **options):
            task_status.started()
            await done.wait()

    async def open_many(count: int) -> float:
        """Return the time for opening a WebSocket, of 50 that are opened at the same time. They are closed later."""
        total = 0.0
        for _ in range(count // 50):
            done = trio.Event()
            async with trio.open_nursery() as nursery:
                began = spent()
                async with trio.open_nursery() as opening:
                    for _ in range(50):
                        opening.start_soon(nursery.start, hold, done)
                total += spent() - began
                done.set()
        return total / count

    async def idle() -> float:
        """Return the memory of an idle WebSocket."""
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(hold, done)
            before = memory()
            for _ in range(IDLE):
                await nursery.start(hold, done)
            await trio.sleep(0.5)
            grown = (memory() - before) / IDLE
            done.set()
        return grown

    async def measure() -> dict[str, float]:
        figures = {"idle": await idle()}
        async with trio_ws.connect(uri, **options) as ws:
            figures["round trip"] = await echo(ws, 32, 4_000)
            figures["64 KiB"] = await echo(ws, 64 * KIB, 500)
        figures["opening"] = await open_many(1_000)
        return figures

    async def main() -> None:
        if http2:
            async with trio_ws.HTTP2Pool() as pool:
                options["pool"] = pool
                print(json.dumps(await measure()))
        else:
            print(json.dumps(await measure()))

    trio.run(main)


# -- The program -----------------------------------------------------------------------------------------------------


def measure(variant: str, folder: str, before: Path) -> dict[str, float]:
    """Return the figures of one variant."""
    is_before = VARIANTS[variant][1]
    command = [sys.executable, __file__]
    # The module finds the library in this folder, not beside itself.
    environment = {**os.environ, "PYTHONPATH": str(before if is_before else ROOT), "PYTHONSAFEPATH": "1"}
    server = subprocess.Popen(
        [*command, "server", folder, variant], env=environment, cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        arguments = ["client", folder, variant, port, str(server.pid)]
        output = subprocess.run(
            [*command, *arguments], env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        figures: dict[str, float] = json.loads(output)
        return figures
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()


def show(results: dict[str, list[dict[str, float]]]) -> str:
    """Return the medians as a table."""
    lines = [f"{'':38}{'before':>10}{'1.1':>10}{'2':>10}{'ratio':>9}{'target':>9}"]
    for row, (title, unit, _, target) in ROWS.items():
        medians = {variant: statistics.median(each[row] for each in results[variant]) for variant in VARIANTS}
        figures = "".join(f"{medians[variant]:10.1f}" for variant in VARIANTS)
        lines.append(f"{f'{title} ({unit})':38}{figures}{medians['2'] / medians['before']:9.2f}{target:9.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure all variants, print a table and save the figures."""
    from tests.benchmarks import before, tls

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds: int = parser.parse_args().rounds
    tree = before.build()
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        tls.make_certificates(Path(folder))
        for _ in range(rounds):
            for variant in VARIANTS:
                results[variant].append(measure(variant, folder, tree))
    print(show(results))
    RESULTS.write_text(json.dumps({"before": before.COMMIT, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["server"]:
        run_server(sys.argv[2], VARIANTS[sys.argv[3]][0])
    elif sys.argv[1:2] == ["client"]:
        run_client(sys.argv[2], VARIANTS[sys.argv[3]][0], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
