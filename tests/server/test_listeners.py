"""Listeners for TCP ports, Unix sockets and systemd sockets."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ws
from trio_ws.server.listeners import open_tcp_listeners, open_unix_listener

from ..support import echo

ROOT = Path(__file__).parent.parent.parent

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


# -- Several processes on one port -----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system has has no SO_REUSEPORT")
class TestReusePort:
    async def test_two_servers_on_one_port(self, nursery: trio.Nursery) -> None:
        serve = partial(trio_ws.serve, echo, host="127.0.0.1", reuse_port=True)
        first: trio_ws.Server = await nursery.start(partial(serve, 0))
        second: trio_ws.Server = await nursery.start(partial(serve, first.port))
        assert first.port == second.port
        with pytest.raises(OSError) as caught:
            await trio_ws.serve(echo, first.port, host="127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE
        # Either server may get the connection. When one has ended, the other gets it.
        for server in (first, second):
            async with trio_ws.connect(f"ws://127.0.0.1:{first.port}") as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
            await server.aclose()

    async def test_every_address_of_a_host(self) -> None:
        listeners = await open_tcp_listeners(0, host=None, backlog=5, reuse_port=True)
        families = [listener.socket.family for listener in listeners]
        for listener in listeners:
            assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            await listener.aclose()
        assert socket.AF_INET in families
        assert len(families) == len(set(families))

    async def test_an_address_that_cannot_be_bound(self) -> None:
        with pytest.raises(OSError):
            await open_tcp_listeners(0, host="203.0.113.1", backlog=None, reuse_port=True)


async def test_a_system_without_so_reuseport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(OSError, match="has no SO_REUSEPORT"):
        await trio_ws.serve(echo, 0, host="127.0.0.1", reuse_port=True)


async def test_reuse_port_without_a_port() -> None:
    with pytest.raises(TypeError, match="reuse_port must be given together with port"):
        await trio_ws.serve(echo, path="app.sock", reuse_port=True)


class UnknownHosts(trio.abc.HostnameResolver):
    """A resolver that finds no host, without asking the network."""

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


async def test_errors_name_the_host_and_the_port(nursery: trio.Nursery) -> None:
    server: trio_ws.Server = await nursery.start(partial(trio_ws.serve, echo, 0, host="127.0.0.1"))
    trio.socket.set_custom_hostname_resolver(UnknownHosts())
    for reuse_port in (False, True) if hasattr(socket, "SO_REUSEPORT") else (False,):
        serve = partial(trio_ws.serve, echo, reuse_port=reuse_port)
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{server.port}: \w") as taken:
            await serve(server.port, host="127.0.0.1")
        assert taken.value.errno == errno.EADDRINUSE
        with pytest.raises(socket.gaierror, match=r"cannot listen on example\.org:80: Name or service") as unknown:
            await serve(80, host="example.org")
        assert unknown.value.errno == socket.EAI_NONAME
        with pytest.raises(ValueError, match=r"host must be a host name or an address, not 'two\.\.dots'"):
            await serve(80, host="two..dots")


async def test_errors_name_all_kinds_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(port: int, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(trio, "open_tcp_listeners", fail)
    for host, address in [(None, "port 80"), ("example.org", "example.org:80"), ("::1", "[::1]:80")]:
        with pytest.raises(PermissionError) as caught:
            await trio_ws.serve(echo, 80, host=host)
        assert caught.value.errno == errno.EACCES
        assert caught.value.strerror == f"cannot listen on {address}: Permission denied"


# -- Unix sockets ----------------------------------------------------------------------------------------------------


@unix_only
class TestUnix:
    async def test_the_file_of_a_killed_server_is_replaced(self, tmp_path: Path, nursery: trio.Nursery) -> None:
        path = tmp_path / "app.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        assert path.exists()
        server: trio_ws.Server = await nursery.start(partial(trio_ws.serve, echo, path=path))
        async with trio_ws.connect_unix(path) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
        await server.aclose()
        assert not path.exists()

    async def test_the_file_of_a_listening_server_is_kept(self, tmp_path: Path, nursery: trio.Nursery) -> None:
        path = tmp_path / "app.sock"
        await nursery.start(partial(trio_ws.serve, echo, path=path))
        with pytest.raises(OSError) as caught:
            await trio_ws.serve(echo, path=path)
        assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, str(path))
        async with trio_ws.connect_unix(path) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"

    async def test_the_file_of_a_server_with_a_full_backlog_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "app.sock"
        listener, _ = await open_unix_listener(path, backlog=1)
        clients = []
        for _ in range(10):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            clients.append(sock)
            try:
                sock.connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(OSError) as caught:
            await open_unix_listener(path, backlog=1)
        assert caught.value.errno == errno.EADDRINUSE
        for sock in clients:
            sock.close()
        await listener.aclose()

    @pytest.mark.parametrize("kind", ["file", "folder"])
    async def test_a_file_that_is_not_a_socket_is_kept(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / "app.sock"
        if kind == "file":
            path.write_text("mine")
        else:
            path.mkdir()
        with pytest.raises(OSError, match="a file that is not a socket") as caught:
            await trio_ws.serve(echo, path=path)
        assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, str(path))
        assert path.exists()

    async def test_a_path_that_cannot_be_used(self, tmp_path: Path) -> None:
        for path, number in [
            (tmp_path / "missing" / "app.sock", errno.ENOENT),
            (tmp_path / ("x" * 200), errno.ENAMETOOLONG),
        ]:
            with pytest.raises(OSError) as caught:
                await trio_ws.serve(echo, path=path)
            assert (caught.value.errno, caught.value.filename) == (number, str(path))
        for empty in ("", b""):
            with pytest.raises(ValueError, match="path must not be empty"):
                await trio_ws.serve(echo, path=empty)  # type: ignore[arg-type]  # bytes work, too

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    async def test_the_permissions_of_the_file(self, umask: int, tmp_path: Path, nursery: trio.Nursery) -> None:
        path = tmp_path / "app.sock"
        before = os.umask(umask)
        try:
            for mode in (None, 0o660, 0o600, 0o777, 0):
                server: trio_ws.Server = await nursery.start(partial(trio_ws.serve, echo, path=path, mode=mode))
                expected = 0o777 & ~umask if mode is None else mode
                assert stat.S_IMODE(path.stat().st_mode) == expected
                await server.aclose()
        finally:
            os.umask(before)

    async def test_the_permissions_are_never_wider(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "app.sock"
        seen: list[int] = []

        def chmod(name: str, mode: int) -> None:
            seen.append(stat.S_IMODE(os.stat(name).st_mode))
            with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
                sock.connect(name)  # it does not listen yet
            real_chmod(name, mode)

        real_chmod = os.chmod
        monkeypatch.setattr(os, "chmod", chmod)
        before = os.umask(0)
        try:
            listener, _ = await open_unix_listener(path, backlog=None, mode=0o640)
        finally:
            os.umask(before)
        await listener.aclose()
        if sys.platform == "linux":
            assert seen == [0o640]
        assert len(seen) == 1

    @pytest.mark.parametrize(
        "options, error",
        [
            ({"path": "app.sock", "mode": "660"}, TypeError),
            ({"path": "app.sock", "mode": True}, TypeError),
            ({"path": "app.sock", "mode": -1}, ValueError),
            ({"path": "app.sock", "mode": 0o1000}, ValueError),
            ({"path": "\0app", "mode": 0o660}, TypeError),
            ({"port": 0, "mode": 0o660}, TypeError),
        ],
    )
    async def test_a_mode_that_is_none(self, options: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error, match="mode must be"):
            await trio_ws.serve(echo, **options)

    @pytest.mark.skipif(sys.platform != "linux", reason="there are no abstract Unix sockets on this system")
    async def test_an_abstract_socket(self, nursery: trio.Nursery) -> None:
        path = f"\0trio-ws-test-{os.getpid()}"
        server: trio_ws.Server = await nursery.start(partial(trio_ws.serve, echo, path=path))
        assert server.addresses == [path.encode()]
        with pytest.raises(OSError) as caught:
            await trio_ws.serve(echo, path=path)
        assert caught.value.errno == errno.EADDRINUSE
        async with trio_ws.connect_unix(path) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
        await server.aclose()
        with pytest.raises(trio_ws.ConnectFailed, match="cannot connect to @trio-ws-test-"):
            async with trio_ws.connect_unix(path):
                pytest.fail("the connection was opened")

    async def test_a_system_without_abstract_sockets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(OSError, match="no abstract Unix sockets"):
            await open_unix_listener("\0app", backlog=None)


# -- systemd ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import trio, trio_ws

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    listeners = trio_ws.open_systemd_listeners()
    print(len(listeners), trio_ws.open_systemd_listeners(), flush=True)
    await trio_ws.serve(echo, listeners=listeners)

trio.run(main)
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


async def test_not_started_by_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert trio_ws.open_systemd_listeners() == []
    # The sockets are for the parent process.
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert trio_ws.open_systemd_listeners() == []
    assert "LISTEN_FDS" not in os.environ
    monkeypatch.setenv("LISTEN_FDS", "many")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert trio_ws.open_systemd_listeners() == []


async def test_sockets_from_systemd(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    number = os.dup(listening.fileno())
    monkeypatch.setattr("trio_ws.server.listeners._FIRST_FD", number)
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "app.socket")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    listeners = trio_ws.open_systemd_listeners()
    assert len(listeners) == 1
    assert "LISTEN_FDNAMES" not in os.environ
    assert not os.get_inheritable(number)
    server: trio_ws.Server = await nursery.start(partial(trio_ws.serve, echo, listeners=listeners))
    assert server.port == listening.getsockname()[1]
    async with trio_ws.connect(f"ws://127.0.0.1:{server.port}") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
    await server.aclose()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
async def test_a_socket_from_systemd_that_is_not_listening(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, kind) as sock:
        monkeypatch.setattr("trio_ws.server.listeners._FIRST_FD", sock.fileno())
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        with pytest.raises(OSError, match="must be a listening stream socket"):
            trio_ws.open_systemd_listeners()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no systemd there")
async def test_a_process_started_as_systemd_does_it(listening: socket.socket) -> None:
    # As systemd does: the socket is file descriptor 3, and environment variables describe it.
    code = (
        "import os, sys\n"
        f"os.dup2({listening.fileno()}, 3)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.set_inheritable(3, True)\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {PROGRAM!r}])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[listening.fileno()], env=environment
    )
    try:
        assert process.stdout is not None
        said = b""
        while b"\n" not in said:
            said += await process.stdout.receive_some()
        assert said == b"1 []\n"
        async with trio_ws.connect(f"ws://127.0.0.1:{listening.getsockname()[1]}") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


async def test_a_system_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    with pytest.raises(OSError, match="no Unix sockets"):
        await trio_ws.serve(echo, path="socket")
