"""Control a Chromium with the Chrome DevTools Protocol: a screenshot of a web page.

Run it with ``python devtools.py http://localhost:8765/ page.png``. It starts a headless Chromium,
opens the page, prints its title and saves a screenshot. Set the environment variable ``CHROMIUM``
if the browser has another name.

The browser is a WebSocket server. Commands and results are JSON, as are events, which have no id. A
tab is called a target, and a session is the way to it: all of its commands, results and events have
the ``sessionId``.
"""

import base64
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import trio
import trio_ws

CHROMIUM = os.environ.get("CHROMIUM", "chromium")
OPTIONS = [
    *("--headless=new", "--remote-debugging-port=0", "--no-first-run"),
    *("--disable-gpu", "--disable-dev-shm-usage"),
    # The sandbox does not work for root, who is the only user of many containers.
    *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
]
#: The line of the log that has the URI of the DevTools.
LISTENING = re.compile(rb"DevTools listening on (ws://\S+)\s")

Message: TypeAlias = dict[str, Any]


class DevToolsError(Exception):
    """The browser could not execute a command, or a script has raised an exception."""


class Browser:
    """A connection to a browser. Its ``run`` must run in a task: it receives results and events."""

    def __init__(self, ws: trio_ws.WebSocket) -> None:
        self._channel = trio_ws.TypedChannel[Any](ws, json.dumps, json.loads)
        self._ids = itertools.count(1)
        # For each command in progress, the channel to its task.
        self._commands: dict[int, trio.MemorySendChannel[Message]] = {}
        # For each session and name of an event, the channels to those who listen.
        self._listeners: dict[tuple[str | None, str], list[trio.MemorySendChannel[Message]]] = {}

    async def run(self) -> None:
        """Pass on results and events until the connection is closed."""
        try:
            async for message in self._channel:
                if "id" in message:
                    # The caller may have been cancelled meanwhile.
                    if (command := self._commands.get(message["id"])) is not None:
                        command.send_nowait(message)
                else:
                    key = message.get("sessionId"), message["method"]
                    for listener in self._listeners.get(key, []):
                        listener.send_nowait(message["params"])
        finally:
            for channel in itertools.chain(self._commands.values(), *self._listeners.values()):
                channel.close()

    async def call(self, method: str, *, session: str | None = None, **params: Any) -> Message:
        """Execute a command and return its result."""
        number = next(self._ids)
        self._commands[number], results = trio.open_memory_channel[Message](1)
        command = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        try:
            await self._channel.send(command)
            result = await results.receive()
        except trio.EndOfChannel:
            raise DevToolsError(f"{method}: the connection was closed before the result") from None
        finally:
            del self._commands[number]
        if "error" in result:
            raise DevToolsError(f"{method}: {result['error']['message']}")
        return dict(result["result"])

    @contextmanager
    def listen(
        self, *names: str, session: str | None = None
    ) -> Iterator[trio.MemoryReceiveChannel[Message]]:
        """Yield a channel of the parameters of all events with these names from now on."""
        listener, events = trio.open_memory_channel[Message](math.inf)
        for name in names:
            self._listeners.setdefault((session, name), []).append(listener)
        try:
            yield events
        finally:
            for name in names:
                self._listeners[session, name].remove(listener)

    @asynccontextmanager
    async def open_page(self) -> AsyncIterator["Page"]:
        """Open a page in a new context, which shares neither cookies nor caches with others."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        try:
            yield await self.open_tab(context)
        finally:
            with trio.move_on_after(5, shield=True):
                await self.call("Target.disposeBrowserContext", browserContextId=context)

    async def open_tab(self, context: str) -> "Page":
        """Open a page in an existing context."""
        target = (
            await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        )["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))[
            "sessionId"
        ]
        page = Page(self, session, target, context)
        await page.call("Page.enable")
        await page.call("Page.setLifecycleEventsEnabled", enabled=True)
        return page


class Page:
    """A tab of a browser."""

    def __init__(self, browser: Browser, session: str, target: str, context: str) -> None:
        self.browser = browser
        self.session = session
        self.target = target
        self.context = context

    async def call(self, method: str, **params: Any) -> Message:
        """Execute a command for this page."""
        return await self.browser.call(method, session=self.session, **params)

    @contextmanager
    def listen(self, *names: str) -> Iterator[trio.MemoryReceiveChannel[Message]]:
        """Yield a channel of the events of this page, as :meth:`Browser.listen` does."""
        with self.browser.listen(*names, session=self.session) as events:
            yield events

    async def open(self, url: str) -> None:
        """Open a URL, and wait until it is loaded."""
        with self.listen("Page.lifecycleEvent") as events:
            navigation = await self.call("Page.navigate", url=url)
            if "errorText" in navigation:
                raise DevToolsError(f"cannot open {url}: {navigation['errorText']}")
            async for event in events:
                if event["name"] == "load" and event["loaderId"] == navigation["loaderId"]:
                    break

    async def evaluate(self, script: str) -> Any:
        """Return the value of an expression in JavaScript. Wait for it if it is a promise."""
        result = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise DevToolsError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    async def screenshot(self) -> bytes:
        """Return a picture of the visible part of the page, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


async def run_chromium(task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a browser until cancelled. ``nursery.start`` returns the URI of its DevTools."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, check=False, stderr=subprocess.PIPE)
            process = await nursery.start(run)
            log, listening = b"", None
            # Read to the end: the browser would wait if the pipe were full.
            async for data in process.stderr:
                if listening is None:
                    log += data
                    listening = LISTENING.search(log)
                    if listening is not None:
                        task_status.started(listening[1].decode())
    raise DevToolsError(f"the browser has ended: {log.decode(errors='replace')}")


async def main() -> None:
    url, path = sys.argv[1:]
    async with trio.open_nursery() as nursery:
        uri = await nursery.start(run_chromium)
        # Screenshots are large, and the browser is trusted.
        async with trio_ws.connect(uri, max_message_size=None) as ws:
            browser = Browser(ws)
            nursery.start_soon(browser.run)
            async with browser.open_page() as page:
                await page.open(url)
                print(await page.evaluate("document.title"))
                await trio.Path(path).write_bytes(await page.screenshot())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
