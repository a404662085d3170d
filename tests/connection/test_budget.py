"""Tests of the budget in bytes, and of the fair lock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ws.connection.budget import Budget, FairLock

from ..support import Task

settle = wait_all_tasks_blocked


# -- Budget ----------------------------------------------------------------------------------------------------------


async def test_what_fits() -> None:
    budget = Budget(10)
    assert budget.fits(10)
    budget.used = 4
    assert budget.fits(6)
    assert not budget.fits(7)


@pytest.mark.parametrize("limit", [0, 10])
async def test_an_empty_queue_accepts_any_size(limit: int) -> None:
    budget = Budget(limit)
    assert budget.fits(10**9)
    budget.used = 10**9
    assert not budget.fits(0)
    budget.release(10**9)
    assert budget.fits(10**9)


async def test_releasing_memory_wakes_all_waiters(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    budget.used = 10
    tasks = [Task(nursery, budget.wait) for _ in range(3)]
    await settle()
    assert not any(task.done for task in tasks)
    budget.release(1)
    assert budget.used == 9
    await settle()
    assert all(task.done for task in tasks)


async def test_waking_does_not_affect_later_waits(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    budget.wake()
    task = Task(nursery, budget.wait)
    await settle()
    assert not task.done
    budget.wake()
    await settle()
    assert task.done


async def test_a_waiter_can_wait_again(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    for _ in range(3):
        task = Task(nursery, budget.wait)
        await settle()
        assert not task.done
        budget.wake()
        await settle()
        assert task.done


async def test_cancelled_in_a_wait(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    gives_up, stays = Task(nursery, budget.wait), Task(nursery, budget.wait)
    await settle()
    gives_up.scope.cancel()
    await settle()
    assert (gives_up.done, stays.done) == (False, False)
    budget.wake()
    await settle()
    assert (gives_up.done, stays.done) == (False, True)


async def test_cancelled_when_it_is_woken(nursery: trio.Nursery) -> None:
    budget = Budget(10)
    task = Task(nursery, budget.wait)
    await settle()
    budget.wake()
    task.scope.cancel()
    await settle()
    assert task.done


# -- Lock ------------------------------------------------------------------------------------------------------------


class User:
    """A task that wants the lock."""

    def __init__(self, nursery: trio.Nursery, lock: FairLock) -> None:
        self.has_it = False
        self.let_go = trio.Event()
        self._lock = lock
        self.task = Task(nursery, self._run)

    async def _run(self) -> bool:
        if not await self._lock.acquire("test"):
            return False
        self.has_it = True
        try:
            await self.let_go.wait()
        finally:
            self.has_it = False
            self._lock.release()
        return True


async def users(nursery: trio.Nursery, lock: FairLock, count: int) -> list[User]:
    """Return users that arrived one after the other."""
    made = []
    for _ in range(count):
        made.append(User(nursery, lock))
        await settle()
    return made


def holders(waiting: list[User]) -> list[int]:
    return [index for index, user in enumerate(waiting) if user.has_it]


async def test_first_come_first_served(nursery: trio.Nursery) -> None:
    lock = FairLock()
    line = await users(nursery, lock, 5)
    for index, user in enumerate(line):
        assert holders(line) == [index]
        assert lock.owner is not None
        user.let_go.set()
        await settle()
    assert lock.owner is None
    assert [user.task.result for user in line] == [True] * 5


async def test_release_hands_the_lock_to_the_next_task(nursery: trio.Nursery) -> None:
    lock = FairLock()
    assert await lock.acquire("test")
    (waits,) = await users(nursery, lock, 1)
    lock.release()
    # The task has not run yet, but holds the lock already.
    late = User(nursery, lock)
    await settle()
    assert (waits.has_it, late.has_it) == (True, False)


async def test_the_lock_can_be_acquired_again() -> None:
    lock = FairLock()
    for _ in range(3):
        assert await lock.acquire("test")
        lock.release()


async def test_acquiring_the_lock_twice_in_one_task() -> None:
    lock = FairLock()
    assert await lock.acquire("test")
    with pytest.raises(RuntimeError, match="must first leave its something block of the same WebSocket"):
        await lock.acquire("something")
    lock.release()
    assert await lock.acquire("something")


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_cancelled_while_waiting_for_the_lock(who: int, nursery: trio.Nursery) -> None:
    lock = FairLock()
    assert await lock.acquire("test")
    line = await users(nursery, lock, 3)
    line[who].task.scope.cancel()
    await settle()
    assert not line[who].task.done
    lock.release()
    for index in {0, 1, 2} - {who}:
        await settle()
        assert holders(line) == [index]
        line[index].let_go.set()
    await settle()
    assert lock.owner is None


async def test_cancelled_while_holding_the_lock(nursery: trio.Nursery) -> None:
    lock = FairLock()
    line = await users(nursery, lock, 2)
    line[0].task.scope.cancel()
    await settle()
    assert holders(line) == [1]


async def test_cancelled_after_the_lock_was_handed_over(nursery: trio.Nursery) -> None:
    lock = FairLock()
    assert await lock.acquire("test")
    line = await users(nursery, lock, 2)
    lock.release()
    line[0].task.scope.cancel()
    # The cancellation takes effect in the next wait, and the lock is handed on.
    await settle()
    assert not line[0].task.done
    assert holders(line) == [1]


async def test_all_waiters_are_cancelled(nursery: trio.Nursery) -> None:
    lock = FairLock()
    assert await lock.acquire("test")
    for user in await users(nursery, lock, 3):
        user.task.scope.cancel()
    await settle()
    lock.release()
    assert lock.owner is None
    assert await lock.acquire("test")


async def test_closing_wakes_all_waiters(nursery: trio.Nursery) -> None:
    lock = FairLock()
    line = await users(nursery, lock, 3)
    lock.close()
    late = User(nursery, lock)
    await settle()
    # The owner keeps the lock.
    assert holders(line) == [0]
    assert [user.task.result for user in (*line[1:], late)] == [False] * 3
    line[0].let_go.set()
    await settle()
    assert line[0].task.result is True
    assert lock.owner is None
    assert not await lock.acquire("test")


async def test_closed_after_the_lock_was_handed_over(nursery: trio.Nursery) -> None:
    lock = FairLock()
    assert await lock.acquire("test")
    line = await users(nursery, lock, 2)
    lock.release()
    lock.close()
    await settle()
    assert holders(line) == [0]
    assert line[1].task.result is False
    line[0].let_go.set()
    await settle()
    assert lock.owner is None


async def test_closed_and_cancelled_at_once(nursery: trio.Nursery) -> None:
    lock = FairLock()
    assert await lock.acquire("test")
    line = await users(nursery, lock, 2)
    lock.close()
    line[0].task.scope.cancel()
    await settle()
    assert [user.task.result for user in line] == [False, False]
    lock.release()
    assert lock.owner is None


async def test_acquire_nowait(nursery: trio.Nursery) -> None:
    lock = FairLock()
    assert lock.acquire_nowait()
    assert not lock.acquire_nowait()
    line = await users(nursery, lock, 1)
    assert holders(line) == []
    lock.release()
    await settle()
    assert holders(line) == [0]
    assert not lock.acquire_nowait()
    line[0].let_go.set()
    await settle()
    lock.close()
    assert not lock.acquire_nowait()
