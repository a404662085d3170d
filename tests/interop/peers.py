"""Remote-controlled WebSocket implementations, and the tests that all of them share.

A :class:`Library` is an implementation that runs in an event loop in a thread of its own, or in another process. Its
ends of connections are :class:`Peer` objects. :class:`Scenarios` has the tests for all libraries; the module of each
library adds its own.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from random import Random
from typing import Any, NamedTuple, TypeVar

import attrs
import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws import Close
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidStatus,
)

from .compression import HEADER, Answer, Direction, Negotiation, Theirs, Wire

T = TypeVar("T")

MIB = 1024 * 1024
LARGE = 8 * MIB

#: Messages that have much in common, like most messages in practice.
SIMILAR = [
    f'{{"id": {n}, "type": "quote", "symbol": "ACME", "bid": {1 + n / 7:.4f}, "ask": {1 + n / 6:.4f}}}'
    for n in range(20)
]
#: Messages so large that we compress them in a thread.
TEXT = " ".join(Random(1).choices(["é" + Random(n).randbytes(4).hex() for n in range(30)], k=27_500))
NOISE = Random(2).randbytes(70_000)

#: The codes that may be sent (RFC 6455, section 7.4; 1012 to 1014 are in the IANA registry).
CLOSE_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]


async def result_of(future: Future[T]) -> T:
    """Wait for a future of another thread."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wake(_: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    future.add_done_callback(wake)
    await done.wait()
    return future.result()


class EventLoop:
    """An asyncio event loop in a thread of its own, within a block."""

    def __enter__(self) -> EventLoop:
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=[self._main()], name="asyncio")
        self._thread.start()
        self._loop = self._started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._started.set_result(asyncio.get_running_loop())
        await self._stop.wait()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and return its result."""
        return await result_of(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do the same from a thread without Trio."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


@attrs.frozen
class Certificates:
    """A certificate authority and a certificate of this host, as contexts and as PEM."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    authority: str
    chain: str
    key: str

    @classmethod
    def make(cls) -> Certificates:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        return cls(
            server,
            client,
            authority.cert_pem.bytes().decode(),
            "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems),
            certificate.private_key_pem.bytes().decode(),
        )


class End(NamedTuple):
    """The end of a connection, as the peer saw it: 1005 for a Close frame without a code, 1006 for no Close frame."""

    code: int
    reason: str


@attrs.define
class Peer(abc.ABC):
    """The other end of a connection.

    Attributes:
        subprotocol: The negotiated subprotocol.
        header: The X-Interop header of our request; None when we are the server.
    """

    subprotocol: str | None
    header: str | None

    @abc.abstractmethod
    async def send(self, message: str | bytes) -> None: ...

    @abc.abstractmethod
    async def send_parts(self, parts: Sequence[str] | Sequence[bytes]) -> None:
        """Send a message as fragments."""

    @abc.abstractmethod
    async def receive(self) -> str | bytes | End:
        """Return the next message, or at the end the :class:`End`."""

    @abc.abstractmethod
    async def echo(self, count: int) -> None:
        """Send back this number of messages."""

    @abc.abstractmethod
    async def ping(self) -> None:
        """Send a ping, and return when the pong has arrived."""

    @abc.abstractmethod
    async def close(self, code: int, reason: str = "") -> None: ...

    @abc.abstractmethod
    async def kill(self) -> None:
        """Abort the connection below."""


class Listening(abc.ABC):
    """A server of a library.

    Attributes:
        port: The port on which it listens.
    """

    port: int

    @abc.abstractmethod
    async def accept(self) -> Peer:
        """Return the next connection."""


class Library(abc.ABC):
    """Another WebSocket implementation."""

    #: Whether the library answers a Close frame with the same code; otherwise with 1000.
    echoes_codes = True
    #: Whether the library compresses messages that it sends as fragments.
    compresses_fragments = True

    @abc.abstractmethod
    async def connect(
        self,
        uri: str,
        tls: Certificates | None,
        subprotocols: Sequence[str],
        limit: int,
        compression: Theirs = "default",
    ) -> Peer:
        """Connect, with the header ``X-Interop: hello``."""

    @abc.abstractmethod
    def listen(
        self, tls: Certificates | None, subprotocols: Sequence[str], limit: int, compression: Theirs = "default"
    ) -> AbstractAsyncContextManager[Listening]:
        """Listen on 127.0.0.1. Responses have the header ``X-Interop: hello``; requests for /refuse get a 403."""


Connect = Callable[..., AbstractAsyncContextManager[tuple[trio_ws.WebSocket, Peer]]]

#: For what is special to messages. All else is tried with compression agreed on, as is the default.
with_and_without_compression = pytest.mark.parametrize(
    "compression", ["deflate", None], ids=["deflate", "uncompressed"]
)


class Scenarios:
    """The tests that all libraries share, with both ends in both roles.

    The module for a library has the fixture ``library``, and ``NEGOTIATIONS`` with the settings for compression.
    """

    @pytest.fixture(params=["client", "server"])
    def role(self, request: pytest.FixtureRequest) -> str:
        """Our role."""
        return str(request.param)

    @pytest.fixture
    def compression(self) -> Any:
        """Our option for compression. The library supports it."""
        return "deflate"

    @pytest.fixture
    def connected(self, library: Library, role: str, compression: Any) -> Connect:
        """A function that opens a connection, by default without TLS."""
        return partial(connect_with, library, role, compression=compression)

    # -- Messages --------------------------------------------------------------------------------------------------

    @with_and_without_compression
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    async def test_messages(self, connected: Connect, tls: bool, certificates: Certificates) -> None:
        messages: list[str | bytes] = [
            "hello",
            b"\x00\xff",
            "",
            b"",
            "héllo \N{SNOWMAN} \U0001f680",
            125 * "x",
            126 * b"x",
            65536 * "é",
        ]
        async with connected(certificates if tls else None) as (ws, peer):
            for message in messages:
                await ws.send(message)
                assert await peer.receive() == message
            for message in messages:
                await peer.send(message)
                assert await ws.receive() == message

    # Compressed messages would not be large for TLS.
    @pytest.mark.parametrize(
        "tls, compression", [(False, "deflate"), (False, None), (True, None)], ids=["deflate", "plain", "TLS"]
    )
    @pytest.mark.parametrize("message", [LARGE * "x", LARGE * b"\xff"], ids=["text", "binary"])
    async def test_large_messages(
        self, connected: Connect, tls: bool, message: str | bytes, certificates: Certificates
    ) -> None:
        async with connected(certificates if tls else None, limit=LARGE) as (ws, peer):
            await ws.send(message)
            # Not in the assertion, whose message would take forever.
            same = await peer.receive() == message
            assert same
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.send, message)
                same = await ws.receive() == message
            assert same

    @with_and_without_compression
    async def test_many_messages(self, connected: Connect) -> None:
        # Large enough to be compressed.
        messages = [f"message {n} {64 * 'x'}" for n in range(1000)]
        async with connected() as (ws, peer):

            async def send() -> None:
                for message in messages:
                    await ws.send(message)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                nursery.start_soon(peer.echo, len(messages))
                for message in messages:
                    assert await ws.receive() == message

    @with_and_without_compression
    @pytest.mark.parametrize("parts", [["hé", "", "llo"], [b"\x00", b"", b"\xff\xfe"], ["one"], 100 * ["é"]], ids=str)
    async def test_fragments(self, connected: Connect, parts: list[Any]) -> None:
        message = parts[0][:0].join(parts)
        async with connected() as (ws, peer):
            await send_parts(ws, parts)
            assert await peer.receive() == message
            await peer.send_parts(parts)
            assert await ws.receive() == message
            await peer.send_parts(parts)
            async with ws.receive_stream() as received:
                assert parts[0][:0].join([part async for part in received]) == message

    @with_and_without_compression
    async def test_fragments_that_cut_a_character(self, connected: Connect) -> None:
        async with connected() as (ws, peer):
            async with ws.send_stream(text=True) as out:
                await out.send(b"sn\xe2\x98")
                await ws.ping()
                await out.send(b"\x83wman")
            assert await peer.receive() == "sn\N{SNOWMAN}wman"

    @with_and_without_compression
    async def test_message_too_big_for_us(self, connected: Connect) -> None:
        async with connected(limit=100) as (ws, peer):
            await peer.send(100 * "x")
            assert await ws.receive() == 100 * "x"
            await peer.send(101 * "x")
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.receive()
            assert caught.value.sent is not None
            assert caught.value.sent.code == 1009
            end = await peer.receive()
            assert isinstance(end, End)
            assert end.code == 1009

    @with_and_without_compression
    async def test_message_too_big_for_the_peer(self, connected: Connect) -> None:
        async with connected(limit=100) as (ws, peer):
            await ws.send(99 * "x")
            assert await peer.receive() == 99 * "x"
            await ws.send(1000 * "x")
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.receive()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009

    # -- Compression -----------------------------------------------------------------------------------------------

    async def test_windows(self, library: Library, negotiation: Negotiation) -> None:
        # The sizes show the window, and whether it is kept between messages.
        random = Random(3)
        async with negotiated(library, negotiation) as (ws, peer, *directions):
            for direction in directions:
                # zlib uses 262 bytes less than its window, and a window of 9 bits instead of 8.
                near = 3 * random.randbytes(2 ** max(direction.bits, 9) - 300)
                far = 3 * random.randbytes(2**direction.bits + 1)
                once = random.randbytes(200)
                messages = [near, far, once, once]
                passed = await direction.exchange(*messages)
                shrunk = [each.size < 0.8 * len(message) for message, each in zip(messages, passed, strict=True)]
                assert shrunk == [direction.finds, False, False, direction.finds and direction.takeover]
        assert ws.close_code == 1000
        assert await peer.receive() == End(1000, "")

    async def test_compressed_messages(self, library: Library, negotiation: Negotiation) -> None:
        async with negotiated(library, negotiation) as (ws, peer, *directions):
            for direction in directions:
                first, *others = await direction.exchange(*SIMILAR)
                if first.compressed:
                    pays = direction.finds and direction.takeover
                    average = sum(each.size for each in others) / len(others)
                    assert (average < 0.8 * first.size) is pays
                await direction.exchange("", b"", "", "é", 100 * "héllo \N{SNOWMAN} \U0001f680", b"\x00\xff")
                compressed, incompressible = await direction.exchange(TEXT, NOISE)
                assert (compressed.size < 0.8 * len(TEXT.encode())) is direction.compresses
                assert 1 <= incompressible.size / len(NOISE) < 1.1
                await direction.exchange(SIMILAR[0], "", SIMILAR[0])
            # Uncompressed messages do not enter the window.
            ours = directions[0]
            plain = attrs.evolve(ours, send=partial(ws.send, compress=False), compresses=False)
            for direction in plain, ours, plain, ours:
                await direction.exchange(*SIMILAR[:3], "", 100 * SIMILAR[0].encode())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.close, 1000)
                with pytest.raises(ConnectionClosedOK):
                    await ws.receive()
            assert await peer.receive() == End(1000, "")
        assert ws.close_code == 1000

    async def test_compressed_fragments(self, library: Library, negotiation: Negotiation) -> None:
        async with negotiated(library, negotiation) as (ws, peer, ours, theirs):
            parts: Any
            for parts in [SIMILAR[0], "", "hé"], [SIMILAR[1].encode(), b"", b"\xff"]:
                message = parts[0][:0].join(parts)
                for compress in True, False:
                    await send_parts(ws, parts, compress=compress)
                    assert await peer.receive() == message
                    [passed] = ours.wire.take(ours.sender)
                    assert passed.compressed is (ours.compresses and compress)
                    assert len(passed.sizes) > 1
                await peer.send_parts(parts)
                assert await ws.receive() == message
                [passed] = theirs.wire.take(theirs.sender)
                # Only the first Close frame counts.
                large_enough = len(parts[0]) >= theirs.min_size
                assert passed.compressed is (theirs.compresses and large_enough and library.compresses_fragments)
                assert len(passed.sizes) > 1
                for direction in ours, theirs:
                    await direction.exchange(message, message)
            await send_parts(ws, [NOISE, b"", NOISE])
            same = await peer.receive() == NOISE + NOISE
            assert same
        assert ws.close_code == 1000
        assert await peer.receive() == End(1000, "")

    # -- Control ---------------------------------------------------------------------------------------------------

    async def test_our_pings(self, connected: Connect) -> None:
        for data in [None, "", b"\xff", 125 * "x"]:
            async with connected() as (ws, _):
                round_trip = await ws.ping(data)
                assert round_trip > 0
                assert ws.latency == round_trip

    async def test_pings_of_the_peer(self, connected: Connect) -> None:
        async with connected() as (ws, peer):
            await peer.ping()
            await peer.send("hello")
            assert await ws.receive() == "hello"
            await peer.ping()

    # -- The opening handshake -------------------------------------------------------------------------------------

    async def test_headers(self, connected: Connect, role: str) -> None:
        async with connected() as (ws, peer):
            theirs = ws.response if role == "client" else ws.request
            assert theirs.headers["X-Interop"] == "hello"
            assert peer.header == ("hello" if role == "client" else None)

    @pytest.mark.parametrize(
        "client, server, agreed", [(["a", "b"], ["b"], "b"), (["b"], ["a", "b"], "b"), ([], ["a"], None)]
    )
    async def test_subprotocols(
        self, connected: Connect, role: str, client: list[str], server: list[str], agreed: str | None
    ) -> None:
        ours, theirs = (client, server) if role == "client" else (server, client)
        async with connected(ours=ours, theirs=theirs) as (ws, peer):
            assert ws.subprotocol == agreed
            assert peer.subprotocol == agreed

    async def test_no_subprotocol_in_common(self, library: Library, role: str) -> None:
        ours, theirs = (["a"], ["b"]) if role == "client" else (["b"], ["a"])
        async with connect_with(library, role, ours=ours, theirs=theirs) as (ws, peer):
            assert ws.subprotocol is None
            assert peer.subprotocol is None

    async def test_rejection(self, library: Library) -> None:
        async with library.listen(None, [], MIB) as listening:
            with pytest.raises(InvalidStatus) as caught:
                async with trio_ws.connect(f"ws://127.0.0.1:{listening.port}/refuse"):
                    pytest.fail("the connection was opened")
        assert caught.value.response.status_code == 403
        assert caught.value.response.body == b"no"

    # -- The closing handshake -------------------------------------------------------------------------------------

    async def test_we_close(self, library: Library, connected: Connect) -> None:
        for code in CLOSE_CODES:
            async with connected() as (ws, peer):
                await ws.aclose(code, "bye é")
                assert await peer.receive() == End(code, "bye é")
                with pytest.raises(ConnectionClosedLocally) as caught:
                    await ws.receive()
                assert caught.value.sent == Close(code, "bye é")
                assert caught.value.rcvd_then_sent is False
                assert ws.close_code == (code if library.echoes_codes else 1000)

    async def test_the_peer_closes(self, connected: Connect) -> None:
        for code in CLOSE_CODES:
            async with connected() as (ws, peer), trio.open_nursery() as nursery:
                nursery.start_soon(peer.close, code, "bye é")
                with pytest.raises(ConnectionClosedOK if code in (1000, 1001) else ConnectionClosedError) as caught:
                    await ws.receive()
                assert isinstance(caught.value, ConnectionClosed)
                assert caught.value.rcvd == Close(code, "bye é")
                assert caught.value.rcvd_then_sent is True
                # Our answer.
                end = await peer.receive()
                assert isinstance(end, End)
                assert end.code == code

    async def test_leaving_the_block(self, connected: Connect) -> None:
        async with connected() as (ws, peer):
            await ws.send("last words")
        assert await peer.receive() == "last words"
        assert await peer.receive() == End(1000, "")

    async def test_cancelled(self, connected: Connect) -> None:
        with trio.CancelScope() as scope:
            async with connected() as (ws, peer):
                await ws.send("last words")
                scope.cancel()
                await trio.sleep_forever()
        assert await peer.receive() == "last words"
        end = await peer.receive()
        assert isinstance(end, End)
        assert end.code == 1001

    async def test_messages_before_the_peer_closes(self, connected: Connect) -> None:
        async with connected() as (ws, peer), trio.open_nursery() as nursery:
            await peer.send("one")
            await peer.send(b"two")
            nursery.start_soon(peer.close, 1000)
            assert [message async for message in ws] == ["one", b"two"]

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    async def test_the_peer_is_killed(self, library: Library, role: str, tls: bool, certificates: Certificates) -> None:
        async with connect_with(library, role, certificates if tls else None) as (ws, peer):
            await peer.kill()
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.receive()
            assert caught.value.code == 1006
            assert (caught.value.rcvd, ws.close_code) == (None, 1006)


async def send_parts(ws: trio_ws.WebSocket, parts: Sequence[str] | Sequence[bytes], *, compress: bool = True) -> None:
    async with ws.send_stream(text=isinstance(parts[0], str), compress=compress) as out:
        for part in parts:
            await out.send(part)


@contextlib.asynccontextmanager
async def connect_with(
    library: Library,
    role: str,
    tls: Certificates | None = None,
    *,
    ours: Sequence[str] = (),
    theirs: Sequence[str] = (),
    limit: int = MIB,
    their_compression: Theirs = "default",
    wire: Wire | None = None,
    **options: Any,
) -> AsyncIterator[tuple[trio_ws.WebSocket, Peer]]:
    """Open a connection with a library, over the wire. ``role`` is our role."""
    scheme = "ws" if tls is None else "wss"
    options = {**options, "subprotocols": ours, "max_message_size": limit}
    tap = contextlib.nullcontext if wire is None else wire.tap
    if role == "client":
        async with library.listen(tls, theirs, limit, their_compression) as listening, tap(listening.port) as port:
            uri = f"{scheme}://127.0.0.1:{port}/path"
            context = None if tls is None else tls.client
            async with trio_ws.connect(uri, ssl=context, headers={"X-Interop": "hello"}, **options) as ws:
                yield ws, await listening.accept()
        return

    opened: trio.MemorySendChannel[trio_ws.WebSocket]
    opened, accepted = trio.open_memory_channel(1)
    left = trio.Event()

    async def handler(ws: trio_ws.WebSocket) -> None:
        opened.send_nowait(ws)
        await left.wait()

    async with trio.open_nursery() as nursery:
        context = None if tls is None else tls.server
        serve = partial(trio_ws.serve, handler, 0, host="127.0.0.1", ssl=context, **options)
        server = await nursery.start(serve)
        async with tap(server.port) as port:
            peer = await library.connect(f"{scheme}://127.0.0.1:{port}/path", tls, theirs, limit, their_compression)
            yield await accepted.receive(), peer
            left.set()
            # The handler closes the connection by returning.
            await trio.testing.wait_all_tasks_blocked()
            await server.aclose()


@contextlib.asynccontextmanager
async def negotiated(
    library: Library, negotiation: Negotiation
) -> AsyncIterator[tuple[trio_ws.WebSocket, Peer, Direction, Direction]]:
    """Open a connection and check the negotiation. Yield the connection and its directions, ours and theirs."""
    wire = Wire()
    connecting = connect_with(
        library, negotiation.role, compression=negotiation.ours, their_compression=negotiation.theirs, wire=wire
    )
    async with connecting as (ws, peer):
        assert (HEADER in ws.request.headers) is negotiation.offered
        assert Answer.parse(ws.response.headers.get(HEADER)) == negotiation.answer
        ours = Direction.make(negotiation, wire, True, ws.send, peer.receive)
        theirs = Direction.make(negotiation, wire, False, peer.send, ws.receive)
        yield ws, peer, ours, theirs
