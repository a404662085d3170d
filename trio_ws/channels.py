"""The inbox and the outbox of a connection: what joins its tasks to the calls of its user.

They are to messages what memory channels are, with three differences that Trio's do not offer, which is why they are
not those: the bound is in bytes of memory, not in messages; a message can be taken in parts while it is still coming
in, or put in parts, and nothing of another message gets between them; and the end wakes everyone who waits.

Bytes are counted as memory, as :func:`sys.getsizeof` does, so that a million empty messages are not free.

Both rely on two facts about Trio. Code between two ``await`` runs undisturbed, so what is not marked ``async`` here is
atomic. And a task that has been woken can no longer be cancelled out of the wait it was woken from, so what was handed
over with the waking is not lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from sys import getsizeof

import attrs
import trio

from .frames import Close, Opcode
from .protocol import LastPart, Message, Protocol
from .protocol.codec import FIN
from .protocol.connection import OutgoingFrame

__all__ = ["Bell", "Inbox", "Outbox"]

#: What a message in parts consists of at least.
_LAST_PART: OutgoingFrame = (FIN | Opcode.CONT, b"", False)

#: What a frame in the outbox takes in memory, apart from its payload.
_FRAME = getsizeof(_LAST_PART)

#: How many pongs wait to be written at most. Past that only the latest is kept (RFC 6455, section 5.5.3).
MAX_PONGS = 64


class Bell:
    """What one task waits for. Smaller and faster than Trio's parking lots, which have room for many."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait until it is rung."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def ring(self) -> None:
        """Wake the task that waits, if one does."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Inbox:
    """Messages on their way from the reader to those who receive.

    Whoever receives takes turns: one whole message, or all parts of one, then the next in line.

    Args:
        protocol: Holds the message in progress, which belongs to the inbox too.
        limit: Bytes of memory for messages that nobody has asked for yet.
    """

    __slots__ = (
        "_answering",
        "_discarding",
        "_ended",
        "_getting",
        "_limit",
        "_line",
        "_messages",
        "_protocol",
        "_reader",
        "_reader_waits",
        "_shedding",
        "_size",
        "_stream",
        "_turn",
        "_waiting",
    )

    def __init__(self, protocol: Protocol, limit: int) -> None:
        self._protocol = protocol
        self._limit = limit
        self._messages: deque[Message | LastPart] = deque()
        self._size = 0
        # Nothing more can be put. / What is there was dropped too. / What does not fit will be dropped.
        self._ended = False
        self._discarding = False
        self._shedding = False
        # Whose turn it is: a task, which may wait for a message, and the others in line. Nobody is in line without a
        # turn being taken.
        self._turn: trio.lowlevel.Task | None = None
        # Whether a whole message is what it is for. / Who takes a message in parts, in this turn.
        self._getting = False
        self._stream: object | None = None
        self._waiting = trio.lowlevel.ParkingLot()
        self._line = trio.lowlevel.ParkingLot()
        # Whether the application has taken a message and not yet asked for the next: it may be about to answer.
        self._answering = False
        self._reader = Bell()
        self._reader_waits = False

    # -- The reader's side -----------------------------------------------------------------------------------------

    def put(self, message: Message | LastPart) -> None:
        """Add a message, however full the inbox is. After the end it is dropped."""
        if self._shedding and self._is_full() and not isinstance(message, LastPart):
            # All that follow are dropped too: nothing may be missing between two messages.
            self.end()
            self._drop_incomplete()
        if self._ended or self._discarding:
            return
        self._messages.append(message)
        self._size += getsizeof(message)
        self._waiting.unpark()

    def put_all(self, messages: list[Message]) -> None:
        """Add several messages, as :meth:`put` adds one."""
        if self._shedding or self._is_over():
            for message in messages:
                self.put(message)
        else:
            self._messages.extend(messages)
            self._size += sum(map(getsizeof, messages))
            self._waiting.unpark()

    def progress(self) -> None:
        """Take note that more of the message in progress may be there."""
        if self._is_over():
            self._drop_incomplete()
        elif self._stream is not None and self._waiting and self._protocol.held:
            self._waiting.unpark()

    def end(self) -> None:
        """Take note that nothing more will be put. What is there can still be taken."""
        self._ended = True
        if self._discarding:
            self._drop_incomplete()
        self._waiting.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait while the inbox is full, unless somebody waits for a message that is still incomplete."""
        while self._is_full() and not self._waiting and not self._discarding and not self._shedding:
            await self._park_reader()

    def is_asked(self) -> bool:
        """Whether everything was taken and the application is not busy with it: it asks for more, or never did."""
        return self._discarding or not (self._messages or self._answering)

    async def wait_until_asked(self) -> None:
        """Wait until everything was taken and the application is not busy with it."""
        while not self.is_asked():
            await self._park_reader()

    async def _park_reader(self) -> None:
        self._reader_waits = True
        await self._reader.wait()

    def _drop_incomplete(self) -> None:
        if self._protocol.held:
            self._protocol.skip_message()

    def _is_full(self) -> bool:
        size = self._size + self._protocol.held
        return size > 0 and size >= self._limit

    def take_rest(self) -> list[Message]:
        """Return all whole messages that are left after the end, whosever turn it is.

        Those who wait for one see that there is none. The last part of a message stays for whoever takes its parts.
        """
        rest = [message for message in self._messages if not isinstance(message, LastPart)]
        while self._messages and not isinstance(self._messages[-1], LastPart):
            self._size -= getsizeof(self._messages.pop())
        return rest

    # -- The receivers' side ---------------------------------------------------------------------------------------

    def get_nowait(self) -> Message | None:
        """Return the next message if it is there and nobody is before us, or None."""
        if self._messages and self._turn is None:
            return self._pop()  # type: ignore[return-value]  # a LastPart is for whoever has the turn
        return None

    async def get(self, wait: Callable[[], Awaitable[bool]] | None = None) -> Message | None:
        """Return the next message once it is there, or None at the end. When cancelled, it has taken nothing.

        Args:
            wait: How to wait for more, if not with :meth:`wait`.
        """
        await self.begin_turn()
        self._getting = True
        try:
            while not self._messages:
                if not await (wait or self.wait)():
                    return None
            return self._pop()  # type: ignore[return-value]  # whoever took the first part has also had the last
        finally:
            self._getting = False
            self.end_turn()

    @property
    def is_wanted(self) -> bool:
        """Whether a receiver is about to take a message, or to ask for more: it has the turn, and does not wait."""
        return self._getting and not self._waiting

    @property
    def size(self) -> int:
        """Bytes of memory that the messages take which are there, and what has come of the one in progress."""
        return self._size + self._protocol.held

    @property
    def is_empty(self) -> bool:
        """Whether no whole message is there."""
        return not self._messages

    async def begin_turn(self) -> None:
        """Wait until it is our turn. When cancelled, it is not; otherwise ``end_turn`` must follow."""
        task = trio.lowlevel.current_task()
        if self._turn is None:
            self._turn = task
        elif self._turn is task:
            raise RuntimeError("this task is in the middle of a receive_stream() on the same WebSocket")
        elif not self._discarding:
            # Woken when the turn was passed on to us, or when there is nothing to take turns for any more.
            await self._line.park()

    def end_turn(self) -> None:
        """Let the next one have a turn."""
        self._stream = None
        if self._waiting:
            # For a part, and the parts are not for it any more.
            self._waiting.unpark_all()
        passed_on = self._line.unpark()
        self._turn = passed_on[0] if passed_on else None

    async def begin_parts(self, stream: object) -> bool:
        """Wait for the beginning of a message, in our turn.

        Args:
            stream: Stands for the message, until the end of the turn.

        Returns:
            Whether it is there: False at the end. When cancelled, it has taken nothing.
        """
        self._stream = stream
        # Of a message whose rest is being dropped nothing is held: that is not ours.
        while not self._messages and not self._protocol.held:
            if not await self.wait():
                return False
        return True

    def next_is_text(self) -> bool:
        """Whether the message whose beginning is there is text."""
        if self._messages:
            return isinstance(self._messages[0], str)
        return self._protocol.message_in_progress is Opcode.TEXT

    async def get_part(self, stream: object) -> tuple[Message, bool] | None:
        """Return the next part of the message, and whether it was the last; None if the rest will never come.

        When cancelled, it has taken nothing.

        Args:
            stream: What stands for the message. When its turn is over, the rest will not come either.
        """
        while self._stream is stream:
            if self._messages:
                message = self._pop()
                return (message.data if isinstance(message, LastPart) else message), True
            if self._protocol.held:
                part = self._protocol.take_part()
                self._answering = True
                self._wake_reader()
                return part, False
            if not await self.wait():
                return None
        return None

    def skip_parts(self) -> None:
        """Drop the rest of the message of which a part was taken, or the beginning was seen."""
        if self._messages:
            self._pop()
        elif self._protocol.message_in_progress:
            self._protocol.skip_message()
            self._wake_reader()

    def stop_answering(self) -> None:
        """Take note that the application is not about to answer what it has taken."""
        self._answering = False
        self._wake_reader()

    def discard(self) -> None:
        """Drop everything, and all that will come: nobody will ask for it."""
        self._discarding = True
        self._messages.clear()
        self._size = 0
        self._drop_incomplete()
        self._waiting.unpark_all()
        self._line.unpark_all()
        self._wake_reader()

    def shed(self) -> None:
        """From now on drop what does not fit, and all that follows, instead of making the peer wait."""
        self._shedding = True
        self._wake_reader()

    def _is_over(self) -> bool:
        return self._ended or self._discarding

    def _pop(self) -> Message | LastPart:
        message = self._messages.popleft()
        self._size -= getsizeof(message)
        self._answering = True
        # Not at once when there is room again, but when it is worth while.
        if self._reader_waits and self._size <= self._limit // 2:
            self._wake_reader()
        return message

    def ask_for_more(self) -> bool:
        """Take note that what was taken is done with. Return whether more may come."""
        self.stop_answering()
        return not self._is_over()

    async def wait(self) -> bool:
        """Wait until something has come, in our turn. Return False at once if nothing more will."""
        if not self.ask_for_more():
            return False
        await self._waiting.park()
        return True

    def _wake_reader(self) -> None:
        # It looks again whether it may go on.
        self._reader_waits = False
        self._reader.ring()


def _size(frame: OutgoingFrame) -> int:
    """Return how much memory a frame takes in the outbox."""
    return _FRAME + getsizeof(frame[1])


@attrs.define(eq=False)
class _Sender:
    """A task that waits to put a frame, or to begin a message in parts when it has none.

    Without a task, it is a frame that waits by itself.
    """

    task: trio.lowlevel.Task | None
    frame: OutgoingFrame | None
    stream: object | None
    admitted: bool = False

    def wake(self) -> None:
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)


class Outbox:
    """Frames on their way from those who send to the writer.

    They are data, not bytes: only the writer encodes. Room is counted until the bytes are written.

    Args:
        limit: Bytes of memory for frames that wait or are being written. One frame always has room.
    """

    __slots__ = (
        "_frames",
        "_limit",
        "_pings",
        "_pongs",
        "_posted",
        "_posted_size",
        "_senders",
        "_size_taken",
        "_start_writer",
        "_writer",
        "_writer_rests",
        "close",
        "finished",
        "size",
        "stream",
        "taken",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: list[OutgoingFrame] = []
        #: Bytes of memory that the frames take which wait or are being written.
        self.size: int = 0
        self._size_taken = 0
        # Pings and pongs go before messages and between fragments.
        self._pings: list[bytes] = []
        self._pongs: list[bytes] = []
        self._senders: list[_Sender] = []
        # The last of them without a task, and the memory that these take.
        self._posted: _Sender | None = None
        self._posted_size = 0
        # The message that is being put in parts, if there is one.
        self.stream: object | None = None
        # Where the writer waits, and how to start it; whether it has to be woken, or started, when something is put.
        self._writer = Bell()
        self._start_writer: Callable[[], None] | None = None
        self._writer_rests = False
        #: Whether something was taken that is not written yet.
        self.taken: bool = False
        #: Whether nothing can be put any more.
        self.finished: bool = False
        #: What goes out after everything else.
        self.close: Close | None = None

    # -- The senders' side -----------------------------------------------------------------------------------------

    def put_nowait(self, frame: OutgoingFrame) -> bool:
        """Add a whole message if there is room and nobody waits for it. Return whether it was added."""
        # Each message comes through here: what _fits() and _append() do is written out.
        if self.finished or self.stream is not None or self._senders:
            return False
        size = _FRAME + getsizeof(frame[1])
        if self.size and self.size + size > self._limit:
            return False
        self._frames.append(frame)
        self.size += size
        if self._writer_rests:
            self.wake_writer()
        return True

    def post(self, frame: OutgoingFrame) -> bool:
        """Add a whole message that nobody waits with, if there is room. Return whether it was added.

        In the middle of a message in parts there is as much room for what goes out after it.
        """
        if self.put_nowait(frame):
            return True
        if self.finished or self.stream is None:
            return False
        if self._posted is not None and self._posted_size + _size(frame) > self._limit:
            return False
        self._post(frame)
        return True

    def post_newest(self, frame: OutgoingFrame) -> None:
        """Let a whole message wait for room by itself, in place of the last one that does."""
        if self._posted is None:
            self._post(frame)
        else:
            assert self._posted.frame is not None
            self._posted_size += _size(frame) - _size(self._posted.frame)
            self._posted.frame = frame

    def _post(self, frame: OutgoingFrame) -> None:
        self._posted = _Sender(None, frame, None)
        self._posted_size += _size(frame)
        self._senders.append(self._posted)

    async def put(self, frame: OutgoingFrame, stream: object | None = None) -> bool:
        """Add a message, or a part of the message that ``stream`` stands for, once there is room.

        Returns:
            False if the outbox is finished and the frame was not added. When cancelled, it was not added either.
        """
        # A part does not stand in line: those who wait, wait for the end of its message.
        first = stream is not None or not self._senders
        if first and stream is self.stream and not self.finished and self._fits(frame):
            self._append(frame)
            return True
        return await self._wait(frame, stream)

    async def begin_stream(self, stream: object) -> bool:
        """Wait until the next message is ours to put in parts, and there is room for its last part, which has to fit.

        Returns:
            False if the outbox is finished. When cancelled, the next message is not ours.
        """
        if not self.finished and self.stream is None and not self._senders and self._fits(_LAST_PART):
            self.stream = stream
            return True
        return await self._wait(None, stream)

    def end_stream(self, frame: OutgoingFrame | None) -> bool:
        """Let others put messages again.

        Args:
            frame: The last part. It has no payload, and there was room for it at the beginning.

        Returns:
            Whether it was added: False if the outbox is finished, or if there is no last part.
        """
        added = False
        if frame is not None and not self.finished:
            self._append(frame)
            added = True
        self._refuse([sender for sender in self._senders if sender.stream is self.stream])
        self.stream = None
        self._admit()
        return added

    def put_ping(self, data: bytes) -> None:
        """Add a ping."""
        if not self.finished:
            self._pings.append(data)
            self._wake_running_writer()

    def remove_ping(self, data: bytes) -> None:
        """Take a ping back, if it has not gone out."""
        if data in self._pings:
            self._pings.remove(data)

    def put_pong(self, data: bytes) -> None:
        """Add a pong."""
        if not self.finished:
            if len(self._pongs) == MAX_PONGS:
                self._pongs.clear()
            self._pongs.append(data)
            self._wake_running_writer()

    def finish(self, close: Close | None) -> None:
        """Let nothing more be put, except for a Close frame after all that is there. Wake all who wait to put.

        Args:
            close: The Close frame; None if there is nobody left to send one to, in which case all is dropped.
        """
        if close is None:
            self._frames.clear()
            self._pings.clear()
            self._pongs.clear()
            self.close = None
        elif not self.finished:
            self.close = close
        self.finished = True
        self._wake_running_writer()
        self._refuse(self._senders)

    # -- The writer's side -----------------------------------------------------------------------------------------

    def take(self) -> list[OutgoingFrame]:
        """Return all frames that wait to be written, in the order in which they go out, but not the Close frame."""
        frames, self._frames = self._frames, []
        if self._pongs or self._pings:
            pongs: list[OutgoingFrame] = [(FIN | Opcode.PONG, data, False) for data in self._pongs]
            pings: list[OutgoingFrame] = [(FIN | Opcode.PING, data, False) for data in self._pings]
            self._pongs.clear()
            self._pings.clear()
            frames = [*pongs, *pings, *frames]
        self._size_taken = self.size
        self.taken = True
        return frames

    def written(self) -> None:
        """Give back the room of what was taken."""
        self.size -= self._size_taken
        self._size_taken = 0
        self.taken = False
        if self._senders:
            self._admit()

    def keep(self, frame: OutgoingFrame) -> None:
        """Take note of a frame that was not put, but whose writing was begun. The writer has to go on with it."""
        self.size = self._size_taken = _size(frame)
        self.taken = True
        self.wake_writer()

    def set_writer(self, start: Callable[[], None]) -> None:
        """Say how to start the writer. That is done when there is something to do for it, which may be never."""
        self._start_writer = start
        self._writer_rests = True
        if self.has_work():
            self.wake_writer()

    async def wait(self) -> None:
        """Wait until there is something to take or to go on with, or the outbox is finished."""
        while not self.has_work():
            self._writer_rests = True
            try:
                await self._writer.wait()
            finally:
                self._writer_rests = False

    def wake_writer(self) -> None:
        """Let the writer look whether there is something to do."""
        if self._writer_rests:
            self._writer_rests = False
            if self._start_writer is not None:
                start, self._start_writer = self._start_writer, None
                start()
            else:
                self._writer.ring()

    def _wake_running_writer(self) -> None:
        # Not to start it only for that: most can be written without it.
        if self._start_writer is None:
            self.wake_writer()

    def has_work(self) -> bool:
        """Whether there is something to write, or to go on with, or nothing will come any more."""
        return bool(self._frames or self._pings or self._pongs or self.taken or self.finished)

    def has_one(self) -> bool:
        """Whether no more than one frame waits, and no sender."""
        return len(self._frames) < 2 and not self._senders

    @property
    def is_clear(self) -> bool:
        """Whether a message can go out at once: nothing is here, or being written, or in the middle of being put."""
        return not (self.size or self._pings or self._pongs or self.taken or self.finished or self.stream is not None)

    # -- Both ------------------------------------------------------------------------------------------------------

    def _fits(self, frame: OutgoingFrame) -> bool:
        return not self.size or self.size + _size(frame) <= self._limit

    def _append(self, frame: OutgoingFrame) -> None:
        self._frames.append(frame)
        self.size += _size(frame)
        self.wake_writer()

    def _refuse(self, senders: list[_Sender]) -> None:
        for sender in list(senders):
            self._remove(sender)
            sender.wake()

    def _remove(self, sender: _Sender) -> None:
        self._senders.remove(sender)
        if sender.task is None and sender.frame is not None:
            self._posted_size -= _size(sender.frame)
            if sender is self._posted:
                self._posted = None

    async def _wait(self, frame: OutgoingFrame | None, stream: object | None) -> bool:
        if self.finished:
            return False
        sender = _Sender(trio.lowlevel.current_task(), frame, stream)
        self._senders.append(sender)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._senders.remove(sender)
            self._admit()  # it may have been all that kept the next one waiting
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return sender.admitted

    def _admit(self) -> None:
        """Do what those who wait want, in the order in which they came; during a stream, for its parts only."""
        while True:
            candidates = (s for s in self._senders if self.stream is None or s.stream is self.stream)
            sender = next(candidates, None)
            if sender is None or not self._fits(sender.frame or _LAST_PART):
                return
            self._remove(sender)
            if sender.frame is None:
                self.stream = sender.stream
            else:
                self._append(sender.frame)
            sender.admitted = True
            sender.wake()
