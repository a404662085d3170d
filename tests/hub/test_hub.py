"""Topics, their members, and hubs that a back end connects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import Hub, MemoryBackend, WebSocket, connect
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import Role

from ..support import Peer, close, opened, pipe_pair, text

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
    assert (hub._core.states, len(hub._core._store._timelines)) == ({}, 0)


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
    assert hub._core.exchange is not None
    assert not hub._core.exchange.outgoing


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


# -- Other --------------------------------------------------------------------------------------------------------


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
