"""TLS contexts for the tests of the server."""

from __future__ import annotations

import ssl

import pytest
import trustme

from .. import support


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    return support.server_context(authority)


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    return support.client_context(authority)
