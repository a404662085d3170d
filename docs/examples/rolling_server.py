"""A server that can be replaced without disconnecting its clients.

Run it with ``python rolling_server.py PORT``. On SIGTERM or Ctrl-C, it stops accepting,
and ends when its clients have left. Those that are still there after a minute are
disconnected, some at a time, so that they do not all come back in the same moment.
"""

import signal
import sys
from functools import partial

import trio
import trio_ws

PATIENCE = 60  # seconds for clients to leave by themselves
SPREAD = 20  # seconds in which the others are disconnected
GRACE = 5  # seconds for handlers to return


def check_health(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    return opening.respond(200, "OK\n") if opening.path == "/healthz" else None


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    serve = partial(trio_ws.serve, echo, port, process_request=check_health)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            await anext(signals)
            if not await server.drain(timeout=PATIENCE):
                connections = server.connections
                for ws in connections:
                    await ws.send_close(trio_ws.CloseCode.SERVICE_RESTART, "restarting")
                    await trio.sleep(SPREAD / len(connections))
                await server.aclose(trio_ws.CloseCode.SERVICE_RESTART, "restarting", grace=GRACE)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
