"""Helpers for the tests of the server: scripted clients."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.exceptions import (
    ConnectionClosed,
)
from trio_ws.http11 import Response, ResponseParser

from ..support import echo

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

MASK = b"\0\0\0\0"

TEXT_HI = b"\x81\x82" + MASK + b"hi"

Stream = trio.abc.Stream

Logs = pytest.LogCaptureFixture


HEADERS = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(*more: str, line: str = "GET / HTTP/1.1", **changes: str | None) -> bytes:
    """Return a valid request with changed headers. Their names have underscores; ``Host=None`` omits the header."""
    headers = {**HEADERS, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([line, *lines, *more, "", ""]).encode("iso-8859-1")


async def read_response(stream: Stream) -> tuple[Response, bytes]:
    """Return the response and the bytes received after it."""
    parser = ResponseParser()
    response = None
    while response is None:
        response = parser.feed(bytes(await stream.receive_some()))
    return response, parser.unused


async def never(ws: trio_ws.WebSocket) -> None:
    pytest.fail("there was nothing to handle")


def failures(caplog: Logs) -> list[BaseException]:
    """Return the exceptions that were logged as failures of handlers. Check that they have tracebacks."""
    found = []
    for record in caplog.records:
        if record.levelno >= logging.ERROR:
            assert record.name == "trio_ws.server"
            assert record.exc_info is not None
            exc = record.exc_info[1]
            assert exc is not None
            assert exc.__traceback__ is not None
            found.append(exc)
    return found


async def closing_of(ws: trio_ws.WebSocket) -> ConnectionClosed:
    """Return the exception with which a connection ends. No message may arrive before that."""
    with pytest.raises(ConnectionClosed) as caught:
        pytest.fail(f"received {await ws.receive()!r}")
    return caught.value


class MemoryListener(trio.abc.Listener[Stream]):
    """A listener for memory streams, which allow a virtual clock."""

    def __init__(self, wrap: Callable[[Stream], Stream] = lambda stream: stream) -> None:
        self._sender, self._receiver = trio.open_memory_channel[Stream](100)
        self._wrap = wrap
        self.closed = False

    def connect(self) -> Stream:
        """Return the client's end of a new connection."""
        client, server = trio.testing.memory_stream_pair()
        self._sender.send_nowait(self._wrap(server))
        return client

    async def accept(self) -> Stream:
        return await self._receiver.receive()

    async def aclose(self) -> None:
        self.closed = True
        self._receiver.close()
        self._sender.close()
        await trio.lowlevel.checkpoint()


async def start(nursery: trio.Nursery, handler: trio_ws.Handler, **options: Any) -> trio_ws.Server:
    server = await nursery.start(partial(trio_ws.serve, handler, **options))
    assert isinstance(server, trio_ws.Server)
    return server


async def start_tcp(nursery: trio.Nursery, handler: trio_ws.Handler = echo, **options: Any) -> trio_ws.Server:
    return await start(nursery, handler, port=0, host="127.0.0.1", **options)


async def start_in_memory(
    nursery: trio.Nursery, handler: trio_ws.Handler, **options: Any
) -> tuple[trio_ws.Server, MemoryListener]:
    listener = MemoryListener()
    return await start(nursery, handler, listeners=[listener], **options), listener


def url(server: trio_ws.Server) -> str:
    return f"ws://127.0.0.1:{server.port}/"
