"""``trio-ws serve --static``, ``--broadcast``, ``--unix`` and ``--metrics``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import trio

import trio_ws
from trio_ws.cli import static
from trio_ws.cli.failure import Failure

from ..support import HANGS
from .commands import HOST, Command
from .test_serve import serve_command


async def get(port: int, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Return the status, the headers and the body of a response."""
    async with await trio.open_tcp_stream(HOST, port) as stream:
        await stream.send_all(
            f"{method} {target} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        response = b""
        async for data in stream:
            response += data
    head, _, body = response.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return int(status.split()[1]), {line.split(": ")[0]: line.split(": ", 1)[1] for line in headers}, body


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>page</h1>")
    (folder / "sub" / "index.html").write_text("sub")
    (folder / "sub" / "a b.js").write_text("1")
    (folder / "data").write_bytes(b"\x00\xff")
    (folder / ".hidden").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    return folder


async def test_static(folder: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_command(nursery, monkeypatch, "--static", str(folder)) as server:
        for target, kind, content in [
            ("/", "text/html; charset=utf-8", b"<h1>page</h1>"),
            ("/index.html?query", "text/html; charset=utf-8", b"<h1>page</h1>"),
            ("/sub/", "text/html; charset=utf-8", b"sub"),
            ("/sub/a%20b.js", "text/javascript; charset=utf-8", b"1"),
            ("/data", "application/octet-stream", b"\x00\xff"),
        ]:
            status, headers, body = await get(server.port, target)
            assert (status, headers["Content-Type"], body) == (200, kind, content)
            assert headers["X-Content-Type-Options"] == "nosniff"
        status, headers, body = await get(server.port, "/", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "13", b"")
        assert (await get(server.port, "/sub"))[:2][0] == 301
        assert (await get(server.port, "/sub"))[1]["Location"] == "/sub/"
        assert (await get(server.port, "/", "DELETE"))[0] == 405
        # The same port serves WebSocket, also to a page from there.
        async with trio_ws.connect(f"ws://{HOST}:{server.port}/", origin=f"http://{HOST}:{server.port}") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"


async def test_nothing_outside_the_folder(folder: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(OSError, NotImplementedError):
        (folder / "link").symlink_to(folder.parent / "secret.txt")
        (folder / "circle").symlink_to("circle")
        (folder / "up").symlink_to("..")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "fifo")
    targets = [
        *("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/sub/../../secret.txt", "/sub/..", "/..", "/."),
        *("/..\\secret.txt", "/..%5csecret.txt", "/link", "/up/secret.txt", "/circle", "/.hidden", "/.git/config"),
        *("//secret.txt", "//etc/passwd", "/%2fetc/passwd", "/C:/secret.txt", "/data%00", "/%ff", "/fifo", "/missing"),
        *("/data/", "/sub/missing/", f"/{'x' * 300}", f"/%2F{folder.parent}/secret.txt"),
    ]
    async with serve_command(nursery, monkeypatch, "--static", str(folder)) as server:
        for target in targets:
            with trio.fail_after(HANGS):
                status, _, body = await get(server.port, target)
            assert (status, body) == (404, b"not found\n"), target


async def test_large_files(folder: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "MAX_SIZE", 1)
    async with serve_command(nursery, monkeypatch, "--static", str(folder)) as server:
        assert (await get(server.port, "/data"))[0] == 403
        assert (await get(server.port, "/sub/a%20b.js"))[0] == 200


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Failure):
        static.serve_folder(str(tmp_path / "missing"))


async def test_broadcast(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_command(nursery, monkeypatch, "--broadcast") as server:
        uri = f"ws://{HOST}:{server.port}/"
        async with trio_ws.connect(uri) as one, trio_ws.connect(uri) as two, trio_ws.connect(uri) as three:
            for ws in (one, two, three):
                await ws.ping()  # The handlers have begun.
            await one.send("hello")
            assert await two.receive() == "hello"
            assert await three.receive() == "hello"
            await two.send(b"hi")
            assert await one.receive() == b"hi"  # And not "hello" before.
            assert await three.receive() == b"hi"


async def test_metrics(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_command(nursery, monkeypatch, "--metrics") as server:
        async with trio_ws.connect(f"ws://{HOST}:{server.port}/") as ws:
            await ws.ping()
            assert b'trio_ws_open_connections{role="server"} 1.0' in (await get(server.port, "/metrics"))[2]


async def test_limits(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_command(nursery, monkeypatch, "--max-size", "1K", "--no-compression") as server:
        async with trio_ws.connect(f"ws://{HOST}:{server.port}/") as ws:
            assert "Sec-WebSocket-Extensions" not in ws.response.headers
            await ws.send("x" * 1025)
            with pytest.raises(trio_ws.ConnectionClosedError) as caught:
                await ws.receive()
            assert caught.value.code == 1009


@pytest.mark.skipif(os.name == "nt", reason="there are no Unix sockets")
async def test_serve_unix(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "socket"
    async with serve_command(nursery, monkeypatch, "--unix", str(path)) as server:
        assert server.output.getvalue() == f"listening on ws+unix:{path} (Ctrl-C stops)\n"
        async with trio_ws.connect(f"ws+unix:{path}") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
    assert not path.exists()


def test_serve_unix_in_a_missing_folder(command: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "socket")
    result = command("serve", "--unix", path)
    assert result.is_failure, result
    assert path in result.err
    for more in (["--port", "5"], ["--port", "8765"], ["--host", HOST]):
        result = command("serve", "--unix", path, *more)
        assert result.is_wrong_usage, result
