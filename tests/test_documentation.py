"""The documentation, tried out: every sample in README.md and in docs/ runs here, and so does docs/examples/.

A page is run like a notebook. Its ``python`` blocks are executed in order, in one namespace. A ``text`` block shows what
has been printed since the one before; ``...`` at the end of a line stands for the rest of it. Where a program would only
hide the point, a block uses ``await`` outside of a function, as ``python -m asyncio`` allows; and a page whose blocks
define tests is run by pytest.

Nothing is skipped and nothing is hidden in the pages. Instead, what is around the samples is not what it is elsewhere:

- All programs of a page run in one run of Trio, so that the client in one block meets the server in another.
- The clock is a mock clock, so that waiting takes no time. A program that has not ended after a minute must be a server.
  It goes on in the background until the end of the page.
- Threads run at once, because that clock does not see them.
- ``trio.open_tcp_listeners`` listens on a free port instead, and ``trio.open_tcp_stream`` finds it. So ports are always
  free, and nothing leaves this machine.
- ``wss://example.org`` is an echo server in there, which hangs up when nothing has come for ten seconds. Its certificate
  is issued by an authority that the test makes, and that the environment says to trust.
- The current directory is a new one. It has a certificate for ``localhost`` in cert.pem and key.pem, and the
  certificate of the authority in ca.pem.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
import ssl
import subprocess
import sys
import types
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.rst") if "_build" not in path.parts)]

#: Seconds after which a program that has not ended is taken for a server, on the mock clock.
A_MINUTE = 60.0
#: Seconds after which the mock clock jumps when nothing happens. Real sockets, even local ones, may take their time.
A_MOMENT = 0.1


# -- Reading pages -------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A block of code in a page."""

    language: str
    text: str
    path: Path
    line: int


RST_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. code-block:: *(?P<language>\S*)\n"
    r"(?:(?P=indent) +:.*\n)*"
    r"\n"
    r"(?P<text>(?:(?P=indent) +\S.*\n|[ \t]*\n)+)",
    re.MULTILINE,
)
MD_BLOCK = re.compile(r"^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)```$", re.MULTILINE)


def blocks(path: Path) -> list[Block]:
    """Return the blocks of code in a page, in order."""
    page = path.read_text(encoding="utf-8")
    found = []
    for match in (MD_BLOCK if path.suffix == ".md" else RST_BLOCK).finditer(page):
        line = page.count("\n", 0, match.start("text")) + 1
        found.append(Block(match["language"], inspect.cleandoc(match["text"]) + "\n", path, line))
    return found


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pages_with(language: str) -> list[Path]:
    return [path for path in PAGES if any(block.language == language for block in blocks(path))]


def defines_tests(path: Path) -> bool:
    return any(re.search(r"^(async )?def test_", block.text, re.MULTILINE) for block in blocks(path))


# -- Running programs ----------------------------------------------------------------------------------------------


class Stage:
    """Where programs run: the clock, the network and the standard output that the top of this module describes."""

    def __init__(self, nursery: trio.Nursery, output: io.StringIO) -> None:
        self._nursery = nursery
        self._output = output
        self._shown = 0
        #: The ports that programs believe to listen on, and the real ones.
        self._ports: dict[tuple[str, int], int] = {}
        self._programs: list[tuple[Callable[..., Awaitable[object]], tuple[Any, ...]]] = []

    async def open_tcp_listeners(
        self, port: int, *, host: str | None = None, backlog: int | None = None
    ) -> list[trio.SocketListener]:
        listeners = await trio_open_tcp_listeners(0, host="127.0.0.1", backlog=backlog)
        real_port = listeners[0].socket.getsockname()[1]
        self._ports[host or "localhost", port or real_port] = real_port
        return listeners

    async def open_tcp_stream(self, host: str, port: int, **_options: object) -> trio.SocketStream:
        if (host, port) not in self._ports:
            raise ConnectionRefusedError(f"nobody listens on {host}:{port}")
        return await trio_open_tcp_stream("127.0.0.1", self._ports[host, port])

    def run(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """What ``trio.run`` is here: the program begins when the code around it has ended."""
        self._programs.append((async_fn, args))

    async def execute(self, code: types.CodeType, namespace: dict[str, Any]) -> None:
        """Execute code, then the programs that it has given to ``trio.run``."""
        result = eval(code, namespace)
        if inspect.isawaitable(result):
            await result
        while self._programs:
            async_fn, args = self._programs.pop(0)
            await async_fn(*args)

    async def perform(self, source: str, filename: str, line: int = 1, namespace: dict[str, Any] | None = None) -> None:
        """Execute source code until it has ended, or a minute has passed."""
        tree = ast.parse(source)
        ast.increment_lineno(tree, line - 1)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
        ended = trio.Event()

        async def program() -> None:
            await self.execute(code, {"__name__": "__main__"} if namespace is None else namespace)
            ended.set()

        listening = len(self._ports)
        self._nursery.start_soon(program)
        with trio.move_on_after(A_MINUTE):
            await ended.wait()
        assert ended.is_set() or len(self._ports) > listening, "it does not end, and is no server"

    def new_output(self) -> str:
        """Return what was printed since the last call."""
        output = self._output.getvalue()
        new, self._shown = output[self._shown :], len(output)
        return new


# The real ones.
trio_run = trio.run
trio_open_tcp_listeners = trio.open_tcp_listeners
trio_open_tcp_stream = trio.open_tcp_stream


async def run_at_once(
    sync_fn: Callable[..., Any], *args: Any, abandon_on_cancel: object = None, limiter: object = None, **_: object
) -> Any:
    """What ``trio.to_thread.run_sync`` is here."""
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)


async def echo_until_idle(ws: trio_ws.WebSocket) -> None:
    """The handler of example.org."""
    with trio.move_on_after(10) as scope:
        async for message in ws:
            await ws.send(message)
            scope.deadline = trio.current_time() + 10


@pytest.fixture
def perform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Stage], Awaitable[None]]], None]:
    """Call an async function with a stage."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    local = ca.issue_cert("localhost")
    local.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, pem in enumerate(local.cert_chain_pems):
        pem.write_to_path(tmp_path / "cert.pem", append=number > 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    output = io.StringIO()

    async def main(play: Callable[[Stage], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, output)
            for function in (stage.open_tcp_listeners, stage.open_tcp_stream, stage.run):
                monkeypatch.setattr(trio, function.__name__, function)
            monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            ca.issue_cert("example.org").configure_cert(context)
            listeners = await stage.open_tcp_listeners(443, host="example.org")
            nursery.start_soon(partial(trio_ws.serve, echo_until_idle, listeners=listeners, ssl=context))
            await play(stage)
            nursery.cancel_scope.cancel()

    def run(play: Callable[[Stage], Awaitable[None]]) -> None:
        clock = trio.testing.MockClock(autojump_threshold=A_MOMENT)
        with contextlib.redirect_stdout(output):
            trio_run(main, play, clock=clock)

    return run


def matches(shown: str, printed: str) -> bool:
    """Whether this is what a ``text`` block shows."""
    lines = (re.escape(line.removesuffix("...")) + (".*" if line.endswith("...") else "") for line in shown.splitlines())
    return re.fullmatch("\n".join(lines), printed.rstrip("\n")) is not None


# -- Samples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in pages_with("python") if not defines_tests(path)], ids=name)
def test_samples(path: Path, perform: Perform) -> None:
    if "AF_UNIX" in path.read_text(encoding="utf-8") and not hasattr(trio.socket, "AF_UNIX"):
        pytest.skip("there are no Unix sockets here")

    async def play(stage: Stage) -> None:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks(path):
            if block.language == "python":
                await stage.perform(block.text, str(path), block.line, namespace)
            elif block.language == "text":
                printed = stage.new_output()
                assert matches(block.text, printed), f"line {block.line}: printed is {printed!r}"

    perform(play)


@pytest.mark.parametrize("path", [path for path in pages_with("python") if defines_tests(path)], ids=name)
def test_samples_that_are_tests(path: Path, tmp_path: Path) -> None:
    source = "".join(block.text for block in blocks(path) if block.language == "python")
    (tmp_path / "test_samples.py").write_text(source, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:cov"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert f"{len(re.findall(r'def test_', source))} passed" in done.stdout
