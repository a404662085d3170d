"""The WebSocket protocol without I/O (RFC 6455): received bytes become events, frames become bytes to send.

It can be used on its own: to decode a capture, to test a peer, or to run WebSocket over any other transport.

===================================  =====================================================
:mod:`~trio_ws.protocol.pure`        performance-critical functions: masking, batches of frames
:mod:`~trio_ws.protocol.hot`         the same functions, compiled if possible
:mod:`~trio_ws.protocol.codec`       framing: bytes to frames and back
:mod:`~trio_ws.protocol.extensions`  the interfaces of extensions
:mod:`~trio_ws.protocol.messages`    frames to messages: fragments, UTF-8, limits
:mod:`~trio_ws.protocol.observed`    a message decoder that reports frames
:mod:`~trio_ws.protocol.grammar`     parsing of header values
:mod:`~trio_ws.protocol.deflate`     compression (permessage-deflate)
:mod:`~trio_ws.protocol.proofs`      the opening handshake: the parts that depend on the version of HTTP
:mod:`~trio_ws.protocol.supported`   the extensions that an end supports
:mod:`~trio_ws.protocol.handshake`   the opening handshake
:mod:`~trio_ws.protocol.closing`     the closing handshake
:mod:`~trio_ws.protocol.connection`  an open connection: :class:`Protocol`
===================================  =====================================================

To write an extension, import its interfaces and the reserved bits from here.
"""

from .codec import RSV1, RSV2, RSV3, Role
from .connection import Event, Protocol
from .extensions import ClientExtension, EncodingCache, Extension, Params, ServerExtension
from .messages import LastPart, Message

__all__ = [
    "RSV1",
    "RSV2",
    "RSV3",
    "ClientExtension",
    "EncodingCache",
    "Event",
    "Extension",
    "LastPart",
    "Message",
    "Params",
    "Protocol",
    "Role",
    "ServerExtension",
]
