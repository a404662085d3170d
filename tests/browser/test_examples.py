"""The examples of the documentation that have a page, or drive a browser."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from docs.examples.devtools import Browser, Page

from .site import open_site, save, take_screenshot, visit

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
PNG = b"\x89PNG\r\n\x1a\n"


@asynccontextmanager
async def signed_in(browser: Browser, nursery: trio.Nursery, url: str) -> AsyncIterator[Page]:
    """Open a URL that asks for the user name and the password of the example."""
    async with visit(browser, "about:blank") as page:

        async def sign_in() -> None:
            with page.listen("Fetch.requestPaused", "Fetch.authRequired") as events:
                await page.call("Fetch.enable", handleAuthRequests=True)
                listening.set()
                async for event in events:
                    if "authChallenge" in event:
                        assert event["authChallenge"]["realm"] == "echo"
                        answer = {"response": "ProvideCredentials", "username": "ann", "password": "correct horse"}
                        await page.call(
                            "Fetch.continueWithAuth", requestId=event["requestId"], authChallengeResponse=answer
                        )
                    else:
                        await page.call("Fetch.continueRequest", requestId=event["requestId"])

        listening = trio.Event()
        nursery.start_soon(sign_in)
        await listening.wait()
        await page.open(url)
        yield page


async def test_the_page_of_the_documentation(
    browser: Browser, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """web_page.py: sign in, type something, press Enter, and read the answer. Then the server ends."""
    programs: list[Callable[[], Awaitable[None]]] = []
    ports: trio.MemorySendChannel[int]
    ports, listening = trio.open_memory_channel(1)
    open_tcp_listeners = trio.open_tcp_listeners

    async def on_any_port(port: int, **options: object) -> list[trio.SocketListener]:
        listeners = await open_tcp_listeners(0, host="127.0.0.1")
        ports.send_nowait(listeners[0].socket.getsockname()[1])
        return listeners

    with monkeypatch.context() as patch:
        patch.setattr(trio, "run", programs.append)
        runpy.run_path(str(EXAMPLES / "web_page.py"), run_name="__main__")
    monkeypatch.setattr(trio, "open_tcp_listeners", on_any_port)
    (main,) = programs
    async with trio.open_nursery() as server:
        server.start_soon(main)
        url = f"http://127.0.0.1:{await listening.receive()}/"
        async with signed_in(browser, nursery, url) as page:
            # The script changes the text when a message arrives.
            async def wait_for(text: str) -> str:
                shown: str = await page.evaluate(f"""
                    new Promise((resolve) => {{
                        const check = () => {{
                            if (output.textContent.includes({json.dumps(text)})) {{
                                resolve(output.textContent);
                            }}
                        }};
                        new MutationObserver(check).observe(output, {{ childList: true, characterData: true }});
                        check();
                    }})""")
                return shown

            assert await wait_for("ann\n") == "hello, ann\n"
            await page.evaluate("input.focus()")
            await page.call("Input.insertText", text="ü€🌍 <b>")
            enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            await page.call("Input.dispatchKeyEvent", type="keyDown", **enter)
            await page.call("Input.dispatchKeyEvent", type="keyUp", **enter)
            assert await wait_for("<b>\n") == "hello, ann\nü€🌍 <b>\n"
            assert await page.evaluate("input.value") == ""
            signal.raise_signal(signal.SIGTERM)
            assert (await wait_for("closed")).endswith("closed: 1001 the server ends")


async def test_the_devtools_example(chromium: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """devtools.py, as a program: it starts a browser of its own."""
    site = await open_site(nursery)
    command = [sys.executable, str(EXAMPLES / "devtools.py"), site.url, str(tmp_path / "page.png")]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent.parent)}
    done = await trio.run_process(command, capture_stdout=True, env=environment, stdin=subprocess.DEVNULL)
    assert done.stdout.decode().splitlines() == ["trio_ws"]
    assert (tmp_path / "page.png").read_bytes().startswith(PNG)


async def test_errors_of_the_devtools(browser: Browser, nursery: trio.Nursery) -> None:
    from docs.examples.devtools import DevToolsError

    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        with pytest.raises(DevToolsError, match=r"Page.dance: .*wasn't found"):
            await page.call("Page.dance")
        with pytest.raises(DevToolsError, match="ReferenceError: nothing is not defined"):
            await page.evaluate("nothing")
        with pytest.raises(DevToolsError, match="Error: later"):
            await page.evaluate("Promise.reject(new Error('later'))")
        with pytest.raises(DevToolsError, match=r"cannot open http://127\.0\.0\.1:1/: net::ERR_"):
            await page.open("http://127.0.0.1:1/")
    with pytest.raises(DevToolsError, match="Session with given id not found"):
        await page.evaluate("1")


async def test_a_failure_leaves_a_screenshot(browser: Browser, nursery: trio.Nursery, artifacts: Path) -> None:
    site = await open_site(nursery)
    with pytest.raises(ZeroDivisionError):
        async with visit(browser, site.url):
            raise ZeroDivisionError
    assert screenshots(artifacts) == {"test_examples.py-test_a_failure_leaves_a_screenshot.png": PNG}


async def test_a_success_leaves_none(browser: Browser, nursery: trio.Nursery, artifacts: Path) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        pass
    # Nor does a page that is gone.
    save(await take_screenshot(page))
    assert screenshots(artifacts) == {}


def screenshots(folder: Path) -> dict[str, bytes]:
    """Return the first bytes of each screenshot."""
    return {path.name: path.read_bytes()[: len(PNG)] for path in folder.iterdir()} if folder.exists() else {}
