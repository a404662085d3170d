"""Joining a topic: ``Joining``, the context manager that :meth:`Topic.join` returns.

A connection that joins gets the messages that it has missed, and then those that arrive, none twice and none missing in
between. The missed messages are fetched page by page, and sent with ``send()``, which waits for slow peers. For the
last page this would never end: there may always be new ones. So while the last page is fetched, the connection holds
the messages that arrive (see :class:`Joiner`). It gets the last page, and then the held messages that are not in it.
When there are no more, it becomes a member.

Without an envelope, the members in this process get the messages of this process directly, before those reach the
engine. Therefore the last page is fetched only when the engine has everything that was published here before holding
began. What is published here later is held, and ignored in the page.
"""

from __future__ import annotations

from types import TracebackType

import attrs
import trio

from ..connection.websocket import WebSocket
from .backend import History, Position, Received
from .core import HubCore
from .members import Joiner, TopicState

__all__ = ["Joined", "Joining"]

#: About how many bytes of missed messages are fetched at once.
PAGE_BYTES = 2**18


@attrs.frozen
class Joined:
    """The state of a topic when a connection has joined it.

    Attributes:
        recovered: Whether the connection got all messages since the requested position. False if some are missing or
            may be missing, and if no position was given: then the application must send the current state.
        position: The position from which the connection gets all messages; None if the engine has no positions.
    """

    recovered: bool
    position: Position | None


class Joining:
    """The asynchronous context manager of :meth:`Topic.join`.

    Args:
        hub: The hub.
        topic: The name of the topic.
        ws: The connection.
        since: The position; None to get only new messages.
    """

    def __init__(self, hub: HubCore, topic: str, ws: WebSocket, since: Position | None) -> None:
        self._hub = hub
        self._topic = topic
        self._ws = ws
        self._since = since
        self._entered = False

    async def __aenter__(self) -> Joined:
        """Join the topic. If cancelled, the connection is no member, but may have got missed messages.

        Raises:
            ConnectionClosed: If the connection is closed before it has got what it has missed.
            RuntimeError: If the context manager is entered twice.
        """
        if self._entered:
            raise RuntimeError("join() must be called for each `async with`")
        self._entered = True
        await trio.lowlevel.checkpoint()
        hub = self._hub
        state = hub.acquire_state(self._topic)
        joiner = hub.add_joiner(state, self._ws)
        try:
            await hub.wait_subscribed(state)
            joined = None if self._since is None else await self._recover(state, joiner, self._since)
            # No checkpoint from the last fetch to here.
            hub.change_subscriptions(self._topic, self._ws, 1)
        finally:
            hub.remove_joiner(state, joiner)
        joined = joined or Joined(False, state.position)
        return attrs.evolve(joined, position=hub.to_public(joined.position))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the topic. Not a checkpoint."""
        self._hub.change_subscriptions(self._topic, self._ws, -1)

    async def _recover(self, state: TopicState, joiner: Joiner, public: Position) -> Joined | None:
        """Send what the connection has missed. Return None if something is missing."""
        hub = self._hub
        since = hub.to_internal(public)
        if since is None:
            return None
        if self._ws in state.members:
            # It gets everything already.
            return Joined(True, since) if since == state.position else None
        while True:
            joiner.hold(hub.own_number)
            await hub.wait_published(joiner)
            page = await hub.fetch(state, since, PAGE_BYTES)
            if not page.complete or joiner.failed:
                return None
            if not page.more:
                break
            joiner.release()
            for event in page.messages:
                await self._send(joiner, event)
            assert page.position is not None
            since = page.position
        return await self._catch_up(state, joiner, page)

    async def _send(self, joiner: Joiner, event: Received) -> None:
        """Send a message of the past."""
        joiner.numbers.record(event.publisher, event.number)
        await self._ws.send(self._hub.wrap(event.message, event.position))

    async def _catch_up(self, state: TopicState, joiner: Joiner, page: History) -> Joined | None:
        """Send the last page, and the held messages that are not in it, until there are no more."""
        hub = self._hub
        for event in page.messages:
            if not hub.comes_directly(event, joiner):
                await self._send(joiner, event)
        while (held := joiner.take()) is not None:
            is_new = joiner.numbers.record(held.publisher, held.number)
            if is_new and not _covers(page.position, held.position):
                await self._ws.send(held.message, compress=held.compress)
        # No checkpoint from here on: the next message goes to the members.
        if joiner.failed:
            return None
        if _covers(state.position, page.position):
            return Joined(True, state.position)
        state.skip(joiner, page.position)
        return Joined(True, page.position)


def _covers(position: Position | None, other: Position | None) -> bool:
    """Return whether what is behind one position is not before another one."""
    return (
        position is not None and other is not None and position.epoch == other.epoch and other.offset <= position.offset
    )
