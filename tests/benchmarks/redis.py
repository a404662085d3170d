"""Benchmark of topics through Redis: fan-out over two processes against one, publish rate, and recovery time.

Run it with ``python -m tests.benchmarks.redis``, in an environment with coredis, redis-server and matplotlib. It writes
``docs/redis-benchmark.inc`` and ``docs/_static/redis.svg``; with ``--print``, it only prints.

* **Fan-out**: messages of 100 bytes to one topic with 200 members, until all members have them. The clients are raw
  sockets that count bytes, in a process of their own for each server.
* **Publish rate**: messages of 100 bytes to one topic without members, until Redis has them all.
* **Recovery**: Redis is killed and started again at once. The time from when it answers until a message that was
  published meanwhile arrives in another process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

import trio_ws
from trio_ws.testing import memory_websocket_pair

from ..hub.redis_server import RedisServer
from .chart import draw_panel, finish

ROOT = Path(__file__).resolve().parent.parent.parent

#: The members of the topic, the messages to them, and their size in bytes.
MEMBERS = 200
MESSAGES = 100
SIZE = 100

#: The messages of the publish rate.
PUBLISHED = 10_000

REPETITIONS = 3


def make_hub(kind: str, url: str) -> trio_ws.Hub:
    """Return a hub: in memory, with streams, or with publish and subscribe."""
    if kind == "memory":
        return trio_ws.Hub(max_backlog=None, max_lag=None)
    return trio_ws.Hub(
        backend=trio_ws.RedisBackend(url, streams=kind == "streams", timeout=30), max_backlog=None, max_lag=None
    )


# -- Processes with members ------------------------------------------------------------------------------------------


async def run_members(kind: str, url: str, count: int) -> None:
    """Run a server whose clients are members, and the clients. Print a line when all have all messages."""
    hub = make_hub(kind, url)
    topic = hub.topic("news")
    waiting = count
    done, complete = trio.Event(), trio.Event()

    async def handle(ws: trio_ws.ServerWebSocket) -> None:
        async with topic.join(ws):
            if len(topic) == count:
                complete.set()
            async for _ in ws:
                pass

    async def read(uri: str, ready: trio.Event) -> None:
        nonlocal waiting
        async with trio_ws.connect(uri, compression=None) as ws:
            ready.set()
            for _ in range(MESSAGES):
                await ws.receive()
            waiting -= 1
            if not waiting:
                done.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        server = await nursery.start(partial(trio_ws.serve, handle, 0, host="127.0.0.1", compression=None))
        for _ in range(count):
            ready = trio.Event()
            nursery.start_soon(read, f"ws://127.0.0.1:{server.port}/", ready)
            await ready.wait()
        await complete.wait()
        print("ready", flush=True)
        command = await trio.to_thread.run_sync(sys.stdin.readline)
        begin = trio.current_time()
        if command == "publish\n":
            for number in range(MESSAGES):
                topic.publish(f"{number:<{SIZE}}")
                await trio.lowlevel.checkpoint()
        await done.wait()
        print(trio.current_time() - begin, flush=True)
        if hub._core.exchange is not None:
            outgoing = hub._core.exchange.outgoing
            await outgoing.wait_acknowledged(outgoing.number)
        nursery.cancel_scope.cancel()


def measure_fan_out(kind: str, url: str, processes: int) -> float:
    """Return how many messages a second reach all members."""
    command = [sys.executable, "-m", "tests.benchmarks.redis", "--members", str(MEMBERS // processes), kind, url]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    # The first one publishes last, and the others have begun to wait.
    for process in reversed(running):
        assert process.stdin is not None
        process.stdin.write("publish\n" if process is running[0] else "wait\n")
        process.stdin.flush()
    times = []
    for process in running:
        assert process.stdout is not None
        times.append(float(process.stdout.readline()))
        process.wait()
    return MESSAGES / max(times)


# -- Publishing and recovery -----------------------------------------------------------------------------------------


async def measure_publishing(kind: str, url: str) -> float:
    """Return how many messages a second Redis accepts."""
    hub = make_hub(kind, url)
    exchange = hub._core.exchange
    assert exchange is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        begin = trio.current_time()
        for number in range(PUBLISHED):
            hub.topic("rate").publish(f"{number:<{SIZE}}")
            if exchange.outgoing.size > 500_000:
                await exchange.outgoing.wait_acknowledged(exchange.outgoing.number - 1000)
        await exchange.outgoing.wait_acknowledged(exchange.outgoing.number)
        seconds = trio.current_time() - begin
        nursery.cancel_scope.cancel()
    return PUBLISHED / seconds


async def measure_recovery(kind: str, server: RedisServer) -> float:
    """Return the seconds after which a message arrives that was published while Redis was away."""
    hubs = [make_hub(kind, server.url), make_hub(kind, server.url)]
    async with trio.open_nursery() as nursery, memory_websocket_pair() as (client, ws):
        for hub in hubs:
            await nursery.start(hub.run)
        async with hubs[1].topic("recovery").join(ws):
            server.kill()
            hubs[0].topic("recovery").publish("hello")
            await trio.sleep(1)
            await server.start()
            begin = trio.current_time()
            assert await client.receive() == "hello"
            seconds = trio.current_time() - begin
        nursery.cancel_scope.cancel()
    return seconds


# -- Report ----------------------------------------------------------------------------------------------------------


def measure() -> dict[str, float]:
    """Measure everything. Return the medians."""
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder) / "redis", keeps=False)
        trio.run(server.start)
        durable = RedisServer(Path(folder) / "durable")
        trio.run(durable.start)
        try:
            for _ in range(REPETITIONS):
                for name, kind, processes in [
                    ("memory, 1 process", "memory", 1),
                    ("streams, 1 process", "streams", 1),
                    ("streams, 2 processes", "streams", 2),
                    ("pub/sub, 2 processes", "pubsub", 2),
                ]:
                    results.setdefault(name, []).append(measure_fan_out(kind, server.url, processes))
                for kind in ("streams", "pubsub"):
                    results.setdefault(f"publish {kind}", []).append(trio.run(measure_publishing, kind, server.url))
                results.setdefault("publish durable", []).append(trio.run(measure_publishing, "streams", durable.url))
                results.setdefault("recovery", []).append(trio.run(measure_recovery, "streams", durable))
        finally:
            server.kill()
            durable.kill()
    return {name: statistics.median(values) for name, values in results.items()}


def write(results: dict[str, float]) -> None:
    """Write the table and the chart."""
    fan_out = {name: value for name, value in results.items() if "process" in name}
    lines = [f"* Messages of {SIZE} bytes to one topic with {MEMBERS} members, a second:"]
    lines[0] = lines[0].replace("* ", "")
    table = [".. list-table::", "   :widths: 60 40", ""]
    table += [f"   * - {name}\n     - {value:,.0f}" for name, value in fan_out.items()]
    rest = [
        f"Redis accepts {results['publish streams']:,.0f} published messages a second in streams, "
        f"{results['publish durable']:,.0f} if it writes each batch to the disk (``appendfsync always``), and "
        f"{results['publish pubsub']:,.0f} with ``streams=False``. When Redis was killed and answers again, messages "
        f"arrive after {results['recovery']:.1f} seconds (at most 2, by default).",
    ]
    (ROOT / "docs" / "redis-benchmark.inc").write_text("\n".join([*lines, "", *table, "", *rest, ""]))

    (ROOT / "docs" / "_static" / "redis.svg").write_text(render(fan_out), encoding="utf-8")


def render(fan_out: dict[str, float]) -> str:
    """Return the chart."""
    parts: list[str] = []
    y = draw_panel(parts, 8, f"Messages per second to {MEMBERS} members", fan_out, more_is_better=True)
    return finish(parts, y + 8, "Topics in one process, and through Redis")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--print", action="store_true", help="only print the results")
    arguments = parser.parse_args()
    if arguments.members is not None:
        count, kind, url = arguments.members
        trio.run(run_members, kind, url, int(count))
        return
    results = measure()
    for name, value in results.items():
        print(f"{name:25} {value:12,.2f}")
    if not arguments.print:
        write(results)


if __name__ == "__main__":
    main()
