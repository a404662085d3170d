"""Serving connections: ``serve``, ``serve_over`` and the ``Server``.

A connection's life is one task: TLS and the opening handshake within ``open_timeout``, the handler with the connection
around it, the end. Nothing that a peer or a handler does comes out of that task but cancellation; it is logged instead,
to the logger ``trio_ws.server``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import ssl as ssl_module
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import trio

from ..datastructures import HeadersLike
from ..exceptions import ConnectionClosed
from ..frames import Close, CloseCode
from ..http11 import Request, Response
from ..settings import Options, Settings
from ..stream import StreamBroken, Transport
from ..tasks import GOODBYE_TIMEOUT, GRACE
from ..websocket import Session, WebSocket, make_close
from .forwarded import Forwarding, InvalidProxyHeader, ProxyHeader, TrustedProxies, peer_of, read_proxy_header
from .handshake import (
    RETRY_AFTER,
    SERVER,
    Answering,
    Opening,
    ProcessRequest,
    ProcessResponse,
    SelectSubprotocol,
    logger,
    open_connection,
)
from .limits import Limits
from .listeners import open_tcp_listeners, open_unix_listener
from .origins import ANY, SAME_HOST, Origins
from .routing import Router

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Handler", "Server", "serve", "serve_over"]

#: Seconds to wait when the system cannot accept one more connection, and what it says then.
ACCEPT_DELAY = 0.1
_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: How many requests above a limit are answered at the same time. More than that are closed at once.
MAX_TURNING_AWAY = 100

_LIMITS = Limits()

#: What is called for each connection. When it returns, the connection is closed.
Handler: TypeAlias = Callable[[WebSocket], Awaitable[object]]

_Listeners: TypeAlias = "Sequence[trio.abc.Listener[trio.abc.Stream]]"
_Path: TypeAlias = "str | os.PathLike[str]"


async def serve(
    handler: Handler,
    port: int | None = None,
    *,
    host: str | None = None,
    path: _Path | None = None,
    listeners: _Listeners | None = None,
    ssl: ssl_module.SSLContext | None = None,
    backlog: int | None = None,
    reuse_port: bool = False,
    limits: Limits = _LIMITS,
    process_request: ProcessRequest | Sequence[ProcessRequest] | None = None,
    process_response: ProcessResponse | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    origins: Origins = SAME_HOST,
    hosts: Sequence[str] | None = None,
    headers: HeadersLike = (),
    server_header: str | None = SERVER,
    trusted_proxies: TrustedProxies = (),
    proxy_protocol: bool = False,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[Options],
) -> None:
    """Serve WebSocket connections, until cancelled or until :meth:`Server.aclose` has done its work.

    ::

        await trio_ws.serve(echo, 8765, host="localhost")

        server = await nursery.start(partial(trio_ws.serve, echo, 0))   # to go on when it listens

    Each connection has a task of its own, which calls the handler. When the handler returns, its connection is closed
    with 1000. When it raises, the exception is logged and the connection closed with 1011; the others live on. When
    ``serve`` is cancelled, each connection is sent a Close frame with 1001 if that takes no waiting, and cut.

    Args:
        handler: An async function that takes a :class:`WebSocket`; or a :func:`route`, which finds one by the path.
        port: The TCP port to listen on; 0 for any that is free.
        host: The name or address to listen on; None for all of this machine.
        path: A Unix socket to listen on instead. What a server has left there that was killed is replaced.
        listeners: Trio listeners to accept from instead; they are closed at the end.
        ssl: How to do TLS; None for plain connections. A certificate that is loaded into the context later
            (``load_cert_chain``) is used for the connections that come then.
        backlog: How many connections the operating system holds until they are accepted; None for a good default.
        reuse_port: Whether other processes may listen on the same port, among which the system then divides the
            connections.
        limits: How much the server takes on.
        process_request: Called with an :class:`Opening` and the :class:`Request`, for each request, be it for a
            WebSocket or not. It returns a :class:`Response` to answer with, for which :meth:`Opening.respond` is of
            use, or None to let the handshake go on. It may be async. Of several functions in a sequence, the first
            that answers counts.
        process_response: Called with the same and the :class:`Response` to each request for a WebSocket, be it 101 or
            a refusal. It returns another one, or None to leave it as it is. It may be async.
        select_subprotocol: Called with an :class:`Opening` and the subprotocols that the client speaks, in its order of
            preference; returns one of these, or None. Otherwise it is the first of ``subprotocols`` that the client
            speaks.
        origins: Which pages may connect, by the Origin header that browsers send (RFC 6455, section 10.2): origins such
            as ``https://example.org``, regular expressions that match the whole origin, and None for clients that send
            none; or :data:`ANY`. The default, :data:`SAME_HOST`, is pages of the host that the request is for, and
            clients that send none. Others get 403.
        hosts: The hosts that the server is for, with or without a port; requests for others get 421. None for any.
        headers: More headers for each response.
        server_header: The Server header; None for none.
        trusted_proxies: The proxies in front of the server: IP addresses, networks such as ``"10.0.0.0/8"``, and
            ``"unix"`` for all that connect through a Unix socket. What they say about their clients in X-Forwarded-For,
            X-Forwarded-Proto and Forwarded (RFC 7239) counts; what others say does not.
        proxy_protocol: Whether every connection begins with a header of the PROXY protocol, version 1 or 2, in front
            of everything else. Connections without one are closed; if there are ``trusted_proxies``, so are those from
            anywhere else.
        task_status: Trio's; ``started`` is called with the :class:`Server` as soon as it listens.
        **options: See :class:`Options`.

    Raises:
        OSError: if it cannot listen there.
        TypeError: if not exactly one of ``port``, ``path`` and ``listeners`` is given, or an option is of the wrong
            type or does not exist.
        ValueError: if an option is out of range, or ``ssl`` is not a context for servers.
    """
    if sum(each is not None for each in (port, path, listeners)) != 1:
        raise TypeError("exactly one of port, path and listeners says where to listen")
    if host is not None and port is None:
        raise TypeError("host goes with port")
    if reuse_port and port is None:
        raise TypeError("reuse_port goes with port")
    if not isinstance(limits, Limits):
        raise TypeError(f"limits are Limits, not {limits!r}")
    if listeners is not None and not listeners:
        raise ValueError("there is nothing to listen on: listeners is empty")
    settings = Settings(**options)
    answering = Answering(
        process_request=process_request,
        process_response=process_response,
        select_subprotocol=select_subprotocol,
        origins=origins,
        hosts=hosts,
        headers=headers,
        server_header=server_header,
        forwarding=Forwarding(trusted_proxies=trusted_proxies, proxy_protocol=proxy_protocol),
    )
    ours = None
    if ssl is not None:
        _check_tls(ssl)
    if port is not None:
        listeners = await open_tcp_listeners(port, host=host, backlog=backlog, reuse_port=reuse_port)
    elif path is not None:
        listener, ours = await open_unix_listener(path, backlog)
        listeners = [listener]
    assert listeners is not None
    server = Server(listeners, handler, settings, ssl, answering, limits)
    try:
        await server._run(task_status)
    finally:
        if path is not None and ours is not None:
            # Somebody may have removed it, or have put another socket in its place to take over from us.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path), ours):
                    os.unlink(path)


async def serve_over(
    stream: trio.abc.Stream,
    handler: Handler,
    *,
    process_request: ProcessRequest | Sequence[ProcessRequest] | None = None,
    process_response: ProcessResponse | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    origins: Origins = SAME_HOST,
    hosts: Sequence[str] | None = None,
    headers: HeadersLike = (),
    server_header: str | None = SERVER,
    trusted_proxies: TrustedProxies = (),
    proxy_protocol: bool = False,
    **options: Unpack[Options],
) -> None:
    """Serve one WebSocket connection over any Trio stream; return when it is over.

    What :func:`serve` says about handlers applies. The stream is closed at the end.

    Args:
        stream: The stream. From now on it belongs to the connection.
        handler: An async function that takes a :class:`WebSocket`; or a :func:`route`, which finds one by the path.
        process_request: As for :func:`serve`, like all that follows.
        process_response: What may change the answer.
        select_subprotocol: What chooses a subprotocol.
        origins: Which pages may connect.
        hosts: The hosts that the server is for.
        headers: More headers for each response.
        server_header: The Server header; None for none.
        trusted_proxies: The proxies in front of the server.
        proxy_protocol: Whether the connection begins with a header of the PROXY protocol.
        **options: See :class:`Options`.

    Raises:
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range.
    """
    answering = Answering(
        process_request=process_request,
        process_response=process_response,
        select_subprotocol=select_subprotocol,
        origins=origins,
        hosts=hosts,
        headers=headers,
        server_header=server_header,
        forwarding=Forwarding(trusted_proxies=trusted_proxies, proxy_protocol=proxy_protocol),
    )
    await Server([], handler, Settings(**options), None, answering)._serve_connection(stream)


class Server:
    """A server that listens. ``nursery.start(partial(trio_ws.serve, ...))`` returns it."""

    def __init__(
        self,
        listeners: _Listeners,
        handler: Handler,
        settings: Settings,
        ssl: ssl_module.SSLContext | None,
        answering: Answering,
        limits: Limits = _LIMITS,
    ) -> None:
        if isinstance(handler, Router):
            # It has the last word: who may not connect is not told where there is something.
            process_request = (*answering.process_request, handler.process_request)
            answering = attrs.evolve(answering, process_request=process_request)
        self._listeners = listeners
        self._handler = handler
        self._settings = settings
        self._answering = answering
        self._ssl = ssl
        self._limits = limits
        # How requests above a limit are answered, and how many are at the moment.
        self._busy = attrs.evolve(answering, process_request=_say_busy, process_response=None, origins=ANY, hosts=None)
        self._turning_away = 0
        # All connections, and how many of them come from each address.
        self._count = 0
        self._by_address: Counter[str] = Counter()
        # The connections in their opening handshakes, and those that are open.
        self._opening: set[trio.CancelScope] = set()
        self._open: set[WebSocket] = set()
        # What they are closed with, once that has begun.
        self._close: Close | None = None
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._stopped = trio.Event()
        self._addresses = [_address(listener) for listener in listeners]

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
    def connections(self) -> frozenset[WebSocket]:
        """The connections that are open now, whose handlers run."""
        return frozenset(self._open)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._addresses} with {len(self._open)} connections>"

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
        close = make_close(code, reason)
        if self._close is None:
            self._close = close
            self._accepting.cancel()
            for scope in self._opening:
                scope.cancel()
            for ws in self._open:
                self._begin_closing(ws, close)
        # The connections have their deadlines; the extra time is for handlers to see how it ended, and return.
        if grace is None:
            grace = self._settings.close_timeout + GRACE
        # Close frames take a moment, too: what is cancelled in the middle of writing cannot write anything more.
        deadline = trio.current_time() + max(grace, GOODBYE_TIMEOUT)
        self._serving.deadline = min(self._serving.deadline, deadline)
        await self._stopped.wait()

    def _begin_closing(self, ws: WebSocket, close: Close) -> None:
        ws._connection.begin_closing(close)
        ws._connection.inbox.shed()

    async def _run(self, task_status: trio.TaskStatus[Server]) -> None:
        try:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    with self._accepting:
                        async with trio.open_nursery() as accepting:
                            for listener in self._listeners:
                                accepting.start_soon(self._accept, listener, nursery)
                            task_status.started(self)
        finally:
            self._stopped.set()

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream], nursery: trio.Nursery) -> None:
        """Accept connections until cancelled, and close the listener.

        This is :func:`trio.serve_listeners`, less what it does for handlers that leave their streams open: it closes
        every stream once more, in a cancelled scope, which takes as long as the whole opening handshake.
        """
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    if exc.errno not in _OVERLOADED:
                        raise
                    logger.error("cannot accept a connection, trying again in %g seconds: %s", ACCEPT_DELAY, exc)
                    await trio.sleep(ACCEPT_DELAY)
                else:
                    nursery.start_soon(self._serve_connection, stream)

    async def _serve_connection(self, stream: trio.abc.Stream) -> None:
        """Serve a connection from beginning to end. Raises nothing but cancellation, and what is no ``Exception``."""
        # What is known here stays in memory as long as the connection. So this is one function, which knows little.
        seat = _Seat(self._by_address, self._limits.per_address)
        reason = self._find_limit() or self._find_seat(stream, seat)
        if reason is not None:
            await self._turn_away(stream, reason)
            return
        self._count += 1
        try:
            ws = await self._open_in_time(stream, seat)
            if ws is None:
                return
            ws._connection.watch(self._limits.messages_per_second, self._limits.idle, self._limits.lifetime)
            lost = False
            try:
                async with Session(ws):
                    self._open.add(ws)
                    if self._close is not None:  # too late to be cut, too early to be told with the others
                        self._begin_closing(ws, self._close)
                    try:
                        await self._handler(ws)
                    finally:
                        # Before the session closes it: was it lost already, when the handler ended?
                        lost = ws._connection.settled.is_set()
                        self._open.discard(ws)
            except Exception as exc:  # the handler is not ours: whatever it raises must not end the server
                _log_failure(ws, exc, lost)
            except BaseExceptionGroup as group:
                failures, rest = group.split(Exception)
                if failures is not None:
                    _log_failure(ws, failures, lost)
                if rest is not None:
                    raise rest from None
        finally:
            self._count -= 1
            seat.leave()

    def _find_seat(self, stream: trio.abc.Stream, seat: _Seat) -> str | None:
        """Take a place for whoever has connected. Return why there is none; None if there is one, or not yet."""
        peer = peer_of(Transport(stream), self._answering.forwarding)
        # Behind a proxy, whose connection it is shows later.
        behind = peer.forwards or self._answering.forwarding.proxy_protocol
        return None if behind else seat.take(peer.address)

    def _find_limit(self) -> str | None:
        """Return the limit that one more connection would pass, wherever it comes from; None if there is none."""
        limits = self._limits
        if limits.connections is not None and self._count >= limits.connections:
            return f"there are {self._count} connections"
        if limits.openings is not None and len(self._opening) >= limits.openings:
            return f"there are {len(self._opening)} opening handshakes in progress"
        return None

    async def _turn_away(self, stream: trio.abc.Stream, reason: str, header: ProxyHeader | None = None) -> None:
        """Answer a request with 503, if there is one at once and not too many wait for that."""
        forwarding = self._answering.forwarding
        logger.info(
            "connection from %s turned away: %s", peer_of(Transport(stream), forwarding, header).address, reason
        )
        try:
            # TLS would be the most that there is to do for the connection.
            if self._ssl is None and self._turning_away < MAX_TURNING_AWAY:
                self._turning_away += 1
                try:
                    with trio.move_on_after(GRACE):
                        if forwarding.proxy_protocol and header is None:
                            header = await self._read_header(stream)
                            if header is None:
                                return
                        await open_connection(stream, self._settings, self._busy, header=header)
                finally:
                    self._turning_away -= 1
        finally:
            await Transport(stream).aclose(0)

    async def _read_header(self, stream: trio.abc.Stream) -> ProxyHeader | None:
        """Return what a proxy says in front of everything. Return None if nothing can come of the connection."""
        address = Transport(stream).remote_address
        forwarding = self._answering.forwarding
        try:
            if forwarding.trusted_proxies and not forwarding.trusts(address):
                raise InvalidProxyHeader("it does not come from a trusted proxy")
            return await read_proxy_header(stream)
        except (InvalidProxyHeader, StreamBroken) as exc:
            logger.info("connection from %s closed: %s", address, exc)
            return None

    async def _open_in_time(self, stream: trio.abc.Stream, seat: _Seat) -> WebSocket | None:
        """Do the opening handshake. Return None, with the stream closed, if nothing comes of it."""
        ws = header = None
        timeout = self._settings.open_timeout
        seconds = float("inf") if timeout is None else timeout
        try:
            with trio.move_on_after(seconds) as scope:

                def answered() -> None:
                    scope.deadline = trio.current_time() + seconds  # for the next request

                def interrupted() -> int:
                    return 408 if trio.current_time() >= scope.deadline and self._close is None else 503

                self._opening.add(scope)
                try:
                    if self._answering.forwarding.proxy_protocol:
                        header = await self._read_header(stream)
                        if header is None or not await self._seat(stream, header, seat):
                            return None
                    if self._ssl is not None:
                        # As on the client's side: frames and the closing handshake tell whether all has come.
                        stream = trio.SSLStream(stream, self._ssl, server_side=True, https_compatible=True)
                    ws = await open_connection(
                        stream,
                        self._settings,
                        self._answering,
                        server=self if self._listeners else None,
                        header=header,
                        admit=seat.admit,
                        answered=answered,
                        interrupted=interrupted,
                    )
                finally:
                    self._opening.discard(scope)
            if scope.cancelled_caught and self._close is None:
                address = peer_of(Transport(stream), self._answering.forwarding, header).address
                logger.info("opening handshake with %s not complete after %g seconds", address, timeout)
        finally:
            if ws is None:
                await Transport(stream).aclose(0)
        return ws

    async def _seat(self, stream: trio.abc.Stream, header: ProxyHeader, seat: _Seat) -> bool:
        """Count a connection for the client that a proxy has named. Return whether there is room for it."""
        peer = peer_of(Transport(stream), self._answering.forwarding, header)
        reason = None if peer.forwards else seat.take(peer.address)
        if reason is not None:
            await self._turn_away(stream, reason, header)
        return reason is None


class _Seat:
    """What a connection takes of the limit for each address: a place at the address of its client.

    Args:
        by_address: How many connections there are from each address.
        limit: How many there may be; None for any number.
    """

    __slots__ = ("_by_address", "_host", "_limit")

    def __init__(self, by_address: Counter[str], limit: int | None) -> None:
        self._by_address = by_address
        self._limit = limit
        self._host = ""

    def take(self, address: Any) -> str | None:
        """Take a place at an address, instead of the one before. Return why there is none; None if there is one.

        What has no IP address, such as a Unix socket, is not counted.
        """
        host = str(address[0]) if isinstance(address, tuple) else ""
        if host == self._host:
            return None
        self.leave()
        if not host:
            return None
        if self._limit is not None and self._by_address[host] >= self._limit:
            return f"there are {self._by_address[host]} connections from its address"
        self._by_address[host] += 1
        self._host = host
        return None

    def admit(self, opening: Opening) -> Response | None:
        """Take a place for whom a request is from. Return the answer if there is none."""
        reason = self.take(opening.remote_address)
        if reason is None:
            return None
        logger.info("connection from %s turned away: %s", opening.remote_address, reason)
        return _say_busy(opening)

    def leave(self) -> None:
        """Leave the place, if there is one."""
        if self._host:
            self._by_address[self._host] -= 1
            if not self._by_address[self._host]:
                del self._by_address[self._host]
            self._host = ""


def _say_busy(opening: Opening, _request: Request | None = None) -> Response:
    return opening.respond(503, "try again later\n", {"Retry-After": str(RETRY_AFTER), "Connection": "close"})


def _log_failure(ws: WebSocket, exc: BaseException, lost: bool) -> None:
    if lost and _says_closed(exc):
        # That peers go away is no mistake of the handler.
        logger.info("connection from %s: %s", ws.remote_address, exc)
    else:
        logger.error("connection from %s: the handler failed", ws.remote_address, exc_info=exc)


def _says_closed(exc: BaseException) -> bool:
    """Whether all it says is that a connection is closed. Out of a nursery that comes in a group."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_says_closed(each) for each in exc.exceptions)
    return isinstance(exc, ConnectionClosed)


def _check_tls(context: ssl_module.SSLContext) -> None:
    """Raise now what would otherwise be raised when the first client comes."""
    try:
        context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_side=True)
    except ssl_module.SSLError as exc:
        raise ValueError("ssl is not a context for servers") from exc


def _address(listener: trio.abc.Listener[Any]) -> Any:
    while isinstance(listener, trio.SSLListener):
        listener = listener.transport_listener
    return listener.socket.getsockname() if isinstance(listener, trio.SocketListener) else None
