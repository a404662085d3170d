"""Unit tests of the inbox: order, the bound in bytes of memory, parts, the lock, cancellation, the end."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from sys import getsizeof

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ws.connection.inbox import Inbox
from trio_ws.frames import Frame, Opcode
from trio_ws.protocol import LastPart, Message, Protocol, Role
from trio_ws.protocol.codec import serialize

from ..support import Task, binary, cont, text

settle = wait_all_tasks_blocked

#: Stands for the message that is received in parts.
MESSAGE = object()


class Feed:
    """The reader's side of an inbox."""

    def __init__(self, limit: int = 65536) -> None:
        self.protocol = Protocol(Role.CLIENT, random=os.urandom)
        self.inbox = Inbox(self.protocol, limit)

    def __call__(self, *frames: Frame) -> None:
        """Receive these frames in one read."""
        self.protocol.receive(b"".join(map(serialize, frames)))
        items: list[Message | LastPart] = [*self.protocol.next_messages()]
        while (event := self.protocol.next_event()) is not None:
            assert isinstance(event, (str, bytes, LastPart))
            items.append(event)
        self.inbox.put(items)


async def until_there_is_room(inbox: Inbox) -> None:
    while inbox.is_full:
        await inbox.wait_for_receiver()


async def until_handled(inbox: Inbox) -> None:
    while not inbox.is_handled:
        await inbox.wait_for_receiver()


# -- Whole messages --------------------------------------------------------------------------------------------------


async def test_messages_come_out_in_order() -> None:
    feed = Feed()
    feed(text("a"), binary(b"b"), text(""), binary(b""))
    feed(text("c"))
    inbox = feed.inbox
    assert [await inbox.get() for _ in range(5)] == ["a", b"b", "", b"", "c"]
    assert inbox.get_nowait() is None


async def test_the_rest_of_a_batch_needs_no_waiting() -> None:
    feed = Feed()
    feed(text("a"), text("b"), text("c"))
    assert await feed.inbox.get() == "a"
    assert [feed.inbox.get_nowait() for _ in range(3)] == ["b", "c", None]
    assert feed.inbox.is_empty


async def test_get_waits(nursery: trio.Nursery) -> None:
    feed = Feed()
    task = Task(nursery, feed.inbox.get)
    await settle()
    assert not task.done
    feed(text("a", fin=False))
    await settle()
    assert not task.done
    feed(cont(b"b", fin=True))
    await settle()
    assert task.result == "ab"


async def test_receivers_take_turns(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for _ in range(4):
        tasks.append(Task(nursery, feed.inbox.get))
        await settle()
    tasks[2].scope.cancel()
    feed(text("1"), text("2"), text("3"), text("4"))
    # Waiting tasks are served before new ones.
    assert feed.inbox.get_nowait() is None
    await settle()
    assert [task.result for task in tasks] == ["1", "2", None, "3"]
    assert feed.inbox.get_nowait() == "4"


async def test_a_receiver_that_is_cancelled_takes_nothing(nursery: trio.Nursery) -> None:
    feed = Feed()
    first = Task(nursery, feed.inbox.get)
    await settle()
    second = Task(nursery, feed.inbox.get)
    await settle()
    first.scope.cancel()
    await settle()
    assert not first.done
    feed(text("a"))
    await settle()
    assert second.result == "a"


async def test_a_receiver_that_is_cancelled_too_late_has_the_message(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for _ in range(2):
        tasks.append(Task(nursery, feed.inbox.get))
        await settle()
    feed(text("a"))
    tasks[0].scope.cancel()
    await settle()
    assert tasks[0].result == "a"
    feed(text("b"))
    tasks[1].scope.cancel()
    await settle()
    assert tasks[1].result == "b"


async def test_a_batch_that_arrives_when_all_is_dropped(nursery: trio.Nursery) -> None:
    feed = Feed()
    inbox = feed.inbox
    task = Task(nursery, inbox.get)
    await settle()
    feed(text("a"), text("b"))
    inbox.drop()  # before the task that has got the batch runs
    await settle()
    assert task.done
    assert task.result is None
    assert inbox.get_nowait() is None
    assert await inbox.get() is None


async def test_a_lock_that_arrives_too_late_is_passed_on(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for _ in range(3):
        tasks.append(Task(nursery, feed.inbox.get))
        await settle()
    # The second task gets the lock and is cancelled before it runs. It raises where it waits for a message.
    tasks[0].scope.cancel()
    tasks[1].scope.cancel()
    await settle()
    feed(text("a"))
    await settle()
    assert [task.result for task in tasks] == [None, None, "a"]


# -- Backpressure ----------------------------------------------------------------------------------------------------


async def test_room_is_counted_in_bytes_of_memory() -> None:
    feed = Feed(10 * getsizeof(b""))
    for _ in range(9):
        feed(binary(b""))
        assert not feed.inbox.is_full
    feed(binary(b""))
    assert feed.inbox.is_full
    assert feed.inbox.size == 10 * getsizeof(b"")
    assert await feed.inbox.get() == b""
    assert not feed.inbox.is_full


async def test_there_is_room_for_one_message() -> None:
    feed = Feed(0)
    assert not feed.inbox.is_full
    feed(binary(b"x" * 100_000))
    assert feed.inbox.is_full
    assert await feed.inbox.get() == b"x" * 100_000
    assert not feed.inbox.is_full


async def test_the_message_in_progress_is_counted() -> None:
    feed = Feed(getsizeof("x" * 100))
    feed(text(b"x" * 99, fin=False))
    assert not feed.inbox.is_full
    feed(cont(b"x"))
    assert feed.inbox.is_full
    assert feed.inbox.is_empty


async def test_the_reader_wakes_when_all_of_a_read_was_taken(nursery: trio.Nursery) -> None:
    feed = Feed(4 * getsizeof("a"))
    feed(text("a"), text("b"), text("c"), text("d"))
    task = Task(nursery, until_there_is_room, feed.inbox)
    for message in ("a", "b", "c", "d"):
        await settle()
        assert not task.done
        assert await feed.inbox.get() == message
    await settle()
    assert task.done


@pytest.mark.parametrize("in_parts", [False, True])
async def test_the_rest_of_a_message_that_is_waited_for_is_read(nursery: trio.Nursery, in_parts: bool) -> None:
    feed = Feed(10)
    feed(text("a" * 10, fin=False))
    assert feed.inbox.is_full
    task = Task(nursery, until_there_is_room, feed.inbox)
    await settle()
    assert not task.done
    if in_parts:
        await feed.inbox.begin_parts(MESSAGE)
        assert await feed.inbox.get_part(MESSAGE) == ("a" * 10, False)
    else:
        Task(nursery, feed.inbox.get)
    await settle()
    assert task.done


async def test_a_cancelled_receiver_does_not_keep_the_reader_reading(nursery: trio.Nursery) -> None:
    feed = Feed(10)
    feed(text("a" * 10, fin=False))
    task = Task(nursery, feed.inbox.get)
    await settle()
    assert not feed.inbox.is_full
    task.scope.cancel()
    await settle()
    assert feed.inbox.is_full


@pytest.mark.parametrize("wait", [until_there_is_room, until_handled])
async def test_dropping_lets_the_reader_go_on(wait: Callable[[Inbox], Awaitable[None]], nursery: trio.Nursery) -> None:
    feed = Feed(0)
    feed(text("a"), text("b", fin=False))
    reader = Task(nursery, wait, feed.inbox)
    await settle()
    assert not reader.done
    feed.inbox.drop()
    await settle()
    assert reader.done
    # Frames that arrive now are dropped at once.
    feed(cont(b"b" * 1000))
    assert feed.protocol.held == 0
    feed(cont(b"b" * 1000, fin=True), text("c"), text("d" * 1000, fin=False))
    assert feed.protocol.held == 0
    assert feed.inbox.size == 0
    assert feed.inbox.get_nowait() is None
    assert await feed.inbox.get() is None


# -- Handled messages ------------------------------------------------------------------------------------------------


async def test_handled_when_the_application_asks_for_more(nursery: trio.Nursery) -> None:
    feed = Feed()
    # The application has never asked for a message, and there is none.
    assert feed.inbox.is_handled
    feed(text("a"))
    feed.inbox.end()
    task = Task(nursery, until_handled, feed.inbox)
    await settle()
    assert not task.done
    assert await feed.inbox.get() == "a"
    await settle()
    # The application may be about to answer.
    assert not task.done
    assert await feed.inbox.get() is None
    await settle()
    assert task.done


async def test_handled_when_the_application_asks_for_the_next_part(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    assert await feed.inbox.get_part(MESSAGE) == ("a", False)
    feed(cont(b"b"))
    feed.inbox.end()
    task = Task(nursery, until_handled, feed.inbox)
    await settle()
    assert not task.done
    assert await feed.inbox.get_part(MESSAGE) == ("b", False)
    await settle()
    assert not task.done
    assert await feed.inbox.get_part(MESSAGE) is None
    await settle()
    assert task.done


async def test_handled_when_the_application_says_so(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a"))
    assert await feed.inbox.get() == "a"
    task = Task(nursery, until_handled, feed.inbox)
    await settle()
    assert not task.done
    feed.inbox.end_handling()
    await settle()
    assert task.done


# -- Parts -----------------------------------------------------------------------------------------------------------


async def take_parts(inbox: Inbox) -> list[Message]:
    """Receive one message in parts."""
    parts = []
    assert await inbox.begin_parts(MESSAGE)
    complete = False
    try:
        while not complete:
            part = await inbox.get_part(MESSAGE)
            assert part is not None
            parts.append(part[0])
            complete = part[1]
    finally:
        inbox.end_parts(complete=complete)
    return parts


async def test_parts_as_they_come(nursery: trio.Nursery) -> None:
    feed = Feed()
    task = Task(nursery, take_parts, feed.inbox)
    for frames in (
        [text("", fin=False)],
        [cont(b"ab")],
        [cont(b"c"), cont(b"d")],
        [cont("é".encode()[:1])],
        [cont("é".encode()[1:]), cont(b"f")],
        [cont(b""), cont(b"g", fin=True), text("next")],
    ):
        await settle()
        assert not task.done
        feed(*frames)
    await settle()
    assert task.result == ["ab", "cd", "éf", "g"]
    assert feed.inbox.get_nowait() == "next"


async def test_parts_of_what_is_there_already() -> None:
    feed = Feed()
    feed(binary(b"a"), text("b", fin=False), cont(b"c"))
    assert await take_parts(feed.inbox) == [b"a"]
    feed(cont(b"d", fin=True), binary(b"", fin=True))
    assert await take_parts(feed.inbox) == ["bcd"]
    assert await take_parts(feed.inbox) == [b""]


async def test_other_receivers_do_not_get_parts(nursery: trio.Nursery) -> None:
    feed = Feed()
    whole = Task(nursery, feed.inbox.get)
    await settle()
    parts = Task(nursery, take_parts, feed.inbox)
    await settle()
    after = Task(nursery, feed.inbox.get)
    await settle()
    feed(text("1"), text("2", fin=False))
    await settle()
    assert (whole.result, parts.done, after.done) == ("1", False, False)
    feed(cont(b"3", fin=True), text("4"), text("5"))
    await settle()
    assert (parts.result, after.result) == (["2", "3"], "4")
    assert feed.inbox.get_nowait() == "5"


async def test_receiving_inside_the_own_receive_stream() -> None:
    feed = Feed()
    feed(text("a", fin=False))
    await feed.inbox.begin_parts(MESSAGE)
    with pytest.raises(RuntimeError, match="receive_stream"):
        await feed.inbox.get()
    with pytest.raises(RuntimeError, match="receive_stream"):
        await feed.inbox.begin_parts(MESSAGE)


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("whole", [True, False])
async def test_next_is_text(opcode: Opcode, whole: bool) -> None:
    feed = Feed()
    feed(Frame(opcode, b"a", fin=whole))
    assert await feed.inbox.begin_parts(MESSAGE)
    assert feed.inbox.next_is_text() is (opcode is Opcode.TEXT)


@pytest.mark.parametrize("take", [0, 1])
async def test_skip_what_is_there_in_part(take: int) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    for _ in range(take):
        await feed.inbox.get_part(MESSAGE)
    feed.inbox.end_parts(complete=False)
    assert feed.protocol.held == 0
    feed(cont(b"b"))
    feed(cont(b"c", fin=True), text("next"))
    assert await feed.inbox.get() == "next"


@pytest.mark.parametrize("take", [0, 1])
async def test_skip_what_has_become_whole(take: int) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    for _ in range(take):
        await feed.inbox.get_part(MESSAGE)
    feed(cont(b"b", fin=True), text("next"))
    feed.inbox.end_parts(complete=False)
    assert await feed.inbox.get() == "next"


async def test_the_rest_of_a_skipped_message_is_not_the_next_one(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    feed.inbox.end_parts(complete=False)
    # The message is still incomplete when the next one is asked for.
    task = Task(nursery, feed.inbox.begin_parts, MESSAGE)
    await settle()
    feed(cont(b"b"))
    await settle()
    assert not task.done
    feed(cont(b"c", fin=True), binary(b"next", fin=False))
    await settle()
    assert task.result is True
    assert not feed.inbox.next_is_text()
    assert await feed.inbox.get_part(MESSAGE) == (b"next", False)


async def test_skipping_lets_the_reader_go_on(nursery: trio.Nursery) -> None:
    feed = Feed(10)
    feed(text("a" * 10, fin=False))
    task = Task(nursery, until_there_is_room, feed.inbox)
    assert await feed.inbox.begin_parts(MESSAGE)
    await settle()
    assert not task.done
    feed.inbox.end_parts(complete=False)
    await settle()
    assert task.done


async def test_waiting_for_a_part_when_the_turn_ends(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    assert await feed.inbox.get_part(MESSAGE) == ("a", False)
    late = Task(nursery, feed.inbox.get_part, MESSAGE)
    await settle()
    feed.inbox.end_parts(complete=False)
    # The next message belongs to the owner of the lock.
    task = Task(nursery, feed.inbox.get)
    await settle()
    assert (late.done, late.result) == (True, None)
    feed(cont(b"b", fin=True), text("c"))
    await settle()
    assert task.result == "c"


async def test_woken_for_a_part_when_the_turn_ends(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    assert await feed.inbox.get_part(MESSAGE) == ("a", False)
    late = Task(nursery, feed.inbox.get_part, MESSAGE)
    await settle()
    feed(cont(b"b", fin=True), text("c"))
    feed.inbox.end_parts(complete=False)
    await settle()
    assert (late.done, late.result) == (True, None)
    assert feed.inbox.get_nowait() == "c"


async def test_cancelled_while_waiting_for_a_part(nursery: trio.Nursery) -> None:
    feed = Feed()
    beginning = Task(nursery, feed.inbox.begin_parts, MESSAGE)
    await settle()
    beginning.scope.cancel()
    await settle()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    part = Task(nursery, feed.inbox.get_part, MESSAGE)
    await settle()
    assert part.result == ("a", False)
    part = Task(nursery, feed.inbox.get_part, MESSAGE)
    await settle()
    part.scope.cancel()
    await settle()
    feed(cont(b"b"))
    part = Task(nursery, feed.inbox.get_part, MESSAGE)
    await settle()
    assert part.result == ("b", False)


async def test_cancelled_too_late_it_has_the_part(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    assert await feed.inbox.get_part(MESSAGE) == ("a", False)
    part = Task(nursery, feed.inbox.get_part, MESSAGE)
    await settle()
    feed(cont(b"b"))
    part.scope.cancel()
    await settle()
    assert part.result == ("b", False)


# -- The end ---------------------------------------------------------------------------------------------------------


async def test_end(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for _ in range(2):
        tasks.append(Task(nursery, feed.inbox.get))
        await settle()
    feed.inbox.end()
    await settle()
    assert [(task.done, task.result) for task in tasks] == [(True, None)] * 2
    assert await feed.inbox.get() is None
    assert not await feed.inbox.begin_parts(MESSAGE)


async def test_what_is_there_at_the_end_can_be_taken() -> None:
    feed = Feed()
    feed(text("a"), text("b"), text("c", fin=False))
    feed.inbox.end()
    assert await feed.inbox.get() == "a"
    assert feed.inbox.get_nowait() == "b"
    assert await feed.inbox.begin_parts(MESSAGE)
    assert feed.inbox.next_is_text()
    assert await feed.inbox.get_part(MESSAGE) == ("c", False)
    assert await feed.inbox.get_part(MESSAGE) is None


async def test_what_comes_after_the_end_is_dropped() -> None:
    feed = Feed()
    feed.inbox.end()
    feed(text("a"), text("b", fin=False))
    assert feed.inbox.size == 0
    assert await feed.inbox.get() is None


async def test_a_message_that_is_cut_by_the_end_is_no_message() -> None:
    feed = Feed()
    feed(text("a", fin=False))
    feed.inbox.end()
    assert await feed.inbox.get() is None


async def test_end_wakes_a_task_that_waits_for_a_part(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    assert await feed.inbox.get_part(MESSAGE) == ("a", False)
    task = Task(nursery, feed.inbox.get_part, MESSAGE)
    await settle()
    feed.inbox.end()
    await settle()
    assert (task.done, task.result) == (True, None)


async def test_settling_wakes_those_in_line_but_leaves_what_is_there(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    waits = Task(nursery, feed.inbox.get)
    await settle()
    assert not waits.done
    feed.inbox.settle()
    await settle()
    assert (waits.done, waits.result) == (True, None)
    assert await feed.inbox.get_part(MESSAGE) == ("a", False)
    assert await feed.inbox.get_part(MESSAGE) is None
    feed.inbox.end_parts(complete=False)
    assert await feed.inbox.get() is None


async def test_settling_with_messages_left(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a"), text("b"), text("c", fin=False))
    feed.inbox.settle()
    assert [await feed.inbox.get() for _ in range(2)] == ["a", "b"]
    assert await feed.inbox.begin_parts(MESSAGE)
    assert await feed.inbox.get_part(MESSAGE) == ("c", False)


async def test_drain_returns_the_whole_messages() -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    assert await feed.inbox.get_part(MESSAGE) == ("a", False)
    feed(cont(b"b", fin=True), text("c"))
    feed(binary(b"d"), text("e", fin=False))
    feed.inbox.end()
    assert feed.inbox.drain() == ["c", b"d"]
    # The last part stays for the task that receives the message in parts.
    assert await feed.inbox.get_part(MESSAGE) == ("b", True)
    feed.inbox.end_parts(complete=True)
    assert await feed.inbox.get() is None
    assert feed.inbox.is_empty


async def test_drop(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for _ in range(3):
        tasks.append(Task(nursery, feed.inbox.get))
        await settle()
    feed.inbox.drop()
    await settle()
    assert [(task.done, task.result) for task in tasks] == [(True, None)] * 3
    assert await feed.inbox.get() is None


async def test_drop_what_is_there() -> None:
    feed = Feed()
    feed(text("a"), text("b", fin=False))
    feed.inbox.drop()
    assert feed.inbox.get_nowait() is None
    assert feed.inbox.size == feed.protocol.held == 0
    assert not await feed.inbox.begin_parts(MESSAGE)


async def test_drop_what_was_handed_over_and_not_yet_taken(nursery: trio.Nursery) -> None:
    feed = Feed()
    task = Task(nursery, feed.inbox.get)
    await settle()
    feed(text("a"), text("b"))
    feed.inbox.drop()
    await settle()
    assert (task.done, task.result) == (True, None)
    assert feed.inbox.size == 0


async def test_drop_in_the_middle_of_the_parts(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    waits = Task(nursery, feed.inbox.get)
    await settle()
    feed.inbox.drop()
    await settle()
    assert (waits.done, waits.result) == (True, None)
    assert await feed.inbox.get_part(MESSAGE) is None
    feed(cont(b"b", fin=True), text("c"))
    assert await feed.inbox.get_part(MESSAGE) is None
    feed.inbox.end_parts(complete=False)
    assert await feed.inbox.get() is None


async def test_dropping_wakes_tasks_that_wait_for_the_lock(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(MESSAGE)
    feed.inbox.drop()
    late = Task(nursery, feed.inbox.get)
    await settle()
    assert (late.done, late.result) == (True, None)
