"""A connection against a model: random calls, frames of the peer, cancellations and advances of the clock.

Hypothesis plays the user, the peer and the clock. Each rule is one step of one of them. After it, the machine lets the
tasks run until nothing moves any more, and looks whether all that must hold does; or only for a few rounds of the
scheduler, so that the next step comes in the middle of something.

The model is two queues, and the wire between them:

* what was sent: the wire carries exactly the messages of those calls that have returned, whole and in order, and all of
  them before a Close frame;
* what the peer has said, with the place on the wire where each message ends: what was received is exactly what was
  whole at the place up to which our end has read, in order.

How far our end has read and what it has written is taken from the stream below, and is read by the parser in
``support``: nothing here looks into the package.

Trio runs in guest mode, and its host is the machine: it lets Trio go on for as long as a step takes. There is no thread
and no real time in it, so the same steps do the same each time.

All of this is done over a stream in memory; and over a real socket, on which ``send`` writes at once if it can, or
leaves everything to the writer task. There a tap (:mod:`tests.taps`) records what was read and written, and lets the
system take and return less at a time than it would, or nothing for once.
"""

from __future__ import annotations

import os
import socket
import sys
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from math import inf
from sys import getsizeof
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection import writer
from trio_ws.connection.websocket import connection_of
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidData,
    ProtocolError,
)
from trio_ws.frames import Close, Opcode
from trio_ws.protocol import Message, Role
from trio_ws.protocol.deflate import Deflate, PerMessageDeflate
from trio_ws.protocol.extensions import Extension

from .protocol.strategies import frame_to
from .support import ROLES, PipeStream, born_open, pipe_pair, split_frames
from .taps import Tap, TryAgain, tapping

if sys.platform != "win32":
    import fcntl
    import termios

pytestmark = pytest.mark.usefixtures("short_limits")

FIN, RSV1, RSV2 = 0x80, 0x40, 0x20
TAIL = b"\x00\x00\xff\xff"

#: Seconds that the connection waits for an application that may still want to answer.
GRACE = 0.5
#: Seconds that the end of a connection takes at most, once there is no more time: a Close frame, and the stream.
GOODBYE = 0.2 + 1e-6

#: Seconds after which a peer is dead that takes nothing of what waits.
WRITE_TIMEOUT = 60.0

MAX_MESSAGE_SIZE = 4000

#: The memory of a message in the outbox, apart from its payload.
FRAME = getsizeof((0, b"", False))

Step: TypeAlias = Callable[[], Awaitable[object]]


# -- Trio, step by step ----------------------------------------------------------------------------------------------


class Stage:
    """A run of Trio that stands still between two steps."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self.failure: Exception | None = None
        self._ticks: deque[Callable[[], object]] = deque()
        self._step: Step | None = None
        self._over = False
        self._outcome: Any = None
        self._nursery: trio.Nursery
        trio.lowlevel.start_guest_run(
            self._main, run_sync_soon_threadsafe=self._ticks.append, done_callback=self._finish, clock=self.clock
        )

    def perform(self, step: Step) -> None:
        """Let the tasks run until a step is done. Raise what has gone wrong meanwhile, in whichever task."""
        self._step = step
        while self._outcome is None and self._step is not None:
            # There always is one, because the main task never waits for anything but that all others do.
            self._ticks.popleft()()
        if self._outcome is not None:
            self._outcome.unwrap()
        if self.failure is not None:
            raise self.failure

    def finish(self) -> None:
        """End the run, whatever state it is in. Nothing may be left of it but the tasks of Trio itself."""
        self._over = True
        for _ in range(100_000):
            if self._outcome is not None:
                break
            self._ticks.popleft()()
        else:
            raise AssertionError("the run does not come to an end")
        self._outcome.unwrap()

    def start(self, function: Callable[[], Awaitable[object]]) -> None:
        self._nursery.start_soon(self._run, function)

    async def _run(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except Exception as exc:  # raised again where Hypothesis sees it
            self.failure = self.failure or exc

    async def _main(self) -> None:
        living = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as self._nursery:
            while not self._over:
                if self._step is not None:
                    try:
                        await self._step()
                    except Exception as exc:  # the same
                        self.failure = self.failure or exc
                    self._step = None
                await trio.lowlevel.checkpoint()
            # Only after a failure is there anything left to cancel. What takes time then, gets it.
            self._nursery.cancel_scope.cancel()
            while self._nursery.child_tasks:
                self.clock.jump(1)
                await trio.lowlevel.cancel_shielded_checkpoint()
        assert trio.lowlevel.current_statistics().tasks_living == living

    def _finish(self, outcome: Any) -> None:
        self._outcome = outcome


# -- What it runs over -----------------------------------------------------------------------------------------------


class OurStream(PipeStream):
    """Our end of a stream in memory. It counts what was read from it, and knows where the last write began."""

    consumed = 0
    write_began = 0
    #: When it said that there is no more, or that it is broken.
    ended_at = inf
    #: Whether nobody knows how much of a write the peer gets when it is cancelled.
    forgets_writes = True

    @property
    def outer(self) -> PipeStream:
        """The stream that the connection gets."""
        return self

    @property
    def log(self) -> bytearray:
        """All that was ever written."""
        assert self.outgoing.log is not None
        return self.outgoing.log

    @property
    def has_room(self) -> bool:
        """Whether a write need not wait."""
        return len(self.outgoing.data) < self.outgoing.capacity

    @property
    def was_full(self) -> bool:
        """Whether a write may ever have had to wait."""
        return len(self.log) >= self.outgoing.capacity

    @property
    def is_broken(self) -> bool:
        """Whether the peer takes nothing any more."""
        return self.outgoing.broken

    @property
    def is_half_closed(self) -> bool:
        """Whether this end writes nothing any more."""
        return self.outgoing.ended

    @property
    def has_unread(self) -> bool:
        """Whether something waits to be read."""
        return bool(self.incoming.data)

    def try_again(self, reading: bool) -> None:
        """Let the next call say that it can do nothing at once. It always waits here."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.write_began = len(self.log)
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = await super().receive_some(max_bytes)
        except trio.BrokenResourceError:
            self.ended_at = min(self.ended_at, trio.current_time())
            raise
        self.consumed += len(data)
        if not data:
            self.ended_at = min(self.ended_at, trio.current_time())
        return data


class TheirStream(PipeStream):
    """The peer's end of a stream in memory."""

    def vanish(self) -> None:
        """Close it, at once."""
        self.closed = self.outgoing.ended = self.incoming.broken = True
        self.incoming.data.clear()
        for pipe in (self.incoming, self.outgoing):
            pipe.changed.unpark_all()


class OurSocket:
    """The same as :class:`OurStream`, for a real socket."""

    forgets_writes = False

    def __init__(self, tap: Tap, theirs: TheirSocket) -> None:
        self.tap = tap
        self._theirs = theirs

    @property
    def outer(self) -> trio.SocketStream:
        return self.tap.stream

    @property
    def consumed(self) -> int:
        return self.tap.received

    @property
    def log(self) -> bytearray:
        return self.tap.log

    @property
    def write_began(self) -> int:
        return self.tap.write_began

    @property
    def ended_at(self) -> float:
        return self.tap.ended_at

    @property
    def has_room(self) -> bool:
        return self.tap.has_room

    @property
    def was_full(self) -> bool:
        return self.tap.was_full

    @property
    def is_broken(self) -> bool:
        return self.tap.write_failed or self._theirs.is_gone

    @property
    def is_half_closed(self) -> bool:
        return self.closed or self.outer.socket.did_shutdown_SHUT_WR

    @property
    def has_unread(self) -> bool:
        return not self.closed and bool(count_unread(self.outer.socket.fileno()))

    @property
    def closed(self) -> bool:
        return self.tap.closed

    def try_again(self, reading: bool) -> None:
        direction = self.tap.reading if reading else self.tap.writing
        direction.faults.append(TryAgain(direction.position))


class TheirSocket:
    """The same as :class:`TheirStream`, for a real socket."""

    def __init__(self, stream: trio.SocketStream, tap: Tap) -> None:
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self._socket = stream.socket
        self._tap = tap

    @property
    def is_gone(self) -> bool:
        return self._socket.fileno() < 0

    def vanish(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Let our end see a reset as TCP has it: what was on its way is lost."""
        self._tap.reset()
        self._socket.close()


def count_unread(fd: int) -> int:
    """Return how many bytes wait to be read."""
    count = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


# -- The model -------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Sent:
    """A message of the user.

    Attributes:
        task: Whose it is.
        epoch: How often nothing had moved any more when it was begun.
        in_parts: Whether it is sent in parts.
        posted: Whether it follows the message that was being sent, before those of calls that waited already.
        max_backlog: How much may wait together with it; None for a call of ``send``, which waits for room.
        state: What has become of the call.
    """

    text: bool
    data: bytes
    task: int
    epoch: int
    in_parts: bool = False
    posted: bool = False
    max_backlog: int | None = None
    state: str = "pending"


@attrs.define(eq=False)
class Said:
    """A message of the peer, and the place on the wire where it ends; none yet if it does not."""

    text: bool
    data: bytes
    end: float = inf

    @property
    def memory(self) -> int:
        return getsizeof(self.data.decode() if self.text else self.data)


@attrs.define(eq=False)
class Received:
    """A message, as far as the user has received it."""

    text: bool
    data: bytes
    complete: bool


@attrs.define(eq=False)
class Call:
    """A task of the user.

    Attributes:
        busy: The call of the WebSocket that it is in, if it is in one.
        was_receiving: Whether it waited for a message when this end began to close, and may have been given one.
        commands: What it is to do, if it is to be told.
    """

    number: int
    name: str
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    busy: str | None = None
    was_receiving: bool = False
    cancelled_at: float = inf
    ping: bytes | None = None
    since: int = 0
    commands: deque[bytes | str] = attrs.field(factory=deque)
    told: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @contextmanager
    def doing(self, busy: str) -> Iterator[None]:
        self.busy = busy
        try:
            yield
        finally:
            self.busy = None

    def tell(self, *commands: bytes | str) -> None:
        self.commands.extend(commands)
        self.told.unpark()

    async def next_command(self) -> bytes | str:
        while not self.commands:
            await self.told.park()
        return self.commands.popleft()


class Abandoned(Exception):
    """The user has not come to the end of a block."""


class Wire:
    """Reads what our end writes."""

    def __init__(self, role: Role) -> None:
        self._masked = role is Role.CLIENT
        self._window = zlib.decompressobj(-15)
        self._compressed = False
        self._read = 0
        self.rest = b""
        self.messages: list[tuple[bool, bytes]] = []
        #: The message in progress.
        self.partial: tuple[bool, bytes] | None = None
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close: Close | None = None

    def read(self, log: bytes | bytearray) -> None:
        """Read on, in all that was ever written."""
        frames, self.rest = split_frames(self.rest + bytes(log[self._read :]), masked=self._masked)
        self._read = len(log)
        for first, payload in frames:
            assert self.close is None, "nothing follows a Close frame"
            self._take(Opcode(first & 0x0F), first, payload)
        assert not (self.close and self.rest), "nothing follows a Close frame"

    def unfinished(self) -> tuple[bool, bytes] | None:
        """Return what there is of the message in progress, with the frame that is cut at the end."""
        data = self.rest
        if not data or data[0] & 0x0F >= Opcode.CLOSE:
            return self.partial
        first, second = data[0], data[1] if len(data) > 1 else 0
        start = 2 + {126: 2, 127: 8}.get(second & 0x7F, 0) + (4 if self._masked else 0)
        payload = data[start:]
        if self._masked:
            payload = bytes(byte ^ data[start - 4 + i % 4] for i, byte in enumerate(payload))
        begun = first & 0x0F != Opcode.CONT
        assert begun is (self.partial is None)
        if first & RSV1 if begun else self._compressed:
            payload = self._window.copy().decompress(payload)
        text, before = self.partial or (first & 0x0F == Opcode.TEXT, b"")
        return text, before + payload

    def _take(self, opcode: Opcode, first: int, payload: bytes) -> None:
        fin = bool(first & FIN)
        if opcode >= Opcode.CLOSE:
            assert first & 0xF0 == FIN
            if opcode is Opcode.CLOSE:
                self.close = Close.parse(payload)
            else:
                (self.pings if opcode is Opcode.PING else self.pongs).append(payload)
            return
        if opcode is Opcode.CONT:
            assert self.partial is not None
            assert not first & 0x70
            text, data = self.partial
        else:
            assert self.partial is None
            assert not first & 0x30
            self._compressed = bool(first & RSV1)
            text, data = opcode is Opcode.TEXT, b""
        if self._compressed:
            payload = self._window.decompress(payload + TAIL if fin else payload)
        self.partial = text, data + payload
        if fin:
            self.messages.append(self.partial)
            self.partial = None


class OtherEnd:
    """The peer: what it has to say, how much it reads, and whether it answers by itself.

    Args:
        role: Which end the connection is that is tested.
    """

    def __init__(self, role: Role, stream: TheirStream | TheirSocket, compresses: bool) -> None:
        self.role = role
        self.stream = stream
        self.polite = False
        self.seen = Wire(role)
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, -15) if compresses else None
        # What waits to be sent, and how much was ever to be sent.
        self._outgoing: deque[bytes | None] = deque()
        self._total = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._read = bytearray()
        self._budget = 0.0
        self._answered = 0
        # What it has said so far, with the places on the wire where each ends.
        self.messages: list[Said] = []
        self.pings: list[tuple[int, bytes]] = []
        self.pongs: list[tuple[int, bytes]] = []
        self.close: tuple[int, Close] | None = None
        #: Position of the violation, and the close code of the answer.
        self.violation: tuple[int, int] | None = None
        self.hung_up = False
        self._fragment_compressed = False

    @property
    def may_speak(self) -> bool:
        """Whether what it says is listened to. If not, it says nothing of what follows but bytes."""
        return self.close is None and self.violation is None and not self.hung_up

    @property
    def taken(self) -> int:
        """How many bytes it has read."""
        return len(self._read)

    @property
    def fragment(self) -> Said | None:
        """The message in progress."""
        return self.messages[-1] if self.messages and self.messages[-1].end == inf else None

    @property
    def has_closed_within_message(self) -> bool:
        """Whether its Close frame came in the middle of a message."""
        return self.close is not None and self.fragment is not None

    def frame(self, opcode: int, payload: bytes = b"", **wrong: Any) -> bytes:
        return frame_to(self.role, opcode, payload, **wrong)

    def say(self, data: bytes) -> int:
        """Send bytes. Return the place where they end."""
        self._total += len(data)
        self._outgoing.append(data)
        self._changed.unpark_all()
        return self._total

    def say_message(self, text: bool, data: bytes, fin: bool, compress: bool) -> None:
        """Send a message, or the next fragment of one."""
        if not self.may_speak:
            return
        said = self.fragment
        opcode = Opcode.CONT
        if said is None:
            said = Said(text, b"")
            opcode = Opcode.TEXT if text else Opcode.BINARY
            self.messages.append(said)
            self._fragment_compressed = compress and self._compressor is not None
        said.data += data
        first = int(opcode) | (FIN if fin else 0)
        if self._fragment_compressed:
            assert self._compressor is not None
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
            if fin:
                data = data.removesuffix(TAIL) or b"\x00"
            if opcode is not Opcode.CONT:
                first |= RSV1
        end = self.say(self.frame(first, data))
        if fin:
            said.end = end

    def say_ping(self, data: bytes) -> None:
        if not self.may_speak:
            return
        self.pings.append((self.say(self.frame(FIN | Opcode.PING, data)), data))

    def say_pong(self, data: bytes) -> None:
        if not self.may_speak:
            return
        self.pongs.append((self.say(self.frame(FIN | Opcode.PONG, data)), data))

    def say_close(self, close: Close) -> None:
        if not self.may_speak:
            return
        self.close = self.say(self.frame(FIN | Opcode.CLOSE, close.serialize())), close

    def violate(self, name: str) -> None:
        if not self.may_speak:
            return
        start, fragment = self._total, self.fragment
        data, code = {
            "opcode": (self.frame(FIN | 0x3), 1002),
            "reserved bit": (self.frame(FIN | RSV2 | Opcode.PING), 1002),
            "mask": (self.frame(FIN | Opcode.PING, b"x", mask=self.role is Role.CLIENT), 1002),
            "fragmented ping": (self.frame(Opcode.PING), 1002),
            "long ping": (self.frame(FIN | Opcode.PING, b"x" * 126), 1002),
            "close code": (self.frame(FIN | Opcode.CLOSE, (1005).to_bytes(2, "big")), 1002),
            "close reason": (self.frame(FIN | Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
            "order": (self.frame(FIN | (Opcode.CONT if fragment is None else Opcode.TEXT), b"x"), 1002),
            "text": (self.frame(FIN | Opcode.TEXT, b"\xff"), 1007 if fragment is None else 1002),
            "size": (
                self.frame(FIN | Opcode.BINARY, b"x" * 10, width=2, size=MAX_MESSAGE_SIZE + 1),
                1009 if fragment is None else 1002,
            ),
        }[name]
        self.say(data)
        self.violation = start, code

    def hang_up(self, how: str) -> None:
        self.hung_up = True
        if how == "after all":
            self._outgoing.append(None)
        else:
            self._outgoing.clear()
            self._outgoing.append(None)
            if how == "reset":
                self.stream.reset()
            elif how == "close":
                self._budget = 0
                self.stream.vanish()
        self._changed.unpark_all()

    def read(self, size: float) -> None:
        """Read so many bytes more; 0: no more."""
        self._budget = self._budget + size if size else 0
        self._changed.unpark_all()

    async def speak(self) -> None:
        try:
            while True:
                while not self._outgoing:
                    await self._changed.park()
                data = self._outgoing.popleft()
                if data is None:
                    await self.stream.send_eof()
                    return
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def listen(self) -> None:
        try:
            while True:
                while self._budget < 1:
                    await self._changed.park()
                data = await self.stream.receive_some(int(min(self._budget, 65536)))
                if not data:
                    return
                self._budget -= len(data)
                self._read += data
                self.seen.read(self._read)
                if self.polite:
                    self.answer()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def answer(self) -> None:
        """Answer the pings and the Close frame that have come."""
        for payload in self.seen.pings[self._answered :]:
            self.say_pong(payload)
        self._answered = len(self.seen.pings)
        if self.seen.close is not None:
            self.say_close(self.seen.close)


# -- The machine -----------------------------------------------------------------------------------------------------

sizes = st.sampled_from([0, 5, 125, 126, 400, 3000])
codes = st.sampled_from([1000, 1001, 1008, 3000, 4999])
#: After how many rounds of the scheduler the next step comes; None: when nothing moves any more.
pauses = st.sampled_from([None, None, 0, 1, 2, 5])
indexes = st.integers(0, 7)


class ConnectionMachine(RuleBasedStateMachine):
    """One connection, its user, its peer, and the clock."""

    stage: Stage | None = None
    ours: OurStream | OurSocket

    def set_up(self) -> None:
        """Get ready for :meth:`make_streams`."""

    def tear_down(self) -> None:
        """Put everything in order again that :meth:`set_up` has changed."""

    def make_streams(self, capacity: int, step: int) -> tuple[OurStream | OurSocket, TheirStream | TheirSocket]:
        """Make both ends of what the connection runs over.

        Args:
            capacity: How many bytes it holds, or takes at a time.
            step: How many bytes our end reads at a time.
        """
        ours, theirs = pipe_pair(capacity, step=step, logged=True)
        return (
            OurStream(ours.incoming, ours.outgoing, step),
            TheirStream(theirs.incoming, theirs.outgoing, step),
        )

    @initialize(
        role=st.sampled_from(ROLES),
        capacity=st.sampled_from([65536, 1000, 30]),
        step=st.sampled_from([65536, 100, 7]),
        send_buffer=st.sampled_from([65536, 1000, 0]),
        receive_buffer=st.sampled_from([65536, 1000, 0]),
        keepalive=st.sampled_from([(None, None), (20, 20), (3, 1)]),
        close_timeout=st.sampled_from([10, 0.3]),
        compresses=st.booleans(),
        polite=st.sampled_from([True, True, False]),
        reads=st.sampled_from([True, True, False]),
        peaceful=st.sampled_from([0, 10, 20, 30]),
        scheduler=st.random_module(),
    )
    def begin(
        self,
        role: Role,
        capacity: int,
        step: int,
        send_buffer: int,
        receive_buffer: int,
        keepalive: tuple[float | None, float | None],
        close_timeout: float,
        compresses: bool,
        polite: bool,
        reads: bool,
        peaceful: int,
        scheduler: object,
    ) -> None:
        self.set_up()
        self.stage = Stage()
        self.ours, theirs = self.make_streams(capacity, step)
        self.step, self.send_buffer, self.receive_buffer = step, send_buffer, receive_buffer
        self.close_timeout, self.ping_timeout = close_timeout, keepalive[1]
        self.compresses = compresses
        self.peer = OtherEnd(role, theirs, compresses)
        self.peer.polite = polite
        self.wire = Wire(role)

        # How many steps are left in which nobody may end the connection.
        self.peaceful = peaceful
        self.numbers = 0
        self.epoch = 0
        # Whether nothing moved any more when the last step was over, and when the one before it was.
        self.still = self.was_still = False
        self.cut = False
        self.calls: list[Call] = []
        self.sends: list[Sent] = []
        self.received: list[Received] = []
        self.pings: list[bytes] = []
        self.sending: Call | None = None  # who is in a send_stream()
        self.receiving: Call | None = None  # who is in a receive_stream()
        # How the user, and who else, has begun to close; and since when.
        self.closing: Close | None = None
        self.closing_at = inf
        self.locally = False
        self.leave_with: str | None = None
        self.left = False
        self.heard = 0
        self.heard_at = 0.0
        self.taken = 0
        self.took_at = 0.0
        self.given_up_at = -inf
        self.peer_closed_at = inf
        self.failed_at = inf

        deflate = PerMessageDeflate(Deflate(min_size=100), send_bits=12, receive_bits=15)
        extensions: list[Extension] = [deflate] if compresses else []
        self.session = born_open(
            self.ours.outer,
            role,
            extensions,
            send_buffer=send_buffer,
            receive_buffer=receive_buffer,
            ping_interval=keepalive[0],
            ping_timeout=keepalive[1],
            write_timeout=WRITE_TIMEOUT,
            close_timeout=close_timeout,
            max_message_size=MAX_MESSAGE_SIZE,
        )
        self.block = Call(-1, "block")

        async def start() -> None:
            assert self.stage is not None
            for function in (self.peer.speak, self.peer.listen, self.live):
                self.stage.start(function)

        self.play(start, None)
        if reads:
            self.peer.read(inf)

    async def live(self) -> None:
        """The block that the connection is open in."""
        outcome = ""
        with self.block.scope:
            try:
                async with self.session as self.ws:
                    try:
                        how = await self.block.next_command()
                    except trio.Cancelled:
                        self.begin_closing(Close(1001, ""), locally=True)
                        raise
                    self.begin_closing(Close(1011 if how == "error" else 1000, ""), locally=True)
                    if how == "error":
                        raise Abandoned
                outcome = "normally"
            except Abandoned:
                outcome = "error"
        # What came out of the block is what was raised in it.
        assert (outcome or "cancelled") == self.leave_with
        assert self.ours.closed
        self.left = True

    # -- How a step is done --------------------------------------------------------------------------------------------

    def play(self, step: Step, pause: int | None) -> None:
        async def play() -> None:
            self.was_still = self.still
            await step()
            if pause is None:
                await self.stand_still()
            else:
                self.still = False
                for _ in range(pause):
                    await trio.lowlevel.checkpoint()

        self.peaceful -= 1
        self.stage_of_now.perform(play)

    @property
    def stage_of_now(self) -> Stage:
        assert self.stage is not None
        return self.stage

    def do(self, function: Callable[[], object], pause: int | None) -> None:
        async def step() -> None:
            function()

        self.play(step, pause)

    async def stand_still(self) -> None:
        """Wait until nothing moves any more, and take note of what has changed."""
        await wait_all_tasks_blocked()
        self.still = True
        self.epoch += 1
        self.look()

    def look(self) -> None:
        now = trio.current_time()
        self.wire.read(self.ours.log)
        if not self.is_alive:
            self.given_up_at = now
        if self.ours.consumed > self.heard:
            self.heard, self.heard_at = self.ours.consumed, now
        if self.peer.taken > self.taken or self.peer.taken == len(self.ours.log):
            self.taken, self.took_at = self.peer.taken, now
        if self.peer.close is not None and self.ours.consumed >= self.peer.close[0]:
            self.peer_closed_at = min(self.peer_closed_at, now)
        if self.wire.close is not None and self.wire.close.reason == "keepalive ping timeout" and self.failed_at == inf:
            self.failed_at = now
            assert not self.is_alive

    def start(self, name: str, function: Callable[[Call], Awaitable[None]], pause: int | None) -> None:
        """Let a new task of the user do something."""
        self.numbers += 1
        call = Call(self.numbers, name)
        self.calls.append(call)

        async def run() -> None:
            try:
                with call.scope:
                    await function(call)
            except ConnectionClosed as exc:
                self.check_exception(exc)
            finally:
                self.calls.remove(call)

        assert self.stage is not None
        stage = self.stage
        self.do(lambda: stage.start(run), pause)

    def content(self, text: bool, size: int) -> bytes:
        """Return a message that there has not been before, unless it is empty."""
        if not size:
            return b""
        self.numbers += 1
        name = f"{self.numbers}:".encode()
        if text:
            return name + "é".encode() * ((size - len(name)) // 2) + b"." * ((size - len(name)) % 2)
        return name + b"\xff" * (size - len(name))

    def begin_closing(self, close: Close, *, locally: bool = False) -> None:
        if locally and not self.locally:
            self.locally = True
            for call in self.calls:
                call.was_receiving = call.busy in ("receive", "receive_stream")
        if self.closing is None:
            self.closing = close
            self.closing_at = trio.current_time()

    # -- The user ------------------------------------------------------------------------------------------------------

    @rule(messages=st.lists(st.tuples(st.booleans(), sizes, st.booleans()), min_size=1, max_size=4), pause=pauses)
    def send(self, messages: list[tuple[bool, int, bool]], pause: int | None) -> None:
        contents = [(text, self.content(text, size), compress) for text, size, compress in messages]

        async def send(call: Call) -> None:
            for text, data, compress in contents:
                sent = Sent(text, data, call.number, self.epoch)
                self.sends.append(sent)
                try:
                    with call.doing("send"):
                        message: Message = data.decode() if text and compress else data
                        await self.ws.send(message, text=text, compress=compress)
                    sent.state = "sent"
                finally:
                    if sent.state != "sent":
                        sent.state = "failed"

        self.start("send", send, pause)

    @rule(text=st.booleans(), size=sizes, compress=st.booleans(), pause=pauses)
    def broadcast(self, text: bool, size: int, compress: bool, pause: int | None) -> None:
        data = self.content(text, size)
        self.numbers += 1
        task = self.numbers
        max_backlog = (0, 1000, 10_000, 2**23)[task % 4]

        def send() -> None:
            connection = connection_of(self.ws)
            sent = Sent(text, data, task, self.epoch, max_backlog=max_backlog)
            self.sends.append(sent)
            outbox, closing = connection.outbox, not connection.state.can_send
            in_parts, posted = outbox._open_stream is not None, outbox.lock.owner is not None
            full = trio_ws.broadcast(
                [self.ws], data, text=text, compress=compress, when_full="skip", max_backlog=max_backlog
            )
            if full or closing:
                sent.state = "failed"
            else:
                # If it waits for the end of a message in parts, that may never come.
                sent.state = "sent or not" if in_parts else "sent"
                sent.posted = posted

        self.do(send, pause)

    @rule(
        text=st.booleans(), compress=st.booleans(), parts=st.lists(sizes, max_size=2), end=st.booleans(), pause=pauses
    )
    def send_stream(self, text: bool, compress: bool, parts: list[int], end: bool, pause: int | None) -> None:
        commands: list[bytes | str] = [self.content(text, size) for size in parts]
        if end:
            commands.append("end")

        async def send(call: Call) -> None:
            call.commands.extend(commands)
            sent = Sent(text, b"", call.number, self.epoch, in_parts=True)
            self.sends.append(sent)
            whole = False
            try:
                async with AsyncExitStack() as stack:
                    with call.doing("send_stream"):
                        out = await stack.enter_async_context(self.ws.send_stream(text=text, compress=compress))
                    self.sending = call
                    try:
                        while (part := await call.next_command()) != "end":
                            if part == "fail":
                                raise Abandoned
                            assert isinstance(part, bytes)
                            with call.doing("part"):
                                await out.send(part)
                            sent.data += part
                        whole = not text or is_text(sent.data)
                    finally:
                        if sent.data and not whole:
                            self.begin_closing(Close(1011, "message abandoned"))
                        call.busy = "end of send_stream"
                sent.state = "sent"
            except trio.Cancelled:
                # If it was cancelled at the very end, there is no telling whether it was too late.
                sent.state = "sent or not" if whole else "failed"
                raise
            except Abandoned:
                sent.state = "failed"
            except InvalidData:
                sent.state = "failed"
                assert not whole
            except ConnectionClosed:
                sent.state = "failed"
                raise
            finally:
                call.busy = None
                if self.sending is call:
                    self.sending = None

        self.start("send_stream", send, pause)

    def streams(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.name == name]

    @precondition(lambda self: self.streams("send_stream"))
    @rule(index=indexes, size=sizes, cut=st.booleans(), pause=pauses)
    def send_part(self, index: int, size: int, cut: bool, pause: int | None) -> None:
        calls = self.streams("send_stream")
        # Text in a binary message is bytes like any other. In a text message a part may end within a character.
        data = self.content(True, size)
        parts = [data[: size // 2], data[size // 2 :]] if cut else [data]
        call = calls[index % len(calls)]
        self.do(lambda: call.tell(*parts), pause)

    @precondition(lambda self: self.streams("send_stream"))
    @rule(index=indexes, fail=st.sampled_from([False, False, False, True]), pause=pauses)
    def end_send_stream(self, index: int, fail: bool, pause: int | None) -> None:
        calls = self.streams("send_stream")
        self.do(lambda: calls[index % len(calls)].tell("fail" if fail else "end"), pause)

    @rule(count=st.integers(1, 4), decode=st.sampled_from([None, None, True, False]), pause=pauses)
    def receive(self, count: int, decode: bool | None, pause: int | None) -> None:
        async def receive(call: Call) -> None:
            for _ in range(count):
                try:
                    with call.doing("receive"):
                        message = await self.ws.receive(decode=decode)
                    text = isinstance(message, str)
                    assert decode in (None, text)
                except InvalidData as exc:
                    text, message = False, not_decoded(exc)
                except ConnectionClosed as exc:
                    self.check_all_received(exc)
                    raise
                data = message.encode() if isinstance(message, str) else message
                self.check_received(Received(text if decode is None else self.next_is_text(), data, True), call)

        self.start("receive", receive, pause)

    def next_is_text(self) -> bool:
        index = len(self.received)
        return index < len(self.peer.messages) and self.peer.messages[index].text

    @rule(pause=pauses)
    def iterate(self, pause: int | None) -> None:
        async def iterate(call: Call) -> None:
            while True:
                try:
                    with call.doing("receive"):
                        message = await self.ws.__anext__()
                except StopAsyncIteration:
                    assert self.ours.consumed >= (self.peer.close or (inf,))[0]
                    assert self.locally or not self.peer.has_closed_within_message
                    return
                except ConnectionClosed as exc:
                    self.check_all_received(exc)
                    raise
                text = isinstance(message, str)
                self.check_received(
                    Received(text, message.encode() if isinstance(message, str) else message, True), call
                )

        self.start("iterate", iterate, pause)

    @rule(pause=pauses)
    def receive_stream(self, pause: int | None) -> None:
        async def receive(call: Call) -> None:
            try:
                async with AsyncExitStack() as stack:
                    with call.doing("receive_stream"):
                        parts = await stack.enter_async_context(self.ws.receive_stream())
                    self.receiving = call
                    entry = Received(parts.text, b"", False)
                    self.check_received(entry, call)
                    while await call.next_command() != "end":
                        try:
                            with call.doing("next part"):
                                part = await parts.__anext__()
                            assert part
                            assert isinstance(part, str) is parts.text
                            entry.data += part.encode() if isinstance(part, str) else part
                        except StopAsyncIteration:
                            entry.complete = True
                        self.check_received(entry, call)
                    call.busy = "end of receive_stream"
            except ConnectionClosed as exc:
                self.check_all_received(exc)
                raise
            finally:
                call.busy = None
                if self.receiving is call:
                    self.receiving = None

        self.start("receive_stream", receive, pause)

    @precondition(lambda self: self.streams("receive_stream"))
    @rule(index=indexes, parts=st.sampled_from([0, 1, 1, 2, 30]), end=st.booleans(), pause=pauses)
    def receive_parts(self, index: int, parts: int, end: bool, pause: int | None) -> None:
        calls = self.streams("receive_stream")
        commands = ["part"] * parts + ["end"] * end
        self.do(lambda: calls[index % len(calls)].tell(*commands), pause)

    @rule(named=st.booleans(), pause=pauses)
    def ping(self, named: bool, pause: int | None) -> None:
        async def ping(call: Call) -> None:
            if named:
                call.ping = b"ping %d" % call.number
                self.pings.append(call.ping)
            call.since = self.ours.consumed
            start = trio.current_time()
            with call.doing("ping"):
                round_trip = await self.ws.ping(call.ping)
            assert abs(round_trip - (trio.current_time() - start)) < 1e-6
            self.wire.read(self.ours.log)
            answers = {payload for end, payload in self.peer.pongs if call.since < end <= self.ours.consumed}
            if call.ping is None:
                assert answers & {*self.wire.pings, *self.pings}
            else:
                # A pong also answers the pings before. The peer may guess it before the ping has come.
                later = self.wire.pings[self.wire.pings.index(call.ping) :] if call.ping in self.wire.pings else []
                assert answers & {*later, *self.pings[self.pings.index(call.ping) :]}

        self.start("ping", ping, pause)

    @precondition(lambda self: self.peaceful <= 0)
    @rule(code=codes, pause=pauses)
    def aclose(self, code: int, pause: int | None) -> None:
        async def close(call: Call) -> None:
            self.begin_closing(Close(code, "bye"), locally=True)
            try:
                with call.doing("aclose"):
                    await self.ws.aclose(code, "bye")
            finally:
                assert self.ours.closed

        self.start("aclose", close, pause)

    @precondition(lambda self: self.peaceful <= 0)
    @rule(code=codes, pause=pauses)
    def send_close(self, code: int, pause: int | None) -> None:
        async def close(call: Call) -> None:
            with call.doing("send_close"):
                await self.ws.send_close(code, "bye")
            self.begin_closing(Close(code, "bye"))

        self.start("send_close", close, pause)

    @precondition(lambda self: self.peaceful <= 0 and self.leave_with is None)
    @rule(how=st.sampled_from(["normally", "error", "cancelled"]), pause=pauses)
    def leave(self, how: str, pause: int | None) -> None:
        self.leave_with = how

        def leave() -> None:
            if how == "cancelled":
                self.cancel_call(self.block)
            else:
                self.block.tell(how)

        self.do(leave, pause)

    @precondition(lambda self: self.calls)
    @rule(index=indexes, pause=pauses)
    def cancel(self, index: int, pause: int | None) -> None:
        call = self.calls[index % len(self.calls)]
        self.do(lambda: self.cancel_call(call), pause)

    def cancel_call(self, call: Call) -> None:
        call.cancelled_at = min(call.cancelled_at, trio.current_time())
        # It may meet the writer in the middle of a write, of which nobody knows what the peer gets.
        self.cut = self.cut or not self.was_still
        call.scope.cancel()

    # -- The peer ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.peer.may_speak and self.peer.fragment is None)
    @rule(messages=st.lists(st.tuples(st.booleans(), sizes, st.booleans()), min_size=1, max_size=4), pause=pauses)
    def peer_sends(self, messages: list[tuple[bool, int, bool]], pause: int | None) -> None:
        def say() -> None:
            for text, size, compress in messages:
                self.peer.say_message(text, self.content(text, size), True, compress)

        self.do(say, pause)

    @precondition(lambda self: self.peer.may_speak)
    @rule(text=st.booleans(), size=sizes, fin=st.booleans(), compress=st.booleans(), pause=pauses)
    def peer_sends_fragment(self, text: bool, size: int, fin: bool, compress: bool, pause: int | None) -> None:
        fragment = self.peer.fragment
        text = text if fragment is None else fragment.text
        if fragment is not None:
            size = min(size, MAX_MESSAGE_SIZE - len(fragment.data))
        data = self.content(text, size if size >= 5 else 0)
        self.do(lambda: self.peer.say_message(text, data, fin, compress), pause)

    @precondition(lambda self: self.peer.may_speak)
    @rule(count=st.integers(1, 3), pause=pauses)
    def peer_pings(self, count: int, pause: int | None) -> None:
        def say() -> None:
            for _ in range(count):
                self.numbers += 1
                self.peer.say_ping(b"%d" % self.numbers)

        self.do(say, pause)

    @precondition(lambda self: self.peer.may_speak)
    @rule(which=st.sampled_from(["first", "last", "all", "wrong", "guess"]), pause=pauses)
    def peer_pongs(self, which: str, pause: int | None) -> None:
        def say() -> None:
            seen = self.peer.seen.pings
            waiting = [call.ping for call in self.calls if call.busy == "ping" and call.ping is not None]
            payloads = {"first": seen[:1], "last": seen[-1:], "all": seen, "wrong": [b"wrong"], "guess": waiting[-1:]}
            for payload in list(payloads[which]):
                self.peer.say_pong(payload)

        self.do(say, pause)

    @precondition(lambda self: self.peaceful <= 0 and self.peer.may_speak)
    @rule(code=st.sampled_from([1000, 1000, 1001, 1005, 1011, 4000]), pause=pauses)
    def peer_closes(self, code: int, pause: int | None) -> None:
        self.do(lambda: self.peer.say_close(Close(code, "" if code == 1005 else "enough")), pause)

    @precondition(lambda self: self.peaceful <= 0 and self.peer.may_speak)
    @rule(
        name=st.sampled_from(
            [
                *["opcode", "reserved bit", "mask", "fragmented ping", "long ping", "close code", "close reason"],
                *["order", "text", "size"],
            ]
        ),
        pause=pauses,
    )
    def peer_violates(self, name: str, pause: int | None) -> None:
        self.do(lambda: self.peer.violate(name), pause)

    @precondition(lambda self: not self.peer.may_speak and not self.peer.hung_up)
    @rule(data=st.sampled_from([b"\xff\xff", b"\x81\x01a", b"\x00" * 500]), pause=pauses)
    def peer_goes_on(self, data: bytes, pause: int | None) -> None:
        self.do(lambda: self.peer.say(data), pause)

    @precondition(lambda self: self.peaceful <= 0 and not self.peer.hung_up)
    @rule(how=st.sampled_from(["after all", "now", "close", "reset"]), pause=pauses)
    def peer_hangs_up(self, how: str, pause: int | None) -> None:
        self.do(lambda: self.peer.hang_up(how), pause)

    @rule(size=st.sampled_from([0, 1, 10, 100, 5000, inf]), pause=pauses)
    def peer_reads(self, size: float, pause: int | None) -> None:
        self.do(lambda: self.peer.read(size), pause)

    @rule(pause=pauses)
    def peer_answers(self, pause: int | None) -> None:
        self.do(self.peer.answer, pause)

    @precondition(lambda self: not self.ours.forgets_writes)
    @rule(each=st.lists(sizes, min_size=2, max_size=3), pause=pauses)
    def send_from_several_tasks(self, each: list[int], pause: int | None) -> None:
        for index, size in enumerate(each, 1):
            self.send([(False, size, False)], pause if index == len(each) else 0)

    # -- The system ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.ours.forgets_writes)
    @rule(reading=st.booleans(), pause=pauses)
    def try_again(self, reading: bool, pause: int | None) -> None:
        self.do(lambda: self.ours.try_again(reading), pause)

    # -- The clock -----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 10, 60]))
    def advance(self, seconds: float) -> None:
        async def advance() -> None:
            assert self.stage is not None
            end = trio.current_time() + seconds
            await self.stand_still()
            # From one deadline to the next: what happens there may set another one.
            while (left := end - trio.current_time()) > 1e-9:
                deadline = trio.lowlevel.current_statistics().seconds_to_next_deadline
                self.stage.clock.jump(min(left, max(deadline, 1e-6)))
                await self.stand_still()
                self.check()

        self.play(advance, None)

    # -- What must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def what_must_hold(self) -> None:
        if self.still:
            self.stage_of_now.perform(self._check)

    async def _check(self) -> None:
        self.check()

    def check(self) -> None:
        """Check everything. All tasks must be blocked."""
        self.check_wire()
        self.check_bounds()
        self.check_waiting()
        self.check_closing()

    @property
    def writer_is_free(self) -> bool:
        """Whether all that was sent must have been written."""
        ours = self.ours
        return ours.has_room and not ours.is_broken and not ours.is_half_closed and ours.ended_at == inf

    def written(self) -> tuple[list[Sent], list[Sent]]:
        """Return the messages that are on the wire, in order, and those that were sent and are not."""
        left = [sent for sent in self.sends if sent.state in ("sent", "sent or not")]
        left.sort(key=lambda sent: sent.epoch)
        written = []
        for text, data in self.wire.messages:
            match = next((sent for sent in left if (sent.text, sent.data) == (text, data)), None)
            assert match is not None, "a message that nobody has sent"
            left.remove(match)
            written.append(match)
        return written, [sent for sent in left if sent.state == "sent"]

    def check_wire(self) -> None:
        """Check that sent messages are on the wire, whole and in order, and so are the pongs."""
        written, left = self.written()
        for index, sent in enumerate(written):
            assert not sent.posted or all(one.epoch <= sent.epoch for one in written[:index])
        for one, next_one in pairwise(sent for sent in written if not sent.posted):
            assert one.epoch <= next_one.epoch, "what was called first is not first"
            assert (
                one.task != next_one.task
                or one.epoch < next_one.epoch
                or self.sends.index(one) < self.sends.index(next_one)
                or not one.data
                or not next_one.data
            )
        in_order = [sent for sent in written if not sent.posted]
        if in_order:
            assert all(sent.epoch >= in_order[-1].epoch for sent in left), "a message is missing between others"
        if self.wire.close is not None or self.writer_is_free:
            assert not left, "a message was lost"
        unfinished = self.wire.unfinished()
        if unfinished is not None:
            text, data = unfinished
            assert any(
                sent.text is text and (sent.data.startswith(data) or sent.state == "pending")
                for sent in self.sends
                if sent.state != "sent" or sent in left
            )
        pings = [payload for end, payload in self.peer.pings if end <= self.ours.consumed]
        assert self.wire.pongs == pings[: len(self.wire.pongs)]
        if self.writer_is_free and self.wire.close is None and not self.compresses:
            assert self.wire.pongs == pings

    def check_bounds(self) -> None:
        """Check that the buffers of both sides do not exceed their limits."""
        _, left = self.written()
        waiting = [getsizeof(sent.data) for sent in left]
        # The last part of a message that is sent in parts has no payload, and always has room.
        limits = [self.send_buffer if sent.max_backlog is None else sent.max_backlog for sent in left]
        assert len(waiting) <= 1 or sum(waiting) <= max(limits) + getsizeof(b"")
        # What came with the last read is not counted, and before it, there was room.
        waiting = [said.memory for said in self.unreceived() if said.end <= self.ours.consumed - self.step]
        if not self.locally:
            assert not waiting or sum(waiting) < self.receive_buffer

    def unreceived(self) -> list[Said]:
        """Return the messages that have come in whole and were not received."""
        return [said for said in self.peer.messages[len(self.received) :] if said.end <= self.ours.consumed]

    def check_waiting(self) -> None:
        """Check that no call waits unnecessarily."""
        busy = {call.busy for call in self.calls}
        over = self.ours.closed
        receiving = {"receive", "receive_stream"} & busy
        if self.receiving is None or self.locally:
            assert not (over and receiving)
            if receiving and not self.locally:
                assert not self.unreceived()
        if over:
            assert not busy - {None, "receive", "receive_stream"}
        assert "send_close" not in busy
        assert "end of receive_stream" not in busy
        if self.writer_is_free and self.wire.close is None and self.closing is None:
            assert "part" not in busy
            assert "end of send_stream" not in busy
            if self.sending is None:
                assert not busy & {"send", "send_stream"}
        self.check_line()
        # The reader reads as long as there is room.
        reads = self.peer.may_speak and not over and self.wire.close is None and self.is_alive
        if reads and receiving and self.receiving is None:
            assert not self.ours.has_unread
        begun = next((len(said.data) for said in self.peer.messages if not self.came(said.end)), 0)
        # The memory of what one read has brought counts until all of it is taken.
        held = connection_of(self.ws).inbox.size
        assert not held or self.unreceived() or begun or self.receiving is not None
        if reads and (not held or held < self.receive_buffer):
            assert not self.ours.has_unread
        for call in self.calls:
            if call.name != "aclose":
                assert call.cancelled_at == inf, "cancelled, and still there"
            else:
                assert trio.current_time() <= call.cancelled_at + GOODBYE
            if call.busy == "ping" and call.ping in self.wire.pings and not self.compresses:
                assert all(end <= call.since for end, data in self.peer.pongs if data == call.ping and self.came(end))
            if call.busy == "next part" and not self.locally:
                assert self.peer.messages[len(self.received) - 1].end > self.ours.consumed

    def check_line(self) -> None:
        """Check that the first sender in the queue does not wait while there is room."""
        busy = {call.busy for call in self.calls}
        if self.sending or "send" not in busy or "send_stream" in busy or not self.is_open:
            return
        tasks = {call.number for call in self.calls if call.busy == "send"}
        line = [sent for sent in self.sends if sent.state == "pending" and sent.task in tasks]
        first = [sent for sent in line if sent.epoch == min(each.epoch for each in line)]
        _, left = self.written()
        if not any(sent.in_parts for sent in left):
            # Room is given back when a write is done, be part of it on the wire already.
            before = Wire(self.peer.role)
            before.read(self.ours.log[: self.ours.write_began])
            being_written = self.wire.messages[len(before.messages) :]
            taken = sum(
                FRAME + getsizeof(data) for data in [sent.data for sent in left] + [data for _, data in being_written]
            )
            assert taken
            assert any(taken + FRAME + getsizeof(sent.data) > self.send_buffer for sent in first)

    @property
    def is_open(self) -> bool:
        """Whether nothing has begun to end the connection."""
        ends = [said[0] for said in (self.peer.close, self.peer.violation) if said is not None]
        return (
            self.closing is None
            and not any(map(self.came, ends))
            and self.ours.ended_at == inf
            and not self.ours.is_broken
            and self.is_alive
        )

    @property
    def is_alive(self) -> bool:
        """Whether the peer must be considered alive: it has said or taken something of late."""
        now = trio.current_time()
        heard = self.ping_timeout is None or now < self.heard_at + self.ping_timeout - 1e-6
        # After this, other streams are poisoned, so that there is no Close frame to judge.
        taken = self.ours.forgets_writes or now < self.took_at + WRITE_TIMEOUT - 1e-6
        # A sign of life comes too late when the connection is ending already.
        return heard and taken and now > self.given_up_at + GOODBYE

    def came(self, end: float) -> bool:
        return end <= self.ours.consumed

    def check_closing(self) -> None:
        """Check that the connection ends in time, and with the right code."""
        now = trio.current_time()
        wire = self.wire.close
        asked = self.closing is not None
        if now > self.peer_closed_at + GRACE + 1e-6:
            asked = True
        if asked and self.writer_is_free:
            assert wire is not None
        if wire is not None:
            allowed = {1011} if wire.reason == "keepalive ping timeout" else set()
            if self.closing is not None:
                allowed.add(self.closing.code)
            if self.peer.close is not None and self.came(self.peer.close[0]):
                allowed.add(self.peer.close[1].code)
            if self.peer.violation is not None and self.came(self.peer.violation[0] + 1):
                allowed.add(self.peer.violation[1])
            assert wire.code in allowed
        # Even when it is cut, a Close frame goes out if there is room for it and nothing is half-written.
        lost = (self.cut and self.ours.forgets_writes) or self.ours.is_broken or self.ours.ended_at != inf
        if self.ours.closed and self.closing is not None and not self.ours.was_full and not lost:
            assert wire is not None
        if now > self.closing_at + self.close_timeout + GOODBYE or now > self.ours.ended_at + GRACE + GOODBYE:
            assert self.ours.closed
        if now > self.block.cancelled_at + GOODBYE:
            assert self.left

    # -- What must hold when something comes out of a call -------------------------------------------------------------

    def check_received(self, entry: Received, call: Call) -> None:
        """Check that this is the next message of the peer, as far as it has arrived."""
        assert not self.locally or entry in self.received or call.was_receiving
        call.was_receiving = False
        if entry not in self.received:
            assert self.receiving is None or not entry.complete, "a message went past the one that is taken in parts"
            self.received.append(entry)
        said = self.peer.messages[self.received.index(entry)]
        assert entry.text is said.text
        if entry.complete:
            assert entry.data == said.data
            assert said.end <= self.ours.consumed
        else:
            assert said.data.startswith(entry.data)

    def check_all_received(self, exc: ConnectionClosed) -> None:
        """Check that no received message was lost, unless this end has closed the connection."""
        if self.locally:
            return
        # When time is up, what is still compressed is not decompressed any more.
        if exc.rcvd is not None or not self.compresses:
            assert not self.unreceived()

    def check_exception(self, exc: ConnectionClosed) -> None:
        """Check that the exception describes how the connection ended."""
        self.wire.read(self.ours.log)
        if self.locally:
            assert isinstance(exc, ConnectionClosedLocally)
        elif exc.rcvd is not None and self.peer.has_closed_within_message:
            assert isinstance(exc, ConnectionClosedError)
            assert exc.__cause__ is not None
        elif exc.rcvd is not None and exc.rcvd.is_normal and self.wire.close is not None and self.wire.close.is_normal:
            assert isinstance(exc, ConnectionClosedOK)
        else:
            assert isinstance(exc, ConnectionClosedError)
        if exc.rcvd is not None:
            assert self.peer.close is not None
            assert exc.rcvd == self.peer.close[1]
            assert self.came(self.peer.close[0])
        elif not self.compresses:
            assert self.peer.close is None or not self.came(self.peer.close[0])
        if self.wire.close is not None:
            assert exc.sent == self.wire.close
        if isinstance(exc.__cause__, ProtocolError) and not (
            exc.rcvd is not None and self.peer.has_closed_within_message
        ):
            assert self.peer.violation is not None
            assert exc.__cause__.code == self.peer.violation[1]
        assert exc.code == self.ws.close_code == (1006 if exc.rcvd is None else exc.rcvd.code)

    # -- The end -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if self.stage is None:
            return
        try:
            if self.stage.failure is None:
                self.end()
        finally:
            try:
                self.stage.finish()
            finally:
                self.tear_down()

    def end(self) -> None:
        """End the connection in any state. Check that this takes no longer than allowed, and leaves nothing behind."""
        if self.leave_with is None:
            self.leave("normally", None)
        self.advance(self.close_timeout + GOODBYE)
        self.check()
        assert self.left
        assert self.ours.closed
        for name in ("send_stream", "receive_stream"):
            for call in self.streams(name):
                self.do(partial(call.tell, "end"), None)
        assert not self.calls
        self.do(lambda: self.peer.hang_up("now"), None)
        self.do(lambda: self.peer.read(inf), None)


def not_decoded(exc: InvalidData) -> bytes:
    """Return the message that could not be decoded."""
    assert isinstance(exc.__cause__, UnicodeDecodeError)
    return exc.__cause__.object


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class SocketMachine(ConnectionMachine):
    """The same over real sockets, where ``send`` writes at once if it can."""

    writes_at_once = True

    def set_up(self) -> None:
        self.stack = ExitStack()
        monkeypatch = self.stack.enter_context(pytest.MonkeyPatch.context())
        monkeypatch.setattr(writer, "WRITE_AT_ONCE", self.writes_at_once)
        self.taps = self.stack.enter_context(tapping())

    def tear_down(self) -> None:
        self.stack.close()

    def make_streams(self, capacity: int, step: int) -> tuple[OurSocket, TheirSocket]:
        ours, theirs = map(self.stack.enter_context, socket.socketpair(socket.AF_UNIX))
        if capacity < 65536:
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as little as the system allows
        tap = self.taps.add(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        tap.writing.most = capacity
        tap.reading.most = step
        stream = TheirSocket(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), tap)
        return OurSocket(tap, stream), stream


class SocketOfWriterMachine(SocketMachine):
    """The same, where the writer task writes everything."""

    writes_at_once = False


TestConnection = ConnectionMachine.TestCase
TestConnection.settings = settings(
    deadline=None,
    derandomize=True,
    max_examples=120,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

if hasattr(socket, "AF_UNIX") and hasattr(os, "writev"):
    TestSocket = SocketMachine.TestCase
    TestSocketOfWriter = SocketOfWriterMachine.TestCase
    TestSocket.settings = TestSocketOfWriter.settings = settings(TestConnection.settings, max_examples=200)
