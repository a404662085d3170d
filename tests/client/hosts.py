"""Servers for clients that connect again: some of a script, some real."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_ws
from trio_ws import Backoff
from trio_ws.connection.websocket import WebSocket
from trio_ws.frames import Frame, Opcode
from trio_ws.http11 import RequestParser

from ..cancellation import HANGS, is_closed
from ..support import URI, Peer, Streams, close, memory_pair

#: Waits as long as it may: 1, 2, 4, 8, ... seconds.
LONGEST = Backoff(random=lambda: 1.0)

#: Does not wait. Real servers are not to be waited for.
AT_ONCE = Backoff(initial=0)

DOWN = ConnectionRefusedError("nobody listens")


@pytest.fixture(name="nursery")
async def fixture_nursery(nursery: trio.Nursery) -> trio.Nursery:
    """A nursery that fails a test that hangs: with a virtual clock at once, as there is nothing else to wait for."""
    virtual = isinstance(trio.lowlevel.current_clock(), MockClock)

    @nursery.start_soon
    async def bark() -> None:
        await trio.sleep(10_000 if virtual else 60)
        pytest.fail("the test hangs")

    return nursery


Talk: TypeAlias = Callable[[Peer], Awaitable[object]]

#: What becomes of one attempt: it fails, or gets these bytes for an answer, or there is a connection.
Script: TypeAlias = Exception | bytes | Talk

#: No answer at all.
SILENCE = b""


def refuse(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} No", "Content-Length: 0", *headers, "", ""]).encode()


def say(*frames: Frame) -> Talk:
    """Say something, and break the connection off."""

    async def talk(peer: Peer) -> None:
        await peer.send(*frames)

    return talk


def say_and_close(code: int | None, *frames: Frame) -> Talk:
    """Say something, and close. Answer nothing."""

    async def talk(peer: Peer) -> None:
        await peer.send(*frames, Frame(Opcode.CLOSE, b"") if code is None else close(code))
        while (frame := await peer.receive()) is not None and frame.opcode is not Opcode.CLOSE:
            pass

    return talk


def say_and_stay(*frames: Frame) -> Talk:
    """Say something, and be there as long as the client is."""

    async def talk(peer: Peer) -> None:
        await peer.send(*frames)
        await peer.behave()

    return talk


def stay_for(seconds: float) -> Talk:
    """Break the connection off after some time."""

    async def talk(peer: Peer) -> None:
        await trio.sleep(seconds)

    return talk


async def stay(peer: Peer) -> None:
    await peer.behave()


class Host:
    """A server in memory. Called, it says how to connect, as ``attempts`` and ``open_reconnecting`` want to know it.

    Args:
        nursery: Where it runs.
        *scripts: What becomes of each attempt. The last one stands for all that follow.
        pair: Makes the streams.
        **options: Those of the client.
    """

    def __init__(
        self, nursery: trio.Nursery, *scripts: Script, pair: Callable[[], Streams] = memory_pair, **options: Any
    ) -> None:
        self._nursery = nursery
        self._scripts = list(scripts)
        self._pair = pair
        self._options: dict[str, Any] = {"ping_interval": None, **options}
        self._began = trio.current_time()
        #: When there were attempts.
        self.times: list[float] = []
        #: The client's ends; and what is at the others, with the frames that it has got.
        self.streams: list[trio.abc.Stream] = []
        self.peers: list[Peer] = []
        self.frames: list[list[Frame]] = []

    def __call__(self) -> trio_ws.Connecting:
        self.times.append(round(trio.current_time() - self._began, 3))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if isinstance(script, Exception):
            raise script
        ours, theirs = self._pair()
        self.streams.append(ours)
        self._nursery.start_soon(self._run, script, theirs)
        return trio_ws.connect_over(ours, URI, **self._options)

    async def dial(self) -> trio_ws.Connecting:
        """Do the same, but take a moment. So others see that it is connecting."""
        await trio.sleep(0.001)
        return self()

    async def _run(self, script: bytes | Talk, stream: trio.abc.Stream) -> None:
        peer = Recorder(stream)
        self.peers.append(peer)
        self.frames.append(peer.record)
        try:
            if isinstance(script, bytes):
                parser = RequestParser()
                while parser.feed(bytes(await stream.receive_some())) is None:
                    pass
                await stream.send_all(script)
                if script == SILENCE:
                    await trio.sleep_forever()
            else:
                await peer.handshake()
                await script(peer)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError):
            pass  # the client went away in the middle of something
        finally:
            await trio.aclose_forcefully(stream)

    def close_codes(self) -> list[int | None]:
        """Return what the client has closed each connection with."""
        return [
            next((int.from_bytes(frame.data[:2], "big") for frame in frames if frame.opcode is Opcode.CLOSE), None)
            for frames in self.frames
        ]

    def texts(self) -> list[list[str]]:
        """Return what the client has sent on each connection."""
        return [[frame.data.decode() for frame in frames if frame.opcode is Opcode.TEXT] for frames in self.frames]

    async def check_closed(self) -> None:
        """Check that the client has closed all streams."""
        for stream in self.streams:
            assert await is_closed(stream.transport_stream if isinstance(stream, trio.SSLStream) else stream)


class Recorder(Peer):
    """A peer that keeps what it gets."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.record: list[Frame] = []

    async def receive(self) -> Frame | None:
        frame = await super().receive()
        if frame is not None:
            self.record.append(frame)
        return frame


@contextlib.asynccontextmanager
async def watched_nursery() -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            yield nursery


def always(exc: Exception) -> bool:
    return True


@pytest.fixture(name="nothing_left")
def fixture_nothing_left() -> Any:
    """Check that every file descriptor was closed that was opened in the test."""
    if not os.path.exists("/proc/self/fd"):
        yield
        return
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


async def greet_and_echo(ws: WebSocket) -> None:
    await ws.send("welcome")
    async for message in ws:
        await ws.send(message)


async def start(nursery: trio.Nursery, port: int) -> tuple[trio.CancelScope, int]:
    """Start a server in a scope of its own. Return that, and the port."""

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        with trio.CancelScope() as scope:

            async def started(*, task_status: trio.TaskStatus[Any]) -> None:
                await trio_ws.serve(greet_and_echo, port, host="127.0.0.1", task_status=task_status)

            async with trio.open_nursery() as inner:
                server = await inner.start(started)
                task_status.started((scope, server.port))

    scope, port = await nursery.start(run)
    return scope, port


class Gate:
    """Lets attempts through while it is open, and the first one after it was closed: that one is to fail."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._opened = trio.Event()
        self._opened.set()
        self._failed = False

    def close(self) -> None:
        self._opened = trio.Event()
        self._failed = False

    def open(self) -> None:
        self._opened.set()

    async def __call__(self) -> trio_ws.Connecting:
        if self._failed:
            await self._opened.wait()
        self._failed = not self._opened.is_set()
        return trio_ws.connect(self._uri)
