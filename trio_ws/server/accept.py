"""The machinery of a server: accept connections, and run each from its first byte to its end.

A connection's life is one task: TLS and the opening handshake within ``open_timeout``, the handler with the connection
around it, the end. Nothing that a peer or a handler does comes out of that task but cancellation; it is logged instead,
to the logger ``trio_ws.server``.
"""

from __future__ import annotations

import errno
import ssl as ssl_module
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import trio

from ..connection.core import GRACE
from ..connection.session import Session
from ..connection.stream import StreamAdapter, StreamBroken
from ..connection.websocket import connection_of
from ..exceptions import ConnectionClosed
from ..http11 import Request, Response
from ..settings import Settings
from .forwarded.peer import peer_of
from .forwarded.proxy_protocol import InvalidProxyHeader, ProxyHeader, read_proxy_header
from .handshake import RETRY_AFTER, logger, open_connection
from .limits import AddressSlot, Limits
from .origins import ANY
from .policy import HandshakePolicy
from .routing import Router
from .server import Handler, Opening, Server, ServerState, ServerWebSocket

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Acceptor"]

#: Seconds to wait when the system cannot accept one more connection, and what it says then.
ACCEPT_DELAY = 0.1
_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: How many requests above a limit are answered at the same time. More than that are closed at once.
MAX_TURNING_AWAY = 100


class Acceptor:
    """Accepts connections, and runs each in a task of its own.

    Args:
        listeners: The listeners to accept from; none if each stream is given to :meth:`serve_connection`.
        handler: The handler of the application.
        settings: The options of the connections.
        ssl: The TLS context; None for plain connections.
        policy: The handshake options.
        limits: The limits.
    """

    def __init__(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        handler: Handler,
        settings: Settings,
        ssl: ssl_module.SSLContext | None,
        policy: HandshakePolicy,
        limits: Limits,
    ) -> None:
        if isinstance(handler, Router):
            # It has the last word: who may not connect is not told where there is something.
            policy = attrs.evolve(policy, process_request=(*policy.process_request, handler.process_request))
        self._listeners = listeners
        self._handler = handler
        self._settings = settings
        self._policy = policy
        self._ssl = ssl
        self._limits = limits
        # How requests above a limit are answered.
        self._busy = attrs.evolve(policy, process_request=_say_busy, process_response=None, origins=ANY, hosts=None)
        self._state = ServerState()
        self.server: Server = Server(
            [_address(listener) for listener in listeners], settings.close_timeout, self._state
        )

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        """Accept connections and serve them, until cancelled or until :meth:`Server.aclose` has done its work."""
        try:
            with self._state.serving:
                async with trio.open_nursery() as nursery:
                    with self._state.accepting:
                        async with trio.open_nursery() as accepting:
                            for listener in self._listeners:
                                accepting.start_soon(self._accept, listener, nursery)
                            task_status.started(self.server)
        finally:
            self._state.stopped.set()

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
                    nursery.start_soon(self.serve_connection, stream)

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Serve a connection from beginning to end. Only ``BaseException``s that are no ``Exception`` propagate."""
        # What is known here stays in memory as long as the connection. So this is one function, which knows little.
        adapter = StreamAdapter(stream)
        slot = AddressSlot(self._state.by_address, self._limits.per_address)
        reason = self._find_limit() or self._take_slot(adapter, slot)
        if reason is not None:
            await self._turn_away(adapter, reason)
            return
        self._state.count += 1
        try:
            ws = await self._open_in_time(adapter, slot)
            if ws is None:
                return
            lost = False
            try:
                async with Session(ws):
                    if self._state.close is not None:  # too late to be cut, too early to be told with the others
                        self._state.begin_closing_one(ws, self._state.close)
                    try:
                        await self._handler(ws)
                    finally:
                        # Before the session closes it: was it lost already, when the handler ended?
                        lost = connection_of(ws).state.is_settled
                        self._state.connections.discard(ws)
            except Exception as exc:  # the handler is not ours: whatever it raises must not end the server
                _log_failure(ws, exc, lost)
            except BaseExceptionGroup as group:
                failures, rest = group.split(Exception)
                if failures is not None:
                    _log_failure(ws, failures, lost)
                if rest is not None:
                    raise rest from None
        finally:
            self._state.count -= 1
            slot.leave()

    def _take_slot(self, stream: StreamAdapter, slot: AddressSlot) -> str | None:
        """Take a slot for a client. Return why there is none; None if there is one, or the client is not known yet."""
        peer = peer_of(stream, self._policy.forwarding)
        # Behind a proxy, the client is known later.
        behind = peer.forwards or self._policy.forwarding.proxy_protocol
        return None if behind else slot.take(peer.address)

    def _find_limit(self) -> str | None:
        """Return the limit that one more connection would pass, wherever it comes from; None if there is none."""
        limits = self._limits
        if limits.connections is not None and self._state.count >= limits.connections:
            return f"there are {self._state.count} connections"
        if limits.openings is not None and len(self._state.openings) >= limits.openings:
            return f"there are {len(self._state.openings)} opening handshakes in progress"
        return None

    async def _turn_away(self, stream: StreamAdapter, reason: str, header: ProxyHeader | None = None) -> None:
        """Answer a request with 503, if there is one at once and not too many wait for that."""
        forwarding = self._policy.forwarding
        logger.info("connection from %s turned away: %s", peer_of(stream, forwarding, header).address, reason)
        try:
            # TLS would be the most that there is to do for the connection.
            if self._ssl is None and self._state.turning_away < MAX_TURNING_AWAY:
                self._state.turning_away += 1
                try:
                    with trio.move_on_after(GRACE):
                        if forwarding.proxy_protocol and header is None:
                            header = await self._read_header(stream)
                            if header is None:
                                return
                        await open_connection(stream, self._settings, self._busy, header=header)
                finally:
                    self._state.turning_away -= 1
        finally:
            await stream.aclose(0)

    async def _read_header(self, stream: StreamAdapter) -> ProxyHeader | None:
        """Return what a proxy says in front of everything. Return None if nothing can come of the connection."""
        address = stream.remote_address
        forwarding = self._policy.forwarding
        try:
            if forwarding.trusted_proxies and not forwarding.trusts(address):
                raise InvalidProxyHeader("it does not come from a trusted proxy")
            return await read_proxy_header(stream)
        except (InvalidProxyHeader, StreamBroken) as exc:
            logger.info("connection from %s closed: %s", address, exc)
            return None

    async def _open_in_time(self, stream: StreamAdapter, slot: AddressSlot) -> ServerWebSocket | None:
        """Do the opening handshake. Return None, with the stream closed, if nothing comes of it."""
        ws = made = header = None
        timeout = self._settings.open_timeout
        seconds = float("inf") if timeout is None else timeout
        try:
            with trio.move_on_after(seconds) as scope:

                def answered() -> None:
                    scope.deadline = trio.current_time() + seconds  # for the next request

                def interrupted() -> int:
                    return 408 if trio.current_time() >= scope.deadline and self._state.close is None else 503

                def opened(ws: ServerWebSocket) -> None:
                    nonlocal made
                    made = ws
                    self._state.connections.add(ws)

                self._state.openings.add(scope)
                try:
                    if self._policy.forwarding.proxy_protocol:
                        header = await self._read_header(stream)
                        if header is None or not await self._take_slot_behind_proxy(stream, header, slot):
                            return None
                    if self._ssl is not None:
                        # As on the client's side: frames and the closing handshake tell whether all has come.
                        tls = trio.SSLStream(stream.stream, self._ssl, server_side=True, https_compatible=True)
                        stream = StreamAdapter(tls)
                    ws = await open_connection(
                        stream,
                        self._settings,
                        self._policy,
                        server=self.server if self._listeners else None,
                        header=header,
                        admit=partial(self._admit, slot),
                        answered=answered,
                        interrupted=interrupted,
                        opened=opened,
                        limits=self._limits,
                    )
                finally:
                    self._state.openings.discard(scope)
            if scope.cancelled_caught and self._state.close is None:
                address = peer_of(stream, self._policy.forwarding, header).address
                logger.info("opening handshake with %s not complete after %g seconds", address, timeout)
        finally:
            if ws is None:
                if made is not None:
                    self._state.connections.discard(made)
                await stream.aclose(0)
        return ws

    async def _take_slot_behind_proxy(self, stream: StreamAdapter, header: ProxyHeader, slot: AddressSlot) -> bool:
        """Count a connection for the client that a proxy has named. Return whether there is room for it."""
        peer = peer_of(stream, self._policy.forwarding, header)
        reason = None if peer.forwards else slot.take(peer.address)
        if reason is not None:
            await self._turn_away(stream, reason, header)
        return reason is None

    def _admit(self, slot: AddressSlot, opening: Opening) -> Response | None:
        """Take a slot for the client that has sent a request. Return the answer if there is none."""
        reason = slot.take(opening.remote_address)
        if reason is None:
            return None
        logger.info("connection from %s turned away: %s", opening.remote_address, reason)
        return _say_busy(opening)


def _say_busy(opening: Opening, _request: Request | None = None) -> Response:
    return opening.respond(503, "try again later\n", {"Retry-After": str(RETRY_AFTER), "Connection": "close"})


def _log_failure(ws: ServerWebSocket, exc: BaseException, lost: bool) -> None:
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


def _address(listener: trio.abc.Listener[Any]) -> Any:
    while isinstance(listener, trio.SSLListener):
        listener = listener.transport_listener
    return listener.socket.getsockname() if isinstance(listener, trio.SocketListener) else None
