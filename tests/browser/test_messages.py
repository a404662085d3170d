"""Messages between a page and a server."""

from __future__ import annotations

import json
from typing import Literal

import pytest
import trio

import trio_ws
from docs.examples.devtools import Browser, Page

from .site import open_site, pattern, visit

MIB = 1024 * 1024


async def test_text(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        sent = ["", "hello", "\0", "äöü €", "🌍" * 10_000, "\u2028\u2029"]
        echoes = await page.evaluate(f"""
            connect('/').then(async (ws) => {{
                const echoes = [];
                for (const text of {json.dumps(sent)}) {{
                    echoes.push(await ws.echo(text));
                }}
                return echoes;
            }})""")
        assert echoes == sent


async def test_a_lone_surrogate_is_replaced_by_the_browser(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        assert await page.evaluate(r"connect('/').then((ws) => ws.echo('a\ud800b'))") == "a\N{REPLACEMENT CHARACTER}b"


async def test_binary(browser: Browser, nursery: trio.Nursery) -> None:
    received = []

    async def keep(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            received.append(message)
            await ws.send(message)

    site = await open_site(nursery, keep)
    async with visit(browser, site.url) as page:
        # An ArrayBuffer, a view of a part of one, and a Blob.
        assert await page.evaluate("""
            connect('/').then(async (ws) => {
                const data = pattern(1000);
                const echoes = [
                    await ws.echo(new ArrayBuffer(0)),
                    await ws.echo(data.buffer),
                    await ws.echo(data.subarray(10, 20)),
                    await ws.echo(new Blob([data.subarray(0, 3), data.subarray(3)])),
                ];
                ws.ws.binaryType = "blob";
                const blob = await ws.echo(data);
                echoes.push(await blob.arrayBuffer());
                const expected = [[], data, data.subarray(10, 20), data, data];
                return echoes.every((echo, i) => equal(echo, expected[i]));
            })""")
    assert received == [b"", pattern(1000), pattern(1000)[10:20], pattern(1000), pattern(1000)]


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_large(compression: Literal["deflate"] | None, browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery, max_message_size=None, compression=compression)
    async with visit(browser, site.url) as page:
        assert await page.evaluate(f"""
            connect('/').then(async (ws) => {{
                const data = new Uint8Array({4 * MIB});
                for (let i = 0; i < data.length; i += 65536) {{
                    crypto.getRandomValues(data.subarray(i, i + 65536));
                }}
                return equal(await ws.echo(data), data);
            }})""")
        assert (
            await page.evaluate(f"connect('/').then((ws) => ws.echo('€'.repeat({MIB})).then((t) => t.length))") == MIB
        )


async def test_large_messages_in_both_directions_at_once(browser: Browser, nursery: trio.Nursery) -> None:
    async def exchange(ws: trio_ws.WebSocket) -> None:
        async with trio.open_nursery() as tasks:

            @tasks.start_soon
            async def send() -> None:
                for _ in range(5):
                    await ws.send(pattern(MIB))

            received = [await ws.receive() for _ in range(5)]
        await ws.send(str(all(message == pattern(MIB) for message in received)))

    site = await open_site(nursery, exchange)
    async with visit(browser, site.url) as page:
        assert await page.evaluate(f"""
            connect('/').then(async (ws) => {{
                const data = pattern({MIB});
                for (let i = 0; i < 5; i++) {{
                    ws.ws.send(data);
                }}
                let same = true;
                for (let i = 0; i < 5; i++) {{
                    same = equal(await ws.message(), data) && same;
                }}
                return [same, await ws.message()];
            }})""") == [True, "True"]


async def test_a_message_in_parts(browser: Browser, nursery: trio.Nursery) -> None:
    async def stream(ws: trio_ws.WebSocket) -> None:
        async with ws.send_stream(text=True) as parts:
            for part in ("in ", "four ", "", "parts"):
                await parts.send(part)
        await ws.receive()

    site = await open_site(nursery, stream)
    async with visit(browser, site.url) as page:
        assert await page.evaluate("connect('/').then((ws) => ws.message())") == "in four parts"


async def test_many_messages_arrive_in_order(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        assert (
            await page.evaluate("""
            connect('/').then(async (ws) => {
                for (let i = 0; i < 10000; i++) {
                    ws.ws.send(`${i}`);
                }
                for (let i = 0; i < 10000; i++) {
                    if (await ws.message() !== `${i}`) {
                        return i;
                    }
                }
                return true;
            })""")
            is True
        )


@pytest.mark.parametrize("server_no_context_takeover", [False, True])
@pytest.mark.parametrize("client_no_context_takeover", [False, True])
async def test_compression(
    server_no_context_takeover: bool, client_no_context_takeover: bool, browser: Browser, nursery: trio.Nursery
) -> None:
    deflate = trio_ws.Deflate(
        server_no_context_takeover=server_no_context_takeover, client_no_context_takeover=client_no_context_takeover
    )
    site = await open_site(nursery, compression=deflate)
    async with visit(browser, site.url) as page:
        # Words that do not repeat within a message: only a context makes the second message smaller.
        extensions, same = await page.evaluate("""
            connect('/').then(async (ws) => {
                const text = Array.from({ length: 100 }, (_, i) => (i * 7919 + 104729).toString(36)).join("");
                const echoes = [];
                for (let i = 0; i < 10; i++) {
                    echoes.push(await ws.echo(text));
                }
                return [ws.ws.extensions, echoes.every((echo) => echo === text)];
            })""")
        assert same
        parameters = {part.strip() for part in extensions.split(";")}
        assert "permessage-deflate" in parameters
        assert ("server_no_context_takeover" in parameters) is server_no_context_takeover
        assert ("client_no_context_takeover" in parameters) is client_no_context_takeover
        size = len("".join(page_text()))
        # Without a context, each message takes about as much as the first.
        assert (site.record.sent > 5 * size // 2) is server_no_context_takeover
        assert (site.record.received > 5 * size // 2) is client_no_context_takeover


def page_text() -> list[str]:
    return [to_base_36(i * 7919 + 104729) for i in range(100)]


def to_base_36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


@pytest.mark.parametrize("bits", [8, 9, 15])
async def test_windows(bits: int, browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(
        nursery, compression=trio_ws.Deflate(server_max_window_bits=bits, client_max_window_bits=bits)
    )
    async with visit(browser, site.url) as page:
        assert await page.evaluate("""
            connect('/').then(async (ws) => {
                const data = pattern(100000);
                for (let i = 0; i < 3; i++) {
                    if (!equal(await ws.echo(data), data)) {
                        return false;
                    }
                }
                return ws.ws.extensions.includes("client_max_window_bits");
            })""")


async def test_without_compression(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery, compression=None)
    async with visit(browser, site.url) as page:
        assert await page.evaluate("connect('/').then(async (ws) => [ws.ws.extensions, await ws.echo('a')])") == [
            "",
            "a",
        ]
    assert site.record.sent


async def many(page: Page, count: int) -> list[str]:
    result = await page.evaluate(f"""
        Promise.all(Array.from({{ length: {count} }}, async (_, i) => {{
            const ws = await connect(`/${{i}}`);
            return ws.echo(`${{i}}`);
        }}))""")
    assert isinstance(result, list)
    return result


async def test_many_sockets(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        assert await many(page, 200) == [str(number) for number in range(200)]
        assert len(site.server.connections) == 200
    # Closing the page closes them all.
    for _ in range(200):
        assert (await site.record.closed.receive()).code in (1001, 1006)


async def test_messages_to_all_sockets(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        await page.evaluate("""
            Promise.all(Array.from({ length: 50 }, () => connect('/'))).then((all) => { window.sockets = all; })""")
        trio_ws.broadcast(site.server.connections, "to all")
        messages = await page.evaluate("Promise.all(sockets.map((socket) => socket.message()))")
        assert messages == ["to all"] * 50
