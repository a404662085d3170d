"""Thousands of connections that end in all possible ways, and leave nothing behind.

They must not leave objects, tasks or open descriptors. Connections that are opened afterwards must still be read while
their handlers are busy. The tests use TCP on the local host and the public interface. Most clients send raw bytes,
which is cheap and allows violations of the protocol.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice

import attrs
import pytest
import trio

import trio_ws

from .support import HANGS, split_frames

#: Number of connections before objects are counted for the first and for the second time. The first connections fill
#: caches.
FEW, MANY = 2_000, 10_000
#: Number of connections at a time.
AT_A_TIME = 32

# -- Clients that write raw bytes ------------------------------------------------------------------------------------

KEY = b"\x37\xfa\x21\x3d"
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
COMPRESSED = 0x40

#: The payload of a Close frame: a normal closure, and a protocol error.
NORMAL, WRONG = struct.pack("!H", 1000), struct.pack("!H", 1002)

#: A text, and its compressed form (RFC 7692, section 7.2.3.1).
HELLO, HELLO_COMPRESSED = b"Hello", b"\xf2\x48\xcd\xc9\xc9\x07\x00"


def frame(first: int, payload: bytes = b"") -> bytes:
    """Return a frame of a client, with a payload of at most 125 bytes."""
    pad = (KEY * 32)[: len(payload)]
    masked = bytes(a ^ b for a, b in zip(payload, pad, strict=True))
    return bytes([first, 0x80 | len(payload)]) + KEY + masked


@attrs.frozen(kw_only=True)
class Peer:
    """A client that sends raw bytes.

    Attributes:
        port: The port of the server.
        compressed: Whether the client offers compression.
    """

    port: int
    compressed: bool = False

    def request(self, path: str) -> bytes:
        """Return an opening handshake."""
        offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if self.compressed else ""
        return (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
        ).encode()

    def hello(self) -> bytes:
        """Return a message."""
        return frame(TEXT | COMPRESSED, HELLO_COMPRESSED) if self.compressed else frame(TEXT, HELLO)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.socket.SocketType]:
        """Connect, and disconnect at the end of the block."""
        sock = trio.socket.socket()
        try:
            await sock.connect(("127.0.0.1", self.port))
            yield sock
        finally:
            sock.close()

    @asynccontextmanager
    async def open(self, path: str = "/echo") -> AsyncIterator[Frames]:
        """Connect, do the opening handshake, and disconnect at the end of the block."""
        async with self.connect() as sock:
            await sock.send(self.request(path))
            data = b""
            while b"\r\n\r\n" not in data:
                received = await sock.recv(4096)
                assert received, data
                data += received
            head, _, rest = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert (b"permessage-deflate" in head) is self.compressed
            yield Frames(sock, rest)


class Frames:
    """Sends bytes, and receives frames as pairs of their first byte and payload.

    Args:
        sock: The socket.
        data: The bytes received after the opening handshake.
    """

    def __init__(self, sock: trio.socket.SocketType, data: bytes) -> None:
        self.sock = sock
        self._data = data
        self._frames: list[tuple[int, bytes]] = []

    async def send(self, data: bytes) -> None:
        assert await self.sock.send(data) == len(data)

    async def receive(self) -> tuple[int, bytes] | None:
        """Return the next frame, or None at the end."""
        while True:
            if not self._frames:
                self._frames, self._data = split_frames(self._data, masked=False)
            if self._frames:
                return self._frames.pop(0)
            received = await self.sock.recv(4096)
            if not received:
                assert not self._data
                return None
            self._data += received

    async def receive_all(self) -> list[tuple[int, bytes]]:
        """Return all frames until the end."""
        frames = []
        while (received := await self.receive()) is not None:
            frames.append(received)
        return frames


# -- Ways to end ------------------------------------------------------------------------------------------------------


async def close(peer: Peer) -> None:
    async with peer.open() as frames:
        await frames.send(frame(CLOSE, NORMAL))
        assert await frames.receive_all() == [(CLOSE, NORMAL)]


async def send_and_close_in_one_write(peer: Peer) -> None:
    async with peer.open() as frames:
        await frames.send(peer.hello() + frame(CLOSE, NORMAL))
        assert await frames.receive_all() == [(TEXT, HELLO), (CLOSE, NORMAL)]  # such a short text is not compressed


async def send_and_close_in_one_write_after_a_ping(peer: Peer) -> None:
    """Close while a handler receives, after it has waited for a pong."""
    async with peer.open("/ping-and-echo") as frames:
        received = await frames.receive()
        assert received is not None
        first, payload = received
        assert first == PING
        await frames.send(frame(PONG, payload))
        assert await frames.receive() == (TEXT, HELLO)
        await frames.send(peer.hello() + frame(CLOSE, NORMAL))
        assert await frames.receive_all() == [(TEXT, HELLO), (CLOSE, NORMAL)]


async def hang_up(peer: Peer) -> None:
    async with peer.open():
        pass


async def hang_up_within_a_frame(peer: Peer) -> None:
    async with peer.open() as frames:
        await frames.send(peer.hello()[:-3])


async def reset(peer: Peer) -> None:
    async with peer.open() as frames:
        frames.sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))


async def break_the_protocol(peer: Peer) -> None:
    async with peer.open() as frames:
        await frames.send(frame(0x83))  # unknown opcode
        [(first, payload)] = await frames.receive_all()
        assert (first, payload[:2]) == (CLOSE, WRONG)


async def hang_up_within_the_opening_handshake(peer: Peer) -> None:
    async with peer.connect() as sock:
        await sock.send(peer.request("/echo")[:60])


async def be_closed(peer: Peer) -> None:
    async with peer.open("/leave") as frames:
        assert await frames.receive() == (CLOSE, NORMAL)
        await frames.send(frame(CLOSE, NORMAL))
        assert await frames.receive() is None


WAYS = [
    close,
    send_and_close_in_one_write,
    send_and_close_in_one_write_after_a_ping,
    hang_up,
    hang_up_within_a_frame,
    reset,
    break_the_protocol,
    hang_up_within_the_opening_handshake,
    be_closed,
]


async def churn(calls: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Make calls, a limited number at a time."""
    calls = iter(calls)

    async def work() -> None:
        for call in calls:
            await call()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(work)


def mixed(calls: Sequence[Callable[[], Awaitable[object]]], count: int) -> Iterable[Callable[[], Awaitable[object]]]:
    """Return this number of calls, of each kind in turn."""
    return islice(cycle(calls), count)


# -- The server ------------------------------------------------------------------------------------------------------


class Handler:
    """A handler whose behavior depends on the path.

    Attributes:
        busy: For each path, set when the handler is busy and does not receive.
        pushes: The messages that the handler of ``/push`` sends.
        noticed: Set when the handler of ``/push`` has noticed that its connection is closed.
        answered: Set when the client has answered a ping and a Close frame of the handler of ``/ping``.
    """

    def __init__(self) -> None:
        self.busy = {path: trio.Event() for path in ("/busy", "/once", "/push")}
        self.pushes, self._pushes = trio.open_memory_channel[str](0)
        self.noticed = trio.Event()
        self.answered = trio.Event()

    async def __call__(self, ws: trio_ws.WebSocket) -> None:
        path = ws.request.path
        if path in ("/echo", "/ping-and-echo"):
            if path == "/ping-and-echo":
                await ws.ping()
                await ws.send("Hello")
            async for message in ws:
                await ws.send(message)
        elif path == "/busy":
            self.busy[path].set()
            await trio.sleep_forever()
        elif path == "/once":
            await ws.receive()
            self.busy[path].set()
            await trio.sleep_forever()
        elif path == "/push":
            self.busy[path].set()
            try:
                async for message in self._pushes:
                    await ws.send(message)
            except trio_ws.ConnectionClosed:
                self.noticed.set()
        elif path == "/ping":
            await ws.ping()
            await ws.aclose()
            self.answered.set()
        else:
            assert path == "/leave"


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[trio_ws.Server]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1"))
        nursery.cancel_scope.cancel()


# -- Leaks -----------------------------------------------------------------------------------------------------------


def tasks_living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def wait_until_over(server: trio_ws.Server, tasks: int) -> None:
    """Wait until the server has no connections, and there are no more tasks than before the first one."""
    with trio.fail_after(HANGS):
        while server.connections or tasks_living() > tasks:
            await trio.lowlevel.checkpoint()


@attrs.frozen(kw_only=True)
class Count:
    """Counts of everything that connections could leak, taken while there are none.

    Attributes:
        ours: Objects of the package.
        objects: All objects that the garbage collector tracks.
        blocks: All memory blocks of Python.
        descriptors: Open file descriptors.
    """

    ours: int
    objects: int
    blocks: int
    descriptors: int

    @classmethod
    def now(cls) -> Count:
        gc.collect()
        blocks = sys.getallocatedblocks()
        objects = gc.get_objects()
        ours = sum(str(type(each).__module__).startswith("trio_ws") for each in objects)
        descriptors = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0
        return cls(ours=ours, objects=len(objects), blocks=blocks, descriptors=descriptors)

    def check_same(self, before: Count) -> None:
        """Check that the counts have not grown. One object per connection would be 8,000 more.

        The tolerance is for Trio, which keeps up to a thousand expired deadlines: two objects and four blocks each.
        """
        assert self.ours - before.ours < 50
        assert self.objects - before.objects < 3_000
        assert self.blocks - before.blocks < 5_000
        assert self.descriptors <= before.descriptors


async def test_connections_leave_nothing_behind() -> None:
    handler = Handler()
    async with serving(handler) as server:
        peers = [Peer(port=server.port, compressed=compressed) for compressed in (False, True)]
        ways = [partial(way, peer) for way in WAYS for peer in peers]
        tasks = tasks_living()
        await churn(mixed(ways, FEW))
        await wait_until_over(server, tasks)
        before = Count.now()
        await churn(mixed(ways, MANY - FEW))
        await wait_until_over(server, tasks)
        Count.now().check_same(before)
        await check_busy_connections(peers[0], handler)


async def test_clients_leave_nothing_behind() -> None:
    handler = Handler()
    async with serving(handler) as server:
        uri = f"ws://127.0.0.1:{server.port}"

        async def open_and_close() -> None:
            async with trio_ws.connect(f"{uri}/echo"):
                pass

        async def send_and_receive() -> None:
            async with trio_ws.connect(f"{uri}/echo") as ws:
                await ws.send("Hello")
                assert await ws.receive() == "Hello"

        async def be_left() -> None:
            async with trio_ws.connect(f"{uri}/leave") as ws:
                assert [message async for message in ws] == []

        async def be_cancelled() -> None:
            with trio.CancelScope() as scope:
                async with trio_ws.connect(f"{uri}/echo") as ws:
                    scope.cancel()
                    await ws.receive()

        ways = [open_and_close, send_and_receive, be_left, be_cancelled]
        tasks = tasks_living()
        await churn(mixed(ways, 200))
        await wait_until_over(server, tasks)
        before = Count.now()
        await churn(mixed(ways, 1_000))
        await wait_until_over(server, tasks)
        assert Count.now().ours - before.ours < 50
        assert Count.now().descriptors <= before.descriptors
        with trio.fail_after(HANGS):
            async with trio_ws.connect(f"{uri}/ping"):
                await handler.answered.wait()


# -- Busy connections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("way", WAYS)
async def test_busy_connections_are_read_after_others_have_ended(
    way: Callable[[Peer], Awaitable[None]], compressed: bool
) -> None:
    handler = Handler()
    async with serving(handler) as server:
        peer = Peer(port=server.port, compressed=compressed)
        tasks = tasks_living()
        for _ in range(10):
            await way(peer)
            await wait_until_over(server, tasks)
        await check_busy_connections(peer, handler)


async def check_busy_connections(peer: Peer, handler: Handler) -> None:
    """Check that pings and Close frames are answered while handlers do not receive."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check_busy, peer, handler, "/busy")
        nursery.start_soon(check_busy, peer, handler, "/once")
        nursery.start_soon(check_pushing, peer, handler)


async def check_busy(peer: Peer, handler: Handler, path: str) -> None:
    async with peer.open(path) as frames:
        if path == "/once":
            await frames.send(peer.hello())
        await handler.busy[path].wait()
        for data in (b"1", b"2"):
            await frames.send(frame(PING, data))
            with trio.fail_after(HANGS):
                assert await frames.receive() == (PONG, data)
        await frames.send(frame(CLOSE, NORMAL))
        with trio.fail_after(HANGS):
            assert await frames.receive_all() == [(CLOSE, NORMAL)]


async def check_pushing(peer: Peer, handler: Handler) -> None:
    async with peer.open("/push") as frames:
        await handler.busy["/push"].wait()
        for data in (b"1", b"2"):
            await handler.pushes.send("Hello")
            assert await frames.receive() == (TEXT, HELLO)
            await frames.send(frame(PING, data))
            with trio.fail_after(HANGS):
                assert await frames.receive() == (PONG, data)
        await frames.send(frame(CLOSE, NORMAL))
        with trio.fail_after(HANGS):
            assert await frames.receive_all() == [(CLOSE, NORMAL)]
            await handler.pushes.send("Hello")
            await handler.noticed.wait()
