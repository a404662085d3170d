"""The bounds of the two queues of a connection: bytes of memory, and one user at a time.

The queues are Trio's memory channels, which count items. A :class:`Budget` counts bytes beside each of them; a
:class:`FairLock` keeps what belongs to one message together, and those who wait in order.

Both rely on two facts about Trio. Code between two ``await`` runs undisturbed, so what is not marked ``async`` here is
atomic. And a task that was woken can no longer be cancelled out of the wait that it was woken from, so what was handed
over with the waking is not lost.
"""

from __future__ import annotations

from typing import Literal

import trio

__all__ = ["Budget", "FairLock"]


class Budget:
    """Bytes of memory that a queue may use. Where nothing is used, one item of any size fits.

    Args:
        limit: How many bytes.

    Attributes:
        used: How many are in use.
    """

    def __init__(self, limit: int) -> None:
        # It is there while somebody may be waiting: for most connections never.
        self._changed: trio.lowlevel.ParkingLot | None = None
        self.limit: int = limit
        self.used: int = 0

    def fits(self, size: int) -> bool:
        """Whether an item of this size may be added."""
        return not self.used or self.used + size <= self.limit

    def give_back(self, size: int) -> None:
        """Return the memory of an item."""
        self.used -= size
        self.wake()

    async def wait(self) -> None:
        """Wait until something was given back, or :meth:`wake` was called. The waiter has to look again."""
        if self._changed is None:
            self._changed = trio.lowlevel.ParkingLot()
        await self._changed.park()

    def wake(self) -> None:
        """Let those who wait look again."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.unpark_all()


class FairLock:
    """A lock that goes to those who wait in the order in which they came, and to nobody once it is closed.

    Attributes:
        owner: The task that holds it; True if it is held by a call that is not named; or None.
    """

    def __init__(self) -> None:
        # It is there while somebody may be waiting.
        self._line: trio.lowlevel.ParkingLot | None = None
        self._closed = False
        self.owner: trio.lowlevel.Task | Literal[True] | None = None

    def acquire_nowait(self) -> bool:
        """Take it if it is free, for a call that ends before its task can ask again. Return whether it is ours."""
        if self.owner is not None or self._closed:
            return False
        self.owner = True
        return True

    async def acquire(self, doing: str) -> bool:
        """Wait until it is ours. When cancelled, it is not.

        Args:
            doing: How a task has got it that cannot get it again, for the error message.

        Returns:
            Whether it is ours, so that :meth:`release` must follow; False if it is closed.

        Raises:
            RuntimeError: if this task holds it already.
        """
        task = trio.lowlevel.current_task()
        if self.owner is task:
            raise RuntimeError(f"this task is in the middle of a {doing} on the same WebSocket")
        if self.owner is None and not self._closed:
            self.owner = task
        elif not self._closed:
            if self._line is None:
                self._line = trio.lowlevel.ParkingLot()
            await self._line.park()
        return self.owner is task

    def release(self) -> None:
        """Hand it on to the next in line."""
        woken = [] if self._line is None else self._line.unpark()
        self.owner = woken[0] if woken else None
        if not woken:
            self._line = None

    def close(self) -> None:
        """Turn away those who wait and all who come. Whoever holds it goes on."""
        self._closed = True
        if self._line is not None:
            self._line.unpark_all()
