"""Tests of docstring_lint.py."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("docstring_lint.py")))
find_problems: Callable[[str], Iterator[tuple[int, str]]] = SCRIPT["find_problems"]
main: Callable[[list[str]], int] = SCRIPT["main"]

REFUSED = [
    '"""What this is about."""',
    'class A:\n    """Who it is."""',
    'def f():\n    """Whose it is.\n\n    More.\n    """',
    'async def f():\n    """\n    Where it is."""',
    'def f():\n    def g():\n        """Take note of it."""',
    'def f():\n    """Say it."""',
    'def f():\n    """See to it."""',
    'def f() -> int:\n    """Whether it is."""',
    'def f():\n    """Whether it is."""',
    'class A:\n    """Whether it is."""',
    "#: What it is.\nx = 1",
    "#: Whose it is,\n#: in two lines.\nx = 1",
    "class A:\n    def f(self):\n        #: Where it is.\n        self.x: int = 1",
    "x = 1  #: What it is.",
    "#: Whether it is.\nx = 1",
    "#: Whether it is.\nx: int = f(True)",
    "x = 1  #: Whether it is.",
    'x = 1\n"""What it is."""',
    'class A:\n    x: int\n    """Whether it is."""',
]

ALLOWED = [
    '"""A place.\n\nWhat is here, and where.\n"""',
    'def f():\n    """Return whether it is."""',
    'def f() -> bool:\n    """Whether it is."""',
    'def f() -> "bool":\n    """Whether it is."""',
    'def f() -> TypeGuard[int]:\n    """Whether it is."""',
    'class A:\n    @property\n    def f(self) -> bool:\n        """Whether it is."""',
    'def f():\n    """Whatever it is."""',
    'def f():\n    """Saying what it is."""',
    "# What it is.\nx = 1",
    "#: The number.\n#: What else?\nx = 1",
    "#: Whether it is.\nx = True",
    "#: Whether it is,\n#: or is not.\nx: bool",
    "#: Whether it is.\nx = any(y)",
    "#: Whether it is.\nx = y is None",
    "#: Whether it is.\nx = not y",
    "class A:\n    x: bool | None = None  #: Whether it is.",
    'x = False\n"""Whether it is."""',
    'x = "What it is."',
    'f("#: What it is.")',
    "",
]


@pytest.mark.parametrize("source", REFUSED)
def test_refused(source: str) -> None:
    assert len(list(find_problems(source))) == 1


@pytest.mark.parametrize("source", ALLOWED)
def test_allowed(source: str) -> None:
    assert list(find_problems(source)) == []


def test_where_it_is() -> None:
    source = 'x = 1\n\n#: What?\ny = 2\n\n\ndef f():\n    """Who?\n\n    More.\n    """\n'
    assert list(find_problems(source)) == [(3, "What?"), (8, "Who?")]


def test_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "package" / "bad.pyi"
    good.write_text('"""A module."""\n', "utf-8")
    bad.parent.mkdir()
    bad.write_text('"""What it is."""\n', "utf-8")
    (tmp_path / "not_python.pyx").write_text('"""What it is."""\n', "utf-8")
    assert main([str(good)]) == 0
    assert capsys.readouterr().out == ""
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f"{bad}:1: ")
