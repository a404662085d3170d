"""The interface that connects the hubs of several processes: ``Backend``, and the values that it exchanges with a hub.

A back end translates between a hub and an *engine*, such as a Redis server. The hub does everything that is the same
for all engines, so a back end only does what its engine is asked:

* The hub enters the back end when it runs, and enters it again, with growing delays, after a method or a task of the
  back end raised :exc:`BackendUnavailable`. A back end therefore need not keep anything from one time to the next,
  except its :attr:`Backend.id`, and need not reconnect by itself.
* The hub numbers its messages. It publishes those again that the engine has not acknowledged, with the same numbers,
  and ignores numbers that it has received before.
* The hub remembers the position of each topic. It subscribes from there after an outage.
"""

from __future__ import annotations

import abc
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import attrs
import trio

from ..protocol import Message

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import Self

__all__ = ["Backend", "BackendEvent", "History", "Lost", "Position", "Publication", "Received", "to_position"]


class Position(NamedTuple):
    """A place in the messages of a topic: behind one message, and before the next.

    It is a tuple, so that JSON can carry it to a client and back.

    Attributes:
        epoch: A name for one continuous history of the topic. A new one begins when the engine may have lost messages.
        offset: The number of the last message before this place. The first message of a topic has number 1.
    """

    epoch: str
    offset: int


def to_position(name: str, value: object) -> Position:
    """Convert an argument to a position. Clients send positions, so this accepts a list from JSON, too.

    Args:
        name: The name of the argument.
        value: The value of the argument.

    Raises:
        TypeError: If it is not a pair of a str and an int.
        ValueError: If the offset is negative.
    """
    if isinstance(value, (tuple, list)) and len(value) == 2:
        epoch, offset = value
        if isinstance(epoch, str) and isinstance(offset, int) and not isinstance(offset, bool):
            if offset < 0:
                raise ValueError(f"the offset of {name} must be at least 0, not {offset}")
            return Position(epoch, offset)
    raise TypeError(f"{name} must be a Position or None, not {value!r}")


@attrs.frozen
class Publication:
    """A message to publish.

    Attributes:
        topic: The name of the topic.
        message: The message. None if the hub had to drop messages in this place; subscribers get a :class:`Lost`.
        publisher: The :attr:`Backend.id` of the hub that publishes it.
        number: The number that the hub has given to it. Later messages of the same publisher have greater numbers.
    """

    topic: str
    message: Message | None
    publisher: str
    number: int


@attrs.frozen
class Received:
    """A message that has arrived from the engine.

    Attributes:
        topic: The name of the topic.
        message: The message, with the type with which it was published.
        publisher: The ``publisher`` of the publication.
        number: The ``number`` of the publication.
        position: The position behind the message; None if the engine has no positions.
    """

    topic: str
    message: Message
    publisher: str
    number: int
    position: Position | None


@attrs.frozen
class Lost:
    """The information that messages are missing in this place, or may be missing.

    Attributes:
        topic: The name of the topic.
        position: The position from which the topic goes on; None if the engine has no positions.
        publisher: The publisher that had to drop messages; None if the engine has lost them; empty if it may have lost
            some of every topic, each of which gets such a loss.
    """

    topic: str
    position: Position | None
    publisher: str | None = None


BackendEvent: TypeAlias = Received | Lost


@attrs.frozen
class History:
    """Messages of the past.

    Attributes:
        messages: The messages, in their order.
        position: The position behind the last message; the requested one if there are none.
        complete: Whether no message is missing between the requested position and ``position``.
        more: Whether there are more messages behind ``position``.
    """

    messages: Sequence[Received]
    position: Position | None
    complete: bool
    more: bool = False


class Backend(abc.ABC):
    """Abstract base class for the back end of a :class:`Hub`.

    :class:`RedisBackend` and :class:`MemoryBackend` come with the library. To write another one, implement the abstract
    methods, and check the result with :mod:`trio_ws.testing.backends`.

    A back end is an asynchronous context manager, which the hub enters while it runs, possibly many times in sequence.
    Entering opens a nursery, and calls :meth:`connect`. One task of the hub then calls :meth:`receive`; another calls
    :meth:`subscribe`, :meth:`unsubscribe`, :meth:`set_members` and :meth:`publish`, one at a time. Any task may call
    :meth:`history` and :meth:`count_members`. Calls may be cancelled at any time.

    A method whose engine does not answer must raise :exc:`BackendUnavailable` within a few seconds. A task in the
    nursery may do so, too. Other exceptions end :meth:`Hub.run`. What waits to be received must be bounded in memory.

    Each hub needs a back end of its own.
    """

    _id: str = ""
    _id_pid: int = 0
    _nursery: trio.Nursery | None = None
    _nursery_manager: AbstractAsyncContextManager[trio.Nursery, bool | None] | None = None

    @property
    def id(self) -> str:
        """A random name for this back end, different from that of every other one in any process, also after a fork."""
        if self._id_pid != os.getpid():
            self._id_pid, self._id = os.getpid(), secrets.token_hex(8)
        return self._id

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery for the tasks of the back end, while it is entered. Leaving the back end cancels them.

        Raises:
            RuntimeError: If the back end is not entered.
        """
        if self._nursery is None:
            raise RuntimeError("the back end must be entered before its nursery is used")
        return self._nursery

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Open the nursery, and connect. If cancelled, everything is closed again.

        Raises:
            BackendUnavailable: If the engine cannot be reached; possibly in an ``ExceptionGroup``.
            RuntimeError: If the back end is entered already, such as by another hub.
        """
        if self._nursery is not None:
            raise RuntimeError("a back end must be entered once at a time: each hub needs its own")
        self._nursery_manager = trio.open_nursery()
        outer = await self._nursery_manager.__aenter__()
        opened = trio.Event()
        outer.start_soon(self._hold_nursery, opened)
        try:
            with trio.CancelScope(shield=True):
                await opened.wait()
            await self.connect()
        except BaseException as exc:
            with trio.CancelScope(shield=True):
                await opened.wait()  # KeyboardInterrupt may have ended the first wait
            await self._close_nursery(type(exc), exc, exc.__traceback__)
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Disconnect, cancel the tasks, and wait for them. If cancelled, :meth:`disconnect` may not complete."""
        try:
            await self.disconnect()
        finally:
            result = await self._close_nursery(exc_type, exc, traceback)
        return result

    async def _hold_nursery(self, opened: trio.Event) -> None:
        # When the hub is cancelled, disconnect() still needs the tasks. _close_nursery() cancels them.
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as self._nursery:
                opened.set()
                await trio.sleep_forever()

    async def _close_nursery(self, *exc_info: Any) -> bool | None:
        assert self._nursery is not None
        assert self._nursery_manager is not None
        self._nursery.cancel_scope.cancel()
        manager, self._nursery_manager, self._nursery = self._nursery_manager, None, None
        return await manager.__aexit__(*exc_info)

    @abc.abstractmethod
    async def connect(self) -> None:
        """Connect to the engine. Tasks go into :attr:`nursery`. There are no subscriptions yet.

        Raises:
            BackendUnavailable: If the engine cannot be reached.
        """

    async def disconnect(self) -> None:  # noqa: B027  # optional
        """Tell the engine that this hub leaves, such as by removing its members. Called before the tasks end.

        It must be quick, and must not raise :exc:`BackendUnavailable`. By default it does nothing. It may be called in
        a cancelled scope.
        """
        # No checkpoint: leaving the nursery is one.

    @abc.abstractmethod
    async def publish(self, batch: Sequence[Publication]) -> None:
        """Send messages to all hubs that have subscribed to their topics, this one included.

        The messages of one topic must arrive in the order of the batch, and after those of earlier calls. Return when
        the engine has accepted all. After an exception or cancellation, the hub publishes the same messages again,
        first of all. An engine with a history must then ignore those of a publisher and topic whose numbers are not
        greater than the last.

        Raises:
            BackendUnavailable: If the engine does not answer.
            MessagesRefused: If the engine will never accept some of the messages. It must not have accepted later ones
                of the same topics. The hub gives the refused messages up, puts markers in their places, and publishes
                the batch again.
        """

    @abc.abstractmethod
    async def receive(self) -> Sequence[BackendEvent]:
        """Wait for messages, and for losses, of the subscribed topics. Return at least one.

        If cancelled, none may get lost that has a position.

        Raises:
            BackendUnavailable: If the engine does not answer.
        """

    @abc.abstractmethod
    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        """Subscribe to topics. Messages that are published after this has returned are received.

        The messages after a given position are received, too. If some of them no longer exist, or may be missing, a
        :class:`Lost` is received in their place.

        Args:
            topics: The names of the topics; for each, the position to continue from, or None to begin now.

        Returns:
            The position from which each topic is received; None if the engine has no positions.

        Raises:
            BackendUnavailable: If the engine does not answer.
        """

    @abc.abstractmethod
    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Unsubscribe from topics. A few more messages of them may be received.

        Raises:
            BackendUnavailable: If the engine does not answer.
        """

    @abc.abstractmethod
    async def set_members(self, counts: Mapping[str, int]) -> None:
        """Set the numbers of members that topics have in this hub. 0 if there are no more.

        The numbers of a process that was killed must be forgotten within 10 seconds.

        Raises:
            BackendUnavailable: If the engine does not answer.
        """

    @abc.abstractmethod
    async def count_members(self, topic: str) -> int:
        """Return the number of members that a topic has in all other hubs.

        Raises:
            BackendUnavailable: If the engine does not answer, or the back end is not entered.
        """

    async def history(self, topic: str, since: Position, max_bytes: int) -> History:
        """Return the messages of a topic after a position, as far as they still exist.

        By default, there is no history.

        Args:
            topic: The name of the topic.
            since: The position, from any process and any time. It may never have existed.
            max_bytes: About how many bytes of messages to return at most, but at least one message.

        Raises:
            BackendUnavailable: If the engine does not answer, or the back end is not entered.
        """
        await trio.lowlevel.checkpoint()
        return History((), None, complete=False)
