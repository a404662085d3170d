"""``WebSocket.tls`` and ``Opening.tls``: what both ends learn of the TLS connection, and mutual TLS."""

from __future__ import annotations

import pickle
import ssl
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws import TLSInfo
from trio_ws.connection.stream import StreamAdapter
from trio_ws.connection.tls import start_tls
from trio_ws.connection.tls_info import describe_tls
from trio_ws.connection.websocket import connection_of

from .server.clients import MemoryListener, request
from .support import echo

pytestmark = pytest.mark.usefixtures("watchdog")

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def contexts(authority: trustme.CA, *, version: str = "TLSv1.3") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a client and a server. Neither asks for a certificate of the client."""
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.minimum_version = client.maximum_version = VERSIONS[version]
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", common_name="the server").configure_cert(server)
    authority.configure_trust(server)
    return client, server


def name_of(certificate: Any) -> str:
    """Return the common name in a certificate."""
    (name,) = (value for rdn in certificate["subject"] for key, value in rdn if key == "commonName")
    assert isinstance(name, str)
    return name


class Place:
    """A TLS server on a socket.

    Attributes:
        seen: The WebSockets of the server.
        port: Its port, once it is started.
    """

    def __init__(self, client: ssl.SSLContext) -> None:
        self.seen: list[trio_ws.ServerWebSocket] = []
        self._client = client

    async def start(self, nursery: trio.Nursery, **options: Any) -> None:
        server = await nursery.start(partial(trio_ws.serve, self._handle, **options))
        self.port = server.port

    def connect(self) -> trio_ws.Connecting:
        return trio_ws.connect(f"wss://localhost:{self.port}/", ssl=self._client)

    async def _handle(self, ws: trio_ws.ServerWebSocket) -> None:
        self.seen.append(ws)
        await echo(ws)


# -- Both ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_both_ends_describe_the_connection(version: str, authority: trustme.CA, nursery: trio.Nursery) -> None:
    client, server = contexts(authority, version=version)
    place = Place(client)
    await place.start(nursery, port=0, host="localhost", ssl=server)
    async with place.connect() as ws:
        await ws.send("hello")
        await ws.receive()
        assert isinstance(ws.tls, TLSInfo)
        assert ws.tls.version == version
        assert ws.tls.alpn_protocol is None
        assert name_of(ws.tls.peer_certificate) == "the server"
        (theirs,) = place.seen
        assert theirs.tls == attrs.evolve(ws.tls, peer_certificate=None)
        assert theirs.opening.tls is theirs.tls
        assert theirs.tls is not None
        assert theirs.tls.cipher in {cipher["name"] for cipher in server.get_ciphers()}
    before = ws.tls, theirs.tls
    await theirs.wait_closed()
    assert (ws.tls, theirs.tls) == before


async def test_it_outlives_a_tls_failure(authority: trustme.CA, nursery: trio.Nursery) -> None:
    client, server = contexts(authority)
    place = Place(client)
    await place.start(nursery, port=0, host="localhost", ssl=server)
    stream = await trio.open_tcp_stream("localhost", place.port)
    adapter = await start_tls(StreamAdapter(stream), client, server_hostname="localhost")
    await adapter.write([request()])
    await adapter.receive()
    (ws,) = place.seen
    info = ws.tls
    await stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that cannot be decrypted
    await ws.wait_closed()
    assert ws.close_code == 1006
    # OpenSSL has forgotten the parameters, but the WebSocket has not.
    assert describe_tls(connection_of(ws).stream.tls_object) is None
    assert ws.tls is info is not None
    await adapter.aclose(0)


async def test_alpn(authority: trustme.CA, nursery: trio.Nursery) -> None:
    client, server = contexts(authority)
    client.set_alpn_protocols(["h2", "http/1.1"])
    server.set_alpn_protocols(["http/1.1"])
    place = Place(client)
    await place.start(nursery, port=0, host="localhost", ssl=server)
    async with place.connect() as ws:
        assert ws.tls is not None
        assert ws.tls.alpn_protocol == "http/1.1"


async def test_a_certificate_that_was_not_verified_is_empty(authority: trustme.CA, nursery: trio.Nursery) -> None:
    _, server = contexts(authority)
    client = ssl.create_default_context()
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    place = Place(client)
    await place.start(nursery, port=0, host="localhost", ssl=server)
    async with place.connect() as ws:
        assert ws.tls is not None
        assert ws.tls.peer_certificate == {}


async def test_streams_of_the_application(authority: trustme.CA, nursery: trio.Nursery) -> None:
    """The TLS handshake has not begun when the stream is handed over."""
    client, server = contexts(authority)
    seen: list[trio_ws.ServerWebSocket] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seen.append(ws)

    listener = MemoryListener()
    await nursery.start(partial(trio_ws.serve, handler, listeners=[trio.SSLListener(listener, server)]))
    stream = trio.SSLStream(listener.connect(), client, server_hostname="localhost")
    async with trio_ws.connect_over(stream, "wss://localhost/") as ws:
        await ws.wait_closed()
    assert ws.tls is not None
    assert name_of(ws.tls.peer_certificate) == "the server"
    (theirs,) = seen
    assert theirs.tls is not None
    assert theirs.tls is theirs.opening.tls
    assert theirs.tls == attrs.evolve(ws.tls, peer_certificate=None)


async def test_connections_without_tls(nursery: trio.Nursery) -> None:
    seen: list[object] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        seen.extend([ws.tls, ws.opening.tls])

    server = await nursery.start(partial(trio_ws.serve, handler, 0, host="localhost"))
    async with trio_ws.connect(f"ws://localhost:{server.port}/") as ws:
        assert ws.tls is None
        await ws.wait_closed()
    listener = MemoryListener()
    await nursery.start(partial(trio_ws.serve, handler, listeners=[listener]))
    async with trio_ws.connect_over(listener.connect(), "wss://localhost/") as ws:
        assert ws.tls is None
        await ws.wait_closed()
    assert seen == 4 * [None]


# -- Mutual TLS ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_certificate_of_a_client(version: str, authority: trustme.CA, nursery: trio.Nursery) -> None:
    client, server = contexts(authority, version=version)
    authority.issue_cert("ann@example.org", common_name="ann").configure_cert(client)
    server.verify_mode = ssl.CERT_REQUIRED
    seen: list[str] = []

    def look(opening: trio_ws.Opening, _: trio_ws.Request) -> trio_ws.Response | None:
        assert opening.tls is not None
        seen.append(name_of(opening.tls.peer_certificate))
        return opening.respond(200, seen[-1]) if opening.path == "/who" else None

    place = Place(client)
    await place.start(nursery, port=0, host="localhost", ssl=server, process_request=look)
    async with place.connect() as ws:
        await ws.send("hello")
        await ws.receive()
        assert place.seen[0].tls == place.seen[0].opening.tls
        assert name_of(place.seen[0].tls and place.seen[0].tls.peer_certificate) == "ann"
    # Several requests on one connection
    socket = await trio.open_tcp_stream("localhost", place.port)
    stream = trio.SSLStream(socket, client, server_hostname="localhost", https_compatible=True)
    async with stream:
        for _ in range(2):
            await stream.send_all(b"GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert bytes(await stream.receive_some()).endswith(b"ann")
    assert seen == ["ann"] * 3


@pytest.mark.parametrize("version", VERSIONS)
async def test_clients_without_a_valid_certificate(version: str, authority: trustme.CA, nursery: trio.Nursery) -> None:
    for issuer in (None, trustme.CA()):
        client, server = contexts(authority, version=version)
        if issuer is not None:
            issuer.issue_cert("ann@example.org").configure_cert(client)
        server.verify_mode = ssl.CERT_REQUIRED
        place = Place(client)
        await place.start(nursery, port=0, host="localhost", ssl=server)
        with pytest.raises(trio_ws.ConnectFailed, match="alert"):
            async with place.connect():
                pytest.fail("the connection was opened")
        assert not place.seen


async def test_an_optional_certificate(authority: trustme.CA, nursery: trio.Nursery) -> None:
    def require(opening: trio_ws.Opening, _: trio_ws.Request) -> trio_ws.Response | None:
        assert opening.tls is not None
        if opening.tls.peer_certificate is None:
            return opening.respond(403, "a client certificate is required\n")
        return None

    for has_certificate in (False, True):
        client, server = contexts(authority)
        if has_certificate:
            authority.issue_cert("ann@example.org").configure_cert(client)
        server.verify_mode = ssl.CERT_OPTIONAL
        place = Place(client)
        await place.start(nursery, port=0, host="localhost", ssl=server, process_request=require)
        if has_certificate:
            async with place.connect() as ws:
                await ws.send("hello")
        else:
            with pytest.raises(trio_ws.InvalidStatus) as caught:
                async with place.connect():
                    pytest.fail("the connection was opened")
            assert caught.value.status_code == 403


# -- The value -------------------------------------------------------------------------------------------------------


async def test_a_value() -> None:
    certificate = {"subject": ((("commonName", "ann"),),)}
    info = TLSInfo(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", peer_certificate=certificate)
    assert info == TLSInfo(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", peer_certificate=dict(certificate))
    assert info != attrs.evolve(info, peer_certificate=None)
    assert len({info, attrs.evolve(info)}) == 1
    assert pickle.loads(pickle.dumps(info)) == info
    assert repr(info).startswith("TLSInfo(version='TLSv1.3', ")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        info.version = "TLSv1.2"  # type: ignore[misc]  # this is the test


async def test_nothing_is_known_before_the_handshake(authority: trustme.CA) -> None:
    client, server = contexts(authority)
    assert describe_tls(server.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)) is None
    ours, theirs = trio.testing.memory_stream_pair()
    stream = trio.SSLStream(ours, client, server_hostname="localhost")
    adapter = StreamAdapter(stream)
    assert adapter.get_tls_info() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.SSLStream(theirs, server, server_side=True).do_handshake)
        nursery.start_soon(stream.do_handshake)
    info = adapter.get_tls_info()
    assert info is not None
    assert adapter.get_tls_info() is info
