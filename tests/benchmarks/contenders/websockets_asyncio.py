"""websockets with asyncio, with its C extension.

Set: ``compression=None``, ``ping_interval=None``, ``max_size=None``, ``proxy=None``.
"""

from __future__ import annotations

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as websockets_serve

from ..clients import measure_asyncio
from ..job import HOST, Job
from ..tls import server_context
from ..worker import report


async def sink(ws: ServerConnection) -> None:
    async for _ in ws:
        pass


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


class FanOut:
    """A handler that sends each message to all connections but the one it came from."""

    def __init__(self) -> None:
        self._connections: set[ServerConnection] = set()

    async def __call__(self, ws: ServerConnection) -> None:
        self._connections.add(ws)
        async for message in ws:
            broadcast(self._connections - {ws}, message)


async def run_server(job: Job) -> None:
    async with websockets_serve(
        FanOut() if job.fan_out else sink if job.sink else echo,
        HOST,
        0,
        ssl=server_context(job.certificates),
        compression="deflate" if job.compression else None,
        ping_interval=job.ping_interval,
        ping_timeout=None,
        max_size=None,
    ) as server:
        (sock,) = server.sockets
        report(port=sock.getsockname()[1])
        await server.serve_forever()


async def run_client(job: Job) -> None:
    async with connect(
        f"ws://{HOST}:{job.port}/", compression=None, ping_interval=None, max_size=None, proxy=None
    ) as ws:
        await measure_asyncio(job, ws.send, ws.recv)


def serve(job: Job) -> None:
    asyncio.run(run_server(job))


def client(job: Job) -> None:
    asyncio.run(run_client(job))
