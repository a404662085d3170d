"""Opening connections: ``connect``, ``connect_in``, ``connect_unix`` and ``connect_over``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from ..connection.session import run_until_closed
from ..connection.stream import StreamAdapter
from ..connection.websocket import WebSocket, connection_of
from ..http2.negotiation import PRIOR_KNOWLEDGE, check_http2
from ..misuse.names import check_names
from ..misuse.values import check_instance, check_path, check_stream
from ..settings import Settings, pick
from ..uri import WebSocketURI, is_unix, parse_unix_uri, parse_uri
from .connecting import MAX_REDIRECTS, Connecting
from .dial import Dialer
from .options import ConnectOptions, ConnectOverOptions, ConnectUnixOptions
from .request import RequestBuilder

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .http2 import HTTP2Opener

__all__ = ["Connecting", "connect", "connect_in", "connect_over", "connect_unix"]


def connect(uri: str, **options: Unpack[ConnectOptions]) -> Connecting:
    """Connect to a WebSocket server for the duration of an ``async with`` block.

    ::

        async with trio_ws.connect("wss://example.org/feed") as ws:
            await ws.send("hello")

    Leaving the block closes the connection: with 1000 normally, with 1001 and without waiting for the server if the
    block is cancelled, with 1011 if it raises an exception. Exceptions from the block propagate unchanged.

    Redirects are followed, except from ``wss`` to ``ws``. A request to another origin (scheme, host and port) omits the
    user information, ``credentials``, the Authorization, Cookie, Host and Proxy-Authorization headers from ``headers``,
    and the cookies from a mapping. ``ws.request`` is the last request.

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
            valid; if ``http2`` is True for a ``ws://`` URI, or ``"prior-knowledge"`` for a ``wss://`` URI; if ``pool``
            is given without it.
        InvalidProxy: If ``proxy`` is not valid. On entering the block if the proxy comes from the environment.
        ConnectFailed: If the server cannot be reached or closes the connection; :exc:`TLSFailed` if the TLS handshake
            fails, :exc:`ProxyFailed` if there is no way through the proxy. This and the following exceptions are raised
            on entering the block.
        OpenTimeout: If connecting takes longer than ``open_timeout`` seconds.
        InvalidStatus: If the server answers with an HTTP status other than 101; the exception has the response.
            :exc:`InvalidRedirect` if the response is a redirect that must not be followed.
        InvalidHandshake: If the response is invalid in another way.
        ImportError: If the proxy is a SOCKS proxy and python-socks is not installed (``pip install trio-ws[socks]``).
            Or if ``http2`` is given and h2 is not installed (``pip install trio-ws[http2]``).
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
    opener = _make_opener(uri, dialer, builder.settings, options)
    max_redirects = options.get("max_redirects", MAX_REDIRECTS)
    return Connecting(uri, dialer.dial, builder, max_redirects, elsewhere=elsewhere, function=function, opener=opener)


def _make_opener(
    uri: WebSocketURI, dialer: Dialer, settings: Settings, options: ConnectUnixOptions
) -> HTTP2Opener | None:
    """Return the opener for HTTP/2; None if it is not asked for."""
    http2, pool = options.get("http2", False), options.get("pool")
    check_http2(http2)
    if pool is not None:
        from .pool import HTTP2Pool  # few programs need it

        check_instance("pool", pool, HTTP2Pool, "an HTTP2Pool or None")
    if not http2:
        if pool is not None:
            raise ValueError("pool must only be given together with http2")
        return None
    if http2 is True and not uri.secure:
        raise ValueError(f"http2 must be {PRIOR_KNOWLEDGE!r} for a ws:// URI, not True")
    if http2 == PRIOR_KNOWLEDGE and uri.secure:
        raise ValueError(f"http2 must be True for a wss:// URI, not {PRIOR_KNOWLEDGE!r}")
    from .http2 import HTTP2Opener  # requires h2

    return HTTP2Opener(dialer, settings, http2 == PRIOR_KNOWLEDGE, pool)


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

    async def give_up() -> None:
        await StreamAdapter(stream).aclose(0)

    return Connecting(parse_uri(uri), dial, builder, 0, function="connect_over", give_up=give_up)
