"""Accepting connections, and the life of each from its first byte to its end.

Each connection is one task: TLS and the opening handshake within ``open_timeout``, then the handler, inside a
:class:`~trio_ws.connection.session.Session`. Errors of a peer or of a handler end that connection only; they are logged
to ``trio_ws.server``.
"""

from __future__ import annotations

import math
import ssl as ssl_module
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import trio

from ..connection.core import GRACE
from ..connection.session import Session
from ..connection.stream import StreamAdapter, StreamBroken, StreamSilent
from ..connection.tls import start_tls
from ..connection.websocket import connection_of
from ..exceptions import ConnectionClosed
from ..http2.negotiation import HTTP2Option, detect_http2
from ..http11 import Request, Response
from ..misuse.usage import call_async
from ..settings import Settings
from .forwarded.peer import Peer, identify_peer, show_address
from .forwarded.proxy_protocol import InvalidProxyHeader, ProxyHeader, read_proxy_header
from .handshake import open_connection
from .limits import AddressSlot, Limits
from .listeners import accept_from
from .openings import OpeningTask, Stage
from .origins import ANY
from .policy import HandshakePolicy
from .responder import RETRY_AFTER, logger, lost_error, report_opening_failure
from .routing import Router
from .server import Handler, Opening, Server, ServerState, ServerWebSocket

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Acceptor", "is_connection_closed"]

#: Connections over a limit that may be answered with 503 at the same time. Any more are closed without an answer.
MAX_REJECTIONS = 100


@attrs.define(eq=False)
class _Accepted:
    """A connection that was accepted, and what came before its first request.

    Attributes:
        stream: The stream; once the TLS handshake is done, the one inside of TLS.
        header: The PROXY header that the connection began with, if any.
        received: Bytes that were read ahead: the beginning of the first request.
        is_http2: Whether the client speaks HTTP/2.
    """

    stream: StreamAdapter
    header: ProxyHeader | None = None
    received: bytes = b""
    is_http2: bool = False


class Acceptor:
    """Accepts connections, and serves each in a task of its own.

    Args:
        listeners: The listeners to accept from. Empty for :func:`serve_over`, which calls :meth:`serve_connection`.
        handler: The handler of the application.
        settings: The connection options.
        ssl: The TLS context; None for plain connections.
        policy: The handshake options.
        limits: The limits of the server.
        http2: Whether, and how, HTTP/2 is served besides HTTP/1.1; see :func:`serve`.
    """

    def __init__(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        handler: Handler,
        settings: Settings,
        ssl: ssl_module.SSLContext | None,
        policy: HandshakePolicy,
        limits: Limits,
        http2: HTTP2Option = False,
    ) -> None:
        if isinstance(handler, Router):
            # The router comes last: a client that the application rejects does not learn which paths exist.
            policy = attrs.evolve(policy, process_request=(*policy.process_request, handler.process_request))
        self._listeners = listeners
        self._handler = handler
        self._settings = settings
        self._policy = policy
        self._ssl = ssl
        self._limits = limits
        self._http2 = http2
        # Answers every request with 503.
        self._rejecting_policy = attrs.evolve(
            policy, process_request=_unavailable, process_response=None, origins=ANY, hosts=None
        )
        self._state = ServerState()
        self.server: Server = Server(
            [_socket_address(listener) for listener in listeners], settings.close_timeout, self._state
        )

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        """Accept and serve connections, until cancelled, closed with :meth:`Server.aclose`, or drained."""
        try:
            with self._state.serving:
                async with trio.open_nursery() as nursery:
                    await self._accept_all(nursery, task_status)
        finally:
            self._state.stopped.set()

    async def _accept_all(self, nursery: trio.Nursery, task_status: trio.TaskStatus[Server]) -> None:
        """Accept connections until cancelled, and serve them in a nursery."""
        try:
            with self._state.accepting:
                async with trio.open_nursery() as accepting:
                    for listener in self._listeners:
                        accepting.start_soon(accept_from, listener, self.serve_connection, nursery)
                    task_status.started(self.server)
        finally:
            self._state.listeners_closed.set()

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Serve a connection from its first byte to its end, and close the stream. Never raises an ``Exception``."""
        # This frame takes memory as long as the connection lasts: keep it the only one, with few variables.
        adapter = StreamAdapter(stream)
        slot = AddressSlot(self._state.by_address, self._limits.per_address)
        reason = self._acquire_slot(adapter, slot) or self._find_reached_limit()
        if reason is not None:
            slot.release()
            await self._reject(adapter, reason)
            return
        self._state.count += 1
        try:
            accepted = _Accepted(adapter)
            ws = await self._open_in_time(accepted, slot)
            if accepted.is_http2:
                await self._serve_http2(accepted, slot)
            elif ws is not None:
                await self._handle(ws)
        finally:
            self._state.count -= 1
            slot.release()

    async def _handle(self, ws: ServerWebSocket) -> None:
        """Run the handler, and close the connection."""
        was_closed = False
        try:
            async with Session(ws):
                if self._state.close is not None:  # begin_closing() was called before the connection was listed
                    self._state.begin_closing_connection(ws, self._state.close)
                try:
                    await call_async("handler", self._handler, ws)
                finally:
                    # The session will close the connection: record now whether it was closed before.
                    was_closed = connection_of(ws).state.is_settled
                    self._state.connections.discard(ws)
        except Exception as exc:  # one handler's exception must not end the server
            _log_failure(ws, exc, was_closed)
        except BaseExceptionGroup as group:
            failures, rest = group.split(Exception)
            if failures is not None:
                _log_failure(ws, failures, was_closed)
            if rest is not None:
                raise rest from None

    async def _serve_http2(self, accepted: _Accepted, slot: AddressSlot) -> None:
        """Serve the streams of an HTTP/2 connection."""
        from .http2 import Host, serve_http2  # requires h2

        host = Host(
            settings=self._settings,
            policy=self._policy,
            limits=self._limits,
            server=self.server if self._listeners else None,
            state=self._state,
            find_reached_limit=self._find_reached_limit,
            admit=self._admit,
            handle=self._handle,
        )
        await serve_http2(accepted.stream, accepted.received, host, self._identify(accepted), slot)

    def _identify(self, accepted: _Accepted) -> Peer:
        return identify_peer(accepted.stream, self._policy.forwarding, accepted.header)

    def _find_reached_limit(self) -> str | None:
        """Return the server-wide limit that is reached, as text for the log; None if there is room, or can be made."""
        limits, openings = self._limits, self._state.openings
        if limits.connections is not None and self._state.count - openings.leaving >= limits.connections:
            reached = f"the limit of {limits.connections} connections is reached"
            if not openings.make_room(reached, idle=True):
                return reached
        if limits.openings is not None and len(openings) >= limits.openings:
            reached = f"the limit of {limits.openings} opening handshakes is reached"
            if not openings.make_room(reached, idle=False):
                return reached
        return None

    def _acquire_slot(self, stream: StreamAdapter, slot: AddressSlot) -> str | None:
        """Acquire a slot for the address that the connection comes from. Return the reason on failure, None on success.

        The address of a client behind a proxy is not known yet, so nothing is acquired for it here.
        """
        forwarding = self._policy.forwarding
        if forwarding.proxy_protocol or forwarding.trusts(stream.remote_address):
            return None
        return slot.acquire(stream.remote_address)

    async def _reject(self, stream: StreamAdapter, reason: str, header: ProxyHeader | None = None) -> None:
        """Tell the client that there is no room, if few others are being told; close the stream."""
        forwarding = self._policy.forwarding
        logger.info(
            "connection from %s rejected: %s", show_address(identify_peer(stream, forwarding, header).address), reason
        )
        try:
            # A TLS handshake would cost more than the request itself.
            if self._ssl is None and self._state.rejecting < MAX_REJECTIONS:
                self._state.rejecting += 1
                try:
                    with trio.move_on_after(GRACE):
                        await self._answer_rejected(stream, header)
                except StreamBroken as exc:
                    logger.debug("connection lost before the first request: %s", exc)
                finally:
                    self._state.rejecting -= 1
        finally:
            await stream.aclose(0)

    async def _answer_rejected(self, stream: StreamAdapter, header: ProxyHeader | None) -> None:
        """Answer the first request with 503, or an HTTP/2 client with GOAWAY before its first request."""
        if self._policy.forwarding.proxy_protocol and header is None:
            header = await self._read_header(stream)
            if header is None:
                return
        is_http2, received = await detect_http2(stream, self._http2) if self._http2 else (False, b"")
        if not is_http2:
            await open_connection(stream, self._settings, self._rejecting_policy, header=header, received=received)
            return
        from ..http2.connection import HTTP2Connection  # requires h2

        connection = HTTP2Connection(
            stream,
            is_client=False,
            max_streams=1,
            max_head_size=self._settings.max_head_size,
            max_headers=self._settings.max_headers,
            received=received,
        )
        connection.finish(linger=True)
        await connection.run()

    async def _read_header(self, stream: StreamAdapter) -> ProxyHeader | None:
        """Read the PROXY header. Return None, and log the reason, if the connection must be closed instead."""
        address = stream.remote_address
        forwarding = self._policy.forwarding
        try:
            if forwarding.trusted_proxies and not forwarding.trusts(address):
                raise InvalidProxyHeader("not from a trusted proxy")
            return await read_proxy_header(stream)
        except (InvalidProxyHeader, StreamBroken) as exc:
            logger.info("connection from %s closed: %s", show_address(address), exc)
            return None

    async def _open_in_time(self, accepted: _Accepted, slot: AddressSlot) -> ServerWebSocket | None:
        """Do the TLS and opening handshakes within ``open_timeout``. On failure, close the stream and return None.

        With HTTP/2, only the TLS handshake is done, and None is returned.
        """
        ws: ServerWebSocket | None = None
        registered: ServerWebSocket | None = None
        openings = self._state.openings
        seconds = math.inf if self._settings.open_timeout is None else self._settings.open_timeout
        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        task = OpeningTask(scope)

        def restart_timeout() -> None:
            scope.deadline = trio.current_time() + seconds

        def get_cancelled_status() -> int:
            is_late = trio.current_time() >= scope.deadline
            return 408 if is_late and self._state.close is None and task.dismissed is None else 503

        def register(ws: ServerWebSocket) -> None:
            nonlocal registered
            registered = ws
            self._state.connections.add(ws)

        try:
            with scope:
                openings.add(task)
                try:
                    if await self._prepare(accepted, slot):
                        ws = await open_connection(
                            accepted.stream,
                            self._settings,
                            self._policy,
                            server=self.server if self._listeners else None,
                            header=accepted.header,
                            admit=partial(self._admit, slot),
                            may_persist=lambda: not self._state.draining,
                            on_response=restart_timeout,
                            on_stage=partial(openings.advance, task),
                            get_cancelled_status=get_cancelled_status,
                            on_open=register,
                            limits=self._limits,
                            received=accepted.received,
                        )
                finally:
                    if task.dismissed is None:
                        openings.discard(task)
            if scope.cancelled_caught and self._state.close is None:
                self._log_unfinished(task, show_address(self._identify(accepted).address))
        finally:
            if ws is None and not accepted.is_http2:
                if registered is not None:
                    self._state.connections.discard(registered)
                await accepted.stream.aclose(0)
            openings.discard(task)
        return ws

    async def _prepare(self, accepted: _Accepted, slot: AddressSlot) -> bool:
        """Read the PROXY header, do the TLS handshake, and find out the version of HTTP, as far as the options ask.

        Returns:
            Whether the opening handshake over HTTP/1.1 follows. Otherwise, the client speaks HTTP/2, or the connection
            must be closed, and the reason was logged.
        """
        if self._policy.forwarding.proxy_protocol:
            accepted.header = await self._read_header(accepted.stream)
            if accepted.header is None or not await self._acquire_slot_for_header(accepted, slot):
                return False
        if self._ssl is not None and not await self._start_tls(accepted, self._ssl):
            return False
        if self._http2:
            try:
                accepted.is_http2, accepted.received = await detect_http2(accepted.stream, self._http2)
            except StreamBroken as exc:
                logger.debug("connection lost before the first request: %s", exc)
                return False
        return not accepted.is_http2

    async def _start_tls(self, accepted: _Accepted, context: ssl_module.SSLContext) -> bool:
        """Do the TLS handshake. Return False, and log and report the reason, if it fails."""
        began_at = trio.current_time()
        try:
            accepted.stream = await start_tls(accepted.stream, context, server_side=True)
        except StreamSilent as exc:
            logger.debug("connection lost before the TLS handshake: %s", exc)
            return False
        except StreamBroken as exc:
            address = self._identify(accepted).address
            logger.info("TLS handshake with %s failed: %s", show_address(address), exc)
            seconds = trio.current_time() - began_at
            report_opening_failure(self._settings, None, None, lost_error(exc), seconds, address)
            return False
        return True

    def _log_unfinished(self, task: OpeningTask, address: str) -> None:
        """Log that an opening handshake has timed out or was dismissed. Clients that have begun none are not logged."""
        if task.stage.is_answered:
            return
        if task.dismissed is not None:
            logger.info("opening handshake with %s %s", address, task.dismissed)
        elif task.stage is not Stage.SILENT or self._policy.forwarding.proxy_protocol:
            logger.info("opening handshake with %s timed out after %g seconds", address, self._settings.open_timeout)

    async def _acquire_slot_for_header(self, accepted: _Accepted, slot: AddressSlot) -> bool:
        """Acquire a slot for the client that a PROXY header names. On failure, reject the connection; return False."""
        peer = self._identify(accepted)
        reason = None if peer.is_trusted_proxy else slot.acquire(peer.address)
        if reason is not None:
            await self._reject(accepted.stream, reason, accepted.header)
        return reason is None

    def _admit(self, slot: AddressSlot, opening: Opening) -> Response | None:
        """Acquire a slot for the client that has sent a request. Return a 503 response if there is none."""
        reason = slot.acquire(opening.remote_address)
        if reason is None:
            return None
        logger.info("connection from %s rejected: %s", show_address(opening.remote_address), reason)
        return _unavailable(opening)


def _unavailable(opening: Opening, _request: Request | None = None) -> Response:
    body = f"the server is busy, try again in {RETRY_AFTER} seconds\n"
    return opening.respond(503, body, {"Retry-After": str(RETRY_AFTER), "Connection": "close"})


def _log_failure(ws: ServerWebSocket, exc: BaseException, was_closed: bool) -> None:
    if was_closed and is_connection_closed(exc):
        # The peer left while the handler was using the connection: that is not a bug in the handler.
        logger.info("connection from %s: %s", show_address(ws.remote_address), exc)
    else:
        logger.error("connection from %s: the handler failed", show_address(ws.remote_address), exc_info=exc)


def is_connection_closed(exc: BaseException) -> bool:
    """Whether an exception is a ConnectionClosed, or a group of nothing else (from a nursery in the handler)."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_connection_closed(each) for each in exc.exceptions)
    return isinstance(exc, ConnectionClosed)


def _socket_address(listener: trio.abc.Listener[Any]) -> Any:
    while isinstance(listener, trio.SSLListener):
        listener = listener.transport_listener
    return listener.socket.getsockname() if isinstance(listener, trio.SocketListener) else None
