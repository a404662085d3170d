"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

# Before anything imports them: their assertions are those of the tests.
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

# Whatever a shell starts in the background ignores Ctrl-C, and so would all that is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_proxies() -> Iterator[None]:
    """Let no test depend on the proxy that this machine may need. Those about proxies set what they test."""
    before = _take_proxies()
    yield
    _take_proxies()  # what a sample in the documentation has set
    os.environ.update(before)


def _take_proxies() -> dict[str, str]:
    return {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # How much was cancelled. A test notes it when it is torn down, so it is in the last of its reports.
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
