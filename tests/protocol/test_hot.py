"""Which functions are used, the compiled ones or those in Python."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trio_ws.protocol import hot, pure

FUNCTIONS = ["apply_mask", "pack", "take_messages"]

SCRIPT = """
import sys
{before}
import trio_ws
from trio_ws.protocol import hot
functions = hot.apply_mask, hot.pack, hot.take_messages
print(hot.COMPILED, {{function.__module__.rpartition(".")[2] for function in functions}})
"""


def run(setting: str | None, before: str = "") -> str:
    """Return what a new process uses."""
    environment = {name: value for name, value in os.environ.items() if name != "TRIO_WS_PURE"}
    if setting is not None:
        environment["TRIO_WS_PURE"] = setting
    command = [sys.executable, "-c", SCRIPT.format(before=before)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


PURE, COMPILED = "False {'pure'}", "True {'compiled'}"


def test_one_and_the_same_for_all() -> None:
    assert hot.COMPILED is not (hot.pack is pure.pack)
    assert {getattr(hot, name) is getattr(pure, name) for name in FUNCTIONS} == {not hot.COMPILED}


@pytest.mark.parametrize("setting", ["1", "yes"])
def test_the_way_to_do_without(setting: str) -> None:
    assert run(setting) == PURE


def test_without_the_compiled_ones() -> None:
    assert run(None, "sys.modules['trio_ws.protocol.compiled'] = None") == PURE


@pytest.mark.parametrize("setting", [None, "", "0"])
def test_used_if_they_are_there(setting: str | None) -> None:
    pytest.importorskip("trio_ws.protocol.compiled", reason="it was built without a C compiler")
    assert run(setting) == COMPILED
