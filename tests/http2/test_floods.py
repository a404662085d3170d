"""Peers that misuse HTTP/2 are stopped, and others do not notice."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import hpack
import pytest
import trio
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from h2.stream import H2Stream

from trio_ws import HTTP2Pool, Limits, Opening, Request, ServerWebSocket
from trio_ws.exceptions import ConnectFailed
from trio_ws.http2.connection import MAX_BACKLOG
from trio_ws.http2.floods import (
    MAX_CONTINUATIONS,
    MAX_PINGS,
    MAX_RESETS,
    MAX_SETTINGS,
    MAX_USELESS,
    PERIOD,
    Flood,
    FloodGuard,
)
from trio_ws.http2.protocol import HTTP2Protocol
from trio_ws.http2.settings import H2
from trio_ws.http2.stream import HTTP2Stream

from ..server.clients import MemoryListener
from .peers import (
    CANCEL,
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawPeer,
    frame,
    masked,
    raw_client,
    serving,
    settings,
)
from .test_pool import connect, raw_servers


async def expect_calm(peer: RawPeer, data: Iterable[bytes], code: int = ENHANCE_YOUR_CALM) -> None:
    """Send bytes, and expect that the connection ends with an error code."""
    try:
        for portion in data:
            await peer.send(portion)
    except trio.BrokenResourceError:
        pass  # the server has closed the connection already
    frames = await peer.receive_all()
    assert [each.code for each in frames if each.kind == GOAWAY] == [code]


def resets(peer: RawPeer, count: int) -> Iterable[bytes]:
    """Yield requests that are reset at once."""
    for stream in range(1, 2 * count, 2):
        yield peer.headers(stream, CONNECT) + frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))


async def test_rapid_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await expect_calm(peer, resets(peer, MAX_RESETS))
        assert trio.current_time() < 5


async def test_fewer_resets_are_no_flood(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(limits=Limits(streams=10_000)) as peer:
        portions = list(resets(peer, MAX_RESETS - 1))
        await peer.send(b"".join(portions))
        assert (await peer.open(2 * MAX_RESETS + 1)).headers[":status"] == "200"


async def test_slow_resets_are_no_flood(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(ping_interval=None) as peer:
        await peer.open(1)
        for number, portion in enumerate(resets(peer, 2 * MAX_RESETS)):
            if number:  # the first stream is in use
                await peer.send(portion)
                await trio.sleep(1.01 * PERIOD / MAX_RESETS)
        await peer.send(frame(DATA, 0, 1, masked(b"x")))
        await peer.receive(lambda each: each.kind == DATA and each.payload == b"\x81\x01x")


async def test_a_stream_that_is_reset_several_times_counts_once(autojump_clock: trio.testing.MockClock) -> None:
    """Some peers reset a stream again for each frame that they receive late."""
    async with raw_client(limits=Limits(streams=10_000)) as peer:
        for stream in range(1, 2 * 400, 2):
            reset = frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
            await peer.send(peer.headers(stream, CONNECT) + 3 * reset)
        assert (await peer.open(2 * MAX_RESETS + 1)).headers[":status"] == "200"


async def test_resets_of_closed_streams(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open()
        reset = frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big"))
        await expect_calm(peer, [reset] * (MAX_USELESS + 1))


async def test_headers_for_a_stream_that_was_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open(1)
        await peer.send(frame(WINDOW_UPDATE, 0, 1, bytes(4)))
        await peer.receive_kind(RST_STREAM, 1)
        await expect_calm(peer, (peer.headers(1, [("x", "y")], end=True) for _ in range(MAX_USELESS)))
        assert len([each for each in peer.frames if each.kind == RST_STREAM]) == 1


async def test_others_go_on_during_a_rapid_reset(autojump_clock: trio.testing.MockClock) -> None:
    """Between two steps of one connection, the others run: no more than 16 frames are processed at once."""
    async with serving() as (listener, _):
        other = RawPeer(listener.connect())
        await other.start()
        await other.open()
        attacker = RawPeer(listener.connect())
        await attacker.start()
        await attacker.send(b"".join(resets(attacker, MAX_RESETS - 1)))
        steps = 0

        class Count(trio.abc.Instrument):
            def before_task_step(self, task: trio.lowlevel.Task) -> None:
                nonlocal steps
                steps += task.name.endswith("HTTP2Connection.run")

        trio.lowlevel.add_instrument(Count())
        await other.send(frame(DATA, 0, 1, masked(b"x")))
        await other.receive_kind(DATA, 1)
        # The attacker has sent 1,998 frames.
        assert steps < 40
        await expect_calm(attacker, resets_from(attacker, 2 * MAX_RESETS))


def made_to_reset(peer: RawPeer, count: int, by: str) -> Iterable[bytes]:
    """Yield requests, each with a frame that makes the server reset the stream."""
    for stream in range(1, 2 * count, 2):
        if by == "a window that is too large":
            yield peer.headers(stream, CONNECT) + frame(WINDOW_UPDATE, 0, stream, (2**31 - 1).to_bytes(4, "big"))
        else:
            yield peer.headers(stream, GET, end=True) + frame(DATA, 0, stream, b"x")


@pytest.mark.parametrize("by", ["a window that is too large", "data after the end"])
async def test_streams_that_a_client_makes_the_server_reset(by: str, autojump_clock: trio.testing.MockClock) -> None:
    """They cost as much as those that the client resets (CVE-2025-8671)."""

    async def wait(opening: Opening, request: Request) -> None:
        await trio.sleep_forever()

    async with raw_client(process_request=wait, limits=Limits(streams=10_000)) as peer:
        await expect_calm(peer, made_to_reset(peer, MAX_RESETS, by))
        assert len([each for each in peer.frames if each.kind == RST_STREAM]) >= MAX_RESETS - 1
    async with raw_client(limits=Limits(streams=10_000)) as peer:
        await peer.send(b"".join(made_to_reset(peer, MAX_RESETS - 1, by)))
        assert (await peer.open(2 * MAX_RESETS + 1)).headers[":status"] == "200"


async def test_late_data_on_a_stream_that_was_reset_is_no_flood(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(limits=Limits(streams=1)) as peer:
        await peer.open(1)
        await peer.send(peer.headers(3, CONNECT) + 2 * MAX_RESETS * frame(DATA, 0, 3, b"x"))
        await peer.send(frame(DATA, 0, 1, masked(b"x")))
        await peer.receive(lambda each: each.kind == DATA and each.payload == b"\x81\x01x")


def resets_from(peer: RawPeer, stream: int) -> Iterable[bytes]:
    yield peer.headers(stream + 1, CONNECT) + frame(RST_STREAM, 0, stream + 1, CANCEL.to_bytes(4, "big"))


async def test_requests_beyond_the_limit_of_streams(autojump_clock: trio.testing.MockClock) -> None:
    running = most = 0

    async def wait(opening: Opening, request: Request) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await trio.sleep_forever()
        finally:
            running -= 1

    async with raw_client(process_request=wait, limits=Limits(streams=10)) as peer:
        await expect_calm(peer, (peer.headers(stream, CONNECT) for stream in range(1, 2 * MAX_RESETS + 40, 2)))
        assert most == 10
    assert running == 0


async def test_a_ping_flood(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.send(frame(PING, 0, 0, b"12345678"))
        answer = await peer.receive_kind(PING)
        assert (answer.flags, answer.payload) == (1, b"12345678")
        await expect_calm(peer, (frame(PING, 0, 0, bytes(8)) for _ in range(MAX_PINGS)))


async def test_a_settings_flood(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await expect_calm(peer, (settings(INITIAL_WINDOW_SIZE=1000) for _ in range(MAX_SETTINGS)))


@pytest.mark.parametrize(
    "useless",
    [
        frame(PRIORITY, 0, 1, bytes(4) + b"\x10"),
        frame(0xF0, 0, 1, b"unknown"),
        frame(DATA, 0, 1),
        frame(DATA, PADDED, 1, bytes([9, *bytes(9)])),
        frame(PING, 1, 0, bytes(8)),
        frame(SETTINGS, 1),
        frame(GOAWAY, 0, 0, bytes(8)),
    ],
    ids=["priority", "unknown", "empty data", "padding", "answers to no pings", "acknowledged settings", "farewells"],
)
async def test_floods_of_useless_frames(useless: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open()
        await expect_calm(peer, (useless for _ in range(MAX_USELESS + 1)))


async def test_a_flood_of_interim_responses(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        stream = (await peer.receive_kind(HEADERS)).stream
        interim = peer.headers(stream, [(":status", "103")])
        await expect_calm(peer, [interim] * MAX_USELESS)

    async with raw_servers(monkeypatch, serve), HTTP2Pool() as pool:
        with pytest.raises(ConnectFailed, match=f"{MAX_USELESS} frames without any use within 10 seconds"):
            async with connect(pool=pool):
                pass


async def test_a_continuation_flood(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        first = peer.headers(1, CONNECT, flags=0)
        await expect_calm(peer, [first, *[frame(CONTINUATION, 0, 1)] * (MAX_CONTINUATIONS + 1)])


async def test_continuations_that_are_large(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        first = peer.headers(1, CONNECT, flags=0)
        await expect_calm(peer, [first, *[frame(CONTINUATION, 0, 1, bytes(16_000))] * 10])


async def test_a_header_block_in_several_frames(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        block = peer.encode([*CONNECT, ("x", "y" * 20_000)])
        parts = [block[:1], block[1:1000], block[1000:]]
        await peer.send(frame(HEADERS, 0, 1, parts[0]) + frame(CONTINUATION, 0, 1, parts[1]))
        await peer.send(frame(CONTINUATION, END_HEADERS, 1, parts[2]))
        assert (await peer.receive_kind(HEADERS)).headers[":status"] == "200"


async def test_a_frame_inside_of_a_header_block(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await expect_calm(peer, [peer.headers(1, CONNECT, flags=0), frame(PING, 0, 0, bytes(8))], PROTOCOL_ERROR)


async def test_headers_that_grow_when_they_are_decoded(autojump_clock: trio.testing.MockClock) -> None:
    """A small block can name a large header of the table many times (CVE-2016-6581)."""
    async with raw_client() as peer:
        # The first one adds a header of 4,000 bytes to the table, which one byte of the second one refers to.
        await peer.open(1, [*CONNECT, ("x", "y" * 4_000)])
        block = peer.encode([*CONNECT, *[("x", "y" * 4_000)] * 100])
        assert len(block) < 5_000
        await expect_calm(peer, [frame(HEADERS, END_HEADERS, 3, block)])


async def test_answers_that_nobody_reads(autojump_clock: trio.testing.MockClock) -> None:
    """The output is bounded, however slowly the peer makes this end answer."""
    server_streams: list[trio.abc.Stream] = []

    def keep(stream: trio.abc.Stream) -> trio.abc.Stream:
        server_streams.append(stream)
        return stream

    async with serving(ping_interval=None, listener=MemoryListener(keep)) as (listener, _):
        stream = listener.connect()
        peer = RawPeer(stream)
        await peer.start()
        await peer.open()
        blocked = trio.Event()
        # From now on, the server's writes wait.
        server_side: Any = server_streams[0]
        server_side.send_stream.send_all_hook = blocked.wait
        count = MAX_BACKLOG // 17 + MAX_PINGS
        for number in range(count):
            try:
                await stream.send_all(frame(PING, 0, 0, bytes(8)))
            except trio.BrokenResourceError:
                break
            if number % 500 == 0:
                await trio.sleep(PERIOD)
        else:
            pytest.fail("the server has not dropped the connection")


@pytest.mark.parametrize(
    "data, code",
    [
        (frame(DATA, 0, 5, b"x"), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(4)), 6),
        (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, b"x"), 6),
        (frame(PING, 0, 0, b"x"), 6),
        (frame(HEADERS, END_HEADERS, 2, b"\x82"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), 9),
        (b"\xff\xff\xff" + frame(DATA, 0, 1)[3:], 6),
    ],
    ids=ascii,
)
async def test_violations(data: bytes, code: int, autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.send(data)
        frames = await peer.receive_all()
        codes = [each.code for each in frames if each.kind == GOAWAY]
        assert codes in ([code], [PROTOCOL_ERROR])


def test_the_guard_forgets_after_the_period() -> None:
    now = 0.0
    guard = FloodGuard(lambda: now)
    for _ in range(MAX_SETTINGS - 1):
        guard.count_settings()
    now = PERIOD + 1
    for _ in range(MAX_SETTINGS - 1):
        guard.count_settings()
    with pytest.raises(Flood) as caught:
        guard.count_settings()
    assert str(caught.value) == "100 SETTINGS frames within 10 seconds"


@pytest.mark.parametrize(
    "violation", [frame(PING, 0, 0, b"x"), frame(DATA, PADDED, 1, b"\x09"), frame(PING, 0, 0, bytes(8)) * MAX_PINGS]
)
async def test_what_came_before_a_violation_is_received(
    violation: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    messages: list[str | bytes] = []

    async def handler(ws: ServerWebSocket) -> None:
        async for message in ws:
            messages.append(message)

    async with raw_client(handler) as peer:
        await peer.open()
        await expect_end(peer, frame(DATA, 0, 1, masked(b"first")) + frame(DATA, 0, 1, masked(b"last")) + violation)
        await trio.testing.wait_all_tasks_blocked()
        assert messages == ["first", "last"]


async def expect_end(peer: RawPeer, data: bytes) -> None:
    """Send bytes, and expect that the connection ends with GOAWAY."""
    await peer.send(data)
    frames = await peer.receive_all()
    assert len([each for each in frames if each.kind == GOAWAY]) == 1


def test_memory_does_not_grow_with_the_number_of_streams() -> None:
    protocol = HTTP2Protocol(is_client=False, max_streams=10, window=2**17, max_header_list=1000, clock=lambda: 0.0)
    encoder = hpack.Encoder()
    protocol.feed(PREFACE + settings())
    protocol.step()

    def serve(streams: range) -> None:
        for stream in streams:
            protocol.feed(frame(HEADERS, END_HEADERS | END_STREAM, stream, encoder.encode(GET)))
            protocol.step()
            protocol.h2.send_headers(stream, [(b":status", b"200")], end_stream=True)
            protocol.take_output()

    serve(range(1, 3_000, 2))
    tracemalloc.start()
    try:
        serve(range(3_001, 6_000, 2))
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 150_000, grown
    assert len(protocol.h2.streams) < 10


def test_small_pieces_take_little_memory() -> None:
    """The window counts bytes of data only."""
    protocol = HTTP2Protocol(is_client=False, max_streams=1, window=2**17, max_header_list=1000, clock=lambda: 0.0)
    protocol.feed(PREFACE + frame(SETTINGS))
    protocol.step()
    carrier: Any = SimpleNamespace(protocol=protocol, output=SimpleNamespace(flush=lambda: None))
    stream = HTTP2Stream(carrier, 1)
    tracemalloc.start()
    for number in range(30_000):
        stream.receive_data(bytes([number % 256, 0]))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2 * 60_000
    received = b""
    while stream.count_unread():
        received += stream.receive_now(7_000) or b""
    assert received == b"".join(bytes([number % 256, 0]) for number in range(30_000))


def test_an_empty_piece_is_not_the_end() -> None:
    stream = HTTP2Stream(SimpleNamespace(protocol=None), 1)
    stream.receive_data(b"")
    assert stream.receive_now(100) is None
    stream.end()
    assert stream.receive_now(100) == b""


def test_a_client_ignores_frames_of_forgotten_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have cancelled more requests than it remembers, and their responses are on their way."""
    monkeypatch.setattr("trio_ws.http2.protocol.MAX_CLOSED", 1)
    monkeypatch.setattr(H2, "MAX_CLOSED_STREAMS", 1)
    protocol = HTTP2Protocol(is_client=True, max_streams=100, window=2**17, max_header_list=1000, clock=lambda: 0.0)
    protocol.feed(frame(SETTINGS))
    protocol.step()
    for stream in range(1, 101, 2):
        protocol.h2.send_headers(stream, [(name.encode(), value.encode()) for name, value in CONNECT])
        protocol.reset_stream(stream, ErrorCodes.CANCEL)
    assert 1 not in protocol.h2.streams
    protocol.take_output()
    protocol.feed(frame(HEADERS, END_HEADERS, 1, b"\x88") + frame(DATA, END_STREAM, 1, bytes(2**16)))
    assert protocol.step() == []
    assert b"".join(protocol.take_output()) == frame(WINDOW_UPDATE, 0, 0, (2**16).to_bytes(4, "big"))


def test_the_table_of_compressed_headers_stays_small() -> None:
    """The peer may allow any size, but searching takes time in proportion to it."""
    protocol = HTTP2Protocol(is_client=False, max_streams=1, window=2**17, max_header_list=1000, clock=lambda: 0.0)
    protocol.feed(PREFACE + frame(SETTINGS, payload=b"\0\1\x7f\xff\xff\xff"))
    protocol.step()
    assert protocol.h2.encoder.header_table_size == 4096
    protocol.feed(frame(SETTINGS, payload=b"\0\1\0\0\0\x40"))
    protocol.step()
    assert protocol.h2.encoder.header_table_size == 64


def test_a_new_stream_does_not_look_at_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = HTTP2Protocol(is_client=False, max_streams=1_000, window=2**17, max_header_list=1000, clock=lambda: 0.0)
    looks = 0

    def is_open(stream: H2Stream) -> bool:
        nonlocal looks
        looks += 1
        return True

    monkeypatch.setattr(H2Stream, "open", property(is_open))
    encoder = hpack.Encoder()
    protocol.feed(PREFACE + settings())
    protocol.step()
    for stream in range(1, 2_000, 2):
        protocol.feed(frame(HEADERS, END_HEADERS, stream, encoder.encode(CONNECT)))
        protocol.step()
        protocol.h2.send_headers(stream, [(b":status", b"200")])
    assert len(protocol.h2.streams) == 1_000
    assert looks < 5_000


def test_several_requests_are_processed_before_others_run() -> None:
    """A task for each is not too much at once, and their responses are written together."""
    protocol = HTTP2Protocol(is_client=False, max_streams=100, window=2**17, max_header_list=1000, clock=lambda: 0.0)
    encoder = hpack.Encoder()
    requests = [frame(HEADERS, END_HEADERS, stream, encoder.encode(CONNECT)) for stream in range(1, 101, 2)]
    protocol.feed(PREFACE + settings() + b"".join(requests))
    counts = [0]
    while protocol.has_more:
        counts[-1] += sum(isinstance(event, RequestReceived) for event in protocol.step())
        if protocol.needs_pause:
            protocol.pause()
            counts.append(0)
    assert counts == [15, 16, 16, 3]
