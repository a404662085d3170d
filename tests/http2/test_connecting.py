"""The client: its choice of HTTP/2 or HTTP/1.1, its requests, and the pool."""

from __future__ import annotations

import gc
import ssl
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import hpack
import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws import HTTP2Pool, InvalidStatus, Opening, Request, Response
from trio_ws.client import dial
from trio_ws.client.dial import Dialer
from trio_ws.connection.core import Connection
from trio_ws.connection.websocket import connection_of
from trio_ws.exceptions import ConnectFailed, ConnectionClosed, InvalidHandshake, OpenTimeout
from trio_ws.http2.stream import HTTP2Stream
from trio_ws.server.server import Server

from ..support import HANGS, client_context, echo, server_context
from .peers import (
    CANCEL,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HTTP_1_1_REQUIRED,
    REFUSED_STREAM,
    RST_STREAM,
    RawPeer,
    frame,
    settings,
)

CA = trustme.CA()
CERTIFICATE = CA.issue_cert("localhost")


@asynccontextmanager
async def tls_server(handler: Any = echo, **options: Any) -> AsyncIterator[tuple[str, Server]]:
    """Serve on a TLS port; yield the URI and the server."""
    options = {"http2": True, "ssl": server_context(CA, "localhost"), "host": "localhost", **options}
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, handler, 0, **options))
        yield f"wss://localhost:{server.port}/", server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw_server(serve: Callable[[RawPeer], Awaitable[object]]) -> AsyncIterator[str]:
    """Let a function be the server of each connection; yield the URI."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await serve(RawPeer(stream, is_client=False))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="localhost"))
        yield f"ws://localhost:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


# -- The choice ------------------------------------------------------------------------------------------------------


async def test_http2_over_tls() -> None:
    async with tls_server() as (uri, server):
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA)) as ws:
            assert ws.http_version == "2"
            assert ws.request.method == "CONNECT"
            assert ws.response.status_code == 200
            assert ws.tls is not None
            assert ws.tls.alpn_protocol == "h2"
            assert ws.remote_address[1] == server.port
            (other,) = server.connections
            assert other.http_version == "2"
            assert other.remote_address == ws.local_address
            assert other.opening.secure
            assert other.tls is not None
            messages: list[str | bytes] = ["", "text", b"binary", "x" * 1_000_000]
            for message in messages:
                await ws.send(message)
                assert await ws.receive() == message
            assert await ws.ping() >= 0
        assert ws.close_code == 1000


async def test_a_context_serves_both_versions() -> None:
    context = client_context(CA)
    async with tls_server() as (uri, _):
        for http2 in (False, True, False, True):
            async with trio_ws.connect(uri, http2=http2, ssl=context) as ws:
                assert ws.http_version == ("2" if http2 else "1.1")


async def test_a_server_without_http2() -> None:
    async with tls_server(http2=False) as (uri, _):
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA)) as ws:
            assert ws.http_version == "1.1"
            await ws.send("hi")
            assert await ws.receive() == "hi"
        async with HTTP2Pool() as pool:
            for _ in range(2):
                async with trio_ws.connect(uri, http2=True, ssl=client_context(CA), pool=pool) as ws:
                    assert ws.http_version == "1.1"
            assert pool.connections == 0


@asynccontextmanager
async def half_server(serve: Callable[[RawPeer], Awaitable[object]]) -> AsyncIterator[tuple[str, list[str | None]]]:
    """Serve WebSockets over HTTP/1.1, and let a function serve HTTP/2. Yield the URI, and the chosen versions."""
    context = server_context(CA, "localhost")
    context.set_alpn_protocols(["h2", "http/1.1"])
    chosen: list[str | None] = []

    async def handle(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await tls.do_handshake()
        chosen.append(tls.selected_alpn_protocol())
        if chosen[-1] == "h2":
            await serve(RawPeer(tls, is_client=False))
        else:
            await trio_ws.serve_over(tls, echo)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="localhost"))
        yield f"wss://localhost:{listeners[0].socket.getsockname()[1]}/", chosen
        nursery.cancel_scope.cancel()


async def offer_no_websockets(peer: RawPeer) -> None:
    """Do as nginx does: HTTP/2, but no WebSockets over it."""
    await peer.start()
    await peer.receive_all()


async def test_a_server_without_extended_connect() -> None:
    async with half_server(offer_no_websockets) as (uri, chosen):
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA)) as ws:
            assert ws.http_version == "1.1"
        assert chosen == ["h2", "http/1.1"]
        ours = client_context(CA)
        async with HTTP2Pool() as pool:
            for _ in range(2):
                async with trio_ws.connect(uri, http2=True, ssl=ours, pool=pool) as ws:
                    assert ws.http_version == "1.1"
        # The pool remembers it.
        assert chosen == ["h2", "http/1.1", "h2", "http/1.1", "http/1.1"]


async def test_a_server_that_requires_http11_for_the_request() -> None:
    async def serve(peer: RawPeer) -> None:
        await peer.start(ENABLE_CONNECT=1)
        first = await peer.receive_kind(HEADERS)
        if first.headers[":path"] == "/":
            await peer.send(frame(RST_STREAM, 0, first.stream, HTTP_1_1_REQUIRED.to_bytes(4, "big")))
            await peer.receive_kind(GOAWAY)
        else:  # the first request is served, but not the second one
            await peer.send(peer.headers(first.stream, [(":status", "200")]))
            second = await peer.receive_kind(HEADERS)
            await peer.send(frame(RST_STREAM, 0, second.stream, HTTP_1_1_REQUIRED.to_bytes(4, "big")))
            await peer.send(frame(DATA, 0, first.stream, b"\x81\x02hi"))
            await peer.receive_kind(GOAWAY)
            await peer.receive_kind(DATA, first.stream)
            await peer.send(frame(DATA, END_STREAM, first.stream, b"\x88\x02\x03\xe8"))
        await peer.receive_all()

    context = client_context(CA)
    async with half_server(serve) as (uri, chosen):
        async with trio_ws.connect(uri, http2=True, ssl=context) as ws:
            assert ws.http_version == "1.1"
            assert ws.request.method == "GET"
        assert chosen == ["h2", "http/1.1"]
        async with HTTP2Pool() as pool:
            async with trio_ws.connect(uri + "first", http2=True, ssl=context, pool=pool) as first:
                for _ in range(2):
                    async with trio_ws.connect(uri, http2=True, ssl=context, pool=pool) as ws:
                        assert ws.http_version == "1.1"
                assert await first.receive() == "hi"
            assert first.close_code == 1000
        assert chosen[2:] == ["h2", "http/1.1", "http/1.1"]


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_server_that_requires_http11_for_the_connection(pooled: bool) -> None:
    """RFC 9113, section 7: the error code of GOAWAY may say it, too."""

    async def serve(peer: RawPeer) -> None:
        await peer.start(ENABLE_CONNECT=1)
        await peer.receive_kind(HEADERS)
        await peer.send(frame(GOAWAY, payload=bytes(4) + HTTP_1_1_REQUIRED.to_bytes(4, "big")))
        await peer.receive_all()

    async with half_server(serve) as (uri, chosen), HTTP2Pool() as pool:
        options: Any = {"pool": pool} if pooled else {}
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA), **options) as ws:
            assert ws.http_version == "1.1"
        assert chosen == ["h2", "http/1.1"]


@pytest.mark.parametrize("when", ["with the settings", "after the request"])
async def test_the_reason_of_a_server_that_leaves(when: str) -> None:
    async def serve(peer: RawPeer) -> None:
        goaway = frame(GOAWAY, payload=b"\0\0\0\1\0\0\0\x0b" + b"slow down")
        if when == "with the settings":
            await peer.send(settings(ENABLE_CONNECT=1) + goaway)
        else:
            await peer.start(ENABLE_CONNECT=1)
            await peer.receive_kind(HEADERS)
            await peer.send(goaway)

    async with raw_server(serve) as uri:
        with pytest.raises(ConnectFailed, match="ENHANCE_YOUR_CALM"):
            async with trio_ws.connect(uri, http2="prior-knowledge"):
                pass


async def test_a_redirect_from_prior_knowledge_to_a_server_without_extended_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def load_context() -> ssl.SSLContext:
        return client_context(CA)

    monkeypatch.setattr(dial, "load_default_context", load_context)
    async with half_server(offer_no_websockets) as (target, chosen):

        def redirect(opening: Opening, request: Request) -> Response:
            return opening.respond(302, "", {"Location": target})

        async with tls_server(ssl=None, http2="prior-knowledge", process_request=redirect) as (uri, _):
            async with trio_ws.connect(uri.replace("wss:", "ws:"), http2="prior-knowledge") as ws:
                assert ws.http_version == "1.1"
        assert chosen == ["h2", "http/1.1"]


async def test_a_listener_that_does_tls_itself() -> None:
    context = server_context(CA, "localhost")
    context.set_alpn_protocols(["h2", "http/1.1"])
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        listeners = [trio.SSLListener(listener, context, https_compatible=True)]
        uri = f"wss://localhost:{port}/"
        await nursery.start(partial(trio_ws.serve, echo, listeners=listeners, http2=True))
        for http2 in (False, True):
            async with trio_ws.connect(uri, http2=http2, ssl=client_context(CA), host="127.0.0.1") as ws:
                assert ws.http_version == ("2" if http2 else "1.1")
                await ws.send(b"x" * 300_000)
                assert await ws.receive() == b"x" * 300_000
        # A client that sends no TLS, or leaves.
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n"):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            if data:
                await stream.send_all(data)
            await stream.aclose()
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA), host="127.0.0.1") as ws:
            assert ws.http_version == "2"
        nursery.cancel_scope.cancel()


async def test_the_proxy_protocol() -> None:
    addresses = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        addresses.append((ws.remote_address, ws.opening.proxy_address is not None))

    async with tls_server(handler, proxy_protocol=True, ssl=None, http2="prior-knowledge") as (_, server):
        stream = await trio.open_tcp_stream("localhost", server.port)
        await stream.send_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n")
        peer = RawPeer(stream)
        await peer.start()
        await peer.open(1)
        await peer.open(3)
        await stream.aclose()
    assert addresses == [(("192.0.2.1", 1234), True)] * 2


async def test_prior_knowledge() -> None:
    async with tls_server(ssl=None, http2="prior-knowledge") as (uri, _):
        uri = uri.replace("wss:", "ws:")
        async with trio_ws.connect(uri, http2="prior-knowledge") as ws:
            assert ws.http_version == "2"
            assert ws.tls is None
            await ws.send("hi")
            assert await ws.receive() == "hi"
        async with trio_ws.connect(uri) as ws:
            assert ws.http_version == "1.1"


async def test_a_unix_socket(tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio_ws.serve, echo, path=path, http2="prior-knowledge"))
        async with trio_ws.connect_unix(path, http2="prior-knowledge") as ws:
            assert ws.http_version == "2"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "uri, options, error",
    [
        ("ws://a", {"http2": True}, ValueError),
        ("wss://a", {"http2": "prior-knowledge"}, ValueError),
        ("wss://a", {"http2": "h2"}, ValueError),
        ("wss://a", {"http2": 2}, TypeError),
        ("wss://a", {"http2": None}, TypeError),
        ("wss://a", {"pool": HTTP2Pool}, TypeError),
        ("wss://a", {"http2": True, "pool": 1}, TypeError),
    ],
)
def test_wrong_options(uri: str, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="must"):
        trio_ws.connect(uri, **options)


async def test_wrong_options_of_a_server() -> None:
    for options, error in [
        ({"http2": True}, ValueError),
        ({"http2": "prior-knowledge", "ssl": server_context(CA, "localhost")}, ValueError),
        ({"http2": "h2c"}, ValueError),
        ({"http2": 1}, TypeError),
    ]:
        with pytest.raises(error, match="http2 must be"):
            await trio_ws.serve(echo, 0, **options)  # type: ignore[arg-type]  # wrong on purpose


async def test_a_pool_without_http2() -> None:
    async with HTTP2Pool() as pool:
        with pytest.raises(ValueError, match="pool must"):
            trio_ws.connect("wss://a", pool=pool)


def test_without_h2() -> None:
    """Nothing imports h2 unless HTTP/2 is asked for; then the error names the extra."""
    code = """
import sys, trio
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("h2", "hpack", "hyperframe"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import trio_ws, trio_ws.http2, trio_ws.cli
assert "h2" not in sys.modules
async def handler(ws): pass
async def serve(): await trio_ws.serve(handler, 0, http2="prior-knowledge")
for call in (lambda: trio_ws.connect("wss://a", http2=True), lambda: trio.run(serve)):
    try:
        call()
    except ImportError as exc:
        assert "pip install trio-ws[http2]" in str(exc), exc
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -- Responses -------------------------------------------------------------------------------------------------------


async def test_the_request() -> None:
    seen: list[Request] = []

    def look(opening: Opening, request: Request) -> None:
        seen.append(request)

    async with tls_server(process_request=look, subprotocols=["b"]) as (uri, _):
        async with trio_ws.connect(
            uri.replace("localhost", "user:pass@localhost") + "a?b=c",
            http2=True,
            ssl=client_context(CA),
            origin=uri.replace("wss", "https")[:-1],
            headers={"X-Y": "z"},
            cookies={"k": "v"},
            subprotocols=["a", "b"],
        ) as ws:
            assert ws.subprotocol == "b"
    (request,) = seen
    assert (request.method, request.protocol, request.path) == ("CONNECT", "websocket", "/a?b=c")
    assert request.headers["x-y"] == "z"
    assert request.headers["authorization"] == "Basic dXNlcjpwYXNz"
    assert request.headers["cookie"] == "k=v"
    assert not {"sec-websocket-key", "upgrade", "connection"} & set(request.headers)


async def test_headers_with_secrets_are_not_compressed_with_others() -> None:
    """So that nobody can guess them by the size of the headers (RFC 7541, section 7.1.3)."""
    blocks: list[bytes] = []

    async def answer(peer: RawPeer) -> None:
        await peer.start(ENABLE_CONNECT=1)
        blocks.append((await peer.receive_kind(HEADERS)).payload)

    async with raw_server(answer) as uri:
        for cookie in ("k=v", "k=" + 18 * "v"):
            with pytest.raises(ConnectFailed):
                async with trio_ws.connect(
                    uri.replace("localhost", "user:pass@localhost"), http2="prior-knowledge", headers={"Cookie": cookie}
                ):
                    pass
    for block, kept in zip(blocks, ({"authorization", "cookie"}, {"authorization"}), strict=True):
        headers = hpack.Decoder().decode(block)
        assert {str(header[0]) for header in headers if not header.indexable} == kept


async def test_hooks_behave_the_same_with_both_versions() -> None:
    routes = trio_ws.route({"/a": echo})
    auth = trio_ws.basic_auth({"joe": "secret"})
    async with tls_server(routes, process_request=auth) as (uri, _):
        for path, user, status in [("a", "", 401), ("b", "joe:secret@", 404), ("a", "joe:wrong@", 401)]:
            results = []
            for http2 in (False, True):
                with pytest.raises(InvalidStatus) as caught:
                    async with trio_ws.connect(
                        uri.replace("localhost", f"{user}localhost") + path, http2=http2, ssl=client_context(CA)
                    ):
                        pass
                response = caught.value.response
                names = {"connection", "date"}
                results.append(
                    (
                        response.status_code,
                        response.body,
                        {k: response.headers.get_all(k) for k in response.headers if k not in names},
                    )
                )
            assert results[0] == results[1]
            assert results[0][0] == status
        for http2 in (False, True):
            async with trio_ws.connect(
                uri.replace("localhost", "joe:secret@localhost") + "a", http2=http2, ssl=client_context(CA)
            ) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


async def test_a_redirect() -> None:
    def redirect(opening: Opening, request: Request) -> Response | None:
        return opening.respond(302, "", {"Location": "/new"}) if request.path == "/" else None

    async with tls_server(process_request=redirect) as (uri, _):
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA)) as ws:
            assert ws.request.path == "/new"
            assert ws.http_version == "2"


async def test_a_large_refusal() -> None:
    def refuse(opening: Opening, request: Request) -> Response:
        return opening.respond(403, b"x" * 700_000)

    async with tls_server(process_request=refuse) as (uri, _):
        with pytest.raises(InvalidStatus) as caught:
            async with trio_ws.connect(uri, http2=True, ssl=client_context(CA)):
                pass
        assert caught.value.response.body == b"x" * 700_000


@pytest.mark.parametrize("code, name", [(CANCEL, "CANCEL"), (HTTP_1_1_REQUIRED, "HTTP_1_1_REQUIRED")])
async def test_a_stream_that_is_reset(code: int, name: str) -> None:
    """Without TLS, there is no HTTP/1.1 to use instead: the client knows that the server speaks HTTP/2."""

    async def reset(peer: RawPeer) -> None:
        await peer.start(ENABLE_CONNECT=1)
        request = await peer.receive_kind(HEADERS)
        await peer.send(frame(RST_STREAM, 0, request.stream, code.to_bytes(4, "big")))
        await peer.receive_all()

    async with raw_server(reset) as uri:
        with pytest.raises(ConnectFailed, match=name):
            async with trio_ws.connect(uri, http2="prior-knowledge"):
                pass


async def test_a_server_without_room() -> None:
    async with tls_server(ssl=None, http2="prior-knowledge", limits=trio_ws.Limits(connections=1)) as (uri, _):
        uri = uri.replace("wss:", "ws:")
        async with trio_ws.connect(uri, http2="prior-knowledge"):
            with pytest.raises(ConnectFailed, match="closed the connection for new streams"):
                async with trio_ws.connect(uri, http2="prior-knowledge"):
                    pass


@pytest.mark.parametrize("what", ["http/1.1", "nothing", "no websockets", "closed", "no status", "end"])
async def test_servers_that_do_something_else(what: str) -> None:
    async def serve(peer: RawPeer) -> None:
        if what == "http/1.1":
            await peer.stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif what == "no websockets":
            await peer.start()
        elif what in ("no status", "end"):
            await peer.start(ENABLE_CONNECT=1)
            request = await peer.receive_kind(HEADERS)
            if what == "no status":
                await peer.send(peer.headers(request.stream, [("x", "y")]))
            else:
                await peer.send(frame(RST_STREAM, 0, request.stream, bytes(4)))
        elif what == "closed":
            return
        await trio.sleep_forever()

    async with raw_server(serve) as uri:
        error = OpenTimeout if what == "nothing" else (ConnectFailed, InvalidHandshake)
        with pytest.raises(error):
            async with trio_ws.connect(uri, http2="prior-knowledge", open_timeout=0.2 if what == "nothing" else 10):
                pass


async def test_a_response_that_opens_with_another_2xx() -> None:
    async def serve(peer: RawPeer) -> None:
        await peer.start(ENABLE_CONNECT=1)
        request = await peer.receive_kind(HEADERS)
        assert request.headers[":scheme"] == "http"
        await peer.send(peer.headers(request.stream, [(":status", "204")]) + frame(DATA, 0, 1, b"\x81\x02hi"))
        await peer.receive_kind(DATA)
        await peer.send(frame(DATA, END_STREAM, 1, b"\x88\x02\x03\xe8"))
        await peer.receive_all()

    async with raw_server(serve) as uri:
        async with trio_ws.connect(uri, http2="prior-knowledge") as ws:
            assert await ws.receive() == "hi"
        assert ws.close_code == 1000


async def test_a_goaway_leaves_the_websocket_alone() -> None:
    async def serve(peer: RawPeer) -> None:
        await peer.start(ENABLE_CONNECT=1)
        await peer.receive_kind(HEADERS)
        await peer.send(peer.headers(1, [(":status", "200")]))
        await peer.send(frame(GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4)))
        await peer.send(frame(DATA, 0, 1, b"\x81\x02hi"))
        await peer.receive_kind(DATA)
        await peer.send(frame(DATA, END_STREAM, 1, b"\x88\x02\x03\xe8"))
        await peer.receive_all()

    async with raw_server(serve) as uri:
        async with trio_ws.connect(uri, http2="prior-knowledge") as ws:
            assert await ws.receive() == "hi"
            await ws.send("after")
        assert ws.close_code == 1000


async def test_a_client_certificate_that_is_missing() -> None:
    context = server_context(CA, "localhost")
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with tls_server(ssl=context) as (uri, _):
        for http2 in (False, True):
            with pytest.raises(trio_ws.TLSFailed, match="client certificate"):
                async with trio_ws.connect(uri, http2=http2, ssl=client_context(CA)):
                    pass
        with_certificate = client_context(CA)
        CERTIFICATE.configure_cert(with_certificate)
        async with trio_ws.connect(uri, http2=True, ssl=with_certificate) as ws:
            assert ws.http_version == "2"


async def test_connect_in_and_attempts() -> None:
    async with tls_server() as (uri, _):
        async with trio.open_nursery() as nursery:
            ws = await trio_ws.connect_in(nursery, uri, http2=True, ssl=client_context(CA))
            await ws.send("x")
            assert await ws.receive() == "x"
            await ws.aclose()
        async for attempt in trio_ws.attempts(uri, http2=True, ssl=client_context(CA)):
            async with attempt as ws:
                assert ws.http_version == "2"


# -- The pool --------------------------------------------------------------------------------------------------------


async def test_a_pool_shares_connections() -> None:
    addresses = set()
    async with tls_server() as (uri, server):
        context = client_context(CA)
        async with HTTP2Pool() as pool, trio.open_nursery() as nursery:

            async def use(number: int) -> None:
                async with trio_ws.connect(uri, http2=True, ssl=context, pool=pool) as ws:
                    addresses.add(ws.local_address)
                    await ws.send(str(number))
                    assert await ws.receive() == str(number)

            for number in range(50):
                nursery.start_soon(use, number)
        assert len(addresses) == 1
        assert pool.connections == 0
        with trio.fail_after(HANGS):
            await server.drain()


def test_proxies_that_differ_in_secrets_are_not_shared() -> None:
    uri = trio_ws.parse_uri("wss://example.org/")
    keys = set()
    for user, password, tenant in (("a", "x", "red"), ("a", "y", "red"), ("a", "x", "blue"), ("a", "x", "red")):
        proxy = trio_ws.Proxy(f"http://{user}:{password}@proxy.example:3128", headers={"X-Tenant": tenant})
        keys.add(Dialer(uri, None, None, proxy=proxy).get_key(uri))
    assert len(keys) == 3


async def test_a_pool_opens_another_connection_when_one_is_full() -> None:
    async with tls_server(limits=trio_ws.Limits(streams=2)) as (uri, _):
        context = client_context(CA)
        async with HTTP2Pool() as pool:
            async with trio.open_nursery() as nursery:
                connections = [
                    await trio_ws.connect_in(nursery, uri, http2=True, ssl=context, pool=pool) for _ in range(5)
                ]
                assert pool.connections == 3
                assert len({ws.local_address for ws in connections}) == 3
                for ws in connections:
                    await ws.aclose()
            assert pool.connections == 3


async def test_each_websocket_counts_for_the_address() -> None:
    async with tls_server(limits=trio_ws.Limits(per_address=3)) as (uri, server):
        context = client_context(CA)
        async with HTTP2Pool() as pool, trio.open_nursery() as nursery:
            connect = partial(trio_ws.connect_in, nursery, uri, http2=True, ssl=context)
            first, *_ = [await connect(pool=pool) for _ in range(3)]
            with pytest.raises(InvalidStatus) as caught:
                await connect(pool=pool)
            assert caught.value.response.status_code == 503
            with pytest.raises(ConnectFailed):  # nor is there room for another connection
                await connect()
            await first.aclose()
            await connect(pool=pool)
            assert len(server.connections) == 3
            nursery.cancel_scope.cancel()
        with trio.fail_after(HANGS):
            await server.drain()
        assert not server._state.by_address
        assert server._state.count == 0


async def test_failed_handshakes_are_reported() -> None:
    failures: list[trio_ws.HandshakeFailure] = []

    class Record(trio_ws.Instrument):
        def handshake_failed(self, failure: trio_ws.HandshakeFailure) -> None:
            failures.append(failure)

    async with tls_server(instruments=[Record()]) as (uri, _):
        with pytest.raises(InvalidStatus):
            async with trio_ws.connect(
                uri, http2=True, ssl=client_context(CA), origin="https://evil.example", instruments=[Record()]
            ):
                pass
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA)) as ws:
            assert ws.handshake_seconds >= 0
    server, client = failures
    assert (server.role, client.role) == (trio_ws.protocol.Role.SERVER, trio_ws.protocol.Role.CLIENT)
    for failure in failures:
        assert failure.request is not None
        assert failure.request.http_version == "2"
        assert failure.response is not None
        assert failure.response.status_code == 403


async def test_a_pool_keeps_different_options_apart() -> None:
    async with tls_server() as (uri, _):
        async with HTTP2Pool() as pool:
            for context in (client_context(CA), client_context(CA)):
                async with trio_ws.connect(uri, http2=True, ssl=context, pool=pool):
                    pass
            assert pool.connections == 2
            assert repr(pool) == "<HTTP2Pool with 2 connections>"


async def test_a_pool_replaces_a_lost_connection() -> None:
    context = client_context(CA)
    async with HTTP2Pool() as pool:
        async with trio.open_nursery() as nursery:
            async with tls_server() as (uri, server):
                port = server.port
                ws = await trio_ws.connect_in(nursery, uri, http2=True, ssl=context, pool=pool)
            with pytest.raises(ConnectionClosed):
                await ws.receive()
        async with trio.open_nursery() as nursery:
            tls = server_context(CA, "localhost")
            serve = partial(trio_ws.serve, echo, port, host="localhost", http2=True, ssl=tls)
            await nursery.start(serve)
            async with trio_ws.connect(uri, http2=True, ssl=context, pool=pool) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"
            nursery.cancel_scope.cancel()


async def test_a_refused_stream_is_tried_again() -> None:
    requests = 0

    async def serve(peer: RawPeer) -> None:
        nonlocal requests
        await peer.start(ENABLE_CONNECT=1)
        while (request := await peer.next_frame()) is not None:
            if request.kind == HEADERS:
                requests += 1
                if requests == 1:
                    await peer.send(frame(RST_STREAM, 0, request.stream, REFUSED_STREAM.to_bytes(4, "big")))
                elif requests == 2:
                    await peer.send(frame(GOAWAY, 0, 0, bytes(8)))
                else:
                    await peer.send(peer.headers(request.stream, [(":status", "200")]))
            elif request.kind == DATA and request.payload:
                await peer.send(frame(DATA, END_STREAM, request.stream, b"\x88\x02\x03\xe8"))

    async with raw_server(serve) as uri:
        async with HTTP2Pool() as pool:
            async with trio_ws.connect(uri, http2="prior-knowledge", pool=pool) as ws:
                pass
            assert ws.close_code == 1000
        assert requests == 3


async def test_leaving_a_pool_closes_its_websockets() -> None:
    async with tls_server() as (uri, _):
        async with trio.open_nursery() as nursery:
            async with HTTP2Pool() as pool:
                ws = await trio_ws.connect_in(nursery, uri, http2=True, ssl=client_context(CA), pool=pool)
            with pytest.raises(ConnectionClosed):
                await ws.receive()
        with pytest.raises(RuntimeError, match="open"):
            async with trio_ws.connect(uri, http2=True, ssl=client_context(CA), pool=pool):
                pass
        with pytest.raises(RuntimeError, match="once"):
            async with pool:
                pass


async def test_a_cancelled_pool() -> None:
    async with tls_server() as (uri, server):
        with trio.CancelScope() as scope:
            async with HTTP2Pool() as pool:
                async with trio_ws.connect(uri, http2=True, ssl=client_context(CA), pool=pool):
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        with trio.fail_after(HANGS):
            await server.drain()


async def test_cancelling_one_websocket_leaves_the_others_alone() -> None:
    async with tls_server() as (uri, _):
        context = client_context(CA)
        async with HTTP2Pool() as pool:
            async with trio_ws.connect(uri, http2=True, ssl=context, pool=pool) as ws:
                for _ in range(5):
                    with trio.CancelScope() as scope:
                        async with trio_ws.connect(uri, http2=True, ssl=context, pool=pool) as other:
                            scope.cancel()
                            await other.send(b"x" * 10_000_000)
                    await ws.send("x")
                    assert await ws.receive() == "x"
            assert pool.connections == 1


@pytest.mark.parametrize("pooled", [False, True])
async def test_closed_connections_are_freed(pooled: bool) -> None:
    references: list[weakref.ref[Connection]] = []

    async def handler(ws: trio_ws.ServerWebSocket) -> None:
        references.append(weakref.ref(connection_of(ws)))
        await echo(ws)

    async with tls_server(handler) as (uri, _):
        context = client_context(CA)
        gc.collect()
        gc.disable()
        try:
            async with HTTP2Pool() as pool:
                options: Any = {"pool": pool} if pooled else {}
                async with trio_ws.connect(uri, http2=True, ssl=context, **options) as ws:
                    references.append(weakref.ref(connection_of(ws)))
                    await ws.send("x")
                    await ws.receive()
                del ws
                await trio.testing.wait_all_tasks_blocked(0.1)
            assert [reference() for reference in references] == [None, None]
        finally:
            gc.enable()


async def test_an_open_stream_keeps_no_headers() -> None:
    """The request and the response have them, so those of the stream would only take memory."""
    async with tls_server() as (uri, server):
        async with trio_ws.connect(uri, http2=True, ssl=client_context(CA)) as ws:
            (other,) = server.connections
            for end in (ws, other):
                stream = connection_of(end).stream.stream
                assert isinstance(stream, HTTP2Stream)
                assert not stream.headers
            assert other.request.headers == ws.request.headers
            assert ws.response.headers == other.response.headers
