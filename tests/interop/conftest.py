"""Fixtures that the tests with all libraries share."""

from __future__ import annotations

import pytest

from .peers import Certificates


@pytest.fixture(autouse=True)
def _watched(watchdog: None) -> None:
    """Fail a test that hangs."""


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates.make()
