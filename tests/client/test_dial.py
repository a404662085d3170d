"""Dialing: TCP, Unix sockets and TLS."""

from __future__ import annotations

import datetime
import errno
import gzip
import os
import pickle
import re
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws.client import tls
from trio_ws.client.connecting import BODY_TIMEOUT
from trio_ws.exceptions import (
    ConnectFailed,
    ConnectionClosedError,
    HeadTooBig,
    InvalidHandshake,
    InvalidMessage,
    InvalidRedirect,
    InvalidStatus,
    OpenTimeout,
    ProxyFailed,
    TLSFailed,
    TooManyHeaders,
)

from ..support import Wrapped, client_context, echo, in_one_piece, reset, server_context
from .servers import (
    TEXT_HI,
    URI,
    expect_failure,
    failure_of,
    read_request,
    refusal,
    refused,
    scripted_server,
    start_server,
    start_tcp,
    switch,
)

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.usefixtures("watchdog")


# -- Sockets ---------------------------------------------------------------------------------------------------------


async def test_refused(nothing_left: Callable[[], None]) -> None:
    with socket.socket() as sock:
        # The socket is bound but does not listen, and nobody else can bind the port.
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{port}"))
    assert type(exc) is ConnectFailed
    assert isinstance(exc, OSError)
    assert exc.peer == f"127.0.0.1:{port}"
    assert os.strerror(errno.ECONNREFUSED) in exc.reason
    assert isinstance(exc.__cause__, OSError)
    assert str(port) in str(exc)
    assert exc.reason in str(exc)
    nothing_left()


class Resolver(trio.abc.HostnameResolver):
    """Resolves every name to these addresses, or to none, after some seconds."""

    def __init__(self, *addresses: str, seconds: float = 0) -> None:
        self.addresses = addresses
        self.seconds = seconds
        self.calls = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> list[Any]:
        self.calls += 1
        await trio.sleep(self.seconds)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_unknown_host() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    exc = await expect_failure(trio_ws.connect("ws://nowhere.example/"))
    assert type(exc) is ConnectFailed
    assert (exc.peer, exc.reason) == ("nowhere.example", "Name or service not known")
    assert isinstance(exc.__cause__, socket.gaierror)


async def test_a_slow_resolver_that_finds_nothing(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Resolver(seconds=9)
    trio.socket.set_custom_hostname_resolver(resolver)
    exc = await expect_failure(trio_ws.connect("ws://nowhere.example/"))
    assert isinstance(exc, ConnectFailed)
    assert (exc.reason, resolver.calls, trio.current_time()) == ("Name or service not known", 1, 9)


@pytest.mark.parametrize("named", [True, False])
async def test_a_slow_resolver_and_a_refusal(
    named: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The name is only resolved again for an error that does not name its address, and not for long."""
    resolver = Resolver("192.0.2.1", seconds=9)
    trio.socket.set_custom_hostname_resolver(resolver)
    text = os.strerror(errno.ECONNREFUSED)

    async def open_tcp_stream(*_: Any, **__: Any) -> trio.SocketStream:
        await resolver.getaddrinfo(None, None)
        error = f"Error connecting to ('192.0.2.1', 80): {text}" if named else text
        raise OSError("all failed") from ConnectionRefusedError(errno.ECONNREFUSED, error)

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    exc = await expect_failure(trio_ws.connect("ws://one.example/"))
    assert isinstance(exc, ConnectFailed)
    assert exc.reason == (f"192.0.2.1: {text}" if named else text)
    assert resolver.calls == (1 if named else 2)
    assert trio.current_time() <= 9.1


async def test_refused_by_several_addresses() -> None:
    refused = os.strerror(errno.ECONNREFUSED)
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        # The system refuses the last one at once, with an error that does not name the address.
        trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.2", "127.0.0.1", "255.255.255.255"))
        exc = await expect_failure(trio_ws.connect(f"ws://many.example:{sock.getsockname()[1]}"))
    assert isinstance(exc, ConnectFailed)
    one, two, last = exc.reason.split("; ")
    assert [one, two] == [f"127.0.0.1: {refused}", f"127.0.0.2: {refused}"]
    assert re.fullmatch(r"255\.255\.255\.255: [^:]+", last)
    assert isinstance(exc.__cause__, OSError)


async def test_refused_by_the_only_address() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1"))
        exc = await expect_failure(trio_ws.connect(f"ws://one.example:{sock.getsockname()[1]}"))
    assert isinstance(exc, ConnectFailed)
    assert exc.reason == f"127.0.0.1: {os.strerror(errno.ECONNREFUSED)}"


async def test_refused_and_then_the_name_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver("127.0.0.1", "127.0.0.2")
    trio.socket.set_custom_hostname_resolver(resolver)

    async def open_tcp_stream(*_: Any, **__: Any) -> trio.SocketStream:
        resolver.addresses = ()
        raise OSError("all failed") from ExceptionGroup(
            "all", [OSError(1, "this"), OSError(2, "that"), OSError(3, "this")]
        )

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    exc = await expect_failure(trio_ws.connect("ws://gone.example/"))
    assert isinstance(exc, ConnectFailed)
    assert exc.reason == "this; that"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_ip_address_is_neither_looked_up_nor_raced(
    host: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    open_tcp_stream = trio.open_tcp_stream

    async def record(name: str, port: int, **options: Any) -> trio.SocketStream:
        looked_up.append(name)
        return await open_tcp_stream(name, port, **options)

    monkeypatch.setattr(trio, "open_tcp_stream", record)
    server = await nursery.start(partial(trio_ws.serve, echo, 0, host=host))
    bracketed = f"[{host}]" if ":" in host else host
    async with trio_ws.connect(f"ws://{bracketed}:{server.port}") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        assert ws.remote_address[:2] == (host, server.port)
    assert looked_up == []
    # The rest is Trio's business: names, and binding to a local address.
    async with trio_ws.connect(f"ws://{bracketed}:{server.port}", local_address=host):
        assert looked_up == [host]


@pytest.mark.skipif(sys.platform != "linux", reason="the name of the loopback zone differs")
async def test_zone(nursery: trio.Nursery) -> None:
    server = await nursery.start(partial(trio_ws.serve, echo, 0, host="::1"))
    async with trio_ws.connect(f"ws://[::1%251]:{server.port}/") as ws:
        assert ws.remote_address[:2] == ("::1", server.port)
        assert ws.request.headers["Host"] == f"[::1]:{server.port}"
    exc = await expect_failure(trio_ws.connect("ws://[fe80::1%25nowhere]/"))
    assert isinstance(exc, ConnectFailed)
    assert exc.reason.endswith("(with the zone nowhere)")


async def test_the_zone_is_neither_for_certificates_nor_for_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    async def open_tcp_stream(*arguments: Any, **_options: Any) -> trio.abc.Stream:
        calls.append(arguments)
        client, server = trio.testing.memory_stream_pair()
        nursery.start_soon(answer, server)
        return client

    async def answer(server: trio.abc.Stream) -> None:
        calls.append((await server.receive_some()).partition(b"\r\n")[0])
        await server.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    async with trio.open_nursery() as nursery:
        await expect_failure(trio_ws.connect("ws://[fe80::1%25eth0]/"))
        await expect_failure(trio_ws.connect("wss://[fe80::1%25eth0]/", proxy="http://[fe80::2%25eth1]:3128"))
    assert calls == [
        ("fe80::1%eth0", 80),
        b"GET / HTTP/1.1",
        ("fe80::2%eth1", 3128),
        b"CONNECT [fe80::1]:443 HTTP/1.1",
    ]


async def test_the_limits_of_heads_apply_to_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_tcp_stream(*_arguments: Any, **_options: Any) -> trio.abc.Stream:
        client, server = trio.testing.memory_stream_pair()
        await server.send_all(b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\nx")
        return client

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    options: Any
    for options, text in (
        ({"max_headers": 1}, "at most 1 headers"),
        ({"max_head_size": 10}, "at most 10 bytes"),
        ({}, "the proxy sent data before the server could"),
    ):
        exc = await expect_failure(trio_ws.connect("ws://example.org/", proxy="http://proxy.example", **options))
        assert isinstance(exc, ProxyFailed)
        assert text in exc.reason


async def test_the_next_address_is_tried(nursery: trio.Nursery) -> None:
    server = await start_server(nursery)
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.2", "127.0.0.1"))
    async with trio_ws.connect(f"ws://two.example:{server.port}", happy_eyeballs_delay=1000) as ws:
        assert ws.remote_address == ("127.0.0.1", server.port)
        assert ws.request.headers["Host"] == f"two.example:{server.port}"


async def test_dial_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []

    async def open_tcp_stream(*arguments: Any, **options: Any) -> trio.SocketStream:
        calls.append((arguments, options))
        raise OSError("enough")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    await expect_failure(trio_ws.connect(URI))
    await expect_failure(trio_ws.connect("wss://[::1]", happy_eyeballs_delay=3, local_address="::1"))
    assert calls == [
        (("example.org", 80), {"happy_eyeballs_delay": 0.25, "local_address": None}),
        (("::1", 443), {"happy_eyeballs_delay": 3, "local_address": "::1"}),
    ]


# -- Another host and port ---------------------------------------------------------------------------------------------


async def test_another_host_and_port(nursery: trio.Nursery) -> None:
    server = await start_server(nursery)
    for uri, options, header in (
        ("ws://example.org/path", {"host": "127.0.0.1", "port": server.port}, "example.org"),
        (f"ws://example.org:{server.port}/path", {"host": "LOCALHOST"}, f"example.org:{server.port}"),
        ("ws://127.0.0.1:9/path", {"port": server.port}, "127.0.0.1:9"),
    ):
        arguments: Any = options
        async with trio_ws.connect(uri, **arguments) as ws:
            assert ws.remote_address == ("127.0.0.1", server.port)
            assert ws.request.headers["Host"] == header
            assert ws.request.path == "/path"


async def test_another_host_with_tls(authority: trustme.CA, nursery: trio.Nursery) -> None:
    context = server_context(authority, "example.org")
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    server = await start_server(nursery, ssl=context)
    options: Any = {"ssl": client_context(authority), "host": "127.0.0.1", "port": server.port}
    async with trio_ws.connect("wss://example.org/", **options) as ws:
        assert ws.request.headers["Host"] == "example.org"
    assert names == ["example.org"]
    # The certificate must be valid for the host of the URI.
    exc = await expect_failure(trio_ws.connect("wss://other.example/", **options))
    assert isinstance(exc, TLSFailed)
    assert exc.peer == "other.example"


async def test_nobody_listens_at_another_host() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        exc = await expect_failure(trio_ws.connect("ws://example.org/", host="127.0.0.1", port=port))
    assert type(exc) is ConnectFailed
    assert exc.peer == f"127.0.0.1:{port}"
    assert os.strerror(errno.ECONNREFUSED) in exc.reason


async def test_redirects_and_another_host(nursery: trio.Nursery) -> None:
    async def move(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
        visits.append((opening.server is other, request.headers["Host"], request.path))
        location = {"/first": "/second", "/second": f"http://127.0.0.1:{other.port}/third"}.get(request.path)
        return None if location is None else opening.respond(302, "", {"Location": location})

    visits: list[tuple[bool, str, str]] = []
    server = await start_server(nursery, process_request=move)
    other = await start_server(nursery, process_request=move)
    async with trio_ws.connect("ws://example.org/first", host="127.0.0.1", port=server.port):
        pass
    assert visits == [
        (False, "example.org", "/first"),
        (False, "example.org", "/second"),
        (True, f"127.0.0.1:{other.port}", "/third"),
    ]


async def test_attempts_connect_to_another_host(nursery: trio.Nursery) -> None:
    server = await start_server(nursery)
    async for attempt in trio_ws.attempts("ws://example.org/", host="127.0.0.1", port=server.port):
        async with attempt as ws:
            assert ws.remote_address == ("127.0.0.1", server.port)
            assert ws.request.headers["Host"] == "example.org"


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("when", ["at once", "before", "in"])
async def test_dropped_by_the_server(when: str, how: str, nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        if when != "at once":
            request = await read_request(stream)
            if when == "in":
                await stream.send_all(switch(request)[:40])
        if how == "RST":
            reset(stream)

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    assert type(exc) is ConnectFailed
    assert exc.reason
    assert exc.reason != "BrokenResourceError"
    nothing_left()


async def test_refused_by_a_web_server(nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnothing")

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    assert isinstance(exc, InvalidStatus)
    assert (exc.response.status_code, exc.response.body) == (404, b"nothing")
    nothing_left()


async def test_the_message_of_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    body = gzip.compress(b"you are\nnot invited")
    headers = ["Content-Encoding: gzip", f"Content-Length: {len(body)}", "Retry-After: 60"]
    exc = await failure_of(refusal(*headers, body=body))
    assert isinstance(exc, InvalidStatus)
    assert (exc.status_code, exc.reason_phrase) == (403, "Forbidden")
    assert (exc.headers["Retry-After"], exc.headers["Content-Encoding"]) == ("60", "gzip")
    assert exc.body == exc.response.body == b"you are\nnot invited"
    for part in ("403 Forbidden", "Retry-After: 60", "you are not invited"):
        assert part in str(exc)


async def test_a_refusal_whose_compressed_body_stalls(autojump_clock: trio.testing.MockClock) -> None:
    body = gzip.compress(os.urandom(30_000))
    answer = refusal("Content-Encoding: gzip", "Content-Length: 100000", body=body[:20_000])
    for timeout in (10, BODY_TIMEOUT / 2):
        response = await refused(answer, open_timeout=timeout)
        assert response.body is not None
        assert len(response.body) > 10_000
        assert gzip.decompress(body).startswith(response.body)


@pytest.mark.parametrize(
    "uri, options, error",
    [
        ("ws://example.org", {"server_hostname": "example.org"}, ValueError),
        ("ws://example.org", {"local_address": "example.org"}, ValueError),
        ("ws://example.org", {"local_address": "127.0.0.1:80"}, ValueError),
        ("ws://example.org", {"local_address": 1}, TypeError),
        ("ws://example.org", {"happy_eyeballs_delay": -1}, ValueError),
        ("ws://example.org", {"happy_eyeballs_delay": None}, TypeError),
        ("ws://example.org", {"host": "127.0.0.1:80"}, ValueError),
        ("ws://example.org", {"host": "[::1]"}, ValueError),
        ("ws://example.org", {"host": ""}, ValueError),
        ("ws://example.org", {"host": "ws://example.org"}, ValueError),
        ("ws://example.org", {"host": b"example.org"}, TypeError),
        ("ws://example.org", {"port": 0}, ValueError),
        ("ws://example.org", {"port": 65536}, ValueError),
        ("ws://example.org", {"port": "80"}, TypeError),
        ("ws://example.org", {"port": True}, TypeError),
        ("ws+unix:/run/app.sock", {"host": "127.0.0.1"}, ValueError),
        ("ws+unix:/run/app.sock", {"port": 80}, ValueError),
        ("ws+unix:/run/app.sock", {"local_address": "127.0.0.1"}, ValueError),
        ("ws+unix:/run/app.sock", {"happy_eyeballs_delay": 1}, ValueError),
        ("ws+unix:/run/app.sock", {"proxy_ssl": ssl.create_default_context()}, ValueError),
        ("ws+unix:/run/app.sock", {"proxy": "http://proxy.example"}, ValueError),
        ("ws+unix:/run/app.sock", {"server_hostname": "example.org"}, ValueError),
    ],
)
async def test_options_that_would_have_no_effect(uri: str, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        trio_ws.connect(uri, **options)


async def test_local_addresses() -> None:
    for address in ("127.0.0.1", "::1", "fe80::1%eth0"):
        connecting = trio_ws.connect("ws://example.org", local_address=address)
        assert isinstance(connecting, trio_ws.Connecting)


# -- The limits of heads ---------------------------------------------------------------------------------------------


LARGE = ["Set-Cookie: a=" + "x" * 40_960, *[f"X-{number}: y" for number in range(200)]]


async def test_heads_above_the_default_limits(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_server(lambda request: switch(request, *LARGE)) as (client, _):
        options: Any = {"max_head_size": 100_000, "max_headers": 204, "close_timeout": 0}
        async with trio_ws.connect_over(client, URI, **options) as ws:
            assert len(ws.response.headers["Set-Cookie"]) == 40_962
    exc = await failure_of(lambda request: switch(request, *LARGE))
    assert isinstance(exc, HeadTooBig)
    assert "example.org" in str(exc)
    exc = await failure_of(lambda request: switch(request, *LARGE), max_head_size=100_000, max_headers=203)
    assert isinstance(exc, TooManyHeaders)


# -- Answers that are not HTTP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "banner", [b"220 mail.test ESMTP ready\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", b"\x15\x03\x01\x00\x02\x02F"]
)
async def test_other_protocols_are_recognized_at_once(banner: bytes, autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    exc = await failure_of(lambda request: banner)
    assert trio.current_time() == start
    assert isinstance(exc, InvalidMessage)
    assert not trio_ws.is_retryable(exc)
    assert exc.peer == "example.org"
    assert str(exc).startswith("the response of example.org is not valid: it is not HTTP, but begins with ")
    assert repr(banner.strip().decode("iso-8859-1")) in str(exc)
    copy = pickle.loads(pickle.dumps(exc))
    assert (str(copy), copy.peer) == (str(exc), exc.peer)


@pytest.mark.parametrize(
    "answer",
    [lambda request: switch(request, without="Upgrade"), lambda request: switch(request, "Sec-WebSocket-Protocol: x")],
)
async def test_invalid_responses_name_the_server(answer: Any, autojump_clock: trio.testing.MockClock) -> None:
    exc = await failure_of(answer)
    assert isinstance(exc, InvalidHandshake)
    assert str(exc).startswith("the response of example.org is not valid: ")


async def test_an_answer_before_the_request_is_written(autojump_clock: trio.testing.MockClock) -> None:
    """A server may refuse a large request before it has received all of it, and close."""

    class Full(Wrapped):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError from BrokenPipeError(errno.EPIPE, "Broken pipe")

    client, server = trio.testing.memory_stream_pair()
    await server.send_all(refusal("Content-Length: 2", body=b"hi", status="431 Too large")(None))  # type: ignore[arg-type]  # it needs no request
    exc = await expect_failure(trio_ws.connect_over(Full(client), URI))
    assert isinstance(exc, InvalidStatus)
    assert (exc.status_code, exc.body) == (431, b"hi")

    client, server = trio.testing.memory_stream_pair()
    start = trio.current_time()
    exc = await expect_failure(trio_ws.connect_over(Full(client), URI))
    assert isinstance(exc, ConnectFailed)
    assert exc.reason == "Broken pipe"
    assert trio.current_time() - start <= BODY_TIMEOUT


# -- Unix sockets ----------------------------------------------------------------------------------------------------


unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path for a socket. The tmp_path of pytest may be too long for one."""
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "app.sock")


async def start_unix_server(nursery: trio.Nursery, path: str, **options: Any) -> list[trio_ws.WebSocket]:
    """Start a server on a Unix socket. Return a list, to which it adds its connections."""
    seen: list[trio_ws.WebSocket] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        seen.append(ws)
        await echo(ws)

    await nursery.start(partial(trio_ws.serve, handler, path=path, **options))
    return seen


@unix_only
async def test_connect_unix(nursery: trio.Nursery, socket_path: str, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as servers:
        seen = await start_unix_server(servers, socket_path)
        for connecting, host, path in (
            (trio_ws.connect_unix(socket_path), "localhost", "/"),
            (trio_ws.connect_unix(Path(socket_path), "ws://any.example/chat?x"), "any.example", "/chat?x"),
            (trio_ws.connect(f"ws+unix:{socket_path}"), "localhost", "/"),
            (
                trio_ws.connect(f"ws+unix://{socket_path}:/chat?x", headers={"Host": "a.example"}),
                "a.example",
                "/chat?x",
            ),
        ):
            async with connecting as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
                assert seen[-1].request.path == path
                assert seen[-1].request.headers["Host"] == host
                assert ws.remote_address == socket_path
        servers.cancel_scope.cancel()
    nothing_left()


@unix_only
async def test_connect_unix_with_all_options(nursery: trio.Nursery, socket_path: str) -> None:
    seen = await start_unix_server(nursery, socket_path, subprotocols=["chat"], origins=trio_ws.ANY)
    async with trio_ws.connect_unix(
        socket_path,
        "ws://me:secret@localhost/",
        headers={"X-Mine": "1"},
        user_agent="me",
        origin="https://example.org",
        cookies={"a": "b"},
        credentials=lambda uri: {"X-Token": uri.host},
        subprotocols=["chat"],
    ) as ws:
        assert ws.subprotocol == "chat"
        headers = seen[0].request.headers
        assert headers["Authorization"] == "Basic bWU6c2VjcmV0"
        assert (headers["X-Mine"], headers["User-Agent"], headers["Origin"]) == ("1", "me", "https://example.org")
        assert (headers["Cookie"], headers["X-Token"]) == ("a=b", "localhost")


@unix_only
async def test_tls_over_a_unix_socket(authority: trustme.CA, nursery: trio.Nursery, socket_path: str) -> None:
    await start_unix_server(nursery, socket_path, ssl=server_context(authority, "localhost"))
    context = client_context(authority)
    for connecting in (
        trio_ws.connect(f"wss+unix:{socket_path}", ssl=context),
        trio_ws.connect_unix(socket_path, "wss://localhost", ssl=context),
        trio_ws.connect_unix(socket_path, "wss://other.example", ssl=context, server_hostname="localhost"),
    ):
        async with connecting as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
    exc = await expect_failure(trio_ws.connect_unix(socket_path, "wss://other.example", ssl=context))
    assert isinstance(exc, TLSFailed)
    assert "other.example" in exc.reason


@unix_only
async def test_missing_unix_sockets(socket_path: str, nothing_left: Callable[[], None]) -> None:
    exc = await expect_failure(trio_ws.connect_unix(socket_path))
    assert type(exc) is ConnectFailed
    assert (exc.peer, exc.reason) == (socket_path, os.strerror(errno.ENOENT))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(socket_path)  # but do not listen
    exc = await expect_failure(trio_ws.connect(f"ws+unix:{socket_path}"))
    assert type(exc) is ConnectFailed
    assert exc.reason == os.strerror(errno.ECONNREFUSED)
    nothing_left()


@unix_only
async def test_redirects_stay_on_the_unix_socket(nursery: trio.Nursery, socket_path: str) -> None:
    paths: list[str] = []

    async def talk(stream: trio.SocketStream) -> None:
        async with stream:
            request = await read_request(stream)
            paths.append(request.path)
            if request.path == "/here":
                await stream.send_all(switch(request))
                await stream.receive_some()
                return
            location = {"/": "/here", "/absolute": "http://localhost/here", "/away": "http://other.example/here"}
            await in_one_piece(stream, refusal(f"Location: {location[request.path]}", status="302 Found")(request))

    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(socket_path)
    sock.listen()
    nursery.start_soon(trio.serve_listeners, talk, [trio.SocketListener(sock)])
    for path in ("/", "/absolute"):
        async with trio_ws.connect(f"ws+unix:{socket_path}:{path}", close_timeout=0) as ws:
            assert ws.request.path == "/here"
    exc = await expect_failure(trio_ws.connect(f"ws+unix:{socket_path}:/away"))
    assert isinstance(exc, InvalidRedirect)
    assert exc.reason == "ws://other.example/here cannot be reached through the same Unix socket"
    assert paths == ["/", "/here", "/absolute", "/here", "/away"]


@pytest.mark.parametrize("connect", [trio_ws.connect, partial(trio_ws.connect_unix, "/run/app.sock")])
async def test_ssl_requires_wss_on_unix_sockets_too(connect: Callable[..., object]) -> None:
    uri = "ws+unix:/run/app.sock" if connect is trio_ws.connect else "ws://localhost"
    with pytest.raises(ValueError, match=r"ssl must only be given for a wss:// URI"):
        connect(uri, ssl=ssl.create_default_context())


# -- TLS -------------------------------------------------------------------------------------------------------------


async def test_tls(authority: trustme.CA, nursery: trio.Nursery) -> None:
    server = await start_server(nursery, ssl=server_context(authority))
    for host in ("localhost", "127.0.0.1"):
        async with trio_ws.connect(f"wss://{host}:{server.port}/", ssl=client_context(authority)) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
            assert ws.remote_address == ("127.0.0.1", server.port)
            assert ws.request.headers["Host"] == f"{host}:{server.port}"


async def test_tls_trusts_the_system_authorities_by_default(
    authority: trustme.CA, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server(nursery, ssl=server_context(authority))
    with authority.cert_pem.tempfile() as file:
        monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, file)
        async with trio_ws.connect(f"wss://localhost:{server.port}/") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"


async def test_tls_with_a_trailing_dot(authority: trustme.CA, nursery: trio.Nursery) -> None:
    server = await start_server(nursery, ssl=server_context(authority))
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1"))
    async with trio_ws.connect(f"wss://localhost.:{server.port}/", ssl=client_context(authority)) as ws:
        assert ws.request.headers["Host"] == f"localhost.:{server.port}"


async def test_server_hostname(authority: trustme.CA, nursery: trio.Nursery) -> None:
    context = server_context(authority, "other.example")
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    server = await start_server(nursery, ssl=context)
    uri = f"wss://127.0.0.1:{server.port}/"
    async with trio_ws.connect(uri, ssl=client_context(authority), server_hostname="other.example") as ws:
        assert ws.request.headers["Host"] == f"127.0.0.1:{server.port}"
    assert names == ["other.example"]


async def tls_failure(context: ssl.SSLContext, **options: Any) -> BaseException:
    """Return the exception from connecting to a server with this context."""
    async with trio.open_nursery() as nursery:
        server = await start_server(nursery, ssl=context)
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{server.port}/", open_timeout=None, **options))
        assert isinstance(exc, ConnectFailed)
        assert exc.peer == f"localhost:{server.port}"
        nursery.cancel_scope.cancel()
    return exc


async def test_untrusted_authority(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    exc = await tls_failure(server_context(authority))
    assert isinstance(exc, TLSFailed)
    assert "certificate not accepted: " in exc.reason
    assert "issuer" in exc.reason or "self-signed" in exc.reason
    assert isinstance(exc.__cause__, ssl.SSLCertVerificationError)
    nothing_left()


async def test_certificate_of_another_host(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    exc = await tls_failure(server_context(authority, "other.example"), ssl=client_context(authority))
    assert isinstance(exc, TLSFailed)
    assert "certificate not accepted: " in exc.reason
    assert "Hostname mismatch" in exc.reason
    assert "localhost" in exc.reason
    nothing_left()


async def test_certificate_of_another_host_than_server_hostname(authority: trustme.CA) -> None:
    exc = await tls_failure(server_context(authority), ssl=client_context(authority), server_hostname="other.example")
    assert isinstance(exc, TLSFailed)
    assert "other.example" in exc.reason


async def test_expired_certificate(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    exc = await tls_failure(server_context(authority, not_after=past), ssl=client_context(authority))
    assert isinstance(exc, TLSFailed)
    assert "expired" in exc.reason
    nothing_left()


async def refuse_tls(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    """Fail a TLS handshake with an alert, which most servers send, but Trio's SSLStream does not."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    with pytest.raises(ssl.SSLError):
        while True:
            incoming.write(bytes(await stream.receive_some()))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await stream.send_all(outgoing.read())
    await stream.send_all(outgoing.read())
    await stream.send_eof()
    while await stream.receive_some():
        pass


async def test_no_tls_version_in_common(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    server, client = server_context(authority), client_context(authority)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, partial(refuse_tls, context=server))
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{port}", ssl=client, open_timeout=None))
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    assert "protocol version" in exc.reason
    nothing_left()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_server_that_wants_a_certificate(
    version: ssl.TLSVersion, authority: trustme.CA, nothing_left: Callable[[], None]
) -> None:
    server = server_context(authority)
    server.verify_mode = ssl.CERT_REQUIRED
    server.minimum_version = server.maximum_version = version
    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, partial(refuse_tls, context=server))
        exc = await expect_failure(
            trio_ws.connect(f"wss://localhost:{port}", ssl=client_context(authority), open_timeout=None)
        )
        nursery.cancel_scope.cancel()
    # With TLS 1.3, our handshake ends before the server's alert arrives; with TLS 1.2 it does not.
    assert type(exc) is TLSFailed
    assert not trio_ws.is_retryable(exc)
    assert "certificate required" in exc.reason or "handshake failure" in exc.reason
    nothing_left()


async def test_tls_with_a_plain_server(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        assert await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while await stream.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(
            trio_ws.connect(f"wss://localhost:{port}", ssl=client_context(authority), open_timeout=None)
        )
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    assert "wrong version number" in exc.reason
    nothing_left()


async def test_tls_with_a_plain_websocket_server(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        server = await start_server(nursery)
        exc = await expect_failure(
            trio_ws.connect(f"wss://localhost:{server.port}", ssl=client_context(authority), open_timeout=None)
        )
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    nothing_left()


async def test_plain_with_a_tls_server(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        server = await start_server(nursery, ssl=server_context(authority))
        exc = await expect_failure(trio_ws.connect(f"ws://127.0.0.1:{server.port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    # Whether the server sends an alert before it closes depends on the version of OpenSSL.
    assert isinstance(exc, (ConnectFailed, InvalidMessage))
    nothing_left()


async def test_end_of_stream_without_close_notify(authority: trustme.CA, nursery: trio.Nursery) -> None:
    """Many servers end this way. Without a Close frame before it, something may have been cut off."""
    context = server_context(authority)

    async def talk(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        await tls.send_all(switch(await read_request(tls)) + TEXT_HI)
        await stream.aclose()

    port = await start_tcp(nursery, talk)
    async with trio_ws.connect(f"wss://localhost:{port}", ssl=client_context(authority)) as ws:
        assert await ws.receive() == "hi"
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.receive()
    assert caught.value.code == 1006
    assert "close_notify" in str(caught.value.__cause__)


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_dropped_in_the_tls_handshake(how: str, nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if how == "RST":
            reset(stream)

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{port}", open_timeout=None))
        nursery.cancel_scope.cancel()
    assert isinstance(exc, TLSFailed)
    assert exc.reason.startswith("TLS: ")
    nothing_left()


async def test_cancelled_in_the_tls_handshake(nothing_left: Callable[[], None]) -> None:
    greeted = trio.Event()
    over = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        assert await stream.receive_some()
        greeted.set()
        assert await stream.receive_some() == b""
        over.set()

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        async with trio.open_nursery() as clients:

            async def connect() -> None:
                async with trio_ws.connect(f"wss://localhost:{port}", open_timeout=None):
                    pytest.fail("the connection was opened")

            clients.start_soon(connect)
            await greeted.wait()
            clients.cancel_scope.cancel()
        await over.wait()
        nursery.cancel_scope.cancel()
    nothing_left()


async def test_silent_tls_server(mock_clock: trio.testing.MockClock, nothing_left: Callable[[], None]) -> None:
    """open_timeout includes the TLS handshake."""
    over = trio.Event()

    async def talk(stream: trio.SocketStream) -> None:
        assert await stream.receive_some()
        mock_clock.jump(5)
        while await stream.receive_some():
            pass
        over.set()

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        exc = await expect_failure(trio_ws.connect(f"wss://localhost:{port}", open_timeout=5))
        await over.wait()
        nursery.cancel_scope.cancel()
    assert isinstance(exc, OpenTimeout)
    nothing_left()


async def test_connect_over_tls(authority: trustme.CA, nursery: trio.Nursery) -> None:
    """The caller provides the TLS stream, which requires close_notify (``https_compatible`` is false)."""
    client, server = trio.testing.memory_stream_pair()
    client_tls = trio.SSLStream(client, client_context(authority), server_hostname="localhost")
    server_tls = trio.SSLStream(server, server_context(authority), server_side=True)
    nursery.start_soon(trio_ws.serve_over, server_tls, echo)
    async with trio_ws.connect_over(client_tls, "wss://localhost/") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        assert ws.remote_address is None
    assert ws.close_code == 1000


async def test_the_default_context_is_created_once_and_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_contexts", {})
    threads: list[threading.Thread] = []

    def create() -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(ssl, "create_default_context", create)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    trio_ws.connect("wss://example.org/")
    assert threads == []
    contexts: list[ssl.SSLContext] = []

    async def load() -> None:
        contexts.append(await tls.load_default_context())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(load)
    assert len(contexts) == 5
    assert len(set(contexts)) == 1
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    # Other certificates are another context.
    monkeypatch.setenv("SSL_CERT_FILE", "other.pem")
    assert await tls.load_default_context() is not contexts[0]


async def test_a_system_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    exc = await expect_failure(trio_ws.connect_unix("socket"))
    assert isinstance(exc, ConnectFailed)
    assert "no Unix sockets" in exc.reason
    assert not trio_ws.is_retryable(exc)
