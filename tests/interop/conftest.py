from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from .peers import Certificates


@pytest.fixture(autouse=True)
async def watchdog() -> AsyncIterator[None]:
    """Fails a test that hangs."""

    async def bark() -> None:
        await trio.sleep(60)
        pytest.fail("the test hangs")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bark)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates.make()
