"""Broadcasts: recipients, order, compression, and slow peers."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws import broadcast
from trio_ws.connection.encoder import Encoder
from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidData
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.hub.broadcast import WhenFull
from trio_ws.protocol import Role
from trio_ws.protocol.deflate import Deflate, DeflateServer, PerMessageDeflate
from trio_ws.protocol.extensions import Extension
from trio_ws.testing import memory_websocket_pair

from ..cancellation import socket_pair
from ..support import (
    HANGS,
    PAIRS,
    Peer,
    Streams,
    born_open,
    close,
    each_pair,
    each_role,
    memory_pair,
    opened,
    parse_frames,
    pipe_pair,
    text,
)

settle = wait_all_tasks_blocked

#: There is room for one such message in ``SMALL`` bytes, but not for two.
HALF = "x" * 40_000
SMALL = 64 * 1024


@asynccontextmanager
async def clogged(streams: Streams | None = None, **options: Any) -> AsyncIterator[tuple[WebSocket, Peer]]:
    """Open a connection with a message in its outbox, because its peer does not read."""
    async with opened(Role.SERVER, streams or pipe_pair(10), **options) as (ws, peer):
        await ws.send(HALF)
        assert connection_of(ws).outbox.size
        yield ws, peer


async def receive_texts(peer: Peer, count: int) -> list[bytes]:
    """Receive ``count`` messages and return their first letters."""
    frames = [await peer.receive() for _ in range(count)]
    assert all(frame is not None and frame.opcode is Opcode.TEXT for frame in frames)
    return [frame.data[:1] for frame in frames if frame is not None]


# -- Recipients ------------------------------------------------------------------------------------------------------


@each_pair
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_every_connection_gets_the_message(kind: str, compression: Any, autojump_clock: MockClock) -> None:
    async with AsyncExitStack() as stack:
        pairs = [
            await stack.enter_async_context(
                memory_websocket_pair(PAIRS[kind](), handshake=True, compression=compression)
            )
            for _ in range(3)
        ]
        messages: list[str | bytes] = ["text", b"bytes", "", "ä" * 1000, b"\0" * 3000]
        ends = [end for pair in pairs for end in pair]

        async def receive(ws: WebSocket) -> None:
            assert [await ws.receive() for _ in messages] == messages

        async with trio.open_nursery() as nursery:
            for ws in ends:
                nursery.start_soon(receive, ws)
            for message in messages:
                assert broadcast(ends, message) == []


async def test_an_iterator_of_connections() -> None:
    async with opened() as (one, peer_one), opened(Role.SERVER) as (two, peer_two):
        assert broadcast((ws for ws in (one, two)), "a") == []
        assert [await peer.receive() for peer in (peer_one, peer_two)] == [text("a"), text("a")]
        assert broadcast([], "nobody") == []


async def test_text_and_binary() -> None:
    async with opened() as (ws, peer):
        broadcast([ws], b"\xc3\xa4", text=True)
        broadcast([ws], "ä", text=False)
        mutable = bytearray(b"before")
        broadcast([ws], mutable)
        mutable[:] = b"after!"
        assert [await peer.receive() for _ in range(3)] == [
            text("ä"),
            Frame(Opcode.BINARY, "ä".encode()),
            Frame(Opcode.BINARY, b"before"),
        ]


async def test_in_another_thread() -> None:
    """It would wake tasks there, which breaks the run of Trio."""
    async with opened() as (ws, peer):
        topic = trio_ws.Hub().topic("t")
        with topic.subscribe(ws):
            for call in (partial(broadcast, [ws], "a"), partial(topic.publish, "a"), ws.abort):
                with pytest.raises(RuntimeError, match="must be called in the thread in which Trio runs"):
                    await trio.to_thread.run_sync(call)
                await ws.send("b")
                assert await peer.receive() == text("b")
            await trio.to_thread.run_sync(partial(trio.from_thread.run_sync, broadcast, [ws], "c"))
            assert await peer.receive() == text("c")


async def test_what_is_no_connection() -> None:
    topic = trio_ws.Hub().topic("t")
    for call in (partial(broadcast, [1], "a"), partial(topic.subscribe, 1), partial(topic.join, 1)):  # type: ignore[list-item, arg-type]  # wrong on purpose
        with pytest.raises(TypeError, match="must be a WebSocket, not 1"):
            call()


async def test_invalid_messages() -> None:
    async with opened() as (ws, peer):
        with pytest.raises(TypeError, match="a message must be str or bytes, not int"):
            broadcast([ws], 1)  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(InvalidData):
            broadcast([ws], b"\xff", text=True)
        with pytest.raises(UnicodeEncodeError):
            broadcast([ws], "\ud800")
        with pytest.raises(ValueError, match="when_full must be one of 'drop', 'skip', 'newest', not 'wait'"):
            broadcast([ws], "a", when_full="wait")  # type: ignore[arg-type]  # wrong on purpose
        # Nothing was sent.
        broadcast([ws], "b")
        assert await peer.receive() == text("b")


async def test_closed_connections_are_skipped(autojump_clock: MockClock) -> None:
    async with (
        opened(Role.SERVER) as (closing, peer),
        opened(Role.SERVER) as (lost, peer_of_lost),
        opened(Role.SERVER) as (open_, peer_of_open),
    ):
        await closing.send_close()
        await peer_of_lost.stream.aclose()
        with pytest.raises(ConnectionClosedError):
            await lost.receive()
        assert broadcast([closing, lost, open_], "a") == []
        assert await peer_of_open.receive() == text("a")
        assert await peer.receive() == close()
        await peer.send(close())
        assert await peer.receive() is None


@each_role
async def test_order_of_broadcast_and_send(role: Role) -> None:
    async with opened(role) as (ws, peer):
        await ws.send("1")
        broadcast([ws], "2")
        broadcast([ws], "3")
        await ws.send("4")
        assert await receive_texts(peer, 4) == [b"1", b"2", b"3", b"4"]


async def test_each_frame_of_a_client_has_its_own_mask() -> None:
    ours = [memory_pair() for _ in range(2)]
    async with born_open(ours[0][0]) as one, born_open(ours[1][0]) as two:
        broadcast([one, two], "the same")
        wires = [bytes(await theirs.receive_some()) for _, theirs in ours]
        assert wires[0][2:6] != wires[1][2:6]
        assert [parse_frames(wire, masked=True)[0] for wire in wires] == [[text("the same")]] * 2
        for _, theirs in ours:
            await trio.aclose_forcefully(theirs)


# -- Writing without waiting -----------------------------------------------------------------------------------------


async def test_sockets_are_written_at_once() -> None:
    pairs = [trio.socket.socketpair(socket.AF_UNIX) for _ in range(3)]
    async with AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(born_open(trio.SocketStream(ours), Role.SERVER)) for ours, _ in pairs]
        # The writer task must start first: the response of the opening handshake may be half-written.
        await settle()
        # No await after this line.
        broadcast(ends, "a")
        broadcast(ends, "b" * 200)
        for _, theirs in pairs:
            assert socket_read(theirs) == b"\x81\x01a\x81\x7e\x00\xc8" + b"b" * 200


async def test_a_message_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Encoder] = []
    encode: Callable[..., list[bytes]] = Encoder.encode

    def count(encoder: Encoder, frames: Any) -> list[bytes]:
        encoded.append(encoder)
        return encode(encoder, frames)

    monkeypatch.setattr(Encoder, "encode", count)
    # The last two transform the message, or mask it with a key of their own.
    extensions: list[list[Extension]] = [[], [], [deflate()], []]
    variants = list(zip([Role.SERVER, Role.SERVER, Role.SERVER, Role.CLIENT], extensions, strict=True))
    pairs = [trio.socket.socketpair(socket.AF_UNIX) for _ in variants]
    async with AsyncExitStack() as stack:
        ends = [
            await stack.enter_async_context(born_open(trio.SocketStream(ours), role, extensions=each))
            for (ours, _), (role, each) in zip(pairs, variants, strict=True)
        ]
        await settle()
        broadcast(ends, "x" * 100)
        assert encoded == [connection_of(ws).encoder for ws in ends[2:]]
        assert [socket_read(theirs)[:2] for _, theirs in pairs[:2]] == [b"\x81\x64"] * 2
        assert [socket_read(theirs)[0] for _, theirs in pairs[2:]] == [0xC1, 0x81]


def socket_read(sock: trio.socket.SocketType) -> bytes:
    """Return the bytes that have arrived, and close the socket."""
    with socket.socket(fileno=sock.detach()) as plain:
        plain.setblocking(False)
        return plain.recv(65536)


async def test_bytes_that_a_socket_does_not_take_are_written_later() -> None:
    ours, theirs = socket_pair()
    message = "x" * 1_000_000
    async with opened(Role.SERVER, (ours, theirs)) as (ws, peer):
        assert broadcast([ws], message) == []
        assert broadcast([ws], "y", max_backlog=SMALL) == [ws]
        frames = []

        async def read() -> None:
            frames.extend(await peer.behave())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.receive()
        assert caught.value.sent == Close(1013, "too slow")
        assert [frame.data for frame in frames[:-1]] == [message.encode()]


# -- Slow peers ------------------------------------------------------------------------------------------------------


async def test_a_slow_peer_is_dropped(autojump_clock: MockClock) -> None:
    async with clogged() as (slow, slow_peer), opened(Role.SERVER) as (quick, quick_peer):
        assert broadcast([slow, quick], HALF, max_backlog=SMALL) == [slow]
        assert await quick_peer.receive() == text(HALF)
        # The connection is closing, so later messages are not sent to it.
        assert broadcast([slow, quick], "b", max_backlog=SMALL) == []
        assert await quick_peer.receive() == text("b")
        # Messages sent before can still be read.
        assert await slow_peer.receive() == text(HALF)
        assert await slow_peer.receive() == close(1013, "too slow")
        await slow_peer.send(close(1013))
        with pytest.raises(ConnectionClosedError) as caught:
            await slow.receive()
        assert caught.value.sent == Close(1013, "too slow")
        assert isinstance(caught.value.__cause__, trio.TooSlowError)
        assert "40" in str(caught.value.__cause__)
        assert trio.current_time() == 0


async def test_a_peer_that_never_reads_is_cut(autojump_clock: MockClock) -> None:
    async with clogged(close_timeout=7) as (slow, _):
        broadcast([slow], HALF, max_backlog=SMALL)
        with pytest.raises(ConnectionClosedError):
            await slow.receive()
        assert 7 <= trio.current_time() <= 8


async def test_a_slow_peer_is_skipped() -> None:
    async with clogged() as (slow, peer):
        assert broadcast([slow], "b" + HALF, when_full="skip", max_backlog=SMALL) == [slow]
        assert broadcast([slow], "c", when_full="skip", max_backlog=SMALL) == []  # the outbox has room for these
        assert broadcast([slow], "d" + HALF, when_full="skip", max_backlog=SMALL) == [slow]
        assert await receive_texts(peer, 2) == [b"x", b"c"]
        assert broadcast([slow], "e", when_full="skip", max_backlog=SMALL) == []
        assert await receive_texts(peer, 1) == [b"e"]


async def test_a_slow_peer_gets_the_newest() -> None:
    async with clogged() as (slow, peer):
        for letter in "abcdef":
            assert broadcast([slow], letter + HALF, when_full="newest", max_backlog=SMALL) == [slow]
            # The bound is the outbox and one message.
            assert connection_of(slow).outbox.size < 2 * len(HALF) + 1000
        # Later messages queue behind it, even if there is room for them.
        assert broadcast([slow], "g", when_full="skip", max_backlog=SMALL) == [slow]
        assert await receive_texts(peer, 2) == [b"x", b"f"]
        await settle()
        assert broadcast([slow], "h", max_backlog=SMALL) == []
        assert await receive_texts(peer, 1) == [b"h"]
        assert connection_of(slow).outbox.is_clear


async def test_the_newest_of_different_sizes(autojump_clock: MockClock) -> None:
    async with clogged() as (slow, peer):
        for message in ("a" + HALF, "b", "c" + HALF, "d"):
            assert broadcast([slow], message, when_full="newest", max_backlog=SMALL) == [slow]
        assert connection_of(slow).outbox.size < len(HALF) + 1000
        assert await receive_texts(peer, 2) == [b"x", b"d"]
        await settle()
        assert connection_of(slow).outbox.size == 0


async def test_senders_queue_behind_the_newest(nursery: trio.Nursery) -> None:
    async with clogged() as (slow, peer):
        nursery.start_soon(slow.send, "a" + HALF)
        await settle()
        broadcast([slow], "b", when_full="newest", max_backlog=0)
        nursery.start_soon(slow.send, "c")
        await settle()
        broadcast([slow], "d", when_full="newest", max_backlog=0)  # replaces b
        assert await receive_texts(peer, 4) == [b"x", b"a", b"d", b"c"]


async def test_a_message_in_parts_comes_after_the_newest(nursery: trio.Nursery) -> None:
    async with clogged() as (slow, peer):
        broadcast([slow], "a" + HALF, when_full="newest", max_backlog=SMALL)
        nursery.start_soon(send_in_parts, slow, "b", "c")
        await settle()
        broadcast([slow], "d", when_full="newest", max_backlog=SMALL)
        frames = [await peer.receive() for _ in range(6)]
        assert [frame.data[:1] for frame in frames if frame] == [b"x", b"a", b"b", b"c", b"", b"d"]


async def send_in_parts(ws: WebSocket, *parts: str) -> None:
    async with ws.send_stream(text=True) as out:
        for part in parts:
            await out.send(part)


async def test_the_newest_is_dropped_with_the_connection(autojump_clock: MockClock) -> None:
    async with clogged() as (slow, peer):
        broadcast([slow], "a" + HALF, when_full="newest", max_backlog=SMALL)
        await slow.send_close()
        assert connection_of(slow).outbox.size < len(HALF) + 1000
        assert [frame.opcode for frame in await peer.behave()] == [Opcode.TEXT, Opcode.CLOSE]
        with pytest.raises(ConnectionClosedOK):
            await slow.receive()


# -- Messages in parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_full", ["drop", "skip", "newest"])
async def test_a_message_in_parts_is_not_torn(when_full: WhenFull) -> None:
    async with opened(Role.SERVER) as (ws, peer):
        async with ws.send_stream(text=True) as out:
            await out.send("a")
            for message in "123":
                assert broadcast([ws], message, when_full=when_full) == []
            await out.send("b")
        await ws.send("4")
        frames = [await peer.receive() for _ in range(7)]
        assert [(frame.data, frame.fin) for frame in frames if frame] == [
            *((b"a", False), (b"b", False), (b"", True)),
            *((b"1", True), (b"2", True), (b"3", True), (b"4", True)),
        ]


async def test_messages_that_wait_for_the_end_of_the_parts_are_bounded() -> None:
    async with opened(Role.SERVER, pipe_pair(10), send_buffer=100_000) as (ws, peer):
        async with ws.send_stream(text=True) as out:
            await out.send("a")
            post = partial(broadcast, [ws], max_backlog=100_000)
            assert [post(letter + HALF, when_full="skip") for letter in "123"] == [[], [], [ws]]
            # The parts have room of their own.
            await out.send("b" + HALF)
            assert [post(letter + HALF, when_full="newest") for letter in "45"] == [[ws], [ws]]
            read = [await peer.receive() for _ in range(2)]
        read += [await peer.receive() for _ in range(4)]
        assert [frame.data[:1] for frame in read if frame] == [b"a", b"b", b"", b"1", b"2", b"5"]
        await settle()
        assert connection_of(ws).outbox.size == 0


async def test_one_message_of_any_size_waits_for_the_end_of_the_parts() -> None:
    async with opened(Role.SERVER, send_buffer=10) as (ws, peer):
        async with ws.send_stream() as out:
            assert broadcast([ws], "1" + HALF, when_full="skip", max_backlog=10) == []
            assert broadcast([ws], "2", when_full="skip", max_backlog=10) == [ws]
            await out.send(b"a")
        assert [frame.data[:1] for _ in range(3) if (frame := await peer.receive())] == [b"a", b"", b"1"]


async def test_an_unfinished_message_discards_the_messages_behind_it(autojump_clock: MockClock) -> None:
    async with opened(Role.SERVER) as (ws, peer):
        with pytest.raises(ZeroDivisionError):
            async with ws.send_stream() as out:
                await out.send(b"a")
                broadcast([ws], "lost")
                raise ZeroDivisionError
        assert [frame.opcode for frame in await peer.behave()] == [Opcode.BINARY, Opcode.CLOSE]


# -- Compression -----------------------------------------------------------------------------------------------------


def deflate(offer: tuple[tuple[str, str | None], ...] = (), **settings: Any) -> PerMessageDeflate:
    """Return what a server uses that gets this offer."""
    answer = DeflateServer(Deflate(**settings)).answer(offer)
    assert answer is not None
    assert isinstance(answer[1], PerMessageDeflate)
    return answer[1]


@pytest.fixture
def compressors(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list of the compressors that are created."""
    made = []
    make: Callable[..., object] = PerMessageDeflate._new_compressor

    def count(*args: Any) -> object:
        made.append(make(*args))
        return made[-1]

    monkeypatch.setattr(PerMessageDeflate, "_new_compressor", count)
    return made


async def test_a_message_is_compressed_once(compressors: list[object]) -> None:
    message = "compress me " * 100
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pairs = [await enter(opened(Role.SERVER, extensions=[deflate()])) for _ in range(5)]
        pairs += [await enter(opened(Role.SERVER, extensions=[deflate((("server_max_window_bits", "9"),))]))]
        pairs += [await enter(opened(Role.SERVER))]
        ends = [ws for ws, _ in pairs]
        broadcast(ends, message)
        first = [await peer.stream.receive_some() for _, peer in pairs]
        assert len(compressors) == 2
        assert [wire[0] for wire in first] == [0xC1] * 6 + [0x81]
        assert first[:5] == first[:1] * 5
        # Sending to one connection only must not change that.
        await ends[0].send(message)
        assert len(await pairs[0][1].stream.receive_some()) < len(first[0])
        broadcast(ends, message)
        assert [await peer.stream.receive_some() for _, peer in pairs] == first
        assert len(compressors) == 5
        broadcast(ends, message, compress=False)
        assert [await peer.receive() for _, peer in pairs] == [text(message)] * 7


async def test_large_messages_are_compressed_in_threads(
    compressors: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    run_sync = trio.to_thread.run_sync

    async def count(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        threads.append(function.__name__)
        return await run_sync(function, *args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", count)
    message = b"large" * 100_000
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

        async def handle(ws: WebSocket) -> None:
            assert broadcast([ws], message) == []
            await ws.receive()

        serve = partial(trio_ws.serve, handle, listeners=[listener], max_message_size=None)
        server = await nursery.start(serve)
        for _ in range(3):
            uri = f"ws://127.0.0.1:{server.port}/"
            ws = await stack.enter_async_context(trio_ws.connect(uri, max_message_size=None))
            assert await ws.receive() == message
        await stack.aclose()
        nursery.cancel_scope.cancel()
    assert threads.count("_try_to_encode") == 3


# -- A server --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_limits")
async def test_one_client_that_does_not_read_among_many(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_ws.server")
    ended: dict[str, BaseException] = {}

    async def handle(ws: WebSocket) -> None:
        try:
            await ws.receive()
        except trio_ws.ConnectionClosed as exc:
            ended[ws.request.path] = exc

    messages = [f"{number} " + "x" * 50_000 for number in range(200)]
    async with trio.open_nursery() as nursery:
        serve = partial(trio_ws.serve, handle, 0, host="127.0.0.1", compression=None, close_timeout=0.1)
        server = await nursery.start(serve)
        uri = f"ws://127.0.0.1:{server.port}"
        async with trio_ws.connect(f"{uri}/stuck", receive_buffer=1, compression=None):
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(trio_ws.connect(f"{uri}/{i}")) for i in range(10)]
                full = []
                for message in messages:
                    full += broadcast(server.connections, message)
                    # The other clients get each message in time, whatever happens to the stuck one.
                    for ws in clients:
                        assert await ws.receive() == message
                assert [ws.request.path for ws in full] == ["/stuck"]
                while len(server.connections) > 10:
                    await trio.lowlevel.checkpoint()
            with trio.fail_after(HANGS):
                await server.aclose()
    assert len(ended) == 11
    assert [path for path, exc in ended.items() if not isinstance(exc, ConnectionClosedOK)] == ["/stuck"]
    assert isinstance(ended["/stuck"].__cause__, trio.TooSlowError)
