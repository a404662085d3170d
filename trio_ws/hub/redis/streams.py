"""Messages by streams: they have positions, and stay for a while.

A published message is added to the stream of its topic, and a notification without content goes to the channel of the
topic. Each process listens to the channels of its topics, and fetches what is new in the streams. So what waits to be
received waits in Redis, not in this process, and any number of notifications that come together cost one fetch.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
import trio

from ...protocol import Message
from ..backend import BackendEvent, History, Lost, Position, Publication, Received
from .client import Command, RedisClient
from .listener import Listener
from .scripts import FETCH, OPEN, PUBLISH, Names, Script

__all__ = ["StreamSettings", "Streams", "decode", "encode"]

#: Limits of one fetch.
FETCH_TOPICS = 32
FETCH_BYTES = 2**19

#: How many topics to open with one pipeline.
OPEN_TOPICS = 200

#: How many of the topics to which this process has published last to remember.
MAX_PUBLISHED = 1000

#: Seconds between two checks of all topics, which also keep them from expiring.
CHECK_INTERVAL = 30.0

#: Milliseconds for which the numbers of publishers are kept. A message is not published again after that.
NUMBERS_KEPT = 3_600_000


@attrs.frozen
class StreamSettings:
    """The options of streams.

    Attributes:
        history: Maximum number of messages of a topic.
        max_age: Seconds for which messages stay at least.
        sharded: Whether the channels are sharded.
    """

    history: int
    max_age: float
    sharded: bool

    @property
    def kept(self) -> int:
        """Milliseconds for which to keep an unused topic."""
        return int(max(2 * self.max_age, 3600) * 1000)


def encode(message: Message | None) -> bytes:
    """Return a message as bytes, with its kind; None becomes a marker of a loss."""
    if message is None:
        return b"l"
    return b"t" + message.encode() if isinstance(message, str) else b"b" + message


def decode(data: bytes) -> Message | None:
    """Return what :func:`encode` has encoded."""
    if data[:1] == b"l":
        return None
    return data[1:].decode() if data[:1] == b"t" else data[1:]


class Streams:
    """The messages of one session.

    Args:
        client: The client.
        names: The names of keys and channels.
        settings: The options.
        published: The positions behind the last messages that this process has published, by topic. It is changed, and
            belongs to the next session, too: whoever knows a message that Redis has lost must tell the others.
    """

    def __init__(
        self, client: RedisClient, names: Names, settings: StreamSettings, published: dict[str, Position]
    ) -> None:
        self._client = client
        self._names = names
        self._settings = settings
        self._published = published
        self._listener = Listener(client, sharded=settings.sharded, on_message=self._on_notification)
        # The subscribed topics by their channels, and the positions from which to receive them.
        self._topics: dict[bytes, str] = {}
        self._positions: dict[str, Position] = {}
        # Topics that may have something to receive, an ordered set; those that had a notification before their position
        # was known; and losses to receive.
        self._dirty: dict[str, None] = {}
        self._early: set[str] = set()
        self._losses: list[Lost] = []
        self._wake = trio.Event()

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        await self._listener.start(nursery)
        for topic, result in await self._call_open(self._published):
            self._remember(topic, result[0], result[1])
        nursery.start_soon(self._check_regularly)

    def _remember(self, topic: str, epoch: bytes, head: int) -> None:
        """Remember the position behind a message that this process has published."""
        self._published.pop(topic, None)
        self._published[topic] = Position(epoch.decode(), head)
        if len(self._published) > MAX_PUBLISHED:
            del self._published[next(iter(self._published))]

    def _on_notification(self, channel: bytes, content: bytes) -> None:
        topic = self._topics.get(channel)
        if topic in self._positions:
            self._mark(topic)
        elif topic is not None:
            self._early.add(topic)

    def _mark(self, topic: str) -> None:
        if topic in self._positions:
            self._dirty[topic] = None
            self._wake.set()

    async def publish(self, batch: Sequence[Publication]) -> None:
        """Add messages to their streams. The script ignores those that it has added before."""
        settings = self._settings
        by_topic: dict[str, list[Publication]] = {}
        for publication in batch:
            by_topic.setdefault(publication.topic, []).append(publication)
        publisher = batch[0].publisher
        max_age = max(int(settings.max_age * 1000), 1)
        commands = []
        for topic, publications in by_topic.items():
            keys = [self._names.stream(topic), self._names.hash(topic), self._names.publisher(topic, publisher)]
            arguments = [*self._begin(), settings.history, max_age, publisher, *self._notify(topic), NUMBERS_KEPT]
            for publication in publications:
                arguments += publication.number, encode(publication.message)
            commands.append(Command.of_script(PUBLISH, keys, arguments))
        results = await self._client.publish(commands, list(by_topic.values()))
        for topic, (epoch, head) in zip(by_topic, results, strict=True):
            self._remember(topic, epoch, head)

    def _notify(self, topic: str) -> tuple[bytes, bytes]:
        """Return the arguments with which a script notifies the subscribers of a topic."""
        return b"SPUBLISH" if self._settings.sharded else b"PUBLISH", self._names.channel(topic)

    def _begin(self) -> list[Any]:
        """Return the arguments with which every script begins."""
        return [secrets.token_hex(4), self._settings.kept]

    def _command(self, script: Script, topic: str, since: Position | None, *args: Any) -> Command:
        """Return the command that runs a script that resolves a position."""
        # Larger numbers are not exact in Lua; no topic has so many messages.
        epoch, offset = ("", 0) if since is None else (since.epoch or "-", min(since.offset, 2**53))
        keys = [self._names.stream(topic), self._names.hash(topic)]
        return Command.of_script(script, keys, [*self._begin(), epoch.encode("utf-8", "replace"), offset, *args])

    async def receive(self) -> Sequence[BackendEvent]:
        """Wait for messages and losses. If cancelled, nothing is lost: positions change when this returns."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._losses:
                losses, self._losses = self._losses, []
                return losses
            if not self._dirty:
                self._wake = trio.Event()
                await self._wake.wait()
            elif events := await self._fetch():
                return events

    async def _fetch(self) -> list[BackendEvent]:
        """Fetch the next messages of some topics."""
        since = {topic: self._positions[topic] for topic in islice(self._dirty, FETCH_TOPICS)}
        for topic in since:
            del self._dirty[topic]
        try:
            max_bytes = FETCH_BYTES // len(since)
            results = await self._client.call(
                [self._command(FETCH, topic, at, max_bytes) for topic, at in since.items()]
            )
        except BaseException:  # also when cancelled: nobody has seen the answer
            for topic in since:
                self._mark(topic)
            raise
        events: list[BackendEvent] = []
        for topic, result in zip(since, results, strict=True):
            if self._positions.get(topic) != since[topic]:
                continue  # It has been unsubscribed meanwhile.
            fetched, position, more = _parse(topic, result)
            self._positions[topic] = position
            events += fetched
            if more:
                self._mark(topic)
        return events

    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        """Subscribe to topics."""
        channels = {self._names.channel(topic): topic for topic in topics}
        self._topics.update(channels)
        # Notifications must come from before the moment whose position is asked for.
        await self._listener.subscribe(list(channels))
        return await self._open(topics)

    async def _open(self, topics: Mapping[str, Position | None]) -> dict[str, Position | None]:
        """Find the positions from which to receive topics. One before a loss stays as it is."""
        positions: dict[str, Position | None] = {}
        for topic, (epoch, head, start, lost) in await self._call_open(topics):
            position = self._positions[topic] = Position(epoch.decode(), start)
            positions[topic] = topics[topic] if lost else position
            if lost:
                self._losses.append(Lost(topic, position))
                self._wake.set()
            # A notification may have overtaken the result.
            if start < head or topic in self._early:
                self._early.discard(topic)
                self._mark(topic)
        return positions

    async def _call_open(self, topics: Mapping[str, Position | None]) -> list[tuple[str, list[Any]]]:
        """Return the topics with the results of ``OPEN``."""
        items = list(topics.items())
        results: list[tuple[str, list[Any]]] = []
        for index in range(0, len(items), OPEN_TOPICS):
            part = items[index : index + OPEN_TOPICS]
            commands = [self._command(OPEN, topic, since, *self._notify(topic)) for topic, since in part]
            results += zip((topic for topic, _ in part), await self._client.call(commands), strict=True)
        return results

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Unsubscribe from topics."""
        channels = [self._names.channel(topic) for topic in topics]
        for topic, channel in zip(topics, channels, strict=True):
            self._topics.pop(channel, None)
            self._positions.pop(topic, None)
            self._dirty.pop(topic, None)
            self._early.discard(topic)
        await self._listener.unsubscribe(channels)

    async def history(self, topic: str, since: Position, max_bytes: int) -> History:
        """Return messages of the past."""
        (result,) = await self._client.call([self._command(FETCH, topic, since, max_bytes)])
        events, position, more = _parse(topic, result)
        messages = [event for event in events if isinstance(event, Received)]
        if len(messages) < len(events):
            return History((), position, complete=False)
        return History(messages, position, complete=True, more=more)

    async def _check_regularly(self) -> None:
        """Keep the topics in use from expiring, and look for messages whose notification was lost."""
        while True:
            await trio.sleep(CHECK_INTERVAL)
            for topic, (_, head, start, lost) in await self._call_open(self._positions):
                if lost or start < head:
                    self._mark(topic)


def _parse(topic: str, result: list[Any]) -> tuple[list[BackendEvent], Position, bool]:
    """Return the events in a result of ``FETCH``, the position behind them, and whether there are more."""
    name, head, offset, lost, *entries = result
    epoch = name.decode()
    events: list[BackendEvent] = [Lost(topic, Position(epoch, offset))] if lost else []
    for by, data in zip(entries[::2], entries[1::2], strict=True):
        offset += 1
        publisher, _, number = by.decode().partition(":")
        message, position = decode(data), Position(epoch, offset)
        if message is None:
            events.append(Lost(topic, position, publisher))
        else:
            events.append(Received(topic, message, publisher, int(number), position))
    return events, Position(epoch, offset), offset < head
