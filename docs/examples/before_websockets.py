"""A server and a client with websockets, on asyncio."""

import asyncio
import http

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response

connections: set[ServerConnection] = set()


def check_token(connection: ServerConnection, request: Request) -> Response | None:
    if request.headers.get("Authorization") != "Bearer secret":
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a token, please\n")
    return None


async def handle(ws: ServerConnection) -> None:
    connections.add(ws)
    try:
        async for message in ws:
            broadcast(connections, message)
            if message == "stop":
                await ws.close(4000, "stopped")
                break
    finally:
        connections.discard(ws)


async def main() -> None:
    async with serve(handle, "127.0.0.1", 0, process_request=check_token, max_size=2**16) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with connect(uri):
                pass
        except InvalidStatus as exc:
            print("refused:", exc.response.status_code)
        headers = {"Authorization": "Bearer secret"}
        async with (
            connect(uri, additional_headers=headers) as ws,
            connect(uri, additional_headers=headers) as other,
        ):
            pong = await other.ping()
            await pong
            await ws.send("hello")
            print(await asyncio.wait_for(ws.recv(), 5), await asyncio.wait_for(other.recv(), 5))
            await ws.send("stop")
            try:
                async for message in ws:
                    print(message)
            except ConnectionClosedError as exc:
                if exc.rcvd is not None:
                    print("closed:", exc.rcvd.code, exc.rcvd.reason)


asyncio.run(main())
