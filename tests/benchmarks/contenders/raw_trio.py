"""A Trio server that sends back the bytes that it receives: what no WebSocket library on Trio can surpass."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from ..job import HOST, Job
from ..tls import server_context
from ..worker import report


async def echo(stream: trio.abc.Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def run_server(job: Job) -> None:
    context = server_context(job.certificates)
    async with trio.open_nursery() as nursery:
        listeners: list[Any]
        if context is None:
            listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host=HOST))
            listener = listeners[0]
        else:
            listeners = await nursery.start(partial(trio.serve_ssl_over_tcp, echo, 0, context, host=HOST))
            listener = listeners[0].transport_listener
        report(port=listener.socket.getsockname()[1])


def serve(job: Job) -> None:
    trio.run(run_server, job)
