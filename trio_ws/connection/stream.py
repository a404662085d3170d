"""The Trio stream below a connection.

A :class:`StreamAdapter` gives any :class:`trio.abc.Stream` some properties that the layers above rely on:

* Whatever goes wrong below comes out as one exception, :exc:`StreamBroken`, with the cause attached.
* A write that failed, or that was cancelled where nobody knows how much of it the peer has got, poisons it: all later
  writes raise. So half a frame can only be the last thing that a peer sees.
* A socket of its own (not one inside TLS) can be read and written without waiting. There it is always known how much
  was written, so cancelling the wait for more room loses nothing: what the system has not taken goes first next time.
* What is small is written at once with what surrounds it; what is large is not copied for that. What has been written
  is not kept.
* It tells how many bytes the peer has taken, as far as the system knows.
* It always closes, cleanly if that is possible within the time given.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import trio

from .run_local import RunLocal

if sys.platform == "linux":
    import fcntl

__all__ = [
    "BATCH",
    "MAX_RECEIVE_SIZE",
    "RECEIVE_SIZE",
    "StreamAdapter",
    "StreamBroken",
    "socket_broken",
    "stream_broken",
]

#: As much is put together to be written at once. Up to here a copy costs less than a system call.
BATCH = 64 * 1024

#: How many bytes the system may take that it has not sent yet.
_UNSENT = 128 * 1024

#: How many chunks the system takes at a time, at least.
_MAX_CHUNKS = 16

#: How many bytes to ask the stream for at a time.
RECEIVE_SIZE = 64 * 1024

#: How many bytes it can be at most.
MAX_RECEIVE_SIZE = 1024 * 1024

_Chunk: TypeAlias = bytes | memoryview

#: What sockets are read into. One for all of a run of Trio: what has come in is looked at at once. Where memory is
#: taken anew for each large read, that costs more than the reading.
_receive_buffer = RunLocal(lambda: memoryview(bytearray(MAX_RECEIVE_SIZE)))

#: How many bytes the peer has not acknowledged, and how many of these were not even sent (``linux/sockios.h``).
_SIOCOUTQ = 0x5411
_SIOCOUTQNSD = 0x894B


class StreamBroken(Exception):
    """The stream cannot be used any more. The ``__cause__`` says why. It never leaves this package."""


class StreamAdapter:
    """A stream, as a connection wants it.

    Args:
        stream: The stream. From now on it belongs to the adapter.

    Attributes:
        stream: The stream.
        tls_object: An :class:`ssl.SSLObject`, or a :class:`trio.SSLStream`, which tells of the TLS connection; or None.
        poisoned: Whether nothing more can be written.
        written: How many bytes the stream has taken.
        local_address: The address of this end as ``getsockname`` gives it; None when there is no socket below.
        remote_address: The address of the other end as ``getpeername`` gives it; None when there is no socket below.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream: trio.abc.Stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) and hasattr(os, "writev") else None
        # The socket below, also where there is TLS in between.
        self._below: Any = _socket_below(stream)
        self.local_address: Any = _address(self._below, "getsockname")
        self.remote_address: Any = _address(self._below, "getpeername")
        # Where what is received comes in.
        self._buffer = _receive_buffer.get() if self._socket is not None else memoryview(b"")
        # What was begun to be written to a socket and not taken by the system.
        self._rest: list[_Chunk] = []
        # What reading has ended with. The system says it only once.
        self._lost: trio.BrokenResourceError | None = None
        self.tls_object: Any = stream if isinstance(stream, trio.SSLStream) else None
        self.poisoned: bool = False
        self.written: int = 0

    # -- Reading ---------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Return what has arrived, or ``b""`` when nothing more will. When cancelled, nothing is lost.

        Raises:
            StreamBroken: if the connection is lost.
        """
        return bytes(await self.receive_view(RECEIVE_SIZE))

    async def receive_view(self, size: int) -> bytes | memoryview:
        """Do the same, but what is returned may be good only until something is received by any adapter.

        Args:
            size: How many bytes at most.
        """
        if self._socket is None:
            try:
                return bytes(await self.stream.receive_some(size))
            except Exception as exc:
                raise stream_broken(exc) from exc
        while True:
            await self.wait_readable()
            received = self.receive_now(size)
            if received is not None:
                return received

    async def wait_readable(self) -> None:
        """Wait until :meth:`receive_now` may return something, on a socket. Only one task may do so at a time.

        Raises:
            StreamBroken: if the connection is lost.
        """
        if self._socket is not None:
            try:
                await trio.lowlevel.wait_readable(self._fileno())
            except (OSError, trio.ClosedResourceError) as exc:
                raise stream_broken(exc) from exc

    @property
    def is_socket(self) -> bool:
        """Whether it can be read and written without waiting."""
        return self._socket is not None

    def receive_now(self, size: int) -> memoryview | None:
        """Return what has arrived at a socket, nothing when nothing more will, or None if there is nothing now.

        Args:
            size: How many bytes at most.

        Returns:
            The bytes. They are good until something is received by any adapter.

        Raises:
            StreamBroken: if the connection is lost, every time.
        """
        assert self._socket is not None
        if self._lost is not None:
            raise stream_broken(self._lost) from self._lost
        view = self._buffer[:size]
        try:
            return view[: os.readv(self._socket.fileno(), [view])]
        except BlockingIOError:
            return None
        except OSError as exc:
            self._lost = socket_broken(exc)
            raise stream_broken(self._lost) from self._lost

    def _fileno(self) -> int:
        assert self._socket is not None
        fd: int = self._socket.fileno()
        if fd < 0:  # Trio would keep a task that waits for this number for good
            raise trio.ClosedResourceError("the socket is closed")
        return fd

    # -- Writing ---------------------------------------------------------------------------------------------------

    def write_ahead(self) -> None:
        """Let the system take more at a time than the 16 KiB that Trio sets, where there is a TCP socket."""
        if self._socket is not None:
            with contextlib.suppress(AttributeError, OSError):  # not every system has it, and not every socket is TCP
                self._socket.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, _UNSENT)

    def can_write_now(self) -> bool:
        """Whether :meth:`write_now` can do anything. Nobody else may be writing."""
        return self._socket is not None and not self._rest and not self.poisoned

    def write_now(self, chunks: list[bytes]) -> bool:
        """Write as much to a socket as takes no waiting. The rest is kept, and goes first with the next :meth:`write`.

        Never raises: an error comes out of the next :meth:`write`.

        Args:
            chunks: Bytes, in order. The list belongs to the adapter then.

        Returns:
            Whether everything is written.
        """
        try:
            self._add(chunks)
            return self._write_some()
        except OSError:
            return False

    async def write(self, chunks: list[bytes], before_wait: Callable[[], object] = lambda: None) -> None:
        """Write what was kept, and then all of that.

        When cancelled, a socket has written a part, and the next call goes on with the rest. Another stream is poisoned
        then, as it is when this raises.

        Args:
            chunks: Bytes, in order. They are taken out of the list, so that nothing that has been written is kept.
            before_wait: Called before each wait for a socket, and before each piece of at most 64 KiB of other streams.

        Raises:
            StreamBroken: if the connection is lost, or an earlier write was not completed.
        """
        if self.poisoned:
            raise StreamBroken("an earlier write was not completed")
        if self._socket is not None:
            try:
                self._add(chunks)
                while self._rest and not self._write_some():
                    before_wait()
                    await trio.lowlevel.wait_writable(self._fileno())
            except trio.ClosedResourceError as exc:
                raise stream_broken(exc) from exc
            except OSError as exc:
                self.poisoned = True
                cause = socket_broken(exc)
                raise stream_broken(cause) from cause
            return
        self.poisoned = True
        try:
            for piece in _pieces(chunks):
                before_wait()
                await self.stream.send_all(piece)
                self.written += len(piece)
        except Exception as exc:
            raise stream_broken(exc) from exc
        self.poisoned = False

    def _add(self, chunks: list[bytes]) -> None:
        """Take chunks over, to be written after what is there."""
        self._rest += chunks
        chunks.clear()

    def _write_some(self) -> bool:
        """Write to the socket once. Return whether nothing is left."""
        assert self._socket is not None
        rest = self._rest
        fd = self._socket.fileno()
        try:
            # One is what nearly all writes have, and takes the system less time in this way.
            written = os.write(fd, rest[0]) if len(rest) == 1 else os.writev(fd, rest[:_MAX_CHUNKS])
        except BlockingIOError:
            return False
        self.written += written
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = memoryview(rest[0])[written:]
        return not rest

    async def send_eof(self) -> bool:
        """Tell the peer that nothing more will be written. Return whether this stream can do that, and did."""
        if self.poisoned or self._rest or not isinstance(self.stream, trio.abc.HalfCloseableStream):
            return False
        self.poisoned = True
        try:
            if self._socket is not None:
                # Not by way of the stream: on Python 3.13 an error that it raises stays in a reference cycle, with us.
                self._socket.shutdown(trio.socket.SHUT_WR)
            else:
                await self.stream.send_eof()
        except Exception:  # a stream may be of anybody's making
            return False
        return True

    # -- Signs of life ---------------------------------------------------------------------------------------------

    def count_waiting(self) -> tuple[int, int]:
        """Return how much of what was written waits: bytes that the peer has not taken, and of these not even sent.

        The first is what the peer's system has not acknowledged, the second what the network or the peer's window keeps
        from being sent. Where the system does not tell, nothing waits that the stream has taken. Inside TLS these are
        a few bytes more.
        """
        rest = sum(map(len, self._rest))
        if sys.platform != "linux" or self._below is None:
            return rest, rest
        counts = []
        for request in (_SIOCOUTQ, _SIOCOUTQNSD):
            try:
                counts.append(
                    rest + int.from_bytes(fcntl.ioctl(self._below.fileno(), request, bytes(4)), sys.byteorder)
                )
            except (OSError, ValueError):  # not for this kind of socket; or it is closed
                counts.append(counts[0] if counts else rest)
        return counts[0], counts[1]

    def has_unread(self) -> bool:
        """Whether the system has something for us, be it the end of the stream; False where nobody can tell."""
        if self._below is None or self._below.fileno() < 0 or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._below.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # -- Closing ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close a socket at once. Other streams are left as they are."""
        if self._socket is not None:
            self._socket.close()

    async def aclose(self, seconds: float) -> None:
        """Close the stream, with the goodbye that it may have, such as that of TLS, if there is time.

        Cannot be cancelled; never raises.

        Args:
            seconds: How long it may take.
        """
        if self._socket is not None:
            self.close()
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
            with contextlib.suppress(Exception):  # as above
                await self.stream.aclose()
                return
        # It raised, or did not come to an end. Streams of Trio are closed by now; this is for those of others.
        with trio.CancelScope(shield=True), contextlib.suppress(Exception):
            await trio.aclose_forcefully(self.stream)


def _socket_below(stream: Any) -> Any:
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def _address(socket: Any, method: str) -> Any:
    try:
        return getattr(socket, method)()
    except (AttributeError, OSError):  # no socket, or not connected any more
        return None


def socket_broken(exc: OSError) -> trio.BrokenResourceError:
    """Return the error of Trio's own streams for an error of the system."""
    # Without the traceback, whose frames would refer to the error, and it to them.
    error = trio.BrokenResourceError(f"socket connection broken: {exc}")
    error.__cause__ = exc.with_traceback(None)
    return error


def stream_broken(exc: Exception) -> StreamBroken:
    """Return the error of this module for any exception: after it, the state of the stream is unknown."""
    return StreamBroken(str(exc) or type(exc).__name__)


def _pieces(chunks: list[bytes]) -> Iterator[_Chunk]:
    """Yield the pieces to write, at most 64 KiB each, and keep no more of the chunks than that."""
    chunks.reverse()
    while chunks:
        batch = [chunks.pop()]
        size = len(batch[0])
        while chunks and size + len(chunks[-1]) <= BATCH:
            batch.append(chunks.pop())
            size += len(batch[-1])
        data = b"".join(batch) if len(batch) > 1 else batch[0]
        batch.clear()
        # One that is large is not copied.
        yield from [data] if size <= BATCH else (memoryview(data)[at : at + BATCH] for at in range(0, size, BATCH))
