"""Architecture: imports follow the table of modules, modules are short, docstrings list their modules."""

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

# The places of the package, in the order of its docstring, and the modules of each. A row may import from those above
# it, of its own place and of others; not from itself and not from those below. An import for the type checker counts.
TABLE = {
    "values": [
        ["version", "exceptions.shown", "misuse.names", "misuse.usage", "misuse.values"],
        ["exceptions.base", "misuse.__init__"],
        [
            "exceptions.addresses",
            "exceptions.backend",
            "exceptions.decoding",
            "exceptions.handshake",
            "exceptions.protocol",
        ],
        ["datastructures", "frames", "uri"],
        ["http11.lines"],
        ["http11.messages"],
        ["http11.body", "http11.heads"],
        ["http11.parsers"],
        ["http11.__init__"],
        ["exceptions.closed", "exceptions.connecting", "exceptions.refused"],
        ["exceptions.__init__"],
    ],
    "protocol": [
        ["protocol.pure"],
        ["protocol.compiled"],
        ["protocol.hot"],
        ["protocol.codec"],
        ["protocol.extensions"],
        ["protocol.messages"],
        ["protocol.observed"],
        ["protocol.grammar"],
        ["protocol.deflate.settings"],
        ["protocol.deflate.transform"],
        ["protocol.deflate.negotiation"],
        ["protocol.deflate.__init__"],
        ["protocol.proofs", "protocol.supported"],
        ["protocol.handshake"],
        ["protocol.closing"],
        ["protocol.connection"],
        ["protocol.__init__"],
    ],
    "settings": [
        ["instruments.interface"],
        ["instruments.null"],
        ["instruments.observer"],
        ["instruments.__init__"],
        ["settings"],
    ],
    "connection": [
        [
            "connection.budget",
            "connection.lag",
            "connection.limits",
            "connection.run_local",
            "connection.sendable",
            "connection.sockets",
            "connection.state",
        ],
        ["connection.tls_info"],
        ["connection.checkpoints", "connection.inbox", "connection.outbox", "connection.stream"],
        ["connection.encoder", "connection.keepalive", "connection.tls"],
        ["connection.core"],
        ["connection.parts", "connection.reader", "connection.writer"],
        ["connection.posting", "connection.websocket"],
        ["connection.bytestream", "connection.session", "connection.typed"],
        ["connection.__init__"],
    ],
    "http2": [
        ["http2.frames", "http2.headers", "http2.negotiation"],
        ["http2.floods"],
        ["http2.blocks", "http2.input", "http2.settings", "http2.tunnels"],
        ["http2.messages"],
        ["http2.protocol"],
        ["http2.output"],
        ["http2.stream"],
        ["http2.adapter", "http2.arrivals"],
        ["http2.connection"],
        ["http2.__init__"],
    ],
    "client": [
        ["client.cookies", "client.explain", "client.redirect"],
        ["client.backoff", "client.tls"],
        ["client.proxy.values"],
        ["client.proxy.environment", "client.proxy.tunnel"],
        ["client.proxy.__init__"],
        ["client.pool"],
        ["client.options"],
        ["client.dial", "client.request"],
        ["client.http2"],
        ["client.connecting"],
        ["client.connect"],
        ["client.connector"],
        ["client.attempts"],
        ["client.reconnecting.state"],
        ["client.reconnecting.supervisor"],
        ["client.reconnecting.channel"],
        ["client.reconnecting.__init__"],
        ["client.__init__"],
    ],
    "server": [
        ["server.date", "server.limits", "server.listeners", "server.openings", "server.origins", "server.request"],
        ["server.forwarded.trust"],
        ["server.forwarded.proxy_protocol"],
        ["server.forwarded.peer"],
        ["server.forwarded.headers"],
        ["server.forwarded.__init__"],
        ["server.server"],
        ["server.target"],
        ["server.auth", "server.options", "server.policy", "server.routing"],
        ["server.responder"],
        ["server.handshake", "server.http2"],
        ["server.accept"],
        ["server.serve"],
        ["server.__init__"],
    ],
    "hub": [
        ["hub.backend", "hub.broadcast"],
        ["hub.members", "hub.memory", "hub.outgoing"],
        ["hub.redis.scripts", "hub.redis.url"],
        ["hub.redis.client"],
        ["hub.redis.listener", "hub.redis.presence"],
        ["hub.redis.streams"],
        ["hub.redis.pubsub"],
        ["hub.redis.backend"],
        ["hub.exchange", "hub.redis.__init__"],
        ["hub.core"],
        ["hub.joining"],
        ["hub.hub"],
        ["hub.__init__"],
    ],
    "observe": [
        ["observe.codes"],
        ["observe.logs", "observe.opentelemetry", "observe.prometheus"],
        ["observe.__init__"],
    ],
    "testing": [
        ["testing.backends.harness", "testing.faults", "testing.handlers", "testing.peer"],
        ["testing.backends.messages", "testing.backends.positions", "testing.backends.sessions"],
        ["testing.backends.__init__", "testing.pair", "testing.servers"],
        ["testing.plugin"],
        ["testing.__init__"],
    ],
    "cli": [
        ["cli.failure", "cli.style", "cli.terminal"],
        [
            "cli.arguments",
            "cli.commands",
            "cli.credentials",
            "cli.histogram",
            "cli.output",
            "cli.static",
            "cli.workers",
        ],
        ["cli.files", "cli.interactive", "cli.lines", "cli.plot"],
        ["cli.bench", "cli.connect", "cli.demo", "cli.serve"],
        ["cli.main"],
        ["cli.__init__"],
    ],
    "trio_ws": [
        ["__main__"],
        ["__init__"],
    ],
}
ROWS = [row for rows in TABLE.values() for row in rows]
LEVELS = {module: level for level, row in enumerate(ROWS) for module in row}

MAX_LINES = 420

# Packages that a protocol without I/O must not import.
NO_IO = {"asyncio", "os", "random", "secrets", "select", "selectors", "socket", "ssl", "threading", "time", "trio"}


def modules() -> dict[str, Path]:
    """Return the modules of the package, by their names in the table."""
    folder = ROOT / PACKAGE
    return {".".join(path.relative_to(folder).with_suffix("").parts): path for path in sorted(folder.rglob("*.py"))}


MODULES = modules()


def imports_of(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield all imports, including those in functions, under conditions and for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def absolute_names(source: str, module: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the full name of each imported module, and the names imported from it; none for ``import``."""
    # The package that "." refers to. For an __init__ module, that is the module itself.
    package = [PACKAGE, *module.split(".")[:-1]]
    for node in imports_of(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), [alias.name for alias in node.names]


def imported_modules(source: str, module: str) -> set[str]:
    """Return the modules of the package that a module imports, by their names in the table."""
    known = set(MODULES) | set(LEVELS)

    def resolve(name: str) -> str | None:
        inside = name.removeprefix(PACKAGE).removeprefix(".")
        package = f"{inside}.__init__" if inside else "__init__"
        return inside if inside in known else package if package in known else None

    found = set()
    for origin, names in absolute_names(source, module):
        if origin.split(".")[0] != PACKAGE:
            continue
        # "from .protocol import closing" imports a module, "from .protocol import Role" the package.
        for name in names or [""]:
            target = (resolve(f"{origin}.{name}") if name else None) or resolve(origin)
            assert target is not None, f"{module} imports {origin}, which is not there"
            found.add(target)
    return found


def top_level_packages(module: str) -> set[str]:
    """Return the top-level packages that a module imports."""
    origins = (origin for origin, _ in absolute_names(MODULES[module].read_text("utf-8"), module))
    return {origin.split(".")[0] for origin in origins} - {PACKAGE}


def test_the_table_names_no_module_twice() -> None:
    assert len(LEVELS) == sum(map(len, ROWS))


def test_the_package_has_modules() -> None:
    assert {"exceptions.__init__", "protocol.connection", "protocol.__init__", "__init__"} <= set(MODULES)


def test_every_module_is_in_the_table() -> None:
    for module in MODULES:
        assert module in LEVELS


def test_imports_point_up() -> None:
    for module in MODULES:
        imported = imported_modules(MODULES[module].read_text("utf-8"), module)
        wrong = {name for name in imported if LEVELS[name] >= LEVELS[module]}
        assert not wrong, f"{module} imports {wrong}, which are not above it"


def test_modules_are_short() -> None:
    for module in MODULES:
        lines = MODULES[module].read_text("utf-8").count("\n")
        assert lines <= MAX_LINES, f"{module} has {lines} lines"


FOLDERS = [module.removesuffix(".__init__") for module in MODULES if module.endswith(".__init__")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_docstring_of_a_folder_lists_its_modules(folder: str) -> None:
    docstring = importlib.import_module(f"{PACKAGE}.{folder}").__doc__
    assert docstring is not None
    listed = re.findall(rf"~trio_ws\.({re.escape(folder)}\.\w+)`", docstring)
    inside = [module.removesuffix(".__init__") for module in MODULES if module.startswith(f"{folder}.")]
    assert sorted(listed) == sorted(module for module in inside if module.count(".") == folder.count(".") + 1)
    levels = {module.removesuffix(".__init__"): level for module, level in LEVELS.items()}
    assert [levels[module] for module in listed] == sorted(levels[module] for module in listed)


def test_the_docstring_of_the_package_lists_its_modules() -> None:
    docstring = importlib.import_module(PACKAGE).__doc__
    assert docstring is not None
    listed = re.findall(r"^:mod:`trio_ws\.(\w+)`", docstring, re.MULTILINE)
    # All but small internal ones.
    assert set(listed) == {module.partition(".")[0] for module in MODULES} - {
        "__init__",
        "__main__",
        "version",
    }
    levels = {module.removesuffix(".__init__"): level for module, level in LEVELS.items()}
    # Exceptions come first, although some of them have other values as attributes.
    assert listed[0] == "exceptions"
    assert [levels[module] for module in listed[1:]] == sorted(levels[module] for module in listed[1:])


def test_the_protocol_does_no_io() -> None:
    for module in [module for module in MODULES if module.startswith("protocol.")]:
        # hot.py reads an environment variable that disables the compiled functions.
        allowed = {"os"} if module == "protocol.hot" else set()
        assert not top_level_packages(module) & NO_IO - allowed


def test_one_folder_imports_h11() -> None:
    importing = [module for module in MODULES if "h11" in top_level_packages(module)]
    assert importing == ["http11.messages", "http11.parsers"]


def test_the_data_structures_do_no_io() -> None:
    for module in [
        "version",
        "frames",
        "datastructures",
        "uri",
        *(module for module in MODULES if module.startswith("http11.")),
    ]:
        # hot.py reads an environment variable that disables the compiled functions.
        allowed = {"os"} if module == "protocol.hot" else set()
        assert not top_level_packages(module) & NO_IO - allowed


def test_exceptions_imports_trio_for_base_classes_only() -> None:
    for module in MODULES:
        if module.startswith("exceptions."):
            assert top_level_packages(module) & NO_IO <= {"trio"}


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
        ("tasks", "if TYPE_CHECKING:\n    from .frames import Frame\nelse:\n    from . import uri", {"frames", "uri"}),
        ("tasks", "if typing.TYPE_CHECKING:\n    from .frames import Frame", {"frames"}),
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
def test_imports_are_found(module: str, source: str, expected: set[str]) -> None:
    assert imported_modules(source, module) == expected


# -- Modules of the protocol on their own----------------------------------------------------------------------------


def test_a_protocol_module_defines_its_exports() -> None:
    for module in [module for module in MODULES if module.startswith("protocol.")]:
        imported = importlib.import_module(f"{PACKAGE}.{module.removesuffix('.__init__')}")
        assert imported.__all__
        for name in imported.__all__:
            assert hasattr(imported, name)


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
