"""Tests of the state of a connection: its table, the public state, and the exception for each outcome."""

from __future__ import annotations

import itertools
import sys

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_ws
from trio_ws.connection.state import TRANSITIONS, ConnectionState, Event, Phase, State
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
)
from trio_ws.frames import Close
from trio_ws.protocol.closing import Closing, ClosingState

from ..support import Task

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

#: The events that lead to each phase.
PATHS: dict[Phase, list[Event]] = {
    Phase.OPEN: [],
    Phase.ENDING: [Event.PEER_ENDS],
    Phase.CLOSING: [Event.CLOSE],
    Phase.SETTLED: [Event.SETTLE],
    Phase.ABORTED: [Event.ABORT],
    Phase.CLOSED: [Event.SETTLE, Event.STREAM_CLOSED],
}


def state_in(phase: Phase) -> ConnectionState:
    state = ConnectionState(Closing())
    for event in PATHS[phase]:
        assert state.advance(event)
    assert state.phase is phase
    return state


# -- The table -------------------------------------------------------------------------------------------------------

EXPECTED = {
    (Phase.OPEN, Event.PEER_ENDS): Phase.ENDING,
    (Phase.OPEN, Event.CLOSE): Phase.CLOSING,
    (Phase.OPEN, Event.SETTLE): Phase.SETTLED,
    (Phase.OPEN, Event.ABORT): Phase.ABORTED,
    (Phase.ENDING, Event.CLOSE): Phase.CLOSING,
    (Phase.ENDING, Event.SETTLE): Phase.SETTLED,
    (Phase.ENDING, Event.ABORT): Phase.ABORTED,
    (Phase.CLOSING, Event.SETTLE): Phase.SETTLED,
    (Phase.CLOSING, Event.ABORT): Phase.ABORTED,
    (Phase.SETTLED, Event.ABORT): Phase.ABORTED,
    (Phase.SETTLED, Event.STREAM_CLOSED): Phase.CLOSED,
    (Phase.ABORTED, Event.STREAM_CLOSED): Phase.CLOSED,
}


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_each_transition(phase: Phase, event: Event) -> None:
    state = state_in(phase)
    expected = EXPECTED.get((phase, event))
    assert state.advance(event) is (expected is not None)
    assert state.phase is (phase if expected is None else expected)


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(Phase)
    table = {(phase, event): new for phase, row in TRANSITIONS.items() for event, new in row.items()}
    assert table == EXPECTED


def test_a_phase_is_never_left_backwards() -> None:
    for events in itertools.product(Event, repeat=5):
        state = ConnectionState(Closing())
        for event in events:
            before = state.phase
            went_on = state.advance(event)
            assert state.phase > before if went_on else state.phase is before


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_sending_and_the_outcome(phase: Phase) -> None:
    state = state_in(phase)
    assert state.can_send is (phase in (Phase.OPEN, Phase.ENDING))
    assert state.is_settled is (phase in (Phase.SETTLED, Phase.ABORTED, Phase.CLOSED))


def test_the_outcome_ends_the_closing_handshake() -> None:
    for event in (Event.SETTLE, Event.ABORT):
        closing = Closing()
        state = ConnectionState(closing)
        state.advance(event)
        assert closing.state is ClosingState.LOST
        assert not closing.can_send


# -- The public state ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase, public",
    [
        (Phase.OPEN, State.OPEN),
        (Phase.ENDING, State.CLOSING),
        (Phase.CLOSING, State.CLOSING),
        (Phase.SETTLED, State.CLOSING),  # the stream is still open
        (Phase.ABORTED, State.CLOSED),
        (Phase.CLOSED, State.CLOSED),
    ],
)
def test_public_states(phase: Phase, public: State) -> None:
    assert state_in(phase).public is public


def test_public_names() -> None:
    assert trio_ws.State is State
    assert [(state.name, state.value) for state in State] == [
        ("OPEN", "open"),
        ("CLOSING", "closing"),
        ("CLOSED", "closed"),
    ]


# -- Waiting for a phase ---------------------------------------------------------------------------------------------


async def test_waiting(nursery: trio.Nursery) -> None:
    state = ConnectionState(Closing())
    settled, closed = Task(nursery, state.wait_for, Phase.SETTLED), Task(nursery, state.wait_for, Phase.CLOSED)
    await wait_all_tasks_blocked()
    for event, done in (
        (Event.PEER_ENDS, (False, False)),
        (Event.CLOSE, (False, False)),
        (Event.SETTLE, (True, False)),
        (Event.ABORT, (True, False)),
        (Event.STREAM_CLOSED, (True, True)),
    ):
        state.advance(event)
        await wait_all_tasks_blocked()
        assert (settled.done, closed.done) == done
    await state.wait_for(Phase.CLOSED)


async def test_waiting_that_is_cancelled(nursery: trio.Nursery) -> None:
    state = ConnectionState(Closing())
    gives_up, stays = (Task(nursery, state.wait_for, Phase.SETTLED) for _ in range(2))
    await wait_all_tasks_blocked()
    gives_up.scope.cancel()
    await wait_all_tasks_blocked()
    state.advance(Event.SETTLE)
    await wait_all_tasks_blocked()
    assert (gives_up.done, stays.done) == (False, True)


# -- The exception ---------------------------------------------------------------------------------------------------

NORMAL, GOING, WRONG = Close(1000, "bye"), Close(1001, ""), Close(4000, "wrong")


@pytest.mark.parametrize(
    "rcvd, sent, locally, cause, error",
    [
        (None, None, False, None, ConnectionClosedError),
        (NORMAL, None, False, None, ConnectionClosedError),
        (None, NORMAL, False, None, ConnectionClosedError),
        (NORMAL, NORMAL, False, None, ConnectionClosedOK),
        (GOING, GOING, False, None, ConnectionClosedOK),
        (WRONG, WRONG, False, None, ConnectionClosedError),
        (NORMAL, WRONG, False, None, ConnectionClosedError),
        (NORMAL, NORMAL, False, OSError(), ConnectionClosedError),
        (NORMAL, NORMAL, True, None, ConnectionClosedLocally),
        (None, NORMAL, True, None, ConnectionClosedLocally),
        (WRONG, NORMAL, True, OSError(), ConnectionClosedLocally),
    ],
)
@pytest.mark.parametrize("ours_first", [False, True])
def test_the_exception_of_each_outcome(
    rcvd: Close | None,
    sent: Close | None,
    locally: bool,
    cause: Exception | None,
    error: type[ConnectionClosed],
    ours_first: bool,
) -> None:
    closing = Closing()
    state = ConnectionState(closing)
    state.closed_locally = locally
    steps = [(closing.receive, rcvd), (closing.send, sent)]
    for step, close in reversed(steps) if ours_first else steps:
        if close is not None:
            step(close)
    state.fail(cause)
    state.advance(Event.SETTLE)
    exc = state.error()
    assert type(exc) is error
    assert (exc.rcvd, exc.sent) == (rcvd, sent)
    assert exc.rcvd_then_sent is (None if rcvd is None or sent is None else not ours_first)
    assert exc.__cause__ is cause
    assert state.is_clean is (cause is None and sent in (NORMAL, GOING) and rcvd in (NORMAL, GOING))
    # Every call gets its own exception, because raising it adds a traceback.
    assert state.error() is not exc


def test_the_first_cause_counts() -> None:
    state = ConnectionState(Closing())
    state.fail(None)
    first = OSError(1)
    state.fail(first)
    state.fail(OSError(2))
    assert state.cause is first


@pytest.mark.parametrize("event", [Event.SETTLE, Event.ABORT])
def test_no_cause_comes_after_the_outcome(event: Event) -> None:
    state = ConnectionState(Closing())
    state.advance(event)
    state.fail(OSError())
    assert state.cause is None


# -- The cause -------------------------------------------------------------------------------------------------------


def chain(exc: BaseException) -> list[BaseException]:
    """Return an exception and all related ones."""
    found: list[BaseException] = []
    todo = [exc]
    while todo:
        each = todo.pop()
        if not any(each is other for other in found):
            found.append(each)
            members = each.exceptions if isinstance(each, ExceptionGroup) else ()
            todo += [other for other in (each.__cause__, each.__context__, *members) if other is not None]
    return found


def fail(depth: int) -> None:
    """Raise a cause of a context of a cause ..."""
    if not depth:
        raise ValueError
    try:
        fail(depth - 1)
    except (KeyError, ValueError) as exc:
        if depth % 2:
            raise KeyError(depth) from exc
        raise KeyError(depth)  # noqa: B904  # its context


def raised(depth: int) -> Exception:
    try:
        fail(depth)
    except (KeyError, ValueError) as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_no_traceback_is_kept(depth: int) -> None:
    exc = raised(depth)
    assert all(each.__traceback__ is not None for each in chain(exc))
    state = ConnectionState(Closing())
    state.fail(exc)
    assert state.cause is exc
    assert len(chain(exc)) == depth + 1
    assert [each.__traceback__ for each in chain(exc)] == [None] * (depth + 1)


def test_no_traceback_is_kept_where_exceptions_refer_to_each_other() -> None:
    one, two = raised(0), raised(0)
    one.__cause__, two.__context__ = two, one
    ConnectionState(Closing()).fail(one)
    assert [each.__traceback__ for each in chain(one)] == [None, None]


def test_no_traceback_is_kept_in_groups() -> None:
    try:
        raise ExceptionGroup("several", [raised(2), ExceptionGroup("more", [raised(1)])])
    except ExceptionGroup as exc:
        group = exc
    ConnectionState(Closing()).fail(group)
    assert len(chain(group)) == 7
    assert [each.__traceback__ for each in chain(group)] == [None] * 7
