"""Compression in clients and servers: when it is used, other tasks meanwhile, and the contexts of both ends.

``Inflater`` decompresses the output independently of the package. The transform alone is tested in
tests/protocol/test_deflate.py, and with real peers in tests/interop/.
"""

from __future__ import annotations

import contextlib
import random
import threading
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection import encoder as encoding
from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.exceptions import ConnectionClosedError, InvalidData, MessageTooBig, ProtocolError
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import Message, Role
from trio_ws.protocol.codec import FIN, RSV1
from trio_ws.protocol.deflate import Deflate, PerMessageDeflate
from trio_ws.protocol.extensions import EncodingCache
from trio_ws.protocol.messages import _STEP as STEP
from trio_ws.settings import Options
from trio_ws.testing import memory_websocket_pair

from .support import (
    URI,
    Faulty,
    PipeStream,
    attempt,
    binary,
    born_open,
    close,
    each_role,
    echo,
    memory_pair,
    opened,
    ping,
    pipe_pair,
    read_messages,
    split_frames,
)

settle = wait_all_tasks_blocked

KIB = 1024
TAIL = b"\x00\x00\xff\xff"
#: Text that compresses well, but not extremely.
PROSE = " ".join(random.Random(1).choices(["price", "volume", "bid", "ask", "1.5", "17"], k=100_000))


def transform(**options: Any) -> PerMessageDeflate:
    """Return a transform that compresses all messages."""
    return PerMessageDeflate(Deflate(**{"min_size": 0, **options}), send_bits=12, receive_bits=15)


class Inflater:
    """Decodes the bytes that one end of a connection has sent, fed in any number of calls."""

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._rest = b""
        self._window = zlib.decompressobj(-15)
        self._compressed: bytearray | None = None
        #: All messages and control frames so far, and whether each message was compressed.
        self.frames: list[Frame] = []
        self.marks: list[bool] = []

    def feed(self, data: bytes) -> None:
        frames, self._rest = split_frames(self._rest + data, masked=self._masked)
        for first, payload in frames:
            opcode, fin = Opcode(first & 0x0F), bool(first & FIN)
            assert not first & 0x30
            if opcode >= Opcode.CLOSE or opcode is Opcode.CONT:
                assert not first & RSV1, "only the first frame of a message is marked"
            else:
                self._compressed = bytearray() if first & RSV1 else None
                self.marks.append(self._compressed is not None)
            if opcode < Opcode.CLOSE and self._compressed is not None:
                payload = self._window.decompress(payload + TAIL if fin else payload)
            self.frames.append(Frame(opcode, payload, fin))

    def messages(self) -> list[Message]:
        """Return the whole messages so far. Check that nothing follows a Close frame."""
        return read_messages(self.frames)[0]

    @property
    def is_whole(self) -> bool:
        """Whether the last frame is complete."""
        return not self._rest


def sent_over(stream: PipeStream, role: Role) -> Inflater:
    """Decode the log of a stream on which one end was open from the start."""
    assert stream.outgoing.log is not None
    inflater = Inflater(masked=role is Role.CLIENT)
    inflater.feed(bytes(stream.outgoing.log))
    return inflater


def compressed(data: bytes, opcode: Opcode = Opcode.BINARY, **options: Any) -> bytes:
    """Return the first message of a server that compresses."""
    compressor = zlib.compressobj(9, wbits=-15)
    payload = (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
    return frame_of(payload, FIN | RSV1 | opcode)


def frame_of(payload: bytes, first_byte: int) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([first_byte, size]) + payload
    if size < 0x10000:
        return bytes([first_byte, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first_byte, 127]) + size.to_bytes(8, "big") + payload


# -- Negotiation -----------------------------------------------------------------------------------------------------

OFFER = "permessage-deflate; client_max_window_bits"
ANSWER = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"


async def negotiate(
    client: Options, server: Options, talk: Callable[[WebSocket], Awaitable[None]]
) -> tuple[str | None, str | None, PipeStream, PipeStream]:
    """Let a client talk to an echo server. Return the offer, the answer and both streams."""
    ours, theirs = pipe_pair(logged=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, echo, **server))
        async with trio_ws.connect_over(ours, URI, **client) as ws:
            offer = ws.request.headers.get("Sec-WebSocket-Extensions")
            answer = ws.response.headers.get("Sec-WebSocket-Extensions")
            await talk(ws)
    return offer, answer, ours, theirs


async def talk(ws: WebSocket) -> None:
    for message in (PROSE[:2000], PROSE[1000:3000].encode(), "", "é" * 100):
        await ws.send(message)
        assert await ws.receive() == message


@pytest.mark.parametrize(
    "client, server, offer, answer",
    [
        ({}, {}, OFFER, ANSWER),
        ({"compression": "deflate"}, {"compression": Deflate()}, OFFER, ANSWER),
        ({"compression": None}, {}, None, None),
        ({}, {"compression": None}, OFFER, None),
        (
            {"compression": Deflate(server_no_context_takeover=True, server_max_window_bits=9)},
            {"compression": Deflate(client_max_window_bits=10, server_max_window_bits=15)},
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=10",
        ),
    ],
)
async def test_negotiation(
    client: Options, server: Options, offer: str | None, answer: str | None, autojump_clock: MockClock
) -> None:
    offered, answered, ours, theirs = await negotiate(client, server, talk)
    assert (offered, answered) == (offer, answer)
    for stream in (ours, theirs):
        assert stream.outgoing.log is not None
        # About 4 KiB were sent in each direction, besides the heads.
        assert (len(stream.outgoing.log) < 2500) is (answer is not None)


async def test_a_server_with_an_invalid_answer(autojump_clock: MockClock) -> None:
    class Liar(Faulty):
        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return (await super().receive_some(max_bytes)).replace(b"bits=12", b"bits=16")

    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, theirs, lambda ws: ws.receive())
        with pytest.raises(trio_ws.NegotiationError, match=r"'server_max_window_bits' .* not '16'"):
            async with trio_ws.connect_over(Liar(ours), URI):
                pass
        nursery.cancel_scope.cancel()


@each_role
async def test_compressed_messages(role: Role) -> None:
    ours, theirs = pipe_pair(logged=True)
    async with opened(role, (ours, theirs), [transform(min_size=10)]) as (ws, _):
        await ws.send("0123456789")
        await ws.send("012345678")
        await ws.send(b"012345678901234567890", compress=False)
        await ws.send("")
        async with ws.send_stream() as out:
            await out.send(b"a")
            await out.send(b"b" * 100)
        async with ws.send_stream(text=True, compress=False) as parts:
            await parts.send("a")
            await parts.send("b" * 100)
        async with ws.send_stream(text=True):
            pass
        await ws.send("0123456789")
        await settle()
        sent = sent_over(ours, role)
        assert sent.marks == [True, False, False, False, True, False, False, True]
        assert sent.messages() == [
            *("0123456789", "012345678", b"012345678901234567890", "", b"a" + b"b" * 100, "a" + "b" * 100),
            *("", "0123456789"),
        ]


async def test_control_frames_between_compressed_fragments() -> None:
    ours, theirs = pipe_pair(logged=True)
    async with opened(Role.SERVER, (ours, theirs), [transform()]) as (ws, peer):
        async with ws.send_stream(text=True) as out:
            await out.send(PROSE[:500])
            await settle()
            await peer.send(ping(b"between"))
            await settle()
            await out.send(PROSE[:500])
        await ws.send(PROSE[:500])
        await settle()
        sent = sent_over(ours, Role.SERVER)
        assert [frame.opcode for frame in sent.frames[:3]] == [Opcode.TEXT, Opcode.PONG, Opcode.CONT]
        assert sent.messages() == [PROSE[:500] * 2, PROSE[:500]]


# -- Violations ------------------------------------------------------------------------------------------------------


async def closed_by(data: bytes, *, extensions: bool = True, **options: Any) -> tuple[ProtocolError, list[Message]]:
    """Let a server send this after a valid message. Return the error, and the messages received before it."""
    received: list[Message] = []
    async with opened(Role.CLIENT, None, [transform()] if extensions else [], **options) as (ws, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, binary(b"good"), data)
            with pytest.raises(ConnectionClosedError) as raised:
                while True:
                    received.append(await ws.receive())
            frame = await peer.receive()
        cause = raised.value.__cause__
        assert isinstance(cause, ProtocolError)
        assert raised.value.rcvd is None
        assert frame == close(cause.code, cause.reason)
    return cause, received


@pytest.mark.parametrize(
    "data, error",
    [
        (frame_of(b"\xff\xff", FIN | RSV1 | Opcode.BINARY), InvalidData),
        (frame_of(compressed(PROSE[:99].encode())[2:-5], FIN | RSV1 | Opcode.BINARY), InvalidData),
        (frame_of(b"", FIN | RSV1 | Opcode.BINARY), InvalidData),
        (compressed(b"\xff", Opcode.TEXT), InvalidData),
        (frame_of(b"\x00", FIN | RSV1 | Opcode.PING), ProtocolError),
        (frame_of(b"\x03\xe8", FIN | RSV1 | Opcode.CLOSE), ProtocolError),
        (frame_of(b"\x00", FIN | RSV1 | Opcode.CONT), ProtocolError),
        (frame_of(b"a", Opcode.BINARY) + frame_of(b"\x00", FIN | RSV1 | Opcode.CONT), ProtocolError),
    ],
)
async def test_violations(data: bytes, error: type[ProtocolError]) -> None:
    cause, received = await closed_by(data)
    assert type(cause) is error
    assert received == [b"good"]


async def test_compressed_without_an_agreement() -> None:
    cause, received = await closed_by(compressed(b"Hello"), extensions=False)
    assert type(cause) is ProtocolError
    assert cause.code == 1002
    assert received == [b"good"]


@pytest.mark.parametrize("limit", [10, 1000, 100 * KIB])
async def test_the_limit(limit: int) -> None:
    async with opened(Role.CLIENT, None, [transform()], max_message_size=limit) as (ws, peer):
        await peer.send(compressed(bytes(limit)))
        assert await ws.receive() == bytes(limit)
    cause, received = await closed_by(compressed(bytes(limit + 1)), max_message_size=limit)
    assert isinstance(cause, MessageTooBig)
    assert (cause.code, cause.limit) == (1009, limit)
    assert received == [b"good"]


async def test_a_bomb_only_fills_the_inbox() -> None:
    # Nobody receives and messages have no limit, so the limit of the inbox applies.
    bomb = compressed(bytes(64 * KIB * KIB))
    assert len(bomb) < 70 * KIB
    options: Options = {"max_message_size": None, "receive_buffer": 64 * KIB}
    async with opened(Role.CLIENT, None, [transform()], **options) as (ws, peer):
        await peer.send(bomb)
        await settle()
        assert 64 * KIB <= connection_of(ws).protocol.held <= 64 * KIB + 1032 * STEP
        # A receiver gets the whole message, and no part of it is larger than the inbox.
        sizes = []
        async with ws.receive_stream() as parts:
            async for part in parts:
                sizes.append(len(part))
                await settle()
        assert sum(sizes) == 64 * KIB * KIB
        assert max(sizes) <= 64 * KIB + 1032 * STEP


# -- Other tasks ----------------------------------------------------------------------------------------------------


class Held:
    """A ``trio.to_thread.run_sync`` that delays the work of the thread until ``go`` is set. One call at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = trio.Event()
        self.begun = 0
        self.done = 0
        self._run_sync = trio.to_thread.run_sync
        monkeypatch.setattr(trio.to_thread, "run_sync", self)

    async def __call__(self, *args: Any, **options: Any) -> Any:
        self.begun += 1
        await self.go.wait()
        result = await self._run_sync(*args, **options)
        self.done += 1
        return result


@pytest.mark.parametrize(
    "sizes, compress, used",
    [
        ([encoding.THREAD_SIZE - 1], True, False),
        ([encoding.THREAD_SIZE], True, True),
        ([encoding.THREAD_SIZE], False, False),
        ([encoding.THREAD_SIZE - 1, 1], True, True),
        ([100, 100], True, False),
    ],
)
@each_role
async def test_large_messages_are_compressed_in_a_thread(
    role: Role, sizes: list[int], compress: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pipe_pair(10**6, logged=True)
    held = Held(monkeypatch)
    held.go.set()
    async with opened(role, (ours, theirs), [transform()], send_buffer=10**6) as (ws, _):
        messages = [PROSE[:size] for size in sizes]
        for message in messages:
            await ws.send(message, compress=compress)
        while sent_over(ours, role).messages() != messages:
            await theirs.receive_some()
        assert (held.done > 0) is used


async def test_compression_runs_in_another_thread() -> None:
    seen = []

    class Watching(PerMessageDeflate):
        def encode(
            self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
        ) -> tuple[bytes, bool]:
            seen.append(threading.current_thread())
            return super().encode(data, first=first, final=final, cache=cache)

    ours, theirs = pipe_pair(10**6)
    extension = Watching(Deflate(), send_bits=12, receive_bits=12)
    async with opened(Role.SERVER, (ours, theirs), [extension]) as (ws, _):
        await ws.send("a" * encoding.THREAD_SIZE)
        await theirs.receive_some()
        await ws.send("a")
        await theirs.receive_some()
    assert seen[0] is not threading.current_thread()
    assert seen[1] is threading.current_thread()


async def test_threads_of_the_application_do_not_matter() -> None:
    # They all wait for a message to be sent, and use up Trio's default thread limiter.
    limiter = trio.to_thread.current_default_thread_limiter()
    count = int(limiter.total_tokens) + 1
    received = 0
    ours, theirs = memory_pair()
    async with born_open(theirs, Role.SERVER, [transform()]) as server, born_open(ours, extensions=[transform()]) as ws:
        message = "a" * encoding.THREAD_SIZE

        def send() -> None:
            trio.from_thread.run(ws.send, message)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(trio.to_thread.run_sync, send)
            while received < count:
                assert await server.receive() == message
                received += 1


async def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(*_args: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    ours, theirs = pipe_pair(10**6, logged=True)
    async with opened(Role.CLIENT, (ours, theirs), [transform()]) as (ws, _):
        await ws.send(PROSE)
        await settle()
        assert sent_over(ours, Role.CLIENT).messages() == [PROSE]


async def test_sending_while_the_thread_works(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    ours, theirs = pipe_pair(10**6, logged=True)
    async with opened(Role.SERVER, (ours, theirs), [transform()], send_buffer=10**6) as (ws, peer):
        await ws.send(PROSE)
        await settle()
        assert (held.begun, held.done) == (1, 0)
        await ws.send("after")
        await peer.send(ping(b"p"))
        await settle()
        await peer.send(close())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.aclose)
            await settle()
            assert sent_over(ours, Role.SERVER).frames == []
            held.go.set()
        sent = sent_over(ours, Role.SERVER)
        assert [frame.opcode for frame in sent.frames] == [Opcode.TEXT, Opcode.PONG, Opcode.TEXT, Opcode.CLOSE]
        assert sent.messages() == [PROSE, "after"]


@each_role
@pytest.mark.parametrize("end", ["cancel", "eof", "timeout"])
async def test_interrupted_while_the_thread_works(
    role: Role, end: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    held = Held(monkeypatch)
    ours, theirs = pipe_pair(10**6, logged=True)
    with trio.CancelScope() as scope:
        async with opened(role, (ours, theirs), [transform()], send_buffer=10**6, close_timeout=1) as (ws, peer):
            await ws.send("before")
            await settle()
            await ws.send(PROSE)
            await settle()
            await ws.send("after")
            if end == "cancel":
                scope.cancel()
            elif end == "eof":
                await peer.stream.send_eof()  # type: ignore[attr-defined]  # it is a PipeStream
            await ws.aclose()
    assert ours.closed
    assert (held.begun, held.done) == (1, 0)
    sent = sent_over(ours, role)
    assert sent.messages() == ["before"]
    # The message in the thread is lost, and so is everything queued after it, except the Close frame.
    assert [frame.opcode for frame in sent.frames[1:]] == ([] if end == "eof" else [Opcode.CLOSE])
    assert sent.is_whole


async def test_an_abandoned_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # With a real thread: it is abandoned while it works, and its result is dropped.
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    class Slow(PerMessageDeflate):
        def encode(
            self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
        ) -> tuple[bytes, bool]:
            entered.set()
            leave.wait(60)
            try:
                return super().encode(data, first=first, final=final, cache=cache)
            finally:
                left.set()

    ours, theirs = pipe_pair(10**6, logged=True)
    extension = Slow(Deflate(), send_bits=12, receive_bits=12)
    with trio.CancelScope() as scope:
        async with opened(Role.CLIENT, (ours, theirs), [extension]) as (ws, _):
            await ws.send("a" * encoding.THREAD_SIZE)
            await trio.to_thread.run_sync(entered.wait)
            scope.cancel()
            await ws.aclose()
    assert ours.closed
    leave.set()
    await trio.to_thread.run_sync(left.wait)
    sent = sent_over(ours, Role.CLIENT)
    assert [frame.opcode for frame in sent.frames] == [Opcode.CLOSE]
    assert Close.parse(sent.frames[0].data).code == 1000


async def test_other_tasks_run_during_decompression() -> None:
    # They run every few steps, not only at the end.
    message = random.Random(2).randbytes(40 * STEP)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with opened(Role.CLIENT, None, [transform()]) as (ws, peer):
        await peer.send(compressed(message))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            assert await ws.receive() == message
            nursery.cancel_scope.cancel()
    assert turns >= 10


async def test_a_violation_between_two_steps() -> None:
    # Messages before it are delivered, messages after it are not.
    messages = [random.Random(seed).randbytes(3 * STEP) for seed in range(2)]
    first, last = map(compressed, messages)
    received = []
    async with opened(Role.CLIENT, None, [transform()]) as (ws, peer):
        await peer.send(first + frame_of(b"", FIN | 0x0B) + last)
        with pytest.raises(ConnectionClosedError):
            while True:
                received.append(await ws.receive())
    assert received == messages[:1]


async def test_a_close_frame_between_two_steps(autojump_clock: MockClock) -> None:
    message = random.Random(1).randbytes(3 * STEP)
    async with opened(Role.CLIENT, None, [transform()]) as (ws, peer):
        await peer.send(compressed(message) + frame_of(b"\x03\xe8", FIN | Opcode.CLOSE) + compressed(message))
        assert [message async for message in ws] == [message]


# -- Contexts of both ends -------------------------------------------------------------------------------------------


@each_role
async def test_cancelled_sends(role: Role) -> None:
    """Messages refer to earlier ones, so a message that is in the context of only one end would be noticed."""
    ours, theirs = pipe_pair(10, logged=True)
    expected: list[Message] = []
    async with opened(role, (ours, theirs), [transform()], send_buffer=0) as (ws, _):
        for number in range(20):
            message = f"{number} {PROSE[number * 100 : number * 100 + 300]}"
            done = await attempt(partial(ws.send, message, compress=number % 5 != 0))
            expected += [message] * len(done)
            if number % 3 == 2:
                while theirs.incoming.data:
                    await theirs.receive_some()
                    await settle()
        assert 5 < len(expected) < 15
        while theirs.incoming.data:
            await theirs.receive_some()
            await settle()
    sent = sent_over(ours, role)
    assert sent.messages() == expected
    assert len(set(sent.marks)) == 2


async def test_cancelled_receives(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    messages = [f"{number} {PROSE[number * 100 : number * 100 + 3000]}" for number in range(50)]
    received: list[Message] = []
    async with born_open(theirs, Role.SERVER, [transform()]) as server, born_open(ours, extensions=[transform()]) as ws:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                for message in messages:
                    await server.send(message)

            while len(received) < len(messages):
                received += await attempt(ws.receive)
    assert received == messages


async def test_messages_that_are_skipped() -> None:
    # Skipped messages are part of the context: later messages refer to them.
    ours, theirs = memory_pair()
    async with born_open(theirs, Role.SERVER, [transform()]) as server, born_open(ours, extensions=[transform()]) as ws:
        for _ in range(3):
            await server.send(PROSE[:5000])
            async with ws.receive_stream() as parts:
                await parts.__anext__()
            await server.send(PROSE[:5000])
            assert await ws.receive() == PROSE[:5000]


# -- The number of compressors ---------------------------------------------------------------------------------------


def compressors_of(*ends: trio_ws.WebSocket) -> list[bool]:
    """Return whether each end has a compressor."""
    extensions = [connection_of(ws).protocol._extensions[0] for ws in ends]
    assert all(isinstance(extension, PerMessageDeflate) for extension in extensions)
    return [extension._compressor is not None for extension in extensions]  # type: ignore[attr-defined]  # they are, as asserted above


@pytest.mark.parametrize("sockets", [True, False])
async def test_only_the_last_senders_keep_compressors(sockets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_COMPRESSORS", 2)
    async with contextlib.AsyncExitStack() as stack:
        pairs = []
        for _ in range(3):
            streams = None
            if sockets:
                ours, theirs = trio.socket.socketpair()
                streams = trio.SocketStream(ours), trio.SocketStream(theirs)
            pairs.append(await stack.enter_async_context(memory_websocket_pair(streams, ping_interval=None)))
        ends = [client for client, _ in pairs]

        async def say(index: int, message: str) -> None:
            client, server = pairs[index]
            await client.send(message * 50)
            assert await server.receive() == message * 50

        await say(0, "one")
        await say(1, "two")
        assert compressors_of(*ends) == [True, True, False]
        await say(0, "one")
        await say(2, "three")
        assert compressors_of(*ends) == [True, False, True]
        # Control frames need no compressor.
        for client, _ in pairs:
            await client.ping()
        assert compressors_of(*ends) == [True, False, True]
        # The others create a new compressor, with the same context.
        await say(1, "two")
        assert compressors_of(*ends) == [False, True, True]
        for index in range(3):
            for message in ("one", "two", "three"):
                await say(index, message)
        assert sum(compressors_of(*ends)) == 2
        encoders = encoding._cache.get()._encoders
        assert set(encoders) < {connection_of(ws).encoder for ws in ends}
        assert len(encoders) == 2
    # Closed connections are removed.
    assert not encoders


async def test_a_compressor_in_use_by_a_thread_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_COMPRESSORS", 1)
    async with (
        memory_websocket_pair(ping_interval=None) as (busy, busy_server),
        memory_websocket_pair(ping_interval=None) as (other, other_server),
    ):
        await busy.send("busy" * 50)
        assert await busy_server.receive() == "busy" * 50
        connection_of(busy).encoder.interrupted = True
        await other.send("other" * 50)
        assert await other_server.receive() == "other" * 50
        assert compressors_of(busy, other) == [True, True]
        connection_of(busy).encoder.interrupted = False
        await busy.send("busy" * 50)
        assert await busy_server.receive() == "busy" * 50
        assert compressors_of(busy, other) == [True, False]
