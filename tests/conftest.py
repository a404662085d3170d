"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest

# Whatever a shell starts in the background ignores Ctrl-C, and so would all that is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
