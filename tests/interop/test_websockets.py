"""Interoperability with the asyncio client and server of ``websockets``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import attrs
import pytest
import trio
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from .peers import Certificates, Connect, End, EventLoop, Library, Listening, Peer, Scenarios


@attrs.define
class WebsocketsPeer(Peer):
    loop: EventLoop
    connection: ClientConnection | ServerConnection

    async def send(self, message: str | bytes) -> None:
        await self.loop.run(self.connection.send(message))

    async def send_parts(self, parts: Sequence[str] | Sequence[bytes]) -> None:
        await self.loop.run(self.connection.send(parts))

    async def receive(self) -> str | bytes | End:
        return await self.loop.run(self._receive())

    async def _receive(self) -> str | bytes | End:
        try:
            return await self.connection.recv()
        except ConnectionClosed as exc:
            return End(1006, "") if exc.rcvd is None else End(exc.rcvd.code, exc.rcvd.reason)

    async def ping(self) -> None:
        await self.loop.run(self._ping())

    async def _ping(self) -> None:
        await (await self.connection.ping())

    async def close(self, code: int, reason: str = "") -> None:
        await self.loop.run(self.connection.close(code, reason))

    async def kill(self) -> None:
        async def kill() -> None:
            self.connection.transport.abort()

        await self.loop.run(kill())


class WebsocketsListening(Listening):
    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.accepted: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self.server: Server | None = None

    async def start(self, **options: Any) -> None:
        self.server = await serve(
            self.handle,
            "127.0.0.1",
            0,
            process_request=self.process_request,
            process_response=self.process_response,
            **options,
        )
        self.port = next(iter(self.server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        await self.server.wait_closed()

    async def handle(self, connection: ServerConnection) -> None:
        self.accepted.put_nowait(connection)
        await connection.wait_closed()

    def process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.FORBIDDEN, "no") if request.path == "/refuse" else None

    def process_response(self, connection: ServerConnection, request: Request, response: Response) -> None:
        response.headers["X-Interop"] = "hello"

    async def accept(self) -> Peer:
        connection = await self.loop.run(self.accepted.get())
        assert connection.request is not None
        return WebsocketsPeer(connection.subprotocol, connection.request.headers["X-Interop"], self.loop, connection)


class Websockets(Library):
    """It offers, and as a server accepts, permessage-deflate by default, and so it does here."""

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop

    async def connect(self, uri: str, tls: Certificates | None, subprotocols: Sequence[str], limit: int) -> Peer:
        async def open_connection() -> ClientConnection:
            return await connect(
                uri,
                ssl=None if tls is None else tls.client,
                subprotocols=[Subprotocol(each) for each in subprotocols] or None,
                max_size=limit,
                additional_headers={"X-Interop": "hello"},
                proxy=None,
            )

        connection = await self.loop.run(open_connection())
        return WebsocketsPeer(connection.subprotocol, None, self.loop, connection)

    @contextlib.asynccontextmanager
    async def listen(
        self, tls: Certificates | None, subprotocols: Sequence[str], limit: int
    ) -> AsyncIterator[Listening]:
        listening = WebsocketsListening(self.loop)
        await self.loop.run(
            listening.start(
                ssl=None if tls is None else tls.server,
                subprotocols=[Subprotocol(each) for each in subprotocols] or None,
                # Without one in common it would refuse the connection otherwise.
                select_subprotocol=lambda _, offered: next((each for each in subprotocols if each in offered), None),
                max_size=limit,
            )
        )
        try:
            yield listening
        finally:
            with trio.CancelScope(shield=True):
                await self.loop.run(listening.stop())


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    with EventLoop() as loop:
        yield Websockets(loop)


class TestWebsockets(Scenarios):
    async def test_its_offer_of_compression(self, connected: Connect, role: str) -> None:
        async with connected() as (ws, _):
            offered = "Sec-WebSocket-Extensions" in ws.request.headers
            assert offered is (role == "server")
            assert "Sec-WebSocket-Extensions" not in ws.response.headers
