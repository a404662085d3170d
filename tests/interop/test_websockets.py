"""Interoperability with the asyncio client and server of ``websockets``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import attrs
import pytest
import trio
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from trio_ws import Deflate

from .compression import OUR_ANSWERS, OURS, Answer, Negotiation, Theirs, ours, theirs
from .peers import Certificates, End, EventLoop, Library, Listening, Peer, Scenarios


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

    async def echo(self, count: int) -> None:
        async def echo() -> None:
            for _ in range(count):
                await self.connection.send(await self.connection.recv())

        await self.loop.run(echo())

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


def compress(compression: Theirs, factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the settings of the library."""
    if compression == "default":
        return {}
    return {"compression": None, "extensions": None if compression is None else [factory(**compression)]}


class Websockets(Library):
    """websockets. Its client offers, and its server accepts, permessage-deflate by default."""

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop

    async def connect(
        self,
        uri: str,
        tls: Certificates | None,
        subprotocols: Sequence[str],
        limit: int,
        compression: Theirs = "default",
    ) -> Peer:
        async def open_connection() -> ClientConnection:
            return await connect(
                uri,
                ssl=None if tls is None else tls.client,
                subprotocols=[Subprotocol(each) for each in subprotocols] or None,
                max_size=limit,
                additional_headers={"X-Interop": "hello"},
                proxy=None,
                **compress(compression, ClientPerMessageDeflateFactory),
            )

        connection = await self.loop.run(open_connection())
        return WebsocketsPeer(connection.subprotocol, None, self.loop, connection)

    @contextlib.asynccontextmanager
    async def listen(
        self, tls: Certificates | None, subprotocols: Sequence[str], limit: int, compression: Theirs = "default"
    ) -> AsyncIterator[Listening]:
        listening = WebsocketsListening(self.loop)
        await self.loop.run(
            listening.start(
                ssl=None if tls is None else tls.server,
                subprotocols=[Subprotocol(each) for each in subprotocols] or None,
                # By default, it rejects connections without a common subprotocol.
                select_subprotocol=lambda _, offered: next((each for each in subprotocols if each in offered), None),
                max_size=limit,
                **compress(compression, ServerPerMessageDeflateFactory),
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


ALONE = {"server_no_context_takeover": True, "client_no_context_takeover": True}

NEGOTIATIONS = [
    # By default it asks for windows of 12 bits.
    *ours(
        "client",
        {
            "off": None,
            "default": Answer(12, 12),
            "every size": Answer(12, 12),
            "server alone": Answer(12, 12, server_takeover=False),
            "client alone": Answer(12, 12, client_takeover=False),
            "both alone": Answer(12, 12, server_takeover=False, client_takeover=False),
            "9 and 10 bits": Answer(9, 10),
            "10 and 9 bits": Answer(10, 9),
            # Not "8 bits for the server": it cannot compress with such a window, and before version 17 it fails then.
            "8 bits for the client": Answer(12, 8),
            "15 bits": Answer(12, 12),
        },
    ),
    # Its client cannot compress with 8 bits.
    *ours("server", OUR_ANSWERS),
    *theirs(
        "client",
        ("off", None, None),
        ("choice is none", {}, Answer()),
        ("server alone", {"server_no_context_takeover": True}, Answer(server_takeover=False)),
        ("client alone", {"client_no_context_takeover": True}, Answer(client_takeover=False)),
        ("both alone", ALONE, Answer(server_takeover=False, client_takeover=False)),
        ("9 and 10 bits", {"server_max_window_bits": 9, "client_max_window_bits": 10}, Answer(9, 10)),
        ("8 bits for the client", {"client_max_window_bits": 8}, Answer(None, 8)),
        ("15 bits", {"server_max_window_bits": 15, "client_max_window_bits": 15}, Answer(15, 15)),
    ),
    *theirs(
        "server",
        ("off", None, None),
        # Without this offer we may not choose its window.
        ("window is its own", {"client_max_window_bits": None}, Answer(12, None)),
        ("server alone", {"server_no_context_takeover": True}, Answer(12, 12, server_takeover=False)),
        ("client alone", {"client_no_context_takeover": True}, Answer(12, 12, client_takeover=False)),
        ("both alone", ALONE, Answer(12, 12, server_takeover=False, client_takeover=False)),
        ("9 and 10 bits", {"server_max_window_bits": 9, "client_max_window_bits": 10}, Answer(9, 10)),
        ("8 bits for the server", {"server_max_window_bits": 8}, Answer(8, 12)),
        ("15 bits", {"server_max_window_bits": 15, "client_max_window_bits": 15}, Answer(12, 12)),
    ),
    # Settings of both ends.
    Negotiation("client", "15 bits, no limit", OURS["15 bits"], {}, Answer(15, 15)),
    Negotiation(
        "client",
        "both less",
        Deflate(server_max_window_bits=10, client_max_window_bits=9, server_no_context_takeover=True),
        {"server_max_window_bits": 9, "client_max_window_bits": 10, "client_no_context_takeover": True},
        Answer(9, 9, server_takeover=False, client_takeover=False),
    ),
    Negotiation(
        "server",
        "both less",
        Deflate(server_max_window_bits=10, client_max_window_bits=9, server_no_context_takeover=True),
        {"server_max_window_bits": 9, "client_max_window_bits": 10, "client_no_context_takeover": True},
        Answer(9, 9, server_takeover=False, client_takeover=False),
    ),
]


class TestWebsockets(Scenarios):
    pass
