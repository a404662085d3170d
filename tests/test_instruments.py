"""Instruments: their events, the order of events, and instruments that fail."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trio_ws
from trio_ws import ConnectionSummary, FrameInfo, Instrument, ObservedWebSocket, Opcode
from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.frames import Close
from trio_ws.instruments.null import NullObserver
from trio_ws.instruments.observer import make_observer
from trio_ws.protocol import Role
from trio_ws.protocol.deflate import Deflate
from trio_ws.settings import Settings
from trio_ws.testing import memory_websocket_pair

from .support import (
    OTHER,
    Faulty,
    Peer,
    born_open,
    cancelled,
    close,
    cont,
    each_role,
    echo,
    memory_pair,
    opened,
    ping,
    pipe_pair,
    pong,
    stream_parts,
    text,
)

settle = trio.testing.wait_all_tasks_blocked

Event = tuple[Any, ...]


class Recorder(Instrument):
    """Records all events except the ignored ones."""

    def __init__(self, *ignored: str) -> None:
        self.events: list[Event] = []
        self.connections: list[ObservedWebSocket] = []
        self.ignored = ignored

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def note(self, name: str, ws: ObservedWebSocket, *args: object) -> None:
        if ws not in self.connections:
            self.connections.append(ws)
        if name not in self.ignored:
            self.events.append((name, *args))

    @property
    def summary(self) -> ConnectionSummary:
        """The summary of the only connection, from its last event."""
        name, summary = self.events[-1]
        assert name == "connection_closed"
        assert len(self.connections) == 1
        assert isinstance(summary, ConnectionSummary)
        return summary

    def connection_opened(self, ws: ObservedWebSocket) -> None:
        self.note("connection_opened", ws)

    def connection_closed(self, ws: ObservedWebSocket, summary: ConnectionSummary) -> None:
        self.note("connection_closed", ws, summary)

    def message_received(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        self.note("message_received", ws, opcode, size)

    def message_sent(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
        self.note("message_sent", ws, opcode, size)

    def bytes_received(self, ws: ObservedWebSocket, size: int) -> None:
        self.note("bytes_received", ws, size)

    def bytes_sent(self, ws: ObservedWebSocket, size: int) -> None:
        self.note("bytes_sent", ws, size)

    def frame_received(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        self.note("frame_received", ws, str(frame))

    def frame_sent(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        self.note("frame_sent", ws, str(frame))

    def ping_answered(self, ws: ObservedWebSocket, seconds: float) -> None:
        self.note("ping_answered", ws, seconds)

    def queue_changed(self, ws: ObservedWebSocket, inbox: int, outbox: int) -> None:
        self.note("queue_changed", ws, inbox, outbox)


def record() -> Recorder:
    """Return a recorder that ignores the byte counts, which depend on the stream."""
    return Recorder("bytes_received", "bytes_sent", "queue_changed")


class Broken(Recorder):
    """A recorder that raises at some event."""

    def __init__(self, event: str, error: BaseException) -> None:
        super().__init__()
        self.event = event
        self.error = error

    def note(self, name: str, ws: ObservedWebSocket, *args: object) -> None:
        super().note(name, ws, *args)
        if name == self.event:
            raise self.error


EVENTS = [name for name in vars(Recorder) if hasattr(Instrument, name) and not name.startswith("_")]


# -- Events ----------------------------------------------------------------------------------------------------------


def test_the_recorder_knows_all_events() -> None:
    assert set(EVENTS) == {n for n in vars(Instrument) if not n.startswith(("_", "hub_"))} - {
        "wants_connection",
        "handshake_failed",
    }


@each_role
async def test_messages_and_frames(role: Role) -> None:
    recorder = record()
    async with opened(role, instruments=[recorder]) as (ws, peer):
        assert recorder.take() == [("connection_opened",)]
        await ws.send("héllo")
        await ws.send(b"abc")
        await peer.receive()
        await peer.receive()
        assert recorder.take() == [
            ("frame_sent", "TEXT 'héllo' [6 bytes]"),
            ("message_sent", Opcode.TEXT, 6),
            ("frame_sent", "BINARY 'abc' [3 bytes]"),
            ("message_sent", Opcode.BINARY, 3),
        ]
        await peer.send(text("hé"), text("a", False), ping(b"p"), cont(b"b", True))
        await peer.receive()
        await settle()
        assert [await ws.receive(), await ws.receive()] == ["hé", "ab"]
        assert recorder.take() == [
            ("frame_received", "TEXT 'hé' [3 bytes]"),
            ("frame_received", "TEXT 'a' [1 byte, continued]"),
            ("frame_received", "PING 'p' [1 byte]"),
            ("frame_received", "CONT 'b' [1 byte]"),
            ("message_received", Opcode.TEXT, 3),
            ("message_received", Opcode.TEXT, 2),
            ("frame_sent", "PONG 'p' [1 byte]"),
        ]
        assert recorder.connections == [ws]


@each_role
async def test_messages_in_parts(role: Role) -> None:
    recorder = record()
    async with opened(role, instruments=[recorder]) as (ws, peer):
        await stream_parts(ws, b"ab", b"cde")
        await settle()
        assert recorder.take()[-1] == ("message_sent", Opcode.BINARY, 5)
        await peer.send(text("é", False))
        async with ws.receive_stream() as parts:
            assert await parts.__anext__() == "é"
            await peer.send(cont("é".encode(), True))
            assert [part async for part in parts] == ["é"]
        assert recorder.take()[-1] == ("message_received", Opcode.TEXT, 4)


@each_role
async def test_a_ping(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    recorder = record()
    async with opened(role, instruments=[recorder]) as (ws, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.ping, b"p")
            await peer.receive()
            await trio.sleep(2)
            await peer.send(pong(b"other"), pong(b"p"))
        assert ("ping_answered", 2.0) in recorder.take()
        assert ws.latency == 2


async def test_the_keepalive(autojump_clock: trio.testing.MockClock) -> None:
    recorder = record()
    async with memory_websocket_pair(instruments=[recorder], ping_interval=1):
        await trio.sleep(2.5)
        assert len([event for event in recorder.take() if event[0] == "ping_answered"]) == 4


@each_role
async def test_bytes(role: Role) -> None:
    recorder = Recorder()
    ours, theirs = memory_pair()
    peer = Peer(theirs, OTHER[role])
    async with born_open(ours, role, instruments=[recorder]) as ws:
        await ws.send("hello")
        await peer.receive()
        await peer.send(text("answer"))
        await ws.receive()
        await peer.send(close())
        await settle()
        assert await peer.receive() == close()
        await theirs.aclose()
    mask = 4 if role is Role.CLIENT else 0
    sizes = {
        name: sum(event[1] for event in recorder.events if event[0] == name)
        for name in ("bytes_sent", "bytes_received")
    }
    summary = recorder.summary
    assert sizes == {"bytes_sent": 7 + 4 + 2 * mask, "bytes_received": 8 + 4 + (8 - 2 * mask)}
    assert (summary.bytes_sent, summary.bytes_received) == (sizes["bytes_sent"], sizes["bytes_received"])
    assert (summary.messages_sent, summary.messages_received) == (1, 1)


async def test_bytes_after_the_handshake_in_the_same_read() -> None:
    recorder = Recorder()
    ours, theirs = memory_pair()
    peer = Peer(theirs, Role.SERVER)

    async def greet() -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await theirs.receive_some()
        request = trio_ws.http11.RequestParser().feed(received)
        assert request is not None
        response, _ = trio_ws.protocol.handshake.accept(request)
        await theirs.send_all(response.serialize() + b"\x81\x05hello")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet)
        async with trio_ws.connect_over(ours, "ws://any/", instruments=[recorder]) as ws:
            assert await ws.receive() == "hello"
            await theirs.aclose()
    assert peer.role is Role.SERVER
    assert ("message_received", Opcode.TEXT, 5) in recorder.events
    assert recorder.summary.bytes_received == 7


async def test_compressed_messages_have_their_original_size() -> None:
    message = "hello, hello, hello"
    recorder = record()
    for compression in (Deflate(), None):
        async with memory_websocket_pair(instruments=[recorder], compression=compression) as (client, server):
            await client.send(message)
            assert await server.receive() == message
        events = recorder.take()
        for name in ("message_sent", "message_received"):
            assert (name, Opcode.TEXT, len(message)) in events
        for name in ("frame_sent", "frame_received"):
            assert (name, f"TEXT {message!r} [19 bytes]") in events


async def test_a_message_that_is_compressed_in_a_thread() -> None:
    message = bytes(200_000)
    recorder = record()
    async with memory_websocket_pair(instruments=[recorder]) as (client, server):
        await client.send(message)
        assert await server.receive() == message
        assert ("message_sent", Opcode.BINARY, 200_000) in recorder.events
        assert ("message_received", Opcode.BINARY, 200_000) in recorder.events


async def test_broadcast() -> None:
    recorder = record()
    async with memory_websocket_pair(instruments=[recorder]) as (client, server):
        trio_ws.broadcast([client, server], "hello")
        assert [await client.receive(), await server.receive()] == ["hello", "hello"]
        assert recorder.take().count(("message_sent", Opcode.TEXT, 5)) == 2


@each_role
async def test_queues(role: Role) -> None:
    recorder = Recorder()
    ours, theirs = pipe_pair(1000)
    peer = Peer(theirs, OTHER[role])
    async with trio.open_nursery() as nursery:
        async with born_open(ours, role, instruments=[recorder], send_buffer=10_000) as ws:

            def queues() -> list[Event]:
                return [event[1:] for event in recorder.take() if event[0] == "queue_changed"]

            await peer.send(text("a" * 100))
            await settle()
            ((inbox, outbox),) = queues()
            assert 100 < inbox < 300
            assert outbox == 0
            await ws.receive()
            # The message does not fit into the pipe. The next one waits for room.
            await ws.send(bytes(8_000))
            nursery.start_soon(ws.send, bytes(9_000))
            await settle()
            inbox, outbox = queues()[-1]
            assert inbox == 0
            assert 8_000 < outbox < 9_000
            assert len((await peer.receive() or text("")).data) == 8_000
            assert len((await peer.receive() or text("")).data) == 9_000
            await settle()
            assert queues()[-1] == (0, 0)
            await trio.aclose_forcefully(theirs)


# -- How a connection ends -------------------------------------------------------------------------------------------

End = Callable[[WebSocket, Peer], Awaitable[object]]


async def by_us(ws: WebSocket, peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.behave)
        await ws.aclose(4000, "enough")
        await trio.aclose_forcefully(peer.stream)


async def by_peer(ws: WebSocket, peer: Peer) -> None:
    await peer.send(close(1001, "going"))
    await peer.receive()
    await trio.aclose_forcefully(peer.stream)
    with pytest.raises(trio_ws.ConnectionClosedOK):
        await ws.receive()


async def by_loss(ws: WebSocket, peer: Peer) -> None:
    await trio.aclose_forcefully(peer.stream)
    with pytest.raises(trio_ws.ConnectionClosedError):
        await ws.receive()


async def by_violation(ws: WebSocket, peer: Peer) -> None:
    await peer.send(b"\xff\xff")
    with pytest.raises(trio_ws.ConnectionClosedError):
        await ws.receive()
    await trio.aclose_forcefully(peer.stream)


async def by_cancellation(ws: WebSocket, peer: Peer) -> None:
    assert await cancelled(ws.aclose)


async def by_deadline(ws: WebSocket, peer: Peer) -> None:
    await ws.aclose()


@each_role
@pytest.mark.parametrize(
    "end, code, reason, clean, sent, cause",
    [
        (by_us, 4000, "enough", False, Close(4000, "enough"), None),
        (by_peer, 1001, "going", True, Close(1001, "going"), None),
        (by_loss, 1006, "", False, None, None),
        (by_violation, 1006, "", False, 1002, trio_ws.ProtocolError),
        (by_cancellation, 1006, "", False, Close(1000, ""), None),
        (by_deadline, 1006, "", False, Close(1000, ""), trio.TooSlowError),
    ],
)
async def test_ends(
    role: Role,
    end: End,
    code: int,
    reason: str,
    clean: bool,
    sent: Close | int | None,
    cause: type[Exception] | None,
    autojump_clock: trio.testing.MockClock,
) -> None:
    recorder = Recorder()
    ours, theirs = memory_pair()
    peer = Peer(theirs, OTHER[role])
    async with born_open(ours, role, instruments=[recorder]) as ws:
        await trio.sleep(3)
        await end(ws, peer)
    summary = recorder.summary
    assert (summary.code, summary.reason, summary.clean) == (code, reason, clean)
    assert (summary.code, summary.reason) == (ws.close_code, ws.close_reason)
    assert summary.seconds == pytest.approx(13 if end is by_deadline else 3, abs=0.6)
    assert (summary.error.sent.code if isinstance(sent, int) and summary.error.sent else summary.error.sent) == sent
    assert type(summary.error.__cause__) is (type(None) if cause is None else cause)
    assert [event[0] for event in recorder.events].count("connection_closed") == 1


@each_role
async def test_a_stream_that_fails(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    recorder = record()
    ours, theirs = memory_pair()
    stream = Faulty(ours)
    async with born_open(stream, role, instruments=[recorder]) as ws:
        stream.send_error = trio.BrokenResourceError("it is broken")
        await ws.send("hello")
        with pytest.raises(trio_ws.ConnectionClosed):
            await ws.receive()
    assert recorder.summary.code == 1006
    assert str(recorder.summary.error.__cause__) == "it is broken"
    await theirs.aclose()


@each_role
async def test_a_write_that_is_cut_off(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    recorder = record()
    ours, theirs = pipe_pair(1000)
    with trio.CancelScope() as scope:
        async with born_open(ours, role, instruments=[recorder]) as ws:
            await ws.send(bytes(10_000))
            await settle()
            scope.cancel()
            await ws.receive()
    assert scope.cancelled_caught
    assert recorder.summary.code == 1006
    assert recorder.summary.error.sent is None
    await trio.aclose_forcefully(theirs)


async def test_on_sockets() -> None:
    # On sockets, messages are written without the writer task.
    of_server, of_client = record(), record()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, echo, 0, host="127.0.0.1", instruments=[of_server]))
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}", instruments=[of_client]) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
        await server.aclose()
    for recorder in (of_server, of_client):
        assert recorder.events[0] == ("connection_opened",)
        summary = recorder.summary
        assert (summary.code, summary.clean) == (1000, True)
        assert (summary.messages_sent, summary.messages_received) == (1, 1)
        names = [event[0] for event in recorder.events]
        assert (names.count("frame_sent"), names.count("frame_received")) == (2, 2)
    assert of_server.summary.bytes_received == of_client.summary.bytes_sent
    assert of_client.summary.bytes_received == of_server.summary.bytes_sent


async def test_a_handler_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    recorder = record()

    async def fail(ws: WebSocket) -> None:
        raise ValueError("a mistake")

    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, fail, instruments=[recorder]))
        async with trio_ws.connect_over(ours, "ws://any/") as ws:
            with pytest.raises(trio_ws.ConnectionClosedError):
                await ws.receive()
    assert recorder.summary.code == 1011
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_unix(tmp_path: Any) -> None:
    recorder = record()

    async def greet(ws: WebSocket) -> None:
        await ws.send("hello")

    async with trio.open_nursery() as nursery:
        path = tmp_path / "socket"
        server = await nursery.start(partial(trio_ws.serve, greet, path=path))
        async with trio_ws.connect_unix(path, instruments=[recorder]) as ws:
            assert await ws.receive() == "hello"
        await server.aclose()
    assert recorder.summary.messages_received == 1


async def test_a_rejected_request_is_not_a_connection() -> None:
    recorder = record()
    ours, theirs = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                trio_ws.serve_over,
                theirs,
                trio.sleep,  # type: ignore[arg-type]  # it is not called
                process_request=lambda opening, _: opening.respond(403),
                instruments=[recorder],
            )
        )
        with pytest.raises(trio_ws.InvalidStatus):
            async with trio_ws.connect_over(ours, "ws://any/", instruments=[recorder]):
                pass
    assert recorder.events == []


# -- Choosing instruments----------------------------------------------------------------------------------------------


def test_the_base_class_does_nothing() -> None:
    instrument = Instrument()
    ws: Any = None
    assert instrument.wants_connection()
    instrument.connection_opened(ws)
    instrument.connection_closed(ws, ws)
    for method in (instrument.message_received, instrument.message_sent):
        method(ws, Opcode.TEXT, 1)
    for count in (instrument.bytes_received, instrument.bytes_sent, instrument.ping_answered):
        count(ws, 1)
    for frame in (instrument.frame_received, instrument.frame_sent):
        frame(ws, FrameInfo(Opcode.TEXT, 0, b""))
    instrument.queue_changed(ws, 1, 1)


async def test_instruments_are_called_in_order() -> None:
    order: list[Recorder] = []

    class Ordered(Recorder):
        def connection_opened(self, ws: ObservedWebSocket) -> None:
            order.append(self)

    first, second = Ordered(), Ordered()
    async with opened(instruments=[first, second]) as (ws, peer):
        await peer.send(text("a"))
        await ws.receive()
    assert order == [first, second]
    assert [event[0] for event in first.events] == [event[0] for event in second.events]


async def test_without_instruments_there_is_no_observer() -> None:
    async with opened() as (ws, _):
        assert type(connection_of(ws).observer) is NullObserver
    async with opened(instruments=[]) as (ws, _):
        assert type(connection_of(ws).observer) is NullObserver


async def test_wants_connection() -> None:
    class Choosy(Recorder):
        def wants_connection(self) -> bool:
            return False

    choosy, other = Choosy(), Recorder()
    async with opened(instruments=[choosy]) as (ws, _):
        assert type(connection_of(ws).observer) is NullObserver
    async with opened(instruments=[choosy, other]):
        pass
    assert choosy.events == []
    assert other.events != []


async def test_frames_are_reported_only_on_demand() -> None:
    class Counter(Instrument):
        def message_received(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None: ...

    observer = make_observer([Counter()])
    assert observer.on_frame is None
    observer = make_observer([Counter(), Recorder()])
    assert observer.on_frame is not None


async def test_attrs_classes_as_instruments() -> None:
    @attrs.frozen
    class Frozen(Instrument):
        seen: list[int]

        def connection_opened(self, ws: ObservedWebSocket) -> None:
            self.seen.append(ws.id)
            raise ValueError

    seen: list[int] = []
    async with opened(instruments=[Frozen(seen)]) as (ws, _):
        assert seen == [ws.id]


@pytest.mark.parametrize("instruments", [Instrument(), [Instrument], [None], None, 1])
def test_instruments_of_wrong_type(instruments: Any) -> None:
    with pytest.raises(TypeError, match=r"^instruments must be a sequence of Instruments, "):
        Settings(instruments=instruments)
    with pytest.raises(TypeError):
        trio_ws.connect("ws://localhost", instruments=instruments)


async def test_every_connection_has_an_id() -> None:
    async with memory_websocket_pair() as (client, server):
        async with opened() as (third, _):
            assert len({client.id, server.id, third.id}) == 3
            assert all(isinstance(each.id, int) for each in (client, server, third))


# -- Instruments that misbehave --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyboardInterrupt(), SystemExit()])
@pytest.mark.parametrize("event", EVENTS)
async def test_an_instrument_that_raises(event: str, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    broken, other = Broken(event, error), Recorder()
    for _ in range(2):
        # The peer reads nothing, so the buffers are not empty.
        async with memory_websocket_pair(instruments=[broken, other]) as (client, server):
            await client.send("hello")
            await server.send(b"hello")
            await client.ping()
            assert await server.receive() == "hello"
            assert await client.receive() == b"hello"
    assert [each[0] for each in broken.events].count(event) == 1
    assert broken.events[-1][0] == event
    assert [each[0] for each in other.events].count("connection_closed") == 4
    (logged,) = caplog.records
    assert (logged.name, logged.levelname) == ("trio_ws.instruments", "ERROR")
    assert "Broken" in logged.getMessage()
    assert logged.exc_info is not None
    assert logged.exc_info[1] is error


async def test_an_instrument_that_raises_in_wants_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Undecided(Recorder):
        def wants_connection(self) -> bool:
            raise ValueError

    undecided = Undecided()
    async with opened(instruments=[undecided]):
        pass
    assert undecided.events == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("event", ["connection_opened", "message_received", "frame_sent", "queue_changed"])
async def test_an_instrument_that_sends(event: str) -> None:
    # Instruments must not send. If one does, messages keep their order and there are no nested calls.
    class Sending(Recorder):
        calls = depth = 0

        def note(self, name: str, ws: ObservedWebSocket, *args: object) -> None:
            assert self.depth == 0
            self.depth += 1
            if name == event and self.calls < 3:
                self.calls += 1
                assert isinstance(ws, WebSocket)
                trio_ws.broadcast([ws], f"note {self.calls}")
            super().note(name, ws, *args)
            self.depth -= 1

    sending = Sending()
    for streams in (memory_pair(), None):
        sending.calls = 0

        received: list[object] = []
        async with trio.open_nursery() as nursery:
            if streams is not None:
                nursery.start_soon(partial(trio_ws.serve_over, streams[1], echo, instruments=[sending]))
                connecting = trio_ws.connect_over(streams[0], "ws://any/")
                server = None
            else:
                server = await nursery.start(partial(trio_ws.serve, echo, 0, host="127.0.0.1", instruments=[sending]))
                connecting = trio_ws.connect(f"ws://127.0.0.1:{server.port}")
            async with connecting as ws:
                for number in range(3):
                    await ws.send(f"hello {number}")
                while "hello 2" not in received or len(received) < 3 + sending.calls:
                    received.append(await ws.receive())
            if server is not None:
                await server.aclose()
        assert [each for each in received if "hello" in str(each)] == ["hello 0", "hello 1", "hello 2"]
        notes = [each for each in received if "note" in str(each)]
        assert notes
        assert notes == [f"note {number + 1}" for number in range(len(notes))]
    assert not sending._is_broken


async def test_an_instrument_that_aborts_the_connection() -> None:
    class Dropping(Recorder):
        def message_received(self, ws: ObservedWebSocket, opcode: Opcode, size: int) -> None:
            super().message_received(ws, opcode, size)
            assert isinstance(ws, WebSocket)
            connection_of(ws).drop_slow_peer()

    dropping = Dropping()
    async with opened(Role.SERVER, instruments=[dropping]) as (ws, peer):
        await peer.send(text("a"))
        assert await ws.receive() == "a"
        frame = await peer.receive()
        assert frame is not None
        assert frame.opcode is Opcode.CLOSE
    assert dropping.events[-1][0] == "connection_closed"
    assert not dropping._is_broken


# -- Logs ------------------------------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [(each.name, each.levelname, each.getMessage()) for each in caplog.records]


def test_a_level_must_be_an_int() -> None:
    for log in (trio_ws.LogConnections, trio_ws.LogFrames):
        with pytest.raises(TypeError, match="level must be an int, not 'INFO'"):
            log("INFO")  # type: ignore[arg-type]  # wrong on purpose
        assert log(logging.WARNING).level == logging.WARNING


async def test_log_of_connections(caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock) -> None:
    caplog.set_level(logging.INFO)
    ours, theirs = memory_pair()
    ids = []

    async def handler(ws: WebSocket) -> None:
        ids.append(ws.id)
        async for message in ws:
            await ws.send(message)

    options: Any = {"instruments": [trio_ws.LogConnections()], "subprotocols": ["chat"], "compression": None}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, handler, **options))
        async with trio_ws.connect_over(ours, "ws://any/feed?token=secret", **options) as ws:
            await ws.send("hello")
            await ws.receive()
            await trio.sleep(2)
    closed = "sent 1000 (normal closure), then received 1000 (normal closure)"
    answered = "received 1000 (normal closure), then sent 1000 (normal closure)"
    assert sorted(lines(caplog)) == [
        (
            "trio_ws.client",
            "INFO",
            f"connection {ws.id} closed: {closed}; in 1 messages (11 bytes), out 1 messages (19 bytes), 2.000 seconds",
        ),
        ("trio_ws.client", "INFO", f"connection {ws.id} opened: no address, path /feed, subprotocol chat"),
        (
            "trio_ws.server",
            "INFO",
            f"connection {ids[0]} closed: {answered}; "
            "in 1 messages (19 bytes), out 1 messages (11 bytes), 2.000 seconds",
        ),
        ("trio_ws.server", "INFO", f"connection {ids[0]} opened: no address, path /feed, subprotocol chat"),
    ]
    (record,) = [each for each in caplog.records if each.name == "trio_ws.client" and "closed" in each.getMessage()]
    fields = {
        "id": ws.id,
        "peer": None,
        "path": "/feed",
        "subprotocol": "chat",
        "code": 1000,
        "reason": "",
        "clean": True,
        "seconds": 2.0,
        "bytes_received": 11,
        "bytes_sent": 19,
        "messages_received": 1,
        "messages_sent": 1,
    }
    assert {name: getattr(record, name) for name in fields} == fields


async def test_log_of_a_connection_that_fails(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_ws.client")
    async with opened(instruments=[trio_ws.LogConnections()]) as (ws, peer):
        await peer.send(b"\xff\xff")
        with pytest.raises(trio_ws.ConnectionClosedError):
            await ws.receive()
    line = caplog.records[-1].getMessage()
    assert "sent 1002 (protocol error)" in line
    assert "[unknown opcode 0xf]" in line


@pytest.mark.parametrize(
    "address, shown",
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        ("/run/app.sock", "/run/app.sock"),
        ("", None),
        (None, None),
    ],
)
async def test_log_of_addresses(address: Any, shown: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    session = born_open(memory_pair()[0], instruments=[trio_ws.LogConnections()], close_timeout=0)
    session._ws.remote_address = address
    async with session:
        pass
    assert f"opened: {shown or 'no address'}, path /" in caplog.text
    assert caplog.records[0].peer == shown  # type: ignore[attr-defined]  # it is one of ours


async def test_log_of_frames(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_ws")
    async with opened(Role.SERVER, instruments=[trio_ws.LogFrames()]) as (ws, peer):
        await ws.send("hi")
        await peer.receive()
        await peer.send(text("a" * 100))
        await ws.receive()
        begin = f"connection {ws.id}"
        assert lines(caplog) == [
            ("trio_ws.server", "DEBUG", f"{begin} > TEXT 'hi' [2 bytes]"),
            ("trio_ws.server", "DEBUG", f"{begin} < TEXT '{'a' * 64}'... [100 bytes]"),
        ]


@pytest.mark.parametrize("instrument", [trio_ws.LogConnections(), trio_ws.LogFrames(), trio_ws.LogFrames(5)])
async def test_a_disabled_log_costs_nothing(instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "trio_ws")
    async with opened(instruments=[instrument]) as (ws, _):
        assert type(connection_of(ws).observer) is NullObserver
    caplog.set_level(5, "trio_ws")
    async with opened(instruments=[instrument]) as (ws, _):
        assert type(connection_of(ws).observer) is not NullObserver
