"""Sending one message to many connections, where none of them can hold up the others: ``broadcast``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from ..connection.sendable import Sendable, prepare
from ..connection.websocket import WebSocket, connection_of
from ..connection.writer import write_at_once
from ..protocol.codec import FIN
from ..protocol.extensions import Shared

__all__ = ["WhenFull", "broadcast"]

#: What happens to a connection whose outbox is full; see :func:`broadcast`.
WhenFull: TypeAlias = Literal["drop", "skip", "newest"]


def broadcast(
    connections: Iterable[WebSocket],
    message: Sendable,
    *,
    text: bool | None = None,
    compress: bool = True,
    when_full: WhenFull = "drop",
) -> list[WebSocket]:
    """Send a message to many connections. It never waits, so no peer can hold up the others.

    ::

        trio_ws.broadcast(server.connections, "hello, all")

    Each connection gets the message at once, if that takes no waiting, or into its outbox. Connections that are closing
    or closed are left out; nothing is raised because of them. When it returns, the messages of all of them are in
    order: what is sent by a later call, or by :meth:`WebSocket.send`, comes later.

    A peer that takes what it is sent too slowly fills the outbox of its connection (see ``send_buffer``). ``when_full``
    says what happens then:

    * ``"drop"``: the connection is closed with 1013 (try again later). Its peer has ``close_timeout`` seconds to take
      what was sent before.
    * ``"skip"``: the peer does not get this message.
    * ``"newest"``: the message waits until there is room for it, in place of the one that waits for room already, if
      there is one. So a slow peer misses some messages, but not the last one, unless the connection is closed first.

    The message is turned into bytes and compressed once, and shared; that is why it does not refer to the messages
    before, and may be larger than with :meth:`WebSocket.send` where the contexts of compression are kept. Masking is
    different for each frame of a client, so there it is done for each.

    This is not an ``async`` function: it is no checkpoint, and nobody else runs meanwhile. Each connection takes about
    as long as the operating system takes to accept the message, some microseconds.

    Args:
        connections: The connections. They may have different roles, options and subprotocols.
        message: A ``str`` goes out as text, bytes as binary.
        text: True to send bytes that are UTF-8 as text, False to send the UTF-8 of a ``str`` as binary.
        compress: False not to compress it, where compression is in use.
        when_full: What happens to a connection whose outbox is full.

    Returns:
        The connections whose outboxes were full: those that were dropped or skipped, or have to wait for the newest.

    Raises:
        TypeError: if the message is neither text nor bytes.
        ValueError: if it is to be text and cannot be, or ``when_full`` is none of the three.
    """
    if when_full not in get_args(WhenFull):
        raise ValueError(f"when_full is one of {', '.join(map(repr, get_args(WhenFull)))}, not {when_full!r}")
    opcode, data = prepare(message, text)
    frame = FIN | opcode, data, Shared() if compress else False
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
