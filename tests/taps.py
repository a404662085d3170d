"""Taps on real sockets: they record the system calls that a connection makes on its socket, and can let them go wrong.

On a plain socket a connection calls ``os.readv``, ``os.write`` and ``os.writev`` itself, in
:mod:`trio_ws.connection.stream`. :func:`tapping` replaces the module ``os`` there. A call on a socket with a
:class:`Tap` does what it would do anyway, except that it may pass fewer bytes, or fail. So a fault can be put at every
byte of what this end reads and writes, while the other end of the socket remains real.

Faults are those of :mod:`trio_ws.testing` that a system call can have (``Split`` and ``Reset``), and two more.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

import attrs
import pytest
import trio

from trio_ws.connection import stream as module
from trio_ws.testing import Fault, Reset, Split

sockets_only = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX") or not hasattr(os, "writev"), reason="there are no such sockets"
)


@attrs.frozen
class TryAgain(Fault):
    """The call at this place fails once with EAGAIN, though the socket is ready."""


@attrs.frozen
class BrokenPipe(Fault):
    """Writing fails with EPIPE from this place on, and nothing else happens: the other end can still be read."""


class _Direction:
    """The bytes that have passed in one direction, and the faults that are still to come.

    Attributes:
        position: How many bytes have passed.
        most: How many bytes pass in one call at most.
        faults: The faults, in the order of their places.
    """

    def __init__(self) -> None:
        self.position = 0
        self.most: float = inf
        self.faults: deque[Fault] = deque()

    def due(self) -> Fault | None:
        """Take the fault whose place has been reached, if there is one."""
        while self.faults and self.faults[0].at <= self.position:
            fault = self.faults.popleft()
            if not isinstance(fault, Split):
                return fault
        return None

    def limit(self, size: int) -> int:
        """Return how many of so many bytes may pass before something happens."""
        left = self.faults[0].at - self.position if self.faults else size
        return int(min(size, left, self.most))


class Tap:
    """Records what passes one socket, and lets calls fail.

    Args:
        stream: The stream of the socket.

    Attributes:
        stream: The same.
        writing: The direction in which this end writes. Faults can be added to it.
        reading: The direction in which this end reads.
        log: All that was written.
        write_began: Where the last write began in it, the calls that go on with its rest included.
        was_full: Whether there was ever a time at which a write had to wait.
        write_failed: Whether a write has failed.
        ended_at: When reading has ended or failed.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.writing = _Direction()
        self.reading = _Direction()
        self.log = bytearray()
        self.write_began = 0
        self.was_full = False
        self.write_failed = False
        self.ended_at = inf
        self._was_reset = False
        self._unfinished = False

    @property
    def outer(self) -> trio.SocketStream:
        """The stream that this end uses."""
        return self.stream

    @property
    def sent(self) -> int:
        """How many bytes this end has written."""
        return self.writing.position

    @property
    def received(self) -> int:
        """How many bytes this end has read."""
        return self.reading.position

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self.stream.socket.fileno() < 0

    @property
    def has_room(self) -> bool:
        """Whether the system says that something can be written. It may not, though it would take a little more."""
        return not self.closed and is_ready(self.stream.socket.fileno(), select.POLLOUT)

    def reset(self) -> None:
        """Let all calls fail from now on, as after a reset. It does not wake anybody."""
        self._was_reset = True

    # -- The system calls ----------------------------------------------------------------------------------------------

    def readv(self, buffers: Sequence[memoryview]) -> int:
        (buffer,) = buffers
        try:
            self._suffer(self.reading)
            size = os.readv(self.stream.socket.fileno(), [buffer[: self.reading.limit(len(buffer))]])
        except BlockingIOError:
            raise
        except OSError:
            self._note_end()
            raise
        if not size:
            self._note_end()
        self._pass(self.reading, size)
        return size

    def write(self, data: bytes | memoryview) -> int:
        return self._write([data], vectored=False)

    def writev(self, chunks: Sequence[bytes | memoryview]) -> int:
        return self._write(chunks, vectored=True)

    def _write(self, chunks: Sequence[bytes | memoryview], *, vectored: bool) -> int:
        if not self._unfinished:
            self.write_began = len(self.log)
        self._unfinished = True
        data = b"".join(chunks)
        assert data, "nothing to write"
        try:
            self._suffer(self.writing)
            limit = self.writing.limit(len(data))
            size = self._call(chunks, limit, vectored)
        except BlockingIOError:
            raise
        except OSError:
            self.write_failed = True
            raise
        self.was_full = self.was_full or size < limit or not self.has_room
        self.log += data[:size]
        # After as many chunks as one call takes, there may be more.
        self._unfinished = size < len(data) or len(chunks) >= module._MAX_CHUNKS
        self._pass(self.writing, size)
        return size

    def _call(self, chunks: Sequence[bytes | memoryview], limit: int, vectored: bool) -> int:
        fd = self.stream.socket.fileno()
        cut = []
        left = limit
        for chunk in chunks:
            cut.append(memoryview(chunk)[:left])
            left -= len(cut[-1])
        try:
            return os.writev(fd, cut) if vectored else os.write(fd, cut[0])
        except BlockingIOError:
            self.was_full = True
            raise

    # -- Faults --------------------------------------------------------------------------------------------------------

    def _suffer(self, direction: _Direction) -> None:
        """Fail, if that is what is to happen here."""
        if not self._was_reset:
            fault = direction.due()
            if isinstance(fault, TryAgain):
                raise BlockingIOError(errno.EAGAIN, "try again")
            if isinstance(fault, BrokenPipe):
                direction.faults.appendleft(fault)
                raise BrokenPipeError(errno.EPIPE, "broken pipe")
            if isinstance(fault, Reset):
                self._break()
        if self._was_reset:
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    def _pass(self, direction: _Direction, size: int) -> None:
        direction.position += size
        if direction.faults and isinstance(direction.faults[0], Reset) and direction.faults[0].at == direction.position:
            # This has passed, and the next thing that is known of the connection is that it is gone.
            self._break()

    def _break(self) -> None:
        """Let both ends see that the connection is gone, also those who wait."""
        self._was_reset = True
        # By way of another object: that of Trio would remember it.
        with socket.socket(fileno=os.dup(self.stream.socket.fileno())) as same, suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)

    def _note_end(self) -> None:
        self.ended_at = min(self.ended_at, trio.current_time())


class Taps:
    """The module ``os``, with taps on some sockets."""

    def __init__(self) -> None:
        self._taps: dict[int, Tap] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def add(self, stream: trio.SocketStream) -> Tap:
        """Put a tap on a socket, for as long as it is open."""
        tap = self._taps[stream.socket.fileno()] = Tap(stream)
        return tap

    def readv(self, fd: int, buffers: Sequence[memoryview]) -> int:
        tap = self._find(fd)
        return os.readv(fd, buffers) if tap is None else tap.readv(buffers)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        tap = self._find(fd)
        return os.write(fd, data) if tap is None else tap.write(data)

    def writev(self, fd: int, chunks: Sequence[bytes | memoryview]) -> int:
        tap = self._find(fd)
        return os.writev(fd, chunks) if tap is None else tap.writev(chunks)

    def _find(self, fd: int) -> Tap | None:
        tap = self._taps.get(fd)
        if tap is not None and tap.closed:  # and now the number is that of another file
            del self._taps[fd]
            return None
        return tap


def is_ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return any(ready & event for _, ready in poll.poll(0))


@contextmanager
def tapping() -> Iterator[Taps]:
    """Let taps be put on sockets."""
    taps = Taps()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "os", taps)
        yield taps
