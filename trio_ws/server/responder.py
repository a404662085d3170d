"""Answering a request: the part of the opening handshake that all versions of HTTP share.

Each request goes through these steps:

1. If it comes from a trusted proxy, its headers name the client. A client with too many connections gets 503.
2. Its target and its Host header are checked, and its Origin header if it asks for a WebSocket: 400, 421 or 403.
3. The application's ``process_request`` may answer it with any response. Plain HTTP requests are answered here. A
   router, if there is one, comes last: 404, 405 or a redirect.
4. Otherwise it becomes a WebSocket, or is refused: 426 if it does not ask for one, or 400 over HTTP/2.
5. The application's ``process_response`` may replace the response to a request for a WebSocket.

Functions of the application may be ``async`` and take as long as ``open_timeout`` allows. If one raises, the exception
is logged and the client gets 500.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio

from ..connection.core import Connection
from ..connection.limits import NO_LIMITS, NoLimits
from ..connection.stream import StreamAdapter, StreamBroken
from ..exceptions import InvalidHandshake
from ..http11 import Request, Response
from ..http11.messages import reason_phrase
from ..instruments.interface import HandshakeFailure, report_failure
from ..protocol import Role
from ..protocol.handshake import accept, accepts, is_upgrade, reject
from ..protocol.supported import server_extensions
from ..settings import Settings
from .forwarded.headers import find_client
from .forwarded.peer import Peer, show_address
from .limits import Limits
from .policy import HandshakePolicy
from .server import Opening, Server, ServerWebSocket

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["RETRY_AFTER", "Responder", "logger", "lost_error", "report_opening_failure", "upgrade"]

#: Seconds that a rejected client should wait before it tries again, sent in Retry-After.
RETRY_AFTER = 5

logger: logging.Logger = logging.getLogger("trio_ws.server")


class Responder:
    """Answers the requests of one connection of HTTP/1.1, or the request of one stream of HTTP/2.

    Args:
        stream: The stream that becomes the WebSocket.
        settings: The connection options.
        policy: The handshake options.
        server: The server, for :attr:`Opening.server`; None for :func:`serve_over`.
        peer: The client, as far as it is known before the first request.
        admit: Called with the :class:`Opening` of each request, once the client's address is known. A response that it
            returns is sent without looking at the request any further.
        limits: The limits of the connection.

    Attributes:
        opening: The opening handshake in progress, as hooks see it.
        ws: The WebSocket, once a request was accepted; None before that.
        error: The exception that was the reason for the response, if any. The owner must set this to None in the end:
            the traceback refers to frames that refer to this object.
    """

    def __init__(
        self,
        stream: StreamAdapter,
        settings: Settings,
        policy: HandshakePolicy,
        server: Server | None,
        peer: Peer,
        admit: Callable[[Opening], Response | None],
        limits: Limits,
    ) -> None:
        self._stream = stream
        self._settings = settings
        self._policy = policy
        self._peer = peer
        self._admit = admit
        self._limits = limits
        self.opening: Opening = Opening(stream, server, peer)
        self.ws: ServerWebSocket | None = None
        self.error: Exception | None = None

    def begin(self) -> None:
        """Forget the last request."""
        self.opening = Opening(self._stream, self.opening.server, self._peer)

    async def answer(self, request: Request, received: bytes = b"") -> Response:
        """Return the response to a request. Set ``ws`` if it accepts a WebSocket.

        Exceptions of the application's functions propagate; see :meth:`fail`. If this is cancelled, those of the tasks
        that such a function has started are logged.

        Args:
            request: The request.
            received: Bytes that arrived after the request.

        Raises:
            InvalidHandshake: If the request is refused before ``process_request``; see :meth:`refuse`.
        """
        try:
            return await self._answer(request, received)
        except BaseExceptionGroup as group:
            failures, rest = group.split(Exception)
            if rest is not None:
                # A nursery of the application was cancelled, and its tasks may have failed at the same time. Cancelled
                # must come alone: its scope would let the other exceptions pass.
                if failures is not None:
                    self.fail(failures)
                if rest.split(trio.Cancelled)[1] is None:
                    await trio.lowlevel.checkpoint_if_cancelled()
            raise

    async def _answer(self, request: Request, received: bytes) -> Response:
        # Keep nothing of the last request: a proxy may send requests of several clients over one connection. For the
        # first one, too: a trio.SSLListener has done the TLS handshake only now.
        self.begin()
        if self._peer.is_trusted_proxy:
            self.opening._set_peer(find_client(self._peer, request.headers, self._policy.forwarding))
        response = self._admit(self.opening)
        if response is not None:
            return response
        request = self._policy.check(request, self.opening)
        response = await self._policy.call_process_request(self.opening, request)
        if response is not None and accepts(request, response):
            # Over HTTP/2, the client would take any 2xx for an open WebSocket.
            response = attrs.evolve(response, status_code=400, reason_phrase=reason_phrase(400))
        ws = None
        if response is None:
            if request.method == "HEAD" and not is_upgrade(request):
                request = attrs.evolve(request, method="GET")  # HEAD gets the response of GET, without the body
            try:
                ws = upgrade(
                    self._stream,
                    request,
                    self._settings,
                    received,
                    self._policy,
                    self.opening,
                    self._limits.for_connection(),
                )
                response = ws.response
            except InvalidHandshake as exc:
                response = self.refuse(exc, request.http_version)
        if ws is not None or is_upgrade(request):
            response = await self._policy.call_process_response(self.opening, request, response)
        if ws is not None and accepts(request, response):
            ws.response = response
            self.ws = ws
        return response

    def refuse(self, exc: InvalidHandshake, http_version: str = "1.1") -> Response:
        """Log why a request is refused, and return the response."""
        # The response refers to the exception, and the frames of a traceback would refer to the response.
        self.error = exc.with_traceback(None)
        # The error may quote a header of any length.
        address = show_address(self.opening.remote_address)
        logger.info("opening handshake with %s failed: %.500s", address, exc)
        return reject(exc, server=self._policy.server_header, http_version=http_version)

    def fail(self, exc: Exception) -> Response:
        """Log an exception that is not the client's fault, and return the response."""
        self.error = exc
        address = show_address(self.opening.remote_address)
        logger.error("connection from %s: the opening handshake failed", address, exc_info=exc)
        self.ws = None
        return self.opening.respond(500, "internal server error, try again later\n")

    def report_failure(
        self, request: Request | None, response: Response | None, error: Exception | None, seconds: float
    ) -> None:
        """Report to instruments that an opening handshake has failed. Plain HTTP requests are none.

        Args:
            request: The request; None if it was not complete.
            response: The response; None if none was sent.
            error: The exception that was the reason, if any.
            seconds: Seconds since the first byte of the request.
        """
        if request is None or is_upgrade(request):
            report_opening_failure(self._settings, request, response, error, seconds, self.opening.remote_address)


def report_opening_failure(
    settings: Settings,
    request: Request | None,
    response: Response | None,
    error: Exception | None,
    seconds: float,
    remote_address: Any,
) -> None:
    """Report to instruments that an opening handshake has failed at the server; see :class:`HandshakeFailure`."""
    failure = HandshakeFailure(
        role=Role.SERVER,
        request=request,
        response=response,
        error=error,
        seconds=seconds,
        remote_address=remote_address,
    )
    report_failure(settings.instruments, failure)


def lost_error(exc: StreamBroken) -> Exception:
    """Return the error to report for a connection that was lost during the opening handshake."""
    return exc.__cause__ if isinstance(exc.__cause__, Exception) else trio.BrokenResourceError(str(exc))


def upgrade(
    stream: StreamAdapter,
    request: Request,
    settings: Settings,
    received: bytes = b"",
    policy: HandshakePolicy | None = None,
    opening: Opening | None = None,
    limits: NoLimits = NO_LIMITS,
) -> ServerWebSocket:
    """Accept a request, and return the WebSocket with the response still to be sent.

    Args:
        stream: The stream.
        request: The request.
        settings: The connection options.
        received: Bytes that arrived after the request.
        policy: The handshake options; the default ones if None.
        opening: The opening handshake; a new one if None.
        limits: The limits of the connection.

    Raises:
        InvalidHandshake: If the request must be refused.
    """
    policy = policy or HandshakePolicy()
    opening = opening or Opening(stream, None, request=request)
    select = policy.select_subprotocol
    response, agreement = accept(
        request,
        subprotocols=settings.subprotocols,
        extensions=server_extensions(policy.extensions, settings.compression),
        server=policy.server_header,
        headers=policy.headers,
        select_subprotocol=None if select is None else partial(select, opening),
    )
    connection = Connection(Role.SERVER, stream, settings, agreement.extensions, received, limits)
    return ServerWebSocket(connection, request, response, agreement.subprotocol, opening)
