"""Unit tests of the outbox: order, the bound in bytes of memory, parts, control frames, cancellation, the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from sys import getsizeof

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_ws.connection.lag import PostLimits
from trio_ws.connection.outbox import MAX_PONGS, Outbox
from trio_ws.connection.state import ConnectionState, Event
from trio_ws.frames import Close, Opcode
from trio_ws.protocol.closing import Closing
from trio_ws.protocol.codec import FIN
from trio_ws.protocol.connection import OutgoingFrame
from trio_ws.protocol.extensions import EncodingCache

from ..support import Task

settle = wait_all_tasks_blocked

HUNDRED = b"x" * 100


class Fixture:
    """An outbox with a writer that writes when it is told to."""

    def __init__(self, limit: int) -> None:
        self.state = ConnectionState(Closing())
        self.outbox = Outbox(self.state, limit)
        self.outbox.take()
        self.outbox.record_written()

    def finish(self, close: Close | None) -> None:
        self.state.advance(Event.CLOSE)
        self.outbox.finish(close)


def make(limit: int) -> Outbox:
    return Fixture(limit).outbox


def frame(data: bytes, fin: bool = True, opcode: Opcode = Opcode.BINARY) -> OutgoingFrame:
    return ((FIN if fin else 0) | opcode, data, True)


def rest(data: bytes) -> OutgoingFrame:
    return frame(data, False, Opcode.CONT)


LAST = frame(b"", True, Opcode.CONT)


def payloads(outbox: Outbox) -> list[bytes]:
    return [data for _, data, _ in outbox.take()]


def memory(frame: OutgoingFrame) -> int:
    return getsizeof(frame) + getsizeof(frame[1])


def backlog(size: float) -> PostLimits:
    return PostLimits(size, math.inf, True)


# -- Whole messages --------------------------------------------------------------------------------------------------


async def test_frames_go_out_in_order() -> None:
    outbox = make(1000)
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


async def test_writing_makes_room() -> None:
    outbox = make(2 * memory(frame(HUNDRED)))
    assert outbox.put_nowait(frame(HUNDRED))
    assert outbox.put_nowait(frame(HUNDRED))
    assert outbox.size == 2 * memory(frame(HUNDRED))
    assert not outbox.put_nowait(frame(b""))
    outbox.take()
    assert not outbox.put_nowait(frame(b""))
    outbox.record_written()
    assert outbox.put_nowait(frame(HUNDRED))
    # The memory of messages that were added in the meantime is still counted.
    outbox.take()
    assert outbox.put_nowait(frame(HUNDRED))
    outbox.record_written()
    assert outbox.put_nowait(frame(HUNDRED))
    assert not outbox.put_nowait(frame(b""))


async def test_empty_frames_take_room_too() -> None:
    outbox = make(10 * memory(frame(b"")))
    assert [outbox.put_nowait(frame(b"")) for _ in range(11)] == [True] * 10 + [False]


async def test_there_is_always_room_for_one_frame() -> None:
    outbox = make(0)
    assert outbox.put_nowait(frame(b"x" * 100_000))
    assert not outbox.put_nowait(frame(b""))
    outbox.take()
    outbox.record_written()
    assert outbox.put_nowait(frame(b""))


async def test_senders_wait_in_line(nursery: trio.Nursery) -> None:
    outbox = make(2 * memory(frame(b"0")))
    outbox.put_nowait(frame(HUNDRED))
    tasks = []
    for i in range(5):
        tasks.append(Task(nursery, outbox.put, frame(b"%d" % i)))
        await settle()
    assert not any(task.done for task in tasks)
    outbox.take()
    outbox.record_written()
    # Two messages fit. No message may overtake the waiting ones, even if it would fit.
    assert not outbox.put_nowait(frame(b""))
    late = Task(nursery, outbox.put, frame(b"l"))
    await settle()
    assert [task.result for task in tasks] == [True] * 2 + [None] * 3
    assert payloads(outbox) == [b"0", b"1"]
    outbox.record_written()
    await settle()
    assert payloads(outbox) == [b"2", b"3"]
    outbox.record_written()
    await settle()
    assert payloads(outbox) == [b"4", b"l"]
    assert late.result is True


async def test_a_sender_that_is_cancelled_puts_nothing(nursery: trio.Nursery) -> None:
    outbox = make(0)
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
        outbox.record_written()
        await settle()
    assert got == [b"first", b"0", b"2"]


async def test_a_sender_that_is_cancelled_too_late_has_put_it(nursery: trio.Nursery) -> None:
    outbox = make(0)
    outbox.put_nowait(frame(b"first"))
    task = Task(nursery, outbox.put, frame(b"a"))
    await settle()
    outbox.take()
    outbox.record_written()
    task.scope.cancel()
    await settle()
    assert task.result is True
    assert payloads(outbox) == [b"a"]


async def test_a_cancelled_large_message_blocks_no_others(nursery: trio.Nursery) -> None:
    outbox = make(memory(frame(HUNDRED)) + memory(frame(b"a")))
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


# -- The writer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["message", "ping", "pong", "kept"])
async def test_the_writer_is_woken(what: str, nursery: trio.Nursery) -> None:
    outbox = make(0)
    puts: dict[str, Callable[[], object]] = {
        "message": lambda: outbox.put_nowait(frame(b"a")),
        "ping": lambda: outbox.put_ping(b""),
        "pong": lambda: outbox.put_pong(b""),
        "kept": lambda: outbox.add_unwritten(frame(b"a")),
    }
    for _ in range(3):
        task = Task(nursery, outbox.wait)
        await settle()
        assert not task.done
        puts[what]()
        await settle()
        assert task.result is True
        outbox.take()
        outbox.record_written()


@pytest.mark.parametrize("left", [True, False])
async def test_the_writer_is_woken_by_the_end(left: bool, nursery: trio.Nursery) -> None:
    fixture = Fixture(0)
    outbox = fixture.outbox
    task = None if left else Task(nursery, outbox.wait)
    await settle()
    if left:
        outbox.put_nowait(frame(b"a"))
    fixture.finish(Close(1000, ""))
    if task is None:
        assert await outbox.wait()
        assert payloads(outbox) == [b"a"]
        outbox.record_written()
    else:
        await settle()
        assert task.result is False
    assert not await outbox.wait()


async def test_a_writer_that_is_cancelled_loses_nothing(nursery: trio.Nursery) -> None:
    outbox = make(1000)
    task = Task(nursery, outbox.wait)
    await settle()
    outbox.put_nowait(frame(b"a"))
    task.scope.cancel()
    outbox.put_ping(b"p")
    await settle()
    assert await outbox.wait()
    assert payloads(outbox) == [b"p", b"a"]


async def test_the_writer_is_woken_for_a_withdrawn_ping(nursery: trio.Nursery) -> None:
    outbox = make(0)
    task = Task(nursery, outbox.wait)
    await settle()
    outbox.put_ping(b"a")
    assert outbox.pings == [b"a"]
    outbox.pings.remove(b"a")
    await settle()
    assert not task.done
    assert outbox.take() == []


async def test_pongs_are_bounded() -> None:
    outbox = make(0)
    for i in range(MAX_PONGS):
        outbox.put_pong(b"%d" % i)
    assert len(outbox.take()) == MAX_PONGS
    for i in range(10_000):
        outbox.put_pong(b"%d" % i)
    pongs = payloads(outbox)
    assert len(pongs) <= MAX_PONGS
    assert pongs[-1] == b"9999"


async def test_past_the_bound_only_the_latest_pong_is_kept() -> None:
    outbox = make(0)
    for i in range(MAX_PONGS + 1):
        outbox.put_pong(b"%d" % i)
    assert payloads(outbox) == [b"%d" % MAX_PONGS]


async def test_a_frame_that_is_half_written() -> None:
    outbox = make(0)
    outbox.add_unwritten(frame(HUNDRED))
    assert outbox.writing
    assert outbox.size == memory(frame(HUNDRED))
    assert await outbox.wait()
    # The frame counts against the budget until it is written.
    assert not outbox.put_nowait(frame(b""))
    outbox.record_written()
    assert not outbox.writing
    assert outbox.put_nowait(frame(b""))


async def test_when_a_message_may_go_out_at_once() -> None:
    def outbox_with(change: Callable[[Outbox], object]) -> Outbox:
        outbox = make(1000)
        change(outbox)
        return outbox

    assert make(0).is_clear
    assert not outbox_with(lambda outbox: outbox.put_nowait(frame(b""))).is_clear
    assert not outbox_with(lambda outbox: outbox.put_ping(b"")).is_clear
    assert not outbox_with(lambda outbox: outbox.put_pong(b"")).is_clear
    assert not outbox_with(lambda outbox: outbox.add_unwritten(frame(b""))).is_clear
    # True until the writer has started, because the response of the opening handshake may be half-written.
    assert not Outbox(ConnectionState(Closing()), 0).is_clear
    outbox = make(0)
    await outbox.begin_parts(object())
    assert not outbox.is_clear
    outbox.end_parts(None)
    assert outbox.is_clear


# -- Messages in parts -----------------------------------------------------------------------------------------------


async def test_nothing_gets_between_the_parts(nursery: trio.Nursery) -> None:
    outbox = make(1000)
    message = object()
    assert await outbox.begin_parts(message)
    assert not outbox.put_nowait(frame(b"other"))
    other = Task(nursery, outbox.put, frame(b"other"))
    await settle()
    after = Task(nursery, outbox.begin_parts, object())
    await settle()
    assert await outbox.put_part(message, frame(b"a", fin=False))
    assert await outbox.put_part(message, rest(b"b"))
    await settle()
    assert (other.done, after.done) == (False, False)
    assert outbox.end_parts(LAST)
    await settle()
    assert (other.result, after.result) == (True, True)
    assert payloads(outbox) == [b"a", b"b", b"", b"other"]


async def test_parts_wait_for_room(nursery: trio.Nursery) -> None:
    outbox = make(0)
    message = object()
    assert await outbox.begin_parts(message)
    other = Task(nursery, outbox.put, frame(b"other"))
    await settle()
    assert await outbox.put_part(message, frame(b"a", fin=False))
    part = Task(nursery, outbox.put_part, message, rest(b"b"))
    await settle()
    assert not part.done
    assert payloads(outbox) == [b"a"]
    outbox.record_written()
    await settle()
    assert (part.result, other.done) == (True, False)
    # There is always room for the last part.
    assert outbox.end_parts(LAST)
    assert payloads(outbox) == [b"b", b""]
    outbox.record_written()
    await settle()
    assert other.result is True


async def test_a_part_that_is_cancelled_is_not_put(nursery: trio.Nursery) -> None:
    outbox = make(0)
    message = object()
    assert await outbox.begin_parts(message)
    assert await outbox.put_part(message, frame(b"a", fin=False))
    part = Task(nursery, outbox.put_part, message, rest(b"b"))
    await settle()
    part.scope.cancel()
    await settle()
    outbox.end_parts(LAST)
    assert payloads(outbox) == [b"a", b""]


async def test_beginning_waits_in_line(nursery: trio.Nursery) -> None:
    outbox = make(0)
    outbox.put_nowait(frame(b"a"))
    first = Task(nursery, outbox.put, frame(b"b"))
    await settle()
    beginning = Task(nursery, outbox.begin_parts, object())
    await settle()
    last = Task(nursery, outbox.put, frame(b"c"))
    await settle()
    assert payloads(outbox) == [b"a"]
    outbox.record_written()
    await settle()
    assert (first.result, beginning.done, last.done) == (True, False, False)
    # A message can only begin if there is room for its last part.
    assert payloads(outbox) == [b"b"]
    outbox.record_written()
    await settle()
    assert (beginning.result, last.done) == (True, False)
    # No part was sent, so nothing is written.
    assert not outbox.end_parts(None)
    await settle()
    assert last.result is True
    assert payloads(outbox) == [b"c"]


async def test_beginning_that_is_cancelled(nursery: trio.Nursery) -> None:
    outbox = make(0)
    outbox.put_nowait(frame(b"a"))
    tasks = [Task(nursery, outbox.put, frame(b"b"))]
    await settle()
    tasks.append(Task(nursery, outbox.begin_parts, object()))
    await settle()
    tasks.append(Task(nursery, outbox.put, frame(b"c")))
    await settle()
    tasks[1].scope.cancel()
    got = []
    for _ in range(3):
        got += payloads(outbox)
        outbox.record_written()
        await settle()
    assert got == [b"a", b"b", b"c"]
    assert [task.result for task in tasks] == [True, None, True]


async def test_a_part_that_waits_when_its_message_ends_is_refused(nursery: trio.Nursery) -> None:
    outbox = make(0)
    message = object()
    assert await outbox.begin_parts(message)
    assert await outbox.put_part(message, frame(b"a", fin=False))
    part = Task(nursery, outbox.put_part, message, rest(b"b"))
    other = Task(nursery, outbox.put, frame(b"other"))
    await settle()
    assert outbox.end_parts(LAST)
    await settle()
    assert (part.result, other.done) == (False, False)
    assert payloads(outbox) == [b"a", b""]
    outbox.record_written()
    await settle()
    assert other.result is True


async def test_a_task_does_not_wait_for_the_end_of_its_own_message() -> None:
    outbox = make(1000)
    assert await outbox.begin_parts(object())
    with pytest.raises(RuntimeError, match="send_stream"):
        await outbox.put(frame(b"a"))
    with pytest.raises(RuntimeError, match="send_stream"):
        await outbox.begin_parts(object())


# -- Messages of broadcasts ------------------------------------------------------------------------------------------


async def drain(outbox: Outbox) -> list[bytes]:
    """Write everything, as the writer does. Return the payloads."""
    sent = []
    while outbox.size:
        sent += payloads(outbox)
        outbox.record_written()
        await settle()
    return sent


async def test_posted_messages_overdraw_the_budget(nursery: trio.Nursery) -> None:
    outbox = make(2 * memory(frame(b"0")))
    limits = backlog(4 * memory(frame(b"0")))
    assert [outbox.post(frame(b"%d" % i), limits) for i in range(5)] == [True] * 4 + [False]
    assert outbox.size == limits.max_backlog
    # Those who send wait until there is room in the budget.
    assert not outbox.put_nowait(frame(b"5"))
    task = Task(nursery, outbox.put, frame(b"5"))
    await settle()
    assert payloads(outbox) == [b"0", b"1", b"2", b"3"]
    await settle()
    assert not task.done
    outbox.record_written()
    await settle()
    assert task.result
    assert await drain(outbox) == [b"5"]
    assert outbox.size == 0


async def test_a_sender_waits_until_the_budget_has_room_for_it(nursery: trio.Nursery) -> None:
    outbox = make(100_000)
    for letter in (b"a", b"b", b"c"):
        assert outbox.post(frame(letter * 100_000), backlog(math.inf))
    task = Task(nursery, outbox.put, frame(b"d" * 90_000))
    await settle()
    # The writer takes no more at a time than the budget has.
    for letter in (b"a", b"b"):
        assert [data[:1] for data in payloads(outbox)] == [letter]
        outbox.record_written()
        await settle()
        assert not task.done
    assert [data[:1] for data in await drain(outbox)] == [b"c", b"d"]


async def test_a_large_backlog_is_taken_in_steps() -> None:
    outbox = make(0)
    number = 100_000 // memory(frame(HUNDRED))
    for _ in range(number):
        assert outbox.post(frame(HUNDRED), backlog(math.inf))
    first = payloads(outbox)
    assert 0 < sum(memory(frame(data)) for data in first[:-1]) < 64 * 1024 < outbox.size
    outbox.put_ping(b"ping")
    outbox.record_written()
    assert outbox.size == (number - len(first)) * memory(frame(HUNDRED))
    assert await outbox.wait()
    assert payloads(outbox) == [b"ping", *[HUNDRED] * (number - len(first))]
    outbox.record_written()
    assert outbox.is_clear


async def test_one_message_is_posted_however_large() -> None:
    outbox = make(0)
    assert outbox.post(frame(HUNDRED), backlog(0))
    assert not outbox.post(frame(b""), backlog(0))
    assert await drain(outbox) == [HUNDRED]


async def test_the_objects_of_a_posted_message_count() -> None:
    outbox = make(0)
    shared = (FIN | Opcode.BINARY, b"", EncodingCache())
    assert outbox.post(shared, backlog(math.inf))
    assert outbox.size >= memory(shared) + getsizeof(EncodingCache()) + getsizeof(shared[2].frames)
    assert await drain(outbox) == [b""]
    assert outbox.size == 0


async def test_posted_messages_do_not_pass_those_that_wait(nursery: trio.Nursery) -> None:
    outbox = make(0)
    limits = backlog(math.inf)
    assert outbox.post(frame(b"1"), limits)
    before = Task(nursery, outbox.put, frame(b"2"))
    await settle()
    assert outbox.post(frame(b"3"), limits)
    after = Task(nursery, outbox.put, frame(b"4"))
    await settle()
    assert outbox.post(frame(b"5"), limits)
    assert outbox.size == 3 * memory(frame(b"0"))
    assert await drain(outbox) == [b"1", b"2", b"3", b"5", b"4"]
    assert (before.result, after.result) == (True, True)


async def test_a_sender_that_is_cancelled_holds_nothing_back(nursery: trio.Nursery) -> None:
    outbox = make(0)
    outbox.put_nowait(frame(b"1"))
    task = Task(nursery, outbox.put, frame(b"2"))
    await settle()
    assert outbox.post(frame(b"3"), backlog(math.inf))
    task.scope.cancel()
    await settle()
    assert payloads(outbox) == [b"1", b"3"]


async def test_the_newest_message_waits_for_room(nursery: trio.Nursery) -> None:
    outbox = make(0)
    limits = backlog(0)
    assert outbox.post(frame(b"1"), limits)
    for data in (b"2", b"3" * 50, b"4"):
        assert not outbox.post(frame(data), limits)
        outbox.post_newest(frame(data), limits)
    assert outbox.size == memory(frame(b"1")) + memory(frame(b"4"))
    # Nothing passes it, even if it fits.
    assert not outbox.put_nowait(frame(b""))
    assert not outbox.post(frame(b""), backlog(math.inf))
    task = Task(nursery, outbox.put, frame(b"5"))
    await settle()
    outbox.post_newest(frame(b"6"), limits)
    assert await drain(outbox) == [b"1", b"6", b"5"]
    assert task.result
    # Once it is in the channel, it counts like any other message.
    assert outbox.post(frame(b"7"), limits)
    outbox.post_newest(frame(b"8"), limits)
    assert payloads(outbox) == [b"7"]
    outbox.record_written()
    assert payloads(outbox) == [b"8"]


async def test_the_newest_message_stays_behind_those_who_waited_before(nursery: trio.Nursery) -> None:
    outbox = make(0)
    limits = backlog(0)
    assert outbox.post(frame(b"1"), limits)
    before = Task(nursery, outbox.put, frame(b"2"))
    await settle()
    outbox.post_newest(frame(b"3"), limits)
    after = Task(nursery, outbox.put, frame(b"4"))
    await settle()
    outbox.post_newest(frame(b"5"), limits)
    assert await drain(outbox) == [b"1", b"2", b"5", b"4"]
    assert (before.result, after.result) == (True, True)


async def test_the_newest_message_does_not_let_the_backlog_grow() -> None:
    outbox = make(0)
    limits = backlog(200_000)
    while outbox.post(frame(HUNDRED), limits):
        pass
    sizes = []
    for _ in range(20):
        if not outbox.post(frame(b"x" * 100_000), limits):
            outbox.post_newest(frame(b"x" * 100_000), limits)
        sizes.append(outbox.size)
        outbox.take()
        outbox.record_written()
    assert max(sizes) <= limits.max_backlog + memory(frame(b"x" * 100_000))


async def test_posted_in_the_middle_of_the_parts() -> None:
    outbox = make(2 * memory(frame(b"0")))
    limits = backlog(2 * memory(frame(b"0")))
    message = object()
    assert await outbox.begin_parts(message)
    assert outbox.post(frame(b"1"), limits)
    assert outbox.post(frame(b"2"), limits)
    assert not outbox.post(frame(b"3"), limits)
    outbox.post_newest(frame(b"4"), limits)
    outbox.post_newest(frame(b"5"), limits)
    # The parts have their own room.
    assert await outbox.put_part(message, frame(b"a", fin=False))
    assert payloads(outbox) == [b"a"]
    outbox.record_written()
    assert outbox.end_parts(LAST)
    assert await drain(outbox) == [b"", b"1", b"2", b"5"]
    assert outbox.is_clear
    assert outbox.size == 0


async def test_one_message_is_posted_in_the_middle_of_the_parts_however_large() -> None:
    outbox = make(0)
    assert await outbox.begin_parts(object())
    assert outbox.post(frame(HUNDRED), backlog(0))
    assert not outbox.post(frame(b""), backlog(0))
    outbox.end_parts(None)
    assert payloads(outbox) == [HUNDRED]


@pytest.mark.parametrize("in_parts", [True, False])
async def test_what_was_posted_ends_with_the_outbox(in_parts: bool) -> None:
    fixture = Fixture(0)
    outbox = fixture.outbox
    if in_parts:
        assert await outbox.begin_parts(object())
    assert outbox.post(frame(b"1"), backlog(0))
    outbox.post_newest(frame(b"2"), backlog(0))
    fixture.finish(Close(1000, ""))
    assert outbox.size == (0 if in_parts else memory(frame(b"1")))
    assert payloads(outbox) == ([] if in_parts else [b"1"])
    outbox.record_written()
    assert not outbox.post(frame(b"3"), backlog(math.inf))
    outbox.post_newest(frame(b"3"), backlog(math.inf))
    assert outbox.size == 0


async def test_what_was_posted_behind_a_sender_goes_out_before_the_end(nursery: trio.Nursery) -> None:
    fixture = Fixture(0)
    outbox = fixture.outbox
    outbox.put_nowait(frame(b"1"))
    sender = Task(nursery, outbox.put, frame(b"2"))
    await settle()
    assert outbox.post(frame(b"3"), backlog(math.inf))
    fixture.finish(Close(1000, ""))
    await settle()
    assert sender.result is False
    assert await drain(outbox) == [b"1", b"3"]


# -- The end ---------------------------------------------------------------------------------------------------------


async def test_finish_with_a_close_frame(nursery: trio.Nursery) -> None:
    fixture = Fixture(100)
    outbox = fixture.outbox
    outbox.put_nowait(frame(HUNDRED))
    outbox.put_ping(b"ping")
    outbox.put_pong(b"pong")
    tasks = []
    for function, argument in ((outbox.put, frame(b"b")), (outbox.put, frame(b"c")), (outbox.begin_parts, object())):
        tasks.append(Task(nursery, function, argument))
        await settle()
    close = Close(1000, "")
    fixture.finish(close)
    await settle()
    assert (outbox.close, [task.result for task in tasks]) == (close, [False] * 3)
    # Queued frames are written, and nothing else.
    outbox.put_ping(b"late")
    outbox.put_pong(b"late")
    assert not outbox.put_nowait(frame(b"late"))
    assert not await outbox.put(frame(b"late"))
    assert not await outbox.begin_parts(object())
    assert payloads(outbox) == [b"pong", b"ping", HUNDRED]


async def test_finish_without_a_close_frame(nursery: trio.Nursery) -> None:
    fixture = Fixture(100)
    outbox = fixture.outbox
    outbox.put_nowait(frame(HUNDRED))
    outbox.put_ping(b"ping")
    outbox.put_pong(b"pong")
    tasks = [Task(nursery, outbox.put, frame(b"b"))]
    await settle()
    tasks.append(Task(nursery, outbox.begin_parts, object()))
    await settle()
    fixture.finish(Close(1000, ""))
    fixture.finish(None)
    await settle()
    assert [task.result for task in tasks] == [False, False]
    assert (outbox.close, outbox.take()) == (None, [])
    outbox.record_written()
    assert not await outbox.wait()


async def test_finish_in_the_middle_of_the_parts(nursery: trio.Nursery) -> None:
    fixture = Fixture(0)
    outbox = fixture.outbox
    message = object()
    assert await outbox.begin_parts(message)
    assert await outbox.put_part(message, frame(b"a", fin=False))
    part = Task(nursery, outbox.put_part, message, rest(b"b"))
    await settle()
    fixture.finish(Close(1000, ""))
    await settle()
    assert part.result is False
    assert not await outbox.put_part(message, rest(b"b"))
    assert not outbox.end_parts(LAST)
    assert payloads(outbox) == [b"a"]
