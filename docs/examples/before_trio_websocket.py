"""A server and a client with trio-websocket."""

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)


async def handle(request: WebSocketRequest) -> None:
    if request.path != "/chat":
        await request.reject(404, body=b"there is only /chat")
        return
    ws = await request.accept(subprotocol="chat")
    try:
        while True:
            message = await ws.get_message()
            await ws.send_message(message.upper())
    except ConnectionClosed:
        pass


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        uri = f"ws://127.0.0.1:{server.port}"
        try:
            async with open_websocket_url(f"{uri}/nowhere"):
                pass
        except ConnectionRejected as exc:
            print("refused:", exc.status_code, exc.body.decode())
        async with open_websocket_url(f"{uri}/chat", subprotocols=["chat"]) as ws:
            print("subprotocol:", ws.subprotocol)
            await ws.send_message("hello")
            with trio.fail_after(5):
                print(await ws.get_message())
            await ws.ping()
            await ws.aclose(4000, "enough")
            try:
                await ws.get_message()
            except ConnectionClosed as exc:
                print("closed:", exc.reason.code)
        nursery.cancel_scope.cancel()


trio.run(main)
