"""Fixtures for pytest with pytest-trio: ``ws_pair`` and ``ws_server``.

To enable them, put this into ``conftest.py`` in the root folder of your tests, or into a test file::

    pytest_plugins = ["trio_ws.testing.plugin"]

They are not enabled automatically, because pytest would then import trio_ws in every project of the environment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from .pair import WebSocketPair, memory_websocket_pair
from .servers import StartServer

__all__ = ["ws_pair", "ws_server"]


@pytest.fixture
async def ws_pair() -> AsyncIterator[WebSocketPair]:
    """A client and a server that are connected in memory: a :class:`WebSocketPair`.

    ::

        async def test_adder(ws_pair: WebSocketPair, nursery: trio.Nursery) -> None:
            nursery.start_soon(ws_pair.serve, adder)
            await ws_pair.client.send("1 2")
            assert await ws_pair.client.receive() == "3"

    Both are closed at the end of the test. For other options, use :class:`memory_websocket_pair`.
    """
    async with memory_websocket_pair() as pair:
        yield pair


@pytest.fixture
async def ws_server() -> AsyncIterator[StartServer]:
    """A function that starts servers on free ports of this machine: a :class:`StartServer`.

    ::

        async def test_adder(ws_server: StartServer) -> None:
            server = await ws_server(adder)
            async with trio_ws.connect(server.uri) as ws: ...

    The servers are cancelled at the end of the test. An exception of a handler fails the test. The servers use real
    sockets: do not use the fixture together with ``autojump_clock``, whose clock does not wait for sockets.
    """
    async with trio.open_nursery() as nursery:
        yield StartServer(nursery)
        nursery.cancel_scope.cancel()
