"""Tests of the documentation: run every sample in README.md and in docs/, and the programs in docs/examples/.

A page runs like a notebook. Its ``python`` blocks are executed in order, in one namespace. A ``text`` block has the
output since the last one; ``...`` stands for the rest of a line. Short samples use ``await`` outside of a function, as
in ``python -m asyncio``. Pages whose blocks define tests run under pytest. In ``console`` blocks, our own commands are
run; see ``Console``.

Pages skip nothing and hide nothing. Instead, the environment of the samples differs from the usual one:

- All programs of a page share one run of Trio, so the client in one block can connect to the server in another.
- The clock is a mock clock, so waiting takes no time. A program that has not ended after a minute must be a server. It
  continues in the background until the end of the page.
- Functions for threads are called at once, because the mock clock would not wait for threads.
- ``trio.open_tcp_listeners`` listens on a free port instead, and ``trio.open_tcp_stream`` connects to that port. Ports
  are never in use already, and nothing is sent to the network.
- ``wss://example.org`` is a local echo server, which closes after ten seconds of silence. Its certificate is from an
  authority that the test creates and the environment trusts.
- ``proxy.example`` is a local proxy: HTTP with credentials on port 3128, the same inside TLS on port 3129, and SOCKS
  without credentials on port 1080.
- In each page, connection ids start at 1, changes of the library's loggers are undone at the end, and Prometheus has a
  registry of its own.
- The current directory is a new one. It has a certificate for ``localhost`` in cert.pem and key.pem, and that of the
  authority in ca.pem, and that of a client whose name is ann in client.pem and client-key.pem.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import inspect
import io
import itertools
import json
import logging
import os
import random
import re
import shlex
import signal
import ssl
import subprocess
import sys
import textwrap
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import prometheus_client
import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws.cli.main import _parser
from trio_ws.client import dial
from trio_ws.connection import websocket

from . import proxies

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.rst") if "_build" not in path.parts)]

#: The environment of a process that must find the package even if it is not installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}

#: Seconds on the mock clock after which a program that has not ended is considered a server.
A_MINUTE = 60.0
#: Seconds of inactivity after which the mock clock jumps. Even local sockets may need some time.
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
        found.append(Block(match["language"], textwrap.dedent(match["text"]).strip("\n") + "\n", path, line))
    return found


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pages_with(language: str) -> list[Path]:
    return [path for path in PAGES if any(block.language == language for block in blocks(path))]


def defines_tests(path: Path) -> bool:
    return any(re.search(r"^(async )?def test_", block.text, re.MULTILINE) for block in blocks(path))


# -- Running programs ----------------------------------------------------------------------------------------------


class Stage:
    """The environment of programs: clock, network and standard output, as described in the docstring of this module."""

    def __init__(self, nursery: trio.Nursery, output: io.StringIO) -> None:
        self._nursery = nursery
        self._output = output
        self._shown = 0
        #: The real ports, by the ports that programs asked for.
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
            await trio.sleep(0.001)  # connecting takes a moment, as it does elsewhere
            raise ConnectionRefusedError(f"nobody listens on {host}:{port}")
        return await trio_open_tcp_stream("127.0.0.1", self._ports[host, port])

    async def start_proxy(self, port: int, proxy: proxies.Proxy, context: ssl.SSLContext | None = None) -> None:
        """Start a proxy on a port of proxy.example."""

        def start_tls(stream: trio.abc.Stream) -> trio.abc.Stream:
            return stream if context is None else trio.SSLStream(stream, context, server_side=True)

        self._ports["proxy.example", port] = await proxies.start_proxy(self._nursery, proxy, start_tls)

    def run(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Replace ``trio.run``: start the program after the code around it has ended."""
        self._programs.append((async_fn, args))

    @contextlib.asynccontextmanager
    async def interlude(self) -> AsyncIterator[trio.Nursery]:
        """End the programs started in this block at the end of the block."""
        whole = self._nursery
        async with trio.open_nursery() as self._nursery:
            yield self._nursery
            self._nursery.cancel_scope.cancel()
        self._nursery = whole

    async def execute(self, code: types.CodeType, namespace: dict[str, Any]) -> None:
        """Execute code, then the programs that it passed to ``trio.run``."""
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


# The original functions.
trio_run = trio.run
trio_open_tcp_listeners = trio.open_tcp_listeners
trio_open_tcp_stream = trio.open_tcp_stream


async def run_at_once(
    sync_fn: Callable[..., Any], *args: Any, abandon_on_cancel: object = None, limiter: object = None, **_: object
) -> Any:
    """Replace ``trio.to_thread.run_sync``: call the function at once."""
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)


async def echo_until_idle(ws: trio_ws.WebSocket) -> None:
    """The handler of example.org."""
    with trio.move_on_after(10) as scope:
        async for message in ws:
            await ws.send(message)
            scope.deadline = trio.current_time() + 10


Play: TypeAlias = Callable[[Stage], Awaitable[None]]
Perform: TypeAlias = Callable[[Play], None]


@pytest.fixture
def loggers() -> Iterator[None]:
    """Restore the loggers of the library afterwards."""
    found = [logging.getLogger(name) for name in ("trio_ws", "trio_ws.client", "trio_ws.server")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in found]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def perform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loggers: None) -> Perform:
    """Call an async function with a stage."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    local = ca.issue_cert("localhost")
    local.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, pem in enumerate(local.cert_chain_pems):
        pem.write_to_path(tmp_path / "cert.pem", append=number > 0)
    client = ca.issue_cert("ann@example.org", common_name="ann")
    client.private_key_pem.write_to_path(tmp_path / "client-key.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(websocket, "_ids", itertools.count(1))
    monkeypatch.setattr(prometheus_client, "REGISTRY", prometheus_client.CollectorRegistry())
    output = io.StringIO()

    async def main(play: Play) -> None:
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, output)
            for function in (stage.open_tcp_listeners, stage.open_tcp_stream, stage.run):
                monkeypatch.setattr(trio, function.__name__, function)
            # The client connects to an IP address without trio.open_tcp_stream, which must be called here.
            monkeypatch.setattr(dial, "_address_family", lambda _host: None)
            monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            ca.issue_cert("example.org").configure_cert(context)
            listeners = await stage.open_tcp_listeners(443, host="example.org")
            nursery.start_soon(partial(trio_ws.serve, echo_until_idle, listeners=listeners, ssl=context))
            private = proxies.Proxy((proxies.USERNAME, proxies.PASSWORD), stage.open_tcp_stream)
            await stage.start_proxy(3128, private)
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            ca.issue_cert("proxy.example").configure_cert(tls)
            await stage.start_proxy(3129, private, tls)
            await stage.start_proxy(1080, proxies.Proxy(None, stage.open_tcp_stream))
            await play(stage)
            nursery.cancel_scope.cancel()

    def run(play: Play) -> None:
        clock = trio.testing.MockClock(autojump_threshold=A_MOMENT)
        with contextlib.redirect_stdout(output):
            trio_run(main, play, clock=clock)

    return run


def matches(shown: str, printed: str) -> bool:
    """Whether the output matches a ``text`` block."""
    lines = (
        re.escape(line.removesuffix("...")) + (".*" if line.endswith("...") else "") for line in shown.splitlines()
    )
    return re.fullmatch("\n".join(lines), printed.rstrip("\n")) is not None


# -- Samples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in pages_with("python") if not defines_tests(path)], ids=name)
def test_samples(path: Path, perform: Perform) -> None:
    if "open_unix_socket" in path.read_text(encoding="utf-8") and sys.platform == "win32":
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
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout
    assert f"{len(re.findall(r'def test_', source))} passed" in done.stdout


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_all_code_is_tested(path: Path) -> None:
    languages = {block.language for block in blocks(path)}
    assert languages <= {"python", "text", "console", "none"}  # "none" is for diagrams
    if path.suffix == ".rst":
        # There are no other literal blocks, and blocks() finds all of these.
        page = path.read_text(encoding="utf-8")
        assert page.count(".. code-block::") == len(blocks(path))
        assert not re.search(r"^(?! *\.\. ).*::$", page, re.MULTILINE)
        for included in re.findall(r"literalinclude:: *(.*)", page):
            assert (path.parent / included).resolve().parent == EXAMPLES


# -- Examples ------------------------------------------------------------------------------------------------------


async def run_example(stage: Stage, filename: str) -> None:
    path = EXAMPLES / filename
    if filename == "chat_server.py":
        # It parses its command line.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [filename])
            await stage.perform(path.read_text(encoding="utf-8"), str(path))
    else:
        await stage.perform(path.read_text(encoding="utf-8"), str(path))


def test_echo_example(perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "echo_server.py")
        await run_example(stage, "client.py")
        assert stage.new_output() == "hello\n"

    perform(play)


def test_the_readme_shows_the_echo_example() -> None:
    shown = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    files = [(EXAMPLES / filename).read_text(encoding="utf-8") for filename in ("echo_server.py", "client.py")]
    assert shown == [source.partition('"""\n\n')[2] for source in files]


CHAT = "ws://localhost:8765/chat"


def test_chat_example(perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "chat_server.py")
        async with trio_ws.connect(f"{CHAT}/trio/ann") as ann:
            assert await ann.receive() == "in here: ann"
            async with trio_ws.connect(f"{CHAT}/trio/bob") as bob, trio_ws.connect(f"{CHAT}/other/eve") as eve:
                assert await ann.receive() == "bob has come in"
                assert await bob.receive() == "in here: ann, bob"
                assert await eve.receive() == "in here: eve"
                await ann.send("hello")
                assert await bob.receive() == "ann: hello"
                await bob.send(b"\x00")
                await bob.send("hello yourself")
                assert await ann.receive() == "bob: hello yourself"
                async with trio_ws.connect("ws://localhost:8765/rooms") as ws:
                    assert [message async for message in ws] == ["other: 1", "trio: 2"]
            assert await ann.receive() == "bob has left"
            for path in ("", "/chat", "/chat/trio", "/chat/trio/ann/x"):
                with pytest.raises(trio_ws.InvalidStatus) as caught:
                    async with trio_ws.connect(f"ws://localhost:8765{path}"):
                        pass
                assert caught.value.status_code == 404

    perform(play)


def test_chat_example_with_a_client_that_does_not_read(perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "chat_server.py")
        async with trio_ws.connect(f"{CHAT}/trio/ann") as ann:
            async with trio_ws.connect(f"{CHAT}/trio/deaf") as deaf, trio_ws.connect(f"{CHAT}/trio/bob") as bob:
                for ws, count in [(ann, 3), (deaf, 2), (bob, 1)]:
                    for _ in range(count):
                        await ws.receive()
                await deaf.send("I talk")
                for ws in (ann, bob):
                    assert await ws.receive() == "deaf: I talk"
                # More than all buffers between two ends can hold, compressed. Clients that read keep up.
                noise = random.Random(1).randbytes(250_000).hex()
                for _ in range(100):
                    await ann.send(noise)
                    while str(await bob.receive()).startswith("deaf"):
                        pass  # the client has disconnected meanwhile
                with pytest.raises(trio_ws.ConnectionClosedError) as caught:
                    while True:
                        await deaf.receive()
                assert caught.value.rcvd == trio_ws.Close(1013, "too slow")

    perform(play)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_chat_example_with_a_signal(number: signal.Signals, perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "chat_server.py")
        async with trio_ws.connect(f"{CHAT}/trio/ann") as ann, trio_ws.connect(f"{CHAT}/trio/bob") as bob:
            await ann.send("the last words")
            assert [await bob.receive() for _ in range(2)] == ["in here: ann, bob", "ann: the last words"]
            signal.raise_signal(number)
            for ws in (ann, bob):
                with pytest.raises(trio_ws.ConnectionClosedOK) as caught:
                    while True:
                        await ws.receive()
                assert caught.value.rcvd == trio_ws.Close(1001, "the server ends")
        with pytest.raises(trio_ws.ConnectFailed):
            async with trio_ws.connect(f"{CHAT}/trio/ann"):
                pass
        assert stage.new_output() == "asked to end\n"

    perform(play)


def test_rolling_server_example(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rolling_server.py", "8765"])

    async def play(stage: Stage) -> None:
        await run_example(stage, "rolling_server.py")
        async with contextlib.AsyncExitStack() as stack:
            uri = "ws://localhost:8765/"
            clients = [await stack.enter_async_context(trio_ws.connect(uri)) for _ in range(3)]
            begin = trio.current_time()
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(10)
            with pytest.raises(trio_ws.ConnectFailed):
                async with trio_ws.connect(uri):
                    pytest.fail("it is still listening")
            await clients[0].send("hello")
            assert await clients[0].receive() == "hello"
            await clients[0].aclose()
            for ws in clients[1:]:
                with pytest.raises(trio_ws.ConnectionClosedError) as caught:
                    await ws.receive()
                assert caught.value.rcvd == trio_ws.Close(1012, "restarting")
            assert 60 <= trio.current_time() - begin <= 85

    perform(play)


def test_web_page_example(perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "web_page.py")

        async def get(path: str, *headers: str) -> str:
            stream = await stage.open_tcp_stream("localhost", 8765)
            async with stream:
                lines = [f"GET {path} HTTP/1.1", "Host: localhost:8765", "Connection: close", *headers, "", ""]
                await stream.send_all("\r\n".join(lines).encode())
                data = b""
                while more := await stream.receive_some():
                    data += more
            return data.decode()

        credentials = "Authorization: Basic " + base64.b64encode(b"ann:correct horse").decode()
        assert (await get("/")).startswith("HTTP/1.1 401 ")
        page = await get("/", credentials)
        assert page.startswith("HTTP/1.1 200 OK")
        assert "new WebSocket(" in page
        assert (await get("/favicon.ico", credentials)).startswith("HTTP/1.1 404 ")
        options: dict[str, Any] = {"headers": {"Host": "localhost:8765"}}
        uri = "ws://ann:correct%20horse@localhost:8765/"
        async with trio_ws.connect(uri, origin="http://localhost:8765", **options) as ws:
            await ws.send("hello")
            assert [await ws.receive() for _ in range(2)] == ["hello, ann", "hello"]
            assert (await get("/healthz")).endswith("\r\n\r\n1 connections\n")
        with pytest.raises(trio_ws.InvalidStatus, match="403"):
            async with trio_ws.connect(uri, origin="https://evil.example", **options):
                pytest.fail("the connection was opened")

    perform(play)


def test_check_endpoints_example(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        path = (await stream.receive_some()).split()[1]
        answers = {
            b"/moved": b"302 Found\r\nLocation: ws://localhost:8765/new\r\nContent-Length: 0",
            b"/circle": b"302 Found\r\nLocation: /circle\r\nContent-Length: 0",
            b"/busy": b"503 Busy\r\nRetry-After: 60\r\nContent-Length: 3",
        }
        await stream.send_all(b"HTTP/1.1 " + answers[path] + b"\r\n\r\n" + (b"no." if path == b"/busy" else b""))

    async def play(stage: Stage) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await stage.open_tcp_listeners(8765)
            await nursery.start(partial(trio_ws.serve, echo_until_idle, listeners=listeners))
            nursery.start_soon(trio.serve_listeners, answer, await stage.open_tcp_listeners(8766))
            uris = [
                *("ws://localhost:8765/", "ws://localhost:8766/moved", "ws://localhost:8766/circle"),
                *("ws://localhost:8766/busy", "ws://localhost:9/", "ftp://localhost/"),
            ]
            monkeypatch.setattr(sys, "argv", ["check_endpoints.py", *uris])
            await run_example(stage, "check_endpoints.py")
            nursery.cancel_scope.cancel()
        lines = stage.new_output().splitlines()
        expected = [
            r"ws://localhost:8765/: fine, \d+ ms, at localhost:8765/",
            r"ws://localhost:8766/moved: fine, \d+ ms, at localhost:8765/new",
            "ws://localhost:8766/circle: leads to /circle: it leads in a circle, to ws://localhost:8766/circle again",
            r"ws://localhost:8766/busy: refuses with 503 Busy \(again in 60 s\): no\.",
            "ws://localhost:9/: cannot connect to localhost:9: nobody listens on localhost:9",
            "ftp://localhost/: 'ftp://localhost/' is not a WebSocket URI: the scheme must be ws or wss, not ftp",
        ]
        assert len(lines) == len(expected)
        for line, pattern in zip(lines, expected, strict=True):
            assert re.fullmatch(pattern, line), line

    perform(play)


def test_behind_a_proxy_example(perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "behind_a_proxy.py")
        for headers, expected in [
            ({}, "you are 127.0.0.1, without TLS"),
            ({"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}, "you are 203.0.113.7, with TLS"),
            # The proxy appends to the header that the client made up.
            ({"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}, "you are 203.0.113.7, without TLS"),
        ]:
            async with trio_ws.connect("ws://localhost:8765", headers=headers) as ws:
                assert await ws.receive() == expected

    perform(play)


def test_log_in_example(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        async def greet(ws: trio_ws.WebSocket) -> None:
            headers = ws.request.headers
            await ws.send(f"{headers['Authorization']} from {headers['Origin']}")

        listeners = await stage.open_tcp_listeners(8765)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(trio_ws.serve, greet, listeners=listeners, origins=["https://example.org"])
            )
            monkeypatch.setattr(sys, "argv", ["log_in.py", "ws://localhost:8765/feed"])
            await run_example(stage, "log_in.py")
            assert stage.new_output() == "connected to /feed\nBearer token-for-localhost from https://example.org\n"
            await server.aclose()

    perform(play)


def test_checksum_example(perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "checksum.py")
        assert stage.new_output() == "x-crc32\nhello\n"

    perform(play)


def test_file_example(perform: Perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "sent").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["send_file.py", "sent"])

    async def play(stage: Stage) -> None:
        await run_example(stage, "receive_files.py")
        await run_example(stage, "send_file.py")
        assert stage.new_output() == "received 2560000 bytes\n"
        assert (tmp_path / "received-1").read_bytes() == content
        async with trio_ws.connect("ws://localhost:8765") as ws:
            await ws.send("text")
            assert await ws.receive() == "received 4 bytes"

    perform(play)


def test_proxy_example(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        for variable, value, arguments, printed in [
            ("", "", ["http://user:secret@proxy.example:3128"], "connected to 127.0.0.1\n"),
            ("https_proxy", "http://user:secret@proxy.example:3128", [], "connected to 127.0.0.1\n"),
            ("https_proxy", "http://user:wrong@proxy.example:3128", [], 'required\nit wants: Basic realm="test"\n'),
            ("", "", ["http://nowhere.example"], "nobody listens on nowhere.example:80\n"),
        ]:
            if variable:
                monkeypatch.setenv(variable, value)
            monkeypatch.setattr(sys, "argv", ["through_proxy.py", "wss://example.org/", *arguments])
            await run_example(stage, "through_proxy.py")
            assert stage.new_output().lower().endswith(printed.lower())

    perform(play)


def test_reconnecting_example(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["reconnecting_client.py", "ann"])

    async def greet(greeting: str) -> None:
        async with trio_ws.connect(f"{CHAT}/lobby/bob") as bob:
            for _ in range(8):  # she is back within these seconds
                await bob.send(greeting)
                await trio.sleep(1)

    async def play(stage: Stage) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_example, stage, "reconnecting_client.py")
            await trio.sleep(1)
            for greeting in ("hello", "hello again"):
                async with stage.interlude() as server:
                    server.start_soon(run_example, stage, "chat_server.py")
                    await trio.sleep(1)
                    await greet(greeting)
                await trio.sleep(1)
            nursery.cancel_scope.cancel()
        printed = stage.new_output()
        in_order = [
            r"\[waiting .* cannot connect to localhost:8765: .*\]",
            r"\[open, attempt \d+\]",
            "bob: hello",
            r"\[waiting .* received 1001 .*\]",
            r"\[open, attempt \d+\]",
            "bob: hello again",
        ]
        assert re.search("^" + r"\n(.*\n)*".join(in_order) + "\n", printed, re.MULTILINE), printed

    perform(play)


def test_watching_example(perform: Perform, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["watched_server.py"])
    caplog.set_level(logging.INFO)

    async def play(stage: Stage) -> None:
        await run_example(stage, "watched_server.py")
        async with trio_ws.connect("ws://localhost:8765/feed", compression=None) as ws:
            await ws.send("hello")
            await ws.receive()
            async with await trio.open_tcp_stream("localhost", 8765) as stream:
                await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                metrics = b"".join([part async for part in stream]).decode()
        assert 'trio_ws_open_connections{role="server"} 1.0\n' in metrics
        assert 'trio_ws_bytes_total{direction="out",role="server"} 7.0\n' in metrics

    perform(play)
    opened, closed = (record.getMessage() for record in caplog.records if record.name == "trio_ws.server")
    assert opened.endswith(", path /feed")
    assert "in 1 messages (19 bytes), out 1 messages (11 bytes)" in closed


def test_json_rpc_example(perform: Perform) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "json_rpc.py")
        lines = stage.new_output().splitlines()
        assert sorted(lines[:1]) == ["dance failed: there is no method dance"]
        assert lines[1:] == ["sleep 0.1 -> 0.1", "sleep 0.2 -> 0.2"]
        async with trio.open_nursery() as nursery:
            namespace: dict[str, Any] = {"__name__": "json_rpc"}
            source = (EXAMPLES / "json_rpc.py").read_text(encoding="utf-8").replace("trio.run(main)", "")
            await stage.perform(source, "json_rpc.py", 1, namespace)
            server = await nursery.start(partial(trio_ws.serve, namespace["serve_calls"], 8766, host="localhost"))
            async with trio_ws.connect("ws://localhost:8766") as ws:
                await ws.send("{")
                assert "-32700" in str(await ws.receive())
                client = namespace["Client"](ws)
                nursery.start_soon(client.run)
                with pytest.raises(namespace["RPCError"], match="no method"):
                    await client.call("dance")
                namespace["METHODS"]["sleep"] = trio.sleep
                with trio.move_on_after(1) as scope:
                    await client.call("sleep", 2)  # its answer is dropped
                assert scope.cancelled_caught
                await trio.sleep(2)
                assert await client.call("sleep", 1) is None
                nursery.start_soon(server.aclose)
                with pytest.raises(namespace["RPCError"], match="closed"):
                    await client.call("sleep", 100)

    perform(play)


def test_graphql_example(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Any] = []

    async def answer(ws: trio_ws.WebSocket) -> None:
        channel = trio_ws.TypedChannel[Any](ws, json.dumps, json.loads)
        async for message in channel:
            received.append(message)
            if message["type"] == "connection_init":
                await channel.send({"type": "connection_ack"})
                await channel.send({"type": "ping"})
            elif message["type"] == "subscribe":
                number, query = message["id"], message["payload"]["query"]
                for count in range(20):
                    data = {"data": {query: count}}
                    await channel.send({"type": "next", "id": number, "payload": data})
                await channel.send({"type": "complete", "id": number})

    async def play(stage: Stage) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await stage.open_tcp_listeners(8765)
            protocol = "graphql-transport-ws"
            await nursery.start(partial(trio_ws.serve, answer, listeners=listeners, subprotocols=[protocol]))
            monkeypatch.setattr(sys, "argv", ["graphql_client.py", "ws://localhost:8765/graphql", "ticks", "clicks"])
            await run_example(stage, "graphql_client.py")
            nursery.cancel_scope.cancel()
        printed = stage.new_output().splitlines()
        assert sorted(printed) == sorted(f"{{'{query}': {n}}}" for query in ("ticks", "clicks") for n in range(20))
        kinds = [message["type"] for message in received]
        assert sorted(kinds) == [*["complete"] * 2, "connection_init", "pong", "subscribe", "subscribe"]

    perform(play)


def test_asgi_example(perform: Perform, caplog: pytest.LogCaptureFixture) -> None:
    async def play(stage: Stage) -> None:
        await run_example(stage, "asgi_server.py")

        async def get(request: str) -> str:
            async with await stage.open_tcp_stream("localhost", 8765) as stream:
                await stream.send_all(f"{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                return b"".join([part async for part in stream]).decode()

        page = await get("GET /?name=ann%20b HTTP/1.1")
        assert page.startswith("HTTP/1.1 200 OK\r\n")
        assert "x-from: starlette\r\n" in page.lower()
        assert page.endswith("\r\n\r\nhello, ann b\n")
        assert (await get("GET /nothing HTTP/1.1")).startswith("HTTP/1.1 404 ")
        assert (await get("POST / HTTP/1.1\r\nContent-Length: 3")).startswith("HTTP/1.1 501 ")

        uri = "ws://localhost:8765/rooms/lobby"
        async with trio_ws.connect(uri, subprotocols=["chat", "other"]) as ws:
            assert ws.subprotocol == "chat"
            assert ws.response.headers["X-Room"] == "lobby"
            await ws.send("hello")
            assert await ws.receive() == "hello"
            await ws.send("bye")
            with pytest.raises(trio_ws.ConnectionClosedError) as caught:
                await ws.receive()
            assert caught.value.rcvd == trio_ws.Close(4000, "goodbye")
        async with trio_ws.connect(uri, subprotocols=["chat"]) as ws:
            await ws.aclose(4001)
        await trio.sleep(1)
        assert stage.new_output() == "the client left with 4001\n"
        for refused in (uri, "ws://localhost:8765/nowhere"):
            with pytest.raises(trio_ws.InvalidStatus) as refusal:
                async with trio_ws.connect(refused):
                    pass
            assert refusal.value.status_code == 403

        # A handshake that the library refuses: the application learns that the client has left.
        assert (await get(f"{UPGRADE}\r\nSec-WebSocket-Version: 12")).startswith("HTTP/1.1 426 ")
        await trio.sleep(11)
        assert stage.new_output() == "the client left with 1006\n"

        assert not caplog.records or "failed" not in caplog.text
        async with trio_ws.connect(uri, subprotocols=["chat"]) as ws:
            await ws.send(b"no text")  # a bug in this application
            with pytest.raises(trio_ws.ConnectionClosedError) as failed:
                await ws.receive()
            assert failed.value.code == 1011
        assert "the handler failed" in caplog.text

    perform(play)


UPGRADE = (
    "GET /rooms/lobby HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chat\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)


async def test_asyncio_example(nursery: trio.Nursery) -> None:
    async def echo_and_ping(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            await ws.ping()
            await ws.send(message)
        codes.append(ws.close_code)

    codes: list[int | None] = []
    server = await nursery.start(partial(trio_ws.serve, echo_and_ping, 0, host="127.0.0.1"))
    command = [
        sys.executable,
        str(EXAMPLES / "asyncio_client.py"),
        f"ws://127.0.0.1:{server.port}/",
        "héllo",
        "a" * 999,
    ]
    done = await trio.run_process(command, capture_stdout=True, env=ENVIRONMENT)
    assert done.stdout.decode().split() == ["héllo", "a" * 999]
    await server.aclose()
    assert codes == [1000]


def test_every_example_is_tested() -> None:
    tests = "".join(inspect.getsource(value) for key, value in globals().items() if key.startswith("test_"))
    for elsewhere in (
        "test_migrating.py",
        "browser/test_examples.py",
        "docs/test_deployment.py",
        "hub/test_examples.py",
    ):
        tests += (ROOT / "tests" / elsewhere).read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name in tests or path.suffix != ".py"


# -- Commands ------------------------------------------------------------------------------------------------------


def commands(block: Block) -> list[tuple[str, str]]:
    """Return the commands in a ``console`` block, with their output. A backslash continues a line."""
    text = re.sub(r"\\\n *", "", block.text)
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)


async def do_tls_handshake(certificate: str, key: str, name: str) -> None:
    """Use a self-signed certificate at both ends."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    client_end, server_end = trio.testing.memory_stream_pair()
    trusting = ssl.create_default_context(cafile=certificate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.SSLStream(server_end, context, server_side=True).do_handshake)
        await trio.SSLStream(client_end, trusting, server_hostname=name).do_handshake()


class Console:
    """Runs commands, and compares their output with the page.

    Servers run in the background, on any free port instead of the one in the page. Nothing is installed.
    """

    def __init__(self) -> None:
        self.servers: list[subprocess.Popen[str]] = []
        self.ports: dict[str, str] = {}

    def run(self, command: str, shown: str) -> None:
        for part in command.split(" && "):
            text, pipe, part = part.rpartition(" | ")
            words = shlex.split(part)
            if words[0] == "trio-ws":
                words = ["python", "-m", "trio_ws", *words[1:]]
            if words[0] == "pip":
                assert words[1] == "install"
                continue
            if words[0] == "openssl":
                self.create_certificate(words)
                continue
            python, dash, module, *arguments = words
            assert (python, dash) == ("python", "-m")
            if module == "trio_ws":
                _parser().parse_args(arguments)
                stdin = " ".join(shlex.split(text)[1:]) + "\n" if pipe else ""
                self.run_command(arguments, stdin, shown)
            elif module == "nox":
                assert arguments[0] == "-s"
                assert re.search(rf"^def {arguments[1]}\(", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
            else:
                assert (module, *arguments) in [("pip", "install", "."), ("pip", "install", "nox")]

    def create_certificate(self, command: list[str]) -> None:
        """Run the command, and use its certificate under each of its names."""
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        certificate, key = (command[command.index(option) + 1] for option in ("-out", "-keyout"))
        names = [name.partition(":")[2] for name in command[-1].partition("=")[2].split(",")]
        assert names
        for name in names:
            trio_run(do_tls_handshake, certificate, key, name)

    def run_command(self, arguments: list[str], stdin: str, shown: str) -> None:
        if arguments[0] == "serve":
            place = arguments.index("--port") + 1
            port, arguments[place] = arguments[place], "0"
            process = subprocess.Popen(
                [sys.executable, "-m", "trio_ws", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=ENVIRONMENT,
            )
            self.servers.append(process)
            assert process.stdout is not None
            line = process.stdout.readline()
            real_port = re.findall(r":(\d+)", line)[0]
            self.ports[port] = real_port
            assert line.replace(real_port, port) == shown
        elif arguments[0] == "demo":
            printed = self.output_of(arguments)
            assert not shown or re.sub(r" *\d+", "#", printed) == re.sub(r" *\d+", "#", shown)
        elif shown:
            port = re.findall(r":(\d+)", arguments[-1])[0]
            arguments[-1] = arguments[-1].replace(port, self.ports[port])
            assert self.output_of(arguments, stdin).replace(self.ports[port], port) == shown

    def output_of(self, arguments: list[str], stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "trio_ws", *arguments],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env=ENVIRONMENT,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def close(self) -> None:
        for process in self.servers:
            process.kill()
            with process:
                pass


@pytest.mark.parametrize("path", pages_with("console"), ids=name)
@pytest.mark.usefixtures("perform")  # for the current directory
def test_commands(path: Path) -> None:
    with contextlib.closing(Console()) as console:
        for block in blocks(path):
            if block.language == "console":
                found = commands(block)
                assert found, f"line {block.line}: no command"
                for command, shown in found:
                    console.run(command, shown)


# -- The reference -------------------------------------------------------------------------------------------------


def test_the_reference_has_every_public_name_once() -> None:
    listed: list[str] = []
    for path in (DOCS / "reference").glob("*.rst"):
        page = path.read_text(encoding="utf-8")
        listed += re.findall(r"^\.\. (?:auto|py:)(?!module)\w+:: trio_ws\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(trio_ws.__all__)
