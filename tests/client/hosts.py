"""Servers for tests of reconnecting clients: scripted ones and real ones."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import trio
import trio.testing

import trio_ws
from trio_ws import Backoff
from trio_ws.connection.websocket import WebSocket
from trio_ws.frames import Frame, Opcode
from trio_ws.http11 import RequestParser

from ..cancellation import is_closed
from ..support import HANGS, URI, Peer, Streams, close, memory_pair

#: Always waits for the longest time: 1, 2, 4, 8, ... seconds.
LONGEST = Backoff(random=lambda: 1.0)

#: Never waits, for tests with real servers.
AT_ONCE = Backoff(initial=0)

DOWN = ConnectionRefusedError("nobody listens")


Talk: TypeAlias = Callable[[Peer], Awaitable[object]]

#: The outcome of one attempt: an error, the bytes of an answer, or a connection.
Script: TypeAlias = Exception | bytes | Talk

#: No answer at all.
SILENCE = b""


def refuse(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} No", "Content-Length: 0", *headers, "", ""]).encode()


def say(*frames: Frame) -> Talk:
    """Send messages and break the connection."""

    async def talk(peer: Peer) -> None:
        await peer.send(*frames)

    return talk


def say_and_close(code: int | None, *frames: Frame) -> Talk:
    """Send messages and close, without answering."""

    async def talk(peer: Peer) -> None:
        await peer.send(*frames, Frame(Opcode.CLOSE, b"") if code is None else close(code))
        while (frame := await peer.receive()) is not None and frame.opcode is not Opcode.CLOSE:
            pass

    return talk


def say_and_stay(*frames: Frame) -> Talk:
    """Send messages and stay until the client leaves."""

    async def talk(peer: Peer) -> None:
        await peer.send(*frames)
        await peer.behave()

    return talk


def stay_for(seconds: float) -> Talk:
    """Break the connection after some time."""

    async def talk(peer: Peer) -> None:
        await trio.sleep(seconds)

    return talk


async def stay(peer: Peer) -> None:
    await peer.behave()


class Host:
    """A server in memory. ``attempts`` and ``open_reconnecting`` can call it to connect.

    Args:
        nursery: The nursery for its tasks.
        *scripts: The outcome of each attempt. The last one also applies to all later attempts.
        pair: Makes the streams.
        **options: The options of the client.
    """

    def __init__(
        self, nursery: trio.Nursery, *scripts: Script, pair: Callable[[], Streams] = memory_pair, **options: Any
    ) -> None:
        self._nursery = nursery
        self._scripts = list(scripts)
        self._pair = pair
        self._options: dict[str, Any] = {"ping_interval": None, **options}
        self._began = trio.current_time()
        #: The times of the attempts.
        self.times: list[float] = []
        #: The client's ends of the streams, the peers at the other ends, and the frames that they received.
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
        """Dial with a short delay, so that other tasks see the phase CONNECTING."""
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
            pass  # The client disconnected in the middle of an operation.
        finally:
            await trio.aclose_forcefully(stream)

    def close_codes(self) -> list[int | None]:
        """Return the close that the client sent on each connection."""
        return [
            next((int.from_bytes(frame.data[:2], "big") for frame in frames if frame.opcode is Opcode.CLOSE), None)
            for frames in self.frames
        ]

    def texts(self) -> list[list[str]]:
        """Return the messages that the client sent on each connection."""
        return [[frame.data.decode() for frame in frames if frame.opcode is Opcode.TEXT] for frames in self.frames]

    async def check_closed(self) -> None:
        """Check that the client has closed all streams."""
        for stream in self.streams:
            assert await is_closed(stream.transport_stream if isinstance(stream, trio.SSLStream) else stream)


class Recorder(Peer):
    """A peer that records received messages."""

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


async def greet_and_echo(ws: WebSocket) -> None:
    await ws.send("welcome")
    async for message in ws:
        await ws.send(message)


async def start(nursery: trio.Nursery, port: int) -> tuple[trio.CancelScope, int]:
    """Start a server in a cancel scope of its own. Return the scope and the port."""

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
    """Lets attempts through while it is open, and one more after it is closed, which must fail."""

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
