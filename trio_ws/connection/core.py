"""An open connection: the state that its two tasks and the calls of its user share.

::

                         the nursery of the connection
    receive() ◀── inbox ◀── reader task ◀── protocol ◀──┐
                                 │ pongs, Close          ├── stream adapter ◀──▶ peer
       send() ──▶ outbox ──▶ writer task ──▶ protocol ──▶┘
                   (keepalive: the writer's clock)

The inbox and the outbox are Trio memory channels, each with a budget in bytes. The rules:

1. **The outbox holds messages, never bytes.** The writer encodes a message when it takes it from the outbox. A
   ``send()`` that is cancelled before its message is in the outbox sends nothing; after that, the message is sent as a
   whole. So the state of a compressor always matches the messages that the peer has received.
2. **One writer at a time.** The writer task joins all queued messages into one write. When nothing is queued or
   half-written, ``send()`` may write to a socket itself, without an ``await`` (see :mod:`trio_ws.connection.writer`). A
   write that stopped at an unknown point poisons the stream.
3. **One reader: the reader task, from the beginning to the end. It never waits for the writer.** Pongs and the answer
   to a Close frame go to the outbox even if it is full. Their number is bounded.
4. **Backpressure reaches the peer.** While the inbox is full, the reader does not read. It resumes when a task waits
   for a message, so that messages of any allowed size can be received.
5. **Liveness is decided by evidence, not by the clock alone.** See :mod:`trio_ws.connection.keepalive`.
6. **The end of a connection takes effect in order.** All messages that arrived before it are delivered first. The
   application may still answer them, if it asks for the next message within :data:`GRACE` seconds.
7. **Closing has one deadline**, in :attr:`Connection.reader_scope`. It only ever moves to an earlier time.
8. **A connection ends in one place.** :meth:`Connection.settle` records the outcome and then wakes all waiting tasks.
   The stream is closed at the end of :func:`trio_ws.connection.reader.run`, whatever has happened.
9. **The two tasks never raise.** They record failures, without tracebacks, and the next call of the user reports them.

*Cancellation.* The scopes of both tasks are shielded. Cancelling the user's task does not stop them, so the user's
cleanup code can still send and receive. But leaving the block calls ``aclose()``, and a cancelled ``aclose()`` calls
:meth:`Connection.cancel_tasks`. So only the deadline, ``cancel_tasks()`` and ``abort()`` cancel the reader, and the
reader stops the writer when it ends. Every ``await`` of the writer may be cancelled this way. The writer then makes a
last attempt to flush the outbox and the Close frame, unless a frame is half-written. The deadline of the writer's scope
is also its clock: when it expires, the writer leaves a wait in which nothing can be lost, runs its checks, and resumes.

*Ctrl-C.* ``KeyboardInterrupt`` is raised in whichever task is running, unless that task is protected. Because of rule
9, both tasks of a connection are protected, so it is raised in the main task. There it may come between any two lines,
so the functions that update a queue together with its budget are protected, too.

*Memory.* References point in one direction, from the connection to its parts, and both tasks end with the connection.
So reference counting alone frees a closed connection together with its WebSocket.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from ..exceptions import ConnectionClosed
from ..frames import Close, CloseCode
from ..instruments.null import NULL_OBSERVER, NullObserver
from ..protocol import Protocol, Role
from ..protocol.extensions import Extension
from ..settings import Settings
from .encoder import Encoder
from .inbox import Inbox
from .keepalive import Keepalive
from .limits import NO_LIMITS, NoLimits
from .outbox import Outbox
from .state import ConnectionState, Event, Phase
from .stream import StreamAdapter

__all__ = ["GOODBYE_TIMEOUT", "GRACE", "Connection"]

#: Seconds to wait, at the end of a connection, for a step that usually takes no time but may never happen: the
#: application asks for its next message, our Close frame is written, the last frames of a lost peer arrive.
GRACE = 0.5

#: Seconds for a last attempt to send a Close frame, or to close the stream, after cancellation or the deadline.
GOODBYE_TIMEOUT = 0.1


class Connection:
    """An open connection. It is the internal interface behind a WebSocket, for the other modules of this package.

    Args:
        role: The role of this end.
        stream: The stream adapter, after the opening handshake.
        settings: The options.
        extensions: The extensions in use.
        received: The bytes that arrived together with the opening handshake and belong to the connection.
        limits: The limits of the connection.

    Attributes:
        state: The state of the connection.
        inbox: The received messages.
        outbox: The messages to send.
        reader_scope: The cancel scope of the reader task. Its deadline is that of rule 7.
        writer_done: Set when the writer task will write nothing more.
        outcome_reported: Whether a call of the user has raised the exception that describes the outcome.
        nursery: The nursery of the tasks; None before they start and after they have ended.
    """

    def __init__(
        self,
        role: Role,
        stream: StreamAdapter,
        settings: Settings,
        extensions: Sequence[Extension] = (),
        received: bytes = b"",
        limits: NoLimits = NO_LIMITS,
    ) -> None:
        stream.raise_unsent_limit()
        self.role: Role = role
        self.settings: Settings = settings
        self.stream: StreamAdapter = stream
        self.received: bytes = received
        self.limits: NoLimits = limits
        self.observer: NullObserver = NULL_OBSERVER
        if settings.instruments:
            from ..instruments.observer import make_observer  # needed by few programs

            self.observer = make_observer(settings.instruments)
        self.protocol: Protocol = Protocol(
            role,
            random=os.urandom,
            max_message_size=settings.max_message_size,
            max_fragments=settings.max_fragments,
            extensions=extensions,
            on_frame=self.observer.on_frame,
        )
        self.state: ConnectionState = ConnectionState(self.protocol.closing)
        self.inbox: Inbox = Inbox(self.protocol, settings.receive_buffer)
        self.outbox: Outbox = Outbox(self.state, settings.send_buffer)
        self.encoder: Encoder = Encoder(self.protocol, bool(extensions), limits, self.observer)
        self.keepalive: Keepalive = Keepalive(settings, limits, stream, self.outbox, self.observer)
        self.reader_scope: trio.CancelScope = trio.CancelScope(shield=True)
        self.writer_done: trio.Event = trio.Event()
        self.outcome_reported: bool = False
        self.nursery: trio.Nursery | None = None

    def begin_closing(self, close: Close | None) -> None:
        """Accept no more messages, send a Close frame after the queued ones, and set the deadline. Idempotent.

        Args:
            close: The Close frame; None if the connection is lost.
        """
        if self.state.advance(Event.CLOSE):
            self.outbox.finish(close)
            self.keepalive.disarm()
            self.end_within(self.settings.close_timeout)
            self.inbox.wake_reader()

    def drop_slow_peer(self, waited: float | None = None) -> None:
        """Begin closing because the peer reads too slowly.

        Args:
            waited: Seconds that a message has waited; None if the size of the outbox is the reason.
        """
        if self.state.can_send:
            lag = "" if waited is None else f", and a message has waited for {waited:g} seconds"
            self.state.fail(
                trio.TooSlowError(f"the peer reads too slowly: {self.outbox.size} bytes are in the outbox{lag}")
            )
            self.begin_closing(Close(CloseCode.TRY_AGAIN_LATER, "too slow"))

    def shut_down(self, close: Close) -> None:
        """Begin closing, and do not wait for a handler that leaves messages in the inbox."""
        self.begin_closing(close)
        self.inbox.end_when_full = True
        self.inbox.wake_reader()

    def close_locally(self, close: Close) -> None:
        """Begin closing because the user closes this end. Messages in the inbox are dropped."""
        self.state.closed_locally = True
        self.begin_closing(close)
        self.inbox.drop()

    def end_within(self, seconds: float) -> None:
        """Limit the time until both tasks end."""
        self.reader_scope.deadline = min(self.reader_scope.deadline, trio.current_time() + seconds)
        if not seconds:
            self.cancel_tasks()

    def cancel_tasks(self) -> None:
        """Cancel both tasks now. The writer still makes a short last attempt to send the Close frame."""
        # Cancelling only the reader would stop the writer later, perhaps within a write, and prevent the Close frame.
        self.keepalive.stop()
        self.reader_scope.cancel()

    def abort(self) -> None:
        """Drop the connection at once, without a Close frame."""
        if self.state.phase < Phase.ABORTED:
            was_settled = self.state.is_settled
            self.state.advance(Event.ABORT)
            if not was_settled:
                self._wake_all()
            self.stream.close()
            self.cancel_tasks()

    def settle(self) -> None:
        """Record that the outcome is final, and wake every waiter. Idempotent."""
        if self.state.advance(Event.SETTLE):
            self._wake_all()

    def _wake_all(self) -> None:
        self.outbox.finish(None)
        self.keepalive.disarm()
        self.keepalive.end_pings()
        self.inbox.settle()
        self.encoder.close()

    async def outcome(self) -> ConnectionClosed:
        """Wait for the outcome, and return the exception that the user's call must raise."""
        await self.state.wait_for(Phase.SETTLED)
        self.outcome_reported = True
        return self.state.error()
