"""The task that connects a hub with its back end: ``Exchange``.

A *session* is the time for which the back end is entered. It begins with everything that the engine must know of this
process: the back end subscribes to the topics in use, each from the position of the last message that was delivered,
and gets the numbers of members. Then one task receives, and another publishes and passes on changes. A session ends
when the back end is unavailable, and the next one begins after a delay.

What must survive the end of a session, or cancellation at any point, is kept outside of it: the queue of messages, of
which none is removed before the engine has acknowledged it, and the states of the topics.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

import trio

from ..client.backoff import Backoff, Retries, leaves
from ..exceptions import BackendUnavailable, MessagesRefused
from .backend import Backend, BackendEvent, History, Position, Publication
from .members import TopicState
from .outgoing import LOSSES, Outgoing

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Exchange"]

logger: logging.Logger = logging.getLogger("trio_ws.hub")

#: How many topics the back end is told about at once.
BATCH_TOPICS = 500

#: How many tasks may fetch messages of the past at once. Many clients may come back together: the others wait here,
#: where waiting has no timeout.
MAX_FETCHES = 4

#: Let other tasks run after so many deliveries to members.
DELIVERIES_PER_TURN = 500


class Exchange:
    """Connects a hub with its back end.

    Args:
        backend: The back end.
        backoff: The delays between attempts to connect.
        states: The topics in use. Those that no longer are will be removed.
        deliver: Called with what has arrived. Returns the number of members that got it.
        lose: Called if messages of a topic are missing.
        give_up: Called with a message that the engine will never accept, and the reason.
        observe: Called with the name and the arguments of an event for instruments.

    Attributes:
        backend: The back end.
        outgoing: The messages for the back end.
        losses: The topic whose markers stand for losses of all topics. It is subscribed in every session.
    """

    def __init__(
        self,
        backend: Backend,
        backoff: Backoff,
        states: dict[str, TopicState],
        deliver: Callable[[BackendEvent], int],
        lose: Callable[[TopicState], None],
        give_up: Callable[[Publication, str], None],
        observe: Callable[..., None],
    ) -> None:
        self.backend: Backend = backend
        self.outgoing: Outgoing = Outgoing(backend)
        self.losses: TopicState = TopicState(LOSSES)
        self._backoff = backoff
        self._states = states
        self._deliver = deliver
        self._lose = lose
        self._on_given_up = give_up
        self._observe = observe
        # Topics about which the back end must be told something; an ordered set.
        self._changed: dict[str, None] = {}
        # Wakes the task that publishes.
        self._wake = trio.Event()
        # Wakes those who wait for topics to be subscribed.
        self._progress = trio.Event()
        self._running = False
        # True while the back end publishes a batch: if the session ends then, that counts as a failure of the batch.
        self._publishing = False
        self._fetches = trio.CapacityLimiter(MAX_FETCHES)
        # The number of the current session, and the error of another task that shall end it.
        self._session = 0
        self._error: BackendUnavailable | None = None
        self._failed = trio.Event()

    # -- For the hub -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake the running task, which looks for messages and changes."""
        self._wake.set()

    def update(self, state: TopicState) -> None:
        """Record that the members of a topic have changed. Forget the topic if it is no longer in use."""
        if not (state.is_wanted or state.subscribed or state.busy):
            state.forget()
        if state.is_forgettable:
            self._changed.pop(state.name, None)
            if self._states.get(state.name) is state:
                del self._states[state.name]
        else:
            self._changed[state.name] = None
            self._wake.set()

    async def wait_subscribed(self, state: TopicState) -> None:
        """Wait until the back end has subscribed to a topic. A checkpoint only if it waits."""
        while not state.subscribed:
            await self._progress.wait()

    async def fetch(self, state: TopicState, since: Position, max_bytes: int) -> History:
        """Return messages of the past. Wait for the engine if it is unavailable. Safe to cancel."""
        while True:
            await self.wait_subscribed(state)
            async with self._fetches:
                session = self._session
                try:
                    return await self.backend.history(state.name, since, max_bytes)
                except BackendUnavailable as exc:
                    if session == self._session and state.subscribed:
                        # The session is over, even if no other call has noticed it yet.
                        self._error = exc
                        self._failed.set()
                        state.subscribed = False

    # -- Running ---------------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run sessions until cancelled.

        Raises:
            RuntimeError: If it is running already.
            BackendUnavailable: If the back end is unavailable, and a limit of the backoff is reached.
        """
        if self._running:
            raise RuntimeError("run() must not be called while it is running")
        self._running = True
        retries = Retries(self._backoff, lambda exc: isinstance(exc, BackendUnavailable))
        started = False
        try:
            while True:
                retries.begin_attempt()
                connected_at: float | None = None
                error: BackendUnavailable
                try:
                    async with self.backend:
                        self._begin_session()
                        # Before all others, so that no loss of another topic is missed.
                        self.losses.position = (await self.backend.subscribe({LOSSES: self.losses.position}))[LOSSES]
                        await self._pass_on_changes()
                        connected_at = trio.current_time()
                        self._observe("hub_connected", retries.attempts)
                        if not started:
                            started = True
                            task_status.started()
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._receive)
                            nursery.start_soon(self._send)
                            nursery.start_soon(self._watch)
                except BaseException as exc:
                    self._end_session()
                    error = self._get_reason(exc, connected=connected_at is not None)
                    if self._publishing:
                        self._publishing = False
                        self._give_up(self.outgoing.count_failure(), error.reason)
                lived = None if connected_at is None else trio.current_time() - connected_at
                if retries.schedule(error, lived) is None:
                    raise error
                logger.warning("%s; trying again", error)
                error.__traceback__ = error.__cause__ = None
                await retries.wait()
        finally:
            self._running = False

    def _get_reason(self, exc: BaseException, *, connected: bool) -> BackendUnavailable:
        """Return the reason why a session has ended, and report it to instruments.

        Raises:
            BaseException: The exception, if the reason is not that the back end is unavailable.
        """
        error: BackendUnavailable | None = None
        try:
            error = _get_unavailable(exc)
        finally:
            if connected:
                self._observe("hub_disconnected", error)
        return error

    def _begin_session(self) -> None:
        self._publishing = False
        self._error, self._failed = None, trio.Event()
        for state in self._states.values():
            state.subscribed = False
            if state.reported != 0:
                state.reported = None
            self._changed[state.name] = None

    def _end_session(self) -> None:
        self._session += 1
        for state in list(self._states.values()):
            state.subscribed = False
            state.busy = False
            self.update(state)

    async def _watch(self) -> None:
        await self._failed.wait()
        assert self._error is not None
        raise self._error

    async def _receive(self) -> None:
        while True:
            deliveries = 0
            for event in await self.backend.receive():
                if deliveries >= DELIVERIES_PER_TURN:
                    # If this is cancelled, the next session goes on from the position of the last delivered message.
                    await trio.lowlevel.checkpoint()
                    deliveries = 0
                deliveries += self._deliver(event)

    async def _send(self) -> None:
        while True:
            # Subscriptions come before messages: a new member must get the answers to what it publishes. Messages that
            # are published meanwhile wait for the subscriptions that come meanwhile.
            number = self.outgoing.number
            await self._pass_on_changes()
            if self.outgoing.has(number):
                await self._publish(number)
            elif not (self.outgoing or self._changed):
                self._wake = trio.Event()
                await self._wake.wait()

    async def _publish(self, number: int) -> None:
        batch = self.outgoing.next_batch(number)
        self._publishing = True
        try:
            await self.backend.publish(batch)
        except MessagesRefused as exc:
            self._publishing = False
            if not self._give_up(exc.numbers, exc.reason):
                raise  # None of them is in the batch: publishing it again would not end.
            return
        # No checkpoint in between: the batch is either acknowledged and removed, or published again.
        self._publishing = False
        seconds = trio.current_time() - self.outgoing.acknowledge()
        self._observe("hub_published", len(batch), seconds)
        self._observe("hub_backlog_changed", len(self.outgoing), self.outgoing.size)

    def _give_up(self, numbers: Collection[int], reason: str) -> bool:
        """Give up messages of the batch that was published last, which the engine will never accept.

        Returns:
            Whether the batch has changed.
        """
        given_up = self.outgoing.give_up(numbers) if numbers else []
        for publication in given_up:
            self._on_given_up(publication, reason)
        if given_up:
            self._observe("hub_backlog_changed", len(self.outgoing), self.outgoing.size)
        return bool(given_up)

    async def _pass_on_changes(self) -> None:
        """Tell the back end about the topics that have changed until now.

        Not about those that change meanwhile: on a busy server, there are always some.
        """
        topics = list(self._changed)
        for index in range(0, len(topics), BATCH_TOPICS):
            batch = topics[index : index + BATCH_TOPICS]
            states = [self._states[topic] for topic in batch if topic in self._changed]
            for state in states:
                del self._changed[state.name]
                state.busy = True
            try:
                await self._subscribe(states)
                await self._report(states)
                await self._unsubscribe(states)
            except BaseException:  # also when cancelled: nobody knows which of the changes the engine has made
                for state in states:
                    self._changed[state.name] = None  # for the next session
                raise
            finally:
                for state in states:
                    state.busy = False
            for state in states:
                if state.is_forgettable:
                    self.update(state)

    async def _subscribe(self, states: Sequence[TopicState]) -> None:
        topics = {state.name: state.position for state in states if state.is_wanted and not state.subscribed}
        if not topics:
            return
        positions = await self.backend.subscribe(topics)
        for state in states:
            if state.name not in topics:
                continue
            state.subscribed = True
            if positions[state.name] is None:
                if state.established:
                    # Without positions, what was published in the meantime cannot be received.
                    self._lose(state)
            elif state.position == topics[state.name]:
                # Nothing has been delivered meanwhile. The position may have a new epoch: the engine forgets old ones.
                state.position = positions[state.name]
            state.established = True
        self._progress.set()
        self._progress = trio.Event()

    async def _report(self, states: Sequence[TopicState]) -> None:
        counts = {state.name: len(state.members) for state in states if len(state.members) != state.reported}
        if not counts:
            return
        for state in states:
            if state.name in counts:
                state.reported = None  # if this fails, it is not known
        await self.backend.set_members(counts)
        for state in states:
            if state.name in counts:
                state.reported = counts[state.name]

    async def _unsubscribe(self, states: Sequence[TopicState]) -> None:
        unused = [state for state in states if state.subscribed and not state.is_wanted]
        for state in unused:
            state.forget()
        if unused:
            await self.backend.unsubscribe([state.name for state in unused])


def _get_unavailable(exc: BaseException) -> BackendUnavailable:
    """Return the reason why a session has ended, if it is that the back end is unavailable.

    Raises:
        BaseException: What else has ended the session.
    """
    if isinstance(exc, BackendUnavailable):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        unavailable, rest = exc.split(BackendUnavailable)
        if unavailable is not None and rest is None:
            return next(_find_unavailable(unavailable))
        if (
            rest is not None
            and unavailable is not None
            and all(isinstance(leaf, trio.Cancelled) for leaf in leaves(rest))
        ):
            raise rest
    raise exc


def _find_unavailable(exc: BaseException) -> Iterator[BackendUnavailable]:
    return (leaf for leaf in leaves(exc) if isinstance(leaf, BackendUnavailable))
