"""Helpers of all tests: scripted peers, socket-like streams, failing streams, TLS contexts.

The peer parses frames independently of the package, so the bytes on the wire are checked against the RFC.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from trio_ws.connection.core import Connection
from trio_ws.connection.session import Session
from trio_ws.connection.stream import StreamAdapter
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import ConnectionClosed
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.http11 import Request, RequestParser, Response, ResponseParser
from trio_ws.protocol import Message, Role
from trio_ws.protocol.codec import serialize
from trio_ws.protocol.extensions import Extension
from trio_ws.protocol.handshake import accept, build_request, check_response
from trio_ws.settings import Options, Settings
from trio_ws.uri import parse_uri

if TYPE_CHECKING:
    from typing_extensions import Unpack

ROLES = [Role.CLIENT, Role.SERVER]
OTHER = {Role.CLIENT: Role.SERVER, Role.SERVER: Role.CLIENT}
each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.value)

URI = "ws://example.org/"
KEY = b"\x37\xfa\x21\x3d"

#: Seconds of real time after which a test hangs. Nothing takes as long, however busy the machine is.
HANGS = 120

Stream = trio.abc.Stream
Streams = tuple[Stream, Stream]


# -- Frames ----------------------------------------------------------------------------------------------------------


def text(data: str | bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.TEXT, data.encode() if isinstance(data, str) else data, fin)


def binary(data: bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.BINARY, data, fin)


def cont(data: bytes, fin: bool = False) -> Frame:
    return Frame(Opcode.CONT, data, fin)


def ping(data: bytes = b"") -> Frame:
    return Frame(Opcode.PING, data)


def pong(data: bytes = b"") -> Frame:
    return Frame(Opcode.PONG, data)


def close(code: int = 1000, reason: str = "") -> Frame:
    return Frame(Opcode.CLOSE, Close(code, reason).serialize())


def kinds(frames: Iterable[Frame]) -> list[Opcode]:
    return [frame.opcode for frame in frames]


def split_frames(data: bytes, *, masked: bool) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split data into frames, as pairs of first byte and payload. Also return the incomplete rest.

    This implements RFC 6455, section 5.2.
    """
    frames = []
    while len(data) >= 2:
        first, second = data[0], data[1]
        assert bool(second & 0x80) is masked
        width = {126: 2, 127: 8}.get(second & 0x7F, 0)
        start = 2 + width + (4 if masked else 0)
        if len(data) < start:
            break
        size = int.from_bytes(data[2 : 2 + width], "big") if width else second & 0x7F
        assert size >= {0: 0, 2: 126, 8: 0x10000}[width]
        payload = data[start : start + size]
        if len(payload) < size:
            break
        if masked:
            pad = (data[start - 4 : start] * (size // 4 + 1))[:size]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
        frames.append((first, payload))
        data = data[start + size :]
    return frames, data


def parse_frames(data: bytes, *, masked: bool) -> tuple[list[Frame], bytes]:
    """Return the frames in the data, without extensions, and the incomplete rest."""
    frames, rest = split_frames(data, masked=masked)
    assert not any(first & 0x70 for first, _ in frames)
    return [Frame(Opcode(first & 0x0F), payload, bool(first & 0x80)) for first, payload in frames], rest


def read_messages(frames: Iterable[Frame]) -> tuple[list[Message], Frame | None, bytes | None]:
    """Check the order of frames, and return the messages in them.

    Returns:
        The messages, the Close frame or None, and the beginning of an incomplete message.
    """
    messages: list[Message] = []
    opcode = Opcode.CONT
    data = b""
    closed = None
    for frame in frames:
        assert closed is None, "nothing follows a Close frame"
        if frame.opcode is Opcode.CLOSE:
            closed = frame
        elif frame.opcode < Opcode.CLOSE:
            assert (frame.opcode is Opcode.CONT) is (opcode is not Opcode.CONT)
            opcode = frame.opcode or opcode
            data += frame.data
            if frame.fin:
                messages.append(data.decode() if opcode is Opcode.TEXT else data)
                opcode, data = Opcode.CONT, b""
    return messages, closed, None if opcode is Opcode.CONT else data


# -- Streams ---------------------------------------------------------------------------------------------------------


class _Pipe:
    """One direction, which buffers at most ``capacity`` bytes. ``log`` has everything written, if it is kept."""

    def __init__(self, capacity: int, logged: bool) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.log = bytearray() if logged else None
        self.ended = False
        self.broken = False
        self.changed = trio.lowlevel.ParkingLot()


class PipeStream(trio.abc.HalfCloseableStream):
    """A socket-like stream: writes wait while the buffer is full, and a cancelled write may be incomplete.

    Args:
        incoming: The direction from the other end.
        outgoing: The direction to the other end.
        step: Maximum number of bytes that one call of ``receive_some`` returns.
    """

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, step: int | None) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.step = step
        self.closed = False
        #: Number of writes, and number of times it was closed.
        self.writes = 0
        self.closings = 0
        self._busy_sending = False
        self._busy_receiving = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._busy_sending:
            raise trio.BusyResourceError("another task is sending")
        self._busy_sending = True
        try:
            await trio.lowlevel.checkpoint()
            self.writes += 1
            pipe = self.outgoing
            rest = memoryview(data)
            while True:
                if self.closed or pipe.ended:
                    raise trio.ClosedResourceError
                if pipe.broken:
                    raise trio.BrokenResourceError
                room = pipe.capacity - len(pipe.data)
                pipe.data += rest[:room]
                if pipe.log is not None:
                    pipe.log += rest[:room]
                rest = rest[room:]
                pipe.changed.unpark_all()
                if not rest:
                    return
                await pipe.changed.park()
        finally:
            self._busy_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        while len(self.outgoing.data) >= self.outgoing.capacity:
            await self.outgoing.changed.park()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._busy_receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._busy_receiving = True
        try:
            await trio.lowlevel.checkpoint()
            pipe = self.incoming
            while not pipe.data:
                if self.closed:
                    raise trio.ClosedResourceError
                if pipe.broken:
                    raise trio.BrokenResourceError
                if pipe.ended:
                    return b""
                await pipe.changed.park()
            size = min(each for each in (len(pipe.data), max_bytes, self.step) if each is not None)
            data = bytes(pipe.data[:size])
            del pipe.data[:size]
            pipe.changed.unpark_all()
            return data
        finally:
            self._busy_receiving = False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self.outgoing.ended = True
        self.outgoing.changed.unpark_all()

    def reset(self) -> None:
        """Break both directions, like a TCP reset. Buffered data is lost."""
        for pipe in (self.incoming, self.outgoing):
            pipe.data.clear()
            pipe.broken = True
            pipe.changed.unpark_all()

    async def aclose(self) -> None:
        self.closings += 1
        if not self.closed:
            self.closed = True
            self.outgoing.ended = True
            self.incoming.broken = True
            self.incoming.data.clear()
            self.outgoing.changed.unpark_all()
            self.incoming.changed.unpark_all()
        await trio.lowlevel.checkpoint()


def pipe_pair(capacity: int = 65536, *, step: int | None = None, logged: bool = False) -> tuple[PipeStream, PipeStream]:
    """Return both ends of a connection that buffers ``capacity`` bytes each way, and delivers ``step`` at a time."""
    there, back = _Pipe(capacity, logged), _Pipe(capacity, logged)
    return PipeStream(back, there, step), PipeStream(there, back, step)


def sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return both ends of a socket pair on which written data arrives immediately."""
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


def reset(stream: trio.SocketStream) -> None:
    """Close a socket with a RST instead of a FIN."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def memory_pair() -> Streams:
    return trio.testing.memory_stream_pair()


def lockstep_pair() -> Streams:
    return trio.testing.lockstep_stream_pair()


def one_byte_pair() -> Streams:
    return pipe_pair(1, step=1)


def server_context(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    """Return a context with a certificate for these names, or for this machine.

    Args:
        authority: It issues the certificate.
        names: Host names and IP addresses.
        options: Options of ``authority.issue_cert``.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*(names or ("localhost", "127.0.0.1")), **options).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """Return a context that trusts this authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@lru_cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    return client_context(authority), server_context(authority, "example.org")


def tls_pair(below: Streams | None = None) -> Streams:
    """Return the client's and the server's end of TLS, over memory or other streams. The handshake is not done yet."""
    client, server = _contexts()
    ours, theirs = below or memory_pair()
    return (
        trio.SSLStream(ours, client, server_hostname="example.org", https_compatible=True),
        trio.SSLStream(theirs, server, server_side=True, https_compatible=True),
    )


#: The kinds of streams that a connection must support, by name.
PAIRS: dict[str, Callable[[], Streams]] = {
    "memory": memory_pair,
    "lockstep": lockstep_pair,
    "pipe": pipe_pair,
    "one byte": one_byte_pair,
    "tls": tls_pair,
}


each_pair = pytest.mark.parametrize("kind", PAIRS)


class Wrapped(trio.abc.Stream):
    """A stream that passes all calls to another one. Tests override one of them."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def read_to_end(stream: Stream) -> bytes:
    """Read until the end of a stream."""
    data = b""
    while portion := await stream.receive_some():
        data += portion
    return data


@attrs.define(eq=False)
class Faulty(trio.abc.Stream):
    """A stream that can be told to fail.

    Attributes:
        stream: The stream below.
        send_error: The exception that ``send_all`` raises after it has written the first ``sent_before`` bytes.
        receive_error: The exception that ``receive_some`` raises.
        close_error: The exception that ``aclose`` raises after it has closed the stream.
        closing: An event that ``aclose`` waits for.
        on_receive: Called with each ``receive_some``.
    """

    stream: trio.abc.Stream
    send_error: BaseException | None = None
    sent_before: int = 0
    receive_error: BaseException | None = None
    close_error: BaseException | None = None
    closing: trio.Event | None = None
    on_receive: Callable[[], object] | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.send_error is not None:
            if self.sent_before:
                await self.stream.send_all(data[: self.sent_before])
            raise self.send_error
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.on_receive is not None:
            self.on_receive()
        if self.receive_error is not None:
            raise self.receive_error
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        try:
            if self.closing is not None:
                await self.closing.wait()
        finally:
            await self.stream.aclose()
        if self.close_error is not None:
            raise self.close_error


#: A way to send bytes: in how many pieces, and what comes after them.
Send = Callable[[trio.abc.Stream, bytes], Awaitable[None]]


async def in_one_piece(stream: trio.abc.Stream, data: bytes) -> None:
    await stream.send_all(data)


async def in_bytes(stream: trio.abc.Stream, data: bytes) -> None:
    portion = 1 + len(data) // 4096  # larger portions for very long data
    for i in range(0, len(data), portion):
        await stream.send_all(data[i : i + portion])


async def and_eof(stream: trio.abc.Stream, data: bytes) -> None:
    await stream.send_all(data)
    assert isinstance(stream, trio.abc.HalfCloseableStream)
    await stream.send_eof()


# -- Peers -----------------------------------------------------------------------------------------------------------


class FrameCut(Exception):
    """The connection ended in the middle of a frame."""


class Peer:
    """The other end of a connection. It does only what the test tells it, valid or not.

    Args:
        stream: The stream to the tested connection.
        role: The role of this peer.
    """

    def __init__(self, stream: trio.abc.Stream, role: Role = Role.SERVER) -> None:
        self.stream = stream
        self.role = role
        self._frames: list[Frame] = []
        self._rest = b""
        self._sending = trio.Lock()

    async def handshake(self, **headers: str) -> None:
        """Do the opening handshake."""
        if self.role is Role.SERVER:
            requests = RequestParser()
            request = None
            while request is None:
                request = requests.feed(await self._receive_some())
            response, _ = accept(request)
            await self.stream.send_all(response.serialize())
        else:
            request = build_request(parse_uri(URI), random=os.urandom)
            await self.stream.send_all(request.serialize())
            responses = ResponseParser()
            answer = None
            while answer is None:
                answer = responses.feed(await self._receive_some())
            check_response(request, answer)
            self._rest = responses.unused

    async def send(self, *frames: Frame | bytes) -> None:
        """Send frames, or raw bytes, in one write."""
        key = KEY if self.role is Role.CLIENT else None
        data = b"".join(frame if isinstance(frame, bytes) else serialize(frame, key) for frame in frames)
        async with self._sending:
            await self.stream.send_all(data)

    async def receive(self) -> Frame | None:
        """Return the next frame, or None at the end."""
        while not self._frames:
            data = await self._receive_some()
            if not data:
                if self._rest:
                    raise FrameCut
                return None
            self._frames, self._rest = parse_frames(self._rest + data, masked=self.role is Role.SERVER)
        return self._frames.pop(0)

    async def receive_all(self) -> list[Frame]:
        """Return all frames until the end."""
        frames = []
        while (frame := await self.receive()) is not None:
            frames.append(frame)
        return frames

    async def receive_bytes(self) -> bytes:
        """Return all bytes until the end."""
        received = bytearray()
        while data := await self._receive_some():
            received += data
        return bytes(received)

    async def behave(self, *, pongs: bool = True) -> list[Frame]:
        """Answer the Close frame, and pings unless disabled, until the end. Return all frames."""
        frames: list[Frame] = []
        while True:
            try:
                frame = await self.receive()
                if frame is None:
                    return frames
                frames.append(frame)
                if frame.opcode is Opcode.PING and pongs:
                    await self.send(pong(frame.data))
                elif frame.opcode is Opcode.CLOSE:
                    await self.send(frame)
                    if self.role is Role.SERVER:
                        await self.stream.aclose()
                        return frames
            except (trio.BrokenResourceError, FrameCut):
                return frames

    async def _receive_some(self) -> bytes:
        return bytes(await self.stream.receive_some(65536))


def born_open(
    stream: trio.abc.Stream, role: Role = Role.CLIENT, extensions: Sequence[Extension] = (), **options: Unpack[Options]
) -> Session:
    """Return a session on an open connection, without an opening handshake."""
    connection = Connection(role, StreamAdapter(stream), Settings(**options), extensions)
    return Session(WebSocket(connection, Request("/", {"Host": "example.org"}), Response(101, "", {}), None))


class opened:
    """Yield an open WebSocket over memory, and its peer: ``async with opened() as (ws, peer)``.

    At the end of the block the peer disconnects first, so that nothing has to wait. The tests of sessions cover leaving
    the block.
    """

    def __init__(
        self,
        role: Role = Role.CLIENT,
        streams: Streams | None = None,
        extensions: Sequence[Extension] = (),
        **options: Unpack[Options],
    ) -> None:
        ours, theirs = streams or memory_pair()
        self._peer = Peer(theirs, OTHER[role])
        self._session = born_open(ours, role, extensions, **options)

    async def __aenter__(self) -> tuple[WebSocket, Peer]:
        return await self._session.__aenter__(), self._peer

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await trio.aclose_forcefully(self._peer.stream)
        finally:
            await self._session.__aexit__(exc_type, exc, traceback)


@asynccontextmanager
async def both(
    streams: Streams | None = None, **options: Unpack[Options]
) -> AsyncIterator[tuple[WebSocket, WebSocket]]:
    """Yield a client's and a server's WebSocket that are connected with each other."""
    ours, theirs = streams or memory_pair()
    async with born_open(theirs, Role.SERVER, **options) as server:
        async with born_open(ours, Role.CLIENT, **options) as client:
            yield client, server


async def echo(ws: WebSocket) -> None:
    """Send back every message."""
    async for message in ws:
        await ws.send(message)


# -- Calls -----------------------------------------------------------------------------------------------------------


class Task:
    """A call in a task of its own, and its outcome.

    Attributes:
        scope: The cancel scope around the call.
        done: Whether the call ended without being cancelled.
        result: The return value.
        error: The exception raised.
    """

    def __init__(self, nursery: trio.Nursery, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        self.scope = trio.CancelScope()
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self._function = function
        self._args = args
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            try:
                self.result = await self._function(*self._args)
            except Exception as exc:
                self.error = exc
            self.done = True


async def attempt(call: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Call something, and cancel it once all tasks are blocked. Return the result, or None."""
    results = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def give_up() -> None:
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

        results.append(await call())
        nursery.cancel_scope.cancel()
    return results


async def cancelled(call: Callable[[], Awaitable[object]]) -> bool:
    """Call something in a cancelled scope. Return whether it was cancelled."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await call()
    return scope.cancelled_caught


async def stream_parts(ws: WebSocket, *parts: bytes) -> None:
    async with ws.send_stream() as out:
        for part in parts:
            await out.send(part)


async def peak_memory(call: Callable[[], Awaitable[object]]) -> int:
    """Return the peak of additional memory in use during a call, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        await call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


async def settle_and_cancel(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def ignore_closed(function: Callable[..., Awaitable[object]], *args: object) -> None:
    try:
        await function(*args)
    except ConnectionClosed:
        pass


# -- Programs --------------------------------------------------------------------------------------------------------


def find_program(name: str) -> str:
    """Return the path of a program. Skip the test if it is not installed, which is an error where CI installs it."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", ""), "/usr/sbin"])
    program = shutil.which(name, path=path)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program
