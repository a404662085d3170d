"""trio-websocket. It has no compression and sends no pings.

Set: ``max_message_size``, because the limit cannot be turned off.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio
import trio_websocket
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest

from ..clients import measure_trio
from ..job import HOST, MIB, Job
from ..tls import server_context
from ..worker import report

LIMIT = 64 * MIB


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


class FanOut:
    """A handler that sends each message to all connections but the one it came from."""

    def __init__(self) -> None:
        self._connections: set[WebSocketConnection] = set()

    async def __call__(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        self._connections.add(ws)
        try:
            while True:
                message = await ws.get_message()
                for each in self._connections - {ws}:
                    await each.send_message(message)
        except ConnectionClosed:
            pass


async def run_server(job: Job) -> None:
    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(
            partial(
                trio_websocket.serve_websocket,
                FanOut() if job.fan_out else echo,
                HOST,
                0,
                ssl_context=server_context(job.certificates),
                max_message_size=LIMIT,
            )
        )
        report(port=server.port)


async def run_client(job: Job) -> None:
    async with trio_websocket.open_websocket_url(f"ws://{HOST}:{job.port}/", max_message_size=LIMIT) as ws:
        await measure_trio(job, ws.send_message, ws.get_message)


def serve(job: Job) -> None:
    trio.run(run_server, job)


def client(job: Job) -> None:
    trio.run(run_client, job)
