"""The inside of a hub: delivery to members, and the way of each message: ``HubCore``.

There are three ways for a message to its members:

* Without a back end, the message gets its position from a store in memory, and goes to the members at once.
* With a back end and without an envelope, the message goes to the members in this process at once, and to the back end
  a little later. When it comes back from the engine, only its position is used.
* With a back end and an envelope, the message goes only to the back end, and to the members when it comes back, because
  its position is not known before.

No method waits, except those that fetch something from the back end, so no other task can run in between.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, TypeAlias, get_args

import attrs
import trio

from ..client.backoff import Backoff
from ..connection.sendable import Sendable, prepare
from ..connection.websocket import WebSocket, connection_of
from ..frames import Close, CloseCode, Opcode
from ..instruments.interface import Instrument, call_instrument
from ..protocol import Message
from .backend import Backend, BackendEvent, History, Lost, Position, Publication, Received
from .broadcast import WhenFull, broadcast
from .exchange import Exchange
from .members import Delivery, Joiner, TopicState
from .memory import MemoryStore
from .outgoing import LOSSES

__all__ = ["Envelope", "HubCore", "HubSettings", "WhenLost", "check_when_lost"]

#: The policy for members that may have missed messages; see :class:`Hub`.
WhenLost: TypeAlias = Literal["close", "ignore"]

#: A function that makes what members get of a message and its position.
Envelope: TypeAlias = Callable[[Message, Position | None], Sendable]

logger: logging.Logger = logging.getLogger("trio_ws.hub")


def check_when_lost(when_lost: object) -> None:
    """Check a policy.

    Raises:
        ValueError: If it is not one of the two.
    """
    if when_lost not in get_args(WhenLost):
        raise ValueError(f"when_lost must be one of {', '.join(map(repr, get_args(WhenLost)))}, not {when_lost!r}")


@attrs.frozen(kw_only=True)
class HubSettings:
    """The options of a hub; see :class:`Hub`."""

    when_full: WhenFull | Callable[[str], WhenFull]
    max_backlog: int | None
    max_lag: float | None
    when_lost: WhenLost | Callable[[str], WhenLost]
    envelope: Envelope | None
    backoff: Backoff
    instruments: tuple[Instrument, ...]


class HubCore:
    """The inside of a hub.

    Args:
        settings: The options.
        backend: The back end; None if there is only this process.
        hub: The hub, for instruments.

    Attributes:
        exchange: The connection with the back end; None if there is none.
        states: The topics that are in use: those with members, and those about which the back end must be told
            something.
    """

    def __init__(self, settings: HubSettings, backend: Backend | None, hub: Any) -> None:
        self._settings = settings
        self._hub = hub
        self.states: dict[str, TopicState] = {}
        self.exchange: Exchange | None = None
        if backend is not None:
            self.exchange = Exchange(
                backend,
                settings.backoff,
                self.states,
                deliver=self._on_event,
                lose=self._lose,
                give_up=self._give_up,
                observe=self._observe,
            )
        # The history of the topics if there is no back end, and the number of the last message in it.
        self._store = MemoryStore()
        self._number = 0

    # -- Publishing ------------------------------------------------------------------------------------------------

    def publish(
        self, topic: str, message: Sendable, text: bool | None, compress: bool, exclude: Iterable[WebSocket]
    ) -> list[WebSocket]:
        """Publish a message. Return the members that were too slow for it."""
        opcode, data = prepare(message, text)
        published = data.decode() if opcode is Opcode.TEXT else data
        excluded = frozenset(exclude)
        state = self.states.get(topic)
        if self.exchange is None:
            position = self._store_message(topic, published)
            delivery = Delivery(self.wrap(published, position), compress, "", self._number, position)
            return self._deliver(state, delivery, excluded, own=False)
        slow: list[WebSocket] = []
        outgoing = self.exchange.outgoing
        queued = outgoing.put(topic, published, trio.current_time())
        self.exchange.wake()
        if self._settings.envelope is None:
            delivery = Delivery(published, compress, self.exchange.backend.id, outgoing.number, None)
            slow = self._deliver(state, delivery, excluded, own=True)
        elif queued and state is not None and (excluded or not compress):
            state.own_options[outgoing.number] = excluded, compress
        if not queued:
            logger.warning("message to topic %r not sent to other processes: %d bytes are queued", topic, outgoing.size)
        self._observe("hub_backlog_changed", len(outgoing), outgoing.size)
        return slow

    def _store_message(self, topic: str, message: Message) -> Position | None:
        """Add a message to the history in memory, unless nobody can ask for it. Return its position."""
        if self._settings.envelope is None and topic not in self._store:
            return None
        self._number += 1
        event = self._store.append(Publication(topic, message, "", self._number))
        assert isinstance(event, Received)
        if (state := self.states.get(topic)) is not None:
            state.position = event.position
        return event.position

    def wrap(self, message: Message, position: Position | None) -> Sendable:
        """Put a message into the envelope, if there is one."""
        envelope = self._settings.envelope
        return message if envelope is None else envelope(message, self.to_public(position))

    # -- Positions -------------------------------------------------------------------------------------------------

    # When messages of all topics were lost, the engine still has complete histories: nothing tells which topics miss
    # something. So positions from before must become invalid. The epochs of those that users get have the number of
    # these losses, such as "a1b2c3d4~1", unless there were none.

    @property
    def _total_losses(self) -> int:
        position = None if self.exchange is None else self.exchange.losses.position
        return 0 if position is None else position.offset

    def to_public(self, position: Position | None) -> Position | None:
        """Return the position for users that stands for a position of the engine."""
        if position is None or not self._total_losses:
            return position
        return Position(f"{position.epoch}~{self._total_losses}", position.offset)

    def to_internal(self, position: Position) -> Position | None:
        """Return the position of the engine for one that users got; None if messages of all topics were lost since."""
        epoch, _, losses = position.epoch.partition("~")
        return Position(epoch, position.offset) if losses == str(self._total_losses or "") else None

    # -- Delivery --------------------------------------------------------------------------------------------------

    def _deliver(
        self,
        state: TopicState | None,
        delivery: Delivery,
        excluded: Collection[WebSocket],
        *,
        own: bool,
    ) -> list[WebSocket]:
        """Send a message to the members of a topic, and give it to those who are joining.

        Args:
            state: The topic; None if it is not in use.
            delivery: The message.
            excluded: The members that do not get it.
            own: Whether it goes to the members in this process before it reaches the engine.

        Returns:
            The members that were too slow.
        """
        if state is None:
            return []
        if state.joiners:
            state.hold(delivery, own=own)
        settings = self._settings
        return broadcast(
            state.recipients(excluded, delivery),
            delivery.message,
            compress=delivery.compress,
            when_full=settings.when_full(state.name) if callable(settings.when_full) else settings.when_full,
            max_backlog=settings.max_backlog,
            max_lag=settings.max_lag,
        )

    def _on_event(self, event: BackendEvent) -> int:
        """Handle what has arrived from the back end. Return the number of members that got it."""
        assert self.exchange is not None
        if event.topic == LOSSES:
            self._on_total_loss(event)
            return 0
        state = self.states.get(event.topic)
        if state is None:
            return 0  # The last member has just left.
        if event.position is not None:
            state.position = event.position
        is_own = event.publisher == self.exchange.backend.id
        comes_directly = is_own and self._settings.envelope is None
        if isinstance(event, Lost):
            if not comes_directly:
                self._lose(state)
            return 0
        if not state.is_new(event.publisher, event.number) or comes_directly:
            return 0
        excluded, compress = state.take_own_options(event.number) if is_own else (frozenset(), True)
        try:
            message = self.wrap(event.message, event.position)
            delivery = Delivery(message, compress, event.publisher, event.number, event.position)
            self._deliver(state, delivery, excluded, own=False)
        except Exception:
            # A function of the user has raised, or the envelope is no message.
            logger.exception("message to topic %r not delivered", event.topic)
            self._lose(state)
        return len(state.members)

    def _on_total_loss(self, event: BackendEvent) -> None:
        """Handle that messages of any topics may be lost."""
        assert self.exchange is not None
        if event.position is not None:
            self.exchange.losses.position = event.position
        if not isinstance(event, Lost):
            return
        if event.publisher:
            is_lost = event.publisher != self.exchange.backend.id or self._settings.envelope is not None
        else:
            # Markers may be lost. But if the engine was restarted, or came back empty, each topic gets its own loss.
            is_lost = event.publisher is None and (event.position is None or event.position.offset > 0)
        if is_lost:
            for state in list(self.states.values()):
                self._lose(state)

    def _lose(self, state: TopicState) -> None:
        """Apply the policy for members that may have missed messages."""
        for joiner in state.joiners:
            joiner.failed = True
        self._observe("hub_lost", state.name)
        if not state.members:
            return
        when_lost = self._settings.when_lost
        try:
            policy = when_lost(state.name) if callable(when_lost) else when_lost
            check_when_lost(policy)
        except Exception:
            logger.exception("when_lost failed for topic %r, members will be closed", state.name)
            policy = "close"
        logger.warning("messages to topic %r may be lost for %d members (%s)", state.name, len(state.members), policy)
        if policy == "close":
            for ws in state.members:
                connection_of(ws).begin_closing(Close(CloseCode.SERVICE_RESTART, "messages were lost, reconnect"))

    def _give_up(self, publication: Publication, reason: str) -> None:
        """Tell that the engine will never accept a message. Other processes learn it from a marker in its place."""
        topic, message = publication.topic, publication.message
        if message is None:
            logger.error("a marker of lost messages to topic %r given up: %s", topic, reason)
            return
        size = len(message.encode() if isinstance(message, str) else message)
        logger.error("message of %d bytes to topic %r given up: %s", size, topic, reason)
        if self._settings.envelope is None or topic not in self.states:
            # Otherwise, members here miss it, too, and the marker tells them.
            self._observe("hub_lost", topic)

    # -- Members ---------------------------------------------------------------------------------------------------

    def acquire_state(self, topic: str) -> TopicState:
        """Return the state of a topic; a new one if the topic is not in use."""
        state = self.states.get(topic)
        if state is None:
            state = self.states[topic] = TopicState(topic)
            if self.exchange is None and topic in self._store:
                self._use_store(state)
        return state

    def _use_store(self, state: TopicState) -> None:
        """Keep the history of a topic in memory from now on, and know the position."""
        if not state.subscribed:
            state.position = self._store.use(state.name)
            state.subscribed = True

    def change_subscriptions(self, topic: str, ws: WebSocket, change: int) -> None:
        """Change the number of subscriptions that a connection has to a topic."""
        state = self.acquire_state(topic)
        before = len(state.members)
        count = state.members.get(ws, 0) + change
        if count:
            state.members[ws] = count
        else:
            state.remove(ws)
        if len(state.members) != before:
            self._update(state)

    def add_joiner(self, state: TopicState, ws: WebSocket) -> Joiner:
        """Add a connection that joins a topic."""
        max_backlog = self._settings.max_backlog
        joiner = Joiner(ws, math.inf if max_backlog is None else max_backlog)
        state.joiners.append(joiner)
        if self.exchange is None:
            self._use_store(state)
        else:
            self._update(state)
        return joiner

    def remove_joiner(self, state: TopicState, joiner: Joiner) -> None:
        """End joining, with success or without."""
        state.joiners.remove(joiner)
        self._update(state)

    def _update(self, state: TopicState) -> None:
        """Tell the back end about a topic that has changed, or forget a topic that is no longer in use."""
        if self.exchange is not None:
            self.exchange.update(state)
        elif not state.is_wanted:
            if state.subscribed:
                self._store.release(state.name)
            del self.states[state.name]

    # -- For joining -----------------------------------------------------------------------------------------------

    @property
    def own_number(self) -> int:
        """The number of the last message that was published here, if there is a back end."""
        return 0 if self.exchange is None else self.exchange.outgoing.number

    async def wait_subscribed(self, state: TopicState) -> None:
        """Wait until messages of a topic arrive here. A checkpoint only if it waits."""
        if self.exchange is not None:
            await self.exchange.wait_subscribed(state)

    async def wait_published(self, joiner: Joiner) -> None:
        """Wait until the engine has the messages of this process that the joiner does not hold."""
        if self.exchange is not None and self._settings.envelope is None:
            await self.exchange.outgoing.wait_acknowledged(joiner.last_own)

    async def fetch(self, state: TopicState, since: Position, max_bytes: int) -> History:
        """Return messages of the past. Wait for the engine if it is unavailable. A checkpoint only if it waits."""
        if self.exchange is None:
            return self._store.history(state.name, since, max_bytes)
        return await self.exchange.fetch(state, since, max_bytes)

    def comes_directly(self, event: Received, joiner: Joiner) -> bool:
        """Return whether a joiner holds a message of the past, because it was published here since."""
        return (
            self.exchange is not None
            and self._settings.envelope is None
            and event.publisher == self.exchange.backend.id
            and event.number > joiner.last_own
        )

    # -- Observing -------------------------------------------------------------------------------------------------

    def _observe(self, name: str, *args: object) -> None:
        for instrument in self._settings.instruments:
            call_instrument(instrument, name, self._hub, *args)
