"""Tests of the stream adapter: a single exception for all failures, poisoning, and closing."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from trio_ws.connection.stream import RECEIVE_SIZE, StreamAdapter, StreamBroken

from ..support import PAIRS, Faulty, lockstep_pair, memory_pair, pipe_pair, tls_pair

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

LARGE = 64 * 1024


class Recorder(trio.abc.Stream):
    """A stream that records each write."""

    def __init__(self) -> None:
        self.writes: list[bytes | bytearray | memoryview] = []
        self.asked: list[int | None] = []
        self.closed = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.writes.append(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await trio.lowlevel.checkpoint()
        self.asked.append(max_bytes)
        return bytearray(b"data")

    async def aclose(self) -> None:
        self.closed += 1
        await trio.lowlevel.checkpoint()


# -- Receiving -------------------------------------------------------------------------------------------------------


async def test_receive() -> None:
    stream = Recorder()
    data = await StreamAdapter(stream).receive()
    assert (type(data), data) == (bytes, b"data")
    assert stream.asked == [RECEIVE_SIZE]


@pytest.mark.parametrize("kind", PAIRS)
async def test_both_ways_until_the_end(kind: str, nursery: trio.Nursery) -> None:
    ours, theirs = map(StreamAdapter, PAIRS[kind]())

    async def say(transport: StreamAdapter, *chunks: bytes) -> None:
        for chunk in chunks:
            await transport.write([chunk, b"", chunk])
        await transport.aclose(1)

    async def listen(transport: StreamAdapter) -> bytes:
        received = b""
        while data := await transport.receive():
            received += data
        return received

    nursery.start_soon(say, theirs, b"abc", b"de")
    assert await listen(ours) == b"abcabcdede"
    await ours.aclose(1)


async def test_cancelled_receive_loses_nothing() -> None:
    ours, theirs = pipe_pair()
    transport = StreamAdapter(ours)
    for data in (b"1", b"2"):
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.receive()
        await theirs.send_all(data)
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.receive()
        assert scope.cancelled_caught
    assert await transport.receive() == b"12"


# -- Errors ----------------------------------------------------------------------------------------------------------

ERRORS = [
    trio.BrokenResourceError("broken"),
    trio.ClosedResourceError(),
    trio.BusyResourceError("busy"),
    OSError(5, "EIO"),
    ValueError("by a stream of anybody's making"),
    ExceptionGroup("several", [OSError(), KeyError()]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_errors_become_one(error: Exception) -> None:
    stream = Faulty(memory_pair()[0], send_error=error, receive_error=error)
    transport = StreamAdapter(stream)
    with pytest.raises(StreamBroken) as raised:
        await transport.receive()
    assert raised.value.__cause__ is error
    assert str(raised.value)
    with pytest.raises(StreamBroken) as raised:
        await transport.write([b"a"])
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=["KeyboardInterrupt", "SystemExit"])
async def test_base_exceptions_propagate(error: BaseException) -> None:
    transport = StreamAdapter(Faulty(memory_pair()[0], send_error=error, receive_error=error))
    with pytest.raises(type(error)) as raised:
        await transport.receive()
    assert raised.value is error
    with pytest.raises(type(error)):
        await transport.write([b"a"])
    assert transport.poisoned


# -- Sending ---------------------------------------------------------------------------------------------------------


async def test_what_is_small_goes_out_in_one_write() -> None:
    stream = Recorder()
    await StreamAdapter(stream).write([b"ab", b"", b"c" * 1000, b"d"])
    assert stream.writes == [b"ab" + b"c" * 1000 + b"d"]


async def test_what_is_large_is_not_copied() -> None:
    stream = Recorder()
    large = [b"x" * LARGE, b"y" * (LARGE + 1)]
    await StreamAdapter(stream).write([b"a", b"b", large[0], b"c", large[1], b"d", b"e"])
    assert stream.writes == [b"ab", large[0], b"c", b"y" * LARGE, b"y", b"de"]
    assert stream.writes[1] is large[0]
    # Each piece is progress.
    for piece in stream.writes[3:5]:
        assert isinstance(piece, memoryview)
        assert piece.obj is large[1]


async def test_large_ones_next_to_each_other_and_at_the_ends() -> None:
    stream = Recorder()
    large = b"x" * LARGE
    await StreamAdapter(stream).write([large, large])
    await StreamAdapter(stream).write([b"y" * (LARGE - 1), b"z"])
    assert stream.writes == [large, large, b"y" * (LARGE - 1) + b"z"]


async def test_much_that_is_small_goes_out_in_batches() -> None:
    stream = Recorder()
    chunks = [i.to_bytes(2, "big") * 500 for i in range(200)]
    waiting = [*chunks]
    await StreamAdapter(stream).write(waiting)
    assert b"".join(stream.writes) == b"".join(chunks)
    assert [len(data) for data in stream.writes] == [65_000, 65_000, 65_000, 5_000]
    assert waiting == []


async def test_what_has_been_written_is_not_kept() -> None:
    class Watching(Recorder):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await super().send_all(data)
            left.append(sum(map(len, chunks)))

    left: list[int] = []
    chunks = [bytes(1000)] * 100 + [bytes(LARGE)] * 2
    await StreamAdapter(Watching()).write(chunks)
    assert left == [2 * LARGE + 35_000, 2 * LARGE, LARGE, 0]


# -- Sockets, without waiting ----------------------------------------------------------------------------------------

unix_only = pytest.mark.skipif(not hasattr(os, "writev"), reason="elsewhere a socket is a stream like any other")


def socket_transports() -> tuple[StreamAdapter, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    return StreamAdapter(trio.SocketStream(ours)), trio.SocketStream(theirs)


async def wait_readable(transport: StreamAdapter) -> None:
    while not transport.has_unread():
        await trio.lowlevel.checkpoint()


@unix_only
async def test_receive_now() -> None:
    transport, theirs = socket_transports()
    assert transport.is_socket
    assert transport.receive_now(10) is None
    await theirs.send_all(b"abcdef")
    await wait_readable(transport)
    for expected in (b"abcd", b"ef", None):
        view = transport.receive_now(4)
        assert (None if view is None else bytes(view)) == expected
    await theirs.aclose()
    assert not transport.receive_now(4)
    assert transport.receive_now(4) is not None
    assert await transport.receive() == b""
    await transport.aclose(1)


@unix_only
async def test_what_is_received_may_be_good_for_a_moment_only() -> None:
    (one, their_one), (two, their_two) = socket_transports(), socket_transports()
    await their_one.send_all(b"one")
    await their_two.send_all(b"two")
    view = await one.receive_view(10)
    kept = bytes(view)
    copy = await two.receive()
    assert (kept, copy, type(copy)) == (b"one", b"two", bytes)
    for each in (one, two):
        await each.aclose(1)
    await their_one.aclose()
    await their_two.aclose()


@unix_only
async def test_a_lost_socket_is_lost_for_good() -> None:
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    ours = await trio.open_tcp_stream(*listener.getsockname())
    theirs, _ = await listener.accept()
    with listener:
        transport = StreamAdapter(ours)
        # A reset, which the system reports only once.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        await wait_readable(transport)
        for receive in (partial(transport.receive_now, 10), partial(transport.receive_now, 10)):
            with pytest.raises(StreamBroken) as raised:
                receive()
            assert isinstance(raised.value.__cause__, trio.BrokenResourceError)
            assert isinstance(raised.value.__cause__.__cause__, ConnectionResetError)
        with pytest.raises(StreamBroken):
            await transport.receive()
        await transport.aclose(1)
        # A socket that somebody else has closed.
        with pytest.raises(StreamBroken) as raised:
            await transport.receive_view(10)
        assert isinstance(raised.value.__cause__, trio.ClosedResourceError)


@unix_only
async def test_write_now() -> None:
    transport, theirs = socket_transports()
    assert transport.can_write_now()
    chunks = [b"ab", b"", b"cd"] * 20
    expected = b"".join(chunks) + b"ef"
    # This many chunks are written by one call.
    assert not transport.write_now(chunks)
    assert not transport.can_write_now()
    await transport.write([])
    assert transport.can_write_now()
    assert transport.write_now([b"ef"])
    assert transport.can_write_now()
    assert transport.bytes_written == len(expected)
    received = b""
    while len(received) < len(expected):
        received += await theirs.receive_some()
    assert received == expected
    await transport.aclose(1)
    await theirs.aclose()


@unix_only
async def test_what_the_system_does_not_take_goes_first(nursery: trio.Nursery) -> None:
    transport, theirs = socket_transports()
    large = [bytes([i]) * 1_000_000 for i in range(3)]
    expected = b"head" + b"".join(large) + b"tail"
    assert not transport.write_now([b"head", *large])
    assert not transport.can_write_now()
    # Some bytes are not written yet, so the direction cannot be closed.
    assert not await transport.send_eof()
    nursery.start_soon(transport.write, [b"tail"])
    received = bytearray()
    while len(received) < len(expected):
        received += await theirs.receive_some()
    assert received == expected
    await wait_all_tasks_blocked()
    assert transport.can_write_now()
    await transport.aclose(1)
    await theirs.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how many bytes are undelivered")
async def test_undelivered_are_the_bytes_of_the_stream_and_those_of_the_system() -> None:
    transport, theirs = socket_transports()
    size = 3_000_000
    assert not transport.write_now([bytes(size)])
    unwritten = size - transport.bytes_written
    undelivered, unsent = transport.count_undelivered()
    assert undelivered > unwritten > 0
    assert unwritten <= unsent <= undelivered
    await transport.aclose(1)
    await theirs.aclose()


@unix_only
async def test_what_cannot_be_written_comes_out_of_the_next_send() -> None:
    transport, theirs = socket_transports()
    await theirs.aclose()
    assert not transport.write_now([b"a"])
    with pytest.raises(StreamBroken):
        await transport.write([])
    assert transport.poisoned
    assert not transport.can_write_now()
    await transport.aclose(1)


# -- Poisoned --------------------------------------------------------------------------------------------------------


async def test_a_failed_write_poisons() -> None:
    ours, theirs = memory_pair()
    stream = Faulty(ours, send_error=OSError(5, "EIO"), sent_before=2)
    transport = StreamAdapter(stream)
    assert not transport.poisoned
    with pytest.raises(StreamBroken):
        await transport.write([b"abcd"])
    assert transport.poisoned
    stream.send_error = None
    with pytest.raises(StreamBroken) as raised:
        await transport.write([b"efgh"])
    assert raised.value.__cause__ is None
    assert not await transport.send_eof()
    await transport.aclose(1)
    assert await theirs.receive_some() == b"ab"
    assert await theirs.receive_some() == b""


@pytest.mark.parametrize("large", [False, True])
async def test_a_cancelled_write_poisons(large: bool) -> None:
    ours, theirs = pipe_pair(10)
    transport = StreamAdapter(ours)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.write, [b"header", b"x" * (LARGE if large else 100)])
            await trio.testing.wait_all_tasks_blocked()
            assert transport.poisoned
            scope.cancel()
    assert scope.cancelled_caught
    with pytest.raises(StreamBroken):
        await transport.write([b"more"])
    assert await theirs.receive_some() == b"headerxxxx"


async def test_a_write_cancelled_at_once_poisons_too() -> None:
    # Nobody knows how many bytes the stream has sent.
    transport = StreamAdapter(memory_pair()[0])
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.write([b"a"])
    assert transport.poisoned


async def test_reading_goes_on_when_writing_is_poisoned() -> None:
    ours, theirs = memory_pair()
    transport = StreamAdapter(Faulty(ours, send_error=OSError(5, "EIO")))
    with pytest.raises(StreamBroken):
        await transport.write([b"a"])
    await theirs.send_all(b"why")
    assert await transport.receive() == b"why"


# -- Half-close ------------------------------------------------------------------------------------------------------


async def test_send_eof() -> None:
    ours, theirs = memory_pair()
    transport = StreamAdapter(ours)
    await transport.write([b"a"])
    assert await transport.send_eof()
    assert await theirs.receive_some() == b"a"
    assert await theirs.receive_some() == b""
    await theirs.send_all(b"b")
    assert await transport.receive() == b"b"
    with pytest.raises(StreamBroken):
        await transport.write([b"more"])
    assert not await transport.send_eof()


async def test_send_eof_with_a_stream_that_cannot() -> None:
    transport = StreamAdapter(Recorder())
    assert not await transport.send_eof()
    # Nothing was tried, so the stream can still be written to.
    await transport.write([b"a"])
    assert not transport.poisoned


async def test_tls_cannot_be_closed_by_half(nursery: trio.Nursery) -> None:
    ours, theirs = tls_pair()
    nursery.start_soon(theirs.receive_some, 1)
    transport = StreamAdapter(ours)
    assert not await transport.send_eof()
    await transport.write([b"a"])
    assert not transport.poisoned


class FailingEof(Recorder, trio.abc.HalfCloseableStream):
    async def send_eof(self) -> None:
        raise OSError(107, "ENOTCONN")


async def test_send_eof_that_fails() -> None:
    transport = StreamAdapter(FailingEof())
    assert not await transport.send_eof()
    assert transport.poisoned


async def test_send_eof_that_is_cancelled() -> None:
    transport = StreamAdapter(memory_pair()[0])
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.send_eof()
    assert transport.poisoned


# -- Closing ---------------------------------------------------------------------------------------------------------


async def test_aclose() -> None:
    stream = Recorder()
    await StreamAdapter(stream).aclose(1)
    assert stream.closed == 1


async def test_aclose_is_not_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    transport = StreamAdapter(Faulty(ours, closing=trio.Event()))
    start = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.aclose(0)
        assert trio.current_time() == start
    assert not scope.cancelled_caught
    assert await theirs.receive_some() == b""


async def test_aclose_that_does_not_end(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = memory_pair()
    transport = StreamAdapter(Faulty(ours, closing=trio.Event()))
    start = trio.current_time()
    await transport.aclose(0.25)
    assert trio.current_time() - start == 0.25
    assert await theirs.receive_some() == b""


async def test_aclose_in_time(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    # The peer has this long to accept the closing handshake of TLS.
    ours, theirs = lockstep_pair()
    closing = trio.Event()
    transport = StreamAdapter(Faulty(ours, closing=closing))
    nursery.start_soon(transport.aclose, 0.25)
    await trio.sleep(0.2)
    closing.set()
    assert await theirs.receive_some() == b""
    assert trio.current_time() < 0.25


async def test_aclose_that_raises() -> None:
    ours, theirs = memory_pair()
    await StreamAdapter(Faulty(ours, close_error=OSError(5, "EIO"))).aclose(1)
    assert await theirs.receive_some() == b""


class Stubborn(Recorder):
    """A stream that raises on the first attempt to close it, and stays open."""

    async def aclose(self) -> None:
        await super().aclose()
        if self.closed == 1:
            raise RuntimeError("not now")


async def test_aclose_that_closes_on_the_second_attempt() -> None:
    stream = Stubborn()
    await StreamAdapter(stream).aclose(1)
    assert stream.closed == 2


# -- Addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PAIRS)
async def test_no_addresses_without_sockets(kind: str) -> None:
    transport = StreamAdapter(PAIRS[kind]()[0])
    assert transport.local_address is None
    assert transport.remote_address is None


async def test_addresses_of_sockets() -> None:
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    address = listener.getsockname()
    ours = await trio.open_tcp_stream(*address)
    theirs = trio.SocketStream((await listener.accept())[0])
    with listener:
        transport = StreamAdapter(ours)
        assert transport.remote_address == address
        assert transport.local_address == StreamAdapter(theirs).remote_address
        await transport.aclose(1)
        await theirs.aclose()
        assert StreamAdapter(ours).remote_address is None


async def test_addresses_below_tls() -> None:
    left, right = trio.socket.socketpair()
    context = ssl.create_default_context()
    with left, right:
        below = trio.SocketStream(left)
        stream = trio.SSLStream(trio.SSLStream(below, context, server_hostname="a"), context, server_hostname="a")
        assert StreamAdapter(stream).local_address == left.getsockname()
