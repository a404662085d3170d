"""The request line and headers: their limits, and what is not HTTP at all."""

from __future__ import annotations

import logging
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws

from ..support import echo
from .clients import Logs, never, read_response, request

MockClock = trio.testing.MockClock


async def answer(data: bytes, handler: trio_ws.Handler = never, **options: Any) -> trio_ws.Response:
    """Return the response to these bytes, after which the client sends nothing more and waits."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await trio_ws.serve_over(theirs, handler, **options)

        nursery.start_soon(serve)
        await ours.send_all(data)
        response, _ = await read_response(ours)
        await ours.aclose()
    return response


# -- Limits ----------------------------------------------------------------------------------------------------------


async def test_the_size_of_a_head_is_an_option(autojump_clock: MockClock) -> None:
    large = request("Cookie: a=" + 40 * 1024 * "x")
    assert (await answer(large)).status_code == 431
    assert (await answer(large, echo, max_head_size=len(large))).status_code == 101
    assert (await answer(large, max_head_size=len(large) - 1)).status_code == 431
    assert (await answer(request(), max_head_size=20)).status_code == 431


async def test_the_number_of_headers_is_an_option(autojump_clock: MockClock) -> None:
    many = request(*(f"X-{number}: x" for number in range(195)))
    assert (await answer(many)).status_code == 431
    assert (await answer(many, echo, max_headers=200)).status_code == 101
    assert (await answer(many, max_headers=199)).status_code == 431


# -- Not HTTP --------------------------------------------------------------------------------------------------------

OTHER_PROTOCOLS = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01", "TLS"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n", "HTTP/2"),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", "'SSH-2.0-OpenSSH_9.9'"),
    "SMTP": (b"HELO relay.test\r\nMAIL FROM:<a@example.test>\r\n", "'HELO relay.test'"),
    "HTTP/0.9": (b"GET /\r\n", "'GET /'"),
    "binary": (b"\x9b\x1b[2J", r"'\x9b\x1b[2J'"),
}


@pytest.mark.parametrize("data, shown", OTHER_PROTOCOLS.values(), ids=OTHER_PROTOCOLS)
async def test_other_protocols_get_400_at_once(
    data: bytes, shown: str, caplog: Logs, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    begin = trio.current_time()
    response = await answer(data)
    assert trio.current_time() == begin
    assert response.status_code == 400
    assert shown in (response.body or b"").decode()
    (record,) = caplog.records
    assert shown in record.getMessage()
    assert record.getMessage().isprintable()


async def test_a_slow_request_has_the_whole_time(autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve_over, theirs, echo)
        for byte in request():
            await trio.sleep(0.01)
            await ours.send_all(bytes([byte]))
        assert (await read_response(ours))[0].status_code == 101
        await ours.aclose()


# -- Text of a peer in the log ---------------------------------------------------------------------------------------

EVIL = "\x1b[2J\x7f\x9b31m\x85\r\nERROR a line of the peer"


@pytest.mark.parametrize(
    "data",
    [
        EVIL.encode("iso-8859-1"),
        request(f"X: {EVIL}"),
        request(line=f"GET /{EVIL} HTTP/1.1"),
        request(line=f"{EVIL} / HTTP/1.1"),
        request(Host="a\x9b31m"),
        request(Origin="https://a\x9b31m\x85"),
        request(Upgrade="a\x9b31m"),
        request(Connection="a\x9b31m"),
        request(Sec_WebSocket_Key="a\x9b31m"),
        request(Sec_WebSocket_Version="a\x9b31m"),
        request(Sec_WebSocket_Protocol="a\x9b31m"),
        request(Sec_WebSocket_Extensions="a\x9b31m"),
        request(Sec_WebSocket_Extensions='a; b="\x9b31m"'),
        request(Sec_WebSocket_Extensions='permessage-deflate; server_max_window_bits="\x9b31m"'),
        request(Content_Length="\x9b31m"),
        request("Origin: https://evil.example/" + 20_000 * "\x9b"),
    ],
)
async def test_no_control_characters_of_a_peer_reach_the_log(
    data: bytes, caplog: Logs, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG)
    response = await answer(data, echo)
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 1000
    assert (response.body or b"\n")[:-1].decode().isprintable()
    assert response.status_code == 101 or caplog.records


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets on this system")
async def test_the_path_of_a_client_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Logs, nursery: trio.Nursery
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    for name, how in [(f"{EVIL}{each}".replace("/", "_"), each) for each in ("refused", "failed", "lost", "logged")]:

        async def fail(ws: trio_ws.WebSocket) -> None:
            raise RuntimeError

        instruments = [trio_ws.LogConnections()]
        server = await nursery.start(partial(trio_ws.serve, fail, path="server", instruments=instruments))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(name)
            sock.connect("server")
            sock.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            await stream.send_all({"refused": b"nonsense\r\n", "lost": b"GET"}.get(how, request()))
            if how != "lost":
                await stream.receive_some()
        await server.aclose()
    assert caplog.records
    for record in caplog.records:
        assert record.getMessage().isprintable()


async def test_a_path_in_a_proxy_header_is_escaped(caplog: Logs, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.DEBUG)
    path = (EVIL.encode("iso-8859-1") + b"\xe9").ljust(108, b"\0")
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8" + 2 * path
    assert (await answer(header + b"nonsense\r\n", proxy_protocol=True)).status_code == 400
    (record,) = caplog.records
    assert "ERROR a line of the peer" in record.getMessage()
    assert record.getMessage().isprintable()


async def test_close_reasons_in_the_log_are_escaped(caplog: Logs, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.DEBUG)

    async def receive(ws: trio_ws.WebSocket) -> None:
        await ws.receive()

    instruments = [trio_ws.LogConnections(), trio_ws.LogFrames()]
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio_ws.serve_over, theirs, receive, instruments=instruments))
        async with trio_ws.connect_over(ours, "ws://any/") as ws:
            await ws.aclose(3000, f"{EVIL}\u202e\u2028")
    assert "ERROR a line of the peer" in caplog.text
    for record in caplog.records:
        assert record.getMessage().isprintable()
