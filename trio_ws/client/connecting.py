"""The opening of a connection: ``Connecting``.

Each attempt dials the server, sends the opening request and reads the response. A redirect causes another attempt with
a new request. If it leads to another origin, the new request has no credentials and no cookies from a mapping.
``open_timeout`` limits the total time of all attempts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import trio

from ..connection.core import Connection
from ..connection.session import Session
from ..connection.stream import StreamAdapter, StreamBroken
from ..connection.websocket import WebSocket
from ..datastructures import Headers
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
from ..misuse.usage import AsyncWithOnly, check_in_trio
from ..protocol import Role
from ..protocol.handshake import check_response
from ..uri import WebSocketURI
from .explain import explain, find_tls_error
from .redirect import is_redirect, resolve_redirect, same_origin, without_credentials
from .request import RequestBuilder

if TYPE_CHECKING:
    from .http2 import HTTP2Opener

__all__ = ["MAX_REDIRECTS", "Connecting"]

#: Seconds to wait for the body of an error response. After that, the error is reported without the rest of the body.
BODY_TIMEOUT = 1.0

#: The maximum number of consecutive redirects.
MAX_REDIRECTS = 10


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
        opener: HTTP2Opener | None = None,
        give_up: Callable[[], Awaitable[None]] | None = None,
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
        self._opener = opener
        # Called if connecting fails. It closes a stream that was open before.
        self._give_up = give_up
        # The headers from the credentials function, and whether the URI has the origin of the first one.
        self._credentials: Headers | None = None
        self._first_origin = True
        self._settings = builder.settings
        self._max_redirects = max_redirects
        # True if redirects may lead to other origins. A Unix socket reaches only one.
        self._cross_origin = elsewhere
        # Building the first request here makes invalid options raise before connecting.
        self.request: Request = self._build_request("1.1" if opener is None else "2")
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

    @trio.lowlevel.enable_ki_protection
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
        except BaseException as exc:  # cancellation must not leave a stream open, either
            if self._give_up is not None:
                await self._give_up()
            if self._settings.instruments and isinstance(exc, Exception):
                self._report_failure(exc, trio.current_time() - began_at)
            raise
        ws.handshake_seconds = trio.current_time() - began_at
        return ws

    def _report_failure(self, exc: Exception, seconds: float) -> None:
        """Report to the instruments that the opening handshake has failed."""
        from ..instruments.interface import HandshakeFailure, report_failure  # needed by few programs

        failure = HandshakeFailure(
            role=Role.CLIENT,
            request=self.request,
            response=exc.response if isinstance(exc, InvalidStatus) else None,
            error=exc,
            seconds=seconds,
        )
        report_failure(self._settings.instruments, failure)

    async def _open_in_time(self) -> WebSocket:
        """Connect within ``open_timeout``."""
        timeout = self._settings.open_timeout
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            return await self._open()
        # The head of an error response has arrived. Report it without the rest of its body.
        if self._parser is not None and self._parser.partial is not None:
            raise InvalidStatus(decode_body(self._parser.partial))
        if self._opener is not None and self._opener.partial is not None:
            raise InvalidStatus(self._opener.partial)
        assert timeout is not None
        raise OpenTimeout(self._uri.host_header, timeout)

    async def _open(self) -> WebSocket:
        """Connect and follow redirects."""
        first = self._uri
        visited: set[tuple[WebSocketURI, tuple[str, ...]]] = set()
        redirect = None
        while True:
            if visited or self._builder.varies:
                await self._rebuild_request(same_origin(self._uri, first))
            # A second visit to a URI is not a loop if the cookies have changed: the server may answer differently.
            visit = self._uri, tuple(self.request.headers.get_all("Cookie"))
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
            if self._opener is not None:
                self._opener.partial = None
            if len(visited) > self._max_redirects:
                raise InvalidRedirect(redirect, f"max_redirects is {self._max_redirects}")
            self._uri = resolve_redirect(self._uri, redirect)
            if not self._cross_origin and not same_origin(self._uri, first):
                reason = f"{without_credentials(self._uri)} cannot be reached through the same Unix socket"
                raise InvalidRedirect(redirect, reason)

    async def _rebuild_request(self, first_origin: bool) -> None:
        self._credentials = await self._builder.fetch_credentials(self._uri) if first_origin else None
        self._first_origin = first_origin
        self.request = self._build_request("1.1" if self._opener is None else "2")

    def _build_request(self, http_version: str) -> Request:
        return self._builder.build(
            self._uri, first_origin=self._first_origin, credentials=self._credentials, http_version=http_version
        )

    async def _attempt(self) -> WebSocket:
        """Dial the server and do the opening handshake."""
        transport = None
        try:
            response, received = None, b""
            if self._opener is None:
                transport = await self._dial(self._uri)
            else:
                if self.request.http_version != "2":  # the last one was for a server without HTTP/2
                    self.request = self._build_request("2")
                transport, response = await self._opener.open(self._uri, self.request)
                if response is None:
                    self.request = self._build_request("1.1")
            if response is None:
                response, received = await self._request_upgrade(transport)
            if self._builder.cookies is not None:
                self._builder.cookies.store(self._uri, response)
            return self.upgrade(transport, response, received)
        except InvalidHandshake as exc:
            exc.peer = self._uri.host_header
            if transport is not None:
                await transport.aclose(0)
            raise
        except BaseException:  # Cancellation must not leave the stream open either.
            if transport is not None:
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
            failure.__traceback__ = None  # it refers to this frame, which would be a cycle
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
