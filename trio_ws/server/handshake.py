"""A server's side of the opening handshake: from the first byte to the WebSocket, or to the last answer.

What happens to a request, in this order:

1. It is read, within the limits. What is no HTTP/1.1 request is answered with 400, or 431 if it is too large.
2. If it comes from a proxy that is trusted, its headers say who the client is. One that has too many connections
   already gets 503.
3. Its Host header is looked at, and, if it asks for a WebSocket, its Origin: 400, 421, 403.
4. The application's ``process_request`` may answer it, with anything. That is also how plain requests are answered; the
   connection stays open for the next one then. The last to be asked is the router, if there is one: 404, redirects.
5. Otherwise it becomes a WebSocket, or is refused: 426 if it does not ask for one.
6. The application's ``process_response`` may change the answer to an opening handshake.

Functions of the application may be ``async``, and take as long as ``open_timeout`` allows. One that raises is logged,
and its client gets 500.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial

import attrs
import trio

from ..connection.core import GOODBYE_TIMEOUT, GRACE, Connection
from ..connection.limits import NO_LIMITS, NoLimits
from ..connection.stream import StreamAdapter, StreamBroken
from ..datastructures import Headers
from ..exceptions import InvalidHandshake, InvalidMessage
from ..http11 import Request, RequestParser, Response
from ..http11.messages import reason_phrase
from ..protocol import Role
from ..protocol.deflate import DeflateServer
from ..protocol.handshake import accept, is_upgrade, reject
from ..settings import Settings
from .forwarded.headers import find_client
from .forwarded.peer import peer_of
from .forwarded.proxy_protocol import ProxyHeader
from .limits import Limits
from .policy import HandshakePolicy
from .server import Opening, Server, ServerWebSocket

__all__ = ["RETRY_AFTER", "logger", "open_connection", "upgrade"]

#: Seconds after which a client may try again that was turned away.
RETRY_AFTER = 5

logger: logging.Logger = logging.getLogger("trio_ws.server")


async def open_connection(
    stream: StreamAdapter,
    settings: Settings,
    policy: HandshakePolicy,
    *,
    server: Server | None = None,
    header: ProxyHeader | None = None,
    admit: Callable[[Opening], Response | None] = lambda _: None,
    answered: Callable[[], object] = lambda: None,
    interrupted: Callable[[], int] = lambda: 503,
    opened: Callable[[ServerWebSocket], object] = lambda _: None,
    limits: Limits | None = None,
) -> ServerWebSocket | None:
    """Read requests and answer them. Return the WebSocket, or None if there is none; the peer has been told why.

    Args:
        stream: The stream. It is not closed here.
        settings: The options of the connection.
        policy: How to answer.
        server: The server that the application is told about.
        header: What a proxy has said in front of everything.
        admit: Called when it is known who a request is from. Returns an answer if it is not to be looked at.
        answered: Called when a plain request has been answered, and the next one may come.
        interrupted: Called when this is cancelled before there is an answer. Returns a status code for the answer.
        opened: Called when the answer is about to be sent that makes it a WebSocket. From then on messages can be sent.
        limits: The limits of the connection.
    """
    reception = _Reception(stream, settings, policy, server, header, admit, opened, limits or Limits())
    try:
        while await reception.serve_request():
            answered()
    except trio.Cancelled:
        await reception.turn_away(interrupted())
        raise
    except StreamBroken as exc:
        logger.info("connection from %s lost during the opening handshake: %s", reception.opening.remote_address, exc)
        return None
    return reception.ws


class _Reception:
    """Where the requests of one connection are answered, until one of them makes it a WebSocket."""

    def __init__(
        self,
        stream: StreamAdapter,
        settings: Settings,
        policy: HandshakePolicy,
        server: Server | None,
        header: ProxyHeader | None,
        admit: Callable[[Opening], Response | None],
        opened: Callable[[ServerWebSocket], object],
        limits: Limits,
    ) -> None:
        self._transport = stream
        self._settings = settings
        self._policy = policy
        self._peer = peer_of(self._transport, policy.forwarding, header)
        self._admit = admit
        self._opened = opened
        self._limits = limits
        self.opening = Opening(self._transport, server, self._peer)
        self.ws: ServerWebSocket | None = None
        # What came in behind the last request; whether there was one, and whether the next one has begun.
        self._received = b""
        self._has_served = False
        self._has_begun = False
        # Whether an answer may be half-written.
        self._sending = False

    async def serve_request(self) -> bool:
        """Read a request and answer it. Return whether the next one may come.

        Raises:
            StreamBroken: if the connection is lost.
        """
        request = None
        try:
            request = await self._read()
            if request is None:
                return False
            response = await self._respond(request)
            data, stays_open = self._finish(request, response)
        except StreamBroken:
            raise
        except InvalidHandshake as exc:
            data, stays_open = self._finish(request, self._refuse(exc))
        except Exception:
            # Whatever a function of the application raises must not end the server.
            logger.exception("connection from %s: the opening handshake failed", self.opening.remote_address)
            self.ws = None
            data, stays_open = self._finish(request, _closing(self.opening.respond(500, "the server failed\n")))
        if self.ws is not None:
            self._opened(self.ws)  # so that a client that has the answer is known here
        await self._send(data)
        self._has_served, self._has_begun = True, False
        if self.ws is None and not stays_open:
            await self._linger()
        return stays_open

    def _finish(self, request: Request | None, response: Response) -> tuple[bytes, bool]:
        """Return the bytes of a response, and whether the next request may come after it."""
        stays_open = False
        if self.ws is None:
            stays_open = request is not None and _stays_open(request, response)
            response = self._policy.add_headers(response if stays_open else _closing(response))
        try:
            return response.serialize(head=request is not None and request.method == "HEAD"), stays_open
        except InvalidMessage as exc:  # which is about the application's response here, not about the request
            raise ValueError(f"the answer is no response: {exc}") from exc

    async def _read(self) -> Request | None:
        """Read a request. Return None if there is none after the last one."""
        parser = RequestParser()
        request = None
        while request is None:
            data, self._received = self._received or await self._transport.receive(), b""
            if not data and self._has_served and parser.is_empty:
                return None
            self._has_begun = True
            request = parser.feed(data)
        self._received = parser.unused
        return request

    async def _respond(self, request: Request) -> Response:
        """Return the answer to a request. When that makes it a WebSocket, it is there."""
        if self._peer.forwards:
            # A proxy may send the requests of several clients on one connection: nothing is left of the one before.
            self.opening = Opening(self._transport, self.opening.server, self._peer)
            self.opening._set_peer(find_client(self._peer, request.headers, self._policy.forwarding))
        response = self._admit(self.opening)
        if response is not None:
            return response
        self._policy.check(request)
        response = await self._policy.answer(self.opening, request)
        ws = None
        if response is None:
            if request.method == "HEAD" and not is_upgrade(request):
                request = attrs.evolve(request, method="GET")  # whose answer it is, but for the body
            try:
                ws = upgrade(
                    self._transport,
                    request,
                    self._settings,
                    self._received,
                    self._policy,
                    self.opening,
                    self._limits.for_connection(),
                )
                response = ws.response
            except InvalidHandshake as exc:
                response = self._refuse(exc)
        if is_upgrade(request):
            response = await self._policy.change(self.opening, request, response)
        if ws is not None and response.status_code == 101:
            ws.response = response
            self.ws = ws
        return response

    def _refuse(self, exc: InvalidHandshake) -> Response:
        logger.info("opening handshake with %s failed: %s", self.opening.remote_address, exc)
        return reject(exc, server=self._policy.server_header)

    async def turn_away(self, status: int) -> None:
        """Answer with a status and nothing more, if that is possible and takes next to no time. Never raises."""
        if self._sending or (self._has_served and not self._has_begun):
            return  # it may have half of another answer, or waits for none
        headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else {}
        response = _closing(self.opening.respond(status, f"{reason_phrase(status)}\n", headers))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_TIMEOUT):
            with contextlib.suppress(StreamBroken):
                await self._send(self._policy.add_headers(response).serialize())

    async def _send(self, data: bytes) -> None:
        self._sending = True
        await self._transport.write([data])
        self._sending = False

    async def _linger(self) -> None:
        """Give the peer the time to read the answer: if we closed a socket with unread bytes, it would be reset."""
        with trio.move_on_after(GRACE):
            await self._transport.send_eof()
            while await self._transport.receive():
                pass


def upgrade(
    stream: StreamAdapter,
    request: Request,
    settings: Settings,
    received: bytes = b"",
    policy: HandshakePolicy | None = None,
    opening: Opening | None = None,
    limits: NoLimits = NO_LIMITS,
) -> ServerWebSocket:
    """Return the connection that a stream becomes with this request, and what was received after it.

    Raises:
        InvalidHandshake: if the request is refused.
    """
    policy = policy or HandshakePolicy()
    opening = opening or Opening(stream, None)
    select = policy.select_subprotocol
    response, agreement = accept(
        request,
        subprotocols=settings.subprotocols,
        extensions=[] if settings.compression is None else [DeflateServer(settings.compression)],
        server=policy.server_header,
        headers=policy.headers,
        select_subprotocol=None if select is None else partial(select, opening),
    )
    connection = Connection(Role.SERVER, stream, settings, agreement.extensions, received, limits)
    return ServerWebSocket(connection, request, response, agreement.subprotocol, opening)


def _stays_open(request: Request, response: Response) -> bool:
    """Whether the next request can come after this one (RFC 9112, section 9.3)."""
    headers = request.headers
    if request.http_version != "1.1" or "Transfer-Encoding" in headers:
        return False
    if any(value.strip(" \t") != "0" for value in headers.get_all("Content-Length")):
        return False  # we have not read the body
    return not any(
        token.strip(" \t").lower() == "close"
        for message in (request, response)
        for value in message.headers.get_all("Connection")
        for token in value.split(",")
    )


def _closing(response: Response) -> Response:
    """Return a response that says that it is the last one."""
    if "Connection" in response.headers:
        return response
    headers = Headers(response.headers)
    headers["Connection"] = "close"
    return attrs.evolve(response, headers=headers)
