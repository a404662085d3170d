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
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import attrs
import trio

from ..datastructures import Headers, HeadersLike
from ..exceptions import HostNotServed, InvalidHandshake, InvalidHeader, InvalidMessage
from ..http11 import Request, RequestParser, Response, reason_phrase, software
from ..protocol import Role
from ..protocol.deflate import DeflateServer
from ..protocol.handshake import accept, check_headers, is_upgrade, reject
from ..settings import Settings
from ..stream import StreamBroken, Transport
from ..tasks import GOODBYE_TIMEOUT, GRACE, Connection
from ..version import __version__
from ..websocket import WebSocket
from .forwarded import Forwarding, Peer, ProxyHeader, find_client, peer_of
from .origins import SAME_HOST, Origins, check_host, check_origin, check_origins

if TYPE_CHECKING:
    from .serve import Server

__all__ = [
    "Answering",
    "Opening",
    "ProcessRequest",
    "ProcessResponse",
    "SelectSubprotocol",
    "open_connection",
    "upgrade",
]

T = TypeVar("T")

#: Seconds after which a client may try again that was turned away.
RETRY_AFTER = 5

#: The Server header.
SERVER = software(__version__)

logger: logging.Logger = logging.getLogger("trio_ws.server")


class Opening:
    """A connection whose opening handshake is going on: what ``process_request`` and its like are told about it.

    Later it is the :attr:`WebSocket.opening` of the connection.

    Attributes:
        server: The server; None with :func:`serve_over`.
        local_address: The address of this end, in the form that the socket gives it; None without a socket.
        remote_address: The address of the client; None without a socket. If a proxy that is trusted says who its client
            is, that is the one: the IP address, and the port or 0.
        proxy_address: The address of the proxy that the connection comes from, if there is one that is trusted and has
            something to say; None otherwise.
        secure: Whether the client uses TLS: with this server, or with the proxy, if that says so.
        username: Who the client is, once that has been found out: :func:`basic_auth` sets it, and so may others.
    """

    __slots__ = ("_match", "local_address", "proxy_address", "remote_address", "secure", "server", "username")

    def __init__(self, transport: Transport, server: Server | None, peer: Peer | None = None) -> None:
        peer = peer or peer_of(transport, Forwarding())
        self.server: Server | None = server
        self.local_address: Any = transport.local_address
        self.username: str | None = None
        # What a router has found: the handler, and its keyword arguments.
        self._match: tuple[Callable[..., Awaitable[object]], Mapping[str, Any]] | None = None
        self.remote_address: Any
        self.proxy_address: Any
        self.secure: bool
        self._tell(peer)

    def _tell(self, peer: Peer) -> None:
        """Take over what is known of a peer."""
        self.remote_address = peer.address
        self.proxy_address = peer.proxy_address
        self.secure = peer.secure

    def respond(self, status: int, body: str | bytes = "", headers: HeadersLike = ()) -> Response:
        """Return a response, for ``process_request`` to return.

        Args:
            status: The status code, from 200 to 599.
            body: Its body; a ``str`` goes out as UTF-8.
            headers: Its headers. Without a Content-Type it is plain text.

        Raises:
            InvalidMessage: if there is no such status.
            InvalidHeader: if a header is not valid.
        """
        more = Headers(headers)
        if "Content-Type" not in more:
            more["Content-Type"] = "text/plain; charset=utf-8"
        return Response(status, reason_phrase(status), more, body.encode() if isinstance(body, str) else body)


#: May answer a request: returns a response, or None to let the handshake go on.
ProcessRequest: TypeAlias = Callable[[Opening, Request], "Awaitable[Response | None] | Response | None"]

#: May change the answer to an opening handshake: returns another one, or None to leave it as it is.
ProcessResponse: TypeAlias = Callable[[Opening, Request, Response], "Awaitable[Response | None] | Response | None"]

#: Chooses one of the subprotocols that a client speaks, or none.
SelectSubprotocol: TypeAlias = Callable[[Opening, Sequence[str]], str | None]


def _in_order(functions: ProcessRequest | Sequence[ProcessRequest] | None) -> tuple[ProcessRequest, ...]:
    if functions is None:
        return ()
    return (functions,) if callable(functions) else tuple(functions)


def _to_hosts(hosts: Sequence[str] | None) -> frozenset[str] | None:
    if hosts is None:
        return None
    if isinstance(hosts, str):
        raise TypeError(f"hosts is a sequence of names, not {hosts!r}")
    return frozenset(host.lower() for host in hosts)


@attrs.frozen(kw_only=True)
class Answering:
    """How a server answers requests: see :func:`serve` for what it all means."""

    process_request: tuple[ProcessRequest, ...] = attrs.field(default=None, converter=_in_order)
    process_response: ProcessResponse | None = None
    select_subprotocol: SelectSubprotocol | None = None
    origins: Origins = attrs.field(default=SAME_HOST, converter=check_origins)
    hosts: frozenset[str] | None = attrs.field(default=None, converter=_to_hosts)
    headers: Headers = attrs.field(factory=Headers, converter=check_headers)
    server_header: str | None = SERVER
    forwarding: Forwarding = attrs.field(factory=Forwarding)

    def check(self, request: Request) -> None:
        """Check for which host a request is, and from which page.

        Raises:
            InvalidHeader: if there is not one host, or none that can be one.
            HostNotServed: if it is for another host.
            InvalidOrigin: if a page wants a WebSocket that may not have one.
        """
        values = request.headers.get_all("Host")
        if not values and request.http_version != "1.1":
            return  # as it may be; and it cannot become a WebSocket
        if len(values) != 1 or not check_host(host := values[0].strip(" \t")):
            raise InvalidHeader("Host", ", ".join(values) if values else None, "a request is for one host")
        if self.hosts is not None and host.lower() not in self.hosts and _name(host) not in self.hosts:
            raise HostNotServed("Host", host, "this is another server")
        if is_upgrade(request):
            check_origin(request, self.origins)

    async def answer(self, opening: Opening, request: Request) -> Response | None:
        """Return the application's answer, or None. Raises what the application raises."""
        for function in self.process_request:
            response = await _call(function, opening, request)
            if response is not None:
                if response.status_code < 200:
                    raise ValueError(f"process_request() cannot answer with the status {response.status_code}")
                return response
        return None

    async def change(self, opening: Opening, request: Request, response: Response) -> Response:
        """Return the answer to an opening handshake after the application has seen it."""
        if self.process_response is None:
            return response
        changed = await _call(self.process_response, opening, request, response)
        if changed is None:
            return response
        if changed.status_code == 101 and not _has_headers_of(response, changed):
            raise ValueError("process_response() has changed what makes the response an opening handshake")
        if changed.status_code < 200 and changed.status_code != 101:
            raise ValueError(f"process_response() cannot answer with the status {changed.status_code}")
        return changed

    def add_headers(self, response: Response) -> Response:
        """Return a response of the application with the headers that all responses have."""
        missing = [(name, value) for name, value in self.headers.raw_items() if name not in response.headers]
        if self.server_header is not None and "Server" not in response.headers:
            missing.append(("Server", self.server_header))
        if not missing:
            return response
        headers = Headers(response.headers)
        headers.update(missing)
        return attrs.evolve(response, headers=headers)


async def _call(function: Callable[..., T | Awaitable[T]], *args: Any) -> T:
    result = function(*args)
    return await result if inspect.isawaitable(result) else result


def _name(host: str) -> str:
    """Return a host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and not name.endswith(":") else host).lower()


def _has_headers_of(response: Response, changed: Response) -> bool:
    """Whether a response still says all that makes it an opening handshake."""
    if response.status_code != 101:
        return False
    names = ("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")
    return all(changed.headers.get_all(name) == response.headers.get_all(name) for name in names)


async def open_connection(
    stream: trio.abc.Stream,
    settings: Settings,
    answering: Answering,
    *,
    server: Server | None = None,
    header: ProxyHeader | None = None,
    admit: Callable[[Opening], Response | None] = lambda _: None,
    answered: Callable[[], object] = lambda: None,
    interrupted: Callable[[], int] = lambda: 503,
) -> WebSocket | None:
    """Read requests and answer them. Return the WebSocket, or None if there is none; the peer has been told why.

    Args:
        stream: The stream. It is not closed here.
        settings: The options of the connection.
        answering: How to answer.
        server: The server that the application is told about.
        header: What a proxy has said in front of everything.
        admit: Called when it is known who a request is from. Returns an answer if it is not to be looked at.
        answered: Called when a plain request has been answered, and the next one may come.
        interrupted: Called when this is cancelled before there is an answer. Returns a status code for the answer.
    """
    reception = _Reception(stream, settings, answering, server, header, admit)
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
        stream: trio.abc.Stream,
        settings: Settings,
        answering: Answering,
        server: Server | None,
        header: ProxyHeader | None,
        admit: Callable[[Opening], Response | None],
    ) -> None:
        self._stream = stream
        self._transport = Transport(stream)
        self._settings = settings
        self._answering = answering
        self._peer = peer_of(self._transport, answering.forwarding, header)
        self._admit = admit
        self.opening = Opening(self._transport, server, self._peer)
        self.ws: WebSocket | None = None
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
            response = self._answering.add_headers(response if stays_open else _closing(response))
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
            self.opening._tell(find_client(self._peer, request.headers, self._answering.forwarding))
        response = self._admit(self.opening)
        if response is not None:
            return response
        self._answering.check(request)
        response = await self._answering.answer(self.opening, request)
        ws = None
        if response is None:
            if request.method == "HEAD" and not is_upgrade(request):
                request = attrs.evolve(request, method="GET")  # whose answer it is, but for the body
            try:
                ws = upgrade(self._stream, request, self._settings, self._received, self._answering, self.opening)
                response = ws.response
            except InvalidHandshake as exc:
                response = self._refuse(exc)
        if is_upgrade(request):
            response = await self._answering.change(self.opening, request, response)
        if ws is not None and response.status_code == 101:
            ws.response = response
            self.ws = ws
        return response

    def _refuse(self, exc: InvalidHandshake) -> Response:
        logger.info("opening handshake with %s failed: %s", self.opening.remote_address, exc)
        return reject(exc, server=self._answering.server_header)

    async def turn_away(self, status: int) -> None:
        """Answer with a status and nothing more, if that is possible and takes next to no time. Never raises."""
        if self._sending or (self._has_served and not self._has_begun):
            return  # it may have half of another answer, or waits for none
        headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else {}
        response = _closing(self.opening.respond(status, f"{reason_phrase(status)}\n", headers))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_TIMEOUT):
            with contextlib.suppress(StreamBroken):
                await self._send(self._answering.add_headers(response).serialize())

    async def _send(self, data: bytes) -> None:
        self._sending = True
        if not self._transport.can_write_now():
            await self._transport.send([data])
        elif not self._transport.write_now([data]):
            await self._transport.send([])  # the rest, or to hear what is wrong
        self._sending = False

    async def _linger(self) -> None:
        """Give the peer the time to read the answer: if we closed a socket with unread bytes, it would be reset."""
        with trio.move_on_after(GRACE):
            await self._transport.send_eof()
            while await self._transport.receive():
                pass


def upgrade(
    stream: trio.abc.Stream,
    request: Request,
    settings: Settings,
    received: bytes = b"",
    answering: Answering | None = None,
    opening: Opening | None = None,
) -> WebSocket:
    """Return the connection that a stream becomes with this request, and what was received after it.

    Raises:
        InvalidHandshake: if the request is refused.
    """
    answering = answering or Answering()
    opening = opening or Opening(Transport(stream), None)
    select = answering.select_subprotocol
    response, agreement = accept(
        request,
        subprotocols=settings.subprotocols,
        extensions=[] if settings.compression is None else [DeflateServer(settings.compression)],
        server=answering.server_header,
        headers=answering.headers,
        select_subprotocol=None if select is None else partial(select, opening),
    )
    connection = Connection(Role.SERVER, Transport(stream), settings, agreement.extensions, received)
    return WebSocket(connection, request, response, agreement.subprotocol, opening)


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
