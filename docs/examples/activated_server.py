"""A server for systemd, with or without socket activation.

Run it with ``server.service`` and ``server.socket``, or with ``python
activated_server.py``. SIGTERM and Ctrl-C close the connections, and the clients are
told that the server restarts.
"""

import signal
from functools import partial

import trio
import trio_ws


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    listeners = trio_ws.open_systemd_listeners()
    if listeners:
        serve = partial(trio_ws.serve, echo, listeners=listeners)
    else:
        serve = partial(trio_ws.serve, echo, 8765)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            await anext(signals)
            code = trio_ws.CloseCode.SERVICE_RESTART
            await server.aclose(code, "restarting", grace=20)


if __name__ == "__main__":
    trio.run(main)
