"""The adapter around the Trio stream of a connection.

A :class:`StreamAdapter` gives any :class:`trio.abc.Stream` the properties that the other modules rely on:

* Every failure of the stream is reported as :exc:`StreamBroken`, with the original exception as its cause.
* A failed write poisons the adapter, and so does a cancelled write if nobody can know how many bytes were written: all
  later writes raise. So after half a frame, a peer never receives anything else.
* A plain :class:`trio.SocketStream`, without TLS, can be read and written without waiting. The number of written bytes
  is always known there, so cancelling a write loses nothing: the next write begins with the remaining bytes.
* Small chunks are joined into one write. Large chunks are not copied. Chunks are dropped as soon as they are written.
* The adapter knows how many bytes were delivered to the peer, as far as the system reports it.
* Closing always succeeds, and is clean if there is enough time.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from .run_local import RunLocal
from .sockets import count_undelivered, has_unread

if TYPE_CHECKING:
    from .tls_info import TLSInfo

__all__ = [
    "BATCH",
    "MAX_RECEIVE_SIZE",
    "RECEIVE_SIZE",
    "StreamAdapter",
    "StreamBroken",
    "StreamSilent",
    "socket_broken",
    "stream_broken",
]

#: Chunks are joined up to this size, in bytes. Copying this much costs less than another system call.
BATCH = 64 * 1024

#: Number of unsent bytes up to which the system reports a TCP socket as writable.
_UNSENT_LIMIT = 128 * 1024

#: Number of chunks per call of writev(). POSIX guarantees at least this many.
_MAX_CHUNKS = 16

#: Number of bytes to read at a time.
RECEIVE_SIZE = 64 * 1024

#: Number of bytes to read at a time, at most, while a large message is received.
MAX_RECEIVE_SIZE = 1024 * 1024

_Chunk: TypeAlias = bytes | memoryview

#: The buffer that all sockets of a run of Trio are read into. They can share it because received bytes are processed
#: before the next read. Allocating memory for each large read would cost more than the read.
_receive_buffer = RunLocal(lambda: memoryview(bytearray(MAX_RECEIVE_SIZE)))


class StreamBroken(Exception):
    """The stream cannot be used any more, because of the ``__cause__``. Internal: users never see this exception."""


class StreamSilent(StreamBroken):
    """The stream has ended before the peer has sent anything."""


class StreamAdapter:
    """A stream with the properties that a connection needs; see the top of this module.

    Args:
        stream: The stream, which nobody else may use from now on.

    Attributes:
        stream: The stream.
        tls_object: An :class:`ssl.SSLObject`, or a :class:`trio.SSLStream`, which tells of the TLS connection; or None.
        poisoned: Whether all further writes raise.
        bytes_written: Number of bytes that the stream has accepted.
        progress_at: The time at which the stream last accepted a part of an unfinished write.
        local_address: The address of this end, from ``getsockname()``; None without a socket.
        remote_address: The address of the peer, from ``getpeername()``; None without a socket.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream: trio.abc.Stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) and hasattr(os, "writev") else None
        # The socket of the stream, or of the transport of its TLS.
        self._transport_socket: Any = _find_transport_socket(stream)
        self.local_address: Any = _address(self._transport_socket, "getsockname")
        self.remote_address: Any = _address(self._transport_socket, "getpeername")
        # The buffer for received bytes.
        self._buffer = _receive_buffer.get() if self._socket is not None else memoryview(b"")
        # Chunks that a socket has not accepted yet.
        self._unwritten: list[_Chunk] = []
        # The error of the socket. The system reports it only once, but every later read raises it again.
        self._read_error: trio.BrokenResourceError | None = None
        self.tls_object: Any = stream if isinstance(stream, trio.SSLStream) else None
        self._tls_info: TLSInfo | None = None
        self.poisoned: bool = False
        self.bytes_written: int = 0
        self.progress_at: float = -math.inf

    def get_tls_info(self) -> TLSInfo | None:
        """Return the parameters of the TLS connection; None without TLS, and before the end of its handshake.

        They are kept from the first call on: OpenSSL forgets them when the connection fails.
        """
        if self._tls_info is None and self.tls_object is not None:
            from .tls_info import describe_tls  # needed with TLS only

            self._tls_info = describe_tls(self.tls_object)
        return self._tls_info

    # -- Reading ---------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Wait for bytes and return them, or ``b""`` at the end of the stream. When cancelled, no bytes are lost.

        Raises:
            StreamBroken: If the connection is lost.
        """
        return bytes(await self.receive_view(RECEIVE_SIZE))

    async def receive_view(self, size: int) -> bytes | memoryview:
        """Wait for bytes, as :meth:`receive` does, without copying them.

        Args:
            size: Maximum number of bytes.

        Returns:
            The bytes, or a view that is valid only until any adapter of this run of Trio reads again.

        Raises:
            StreamBroken: If the connection is lost.
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
        """Wait until a socket is readable; return at once for other streams. Only one task may wait at a time.

        Raises:
            StreamBroken: If the connection is lost.
        """
        if self._socket is not None:
            try:
                await trio.lowlevel.wait_readable(self._fileno())
            except (OSError, trio.ClosedResourceError) as exc:
                raise stream_broken(exc) from exc

    @property
    def is_socket(self) -> bool:
        """Whether the stream is a plain socket, which can be read and written without waiting."""
        return self._socket is not None

    def receive_now(self, size: int) -> memoryview | None:
        """Read from a socket without waiting.

        Args:
            size: Maximum number of bytes.

        Returns:
            A view that is valid until any adapter of this run of Trio reads again. It is empty at the end of the
            stream. None if there are no bytes yet.

        Raises:
            StreamBroken: If the connection is lost; also on every later call.
        """
        assert self._socket is not None
        if self._read_error is not None:
            raise stream_broken(self._read_error) from self._read_error
        view = self._buffer[:size]
        try:
            return view[: os.readv(self._socket.fileno(), [view])]
        except BlockingIOError:
            return None
        except OSError as exc:
            self._read_error = socket_broken(exc)
            raise stream_broken(self._read_error) from self._read_error

    def _fileno(self) -> int:
        assert self._socket is not None
        fd: int = self._socket.fileno()
        if fd < 0:  # Trio would never wake a task that waits for this number
            raise trio.ClosedResourceError("the socket is closed")
        return fd

    # -- Writing ---------------------------------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks that the stream itself needs, if any, in the nursery of its connection."""

    def raise_unsent_limit(self) -> None:
        """Raise the limit of unsent bytes of a TCP socket, which Trio sets to 16 KiB (TCP_NOTSENT_LOWAT)."""
        if self._socket is not None:
            with contextlib.suppress(AttributeError, OSError):  # not all systems have it, and not all sockets are TCP
                self._socket.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, _UNSENT_LIMIT)

    def can_write_now(self) -> bool:
        """Whether :meth:`write_now` may be called, provided that no other task is writing."""
        return self._socket is not None and not self._unwritten and not self.poisoned

    @property
    def has_unwritten(self) -> bool:
        """Whether a socket has accepted only a part of the chunks, so that the next write begins with the rest."""
        return bool(self._unwritten)

    def write_now(self, chunks: list[bytes]) -> bool:
        """Write as many bytes to a socket as it accepts without waiting. The next :meth:`write` begins with the rest.

        Never raises; the next :meth:`write` reports the error.

        Args:
            chunks: The bytes, in order. The caller must not use the list any more.

        Returns:
            Whether all bytes were written.
        """
        try:
            self._add(chunks)
            return self._write_some()
        except OSError:
            return False

    async def write(self, chunks: list[bytes], before_wait: Callable[[], object] = lambda: None) -> None:
        """Write the rest of earlier writes, and then these bytes.

        When cancelled on a socket, the next call goes on where this one stopped. When cancelled on another stream, or
        when it raises, this poisons the adapter.

        Args:
            chunks: The bytes, in order. The list is emptied, so that no written bytes stay in memory.
            before_wait: A function to call before each wait for a socket, and before each piece, of at most 64 KiB,
                that is written to another stream.

        Raises:
            StreamBroken: If the connection is lost, or the adapter is poisoned.
        """
        if self.poisoned:
            raise StreamBroken("an earlier write was not completed")
        if self._socket is not None:
            try:
                self._add(chunks)
                while self._unwritten and not self._write_some():
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
                self.bytes_written += len(piece)
                self._record_progress()
        except Exception as exc:
            raise stream_broken(exc) from exc
        self.poisoned = False

    def _add(self, chunks: list[bytes]) -> None:
        """Take chunks over, to be written after what is there."""
        self._unwritten += chunks
        chunks.clear()

    def _write_some(self) -> bool:
        """Write to the socket once. Return whether all chunks are written."""
        assert self._socket is not None
        rest = self._unwritten
        fd = self._socket.fileno()
        try:
            # Nearly all writes have one chunk, for which write() is faster than writev().
            written = os.write(fd, rest[0]) if len(rest) == 1 else os.writev(fd, rest[:_MAX_CHUNKS])
        except BlockingIOError:
            return False
        self.bytes_written += written
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = memoryview(rest[0])[written:]
        if rest:
            self._record_progress()
        return not rest

    def _record_progress(self) -> None:
        self.progress_at = trio.current_time()

    async def send_eof(self) -> bool:
        """Close the sending direction. Return whether that was possible: not every stream supports it."""
        if self.poisoned or self.has_unwritten or not isinstance(self.stream, trio.abc.HalfCloseableStream):
            return False
        self.poisoned = True
        try:
            if self._socket is not None:
                # Not stream.send_eof(): on Python 3.13, its exception would be in a reference cycle with the adapter.
                self._socket.shutdown(trio.socket.SHUT_WR)
            else:
                await self.stream.send_eof()
        except Exception:  # third-party streams may raise anything
            return False
        return True

    # -- Delivery --------------------------------------------------------------------------------------------------

    def count_undelivered(self) -> tuple[int, int]:
        """Return the number of undelivered bytes: those not acknowledged by the peer's system, and those not even sent.

        The second number is part of the first: bytes that the network or the peer's TCP window holds back. Without
        these numbers of the system, all bytes that the stream has accepted count as delivered. TLS adds its overhead.
        """
        unwritten = sum(map(len, self._unwritten))
        undelivered, unsent = count_undelivered(self._transport_socket)
        return unwritten + undelivered, unwritten + unsent

    def count_delivered_ahead(self) -> int:
        """Return a number that grows while bytes of others are delivered for which those of this stream must wait."""
        return 0

    def has_unread(self) -> bool:
        """Whether unread bytes or the end of the stream have arrived. False if the system cannot tell."""
        return has_unread(self._transport_socket)

    # -- Closing ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close a socket at once. Do nothing for other streams."""
        if self._socket is not None:
            self._socket.close()

    async def aclose(self, seconds: float) -> None:
        """Close the stream, with its own closing handshake if it has one, as TLS does.

        Cannot be cancelled, and never raises.

        Args:
            seconds: Seconds for a clean close. After that, the stream is closed forcefully.
        """
        if self._socket is not None:
            self.close()
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + seconds):
            with contextlib.suppress(Exception):  # third-party streams may raise anything
                await self.stream.aclose()
                return
        # aclose() has raised or timed out. Trio's own streams are closed even then, but third-party streams may not be.
        with trio.CancelScope(shield=True), contextlib.suppress(Exception):
            await trio.aclose_forcefully(self.stream)


def _find_transport_socket(stream: Any) -> Any:
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def _address(socket: Any, method: str) -> Any:
    try:
        return getattr(socket, method)()
    except (AttributeError, OSError):  # no socket, or it is not connected any more
        return None


def socket_broken(exc: OSError) -> trio.BrokenResourceError:
    """Return the exception that Trio's own streams raise for an error of the system."""
    # The traceback would create a reference cycle through its frames.
    error = trio.BrokenResourceError(f"socket connection broken: {exc}")
    error.__cause__ = exc.with_traceback(None)
    return error


def stream_broken(exc: Exception) -> StreamBroken:
    """Return the exception of this module. Any exception is fatal: the state of the stream is unknown afterwards."""
    return StreamBroken(str(exc) or type(exc).__name__)


def _pieces(chunks: list[bytes]) -> Iterator[_Chunk]:
    """Yield the chunks in pieces of at most 64 KiB, and empty the list on the way."""
    chunks.reverse()
    while chunks:
        batch = [chunks.pop()]
        size = len(batch[0])
        while chunks and size + len(chunks[-1]) <= BATCH:
            batch.append(chunks.pop())
            size += len(batch[-1])
        data = b"".join(batch) if len(batch) > 1 else batch[0]
        batch.clear()
        # A large chunk is sliced without copying it.
        yield from [data] if size <= BATCH else (memoryview(data)[at : at + BATCH] for at in range(0, size, BATCH))
