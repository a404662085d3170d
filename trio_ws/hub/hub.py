"""Publish and subscribe: ``Hub`` and ``Topic``.

A hub holds the members of each topic that has any. A :class:`Topic` is only a name and a hub. Publishing is a
:func:`broadcast` to the members. It never waits, so no other task can run in between.

A back end connects the hubs of several processes, so that they share topics. Calling it takes time, so the task
:meth:`Hub.run` does it. Publishing and subscribing only queue the work for this task:

* Messages are queued up to a limit in bytes of memory. More messages are not sent to other processes: this one must not
  wait.
* For each topic whose number of members has changed, the task sends the current number, once. It sends nothing for a
  topic that has no members again before the back end learned of any.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from sys import getsizeof

import trio

from ..connection.sendable import Sendable, prepare
from ..connection.websocket import WebSocket
from ..frames import Opcode
from ..protocol import Message
from .backend import Backend
from .broadcast import (
    DEFAULT_MAX_BACKLOG,
    DEFAULT_MAX_LAG,
    WhenFull,
    broadcast,
    check_limits,
    check_when_full,
)

__all__ = ["Hub", "Topic"]

#: Maximum memory of the messages that are queued for the back end, in bytes.
MAX_BACKLOG = 2**20

#: Memory of a queued item without its topic and message, in bytes.
_ITEM_OVERHEAD = getsizeof(("", b"", 0)) + getsizeof(MAX_BACKLOG)

logger: logging.Logger = logging.getLogger("trio_ws.hub")


class Hub:
    """Publish and subscribe: topics, and the connections that have subscribed to them.

    ::

        hub = trio_ws.Hub(when_full="skip")


        async def chat(ws: trio_ws.WebSocket, room: str) -> None:
            topic = hub.topic(room)
            with topic.subscribe(ws):
                async for message in ws:
                    topic.publish(message, exclude=[ws])

    Topics need not be created, and are forgotten when they have no members. A hub guarantees:

    * Members get the messages of a topic in the order in which they were published in this process. Messages from each
      other process are in order too, and come in between.
    * A message goes to the connections that are members when it is published or, from another process, when it arrives
      here. Connections that are closing or closed get nothing, even if they are still members.
    * Publishing never waits for a slow member; ``when_full`` is the policy for it, once it is behind by
      ``max_backlog`` bytes or ``max_lag`` seconds.
    * Each message is sent to the back end at most once.

    Args:
        when_full: The policy for members that are too slow, as for :func:`broadcast`: ``"drop"``, ``"skip"`` or
            ``"newest"``; or a function that takes the name of a topic and returns its policy.
        max_backlog: Bytes of memory that may wait for a member, as for :func:`broadcast`. None: no limit.
        max_lag: Seconds that a message may wait for a member, as for :func:`broadcast`. None: no limit.
        backend: The back end that connects this hub with those of other processes while :meth:`run` runs. None if there
            is only this process.

    Raises:
        TypeError: If a limit is not a number.
        ValueError: If ``when_full`` is not one of the three, or a limit is out of range.
    """

    def __init__(
        self,
        *,
        when_full: WhenFull | Callable[[str], WhenFull] = "drop",
        max_backlog: int | None = DEFAULT_MAX_BACKLOG,
        max_lag: float | None = DEFAULT_MAX_LAG,
        backend: Backend | None = None,
    ) -> None:
        if not callable(when_full):
            check_when_full(when_full)
        check_limits(max_backlog, max_lag, False)
        self._when_full = when_full
        self._max_backlog = max_backlog
        self._max_lag = max_lag
        self._backend = backend
        # The members of each topic that has any, with the number of their subscriptions.
        self._members: dict[str, dict[WebSocket, int]] = {}
        # Messages queued for the back end, each with its topic and size, and the sum of the sizes.
        self._outgoing: deque[tuple[str, Message, int]] = deque()
        self._backlog = 0
        # Topics whose number of members has changed since the back end was told; an ordered set.
        self._changed_topics: dict[str, None] = {}
        # Topics for which the back end may store a number of members other than 0.
        self._reported_topics: set[str] = set()
        # Wakes the task that calls the back end.
        self._wake = trio.Event()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self._members)} topics>"

    def topic(self, name: str) -> Topic:
        """Return the topic with this name. It need not have any members."""
        return Topic(self, name)

    @property
    def topics(self) -> frozenset[str]:
        """The names of the topics that have members in this process."""
        return frozenset(self._members)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange messages with the hubs of other processes until cancelled. Without a back end, return at once.

        ::

            await nursery.start(hub.run)

        Up to 1 MiB of messages published before this runs are queued. If this is cancelled, the message that the back
        end is sending may be lost for other processes, and queued messages wait until this is run again.

        Args:
            task_status: Used by ``nursery.start``.

        Raises:
            Exception: An exception from the back end, in an ``ExceptionGroup``. The hub may be run again.
        """
        task_status.started()
        if self._backend is None:
            await trio.lowlevel.checkpoint()
            return
        # After a failure, the back end may have lost the numbers.
        self._changed_topics.update(dict.fromkeys(self._members))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, self._backend)
            nursery.start_soon(self._send, self._backend)

    async def _receive(self, backend: Backend) -> None:
        while True:
            topic, message = await backend.receive()
            self._deliver(topic, message)

    async def _send(self, backend: Backend) -> None:
        while True:
            # Subscriptions come before messages: a new member must get the answers to what it publishes.
            while self._changed_topics:
                topic = next(iter(self._changed_topics))
                del self._changed_topics[topic]
                count = len(self._members.get(topic, ()))
                self._reported_topics.add(topic)
                try:
                    await backend.set_members(topic, count)
                except BaseException:
                    self._changed_topics[topic] = None  # for the next run
                    raise
                if not count:
                    self._reported_topics.discard(topic)
            if self._outgoing:
                topic, message, size = self._outgoing.popleft()
                self._backlog -= size
                await backend.publish(topic, message)
            else:
                self._wake = trio.Event()
                await self._wake.wait()

    def _deliver(
        self,
        topic: str,
        message: Sendable,
        text: bool | None = None,
        compress: bool = True,
        exclude: Iterable[WebSocket] = (),
    ) -> list[WebSocket]:
        excluded = set(exclude)
        members = [ws for ws in self._members.get(topic, ()) if ws not in excluded]
        when_full = self._when_full(topic) if callable(self._when_full) else self._when_full
        return broadcast(
            members,
            message,
            text=text,
            compress=compress,
            when_full=when_full,
            max_backlog=self._max_backlog,
            max_lag=self._max_lag,
        )

    def _enqueue(self, topic: str, message: Sendable, text: bool | None) -> None:
        """Queue a message for the back end, if there is one. Drop the message if the queue is full."""
        if self._backend is None:
            return
        opcode, data = prepare(message, text)
        queued = data.decode() if opcode is Opcode.TEXT else data
        size = _ITEM_OVERHEAD + getsizeof(topic) + getsizeof(queued)
        if self._outgoing and self._backlog + size > MAX_BACKLOG:
            logger.warning("message to topic %r not sent to other processes: %d bytes are queued", topic, self._backlog)
            return
        self._outgoing.append((topic, queued, size))
        self._backlog += size
        self._wake.set()

    def _count_subscription(self, topic: str, ws: WebSocket, change: int) -> None:
        members = self._members.setdefault(topic, {})
        before = len(members)
        count = members.get(ws, 0) + change
        if count:
            members[ws] = count
        else:
            del members[ws]
        if not members:
            del self._members[topic]
        if self._backend is None or len(members) == before:
            return
        if members or topic in self._reported_topics:
            self._changed_topics[topic] = None
            self._wake.set()
        else:
            self._changed_topics.pop(topic, None)


class Topic:
    """A topic of a :class:`Hub`, returned by :meth:`Hub.topic`. Topics with the same hub and name are equal.

    Attributes:
        hub: The hub.
        name: The name of the topic.
    """

    # Not an attrs class: creating one would take most of the time that importing this module takes.
    __slots__ = ("hub", "name")

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub: Hub = hub
        self.name: str = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topic) and (self.hub, self.name) == (other.hub, other.name)

    def __hash__(self) -> int:
        return hash((self.hub, self.name))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} with {len(self)} members>"

    def __len__(self) -> int:
        """Return the number of members in this process."""
        return len(self.hub._members.get(self.name, ()))

    def __bool__(self) -> bool:
        """Return True, even if the topic has no members."""
        return True

    @property
    def members(self) -> frozenset[WebSocket]:
        """The members in this process."""
        return frozenset(self.hub._members.get(self.name, ()))

    async def count_members(self) -> int:
        """Return the number of members in all processes.

        The numbers of other processes come from the back end, which learns of changes with a short delay.

        Raises:
            Exception: An exception from the back end.
        """
        backend = self.hub._backend
        if backend is None:
            await trio.lowlevel.checkpoint()
            return len(self)
        others = await backend.count_members(self.name)
        return len(self) + others

    def subscribe(self, ws: WebSocket) -> AbstractContextManager[None]:
        """Return a context manager that makes a connection a member of the topic for a ``with`` block.

        A connection that has subscribed more than once gets each message once, until it has left the last block.

        Args:
            ws: The connection.
        """
        return _subscribe(self, ws)

    def publish(
        self,
        message: Sendable,
        *,
        text: bool | None = None,
        compress: bool = True,
        exclude: Iterable[WebSocket] = (),
    ) -> list[WebSocket]:
        """Send a message to all members. Never waits.

        This is not a checkpoint, and no other task runs meanwhile. With a back end, members in other processes get the
        message a little later. If more than 1 MiB of memory is queued for the back end, they do not get it, which is
        logged to ``trio_ws.hub``.

        Args:
            message: The message. A ``str`` is sent as text, ``bytes`` as binary.
            text: True to send UTF-8 ``bytes`` as text, False to send a ``str`` as binary.
            compress: Whether to compress the message for members in this process, where compression is in use.
            exclude: Members that do not get the message, such as its author.

        Returns:
            The members in this process that were too slow; see :func:`broadcast`.

        Raises:
            TypeError: If the message is neither ``str`` nor bytes-like.
            ValueError: If the message is sent as text and is not valid Unicode.
        """
        slow = self.hub._deliver(self.name, message, text, compress, exclude)
        self.hub._enqueue(self.name, message, text)
        return slow


@contextmanager
def _subscribe(topic: Topic, ws: WebSocket) -> Iterator[None]:
    topic.hub._count_subscription(topic.name, ws, 1)
    try:
        yield
    finally:
        topic.hub._count_subscription(topic.name, ws, -1)
