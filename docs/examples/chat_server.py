"""A chat server: what one client says goes to all others.

Run it with ``python chat_server.py``, and talk to it from several terminals with
``python -m trio_ws connect ws://localhost:8765/ann``: the path is the name that the others see.

For each message there is a nursery with a task per client. The next message of the same client is read when all of them
have ended, so everybody hears what one client says in order. Sending waits only when a client does not read; after
``PATIENCE`` seconds such a client has to leave.
"""

import trio
import trio_ws

PATIENCE = 5


class Room:
    def __init__(self) -> None:
        self.members: set[trio_ws.WebSocket] = set()

    async def handle(self, ws: trio_ws.WebSocket) -> None:
        name = ws.request.path.strip("/") or "somebody"
        await self.tell_all(f"{name} has come in")
        self.members.add(ws)
        try:
            async for message in ws:
                if isinstance(message, str):
                    await self.tell_all(f"{name}: {message}", but=ws)
        finally:
            self.members.discard(ws)
            await self.tell_all(f"{name} has left")

    async def tell_all(self, text: str, but: trio_ws.WebSocket | None = None) -> None:
        async with trio.open_nursery() as nursery:
            for ws in self.members - {but}:
                nursery.start_soon(self.tell, ws, text)

    async def tell(self, ws: trio_ws.WebSocket, text: str) -> None:
        try:
            with trio.move_on_after(PATIENCE) as scope:
                await ws.send(text)
            if scope.cancelled_caught:
                self.members.discard(ws)
                await ws.send_close(trio_ws.CloseCode.POLICY_VIOLATION, "you do not read")
        except trio_ws.ConnectionClosed:
            pass  # its handler sees that too


async def main() -> None:
    await trio_ws.serve(Room().handle, 8765, host="localhost")


trio.run(main)
