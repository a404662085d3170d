"""``connect_in``: a connection that a nursery owns."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import connect_in

from .servers import read_request, start_server, start_tcp

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytestmark = pytest.mark.usefixtures("watchdog")

settle = trio.testing.wait_all_tasks_blocked


class Peer:
    """The server's end of the last connection, and how it ended."""

    def __init__(self) -> None:
        self.ws: Any = None
        self.ended = trio.Event()

    async def handle(self, ws: trio_ws.WebSocket) -> None:
        self.ws = ws
        if ws.request.path == "/greeting":
            await ws.send("hello")
            await ws.send("goodbye")
            return
        await ws.wait_closed()
        self.ended.set()


@asynccontextmanager
async def peer_at() -> AsyncIterator[tuple[Peer, str]]:
    peer = Peer()
    async with trio.open_nursery() as nursery:
        server = await start_server(nursery, peer.handle)
        yield peer, f"ws://127.0.0.1:{server.port}"
        await server.aclose()


async def test_aclose_ends_its_task(nothing_left: Callable[[], None]) -> None:
    async with peer_at() as (peer, uri):
        async with trio.open_nursery() as nursery:
            ws = await connect_in(nursery, f"{uri}/path")
            assert ws.request.path == "/path"
            assert await ws.ping() > 0
            assert len(nursery.child_tasks) == 1
            await ws.aclose(4000, "bye")
        await peer.ended.wait()
        assert (peer.ws.close_code, peer.ws.close_reason) == (4000, "bye")
        with pytest.raises(trio_ws.ConnectionClosedLocally):
            await ws.receive()
    nothing_left()


async def test_aclose_at_once() -> None:
    async with peer_at() as (peer, uri), trio.open_nursery() as nursery:
        await (await connect_in(nursery, uri)).aclose()
        await peer.ended.wait()
        assert peer.ws.close_code == 1000


@pytest.mark.parametrize("at_once", [False, True])
async def test_cancelling_the_nursery(at_once: bool, nothing_left: Callable[[], None]) -> None:
    async with peer_at() as (peer, uri):
        async with trio.open_nursery() as nursery:
            ws = await connect_in(nursery, uri)
            if not at_once:
                await settle()
            nursery.cancel_scope.cancel()
        assert ws.state is trio_ws.State.CLOSED
        await peer.ended.wait()
        assert peer.ws.close_code == 1001
        with pytest.raises(trio_ws.ConnectionClosedLocally):
            await ws.receive()
    nothing_left()


async def test_an_exception_of_another_task() -> None:
    async with peer_at() as (peer, uri):
        with pytest.raises(BaseExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                await connect_in(nursery, uri)
                raise ValueError
        assert [type(exc) for exc in caught.value.exceptions] == [ValueError]
        await peer.ended.wait()
        assert peer.ws.close_code == 1001


async def test_closed_by_the_server() -> None:
    async with peer_at() as (_, uri):
        async with trio.open_nursery() as nursery:
            ws = await connect_in(nursery, f"{uri}/greeting")
        # The task has ended, and the messages can still be received.
        assert ws.state is trio_ws.State.CLOSED
        assert [message async for message in ws] == ["hello", "goodbye"]
        with pytest.raises(trio_ws.ConnectionClosedOK):
            await ws.receive()


async def test_a_lost_connection_raises_nothing_in_the_nursery() -> None:
    async with peer_at() as (peer, uri):
        async with trio.open_nursery() as nursery:
            ws = await connect_in(nursery, uri)
            await ws.ping()
            peer.ws.abort()
        with pytest.raises(trio_ws.ConnectionClosedError):
            await ws.send("x")
        assert ws.close_code == 1006


async def test_exceptions_of_connecting_are_raised_here() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(trio_ws.ConnectFailed) as caught:
            await connect_in(nursery, "ws://127.0.0.1:1")
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(trio_ws.InvalidURI):
            await connect_in(nursery, "http://x")
        with pytest.raises(ValueError):
            await connect_in(nursery, "ws://x", open_timeout=-1)
        assert not nursery.child_tasks
    with pytest.raises(TypeError, match=r"connect_in\(\)"):
        await connect_in(nursery, "ws://x", no_such_option=1)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError, match="nursery"):
        await connect_in("ws://x", "ws://x")  # type: ignore[arg-type]  # wrong on purpose


async def test_cancelled_while_it_connects(nothing_left: Callable[[], None]) -> None:
    requested = trio.Event()

    async def be_silent(stream: trio.SocketStream) -> None:
        await read_request(stream)
        requested.set()
        assert await stream.receive_some() == b""

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, be_silent)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as callers:
                callers.start_soon(connect_in, nursery, f"ws://127.0.0.1:{port}")
                await requested.wait()
                scope.cancel()
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    nothing_left()


async def test_cancelling_the_caller_later_changes_nothing() -> None:
    async with peer_at() as (_, uri), trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            ws = await connect_in(nursery, uri)
            scope.cancel()
            await settle()
        assert await ws.ping() > 0
        await ws.aclose()


async def test_a_closed_nursery(nothing_left: Callable[[], None]) -> None:
    async with peer_at() as (peer, uri):
        async with trio.open_nursery() as nursery:
            pass
        with pytest.raises(RuntimeError):
            await connect_in(nursery, uri)
        await peer.ended.wait()
        assert peer.ws.close_code == 1006
    nothing_left()


class Log(trio_ws.Instrument):
    def __init__(self) -> None:
        self.events: list[str] = []

    def connection_opened(self, ws: trio_ws.ObservedWebSocket) -> None:
        self.events.append("opened")

    def connection_closed(self, ws: trio_ws.ObservedWebSocket, summary: trio_ws.ConnectionSummary) -> None:
        self.events.append(f"closed {summary.code}")


async def test_instruments_see_it() -> None:
    log = Log()
    async with peer_at() as (_, uri), trio.open_nursery() as nursery:
        ws = await connect_in(nursery, uri, instruments=[log])
        await ws.ping()
        assert log.events == ["opened"]
        await ws.aclose()
        assert log.events == ["opened", "closed 1000"]


REPL = """\
import trio_ws
async def own_connections():
    global nursery
    async with trio.open_nursery() as nursery:
        await trio.sleep_forever()

task = trio.lowlevel.spawn_system_task(own_connections)
ws = await trio_ws.connect_in(nursery, "{uri}")
await ws.ping() > 0
"""


@pytest.mark.skipif(importlib.util.find_spec("trio.__main__") is None, reason="this version of Trio has no REPL")
async def test_in_the_repl() -> None:
    async with peer_at() as (peer, uri):
        done = await trio.run_process(
            [sys.executable, "-m", "trio"],
            stdin=REPL.format(uri=uri).encode(),
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
        assert b"True" in done.stdout
        assert b"Error" not in done.stdout
        await peer.ended.wait()
        assert peer.ws.close_code == 1001
