"""A channel that reconnects: ``open_reconnecting``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from sys import getsizeof
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import Backoff, ConnectOptions, ReconnectPhase, ReconnectState
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidStatus,
    NotConnected,
    OpenTimeout,
)
from trio_ws.frames import Close

from ..cancellation import KINDS, Scheduling, at_every_point, cancel_at
from ..support import HANGS, Peer, binary, close, pipe_pair, text
from .hosts import (
    AT_ONCE,
    DOWN,
    LONGEST,
    SILENCE,
    Gate,
    Host,
    Script,
    always,
    greet_and_echo,
    refuse,
    say,
    say_and_close,
    say_and_stay,
    start,
    stay,
    stay_for,
    watched_nursery,
)

pytestmark = pytest.mark.usefixtures("watchdog")

ROOT = Path(__file__).parent.parent.parent


# -- The server ------------------------------------------------------------------------------------------------------


async def never_answer(peer: Peer) -> None:
    await trio.sleep_forever()


#: Streams of all kinds, except those that take a thousand steps for the opening handshake.
each_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one byte"])


# -- The channel: messages -------------------------------------------------------------------------------------------


async def take(feed: trio_ws.ReconnectingChannel) -> list[Any]:
    return [message async for message in feed]


async def wait_for(feed: trio_ws.ReconnectingChannel, phase: ReconnectPhase) -> ReconnectState:
    async for state in feed.states():
        if state.phase is phase:
            return state
    pytest.fail("it has ended")


@each_kind
async def test_messages_of_all_connections(kind: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    scripts: list[Script] = [
        DOWN,
        say(text("a"), binary(b"b")),
        say_and_close(1001, text("c")),
        refuse(502),
        say_and_close(1000, text("d"), text("e")),
    ]
    host = Host(nursery, *scripts, pair=KINDS[kind])
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        assert await take(feed) == ["a", b"b", "c", "d", "e"]
        assert host.times == [0, 1, 3, 7, 15]
        assert feed.attempts == 5
        assert isinstance(feed.last_error, ConnectionClosedOK)
        assert feed.state == ReconnectState(ReconnectPhase.CLOSED, 5, feed.last_error)
        for call in (feed.receive, partial(feed.send, "x"), partial(feed.send, "x", when_down="fail")):
            with pytest.raises(ConnectionClosedOK) as caught:
                await call()
            assert caught.value is feed.last_error
        assert await take(feed) == []
    await host.check_closed()


@each_kind
async def test_messages_before_the_end_are_received_later(
    kind: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    scripts = (say(text("a"), text("b")), say(text("c")), say_and_close(1000, text("d")))
    host = Host(nursery, *scripts, pair=KINDS[kind])
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        await wait_for(feed, ReconnectPhase.CLOSED)
        assert list(map(round, host.times)) == [0, 1, 3]  # rounded, since sockets cause a small delay
        received = []
        async with trio.open_nursery() as inner:

            async def receive() -> None:
                received.append(await feed.receive())

            for _ in range(4):
                inner.start_soon(receive)
        assert sorted(received) == ["a", "b", "c", "d"]
        with pytest.raises(ConnectionClosedOK):
            await feed.receive()


@each_kind
async def test_many_receivers_when_the_connection_is_lost(
    kind: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """They receive one after the other, and the connection does not wait for all of them."""
    messages = [str(number) for number in range(20)]
    host = Host(nursery, say(*map(text, messages)), say_and_close(1000, text("the last")), pair=KINDS[kind])
    received: list[Any] = []
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:

        async def receive() -> None:
            received.append(await feed.receive())

        async with trio.open_nursery() as inner:
            for _ in range(21):
                inner.start_soon(receive)
    assert received == [*messages, "the last"]


async def test_the_connection_ends_while_messages_are_on_their_way_to_a_receiver(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class AbortAtOnce(trio_ws.Instrument):
        """In the step in which the messages go to the receiver."""

        def message_received(self, ws: trio_ws.ObservedWebSocket, *args: object) -> None:
            assert isinstance(ws, WebSocket)
            ws.abort()

    for _ in range(20):  # Trio runs the tasks in a random order
        scripts = (say_and_stay(text("a"), text("b")), say_and_stay(text("c")))
        host = Host(nursery, *scripts, instruments=[AbortAtOnce()])
        async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
            assert [await feed.receive() for _ in "abc"] == ["a", "b", "c"]


async def test_the_backlog_is_received_before_new_messages(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say(text("a"), text("b")), say_and_stay(text("c"), text("d")))
    async with trio_ws.open_reconnecting(host) as feed:
        await wait_for(feed, ReconnectPhase.WAITING)
        await wait_for(feed, ReconnectPhase.OPEN)
        await wait_all_tasks_blocked()
        assert [await feed.receive() for _ in range(4)] == ["a", "b", "c", "d"]


async def test_the_backlog_is_bounded(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, *(say(text(str(n) * 400), binary(b"x" * 50)) for n in range(6)), stay, receive_buffer=1100)
    async with trio_ws.open_reconnecting(host) as feed:
        async for state in feed.states():
            if state.attempts == 7 and state.phase is ReconnectPhase.OPEN:
                break
        received = []
        with trio.move_on_after(1):
            while True:
                received.append(await feed.receive())
    assert received[-4:] == ["4" * 400, b"x" * 50, "5" * 400, b"x" * 50]
    assert sum(map(getsizeof, received)) <= 1100


async def test_empty_messages_of_many_connections_are_bounded(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, *(say(*[text("")] * 20) for _ in range(6)), stay, receive_buffer=1500)
    async with trio_ws.open_reconnecting(host) as feed:
        async for state in feed.states():
            if state.attempts == 7 and state.phase is ReconnectPhase.OPEN:
                break
        received = 0
        with trio.move_on_after(1):
            while True:
                assert await feed.receive() == ""
                received += 1
    assert 0 < received * getsizeof("") <= 1500


async def test_backpressure_reaches_the_server(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        for _ in range(100):
            await peer.send(binary(bytes(1000)))
            sent += 1
        await peer.behave()

    host = Host(nursery, flood, pair=partial(pipe_pair, 1000), receive_buffer=5000)
    async with trio_ws.open_reconnecting(host) as feed:
        for count in (0, 1, 50):
            for _ in range(count):
                await feed.receive()
            await wait_all_tasks_blocked()
            await trio.sleep(1)
        assert 51 <= sent < 70


async def test_several_tasks_send_and_receive(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def echo_some(peer: Peer) -> None:
        for _ in range(7):
            if (frame := await peer.receive()) is not None:
                await peer.send(text(frame.data))

    host = Host(nursery, echo_some)
    received: set[Any] = set()
    async with trio_ws.open_reconnecting(host) as feed:

        async def send(name: str) -> None:
            for number in range(5):
                await feed.send(f"{name}{number}")
                await trio.sleep(0.1)

        async def receive() -> None:
            while True:
                message = await feed.receive()
                assert message not in received
                received.add(message)

        async with trio.open_nursery() as receivers:
            for _ in range(3):
                receivers.start_soon(receive)
            async with trio.open_nursery() as senders:
                for name in "abcd":
                    senders.start_soon(send, name)
            await trio.sleep(100)
            receivers.cancel_scope.cancel()
    # The last messages that were sent on a lost connection may be lost. The others arrive.
    sent = [message for texts in host.texts() for message in texts]
    assert len(sent) == len(set(sent))
    assert received <= set(sent)
    assert len(received) >= 14


async def test_checkpoints_of_a_channel(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with trio_ws.open_reconnecting(Host(nursery, say(text("a"), text("b")), DOWN), backoff=LONGEST) as feed:
        await wait_for(feed, ReconnectPhase.WAITING)
        for call in (feed.receive, partial(feed.send, "x", when_down="fail"), feed.states().__anext__):
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        with trio.testing.assert_checkpoints():
            assert await feed.receive() == "a"
        with trio.testing.assert_checkpoints(), pytest.raises(NotConnected):
            await feed.send("x", when_down="fail")
        with trio.testing.assert_checkpoints():
            await feed.states().__anext__()
        assert await feed.receive() == "b"


# -- The channel: sending --------------------------------------------------------------------------------------------


async def test_a_send_waits_for_the_next_connection(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, DOWN, stay)
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        await wait_for(feed, ReconnectPhase.WAITING)
        mutable = bytearray(b"before")
        async with trio.open_nursery() as inner:
            inner.start_soon(feed.send, mutable)
            await wait_all_tasks_blocked()
            mutable[:] = b"after!"
        await feed.send(b"text", text=True)
    await wait_all_tasks_blocked()
    assert host.frames == [[binary(b"before"), text("text"), close()]]


async def test_waiting_messages_are_sent_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, stay)
    async with trio_ws.open_reconnecting(host) as feed:
        async with trio.open_nursery() as inner:
            for message in "abc":
                inner.start_soon(feed.send, message)
        assert feed.state.phase is ReconnectPhase.OPEN
    await wait_all_tasks_blocked()
    assert sorted(host.texts()[0]) == ["a", "b", "c"]


async def test_an_unaccepted_message_goes_to_the_next_connection(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The message waits for room in the outbox when its connection is lost."""

    async def do_not_read(peer: Peer) -> None:
        await trio.sleep(10)

    host = Host(nursery, do_not_read, stay, pair=partial(pipe_pair, 200), send_buffer=0, compression=None)
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        await feed.send("x" * 1000)  # lost with the connection that accepted it
        await feed.send("kept")
    await wait_all_tasks_blocked()
    assert host.times[1] >= 10
    assert host.texts() == [[], ["kept"]]
    # It may be a buffer that is used again meanwhile.
    mutable = bytearray(b"before")
    host = Host(nursery, do_not_read, stay, pair=partial(pipe_pair, 200), send_buffer=0, compression=None)
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        await feed.send("x" * 1000)
        async with trio.open_nursery() as inner:
            inner.start_soon(feed.send, mutable)
            await wait_all_tasks_blocked()
            mutable[:] = b"after!"
    await wait_all_tasks_blocked()
    assert host.frames[1] == [binary(b"before"), close()]
    # The same with messages that were waiting for the connection.
    host = Host(nursery, DOWN, do_not_read, stay, pair=partial(pipe_pair, 200), send_buffer=0, compression=None)
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        await wait_for(feed, ReconnectPhase.WAITING)
        async with trio.open_nursery() as inner:
            for message in ("x" * 1000, "y" * 1000):
                inner.start_soon(feed.send, message)
    await wait_all_tasks_blocked()
    assert host.texts() in ([[], ["x" * 1000]], [[], ["y" * 1000]])


async def test_a_send_that_does_not_wait(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, stay_for(1), stay)
    async with trio_ws.open_reconnecting(host.dial, backoff=LONGEST, when_down="fail") as feed:
        with pytest.raises(NotConnected) as caught:
            await feed.send("x")
        assert str(caught.value) == "not connected: connecting, attempt 1"
        assert caught.value.__cause__ is None
        await wait_for(feed, ReconnectPhase.WAITING)
        with pytest.raises(trio.BrokenResourceError) as broken:
            await feed.send("x")
        assert str(broken.value) == "not connected: waiting 1 seconds after attempt 1: " + str(feed.last_error)
        assert broken.value.__cause__ is feed.last_error
        await wait_for(feed, ReconnectPhase.OPEN)
        await feed.send("a")
        await wait_for(feed, ReconnectPhase.WAITING)
        await feed.send("b", when_down="wait")
        with pytest.raises(ValueError, match="when_down"):
            await feed.send("b", when_down="never")  # type: ignore[arg-type]  # wrong on purpose
    await wait_all_tasks_blocked()
    assert host.texts()[1] == ["b"]


async def test_a_send_that_does_not_wait_on_a_closing_connection(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def close_slowly(peer: Peer) -> None:
        await peer.send(close(1001))
        await trio.sleep(3)

    async with trio_ws.open_reconnecting(Host(nursery, close_slowly, stay), when_down="fail") as feed:
        await wait_for(feed, ReconnectPhase.OPEN)
        ws = feed.ws
        assert ws is not None
        await ws.send_close()
        with pytest.raises(NotConnected):
            await feed.send("x")


@pytest.mark.parametrize("when_down", ["wait", "fail"])
async def test_invalid_messages(when_down: Any, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The error is raised at once, with or without a connection."""
    async with trio_ws.open_reconnecting(Host(nursery, DOWN, stay), when_down=when_down) as feed:
        for _ in range(2):
            with pytest.raises(TypeError):
                await feed.send(1)  # type: ignore[arg-type]  # wrong on purpose
            with pytest.raises(ValueError):
                await feed.send(b"\xff", text=True)
            await wait_for(feed, ReconnectPhase.OPEN)


# -- The channel: on_connect -----------------------------------------------------------------------------------------


async def test_on_connect_comes_first(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def log_in(peer: Peer) -> None:
        frame = await peer.receive()
        assert frame == text("log in")
        await peer.send(text("welcome"), text("news"))
        await peer.receive()

    host = Host(nursery, log_in, log_in)
    seen: list[object] = []

    async def on_connect(ws: WebSocket) -> None:
        await trio.sleep(1)
        await ws.send("log in")
        seen.append(await ws.receive())
        await trio.sleep(1)
        seen.append(feed.state.phase)
        assert feed.ws is None

    feed = trio_ws.open_reconnecting(host, on_connect=on_connect)
    async with feed:
        async with trio.open_nursery() as inner:
            inner.start_soon(feed.send, "mine")
            seen.append(await feed.receive())
        seen.append(await feed.receive())
    assert seen == ["welcome", ReconnectPhase.CONNECTING, "news"] * 2
    await wait_all_tasks_blocked()
    assert [texts[:2] for texts in host.texts()] == [["log in", "mine"], ["log in"]]


async def test_an_error_in_on_connect(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    error = LookupError("mine")

    async def on_connect(ws: WebSocket) -> None:
        raise error

    host = Host(nursery, stay)
    async with trio_ws.open_reconnecting(host, on_connect=on_connect) as feed:
        for _ in range(2):
            with pytest.raises(LookupError) as caught:
                await feed.receive()
            assert caught.value is error
            frames = [each.name for each in caught.traceback]
            assert frames[-1] == "on_connect"
            with pytest.raises(LookupError):
                await feed.send("x")
        with pytest.raises(LookupError):
            await take(feed)
        assert feed.last_error is error
    await wait_all_tasks_blocked()
    assert host.close_codes() == [1011]
    assert len(host.times) == 1


async def test_the_predicate_decides_about_errors_in_on_connect(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    host = Host(nursery, say_and_stay(text("a")), say_and_stay(text("b")))

    async def on_connect(ws: WebSocket) -> None:
        if len(host.times) == 1:
            raise LookupError("try again")

    async with trio_ws.open_reconnecting(
        host, on_connect=on_connect, backoff=LONGEST, is_retryable=lambda exc: isinstance(exc, LookupError)
    ) as feed:
        assert await feed.receive() == "b"
        assert isinstance(feed.last_error, LookupError)
    assert host.times == [0, 1]


async def test_a_connection_lost_in_on_connect(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, stay_for(1), say_and_stay(text("welcome"), text("news")))

    async def receive(ws: WebSocket) -> None:
        assert await ws.receive() == "welcome"

    async def on_connect(ws: WebSocket) -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(receive, ws)

    async with trio_ws.open_reconnecting(host, on_connect=on_connect, backoff=LONGEST) as feed:
        assert await feed.receive() == "news"
    assert host.times == [0, 2]


async def test_on_connect_has_a_deadline(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, stay, say_and_stay(text("welcome")), open_timeout=5)

    async def on_connect(ws: WebSocket) -> None:
        await ws.receive()

    async with trio_ws.open_reconnecting(host, on_connect=on_connect, backoff=LONGEST) as feed:
        assert (await wait_for(feed, ReconnectPhase.WAITING)).delay == 1
        assert isinstance(feed.last_error, OpenTimeout)
        assert feed.last_error.seconds == 5
        await wait_for(feed, ReconnectPhase.OPEN)
    await wait_all_tasks_blocked()
    assert host.times == [0, 6]
    assert host.close_codes() == [1011, 1000]


async def test_on_connect_without_a_deadline(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def on_connect(ws: WebSocket) -> None:
        await trio.sleep(5000)

    async with trio_ws.open_reconnecting(Host(nursery, stay, open_timeout=None), on_connect=on_connect) as feed:
        await wait_for(feed, ReconnectPhase.OPEN)
        assert trio.current_time() >= 5000


async def test_a_base_exception_in_on_connect(nursery: trio.Nursery) -> None:
    async def on_connect(ws: WebSocket) -> None:
        sys.exit("mine")

    async with trio_ws.open_reconnecting(Host(nursery, stay), on_connect=on_connect, is_retryable=always) as feed:
        with pytest.raises(SystemExit):
            await feed.receive()


async def test_a_predicate_that_raises(nursery: trio.Nursery) -> None:
    def is_retryable(exc: Exception) -> bool:
        raise LookupError("mine")

    async with trio_ws.open_reconnecting(Host(nursery, DOWN), is_retryable=is_retryable) as feed:
        with pytest.raises(LookupError):
            await feed.receive()
    with pytest.raises(LookupError):
        async for attempt in trio_ws.attempts(Host(nursery, DOWN), is_retryable=is_retryable):
            async with attempt:
                pass


# -- The channel: its end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [refuse(403), say_and_close(1008), say_and_close(4000)])
async def test_permanent_errors(script: Script, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, script, stay)
    async with trio_ws.open_reconnecting(host) as feed:
        caught: list[BaseException] = []

        async def call(function: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises((InvalidStatus, ConnectionClosedError)) as info:
                await function()
            caught.append(info.value)

        async with trio.open_nursery() as inner:
            for function in (feed.receive, feed.receive, partial(take, feed)):
                inner.start_soon(call, function)
        await call(partial(feed.send, "x"))
        assert caught == [feed.last_error] * 4
        assert (feed.state.phase, feed.ws, len(host.times)) == (ReconnectPhase.CLOSED, None, 2)
    await host.check_closed()


async def test_an_error_that_nobody_retrieves(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with trio_ws.open_reconnecting(Host(nursery, refuse(403))) as feed:
        await trio.sleep(1)
    assert isinstance(feed.last_error, InvalidStatus)


async def test_a_channel_that_gives_up(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(1001, text("a")), say_and_close(1001, text("b")))
    async with trio_ws.open_reconnecting(host, backoff=attrs.evolve(LONGEST, max_attempts=2)) as feed:
        assert [await feed.receive(), await feed.receive()] == ["a", "b"]
        with pytest.raises(ConnectionClosedOK) as caught:
            await take(feed)  # A normal end would not raise.
        assert caught.value.code == 1001
    host = Host(nursery, DOWN)
    async with trio_ws.open_reconnecting(host, backoff=attrs.evolve(LONGEST, max_elapsed=5)) as feed:
        with pytest.raises(ConnectFailed):
            await take(feed)
    assert host.times == [0, 1, 3]


async def test_a_predicate_can_end_the_channel_cleanly(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(1001, text("a")))
    async with trio_ws.open_reconnecting(host, is_retryable=lambda exc: False) as feed:
        assert await take(feed) == ["a"]


#: Situations in which the channel is left: the script of the host, and the close code that it must get.
SITUATIONS: dict[str, tuple[Script, int | None]] = {
    "waiting": (DOWN, None),
    "connecting": (SILENCE, None),
    "on_connect": (say_and_stay(text("wait")), 1000),
    "open": (say_and_stay(text("hi"), text("unread")), 1000),
}


async def be_slow(ws: WebSocket) -> None:
    if await ws.receive() == "wait":
        await trio.sleep_forever()


def in_situation(situation: str, nursery: trio.Nursery) -> tuple[Host, trio_ws.ReconnectingChannel]:
    host = Host(nursery, SITUATIONS[situation][0], open_timeout=1000)
    backoff = Backoff(initial=1000, maximum=1000, random=lambda: 1.0)
    return host, trio_ws.open_reconnecting(host, on_connect=be_slow, backoff=backoff)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("how", ["leave", "aclose", "raise", "cancel"])
async def test_leaving_the_channel(how: str, situation: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host, feed = in_situation(situation, nursery)
    error = ValueError("mine")
    raised: list[ValueError] = []
    ends: list[str] = []
    began = trio.current_time()

    async def wait(name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except ConnectionClosedLocally:
            ends.append(name)

    async def watch() -> None:
        assert [state.phase async for state in feed.states()][-1] is ReconnectPhase.CLOSED

    async with trio.open_nursery() as waiters:
        with trio.CancelScope() as scope, contextlib.suppress(ValueError):
            try:
                async with feed:
                    await wait_all_tasks_blocked()
                    waiters.start_soon(watch)
                    for _ in range(2):
                        if situation == "open":
                            waiters.start_soon(take, feed)
                        else:
                            waiters.start_soon(wait, "receive", feed.receive)
                            waiters.start_soon(wait, "send", partial(feed.send, "x"))
                    await wait_all_tasks_blocked()
                    if how == "aclose":
                        await feed.aclose(4000, "bye")
                        with pytest.raises(ConnectionClosedLocally):
                            await feed.receive()
                        await feed.aclose()
                    elif how == "raise":
                        raise error
                    elif how == "cancel":
                        scope.cancel()
                        await trio.sleep_forever()
            except ValueError as exc:
                raised.append(exc)
                raise
    assert scope.cancelled_caught is (how == "cancel")
    assert raised == ([error] if how == "raise" else [])
    assert error.__context__ is None
    assert trio.current_time() - began <= 0.2 + 1e-6
    if situation != "open":
        assert sorted(ends) == ["receive"] * 2 + ["send"] * 2
    for call in (partial(feed.send, "x"), partial(feed.send, "x", when_down="fail")):
        with pytest.raises(ConnectionClosedLocally):
            await call()
    with pytest.raises(ConnectionClosedLocally) as caught:
        await feed.receive()
    assert await take(feed) == []
    assert feed.state.phase is ReconnectPhase.CLOSED
    assert feed.ws is None
    await wait_all_tasks_blocked()
    await host.check_closed()
    if SITUATIONS[situation][1] is not None:
        code = {"leave": 1000, "aclose": 4000, "raise": 1011, "cancel": 1001}[how]
        assert host.close_codes() == [code]
        assert caught.value.sent is not None
        assert caught.value.sent.code == code
    assert len(host.times) == 1


async def test_closing_in_on_connect(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """on_connect closes the channel, for example because a login fails. This does not deadlock."""
    host = Host(nursery, stay)

    async def on_connect(ws: WebSocket) -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(feed.aclose, 4000)

    async with trio_ws.open_reconnecting(host, on_connect=on_connect) as feed:
        assert await take(feed) == []
        with pytest.raises(ConnectionClosedLocally):
            await feed.send("x")
        assert str(feed.state) == "closed"
        assert feed.last_error is None
    await wait_all_tasks_blocked()
    assert host.close_codes() == [4000]


async def test_an_on_connect_that_handles_being_closed(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The connection does not become open afterwards."""

    async def on_connect(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedLocally):
            await ws.receive()

    states: list[ReconnectPhase] = []

    async def watch() -> None:
        async for state in feed.states():
            states.append(state.phase)

    feed = trio_ws.open_reconnecting(Host(nursery, stay).dial, on_connect=on_connect)
    async with trio.open_nursery() as inner:
        async with feed:
            inner.start_soon(watch)
            await trio.sleep(1)
    assert states == [ReconnectPhase.CONNECTING, ReconnectPhase.CLOSED]


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_block_that_raises_when_cancelled(
    situation: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The exception propagates unchanged, and the cancellation is not lost."""
    host, feed = in_situation(situation, nursery)
    error = ValueError("mine")
    with trio.CancelScope() as scope:
        with pytest.raises(ValueError) as caught:
            async with feed:
                await wait_all_tasks_blocked()
                scope.cancel()
                raise error
        await trio.lowlevel.checkpoint()
    assert caught.value is error
    assert error.__context__ is None
    assert scope.cancelled_caught
    await host.check_closed()


async def test_closing_an_ended_channel(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Using it afterwards raises ConnectionClosedLocally, whatever the outcome was, and the backlog is dropped."""
    async with trio_ws.open_reconnecting(Host(nursery, say_and_close(1008, text("unread")))) as feed:
        state = await wait_for(feed, ReconnectPhase.CLOSED)
        await wait_all_tasks_blocked()
        await feed.aclose()
        with pytest.raises(ConnectionClosedLocally):
            await feed.receive()
        with pytest.raises(ConnectionClosedLocally):
            await feed.send("x")
        assert feed.state is state


async def test_closing_between_two_connections(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(1001, text("unread")), DOWN)
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        await wait_for(feed, ReconnectPhase.WAITING)
        await trio.sleep(0.5)
        await feed.aclose()
        with pytest.raises(ConnectionClosedLocally) as caught:
            await feed.receive()
        assert (caught.value.rcvd, caught.value.sent) == (None, None)
        assert str(caught.value) == "the channel was closed"
        assert str(feed.state) == "closed"


async def test_a_cancelled_block_can_still_send(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, stay)
    with trio.CancelScope() as scope:
        async with trio_ws.open_reconnecting(host) as feed:
            await wait_for(feed, ReconnectPhase.OPEN)
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await feed.send("bye")
                    await trio.sleep(1)
    await wait_all_tasks_blocked()
    assert host.texts() == [["bye"]]
    assert host.close_codes() == [1001]


async def test_a_server_that_does_not_answer_the_close(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    async with trio_ws.open_reconnecting(Host(nursery, never_answer, close_timeout=3)) as feed:
        await wait_for(feed, ReconnectPhase.OPEN)
    assert 3 <= trio.current_time() - began <= 3.5


async def test_a_server_that_keeps_the_stream_open(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def close_and_stay(peer: Peer) -> None:
        await peer.send(close(1001))
        await trio.sleep_forever()

    host = Host(nursery, close_and_stay, say_and_stay(text("hi")))
    async with trio_ws.open_reconnecting(host, backoff=AT_ONCE) as feed:
        assert await feed.receive() == "hi"
    assert host.times[1] <= 1
    await host.check_closed()


async def test_closing_the_connection_reconnects(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, stay, say_and_stay(text("hi")))
    async with trio_ws.open_reconnecting(host, backoff=LONGEST) as feed:
        await wait_for(feed, ReconnectPhase.OPEN)
        assert feed.ws is not None
        await feed.ws.aclose(4001, "too quiet")
        assert await feed.receive() == "hi"
    await wait_all_tasks_blocked()
    assert host.close_codes() == [4001, 1000]
    assert host.times == [0, 1]


async def test_a_connection_reports_its_own_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async with trio_ws.open_reconnecting(Host(nursery, stay_for(1), stay)) as feed:
        await wait_for(feed, ReconnectPhase.OPEN)
        assert feed.ws is not None
        with pytest.raises(ConnectionClosedError):
            await feed.ws.ping()


async def test_a_channel_that_was_not_entered(nursery: trio.Nursery) -> None:
    feed = trio_ws.open_reconnecting("ws://example.org/")
    assert feed.state == ReconnectState(ReconnectPhase.CONNECTING, 0)
    assert (feed.ws, feed.attempts, feed.last_error) == (None, 0, None)
    for call in (feed.receive, partial(feed.send, "x"), partial(feed.send, "x", when_down="fail"), feed.aclose):
        with pytest.raises(RuntimeError, match="must be used as `async with"):
            await call()
    with pytest.raises(RuntimeError, match="left in the task"):
        await feed.__aexit__(None, None, None)


async def test_a_channel_is_entered_once(nursery: trio.Nursery) -> None:
    feed = trio_ws.open_reconnecting(Host(nursery, stay))
    async with feed:
        with pytest.raises(RuntimeError, match="entered only once"):
            await feed.__aenter__()
    with pytest.raises(RuntimeError, match="entered only once"):
        await feed.__aenter__()


async def test_cancelled_while_entering(nursery: trio.Nursery) -> None:
    host = Host(nursery, stay)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with trio_ws.open_reconnecting(host):
            pytest.fail("it was entered")
    assert scope.cancelled_caught
    assert host.times == []


async def test_leaving_in_the_wrong_order(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    feed = trio_ws.open_reconnecting(Host(nursery, stay))
    await feed.__aenter__()
    other = trio.open_nursery()
    await other.__aenter__()
    with pytest.raises(RuntimeError, match="entered later"):
        await feed.__aexit__(None, None, None)
    await wait_for(feed, ReconnectPhase.CLOSED)
    await other.__aexit__(None, None, None)
    await feed.__aexit__(None, None, None)


@pytest.mark.parametrize("code, error", [(1005, ValueError), (999, ValueError), ("1000", TypeError)])
async def test_invalid_close_codes(code: Any, error: type[Exception], nursery: trio.Nursery) -> None:
    async with trio_ws.open_reconnecting(Host(nursery, stay)) as feed:
        await wait_for(feed, ReconnectPhase.OPEN)
        with pytest.raises(error):
            await feed.aclose(code)
        await feed.send("still here")


# -- The channel: states ---------------------------------------------------------------------------------------------


async def test_all_states(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, stay_for(1), say_and_close(1000))
    states: list[ReconnectState] = []
    async with trio_ws.open_reconnecting(host.dial, backoff=LONGEST) as feed:
        async for state in feed.states():
            assert state is feed.state
            states.append(state)
        assert [state async for state in feed.states()] == states[-1:]
    refused, lost, ended = (states[i].error for i in (1, 4, -1))
    connecting, is_open, waiting, closed = ReconnectPhase
    assert states == [
        ReconnectState(connecting, 1),
        ReconnectState(waiting, 1, refused, 1),
        ReconnectState(connecting, 2, refused),
        ReconnectState(is_open, 2),
        ReconnectState(waiting, 2, lost, 2),
        ReconnectState(connecting, 3, lost),
        ReconnectState(is_open, 3),
        ReconnectState(closed, 3, ended),
    ]
    assert [type(exc) for exc in (refused, lost, ended)] == [ConnectFailed, ConnectionClosedError, ConnectionClosedOK]
    assert [str(state) for state in states] == [
        "connecting, attempt 1",
        "waiting 1 seconds after attempt 1: cannot connect to the server: nobody listens",
        "connecting, attempt 2",
        "open, attempt 2",
        "waiting 2 seconds after attempt 2: the connection was lost without a closing handshake",
        "connecting, attempt 3",
        "open, attempt 3",
        "closed: received 1000 (normal closure), then sent 1000 (normal closure)",
    ]
    assert repr(feed) == "<ReconnectingChannel closed: received 1000 (normal closure), then sent 1000 (normal closure)>"
    assert str(ReconnectState(closed, 1, ValueError())) == "closed: ValueError"


async def test_a_slow_watcher_gets_the_latest_state(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, DOWN, DOWN, stay)
    async with trio_ws.open_reconnecting(host.dial, backoff=LONGEST) as feed:
        watcher = feed.states()
        seen = []
        for _ in range(3):
            seen.append((await watcher.__anext__()).attempts)
            await trio.sleep(1.5)
        assert seen == [1, 2, 3]
        await trio.sleep(100)
        assert (await watcher.__anext__()).phase is ReconnectPhase.OPEN
        with trio.move_on_after(1) as scope:
            await watcher.__anext__()
        assert scope.cancelled_caught
    assert (await watcher.__anext__()).phase is ReconnectPhase.CLOSED
    with pytest.raises(StopAsyncIteration):
        await watcher.__anext__()


async def test_several_watchers(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    seen: list[list[ReconnectState]] = [[], []]
    async with trio.open_nursery() as watchers:
        async with trio_ws.open_reconnecting(Host(nursery, DOWN, stay).dial, backoff=LONGEST) as feed:

            async def watch(states: list[ReconnectState]) -> None:
                async for state in feed.states():
                    states.append(state)

            for states in seen:
                watchers.start_soon(watch, states)
            await trio.sleep(3)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 5


# -- The channel: cancelled ------------------------------------------------------------------------------------------


def flaky(nursery: trio.Nursery, kind: str = "memory") -> Host:
    async def talk(peer: Peer) -> None:
        await peer.receive()
        await peer.send(text("welcome"), text("a"), text("b"))
        await peer.receive()

    async def talk_to_the_end(peer: Peer) -> None:
        await peer.receive()
        await peer.send(text("welcome"), text("c"))
        await peer.behave()

    scripts = (DOWN, refuse(503), talk, say_and_close(1001), talk_to_the_end)
    return Host(nursery, *scripts, pair=KINDS[kind])


async def log_in(ws: WebSocket) -> None:
    await ws.send("log in")
    assert await ws.receive() == "welcome"


@each_kind
async def test_cancel_the_channel_at_every_point(kind: str, scheduling: Scheduling, autojump_clock: MockClock) -> None:
    async def run(number: int) -> bool:
        received: list[Any] = []
        async with watched_nursery() as nursery:
            host = flaky(nursery, kind)

            async def call() -> None:
                async with trio_ws.open_reconnecting(host, on_connect=log_in, backoff=LONGEST) as feed:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(watch, feed)
                        async for message in feed:
                            received.append(message)
                            await feed.send("x")
                            if message == "c":
                                break
                        inner.cancel_scope.cancel()

            outcome = await cancel_at(number, call)
            await host.check_closed()
            assert outcome.took <= 0.2 + 1e-6
        assert received == ["a", "b", "c"][: len(received)]
        assert outcome.cancelled or len(received) == 3
        return outcome.fired

    assert await at_every_point(scheduling, run) > 80


async def watch(feed: trio_ws.ReconnectingChannel) -> None:
    async for _ in feed.states():
        pass


@pytest.mark.parametrize("kind", [kind for kind in ("memory", "sockets") if kind in KINDS])
@pytest.mark.parametrize("name", ["receive", "send", "states"])
async def test_cancel_a_call_at_every_point(
    name: str, kind: str, scheduling: Scheduling, autojump_clock: MockClock
) -> None:
    """Cancelling a call changes nothing: the channel works as before."""

    async def run(number: int) -> bool:
        received: list[Any] = []
        sent: list[str] = []
        async with watched_nursery() as nursery:
            host = flaky(nursery, kind)
            async with trio_ws.open_reconnecting(host, on_connect=log_in, backoff=LONGEST) as feed:

                async def call() -> None:
                    if name == "receive":
                        for _ in range(3):
                            received.append(await feed.receive())
                            await feed.send("go on")
                    elif name == "send":
                        for message in ("1", "2", "3"):
                            await feed.send(message)
                            sent.append(message)
                            await trio.sleep(1)
                    else:
                        async for state in feed.states():
                            if state.attempts == 3 and state.phase is ReconnectPhase.OPEN:
                                break

                outcome = await cancel_at(number, call)
                assert outcome.took <= 1e-6
                while len(received) < 3:
                    received.append(await feed.receive())
                    await feed.send("go on")
                await feed.send("the last")
            await wait_all_tasks_blocked()
            await host.check_closed()
        assert received == ["a", "b", "c"]
        texts = [message for texts in host.texts() for message in texts if message.isdigit()]
        assert len(texts) == len(set(texts))
        assert set(texts) <= {*sent, "1", "2", "3"}
        return outcome.fired

    assert await at_every_point(scheduling, run) > 20


# -- Real servers ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_files_left")
async def test_a_server_that_is_restarted(nursery: trio.Nursery) -> None:
    scope, port = await start(nursery, 0)
    gate = Gate(f"ws://127.0.0.1:{port}/")
    async with trio_ws.open_reconnecting(gate, on_connect=receive_welcome, backoff=AT_ONCE) as feed:
        errors = []
        for number in range(3):
            await feed.send(f"message {number}")
            assert await feed.receive() == f"message {number}"
            gate.close()
            scope.cancel()
            async for state in feed.states():
                if state.error is not None and state.error not in errors:
                    errors.append(state.error)
                if isinstance(state.error, ConnectFailed) and state.phase is ReconnectPhase.CONNECTING:
                    break
            scope, _ = await start(nursery, port)
            gate.open()
        await wait_for(feed, ReconnectPhase.OPEN)
        assert feed.attempts == 7
        assert [type(exc) for exc in errors if isinstance(exc, ConnectionClosed)] == [ConnectionClosedOK] * 3
        assert all(exc.code == 1001 for exc in errors if isinstance(exc, ConnectionClosed))
    scope.cancel()


async def test_headers_from_an_iterator_are_sent_on_each_connection(nursery: trio.Nursery) -> None:
    seen: list[str | None] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seen.append(ws.request.headers.get("X-Token"))
        await ws.aclose(1000 if len(seen) == 3 else 1001)

    server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1"))
    uri = f"ws://127.0.0.1:{server.port}/"
    async with trio_ws.open_reconnecting(uri, headers=iter([("X-Token", "t")]), backoff=AT_ONCE) as feed:
        assert await take(feed) == []
    assert seen == ["t", "t", "t"]
    nursery.cancel_scope.cancel()


async def receive_welcome(ws: WebSocket) -> None:
    assert await ws.receive() == "welcome"


async def test_a_uri_and_options(nursery: trio.Nursery) -> None:
    """Each attempt uses the options, and has a connection of its own."""
    requests = []

    async def hang_up(ws: WebSocket) -> None:
        requests.append(ws.request)
        if len(requests) < 3:
            await ws.aclose(1012, "restarting")
        else:
            await greet_and_echo(ws)

    server = await nursery.start(partial(trio_ws.serve, hang_up, 0, host="127.0.0.1", subprotocols=["a"]))
    options: ConnectOptions = {"headers": {"X-Token": "t"}, "subprotocols": ["a"], "max_message_size": 10}
    async with trio_ws.open_reconnecting(f"ws://127.0.0.1:{server.port}/x", backoff=AT_ONCE, **options) as feed:
        assert await feed.receive() == "welcome"
        assert feed.ws is not None
        assert feed.ws.subprotocol == "a"
        assert feed.attempts == 3
        assert isinstance(feed.last_error, ConnectionClosedError)
        assert feed.last_error.rcvd == Close(1012, "restarting")
    assert len({request.headers["Sec-WebSocket-Key"] for request in requests}) == 3
    assert {(request.path, request.headers["X-Token"]) for request in requests} == {("/x", "t")}
    requests.clear()
    async for attempt in trio_ws.attempts(f"ws://127.0.0.1:{server.port}/y", backoff=AT_ONCE, **options):
        async with attempt as ws:
            assert await ws.receive() == "welcome"
    assert [request.path for request in requests] == ["/y"] * 3


PROGRAM = """
import sys
import trio, trio_ws

async def handler(ws):
    await ws.send("welcome")
    async for message in ws:
        await ws.send(message)

async def main():
    async with trio.open_nursery() as nursery:
        async def serve(*, task_status):
            await trio_ws.serve(handler, int(sys.argv[1]), host="127.0.0.1", task_status=task_status)
        server = await nursery.start(serve)
        print(server.port, flush=True)

trio.run(main)
"""


class Process:
    """A server in a separate process."""

    def __init__(self, port: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM, str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    async def port(self) -> int:
        assert self._process.stdout is not None
        return int(await trio.to_thread.run_sync(self._process.stdout.readline))

    def kill(self) -> None:
        self._process.kill()
        with self._process:
            pass


@pytest.mark.usefixtures("no_files_left")
async def test_a_server_that_is_killed() -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(trio.fail_after(HANGS))
        process = Process(0)
        stack.callback(process.kill)
        port = await process.port()
        gate = Gate(f"ws://127.0.0.1:{port}/")
        async with trio_ws.open_reconnecting(gate, on_connect=receive_welcome, backoff=AT_ONCE) as feed:
            await feed.send("one")
            assert await feed.receive() == "one"
            gate.close()
            process.kill()
            async for state in feed.states():
                if isinstance(state.error, ConnectFailed) and state.phase is ReconnectPhase.CONNECTING:
                    break
            process = Process(port)
            stack.callback(process.kill)
            assert await process.port() == port
            gate.open()
            await feed.send("two")
            assert await feed.receive() == "two"
            assert feed.attempts == 3
