"""``python -m trio_ws serve``."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.cli import main, serve

from ..support import HANGS
from .commands import HOST, Certificates, Command, needs_signals, process

# -- Helpers ---------------------------------------------------------------------------------------------------------


def trusting_anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# -- Running commands ------------------------------------------------------------------------------------------------


class Output(io.StringIO):
    """A standard output that tests can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._written = trio.Event()

    def write(self, text: str) -> int:
        self._written.set()
        self._written = trio.Event()
        return super().write(text)

    async def wait_for(self, pattern: str) -> re.Match[str]:
        with trio.fail_after(HANGS):
            while (match := re.search(pattern, self.getvalue())) is None:
                await self._written.wait()
        return match


class Server:
    """The command ``serve``, running in a task."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.port = 0
        #: The exit status; None while it runs.
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
        address = () if "--unix" in args else ("--port", "0", "--host", host)
        nursery.start_soon(partial(server.run, *address, *args))
        listening = await server.output.wait_for(r"^listening on (?:wss?://.*:(\d+)/|ws\+unix:.*) \(")
        server.port = int(listening[1] or 0)
        try:
            yield server
        finally:
            if not server.ended.is_set():
                signal.raise_signal(signal.SIGTERM)
                with trio.fail_after(HANGS):
                    await server.ended.wait()


# -- serve -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve(
    number: signal.Signals,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serve_command(nursery, monkeypatch) as server:
        async with trio_ws.connect(f"ws://{HOST}:{server.port}/path?token=secret") as ws:
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
            # The client never answers the Close frame.
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


def test_addresses_of_peers() -> None:
    assert serve._format_address(("192.0.2.1", 80)) == "192.0.2.1:80"
    assert serve._format_address("/run/socket") == "/run/socket"
    assert serve._format_address(None) == "peer"


def test_serve_on_a_port_in_use(command: Command) -> None:
    # create_server() sets SO_REUSEADDR on some systems, with which Windows lets others listen too.
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = command("serve", "--host", HOST, "--port", str(port))
    assert result.is_failure, result
    assert f"{HOST}:{port}" in result.err


def test_serve_on_an_invalid_host(command: Command) -> None:
    result = command("serve", "--host", "two..dots", "--port", "0")
    assert result.is_wrong_usage, result
    assert "two..dots" in result.err


def test_serve_with_a_missing_certificate(command: Command, tmp_path: Path) -> None:
    result = command("serve", "--port", "0", "--tls-cert", str(tmp_path / "missing.pem"))
    assert result.is_wrong_usage, result
    assert "missing.pem" in result.err


def test_serve_with_an_invalid_certificate(command: Command, tmp_path: Path) -> None:
    (tmp_path / "some.pem").write_text("This is no certificate.")
    result = command("serve", "--port", "0", "--tls-cert", str(tmp_path / "some.pem"))
    assert result.is_wrong_usage, result
    assert "some.pem" in result.err


def test_serve_with_a_key_without_certificate(command: Command, certificates: Certificates) -> None:
    result = command("serve", "--port", "0", "--tls-key", certificates.key)
    assert result.is_wrong_usage, result


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
        out, err = server.communicate(timeout=HANGS)
        assert caught.value.code == 1001
        assert (server.returncode, out) == (0, "closing\n")
        # Each line begins with the time.
        logged = [line.split(" ", 2)[2] for line in err.splitlines()]
        port = ws.local_address[1]
        assert logged == [f"{HOST}:{port} opened /path", f"{HOST}:{port} closed 1001 after 1 messages"]
