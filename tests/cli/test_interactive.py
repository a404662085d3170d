"""``trio-ws connect`` on a terminal: line editing with prompt_toolkit, and commands."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import trio

import trio_ws
from trio_ws.cli import commands
from trio_ws.cli.commands import CloseConnection, Parser, Ping, Send, ShowNote

from ..support import HANGS, echo
from .commands import HOST, ROOT, serving

# -- Commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, action",
    [
        ("hello", Send("hello")),
        ("", Send("")),
        ("//help", Send("/help")),
        ("/ping", Ping()),
        ("/help", ShowNote(commands.HELP)),
        ("/binary 00 FF10", Send(b"\x00\xff\x10")),
        ("/binary", Send(b"")),
        ("/close", CloseConnection(1000)),
        ("/close 4000", CloseConnection(4000)),
        ("/close 4000  bye for now ", CloseConnection(4000, "bye for now")),
    ],
)
def test_commands(line: str, action: commands.Action) -> None:
    assert Parser().parse_typed(line) == action


@pytest.mark.parametrize(
    "line", ["/", "/nothing", "/Ping", "/binary 0", "/binary xy", "/close 1006", "/close x", "/close 99999", "/close 0"]
)
def test_wrong_commands(line: str) -> None:
    assert isinstance(Parser().parse_typed(line), ShowNote)
    assert isinstance(Parser().parse_typed("/close 4000 " + "é" * 62), ShowNote)


def test_what_lines_stand_for() -> None:
    assert Parser(binary=True).parse_typed("é") == Send("é".encode())
    assert Parser(base64_encoded=True).parse_typed("AP8Q") == Send(b"\x00\xff\x10")
    assert isinstance(Parser(base64_encoded=True).parse_typed("?"), ShowNote)
    assert Parser(close_code=4001).parse_typed("/close") == CloseConnection(4001)
    # Only at a prompt are there commands.
    assert Parser().parse_line(b"/ping") == Send("/ping")


# -- Line editing ----------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal that a command runs on.

    Attributes:
        shown: Everything that the command has written so far.
    """

    def __init__(self, descriptor: int, client: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.client = client
        self.shown = b""

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def read_more(self) -> None:
        ready, _, _ = select.select([self._descriptor], [], [], HANGS)
        assert ready, self.shown
        self.shown += os.read(self._descriptor, 4096)

    def read_until(self, text: str) -> str:
        """Return what is written up to a text, without escape sequences."""
        while text not in (plain := re.sub(rb"\x1b\[[?0-9;]*[A-Za-z]", b"", self.shown).decode()):
            self.read_more()
        before, found, _ = plain.partition(text)
        self.shown = plain.partition(text)[2].encode()
        return before + found


@contextlib.contextmanager
def on_terminal(*args: str, **environment: str) -> Iterator[Terminal]:
    """Run ``connect`` on a pseudo-terminal."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals")
    pytest.importorskip("prompt_toolkit", reason="line editing is an extra")
    ours, theirs = pty.openpty()
    # This terminal does not answer questions about the position of its cursor.
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", **environment}
    arguments = [sys.executable, "-m", "trio_ws", "connect", *args]
    with subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=variables) as client:
        os.close(theirs)
        try:
            yield Terminal(ours, client)
        finally:
            client.kill()
            os.close(ours)


def test_messages_do_not_disturb_the_line_that_is_typed() -> None:
    typed = threading.Event()
    received: queue.Queue[object] = queue.Queue()

    async def handle(ws: trio_ws.WebSocket) -> None:
        await trio.to_thread.run_sync(typed.wait)
        await ws.send("from the server")
        async for message in ws:
            received.put(message)

    with serving(handle) as port, on_terminal(f"ws://{HOST}:{port}") as terminal:
        terminal.read_until("connected to ")
        terminal.read_until(">")
        terminal.type("half")
        terminal.read_until("half")
        typed.set()
        terminal.read_until("< from the server")
        terminal.read_until("> half")  # It is shown again, below the message.
        terminal.type(" and half\x1b[D\x1b[D\x1b[D\x1b[Da \r")  # Four times to the left.
        assert received.get(timeout=HANGS) == "half and a half"
        terminal.type("\x1b[A!\r")  # The last line again, with an addition.
        assert received.get(timeout=HANGS) == "half and a half!"
        terminal.type("/close 4000 bye\r")
        terminal.read_until("connection closed: sent 4000 (private use) bye")
        assert terminal.client.wait(timeout=HANGS) == 0


def test_commands_at_the_prompt() -> None:
    with serving(echo) as port, on_terminal(f"ws://{HOST}:{port}", NO_COLOR="1") as terminal:
        terminal.read_until("connected to ")
        terminal.read_until(">")
        terminal.type("/ping\r")
        terminal.read_until("ping: ")
        terminal.type("/binary 00 ff\r")
        terminal.read_until("< [2 bytes] 00 ff")
        terminal.type("/frobnicate\r")
        terminal.read_until("/frobnicate is not a command")
        terminal.type("/help\r")
        terminal.read_until(commands.HELP.splitlines()[-1])
        terminal.type("\x04")  # Ctrl-D
        terminal.read_until("connection closed: sent 1000 ")
        assert terminal.client.wait(timeout=HANGS) == 0


def test_ctrl_c_closes_the_connection() -> None:
    codes: queue.Queue[int | None] = queue.Queue()

    async def handle(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()
        codes.put(ws.close_code)

    with serving(handle) as port, on_terminal(f"ws://{HOST}:{port}") as terminal:
        terminal.read_until("connected to ")
        terminal.read_until(">")
        terminal.type("half a line\x03")
        terminal.read_until("interrupted")
        assert terminal.client.wait(timeout=HANGS) == 130
    assert codes.get(timeout=HANGS) == 1000


def test_the_prompt_ends_with_the_connection() -> None:
    typed = threading.Event()

    async def handle(ws: trio_ws.WebSocket) -> None:
        await trio.to_thread.run_sync(typed.wait)
        await ws.aclose(4001, "enough")

    with serving(handle) as port, on_terminal(f"ws://{HOST}:{port}") as terminal:
        terminal.read_until("connected to ")
        terminal.read_until(">")
        terminal.type("half a line")
        terminal.read_until("half a line")
        typed.set()
        terminal.read_until("4001 (private use) enough")
        assert terminal.client.wait(timeout=HANGS) == 1


@pytest.mark.parametrize("variables, colored", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colors(variables: dict[str, str], colored: bool) -> None:
    with serving(echo) as port, on_terminal("--no-stdin", f"ws://{HOST}:{port}", **variables) as terminal:
        while b"connected" not in terminal.shown:
            terminal.read_more()
        assert (b"\x1b[2mconnected" in terminal.shown) is colored
        assert (b"\x1b" in terminal.shown) is colored
