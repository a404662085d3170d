"""Helpers that the tests of proxies share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

SCHEMES = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]


@pytest.fixture(name="watchdog", autouse=True)
async def fixture_watchdog() -> AsyncIterator[None]:
    """A nursery that fails a test that hangs: immediately with a virtual clock, as nothing else is left to wait for."""
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)

    async def bark() -> None:
        await trio.sleep(1_000_000 if virtual else 60)
        pytest.fail("the test hangs")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bark)
        yield
        nursery.cancel_scope.cancel()
