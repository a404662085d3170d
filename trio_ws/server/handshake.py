"""The server's side of the opening handshake over HTTP/1.1: from the first byte to the WebSocket or the last response.

Requests are read here, and responses are written. A malformed request gets 400, one whose head is too large 431. In
between, :mod:`trio_ws.server.responder` answers the request. After the response to a plain HTTP request, the connection
stays open for another one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import attrs
import trio

from ..connection.core import GOODBYE_TIMEOUT, GRACE
from ..connection.stream import StreamAdapter, StreamBroken
from ..datastructures import Headers
from ..exceptions import InvalidHandshake, InvalidMessage
from ..http11 import Request, RequestParser, Response
from ..http11.messages import reason_phrase
from ..settings import Settings
from .forwarded.peer import identify_peer, show_address
from .forwarded.proxy_protocol import ProxyHeader
from .limits import Limits
from .openings import Stage
from .policy import HandshakePolicy
from .responder import RETRY_AFTER, Responder, logger, lost_error
from .server import Opening, Server, ServerWebSocket

__all__ = ["open_connection"]


async def open_connection(
    stream: StreamAdapter,
    settings: Settings,
    policy: HandshakePolicy,
    *,
    server: Server | None = None,
    header: ProxyHeader | None = None,
    admit: Callable[[Opening], Response | None] = lambda _: None,
    may_persist: Callable[[], bool] = lambda: True,
    on_response: Callable[[], object] = lambda: None,
    on_stage: Callable[[Stage], object] = lambda _: None,
    get_cancelled_status: Callable[[], int] = lambda: 503,
    on_open: Callable[[ServerWebSocket], object] = lambda _: None,
    limits: Limits | None = None,
    received: bytes = b"",
) -> ServerWebSocket | None:
    """Answer requests until one opens a WebSocket. Return it, or None if there will be none.

    If this is cancelled, the client gets an error response, provided that sending it takes next to no time.

    Args:
        stream: The stream. It is not closed here.
        settings: The connection options.
        policy: The handshake options.
        server: The server, for :attr:`Opening.server`; None for :func:`serve_over`.
        header: The PROXY header that the connection began with, if any.
        admit: Called with the :class:`Opening` of each request, once the client's address is known. A response that it
            returns is sent without looking at the request any further.
        may_persist: Called when a plain HTTP request is answered. Returns whether another request may follow.
        on_response: Called after a plain HTTP request was answered, if another one may follow.
        on_stage: Called when the connection has come further with a request.
        get_cancelled_status: Called when this is cancelled. Returns the status code of the error response.
        on_open: Called before the 101 response is sent. From then on, messages can be sent.
        limits: The limits of the connection.
        received: Bytes that were already read from the stream.
    """
    peer = identify_peer(stream, policy.forwarding, header)
    responder = Responder(stream, settings, policy, server, peer, admit, limits or Limits())
    connection = _HTTPConnection(stream, settings, policy, responder, may_persist, on_stage, on_open, received)
    try:
        while await connection.serve_request():
            on_response()
    except trio.Cancelled:
        response = await connection.send_error(get_cancelled_status())
        connection.report_failure(response, None)
        raise
    except StreamBroken as exc:
        connection.report_failure(None, lost_error(exc))
        address = show_address(responder.opening.remote_address)
        # A client that has sent no request may leave, as health checks do. In TLS, it may have sent something else.
        left = connection.stage.is_answered or (connection.stage is Stage.SILENT and stream.tls_object is None)
        level = logging.DEBUG if left else logging.INFO
        logger.log(level, "connection from %s lost during the opening handshake: %s", address, exc)
        return None
    finally:
        responder.error = None
    return responder.ws


class _HTTPConnection:
    """A connection of HTTP/1.1 on which requests are answered until one of them opens a WebSocket.

    Attributes:
        stage: How far the connection has come with its next request.
    """

    def __init__(
        self,
        stream: StreamAdapter,
        settings: Settings,
        policy: HandshakePolicy,
        responder: Responder,
        may_persist: Callable[[], bool],
        on_stage: Callable[[Stage], object],
        on_open: Callable[[ServerWebSocket], object],
        received: bytes,
    ) -> None:
        self._stream = stream
        self._settings = settings
        self._policy = policy
        self._responder = responder
        self._may_persist = may_persist
        self._on_stage = on_stage
        self._on_open = on_open
        # The request in progress, once it is complete; and when its first byte arrived.
        self._request: Request | None = None
        self._began_at = 0.0
        # Bytes that arrived after the last request.
        self._received = received
        self.stage: Stage = Stage.SILENT
        # True while a response may be half-written.
        self._is_sending = False

    async def serve_request(self) -> bool:
        """Read and answer one request. Return whether another one may follow.

        Raises:
            StreamBroken: If the connection is lost.
        """
        request = None
        if self._received:
            # Neither reading nor writing must wait, and a client can send many requests at once.
            await trio.lowlevel.checkpoint()
        try:
            request = await self._read()
            if request is None:
                return False
            response = await self._responder.answer(request, self._received)
            data, is_persistent = self._serialize(request, response)
        except StreamBroken:
            raise
        except InvalidHandshake as exc:
            response = self._responder.refuse(exc)
            data, is_persistent = self._serialize(request, response)
        except Exception as exc:
            # An exception of an application function must not end the server.
            response = self._responder.fail(exc)
            data, is_persistent = self._serialize(request, _with_connection_close(response))
        ws = self._responder.ws
        if ws is not None:
            ws.handshake_seconds = trio.current_time() - self._began_at
            self._on_open(ws)  # before the client can know that the connection is open
        await self._send(data)
        if ws is None:
            self.report_failure(response, self._responder.error)
        is_persistent = is_persistent and self._may_persist()  # this may have changed while it was sent
        self._advance(Stage.IDLE if is_persistent else Stage.ENDING)
        if ws is None and not is_persistent:
            await self._linger()
        return is_persistent

    def _advance(self, stage: Stage) -> None:
        self.stage = stage
        self._on_stage(stage)

    def _serialize(self, request: Request | None, response: Response) -> tuple[bytes, bool]:
        """Return a response as bytes, and whether another request may follow."""
        is_persistent = False
        if self._responder.ws is None:
            is_persistent = request is not None and _is_persistent(request, response) and self._may_persist()
            response = self._policy.add_headers(response if is_persistent else _with_connection_close(response))
        try:
            return response.serialize(head=request is not None and request.method == "HEAD"), is_persistent
        except InvalidMessage as exc:  # the application's fault, not the client's: it must not become a 400
            raise ValueError(f"the application's response is not valid: {exc}") from exc

    async def _read(self) -> Request | None:
        """Read a request. Return None if the client closes the connection before it sends any of it."""
        settings = self._settings
        parser = RequestParser(max_head_size=settings.max_head_size, max_headers=settings.max_headers)
        request = None
        while request is None:
            data, self._received = self._received or await self._stream.receive(), b""
            if self.stage is not Stage.READING:
                if not data:
                    return None
                self._began_at = trio.current_time()
                if self.stage is Stage.IDLE:  # the last request may have been that of another client
                    self._responder.begin()
                self._request = self._responder.error = None
                self._advance(Stage.READING)
            request = parser.feed(data)
        self._advance(Stage.ANSWERING)
        self._request = request
        self._received = parser.unused
        return request

    def report_failure(self, response: Response | None, error: Exception | None) -> None:
        """Report to instruments that the opening handshake in progress has failed. Does nothing if there is none."""
        if self.stage in (Stage.READING, Stage.ANSWERING):
            seconds = trio.current_time() - self._began_at
            self._responder.report_failure(self._request, response, error, seconds)

    async def send_error(self, status: int) -> Response | None:
        """Send an error response, unless no request waits for one or it takes too long. Raises no ``Exception``.

        Returns:
            The response; None if none was sent.
        """
        if self._is_sending or self.stage.is_answered:
            return None  # another response may be half-written, or no request has arrived since the last one
        headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else {}
        response = _with_connection_close(
            self._responder.opening.respond(status, f"{reason_phrase(status)}\n", headers)
        )
        with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_TIMEOUT):
            with contextlib.suppress(StreamBroken):
                is_head = self._request is not None and self._request.method == "HEAD"
                await self._send(self._policy.add_headers(response).serialize(head=is_head))
        return response

    async def _send(self, data: bytes) -> None:
        self._is_sending = True
        await self._stream.write([data])
        self._is_sending = False

    async def _linger(self) -> None:
        """Wait briefly until the peer has closed, too.

        Closing a socket with unread bytes resets it, and the peer may lose the response (RFC 9112, section 9.6).
        """
        with trio.move_on_after(GRACE):
            await self._stream.send_eof()
            while await self._stream.receive():
                pass


def _is_persistent(request: Request, response: Response) -> bool:
    """Whether another request may follow on the same connection (RFC 9112, section 9.3)."""
    headers = request.headers
    if request.http_version != "1.1" or "Transfer-Encoding" in headers:
        return False
    if any(value.strip(" \t") != "0" for value in headers.get_all("Content-Length")):
        return False  # the body was not read
    return not any(
        token.strip(" \t").lower() == "close"
        for message in (request, response)
        for value in message.headers.get_all("Connection")
        for token in value.split(",")
    )


def _with_connection_close(response: Response) -> Response:
    """Return a response with ``Connection: close``, unless it has a Connection header already."""
    if "Connection" in response.headers:
        return response
    headers = Headers(response.headers)
    headers["Connection"] = "close"
    return attrs.evolve(response, headers=headers)
