"""The conformance kit for back ends, applied to those of the library; and back ends that it must reject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import trio

from trio_ws import Backend, MemoryBackend, MemoryStore, Position, Publication, RedisBackend
from trio_ws.hub.backend import BackendEvent, Received
from trio_ws.testing import BACKEND_CHECKS, BackendCheck, BackendHarness

from .backends import Engine
from .redis_server import REDIS_SERVER, RedisServer

each_check = pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
needs_redis = pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server: apt install redis-server")


class MemoryHarness(BackendHarness):
    def __init__(self) -> None:
        self.engine = Engine()

    def make(self) -> Backend:
        return self.engine.backend()

    async def interrupt(self) -> None:
        await trio.lowlevel.checkpoint()
        self.engine.fail()
        await trio.testing.wait_all_tasks_blocked()
        self.engine.recover()

    async def empty(self) -> None:
        await trio.lowlevel.checkpoint()
        self.engine.recover(empty=True)


@each_check
async def test_memory(check: BackendCheck) -> None:
    await check(MemoryHarness())


class RedisHarness(BackendHarness):
    def __init__(self, server: RedisServer, **options: Any) -> None:
        self.server = server
        self.options = options
        self.has_positions = options.get("streams", True)

    def make(self) -> Backend:
        return RedisBackend(self.server.url, prefix="kit:", **self.options)

    async def interrupt(self) -> None:
        self.server.kill()
        await self.server.start()

    async def empty(self) -> None:
        self.server.kill()
        self.server.forget()
        await self.server.start()


@needs_redis
@pytest.mark.parametrize(
    "options", [{}, {"sharded": True}, {"streams": False}, {"streams": False, "sharded": True}], ids=str
)
@each_check
async def test_redis(check: BackendCheck, options: dict[str, Any], server: RedisServer) -> None:
    await check(RedisHarness(server, **options))


@each_check
async def test_an_engine_that_cannot_be_interrupted(check: BackendCheck) -> None:
    class Harness(MemoryHarness):
        interrupt = BackendHarness.interrupt
        empty = BackendHarness.empty

    await check(Harness())


# -- Back ends with faults -------------------------------------------------------------------------------------------


class Unordered(MemoryBackend):
    async def publish(self, batch: Sequence[Publication]) -> None:
        await super().publish(sorted(batch, key=lambda publication: -publication.number))


class WithoutTypes(MemoryBackend):
    async def receive(self) -> Sequence[BackendEvent]:
        return [
            Received(e.topic, str(e.message), e.publisher, e.number, e.position) if isinstance(e, Received) else e
            for e in await super().receive()
        ]


class LateSubscriptions(MemoryBackend):
    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        self.nursery.start_soon(self._later, topics)
        return dict.fromkeys(topics, Position("", 0))

    async def _later(self, topics: Mapping[str, Position | None]) -> None:
        await trio.sleep(0.01)
        await super().subscribe(topics)


class CountsItself(MemoryBackend):
    async def count_members(self, topic: str) -> int:
        return await super().count_members(topic) + self._counts.get(topic, 0)


class NeverLeaves(MemoryBackend):
    async def disconnect(self) -> None:
        pass


class DropsMarkers(MemoryBackend):
    async def publish(self, batch: Sequence[Publication]) -> None:
        await super().publish([publication for publication in batch if publication.message is not None])


@pytest.mark.parametrize("kind", [Unordered, WithoutTypes, LateSubscriptions, CountsItself, NeverLeaves, DropsMarkers])
async def test_the_kit_finds_faults(
    kind: type[MemoryBackend], monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    class Harness(BackendHarness):
        def __init__(self) -> None:
            self.make = partial(kind, MemoryStore())  # type: ignore[method-assign]  # the same for all

        def make(self) -> Backend:
            raise NotImplementedError

    failed = []
    for check in BACKEND_CHECKS:
        try:
            await check(Harness())
        except Exception:  # any exception says that the check has found the fault
            failed.append(check)
    assert failed
