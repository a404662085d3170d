"""Fixtures and hooks for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Rewrite the assertions of these helper modules too. This must come before they are imported.
pytest.register_assert_rewrite(
    "tests.cli.commands",
    "tests.client.hosts",
    "tests.client.servers",
    "tests.server.clients",
    "tests.server.forwarded.clients",
    "tests.testing.streams",
    "tests.interop.compression",
    "tests.interop.peers",
)

# A deadline would fail on a busy machine.
settings.register_profile("trio_ws", deadline=None)
settings.load_profile("trio_ws")

# Background processes of a shell ignore Ctrl-C, and child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_proxies() -> Iterator[None]:
    """Remove proxy settings of this machine from the environment. Tests of proxies set their own."""
    before = _take_proxies()
    yield
    _take_proxies()  # a sample in the documentation may have set them
    os.environ.update(before)


def _take_proxies() -> dict[str, str]:
    return {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Show the number of cancellation points. Tests record it during teardown, so it is in their last report.
    counts = [
        int(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == "cancellation points"
    ]
    if counts:
        terminalreporter.write_line(f"cancellation: {sum(counts)} points in {len(counts)} scenarios")
