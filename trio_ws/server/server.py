"""What handlers and hooks get to see of a server: ``Opening``, ``ServerWebSocket`` and ``Server``.

The machinery that accepts connections and runs them is in :mod:`trio_ws.server.accept`. The two share a
:class:`ServerState`, so that :meth:`Server.aclose` can close what the machinery has opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import trio

from ..connection.core import GOODBYE_TIMEOUT, GRACE, Connection
from ..connection.stream import StreamAdapter
from ..connection.websocket import WebSocket, connection_of, make_close
from ..datastructures import Headers, HeadersLike
from ..frames import Close, CloseCode
from ..http11 import Request, Response
from ..http11.messages import reason_phrase
from .forwarded.peer import Peer, peer_of
from .forwarded.trust import Forwarding

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
    """A connection whose opening handshake is going on: what ``process_request`` and its like are told about it.

    Later it is the :attr:`ServerWebSocket.opening` of the connection.

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

    def __init__(self, transport: StreamAdapter, server: Server | None, peer: Peer | None = None) -> None:
        peer = peer or peer_of(transport, Forwarding())
        self.server: Server | None = server
        self.local_address: Any = transport.local_address
        self.username: str | None = None
        # What a router has found: the handler, and its keyword arguments.
        self._match: tuple[Callable[..., Awaitable[object]], Mapping[str, Any]] | None = None
        self.remote_address: Any
        self.proxy_address: Any
        self.secure: bool
        self._set_peer(peer)

    def _set_peer(self, peer: Peer) -> None:
        """Set the attributes that tell of the peer."""
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


class ServerWebSocket(WebSocket):
    """A :class:`WebSocket` on the server's side: the argument of a handler of :func:`serve`.

    Attributes:
        opening: What was known of the connection in the opening handshake, such as the client's user name.
        local_address: The address of this end, in the form that the socket gives it; None without a socket.
        remote_address: The address of the client; None without a socket. If a trusted proxy says who its client is, it
            is the address that the proxy names: see :class:`Opening`.
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


#: May answer a request: returns a response, or None to let the handshake go on.
ProcessRequest: TypeAlias = Callable[[Opening, Request], "Awaitable[Response | None] | Response | None"]

#: May change the answer to an opening handshake: returns another one, or None to leave it as it is.
ProcessResponse: TypeAlias = Callable[[Opening, Request, Response], "Awaitable[Response | None] | Response | None"]

#: Chooses one of the subprotocols that a client speaks, or none.
SelectSubprotocol: TypeAlias = Callable[[Opening, Sequence[str]], str | None]

#: What is called for each connection. When it returns, the connection is closed.
Handler: TypeAlias = Callable[[ServerWebSocket], Awaitable[object]]


class ServerState:
    """What is going on in a server.

    Attributes:
        count: How many connections there are, opening handshakes included.
        by_address: How many of them come from each IP address.
        turning_away: How many requests above a limit are being answered.
        openings: The cancel scopes of the opening handshakes in progress.
        connections: The connections that are open.
        close: The close frame for all connections, once the server is closing; None before that.
        accepting: The cancel scope of the tasks that accept.
        serving: The cancel scope of all tasks of the server.
        stopped: Set when all of them have ended.
    """

    __slots__ = (
        "accepting",
        "by_address",
        "close",
        "connections",
        "count",
        "openings",
        "serving",
        "stopped",
        "turning_away",
    )

    def __init__(self) -> None:
        self.count: int = 0
        self.by_address: Counter[str] = Counter()
        self.turning_away: int = 0
        self.openings: set[trio.CancelScope] = set()
        self.connections: set[ServerWebSocket] = set()
        self.close: Close | None = None
        self.accepting: trio.CancelScope = trio.CancelScope()
        self.serving: trio.CancelScope = trio.CancelScope()
        self.stopped: trio.Event = trio.Event()

    def begin_closing(self, close: Close) -> None:
        """Stop accepting, cancel the opening handshakes and begin to close the connections. Idempotent."""
        if self.close is not None:
            return
        self.close = close
        self.accepting.cancel()
        for scope in self.openings:
            scope.cancel()
        for ws in self.connections:
            self.begin_closing_one(ws, close)

    def begin_closing_one(self, ws: ServerWebSocket, close: Close) -> None:
        """Send the close frame; what the peer had sent before can still be received."""
        connection_of(ws).shut_down(close)


class Server:
    """A server that listens. ``nursery.start(partial(trio_ws.serve, ...))`` returns it."""

    def __init__(self, addresses: Sequence[Any], close_timeout: float, state: ServerState) -> None:
        self._addresses = list(addresses)
        self._close_timeout = close_timeout
        self._state = state

    @property
    def addresses(self) -> list[Any]:
        """The addresses that it listens on, in the form that the socket gives them; None for a listener without one."""
        return list(self._addresses)

    @property
    def port(self) -> int:
        """The TCP port that it listens on, the first one if there are several.

        Raises:
            AttributeError: if it listens on none.
        """
        for address in self._addresses:
            if isinstance(address, tuple):
                return int(address[1])
        raise AttributeError("this server listens on no TCP port")

    @property
    def connections(self) -> frozenset[ServerWebSocket]:
        """The connections that are open now, whose handlers run."""
        return frozenset(self._state.connections)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._addresses} with {len(self._state.connections)} connections>"

    async def aclose(self, code: int = CloseCode.GOING_AWAY, reason: str = "", *, grace: float | None = None) -> None:
        """Stop accepting, close all connections, wait for their handlers, and let ``serve`` return.

        Handlers can receive what their peers had sent before they close. Those that have not returned after ``grace``
        seconds are cancelled. Requests that have no answer yet get 503.

        When cancelled, it does not wait for that; the server goes on closing. Called again, it can only shorten the
        time. A handler that calls this waits for itself until it is cancelled: let another task do it.

        Args:
            code: The close code.
            reason: Text for the peers' logs, at most 123 bytes of UTF-8.
            grace: Seconds that handlers have to return, at least a tenth of one. None: as long as the closing
                handshakes may take, which is ``close_timeout``, and half a second.

        Raises:
            ValueError: if the code may not be sent, the reason is too long, or ``grace`` is negative.
        """
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace is a number of seconds, not {grace!r}")
        self._state.begin_closing(make_close(code, reason))
        # The connections have their deadlines; the extra time is for handlers to see how it ended, and return.
        if grace is None:
            grace = self._close_timeout + GRACE
        # Close frames take a moment, too: what is cancelled in the middle of writing cannot write anything more.
        deadline = trio.current_time() + max(grace, GOODBYE_TIMEOUT)
        serving = self._state.serving
        serving.deadline = min(serving.deadline, deadline)
        await self._state.stopped.wait()
