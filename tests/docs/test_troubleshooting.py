"""The messages on the page about troubleshooting: each of them is provoked here."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws import frames
from trio_ws.http11 import RequestParser
from trio_ws.protocol.handshake import accept
from trio_ws.testing import Role, ScriptedPeer

from ..ports import free_port
from ..server.clients import start_in_memory

PAGE = (Path(__file__).parent.parent.parent / "docs" / "troubleshooting.rst").read_text(encoding="utf-8")

#: The messages on the page: terms of definition lists, in double backquotes.
MESSAGES = re.findall(r"^``(.+)``\n   \S", PAGE, re.MULTILINE)

#: An async function that provokes an error and returns its message.
Scenario: TypeAlias = Callable[[], Awaitable[str]]
SCENARIOS: dict[str, Scenario] = {}
#: The scenarios that use sockets, and therefore the real clock.
WITH_SOCKETS: set[Scenario] = set()

MEMORY = "ws://memory/"


def provokes(message: str, *, sockets: bool = False) -> Callable[[Scenario], Scenario]:
    """Register the scenario for a message of the page."""

    def register(scenario: Scenario) -> Scenario:
        SCENARIOS[message] = scenario
        if sockets:
            WITH_SOCKETS.add(scenario)
        return scenario

    return register


def is_shown_by(quoted: str, message: str) -> bool:
    """Whether a message contains the quoted text, in which … stands for anything."""
    return re.search(".+".join(map(re.escape, quoted.split("…"))).removesuffix(".+"), message) is not None


async def message_of(connecting: trio_ws.Connecting) -> str:
    """Return the message of the error that connecting raises."""
    with pytest.raises((OSError, trio_ws.WebSocketException)) as caught:
        async with connecting:
            pass
    return str(caught.value)


async def answered_with(data: bytes, **options: Any) -> str:
    """Return the message of the error after a server has answered with these bytes."""
    client_end, server_end = trio.testing.memory_stream_pair()
    await server_end.send_all(data)
    await server_end.send_eof()
    return await message_of(trio_ws.connect_over(client_end, MEMORY, **options))


async def ended_by(
    play: Callable[[ScriptedPeer], Awaitable[object]], role: Role = Role.SERVER, **options: Any
) -> tuple[str, str]:
    """Return the messages of a ConnectionClosed and of its cause, after a peer has done something."""
    ours, theirs = trio.testing.memory_stream_pair()
    caught: list[trio_ws.ConnectionClosed] = []

    async def receive(ws: trio_ws.WebSocket) -> None:
        try:
            while True:
                await ws.receive()
        except trio_ws.ConnectionClosed as exc:
            caught.append(exc)

    async def run() -> None:
        if role is Role.CLIENT:
            await trio_ws.serve_over(ours, receive, **options)
        else:
            async with trio_ws.connect_over(ours, MEMORY, **options) as ws:
                await receive(ws)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        peer = ScriptedPeer(theirs, role)
        await peer.handshake()
        await play(peer)
        nursery.start_soon(swallow, peer)
    return str(caught[0]), str(caught[0].__cause__)


async def swallow(peer: ScriptedPeer) -> None:
    """Read without answering until the end of the stream."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await peer.receive() is not None:
            pass
    await peer.aclose()


async def serve(nursery: trio.Nursery, handler: Any = None, **options: Any) -> trio_ws.Server:
    async def wait(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()

    start = partial(trio_ws.serve, handler or wait, 0, host="127.0.0.1", **options)
    return cast(trio_ws.Server, await nursery.start(start))


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what the server logs."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("trio_ws.server"), Collect()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# -- Connecting ----------------------------------------------------------------------------------------------------


@provokes("cannot connect to …", sockets=True)
async def nobody_listens() -> str:
    return await message_of(trio_ws.connect(f"ws://127.0.0.1:{free_port()}/"))


@provokes("connecting to … took longer than … seconds")
async def no_answer() -> str:
    client_end, _server_end = trio.testing.memory_stream_pair()
    return await message_of(trio_ws.connect_over(client_end, MEMORY, open_timeout=0.01))


@provokes("certificate not accepted: …", sockets=True)
async def unknown_authority() -> str:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with trio.open_nursery() as nursery:
        server = await serve(nursery, ssl=context)
        message = await message_of(trio_ws.connect(f"wss://127.0.0.1:{server.port}/", ssl=ssl.create_default_context()))
        nursery.cancel_scope.cancel()
    return message


@provokes("TLS: … alert handshake failure", sockets=True)
async def no_certificate() -> str:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with logged() as lines:
        async with trio.open_nursery() as nursery:
            server = await serve(nursery, ssl=context)
            message = await message_of(trio_ws.connect(f"wss://127.0.0.1:{server.port}/"))
            await server.aclose()
    assert "no shared cipher" in lines[0]  # as the page says
    return message


@provokes("the server does not speak TLS on this port", sockets=True)
async def no_tls() -> str:
    async with trio.open_nursery() as nursery:
        server = await serve(nursery)
        message = await message_of(trio_ws.connect(f"wss://127.0.0.1:{server.port}/"))
        nursery.cancel_scope.cancel()
    return message


@provokes("it is not HTTP, but begins with …: this looks like TLS, which wss:// is for")
async def only_tls() -> str:
    return await answered_with(b"\x15\x03\x01\x00\x02\x02\x46")


@provokes("the server refused the WebSocket connection: HTTP status …")
async def refused() -> str:
    return await answered_with(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


@provokes("the redirect was not followed because …", sockets=True)
async def redirected() -> str:
    def redirect(opening: trio_ws.Opening, _request: trio_ws.Request) -> trio_ws.Response:
        return opening.respond(301, "")

    async with trio.open_nursery() as nursery:
        server = await serve(nursery, process_request=redirect)
        message = await message_of(trio_ws.connect(f"ws://127.0.0.1:{server.port}/"))
        nursery.cancel_scope.cancel()
    return message


@provokes("the server closed the connection during the opening handshake")
async def closed_early() -> str:
    return await answered_with(b"")


@provokes("the server chose the subprotocol …, which was not offered")
async def unwanted_subprotocol() -> str:
    client_end, server_end = trio.testing.memory_stream_pair()

    async def answer() -> None:
        parser, request = RequestParser(), None
        while request is None:
            request = parser.feed(bytes(await server_end.receive_some()))
        head = accept(request)[0].serialize().replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n")
        await server_end.send_all(head)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        return await message_of(trio_ws.connect_over(client_end, MEMORY))


@provokes("cannot connect to … through the proxy …", sockets=True)
async def no_proxy() -> str:
    proxy = f"http://127.0.0.1:{free_port()}"
    return await message_of(trio_ws.connect("ws://example.org/", proxy=proxy))


@provokes("SOCKS proxies need python-socks: …")
async def no_socks() -> str:
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "python_socks"}
    sys.modules["python_socks"] = None  # type: ignore[assignment]  # lets the import fail
    try:
        with pytest.raises(ImportError) as caught:
            async with trio_ws.connect("ws://example.org/", proxy="socks5://127.0.0.1"):
                pass
    finally:
        del sys.modules["python_socks"]
        sys.modules.update(hidden)
    return str(caught.value)


@provokes("… is not a WebSocket URI: …")
async def not_a_uri() -> str:
    with pytest.raises(trio_ws.InvalidURI) as caught:
        trio_ws.connect("http://example.org/")
    return str(caught.value)


# -- Open connections ------------------------------------------------------------------------------------------------


@provokes("the connection was lost without a closing handshake")
async def lost() -> str:
    return (await ended_by(ScriptedPeer.aclose))[0]


@provokes("sent 1011 (internal error) keepalive ping timeout, then the connection was lost")
async def silent() -> str:
    return (await ended_by(swallow_soon, ping_interval=1, ping_timeout=1))[0]


async def swallow_soon(_peer: ScriptedPeer) -> None:
    """Do nothing: ended_by() reads without answering."""


@provokes("no sign of life for … seconds after a ping")
async def cause_of_silence() -> str:
    return (await ended_by(swallow_soon, ping_interval=1, ping_timeout=1))[1]


@provokes("the peer accepted no bytes for … seconds (write_timeout)")
async def reads_nothing() -> str:
    client_end, server_end = trio.testing.lockstep_stream_pair()
    message = ""

    async def send_pongs(peer: ScriptedPeer) -> None:
        await peer.handshake()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await peer.send(frames.Frame(frames.Opcode.PONG, b""))
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        peer = ScriptedPeer(server_end, Role.SERVER)
        nursery.start_soon(send_pongs, peer)
        async with trio_ws.connect_over(client_end, MEMORY, write_timeout=5, close_timeout=1) as ws:
            await ws.send("x" * 100_000)
            with pytest.raises(trio_ws.ConnectionClosedError) as caught:
                await ws.receive()
            message = str(caught.value.__cause__)
        nursery.cancel_scope.cancel()
    return message


@provokes("the message must have at most … bytes, not … or more")
async def too_large() -> str:
    async def send(peer: ScriptedPeer) -> None:
        await peer.send(frames.Frame(frames.Opcode.BINARY, bytes(11)))

    return (await ended_by(send, max_message_size=10, close_timeout=1))[0]


@provokes("at most … messages per second are allowed", sockets=True)
async def too_many() -> str:
    async def count(ws: trio_ws.WebSocket) -> None:
        async for _ in ws:
            pass

    async with trio.open_nursery() as nursery:
        server = await serve(nursery, count, limits=trio_ws.Limits(messages_per_second=1))
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}/") as ws:
            with pytest.raises(trio_ws.ConnectionClosedError) as caught:
                while True:
                    await ws.send("hello")
        await server.aclose()
    return str(caught.value)


@provokes("the peer reads too slowly: …")
async def too_slow() -> str:
    async with trio_ws.testing.memory_websocket_pair(compression=None) as (client, _server):
        for _ in range(10):
            trio_ws.broadcast([client], bytes(1000), max_backlog=1000)
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await client.receive()
    return str(caught.value.__cause__)


@provokes("messages were lost: the handler did not receive them in time")
async def shut_down_with_a_slow_handler() -> str:
    closed = trio.Event()
    causes: list[str] = []

    async def receive_late(ws: trio_ws.WebSocket) -> None:
        await closed.wait()
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            while True:
                await ws.receive()
        causes.append(str(caught.value.__cause__))

    async with trio.open_nursery() as nursery:
        server, listener = await start_in_memory(nursery, receive_late, compression=None)
        async with trio_ws.connect_over(listener.connect(), MEMORY, compression=None) as ws:
            for _ in range(5):
                await ws.send(bytes(100_000))
            nursery.start_soon(server.aclose)
            await ws.wait_closed()
            closed.set()
    return causes[0]


@provokes("the closing handshake took longer than … seconds (close_timeout)")
async def no_answer_to_close() -> str:
    client_end, server_end = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ScriptedPeer(server_end, Role.SERVER).handshake)
        async with trio_ws.connect_over(client_end, MEMORY, close_timeout=1) as ws:
            await ws.aclose()
            with pytest.raises(trio_ws.ConnectionClosed) as caught:
                await ws.receive()
    return str(caught.value.__cause__)


@provokes("text is not UTF-8: …")
async def not_text() -> str:
    async def send(peer: ScriptedPeer) -> None:
        await peer.send(frames.Frame(frames.Opcode.TEXT, b"\xff"))

    return (await ended_by(send, close_timeout=1))[0]


@provokes("a frame from a client must be masked")
async def not_masked() -> str:
    async def send(peer: ScriptedPeer) -> None:
        await peer.send(b"\x81\x00")

    return (await ended_by(send, Role.CLIENT, close_timeout=1))[0]


# -- Your own program ------------------------------------------------------------------------------------------------


@provokes("connect() must be used as `async with connect(...) as ws:`")
async def awaited() -> str:
    with pytest.raises(TypeError) as caught:
        await cast(Any, trio_ws.connect("ws://example.org/"))
    return str(caught.value)


@provokes("connect() has no option …")
async def unknown_option() -> str:
    with pytest.raises(TypeError) as caught:
        trio_ws.connect("ws://example.org/", max_size=1)  # type: ignore[call-arg]  # the error under test
    return str(caught.value)


@provokes("connect() must be called in a Trio task, not …", sockets=True)
async def under_asyncio() -> str:
    async def main() -> str:
        with pytest.raises(RuntimeError) as caught:
            async with trio_ws.connect("ws://example.org/"):
                pass
        return str(caught.value)

    return await trio.to_thread.run_sync(lambda: asyncio.run(main()))


@provokes("handler must be an async function, …")
async def not_async() -> str:
    def handler(ws: trio_ws.WebSocket) -> None:
        pass

    with pytest.raises(TypeError) as caught:
        await trio_ws.serve(cast(Any, handler), 0)
    return str(caught.value)


@provokes("port must be an int, not …; a host must be given as host=…")
async def host_before_port() -> str:
    async def handler(ws: trio_ws.WebSocket) -> None:
        pass

    with pytest.raises(TypeError) as caught:
        await trio_ws.serve(handler, cast(Any, "localhost"))
    return str(caught.value)


# -- The log of a server ---------------------------------------------------------------------------------------------


@provokes("connection from …: the handler failed", sockets=True)
async def handler_fails() -> str:
    async def fail(ws: trio_ws.WebSocket) -> None:
        raise LookupError("oops")

    with logged() as lines:
        async with trio.open_nursery() as nursery:
            server = await serve(nursery, fail)
            async with trio_ws.connect(f"ws://127.0.0.1:{server.port}/") as ws:
                with pytest.raises(trio_ws.ConnectionClosedError):
                    await ws.receive()
            await server.aclose()
    return lines[0]


@provokes("TLS handshake with … failed: …", sockets=True)
async def speaks_no_tls() -> str:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with logged() as lines:
        async with trio.open_nursery() as nursery:
            server = await serve(nursery, ssl=context)
            message = await message_of(trio_ws.connect(f"ws://127.0.0.1:{server.port}/"))
            await server.aclose()
    assert "the server closed the connection during the opening handshake" in message
    assert "http request" in lines[0]  # as the page says
    return lines[0]


@provokes("opening handshake with … timed out after … seconds")
async def incomplete_request() -> str:
    async def handler(ws: trio_ws.WebSocket) -> None:
        pass

    client_end, server_end = trio.testing.memory_stream_pair()
    await client_end.send_all(b"GET /")
    with logged() as lines:
        await trio_ws.serve_over(server_end, handler)
    return lines[0]


@provokes("connection from … rejected: the limit of … connections is reached", sockets=True)
async def full() -> str:
    with logged() as lines:
        async with trio.open_nursery() as nursery:
            server = await serve(nursery, limits=trio_ws.Limits(connections=1))
            async with trio_ws.connect(f"ws://127.0.0.1:{server.port}/"):
                await message_of(trio_ws.connect(f"ws://127.0.0.1:{server.port}/"))
            await server.aclose()
    return lines[0]


@provokes("cannot accept connections, trying every … seconds: …")
async def no_descriptors() -> str:
    class Full(trio.abc.Listener[trio.SocketStream]):
        """A listener of a process that has no file descriptors left."""

        async def accept(self) -> trio.SocketStream:
            nursery.cancel_scope.cancel()
            raise OSError(errno.EMFILE, "Too many open files")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async def handler(ws: trio_ws.WebSocket) -> None:
        pass

    with logged() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio_ws.serve, handler, listeners=[Full()]))
    return lines[0]


# -- The page --------------------------------------------------------------------------------------------------------


def test_the_page_quotes_the_messages_that_are_provoked_here() -> None:
    assert len(MESSAGES) > 25
    assert sorted(MESSAGES) == sorted(SCENARIOS)


@pytest.mark.parametrize("quoted", sorted(SCENARIOS))
def test_the_message_exists(quoted: str) -> None:
    scenario = SCENARIOS[quoted]
    clock = None if scenario in WITH_SOCKETS else trio.testing.MockClock(autojump_threshold=0)
    message = trio.run(scenario, clock=clock)
    assert is_shown_by(quoted, message), message


def test_the_page_explains_every_close_code() -> None:
    table = PAGE.partition("Close codes\n-----------")[2]
    codes = [int(code) for code in re.findall(r"^   \* - (\d{4})\n", table, re.MULTILINE)]
    assert codes == sorted(trio_ws.CloseCode)


def test_the_page_explains_every_status_that_the_library_sends() -> None:
    package = Path(trio_ws.__file__).parent
    sources = [*(package / "server").glob("*.py"), *(package / "protocol").glob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in sources)
    sent = {int(status) for status in re.findall(r"(?:respond\(|status = |return |else |, )([45]\d\d)\b", code)}
    assert sent >= {400, 401, 403, 404, 405, 408, 421, 426, 500, 503, 505}
    explained = re.findall(r"^   \* - (\d{3})\n", PAGE, re.MULTILINE)
    assert {*sent, trio_ws.HeadTooBig(0).status} <= set(map(int, explained))
