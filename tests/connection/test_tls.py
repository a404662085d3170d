"""TLS on sockets of our own: the handshake, data in both directions, both kinds of end, and errors."""

from __future__ import annotations

import operator
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
import trustme
from attrs import define
from trio.testing import wait_all_tasks_blocked

from trio_ws.connection import tls
from trio_ws.connection.stream import StreamAdapter, StreamBroken
from trio_ws.connection.tls import TLSAdapter, start_tls

from ..support import HANGS

NAME = "example.org"
LARGE = bytes(range(256)) * 8 * 1024

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def contexts(request: pytest.FixtureRequest, authority: trustme.CA) -> Contexts:
    """The contexts of a client and a server."""
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(server)
    client.minimum_version = client.maximum_version = request.param
    return client, server


@define
class Ends:
    """Both ends of a TLS connection, and the descriptors of their sockets."""

    client: StreamAdapter
    server: StreamAdapter
    client_fd: int
    server_fd: int


def socket_pair() -> tuple[StreamAdapter, StreamAdapter]:
    """Return adapters of two connected sockets with small buffers."""
    adapters = []
    for each in socket.socketpair():
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        adapters.append(StreamAdapter(trio.SocketStream(trio.socket.from_stdlib_socket(each))))
    return adapters[0], adapters[1]


def fd_of(adapter: StreamAdapter) -> int:
    assert isinstance(adapter.stream, trio.SocketStream)
    return adapter.stream.socket.fileno()


async def handshake(contexts: Contexts) -> Ends:
    """Return both ends of a new TLS connection."""
    client, server = socket_pair()
    fds = fd_of(client), fd_of(server)
    servers: list[StreamAdapter] = []

    async def start_server() -> None:
        servers.append(await start_tls(server, contexts[1], server_side=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_server)
        client = await start_tls(client, contexts[0], server_hostname=NAME)
    (server,) = servers
    assert isinstance(client, TLSAdapter)
    assert isinstance(server, TLSAdapter)
    return Ends(client, server, *fds)


@asynccontextmanager
async def connected(contexts: Contexts) -> AsyncIterator[Ends]:
    ends = await handshake(contexts)
    try:
        yield ends
    finally:
        await ends.client.aclose(0)
        await ends.server.aclose(0)


async def receive_all(stream: StreamAdapter) -> bytes:
    received = bytearray()
    while data := await stream.receive():
        received += data
    return bytes(received)


async def receive_exactly(stream: StreamAdapter, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = await stream.receive()
        assert data
        received += data
    assert len(received) == size
    return bytes(received)


# -- Data --------------------------------------------------------------------------------------------------------------


class AsStream(trio.abc.Stream):
    """An adapter as a Trio stream, for Trio's checks of streams: it adds only what these want besides."""

    def __init__(self, adapter: StreamAdapter) -> None:
        self._adapter = adapter
        self._fd = fd_of(adapter)
        self._busy: set[str] = set()
        self._closed = False

    @asynccontextmanager
    async def _call(self, doing: str) -> AsyncIterator[None]:
        if doing in self._busy:
            raise trio.BusyResourceError(doing)
        self._busy.add(doing)
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError
            yield
        except StreamBroken as exc:
            raise (trio.ClosedResourceError if self._closed else trio.BrokenResourceError)() from exc
        finally:
            self._busy.discard(doing)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._call("sending"):
            await self._adapter.write([bytes(data)])

    async def wait_send_all_might_not_block(self) -> None:
        async with self._call("sending"):
            await self._adapter.write([])
            await trio.lowlevel.wait_writable(self._fd)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        async with self._call("receiving"):
            return bytes(await self._adapter.receive_view(max_bytes or 64 * 1024))

    async def aclose(self) -> None:
        self._closed = True
        trio.lowlevel.notify_closing(self._fd)
        await self._adapter.send_eof()
        await self._adapter.aclose(0)
        await trio.lowlevel.checkpoint()


async def test_the_checks_of_trio_for_streams(contexts: Contexts) -> None:
    async def make() -> tuple[AsStream, AsStream]:
        ends = await handshake(contexts)
        return AsStream(ends.client), AsStream(ends.server)

    await trio.testing.check_two_way_stream(make, None)


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 64 * 1024 + 1, len(LARGE)])
async def test_data_both_ways_at_the_same_time(size: int, contexts: Contexts) -> None:
    async with connected(contexts) as ends, trio.open_nursery() as nursery:
        for stream in (ends.client, ends.server):
            nursery.start_soon(stream.write, [LARGE[:size], b"", LARGE[:size]])
        for stream in (ends.client, ends.server):
            assert await receive_exactly(stream, 2 * size) == 2 * LARGE[:size]


async def test_small_reads_of_a_large_record(contexts: Contexts) -> None:
    """Decrypted bytes that did not fit are returned at once, although the socket is not readable."""
    async with connected(contexts) as ends:
        await ends.server.write([LARGE[:1000]])
        received = [bytes(await ends.client.receive_view(300)) for _ in range(4)]
        assert list(map(len, received)) == [300, 300, 300, 100]
        assert b"".join(received) == LARGE[:1000]


async def test_a_cancelled_write_goes_on_later(contexts: Contexts) -> None:
    async with connected(contexts) as ends, trio.open_nursery() as nursery:
        for _ in range(3):
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when_blocked, scope)
                await ends.client.write([LARGE])
            assert scope.cancelled_caught
        nursery.start_soon(ends.client.write, [b"end"])
        assert await receive_exactly(ends.server, 3 * len(LARGE) + 3) == 3 * LARGE + b"end"


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_a_write_without_waiting_keeps_the_rest(contexts: Contexts) -> None:
    async with connected(contexts) as ends, trio.open_nursery() as nursery:
        assert ends.client.can_write_now()
        assert ends.client.write_now([b"small"])
        assert ends.client.can_write_now()
        assert not ends.client.write_now([LARGE])
        assert not ends.client.can_write_now()
        nursery.start_soon(ends.client.write, [b"end"])
        assert await receive_exactly(ends.server, 5 + len(LARGE) + 3) == b"small" + LARGE + b"end"
    assert ends.client.count_undelivered()[0] == 0


async def test_a_written_piece_of_a_message_is_progress(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    # The socket accepts the whole first piece. The adapter writes the next ones later.
    monkeypatch.setattr(tls, "_MAX_PIECES", 1)
    async with connected(contexts) as ends, trio.open_nursery() as nursery:
        assert isinstance(ends.client.stream, trio.SocketStream)
        ends.client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
        start = trio.current_time()
        assert ends.client.progress_at < start
        assert not ends.client.write_now([LARGE])
        assert ends.client.progress_at >= start
        nursery.start_soon(ends.client.write, [])
        assert await receive_exactly(ends.server, len(LARGE)) == LARGE


async def test_an_answer_of_openssl_is_written_at_once(contexts: Contexts) -> None:
    """A key update has such an answer. Python cannot send one, so the answer is a record like any other."""
    async with connected(contexts) as ends:
        assert isinstance(ends.server, TLSAdapter)
        ends.server.tls_object.write(b"answer")
        await ends.client.write([b"question"])
        assert await ends.server.receive() == b"question"
        assert not ends.server.has_unwritten
        assert await ends.client.receive() == b"answer"


async def test_an_answer_while_a_write_waits(contexts: Contexts) -> None:
    """It is written after what waits for the socket, and the write goes on."""
    async with connected(contexts) as ends, trio.open_nursery() as nursery:
        assert isinstance(ends.server, TLSAdapter)
        nursery.start_soon(ends.server.write, [LARGE])
        await wait_all_tasks_blocked()
        received = b""
        for _ in range(10):  # more than what is encrypted already
            while (data := ends.client.receive_now(65536)) is not None:
                received += data
            # The socket is writable now, but the task that writes does not run.
            ends.server.tls_object.write(b"answer")
            assert ends.client.write_now([b"question"])
            assert bytes(ends.server.receive_now(100) or b"") == b"question"
        with trio.fail_after(HANGS):
            received += await receive_exactly(ends.client, len(LARGE) + 10 * len(b"answer") - len(received))
        assert received.replace(b"answer", b"") == LARGE


async def test_a_peer_that_does_not_read_the_answers(contexts: Contexts) -> None:
    async with connected(contexts) as ends:
        assert isinstance(ends.server, TLSAdapter)
        with pytest.raises(StreamBroken, match="does not read the answers"):
            for _ in range(1000):
                ends.server.tls_object.write(bytes(1024))
                await ends.client.write([b"question"])
                assert await ends.server.receive() == b"question"
        assert sum(map(len, ends.server._unwritten)) < 300_000


async def test_an_error_of_openssl_in_a_write_without_waiting_is_reported_by_the_next_write(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def write(self, data: bytes) -> int:
            raise ssl.SSLError(1, "internal error")

    async with connected(contexts) as ends:
        monkeypatch.setattr(ends.client, "tls_object", Broken())
        assert not ends.client.write_now([b"message"])
        assert ends.client.has_unwritten
        with pytest.raises(StreamBroken, match="internal error"):
            await ends.client.write([])
        assert ends.client.poisoned


async def test_the_plaintext_that_is_written_is_not_kept(contexts: Contexts) -> None:
    async with connected(contexts) as ends:
        chunks = [LARGE[:100], LARGE[:100]]
        await ends.client.write(chunks)
        assert chunks == []
        assert await receive_exactly(ends.server, 200) == 2 * LARGE[:100]


# -- The end -----------------------------------------------------------------------------------------------------------


async def test_close_notify_is_the_end_each_time(contexts: Contexts) -> None:
    async with connected(contexts) as ends:
        await ends.server.write([b"last"])
        await ends.server.send_eof()
        await ends.server.aclose(0)
        assert await ends.client.receive() == b"last"
        for _ in range(2):
            assert await ends.client.receive() == b""


async def test_an_end_without_close_notify_is_an_error(contexts: Contexts) -> None:
    async with connected(contexts) as ends:
        await ends.server.write([b"last"])
        ends.server.close()
        assert await ends.client.receive() == b"last"
        for _ in range(2):
            with pytest.raises(StreamBroken, match="close_notify") as caught:
                await ends.client.receive()
            assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


async def test_send_eof_says_close_notify_and_what_still_comes_is_dropped(contexts: Contexts) -> None:
    async with connected(contexts) as ends, trio.open_nursery() as nursery:
        await ends.client.write([b"last"])
        await ends.server.write([b"unread"])
        assert await ends.client.send_eof()
        assert not await ends.client.send_eof()
        assert await receive_all(ends.server) == b"last"
        with pytest.raises(StreamBroken):
            await ends.client.write([b"more"])

        async def write_and_close() -> None:
            await ends.server.write([LARGE])
            ends.server.close()

        nursery.start_soon(write_and_close)
        assert len(await receive_all(ends.client)) > len(LARGE)  # as ciphertext, which nobody looks at


async def test_closing_does_not_wait_for_a_peer_that_reads_nothing(contexts: Contexts) -> None:
    async with connected(contexts) as ends, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await ends.client.write([LARGE])
        await ends.client.aclose(1000)
        assert fd_of(ends.client) == -1


# -- Errors ------------------------------------------------------------------------------------------------------------


async def test_what_came_before_garbage_is_delivered_and_nothing_after_it(contexts: Contexts) -> None:
    async with connected(contexts) as ends:
        await ends.server.write([b"good"])
        os.write(ends.server_fd, b"\x17\x03\x03\x00\x20" + bytes(32))
        await ends.server.write([b"bad"])
        assert await ends.client.receive() == b"good"
        for _ in range(2):
            with pytest.raises(StreamBroken) as caught:
                await ends.client.receive()
            assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
            assert isinstance(caught.value.__cause__.__cause__, ssl.SSLError)


async def test_a_reset_is_an_error_each_time(contexts: Contexts) -> None:
    async with connected(contexts) as ends:
        await ends.client.write([b"unread"])
        ends.server.close()  # with unread data, so that the client's socket is reset
        for _ in range(2):
            with pytest.raises(StreamBroken):
                await ends.client.receive()
        with pytest.raises(StreamBroken):
            await ends.client.write([LARGE])
        with pytest.raises(StreamBroken, match="earlier write"):
            await ends.client.write([b"more"])


async def fail_on_both_sides(contexts: Contexts, name: str = NAME) -> tuple[BaseException | None, BaseException | None]:
    """Try a handshake. Return what each side got as the cause."""
    client, server = socket_pair()
    causes: list[BaseException | None] = [None, None]

    async def start(index: int, adapter: StreamAdapter, context: ssl.SSLContext, **options: object) -> None:
        try:
            await (await start_tls(adapter, context, **options)).receive()  # type: ignore[arg-type]  # of two kinds
        except StreamBroken as exc:
            causes[index] = exc.__cause__ and (exc.__cause__.__cause__ or exc.__cause__)
        finally:
            await adapter.aclose(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(start, 0, client, contexts[0], server_hostname=name))
        nursery.start_soon(partial(start, 1, server, contexts[1], server_side=True))
    return causes[0], causes[1]


async def test_a_certificate_for_another_name(contexts: Contexts) -> None:
    ours, theirs = await fail_on_both_sides(contexts, "example.com")
    assert isinstance(ours, ssl.SSLCertVerificationError)
    assert isinstance(theirs, ssl.SSLError)  # the alert has arrived
    assert "alert" in str(theirs).lower()


async def test_a_client_without_the_certificate_that_the_server_wants(contexts: Contexts) -> None:
    contexts[1].verify_mode = ssl.CERT_REQUIRED
    ours, theirs = await fail_on_both_sides(contexts)
    assert isinstance(ours, ssl.SSLError)  # with TLS 1.3, the alert comes after the client's handshake
    assert "alert" in str(ours).lower()
    assert isinstance(theirs, ssl.SSLError)


async def test_a_client_certificate(contexts: Contexts, authority: trustme.CA) -> None:
    contexts[1].verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(contexts[1])
    authority.issue_cert("someone@example.org").configure_cert(contexts[0])
    async with connected(contexts) as ends:
        await ends.client.write([b"hello"])
        assert await ends.server.receive() == b"hello"
        assert ("email", "someone@example.org") in ends.server.tls_object.getpeercert()["subjectAltName"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""])
@pytest.mark.parametrize("server_side", [False, True])
async def test_a_peer_that_does_not_speak_tls(data: bytes, server_side: bool, contexts: Contexts) -> None:
    ours, theirs = socket_pair()
    await theirs.write([data])
    await theirs.send_eof()
    with pytest.raises(StreamBroken):
        await start_tls(
            ours, contexts[server_side], server_side=server_side, server_hostname=None if server_side else NAME
        )
    for each in (ours, theirs):
        await each.aclose(0)


async def test_renegotiation_is_turned_off(contexts: Contexts) -> None:
    async with connected(contexts):
        assert all(context.options & ssl.OP_NO_RENEGOTIATION for context in contexts)


async def test_other_streams_keep_the_stream_of_trio(contexts: Contexts) -> None:
    ours, theirs = map(StreamAdapter, trio.testing.memory_stream_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(start_tls, theirs, contexts[1], server_side=True))
        client = await start_tls(ours, contexts[0], server_hostname=NAME)
    assert isinstance(client.stream, trio.SSLStream)
    assert client.tls_object is client.stream
