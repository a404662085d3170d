"""Whole connections over memory, on a virtual clock: a server or a client, and a peer that sends the input.

The first two bytes are options: which end is tested, and whether the input begins before or after the opening
handshake. Whatever comes in, the end that is tested must close its stream in bounded time, raise only exceptions of its
own, log no error, and leave no task behind.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import Any

from tests.fuzz.harness import check_text, chunks, instrument, main

with instrument():
    import trio
    import trio.testing

    import trio_ws

#: Seconds on the virtual clock. The timeouts of a connection add up to less.
DEADLINE = 300.0

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class NoErrors(logging.Handler):
    """Turns what is logged as an error into a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.errors.append(self.format(record))


logger = logging.getLogger("trio_ws")
logger.propagate = False
logger.addHandler(no_errors := NoErrors())


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def echo_in_parts(ws: trio_ws.WebSocket) -> None:
    while True:
        async with ws.receive_stream() as incoming, ws.send_stream() as outgoing:
            async for part in incoming:
                if isinstance(part, bytes):
                    await outgoing.send(part)


async def send_all(stream: trio.abc.Stream, data: bytes, size: int) -> None:
    try:
        for chunk in chunks(data, size):
            await stream.send_all(chunk)
        await stream.send_eof()  # type: ignore[attr-defined]  # a memory stream
    except trio.BrokenResourceError:
        pass


async def receive_to_end(stream: trio.abc.Stream) -> None:
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass


async def run_server(stream: trio.StapledStream[Any, Any], handler: trio_ws.Handler) -> None:
    await trio_ws.serve_over(stream, handler, max_message_size=100_000, ping_interval=7)


async def run_client(stream: trio.StapledStream[Any, Any], handler: Any) -> None:
    try:
        async with trio_ws.connect_over(stream, "ws://example.org/", max_message_size=100_000) as ws:
            await handler(ws)
    except trio_ws.WebSocketException as exc:
        check_text(exc)


async def answer(stream: trio.StapledStream[Any, Any]) -> bytes:
    """Read the request of the client that is tested, and return a valid response."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += await stream.receive_some()
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    return (
        b"HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )


async def converse(options: int, size: int, data: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    handler = echo_in_parts if options & 4 else echo
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_server if options & 1 else run_client, ours, handler)
            if options & 2:
                data = (REQUEST if options & 1 else await answer(theirs)) + data
            nursery.start_soon(send_all, theirs, data, size)
            nursery.start_soon(receive_to_end, theirs)


def TestOneInput(data: bytes) -> None:
    if len(data) < 2:
        return
    no_errors.errors = []
    trio.run(converse, data[0], data[1], data[2:], clock=trio.testing.MockClock(autojump_threshold=0))
    assert not no_errors.errors, no_errors.errors


if __name__ == "__main__":
    main(TestOneInput)
