"""The same server and client with trio_ws."""

from functools import partial

import trio
import trio_ws


def check_token(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    if request.headers.get("Authorization") != "Bearer secret":
        return opening.respond(401, "a token, please\n")
    return None


async def handle(ws: trio_ws.ServerWebSocket) -> None:
    assert ws.opening.server is not None
    async for message in ws:
        trio_ws.broadcast(ws.opening.server.connections, message)
        if message == "stop":
            await ws.aclose(4000, "stopped")
            break


async def main() -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(
            trio_ws.serve, host="127.0.0.1", process_request=check_token, max_message_size=2**16
        )
        server = await nursery.start(serve, handle, 0)
        uri = f"ws://127.0.0.1:{server.port}"
        try:
            async with trio_ws.connect(uri):
                pass
        except trio_ws.InvalidStatus as exc:
            print("refused:", exc.status_code)
        headers = {"Authorization": "Bearer secret"}
        async with (
            trio_ws.connect(uri, headers=headers) as ws,
            trio_ws.connect(uri, headers=headers) as other,
        ):
            await other.ping()
            await ws.send("hello")
            with trio.fail_after(5):
                print(await ws.receive(), await other.receive())
            await ws.send("stop")
            try:
                async for message in ws:
                    print(message)
            except trio_ws.ConnectionClosedError as exc:
                print("closed:", exc.code, exc.reason)
        await server.aclose()


trio.run(main)
