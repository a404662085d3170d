"""The opening handshake: subprotocols, origins, refusals."""

from __future__ import annotations

import pytest
import trio

import trio_ws
from docs.examples.devtools import Browser

from .site import open_site, visit

PROTOCOL = "connect('/', ['b', 'a', 'c']).then((ws) => ws.ws.protocol)"
FAILS = "(async (path, ws) => [(await (ws = new Socket(path)).next()).type, await ws.next()])"
REFUSED = ["error", {"type": "close", "code": 1006, "reason": "", "wasClean": False}]


async def test_subprotocol(browser: Browser, nursery: trio.Nursery) -> None:
    seen = []

    async def handle(ws: trio_ws.WebSocket) -> None:
        seen.append(ws.subprotocol)
        await ws.receive()

    site = await open_site(nursery, handle, subprotocols=["a", "b"])
    async with visit(browser, site.url) as page:
        assert await page.evaluate(PROTOCOL) == "a"
        assert await page.evaluate("connect('/').then((ws) => ws.ws.protocol)") == ""
    assert seen == ["a", None]


async def test_the_server_selects_the_subprotocol(browser: Browser, nursery: trio.Nursery) -> None:
    def select(opening: trio_ws.Opening, offered: object) -> str:
        assert offered == ["b", "a", "c"]
        return "c"

    site = await open_site(nursery, select_subprotocol=select)
    async with visit(browser, site.url) as page:
        assert await page.evaluate(PROTOCOL) == "c"


async def test_no_common_subprotocol(browser: Browser, nursery: trio.Nursery) -> None:
    """A browser fails the connection if the server chooses none of its subprotocols."""
    site = await open_site(nursery, subprotocols=["other"])
    async with visit(browser, site.url) as page:
        events = await page.evaluate(f"{FAILS.replace('Socket(path)', 'Socket(path, [`a`])')}('/')")
        assert events == REFUSED


async def test_pages_of_other_origins_are_refused(
    browser: Browser, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_ws.server")
    site = await open_site(nursery)
    other = await open_site(nursery)
    # Another port, and another name for the same address.
    for url in (other.url, site.url.replace("127.0.0.1", "localhost")):
        async with visit(browser, url) as page:
            assert await page.evaluate(f"{FAILS}('{site.url.replace('http', 'ws')}')") == REFUSED
    assert [record.getMessage().endswith("this origin is not allowed") for record in caplog.records] == [True, True]


@pytest.mark.parametrize("allowed", ["this", "any"])
async def test_pages_of_other_origins_may_be_allowed(allowed: str, browser: Browser, nursery: trio.Nursery) -> None:
    other = await open_site(nursery)
    origins = [other.url.removesuffix("/")] if allowed == "this" else trio_ws.ANY
    site = await open_site(nursery, origins=origins)
    async with visit(browser, other.url) as page:
        assert (
            await page.evaluate(f"connect('{site.url.replace('http', 'ws')}').then((ws) => ws.echo('hello'))")
            == "hello"
        )


async def test_a_page_without_an_origin(browser: Browser, nursery: trio.Nursery) -> None:
    """A sandboxed frame has the opaque origin ``null``, like files and data: URLs."""
    site = await open_site(nursery)
    allowing = await open_site(nursery, origins=["null"])
    async with visit(browser, site.url) as page:
        for url, expected in [(site.url, "error"), (allowing.url, "open")]:
            script = f"const ws = new WebSocket('{url.replace('http', 'ws')}');"
            script += (
                "for (const type of ['open', 'error']) ws.addEventListener(type, () => parent.postMessage(type, '*'));"
            )
            event = await page.evaluate(f"""
                new Promise((resolve) => {{
                    window.onmessage = (event) => resolve([event.origin, event.data]);
                    const frame = document.createElement("iframe");
                    frame.sandbox = "allow-scripts";
                    frame.srcdoc = `<script>{script}<\\/script>`;
                    document.body.append(frame);
                }})""")
            assert event == ["null", expected]


@pytest.mark.parametrize("status", [401, 403, 404, 426, 500, 503])
async def test_refused(status: int, browser: Browser, nursery: trio.Nursery) -> None:
    def refuse(opening: trio_ws.Opening, request: trio_ws.Request, response: trio_ws.Response) -> trio_ws.Response:
        return opening.respond(status, "no")

    site = await open_site(nursery, process_response=refuse)
    async with visit(browser, site.url) as page:
        assert await page.evaluate(f"{FAILS}('/')") == REFUSED


async def test_cookies_and_the_headers_of_a_browser(browser: Browser, nursery: trio.Nursery) -> None:
    async def tell(ws: trio_ws.ServerWebSocket) -> None:
        opening = ws.opening
        await ws.send(f"{opening.cookies['user']} {opening.path} {opening.query['a b']} {ws.request.headers['Origin']}")

    site = await open_site(nursery, tell)
    async with visit(browser, site.url) as page:
        message = await page.evaluate("""
            document.cookie = "user=ann; path=/";
            connect('/ü/[x]?a%20b=1&a+b=2').then((ws) => ws.message())""")
        assert message == f"ann /ü/[x] ['1', '2'] {site.url.removesuffix('/')}"
