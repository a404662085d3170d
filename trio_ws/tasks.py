"""The tasks of an open connection, and the state that they share with the calls of the user.

::

                      ┌───────────────────────── run() ──────────────────────────┐
                      │                                                          │
       receive() ◀── Inbox ◀── read_loop() ◀── Protocol ◀─┐                      │
                      │             │                     ├── Transport ◀──▶ peer │
          send() ──▶ Outbox ───────▶│── write_loop() ──▶──┘                      │
          ping() ──▶  │ ▲           │                                            │
        aclose() ──▶  │ └── keepalive()                                          │
                      └──────────────────────────────────────────────────────────┘

The rules:

1. **The outbox carries messages, never bytes.** They are encoded when they are taken out, to be written. A ``send()``
   that is cancelled before its message is in the outbox sends nothing; after that the message goes out whole. So what
   an extension remembers of the messages before is always what the peer has got of them.
2. **One writes at a time**, and gathers all that waits into one write: the writer; or, without any ``await`` in between
   and only while nothing is half-written, whoever has something that a socket takes at once (:meth:`Connection.flush`
   and :meth:`Connection.send_nowait`). What the socket does not take is for the writer. A write that fails or is
   cancelled poisons the transport.
3. **One reads at a time**: the reader; or, on a socket, a receiver that has nothing to take and reads for itself (see
   below). **Neither waits for the writer.** Pongs and the answer to a Close frame go to the outbox, which takes them
   however full it is, within bounds.
4. **Backpressure reaches the peer**: while the inbox is full, nobody reads. Meanwhile the clock of the keepalive stands
   still, and any byte that comes in counts as life.
5. **What ends a connection takes effect in its place**: what came before it is delivered first, and may be answered, as
   long as the application asks for it within :data:`GRACE` seconds.
6. **Closing has one deadline**: that of ``Connection.scope``, around all the tasks. It is only ever moved forward.
7. **A connection ends in one place**, :meth:`Connection.settle`, which wakes everybody who waits; and its stream is
   closed in one place, at the end of :func:`run`, whatever happened.
8. **Tasks never raise.** They record what went wrong, and the next call of the user reports it.

Who reads? Handing a message from one task to another takes Trio a pass of its scheduler, which costs more than all that
is done for a small message. So on a socket the receiver that waits for a message waits for the socket itself, takes in
what has come, and goes on with it (*self-service*). The reader rests meanwhile; as long as it has not been needed, it
does not even run. It reads as soon as something waits that no receiver would see to: :meth:`Connection.relieve` says
so. It alone ends a connection. And it reads when the receiver has gone and does not come back, which the connections
see to together: :class:`Absences`.

What if it is cancelled? A receiver that reads for itself is cancelled while it waits for the socket, and has taken
nothing then. The scope of the tasks is shielded: cancelling the user's task does not stop them, so that what
the user does to clean up still works. It is ``aclose()`` that is cancelled, on the way out, and then calls
:meth:`Connection.abort`. So the tasks are cancelled by the deadline and by ``abort()`` alone. Every ``await`` in them
can end that way, and all lead to the end of ``run()``: a Close frame if nothing is half-written and it takes no
waiting, :meth:`Connection.settle`, the stream closed. A thread that compresses is left alone then; only a Close frame
may follow, because of what the compressor remembers now.

What is told to instruments, and when? What happens is noted where it happens, and told later: where everything is in
order, so that an instrument sees no connection that is between two states, and none in which a message is taken out of
the outbox and not yet written. The notes are the :class:`~trio_ws.instruments.Observer`'s; where there are no
instruments there is none, and all that it costs is to look.

And Ctrl-C? It raises ``KeyboardInterrupt`` in whichever task runs, unless that one is protected. These are, because of
rule 8: so it goes to the main task.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs
import trio

from .channels import Bell, Inbox, Outbox
from .exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    ProtocolError,
    TooManyMessages,
)
from .frames import Close, CloseCode, Opcode
from .instruments import Observer
from .per_run import PerRun
from .protocol import LastPart, Message, Protocol, Role
from .protocol.codec import FIN
from .protocol.connection import OutgoingFrame
from .protocol.extensions import Extension
from .settings import Settings
from .stream import MAX_RECEIVE_SIZE, RECEIVE_SIZE, StreamBroken, Transport

__all__ = ["Absences", "Connection", "Ping", "run"]

#: Seconds for what should take no time and may take forever: an application that comes back for the next message before
#: the connection ends, a last Close frame, the last words of a peer that is gone.
GRACE = 0.5

#: Payloads of at least so many bytes are compressed in a thread, so that other tasks go on meanwhile. Below, the thread
#: costs more than it is worth; ``tests/benchmarks/compression.py`` measures it.
THREAD_SIZE = 64 * 1024

#: Seconds after a message was written at once in which others are not: they are gathered into one write.
GATHER = 0.0001

#: How many connections keep their compressors, at most, in one run of Trio.
MAX_RECENT = 256

#: So many bytes are worth a write.
GATHER_SIZE = 64 * 1024

#: Seconds after which the reader reads again when a receiver that has read for itself does not come back.
ABSENCE = 0.01

#: Seconds that saying goodbye may take once there is no more time, because of cancellation or the deadline.
GOODBYE_TIMEOUT = 0.1

#: How many threads compress at once, at most. Not Trio's own limiter: all its threads might be waiting for us, in
#: ``trio.from_thread.run(ws.send, ...)``.
_limiter = PerRun(lambda: trio.CapacityLimiter(os.cpu_count() or 1))


@attrs.define(eq=False)
class Ping:
    """A ping whose pong has not come.

    Attributes:
        data: Its payload.
        sent_at: When it was put into the outbox.
        round_trip: Seconds that it took, once the pong has come.
        done: Set when the pong comes, and at the end of the connection.
    """

    data: bytes
    sent_at: float
    round_trip: float | None = None
    done: trio.Event = attrs.field(factory=trio.Event, init=False)


class Absences:
    """Sees to it that connections whose receivers read for themselves are read also when no receiver comes back.

    Most come back at once, and waking the reader whenever one has gone would cost more than the rest of a round trip.
    So the connections of a run of Trio take turns: the reader of one of them, the keeper, waits a little for all.
    """

    def __init__(self) -> None:
        self._absent: set[Connection] = set()
        self.keeper: Connection | None = None

    def note(self, connection: Connection) -> None:
        """Take note that no receiver is there. If none is in :data:`ABSENCE` seconds, the reader reads."""
        self._absent.add(connection)
        if self.keeper is None:
            self.keeper = connection
            connection.wake_reader()

    async def wait(self) -> None:
        """Wait for that time, and then :meth:`end` them. For the reader of the keeper."""
        assert self.keeper is not None
        with trio.move_on_after(ABSENCE):
            await self.keeper.relief.wait()
        self.end()

    def end(self) -> None:
        """Let the readers read where no receiver has come back."""
        absent, self._absent = self._absent, set()
        self.keeper = None
        for connection in absent:
            connection.relieve()


class Recent:
    """The connections that have encoded last, of those whose extensions remember something for that.

    A compressor takes a hundred KiB or so. So only these keep theirs; the others are put to :meth:`Protocol.rest`, and
    make a new one when they need it.
    """

    def __init__(self) -> None:
        self._connections: OrderedDict[Connection, None] = OrderedDict()

    def note(self, connection: Connection) -> None:
        """Take note that a connection has encoded something."""
        connections = self._connections
        connections[connection] = None
        connections.move_to_end(connection)
        if len(connections) > MAX_RECENT:
            oldest, _ = connections.popitem(last=False)
            if not oldest.encoding:  # otherwise it will be the newest in a moment
                oldest.protocol.rest()

    def forget(self, connection: Connection) -> None:
        """Take note that a connection has ended."""
        self._connections.pop(connection, None)


_absences = PerRun(Absences)
_recent = PerRun(Recent)


class Rate:
    """So many messages per second on average, and in a second as many at once.

    Args:
        limit: How many.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._left = max(limit, 1.0)
        self._at = trio.current_time()

    def take(self, count: int) -> bool:
        """Take note of messages. Return whether they are within the limit."""
        now = trio.current_time()
        self._left = min(max(self.limit, 1.0), self._left + (now - self._at) * self.limit) - count
        self._at = now
        return self._left >= 0


class Connection:
    """What the tasks of an open connection and the calls of its user share.

    Args:
        role: Which end this is.
        transport: The stream below, after the opening handshake.
        settings: The options.
        extensions: The extensions in use.
        received: What came in together with the opening handshake, and after it.
    """

    __slots__ = (
        "_gather_until",
        "_ping_numbers",
        "_rate",
        "_start",
        "absences",
        "active_at",
        "attended",
        "cause",
        "closed",
        "closed_locally",
        "cut_off",
        "encoding",
        "ending",
        "expires_at",
        "heard_at",
        "idle",
        "inbox",
        "latency",
        "listening_since",
        "observer",
        "outbox",
        "pings",
        "protocol",
        "recent",
        "relief",
        "role",
        "scope",
        "self_service",
        "settings",
        "settled",
        "steps",
        "told",
        "transforms",
        "transport",
        "writing_over",
    )

    def __init__(
        self,
        role: Role,
        transport: Transport,
        settings: Settings,
        extensions: Sequence[Extension] = (),
        received: bytes = b"",
    ) -> None:
        self.role: Role = role
        self.settings: Settings = settings
        self.transport: Transport = transport
        transport.write_ahead()
        #: What tells the instruments what happens; None where there are none, which is to cost nothing.
        self.observer: Observer | None = Observer.of(settings.instruments)
        self.protocol: Protocol = Protocol(
            role,
            random=os.urandom,
            max_message_size=settings.max_message_size,
            extensions=extensions,
            on_frame=None if self.observer is None else self.observer.on_frame,
        )
        self.inbox: Inbox = Inbox(self.protocol, settings.receive_buffer)
        self.outbox: Outbox = Outbox(settings.send_buffer)
        #: Whether receivers read for themselves, one at a time, and the reader rests; and whether one does now.
        self.self_service: bool = transport.is_socket and not received
        self.attended: bool = False
        #: Where the reader rests. Until it is needed for the first time, it does not even run.
        self.relief: Bell = Bell()
        self._start: Callable[[], None] | None = None
        self.absences: Absences = _absences.get()
        #: What is being taken in, step by step; and what has ended the connection, once that has come.
        self.steps: Iterator[None] | None = self.protocol.receive_in_steps(received) if received else None
        if self.observer is not None and received:
            self.observer.note_received(len(received))
        self.ending: Close | ProtocolError | None = None
        #: Whether extensions are in use, so that encoding may take long. If so, who has used them last.
        self.transforms: bool = bool(extensions)
        self.recent: Recent | None = _recent.get() if extensions else None
        # What limits it, on a server: see watch(). When the last message came or went, if that is of interest.
        self._rate: Rate | None = None
        self.idle: float | None = None
        self.expires_at: float | None = None
        self.active_at: float | None = None
        # Until when messages are not written at once.
        self._gather_until = -math.inf
        #: Whether messages are being encoded. When this is interrupted, no more of them can be.
        self.encoding: bool = False
        #: Around all the tasks. Its deadline is the one of rule 6.
        self.scope: trio.CancelScope = trio.CancelScope(shield=True)
        #: Set when the writer has written its last.
        self.writing_over: trio.Event = trio.Event()
        #: Set when it is known how the connection ended.
        self.settled: trio.Event = trio.Event()
        #: Set when the stream is closed.
        self.closed: trio.Event = trio.Event()
        #: Whether the user has closed it, so that using it is a mistake.
        self.closed_locally: bool = False
        #: Whether the write failed that our Close frame was part of.
        self.cut_off: bool = False
        #: Whether the user was told how it ended.
        self.told: bool = False
        #: What went wrong on our side, or came from below.
        self.cause: BaseException | None = None
        #: Pings whose pongs have not come, oldest first.
        self.pings: list[Ping] = []
        self._ping_numbers = itertools.count()
        #: The last round trip of a ping, in seconds.
        self.latency: float | None = None
        #: When something was last received; and since when the reader waits for more, None while it does not.
        self.heard_at: float = trio.current_time()
        self.listening_since: float | None = None

    # -- Running ---------------------------------------------------------------------------------------------------

    def open(self, start: Callable[[], None]) -> None:
        """Let the connection run, as soon as it has to: many need no tasks of their own for long.

        Args:
            start: Starts :func:`run`.
        """
        self._start = start
        self.outbox.set_writer(self.run)
        if self.self_service:
            self.absences.note(self)
        if not self.self_service or self.settings.ping_interval is not None or self.has_deadlines:
            self.run()

    def watch(self, messages_per_second: float | None, idle: float | None, lifetime: float | None) -> None:
        """Say what limits the connection, before it is opened; see :class:`trio_ws.Limits`."""
        self._rate = None if messages_per_second is None else Rate(messages_per_second)
        self.idle = idle
        self.active_at = None if idle is None else trio.current_time()
        self.expires_at = None if lifetime is None else trio.current_time() + lifetime

    @property
    def has_deadlines(self) -> bool:
        """Whether it is closed after some time, whatever its user does."""
        return self.idle is not None or self.expires_at is not None

    def run(self) -> None:
        """Let the tasks run, if they do not yet."""
        if self._start is not None:
            start, self._start = self._start, None
            start()

    def wake_reader(self) -> None:
        """Let the reader look whether there is something to do."""
        self.run()
        self.relief.ring()

    # -- Closing ---------------------------------------------------------------------------------------------------

    def begin_closing(self, close: Close) -> None:
        """Send a Close frame after all that is in the outbox, and set the deadline. The first one counts."""
        if not self.outbox.finished:
            self.outbox.finish(close)
            self.hurry(self.settings.close_timeout)
            self.flush()
            if not self._end_at_once():
                self.run()  # for the deadline
                self.relieve()

    def drop(self) -> None:
        """Close because the peer takes what it is sent too slowly."""
        self.begin_closing(Close(CloseCode.TRY_AGAIN_LATER, "too slow"))
        self.cause = self.cause or trio.TooSlowError(f"the peer left {self.outbox.size} bytes in the outbox")

    def _end_at_once(self) -> bool:
        """End without any tasks, where they would have nothing to wait for. Return whether that is so.

        A server that has answered the Close frame of its peer closes the stream, and that is all.
        """
        if (
            self._start is None
            or not self.self_service
            or not self.writing_over.is_set()
            or self.role is not Role.SERVER
            or not isinstance(self.ending, Close)
        ):
            return False
        self._start = None
        self.self_service = False
        self.settle()
        self.transport.close()
        self.note_closed()
        return True

    def hurry(self, seconds: float) -> None:
        """Let the tasks end in so many seconds at the latest."""
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + seconds)

    def abort(self) -> None:
        """Let the tasks end now."""
        self.scope.cancel()
        self.run()  # they have to close the stream

    def settle(self) -> None:
        """Take note that it is known how the connection ends, and wake everybody who waits for something else."""
        if not self.settled.is_set():
            if not self.outbox.finished:
                self.outbox.finish(None)
            self.inbox.end()
            for ping in self.pings:
                ping.done.set()
            self.pings.clear()
            if self.recent is not None:
                self.recent.forget(self)
            self.settled.set()

    def note_closed(self) -> None:
        """Take note that the stream is closed."""
        self.closed.set()
        if self.observer is not None:
            self.observer.close(self)

    @property
    def is_clean(self) -> bool:
        """Whether both have closed, and neither said that something is wrong."""
        return self.protocol.closing.is_clean and not self.cut_off

    def error(self) -> ConnectionClosed:
        """Return a new exception that tells the user how the connection ended."""
        self.told = True
        closing = self.protocol.closing
        error: type[ConnectionClosed]
        if self.closed_locally:
            error = ConnectionClosedLocally
        elif self.is_clean:
            error = ConnectionClosedOK
        else:
            error = ConnectionClosedError
        exc = error(closing.rcvd, closing.sent, closing.rcvd_then_sent)
        exc.__cause__ = self.cause
        return exc

    # -- Writing without waiting -----------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, frame: OutgoingFrame) -> bool:
        """Write a message at once, or put it into the outbox, if that takes no waiting. Return whether it was done."""
        outbox = self.outbox
        # Whoever still has messages to handle may have more to send.
        if self.inbox.is_empty and self._can_write_now(frame) and self._is_worth_a_write():
            self._write_now(frame)
            return True
        if outbox.put_nowait(frame):
            return True
        self.flush()
        return outbox.put_nowait(frame)

    @trio.lowlevel.enable_ki_protection
    def post(self, frame: OutgoingFrame) -> bool:
        """Write a message that nobody waits with at once, or post it in the outbox. Return whether it was done."""
        if self._can_write_now(frame):
            self._write_now(frame)
            return True
        return self.outbox.post(frame)

    def _can_write_now(self, frame: OutgoingFrame) -> bool:
        if not (self.outbox.is_clear and self.transport.can_write_now()):
            return False
        return not (self.transforms and frame[2] and len(frame[1]) >= THREAD_SIZE)

    def _write_now(self, frame: OutgoingFrame) -> None:
        if not self.transport.write_now(self.encode([frame])):
            self.outbox.keep(frame)
        if self.observer is not None:
            self.observer.deliver(self)

    def _is_worth_a_write(self) -> bool:
        now = trio.current_time()
        if now < self._gather_until:
            return False
        self._gather_until = now + GATHER
        return True

    @trio.lowlevel.enable_ki_protection
    def flush(self) -> None:
        """Write what is in the outbox, as much as takes no waiting. What is left is for the writer."""
        self._gather_until = -math.inf
        if self.outbox.has_work() and not self.settled.is_set() and not self._write_what_waits():
            self.outbox.wake_writer()

    def _write_what_waits(self) -> bool:
        outbox = self.outbox
        if outbox.taken or not self.transport.can_write_now() or (self.transforms and outbox.size >= THREAD_SIZE):
            return False
        finished = outbox.finished
        chunks = self.encode_last(self.encode(outbox.take()), finished)
        written = not chunks or self.transport.write_now(chunks)
        if written:
            outbox.written()
            if finished:
                self.writing_over.set()
        if self.observer is not None:
            self.observer.deliver(self)
        return written

    def encode(self, frames: Sequence[OutgoingFrame]) -> list[bytes]:
        """Return the bytes of frames that were taken out of the outbox, or do not go through it."""
        chunks = self.protocol.encode_all(frames)
        if self.recent is not None:
            self.note_encoding(frames)
        if self.observer is not None:
            self.observer.note_sent(frames, chunks)
        if self.active_at is not None and frames and frames[-1][0] & 0x0F < Opcode.CLOSE:
            self.active_at = trio.current_time()
        return chunks

    def note_encoding(self, frames: Sequence[OutgoingFrame]) -> None:
        """Take note of what was encoded."""
        assert self.recent is not None
        if any(transform for _, _, transform in frames) and not self.settled.is_set():
            self.recent.note(self)

    def encode_last(self, chunks: list[bytes], finished: bool) -> list[bytes]:
        """Add the Close frame to what is to be written, if that is all there was before it, and it is not out yet."""
        if finished and self.outbox.close is not None and self.protocol.closing.can_send:
            close = self.outbox.close
            encoded = self.protocol.encode_close(close)
            if self.observer is not None:
                self.observer.note_sent([(FIN | Opcode.CLOSE, close.serialize(), False)], encoded)
            chunks += encoded
        return chunks

    def report(self) -> None:
        """Tell the instruments, if there are any, what has happened. Everything must be in order here."""
        if self.observer is not None:
            self.observer.deliver(self)

    # -- Reading -----------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def next_message(self) -> Message | None:
        """Return the next message once it is there, or None at the end. When cancelled, it has taken nothing."""
        # Whoever waits has sent what there was to send.
        self.flush()
        if self.observer is not None:
            self.observer.deliver(self)
        try:
            return await self.inbox.get(self._read_or_wait)
        finally:
            if self.self_service:
                self.absences.note(self)

    def relieve(self) -> None:
        """Let the reader read, if nobody else does: something that is to be read is waited for."""
        if self.self_service and not self.attended:
            self.self_service = False
            self.wake_reader()

    async def _read_or_wait(self) -> bool:
        """Wait until there may be a message. Return False if there will be none."""
        if not self.self_service:
            return await self.inbox.wait()
        if not self.inbox.ask_for_more():
            return False
        self.attended = True
        self.listening_since = trio.current_time()
        try:
            await self.transport.wait_until_readable()
            data = self.transport.receive_now(self.read_size())
            if data:
                self.take_in(data)
            # What takes several steps, and all that ends the connection, is for the reader.
            go_on = data is None or (data and self.steps is None and self.ending is None)
        except StreamBroken:
            go_on = False
        finally:
            self.attended = False
            self.listening_since = None
        if isinstance(self.ending, Close) and self._start is not None and self.inbox.is_asked():
            # As in _end(), where nothing came before it that could still be answered.
            self.inbox.end()
            self.begin_closing(self.ending)
        elif not go_on:
            self.relieve()
        return True

    def read_size(self) -> int:
        """Return how many bytes to ask the stream for: more than usual while large frames come in and are taken."""
        if not self.inbox.is_empty:
            return RECEIVE_SIZE
        return min(max(self.protocol.expected, RECEIVE_SIZE), MAX_RECEIVE_SIZE)

    def take_in(self, data: bytes | memoryview) -> None:
        """Take what has been received, and hand on what comes of its first step."""
        self.heard_at = trio.current_time()
        if self.observer is not None:
            self.observer.note_received(len(data))
        self.steps = self.protocol.receive_in_steps(data)
        self.take_step()

    def take_step(self) -> None:
        """Hand on what comes of the next step."""
        # Not in a thread: the user's tasks look at the message in progress, and what comes out, which may be a thousand
        # times as much, has to fill the inbox before more is decompressed.
        assert self.steps is not None
        for _ in self.steps:
            self._hand_on()  # what ends the connection is always the last
            return
        self.steps = None
        self._hand_on()

    def _hand_on(self) -> None:
        protocol, inbox, outbox = self.protocol, self.inbox, self.outbox
        answered = False
        count = 0
        if messages := protocol.next_messages():
            inbox.put_all(messages)
            count = len(messages)
            if self.observer is not None:
                self.observer.note_messages(messages)
        while (event := protocol.next_event()) is not None:
            if isinstance(event, (str, bytes, LastPart)):
                inbox.put(event)
                count += 1
                if self.observer is not None:
                    self.observer.note_messages([event])
            elif isinstance(event, ProtocolError):
                self.ending = event
            elif event.opcode is Opcode.PING:
                outbox.put_pong(event.data)
                answered = True
            elif event.opcode is Opcode.PONG:
                self.receive_pong(event.data)
            else:
                self.ending = protocol.closing.rcvd
        inbox.progress()
        if count and self.active_at is not None:
            self.active_at = self.heard_at
        if count and self._rate is not None and not self._rate.take(count) and self.ending is None:
            self.ending = TooManyMessages(self._rate.limit)
        if answered:
            self.flush()
        if self.observer is not None:
            self.observer.deliver(self)

    # -- Pings -----------------------------------------------------------------------------------------------------

    def send_ping(self, data: bytes | None) -> Ping:
        """Put a ping into the outbox. None: a payload that no other ping has."""
        if data is None:
            data = next(self._ping_numbers).to_bytes(4, "big")
        ping = Ping(data, trio.current_time())
        self.pings.append(ping)
        self.outbox.put_ping(data)
        self.flush()
        self.relieve()
        return ping

    def forget_ping(self, ping: Ping) -> None:
        """Take note that nobody waits for this one any more."""
        if ping in self.pings:
            self.pings.remove(ping)
            self.outbox.remove_ping(ping.data)

    def receive_pong(self, data: bytes) -> None:
        """Find the ping that it answers. It also answers those before it (RFC 6455, section 5.5.3)."""
        for index, ping in enumerate(self.pings):
            if ping.data == data:
                now = trio.current_time()
                self.latency = now - ping.sent_at
                if self.observer is not None:
                    self.observer.note_pong(self.latency)
                for answered in self.pings[: index + 1]:
                    answered.round_trip = now - answered.sent_at
                    answered.done.set()
                del self.pings[: index + 1]
                return


@trio.lowlevel.enable_ki_protection
async def run(connection: Connection) -> None:
    """Run a connection until its stream is closed. Cannot be cancelled but by the connection itself; never raises."""
    try:
        with connection.scope:
            async with trio.open_nursery() as nursery:
                connection.outbox.set_writer(partial(nursery.start_soon, write_loop, connection))
                if connection.settings.ping_interval is not None:
                    nursery.start_soon(keepalive, connection)
                if connection.has_deadlines:
                    nursery.start_soon(expire, connection)
                await read_loop(connection)
                if not connection.writing_over.is_set():
                    await connection.writing_over.wait()
                nursery.cancel_scope.cancel()
    finally:
        await _say_goodbye(connection)
        connection.protocol.receive_eof()
        connection.settle()
        await connection.transport.aclose(GOODBYE_TIMEOUT)
        connection.note_closed()


async def _say_goodbye(connection: Connection) -> None:
    """Write what the writer has not come to, if the Close frame is among it and nothing is half-written."""
    close = connection.outbox.close
    if close is None or connection.transport.poisoned or not connection.protocol.closing.can_send:
        return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_TIMEOUT):
        try:
            # Where encoding was interrupted, the peer could not decode what came after it.
            chunks = [] if connection.encoding else await _encode_waiting(connection)
            await connection.transport.send(connection.encode_last(chunks, True))
        except StreamBroken as exc:
            connection.cause = connection.cause or exc.__cause__
            connection.cut_off = True


# -- Reading -------------------------------------------------------------------------------------------------------


@trio.lowlevel.enable_ki_protection
async def read_loop(connection: Connection) -> None:
    """Read until the connection ends: by a Close frame, a violation, or the end of the stream."""
    inbox, transport = connection.inbox, connection.transport
    try:
        # Even if the connection was relieved before this began to run: it may be the keeper all the same.
        await _rest(connection)
        while connection.ending is None:
            if connection.self_service:
                await _rest(connection)
                continue
            await inbox.wait_for_room()
            if connection.steps is not None:
                await trio.lowlevel.checkpoint()
                connection.take_step()
            elif data := await _listen(connection):
                connection.take_in(data)
                del data  # not to be kept while nothing comes
                # A receiver that has been woken can go on by itself.
                connection.self_service = transport.is_socket and inbox.is_wanted and connection.steps is None
            else:
                connection.protocol.receive_eof()
                connection.settle()
                connection.abort()
                return
        # The reader will not rest again, so the connection must not become the keeper.
        connection.self_service = False
        await _end(connection, connection.ending)
    except StreamBroken as exc:
        connection.cause = connection.cause or exc.__cause__
        connection.protocol.receive_eof()
        connection.settle()
        connection.abort()


async def _rest(connection: Connection) -> None:
    """Wait while receivers read for themselves. Afterwards the connection is not the keeper."""
    absences = connection.absences
    try:
        while connection.self_service and connection.ending is None:
            if absences.keeper is connection:
                await absences.wait()
            else:
                await connection.relief.wait()
    finally:
        connection.self_service = False
        if absences.keeper is connection:
            absences.end()


async def _listen(connection: Connection) -> bytes | memoryview:
    connection.listening_since = trio.current_time()
    data = await connection.transport.receive_view(connection.read_size())
    connection.listening_since = None
    return data


async def _end(connection: Connection, ending: Close | ProtocolError) -> None:
    """Let the connection end because of what the peer has sent."""
    connection.inbox.end()
    if not connection.outbox.finished and not connection.inbox.is_asked():
        with trio.move_on_after(GRACE):
            await connection.inbox.wait_until_asked()
    if isinstance(ending, Close):
        # The answer is the echo of the code (RFC 6455, section 5.5.1); and the server closes the stream first.
        connection.begin_closing(ending)
        if not connection.writing_over.is_set():
            await connection.writing_over.wait()
        connection.settle()
        if connection.role is Role.SERVER:
            return
    else:
        connection.cause = connection.cause or ending
        connection.begin_closing(Close(ending.code, _shorten(ending.reason)))
        with trio.move_on_after(GRACE):
            await connection.writing_over.wait()
        connection.settle()
        # If we closed a socket with unread bytes in it, the reset could overtake the Close frame. So let the peer see
        # that no more is coming, and wait for the same from its side.
        if not await connection.transport.send_eof():
            connection.hurry(GRACE)
    while await connection.transport.receive():
        pass


def _shorten(reason: str) -> str:
    """Cut text to what a Close frame can hold."""
    return reason.encode()[:123].decode(errors="ignore")


# -- Writing -------------------------------------------------------------------------------------------------------


@trio.lowlevel.enable_ki_protection
async def write_loop(connection: Connection) -> None:
    """Write what is in the outbox until there will be no more."""
    outbox, transport = connection.outbox, connection.transport
    try:
        finished = False
        while not finished:
            await outbox.wait()
            # When we are cancelled, let it be here, where nothing is encoded, and not in the write that comes next.
            await trio.lowlevel.checkpoint_if_cancelled()
            await _gather(outbox)
            # What is put while we encode and write, be it the Close frame, is for the next round.
            finished = outbox.finished
            chunks = connection.encode_last(await _encode_waiting(connection), finished)
            await transport.send(chunks)
            del chunks  # not to be kept while there is nothing to do
            outbox.written()
            connection.report()
    except StreamBroken as exc:
        # Do not wait for anything more to be written. But the peer may have told us why before it went.
        connection.cause = connection.cause or exc.__cause__
        connection.cut_off = not connection.protocol.closing.can_send
        outbox.finish(None)
        connection.hurry(GRACE)
    finally:
        connection.writing_over.set()


async def _gather(outbox: Outbox) -> None:
    """Let those who send go on, as long as they do: one write for many messages is cheaper than one for a few."""
    if outbox.has_one():
        return  # most likely it is the only one
    for _ in range(8):
        size = outbox.size
        if size >= GATHER_SIZE or outbox.finished:
            return
        await trio.lowlevel.checkpoint()
        if outbox.size == size:
            return


async def _encode_waiting(connection: Connection) -> list[bytes]:
    frames = connection.outbox.take()
    connection.encoding = True
    if connection.transforms and sum(len(data) for _, data, transform in frames if transform) >= THREAD_SIZE:
        chunks = await _encode_in_thread(connection.protocol, frames)
        connection.note_encoding(frames)
        if connection.observer is not None:
            connection.observer.note_sent(frames, chunks)
    else:
        chunks = connection.encode(frames)
    connection.encoding = False
    return chunks


async def _encode_in_thread(protocol: Protocol, frames: list[OutgoingFrame]) -> list[bytes]:
    try:
        # When we are cancelled, nobody wants what the thread is working on, and only a Close frame may follow.
        return await trio.to_thread.run_sync(
            protocol.encode_all, frames, abandon_on_cancel=True, limiter=_limiter.get()
        )
    except RuntimeError:  # no thread can be started
        return protocol.encode_all(frames)


# -- Keepalive -----------------------------------------------------------------------------------------------------


@trio.lowlevel.enable_ki_protection
async def keepalive(connection: Connection) -> None:
    """Ping the peer regularly, and fail the connection if it does not live.

    Once the connection is closing there are no more pings, and it is the deadline of rule 6 that counts.
    """
    interval, timeout = connection.settings.ping_interval, connection.settings.ping_timeout
    assert interval is not None
    next_at = trio.current_time() + interval
    ping = None
    while True:
        await trio.sleep_until(next_at)
        if ping is not None:
            connection.forget_ping(ping)  # other bytes came instead of its pong
        if connection.outbox.finished:
            return
        if not connection.encoding:
            connection.protocol.rest()  # in so long a time it may be that nothing goes on
        ping = connection.send_ping(None)
        next_at = ping.sent_at + interval
        if timeout is not None and not await _is_alive(connection, ping, timeout):
            connection.begin_closing(Close(CloseCode.INTERNAL_ERROR, "keepalive ping timeout"))
            connection.cause = trio.TooSlowError(f"no sign of life for {timeout:g} seconds after a ping")
            with trio.move_on_after(GRACE):
                await connection.writing_over.wait()
            connection.abort()
            return


@trio.lowlevel.enable_ki_protection
async def expire(connection: Connection) -> None:
    """Close the connection when no message has come or gone for too long, or when it is too old."""
    expires_at = math.inf if connection.expires_at is None else connection.expires_at
    while True:
        idle_at = math.inf
        if connection.idle is not None and connection.active_at is not None:
            idle_at = connection.active_at + connection.idle
        now = trio.current_time()
        if now >= min(idle_at, expires_at):
            reason = "idle for too long" if idle_at <= now else "open for too long"
            connection.begin_closing(Close(CloseCode.GOING_AWAY, reason))
            return
        await trio.sleep_until(min(idle_at, expires_at))


async def _is_alive(connection: Connection, ping: Ping, allowed: float) -> bool:
    """Wait for a sign of life after a ping: a pong, or any other byte. Time in which we do not read does not count."""
    while connection.heard_at <= ping.sent_at and not connection.outbox.finished:
        now = trio.current_time()
        listening_since = now if connection.listening_since is None else connection.listening_since
        deadline = max(ping.sent_at, listening_since) + allowed
        if now >= deadline:
            return False
        with trio.CancelScope(deadline=deadline):
            await ping.done.wait()
            return True
    return True
