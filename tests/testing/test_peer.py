"""A peer controlled frame by frame: ``ScriptedPeer``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_ws
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectionClosedError,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidStatus,
    ProtocolError,
)
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.http11 import Request, RequestParser, Response
from trio_ws.protocol.codec import serialize
from trio_ws.protocol.handshake import accept
from trio_ws.testing import (
    Role,
    ScriptedPeer,
)

from ..support import (
    KEY,
    OTHER,
    URI,
    Streams,
    binary,
    close,
    cont,
    each_role,
    memory_pair,
    one_byte_pair,
    parse_frames,
    ping,
    pipe_pair,
    pong,
    split_frames,
    text,
)
from .streams import BEFORE_ACCEPT, at_every_point, cancel_at, each_moment, log_of

# -- The opening handshake -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [memory_pair, one_byte_pair, trio.testing.lockstep_stream_pair])
async def test_the_peer_as_a_server(pair: Callable[[], Streams], autojump_clock: MockClock) -> None:
    ours, theirs = pair()
    peer = ScriptedPeer(theirs)
    assert peer.stream is theirs
    assert peer.role is Role.SERVER
    requests = []

    async def follow() -> None:
        requests.append(await peer.handshake())
        await peer.send(text("half a mess", fin=False), ping(b"?"))
        assert await peer.receive() == pong(b"?")
        await peer.send(cont(b"age", fin=True))
        assert await peer.receive() == text("thanks")
        assert await peer.receive() == close()
        await peer.send(close())
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        async with trio_ws.connect_over(ours, URI, subprotocols=["chat"]) as ws:
            assert await ws.receive() == "half a message"
            await ws.send("thanks")
            # The client offered them, but the peer accepts neither subprotocol nor extensions.
            assert ws.subprotocol is None
            assert "Sec-WebSocket-Extensions" not in ws.response.headers
    assert requests == [ws.request]
    assert isinstance(requests[0], Request)
    assert requests[0].headers["Sec-WebSocket-Protocol"] == "chat"


@pytest.mark.parametrize("pair", [memory_pair, one_byte_pair, trio.testing.lockstep_stream_pair])
async def test_the_peer_as_a_client(pair: Callable[[], Streams], autojump_clock: MockClock) -> None:
    ours, theirs = pair()
    peer = ScriptedPeer(theirs, Role.CLIENT)
    assert peer.role is Role.CLIENT
    responses: list[object] = []

    async def handler(ws: WebSocket) -> None:
        responses.append(ws.response)
        assert ws.subprotocol is None
        async for message in ws:
            await ws.send(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, ours, handler, subprotocols=["chat"]))
        responses.append(await peer.handshake())
        await peer.send(text("é"), binary(b"\x00"))
        assert await peer.receive() == text("é")
        assert await peer.receive() == binary(b"\x00")
        await peer.send(close(4000))
        assert await peer.receive() == close(4000)
        assert await peer.receive() is None
        await peer.aclose()
    assert responses[0] == responses[1]
    assert isinstance(responses[0], Response)
    assert "Sec-WebSocket-Extensions" not in responses[0].headers


@pytest.mark.parametrize(
    "data, error",
    [
        (b"", InvalidMessage),
        (b"GET / HTTP/1.1\r\nHost: test\r\n", InvalidMessage),
        (b"\x16\x03\x01\r\n\r\n", InvalidMessage),
        (b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", InvalidHeader),
        (b"POST / HTTP/1.1\r\nHost: test\r\n\r\n", InvalidMethod),
    ],
)
async def test_a_client_with_an_invalid_request(data: bytes, error: type[InvalidHandshake]) -> None:
    ours, theirs = pipe_pair(logged=True)
    await ours.send_all(data)
    await ours.send_eof()
    with pytest.raises(error):
        await ScriptedPeer(theirs).handshake()
    assert log_of(theirs) == b""


@pytest.mark.parametrize(
    "data, error",
    [
        (b"", InvalidMessage),
        (b"HTTP/1.1 101 Switching", InvalidMessage),
        (b"+OK ready\r\n\r\n", InvalidMessage),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone", InvalidStatus),
        (BEFORE_ACCEPT + b"wrong\r\n\r\n", InvalidHeader),
    ],
)
async def test_a_server_with_an_invalid_response(data: bytes, error: type[InvalidHandshake]) -> None:
    ours, theirs = pipe_pair(logged=True)
    await ours.send_all(data)
    await ours.send_eof()
    with pytest.raises(error):
        await ScriptedPeer(theirs, Role.CLIENT).handshake()
    assert log_of(theirs).startswith(b"GET / HTTP/1.1\r\n")


@each_role
async def test_the_connection_of_the_peer_is_lost(role: Role) -> None:
    for call in (ScriptedPeer.handshake, ScriptedPeer.receive):
        ours, theirs = pipe_pair()
        ours.reset()
        with pytest.raises(trio.BrokenResourceError):
            await call(ScriptedPeer(theirs, role))


REQUEST = (
    b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@each_role
@pytest.mark.parametrize("step", [None, 1])
async def test_frames_received_with_the_handshake(role: Role, step: int | None) -> None:
    ours, theirs = pipe_pair(step=step)
    peer = ScriptedPeer(theirs, role)
    key = KEY if role is Role.SERVER else None
    wrong = b"\x83\x80"  # 3 is not an opcode
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.handshake)
        head = REQUEST
        if role is Role.CLIENT:
            requests = RequestParser()
            request = None
            while request is None:
                request = requests.feed(await ours.receive_some())
            head = accept(request)[0].serialize()
        await ours.send_all(head + serialize(text("a"), key) + serialize(ping(), key) + wrong)
    assert await peer.receive() == text("a")
    assert await peer.receive() == ping()
    with pytest.raises(ProtocolError):
        await peer.receive()


# -- Frames ----------------------------------------------------------------------------------------------------------


FRAMES = [
    text(""),
    text("é"),
    text(b"\xff"),
    text("not the end", fin=False),
    cont(b"in the middle"),
    cont(b"the end", fin=True),
    binary(bytes(125)),
    binary(bytes(126)),
    binary(bytes(0xFFFF)),
    binary(bytes(0x10000), fin=False),
    ping(),
    ping(bytes(125)),
    pong(b"unasked"),
    Frame(Opcode.TEXT, b"a", rsv1=True),
    Frame(Opcode.BINARY, b"b", False, rsv2=True, rsv3=True),
    Frame(Opcode.CLOSE, b""),
    close(4000, "reason"),
    text("after the end"),
]


@each_role
async def test_frames(role: Role) -> None:
    ours, theirs = pipe_pair(1_000_000, logged=True)
    peer, other = ScriptedPeer(ours, role), ScriptedPeer(theirs, OTHER[role])
    await peer.send(*FRAMES)
    assert ours.writes == 1
    assert [await other.receive() for _ in FRAMES] == FRAMES
    await peer.aclose()
    assert ours.closed
    assert await other.receive() is None
    assert await other.receive() is None
    # The bytes are right according to an independent parser.
    frames, rest = split_frames(log_of(ours), masked=role is Role.CLIENT)
    assert rest == b""
    assert [payload for _, payload in frames] == [frame.data for frame in FRAMES]
    assert [first for first, _ in frames[-5:]] == [0xC1, 0x32, 0x88, 0x88, 0x81]
    # The peer has not answered by itself.
    assert log_of(theirs) == b""


@each_role
async def test_frames_in_pieces(role: Role) -> None:
    frames = [frame for frame in FRAMES if len(frame.data) < 0xFFFF]
    data = b"".join(serialize(frame, KEY if role is Role.SERVER else None) for frame in frames)
    ours, theirs = pipe_pair(step=1)
    await ours.send_all(data)
    await ours.send_eof()
    peer = ScriptedPeer(theirs, role)
    assert [await peer.receive() for _ in frames] == frames
    assert await peer.receive() is None


async def test_a_client_masks_with_the_same_key() -> None:
    ours, _ = pipe_pair(logged=True)
    peer = ScriptedPeer(ours, Role.CLIENT)
    await peer.send(text("a" * 9))
    once = log_of(ours)
    await peer.send(text("a" * 9))
    assert log_of(ours) == once + once
    assert once[2:6] != bytes(4)
    assert b"aaa" not in once


@each_role
async def test_bytes_are_sent_unchanged(role: Role) -> None:
    ours, _ = pipe_pair(logged=True)
    peer = ScriptedPeer(ours, role)
    await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert log_of(ours) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await peer.send(b"\xff", ping(), b"\x00")
    masked = serialize(ping(), trio_ws.testing.peer.KEY if role is Role.CLIENT else None)
    assert log_of(ours)[25:] == b"\xff" + masked + b"\x00"
    await peer.send()
    assert ours.writes == 3
    assert parse_frames(log_of(ours)[26:-1], masked=role is Role.CLIENT) == ([ping()], b"")


@each_role
async def test_only_frames_and_bytes_can_be_sent(role: Role) -> None:
    ours, _ = pipe_pair(logged=True)
    with pytest.raises(TypeError, match="each of frames must be a Frame or bytes, not 'x'"):
        await ScriptedPeer(ours, role).send(ping(), "x")  # type: ignore[arg-type]  # wrong on purpose
    assert log_of(ours) == b""


@each_role
@pytest.mark.parametrize("frame", [binary(bytes(200), fin=False), ping(b"abc"), text("a")])
async def test_the_end_within_a_frame(role: Role, frame: Frame) -> None:
    key = KEY if role is Role.SERVER else None
    data = serialize(frame, key)
    for size in range(len(data) + 1):
        ours, theirs = pipe_pair()
        await ours.send_all(serialize(text("before"), key) + data[:size])
        await ours.send_eof()
        peer = ScriptedPeer(theirs, role)
        assert await peer.receive() == text("before")
        if size == len(data):
            assert await peer.receive() == frame
        if 0 < size < len(data):
            for _ in range(2):
                with pytest.raises(ProtocolError, match="within a frame"):
                    await peer.receive()
        else:
            assert await peer.receive() is None


def bad_frames(role: Role) -> dict[str, bytes]:
    """Return byte strings that are not valid frames for a peer in this role."""
    mask, key = (0x80, bytes(4)) if role is Role.SERVER else (0, b"")
    return {
        "masked or not": bytes([0x81, 0x01 | (mask ^ 0x80)]) + (b"a" if mask else bytes(4) + b"a"),
        "opcode": bytes([0x83, mask]) + key,
        "fragmented ping": bytes([0x09, mask]) + key,
        "long ping": bytes([0x89, mask | 126, 0, 126]) + key + bytes(126),
        "length": bytes([0x82, mask | 126, 0, 1]) + key + b"a",
        "bit in the middle": bytes([0xC0, mask]) + key,
        "bit of a ping": bytes([0xA9, mask]) + key,
        "short Close": bytes([0x88, mask | 1]) + key + b"\x03",
        "close code": bytes([0x88, mask | 2]) + key + b"\x03\xed",
        "close reason": bytes([0x88, mask | 3]) + key + b"\x03\xe8\xff",
    }


@each_role
@pytest.mark.parametrize("kind", bad_frames(Role.SERVER))
@pytest.mark.parametrize("step", [None, 1])
async def test_invalid_frames(role: Role, kind: str, step: int | None) -> None:
    key = KEY if role is Role.SERVER else None
    ours, theirs = pipe_pair(step=step)
    await ours.send_all(b"".join(serialize(each, key) for each in (text("a", fin=False), ping())))
    await ours.send_all(bad_frames(role)[kind] + serialize(text("after"), key))
    peer = ScriptedPeer(theirs, role)
    assert await peer.receive() == text("a", fin=False)
    assert await peer.receive() == ping()
    for _ in range(2):
        with pytest.raises(ProtocolError):
            await peer.receive()


@each_role
@each_moment
async def test_receive_is_cancelled(role: Role, before: bool) -> None:
    frames = [text("a", fin=False), ping(b"b"), cont(b"c" * 200, fin=True), text("d")]

    async def run(number: int) -> bool:
        ours, theirs = pipe_pair(5, step=3)
        peer, other = ScriptedPeer(theirs, role), ScriptedPeer(ours, OTHER[role])
        received: list[Frame | None] = []

        async def call() -> None:
            while len(received) < len(frames):
                received.append(await peer.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.send, *frames)
            _, fired = await cancel_at(number, before, call)
            await call()
        assert received == frames
        return fired

    assert await at_every_point(run) > 100


async def test_violations_of_a_peer_end_the_connection(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    peer = ScriptedPeer(theirs)

    async def follow() -> None:
        await peer.handshake()
        await peer.send(cont(b"of nothing", fin=True))
        frame = await peer.receive()
        assert frame is not None
        assert Close.parse(frame.data).code == 1002
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        async with trio_ws.connect_over(ours, URI) as ws:
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.receive()
            assert isinstance(raised.value.__cause__, ProtocolError)


async def test_the_peer_does_not_answer_by_itself(autojump_clock: MockClock) -> None:
    ours, theirs = memory_pair()
    peer = ScriptedPeer(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.handshake)
        async with trio_ws.connect_over(ours, URI, ping_interval=5, ping_timeout=3) as ws:
            with pytest.raises(ConnectionClosedError) as raised:
                await ws.receive()
    assert raised.value.sent == Close(1011, "keepalive ping timeout")
    assert trio.current_time() == 8
    frame = await peer.receive()
    assert frame is not None
    assert frame.opcode is Opcode.PING
    assert await peer.receive() == close(1011, "keepalive ping timeout")
    assert await peer.receive() is None
