"""Topics, their members, and hubs that a back end connects."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from sys import getsizeof
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import Backend, Hub, Topic, WebSocket, connect
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.hub import hub as hub_module
from trio_ws.protocol import Role

from ..support import Peer, close, opened, pipe_pair, text

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

settle = wait_all_tasks_blocked

#: There is room for one such message in ``SMALL`` bytes, but not for two.
HALF = "x" * 40_000
SMALL = 64 * 1024


# -- Members ---------------------------------------------------------------------------------------------------------


async def test_members_get_published_messages() -> None:
    hub = Hub()
    news, other = hub.topic("news"), hub.topic("other")
    async with opened() as (one, peer_one), opened(Role.SERVER) as (two, peer_two):
        with news.subscribe(one), news.subscribe(two), other.subscribe(two):
            assert news.publish("a") == []
            assert other.publish("b") == []
            assert news.publish(b"\xc3\xa4", text=True, exclude=[two]) == []
            assert news.publish(bytearray(b"c"), exclude={one}, compress=False) == []
        news.publish("nobody")
        assert [await peer_one.receive() for _ in range(2)] == [text("a"), text("ä")]
        assert [await peer_two.receive() for _ in range(3)] == [text("a"), text("b"), Frame(Opcode.BINARY, b"c")]
        await one.send("last")
        assert await peer_one.receive() == text("last")


async def test_presence() -> None:
    hub = Hub()
    topic = hub.topic("news")
    assert topic
    assert (len(topic), topic.members, hub.topics, await topic.count_members()) == (0, frozenset(), frozenset(), 0)
    async with opened() as (one, _), opened() as (two, _):
        with topic.subscribe(one):
            before = topic.members
            with topic.subscribe(two):
                assert (len(topic), topic.members, hub.topics) == (2, frozenset({one, two}), frozenset({"news"}))
                assert await topic.count_members() == 2
                assert "2" in repr(topic)
                assert repr(hub) == "<Hub with 1 topics>"
            assert topic.members == before == {one}
    assert topic
    assert (len(topic), topic.members, hub.topics) == (0, frozenset(), frozenset())


async def test_counting_is_a_checkpoint() -> None:
    with trio.testing.assert_checkpoints():
        await Hub().topic("news").count_members()


async def test_topics_with_the_same_name_are_equal() -> None:
    hub = Hub()
    assert hub.topic("a") == hub.topic("a")
    assert len({hub.topic("a"), hub.topic("a"), hub.topic("b"), Hub().topic("a")}) == 3


async def test_nothing_is_kept_of_a_topic_without_members() -> None:
    hub = Hub(backend=None)
    async with opened() as (ws, _):
        for number in range(1000):
            with hub.topic(str(number)).subscribe(ws):
                pass
            hub.topic(str(number)).publish("nobody")
    assert (hub._members, hub._changed_topics, hub._outgoing) == ({}, {}, type(hub._outgoing)())


async def test_a_member_that_subscribes_twice_gets_messages_once() -> None:
    hub = Hub()
    topic = hub.topic("news")
    async with opened() as (ws, peer):
        with ExitStack() as first, ExitStack() as second:
            first.enter_context(topic.subscribe(ws))
            second.enter_context(topic.subscribe(ws))
            assert len(topic) == 1
            topic.publish("a")
            first.close()
            assert topic.members == {ws}
            topic.publish("b")
            second.close()
            assert topic.members == set()
            topic.publish("c")
        await ws.send("last")
        assert [await peer.receive() for _ in range(3)] == [text("a"), text("b"), text("last")]


async def test_leaving_the_block_unsubscribes() -> None:
    hub = Hub()
    topic = hub.topic("news")
    async with opened() as (ws, _):
        with pytest.raises(KeyError):
            with topic.subscribe(ws):
                raise KeyError
        assert len(topic) == 0
        with trio.CancelScope() as scope:
            with topic.subscribe(ws):
                scope.cancel()
                await trio.sleep_forever()
        assert len(topic) == 0


async def test_closed_members_are_skipped() -> None:
    hub = Hub()
    topic = hub.topic("news")
    async with opened() as (ws, peer), opened() as (other, other_peer):
        with topic.subscribe(ws), topic.subscribe(other):
            await ws.send_close()
            topic.publish("a")
            assert topic.members == {ws, other}
            assert await peer.receive() == close()
            assert await other_peer.receive() == text("a")


@pytest.mark.parametrize("message, error", [(3, TypeError), (None, TypeError)])
async def test_invalid_messages(message: Any, error: type[Exception]) -> None:
    hub = Hub(backend=MemoryBackend())
    with pytest.raises(error):
        hub.topic("nobody").publish(message)
    with pytest.raises(ValueError):
        hub.topic("nobody").publish(b"\xff", text=True)
    assert not hub._outgoing


# -- Slow members ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def clogged() -> AsyncIterator[tuple[WebSocket, Peer]]:
    """Open a connection with a message in its outbox, because its peer does not read."""
    async with opened(Role.SERVER, pipe_pair(10), close_timeout=1) as (ws, peer):
        await ws.send(HALF)
        yield ws, peer


def by_name(topic: str) -> trio_ws.WhenFull:
    return "skip" if topic == "skipped" else "drop"


@pytest.mark.parametrize(
    "when_full, topic, state",
    [
        ("drop", "", "closing"),
        ("skip", "", "open"),
        ("newest", "", "open"),
        (by_name, "skipped", "open"),
        (by_name, "dropped", "closing"),
    ],
)
async def test_slow_members(when_full: Any, topic: str, state: str, autojump_clock: MockClock) -> None:
    news = Hub(when_full=when_full, max_backlog=SMALL).topic(topic)
    async with clogged() as (ws, _), opened() as (other, peer):
        with news.subscribe(ws), news.subscribe(other):
            assert news.publish(HALF) == [ws]
            assert state in repr(ws)
            assert await peer.receive() == text(HALF)


def test_invalid_policies() -> None:
    for when_full in ("wait", None, 3):
        with pytest.raises(ValueError):
            Hub(when_full=when_full)  # type: ignore[arg-type]  # wrong on purpose


# -- With a server ---------------------------------------------------------------------------------------------------


async def test_with_a_server() -> None:
    hub = Hub()

    async def chat(ws: WebSocket, room: str) -> None:
        topic = hub.topic(room)
        with topic.subscribe(ws):
            topic.publish(f"we are {len(topic)}")
            async for message in ws:
                topic.publish(message, exclude=[ws])

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, trio_ws.route({"/<room>": chat}), 0, host="localhost"))
        uri = f"ws://localhost:{server.port}"
        async with connect(f"{uri}/a") as ann, connect(f"{uri}/b") as bob:
            assert [await ann.receive(), await bob.receive()] == ["we are 1", "we are 1"]
            async with connect(f"{uri}/a") as eve:
                assert [await ann.receive(), await eve.receive()] == ["we are 2", "we are 2"]
                await eve.send("hello")
                assert await ann.receive() == "hello"
            async with connect(f"{uri}/b"):
                assert await bob.receive() == "we are 2"
            assert hub.topics == {"a", "b"}
            await server.aclose()
    assert hub.topics == frozenset()


# -- Several processes -----------------------------------------------------------------------------------------------


class MemoryBackend(Backend):
    """A back end that connects the hubs in this process, and records its calls."""

    def __init__(self, *others: MemoryBackend) -> None:
        self.others = list(others)
        for other in others:
            other.others.append(self)
        self.counts: dict[str, int] = {}
        self.calls: list[tuple[object, ...]] = []
        self.send, self.incoming = trio.open_memory_channel[tuple[str, str | bytes]](10)
        self.error: Exception | None = None

    async def publish(self, topic: str, message: str | bytes) -> None:
        self.calls.append(("publish", topic, message))
        for other in self.others:
            if other.counts.get(topic):
                await other.send.send((topic, message))

    async def receive(self) -> tuple[str, str | bytes]:
        return await self.incoming.receive()

    async def set_members(self, topic: str, count: int) -> None:
        await trio.lowlevel.checkpoint()
        self.calls.append(("set_members", topic, count))
        if self.error is not None:
            raise self.error
        self.counts[topic] = count

    async def count_members(self, topic: str) -> int:
        await trio.lowlevel.checkpoint()
        return sum(other.counts.get(topic, 0) for other in self.others)


def news_of(*hubs: Hub) -> list[Topic]:
    return [hub.topic("news") for hub in hubs]


async def test_two_hubs(nursery: trio.Nursery) -> None:
    here = MemoryBackend()
    there = MemoryBackend(here)
    hubs = Hub(backend=here), Hub(backend=there)
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
        assert (here.counts, there.counts) == ({"news": 0}, {"news": 0})
        one.publish("nobody")
        await settle()
    assert [await topic.count_members() for topic in (one, two)] == [0, 0]
    nursery.cancel_scope.cancel()


async def test_messages_from_other_hubs_without_members_here(nursery: trio.Nursery) -> None:
    wire = MemoryBackend()
    hub = Hub(backend=wire)
    await nursery.start(hub.run)
    await wire.send.send(("news", "too late"))
    await settle()
    async with opened() as (ws, peer):
        with hub.topic("news").subscribe(ws):
            await wire.send.send(("news", "in time"))
            assert await peer.receive() == text("in time")
    nursery.cancel_scope.cancel()


async def test_the_back_end_gets_the_last_number_of_members(nursery: trio.Nursery) -> None:
    wire = MemoryBackend()
    hub = Hub(backend=wire)
    (topic,) = news_of(hub)
    async with opened() as (one, _), opened() as (two, _):
        with topic.subscribe(one), topic.subscribe(one):
            with topic.subscribe(two):
                pass
            topic.publish("a")
            await nursery.start(hub.run)
            await settle()
            assert wire.calls == [("set_members", "news", 1), ("publish", "news", "a")]
            with topic.subscribe(two):
                await settle()
            await settle()
    await settle()
    assert wire.calls[2:] == [("set_members", "news", count) for count in (2, 1, 0)]
    assert not hub._changed_topics
    nursery.cancel_scope.cancel()


async def test_an_unchanged_number_of_members_is_not_sent(nursery: trio.Nursery) -> None:
    wire = MemoryBackend()
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
    assert wire.calls == [("set_members", "news", 1), ("set_members", "news", 0)]
    nursery.cancel_scope.cancel()


async def test_the_backlog_is_bounded(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Room for two of the messages of 50 bytes, with all objects that hold them.
    monkeypatch.setattr(
        hub_module, "MAX_BACKLOG", 2 * (hub_module._ITEM_OVERHEAD + getsizeof("news") + getsizeof("b" * 50))
    )
    wire = MemoryBackend()
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
            assert hub._backlog == 0
            for message in ("b" * 50, "c" * 50, "d"):
                topic.publish(message)
            await settle()
    published = [call[2] for call in wire.calls if call[0] == "publish"]
    assert published == ["ä" * 400, "b" * 50, "c" * 50]
    nursery.cancel_scope.cancel()


class Stuck(MemoryBackend):
    """One that takes nothing."""

    async def publish(self, topic: str, message: str | bytes) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("message", ["", b"", "ä" * 100])
@pytest.mark.parametrize("name", ["news", "n" * 1000])
async def test_the_backlog_counts_objects(message: str | bytes, name: str, nursery: trio.Nursery) -> None:
    hub = Hub(backend=Stuck())
    await nursery.start(hub.run)
    for _ in range(8_000):
        hub.topic(name).publish(message)
    items = list(hub._outgoing)
    assert 100 < len(items) < 8_000
    memory = sum(getsizeof(item) + sum(map(getsizeof, item)) for item in items)
    assert 2**20 - 2000 < memory == hub._backlog <= 2**20
    nursery.cancel_scope.cancel()


async def test_the_topics_that_have_changed_are_bounded(nursery: trio.Nursery) -> None:
    wire = MemoryBackend()
    hub = Hub(backend=wire)
    async with opened() as (ws, _):
        # The back end does not run yet: it need not hear of topics that come and go.
        for number in range(1000):
            with hub.topic(str(number)).subscribe(ws):
                pass
        assert not hub._changed_topics
        with hub.topic("told").subscribe(ws):
            await nursery.start(hub.run)
            await settle()
        await settle()
        assert wire.calls == [("set_members", "told", 1), ("set_members", "told", 0)]
        assert (hub._changed_topics, hub._reported_topics) == ({}, set())
    nursery.cancel_scope.cancel()


async def test_a_back_end_that_fails() -> None:
    wire = MemoryBackend()
    hub = Hub(backend=wire)
    (topic,) = news_of(hub)
    async with opened() as (ws, _), opened() as (other, _):
        with topic.subscribe(ws):
            wire.error = OSError("the network is down")
            with pytest.raises(BaseExceptionGroup) as caught:
                await hub.run()
            assert caught.value.exceptions == (wire.error,)
        with hub.topic("other").subscribe(other):
            # When run again, the hub sends the changes made meanwhile.
            wire.error = None
            async with trio.open_nursery() as nursery:
                await nursery.start(hub.run)
                await settle()
                assert wire.counts == {"news": 0, "other": 1}
                nursery.cancel_scope.cancel()
            # It also sends all other numbers again, because the back end may have lost them.
            wire.counts.clear()
            async with trio.open_nursery() as nursery:
                await nursery.start(hub.run)
                await settle()
                assert wire.counts == {"other": 1}
                nursery.cancel_scope.cancel()


async def test_a_slow_back_end(autojump_clock: MockClock) -> None:
    class Slow(MemoryBackend):
        async def set_members(self, topic: str, count: int) -> None:
            await trio.sleep(1)
            await super().set_members(topic, count)

        async def publish(self, topic: str, message: str | bytes) -> None:
            await trio.sleep(1)
            await super().publish(topic, message)

    wire = Slow()
    hub = Hub(backend=wire)
    (topic,) = news_of(hub)
    async with opened() as (ws, _), trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        with topic.subscribe(ws):
            await trio.sleep(0.5)
            topic.publish("a")
        # The number has changed during the call.
        await trio.sleep(10)
        assert wire.calls == [("set_members", "news", 1), ("set_members", "news", 0), ("publish", "news", "a")]
        with topic.subscribe(ws):
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
    # A number whose call was cancelled is sent again.
    assert list(hub._changed_topics) == ["news"]


async def test_run_without_a_back_end() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(Hub().run)


async def test_a_dropped_member_learns_why(autojump_clock: MockClock) -> None:
    topic = Hub(max_backlog=SMALL).topic("news")
    async with clogged() as (ws, peer):
        with topic.subscribe(ws):
            topic.publish(HALF)
            assert await peer.receive() == text(HALF)
            assert await peer.receive() == Frame(Opcode.CLOSE, Close(1013, "too slow").serialize())
