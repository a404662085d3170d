"""aiohttp, with its C extensions.

Set: ``compress=False``, ``max_msg_size=0``, no access log. It sends no pings by default.
"""

from __future__ import annotations

import asyncio

from aiohttp import ClientSession, WSMsgType, web

from ..clients import measure_asyncio
from ..job import HOST, Job
from ..tls import server_context
from ..worker import report


class Handler:
    """Echoes, or sends each message to all connections but the one it came from."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._connections: set[web.WebSocketResponse] = set()

    async def __call__(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=self._job.compression is not None, max_msg_size=0)
        await ws.prepare(request)
        if self._job.fan_out:
            await self.fan_out(ws)
        else:
            await self.echo(ws)
        return ws

    async def echo(self, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)

    async def fan_out(self, ws: web.WebSocketResponse) -> None:
        self._connections.add(ws)
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                for each in self._connections - {ws}:
                    await each.send_bytes(message.data)


async def run_server(job: Job) -> None:
    app = web.Application()
    app.router.add_get("/", Handler(job))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=server_context(job.certificates)).start()
    report(port=runner.addresses[0][1])
    await asyncio.Event().wait()


async def run_client(job: Job) -> None:
    async with ClientSession() as session, session.ws_connect(f"http://{HOST}:{job.port}/", max_msg_size=0) as ws:
        if job.text:
            await measure_asyncio(job, ws.send_str, ws.receive_str)
        else:
            await measure_asyncio(job, ws.send_bytes, ws.receive_bytes)


def serve(job: Job) -> None:
    asyncio.run(run_server(job))


def client(job: Job) -> None:
    asyncio.run(run_client(job))
