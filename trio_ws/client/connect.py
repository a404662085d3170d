"""Opening connections: ``connect``, ``connect_unix`` and ``connect_over``.

One attempt is: dial, ask, read the answer. A redirect leads to another one, for which a request is made anew, without
what is only for the origin that the user has named: credentials, and cookies that are given by name. All attempts share
``open_timeout``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from ..connection.core import Connection
from ..connection.session import Session
from ..connection.stream import StreamAdapter, StreamBroken
from ..connection.websocket import WebSocket
from ..exceptions import ConnectFailed, InvalidMessage, InvalidRedirect, InvalidStatus, OpenTimeout
from ..http11 import Request, Response, ResponseParser
from ..http11.body import decode_body
from ..protocol import Role
from ..protocol.handshake import check_response
from ..settings import Settings, check_names, pick
from ..uri import WebSocketURI, is_unix, parse_unix_uri, parse_uri
from .dial import Dialer
from .explain import explain
from .options import ConnectOptions, ConnectOverOptions, ConnectUnixOptions
from .redirect import is_redirect, redirected, same_origin, show
from .request import RequestBuilder

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Connecting", "connect", "connect_over", "connect_unix"]

#: Seconds in which the body of a refusal must come. Without it the refusal is reported all the same.
BODY_TIMEOUT = 1.0

#: How many redirects are followed.
MAX_REDIRECTS = 10


def connect(uri: str, **options: Unpack[ConnectOptions]) -> Connecting:
    """Connect to a WebSocket server, for as long as a block.

    ::

        async with trio_ws.connect("wss://example.org/feed") as ws:
            await ws.send("hello")

    Leaving the block closes the connection: with 1000 normally, 1001 when it is cancelled (without waiting), 1011 when
    it raises. What the block raises comes out as it is.

    Redirects are followed. To another origin, that is another scheme, host or port, go no user information, no
    ``credentials``, none of the ``headers`` Authorization, Cookie and Proxy-Authorization, and no cookies but those
    that a jar has for it. A redirect from ``wss`` to ``ws`` is refused. ``ws.request`` is the last request.

    Cancelling it while it connects leaves nothing behind.

    Args:
        uri: A ``ws://`` or ``wss://`` URI. User information in it becomes Basic credentials. Or
            ``ws+unix:/run/app.sock:/path``, for what :func:`connect_unix` does.
        **options: See :class:`ConnectOptions`.

    Raises:
        InvalidURI: if the URI is not valid.
        InvalidProxy: if ``proxy`` is not valid; on entering the block if it is what the environment says.
        ConnectFailed: if the server cannot be reached, or hangs up; :exc:`TLSFailed` if TLS fails, :exc:`ProxyFailed`
            if there is no way through the proxy. On entering the block, like the following ones.
        OpenTimeout: if that takes longer than ``open_timeout`` seconds.
        InvalidStatus: if the server answers with another HTTP status than 101; it has the response.
            :exc:`InvalidRedirect` if that is a redirect where we do not go.
        InvalidHandshake: if the answer is not right in another way.
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range, ``ssl`` is given for a ``ws://`` URI or is not a context for clients,
            or ``server_hostname`` cannot be the name of a server; if ``proxy`` is one for a Unix socket; if
            ``proxy_ssl`` is given for another proxy than an ``https://`` one, or is not a context for clients.
        ImportError: if the proxy is a SOCKS proxy, and python-socks is not installed (``pip install trio-ws[socks]``).
            On entering the block.
    """
    check_names("connect", options, ConnectOptions)
    path, parsed = parse_unix_uri(uri) if is_unix(str(uri)) else (None, parse_uri(uri))
    return _connect(parsed, path, options, elsewhere=path is None)


def connect_unix(
    path: str | os.PathLike[str], uri: str = "ws://localhost/", **options: Unpack[ConnectUnixOptions]
) -> Connecting:
    """Connect to a WebSocket server that listens on a Unix socket. Used like :func:`connect`.

    Redirects are followed within the origin of the URI; they lead to the same socket.

    Args:
        path: The file of the socket.
        uri: What to ask for: its host, path and user information go into the request. With ``wss://`` there is TLS over
            the socket, and the certificate is checked against its host.
        **options: See :class:`ConnectUnixOptions`.

    Raises:
        Exception: as :func:`connect` does.
    """
    check_names("connect_unix", options, ConnectUnixOptions)
    return _connect(parse_uri(uri), os.fspath(path), options, elsewhere=False)


def _connect(uri: WebSocketURI, path: str | None, options: ConnectUnixOptions, *, elsewhere: bool) -> Connecting:
    builder = RequestBuilder(Settings(**pick(options, Settings)), **pick(options, RequestBuilder))
    dialer = Dialer(uri, path, builder.user_agent, **pick(options, Dialer))
    max_redirects = options.get("max_redirects", MAX_REDIRECTS)
    return Connecting(uri, dialer.dial, builder, max_redirects, elsewhere=elsewhere)


def connect_over(stream: trio.abc.Stream, uri: str, **options: Unpack[ConnectOverOptions]) -> Connecting:
    """Open a WebSocket connection over any Trio stream: in memory, through TLS or SSH, over a serial line.

    Used like :func:`connect`. The stream is closed at the end, also when the handshake fails. Redirects are not
    followed: there is one stream.

    Args:
        stream: The stream. From now on it belongs to the connection.
        uri: The URI to ask for: its host, path and user information go into the request. No TLS is added for ``wss://``.
        **options: See :class:`ConnectOverOptions`.

    Raises:
        Exception: as :func:`connect` does.
    """
    check_names("connect_over", options, ConnectOverOptions)
    builder = RequestBuilder(Settings(**pick(options, Settings)), **pick(options, RequestBuilder))

    async def dial(_uri: WebSocketURI) -> trio.abc.Stream:
        return stream

    return Connecting(parse_uri(uri), dial, builder, 0)


class Connecting:
    """A connection that is opened by ``async with`` and closed at the end of the block. It can be used once."""

    def __init__(
        self,
        uri: WebSocketURI,
        dial: Callable[[WebSocketURI], Awaitable[trio.abc.Stream]],
        builder: RequestBuilder,
        max_redirects: int = MAX_REDIRECTS,
        *,
        elsewhere: bool = True,
    ) -> None:
        if isinstance(max_redirects, bool) or not isinstance(max_redirects, int):
            raise TypeError(f"max_redirects is a whole number, not {max_redirects!r}")
        if max_redirects < 0:
            raise ValueError(f"max_redirects is at least 0, not {max_redirects}")
        self._uri = uri
        self._dial = dial
        self._builder = builder
        self._settings = builder.settings
        self._max_redirects = max_redirects
        # Whether other origins can be reached.
        self._elsewhere = elsewhere
        # The first one. What is wrong with it is raised now.
        self.request: Request = builder.build(uri)
        # What reads the answer that we are waiting for, if there is one.
        self._parser: ResponseParser | None = None
        self._used = False
        self._session: Session | None = None

    async def __aenter__(self) -> WebSocket:
        self._session = Session(await self.open())
        return await self._session.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is None:
            raise RuntimeError("this connection was not entered")
        await self._session.__aexit__(exc_type, exc, traceback)

    async def open(self) -> WebSocket:
        """Connect. Nothing runs yet: a session must follow."""
        if self._used:
            raise RuntimeError("a connection is entered once: call connect() again")
        self._used = True
        timeout = self._settings.open_timeout
        ws = None
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            ws = await self._open()
        if ws is None:
            # A refusal, and its head is there: that the body is not does not change it.
            if self._parser is not None and self._parser.partial is not None:
                raise InvalidStatus(decode_body(self._parser.partial))
            assert timeout is not None
            raise OpenTimeout(self._uri.host_header, timeout)
        return ws

    async def _open(self) -> WebSocket:
        """Go from one redirect to the next."""
        first = self._uri
        seen: set[tuple[WebSocketURI, str | None]] = set()
        redirect = None
        while True:
            if seen or self._builder.varies:
                await self._ask_anew(same_origin(self._uri, first))
            # With other cookies, the same URI can lead somewhere else.
            step = self._uri, self.request.headers.get("Cookie")
            if redirect is not None and step in seen:
                raise InvalidRedirect(redirect, f"it leads in a circle, to {show(self._uri)} again")
            seen.add(step)
            try:
                return await self._shake_hands()
            except InvalidStatus as exc:
                redirect = exc.response
                if not self._max_redirects or not is_redirect(redirect):
                    raise
            self._parser = None
            if len(seen) > self._max_redirects:
                raise InvalidRedirect(redirect, f"there were {self._max_redirects} redirects before")
            self._uri = redirected(self._uri, redirect)
            if not self._elsewhere and not same_origin(self._uri, first):
                raise InvalidRedirect(redirect, f"{show(self._uri)} is not reached through this socket")

    async def _ask_anew(self, first_origin: bool) -> None:
        credentials = await self._builder.fetch_credentials(self._uri) if first_origin else ()
        self.request = self._builder.build(self._uri, first_origin=first_origin, credentials=credentials)

    async def _shake_hands(self) -> WebSocket:
        stream = await self._dial(self._uri)
        transport = StreamAdapter(stream)
        try:
            response, received = await self._ask(transport)
            if self._builder.cookies is not None:
                self._builder.cookies.take(self._uri, response)
            return self.upgrade(transport, response, received)
        except BaseException:  # cancellation too: the stream is not left open
            await transport.aclose(0)
            raise

    def upgrade(self, stream: StreamAdapter, response: Response, received: bytes = b"") -> WebSocket:
        """Return the connection that a stream becomes with this response, and what was received after it."""
        agreement = check_response(
            self.request, response, subprotocols=self._settings.subprotocols, extensions=self._builder.extensions()
        )
        connection = Connection(Role.CLIENT, stream, self._settings, agreement.extensions, received)
        return WebSocket(connection, self.request, response, agreement.subprotocol)

    async def _ask(self, transport: StreamAdapter) -> tuple[Response, bytes]:
        """Send the request. Return the response, and what was received after it."""
        parser = self._parser = ResponseParser()
        response = None
        try:
            await transport.write([self.request.serialize()])
            while response is None and parser.partial is None:
                data = await transport.receive()
                if not data:
                    raise StreamBroken("the server closed it during the opening handshake")
                response = parser.feed(data)
            # That of a refusal may still be coming: whatever becomes of its body does not change it.
            with trio.move_on_after(BODY_TIMEOUT):
                while response is None:
                    response = parser.feed(await transport.receive())
        except StreamBroken as exc:
            if parser.partial is None:
                raise ConnectFailed(self._uri.host_header, explain(exc)) from exc.__cause__
        except InvalidMessage:
            if parser.partial is None:
                raise
        response = response or parser.partial
        assert response is not None
        return decode_body(response), parser.unused
