"""Errors for arguments of the wrong type or out of range. They name the argument and say what it must be."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.testing import memory_websocket_pair

WSS = "wss://example.org/"

CLIENT_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def never(ws: trio_ws.WebSocket) -> None:
    raise AssertionError


def stream() -> trio.abc.Stream:
    return trio.testing.memory_stream_pair()[0]


def connect(**options: Any) -> object:
    return trio_ws.connect(WSS, **options)


def serve(*args: Any, **options: Any) -> object:
    return trio.run(lambda: trio_ws.serve(never, *(args or ([] if "path" in options else [0])), **options))


def serve_over(stream: Any, handler: Any) -> object:
    return trio.run(trio_ws.serve_over, stream, handler)


def check(function: Callable[[], object], error: type[Exception], name: str, shown: str) -> None:
    """Check that an error names the argument, says what it must be, and shows the value."""
    with pytest.raises(error) as caught:
        function()
    assert type(caught.value) is error
    assert str(caught.value).removeprefix("each of ").startswith(f"{name} must ")
    assert f"not {shown}" in str(caught.value)


@pytest.mark.parametrize(
    "name, value, shown",
    [
        # Headers and credentials may be secret, so only their types are shown.
        ("headers", "Authorization: secret", "str"),
        ("headers", b"a: b", "bytes"),
        ("headers", None, "NoneType"),
        ("headers", ["a", "b"], "an iterable of str"),
        ("headers", ["ab", "cd"], "an iterable of str"),
        ("headers", [("a", "b", "c")], "an iterable of tuple"),
        ("credentials", "me:secret", "str"),
        ("credentials", ("me", "secret"), "tuple"),
        ("subprotocols", "chat", "'chat'"),
        ("subprotocols", b"chat", "b'chat'"),
        ("subprotocols", None, "None"),
        ("origin", b"https://example.org", "b'https://example.org'"),
        ("origin", ["https://example.org"], "['https://example.org']"),
        ("user_agent", True, "True"),
        ("ssl", True, "True"),
        ("ssl", "cert.pem", "'cert.pem'"),
        ("proxy_ssl", True, "True"),
        ("server_hostname", 1, "1"),
        ("local_address", 1, "1"),
        ("local_address", ("127.0.0.1", 0), "('127.0.0.1', 0)"),
    ],
)
def test_options_of_clients(name: str, value: object, shown: str) -> None:
    check(lambda: connect(**{name: value}), TypeError, name, shown)


@pytest.mark.parametrize("value", ["1", None, -1])
def test_the_delay_between_addresses(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^happy_eyeballs_delay .* not {value!r}"):
        connect(happy_eyeballs_delay=value)


@pytest.mark.parametrize(
    "name, value, shown",
    [
        ("headers", "a: b", "str"),
        ("subprotocols", "chat", "'chat'"),
        ("origins", "*", "'*'"),
        ("origins", None, "None"),
        ("origins", 1, "1"),
        ("origins", [1], "1"),
        ("hosts", "example.org", "'example.org'"),
        ("hosts", b"example.org", "b'example.org'"),
        ("hosts", [b"example.org"], "b'example.org'"),
        ("hosts", 1, "1"),
        ("process_request", 1, "1"),
        ("process_request", "check", "'check'"),
        ("process_request", ["check"], "'check'"),
        ("process_response", 1, "1"),
        ("select_subprotocol", "chat", "'chat'"),
        ("server_header", True, "True"),
        ("trusted_proxies", "127.0.0.1", "'127.0.0.1'"),
        ("trusted_proxies", None, "None"),
        ("trusted_proxies", [1], "1"),
        ("proxy_protocol", 1, "1"),
        ("ssl", True, "True"),
        ("host", b"localhost", "b'localhost'"),
        ("host", ["localhost"], "['localhost']"),
        ("path", 1, "1"),
        ("backlog", "1", "'1'"),
        ("backlog", True, "True"),
        ("reuse_port", 1, "1"),
    ],
)
def test_options_of_servers(name: str, value: object, shown: str) -> None:
    check(lambda: serve(**{name: value}), TypeError, name, shown)


@pytest.mark.parametrize(
    "name, value, shown",
    [
        ("origins", ["*"], "'*'; use origins=trio_ws.ANY to accept every origin"),
        ("origins", ["example.org"], "'example.org'"),
        ("trusted_proxies", ["proxy.example"], "'proxy.example'"),
        ("backlog", -1, "-1"),
    ],
)
def test_options_of_servers_out_of_range(name: str, value: object, shown: str) -> None:
    check(lambda: serve(**{name: value}), ValueError, name, shown)


@pytest.mark.parametrize("port", ["8765", "localhost", b"80", True, 8765.0])
def test_ports(port: object) -> None:
    check(lambda: serve(port), TypeError, "port", repr(port))


def test_a_host_for_a_port() -> None:
    with pytest.raises(TypeError, match=r"; a host must be given as host='localhost'$"):
        serve("localhost")


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_ports_out_of_range(port: int) -> None:
    check(lambda: serve(port), ValueError, "port", str(port))


@pytest.mark.parametrize("listeners, shown", [(1, "1"), ("ab", "'ab'"), ([1], "1")])
def test_listeners(listeners: object, shown: str) -> None:
    check(lambda: serve(None, listeners=listeners), TypeError, "listeners", shown)


def test_no_listeners() -> None:
    with pytest.raises(ValueError, match="listeners must not be empty"):
        serve(None, listeners=[])


def test_streams() -> None:
    check(lambda: trio_ws.connect_over(WSS, stream()), TypeError, "stream", repr(WSS))  # type: ignore[arg-type]  # wrong on purpose
    check(lambda: trio_ws.connect_over(trio.SocketStream, WSS), TypeError, "stream", "<class")  # type: ignore[arg-type]  # wrong on purpose
    check(lambda: serve_over(never, stream()), TypeError, "stream", "<function never")
    check(lambda: memory_websocket_pair(1), TypeError, "streams", "1")  # type: ignore[arg-type]  # wrong on purpose
    check(lambda: memory_websocket_pair((1, 2)), TypeError, "streams", "1")  # type: ignore[arg-type]  # wrong on purpose
    check(lambda: memory_websocket_pair((stream(),)), TypeError, "streams", "1")  # type: ignore[arg-type]  # wrong on purpose


def test_the_path_of_a_socket() -> None:
    check(lambda: trio_ws.connect_unix(1), TypeError, "path", "1")  # type: ignore[arg-type]  # wrong on purpose
    trio_ws.connect_unix(b"/run/app.sock")  # type: ignore[arg-type]  # accepted, although the annotation does not allow it


def test_contexts_of_the_other_side() -> None:
    with pytest.raises(ValueError, match="ssl "):
        serve(ssl=CLIENT_CONTEXT)


def test_basic_auth() -> None:
    wrong: Any = {"me": b"secret"}
    check(lambda: trio_ws.basic_auth(wrong), TypeError, "credentials", "str to bytes")
    check(lambda: trio_ws.basic_auth("me:secret"), TypeError, "credentials", "str")  # type: ignore[arg-type]  # wrong on purpose
    check(lambda: trio_ws.basic_auth({}, realm=1), TypeError, "realm", "1")  # type: ignore[arg-type]  # wrong on purpose


async def test_byte_streams() -> None:
    check(lambda: trio_ws.ByteStream(stream()), TypeError, "ws", "StapledStream(")  # type: ignore[arg-type]  # wrong on purpose
    async with memory_websocket_pair() as (client, _):
        size: Any = "64 KiB"
        check(lambda: trio_ws.ByteStream(client, message_size=size), TypeError, "message_size", repr(size))
        check(lambda: trio_ws.ByteStream(client, message_size=0), ValueError, "message_size", "0")


def test_values() -> None:
    check(lambda: trio_ws.Close(1000, b"bye"), TypeError, "reason", "b'bye'")  # type: ignore[arg-type]  # wrong on purpose
    check(lambda: trio_ws.Request(b"/", ()), TypeError, "path", "b'/'")  # type: ignore[arg-type]  # wrong on purpose
    check(lambda: trio_ws.Response(200, 1, ()), TypeError, "reason_phrase", "1")  # type: ignore[arg-type]  # wrong on purpose


# -- Close codes and reasons ---------------------------------------------------------------------------------------


Closes = Callable[..., Awaitable[None]]


@pytest.mark.parametrize("method", ["aclose", "send_close"])
async def test_closing_a_connection(method: str) -> None:
    async with memory_websocket_pair() as (client, _):
        await check_closing(getattr(client, method))
        assert client.state is trio_ws.State.OPEN


async def test_closing_a_server() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: trio_ws.serve(never, 0, host="127.0.0.1", task_status=task_status)
        )
        await check_closing(server.aclose)
        await server.aclose(4000)


async def test_closing_a_channel() -> None:
    async with trio_ws.open_reconnecting(lambda: trio_ws.connect_over(stream(), WSS)) as channel:
        await check_closing(channel.aclose)


async def check_closing(close: Closes) -> None:
    """Check that invalid close codes and reasons are refused."""
    allowed = "1000 to 1003, 1007 to 1014 or 3000 to 4999"
    for code in [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 70000]:
        with pytest.raises(ValueError) as caught:
            await close(code)
        assert type(caught.value) is ValueError
        assert str(caught.value) == f"code must be {allowed} (RFC 6455, section 7.4), not {code}"
    for wrong in [True, "1000", b"1000", None, 1000.0]:
        with pytest.raises(TypeError) as caught_type:
            await close(wrong)
        assert str(caught_type.value) == f"code must be an int, not {wrong!r}"
    for reason in [b"bye", None, 1]:
        with pytest.raises(TypeError) as caught_type:
            await close(1000, reason)
        assert str(caught_type.value) == f"reason must be a str, not {reason!r}"
    for text, shown in [("é" * 62, "124"), ("\udc00", "'\\udc00'")]:
        with pytest.raises(ValueError) as caught:
            await close(1000, text)
        assert type(caught.value) is ValueError
        assert str(caught.value).startswith("reason must ")
        assert str(caught.value).endswith(f"not {shown}")
