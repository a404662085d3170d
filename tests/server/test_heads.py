"""The request line and headers: their limits, and what is not HTTP at all."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws

from .clients import Logs, echo, never, read_response, request

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
