"""The examples of topics across processes, with a real Redis: the chat on several processes, and behind nginx."""

from __future__ import annotations

import importlib
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ws

from ..ports import free_port
from ..support import HANGS
from .redis_server import REDIS_SERVER, RedisServer

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "docs" / "examples"

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server: apt install redis-server")


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[trio.Process]:
    """Run a program until the end of the block. It must end on SIGTERM."""
    process = await trio.lowlevel.open_process([*command])
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(HANGS):
            await process.wait()
    finally:
        process.kill()
        await process.wait()


async def connect(nursery: trio.Nursery, uri: str) -> trio_ws.WebSocket:
    """Connect to a server that is starting."""
    with trio.fail_after(HANGS):
        while True:
            try:
                return await trio_ws.connect_in(nursery, uri, compression=None)
            except (trio_ws.ConnectFailed, trio_ws.InvalidStatus):
                await trio.sleep(0.1)


async def hear(listener: trio_ws.WebSocket, speaker: trio_ws.WebSocket, name: str, text: str) -> None:
    """Let a client say something until another one hears it: the other's server may not know of the room yet."""

    async def speak() -> None:
        while True:
            await speaker.send(text)
            await trio.sleep(0.1)

    with trio.fail_after(HANGS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            while await listener.receive() != f"{name}: {text}":
                pass
            nursery.cancel_scope.cancel()


async def talk(connect_to: Callable[[str], Awaitable[trio_ws.WebSocket]], count: int) -> None:
    """Let clients come into a room, and talk to each other."""
    clients = [await connect_to(f"/chat/trio/client{number}") for number in range(count)]
    for number, ws in enumerate(clients):
        other = 0 if number else count - 1
        await hear(ws, clients[other], f"client{other}", f"hello {number}")


async def test_two_servers(server: RedisServer) -> None:
    ports = [free_port(), free_port()]
    command = [sys.executable, str(EXAMPLES / "chat_server.py"), "--redis", server.url, "--port"]
    async with (
        running(*command, str(ports[0])),
        running(*command, str(ports[1])),
        trio.open_nursery() as nursery,
    ):
        ann = await connect(nursery, f"ws://localhost:{ports[0]}/chat/trio/ann")
        bob = await connect(nursery, f"ws://localhost:{ports[1]}/chat/trio/bob")
        await hear(ann, bob, "bob", "hello")
        await hear(bob, ann, "ann", "hello yourself")
        nursery.cancel_scope.cancel()


async def test_all_cores(server: RedisServer) -> None:
    port = free_port()
    command = [sys.executable, str(EXAMPLES / "all_cores.py"), server.url, "--port", str(port), "--host", "127.0.0.1"]
    async with running(*command), trio.open_nursery() as nursery:
        await talk(lambda path: connect(nursery, f"ws://127.0.0.1:{port}{path}"), 8)
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
async def test_compose(server: RedisServer, tmp_path: Path) -> None:
    """Start the services of the compose file without Docker, with the names and ports of this machine."""
    yaml: Any = importlib.import_module("yaml")  # an import statement would need its types
    compose = yaml.safe_load((EXAMPLES / "chat-compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert set(services) == {"redis", "chat-1", "chat-2", "nginx"}
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (EXAMPLES / source).exists() if source.startswith("./") else source in compose["volumes"]
        assert set(service.get("depends_on", [])) <= set(services)
    assert services["redis"]["command"] == ["redis-server", "--appendonly", "yes"]
    ports = {"chat-1": free_port(), "chat-2": free_port(), "nginx": free_port()}
    configuration = (EXAMPLES / "chat-nginx.conf").read_text(encoding="utf-8")
    for name in ("chat-1", "chat-2"):
        assert f"server {name}:8765;" in configuration
        configuration = configuration.replace(f"{name}:8765", f"127.0.0.1:{ports[name]}")
    configuration = configuration.replace("listen 80;", f"listen 127.0.0.1:{ports['nginx']};")
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = configuration.replace("http {", f"http {{\naccess_log off;\n{paths}")
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/nginx.pid;\ndaemon off;\nerror_log stderr;\n{configuration}")
    async with AsyncExitStack() as stack:
        for name in ("chat-1", "chat-2"):
            _, _, program = services[name]["command"][2].partition(" exec python ")
            arguments = shlex.split(program.replace("redis://redis:6379", server.url))
            arguments[0] = str(EXAMPLES / arguments[0])
            await stack.enter_async_context(running(sys.executable, *arguments, "--port", str(ports[name])))
        await stack.enter_async_context(running("nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")))
        nursery = await stack.enter_async_context(trio.open_nursery())
        # nginx must not consider a server failed that has not started yet.
        for name in ("chat-1", "chat-2"):
            await connect(nursery, f"ws://127.0.0.1:{ports[name]}/rooms")
        await talk(lambda path: connect(nursery, f"ws://127.0.0.1:{ports['nginx']}{path}"), 4)
        nursery.cancel_scope.cancel()
