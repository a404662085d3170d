"""Messages to send, on their way from those who send to the writer task.

A Trio memory channel carries them, as immutable values that are not yet encoded: what a compressor or a mask makes of
them depends on what goes out before. A :class:`Budget` beside it bounds them in bytes of memory; one message always has
room. Its memory counts until it is written. Senders share one lock, so that nothing gets between the parts of a
message, and those who wait for room get it in the order in which they came.

Beside the channel there is a *control slot*, which the writer empties first: pongs (bounded in number: past the bound
only the latest is kept, RFC 6455, section 5.5.3), pings (which can be withdrawn), and the Close frame, which goes out
last. A None in the channel makes the writer look into it. Messages that :func:`~trio_ws.broadcast` has posted and that
find no room, or a message that is being sent in parts, wait in the slot too.

Values are tuples, not instances of attrs: making one of these takes 0.4 to 1.0 µs where all the rest of a pipelined
message of 32 bytes takes 3 to 4 µs, and a tuple 0.04 µs.
"""

from __future__ import annotations

import math
from sys import getsizeof

import trio

from ..frames import Close, Opcode
from ..protocol.codec import FIN
from ..protocol.connection import OutgoingFrame
from .budget import Budget, FairLock
from .state import ConnectionState

__all__ = ["MAX_PONGS", "Outbox"]

#: What a message in parts consists of at least.
_LAST_PART: OutgoingFrame = (FIN | Opcode.CONT, b"", False)

#: The memory of a frame in the outbox, apart from its payload.
_FRAME = getsizeof(_LAST_PART)

#: How many pongs wait to be written at most.
MAX_PONGS = 64


def _size(frame: OutgoingFrame) -> int:
    return _FRAME + getsizeof(frame[1])


class Outbox:
    """Messages and control frames that wait to be written.

    Args:
        state: The state of the connection, which says whether messages are accepted.
        limit: Bytes of memory for messages that wait or are being written.

    Attributes:
        lock: Held by whoever waits for room, or sends a message in parts.
        pings: The payloads of pings that wait.
        close: The Close frame, which goes out after everything else.
        taken: Whether something was taken that is not written yet.
    """

    def __init__(self, state: ConnectionState, limit: int) -> None:
        self._state = state
        self._put: trio.MemorySendChannel[OutgoingFrame | None]
        self._channel: trio.MemoryReceiveChannel[OutgoingFrame | None]
        self._put, self._channel = trio.open_memory_channel(math.inf)
        self._budget = Budget(limit)
        self._size_taken = 0
        # What the writer has got out of the channel and not yet taken to be written.
        self._frames: list[OutgoingFrame] = []
        # The control slot; and whether there is a None in the channel because of it.
        self._pongs: list[bytes] = []
        self._posted: list[OutgoingFrame] = []
        self._posted_size = 0
        self._woken = False
        # Stands for the message that is being sent in parts.
        self._in_parts: object | None = None
        self.lock: FairLock = FairLock()
        self.pings: list[bytes] = []
        self.close: Close | None = None
        # Until the writer task has begun: what was sent in the opening handshake may be half-written.
        self.taken: bool = True

    @property
    def size(self) -> int:
        """Bytes of memory of the messages that wait or are being written."""
        return self._budget.used + self._posted_size

    @property
    def is_clear(self) -> bool:
        """Whether a message can go out at once: nothing waits, is half-written, or is being sent in parts."""
        return not (self._budget.used or self.taken or self.pings or self._pongs or self.lock.owner is not None)

    # -- The senders' side -----------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def put_nowait(self, frame: OutgoingFrame) -> bool:
        """Add a whole message if there is room and nobody is before us. Return whether it was added."""
        size = _FRAME + getsizeof(frame[1])
        if self.lock.owner is not None or self._posted or not self._state.can_send or not self._budget.fits(size):
            return False
        self._budget.used += size
        self._put.send_nowait(frame)
        return True

    @trio.lowlevel.enable_ki_protection
    async def put(self, frame: OutgoingFrame) -> bool:
        """Add a whole message once there is room.

        Returns:
            False if no more messages are accepted. When cancelled, it was not added either.
        """
        return await self.begin_parts(None, frame) and self.end_parts(frame)

    @trio.lowlevel.enable_ki_protection
    async def begin_parts(self, message: object | None, first: OutgoingFrame = _LAST_PART) -> bool:
        """Wait until the next message is ours to send in parts, and there is room for a part of it.

        Args:
            message: Stands for the message; None if it has one part only.
            first: The part. For the last one, which has no payload, there must be room from the beginning.

        Returns:
            Whether it is ours, so that :meth:`end_parts` must follow; False if no more messages are accepted.
        """
        if not await self.lock.acquire("send_stream()"):
            return False
        posted_before = bool(self._posted)
        self._in_parts = message
        begun = False
        try:
            begun = await self._wait_for_room(message, _size(first))
            if posted_before:
                self._put_posted()
        finally:
            if not begun:
                self.end_parts(None)
        return begun

    @trio.lowlevel.enable_ki_protection
    async def put_part(self, message: object, frame: OutgoingFrame) -> bool:
        """Add a part of a message once there is room.

        Returns:
            False if the message has ended, or no more messages are accepted. When cancelled, it was not added either.
        """
        if not await self._wait_for_room(message, _size(frame)):
            return False
        self._add(frame)
        return True

    @trio.lowlevel.enable_ki_protection
    def end_parts(self, frame: OutgoingFrame | None) -> bool:
        """Let others send again.

        Args:
            frame: The last part, for which there is room; None: there is none.

        Returns:
            Whether it was added: False if there is none, or no more messages are accepted.
        """
        added = frame is not None and self._state.can_send
        if frame is not None and added:
            self._add(frame)
        self._in_parts = None
        self._put_posted()
        self._budget.wake()  # for another task that waits to send a part of this message
        self.lock.release()
        return added

    async def _wait_for_room(self, message: object | None, size: int) -> bool:
        while self._in_parts is message and self._state.can_send:
            if self._budget.fits(size):
                return True
            await self._budget.wait()
        return False

    def _add(self, frame: OutgoingFrame) -> None:
        self._budget.used += _size(frame)
        self._put.send_nowait(frame)

    # -- Messages that nobody waits with ---------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def post(self, frame: OutgoingFrame) -> bool:
        """Add a whole message if there is room, and return whether it was added.

        While a message is sent in parts, there is as much room for what goes out after it.
        """
        if self.put_nowait(frame):
            return True
        if self._in_parts is None or not self._state.can_send:
            return False
        if self._posted and self._posted_size + _size(frame) > self._budget.limit:
            return False
        return self._post(frame)

    @trio.lowlevel.enable_ki_protection
    def post_newest(self, frame: OutgoingFrame) -> None:
        """Let a whole message wait for room, in place of the last one that does."""
        if self._posted:
            self._posted_size -= _size(self._posted.pop())
        self._post(frame)

    def _post(self, frame: OutgoingFrame) -> bool:
        self._posted.append(frame)
        self._posted_size += _size(frame)
        return True

    def _put_posted(self) -> None:
        """Move messages from the slot to the channel. They may overdraw the budget: the slot has its own bound."""
        posted, self._posted, self._posted_size = self._posted, [], 0
        if self._state.can_send:
            for frame in posted:
                self._add(frame)

    # -- Control frames --------------------------------------------------------------------------------------------

    def put_ping(self, data: bytes) -> None:
        """Add a ping. It can be withdrawn from :attr:`pings`."""
        if self._state.can_send:
            self.pings.append(data)
            self.wake_writer()

    def put_pong(self, data: bytes) -> None:
        """Add a pong."""
        if self._state.can_send:
            if len(self._pongs) == MAX_PONGS:
                self._pongs.clear()
            self._pongs.append(data)
            self.wake_writer()

    @trio.lowlevel.enable_ki_protection
    def finish(self, close: Close | None) -> None:
        """Accept nothing more, and wake all who wait to send. The state says so already.

        Args:
            close: The Close frame, to go out after all that is there; None if there is nobody left to send it to, so
                that everything is dropped.
        """
        self.close = close
        self._put.close()
        if close is None:
            self.take()
        self._posted, self._posted_size = [], 0
        self.lock.close()
        self._budget.wake()

    # -- The writer's side -----------------------------------------------------------------------------------------

    async def wait(self) -> bool:
        """Wait until there is something to take, or to go on with. When cancelled, nothing is lost.

        Returns:
            False at the end: nothing more will come.
        """
        try:
            while not (self._frames or self.pings or self._pongs or self.taken):
                self._accept(await self._channel.receive())
        except trio.EndOfChannel:
            return False
        return True

    def take(self) -> list[OutgoingFrame]:
        """Return all frames that wait, in the order in which they go out, but not the Close frame."""
        try:
            while True:
                self._accept(self._channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        frames: list[OutgoingFrame] = [(FIN | Opcode.PONG, data, False) for data in self._pongs]
        frames += [(FIN | Opcode.PING, data, False) for data in self.pings]
        frames += self._frames
        self._frames, self._pongs, self.pings = [], [], []
        self._size_taken = self._budget.used
        self.taken = True
        return frames

    def written(self) -> None:
        """Give back the room of what was taken: it is written."""
        size, self._size_taken = self._size_taken, 0
        self.taken = False
        self._budget.give_back(size)
        if self._posted and self.lock.owner is None:
            self._put_posted()

    def keep(self, frame: OutgoingFrame) -> None:
        """Record a frame that the system has not taken whole. The writer goes on with it."""
        self._size_taken = _size(frame)
        self._budget.used += self._size_taken
        self.taken = True
        self.wake_writer()

    def wake_writer(self) -> None:
        """Make the writer look for something to do."""
        if not self._woken:
            self._woken = True
            self._put.send_nowait(None)

    def _accept(self, frame: OutgoingFrame | None) -> None:
        if frame is None:
            self._woken = False
        else:
            self._frames.append(frame)
