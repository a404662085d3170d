"""Close codes and errors, from either end."""

from __future__ import annotations

import pytest
import trio

import trio_ws
from docs.examples.devtools import Browser
from trio_ws.frames import Frame, Opcode

from .site import open_site, visit

CLOSED = "connect('/').then((ws) => ws.next())"


@pytest.mark.parametrize(
    "arguments, code, reason",
    [
        ("", 1005, ""),
        ("1000", 1000, ""),
        ("1000, 'bye'", 1000, "bye"),
        ("3000", 3000, ""),
        ("4999, 'ü€🌍'", 4999, "ü€🌍"),
    ],
)
async def test_closed_by_the_page(
    arguments: str, code: int, reason: str, browser: Browser, nursery: trio.Nursery
) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        event = await page.evaluate(f"connect('/').then((ws) => {{ ws.ws.close({arguments}); return ws.next(); }})")
        assert event == {"type": "close", "code": code, "reason": reason, "wasClean": True}
        summary = await site.record.closed.receive()
        assert (summary.code, summary.reason) == (code, reason)
        assert summary.clean is (code in (1000, 1005))


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
async def test_closed_by_the_server(code: int, browser: Browser, nursery: trio.Nursery) -> None:
    async def close(ws: trio_ws.WebSocket) -> None:
        await ws.aclose(code, "ü€🌍")

    site = await open_site(nursery, close)
    async with visit(browser, site.url) as page:
        event = await page.evaluate(CLOSED)
        assert event == {"type": "close", "code": code, "reason": "ü€🌍", "wasClean": True}
        assert (await site.record.closed.receive()).code == code


async def test_the_handler_returns_or_raises(browser: Browser, nursery: trio.Nursery) -> None:
    async def handle(ws: trio_ws.WebSocket) -> None:
        if ws.request.path == "/raises":
            raise RuntimeError("for the test")

    site = await open_site(nursery, handle)
    async with visit(browser, site.url) as page:
        for path, code in [("/returns", 1000), ("/raises", 1011)]:
            event = await page.evaluate(f"connect('{path}').then((ws) => ws.next())")
            assert (event["type"], event["code"], event["wasClean"]) == ("close", code, True)


async def test_the_server_closes(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery)
    async with visit(browser, site.url) as page:
        await page.evaluate("connect('/').then((ws) => { window.socket = ws; })")
        await site.server.aclose(reason="restarting")
        event = await page.evaluate("socket.next()")
        assert event == {"type": "close", "code": 1001, "reason": "restarting", "wasClean": True}


async def test_aborted(browser: Browser, nursery: trio.Nursery) -> None:
    async def abort(ws: trio_ws.WebSocket) -> None:
        await ws.send("last words")
        await ws.receive()
        ws.abort()

    site = await open_site(nursery, abort)
    async with visit(browser, site.url) as page:
        events = await page.evaluate("""
            connect('/').then(async (ws) => {
                const message = await ws.message();
                ws.ws.send("now");
                return [message, await ws.next()];
            })""")
        # The page gets no error event, because the connection was open.
        assert events == ["last words", {"type": "close", "code": 1006, "reason": "", "wasClean": False}]


async def test_messages_before_a_close_are_received(browser: Browser, nursery: trio.Nursery) -> None:
    async def send(ws: trio_ws.WebSocket) -> None:
        for number in range(1000):
            await ws.send(str(number))
        await ws.aclose(4000)

    site = await open_site(nursery, send)
    async with visit(browser, site.url) as page:
        count, code = await page.evaluate("""
            connect('/').then(async (ws) => {
                let event, count = 0;
                while ((event = await ws.next()).type === "message" && event.data === `${count}`) {
                    count++;
                }
                return [count, event.code];
            })""")
        assert (count, code) == (1000, 4000)


async def test_messages_that_a_page_sends_before_it_closes_are_received(
    browser: Browser, nursery: trio.Nursery
) -> None:
    received = []

    async def collect(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            received.append(message)

    site = await open_site(nursery, collect)
    async with visit(browser, site.url) as page:
        await page.evaluate("""
            connect('/').then((ws) => {
                for (let i = 0; i < 1000; i++) {
                    ws.ws.send(`${i}`);
                }
                ws.ws.close(1000);
                return ws.next();
            })""")
        await site.record.closed.receive()
        assert received == [str(number) for number in range(1000)]


async def test_a_message_that_is_too_big(browser: Browser, nursery: trio.Nursery) -> None:
    site = await open_site(nursery, max_message_size=1000)
    async with visit(browser, site.url) as page:
        event = await page.evaluate("connect('/').then((ws) => { ws.ws.send('a'.repeat(1001)); return ws.next(); })")
        assert (event["type"], event["code"], event["wasClean"]) == ("close", 1009, True)
        assert isinstance((await site.record.closed.receive()).error.__cause__, trio_ws.MessageTooBig)


@pytest.mark.parametrize(
    "frame, code",
    [
        (Frame(Opcode.TEXT, b"\xff"), 1002),
        (Frame(Opcode.CONT, b"a"), 1002),
        (Frame(Opcode.TEXT, b"a", rsv2=True), 1002),
        (b"\x83\x00", 1002),
        (b"\x81\x80abcd", 1002),
    ],
    ids=["UTF-8", "continuation", "reserved bit", "opcode", "masked"],
)
async def test_the_browser_refuses_what_the_server_must_not_send(
    frame: Frame | bytes, code: int, browser: Browser, nursery: trio.Nursery
) -> None:
    """The peer of the browser is a script here: this documents what servers see of a browser that fails."""
    from trio_ws.testing import ScriptedPeer

    site = await open_site(nursery)
    closed = trio.Event()
    frames = []

    async def misbehave(stream: trio.SocketStream) -> None:
        peer = ScriptedPeer(stream)
        await peer.handshake()
        await peer.send(frame)
        frames.append(await peer.receive())
        await peer.aclose()
        closed.set()

    listeners = await nursery.start(trio.serve_tcp, misbehave, 0)
    port = listeners[0].socket.getsockname()[1]
    async with visit(browser, site.url) as page:
        events = await page.evaluate(f"""
            connect('ws://127.0.0.1:{port}/').then(async (ws) => [(await ws.next()).type, await ws.next()])""")
        assert events == ["error", {"type": "close", "code": 1006, "reason": "", "wasClean": False}]
        await closed.wait()
    (received,) = frames
    assert received is not None
    assert received.opcode is Opcode.CLOSE
    assert trio_ws.Close.parse(received.data).code == code
