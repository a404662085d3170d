"""Topics: who has subscribed gets what is published: ``Hub``, ``Topic``, and ``Backend`` to connect several processes.

A hub has a set of members for each topic that has any, and nothing else: a :class:`Topic` is a name and a hub. What is
published goes to the members by :func:`broadcast`, at once and without waiting, so that the code of an application
between two ``await`` sees no change.

With a back end, hubs of several processes have their topics in common. That takes waiting, and so a task,
:meth:`Hub.run`. Calls leave in the hub what the task then does:

* Messages wait in line, bounded by bytes. Beyond that they do not go to other processes, rather than hold up this one.
* Of the numbers of members only the last one counts, so there is at most one in line for each topic.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import get_args

import trio

from ..connection.sendable import Sendable, prepare
from ..connection.websocket import WebSocket
from ..frames import Opcode
from ..protocol import Message
from .backend import Backend
from .broadcast import WhenFull, broadcast

__all__ = ["Hub", "Topic"]

#: Bytes of messages that wait for the back end.
MAX_BACKLOG = 2**20

logger: logging.Logger = logging.getLogger("trio_ws.hub")


class Hub:
    """Topics, and the connections that have subscribed to them.

    ::

        hub = trio_ws.Hub(when_full="skip")


        async def chat(ws: trio_ws.WebSocket, room: str) -> None:
            topic = hub.topic(room)
            with topic.subscribe(ws):
                async for message in ws:
                    topic.publish(message, exclude=[ws])

    Topics need not be made, and are forgotten when they have no members. What a hub promises:

    * Members get the messages of a topic in the order in which they were published in this process. Those from other
      processes come in between, in the order of each process.
    * A message goes to those who are members when it is published, or, from another process, when it comes in. Nothing
      goes to a connection that is closing or closed, even if it is still a member.
    * Nobody waits for a member that does not read; ``when_full`` says what becomes of it.
    * With a back end, each message is given to it at most once.

    Args:
        when_full: What becomes of a member that does not read what it gets, as for :func:`broadcast`: ``"drop"``,
            ``"skip"`` or ``"newest"``. Or a function that says so for a topic, by its name.
        backend: What connects it with the hubs of other processes, while :meth:`run` runs. None: it is alone.

    Raises:
        ValueError: if ``when_full`` is none of the three.
    """

    def __init__(
        self, *, when_full: WhenFull | Callable[[str], WhenFull] = "drop", backend: Backend | None = None
    ) -> None:
        if not callable(when_full) and when_full not in get_args(WhenFull):
            raise ValueError(f"when_full is one of {', '.join(map(repr, get_args(WhenFull)))}, not {when_full!r}")
        self._when_full = when_full
        self._backend = backend
        # The members of each topic that has any, and how often they have subscribed.
        self._members: dict[str, dict[WebSocket, int]] = {}
        # What the back end is to be told: messages, with their sizes, and topics whose number of members has changed.
        self._outgoing: deque[tuple[str, Message, int]] = deque()
        self._backlog = 0
        self._changed: dict[str, None] = {}
        self._wake = trio.Event()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self._members)} topics>"

    def topic(self, name: str) -> Topic:
        """Return the topic of a name. It exists as long as somebody has subscribed; until then, this is but a name."""
        return Topic(self, name)

    @property
    def topics(self) -> frozenset[str]:
        """The names of the topics that have members in this process."""
        return frozenset(self._members)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange messages with the hubs of other processes, until cancelled. Without a back end, return at once.

        ::

            await nursery.start(hub.run)

        What is published before waits, up to 1 MiB of it. When cancelled, what still waits is not sent, and one message
        that the back end had been given may or may not have been; members in this process have got all of it.

        Args:
            task_status: Trio's.

        Raises:
            Exception: what the back end raises, in an ``ExceptionGroup``. It may be run again then.
        """
        task_status.started()
        if self._backend is None:
            await trio.lowlevel.checkpoint()
            return
        # A back end that is run again may have forgotten.
        self._changed.update(dict.fromkeys(self._members))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, self._backend)
            nursery.start_soon(self._send, self._backend)

    async def _receive(self, backend: Backend) -> None:
        while True:
            topic, message = await backend.receive()
            self._deliver(topic, message)

    async def _send(self, backend: Backend) -> None:
        while True:
            # Who has just subscribed wants to hear what others answer to what it publishes.
            while self._changed:
                topic = next(iter(self._changed))
                del self._changed[topic]
                try:
                    await backend.set_members(topic, len(self._members.get(topic, ())))
                except BaseException:
                    self._changed[topic] = None  # for the next run
                    raise
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
        return broadcast(members, message, text=text, compress=compress, when_full=when_full)

    def _hand_over(self, topic: str, message: Sendable, text: bool | None) -> None:
        """Leave a message for the back end, if there is one and the message has room."""
        if self._backend is None:
            return
        opcode, data = prepare(message, text)
        if self._outgoing and self._backlog + len(data) > MAX_BACKLOG:
            logger.warning("a message to %r does not go to other processes: %d bytes wait", topic, self._backlog)
            return
        self._outgoing.append((topic, data.decode() if opcode is Opcode.TEXT else data, len(data)))
        self._backlog += len(data)
        self._wake.set()

    def _change(self, topic: str, ws: WebSocket, by: int) -> None:
        members = self._members.setdefault(topic, {})
        before = len(members)
        count = members.get(ws, 0) + by
        if count:
            members[ws] = count
        else:
            del members[ws]
        if not members:
            del self._members[topic]
        if self._backend is not None and len(members) != before:
            self._changed[topic] = None
            self._wake.set()


class Topic:
    """A topic of a :class:`Hub`. :meth:`Hub.topic` returns it. Topics of the same hub and name are equal.

    Attributes:
        hub: The hub.
        name: Its name.
    """

    # Not of attrs, which takes longer to make a class than all of this module otherwise.
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
        """Return how many members it has in this process."""
        return len(self.hub._members.get(self.name, ()))

    def __bool__(self) -> bool:
        """Return True: it is a topic, with or without members."""
        return True

    @property
    def members(self) -> frozenset[WebSocket]:
        """The connections in this process that have subscribed."""
        return frozenset(self.hub._members.get(self.name, ()))

    async def count_members(self) -> int:
        """Return how many members it has in all processes.

        Others are counted as the back end knows them, which takes a moment to learn what has changed.

        Raises:
            Exception: what the back end raises.
        """
        backend = self.hub._backend
        if backend is None:
            await trio.lowlevel.checkpoint()
            return len(self)
        others = await backend.count_members(self.name)
        return len(self) + others

    def subscribe(self, ws: WebSocket) -> AbstractContextManager[None]:
        """Let a connection have what is published, within a ``with`` block.

        However the block is left, the connection is no member any more then. One that has subscribed several times
        gets each message once, until the last of the blocks is left.

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
        """Send a message to all members. It never waits.

        It is no checkpoint, and nobody else runs meanwhile. With a back end, members in other processes get it a little
        later; if more than 1 MiB waits for the back end, they do not, which is logged to ``trio_ws.hub``.

        Args:
            message: A ``str`` goes out as text, bytes as binary.
            text: True to send bytes that are UTF-8 as text, False to send the UTF-8 of a ``str`` as binary.
            compress: False not to compress it for members in this process, where compression is in use.
            exclude: Members that do not get it, such as who has said it.

        Returns:
            The members in this process whose outboxes were full; see :func:`broadcast`.

        Raises:
            TypeError: if the message is neither text nor bytes.
            ValueError: if it is to be text and cannot be.
        """
        full = self.hub._deliver(self.name, message, text, compress, exclude)
        self.hub._hand_over(self.name, message, text)
        return full


@contextmanager
def _subscribe(topic: Topic, ws: WebSocket) -> Iterator[None]:
    topic.hub._change(topic.name, ws, 1)
    try:
        yield
    finally:
        topic.hub._change(topic.name, ws, -1)
