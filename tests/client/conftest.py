"""A check for leaked sockets, for tests whose own servers end after them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ..cancellation import open_files


@pytest.fixture
def no_files_left() -> Iterator[None]:
    """Check that the test and its nursery have closed every file descriptor that they opened."""
    gc.collect()
    before = open_files()
    yield
    gc.collect()
    assert open_files() == before
