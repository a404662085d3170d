"""The same client with trio_ws."""

import json
import sys

import trio
import trio_ws


async def main(uri: str) -> None:
    options: trio_ws.ConnectOptions = {"headers": {"Authorization": "Bearer secret"}}
    try:
        async with trio_ws.connect(f"{uri}/nowhere", **options):
            pass
    except trio_ws.InvalidStatus as exc:
        print("refused:", exc.status_code)
    async with trio_ws.connect(
        f"{uri}/feed", subprotocols=["json"], max_message_size=2**16, **options
    ) as ws:
        print("subprotocol:", ws.subprotocol)
        channel = trio_ws.TypedChannel(ws, json.dumps, json.loads)
        await channel.send({"subscribe": "prices"})
        with trio.fail_after(5):
            print(await channel.receive())
        try:
            async for value in channel:
                print(value)
        except trio_ws.ConnectionClosedError as exc:
            if exc.rcvd is None:
                print("failed:", exc)
        print("closed:", ws.close_code)


trio.run(main, sys.argv[1])
