"""The HTTP/1.1 side of the opening handshake: requests and responses, as values and as bytes.

The grammar of HTTP is h11's, and this folder is the only place that imports it. An ``h11.Connection`` here never
outlives one message: a parser or a serializer brings a fresh one into the state in which it reads or writes
that message and asks it for nothing else. An interim response goes without: it has no body, and what stands in
its lines was checked when it was constructed. Limits are ours, each with its own error, and exact: so many
bytes pass, and one more does not.

What a message is does not depend on the pieces in which it arrives. Therefore h11 sees a head only when it is
whole, and a body in pieces of our own size.

==================================  ============================================================
:mod:`~trio_ws.http11.messages`     ``Request``, ``Response``, and how they become bytes
:mod:`~trio_ws.http11.body`         bodies that are compressed
:mod:`~trio_ws.http11.heads`        the heads of responses, before h11 reads them
:mod:`~trio_ws.http11.parsers`      ``RequestParser``, ``ResponseParser``, ``TunnelParser``
==================================  ============================================================
"""

from .messages import Request, Response
from .parsers import RequestParser, ResponseParser, TunnelParser

__all__ = ["Request", "RequestParser", "Response", "ResponseParser", "TunnelParser"]
