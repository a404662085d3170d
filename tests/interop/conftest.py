"""Fixtures that the tests with all libraries share."""

from __future__ import annotations

import pytest

from .peers import Certificates


@pytest.fixture(autouse=True)
def _watched(watchdog: None) -> None:
    """Fail a test that hangs."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of compression with each combination of settings in the module of the library."""
    if "negotiation" in metafunc.fixturenames:
        metafunc.parametrize("negotiation", metafunc.module.NEGOTIATIONS, ids=str)


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates.make()
