"""Memory that a peer can make a connection use: the limits in the options, plus a constant.

One peer floods a connection on which nobody receives, another never reads while we send. The inbox, the outbox and
single floods have tests of their own; these tests measure the allocated memory of a whole connection.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_ws.connection.stream import RECEIVE_SIZE
from trio_ws.connection.websocket import WebSocket
from trio_ws.frames import Frame
from trio_ws.protocol import Role
from trio_ws.protocol.codec import serialize
from trio_ws.protocol.deflate import Deflate, PerMessageDeflate
from trio_ws.protocol.pure import header
from trio_ws.settings import KIB, MIB

from .support import KEY, binary, born_open, cont, each_role, ping, pong, text

settle = wait_all_tasks_blocked

#: Maximum memory for receiving besides the limits in the options, as documented in ``docs/how-it-works.rst``: a read,
#: its copies during unmasking and decoding, with up to four bytes per character of text, and pending pongs.
RECEIVING = 6 * RECEIVE_SIZE
#: The same for sending: a few messages joined for one write, and the objects of the queue.
SENDING = 128 * KIB
#: Memory of a compressor or a decompressor with the largest window.
DEFLATE = 300 * KIB


async def measure(call: Callable[[], Awaitable[object]]) -> tuple[int, int]:
    """Return the additional memory in use during a call at most, and after it, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        await call()
        after, peak = tracemalloc.get_traced_memory()
        return peak - before, after - before
    finally:
        tracemalloc.stop()


class Flooder(trio.abc.Stream):
    """A stream whose reads return the same data repeatedly, and whose writes block.

    Args:
        first: The data for the first read.
        data: The data for the other reads.
        times: Maximum number of these reads.
        writes: Number of writes that succeed before one blocks forever.
    """

    def __init__(self, first: bytes = b"", data: bytes = b"", times: int = 0, writes: int = 0) -> None:
        self.first = first
        self.data = data
        self.times = times
        self.writes = writes
        self.closed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.first:
            first, self.first = self.first, b""
            return first
        if not self.times:
            await self.closed.wait()
            return b""
        self.times -= 1
        assert max_bytes is None or len(self.data) <= max_bytes
        return self.data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if not self.writes:
            await self.closed.wait()
            raise trio.BrokenResourceError
        self.writes -= 1

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed.set()
        await trio.lowlevel.checkpoint()


def fill(unit: bytes) -> bytes:
    """Repeat the unit to the size of one read."""
    return unit * (RECEIVE_SIZE // len(unit))


# -- A peer that floods ----------------------------------------------------------------------------------------------


@attrs.frozen
class Flood:
    """The frames of a flooding peer: one first frame, then one that fills reads of 64 KiB."""

    frame: Frame
    first: Frame | None = None
    #: Number of reads. The default fills the largest buffer in these tests; small frames that fill no buffer need less.
    times: int = 12


#: Text in which one character makes all characters take four bytes in memory.
WIDE = ("x" * 3000 + "\N{GRINNING FACE}").encode()

FLOODS = {
    "large messages": Flood(binary(bytes(60_000))),
    "small messages": Flood(binary(bytes(1000))),
    "tiny messages": Flood(binary(b"ab")),
    "tiny text": Flood(text("\N{EURO SIGN}")),
    "wide text": Flood(text(WIDE)),
    "empty messages": Flood(binary(b"")),
    "empty pings": Flood(ping(), times=2),
    "large pings": Flood(ping(bytes(125)), times=4),
    "empty pongs": Flood(pong(), times=2),
    "large pongs": Flood(pong(bytes(125)), times=4),
    "empty fragments": Flood(cont(b""), text(b"", fin=False), times=2),
    "one-byte fragments": Flood(cont(b"a"), binary(b"", fin=False), times=24),
    "tiny fragments of text": Flood(cont("\N{EURO SIGN}".encode()), text(b"", fin=False), times=24),
    "wide fragments of text": Flood(cont(WIDE), text(b"", fin=False)),
    "large fragments": Flood(cont(bytes(60_000)), binary(b"", fin=False)),
}


async def flooded(
    role: Role, first: bytes, data: bytes, times: int, receive_buffer: int, *, compressed: bool = False
) -> int:
    """Return the peak of additional memory during a flood while nobody receives."""
    extensions = [PerMessageDeflate(Deflate(), send_bits=15, receive_bits=15)] if compressed else []
    stream = Flooder(first, data, times)
    async with born_open(stream, role, extensions, receive_buffer=receive_buffer, max_message_size=MIB):
        peak, _ = await measure(settle)
        # Without a closing handshake, nothing has to wait.
        stream.closed.set()
    return peak


@pytest.mark.parametrize("role, receive_buffer", [(Role.CLIENT, 0), (Role.SERVER, 64 * KIB)])
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_while_nobody_receives(
    name: str, receive_buffer: int, role: Role, autojump_clock: MockClock
) -> None:
    flood = FLOODS[name]
    key = KEY if role is Role.SERVER else None
    first = b"" if flood.first is None else serialize(flood.first, key)
    data = fill(serialize(flood.frame, key))
    assert await flooded(role, first, data, flood.times, receive_buffer) <= receive_buffer + RECEIVING


@pytest.mark.parametrize("size, receive_buffer", [(0, 0), (2, 64 * KIB), (258, 64 * KIB)])
async def test_a_flood_of_tiny_compressed_messages(size: int, receive_buffer: int, autojump_clock: MockClock) -> None:
    data = compress(binary(b"a" * size))
    peak = await flooded(Role.CLIENT, b"", fill(data), 12, receive_buffer, compressed=True)
    assert peak <= receive_buffer + RECEIVING + DEFLATE


@pytest.mark.parametrize("receive_buffer", [0, 64 * KIB, MIB])
@pytest.mark.parametrize(
    "frame, size",
    [
        (binary(bytes(MIB)), MIB),
        (text(b"a" * MIB), MIB),
        (text("a" * (MIB - 4) + "\N{GRINNING FACE}"), 4 * MIB),
        (binary(bytes(MIB), fin=False), MIB),
    ],
    ids=["binary", "text", "wide text", "unfinished"],
)
async def test_a_flood_of_bombs(frame: Frame, size: int, receive_buffer: int, autojump_clock: MockClock) -> None:
    # There is always room for one message of any size. It exists twice while it is assembled.
    peak = await flooded(Role.CLIENT, b"", fill(compress(frame)), 24, receive_buffer, compressed=True)
    assert peak <= receive_buffer + 2 * size + RECEIVING + DEFLATE


def compress(frame: Frame) -> bytes:
    extension = PerMessageDeflate(Deflate(min_size=0), send_bits=15, receive_bits=15)
    data, _ = extension.encode(frame.data, first=True, final=frame.fin)
    return header(serialize(frame)[0] | extension.rsv, len(data)) + data


# -- A peer that never reads -----------------------------------------------------------------------------------------


async def send_all_day(ws: WebSocket, size: int) -> None:
    """Send until all tasks are blocked."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                number = 0
                while True:
                    await ws.send(number.to_bytes(4, "big") * (size // 4))
                    number += 1

            await settle()
            scope.cancel()


@each_role
# Without a write, all messages wait in the outbox. With one, the writer blocks with some of them.
@pytest.mark.parametrize("writes", [0, 1], ids=["waiting", "being written"])
@pytest.mark.parametrize("send_buffer", [0, 64 * KIB, MIB])
@pytest.mark.parametrize("size", [4, 100, 1000, 20_000])
async def test_sending_to_a_peer_that_never_reads(
    size: int, send_buffer: int, writes: int, role: Role, autojump_clock: MockClock
) -> None:
    stream = Flooder(writes=writes)
    async with born_open(stream, role, send_buffer=send_buffer) as ws:

        async def send() -> None:
            if writes:
                # The first messages are written while the others are queued.
                await ws.send(b"first")
            await send_all_day(ws, size)

        peak, kept = await measure(send)
        stream.closed.set()
    assert kept <= send_buffer + SENDING
    # The message exists twice while it is encoded.
    assert peak <= 2 * send_buffer + SENDING


@pytest.mark.parametrize("send_buffer", [0, 64 * KIB, MIB])
async def test_many_senders_wait(send_buffer: int, autojump_clock: MockClock) -> None:
    count = 1000
    message = bytes(10_000)

    async def wait(function: Callable[[], Awaitable[object]]) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(function)
            await settle()
            nursery.cancel_scope.cancel()

    stream = Flooder()
    async with born_open(stream, send_buffer=send_buffer) as ws:
        tasks, _ = await measure(lambda: wait(trio.sleep_forever))
        peak, _ = await measure(lambda: wait(lambda: ws.send(message)))
        stream.closed.set()
    # The waiting messages belong to the senders. Waiting costs a few coroutines and a place in the queue.
    assert peak - tasks <= send_buffer + count * 2 * KIB + SENDING


async def test_cancelled_pings(autojump_clock: MockClock) -> None:
    stream = Flooder()
    async with born_open(stream, ping_interval=None, write_timeout=None) as ws:

        async def give_up() -> None:
            for i in range(1000):
                with trio.move_on_after(1):
                    await ws.ping(i.to_bytes(4, "big") * 30)

        peak, kept = await measure(give_up)
        stream.closed.set()
    assert max(peak, kept) <= SENDING


async def test_pings_of_the_keepalive(autojump_clock: MockClock) -> None:
    stream = Flooder()
    async with born_open(stream, ping_interval=1, ping_timeout=None):
        peak, _ = await measure(partial(trio.sleep, 1000))
        stream.closed.set()
    assert peak <= SENDING
