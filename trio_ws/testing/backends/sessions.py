"""Checks of members, and of sessions: entering, outages, and engines that come back empty."""

from __future__ import annotations

import trio

from ...exceptions import BackendUnavailable
from ...hub.backend import Lost, Position, Publication
from .harness import PATIENCE, BackendHarness, Entered, is_unavailable, make_name

__all__ = ["check_emptied_engine", "check_entering_again", "check_interruption", "check_members"]


async def check_members(harness: BackendHarness) -> None:
    """Members are counted in all other processes; those of a process that has left no longer are."""
    topic, other = make_name(), make_name()
    async with Entered(harness.make(), harness.make()) as (one, two):
        assert await one.backend.count_members(topic) == 0
        await one.backend.set_members({topic: 3, other: 1})
        assert await one.backend.count_members(topic) == 0
        assert await two.backend.count_members(topic) == 3
        await two.backend.set_members({topic: 4})
        await one.backend.set_members({topic: 1})
        assert await one.backend.count_members(topic) == 4
        assert await two.backend.count_members(topic) == 1
        async with Entered(harness.make()) as (three,):
            await three.backend.set_members({topic: 10})
            assert await three.backend.count_members(topic) == 5
            assert await two.backend.count_members(topic) == 11
        assert await two.backend.count_members(topic) == 1
        await one.backend.set_members({topic: 0})
        assert await two.backend.count_members(topic) == 0
        assert await two.backend.count_members(other) == 1


async def check_entering_again(harness: BackendHarness) -> None:
    """A back end can be entered again, and then has no subscriptions and members."""
    topic = make_name()
    again = harness.make()
    async with Entered(harness.make()) as (one,):
        for _ in range(3):
            async with Entered(again) as (two,):
                await two.subscribe(topic)
                await two.backend.set_members({topic: 2})
                await one.publish(topic, "a")
                await two.expect(topic, "a")
                assert await one.backend.count_members(topic) == 2
            assert await one.backend.count_members(topic) == 0
            try:
                await again.count_members(topic)
            except BackendUnavailable:
                pass
            else:
                raise AssertionError("count_members() must raise BackendUnavailable while the back end is not entered")


async def check_interruption(harness: BackendHarness) -> None:
    """When the engine goes away, the session ends with ``BackendUnavailable``; afterwards, nothing is missing."""
    topic = make_name()
    one, two = harness.make(), harness.make()
    since: Position | None = None
    pending: list[Publication] = []
    try:
        async with Entered(one, two) as clients:
            since = await clients[1].subscribe(topic)
            await clients[0].publish(topic, "a")
            await clients[1].expect(topic, "a")
            pending = clients[0].publications(topic, ["b"])
            # The end of the session cancels this block.
            with trio.CancelScope(shield=True):
                try:
                    await harness.interrupt()
                except NotImplementedError:
                    return
            with trio.fail_after(PATIENCE + 10):
                for _ in range(1000):
                    await one.publish(pending)
                    await trio.sleep(0.02)
    except BaseException as exc:
        if not is_unavailable(exc):
            raise
    for _ in range(200):
        try:
            async with Entered(one, two) as clients:
                await clients[1].subscribe(topic, since)
                await one.publish(pending)
                if harness.has_positions:
                    await clients[1].expect(topic, "a", "b")
                return
        except BaseException as exc:
            if not is_unavailable(exc):
                raise
        await trio.sleep(PATIENCE / 200)
    raise AssertionError("the back end must be available again")


async def check_emptied_engine(harness: BackendHarness) -> None:
    """Positions of an engine that has lost its data are recognized."""
    if not harness.has_positions:
        return
    topic = make_name()
    one = harness.make()
    async with Entered(one) as (client,):
        await client.subscribe(topic)
        await client.publish(topic, "a", "b")
        events = await client.expect(topic, "a", "b")
    try:
        await harness.empty()
    except NotImplementedError:
        return
    async with Entered(one, harness.make()) as (client, other):
        await other.publish(topic, "c", "d", "e")
        for event in events:
            assert event.position is not None
            assert not (await one.history(topic, event.position, 1000)).complete
        await client.subscribe(topic, events[-1].position)
        await client.expect(topic, Lost, "c", "d", "e")
