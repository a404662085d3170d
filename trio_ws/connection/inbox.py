"""The inbox: the queue of received messages, from the reader task to the tasks that receive.

A Trio memory channel carries *batches*: each is the list of messages from one step of the reader. A :class:`Budget`
bounds them in bytes of memory, as :func:`sys.getsizeof` counts them, so that a million empty messages are not free. All
receiving tasks share one lock, which keeps the parts of a message together and serves the tasks in order of arrival.
They also share the last batch, which counts against the budget until it is used up.

The protocol holds the message in progress. A task that receives in parts takes its bytes directly from there.
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
    """The queue of received messages.

    Args:
        protocol: The protocol, which holds the message in progress.
        limit: Memory for messages that were not received by the application yet, in bytes.

    Attributes:
        lock: Held by the task that is receiving, for one whole message or for all parts of one.
        end_when_full: Whether the reader must end the inbox instead of waiting for room.
        has_lost: Whether messages were lost, because they arrived after such an end.
    """

    def __init__(self, protocol: Protocol, limit: int) -> None:
        self._protocol = protocol
        self._send_channel: trio.MemorySendChannel[tuple[_Batch, int]]
        self._receive_channel: trio.MemoryReceiveChannel[tuple[_Batch, int]]
        self._send_channel, self._receive_channel = trio.open_memory_channel(math.inf)
        self._budget = Budget(limit)
        # The rest of the last batch, in reverse order; and the size that the whole batch had.
        self._batch: list[Any] = []
        self._batch_size = 0
        # The ReceiveStream that is in use. Only its identity matters.
        self._open_stream: object | None = None
        self._receiver_waits = False
        # True while the application may still answer: it has received something, and not asked for more.
        self._handling = False
        self._ended = self._dropped = False
        self.lock: FairLock = FairLock()
        self.end_when_full: bool = False
        self.has_lost: bool = False

    @property
    def size(self) -> int:
        """Memory used by the queued messages and the message in progress, in bytes."""
        return self._budget.used + self._protocol.held

    @property
    def is_empty(self) -> bool:
        """Whether all complete messages were received by the application."""
        return not self._budget.used

    # -- The reader's side -----------------------------------------------------------------------------------------

    def put(self, items: _Batch) -> None:
        """Add a batch, even if the inbox is full, and wake the task that receives in parts.

        Args:
            items: Whole messages, and last parts of messages that are received in parts. It may be empty. The caller
                must not use the list any more.
        """
        if self._ended:
            self.has_lost |= not self._dropped and bool(items or self._protocol.held)
            self._drop_message_in_progress()
        elif items:
            size = sum(map(getsizeof, items))
            self._budget.used += size
            self._send_channel.send_nowait((items, size))
        if self._open_stream is not None:
            self._budget.wake()

    @property
    def is_full(self) -> bool:
        """Whether the reader must wait: the budget is used up, and no task waits for a message."""
        return not self._receiver_waits and not self._ended and self.size >= max(self._budget.limit, 1)

    @property
    def is_handled(self) -> bool:
        """Whether the application has received everything and is not going to answer it."""
        return self._dropped or not (self._budget.used or self._handling)

    async def wait_for_receiver(self) -> None:
        """Wait for a change on the receivers' side. The reader must check its condition again."""
        await self._budget.wait()

    def wake_reader(self) -> None:
        """Wake the reader, so that it checks its condition again."""
        self._budget.wake()

    def end(self) -> None:
        """Accept no more messages. Queued ones can still be received."""
        self._ended = True
        self._send_channel.close()
        self._budget.wake()

    def settle(self) -> None:
        """End the inbox, and close the lock unless there is something left to receive."""
        self.end()
        # A task that receives in parts may still take the beginning of the message in progress.
        if self.is_empty and (self.lock.owner is not None or not self._protocol.held):
            self.lock.close()

    def drop(self) -> None:
        """End the inbox, drop all messages, and wake all waiting tasks."""
        self._dropped = True
        self.end()
        self._receive_channel.close()
        self._batch = []
        self._budget.used = 0
        self._drop_message_in_progress()
        self.lock.close()

    def _drop_message_in_progress(self) -> None:
        if self._protocol.held:
            self._protocol.skip_message()

    # -- The receivers' side ---------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def get_nowait(self) -> Message | None:
        """Return the next message of the last batch, or None if there is none or another task is receiving."""
        if not self._batch or self.lock.owner is not None:
            return None
        message: Message = self._pop()
        return message

    @trio.lowlevel.enable_ki_protection
    async def get(self) -> Any:
        """Wait for the next message and return it, or None at the end. When cancelled, no message is taken."""
        if not (self.lock.acquire_nowait() or await self.lock.acquire("receive_stream()")):
            return None
        try:
            if self._batch or self._take_batch_nowait():
                return self._pop()
            self._begin_waiting()
            batch = await self._receive_channel.receive()
            if self._dropped:  # after the channel had handed the batch to this task
                return None
            self._open_batch(*batch)
            return self._pop()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return None
        finally:
            self._receiver_waits = False
            self.lock.release()

    def _begin_waiting(self) -> None:
        self._handling = False
        self._receiver_waits = True
        self.wake_reader()  # it reads on for a waiting task, or ends the connection if everything was handled

    def _take_batch_nowait(self) -> bool:
        # The last batch is used up, so any memory in use belongs to batches in the channel.
        if self._budget.used:
            self._open_batch(*self._receive_channel.receive_nowait())
        return bool(self._budget.used)

    def _open_batch(self, items: _Batch, size: int) -> None:
        items.reverse()
        self._batch, self._batch_size = items, size

    def _pop(self) -> Any:
        self._handling = True
        item = self._batch.pop()
        if not self._batch:
            self._budget.release(self._batch_size)
        return item

    @trio.lowlevel.enable_ki_protection
    async def begin_parts(self, stream: object) -> bool:
        """Wait for the beginning of a message, to receive it in parts. When cancelled, nothing has changed.

        Args:
            stream: The ReceiveStream of the message.

        Returns:
            True if a message has begun, so that :meth:`end_parts` must follow; False at the end.
        """
        if not await self.lock.acquire("receive_stream()"):
            return False
        self._open_stream = stream
        begun = False
        try:
            begun = await self._wait_for_progress(stream)
        finally:
            if not begun:
                self._open_stream = None
                self.lock.release()
        return begun

    def next_is_text(self) -> bool:
        """Whether the message that has begun is text."""
        if self._batch:
            return isinstance(self._batch[-1], str)
        return self._protocol.message_in_progress is Opcode.TEXT

    @trio.lowlevel.enable_ki_protection
    async def get_part(self, stream: object) -> tuple[Message, bool] | None:
        """Wait for the next part of a message and return it. When cancelled, no part is taken.

        Returns:
            The part, and whether it is the last one; None if :meth:`end_parts` was called, or the connection has ended
            within the message.
        """
        if not await self._wait_for_progress(stream):
            return None
        if self._batch:
            item = self._pop()
            return (item.data if isinstance(item, LastPart) else item), True
        self._handling = True
        part = self._protocol.take_part()
        self.wake_reader()
        return part, False

    async def _wait_for_progress(self, stream: object) -> bool:
        """Wait until there is a part of the message to take. Return False if there will be none."""
        while self._open_stream is stream:
            # The protocol holds nothing of a message that is being skipped.
            if self._batch or self._take_batch_nowait() or self._protocol.held:
                return True
            self._begin_waiting()
            try:
                if self._ended:
                    break
                await self._budget.wait()
            finally:
                self._receiver_waits = False
        return False

    @trio.lowlevel.enable_ki_protection
    def end_parts(self, *, complete: bool) -> None:
        """Release the lock, and wake a task that still waits for a part.

        Args:
            complete: Whether the last part was received. Otherwise, the rest of the message is dropped.
        """
        if not complete:
            if self._batch or self._take_batch_nowait():
                self._pop()  # the whole message, or its last part
            elif self._protocol.message_in_progress:
                self._protocol.skip_message()
                self.wake_reader()
        self._open_stream = None
        self._budget.wake()
        self.lock.release()

    def end_handling(self) -> None:
        """Record that the application will not answer what it has received."""
        self._handling = False
        self.wake_reader()

    @trio.lowlevel.enable_ki_protection
    def drain(self) -> list[Message]:
        """Remove and return all whole messages that are left after the end, even if another task holds the lock.

        Call this at least one scheduling step after the end: until then, a batch may be on its way to a task that has
        waited for it. Tasks that wait afterwards get none. The last part of a message that is received in parts stays
        for its receiver.
        """
        messages: list[Message] = []
        last_part: LastPart | None = None
        while self._batch or self._take_batch_nowait():
            item = self._pop()
            if isinstance(item, LastPart):
                last_part = item
            else:
                messages.append(item)
        if last_part is not None:
            self._batch, self._batch_size = [last_part], getsizeof(last_part)
            self._budget.used += self._batch_size
        return messages
