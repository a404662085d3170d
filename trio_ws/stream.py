"""The Trio stream below a connection.

A :class:`Transport` gives any :class:`trio.abc.Stream` four properties that the layers above rely on:

* Whatever goes wrong below comes out as one exception, :exc:`StreamBroken`, with the cause attached.
* A write that failed or was cancelled poisons it, because nobody knows how much of the write the peer has got: all
  later writes raise. So half a frame can only be the last thing that a peer sees.
* Where there is a socket, it can be written to without waiting. What the system does not take goes out first with the
  next write.
* What is small is written at once with what surrounds it; what is large is not copied for that. What has been written
  is not kept.
* It always closes, cleanly if that is possible within the time given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import trio

__all__ = ["StreamBroken", "Transport"]

#: As much is put together to be written at once. Up to here a copy costs less than a system call.
_BATCH = 64 * 1024

#: How many bytes the system may take that it has not sent yet.
_UNSENT = 128 * 1024

#: How many chunks the system takes at a time, at least.
_MAX_CHUNKS = 16

#: How many bytes to ask the stream for at a time.
RECEIVE_SIZE = 64 * 1024


class StreamBroken(Exception):
    """The stream cannot be used any more. The ``__cause__`` says why. It never leaves this package."""


class Transport:
    """A stream, as a connection wants it.

    Args:
        stream: The stream. From now on it belongs to the transport.

    Attributes:
        poisoned: Whether a write has failed or was cancelled.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) and hasattr(os, "writev") else None
        # What was not taken by the system when it was written without waiting.
        self._rest: list[bytes] = []
        self.poisoned: bool = False
        if self._socket is not None:
            _write_ahead(self._socket)

    async def receive(self) -> bytes:
        """Return what has arrived, or ``b""`` when nothing more will.

        When cancelled, nothing is lost.

        Raises:
            StreamBroken: if the connection is lost.
        """
        try:
            data = await self._stream.receive_some(RECEIVE_SIZE)
        except Exception as exc:
            raise _broken(exc) from exc
        return data if type(data) is bytes else bytes(data)

    def can_write_now(self) -> bool:
        """Whether :meth:`write_now` can do anything. Nobody else may be writing."""
        return self._socket is not None and not self._rest and not self.poisoned

    def write_now(self, chunks: list[bytes]) -> bool:
        """Write as much as takes no waiting. The rest is kept, and goes first with the next :meth:`send`.

        Never raises: what is wrong comes out of the next :meth:`send`.

        Args:
            chunks: Bytes, in order. They are taken out of the list.

        Returns:
            Whether everything is written.
        """
        assert self._socket is not None
        self._rest = chunks
        try:
            written = os.writev(self._socket.fileno(), chunks[:_MAX_CHUNKS])
        except OSError:  # it takes nothing now, or never again
            return False
        while chunks and written >= len(chunks[0]):
            written -= len(chunks.pop(0))
        if not chunks:
            return True
        chunks[0] = chunks[0][written:]
        return False

    async def send(self, chunks: list[bytes]) -> None:
        """Write all of that. When cancelled, or if it raises, the transport is poisoned.

        Args:
            chunks: Bytes, in order, to follow what is left. They are taken out of the list, so that nothing that has
                been written is kept.

        Raises:
            StreamBroken: if the connection is lost, or an earlier write was not completed.
        """
        if self.poisoned:
            raise StreamBroken("an earlier write was not completed")
        self.poisoned = True
        if self._rest:
            chunks[:0] = self._rest
            self._rest = []
        try:
            for data in _batches(chunks):
                await self._stream.send_all(data)
        except Exception as exc:
            raise _broken(exc) from exc
        self.poisoned = False

    async def send_eof(self) -> bool:
        """Tell the peer that nothing more will be written. Return whether this stream can do that, and did."""
        if self.poisoned or self._rest or not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return False
        self.poisoned = True
        try:
            await self._stream.send_eof()
        except Exception:  # a stream may be of anybody's making
            return False
        return True

    async def aclose(self, seconds: float) -> None:
        """Close the stream, with the goodbye that it may have, such as that of TLS, if there is time.

        Cannot be cancelled; never raises.

        Args:
            seconds: How long it may take.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
            with contextlib.suppress(Exception):  # as above
                await self._stream.aclose()
                return
        # It raised, or did not come to an end. Streams of Trio are closed by now; this is for those of others.
        with trio.CancelScope(shield=True), contextlib.suppress(Exception):
            await trio.aclose_forcefully(self._stream)

    @property
    def local_address(self) -> Any:
        """The address of this end as ``getsockname`` gives it; None when there is no socket below."""
        return self._address("getsockname")

    @property
    def remote_address(self) -> Any:
        """The address of the other end as ``getpeername`` gives it; None when there is no socket below."""
        return self._address("getpeername")

    def _address(self, method: str) -> Any:
        stream: Any = self._stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        try:
            return getattr(stream.socket, method)()
        except (AttributeError, OSError):  # no socket, or not connected any more
            return None


def _broken(exc: Exception) -> StreamBroken:
    # Any exception: a stream may be of anybody's making, and after it has raised there is no telling its state.
    return StreamBroken(str(exc) or type(exc).__name__)


def _write_ahead(socket: trio.socket.SocketType) -> None:
    """Let the system take more at a time than the 16 KiB that Trio sets."""
    with contextlib.suppress(AttributeError, OSError):  # not every system has it, and not every socket is TCP
        socket.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, _UNSENT)


def _batches(chunks: list[bytes]) -> Iterator[bytes]:
    """Yield what to write at a time, and keep no more of it than that."""
    chunks.reverse()
    while chunks:
        batch = [chunks.pop()]
        size = len(batch[0])
        while chunks and size + len(chunks[-1]) <= _BATCH:
            batch.append(chunks.pop())
            size += len(batch[-1])
        # Without a copy when there is just one.
        data = b"".join(batch)
        batch.clear()
        yield data
