"""A tool that cancels a scenario at every point, and checks the results.

A scenario runs repeatedly: cancelled before it begins, at its first scheduling point, at its second, and so on, until
it ends before the cancellation. The points include those of other tasks, so the scenario is cancelled in every state
that the tasks of the connection and the peer can reach. The points are

- after each step of a task: the cancellation interrupts a wait, or takes effect at the next checkpoint;
- before a step that follows the passing of time or activity on the network.

(Before any other step nothing has changed since the step before, so that would be the same point again.)

After each run, :func:`at_every_point` checks that nothing was left behind. The peer, a :class:`RecordingPeer`, records
everything it receives. It is independent of the package, and decodes the opening handshake, the frames and the
compression according to RFC 6455 and RFC 7692.

The scenarios are in test_cancellation.py.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import random
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_ws
from trio_ws.connection import writer
from trio_ws.connection.session import Session
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import ConnectionClosed
from trio_ws.frames import Frame, Opcode
from trio_ws.protocol import Message, Role
from trio_ws.protocol.deflate import Deflate, PerMessageDeflate
from trio_ws.server.server import Handler, Server

from .support import HANGS, OTHER, PAIRS, URI, Streams, born_open, read_messages
from .test_compression import TAIL, Inflater

#: The property in which each test records its number of points. The summary of the test run adds them up.
PROPERTY = "cancellation points"

#: A function to cancel.
Call: TypeAlias = Callable[[], Awaitable[Any]]


# -- Points ----------------------------------------------------------------------------------------------------------


class Canceller(trio.abc.Instrument):
    """Cancels a scope at its n-th point. The first point is immediately."""

    def __init__(self, scope: trio.CancelScope, number: int) -> None:
        #: The time of the cancellation.
        self.fired_at: float | None = None
        self._scope = scope
        self._left = number
        self._in_step = True
        self._woken = False
        self._come_to_point()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        # Between two steps, the clock or the network may have changed something.
        self._woken = self._woken or not self._in_step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._in_step = True
        if self._woken:
            self._woken = False
            self._come_to_point()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._in_step = False
        self._come_to_point()

    def _come_to_point(self) -> None:
        self._left -= 1
        if not self._left:
            self.fired_at = trio.current_time()
            self._scope.cancel()


@attrs.define
class Outcome:
    """The outcome of a call that may have been cancelled.

    Attributes:
        cancelled: Whether the call raised ``Cancelled``.
        result: The return value otherwise.
        fired: Whether the call reached the point of its cancellation.
        took: Seconds from that point to the end of the call.
    """

    cancelled: bool = True
    result: Any = None
    fired: bool = False
    took: float = 0.0


async def cancel_at(number: int, call: Call) -> Outcome:
    """Call something, and cancel it at a point."""
    outcome = Outcome()
    with trio.CancelScope() as scope:
        canceller = Canceller(scope, number)
        trio.lowlevel.add_instrument(canceller)
        try:
            outcome.result = await call()
            outcome.cancelled = False
        finally:
            trio.lowlevel.remove_instrument(canceller)
    if canceller.fired_at is not None:
        outcome.fired = True
        outcome.took = trio.current_time() - canceller.fired_at
    return outcome


class Scheduling(random.Random):
    """A deterministic source of randomness for the order in which Trio runs tasks."""

    #: Number of points tried so far.
    points = 0


@pytest.fixture(name="shortcut", autouse=True)
def fixture_shortcut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the kind of stream that asks for it, let only the writer task write."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("kind") == SOCKETS_OF_WRITER:
        monkeypatch.setattr(writer, "WRITE_AT_ONCE", False)


def open_files() -> int:
    """Return the number of open file descriptors, or 0 on systems that do not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return 0


async def at_every_point(scheduling: Scheduling, run: Callable[[int], Awaitable[bool]], step: int = 1) -> int:
    """Run something with 1, 2, ... until there is no such point. Check after each run that nothing is left behind.

    Args:
        scheduling: The fixture.
        run: What to run.
        step: Distance between the points to try.

    Returns:
        The number of points.
    """

    def left() -> tuple[object, ...]:
        task = trio.lowlevel.current_task()
        return trio.lowlevel.current_statistics().tasks_living, list(task.child_nurseries), open_files()

    before = left()
    number = 1
    while True:
        scheduling.seed(0)
        fired = await run(number)
        await wait_all_tasks_blocked()
        assert left() == before
        if not fired:
            return number - 1
        scheduling.points += 1
        number += step


# -- Kinds of streams ------------------------------------------------------------------------------------------------


def socket_pair() -> Streams:
    """Return both ends of a connection over real sockets, with the smallest buffers that the system allows.

    Data written to a Unix socket arrives at the other end immediately, so a virtual clock does not
    run ahead of it.
    """
    pair = trio.socket.socketpair(socket.AF_UNIX)
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    return trio.SocketStream(pair[0]), trio.SocketStream(pair[1])


#: The kinds of streams that a connection must support, by name.
KINDS: dict[str, Callable[[], Streams]] = dict(PAIRS)

#: Only to sockets other tasks than the writer task write, so sockets have two variants.
SOCKETS = "sockets"
SOCKETS_OF_WRITER = "sockets, written to by the writer alone"
if hasattr(socket, "AF_UNIX"):
    KINDS[SOCKETS] = KINDS[SOCKETS_OF_WRITER] = socket_pair

#: The size of a message that takes several writes, for the kinds of streams whose buffers are limited.
LARGE = {"pipe": 70_000, "one byte": 6, SOCKETS: 10_000, SOCKETS_OF_WRITER: 10_000}

each_kind = pytest.mark.parametrize("kind", KINDS)


def pair_of(kind: str, role: Role) -> Streams:
    """Return the stream of the end with this role, and the stream of its peer."""
    client, server = KINDS[kind]()
    return (client, server) if role is Role.CLIENT else (server, client)


async def start_tls(streams: Streams) -> None:
    """Do the TLS handshake if the stream has TLS."""
    async with trio.open_nursery() as nursery:
        for stream in streams:
            if isinstance(stream, trio.SSLStream):
                nursery.start_soon(stream.do_handshake)


async def is_closed(stream: trio.abc.Stream) -> bool:
    """Return whether this end of a stream was closed by its owner."""
    try:
        await stream.send_all(b"")
    except trio.ClosedResourceError:
        return True
    except trio.BrokenResourceError:
        pass
    return False


# -- The peer --------------------------------------------------------------------------------------------------------


class Decoder(Inflater):
    """Decodes everything that one end of a connection has sent.

    Args:
        masked: Whether the bytes are from a client.
        extended: Whether messages may be compressed.
    """

    def __init__(self, *, masked: bool, extended: bool) -> None:
        super().__init__(masked=masked)
        self._extended = extended

    def check(self, expected: Sequence[Message]) -> tuple[list[Message], int | None]:
        """Check that everything is valid, except for one frame that may be truncated at the very end.

        Args:
            expected: The messages that may have been sent, in order. The last one may be incomplete.

        Returns:
            The whole messages, and the code of the Close frame.
        """
        assert self._extended or not any(self.marks)
        for frame in self.frames:
            if frame.opcode >= Opcode.CLOSE:
                assert frame.fin
                assert len(frame.data) <= 125
        messages, closed, part = read_messages(self.frames)
        assert messages == list(expected[: len(messages)])
        opcode, cut = self._cut()
        if opcode is not None:
            assert closed is None, "nothing follows a Close frame"
            if opcode < Opcode.CLOSE:
                assert (opcode is Opcode.CONT) is (part is not None)
                part = (part or b"") + cut
        if part:
            # Any bytes after a truncated frame would be decoded as the rest of its payload.
            message = expected[len(messages)]
            assert (message.encode() if isinstance(message, str) else message).startswith(part)
        if closed is None:
            return messages, None
        assert len(closed.data) >= 2
        closed.data[2:].decode()
        return messages, int.from_bytes(closed.data[:2], "big")

    def _cut(self) -> tuple[Opcode | None, bytes]:
        """Return the opcode and the payload of the truncated frame, as far as they were sent."""
        data = self._rest
        if not data:
            return None, b""
        first, second = data[0], data[1] if len(data) > 1 else 0
        opcode = Opcode(first & 0x0F)
        assert opcode < Opcode.CLOSE or (first & 0x80 and second & 0x7F <= 125)
        start = 2 + {126: 2, 127: 8}.get(second & 0x7F, 0)
        pad = bytes(4)
        if self._masked:
            start += 4
            pad = data[start - 4 : start]
        payload = bytes(byte ^ pad[i % 4] for i, byte in enumerate(data[start:]))
        if first & 0x40 or (opcode is Opcode.CONT and self._compressed is not None):
            payload = self._window.copy().decompress(payload)
        return opcode, payload


#: Items that a peer sends: a message, compressed if that was negotiated, or a raw frame.
Says: TypeAlias = Message | Frame

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


class RecordingPeer:
    """The peer. It sends its script, answers pings and the Close frame, and reads to the end.

    Args:
        role: The role of the peer.
        script: The items to send.
        compressed: Whether compression is in use; with a handshake, whether the peer offers or accepts it.
        handshake: Whether there is an opening handshake.
        answers_close: Whether the peer answers a Close frame.
    """

    def __init__(
        self, role: Role, script: Sequence[Says], *, compressed: bool, handshake: bool, answers_close: bool
    ) -> None:
        self.decoder = Decoder(masked=role is Role.SERVER, extended=compressed)
        self._role = role
        self._compressed = compressed
        self._handshake = handshake
        self._answers_close = answers_close
        self._compressor = zlib.compressobj(9, wbits=-15)
        # None ends the script.
        self._put, self._get = trio.open_memory_channel[bytes | None](math.inf)
        self._closing = False
        for each in script:
            self.say(each)

    def say(self, what: Says) -> None:
        """Send an item after all earlier ones."""
        if isinstance(what, Frame):
            first, data = (0x80 if what.fin else 0) | what.opcode, what.data
            self._closing |= what.opcode is Opcode.CLOSE
        else:
            first, data = (0x81, what.encode()) if isinstance(what, str) else (0x82, what)
            if self._compressed:
                first |= 0x40
                data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
                data = data.removesuffix(TAIL)
        assert len(data) <= 125
        if self._role is Role.SERVER:
            self._put.send_nowait(bytes([first, len(data)]) + data)
        else:
            data = bytes(byte ^ MASK[i % 4] for i, byte in enumerate(data))
            self._put.send_nowait(bytes([first, 0x80 | len(data)]) + MASK + data)

    async def run(self, stream: trio.abc.Stream) -> None:
        """Run until the connection ends, then close the stream."""
        try:
            async with trio.open_nursery() as nursery:
                await self._read(stream, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._put.close()
            self._get.close()
            await trio.aclose_forcefully(stream)

    async def _write(self, stream: trio.abc.Stream) -> None:
        try:
            async for data in self._get:
                if data is not None:
                    await stream.send_all(data)
                elif isinstance(stream, trio.abc.HalfCloseableStream):
                    await stream.send_eof()
                else:
                    await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the data received before still counts

    async def _read(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        try:
            data = await self._shake_hands(stream) if self._handshake else b""
            nursery.start_soon(self._write, stream)
            while True:
                count = len(self.decoder.frames)
                self.decoder.feed(data)
                for frame in self.decoder.frames[count:]:
                    self._answer(frame)
                data = bytes(await stream.receive_some())
                if not data:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass

    def _answer(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            self.say(Frame(Opcode.PONG, frame.data))
        elif frame.opcode is Opcode.CLOSE and self._answers_close:
            if not self._closing:
                self.say(frame)
            if self._role is Role.SERVER:
                self._put.send_nowait(None)  # the server closes the stream first

    async def _shake_hands(self, stream: trio.abc.Stream) -> bytes:
        """Do the opening handshake. Return the data received after it."""
        extensions = OFFER if self._compressed else b""
        common = b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + extensions
        if self._role is Role.CLIENT:
            start = b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            await stream.send_all(start + KEY + b"\r\n" + common + b"\r\n")
            head, data = await self._read_head(stream, b"HTTP/1.1 101 ", b"HTTP/1.1 503 ")
            if head.startswith(b"HTTP/1.1 503 "):
                await self._read_refusal(stream, head, data)
                raise EOFError
            assert b"\r\nSec-WebSocket-Accept: " + _answer_to(KEY) + b"\r\n" in head
            assert (b"\r\nSec-WebSocket-Extensions: permessage-deflate" in head) is self._compressed
        else:
            head, data = await self._read_head(stream, b"GET / HTTP/1.1\r\n")
            key = re.search(b"\r\nSec-WebSocket-Key: (.+)\r\n", head)
            assert key is not None
            assert b"\r\nSec-WebSocket-Extensions: permessage-deflate" in head or not self._compressed
            start = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: "
            await stream.send_all(start + _answer_to(key[1]) + b"\r\n" + common + b"\r\n")
        return data

    async def _read_refusal(self, stream: trio.abc.Stream, head: bytes, data: bytes) -> None:
        """Check that a server that was interrupted in the opening handshake sent a complete response or nothing."""
        while more := await stream.receive_some():
            data += more
        assert head.endswith(b"\r\nContent-Length: %d\r\n\r\n" % len(data))
        assert b"\r\nRetry-After: 5\r\n" in head

    async def _read_head(self, stream: trio.abc.Stream, *starts: bytes) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some()
            if not more:
                raise EOFError
            data += more
            assert any(data.startswith(start[: len(data)]) for start in starts)
        head, end, rest = data.partition(b"\r\n\r\n")
        return head + end, rest


def _answer_to(key: bytes) -> bytes:
    """Return the value of Sec-WebSocket-Accept (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


# -- What was said ---------------------------------------------------------------------------------------------------


class Talk:
    """A connection, its peer, and a record of the messages, as far as the user of the connection knows.

    Args:
        kind: The kind of streams.
        role: The role of the tested end.
        script: The items that the peer sends.
        compressed: Whether compression is in use.
        handshake: Whether there is an opening handshake.
        answers_close: Whether the peer answers a Close frame.
    """

    def __init__(
        self,
        kind: str,
        role: Role,
        script: Sequence[Says],
        *,
        compressed: bool,
        handshake: bool = False,
        answers_close: bool = True,
    ) -> None:
        self.peer = RecordingPeer(
            OTHER[role], script, compressed=compressed, handshake=handshake, answers_close=answers_close
        )
        #: A message larger than the buffers of the stream.
        self.large = b"x" * LARGE.get(kind, 1000)
        #: The messages passed to send(), and those whose send() returned.
        self.begun: list[Message] = []
        self.sent: list[Message] = []
        #: The message in parts that is being sent, as far as it was sent.
        self.unfinished = b""
        #: The messages of the peer, and the number of those that were received.
        self.script, closed, _ = read_messages(each if isinstance(each, Frame) else whole(each) for each in script)
        self.taken = 0
        #: Whether the peer closes the connection; and whether this end has closed it, or one direction of it.
        self.closed_by_peer = closed is not None
        self.closed = False
        self.half_closed = False
        #: The byte stream of the scenario, if any; and the bytes of the next message received so far.
        self.stream: trio_ws.ByteStream | None = None
        self._begun_to_take = b""

    async def send(self, ws: WebSocket, message: Message) -> None:
        self.begun.append(message)
        if self.stream is None:
            await ws.send(message)
        else:
            assert isinstance(message, bytes)
            await self.stream.send_all(message)
        self.sent.append(message)

    async def receive(self, ws: WebSocket) -> None:
        if self.stream is None:
            self.take(await ws.receive())
            return
        message = self.script[self.taken]
        while len(self._begun_to_take) < len(message):
            data = await self.stream.receive_some(1)
            assert len(data) == 1
            self._begun_to_take += data
        self.take(self._begun_to_take)
        self._begun_to_take = b""

    def take(self, message: Message) -> None:
        """Record that a message was received."""
        self.taken += 1
        assert message == self.script[self.taken - 1]

    def check(self, codes: Collection[int | None]) -> None:
        """Check the data that a cancelled connection sent."""
        _, code = self.peer.decoder.check(self.begun)
        assert code in codes

    def check_all(self, code: int) -> None:
        """Check the data that a connection sent that was not cancelled: nothing may be missing."""
        assert self.peer.decoder.is_whole
        assert self.peer.decoder.check(self.begun) == (self.sent, code)


def whole(message: Message) -> Frame:
    return Frame(Opcode.TEXT, message.encode()) if isinstance(message, str) else Frame(Opcode.BINARY, message)


#: Maximum duration of the end of a cancelled connection, in seconds of virtual time.
GOODBYE = 0.2 + 1e-6


# -- Scenarios: what is done with an open connection -----------------------------------------------------------------


@attrs.frozen
class Scenario:
    """A scenario for an open connection.

    Attributes:
        act: Runs the scenario with the public methods of a WebSocket, and updates the :class:`Talk`.
        calls: The public methods and functions that the scenario tests.
        script: The items that the peer sends.
        compressed: Whether compression is in use.
        answers_close: Whether the peer answers a Close frame.
        code: The expected close code.
    """

    act: Callable[[WebSocket, Talk], Awaitable[None]]
    calls: str
    script: Sequence[Says] = ()
    compressed: bool = False
    answers_close: bool = True
    code: int = 1000


async def cancel_session(kind: str, role: Role, scenario: Scenario, number: int) -> bool:
    """Cancel an open connection at one point, which may be in its closing. Return whether there was such a point."""
    talk = talk_about(kind, role, scenario)
    ours, theirs = await open_pair(kind, role)

    async def call() -> None:
        async with session_over(ours, role, scenario) as ws:
            await scenario.act(ws, talk)

    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.peer.run, theirs)
            outcome = await cancel_at(number, call)
            assert await is_closed(ours)
            # This lets the peer end by itself.
    assert outcome.took <= GOODBYE
    if outcome.cancelled:
        talk.check([None, 1011] if talk.unfinished else [None, 1000, 1001, scenario.code])
    else:
        assert talk.taken == len(talk.script)
        assert talk.sent == talk.begun
        talk.check_all(scenario.code)
    return outcome.fired


async def cancel_call(kind: str, role: Role, scenario: Scenario, number: int) -> bool:
    """Cancel a scenario at one point, then use the connection again. Return whether there was such a point."""
    talk = talk_about(kind, role, scenario)
    ours, theirs = await open_pair(kind, role)
    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.peer.run, theirs)
            async with session_over(ours, role, scenario) as ws:
                outcome = await cancel_at(number, partial(scenario.act, ws, talk))
                assert outcome.took <= GOODBYE
                assert outcome.cancelled or talk.taken == len(talk.script)
                assert outcome.cancelled or talk.sent == talk.begun
                if talk.closed:
                    assert await is_closed(ours)
                    with pytest.raises(trio.ClosedResourceError):
                        await ws.receive()
                else:
                    await use_on(talk, ws)
            assert await is_closed(ours)
    if talk.closed and outcome.cancelled:
        # The closing itself was cancelled, perhaps in the middle of a write.
        talk.check([None, scenario.code])
        return outcome.fired
    # The cancelled call has sent nothing, except parts of a message.
    talk.begun = [*talk.sent, talk.unfinished]
    talk.check_all(1011 if talk.unfinished else scenario.code if talk.closed or talk.half_closed else 1000)
    return outcome.fired


async def use_on(talk: Talk, ws: WebSocket) -> None:
    """Check that all methods work, or that all of them raise an error for a closed connection."""
    while talk.taken < len(talk.script):
        await talk.receive(ws)
    if talk.unfinished or talk.half_closed or talk.closed_by_peer:
        for call in (ws.receive, partial(ws.send, "!"), ws.ping):
            with pytest.raises(ConnectionClosed):
                await call()
    else:
        await talk.send(ws, b"!")
        assert await ws.ping(b"!") >= 0
        talk.peer.say(b"?")
        talk.script.append(b"?")
        await talk.receive(ws)


def talk_about(kind: str, role: Role, scenario: Scenario) -> Talk:
    return Talk(kind, role, scenario.script, compressed=scenario.compressed, answers_close=scenario.answers_close)


async def open_pair(kind: str, role: Role) -> Streams:
    streams = pair_of(kind, role)
    await start_tls(streams)
    return streams


def session_over(stream: trio.abc.Stream, role: Role, scenario: Scenario) -> Session:
    """Return a session on an open connection with the smallest buffers."""
    deflate = [PerMessageDeflate(Deflate(min_size=0), send_bits=12, receive_bits=15)] if scenario.compressed else []
    return born_open(stream, role, deflate, send_buffer=0, receive_buffer=0)


# -- Openings: how a connection comes into being ---------------------------------------------------------------------

#: Sockets that the tested functions create themselves. Time is not virtual then.
TCP = "tcp"
UNIX = "unix"

HOST = "127.0.0.1"


class OneStream(trio.abc.Listener[trio.abc.Stream]):
    """A listener that accepts a single connection, given to it."""

    def __init__(self, accept: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        self.closed = False
        self._accept = accept
        self._accepted = False

    async def accept(self) -> trio.abc.Stream:
        if self._accepted:
            await trio.sleep_forever()
        stream = await self._accept()
        self._accepted = True
        return stream

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class Place:
    """An environment in which one connection can be opened, with a peer that accepts it or connects to it.

    Args:
        kind: The kind of streams, ``TCP`` or ``UNIX``.
        role: The role of the tested end.
        path: The path of the socket, for ``UNIX``.
    """

    def __init__(self, kind: str, role: Role, path: Path | None = None) -> None:
        self.talk = Talk(kind, role, ["b"], compressed=True, handshake=True)
        #: Set when the work on the connection is done.
        self.done = trio.Event()
        #: The argument to listen on for ``serve``, and the URI for ``connect``.
        self.listen: dict[str, Any] = {"path": path} if kind == UNIX else {"port": 0, "host": HOST}
        self.uri = URI
        #: The TLS contexts.
        self.ssl: ssl.SSLContext | None = None
        #: The point at which only the graceful shutdown is cancelled; and its outcome.
        self.cancel_shutdown_at: int | None = None
        self.outcome: Outcome | None = None
        self._role = role
        self._path = path
        self._listening = trio.Event()
        self._server: Server | None = None
        self._streams = pair_of(kind, role) if kind in KINDS else None
        self._taken = False
        if self._streams is not None:
            self._listener = OneStream(self.dial)
            self.listen = {"listeners": [self._listener]}
            if isinstance(self._streams[0], trio.SSLStream):
                self.ssl = self._streams[0].context
                self.uri = URI.replace("ws:", "wss:")

    @property
    def stream(self) -> trio.abc.Stream:
        """Return the stream of the tested end. The caller owns it."""
        assert self._streams is not None
        self._taken = True
        return self._streams[0]

    async def dial(self, *_: object, **__: object) -> trio.abc.Stream:
        """Return the stream below TLS of the tested end."""
        await trio.lowlevel.checkpoint()
        stream = self.stream
        return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream

    async def serve(self, nursery: trio.Nursery, handler: Handler, **options: Any) -> Server:
        """Start a server, whose first client is the peer."""
        run = partial(trio_ws.serve, handler, ssl=self.ssl, **self.listen, **options)
        self._server = await nursery.start(run)
        assert self._server is not None
        self._listening.set()
        return self._server

    async def shut_down(self, server: Server) -> None:
        """Close a server gracefully."""
        if self.cancel_shutdown_at is not None:
            self.outcome = await cancel_at(self.cancel_shutdown_at, server.aclose)
        await server.aclose()

    async def run_peer(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the peer until the connection ends."""
        stream: trio.abc.Stream
        if self._streams is not None:
            task_status.started()
            stream = self._streams[1]
        elif self._role is Role.CLIENT:
            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            async with listener:
                self.uri = f"ws://{HOST}:{listener.socket.getsockname()[1]}/"
                task_status.started()
                stream = await listener.accept()
        else:
            task_status.started()
            await self._listening.wait()
            assert self._server is not None
            try:
                if self._path is not None:
                    stream = await trio.open_unix_socket(self._path)
                else:
                    stream = await trio.open_tcp_stream(HOST, self._server.port)
            except OSError:
                return  # it was cancelled before there was a connection
        await self.talk.peer.run(stream)

    async def leave(self) -> None:
        """Check that the stream was closed, so that the peer ends by itself."""
        assert self._path is None or not self._path.exists()
        if self._streams is None:
            return
        stream = self._streams[0]
        if not self._taken:
            await trio.aclose_forcefully(stream)
        assert await is_closed(stream.transport_stream if isinstance(stream, trio.SSLStream) else stream)
        assert self._listener.closed or self._server is None


@attrs.frozen
class Opening:
    """A way of opening and closing a connection.

    Attributes:
        act: Opens, uses and closes the connection, and updates the :class:`Talk` of the :class:`Place`.
        role: The role of the opened end.
        calls: The public methods and functions that the scenario tests.
        code: The expected close code.
    """

    act: Callable[[Place], Awaitable[None]]
    role: Role
    calls: str
    code: int = 1000


async def cancel_opening(
    kind: str, opening: Opening, number: int, *, shutdown: bool = False, path: Path | None = None
) -> bool:
    """Cancel a connection from its opening to its end at one point. Return whether there was such a point.

    Args:
        kind: The kind of streams, ``TCP`` or ``UNIX``.
        opening: The way of opening to cancel.
        number: The point.
        shutdown: Cancel only the graceful shutdown, which must continue nevertheless.
        path: The path of the socket, for ``UNIX``.
    """
    place = Place(kind, opening.role, path)
    virtual = kind in KINDS
    talk = place.talk
    with trio.fail_after(HANGS), pytest.MonkeyPatch.context() as monkeypatch:
        if virtual:
            monkeypatch.setattr(trio, "open_tcp_stream", place.dial)
        async with trio.open_nursery() as nursery:
            await nursery.start(place.run_peer)
            if shutdown:
                place.cancel_shutdown_at = number
                await opening.act(place)
                assert place.outcome is not None
                outcome = attrs.evolve(place.outcome, cancelled=False)
            else:
                outcome = await cancel_at(number, partial(opening.act, place))
            await place.leave()
            if not virtual and outcome.cancelled:
                # There may have been no connection for the peer.
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
    assert not virtual or outcome.took <= GOODBYE
    if outcome.cancelled:
        talk.check([None, 1000, 1001])
    else:
        assert talk.taken == len(talk.script)
        assert talk.sent == talk.begun
        talk.check_all(opening.code)
    return outcome.fired
