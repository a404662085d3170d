"""The migration guide: it names everything public of the other libraries, and its programs do the same as before."""

from __future__ import annotations

import builtins
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import aiohttp
import pytest
import trio
import trio.testing
import trio_websocket
import websockets

import trio_ws

from .test_documentation import ENVIRONMENT, EXAMPLES

PAGE = (EXAMPLES.parent / "howto" / "migrating.rst").read_text(encoding="utf-8")

WEBSOCKETS_METHODS = [
    *("close", "aclose", "close_code", "close_reason", "id", "latency", "local_address", "logger", "ping", "pong"),
    *("protocol", "recv", "recv_streaming", "remote_address", "request", "respond", "response", "send", "state"),
    *("subprotocol", "transport", "username", "wait_closed"),
]


def parameters(*functions: Any) -> set[str]:
    """Return the names of the parameters of functions or classes."""
    return {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "task_status") and parameter.kind is not parameter.VAR_KEYWORD
    }


def members(*classes: type) -> set[str]:
    return {name for cls in classes for name in dir(cls) if not name.startswith("_")}


def section(title: str) -> str:
    """Return a section of the guide."""
    return PAGE[PAGE.index(f"\n{title}\n---") :].partition("\nBefore")[0]


def missing(title: str, names: Iterable[str]) -> set[str]:
    """Return the names that are not in the section as code."""
    code = " ".join(re.findall("``(.+?)``", section(title)))
    return {name for name in names if not re.search(rf"\b{name}\b", code)}


def skip_unless(package: str, version: str) -> None:
    """Skip the test if the guide was written for another version. The guide says which."""
    assert f"{package} {version}" in PAGE
    installed = importlib.metadata.version(package)
    if not f"{installed}.".startswith(f"{version}."):
        pytest.skip(f"the guide is about {package} {version}, not {installed}")


def test_names_of_trio_websocket() -> None:
    skip_unless("trio-websocket", "0.12")
    names = {name for name in vars(trio_websocket) if name[0].isupper() or name.startswith(("open", "connect", "wrap"))}
    names |= members(
        trio_websocket.WebSocketConnection, trio_websocket.WebSocketRequest, trio_websocket.WebSocketServer
    )
    names |= parameters(
        trio_websocket.open_websocket,
        trio_websocket.open_websocket_url,
        trio_websocket.connect_websocket_url,
        trio_websocket.wrap_client_stream,
        trio_websocket.serve_websocket,
        trio_websocket.wrap_server_stream,
    )
    assert len(names) > 50
    assert missing("From trio-websocket", names) == set()


def test_names_of_websockets() -> None:
    skip_unless("websockets", "17")
    names = {*websockets.__all__, *WEBSOCKETS_METHODS}
    for package in ("websockets.asyncio", "websockets.trio"):
        client, server = (importlib.import_module(f"{package}.{module}") for module in ("client", "server"))
        names |= parameters(client.connect, server.serve) | members(server.Server)
    assert len(names) > 120
    assert missing("From websockets", names) == set()


def test_names_of_aiohttp() -> None:
    skip_unless("aiohttp", "3.14")
    names = members(aiohttp.ClientWebSocketResponse) | parameters(aiohttp.ClientSession.ws_connect)
    names |= {name for name in vars(aiohttp) if name.startswith("WS") or "WebSocket" in name or "WSTimeout" in name}
    names |= set(aiohttp.WSMsgType.__members__) - {
        "close",
        "closing",
        "closed",
        "error",
        "text",
        "binary",
        "ping",
        "pong",
    }
    assert len(names) > 50
    assert missing("From aiohttp's client", names) == set()


def test_the_new_names_exist() -> None:
    for cell in re.findall(r"^     - (.*``.*)$", PAGE, re.MULTILINE):
        for name in re.findall(r"``([A-Z]\w+)``", cell):
            assert any(
                hasattr(module, name) for module in (trio_ws, trio_ws.protocol, trio_ws.datastructures, builtins)
            ), name


@pytest.mark.parametrize(
    "programs",
    [
        ("before_trio_websocket.py", "after_trio_websocket.py"),
        ("before_websockets.py", "after_websockets.py"),
    ],
    ids=["trio-websocket", "websockets"],
)
def test_programs_print_the_same(programs: tuple[str, str]) -> None:
    before, after = map(run, programs)
    assert before == after
    assert before.count("\n") >= 4


async def test_clients_print_the_same(nursery: trio.Nursery) -> None:
    def check(opening: trio_ws.Opening, request: trio_ws.Request) -> trio_ws.Response | None:
        return None if request.path == "/feed" else opening.respond(404)

    async def handle(ws: trio_ws.ServerWebSocket) -> None:
        assert ws.request.headers["Authorization"] == "Bearer secret"
        assert json.loads(await ws.receive()) == {"subscribe": "prices"}
        await ws.send('{"subscribed": true}')
        await ws.send('{"price": 1}')
        await ws.aclose(code)

    server = await nursery.start(
        partial(trio_ws.serve, handle, 0, host="127.0.0.1", process_request=check, subprotocols=["json"])
    )
    for code in (1000, 4000):
        outputs = [
            await trio.to_thread.run_sync(run, program, f"ws://127.0.0.1:{server.port}")
            for program in ("before_aiohttp.py", "after_aiohttp.py")
        ]
        assert outputs[0] == outputs[1]
        assert outputs[0].splitlines()[-2:] == ["{'price': 1}", f"closed: {code}"]


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- Differences -----------------------------------------------------------------------------------------------------


# In processes of their own, because trio-websocket leaves sockets open.

FAILING_HANDLER = """
import trio, trio_websocket

async def fail(request):
    await request.accept()
    raise ValueError("the handler failed")

async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, fail, "127.0.0.1", 0, None)
        async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{server.port}"):
            await trio.sleep_forever()

trio.run(main)
"""

UNREAD_MESSAGES = """
import trio, trio.testing, trio_websocket

async def talk(request):
    ws = await request.accept()
    await ws.send_message("unread")
    if request.path == "/leave":
        await ws.aclose(4000)
    await trio.sleep_forever()

async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, talk, "127.0.0.1", 0, None)
        for path in ("leave", "stay"):
            async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{server.port}/{path}") as ws:
                await trio.testing.wait_all_tasks_blocked(0.01)  # the message has arrived
                if path == "stay":
                    await ws.aclose()
                try:
                    print(path, await ws.get_message())
                except trio_websocket.ConnectionClosed:
                    print(path, "closed")
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def run_source(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)


def test_trio_websocket_with_a_failing_handler() -> None:
    done = run_source(FAILING_HANDLER)
    assert done.returncode == 1
    assert "ValueError: the handler failed" in done.stderr


def test_trio_websocket_with_unread_messages() -> None:
    assert run_source(UNREAD_MESSAGES).stdout == "leave unread\nstay closed\n"


async def test_websockets_after_a_local_close() -> None:
    websockets_client = pytest.importorskip("websockets.trio.client")
    websockets_server = pytest.importorskip("websockets.trio.server")

    async def talk(ws: Any) -> None:
        await ws.send("one")
        await ws.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(websockets_server.serve, talk, 0, host="127.0.0.1"))
        port = server.listeners[0].socket.getsockname()[1]
        async with websockets_client.connect(f"ws://127.0.0.1:{port}") as ws:
            await trio.testing.wait_all_tasks_blocked(0.01)  # the message has arrived
            await ws.aclose()
            assert await ws.recv() == "one"
            with pytest.raises(websockets.ConnectionClosedOK):
                await ws.recv()
        nursery.cancel_scope.cancel()


async def test_trio_ws_after_a_local_close() -> None:
    async def talk(ws: trio_ws.WebSocket) -> None:
        await ws.send("one")
        await ws.wait_closed()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trio_ws.serve, talk, 0, host="127.0.0.1"))
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}") as ws:
            await ws.ping()
            await ws.aclose()
            with pytest.raises(trio_ws.ConnectionClosedLocally):
                await ws.receive()
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}") as ws:
            await ws.ping()
            await ws.send_close()
            assert [message async for message in ws] == ["one"]
        nursery.cancel_scope.cancel()
