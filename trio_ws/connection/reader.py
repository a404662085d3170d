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
        connection.keepalive.stop()
        with trio.CancelScope(shield=True):
            await connection.writer_done.wait()
        connection.settle()
        await connection.stream.aclose(GOODBYE_TIMEOUT)
        state.advance(Event.STREAM_CLOSED)
        connection.observer.close(state)


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
    again = 0
    while ending is None:
        await _wait_for_room(connection)
        # Large frames that somebody waits for come in large reads.
        size = min(max(protocol.expected, RECEIVE_SIZE), MAX_RECEIVE_SIZE) if inbox.is_empty else RECEIVE_SIZE
        data: bytes | memoryview | None = stream.receive_now(size) if 0 < again < _READS else None
        if data is None:
            again = 0
            data = await stream.receive_view(size)
        if not data:
            return None
        # More is there already, most likely, if it was as much as there can be. Otherwise it would cost a system call.
        again = again + 1 if stream.is_socket and len(data) == size else 0
        ending = await _take_in(connection, data)
        del data  # not to be kept while nothing comes
    return ending


async def _wait_for_room(connection: Connection) -> None:
    inbox = connection.inbox
    if inbox.is_full:
        connection.keepalive.pause()
        while inbox.is_full:
            await inbox.wait()
        connection.keepalive.resume()


async def _take_in(connection: Connection, data: bytes | memoryview) -> Close | ProtocolError | None:
    """Take in what was received, in steps. Return what has ended the connection, if something has."""
    connection.keepalive.note_heard()
    connection.observer.note_received(len(data))
    # Not in a thread: those who receive look at the message in progress, and what comes out, which may be a thousand
    # times as much, has to fill the inbox before more is decompressed.
    for _ in connection.protocol.receive_in_steps(data):
        ending = _dispatch_events(connection)
        if ending is not None:
            return ending
        await trio.lowlevel.checkpoint()
        await _wait_for_room(connection)
    return _dispatch_events(connection)


def _dispatch_events(connection: Connection) -> Close | ProtocolError | None:
    """Hand on what has come of the last step. Return what has ended the connection, which is always the last."""
    protocol, inbox = connection.protocol, connection.inbox
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
        connection.observer.note_messages(items)
        inbox.put(items)
    inbox.put_progress()
    connection.observer.report()
    return ending


async def _end(connection: Connection, ending: Close | ProtocolError) -> None:
    """Let the connection end because of what the peer has sent, after everything before it."""
    state, inbox, stream = connection.state, connection.inbox, connection.stream
    inbox.end()
    state.advance(Event.PEER_ENDS)
    with trio.move_on_after(GRACE):
        while state.can_send and not inbox.is_finished_with:
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
