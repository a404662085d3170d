"""Checks of positions and of the history."""

from __future__ import annotations

from ...hub.backend import Position
from ...protocol import Message
from .harness import BackendHarness, Entered, make_name

__all__ = ["check_history", "check_idempotence", "check_positions", "check_resuming"]


async def check_positions(harness: BackendHarness) -> None:
    """Offsets count the messages of a topic, and are the same for all subscribers."""
    topic = make_name()
    async with Entered(harness.make(), harness.make()) as (one, two):
        starts = [await client.subscribe(topic) for client in (one, two)]
        if not harness.has_positions:
            assert starts == [None, None]
            return
        assert starts[0] is not None
        assert starts[0] == starts[1]
        await one.publish(topic, "a", "b")
        await two.publish(topic, "c")
        for client in (one, two):
            events = await client.expect(topic, "a", "b", "c")
            epoch, offset = starts[0]
            assert [event.position for event in events] == [(epoch, offset + number) for number in (1, 2, 3)]


async def check_resuming(harness: BackendHarness) -> None:
    """A subscription with a position continues there, also in another process."""
    if not harness.has_positions:
        return
    topic = make_name()
    async with Entered(harness.make()) as (one,):
        start = await one.subscribe(topic)
        messages = [str(number) for number in range(100)]
        await one.publish(topic, *messages)
        events = await one.expect(topic, *messages)
        for index in (0, 50, 100):
            since = events[index - 1].position if index else start
            async with Entered(harness.make()) as (two,):
                assert await two.subscribe(topic, since) == since
                await two.expect(topic, *messages[index:])
                messages.append("new")
                await one.publish(topic, "new")
                await two.expect(topic, *messages[index:])


async def check_history(harness: BackendHarness) -> None:
    """The history has all messages after a position, in pages, and says if some are missing."""
    topic, other = make_name(), make_name()
    async with Entered(harness.make(), harness.make()) as (one, two):
        start = await one.subscribe(topic)
        if start is None:
            assert not (await two.backend.history(topic, Position("x", 0), 1000)).complete
            return
        messages = [str(number) * 100 for number in range(60)]
        await one.publish(topic, *messages)
        got: list[Message] = []
        since, pages = start, 0
        while True:
            page = await two.backend.history(topic, since, 2000)
            assert page.complete
            got.extend(event.message for event in page.messages)
            assert page.position is not None
            since = page.position
            pages += 1
            if not page.more:
                break
            assert page.messages, "a page must have at least one message"
        assert got == messages
        assert pages > 2, "max_bytes must limit a page"
        assert since == (start.epoch, start.offset + 60)
        page = await two.backend.history(topic, since, 2000)
        assert (list(page.messages), page.position, page.complete, page.more) == ([], since, True, False)
        for never in [
            Position("never", 3),
            Position(since.epoch, since.offset + 1),
            Position("", 0),
            Position("ä;=", 5),
        ]:
            assert not (await two.backend.history(topic, never, 2000)).complete
        assert not (await two.backend.history(other, since, 2000)).complete
        await one.publish(topic, None)
        assert not (await two.backend.history(topic, since, 2000)).complete


async def check_idempotence(harness: BackendHarness) -> None:
    """Messages that are published again are not stored again."""
    if not harness.has_positions:
        return
    topic = make_name()
    async with Entered(harness.make(), harness.make()) as (one, two):
        await two.subscribe(topic)
        batch = one.publications(topic, ["a", "b", "c"])
        await one.backend.publish(batch[:2])
        await one.backend.publish(batch)
        await one.backend.publish(batch)
        await one.publish(topic, "d")
        await two.expect(topic, "a", "b", "c", "d")
