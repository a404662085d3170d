"""The harnesses of cancellation and of faults, over streams of HTTP/2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import HTTP2Pool
from trio_ws.connection.session import Session
from trio_ws.connection.stream import StreamAdapter
from trio_ws.connection.websocket import connection_of
from trio_ws.exceptions import ConnectFailed, ConnectionClosed
from trio_ws.http2.adapter import HTTP2StreamAdapter
from trio_ws.http2.connection import HTTP2Connection
from trio_ws.http2.stream import HTTP2Stream
from trio_ws.protocol import Role
from trio_ws.testing.faults import FaultyStream, Reset, Stall

from .. import cancellation
from ..cancellation import Scenario, Scheduling, at_every_point, cancel_at, cancel_call, cancel_session
from ..server.clients import MemoryListener
from ..support import HANGS, Streams, lockstep_pair, memory_pair, pipe_pair
from ..test_cancellation import SCENARIOS
from .peers import CONNECT, serving

CARRIERS = {"memory": memory_pair, "lockstep": lockstep_pair, "pipe": pipe_pair}


@asynccontextmanager
async def connected(carrier: str) -> AsyncIterator[tuple[HTTP2Stream, HTTP2Stream]]:
    """Yield both ends of a stream of HTTP/2: the client's and the server's."""
    ends = CARRIERS[carrier]()
    connections = [
        HTTP2Connection(StreamAdapter(end), is_client=not number, max_streams=10, max_head_size=10_000, max_headers=100)
        for number, end in enumerate(ends)
    ]
    client, server = connections
    async with trio.open_nursery() as nursery:
        for connection in connections:
            connection.start(nursery)
        ours = client.open_stream([(name.encode(), value.encode()) for name, value in CONNECT])
        theirs = await server.arrivals.get()
        assert theirs is not None
        theirs.send_headers([(b":status", b"200")])
        assert ours.headers_received is not None
        await ours.headers_received.wait()
        yield ours, theirs
        await wait_all_tasks_blocked()
        # Nothing but the two streams was affected.
        assert client.failure is server.failure is None
        assert not client.streams
        assert not server.streams
        for connection in connections:
            await connection.aclose(0.1)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER], ids=lambda role: role.value)
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("cancel", [cancel_call, cancel_session], ids=["call", "session"])
async def test_cancel_scenario(
    cancel: Callable[[str, Role, Scenario, int], Awaitable[bool]],
    role: Role,
    carrier: str,
    name: str,
    scheduling: Scheduling,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancel a WebSocket at every point. No frame is torn, and the HTTP/2 connection goes on."""

    def session_over(stream: HTTP2Stream, role: Role, scenario: Scenario) -> Session:
        session = original(stream, role, scenario)
        connection = connection_of(session._ws)
        # Before any task has started.
        connection.stream = connection.keepalive._stream = HTTP2StreamAdapter(stream)
        return session

    original = cancellation.session_over
    monkeypatch.setattr(cancellation, "session_over", session_over)

    async def run(number: int) -> bool:
        async with connected(carrier) as (client, server):
            pair = (client, server) if role is Role.CLIENT else (server, client)

            async def open_pair(kind: str, role: Role) -> Streams:
                return pair

            monkeypatch.setattr(cancellation, "open_pair", open_pair)
            return await cancel("memory", role, SCENARIOS[name], number)

    await at_every_point(scheduling, run, 4)


@pytest.mark.parametrize("pooled", [False, True])
async def test_cancel_from_the_opening_to_the_end(
    pooled: bool, scheduling: Scheduling, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(number: int) -> bool:
        received: list[object] = []

        async def handler(ws: trio_ws.ServerWebSocket) -> None:
            async for message in ws:
                received.append(message)
                await ws.send(message)

        async with serving(handler) as (listener, server):
            monkeypatch.setattr(trio, "open_tcp_stream", partial(dial, listener))

            async def call() -> None:
                if pooled:
                    async with HTTP2Pool() as pool:
                        await use(pool)
                else:
                    await use(None)

            outcome = await cancel_at(number, call)
            assert outcome.took <= 0.6
            await wait_all_tasks_blocked()
            assert not server.connections
            assert set(received) <= {"x" * 100_000}
        return outcome.fired

    async def use(pool: HTTP2Pool | None) -> None:
        async with trio_ws.connect("ws://example.org", http2="prior-knowledge", pool=pool, compression=None) as ws:
            await ws.send("x" * 100_000)
            assert await ws.receive() == "x" * 100_000

    points = await at_every_point(scheduling, run)
    assert points > 10


async def dial(listener: MemoryListener, *_: object, **__: object) -> trio.abc.Stream:
    await trio.lowlevel.checkpoint()
    return listener.connect()


@pytest.mark.parametrize("fault", [Reset, Stall])
@pytest.mark.parametrize("direction", ["sending", "receiving"])
async def test_a_connection_that_breaks_anywhere(
    direction: str, fault: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport of the client fails after each number of bytes. Both ends notice, and nothing hangs."""
    message = b"0123456789" * 30
    complete = 0
    for position in range(0, 1000, 7):

        async def faulty(listener: MemoryListener, *_: object, **__: object) -> trio.abc.Stream:
            faults: Any = {direction: [fault(position)]}  # noqa: B023  # it is called within this round
            return FaultyStream(await dial(listener), **faults)

        async with serving(ping_interval=1, ping_timeout=1) as (listener, server):
            monkeypatch.setattr(trio, "open_tcp_stream", partial(faulty, listener))
            with trio.fail_after(HANGS):
                try:
                    async with trio_ws.connect(
                        "ws://example.org",
                        http2="prior-knowledge",
                        compression=None,
                        ping_interval=1,
                        ping_timeout=1,
                        close_timeout=1,
                        open_timeout=1,
                    ) as ws:
                        await ws.send(message)
                        received = await ws.receive()
                        assert received == message
                        complete += 1
                except (ConnectFailed, ConnectionClosed, trio_ws.OpenTimeout):
                    pass
                await trio.sleep(20)
                assert not server.connections
    assert complete
