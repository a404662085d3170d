"""``python -m trio_ws demo``: a server and a client in one process, with a timed transcript."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import trio

from ..client.connect import connect
from ..connection.websocket import WebSocket
from ..protocol import Message
from ..server.serve import serve
from .failure import Failure

__all__ = ["run"]


async def run(_options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, _echo, 0, host="127.0.0.1"))
        uri = f"ws://127.0.0.1:{server.port}/demo"
        log = _make_logger()
        log(f"server listening on {uri}")
        async with connect(uri, max_message_size=2**24) as ws:
            log(f"connected: {ws.response.status_code} {ws.response.reason_phrase}")
            for message in ("hello", b"\x00\x01\x02", "\N{EARTH GLOBE EUROPE-AFRICA} " * 200_000):
                await ws.send(message)
                log(f"sent      {_describe(message)}")
                answer = await ws.receive()
                log(f"received  {_describe(answer)}")
                if answer != message:
                    raise Failure("the echo differs from the message")
            seconds = await ws.ping()
            log(f"ping      round trip of {seconds * 1e6:.0f} µs")
            await ws.aclose(1000, "bye")
            log(f"closed    {ws.close_code} {ws.close_reason}".rstrip())
        await server.aclose()
        log("server closed")
    return 0


async def _echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def _make_logger() -> Callable[[str], None]:
    """Return a function that prints lines, each with the milliseconds since this call."""
    start = time.perf_counter()

    def log(text: str) -> None:
        print(f"{(time.perf_counter() - start) * 1000:8.2f} ms  {text}", flush=True)

    return log


def _describe(message: Message) -> str:
    if isinstance(message, str):
        kind, size = "text", len(message.encode())
        shown = repr(message) if len(message) <= 20 else f"{message[:8]!r}..."
    else:
        kind, size, shown = "binary", len(message), message.hex(" ")
    return f"{kind}, {size:,} bytes: {shown}"
