"""Received messages, on their way from the reader task to those who receive.

A Trio memory channel carries *batches*: each is a list of what one step of reading has brought. A :class:`Budget`
beside it bounds them in bytes of memory, as :func:`sys.getsizeof` counts them, so that a million empty messages are not
free. Receivers share one lock, so that messages, and the parts of one, go to one after the other in the order in which
they asked; and they share what is left of the batch that was taken last. Its memory counts until all of it is taken.

The message in progress is the protocol's. Whoever receives a message in parts takes from the protocol what is there,
and waits for more like all others: then the reader puts a :class:`Part` into the channel.
"""

from __future__ import annotations

import enum
import math
from sys import getsizeof
from typing import Any, TypeAlias

import attrs
import trio

from ..frames import Opcode
from ..protocol import LastPart, Message, Protocol
from .budget import Budget, FairLock

__all__ = ["Inbox", "Item", "Part"]


@attrs.frozen
class Part:
    """A part of the message in progress, but not the last."""

    data: Message

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + getsizeof(self.data)


#: A whole message, or a part of one that is received in parts.
Item: TypeAlias = Message | Part | LastPart


class Intake(enum.Enum):
    """How an inbox treats what comes in."""

    #: Everything is kept. The reader waits where there is no room.
    KEEP = "keep"
    #: What does not fit is dropped, with all that follows. The reader does not wait.
    SHED = "shed"
    #: Nothing more comes. What is there can be received.
    ENDED = "ended"
    #: Everything was dropped, and nothing can be received any more.
    DROP = "drop"


class Inbox:
    """Received messages that wait for somebody to receive them.

    Args:
        protocol: Holds the message in progress.
        limit: Bytes of memory for messages that nobody has asked for yet.

    Attributes:
        lock: Held by whoever receives: for one whole message, or for all parts of one.
        in_use: Whether the application has taken something and not yet asked for more, so that it may be about to
            answer.
    """

    __slots__ = (
        "_budget",
        "_channel",
        "_intake",
        "_leaving",
        "_part_scope",
        "_part_task",
        "_protocol",
        "_put",
        "_ready",
        "_ready_size",
        "_waiting",
        "_wants_parts",
        "in_use",
        "lock",
    )

    def __init__(self, protocol: Protocol, limit: int) -> None:
        self._protocol = protocol
        self._put: trio.MemorySendChannel[tuple[list[Item], int]]
        self._channel: trio.MemoryReceiveChannel[tuple[list[Item], int]]
        self._put, self._channel = trio.open_memory_channel(math.inf)
        self._budget = Budget(limit)
        self._intake = Intake.KEEP
        # Whether a receiver waits; and whether for a part of a message.
        self._waiting = False
        self._wants_parts = False
        # What is left of the batch that was taken last, in reverse order; and the size of the whole batch.
        self._ready: list[Item] = []
        self._ready_size = 0
        # The task that waits for a part, and its scope; and whether the message has ended for it.
        self._part_task: trio.lowlevel.Task | None = None
        self._part_scope: trio.CancelScope | None = None
        self._leaving = False
        self.lock: FairLock = FairLock()
        self.in_use: bool = False

    @property
    def size(self) -> int:
        """Bytes of memory that the messages use, with what has come of the one in progress."""
        return self._budget.used + self._protocol.held

    @property
    def is_empty(self) -> bool:
        """Whether everything was taken that is complete."""
        return not self._budget.used

    # -- The reader's side -----------------------------------------------------------------------------------------

    def put(self, items: list[Message | LastPart]) -> None:
        """Add what has come in, however full the inbox is, and see to the message in progress.

        Args:
            items: Whole messages, and ends of messages in parts. The list belongs to the inbox then.
        """
        if self._intake is Intake.KEEP:
            self._add(items)
        elif self._intake is Intake.SHED:
            count = self._count_fitting(items)
            self._add(items[:count])
            if count < len(items):
                self.end()
        if self._wants_parts or not self.is_open:
            self._put_progress()

    def _put_progress(self) -> None:
        """Hand on what has come of the message in progress to the one who waits for it, or drop it if nobody will."""
        if not self.is_open:
            self._drop_message_in_progress()
        elif self._protocol.held and self._channel.statistics().tasks_waiting_receive:
            # Whoever waits gets it at once. A wait that was cancelled meanwhile has taken nothing.
            self._add([Part(self._protocol.take_part())])

    @property
    def is_open(self) -> bool:
        """Whether more can be added."""
        return self._intake is Intake.KEEP or self._intake is Intake.SHED

    def end(self) -> None:
        """Close the inbox for more. What is there can still be received."""
        if self.is_open:
            self._intake = Intake.ENDED
            self._put.close()

    def settle(self) -> None:
        """End it, and wake those who wait for their turn if nothing is there for them."""
        self.end()
        # What has come of the message in progress is for whoever receives in parts.
        if self.is_empty and (self.lock.owner is not None or not self._protocol.held):
            self.lock.close()

    @property
    def is_full(self) -> bool:
        """Whether the reader has to wait: the budget is spent, and nobody waits for more."""
        if self._waiting or self._intake is not Intake.KEEP:
            return False
        size = self._budget.used + self._protocol.held
        return size >= self._budget.limit and size > 0

    @property
    def is_finished_with(self) -> bool:
        """Whether everything was taken, and the application is not busy with it: it asks for more, or never did."""
        return self._intake is Intake.DROP or not (self._budget.used or self.in_use)

    async def wait(self) -> None:
        """Wait until a receiver has changed something. The reader has to look again."""
        await self._budget.wait()

    def wake_reader(self) -> None:
        """Let the reader look again."""
        self._budget.wake()

    def _add(self, items: list[Any]) -> None:
        if items:
            size = sum(map(getsizeof, items))
            self._budget.used += size
            self._put.send_nowait((items, size))

    def _count_fitting(self, items: list[Message | LastPart]) -> int:
        size = self.size
        for index, item in enumerate(items):
            # Where a message was begun to be received in parts, its end is not missing.
            if size and size >= self._budget.limit and not isinstance(item, LastPart):
                return index
            size += getsizeof(item)
        return len(items)

    def _drop_message_in_progress(self) -> None:
        if self._protocol.held:
            self._protocol.skip_message()

    # -- The receivers' side ---------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def get_nowait(self) -> Message | None:
        """Return the next message if it is at hand and nobody is before us; None otherwise."""
        if self._ready and self.lock.owner is None:
            return self._pop()  # type: ignore[return-value]  # a part is for whoever holds the lock
        return None

    @trio.lowlevel.enable_ki_protection
    async def get(self) -> Message | None:
        """Return the next message once it is there, or None at the end. When cancelled, it has taken nothing."""
        if not (self.lock.acquire_nowait() or await self.lock.acquire("receive_stream()")):
            return None
        try:
            if self._ready or await self._take_batch():
                return self._pop()  # type: ignore[return-value]  # the parts before were taken, or dropped
            return None
        finally:
            self.lock.release()

    @trio.lowlevel.enable_ki_protection
    async def begin_parts(self) -> bool:
        """Wait for the beginning of a message, to receive it in parts. When cancelled, nothing has happened.

        Returns:
            Whether it is there, so that :meth:`end_parts` must follow; False at the end.
        """
        if not await self.lock.acquire("receive_stream()"):
            return False
        begun = False
        try:
            # Of a message whose rest is being dropped nothing is held: that is not ours.
            while not (self._ready or self._take_batch_nowait() or self._protocol.held):
                if not await self._take_batch(parts=True):
                    return False
            begun = True
            return True
        finally:
            if not begun:
                self.lock.release()

    @trio.lowlevel.enable_ki_protection
    def end_parts(self, *, complete: bool) -> None:
        """Let others receive again.

        Args:
            complete: Whether the last part was received. Otherwise what is left of the message is dropped.
        """
        if self._part_scope is not None:
            # Another task waits for a part, and may have been given one already. It leaves in our place.
            self.lock.owner = self._part_task
            self._leaving = True
            self._part_scope.cancel()
            return
        if not complete:
            self._skip_parts()
        self.lock.release()

    def next_is_text(self) -> bool:
        """Whether the message whose beginning is there is text."""
        if self._ready:
            item = self._ready[-1]
            return isinstance(item if isinstance(item, (str, bytes)) else item.data, str)
        return self._protocol.message_in_progress is Opcode.TEXT

    @trio.lowlevel.enable_ki_protection
    async def get_part(self) -> tuple[Message, bool] | None:
        """Return the next part of the message, holding the lock. When cancelled, it has taken nothing.

        Returns:
            The part, and whether it is the last; None if the rest will never come.
        """
        if not (self._ready or self._take_batch_nowait()):
            if self._protocol.held:
                self.in_use = True
                part = self._protocol.take_part()
                self.wake_reader()
                return part, False
            if not await self._wait_for_part():
                return None
        item = self._pop()
        if isinstance(item, (str, bytes)):
            return item, True
        return item.data, isinstance(item, LastPart)

    @trio.lowlevel.enable_ki_protection
    def take_rest(self) -> list[Message]:
        """Return all whole messages that are left after the end, whoever holds the lock.

        Those who wait for one see that there is none. The parts of a message stay for whoever receives them.
        """
        items: list[Item] = []
        while self._ready or self._take_batch_nowait():
            items += reversed(self._ready)
            self._ready.clear()
            self._budget.give_back(self._ready_size)
        parts: list[Item] = [item for item in items if not isinstance(item, (str, bytes))]
        self._ready = parts[::-1]
        self._ready_size = sum(map(getsizeof, parts))
        self._budget.used += self._ready_size
        return [item for item in items if isinstance(item, (str, bytes))]

    def stop_using(self) -> None:
        """Record that the application is not about to answer what it has taken."""
        self.in_use = False
        self.wake_reader()

    def drop(self) -> None:
        """Drop everything, and all that will come: nobody will ask for it. Wake all who wait."""
        self.end()
        self._intake = Intake.DROP
        self._channel.close()
        self._ready = []
        self._budget.used = 0
        self._drop_message_in_progress()
        self.lock.close()
        self.wake_reader()

    def shed(self) -> None:
        """From now on drop what does not fit, and all that follows, instead of making the peer wait."""
        if self._intake is Intake.KEEP:
            self._intake = Intake.SHED
            self.wake_reader()

    async def _wait_for_part(self) -> bool:
        arrived = False
        self._part_task = trio.lowlevel.current_task()
        try:
            with trio.CancelScope() as self._part_scope:
                arrived = await self._take_batch(parts=True)
        finally:
            self._part_scope = self._part_task = None
            if self._leaving:
                self._leaving = arrived = False
                self.end_parts(complete=False)
        return arrived

    def _skip_parts(self) -> None:
        while self._ready or self._take_batch_nowait():
            if not isinstance(self._pop(), Part):
                return
        if self._protocol.message_in_progress:
            self._protocol.skip_message()
            self.wake_reader()

    def _pop(self) -> Item:
        self.in_use = True
        item = self._ready.pop()
        if not self._ready:
            self._budget.give_back(self._ready_size)
        return item

    async def _take_batch(self, *, parts: bool = False) -> bool:
        """Wait for the next batch. Return whether there is one. When cancelled, it has taken nothing."""
        self.in_use = False
        if self._take_batch_nowait():
            return True
        self._waiting, self._wants_parts = True, parts
        self._budget.wake()  # the reader goes on for whoever waits, and ends what everything was received of
        try:
            items, size = await self._channel.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return False
        finally:
            self._waiting = self._wants_parts = False
        return self._accept(items, size)

    def _take_batch_nowait(self) -> bool:
        # As nothing is left of the last batch, what uses memory is in the channel.
        return bool(self._budget.used) and self._accept(*self._channel.receive_nowait())

    def _accept(self, items: list[Item], size: int) -> bool:
        if self._intake is Intake.DROP:  # since it was handed over
            return False
        items.reverse()
        self._ready = items
        self._ready_size = size
        return True
