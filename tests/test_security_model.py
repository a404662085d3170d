"""SECURITY.md states the limits and their defaults: those of the code."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import trio_ws
from trio_ws.client.connecting import MAX_REDIRECTS
from trio_ws.settings import Settings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| [^|]+ \| `([^`]+)` \| ([^|]+) \|$", PAGE, re.MULTILINE)
UNITS = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024 * 1024}

#: Settings that are no limits.
OTHERS = {"compression", "subprotocols", "instruments"}


def parse(text: str) -> float | None:
    """Return a default as the page shows it: "64 KiB", "10 s", "1,000" or "none"."""
    if text == "none":
        return None
    number, _, unit = text.partition(" ")
    return int(number.replace(",", "")) * UNITS[unit]


def default(name: str) -> Any:
    """Return the value in the code."""
    if name.startswith("Limits."):
        return getattr(trio_ws.Limits(), name.removeprefix("Limits."))
    if "." in name:
        module, _, constant = name.rpartition(".")
        return getattr(importlib.import_module(f"trio_ws.{module}"), constant)
    if name == "max_redirects":
        return MAX_REDIRECTS
    if name in inspect.signature(trio_ws.broadcast).parameters:
        return inspect.signature(trio_ws.broadcast).parameters[name].default
    return getattr(Settings(), name)


@pytest.mark.parametrize("name, shown", ROWS, ids=[name for name, _ in ROWS])
def test_the_default_of_a_limit(name: str, shown: str) -> None:
    assert parse(shown) == default(name)


def test_every_limit_is_there() -> None:
    listed = {name for name, _ in ROWS}
    assert {field.name for field in attrs.fields(Settings)} - OTHERS <= listed
    assert {f"Limits.{field.name}" for field in attrs.fields(trio_ws.Limits)} <= listed
