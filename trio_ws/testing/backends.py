"""A conformance kit for back ends: what a :class:`~trio_ws.Backend` must do, as checks that any test can call.

Subclass :class:`BackendHarness` for the engine, and call each of :data:`BACKEND_CHECKS` with a new one. With pytest and
pytest-trio::

    class NatsHarness(BackendHarness):
        has_positions = False

        def make(self) -> trio_ws.Backend:
            return NatsBackend("nats://127.0.0.1:4222")


    @pytest.mark.parametrize("check", BACKEND_CHECKS)
    async def test_nats(check: BackendCheck) -> None:
        await check(NatsHarness())

The checks use topics with random names, so that the engine may be in use. They take real time if the engine does.
"""

from __future__ import annotations

import abc
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TypeAlias

import trio

from ..exceptions import BackendUnavailable
from ..hub.backend import Backend, BackendEvent, Lost, Position, Publication, Received
from ..protocol import Message

__all__ = ["BACKEND_CHECKS", "BackendCheck", "BackendHarness"]

#: Seconds within which an engine that works must have done something.
PATIENCE = 10.0


class BackendHarness(abc.ABC):
    """What the checks need to know of an engine.

    Attributes:
        has_positions: Whether the engine has positions, and a history of at least 100 messages.
    """

    has_positions: bool = True

    @abc.abstractmethod
    def make(self) -> Backend:
        """Return a new back end. All of them have the same engine."""

    async def interrupt(self) -> None:
        """Make the engine unavailable to all back ends that are entered, and then available again, with its data.

        By default, checks that need this do nothing.

        Raises:
            NotImplementedError: If it cannot be done.
        """
        await trio.lowlevel.checkpoint()
        raise NotImplementedError

    async def empty(self) -> None:
        """Make the engine forget everything, as if another one had taken its place.

        By default, checks that need this do nothing.

        Raises:
            NotImplementedError: If it cannot be done.
        """
        await trio.lowlevel.checkpoint()
        raise NotImplementedError


BackendCheck: TypeAlias = Callable[[BackendHarness], Awaitable[None]]


class _Client:
    """A back end that is entered, with a task that receives."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.events: list[BackendEvent] = []
        self._number = 0
        self._arrived = trio.Event()

    async def receive(self) -> None:
        while True:
            events = await self.backend.receive()
            assert events, "receive() must return at least one event"
            self.events.extend(events)
            self._arrived.set()
            self._arrived = trio.Event()

    def publications(self, topic: str, messages: Sequence[Message | None]) -> list[Publication]:
        start = self._number + 1
        self._number += len(messages)
        return [Publication(topic, each, self.backend.id, number) for number, each in enumerate(messages, start)]

    async def publish(self, topic: str, *messages: Message | None) -> None:
        await self.backend.publish(self.publications(topic, messages))

    async def subscribe(self, topic: str, since: Position | None = None) -> Position | None:
        return (await self.backend.subscribe({topic: since}))[topic]

    async def wait_arrival(self) -> None:
        await self._arrived.wait()

    async def expect(self, topic: str, *expected: Message | type[Lost]) -> list[BackendEvent]:
        """Check the events of a topic; there must be exactly these, so far."""
        with trio.move_on_after(PATIENCE):
            while len(self.of(topic)) < len(expected):
                await self._arrived.wait()
        events = self.of(topic)
        got = [event.message if isinstance(event, Received) else Lost for event in events]
        assert got == list(expected), f"received {got}, not {list(expected)}"
        return events

    def of(self, topic: str) -> list[BackendEvent]:
        return [event for event in self.events if event.topic == topic]


class _Entered:
    """Enters back ends, and receives from them."""

    def __init__(self, *backends: Backend) -> None:
        self._backends = backends
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> list[_Client]:
        async with AsyncExitStack() as stack:
            clients = [_Client(await stack.enter_async_context(backend)) for backend in self._backends]
            nursery = await stack.enter_async_context(trio.open_nursery())
            for client in clients:
                nursery.start_soon(client.receive)
            stack.callback(nursery.cancel_scope.cancel)
            self._stack = stack.pop_all()
        return clients

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(exc_type, exc, traceback)


def _name() -> str:
    return f"check {secrets.token_hex(8)}"


# -- Messages --------------------------------------------------------------------------------------------------------


async def check_messages_arrive(harness: BackendHarness) -> None:
    """Messages arrive at all subscribers, the publisher included, with their types and numbers, in their order."""
    topic, other = _name(), _name()
    messages: list[Message] = ["a", b"b", "", b"", "\0ä\U0001f600", bytes(range(256)), "x" * 100_000]
    async with _Entered(harness.make(), harness.make()) as (one, two):
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
    base = _name()
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
    async with _Entered(harness.make(), harness.make()) as (one, two):
        await two.backend.subscribe(dict.fromkeys(names))
        await one.backend.publish([each for name in names for each in one.publications(name, [name])])
        for name in names:
            await two.expect(name, name)


async def check_large_batches(harness: BackendHarness) -> None:
    """Many messages of many topics in one batch arrive in order."""
    topics = [_name() for _ in range(50)]
    async with _Entered(harness.make(), harness.make()) as (one, two):
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
    async with _Entered(harness.make(), harness.make()) as (one, two):
        for _ in range(20):
            topic = _name()
            await one.publish(topic, "before")
            await two.subscribe(topic)
            await one.publish(topic, "after")
            await two.expect(topic, "after")


async def check_unsubscribing(harness: BackendHarness) -> None:
    """After ``unsubscribe``, messages no longer arrive, until the topic is subscribed again."""
    topic, other = _name(), _name()
    async with _Entered(harness.make(), harness.make()) as (one, two):
        await two.backend.subscribe({topic: None, other: None})
        await one.publish(topic, "a")
        await two.expect(topic, "a")
        await two.backend.unsubscribe([topic])
        await two.backend.unsubscribe([_name()])
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
    topic = _name()
    async with _Entered(harness.make(), harness.make()) as (one, two):
        await two.subscribe(topic)
        await one.publish(topic, "a", None, "b")
        events = await two.expect(topic, "a", Lost, "b")
        assert isinstance(events[1], Lost)
        assert events[1].publisher == one.backend.id


async def check_cancelled_calls(harness: BackendHarness) -> None:
    """Calls that are cancelled at any moment do no harm, and a message that is published again arrives once."""
    topic = _name()
    async with _Entered(harness.make(), harness.make()) as (one, two):
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


# -- Positions -------------------------------------------------------------------------------------------------------


async def check_positions(harness: BackendHarness) -> None:
    """Offsets count the messages of a topic, and are the same for all subscribers."""
    topic = _name()
    async with _Entered(harness.make(), harness.make()) as (one, two):
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
    topic = _name()
    async with _Entered(harness.make()) as (one,):
        start = await one.subscribe(topic)
        messages = [str(number) for number in range(100)]
        await one.publish(topic, *messages)
        events = await one.expect(topic, *messages)
        for index in (0, 50, 100):
            since = events[index - 1].position if index else start
            async with _Entered(harness.make()) as (two,):
                assert await two.subscribe(topic, since) == since
                await two.expect(topic, *messages[index:])
                messages.append("new")
                await one.publish(topic, "new")
                await two.expect(topic, *messages[index:])


async def check_history(harness: BackendHarness) -> None:
    """The history has all messages after a position, in pages, and says if some are missing."""
    topic, other = _name(), _name()
    async with _Entered(harness.make(), harness.make()) as (one, two):
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
    topic = _name()
    async with _Entered(harness.make(), harness.make()) as (one, two):
        await two.subscribe(topic)
        batch = one.publications(topic, ["a", "b", "c"])
        await one.backend.publish(batch[:2])
        await one.backend.publish(batch)
        await one.backend.publish(batch)
        await one.publish(topic, "d")
        await two.expect(topic, "a", "b", "c", "d")


# -- Members ---------------------------------------------------------------------------------------------------------


async def check_members(harness: BackendHarness) -> None:
    """Members are counted in all other processes; those of a process that has left no longer are."""
    topic, other = _name(), _name()
    async with _Entered(harness.make(), harness.make()) as (one, two):
        assert await one.backend.count_members(topic) == 0
        await one.backend.set_members({topic: 3, other: 1})
        assert await one.backend.count_members(topic) == 0
        assert await two.backend.count_members(topic) == 3
        await two.backend.set_members({topic: 4})
        await one.backend.set_members({topic: 1})
        assert await one.backend.count_members(topic) == 4
        assert await two.backend.count_members(topic) == 1
        async with _Entered(harness.make()) as (three,):
            await three.backend.set_members({topic: 10})
            assert await three.backend.count_members(topic) == 5
            assert await two.backend.count_members(topic) == 11
        assert await two.backend.count_members(topic) == 1
        await one.backend.set_members({topic: 0})
        assert await two.backend.count_members(topic) == 0
        assert await two.backend.count_members(other) == 1


# -- Sessions --------------------------------------------------------------------------------------------------------


async def check_entering_again(harness: BackendHarness) -> None:
    """A back end can be entered again, and then has no subscriptions and members."""
    topic = _name()
    again = harness.make()
    async with _Entered(harness.make()) as (one,):
        for _ in range(3):
            async with _Entered(again) as (two,):
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
    topic = _name()
    one, two = harness.make(), harness.make()
    since: Position | None = None
    pending: list[Publication] = []
    try:
        async with _Entered(one, two) as clients:
            since = await clients[1].subscribe(topic)
            await clients[0].publish(topic, "a")
            await clients[1].expect(topic, "a")
            pending = clients[0].publications(topic, ["b"])
            # The end of the session cancels this block.
            with trio.CancelScope(shield=True):
                await harness.interrupt()
            with trio.fail_after(PATIENCE + 10):
                for _ in range(1000):
                    await one.publish(pending)
                    await trio.sleep(0.02)
    except NotImplementedError:
        return
    except BaseException as exc:
        if not _is_unavailable(exc):
            raise
    for _ in range(200):
        try:
            async with _Entered(one, two) as clients:
                await clients[1].subscribe(topic, since)
                await one.publish(pending)
                if harness.has_positions:
                    await clients[1].expect(topic, "a", "b")
                return
        except BaseException as exc:
            if not _is_unavailable(exc):
                raise
        await trio.sleep(PATIENCE / 200)
    raise AssertionError("the back end must be available again")


def _is_unavailable(exc: BaseException) -> bool:
    if isinstance(exc, BackendUnavailable):
        return True
    inner = getattr(exc, "exceptions", ())
    return bool(inner) and all(_is_unavailable(each) for each in inner)


async def check_emptied_engine(harness: BackendHarness) -> None:
    """Positions of an engine that has lost its data are recognized."""
    if not harness.has_positions:
        return
    topic = _name()
    one = harness.make()
    async with _Entered(one) as (client,):
        await client.subscribe(topic)
        await client.publish(topic, "a", "b")
        events = await client.expect(topic, "a", "b")
    try:
        await harness.empty()
    except NotImplementedError:
        return
    async with _Entered(one, harness.make()) as (client, other):
        await other.publish(topic, "c", "d", "e")
        for event in events:
            assert event.position is not None
            assert not (await one.history(topic, event.position, 1000)).complete
        await client.subscribe(topic, events[-1].position)
        await client.expect(topic, Lost, "c", "d", "e")


#: The checks. Each takes a harness, and raises ``AssertionError`` if the back end does something wrong.
BACKEND_CHECKS: tuple[BackendCheck, ...] = (
    check_messages_arrive,
    check_names_of_topics,
    check_large_batches,
    check_subscriptions_are_effective,
    check_unsubscribing,
    check_markers,
    check_cancelled_calls,
    check_positions,
    check_resuming,
    check_history,
    check_idempotence,
    check_members,
    check_entering_again,
    check_interruption,
    check_emptied_engine,
)
