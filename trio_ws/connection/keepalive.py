"""The keepalive: it sends pings, decides that a peer is dead, and sets the deadlines of the writer task.

The decision needs evidence; the clock alone is not enough. Evidence of life is any byte that was received, and any byte
that was *delivered*: accepted by the stream and, where the system reports it, acknowledged by the system of the peer.

* A ping is sent every ``ping_interval`` seconds, unless the last one is still unanswered. Any byte received after the
  ping was queued answers it.
* ``ping_timeout`` starts when the ping has been delivered. If no byte is received in that time, the peer is dead.
  Deliveries extend the time only while other bytes could not even be sent, because the system of a frozen process still
  acknowledges whatever fits into its buffers.
* A ping that is stuck behind undelivered bytes does not wait for ever: the peer is dead after ``ping_interval +
  ping_timeout`` seconds in which nothing was received and nothing was delivered.
* ``write_timeout`` is for a peer that sends but does not read: it is dead when bytes have waited for that long and none
  was delivered.
* The peer is not blamed for delays at this end: time in which the reader is paused, because the inbox is full, does not
  count, and neither does time in which this process did not run. Before the peer is declared dead, the socket is
  checked for unread bytes.

Deliveries are sampled once per second while a ping is unanswered or the writer is blocked. On a socket without TLS, the
deadline of the writer's scope interrupts the writer for this, which loses nothing. On other streams, interrupting a
write would break the stream. There, each piece of at most 64 KiB has a deadline, which received bytes extend.
"""

from __future__ import annotations

import itertools
import math

import trio

from ..instruments.null import NullObserver
from ..settings import Settings
from .limits import NoLimits
from .outbox import Outbox
from .stream import StreamAdapter

__all__ = ["Keepalive", "Ping"]

#: Seconds between two samples of the delivered bytes.
SAMPLE_INTERVAL = 1.0

#: Maximum number of unanswered pings for which no task waits, besides the ping of the keepalive.
MAX_PINGS = 64


class Ping:
    """A ping that waits for its pong.

    Attributes:
        data: The payload.
        queued_at: The time at which it was put into the outbox.
        done: Set when the pong is received or the connection ends; None if no task waits.
        round_trip: Seconds from queueing to the pong; None until the pong is received.
    """

    __slots__ = ("data", "done", "queued_at", "round_trip")

    def __init__(self, data: bytes, queued_at: float, done: trio.Event | None) -> None:
        self.data: bytes = data
        self.queued_at: float = queued_at
        self.done: trio.Event | None = done
        self.round_trip: float | None = None


class Keepalive:
    """The pings of a connection, and the evidence that its peer is alive.

    Args:
        settings: The options.
        limits: The limits of the connection.
        stream: The stream adapter.
        outbox: The outbox, for pings.
        observer: The observer of the connection.

    Attributes:
        writer_scope: The cancel scope of the writer task. Its deadline is the time of the next :meth:`check`.
        stopped: Whether the writer task must end.
        latency: The last measured round trip, in seconds.
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
        # Pings that wait for their pongs, oldest first.
        self._pings: list[Ping] = []
        self._numbers = itertools.count()
        # The time of the next keepalive ping; the unanswered one, the position of its end in the written bytes, and the
        # time of its delivery.
        self._next_ping_at = now + self._interval
        self._ping: Ping | None = None
        self._ping_end = self._ping_delivered_at = math.inf
        # The time of the last received byte; the end of the last delay at this end; whether the reader is not paused.
        self._received_at = self._resumed_at = now
        self._reading = True
        # The last sample: the number of bytes that were delivered, of those that could not even be sent, and of those
        # that were delivered ahead for others.
        self._delivered = self._unsent = self._ahead = 0
        # The time of the last delivery that is evidence of life.
        self._progress_at = now
        # The time since which bytes wait and none is delivered; infinite while none waits.
        self._stalled_since = math.inf
        # The time at which the write of a piece has begun; None for sockets, and between pieces.
        self._piece_began_at: float | None = None
        # The time of the next check; infinite once disarmed.
        self._check_at = self._find_next_check(now)
        self.writer_scope: trio.CancelScope = trio.CancelScope(shield=True, deadline=self._check_at)
        self.stopped: bool = False
        self.latency: float | None = None

    # -- Pings -----------------------------------------------------------------------------------------------------

    def send_ping(self, data: bytes | None, done: trio.Event | None = None) -> Ping:
        """Put a ping into the outbox.

        Args:
            data: The payload; None for one that is unique on this connection.
            done: The event to set when the pong is received; None if no task waits. The oldest such ping is withdrawn
                if there are more than :data:`MAX_PINGS`.
        """
        if done is None:
            unawaited = [ping for ping in self._pings if ping.done is None and ping is not self._ping]
            if len(unawaited) >= MAX_PINGS:
                self.withdraw_ping(unawaited[0])
        ping = Ping(next(self._numbers).to_bytes(4, "big") if data is None else data, trio.current_time(), done)
        self._pings.append(ping)
        self._outbox.put_ping(ping.data)
        return ping

    def withdraw_ping(self, ping: Ping) -> None:
        """Ignore the pong of a ping, and do not send the ping if it is still in the outbox."""
        if ping in self._pings:
            self._pings.remove(ping)
            if ping.data in self._outbox.pings:
                self._outbox.pings.remove(ping.data)

    def receive_pong(self, data: bytes) -> bool:
        """Match a pong with its ping. It also answers all earlier pings (RFC 6455, section 5.5.3).

        Returns:
            Whether it answers a ping.
        """
        if not self._pings:
            return False
        count = next((index for index, ping in enumerate(self._pings, 1) if ping.data == data), 0)
        if count:
            now = trio.current_time()
            for ping in self._pings[:count]:
                ping.round_trip = self.latency = now - ping.queued_at
            self._observer.record_pong(now - self._pings[count - 1].queued_at)
            self.end_pings(count)
        return count > 0

    def end_pings(self, count: int | None = None) -> None:
        """Stop waiting for the oldest ``count`` pings, or for all, and wake the tasks that wait for them."""
        ended, self._pings = self._pings[:count], self._pings[count:] if count else []
        for ping in ended:
            if ping.done is not None:
                ping.done.set()

    # -- Evidence --------------------------------------------------------------------------------------------------

    def record_received(self) -> None:
        """Record that bytes were received."""
        self._received_at = trio.current_time()
        if self._piece_began_at is not None:
            self.set_piece_deadline()

    def record_reading(self, reading: bool) -> None:
        """Record that the reader pauses (False) or resumes (True)."""
        self._reading = reading
        self._resumed_at = trio.current_time()
        self.set_piece_deadline()

    def before_blocking(self) -> None:
        """Set a deadline before the writer waits for the stream."""
        now = trio.current_time()
        if not self._stream.is_socket:
            self._piece_began_at = now
            self.set_piece_deadline()
        elif now + SAMPLE_INTERVAL < self.writer_scope.deadline and self._check_at < math.inf:
            self._sample_deliveries(now)
            self._check_at = self.writer_scope.deadline = now + SAMPLE_INTERVAL

    def record_written(self) -> None:
        """Record that the stream has accepted everything that the writer took from the outbox."""
        if self._piece_began_at is not None:
            self._piece_began_at = None
            self.writer_scope.deadline = self._check_at
        # A ping that has left the outbox is among the written frames.
        if self._ping is not None and self._ping_end == math.inf and self._ping.data not in self._outbox.pings:
            self._ping_end = self._stream.bytes_written
            self._sample_deliveries(trio.current_time())

    def set_piece_deadline(self) -> None:
        """Set the deadline of a write that cannot be interrupted without breaking the stream, if there is one.

        Call this when the deadline of the limits has moved: when it is too early, the stream is broken for nothing.
        """
        if self._piece_began_at is not None and self._check_at < math.inf:
            silence = self._interval + self._timeout if self._reading else math.inf
            self.writer_scope.deadline = min(
                self._limits.deadline() + self._close_timeout,
                self._piece_began_at + self._write_timeout,
                max(self._piece_began_at, self._received_at, self._resumed_at) + silence,
            )

    def _sample_deliveries(self, now: float) -> None:
        """Find out how much was delivered since the last sample."""
        undelivered, unsent = self._stream.count_undelivered()
        delivered = self._stream.bytes_written - undelivered
        ahead = self._stream.count_delivered_ahead()
        progressed = delivered > self._delivered or ahead > self._ahead
        if progressed and (self._ping_delivered_at == math.inf or self._unsent):
            self._progress_at = now
        if not undelivered:
            self._stalled_since = math.inf
        elif progressed or self._stalled_since == math.inf:
            self._stalled_since = now
        if self._ping_delivered_at == math.inf and delivered >= self._ping_end:
            self._ping_delivered_at = now
        self._delivered, self._unsent, self._ahead = delivered, unsent, ahead

    # -- The writer's clock ----------------------------------------------------------------------------------------

    def renew_scope(self) -> None:
        """Create a new scope for the writer, after the deadline of the last one has expired."""
        self.writer_scope = trio.CancelScope(shield=True, deadline=self._check_at)

    def set_interruptible(self, interruptible: bool) -> None:
        """Suspend or restore the deadline of the writer. :meth:`stop` interrupts it in any case."""
        self.writer_scope.deadline = self._check_at if interruptible else math.inf

    def disarm(self) -> None:
        """Do not check any more: the closing handshake has its own deadline."""
        # A deadline that is left would interrupt the last writes.
        self._check_at = self.writer_scope.deadline = math.inf

    def stop(self) -> None:
        """Make the writer task end now."""
        self.stopped = True
        self.writer_scope.cancel()

    @property
    def ping_is_due(self) -> bool:
        """Whether it is time for the next ping."""
        return trio.current_time() >= self._next_ping_at

    def check(self) -> trio.TooSlowError | None:
        """Look for evidence, and send a ping if it is time. Return the reason if the peer is dead."""
        now = trio.current_time()
        if now - self._check_at > SAMPLE_INTERVAL:
            # This process did not run in time. The peer is not to blame for the delay.
            self._resumed_at = now
            self._stalled_since = max(self._stalled_since, now)
        self._sample_deliveries(now)
        if self._ping is not None:
            answered = self._ping.round_trip is not None or self._received_at > self._ping.queued_at
            if answered or (self._timeout == math.inf and now >= self._next_ping_at):
                self.withdraw_ping(self._ping)  # other bytes may have answered it before its pong
                self._ping = None
                self._ping_end = self._ping_delivered_at = math.inf
        failure = self._find_failure(now)
        if failure is None and self._ping is None and now >= self._next_ping_at:
            self._ping = self.send_ping(None)
            self._next_ping_at = now + self._interval
        self._check_at = self._find_next_check(now)
        return failure

    def _find_failure(self, now: float) -> trio.TooSlowError | None:
        since = self._stalled_since if self._piece_began_at is None else self._piece_began_at
        if now >= since + self._write_timeout:
            return trio.TooSlowError(f"the peer accepted no bytes for {self._write_timeout:g} seconds (write_timeout)")
        if self._piece_began_at is not None:
            return trio.TooSlowError(f"no sign of life for {now - self._piece_began_at:g} seconds during a write")
        if now < self._ping_deadline() or self._stream.has_unread():
            return None
        return trio.TooSlowError(f"no sign of life for {self._timeout:g} seconds after a ping")

    def _ping_deadline(self) -> float:
        """Return the time at which the peer is dead if there is no evidence of life before."""
        if self._ping is None or not self._reading:
            return math.inf
        if self._ping_delivered_at == math.inf:
            return max(self._received_at, self._progress_at, self._resumed_at) + self._interval + self._timeout
        return max(self._ping_delivered_at, self._progress_at, self._resumed_at) + self._timeout

    def _find_next_check(self, now: float) -> float:
        check_at = min(self._limits.deadline(), min(self._stalled_since, now) + self._write_timeout)
        if self._ping is None:
            return min(check_at, self._next_ping_at)
        ping_deadline = self._ping_deadline()
        return min(check_at, now + SAMPLE_INTERVAL, ping_deadline if ping_deadline > now else math.inf)
