"""An echo server: ``python echo_server.py``. Ctrl-C stops it."""

import trio
import trio_ws


async def echo(ws: trio_ws.WebSocket) -> None:  # one task per connection
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    await trio_ws.serve(echo, 8765, host="localhost")  # until cancelled


trio.run(main)
