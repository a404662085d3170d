from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

# Before they are imported: their assertions are those of the tests.
pytest.register_assert_rewrite("tests.interop.compression", "tests.interop.peers")

from .peers import Certificates  # noqa: E402  # after the line that has to be before it


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
