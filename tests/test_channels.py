"""The inbox and the outbox by themselves: order, bounds in bytes, parts, turns, cancellation, the end."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from sys import getsizeof
from typing import Any

import pytest
import trio
import trio.testing

from trio_ws.channels import MAX_PONGS, Bell, Inbox, Outbox
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import LastPart, Message, Protocol, Role
from trio_ws.protocol.codec import FIN, serialize
from trio_ws.protocol.connection import OutgoingFrame

from .support import binary, cont, text

settle = trio.testing.wait_all_tasks_blocked


class Feed:
    """The reader's side of an inbox."""

    def __init__(self, limit: int = 65536) -> None:
        self.protocol = Protocol(Role.CLIENT, random=os.urandom)
        self.inbox = Inbox(self.protocol, limit)

    def __call__(self, *frames: Frame) -> None:
        """Let these frames come in, all at once."""
        self.protocol.receive(b"".join(map(serialize, frames)))
        while (event := self.protocol.next_event()) is not None:
            assert isinstance(event, (str, bytes, LastPart))
            self.inbox.put(event)
        self.inbox.progress()


class Task:
    """A task that calls something, and what has become of it."""

    def __init__(self, nursery: trio.Nursery, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        self.scope = trio.CancelScope()
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self._function = function
        self._args = args
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            try:
                self.result = await self._function(*self._args)
            except Exception as exc:
                self.error = exc
            self.done = True


# -- Inbox: whole messages -------------------------------------------------------------------------------------------


async def test_messages_come_out_in_order() -> None:
    feed = Feed()
    feed(text("a"), binary(b"b"), text(""), binary(b""))
    inbox = feed.inbox
    assert [inbox.get_nowait(), await inbox.get(), inbox.get_nowait(), await inbox.get()] == ["a", b"b", "", b""]
    assert inbox.get_nowait() is None


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
    # Those who wait come before those who come now.
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


async def test_a_turn_that_is_cancelled_too_late_is_passed_on(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for _ in range(3):
        tasks.append(Task(nursery, feed.inbox.get))
        await settle()
    # The second is given the turn, and is cancelled before it runs; it meets that where it waits for a message.
    tasks[0].scope.cancel()
    tasks[1].scope.cancel()
    await settle()
    feed(text("a"))
    await settle()
    assert [task.result for task in tasks] == [None, None, "a"]


# -- Inbox: backpressure ---------------------------------------------------------------------------------------------


async def has_room(inbox: Inbox) -> bool:
    with trio.move_on_after(0):
        await inbox.wait_for_room()
        return True
    return False


async def test_room_is_counted_in_bytes_of_memory() -> None:
    limit = 10 * getsizeof(b"")
    feed = Feed(limit)
    for _ in range(9):
        feed(binary(b""))
        assert await has_room(feed.inbox)
    feed(binary(b""))
    assert not await has_room(feed.inbox)
    feed.inbox.get_nowait()
    assert await has_room(feed.inbox)


async def test_there_is_room_for_one_message() -> None:
    feed = Feed(0)
    assert await has_room(feed.inbox)
    feed(binary(b"x" * 100_000))
    assert not await has_room(feed.inbox)
    assert await feed.inbox.get() == b"x" * 100_000
    assert await has_room(feed.inbox)


async def test_the_message_in_progress_is_counted() -> None:
    feed = Feed(getsizeof("x" * 100))
    feed(text(b"x" * 99, fin=False))
    assert await has_room(feed.inbox)
    feed(cont(b"x"))
    assert not await has_room(feed.inbox)


async def test_the_reader_wakes_when_half_of_the_inbox_is_free(nursery: trio.Nursery) -> None:
    feed = Feed(4 * getsizeof("a"))
    feed(text("a"), text("b"), text("c"), text("d"))
    task = Task(nursery, feed.inbox.wait_for_room)
    for message in ("a", "b"):
        await settle()
        assert not task.done
        assert feed.inbox.get_nowait() == message
    await settle()
    assert task.done


@pytest.mark.parametrize("in_parts", [False, True])
async def test_the_rest_of_a_message_that_is_waited_for_is_read(nursery: trio.Nursery, in_parts: bool) -> None:
    feed = Feed(10)
    feed(text("a" * 10, fin=False))
    assert not await has_room(feed.inbox)
    task = Task(nursery, feed.inbox.wait_for_room)
    if in_parts:
        await feed.inbox.begin_turn()
        await feed.inbox.begin_parts(stream := object())
        assert await feed.inbox.get_part(stream) == ("a" * 10, False)
    else:
        Task(nursery, feed.inbox.get)
    await settle()
    assert task.done


@pytest.mark.parametrize("method", [Inbox.wait_for_room, Inbox.wait_until_asked])
async def test_discarding_lets_the_reader_go_on(
    method: Callable[[Inbox], Awaitable[None]], nursery: trio.Nursery
) -> None:
    feed = Feed(0)
    feed(text("a"), text("b", fin=False))
    reader = Task(nursery, method, feed.inbox)
    await settle()
    assert not reader.done
    feed.inbox.discard()
    await settle()
    assert reader.done
    # What comes now is dropped, and held no longer than that takes.
    feed(cont(b"b" * 1000))
    assert feed.protocol.held == 0
    feed(cont(b"b" * 1000, fin=True), text("c"), text("d" * 1000, fin=False))
    assert feed.protocol.held == 0
    assert feed.inbox.get_nowait() is None
    assert await feed.inbox.get() is None


async def test_shedding_lets_the_reader_go_on(nursery: trio.Nursery) -> None:
    feed = Feed(0)
    feed(text("a"))
    task = Task(nursery, feed.inbox.wait_for_room)
    await settle()
    feed.inbox.shed()
    await settle()
    assert task.done
    assert await feed.inbox.get() == "a"


async def test_shedding_leaves_no_gap() -> None:
    feed = Feed(2 * getsizeof("a"))
    feed.inbox.shed()
    feed(text("a"), text("b"), text("c"))
    assert feed.inbox.get_nowait() == "a"
    # There would be room again.
    feed(text("d"), text("e" * 10, fin=False))
    assert await feed.inbox.get() == "b"
    assert await feed.inbox.get() is None
    assert feed.protocol.held == 0
    await feed.inbox.begin_turn()
    assert not await feed.inbox.begin_parts(object())


async def test_shedding_drops_what_is_in_progress_behind_the_gap() -> None:
    feed = Feed(0)
    feed.inbox.shed()
    feed(text("a"))
    feed(text("b"), text("c", fin=False))
    assert feed.protocol.held == 0
    assert await feed.inbox.get() == "a"
    assert await feed.inbox.get() is None


async def test_shedding_wakes_those_who_wait_for_what_is_dropped(nursery: trio.Nursery) -> None:
    feed = Feed(0)
    feed.inbox.shed()
    task = Task(nursery, feed.inbox.get)
    await settle()
    feed(text("a"), text("b"))
    await settle()
    assert task.result == "a"
    assert await feed.inbox.get() is None


async def test_shedding_keeps_the_end_of_a_message_that_is_taken_in_parts() -> None:
    feed = Feed(0)
    feed(text("a", fin=False))
    stream = object()
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    assert await feed.inbox.get_part(stream) == ("a", False)
    feed.inbox.shed()
    # By the time the end is put, the next message makes the inbox full.
    feed(cont(b"b", fin=True), text("c", fin=False))
    feed(cont(b"d", fin=True))
    assert await feed.inbox.get_part(stream) == ("b", True)


# -- Inbox: what the application is about ----------------------------------------------------------------------------


async def test_wait_until_asked(nursery: trio.Nursery) -> None:
    feed = Feed()
    # Nobody has ever asked, and there is nothing to ask for.
    await feed.inbox.wait_until_asked()
    feed(text("a"))
    feed.inbox.end()
    task = Task(nursery, feed.inbox.wait_until_asked)
    await settle()
    assert not task.done
    assert await feed.inbox.get() == "a"
    await settle()
    # It may be about to answer.
    assert not task.done
    assert await feed.inbox.get() is None
    await settle()
    assert task.done


async def test_wait_until_asked_for_the_rest_of_the_parts(nursery: trio.Nursery) -> None:
    feed = Feed()
    stream = object()
    await feed.inbox.begin_turn()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(stream)
    assert await feed.inbox.get_part(stream) == ("a", False)
    feed(cont(b"b"))
    feed.inbox.end()
    task = Task(nursery, feed.inbox.wait_until_asked)
    await settle()
    assert not task.done
    assert await feed.inbox.get_part(stream) == ("b", False)
    await settle()
    assert not task.done
    assert await feed.inbox.get_part(stream) is None
    await settle()
    assert task.done


# -- Inbox: parts ----------------------------------------------------------------------------------------------------


async def take_parts(inbox: Inbox) -> list[Message]:
    """Take one message in parts."""
    stream = object()
    parts = []
    await inbox.begin_turn()
    try:
        assert await inbox.begin_parts(stream)
        while True:
            part = await inbox.get_part(stream)
            assert part is not None
            parts.append(part[0])
            if part[1]:
                return parts
    finally:
        inbox.end_turn()


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


async def test_parts_are_not_torn_by_others(nursery: trio.Nursery) -> None:
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


async def test_a_task_does_not_wait_for_its_own_turn() -> None:
    inbox = Feed().inbox
    await inbox.begin_turn()
    with pytest.raises(RuntimeError):
        await inbox.get()
    with pytest.raises(RuntimeError):
        await inbox.begin_turn()


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("whole", [True, False])
async def test_next_is_text(opcode: Opcode, whole: bool) -> None:
    feed = Feed()
    feed(Frame(opcode, b"a", fin=whole))
    assert await feed.inbox.begin_parts(object())
    assert feed.inbox.next_is_text() is (opcode is Opcode.TEXT)


@pytest.mark.parametrize("take", [0, 1])
async def test_skip_what_is_there_in_part(take: int) -> None:
    feed = Feed()
    stream = object()
    feed(text("a", fin=False))
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    for _ in range(take):
        await feed.inbox.get_part(stream)
    feed.inbox.skip_parts()
    feed.inbox.end_turn()
    assert feed.protocol.held == 0
    feed(cont(b"b"))
    feed(cont(b"c", fin=True), text("next"))
    assert await feed.inbox.get() == "next"


@pytest.mark.parametrize("take", [0, 1])
async def test_skip_what_has_become_whole(take: int) -> None:
    feed = Feed()
    stream = object()
    feed(text("a", fin=False))
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    for _ in range(take):
        await feed.inbox.get_part(stream)
    feed(cont(b"b", fin=True), text("next"))
    feed.inbox.skip_parts()
    feed.inbox.end_turn()
    assert await feed.inbox.get() == "next"


async def test_skip_where_there_is_nothing() -> None:
    feed = Feed()
    feed.inbox.skip_parts()
    feed(text("a"))
    assert feed.inbox.get_nowait() == "a"


async def test_the_rest_of_a_skipped_message_is_not_the_next_one(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed(text("a", fin=False))
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(object())
    feed.inbox.skip_parts()
    feed.inbox.end_turn()
    # It is still coming in when the next is asked for.
    stream = object()
    await feed.inbox.begin_turn()
    task = Task(nursery, feed.inbox.begin_parts, stream)
    await settle()
    feed(cont(b"b"))
    await settle()
    assert not task.done
    feed(cont(b"c", fin=True), binary(b"next", fin=False))
    await settle()
    assert task.result is True
    assert not feed.inbox.next_is_text()
    assert await feed.inbox.get_part(stream) == (b"next", False)


async def test_skipping_lets_the_reader_go_on(nursery: trio.Nursery) -> None:
    feed = Feed(10)
    feed(text("a" * 10, fin=False))
    task = Task(nursery, feed.inbox.wait_for_room)
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(object())
    await settle()
    assert not task.done
    feed.inbox.skip_parts()
    await settle()
    assert task.done


async def test_waiting_for_a_part_when_the_turn_ends(nursery: trio.Nursery) -> None:
    feed = Feed()
    stream = object()
    feed(text("a", fin=False))
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    assert await feed.inbox.get_part(stream) == ("a", False)
    late = Task(nursery, feed.inbox.get_part, stream)
    await settle()
    feed.inbox.skip_parts()
    feed.inbox.end_turn()
    # What is next belongs to whoever has the turn.
    task = Task(nursery, feed.inbox.get)
    await settle()
    assert (late.done, late.result) == (True, None)
    feed(cont(b"b", fin=True), text("c"))
    await settle()
    assert task.result == "c"


async def test_woken_for_a_part_when_the_turn_ends(nursery: trio.Nursery) -> None:
    feed = Feed()
    stream = object()
    feed(text("a", fin=False))
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    assert await feed.inbox.get_part(stream) == ("a", False)
    late = Task(nursery, feed.inbox.get_part, stream)
    await settle()
    feed(cont(b"b", fin=True), text("c"))
    feed.inbox.skip_parts()
    feed.inbox.end_turn()
    await settle()
    assert (late.done, late.result) == (True, None)
    assert feed.inbox.get_nowait() == "c"


async def test_cancelled_while_waiting_for_a_part(nursery: trio.Nursery) -> None:
    feed = Feed()
    stream = object()
    await feed.inbox.begin_turn()
    beginning = Task(nursery, feed.inbox.begin_parts, stream)
    await settle()
    beginning.scope.cancel()
    await settle()
    feed(text("a", fin=False))
    assert await feed.inbox.begin_parts(stream)
    part = Task(nursery, feed.inbox.get_part, stream)
    await settle()
    assert part.result == ("a", False)
    part = Task(nursery, feed.inbox.get_part, stream)
    await settle()
    part.scope.cancel()
    await settle()
    feed(cont(b"b"))
    part = Task(nursery, feed.inbox.get_part, stream)
    await settle()
    assert part.result == ("b", False)


# -- Inbox: the end --------------------------------------------------------------------------------------------------


async def test_end(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for function, args in ((feed.inbox.get, ()), (feed.inbox.get, ())):
        tasks.append(Task(nursery, function, *args))
        await settle()
    feed.inbox.end()
    await settle()
    assert [(task.done, task.result) for task in tasks] == [(True, None)] * 2
    assert await feed.inbox.get() is None
    await feed.inbox.begin_turn()
    assert not await feed.inbox.begin_parts(object())


async def test_what_is_there_at_the_end_can_be_taken() -> None:
    feed = Feed()
    feed(text("a"), text("b"), text("c", fin=False))
    feed.inbox.end()
    assert await feed.inbox.get() == "a"
    assert feed.inbox.get_nowait() == "b"
    stream = object()
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    assert feed.inbox.next_is_text()
    assert await feed.inbox.get_part(stream) == ("c", False)
    assert await feed.inbox.get_part(stream) is None


async def test_a_message_that_is_cut_by_the_end_is_no_message() -> None:
    feed = Feed()
    feed(text("a", fin=False))
    feed.inbox.end()
    assert await feed.inbox.get() is None


async def test_end_wakes_who_waits_for_a_part(nursery: trio.Nursery) -> None:
    feed = Feed()
    stream = object()
    feed(text("a", fin=False))
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    assert await feed.inbox.get_part(stream) == ("a", False)
    task = Task(nursery, feed.inbox.get_part, stream)
    await settle()
    feed.inbox.end()
    await settle()
    assert (task.done, task.result) == (True, None)


async def test_discard(nursery: trio.Nursery) -> None:
    feed = Feed()
    tasks = []
    for _ in range(3):
        tasks.append(Task(nursery, feed.inbox.get))
        await settle()
    feed.inbox.discard()
    await settle()
    assert [(task.done, task.result) for task in tasks] == [(True, None)] * 3
    assert await feed.inbox.get() is None


async def test_discard_drops_what_is_there() -> None:
    feed = Feed()
    feed(text("a"), text("b", fin=False))
    feed.inbox.discard()
    assert feed.inbox.get_nowait() is None
    assert feed.protocol.held == 0
    await feed.inbox.begin_turn()
    assert not await feed.inbox.begin_parts(object())


async def test_discard_in_the_middle_of_the_parts(nursery: trio.Nursery) -> None:
    feed = Feed()
    stream = object()
    feed(text("a", fin=False))
    await feed.inbox.begin_turn()
    assert await feed.inbox.begin_parts(stream)
    waits = Task(nursery, feed.inbox.get)
    await settle()
    feed.inbox.discard()
    await settle()
    assert (waits.done, waits.result) == (True, None)
    assert await feed.inbox.get_part(stream) is None
    feed(cont(b"b", fin=True), text("c"))
    assert await feed.inbox.get_part(stream) is None
    feed.inbox.skip_parts()
    feed.inbox.end_turn()
    assert await feed.inbox.get() is None


async def test_nobody_waits_for_a_turn_when_all_is_discarded(nursery: trio.Nursery) -> None:
    feed = Feed()
    await feed.inbox.begin_turn()
    feed.inbox.discard()
    late = Task(nursery, feed.inbox.get)
    await settle()
    assert (late.done, late.result) == (True, None)


async def test_waiting_in_another_way(nursery: trio.Nursery) -> None:
    feed = Feed()
    answers = [True, True, False]

    async def wait() -> bool:
        assert feed.inbox.is_wanted
        await trio.lowlevel.checkpoint()
        if len(answers) == 2:
            feed(text("a"))
        return answers.pop(0)

    assert feed.inbox.is_empty
    assert await feed.inbox.get(wait) == "a"
    assert answers == [False]
    assert await feed.inbox.get(wait) is None
    assert not feed.inbox.is_wanted


async def test_wanted_is_what_somebody_is_about_to_take(nursery: trio.Nursery) -> None:
    feed = Feed()
    assert not feed.inbox.is_wanted
    task = Task(nursery, feed.inbox.get)
    await settle()
    # It waits, and knows nothing of what comes until it is woken.
    assert not feed.inbox.is_wanted
    feed(text("a"))
    assert feed.inbox.is_wanted
    assert not feed.inbox.is_empty
    await settle()
    assert task.result == "a"
    assert not feed.inbox.is_wanted


# -- Bell ------------------------------------------------------------------------------------------------------------


async def test_a_bell(nursery: trio.Nursery) -> None:
    bell = Bell()
    bell.ring()  # nobody is there, and it is not kept
    task = Task(nursery, bell.wait)
    await settle()
    assert not task.done
    bell.ring()
    bell.ring()
    await settle()
    assert task.done
    cancelled = Task(nursery, bell.wait)
    await settle()
    cancelled.scope.cancel()
    await settle()
    bell.ring()  # nobody is there any more
    again = Task(nursery, bell.wait)
    await settle()
    assert not again.done
    bell.ring()
    await settle()
    assert again.done


# -- Outbox ----------------------------------------------------------------------------------------------------------


def frame(data: bytes, fin: bool = True, opcode: Opcode = Opcode.BINARY) -> OutgoingFrame:
    return ((FIN if fin else 0) | opcode, data, True)


def payloads(outbox: Outbox) -> list[bytes]:
    return [data for _, data, _ in outbox.take()]


HUNDRED = b"x" * 100


def memory(frame: OutgoingFrame) -> int:
    return getsizeof(frame) + getsizeof(frame[1])


async def test_frames_go_out_in_order() -> None:
    outbox = Outbox(1000)
    assert outbox.put_nowait(frame(b"a"))
    assert await outbox.put(frame(b"b"))
    outbox.put_ping(b"ping 1")
    outbox.put_pong(b"pong 1")
    outbox.put_ping(b"ping 2")
    outbox.put_pong(b"pong 2")
    assert outbox.take() == [
        (FIN | Opcode.PONG, b"pong 1", False),
        (FIN | Opcode.PONG, b"pong 2", False),
        (FIN | Opcode.PING, b"ping 1", False),
        (FIN | Opcode.PING, b"ping 2", False),
        frame(b"a"),
        frame(b"b"),
    ]
    assert outbox.take() == []


async def test_room_is_there_again_when_it_is_written() -> None:
    outbox = Outbox(2 * memory(frame(HUNDRED)))
    assert outbox.put_nowait(frame(HUNDRED))
    assert outbox.put_nowait(frame(HUNDRED))
    assert not outbox.put_nowait(frame(b""))
    outbox.take()
    assert not outbox.put_nowait(frame(b""))
    outbox.written()
    assert outbox.put_nowait(frame(HUNDRED))
    # What was put in the meantime stays counted.
    outbox.take()
    assert outbox.put_nowait(frame(HUNDRED))
    outbox.written()
    assert outbox.put_nowait(frame(HUNDRED))
    assert not outbox.put_nowait(frame(b""))


async def test_empty_frames_take_room_too() -> None:
    outbox = Outbox(10 * memory(frame(b"")))
    assert [outbox.put_nowait(frame(b"")) for _ in range(11)] == [True] * 10 + [False]


async def test_there_is_always_room_for_one_frame() -> None:
    outbox = Outbox(0)
    assert outbox.put_nowait(frame(b"x" * 100_000))
    assert not outbox.put_nowait(frame(b""))
    outbox.take()
    outbox.written()
    assert outbox.put_nowait(frame(b""))


async def test_senders_wait_in_line(nursery: trio.Nursery) -> None:
    outbox = Outbox(2 * memory(frame(b"0")))
    outbox.put_nowait(frame(HUNDRED))
    tasks = []
    for i in range(5):
        tasks.append(Task(nursery, outbox.put, frame(b"%d" % i)))
        await settle()
    assert not any(task.done for task in tasks)
    outbox.take()
    outbox.written()
    # Two fit. Nobody gets in before those who wait, even if it fit.
    assert not outbox.put_nowait(frame(b""))
    late = Task(nursery, outbox.put, frame(b"l"))
    await settle()
    assert [task.result for task in tasks] == [True] * 2 + [None] * 3
    assert payloads(outbox) == [b"0", b"1"]
    outbox.written()
    await settle()
    assert payloads(outbox) == [b"2", b"3"]
    outbox.written()
    await settle()
    assert payloads(outbox) == [b"4", b"l"]
    assert late.result is True


async def test_a_sender_that_is_cancelled_puts_nothing(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    outbox.put_nowait(frame(b"first"))
    tasks = []
    for i in range(3):
        tasks.append(Task(nursery, outbox.put, frame(b"%d" % i)))
        await settle()
    tasks[1].scope.cancel()
    await settle()
    assert not tasks[1].done
    got = []
    for _ in range(3):
        got += payloads(outbox)
        outbox.written()
        await settle()
    assert got == [b"first", b"0", b"2"]


async def test_a_sender_that_is_cancelled_too_late_has_put_it(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    outbox.put_nowait(frame(b"first"))
    task = Task(nursery, outbox.put, frame(b"a"))
    await settle()
    outbox.take()
    outbox.written()
    task.scope.cancel()
    await settle()
    assert task.result is True
    assert payloads(outbox) == [b"a"]


async def test_who_gives_up_is_in_nobodys_way(nursery: trio.Nursery) -> None:
    outbox = Outbox(memory(frame(HUNDRED)) + memory(frame(b"a")))
    outbox.put_nowait(frame(HUNDRED))
    large = Task(nursery, outbox.put, frame(b"x" * 1000))
    await settle()
    small = Task(nursery, outbox.put, frame(b"a"))
    await settle()
    assert not small.done
    large.scope.cancel()
    await settle()
    assert small.result is True
    assert payloads(outbox) == [HUNDRED, b"a"]


async def test_the_writer_is_woken(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    for put in (
        lambda: outbox.put_nowait(frame(b"a")),
        lambda: outbox.put_ping(b""),
        lambda: outbox.put_pong(b""),
        lambda: outbox.finish(None),
    ):
        task = Task(nursery, outbox.wait)
        await settle()
        assert not task.done
        put()
        await settle()
        assert task.done
        outbox.take()
        outbox.written()


async def test_the_writer_sees_that_what_woke_it_was_taken_back(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    task = Task(nursery, outbox.wait)
    await settle()
    outbox.put_ping(b"a")
    outbox.remove_ping(b"a")
    await settle()
    assert not task.done
    outbox.remove_ping(b"b")
    assert outbox.take() == []


async def test_pongs_are_bounded() -> None:
    outbox = Outbox(0)
    for i in range(MAX_PONGS):
        outbox.put_pong(b"%d" % i)
    assert len(outbox.take()) == MAX_PONGS
    for i in range(10_000):
        outbox.put_pong(b"%d" % i)
    pongs = payloads(outbox)
    assert len(pongs) <= MAX_PONGS
    assert pongs[-1] == b"9999"


# -- Outbox: messages in parts ---------------------------------------------------------------------------------------


async def test_nothing_gets_between_the_parts(nursery: trio.Nursery) -> None:
    outbox = Outbox(1000)
    stream = object()
    assert await outbox.begin_stream(stream)
    assert not outbox.put_nowait(frame(b"other"))
    other = Task(nursery, outbox.put, frame(b"other"))
    await settle()
    after = Task(nursery, outbox.begin_stream, object())
    await settle()
    assert await outbox.put(frame(b"a", fin=False), stream)
    assert await outbox.put(frame(b"b", False, Opcode.CONT), stream)
    await settle()
    assert (other.done, after.done) == (False, False)
    assert outbox.end_stream(frame(b"", True, Opcode.CONT))
    await settle()
    assert (other.result, after.result) == (True, True)
    assert payloads(outbox) == [b"a", b"b", b"", b"other"]


async def test_parts_wait_for_room(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    stream = object()
    assert await outbox.begin_stream(stream)
    other = Task(nursery, outbox.put, frame(b"other"))
    await settle()
    assert await outbox.put(frame(b"a", fin=False), stream)
    part = Task(nursery, outbox.put, frame(b"b", False, Opcode.CONT), stream)
    await settle()
    assert not part.done
    assert payloads(outbox) == [b"a"]
    outbox.written()
    await settle()
    assert (part.result, other.done) == (True, False)
    # There is room for the end, always.
    assert outbox.end_stream(frame(b"", True, Opcode.CONT))
    assert payloads(outbox) == [b"b", b""]
    outbox.written()
    await settle()
    assert other.result is True


async def test_a_part_that_is_cancelled_is_not_put(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    stream = object()
    assert await outbox.begin_stream(stream)
    assert await outbox.put(frame(b"a", fin=False), stream)
    part = Task(nursery, outbox.put, frame(b"b", False, Opcode.CONT), stream)
    await settle()
    part.scope.cancel()
    await settle()
    outbox.end_stream(frame(b"", True, Opcode.CONT))
    assert payloads(outbox) == [b"a", b""]


async def test_beginning_waits_in_line(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    outbox.put_nowait(frame(b"a"))
    first = Task(nursery, outbox.put, frame(b"b"))
    await settle()
    stream = object()
    beginning = Task(nursery, outbox.begin_stream, stream)
    await settle()
    last = Task(nursery, outbox.put, frame(b"c"))
    await settle()
    assert payloads(outbox) == [b"a"]
    outbox.written()
    await settle()
    assert (first.result, beginning.done, last.done) == (True, False, False)
    # There must be room for the last part of a message that begins.
    assert payloads(outbox) == [b"b"]
    outbox.written()
    await settle()
    assert (beginning.result, last.done) == (True, False)
    # Nothing was sent: that is nothing on the wire.
    assert not outbox.end_stream(None)
    await settle()
    assert last.result is True
    assert payloads(outbox) == [b"c"]


async def test_beginning_that_is_cancelled(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    outbox.put_nowait(frame(b"a"))
    tasks = []
    for function, arg in ((outbox.put, frame(b"b")), (outbox.begin_stream, object()), (outbox.put, frame(b"c"))):
        tasks.append(Task(nursery, function, arg))
        await settle()
    tasks[1].scope.cancel()
    got = []
    for _ in range(3):
        got += payloads(outbox)
        outbox.written()
        await settle()
    assert got == [b"a", b"b", b"c"]
    assert [task.result for task in tasks] == [True, None, True]


async def test_a_part_that_waits_when_its_message_ends_is_refused(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    stream = object()
    assert await outbox.begin_stream(stream)
    assert await outbox.put(frame(b"a", fin=False), stream)
    part = Task(nursery, outbox.put, frame(b"b", False, Opcode.CONT), stream)
    other = Task(nursery, outbox.put, frame(b"other"))
    await settle()
    assert outbox.end_stream(frame(b"", True, Opcode.CONT))
    await settle()
    assert (part.result, other.done) == (False, False)
    assert payloads(outbox) == [b"a", b""]
    outbox.written()
    await settle()
    assert other.result is True


# -- Outbox: messages that nobody waits with -------------------------------------------------------------------------


def senders_waiting(outbox: Outbox) -> int:
    return len(outbox._senders)


async def test_a_posted_message_is_put_if_there_is_room(nursery: trio.Nursery) -> None:
    outbox = Outbox(2 * memory(frame(b"0")))
    assert outbox.post(frame(b"1"))
    assert outbox.post(frame(b"2"))
    assert not outbox.post(frame(b"3"))
    # Nor does it pass those who wait.
    task = Task(nursery, outbox.put, frame(HUNDRED))
    await settle()
    assert payloads(outbox) == [b"1", b"2"]
    assert not outbox.post(frame(b""))
    outbox.written()
    await settle()
    assert task.result
    assert payloads(outbox) == [HUNDRED]


async def test_the_newest_message_waits_for_room(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    assert outbox.post(frame(b"1"))
    for data in (b"2", b"3" * 50, b"4"):
        outbox.post_newest(frame(data))
    task = Task(nursery, outbox.put, frame(b"5"))
    await settle()
    outbox.post_newest(frame(b"6"))
    sent = []
    while taken := payloads(outbox):
        sent += taken
        outbox.written()
        await settle()
    assert sent == [b"1", b"6", b"5"]
    assert task.result
    # It is no more than any other once it is in.
    assert outbox.post(frame(b"7"))
    outbox.post_newest(frame(b"8"))
    assert payloads(outbox) == [b"7"]
    outbox.written()
    assert payloads(outbox) == [b"8"]


async def test_posted_in_the_middle_of_the_parts() -> None:
    outbox = Outbox(2 * memory(frame(b"0")))
    stream = object()
    assert await outbox.begin_stream(stream)
    assert outbox.post(frame(b"1"))
    assert outbox.post(frame(b"2"))
    assert not outbox.post(frame(b"3"))
    outbox.post_newest(frame(b"4"))  # in place of the last one
    # The parts have their own room.
    assert await outbox.put(frame(b"a", fin=False), stream)
    assert outbox.end_stream(frame(b"", True, Opcode.CONT))
    assert payloads(outbox) == [b"a", b""]
    outbox.written()
    assert payloads(outbox) == [b"1", b"4"]
    outbox.written()
    assert outbox.is_clear
    assert not senders_waiting(outbox)


async def test_one_message_is_posted_in_the_middle_of_the_parts_however_large() -> None:
    outbox = Outbox(0)
    assert await outbox.begin_stream(object())
    assert outbox.post(frame(HUNDRED))
    assert not outbox.post(frame(b""))
    outbox.end_stream(None)
    assert payloads(outbox) == [HUNDRED]


@pytest.mark.parametrize("in_parts", [True, False])
async def test_what_was_posted_ends_with_the_outbox(in_parts: bool) -> None:
    outbox = Outbox(0)
    if in_parts:
        assert await outbox.begin_stream(object())
    else:
        assert outbox.post(frame(b"1"))
    outbox.post_newest(frame(b"2"))
    assert senders_waiting(outbox) == 1
    outbox.finish(Close(1000, ""))
    assert not senders_waiting(outbox)
    assert payloads(outbox) == ([] if in_parts else [b"1"])
    assert not outbox.post(frame(b"3"))
    assert not senders_waiting(outbox)


# -- Outbox: the end -------------------------------------------------------------------------------------------------


async def test_finish_with_a_close_frame(nursery: trio.Nursery) -> None:
    outbox = Outbox(100)
    outbox.put_nowait(frame(HUNDRED))
    outbox.put_ping(b"ping")
    outbox.put_pong(b"pong")
    waiting = Task(nursery, outbox.put, frame(b"b"))
    await settle()
    close = Close(1000, "")
    outbox.finish(close)
    await settle()
    assert (outbox.finished, outbox.close, waiting.result) == (True, close, False)
    # The first one counts; what is there goes out; nothing else does.
    outbox.finish(Close(1001, ""))
    assert outbox.close is close
    outbox.put_ping(b"late")
    outbox.put_pong(b"late")
    assert not outbox.put_nowait(frame(b"late"))
    assert not await outbox.put(frame(b"late"))
    assert not await outbox.begin_stream(object())
    assert payloads(outbox) == [b"pong", b"ping", HUNDRED]


async def test_finish_without_a_close_frame(nursery: trio.Nursery) -> None:
    outbox = Outbox(100)
    outbox.put_nowait(frame(HUNDRED))
    outbox.put_ping(b"ping")
    outbox.put_pong(b"pong")
    tasks = []
    for function, arg in ((outbox.put, frame(b"b")), (outbox.begin_stream, object())):
        tasks.append(Task(nursery, function, arg))
        await settle()
    outbox.finish(Close(1000, ""))
    outbox.finish(None)
    await settle()
    assert [task.result for task in tasks] == [False, False]
    assert (outbox.finished, outbox.close, outbox.take()) == (True, None, [])
    outbox.finish(Close(1000, ""))
    assert outbox.close is None


async def test_finish_in_the_middle_of_the_parts(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    stream = object()
    assert await outbox.begin_stream(stream)
    assert await outbox.put(frame(b"a", fin=False), stream)
    part = Task(nursery, outbox.put, frame(b"b", False, Opcode.CONT), stream)
    await settle()
    outbox.finish(Close(1000, ""))
    await settle()
    assert part.result is False
    assert not await outbox.put(frame(b"b", False, Opcode.CONT), stream)
    assert not outbox.end_stream(frame(b"", True, Opcode.CONT))
    assert payloads(outbox) == [b"a"]


async def test_the_writer_is_started_when_there_is_something_to_write() -> None:
    starts = []
    outbox = Outbox(1000)
    outbox.set_writer(lambda: starts.append("a"))
    # What is likely to be written without it does not start it.
    outbox.put_ping(b"")
    outbox.put_pong(b"")
    assert starts == []
    assert outbox.has_work()
    outbox.put_nowait(frame(b"1"))
    outbox.put_nowait(frame(b"2"))
    assert starts == ["a"]
    # Somebody else may be started then, at once if something is there already.
    outbox.set_writer(lambda: starts.append("b"))
    assert starts == ["a", "b"]
    outbox.take()
    outbox.written()
    assert not outbox.has_work()
    empty = Outbox(1000)
    empty.set_writer(lambda: starts.append("c"))
    empty.finish(None)
    assert starts == ["a", "b"]


async def test_a_frame_that_is_half_written() -> None:
    starts = []
    outbox = Outbox(0)
    outbox.set_writer(lambda: starts.append("a"))
    outbox.keep(frame(HUNDRED))
    assert starts == ["a"]
    assert outbox.taken
    await outbox.wait()
    # It takes room until it is out.
    assert not outbox.put_nowait(frame(b""))
    assert outbox.take() == []
    outbox.written()
    assert outbox.put_nowait(frame(b""))


async def test_when_a_message_may_go_out_at_once(nursery: trio.Nursery) -> None:
    def outbox_with(change: Callable[[Outbox], object]) -> Outbox:
        outbox = Outbox(1000)
        change(outbox)
        return outbox

    assert Outbox(0).is_clear
    assert not outbox_with(lambda outbox: outbox.put_nowait(frame(b""))).is_clear
    assert not outbox_with(lambda outbox: outbox.put_ping(b"")).is_clear
    assert not outbox_with(lambda outbox: outbox.put_pong(b"")).is_clear
    assert not outbox_with(lambda outbox: outbox.keep(frame(b""))).is_clear
    assert not outbox_with(lambda outbox: outbox.finish(None)).is_clear
    outbox = Outbox(0)
    await outbox.begin_stream(object())
    assert not outbox.is_clear
    outbox.end_stream(None)
    assert outbox.is_clear


async def test_has_one(nursery: trio.Nursery) -> None:
    outbox = Outbox(0)
    assert outbox.has_one()
    outbox.put_nowait(frame(b"1"))
    assert outbox.has_one()
    Task(nursery, outbox.put, frame(b"2"))
    await settle()
    assert not outbox.has_one()
    roomy = Outbox(1000)
    roomy.put_nowait(frame(b"1"))
    roomy.put_nowait(frame(b"2"))
    assert not roomy.has_one()
