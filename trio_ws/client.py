"""Opening connections: ``connect`` and ``connect_over``."""

from __future__ import annotations

import os
import ssl as ssl_module
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from .datastructures import HeadersLike
from .exceptions import ConnectFailed, InvalidMessage, InvalidStatus, OpenTimeout, TLSFailed
from .http11 import Request, Response, ResponseParser, software
from .protocol import Role
from .protocol.deflate import DeflateClient
from .protocol.extensions import ClientExtension
from .protocol.handshake import build_request, check_response
from .settings import Options, Settings
from .stream import StreamBroken, Transport
from .tasks import Connection
from .uri import WebSocketURI, parse_uri
from .version import __version__
from .websocket import Session, WebSocket

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Connecting", "connect", "connect_over"]

#: The User-Agent header.
USER_AGENT = software(__version__)

#: Seconds in which the body of a refusal must come. Without it the refusal is reported all the same.
BODY_TIMEOUT = 1.0


def connect(
    uri: str,
    *,
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
    headers: HeadersLike = (),
    user_agent: str | None = USER_AGENT,
    happy_eyeballs_delay: float = 0.25,
    local_address: str | None = None,
    **options: Unpack[Options],
) -> Connecting:
    """Connect to a WebSocket server, for as long as a block.

    ::

        async with trio_ws.connect("wss://example.org/feed") as ws:
            await ws.send("hello")

    Leaving the block closes the connection: with 1000 normally, 1001 when it is cancelled (without waiting), 1011 when
    it raises. What the block raises comes out as it is.

    Cancelling it while it connects leaves nothing behind.

    Args:
        uri: A ``ws://`` or ``wss://`` URI. User information in it becomes Basic credentials.
        ssl: How to do TLS, for a ``wss://`` URI. The default trusts the authorities that the system trusts, and checks
            the host name.
        server_hostname: The name that the certificate is checked against, instead of the host of the URI.
        headers: More headers for the request.
        user_agent: The User-Agent header; None for none.
        happy_eyeballs_delay: Seconds after which the next address of the host is tried too.
        local_address: The local IP address to connect from.
        **options: See :class:`Options`.

    Raises:
        InvalidURI: if the URI is not valid.
        ConnectFailed: if the server cannot be reached, or hangs up; :exc:`TLSFailed` if TLS fails. On entering the
            block, like the following ones.
        OpenTimeout: if that takes longer than ``open_timeout`` seconds.
        InvalidStatus: if the server answers with another HTTP status than 101; it has the response.
        InvalidHandshake: if the answer is not right in another way.
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range, ``ssl`` is given for a ``ws://`` URI or is not a context for clients,
            or ``server_hostname`` cannot be the name of a server.
    """
    parsed = parse_uri(uri)
    start_tls = None
    if parsed.secure:
        context = ssl_module.create_default_context() if ssl is None else ssl
        # The dot that ends a complete name is not part of it in a certificate.
        name = parsed.host.rstrip(".") if server_hostname is None else server_hostname
        _check_tls(context, name)
        start_tls = partial(_start_tls, peer=parsed.host_header, context=context, name=name)
    elif ssl is not None:
        raise ValueError(f"ssl is for wss:// URIs, and this is {uri!r}")

    async def dial() -> trio.abc.Stream:
        stream: trio.abc.Stream
        try:
            stream = await trio.open_tcp_stream(
                parsed.host, parsed.port, happy_eyeballs_delay=happy_eyeballs_delay, local_address=local_address
            )
        except OSError as exc:
            raise ConnectFailed(parsed.host_header, _explain(exc)) from exc
        return stream if start_tls is None else await start_tls(stream)

    settings = Settings(**options)
    return Connecting(parsed, dial, build_request_for(parsed, settings, user_agent, headers), settings)


def connect_over(
    stream: trio.abc.Stream,
    uri: str,
    *,
    headers: HeadersLike = (),
    user_agent: str | None = USER_AGENT,
    **options: Unpack[Options],
) -> Connecting:
    """Open a WebSocket connection over any Trio stream: in memory, through TLS or SSH, over a Unix socket.

    Used like :func:`connect`. The stream is closed at the end, also when the handshake fails.

    Args:
        stream: The stream. From now on it belongs to the connection.
        uri: The URI to ask for: its host, path and user information go into the request. No TLS is added for ``wss://``.
        headers: More headers for the request.
        user_agent: The User-Agent header; None for none.
        **options: See :class:`Options`.

    Raises:
        Exception: as :func:`connect` does.
    """
    parsed = parse_uri(uri)
    settings = Settings(**options)

    async def dial() -> trio.abc.Stream:
        return stream

    return Connecting(parsed, dial, build_request_for(parsed, settings, user_agent, headers), settings)


def build_request_for(uri: WebSocketURI, settings: Settings, user_agent: str | None, headers: HeadersLike) -> Request:
    """Return the request of a client with these settings."""
    return build_request(
        uri,
        random=os.urandom,
        subprotocols=settings.subprotocols,
        extensions=_extensions(settings),
        user_agent=user_agent,
        headers=headers,
    )


def _extensions(settings: Settings) -> list[ClientExtension]:
    return [] if settings.compression is None else [DeflateClient(settings.compression)]


class Connecting:
    """A connection that is opened by ``async with`` and closed at the end of the block. It can be used once."""

    def __init__(
        self,
        uri: WebSocketURI,
        dial: Callable[[], Awaitable[trio.abc.Stream]],
        request: Request,
        settings: Settings,
    ) -> None:
        self._peer = uri.host_header
        self._dial = dial
        self.request = request
        self._settings = settings
        self._used = False
        self._session: Session | None = None

    async def __aenter__(self) -> WebSocket:
        self._session = Session(await self.open())
        return await self._session.__aenter__()

    async def open(self) -> WebSocket:
        """Connect. Nothing runs yet: a session must follow."""
        if self._used:
            raise RuntimeError("a connection is entered once: call connect() again")
        self._used = True
        timeout = self._settings.open_timeout
        parser = ResponseParser()
        ws = None
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            ws = await self._shake_hands(parser)
        if ws is None:
            if parser.partial is not None:
                raise InvalidStatus(parser.partial)
            assert timeout is not None
            raise OpenTimeout(self._peer, timeout)
        return ws

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is None:
            raise RuntimeError("this connection was not entered")
        await self._session.__aexit__(exc_type, exc, traceback)

    async def _shake_hands(self, parser: ResponseParser) -> WebSocket:
        stream = await self._dial()
        transport = Transport(stream)
        try:
            response, received = await self._ask(transport, parser)
            return self.upgrade(stream, response, received)
        except BaseException:
            await transport.aclose(0)
            raise

    def upgrade(self, stream: trio.abc.Stream, response: Response, received: bytes = b"") -> WebSocket:
        """Return the connection that a stream becomes with this response, and what was received after it."""
        agreement = check_response(
            self.request, response, subprotocols=self._settings.subprotocols, extensions=_extensions(self._settings)
        )
        connection = Connection(Role.CLIENT, Transport(stream), self._settings, agreement.extensions, received)
        return WebSocket(connection, self.request, response, agreement.subprotocol)

    async def _ask(self, transport: Transport, parser: ResponseParser) -> tuple[Response, bytes]:
        """Send the request. Return the response, and what was received after it."""
        response = None
        try:
            await transport.send([self.request.serialize()])
            while parser.partial is None:
                data = await transport.receive()
                if not data:
                    raise StreamBroken("the server closed it during the opening handshake")
                response = parser.feed(data)
                if response is not None:
                    return response, parser.unused
            # A refusal, and its head is there: whatever becomes of the body does not change that.
            with trio.move_on_after(BODY_TIMEOUT):
                while response is None:
                    response = parser.feed(await transport.receive())
        except (StreamBroken, InvalidMessage) as exc:
            if parser.partial is not None:
                raise InvalidStatus(parser.partial) from exc
            if isinstance(exc, StreamBroken):
                raise ConnectFailed(self._peer, _explain(exc)) from exc.__cause__
            raise
        raise InvalidStatus(response or parser.partial)


def _check_tls(context: ssl_module.SSLContext, name: str) -> None:
    """Raise now what would otherwise be raised when there is a connection, whoever the server is."""
    try:
        context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_hostname=name)
    except ssl_module.SSLError as exc:
        raise ValueError("ssl is not a context for clients") from exc


async def _start_tls(
    stream: trio.abc.Stream, *, peer: str, context: ssl_module.SSLContext, name: str
) -> trio.abc.Stream:
    # An end without the goodbye of TLS cannot deceive us: frames and the closing handshake tell whether all has come.
    tls = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    try:
        await tls.do_handshake()
    except trio.BrokenResourceError as exc:
        await Transport(stream).aclose(0)
        cause = exc.__cause__ or exc
        raise TLSFailed(peer, f"TLS: {_explain(cause)}") from cause
    except BaseException:
        await Transport(stream).aclose(0)
        raise
    return tls


def _explain(exc: BaseException) -> str:
    """Say in one line what went wrong. What is outermost often says only that something did."""
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_explain(each) for each in exc.exceptions))
    if isinstance(exc, ssl_module.SSLCertVerificationError):
        return f"certificate not accepted: {exc.verify_message}"
    if exc.__cause__ is not None:
        return _explain(exc.__cause__)
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
