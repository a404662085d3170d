"""Tests that one task reads and one task encodes, during the whole life of a connection."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_ws
import trio_ws.testing
from trio_ws.connection import writer
from trio_ws.connection.encoder import Encoder
from trio_ws.connection.stream import StreamAdapter
from trio_ws.protocol import Protocol

from ..support import client_context, echo, server_context

settle = trio.testing.wait_all_tasks_blocked

READER = "trio_ws.connection.reader.run"
WRITER = "trio_ws.connection.writer.write"
#: Tasks that are not of the connection.
USER = "the user"


def current_task() -> str:
    """Return the name of the current task if it belongs to a connection, and USER otherwise."""
    name = trio.lowlevel.current_task().name
    return name if name in (READER, WRITER) else USER


class Probe:
    """Records which tasks read and which encode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readers: list[str] = []
        self.encoders: list[str] = []
        self.is_open = False
        for name in ("receive_view", "receive_now"):
            self._watch(monkeypatch, StreamAdapter, name, self.readers)
        for name in ("encode_all", "encode_close"):
            self._watch(monkeypatch, Protocol, name, self.encoders)
        # A thread encodes large messages for the task that waits for it.
        self._watch(monkeypatch, Encoder, "encode_in_thread", self.encoders)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, cls: type, name: str, tasks: list[str]) -> None:
        method: Callable[..., Any] = getattr(cls, name)

        def watched(this: object, *args: Any) -> Any:
            if self.is_open and trio.lowlevel.in_trio_task():
                tasks.append(current_task())
            return method(this, *args)

        monkeypatch.setattr(cls, name, watched)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    return Probe(monkeypatch)


@pytest.fixture(scope="module")
def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of a client and a server."""
    return client_context(authority), server_context(authority)


@asynccontextmanager
async def connected(
    tls: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext], handler: Callable[..., Any] = echo
) -> AsyncIterator[tuple[trio_ws.WebSocket, trio_ws.Server]]:
    """A client that is connected to an echo server."""
    of_client, of_server = contexts if tls else (None, None)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1", ssl=of_server))
        uri = f"{'wss' if tls else 'ws'}://127.0.0.1:{server.port}"
        async with trio_ws.connect(uri, ssl=of_client) as ws:
            yield ws, server
        await server.aclose()


@pytest.mark.parametrize("at_once", [True, False], ids=["write at once", "writer only"])
@pytest.mark.parametrize("tls", [False, True], ids=["TCP", "TLS"])
async def test_one_task_reads_and_one_encodes(
    tls: bool,
    at_once: bool,
    probe: Probe,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "WRITE_AT_ONCE", at_once)
    async with connected(tls, contexts) as (ws, server):
        await settle()
        probe.is_open = True
        # Messages one by one, many at a time, and large ones; parts, pings and a broadcast; and a Close frame.
        for message in ("a", b"b" * 100_000):
            await ws.send(message)
            assert await ws.receive() == message
        for i in range(100):
            await ws.send(str(i))
        assert [await ws.receive() for _ in range(100)] == [str(i) for i in range(100)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.send, b"c" * 1_000_000)
            assert len(await ws.receive()) == 1_000_000
        async with ws.send_stream() as out:
            await out.send(b"d")
            await out.send(b"e")
        async with ws.receive_stream() as parts:
            assert b"".join([part async for part in parts if isinstance(part, bytes)]) == b"de"
        await ws.ping()
        trio_ws.broadcast(server.connections, "to all")
        assert await ws.receive() == "to all"
        await ws.aclose()
        await ws.wait_closed()
        probe.is_open = False
    assert set(probe.readers) == {READER}
    assert set(probe.encoders) == ({WRITER, USER} if at_once else {WRITER})


@pytest.mark.parametrize("tls", [False, True], ids=["TCP", "TLS"])
async def test_in_a_ping_pong_the_writer_has_nothing_to_do(
    tls: bool, probe: Probe, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    # In a ping-pong over a socket without TLS, the task that sends a message also writes it.
    async with connected(tls, contexts) as (ws, _):
        await settle()
        probe.is_open = True
        for _ in range(10):
            await ws.send("a")
            assert await ws.receive() == "a"
        probe.is_open = False
    assert set(probe.encoders) == {USER}
    assert set(probe.readers) == {READER}


def tasks_of(nursery: trio.Nursery) -> list[str]:
    return sorted(task.name for task in nursery.child_tasks)


@pytest.mark.parametrize("at_once", [True, False], ids=["write at once", "writer only"])
@pytest.mark.parametrize("tls", [False, True], ids=["TCP", "TLS"])
async def test_both_tasks_live_as_long_as_the_connection(
    tls: bool,
    at_once: bool,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "WRITE_AT_ONCE", at_once)
    seen: list[list[str]] = []

    def look() -> None:
        # The nursery of the session is the innermost one of the task that has entered it.
        seen.append(tasks_of(trio.lowlevel.current_task().child_nurseries[-1]))

    async def ping_pong(ws: trio_ws.WebSocket) -> None:
        look()
        async for message in ws:
            look()
            await ws.send(message)
            look()

    async with connected(tls, contexts, ping_pong) as (ws, _):
        look()
        for _ in range(5):
            await ws.send("a")
            look()
            assert await ws.receive() == "a"
            look()
        await settle()
        look()
        assert seen == [[READER, WRITER]] * len(seen)
        assert len(seen) > 20
        await ws.aclose()
        await settle()
        seen.clear()
        look()
        assert seen == [[]]


async def test_the_session_has_a_nursery_of_its_own() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio_ws.testing.memory_websocket_pair((ours, theirs)):
        nurseries = trio.lowlevel.current_task().child_nurseries[-2:]
        assert [tasks_of(nursery) for nursery in nurseries] == [[READER, WRITER]] * 2
        assert trio.lowlevel.current_statistics().tasks_living == before + 4
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_connect_over_tls_returns_when_the_server_has_the_connection(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    of_client, of_server = contexts
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, echo, 0, host="127.0.0.1", ssl=of_server))
        for _ in range(50):
            async with trio_ws.connect(f"wss://127.0.0.1:{server.port}", ssl=of_client) as ws:
                assert [each.remote_address for each in server.connections] == [ws.local_address]
            await settle()
        await server.aclose()
