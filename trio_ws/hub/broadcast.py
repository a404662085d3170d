"""Sending one message to many connections, without waiting for slow peers: ``broadcast``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from ..connection.lag import PostLimits
from ..connection.posting import post, post_newest
from ..connection.sendable import Sendable, prepare
from ..connection.websocket import WebSocket, connection_of
from ..misuse.usage import check_in_thread_of_trio
from ..protocol.codec import FIN
from ..protocol.extensions import EncodingCache
from ..protocol.hot import pack

__all__ = ["DEFAULT_MAX_BACKLOG", "DEFAULT_MAX_LAG", "WhenFull", "broadcast", "check_limits", "check_when_full"]

#: The policy for connections whose peers are too slow; see :func:`broadcast`.
WhenFull: TypeAlias = Literal["drop", "skip", "newest"]

#: The default limits: bytes of memory, and seconds.
DEFAULT_MAX_BACKLOG = 8 * 1024 * 1024
DEFAULT_MAX_LAG = 10.0


def broadcast(
    connections: Iterable[WebSocket],
    message: Sendable,
    *,
    text: bool | None = None,
    compress: bool = True,
    when_full: WhenFull = "drop",
    max_backlog: int | None = DEFAULT_MAX_BACKLOG,
    max_lag: float | None = DEFAULT_MAX_LAG,
) -> list[WebSocket]:
    """Send a message to many connections. Never waits, so a slow peer cannot delay the others.

    ::

        trio_ws.broadcast(server.connections, "hello, all")

    The message is written to each connection at once if that is possible without waiting; otherwise it is put into the
    connection's outbox. Connections that are closing or closed are skipped silently. On each connection, the message
    precedes those of later calls of this function or of :meth:`WebSocket.send`.

    A burst does not make a peer slow: this function may put more into an outbox than ``send_buffer`` allows, and
    ``send`` then waits until enough has been written. A peer is too slow if more than ``max_backlog`` bytes would wait
    for it, or if a message of this function has waited longer than its ``max_lag``. One message of any size may always
    wait, and a message that is being written does not count as waiting while the peer accepts parts of it.
    ``when_full`` is the policy for slow peers:

    * ``"drop"``: Close the connection with 1013 (try again later). The peer has ``close_timeout`` seconds to read what
      was sent before. A timer does this when ``max_lag`` has passed, even if this function is not called again.
    * ``"skip"``: Do not send this message to the peer.
    * ``"newest"``: Keep the message until the peer has caught up, replacing an older one that is kept for that reason.
      A slow peer misses some messages, but gets the last one unless the connection is closed first.

    So the outbox of a peer holds at most ``max_backlog`` bytes or one message, and one more message with ``"newest"``.
    The size of a message includes the objects that hold it. A message counts for each connection, although all of them
    share its memory.

    The message is encoded and compressed only once. It is therefore compressed without reference to earlier messages
    and may take more bytes than with :meth:`WebSocket.send`. Clients must mask each frame with a new key, so masking is
    done for each connection.

    This is not an ``async`` function: it is not a checkpoint, and no other task runs meanwhile. Each connection takes
    as long as the operating system needs to accept the message, usually some microseconds.

    Args:
        connections: The connections. They may have different roles, options and subprotocols.
        message: The message. A ``str`` is sent as text, ``bytes`` as binary.
        text: True to send UTF-8 ``bytes`` as text, False to send a ``str`` as binary.
        compress: Whether to compress the message where compression is in use.
        when_full: The policy for connections whose peers are too slow.
        max_backlog: Bytes of memory that may wait for a peer, including messages of ``send``. None: no limit.
        max_lag: Seconds that this message may wait for a peer. None: no limit.

    Returns:
        The connections whose peers were too slow, whatever ``when_full`` is.

    Raises:
        RuntimeError: If Trio does not run in this thread. In another one, use :func:`trio.from_thread.run_sync`.
        TypeError: If a connection is not a :class:`WebSocket`, the message is neither ``str`` nor bytes-like, or a
            limit is not a number.
        ValueError: If the message is sent as text and is not valid Unicode, ``when_full`` is not one of the three, or a
            limit is out of range.
    """
    check_in_thread_of_trio("broadcast()")
    check_when_full(when_full)
    limits = check_limits(max_backlog, max_lag, when_full == "drop")
    opcode, data = prepare(message, text)
    frame = FIN | opcode, data, EncodingCache() if compress else False
    packed = pack([frame])
    slow = []
    for ws in connections:
        try:  # isinstance() with an abstract class takes four times as long as this, for each connection
            connection = connection_of(ws)
        except AttributeError:
            raise TypeError(f"each of connections must be a WebSocket, not {ws!r}") from None
        if post(connection, frame, packed, limits) or not connection.state.can_send:
            continue
        slow.append(ws)
        if when_full == "newest":
            post_newest(connection, frame, limits)
        elif when_full == "drop":
            connection.drop_slow_peer()
    return slow


def check_when_full(when_full: object) -> None:
    """Check a policy.

    Raises:
        ValueError: If it is not one of the three.
    """
    if when_full not in get_args(WhenFull):
        raise ValueError(f"when_full must be one of {', '.join(map(repr, get_args(WhenFull)))}, not {when_full!r}")


def check_limits(max_backlog: int | None, max_lag: float | None, drops: bool) -> PostLimits:
    """Check the limits of a broadcast, and return them as one value.

    Raises:
        TypeError: If one is of the wrong type.
        ValueError: If one is out of range.
    """
    if max_backlog is not None:
        if isinstance(max_backlog, bool) or not isinstance(max_backlog, int):
            raise TypeError(f"max_backlog must be a whole number or None, not {max_backlog!r}")
        if max_backlog < 0:
            raise ValueError(f"max_backlog must be at least 0, not {max_backlog}")
    if max_lag is not None:
        if isinstance(max_lag, bool) or not isinstance(max_lag, (int, float)):
            raise TypeError(f"max_lag must be a number or None, not {max_lag!r}")
        if not max_lag > 0:
            raise ValueError(f"max_lag must be greater than 0, not {max_lag}")
    return PostLimits(
        max_backlog=math.inf if max_backlog is None else max_backlog,
        max_lag=math.inf if max_lag is None else max_lag,
        drops=drops,
    )
