"""The documentation in a real browser, driven over the DevTools protocol: nothing is wider than its column."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trio_ws

#: The widths of a laptop and of a phone.
WIDTHS = (1400, 390)

#: A function in JavaScript. It returns what is wider than its column: the page, samples, tables that do not scroll,
#: and pictures; and, in wide windows, samples whose lines are wrapped.
MEASURE = """(() => {
    const found = [];
    const root = document.documentElement;
    if (root.scrollWidth > root.clientWidth) {
        found.push(`the page: ${root.scrollWidth} px`);
    }
    for (const each of document.querySelectorAll("pre")) {
        if (each.scrollWidth > each.clientWidth) {
            found.push(`a sample: ${each.innerText.slice(0, 40)}`);
        }
    }
    for (const each of document.querySelectorAll(".highlight-python pre")) {
        const style = getComputedStyle(each);
        const height = each.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
        const lines = each.innerText.replace(/\\n+$/, "").split("\\n").length;
        if (innerWidth > 1000 && height > (lines + 0.7) * parseFloat(style.lineHeight)) {
            found.push(`a wrapped sample: ${each.innerText.slice(0, 40)}`);
        }
    }
    for (const each of document.querySelectorAll("article table")) {
        const column = each.parentElement;
        if (each.scrollWidth > column.clientWidth + 1 && getComputedStyle(column).overflowX !== "auto") {
            found.push(`a table: ${each.innerText.slice(0, 40)}`);
        }
    }
    const width = document.querySelector("article").clientWidth;
    for (const each of document.querySelectorAll("article img")) {
        if (each.naturalWidth === 0 || each.clientWidth > width) {
            found.push(`a picture: ${each.src}`);
        }
    }
    return found;
})()"""


@pytest.fixture(scope="module")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of the DevTools of a page in Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed")
    profile = f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", profile]
    with subprocess.Popen([program, *options, "about:blank"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        place = next(filter(None, (re.search(r"ws://([^/]+)/", line) for line in process.stderr)))[1]
        # Read the rest, too: the browser would wait if the pipe were full.
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        request = urllib.request.Request(f"http://{place}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request) as response:
            yield json.load(response)["webSocketDebuggerUrl"]
        process.kill()
        reader.join()


class Tab:
    """A page in the browser."""

    def __init__(self, ws: trio_ws.WebSocket) -> None:
        self._ws = ws
        self._ids = itertools.count(1)

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of DevTools, and return its result."""
        number = next(self._ids)
        await self._ws.send(json.dumps({"id": number, "method": method, "params": params}))
        while (message := json.loads(await self._ws.receive())).get("id") != number:
            pass
        return message["result"]

    async def open(self, path: Path) -> None:
        """Open a file, and wait until all of it is loaded."""
        await self.call("Page.navigate", url=path.as_uri())
        while json.loads(await self._ws.receive()).get("method") != "Page.loadEventFired":
            pass

    async def evaluate(self, script: str) -> Any:
        """Return the value of an expression in JavaScript."""
        return (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"]["value"]


def find_pages(site: Path) -> list[Path]:
    """Return the pages of the documentation, without those of source code."""
    return [path for path in sorted(site.rglob("*.html")) if not {"_static", "_modules"} & {*path.parts}]


@pytest.mark.parametrize("width", WIDTHS)
async def test_nothing_is_wider_than_its_column(width: int, site: Path, devtools: str) -> None:
    pages = find_pages(site)
    assert len(pages) > 50
    found: dict[str, list[str]] = {}
    async with trio_ws.connect(devtools, proxy=None, max_message_size=None) as ws:
        tab = Tab(ws)
        await tab.call("Page.enable")
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 1000}
        await tab.call("Emulation.setDeviceMetricsOverride", **size)
        for page in pages:
            await tab.open(page)
            found[str(page.relative_to(site))] = await tab.evaluate(MEASURE)
    assert {page: wide for page, wide in found.items() if wide} == {}
