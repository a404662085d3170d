"""Reconnecting in a loop: ``attempts``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import Attempt
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidStatus,
    InvalidURI,
    OpenTimeout,
)

from ..cancellation import Scheduling, at_every_point, cancel_at
from ..support import URI, text
from .hosts import (
    AT_ONCE,
    DOWN,
    LONGEST,
    SILENCE,
    Gate,
    Host,
    always,
    refuse,
    say,
    say_and_close,
    say_and_stay,
    start,
    stay,
    stay_for,
    watched_nursery,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.usefixtures("watchdog")


# -- The loop: connecting --------------------------------------------------------------------------------------------


async def test_a_loop_of_one_iteration(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_stay(text("hi")))
    turns = trio_ws.attempts(host)
    async for attempt in turns:
        async with attempt as ws:
            assert isinstance(ws, WebSocket)
            assert await ws.receive() == "hi"
    await wait_all_tasks_blocked()
    assert host.close_codes() == [1000]
    assert (turns.attempts, turns.last_error) == (1, None)
    await host.check_closed()


async def test_it_retries_until_it_has_a_connection(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, refuse(503, "Retry-After: 10"), SILENCE, say_and_stay(text("hi")), open_timeout=5)
    turns = trio_ws.attempts(host, backoff=LONGEST)
    async for attempt in turns:
        async with attempt as ws:
            assert await ws.receive() == "hi"
            assert isinstance(turns.last_error, OpenTimeout)
    # Waits and timeouts: 1 s, then 10 s and 2 s, then 5 s and 4 s.
    assert host.times == [0, 1, 13, 22]
    assert turns.attempts == 4
    await host.check_closed()


async def test_a_permanent_error_is_raised_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, refuse(401), stay)
    turns = trio_ws.attempts(host, backoff=LONGEST)
    with pytest.raises(InvalidStatus) as caught:
        async for attempt in turns:
            async with attempt:
                pytest.fail("there is no connection")
    assert caught.value.response.status_code == 401
    assert turns.last_error is caught.value
    assert host.times == [0, 1]
    await host.check_closed()


async def test_the_last_error_is_raised_when_it_gives_up(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN)
    turns = trio_ws.attempts(host, backoff=attrs.evolve(LONGEST, max_attempts=3))
    with pytest.raises(ConnectFailed) as caught:
        async for attempt in turns:
            async with attempt:
                pytest.fail("there is no connection")
    assert caught.value.__cause__ is DOWN
    assert host.times == [0, 1, 3]
    with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await turns.__anext__()


async def test_another_predicate_for_connecting(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, refuse(401), LookupError("no token"), stay)
    async for attempt in trio_ws.attempts(host, backoff=LONGEST, is_retryable=always):
        async with attempt:
            pass
    assert host.times == [0, 1, 3]


async def test_the_function_raises(nursery: trio.Nursery) -> None:
    error = LookupError("no token")
    with pytest.raises(LookupError) as caught:
        async for attempt in trio_ws.attempts(Host(nursery, error)):
            async with attempt:
                pass
    assert caught.value is error


async def test_an_async_function(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, OSError("no route"), stay)

    async def dial() -> trio_ws.Connecting:
        await trio.sleep(1)
        return host()

    turns = trio_ws.attempts(dial, backoff=LONGEST)
    async for attempt in turns:
        async with attempt:
            pass
    assert host.times == [1, 3]
    assert str(turns.last_error) == "cannot connect to the server: no route"


async def test_the_function_fails_to_connect(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    error = ConnectFailed("the authority", "no token")
    turns = trio_ws.attempts(Host(nursery, error, stay))
    async for attempt in turns:
        async with attempt:
            pass
    assert turns.last_error is error


async def is_retryable_async(_exc: Exception) -> bool:
    return True


@pytest.mark.parametrize("open_it", [trio_ws.attempts, trio_ws.open_reconnecting])
@pytest.mark.parametrize(
    "target, options, error",
    [
        ("http://example.org/", {}, InvalidURI),
        (b"ws://example.org/", {}, InvalidURI),
        (None, {}, InvalidURI),
        (URI, {"open_timeout": -1}, ValueError),
        (URI, {"no_such_option": 1}, TypeError),
        (URI, {"headers": {"X": "a\r\nb"}}, ValueError),
        (URI, {"backoff": 1.0}, TypeError),
        (URI, {"is_retryable": True}, TypeError),
        (URI, {"is_retryable": is_retryable_async}, TypeError),
        (lambda: trio_ws.connect(URI), {"open_timeout": 1}, TypeError),
    ],
)
async def test_wrong_arguments(
    open_it: Callable[..., object], target: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        open_it(target, **options)


@pytest.mark.parametrize("options", [{"on_connect": 1}, {"when_down": "never"}, {"when_down": None}])
async def test_wrong_arguments_of_a_channel(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        trio_ws.open_reconnecting(URI, **options)


async def test_options_besides_a_function() -> None:
    for function in (trio_ws.attempts, trio_ws.open_reconnecting):
        with pytest.raises(TypeError, match=rf"in the function, not to {function.__name__}\(\)$"):
            function(lambda: trio_ws.connect(URI), open_timeout=1)


async def test_a_function_that_returns_no_connection() -> None:
    turns = trio_ws.attempts(lambda: URI, is_retryable=lambda exc: False)  # type: ignore[arg-type,return-value]  # wrong on purpose
    with pytest.raises(TypeError, match="must return the result of connect"):
        async for attempt in turns:
            async with attempt:
                pass


# -- The loop: after an iteration ------------------------------------------------------------------------------------


async def receive_all(ws: WebSocket) -> list[Any]:
    return [message async for message in ws]


async def test_a_lost_connection_is_followed_by_the_next(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say(text("a"), text("b")), say(text("c")), DOWN, say_and_close(1000, text("d")))
    received = []
    turns = trio_ws.attempts(host, backoff=LONGEST)
    async for attempt in turns:
        async with attempt as ws:
            async for message in ws:
                received.append(message)
            assert ws.close_code == 1000
    assert received == ["a", "b", "c", "d"]
    assert host.times == [0, 1, 3, 7]
    assert isinstance(turns.last_error, ConnectionClosedOK)
    await host.check_closed()


@pytest.mark.parametrize("code", [1001, None])
async def test_a_server_that_goes_away(code: int | None, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(code, text("a")), say_and_close(1000, text("b")))
    received = []
    turns = trio_ws.attempts(host, backoff=LONGEST)
    async for attempt in turns:
        async with attempt as ws:
            received += await receive_all(ws)
    assert received == ["a", "b"]
    assert host.times == [0, 1]
    assert isinstance(turns.last_error, ConnectionClosedOK)


async def test_a_permanent_close_code(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(1008, text("a")), stay)
    with pytest.raises(ConnectionClosedError) as caught:
        async for attempt in trio_ws.attempts(host):
            async with attempt as ws:
                await receive_all(ws)
    assert caught.value.code == 1008
    assert len(host.times) == 1


async def test_the_predicate_decides_about_a_normal_end_too(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(1000), say_and_close(4000), say_and_close(1000))
    asked: list[Any] = []

    def is_retryable(exc: Exception) -> bool:
        asked.append(exc)
        return len(asked) < 3

    async for attempt in trio_ws.attempts(host, is_retryable=is_retryable):
        async with attempt as ws:
            await receive_all(ws)
    assert [exc.code for exc in asked] == [1000, 4000, 1000]
    assert [type(exc) for exc in asked] == [ConnectionClosedOK, ConnectionClosedError, ConnectionClosedOK]


async def test_a_block_that_completes_ends_the_loop(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say(text("result")), stay)
    async for attempt in trio_ws.attempts(host):
        async with attempt as ws:
            assert await ws.receive() == "result"
            # The end of the connection makes no difference any more, since the block does not use it.
            await wait_all_tasks_blocked()
            assert ws.state is trio_ws.State.CLOSED
    assert len(host.times) == 1


async def test_a_block_that_closes_ends_the_loop(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_stay(text("a")), stay)
    async for attempt in trio_ws.attempts(host, is_retryable=always):
        async with attempt as ws:
            async for message in ws:
                assert message == "a"
                await ws.aclose()
    assert host.close_codes() == [1000]
    host = Host(nursery, say_and_stay(text("a")), stay)
    async for attempt in trio_ws.attempts(host):
        async with attempt as ws:
            await ws.send_close(1001)
            assert await receive_all(ws) == ["a"]
    assert host.close_codes() == [1001]


async def test_a_block_that_handles_the_end_itself(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say(text("a")), say_and_close(1008), stay)
    codes = []
    async for attempt in trio_ws.attempts(host):
        async with attempt as ws:
            try:
                await receive_all(ws)
            except ConnectionClosed as exc:
                codes.append(exc.code)
    assert codes == [1006, 1008]
    assert len(host.times) == 2


async def test_using_a_closed_connection_raises(nursery: trio.Nursery) -> None:
    with pytest.raises(ConnectionClosedLocally):
        async for attempt in trio_ws.attempts(Host(nursery, stay), is_retryable=always):
            async with attempt as ws:
                await ws.aclose()
                await ws.receive()


async def test_a_group_with_only_the_end_of_the_connection(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, stay_for(1), say_and_stay(text("hi")))
    turns = trio_ws.attempts(host, backoff=LONGEST)
    received = []

    async def receive(ws: WebSocket) -> None:
        received.append(await ws.receive())

    async for attempt in turns:
        async with attempt as ws:
            async with trio.open_nursery() as inner:
                inner.start_soon(ws.ping)
                async with trio.open_nursery() as innermost:
                    innermost.start_soon(receive, ws)
    assert received == ["hi"]
    assert host.times == [0, 2]
    assert isinstance(turns.last_error, ConnectionClosedError)


async def test_a_group_with_another_exception(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    error = ValueError("mine")

    async def fail(ws: WebSocket) -> None:
        try:
            await ws.receive()
        finally:
            raise error

    with pytest.raises(ExceptionGroup) as caught:
        async for attempt in trio_ws.attempts(Host(nursery, stay_for(1)), is_retryable=always):
            async with attempt as ws:
                async with trio.open_nursery() as inner:
                    inner.start_soon(fail, ws)
                    inner.start_soon(ws.receive)
    assert error in caught.value.exceptions


async def test_other_exceptions_propagate(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """An exception that does not report the end of this connection propagates, whatever the predicate returns."""
    other = Host(nursery, say_and_close(1011))
    for script, error in [
        (stay, ConnectFailed("another server", "it is down")),
        (stay, OSError("disk full")),
        (stay, ConnectionClosedError(None, None)),
        (say(), ValueError("mine")),
    ]:
        with pytest.raises(type(error)) as caught:
            async for attempt in trio_ws.attempts(Host(nursery, script), is_retryable=always):
                async with attempt:
                    await wait_all_tasks_blocked()
                    try:
                        raise LookupError("before")
                    except LookupError as before:
                        context = before
                        raise error  # noqa: B904  # The test is about this exception, not about its cause.
        assert caught.value is error
        assert error.__context__ is context
        assert error.__cause__ is None
    host = Host(nursery, say())
    with pytest.raises(ConnectionClosedError) as closed:
        async for attempt in trio_ws.attempts(host, is_retryable=always):
            async with attempt:
                await wait_all_tasks_blocked()
                async with other() as another:
                    await another.receive()
    assert closed.value.code == 1011
    assert len(host.times) == 1


async def test_giving_up_raises_the_exception_of_the_block(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say(text("a")))
    backoff = attrs.evolve(LONGEST, max_attempts=2)
    seen = []
    with pytest.raises(ConnectionClosedError) as caught:
        async for attempt in trio_ws.attempts(host, backoff=backoff):
            async with attempt as ws:
                seen.append(await ws.receive())
                await ws.receive()
    assert seen == ["a", "a"]
    assert caught.value.__context__ is None


async def test_giving_up_after_a_normal_closure(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(1001))
    turns = trio_ws.attempts(host, backoff=attrs.evolve(LONGEST, max_attempts=2))
    with pytest.raises(ConnectionClosedOK) as caught:
        async for attempt in turns:
            async with attempt as ws:
                await receive_all(ws)
    assert caught.value.code == 1001
    assert len(host.times) == 2
    with pytest.raises(StopAsyncIteration):
        await turns.__anext__()


async def test_break_after_giving_up(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async for attempt in trio_ws.attempts(
        Host(nursery, say_and_close(1001)), backoff=attrs.evolve(LONGEST, max_attempts=1)
    ):
        async with attempt as ws:
            await receive_all(ws)
            break


async def test_a_long_connection_starts_a_new_series(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, DOWN, DOWN, stay_for(59), stay_for(60), stay_for(1), say_and_close(1000))
    async for attempt in trio_ws.attempts(host, backoff=LONGEST):
        async with attempt as ws:
            await receive_all(ws)
    assert [after - before for before, after in zip(host.times, host.times[1:], strict=False)] == [1, 2, 63, 61, 2]


# -- The loop: leaving it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "in", "after"])
@pytest.mark.parametrize("how", ["break", "return", "raise"])
async def test_leaving_the_loop(place: str, how: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say(text("a")), say_and_stay(text("b")))
    error = ValueError("mine")

    async def loop() -> str:
        async for attempt in trio_ws.attempts(host, backoff=LONGEST):
            if place == "before" and host.times:
                if how == "raise":
                    raise error
                elif how == "return":
                    return "returned"
                break
            async with attempt as ws:
                async for message in ws:
                    if place == "in" and message == "b":
                        if how == "raise":
                            raise error
                        elif how == "return":
                            return "returned"
                        break
                    elif message == "b":
                        await ws.aclose()
            if place == "after" and len(host.times) == 2:
                if how == "raise":
                    raise error
                elif how == "return":
                    return "returned"
                break
        return "ended"

    if how == "raise":
        with pytest.raises(ValueError) as caught:
            await loop()
        assert caught.value is error
        assert caught.value.__context__ is None
    else:
        assert await loop() == ("ended" if how == "break" else "returned")
    await wait_all_tasks_blocked()
    await host.check_closed()
    assert host.times == ([0] if place == "before" else [0, 1])
    code = {"before": None, "in": 1011 if how == "raise" else 1000, "after": 1000}[place]
    assert place == "before" or host.close_codes()[1] == code


async def test_an_abandoned_loop_leaves_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """There is no warning either, unlike with an async generator."""
    host = Host(nursery, stay)
    turns = trio_ws.attempts(host)
    attempt = await turns.__anext__()
    async with attempt:
        pass
    del turns, attempt
    gc.collect()
    never = trio_ws.attempts("ws://example.org/")
    await never.__anext__()
    del never
    gc.collect()
    await host.check_closed()


async def test_each_attempt_must_be_entered(nursery: trio.Nursery) -> None:
    """Otherwise, the loop would spin: the wait is between two connections."""
    host = Host(nursery, stay)
    turns = 0
    with pytest.raises(RuntimeError, match="must connect: `async with attempt as ws:`"):
        async for _ in trio_ws.attempts(host):
            turns += 1
    assert turns == 1
    assert host.times == []


async def test_the_first_iteration_is_a_checkpoint(nursery: trio.Nursery) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async for _ in trio_ws.attempts(Host(nursery, stay)):
            pytest.fail("it was not cancelled")
    assert scope.cancelled_caught


async def test_waiting_for_the_end_ends_the_loop(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say_and_close(1001))
    async for attempt in trio_ws.attempts(host):
        async with attempt as ws:
            await ws.wait_closed()
            assert ws.close_code == 1001
    assert host.times == [0]


async def test_an_attempt_is_entered_once_within_its_iteration(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    turns = trio_ws.attempts(Host(nursery, say_and_close(1001), stay))
    stale = await turns.__anext__()
    async with stale as ws:
        async for _ in ws:
            pass
    attempt = await turns.__anext__()
    never_entered = Attempt(turns)
    for wrong in (stale, never_entered):
        with pytest.raises(RuntimeError, match="within its iteration"):
            async with wrong:
                pass
    with pytest.raises(RuntimeError, match="not entered"):
        await never_entered.__aexit__(None, None, None)
    async with attempt as ws:
        with pytest.raises(RuntimeError, match="within its iteration"):
            async with attempt:
                pass
        with pytest.raises(RuntimeError, match="must be left first"):
            await turns.__anext__()
        assert await ws.ping() >= 0
    with pytest.raises(RuntimeError, match="within its iteration"):
        async with attempt:
            pass


async def test_catching_inside_the_loop(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The application that catches an exception decides whether it is fatal."""
    host = Host(nursery, refuse(401), say_and_close(1008), say_and_stay(text("hi")), stay)
    caught: list[Exception] = []
    async for attempt in trio_ws.attempts(host, backoff=LONGEST):
        try:
            async with attempt as ws:
                if await ws.receive() and len(caught) < 3:
                    raise ValueError("mine")
        except (InvalidStatus, ConnectionClosedError, ValueError) as exc:
            caught.append(exc)
            if len(caught) == 3:
                host._scripts = [say_and_stay(text("done"))]
    assert [type(exc) for exc in caught] == [InvalidStatus, ConnectionClosedError, ValueError]
    # Exceptions of the application start a new series.
    assert host.times == [0, 1, 3, 4]


async def test_a_new_connection_every_ten_minutes(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, stay)
    async for attempt in trio_ws.attempts(host, backoff=attrs.evolve(LONGEST, max_attempts=1)):
        with trio.move_on_after(600):
            async with attempt as ws:
                await receive_all(ws)
        if len(host.times) == 3:
            break
    assert host.times == [0, 601, 1202]
    assert host.close_codes() == [1001, 1001, 1001]


# -- The loop: cancelled ---------------------------------------------------------------------------------------------


async def test_cancel_the_loop_at_every_point(scheduling: Scheduling, autojump_clock: MockClock) -> None:
    async def run(number: int) -> bool:
        async with watched_nursery() as nursery:
            host = Host(
                nursery, DOWN, refuse(503), say(text("a")), say_and_close(1001, text("b")), say_and_stay(text("c"))
            )
            received = []

            async def call() -> None:
                async for attempt in trio_ws.attempts(host, backoff=LONGEST):
                    async with attempt as ws:
                        async for message in ws:
                            received.append(message)
                            await ws.send("answer")
                            if message == "c":
                                break

            outcome = await cancel_at(number, call)
            await host.check_closed()
            assert received == ["a", "b", "c"][: len(received)]
            assert outcome.cancelled or len(received) == 3
            assert outcome.took <= 0.2 + 1e-6
        return outcome.fired

    assert await at_every_point(scheduling, run) > 50


async def test_cancelled_at_the_end_of_a_block(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    host = Host(nursery, say(), stay)
    with trio.CancelScope() as scope:
        async for attempt in trio_ws.attempts(host):
            async with attempt as ws:
                try:
                    await ws.receive()
                finally:
                    scope.cancel()
    assert scope.cancelled_caught
    assert len(host.times) == 1


# -- Real servers ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_files_left")
async def test_the_loop_with_a_server_that_is_restarted(nursery: trio.Nursery) -> None:
    scope, port = await start(nursery, 0)
    gate = Gate(f"ws://127.0.0.1:{port}/")
    turns = trio_ws.attempts(gate, backoff=AT_ONCE)
    received: list[Any] = []

    async def restart() -> None:
        nonlocal scope
        while not isinstance(turns.last_error, ConnectFailed):
            await trio.lowlevel.checkpoint()
        scope, _ = await start(nursery, port)
        gate.open()

    async for attempt in turns:
        async with attempt as ws:
            async for message in ws:
                received.append(message)
                if len(received) == 1:
                    gate.close()
                    scope.cancel()
                    nursery.start_soon(restart)
                elif len(received) == 2:
                    break
    assert received == ["welcome", "welcome"]
    assert turns.attempts == 3
    scope.cancel()
