"""A fault at every byte of a conversation: one run for each place, direction, end and kind of fault.

Our client talks to our server over memory, with a :class:`~trio_ws.testing.FaultyStream` at one of the ends; or over a
pair of sockets, where the other end is a plain socket, or where system calls fail at one of them (:mod:`tests.taps`).
Over TLS, faults are in the ciphertext.
What has to be there afterwards, whatever the fault was: an exception that is documented or none at each end, within the
deadlines; two closed streams; no tasks. And, unless bytes were changed or lost in the middle, which TCP never does:
what was received is what was sent, as far as it goes.

Nothing is random: the masking keys are made up, and so is the order in which Trio lets tasks run.
"""

from __future__ import annotations

import random
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import attrs
import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock

import trio_ws
from trio_ws.client.connecting import BODY_TIMEOUT, Connecting
from trio_ws.client.request import RequestBuilder
from trio_ws.connection import writer
from trio_ws.connection.core import GOODBYE_TIMEOUT, GRACE
from trio_ws.connection.keepalive import SAMPLE_INTERVAL
from trio_ws.connection.stream import StreamAdapter, StreamBroken
from trio_ws.connection.tls import start_tls
from trio_ws.connection.websocket import WebSocket
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosed,
    ConnectionClosedError,
    InvalidHandshake,
    OpenTimeout,
    ProtocolError,
    TLSFailed,
)
from trio_ws.frames import CloseCode
from trio_ws.protocol import Message, Role
from trio_ws.server.accept import Acceptor
from trio_ws.server.limits import Limits
from trio_ws.server.policy import HandshakePolicy
from trio_ws.server.server import Handler
from trio_ws.settings import Options, Settings
from trio_ws.testing import Corrupt, Delay, Drop, Fault, FaultyStream, Reset, Split, Stall
from trio_ws.uri import WebSocketURI, parse_uri

from .cancellation import socket_pair
from .taps import BrokenPipe, Tap, Taps, TryAgain, sockets_only, tapping

if sys.version_info >= (3, 11):
    from typing import Unpack
else:
    from typing_extensions import Unpack

OPEN_TIMEOUT = 3.0
PING_INTERVAL = 5.0
PING_TIMEOUT = 4.0
CLOSE_TIMEOUT = 2.0
OPTIONS = Options(
    open_timeout=OPEN_TIMEOUT, ping_interval=PING_INTERVAL, ping_timeout=PING_TIMEOUT, close_timeout=CLOSE_TIMEOUT
)

#: Seconds within which one end notices that it hears nothing, counted from the last byte that it has heard.
DEAF = max(OPEN_TIMEOUT, PING_INTERVAL + PING_TIMEOUT)
#: Seconds from the beginning of closing until the stream is closed.
CLOSING = CLOSE_TIMEOUT + GRACE + 2 * GOODBYE_TIMEOUT
#: Seconds that an application goes on waiting for messages that may never come: where the length of a frame has been
#: changed, bytes keep coming and the connection lives on.
PATIENCE = 30.0

#: Tolerance for the rounding of clock times, in seconds.
MOMENT = 1e-6

SHORTLY = 1.0
#: Longer than all of the above together.
ENDLESSLY = 1000.0


# -- Conversations ---------------------------------------------------------------------------------------------------


@attrs.define
class End:
    """One end of a conversation, and its outcome."""

    #: The messages that it has begun to send, and those that it has received.
    said: list[Message] = attrs.field(factory=list)
    heard: list[Message] = attrs.field(factory=list)
    #: The received part of an incomplete message.
    part: Message = b""
    opened: bool = False
    finished: bool = False
    gave_up: bool = False
    error: Exception | None = None
    close_code: int | None = None
    ended_at: float | None = None

    async def send(self, ws: WebSocket, message: Message, *, compress: bool = True) -> None:
        self.said.append(message)
        await ws.send(message, compress=compress)

    async def send_parts(self, ws: WebSocket, *parts: bytes, text: bool = False, compress: bool = True) -> None:
        whole = b"".join(parts)
        self.said.append(whole.decode() if text else whole)
        async with ws.send_stream(text=text, compress=compress) as out:
            for part in parts:
                await out.send(part)

    async def receive(self, ws: WebSocket, count: int = 1) -> None:
        for _ in range(count):
            self.heard.append(await ws.receive())

    async def receive_parts(self, ws: WebSocket) -> None:
        async with ws.receive_stream() as parts:
            self.part = "" if parts.text else b""
            async for part in parts:
                self.part += part  # type: ignore[operator]  # all of one type
        self.heard.append(self.part)
        self.part = b""


Talk = Callable[[WebSocket, End], Awaitable[None]]

#: It is compressed to a tenth, and to next to nothing when it comes again and the window was kept.
COMPRESSIBLE = "It is compressed. " * 12
#: The length of this one takes two bytes in the header.
LARGER = bytes(range(130))
#: The length of this one takes eight bytes.
HUGE = bytes(0x10000)


async def talk_about_everything(ws: WebSocket, end: End) -> None:
    await end.send(ws, "é")
    await end.send(ws, LARGER, compress=False)
    await end.send(ws, COMPRESSIBLE)
    await end.receive(ws, 3)
    await ws.ping(b"ping")
    await end.send_parts(
        ws, "Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode()[:3], b"\xbcn\n", text=True, compress=False
    )
    await end.send_parts(ws, b"compressed ", b"in parts")
    await end.send(ws, b"")
    await end.receive_parts(ws)
    await end.receive_parts(ws)
    await end.receive(ws)
    # Meanwhile the keepalive of each end pings once.
    await trio.sleep(PING_INTERVAL + 1)
    await end.send(ws, COMPRESSIBLE.encode())
    await end.receive(ws)


async def talk_a_little(ws: WebSocket, end: End) -> None:
    await end.send_parts(ws, b"\xc3", b"\xa9", text=True, compress=False)
    await end.send(ws, "compressed " * 6)
    await end.receive_parts(ws)
    await end.receive(ws)
    await ws.ping(b"p")
    await end.send(ws, "compressed " * 7)
    await end.receive(ws)


async def talk_at_length(ws: WebSocket, end: End) -> None:
    await end.send(ws, HUGE, compress=False)
    await end.receive(ws)


async def talk_in_turns(ws: WebSocket, end: End) -> None:
    """Send nothing until the other end has answered: each message can be written at once, and nothing follows it."""
    for i in range(4):
        if (ws.role is Role.CLIENT) is (i % 2 == 0):
            await end.send(ws, f"message {i}")
        else:
            await end.receive(ws)


async def listen(ws: WebSocket, end: End) -> None:
    """Go on until the other end closes. All messages have been received before."""
    async for message in ws:
        end.heard.append(message)


@attrs.frozen
class Conversation:
    """The messages of a conversation, and the end that closes it."""

    talk: Talk
    client_closes: bool


EVERYTHING = Conversation(talk_about_everything, client_closes=True)
LITTLE = Conversation(talk_a_little, client_closes=False)
LONG = Conversation(talk_at_length, client_closes=True)
TURNS = Conversation(talk_in_turns, client_closes=True)
CONVERSATIONS = {"everything": EVERYTHING, "a little": LITTLE, "at length": LONG, "in turns": TURNS}


class Line(trio.abc.HalfCloseableStream):
    """One end of a line. Knows how many bytes have passed, and whether it was closed.

    Attributes:
        outer: The stream that this end uses.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.outer: trio.abc.Stream = self
        self.sent = 0
        self.received = 0
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)
        self.sent += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        self.received += len(data)
        return data

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        self.closed = True
        await self.stream.aclose()


@attrs.frozen
class Place:
    """The place of faults: the client's or the server's end, in its sent or received data."""

    at_client: bool
    sending: bool

    def __str__(self) -> str:
        return f"{'client' if self.at_client else 'server'} {'sends' if self.sending else 'receives'}"

    def apply(self, end: Line | Tap, fault: Fault) -> None:
        """Put a fault there, at this end of the line."""
        if isinstance(end, Tap):
            (end.writing if self.sending else end.reading).faults.append(fault)
        elif self.sending:
            end.outer = FaultyStream(end, sending=[fault])
        else:
            end.outer = FaultyStream(end, receiving=[fault])

    def sender(self, done: Run) -> Line | Tap:
        """The end from which the bytes come that pass there."""
        return done.client_line if self.at_client is self.sending else done.server_line

    def size(self, done: Run) -> int:
        """Return the number of bytes that have passed this place."""
        return self.sender(done).sent

    def opening(self, done: Run) -> int:
        """How many of these were of the opening handshake, if it was over sockets."""
        sender = self.sender(done)
        assert isinstance(sender, Tap)
        return sender.log.index(b"\r\n\r\n") + 4


PLACES = [Place(at_client, sending) for at_client in (True, False) for sending in (True, False)]

#: Makes both ends of a line. Where there is to be a fault, it is told so, and whether a system call is to fail.
MakeLines = Callable[[Place | None, bool], tuple[Line | Tap, Line | Tap]]


def over_memory(place: Place | None, system: bool) -> tuple[Line, Line]:
    ours, theirs = trio.testing.memory_stream_pair()
    return Line(ours), Line(theirs)


def over_sockets(taps: Taps, place: Place | None, system: bool) -> tuple[Line | Tap, Line | Tap]:
    """Both ends are plain sockets, but for one that is to have a fault that only streams have."""
    client, server = socket_pair()
    assert isinstance(client, trio.SocketStream)
    assert isinstance(server, trio.SocketStream)
    if place is None or system:
        return taps.add(client), taps.add(server)
    return (Line(client), taps.add(server)) if place.at_client else (taps.add(client), Line(server))


Serve = Callable[..., Awaitable[None]]


@attrs.frozen
class Transport:
    """The two ends of a conversation, and the functions that open a WebSocket on them."""

    make_lines: MakeLines
    connect: Callable[..., Connecting] = trio_ws.connect_over
    serve: Serve = trio_ws.serve_over


@attrs.frozen
class TLS:
    """TLS contexts, and the functions that open a WebSocket with them. On sockets they use the adapter for TLS."""

    client_context: ssl.SSLContext
    server_context: ssl.SSLContext

    @classmethod
    def make(cls) -> TLS:
        authority = trustme.CA()
        client_context = ssl.create_default_context()
        authority.configure_trust(client_context)
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # The signatures of an RSA key are all of one size.
        authority.issue_cert("a", key_type=trustme.KeyType.RSA).configure_cert(server_context)
        return cls(client_context, server_context)

    def connect(self, stream: trio.abc.Stream, uri: str, *, user_agent: None, **options: Unpack[Options]) -> Connecting:
        async def dial(uri: WebSocketURI) -> StreamAdapter:
            adapter = StreamAdapter(stream)
            try:
                return await start_tls(adapter, self.client_context, server_hostname=uri.host)
            except StreamBroken as exc:
                await adapter.aclose(0)
                raise TLSFailed(uri.host, str(exc)) from exc
            except BaseException:
                await adapter.aclose(0)
                raise

        return Connecting(parse_uri(uri), dial, RequestBuilder(Settings(**options), user_agent=user_agent), 0)

    async def serve(self, stream: trio.abc.Stream, handler: Handler, **options: Unpack[Options]) -> None:
        acceptor = Acceptor([], handler, Settings(**options), self.server_context, HandshakePolicy(), Limits())
        await acceptor.serve_connection(stream)


@attrs.define
class Run:
    """One run of a conversation."""

    client: End
    server: End
    client_line: Line | Tap
    server_line: Line | Tap
    start: float

    @property
    def ends(self) -> tuple[tuple[End, End], tuple[End, End]]:
        return (self.client, self.server), (self.server, self.client)

    def duration(self) -> float:
        assert self.client.ended_at is not None
        assert self.server.ended_at is not None
        return max(self.client.ended_at, self.server.ended_at) - self.start


IN_MEMORY = Transport(over_memory)


async def converse(conversation: Conversation, end: End, ws: WebSocket, closes: bool) -> None:
    end.opened = True
    try:
        with trio.move_on_after(PATIENCE) as scope:
            await conversation.talk(ws, end)
            end.finished = True
            if not closes:
                await listen(ws, end)
        end.gave_up = scope.cancelled_caught
    finally:
        end.close_code = ws.close_code


async def run(
    conversation: Conversation,
    place: Place | None = None,
    fault: Fault | None = None,
    *,
    system: bool = False,
    transport: Transport = IN_MEMORY,
) -> Run:
    """Run a conversation from beginning to end.

    Args:
        conversation: The conversation.
        place: Where there is a fault.
        fault: The fault.
        system: Whether it is a system call that fails. Otherwise it is a stream.
        transport: What it runs over.
    """
    client_line, server_line = transport.make_lines(place, system)
    if place is not None and fault is not None:
        place.apply(client_line if place.at_client else server_line, fault)
    done = Run(End(), End(), client_line, server_line, trio.current_time())

    async def be_client() -> None:
        end = done.client
        try:
            async with transport.connect(client_line.outer, "ws://a/", user_agent=None, **OPTIONS) as ws:
                await converse(conversation, end, ws, conversation.client_closes)
            assert "closed" in repr(ws)
        except Exception as exc:  # judged later, with all the rest
            end.error = exc
        end.ended_at = trio.current_time()

    async def be_server() -> None:
        end = done.server

        async def handle(ws: WebSocket) -> None:
            try:
                await converse(conversation, end, ws, not conversation.client_closes)
            except Exception as exc:  # judged later, too
                end.error = exc
                raise

        await transport.serve(server_line.outer, handle, **OPTIONS)
        end.ended_at = trio.current_time()

    # So that there is an end to it in any case: where nothing has a deadline, this clock stands still.
    with trio.move_on_after(2 * PATIENCE + 2 * DEAF + 2 * CLOSING):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_client)
            nursery.start_soon(be_server)
    return done


# -- What has to be true ---------------------------------------------------------------------------------------------


def check_end(done: Run) -> None:
    """Check what is true after every fault."""
    for end, _ in done.ends:
        assert end.ended_at is not None, "it has not come to an end"
        if end.error is None:
            # Without an exception it has got everything, or it has given up, or it is a server without a connection.
            assert end.finished or end.gave_up or (end is done.server and not end.opened)
        elif end.opened:
            assert isinstance(end.error, ConnectionClosed)
            assert end.close_code is not None
            cause = end.error.__cause__
            assert cause is None or isinstance(
                cause, (ProtocolError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError)
            )
        else:
            assert isinstance(end.error, (InvalidHandshake, ConnectFailed, OpenTimeout))
            assert end.ended_at - done.start <= OPEN_TIMEOUT + MOMENT
    assert done.client_line.closed
    assert done.server_line.closed


def check_prefix(done: Run) -> None:
    """Check that what was received is what was sent, as far as it goes."""
    for end, other in done.ends:
        assert end.heard == other.said[: len(end.heard)]
        if end.part:
            assert other.said[len(end.heard)].startswith(end.part)  # type: ignore[arg-type]  # both of one type


def check_cut(done: Run, usual: Run, late: float = 0.0) -> None:
    """Check a run whose fault was that nothing more came, of what was sent.

    Args:
        done: The run.
        usual: A run without a fault.
        late: How many seconds later it may be noticed that the peer is dead.
    """
    check_prefix(done)
    for end, _ in done.ends:
        assert not end.gave_up
        assert end.ended_at is not None
        assert end.ended_at - done.start <= usual.duration() + DEAF + late + CLOSING
        if end.opened:
            # That the peer breaks the protocol is something else.
            assert end.error is None or isinstance(end.error, ConnectionClosedError)
            assert end.error is None or not isinstance(end.error.__cause__, ProtocolError)
        else:
            assert end.error is None or isinstance(end.error, (ConnectFailed, OpenTimeout))
            assert end.ended_at - done.start <= OPEN_TIMEOUT + MOMENT


def check_reset(done: Run, usual: Run) -> None:
    """Check a run whose fault was that the connection broke: both ends see that, and wait for nothing."""
    check_cut(done, usual)
    # A client whose request could not be written waits for an answer all the same.
    answer = 0 if usual.client.opened and done.client.opened else BODY_TIMEOUT
    assert done.duration() <= usual.duration() + answer + GRACE + 2 * GOODBYE_TIMEOUT


def check_unchanged(done: Run, usual: Run, delay: float) -> None:
    """Check a run that differs from the usual one in its duration at most."""
    check_same_talk(done, usual, delay)
    assert done.server_line.sent == usual.server_line.sent
    assert done.client_line.sent == usual.client_line.sent


def check_same_talk(done: Run, usual: Run, delay: float) -> None:
    """Check a run in which the ends notice no difference. With TLS, messages may share a record that usually do not."""
    assert usual.duration() <= done.duration() <= usual.duration() + delay
    for end, expected in ((done.client, usual.client), (done.server, usual.server)):
        assert attrs.evolve(end, ended_at=None) == attrs.evolve(expected, ended_at=None)
    assert done.client_line.received == done.server_line.sent
    assert done.server_line.received == done.client_line.sent


def check_changed(done: Run, usual: Run) -> None:
    """Check a run in which bytes were not what was sent."""
    for end, other in done.ends:
        assert end.ended_at is not None
        assert end.ended_at - done.start <= OPEN_TIMEOUT + PATIENCE + CLOSING
        if end.error is not None and isinstance(violation := end.error.__cause__, ProtocolError) and end.opened:
            # It says so, and the other end learns of it, unless that one cannot read what it is told. Where a length
            # was wrong, the keepalive may have been first. A Close frame within a message gets the usual answer.
            assert isinstance(end.error, ConnectionClosedError)
            assert end.error.sent is not None
            if end.error.sent.code != violation.code:
                assert end.error.sent.code in (CloseCode.INTERNAL_ERROR, end.error.code)
            elif isinstance(other.error, ConnectionClosed) and not isinstance(other.error.__cause__, ProtocolError):
                assert other.error.rcvd == end.error.sent


Check = Callable[[Run, Run], None]


@attrs.frozen
class Kind:
    """A kind of fault, and what has to be true after it."""

    make: Callable[[int], Fault]
    check: Check
    conversation: Conversation = LITTLE
    #: Whether it needs a byte to happen to.
    needs_byte: bool = False
    #: Whether it is a system call that fails, and not a stream.
    system: bool = False
    #: Whether it can happen only to what is sent.
    sending: bool = False

    def places(self, size: int) -> range:
        return range(size if self.needs_byte else size + 1)


KINDS: dict[str, Kind] = {
    "split": Kind(Split, lambda done, usual: check_unchanged(done, usual, 0)),
    "short delay": Kind(lambda at: Delay(at, SHORTLY), lambda done, usual: check_unchanged(done, usual, SHORTLY)),
    "endless delay": Kind(lambda at: Delay(at, ENDLESSLY), check_cut),
    "drop one": Kind(Drop, check_changed, needs_byte=True),
    "drop the rest": Kind(lambda at: Drop(at, None), check_cut, needs_byte=True),
    "corrupt 01": Kind(lambda at: Corrupt(at, 0x01), check_changed, needs_byte=True),
    "corrupt 80": Kind(lambda at: Corrupt(at, 0x80), check_changed, needs_byte=True),
    "corrupt ff": Kind(Corrupt, check_changed, EVERYTHING, needs_byte=True),
    "stall": Kind(Stall, check_cut, EVERYTHING),
    "reset": Kind(Reset, check_reset, EVERYTHING),
}

#: Of these, the kinds for which it matters that the other end is a socket, and those that are of sockets alone.
SOCKET_KINDS: dict[str, Kind] = {
    # When a ping has left a socket, that is seen with the next look.
    "stall": Kind(Stall, partial(check_cut, late=SAMPLE_INTERVAL)),
    "reset": attrs.evolve(KINDS["reset"], conversation=LITTLE),
    "short call": Kind(Split, lambda done, usual: check_unchanged(done, usual, 0), system=True),
    "try again": Kind(TryAgain, lambda done, usual: check_unchanged(done, usual, 0), system=True),
    "reset call": Kind(Reset, check_reset, system=True),
    "broken pipe": Kind(BrokenPipe, check_reset, TURNS, system=True, sending=True),
}

#: Over TLS. A change of the ciphertext must never change what is received.
TLS_KINDS: dict[str, Kind] = {
    **SOCKET_KINDS,
    "short call": Kind(Split, lambda done, usual: check_same_talk(done, usual, 0), system=True),
    "try again": Kind(TryAgain, lambda done, usual: check_same_talk(done, usual, 0), system=True),
    "corrupt": Kind(Corrupt, partial(check_cut, late=SAMPLE_INTERVAL), needs_byte=True),
    "drop one": Kind(Drop, partial(check_cut, late=SAMPLE_INTERVAL), needs_byte=True),
}

each_kind = pytest.mark.parametrize("name", KINDS)
each_place = pytest.mark.parametrize("place", PLACES, ids=str)


def kinds_and_places(kinds: dict[str, Kind]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("name", "place"),
        [
            pytest.param(name, place, id=f"{name}-{place}")
            for name, kind in kinds.items()
            for place in PLACES
            if place.sending or not kind.sending
        ],
    )


each_socket_kind_and_place = kinds_and_places(SOCKET_KINDS)


# -- Nothing random --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def made_up_random(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Make random choices deterministic: keys, and the order in which Trio runs tasks."""
    scheduling = random.Random()
    monkeypatch.setattr("os.urandom", lambda size: bytes(i * 73 & 0xFF for i in range(size)))
    monkeypatch.setattr("trio._core._run._r", scheduling)
    return scheduling


Again = Callable[..., Awaitable[Run]]


async def run_again(
    scheduling: random.Random,
    transport: Transport,
    conversation: Conversation,
    place: Place | None = None,
    fault: Fault | None = None,
    system: bool = False,
) -> Run:
    """Run a conversation, and check that nothing of it is left."""
    scheduling.seed(0)
    before = trio.lowlevel.current_statistics().tasks_living
    done = await run(conversation, place, fault, system=system, transport=transport)
    assert trio.lowlevel.current_statistics().tasks_living == before
    return done


@pytest.fixture
def again(made_up_random: random.Random) -> Again:
    """Run a conversation over memory."""
    return partial(run_again, made_up_random, IN_MEMORY)


@pytest.fixture(params=[True, False], ids=["at once", "by the writer"])
def again_over_sockets(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, made_up_random: random.Random
) -> Iterator[Again]:
    """Run a conversation over sockets, on which ``send`` writes at once, or leaves everything to the writer task."""
    monkeypatch.setattr(writer, "WRITE_AT_ONCE", request.param)
    with tapping() as taps:
        yield partial(run_again, made_up_random, Transport(partial(over_sockets, taps)))


@pytest.fixture(scope="module")
def tls() -> TLS:
    return TLS.make()


@pytest.fixture(params=[True, False], ids=["at once", "by the writer"])
def again_over_tls(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, made_up_random: random.Random, tls: TLS
) -> Iterator[Again]:
    """Run a conversation over TLS on sockets, on which ``send`` writes at once or leaves it to the writer task."""
    monkeypatch.setattr(writer, "WRITE_AT_ONCE", request.param)
    with tapping() as taps:
        yield partial(run_again, made_up_random, Transport(partial(over_sockets, taps), tls.connect, tls.serve))


# -- Tests -----------------------------------------------------------------------------------------------------------


each_conversation = pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)


@each_conversation
async def test_without_a_fault(conversation: Conversation, again: Again, autojump_clock: MockClock) -> None:
    await check_without_a_fault(conversation, again)


@sockets_only
@each_conversation
async def test_without_a_fault_over_sockets(
    conversation: Conversation, again_over_sockets: Again, autojump_clock: MockClock
) -> None:
    await check_without_a_fault(conversation, again_over_sockets)


async def check_without_a_fault(conversation: Conversation, again: Again) -> None:
    done = await check_undisturbed(conversation, again)
    for place in PLACES:
        assert place.size(done) == place.size(await again(conversation))


async def check_undisturbed(conversation: Conversation, again: Again) -> Run:
    done = await again(conversation)
    check_end(done)
    for end, other in done.ends:
        assert (end.finished, end.gave_up, end.error) == (True, False, None)
        assert end.heard == other.said
    # Who has not begun to close has seen the other one's Close frame.
    assert (done.server if conversation.client_closes else done.client).close_code in (None, 1000)
    assert done.client_line.received == done.server_line.sent > 0
    assert done.server_line.received == done.client_line.sent > 0
    return done


@each_place
@each_kind
async def test_a_fault_at_every_byte(
    name: str, place: Place, again: Again, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    kind = KINDS[name]
    usual = await again(kind.conversation)
    for at in kind.places(place.size(usual)):
        await check_fault(kind, place, at, usual, again, caplog)


@each_place
@each_kind
async def test_a_fault_in_a_huge_message(
    name: str, place: Place, again: Again, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    # At the first bytes and the last: before the payload there are 10 bytes of header, and of a client 14.
    kind = attrs.evolve(KINDS[name], conversation=LONG)
    usual = await again(LONG)
    for at in places_in_huge(place, usual):
        await check_fault(kind, place, at, usual, again, caplog)


def places_in_huge(place: Place, usual: Run) -> list[int]:
    """Return places at the beginning, in the middle and at the end of the huge message."""
    close = 8 if place.at_client is place.sending else 4
    end = place.size(usual) - close
    start = end - len(HUGE)
    return [*range(start - 14, start + 1), start + len(HUGE) // 2, end - 1, end]


@sockets_only
@each_socket_kind_and_place
async def test_a_fault_at_every_byte_over_sockets(
    name: str, place: Place, again_over_sockets: Again, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    kind = SOCKET_KINDS[name]
    usual = await again_over_sockets(kind.conversation)
    opening = place.opening(usual)
    # The opening handshake is much the same over memory.
    for at in kind.places(place.size(usual)):
        if at >= opening or at % 10 == 0:
            await check_fault(kind, place, at, usual, again_over_sockets, caplog)


@sockets_only
@each_socket_kind_and_place
async def test_a_fault_in_a_huge_message_over_sockets(
    name: str, place: Place, again_over_sockets: Again, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    kind = attrs.evolve(SOCKET_KINDS[name], conversation=LONG)
    usual = await again_over_sockets(LONG)
    for at in places_in_huge(place, usual):
        await check_fault(kind, place, at, usual, again_over_sockets, caplog)


@sockets_only
@kinds_and_places(TLS_KINDS)
async def test_faults_over_tls(
    name: str, place: Place, again_over_tls: Again, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    kind = TLS_KINDS[name]
    usual = await again_over_tls(kind.conversation)
    size = place.size(usual)
    # Records are 22 bytes longer than their plaintext, and most of these are shorter than 100 bytes.
    for at in sorted({*range(0, size, 29), *range(size - 60, size)}):
        await check_fault(kind, place, at, usual, again_over_tls, caplog)


@sockets_only
@each_conversation
async def test_without_a_fault_over_tls(
    conversation: Conversation, again_over_tls: Again, autojump_clock: MockClock
) -> None:
    # How many records there are depends on how many messages are written at a time.
    await check_undisturbed(conversation, again_over_tls)


async def test_how_many_faults_there_are(again: Again, autojump_clock: MockClock) -> None:
    count = 0
    for kind in KINDS.values():
        usual = await again(kind.conversation)
        count += sum(len(kind.places(place.size(usual))) for place in PLACES)
    assert count > 10_000


async def check_fault(
    kind: Kind, place: Place, at: int, usual: Run, again: Again, caplog: pytest.LogCaptureFixture
) -> None:
    fault = kind.make(at)
    done = await again(kind.conversation, place, fault, kind.system)
    try:
        check_end(done)
        kind.check(done, usual)
        # For a server a connection that is lost is no mistake of its handler.
        assert not caplog.records
    except AssertionError as exc:
        raise AssertionError(f"{place}, {fault}: {done}") from exc
