"""Checks of messages: types, order, and subscriptions."""

from __future__ import annotations

import trio

from ...hub.backend import Lost, Received
from ...protocol import Message
from .harness import PATIENCE, BackendHarness, Entered, make_name

__all__ = [
    "check_cancelled_calls",
    "check_large_batches",
    "check_markers",
    "check_messages_arrive",
    "check_names_of_topics",
    "check_subscriptions_are_effective",
    "check_unsubscribing",
]


async def check_messages_arrive(harness: BackendHarness) -> None:
    """Messages arrive at all subscribers, the publisher included, with their types and numbers, in their order."""
    topic, other = make_name(), make_name()
    messages: list[Message] = ["a", b"b", "", b"", "\0ä\U0001f600", bytes(range(256)), "x" * 100_000]
    async with Entered(harness.make(), harness.make()) as (one, two):
        for client in (one, two):
            await client.subscribe(topic)
        publications = one.publications(topic, messages)
        await one.backend.publish(publications)
        await one.publish(other, "nobody")
        for client in (one, two):
            events = await client.expect(topic, *messages)
            for event, publication in zip(events, publications, strict=True):
                assert isinstance(event, Received)
                assert type(event.message) is type(publication.message), "the type of the message must be kept"
                assert (event.publisher, event.number) == (publication.publisher, publication.number)
            assert not client.of(other), "only subscribed topics must be received"


async def check_names_of_topics(harness: BackendHarness) -> None:
    """A topic may have any name, and each is another topic."""
    base = make_name()
    names = [
        base,
        f"{base} ",
        f"{base}{{}}",
        f"{base}}}{{",
        f"{base}*",
        f"{base}.>",
        f"{base}:s",
        f"ä{base}",
        base.upper(),
    ]
    names += [f"{base}{'x' * 500}", f"{base}\n\0", f"/{base}/?a=b&c"]
    async with Entered(harness.make(), harness.make()) as (one, two):
        await two.backend.subscribe(dict.fromkeys(names))
        await one.backend.publish([each for name in names for each in one.publications(name, [name])])
        for name in names:
            await two.expect(name, name)


async def check_large_batches(harness: BackendHarness) -> None:
    """Many messages of many topics in one batch arrive in order."""
    topics = [make_name() for _ in range(50)]
    async with Entered(harness.make(), harness.make()) as (one, two):
        await two.backend.subscribe(dict.fromkeys(topics))
        for start in range(0, 100, 20):
            numbers = range(start, start + 20)
            await one.backend.publish(
                [each for number in numbers for topic in topics for each in one.publications(topic, [str(number)])]
            )
        for topic in topics:
            await two.expect(topic, *map(str, range(100)))


async def check_subscriptions_are_effective(harness: BackendHarness) -> None:
    """A message that is published after ``subscribe`` has returned arrives; one from before does not."""
    async with Entered(harness.make(), harness.make()) as (one, two):
        for _ in range(20):
            topic = make_name()
            await one.publish(topic, "before")
            await two.subscribe(topic)
            await one.publish(topic, "after")
            await two.expect(topic, "after")


async def check_unsubscribing(harness: BackendHarness) -> None:
    """After ``unsubscribe``, messages no longer arrive, until the topic is subscribed again."""
    topic, other = make_name(), make_name()
    async with Entered(harness.make(), harness.make()) as (one, two):
        await two.backend.subscribe({topic: None, other: None})
        await one.publish(topic, "a")
        await two.expect(topic, "a")
        await two.backend.unsubscribe([topic])
        await two.backend.unsubscribe([make_name()])
        # The engine needs a moment; what counts is that it is before the other topic's message.
        await one.publish(other, "1")
        await two.expect(other, "1")
        await one.publish(topic, "b")
        await one.publish(other, "2")
        await two.expect(other, "1", "2")
        assert len(two.of(topic)) == 1, "an unsubscribed topic must not be received"
        await two.subscribe(topic)
        await one.publish(topic, "c")
        await two.expect(topic, "a", "c")


async def check_markers(harness: BackendHarness) -> None:
    """A publication without a message arrives as a loss, in its place, with its publisher."""
    topic = make_name()
    async with Entered(harness.make(), harness.make()) as (one, two):
        await two.subscribe(topic)
        await one.publish(topic, "a", None, "b")
        events = await two.expect(topic, "a", Lost, "b")
        assert isinstance(events[1], Lost)
        assert events[1].publisher == one.backend.id


async def check_cancelled_calls(harness: BackendHarness) -> None:
    """Calls that are cancelled at any moment do no harm, and a message that is published again arrives once."""
    topic = make_name()
    async with Entered(harness.make(), harness.make()) as (one, two):
        await two.subscribe(topic)
        expected = []
        for step in range(30):
            message = str(step)
            batch = one.publications(topic, [message])
            with trio.move_on_after(step * 0.0001):
                await one.backend.publish(batch)
            await one.backend.publish(batch)
            expected.append(message)
        with trio.move_on_after(PATIENCE):
            while len({event.number for event in two.of(topic) if isinstance(event, Received)}) < len(expected):
                await two.wait_arrival()
        # Without a history, the hub removes duplicates.
        events = [event for event in two.of(topic) if isinstance(event, Received)]
        numbers = sorted({event.number for event in events})
        assert numbers == list(range(1, len(expected) + 1))
        if harness.has_positions:
            await two.expect(topic, *expected)
