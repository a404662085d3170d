"""The queue of messages for the back end: bounded, and kept until the engine has acknowledged them.

The queue holds up to ``MAX_BACKLOG`` bytes of memory. A message for which there is no room is dropped, and a *marker*
takes its place: the other processes learn from it that they have missed something. Consecutive messages of one topic
need one marker, and markers have a limit of their own, of the same size. When no more fit, one marker takes the place
of all that follow: it goes to the topic ``LOSSES``, to which every hub subscribes, and stands for all topics.

A message that the engine will never accept is given up, and a marker takes its place, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import islice
from sys import getsizeof

import attrs
import trio

from ..protocol import Message
from .backend import Backend, Publication

__all__ = ["LOSSES", "MAX_BACKLOG", "Outgoing"]

#: The topic whose markers stand for losses of all topics. It cannot be used for anything else.
LOSSES = "trio_ws:losses"

#: Maximum memory of the messages in the queue, in bytes. The markers may take the same again, except that there may be
#: one for all topics behind each message.
MAX_BACKLOG = 2**20

#: Limits of a batch. The engine gets one batch at a time.
BATCH_MESSAGES = 500
BATCH_BYTES = 2**18

#: A message that is larger than a batch, and therefore alone in one, is given up if so many sessions in a row end while
#: it is published. Some engines close the connection instead of refusing a message that is too large.
MAX_FAILURES = 3

#: Memory of a queued item without its topic and message, in bytes: the publication and its number, the item, and the
#: size and time in it.
ITEM_OVERHEAD = (
    getsizeof(Publication("", b"", "", 0))
    + getsizeof(MAX_BACKLOG)
    + getsizeof((0, 0, 0))
    + getsizeof(MAX_BACKLOG)
    + getsizeof(0.5)
)


class Outgoing:
    """The queue of messages for the back end.

    Args:
        backend: The back end, whose id the messages get.

    Attributes:
        size: Memory of the queued messages and markers, in bytes.
        number: The number of the last message that was put; 0 before the first.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # Publications, each with its size and the time at which it was put.
        self._items: deque[tuple[Publication, int, float]] = deque()
        self.size: int = 0
        self._markers_size = 0
        self.number: int = 0
        # The topics whose last queued item is a marker that waits to be sent; and LOSSES, if such a marker is the last
        # item, or only followed by other markers.
        self._marked: set[str] = set()
        # The number of items at the front that are being published.
        self._in_flight = 0
        # The number of consecutive failures to publish these items.
        self._failures = 0
        # Woken when items have been removed.
        self._removed = trio.Event()

    def __len__(self) -> int:
        """Return the number of queued messages and markers."""
        return len(self._items)

    def put(self, topic: str, message: Message, time: float) -> bool:
        """Queue a message, or a marker if there is no room. Return whether the message was queued.

        A single message of any size may always be queued. The message gets a number even if it is dropped.

        Args:
            topic: The name of the topic.
            message: The message.
            time: The current time.
        """
        self.number += 1
        size = ITEM_OVERHEAD + getsizeof(topic) + getsizeof(message)
        messages_size = self.size - self._markers_size
        if messages_size and messages_size + size > MAX_BACKLOG:
            self._put_marker(topic, time)
            return False
        self._marked -= {topic, LOSSES}
        self._append(Publication(topic, message, self._backend.id, self.number), size, time)
        return True

    def _put_marker(self, topic: str, time: float) -> None:
        if self._marked & {topic, LOSSES}:
            return
        if self._markers_size + _marker_size(topic) + _marker_size(LOSSES) > MAX_BACKLOG:
            topic = LOSSES
        size = _marker_size(topic)
        self._marked.add(topic)
        self._markers_size += size
        self._append(Publication(topic, None, self._backend.id, self.number), size, time)

    def _append(self, publication: Publication, size: int, time: float) -> None:
        self._items.append((publication, size, time))
        self.size += size

    def has(self, number: int) -> bool:
        """Whether a message up to this number is queued."""
        return bool(self._items) and self._items[0][0].number <= number

    def next_batch(self, number: int) -> list[Publication]:
        """Return the messages to publish next, at least one. They stay in the queue until they are acknowledged.

        A batch that was not acknowledged is returned again as it was.

        Args:
            number: The number of the last message that may be in the batch.
        """
        if not self._in_flight:
            batch_size = 0
            for publication, size, _ in self._items:
                batch_size += size
                if self._in_flight and (
                    batch_size > BATCH_BYTES
                    or publication.number > number
                    or self._in_flight == BATCH_MESSAGES
                    # Queued before a fork, and after it.
                    or publication.publisher != self._items[0][0].publisher
                ):
                    break
                self._in_flight += 1
        batch = [publication for publication, _, _ in islice(self._items, self._in_flight)]
        # A message that is dropped from now on needs a new marker, behind these.
        self._marked.difference_update(publication.topic for publication in batch if publication.message is None)
        return batch

    def acknowledge(self) -> float:
        """Remove the batch that was published last. Return the time at which its first message was put."""
        first = self._items[0][2]
        for _ in range(self._in_flight):
            self._remove_first()
        self._end_batch()
        return first

    def _remove_first(self) -> tuple[Publication, int, float]:
        publication, size, time = self._items.popleft()
        self.size -= size
        if publication.message is None:
            self._markers_size -= size
        return publication, size, time

    def _end_batch(self) -> None:
        self._in_flight = self._failures = 0
        self._removed.set()
        self._removed = trio.Event()

    def give_up(self, numbers: Collection[int]) -> list[Publication]:
        """Put markers in the places of messages of the batch that was published last. A marker itself is removed.

        Args:
            numbers: The numbers of the messages.

        Returns:
            What was given up.
        """
        given_up = []
        for publication, size, time in reversed([self._remove_first() for _ in range(self._in_flight)]):
            if publication.number in numbers:
                given_up.append(publication)
                if publication.message is None:
                    continue
                publication, size = attrs.evolve(publication, message=None), _marker_size(publication.topic)
            self._items.appendleft((publication, size, time))
            self.size += size
            if publication.message is None:
                self._markers_size += size
        self._end_batch()
        return given_up[::-1]

    def count_failure(self) -> list[int]:
        """Record that publishing the batch has failed. Return the numbers of the messages that shall be given up."""
        publication, size, _ = self._items[0]
        if self._in_flight > 1 or size <= BATCH_BYTES:
            return []
        self._failures += 1
        return [publication.number] if self._failures >= MAX_FAILURES else []

    async def wait_acknowledged(self, number: int) -> None:
        """Wait until no message up to this number is queued. Safe to cancel. A checkpoint only if it waits."""
        while self.has(number):
            await self._removed.wait()


def _marker_size(topic: str) -> int:
    return ITEM_OVERHEAD + getsizeof(topic)
