"""Received messages, on their way from the reader task to those who receive.

A Trio memory channel carries *batches*: each is a list of what one step of reading has brought. A :class:`Budget`
beside it bounds them in bytes of memory, as :func:`sys.getsizeof` counts them, so that a million empty messages are not
free. Receivers share one lock, so that messages, and the parts of one, go to one after the other in the order in which
they asked; and they share what is left of the batch that was taken last. Its memory counts until all of it is taken.

The message in progress is the protocol's. Whoever receives a message in parts takes from the protocol what is there.
"""

from __future__ import annotations

import math
from sys import getsizeof
from typing import Any, TypeAlias

import trio

from ..frames import Opcode
from ..protocol import LastPart, Message, Protocol
from .budget import Budget, FairLock

__all__ = ["Inbox"]

_Batch: TypeAlias = "list[Message | LastPart]"


class Inbox:
    """Received messages that wait for somebody to receive them.

    Args:
        protocol: Holds the message in progress.
        limit: Bytes of memory for messages that nobody has asked for yet.

    Attributes:
        lock: Held by whoever receives: for one whole message, or for all parts of one.
        in_use: Whether the application has taken something and not yet asked for more, so that it may be about to
            answer.
        sheds: Whether the reader closes the inbox where it would have to wait for room.
    """

    def __init__(self, protocol: Protocol, limit: int) -> None:
        self._protocol = protocol
        self._put: trio.MemorySendChannel[tuple[_Batch, int]]
        self._channel: trio.MemoryReceiveChannel[tuple[_Batch, int]]
        self._put, self._channel = trio.open_memory_channel(math.inf)
        self._budget = Budget(limit)
        # What is left of the batch that was taken last, in reverse order; and the size of the whole batch.
        self._ready: list[Any] = []
        self._ready_size = 0
        # Stands for the message that is received in parts.
        self._in_parts: object | None = None
        self._waiting = False
        self._ended = self._dropped = False
        self.lock: FairLock = FairLock()
        self.in_use: bool = False
        self.sheds: bool = False

    @property
    def size(self) -> int:
        """Bytes of memory that the messages use, with what has come of the one in progress."""
        return self._budget.used + self._protocol.held

    @property
    def is_empty(self) -> bool:
        """Whether everything was taken that is complete."""
        return not self._budget.used

    # -- The reader's side -----------------------------------------------------------------------------------------

    def put(self, items: _Batch) -> None:
        """Add what has come in, however full the inbox is, and tell of progress of the message that comes in parts.

        Args:
            items: Whole messages, and ends of messages in parts. The list belongs to the inbox then.
        """
        if self._ended:
            self._drop_message_in_progress()
        elif items:
            size = sum(map(getsizeof, items))
            self._budget.used += size
            self._put.send_nowait((items, size))
        if self._in_parts is not None:
            self._budget.wake()

    @property
    def is_full(self) -> bool:
        """Whether the reader has to wait: the budget is spent, and nobody waits for more."""
        return not self._waiting and not self._ended and self.size >= max(self._budget.limit, 1)

    @property
    def is_finished_with(self) -> bool:
        """Whether everything was taken, and the application is not busy with it: it asks for more, or never did."""
        return self._dropped or not (self._budget.used or self.in_use)

    async def wait(self) -> None:
        """Wait until a receiver has changed something. The reader has to look again."""
        await self._budget.wait()

    def wake_reader(self) -> None:
        """Let the reader look again."""
        self._budget.wake()

    def end(self) -> None:
        """Close the inbox for more. What is there can still be received."""
        self._ended = True
        self._put.close()
        self._budget.wake()

    def settle(self) -> None:
        """End it, and wake those who wait for their turn if nothing is there for them."""
        self.end()
        # What has come of the message in progress is for whoever receives in parts.
        if self.is_empty and (self.lock.owner is not None or not self._protocol.held):
            self.lock.close()

    def drop(self) -> None:
        """Drop everything, and all that will come: nobody will ask for it. Wake all who wait."""
        self._dropped = True
        self.end()
        self._channel.close()
        self._ready = []
        self._budget.used = 0
        self._drop_message_in_progress()
        self.lock.close()
        self.wake_reader()

    def _drop_message_in_progress(self) -> None:
        if self._protocol.held:
            self._protocol.skip_message()

    # -- The receivers' side ---------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def get_nowait(self) -> Message | None:
        """Return the next message if it is at hand and nobody is before us; None otherwise."""
        if not self._ready or self.lock.owner is not None:
            return None
        message: Message = self._pop()
        return message

    @trio.lowlevel.enable_ki_protection
    async def get(self) -> Any:
        """Return the next message once it is there, or None at the end. When cancelled, it has taken nothing."""
        if not (self.lock.acquire_nowait() or await self.lock.acquire("receive_stream()")):
            return None
        try:
            if self._ready or self._take_batch_nowait():
                return self._pop()
            self._begin_waiting()
            self._accept(*await self._channel.receive())
            return None if self._dropped else self._pop()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return None
        finally:
            self._waiting = False
            self.lock.release()

    def _begin_waiting(self) -> None:
        self.in_use = False
        self._waiting = True
        self.wake_reader()  # it goes on for whoever waits, and ends what everything was received of

    def _take_batch_nowait(self) -> bool:
        # As nothing is left of the last batch, what uses memory is in the channel.
        if self._budget.used:
            self._accept(*self._channel.receive_nowait())
        return bool(self._budget.used)

    def _accept(self, items: _Batch, size: int) -> None:
        items.reverse()
        self._ready, self._ready_size = items, size

    def _pop(self) -> Any:
        self.in_use = True
        item = self._ready.pop()
        if not self._ready:
            self._budget.give_back(self._ready_size)
        return item

    @trio.lowlevel.enable_ki_protection
    async def begin_parts(self, message: object) -> bool:
        """Wait for the beginning of a message, to receive it in parts. When cancelled, nothing has happened.

        Args:
            message: Stands for the message.

        Returns:
            Whether it is there, so that :meth:`end_parts` must follow; False at the end.
        """
        if not await self.lock.acquire("receive_stream()"):
            return False
        self._in_parts = message
        begun = False
        try:
            begun = await self._wait_for_progress(message)
        finally:
            if not begun:
                self._in_parts = None
                self.lock.release()
        return begun

    def next_is_text(self) -> bool:
        """Whether the message whose beginning is there is text."""
        if self._ready:
            return isinstance(self._ready[-1], str)
        return self._protocol.message_in_progress is Opcode.TEXT

    @trio.lowlevel.enable_ki_protection
    async def get_part(self, message: object) -> tuple[Message, bool] | None:
        """Return the next part of a message. When cancelled, it has taken nothing.

        Returns:
            The part, and whether it is the last; None if the message was left, or the rest will never come.
        """
        if not await self._wait_for_progress(message):
            return None
        if self._ready:
            item = self._pop()
            return (item.data if isinstance(item, LastPart) else item), True
        self.in_use = True
        part = self._protocol.take_part()
        self.wake_reader()
        return part, False

    async def _wait_for_progress(self, message: object) -> bool:
        """Wait until something of a message is there. Return False if nothing will be."""
        while self._in_parts is message:
            # Of a message whose rest is being dropped nothing is held: that is not ours.
            if self._ready or self._take_batch_nowait() or self._protocol.held:
                return True
            self._begin_waiting()
            try:
                if self._ended:
                    break
                await self._budget.wait()
            finally:
                self._waiting = False
        return False

    @trio.lowlevel.enable_ki_protection
    def end_parts(self, *, complete: bool) -> None:
        """Let others receive again, and another task that waits for a part know that there will be none.

        Args:
            complete: Whether the last part was received. Otherwise what is left of the message is dropped.
        """
        if not complete:
            if self._ready or self._take_batch_nowait():
                self._pop()  # it ends with that, if it has not come whole
            elif self._protocol.message_in_progress:
                self._protocol.skip_message()
                self.wake_reader()
        self._in_parts = None
        self._budget.wake()
        self.lock.release()

    def stop_using(self) -> None:
        """Record that the application is not about to answer what it has taken."""
        self.in_use = False
        self.wake_reader()

    @trio.lowlevel.enable_ki_protection
    def take_rest(self) -> list[Message]:
        """Return all whole messages that are left after the end, whoever holds the lock.

        Those who wait for one see that there is none. The end of a message in parts stays for whoever receives it.
        """
        rest: list[Message] = []
        ending: LastPart | None = None
        while self._ready or self._take_batch_nowait():
            item = self._pop()
            if isinstance(item, LastPart):
                ending = item
            else:
                rest.append(item)
        if ending is not None:
            self._ready, self._ready_size = [ending], getsizeof(ending)
            self._budget.used += self._ready_size
        return rest
