"""Fixtures and hooks for all tests."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.testing
import trustme
from hypothesis import HealthCheck, settings

import trio_ws
from trio_ws.client import explain
from trio_ws.connection import core, reader, writer
from trio_ws.server import handshake, server

from .cancellation import PROPERTY, Scheduling
from .support import HANGS, find_program

if TYPE_CHECKING:
    from docs.examples.devtools import Browser

# Rewrite the assertions of these helper modules too. This must come before they are imported.
pytest.register_assert_rewrite(
    "tests.browser.site",
    "tests.cli.commands",
    "tests.http2.peers",
    "tests.client.hosts",
    "tests.client.servers",
    "tests.server.clients",
    "tests.server.forwarded.clients",
    "tests.testing.streams",
    "tests.interop.compression",
    "tests.interop.peers",
)

# Limits of real time would fail on a busy machine. `too_slow` is one for making examples.
settings.register_profile("trio_ws", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("few", settings.get_profile("trio_ws"), max_examples=20)
settings.load_profile("trio_ws")

#: If this is set, every test that is skipped is an error, unless its reason is one of `ALLOWED_SKIPS`. CI sets it, so
#: that nothing is missing there unnoticed.
NO_SKIPS = bool(os.environ.get("TRIO_WS_NO_SKIPS"))

ALLOWED_SKIPS = re.compile(
    # On Python 3.10, CI tests without it.
    "zlib-ng is not installed"
    # `build` also tests the package without it. The other sessions check that it is built.
    "|it was built without a C compiler"
    # Too large to install for one test.
    "|plots are optional, .*"
    # The guides for migrating are written for one version, which not every Python has.
    "|the guide is about .*|could not import 'websockets.trio.*"
    # Containers cannot run within other containers.
    "|no container can run here: .*"
    # The sessions `lint` and `docs` have these.
    "|hadolint is not installed|the site is built by .*"
    # The session `free_threading` runs these tests on a Python without.
    "|this Python always has a GIL",
    re.DOTALL,
)

# Trust no authority of this machine. Loading those into a context takes 50 ms, and many tests create one.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull

# Background processes of a shell ignore Ctrl-C, and child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: Modules of tests that repeat a scenario with a disturbance at each of its points, or ten thousand times. They get the
#: marker `harness`, as do all tests that use the fixture `scheduling`.
HARNESSES = {"test_cancellation.py", "test_churn.py", "test_faults.py", "test_memory.py", "test_state_machine.py"}

#: Folders and modules of other tests that take long, because they run other programs. They get the marker `slow`.
SLOW = {
    *("browser", "cli", "docs", "interop", "soak"),
    *("test_behind_proxies.py", "test_documentation.py", "test_examples.py", "test_interop.py", "test_migrating.py"),
    "test_redis.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, metavar="N", help="run at most N cases of each test function")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        place = set(item.path.relative_to(Path(__file__).parent).parts)
        if (place & HARNESSES and "testing" not in place) or "scheduling" in getattr(item, "fixturenames", ()):
            item.add_marker("harness")
        elif place & SLOW:
            item.add_marker("slow")
    limit = config.getoption("--cases")
    if limit is not None:
        functions: dict[str, list[pytest.Item]] = {}
        for item in items:
            functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
        # Those in between differ least from their neighbours.
        kept = {item for cases in functions.values() for item in cases[:: -(-len(cases) // limit)]}
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # Let the cyclic collector ignore what exists when the tests are collected: tests run it a thousand times, and a
    # million objects of pytest would take it longer than most tests. Until then, it would run in vain. Without being
    # asked for, it runs rarely: it would take a tenth of the time.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


#: Limits of the library that are shorter than a busy machine may stop a process, with the modules that have them.
SHORT_LIMITS = [
    *((module, "GOODBYE_TIMEOUT") for module in (core, reader, writer, handshake, server)),
    (explain, "LOOKUP_TIMEOUT"),
]
if find_spec("h2") is not None:
    from trio_ws.http2 import connection

    SHORT_LIMITS.append((connection, "GOODBYE_TIMEOUT"))


@pytest.fixture
def short_limits() -> None:
    """Keep `SHORT_LIMITS` in a test whose peer does not read what is written last, or that makes a virtual clock."""


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be cut short in tests in real time. Tests of these limits use virtual time."""
    others = {"autojump_clock", "mock_clock", "scheduling", "short_limits"}
    if not others & {*request.fixturenames}:
        for module, name in SHORT_LIMITS:
            monkeypatch.setattr(module, name, HANGS)


@pytest.fixture(autouse=True)
def no_proxies() -> Iterator[None]:
    """Remove proxy settings of this machine from the environment. Tests of proxies set their own."""
    before = _take_proxies()
    yield
    _take_proxies()  # a sample in the documentation may have set them
    os.environ.update(before)


def _take_proxies() -> dict[str, str]:
    return {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}


@pytest.fixture
async def watchdog() -> AsyncIterator[None]:
    """Fail an async test that hangs. With a virtual clock, this happens at once, because no other task can run."""
    virtual = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)

    async def bark() -> None:
        await trio.sleep(1_000_000 if virtual else HANGS)
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
    gc.freeze()  # see `pytest_collection`

    def check() -> None:
        assert count() == before

    return check


@pytest.fixture
def scheduling(monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]) -> Iterator[Scheduling]:
    """Make Trio's scheduling deterministic, so that the n-th point is always the same. Record the number of points."""
    scheduling = Scheduling(0)
    # Trio has this private hook for Hypothesis. If a future version lacks it, the only loss is
    # that failures may not be reproducible.
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True, raising=False)
    monkeypatch.setattr("trio._core._run._r", scheduling, raising=False)
    yield scheduling
    record_property(PROPERTY, scheduling.points)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of the DevTools of a Chromium. It is started once; each test opens pages of its own."""
    from docs.examples.devtools import CHROMIUM, LISTENING, OPTIONS  # wheels are tested without the documentation

    program = find_program(CHROMIUM)
    profile = tmp_path_factory.mktemp("chromium")
    command = [program, *OPTIONS, f"--user-data-dir={profile}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        log = b""
        while (match := LISTENING.search(log)) is None:
            line = process.stderr.readline()
            if not line:
                pytest.fail(f"{CHROMIUM} has ended: {log.decode(errors='replace')}")
            log += line
        # Read the rest of the log: the browser would wait if the pipe were full.
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        yield match[1].decode()
        process.kill()
        reader.join()


@pytest.fixture
async def browser(chromium: str, nursery: trio.Nursery) -> AsyncIterator[Browser]:
    """A connection to the browser."""
    from docs.examples.devtools import Browser

    async with trio_ws.connect(chromium, max_message_size=None) as ws:
        browser = Browser(ws)
        nursery.start_soon(browser.run)
        yield browser


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority. A context trusts it after ``authority.configure_trust(context)``."""
    return trustme.CA()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _reject_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _reject_skips((yield))


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _reject_skips(report: Report) -> Report:
    """Turn a report of a skipped test into a failure where nothing may be skipped."""
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple)
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not ALLOWED_SKIPS.fullmatch(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped, although TRIO_WS_NO_SKIPS is set: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Show the number of cancellation points. Tests record it during teardown, so it is in their last report.
    counts = [
        int(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if counts:
        terminalreporter.write_line(f"cancellation: {sum(counts)} points in {len(counts)} scenarios")
