"""X-Forwarded-For, X-Forwarded-Proto and Forwarded."""

from __future__ import annotations

import contextlib
import logging
import ssl
import sys
import time
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from trio_ws import Headers
from trio_ws.exceptions import InvalidHeader
from trio_ws.server.forwarded.headers import find_client
from trio_ws.server.forwarded.peer import Peer
from trio_ws.server.forwarded.trust import Forwarding

from .clients import LINE4, Logs, X, describe_client, serving, x

PROXY = ("10.0.0.1", 50000)

TRUSTING = Forwarding(trusted_proxies=["10.0.0.0/8", "2001:db8::/32"])


# -- Parsing ---------------------------------------------------------------------------------------------------------


def find(
    *headers: tuple[str, str], forwarding: Forwarding = TRUSTING, address: Any = PROXY, secure: bool = False
) -> Peer:
    peer = Peer(address, secure=secure, is_trusted_proxy=forwarding.trusts(address))
    return find_client(peer, Headers(headers), forwarding)


def client_of(*headers: tuple[str, str], **options: Any) -> Any:
    """Return the client that headers name; None if the proxy itself is the client."""
    peer = find(*headers, **options)
    return None if peer.address == PROXY else peer.address


def f(*values: str) -> list[tuple[str, str]]:
    return [("Forwarded", value) for value in values]


BOTH = [
    # X-Forwarded-For, and the client that is found.
    (["192.0.2.1"], "192.0.2.1"),
    # The client may have sent everything on the left.
    (["127.0.0.1", "192.0.2.1"], "192.0.2.1"),
    (["10.0.0.9", "192.0.2.1"], "192.0.2.1"),
    # Through several proxies.
    (["192.0.2.1", "10.0.0.2"], "192.0.2.1"),
    (["198.51.100.7", "192.0.2.1", "2001:db8::2", "10.0.0.2"], "192.0.2.1"),
    # A client that is a trusted proxy itself.
    (["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
    # A malformed address ends the search.
    (["192.0.2.1", "unknown", "10.0.0.2"], "10.0.0.2"),
    (["192.0.2.1", "unknown"], None),
    (["192.0.2.1", "_hidden"], None),
    (["unknown", "192.0.2.1"], "192.0.2.1"),
    # IPv6, IPv4-mapped addresses and other notations.
    (["2001:DB9:0::1"], "2001:db9::1"),
    (["::ffff:192.0.2.1"], "192.0.2.1"),
    (["192.0.2.1", "::ffff:10.0.0.2"], "192.0.2.1"),
]


def quoted(address: str) -> str:
    return f'"[{address}]"' if ":" in address else address


@pytest.mark.parametrize("addresses, expected", BOTH)
@pytest.mark.parametrize("separator", [", ", ",", " , ,\t"])
def test_x_forwarded_for(addresses: list[str], expected: str | None, separator: str) -> None:
    client = None if expected is None else (expected, 0)
    assert client_of(*x(separator.join(addresses))) == client
    assert client_of(*x(*addresses)) == client


@pytest.mark.parametrize("addresses, expected", BOTH)
@pytest.mark.parametrize("separator", [", ", ",", " , ,\t"])
@pytest.mark.parametrize("template", ["for={}", "proto=http;for={};by=10.0.0.1", 'For={} ; host="a,b;c=\\"d\\","'])
def test_forwarded(addresses: list[str], expected: str | None, separator: str, template: str) -> None:
    client = None if expected is None else (expected, 0)
    elements = [template.format(quoted(address)) for address in addresses]
    assert client_of(*f(separator.join(elements))) == client
    assert client_of(*f(*elements)) == client


@pytest.mark.parametrize(
    "text, expected",
    [
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("192.0.2.1:65535", ("192.0.2.1", 65535)),
        ("[2001:db9::1]", ("2001:db9::1", 0)),
        ("[2001:db9::1]:443", ("2001:db9::1", 443)),
        ("192.0.2.1:_port", ("192.0.2.1", 0)),
        *[
            (text, None)
            for text in [
                "192.0.2.1:65536",
                "192.0.2.1:123456",
                "192.0.2.1:",
                "192.0.2.1:-1",
                "192.0.2.1:http",
                "[192.0.2.1]",
                "[2001:db9::1",
                "2001:db9::1]",
                "[2001:db9::1]x",
                "[2001:db9::1%eth0]",
                "2001:db9::1%eth0",
                "[fe80::1%1]:80",
                "192.0.2",
                "192.0.2.256",
                "192.0.02.1",
                "192.0.2.1/32",
                "3221225985",
                "0xc0000201",
                "١٩٢.0.2.1".encode().decode("iso-8859-1"),
                "²",
                "[]",
                ":80",
                "example.org",
                "_",
                "unknown:80",
                "192.0.2.1;198.51.100.7",
                "192.0.2.1 198.51.100.7",
            ]
        ],
    ],
)
def test_addresses(text: str, expected: tuple[str, int] | None) -> None:
    assert client_of(*x(text)) == expected
    assert client_of(*f(f'for="{text}"')) == expected


def test_ipv6_needs_brackets_in_forwarded_only() -> None:
    assert client_of(*x("2001:db9::1")) == ("2001:db9::1", 0)
    assert client_of(*f('for="2001:db9::1"')) is None


@pytest.mark.parametrize(
    "element",
    [
        "for",
        "for=",
        "=192.0.2.1",
        "192.0.2.1",
        "for=192.0.2.1:80",
        "for=[2001:db9::1]",
        "for = 192.0.2.1",
        "for=192.0.2.1 for=192.0.2.1",
        "for=192.0.2.1;for=192.0.2.1",
        "for=192.0.2.1;FOR=192.0.2.1",
        "for=192.0.2.1;proto",
        "for=192.0.2.1;proto=",
        'for="192.0.2.1',
        'for=192.0.2.1"',
        'for="192.0.2.1"x',
        'for="192.0.2.1\\"',
        'for=192.0.2.1;host="',
        "for=192.0.2.1;host=a b",
        "for=192.0.2.1;host=ä",
        "by=192.0.2.1",
        ";",
        "proto=https",
    ],
)
def test_malformed_elements(element: str) -> None:
    assert client_of(*f(element)) is None
    # Elements to the left are ignored then, and elements to the right are not affected.
    assert client_of(*f("for=192.0.2.9", element)) is None
    assert client_of(*f(element + ", for=192.0.2.9")) == ("192.0.2.9", 0)
    assert client_of(*f(element + ', for="192.0.2.9:80";host="a, b"')) == ("192.0.2.9", 80)
    assert client_of(*f(element, "for=192.0.2.9")) == ("192.0.2.9", 0)


@pytest.mark.parametrize(
    "element",
    [
        "for=192.0.2.1;",
        ";for=192.0.2.1",
        ";; for=192.0.2.1 ;;",
        'for="192.0.2.1"',
        'for="\\192.0.2.1"',
        'FOR=192.0.2.1;x=", for=198.51.100.7"',
        'FOR=192.0.2.1;x="\\", for=198.51.100.7;y=\\""',
        'x=", for=198.51.100.7, ";for=192.0.2.1',
        "for=192.0.2.1;x=\"'\";secret=!#$%&'*+-.^_`|~",
    ],
)
def test_elements(element: str) -> None:
    assert client_of(*f(element)) == ("192.0.2.1", 0)
    assert client_of(*f(f'for="8.8.8.8;x=", {element}')) == ("192.0.2.1", 0)


@given(st.text(st.sampled_from('for=192.0,;" \\[]:_xä\t'), max_size=40), st.booleans())
def test_a_client_cannot_hide_what_a_proxy_appends(said: str, own_line: bool) -> None:
    for element in ("for=192.0.2.9", 'for="192.0.2.9";proto=https', 'host="a,b";for=192.0.2.9'):
        headers = f(said, element) if own_line else f(f"{said}, {element}")
        assert client_of(*headers) == ("192.0.2.9", 0)
    assert client_of(*(x(said, "192.0.2.9") if own_line else x(f"{said}, 192.0.2.9"))) == ("192.0.2.9", 0)


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")), max_size=3))
def test_arbitrary_headers_do_not_raise(values: list[str]) -> None:
    find(*x(*values))
    find(*f(*values))
    find(*[("X-Forwarded-Proto", value) for value in values])


@pytest.mark.parametrize(
    "value",
    [
        "," * 32_000,
        " " * 32_000 + "x",
        ";" * 32_000,
        "; " * 16_000 + "x",
        'a="' + "," * 32_000,
        'a=",' * 8_000,
        'a="' + "\\" * 32_000,
        "a=b;" * 8_000 + ",x",
        "10.0.0.1," * 3_500,
        "for=10.0.0.1," * 2_500,
    ],
    ids=lambda value: value[:8],
)
def test_long_headers_take_little_time(value: str) -> None:
    before = time.process_time()
    find(*x(value))
    find(*f(value))
    assert time.process_time() - before < 10  # quadratic time would be minutes


def test_headers_from_untrusted_peers_are_ignored() -> None:
    headers = [*x("192.0.2.1"), *f("for=192.0.2.2;proto=https"), ("X-Forwarded-Proto", "https")]
    for address in (("11.0.0.1", 1), "", None):
        assert find(*headers, address=address) == Peer(address)
        assert find(*headers, forwarding=Forwarding(), address=address) == Peer(address)


def test_without_headers_the_proxy_is_the_client() -> None:
    assert find() == Peer(PROXY, is_trusted_proxy=True)
    assert find(secure=True).secure


def test_the_address_of_the_proxy_is_kept() -> None:
    assert find(*x("192.0.2.1")).proxy_address == PROXY
    assert find(*x("unknown")) == Peer(PROXY, PROXY, is_trusted_proxy=True)


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize(
    "scheme, expected",
    [("https", True), ("HTTPS", True), ("wss", True), ("http", False), ("ws", False), ("", None), ("x", None)],
)
def test_schemes(scheme: str, expected: bool | None, secure: bool) -> None:
    """If the proxy sends no scheme, the scheme of the connection is used."""
    expected = secure if expected is None else expected
    proto = ("X-Forwarded-Proto", scheme)
    assert find(*x("192.0.2.1"), proto, secure=secure).secure is expected
    assert find(proto, secure=secure).secure is expected
    if scheme:
        for node in ("192.0.2.1", "unknown", "_x"):
            assert find(*f(f"for={node};proto={scheme}"), secure=secure).secure is expected
        assert find(*f(f"proto={scheme}"), secure=secure).secure is expected


def test_the_scheme_of_the_client() -> None:
    assert find(*x("192.0.2.1, 10.0.0.2"), ("X-Forwarded-Proto", "https, http")).secure
    assert find(*x("127.0.0.1, 192.0.2.1, 10.0.0.2"), ("X-Forwarded-Proto", "http, https, http")).secure
    assert find(*x("192.0.2.1, 10.0.0.2"), ("X-Forwarded-Proto", "https")).secure
    assert not find(*x("127.0.0.1, 192.0.2.1"), ("X-Forwarded-Proto", "https, http")).secure
    assert find(*f("for=192.0.2.1;proto=https, for=10.0.0.2;proto=http")).secure
    assert not find(*f("for=127.0.0.1;proto=https, for=192.0.2.1;proto=http")).secure
    # The scheme of the client is unknown here: "http" is how the proxy in between was reached.
    assert find(*f("for=192.0.2.1, for=10.0.0.2;proto=http"), secure=True).secure


def test_forwarded_and_x_forwarded_for_must_agree() -> None:
    proto = ("X-Forwarded-Proto", "https")
    assert client_of(*x("192.0.2.1"), *f('for="192.0.2.1:80"')) == ("192.0.2.1", 80)
    assert find(*x("1.1.1.1, 192.0.2.1"), proto, *f("for=192.0.2.1;proto=https")).secure
    for headers in [
        [*x("192.0.2.1"), *f("for=192.0.2.2")],
        [*x("192.0.2.1"), *f("nonsense")],
        [*x("nonsense"), *f("for=192.0.2.1")],
        [*x("192.0.2.1"), *f("for=192.0.2.1;proto=https")],
        [*x("192.0.2.1"), *f("for=192.0.2.1"), proto],
        [*x("192.0.2.1"), *f("for=192.0.2.1;proto=http"), proto],
    ]:
        with pytest.raises(InvalidHeader) as caught:
            find(*headers)
        assert caught.value.name == "Forwarded"
    # X-Forwarded-Proto alone is ignored if there is a Forwarded header.
    assert not find(*f("for=192.0.2.1"), proto).secure


# -- A server --------------------------------------------------------------------------------------------------------


def connect(server: trio_ws.Server, headers: Any = (), **options: Any) -> trio_ws.Connecting:
    return trio_ws.connect(f"ws://127.0.0.1:{server.port}/", headers=headers, proxy=None, **options)


async def test_headers_from_a_trusted_proxy() -> None:
    async with serving(trusted_proxies=["127.0.0.1"]) as server:
        async with connect(server, X) as ws:
            assert await ws.receive() == "('192.0.2.1', 0) 127.0.0.1 True"
        async with connect(server, {"Forwarded": 'for="[2001:db8::1]:80";proto=http'}) as ws:
            assert await ws.receive() == "('2001:db8::1', 80) 127.0.0.1 False"
        async with connect(server) as ws:
            assert await ws.receive() == f"{ws.local_address!r} None False"


@pytest.mark.parametrize("options", [{}, {"trusted_proxies": ["127.0.0.2", "unix"]}])
async def test_headers_from_an_untrusted_peer(options: dict[str, Any]) -> None:
    async with serving(**options) as server, connect(server, X) as ws:
        assert await ws.receive() == f"{ws.local_address!r} None False"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets here")
async def test_a_proxy_on_a_unix_socket(tmp_path: Any) -> None:
    path = tmp_path / "socket"
    for proxies, expected in [(["unix"], "('192.0.2.1', 0)  True"), (["0.0.0.0/0", "::/0"], "'' None False")]:
        async with trio.open_nursery() as nursery:
            serve = partial(trio_ws.serve, describe_client, path=path, trusted_proxies=proxies)
            await nursery.start(serve)
            async with trio_ws.connect_unix(path, "ws://example.org/", headers=X) as ws:
                assert await ws.receive() == expected
            nursery.cancel_scope.cancel()


async def test_contradictory_headers_are_refused(caplog: Logs) -> None:
    caplog.set_level(logging.INFO)
    async with serving(trusted_proxies=["127.0.0.1"]) as server:
        with pytest.raises(trio_ws.InvalidStatus) as caught:
            async with connect(server, {**X, "Forwarded": "for=127.0.0.1"}):
                pytest.fail("the connection was opened")
        assert caught.value.status_code == 400
    assert "contradicts X-Forwarded-For" in caplog.text


async def test_requests_of_several_clients_on_one_connection() -> None:
    seen = []

    def answer(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response:
        seen.append((opening.remote_address[0], opening.proxy_address and opening.proxy_address[0], opening.username))
        opening.username = request.path
        return opening.respond(200)

    limits = trio_ws.Limits(per_address=1)
    async with serving(trusted_proxies=["127.0.0.1"], process_request=answer, limits=limits) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            for client in ("192.0.2.1", "192.0.2.2", "nonsense", "192.0.2.1"):
                head = f"GET /{client} HTTP/1.1\r\nHost: example.org\r\nX-Forwarded-For: {client}\r\n\r\n"
                await stream.send_all(head.encode())
                assert b"200 OK" in await stream.receive_some()
                assert list(server._state.by_address) == [seen[-1][0]]
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in await stream.receive_some()
    clients = ["192.0.2.1", "192.0.2.2", "127.0.0.1", "192.0.2.1"]
    # The address of one client does not affect the next.
    assert seen == [*((client, "127.0.0.1", None) for client in clients), ("127.0.0.1", None, None)]


async def test_the_limit_per_client_address(caplog: Logs) -> None:
    caplog.set_level(logging.INFO)
    limits = trio_ws.Limits(per_address=2)
    async with serving(trusted_proxies=["127.0.0.1"], limits=limits) as server:
        async with contextlib.AsyncExitStack() as stack:
            for client in ("192.0.2.1", "192.0.2.2") * 2:
                await stack.enter_async_context(connect(server, {"X-Forwarded-For": f"192.0.2.2, {client}"}))
            with pytest.raises(trio_ws.InvalidStatus) as caught:
                async with connect(server, X):
                    pytest.fail("the connection was opened")
            assert caught.value.status_code == 503
            assert caught.value.headers["Retry-After"] == "5"
            async with connect(server, {"X-Forwarded-For": "192.0.2.3"}) as ws:
                assert await ws.receive() == "('192.0.2.3', 0) 127.0.0.1 False"
        while server.connections:
            await trio.lowlevel.checkpoint()
        async with connect(server, X) as ws:
            await ws.receive()
    assert "connection from ('192.0.2.1', 0) rejected: the limit of 2 connections per address is reached" in caplog.text


@pytest.mark.parametrize("header", [b"", LINE4])
async def test_a_connection_is_not_counted_before_its_client_is_known(header: bytes) -> None:
    options: dict[str, Any] = {"trusted_proxies": ["127.0.0.1", "192.0.2.1"], "proxy_protocol": bool(header)}
    async with serving(limits=trio_ws.Limits(per_address=1), **options) as server:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(1, 4):
                silent = await trio.open_tcp_stream("127.0.0.1", server.port)
                await stack.enter_async_context(silent)
                await silent.send_all(header + b"GET / HTTP/1.1\r\n")
                while len(server._state.openings) < number:
                    await trio.lowlevel.checkpoint()
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            if header:
                await stream.send_all(header)
            headers = {"X-Forwarded-For": "192.0.2.9"}
            async with trio_ws.connect_over(stream, "ws://example.org/", headers=headers) as ws:
                assert await ws.receive() == "('192.0.2.9', 0) 127.0.0.1 False"
                assert dict(server._state.by_address) == {"192.0.2.9": 1}


async def test_the_log_has_the_address_of_the_client(caplog: Logs) -> None:
    async def fail(ws: trio_ws.WebSocket) -> None:
        raise RuntimeError

    caplog.set_level(logging.INFO)
    async with serving(fail, trusted_proxies=["127.0.0.1"]) as server:
        with pytest.raises(trio_ws.ConnectionClosedError):
            async with connect(server, X) as ws:
                await ws.receive()
        with pytest.raises(trio_ws.InvalidStatus):
            async with connect(server, X, origin="https://elsewhere.example"):
                pytest.fail("the connection was opened")
    assert "connection from ('192.0.2.1', 0): the handler failed" in caplog.text
    assert "opening handshake with ('192.0.2.1', 0) failed" in caplog.text


async def test_tls_with_the_server_is_secure(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, context = contexts
    async with serving(ssl=context, trusted_proxies=["127.0.0.1"]) as server:
        uri = f"wss://127.0.0.1:{server.port}/"
        for headers, expected in [({}, "True"), (X, "True"), ({"X-Forwarded-Proto": "http"}, "False")]:
            async with trio_ws.connect(uri, ssl=client, proxy=None, headers=headers) as ws:
                assert str(await ws.receive()).endswith(expected)


# -- The host --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers, host",
    [
        ([("X-Forwarded-Host", "a.example")], "a.example"),
        ([("X-Forwarded-Host", "a.example:8443"), *x("192.0.2.1")], "a.example:8443"),
        # The client may have sent the first one.
        ([("X-Forwarded-Host", "evil.example, a.example"), *x("192.0.2.9, 192.0.2.1")], "a.example"),
        # Two proxies, of which both or only one append, or the last one replaces.
        ([("X-Forwarded-Host", "a.example, inner"), *x("192.0.2.1, 10.0.0.2")], "a.example"),
        ([("X-Forwarded-Host", "a.example"), *x("192.0.2.1, 10.0.0.2")], "a.example"),
        ([("X-Forwarded-Host", "not a host"), *x("192.0.2.1")], None),
        ([("X-Forwarded-Host", "")], None),
        (f("for=192.0.2.1;host=a.example"), "a.example"),
        (f('for=192.0.2.1;host="a.example:8443"'), "a.example:8443"),
        (f("host=a.example"), "a.example"),
        (f("for=192.0.2.9;host=evil.example, for=192.0.2.1;host=a.example"), "a.example"),
        (f("for=192.0.2.9;host=evil.example, for=192.0.2.1"), None),
        (f("for=192.0.2.1;host=a.example, for=10.0.0.2;host=inner"), "a.example"),
        (f("for=192.0.2.1, for=10.0.0.2;host=a.example"), "a.example"),
        (f('for=192.0.2.1;host="a b"'), None),
        ([*f("for=192.0.2.1;host=a.example"), *x("192.0.2.1"), ("X-Forwarded-Host", "A.example")], "A.example"),
        ([*f("for=192.0.2.1;host=a.example"), *x("192.0.2.1")], "a.example"),
        ([*f("for=192.0.2.1"), *x("192.0.2.1"), ("X-Forwarded-Host", "a.example")], "a.example"),
    ],
)
def test_the_host_that_the_client_has_asked_for(headers: list[tuple[str, str]], host: str | None) -> None:
    found = find(*headers).host
    assert (found and found.lower()) == (host and host.lower())
    assert find(*headers, address=("198.51.100.7", 1)).host is None  # not a trusted proxy


def test_contradictory_hosts() -> None:
    with pytest.raises(InvalidHeader, match="contradicts"):
        find(*f("for=192.0.2.1;host=a.example"), *x("192.0.2.1"), ("X-Forwarded-Host", "b.example"))


async def status_of(server: trio_ws.Server, headers: dict[str, str]) -> int:
    try:
        async with connect(server, headers):
            return 101
    except trio_ws.InvalidStatus as exc:
        return exc.status_code


HOST = "X-Forwarded-Host"


@pytest.mark.parametrize(
    "headers, status",
    [
        ({HOST: "chat.example"}, 101),
        ({"Forwarded": "for=192.0.2.9;host=chat.example;proto=https"}, 101),
        ({HOST: "evil.example", "Host": "chat.example"}, 421),
        ({HOST: "other.example"}, 403),
        ({"Host": "chat.example"}, 101),
        ({}, 421),
        # The port of Host says nothing about that of the page; the one of a forwarded host does.
        ({"Host": "chat.example", "Origin": "https://chat.example:8443"}, 101),
        ({"Host": "chat.example:8000"}, 101),
        ({HOST: "chat.example", "Origin": "https://chat.example:8443"}, 101),
        ({HOST: "chat.example:8443", "Origin": "https://chat.example:8443"}, 101),
        ({HOST: "chat.example:8443", "Origin": "https://chat.example:9000"}, 403),
    ],
)
async def test_origins_and_hosts_behind_a_trusted_proxy(headers: dict[str, str], status: int) -> None:
    hosts = ["chat.example", "other.example"]
    sent = {"Host": "inner", "Origin": "https://chat.example", **headers}
    async with serving(trusted_proxies=["127.0.0.1"], hosts=hosts) as server:
        assert await status_of(server, sent) == status
    # Nobody else can name the host.
    sent["Host"] = "inner"
    async with serving(hosts=hosts) as server:
        assert await status_of(server, sent) == 421


async def test_a_port_in_hosts_does_not_count_where_the_proxy_drops_it() -> None:
    for proxies, status in (["127.0.0.1"], 101), ([], 421):
        async with serving(trusted_proxies=proxies, hosts=["chat.example:8443"]) as server:
            assert await status_of(server, {"Host": "chat.example"}) == status
            assert await status_of(server, {"Host": "chat.example:8443"}) == 101
            assert await status_of(server, {"Host": "evil.example"}) == 421
