"""The harness of the checks: the engine, and back ends that are entered."""

from __future__ import annotations

import abc
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TypeAlias

import trio

from ...exceptions import BackendUnavailable
from ...hub.backend import Backend, BackendEvent, Lost, Position, Publication, Received
from ...protocol import Message

__all__ = ["PATIENCE", "BackendCheck", "BackendHarness", "Client", "Entered", "is_unavailable", "make_name"]

#: Seconds within which an engine that works must have done something.
PATIENCE = 10.0


class BackendHarness(abc.ABC):
    """An engine, as far as the checks need to know it.

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


class Client:
    """A back end that is entered, with a task that receives.

    Args:
        backend: The back end.

    Attributes:
        backend: The back end.
        events: What has been received.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend: Backend = backend
        self.events: list[BackendEvent] = []
        self._number = 0
        self._arrived = trio.Event()

    async def receive(self) -> None:
        """Receive until cancelled."""
        while True:
            events = await self.backend.receive()
            assert events, "receive() must return at least one event"
            self.events.extend(events)
            self._arrived.set()
            self._arrived = trio.Event()

    def publications(self, topic: str, messages: Sequence[Message | None]) -> list[Publication]:
        """Return publications with the next numbers."""
        start = self._number + 1
        self._number += len(messages)
        return [Publication(topic, each, self.backend.id, number) for number, each in enumerate(messages, start)]

    async def publish(self, topic: str, *messages: Message | None) -> None:
        """Publish messages with the next numbers."""
        await self.backend.publish(self.publications(topic, messages))

    async def subscribe(self, topic: str, since: Position | None = None) -> Position | None:
        """Subscribe to a topic. Return the position."""
        return (await self.backend.subscribe({topic: since}))[topic]

    async def wait_arrival(self) -> None:
        """Wait until something is received."""
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
        """Return the events of a topic."""
        return [event for event in self.events if event.topic == topic]


class Entered:
    """Enters back ends, and receives from them."""

    def __init__(self, *backends: Backend) -> None:
        self._backends = backends
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> list[Client]:
        async with AsyncExitStack() as stack:
            clients = [Client(await stack.enter_async_context(backend)) for backend in self._backends]
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


def make_name() -> str:
    """Return the name of a topic that nobody else uses."""
    return f"check {secrets.token_hex(8)}"


def is_unavailable(exc: BaseException) -> bool:
    """Return whether an exception only says that the engine is unavailable."""
    if isinstance(exc, BackendUnavailable):
        return True
    inner = getattr(exc, "exceptions", ())
    return bool(inner) and all(is_unavailable(each) for each in inner)
