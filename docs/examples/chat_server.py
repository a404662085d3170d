"""A chat server with rooms: each message goes to all other clients in the same room.

It needs ``pip install trio-ws[routing]``. Run it with ``python chat_server.py``, and
connect from several terminals with
``trio-ws connect ws://localhost:8765/chat/trio/ann``. In the path, ``trio`` is the room,
and ``ann`` is the name that the others see. ``ws://localhost:8765/rooms`` lists the rooms.

With ``--redis redis://localhost:6379``, several of these servers share the rooms, on one machine or
on several. That needs ``pip install trio-ws[redis]``.

A client that does not read cannot hold up the others. It is disconnected when it is ten
seconds or 8 MiB behind. Ctrl-C or SIGTERM closes the server, and the handlers have five
seconds to finish.
"""

import argparse
import signal
from functools import partial

import trio
import trio_ws

parser = argparse.ArgumentParser()
parser.add_argument(
    "--redis", metavar="URL", help="share the rooms with the other servers at this Redis"
)
parser.add_argument("--host", default="localhost")
parser.add_argument("--port", type=int, default=8765)
parser.add_argument("--reuse-port", action="store_true", help="let other servers use the same port")
arguments = parser.parse_args()

backend = trio_ws.RedisBackend(arguments.redis, prefix="chat:") if arguments.redis else None
hub = trio_ws.Hub(when_full="drop", backend=backend)
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
    serve = partial(
        trio_ws.serve, router, arguments.port, host=arguments.host, reuse_port=arguments.reuse_port
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            server = await nursery.start(serve)
            await anext(signals)
            print("asked to end")
            await server.aclose(reason="the server ends", grace=5)
            nursery.cancel_scope.cancel()


trio.run(main)
