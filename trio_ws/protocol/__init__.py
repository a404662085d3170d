"""The WebSocket protocol without I/O (RFC 6455): bytes in, events out, and the other way round.

It can be used by itself: to read a capture, to test a peer, to run WebSocket over something that is no stream.

===================================  =====================================================
:mod:`~trio_ws.protocol.pure`        what all bytes pass through: masking, and frames in bulk
:mod:`~trio_ws.protocol.hot`         the same, compiled if possible
:mod:`~trio_ws.protocol.codec`       bytes and frames
:mod:`~trio_ws.protocol.extensions`  what an extension is
:mod:`~trio_ws.protocol.messages`    frames and messages: fragments, UTF-8, limits
:mod:`~trio_ws.protocol.observed`    the same, for somebody who watches
:mod:`~trio_ws.protocol.grammar`     header values
:mod:`~trio_ws.protocol.deflate`     compression
:mod:`~trio_ws.protocol.handshake`   the opening handshake
:mod:`~trio_ws.protocol.closing`     the closing handshake
:mod:`~trio_ws.protocol.connection`  an open connection: :class:`Protocol`
===================================  =====================================================
"""

from .codec import Role
from .connection import Event, Protocol
from .messages import LastPart, Message

__all__ = ["Event", "LastPart", "Message", "Protocol", "Role"]
