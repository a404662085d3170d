"""Costs and savings of compression with zlib and zlib-ng: memory, size and time.

::

    python tests/benchmarks/compression.py           # everything, in about three minutes
    python tests/benchmarks/compression.py speed     # one part: memory, speed, rest, min-size or thread
    python tests/benchmarks/compression.py --rst     # tables for the documentation

The package must be installed with its extra ``speedups`` to measure both. The method:

* The messages resemble a feed of market data and chat. They come from a generator with a fixed seed, so results are
  reproducible.
* Memory is the resident set of a process, which needs Linux. Each figure comes from a new process that creates a few
  hundred of the measured objects.
* Times are the processor time of the functions that the library calls, the best of several rounds. The figure for one
  message is the average over many messages, sent one after the other on one connection.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import trio

import trio_ws
from trio_ws.protocol.deflate import Deflate, DeflateClient, DeflateServer, PerMessageDeflate
from trio_ws.protocol.deflate import transform as transform_module
from trio_ws.protocol.deflate.settings import WINDOW_BITS

KIB = 1024
ROUNDS = 5
BACK_ENDS = {"zlib": "zlib", "zlib-ng": "zlib_ng.zlib_ng"}
INSTALLED = [name for name, module in BACK_ENDS.items() if importlib.util.find_spec(module.partition(".")[0])]

#: A title, and rows of cells, the first of which is the header.
Table: TypeAlias = "tuple[str, list[list[object]]]"


def use(back_end: str) -> Any:
    """Make the library compress with this module."""
    module = vars(transform_module)["zlib"] = importlib.import_module(BACK_ENDS[back_end])
    return module


class Choice(NamedTuple):
    """Parameters of compression for both directions. The defaults are those of the library."""

    level: int = Deflate().level
    mem_level: int = Deflate().mem_level
    bits: int = WINDOW_BITS
    takeover: bool = True

    def options(self) -> Deflate:
        return Deflate(
            level=self.level,
            mem_level=self.mem_level,
            server_max_window_bits=self.bits,
            client_max_window_bits=self.bits,
            server_no_context_takeover=not self.takeover,
            client_no_context_takeover=not self.takeover,
            min_size=0,
        )

    def transform(self) -> PerMessageDeflate:
        answer = DeflateServer(self.options()).answer(DeflateClient(self.options()).offers()[0])
        assert answer is not None
        return answer[1]


DEFAULT, SMALLEST, LARGEST = Choice(), Choice(mem_level=1, bits=9), Choice(9, 9, 15)
ZLIB = Choice(6, 8, 15)  # the defaults of zlib


def encode(transform: PerMessageDeflate, message: bytes) -> bytes:
    return transform.encode(message, first=True, final=True)[0]


def decode(transform: PerMessageDeflate, message: bytes) -> bytes:
    return transform.decode(message, final=True, limit=None)


# -- Messages ------------------------------------------------------------------------------------------------------

SYMBOLS = ["BTC-USD", "ETH-USD", "SOL-EUR", "XRP-USD", "ADA-EUR", "DOGE-USD", "LTC-EUR", "DOT-USD"]
#: The most frequent first.
WORDS = """
    the to and a of is in it you that for on this we not have be are with as so at but can if just what do about there
    market order trade sell buy higher lower tomorrow morning now good think would know some see get like then could
    server update message connection release broken fixed deploy please thanks maybe never question answer problem
"""


def items() -> Iterator[str]:
    """Yield trades, order books and chat messages as JSON, of about 100 bytes each."""
    draw, words = random.Random(1), WORDS.split()
    weights = [1 / rank for rank in range(1, len(words) + 1)]  # Zipf's law
    number, now = 10_000_000, 1_700_000_000_000
    while True:
        number, now = number + draw.randint(1, 5), now + draw.randint(0, 400)
        kind, symbol = draw.choice(["trade", "book", "chat"]), draw.randrange(len(SYMBOLS))
        item: dict[str, object] = {"type": kind, "seq": number, "ts": now, "sym": SYMBOLS[symbol]}
        prices = [f"{100 * (symbol + draw.uniform(0.99, 1.01)):.2f}" for _ in range(2)]
        if kind == "trade":
            item |= {"px": prices[0], "qty": round(draw.expovariate(2), 4), "side": draw.choice(["buy", "sell"])}
        elif kind == "book":
            item |= {"bid": [prices[0], f"{draw.expovariate(1):.4f}"], "ask": [prices[1], f"{draw.expovariate(1):.4f}"]}
        else:
            text = " ".join(draw.choices(words, weights, k=draw.randint(3, 12)))
            item |= {"from": draw.randrange(1000), "text": text.capitalize() + draw.choice(".!?…")}
        yield json.dumps(item, separators=(",", ":"), ensure_ascii=False)


def feed(size: int, count: int) -> list[bytes]:
    """Return this number of messages of about this size, each with one item or a list of items."""
    source = items()
    if size <= 100:
        return [next(source).encode() for _ in range(count)]
    return [f"[{','.join(itertools.islice(source, size // 100))}]".encode() for _ in range(count)]


def pieces(size: int, count: int) -> list[bytes]:
    """Return messages of exactly this size, cut from arbitrary places of the feed."""
    draw = random.Random(2)
    return [message[(start := draw.randrange(KIB)) : start + size] for message in feed(2 * KIB, count)]


# -- Memory --------------------------------------------------------------------------------------------------------

COMPRESSORS = 100
#: Number of connections. It is below 256, the number of connections that the library allows to keep their compressors.
CONNECTIONS = 120


def resident() -> float:
    """Return the resident memory of this process, in KiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / KIB


def in_new_process(function: Callable[..., float], *args: object) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def transform_memory(back_end: str, bits: int, mem_level: int | None, resting: bool = False) -> float:
    """Return the memory of one end for one direction, in KiB, after more data than its window holds.

    The direction is sending, or receiving if mem_level is None.
    """
    use(back_end)
    choice = Choice(mem_level=mem_level or DEFAULT.mem_level, bits=bits)
    function, messages = encode, feed(64 * KIB, 2)
    if mem_level is None:
        sender = choice.transform()
        function, messages = decode, [encode(sender, message) for message in messages]
    transforms = [choice.transform() for _ in range(2 * COMPRESSORS)]
    before = 0.0
    for at, transform in enumerate(transforms):
        if at == COMPRESSORS:
            before = resident()  # the first half has used up memory that happened to be free
        for message in messages:
            function(transform, message)
        if resting:
            transform.rest()
    return (resident() - before) / COMPRESSORS


def connection_memory(back_end: str, choice: Choice | None, count: int) -> float:
    """Return the memory of one end of a connection with its tasks and its stream, in KiB.

    Each end has sent and received this number of messages of 4 KiB, and keeps its compressor.
    """
    use(back_end)
    compression = None if choice is None else choice.options()
    clients: list[trio_ws.WebSocket] = []

    async def echo(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
            del message

    async def connect(nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        client, server = map(trio.SocketStream, trio.socket.socketpair())
        nursery.start_soon(partial(trio_ws.serve_over, server, echo, compression=compression))
        async with trio_ws.connect_over(client, "ws://localhost/", compression=compression) as ws:
            clients.append(ws)
            task_status.started()
            await trio.sleep_forever()

    async def exchange(connections: Sequence[trio_ws.WebSocket]) -> None:
        for message in feed(4 * KIB, count):
            for ws in connections:
                await ws.send(message)
                await ws.receive()

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            await nursery.start(connect, nursery)
            await exchange(clients)
            before = resident()
            for _ in range(CONNECTIONS):
                await nursery.start(connect, nursery)
            await exchange(clients[1:])
            growth = resident() - before
            nursery.cancel_scope.cancel()
        return growth / CONNECTIONS / 2

    return trio.run(main)


def memory() -> Iterator[Table]:
    rows: list[list[object]] = [["window bits", "mem_level", *INSTALLED]]
    for bits in (9, 12, 15):
        for mem_level, resting, label in (
            *((each, False, each) for each in (1, 5, 8, 9)),
            (DEFAULT.mem_level, True, "(resting)"),
            (None, False, "(receiving)"),
        ):
            values = (in_new_process(transform_memory, back_end, bits, mem_level, resting) for back_end in INSTALLED)
            rows.append([bits, label, *values])
    yield "KiB of memory for one direction, between two messages", rows

    rows = [["mem_level", "bits", "takeover", "unused"]]
    rows[0] += [f"{back_end}: {count} of 4 KiB" for back_end in INSTALLED for count in (1, 16)]
    for choice in (None, DEFAULT, SMALLEST, ZLIB, Choice(takeover=False)):
        rows.append(["no compression", "", ""] if choice is None else [*choice[1:]])
        rows[-1].append(in_new_process(connection_memory, INSTALLED[0], choice, 0))
        for back_end in INSTALLED:
            rows[-1] += [in_new_process(connection_memory, back_end, choice, count) for count in (1, 16)]
    yield "KiB of memory of one end of an idle connection, after messages in both directions", rows


# -- Size and time -------------------------------------------------------------------------------------------------


def seconds(function: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def cost(choice: Choice, messages: Sequence[bytes], *, resting: bool = False) -> tuple[float, float, float]:
    """Return the compressed size of a message in percent, and the µs to compress and to decompress it.

    With ``resting``, both ends call ``rest()`` after each message, which is included.
    """
    sender, receiver = choice.transform(), choice.transform()
    compressed: list[bytes] = []

    def compress() -> None:
        compressed.clear()
        for message in messages:
            compressed.append(encode(sender, message))
            if resting:
                sender.rest()

    def decompress() -> None:
        for message in compressed:
            decode(receiver, message)
            if resting:
                receiver.rest()

    times = [(seconds(compress), seconds(decompress)) for _ in range(ROUNDS)]
    there, back = (min(each) / len(messages) * 1e6 for each in zip(*times, strict=True))
    return 100 * sum(map(len, compressed)) / sum(map(len, messages)), there, back


def speed() -> Iterator[Table]:
    sizes = {"100 B": feed(100, 5000), "1 KiB": feed(KIB, 500), "64 KiB": feed(64 * KIB, 8)}
    choices = [
        DEFAULT,
        Choice(level=1),
        Choice(level=6),
        Choice(level=9),
        Choice(mem_level=1),
        Choice(mem_level=8),
        Choice(bits=9),
    ]
    choices += [Choice(bits=15), ZLIB, SMALLEST, LARGEST, Choice(takeover=False), ZLIB._replace(takeover=False)]
    for back_end in INSTALLED:
        use(back_end)
        rows: list[list[object]] = [["level", "mem_level", "bits", "takeover"]]
        rows[0] += itertools.chain(*([f"{name}: %", "µs", "µs back"] for name in sizes))
        rows += [[*choice, *itertools.chain(*(cost(choice, each) for each in sizes.values()))] for choice in choices]
        yield f"What is left of a message, and µs to compress and decompress it, {back_end}", rows


def rest() -> Iterator[Table]:
    rows: list[list[object]] = [["library", "bits", "bytes"]]
    rows[0] += itertools.chain(*([f"{name}: %", "µs", "µs back"] for name in ("busy", "resting")))
    for back_end in INSTALLED:
        use(back_end)
        for bits, messages in itertools.product((9, 12, 15), (feed(100, 500), feed(KIB, 500))):
            costs = (cost(Choice(bits=bits), messages, resting=resting) for resting in (False, True))
            rows.append([back_end, bits, sum(map(len, messages)) // len(messages), *itertools.chain(*costs)])
    yield "What is left of a message, and µs to compress and decompress it, with a rest after each", rows


def min_size() -> Iterator[Table]:
    for back_end in INSTALLED:
        use(back_end)
        rows: list[list[object]] = [["bytes", "saved", "µs", "µs back", "saved without takeover", "µs", "µs back"]]
        for size in (8, 16, 32, 48, 64, 96, 128, 256, 512):
            rows.append([size])
            for takeover in (True, False):
                percent, *times = cost(Choice(takeover=takeover), pieces(size, 1500))
                rows[-1] += [size * (1 - percent / 100), *times]
        yield f"How many bytes of a small message compression saves, {back_end}", rows


# -- A thread, or not ----------------------------------------------------------------------------------------------


def in_thread(
    function: Callable[[bytes], object], messages: Sequence[bytes], clock: Callable[[], float] = time.process_time
) -> float:
    """Return the duration of a call in a worker thread, in µs."""

    async def main() -> float:
        await trio.to_thread.run_sync(function, messages[0])  # starts the thread
        start = clock()
        for message in messages:
            await trio.to_thread.run_sync(function, message)
        return clock() - start

    return min(trio.run(main) for _ in range(ROUNDS)) / len(messages) * 1e6


def decode_part(data: bytes) -> bytes:
    return LARGEST.transform().decode(data, final=False, limit=None)


def thread() -> Iterator[Table]:
    rows: list[list[object]] = [["µs of processor time", "µs"]]
    rows.append([in_thread(len, [b""] * 1000, clock) for clock in (time.process_time, time.perf_counter)])
    yield "A call in a worker thread that does nothing", rows

    for back_end in INSTALLED:
        use(back_end)
        rows = [["KiB", "in a thread", "not in a thread", "level 9, mem_level 9, 15 bits", "random bytes"]]
        for size in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            count = max(4, 512 // size)
            messages, noise = feed(size * KIB, count), [random.randbytes(size * KIB) for _ in range(count)]
            threaded = in_thread(partial(encode, DEFAULT.transform()), messages)
            costs = [cost(*each)[1] for each in ((DEFAULT, messages), (LARGEST, messages), (DEFAULT, noise))]
            rows.append([size, threaded, *costs])
        yield f"Processor time to compress a message, {back_end}", rows

        rows = [["KiB received", "KiB that come out", "ms"]]
        for size in (1, 2, 4):
            zeros = encode(LARGEST.transform(), bytes(2 * size * KIB * KIB))[: size * KIB]
            best = min(seconds(partial(decode_part, zeros)) for _ in range(ROUNDS))
            rows.append([size, len(decode_part(zeros)) // KIB, best * 1000])
        yield f"Processor time to decompress zeros, of which most comes out, {back_end}", rows


# -- The command line ----------------------------------------------------------------------------------------------

PARTS = {"memory": memory, "speed": speed, "rest": rest, "min-size": min_size, "thread": thread}


def show(table: Table, rst: bool) -> None:
    title, rows = table
    cells = [[_format(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    header, *lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    if rst:
        print(f".. table:: {title}", "", *(f"   {line}" for line in (rule, header, rule, *lines, rule)), "", sep="\n")
    else:
        print(title, "", header, rule, *lines, "", sep="\n", flush=True)


def _format(cell: object) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.{2 if abs(cell) < 1 else 1 if abs(cell) < 20 else 0}f}"
    return str(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=PARTS, help="what to measure (default: everything)")
    parser.add_argument("--rst", action="store_true", help="print tables for the documentation")
    options = parser.parse_args()
    versions = [f"{name} {getattr(use(name), 'ZLIBNG_VERSION', use(name).ZLIB_RUNTIME_VERSION)}" for name in INSTALLED]
    print(f"Python {platform.python_version()}, Trio {trio.__version__}, {', '.join(versions)}", end="\n\n")
    for name, part in PARTS.items():
        if options.part in (name, None):
            for table in part():
                show(table, options.rst)


if __name__ == "__main__":
    main()
