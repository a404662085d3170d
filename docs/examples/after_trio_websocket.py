"""The same server and client with trio_ws."""

from functools import partial

import trio
import trio_ws


def check_path(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    return None if request.path == "/chat" else opening.respond(404, "there is only /chat")


async def handle(ws: trio_ws.ServerWebSocket) -> None:
    async for message in ws:
        await ws.send(message.upper())


async def main() -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(
            trio_ws.serve, host="127.0.0.1", subprotocols=["chat"], process_request=check_path
        )
        server = await nursery.start(serve, handle, 0)
        uri = f"ws://127.0.0.1:{server.port}"
        try:
            async with trio_ws.connect(f"{uri}/nowhere"):
                pass
        except trio_ws.InvalidStatus as exc:
            print("refused:", exc.status_code, exc.response.body.decode())
        async with trio_ws.connect(f"{uri}/chat", subprotocols=["chat"]) as ws:
            print("subprotocol:", ws.subprotocol)
            await ws.send("hello")
            with trio.fail_after(5):
                print(await ws.receive())
            await ws.ping()
            await ws.aclose(4000, "enough")
            try:
                await ws.receive()
            except trio_ws.ConnectionClosed as exc:
                print("closed:", exc.code)
        nursery.cancel_scope.cancel()


trio.run(main)
