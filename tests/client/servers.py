"""Scripted servers for tests of clients."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.client.connecting import BODY_TIMEOUT
from trio_ws.exceptions import (
    InvalidStatus,
)
from trio_ws.http11 import Request, RequestParser

from ..support import Send, Wrapped, echo, in_one_piece

URI = "ws://example.org/"

TEXT_HI = b"\x81\x02hi"

Stream = trio.abc.Stream


async def read_request(stream: Stream) -> Request:
    parser = RequestParser()
    request = None
    while request is None:
        request = parser.feed(bytes(await stream.receive_some()))
    assert parser.unused == b""
    return request


def accept_key(request: Request) -> str:
    digest = hashlib.sha1(request.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
    return base64.b64encode(digest.digest()).decode()


def switch(request: Request, *more: str, without: str | None = None) -> bytes:
    """Return a valid answer to a request, with the changes that the test asks for."""
    headers = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept_key(request)}"]
    lines = [line for line in headers if without is None or not line.startswith(f"{without}:")]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, *more, "", ""]).encode("iso-8859-1")


Answer = Callable[[Request], bytes]


@contextlib.asynccontextmanager
async def scripted_server(answer: Answer, send: Send = in_one_piece) -> AsyncIterator[tuple[Stream, Stream]]:
    """Yield both ends of a stream, the client's first. The server answers one request and does nothing more."""
    client, server = trio.testing.memory_stream_pair()

    async def run() -> None:
        request = await read_request(server)
        with contextlib.suppress(trio.BrokenResourceError):
            await send(server, answer(request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield client, server
        nursery.cancel_scope.cancel()


async def is_closed(peer: Stream) -> bool:
    """Return whether the other end of a memory stream is closed in both directions."""
    with trio.move_on_after(1):
        while await peer.receive_some():
            pass
        try:
            await peer.send_all(b"x")
        except (trio.BrokenResourceError, trio.ClosedResourceError):  # Closed by this end.
            return True
    return False


async def expect_failure(connecting: trio_ws.Connecting) -> BaseException:
    """Return the exception that is raised on entering."""
    with pytest.raises(trio_ws.WebSocketException) as caught:
        async with connecting:
            pytest.fail("the connection was opened")
    return caught.value


async def failure_of(answer: Answer, send: Send = in_one_piece, **options: Any) -> BaseException:
    """Return the exception of connect_over() for an answer, and check that it closes the stream."""
    async with scripted_server(answer, send) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(client, URI, **options))
        assert await is_closed(server)
    return exc


async def start_server(nursery: trio.Nursery, handler: trio_ws.Handler = echo, **options: Any) -> trio_ws.Server:
    server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1", **options))
    assert isinstance(server, trio_ws.Server)
    return server


async def start_tcp(nursery: trio.Nursery, talk: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    """Serve every client with a function. Return the port."""

    async def serve_one(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await talk(stream)

    listeners = await nursery.start(partial(trio.serve_tcp, serve_one, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    assert isinstance(port, int)
    return port


def refusal(*headers: str, body: bytes = b"", status: str = "403 Forbidden") -> Answer:
    return lambda request: "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


async def refused(answer: Answer, send: Send = in_one_piece, **options: Any) -> trio_ws.Response:
    """Return the response of InvalidStatus, and check that it is reported without delay unless its body is slow."""
    start = trio.current_time()
    async with scripted_server(answer, send) as (client, server):
        exc = await expect_failure(trio_ws.connect_over(client, URI, **options))
        assert trio.current_time() - start <= BODY_TIMEOUT <= 1
        assert await is_closed(server)
    assert type(exc) is InvalidStatus
    return exc.response


class Breaking(Wrapped):
    """A stream that is reset after the given number of portions was received."""

    def __init__(self, stream: Stream, portions: int) -> None:
        super().__init__(stream)
        self.portions = portions

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.portions == 0:
            raise trio.BrokenResourceError from ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        self.portions -= 1
        return await super().receive_some(max_bytes)
