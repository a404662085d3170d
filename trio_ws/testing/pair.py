"""Two WebSockets that are connected with each other in memory: ``memory_websocket_pair``."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING

import trio
import trio.testing

from ..client.connect import connect_over
from ..connection.session import Session
from ..connection.stream import StreamAdapter
from ..connection.websocket import WebSocket, connection_of
from ..exceptions import ConnectFailed
from ..server.handshake import open_connection, upgrade
from ..server.policy import HandshakePolicy
from ..server.server import ServerWebSocket
from ..settings import Options, Settings, check_names
from .peer import URI

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["memory_websocket_pair"]


class memory_websocket_pair:
    """Two WebSockets that are connected with each other, for as long as a block.

    ::

        async with memory_websocket_pair() as (client, server):
            await client.send("hello")
            assert await server.receive() == "hello"

    Leaving the block closes both, the client first. What the block raises comes out as it is. A pair is entered once.

    Args:
        streams: What is between them: the client's end and the server's, for example of
            :func:`trio.testing.lockstep_stream_pair`, or in a :class:`FaultyStream`. The default is
            :func:`trio.testing.memory_stream_pair`.
        handshake: Whether the opening handshake goes over these streams. Otherwise nothing but frames does; what would
            have been agreed on is agreed on all the same.
        uri: What the client asks for.
        **options: See :class:`~trio_ws.Options`. They are for both ends.

    Raises:
        Exception: as :func:`~trio_ws.connect` does, on entering the block, if there is a handshake. Both streams are
            closed then.
        InvalidURI: if the URI is not valid.
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
        *,
        handshake: bool = False,
        uri: str = URI,
        **options: Unpack[Options],
    ) -> None:
        self._client_stream, self._server_stream = streams or trio.testing.memory_stream_pair()
        check_names("memory_websocket_pair", options, Options)
        self._connecting = connect_over(self._client_stream, uri, **options)
        self._settings = Settings(**options)
        self._handshake = handshake
        self._sessions: contextlib.AsyncExitStack | None = None
        self._server: ServerWebSocket | None = None

    async def __aenter__(self) -> tuple[WebSocket, ServerWebSocket]:
        if self._sessions is not None:
            raise RuntimeError("a pair is entered once: make another one")
        self._sessions = contextlib.AsyncExitStack()
        client, server = await self._shake_hands() if self._handshake else self._agree()
        await self._sessions.enter_async_context(Session(server))
        await self._sessions.enter_async_context(Session(client))
        self._server = server
        return client, server

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sessions is None or self._server is None:
            raise RuntimeError("this pair was not entered")
        # The block has ended, so it is not about to answer what it has received; the server need not wait for that.
        connection_of(self._server).inbox.stop_using()
        await self._sessions.__aexit__(exc_type, exc, traceback)

    def _agree(self) -> tuple[WebSocket, ServerWebSocket]:
        server = upgrade(StreamAdapter(self._server_stream), self._connecting.request, self._settings)
        return self._connecting.upgrade(StreamAdapter(self._client_stream), server.response), server

    async def _shake_hands(self) -> tuple[WebSocket, ServerWebSocket]:
        client = server = failure = None

        async def serve() -> None:
            nonlocal server
            server = await open_connection(StreamAdapter(self._server_stream), self._settings, HandshakePolicy())
            if server is None:
                await StreamAdapter(self._server_stream).aclose(0)  # as a server does; the client may be waiting

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                try:
                    client = await self._connecting.open()
                except Exception as exc:  # raised below, out of the nursery's reach
                    failure = exc
                    nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            assert client is not None
            if server is None:  # its stream has sent the whole answer, and failed all the same
                raise ConnectFailed(self._connecting.request.headers["Host"], "the server's stream failed")
        except BaseException:
            # Not aclose_forcefully(): when we are cancelled, the first one would raise, and the second not be closed.
            await StreamAdapter(self._client_stream).aclose(0)
            await StreamAdapter(self._server_stream).aclose(0)
            if failure is None:
                await trio.lowlevel.checkpoint_if_cancelled()  # by itself, not in the group that comes from the nursery
            raise
        return client, server
