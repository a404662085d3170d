"""TLS contexts for the tests of proxies in front of a server."""

from __future__ import annotations

import ssl

import pytest
import trustme

from ...support import client_context, server_context


@pytest.fixture(scope="session")
def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return client_context(authority), server_context(authority, "example.org", "127.0.0.1")
