"""Joining a topic: recovery of missed messages, and the positions in envelopes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws import ConnectionClosed, History, Hub, MemoryBackend, MemoryStore, Position, Publication, Topic
from trio_ws.hub import joining, members
from trio_ws.hub.backend import BackendEvent
from trio_ws.protocol import Role

from ..support import opened, pipe_pair, text
from .backends import Engine, RecordingBackend
from .test_exchange import LOST, news_of, receive_texts

settle = wait_all_tasks_blocked


def envelope(message: str | bytes, position: Position | None) -> str:
    return json.dumps([message, position])


def opened_envelope(message: str) -> tuple[str, list[Any]]:
    content, position = json.loads(message)
    return content, position


# -- In one process --------------------------------------------------------------------------------------------------


async def test_positions_in_envelopes() -> None:
    topic = Hub(envelope=envelope).topic("news")
    assert topic.position is None
    async with opened() as (ann, peer):
        with topic.subscribe(ann):
            for number in range(3):
                topic.publish(str(number))
            messages = [opened_envelope(message) for message in await receive_texts(peer, 3)]
            assert topic.position is not None
            assert messages == [(str(number), [topic.position.epoch, number + 1]) for number in range(3)]
            assert topic.position.offset == 3


async def test_a_client_that_comes_back_gets_what_it_has_missed() -> None:
    topic = Hub(envelope=envelope).topic("news")
    async with opened() as (ann, peer):
        async with topic.join(ann) as joined:
            assert (joined.recovered, joined.position) == (False, topic.position)
            assert topic.members == {ann}
            topic.publish("a")
            _, position = opened_envelope((await receive_texts(peer, 1))[0])
        assert topic.members == set()
    # Nobody is there.
    topic.publish("b")
    topic.publish("c")
    async with opened() as (ann, peer):
        async with topic.join(ann, since=position) as joined:
            assert joined.recovered
            topic.publish("d")
            messages = [opened_envelope(message)[0] for message in await receive_texts(peer, 3)]
            assert messages == ["b", "c", "d"]
            assert topic.position == (position[0], 4)
        async with topic.join(ann, since=Position(position[0], 4)) as joined:
            assert joined == joining.Joined(True, Position(position[0], 4))
            topic.publish("e")
            assert len(await receive_texts(peer, 1)) == 1


async def test_without_an_envelope_a_topic_has_positions_once_it_was_joined() -> None:
    hub = Hub()
    topic = hub.topic("news")
    async with opened() as (ann, peer):
        with topic.subscribe(ann):
            topic.publish("a")
            assert topic.position is None
            async with topic.join(ann) as joined:
                before = joined.position
                assert before is not None
                topic.publish("b")
            assert topic.position == (before.epoch, 1)
        assert await receive_texts(peer, 2) == ["a", "b"]
    topic.publish("c")
    async with opened() as (ann, peer), topic.join(ann, since=before) as joined:
        assert joined.recovered
        assert await receive_texts(peer, 2) == ["b", "c"]


@pytest.mark.parametrize(
    "make_since",
    [
        lambda position: Position("another epoch", position.offset),
        lambda position: Position(position.epoch, position.offset + 1),
        lambda position: Position(position.epoch, 2**100),
        lambda position: ["", 0],
    ],
)
async def test_positions_that_never_were(make_since: Callable[[Position], Any]) -> None:
    topic = Hub(envelope=envelope).topic("news")
    topic.publish("a")
    async with opened() as (ann, peer), topic.join(ann) as joined:
        assert joined.position is not None
        since = make_since(joined.position)
        async with opened() as (bob, bob_peer), topic.join(bob, since=since) as again:
            assert (again.recovered, again.position) == (False, joined.position)
            topic.publish("b")
            assert [opened_envelope(m)[0] for m in await receive_texts(bob_peer, 1)] == ["b"]
            await peer.receive()


async def test_history_that_was_trimmed() -> None:
    hub = Hub(envelope=envelope)
    topic = hub.topic("news")
    async with opened() as (ann, _), topic.join(ann) as joined:
        start = joined.position
    for number in range(1001):
        topic.publish(str(number))
    async with opened() as (ann, _):
        async with topic.join(ann, since=start) as joined:
            assert not joined.recovered
        assert start is not None
        async with topic.join(ann, since=Position(start.epoch, 1)) as joined:
            assert joined.recovered


async def test_history_has_a_maximum_age(autojump_clock: MockClock) -> None:
    hub = Hub(envelope=envelope)
    topic = hub.topic("news")
    topic.publish("a")
    async with opened(ping_interval=None) as (ann, _), topic.join(ann) as joined:
        start = joined.position
        assert start is not None
        topic.publish("b")
        await trio.sleep(200)
        topic.publish("c")
        await trio.sleep(200)
        # A topic with members keeps its position.
        for number in range(10):
            hub.topic(str(number)).publish("x")
        assert topic.position == (start.epoch, 3)
        async with opened() as (bob, _), topic.join(bob, since=start) as again:
            assert not again.recovered
        async with opened() as (bob, _), topic.join(bob, since=Position(start.epoch, 2)) as again:
            assert again.recovered
    await trio.sleep(301)
    for _ in range(100):
        hub.topic("news 2").publish("x")
    assert list(hub._core._store._timelines) == ["news 2"]


async def test_history_is_bounded_in_memory() -> None:
    hub = Hub(envelope=envelope)
    store = hub._core._store
    for number in range(3_000):
        hub.topic(str(number)).publish("x" * 10_000)
    assert 2**23 < store._size <= 2**24
    for number in range(40_000):
        hub.topic(str(number % 20_000)).publish("")
    assert store._size <= 2**24
    assert len(store._timelines) <= 10_000


@pytest.mark.parametrize(
    "since, error",
    [
        (3, TypeError),
        ("ab", TypeError),
        (("a", "b"), TypeError),
        ((1, 2), TypeError),
        (("a", True), TypeError),
        (("a", 1, 2), TypeError),
        (("a", -1), ValueError),
        ({"a": 1, "b": 2}, TypeError),
    ],
)
async def test_invalid_positions(since: Any, error: type[Exception]) -> None:
    async with opened() as (ann, _):
        with pytest.raises(error, match="since"):
            Hub().topic("news").join(ann, since=since)


async def test_joining_cannot_be_entered_twice() -> None:
    topic = Hub().topic("news")
    async with opened() as (ann, _):
        joined = topic.join(ann)
        async with joined:
            pass
        with pytest.raises(RuntimeError):
            await joined.__aenter__()


def test_invalid_stores() -> None:
    wrong: list[dict[str, Any]] = [
        {"history": -1},
        {"history": 1.5},
        {"max_age": 0},
        {"max_age": "1"},
        {"max_age": float("inf")},
        {"max_bytes": None},
    ]
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
            MemoryStore(**arguments)


async def test_topics_in_use_do_not_take_the_room_of_the_history() -> None:
    store = MemoryStore(max_bytes=10_000)
    positions = [store.use(str(number)) for number in range(100)]
    start = positions[0]
    store.append(Publication("0", "a", "", 1))
    history = store.history("0", start, 1000)
    assert history.complete
    assert [event.message for event in history.messages] == ["a"]
    # Those that are no longer in use do; the quiet ones go first.
    for number in range(1, 100):
        store.release(str(number))
    store.use("99")
    store.append(Publication("0", "b", "", 2))
    assert {number for number in range(100) if str(number) in store} == {0, *range(93, 100)}
    assert [event.message for event in store.history("0", start, 1000).messages] == ["a", "b"]


# -- Through an engine -----------------------------------------------------------------------------------------------


async def test_joining_waits_for_the_engine(autojump_clock: MockClock) -> None:
    engine = Engine()
    here, there = Hub(backend=engine.backend()), Hub(backend=engine.backend())
    (topic,) = news_of(here)
    async with opened(ping_interval=None) as (ann, peer), trio.open_nursery() as nursery:
        with trio.move_on_after(5) as scope:
            async with topic.join(ann):
                raise AssertionError("hub.run() is not running")
        assert scope.cancelled_caught
        assert not here._core.states
        await nursery.start(there.run)
        await nursery.start(here.run)
        async with topic.join(ann) as joined:
            # It is in effect at once.
            there.topic("news").publish("a")
            assert await peer.receive() == text("a")
            assert joined.position is not None
            start = joined.position
        await settle()
        engine.fail()
        nursery.start_soon(_recover_after, engine, 50)
        async with topic.join(ann, since=start) as joined:
            assert joined.recovered
            assert trio.current_time() > 50
            assert await peer.receive() == text("a")
        nursery.cancel_scope.cancel()


async def _recover_after(engine: Engine, seconds: float) -> None:
    await trio.sleep(seconds)
    engine.recover()


@pytest.mark.parametrize("with_envelope", [False, True])
@pytest.mark.parametrize("page", [1, 100, 100_000])
async def test_nothing_is_missing_and_nothing_twice(
    with_envelope: bool, page: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections join at all moments, while two processes publish, and the engine is slow and fails."""
    monkeypatch.setattr(joining, "PAGE_BYTES", page)
    engine = Engine()
    hubs = [Hub(backend=engine.backend(), envelope=envelope if with_envelope else None) for _ in range(2)]
    topics = news_of(*hubs)
    count = 60
    results: list[list[str]] = []

    async def publish(topic: Topic, name: str) -> None:
        for number in range(count):
            topic.publish(f"{name} {number}")
            await trio.sleep(0.1)

    async def work_badly() -> None:
        for number in range(40):
            await trio.sleep(0.07)
            engine.stop()
            await trio.sleep(0.05)
            engine.works.set()
            if number % 10 == 5:
                engine.fail()
                await trio.sleep(0.1)
                engine.recover()

    async def join(topic: Topic, since: Position, delay: float) -> None:
        await trio.sleep(delay)
        async with opened(ping_interval=None) as (ws, peer), topic.join(ws, since=since) as joined:
            assert joined.recovered
            await trio.sleep(60)
            results.append(await receive_texts(peer, 2 * count))
            assert topic.publish("end") == []
            await trio.sleep(1)
            (last,) = await receive_texts(peer, 1)
            assert "end" in last

    async with trio.open_nursery() as nursery:
        for hub in hubs:
            await nursery.start(hub.run)
        async with opened() as (ws, _), topics[0].join(ws) as first:
            start = first.position
        assert start is not None
        for topic, name in zip(topics, ("one", "two"), strict=True):
            nursery.start_soon(publish, topic, name)
        nursery.start_soon(work_badly)
        async with trio.open_nursery() as joiners:
            for number in range(20):
                joiners.start_soon(join, topics[number % 2], start, number * 0.37)
                # The messages that end one may not come to the others.
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            joiners.cancel_scope.deadline = trio.current_time() + 1000
        nursery.cancel_scope.cancel()
    assert len(results) == 20
    for messages in results:
        contents = [opened_envelope(message)[0] if with_envelope else message for message in messages]
        if with_envelope:
            assert [opened_envelope(message)[1][1] for message in messages] == list(range(1, 2 * count + 1))
        for name in ("one", "two"):
            assert [m for m in contents if m.startswith(name)] == [f"{name} {number}" for number in range(count)]


class Restarts(RecordingBackend):
    """Its engine keeps its data over restarts, after each of which positions have another epoch.

    Attributes:
        restarts: The number of restarts.
        keeps_up: While this is not set, nothing is received.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.restarts = 0
        self.keeps_up = trio.Event()
        self.keeps_up.set()

    def _show(self, position: Position | None) -> Position | None:
        return position and Position(f"{position.epoch}.{self.restarts}", position.offset)

    def _hide(self, position: Position | None) -> Position | None:
        return position and Position(position.epoch.partition(".")[0], position.offset)

    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        positions = await super().subscribe({topic: self._hide(since) for topic, since in topics.items()})
        return {topic: self._show(position) for topic, position in positions.items()}

    async def receive(self) -> Sequence[BackendEvent]:
        events = await super().receive()
        await self.keeps_up.wait()
        return [attrs.evolve(event, position=self._show(event.position)) for event in events]

    async def history(self, topic: str, since: Position, max_bytes: int) -> History:
        history = await super().history(topic, Position(since.epoch.partition(".")[0], since.offset), max_bytes)
        messages = [attrs.evolve(event, position=self._show(event.position)) for event in history.messages]
        return attrs.evolve(history, messages=messages, position=self._show(history.position))


async def test_nothing_comes_twice_if_the_engine_restarts_while_the_hub_is_behind(autojump_clock: MockClock) -> None:
    """The member has got from the history what the hub receives only after the restart, in a new epoch."""
    engine = Engine()
    backend = Restarts(engine)
    here, there = Hub(backend=backend), Hub(backend=engine.backend())
    (topic,) = news_of(here)
    async with trio.open_nursery() as nursery, opened() as (ann, ann_peer), opened() as (bob, bob_peer):
        for hub in (here, there):
            await nursery.start(hub.run)
        async with topic.join(ann) as first:
            backend.keeps_up = trio.Event()
            for number in range(5):
                there.topic("news").publish(str(number))
            await settle()
            async with topic.join(bob, since=first.position) as joined:
                assert joined.recovered
                assert topic.position == first.position
                engine.fail()
                await settle()
                engine.recover()
                backend.restarts += 1
                backend.keeps_up.set()
                await trio.sleep(10)
                for number in range(5, 8):
                    there.topic("news").publish(str(number))
                for peer in (ann_peer, bob_peer):
                    assert await receive_texts(peer, 8) == [str(number) for number in range(8)]
        nursery.cancel_scope.cancel()


def test_the_publishers_that_are_remembered_are_bounded() -> None:
    numbers = members.Numbers()
    for publisher in range(members.MAX_PUBLISHERS + 1):
        assert numbers.record(str(publisher), 5)
        assert not numbers.record(str(publisher), 4)
    # The one that has published least recently was forgotten.
    assert not numbers.record("1", 5)
    assert numbers.record("0", 5)
    numbers.clear()
    assert numbers.record("1", 5)


async def test_a_slow_peer_gets_a_long_history_bit_by_bit(nursery: trio.Nursery) -> None:
    hub = Hub(backend=MemoryBackend(), max_backlog=100_000)
    await nursery.start(hub.run)
    (topic,) = news_of(hub)
    async with opened() as (ws, peer), topic.join(ws) as joined:
        start = joined.position
        for number in range(100):
            topic.publish(f"{number:<20000}")
            await peer.receive()
            await settle()
        async with opened(Role.SERVER, pipe_pair(1000)) as (slow, slow_peer):

            async def read() -> None:
                assert [int(message) for message in await receive_texts(slow_peer, 100)] == list(range(100))

            async with trio.open_nursery() as inner:
                inner.start_soon(read)
                async with topic.join(slow, since=start) as joined:
                    assert joined.recovered
    nursery.cancel_scope.cancel()


async def test_too_much_arrives_while_joining(nursery: trio.Nursery) -> None:
    engine = Engine()
    hub = Hub(backend=engine.backend(), max_backlog=10_000)
    await nursery.start(hub.run)
    (topic,) = news_of(hub)
    async with opened() as (ws, _), opened() as (other, peer), topic.join(other) as first:
        assert first.position is not None
        results = []

        async def join() -> None:
            async with topic.join(ws, since=first.position) as joined:
                results.append(joined.recovered)

        engine.stop()
        topic.publish("not acknowledged yet")
        nursery.start_soon(join)
        await settle()
        await receive_texts(peer, 1)
        for _ in range(20):
            topic.publish("x" * 1000)
            await receive_texts(peer, 1)
        assert not results
        engine.works.set()
        await settle()
        assert results == [False]
    nursery.cancel_scope.cancel()


async def test_messages_are_lost_while_joining(nursery: trio.Nursery) -> None:
    hub = Hub(backend=MemoryBackend())
    await nursery.start(hub.run)
    (topic,) = news_of(hub)

    async def fetch(*args: object) -> History:
        hub._core._lose(hub._core.states["news"])
        return History((), start, complete=True)

    async with opened() as (ws, _), opened() as (other, peer), topic.join(other) as first:
        start = first.position
        hub._core.fetch = fetch  # type: ignore[method-assign,assignment]  # to lose something at this moment
        async with topic.join(ws, since=start) as joined:
            assert not joined.recovered
        assert await peer.receive() == LOST
    nursery.cancel_scope.cancel()


async def test_a_connection_that_is_closed_while_joining(autojump_clock: MockClock) -> None:
    topic = Hub(envelope=envelope).topic("news")
    async with opened() as (ws, _), topic.join(ws) as joined:
        start = joined.position
    for _ in range(30):
        topic.publish("x" * 20_000)
    async with opened() as (ws, _):
        await ws.send_close()
        with pytest.raises(ConnectionClosed):
            async with topic.join(ws, since=start):
                pass
        assert topic.members == set()
