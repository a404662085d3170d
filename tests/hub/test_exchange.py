"""Hubs that a back end connects: the queue, sessions, outages and losses."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from sys import getsizeof
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import (
    Backend,
    BackendUnavailable,
    Backoff,
    History,
    Hub,
    Instrument,
    Joined,
    MemoryBackend,
    MemoryStore,
    MessagesRefused,
    ObservedHub,
    Position,
    Publication,
    Received,
    Topic,
)
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.hub import outgoing
from trio_ws.hub.exchange import MAX_FETCHES, Exchange
from trio_ws.protocol import Role

from ..support import Peer, opened, text
from .backends import Engine, RecordingBackend

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

settle = wait_all_tasks_blocked

#: The frame that closes members if messages are lost.
LOST = Frame(Opcode.CLOSE, Close(1012, "messages were lost, reconnect").serialize())


def news_of(*hubs: Hub) -> list[Topic]:
    return [hub.topic("news") for hub in hubs]


def exchange_of(hub: Hub) -> Exchange:
    assert hub._core.exchange is not None
    return hub._core.exchange


async def receive_texts(peer: Peer, count: int) -> list[str]:
    texts = []
    for _ in range(count):
        frame = await peer.receive()
        assert frame is not None
        assert frame.opcode is Opcode.TEXT
        texts.append(frame.data.decode())
    return texts


class Losses(Instrument):
    def __init__(self) -> None:
        self.lost: list[str] = []

    def hub_lost(self, hub: ObservedHub, topic: str) -> None:
        self.lost.append(topic)


# -- Exchange of messages --------------------------------------------------------------------------------------------


async def test_two_hubs(nursery: trio.Nursery) -> None:
    store = MemoryStore()
    hubs = Hub(backend=MemoryBackend(store)), Hub(backend=MemoryBackend(store))
    for hub in hubs:
        await nursery.start(hub.run)
    one, two = news_of(*hubs)
    async with opened() as (ann, ann_peer), opened() as (bob, bob_peer), opened() as (eve, eve_peer):
        with one.subscribe(ann), two.subscribe(bob), two.subscribe(eve):
            await settle()
            assert (len(one), len(two)) == (1, 2)
            assert [await topic.count_members() for topic in (one, two)] == [3, 3]
            one.publish("a", exclude=[ann])
            one.publish(b"b")
            await settle()
            two.publish(b"c", text=True, exclude=[eve])
            two.publish("d", text=False)
            assert [await ann_peer.receive() for _ in range(3)] == [
                Frame(Opcode.BINARY, b"b"),
                text("c"),
                Frame(Opcode.BINARY, b"d"),
            ]
            for peer, expected in [(bob_peer, ["a", b"b", "c", b"d"]), (eve_peer, ["a", b"b", b"d"])]:
                for message in expected:
                    frame = await peer.receive()
                    assert frame == (text(message) if isinstance(message, str) else Frame(Opcode.BINARY, message))
        await settle()
        assert [hub._core.states for hub in hubs] == [{}, {}]
        one.publish("nobody")
        await settle()
    assert [await topic.count_members() for topic in (one, two)] == [0, 0]
    nursery.cancel_scope.cancel()


async def test_messages_from_other_hubs_without_members_here(nursery: trio.Nursery) -> None:
    engine = Engine()
    here, there = Hub(backend=engine.backend()), Hub(backend=engine.backend())
    for hub in (here, there):
        await nursery.start(hub.run)
    there.topic("news").publish("too early")
    await settle()
    async with opened() as (ws, peer):
        with here.topic("news").subscribe(ws):
            await settle()
            there.topic("news").publish("in time")
            assert await peer.receive() == text("in time")
    nursery.cancel_scope.cancel()


async def test_the_back_end_gets_the_last_number_of_members(nursery: trio.Nursery) -> None:
    wire = RecordingBackend()
    hub = Hub(backend=wire)
    (topic,) = news_of(hub)
    async with opened() as (one, _), opened() as (two, _):
        with topic.subscribe(one), topic.subscribe(one):
            with topic.subscribe(two):
                pass
            topic.publish("a")
            await nursery.start(hub.run)
            await settle()
            assert wire.calls == [("subscribe", "news"), ("set_members", "news", 1), ("publish", "news", "a")]
            with topic.subscribe(two):
                await settle()
            await settle()
    await settle()
    assert wire.counts[1:] == [("set_members", "news", count) for count in (2, 1, 0)]
    assert not exchange_of(hub)._changed
    nursery.cancel_scope.cancel()


async def test_an_unchanged_number_of_members_is_not_sent(nursery: trio.Nursery) -> None:
    wire = RecordingBackend()
    hub = Hub(backend=wire)
    await nursery.start(hub.run)
    (topic,) = news_of(hub)
    async with opened() as (ws, _):
        with topic.subscribe(ws):
            await settle()
            with topic.subscribe(ws):
                await settle()
            await settle()
    await settle()
    assert wire.counts == [("set_members", "news", 1), ("set_members", "news", 0)]
    nursery.cancel_scope.cancel()


class SlowBackend(RecordingBackend):
    """A back end for which telling a number of members takes a second."""

    async def set_members(self, counts: Mapping[str, int]) -> None:
        await trio.sleep(1)
        await super().set_members(counts)


async def test_messages_go_out_while_members_come_and_go(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wire = SlowBackend()
    hub = Hub(backend=wire)

    async def come_and_go(ws: trio_ws.WebSocket) -> None:
        for number in itertools.count():
            with hub.topic(str(number)).subscribe(ws):
                await trio.sleep(0.4)

    async with opened() as (ws, _):
        nursery.start_soon(come_and_go, ws)
        await trio.sleep(1)
        with trio.fail_after(10):
            await nursery.start(hub.run)
            for number in range(3):
                hub.topic("news").publish(str(number))
                await trio.sleep(2)
        assert wire.published == ["0", "1", "2"]
    nursery.cancel_scope.cancel()


async def test_a_message_waits_for_the_subscription_that_came_before_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A new member must get the answers to what it publishes."""
    wire = SlowBackend()
    hub = Hub(backend=wire)
    await nursery.start(hub.run)
    async with opened() as (ws, _):
        with hub.topic("a").subscribe(ws):
            await trio.sleep(0.5)
            with hub.topic("b").subscribe(ws):  # while the back end is told of the other topic
                hub.topic("b").publish("question")
                await trio.sleep(5)
        assert wire.calls.index(("subscribe", "b")) < wire.calls.index(("publish", "b", "question"))
    nursery.cancel_scope.cancel()


async def test_a_message_that_a_policy_fails_for_is_published(nursery: trio.Nursery) -> None:
    def fail(topic: str) -> trio_ws.WhenFull:
        raise LookupError

    wire = RecordingBackend()
    hub = Hub(backend=wire, when_full=fail)
    await nursery.start(hub.run)
    async with opened() as (ws, _):
        with hub.topic("news").subscribe(ws):
            await settle()
            with pytest.raises(LookupError):
                hub.topic("news").publish("a")
            await settle()
            assert wire.published == ["a"]
    nursery.cancel_scope.cancel()


async def test_topics_and_messages_go_in_batches(nursery: trio.Nursery) -> None:
    wire = RecordingBackend()
    hub = Hub(backend=wire)
    topics = [hub.topic(f"news {number}") for number in range(20)]
    async with opened() as (ws, _):
        for topic in topics:
            hub._core.change_subscriptions(topic.name, ws, 1)
        await nursery.start(hub.run)
        assert wire.calls[0] == ("subscribe", *(topic.name for topic in topics))
        for number in range(outgoing.BATCH_MESSAGES + 1):
            topics[0].publish(str(number))
        batch = exchange_of(hub).outgoing.next_batch(1000)
        assert [publication.message for publication in batch] == [str(n) for n in range(outgoing.BATCH_MESSAGES)]
        await settle()
        assert wire.published == [str(number) for number in range(outgoing.BATCH_MESSAGES + 1)]
        for topic in topics:
            hub._core.change_subscriptions(topic.name, ws, -1)
    nursery.cancel_scope.cancel()


# -- The queue -------------------------------------------------------------------------------------------------------


async def test_the_backlog_is_bounded(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Room for two of the messages of 50 bytes, with all objects that hold them.
    monkeypatch.setattr(outgoing, "MAX_BACKLOG", 2 * (outgoing.ITEM_OVERHEAD + getsizeof("news") + getsizeof("b" * 50)))
    wire = RecordingBackend()
    hub = Hub(backend=wire)
    (topic,) = news_of(hub)
    async with opened() as (ws, peer):
        with topic.subscribe(ws):
            for message in ("ä" * 400, "lost", "lost too"):
                topic.publish(message)
                assert await peer.receive() == text(message)
            assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
            await nursery.start(hub.run)
            await settle()
            assert exchange_of(hub).outgoing.size == 0
            for message in ("b" * 50, "c" * 50, "d"):
                topic.publish(message)
            await settle()
            # The members here have got them all.
            assert await receive_texts(peer, 3) == ["b" * 50, "c" * 50, "d"]
    # One marker takes the place of consecutive messages.
    assert wire.published == ["ä" * 400, None, "b" * 50, "c" * 50, None]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("message", ["", b"", "ä" * 100])
@pytest.mark.parametrize("name", ["news", "n" * 1000])
async def test_the_backlog_counts_objects(message: str | bytes, name: str, nursery: trio.Nursery) -> None:
    engine = Engine()
    hub = Hub(backend=engine.backend())
    await nursery.start(hub.run)
    engine.stop()
    for _ in range(8_000):
        hub.topic(name).publish(message)
    queue = exchange_of(hub).outgoing
    items = [item for item in queue._items if item[0].message is not None]
    assert 100 < len(items) < 8_000
    assert len(queue) == len(items) + 1  # and one marker
    memory = sum(
        getsizeof(item)
        + sum(map(getsizeof, item))
        + sum(map(getsizeof, (item[0].topic, item[0].message, item[0].number)))
        for item in items
    )
    assert 2**20 - 2000 < memory <= queue.size
    assert queue.size - queue._markers_size <= 2**20
    nursery.cancel_scope.cancel()


async def test_markers_are_bounded(nursery: trio.Nursery) -> None:
    hub = Hub(backend=RecordingBackend())
    hub.topic("big").publish(bytes(2**20))
    for number in range(20_000):
        hub.topic(str(number)).publish("")
    queue = exchange_of(hub).outgoing
    assert 1_000 < len(queue) < 20_000
    assert queue._markers_size <= 2**20
    await nursery.start(hub.run)
    await settle()
    assert (len(queue), queue.size, queue._markers_size) == (0, 0, 0)
    nursery.cancel_scope.cancel()


async def test_a_marker_for_all_topics(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    """If there is no room for the markers of more topics, the others learn that any topic may miss messages."""
    monkeypatch.setattr(outgoing, "MAX_BACKLOG", 5000)
    store = MemoryStore()
    losses = Losses(), Losses()
    here, there = (Hub(backend=MemoryBackend(store), instruments=[each], when_lost="ignore") for each in losses)
    names = [f"topic {number}" for number in range(50)]
    async with opened() as (ann, peer), opened() as (bob, bob_peer):
        await nursery.start(here.run)
        async with here.topic(names[0]).join(ann) as joined, here.topic(names[-1]).join(ann) as last:
            with there.topic(names[-1]).subscribe(bob):
                there.topic("large").publish(bytes(5000))
                for name in names:
                    there.topic(name).publish("lost")
                assert exchange_of(there).outgoing.size < 5000 + 10_000
                await nursery.start(there.run)
                await settle()
                # The first topic has a marker of its own, too.
                assert sorted(losses[0].lost) == [names[0], names[0], names[-1]]
                # Those in the same process have got everything.
                assert losses[1].lost == []
                assert await receive_texts(bob_peer, 1) == ["lost"]
            there.topic(names[-1]).publish("a")
            assert await receive_texts(peer, 1) == ["a"]
            now = here.topic(names[-1]).position
            there.topic(names[-1]).publish("b")
            assert await receive_texts(peer, 1) == ["b"]
        assert joined.position is not None
        assert last.position is not None
        # The engine has the whole history of the topic, but it misses something.
        for topic in (here.topic(names[-1]), there.topic(names[-1])):
            async with opened() as (eve, _), topic.join(eve, since=last.position) as again:
                assert not again.recovered
            async with opened() as (eve, eve_peer), topic.join(eve, since=now) as again:
                assert again.recovered
                assert await receive_texts(eve_peer, 1) == ["b"]
            # A new member gets a position that is valid.
            async with topic.join(bob) as new, topic.join(ann, since=new.position) as again:
                assert again == Joined(True, new.position)
    nursery.cancel_scope.cancel()


def test_a_marker_for_all_topics_is_repeated_behind_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    # Room for two markers: one of a topic, and one of all topics.
    monkeypatch.setattr(outgoing, "MAX_BACKLOG", 800)
    queue = outgoing.Outgoing(MemoryBackend())
    large = "x" * 500
    assert queue.put("a", large, 0.0)
    for topic in ("b", "c", "d", "e", "b"):
        assert not queue.put(topic, large, 0.0)
    in_flight = queue.next_batch(queue.number)
    assert [publication.topic for publication in in_flight] == ["a", "b", outgoing.LOSSES]
    # The last marker may be received already: what is dropped now needs another one.
    assert not queue.put("c", large, 0.0)
    queue.acknowledge()
    assert queue.put("c", large, 0.0)
    for topic in ("c", "d", "d", "e"):
        assert not queue.put(topic, large, 0.0)
    batch = queue.next_batch(queue.number)
    assert [publication.topic for publication in batch] == [outgoing.LOSSES, "c", outgoing.LOSSES]
    assert [publication.message for publication in batch] == [None, large, None]
    queue.acknowledge()
    assert (len(queue), queue.size, queue._markers_size) == (0, 0, 0)


async def test_an_engine_that_has_lost_markers_for_all_topics(nursery: trio.Nursery) -> None:
    """A process that was away while such a marker came and was removed again cannot know what it has missed."""
    engine = Engine(history=2)
    losses = Losses()
    hub = Hub(backend=engine.backend(), instruments=[losses], when_lost="ignore")
    other = engine.backend()
    async with opened() as (ann, _):
        with hub.topic("news").subscribe(ann):
            async with trio.open_nursery() as inner:
                await inner.start(hub.run)
                inner.cancel_scope.cancel()
            async with other:
                await other.publish([Publication(outgoing.LOSSES, None, "x", number) for number in range(1, 4)])
            await nursery.start(hub.run)
            await settle()
            assert "news" in losses.lost
            losses.lost.clear()
            # A message is none of ours, and no loss.
            exchange_of(hub)._deliver(Received(outgoing.LOSSES, "hello", "x", 4, Position("x", 4)))
            assert losses.lost == []
    nursery.cancel_scope.cancel()


def test_the_topic_of_losses_is_reserved() -> None:
    with pytest.raises(ValueError, match="name must not be 'trio_ws:losses'"):
        Hub().topic("trio_ws:losses")


async def test_the_topics_that_have_changed_are_bounded(nursery: trio.Nursery) -> None:
    wire = RecordingBackend()
    hub = Hub(backend=wire)
    async with opened() as (ws, _):
        for number in range(1000):
            with hub.topic(str(number)).subscribe(ws):
                pass
        assert not exchange_of(hub)._changed
        with hub.topic("told").subscribe(ws):
            await nursery.start(hub.run)
            await settle()
        await settle()
        assert wire.calls == [
            ("subscribe", "told"),
            ("set_members", "told", 1),
            ("set_members", "told", 0),
            ("unsubscribe", "told"),
        ]
        assert (exchange_of(hub)._changed, hub._core.states) == ({}, {})
    nursery.cancel_scope.cancel()


async def test_a_loss_in_the_queue_is_passed_on_in_its_place(nursery: trio.Nursery) -> None:
    engine = Engine()
    hubs = Hub(backend=engine.backend()), Hub(backend=engine.backend())
    for hub in hubs:
        await nursery.start(hub.run)
    one, two = news_of(*hubs)
    async with opened() as (ann, ann_peer), opened() as (bob, bob_peer):
        with one.subscribe(ann), two.subscribe(bob):
            await settle()
            engine.stop()
            big = "x" * 600_000
            for message in (big, "in between", big, "behind"):
                one.publish(message)
            engine.works.set()
            await settle()
            assert await receive_texts(ann_peer, 4) == [big, "in between", big, "behind"]
            assert await receive_texts(bob_peer, 2) == [big, "in between"]
            assert await bob_peer.receive() == LOST
            # Only those have missed something that are in other processes.
            one.publish("more")
            assert await receive_texts(ann_peer, 1) == ["more"]
    nursery.cancel_scope.cancel()


# -- Messages that the engine will never accept ----------------------------------------------------------------------


@pytest.mark.parametrize("with_envelope", [False, True])
async def test_a_message_that_the_engine_refuses_is_given_up(
    with_envelope: bool, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    losses = Losses(), Losses()
    here, there = (
        Hub(
            backend=engine.backend(),
            instruments=[each],
            when_lost="ignore",
            envelope=(lambda message, position: message) if with_envelope else None,
        )
        for each in losses
    )
    engine.refuses = lambda publication: str(publication.message).startswith("bad")
    async with opened() as (ann, ann_peer), opened() as (bob, bob_peer):
        with here.topic("news").subscribe(ann), there.topic("news").subscribe(bob):
            await nursery.start(there.run)
            for message in ("a", "bad ä", "b", "bad", "c"):
                here.topic("news").publish(message)
            here.topic("other").publish("bad")
            here.topic("news").publish("d")
            await nursery.start(here.run)
            await settle()
            assert not exchange_of(here).outgoing
            assert exchange_of(here).outgoing.size == 0
            expected = ["a", "b", "c", "d"]
            assert await receive_texts(bob_peer, 4) == expected
            assert await receive_texts(ann_peer, 4) == (expected if with_envelope else ["a", "bad ä", "b", "bad"])
    assert sorted(losses[0].lost) == ["news", "news", "other"]
    assert losses[1].lost == ["news", "news"]
    assert "message of 6 bytes to topic 'news' given up: too large" in caplog.text
    assert "message of 3 bytes to topic 'other' given up" in caplog.text
    nursery.cancel_scope.cancel()


async def test_a_refused_message_is_a_loss_in_its_place(nursery: trio.Nursery) -> None:
    engine = Engine()
    here, there = Hub(backend=engine.backend()), Hub(backend=engine.backend())
    engine.refuses = lambda publication: publication.message == "bad"
    async with opened() as (bob, peer):
        with there.topic("news").subscribe(bob):
            await nursery.start(there.run)
            for message in ("a", "bad", "b"):
                here.topic("news").publish(message)
            await nursery.start(here.run)
            assert await receive_texts(peer, 1) == ["a"]
            assert await peer.receive() == LOST
    nursery.cancel_scope.cancel()


async def test_an_engine_that_refuses_even_markers(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    hub = Hub(backend=engine.backend())
    engine.refuses = lambda publication: publication.topic == "bad"
    await nursery.start(hub.run)
    hub.topic("bad").publish("a")
    hub.topic("good").publish("b")
    await settle()
    assert not exchange_of(hub).outgoing
    assert engine.backends[0].published.count("b") == 3
    assert "a marker of lost messages to topic 'bad' given up" in caplog.text
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("numbers", [[], [5]])
async def test_a_back_end_that_refuses_messages_that_it_did_not_get(numbers: list[int]) -> None:
    class Confused(MemoryBackend):
        async def publish(self, batch: Sequence[Publication]) -> None:
            await trio.lowlevel.checkpoint()
            raise MessagesRefused(numbers, "too large")

    hub = Hub(backend=Confused())
    hub.topic("news").publish("a")
    with pytest.raises(BaseExceptionGroup) as caught:
        await hub.run()
    assert caught.group_contains(MessagesRefused)


class ClosesConnection(RecordingBackend):
    """Its engine ends the session when it gets a message that is larger than a limit."""

    limit = 300_000

    async def publish(self, batch: Sequence[Publication]) -> None:
        for publication in batch:
            if publication.message is not None and len(publication.message) > self.limit:
                self.calls.append(("failed",))
                raise BackendUnavailable("connection lost")
        await super().publish(batch)


async def test_a_message_that_ends_the_session_is_given_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    here, there = ClosesConnection(engine), engine.backend()
    hubs = [Hub(backend=backend) for backend in (here, there)]
    async with trio.open_nursery() as nursery, opened() as (bob, peer):
        for hub in hubs:
            await nursery.start(hub.run)
        with hubs[1].topic("news").subscribe(bob):
            await settle()
            for message in ("a", b"x" * 300_001):
                hubs[0].topic("news").publish(message)
            hubs[0].topic("other").publish("b")
            assert await receive_texts(peer, 1) == ["a"]
            assert await peer.receive() == LOST
        assert here.calls.count(("failed",)) == outgoing.MAX_FAILURES
        await trio.sleep(1)
        assert here.published[-1] == "b"
        assert "message of 300001 bytes to topic 'news' given up: connection lost" in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_large_message_survives_an_outage(autojump_clock: MockClock) -> None:
    """Only attempts to publish it count, not those to connect."""
    engine = Engine()
    backend = ClosesConnection(engine)
    hub = Hub(backend=backend)
    message = bytes(300_001)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        hub.topic("news").publish(message)
        await settle()
        assert backend.calls == [("failed",)]
        engine.fail()
        await trio.sleep(100)
        backend.limit = 300_001
        engine.recover()
        await trio.sleep(10)
        assert backend.published == [message]
        nursery.cancel_scope.cancel()


async def test_a_small_message_waits_for_an_engine_that_fails_again_and_again(autojump_clock: MockClock) -> None:
    """Size cannot be the reason: such a message goes out when the engine works again."""
    backend = ClosesConnection()
    backend.limit = 3
    hub = Hub(backend=backend)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        hub.topic("news").publish("small")
        await trio.sleep(100)
        assert backend.calls.count(("failed",)) > 10
        backend.limit = 100
        await trio.sleep(10)
        assert backend.published == ["small"]
        nursery.cancel_scope.cancel()


# -- Outages ---------------------------------------------------------------------------------------------------------


async def test_a_back_end_that_fails_for_good() -> None:
    engine = Engine()
    wire = engine.backend()
    hub = Hub(backend=wire)
    (topic,) = news_of(hub)
    async with opened() as (ws, _), opened() as (other, _):
        with topic.subscribe(ws):
            engine.error = OSError("no such engine")
            with pytest.raises(BaseExceptionGroup) as caught:
                await hub.run()
            assert caught.value.exceptions == (engine.error,)
        with hub.topic("other").subscribe(other):
            # When run again, the hub sends the changes made meanwhile.
            engine.recover()
            async with trio.open_nursery() as nursery:
                await nursery.start(hub.run)
                await settle()
                assert wire.counts == [("set_members", "other", 1)]
                nursery.cancel_scope.cancel()
            # It also sends all other numbers again, because the back end may have lost them.
            async with trio.open_nursery() as nursery:
                await nursery.start(hub.run)
                await settle()
                assert wire.counts == [("set_members", "other", 1)] * 2
                nursery.cancel_scope.cancel()


async def test_a_back_end_that_fails_while_it_runs() -> None:
    engine = Engine()
    hub = Hub(backend=engine.backend())
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            engine.fail(ValueError("a bug"))
    assert caught.group_contains(ValueError, match="a bug")


async def test_a_slow_back_end(autojump_clock: MockClock) -> None:
    class Slow(RecordingBackend):
        async def check(self) -> None:
            await trio.sleep(1)

    wire = Slow()
    hub = Hub(backend=wire)
    (topic,) = news_of(hub)
    async with opened() as (ws, _), trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        with topic.subscribe(ws):
            await trio.sleep(1.5)
            topic.publish("a")
        # The number has changed during the call.
        await trio.sleep(10)
        assert wire.calls == [
            ("subscribe", "news"),
            ("set_members", "news", 1),
            ("unsubscribe", "news"),
            ("set_members", "news", 0),
            ("publish", "news", "a"),
        ]
        with topic.subscribe(ws):
            await trio.sleep(1.5)
            nursery.cancel_scope.cancel()
    # A number whose call was cancelled is sent again.
    assert list(exchange_of(hub)._changed) == ["news"]


async def test_run_waits_for_an_engine(autojump_clock: MockClock) -> None:
    engine = Engine()
    engine.fail()
    hub = Hub(backend=engine.backend())
    started = False

    async def start() -> None:
        nonlocal started
        await nursery.start(hub.run)
        started = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await trio.sleep(100)
        assert not started
        with pytest.raises(RuntimeError):
            await hub.run()
        engine.recover()
        await trio.sleep(2)
        assert started
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("limit", [{"max_attempts": 3}, {"max_elapsed": 10.0}])
async def test_the_backoff_may_have_a_limit(limit: dict[str, Any], autojump_clock: MockClock) -> None:
    engine = Engine()
    engine.fail()
    hub = Hub(backend=engine.backend(), backoff=Backoff(initial=1, random=lambda: 1.0, **limit))
    with pytest.raises(BackendUnavailable, match="the engine is down"):
        await hub.run()
    assert trio.current_time() > 2


@pytest.mark.parametrize("with_envelope", [False, True])
async def test_an_outage_loses_nothing(with_envelope: bool, autojump_clock: MockClock) -> None:
    engine = Engine()
    envelope = (lambda message, position: f"{position.offset} {message}") if with_envelope else None
    hubs = [Hub(backend=engine.backend(), envelope=envelope) for _ in range(2)]
    one, two = news_of(*hubs)
    async with trio.open_nursery() as nursery, opened() as (ann, ann_peer), opened() as (bob, bob_peer):
        for hub in hubs:
            await nursery.start(hub.run)
        with one.subscribe(ann), two.subscribe(bob):
            await settle()
            engine.backends[0].loses_answers = True
            for number in range(30):
                one.publish(f"one {number}")
                two.publish(f"two {number}")
                if number == 10:
                    engine.fail()
                if number == 20:
                    engine.recover()
                await trio.sleep(0.5)
            await trio.sleep(10)
            received = [await receive_texts(peer, 60) for peer in (ann_peer, bob_peer)]
            if with_envelope:
                assert received[0] == received[1]
                assert [int(message.split()[0]) for message in received[0]] == list(range(1, 61))
                received = [[message.split(" ", 1)[1] for message in messages] for messages in received]
            for messages in received:
                for name in ("one", "two"):
                    assert [m for m in messages if m.startswith(name)] == [f"{name} {n}" for n in range(30)]
            assert one.position == two.position == (two.position and Position(two.position.epoch, 60))
        nursery.cancel_scope.cancel()
    assert len(engine.backends[0].published) > 30  # some were published twice


async def test_run_again_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    engine = Engine()
    hubs = [Hub(backend=engine.backend()) for _ in range(2)]
    one, two = news_of(*hubs)
    async with trio.open_nursery() as nursery, opened() as (ann, ann_peer), opened() as (bob, bob_peer):
        await nursery.start(hubs[1].run)
        with one.subscribe(ann), two.subscribe(bob):
            for number in range(0, 40, 4):
                # Cancelled at all kinds of moments.
                with trio.move_on_after(1 + number / 1000):
                    nursery_of_run: trio.Nursery
                    async with trio.open_nursery() as nursery_of_run:
                        await nursery_of_run.start(hubs[0].run)
                        one.publish(f"one {number}")
                        two.publish(f"two {number}")
                        await trio.sleep_forever()
                one.publish(f"one {number + 1}")
                two.publish(f"two {number + 1}")
                await settle()
            await nursery.start(hubs[0].run)
            await trio.sleep(1)
            for peer in (ann_peer, bob_peer):
                messages = await receive_texts(peer, 40)
                for name in ("one", "two"):
                    expected = [f"{name} {n + i}" for n in range(0, 40, 4) for i in range(2)]
                    assert [m for m in messages if m.startswith(name)] == expected
        nursery.cancel_scope.cancel()


async def test_a_stuck_engine_holds_up_nobody_here(nursery: trio.Nursery) -> None:
    engine = Engine()
    hub = Hub(backend=engine.backend())
    await nursery.start(hub.run)
    engine.stop()
    (topic,) = news_of(hub)
    async with opened() as (ann, peer), opened() as (bob, _):
        with topic.subscribe(ann), topic.subscribe(bob):
            topic.publish("a", exclude=[bob])
            assert await peer.receive() == text("a")
            assert len(topic) == 2
    nursery.cancel_scope.cancel()


class NewEpochs(RecordingBackend):
    """Its engine was restarted: positions have a new epoch. Before a new subscription is confirmed, a message comes."""

    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        positions = await super().subscribe(topics)
        if None in topics.values():
            await self.publish([Publication(topic, "early", "other", 1) for topic in topics if topic == "news"])
            await settle()
            return positions
        return {topic: since and Position("new", since.offset) for topic, since in topics.items()}


async def test_positions_are_those_of_the_last_subscription() -> None:
    hub = Hub(backend=NewEpochs())
    (topic,) = news_of(hub)
    async with opened() as (ann, peer), trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        with topic.subscribe(ann):
            assert await peer.receive() == text("early")
            await settle()
            # What was delivered meanwhile counts.
            assert topic.position is not None
            assert topic.position.offset == 1
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await settle()
                async with trio.open_nursery() as inner:
                    await inner.start(hub.run)
                    assert topic.position == Position("new", 1)
                    inner.cancel_scope.cancel()


class SlowHistory(MemoryBackend):
    """Its calls of history return when ``go`` is set.

    Attributes:
        running: How many have begun, and have not returned.
        go: Whether they may return.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self.go = trio.Event()

    async def history(self, topic: str, since: Position, max_bytes: int) -> History:
        self.running += 1
        await self.go.wait()
        self.running -= 1
        return await super().history(topic, since, max_bytes)


async def test_few_clients_fetch_at_once(nursery: trio.Nursery) -> None:
    backend = SlowHistory()
    hub = Hub(backend=backend)
    await nursery.start(hub.run)
    (topic,) = news_of(hub)
    recovered = []

    async def join(since: Position) -> None:
        async with opened() as (ws, _), topic.join(ws, since=since) as joined:
            recovered.append(joined.recovered)

    async with opened() as (ann, _), topic.join(ann) as first:
        assert first.position is not None
        async with trio.open_nursery() as inner:
            for _ in range(3 * MAX_FETCHES):
                inner.start_soon(join, first.position)
            await settle()
            assert backend.running == MAX_FETCHES
            backend.go.set()
    assert recovered == [True] * 3 * MAX_FETCHES
    nursery.cancel_scope.cancel()


class Farewell(MemoryBackend):
    """A back end that needs a task to say that it leaves.

    Attributes:
        said: What it has said.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    async def connect(self) -> None:
        await super().connect()
        self._to_task, self._orders = trio.open_memory_channel[str](0)
        self.nursery.start_soon(self._say)

    async def _say(self) -> None:
        async for order in self._orders:
            self.said.append(order)

    async def disconnect(self) -> None:
        with trio.move_on_after(1, shield=True):
            await self._to_task.send("bye")
            await settle()
        await super().disconnect()


@pytest.mark.parametrize("when", ["running", "connecting"])
async def test_a_cancelled_hub_takes_its_leave(when: str, autojump_clock: MockClock) -> None:
    backend = Farewell()
    hub = Hub(backend=backend)
    async with trio.open_nursery() as nursery:
        if when == "running":
            await nursery.start(hub.run)
        else:
            nursery.start_soon(hub.run)
        nursery.cancel_scope.cancel()
    assert backend.said == (["bye"] if when == "running" else [])
    # It can be entered again.
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        nursery.cancel_scope.cancel()
    assert backend.said[-1:] == ["bye"]
    assert trio.current_time() == 0


# -- Losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["empty", "trimmed"])
@pytest.mark.parametrize("when_lost", ["close", "ignore", "function", "raises", "wrong"])
async def test_losses(how: str, when_lost: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def policy(topic: str) -> Any:
        asked.append(topic)
        if when_lost == "raises":
            raise KeyError(topic)
        return "neither" if when_lost == "wrong" else "ignore"

    engine = Engine(history=3)
    here = Hub(backend=engine.backend(), when_lost=when_lost if when_lost in ("close", "ignore") else policy)
    there = Hub(backend=engine.backend())
    (topic,) = news_of(here)
    async with opened() as (ann, peer), trio.open_nursery() as nursery:
        await nursery.start(there.run)
        with topic.subscribe(ann):
            async with trio.open_nursery() as inner:
                await inner.start(here.run)
                there.topic("news").publish("first")
                assert await peer.receive() == text("first")
                inner.cancel_scope.cancel()
            if how == "empty":
                engine.fail()
                engine.recover(empty=True)
                await trio.sleep(5)
                there.topic("news").publish("after")
            else:
                for number in range(4):
                    there.topic("news").publish(str(number))
            await settle()
            await nursery.start(here.run)
            await settle()
            if when_lost in ("ignore", "function"):
                assert await receive_texts(peer, 1) == ["after" if how == "empty" else "1"]
            else:
                assert await peer.receive() == LOST
            assert asked == ([] if when_lost in ("close", "ignore") else ["news"])
        nursery.cancel_scope.cancel()


def test_invalid_arguments() -> None:
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"when_lost": "shrug"}, ValueError),
        ({"when_lost": None}, ValueError),
        ({"backend": "redis://localhost"}, TypeError),
        ({"envelope": 3}, TypeError),
        ({"backoff": 3}, TypeError),
        ({"instruments": [3]}, TypeError),
    ]
    for arguments, error in wrong:
        with pytest.raises(error, match=next(iter(arguments))):
            Hub(**arguments)
    with pytest.raises(TypeError, match="name must be a str"):
        Hub().topic(3)  # type: ignore[arg-type]  # wrong on purpose


async def test_members_of_others_are_not_counted_without_an_engine() -> None:
    with pytest.raises(BackendUnavailable, match="must be running"):
        await Hub(backend=MemoryBackend()).topic("news").count_members()


async def test_an_envelope_that_fails(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    def envelope(message: str | bytes, position: Position | None) -> Any:
        return {"good": "good", "bad type": 3}[message]  # type: ignore[index]  # raises

    hub = Hub(backend=MemoryBackend(), envelope=envelope)
    await nursery.start(hub.run)
    (topic,) = news_of(hub)
    for bad in ("bad type", "bad key"):
        async with opened() as (ann, peer):
            with topic.subscribe(ann):
                await settle()
                topic.publish("good")
                topic.publish(bad)
                assert await peer.receive() == text("good")
                assert await peer.receive() == LOST
    assert "not delivered" in caplog.text
    nursery.cancel_scope.cancel()


async def test_options_of_a_message_survive_the_way_through_the_engine(nursery: trio.Nursery) -> None:
    hub = Hub(backend=MemoryBackend(), envelope=lambda message, position: message)
    await nursery.start(hub.run)
    (topic,) = news_of(hub)
    async with opened(Role.SERVER) as (ann, ann_peer), opened() as (bob, bob_peer):
        with topic.subscribe(ann), topic.subscribe(bob):
            assert topic.publish("a", exclude=[ann]) == []
            topic.publish("b", exclude=[bob], compress=False)
            topic.publish("c", compress=False)
            assert await receive_texts(ann_peer, 2) == ["b", "c"]
            assert await receive_texts(bob_peer, 2) == ["a", "c"]
            assert not hub._core.states["news"].own_options
    nursery.cancel_scope.cancel()


# -- Instruments -----------------------------------------------------------------------------------------------------


class Recorder(Instrument):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def hub_connected(self, hub: ObservedHub, attempts: int) -> None:
        self.events.append(("connected", attempts))

    def hub_disconnected(self, hub: ObservedHub, error: BackendUnavailable | None) -> None:
        self.events.append(("disconnected", error and error.reason))

    def hub_lost(self, hub: ObservedHub, topic: str) -> None:
        self.events.append(("lost", topic))

    def hub_backlog_changed(self, hub: ObservedHub, messages: int, size: int) -> None:
        self.events.append(("backlog", messages, size > 0))

    def hub_published(self, hub: ObservedHub, messages: int, seconds: float) -> None:
        self.events.append(("published", messages, seconds))


async def test_instruments(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    engine = Engine()
    hub = Hub(
        backend=engine.backend(), instruments=[recorder], backoff=Backoff(initial=2, maximum=2, random=lambda: 1.0)
    )
    (topic,) = news_of(hub)
    async with opened() as (ann, _), trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        with topic.subscribe(ann):
            await settle()
            engine.fail()
            engine.recover(empty=True)
            await trio.sleep(1)
            topic.publish("a")
            await trio.sleep(5)
        nursery.cancel_scope.cancel()
    # One task receives, and another one publishes.
    assert ("connected", 2) in recorder.events[: recorder.events.index(("lost", "news"))]
    recorder.events.remove(("lost", "news"))
    assert recorder.events == [
        ("connected", 1),
        ("disconnected", "the engine is down"),
        ("backlog", 1, True),
        ("connected", 2),
        ("published", 1, 1.0),
        ("backlog", 0, False),
        ("disconnected", None),
    ]


async def test_hubs_cannot_share_a_back_end(nursery: trio.Nursery) -> None:
    backend = MemoryBackend()
    await nursery.start(Hub(backend=backend).run)
    with pytest.raises(RuntimeError, match="each hub needs its own"):
        await Hub(backend=backend).run()
    nursery.cancel_scope.cancel()


def test_every_back_end_has_an_id_of_its_own() -> None:
    one, two = MemoryBackend(), MemoryBackend()
    assert one.id == one.id != two.id
    assert isinstance(one, Backend)
    with pytest.raises(RuntimeError, match="must be entered"):
        _ = one.nursery


def test_after_a_fork_a_back_end_has_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    queue = outgoing.Outgoing(backend)
    parent = backend.id
    queue.put("news", "parent", 0.0)
    monkeypatch.setattr(os, "getpid", lambda: 0)
    assert backend.id == backend.id != parent
    queue.put("news", "child", 0.0)
    # The engine gets the messages of one publisher at a time.
    for message, publisher in [("parent", parent), ("child", backend.id)]:
        assert queue.next_batch(queue.number) == [
            Publication("news", message, publisher, queue.number - len(queue) + 1)
        ]
        queue.acknowledge()
    assert not queue


if sys.version_info < (3, 11):
    assert ExceptionGroup
