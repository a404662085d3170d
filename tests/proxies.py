"""Proxies for tests: our own, and real ones.

Our own proxy implements HTTP CONNECT and SOCKS 4, 4a and 5 independently of the package, and records its requests. Real
proxies run in processes of their own, on free ports of the local host. Tests with a proxy that is not installed are
skipped.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import trio

from .ports import free_port

Stream = trio.abc.Stream
Dial: TypeAlias = Callable[[str, int], Awaitable[Stream]]

USERNAME, PASSWORD = "user", "secret"


# -- Our own proxy ---------------------------------------------------------------------------------------------------


@attrs.define
class Asked:
    """A request to a proxy.

    Attributes:
        protocol: The protocol.
        host: The name or the address of the server.
        port: The port of the server.
        username: The user name sent by the client.
        password: The password sent by the client.
        head: The whole request, for HTTP.
    """

    protocol: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None
    head: bytes = b""


@attrs.define
class Proxy:
    """A proxy.

    Attributes:
        credentials: The required user name and password; None for none.
        dial: The function that connects to a server.
        asked: The requests to the proxy.
        carried: All bytes that clients have sent through the proxy.
        talking: The number of connected clients.
    """

    credentials: tuple[str, str] | None = None
    dial: Dial = trio.open_tcp_stream
    asked: list[Asked] = attrs.field(factory=list)
    carried: bytearray = attrs.field(factory=bytearray)
    talking: int = 0

    async def serve(self, stream: Stream) -> None:
        """Serve one client."""
        self.talking += 1
        try:
            async with stream:
                first = await _read(stream, 1)
                serve = {b"\x04": self._serve_socks4, b"\x05": self._serve_socks5}.get(first, self._serve_http)
                await serve(stream, first)
        except (EOFError, trio.BrokenResourceError):
            pass
        finally:
            self.talking -= 1

    async def _serve_http(self, stream: Stream, head: bytes) -> None:
        while not head.endswith(b"\r\n\r\n"):
            head += await _read(stream, 1)
        lines = head.decode().split("\r\n")
        method, target, version = lines[0].split(" ")
        headers = dict(line.split(": ") for line in lines[1:-2])
        assert (method, version, headers["Host"]) == ("CONNECT", "HTTP/1.1", target)
        host, _, port = target.rpartition(":")
        asked = Asked("http", host.strip("[]"), int(port), head=head)
        if "Proxy-Authorization" in headers:
            kind, _, credentials = headers["Proxy-Authorization"].partition(" ")
            assert kind == "Basic"
            asked.username, _, asked.password = base64.b64decode(credentials).decode().partition(":")
        self.asked.append(asked)
        if not self._admits(asked):
            await stream.send_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="test"\r\nContent-Length: 11\r\n\r\nwho are you'
            )
            return
        try:
            server = await self.dial(asked.host, asked.port)
        except OSError:
            await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._relay(stream, server)

    async def _serve_socks4(self, stream: Stream, _first: bytes) -> None:
        head = await _read(stream, 7)
        assert head[0] == 1
        port = int.from_bytes(head[1:3], "big")
        username = (await _read_string(stream)) or None
        if head[3:6] == b"\0\0\0" and head[6]:
            asked = Asked("socks4a", await _read_string(stream), port, username)
        else:
            asked = Asked("socks4", socket.inet_ntoa(head[3:]), port, username)
        self.asked.append(asked)
        if not self._admits(asked):
            await stream.send_all(b"\x00\x5d" + bytes(6))
            return
        try:
            server = await self.dial(asked.host, asked.port)
        except OSError:
            await stream.send_all(b"\x00\x5b" + bytes(6))
            return
        await stream.send_all(b"\x00\x5a" + bytes(6))
        await self._relay(stream, server)

    async def _serve_socks5(self, stream: Stream, _first: bytes) -> None:
        asked = Asked("socks5", "", 0)
        methods = await _read(stream, (await _read(stream, 1))[0])
        if 2 in methods:
            await stream.send_all(b"\x05\x02")
            assert await _read(stream, 1) == b"\x01"
            asked.username = (await _read(stream, (await _read(stream, 1))[0])).decode()
            asked.password = (await _read(stream, (await _read(stream, 1))[0])).decode()
            if not self._admits(asked):
                await stream.send_all(b"\x01\x01")
                return
            await stream.send_all(b"\x01\x00")
        elif self.credentials is None:
            await stream.send_all(b"\x05\x00")
        else:
            await stream.send_all(b"\x05\xff")
            return
        version, command, _, kind = await _read(stream, 4)
        assert (version, command) == (5, 1)
        if kind == 3:
            asked.protocol = "socks5h"
            asked.host = (await _read(stream, (await _read(stream, 1))[0])).decode()
        else:
            asked.host = str(ipaddress.ip_address(await _read(stream, {1: 4, 4: 16}[kind])))
        asked.port = int.from_bytes(await _read(stream, 2), "big")
        self.asked.append(asked)
        try:
            server = await self.dial(asked.host, asked.port)
        except OSError:
            await stream.send_all(b"\x05\x05\x00\x01" + bytes(6))
            return
        await stream.send_all(b"\x05\x00\x00\x01" + bytes(6))
        await self._relay(stream, server)

    def _admits(self, asked: Asked) -> bool:
        if self.credentials is None:
            return True
        if asked.protocol.startswith("socks4"):  # SOCKS 4 has no passwords
            return asked.username == self.credentials[0]
        return (asked.username, asked.password) == self.credentials

    async def _relay(self, client: Stream, server: Stream) -> None:
        async with server, trio.open_nursery() as nursery:

            async def copy(source: Stream, target: Stream) -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for data in source:
                        if source is client:
                            self.carried += data
                        await target.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, client, server)
            nursery.start_soon(copy, server, client)


async def _read(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


async def _read_string(stream: Stream) -> str:
    data = b""
    while not data.endswith(b"\0"):
        data += await _read(stream, 1)
    return data[:-1].decode()


async def start_proxy(nursery: trio.Nursery, proxy: Proxy, wrap: Callable[[Stream], Stream] | None = None) -> int:
    """Start a proxy on the local host, and return its port.

    Args:
        nursery: The nursery in which the proxy runs.
        proxy: The proxy.
        wrap: A function that wraps the stream of each client, for example in TLS.
    """

    async def serve(stream: trio.SocketStream) -> None:
        await proxy.serve(stream if wrap is None else wrap(stream))

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return int(listeners[0].socket.getsockname()[1])


# -- Real proxies ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def process(command: list[str], **options: Any) -> AsyncIterator[trio.Process]:
    """Run a process within a block. Its ``stdout`` also has its errors."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    assert process.stdout is not None
    try:
        async with process.stdout:
            yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def read_until(stream: trio.abc.ReceiveStream, what: bytes) -> bytes:
    """Return the output of a process up to that point."""
    said = b""
    while what not in said:
        data = await stream.receive_some()
        if not data:
            raise EOFError(said)
        said += data
    return said


#: A program that runs pproxy on any free port and prints the port. The command line of pproxy cannot do that.
PPROXY = """
import asyncio, sys, pproxy

async def main():
    server = pproxy.Server(sys.argv[1])
    if sys.argv[2:]:
        for context in filter(None, [server.sslserver]):
            context.load_cert_chain(*sys.argv[2:])
    handler = await server.start_server({"rserver": [pproxy.DIRECT], "verbose": print})
    print("port", handler.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def pproxy(scheme: str, *, credentials: bool = False, certificate: Path | None = None) -> AsyncIterator[int]:
    """Run pproxy within a block, and yield its port.

    Args:
        scheme: The protocol: ``http``, ``socks4`` or ``socks5``, with ``+ssl`` inside TLS.
        credentials: Whether the proxy requires credentials.
        certificate: A file with a certificate and its key.
    """
    if importlib.util.find_spec("pproxy") is None:
        pytest.skip("pproxy is not installed")
    fragment = f"#{USERNAME}:{PASSWORD}" if credentials else ""
    command = [
        sys.executable,
        "-Wignore",  # its source code has invalid escape sequences
        "-c",
        PPROXY,
        f"{scheme}://127.0.0.1:0/{fragment}",
        *map(str, filter(None, [certificate])),
    ]
    async with process(command) as running:
        assert running.stdout is not None
        said = await read_until(running.stdout, b"\n")
        yield int(said.split()[-1])


@contextlib.asynccontextmanager
async def tinyproxy(folder: Path, *, credentials: bool = False) -> AsyncIterator[int]:
    """Run tinyproxy within a block, and yield its port."""
    program = shutil.which("tinyproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("tinyproxy is not installed")
    while True:
        port = free_port()
        lines = [f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "MaxClients 10", "LogLevel Info"]
        if credentials:
            lines.append(f"BasicAuth {USERNAME} {PASSWORD}")
        configuration = folder / "tinyproxy.conf"
        configuration.write_text("\n".join([*lines, ""]))
        async with process([program, "-d", "-c", str(configuration)]) as running:
            assert running.stdout is not None
            try:
                await read_until(running.stdout, b"Accepting connections")
            except EOFError as exc:
                if b"in use" not in exc.args[0]:
                    raise
                continue  # another process has taken the port
            yield port
            return


@contextlib.asynccontextmanager
async def microsocks(*, credentials: bool = False) -> AsyncIterator[int]:
    """Run microsocks within a block, and yield its port."""
    program = shutil.which("microsocks")
    if program is None:
        pytest.skip("microsocks is not installed")
    options = ["-u", USERNAME, "-P", PASSWORD] if credentials else []
    while True:
        port = free_port()
        async with process([program, "-i", "127.0.0.1", "-p", str(port), *options]) as running:
            # It prints nothing before the first client.
            while running.poll() is None:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    continue
                await stream.aclose()
                yield port
                return
