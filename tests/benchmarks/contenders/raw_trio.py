"""A Trio server that sends back the bytes that it receives: the upper bound for WebSocket libraries on Trio.

When connections are opened and closed, it answers the opening handshake and the Close frame with fixed code, and checks
nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from .. import wire
from ..job import HOST, Job
from ..tls import server_context
from ..worker import report

CLOSE = wire.frame(wire.CLOSE, (1000).to_bytes(2, "big"), masked=False)


async def echo(stream: trio.abc.Stream) -> None:
    try:
        async for data in stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the client has gone


async def open_and_close(stream: trio.abc.Stream) -> None:
    """Answer the opening handshake, and the Close frame that comes next."""
    head = b""
    try:
        while not head.endswith(b"\r\n\r\n"):
            data = await stream.receive_some()
            if not data:
                return
            head += data
        await stream.send_all(wire.response(head))
        if await stream.receive_some():
            await stream.send_all(CLOSE)
    except trio.BrokenResourceError:
        pass  # the client has gone


async def run_server(job: Job) -> None:
    context = server_context(job.certificates)
    handler = echo if job.raw else open_and_close
    async with trio.open_nursery() as nursery:
        listeners: list[Any]
        if context is None:
            listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host=HOST))
            listener = listeners[0]
        else:
            listeners = await nursery.start(partial(trio.serve_ssl_over_tcp, handler, 0, context, host=HOST))
            listener = listeners[0].transport_listener
        report(port=listener.socket.getsockname()[1])


def serve(job: Job) -> None:
    trio.run(run_server, job)
