"""Writing the frames of a connection: ``Output``, in which streams that have more to send than fits take turns."""

from __future__ import annotations

from typing import Protocol

import trio

from ..connection.stream import StreamAdapter
from .protocol import HTTP2Protocol

__all__ = ["MAX_OUTPUT", "Output", "Sender"]

#: Size of the output from which on streams wait, in bytes.
MAX_OUTPUT = 128 * 1024


class Sender(Protocol):
    """The part of a stream that the output uses."""

    def wake_writer(self) -> None:
        """Wake the task that waits for room to send."""
        ...


class Output:
    """The output of a connection.

    A stream that has more to send than there is room for joins a queue. Room is what fits into the output, and into
    the window that the peer has given the connection. Only the first stream of the queue may send. It is woken when
    there is room, and it leaves the queue when it has sent something; if room is left then, the next one is woken. So
    a peer that makes a little room wakes one stream, and not all of them. A stream that still has something to send
    joins at the end.

    Args:
        transport: The stream that carries the connection.
        protocol: The protocol, which has the frames to write.

    Attributes:
        has_writer: Whether a task waits in :meth:`wait` when there is nothing to write. Before that, nothing is written
            but by :meth:`write`.
    """

    __slots__ = (
        "_has_ended",
        "_is_writing",
        "_protocol",
        "_queue",
        "_transport",
        "_wake_event",
        "_written_event",
        "has_writer",
    )

    def __init__(self, transport: StreamAdapter, protocol: HTTP2Protocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._is_writing = False
        # The event that the writer task waits for, if it does.
        self._wake_event: trio.Event | None = None
        # The event that is set after the next write, if a task waits for it; whether there will be none.
        self._written_event: trio.Event | None = None
        self._has_ended = False
        # The streams that wait, in their order; and whether their tasks are there to send. One whose task was cancelled
        # keeps its place: keepalive cancels writing now and then.
        self._queue: dict[Sender, bool] = {}
        self.has_writer: bool = False

    # -- Writing ---------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not (self._protocol.measure_output() or self._transport.has_unwritten)

    async def write(self) -> None:
        """Write all of it. When cancelled, the next call goes on.

        Raises:
            StreamBroken: If the connection is lost.
        """
        self._is_writing = True
        try:
            await self._transport.write(self._protocol.take_output())
        finally:
            self._is_writing = False
            self.wake_first()
            self._wake_waiting()

    async def wait_written(self) -> None:
        """Wait, in one task, until nothing waits to be written, or :meth:`end` is called. Safe to cancel."""
        while not self._has_ended and (self._is_writing or not self.is_empty):
            self.flush_later()
            self._written_event = trio.Event()
            await self._written_event.wait()

    def end(self) -> None:
        """End :meth:`wait_written`: the connection is lost, and nothing will be written any more."""
        self._has_ended = True
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        if self._written_event is not None:
            self._written_event.set()
            self._written_event = None

    def flush(self) -> None:
        """Write the output without waiting, or let the writer task write it."""
        if self.has_writer and not self._is_writing and self._transport.can_write_now():
            output = self._protocol.take_output()
            if not output or self._transport.write_now(output):
                return
        self.flush_later()

    def flush_later(self) -> None:
        """Wake the writer task, which also writes the frames that other streams add before it runs."""
        if self._wake_event is not None:
            self._wake_event.set()
            self._wake_event = None

    async def wait(self) -> None:
        """Wait, in the writer task, until :meth:`flush_later` is called."""
        self._wake_event = trio.Event()
        await self._wake_event.wait()

    # -- Streams that send -----------------------------------------------------------------------------------------

    def count_room(self, stream: Sender) -> int:
        """Return the number of bytes that a stream may send now; 0 if others come first, or the connection is full."""
        if self._transport.has_unwritten or self._is_writing or self._find_first() not in (stream, None):
            return 0
        window: int = self._protocol.h2.outbound_flow_control_window
        return max(min(MAX_OUTPUT - self._protocol.output_size, window), 0)

    def join(self, stream: Sender) -> None:
        """Add a stream to the end of the queue. One that is in the queue keeps its place, and may send again."""
        self._queue[stream] = True

    def is_queued(self, stream: Sender) -> bool:
        """Whether a stream is in the queue."""
        return stream in self._queue

    def skip(self, stream: Sender) -> None:
        """Pass over a stream, which keeps its place in the queue, until it calls :meth:`join` again."""
        if stream in self._queue:
            self._queue[stream] = False
            self.wake_first()

    def leave(self, stream: Sender) -> None:
        """Remove a stream from the queue. The next one may send."""
        self._queue.pop(stream, None)
        self.wake_first()

    def wake_first(self) -> None:
        """Wake the first stream that can send, if there is room. Call this when there may be more than before."""
        first = self._find_first()
        if first is not None and self.count_room(first):
            first.wake_writer()

    def _find_first(self) -> Sender | None:
        return next((stream for stream, is_there in self._queue.items() if is_there), None)
