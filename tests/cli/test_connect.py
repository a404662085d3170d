"""``python -m trio_ws connect``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.cli import commands, lines, main, terminal
from trio_ws.http11 import RequestParser
from trio_ws.protocol.handshake import accept

from ..support import HANGS, echo
from .commands import (
    HOST,
    ROOT,
    Certificates,
    Command,
    in_thread,
    needs_signals,
    process,
    serving,
)

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


# -- Servers ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def accepting(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> Iterator[int]:
    """Run a server that does not speak WebSocket. Yield its port."""

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        async def handle(stream: trio.SocketStream) -> None:
            async with stream:
                await handler(stream)

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=HOST))
            task_status.started(listeners[0].socket.getsockname()[1])

    with in_thread(serve) as port:
        yield port


async def open_and_hang_up(stream: trio.SocketStream) -> None:
    """Do the opening handshake, and disconnect when the first frame arrives."""
    parser = RequestParser()
    request = None
    while request is None:
        request = parser.feed(await stream.receive_some())
    await stream.send_all(accept(request)[0].serialize())
    await stream.receive_some()


# -- Running commands ------------------------------------------------------------------------------------------------


# -- connect ---------------------------------------------------------------------------------------------------------


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
        actions = [action async for action in lines.StdinLines(commands.Parser())]
    assert actions == [commands.Send(line) for line in expected]


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


def test_connect_to_a_closed_port(command: Command) -> None:
    with socket.socket() as unused:
        unused.bind((HOST, 0))  # The port is bound, so no other process can listen on it.
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
def test_connect_with_invalid_arguments(args: list[str], command: Command) -> None:
    result = command("connect", *args)
    assert result.is_wrong_usage, result


@pytest.mark.parametrize(
    "answer, expected",
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>", "200 OK"),
        (b"220 mail.example.org ESMTP\r\n\r\n", ""),
        (b"", ""),
    ],
)
def test_connect_to_an_http_server(answer: bytes, expected: str, command: Command) -> None:
    async def reply(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        await stream.send_all(answer)

    with accepting(reply) as port:
        result = command("connect", f"ws://{HOST}:{port}")
    assert result.is_failure, result
    assert expected in result.err


def test_connect_to_a_server_without_tls(command: Command) -> None:
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


def test_connection_closed_with_an_error(command: Command) -> None:
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


def test_the_server_may_close_first() -> None:
    """The command ends without waiting for the end of its input."""

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
        assert client.wait(timeout=HANGS) == 0


def test_answers_are_printed_as_they_come() -> None:
    with serving(echo) as port, process("connect", f"ws://{HOST}:{port}") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for line in ("one\n", "two\n"):
            client.stdin.write(line)
            client.stdin.flush()
            assert client.stdout.readline() == line
        client.communicate(timeout=HANGS)
        assert client.returncode == 0


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_connect_interrupted(number: signal.Signals) -> None:
    closes = []

    async def note_close(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()
        closes.append((ws.close_code, ws.close_reason))

    with serving(note_close) as port, process("connect", f"ws://{HOST}:{port}") as client:
        assert client.stderr is not None
        assert client.stderr.readline() == f"connected to ws://{HOST}:{port}\n"
        client.send_signal(number)
        assert client.stderr.read().splitlines() == [
            "connection closed: sent 1000 (normal closure), then received 1000 (normal closure)",
            "interrupted",
        ]
        assert client.wait(timeout=HANGS) == 128 + number
    assert closes == [(1000, "")]


@needs_signals
def test_interrupted_between_two_connections() -> None:
    async def close(ws: trio_ws.WebSocket) -> None:
        await ws.aclose(1001)

    with serving(close) as port, process("connect", "--no-stdin", "--reconnect", f"ws://{HOST}:{port}") as client:
        assert client.stderr is not None
        for expected in ("connected to", "connection closed: received 1001"):
            assert client.stderr.readline().startswith(expected)
        client.send_signal(signal.SIGTERM)
        # It may have connected again before that.
        assert client.stderr.read().splitlines()[-1] == "interrupted"
        assert client.wait(timeout=HANGS) == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has F_GETPIPE_SZ, to see that the pipe is full")
def test_the_second_signal_ends_a_write_to_a_full_pipe() -> None:
    import fcntl
    import termios

    async def flood(ws: trio_ws.WebSocket) -> None:
        while True:
            await ws.send("x" * 4095)  # with a newline, a page of the pipe

    with serving(flood) as port, process("connect", "--no-stdin", f"ws://{HOST}:{port}") as client:
        assert client.stdout is not None
        size = fcntl.fcntl(client.stdout, fcntl.F_GETPIPE_SZ)
        unread = 0
        while unread < size:
            unread = int.from_bytes(fcntl.ioctl(client.stdout, termios.FIONREAD, bytes(4)), sys.byteorder)
        while client.poll() is None:
            client.send_signal(signal.SIGTERM)
        assert client.returncode == -signal.SIGTERM


@needs_signals
def test_standard_output_is_closed() -> None:
    with serving(echo) as port, process("connect", f"ws://{HOST}:{port}") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        client.stdout.close()
        client.stdin.write("hello\n")
        client.stdin.flush()
        assert client.stderr.read().splitlines()[1] == "error: Broken pipe"
        assert client.wait(timeout=HANGS) == 1


# -- connect, on a terminal ------------------------------------------------------------------------------------------


@needs_pty
def test_connect_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    async def echo_one(ws: trio_ws.WebSocket) -> None:
        await ws.send(await ws.receive())
        await ws.receive()

    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs) as follower, serving(echo_one) as port:
            monkeypatch.setattr(sys, "stdin", follower)
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
    # There is no line editing on such a terminal, even if prompt_toolkit is installed.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
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
                assert client.wait(timeout=HANGS) == 0
            finally:
                client.kill()
                os.close(ours)


# -- What a server sends does not control the terminal ---------------------------------------------------------------


HOSTILE = "\x1b]0;title\x07\x9b31m\r\nerror: a line\t\x7f\u202egnp\u2066\u061c\u2028 é🌍"
SHOWN = r"\x1b]0;title\x07\x9b31m\r" + "\n  error: a line\t" + r"\x7f\u202egnp\u2066\u061c\u2028 é🌍"


def test_messages_on_a_terminal() -> None:
    assert terminal.show(HOSTILE) == SHOWN
    assert terminal.show("as it is: é🌍 \\x1b\t") == "as it is: é🌍 \\x1b\t"
    for codepoint in [*range(0x20), *range(0x7F, 0xA0)]:
        character = chr(codepoint)
        assert (character in terminal.show(character)) == (character in "\n\t")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_control_characters_in_messages(
    is_terminal: bool, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def send(ws: trio_ws.WebSocket) -> None:
        await ws.send(HOSTILE)
        await ws.aclose(4000, "\x1b[2J\u202e\n")

    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    with serving(send) as port:
        result = command("connect", f"ws://{HOST}:{port}")
    assert result.out == (SHOWN if is_terminal else HOSTILE) + "\n"
    # Errors and other text are always escaped.
    assert r"\x1b[2J\u202e\n" in result.err
    assert all(line.isprintable() for line in result.err.split("\n"))


def test_control_characters_in_a_reason_phrase(command: Command) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 403 \x9b31m\x1bno\r\nX: \xad\x85y\r\nContent-Length: 4\r\n\r\n\x1b[2J")

    with accepting(refuse) as port:
        result = command("connect", f"ws://{HOST}:{port}")
    assert result.is_failure, result
    assert r"403 \x9b31m no (X: \xad\x85y" in result.err
    assert result.err[:-1].isprintable()


def test_the_password_in_a_uri_is_not_printed(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", f"ws://me:hunter2@{HOST}:{port}/?a@b")
    assert result.err.startswith(f"connected to ws://me:***@{HOST}:{port}/?a@b\n")
    for uri in ("http://me:hunter2@example.org", "ws://me:hunt/er2@example.org", "ws://me:hunter2@ex ample.org"):
        result = command("connect", uri)
        assert result.is_wrong_usage, result
        assert "hunt" not in result.err
        assert "er2" not in result.err
