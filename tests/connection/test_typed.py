"""TypedChannel: values over a WebSocket."""

from __future__ import annotations

import json
import pickle
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import DecodeError, TypedChannel
from trio_ws.testing import memory_websocket_pair

settle = trio.testing.wait_all_tasks_blocked


class Point(msgspec.Struct):
    x: int
    y: int


def json_channel(ws: trio.abc.Channel[str | bytes]) -> TypedChannel[Any]:
    return TypedChannel(ws, json.dumps, json.loads)


async def test_values_in_both_directions() -> None:
    async with memory_websocket_pair() as (client, server):
        channel = json_channel(client)
        await channel.send({"a": [1, None]})
        assert await server.receive() == '{"a": [1, null]}'
        await server.send("[1]")
        await server.send(b"2")
        assert [await channel.receive(), await channel.receive()] == [[1], 2]


@pytest.mark.parametrize("binary", [False, True])
async def test_msgspec(binary: bool) -> None:
    codec: Any = msgspec.msgpack if binary else msgspec.json
    async with memory_websocket_pair() as pair:
        left, right = (TypedChannel[Point](ws, codec.encode, codec.Decoder(Point).decode) for ws in pair)
        await left.send(Point(1, 2))
        received = await right.receive()
        assert received == Point(1, 2)
        await pair[0].send("{}")
        with pytest.raises(DecodeError):
            await right.receive()


async def test_a_bad_message_loses_nothing() -> None:
    async with memory_websocket_pair() as (client, server):
        for message in ("1", "{", b"\xff", "2"):
            await server.send(message)
        channel = json_channel(client)
        assert await channel.receive() == 1
        for message in ("{", b"\xff"):
            with pytest.raises(DecodeError) as caught:
                await channel.receive()
            assert caught.value.message == message
            assert isinstance(caught.value.__cause__, ValueError)
            assert caught.value.reason == str(caught.value.__cause__)
        assert await channel.receive() == 2
        assert client.state is trio_ws.State.OPEN
        await channel.send("goes on")
        assert await server.receive() == '"goes on"'


async def test_a_bad_message_while_iterating() -> None:
    async with memory_websocket_pair() as (client, server):
        for message in ("1", "{", "2"):
            await server.send(message)
        await server.send_close()
        channel = json_channel(client)
        received = []
        with pytest.raises(DecodeError):
            async for value in channel:
                received.append(value)
        received += [value async for value in channel]
        assert received == [1, 2]


async def test_any_exception_of_decode_counts() -> None:
    def decode(message: str) -> int:
        raise KeyError

    async with memory_websocket_pair() as (client, server):
        await server.send("x")
        with pytest.raises(DecodeError) as caught:
            await TypedChannel[int](client, str, decode).receive()
        assert caught.value.reason == "KeyError"


async def test_an_exception_of_encode_propagates_and_sends_nothing() -> None:
    async with memory_websocket_pair() as (client, server):
        channel = json_channel(client)
        with pytest.raises(TypeError):
            await channel.send({1, 2})
        with pytest.raises(TypeError):
            await TypedChannel[Any](client, lambda value: value, json.loads).send(3)
        await channel.send("next")
        assert await server.receive() == '"next"'


async def test_cancelling_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_websocket_pair() as (client, server):
        channel = json_channel(client)
        with trio.move_on_after(1) as scope:
            await channel.receive()
        assert scope.cancelled_caught
        await server.send("1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.receive()
        assert scope.cancelled_caught
        assert await channel.receive() == 1


async def test_cancelling_send_sends_nothing() -> None:
    async with memory_websocket_pair() as (client, server):
        channel = json_channel(client)
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.send(1)
        await channel.send(2)
        assert await server.receive() == "2"


async def test_many_receivers() -> None:
    async with memory_websocket_pair() as (client, server), trio.open_nursery() as nursery:
        channel = json_channel(client)
        received: list[Any] = []

        async def receive() -> None:
            received.append(await channel.receive())

        for _ in range(3):
            nursery.start_soon(receive)
        await settle()
        for number in range(3):
            await server.send(str(number))
        await settle()
        assert sorted(received) == [0, 1, 2]


async def test_closed_by_the_peer() -> None:
    async with memory_websocket_pair() as (client, server):
        channel = json_channel(client)
        await server.send("1")
        await server.send_close(4000, "bye")
        assert await channel.receive() == 1
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await channel.receive()
        assert caught.value.rcvd == trio_ws.Close(4000, "bye")
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(1)


async def test_closing_it_closes_the_connection() -> None:
    async with memory_websocket_pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.wait_closed)
        async with json_channel(client) as channel:
            assert channel.ws is client
        with pytest.raises(trio.ClosedResourceError):
            await channel.send(1)
        with pytest.raises(trio_ws.ConnectionClosedOK):
            await server.receive()


async def test_over_a_reconnecting_channel(autojump_clock: trio.testing.MockClock) -> None:
    async def answer(ws: trio_ws.ServerWebSocket) -> None:
        await ws.send("1")
        assert await ws.receive() == '"a"'

    async with trio.open_nursery() as nursery:
        autojump_clock.autojump_threshold = 0.1
        server = await nursery.start(partial(trio_ws.serve, answer, 0, host="127.0.0.1"))
        uri = f"ws://127.0.0.1:{server.port}"
        async with trio_ws.open_reconnecting(uri, is_retryable=lambda exc: True) as ws:
            channel = json_channel(ws)
            for _ in range(3):
                assert await channel.receive() == 1
                await channel.send("a")
        await server.aclose()


async def convert(value: object) -> object:
    return value


@pytest.mark.parametrize("name", ["encode", "decode"])
@pytest.mark.parametrize("function", ["json", convert])
async def test_arguments_must_be_functions_that_are_not_async(name: str, function: object) -> None:
    functions: dict[str, Any] = {"encode": json.dumps, "decode": json.loads, name: function}
    async with memory_websocket_pair() as (client, _):
        with pytest.raises(TypeError, match=f"{name} must be a function"):
            TypedChannel(client, **functions)


async def test_repr() -> None:
    async with memory_websocket_pair(uri="ws://test/path") as (client, _):
        assert repr(json_channel(client)) == f"<TypedChannel over {client!r}>"


def test_the_error_can_be_pickled() -> None:
    exc = pickle.loads(pickle.dumps(DecodeError(b"\xff", "no")))
    assert (exc.message, exc.reason) == (b"\xff", "no")
