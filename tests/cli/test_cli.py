"""The command line: in this process wherever possible, because what happens in others is not measured.

``main`` runs in the main thread, as it does elsewhere, and what it talks to runs in another thread. What must be seen
while a command runs is waited for, never slept for.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import trio_ws
from trio_ws.cli import connect, demo, failure, main, serve
from trio_ws.http11 import RequestParser
from trio_ws.protocol.handshake import accept

ROOT = Path(__file__).parent.parent.parent
HOST = "127.0.0.1"

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="there, a process cannot send such a signal")
needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


# -- What commands talk to -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_thread(async_fn: Callable[..., Awaitable[None]]) -> Iterator[int]:
    """Run ``async_fn(task_status=...)`` in a thread until the end of the block. Yields what it starts with, a port."""
    started: queue.Queue[tuple[int, trio.lowlevel.TrioToken, trio.CancelScope]] = queue.Queue()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(async_fn)
            started.put((port, trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    port, token, scope = started.get(timeout=60)
    try:
        yield port
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join()


@contextlib.contextmanager
def serving(
    handler: trio_ws.Handler, *, context: ssl.SSLContext | None = None, subprotocols: tuple[str, ...] = ()
) -> Iterator[int]:
    """Run a WebSocket server. Yields its port."""

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:
            start = partial(trio_ws.serve, handler, 0, host=HOST, ssl=context, subprotocols=subprotocols)
            server = await nursery.start(start)
            task_status.started(server.port)

    with in_thread(serve) as port:
        yield port


@contextlib.contextmanager
def accepting(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> Iterator[int]:
    """Run a server that is no WebSocket server. Yields its port."""

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        async def handle(stream: trio.SocketStream) -> None:
            async with stream:
                await handler(stream)

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=HOST))
            task_status.started(listeners[0].socket.getsockname()[1])

    with in_thread(serve) as port:
        yield port


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def open_and_hang_up(stream: trio.SocketStream) -> None:
    """Do the opening handshake, and hang up when the first frame comes."""
    parser = RequestParser()
    request = None
    while request is None:
        request = parser.feed(await stream.receive_some())
    await stream.send_all(accept(request)[0].serialize())
    await stream.receive_some()


async def open_and_say_nothing(stream: trio.SocketStream) -> None:
    """Do the opening handshake, and answer nothing until the other end hangs up."""
    await open_and_hang_up(stream)
    async for _ in stream:
        pass


class Certificates:
    """A certificate for this machine, whose authority nobody trusts."""

    def __init__(self, folder: Path) -> None:
        issued = trustme.CA().issue_cert("localhost", HOST)
        self.certificate, self.key, self.both = (str(folder / name) for name in ("cert.pem", "key.pem", "both.pem"))
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.certificate, append=True)
        issued.private_key_pem.write_to_path(self.key)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issued.configure_cert(self.server)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def trusting_anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# -- Running commands ----------------------------------------------------------------------------------------------


class Result:
    """What a command has printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"Result({self.status}, {self.out!r}, {self.err!r})"

    @property
    def is_failure(self) -> bool:
        """Whether it has failed as a command should: with one line of explanation, nothing else, and status 1."""
        return self.status == 1 and self.out == "" and re.fullmatch(r"error: .+\n", self.err) is not None


class Command:
    """Runs a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *args: str, stdin: bytes = b"") -> Result:
        """Run it with this as its whole input."""
        reading, writing = os.pipe()
        with os.fdopen(reading) as file, self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            # A pipe has room for at least 4096 bytes. More could be written by a thread only.
            assert len(stdin) <= 4096
            os.write(writing, stdin)
            os.close(writing)
            status = main.main(args)
        return Result(status, *self._capsys.readouterr())


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


@contextlib.contextmanager
def process(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process of its own, until the end of the block at the latest."""
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


def lines_of(file: object) -> Iterator[str]:
    assert isinstance(file, io.TextIOBase)
    return iter(file.readline, "")


class Output(io.StringIO):
    """A standard output that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._written = trio.Event()

    def write(self, text: str) -> int:
        self._written.set()
        self._written = trio.Event()
        return super().write(text)

    async def wait_for(self, pattern: str) -> re.Match[str]:
        with trio.fail_after(60):
            while (match := re.search(pattern, self.getvalue())) is None:
                await self._written.wait()
        return match


class Server:
    """The command ``serve``, in a task of this process."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.port = 0
        #: How it ended.
        self.status: int | None = None
        self.ended = trio.Event()

    async def run(self, *args: str) -> None:
        try:
            self.status = await serve.run(main._parser().parse_args(["serve", *args]))
        except BaseException as exc:
            self.status = main._report(exc)
        self.ended.set()


@contextlib.asynccontextmanager
async def serve_command(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, *args: str, host: str = HOST
) -> AsyncIterator[Server]:
    server = Server(Output())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", server.output)
        nursery.start_soon(partial(server.run, "--port", "0", "--host", host, *args))
        server.port = int((await server.output.wait_for(r"^listening on wss?://.*:(\d+)/ "))[1])
        try:
            yield server
        finally:
            if not server.ended.is_set():
                signal.raise_signal(signal.SIGTERM)
                with trio.fail_after(60):
                    await server.ended.wait()


# -- serve ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve(
    number: signal.Signals,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serve_command(nursery, monkeypatch) as server:
        async with trio_ws.connect(f"ws://{HOST}:{server.port}/path") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
            signal.raise_signal(number)
            with pytest.raises(trio_ws.ConnectionClosedOK) as caught:
                await ws.receive()
            assert caught.value.rcvd == trio_ws.Close(1001, "")
            port = ws.local_address[1]
        await server.ended.wait()
    assert server.status == 0
    assert server.output.getvalue() == f"listening on ws://{HOST}:{server.port}/ (Ctrl-C stops)\nclosing\n"
    assert [record.getMessage() for record in caplog.records if record.name == "trio_ws.cli"] == [
        f"{HOST}:{port} opened /path",
        f"{HOST}:{port} closed 1001 after 1 messages",
    ]


async def test_serve_outlives_lost_connections(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serve_command(nursery, monkeypatch) as server:
        stream = await trio.open_tcp_stream(HOST, server.port)
        async with trio_ws.connect_over(stream, "ws://test/") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
            stream.socket.close()
        async with trio_ws.connect(f"ws://{HOST}:{server.port}") as ws:
            await ws.send("hello again")
            assert await ws.receive() == "hello again"
    assert server.status == 0
    assert any("closed 1006 after 1 messages" in message for message in caplog.messages)


@pytest.mark.parametrize("one_file", [True, False])
async def test_serve_with_tls(
    one_file: bool, certificates: Certificates, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    if one_file:
        args = ["--tls-cert", certificates.both]
    else:
        args = ["--tls-cert", certificates.certificate, "--tls-key", certificates.key]
    async with serve_command(nursery, monkeypatch, *args) as server:
        assert server.output.getvalue().startswith(f"listening on wss://{HOST}:")
        async with trio_ws.connect(f"wss://{HOST}:{server.port}", ssl=trusting_anybody()) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"


async def test_serve_stops_at_the_second_signal(
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    async with serve_command(nursery, monkeypatch) as server:
        async with await trio.open_tcp_stream(HOST, server.port) as stream:
            # A client that never answers the Close frame.
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert b" 101 " in await stream.receive_some()
            signal.raise_signal(signal.SIGINT)
            await server.output.wait_for("closing")
            signal.raise_signal(signal.SIGINT)
            await server.ended.wait()
    assert server.status == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert caplog.messages[-1].endswith("closed after 0 messages")


async def test_serve_shows_ipv6_in_brackets(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("there is no IPv6 here")
    async with serve_command(nursery, monkeypatch, host="::1") as server:
        assert server.output.getvalue().startswith(f"listening on ws://[::1]:{server.port}/")


def test_peers_have_names() -> None:
    assert serve._name(("192.0.2.1", 80)) == "192.0.2.1:80"
    assert serve._name("/run/socket") == "/run/socket"
    assert serve._name(None) == "peer"


def test_serve_on_a_port_in_use(command: Command) -> None:
    # Not with create_server: where it sets SO_REUSEADDR, Windows lets others listen too.
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = command("serve", "--host", HOST, "--port", str(port))
    assert result.is_failure, result
    assert f"{HOST}:{port}" in result.err


def test_serve_on_an_impossible_host(command: Command) -> None:
    result = command("serve", "--host", "two..dots", "--port", "0")
    assert result.is_failure, result
    assert "two..dots" in result.err


def test_serve_without_the_certificate(command: Command, tmp_path: Path) -> None:
    result = command("serve", "--port", "0", "--tls-cert", str(tmp_path / "missing.pem"))
    assert result.is_failure, result
    assert "missing.pem" in result.err


def test_serve_with_what_is_no_certificate(command: Command, tmp_path: Path) -> None:
    (tmp_path / "some.pem").write_text("This is no certificate.")
    result = command("serve", "--port", "0", "--tls-cert", str(tmp_path / "some.pem"))
    assert result.is_failure, result
    assert "some.pem" in result.err


def test_serve_with_a_key_without_certificate(command: Command, certificates: Certificates) -> None:
    result = command("serve", "--port", "0", "--tls-key", certificates.key)
    assert result.is_failure, result


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_as_a_process(number: signal.Signals) -> None:
    with process("serve", "--host", HOST, "--port", "0") as server:
        assert server.stdout is not None
        match = re.fullmatch(r"listening on ws://.*:(\d+)/ \(Ctrl-C stops\)\n", server.stdout.readline())
        assert match is not None
        async with trio_ws.connect(f"ws://{HOST}:{match[1]}/path") as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
            server.send_signal(number)
            with pytest.raises(trio_ws.ConnectionClosedOK) as caught:
                await ws.receive()
        out, err = server.communicate(timeout=60)
        assert caught.value.code == 1001
        assert (server.returncode, out) == (0, "closing\n")
        # Times come before.
        logged = [line.split(" ", 2)[2] for line in err.splitlines()]
        port = ws.local_address[1]
        assert logged == [f"{HOST}:{port} opened /path", f"{HOST}:{port} closed 1001 after 1 messages"]


# -- connect -------------------------------------------------------------------------------------------------------


def test_connect(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", f"ws://{HOST}:{port}/", stdin=b"one\ntwo\n")
    assert (result.status, result.out) == (0, "one\ntwo\n")
    assert result.err == (
        f"connected to ws://{HOST}:{port}/\n"
        "connection closed: sent 1000 (normal closure), then received 1000 (normal closure)\n"
    )


@pytest.mark.parametrize(
    "stdin, messages",
    [
        (b"", []),
        (b"\n", [""]),
        (b"no end", ["no end"]),
        (b"one\r\n\r\ntwo", ["one", "", "two"]),
        ("Smørrebrød\n🌍".encode(), ["Smørrebrød", "🌍"]),
    ],
)
def test_connect_sends_lines(stdin: bytes, messages: list[str], command: Command) -> None:
    received = []

    async def collect(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            received.append(message)

    with serving(collect) as port:
        result = command("connect", f"ws://{HOST}:{port}", stdin=stdin)
    assert (result.status, result.out) == (0, "")
    assert received == messages


async def test_characters_may_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file is read in pieces of 65536 bytes.
    expected = ["x" * 65_535 + "🌍", "y" * 65_536, "z"]
    (tmp_path / "input").write_bytes("\n".join(expected).encode())
    with (tmp_path / "input").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert [line async for line in connect._Lines("")] == expected


def test_connect_shows_binary_messages_in_hexadecimal(command: Command) -> None:
    async def send_bytes(ws: trio_ws.WebSocket) -> None:
        await ws.send(b"\x00\xff\x10")
        await ws.receive()

    with serving(send_bytes) as port:
        result = command("connect", f"ws://{HOST}:{port}", stdin=b"thanks\n")
    assert (result.status, result.out) == (0, "[3 bytes] 00 ff 10\n")


def test_connect_sends_headers_and_offers_subprotocols(command: Command) -> None:
    requests = []

    async def note(ws: trio_ws.WebSocket) -> None:
        requests.append(ws.request)

    args = ["--header", "X-One: 1", "--header", "X-Two:a: b", "--subprotocol", "v2", "--subprotocol", "v1"]
    with serving(note, subprotocols=("v1",)) as port:
        result = command("connect", *args, f"ws://{HOST}:{port}")
    assert result.status == 0
    assert result.err.startswith(f"connected to ws://{HOST}:{port}, subprotocol v1\n")
    headers = requests[0].headers
    assert (headers["X-One"], headers["X-Two"], headers["Sec-WebSocket-Protocol"]) == ("1", "a: b", "v2, v1")


def test_connect_insecure(command: Command, certificates: Certificates) -> None:
    with serving(echo, context=certificates.server) as port:
        result = command("connect", "--insecure", f"wss://{HOST}:{port}", stdin=b"hello\n")
        assert (result.status, result.out) == (0, "hello\n")
        result = command("connect", f"wss://{HOST}:{port}", stdin=b"hello\n")
    assert result.is_failure, result
    assert "certificate" in result.err


def test_insecure_means_nothing_without_tls(command: Command) -> None:
    with serving(echo) as port:
        assert command("connect", "--insecure", f"ws://{HOST}:{port}").status == 0


def test_connect_without_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    async def greet(ws: trio_ws.WebSocket) -> None:
        await ws.send("hello")

    with serving(greet) as port, monkeypatch.context() as patch:
        for name in ("stdin", "stdout", "stderr"):
            patch.setattr(sys, name, None)
        status = main.main(["connect", f"ws://{HOST}:{port}"])
    assert status == 0


def test_connect_to_nobody(command: Command) -> None:
    with socket.socket() as unused:
        unused.bind((HOST, 0))  # nobody listens there, and nobody else can
        port = unused.getsockname()[1]
        result = command("connect", f"ws://{HOST}:{port}")
    assert result.is_failure, result
    assert f"{HOST}:{port}" in result.err


@pytest.mark.parametrize(
    "args",
    [
        ["http://example.org"],
        ["ws://"],
        ["--subprotocol", "two words", "ws://example.org"],
        ["--header", "Upgrade: h2c", "ws://example.org"],
        ["--header", "not a token: value", "ws://example.org"],
        ["--header", "Name: line\nbreak", "ws://example.org"],
    ],
)
def test_connect_with_what_cannot_be(args: list[str], command: Command) -> None:
    result = command("connect", *args)
    assert result.is_failure, result


@pytest.mark.parametrize(
    "answer, expected",
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>", "200 OK"),
        (b"220 mail.example.org ESMTP\r\n\r\n", ""),
        (b"", ""),
    ],
)
def test_connect_to_what_is_no_websocket_server(answer: bytes, expected: str, command: Command) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        await stream.send_all(answer)

    with accepting(reply) as port:
        result = command("connect", f"ws://{HOST}:{port}")
    assert result.is_failure, result
    assert expected in result.err


def test_connect_to_what_speaks_no_tls(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", f"wss://{HOST}:{port}")
    assert result.is_failure, result


def test_connection_lost(command: Command) -> None:
    with accepting(open_and_hang_up) as port:
        result = command("connect", f"ws://{HOST}:{port}", stdin=b"hello\n")
    assert (result.status, result.out) == (1, "")
    assert len(result.err.splitlines()) == 2
    assert result.err.splitlines()[1].startswith("connection closed: ")
    assert "lost" in result.err


def test_connection_closed_because_something_is_wrong(command: Command) -> None:
    async def refuse(ws: trio_ws.WebSocket) -> None:
        await ws.aclose(4001, "go away")

    with serving(refuse) as port:
        result = command("connect", f"ws://{HOST}:{port}")
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines()[1].startswith("connection closed: ")
    assert "4001 (private use) go away" in result.err


def test_input_that_is_not_utf8(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", f"ws://{HOST}:{port}", stdin=b"caf\xe9\n")
    assert (result.status, result.out) == (1, "")
    assert result.err == f"connected to ws://{HOST}:{port}\nerror: standard input is not UTF-8\n"


def test_input_that_ends_within_a_character(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", f"ws://{HOST}:{port}", stdin="🌍".encode()[:-1])
    assert (result.status, result.out) == (1, "")
    assert result.err.endswith("error: standard input is not UTF-8\n")


async def test_sending_ends_with_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"too late\n")
    os.close(writing)
    client_end, server_end = trio.testing.memory_stream_pair()
    with os.fdopen(reading) as file:
        monkeypatch.setattr(sys, "stdin", file)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_ws.serve_over, server_end, echo)
            async with trio_ws.connect_over(client_end, "ws://test/") as ws:
                await ws.aclose()
                await connect._send_lines(ws, "")


def test_the_server_may_close_first() -> None:
    """Although the end of the input has not come."""

    async def greet(ws: trio_ws.WebSocket) -> None:
        await ws.send(f"hello, {await ws.receive(decode=True)}")

    with serving(greet) as port, process("connect", f"ws://{HOST}:{port}") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        client.stdin.write("me\n")
        client.stdin.flush()
        assert client.stdout.read() == "hello, me\n"
        assert client.stderr.read().splitlines()[1].startswith("connection closed: received 1000 ")
        assert client.wait(timeout=60) == 0


def test_answers_are_printed_as_they_come() -> None:
    with serving(echo) as port, process("connect", f"ws://{HOST}:{port}") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for line in ("one\n", "two\n"):
            client.stdin.write(line)
            client.stdin.flush()
            assert client.stdout.readline() == line
        client.communicate(timeout=60)
        assert client.returncode == 0


@needs_signals
def test_connect_interrupted() -> None:
    with serving(echo) as port, process("connect", f"ws://{HOST}:{port}") as client:
        assert client.stderr is not None
        assert client.stderr.readline() == f"connected to ws://{HOST}:{port}\n"
        client.send_signal(signal.SIGINT)
        assert client.stderr.read() == "interrupted\n"
        assert client.wait(timeout=60) == 130


@needs_signals
def test_nobody_reads_what_is_printed() -> None:
    with serving(echo) as port, process("connect", f"ws://{HOST}:{port}") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        client.stdout.close()
        client.stdin.write("hello\n")
        client.stdin.flush()
        assert client.stderr.read().splitlines()[1] == "error: Broken pipe"
        assert client.wait(timeout=60) == 1


# -- connect, on a terminal ----------------------------------------------------------------------------------------


@needs_pty
def test_connect_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    async def echo_one(ws: trio_ws.WebSocket) -> None:
        await ws.send(await ws.receive())
        await ws.receive()

    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs) as terminal, serving(echo_one) as port:
            monkeypatch.setattr(sys, "stdin", terminal)
            os.write(ours, b"hello\n\x04")  # Ctrl-D
            status = main.main(["connect", f"ws://{HOST}:{port}"])
    finally:
        os.close(ours)
    out, err = capsys.readouterr()
    assert status == 0
    assert out == "> > \r< hello\n> "
    assert "\n\rconnection closed: sent 1000 " in err


@needs_pty
def test_connect_on_a_terminal_as_a_process() -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with serving(echo) as port:
        arguments = [sys.executable, "-m", "trio_ws", "connect", f"ws://{HOST}:{port}"]
        with subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as client:
            os.close(theirs)
            shown = b""

            def read_until(text: bytes) -> None:
                nonlocal shown
                while text not in shown:
                    shown += os.read(ours, 1024)

            try:
                read_until(b"> ")
                os.write(ours, b"hello\n")
                read_until(b"< hello")
                os.write(ours, b"\x04")
                read_until(b"connection closed: sent 1000 ")
                assert client.wait(timeout=60) == 0
            finally:
                client.kill()
                os.close(ours)


# -- demo ----------------------------------------------------------------------------------------------------------


def test_demo(command: Command) -> None:
    result = command("demo")
    assert (result.status, result.err) == (0, "")
    patterns = [
        r"server listening on ws://127\.0\.0\.1:\d+/demo",
        r"connected: 101 Switching Protocols",
        r"sent      text, 5 bytes: 'hello'",
        r"received  text, 5 bytes: 'hello'",
        r"sent      binary, 3 bytes: 00 01 02",
        r"received  binary, 3 bytes: 00 01 02",
        r"sent      text, 1,000,000 bytes: '🌍 🌍 🌍 🌍 '\.\.\.",
        r"received  text, 1,000,000 bytes: '🌍 🌍 🌍 🌍 '\.\.\.",
        r"ping      round trip of \d+ µs",
        r"closed    1000 bye",
        r"server closed",
    ]
    lines = result.out.splitlines()
    assert len(lines) == len(patterns)
    times = []
    for line, pattern in zip(lines, patterns, strict=True):
        match = re.fullmatch(r" *(\d+\.\d\d) ms  " + pattern, line)
        assert match is not None, line
        times.append(float(match[1]))
    assert times == sorted(times)


def test_demo_fails_when_the_answer_is_wrong(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    async def change(ws: trio_ws.WebSocket) -> None:
        async for _ in ws:
            await ws.send("something else")

    monkeypatch.setattr(demo, "_echo", change)
    result = command("demo")
    assert result.status == 1
    assert result.err == "error: this is not what was sent\n"


def test_demo_as_a_process() -> None:
    with process("demo") as demo:
        out, err = demo.communicate(timeout=60)
        assert (demo.returncode, err) == (0, "")
        assert out.endswith("server closed\n")


# -- All of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["frobnicate"],
        ["connect"],
        ["connect", "--header", "no colon", "ws://example.org"],
        ["connect", "--header", ": no name", "ws://example.org"],
        ["serve", "--port", "http"],
        ["serve", "--port", "-1"],
        ["serve", "--port", "65536"],
        ["demo", "--port", "80"],
    ],
)
def test_wrong_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(args)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("usage: python -m trio_ws ")


@pytest.mark.parametrize("args", [["--help"], ["serve", "--help"], ["connect", "--help"], ["demo", "--help"]])
def test_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(args)
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m trio_ws ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"trio_ws {trio_ws.__version__}\n"


def test_what_is_no_outcome_is_raised() -> None:
    with pytest.raises(LookupError):
        main._report(LookupError("a mistake in the program"))


def test_errors_take_one_line() -> None:
    assert failure.one_line(OSError(98, "Address already in use")) == "Address already in use"
    assert failure.one_line(ValueError("two\nlines")) == "two lines"
    assert failure.one_line(ValueError()) == "ValueError"


def test_what_a_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))

    async def greet(ws: trio_ws.WebSocket) -> None:
        await ws.send("Smørrebrød")

    with serving(greet) as port:
        assert command("connect", f"ws://{HOST}:{port}").status == 0
    assert raw.getvalue() == b"Sm\\xf8rrebr\\xf8d\n"
