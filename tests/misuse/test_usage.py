"""Errors for wrong usage. They say how to do it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.misuse.usage import AsyncWithOnly, call_async, check_async_function
from trio_ws.testing import memory_websocket_pair

URI = "ws://example.org/"


def stream() -> trio.abc.Stream:
    return trio.testing.memory_stream_pair()[0]


async def handler(ws: trio_ws.WebSocket) -> None:
    await ws.aclose()


# -- Not `async with` ----------------------------------------------------------------------------------------------


USES: list[tuple[Callable[[], Any], str]] = [
    (lambda: trio_ws.connect(URI), "connect() must be used as `async with connect(...) as ws:`"),
    (lambda: trio_ws.connect_unix("socket"), "connect_unix() must be used as `async with connect_unix(...) as ws:`"),
    (
        lambda: trio_ws.connect_over(stream(), URI),
        "connect_over() must be used as `async with connect_over(...) as ws:`",
    ),
    (
        lambda: trio_ws.open_reconnecting(URI),
        "open_reconnecting() must be used as `async with open_reconnecting(...) as channel:`",
    ),
    (
        memory_websocket_pair,
        "memory_websocket_pair() must be used as `async with memory_websocket_pair() as (client, server):`",
    ),
]


@pytest.mark.parametrize("make, use", USES, ids=[use.partition("(")[0] for _, use in USES])
async def test_without_async_with(make: Callable[[], Any], use: str) -> None:
    await check_use(make(), use)


async def check_use(unused: Any, use: str) -> None:
    with pytest.raises(TypeError) as caught:
        await unused
    assert str(caught.value) == f"{use}, not with `await`"
    with pytest.raises(TypeError) as caught:
        with unused:
            raise AssertionError
    assert str(caught.value) == f"{use}, not with `with`"


async def test_attempts_without_async_with() -> None:
    async for attempt in trio_ws.attempts(URI):
        await check_use(attempt, "an attempt must be used as `async with attempt as ws:`")
        break


async def test_messages_in_parts_without_async_with() -> None:
    async with memory_websocket_pair() as (client, _):
        await check_use(client.send_stream(), "send_stream() must be used as `async with ws.send_stream() as out:`")
        use = "receive_stream() must be used as `async with ws.receive_stream() as parts:`"
        await check_use(client.receive_stream(), use)


async def test_a_connection_in_a_loop() -> None:
    wrong: Any = trio_ws.connect(URI)
    with pytest.raises(TypeError, match=r"`async for attempt in attempts\(...\):`"):
        async for _ in wrong:
            raise AssertionError


async def test_attempts_as_a_block() -> None:
    wrong: Any = trio_ws.attempts(URI)
    with pytest.raises(TypeError, match=r"must be used as `async for attempt in attempts\(...\):`"):
        async with wrong:
            raise AssertionError


async def test_a_channel_that_was_not_entered() -> None:
    channel = trio_ws.open_reconnecting(URI)
    with pytest.raises(RuntimeError, match="must be used as `async with open_reconnecting"):
        await channel.receive()


def test_a_connection_that_was_not_entered() -> None:
    wrong: Any = trio_ws.connect(URI)
    with pytest.raises(AttributeError) as caught:
        wrong.send("hello")
    assert str(caught.value) == (
        "'Connecting' object has no attribute 'send'; connect() must be used as `async with connect(...) as ws:`"
    )
    with pytest.raises(AttributeError, match=r"no attribute '_nonsense'$"):
        _ = wrong._nonsense


def test_every_subclass_explains_its_use() -> None:
    with pytest.raises(NotImplementedError):
        AsyncWithOnly()._explain_use()
    for cls in AsyncWithOnly.__subclasses__():
        assert cls._explain_use is not AsyncWithOnly._explain_use


async def test_a_function_for_attempts_that_returns_a_connection() -> None:
    # Connecting has an __await__(), but only to raise an error.
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, server, handler)
        async for attempt in trio_ws.attempts(lambda: trio_ws.connect_over(client, URI)):
            async with attempt as ws:
                await ws.wait_closed()


# -- Not async, or not a function ----------------------------------------------------------------------------------


class Handler:
    async def __call__(self, ws: trio_ws.WebSocket) -> None:
        await ws.aclose(4000)


async def with_a_code(ws: trio_ws.WebSocket, code: int = 4000) -> None:
    await ws.aclose(code)


def decorated(function: Callable[[trio_ws.WebSocket, int], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(function)
    def wrapper(ws: trio_ws.WebSocket) -> Awaitable[None]:
        return function(ws, 4000)

    return wrapper


@decorated
async def needs_a_code(ws: trio_ws.WebSocket, code: int) -> None:
    await ws.aclose(code)


@pytest.mark.parametrize(
    "handler",
    [
        Handler(),
        Handler().__call__,
        with_a_code,
        needs_a_code,
        functools.partial(with_a_code, code=4000),
        lambda ws: with_a_code(ws),
        lambda ws: with_a_code(ws) if ws else None,
        trio_ws.route({"/": with_a_code}),
        trio_ws.route({"/": needs_a_code}),
    ],
)
async def test_handlers_that_are_async(handler: Any) -> None:
    assert await close_code_with(handler) == 4000


async def close_code_with(handler: Any) -> int | None:
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, server, handler)
        async with trio_ws.connect_over(client, URI) as ws:
            await ws.wait_closed()
            code = ws.close_code
    return code


#: It has no value for anything, which the functions that use it do not show.
NOTHING: dict[object, Any] = {}


def not_async(ws: trio_ws.WebSocket) -> Any:
    return NOTHING.get(ws)


def without_value(ws: trio_ws.WebSocket) -> Any:
    if ws is None:
        return
    raise AssertionError


@pytest.mark.parametrize(
    "handler, name",
    [
        (not_async, "handler"),
        (lambda ws: NOTHING.get(ws), "handler"),
        (functools.partial(not_async), "handler"),
        (trio_ws.route({"/": not_async}), "the handler of a route"),
    ],
)
async def test_handlers_that_are_not_async(handler: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "trio_ws.server")
    assert await close_code_with(handler) == 1011
    (record,) = caplog.records
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, TypeError)
    assert str(error).startswith(f"{name} must be an async function, but ")
    assert str(error).endswith(" returned None")


async def generator(ws: trio_ws.WebSocket) -> AsyncIterator[None]:
    yield


async def of_two(ws: trio_ws.WebSocket, path: str) -> None:
    raise AssertionError


async def of_none() -> None:
    raise AssertionError


def no_functions() -> list[tuple[Any, str]]:
    """Return values that cannot be an async function that takes a WebSocket, with their errors."""
    return [
        (None, "must be an async function, not None"),
        ("handler", "must be an async function, not 'handler'"),
        (handler(None), "must be an async function, not the result of calling one: handler, not handler(...)"),  # type: ignore[arg-type]  # wrong on purpose
        (without_value, f"must be an async function, but {without_value!r} is not: write `async def`"),
        (generator, f"must be an async function without `yield`, not {generator!r}"),
        (of_two, "must take a WebSocket: missing a required argument: 'path'"),
        (of_none, "must take a WebSocket: too many positional arguments"),
    ]


async def test_handlers_that_are_not_functions() -> None:
    serve: Callable[[Any], Coroutine[Any, Any, None]]
    for serve in (lambda wrong: trio_ws.serve(wrong, 0), lambda wrong: trio_ws.serve_over(stream(), wrong)):
        for wrong, message in no_functions():
            with pytest.raises(TypeError) as caught:
                await serve(wrong)
            assert str(caught.value) == f"handler {message}"


def test_routes_that_are_not_functions() -> None:
    for wrong, message in no_functions():
        with pytest.raises(TypeError) as caught:
            trio_ws.route({"/": wrong})
        assert str(caught.value) == f"the handler for '/' {message}"
    with pytest.raises(TypeError, match="must take a WebSocket and room: "):
        check_async_function("handler", handler, ["room"])


def test_callables_without_a_signature() -> None:
    with pytest.raises(ValueError):
        inspect.signature(dict)
    check_async_function("handler", dict)


async def test_arguments_of_any_name() -> None:
    async def function(*args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
        return args, kwargs

    assert await call_async("handler", function, 1, name=2, function=3) == ((1,), {"name": 2, "function": 3})


async def test_on_connect_that_is_not_async() -> None:
    for wrong, message in no_functions()[1:]:
        with pytest.raises(TypeError) as caught:
            trio_ws.open_reconnecting(URI, on_connect=wrong)
        assert str(caught.value) == f"on_connect {message}"
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, server, handler)
        function = functools.partial(trio_ws.connect_over, client, URI)
        async with trio_ws.open_reconnecting(function, on_connect=not_async) as channel:
            with pytest.raises(TypeError, match=r"^on_connect must be an async function, but <function not_async"):
                await channel.receive()


# -- Not in Trio ---------------------------------------------------------------------------------------------------


async def enter(manager: Any) -> None:
    async with manager:
        raise AssertionError


CALLS: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
    "connect()": lambda: enter(trio_ws.connect(URI)),
    "connect_unix()": lambda: enter(trio_ws.connect_unix("socket")),
    "connect_over()": lambda: enter(trio_ws.connect_over(stream(), URI)),
    "open_reconnecting()": lambda: enter(make_channel()),
    "attempts()": lambda: anext_of(trio_ws.attempts(URI)),
    "HTTP2Pool()": lambda: enter(trio_ws.HTTP2Pool()),
    "memory_websocket_pair()": lambda: enter(memory_websocket_pair()),
    "serve()": lambda: trio_ws.serve(handler, 0),
    "serve_over()": lambda: trio_ws.serve_over(stream(), handler),
}


def make_channel() -> object:
    return trio_ws.open_reconnecting(URI)


async def anext_of(iterator: AsyncIterator[object]) -> object:
    return await iterator.__anext__()


@pytest.mark.parametrize("call", CALLS)
def test_outside_of_trio(call: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        CALLS[call]().send(None)
    assert str(caught.value) == (
        f"{call} must be called in a Trio task, not outside of it:"
        " use trio.run(main), or trio.from_thread.run() in another thread"
    )


async def make_and_await(make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    await make()


@pytest.mark.parametrize("call", CALLS)
def test_under_asyncio(call: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        asyncio.run(make_and_await(CALLS[call]))
    assert str(caught.value).startswith(f"{call} must be called in a Trio task, not under asyncio: ")


async def test_a_connection_in_another_thread() -> None:
    async with memory_websocket_pair() as (client, server):
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "send": lambda: client.send("lost"),
            "receive": client.receive,
            "ping": client.ping,
            "pong": client.pong,
            "aclose": client.aclose,
        }

        def misuse() -> None:
            for name, call in calls.items():
                with pytest.raises(RuntimeError) as caught:
                    call().send(None)
                assert str(caught.value).startswith(f"WebSocket.{name}() must be called in a Trio task, not outside of")
            with pytest.raises(RuntimeError, match=r"^WebSocket.receive\(\) must be called in a Trio task"):
                client.__anext__().send(None)

        await trio.to_thread.run_sync(misuse)
        # The connection is unchanged.
        await client.send("hello")
        assert await server.receive() == "hello"
