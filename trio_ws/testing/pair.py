"""A client and a server connected in memory: ``memory_websocket_pair``, ``WebSocketPair``."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import trio
import trio.testing

from ..client.connect import connect_over
from ..connection.session import Session
from ..connection.stream import StreamAdapter
from ..connection.websocket import WebSocket, connection_of
from ..exceptions import ConnectFailed
from ..misuse.names import check_names
from ..misuse.usage import AsyncWithOnly, check_async_function, check_in_trio
from ..misuse.values import check_stream, to_tuple
from ..server.handshake import open_connection
from ..server.policy import HandshakePolicy
from ..server.responder import upgrade
from ..server.routing import Router
from ..server.server import Handler, ServerWebSocket
from ..settings import Options, Settings
from .handlers import run_handler
from .peer import URI

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["WebSocketPair", "memory_websocket_pair"]


class WebSocketPair(NamedTuple):
    """Two WebSockets that are connected to each other. :class:`memory_websocket_pair` yields it.

    Attributes:
        client: The client's end.
        server: The server's end.
    """

    client: WebSocket
    server: ServerWebSocket

    async def serve(self, handler: Handler) -> None:
        """Run a handler at the server's end, as :func:`~trio_ws.serve` does, but raise its exceptions.

        ::

            async with memory_websocket_pair() as pair, trio.open_nursery() as nursery:
                nursery.start_soon(pair.serve, handler)
                await pair.client.send("hello")

        Afterwards the server's end is closed: with 1000 if the handler returns, with 1001 if it is cancelled, with 1011
        if it raises an exception. A :exc:`~trio_ws.ConnectionClosed` of the handler is dropped if the connection is
        over: the client left while the handler was using the connection, which is not a bug. ``serve`` logs all other
        exceptions; this raises them, so that the test fails.

        Args:
            handler: The handler, an async function. A router from :func:`~trio_ws.route` is not possible, since it
                chooses the handler in the opening handshake, which is over.

        Raises:
            Exception: The exceptions of the handler.
            TypeError: If the handler is a router, or not an async function.
        """
        check_async_function("handler", handler)
        if isinstance(handler, Router):
            raise TypeError(
                "handler must not be a router, which chooses a handler in the opening handshake: use"
                " trio_ws.serve_over() or the fixture ws_server"
            )
        await run_handler(handler, self.server)


class memory_websocket_pair(AsyncWithOnly):
    """Async context manager for two WebSockets that are connected to each other.

    ::

        async with memory_websocket_pair() as (client, server):
            await client.send("hello")
            assert await server.receive() == "hello"

    Leaving the block closes both WebSockets, the client first. Exceptions from the block propagate unchanged. Each pair
    can be entered only once.

    Args:
        streams: The client's and the server's end of the stream that connects them, such as those of
            :func:`trio.testing.lockstep_stream_pair`, possibly wrapped in a :class:`FaultyStream`. Default: the ends of
            :func:`trio.testing.memory_stream_pair`.
        handshake: Whether to send the opening handshake over the streams. If False, only frames are sent; subprotocol
            and extensions are negotiated in the same way, without I/O.
        uri: The URI that the client requests.
        **options: The options of both ends; see :class:`~trio_ws.Options`.

    Raises:
        Exception: On entering the block with ``handshake=True``, the same exceptions as :func:`~trio_ws.connect`. Both
            streams are closed then.
        InvalidURI: If the URI is not valid.
        TypeError: If an option is unknown or of the wrong type.
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
        *,
        handshake: bool = False,
        uri: str = URI,
        **options: Unpack[Options],
    ) -> None:
        check_names(memory_websocket_pair, options, Options)
        pair = (
            trio.testing.memory_stream_pair() if streams is None else to_tuple("streams", streams, "two Trio streams")
        )
        if len(pair) != 2:
            raise TypeError(f"streams must be two Trio streams, not {len(pair)}")
        for stream in pair:
            check_stream("streams", stream)
        self._client_stream, self._server_stream = pair
        self._connecting = connect_over(self._client_stream, uri, **options)
        self._settings = Settings(**options)
        self._handshake = handshake
        self._sessions: contextlib.AsyncExitStack | None = None
        self._server: ServerWebSocket | None = None

    def _explain_use(self) -> str:
        return "memory_websocket_pair() must be used as `async with memory_websocket_pair() as (client, server):`"

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> WebSocketPair:
        check_in_trio("memory_websocket_pair()")
        if self._sessions is not None:
            raise RuntimeError("a memory_websocket_pair can be entered only once: create another one")
        self._sessions = contextlib.AsyncExitStack()
        client, server = await self._open() if self._handshake else self._open_without_io()
        await self._sessions.enter_async_context(Session(server))
        await self._sessions.enter_async_context(Session(client))
        self._server = server
        return WebSocketPair(client, server)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sessions is None or self._server is None:
            raise RuntimeError("a memory_websocket_pair must be entered before it is left")
        # The block will not answer the messages that it has received, so the server must not wait for that.
        connection_of(self._server).inbox.end_handling()
        await self._sessions.__aexit__(exc_type, exc, traceback)

    def _open_without_io(self) -> tuple[WebSocket, ServerWebSocket]:
        server = upgrade(StreamAdapter(self._server_stream), self._connecting.request, self._settings)
        return self._connecting.upgrade(StreamAdapter(self._client_stream), server.response), server

    async def _open(self) -> tuple[WebSocket, ServerWebSocket]:
        client = server = failure = None

        async def serve() -> None:
            nonlocal server
            server = await open_connection(StreamAdapter(self._server_stream), self._settings, HandshakePolicy())
            if server is None:
                await StreamAdapter(self._server_stream).aclose(0)  # as serve() does: the client may be waiting

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                try:
                    client = await self._connecting.open()
                except Exception as exc:  # raised after the nursery, which would wrap it in a group
                    failure = exc
                    nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            assert client is not None
            if server is None:  # the client got the whole response, but the server's write failed
                raise ConnectFailed(self._connecting.request.headers["Host"], "the server's stream failed")
        except BaseException:
            # trio.aclose_forcefully() would raise if this task is cancelled, and leave the second stream open.
            await StreamAdapter(self._client_stream).aclose(0)
            await StreamAdapter(self._server_stream).aclose(0)
            if failure is None:
                await trio.lowlevel.checkpoint_if_cancelled()  # raise Cancelled itself, not the nursery's group
            raise
        return client, server
