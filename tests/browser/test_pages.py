"""Pages that are left, hidden or frozen while they are connected, and slow networks."""

from __future__ import annotations

import trio

import trio_ws
from docs.examples.devtools import Browser, DevToolsError

from ..support import HANGS, echo
from .site import open_site, pattern, visit

CONNECT = "connect('/').then((ws) => { window.socket = ws; })"


async def keep_sending(ws: trio_ws.WebSocket) -> None:
    """Send without end, so that the page is always left in the middle of something."""
    while True:
        await ws.send(pattern(10_000))


async def test_reload(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        for _ in range(3):
            await page.evaluate(CONNECT)
            await page.open(site.url)
            assert (await site.record.closed.receive()).code == 1001
            assert not site.server.connections
        assert await page.evaluate("connect('/').then((ws) => ws.echo('hello'))") == "hello"


async def test_reload_while_messages_are_coming_in(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery, keep_sending)
    async with visit(browser, site.url) as page:
        for _ in range(3):
            await page.evaluate("connect('/').then((ws) => ws.message()).then((data) => data.byteLength)")
            await page.open(site.url)
            summary = await site.record.closed.receive()
            assert summary.code in (1001, 1006)
            assert not summary.clean or summary.code == 1001


async def test_reload_while_a_message_is_going_out(browser: Browser, nursery: trio.Nursery) -> None:
    async def wait(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()  # receives nothing: the page cannot send all of it

    site = await open_site(nursery, wait, max_message_size=None)
    async with visit(browser, site.url) as page:
        await page.evaluate("connect('/').then((ws) => ws.ws.send(new Uint8Array(64 * 1024 * 1024)))")
        await page.open(site.url)
        for ws in site.server.connections:
            ws.abort()
        assert (await site.record.closed.receive()).code in (1001, 1006)


async def test_navigation(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    other = await open_site(nursery)
    async with visit(browser, site.url) as page:
        await page.evaluate(CONNECT)
        await page.open(other.url)
        assert (await site.record.closed.receive()).code == 1001
        await page.evaluate(CONNECT)
        # Back: the first page is loaded again, or comes from the cache of the browser with a closed socket.
        history = await page.call("Page.getNavigationHistory")
        await page.call("Page.navigateToHistoryEntry", entryId=history["entries"][-2]["id"])
        assert (await other.record.closed.receive()).code == 1001


async def test_navigation_during_the_opening_handshake(browser: Browser, nursery: trio.Nursery) -> None:
    arrived, left = trio.Event(), trio.Event()

    async def wait(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
        if "Upgrade" in request.headers:
            arrived.set()
            await left.wait()
        return None

    site = await open_site(nursery)
    slow = await nursery.start(
        lambda task_status: trio_ws.serve(
            echo, 0, host="127.0.0.1", process_request=wait, origins=trio_ws.ANY, task_status=task_status
        )
    )
    async with visit(browser, site.url) as page:
        await page.evaluate(f"void new WebSocket('ws://127.0.0.1:{slow.port}/')")
        await arrived.wait()
        await page.open(site.url)
        left.set()
    assert await slow.drain(timeout=HANGS)
    assert not slow.connections


async def test_the_tab_is_closed(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        tab = await browser.open_tab(page.context)
        await tab.open(site.url)
        await tab.evaluate(CONNECT)
        await browser.call("Target.closeTarget", targetId=tab.target)
        assert (await site.record.closed.receive()).code in (1001, 1006)


async def test_the_page_crashes(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        tab = await browser.open_tab(page.context)
        await tab.open(site.url)
        await tab.evaluate(CONNECT)

        async def crash() -> None:
            try:
                await tab.call("Page.crash")
            except DevToolsError:
                pass  # there is no result, because nobody is left who could send it

        nursery.start_soon(crash)
        assert (await site.record.closed.receive()).code in (1001, 1006)


async def test_a_background_tab(browser: Browser, nursery: trio.Nursery) -> None:
    """It gets its messages, and answers the pings."""
    site = await open_site(nursery, ping_interval=0.1, ping_timeout=HANGS)
    async with visit(browser, site.url) as page:
        await page.evaluate(CONNECT)
        front = await browser.open_tab(page.context)
        await front.call("Page.bringToFront")
        assert await page.evaluate("document.visibilityState") == "hidden"
        before = site.record.round_trips
        assert await page.evaluate("socket.echo('hello')") == "hello"
        (ws,) = site.server.connections
        await ws.ping()
        assert site.record.round_trips > before


async def test_a_frozen_page(browser: Browser, nursery: trio.Nursery) -> None:
    """Its scripts stand still, as on a phone in the pocket. The browser answers pings, and keeps the messages."""
    site = await open_site(nursery, ping_interval=0.1, ping_timeout=HANGS)
    async with visit(browser, site.url) as page:
        await page.evaluate(CONNECT)
        (ws,) = site.server.connections
        await page.call("Page.setWebLifecycleState", state="frozen")
        await ws.ping()
        for number in range(100):
            await ws.send(str(number))
        await ws.ping()
        await page.call("Page.setWebLifecycleState", state="active")
        messages = await page.evaluate("""
            (async () => {
                const messages = [];
                while (messages.length < 100) {
                    messages.push(await socket.message());
                }
                return messages;
            })()""")
        assert messages == [str(number) for number in range(100)]


async def test_a_page_that_is_busy(browser: Browser, nursery: trio.Nursery) -> None:
    """A script that blocks the page: sending waits, and is not lost."""
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        await page.evaluate(CONNECT)
        (ws,) = site.server.connections
        sent = trio.Event()

        async def send() -> None:
            for _ in range(64):
                await ws.send(pattern(100_000))
            sent.set()

        nursery.start_soon(send)
        assert await page.evaluate("""
            (async () => {
                const start = performance.now();
                while (performance.now() < start + 500);
                for (let i = 0; i < 64; i++) {
                    if (!equal(await socket.message(), pattern(100000))) {
                        return false;
                    }
                }
                return true;
            })()""")
        await sent.wait()


async def test_a_slow_network(browser: Browser, nursery: trio.Nursery) -> None:
    """A message takes two seconds in each direction, and pings wait behind it."""
    site = await open_site(nursery, ping_interval=0.1, ping_timeout=HANGS, compression=None)
    async with visit(browser, site.url) as page:
        # The browser slows only connections down that it opens after this.
        await page.call("Network.enable")
        await page.call(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=20,
            downloadThroughput=200_000,
            uploadThroughput=200_000,
        )
        await page.evaluate(CONNECT)
        is_equal, seconds = await page.evaluate("""
            (async () => {
                const start = performance.now();
                const echo = await socket.echo(pattern(400000));
                return [equal(echo, pattern(400000)), (performance.now() - start) / 1000];
            })()""")
        assert is_equal
        assert seconds > 3
        (ws,) = site.server.connections
        await ws.ping()


async def test_offline(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        await page.call("Network.enable")
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await page.call("Network.emulateNetworkConditions", offline=True, **conditions)
        assert await page.evaluate("new Socket('/').next()") == {"type": "error"}
        await page.call("Network.emulateNetworkConditions", offline=False, **conditions)
        assert await page.evaluate("connect('/').then((ws) => ws.echo('hello'))") == "hello"
