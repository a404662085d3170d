"""The server's side of HTTP/2: a connection whose streams are WebSockets and plain requests (RFC 8441, RFC 9113).

Each stream is a task: its request is answered as one of HTTP/1.1 is, by a :class:`~trio_ws.server.responder.Responder`,
and if it becomes a WebSocket, the handler runs in the same task. If the client resets a stream before that, its task is
cancelled.

For the limits of the server, each stream counts as a connection. The HTTP/2 connection itself counts as long as it has
no streams; it is closed if it has had none for ``open_timeout`` seconds.

*Cancellation.* The tasks of the streams are cancelled first. The connection stays open until they have ended, so that
WebSockets can still send their Close frames.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio
from h2.errors import ErrorCodes

from ..connection.stream import StreamAdapter
from ..exceptions import HeadTooBig, InvalidHandshake, InvalidMessage, TooManyHeaders
from ..http2.adapter import HTTP2StreamAdapter
from ..http2.connection import HTTP2Connection
from ..http2.headers import from_response, to_request
from ..http2.stream import HTTP2Stream
from ..http11 import Request, Response
from ..http11.messages import reason_phrase
from ..protocol.handshake import accepts
from ..settings import Settings
from .forwarded.peer import Peer, show_address
from .limits import AddressSlot, Limits
from .openings import OpeningTask, Stage
from .policy import HandshakePolicy
from .responder import RETRY_AFTER, Responder, logger
from .server import Opening, Server, ServerState, ServerWebSocket

__all__ = ["Host", "serve_http2"]

#: Tasks of streams that have ended, beyond as many as there may be streams. A handler may go on after the end of its
#: stream, but clients must not start any number of them.
MAX_ENDED = 16

#: The number of streams of a connection if ``Limits.streams`` is None.
UNLIMITED = 2**20


@attrs.frozen(kw_only=True)
class Host:
    """The part of a server that the streams of a connection use.

    Attributes:
        settings: The connection options.
        policy: The handshake options.
        limits: The limits of the server.
        server: The server.
        state: The connections and tasks of the server.
        find_reached_limit: Returns the limit that is reached, or None if there is room for another connection.
        admit: Acquires a slot for the client of a request. Returns a response if there is none.
        handle: Runs the handler for a WebSocket, and closes it.
    """

    settings: Settings
    policy: HandshakePolicy
    limits: Limits
    server: Server | None
    state: ServerState
    find_reached_limit: Callable[[], str | None]
    admit: Callable[[AddressSlot, Opening], Response | None]
    handle: Callable[[ServerWebSocket], Awaitable[object]]


async def serve_http2(transport: StreamAdapter, received: bytes, host: Host, peer: Peer, slot: AddressSlot) -> None:
    """Serve an HTTP/2 connection until it ends, and close the stream. Never raises an ``Exception``.

    Args:
        transport: The stream, after the TLS handshake.
        received: Bytes that were already read from it.
        host: The server.
        peer: The client, or the proxy, that has connected.
        slot: The slot that the connection has acquired for its address, if any. While it has streams, they have slots.
    """
    connection = HTTP2Connection(
        transport,
        is_client=False,
        max_streams=UNLIMITED if host.limits.streams is None else host.limits.streams,
        max_head_size=host.settings.max_head_size,
        max_headers=host.settings.max_headers,
        received=received,
    )
    await _Session(connection, host, peer, slot).run()


class _Session:
    """The task of an HTTP/2 connection, and those of its streams."""

    def __init__(self, connection: HTTP2Connection, host: Host, peer: Peer, slot: AddressSlot) -> None:
        self._connection = connection
        self._host = host
        self._peer = peer
        self._slot = slot
        # The number of streams that have a task.
        self._count = 0
        self._seconds = math.inf if host.settings.open_timeout is None else host.settings.open_timeout
        # The connection itself, as one that waits for its client while it has no streams.
        self._scope = trio.CancelScope(deadline=trio.current_time() + self._seconds)
        self._task = OpeningTask(self._scope)

    async def run(self) -> None:
        connection, state = self._connection, self._host.state
        leave = connection.leave
        state.leave.add(leave)
        state.openings.add(self._task)
        lingers = False
        try:
            async with trio.open_nursery() as nursery:
                try:
                    connection.start(nursery)
                    async with trio.open_nursery() as streams:
                        if state.draining or state.close is not None:
                            connection.leave()
                        await self._accept(streams)
                    lingers = True
                    await self._wait_written()
                finally:
                    connection.finish(linger=lingers)
        finally:
            state.openings.discard(self._task)
            state.leave.discard(leave)
            if connection.protocol.failed:
                address = show_address(self._peer.address)
                logger.info("connection from %s ended: %s", address, connection.failure)

    async def _accept(self, nursery: trio.Nursery) -> None:
        """Start a task for each stream, until there will be no more."""
        with self._scope:
            while (stream := await self._connection.arrivals.get()) is not None:
                if self._count >= 2 * self._connection.max_streams + MAX_ENDED:
                    stream.abort(ErrorCodes.REFUSED_STREAM)
                    continue
                # Not in the task, so that nothing else can take the place that is free now.
                slot = AddressSlot(self._host.state.by_address, self._host.limits.per_address)
                deadline = trio.current_time() + self._seconds
                task = OpeningTask(trio.CancelScope(deadline=deadline), Stage.ANSWERING)
                nursery.start_soon(self._serve_stream, stream, slot, task, self._begin_stream(slot, task))
        self._connection.arrivals.refuse()  # the scope may have been cancelled just before a stream has arrived
        self._connection.leave()  # it was idle for too long, or the client or the server leaves
        if self._task.dismissed is None:  # otherwise, it counts as one that leaves until it has ended
            self._host.state.openings.discard(self._task)

    async def _wait_written(self) -> None:
        """Wait, if the server drains, until a slow client has received everything, but at most ``open_timeout``."""
        state = self._host.state
        if not state.draining or state.close is not None:
            return
        task = OpeningTask(trio.CancelScope(deadline=trio.current_time() + self._seconds), Stage.ENDING)
        state.openings.add_idle(task)
        try:
            with task.scope:
                await self._connection.output.wait_written()
        finally:
            state.openings.discard(task)

    def _begin_stream(self, slot: AddressSlot, task: OpeningTask) -> str | None:
        """Count a new stream, and list its task.

        Returns:
            The limit that is reached, as text for the log; None if there is room.
        """
        host = self._host
        self._count += 1
        if self._count == 1:
            # The stream takes the place that the connection had.
            self._scope.deadline = math.inf
            host.state.openings.advance(self._task, Stage.ANSWERING)
            host.state.openings.discard(self._task)
            self._slot.release()
            host.state.count -= 1
        reason = None
        if not self._peer.is_trusted_proxy:
            reason = slot.acquire(self._peer.address)
        if reason is None and self._count > 1:
            reason = host.find_reached_limit()
        host.state.count += 1
        host.state.openings.add(task)
        return reason

    def _end_stream(self, slot: AddressSlot) -> None:
        host = self._host
        slot.release()
        host.state.count -= 1
        self._count -= 1
        if not self._count:
            host.state.count += 1
            if not self._peer.is_trusted_proxy:
                self._slot.acquire(self._peer.address)
            if not (self._scope.cancel_called or self._connection.failure is not None):
                self._scope.deadline = trio.current_time() + self._seconds
                self._task.stage = Stage.IDLE
                host.state.openings.add_idle(self._task)

    async def _serve_stream(
        self, stream: HTTP2Stream, slot: AddressSlot, task: OpeningTask, reached: str | None
    ) -> None:
        """Serve a stream from its request to its end. Never raises an ``Exception``."""
        adapter = HTTP2StreamAdapter(stream)
        try:
            ws = await self._open_in_time(stream, adapter, slot, task, reached)
            if ws is not None:
                await self._host.handle(ws)
        finally:
            await adapter.aclose(0)
            self._end_stream(slot)

    async def _open_in_time(
        self,
        stream: HTTP2Stream,
        adapter: HTTP2StreamAdapter,
        slot: AddressSlot,
        task: OpeningTask,
        reached: str | None,
    ) -> ServerWebSocket | None:
        """Answer the request within ``open_timeout``. Return the WebSocket, or None if there is none."""
        state, limits = self._host.state, self._host.limits
        scope = task.scope
        responder = Responder(
            adapter,
            self._host.settings,
            self._host.policy,
            self._host.server,
            self._peer,
            partial(self._host.admit, slot),
            limits,
        )
        request_stream = _RequestStream(stream, self._host, responder)
        stream.on_failure = scope.cancel
        try:
            with scope:
                if stream.failure is not None or state.close is not None:
                    scope.cancel()
                try:
                    return await request_stream.serve(reached)
                except trio.Cancelled:
                    is_late = trio.current_time() >= scope.deadline and state.close is None
                    request_stream.send_error(408 if is_late else 503)
                    raise
            return None
        finally:
            stream.on_failure = None
            state.openings.discard(task)
            responder.error = None


class _RequestStream:
    """A stream until its request is answered."""

    def __init__(self, stream: HTTP2Stream, host: Host, responder: Responder) -> None:
        self._stream = stream
        self._host = host
        self._responder = responder
        self._began_at = trio.current_time()
        self._request: Request | None = None
        # True once the headers of the response were sent.
        self._has_answered = False

    async def serve(self, reached: str | None) -> ServerWebSocket | None:
        """Answer the request. Return the WebSocket if it has become one.

        Args:
            reached: The limit that is reached, if any: then, the response is 503.
        """
        request = None
        responder, settings = self._responder, self._host.settings
        try:
            self._request = request = to_request(
                self._stream.take_headers(), max_head_size=settings.max_head_size, max_headers=settings.max_headers
            )
            if reached is not None:
                address = show_address(responder.opening.remote_address)
                logger.info("connection from %s rejected: %s", address, reached)
                response = self._make_error(503)
            else:
                response = await responder.answer(request)
            await self._send(request, response)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            if self._has_answered:
                responder.ws = None  # the client has left
                self.report_failure(None, exc)
            else:  # from a function of the application
                await self._send_safely(request, responder.fail(exc))
        except InvalidHandshake as exc:
            await self._send_safely(request, responder.refuse(exc, "2"))
            if request is None and not isinstance(exc, (HeadTooBig, TooManyHeaders)):
                self._stream.close(ErrorCodes.PROTOCOL_ERROR)  # it is malformed (RFC 9113, section 8.1.1)
        except Exception as exc:
            # An exception of an application function must not end the server.
            await self._send_safely(request, responder.fail(exc))
        return responder.ws

    async def _send(self, request: Request | None, response: Response) -> None:
        ws = self._responder.ws
        if ws is not None:
            ws.handshake_seconds = trio.current_time() - self._began_at
        opens = ws is not None and request is not None and accepts(request, response)
        if not opens:
            response = self._host.policy.add_headers(response)
        try:
            headers = from_response(response, opens=opens)
        except InvalidMessage as exc:
            raise ValueError(f"the application's response is not valid: {exc}") from exc
        body = b"" if opens else self._get_body(response)
        if ws is not None:
            self._host.state.connections.add(ws)  # before the client can know that the connection is open
        try:
            self._has_answered = True
            self._stream.send_headers(headers, end=not (opens or body))
            if body:
                try:
                    await self._stream.send_all(body)
                except trio.Cancelled:
                    self._stream.abort()  # the client must not take the part for the whole
                    raise
                self._stream.end_now()
            if not opens:
                self.report_failure(response, self._responder.error)
            if opens:  # the client takes the connection for open: from here on, it ends with a Close frame
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await trio.lowlevel.checkpoint()
        except BaseException:  # also when cancelled
            if ws is not None:
                self._host.state.connections.discard(ws)
            raise

    def _get_body(self, response: Response) -> bytes:
        """Return the body to send: the response to HEAD has none (RFC 9110, section 9.3.2)."""
        is_head = self._request is not None and self._request.method == "HEAD"
        return b"" if is_head else response.body or b""

    async def _send_safely(self, request: Request | None, response: Response) -> None:
        try:
            await self._send(request, response)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def _make_error(self, status: int) -> Response:
        headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else {}
        return self._responder.opening.respond(status, f"{reason_phrase(status)}\n", headers)

    def report_failure(self, response: Response | None, error: Exception | None) -> None:
        """Report to instruments that the opening handshake has failed."""
        seconds = trio.current_time() - self._began_at
        self._responder.report_failure(self._request, response, error, seconds)

    def send_error(self, status: int) -> None:
        """Send an error response if none was sent, without waiting. Never raises."""
        if not self._has_answered:
            self._has_answered = True
            response: Response | None
            response = self._host.policy.add_headers(self._make_error(status))
            error = None
            try:
                body = self._get_body(response)
                self._stream.send_headers(from_response(response), end=not body)
                if body:
                    chunks: list[bytes | memoryview] = [body]
                    self._stream.send_now(chunks)
                    if chunks:
                        self._stream.abort()  # the client must not take the part for the whole
                    self._stream.end_now()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                response, error = None, exc.with_traceback(None)
            self.report_failure(response, error)
