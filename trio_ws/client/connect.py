"""Opening connections: ``connect``, ``connect_in``, ``connect_unix`` and ``connect_over``.

Each attempt dials the server, sends the opening request and reads the response. A redirect causes another attempt with
a new request. If it leads to another origin, the new request has no credentials and no cookies from a mapping.
``open_timeout`` limits the total time of all attempts.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import trio

from ..connection.core import Connection
from ..connection.session import Session, run_until_closed
from ..connection.stream import StreamAdapter, StreamBroken
from ..connection.websocket import WebSocket, connection_of
from ..exceptions import (
    ConnectFailed,
    InvalidHandshake,
    InvalidMessage,
    InvalidRedirect,
    InvalidStatus,
    OpenTimeout,
    TLSFailed,
)
from ..http11 import Request, Response, ResponseParser
from ..http11.body import decode_body
from ..instruments.interface import HandshakeFailure, report_failure
from ..misuse.names import check_names
from ..misuse.usage import AsyncWithOnly, check_in_trio
from ..misuse.values import check_path, check_stream
from ..protocol import Role
from ..protocol.handshake import check_response
from ..settings import Settings, pick
from ..uri import WebSocketURI, is_unix, parse_unix_uri, parse_uri
from .dial import Dialer
from .explain import explain, find_tls_error
from .options import ConnectOptions, ConnectOverOptions, ConnectUnixOptions
from .redirect import is_redirect, resolve_redirect, same_origin, without_credentials
from .request import RequestBuilder

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Connecting", "connect", "connect_in", "connect_over", "connect_unix"]

#: Seconds to wait for the body of an error response. After that, the error is reported without the rest of the body.
BODY_TIMEOUT = 1.0

#: The maximum number of consecutive redirects.
MAX_REDIRECTS = 10


def connect(uri: str, **options: Unpack[ConnectOptions]) -> Connecting:
    """Connect to a WebSocket server for the duration of an ``async with`` block.

    ::

        async with trio_ws.connect("wss://example.org/feed") as ws:
            await ws.send("hello")

    Leaving the block closes the connection: with 1000 normally, with 1001 and without waiting for the server if the
    block is cancelled, with 1011 if it raises an exception. Exceptions from the block propagate unchanged.

    Redirects are followed, except from ``wss`` to ``ws``. A request to another origin (scheme, host and port) omits the
    user information, ``credentials``, the Authorization, Cookie and Proxy-Authorization headers from ``headers``, and
    the cookies from a mapping. ``ws.request`` is the last request.

    Cancelling it while it connects is safe: nothing is left open.

    Args:
        uri: A ``ws://`` or ``wss://`` URI, whose user information is sent as Basic credentials. Or a URI such as
            ``ws+unix:/run/app.sock:/path``, which connects like :func:`connect_unix`.
        **options: See :class:`ConnectOptions`.

    Raises:
        InvalidURI: If the URI is not valid.
        TypeError: If an option has the wrong type or does not exist.
        ValueError: If an option is out of range; if ``ssl`` or ``server_hostname`` is given for a ``ws://`` URI, an
            option for TCP or proxies for a Unix socket, or ``proxy_ssl`` without an ``https://`` proxy; if ``ssl`` or
            ``proxy_ssl`` is not a context for clients; if ``server_hostname``, ``host`` or ``local_address`` is not
            valid.
        InvalidProxy: If ``proxy`` is not valid. On entering the block if the proxy comes from the environment.
        ConnectFailed: If the server cannot be reached or closes the connection; :exc:`TLSFailed` if the TLS handshake
            fails, :exc:`ProxyFailed` if there is no way through the proxy. This and the following exceptions are raised
            on entering the block.
        OpenTimeout: If connecting takes longer than ``open_timeout`` seconds.
        InvalidStatus: If the server answers with an HTTP status other than 101; the exception has the response.
            :exc:`InvalidRedirect` if the response is a redirect that must not be followed.
        InvalidHandshake: If the response is invalid in another way.
        ImportError: If the proxy is a SOCKS proxy and python-socks is not installed (``pip install trio-ws[socks]``).
    """
    check_names(connect, options, ConnectOptions)
    return _connect_to(uri, options, "connect")


async def connect_in(nursery: trio.Nursery, uri: str, **options: Unpack[ConnectOptions]) -> WebSocket:
    """Connect to a WebSocket server, and let a nursery own the connection.

    ::

        class Feed:
            async def open(self, nursery: trio.Nursery) -> None:
                self.ws = await trio_ws.connect_in(nursery, "wss://example.org/feed")

    Use this if no ``async with`` block can contain the use of the connection: for an object that holds one, or in a
    REPL. Otherwise, prefer :func:`connect`, which cannot forget to close it.

    The connection is a task of the nursery, which ends when the connection is closed, by whichever end. To close it,
    call :meth:`WebSocket.aclose`. The end of the nursery's block waits until that has happened.

    The nursery never gets an exception from the connection. If the connection is lost, the methods of the WebSocket
    raise a :exc:`ConnectionClosed`, after the messages that had arrived before. If the nursery is cancelled, the
    connection is closed with 1001, without waiting for the server; so it is also if another task of the nursery raises
    an exception.

    While it connects, this function belongs to its caller: cancelling the caller is safe and leaves nothing open, and
    exceptions are raised here. From then on, only cancelling the nursery closes the connection.

    Args:
        nursery: The nursery. It must be open at least until this function returns.
        uri: A URI as for :func:`connect`.
        **options: See :class:`ConnectOptions`.

    Raises:
        Exception: The exceptions of :func:`connect`.
        RuntimeError: If the nursery is closed.
        TypeError: If ``nursery`` is not a nursery.
    """
    if not isinstance(nursery, trio.Nursery):
        raise TypeError(f"nursery must be a trio.Nursery, not {nursery!r}")
    check_names(connect_in, options, ConnectOptions)
    ws = await _connect_to(uri, options, "connect_in").open()
    try:
        # There is no checkpoint before the connection belongs to the nursery, so cancellation cannot leave it open.
        nursery.start_soon(run_until_closed, ws)
    except RuntimeError:
        await connection_of(ws).stream.aclose(0)
        raise
    return ws


def connect_unix(
    path: str | os.PathLike[str], uri: str = "ws://localhost/", **options: Unpack[ConnectUnixOptions]
) -> Connecting:
    """Connect to a WebSocket server that listens on a Unix socket. Use it like :func:`connect`.

    Redirects are only followed within the origin of the URI, and use the same socket.

    Args:
        path: The file name of the socket. On Linux, a name that begins with a NUL is that of an abstract socket.
        uri: The URI to request. Its host, path, query and user information are sent in the request. A ``wss://`` URI
            uses TLS over the socket, with a certificate for the host of the URI.
        **options: See :class:`ConnectUnixOptions`.

    Raises:
        Exception: The exceptions of :func:`connect`.
    """
    check_names(connect_unix, options, ConnectUnixOptions)
    check_path("path", path)
    return _connect(parse_uri(uri), os.fsdecode(path), options, elsewhere=False, function="connect_unix")


def _connect_to(uri: str, options: ConnectOptions, function: str) -> Connecting:
    path, parsed = parse_unix_uri(uri) if is_unix(str(uri)) else (None, parse_uri(uri))
    if path is not None:
        for name in ("host", "port", "happy_eyeballs_delay", "local_address", "proxy_ssl"):
            if options.get(name) is not None:
                raise ValueError(f"{name} must not be given for a Unix socket ({path!r})")
    return _connect(parsed, path, options, elsewhere=path is None, function=function)


def _connect(
    uri: WebSocketURI, path: str | None, options: ConnectUnixOptions, *, elsewhere: bool, function: str
) -> Connecting:
    builder = RequestBuilder(Settings(**pick(options, Settings)), **pick(options, RequestBuilder))
    dialer = Dialer(uri, path, builder.user_agent, **pick(options, Dialer))
    max_redirects = options.get("max_redirects", MAX_REDIRECTS)
    return Connecting(uri, dialer.dial, builder, max_redirects, elsewhere=elsewhere, function=function)


def connect_over(stream: trio.abc.Stream, uri: str, **options: Unpack[ConnectOverOptions]) -> Connecting:
    """Open a WebSocket connection over any Trio stream: in memory, through TLS or SSH, over a serial line.

    Use it like :func:`connect`. The stream is closed at the end, even if the opening handshake fails. Redirects are not
    followed, because they would need another stream.

    Args:
        stream: The stream. The connection takes ownership of it.
        uri: The URI to request. Its host, path, query and user information are sent in the request. No TLS is added for
            ``wss://``.
        **options: See :class:`ConnectOverOptions`.

    Raises:
        Exception: The exceptions of :func:`connect`.
    """
    check_names(connect_over, options, ConnectOverOptions)
    check_stream("stream", stream)
    builder = RequestBuilder(Settings(**pick(options, Settings)), **pick(options, RequestBuilder))

    async def dial(_uri: WebSocketURI) -> StreamAdapter:
        return StreamAdapter(stream)

    return Connecting(parse_uri(uri), dial, builder, 0, function="connect_over")


class Connecting(AsyncWithOnly):
    """A connection that ``async with`` opens, and closes at the end of the block. It can be used once."""

    def __init__(
        self,
        uri: WebSocketURI,
        dial: Callable[[WebSocketURI], Awaitable[StreamAdapter]],
        builder: RequestBuilder,
        max_redirects: int = MAX_REDIRECTS,
        *,
        elsewhere: bool = True,
        function: str = "connect",
    ) -> None:
        if isinstance(max_redirects, bool) or not isinstance(max_redirects, int):
            raise TypeError(f"max_redirects must be an int, not {max_redirects!r}")
        if max_redirects < 0:
            raise ValueError(f"max_redirects must be at least 0, not {max_redirects}")
        # The name of the public function that was called, for error messages.
        self._function = function
        self._uri = uri
        self._dial = dial
        self._builder = builder
        self._settings = builder.settings
        self._max_redirects = max_redirects
        # True if redirects may lead to other origins. A Unix socket reaches only one.
        self._cross_origin = elsewhere
        # Building the first request here makes invalid options raise before connecting.
        self.request: Request = builder.build(uri)
        # The parser of the response that is being received, if any.
        self._parser: ResponseParser | None = None
        self._used = False
        self._session: Session | None = None

    def _explain_use(self) -> str:
        return f"{self._function}() must be used as `async with {self._function}(...) as ws:`"

    if not TYPE_CHECKING:

        def __aiter__(self) -> NoReturn:
            use = "to reconnect, use `async for attempt in attempts(...):`"
            raise TypeError(f"{self._explain_use()}; {use}")

        def __getattr__(self, name: str) -> NoReturn:
            # Code that forgets `async with` calls connect(...).send(), for example.
            hint = "" if name.startswith("_") else f"; {self._explain_use()}"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    async def __aenter__(self) -> WebSocket:
        self._session = Session(await self.open())
        return await self._session.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is None:
            raise RuntimeError("the connection was not entered")
        await self._session.__aexit__(exc_type, exc, traceback)

    async def open(self) -> WebSocket:
        """Connect, without starting the tasks of the connection. The caller must enter a :class:`Session`.

        Raises:
            RuntimeError: If it was called before.
        """
        if self._used:
            raise RuntimeError(f"a connection must be entered only once: call {self._function}() again")
        check_in_trio(f"{self._function}()")
        self._used = True
        began_at = trio.current_time()
        try:
            ws = await self._open_in_time()
        except Exception as exc:
            failure = HandshakeFailure(
                role=Role.CLIENT,
                request=self.request,
                response=exc.response if isinstance(exc, InvalidStatus) else None,
                error=exc,
                seconds=trio.current_time() - began_at,
            )
            report_failure(self._settings.instruments, failure)
            raise
        ws.handshake_seconds = trio.current_time() - began_at
        return ws

    async def _open_in_time(self) -> WebSocket:
        """Connect within ``open_timeout``."""
        timeout = self._settings.open_timeout
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            return await self._open()
        # The head of an error response has arrived. Report it without the rest of its body.
        if self._parser is not None and self._parser.partial is not None:
            raise InvalidStatus(decode_body(self._parser.partial))
        assert timeout is not None
        raise OpenTimeout(self._uri.host_header, timeout)

    async def _open(self) -> WebSocket:
        """Connect and follow redirects."""
        first = self._uri
        visited: set[tuple[WebSocketURI, str | None]] = set()
        redirect = None
        while True:
            if visited or self._builder.varies:
                await self._rebuild_request(same_origin(self._uri, first))
            # A second visit to a URI is not a loop if the cookies have changed: the server may answer differently.
            visit = self._uri, self.request.headers.get("Cookie")
            if redirect is not None and visit in visited:
                raise InvalidRedirect(redirect, f"it leads in a circle, to {without_credentials(self._uri)} again")
            visited.add(visit)
            try:
                return await self._attempt()
            except InvalidStatus as exc:
                redirect = exc.response
                if not self._max_redirects or not is_redirect(redirect):
                    raise
            self._parser = None
            if len(visited) > self._max_redirects:
                raise InvalidRedirect(redirect, f"max_redirects is {self._max_redirects}")
            self._uri = resolve_redirect(self._uri, redirect)
            if not self._cross_origin and not same_origin(self._uri, first):
                reason = f"{without_credentials(self._uri)} cannot be reached through the same Unix socket"
                raise InvalidRedirect(redirect, reason)

    async def _rebuild_request(self, first_origin: bool) -> None:
        credentials = await self._builder.fetch_credentials(self._uri) if first_origin else ()
        self.request = self._builder.build(self._uri, first_origin=first_origin, credentials=credentials)

    async def _attempt(self) -> WebSocket:
        """Dial the server and do the opening handshake."""
        transport = await self._dial(self._uri)
        try:
            response, received = await self._request_upgrade(transport)
            if self._builder.cookies is not None:
                self._builder.cookies.store(self._uri, response)
            return self.upgrade(transport, response, received)
        except InvalidHandshake as exc:
            exc.peer = self._uri.host_header
            await transport.aclose(0)
            raise
        except BaseException:  # Cancellation must not leave the stream open either.
            await transport.aclose(0)
            raise

    def upgrade(self, stream: StreamAdapter, response: Response, received: bytes = b"") -> WebSocket:
        """Check the response, and turn the stream into a WebSocket.

        Args:
            stream: The stream to the server.
            response: The response to :attr:`request`.
            received: The bytes that were received after the response.

        Raises:
            InvalidHandshake: If the response does not accept the connection, or is not valid.
        """
        agreement = check_response(
            self.request,
            response,
            subprotocols=self._settings.subprotocols,
            extensions=self._builder.offered_extensions(),
        )
        connection = Connection(Role.CLIENT, stream, self._settings, agreement.extensions, received)
        return WebSocket(connection, self.request, response, agreement.subprotocol)

    async def _request_upgrade(self, transport: StreamAdapter) -> tuple[Response, bytes]:
        """Send the request and receive the response. Return it with the bytes that were received after it."""
        settings = self._settings
        parser = self._parser = ResponseParser(max_head_size=settings.max_head_size, max_headers=settings.max_headers)
        response = failure = None
        try:
            await transport.write([self.request.serialize()])
        except StreamBroken as exc:
            failure = exc  # The server may have answered before it closed the connection.
        try:
            if failure is None:
                response = await _receive_response(transport, parser, whole=False)
            if response is None:
                # Wait for the body of an error response, but not long: its head is enough.
                with trio.move_on_after(BODY_TIMEOUT):
                    response = await _receive_response(transport, parser, whole=True)
        except StreamBroken as exc:
            failure = failure or exc
        except InvalidMessage:
            if parser.partial is None:
                raise
        response = response or parser.partial
        if response is None:
            assert failure is not None
            # With TLS 1.3, a server checks the certificate of the client after the handshake of the client.
            if find_tls_error(failure) is not None:
                raise TLSFailed(self._uri.host_header, f"TLS: {explain(failure)}") from failure.__cause__
            raise ConnectFailed(self._uri.host_header, explain(failure)) from failure.__cause__
        return decode_body(response), parser.unused


async def _receive_response(transport: StreamAdapter, parser: ResponseParser, *, whole: bool) -> Response | None:
    """Receive a response, or at least its head. Return the response if it is complete.

    Args:
        transport: The stream.
        parser: The parser.
        whole: Whether to wait for the body, too.

    Raises:
        StreamBroken: If the connection is lost before the end of the head.
        InvalidMessage: If it is not a response.
    """
    response = None
    while response is None and (whole or parser.partial is None):
        data = await transport.receive()
        if not data and parser.partial is None:
            raise StreamBroken("the server closed the connection during the opening handshake")
        response = parser.feed(data)
    return response
