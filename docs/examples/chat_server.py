"""A chat server: what one client says goes to all others.

Run it with ``python chat_server.py``, and talk to it from several terminals with
``python -m trio_ws connect ws://localhost:8765/ann``: the path is the name that the others see.

A client that does not read holds up nobody. When the buffer of its connection is full, it has to leave.
"""

import trio
import trio_ws


class Room:
    def __init__(self) -> None:
        self.members: set[trio_ws.WebSocket] = set()

    async def handle(self, ws: trio_ws.WebSocket) -> None:
        name = ws.request.path.strip("/") or "somebody"
        trio_ws.broadcast(self.members, f"{name} has come in")
        self.members.add(ws)
        try:
            async for message in ws:
                if isinstance(message, str):
                    trio_ws.broadcast(self.members - {ws}, f"{name}: {message}")
        finally:
            self.members.discard(ws)
            trio_ws.broadcast(self.members, f"{name} has left")


async def main() -> None:
    await trio_ws.serve(Room().handle, 8765, host="localhost")


trio.run(main)
