"""Tunnels through proxies: requests, answers, and whole connections."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws.client.backoff import is_retryable
from trio_ws.client.proxy import Proxy, open_tunnel, parse_proxy
from trio_ws.client.proxy.tunnel import BODY_TIMEOUT
from trio_ws.exceptions import (
    ConnectFailed,
    HeadTooBig,
    InvalidProxy,
    OpenTimeout,
    ProxyFailed,
    TLSFailed,
    TooManyHeaders,
)
from trio_ws.http11.body import MAX_BODY_SIZE
from trio_ws.http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS, MAX_INTERIM_RESPONSES

from ... import proxies
from ...cancellation import Scheduling, at_every_point, cancel_at
from ...ports import free_port
from ...proxies import PASSWORD, USERNAME, start_proxy
from ...support import Faulty, Send, and_eof, client_context, echo, in_bytes, in_one_piece, server_context
from ..servers import Breaking, start_tcp

pytestmark = pytest.mark.usefixtures("watchdog")

SCHEMES = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]

Stream = trio.abc.Stream

SOCKS = SCHEMES[2:]


# -- HTTP: requests and answers --------------------------------------------------------------------------------------


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Scripted:
    """A memory stream to a proxy that reads one request, sends the given answer, and does nothing more."""

    def __init__(self, answer: bytes = ESTABLISHED, send: Send = in_one_piece) -> None:
        self.client, self.proxy = trio.testing.memory_stream_pair()
        self.request = b""
        self._answer = answer
        self._send = send

    async def __aenter__(self) -> Scripted:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._run)
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(*exc_info)

    async def _run(self) -> None:
        while not self.request.endswith(b"\r\n\r\n"):
            self.request += await self.proxy.receive_some()
        with contextlib.suppress(trio.BrokenResourceError):
            await self._send(self.proxy, self._answer)

    async def open(self, url: str = "http://proxy.example", **options: Any) -> Stream:
        return await open_tunnel(self.client, parse_proxy(url), "example.org", 443, **options)

    async def is_closed(self) -> bool:
        """Whether the client has closed the stream."""
        try:
            await self.proxy.send_all(b"x")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        return False


async def refused(answer: bytes, send: Send = in_one_piece) -> ProxyFailed:
    """Return the exception that an answer causes, and check that the stream is closed."""
    async with Scripted(answer, send) as scripted:
        with pytest.raises(ProxyFailed) as caught:
            await scripted.open("http://user:S3CRET@proxy.example")
        assert await scripted.is_closed()
    exc = caught.value
    assert isinstance(exc, ConnectFailed)
    assert isinstance(exc, OSError)
    assert (exc.peer, exc.proxy) == ("example.org:443", "http://proxy.example:80")
    assert str(exc) == f"cannot connect to example.org:443 through the proxy http://proxy.example:80: {exc.reason}"
    assert "S3CRET" not in f"{exc} {exc!r}"
    return exc


async def asked(url: str = "http://proxy.example", host: str = "example.org", port: int = 443, **options: Any) -> bytes:
    """Return the request that the proxy receives."""
    async with Scripted() as scripted:
        stream = await open_tunnel(scripted.client, parse_proxy(url), host, port, **options)
        assert stream is scripted.client
        await stream.aclose()
    return scripted.request


async def test_request() -> None:
    assert await asked() == b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"


async def test_request_for_an_ipv6_address() -> None:
    request = await asked(host="2001:db8::1", port=80)
    assert request == b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n"


async def test_user_agent() -> None:
    request = await asked(user_agent="me/1")
    assert request == b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nUser-Agent: me/1\r\n\r\n"


@pytest.mark.parametrize(
    "url, credentials",
    [
        ("http://user:pass@proxy.example", "user:pass"),
        ("http://user@proxy.example", "user:"),
        ("http://us%C3%A9r:p%3Ass@proxy.example", "usér:p:ss"),
    ],
)
async def test_credentials(url: str, credentials: str) -> None:
    header = f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}\r\n".encode()
    assert header in await asked(url)


@pytest.mark.parametrize("send", [in_one_piece, in_bytes])
@pytest.mark.parametrize(
    "answer",
    [
        ESTABLISHED,
        b"HTTP/1.0 200 OK\r\nProxy-agent: x\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 299 Fine\r\nServer: x\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        # RFC 9110, section 9.3.6: these headers are ignored here.
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_INTERIM_RESPONSES + ESTABLISHED,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ESTABLISHED,
    ],
)
async def test_tunnel(answer: bytes, send: Send, autojump_clock: trio.testing.MockClock) -> None:
    async with Scripted(answer, send) as scripted:
        stream = await scripted.open()
        await stream.send_all(b"hello")
        assert await scripted.proxy.receive_some() == b"hello"
        await scripted.proxy.send_all(b"hello yourself")
        assert await stream.receive_some() == b"hello yourself"


WRONG_ANSWERS = {
    "nothing": b"",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "SOCKS": b"\x05\x00",
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status above all": b"HTTP/1.1 600 OK\r\n\r\n",
    "part of a head": ESTABLISHED[:-2],
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "a control character": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "a large head": b"HTTP/1.1 200 OK\r\nX: " + MAX_HEAD_SIZE * b"x" + b"\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 " + 2 * MAX_HEAD_SIZE * b"x",
    "many headers": b"HTTP/1.1 200 OK\r\n" + (MAX_HEADERS + 1) * b"X: x\r\n" + b"\r\n",
    "many interim responses": (MAX_INTERIM_RESPONSES + 1) * b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED,
    "interim responses only": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("send", [and_eof, in_bytes])
@pytest.mark.parametrize("name", WRONG_ANSWERS)
async def test_wrong_answers(name: str, send: Send, autojump_clock: trio.testing.MockClock) -> None:
    async def send_all(stream: Stream, data: bytes) -> None:
        await send(stream, data)
        if send is in_bytes:
            await and_eof(stream, b"")

    exc = await refused(WRONG_ANSWERS[name], send_all)
    assert exc.response is None
    assert trio.current_time() == 0


@pytest.mark.parametrize("name", ["a TLS alert", "SOCKS", "an SSH banner", "HTTP/2", "a status of two digits"])
async def test_other_protocols_are_recognized_at_once(name: str, autojump_clock: trio.testing.MockClock) -> None:
    answer = WRONG_ANSWERS[name].removesuffix(b"\r\n")
    exc = await refused(answer)
    assert trio.current_time() == 0
    assert "it is not HTTP, but begins with " in exc.reason or "its first line is not a status line: " in exc.reason
    assert repr(answer.removesuffix(b"\r\n").decode("iso-8859-1")) in exc.reason
    assert not is_retryable(exc)


async def test_an_upgrade_is_named(autojump_clock: trio.testing.MockClock) -> None:
    exc = await refused(WRONG_ANSWERS["an upgrade"])
    assert "101" in exc.reason
    assert "_SWITCH" not in exc.reason
    assert not is_retryable(exc)


async def test_control_characters_in_a_refusal() -> None:
    exc = await refused(b"HTTP/1.1 403 \x9b31m\xadno\r\nContent-Length: 0\r\n\r\n")
    assert exc.reason == r"the proxy answered 403 \x9b31m\xadno"


@pytest.mark.parametrize(
    "head, body",
    [
        (b"Transfer-Encoding: identity\r\nContent-Length: 5", b"hello"),
        (b"Transfer-Encoding: gzip, chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"X : y\r\nContent-Length : 5", b"hello"),
        (b"X: a\x01\r\n b\r\nContent-Length: 5, 5", b"hello"),
    ],
)
async def test_unusual_refusals(head: bytes, body: bytes, autojump_clock: trio.testing.MockClock) -> None:
    exc = await refused(b"HTTP/1.0  407\r\n" + head + b"\r\n\r\n" + body)
    assert exc.response is not None
    assert (exc.response.status_code, exc.response.body) == (407, b"hello")
    assert trio.current_time() == 0


async def test_limits_of_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + 200 * b"X: x\r\n" + b"Y: " + 40_000 * b"y" + b"\r\n\r\n"
    too_small: list[dict[str, Any]] = [
        {},
        {"max_head_size": 100_000},
        {"max_headers": 201},
        {"max_head_size": 100_000, "max_headers": 200},
    ]
    for options in too_small:
        async with Scripted(answer) as scripted:
            with pytest.raises(ProxyFailed) as caught:
                await scripted.open(**options)
        assert isinstance(caught.value.__cause__, (HeadTooBig, TooManyHeaders))
    async with Scripted(answer) as scripted:
        await scripted.open(max_head_size=100_000, max_headers=201)


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"\x16\x03\x03"])
async def test_bytes_right_after_the_answer(more: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """The bytes cannot be from the server, to which nothing has been sent yet."""
    exc = await refused(ESTABLISHED + more)
    assert exc.response is not None
    assert exc.response.status_code == 200


@pytest.mark.parametrize("send", [in_one_piece, in_bytes, and_eof])
@pytest.mark.parametrize(
    "head, body",
    [
        (b"407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 5", b"hello"),
        (b"403 Forbidden\r\nTransfer-Encoding: chunked", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        (b"502 Bad Gateway\r\nContent-Length: 0", b""),
        (b"302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0", b""),
    ],
    ids=["407", "403", "502", "302"],
)
async def test_refusal(head: bytes, body: bytes, send: Send, autojump_clock: trio.testing.MockClock) -> None:
    exc = await refused(b"HTTP/1.1 " + head + b"\r\n\r\n" + body, send)
    assert exc.response is not None
    assert exc.response.status_code == int(head[:3])
    assert exc.response.body == (b"hello" if body else b"")
    assert exc.reason == f"the proxy answered {head.splitlines()[0].decode()}"
    assert trio.current_time() == 0


async def test_refusal_until_eof(autojump_clock: trio.testing.MockClock) -> None:
    exc = await refused(b"HTTP/1.0 403 Forbidden\r\n\r\nhello", and_eof)
    assert exc.response is not None
    assert exc.response.body == b"hello"
    assert trio.current_time() == 0


async def test_refusal_without_a_body(autojump_clock: trio.testing.MockClock) -> None:
    exc = await refused(b"HTTP/1.1 304 \r\n\r\n")
    assert exc.reason == "the proxy answered 304"
    assert exc.response is not None
    assert exc.response.body is None


@pytest.mark.parametrize("head", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_refusal_whose_body_stalls(head: bytes, autojump_clock: trio.testing.MockClock) -> None:
    body = b"2\r\nhe\r\n" if b"chunked" in head else b"he"
    exc = await refused(b"HTTP/1.1 407 No\r\n" + head + b"\r\n" + body)
    assert exc.response is not None
    assert exc.response.body == b"he"
    assert trio.current_time() == BODY_TIMEOUT


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nzz\r\n",
        b"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\nhe",
    ],
    ids=["nonsense", "cut"],
)
@pytest.mark.parametrize("send", [and_eof, in_bytes])
async def test_refusal_whose_body_is_wrong(answer: bytes, send: Send, autojump_clock: trio.testing.MockClock) -> None:
    exc = await refused(answer, send)
    assert exc.response is not None
    assert exc.response.body == b"he"


async def test_refusal_whose_body_does_not_end(autojump_clock: trio.testing.MockClock) -> None:
    async def flood(stream: Stream, data: bytes) -> None:
        await stream.send_all(data)
        while True:
            await stream.send_all(65536 * b"x")

    exc = await refused(b"HTTP/1.1 407 No\r\n\r\n", flood)
    assert exc.response is not None
    assert exc.response.body == MAX_BODY_SIZE * b"x"
    assert trio.current_time() == 0


async def test_a_long_reason_phrase_is_shortened() -> None:
    exc = await refused(b"HTTP/1.1 403 " + 1000 * b"x" + b"\r\nContent-Length: 0\r\n\r\n")
    assert len(exc.reason) < 250


async def test_reset_while_asking() -> None:
    async with Scripted() as scripted:
        stream = Faulty(scripted.client, send_error=trio.BrokenResourceError())
        with pytest.raises(ProxyFailed) as caught:
            await open_tunnel(stream, parse_proxy("http://proxy.example"), "example.org", 443)
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
        assert await scripted.is_closed()


@pytest.mark.parametrize(
    "begin, status", [(b"", None), (b"HTTP/1.1 2", None), (b"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\nhe", 407)]
)
async def test_reset_in_the_answer(begin: bytes, status: int | None) -> None:
    async with Scripted(begin) as scripted:
        stream = Breaking(scripted.client, 1 if begin else 0)
        with pytest.raises(ProxyFailed) as caught:
            await open_tunnel(stream, parse_proxy("http://proxy.example"), "example.org", 443)
        assert await scripted.is_closed()
    if status is None:
        assert caught.value.reason == "Connection reset by peer"
        assert caught.value.response is None
    else:
        assert caught.value.response is not None
        assert (caught.value.response.status_code, caught.value.response.body) == (status, b"he")


async def test_cancelled_while_the_proxy_is_silent(autojump_clock: trio.testing.MockClock) -> None:
    async with Scripted(b"") as scripted:
        with trio.move_on_after(3) as scope:
            await scripted.open()
        assert scope.cancelled_caught
        assert await scripted.is_closed()


# -- SOCKS: answers --------------------------------------------------------------------------------------------------


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return both ends of a connection on which data arrives without delay."""
    client, server = trio.socket.socketpair()
    return trio.SocketStream(client), trio.SocketStream(server)


async def socks_failure(url: str, answer: bytes, host: str = "192.0.2.1") -> ProxyFailed:
    """Return the exception that is caused by a proxy that sends this answer and closes the connection."""
    client, server = socket_pair()
    async with server:
        await server.send_all(answer)
        await server.send_eof()
        with pytest.raises(ProxyFailed) as caught:
            await open_tunnel(client, parse_proxy(url), host, 443)
        assert client.socket.fileno() == -1
    assert caught.value.response is None
    assert caught.value.proxy == url.replace("user:S3CRET@", "")
    assert "S3CRET" not in str(caught.value)
    return caught.value


SOCKS4_GRANTED = b"\x00\x5a" + bytes(6)

SOCKS5_GRANTED = b"\x05\x00\x00\x01" + bytes(6)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        SOCKS4_GRANTED[:-1],
        b"\x00\x5b" + bytes(6),
        b"\x00\x5d" + bytes(6),
        b"\x00\x99" + bytes(6),
        b"\x04\x5a" + bytes(6),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["nothing", "part", "refused", "who are you", "unknown code", "version", "HTTP"],
)
@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
async def test_wrong_answers_of_socks4(scheme: str, answer: bytes) -> None:
    exc = await socks_failure(f"{scheme}://proxy.example:1080", answer)
    assert exc.reason
    assert isinstance(exc.__cause__, Exception)
    # The proxy may open the tunnel later, unless it does not know us or speaks another protocol.
    assert is_retryable(exc) == (len(answer) < 8 or answer[:2] == b"\x00\x5b")


@pytest.mark.parametrize(
    "answer, reason",
    [
        (b"", "closed"),
        (b"\x05", "closed"),
        (b"\x04\x00", "version"),
        (b"\x05\xff", "authentication"),
        (b"\x05\x01", "authentication"),
        (b"\x05\x33", "authentication"),
        (b"\x05\x02\x01\x01", "authentication failure"),
        (b"\x05\x02\x05\x00", "authentication"),
        (b"\x05\x00", "closed"),
        (b"\x05\x00" + SOCKS5_GRANTED[:-1], "closed"),
        (b"\x05\x00\x05\x05\x00\x01" + bytes(6), "refused"),
        (b"\x05\x00\x05\x99\x00\x01" + bytes(6), ""),
        (b"\x05\x00\x05\x00\x07\x01" + bytes(6), ""),
        (b"\x05\x00\x05\x00\x00\x09" + bytes(6), ""),
        (b"\x05\x00\x05\x00\x00\x03\x02\xff\xff\x00\x00", ""),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "version"),
    ],
)
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_wrong_answers_of_socks5(scheme: str, answer: bytes, reason: str) -> None:
    exc = await socks_failure(f"{scheme}://user:S3CRET@proxy.example:1080", answer)
    assert exc.reason
    assert reason in exc.reason
    assert isinstance(exc.__cause__, Exception)
    # The proxy may open the tunnel later, unless it does not accept our credentials or speaks another protocol.
    assert is_retryable(exc) == (reason in ("closed", "refused"))


@pytest.mark.parametrize(
    "url, answer",
    [("socks4://proxy.example", SOCKS4_GRANTED), ("socks5h://proxy.example", b"\x05\x00" + SOCKS5_GRANTED)],
)
async def test_bytes_after_a_socks_answer_are_in_the_tunnel(url: str, answer: bytes) -> None:
    client, server = socket_pair()
    async with client, server:
        await server.send_all(answer + b"hello")
        assert await open_tunnel(client, parse_proxy(url), "192.0.2.1", 443) is client
        assert await client.receive_some() == b"hello"


@pytest.mark.parametrize("scheme", SOCKS)
async def test_cancelled_while_a_socks_proxy_is_silent(scheme: str, autojump_clock: trio.testing.MockClock) -> None:
    """Only the caller limits the time."""
    client, server = socket_pair()
    async with server:
        with trio.move_on_after(3600) as scope:
            await open_tunnel(client, parse_proxy(f"{scheme}://proxy.example"), "192.0.2.1", 443)
        assert scope.cancelled_caught
        assert trio.current_time() == 3600
        assert client.socket.fileno() == -1


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
async def test_socks4_has_no_ipv6(scheme: str) -> None:
    exc = await socks_failure(f"{scheme}://proxy.example:1080", SOCKS4_GRANTED, "2001:db8::1")
    assert "IPv6" in exc.reason


class Resolver(trio.abc.HostnameResolver):
    """A resolver that knows one host name, or none."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, *args: Any) -> list[Any]:
        self.asked.append(host if isinstance(host, str) else host.decode())
        await trio.lowlevel.checkpoint()
        if self.asked[-1] != self.name:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port or 0))]

    async def getnameinfo(self, *args: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
async def test_a_name_that_cannot_be_resolved(scheme: str) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    exc = await socks_failure(f"{scheme}://proxy.example:1080", b"\x05\x00", "nowhere.example")
    assert "nowhere.example" in exc.reason
    assert "not known" in exc.reason


# -- Whole connections -----------------------------------------------------------------------------------------------


class Place:
    """A server, and a proxy in front of it. Only the proxy knows the name of the server, unless it wants an address.

    Attributes:
        proxy: The proxy.
        url: Its URL, with credentials.
        uri: The URI of the server, with credentials.
        options: The options of ``connect`` for this proxy.
        seen: The connections of the server.
    """

    def __init__(self, authority: trustme.CA, scheme: str, secure: bool, credentials: bool = True) -> None:
        self.proxy = proxies.Proxy((USERNAME, PASSWORD) if credentials else None, self._dial)
        self.seen: list[trio_ws.WebSocket] = []
        self.options: dict[str, Any] = {"open_timeout": None}
        self._secure = secure
        self._scheme = scheme
        self._server_ssl = self._proxy_ssl = None
        if secure:
            self._server_ssl = server_context(authority, "server.example", "127.0.0.1")
            self.options["ssl"] = client_context(authority)
        if scheme == "https":
            self._proxy_ssl = server_context(authority, "localhost", "127.0.0.1")
            self.options["proxy_ssl"] = client_context(authority)
        self._credentials = {"socks4": USERNAME, "socks4a": USERNAME}.get(scheme, f"{USERNAME}:{PASSWORD}") + "@"
        if not credentials:
            self._credentials = ""

    async def start(self, nursery: trio.Nursery, host: str = "server.example") -> None:
        serve = partial(trio_ws.serve, self._echo, 0, host="127.0.0.1", ssl=self._server_ssl)
        server = await nursery.start(serve)
        port = await start_proxy(nursery, self.proxy, self._wrap if self._proxy_ssl else None)
        self.address = ("127.0.0.1", port)
        self.url = f"{self._scheme}://{self._credentials}127.0.0.1:{port}"
        self.port = server.port
        self.uri = f"{'wss' if self._secure else 'ws'}://bob:B0B@{host}:{server.port}/path"

    def _wrap(self, stream: Stream) -> Stream:
        assert self._proxy_ssl is not None
        return trio.SSLStream(stream, self._proxy_ssl, server_side=True, https_compatible=True)

    async def _dial(self, host: str, port: int) -> Stream:
        return await trio.open_tcp_stream("127.0.0.1" if host == "server.example" else host, port)

    async def _echo(self, ws: trio_ws.WebSocket) -> None:
        self.seen.append(ws)
        async for message in ws:
            await ws.send(message)


async def expect_failure(connecting: trio_ws.Connecting, kind: type[Exception] = ProxyFailed) -> Any:
    """Return the exception that is raised on entering."""
    with pytest.raises(kind) as caught:
        async with connecting:
            pytest.fail("the connection was opened")
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_connect(scheme: str, secure: bool, authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    place = Place(authority, scheme, secure)
    resolver = Resolver("server.example" if scheme in ("socks4", "socks5") else None)
    trio.socket.set_custom_hostname_resolver(resolver)
    async with trio.open_nursery() as nursery:
        await place.start(nursery)
        async with trio_ws.connect(place.uri, proxy=place.url, **place.options) as ws:
            for message in ("hello", b"x" * 1_000_000):
                await ws.send(message)
                assert await ws.receive() == message
            assert ws.remote_address == place.address
            assert ws.request == place.seen[0].request
            assert ws.request.headers["Host"] == f"server.example:{place.port}"
            # The TLS connection with a proxy does not count.
            names = ws.tls and ws.tls.peer_certificate and ws.tls.peer_certificate["subjectAltName"]
            assert names == ((("DNS", "server.example"), ("IP Address", "127.0.0.1")) if secure else None)
        assert ws.close_code == 1000
        nursery.cancel_scope.cancel()
    nothing_left()
    (asked,) = place.proxy.asked
    address = "127.0.0.1" if scheme in ("socks4", "socks5") else "server.example"
    assert (asked.host, asked.port) == (address, place.port)
    assert asked.protocol == ("http" if scheme == "https" else scheme)
    assert asked.username == USERNAME
    assert asked.password == (None if scheme.startswith("socks4") else PASSWORD)
    assert resolver.asked == (["server.example"] if resolver.name else [])
    # The proxy and the server each get their own credentials.
    assert place.seen[0].request.headers["Authorization"] == "Basic " + base64.b64encode(b"bob:B0B").decode()
    for other in (b"bob", base64.b64encode(b"bob:B0B"), b"/path"):
        assert other not in asked.head
    for other in (b"Proxy", PASSWORD.encode(), base64.b64encode(f"{USERNAME}:{PASSWORD}".encode())):
        assert other not in place.proxy.carried
    assert (b"GET /path" in place.proxy.carried) is not secure


async def test_connect_with_a_proxy_object(authority: trustme.CA, nursery: trio.Nursery) -> None:
    place = Place(authority, "http", False)
    await place.start(nursery)
    async with trio_ws.connect(place.uri, proxy=Proxy("http", *place.address, USERNAME, PASSWORD)) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_the_proxy_gets_no_headers_for_the_server(authority: trustme.CA, nursery: trio.Nursery) -> None:
    place = Place(authority, "http", False, credentials=False)
    await place.start(nursery)
    headers = {"Cookie": "a=b", "Authorization": "Bearer x", "Origin": "http://other.example", "Host": "other.example"}
    async with trio_ws.connect(place.uri, proxy=place.url, headers=headers, user_agent="me/1"):
        pass
    head = f"CONNECT server.example:{place.port} HTTP/1.1\r\nHost: server.example:{place.port}\r\n"
    assert place.proxy.asked[0].head == head.encode() + b"User-Agent: me/1\r\n\r\n"


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_a_tunnel_to_another_host(scheme: str, authority: trustme.CA, nursery: trio.Nursery) -> None:
    place = Place(authority, scheme, False)
    await place.start(nursery)
    async with trio_ws.connect(
        "ws://example.org/path", proxy=place.url, host="server.example", port=place.port, **place.options
    ) as ws:
        assert ws.request.headers["Host"] == "example.org"
    assert [(asked.host, asked.port) for asked in place.proxy.asked] == [("server.example", place.port)]


async def test_no_proxy_applies_to_another_host(
    authority: trustme.CA, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(authority, "http", False)
    await place.start(nursery)
    monkeypatch.setenv("http_proxy", place.url)
    async with trio_ws.connect("ws://example.org/path", host="127.0.0.1", port=place.port) as ws:
        assert ws.remote_address == ("127.0.0.1", place.port)
    assert place.proxy.asked == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_headers_for_the_proxy(scheme: str, authority: trustme.CA, nursery: trio.Nursery) -> None:
    place = Place(authority, scheme, False)
    await place.start(nursery)
    headers = [("X-Route", "eu"), ("X-Route", "us"), ("User-Agent", "mine/1")]
    async with trio_ws.connect(place.uri, proxy=Proxy(place.url, headers=headers), **place.options) as ws:
        assert not {"X-Route", "Proxy-Authorization"} & set(ws.request.headers)
        assert ws.request.headers["User-Agent"] != "mine/1"
    assert place.proxy.asked[0].head.decode().split("\r\n")[1:] == [
        f"Host: server.example:{place.port}",
        "Proxy-Authorization: Basic " + base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode(),
        "X-Route: eu",
        "X-Route: us",
        "User-Agent: mine/1",
        "",
        "",
    ]
    # A header of one's own replaces the credentials.
    place.proxy.asked.clear()
    credentials = base64.b64encode(f"{USERNAME}:wrong".encode()).decode()
    proxy = Proxy(place.url, headers={"Proxy-Authorization": f"Basic {credentials}"})
    exc = await expect_failure(trio_ws.connect(place.uri, proxy=proxy, **place.options))
    assert exc.response.status_code == 407
    assert place.proxy.asked[0].password == "wrong"
    assert not {credentials, PASSWORD} & set(re.split(r"\W", f"{exc} {exc!r}"))


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_auto_is_the_default(
    secure: bool, authority: trustme.CA, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(authority, "http", secure)
    await place.start(nursery)
    connecting = trio_ws.connect(place.uri, **place.options)
    # The environment is read on connecting, not before.
    monkeypatch.setenv("https_proxy" if secure else "http_proxy", place.url)
    async with connecting as ws:
        assert ws.remote_address == place.address
    assert len(place.proxy.asked) == 1
    trio.socket.set_custom_hostname_resolver(Resolver("server.example"))
    async with trio_ws.connect(place.uri, proxy=None, **place.options) as ws:
        assert ws.remote_address == ("127.0.0.1", place.port)
    monkeypatch.setenv("no_proxy", "server.example")
    async with trio_ws.connect(place.uri, proxy="auto", **place.options) as ws:
        assert ws.remote_address == ("127.0.0.1", place.port)
    assert len(place.proxy.asked) == 1


async def test_redirects(authority: trustme.CA, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read again for each URI."""
    place = Place(authority, "http", False)
    await place.start(nursery)

    async def redirect(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(
            f"HTTP/1.1 302 Found\r\nLocation: ws://server.example:{place.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        )

    port = await start_tcp(nursery, redirect)
    monkeypatch.setenv("http_proxy", place.url)
    async with trio_ws.connect(f"ws://127.0.0.1:{port}/", **place.options) as ws:
        assert ws.remote_address == place.address
        assert ws.request.headers["Host"] == f"server.example:{place.port}"
    assert [asked.host for asked in place.proxy.asked] == ["server.example"]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
async def test_a_unix_socket_has_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Unix"):
        trio_ws.connect("ws+unix:/run/app.sock", proxy="http://127.0.0.1:1")
    # The proxy of the environment is not used.
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    path = tmp_path / "nobody.sock"
    for connecting in (trio_ws.connect(f"ws+unix:{path}"), trio_ws.connect_unix(path)):
        exc = await expect_failure(connecting, ConnectFailed)
        assert exc.peer == str(path)


async def test_other_streams_have_no_proxy(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.send("hello")

    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(trio_ws.serve_over, server, handler)
    async with trio_ws.connect_over(client, "ws://example.org/") as ws:
        assert await ws.receive() == "hello"


async def test_dialing_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []

    async def open_tcp_stream(*arguments: Any, **options: Any) -> trio.SocketStream:
        calls.append((arguments, options))
        raise OSError("enough")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    options: dict[str, Any] = {"happy_eyeballs_delay": 3, "local_address": "::1"}
    for proxy in ("http://[2001:db8::1]", "socks5h://proxy.example"):
        exc = await expect_failure(trio_ws.connect("wss://example.org", proxy=proxy, **options))
        assert (exc.peer, exc.proxy) == ("example.org", parse_proxy(proxy).url)
        assert "enough" in exc.reason
    assert calls == [(("2001:db8::1", 80), options), (("proxy.example", 1080), options)]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_unreachable_proxy(scheme: str, nothing_left: Callable[[], None]) -> None:
    port = free_port()
    exc = await expect_failure(trio_ws.connect("ws://server.example", proxy=f"{scheme}://127.0.0.1:{port}"))
    assert exc.proxy == f"{scheme}://127.0.0.1:{port}"
    assert isinstance(exc.__cause__, OSError)
    nothing_left()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_wrong_credentials(scheme: str, authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        place = Place(authority, scheme, False)
        await place.start(nursery)
        place.proxy.credentials = ("somebody", "else")
        uri = place.uri.replace("server.example", "127.0.0.1")
        exc = await expect_failure(trio_ws.connect(uri, proxy=place.url, **place.options))
        nursery.cancel_scope.cancel()
    nothing_left()
    assert exc.peer == f"127.0.0.1:{place.port}"
    assert PASSWORD not in f"{exc} {exc!r}"
    if scheme.startswith("http"):
        assert exc.response.status_code == 407
        assert exc.response.body == b"who are you"
        assert exc.response.headers["Proxy-Authenticate"] == 'Basic realm="test"'


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_such_server(scheme: str, authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        place = Place(authority, scheme, False)
        await place.start(nursery)
        uri = f"ws://127.0.0.1:{free_port()}/"
        exc = await expect_failure(trio_ws.connect(uri, proxy=place.url, **place.options))
        nursery.cancel_scope.cancel()
    nothing_left()
    assert exc.reason


# -- TLS -------------------------------------------------------------------------------------------------------------


async def test_tls_with_the_proxy_is_verified(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    place = Place(authority, "https", True)
    async with trio.open_nursery() as nursery:
        await place.start(nursery)
        # Neither the context for the server nor the default trusts the proxy.
        exc = await expect_failure(trio_ws.connect(place.uri, proxy=place.url, ssl=place.options["ssl"]))
        nursery.cancel_scope.cancel()
    assert "certificate not accepted" in exc.reason
    assert isinstance(exc.__cause__, ssl.SSLCertVerificationError)
    assert not place.proxy.asked
    nothing_left()


async def test_the_name_of_the_proxy_is_verified(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    place = Place(authority, "https", True)
    trio.socket.set_custom_hostname_resolver(Resolver("other.example"))
    async with trio.open_nursery() as nursery:
        await place.start(nursery)
        url = place.url.replace("127.0.0.1", "other.example")
        # server_hostname does not apply to the proxy.
        options = {**place.options, "server_hostname": "127.0.0.1"}
        exc = await expect_failure(trio_ws.connect(place.uri, proxy=url, **options))
        nursery.cancel_scope.cancel()
    assert "Hostname mismatch" in exc.reason
    nothing_left()


async def test_tls_with_a_proxy_name_with_a_trailing_dot(authority: trustme.CA, nursery: trio.Nursery) -> None:
    place = Place(authority, "https", True)
    trio.socket.set_custom_hostname_resolver(Resolver("localhost."))
    await place.start(nursery)
    async with trio_ws.connect(place.uri, proxy=place.url.replace("127.0.0.1", "localhost."), **place.options):
        pass


async def test_tls_with_the_server_is_verified(authority: trustme.CA, nothing_left: Callable[[], None]) -> None:
    place = Place(authority, "https", True)
    async with trio.open_nursery() as nursery:
        await place.start(nursery)
        del place.options["ssl"]
        exc = await expect_failure(trio_ws.connect(place.uri, proxy=place.url, **place.options), TLSFailed)
        nursery.cancel_scope.cancel()
    assert exc.peer == f"server.example:{place.port}"
    assert "certificate not accepted" in exc.reason
    nothing_left()


async def test_tls_with_a_proxy_without_tls(nothing_left: Callable[[], None]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        assert await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while await stream.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        port = await start_tcp(nursery, talk)
        connecting = trio_ws.connect("ws://example.org", proxy=f"https://127.0.0.1:{port}", open_timeout=None)
        exc = await expect_failure(connecting)
        nursery.cancel_scope.cancel()
    assert exc.reason.startswith("TLS: ")
    assert isinstance(exc.__cause__, ssl.SSLError)
    nothing_left()


async def test_tls_to_the_proxy_trusts_the_system_authorities_by_default(
    authority: trustme.CA, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(authority, "https", False)
    await place.start(nursery)
    with authority.cert_pem.tempfile() as file:
        monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, file)
        async with trio_ws.connect(place.uri, proxy=place.url) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"


# -- Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error",
    [
        ({"proxy": "proxy.example:3128"}, InvalidProxy),
        ({"proxy": ""}, InvalidProxy),
        ({"proxy": "AUTO"}, InvalidProxy),
        ({"proxy": True}, TypeError),
        ({"proxy": 3128}, TypeError),
        ({"proxy": b"http://proxy.example"}, TypeError),
        ({"proxy": None, "proxy_ssl": ssl.create_default_context()}, ValueError),
        ({"proxy": "http://proxy.example", "proxy_ssl": ssl.create_default_context()}, ValueError),
        ({"proxy": "socks5://proxy.example", "proxy_ssl": ssl.create_default_context()}, ValueError),
        ({"proxy": "https://proxy.example", "proxy_ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, ValueError),
        ({"proxy_ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, ValueError),
    ],
)
async def test_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        trio_ws.connect("wss://example.org/", **options)


async def test_valid_arguments() -> None:
    options: dict[str, Any] = {"proxy_ssl": ssl.create_default_context()}
    assert isinstance(trio_ws.connect("wss://example.org/", **options), trio_ws.Connecting)
    assert isinstance(
        trio_ws.connect("ws://example.org/", proxy="https://proxy.example", **options), trio_ws.Connecting
    )


@pytest.mark.parametrize("scheme", SOCKS)
async def test_without_python_socks(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_tcp_stream(*_arguments: Any, **_options: Any) -> trio.SocketStream:
        pytest.fail("this connection is of no use")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    monkeypatch.setitem(sys.modules, "python_socks.async_.trio", None)
    connecting = trio_ws.connect("ws://example.org/", proxy=f"{scheme}://proxy.example")
    with pytest.raises(ImportError, match=r"trio-ws\[socks\]"):
        async with connecting:
            pytest.fail("the connection was opened")


# -- Time, and cancellation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", ESTABLISHED])
async def test_open_timeout(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """It limits connecting to the proxy, the tunnel, and the opening handshake together."""
    async with Scripted(answer) as scripted:

        async def open_tcp_stream(*_arguments: Any, **_options: Any) -> Stream:
            await trio.sleep(4)
            return scripted.client

        monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
        connecting = trio_ws.connect("ws://example.org/", proxy="http://proxy.example", open_timeout=5)
        exc = await expect_failure(connecting, OpenTimeout)
        assert trio.current_time() == 5
        assert exc.peer == "example.org"
        while await scripted.proxy.receive_some():
            pass  # the request for the server
        assert await scripted.is_closed()


async def test_a_refusal_is_reported_after_open_timeout(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with Scripted(b"HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\nhe") as scripted:

        async def open_tcp_stream(*_arguments: Any, **_options: Any) -> Stream:
            await trio.sleep(9.5)
            return scripted.client

        monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
        connecting = trio_ws.connect("ws://example.org/", proxy="http://proxy.example", open_timeout=10)
        exc = await expect_failure(connecting)
        assert exc.response.body == b"he"
        assert await scripted.is_closed()


#: The minimum number of checkpoints.
POINTS = 20


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_cancel_at_every_point(scheme: str, secure: bool, authority: trustme.CA, scheduling: Scheduling) -> None:
    """At every checkpoint, the client closes its sockets, and proxy and server see the end."""
    place = Place(authority, scheme, secure)

    async def call() -> str:
        async with trio_ws.connect(place.uri, proxy=place.url, **place.options):
            return "connected"

    async def run(number: int) -> bool:
        async with trio.open_nursery() as nursery:
            await place.start(nursery, "127.0.0.1")
            outcome = await cancel_at(number, call)
            assert outcome.cancelled or outcome.result == "connected"
            # Their tasks end without being cancelled.
            while place.proxy.talking:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return outcome.fired

    assert await at_every_point(scheduling, run) >= POINTS


# -- Real proxies ----------------------------------------------------------------------------------------------------


class Real:
    """A server for clients that connect through a real proxy."""

    def __init__(self, authority: trustme.CA) -> None:
        self._authority = authority

    async def check(self, nursery: trio.Nursery, url: str, proxy_ssl: ssl.SSLContext | None = None) -> None:
        """Connect through a proxy, with and without TLS."""
        for secure in (False, True):
            context = server_context(self._authority, "127.0.0.1") if secure else None
            serve = partial(trio_ws.serve, echo, 0, host="127.0.0.1", ssl=context)
            server = await nursery.start(serve)
            uri = f"{'wss' if secure else 'ws'}://127.0.0.1:{server.port}/"
            options: dict[str, Any] = {"ssl": client_context(self._authority)} if secure else {}
            async with trio_ws.connect(uri, proxy=url, proxy_ssl=proxy_ssl, **options) as ws:
                for message in ("hello", b"x" * 1_000_000):
                    await ws.send(message)
                    assert await ws.receive() == message
                assert ws.remote_address[1] == parse_proxy(url).port
            assert ws.close_code == 1000

    async def refuse(self, url: str) -> ProxyFailed:
        """Try to connect through a proxy that refuses."""
        exc = await expect_failure(trio_ws.connect("ws://127.0.0.1:1/", proxy=url, open_timeout=None))
        assert isinstance(exc, ProxyFailed)
        return exc


@pytest.fixture
def real(authority: trustme.CA) -> Real:
    return Real(authority)


@pytest.mark.parametrize("scheme", ["http", *SOCKS])
async def test_pproxy(scheme: str, real: Real, nursery: trio.Nursery) -> None:
    async with proxies.pproxy(scheme.rstrip("ah")) as port:
        await real.check(nursery, f"{scheme}://127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
async def test_pproxy_with_credentials(scheme: str, real: Real, nursery: trio.Nursery) -> None:
    async with proxies.pproxy(scheme.rstrip("h"), credentials=True) as port:
        # The order matters: pproxy accepts a client again that it has accepted before.
        await real.refuse(f"{scheme}://{USERNAME}:wrong@127.0.0.1:{port}")
        await real.check(nursery, f"{scheme}://{USERNAME}:{PASSWORD}@127.0.0.1:{port}")


async def test_pproxy_over_tls(real: Real, authority: trustme.CA, nursery: trio.Nursery, tmp_path: Path) -> None:
    certificate = tmp_path / "proxy.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    async with proxies.pproxy("http+ssl", certificate=certificate) as port:
        await real.check(nursery, f"https://127.0.0.1:{port}", client_context(authority))


async def test_tinyproxy(real: Real, nursery: trio.Nursery, tmp_path: Path) -> None:
    async with proxies.tinyproxy(tmp_path) as port:
        await real.check(nursery, f"http://127.0.0.1:{port}")
        exc = await real.refuse(f"http://127.0.0.1:{port}")
        assert exc.response is not None
        assert exc.response.status_code == 500
        assert b"Unable to connect" in (exc.response.body or b"")


async def test_tinyproxy_with_credentials(real: Real, nursery: trio.Nursery, tmp_path: Path) -> None:
    async with proxies.tinyproxy(tmp_path, credentials=True) as port:
        await real.check(nursery, f"http://{USERNAME}:{PASSWORD}@127.0.0.1:{port}")
        for credentials in ("", f"{USERNAME}:wrong@"):
            exc = await real.refuse(f"http://{credentials}127.0.0.1:{port}")
            assert exc.response is not None
            assert exc.response.status_code in (401, 407)
            assert exc.response.body


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_microsocks(scheme: str, real: Real, nursery: trio.Nursery) -> None:
    async with proxies.microsocks() as port:
        await real.check(nursery, f"{scheme}://127.0.0.1:{port}")
        exc = await real.refuse(f"{scheme}://127.0.0.1:{port}")
        assert "refused" in exc.reason
    async with proxies.microsocks(credentials=True) as port:
        await real.check(nursery, f"{scheme}://{USERNAME}:{PASSWORD}@127.0.0.1:{port}")
        for credentials in ("", f"{USERNAME}:wrong@"):
            await real.refuse(f"{scheme}://{credentials}127.0.0.1:{port}")
