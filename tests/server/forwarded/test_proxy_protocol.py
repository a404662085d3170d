"""The PROXY protocol."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from trio_ws.connection.stream import StreamAdapter, StreamBroken
from trio_ws.connection.websocket import connection_of
from trio_ws.server.forwarded.proxy_protocol import (
    MAX_HEADER_SIZE,
    MAX_LINE_SIZE,
    InvalidProxyHeader,
    ProxyHeader,
    ProxyHeaderParser,
    read_proxy_header,
)

from ...support import echo, one_byte_pair
from .clients import LINE4, Logs, X, describe_client, serving

MockClock = trio.testing.MockClock


# -- The PROXY protocol: parsing -------------------------------------------------------------------------------------


SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

SOURCE4, DESTINATION4 = ("192.0.2.1", 56324), ("198.51.100.7", 443)

SOURCE6, DESTINATION6 = ("2001:db9::1", 56324), ("2001:db9::2", 443)


def v2(block: bytes = b"", *, family: int = 0x11, command: int = 1, version: int = 2, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(block) if size is None else size) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


TCP4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.7") + struct.pack("!HH", 56324, 443)

TCP6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db9::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db9::2")
    + struct.pack("!HH", 56324, 443)
)

LONGEST = b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n"

VALID = {
    LINE4: ProxyHeader(SOURCE4, DESTINATION4),
    b"PROXY TCP6 2001:db9::1 2001:DB9:0::2 56324 443\r\n": ProxyHeader(SOURCE6, DESTINATION6),
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": ProxyHeader(("0.0.0.0", 0), ("255.255.255.255", 65535)),
    b"PROXY TCP6 ::ffff:192.0.2.1 :: 1 1\r\n": ProxyHeader(("192.0.2.1", 1), ("::", 1)),
    LONGEST: ProxyHeader((":".join(["ffff"] * 8), 65535), (":".join(["ffff"] * 8), 65535)),
    b"PROXY UNKNOWN\r\n": ProxyHeader(),
    b"PROXY UNKNOWN whatever \r \n it is\r\n": ProxyHeader(),
    b"PROXY UNKNOWN " + b"x" * (MAX_LINE_SIZE - 16) + b"\r\n": ProxyHeader(),
    v2(TCP4): ProxyHeader(SOURCE4, DESTINATION4),
    v2(TCP6, family=0x21): ProxyHeader(SOURCE6, DESTINATION6),
    v2(TCP4 + tlv(3, b"\1\2\3\4") + tlv(4, b"\0" * 100)): ProxyHeader(SOURCE4, DESTINATION4),
    v2(TCP4 + tlv(0x20, b"\1\0\0\0\0")): ProxyHeader(SOURCE4, DESTINATION4, True),
    v2(TCP4 + tlv(1, b"h2") + tlv(0x20, b"\x07\0\0\0\0" + tlv(0x21, b"TLSv1.3"))): ProxyHeader(
        SOURCE4, DESTINATION4, True
    ),
    v2(TCP4 + tlv(0x20, b"\x06\0\0\0\0") + tlv(0x20, b"")): ProxyHeader(SOURCE4, DESTINATION4),
    v2(TCP4 + tlv(4, b"\0" * (MAX_HEADER_SIZE - 31))): ProxyHeader(SOURCE4, DESTINATION4),
    v2(b"/run/a".ljust(108, b"\0") + b"x" * 108, family=0x31): ProxyHeader("/run/a", "x" * 108),
    v2(b"\0abstract".ljust(108, b"\0") + b"\0" * 108, family=0x31): ProxyHeader(b"\0abstract", ""),
    # Headers whose addresses are ignored.
    v2(family=0, command=0): ProxyHeader(),
    v2(TCP4, command=0): ProxyHeader(),
    v2(b"whatever", family=0xFF, command=0): ProxyHeader(),
    v2(family=0): ProxyHeader(),
    v2(b"whatever", family=0): ProxyHeader(),
    v2(TCP4, family=0x12): ProxyHeader(),
    v2(TCP6, family=0x22): ProxyHeader(),
    v2(b"\0" * 216, family=0x32): ProxyHeader(),
}

INVALID = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"proxy TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
    b" " + LINE4,
    b"\r\n" + LINE4,
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.7 56324 443\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.1 198.51.100.7 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1\t198.51.100.7 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 056324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 00 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 -1\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 +1\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.7 56324 443\r\n",
    b"PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.256 56324 443\r\n",
    b"PROXY TCP4 2001:db9::1 2001:db9::2 56324 443\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.7 56324 443\r\n",
    b"PROXY TCP6 fe80::1%1 2001:db9::2 56324 443\r\n",
    b"PROXY TCP6 [2001:db9::1] 2001:db9::2 56324 443\r\n",
    b"PROXY UNKNOWN " + b"x" * (MAX_LINE_SIZE - 15) + b"\r\n",
    b"PROXY " + b"x" * MAX_LINE_SIZE,
    SIGNATURE[:-1] + b"\r" + v2(TCP4)[12:],
    v2(TCP4, version=1),
    v2(TCP4, version=3),
    v2(TCP4, command=2),
    v2(TCP4, command=15),
    v2(TCP4, family=0x10),
    v2(TCP4, family=0x01),
    v2(TCP4, family=0x13),
    v2(TCP4, family=0x41),
    v2(TCP4[:-1]),
    v2(TCP6[:-1], family=0x21),
    v2(b"x" * 215, family=0x31),
    v2(),
    v2(TCP4 + b"\x04"),
    v2(TCP4 + b"\x04\0"),
    v2(TCP4 + b"\x04\0\x01"),
    v2(TCP4 + tlv(4, b"x") + b"\x04\xff\xff"),
    v2(TCP4, size=MAX_HEADER_SIZE - 15),
    v2(TCP4, size=0xFFFF),
]


def parse(pieces: Sequence[bytes]) -> tuple[ProxyHeader, bytes]:
    """Return the header, and the bytes after it in all pieces."""
    parser = ProxyHeaderParser()
    for number, piece in enumerate(pieces):
        header = parser.feed(piece)
        if header is not None:
            return header, parser.unused + b"".join(pieces[number + 1 :])
    raise EOFError


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("data", VALID, ids=lambda data: repr(data[:40]))
def test_proxy_headers(data: bytes) -> None:
    for size in [1, 2, 3, 13, 16, 10_000]:
        for behind in [b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", LINE4]:
            assert parse(cut(data + behind, size)) == (VALID[data], behind)


@pytest.mark.parametrize("data", INVALID, ids=lambda data: repr(data[:60]))
def test_malformed_headers(data: bytes) -> None:
    for size in [1, 7, 10_000]:
        with pytest.raises(InvalidProxyHeader):
            parse(cut(data, size))


def test_malformed_headers_are_detected_early() -> None:
    for data in (b"G", b"PROX\0", b"\r\n\r\r", b"\x16"):
        with pytest.raises(InvalidProxyHeader):
            ProxyHeaderParser().feed(data)


@pytest.mark.parametrize("data", VALID, ids=lambda data: repr(data[:40]))
def test_end_of_stream_within_a_header(data: bytes) -> None:
    for size in range(len(data)):
        parser = ProxyHeaderParser()
        if size:
            assert parser.feed(data[:size]) is None
        assert 0 < parser.needed <= len(data) - size
        with pytest.raises(InvalidProxyHeader):
            parser.feed(b"")


@given(st.sampled_from(list(VALID)), st.binary(max_size=20), st.randoms(use_true_random=False))
def test_proxy_headers_in_pieces(data: bytes, behind: bytes, rng: random.Random) -> None:
    stream = data + behind
    pieces = []
    while stream:
        size = rng.randint(1, 1 + len(stream) // 2)
        pieces.append(stream[:size])
        stream = stream[size:]
    assert parse(pieces) == (VALID[data], behind)


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21"]), st.binary())
def test_arbitrary_bytes(prefix: bytes, data: bytes) -> None:
    """The result is the same in one piece and in single bytes."""

    def outcome(size: int) -> Any:
        try:
            return parse(cut(prefix + data, size))
        except (InvalidProxyHeader, EOFError) as exc:
            return type(exc)

    assert outcome(1) == outcome(10_000)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535))
def test_arbitrary_addresses(source: Any, destination: Any, port: int, other_port: int) -> None:
    if source.version != destination.version:
        return
    four = source.version == 4

    def shown(ip: Any) -> str:
        return str(ip if four else ip.ipv4_mapped or ip)

    expected = ProxyHeader((shown(source), port), (shown(destination), other_port))
    line = f"PROXY TCP{source.version} {source} {destination} {port} {other_port}\r\n".encode()
    block = source.packed + destination.packed + struct.pack("!HH", port, other_port)
    for data in (line, v2(block, family=0x11 if four else 0x21)):
        assert parse([data]) == (expected, b"")


# -- The PROXY protocol: reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", VALID, ids=lambda data: repr(data[:40]))
@pytest.mark.parametrize("pair", [trio.testing.memory_stream_pair, one_byte_pair])
async def test_reading_takes_no_bytes_after_the_header(data: bytes, pair: Any) -> None:
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, data + b"GET")
        assert await read_proxy_header(StreamAdapter(theirs)) == VALID[data]
        received = b""
        while len(received) < 3:
            received += await theirs.receive_some()
    assert received == b"GET"


@contextlib.asynccontextmanager
async def sockets() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    a, b = trio.socket.socketpair()
    async with trio.SocketStream(a) as ours, trio.SocketStream(b) as theirs:
        yield ours, theirs


@pytest.mark.parametrize("data", VALID, ids=lambda data: repr(data[:40]))
async def test_reading_from_a_socket(data: bytes) -> None:
    async with sockets() as (ours, theirs):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                for piece in cut(data[:20], 1):
                    await ours.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
                await ours.send_all(data[20:] + b"GET")

            assert await read_proxy_header(StreamAdapter(theirs)) == VALID[data]
        assert await theirs.receive_some() == b"GET"


async def test_reading_from_a_lost_connection() -> None:
    ours: trio.abc.Stream
    theirs: trio.abc.Stream
    async with sockets() as (ours, theirs):
        await ours.send_all(b"PROXY ")
        await ours.aclose()
        with pytest.raises(InvalidProxyHeader):
            await read_proxy_header(StreamAdapter(theirs))
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    with pytest.raises(StreamBroken):
        await read_proxy_header(StreamAdapter(theirs))


# -- A server --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(server: trio_ws.Server, header: bytes, **options: Any) -> AsyncIterator[trio_ws.WebSocket]:
    """Connect like a proxy that speaks the PROXY protocol."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(header)
    async with trio_ws.connect_over(stream, "ws://example.org/", **options) as ws:
        yield ws


async def is_closed(stream: trio.abc.Stream) -> bool:
    try:
        return not await stream.receive_some()
    except trio.BrokenResourceError:
        return True


# -- A server that speaks the PROXY protocol -------------------------------------------------------------------------


HEADERS = [LINE4, v2(TCP4), v2(TCP4 + tlv(0x20, b"\1\0\0\0\0"))]


@pytest.mark.parametrize("proxies", [[], ["127.0.0.1"]])
@pytest.mark.parametrize("header", HEADERS)
async def test_the_proxy_protocol(header: bytes, proxies: list[str]) -> None:
    async with serving(proxy_protocol=True, trusted_proxies=proxies) as server:
        async with connected(server, header) as ws:
            assert await ws.receive() == f"('192.0.2.1', 56324) 127.0.0.1 {header is HEADERS[-1]}"
            await ws.send("hello")
            assert await ws.receive() == "hello"
            (theirs,) = server.connections
            assert connection_of(theirs).stream.is_socket or sys.platform == "win32"


async def test_header_and_request_in_one_write_and_byte_by_byte() -> None:
    request = (
        b"GET / HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    ping, close = b"\x89\x82\0\0\0\0hi", b"\x88\x80\0\0\0\0"
    async with serving(echo, proxy_protocol=True) as server:
        for header in HEADERS:
            data = header + request + ping + close
            for size in (len(data), 1):
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for piece in cut(data, size):
                        await stream.send_all(piece)
                    answer = b"".join([bytes(data) async for data in stream])
                    assert answer.startswith(b"HTTP/1.1 101")
                    assert answer.endswith(b"\r\n\r\n\x8a\x02hi\x88\x00")


@pytest.mark.parametrize("header", HEADERS)
async def test_the_proxy_protocol_and_tls(header: bytes, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, context = contexts
    async with serving(proxy_protocol=True, ssl=context) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(header)
        tls = trio.SSLStream(stream, client, server_hostname="example.org", https_compatible=True)
        async with trio_ws.connect_over(tls, "wss://example.org/") as ws:
            assert await ws.receive() == "('192.0.2.1', 56324) 127.0.0.1 True"


async def test_no_lines_of_a_client_in_the_log(contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: Logs) -> None:
    """The address is a path, which a client of the proxy's Unix socket can choose."""
    caplog.set_level(logging.INFO)
    path = b"/x\nuser root logged in"
    async with serving(proxy_protocol=True, ssl=contexts[1]) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(v2(path.ljust(108, b"\0") + bytes(108), family=0x31) + b"GET / HTTP/1.1\r\n\r\n")
        assert await is_closed(stream) or await is_closed(stream)
        await stream.aclose()
    (record,) = [each for each in caplog.records if "TLS handshake" in each.message]
    assert "\n" not in record.message


@pytest.mark.parametrize("header", HEADERS)
async def test_over_any_stream(header: bytes, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, context = contexts
    for tls in (False, True):
        ours: trio.abc.Stream
        theirs: trio.abc.Stream
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(header)
        if tls:
            ours = trio.SSLStream(ours, client, server_hostname="example.org", https_compatible=True)
            theirs = trio.SSLStream(theirs, context, server_side=True, https_compatible=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio_ws.serve_over, theirs, describe_client, proxy_protocol=True))
            async with trio_ws.connect_over(ours, "ws://example.org/") as ws:
                assert await ws.receive() == f"('192.0.2.1', 56324) None {tls or header is HEADERS[-1]}"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(family=0, command=0), v2(family=0)])
async def test_a_header_that_names_no_client(header: bytes) -> None:
    """HTTP headers of the client are not trusted then."""
    async with serving(proxy_protocol=True, trusted_proxies=["127.0.0.1"]) as server:
        async with connected(server, header, headers=X) as ws:
            host, port, *rest = str(await ws.receive()).split()
            assert (host, rest) == ("('127.0.0.1',", ["127.0.0.1", "False"])
            assert port != "0)"


async def test_chained_proxies() -> None:
    async with serving(proxy_protocol=True, trusted_proxies=["127.0.0.1", "192.0.2.1"]) as server:
        async with connected(server, LINE4, headers={"X-Forwarded-For": "203.0.113.9"}) as ws:
            assert await ws.receive() == "('203.0.113.9', 0) 127.0.0.1 False"
    async with serving(proxy_protocol=True, trusted_proxies=["127.0.0.1"]) as server:
        async with connected(server, LINE4, headers={"X-Forwarded-For": "203.0.113.9"}) as ws:
            assert await ws.receive() == "('192.0.2.1', 56324) 127.0.0.1 False"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", b"PROXY TCP4 x\r\n", v2(version=3)])
@pytest.mark.parametrize("tls", [False, True])
async def test_without_a_header(
    data: bytes, tls: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: Logs
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(proxy_protocol=True, ssl=contexts[1] if tls else None) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(data)
            assert await is_closed(stream)
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_eof()
            assert await is_closed(stream)
    records = [record.getMessage() for record in caplog.records]
    assert len(records) == 2
    assert all("connection from ('127.0.0.1'" in message and "PROXY header" in message for message in records)


async def test_from_an_untrusted_address(caplog: Logs) -> None:
    caplog.set_level(logging.INFO)
    async with serving(proxy_protocol=True, trusted_proxies=["127.0.0.2"]) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            assert await is_closed(stream)
    assert "closed: not from a trusted proxy" in caplog.text


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 ", LINE4[:-1], SIGNATURE, v2(TCP4)[:-1]])
async def test_a_header_that_does_not_arrive(sent: bytes, autojump_clock: MockClock, caplog: Logs) -> None:
    caplog.set_level(logging.INFO)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, echo, proxy_protocol=True, open_timeout=7))
        await ours.send_all(sent)
        start = trio.current_time()
        assert await ours.receive_some() == b""
        assert trio.current_time() - start == 7
    assert "timed out after 7 seconds" in caplog.text


async def test_the_timeout_includes_the_header(autojump_clock: MockClock, caplog: Logs) -> None:
    caplog.set_level(logging.INFO)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, echo, proxy_protocol=True, open_timeout=7))
        start = trio.current_time()
        await trio.sleep(5)
        await ours.send_all(LINE4)
        assert (await ours.receive_some()).startswith(b"HTTP/1.1 408")
        assert trio.current_time() - start == 7
    assert "opening handshake with ('192.0.2.1', 56324) timed out" in caplog.text


@pytest.mark.parametrize("header", [LINE4, b"PROXY UNKNOWN\r\n", v2(TCP4 + tlv(4, b"x"))])
async def test_cancelled(header: bytes) -> None:
    for size in range(len(header) + 1):
        async with sockets() as (ours, theirs):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(trio_ws.serve_over, theirs, echo, proxy_protocol=True))
                    if size:
                        await ours.send_all(header[:size])
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            assert scope.cancelled_caught
            assert theirs.socket.fileno() == -1
            # The header has arrived, but no request.
            assert (await ours.receive_some()).startswith(b"HTTP/1.1 503" if size == len(header) else b"")


async def test_the_server_closes_before_the_header_arrives() -> None:
    async with serving(echo, proxy_protocol=True) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(b"PROXY ")
            while not server._state.openings:
                await trio.lowlevel.checkpoint()
            await server.aclose()
            assert await is_closed(stream)


async def test_the_limit_per_client_address(caplog: Logs) -> None:
    caplog.set_level(logging.INFO)
    other = LINE4.replace(b"192.0.2.1", b"192.0.2.2")
    async with serving(proxy_protocol=True, limits=trio_ws.Limits(per_address=1)) as server:
        async with connected(server, LINE4) as one, connected(server, other):
            with pytest.raises(trio_ws.InvalidStatus) as caught:
                async with connected(server, LINE4):
                    pytest.fail("the connection was opened")
            assert caught.value.status_code == 503
            assert await one.receive() == "('192.0.2.1', 56324) 127.0.0.1 False"
    assert "connection from ('192.0.2.1', 56324) rejected" in caplog.text


async def test_the_limit_per_client_address_with_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with serving(proxy_protocol=True, limits=trio_ws.Limits(per_address=1), ssl=contexts[1]) as server:
        server._state.by_address["192.0.2.1"] = 1
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(LINE4)
            assert await is_closed(stream)
        del server._state.by_address["192.0.2.1"]


async def test_rejected_before_the_header_is_read() -> None:
    async with serving(proxy_protocol=True, limits=trio_ws.Limits(connections=1)) as server:
        async with connected(server, LINE4):
            with pytest.raises(trio_ws.InvalidStatus) as caught:
                async with connected(server, v2(TCP4)):
                    pytest.fail("the connection was opened")
            assert caught.value.status_code == 503
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                assert await is_closed(stream)


async def test_a_client_on_a_unix_socket_of_the_proxy() -> None:
    header = v2(b"/run/x".ljust(108, b"\0") * 2, family=0x31)
    async with serving(proxy_protocol=True, limits=trio_ws.Limits(per_address=1)) as server:
        async with connected(server, header) as one, connected(server, header) as two:
            for ws in (one, two):
                assert await ws.receive() == "'/run/x' 127.0.0.1 False"


def test_a_stream_adapter_knows_whether_it_uses_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    stream, _ = trio.testing.memory_stream_pair()
    assert StreamAdapter(stream).tls_object is None
    tls = trio.SSLStream(stream, contexts[0], server_hostname="example.org")
    assert StreamAdapter(tls).tls_object is tls
