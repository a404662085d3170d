"""The server, with a raw client: handshakes, plain requests, streams, closing."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import Any

import h2.events
import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import InvalidStatus, Limits, Opening, Request, Response
from trio_ws.connection.stream import StreamAdapter
from trio_ws.exceptions import ConnectionClosed
from trio_ws.http2.connection import WINDOW, HTTP2Connection

from ..server.clients import MemoryListener
from ..support import echo, memory_pair, pipe_pair, read_to_end
from .peers import (
    CANCEL,
    CONNECT,
    DATA,
    ENABLE_CONNECT,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawPeer,
    close_frame,
    frame,
    masked,
    raw_client,
    serving,
    settings,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
Pairs = Sequence[tuple[str, str]]


def change(headers: Pairs, **changes: str | None) -> list[tuple[str, str]]:
    """Return changed headers. None removes one; names have underscores, and ``_name`` is a pseudo-header."""
    new = {(":" + name[1:] if name[0] == "_" else name).replace("_", "-"): value for name, value in changes.items()}
    kept = [(name, value) for name, value in headers if name not in new]
    added = [(name, value) for name, value in new.items() if value is not None]
    return [each for each in added if each[0][0] == ":"] + kept + [each for each in added if each[0][0] != ":"]


async def test_a_websocket(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[Any] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seen.append((ws.http_version, ws.request.method, ws.opening.path, ws.opening.host, ws.response.status_code))
        await echo(ws)

    async with raw_client(handler) as peer:
        assert any(each.kind == SETTINGS and ENABLE_CONNECT.to_bytes(2, "big") in each.payload for each in peer.frames)
        response = await peer.open(1, change(CONNECT, _path="/chat?a=b"))
        assert response.headers[":status"] == "200"
        assert not response.ends
        assert not {"connection", "upgrade", "sec-websocket-accept", "date"} & set(response.headers)
        await peer.send(frame(DATA, 0, 1, masked(b"hello")))
        assert (await peer.receive_kind(DATA)).payload == b"\x81\x05hello"
        await peer.send(frame(DATA, 0, 1, close_frame()))
        assert (await peer.receive_kind(DATA)).payload == b"\x88\x02\x03\xe8"
        ends = await peer.receive(lambda each: each.stream == 1 and each.kind == DATA and each.ends)
        assert not ends.payload
        # The client has not ended its direction.
        assert (await peer.receive_kind(RST_STREAM, 1)).code == NO_ERROR
    assert seen == [("2", "CONNECT", "/chat", "example.org", 200)]


async def test_frames_that_arrive_together_with_the_request(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        one, two, three = (frame(DATA, 0, 1, masked(data)) for data in (b"one", b"two", b"three"))
        await peer.send(peer.headers(1, CONNECT) + one + two + peer.headers(3, CONNECT) + three[:-1])
        await peer.receive_kind(HEADERS, 3)
        await peer.send(three[-1:] + frame(DATA, END_STREAM, 1, close_frame()))
        await peer.receive(lambda each: each.stream == 1 and each.ends)
        data = b"".join(each.payload for each in peer.frames if each.kind == DATA and each.stream == 1)
        assert data == b"\x81\x03one\x81\x03two\x81\x05three\x88\x02\x03\xe8"


async def test_a_stream_that_both_ends_have_ended_is_not_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open()
        await peer.send(frame(DATA, END_STREAM, 1, close_frame()))
        await peer.receive(lambda each: each.stream == 1 and each.ends)
        await peer.open(3)
        assert not [each for each in peer.frames if each.kind == RST_STREAM]


async def test_many_websockets_on_one_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as (listener, server):
        peer = RawPeer(listener.connect())
        await peer.start()
        for stream in range(1, 201, 2):
            assert (await peer.open(stream)).headers[":status"] == "200"
        assert len(server.connections) == 100
        for stream in range(1, 201, 2):
            await peer.send(frame(DATA, 0, stream, masked(b"%d" % stream)))
        for stream in range(1, 201, 2):
            data = next((f for f in peer.frames if f.kind == DATA and f.stream == stream), None)
            data = data or await peer.receive_kind(DATA, stream)
            assert data.payload[2:] == b"%d" % stream


async def test_a_key_of_an_intermediary_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        response = await peer.open(1, change(CONNECT, sec_websocket_key=KEY))
        assert response.headers["sec-websocket-accept"] == ACCEPT


@pytest.mark.parametrize(
    "headers, status",
    [
        (change(CONNECT, sec_websocket_version=None), "400"),
        (change(CONNECT, sec_websocket_version="8"), "400"),
        (change(CONNECT, _protocol="connect-udp"), "501"),
        (change(CONNECT, _authority=None), "400"),
        (change(CONNECT, _authority="other.example"), "421"),
        (change(CONNECT, host="other.example"), "400"),
        (change(CONNECT, origin="https://evil.example"), "403"),
        (change(CONNECT, _path="https://example.org/"), "400"),
        (change(CONNECT, _path="nonsense"), "400"),
        (change(CONNECT, _path="*"), "400"),
        (change(CONNECT, _path="https://example.org/", _authority="other.example"), "400"),
        (change(CONNECT, sec_websocket_key="short"), "400"),
        (change(CONNECT, content_length="0"), "200"),
        ([(":method", "CONNECT"), (":authority", "example.org:443")], "405"),
        (GET, "400"),
        (change(GET, _method="HEAD"), "400"),
        (change(GET, _method="POST"), "405"),
        # Malformed (RFC 9113, section 8.1.1).
        (change(GET, connection="upgrade", upgrade="websocket"), "400"),
        (change(GET, transfer_encoding="chunked"), "400"),
        (change(GET, te="gzip"), "400"),
        (change(GET, _protocol="websocket"), "400"),
        (change(GET, _unknown="x"), "400"),
        (change(GET, _scheme=None), "400"),
        (change(GET, _path=""), "400"),
        (change(GET, _path="https://example.org/"), "400"),
        ([*GET, (":path", "/")], "400"),
        ([(":path", "/"), *GET], "400"),
        ([*GET, ("Upper", "case")], "400"),
        ([*GET, ("x", "a\x00b")], "400"),
        ([*GET, ("x", "y" * 40_000)], "431"),
        ([*GET, *[("x", "y")] * 129], "431"),
    ],
)
async def test_a_refused_request_ends_only_its_stream(
    headers: Pairs, status: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with raw_client(hosts=["example.org"]) as peer:
        response = await peer.open(1, headers)
        assert response.headers[":status"] == status
        assert not {"connection", "upgrade", "transfer-encoding"} & set(response.headers)
        if status != "200":
            assert response.headers["server"].startswith("trio_ws/")
            assert "date" in response.headers
        assert (await peer.open(3)).headers[":status"] == "200"


async def test_plain_requests(autojump_clock: trio.testing.MockClock) -> None:
    async def answer(opening: Opening, request: Request) -> Response | None:
        await trio.sleep(1)
        if request.path == "/long":
            return opening.respond(200, b"x" * 300_000)
        if request.path == "/wrong":
            return opening.respond(200, "body", {"Content-Length": "5"})
        if request.path == "/none":
            return opening.respond(204, "", {"Connection": "close", "X": "y"})
        return opening.respond(200, f"{request.method} {opening.host}") if request.protocol is None else None

    async with raw_client(process_request=answer) as peer:
        # Both are answered at the same time.
        await peer.send(peer.headers(1, GET, end=True) + peer.headers(3, change(GET, _method="HEAD"), end=True))
        responses = [await peer.receive_kind(HEADERS) for _ in range(2)]
        assert {each.headers["content-length"] for each in responses} == {"15", "16"}
        (data,) = [f for f in peer.frames if f.kind == DATA and f.payload] or [await peer.receive_kind(DATA)]
        assert data.payload == b"GET example.org"
        assert trio.current_time() < 1.5
        # A body, with a window of 64 KiB.
        await peer.send(peer.headers(5, change(GET, _path="/long"), end=True))
        size = 0
        while size < 300_000:
            data = await peer.receive_kind(DATA, 5)
            size += len(data.payload)
            increment = len(data.payload).to_bytes(4, "big")
            if data.payload:
                await peer.send(frame(WINDOW_UPDATE, 0, 5, increment) + frame(WINDOW_UPDATE, 0, 0, increment))
        assert size == 300_000
        await peer.send(peer.headers(7, change(GET, _path="/none"), end=True))
        response = await peer.receive_kind(HEADERS, 7)
        assert response.headers[":status"] == "204"
        assert response.ends
        assert response.headers["x"] == "y"
        assert not {"connection", "content-length"} & set(response.headers)
        await peer.send(peer.headers(13, change(GET, _path="/wrong"), end=True))
        assert (await peer.receive_kind(HEADERS, 13)).headers[":status"] == "500"
        # The body of a request is dropped.
        await peer.send(peer.headers(19, change(GET, _method="POST", content_length="5")))
        await peer.send(frame(DATA, END_STREAM, 19, b"12345"))
        assert (await peer.receive_kind(HEADERS, 19)).headers[":status"] == "200"
        assert (await peer.open(21)).headers[":status"] == "200"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "status, body, headers, expected",
    [
        (204, None, {}, 204),
        (204, b"", {}, 204),
        (304, None, {"Content-Length": "5"}, 304),
        (304, b"", {}, 304),
        (205, b"", {}, 205),
        # They must not have a body (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5): the application is at fault.
        (204, b"x", {}, 500),
        (205, b"x", {}, 500),
        (304, b"12345", {"Content-Length": "5"}, 500),
        (200, b"body", {}, 200),
        (404, b"body", {}, 404),
    ],
)
async def test_bodies_are_the_same_with_both_versions(
    method: str, status: int, body: bytes | None, headers: Any, expected: int, autojump_clock: trio.testing.MockClock
) -> None:
    def answer(opening: Opening, request: Request) -> Response:
        return Response(status, "", headers, body)

    async with serving(process_request=answer) as (listener, _):
        stream = listener.connect()
        await stream.send_all(f"{method} / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n".encode())
        data = await read_to_end(stream)
        head, _, old = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d" % expected)
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.send(peer.headers(1, change(GET, _method=method), end=True))
        response = await peer.receive_kind(HEADERS, 1)
        new = b""
        last = response
        while not last.ends:
            last = await peer.receive_kind(DATA, 1)
            new += last.payload
        assert response.headers[":status"] == str(expected)
        assert new == old
        assert bool(new) is (method == "GET" and expected not in (204, 205, 304))
        # All of it may come with the headers, if there is no body.
        assert response.ends is not bool(new)
        length = [line for line in head.decode().lower().split("\r\n") if line.startswith("content-length: ")]
        assert [
            f"content-length: {value}" for name, value in response.headers.items() if name == "content-length"
        ] == length


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_errors_without_an_answer_of_the_application(method: str, autojump_clock: trio.testing.MockClock) -> None:
    """The response to HEAD has no body (RFC 9110, section 9.3.2)."""

    async def wait(opening: Opening, request: Request) -> None:
        await trio.sleep_forever()

    async with serving(process_request=wait) as (listener, _):
        stream = listener.connect()
        await stream.send_all(f"{method} / HTTP/1.1\r\nHost: example.org\r\n\r\n".encode())
        data = await read_to_end(stream)
        assert data.startswith(b"HTTP/1.1 408")
        assert b"Content-Length: 16" in data
        assert data.endswith(b"Request Timeout\n" if method == "GET" else b"\r\n\r\n")
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.send(peer.headers(1, change(GET, _method=method), end=True))
        response = await peer.receive_kind(HEADERS, 1)
        assert response.headers[":status"] == "408"
        assert response.headers["content-length"] == "16"
        assert response.ends is (method == "HEAD")
        if method == "GET":
            assert (await peer.receive_kind(DATA, 1)).payload == b"Request Timeout\n"


@pytest.mark.parametrize("window", [0, 100])
async def test_a_part_of_a_response_is_not_taken_for_the_whole(
    window: int, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(opening: Opening, request: Request) -> Response:
        if request.path == "/wait":
            await trio.sleep_forever()
        return opening.respond(200, b"x" * 1000)

    async with serving(process_request=answer) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start(INITIAL_WINDOW_SIZE=window)
        await peer.send(peer.headers(1, GET, end=True))
        assert (await peer.receive_kind(RST_STREAM, 1)).code == CANCEL
        # The timeout is answered, as far as the window allows.
        await peer.send(peer.headers(3, change(GET, _path="/wait"), end=True))
        response = await peer.receive_kind(HEADERS, 3)
        assert response.headers[":status"] == "408"
        if window:
            await peer.receive(lambda each: each.stream == 3 and each.ends)
        else:
            assert (await peer.receive_kind(RST_STREAM, 3)).code == CANCEL
        assert not [each for each in peer.frames if each.stream == 1 and each.kind == DATA and each.ends]


async def test_a_2xx_of_the_application_opens_no_websocket(autojump_clock: trio.testing.MockClock) -> None:
    def healthy(opening: Opening, request: Request) -> Response | None:
        return opening.respond(200, "healthy")

    async with raw_client(process_request=healthy) as peer:
        assert (await peer.open(1)).headers[":status"] == "400"
        assert (await peer.open(3, [(":method", "CONNECT"), (":authority", "a")])).headers[":status"] == "405"
        await peer.send(peer.headers(5, GET, end=True))
        assert (await peer.receive_kind(HEADERS, 5)).headers[":status"] == "200"


async def test_an_application_that_fails(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(opening: Opening, request: Request) -> None:
        if request.path == "/fail":
            raise KeyError
        if request.path == "/lost":  # the application's own stream, not the client's
            raise trio.BrokenResourceError

    def change_response(opening: Opening, request: Request, response: Response) -> Response | None:
        if request.path == "/replace":
            return opening.respond(503, "later")
        return opening.respond(200, "no") if request.path == "/refused" else None

    async with raw_client(process_request=fail, process_response=change_response) as peer:
        assert (await peer.open(1, change(CONNECT, _path="/fail"))).headers[":status"] == "500"
        assert (await peer.open(3, change(CONNECT, _path="/replace"))).headers[":status"] == "503"
        refused = change(CONNECT, _path="/refused", origin="https://evil.example")
        assert (await peer.open(5, refused)).headers[":status"] == "403"  # before process_request
        version = change(CONNECT, _path="/refused", sec_websocket_version="8")
        # A refusal cannot be turned into a WebSocket.
        assert (await peer.open(7, version)).headers[":status"] == "500"
        assert (await peer.open(9)).headers[":status"] == "200"
        assert (await peer.open(11, change(CONNECT, _path="/lost"))).headers[":status"] == "500"
    assert [r.levelno for r in caplog.records if r.levelno >= logging.ERROR] == [logging.ERROR] * 3


async def test_101_is_no_status_of_http2(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def switch(opening: Opening, request: Request, response: Response) -> Response:
        return Response(101, "Switching Protocols", {})

    async with raw_client(process_response=switch) as peer:
        assert (await peer.open()).headers[":status"] == "500"
    assert "process_response must return a status of at least 200, not 101" in caplog.text


async def test_cookies_may_be_split(autojump_clock: trio.testing.MockClock) -> None:
    cookies: list[dict[str, str]] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        cookies.append(ws.opening.cookies)

    async with raw_client(handler) as peer:
        await peer.open(1, [*CONNECT, ("cookie", "a=1"), ("cookie", "b=2")])
        await peer.receive_kind(DATA)
    assert cookies == [{"a": "1", "b": "2"}]


async def test_http11_on_the_same_port(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as (listener, _):
        async with trio_ws.connect_over(listener.connect(), "ws://example.org/") as ws:
            assert ws.http_version == "1.1"
            await ws.send("hi")
            assert await ws.receive() == "hi"
        # One byte at a time, the beginnings are the same.
        stream = listener.connect()
        for octet in b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n":
            await stream.send_all(bytes([octet]))
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 405")
        stream = listener.connect()
        peer = RawPeer(stream)
        for octet in PREFACE + settings():
            await stream.send_all(bytes([octet]))
        assert (await peer.open(1)).headers[":status"] == "200"


async def test_one_byte_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        for octet in peer.headers(1, CONNECT) + frame(DATA, 0, 1, masked(b"a")) + frame(DATA, 0, 1, masked(b"b")):
            await peer.send(bytes([octet]))
        assert (await peer.receive_kind(HEADERS)).headers[":status"] == "200"
        data = b""
        while len(data) < 6:
            data += (await peer.receive_kind(DATA)).payload
        assert data == b"\x81\x01a\x81\x01b"


# -- Flow control ----------------------------------------------------------------------------------------------------


async def test_a_stalled_stream_does_not_stop_others(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        if ws.request.path == "/stalled":
            await trio.sleep_forever()
        await echo(ws)

    async with raw_client(handler, max_message_size=None) as peer:
        stalled = range(1, 21, 2)
        for stream in stalled:
            await peer.open(stream, change(CONNECT, _path="/stalled"))
        await peer.open(101)
        header = b"\x82\xff" + (2**40).to_bytes(8, "big") + bytes(4)
        for stream in stalled:
            window = WINDOW
            await peer.send(frame(DATA, 0, stream, header + bytes(1000)))
            window -= len(header) + 1000
            while window:
                size = min(window, 16_384)
                await peer.send(frame(DATA, 0, stream, bytes(size)))
                window -= size
        await peer.send(frame(DATA, 0, 101, masked(b"still here")))
        assert (await peer.receive_kind(DATA, 101)).payload == b"\x81\x0astill here"
        # The inbox takes some of it; the rest is not acknowledged.
        taken = dict.fromkeys(stalled, 0)
        for each in peer.frames:
            if each.kind == WINDOW_UPDATE and each.stream in taken:
                taken[each.stream] += int.from_bytes(each.payload, "big")
        assert all(size < WINDOW for size in taken.values())
        # One byte more is a violation.
        await peer.send(frame(DATA, 0, 1, bytes(WINDOW // 2)) * 2)
        assert (await peer.receive_kind(GOAWAY)).code == 3


async def test_bytes_are_acknowledged_when_they_are_received(autojump_clock: trio.testing.MockClock) -> None:
    received = trio.Event()
    go_on = trio.Event()

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await go_on.wait()
        for _ in range(40):
            await ws.receive()
        received.set()
        await ws.receive()

    message = b"\x82\xfe" + (16_000).to_bytes(2, "big") + bytes(4 + 16_000)
    async with raw_client(handler) as peer:
        await peer.open()
        sent = 0
        while WINDOW - sent >= len(message):
            await peer.send(frame(DATA, 0, 1, message))
            sent += len(message)
        await trio.testing.wait_all_tasks_blocked()
        before = await window_updates(peer)
        assert before < WINDOW // 2 + 1
        go_on.set()
        window = WINDOW - sent + before
        for _ in range(40 - sent // len(message)):
            while window < len(message):
                window += await window_updates(peer) or int.from_bytes(
                    (await peer.receive_kind(WINDOW_UPDATE, 1)).payload, "big"
                )
            await peer.send(frame(DATA, 0, 1, message))
            window -= len(message)
        await received.wait()


async def window_updates(peer: RawPeer) -> int:
    """Return the window that was given back for stream 1 in the frames that have arrived."""
    count = len(peer.frames)
    with trio.move_on_after(0.01):
        while await peer.next_frame() is not None:
            pass
    found = (each for each in peer.frames[count:] if each.kind == WINDOW_UPDATE and each.stream == 1)
    return sum(int.from_bytes(each.payload, "big") for each in found)


async def test_padding_counts_for_the_window(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open()
        padded = bytes([255]) + masked(b"x") + bytes(255)
        for _ in range(2 * WINDOW // len(padded)):
            await peer.send(frame(DATA, PADDED, 1, padded))
            await peer.receive(lambda each: each.kind == DATA)
        await peer.send(frame(DATA, PADDED, 1, bytes([3, 0, 0])))
        assert (await peer.receive_kind(GOAWAY)).code == PROTOCOL_ERROR


async def test_a_peer_without_room(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await ws.send(b"x" * 1000)
        await ws.receive()

    async with serving(handler) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start(INITIAL_WINDOW_SIZE=100)
        await peer.open()
        received = b""
        while len(received) < 1004:
            data = (await peer.receive_kind(DATA)).payload
            assert len(data) <= 100
            received += data
            await peer.send(frame(WINDOW_UPDATE, 0, 1, len(data).to_bytes(4, "big")))
        assert received == b"\x82\x7e\x03\xe8" + b"x" * 1000


async def test_a_half_sent_frame_ends_with_cancel(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await ws.send(b"x" * 1000)
        await ws.receive()

    async with serving(handler, close_timeout=1) as (listener, server):
        peer = RawPeer(listener.connect())
        await peer.start(INITIAL_WINDOW_SIZE=100)
        await peer.open()
        other = RawPeer(listener.connect())
        await other.start()
        await peer.receive_kind(DATA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.aclose)
            assert (await peer.receive_kind(RST_STREAM, 1)).code == CANCEL
        assert not [each for each in peer.frames if each.kind == DATA and each.ends]


# -- Limits and lifetime ---------------------------------------------------------------------------------------------


async def test_streams_beyond_the_limit_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(limits=Limits(streams=2)) as peer:
        await peer.open(1)
        await peer.open(3)
        await peer.send(peer.headers(5, CONNECT))
        assert (await peer.receive_kind(RST_STREAM, 5)).code == REFUSED_STREAM
        await peer.send(frame(DATA, 0, 1, close_frame()))
        await peer.receive_kind(RST_STREAM, 1)
        assert (await peer.open(7)).headers[":status"] == "200"


@pytest.mark.parametrize(
    "options",
    [{"limits": Limits(streams=2**40)}, {"max_head_size": 2**40}, {"max_headers": 2**40}],
    ids=["streams", "max_head_size", "max_headers"],
)
async def test_limits_that_do_not_fit_into_a_setting(options: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with serving(**options) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start()
        (received,) = [each for each in peer.frames if each.kind == SETTINGS]
        values = dict(struct.iter_unpack(">HI", received.payload))
        assert 2**32 - 1 in (values[MAX_CONCURRENT_STREAMS], values[MAX_HEADER_LIST_SIZE])
        assert (await peer.open()).headers[":status"] == "200"


@pytest.mark.parametrize("drains", [False, True], ids=["beyond the limit", "while draining"])
async def test_a_refused_stream_that_is_reset_at_once(drains: bool, autojump_clock: trio.testing.MockClock) -> None:
    async with (
        serving(limits=Limits(streams=10 if drains else 1)) as (listener, server),
        trio.open_nursery() as nursery,
    ):
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.open(1)
        if drains:
            nursery.start_soon(server.drain)
            await peer.receive_kind(GOAWAY)
        reset = [
            peer.headers(stream, CONNECT) + frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
            for stream in (3, 5, 7)
        ]
        await peer.send(b"".join(reset) + frame(DATA, 0, 1, masked(b"still")))
        assert (await peer.receive_kind(DATA, 1)).payload == b"\x81\x05still"
        nursery.cancel_scope.cancel()


async def test_the_limit_of_connections_counts_streams(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(limits=Limits(connections=3)) as (listener, _):
        first = RawPeer(listener.connect())
        await first.start()
        for stream in (1, 3, 5):
            assert (await first.open(stream)).headers[":status"] == "200"
        response = await first.open(7)
        assert response.headers[":status"] == "503"
        assert response.headers["retry-after"] == "5"
        await first.send(frame(DATA, 0, 1, close_frame()))
        await first.receive_kind(RST_STREAM, 1)
        assert (await first.open(9)).headers[":status"] == "200"


async def test_clients_over_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(limits=Limits(connections=1)) as (listener, server):
        first = RawPeer(listener.connect())
        await first.start()
        await first.open()
        second = RawPeer(listener.connect())
        await second.start()
        goaway = await second.receive_kind(GOAWAY)
        assert (goaway.code, goaway.payload[:4]) == (NO_ERROR, bytes(4))
        assert not [each for each in await second.receive_all() if each.kind != SETTINGS]
        await second.stream.aclose()
        # A request that comes at once is not processed, either.
        third = RawPeer(listener.connect())
        await third.send(PREFACE + settings() + third.headers(1, CONNECT))
        await third.receive_kind(GOAWAY)
        assert (await third.receive_kind(RST_STREAM, 1)).code == REFUSED_STREAM
        await third.receive_all()
        await third.stream.aclose()
        with pytest.raises(InvalidStatus, match="503"):
            async with trio_ws.connect_over(listener.connect(), "ws://example.org/"):
                pass
        lost = listener.connect()
        await lost.send_all(PREFACE[:3])
        await lost.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert server._state.rejecting == 0
        await first.open(3)


async def test_an_idle_connection_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(ping_interval=None) as peer:
        await peer.open()
        await trio.sleep(100)
        await peer.send(frame(DATA, 0, 1, close_frame()))
        await peer.receive_kind(RST_STREAM, 1)
        ended = trio.current_time()
        assert (await peer.receive_kind(GOAWAY)).code == NO_ERROR
        assert trio.current_time() == pytest.approx(ended + 10)
        await peer.receive_all()


async def test_a_silent_connection_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        assert (await peer.receive_kind(GOAWAY)).code == NO_ERROR
        assert trio.current_time() == pytest.approx(10, abs=1)


async def test_a_slow_application_gets_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async def wait(opening: Opening, request: Request) -> None:
        await trio.sleep_forever()

    async with raw_client(process_request=wait) as peer:
        assert (await peer.open()).headers[":status"] == "408"


async def test_a_reset_stream_cancels_its_request(autojump_clock: trio.testing.MockClock) -> None:
    cancelled = trio.Event()

    async def wait(opening: Opening, request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with raw_client(process_request=wait) as peer:
        await peer.send(peer.headers(1, CONNECT))
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big")))
        await cancelled.wait()
        assert trio.current_time() < 1


async def test_a_reset_websocket(autojump_clock: trio.testing.MockClock) -> None:
    ends: list[ConnectionClosed] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        try:
            while True:
                await ws.receive()
        except ConnectionClosed as exc:
            ends.append(exc)

    async with raw_client(handler) as peer:
        await peer.open()
        await peer.send(frame(DATA, 0, 1, masked(b"x")) + frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big")))
        await trio.testing.wait_all_tasks_blocked()
        assert [end.code for end in ends] == [1006]
        assert isinstance(ends[0].__cause__, trio.BrokenResourceError)
        assert (await peer.open(3)).headers[":status"] == "200"


async def test_a_lost_connection_ends_all_websockets(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as (listener, server):
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.open(1)
        await peer.open(3)
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not server.connections


async def test_aclose(autojump_clock: trio.testing.MockClock) -> None:
    async def wait(opening: Opening, request: Request) -> None:
        if request.path == "/wait":
            await trio.sleep_forever()

    async with serving(process_request=wait) as (listener, server):
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.open(1)
        await peer.send(peer.headers(3, change(CONNECT, _path="/wait")))
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.aclose)
            goaway = await peer.receive_kind(GOAWAY)
            assert (goaway.code, goaway.payload[:4]) == (NO_ERROR, (3).to_bytes(4, "big"))
            await peer.receive(lambda each: each.kind == DATA and each.payload == b"\x88\x02\x03\xe9")
            found = [each for each in peer.frames if each.kind == HEADERS and each.stream == 3]
            response = found[0] if found else await peer.receive_kind(HEADERS, 3)
            assert response.headers[":status"] == "503"
            await peer.send(peer.headers(5, CONNECT))
            assert (await peer.receive_kind(RST_STREAM, 5)).code == REFUSED_STREAM
            await peer.send(frame(DATA, END_STREAM, 1, close_frame(1001)))
            await peer.receive_all()
        assert trio.current_time() < 1


@pytest.mark.parametrize("late", [False, True], ids=["then drain", "while draining"])
@pytest.mark.parametrize("websocket", [False, True])
async def test_drain_waits_for_a_slow_client(
    websocket: bool, late: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """All that was sent before the end arrives, however slowly the client reads."""
    ours, theirs = pipe_pair(1_000)
    go_on = trio.Event()

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await go_on.wait()
        await ws.send(bytes(50_000))

    async def answer(opening: Opening, request: Request) -> Response | None:
        if websocket:
            return None
        await go_on.wait()
        return Response(200, "OK", {}, bytes(50_000))

    listener = MemoryListener(lambda _: theirs)
    async with serving(handler, listener, process_request=answer) as (_, server), trio.open_nursery() as nursery:
        listener.connect()
        peer = RawPeer(ours)
        await peer.start()
        await peer.send(peer.headers(1, CONNECT if websocket else GET, end=not websocket))
        await trio.testing.wait_all_tasks_blocked()
        if not late:
            go_on.set()
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.drain)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        data = b""
        while (received := await peer.next_frame()) is not None:
            if received.kind == DATA:
                data += received.payload
                if websocket and data.endswith(b"\x88\x02\x03\xe8"):
                    await peer.send(frame(DATA, 0, 1, close_frame()))
            await trio.sleep(0.05)
        assert data.count(0) >= 50_000
        assert any(each.ends for each in peer.frames if each.kind == DATA)
        assert peer.frames[-1].kind in (GOAWAY, RST_STREAM, DATA)


async def test_drain_does_not_wait_for_a_client_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = pipe_pair(1_000)

    async def answer(opening: Opening, request: Request) -> Response:
        return Response(200, "OK", {}, bytes(50_000))

    listener = MemoryListener(lambda _: theirs)
    async with serving(echo, listener, process_request=answer, open_timeout=5) as (_, server):
        listener.connect()
        peer = RawPeer(ours)
        await peer.start()
        await peer.send(peer.headers(1, GET, end=True))
        await trio.testing.wait_all_tasks_blocked()
        began_at = trio.current_time()
        assert await server.drain()
        assert 5 <= trio.current_time() - began_at < 6


@pytest.mark.parametrize("drains", [False, True])
async def test_aclose_does_not_wait_for_a_client_that_does_not_read(
    drains: bool, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = pipe_pair(1_000)

    async def answer(opening: Opening, request: Request) -> Response:
        return Response(200, "OK", {}, bytes(50_000))

    listener = MemoryListener(lambda _: theirs)
    async with serving(echo, listener, process_request=answer, open_timeout=None) as (_, server):
        listener.connect()
        peer = RawPeer(ours)
        await peer.start()
        await peer.send(peer.headers(1, GET, end=True))
        await trio.testing.wait_all_tasks_blocked()
        if drains:
            assert not await server.drain(3)
        began_at = trio.current_time()
        await server.aclose()
        assert trio.current_time() - began_at < 1


async def test_a_client_that_does_not_read_is_idle(autojump_clock: trio.testing.MockClock) -> None:
    """A connection without streams ends after ``open_timeout``, and makes room for others before that."""
    pairs = [pipe_pair(1_000) for _ in range(3)]

    async def answer(opening: Opening, request: Request) -> Response:
        return Response(200, "OK", {}, bytes(50_000))

    servers = iter([theirs for _, theirs in pairs])
    listener = MemoryListener(lambda _: next(servers))
    limits = Limits(connections=2)
    async with serving(echo, listener, process_request=answer, open_timeout=5, limits=limits):
        peers = [RawPeer(ours) for ours, _ in pairs]
        for peer in peers[:2]:
            listener.connect()
            await peer.start()
            await peer.send(peer.headers(1, GET, end=True))
            await trio.testing.wait_all_tasks_blocked()
        listener.connect()
        await peers[2].start()
        await peers[2].send(peers[2].headers(1, GET, end=True))
        assert (await peers[2].receive_kind(HEADERS)).headers[":status"] == "200"
        began_at = trio.current_time()
        for peer in peers:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await trio.sleep(1)
                    await peer.send(frame(PING, 0, 0, bytes(8)))
        assert trio.current_time() - began_at < 9


async def test_the_limit_of_openings_holds_within_a_connection(autojump_clock: trio.testing.MockClock) -> None:
    count = most = 0

    async def answer(opening: Opening, request: Request) -> None:
        nonlocal count, most
        count += 1
        most = max(most, count)
        await trio.sleep(1)
        count -= 1

    async with serving(process_request=answer, limits=Limits(openings=2)) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.send(b"".join(peer.headers(stream, CONNECT) for stream in range(1, 21, 2)))
        statuses = [(await peer.receive_kind(HEADERS)).headers[":status"] for _ in range(10)]
        assert sorted(statuses) == ["200"] * 2 + ["503"] * 8
        assert most == 2


async def test_a_stream_that_has_ended_makes_room(autojump_clock: trio.testing.MockClock) -> None:
    """A client knows at once that it has reset a stream, and may open another one (RFC 9113, section 5.1.2)."""
    async with serving(limits=Limits(streams=1)) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.open(1)
        await peer.send(frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big")) + peer.headers(3, CONNECT))
        assert (await peer.receive_kind(HEADERS, 3)).headers[":status"] == "200"
        await peer.send(peer.headers(5, CONNECT))
        assert (await peer.receive_kind(RST_STREAM, 5)).code == REFUSED_STREAM


async def test_a_stream_with_data_that_nobody_has_read_makes_no_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Otherwise, the data of streams that have ended could use up the window of the connection."""

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await trio.sleep_forever()

    async with serving(handler, limits=Limits(streams=1)) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.open(1)
        message = b"\x82\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + bytes(60_000)
        await peer.send(b"".join(frame(DATA, 0, 1, message) for _ in range(4)))
        await peer.send(frame(RST_STREAM, 0, 1, bytes(4)) + peer.headers(3, CONNECT))
        assert (await peer.receive_kind(RST_STREAM, 3)).code == REFUSED_STREAM


async def test_handlers_of_streams_that_have_ended_are_limited(autojump_clock: trio.testing.MockClock) -> None:
    count = 0

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        nonlocal count
        count += 1
        await trio.sleep_forever()

    async with serving(handler, limits=Limits(streams=2)) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start()
        for stream in range(1, 201, 2):
            await peer.send(peer.headers(stream, CONNECT))
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(frame(RST_STREAM, 0, stream, bytes(4)))
        await trio.testing.wait_all_tasks_blocked()
        assert 2 <= count <= 20


async def test_streams_that_nobody_reads_do_not_hold_up_another_one(autojump_clock: trio.testing.MockClock) -> None:
    """All but one have used their windows up; then the last one may still use its window again and again."""
    received = 0

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        nonlocal received
        if ws.request.path == "/stalled":
            await trio.sleep_forever()
        async for message in ws:
            received += len(message)

    async with serving(handler, limits=Limits(streams=4), ping_interval=None) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start()
        windows = {0: 65_535}

        def room(stream: int) -> int:
            return min(windows[0], windows[stream])

        async def send(stream: int, size: int) -> None:
            await peer.send(frame(DATA, 0, stream, b"\x82\xfe" + (size - 8).to_bytes(2, "big") + bytes(size - 4)))
            for key in (0, stream):
                windows[key] -= size
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(frame(PING, 0, 0, bytes(8)))
            await peer.receive_kind(PING)

        def count_updates() -> None:
            for each in peer.frames:
                if each.kind == WINDOW_UPDATE:
                    windows[each.stream] += int.from_bytes(each.payload, "big")
            peer.frames.clear()

        for stream in (1, 3, 5, 7):
            path = "/" if stream == 7 else "/stalled"
            windows[stream] = WINDOW
            await peer.open(stream, change(CONNECT, _path=path))
        for stream in (1, 3, 5):
            for _ in range(WINDOW // 16_384):
                await send(stream, 16_384)
        sent = 0
        while sent < 10 * WINDOW:
            count_updates()
            assert room(7) >= 16_384, windows
            await send(7, 16_384)
            sent += 16_384 - 8
        assert received == sent


@pytest.mark.parametrize(
    "violation",
    [frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")],
    ids=["found here", "found by h2"],
)
async def test_a_second_goaway_names_no_later_stream(violation: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """RFC 9113, section 6.8."""
    async with serving() as (listener, server), trio.open_nursery() as nursery:
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.open(1)
        nursery.start_soon(server.drain)
        await peer.receive_kind(GOAWAY)
        await peer.send(peer.headers(3, CONNECT))
        await peer.receive_kind(RST_STREAM, 3)
        await peer.send(violation)
        await peer.receive_all()
        last = [int.from_bytes(each.payload[:4], "big") for each in peer.frames if each.kind == GOAWAY]
        assert last == [1, 1]


async def test_drain(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as (listener, server):
        peer = RawPeer(listener.connect())
        await peer.start()
        await peer.open(1)
        idle = RawPeer(listener.connect())
        await idle.start()
        await trio.testing.wait_all_tasks_blocked()
        assert not await server.drain(1)
        assert (await peer.receive_kind(GOAWAY)).code == NO_ERROR
        assert (await idle.receive_kind(GOAWAY)).code == NO_ERROR
        await idle.stream.aclose()
        await peer.send(frame(DATA, 0, 1, masked(b"still")))
        assert (await peer.receive_kind(DATA, 1)).payload == b"\x81\x05still"
        await peer.send(frame(DATA, END_STREAM, 1, close_frame()))
        await peer.receive_all()
        await peer.stream.aclose()
        assert await server.drain(1)


async def test_a_cancelled_server_says_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open()
        stream = peer
    await stream.receive(lambda each: each.kind == DATA and each.payload == b"\x88\x02\x03\xe9")
    assert (await stream.receive_kind(GOAWAY)).code == NO_ERROR


async def test_a_goaway_of_the_peer_leaves_websockets_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open()
        await peer.send(frame(GOAWAY, 0, 0, bytes(8)))
        await peer.send(frame(DATA, 0, 1, masked(b"still")))
        assert (await peer.receive_kind(DATA, 1)).payload == b"\x81\x05still"
        await peer.send(frame(DATA, END_STREAM, 1, close_frame()))
        await peer.receive(lambda each: each.ends)


async def test_a_request_that_is_read_after_the_connection_was_lost() -> None:
    """The writer may notice the loss while the reader pauses within the bytes that it has read."""
    connection = HTTP2Connection(
        StreamAdapter(memory_pair()[0]),
        is_client=False,
        max_streams=10,
        max_head_size=1000,
        max_headers=10,
        received=b"",
    )
    connection.fail("it is lost")
    request = h2.events.RequestReceived(stream_id=1, headers=[(b":method", b"GET")])
    connection._receive_request(request)
    assert not connection.streams
    assert await connection.arrivals.get() is None
