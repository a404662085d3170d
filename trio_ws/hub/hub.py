"""Publish and subscribe: ``Hub`` and ``Topic``.

A :class:`Topic` is only a name and a hub. What a hub does is in :mod:`~trio_ws.hub.core`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager

import trio

from ..client.backoff import Backoff
from ..connection.sendable import Sendable
from ..connection.websocket import WebSocket
from ..instruments.interface import Instrument
from ..misuse.usage import check_in_thread_of_trio
from ..misuse.values import check_instance
from ..protocol import Message
from ..settings import to_instruments
from .backend import Backend, Position, to_position
from .broadcast import DEFAULT_MAX_BACKLOG, DEFAULT_MAX_LAG, WhenFull, check_limits, check_when_full
from .core import HubCore, HubSettings, WhenLost, check_when_lost
from .joining import Joined, Joining
from .outgoing import LOSSES

__all__ = ["Hub", "Topic"]

#: The delays between attempts to reach the engine.
DEFAULT_BACKOFF: Backoff = Backoff(initial=0.1, maximum=2.0)


class Hub:
    """Publish and subscribe: topics, and the connections that have subscribed to them.

    ::

        hub = trio_ws.Hub(when_full="skip")


        async def chat(ws: trio_ws.WebSocket, room: str) -> None:
            topic = hub.topic(room)
            with topic.subscribe(ws):
                async for message in ws:
                    topic.publish(message, exclude=[ws])

    Topics need not be created, and are forgotten when they have no members. A hub guarantees:

    * Members get the messages of a topic that one process publishes in the order in which it published them, and none
      twice. Messages from several processes come in any order relative to each other; with ``envelope``, in the same
      order everywhere.
    * A message goes to the connections that are members when it is published or, from another process, when it arrives
      here. Connections that are closing or closed get nothing, even if they are still members.
    * Publishing never waits, neither for a slow member nor for the back end. ``when_full`` is the policy for a member
      that is behind by ``max_backlog`` bytes or ``max_lag`` seconds.
    * If messages from other processes are lost, or may be lost, ``when_lost`` is the policy for the members of their
      topic. With an engine that keeps its data, an outage alone loses nothing.

    Args:
        when_full: The policy for members that are too slow, as for :func:`broadcast`: ``"drop"``, ``"skip"`` or
            ``"newest"``; or a function that takes the name of a topic and returns its policy.
        max_backlog: Bytes of memory that may wait for a member, as for :func:`broadcast`. None: no limit.
        max_lag: Seconds that a message may wait for a member, as for :func:`broadcast`. None: no limit.
        backend: The back end that connects this hub with those of other processes while :meth:`run` runs. None if there
            is only this process.
        when_lost: The policy for the members of a topic of which messages were lost, or may be: ``"close"`` closes
            their connections with 1012 (service restart), so that they come back and get the current state;
            ``"ignore"`` does nothing; or a function that takes the name of a topic and returns its policy.
        envelope: A function of a message and its position, which makes the message that members get. It lets clients
            know the position, which they send when they come back; see :meth:`Topic.join`. The position is None if the
            engine has no positions. With a back end, members of this process, too, get messages through the engine, in
            its order. If the function raises then, this is logged, and the message counts as lost.
        backoff: The delays after which to try again if the engine is unavailable.
        instruments: Instruments to call with the events of the hub, whose names begin with ``hub_``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``when_full`` or ``when_lost`` is not one of the choices, or a limit is out of range.
    """

    def __init__(
        self,
        *,
        when_full: WhenFull | Callable[[str], WhenFull] = "drop",
        max_backlog: int | None = DEFAULT_MAX_BACKLOG,
        max_lag: float | None = DEFAULT_MAX_LAG,
        backend: Backend | None = None,
        when_lost: WhenLost | Callable[[str], WhenLost] = "close",
        envelope: Callable[[Message, Position | None], Sendable] | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        if not callable(when_full):
            check_when_full(when_full)
        if not callable(when_lost):
            check_when_lost(when_lost)
        check_limits(max_backlog, max_lag, False)
        check_instance("backend", backend, (Backend, type(None)), "a Backend or None")
        check_instance("backoff", backoff, Backoff, "a Backoff")
        if envelope is not None and not callable(envelope):
            raise TypeError(f"envelope must be callable or None, not {envelope!r}")
        settings = HubSettings(
            when_full=when_full,
            max_backlog=max_backlog,
            max_lag=max_lag,
            when_lost=when_lost,
            envelope=envelope,
            backoff=backoff,
            instruments=to_instruments(instruments),
        )
        self._core = HubCore(settings, backend, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self.topics)} topics>"

    def topic(self, name: str) -> Topic:
        """Return the topic with this name. It need not have any members.

        Raises:
            TypeError: If the name is not a str.
            ValueError: If it is ``"trio_ws:losses"``, which the hub itself uses.
        """
        check_instance("name", name, str, "a str")
        if name == LOSSES:
            raise ValueError(f"name must not be {LOSSES!r}, which the hub itself uses")
        return Topic(self, name)

    @property
    def topics(self) -> frozenset[str]:
        """The names of the topics that have members in this process."""
        return frozenset(name for name, state in self._core.states.items() if state.members)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange messages with the hubs of other processes until cancelled. Without a back end, return at once.

        ::

            await nursery.start(hub.run)

        This is started when the back end is connected. It waits for an engine that is not there yet, or goes away,
        and tries again with the delays of ``backoff``. Meanwhile, and before this runs, up to 1 MiB of messages are
        queued; see :meth:`Topic.publish`.

        A message that the engine will never accept, such as one that is too large for it, is given up: this is logged,
        instruments get ``hub_lost``, and ``when_lost`` applies in the other processes. The same happens to a message of
        more than 256 KiB if the connection fails three times in a row while it is sent.

        If this is cancelled and run again, it goes on where it was: members get what they have missed in between, and
        the queued messages are sent, in order, none twice.

        Args:
            task_status: Used by ``nursery.start``.

        Raises:
            BackendUnavailable: If a limit of ``backoff`` is reached.
            RuntimeError: If this is running already.
            Exception: Another exception from the back end, in an ``ExceptionGroup``, such as a wrong password. The hub
                may be run again.
        """
        if self._core.exchange is None:
            task_status.started()
            await trio.lowlevel.checkpoint()
        else:
            await self._core.exchange.run(task_status)


class Topic:
    """A topic of a :class:`Hub`, returned by :meth:`Hub.topic`. Topics with the same hub and name are equal.

    Attributes:
        hub: The hub.
        name: The name of the topic.
    """

    # Not an attrs class: creating one would take most of the time that importing this module takes.
    __slots__ = ("hub", "name")

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub: Hub = hub
        self.name: str = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topic) and (self.hub, self.name) == (other.hub, other.name)

    def __hash__(self) -> int:
        return hash((self.hub, self.name))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} with {len(self)} members>"

    def __len__(self) -> int:
        """Return the number of members in this process."""
        state = self.hub._core.states.get(self.name)
        return 0 if state is None else len(state.members)

    def __bool__(self) -> bool:
        """Return True, even if the topic has no members."""
        return True

    @property
    def members(self) -> frozenset[WebSocket]:
        """The members in this process."""
        state = self.hub._core.states.get(self.name)
        return frozenset() if state is None else frozenset(state.members)

    @property
    def position(self) -> Position | None:
        """The position behind the last message that was delivered in this process.

        None while the topic has no members here, or the back end has not subscribed to it yet; if the engine has no
        positions; and if there is no back end and no envelope, and no member has used :meth:`join`.
        """
        core = self.hub._core
        state = core.states.get(self.name)
        return None if state is None else core.to_public(state.position)

    async def count_members(self) -> int:
        """Return the number of members in all processes.

        The numbers of other processes come from the back end, which learns of changes with a short delay. A process
        that was killed is forgotten within 10 seconds.

        Raises:
            BackendUnavailable: If the engine does not answer, or :meth:`Hub.run` is not running.
        """
        exchange = self.hub._core.exchange
        if exchange is None:
            await trio.lowlevel.checkpoint()
            return len(self)
        others = await exchange.backend.count_members(self.name)
        return len(self) + others

    def subscribe(self, ws: WebSocket) -> AbstractContextManager[None]:
        """Return a context manager that makes a connection a member of the topic for a ``with`` block.

        The member gets the messages of this process at once, and those of other processes a little later, when the back
        end has subscribed to the topic. :meth:`join` waits for that.

        A connection that has subscribed more than once gets each message once, until it has left the last block.

        Args:
            ws: The connection.

        Raises:
            TypeError: If it is not a :class:`WebSocket`.
        """
        check_instance("ws", ws, WebSocket, "a WebSocket")
        return _subscribe(self, ws)

    def join(
        self, ws: WebSocket, *, since: Position | Sequence[str | int] | None = None
    ) -> AbstractAsyncContextManager[Joined]:
        """Return an asynchronous context manager that makes a connection a member of the topic.

        ::

            async with topic.join(ws, since=position) as joined:
                if not joined.recovered:
                    await ws.send(current_state())
                ...

        When the block is entered, the connection is a member: it gets all messages that are published from then on in
        any process. With ``since``, it has also got the messages that it has missed since that position, in their order
        and in their envelopes, if the engine still has all of them; :attr:`Joined.recovered` says so. Otherwise it has
        got none of them, or only the first ones. Until then, do not make the same connection a member of the topic in
        another task: it could get messages twice.

        Entering waits while the engine is unavailable and until :meth:`Hub.run` runs; use ``trio.fail_after`` to limit
        that. It also waits for a peer that reads the missed messages slowly. It can be cancelled at any time; then the
        connection is no member.

        Args:
            ws: The connection.
            since: The position after which the client has missed messages, as the ``envelope`` of the hub told it. Any
                pair of a str and an int will do, such as a list from JSON. None if the client is new.

        Raises:
            TypeError: If ``ws`` is not a :class:`WebSocket`, or ``since`` is neither such a pair nor None.
            ValueError: If the offset is negative.
        """
        check_instance("ws", ws, WebSocket, "a WebSocket")
        return Joining(self.hub._core, self.name, ws, None if since is None else to_position("since", since))

    def publish(
        self,
        message: Sendable,
        *,
        text: bool | None = None,
        compress: bool = True,
        exclude: Iterable[WebSocket] = (),
    ) -> list[WebSocket]:
        """Send a message to all members. Never waits.

        This is not a checkpoint, and no other task runs meanwhile. With a back end, members in other processes get the
        message a little later; with an ``envelope``, those in this process do, too.

        If the engine is unavailable, up to 1 MiB of memory is queued for it, and sent later. If there is no room, the
        message is lost for those members, which is logged to ``trio_ws.hub``, and ``when_lost`` applies to them when
        the engine is back.

        Args:
            message: The message. A ``str`` is sent as text, ``bytes`` as binary.
            text: True to send UTF-8 ``bytes`` as text, False to send a ``str`` as binary.
            compress: Whether to compress the message for members in this process, where compression is in use.
            exclude: Members that do not get the message, such as its author.

        Returns:
            The members in this process that were too slow; see :func:`broadcast`. With a back end and an ``envelope``,
            it is not known yet.

        Raises:
            RuntimeError: If Trio does not run in this thread. In another one, use :func:`trio.from_thread.run_sync`.
            TypeError: If the message is neither ``str`` nor bytes-like.
            ValueError: If the message is sent as text and is not valid Unicode.
        """
        check_in_thread_of_trio("Topic.publish()")
        return self.hub._core.publish(self.name, message, text, compress, exclude)


@contextmanager
def _subscribe(topic: Topic, ws: WebSocket) -> Iterator[None]:
    core = topic.hub._core
    core.change_subscriptions(topic.name, ws, 1)
    try:
        yield
    finally:
        core.change_subscriptions(topic.name, ws, -1)
