"""Fixtures for the tests of the server: TLS contexts, and a check for leaked tasks and file descriptors."""

from __future__ import annotations

import gc
import os
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing
import trustme


@pytest.fixture
async def watchdog() -> AsyncIterator[None]:
    """Fail an async test that hangs. With a virtual clock, this happens at once, because no other task can run."""
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)

    async def bark() -> None:
        await trio.sleep(1_000_000 if virtual else 60)
        pytest.fail("the test hangs")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bark)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
async def nothing_left(watchdog: None) -> Callable[[], None]:
    """Return a function that checks that no task or file descriptor from this test is left."""

    def count() -> tuple[int, int]:
        gc.collect()
        try:
            return len(os.listdir("/proc/self/fd")), trio.lowlevel.current_statistics().tasks_living
        except FileNotFoundError:
            pytest.skip("this system does not tell which file descriptors are open")

    before = count()

    def check() -> None:
        assert count() == before

    return check


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
