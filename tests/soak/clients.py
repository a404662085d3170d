"""The load of the soak test: clients that connect, exchange messages in every way, and leave in every way.

Each message begins with the checksum of the rest. The server checks it, and answers with the same message; the client
compares. So an error at either end is noticed at once, and ends the test.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import attrs
import trio

import trio_ws

__all__ = ["TIMEOUTS", "Corrupt", "Load", "serve_echo"]

KIB = 1024

#: The options of clients. Half of the connections are compressed.
COMPRESSION: list[trio_ws.Deflate | None] = [
    None,
    None,
    trio_ws.Deflate(),
    trio_ws.Deflate(client_no_context_takeover=True, server_no_context_takeover=True, client_max_window_bits=9),
]

#: The clients keep the processor busy, so that everything takes long. The timeouts have other tests.
TIMEOUTS: trio_ws.Options = {"open_timeout": 300, "close_timeout": 300, "ping_interval": 5, "ping_timeout": 300}

#: Sizes of messages in bytes, mostly small.
SIZES = [*[0, 1, 30, 125, 126, 1000, 4000] * 3, 65_000, 140_000]

#: Requests to the server, in place of a message with a checksum.
CLOSE, ABORT = "close", "abort"


class Corrupt(Exception):
    """A message is not as it was sent."""


def add_checksum(payload: bytes) -> bytes:
    return b"%08x" % zlib.crc32(payload) + payload


def check(message: bytes) -> None:
    if message[:8] != b"%08x" % zlib.crc32(message[8:]):
        raise Corrupt(f"a message of {len(message)} bytes has a wrong checksum")


async def serve_echo(ws: trio_ws.ServerWebSocket) -> None:
    """Check each message and send it back: whole or in parts, as the path says."""
    try:
        if ws.opening.path == "/parts":
            await echo_in_parts(ws)
        async for message in ws:
            if message == CLOSE:
                await ws.aclose(4000, "as you wish")
            elif message == ABORT:
                ws.abort()
            else:
                check(message.encode() if isinstance(message, str) else message)
                await ws.send(message)
    except trio_ws.ConnectionClosed:
        pass  # many clients leave in the middle of something


async def echo_in_parts(ws: trio_ws.WebSocket) -> None:
    while True:
        message = b""
        async with ws.receive_stream() as incoming, ws.send_stream() as outgoing:
            async for part in incoming:
                message += part.encode() if isinstance(part, str) else part
                await outgoing.send(part.encode() if isinstance(part, str) else part)
        check(message)


#: One thing that a client does.
Action: TypeAlias = "Callable[[Load, trio_ws.WebSocket], Awaitable[object]]"


@attrs.define
class Load:
    """The clients.

    Attributes:
        port: The port of the server.
        random: The source of all decisions.
        counts: What was done how often.
        payload: Text and noise to take messages from.
        lives: The number of connections that clients open in total; None for no end.
    """

    port: int
    random: random.Random
    counts: Counter[str] = attrs.field(factory=Counter)
    payload: bytes = b""
    lives: int | None = None

    def __attrs_post_init__(self) -> None:
        words = " ".join(f"{self.random.randrange(1000)}" for _ in range(20_000)).encode()
        self.payload = words + self.random.randbytes(len(words))

    async def run_client(self) -> None:
        """Connect, exchange messages and leave, again and again."""
        while self.lives is None or self.lives > 0:
            if self.lives is not None:
                self.lives -= 1
            if self.random.random() < 0.05:
                await self.be_a_stranger()
            elif self.random.random() < 0.2:
                await self.live("/parts", [exchange_parts])
            else:
                await self.live("/", [*[exchange] * 6, burst, ping, ping_often, cancelled_receive, cancelled_send])

    async def live(self, path: str, actions: list[Action]) -> None:
        """Open one connection, do some things, and leave."""
        compression = self.random.choice(COMPRESSION)
        leave = self.random.choice([return_, return_, close, abort, cancel, be_closed, be_aborted])
        if path != "/" and leave in (be_closed, be_aborted):
            leave = return_
        uri = f"ws://127.0.0.1:{self.port}{path}"
        options: Any = {**TIMEOUTS, "compression": compression, "proxy": None}
        with trio.CancelScope() as scope:
            async with trio_ws.connect(uri, **options) as ws:
                self.counts["connections"] += 1
                self.counts["compressed"] += compression is not None
                for _ in range(self.random.randrange(1, 20)):
                    await self.random.choice(actions)(self, ws)
                self.counts[leave.__name__.strip("_")] += 1
                await leave(self, ws, scope)

    async def be_a_stranger(self) -> None:
        """Open a TCP connection that does not become a WebSocket."""
        self.counts["strangers"] += 1
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            try:
                await stream.send_all(self.random.choice([b"", b"GET", b"EHLO example.org\r\n", bytes(100)]))
                if self.random.random() < 0.5:
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
            except (trio.BrokenResourceError, OSError):
                pass

    def bytes_of(self, size: int) -> bytes:
        start = self.random.randrange(len(self.payload) - size + 1)
        return self.payload[start : start + size]

    def message(self) -> str | bytes:
        """Return a message: text or binary, mostly small."""
        size = self.random.choice(SIZES)
        message = add_checksum(self.bytes_of(size))
        self.counts["messages"] += 1
        self.counts["bytes"] += len(message)
        if message.isascii() and self.random.random() < 0.7:
            self.counts["text"] += 1
            return message.decode()
        return message

    def compare(self, sent: str | bytes, received: str | bytes) -> None:
        if sent != received:
            raise Corrupt(f"sent {len(sent)} bytes, but received {len(received)} others")


# -- Actions -----------------------------------------------------------------------------------------------------------


async def exchange(load: Load, ws: trio_ws.WebSocket) -> None:
    """Send a message and receive it."""
    message = load.message()
    await ws.send(message)
    load.compare(message, await ws.receive())


async def burst(load: Load, ws: trio_ws.WebSocket) -> None:
    """Send many messages at once, while receiving them."""
    messages = [load.message() for _ in range(load.random.randrange(2, 30))]
    load.counts["bursts"] += 1
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for message in messages:
                await ws.send(message)

        for message in messages:
            load.compare(message, await ws.receive())


async def exchange_parts(load: Load, ws: trio_ws.WebSocket) -> None:
    """Send a message in parts, and receive it in whatever parts it comes."""
    message = add_checksum(load.bytes_of(load.random.choice([0, 100, 10_000, 100_000])))
    load.counts["messages"] += 1
    load.counts["bytes"] += len(message)
    load.counts["in parts"] += 1
    size = load.random.choice([100, 1000, 40_000])

    async def send() -> None:
        async with ws.send_stream() as outgoing:
            for at in range(0, len(message), size):
                await outgoing.send(message[at : at + size])

    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async with ws.receive_stream() as incoming:
            async for part in incoming:
                received += part.encode() if isinstance(part, str) else part
    load.compare(message, received)


async def ping(load: Load, ws: trio_ws.WebSocket) -> None:
    load.counts["pings"] += 1
    await ws.ping()


async def ping_often(load: Load, ws: trio_ws.WebSocket) -> None:
    """Ping from several tasks, between messages."""
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ping, load, ws)
        await exchange(load, ws)


async def cancelled_receive(load: Load, ws: trio_ws.WebSocket) -> None:
    """Cancel receive(). Nothing may be lost."""
    message = load.message()
    load.counts["cancelled calls"] += 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.receive()
    await ws.send(message)
    received = None
    while received is None:
        with trio.move_on_after(load.random.random() / 1000):
            received = await ws.receive()
    load.compare(message, received)


async def cancelled_send(load: Load, ws: trio_ws.WebSocket) -> None:
    """Cancel send(): the message arrives whole, or not at all. What follows is not affected."""
    message, other = load.message(), load.message()
    load.counts["cancelled calls"] += 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.send(message)
    if not scope.cancelled_caught:
        load.compare(message, await ws.receive())
    await ws.send(other)
    received = await ws.receive()
    load.compare(other, received)


# -- Endings -----------------------------------------------------------------------------------------------------------


async def return_(load: Load, ws: trio_ws.WebSocket, scope: trio.CancelScope) -> None:
    """Leave the block."""


async def close(load: Load, ws: trio_ws.WebSocket, scope: trio.CancelScope) -> None:
    await ws.aclose(load.random.choice([1000, 1001, 3000]), "enough")


async def abort(load: Load, ws: trio_ws.WebSocket, scope: trio.CancelScope) -> None:
    """Reset the connection with a message on its way."""
    await ws.send(load.message())
    ws.abort()


async def cancel(load: Load, ws: trio_ws.WebSocket, scope: trio.CancelScope) -> None:
    """Cancel the whole connection with a message on its way."""
    await ws.send(load.message())
    scope.cancel()
    await trio.lowlevel.checkpoint()


async def be_closed(load: Load, ws: trio_ws.WebSocket, scope: trio.CancelScope) -> None:
    """Let the server close."""
    await ws.send(CLOSE)
    await expect_end(ws)


async def be_aborted(load: Load, ws: trio_ws.WebSocket, scope: trio.CancelScope) -> None:
    """Let the server reset the connection."""
    await ws.send(ABORT)
    await expect_end(ws)


async def expect_end(ws: trio_ws.WebSocket) -> Any:
    try:
        message = await ws.receive()
    except trio_ws.ConnectionClosed:
        return
    raise Corrupt(f"expected the end, not {message!r}")
