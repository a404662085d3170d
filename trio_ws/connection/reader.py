"""The reader task: it reads from the end of the opening handshake on, and closes the stream at the end."""

from __future__ import annotations

import trio

from ..exceptions import ProtocolError
from ..frames import Close, Opcode
from ..protocol import LastPart, Message, Role
from .core import GOODBYE_TIMEOUT, GRACE, Connection
from .state import Event
from .stream import MAX_RECEIVE_SIZE, RECEIVE_SIZE, StreamBroken

__all__ = ["run"]

#: Maximum number of consecutive reads without letting other tasks run.
_MAX_READS = 4

#: Number of times that other tasks may run after :data:`GRACE` seconds, to answer what came before the end.
_GRACE_ROUNDS = 8


@trio.lowlevel.enable_ki_protection
async def run(connection: Connection) -> None:
    """Read until the connection ends, wait for the writer to end, and close the stream.

    Never raises. Only :attr:`Connection.reader_scope` can cancel it.
    """
    state, scope = connection.state, connection.reader_scope
    try:
        with scope:
            await _read(connection)
    finally:
        is_late = scope.cancelled_caught and trio.current_time() >= scope.deadline
        if not connection.writer_done.is_set():
            connection.keepalive.stop()
            with trio.CancelScope(shield=True):
                await connection.writer_done.wait()
        # The last attempt of the writer may have completed the closing handshake.
        if is_late and not connection.protocol.closing.is_done:
            seconds = connection.settings.close_timeout
            state.fail(trio.TooSlowError(f"the closing handshake took longer than {seconds:g} seconds (close_timeout)"))
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
            await _end_connection(connection, ending)
    except StreamBroken as exc:
        connection.state.fail(exc.__cause__)
        connection.settle()


async def _receive(connection: Connection) -> Close | ProtocolError | None:
    """Read from the stream and dispatch everything that the peer sends.

    Returns:
        The reason why the connection ends: a Close frame or a violation; None for the end of the stream.
    """
    stream, inbox, protocol = connection.stream, connection.inbox, connection.protocol
    received, connection.received = connection.received, b""
    ending = await _process(connection, received) if received else None
    reads = 0
    while ending is None:
        if not reads:
            # This comes before the check for room, because meanwhile a task may receive the messages of the last step.
            await stream.wait_readable()
        if inbox.is_full:
            await _wait_for_room(connection)
        size = _read_size(protocol.expected) if inbox.is_empty else RECEIVE_SIZE
        data = stream.receive_now(size) if stream.is_socket else await stream.receive_view(size)
        if data is None:  # no bytes have arrived yet
            reads = 0
            continue
        if not data:
            return None
        # After a full read, more bytes are probably there. Otherwise, another read would cost as much as waiting.
        full = stream.is_socket and len(data) == size
        ending = await _process(connection, data)
        del data  # otherwise it stays in memory until the next bytes arrive
        reads = (reads + 1) % _MAX_READS if full and inbox.is_empty else 0
    return ending


def _read_size(expected: int) -> int:
    """Return the number of bytes to read if so many are expected. Large frames are read several at a time."""
    if expected <= RECEIVE_SIZE:
        return RECEIVE_SIZE
    return min(max(expected, 4 * RECEIVE_SIZE), MAX_RECEIVE_SIZE)


async def _wait_for_room(connection: Connection) -> None:
    inbox, keepalive = connection.inbox, connection.keepalive
    keepalive.record_reading(False)
    while inbox.is_full:
        if inbox.end_when_full:
            inbox.end()
        else:
            await inbox.wait_for_receiver()
    keepalive.record_reading(True)


async def _process(connection: Connection, data: bytes | memoryview) -> Close | ProtocolError | None:
    """Decode received bytes in steps. Return the Close frame or the violation if there is one."""
    connection.keepalive.record_received()
    connection.observer.record_received(len(data))
    # Not in a thread, because receive_stream() uses the message in progress meanwhile. Between two steps, the inbox may
    # fill up: the output of the decompressor can be a thousand times as large as its input.
    for _ in connection.protocol.receive_in_steps(data):
        ending = _dispatch_events(connection)
        if ending is not None:
            return ending
        await trio.lowlevel.checkpoint()
        if connection.inbox.is_full:
            await _wait_for_room(connection)
    return _dispatch_events(connection)


def _dispatch_events(connection: Connection) -> Close | ProtocolError | None:
    """Dispatch the events of the last step. Return the Close frame or the violation if there is one."""
    protocol = connection.protocol
    items: list[Message | LastPart] = protocol.next_messages()  # type: ignore[assignment]  # nobody else uses the list
    ending: Close | ProtocolError | None = None
    frames = protocol.take_frame_count()
    while (event := protocol.next_plain_event()) is not None:
        if isinstance(event, (str, bytes, LastPart)):
            items.append(event)
        elif isinstance(event, ProtocolError):
            if ending is None:
                ending = event
            elif not connection.state.closed_locally:
                # The Close frame came in the middle of a message. It is answered as usual.
                connection.state.fail(event)
        elif event[0] == Opcode.PING:
            connection.outbox.put_pong(event[1])
        elif event[0] == Opcode.PONG:
            frames -= connection.keepalive.receive_pong(event[1])  # the limit is for unsolicited frames
        else:
            ending = protocol.closing.rcvd
    ending = connection.limits.check_frames(frames, items) or ending
    if items:
        connection.limits.record_received()
        connection.keepalive.set_piece_deadline()
        connection.observer.record_messages(items)
    connection.inbox.put(items)
    if connection.inbox.has_lost:
        connection.state.fail(trio.TooSlowError("messages were lost: the handler did not receive them in time"))
    connection.observer.report()
    return ending


async def _end_connection(connection: Connection, ending: Close | ProtocolError) -> None:
    """End the connection after the peer's Close frame or violation, once the messages before it are handled."""
    state, inbox, stream = connection.state, connection.inbox, connection.stream
    state.advance(Event.PEER_ENDS)

    def may_be_answered() -> bool:
        return state.can_send and not inbox.is_handled

    if may_be_answered():
        with trio.move_on_after(GRACE):
            while may_be_answered():
                await inbox.wait_for_receiver()
        # If this process was held up meanwhile, the application has had no time at all.
        for _ in range(_GRACE_ROUNDS):
            if not may_be_answered():
                break
            await trio.lowlevel.checkpoint()
    if isinstance(ending, Close):
        # Echo the code (RFC 6455, section 5.5.1). The server closes the stream first (section 7.1.1).
        connection.begin_closing(ending)
        await connection.writer_done.wait()
        connection.settle()
        if connection.role is Role.SERVER:
            return
    else:
        state.fail(ending)
        connection.begin_closing(Close(ending.code, _truncate(ending.reason)))
        with trio.move_on_after(GRACE):
            await connection.writer_done.wait()
        connection.settle()
        # Closing a socket with unread bytes sends a reset, and the peer might lose the Close frame. So close only the
        # sending direction, and then read until the peer has closed, too.
        if not await stream.send_eof():
            connection.end_within(GRACE)
    while await stream.receive():
        pass


def _truncate(reason: str) -> str:
    """Cut a reason to the 123 bytes that fit into a Close frame."""
    return reason.encode()[:123].decode(errors="ignore")
