"""The engine in memory: ``MemoryStore``, and ``MemoryBackend``, which connects hubs in one process with it.

A hub without a back end has a store of its own, and uses it directly, without a task. The store keeps the last messages
of each topic, so that clients that reconnect get what they have missed.
"""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence
from sys import getsizeof

import trio

from ..exceptions import BackendUnavailable
from ..misuse.values import check_int
from .backend import Backend, BackendEvent, History, Lost, Position, Publication, Received

__all__ = ["MemoryBackend", "MemoryStore", "check_max_age"]

#: The largest ``max_age``, in seconds: about 30 years.
MAX_AGE = 10**9

#: How many bytes of messages a back end receives at once.
RECEIVE_BYTES = 2**18

#: Memory of an entry without its topic, publisher and message, in bytes.
_ENTRY_OVERHEAD = (
    getsizeof((0, 0, 0.5)) + getsizeof(Publication("", b"", "", 0)) + getsizeof(2**40) + 3 * getsizeof(0.5)
)

#: Memory of a topic without entries, in bytes.
_TOPIC_OVERHEAD = 1500


def check_max_age(value: object) -> None:
    """Check a maximum age in seconds.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not greater than 0, or is greater than ``MAX_AGE``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"max_age must be a number, not {value!r}")
    if not 0 < value <= MAX_AGE:
        raise ValueError(f"max_age must be greater than 0, and at most {MAX_AGE:,} seconds, not {value!r:.40}")


class _Timeline:
    """The messages of one topic, and the numbers of its last messages by publisher."""

    __slots__ = ("entries", "epoch", "head", "last_used", "numbers")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.head = 0
        # Publications, each with its size and the time at which it was added. The last one has the offset `head`.
        self.entries: deque[tuple[Publication, int, float]] = deque()
        self.numbers: dict[str, int] = {}
        self.last_used = 0.0


class MemoryStore:
    """Topics and their last messages, in the memory of one process.

    Messages are removed when a topic has more than ``history`` of them, when they are older than ``max_age``, and when
    all topics together take more than ``max_bytes``; then those go first whose topic has been quiet for longest.

    Args:
        history: Maximum number of messages in the history of a topic.
        max_age: Maximum age of messages in the history, in seconds.
        max_bytes: Maximum memory of all topics and messages, in bytes, except for topics that have members.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.
    """

    def __init__(self, *, history: int = 1000, max_age: float = 300.0, max_bytes: int = 16 * 2**20) -> None:
        check_int("history", history, 0)
        check_max_age(max_age)
        check_int("max_bytes", max_bytes, 0)
        self._history = history
        self._max_age = max_age
        self._max_bytes = max_bytes
        # Memory of messages, and of topics that are not in use: the others cannot be removed.
        self._size = 0
        # The topics, the one that has been quiet for longest first. In a dict, finding the first one would take longer
        # and longer while topics move to the end.
        self._timelines: OrderedDict[str, _Timeline] = OrderedDict()
        # The number of uses of each topic. A topic in use keeps its position.
        self._uses: Counter[str] = Counter()
        self._backends: list[MemoryBackend] = []

    def __contains__(self, topic: object) -> bool:
        """Return whether there is a history of the topic."""
        return topic in self._timelines

    def use(self, topic: str) -> Position:
        """Keep the position of a topic until :meth:`release`. Return the position."""
        timeline = self._timelines.get(topic)
        if timeline is None:
            timeline = self._timelines[topic] = _Timeline()
            timeline.last_used = trio.current_time()
        elif not self._uses[topic]:
            self._size -= _TOPIC_OVERHEAD
        self._uses[topic] += 1
        return Position(timeline.epoch, timeline.head)

    def release(self, topic: str) -> None:
        """End one :meth:`use` of a topic."""
        self._uses[topic] -= 1
        if not self._uses[topic]:
            del self._uses[topic]
            self._size += _TOPIC_OVERHEAD

    def append(self, publication: Publication) -> Received | Lost | None:
        """Add a message to its topic, and remove old ones.

        Returns:
            What subscribers receive; None if the number shows that the message has been added before.
        """
        topic, now = publication.topic, trio.current_time()
        timeline = self._timelines.pop(topic, None)
        if timeline is None:
            timeline = _Timeline()
            self._size += _TOPIC_OVERHEAD
        self._timelines[topic] = timeline  # the last one
        timeline.last_used = now
        if publication.number <= timeline.numbers.get(publication.publisher, 0):
            return None
        timeline.numbers[publication.publisher] = publication.number
        timeline.head += 1
        size = _ENTRY_OVERHEAD + (0 if publication.message is None else getsizeof(publication.message))
        timeline.entries.append((publication, size, now))
        self._size += size
        event = _make_event(publication, Position(timeline.epoch, timeline.head))
        self._trim(timeline, now)
        self._expire(now)
        return event

    def _trim(self, timeline: _Timeline, now: float) -> None:
        """Remove old messages of a topic."""
        entries = timeline.entries
        while entries and (len(entries) > self._history or entries[0][2] <= now - self._max_age):
            self._size -= entries.popleft()[1]

    def _expire(self, now: float) -> None:
        """Remove topics that have been quiet for too long, and messages if all take too much memory."""
        for _ in range(len(self._timelines)):
            topic, timeline = next(iter(self._timelines.items()))
            is_old = timeline.last_used <= now - self._max_age
            if not is_old and self._size <= self._max_bytes:
                break
            while timeline.entries and (is_old or self._size > self._max_bytes):
                self._size -= timeline.entries.popleft()[1]
            if timeline.entries:
                break
            del self._timelines[topic]
            if topic in self._uses:
                timeline.last_used = now
                self._timelines[topic] = timeline  # the last one
            else:
                self._size -= _TOPIC_OVERHEAD

    def read(self, topic: str, since: Position, max_bytes: int) -> tuple[list[BackendEvent], Position, bool]:
        """Return the events after a position, the position behind them, and whether there are more.

        If messages are missing after the position, the first event is a :class:`Lost`.

        Args:
            topic: The name of the topic.
            since: The position.
            max_bytes: About how many bytes of messages to return at most, but at least one event.
        """
        timeline = self._timelines.get(topic)
        if timeline is None:
            return [Lost(topic, None)], since, False
        events: list[BackendEvent] = []
        self._trim(timeline, trio.current_time())
        first = timeline.head - len(timeline.entries)
        offset = since.offset
        if since.epoch != timeline.epoch or not first <= offset <= timeline.head:
            offset = first
            events.append(Lost(topic, Position(timeline.epoch, offset)))
        size = 0
        for index in range(offset - first, len(timeline.entries)):
            publication, entry_size, _ = timeline.entries[index]
            size += entry_size
            if events and size > max_bytes:
                return events, Position(timeline.epoch, offset), True
            offset += 1
            events.append(_make_event(publication, Position(timeline.epoch, offset)))
        return events, Position(timeline.epoch, offset), False

    def history(self, topic: str, since: Position, max_bytes: int) -> History:
        """Return the messages after a position, as :meth:`Backend.history` does."""
        events, position, more = self.read(topic, since, max_bytes)
        messages = [event for event in events if isinstance(event, Received)]
        if len(messages) < len(events):
            return History((), position, complete=False)
        return History(messages, position, complete=True, more=more)


def _make_event(publication: Publication, position: Position) -> Received | Lost:
    if publication.message is None:
        return Lost(publication.topic, position, publication.publisher)
    return Received(publication.topic, publication.message, publication.publisher, publication.number, position)


class MemoryBackend(Backend):
    """A back end that connects the hubs of one process, for tests of code that will have another back end.

    ::

        store = trio_ws.MemoryStore()
        hubs = [trio_ws.Hub(backend=trio_ws.MemoryBackend(store)) for _ in range(2)]

    A hub that has no back end at all keeps its messages in a store of its own.

    Args:
        store: What the hubs share; None for a new one.

    Attributes:
        store: What the hubs share.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store: MemoryStore = MemoryStore() if store is None else store
        # The subscribed topics, and the positions from which to receive them.
        self._positions: dict[str, Position] = {}
        # Topics that have something to receive; an ordered set.
        self._dirty: dict[str, None] = {}
        self._wake = trio.Event()
        self._counts: dict[str, int] = {}
        self._entered = False

    async def connect(self) -> None:
        """Join the other back ends of the store."""
        await trio.lowlevel.checkpoint()
        self.store._backends.append(self)
        self._entered = True

    async def disconnect(self) -> None:
        """Leave the other back ends of the store."""
        self._entered = False
        self.store._backends.remove(self)
        for topic in self._positions:
            self.store.release(topic)
        self._positions.clear()
        self._dirty.clear()
        self._counts.clear()

    def _check_entered(self) -> None:
        if not self._entered:
            raise BackendUnavailable("it is not connected, Hub.run() must be running")

    def _mark(self, topic: str) -> None:
        if topic in self._positions:
            self._dirty[topic] = None
            self._wake.set()

    async def publish(self, batch: Sequence[Publication]) -> None:
        """Add messages to the store."""
        await trio.lowlevel.checkpoint()
        self._check_entered()
        for publication in batch:
            if self.store.append(publication) is not None:
                for backend in self.store._backends:
                    backend._mark(publication.topic)

    async def receive(self) -> Sequence[BackendEvent]:
        """Wait for messages and losses."""
        await trio.lowlevel.checkpoint()
        while True:
            while self._dirty:
                topic = next(iter(self._dirty))
                del self._dirty[topic]
                events, self._positions[topic], more = self.store.read(topic, self._positions[topic], RECEIVE_BYTES)
                if more:
                    self._dirty[topic] = None
                if events:
                    return events
            self._wake = trio.Event()
            await self._wake.wait()

    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        """Subscribe to topics."""
        await trio.lowlevel.checkpoint()
        self._check_entered()
        for topic, since in topics.items():
            if topic not in self._positions:
                head = self.store.use(topic)
                self._positions[topic] = head if since is None else since
                self._mark(topic)
        return {topic: self._positions[topic] for topic in topics}

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Unsubscribe from topics."""
        await trio.lowlevel.checkpoint()
        for topic in topics:
            if self._positions.pop(topic, None) is not None:
                self._dirty.pop(topic, None)
                self.store.release(topic)

    async def set_members(self, counts: Mapping[str, int]) -> None:
        """Set the numbers of members."""
        await trio.lowlevel.checkpoint()
        self._check_entered()
        for topic, count in counts.items():
            if count:
                self._counts[topic] = count
            else:
                self._counts.pop(topic, None)

    async def count_members(self, topic: str) -> int:
        """Return the number of members that a topic has in the other hubs."""
        await trio.lowlevel.checkpoint()
        self._check_entered()
        return sum(backend._counts.get(topic, 0) for backend in self.store._backends if backend is not self)

    async def history(self, topic: str, since: Position, max_bytes: int) -> History:
        """Return the messages of a topic after a position."""
        await trio.lowlevel.checkpoint()
        self._check_entered()
        return self.store.history(topic, since, max_bytes)
