"""The options of ``trio-ws connect`` for scripts."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import trio_ws
from trio_ws.cli import connect, main, output
from trio_ws.cli.credentials import basic_credentials
from trio_ws.uri import parse_uri

from ..support import HANGS, echo
from .commands import HOST, Command, in_thread, process, serving


@pytest.fixture(name="frozen_time")
def fixture_frozen_time(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(output, "timestamp", lambda: "2025-01-02T03:04:05.678Z")
    return "2025-01-02T03:04:05.678Z"


async def count_down(ws: trio_ws.WebSocket) -> None:
    for message in ("three", b"\x02\xff", "one"):
        await ws.send(message)


def test_timestamp() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", output.timestamp())


def test_no_stdin(command: Command) -> None:
    with serving(count_down) as port:
        result = command("connect", "--no-stdin", f"ws://{HOST}:{port}", stdin=b"not sent\n")
    assert (result.status, result.out) == (0, "three\n[2 bytes] 02 ff\none\n")
    assert "received 1000" in result.err


def test_max_messages(command: Command) -> None:
    codes = []

    async def send_many(ws: trio_ws.WebSocket) -> None:
        await count_down(ws)
        await ws.wait_closed()
        codes.append(ws.close_code)

    with serving(send_many) as port:
        # The end of the input does not close the connection.
        result = command("connect", "--max-messages", "2", "--close-code", "4002", f"ws://{HOST}:{port}")
    assert (result.status, result.out, codes) == (0, "three\n[2 bytes] 02 ff\n", [4002])
    with serving(count_down) as port:
        result = command("connect", "--max-messages", "4", f"ws://{HOST}:{port}")
    assert result.status == 3
    assert len(result.out.splitlines()) == 3


def test_close_code(command: Command) -> None:
    codes = []

    async def note(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()
        codes.append(ws.close_code)

    with serving(note) as port:
        assert command("connect", "--close-code", "4000", f"ws://{HOST}:{port}").status == 0
    assert codes == [4000]


def test_a_close_code_that_the_server_has_chosen(command: Command) -> None:
    async def close(ws: trio_ws.WebSocket) -> None:
        await ws.aclose(4000)

    with serving(close) as port:
        assert command("connect", "--no-stdin", "--close-code", "4000", f"ws://{HOST}:{port}").status == 1


def test_the_exit_status_of_a_connection() -> None:
    # The Close frames that were sent and received, the order, the cause, and the exit status with --close-code 4000.
    ours, other = trio_ws.Close(4000, "bye"), trio_ws.Close(4001, "")
    for sent, rcvd, rcvd_then_sent, cause, status in [
        (ours, trio_ws.Close(4000, ""), False, None, 0),
        (ours, ours, False, trio_ws.ProtocolError("the last message was incomplete"), 1),
        (ours, ours, True, None, 1),
        (ours, other, False, None, 1),
        (other, other, False, None, 1),
        (ours, None, None, None, 1),
        (None, None, None, None, 1),
    ]:
        arguments = ["connect", "--no-stdin", "--close-code", "4000", "ws://example.org"]
        client = connect.Client(main._parser().parse_args(arguments), output.Output(), connect._Actions([]))
        client._outcome = trio_ws.ConnectionClosedError(rcvd, sent, rcvd_then_sent)
        client._outcome.__cause__ = cause
        assert client.report() == status


def test_base64(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", "--base64", f"ws://{HOST}:{port}", stdin=b"AP8Q\n\n")
        assert (result.status, result.out) == (0, "AP8Q\n\n")
        result = command("connect", "--base64", f"ws://{HOST}:{port}", stdin=b"A?=\n")
    assert (result.status, result.err.splitlines()[-1][:40]) == (1, "error: a line of standard input is not b")


def test_binary_messages_are_written_as_they_are() -> None:
    with serving(count_down) as port, process("connect", "--binary", "--no-stdin", f"ws://{HOST}:{port}") as client:
        assert client.stdout is not None
        assert client.stdout.buffer.read() == b"three\n\x02\xffone\n"  # type: ignore[attr-defined]  # typeshed: IO[str]


def test_lines_as_binary_messages(command: Command) -> None:
    received = []

    async def collect(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            received.append(message)

    with serving(collect) as port:
        command("connect", "--binary", f"ws://{HOST}:{port}", stdin=b"caf\xe9\nx\n")
    assert received == [b"caf\xe9", b"x"]


@pytest.mark.parametrize("size", [0, 1, 2**18, 2**18 + 1, 2**20])
def test_file(size: int, command: Command, tmp_path: Path) -> None:
    content = "é" * (size // 2) + "x" * (size % 2)
    (tmp_path / "file").write_bytes(content.encode())
    received = []

    async def collect(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            received.append(message)

    with serving(collect) as port:
        for option in ([], ["--binary"]):
            result = command("connect", *option, "--file", str(tmp_path / "file"), f"ws://{HOST}:{port}")
            assert (result.status, result.out) == (0, "")
    assert received == [content, content.encode()]


def test_standard_input_as_a_file(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", "--file", "-", f"ws://{HOST}:{port}", stdin=b"two\nlines\n")
    assert (result.status, result.out) == (0, "two\nlines\n\n")


def test_wrong_files(command: Command, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "large").write_bytes(b"x" * 2**19 + b"\xe9")
    with serving(echo) as port:
        for name in ("latin", "large"):
            result = command("connect", "--file", str(tmp_path / name), f"ws://{HOST}:{port}")
            assert result.status == 1
            assert result.err.splitlines()[-1].endswith("is not UTF-8; use --binary to send it as a binary message")
    for path in (tmp_path, tmp_path / "missing"):
        result = command("connect", "--file", str(path), "ws://example.org")
        assert result.is_wrong_usage, result
        assert str(path) in result.err


def test_json(command: Command, frozen_time: str) -> None:
    with serving(count_down) as port:
        uri = f"ws://{HOST}:{port}"
        result = command("connect", "--json", "--no-stdin", uri)
    assert (result.status, result.err) == (0, "")
    events = [json.loads(line) for line in result.out.splitlines()]
    description = events[-1].pop("description")
    assert "received 1000" in description
    assert events == [
        {"time": frozen_time, "type": "open", "uri": uri, "subprotocol": None},
        {"time": frozen_time, "type": "text", "data": "three", "size": 5},
        {"time": frozen_time, "type": "binary", "base64": "Av8=", "size": 2},
        {"time": frozen_time, "type": "text", "data": "one", "size": 3},
        {"time": frozen_time, "type": "close", "code": 1000, "reason": "", "clean": True},
    ]


def test_json_is_ascii(command: Command) -> None:
    async def greet(ws: trio_ws.WebSocket) -> None:
        await ws.send("\x1b[2J\x9b é\u202e")

    with serving(greet) as port:
        result = command("connect", "--json", "--no-stdin", f"ws://{HOST}:{port}")
    assert result.out.isascii()
    assert "\x1b" not in result.out
    assert json.loads(result.out.splitlines()[1])["data"] == "\x1b[2J\x9b é\u202e"
    assert json.loads(result.out.splitlines()[1])["size"] == 12


def test_timestamps(command: Command, frozen_time: str) -> None:
    with serving(echo) as port:
        result = command("connect", "--timestamps", f"ws://{HOST}:{port}", stdin=b"hello\n")
    assert result.out == f"{frozen_time} hello\n"
    assert all(line.startswith(f"{frozen_time} con") for line in result.err.splitlines())


def test_verbose(command: Command) -> None:
    with serving(echo) as port:
        result = command("connect", "-v", "--auth", "me:secret", f"ws://{HOST}:{port}/path", stdin=b"hello\n")
        events = command("connect", "-v", "--json", f"ws://{HOST}:{port}", stdin=b"hello\n").out
    lines = result.err.splitlines()
    assert lines[0] == "> GET /path"
    assert "> Authorization: ***" in lines
    assert "secret" not in result.err
    assert "< 101 Switching Protocols" in lines
    frames = ["TEXT 'hello' [5 bytes]", "CLOSE 1000 (normal closure) [2 bytes]"]
    # The Close frame is sent at the end of the input, which may be before the echo has arrived.
    for mark in "><":
        assert [line[2:] for line in lines if line[0] == mark and line[2:] in frames] == frames
    kinds = [json.loads(line)["type"] for line in events.splitlines()]
    assert {"request", "response", "frame-sent", "frame-received"} < set(kinds)


def test_ping(command: Command) -> None:
    async def wait_for_pings(ws: trio_ws.WebSocket) -> None:
        for _ in range(2):
            await ws.ping()
        await ws.send("done")

    with serving(wait_for_pings) as port:
        result = command("connect", "--no-stdin", "--ping", "0.001", f"ws://{HOST}:{port}")
        events = command("connect", "--no-stdin", "--json", "--ping", "0.001", f"ws://{HOST}:{port}").out
    assert re.search(r"^ping: \d+\.\d\d ms$", result.err, re.MULTILINE)
    pongs = [event for event in map(json.loads, events.splitlines()) if event["type"] == "pong"]
    assert pongs
    assert all(event["seconds"] > 0 for event in pongs)


def test_the_request(command: Command) -> None:
    requests = []

    async def note(ws: trio_ws.WebSocket) -> None:
        requests.append(ws.request)

    with serving(note) as port:
        arguments = ["--no-compression", "--auth", "me:é", "--origin", f"http://{HOST}:{port}", "--proxy", "none"]
        assert command("connect", *arguments, f"ws://{HOST}:{port}").status == 0
    headers = requests[0].headers
    assert headers["Origin"] == f"http://{HOST}:{port}"
    assert headers["Authorization"] == "Basic bWU6w6k="
    assert "Sec-WebSocket-Extensions" not in headers


def test_a_password_needs_a_terminal(command: Command) -> None:
    result = command("connect", "--auth", "me", "ws://example.org")
    assert result.is_wrong_usage, result


def test_a_user_name_that_is_not_utf8() -> None:
    """It is sent as it was typed. In the arguments of a program, Python represents such a byte by a surrogate."""
    headers = basic_credentials(os.fsdecode(b"us\xe9r:pw"))(parse_uri("ws://example.org"))
    assert headers == {"Authorization": "Basic " + base64.b64encode(b"us\xe9r:pw").decode()}


def test_a_proxy_that_needs_another_package(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    result = command("connect", "--proxy", "socks5://127.0.0.1:1", "ws://example.org")
    assert result.is_failure, result
    assert "pip install" in result.err


def test_proxy(command: Command) -> None:
    result = command("connect", "--proxy", "http://127.0.0.1:1", "ws://example.org")
    assert result.is_failure, result
    assert "127.0.0.1:1" in result.err
    assert command("connect", "--proxy", "nonsense", "ws://example.org").is_wrong_usage
    assert command("connect", "--proxy", "http://p", "--unix", "/x").is_wrong_usage


def test_max_size(command: Command) -> None:
    async def send_much(ws: trio_ws.WebSocket) -> None:
        await ws.send("x" * 2048)
        await ws.wait_closed()

    with serving(send_much) as port:
        assert command("connect", "--max-size", "2K", "--max-messages", "1", f"ws://{HOST}:{port}").status == 0
        result = command("connect", "--max-size", "2047", "--no-stdin", f"ws://{HOST}:{port}")
    assert (result.status, result.out) == (1, "")
    assert "1009" in result.err


def test_the_cause_of_a_lost_connection(capsys: pytest.CaptureFixture[str]) -> None:
    told = trio_ws.ConnectionClosedError(None, trio_ws.Close(1009, "too large"))
    untold = trio_ws.ConnectionClosedError(None, trio_ws.Close(1000, ""))
    for error in (told, untold):
        error.__cause__ = ValueError("too\nlarge")
        output.TextOutput().closed(error)
        output.JsonOutput().closed(error)
    out, err = capsys.readouterr()
    expected = [
        "sent 1009 (message too big) too large, then the connection was lost",
        "sent 1000 (normal closure), then the connection was lost: too large",
    ]
    assert err.splitlines() == [f"connection closed: {text}" for text in expected]
    assert [json.loads(line)["description"] for line in out.splitlines()] == expected


def test_unix(command: Command, tmp_path: Path) -> None:
    if not hasattr(trio, "open_unix_socket") or os.name == "nt":
        pytest.skip("there are no Unix sockets here")
    path = str(tmp_path / "socket")
    paths = []

    async def note(ws: trio_ws.WebSocket) -> None:
        paths.append(ws.request.path)
        await echo(ws)

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio_ws.serve, note, path=path))
            task_status.started(0)

    with in_thread(serve):
        assert command("connect", "--unix", path, stdin=b"hello\n").out == "hello\n"
        assert command("connect", "--unix", path, "ws://localhost/there", stdin=b"hello\n").out == "hello\n"
        assert command("connect", f"ws+unix:{path}", stdin=b"hello\n").out == "hello\n"
    assert paths == ["/", "/there", "/"]


def test_reconnect(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str | bytes] = []
    reading, writing = os.pipe()

    async def restart_once(ws: trio_ws.WebSocket) -> None:
        # The input goes on with each connection: what the first one has accepted may be lost with it.
        os.write(writing, f"line {len(received)}\n".encode())
        received.append(await ws.receive())
        if len(received) == 1:
            await ws.aclose(1012, "restarting")
        else:
            await ws.send("welcome back")
            await ws.wait_closed()

    monkeypatch.setattr(trio_ws.Backoff, "delay", lambda self, number: 0.0)
    with serving(restart_once) as port, os.fdopen(reading) as file:
        monkeypatch.setattr(sys, "stdin", file)
        status = main.main(["connect", "--reconnect", "--max-messages", "1", f"ws://{HOST}:{port}"])
        os.close(writing)
    out, err = capsys.readouterr()
    assert (status, out, received) == (0, "welcome back\n", ["line 0", "line 1"])
    assert [line.split()[0] for line in err.splitlines()] == ["connected", "connection"] * 2
    assert "1012" in err


def test_standard_input_is_not_sent_in_pieces() -> None:
    """A file is one message. What was read of standard input cannot be read again for the next connection."""
    received: list[int] = []

    async def lose_the_first(ws: trio_ws.WebSocket) -> None:
        received.append(0)
        async with ws.receive_stream() as parts:
            async for part in parts:
                received[-1] += len(part)
                if len(received) == 1:
                    ws.abort()
                    break

    with (
        serving(lose_the_first) as port,
        process("connect", "--reconnect", "--file", "-", f"ws://{HOST}:{port}") as client,
    ):
        _, err = client.communicate("x" * 5_000_000, timeout=HANGS)
    assert client.returncode == 1
    assert "cannot be read twice" in err
    assert len(received) == 1


def test_reconnect_gives_up(command: Command) -> None:
    async def reject(ws: trio_ws.WebSocket) -> None:
        await ws.aclose(4003, "never again")

    with serving(reject) as port:
        result = command("connect", "--reconnect", "--no-stdin", f"ws://{HOST}:{port}")
    assert result.status == 1
    assert result.err.count("connected") == 1
