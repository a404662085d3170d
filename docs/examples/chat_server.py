"""A chat server: what one client says goes to all others.

Run it with ``python chat_server.py``, and talk to it from several terminals with
``python -m trio_ws connect ws://localhost:8765/ann``: the path is the name that the others see.

There is one task per connection, as in every server, and a nursery for what is said: each message to each client is a
task in it. So a client that does not read keeps nobody waiting. After ``PATIENCE`` seconds it has to leave.
"""

from functools import partial

import trio
import trio_ws

PATIENCE = 5


class Room:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.members: set[trio_ws.WebSocket] = set()

    async def handle(self, ws: trio_ws.WebSocket) -> None:
        name = ws.request.path.strip("/") or "somebody"
        self.tell_all(f"{name} has come in")
        self.members.add(ws)
        try:
            async for message in ws:
                if isinstance(message, str):
                    self.tell_all(f"{name}: {message}", but=ws)
        finally:
            self.members.remove(ws)
            self.tell_all(f"{name} has left")

    def tell_all(self, text: str, but: trio_ws.WebSocket | None = None) -> None:
        for ws in self.members - {but}:
            self.nursery.start_soon(self.tell, ws, text)

    async def tell(self, ws: trio_ws.WebSocket, text: str) -> None:
        try:
            with trio.move_on_after(PATIENCE) as scope:
                await ws.send(text)
            if scope.cancelled_caught:
                await ws.aclose(trio_ws.CloseCode.POLICY_VIOLATION, "you do not read")
        except trio_ws.ConnectionClosed:
            pass  # its handler sees that too


async def main() -> None:
    async with trio.open_nursery() as nursery:
        room = Room(nursery)
        await nursery.start(partial(trio_ws.serve, room.handle, 8765, host="localhost"))
        print("ws://localhost:8765/your-name")


trio.run(main)
