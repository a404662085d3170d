"""The outbox: the queue of messages to send, from the tasks that send to the writer task.

A Trio memory channel carries the messages as immutable values, in batches: while the newest batch waits for the writer,
messages are added to it. They are encoded when they are written, because a compressor's output depends on the messages
before. A :class:`Budget` bounds them in bytes of memory until they are
written; an empty outbox has room for one message of any size. All sending tasks share one lock, which keeps the parts
of a message together and gives room to the tasks in order of arrival.

Beside the channel is a *control slot*, which the writer empties first. It holds pongs, pings and the Close frame. The
number of pongs is bounded: beyond it, only the latest is kept (RFC 6455, section 5.5.3). Pings can be withdrawn. The
Close frame goes out last. A None in the channel wakes the writer for the slot.

Messages from :func:`~trio_ws.broadcast` are *posted*: no task waits for room, so they may exceed the budget, up to a
limit of their own. They keep their order with messages from ``send()``: while another task waits for room or sends a
message in parts, posted messages are held until that message is in the channel. A batch ends when it is as large as the
budget, and then the writer takes one at a time. So a large backlog takes little additional memory, and pings and pongs
go out in between.

Frames are tuples, not attrs instances. Creating an instance takes 0.4 to 1.0 µs and a tuple 0.04 µs, while everything
else for a pipelined message of 32 bytes takes 3 to 4 µs.
"""

from __future__ import annotations

import math
from sys import getsizeof

import trio

from ..frames import Close, Opcode
from ..protocol.codec import FIN
from ..protocol.connection import OutgoingFrame
from ..protocol.extensions import EncodingCache
from .budget import Budget, FairLock
from .lag import Lag, PostLimits
from .state import ConnectionState

__all__ = ["MAX_PONGS", "Outbox"]

#: The last frame of a message in parts, which is the only one if the message is empty.
_LAST_PART: OutgoingFrame = (FIN | Opcode.CONT, b"", False)

#: Memory of a queued frame without its payload, in bytes.
_FRAME_OVERHEAD = getsizeof(_LAST_PART)

#: Memory of the :class:`EncodingCache` of a posted message, in bytes.
_CACHE_OVERHEAD = getsizeof(EncodingCache()) + 2 * getsizeof({})

#: Maximum number of queued pongs.
MAX_PONGS = 64

#: Memory of the messages in a full batch, in bytes, unless the budget is larger.
_MIN_BATCH = 64 * 1024


def _size(frame: OutgoingFrame) -> int:
    return _FRAME_OVERHEAD + getsizeof(frame[1]) + (_CACHE_OVERHEAD if isinstance(frame[2], EncodingCache) else 0)


class Outbox:
    """The queue of messages and control frames to send.

    Args:
        state: The state of the connection, which decides whether messages are accepted.
        limit: Memory for messages that are queued or being written, in bytes.

    Attributes:
        lock: Held by a task that waits for room or sends a message in parts.
        pings: The payloads of the queued pings.
        close: The Close frame, which goes out after everything else.
        writing: Whether the writer has taken frames that are not completely written.
        lag: The waiting times of posted messages.
    """

    def __init__(self, state: ConnectionState, limit: int) -> None:
        self._state = state
        self._send_channel: trio.MemorySendChannel[list[OutgoingFrame] | None]
        self._receive_channel: trio.MemoryReceiveChannel[list[OutgoingFrame] | None]
        self._send_channel, self._receive_channel = trio.open_memory_channel(math.inf)
        self._budget = Budget(limit)
        self._max_batch = max(limit, _MIN_BATCH)
        self._writing_size = 0
        # The newest batch, if more frames may be added to it, and its size so far.
        self._batch: list[OutgoingFrame] | None = None
        self._batch_size = 0
        # The batch that wait() has moved out of the channel, for the next take().
        self._frames: list[OutgoingFrame] = []
        # The pongs of the control slot; and whether a None is in the channel to wake the writer.
        self._pongs: list[bytes] = []
        self._wakeup_queued = False
        # Posted messages that are held until another task has sent its message.
        self._held: list[OutgoingFrame] = []
        self._held_size = 0
        # The newest message that the peer was too slow for, if it is kept, with its limits.
        self._newest: tuple[OutgoingFrame, PostLimits] | None = None
        # The numbers of the last message that was added to the channel, and of the last one that was taken.
        self._last_added = self._last_taken = 0
        # The SendStream that is in use. Only its identity matters.
        self._open_stream: object | None = None
        self.lock: FairLock = FairLock()
        self.pings: list[bytes] = []
        self.close: Close | None = None
        # True until the writer task has started, because the response of the opening handshake may be half-written.
        self.writing: bool = True
        self.lag: Lag = Lag()

    @property
    def size(self) -> int:
        """Memory used by messages that are queued, held or being written, in bytes."""
        newest = 0 if self._newest is None else _size(self._newest[0])
        return self._budget.used + self._held_size + newest

    @property
    def is_clear(self) -> bool:
        """Whether a message may be written at once: nothing is queued, half-written or being sent in parts."""
        return not (self._budget.used or self.writing or self.pings or self._pongs or self.lock.owner is not None)

    # -- The senders' side -----------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def put_nowait(self, frame: OutgoingFrame) -> bool:
        """Add a whole message if there is room and no other message waits for it. Return whether it was added."""
        size = _FRAME_OVERHEAD + getsizeof(frame[1])
        if self.lock.owner is not None or self._newest or not self._state.can_send or not self._budget.fits(size):
            return False
        self._add(frame, size)
        return True

    @trio.lowlevel.enable_ki_protection
    async def put(self, frame: OutgoingFrame) -> bool:
        """Wait for room and add a whole message. When cancelled, the message is not added.

        Returns:
            True if the message was added; False if no more messages are accepted.
        """
        return await self.begin_parts(None, frame) and self.end_parts(frame)

    @trio.lowlevel.enable_ki_protection
    async def begin_parts(self, stream: object | None, first: OutgoingFrame = _LAST_PART) -> bool:
        """Wait for the lock, and for room for one frame. When cancelled, the lock is not held.

        Args:
            stream: The SendStream of the message; None for a whole message.
            first: The frame. A SendStream reserves room for its last frame, which has no payload.

        Returns:
            True if the lock is held, so that :meth:`end_parts` must follow; False if no more messages are accepted.
        """
        if not await self.lock.acquire("send_stream()"):
            return False
        kept_before = self._newest is not None
        self._open_stream = stream
        begun = False
        try:
            begun = await self._wait_for_room(stream, _size(first))
            if begun and kept_before:
                self._put_newest()
        finally:
            if not begun:
                self.end_parts(None)
        return begun

    @trio.lowlevel.enable_ki_protection
    async def put_part(self, stream: object, frame: OutgoingFrame) -> bool:
        """Wait for room and add a part of a message. When cancelled, the part is not added.

        Returns:
            True if the part was added; False if :meth:`end_parts` was called, or no more messages are accepted.
        """
        if not await self._wait_for_room(stream, _size(frame)):
            return False
        self._restart_lag()
        self._add(frame, _size(frame))
        return True

    @trio.lowlevel.enable_ki_protection
    def end_parts(self, frame: OutgoingFrame | None) -> bool:
        """Add the last frame of a message and release the lock.

        Args:
            frame: The last frame; None to add none.

        Returns:
            Whether the frame was added: False if there is none, or no more messages are accepted.
        """
        added = frame is not None and self._state.can_send
        self._restart_lag()
        if frame is not None and added:
            self._add(frame, _size(frame))
        self._open_stream = None
        self._put_held()
        self._put_newest_if_it_fits()
        self._budget.wake()  # another task may still wait in put_part()
        self.lock.release()
        return added

    async def _wait_for_room(self, stream: object | None, size: int) -> bool:
        while self._open_stream is stream and self._state.can_send:
            if self._budget.fits(size):
                return True
            await self._budget.wait()
        return False

    def _add(self, frame: OutgoingFrame, size: int) -> None:
        self._budget.used += size
        self._last_added += 1
        batch = self._batch
        if batch is None:
            batch = self._batch = []
            self._batch_size = 0
            self._send_channel.send_nowait(batch)
        batch.append(frame)
        self._batch_size += size
        if self._batch_size >= self._max_batch:
            self._batch = None

    # -- Messages of broadcasts ------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def post(self, frame: OutgoingFrame, limits: PostLimits) -> bool:
        """Add a whole message unless the peer is too slow for it. Return whether it was added.

        An empty outbox accepts one message of any size.
        """
        if not self._state.can_send or self._newest or self.lag.is_exceeded or not self._has_room(frame, limits):
            return False
        if self.lock.owner is None:
            self._add(frame, _size(frame))
            self.lag.record_posted(self._last_added, limits)
        else:
            self._held.append(frame)
            self._held_size += _size(frame)
            self.lag.record_posted(math.inf, limits)
        return True

    @trio.lowlevel.enable_ki_protection
    def post_newest(self, frame: OutgoingFrame, limits: PostLimits) -> None:
        """Keep a whole message until there is room for it, in place of the one that is kept already."""
        if self._state.can_send:
            self._newest = frame, limits

    def record_posted(self, limits: PostLimits) -> None:
        """Record that the message given to :meth:`add_unwritten` was a posted one."""
        self.lag.record_posted(self._last_added, limits)

    def find_next_lag_check(self, progress_at: float) -> float:
        """Return the time of the next :meth:`check_lag`; see :meth:`.Lag.find_next_check`."""
        return self.lag.find_next_check(self._last_taken, progress_at, not self._budget.used)

    def check_lag(self, delay: float, progress_at: float) -> PostLimits | None:
        """Find messages that have waited too long; see :meth:`.Lag.check`."""
        return self.lag.check(delay, self._last_taken, progress_at, not self._budget.used)

    def _has_room(self, frame: OutgoingFrame, limits: PostLimits) -> bool:
        size = self._budget.used + self._held_size
        return not size or size + _size(frame) <= limits.max_backlog

    def _restart_lag(self) -> None:
        """Start measuring the lag of held messages now if the peer had nothing to read until now."""
        if self._held and not self._budget.used:
            self.lag.resumed_at = trio.current_time()

    def _put_held(self) -> None:
        """Move held messages to the channel."""
        held, self._held, self._held_size = self._held, [], 0
        for frame in held:
            self._add(frame, _size(frame))
        if held:
            self.lag.record_released(self._last_added)

    def _put_newest(self) -> None:
        if self._newest is not None:
            (frame, limits), self._newest = self._newest, None
            self._add(frame, _size(frame))
            self.lag.record_posted(self._last_added, limits)

    def _put_newest_if_it_fits(self) -> None:
        if self._newest is not None and self._has_room(*self._newest):
            self._put_newest()

    # -- Control frames --------------------------------------------------------------------------------------------

    def put_ping(self, data: bytes) -> None:
        """Add a ping. The caller may withdraw it from :attr:`pings`."""
        if self._state.can_send:
            self.pings.append(data)
            self.wake_writer()

    def put_pong(self, data: bytes) -> None:
        """Add the answer to a ping."""
        if self._state.can_send:
            if len(self._pongs) == MAX_PONGS:
                self._pongs.clear()
            self._pongs.append(data)
            self.wake_writer()

    def put_unsolicited_pong(self, data: bytes) -> None:
        """Add a pong that answers no ping, unless the slot is full: it must not replace answers."""
        if len(self._pongs) < MAX_PONGS:
            self.put_pong(data)

    @trio.lowlevel.enable_ki_protection
    def finish(self, close: Close | None) -> None:
        """Accept no more frames, and wake all sending tasks. The state must be CLOSING or later.

        Args:
            close: The Close frame, which follows all queued frames; None to drop them, because the connection is lost.
        """
        self.close = close
        self.lag.stop()
        if close is None or self._open_stream is not None:
            self._held, self._held_size = [], 0
        self._newest = None
        self._put_held()
        self._send_channel.close()
        if close is None:
            self.take(math.inf)
        self.lock.close()
        self._budget.wake()

    # -- The writer's side -----------------------------------------------------------------------------------------

    async def wait(self) -> bool:
        """Wait for frames to take or to finish writing. When cancelled, no frames are lost.

        Returns:
            True if there are any; False if there will be no more.
        """
        try:
            while not (self._frames or self.pings or self._pongs or self.writing):
                frames = await self._receive_channel.receive()
                if frames is None:
                    self._wakeup_queued = False
                else:
                    self._frames = frames
        except trio.EndOfChannel:
            return False
        return True

    def take(self, size: float | None = None) -> list[OutgoingFrame]:
        """Take and return the next frames except the Close frame, in the order in which they must be written.

        Args:
            size: Memory of messages after which no more are taken, in bytes; None for that of the budget.
        """
        frames: list[OutgoingFrame] = [(FIN | Opcode.PONG, data, False) for data in self._pongs]
        frames += [(FIN | Opcode.PING, data, False) for data in self.pings]
        self._pongs, self.pings = [], []
        messages = self._take_messages(self._max_batch if size is None else size)
        self._last_taken += len(messages)
        self.writing = True
        return frames + messages if frames else messages

    def _take_messages(self, size: float) -> list[OutgoingFrame]:
        frames, self._frames = self._frames, []
        self._batch = None
        everything = self._budget.used <= size
        self._writing_size = self._budget.used if everything else sum(map(_size, frames))
        try:
            while everything or self._writing_size < size:
                batch = self._receive_channel.receive_nowait()
                if batch is None:
                    self._wakeup_queued = False
                    continue
                frames += batch
                if not everything:
                    self._writing_size += sum(map(_size, batch))
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        return frames

    def record_written(self) -> None:
        """Record that all taken frames are written, and release their memory."""
        size, self._writing_size = self._writing_size, 0
        self.writing = False
        self.lag.record_written(self._last_taken)
        self._budget.release(size)
        if self._newest is not None and self.lock.owner is None:
            self._put_newest_if_it_fits()

    def add_unwritten(self, frame: OutgoingFrame) -> None:
        """Add a frame that ``write_at_once()`` has not written completely. The writer task writes the rest."""
        self._writing_size = _size(frame)
        self._budget.used += self._writing_size
        self._last_added += 1
        self._last_taken += 1
        self.writing = True
        self.wake_writer()

    def wake_writer(self) -> None:
        """Wake the writer, so that it looks into the control slot."""
        if not self._wakeup_queued:
            self._wakeup_queued = True
            self._send_channel.send_nowait(None)
