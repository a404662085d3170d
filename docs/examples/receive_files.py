"""A server that stores each message in a file. Use send_file.py with it.

Run it with ``python receive_files.py``. Each part of a message is written when it arrives,
so the size of a message does not matter. While the disk is busy, the client has to wait.
"""

import trio
import trio_ws


async def receive_files(ws: trio_ws.WebSocket) -> None:
    number = 0
    try:
        while True:
            async with ws.receive_stream() as parts:
                number += 1
                size = 0
                async with await trio.open_file(f"received-{number}", "wb") as file:
                    async for part in parts:
                        data = part.encode() if isinstance(part, str) else part
                        await file.write(data)
                        size += len(data)
            await ws.send(f"received {size} bytes")
    except trio_ws.ConnectionClosedOK:
        pass


async def main() -> None:
    await trio_ws.serve(receive_files, 8765, host="localhost", max_message_size=None)


trio.run(main)
