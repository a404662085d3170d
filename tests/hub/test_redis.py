"""Hubs that Redis connects: outages, stuck and replaced servers, several processes, and a cluster. In real time."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from trio_ws import BackendUnavailable, Hub, Instrument, ObservedHub, Position, RedisBackend, Topic
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.hub import outgoing
from trio_ws.hub.redis import listener, presence, pubsub, scripts, streams
from trio_ws.hub.redis.client import Command, RedisClient, is_refusal
from trio_ws.hub.redis.scripts import Names, slot_of
from trio_ws.hub.redis.url import check_url, make_ssl_context
from trio_ws.testing import BACKEND_CHECKS, BackendCheck

from ..ports import free_port
from ..support import HANGS, Peer, opened, pong, text
from .redis_server import REDIS_SERVER, RedisServer
from .test_backends import RedisHarness

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

needs_redis = pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server: apt install redis-server")

LOST = Frame(Opcode.CLOSE, Close(1012, "messages were lost, reconnect").serialize())


class Losses(Instrument):
    """Records what happens to a hub, and lets tests wait for it."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.changed = trio.Event()
        self.connections = 0
        self.disconnections = 0

    def _record(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def hub_lost(self, hub: ObservedHub, topic: str) -> None:
        self.lost.append(topic)
        self._record()

    def hub_connected(self, hub: ObservedHub, attempts: int) -> None:
        self.connections += 1
        self._record()

    def hub_disconnected(self, hub: ObservedHub, error: BackendUnavailable | None) -> None:
        self.disconnections += 1
        self._record()

    async def wait(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(HANGS):
            while not condition():
                await self.changed.wait()


def make_hubs(url: str, *instruments: Instrument, envelope: Any = None, **options: Any) -> tuple[Hub, Hub]:
    """Return two hubs, as if of two processes. The options are those of their back ends."""
    one, two = (Hub(backend=RedisBackend(url, **options), envelope=envelope, instruments=instruments) for _ in range(2))
    return one, two


@asynccontextmanager
async def running(*hubs: Hub) -> AsyncIterator[None]:
    """Run hubs for an ``async with`` block, which begins when they are connected."""
    async with trio.open_nursery() as nursery:
        for hub in hubs:
            await nursery.start(hub.run)
        yield
        nursery.cancel_scope.cancel()


async def collect(peer: Peer, count: int) -> list[str]:
    """Receive text messages. On a busy machine, there may be pings of the keepalive between them."""
    texts: list[str] = []
    with trio.fail_after(HANGS):
        while len(texts) < count:
            frame = await peer.receive()
            assert frame is not None
            if frame.opcode is Opcode.PING:
                await peer.send(pong(frame.data))
                continue
            assert frame.opcode is Opcode.TEXT, frame
            texts.append(frame.data.decode())
    return texts


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something outside of this process has happened."""
    with trio.fail_after(HANGS):
        while True:
            if await condition():
                break
            await trio.sleep(0.05)


# -- Outages ---------------------------------------------------------------------------------------------------------


@needs_redis
@pytest.mark.parametrize("with_envelope", [False, True])
@pytest.mark.parametrize("how", ["kill", "stop", "shutdown"])
async def test_nothing_is_lost_over_an_outage(server: RedisServer, how: str, with_envelope: bool) -> None:
    envelope = (lambda message, position: str(message)) if with_envelope else None
    losses = Losses()
    hubs = make_hubs(server.url, losses, envelope=envelope, timeout=1)
    topics = [hub.topic("news") for hub in hubs]
    count = 150

    async def publish(topic: Topic, name: str) -> None:
        for number in range(count):
            topic.publish(f"{name} {number}")
            await trio.sleep(0.02)

    async def interrupt() -> None:
        await trio.sleep(0.7)
        if how == "stop":
            server.stop()
            await losses.wait(lambda: losses.disconnections == 2)
            server.resume()
            return
        if how == "kill":
            server.kill()
        else:
            server.signal(15)
        await trio.sleep(0.5)
        server.kill()
        await server.start()

    async with running(*hubs), opened() as (ann, ann_peer), opened() as (bob, bob_peer):
        async with topics[0].join(ann), topics[1].join(bob):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, topics[0], "one")
                nursery.start_soon(publish, topics[1], "two")
                nursery.start_soon(interrupt)
            for peer in (ann_peer, bob_peer):
                messages = await collect(peer, 2 * count)
                for name in ("one", "two"):
                    assert [m for m in messages if m.startswith(name)] == [f"{name} {n}" for n in range(count)]
            assert losses.lost == []
            assert losses.disconnections >= 2


@needs_redis
@pytest.mark.parametrize("streams", [True, False])
async def test_a_server_that_comes_back_empty_loses_something(server: RedisServer, streams: bool) -> None:
    losses = Losses()
    hub = Hub(backend=RedisBackend(server.url, streams=streams), instruments=[losses])
    topic = hub.topic("news")
    async with running(hub), opened() as (ann, peer):
        async with topic.join(ann):
            topic.publish("a")
            assert await collect(peer, 1) == ["a"]
            # It must have arrived before Redis goes away.
            await wait_until(lambda: is_acknowledged(hub))
            server.kill()
            server.forget()
            await server.start()
            with trio.fail_after(HANGS):
                assert await peer.receive() == LOST
            assert losses.lost == ["news"]


async def is_acknowledged(hub: Hub) -> bool:
    await trio.lowlevel.checkpoint()
    assert hub._core.exchange is not None
    return not hub._core.exchange.outgoing


@needs_redis
async def test_a_server_that_has_lost_its_last_messages(tmp_path: Path) -> None:
    """Redis has an old snapshot. New messages have got the offsets of the lost ones before anybody notices."""
    server = RedisServer(tmp_path / "redis", keeps=False)
    await server.start()
    there = Hub(backend=RedisBackend(server.url))
    losses = Losses()
    here = Hub(backend=RedisBackend(server.url), instruments=[losses], when_lost="ignore")
    topic = here.topic("news")
    async with trio.open_nursery() as nursery, opened() as (ann, peer), opened() as (bob, _):
        with topic.subscribe(ann):
            async with trio.open_nursery() as inner:
                await inner.start(here.run)
                await inner.start(there.run)
                async with topic.join(bob):
                    pass
                for number in range(3):
                    there.topic("news").publish(f"kept {number}")
                await collect(peer, 3)
                stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                await stream.send_all(b"SAVE\r\n")
                assert await stream.receive_some() == b"+OK\r\n"
                await stream.aclose()
                kept = topic.position
                for number in range(5):
                    there.topic("news").publish(f"lost {number}")
                await collect(peer, 5)
                lost = topic.position
                assert kept is not None
                assert lost is not None
                assert (lost.epoch, lost.offset) == (kept.epoch, kept.offset + 5)
                inner.cancel_scope.cancel()
            server.kill()
            await server.start()
            await nursery.start(there.run)
            for number in range(10):
                there.topic("news").publish(f"new {number}")
            await wait_until(lambda: is_acknowledged(there))
            await nursery.start(here.run)
            await collect(peer, 10)
            assert "news" in losses.lost
            # Behind both positions, messages are missing, though there is a new message with the offset of `lost`.
            for since in (lost, kept):
                async with opened() as (ws, _), topic.join(ws, since=since) as joined:
                    assert not joined.recovered
                    # A marker of the loss follows the new messages.
                    assert joined.position is not None
                    assert joined.position.offset == kept.offset + 11
        nursery.cancel_scope.cancel()
    server.kill()


async def receive_one(backend: RedisBackend) -> trio_ws.Lost | trio_ws.Received:
    with trio.fail_after(HANGS):
        (event,) = await backend.receive()
    return event


@needs_redis
@pytest.mark.parametrize("sharded", [False, True])
async def test_a_loss_concerns_those_who_were_behind_it(server: RedisServer, sharded: bool) -> None:
    """Only who has received the lost messages can tell that there were any. The others learn it from a marker."""
    writer, ahead, behind, third = (RedisBackend(server.url, sharded=sharded) for _ in range(4))
    async with ahead:
        start = (await ahead.subscribe({"news": None}))["news"]
        async with writer:
            await writer.publish([trio_ws.Publication("news", "kept", writer.id, 1)])
            kept = (await receive_one(ahead)).position
            server.copy()
            await writer.publish([trio_ws.Publication("news", "lost", writer.id, 2)])
            lost = (await receive_one(ahead)).position
    assert start is not None
    assert kept is not None
    server.kill()
    server.restore()
    await server.start()
    async with behind, ahead, third:
        positions = await behind.subscribe({"news": kept})
        assert positions["news"] is not None
        assert positions["news"].offset == kept.offset
        history = await behind.history("news", start, 1000)
        assert [event.message for event in history.messages] == ["kept"]
        # An invented position does not do it.
        assert not (await behind.history("news", Position(positions["news"].epoch, 100), 1000)).complete
        assert (await behind.history("news", kept, 1000)).complete
        # The position from before the loss stays until the loss has been received.
        assert await ahead.subscribe({"news": lost}) == {"news": lost}
        event = await receive_one(ahead)
        assert isinstance(event, trio_ws.Lost)
        assert event.position is not None
        assert event.position.offset == kept.offset + 1
        event = await receive_one(behind)
        assert isinstance(event, trio_ws.Lost)
        assert event.position is not None
        for since in (start, kept):
            assert not (await behind.history("news", since, 1000)).complete
        assert (await behind.history("news", event.position, 1000)).complete
        # There is one marker, and it expires.
        await third.subscribe({"news": lost})
        assert isinstance(await receive_one(third), trio_ws.Lost)
        assert await command(server, "XLEN trio_ws:{=news}:stream") == b":2\r\n"
        assert not (await command(server, "PTTL trio_ws:{=news}:stream")).startswith(b":-")


@needs_redis
async def test_who_has_published_lost_messages_tells_the_others(server: RedisServer) -> None:
    """Even without members, and if nobody has received them."""
    here, there = RedisBackend(server.url), RedisBackend(server.url)
    async with here, there:
        await here.subscribe({"news": None})
        await there.publish([trio_ws.Publication("news", "kept", there.id, 1)])
        kept = (await receive_one(here)).position
    server.copy()
    async with there:
        await there.publish([trio_ws.Publication("news", "lost", there.id, 2)])
    server.kill()
    server.restore()
    await server.start()
    async with here:
        await here.subscribe({"news": kept})
        async with there:
            assert isinstance(await receive_one(here), trio_ws.Lost)
            # From now on, the position is that of the server.
            await there.publish([trio_ws.Publication("news", "new", there.id, 3)])
            assert isinstance(await receive_one(here), trio_ws.Received)
        async with there:
            assert await command(server, "XLEN trio_ws:{=news}:stream") == b":3\r\n"


@needs_redis
async def test_the_topics_that_were_published_to_are_bounded(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_PUBLISHED", 2)
    backend = RedisBackend(server.url)
    for _ in range(2):
        async with backend:
            for number, topic in enumerate(("a", "b", "a", "c"), start=1):
                await backend.publish([trio_ws.Publication(topic, "x", backend.id, number)])
            assert {topic: position.offset for topic, position in backend._published.items()} == {"a": 2, "c": 1}


@needs_redis
async def test_a_restart_without_append_only_file_is_a_loss(tmp_path: Path) -> None:
    """Redis may have lost messages, and those who knew them may be gone, too."""
    server = RedisServer(tmp_path / "redis", keeps=False)
    await server.start()
    here, there = RedisBackend(server.url), RedisBackend(server.url)
    async with here, there:
        start = (await here.subscribe({"news": None}))["news"]
        await there.publish([trio_ws.Publication("news", "kept", there.id, 1)])
        kept = (await receive_one(here)).position
        await there.publish([trio_ws.Publication("news", "later", there.id, 2)])
        assert await command(server, "SAVE") == b"+OK\r\n"
        await there.publish([trio_ws.Publication("news", "lost", there.id, 3)])
        lost = (await there.history("news", kept, 1000)).position if kept else None
    server.kill()
    await server.start()
    assert start is not None
    async with here:
        # What was saved arrives before the loss.
        await here.subscribe({"news": kept})
        with trio.fail_after(HANGS):
            later, loss = await here.receive()
        assert isinstance(later, trio_ws.Received)
        assert later.message == "later"
        assert isinstance(loss, trio_ws.Lost)
        assert loss.position is not None
        assert loss.position.offset == 3
        assert not (await here.history("news", start, 1000)).complete
        assert (await here.history("news", loss.position, 1000)).complete
    async with here:
        # Who was ahead learns it once.
        assert lost is not None
        assert lost.offset == 3
        await here.subscribe({"news": lost})
        event = await receive_one(here)
        assert isinstance(event, trio_ws.Lost)
        assert event.position == loss.position
        assert not here._connected._dirty  # type: ignore[union-attr]  # these are streams
    server.kill()


@needs_redis
async def test_a_hub_whose_position_was_lost_notices_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", keeps=False)
    await server.start()
    hub = Hub(backend=RedisBackend(server.url))
    topic = hub.topic("news")
    async with running(hub), opened() as (ann, peer):
        async with topic.join(ann):
            topic.publish("kept")
            await wait_until(lambda: is_acknowledged(hub))
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(b"SAVE\r\n")
            assert await stream.receive_some() == b"+OK\r\n"
            await stream.aclose()
            topic.publish("lost")
            await wait_until(lambda: has_offset(topic, 2))
            server.kill()
            await server.start()
            assert await collect(peer, 2) == ["kept", "lost"]
            with trio.fail_after(HANGS):
                assert await peer.receive() == LOST
    server.kill()


async def has_offset(topic: Topic, offset: int) -> bool:
    await trio.lowlevel.checkpoint()
    return topic.position is not None and topic.position.offset == offset


@needs_redis
async def test_many_restarts(server: RedisServer) -> None:
    """A topic remembers some restarts, which have kept its data; an older position counts as lost."""
    backend = RedisBackend(server.url)
    start: Position | None = None
    for number in range(10):
        async with backend:
            if start is None:
                start = (await backend.subscribe({"news": None}))["news"]
            assert start is not None
            await backend.publish([trio_ws.Publication("news", str(number), backend.id, number + 1)])
            history = await backend.history("news", start, 10_000)
            assert history.complete is (number <= 8)
            if number <= 8:
                assert [event.message for event in history.messages] == [str(n) for n in range(number + 1)]
        server.kill()
        await server.start()


@needs_redis
async def test_many_restarts_of_a_server_with_a_quiet_topic(server: RedisServer) -> None:
    """Each session gets the position in the epoch of the server, so it does not matter which epochs are forgotten."""
    backend = RedisBackend(server.url)
    position: Position | None = None
    epochs = set()
    for number in range(10):
        async with backend:
            position = (await backend.subscribe({"news": position}))["news"]
            assert position is not None
            assert position.offset == 0
            epochs.add(position.epoch)
            if number == 9:
                await backend.publish([trio_ws.Publication("news", "a", backend.id, 1)])
                assert isinstance(await receive_one(backend), trio_ws.Received)
        server.kill()
        await server.start()
    assert len(epochs) == 10


@needs_redis
async def test_members_of_a_cancelled_hub_are_forgotten_at_once(server: RedisServer) -> None:
    here, there = make_hubs(server.url)
    async with trio.open_nursery() as nursery, opened() as (ann, _):
        await nursery.start(there.run)
        async with trio.open_nursery() as inner:
            await inner.start(here.run)
            async with here.topic("news").join(ann):
                await wait_until(partial(has_members, there.topic("news")))
                inner.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
        assert await there.topic("news").count_members() == 0
        nursery.cancel_scope.cancel()


async def has_members(topic: Topic) -> bool:
    return await topic.count_members() > 0


async def test_the_error_says_the_whole_timeout(autojump_clock: trio.testing.MockClock) -> None:
    class Never:
        def __await__(self) -> Generator[Any, Any, None]:
            return trio.Event().wait().__await__()

    client = RedisClient("redis://localhost", ssl_context=None, timeout=5)
    with pytest.raises(BackendUnavailable, match="within 5 seconds"):
        await client.wait(Never())
    assert trio.current_time() == 5


@needs_redis
async def test_run_waits_for_a_server(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    hub = Hub(backend=RedisBackend(server.url))
    topic = hub.topic("news")
    topic.publish("early")
    started = trio.Event()

    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as inner:
            await inner.start(hub.run)
            started.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert not started.is_set()
        with pytest.raises(BackendUnavailable):
            await topic.count_members()
        await server.start()
        with trio.fail_after(HANGS):
            await started.wait()
        assert await topic.count_members() == 0
        await wait_until(lambda: is_acknowledged(hub))
        nursery.cancel_scope.cancel()
    server.kill()


@needs_redis
async def test_a_stuck_server_holds_up_nobody_here(server: RedisServer) -> None:
    losses = Losses()
    hubs = make_hubs(server.url, losses, timeout=1)
    one, two = (hub.topic("news") for hub in hubs)
    with trio.fail_after(HANGS):
        async with running(*hubs), opened() as (ann, ann_peer), opened() as (bob, bob_peer):
            async with one.join(ann), two.join(bob):
                server.stop()
                for number in range(100):
                    one.publish(str(number))
                # The server does not run until it is resumed.
                assert await collect(ann_peer, 100) == [str(number) for number in range(100)]
                with pytest.raises(BackendUnavailable):
                    await two.count_members()
                await losses.wait(lambda: losses.disconnections == 2)
                server.resume()
                assert await collect(bob_peer, 100) == [str(number) for number in range(100)]
            # Leaving a session does not wait for the server, either.
            server.stop()
    server.resume()


@pytest.fixture
def jumping_clock() -> trio.testing.MockClock:
    """A clock that runs as fast as the real one, but can also jump."""
    return trio.testing.MockClock(rate=1)


@needs_redis
async def test_a_process_that_is_held_up_does_not_blame_the_server(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, jumping_clock: trio.testing.MockClock
) -> None:
    def hold_up() -> None:
        """Block the event loop for longer than the timeout, as a handler with much to compute does."""
        # Redis has answered everything that was sent before: it writes all answers before it reads again.
        with socket.create_connection(("127.0.0.1", server.port)) as other:
            for _ in range(2):
                other.sendall(b"PING\r\n")
                assert other.recv(7) == b"+PONG\r\n"
        jumping_clock.jump(60)

    # So there is always a ping whose answer has not been read.
    monkeypatch.setattr(listener, "PING_INTERVAL", 0.001)
    losses = Losses()
    hub = Hub(backend=RedisBackend(server.url, timeout=50, streams=False), instruments=[losses])
    async with running(hub), opened(ping_interval=None) as (ann, peer):
        async with hub.topic("news").join(ann):
            for number in range(5):
                hub.topic("news").publish(str(number))
                await trio.sleep(0.1 + number / 1000)
                hold_up()
            assert await collect(peer, 5) == [str(number) for number in range(5)]
        assert (losses.lost, losses.disconnections) == ([], 0)


@needs_redis
async def test_more_than_the_backlog_is_lost(server: RedisServer) -> None:
    hubs = make_hubs(server.url, timeout=59)
    one, two = (hub.topic("news") for hub in hubs)
    async with running(*hubs), opened() as (ann, ann_peer), opened() as (bob, bob_peer):
        async with one.join(ann), two.join(bob):
            server.stop()
            for number in range(30):
                one.publish(f"{number:<100000}")
            await trio.sleep(0.1)
            server.resume()
            await collect(ann_peer, 30)
            messages = await collect(bob_peer, 10)
            assert [int(message) for message in messages] == list(range(10))
            with trio.fail_after(HANGS):
                assert await bob_peer.receive() == LOST


@needs_redis
@pytest.mark.parametrize("streams", [True, False])
async def test_a_message_that_is_too_large_for_redis_is_given_up(
    server: RedisServer, streams: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert await command(server, "CONFIG SET proto-max-bulk-len 1048576") == b"+OK\r\n"
    losses = Losses(), Losses()
    here, there = (
        Hub(backend=RedisBackend(server.url, streams=streams), instruments=[each], when_lost="ignore")
        for each in losses
    )
    async with running(here, there), opened() as (ann, peer), opened() as (bob, _):
        async with there.topic("small").join(ann), there.topic("large").join(bob):
            here.topic("small").publish("a")
            # In memory, this takes half of the bytes, so it fits into the queue together with others.
            here.topic("large").publish("ä" * 600_000)
            here.topic("small").publish("b")
            assert await collect(peer, 2) == ["a", "b"]
            await losses[0].wait(lambda: "large" in losses[0].lost)
            await losses[1].wait(lambda: "large" in losses[1].lost)
    assert "message of 1200000 bytes to topic 'large' given up" in caplog.text


@needs_redis
async def test_a_topic_whose_name_something_else_uses(server: RedisServer) -> None:
    losses = Losses()
    hub = Hub(backend=RedisBackend(server.url), instruments=[losses])
    assert await command(server, "SET trio_ws:{=used}:topic x") == b"+OK\r\n"
    async with running(hub), opened() as (ann, peer):
        hub.topic("used").publish("a")
        await losses.wait(lambda: losses.lost == ["used"])
        async with hub.topic("free").join(ann):
            hub.topic("free").publish("b")
            assert await collect(peer, 1) == ["b"]
            await wait_until(lambda: is_acknowledged(hub))
        assert losses.disconnections == 0


@pytest.mark.parametrize(
    "line, refused",
    [
        ("ERR Protocol error: invalid bulk length", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value script: 0, on @user_script:5.", True),
        ("ERR The ID specified in XADD is equal or smaller script: 0, on @user_script:5.", True),
        # Redis 6 puts the errors of commands into that of the script.
        ("ERR Error running script (call to f_0): @user_script:5: ERR The ID specified in XADD is smaller", True),
        ("ERR Error running script (call to f_0): @user_script:5: -OOM command not allowed", False),
        ("ERR Error running script (call to f_0): @user_script:5: -READONLY You can't write", False),
        ("OOM command not allowed when used memory > 'maxmemory'. script: 0, on @user_script:5.", False),
        ("MISCONF Redis is configured to save RDB snapshots script: 0, on @user_script:5.", False),
        ("ERR Script attempted to access a non local key in a cluster node script: 0, on @user_script:5.", False),
        ("ERR The user executing the script can't run this command script: 0, on @user_script:5.", False),
        ("LOADING Redis is loading the dataset in memory", False),
        ("CLUSTERDOWN The cluster is down", False),
        ("NOSCRIPT No matching script", False),
        ("ERR unknown command", False),
        ("ERR something else", False),
    ],
)
def test_errors_that_concern_the_message(line: str, refused: bool) -> None:
    from coredis.parser import Parser

    assert is_refusal(Parser().parse_error(line)) is refused


@needs_redis
@pytest.mark.parametrize("streams", [True, False])
async def test_more_topics_than_markers(server: RedisServer, streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "MAX_BACKLOG", 5000)
    here, there = make_hubs(server.url, streams=streams)
    async with trio.open_nursery() as nursery, opened() as (ann, peer):
        await nursery.start(here.run)
        async with here.topic("topic 49").join(ann):
            there.topic("large").publish(bytes(5000))
            for number in range(50):
                there.topic(f"topic {number}").publish("lost")
            await nursery.start(there.run)
            with trio.fail_after(HANGS):
                assert await peer.receive() == LOST
        nursery.cancel_scope.cancel()


@needs_redis
async def test_a_notification_that_overtakes_the_position(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is published when the position is on its way. It must not wait for the next one."""
    here, there = RedisBackend(server.url), RedisBackend(server.url)
    async with here, there:
        messages = here._connected
        assert isinstance(messages, streams.Streams)
        call, on_notification = messages._client.call, messages._listener._on_message
        notified = trio.Event()

        def notify(channel: bytes, content: bytes) -> None:
            on_notification(channel, content)
            notified.set()

        async def call_slowly(commands: Sequence[Command]) -> list[Any]:
            results = await call(commands)
            await there.publish([trio_ws.Publication("news", "a", there.id, 1)])
            with trio.fail_after(HANGS):
                await notified.wait()
            return results

        messages._listener._on_message = notify
        monkeypatch.setattr(messages._client, "call", call_slowly)
        position = (await here.subscribe({"news": None}))["news"]
        monkeypatch.undo()
        assert position is not None
        assert position.offset == 0
        assert list(messages._dirty) == ["news"]
        event = await receive_one(here)
        assert isinstance(event, trio_ws.Received)
        assert event.message == "a"
        assert not messages._early


@needs_redis
async def test_a_message_whose_notification_is_lost(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All topics are checked regularly."""
    monkeypatch.setattr(streams, "CHECK_INTERVAL", 0.05)
    here, there = RedisBackend(server.url), RedisBackend(server.url)
    async with here, there:
        await here.subscribe({"news": None, "other": None})
        messages = here._connected
        assert isinstance(messages, streams.Streams)
        monkeypatch.setattr(messages._listener, "_on_message", lambda channel, content: None)
        await there.publish([trio_ws.Publication("news", "a", there.id, 1)])
        event = await receive_one(here)
        assert isinstance(event, trio_ws.Received)
        assert event.message == "a"


@needs_redis
async def test_nothing_is_done_by_redis(server: RedisServer) -> None:
    """Calls in a cancelled scope do nothing, and are cancelled."""
    backend, other = RedisBackend(server.url), RedisBackend(server.url)
    with trio.CancelScope() as scope:
        scope.cancel()
        await backend.__aenter__()
    assert scope.cancelled_caught
    async with backend, other:
        position = (await other.subscribe({"news": None}))["news"]
        assert position is not None
        for call in (
            partial(backend.publish, [trio_ws.Publication("news", "a", backend.id, 1)]),
            partial(backend.subscribe, {"news": None}),
            partial(backend.unsubscribe, ["news"]),
            partial(backend.set_members, {"news": 1}),
            partial(backend.count_members, "news"),
            partial(backend.history, "news", position, 1000),
            backend.receive,
        ):
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        assert (await other.history("news", position, 1000)).messages == []
        assert await other.count_members("news") == 0


# -- History ---------------------------------------------------------------------------------------------------------


@needs_redis
async def test_the_history_is_bounded_by_length(server: RedisServer) -> None:
    async with RedisBackend(server.url, history=5) as backend:
        position = (await backend.subscribe({"news": None}))["news"]
        assert position is not None
        for number in range(1, 9):
            await backend.publish([trio_ws.Publication("news", str(number), backend.id, number)])
        assert not (await backend.history("news", position, 1000)).complete
        history = await backend.history("news", position._replace(offset=3), 10_000)
        assert history.complete
        assert [event.message for event in history.messages] == ["4", "5", "6", "7", "8"]


@needs_redis
async def test_the_history_is_bounded_by_age(server: RedisServer) -> None:
    async with RedisBackend(server.url, history=100, max_age=0.5) as backend:
        position = (await backend.subscribe({"news": None}))["news"]
        assert position is not None
        count = 0

        async def publish() -> None:
            nonlocal count
            count += 1
            await backend.publish([trio_ws.Publication("news", str(count), backend.id, count)])

        async def has(number: int) -> bool:
            """Whether a message, and all that came after it, are in the history."""
            return (await backend.history("news", position._replace(offset=number - 1), 1000)).complete

        async def is_gone() -> bool:
            return not await has(count)

        async def has_the_newest_alone() -> bool:
            await publish()
            return await has(count) and not await has(1)

        await publish()
        await wait_until(is_gone)
        assert await has(count + 1)  # nothing has come after it
        await wait_until(has_the_newest_alone)


# -- Presence --------------------------------------------------------------------------------------------------------

PROCESS = """
import sys, trio, trio_ws
from trio_ws.testing import memory_websocket_pair

async def main():
    hub = trio_ws.Hub(backend=trio_ws.RedisBackend(sys.argv[1]))
    topic = hub.topic("news")
    async with trio.open_nursery() as nursery, memory_websocket_pair() as (client, server):
        await nursery.start(hub.run)
        async with topic.join(server):
            topic.publish("hello")
            async for message in client:
                topic.publish("again")
                await trio.sleep_forever()

trio.run(main)
"""


@needs_redis
async def test_a_topic_that_is_left_and_joined_again_at_once(server: RedisServer) -> None:
    """The answer to the unsubscription comes after the new subscription was sent, and is no sign of a moved slot."""

    async def join_again() -> None:
        await backend.unsubscribe(["news"])
        await backend.subscribe({"news": None})

    async with RedisBackend(server.url, sharded=True, streams=False) as backend:
        for number in range(3):
            await backend.subscribe({"news": None})
            server.stop()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(join_again)
                await trio.testing.wait_all_tasks_blocked()
                server.resume()
            await backend.publish([trio_ws.Publication("news", "hello", backend.id, number)])
            (received,) = await backend.receive()
            assert isinstance(received, trio_ws.Received)
            assert received.message == "hello"


@needs_redis
async def test_what_arrives_is_handled_at_once(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of coredis has no limit."""
    waiting: list[int] = []

    class Listener(listener.Listener):
        def _handle(self, message: list[Any]) -> None:
            super()._handle(message)
            (connection,) = self._connections.values()
            waiting.append(connection._push_message_buffer_in.statistics().current_buffer_used)

    monkeypatch.setattr(pubsub, "Listener", Listener)
    async with RedisBackend(server.url, streams=False) as one, RedisBackend(server.url, streams=False) as two:
        await two.subscribe({"news": None})
        channel = two._names.channel("news")
        packed = [pubsub.pack([trio_ws.Publication("news", "x", one.id, number)]) for number in range(5_000)]
        await one._connected._client.call([Command(channel, b"PUBLISH", (channel, each)) for each in packed])
        with trio.fail_after(HANGS):
            received = 0
            while received < 5_000:
                received += len(await two.receive())
    # A read of coredis has at most 64 KiB.
    assert max(waiting) < 2000


async def test_numbers_are_sent_as_they_are_then(autojump_clock: trio.testing.MockClock) -> None:
    """Those that are repeated regularly are not older than the last ones that were sent."""
    sent: list[Command] = []
    # Each call takes less time than the one before, so without an order the first numbers would be the last.
    seconds = [1, 2, 3, 4]

    class SlowClient(RedisClient):
        async def call(self, commands: Sequence[Command]) -> list[Any]:
            await trio.sleep(seconds.pop())
            sent.extend(commands)
            return [1 for _ in commands]

    client = SlowClient("redis://localhost", ssl_context=None, timeout=5)
    numbers = presence.Presence(client, Names(""), "node", 1)
    await numbers.set({"a": 1, "b": 1})
    async with trio.open_nursery() as nursery:
        for send in (partial(numbers._send, ["a"]), partial(numbers._send, ["b"]), partial(numbers.set, {"b": 0})):
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
    assert [each.name for each in sent if each.key == Names("").members("b")][-1] == b"HDEL"


def start_process(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROCESS, url])


@needs_redis
async def test_a_killed_process_is_forgotten(server: RedisServer) -> None:
    hub = Hub(backend=RedisBackend(server.url))
    topic = hub.topic("news")
    process = start_process(server.url)
    try:
        async with running(hub), opened() as (ann, peer):
            async with topic.join(ann):
                assert await collect(peer, 1) in (["hello"], ["again"])

                async def is_counted(count: int) -> bool:
                    return await topic.count_members() == count

                await wait_until(partial(is_counted, 2))
                await trio.sleep(presence.RENEWAL + 1)
                assert await topic.count_members() == 2
                process.kill()
                # Redis itself forgets it, within 10 seconds.
                assert presence.LIFETIME < 10
                await wait_until(partial(is_counted, 1))
    finally:
        process.kill()
        process.wait()


@needs_redis
async def test_numbers_survive_an_expired_session(server: RedisServer) -> None:
    """A process that was stopped for a while counts again when it goes on, even if others have removed its numbers."""
    one, two = RedisBackend(server.url), RedisBackend(server.url)
    async with one, two:
        await one.set_members({"news": 3})
        client = two._connected._client
        assert one._presence is not None
        await client.call([one._presence._node_command(b"DEL", one._presence._session)])
        assert await two.count_members("news") == 0
        key = one._names.members("news")
        assert await client.call([Command(key, b"HGETALL", (key,))]) == [{}]

        async def is_back() -> bool:
            return await two.count_members("news") == 3

        await wait_until(is_back)


# -- Publish and subscribe -------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, 2**60), st.one_of(st.none(), st.binary(max_size=50), st.text(max_size=50))), min_size=1
    )
)
def test_packing(messages: list[tuple[int, bytes | str | None]]) -> None:
    packed = pubsub.pack([trio_ws.Publication("news", message, "0123abcd", number) for number, message in messages])
    assert pubsub.unpack(packed) == ("0123abcd", messages)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"id:", b"id:1", b"id:1:2", b"id:1:-3:tab", b"id:1:0:", b"id:1:9:ta", b"id:1:2:t\xff", b"\xff:"],
)
def test_foreign_content(content: bytes) -> None:
    with pytest.raises(ValueError):
        pubsub.unpack(content)


@needs_redis
async def test_a_foreign_message_counts_as_a_loss(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    losses = Losses()
    hub = Hub(backend=RedisBackend(server.url, streams=False), instruments=[losses], when_lost="ignore")
    topic = hub.topic("news")
    async with running(hub), opened() as (ann, peer):
        async with topic.join(ann):
            assert await command(server, "PUBLISH trio_ws:{=news} hello") == b":1\r\n"
            await losses.wait(lambda: losses.lost == ["news"])
            topic.publish("a")
            assert await collect(peer, 1) == ["a"]
    assert "no message of a hub" in caplog.text


@needs_redis
async def test_what_waits_to_be_received_is_bounded(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "MAX_WAITING", 100_000)
    one, two = RedisBackend(server.url, streams=False), RedisBackend(server.url, streams=False)
    async with one, two:
        await two.subscribe({"news": None, "other": None})
        for number in range(1, 2001):
            await one.publish([trio_ws.Publication("news", "x" * 100, one.id, number)])
        await one.publish([trio_ws.Publication("other", "x" * 100, one.id, 2001)])  # no smaller than the others
        messages = two._connected
        assert isinstance(messages, pubsub.PubSub)

        async def has_loss() -> bool:
            await trio.lowlevel.checkpoint()
            return set(messages._lost) == {"news", "other"}

        await wait_until(has_loss)
        assert messages._size <= 100_000
        kinds: list[type] = []
        while len(kinds) < len(messages._waiting) or messages._waiting:
            kinds += [type(event) for event in await two.receive()]
        assert kinds.count(trio_ws.Lost) == 2
        assert 100 < kinds.count(trio_ws.Received) < 200
        await one.publish([trio_ws.Publication("news", "again", one.id, 3000)])
        (event,) = await two.receive()
        assert isinstance(event, trio_ws.Received)
        assert event.message == "again"


class Idle:
    """A client that does nothing."""

    is_cluster = False
    timeout = 5.0


async def test_markers_that_wait_to_be_received_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "MAX_WAITING", 10_000)
    messages = pubsub.PubSub(Idle(), Names(""), sharded=False)  # type: ignore[arg-type]  # nothing is sent
    channel = Names("").channel("news")
    messages._topics[channel] = "news"

    def arrive(publisher: str, number: int, message: str | None) -> None:
        messages._on_message(channel, pubsub.pack([trio_ws.Publication("news", message, publisher, number)]))

    async def receive() -> list[str | None]:
        """Return the publishers of the losses that wait."""
        events = await messages.receive()
        assert messages._size == 0
        assert not messages._waiting
        return [event.publisher for event in events if isinstance(event, trio_ws.Lost)]

    for number in range(1, 1000):
        arrive("one", number, None)
        arrive("two", number, None)
    assert messages._size == 2 * pubsub._OVERHEAD
    assert await receive() == ["one", "two"]
    arrive("one", 1000, None)
    arrive("one", 1001, "a")
    arrive("one", 1002, None)
    assert await receive() == ["one", "one"]
    # Losses of more publishers than there is room for are a loss of all.
    for number in range(1, 1000):
        arrive(f"publisher {number}", 1, None)
    assert messages._size <= 10_000
    publishers = await receive()
    assert publishers == [f"publisher {number + 1}" for number in range(10_000 // pubsub._OVERHEAD)] + [None]


@needs_redis
async def test_run_again_without_positions_loses_something(server: RedisServer) -> None:
    losses = Losses()
    hub = Hub(backend=RedisBackend(server.url, streams=False), instruments=[losses], when_lost="ignore")
    topic = hub.topic("news")
    async with opened() as (ann, peer):
        with topic.subscribe(ann):
            for expected in ([], ["news"]):
                async with running(hub):
                    assert losses.lost == expected
                    assert topic.position is None
                    async with opened() as (bob, _), topic.join(bob, since=Position("x", 0)) as joined:
                        assert joined == trio_ws.Joined(False, None)
            topic.publish("a")
            assert await peer.receive() == text("a")


# -- Configuration ---------------------------------------------------------------------------------------------------


@needs_redis
async def test_passwords(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", "--requirepass", "p@ss/word")
    await server.start()
    good = f"redis://:p%40ss%2Fword@127.0.0.1:{server.port}/3"
    hub = Hub(backend=RedisBackend(good))
    async with running(hub):
        assert await hub.topic("news").count_members() == 0
    for url in (f"redis://:wrong@127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}"):
        with trio.fail_after(HANGS), pytest.raises(BaseExceptionGroup) as caught:
            await Hub(backend=RedisBackend(url)).run()
        assert "AuthenticationE" in repr(caught.value) or "NOAUTH" in repr(caught.value) or "Auth" in repr(caught.value)
        assert "wrong" not in repr(caught.value)
    server.kill()


#: The commands that a user must be allowed, according to the documentation.
COMMANDS = (
    "ping info time evalsha script|load get set exists del hget hset hmget hgetall hdel expire pexpire pttl xadd xlen "
    "xrange xtrim publish subscribe unsubscribe spublish ssubscribe sunsubscribe"
)


@needs_redis
@pytest.mark.parametrize("options", [{}, {"sharded": True}, {"streams": False}], ids=str)
async def test_a_user_with_few_rights(server: RedisServer, options: dict[str, Any]) -> None:
    guide = (Path(__file__).parents[2] / "docs/howto/redis.rst").read_text()
    assert {"+" + name for name in COMMANDS.split()} <= set(guide.replace("`", " ").split())
    rights = " ".join("+" + name for name in COMMANDS.split())
    assert await command(server, f"ACL SETUSER app on >secret ~trio_ws:* &trio_ws:* {rights}") == b"+OK\r\n"
    hubs = make_hubs(f"redis://app:secret@127.0.0.1:{server.port}", **options)
    async with running(*hubs), opened() as (ann, peer):
        async with hubs[0].topic("news").join(ann):
            hubs[1].topic("news").publish("a")
            assert await collect(peer, 1) == ["a"]
            assert await hubs[1].topic("news").count_members() == 1


@needs_redis
async def test_a_user_must_be_allowed_to_see_the_server(server: RedisServer) -> None:
    rule = "ACL SETUSER app on >secret ~* &* +@all -info"
    assert await command(server, rule) == b"+OK\r\n"
    hub = Hub(backend=RedisBackend(f"redis://app:secret@127.0.0.1:{server.port}"))
    async with opened() as (ann, _):
        with hub.topic("news").subscribe(ann), trio.fail_after(HANGS), pytest.raises(BaseExceptionGroup) as caught:
            await hub.run()
    assert "must be allowed the command INFO" in repr(caught.value)


def test_tls_configuration_of_urls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    file = tmp_path / "cert.pem"
    context = make_ssl_context(
        f"rediss://host?ssl_ca_certs={tmp_path / 'ca.pem'}&ssl_certfile={file}&ssl_keyfile={file}"
    )
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert len(context.get_ca_certs()) == 1
    context = make_ssl_context(f"rediss://host?ssl_ca_certs={tmp_path}&ssl_cert_reqs=optional")
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_OPTIONAL)
    with pytest.raises(OSError):
        make_ssl_context(f"rediss://host?ssl_ca_certs={tmp_path / 'missing.pem'}")


@needs_redis
async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    tls = free_port()
    server = RedisServer(
        tmp_path / "redis",
        *("--tls-port", str(tls), "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-auth-clients", "no"),
        *("--tls-key-file", str(tmp_path / "cert.pem"), "--tls-ca-cert-file", str(tmp_path / "ca.pem")),
    )
    await server.start()
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    backends = [
        RedisBackend(f"rediss://localhost:{tls}", ssl_context=context),
        RedisBackend(f"rediss://localhost:{tls}?ssl_ca_certs={tmp_path / 'ca.pem'}&ssl_cert_reqs=required"),
    ]
    for backend in backends:
        async with backend:
            assert await backend.count_members("news") == 0
    # By default, the authority must be one that the system trusts; and the name is checked.
    parameters = f"?ssl_ca_certs={tmp_path / 'ca.pem'}"
    for unchecked in (f"{parameters}&ssl_check_hostname=false", "?ssl_cert_reqs=none"):
        async with RedisBackend(f"rediss://127.0.0.1:{tls}{unchecked}"):
            pass
    wrong: list[tuple[str, str, ssl.SSLContext | None]] = [
        ("localhost", "", None),
        ("127.0.0.1", "", context),
        ("127.0.0.1", parameters, None),
        ("127.0.0.1", f"{parameters}&ssl_check_hostname=true", None),
        ("127.0.0.1", f"{parameters}&ssl_cert_reqs=optional", None),
        ("localhost", "?ssl_check_hostname=false", None),
    ]
    for host, query, tls_context in wrong:
        with trio.fail_after(HANGS), pytest.raises(BaseExceptionGroup) as caught:
            await Hub(backend=RedisBackend(f"rediss://{host}:{tls}{query}", ssl_context=tls_context)).run()
        assert "BackendUnavailable" not in repr(caught.value)
    server.kill()


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"url": 3}, TypeError, "url"),
        ({"url": "http://localhost"}, ValueError, "redis://"),
        ({"url": "localhost:6379"}, ValueError, "redis://"),
        ({"url": "redis://"}, ValueError, "host"),
        ({"url": "redis://localhost:port"}, ValueError, "port"),
        ({"url": "unix://"}, ValueError, "path"),
        ({"url": "redis://[::1"}, ValueError, "the host in url must be"),
        ({"url": "redis://:12#3@localhost"}, ValueError, "a # in a password must be %23"),
        ({"url": "redis://localhost/abc"}, ValueError, "the database in url must be a number, not 'abc'"),
        ({"url": "redis://localhost/-1"}, ValueError, "the database in url must be a number, not '-1'"),
        ({"url": "redis://localhost/1/2"}, ValueError, "the database in url must be a number, not '1/2'"),
        ({"url": "redis://localhost/٣"}, ValueError, "the database in url must be a number, not '٣'"),
        ({"url": "redis://localhost?foo=bar"}, ValueError, "must not have parameters, not 'foo'"),
        ({"url": "redis://localhost/0?noreply=true"}, ValueError, "'noreply'"),
        ({"url": "redis://localhost/0?db=1"}, ValueError, "'db'"),
        ({"url": "redis://localhost?ssl_cert_reqs=none"}, ValueError, "'ssl_cert_reqs'"),
        ({"url": "rediss://localhost?stream_timeout=abc"}, ValueError, "only have the parameters ssl_ca_certs, .*'str"),
        ({"url": "rediss://localhost?ssl_cert_reqs=no"}, ValueError, "none or optional or required, not 'no'"),
        ({"url": "rediss://localhost?ssl_check_hostname=1"}, ValueError, "must be true or false, not '1'"),
        ({"url": "rediss://localhost?ssl_ca_certs="}, ValueError, "ssl_ca_certs of url must be a path, not ''"),
        ({"url": "rediss://localhost?ssl_keyfile=a&ssl_keyfile=b"}, ValueError, "must not be repeated"),
        ({"url": "rediss://localhost?ssl_keyfile=a"}, ValueError, "both or none"),
        (
            {"url": "rediss://localhost?ssl_cert_reqs=none&ssl_check_hostname=true"},
            ValueError,
            "ssl_cert_reqs of url must not be 'none'",
        ),
        ({"url": "unix:///redis?db=x"}, ValueError, "must be a number, not 'x'"),
        ({"url": "unix:///redis?password=x"}, ValueError, "'password'"),
        ({"url": "redis://localhost/1", "cluster": True}, ValueError, "a cluster has only database 0, not '1'"),
        ({"url": "redis://localhost", "ssl_context": ssl.create_default_context()}, ValueError, "ssl_context.*rediss"),
        (
            {"url": "rediss://localhost?ssl_check_hostname=true", "ssl_context": ssl.create_default_context()},
            ValueError,
            "url must have no parameters with ssl_context",
        ),
        ({"prefix": b"x"}, TypeError, "prefix"),
        ({"history": 0}, ValueError, "history must be between 1 and 1000000000, not 0"),
        ({"history": 2**63}, ValueError, "history must be between 1 and 1000000000, not 9223372036854775808"),
        ({"max_age": -1}, ValueError, "max_age must be greater than 0, and at most 1,000,000,000 seconds, not -1"),
        ({"max_age": 1e18}, ValueError, "max_age"),
        ({"max_age": 10**400}, ValueError, "max_age"),
        ({"max_age": float("nan")}, ValueError, "max_age"),
        ({"streams": 1}, TypeError, "streams"),
        ({"cluster": "yes"}, TypeError, "cluster"),
        ({"ssl_context": True}, TypeError, "ssl_context"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": "1"}, TypeError, "timeout"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RedisBackend(**{"url": "redis://localhost", **arguments})


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost/",
        "redis://user:p%23w@[::1]:6380/15",
        "rediss://localhost?ssl_ca_certs=/a&ssl_certfile=/b&ssl_keyfile=/c&ssl_cert_reqs=none&ssl_check_hostname=false",
        "unix:///run/redis.sock?db=3",
    ],
)
def test_urls(url: str) -> None:
    check_url(url)


@needs_redis
async def test_a_database_that_does_not_exist(server: RedisServer) -> None:
    with trio.fail_after(HANGS), pytest.raises(BaseExceptionGroup) as caught:
        await Hub(backend=RedisBackend(f"redis://127.0.0.1:{server.port}/99")).run()
    assert "DB index is out of range" in repr(caught.value)


def test_passwords_are_not_shown() -> None:
    backend = RedisBackend("rediss://ann:secret@redis.example:6380/1")
    assert repr(backend) == "<RedisBackend rediss://redis.example:6380/1>"
    with pytest.raises(ValueError, match="port") as caught:
        check_url("redis://:secret@host:70000")
    assert "secret" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_without_coredis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coredis", None)
    with pytest.raises(ImportError, match=r"pip install trio-ws\[redis\]"):
        RedisBackend("redis://localhost")


def test_coredis_is_imported_only_when_needed() -> None:
    code = "import sys, trio_ws; trio_ws.RedisBackend; assert not {'coredis', 'anyio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_slots() -> None:
    # From the specification of the cluster, and from `CLUSTER KEYSLOT`.
    assert slot_of(b"123456789") == 12739
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers") == slot_of(b"user1000")
    assert slot_of(b"foo{}{bar}") == 8363
    assert slot_of(b"foo{{bar}}zap") == slot_of(b"{bar")
    for topic in ("", "}", "{", "a}b", "ä"):
        names = Names("app:")
        keys = [names.stream(topic), names.hash(topic), names.members(topic), names.publisher(topic, "id")]
        assert {slot_of(key) for key in keys} == {slot_of(names.channel(topic))}
    assert len({script.sha for script in scripts.SCRIPTS}) == 3


# -- A cluster -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three nodes, each with a third of the slots."""
    nodes = make_nodes(tmp_path_factory.mktemp("cluster"))
    try:
        trio.run(start_cluster, nodes, nodes)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def make_nodes(folder: Path) -> list[RedisServer]:
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
    # Each node also listens on the port that is higher by 10,000.
    return [RedisServer(folder / str(number), *options, port=free_port(22_000)) for number in range(3)]


async def start_cluster(nodes: list[RedisServer], owners: list[RedisServer]) -> None:
    """Start the nodes of a cluster. The owners share the slots."""
    for node in nodes:
        await node.start()
        await command(node, f"CLUSTER MEET 127.0.0.1 {nodes[0].port}")
    for index, node in enumerate(owners):
        first, last = index * 16384 // len(owners), (index + 1) * 16384 // len(owners) - 1
        await command(node, f"CLUSTER ADDSLOTSRANGE {first} {last}")
    for node in nodes:
        await wait_until(partial(is_complete, node))


async def command(node: RedisServer, line: str) -> bytes:
    """Send a command to a server, and return the beginning of its answer."""
    async with await trio.open_tcp_stream("127.0.0.1", node.port) as stream:
        await stream.send_all(line.encode() + b"\r\n")
        return bytes(await stream.receive_some())


async def is_complete(node: RedisServer) -> bool:
    answer = await command(node, "CLUSTER INFO")
    return b"cluster_state:ok" in answer and b"cluster_known_nodes:3" in answer


class ClusterHarness(RedisHarness):
    async def interrupt(self) -> None:
        await super().interrupt()
        await wait_until(partial(is_complete, self.server))

    async def empty(self) -> None:
        await trio.lowlevel.checkpoint()
        raise NotImplementedError


@needs_redis
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_cluster(check: BackendCheck, streams: bool, cluster: list[RedisServer]) -> None:
    await check(ClusterHarness(cluster[0], cluster=True, streams=streams))


@needs_redis
async def test_a_user_with_few_rights_in_a_cluster(cluster: list[RedisServer]) -> None:
    rights = " ".join("+" + name for name in (*COMMANDS.split(), "cluster", "config|get"))
    for node in cluster:
        assert await command(node, f"ACL SETUSER app on >secret ~trio_ws:* &trio_ws:* {rights}") == b"+OK\r\n"
    hub = Hub(backend=RedisBackend(f"redis://app:secret@127.0.0.1:{cluster[0].port}", cluster=True))
    async with running(hub):
        async with opened() as (ann, peer), hub.topic("news").join(ann):
            hub.topic("news").publish("a")
            assert await collect(peer, 1) == ["a"]
            assert await hub.topic("news").count_members() == 1


@needs_redis
async def test_a_node_of_a_cluster_is_restarted(cluster: list[RedisServer]) -> None:
    losses = Losses()
    hubs = make_hubs(cluster[0].url, losses, cluster=True, prefix="restart:", timeout=2)
    names = [f"topic {number}" for number in range(12)]
    async with running(*hubs), opened() as (ann, peer):
        for name in names:
            hubs[1]._core.change_subscriptions(name, ann, 1)
        async with hubs[1].topic("last").join(ann):
            for number in range(60):
                for name in names:
                    hubs[0].topic(name).publish(json.dumps([name, number]))
                await trio.sleep(0.02)
                if number == 20:
                    cluster[1].kill()
                if number == 40:
                    await cluster[1].start()
            messages = [json.loads(message) for message in await collect(peer, 60 * len(names))]
            for name in names:
                assert [number for topic, number in messages if topic == name] == list(range(60))
            assert not losses.lost


@needs_redis
async def test_the_node_of_the_url_may_go_away(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path)
    losses = Losses()
    hub = Hub(backend=RedisBackend(nodes[0].url, cluster=True), instruments=[losses])
    try:
        # The node of the URL has no slots, so the others work without it.
        await start_cluster(nodes, nodes[1:])
        async with running(hub), opened() as (ann, peer):
            async with hub.topic("news").join(ann):
                nodes[0].kill()
                for node in nodes[1:]:
                    assert (await command(node, "CLIENT KILL TYPE normal")).startswith(b":")
                await losses.wait(lambda: losses.connections == 2)
                hub.topic("news").publish("a")
                await wait_until(lambda: is_acknowledged(hub))
                assert await collect(peer, 1) == ["a"]
                assert losses.lost == []
    finally:
        for node in nodes:
            node.kill()


def test_all_nodes_of_a_cluster_are_asked_in_turn() -> None:
    backend = RedisBackend("redis://one:7000", cluster=True)
    backend._nodes += [("two", 7001), ("three", 7002)]
    firsts = []
    for session in range(1, 5):
        backend._session = session
        nodes = backend._first_nodes()
        assert nodes is not None
        assert sorted(nodes) == [("one", 7000), ("three", 7002), ("two", 7001)]
        firsts.append(nodes[0][0])
    assert firsts == ["one", "two", "three", "one"]
