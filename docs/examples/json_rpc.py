"""JSON-RPC 2.0: many calls at a time over one connection, answered in any order."""

import itertools
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
import trio_ws


class RPCError(Exception):
    """The server answered a call with an error."""


class Client:
    """The calling side. Its ``run`` must run in a task: it receives the answers."""

    def __init__(self, ws: trio_ws.WebSocket) -> None:
        self._channel = trio_ws.TypedChannel[Any](ws, json.dumps, json.loads)
        self._ids = itertools.count(1)
        # For each call in progress, the channel to its task.
        self._calls: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}

    async def run(self) -> None:
        """Give each answer to the task that waits for it, until the connection is closed."""
        try:
            async for answer in self._channel:
                # The caller may have been cancelled meanwhile.
                if (call := self._calls.get(answer.get("id"))) is not None:
                    call.send_nowait(answer)
        finally:
            for call in self._calls.values():
                call.close()

    async def call(self, method: str, *params: object) -> Any:
        """Call a method and wait for its result. A timeout is a cancel scope around this."""
        number = next(self._ids)
        self._calls[number], answers = trio.open_memory_channel[dict[str, Any]](1)
        try:
            await self._channel.send(
                {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            )
            answer = await answers.receive()
        except trio.EndOfChannel:
            raise RPCError("the connection was closed before the answer") from None
        finally:
            del self._calls[number]
        if "error" in answer:
            raise RPCError(answer["error"]["message"])
        return answer["result"]


METHODS: dict[str, Callable[..., Awaitable[Any]]] = {}


async def serve_calls(ws: trio_ws.WebSocket) -> None:
    """Handle a connection: run each call in a task, so that a slow one does not delay the next."""
    channel = trio_ws.TypedChannel[Any](ws, json.dumps, json.loads)

    async def answer(request: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        method = METHODS.get(request["method"])
        if method is None:
            reply["error"] = {"code": -32601, "message": f"there is no method {request['method']}"}
        else:
            reply["result"] = await method(*request.get("params", ()))
        await channel.send(reply)

    async with trio.open_nursery() as nursery:
        while True:
            try:
                async for request in channel:
                    nursery.start_soon(answer, request)
                break
            except trio_ws.DecodeError as exc:
                error = {"code": -32700, "message": exc.reason}
                await channel.send({"jsonrpc": "2.0", "id": None, "error": error})
        nursery.cancel_scope.cancel()  # nobody waits for the remaining answers


async def sleep(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def show(client: Client, method: str, *params: object) -> None:
    try:
        print(method, *params, "->", await client.call(method, *params))
    except RPCError as exc:
        print(method, *params, "failed:", exc)


async def main() -> None:
    METHODS["sleep"] = sleep
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, serve_calls, 8765, host="localhost"))
        async with trio_ws.connect("ws://localhost:8765") as ws:
            client = Client(ws)
            nursery.start_soon(client.run)
            async with trio.open_nursery() as calls:
                calls.start_soon(show, client, "sleep", 0.2)
                calls.start_soon(show, client, "sleep", 0.1)
                calls.start_soon(show, client, "dance")
        await server.aclose()


trio.run(main)
