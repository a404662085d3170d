"""The Trio stream below a connection.

A :class:`Transport` gives any :class:`trio.abc.Stream` some properties that the layers above rely on:

* Whatever goes wrong below comes out as one exception, :exc:`StreamBroken`, with the cause attached.
* A write that failed or was cancelled poisons it, because nobody knows how much of the write the peer has got: all
  later writes raise. So half a frame can only be the last thing that a peer sees.
* Where there is a socket, it can be read and written without waiting. What the system does not take goes out first with
  the next write.
* What is small is written at once with what surrounds it; what is large is not copied for that. What has been written
  is not kept.
* It always closes, cleanly if that is possible within the time given.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeAlias

import trio

from .per_run import PerRun

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["StreamBroken", "Transport", "explain", "explain_addresses", "start_tls"]

#: As much is put together to be written at once. Up to here a copy costs less than a system call.
_BATCH = 64 * 1024

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
_receive_buffer = PerRun(lambda: memoryview(bytearray(MAX_RECEIVE_SIZE)))


class StreamBroken(Exception):
    """The stream cannot be used any more. The ``__cause__`` says why. It never leaves this package."""


class Transport:
    """A stream, as a connection wants it.

    Args:
        stream: The stream. From now on it belongs to the transport.

    Attributes:
        poisoned: Whether a write has failed or was cancelled.
    """

    __slots__ = ("_buffer", "_lost", "_rest", "_socket", "_stream", "poisoned")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) and hasattr(os, "writev") else None
        # Where what is received comes in.
        self._buffer = _receive_buffer.get() if self._socket is not None else memoryview(b"")
        # What was not taken by the system when it was written without waiting.
        self._rest: list[_Chunk] = []
        # What reading has ended with. The system says it only once.
        self._lost: StreamBroken | None = None
        self.poisoned: bool = False

    # -- Reading ---------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Return what has arrived, or ``b""`` when nothing more will.

        When cancelled, nothing is lost.

        Raises:
            StreamBroken: if the connection is lost.
        """
        return bytes(await self.receive_view(RECEIVE_SIZE))

    async def receive_view(self, size: int) -> bytes | memoryview:
        """Do what :meth:`receive` does, but what is returned may be good only until the next ``await``.

        Args:
            size: How many bytes at most.
        """
        if self._socket is None:
            try:
                data = await self._stream.receive_some(size)
            except Exception as exc:
                raise _broken(exc) from exc
            return bytes(data)
        while True:
            await self.wait_until_readable()
            received = self.receive_now(size)
            if received is not None:
                return received

    @property
    def is_socket(self) -> bool:
        """Whether it can be read and written without waiting."""
        return self._socket is not None

    @property
    def is_tls(self) -> bool:
        """Whether it is TLS, if it is Trio's."""
        return isinstance(self._stream, trio.SSLStream)

    async def wait_until_readable(self) -> None:
        """Wait until :meth:`receive_now` has something to return, on a socket. Only one task may do so.

        Raises:
            StreamBroken: if the connection is lost.
        """
        assert self._socket is not None
        if self._socket.fileno() < 0:
            # Trio would keep our task for good under this number.
            exc = trio.ClosedResourceError("the socket is closed")
            raise _broken(exc) from exc
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except (OSError, trio.ClosedResourceError) as exc:
            raise _broken(exc) from exc

    def receive_now(self, size: int) -> memoryview | None:
        """Return what has arrived at a socket, nothing when nothing more will, or None if there is nothing now.

        What is returned is good until something is received by any transport.

        Args:
            size: How many bytes at most.

        Raises:
            StreamBroken: if the connection is lost, every time.
        """
        assert self._socket is not None
        if self._lost is not None:
            raise self._lost
        view = self._buffer[:size]
        try:
            return view[: os.readv(self._socket.fileno(), [view])]
        except BlockingIOError:
            return None
        except OSError as exc:
            # As it comes from Trio's own streams.
            error = trio.BrokenResourceError(f"socket connection broken: {exc}")
            error.__cause__ = exc
            self._lost = _broken(error)
            raise self._lost from error

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
        """Write as much as takes no waiting. The rest is kept, and goes first with the next :meth:`send`.

        Never raises: what is wrong comes out of the next :meth:`send`.

        Args:
            chunks: Bytes, in order. They are taken out of the list.

        Returns:
            Whether everything is written.
        """
        assert self._socket is not None
        try:
            fd = self._socket.fileno()
            # One is what nearly all writes have, and takes the system less time in this way.
            written = os.write(fd, chunks[0]) if len(chunks) == 1 else os.writev(fd, chunks[:_MAX_CHUNKS])
        except OSError:  # it takes nothing now, or never again
            written = 0
        while chunks and written >= len(chunks[0]):
            written -= len(chunks.pop(0))
        if not chunks:
            return True
        self._rest = [memoryview(chunks[0])[written:], *chunks[1:]]
        chunks.clear()
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
        rest, self._rest = self._rest, []
        try:
            for data in chain(_batches(rest), _batches(chunks)):
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

    def close(self) -> None:
        """Close a socket. That takes no time."""
        assert self._socket is not None
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
                await self._stream.aclose()
                return
        # It raised, or did not come to an end. Streams of Trio are closed by now; this is for those of others.
        with trio.CancelScope(shield=True), contextlib.suppress(Exception):
            await trio.aclose_forcefully(self._stream)

    # -- Addresses -------------------------------------------------------------------------------------------------

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


async def start_tls(stream: trio.abc.Stream, context: ssl.SSLContext, name: str) -> trio.SSLStream[trio.abc.Stream]:
    """Do the handshake of TLS, as a client. If it fails, or is cancelled, the stream is closed.

    Args:
        stream: The stream; also one with TLS.
        context: How to do it.
        name: The name that the certificate is checked against.

    Returns:
        The stream inside TLS.

    Raises:
        StreamBroken: if it fails.
    """
    try:
        # An end without the goodbye of TLS cannot deceive us: frames and the closing handshake tell whether all has
        # come.
        tls = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
        await tls.do_handshake()
    except trio.BrokenResourceError as exc:
        await Transport(stream).aclose(0)
        cause = exc.__cause__ or exc
        raise StreamBroken(f"TLS: {explain(cause)}") from cause
    except BaseException:  # cancellation too: the stream is not left open
        await Transport(stream).aclose(0)
        raise
    return tls


def explain(exc: BaseException) -> str:
    """Say in one line what went wrong. What is outermost often says only that something did."""
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(explain(each) for each in exc.exceptions))
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {exc.verify_message}"
    if exc.__cause__ is not None:
        return explain(exc.__cause__)
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


async def explain_addresses(exc: OSError, host: str, port: int) -> str:
    """Say for each address of a host why it could not be connected to.

    The errors do not all tell where they are from. So the addresses are looked up once more.
    """
    errors = [each for each in _leaves(exc) if isinstance(each, OSError) and each.errno is not None]
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except OSError:
        found = []
    addresses = {address[0]: address for *_, address in found if address[0] != host}
    if not addresses:
        return explain(exc)
    # Trio's own errors show the address as Python does; those that the system has at once are of the others.
    named = {
        name: [each for each in errors if each.strerror is not None and repr(address) in each.strerror]
        for name, address in addresses.items()
    }
    others = [each for each in errors if not any(each in found for found in named.values())]
    reasons = {name: _strerrors(found or others) for name, found in named.items()}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or explain(exc)


def _leaves(exc: BaseException) -> list[BaseException]:
    """Return what an error is made of."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for each in exc.exceptions for leaf in _leaves(each)]
    return [exc] if exc.__cause__ is None else _leaves(exc.__cause__)


def _strerrors(errors: list[OSError]) -> str:
    return " or ".join(dict.fromkeys(os.strerror(each.errno) for each in errors if each.errno is not None))


def _broken(exc: Exception) -> StreamBroken:
    # Any exception: a stream may be of anybody's making, and after it has raised there is no telling its state.
    return StreamBroken(str(exc) or type(exc).__name__)


def _batches(chunks: list[bytes] | list[_Chunk]) -> Iterator[_Chunk]:
    """Yield what to write at a time, and keep no more of it than that."""
    chunks.reverse()
    while chunks:
        data = chunks.pop()
        size = len(data)
        if chunks and size + len(chunks[-1]) <= _BATCH:
            batch = [data]
            while chunks and size + len(chunks[-1]) <= _BATCH:
                batch.append(chunks.pop())
                size += len(batch[-1])
            data = b"".join(batch)
            batch.clear()
        # One that is alone is not copied.
        yield data
