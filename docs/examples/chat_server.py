"""A chat server with rooms: each message goes to all other clients in the same room.

It needs ``pip install trio-ws[routing]``. Run it with ``python chat_server.py``, and
connect from several terminals with
``trio-ws connect ws://localhost:8765/chat/trio/ann``. In the path, ``trio`` is the room,
and ``ann`` is the name that the others see. ``ws://localhost:8765/rooms`` lists the rooms.

A client that does not read cannot hold up the others. It is disconnected when it is ten
seconds or 8 MiB behind. Ctrl-C or SIGTERM closes the server, and the handlers have five
seconds to finish.
"""

import signal
from functools import partial

import trio
import trio_ws

hub = trio_ws.Hub(when_full="drop")
names: dict[trio_ws.WebSocket, str] = {}


async def chat(ws: trio_ws.WebSocket, room: str, name: str) -> None:
    topic = hub.topic(room)
    names[ws] = name
    with topic.subscribe(ws):
        topic.publish(f"{name} has come in", exclude=[ws])
        try:
            present = sorted(names[member] for member in topic.members)
            await ws.send(f"in here: {', '.join(present)}")
            async for message in ws:
                if isinstance(message, str):
                    topic.publish(f"{name}: {message}", exclude=[ws])
        finally:
            del names[ws]
            topic.publish(f"{name} has left", exclude=[ws])


async def list_rooms(ws: trio_ws.WebSocket) -> None:
    for room in sorted(hub.topics):
        await ws.send(f"{room}: {len(hub.topic(room))}")


async def main() -> None:
    router = trio_ws.route({"/chat/<room>/<name>": chat, "/rooms": list_rooms})
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(trio_ws.serve, router, 8765, host="localhost"))
            await anext(signals)
            print("asked to end")
            await server.aclose(reason="the server ends", grace=5)


trio.run(main)
