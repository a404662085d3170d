"""Follow a chat room, and reconnect when the server restarts.

Run it with ``python reconnecting_client.py NAME``. The server is chat_server.py. Stop it and
start it again, and this client reconnects.
"""

import sys

import trio
import trio_ws


async def say_hello(ws: trio_ws.WebSocket) -> None:
    await ws.send("I am here")


async def report(room: trio_ws.ReconnectingChannel) -> None:
    async for state in room.states():
        print(f"[{state}]")


async def main(name: str) -> None:
    uri = f"ws://localhost:8765/chat/lobby/{name}"
    backoff = trio_ws.Backoff(maximum=5)
    async with trio.open_nursery() as nursery:
        async with trio_ws.open_reconnecting(uri, on_connect=say_hello, backoff=backoff) as room:
            nursery.start_soon(report, room)
            async for message in room:
                print(message)


trio.run(main, sys.argv[1])
