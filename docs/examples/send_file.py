"""Send a file to receive_files.py as one message, in parts: ``python send_file.py FILE``."""

import sys

import trio
import trio_ws


async def main(path: str) -> None:
    async with await trio.open_file(path, "rb") as file:
        async with trio_ws.connect("ws://localhost:8765") as ws:
            async with ws.send_stream() as out:
                while part := await file.read(65536):
                    await out.send(part)
            print(await ws.receive())


trio.run(main, sys.argv[1])
