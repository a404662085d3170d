"""Back ends for tests: a recording one, whose engine can fail, be slow, stop, and come back empty."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from trio_ws import BackendUnavailable, MemoryBackend, MemoryStore, MessagesRefused, Position, Publication
from trio_ws.hub.outgoing import LOSSES


class Engine:
    """The state of the engine that several back ends share.

    Attributes:
        store: Its data.
        error: What its calls raise; None if it works.
        works: While this is not set, its calls do not return.
        refuses: Whether it refuses a message for good.
    """

    def __init__(self, *, history: int = 1000) -> None:
        self.history = history
        self.store = MemoryStore(history=history)
        self.error: Exception | None = None
        self.works = trio.Event()
        self.works.set()
        self.refuses: Callable[[Publication], bool] = lambda publication: False
        self.backends: list[RecordingBackend] = []

    def fail(self, error: Exception | None = None) -> None:
        """Let all calls raise, and end all sessions."""
        self.error = error or BackendUnavailable("the engine is down")
        for backend in self.backends:
            backend.failure = self.error
            backend.failed.set()

    def recover(self, *, empty: bool = False) -> None:
        """Work again, with the same data or without."""
        self.error = None
        if empty:
            self.store = MemoryStore(history=self.history)

    def stop(self) -> None:
        """Let all calls hang."""
        self.works = trio.Event()

    def backend(self) -> RecordingBackend:
        """Return another back end for this engine."""
        return RecordingBackend(self)


class RecordingBackend(MemoryBackend):
    """A back end that records its calls, except that each session begins with a subscription to ``LOSSES``.

    Attributes:
        calls: The calls.
        loses_answers: Whether to raise after the next publishing, though the engine has got the messages.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or Engine()
        self.engine.backends.append(self)
        self.calls: list[tuple[object, ...]] = []
        self.failed = trio.Event()
        self.failure: Exception | None = None
        self.loses_answers = False
        super().__init__(self.engine.store)

    async def check(self) -> None:
        await self.engine.works.wait()
        if self.engine.error is not None:
            raise self.engine.error

    async def connect(self) -> None:
        await self.check()
        self.store = self.engine.store
        await super().connect()
        self.failed = trio.Event()
        self.nursery.start_soon(self._watch)

    async def _watch(self) -> None:
        await self.failed.wait()
        assert self.failure is not None
        raise self.failure

    async def publish(self, batch: Sequence[Publication]) -> None:
        await self.check()
        self.calls.extend(("publish", publication.topic, publication.message) for publication in batch)
        for index, publication in enumerate(batch):
            if self.engine.refuses(publication):
                await super().publish(batch[:index])
                raise MessagesRefused([publication.number], "too large")
        await super().publish(batch)
        if self.loses_answers:
            self.loses_answers = False
            raise BackendUnavailable("the answer was lost")

    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        await self.check()
        if LOSSES not in topics:
            self.calls.append(("subscribe", *topics))
        return await super().subscribe(topics)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        await self.check()
        self.calls.append(("unsubscribe", *topics))
        await super().unsubscribe(topics)

    async def set_members(self, counts: Mapping[str, int]) -> None:
        await self.check()
        self.calls.extend(("set_members", topic, count) for topic, count in counts.items())
        await super().set_members(counts)

    async def count_members(self, topic: str) -> int:
        await self.check()
        return await super().count_members(topic)

    @property
    def published(self) -> list[object]:
        """The messages that were published, again when they were published again."""
        return [call[2] for call in self.calls if call[0] == "publish"]

    @property
    def counts(self) -> list[tuple[object, ...]]:
        """The calls of set_members."""
        return [call for call in self.calls if call[0] == "set_members"]
