"""The reader task: from the first byte after the opening handshake to the closed stream."""

from __future__ import annotations

import trio

from ..exceptions import ProtocolError
from ..frames import Close, Opcode
from ..protocol import LastPart, Message, Role
from .core import GOODBYE_TIMEOUT, GRACE, Connection
from .state import Event
from .stream import MAX_RECEIVE_SIZE, RECEIVE_SIZE, StreamBroken

__all__ = ["run"]

#: How often the reader reads again, at most, before it lets other tasks run.
_READS = 4


@trio.lowlevel.enable_ki_protection
async def run(connection: Connection) -> None:
    """Read until the connection ends, let the writer end, and close the stream. Never raises.

    Cannot be cancelled but by the connection itself.
    """
    state, scope = connection.state, connection.scope
    try:
        with scope:
            await _read(connection)
        if scope.cancelled_caught and trio.current_time() >= scope.deadline:
            seconds = connection.settings.close_timeout
            state.fail(trio.TooSlowError(f"the closing handshake took longer than {seconds:g} seconds (close_timeout)"))
    finally:
        if not connection.writer_done.is_set():
            connection.keepalive.stop()
            with trio.CancelScope(shield=True):
                await connection.writer_done.wait()
        connection.settle()
        await connection.stream.aclose(GOODBYE_TIMEOUT)
        state.advance(Event.STREAM_CLOSED)
        connection.observer.close(state.error, state.is_clean)


async def _read(connection: Connection) -> None:
    try:
        ending = await _receive(connection)
        if ending is None:
            connection.settle()
        else:
            await _end(connection, ending)
    except StreamBroken as exc:
        connection.state.fail(exc.__cause__)
        connection.settle()


async def _receive(connection: Connection) -> Close | ProtocolError | None:
    """Read what the peer sends, and hand it on.

    Returns:
        What ended it: a Close frame or a violation; None for the end of the stream.
    """
    stream, inbox, protocol = connection.stream, connection.inbox, connection.protocol
    received, connection.received = connection.received, b""
    ending = await _take_in(connection, received) if received else None
    reads = 0
    while ending is None:
        if not reads:
            # Before there must be room: whoever was given something in the last step has taken it by then.
            await stream.wait_readable()
        if inbox.is_full:
            await _wait_for_room(connection)
        size = _read_size(protocol.expected) if inbox.is_empty else RECEIVE_SIZE
        data = stream.receive_now(size) if stream.is_socket else await stream.receive_view(size)
        if data is None:  # it was not there yet
            reads = 0
            continue
        if not data:
            return None
        # After a full read more is there already, most likely. After others, looking for it costs what waiting does.
        full = stream.is_socket and len(data) == size
        ending = await _take_in(connection, data)
        del data  # not to be kept while nothing comes
        reads = (reads + 1) % _READS if full and inbox.is_empty else 0
    return ending


def _read_size(expected: int) -> int:
    """Return how many bytes to read where so many are expected. Of large frames, several are read at once."""
    if expected <= RECEIVE_SIZE:
        return RECEIVE_SIZE
    return min(max(expected, 4 * RECEIVE_SIZE), MAX_RECEIVE_SIZE)


async def _wait_for_room(connection: Connection) -> None:
    inbox, keepalive = connection.inbox, connection.keepalive
    keepalive.note_reading(False)
    while inbox.is_full:
        if inbox.sheds:
            inbox.end()
        else:
            await inbox.wait()
    keepalive.note_reading(True)


async def _take_in(connection: Connection, data: bytes | memoryview) -> Close | ProtocolError | None:
    """Take in what was received, in steps. Return what has ended the connection, if something has."""
    connection.keepalive.note_heard()
    connection.observer.record_received(len(data))
    # Not in a thread: those who receive look at the message in progress, and what comes out, which may be a thousand
    # times as much, has to fill the inbox before more is decompressed.
    for _ in connection.protocol.receive_in_steps(data):
        ending = _dispatch_events(connection)
        if ending is not None:
            return ending
        await trio.lowlevel.checkpoint()
        if connection.inbox.is_full:
            await _wait_for_room(connection)
    return _dispatch_events(connection)


def _dispatch_events(connection: Connection) -> Close | ProtocolError | None:
    """Hand on what has come of the last step. Return what has ended the connection, which is always the last."""
    protocol = connection.protocol
    items: list[Message | LastPart] = protocol.next_messages()  # type: ignore[assignment]  # the list is ours
    ending: Close | ProtocolError | None = None
    while (event := protocol.next_event()) is not None:
        if isinstance(event, (str, bytes, LastPart)):
            items.append(event)
        elif isinstance(event, ProtocolError):
            ending = event
        elif event.opcode is Opcode.PING:
            connection.outbox.put_pong(event.data)
        elif event.opcode is Opcode.PONG:
            connection.keepalive.receive_pong(event.data)
        else:
            ending = protocol.closing.rcvd
    if items:
        ending = ending or connection.limits.check_received(len(items))
        connection.observer.record_messages(items)
    connection.inbox.put(items)
    connection.observer.report()
    return ending


async def _end(connection: Connection, ending: Close | ProtocolError) -> None:
    """Let the connection end because of what the peer has sent, after everything before it."""
    state, inbox, stream = connection.state, connection.inbox, connection.stream
    state.advance(Event.PEER_ENDS)

    def may_be_answered() -> bool:
        return state.can_send and not inbox.is_finished_with

    if may_be_answered():
        with trio.move_on_after(GRACE):
            while may_be_answered():
                await inbox.wait()
    if isinstance(ending, Close):
        # The answer is the echo of the code (RFC 6455, section 5.5.1); and the server closes the stream first.
        connection.begin_closing(ending)
        await connection.writer_done.wait()
        connection.settle()
        if connection.role is Role.SERVER:
            return
    else:
        state.fail(ending)
        connection.begin_closing(Close(ending.code, _shorten(ending.reason)))
        with trio.move_on_after(GRACE):
            await connection.writer_done.wait()
        connection.settle()
        # If we closed a socket with unread bytes in it, the reset could overtake the Close frame. So let the peer see
        # that no more is coming, and wait for the same from its side.
        if not await stream.send_eof():
            connection.hurry(GRACE)
    while await stream.receive():
        pass


def _shorten(reason: str) -> str:
    """Cut text to what a Close frame can hold."""
    return reason.encode()[:123].decode(errors="ignore")
