"""The members of a topic in this process, and what the hub knows about the topic: ``TopicState``."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from sys import getsizeof
from typing import NamedTuple

from ..connection.sendable import Sendable
from ..connection.websocket import WebSocket
from .backend import Position

__all__ = ["Delivery", "Joiner", "Numbers", "TopicState"]

#: Memory of a held message without its content, in bytes.
HELD_OVERHEAD = 200

#: How many publishers to remember for each topic.
MAX_PUBLISHERS = 256


class Delivery(NamedTuple):
    """A message that is delivered to the members of a topic.

    Attributes:
        message: The message, in its envelope.
        compress: Whether to compress it.
        publisher: The publisher; empty if there is no back end.
        number: The number that the publisher has given to it.
        position: The position behind it; None if the message does not come from an engine with positions.
    """

    message: Sendable
    compress: bool
    publisher: str
    number: int
    position: Position | None

    @property
    def size(self) -> int:
        """Memory that the message uses while it is held, in bytes."""
        return getsizeof(self.message) + HELD_OVERHEAD


class Numbers:
    """The last numbers of the publishers of a topic, by which messages are recognized that were received before."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        # The publisher that has published last is at the end.
        self._last: dict[str, int] = {}

    def record(self, publisher: str, number: int) -> bool:
        """Record the number of a message. Return False if it was recorded before."""
        last = self._last.pop(publisher, 0)
        self._last[publisher] = max(last, number)
        if len(self._last) > MAX_PUBLISHERS:
            del self._last[next(iter(self._last))]
        return number > last

    def clear(self) -> None:
        """Forget all numbers."""
        self._last.clear()


class Joiner:
    """A connection that joins a topic, and gets what it has missed. It is a member when it has got it.

    While it gets the last of what it has missed, it *holds* the messages that arrive.

    Args:
        ws: The connection.
        max_size: Maximum memory of the held messages, in bytes. A peer that is slower is too slow.

    Attributes:
        ws: The connection.
        last_own: The number of the last message that this process had published when holding began.
        numbers: The numbers of the messages that the connection has got.
        failed: Whether messages are missing: they were lost, or there were too many.
    """

    __slots__ = ("_direct", "_holding", "_max_size", "_remote", "_size", "failed", "last_own", "numbers", "ws")

    def __init__(self, ws: WebSocket, max_size: float) -> None:
        self.ws: WebSocket = ws
        self.last_own: int = 0
        self.numbers: Numbers = Numbers()
        self.failed: bool = False
        self._max_size = max_size
        self._holding = False
        self._size = 0
        # The messages from the engine, and those of this process that do not come through the engine.
        self._remote: deque[Delivery] = deque()
        self._direct: deque[Delivery] = deque()

    def hold(self, last_own: int) -> None:
        """Begin to hold messages."""
        self._holding = True
        self.last_own = last_own

    def release(self) -> None:
        """Stop holding messages, and drop those that are held."""
        self._holding = False
        self._remote.clear()
        self._direct.clear()
        self._size = 0

    def add(self, delivery: Delivery, *, own: bool) -> None:
        """Hold a message.

        Args:
            delivery: The message.
            own: Whether it is of this process, and does not come through the engine.
        """
        if not self._holding:
            return
        if self._size and self._size + delivery.size > self._max_size:
            self.release()
            self.failed = True
        else:
            self._size += delivery.size
            (self._direct if own else self._remote).append(delivery)

    def take(self) -> Delivery | None:
        """Return the next held message, which is no longer held; None if there is none."""
        for queue in (self._remote, self._direct):
            if queue:
                held = queue.popleft()
                self._size -= held.size
                return held
        return None


class TopicState:
    """A topic that is in use in this process.

    Args:
        name: The name of the topic.

    Attributes:
        name: The name of the topic.
        members: The members, with the number of their subscriptions.
        joiners: The connections that are joining.
        position: The position behind the last message that was delivered; None if it is not known.
        subscribed: Whether the back end has subscribed to the topic, since it was entered last.
        established: Whether it has been subscribed before, and none of its messages may be missed.
        reported: The number of members that the back end was told; None if it must be told again.
        busy: Whether the back end is being told about the topic.
        own_options: For messages of this process that come back from the engine: by number, the members that do not get
            it, and whether to compress it.
    """

    __slots__ = (
        "_numbers",
        "_skipping",
        "busy",
        "established",
        "joiners",
        "members",
        "name",
        "own_options",
        "position",
        "reported",
        "subscribed",
    )

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.members: dict[WebSocket, int] = {}
        self.joiners: list[Joiner] = []
        self.position: Position | None = None
        self.subscribed: bool = False
        self.established: bool = False
        self.reported: int | None = 0
        self.busy: bool = False
        self.own_options: dict[int, tuple[frozenset[WebSocket], bool]] = {}
        self._numbers = Numbers()
        # Members that already have the messages up to a position, and the numbers of these messages.
        self._skipping: dict[WebSocket, tuple[Position, Numbers]] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether the topic has members, or connections that are joining."""
        return bool(self.members or self.joiners)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing needs to be remembered of the topic."""
        return not (self.members or self.joiners or self.subscribed or self.busy or self.reported != 0)

    def forget(self) -> None:
        """Forget what has been received: the topic is no longer subscribed."""
        self.subscribed = self.established = False
        self.position = None
        self._numbers.clear()
        self.own_options.clear()

    def is_new(self, publisher: str, number: int) -> bool:
        """Record the number of a message. Return False if the message has been received before."""
        return self._numbers.record(publisher, number)

    def skip(self, joiner: Joiner, position: Position | None) -> None:
        """Do not give a member the messages up to a position, because it has got them while it was joining."""
        if position is not None and position != self.position:
            self._skipping[joiner.ws] = position, joiner.numbers

    def remove(self, ws: WebSocket) -> None:
        """Remove a member."""
        del self.members[ws]
        self._skipping.pop(ws, None)

    def recipients(self, excluded: Collection[WebSocket], delivery: Delivery) -> list[WebSocket]:
        """Return the members that get a message, without those that are excluded."""
        members = [ws for ws in self.members if ws not in excluded] if excluded else list(self.members)
        if self._skipping and delivery.position is not None:
            members = [ws for ws in members if not self._has(ws, delivery, delivery.position)]
        return members

    def _has(self, ws: WebSocket, delivery: Delivery, position: Position) -> bool:
        if ws not in self._skipping:
            return False
        known, numbers = self._skipping[ws]
        if known.epoch != position.epoch:
            # The engine was restarted since. Offsets of different epochs cannot be compared, but numbers can.
            return not numbers.record(delivery.publisher, delivery.number)
        if position.offset <= known.offset:
            return True
        del self._skipping[ws]
        return False

    def take_own_options(self, number: int) -> tuple[frozenset[WebSocket], bool]:
        """Return the members that do not get a message of this process, and whether to compress it."""
        for older in [older for older in self.own_options if older < number]:
            del self.own_options[older]
        return self.own_options.pop(number, (frozenset(), True))

    def hold(self, delivery: Delivery, *, own: bool) -> None:
        """Give a message to the connections that are joining."""
        for joiner in self.joiners:
            joiner.add(delivery, own=own)
