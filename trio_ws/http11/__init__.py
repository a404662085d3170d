"""HTTP/1.1 for the opening handshake: request and response values, their parsers and serializers.

h11 provides the grammar, and only this package imports it. Each message gets a fresh ``h11.Connection``, which the
parser or serializer first brings into the state for reading or writing that message. Interim responses are serialized
without h11: they have no body, and their constructor has checked the status line and the headers. The limits are ours:
each is exact and has its own exception.

The result of parsing must not depend on how the message was split into chunks on arrival. Therefore h11 gets a head
only when it is complete, and a body in pieces of a fixed maximum size.

==================================  ============================================================
:mod:`~trio_ws.http11.lines`        early recognition of other protocols; errors that quote a line
:mod:`~trio_ws.http11.messages`     ``Request``, ``Response``, serialization
:mod:`~trio_ws.http11.body`         decompression of response bodies
:mod:`~trio_ws.http11.heads`        conversion of response heads for h11, which is stricter than HTTP
:mod:`~trio_ws.http11.parsers`      ``RequestParser``, ``ResponseParser``, ``TunnelParser``
==================================  ============================================================
"""

from .messages import Request, Response
from .parsers import RequestParser, ResponseParser, TunnelParser

__all__ = ["Request", "RequestParser", "Response", "ResponseParser", "TunnelParser"]
