"""Pings, and the clock of the writer task: when to ping, and when a peer is dead.

A peer is judged by evidence, not by the clock alone. Evidence is any byte that came in, and any byte that it has taken:
accepted by the stream and, where the system tells, acknowledged by the peer's system.

* A ping is sent every ``ping_interval`` seconds, unless one waits for its answer. Any byte that comes in later answers
  it.
* Its time runs from when it has left. If ``ping_timeout`` seconds pass without a byte after that, the peer is dead.
  Bytes that the peer takes meanwhile count only while more waits that could not be sent: a frozen process takes what
  fits into the buffers of its system.
* A ping that cannot leave, because what was written before it is not taken, is no reason to wait for ever: the peer is
  dead when ``ping_interval + ping_timeout`` seconds pass in which nothing comes in and nothing is taken.
* ``write_timeout`` is for a peer that sends and takes nothing: it is dead when nothing of what waits was taken for so
  long.
* What delays this end is no silence of the peer. Time in which the reader does not read, because the inbox is full,
  does not count, nor does time in which this process was held up; and before a verdict, the socket is looked at.

How much was taken is looked at once a second while there is doubt: while a ping waits for its answer, or the writer for
room. On a socket of its own, the writer is woken from its wait for that, which loses nothing. Another stream cannot be
left in the middle of a write, so there a write of at most 64 KiB has a deadline, which bytes that come in move on.
"""

from __future__ import annotations

import itertools
import math

import attrs
import trio

from ..instruments.observer import NullObserver
from ..settings import Settings
from .limits import NoLimits
from .outbox import Outbox
from .stream import StreamAdapter

__all__ = ["Keepalive", "Ping"]

#: Seconds between two looks at what the peer has taken, while there is doubt.
LOOK = 1.0


@attrs.define(eq=False)
class Ping:
    """A ping whose pong has not come.

    Attributes:
        data: Its payload.
        sent_at: When it was put into the outbox.
        done: Set when the pong comes, and at the end of the connection; None if nobody waits.
        round_trip: Seconds that it took, once the pong has come.
    """

    data: bytes
    sent_at: float
    done: trio.Event | None = None
    round_trip: float | None = None


class Keepalive:
    """The pings of a connection, and the signs of life of its peer.

    Args:
        settings: The options.
        limits: The limits of the connection.
        stream: The stream below.
        outbox: The outbox, for pings.
        observer: The observer of the connection.

    Attributes:
        scope: Around the writer task, with the time of the next :meth:`check` as deadline.
        stopped: Whether the writer is to end.
        latency: The last round trip of a ping, in seconds.
    """

    def __init__(
        self, settings: Settings, limits: NoLimits, stream: StreamAdapter, outbox: Outbox, observer: NullObserver
    ) -> None:
        now = trio.current_time()
        self._interval = math.inf if settings.ping_interval is None else settings.ping_interval
        self._timeout = math.inf if settings.ping_timeout is None else settings.ping_timeout
        self._write_timeout = math.inf if settings.write_timeout is None else settings.write_timeout
        self._close_timeout = settings.close_timeout
        self._limits = limits
        self._stream = stream
        self._outbox = outbox
        self._observer = observer
        # Pings whose pongs have not come, oldest first.
        self._pings: list[Ping] = []
        self._numbers = itertools.count()
        # When to ping next; the ping that waits for its answer, where it ends in what is written, when it has left.
        self._next_at = now + self._interval
        self._ping: Ping | None = None
        self._ping_end = self._left_at = math.inf
        # When something was last received; whether the reader waits for room, and since when it does not any more.
        self._heard_at = self._resumed_at = now
        self._paused = False
        # What the peer had taken at the last look, and whether something could not be sent then; when it last took some
        # of that, and since when it has taken nothing of what waits.
        self._taken = self._unsent = 0
        self._progress_at = now
        self._waiting_since = math.inf
        # Since when a piece is being written, where that cannot be interrupted.
        self._piece_since: float | None = None
        # When to check next; infinite when the peer is judged no more.
        self._due = self._find_due(now)
        self.scope: trio.CancelScope = trio.CancelScope(shield=True, deadline=self._due)
        self.stopped: bool = False
        self.latency: float | None = None

    # -- Pings -----------------------------------------------------------------------------------------------------

    def send_ping(self, data: bytes | None, done: trio.Event | None = None) -> Ping:
        """Put a ping into the outbox.

        Args:
            data: Its payload. None: one that no other ping has.
            done: What to set when the pong comes.
        """
        ping = Ping(next(self._numbers).to_bytes(4, "big") if data is None else data, trio.current_time(), done)
        self._pings.append(ping)
        self._outbox.put_ping(ping.data)
        return ping

    def forget_ping(self, ping: Ping) -> None:
        """Withdraw a ping: nobody waits for it any more."""
        if ping in self._pings:
            self._pings.remove(ping)
            if ping.data in self._outbox.pings:
                self._outbox.pings.remove(ping.data)

    def receive_pong(self, data: bytes) -> None:
        """Find the ping that it answers. It also answers those before it (RFC 6455, section 5.5.3)."""
        count = next((index for index, ping in enumerate(self._pings, 1) if ping.data == data), 0)
        if count:
            now = trio.current_time()
            for ping in self._pings[:count]:
                ping.round_trip = self.latency = now - ping.sent_at
            self._observer.record_pong(now - self._pings[count - 1].sent_at)
            self.end_pings(count)

    def end_pings(self, count: int | None = None) -> None:
        """Forget pings, the oldest ones or all, and wake those who wait for their pongs."""
        ended, self._pings = self._pings[:count], self._pings[count:] if count else []
        for ping in ended:
            if ping.done is not None:
                ping.done.set()

    # -- Signs of life ---------------------------------------------------------------------------------------------

    def note_heard(self) -> None:
        """Record that something has come in."""
        self._heard_at = trio.current_time()
        if self._piece_since is not None:
            self._limit_piece()

    def note_reading(self, on: bool) -> None:
        """Record that the reader does not read for now, or reads again."""
        self._paused = not on
        self._resumed_at = trio.current_time()
        self._limit_piece()

    def before_wait(self) -> None:
        """Set the deadline of a write that may have to wait."""
        now = trio.current_time()
        if not self._stream.is_socket:
            self._piece_since = now
            self._limit_piece()
        elif now + LOOK < self.scope.deadline and self._due < math.inf:
            self._look(now)
            self._due = self.scope.deadline = now + LOOK

    def after_write(self) -> None:
        """Record that everything was written that was taken out of the outbox."""
        if self._piece_since is not None:
            self._piece_since = None
            self.scope.deadline = self._due
        # If a ping is not in the outbox any more, it is among what was written.
        if self._ping is not None and self._ping_end == math.inf and self._ping.data not in self._outbox.pings:
            self._ping_end = self._stream.written
            self._look(trio.current_time())

    def _limit_piece(self) -> None:
        """Set the deadline of a write that cannot be interrupted without breaking the stream."""
        if self._piece_since is not None and self._due < math.inf:
            silence = math.inf if self._paused else self._interval + self._timeout
            self.scope.deadline = min(
                self._limits.due() + self._close_timeout,
                self._piece_since + self._write_timeout,
                max(self._piece_since, self._heard_at, self._resumed_at) + silence,
            )

    def _look(self, now: float) -> None:
        """Look at what the peer has taken."""
        waiting, unsent = self._stream.count_waiting()
        taken = self._stream.written - waiting
        progressed = taken > self._taken
        if progressed and (self._left_at == math.inf or self._unsent):
            self._progress_at = now
        if not waiting:
            self._waiting_since = math.inf
        elif progressed or self._waiting_since == math.inf:
            self._waiting_since = now
        if self._left_at == math.inf and (taken if waiting else self._stream.written) >= self._ping_end:
            self._left_at = now
        self._taken, self._unsent = taken, unsent

    # -- The clock -------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Make a new scope for the writer: the last one has come to its deadline."""
        self.scope = trio.CancelScope(shield=True, deadline=self._due)

    def hold(self, on: bool) -> None:
        """Let nothing interrupt the writer but its end, or let the clock interrupt it again."""
        self.scope.deadline = math.inf if on else self._due

    def disarm(self) -> None:
        """Judge the peer no more: the closing handshake has a deadline of its own."""
        self._due = math.inf
        if self._piece_since is not None:
            self.scope.deadline = math.inf

    def stop(self) -> None:
        """Let the writer end, now."""
        self.stopped = True
        self.scope.cancel()

    @property
    def ping_is_due(self) -> bool:
        """Whether it is time for the next ping."""
        return trio.current_time() >= self._next_at

    def check(self) -> trio.TooSlowError | None:
        """Do what is due: look at the signs of life, and ping. Return why the peer is dead, if it is."""
        now = trio.current_time()
        if now - self._due > LOOK:
            # This process was held up. The peer is not to blame for that time.
            self._resumed_at = now
            self._waiting_since = max(self._waiting_since, now)
        self._look(now)
        if self._ping is not None:
            answered = self._ping.round_trip is not None or self._heard_at > self._ping.sent_at
            if answered or (self._timeout == math.inf and now >= self._next_at):
                self.forget_ping(self._ping)  # if other bytes came instead of its pong
                self._ping = None
                self._ping_end = self._left_at = math.inf
        failure = self._judge(now)
        if failure is None and self._ping is None and now >= self._next_at:
            self._ping = self.send_ping(None)
            self._next_at = now + self._interval
        self._due = self._find_due(now)
        return failure

    def _judge(self, now: float) -> trio.TooSlowError | None:
        since = self._waiting_since if self._piece_since is None else self._piece_since
        if now >= since + self._write_timeout:
            return trio.TooSlowError(f"the peer took nothing of what was written for {self._write_timeout:g} seconds")
        if self._piece_since is not None:
            return trio.TooSlowError(f"no sign of life for {now - self._piece_since:g} seconds during a write")
        if now < self._verdict_at() or self._stream.has_unread():
            return None
        return trio.TooSlowError(f"no sign of life for {self._timeout:g} seconds after a ping")

    def _verdict_at(self) -> float:
        """Return when the peer is dead if there is no sign of life before."""
        if self._ping is None or self._paused:
            return math.inf
        if self._left_at == math.inf:
            return max(self._heard_at, self._progress_at, self._resumed_at) + self._interval + self._timeout
        return max(self._left_at, self._progress_at, self._resumed_at) + self._timeout

    def _find_due(self, now: float) -> float:
        """Return when to check next."""
        due = min(self._limits.due(), min(self._waiting_since, now) + self._write_timeout)
        if self._ping is None:
            return min(due, self._next_at)
        verdict_at = self._verdict_at()
        return min(due, now + LOOK, verdict_at if verdict_at > now else math.inf)
