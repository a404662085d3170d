"""Imports: ``import trio_ws`` imports what all programs need, and the other public names on their first use."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

import trio_ws

#: Modules that only some programs need.
OPTIONAL = {
    # the extras, and what the tests use
    *("coredis", "h2", "opentelemetry", "prometheus_client", "prompt_toolkit", "python_socks", "redis", "werkzeug"),
    *("hypothesis", "pytest", "zlib_ng"),
    # our modules
    *("trio_ws.__main__", "trio_ws.cli", "trio_ws.hub", "trio_ws.observe", "trio_ws.server", "trio_ws.testing"),
    *("trio_ws.client.attempts", "trio_ws.client.backoff", "trio_ws.client.reconnecting"),
    *("trio_ws.connection.bytestream", "trio_ws.connection.typed"),
    # slow modules of the standard library
    *("asyncio", "datetime", "difflib", "email", "http", "urllib.request", "zlib"),
}


def run(code: str) -> Any:
    """Run code in a new interpreter, and return what it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_the_package_imports_nothing_that_only_some_programs_need() -> None:
    dependencies, all_modules = run(
        "import trio, attrs, h11, idna, json, sys; before = set(sys.modules)\n"
        "import trio_ws; print(json.dumps([list(before), list(sys.modules)]))"
    )
    assert not OPTIONAL & (set(all_modules) - set(dependencies))


def test_attrs_generates_no_repr() -> None:
    # Generating one takes as long as importing a module, and show_fields() does the same.
    generated = run(
        """
import json, sys, attrs, trio_ws
classes = [
    value
    for name, module in sys.modules.items() if name.startswith("trio_ws")
    for value in vars(module).values() if isinstance(value, type) and attrs.has(value)
]
files = {each.__name__: getattr(each.__repr__, "__code__", None) for each in classes}
print(json.dumps([name for name, code in files.items() if code and code.co_filename.startswith("<attrs")]))
"""
    )
    assert not generated


def test_a_name_of_each_late_module_can_be_the_first() -> None:
    wrong = run(
        """
import json, sys
import trio_ws
wrong = []
for late in sorted(set(trio_ws._MODULES.values())):
    for module in [each for each in sys.modules if each.split(".")[0] == "trio_ws"]:
        del sys.modules[module]
    import trio_ws
    for name in [name for name, module in trio_ws._MODULES.items() if module == late]:
        value = getattr(trio_ws, name)
        if getattr(value, "__module__", "").startswith("trio_ws.") or value is not getattr(trio_ws, name):
            wrong.append(name)
print(json.dumps(wrong if trio_ws._MODULES else ["nothing was tested"]))
"""
    )
    assert not wrong


def test_one_name_shows_the_package_for_everything_that_its_module_imports() -> None:
    assert run("import json, trio_ws; trio_ws.Server; print(json.dumps(trio_ws.Limits.__module__))") == "trio_ws"
    shown = run(
        "import json, trio_ws; from trio_ws.server.server import Server; trio_ws.serve\n"
        "print(json.dumps(Server.__module__))"
    )
    assert shown == "trio_ws"


def test_type_checkers_see_the_same_names() -> None:
    (block,) = [
        node
        for node in ast.parse(inspect.getsource(trio_ws)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = {
        alias.name: f"trio_ws.{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imports == trio_ws._MODULES


def test_late_names_are_listed_and_can_be_imported() -> None:
    assert set(trio_ws.__all__) <= set(dir(trio_ws))
    names: dict[str, object] = {}
    exec("from trio_ws import *", names)
    assert set(trio_ws.__all__) <= set(names)
    for name, module in trio_ws._MODULES.items():
        assert getattr(importlib.import_module(module), name) is getattr(trio_ws, name)


def test_unknown_names_are_not_attributes() -> None:
    with pytest.raises(AttributeError, match=r"^module 'trio_ws' has no attribute 'conect'$"):
        print(trio_ws.conect)  # type: ignore[attr-defined]  # the test is about this


def test_the_first_server_or_client_with_compression_imports_the_library() -> None:
    loaded = run(
        """
import json, sys, trio, trio_ws
from trio_ws.protocol.deflate import transform

def loaded():
    return transform.zlib is not None

found = [loaded()]
trio_ws.connect("ws://localhost/", compression=None)
found.append(loaded())
trio_ws.connect("ws://localhost/")
found.append(loaded())
print(json.dumps(found))
"""
    )
    assert loaded == [False, False, True]
