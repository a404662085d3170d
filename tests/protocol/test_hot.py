"""The choice between the compiled functions and those in Python."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import pytest

import trio_ws.protocol
from trio_ws.protocol import hot, pure

FUNCTIONS = sorted(set(hot.__all__) - {"COMPILED"})
NAME = "trio_ws.protocol.compiled"


def load(monkeypatch: pytest.MonkeyPatch, setting: str | None, compiled: ModuleType | None) -> ModuleType:
    """Import hot.py again, with this value of TRIO_WS_PURE, and with this compiled module or none."""
    if setting is None:
        monkeypatch.delenv("TRIO_WS_PURE", raising=False)
    else:
        monkeypatch.setenv("TRIO_WS_PURE", setting)
    # A module that is None in sys.modules cannot be imported.
    monkeypatch.setitem(sys.modules, NAME, compiled)
    monkeypatch.delattr(trio_ws.protocol, "compiled", raising=False)
    spec = importlib.util.find_spec(hot.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in() -> ModuleType:
    """Return a fake compiled module, so that the test needs no C compiler."""
    module = ModuleType(NAME)
    for name in FUNCTIONS:
        setattr(module, name, object())
    return module


def test_all_modules_use_the_same_functions() -> None:
    assert {getattr(hot, name) is getattr(pure, name) for name in FUNCTIONS} == {not hot.COMPILED}


@pytest.mark.parametrize("setting", ["1", "yes"])
def test_disabled_by_the_environment_variable(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    module = load(monkeypatch, setting, stand_in())
    assert module.COMPILED is False
    assert all(getattr(module, name) is getattr(pure, name) for name in FUNCTIONS)


def test_without_the_compiled_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(monkeypatch, None, None)
    assert module.COMPILED is False
    assert all(getattr(module, name) is getattr(pure, name) for name in FUNCTIONS)


@pytest.mark.parametrize("setting", [None, "", "0"])
def test_used_if_available(monkeypatch: pytest.MonkeyPatch, setting: str | None) -> None:
    compiled = stand_in()
    module = load(monkeypatch, setting, compiled)
    assert module.COMPILED is True
    assert all(getattr(module, name) is getattr(compiled, name) for name in FUNCTIONS)


SCRIPT = f"""
import trio_ws
from trio_ws.protocol import hot
print(hot.COMPILED, {{getattr(hot, name).__module__.rpartition(".")[2] for name in {FUNCTIONS}}})
"""


@pytest.mark.parametrize(
    "setting, expected", [("1", "False {'pure'}"), ("0", "True {'compiled'}"), (None, "True {'compiled'}")]
)
def test_a_new_process(setting: str | None, expected: str) -> None:
    pytest.importorskip(NAME, reason="it was built without a C compiler")
    environment = {name: value for name, value in os.environ.items() if name != "TRIO_WS_PURE"}
    if setting is not None:
        environment["TRIO_WS_PURE"] = setting
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
