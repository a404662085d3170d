"""A client for echo_server.py: ``python client.py``."""

import trio
import trio_ws


async def main() -> None:
    async with trio_ws.connect("ws://localhost:8765") as ws:
        await ws.send("hello")
        async for message in ws:  # str for text, bytes for binary
            print(message)
            await ws.aclose()


trio.run(main)
