"""Posting: sending a message for :func:`~trio_ws.broadcast`, which does not wait, and the timer of ``max_lag``.

A plain function can neither wait nor come back later. So while posted messages wait in the outbox, a timer task in the
nursery of the connection checks whether one has waited too long. It starts with the first such message and ends when
there are none, so most connections never have it. The writer task cannot do this: while it writes to a stream that is
not a plain socket, it must not be interrupted.
"""

from __future__ import annotations

import math

import trio

from ..protocol.connection import OutgoingFrame
from .core import Connection
from .lag import PostLimits
from .writer import write_at_once

__all__ = ["post", "post_newest", "watch_lag"]


@trio.lowlevel.enable_ki_protection
def post(connection: Connection, frame: OutgoingFrame, packed: bytes, limits: PostLimits) -> bool:
    """Send a whole message without waiting, unless the peer is too slow for it.

    Args:
        connection: The connection.
        frame: The message.
        packed: The bytes of the frame, neither masked nor transformed by extensions.
        limits: The limits beyond which the peer is too slow.

    Returns:
        Whether the message was sent. False also if the connection accepts no more messages.
    """
    outbox = connection.outbox
    if write_at_once(connection, frame, packed):
        if not outbox.writing:
            return True
        outbox.record_posted(limits)
    elif not outbox.post(frame, limits):
        return False
    else:
        connection.observer.report()
    _start_timer(connection)
    return True


@trio.lowlevel.enable_ki_protection
def post_newest(connection: Connection, frame: OutgoingFrame, limits: PostLimits) -> None:
    """Send a whole message when the peer has caught up, in place of the message that waits for this already."""
    connection.outbox.post_newest(frame, limits)
    connection.observer.report()


def _start_timer(connection: Connection) -> None:
    lag = connection.outbox.lag
    if lag.needs_timer and connection.nursery is not None:
        lag.timer_scope = trio.CancelScope(shield=True)
        connection.nursery.start_soon(watch_lag, connection)


@trio.lowlevel.enable_ki_protection
async def watch_lag(connection: Connection) -> None:
    """Check the waiting messages until there are none, and drop the peer if it is too slow. Never raises."""
    outbox, stream = connection.outbox, connection.stream
    while connection.state.can_send and (check_at := outbox.find_next_lag_check(stream.progress_at)) < math.inf:
        with trio.CancelScope(shield=True, deadline=check_at) as outbox.lag.timer_scope:
            await trio.sleep_forever()
        exceeded = outbox.check_lag(trio.current_time() - outbox.lag.timer_scope.deadline, stream.progress_at)
        if exceeded is not None:
            connection.drop_slow_peer(exceeded.max_lag)
    outbox.lag.timer_scope = None
