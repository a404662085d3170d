"""A malformed message ends its stream (RFC 9113, section 8.1.1); the other streams of the connection go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import HTTP2Pool, Opening, Request
from trio_ws.exceptions import ConnectFailed, InvalidHandshake, InvalidStatus
from trio_ws.http2.connection import WINDOW

from .peers import (
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_SIZE_ERROR,
    GET,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    WINDOW_UPDATE,
    RawPeer,
    frame,
    masked,
    raw_client,
    serving,
)
from .test_pool import accept, connect, raw_servers

Pairs = Sequence[tuple[str, str]]

POST = [(":method", "POST"), *GET[1:]]
HAS_PRIORITY = 0x20
COMPRESSION_ERROR = 9


async def wait(opening: Opening, request: Request) -> None:
    """Never answer plain requests."""
    if request.protocol is None:
        await trio.sleep_forever()


async def check_alive(peer: RawPeer) -> None:
    """Check that the WebSocket on stream 1 and new headers still work."""
    await peer.send(frame(DATA, 0, 1, masked(b"still")))
    assert (await peer.receive_kind(DATA, 1)).payload == b"\x81\x05still"
    assert (await peer.open(99, [*CONNECT, ("x", "known")])).headers[":status"] == "200"
    assert (await peer.open(101, [*CONNECT, ("x", "known")])).headers[":status"] == "200"
    assert not [each for each in peer.frames if each.kind == GOAWAY]


# -- Requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [("content-length", "1"), ("content-length", "2")],
        [("content-length", "x")],
        [("content-length", "-1")],
        [("content-length", "")],
        [("content-length", "9" * 5_000)],
        [("content-length", "1, 2")],
        [("connection", "close")],
        [("keep-alive", "1")],
        [("te", "gzip")],
        [("X", "y")],
        [("", "y")],
        [("x", " y")],
        [("x", "y\n")],
        [("x", "y"), (":path", "/")],
        [(":status", "200")],
    ],
    ids=lambda headers: str(headers)[:50],
)
@pytest.mark.parametrize("request_headers", [CONNECT, POST], ids=["CONNECT", "POST"])
async def test_malformed_headers(
    headers: Pairs, request_headers: Pairs, autojump_clock: trio.testing.MockClock
) -> None:
    """The request is answered, and the client learns why nothing more is read."""
    async with raw_client(process_request=wait) as peer:
        await peer.open(1)
        assert (await peer.open(3, [*request_headers, *headers])).headers[":status"] == "400"
        assert (await peer.receive_kind(RST_STREAM, 3)).code == PROTOCOL_ERROR
        # The client has ended the stream: the response is its end.
        await peer.send(peer.headers(5, [*request_headers, *headers], end=True))
        assert (await peer.receive_kind(HEADERS, 5)).headers[":status"] == "400"
        assert (await peer.receive_kind(DATA, 5)).payload
        assert (await peer.receive_kind(DATA, 5)).ends
        await check_alive(peer)
        assert [each.stream for each in peer.frames if each.kind == RST_STREAM] == [3]


async def test_large_requests_are_not_malformed(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open(1)
        assert (await peer.open(3, [*POST, *[("x", "y")] * 129])).headers[":status"] == "431"
        assert (await peer.receive_kind(RST_STREAM, 3)).code == NO_ERROR
        await check_alive(peer)


@pytest.mark.parametrize("value", ["5", "5, 5", "005"])
async def test_lengths_that_are_equal(value: str, autojump_clock: trio.testing.MockClock) -> None:
    def answer(opening: Opening, request: Request) -> trio_ws.Response | None:
        if request.protocol is not None:
            return None
        return opening.respond(200, ",".join(request.headers.get_all("Content-Length")))

    async with raw_client(process_request=answer) as peer:
        await peer.open(1)
        await peer.send(peer.headers(3, [*POST, ("content-length", value), ("content-length", "5")]))
        await peer.send(frame(DATA, END_STREAM, 3, b"12345"))
        assert (await peer.receive_kind(DATA, 3)).payload.decode() == f"{value},5"
        await check_alive(peer)


def post(peer: RawPeer, *, end: bool = False) -> bytes:
    return peer.headers(3, [*POST, ("content-length", "5")], end=end)


REQUESTS: dict[str, Callable[[RawPeer], bytes]] = {
    "too long": lambda peer: post(peer) + frame(DATA, 0, 3, b"123456"),
    "too long in two frames": lambda peer: post(peer) + frame(DATA, 0, 3, b"123") + frame(DATA, 0, 3, b"456"),
    "too long with the end": lambda peer: post(peer) + frame(DATA, END_STREAM, 3, b"123456"),
    "too short": lambda peer: post(peer) + frame(DATA, END_STREAM, 3, b"1234"),
    "padding is no content": lambda peer: post(peer) + frame(DATA, PADDED | END_STREAM, 3, b"\x01" + b"1234" + b"\0"),
    "too short, with trailers": lambda peer: post(peer) + peer.headers(3, [("x", "y")], end=True),
    "no body": lambda peer: post(peer, end=True),
}

TRAILERS: dict[str, tuple[Pairs, bool]] = {
    "no end": ([("x", "y")], False),
    "pseudo-header": ([(":path", "/")], True),
    "second headers": (POST, True),
    "upper case": ([("X", "y")], True),
    "line break": ([("x", "a\nb")], True),
    "connection": ([("connection", "close")], True),
}


@pytest.mark.parametrize("kind", [*REQUESTS, *TRAILERS])
async def test_malformed_requests(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client(process_request=wait) as peer:
        await peer.open(1)
        if kind in TRAILERS:
            headers, end = TRAILERS[kind]
            data = peer.headers(3, POST) + frame(DATA, 0, 3, b"x") + peer.headers(3, headers, end=end)
        else:
            data = REQUESTS[kind](peer)
        await peer.send(data)
        assert (await peer.receive_kind(RST_STREAM, 3)).code == PROTOCOL_ERROR
        await check_alive(peer)
        assert not [each for each in peer.frames if each.stream == 3 and each.kind == HEADERS]


async def test_a_websocket_may_have_the_length_0(autojump_clock: trio.testing.MockClock) -> None:
    """Content-Length says nothing about what follows a CONNECT request (RFC 9110, section 9.3.6)."""
    async with raw_client() as peer:
        await peer.open(1)
        await peer.open(3, [*CONNECT, ("content-length", "0")])
        await peer.send(frame(DATA, 0, 3, masked(b"hello")))
        assert (await peer.receive_kind(DATA, 3)).payload == b"\x81\x05hello"
        await peer.send(frame(DATA, END_STREAM, 3))
        await peer.receive(lambda each: each.stream == 3 and each.ends)
        # This one is refused, and its end is no violation.
        await peer.open(5, [*CONNECT, ("content-length", "5")])
        await peer.send(frame(DATA, END_STREAM, 5))
        await check_alive(peer)


VIOLATIONS: dict[str, Callable[[RawPeer], bytes]] = {
    "trailers": lambda peer: peer.headers(3, [("x", "y")], end=True),
    "headers": lambda peer: peer.headers(3, CONNECT),
    "a window update of 0": lambda peer: frame(WINDOW_UPDATE, 0, 3, bytes(4)),
    "a window update of 0, with the reserved bit": lambda peer: frame(WINDOW_UPDATE, 0, 3, b"\x80\0\0\0"),
}


@pytest.mark.parametrize("kind", VIOLATIONS)
async def test_violations_on_a_websocket(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    ends: list[BaseException | None] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        try:
            async for message in ws:
                await ws.send(message)
        except trio_ws.ConnectionClosed as exc:
            ends.append(exc.__cause__)
            raise

    async with raw_client(handler) as peer:
        await peer.open(1)
        await peer.open(3)
        await peer.send(VIOLATIONS[kind](peer))
        assert (await peer.receive_kind(RST_STREAM, 3)).code == PROTOCOL_ERROR
        await peer.send(frame(DATA, 0, 3, masked(b"late")) + frame(DATA, END_STREAM, 3))
        await check_alive(peer)
        (cause,) = ends
        assert "the peer has violated HTTP/2" in str(cause)


async def test_priorities_have_no_effect(autojump_clock: trio.testing.MockClock) -> None:
    """A stream must not depend on itself in RFC 7540; RFC 9113 ignores priorities."""
    async with raw_client() as peer:
        await peer.open(1)
        itself = (3).to_bytes(4, "big") + b"\x10"
        await peer.send(frame(PRIORITY, 0, 3, itself) + frame(PRIORITY, 0, 1, itself))
        block = peer.encode(CONNECT)
        flags = END_HEADERS | HAS_PRIORITY | PADDED
        await peer.send(frame(HEADERS, flags, 3, b"\x02" + itself + block + bytes(2)))
        assert (await peer.receive_kind(HEADERS, 3)).headers[":status"] == "200"
        await check_alive(peer)


@pytest.mark.parametrize(
    "data, code",
    [
        (frame(HEADERS, END_HEADERS, 0, b"\x82"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | HAS_PRIORITY, 3, bytes(4)), 6),
        (frame(HEADERS, END_HEADERS | PADDED, 3, b"\x02\x82"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 3), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 3, b"\x82") + frame(CONTINUATION, END_HEADERS, 5), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 3, b"\x82") + frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        (frame(HEADERS, 0, 3, b"\x82") + frame(0xF0, 0, 1, b"x"), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 0), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 3, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
        (frame(HEADERS, END_HEADERS, 3, b"\x00" + b"\xff" * 15_000), COMPRESSION_ERROR),
        (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 77, bytes(4)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 1, bytes(3)), 6),
        (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 3, bytes(4)), PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 2, bytes(4)), PROTOCOL_ERROR),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_violations_that_end_the_connection(
    data: bytes, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with raw_client() as peer:
        await peer.open(1)
        await peer.send(data)
        frames = await peer.receive_all()
        (goaway,) = (each for each in frames if each.kind == GOAWAY)
        assert goaway.code == code
        assert len(goaway.payload) < 200


@pytest.mark.parametrize("kind", [HEADERS, PING, 0xF0])
async def test_the_first_frame_must_be_settings(kind: int, autojump_clock: trio.testing.MockClock) -> None:
    """RFC 9113, section 3.4."""
    async with serving() as (listener, _):
        peer = RawPeer(listener.connect())
        data = peer.headers(1, CONNECT) if kind == HEADERS else frame(kind, payload=bytes(8))
        await peer.send(PREFACE + data)
        assert [each.code for each in await peer.receive_all() if each.kind == GOAWAY] == [PROTOCOL_ERROR]


async def test_a_priority_of_the_wrong_size(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open(1)
        await peer.open(3)
        await peer.send(frame(PRIORITY, 0, 3, bytes(4)))
        assert (await peer.receive_kind(RST_STREAM, 3)).code == FRAME_SIZE_ERROR
        await check_alive(peer)


async def test_late_frames_of_a_stream_that_was_reset(autojump_clock: trio.testing.MockClock) -> None:
    """They get no answers (RFC 9113, section 5.4.2), and give the window of the connection back."""
    async with raw_client(limits=trio_ws.Limits(streams=4)) as peer:
        await peer.open(1)
        await peer.open(3)
        await peer.send(frame(WINDOW_UPDATE, 0, 3, bytes(4)))
        await peer.receive_kind(RST_STREAM, 3)
        size, rounds = 16_000, 6 * WINDOW // 16_000
        for _ in range(rounds):
            await peer.send(frame(DATA, 0, 3, bytes(size)))
        await peer.send(frame(WINDOW_UPDATE, 0, 3, b"\0\0\0\1") + peer.headers(3, [("x", "y")], end=True))
        await peer.send(frame(RST_STREAM, 0, 3, bytes(4)))
        await check_alive(peer)
        assert len([each for each in peer.frames if each.kind == RST_STREAM]) == 1
        updates = [each for each in peer.frames if each.kind == WINDOW_UPDATE and not each.stream]
        assert sum(int.from_bytes(each.payload, "big") for each in updates[1:]) > rounds * size - WINDOW


async def test_late_frames_of_a_stream_that_h2_has_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.open(1)
        await peer.open(3)
        await peer.send(frame(WINDOW_UPDATE, 0, 3, b"\x7f\xff\xff\xff"))
        await peer.receive_kind(RST_STREAM, 3)
        await peer.send(10 * frame(DATA, 0, 3, b"late") + frame(DATA, END_STREAM, 3))
        await check_alive(peer)
        assert len([each for each in peer.frames if each.kind == RST_STREAM]) == 1


async def test_no_room_for_a_stream_that_was_reset(autojump_clock: trio.testing.MockClock) -> None:
    """A WINDOW_UPDATE frame must not follow a reset (RFC 9113, section 5.1)."""
    go_on = trio.Event()

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        await go_on.wait()
        async for _ in ws:
            pass

    async with raw_client(handler, max_message_size=None) as peer:
        await peer.open(1)
        message = b"\x82\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + bytes(60_000)
        await peer.send(b"".join(frame(DATA, 0, 1, message) for _ in range(4)))
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(frame(RST_STREAM, 0, 1, bytes(4)))
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        assert (await peer.open(3)).headers[":status"] == "200"
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(frame(PING, 0, 0, bytes(8)))
        await peer.receive_kind(PING)
        assert not [each for each in peer.frames if each.kind == WINDOW_UPDATE and each.stream == 1]


async def test_a_violation_on_a_stream_that_does_not_exist(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_client() as peer:
        await peer.send(frame(WINDOW_UPDATE, 0, 1, bytes(4)))
        (goaway,) = (each for each in await peer.receive_all() if each.kind == GOAWAY)
        assert goaway.code == PROTOCOL_ERROR


async def test_the_window_of_the_connection_survives_malformed_requests(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Malformed requests give back what they have used of the window."""
    async with raw_client(process_request=wait, limits=trio_ws.Limits(streams=2)) as peer:
        await peer.open(1)
        window = 2 * WINDOW
        for stream in range(3, 103, 2):
            data = bytes(16_000)
            window -= len(data)
            await peer.send(peer.headers(stream, [*POST, ("content-length", "5")]) + frame(DATA, 0, stream, data))
            assert (await peer.receive_kind(RST_STREAM, stream)).code == PROTOCOL_ERROR
            # The server has a task for the stream until it runs next.
            await trio.testing.wait_all_tasks_blocked()
        given = [each for each in peer.frames if each.kind == WINDOW_UPDATE and each.stream == 0]
        assert window + sum(int.from_bytes(each.payload, "big") for each in given[1:]) > 0
        await peer.send(frame(DATA, 0, 1, masked(b"still")))
        await peer.receive_kind(DATA, 1)


# -- Responses -------------------------------------------------------------------------------------------------------


Serve = Callable[[RawPeer, int], Awaitable[object]]


def serve_second(answer: Callable[[RawPeer, int], bytes], codes: list[int]) -> Serve:
    """Return a server that accepts the first WebSocket, and answers the second one with frames of a function.

    It adds the error code with which the second stream is reset to a list, and then sends a message on the first one.
    """

    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        first = await accept(peer)
        second = (await peer.receive_kind(HEADERS)).stream
        await peer.send(answer(peer, second))
        codes.append((await peer.receive_kind(RST_STREAM, second)).code)
        await peer.send(frame(DATA, 0, first, b"\x81\x05still"))
        await peer.receive(lambda each: each.kind == DATA and each.payload[:1] == b"\x88")
        await peer.send(frame(DATA, END_STREAM, first, b"\x88\x02\x03\xe8"))
        await peer.receive_all()

    return serve


async def check_responses(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[RawPeer, int], bytes], error: type[Exception]
) -> Exception:
    """Open two WebSockets on one connection. The second one must fail, and the first one go on."""
    codes: list[int] = []
    async with raw_servers(monkeypatch, serve_second(answer, codes)) as peers, HTTP2Pool() as pool:
        async with connect(pool=pool) as ws:
            with pytest.raises(error) as caught:
                async with connect(pool=pool):
                    pass
            assert await ws.receive() == "still"
            assert pool.connections == len(peers) == 1
    assert codes == [PROTOCOL_ERROR]
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        [("x", "y")],
        [(":status", "2000")],
        [(":status", "abc")],
        [(":status", "200"), (":status", "200")],
        [(":status", "200"), (":path", "/")],
        [("x", "y"), (":status", "200")],
        [(":status", "200"), ("Upper", "case")],
        [(":status", "200"), ("connection", "upgrade")],
        [(":status", "200"), ("x", " y")],
        [(":status", "200"), ("x", "a\x00b")],
        [(":status", "403"), ("content-length", "1"), ("content-length", "2")],
        [(":status", "403"), ("content-length", "x")],
    ],
    ids=str,
)
async def test_responses_with_malformed_headers(
    headers: Pairs, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    await check_responses(monkeypatch, lambda peer, stream: peer.headers(stream, headers), InvalidHandshake)


RESPONSES: dict[str, Callable[[RawPeer, int], bytes]] = {
    "data first": lambda peer, stream: frame(DATA, 0, stream, b"x"),
    "101": lambda peer, stream: peer.headers(stream, [(":status", "101")]),
    "interim with the end": lambda peer, stream: peer.headers(stream, [(":status", "103")], end=True),
    "interim with two": lambda peer, stream: peer.headers(stream, [(":status", "103"), (":status", "103")]),
    "interim in upper case": lambda peer, stream: peer.headers(stream, [(":status", "103"), ("Link", "a")]),
}


@pytest.mark.parametrize("kind", RESPONSES)
async def test_responses_in_a_wrong_order(
    kind: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    error = await check_responses(monkeypatch, RESPONSES[kind], ConnectFailed)
    assert "the peer has violated HTTP/2" in str(error)


BODIES: dict[str, Callable[[RawPeer, int], bytes]] = {
    "too long": lambda peer, stream: frame(DATA, 0, stream, b"123456"),
    "too short": lambda peer, stream: frame(DATA, 0, stream, b"1234") + peer.headers(stream, [("x", "y")], end=False),
    "interim": lambda peer, stream: peer.headers(stream, [(":status", "103")]),
    "second": lambda peer, stream: peer.headers(stream, [(":status", "403")], end=True),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_responses_with_a_malformed_body(
    kind: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The status is known by then, and more useful than the violation."""

    def answer(peer: RawPeer, stream: int) -> bytes:
        return peer.headers(stream, [(":status", "403"), ("content-length", "5")]) + BODIES[kind](peer, stream)

    error = await check_responses(monkeypatch, answer, InvalidStatus)
    assert isinstance(error, InvalidStatus)
    assert error.response.status_code == 403


async def test_responses_that_are_not_malformed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(peer: RawPeer, number: int) -> None:
        await peer.start(ENABLE_CONNECT=1)
        stream = (await peer.receive_kind(HEADERS)).stream
        interim = peer.headers(stream, [(":status", "103"), ("link", "a")])
        # The length means nothing (RFC 9110, section 9.3.6).
        final = peer.headers(stream, [(":status", "200"), ("content-length", "1"), ("content-length", "2")])
        await peer.send(2 * interim + final + frame(DATA, 0, stream, b"\x81\x02hi"))
        await peer.receive(lambda each: each.kind == DATA and each.payload[:1] == b"\x88")
        await peer.send(frame(DATA, END_STREAM, stream, b"\x88\x02\x03\xe8"))
        for status in ("304", "204"):
            stream = (await peer.receive_kind(HEADERS)).stream
            await peer.send(peer.headers(stream, [(":status", status), ("content-length", "5")], end=True))
        await peer.receive_all()

    async with raw_servers(monkeypatch, serve), HTTP2Pool() as pool:
        async with connect(pool=pool) as ws:
            assert await ws.receive() == "hi"
        with pytest.raises(InvalidStatus, match="304"):
            async with connect(pool=pool):
                pass
        assert pool.connections == 1
