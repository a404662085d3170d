"""Opening a WebSocket as a stream of HTTP/2: ``HTTP2Opener``. It requires h2.

1. The client offers HTTP/2 and HTTP/1.1 in the TLS handshake. If the server chooses HTTP/1.1, that is used.
2. The server's first SETTINGS frame says whether it accepts WebSockets (RFC 8441, section 3). If it does not, the
   client connects again, and offers HTTP/1.1 alone.
3. The client sends an extended CONNECT request, and the response decides. If the server answers with the error
   HTTP_1_1_REQUIRED, the client connects again, too.

Without a pool, the HTTP/2 connection exists for this WebSocket alone. Then there is no nursery for its tasks yet, so
this task reads and writes until the WebSocket is open; the session of the WebSocket starts them.
"""

from __future__ import annotations

from functools import partial

import attrs
import trio
from h2.errors import ErrorCodes

from ..connection.stream import StreamAdapter
from ..exceptions import ConnectFailed, InvalidHandshake, TLSFailed
from ..http2.adapter import HTTP2StreamAdapter
from ..http2.connection import HTTP2Connection
from ..http2.headers import from_request, to_response
from ..http2.negotiation import has_chosen_http2
from ..http2.stream import HTTP2Stream
from ..http11 import Request, Response
from ..http11.body import MAX_BODY_SIZE, decode_body
from ..protocol.handshake import accepts
from ..settings import Settings
from ..uri import WebSocketURI
from .dial import Dialer
from .explain import explain, find_tls_error
from .pool import HTTP2Pool

__all__ = ["HTTP2Opener"]

#: Streams that a pool opens on one connection, at most. The server may allow fewer.
MAX_STREAMS = 1_000

#: Number of attempts for a WebSocket if the server refuses the stream without having looked at it. It does not count if
#: the server leaves a connection that was not new, as some do after a number of requests.
MAX_ATTEMPTS = 3

#: Seconds to wait for the body of an error response.
BODY_TIMEOUT = 1.0

#: Seconds without any received bytes after which a request that fails tells that its connection may be dead.
SILENCE = 1.0


@attrs.define(eq=False)
class HTTP2Opener:
    """Opens streams for WebSockets.

    Attributes:
        dialer: Opens the TCP connections.
        settings: The connection options.
        has_prior_knowledge: Whether the server is known to speak HTTP/2 without TLS. It may redirect to one with TLS.
        pool: The pool; None for a connection of its own for each WebSocket.
        partial: An error response whose body is being received; None otherwise.
    """

    dialer: Dialer
    settings: Settings
    has_prior_knowledge: bool
    pool: HTTP2Pool | None
    partial: Response | None = None

    async def open(self, uri: WebSocketURI, request: Request) -> tuple[StreamAdapter, Response | None]:
        """Request a WebSocket. If this raises or is cancelled, nothing is left open.

        Args:
            uri: The URI.
            request: The request for HTTP/2.

        Returns:
            The stream and the response; None instead of the response if the request has to be sent with HTTP/1.1.

        Raises:
            ConnectFailed: If the server cannot be reached, or the stream is lost.
            InvalidHandshake: If the response is malformed.
        """
        if not (uri.secure or self.has_prior_knowledge):
            return await self.dialer.dial(uri), None
        # The connection, if the server chooses HTTP/1.1.
        others: list[StreamAdapter] = []
        dial = partial(self._dial, uri, others)
        key = self.dialer.get_key(uri)
        refused: list[HTTP2Connection] = []
        while True:
            connection = await (dial() if self.pool is None else self.pool.get(key, dial, refused))
            if connection is None:
                return others[0] if others else await self.dialer.dial(uri, alpn=["http/1.1"]), None
            try:
                return await self._request(connection, uri, request)
            except _Left:
                pass  # the connection has no room now, so the pool uses or opens another one
            except _Refused as exc:
                refused.append(connection)
                if len(refused) == MAX_ATTEMPTS:
                    raise ConnectFailed(uri.host_header, str(exc)) from None
            except _HTTP11Required:
                if self.pool is not None:
                    connection.leave()
                    connection.finish_if_left()
                    self.pool.remember_unsupported(key)
                break
        return await self.dialer.dial(uri, alpn=["http/1.1"]), None

    async def _dial(self, uri: WebSocketURI, others: list[StreamAdapter]) -> HTTP2Connection | None:
        """Open a connection. Return None if it is one of HTTP/1.1, or does not accept WebSockets."""
        transport = await self.dialer.dial(uri, alpn=["h2", "http/1.1"] if uri.secure else None)
        if uri.secure and not has_chosen_http2(transport):
            others.append(transport)
            return None
        try:
            connection = HTTP2Connection(
                transport,
                is_client=True,
                max_streams=1 if self.pool is None else MAX_STREAMS,
                max_head_size=self.settings.max_head_size,
                max_headers=self.settings.max_headers,
            )
        except BaseException:  # Nobody owns the transport yet, so it would stay open.
            await transport.aclose(0)
            raise
        try:
            await connection.wait_for(connection.settled)
            # With TLS 1.3, a server checks the certificate of the client after the handshake of the client.
            if connection.error is not None and find_tls_error(connection.error) is not None:
                raise TLSFailed(uri.host_header, f"TLS: {explain(connection.error)}") from connection.error.__cause__
            if connection.failure is not None:
                raise ConnectFailed(uri.host_header, connection.failure)
            if not connection.protocol.may_connect and not uri.secure:
                raise ConnectFailed(uri.host_header, "the server does not accept WebSockets over HTTP/2")
        except BaseException:  # Cancellation must not leave the connection open either.
            await connection.aclose(0)
            raise
        if not connection.protocol.may_connect:
            await connection.aclose(0)
            return None
        return connection

    async def _request(
        self, connection: HTTP2Connection, uri: WebSocketURI, request: Request
    ) -> tuple[StreamAdapter, Response]:
        """Open a stream on a connection, and receive the response."""
        adapter = None
        began_at = trio.current_time()
        try:
            try:
                stream = connection.open_stream(from_request(request, "https" if uri.secure else "http"))
            except trio.BrokenResourceError as exc:
                # Either its numbers for streams are used up, or not even one stream is allowed.
                if connection.has_room or not connection.streams:
                    connection.leave()
                    connection.finish_if_left()
                raise _Refused(str(exc)) from None
            if self.pool is None:
                adapter = HTTP2StreamAdapter(stream, connection.start, connection.aclose)
            else:
                adapter = HTTP2StreamAdapter(stream)
            assert stream.headers_received is not None
            await connection.wait_for(stream.headers_received)
            headers = stream.take_headers()
            if not headers and stream.error_code == ErrorCodes.HTTP_1_1_REQUIRED and uri.secure:
                raise _HTTP11Required
            if not headers and stream.refused:
                # Whoever leaves a new connection may do so with every one, so that would never end.
                is_left = stream.error_code is None and stream.stream_id > 1
                raise (_Left if is_left else _Refused)(stream.failure)
            if not headers:
                reason = stream.failure or "the server closed the stream during the opening handshake"
                raise ConnectFailed(uri.host_header, reason)
            try:
                response = to_response(
                    headers, max_head_size=self.settings.max_head_size, max_headers=self.settings.max_headers
                )
            except InvalidHandshake:
                stream.abort(ErrorCodes.PROTOCOL_ERROR)  # it is malformed (RFC 9113, section 8.1.1), or too large
                raise
            if not accepts(request, response):
                response = await self._receive_body(connection, stream, response)
            return adapter, response
        except BaseException:  # Cancellation must not leave the stream open either.
            if self.pool is not None and connection.received_at < began_at <= trio.current_time() - SILENCE:
                connection.leave()  # it may be dead, so others must not get it
            if adapter is not None:
                await adapter.aclose(0)
            elif self.pool is None:
                await connection.aclose(0)
            raise

    async def _receive_body(self, connection: HTTP2Connection, stream: HTTP2Stream, response: Response) -> Response:
        """Receive the body of an error response, but do without the rest of it if need be."""
        self.partial = response
        body = bytearray()
        async with trio.open_nursery() as nursery:
            if self.pool is None:
                connection.start(nursery)
            try:
                with trio.move_on_after(BODY_TIMEOUT):
                    while len(body) < MAX_BODY_SIZE and (data := await stream.receive_some()):
                        body += data
            except trio.BrokenResourceError:
                pass
            finally:
                if self.pool is None:
                    await connection.aclose(0)
        return decode_body(attrs.evolve(response, body=bytes(body[:MAX_BODY_SIZE])))


class _Refused(Exception):
    """The server has not looked at the request, so that another attempt may help."""


class _Left(_Refused):
    """The server accepts no more streams on the connection, which was not new."""


class _HTTP11Required(Exception):
    """The server wants the request over HTTP/1.1."""
