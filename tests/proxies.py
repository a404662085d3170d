"""Proxies for tests: one of our own, and real ones.

Ours does what HTTP (CONNECT) and SOCKS 4, 4a and 5 say, and keeps a record of what it was asked. It knows nothing of
the package. Those of others are started as processes of their own, on any free port of the local host; where one is not
installed, the test that wants it is skipped.
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

Stream = trio.abc.Stream
Dial: TypeAlias = Callable[[str, int], Awaitable[Stream]]

USERNAME, PASSWORD = "user", "secret"


# -- Ours ------------------------------------------------------------------------------------------------------------


@attrs.define
class Asked:
    """What a proxy was asked for.

    Attributes:
        protocol: The protocol.
        host: The server: its name, or its address.
        port: Its port.
        username: What came with it.
        password: What came with it.
        head: All of a request in HTTP.
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
        credentials: Who may use it; None for everybody.
        dial: How to reach a server.
        asked: What it was asked for.
        carried: All that clients have sent through it.
        talking: How many clients there are.
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
        if asked.protocol.startswith("socks4"):  # has no passwords
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
    """Let a proxy listen on the local host, and return the port.

    Args:
        nursery: Where it runs.
        proxy: The proxy.
        wrap: What to make of the stream of each client, such as one with TLS.
    """

    async def serve(stream: trio.SocketStream) -> None:
        await proxy.serve(stream if wrap is None else wrap(stream))

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return int(listeners[0].socket.getsockname()[1])


# -- Those of others -------------------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def process(command: list[str], **options: Any) -> AsyncIterator[trio.Process]:
    """Run a process for as long as a block. What it has to say is in its ``stdout``."""
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
    """Return what a process has said until then."""
    said = b""
    while what not in said:
        data = await stream.receive_some()
        if not data:
            raise EOFError(said)
        said += data
    return said


#: Lets pproxy listen on any free port, and says which. Its command line does not.
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
    """Run pproxy for as long as a block; yield its port.

    Args:
        scheme: The protocol: ``http``, ``socks4`` or ``socks5``, with ``+ssl`` inside TLS.
        credentials: Whether it wants them.
        certificate: A file with a certificate, and the key.
    """
    if importlib.util.find_spec("pproxy") is None:
        pytest.skip("pproxy is not installed")
    fragment = f"#{USERNAME}:{PASSWORD}" if credentials else ""
    command = [
        sys.executable,
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
    """Run tinyproxy for as long as a block; yield its port."""
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
                continue  # somebody else has the port by now
            yield port
            return


@contextlib.asynccontextmanager
async def microsocks(*, credentials: bool = False) -> AsyncIterator[int]:
    """Run microsocks for as long as a block; yield its port."""
    program = shutil.which("microsocks")
    if program is None:
        pytest.skip("microsocks is not installed")
    options = ["-u", USERNAME, "-P", PASSWORD] if credentials else []
    while True:
        port = free_port()
        async with process([program, "-i", "127.0.0.1", "-p", str(port), *options]) as running:
            # It says nothing until it has a client.
            while running.poll() is None:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    continue
                await stream.aclose()
                yield port
                return
