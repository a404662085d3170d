"""Streams that fail at a chosen place: ``FaultyStream``, and the faults that it can have."""

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
    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TypeError(f"{attribute.name} is a {'whole ' if whole else ''}number, not {value!r}")
        if not minimum <= value <= maximum:
            raise ValueError(f"{attribute.name} is from {minimum} to {maximum}, not {value!r}")

    return check


@attrs.frozen
class Fault:
    """What goes wrong in one direction of a :class:`FaultyStream`. Use one of the kinds there are.

    Attributes:
        at: Where: how many bytes have passed before.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if it is out of range.
    """

    at: int = attrs.field(validator=_number())


@attrs.frozen
class Split(Fault):
    """What comes after this place is sent, or received, separately."""


@attrs.frozen
class Delay(Fault):
    """What comes after this place comes later, be it bytes or the end of the stream.

    Attributes:
        seconds: How much later.
    """

    seconds: float = attrs.field(validator=_number(whole=False))


@attrs.frozen
class Drop(Fault):
    """Bytes are lost, from this place on.

    Attributes:
        count: How many; None for all that follow.
    """

    count: int | None = attrs.field(default=1, validator=_number(none=True))


@attrs.frozen
class Corrupt(Fault):
    """The byte at this place becomes another one.

    Attributes:
        bits: Those of its bits that change, as a mask: 1 to 255.
    """

    bits: int = attrs.field(default=0xFF, validator=_number(minimum=1, maximum=0xFF))


@attrs.frozen
class Stall(Fault):
    """Nothing more passes, not even the end of the stream, until the stream is closed."""


@attrs.frozen
class Reset(Fault):
    """The connection breaks, in both directions: from now on there is a :exc:`trio.BrokenResourceError`.

    The stream below is closed, and that is what its other end sees.
    """


class _Direction:
    """The bytes in one direction, and what is still to happen to them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        faults = list(faults)
        for fault in faults:
            if not isinstance(fault, (Split, Delay, Drop, Corrupt, Stall, Reset)):
                raise TypeError(f"{fault!r} is none of the faults that there are")
        self.faults = deque(sorted(faults, key=lambda fault: fault.at))
        self.position = 0
        #: What has come as far as ``position``, and whether nothing comes after it.
        self.pending = b""
        self.ended = False
        #: As far as which place bytes are lost.
        self.lost_until = 0
        #: When the delay ends that has begun.
        self.resume_at: float | None = None
        self.busy = False

    def due(self) -> Fault | None:
        """Lose what is to be lost. Return the next fault if its place has been reached, and it has what it takes."""
        while True:
            self.take(max(self.lost_until - self.position, 0))
            if not self.faults or self.faults[0].at > self.position:
                return None
            fault = self.faults[0]
            if isinstance(fault, Drop):
                end = sys.maxsize if fault.count is None else fault.at + fault.count
                self.lost_until = max(self.lost_until, end)
            elif not isinstance(fault, Split):
                waits = isinstance(fault, Corrupt) or (isinstance(fault, Delay) and not self.ended)
                return None if waits and not self.pending else fault
            self.faults.popleft()

    def take(self, count: int | None = None) -> bytes:
        """Let bytes pass, all or so many of them, but only as far as something happens."""
        size = len(self.pending) if count is None else min(count, len(self.pending))
        if self.faults:
            size = min(size, self.faults[0].at - self.position)
        taken, self.pending = self.pending[:size], self.pending[size:]
        self.position += size
        return taken


class FaultyStream(trio.abc.Stream):
    """A stream around another one, on which things go wrong where they are told to.

    ::

        client_end, server_end = trio.testing.memory_stream_pair()
        client_end = FaultyStream(client_end, sending=[Reset(200)], receiving=[Corrupt(131), Delay(140, seconds=5)])

    Places are counted in bytes, from 0, in each direction by itself; those that are lost count too. At one place there
    can be several faults: they happen in the order in which they are given. It is not half-closeable, whatever the
    stream below is.

    Args:
        stream: The stream below. From now on it belongs to this one.
        sending: What happens to what is sent.
        receiving: What happens to what is received.

    Raises:
        TypeError: if one of these is no fault.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, sending: Iterable[Fault] = (), receiving: Iterable[Fault] = ()
    ) -> None:
        self.stream: trio.abc.Stream = stream
        self._sending = _Direction(sending)
        self._receiving = _Direction(receiving)
        self._was_reset = False
        self._was_closed = False
        # Set by either.
        self._over = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, as far as nothing happens to them.

        Raises:
            trio.BrokenResourceError: if the connection is lost, or was reset.
            trio.ClosedResourceError: if the stream is closed.
            trio.BusyResourceError: if another task is sending.
        """
        await trio.lowlevel.checkpoint()
        direction = self._sending
        with self._using(direction):
            direction.pending = bytes(data)
            while direction.pending:
                await self._suffer(direction)
                passing = direction.take()
                if passing:
                    await self.stream.send_all(passing)
            if isinstance(direction.due(), Reset):
                # This has been sent, and the next thing that is known of the connection is that it is gone.
                await self._reset()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream below may take more.

        Raises:
            Exception: as :meth:`send_all` does.
        """
        with self._using(self._sending):
            await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes, as far as nothing happens to them. When cancelled, nothing is lost.

        Args:
            max_bytes: How many at most. None: as many as the stream below has.

        Returns:
            The bytes; none at the end of the stream.

        Raises:
            trio.BrokenResourceError: if the connection is lost, or was reset.
            trio.ClosedResourceError: if the stream is closed.
            trio.BusyResourceError: if another task is receiving.
            ValueError: if ``max_bytes`` is less than 1.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1, not {max_bytes}")
        await trio.lowlevel.checkpoint()
        direction = self._receiving
        with self._using(direction):
            while True:
                await self._suffer(direction)
                if direction.pending or direction.ended:
                    return direction.take(max_bytes)
                direction.pending = bytes(await self.stream.receive_some(max_bytes))
                direction.ended = not direction.pending

    async def aclose(self) -> None:
        """Close both streams."""
        self._was_closed = True
        self._over.set()
        await self.stream.aclose()

    async def _suffer(self, direction: _Direction) -> None:
        """Let happen what is to happen here."""
        while (fault := direction.due()) is not None:
            if isinstance(fault, Corrupt):
                direction.pending = bytes([direction.pending[0] ^ fault.bits]) + direction.pending[1:]
            elif isinstance(fault, Reset):
                await self._reset()
                raise self._gone()
            else:
                # When it is cancelled, the time that has passed counts in the next call.
                if direction.resume_at is None:
                    seconds = fault.seconds if isinstance(fault, Delay) else math.inf
                    direction.resume_at = trio.current_time() + seconds
                with trio.move_on_at(direction.resume_at):
                    await self._over.wait()
                if self._over.is_set():
                    raise self._gone()
                direction.resume_at = None
            direction.faults.popleft()

    async def _reset(self) -> None:
        self._was_reset = True
        self._over.set()
        await trio.aclose_forcefully(self.stream)

    @contextlib.contextmanager
    def _using(self, direction: _Direction) -> Iterator[None]:
        """One task at a time uses a direction; and all get to know why it is over, whatever the stream below says."""
        if self._over.is_set():
            raise self._gone()
        if direction.busy:
            raise trio.BusyResourceError("another task is using this stream")
        direction.busy = True
        try:
            yield
        except trio.ClosedResourceError:
            raise self._gone() from None
        finally:
            direction.busy = False

    def _gone(self) -> Exception:
        if self._was_reset and not self._was_closed:
            return trio.BrokenResourceError("the test has reset this stream")
        return trio.ClosedResourceError("this stream was closed")
