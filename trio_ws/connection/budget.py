"""Bounds for the two queues of a connection: a budget of bytes, and a fair lock.

The queues are Trio memory channels, which count items. A :class:`Budget` beside each of them counts bytes; a
:class:`FairLock` keeps the parts of one message together and serves waiting tasks in order of arrival.

Both rely on two facts about Trio. Nothing else runs between two checkpoints, so every method here that is not ``async``
is atomic. And a task that has been woken can no longer be cancelled out of that wait, so a lock that was handed to it
is not lost.
"""

from __future__ import annotations

from typing import Literal

import trio

__all__ = ["Budget", "FairLock"]


class Budget:
    """The memory limit of a queue. An empty queue accepts one item of any size.

    Args:
        limit: Maximum memory use, in bytes.

    Attributes:
        used: Memory in use, in bytes.
    """

    def __init__(self, limit: int) -> None:
        # Created by the first task that waits. Most connections never need it.
        self._waiters: trio.lowlevel.ParkingLot | None = None
        self.limit: int = limit
        self.used: int = 0

    def fits(self, size: int) -> bool:
        """Whether there is room for an item of this size."""
        return not self.used or self.used + size <= self.limit

    def release(self, size: int) -> None:
        """Release the memory of an item, and wake all waiters."""
        self.used -= size
        self.wake()

    async def wait(self) -> None:
        """Wait for :meth:`release` or :meth:`wake`. The caller must check its condition again."""
        if self._waiters is None:
            self._waiters = trio.lowlevel.ParkingLot()
        await self._waiters.park()

    def wake(self) -> None:
        """Wake all waiters."""
        waiters, self._waiters = self._waiters, None
        if waiters is not None:
            waiters.unpark_all()


class FairLock:
    """A lock that serves waiting tasks in order of arrival. A closed lock cannot be acquired any more.

    Attributes:
        owner: The task that holds the lock; True if :meth:`acquire_nowait` took it; None if it is free.
    """

    def __init__(self) -> None:
        # Created by the first task that waits.
        self._waiters: trio.lowlevel.ParkingLot | None = None
        self._closed = False
        self.owner: trio.lowlevel.Task | Literal[True] | None = None

    def acquire_nowait(self) -> bool:
        """Acquire the lock if it is free. Return whether it was acquired.

        The calling task is not recorded, so it must release the lock before its call returns.
        """
        if self.owner is not None or self._closed:
            return False
        self.owner = True
        return True

    async def acquire(self, block: str) -> bool:
        """Wait for the lock and acquire it. When cancelled, the lock is not acquired.

        Args:
            block: The call whose ``async with`` block holds the lock, for the error message.

        Returns:
            True if the lock was acquired, so that :meth:`release` must follow; False if it is closed.

        Raises:
            RuntimeError: If this task already holds the lock.
        """
        task = trio.lowlevel.current_task()
        if self.owner is task:
            raise RuntimeError(f"this task must first leave its {block} block of the same WebSocket")
        if self.owner is None and not self._closed:
            self.owner = task
        elif not self._closed:
            if self._waiters is None:
                self._waiters = trio.lowlevel.ParkingLot()
            await self._waiters.park()
        return self.owner is task

    def release(self) -> None:
        """Release the lock, and hand it to the task that has waited longest."""
        woken = [] if self._waiters is None else self._waiters.unpark()
        self.owner = woken[0] if woken else None
        if not woken:
            self._waiters = None

    def close(self) -> None:
        """Make every :meth:`acquire` return False, including those that are waiting. The owner keeps the lock."""
        self._closed = True
        if self._waiters is not None:
            self._waiters.unpark_all()
