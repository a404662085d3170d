"""websockets with Trio.

Set: ``compression=None``, ``ping_interval=None``, ``max_size=None``, ``proxy=None``.
"""

from __future__ import annotations

from functools import partial

import trio
from websockets.trio.client import connect
from websockets.trio.server import Server, ServerConnection
from websockets.trio.server import serve as websockets_serve

from ..clients import measure_trio
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
    """A handler that sends each message to all connections but the one it came from.

    One after the other: a nursery with a task for each costs more.
    """

    def __init__(self) -> None:
        self._connections: set[ServerConnection] = set()

    async def __call__(self, ws: ServerConnection) -> None:
        self._connections.add(ws)
        async for message in ws:
            for each in self._connections - {ws}:
                await each.send(message)


async def run_server(job: Job) -> None:
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(
            partial(
                websockets_serve,
                FanOut() if job.fan_out else sink if job.sink else echo,
                0,
                host=HOST,
                ssl=server_context(job.certificates),
                compression="deflate" if job.compression else None,
                ping_interval=job.ping_interval,
                ping_timeout=None,
                max_size=None,
            )
        )
        report(port=server.listeners[0].socket.getsockname()[1])


async def run_client(job: Job) -> None:
    async with connect(
        f"ws://{HOST}:{job.port}/", compression=None, ping_interval=None, max_size=None, proxy=None
    ) as ws:
        await measure_trio(job, ws.send, ws.recv)


def serve(job: Job) -> None:
    trio.run(run_server, job)


def client(job: Job) -> None:
    trio.run(run_client, job)
