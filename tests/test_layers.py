"""Imports only point up the table of modules. This reads the imports, and says the table again."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "trio_ws"

# Each row may import from those above it, not from itself and not from those below.
TABLE = [
    ["version"],
    ["exceptions"],
    ["frames"],
    ["datastructures"],
    ["uri"],
    ["http11"],
    ["protocol.pure"],
    ["protocol.compiled"],
    ["protocol.hot"],
    ["protocol.codec"],
    ["protocol.extensions"],
    ["protocol.messages"],
    ["protocol.observed"],
    ["protocol.grammar"],
    ["protocol.deflate"],
    ["protocol.handshake"],
    ["protocol.closing"],
    ["protocol.connection"],
    ["protocol.__init__"],
    ["instruments"],
    ["settings"],
    ["channels", "per_run"],
    ["stream"],
    ["tasks"],
    ["websocket"],
    ["bytestream"],
    ["client.backoff", "client.cookies", "client.proxy", "client.redirect"],
    ["client.options"],
    ["client.dial", "client.request"],
    ["client.connect"],
    ["client.connector"],
    ["client.attempts", "client.reconnecting"],
    ["client.__init__"],
    ["server.forwarded", "server.limits", "server.listeners", "server.origins"],
    ["server.server"],
    ["server.auth", "server.options", "server.policy", "server.routing"],
    ["server.handshake"],
    ["server.accept"],
    ["server.serve"],
    ["server.__init__"],
    ["hub.backend", "hub.broadcast"],
    ["hub.hub"],
    ["hub.__init__"],
    ["observe.logs", "observe.prometheus"],
    ["observe.__init__"],
    ["testing.faults", "testing.peer"],
    ["testing.pair"],
    ["testing.__init__"],
    ["cli.main"],
    ["cli.__init__"],
    ["__main__"],
    ["__init__"],
]
LEVELS = {module: level for level, row in enumerate(TABLE) for module in row}

# What a protocol without I/O has no use for.
NO_IO = {"asyncio", "os", "random", "secrets", "select", "selectors", "socket", "ssl", "threading", "time", "trio"}


def modules() -> dict[str, Path]:
    """Return the modules of the package, by what they are called in the table."""
    folder = ROOT / PACKAGE
    return {".".join(path.relative_to(folder).with_suffix("").parts): path for path in sorted(folder.rglob("*.py"))}


MODULES = modules()


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_of(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that happen at run time, wherever they are: in a function or under a condition too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            for other in node.orelse:
                yield from imports_of(ast.Module([other], []))
        else:
            yield from imports_of(node)


def absolute_names(source: str, module: str) -> Iterator[tuple[str, list[str]]]:
    """Yield what a module imports: where from, in full, and which names; none for a plain ``import``."""
    # The package that "." stands for: the one that the module is in. An __init__ is in its own.
    package = [PACKAGE, *module.split(".")[:-1]]
    for node in imports_of(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), [alias.name for alias in node.names]


def imported_modules(source: str, module: str) -> set[str]:
    """Return the modules of the package that a module imports, by what they are called in the table."""
    known = set(MODULES) | set(LEVELS)

    def resolve(name: str) -> str | None:
        inside = name.removeprefix(PACKAGE).removeprefix(".")
        package = f"{inside}.__init__" if inside else "__init__"
        return inside if inside in known else package if package in known else None

    found = set()
    for origin, names in absolute_names(source, module):
        if origin.split(".")[0] != PACKAGE:
            continue
        # "from .protocol import closing" imports a module, "from .protocol import Role" what the package has.
        for name in names or [""]:
            target = (resolve(f"{origin}.{name}") if name else None) or resolve(origin)
            assert target is not None, f"{module} imports {origin}, which is not there"
            found.add(target)
    return found


def top_level_packages(module: str) -> set[str]:
    """Return the first parts of what a module imports from elsewhere."""
    origins = (origin for origin, _ in absolute_names(MODULES[module].read_text("utf-8"), module))
    return {origin.split(".")[0] for origin in origins} - {PACKAGE}


def test_the_table_names_no_module_twice() -> None:
    assert len(LEVELS) == sum(map(len, TABLE))


def test_there_is_something_to_test() -> None:
    assert {"exceptions", "protocol.connection", "protocol.__init__", "__init__"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_in_the_table(module: str) -> None:
    assert module in LEVELS


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up(module: str) -> None:
    imported = imported_modules(MODULES[module].read_text("utf-8"), module)
    wrong = {name for name in imported if LEVELS[name] >= LEVELS[module]}
    assert not wrong, f"{module} imports {wrong}, which are not above it"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("protocol.")])
def test_the_protocol_does_no_io(module: str) -> None:
    # An environment variable says whether the compiled functions are used.
    allowed = {"os"} if module == "protocol.hot" else set()
    assert not top_level_packages(module) & NO_IO - allowed


def test_one_module_imports_h11() -> None:
    assert [module for module in MODULES if "h11" in top_level_packages(module)] == ["http11"]


@pytest.mark.parametrize("module", ["version", "frames", "datastructures", "uri", "http11"])
def test_the_data_structures_do_no_io(module: str) -> None:
    # An environment variable says whether the compiled functions are used.
    allowed = {"os"} if module == "protocol.hot" else set()
    assert not top_level_packages(module) & NO_IO - allowed


def test_exceptions_imports_trio_for_base_classes_only() -> None:
    assert top_level_packages("exceptions") & NO_IO == {"trio"}


@pytest.mark.parametrize(
    "module, source, expected",
    [
        ("tasks", "import trio\nfrom . import frames", {"frames"}),
        ("tasks", "from . import Something", {"__init__"}),
        ("tasks", "from .frames import Frame, Close", {"frames"}),
        ("tasks", "from .protocol import Role, closing", {"protocol.__init__", "protocol.closing"}),
        ("tasks", "from .protocol.closing import Closing", {"protocol.closing"}),
        ("tasks", "import trio_ws.frames, trio_ws.protocol as p", {"frames", "protocol.__init__"}),
        ("tasks", "import trio_ws", {"__init__"}),
        ("tasks", "from trio_ws import frames, connect", {"frames", "__init__"}),
        ("tasks", "from trio_ws.protocol import messages", {"protocol.messages"}),
        ("tasks", "import trio_ws_other", set()),
        ("tasks", "def f():\n    if x:\n        from .frames import Frame", {"frames"}),
        ("tasks", "try:\n    import a\nexcept ImportError:\n    from . import uri", {"uri"}),
        ("tasks", "if TYPE_CHECKING:\n    from .frames import Frame\nelse:\n    from . import uri", {"uri"}),
        ("tasks", "if typing.TYPE_CHECKING:\n    from .frames import Frame", set()),
        ("tasks", "if not TYPE_CHECKING:\n    from .frames import Frame", {"frames"}),
        ("protocol.codec", "from . import pure", {"protocol.pure"}),
        ("protocol.codec", "from .pure import apply_mask", {"protocol.pure"}),
        ("protocol.codec", "from .. import frames", {"frames"}),
        ("protocol.codec", "from ..frames import Frame", {"frames"}),
        ("protocol.__init__", "from .codec import Role", {"protocol.codec"}),
        ("protocol.__init__", "from ..frames import Frame", {"frames"}),
        ("__init__", "from .frames import Frame", {"frames"}),
    ],
)
def test_this_test_sees_imports(module: str, source: str, expected: set[str]) -> None:
    assert imported_modules(source, module) == expected


# -- Each part of the protocol by itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("protocol.")])
def test_what_a_protocol_module_exports_is_there(module: str) -> None:
    imported = importlib.import_module(f"{PACKAGE}.{module.removesuffix('.__init__')}")
    assert imported.__all__
    for name in imported.__all__:
        assert hasattr(imported, name)


def test_the_protocol_has_a_map_of_itself() -> None:
    docstring = importlib.import_module(f"{PACKAGE}.protocol").__doc__
    assert docstring is not None
    listed = re.findall(r"~trio_ws\.(protocol\.\w+)`", docstring)
    assert sorted(listed) == [m for m in MODULES if m.startswith("protocol.") and not m.endswith("__init__")]


def test_any_protocol_module_can_be_imported_first() -> None:
    names = [f"{PACKAGE}.{m}".removesuffix(".__init__") for m in MODULES if m.startswith("protocol.")]
    code = f"""
import importlib, sys
for name in {names!r}:
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == {PACKAGE!r}]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
