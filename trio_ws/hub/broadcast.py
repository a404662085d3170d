"""Sending one message to many connections, without waiting for slow peers: ``broadcast``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from ..connection.sendable import Sendable, prepare
from ..connection.websocket import WebSocket, connection_of
from ..connection.writer import write_at_once
from ..protocol.codec import FIN
from ..protocol.extensions import EncodingCache

__all__ = ["WhenFull", "broadcast"]

#: The policy for connections whose outbox is full; see :func:`broadcast`.
WhenFull: TypeAlias = Literal["drop", "skip", "newest"]


def broadcast(
    connections: Iterable[WebSocket],
    message: Sendable,
    *,
    text: bool | None = None,
    compress: bool = True,
    when_full: WhenFull = "drop",
) -> list[WebSocket]:
    """Send a message to many connections. Never waits, so a slow peer cannot delay the others.

    ::

        trio_ws.broadcast(server.connections, "hello, all")

    The message is written to each connection at once if that is possible without waiting; otherwise it is put into the
    connection's outbox. Connections that are closing or closed are skipped silently. On each connection, the message
    precedes those of later calls of this function or of :meth:`WebSocket.send`.

    A peer that reads too slowly fills the outbox of its connection (see ``send_buffer``). ``when_full`` is the policy
    for that case:

    * ``"drop"``: Close the connection with 1013 (try again later). The peer has ``close_timeout`` seconds to read what
      was sent before.
    * ``"skip"``: Do not send this message to the peer.
    * ``"newest"``: Keep the message until the outbox has room, replacing an older broadcast that is still waiting for
      room. A slow peer misses some messages, but gets the last one unless the connection is closed first.

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
        when_full: The policy for connections whose outbox is full.

    Returns:
        The connections whose outbox was full, whatever ``when_full`` is.

    Raises:
        TypeError: If the message is neither ``str`` nor bytes-like.
        ValueError: If the message is sent as text and is not valid Unicode, or ``when_full`` is not one of the three.
    """
    if when_full not in get_args(WhenFull):
        raise ValueError(f"when_full must be one of {', '.join(map(repr, get_args(WhenFull)))}, not {when_full!r}")
    opcode, data = prepare(message, text)
    frame = FIN | opcode, data, EncodingCache() if compress else False
    full = []
    for ws in connections:
        connection = connection_of(ws)
        if not connection.state.can_send or write_at_once(connection, frame) or connection.outbox.post(frame):
            continue
        full.append(ws)
        if when_full == "newest":
            connection.outbox.post_newest(frame)
        elif when_full == "drop":
            connection.drop_slow_peer()
    return full
