"""The objects that handlers and hooks get from a server: ``Opening``, ``ServerWebSocket`` and ``Server``.

Connections are accepted and served in :mod:`trio_ws.server.accept`. It shares a :class:`ServerState` with the
:class:`Server`, so that :meth:`Server.aclose` can close the connections.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import trio

from ..connection.core import GOODBYE_TIMEOUT, GRACE, Connection
from ..connection.sendable import make_close
from ..connection.stream import StreamAdapter
from ..connection.tls_info import TLSInfo
from ..connection.websocket import WebSocket, connection_of
from ..datastructures import Headers, HeadersLike
from ..frames import Close, CloseCode
from ..http11 import Request, Response
from ..http11.messages import reason_phrase
from ..misuse.values import check_instance
from .forwarded.peer import Peer, identify_peer
from .forwarded.trust import Forwarding
from .openings import Openings
from .request import decode_path, parse_cookies, parse_query

__all__ = [
    "Handler",
    "Opening",
    "ProcessRequest",
    "ProcessResponse",
    "SelectSubprotocol",
    "Server",
    "ServerState",
    "ServerWebSocket",
]


class Opening:
    """An opening handshake in progress: the first argument of ``process_request`` and the other hooks.

    Later it is available to the handler, as :attr:`ServerWebSocket.opening`.

    Attributes:
        server: The server; None with :func:`serve_over`.
        local_address: The local socket address, as ``getsockname`` returns it; None without a socket.
        remote_address: The address of the client, as ``getpeername`` returns it; None without a socket. If a trusted
            proxy names the client, this is the IP address and the port that the proxy names; the port is 0 if it names
            none.
        proxy_address: The address of the trusted proxy that has named the client; None if there is none.
        host: The host that the client has asked for, with the port if there is one: the one that a trusted proxy names,
            or else that of the Host header. Empty before the Host header was checked, and for HTTP/1.0 without one.
        secure: Whether the client uses TLS, with this server or, according to a trusted proxy, with the proxy.
        tls: The parameters of the TLS connection with this server, with the client's certificate if there is one; None
            without TLS. Behind a proxy, this is the TLS connection with the proxy.
        username: The user name, once the client is authenticated; None before. :func:`basic_auth` sets it, and other
            ``process_request`` functions may set it too.
    """

    __slots__ = (
        "_match",
        "_peer",
        "_request",
        "_state",
        "host",
        "local_address",
        "proxy_address",
        "remote_address",
        "secure",
        "server",
        "tls",
        "username",
    )

    def __init__(
        self,
        transport: StreamAdapter,
        server: Server | None,
        peer: Peer | None = None,
        request: Request | None = None,
    ) -> None:
        peer = peer or identify_peer(transport, Forwarding())
        self.server: Server | None = server
        self.local_address: Any = transport.local_address
        self.tls: TLSInfo | None = transport.get_tls_info()
        self.username: str | None = None
        # The request, once its target was checked.
        self._request: Request | None = request
        # Created when it is asked for: most connections need none.
        self._state: dict[str, Any] | None = None
        # The handler that a router has chosen, and its keyword arguments.
        self._match: tuple[Callable[..., Awaitable[object]], Mapping[str, Any]] | None = None
        self.host: str = ""
        self._peer: Peer
        self.remote_address: Any
        self.proxy_address: Any
        self.secure: bool
        self._set_peer(peer)

    def _set_peer(self, peer: Peer) -> None:
        """Set the attributes that describe the peer."""
        self._peer = peer
        self.remote_address = peer.address
        self.proxy_address = peer.proxy_address
        self.secure = peer.secure

    @property
    def state(self) -> dict[str, Any]:
        """A dict for the application. The library neither reads nor changes it.

        Use it to pass values from ``process_request`` to the other hooks and to the handler, such as the result of
        authentication. Each request has a dict of its own, also on a connection that is kept alive.
        """
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def path(self) -> str:
        """The path of the request, percent-decoded as UTF-8, without the query.

        Malformed encoding raises no error: bytes that are not UTF-8 become U+FFFD, and a ``%`` that is not part of an
        encoded byte is kept. Empty before the request target was checked, as ``host`` is.
        """
        return "" if self._request is None else decode_path(self._request)

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the query: for each name, its values in order. Blank values are kept.

        Names and values are decoded as in a submitted HTML form. The query is parsed on each access, into a new dict.
        """
        return {} if self._request is None else parse_query(self._request)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies of the request, without quotes around their values.

        Text that is not a cookie is left out and does not affect the others. If a name occurs several times, the first
        value counts, which is the one with the most specific path. The header is parsed on each access, into a new
        dict.
        """
        return {} if self._request is None else parse_cookies(self._request)

    def respond(self, status: int, body: str | bytes = "", headers: HeadersLike = ()) -> Response:
        """Return a response that ``process_request`` can return.

        Args:
            status: The status code, from 200 to 599.
            body: The body. A ``str`` is encoded as UTF-8.
            headers: The headers. The default Content-Type is plain text.

        Raises:
            InvalidMessage: If the status code is not valid.
            InvalidHeader: If a header is not valid.
        """
        more = Headers(headers)
        if "Content-Type" not in more:
            more["Content-Type"] = "text/plain; charset=utf-8"
        return Response(status, reason_phrase(status), more, body.encode() if isinstance(body, str) else body)


class ServerWebSocket(WebSocket):
    """A :class:`WebSocket` on the server's side: the argument of a handler of :func:`serve`.

    Attributes:
        opening: Information from the opening handshake, such as the client's user name.
        local_address: The local socket address, as ``getsockname`` returns it; None without a socket.
        remote_address: The address of the client, which a trusted proxy may have named: see :class:`Opening`. None
            without a socket.
    """

    opening: Opening

    def __init__(
        self,
        connection: Connection,
        request: Request,
        response: Response,
        subprotocol: str | None,
        opening: Opening,
    ) -> None:
        super().__init__(connection, request, response, subprotocol)
        self.opening = opening
        self.local_address: Any = opening.local_address
        self.remote_address: Any = opening.remote_address


#: A function that returns a response to a request, or None to continue the handshake.
ProcessRequest: TypeAlias = Callable[[Opening, Request], "Awaitable[Response | None] | Response | None"]

#: A function that returns another response to a request for a WebSocket, or None to keep the given one.
ProcessResponse: TypeAlias = Callable[[Opening, Request, Response], "Awaitable[Response | None] | Response | None"]

#: A function that chooses one of the subprotocols that a client offers, or None.
SelectSubprotocol: TypeAlias = Callable[[Opening, Sequence[str]], str | None]

#: An async function that is called for each connection. When it returns, the connection is closed.
Handler: TypeAlias = Callable[[ServerWebSocket], Awaitable[object]]


class ServerState:
    """The connections and tasks of a server.

    Attributes:
        count: The number of connections, including those in the opening handshake.
        by_address: The number of connections from each IP address.
        rejecting: The number of connections over a limit that are being answered with 503.
        openings: The connections that are not WebSockets yet.
        connections: The open connections.
        leave: Functions that tell the clients of HTTP/2 connections that no more streams are accepted.
        draining: Whether the server has stopped accepting connections and serves those that it has.
        close: The Close frame for all connections, once the server is closing; None before.
        accepting: The cancel scope of the tasks that accept connections.
        listeners_closed: Set when these tasks have ended.
        serving: The cancel scope of all tasks of the server.
        stopped: Set when all tasks have ended.
    """

    __slots__ = (
        "accepting",
        "by_address",
        "close",
        "connections",
        "count",
        "draining",
        "leave",
        "listeners_closed",
        "openings",
        "rejecting",
        "serving",
        "stopped",
    )

    def __init__(self) -> None:
        self.count: int = 0
        self.by_address: Counter[str] = Counter()
        self.rejecting: int = 0
        self.openings: Openings = Openings()
        self.connections: set[ServerWebSocket] = set()
        self.leave: set[Callable[[], None]] = set()
        self.draining: bool = False
        self.close: Close | None = None
        self.accepting: trio.CancelScope = trio.CancelScope()
        self.listeners_closed: trio.Event = trio.Event()
        self.serving: trio.CancelScope = trio.CancelScope()
        self.stopped: trio.Event = trio.Event()

    def begin_draining(self) -> None:
        """Stop accepting, and end the connections on which no request is in progress. Idempotent."""
        self.draining = True
        self.accepting.cancel()
        for leave in list(self.leave):
            leave()
        self.openings.dismiss_idle()

    def begin_closing(self, close: Close) -> None:
        """Stop accepting, cancel the opening handshakes and start closing the connections. Idempotent."""
        if self.close is not None:
            return
        self.close = close
        self.accepting.cancel()
        for leave in list(self.leave):
            leave()
        for task in self.openings:
            task.scope.cancel()
        for ws in self.connections:
            self.begin_closing_connection(ws, close)

    def begin_closing_connection(self, ws: ServerWebSocket, close: Close) -> None:
        """Send the Close frame to one peer. Messages that it had sent before can still be received. Idempotent."""
        connection_of(ws).shut_down(close)


class Server:
    """A running server. ``nursery.start(partial(trio_ws.serve, ...))`` returns it."""

    def __init__(self, addresses: Sequence[Any], close_timeout: float, state: ServerState) -> None:
        self._addresses = list(addresses)
        self._close_timeout = close_timeout
        self._state = state

    @property
    def addresses(self) -> list[Any]:
        """The addresses of the listeners, as ``getsockname`` returns them; None for a listener without a socket."""
        return list(self._addresses)

    @property
    def port(self) -> int:
        """The TCP port that the server listens on; the first one if there are several.

        Raises:
            AttributeError: If the server listens on no TCP port.
        """
        for address in self._addresses:
            if isinstance(address, tuple):
                return int(address[1])
        raise AttributeError("this server listens on no TCP port")

    @property
    def connections(self) -> frozenset[ServerWebSocket]:
        """The open connections, at this moment."""
        return frozenset(self._state.connections)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._addresses} with {len(self._state.connections)} connections>"

    async def aclose(self, code: int = CloseCode.GOING_AWAY, reason: str = "", *, grace: float | None = None) -> None:
        """Shut down gracefully: stop accepting, close all connections, wait for their handlers, and end ``serve``.

        Each peer is sent a Close frame. Handlers can still receive the messages that their peers send before closing,
        up to ``receive_buffer``: then, they get :exc:`ConnectionClosedError` at the end instead of a clean one. Those
        that have not returned after ``grace`` seconds are cancelled. Pending requests get 503.

        If this is cancelled, it stops waiting, but the server still closes. Further calls can only shorten the grace
        period. Do not call this from a handler: it would wait for itself until it is cancelled.

        Args:
            code: The close code.
            reason: The close reason, for the peers' logs. At most 123 bytes of UTF-8.
            grace: Seconds that handlers have to return; less than 0.1 counts as 0.1. None for ``close_timeout`` plus
                half a second.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the code must not be sent, the reason is too long, or ``grace`` is negative.
        """
        check_instance("grace", grace, (int, float, type(None)), "a number or None")
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace must be at least 0 seconds, not {grace!r}")
        self._state.begin_closing(make_close(code, reason))
        # The closing handshakes end after close_timeout; GRACE gives the handlers time to notice and return.
        if grace is None:
            grace = self._close_timeout + GRACE
        # With grace=0, the Close frames still need time: a connection cancelled in a write cannot send its own.
        deadline = trio.current_time() + max(grace, GOODBYE_TIMEOUT)
        serving = self._state.serving
        serving.deadline = min(serving.deadline, deadline)
        await self._state.stopped.wait()

    async def drain(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # a timeout is not an error here
        """Stop accepting connections, leave the open ones alone, and wait until their handlers have finished.

        Opening handshakes in progress are completed. HTTP connections without a request in progress are closed, and the
        others are closed after the response. When the last handler has finished, ``serve`` returns.

        The server never accepts again, also if this times out or is cancelled. Call :meth:`drain` again to continue
        waiting, or :meth:`aclose` to close the connections that are left; this may also be done from another task. Do
        not call this from a handler: it would wait for itself.

        Args:
            timeout: Seconds to wait; None to wait as long as it takes.

        Returns:
            True if all handlers have finished, False if the timeout has expired before that.

        Raises:
            TypeError: If ``timeout`` is not a number.
            ValueError: If ``timeout`` is negative.
        """
        check_instance("timeout", timeout, (int, float, type(None)), "a number or None")
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be at least 0 seconds, not {timeout!r}")
        self._state.begin_draining()
        await self._state.listeners_closed.wait()  # also with timeout=0: another server may want to use the port
        with trio.move_on_after(math.inf if timeout is None else timeout):
            await self._state.stopped.wait()
        return self._state.stopped.is_set()
