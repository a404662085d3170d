"""An open connection: what its two tasks and the calls of its user share, how it begins and how it ends.

::

                         the nursery of the connection
    receive() ◀── inbox ◀── reader task ◀── protocol ◀──┐
                                 │ pongs, Close          ├── stream adapter ◀──▶ peer
       send() ──▶ outbox ──▶ writer task ──▶ protocol ──▶┘
                   (keepalive: the writer's clock)

Inbox and outbox are Trio memory channels, each with a budget of bytes beside it. The rules:

1. **The outbox carries messages, never bytes.** They are encoded when they are taken out, to be written. A ``send()``
   that is cancelled before its message is in the outbox sends nothing; after that the message goes out whole. So what
   an extension remembers of the messages before is always what the peer has got of them.
2. **One writes at a time**, and gathers all that waits into one write: the writer task; or, without any ``await`` in
   between and only while nothing waits or is half-written, a ``send()`` on a socket that takes its message at once (see
   :mod:`trio_ws.connection.writer`). A write of which nobody knows how far it has come poisons the stream.
3. **One reads**: the reader task, from the beginning to the end. **It never waits for the writer.** Pongs and the
   answer to a Close frame go to the outbox, which takes them however full it is, within bounds.
4. **Backpressure reaches the peer**: while the inbox is full, the reader does not read. It goes on while somebody waits
   for a message, so that one of any allowed size can be received.
5. **Liveness goes by evidence, not by the clock alone**: see :mod:`trio_ws.connection.keepalive`.
6. **What ends a connection takes effect in its place**: what came before it is delivered first, and may be answered, as
   long as the application asks for it within :data:`GRACE` seconds.
7. **Closing has one deadline**, that of :attr:`Connection.scope`, around the reader. It is only ever moved forward.
8. **A connection ends in one place**: :meth:`Connection.settle` records the outcome and then wakes everybody who waits;
   the stream is closed at the end of :func:`trio_ws.connection.reader.run`, whatever happened.
9. **Tasks never raise.** They record what went wrong, without its traceback, and the next call of the user reports it.

What if it is cancelled? The scopes of both tasks are shielded: cancelling the user's task does not stop them, so that
what the user does to clean up still works. It is ``aclose()`` that is cancelled, on the way out, and then calls
:meth:`Connection.cut`. So the reader is cancelled by the deadline, by ``cut()`` and by ``abort()`` alone, and stops the
writer when it ends. Each ``await`` in the writer can end that way, and all lead to its last words: a Close frame, if
nothing is half-written and it takes no waiting. The writer's scope is also where its clock is: when its deadline comes,
it leaves a wait in which nothing can be lost, does what is due, and goes on.

And Ctrl-C? It raises ``KeyboardInterrupt`` in whichever task runs, unless that one is protected. These are, because of
rule 9: so it goes to the main task. There it may strike between any two lines, so what changes a queue and its budget
together is protected too.

Objects refer to each other in one direction only, from the connection to its parts, and the tasks end with it. So a
connection that has ended is freed with the last reference to its WebSocket, without the cyclic collector.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from ..exceptions import ConnectionClosed
from ..frames import Close, CloseCode
from ..instruments.observer import NullObserver, make_observer
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

#: Seconds for what should take no time and may take forever: an application that comes back for the next message before
#: the connection ends, a last Close frame, the last words of a peer that is gone.
GRACE = 0.5

#: Seconds that saying goodbye may take once there is no more time, because of cancellation or the deadline.
GOODBYE_TIMEOUT = 0.1


class Connection:
    """An open connection. The rest of the package uses it, beside the public methods of its WebSocket.

    Args:
        role: Which end this is.
        stream: The stream below, after the opening handshake.
        settings: The options.
        extensions: The extensions in use.
        received: What came in together with the opening handshake, and after it.
        limits: What limits it.

    Attributes:
        state: How far its end has come.
        inbox: Received messages.
        outbox: Messages to send.
        scope: Around the reader task. Its deadline is the one of rule 7.
        writer_done: Set when the writer has written its last.
        told: Whether the user was told how the connection ended.
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
        stream.write_ahead()
        self.role: Role = role
        self.settings: Settings = settings
        self.stream: StreamAdapter = stream
        self.received: bytes = received
        self.limits: NoLimits = limits
        self.observer: NullObserver = make_observer(settings.instruments)
        self.protocol: Protocol = Protocol(
            role,
            random=os.urandom,
            max_message_size=settings.max_message_size,
            extensions=extensions,
            on_frame=self.observer.on_frame,
        )
        self.state: ConnectionState = ConnectionState(self.protocol.closing)
        self.inbox: Inbox = Inbox(self.protocol, settings.receive_buffer)
        self.outbox: Outbox = Outbox(self.state, settings.send_buffer)
        self.encoder: Encoder = Encoder(self.protocol, bool(extensions), limits, self.observer)
        self.keepalive: Keepalive = Keepalive(settings, limits, stream, self.outbox, self.observer)
        self.scope: trio.CancelScope = trio.CancelScope(shield=True)
        self.writer_done: trio.Event = trio.Event()
        self.told: bool = False

    def begin_closing(self, close: Close | None) -> None:
        """Accept no more messages, send a Close frame after those that wait, and set the deadline. The first counts.

        Args:
            close: The Close frame; None if there is nobody left to send it to.
        """
        if self.state.advance(Event.CLOSE):
            self.outbox.finish(close)
            self.keepalive.disarm()
            self.hurry(self.settings.close_timeout)
            self.inbox.wake_reader()

    def drop_slow_peer(self) -> None:
        """Close because the peer takes what it is sent too slowly."""
        if self.state.can_send:
            self.state.fail(trio.TooSlowError(f"the peer left {self.outbox.size} bytes in the outbox"))
            self.begin_closing(Close(CloseCode.TRY_AGAIN_LATER, "too slow"))

    def shut_down(self, close: Close) -> None:
        """Close, and let no message that nobody receives hold that up."""
        self.begin_closing(close)
        self.inbox.sheds = True
        self.inbox.wake_reader()

    def leave(self, close: Close) -> None:
        """Close because the user does. What was not received is dropped."""
        self.state.closed_locally = True
        self.begin_closing(close)
        self.inbox.drop()

    def hurry(self, seconds: float) -> None:
        """Let the tasks end in so many seconds at the latest."""
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + seconds)
        if not seconds:
            self.cut()

    def cut(self) -> None:
        """Let the tasks end now, with a Close frame if that takes no waiting."""
        # Both at once: a write that the writer begins after this would only be interrupted.
        self.keepalive.stop()
        self.scope.cancel()

    def abort(self) -> None:
        """Drop the connection, without a Close frame."""
        if self.state.phase < Phase.ABORTED:
            was_settled = self.state.is_settled
            self.state.advance(Event.ABORT)
            if not was_settled:
                self._wake_all()
            self.stream.close()
            self.cut()

    def settle(self) -> None:
        """Record that the outcome is final, and wake every waiter. Idempotent."""
        if self.state.advance(Event.SETTLE):
            self._wake_all()

    def _wake_all(self) -> None:
        self.outbox.finish(None)
        self.keepalive.disarm()
        self.keepalive.end_pings()
        self.inbox.settle()
        self.inbox.wake_reader()
        self.encoder.close()

    async def outcome(self) -> ConnectionClosed:
        """Wait until it is known how the connection ended, and return the exception that tells it to the user."""
        await self.state.wait_for(Phase.SETTLED)
        self.told = True
        return self.state.error()
