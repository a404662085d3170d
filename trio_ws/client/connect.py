"""Opening connections: ``connect``, ``connect_unix`` and ``connect_over``.

One attempt is: dial, ask, read the answer. A redirect leads to another one, for which a request is made anew, without
what is only for the origin that the user has named: credentials, and cookies that are given by name. All attempts share
``open_timeout``.
"""

from __future__ import annotations

import inspect
import os
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
import trio

from ..datastructures import Headers, HeadersLike
from ..exceptions import ConnectFailed, InvalidMessage, InvalidRedirect, InvalidStatus, OpenTimeout, TLSFailed
from ..http11 import Request, Response, ResponseParser, decode_body, software
from ..protocol import Role
from ..protocol.deflate import DeflateClient
from ..protocol.extensions import ClientExtension
from ..protocol.handshake import build_request, check_response
from ..settings import Options, Settings
from ..stream import StreamBroken, Transport, explain, explain_addresses, start_tls
from ..tasks import Connection
from ..uri import WebSocketURI, is_unix, parse_unix_uri, parse_uri
from ..version import __version__
from ..websocket import Session, WebSocket
from .cookies import Cookies, CookiesLike
from .proxy import Proxy, check_proxy, connect_through, find_proxy
from .redirect import is_redirect, redirected, same_origin

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Connecting", "Credentials", "connect", "connect_over", "connect_unix"]

#: The User-Agent header.
USER_AGENT = software(__version__)

#: Seconds in which the body of a refusal must come. Without it the refusal is reported all the same.
BODY_TIMEOUT = 1.0

#: How many redirects are followed.
MAX_REDIRECTS = 10

#: What is called before each attempt, with the URI, for headers that say who we are.
Credentials: TypeAlias = Callable[[WebSocketURI], "HeadersLike | Awaitable[HeadersLike]"]

# Headers that are for one origin only.
_CREDENTIALS = ("Authorization", "Cookie", "Proxy-Authorization")


def connect(
    uri: str,
    *,
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
    headers: HeadersLike = (),
    user_agent: str | None = USER_AGENT,
    origin: str | None = None,
    cookies: CookiesLike | None = None,
    credentials: Credentials | None = None,
    max_redirects: int = MAX_REDIRECTS,
    happy_eyeballs_delay: float = 0.25,
    local_address: str | None = None,
    proxy: Proxy | str | None = "auto",
    proxy_ssl: ssl_module.SSLContext | None = None,
    **options: Unpack[Options],
) -> Connecting:
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
        ssl: How to do TLS, for a ``wss://`` URI. The default trusts the authorities that the system trusts, and checks
            the host name.
        server_hostname: The name that the certificate is checked against, instead of the host of the URI.
        headers: More headers for the request.
        user_agent: The User-Agent header; None for none.
        origin: The Origin header, such as ``https://example.org``; None for none.
        cookies: Cookies for the request: a mapping of names to values, or an :class:`http.cookiejar.CookieJar`, which
            also takes those that servers set. A Cookie header in ``headers`` or from ``credentials`` replaces them.
        credentials: Called before each attempt, with the URI, for headers that say who we are; they replace those of
            the same name in ``headers``. It may be async. What it raises comes out.
        max_redirects: How many redirects to follow, one after the other; 0 for none, which makes a redirect an
            :exc:`InvalidStatus`.
        happy_eyeballs_delay: Seconds after which the next address of the host is tried too.
        local_address: The local IP address to connect from.
        proxy: The proxy to connect through: the URL of one, such as ``"http://proxy.example:3128"``, or a
            :class:`Proxy`. ``"auto"``, the default, for the one that the environment says, as other programs on the
            machine do: see :func:`~trio_ws.client.proxy.find_proxy`. None for no proxy.
        proxy_ssl: How to do TLS with an ``https://`` proxy. The default is like that of ``ssl``.
        **options: See :class:`Options`.

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
    path, parsed = parse_unix_uri(uri) if is_unix(str(uri)) else (None, parse_uri(uri))
    if ssl is not None and not parsed.secure:
        raise ValueError(f"ssl is for wss:// URIs, and this is {uri!r}")
    via = check_proxy(proxy, proxy_ssl)
    if proxy_ssl is not None:
        _check_tls(proxy_ssl, "localhost", "proxy_ssl")
    if path is not None and isinstance(via, Proxy):
        raise ValueError(f"there is no proxy on the way to a Unix socket, and this is {uri!r}")
    way = _Way(parsed, path, ssl, server_hostname, happy_eyeballs_delay, local_address, via, proxy_ssl, user_agent)
    asking = _Asking(Settings(**options), user_agent, origin, headers, cookies, credentials)
    return Connecting(parsed, way.dial, asking, max_redirects, elsewhere=path is None)


def connect_unix(
    path: str | os.PathLike[str],
    uri: str = "ws://localhost/",
    *,
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
    headers: HeadersLike = (),
    user_agent: str | None = USER_AGENT,
    origin: str | None = None,
    cookies: CookiesLike | None = None,
    credentials: Credentials | None = None,
    max_redirects: int = MAX_REDIRECTS,
    **options: Unpack[Options],
) -> Connecting:
    """Connect to a WebSocket server that listens on a Unix socket. Used like :func:`connect`.

    Redirects are followed within the origin of the URI; they lead to the same socket.

    Args:
        path: The file of the socket.
        uri: What to ask for: its host, path and user information go into the request. With ``wss://`` there is TLS over
            the socket, and the certificate is checked against its host.
        ssl: As for :func:`connect`, like all that follows.
        server_hostname: The name that the certificate is checked against.
        headers: More headers for the request.
        user_agent: The User-Agent header; None for none.
        origin: The Origin header; None for none.
        cookies: Cookies for the request.
        credentials: Called before each attempt for headers that say who we are.
        max_redirects: How many redirects to follow.
        **options: See :class:`Options`.

    Raises:
        Exception: as :func:`connect` does.
    """
    parsed = parse_uri(uri)
    if ssl is not None and not parsed.secure:
        raise ValueError(f"ssl is for wss:// URIs, and this is {uri!r}")
    way = _Way(parsed, os.fspath(path), ssl, server_hostname)
    asking = _Asking(Settings(**options), user_agent, origin, headers, cookies, credentials)
    return Connecting(parsed, way.dial, asking, max_redirects, elsewhere=False)


def connect_over(
    stream: trio.abc.Stream,
    uri: str,
    *,
    headers: HeadersLike = (),
    user_agent: str | None = USER_AGENT,
    origin: str | None = None,
    cookies: CookiesLike | None = None,
    credentials: Credentials | None = None,
    **options: Unpack[Options],
) -> Connecting:
    """Open a WebSocket connection over any Trio stream: in memory, through TLS or SSH, over a serial line.

    Used like :func:`connect`. The stream is closed at the end, also when the handshake fails. Redirects are not
    followed: there is one stream.

    Args:
        stream: The stream. From now on it belongs to the connection.
        uri: The URI to ask for: its host, path and user information go into the request. No TLS is added for ``wss://``.
        headers: More headers for the request.
        user_agent: The User-Agent header; None for none.
        origin: The Origin header; None for none.
        cookies: Cookies for the request, as for :func:`connect`.
        credentials: Called for headers that say who we are, as for :func:`connect`.
        **options: See :class:`Options`.

    Raises:
        Exception: as :func:`connect` does.
    """
    asking = _Asking(Settings(**options), user_agent, origin, headers, cookies, credentials)

    async def dial(_uri: WebSocketURI) -> trio.abc.Stream:
        return stream

    return Connecting(parse_uri(uri), dial, asking, 0)


def _copy(headers: HeadersLike) -> Headers:
    return Headers(headers)


@attrs.frozen
class _Asking:
    """What a client asks with.

    The requests that it makes are valid whatever the URI: what the user has given is checked when it is made.
    """

    settings: Settings
    user_agent: str | None = USER_AGENT
    origin: str | None = None
    headers: Headers = attrs.field(factory=Headers, converter=_copy)
    cookies: Cookies | None = attrs.field(default=None, converter=attrs.converters.optional(Cookies))
    credentials: Credentials | None = None

    def request(self, uri: WebSocketURI, *, first_origin: bool = True, credentials: HeadersLike = ()) -> Request:
        """Return a request.

        Args:
            uri: What to ask for.
            first_origin: Whether it is of the origin that the user has named.
            credentials: Headers that say who we are.
        """
        given = Headers(self.headers)
        if not first_origin:
            _remove(given, _CREDENTIALS)
        more = Headers(credentials)
        _remove(given, more)
        given.update(more)
        if self.origin is not None and "Origin" not in given:
            given["Origin"] = self.origin
        if self.cookies is not None and "Cookie" not in given:
            cookie = self.cookies.header(uri, first_origin=first_origin)
            if cookie is not None:
                given["Cookie"] = cookie
        return build_request(
            uri,
            random=os.urandom,
            subprotocols=self.settings.subprotocols,
            extensions=_extensions(self.settings),
            user_agent=self.user_agent,
            headers=given,
        )

    async def ask_who_we_are(self, uri: WebSocketURI) -> HeadersLike:
        """Return the headers that say who we are. Raises what the user's function raises."""
        if self.credentials is None:
            return ()
        headers = self.credentials(uri)
        return await headers if inspect.isawaitable(headers) else headers

    @property
    def varies(self) -> bool:
        """Whether requests for the same URI can differ."""
        return self.credentials is not None or self.cookies is not None


def _remove(headers: Headers, names: Iterable[str]) -> None:
    for name in names:
        if name in headers:
            del headers[name]


def _extensions(settings: Settings) -> list[ClientExtension]:
    return [] if settings.compression is None else [DeflateClient(settings.compression)]


class _Way:
    """How to get a stream to where a URI leads.

    Args:
        first: The URI that the user has given.
        path: The file of a Unix socket, for that one and all others.
        ssl: How to do TLS.
        server_hostname: The name to check the certificate against, for that origin.
        happy_eyeballs_delay: Seconds after which the next address is tried too.
        local_address: Where to connect from.
        proxy: The proxy, ``"auto"`` to look for one, or None. There is none to a Unix socket.
        proxy_ssl: How to do TLS with it.
        user_agent: How to introduce ourselves to it.

    Raises:
        ValueError: if TLS cannot be done in this way.
    """

    def __init__(
        self,
        first: WebSocketURI,
        path: str | None,
        ssl: ssl_module.SSLContext | None,
        server_hostname: str | None,
        happy_eyeballs_delay: float = 0.25,
        local_address: str | None = None,
        proxy: Proxy | Literal["auto"] | None = None,
        proxy_ssl: ssl_module.SSLContext | None = None,
        user_agent: str | None = None,
    ) -> None:
        self._first = first
        self._path = path
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._happy_eyeballs_delay = happy_eyeballs_delay
        self._local_address = local_address
        self._proxy = proxy
        self._proxy_ssl = proxy_ssl
        self._user_agent = user_agent
        if first.secure:
            _check_tls(self._context(), self._name(first))

    async def dial(self, uri: WebSocketURI) -> trio.abc.Stream:
        """Return a stream, after the handshake of TLS if there is one. When cancelled, nothing is left open."""
        context = self._context() if uri.secure else None
        stream = await self._dial(uri)
        if context is None:
            return stream
        try:
            return await start_tls(stream, context, self._name(uri))
        except StreamBroken as exc:
            raise TLSFailed(uri.host_header, str(exc)) from exc.__cause__

    async def _dial(self, uri: WebSocketURI) -> trio.abc.Stream:
        if self._path is None:
            proxy = await find_proxy(uri) if self._proxy == "auto" else self._proxy
            if proxy is not None:
                return await connect_through(
                    proxy,
                    uri,
                    ssl=self._proxy_ssl,
                    user_agent=self._user_agent,
                    happy_eyeballs_delay=self._happy_eyeballs_delay,
                    local_address=self._local_address,
                )
        stream: trio.abc.Stream
        try:
            if self._path is not None:
                stream = await trio.open_unix_socket(self._path)
            else:
                stream = await trio.open_tcp_stream(
                    uri.host,
                    uri.port,
                    happy_eyeballs_delay=self._happy_eyeballs_delay,
                    local_address=self._local_address,
                )
        except OSError as exc:
            reason = explain(exc) if self._path is not None else await explain_addresses(exc, uri.host, uri.port)
            raise ConnectFailed(self._path or uri.host_header, reason) from exc
        return stream

    def _context(self) -> ssl_module.SSLContext:
        if self._ssl is None:
            self._ssl = ssl_module.create_default_context()
        return self._ssl

    def _name(self, uri: WebSocketURI) -> str:
        """Return the name that the server has to prove."""
        if self._server_hostname is not None and same_origin(uri, self._first):
            return self._server_hostname
        # The dot that ends a complete name is not part of it in a certificate.
        return uri.host.rstrip(".")


class Connecting:
    """A connection that is opened by ``async with`` and closed at the end of the block. It can be used once."""

    def __init__(
        self,
        uri: WebSocketURI,
        dial: Callable[[WebSocketURI], Awaitable[trio.abc.Stream]],
        asking: _Asking,
        max_redirects: int,
        *,
        elsewhere: bool = True,
    ) -> None:
        if isinstance(max_redirects, bool) or not isinstance(max_redirects, int):
            raise TypeError(f"max_redirects is a whole number, not {max_redirects!r}")
        if max_redirects < 0:
            raise ValueError(f"max_redirects is at least 0, not {max_redirects}")
        self._uri = uri
        self._dial = dial
        self._asking = asking
        self._settings = asking.settings
        self._max_redirects = max_redirects
        # Whether other origins can be reached.
        self._elsewhere = elsewhere
        # The first one. What is wrong with it is raised now.
        self.request: Request = asking.request(uri)
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
            if seen or self._asking.varies:
                await self._ask_anew(same_origin(self._uri, first))
            # With other cookies, the same URI can lead somewhere else.
            step = self._uri, self.request.headers.get("Cookie")
            if redirect is not None and step in seen:
                raise InvalidRedirect(redirect, f"it leads in a circle, to {_show(self._uri)} again")
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
                raise InvalidRedirect(redirect, f"{_show(self._uri)} is not reached through this socket")

    async def _ask_anew(self, first_origin: bool) -> None:
        credentials = await self._asking.ask_who_we_are(self._uri) if first_origin else ()
        self.request = self._asking.request(self._uri, first_origin=first_origin, credentials=credentials)

    async def _shake_hands(self) -> WebSocket:
        stream = await self._dial(self._uri)
        transport = Transport(stream)
        try:
            response, received = await self._ask(transport)
            if self._asking.cookies is not None:
                self._asking.cookies.take(self._uri, response)
            return self.upgrade(stream, response, received)
        except BaseException:  # cancellation too: the stream is not left open
            await transport.aclose(0)
            raise

    def upgrade(self, stream: trio.abc.Stream, response: Response, received: bytes = b"") -> WebSocket:
        """Return the connection that a stream becomes with this response, and what was received after it."""
        agreement = check_response(
            self.request, response, subprotocols=self._settings.subprotocols, extensions=_extensions(self._settings)
        )
        connection = Connection(Role.CLIENT, Transport(stream), self._settings, agreement.extensions, received)
        return WebSocket(connection, self.request, response, agreement.subprotocol)

    async def _ask(self, transport: Transport) -> tuple[Response, bytes]:
        """Send the request. Return the response, and what was received after it."""
        parser = self._parser = ResponseParser()
        response = None
        try:
            await transport.send([self.request.serialize()])
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


def _show(uri: WebSocketURI) -> str:
    """Return a URI for a message, which is no place for a password."""
    return f"{'wss' if uri.secure else 'ws'}://{uri.host_header}{uri.resource_name}"


def _check_tls(context: ssl_module.SSLContext, name: str, option: str = "ssl") -> None:
    """Raise now what would otherwise be raised when there is a connection, whoever the server is."""
    try:
        context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_hostname=name)
    except ssl_module.SSLError as exc:
        raise ValueError(f"{option} is not a context for clients") from exc
