"""The writer task, and the shortcut for writing without it.

Three functions encode and write: the main loop of the task, its final flush, and :func:`write_at_once`. They never
overlap. The flush follows the main loop, and ``write_at_once()`` runs without an ``await``, and only if the outbox is
clear.
"""

from __future__ import annotations

import trio

from ..frames import Close, CloseCode
from ..protocol.connection import OutgoingFrame
from .core import GOODBYE_TIMEOUT, GRACE, Connection
from .encoder import EncodingFailed
from .stream import BATCH, StreamBroken

__all__ = ["write", "write_at_once"]

#: Whether :func:`write_at_once` is enabled. If not, the writer task writes everything.
WRITE_AT_ONCE = True

#: Maximum number of times that other tasks may run before their messages are written.
_GATHER_ROUNDS = 8


@trio.lowlevel.enable_ki_protection
def write_at_once(connection: Connection, frame: OutgoingFrame, packed: bytes | None = None) -> bool:
    """Write a message to the socket without waiting, if nothing else must be written before it.

    The writer task writes the rest if the socket does not accept the whole message. Not waking that task saves 30 % of
    the instructions of a round trip of 32 bytes: 182,000 instead of 262,000.

    Args:
        connection: The connection.
        frame: The message.
        packed: The bytes of the frame, neither masked nor transformed by extensions, if they are known. A connection
            without these then needs not encode the message, which saves two fifths of the instructions of a broadcast.

    Returns:
        True if the message was written or left to the writer task; False if nothing was done.
    """
    outbox, stream, encoder = connection.outbox, connection.stream, connection.encoder
    if not (WRITE_AT_ONCE and connection.state.can_send and outbox.is_clear and stream.can_write_now()):
        return False
    frames = [frame]
    if packed is not None and encoder.is_plain:
        chunks = [packed]
        encoder.record_sent(frames, chunks)
    elif encoder.needs_thread(frames):
        return False
    else:
        try:
            chunks = encoder.encode(frames)
        except EncodingFailed as exc:
            _fail(connection, exc)
            return False
    if not stream.write_now(chunks):
        outbox.add_unwritten(frame)
    connection.observer.report()
    return True


@trio.lowlevel.enable_ki_protection
async def write(connection: Connection) -> None:
    """Write the outbox until it is finished and empty, and run the checks of the keepalive. Never raises."""
    keepalive = connection.keepalive
    try:
        while not keepalive.stopped:
            with keepalive.writer_scope:
                await _write_queued(connection)
                return
            if not keepalive.stopped:
                _run_checks(connection)
                keepalive.renew_scope()
    except EncodingFailed as exc:
        _fail(connection, exc)
    except StreamBroken as exc:
        # Write nothing more, but give the reader some time: a Close frame with the peer's reason may have arrived.
        connection.state.fail(exc.__cause__)
        connection.begin_closing(None)
        connection.outbox.finish(None)  # begin_closing() does nothing if the connection was closing already
        connection.end_within(GRACE)
    finally:
        await _flush_close(connection)
        connection.writer_done.set()


async def _write_queued(connection: Connection) -> None:
    """Write queued frames until the outbox is finished and empty, and then the Close frame.

    The deadline of the writer's scope may cancel this only in waits in which nothing is lost. It is then called again.
    """
    outbox, stream, keepalive = connection.outbox, connection.stream, connection.keepalive
    while await outbox.wait():
        chunks: list[bytes] = []
        # Otherwise, write_at_once() has left a rest, or the deadline has interrupted the write below.
        if not outbox.writing:
            # A pending cancellation must take effect here, before anything is taken and encoded, not in the write.
            await trio.lowlevel.checkpoint_if_cancelled()
            await _gather(connection)
            chunks = await _encode(connection, outbox.take())
        await stream.write(chunks, keepalive.before_blocking)
        _record_written(connection)
    await _write_close(connection)


async def _gather(connection: Connection) -> None:
    """Give other tasks time to answer received messages: one write for many answers is cheaper than many writes."""
    outbox, inbox = connection.outbox, connection.inbox
    size = -1
    for _ in range(_GATHER_ROUNDS):
        if inbox.is_empty or outbox.size == size or outbox.size >= BATCH or not connection.state.can_send:
            return
        size = outbox.size
        await trio.lowlevel.checkpoint()


async def _encode(connection: Connection, frames: list[OutgoingFrame]) -> list[bytes]:
    encoder, keepalive = connection.encoder, connection.keepalive
    if not encoder.needs_thread(frames):
        return encoder.encode(frames)
    keepalive.set_interruptible(False)  # the compressor's work cannot be repeated
    try:
        return await encoder.encode_in_thread(frames)
    finally:
        keepalive.set_interruptible(True)


def _record_written(connection: Connection) -> None:
    connection.keepalive.record_written()
    connection.outbox.record_written()
    connection.observer.report()


async def _write_close(connection: Connection) -> None:
    """Write the Close frame, if there is one, or the rest of it."""
    close = connection.outbox.close
    chunks: list[bytes] = []
    if close is not None and connection.protocol.closing.can_send:
        await trio.lowlevel.checkpoint_if_cancelled()  # for the same reason as in _write_queued()
        chunks = connection.encoder.encode_close(close)
    if chunks or connection.stream.has_unwritten:
        await connection.stream.write(chunks)
        connection.observer.report()


async def _flush_close(connection: Connection) -> None:
    """Make a short last attempt to write queued frames and the Close frame, unless the stream is poisoned."""
    outbox, stream, closing = connection.outbox, connection.stream, connection.protocol.closing
    if outbox.close is None or stream.poisoned or not (closing.can_send or stream.has_unwritten):
        return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_TIMEOUT):
        try:
            await stream.write([])
            if not closing.can_send:  # the Close frame was among that
                return
            if not connection.encoder.interrupted:  # otherwise, the peer could not decode more messages
                while frames := outbox.take():
                    await stream.write(await _encode(connection, frames))
            await _write_close(connection)
        except (EncodingFailed, StreamBroken) as exc:
            connection.state.fail(exc.__cause__)


def _fail(connection: Connection, exc: EncodingFailed) -> None:
    """Begin closing because an extension has failed."""
    connection.state.fail(exc.__cause__)
    connection.begin_closing(Close(CloseCode.INTERNAL_ERROR, "an extension failed"))


def _run_checks(connection: Connection) -> None:
    """Send a ping if it is time, and begin closing if a limit is exceeded or the peer is dead."""
    if not connection.state.can_send:
        return  # the closing handshake has its own deadline
    reason = connection.limits.expiry_reason()
    if reason is not None:
        connection.begin_closing(Close(CloseCode.GOING_AWAY, reason))
        return
    if connection.keepalive.ping_is_due:
        connection.encoder.free_memory()  # the connection may have become idle
    failure = connection.keepalive.check()
    if failure is not None:
        connection.state.fail(failure)
        connection.begin_closing(Close(CloseCode.INTERNAL_ERROR, "keepalive ping timeout"))
        connection.cancel_tasks()
