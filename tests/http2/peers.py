"""A raw peer of HTTP/2, and servers for it. It shares nothing with the package: it has only hpack in common with h2."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import hpack
import trio
import trio.testing

import trio_ws
from trio_ws.server.server import Handler, Server

from ..server.clients import MemoryListener
from ..support import echo

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 1
END_HEADERS = 4
PADDED = 8
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM, HTTP_1_1_REQUIRED = 6, 7, 8, 11, 13
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, ENABLE_CONNECT = 3, 4, 5, 6, 8

CONNECT = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":path", "/"),
    (":authority", "example.org"),
    ("sec-websocket-version", "13"),
]
GET = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "example.org")]


@attrs.frozen
class Frame:
    """A received frame. ``headers`` are those of a HEADERS frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    headers: dict[str, str] = attrs.field(factory=dict)

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY frame."""
        return int.from_bytes(self.payload[:4] if self.kind == RST_STREAM else self.payload[4:8], "big")

    @property
    def ends(self) -> bool:
        return bool(self.flags & END_STREAM)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values: int) -> bytes:
    payload = b"".join(struct.pack(">HI", globals()[name], value) for name, value in values.items())
    return frame(SETTINGS, payload=payload)


def masked(data: bytes, opcode: int = 1) -> bytes:
    """Return a short message of a client."""
    return bytes([0x80 | opcode, 0x80 | len(data)]) + bytes(4) + data


def close_frame(code: int = 1000) -> bytes:
    return masked(code.to_bytes(2, "big"), 8)


class RawPeer:
    """One end of an HTTP/2 connection, frame by frame."""

    def __init__(self, stream: trio.abc.Stream, *, is_client: bool = True) -> None:
        self.stream = stream
        self._is_client = is_client
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._buffer = b""
        self._skip = 0 if is_client else len(PREFACE)
        #: All frames that were received.
        self.frames: list[Frame] = []

    async def start(self, **values: int) -> None:
        """Send the preface and the settings, and acknowledge those of the peer."""
        await self.send((PREFACE if self._is_client else b"") + settings(**values))
        await self.receive(lambda each: each.kind == SETTINGS and not each.flags)
        await self.send(frame(SETTINGS, ACK))

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    def headers(
        self, stream: int, headers: Sequence[tuple[str, str]], *, end: bool = False, flags: int = END_HEADERS
    ) -> bytes:
        block = self._encoder.encode(headers)
        return frame(HEADERS, flags | (END_STREAM if end else 0), stream, block)

    def encode(self, headers: Sequence[tuple[str, str]]) -> bytes:
        block: bytes = self._encoder.encode(headers)
        return block

    async def next_frame(self) -> Frame | None:
        """Return the next frame; None at the end of the stream."""
        while True:
            if self._skip and len(self._buffer) >= self._skip:
                self._buffer, self._skip = self._buffer[self._skip :], 0
            size = 9 + int.from_bytes(self._buffer[:3], "big")
            if not self._skip and len(self._buffer) >= max(size, 9):
                break
            try:
                data = bytes(await self.stream.receive_some())
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        kind, flags = self._buffer[3], self._buffer[4]
        stream = int.from_bytes(self._buffer[5:9], "big")
        payload = self._buffer[9:size]
        self._buffer = self._buffer[size:]
        headers = {str(k): str(v) for k, v in self._decoder.decode(payload)} if kind == HEADERS else {}
        received = Frame(kind, flags, stream, payload, headers)
        self.frames.append(received)
        return received

    async def receive(self, matches: Callable[[Frame], object]) -> Frame:
        """Receive frames until one matches, and return it."""
        while True:
            received = await self.next_frame()
            assert received is not None, f"the connection ended after {self.frames}"
            if matches(received):
                return received

    async def receive_kind(self, kind: int, stream: int | None = None) -> Frame:
        return await self.receive(lambda each: each.kind == kind and (stream is None or each.stream == stream))

    async def receive_all(self) -> list[Frame]:
        """Receive frames until the end of the stream, and return them."""
        count = len(self.frames)
        while await self.next_frame() is not None:
            pass
        return self.frames[count:]

    async def open(self, stream: int = 1, headers: Sequence[tuple[str, str]] = CONNECT) -> Frame:
        """Request a WebSocket, and return the response."""
        await self.send(self.headers(stream, headers))
        return await self.receive_kind(HEADERS, stream)


@asynccontextmanager
async def serving(
    handler: Handler = echo, listener: MemoryListener | None = None, **options: Any
) -> AsyncIterator[tuple[MemoryListener, Server]]:
    """Serve HTTP/2 with prior knowledge over streams in memory."""
    options.setdefault("compression", None)
    listener = listener or MemoryListener()
    serve = partial(trio_ws.serve, handler, listeners=[listener], http2="prior-knowledge", **options)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        yield listener, server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw_client(handler: Handler = echo, **options: Any) -> AsyncIterator[RawPeer]:
    """Yield a raw client of a server that was just started."""
    async with serving(handler, **options) as (listener, _):
        peer = RawPeer(listener.connect())
        await peer.start()
        yield peer
