"""A site for the tests: a page, a server that the page connects to, and a record of its connections."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

import trio_ws
from docs.examples.devtools import Browser, DevToolsError, Page

from ..support import echo

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ARTIFACTS", "Record", "Site", "open_site", "pattern", "visit"]

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

#: The folder for the screenshots of tests that fail. CI keeps it.
ARTIFACTS = Path(os.environ.get("TRIO_WS_ARTIFACTS") or Path(__file__).parent.parent.parent / "artifacts")


class Record(trio_ws.Instrument):
    """Records the connections of a site.

    Attributes:
        opened: A channel of the connections.
        closed: A channel of how they ended, in the order in which they did.
        received: The number of bytes that the server has received in frames.
        sent: The number of bytes that it has sent in frames.
        round_trips: The number of pings that the browser has answered.
    """

    def __init__(self) -> None:
        self._opened, self.opened = trio.open_memory_channel[trio_ws.WebSocket](math.inf)
        self._closed, self.closed = trio.open_memory_channel[trio_ws.ConnectionSummary](math.inf)
        self.received = 0
        self.sent = 0
        self.round_trips = 0

    def connection_opened(self, ws: Any) -> None:
        self._opened.send_nowait(ws)

    def connection_closed(self, ws: trio_ws.ObservedWebSocket, summary: trio_ws.ConnectionSummary) -> None:
        self._closed.send_nowait(summary)

    def bytes_received(self, ws: trio_ws.ObservedWebSocket, size: int) -> None:
        self.received += size

    def bytes_sent(self, ws: trio_ws.ObservedWebSocket, size: int) -> None:
        self.sent += size

    def ping_answered(self, ws: trio_ws.ObservedWebSocket, seconds: float) -> None:
        self.round_trips += 1


@attrs.frozen
class Site:
    """A running site. Its ``url`` leads to the page."""

    server: trio_ws.Server
    record: Record

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/"


def show_page(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    if "Upgrade" in request.headers:
        return None
    return opening.respond(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})


async def open_site(
    nursery: trio.Nursery, handler: trio_ws.Handler = echo, **options: Unpack[trio_ws.ServeOptions]
) -> Site:
    """Start a server, which runs until the nursery ends."""
    record = Record()
    all_options: trio_ws.ServeOptions = {**options, "process_request": show_page, "instruments": [record]}
    server = await nursery.start(partial(trio_ws.serve, handler, 0, host="127.0.0.1", **all_options))
    return Site(server, record)


@asynccontextmanager
async def visit(browser: Browser, url: str) -> AsyncIterator[Page]:
    """Open a URL in a new page. If the block fails, save a screenshot of the page."""
    async with browser.open_page() as page:
        try:
            await page.open(url)
            yield page
        except BaseException:  # a test that hangs is cancelled, and its screenshot matters most
            with trio.move_on_after(10, shield=True):
                save(await take_screenshot(page))
            raise


async def take_screenshot(page: Page) -> bytes:
    """Return a screenshot; an empty one of a page that has crashed."""
    try:
        return await page.screenshot()
    except DevToolsError:
        return b""


def save(picture: bytes) -> None:
    """Save a screenshot under the name of the test, unless it is empty."""
    if picture:
        test = os.environ.get("PYTEST_CURRENT_TEST", "unknown").partition(" ")[0].rpartition("/")[2]
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        (ARTIFACTS / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', test)}.png").write_bytes(picture)


@functools.cache
def pattern(size: int) -> bytes:
    """Return the bytes of the function of the same name in the page."""
    return bytes((i * 167 + (i >> 8)) & 0xFF for i in range(size))
