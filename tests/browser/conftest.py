"""A Chromium for the tests in this folder. It is started once; each test has a context of its own in it."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

import trio_ws
from docs.examples.devtools import CHROMIUM, LISTENING, OPTIONS, Browser


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of the DevTools of a browser."""
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"there is no {CHROMIUM}; the Debian package is chromium")
    profile = tmp_path_factory.mktemp("chromium")
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
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
    async with trio_ws.connect(chromium, max_message_size=None) as ws:
        browser = Browser(ws)
        nursery.start_soon(browser.run)
        yield browser


@pytest.fixture(autouse=True)
async def bounded(watchdog: None) -> None:
    """Fail a test that hangs."""


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for screenshots."""
    monkeypatch.setattr("tests.browser.site.ARTIFACTS", tmp_path / "artifacts")
    return tmp_path / "artifacts"
