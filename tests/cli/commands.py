"""Helpers to run commands, and servers for them."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws.cli import main

from ..support import HANGS

ROOT = Path(__file__).parent.parent.parent

HOST = "127.0.0.1"

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="there, a process cannot send such a signal")


@contextlib.contextmanager
def in_thread(async_fn: Callable[..., Awaitable[None]]) -> Iterator[int]:
    """Run ``async_fn(task_status=...)`` in a thread until the end of the block. Yield its port."""
    started: queue.Queue[tuple[int, trio.lowlevel.TrioToken, trio.CancelScope]] = queue.Queue()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(async_fn)
            started.put((port, trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    port, token, scope = started.get(timeout=HANGS)
    try:
        yield port
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join()


@contextlib.contextmanager
def serving(
    handler: trio_ws.Handler, *, context: ssl.SSLContext | None = None, subprotocols: tuple[str, ...] = ()
) -> Iterator[int]:
    """Run a WebSocket server. Yield its port."""

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:
            start = partial(trio_ws.serve, handler, 0, host=HOST, ssl=context, subprotocols=subprotocols)
            server = await nursery.start(start)
            task_status.started(server.port)

    with in_thread(serve) as port:
        yield port


class Certificates:
    """A certificate for this machine from an untrusted authority."""

    def __init__(self, folder: Path) -> None:
        issued = trustme.CA().issue_cert("localhost", HOST)
        self.certificate, self.key, self.both = (str(folder / name) for name in ("cert.pem", "key.pem", "both.pem"))
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.certificate, append=True)
        issued.private_key_pem.write_to_path(self.key)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issued.configure_cert(self.server)


class Result:
    """The output of a command and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"Result({self.status}, {self.out!r}, {self.err!r})"

    @property
    def is_failure(self) -> bool:
        """Whether the command failed properly: with a one-line error, no other output, and status 1."""
        return self.status == 1 and self._is_one_error

    @property
    def is_wrong_usage(self) -> bool:
        """Whether the command refused its arguments properly: with a one-line error, no other output, and status 2."""
        return self.status == 2 and self._is_one_error

    @property
    def _is_one_error(self) -> bool:
        return self.out == "" and re.fullmatch(r"error: .+\n", self.err) is not None


class Command:
    """Runs a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *args: str, stdin: bytes = b"") -> Result:
        """Run a command with the given standard input."""
        reading, writing = os.pipe()
        with os.fdopen(reading) as file, self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            # A pipe has room for at least 4096 bytes. Writing more would need a thread.
            assert len(stdin) <= 4096
            os.write(writing, stdin)
            os.close(writing)
            status = main.main(args)
        return Result(status, *self._capsys.readouterr())


@contextlib.contextmanager
def process(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a separate process, until the end of the block at the latest."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    pipe = subprocess.PIPE
    arguments = [sys.executable, "-m", "trio_ws", *args]
    with subprocess.Popen(
        arguments, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", env=environment
    ) as running:
        try:
            yield running
        finally:
            running.kill()
