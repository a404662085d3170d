"""Tests that reference counting alone frees closed connections at both ends, without the cyclic collector."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.protocol.handshake import build_request
from trio_ws.uri import parse_uri

from ..support import HANGS, reset

#: How many connections there are.
COUNT = 10

settle = trio.testing.wait_all_tasks_blocked

Compression = Literal["deflate"] | None


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Disable the cyclic garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def objects() -> Counter[str]:
    """Count the objects of the package by type, without functions and the like, which always exist."""
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        cls = type(each)
        if str(cls.__module__).startswith("trio_ws"):
            found[f"{cls.__module__}.{cls.__qualname__}"] += 1
    return found


# -- Ways to end -----------------------------------------------------------------------------------------------------


async def open_raw(port: int, uri: str = "/") -> trio.SocketStream:
    """Do the opening handshake by hand."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    request = build_request(parse_uri(f"ws://127.0.0.1:{port}{uri}"), random=lambda size: bytes(size)).serialize()
    extension = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    await stream.send_all(request[:-2] + extension)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await stream.receive_some(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return stream


async def handshake(port: int, compression: Compression) -> None:
    async with trio_ws.connect(f"ws://127.0.0.1:{port}", compression=compression):
        pass


async def message_and_handshake(port: int, compression: Compression) -> None:
    async with trio_ws.connect(f"ws://127.0.0.1:{port}", compression=compression) as ws:
        await ws.send("hello" * 100)
        assert await ws.receive() == "hello" * 100


async def fin(port: int, compression: Compression) -> None:
    stream = await open_raw(port)
    await stream.send_eof()
    await receive_all(stream)


async def fin_in_a_frame(port: int, compression: Compression) -> None:
    stream = await open_raw(port)
    await stream.send_all(b"\x82\xfe\x10")
    await stream.send_eof()
    await receive_all(stream)


async def rst(port: int, compression: Compression) -> None:
    stream = await open_raw(port)
    reset(stream)


async def bad_frame(port: int, compression: Compression) -> None:
    stream = await open_raw(port)
    await stream.send_all(b"\xff\xff")
    await receive_all(stream)


async def abandoned_handshake(port: int, compression: Compression) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: exa")
    await stream.aclose()


async def closed_by_the_server(port: int, compression: Compression) -> None:
    async with trio_ws.connect(f"ws://127.0.0.1:{port}/leave", compression=compression) as ws:
        with pytest.raises(trio_ws.ConnectionClosedOK):
            await ws.receive()


async def receive_all(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass
    await stream.aclose()


WAYS: dict[str, Callable[[int, Compression], Awaitable[None]]] = {
    "closing handshake": handshake,
    "a message, and the closing handshake": message_and_handshake,
    "FIN": fin,
    "FIN in a frame": fin_in_a_frame,
    "RST": rst,
    "bad frame": bad_frame,
    "abandoned opening handshake": abandoned_handshake,
    "closed by the server": closed_by_the_server,
}


# -- Objects that are left -------------------------------------------------------------------------------------------


async def handler(ws: trio_ws.ServerWebSocket) -> None:
    if ws.request.path == "/leave":
        return
    async for message in ws:
        await ws.send(message)


@asynccontextmanager
async def serving(compression: Compression) -> AsyncIterator[trio_ws.Server]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1", compression=compression))
        yield server
        await server.aclose()


async def wait_until_over(server: trio_ws.Server, tasks: int) -> None:
    with trio.fail_after(HANGS):
        while server.connections or trio.lowlevel.current_statistics().tasks_living > tasks:
            await trio.lowlevel.checkpoint()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="reference counting is of CPython")
@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("way", WAYS)
async def test_no_objects_are_left(way: str, compression: Compression, no_collector: None) -> None:
    async with serving(compression) as server:
        await settle()
        tasks = trio.lowlevel.current_statistics().tasks_living
        # Objects that are created once and cached.
        await WAYS[way](server.port, compression)
        await wait_until_over(server, tasks)
        before = objects()
        for _ in range(COUNT):
            await WAYS[way](server.port, compression)
        await wait_until_over(server, tasks)
        left = objects() - before
        # One may still be referenced: Trio remembers the task that ended last.
        assert {name: count for name, count in left.items() if count > 1} == {}
