from __future__ import annotations

import itertools

import pytest

from trio_ws.exceptions import ProtocolError
from trio_ws.frames import Close
from trio_ws.protocol.closing import TRANSITIONS, Closing, ClosingEvent, ClosingState

OPEN, SENT, RECEIVED, DONE, LOST = (
    ClosingState.OPEN,
    ClosingState.SENT,
    ClosingState.RECEIVED,
    ClosingState.DONE,
    ClosingState.LOST,
)
SEND, RECEIVE, LOSE = ClosingEvent.SEND, ClosingEvent.RECEIVE, ClosingEvent.LOSE

# The transitions that RFC 6455 allows, independently of the table under test.
ALLOWED = {
    (OPEN, SEND): SENT,
    (OPEN, RECEIVE): RECEIVED,
    (OPEN, LOSE): LOST,
    (SENT, RECEIVE): DONE,
    (SENT, LOSE): LOST,
    (RECEIVED, SEND): DONE,
    (RECEIVED, LOSE): LOST,
    (DONE, LOSE): DONE,
    (LOST, LOSE): LOST,
}

# All sequences of events that lead to each state.
WAYS: dict[ClosingState, list[list[ClosingEvent]]] = {
    OPEN: [[]],
    SENT: [[SEND]],
    RECEIVED: [[RECEIVE]],
    DONE: [[SEND, RECEIVE], [RECEIVE, SEND], [SEND, RECEIVE, LOSE]],
    LOST: [[LOSE], [SEND, LOSE], [RECEIVE, LOSE], [LOSE, LOSE]],
}

OURS = Close(1000, "ours")
THEIRS = Close(1001, "theirs")


def apply(closing: Closing, event: ClosingEvent) -> None:
    if event is SEND:
        closing.send(OURS)
    elif event is RECEIVE:
        closing.receive(THEIRS)
    else:
        closing.lose()


def closing_after(*events: ClosingEvent) -> Closing:
    closing = Closing()
    for event in events:
        apply(closing, event)
    return closing


def test_starts_open() -> None:
    closing = Closing()
    assert closing.state is OPEN
    assert (closing.rcvd, closing.sent, closing.rcvd_then_sent) == (None, None, None)


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(ClosingState)
    table = {(state, event): new for state, row in TRANSITIONS.items() for event, new in row.items()}
    assert table == ALLOWED


@pytest.mark.parametrize("state, event", list(itertools.product(ClosingState, ClosingEvent)))
def test_only_transitions_in_the_table_are_allowed(state: ClosingState, event: ClosingEvent) -> None:
    for way in WAYS[state]:
        closing = closing_after(*way)
        assert closing.state is state
        before = (closing.rcvd, closing.sent, closing.rcvd_then_sent)
        if (state, event) in ALLOWED:
            apply(closing, event)
            assert closing.state is ALLOWED[state, event]
        else:
            with pytest.raises(ProtocolError):
                apply(closing, event)
            assert closing.state is state
            assert (closing.rcvd, closing.sent, closing.rcvd_then_sent) == before


@pytest.mark.parametrize(
    "state, can_send, can_receive",
    [
        (OPEN, True, True),
        (SENT, False, True),
        (RECEIVED, True, False),
        (DONE, False, False),
        (LOST, False, False),
    ],
)
def test_permissions_of_each_state(state: ClosingState, can_send: bool, can_receive: bool) -> None:
    for way in WAYS[state]:
        closing = closing_after(*way)
        assert closing.can_send is can_send
        assert closing.can_receive is can_receive


@pytest.mark.parametrize(
    "events, rcvd, sent, rcvd_then_sent",
    [
        ([SEND], None, OURS, None),
        ([RECEIVE], THEIRS, None, None),
        ([SEND, RECEIVE], THEIRS, OURS, False),
        ([RECEIVE, SEND], THEIRS, OURS, True),
        ([RECEIVE, SEND, LOSE], THEIRS, OURS, True),
        ([SEND, LOSE], None, OURS, None),
        ([RECEIVE, LOSE], THEIRS, None, None),
        ([LOSE], None, None, None),
    ],
)
def test_attributes(
    events: list[ClosingEvent], rcvd: Close | None, sent: Close | None, rcvd_then_sent: bool | None
) -> None:
    closing = closing_after(*events)
    assert (closing.rcvd, closing.sent, closing.rcvd_then_sent) == (rcvd, sent, rcvd_then_sent)


def test_clean_if_both_codes_are_normal() -> None:
    for ours in [1000, 1001, 1005, 1002, 1011, 3000, 4999]:
        for theirs in [1000, 1001, 1005, 1002, 1011, 3000, 4999]:
            normal = {1000, 1001, 1005}
            for events in itertools.permutations([("send", ours), ("receive", theirs)]):
                closing = Closing()
                for name, code in events:
                    assert not closing.is_clean
                    getattr(closing, name)(Close(code, ""))
                assert closing.is_clean is ({ours, theirs} <= normal)
                closing.lose()
                assert closing.is_clean is ({ours, theirs} <= normal)


def test_half_a_closing_handshake_is_not_clean() -> None:
    for state in (OPEN, SENT, RECEIVED, LOST):
        for way in WAYS[state]:
            assert not closing_after(*way).is_clean


def test_done_after_both_close_frames() -> None:
    for state, ways in WAYS.items():
        for way in ways:
            assert closing_after(*way).is_done is (state is DONE)
