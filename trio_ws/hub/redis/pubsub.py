"""Messages by publish and subscribe: faster, but they have no positions, and are gone when they have been sent.

What has arrived and was not received yet is bounded: messages for which there is no room are dropped, and a loss takes
their place. Consecutive losses of a topic are one, and losses that are known to come from one publisher count, too.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from sys import getsizeof

import trio

from ...protocol import Message
from ..backend import BackendEvent, History, Lost, Position, Publication, Received
from .client import Command, RedisClient
from .listener import Listener
from .scripts import Names
from .streams import decode, encode

__all__ = ["PubSub", "pack", "unpack"]

logger: logging.Logger = logging.getLogger("trio_ws.hub")

#: Maximum memory of the messages and losses that wait to be received, in bytes.
MAX_WAITING = 8 * 2**20

#: Memory of a waiting event without the content of the message, in bytes.
_OVERHEAD = 400

#: How many messages to receive at once.
BATCH = 500


def pack(publications: Sequence[Publication]) -> bytes:
    """Return the content of one published message: publications of one topic and publisher.

    It is the publisher and, for each publication, its number, the size of its data, and its data.
    """
    parts = [publications[0].publisher.encode()]
    for publication in publications:
        data = encode(publication.message)
        parts.append(b":%d:%d:%b" % (publication.number, len(data), data))
    return b"".join(parts)


def unpack(content: bytes) -> tuple[str, list[tuple[int, Message | None]]]:
    """Return what :func:`pack` has packed: the publisher, and the numbers and messages.

    Raises:
        ValueError: If it comes from somebody else.
    """
    end = content.index(b":")
    publisher = content[:end].decode()
    messages = []
    while end < len(content):
        number_end = content.index(b":", end + 1)
        start = content.index(b":", number_end + 1) + 1
        number, size = int(content[end + 1 : number_end]), int(content[number_end + 1 : start - 1])
        if not 0 < size <= len(content) - start:
            raise ValueError(f"the size must be between 1 and {len(content) - start}, not {size}")
        messages.append((number, decode(content[start : start + size])))
        end = start + size
    return publisher, messages


class PubSub:
    """The messages of one session.

    Args:
        client: The client.
        names: The names of channels.
        sharded: Whether the channels are sharded.
    """

    def __init__(self, client: RedisClient, names: Names, *, sharded: bool) -> None:
        self._client = client
        self._names = names
        self._sharded = sharded
        self._listener = Listener(client, sharded=sharded, on_message=self._on_message)
        self._topics: dict[bytes, str] = {}
        # The events to receive, each with its size; and the sum of the sizes.
        self._waiting: deque[tuple[BackendEvent, int]] = deque()
        self._size = 0
        # The topics whose last events are losses, and the publishers of these; None stands for all.
        self._lost: dict[str, set[str | None]] = {}
        self._wake = trio.Event()

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        await self._listener.start(nursery)

    def _on_message(self, channel: bytes, content: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is None:
            return
        try:
            publisher, messages = unpack(content)
        except ValueError:
            # It may be a message of a hub that was damaged.
            logger.warning("what was published to the channel of topic %r is no message of a hub", topic)
            publisher, messages = "", []
            self._add_loss(topic, None)
        for number, message in messages:
            size = getsizeof(message) + _OVERHEAD
            if message is None:
                self._add_loss(topic, publisher)
            elif self._size and self._size + size > MAX_WAITING:
                self._add_loss(topic, None)
            else:
                self._lost.pop(topic, None)
                self._waiting.append((Received(topic, message, publisher, number, None), size))
                self._size += size
        self._wake.set()

    def _add_loss(self, topic: str, publisher: str | None) -> None:
        publishers = self._lost.setdefault(topic, set())
        if publishers & {publisher, None}:
            return
        if self._size + _OVERHEAD > MAX_WAITING:
            publisher = None
        publishers.add(publisher)
        # One for each subscribed topic may always wait.
        size = 0 if publisher is None else _OVERHEAD
        self._waiting.append((Lost(topic, None, publisher), size))
        self._size += size

    async def publish(self, batch: Sequence[Publication]) -> None:
        """Publish messages. The hubs ignore those that they have received before."""
        by_channel: dict[bytes, list[Publication]] = {}
        for publication in batch:
            by_channel.setdefault(self._names.channel(publication.topic), []).append(publication)
        name = b"SPUBLISH" if self._sharded else b"PUBLISH"
        commands = [Command(channel, name, (channel, pack(messages))) for channel, messages in by_channel.items()]
        await self._client.publish(commands, list(by_channel.values()))

    async def receive(self) -> Sequence[BackendEvent]:
        """Wait for messages and losses."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            self._wake = trio.Event()
            await self._wake.wait()
        events: list[BackendEvent] = []
        while self._waiting and len(events) < BATCH:
            event, size = self._waiting.popleft()
            self._size -= size
            if isinstance(event, Lost) and (publishers := self._lost.get(event.topic)):
                # This loss is reported now, so later ones of its publisher need an event of their own.
                publishers.discard(event.publisher)
                if not publishers:
                    del self._lost[event.topic]
            events.append(event)
        return events

    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        """Subscribe to topics."""
        channels = {self._names.channel(topic): topic for topic in topics}
        self._topics.update(channels)
        await self._listener.subscribe(list(channels))
        return dict.fromkeys(topics)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Unsubscribe from topics."""
        channels = [self._names.channel(topic) for topic in topics]
        for channel in channels:
            self._topics.pop(channel, None)
        await self._listener.unsubscribe(channels)

    async def history(self, topic: str, since: Position, max_bytes: int) -> History:
        """Return that there is no history."""
        await trio.lowlevel.checkpoint()
        return History((), None, complete=False)
