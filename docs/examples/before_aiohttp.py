"""A client with aiohttp: it subscribes, and prints what it gets."""

import asyncio
import sys

import aiohttp


async def main(uri: str) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session:
        try:
            async with session.ws_connect(f"{uri}/nowhere"):
                pass
        except aiohttp.WSServerHandshakeError as exc:
            print("refused:", exc.status)
        async with session.ws_connect(
            f"{uri}/feed", protocols=["json"], heartbeat=30, max_msg_size=2**16
        ) as ws:
            print("subprotocol:", ws.protocol)
            await ws.send_json({"subscribe": "prices"})
            print(await ws.receive_json(timeout=5))
            async for message in ws:
                if message.type is aiohttp.WSMsgType.TEXT:
                    print(message.json())
                elif message.type is aiohttp.WSMsgType.ERROR:
                    print("failed:", ws.exception())
            print("closed:", ws.close_code)


asyncio.run(main(sys.argv[1]))
