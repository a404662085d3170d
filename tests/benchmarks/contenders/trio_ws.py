"""trio_ws: this library.

Set: ``compression=None``, ``ping_interval=None``, ``max_message_size=None``, ``max_fragments=None``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import trio

import trio_ws

from ..clients import measure_trio
from ..job import HOST, Job
from ..tls import server_context
from ..worker import report


def compression(job: Job) -> Literal["deflate"] | trio_ws.Deflate | None:
    """Return the option; for equal terms the parameters that websockets has by default."""
    if job.compression == "equal":
        return trio_ws.Deflate(server_max_window_bits=12, client_max_window_bits=12, level=6, mem_level=5, min_size=0)
    return None if job.compression is None else "deflate"


def size_limits() -> dict[str, Any]:
    """Return the options that turn limits off, as far as this version has them."""
    return dict.fromkeys({"max_message_size", "max_fragments"} & trio_ws.Options.__optional_keys__)


async def sink(ws: trio_ws.WebSocket) -> None:
    async for _ in ws:
        pass


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class FanOut:
    """A handler that sends each message to all connections but the one it came from."""

    def __init__(self) -> None:
        self._connections: set[trio_ws.WebSocket] = set()

    async def __call__(self, ws: trio_ws.WebSocket) -> None:
        self._connections.add(ws)
        async for message in ws:
            trio_ws.broadcast(self._connections - {ws}, message)


async def run_server(job: Job) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                trio_ws.serve,
                FanOut() if job.fan_out else sink if job.sink else echo,
                0,
                host=HOST,
                ssl=server_context(job.certificates),
                compression=compression(job),
                ping_interval=job.ping_interval,
                ping_timeout=None,
                **size_limits(),
            )
        )
        report(port=server.port)


async def run_client(job: Job) -> None:
    async with trio_ws.connect(f"ws://{HOST}:{job.port}/", compression=None, ping_interval=None, **size_limits()) as ws:
        await measure_trio(job, ws.send, ws.receive)


def serve(job: Job) -> None:
    trio.run(run_server, job)


def client(job: Job) -> None:
    trio.run(run_client, job)
