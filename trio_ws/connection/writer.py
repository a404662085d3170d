"""The writer task, and the write without waiting.

Three encode and write: the task, :func:`write_at_once`, and the last words of the task. They never meet: the second
looks first whether the outbox is clear, and has no ``await``; the last words come when the task has ended.
"""

from __future__ import annotations

import trio

from ..frames import Close, CloseCode
from ..protocol.connection import OutgoingFrame
from .core import GOODBYE_TIMEOUT, GRACE, Connection
from .stream import BATCH, StreamBroken

__all__ = ["write", "write_at_once"]

#: Whether :func:`write_at_once` writes. Otherwise the writer task writes everything.
WRITE_AT_ONCE = True

#: How often those who handle messages may go on, at most, before what they have sent is written.
_ROUNDS = 8


@trio.lowlevel.enable_ki_protection
def write_at_once(connection: Connection, frame: OutgoingFrame) -> bool:
    """Write a message to the socket, if nothing is in its way and the socket takes it without waiting.

    What the socket does not take of it is for the writer task. Not waking that task saves 30 % of the instructions of a
    round trip of 32 bytes: it takes 182,000 instead of 262,000.

    Returns:
        Whether it was done. If not, nothing has happened.
    """
    outbox, stream, encoder = connection.outbox, connection.stream, connection.encoder
    if not (WRITE_AT_ONCE and connection.state.can_send and outbox.is_clear and stream.can_write_now()):
        return False
    frames = [frame]
    if encoder.takes_long(frames):
        return False
    if not stream.write_now(encoder.encode(frames)):
        outbox.keep(frame)
    connection.observer.report()
    return True


@trio.lowlevel.enable_ki_protection
async def write(connection: Connection) -> None:
    """Write what is in the outbox until nothing more will come, and do what is due meanwhile. Never raises."""
    keepalive = connection.keepalive
    try:
        while not keepalive.stopped:
            with keepalive.scope:
                await _write_queued(connection)
                if connection.protocol.closing.is_done:
                    connection.settle()  # nothing can change that any more
                return
            if not keepalive.stopped:
                _do_what_is_due(connection)
                keepalive.restart()
    except StreamBroken as exc:
        # Do not wait for anything more to be written. But the peer may have told us why before it went.
        connection.state.fail(exc.__cause__)
        connection.begin_closing(None)
        connection.outbox.finish(None)  # if it was closing already
        connection.hurry(GRACE)
    finally:
        await _flush_close(connection)
        connection.writer_done.set()


async def _write_queued(connection: Connection) -> None:
    """Write queued frames until the outbox is finished and empty, and then the Close frame.

    When the deadline of the clock cancels it, be it in a wait in which nothing is lost: this can be called again.
    """
    outbox, stream, keepalive = connection.outbox, connection.stream, connection.keepalive
    more = True
    while more:
        if outbox.taken:  # what the socket has not taken at once, or when the clock interrupted us
            await stream.write([], keepalive.before_wait)
            _note_written(connection)
        more = await outbox.wait()
        if outbox.taken:
            continue
        # When we are cancelled, let it be here, where nothing is encoded, and not in the write that comes next.
        await trio.lowlevel.checkpoint_if_cancelled()
        await _gather(connection)
        chunks = await _encode(connection, outbox.take())
        await stream.write(chunks, keepalive.before_wait)
        _note_written(connection)
    await _write_close(connection)


async def _gather(connection: Connection) -> None:
    """Let those who handle received messages go on: one write for many answers is cheaper than one for each."""
    outbox, inbox = connection.outbox, connection.inbox
    size = -1
    for _ in range(_ROUNDS):
        if inbox.is_empty or outbox.size == size or outbox.size >= BATCH or not connection.state.can_send:
            return
        size = outbox.size
        await trio.lowlevel.checkpoint()


async def _encode(connection: Connection, frames: list[OutgoingFrame]) -> list[bytes]:
    encoder, keepalive = connection.encoder, connection.keepalive
    if not encoder.takes_long(frames):
        return encoder.encode(frames)
    keepalive.hold(True)  # what the compressor has begun cannot be repeated
    try:
        return await encoder.encode_in_thread(frames)
    finally:
        keepalive.hold(False)


def _note_written(connection: Connection) -> None:
    connection.keepalive.after_write()
    connection.outbox.written()
    connection.observer.report()


async def _write_close(connection: Connection) -> None:
    """Write the Close frame, if there is one and it is not out yet."""
    close = connection.outbox.close
    if close is not None and connection.protocol.closing.can_send:
        await connection.stream.write(connection.encoder.encode_close(close))
        connection.observer.report()


async def _flush_close(connection: Connection) -> None:
    """Write queued frames and the Close frame, unless the stream is poisoned, if it takes next to no time."""
    outbox, stream = connection.outbox, connection.stream
    if outbox.close is None or stream.poisoned:
        return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_TIMEOUT):
        try:
            await stream.write([])
            if not connection.protocol.closing.can_send:  # the Close frame was among that
                return
            if not connection.encoder.interrupted:  # otherwise the peer could not decode what comes next
                await stream.write(await _encode(connection, outbox.take()))
            await _write_close(connection)
        except StreamBroken as exc:
            connection.state.fail(exc.__cause__)


def _do_what_is_due(connection: Connection) -> None:
    """Ping, or close because of a limit or a dead peer."""
    if not connection.state.can_send:
        return  # the closing handshake has a deadline of its own
    reason = connection.limits.expired()
    if reason is not None:
        connection.begin_closing(Close(CloseCode.GOING_AWAY, reason))
        return
    if connection.keepalive.ping_is_due:
        connection.encoder.rest()  # in so long a time it may be that nothing goes on
    failure = connection.keepalive.check()
    if failure is not None:
        connection.state.fail(failure)
        connection.begin_closing(Close(CloseCode.INTERNAL_ERROR, "keepalive ping timeout"))
        connection.cut()
