"""GraphQL subscriptions (graphql-transport-ws), many of them over one connection."""

import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio_ws


class GraphQLError(Exception):
    """The server answered with errors."""


class Client:
    """Subscribes to queries. Its ``run`` must run in a task: it receives the results."""

    def __init__(self, ws: trio_ws.WebSocket) -> None:
        self._channel = trio_ws.TypedChannel[Any](ws, json.dumps, json.loads)
        self._ids = map(str, itertools.count(1))
        # For each subscription, the channel to its task.
        self._subscriptions: dict[str, trio.MemorySendChannel[dict[str, Any]]] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Log in, then give each result to its subscription, until the connection is closed."""
        await self._channel.send({"type": "connection_init"})
        async for message in self._channel:
            if message["type"] == "connection_ack":
                task_status.started()
            elif message["type"] == "ping":
                await self._channel.send({"type": "pong"})
            elif (subscription := self._subscriptions.get(message.get("id"))) is not None:
                # A slow subscriber delays the others, and finally the server, instead
                # of filling the memory.
                try:
                    await subscription.send(message)
                except trio.BrokenResourceError:
                    pass  # it has ended meanwhile

    @asynccontextmanager
    async def subscribe(self, query: str, **variables: object) -> AsyncIterator[AsyncIterator[Any]]:
        """Subscribe during the block. A query has one result, a subscription any number."""
        number = next(self._ids)
        self._subscriptions[number], messages = trio.open_memory_channel[dict[str, Any]](10)
        try:
            async with messages:
                payload = {"query": query, "variables": variables}
                await self._channel.send({"type": "subscribe", "id": number, "payload": payload})
                yield Results(messages)
        finally:
            del self._subscriptions[number]
            # If the server has not completed it. The server ignores this otherwise.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self._channel.send({"type": "complete", "id": number})


class Results:
    """The results of one subscription."""

    def __init__(self, messages: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        self._messages = messages

    def __aiter__(self) -> "Results":
        return self

    async def __anext__(self) -> Any:
        message = await self._messages.receive()
        if message["type"] == "complete":
            raise StopAsyncIteration
        if message["type"] == "error":
            raise GraphQLError(message["payload"][0]["message"])
        return message["payload"]["data"]


async def show(client: Client, query: str) -> None:
    async with client.subscribe(query) as results:
        async for data in results:
            print(data)


async def main() -> None:
    uri, *queries = sys.argv[1:]
    async with trio_ws.connect(uri, subprotocols=["graphql-transport-ws"]) as ws:
        async with trio.open_nursery() as nursery:
            client = Client(ws)
            await nursery.start(client.run)
            async with trio.open_nursery() as subscriptions:
                for query in queries:
                    subscriptions.start_soon(show, client, query)
            nursery.cancel_scope.cancel()


trio.run(main)
