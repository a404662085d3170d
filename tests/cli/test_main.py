"""Arguments and exit status of all commands."""

from __future__ import annotations

import io
import sys

import pytest

import trio_ws
from trio_ws.cli import failure, main

from .commands import HOST, Command, serving

# -- All commands ----------------------------------------------------------------------------------------------------


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


def test_unexpected_exceptions_are_raised() -> None:
    with pytest.raises(LookupError):
        main._report(LookupError("a mistake in the program"))


def test_errors_without_standard_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not go to standard output instead."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main._report(failure.Failure("no")) == 1
    assert main._report(KeyboardInterrupt()) == 130
    assert capsys.readouterr().out == ""


def test_errors_take_one_line() -> None:
    assert failure.one_line(OSError(98, "Address already in use")) == "Address already in use"
    assert failure.one_line(OSError(2, "No such file", "/x")) == "No such file: '/x'"
    assert failure.one_line(ValueError("two\nlines")) == "two lines"
    assert failure.one_line(ValueError()) == "ValueError"


def test_characters_that_the_terminal_lacks(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))

    async def greet(ws: trio_ws.WebSocket) -> None:
        await ws.send("Smørrebrød")

    with serving(greet) as port:
        assert command("connect", f"ws://{HOST}:{port}").status == 0
    assert raw.getvalue() == b"Sm\\xf8rrebr\\xf8d\n"
