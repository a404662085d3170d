"""The request line and headers: their limits, and what is not HTTP at all."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

import trio_ws

from .clients import echo, never, read_response, request

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
