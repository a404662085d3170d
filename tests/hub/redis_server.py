"""Redis servers for tests: start, stop, kill, and replace them. They listen on loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import trio

from ..ports import free_port
from ..support import HANGS

#: The program, from the Debian package redis-server; None if it is not installed.
REDIS_SERVER = shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """A Redis server in a folder.

    Attributes:
        port: The port.
        url: The URL.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None, keeps: bool = True) -> None:
        assert REDIS_SERVER is not None
        folder.mkdir(exist_ok=True, parents=True)
        self.port = free_port() if port is None else port
        self.url = f"redis://127.0.0.1:{self.port}/0"
        persistence = ["--appendonly", "yes", "--appendfsync", "always"] if keeps else ["--appendonly", "no"]
        self._command = [REDIS_SERVER, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        self._command += ["--save", "", "--enable-debug-command", "local", *persistence, *options]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._process = process = self._spawn()
        with trio.fail_after(HANGS):
            while True:
                await trio.sleep(0.02)
                assert process.poll() is None, (self._folder / "log").read_text()
                try:
                    async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                        await stream.send_all(b"PING\r\n")
                        answer = await stream.receive_some()
                except (OSError, trio.BrokenResourceError):
                    continue
                if answer and not answer.startswith(b"-LOADING"):
                    break

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log)

    def signal(self, number: int) -> None:
        """Send a signal to the server."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the server, without giving it the opportunity to write anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let the server do nothing until :meth:`resume`."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server go on."""
        self.signal(signal.SIGCONT)

    def copy(self) -> None:
        """Copy the data. What has been acknowledged is in it."""
        shutil.copytree(self._folder, self._folder.with_suffix(".copy"))

    def restore(self) -> None:
        """Let the data of a server that does not run be those of the copy."""
        self.forget()
        shutil.copytree(self._folder.with_suffix(".copy"), self._folder, dirs_exist_ok=True)

    def forget(self) -> None:
        """Remove the data of a server that does not run."""
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "log":
                path.unlink()
