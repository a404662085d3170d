"""Streams that fail at a chosen position: ``FaultyStream`` and its faults."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import trio

__all__ = ["Corrupt", "Delay", "Drop", "Fault", "FaultyStream", "Reset", "Split", "Stall"]


def _number(
    *, minimum: int = 0, maximum: float = math.inf, whole: bool = True, none: bool = False
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    kind = ("a whole number" if whole else "a number") + (" or None" if none else "")
    bounds = f"at least {minimum}" if maximum == math.inf else f"between {minimum} and {maximum}"

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TypeError(f"{attribute.name} must be {kind}, not {value!r}")
        if not minimum <= value <= maximum:
            raise ValueError(f"{attribute.name} must be {bounds}, not {value!r}")

    return check


@attrs.frozen
class Fault:
    """Base class of the faults of a :class:`FaultyStream`. Use one of the subclasses.

    Attributes:
        at: The position of the fault: the number of bytes that pass before it.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.
    """

    at: int = attrs.field(validator=_number())


@attrs.frozen
class Split(Fault):
    """Split the data: the bytes after this position are sent, or received, separately."""


@attrs.frozen
class Delay(Fault):
    """Delay the bytes after this position, or the end of the stream.

    Attributes:
        seconds: The delay in seconds.
    """

    seconds: float = attrs.field(validator=_number(whole=False))


@attrs.frozen
class Drop(Fault):
    """Drop bytes, starting at this position.

    Attributes:
        count: The number of bytes; None for all bytes that follow.
    """

    count: int | None = attrs.field(default=1, validator=_number(none=True))


@attrs.frozen
class Corrupt(Fault):
    """Change the byte at this position.

    Attributes:
        bits: The mask of the bits to flip, from 1 to 255.
    """

    bits: int = attrs.field(default=0xFF, validator=_number(minimum=1, maximum=0xFF))


@attrs.frozen
class Stall(Fault):
    """Block all further data, and the end of the stream, until the stream is closed."""


@attrs.frozen
class Reset(Fault):
    """Break the connection, in both directions: all further calls raise :exc:`trio.BrokenResourceError`.

    The wrapped stream is closed, so its other end sees a closed connection.
    """


class _Direction:
    """The bytes in one direction, and the faults still to come."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        faults = list(faults)
        for fault in faults:
            if not isinstance(fault, (Split, Delay, Drop, Corrupt, Stall, Reset)):
                raise TypeError(f"each fault must be a Split, Delay, Drop, Corrupt, Stall or Reset, not {fault!r}")
        self.faults = deque(sorted(faults, key=lambda fault: fault.at))
        self.position = 0
        # Bytes that have arrived at ``position`` and have not passed yet, and whether the stream has ended after them.
        self.pending = b""
        self.ended = False
        # The position up to which bytes are dropped.
        self.lost_until = 0
        # The time at which the current delay or stall ends.
        self.resume_at: float | None = None
        self.busy = False

    def next_fault(self) -> Fault | None:
        """Drop the bytes to be dropped. Return the next fault if it is to happen now, None otherwise.

        A fault happens when its position is reached. A Corrupt needs a byte there, a Delay a byte or the end.
        """
        while True:
            self.take(max(self.lost_until - self.position, 0))
            if not self.faults or self.faults[0].at > self.position:
                return None
            fault = self.faults[0]
            if isinstance(fault, Drop):
                end = sys.maxsize if fault.count is None else fault.at + fault.count
                self.lost_until = max(self.lost_until, end)
            elif not isinstance(fault, Split):
                needs_bytes = isinstance(fault, Corrupt) or (isinstance(fault, Delay) and not self.ended)
                return None if needs_bytes and not self.pending else fault
            self.faults.popleft()

    def take(self, count: int | None = None) -> bytes:
        """Return pending bytes and let them pass, at most ``count``, up to the position of the next fault."""
        size = len(self.pending) if count is None else min(count, len(self.pending))
        if self.faults:
            size = min(size, self.faults[0].at - self.position)
        taken, self.pending = self.pending[:size], self.pending[size:]
        self.position += size
        return taken


class FaultyStream(trio.abc.Stream):
    """A stream that wraps another one and injects faults at chosen positions.

    ::

        client_end, server_end = trio.testing.memory_stream_pair()
        client_end = FaultyStream(client_end, sending=[Reset(200)], receiving=[Corrupt(131), Delay(140, seconds=5)])

    Positions are counted in bytes, from 0, separately for each direction. Dropped bytes count too. Faults at the same
    position happen in the order in which they are given. The stream is not half-closeable, even if the wrapped one is.

    Args:
        stream: The stream to wrap. This object takes ownership of it.
        sending: The faults of the sending direction.
        receiving: The faults of the receiving direction.

    Attributes:
        stream: The wrapped stream.

    Raises:
        TypeError: If an item is not a fault.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, sending: Iterable[Fault] = (), receiving: Iterable[Fault] = ()
    ) -> None:
        self.stream: trio.abc.Stream = stream
        self._sending = _Direction(sending)
        self._receiving = _Direction(receiving)
        self._was_reset = False
        self._was_closed = False
        # Set when the stream is reset or closed.
        self._ended = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, subject to the faults.

        Raises:
            trio.BrokenResourceError: If the connection is lost or was reset.
            trio.ClosedResourceError: If the stream is closed.
            trio.BusyResourceError: If another task is sending.
        """
        await trio.lowlevel.checkpoint()
        direction = self._sending
        with self._reserve(direction):
            direction.pending = bytes(data)
            while direction.pending:
                await self._apply_faults(direction)
                passing = direction.take()
                if passing:
                    await self.stream.send_all(passing)
            if isinstance(direction.next_fault(), Reset):
                # Everything was sent, so this call succeeds. All later calls fail.
                await self._reset()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the wrapped stream may accept more bytes.

        Raises:
            Exception: The same exceptions as :meth:`send_all`.
        """
        with self._reserve(self._sending):
            await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes, subject to the faults. No bytes are lost if this is cancelled.

        Args:
            max_bytes: The maximum number of bytes; None for as many as the wrapped stream returns.

        Returns:
            The bytes; ``b""`` at the end of the stream.

        Raises:
            trio.BrokenResourceError: If the connection is lost or was reset.
            trio.ClosedResourceError: If the stream is closed.
            trio.BusyResourceError: If another task is receiving.
            ValueError: If ``max_bytes`` is less than 1.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        await trio.lowlevel.checkpoint()
        direction = self._receiving
        with self._reserve(direction):
            while True:
                await self._apply_faults(direction)
                if direction.pending or direction.ended:
                    return direction.take(max_bytes)
                direction.pending = bytes(await self.stream.receive_some(max_bytes))
                direction.ended = not direction.pending

    async def aclose(self) -> None:
        """Close this stream and the wrapped one."""
        self._was_closed = True
        self._ended.set()
        await self.stream.aclose()

    async def _apply_faults(self, direction: _Direction) -> None:
        """Apply the faults at the current position, and wait for delays."""
        while (fault := direction.next_fault()) is not None:
            if isinstance(fault, Corrupt):
                direction.pending = bytes([direction.pending[0] ^ fault.bits]) + direction.pending[1:]
            elif isinstance(fault, Reset):
                await self._reset()
                raise self._make_error()
            else:
                # If this is cancelled, the next call waits only for the rest of the delay.
                if direction.resume_at is None:
                    seconds = fault.seconds if isinstance(fault, Delay) else math.inf
                    direction.resume_at = trio.current_time() + seconds
                with trio.move_on_at(direction.resume_at):
                    await self._ended.wait()
                if self._ended.is_set():
                    raise self._make_error()
                direction.resume_at = None
            direction.faults.popleft()

    async def _reset(self) -> None:
        self._was_reset = True
        self._ended.set()
        await trio.aclose_forcefully(self.stream)

    @contextlib.contextmanager
    def _reserve(self, direction: _Direction) -> Iterator[None]:
        """Reserve a direction for one task. Raise the right error if the stream has been reset or closed."""
        if self._ended.is_set():
            raise self._make_error()
        if direction.busy:
            raise trio.BusyResourceError("another task is using this stream")
        direction.busy = True
        try:
            yield
        except trio.ClosedResourceError:
            raise self._make_error() from None
        finally:
            direction.busy = False

    def _make_error(self) -> Exception:
        if self._was_reset and not self._was_closed:
            return trio.BrokenResourceError("this stream was reset by a Reset fault")
        return trio.ClosedResourceError("this stream was closed")
