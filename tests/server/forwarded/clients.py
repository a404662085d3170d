"""Helpers for the tests of servers behind a proxy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws

from ...support import HANGS, echo

Logs = pytest.LogCaptureFixture


def x(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


LINE4 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"


async def describe_client(ws: trio_ws.ServerWebSocket) -> None:
    """Send a client what the server knows about it."""
    assert ws.opening.remote_address == ws.remote_address
    proxy = ws.opening.proxy_address
    await ws.send(f"{ws.remote_address!r} {proxy and proxy[0]} {ws.opening.secure}")
    await echo(ws)


@contextlib.asynccontextmanager
async def serving(handler: trio_ws.Handler = describe_client, **options: Any) -> AsyncIterator[trio_ws.Server]:
    """Run a server on localhost, for a minute at most."""
    async with trio.open_nursery() as nursery:
        server: trio_ws.Server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1", **options))
        nursery.cancel_scope.deadline = trio.current_time() + HANGS
        yield server
        assert not nursery.cancel_scope.cancel_called, "the test hangs"
        nursery.cancel_scope.cancel()
    assert server._state.count == 0
    assert not server._state.by_address


X = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
