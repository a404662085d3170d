"""Interoperability with the client and server of ``aiohttp``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from aiohttp import ClientSession, ClientWebSocketResponse, WSMessage, WSMsgType, web
from aiohttp.typedefs import Handler

from trio_ws import Deflate

from .compression import OUR_ANSWERS, Answer, Negotiation, Theirs, ours, theirs
from .peers import Certificates, End, EventLoop, Library, Listening, Peer, Scenarios, connect_with

#: Its ends of connections, as a client and as a server.
AiohttpWebSocket: TypeAlias = "ClientWebSocketResponse | web.WebSocketResponse"


class Connection:
    """A WebSocket of aiohttp, with a task that receives: only then aiohttp answers pings and Close frames."""

    def __init__(self, ws: AiohttpWebSocket) -> None:
        self.ws = ws
        self.received: asyncio.Queue[str | bytes | End] = asyncio.Queue()
        self.pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self.over = asyncio.Event()
        self.task = asyncio.create_task(self.receive())

    async def receive(self) -> None:
        while True:
            message: WSMessage = await self.ws.receive()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self.received.put_nowait(message.data)
            elif message.type is WSMsgType.PING:
                await self.ws.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self.pongs.put_nowait(message.data)
            else:
                if message.type is WSMsgType.CLOSE:
                    self.received.put_nowait(End(message.data, message.extra or ""))
                self.over.set()
                return

    async def close(self, code: int, reason: str) -> None:
        if isinstance(self.ws, web.WebSocketResponse):
            # A server that is closed while it receives disconnects without waiting for the answer. So does a client
            # that is closed after receive() was cancelled.
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.ws.close(code=code, message=reason.encode())
        assert self.ws.close_code is not None
        self.received.put_nowait(End(self.ws.close_code, ""))
        self.over.set()

    async def ping(self) -> None:
        await self.ws.ping(b"interop")
        assert await self.pongs.get() == b"interop"

    async def send(self, message: str | bytes) -> None:
        await (self.ws.send_str(message) if isinstance(message, str) else self.ws.send_bytes(message))

    async def send_parts(self, parts: Sequence[str] | Sequence[bytes]) -> None:
        # aiohttp has no function for fragments, so they are written by hand, uncompressed.
        opcode = 1 if isinstance(parts[0], str) else 2
        frames = b""
        payloads = [part.encode() if isinstance(part, str) else part for part in parts]
        for index, data in enumerate(payloads):
            assert len(data) < 126
            first = (0 if index else opcode) | (0x80 if index == len(parts) - 1 else 0)
            if isinstance(self.ws, ClientWebSocketResponse):
                key = os.urandom(4)
                masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
                frames += struct.pack("BB", first, 0x80 | len(data)) + key + masked
            else:
                frames += struct.pack("BB", first, len(data)) + data
        self.transport.write(frames)

    async def echo(self, count: int) -> None:
        for _ in range(count):
            message = await self.received.get()
            assert not isinstance(message, End)
            await self.send(message)

    async def kill(self) -> None:
        self.transport.abort()

    @property
    def transport(self) -> asyncio.Transport:
        assert self.ws._writer is not None
        transport = self.ws._writer.transport
        assert isinstance(transport, asyncio.Transport)
        return transport


@attrs.define
class AiohttpPeer(Peer):
    loop: EventLoop
    connection: Connection

    async def send(self, message: str | bytes) -> None:
        await self.loop.run(self.connection.send(message))

    async def send_parts(self, parts: Sequence[str] | Sequence[bytes]) -> None:
        await self.loop.run(self.connection.send_parts(parts))

    async def receive(self) -> str | bytes | End:
        return await self.loop.run(self.connection.received.get())

    async def echo(self, count: int) -> None:
        await self.loop.run(self.connection.echo(count))

    async def ping(self) -> None:
        await self.loop.run(self.connection.ping())

    async def close(self, code: int, reason: str = "") -> None:
        await self.loop.run(self.connection.close(code, reason))

    async def kill(self) -> None:
        await self.loop.run(self.connection.kill())


class AiohttpListening(Listening):
    def __init__(self, library: Aiohttp, subprotocols: Sequence[str], limit: int, compression: Theirs) -> None:
        self.library = library
        self.options: dict[str, Any] = {
            "protocols": subprotocols,
            # aiohttp rejects messages of exactly this size, too.
            "max_msg_size": limit + 1,
            "autoping": library.autoping,
            **compress(compression, {}),
        }
        self.accepted: asyncio.Queue[tuple[Connection, str]] = asyncio.Queue()

    async def start(self, tls: Certificates | None) -> None:
        application = web.Application()
        handlers: dict[str, Handler] = {"/path": self.handle, "/refuse": self.refuse}
        application.add_routes([web.get(path, handler) for path, handler in handlers.items()])
        self.runner = web.AppRunner(application, shutdown_timeout=1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=None if tls is None else tls.server).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(**self.options)
        ws.headers["X-Interop"] = "hello"
        await ws.prepare(request)
        connection = Connection(ws)
        self.accepted.put_nowait((connection, request.headers["X-Interop"]))
        await connection.over.wait()
        return ws

    async def refuse(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text="no")

    async def accept(self) -> Peer:
        connection, header = await self.library.loop.run(self.accepted.get())
        return AiohttpPeer(ws_protocol(connection.ws), header, self.library.loop, connection)


def ws_protocol(ws: AiohttpWebSocket) -> str | None:
    return ws.protocol if isinstance(ws, ClientWebSocketResponse) else ws.ws_protocol


def compress(compression: Theirs, default: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the library."""
    if compression == "default":
        return default
    return {"compress": 0} if compression is None else dict(compression)


class Aiohttp(Library):
    """aiohttp. Its server accepts permessage-deflate by default, and its client offers it here.

    Args:
        loop: The event loop in which it runs.
        session: The session for its connections.
        autoping: Whether it answers pings itself, the default. It does not report pongs then.
    """

    echoes_codes = False
    compresses_fragments = False

    def __init__(self, loop: EventLoop, session: ClientSession, autoping: bool = False) -> None:
        self.loop = loop
        self.session = session
        self.autoping = autoping

    async def connect(
        self,
        uri: str,
        tls: Certificates | None,
        subprotocols: Sequence[str],
        limit: int,
        compression: Theirs = "default",
    ) -> Peer:
        async def open_connection() -> Connection:
            ws = await self.session.ws_connect(
                uri,
                ssl=True if tls is None else tls.client,
                protocols=subprotocols,
                max_msg_size=limit + 1,
                headers={"X-Interop": "hello"},
                autoping=self.autoping,
                **compress(compression, {"compress": 15}),
            )
            return Connection(ws)

        connection = await self.loop.run(open_connection())
        return AiohttpPeer(ws_protocol(connection.ws), None, self.loop, connection)

    @contextlib.asynccontextmanager
    async def listen(
        self, tls: Certificates | None, subprotocols: Sequence[str], limit: int, compression: Theirs = "default"
    ) -> AsyncIterator[Listening]:
        listening = AiohttpListening(self, subprotocols, limit, compression)
        await self.loop.run(listening.start(tls))
        try:
            yield listening
        finally:
            with trio.CancelScope(shield=True):
                await self.loop.run(listening.stop())


@pytest.fixture(scope="module")
def library() -> Iterator[Aiohttp]:
    async def open_session() -> ClientSession:
        return ClientSession()

    with EventLoop() as loop:
        session = loop.call(open_session())
        yield Aiohttp(loop, session)
        loop.call(session.close())


NEGOTIATIONS = [
    # Its server agrees to parameters for itself, and ignores the others, which we apply nevertheless.
    *ours(
        "client",
        {
            "off": None,
            "default": Answer(),
            "every size": Answer(),
            "server alone": Answer(server_takeover=False),
            "client alone": Answer(),
            "both alone": Answer(server_takeover=False),
            "9 and 10 bits": Answer(9),
            "10 and 9 bits": Answer(10),
            # It cannot compress with such a small window.
            "8 bits for the server": None,
            "8 bits for the client": Answer(),
            # It agrees without an answer, although one is required (RFC 7692, section 7.1.2.1).
            "15 bits": Answer(),
        },
    ),
    # Its client cannot compress with 8 bits.
    *ours("server", OUR_ANSWERS),
    # Its only other setting is the window of the server, and its server ignores it.
    *theirs("client", ("off", None, None)),
    *theirs(
        "server",
        ("off", None, None),
        ("9 bits", {"compress": 9}, Answer(9, 12)),
        ("10 bits", {"compress": 10}, Answer(10, 12)),
    ),
    Negotiation("server", "both less", Deflate(client_max_window_bits=9), {"compress": 10}, Answer(10, 9)),
]


class TestAiohttp(Scenarios):
    async def test_pings_answered_automatically(self, library: Aiohttp, role: str) -> None:
        library = Aiohttp(library.loop, library.session, autoping=True)
        async with connect_with(library, role) as (ws, peer):
            assert await ws.ping() > 0
            await ws.send("hello")
            assert await peer.receive() == "hello"
