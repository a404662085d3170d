"""Connections that listen to channels.

coredis has a class for this, too, but that connects again without telling, and its queues have no limits. So this uses
its connections directly. What arrives is handled at once, and each connection is checked with a ``PING`` regularly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import trio

from ...exceptions import BackendUnavailable
from .client import RedisClient, within

__all__ = ["Listener"]

#: Seconds between two checks of a connection.
PING_INTERVAL = 2.0

#: How many channels to subscribe to with one command.
BATCH = 500


class Listener:
    """Listens to channels of one server, or of all nodes of a cluster.

    Args:
        client: The client.
        sharded: Whether the channels are sharded: each belongs to the node that has its slot.
        on_message: Called with the channel and the content of each message. It must not wait.
    """

    def __init__(self, client: RedisClient, *, sharded: bool, on_message: Callable[[bytes, bytes], None]) -> None:
        self._client = client
        self._on_message = on_message
        self._sharded = sharded
        # The connections: one, or one for each node of a cluster.
        self._connections: dict[str, Any] = {}
        # Channels whose subscription was not confirmed yet.
        self._unconfirmed: set[bytes] = set()
        self._confirmed = trio.Event()
        self._subscribed: set[bytes] = set()
        # Sharded channels, with the number of unsubscriptions that Redis has not confirmed yet.
        self._leaving: Counter[bytes] = Counter()

    async def start(self, nursery: trio.Nursery) -> None:
        """Connect, and start the tasks.

        Raises:
            BackendUnavailable: If Redis cannot be reached.
        """
        for name in self._client.nodes():
            self._connections[name] = await nursery.start(self._listen, name)

    async def _listen(self, name: str, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        with within(math.inf):
            with within(self._client.timeout):
                connection = await self._client.open_connection(name)
            try:
                task_status.started(connection)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ping, connection)
                    async for message in connection.push_messages:
                        self._handle(message)
                        self._handle_waiting(connection)
            finally:
                connection.invalidate()

    def _handle_waiting(self, connection: Any) -> None:
        """Handle what else has arrived: coredis returns one message in each step, and its queue has no limit."""
        import anyio

        with suppress(anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                self._handle(connection._push_message_buffer_out.receive_nowait())

    async def _ping(self, connection: Any) -> None:
        while True:
            await trio.sleep(PING_INTERVAL)
            with within(math.inf):
                await self._client.wait(connection.create_request(b"PING"))

    def _handle(self, message: list[Any]) -> None:
        kind, channel = message[0], message[1]
        if kind in (b"message", b"smessage"):
            self._on_message(channel, message[2])
        elif kind in (b"subscribe", b"ssubscribe"):
            self._unconfirmed.discard(channel)
            if not self._unconfirmed:
                self._confirmed.set()
        elif kind == b"sunsubscribe":
            if self._leaving[channel]:
                self._leaving -= Counter([channel])
            elif channel in self._subscribed:
                raise BackendUnavailable("a slot of the cluster has moved to another node")

    async def subscribe(self, channels: Collection[bytes]) -> None:
        """Subscribe to channels. When this returns, their messages arrive.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        with within(self._client.timeout):
            self._confirmed = trio.Event()
            self._unconfirmed.update(channels)
            self._subscribed.update(channels)
            self._send(b"SSUBSCRIBE" if self._sharded else b"SUBSCRIBE", channels)
            await self._confirmed.wait()

    async def unsubscribe(self, channels: Collection[bytes]) -> None:
        """Unsubscribe from channels. Some messages may still arrive."""
        await trio.lowlevel.checkpoint()
        self._subscribed.difference_update(channels)
        if self._sharded:
            self._leaving.update(channels)
        with within(self._client.timeout):
            self._send(b"SUNSUBSCRIBE" if self._sharded else b"UNSUBSCRIBE", channels)

    def _send(self, command: bytes, channels: Collection[bytes]) -> None:
        if not self._client.is_cluster:
            waiting = list(channels)
            for index in range(0, len(waiting), BATCH):
                self._connections[""].send_command(command, *waiting[index : index + BATCH])
            return
        for channel in channels:
            connection = self._connections.get(self._client.node_of(channel))
            if connection is None:
                raise BackendUnavailable("the cluster has a new node")
            # One command must not have channels of several slots.
            connection.send_command(command, channel)
