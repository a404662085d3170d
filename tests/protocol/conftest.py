from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .strategies import BACK_ENDS, back_end, compressing_with


@pytest.fixture(params=BACK_ENDS)
def zlib_module(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The compression library of transform.py. The test runs with each."""
    module = back_end(request.param)
    with compressing_with(module):
        yield module
