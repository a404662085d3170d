"""``python -m trio_ws demo``."""

from __future__ import annotations

import re

import pytest

import trio_ws
from trio_ws.cli import demo

from ..support import HANGS
from .commands import Command, process

# -- demo ------------------------------------------------------------------------------------------------------------


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
    assert result.err == "error: the echo differs from the message\n"


def test_demo_as_a_process() -> None:
    with process("demo") as demo:
        out, err = demo.communicate(timeout=HANGS)
        assert (demo.returncode, err) == (0, "")
        assert out.endswith("server closed\n")
