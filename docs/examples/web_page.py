"""A server with a web page that connects to it: HTTP and WebSocket on one port.

Run it with ``python web_page.py`` and open http://localhost:8765/ in a browser. The
server echoes what you type. The user name and the password are in ``USERS``. The health
check, ``/healthz``, needs no password. Pages from other hosts may not connect. Ctrl-C
or SIGTERM closes the server.
"""

import signal
from functools import partial

import trio
import trio_ws

USERS = {"ann": "correct horse"}

PAGE = """<!doctype html>
<title>Echo</title>
<input autofocus> <pre></pre>
<script>
const ws = new WebSocket(`ws://${location.host}/`);
const [input, output] = ["input", "pre"].map((name) => document.querySelector(name));
input.onchange = () => { ws.send(input.value); input.value = ""; };
ws.onmessage = (event) => { output.textContent += event.data + "\\n"; };
ws.onclose = (event) => { output.textContent += `closed: ${event.code} ${event.reason}`; };
</script>
"""


def check_health(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    if request.path != "/healthz":
        return None
    assert opening.server is not None
    return opening.respond(200, f"{len(opening.server.connections)} connections\n")


def show_page(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
    if "Upgrade" in request.headers:
        return None
    if request.path != "/":
        return opening.respond(404, "there is only one page\n")
    return opening.respond(
        200, PAGE, {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"}
    )


async def echo(ws: trio_ws.ServerWebSocket) -> None:
    await ws.send(f"hello, {ws.opening.username}")
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    serve = partial(
        trio_ws.serve,
        echo,
        8765,
        host="localhost",
        process_request=[check_health, trio_ws.basic_auth(USERS, realm="echo"), show_page],
        limits=trio_ws.Limits(connections=1000, per_address=20, messages_per_second=50, idle=3600),
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            await anext(signals)
            await server.aclose(reason="the server ends", grace=5)


trio.run(main)
