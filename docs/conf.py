"""Configuration of Sphinx. ``nox -s docs`` fails on any warning, including unresolved references."""

from __future__ import annotations

import inspect
import os
import pydoc
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import trio_ws

project = "trio_ws"
author = "The trio_ws authors"
copyright = "2026, The trio_ws authors"
version = release = trio_ws.__version__

# myst_parser reads the Markdown page that `nox -s bench` writes.
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True
# Unpack is missing from the typing module of Python 3.10. Map belongs to werkzeug and CollectorRegistry to
# prometheus-client, and the others to opentelemetry-api, which may not be installed.
nitpick_ignore = [
    ("py:class", name) for name in ("Unpack", "Map", "CollectorRegistry", "TracerProvider", "MeterProvider", "Span")
]
default_role = "py:obj"

html_theme = "furo"
html_title = f"trio_ws {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
# Longer signatures are shown with one parameter per line.
python_maximum_signature_line_length = 80

napoleon_google_docstring = True
napoleon_numpy_docstring = False
# This makes each entry of `Attributes:` a link target, for example for :attr:`InvalidURI.reason`.
napoleon_use_ivar = False
napoleon_attr_annotations = True

# Links to the documentation of other projects need the network, so they are optional: `TRIO_WS_DOCS_LINKS=1 nox -s
# docs`. Otherwise, resolve() turns such references into plain text.
if os.environ.get("TRIO_WS_DOCS_LINKS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
        "attrs": ("https://www.attrs.org/en/stable", None),
        "h11": ("https://h11.readthedocs.io/en/stable", None),
    }


# The result of find() for a field of an attrs class.
FIELD = object()


def find(name: str) -> object:
    """Return the object with a full name, or ``None`` if it does not exist."""
    found = pydoc.locate(name)
    parent, _, last = name.rpartition(".")
    owner = pydoc.locate(parent) if parent else None
    if found is None and inspect.isclass(owner):
        return FIELD if any(last in inspect.get_annotations(base) for base in owner.__mro__) else None
    return FIELD if inspect.ismemberdescriptor(found) else found


def locate(target: str, module: str | None) -> Iterator[tuple[str, object]]:
    """Yield the full names and objects that a name may refer to.

    The name is tried as it is, then in the given module, and then in every module of ``trio_ws``.
    """
    ours = sorted(name for name in sys.modules if name.partition(".")[0] == "trio_ws")
    for name in [target, *(f"{prefix}.{target}" for prefix in [module, *ours] if prefix)]:
        found = find(name)
        if found is not None:
            yield name, found


def canonical(name: str) -> str:
    """Return the full name of a class, a function or a member of a class, in the module that defines it.

    Autodoc registers objects under this name: ``trio_ws.Close.parse`` is ``trio_ws.frames.Close.parse``.
    """
    parent, _, last = name.rpartition(".")
    for path, suffix in [(name, ""), (parent, f".{last}")]:
        found = pydoc.locate(path) if path else None
        if inspect.isclass(found) or inspect.isfunction(found):
            return f"{found.__module__}.{found.__qualname__}{suffix}"
    return name


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element) -> nodes.Element | None:
    """Resolve a reference to a Python object for which Sphinx finds no target.

    - Names in ``trio_ws`` may be short, as in the code: ``Close``, ``Close.parse``.
    - A field without its own entry links to its class: ``Close.code``.
    - A name of another project becomes plain text if it exists; a misspelt name remains an error.
    - Objects that no page lists become plain text, too: modules, type variables, type aliases, private classes.
    """
    if node.get("refdomain") != "py":
        return None
    objects = env.domains.python_domain.objects
    located = list(locate(node["reftarget"], node.get("py:module")))
    for name, found in located:
        names = [name, canonical(name)]
        if found is FIELD:
            names += [listed.rpartition(".")[0] for listed in names]
        for listed in names:
            if listed in objects:
                entry = objects[listed]
                return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, listed)
    for name, found in located:
        parent, _, last = name.rpartition(".")
        ours = canonical(name).partition(".")[0] == "trio_ws"
        can_be_listed = inspect.isclass(found) or inspect.isroutine(found)
        in_class = bool(parent) and inspect.isclass(pydoc.locate(parent))
        if not ours or last.startswith("_") or not (can_be_listed or in_class):
            return contnode
    return None


# In the first line of a property's docstring and of `Returns:`, Napoleon interprets the text before a colon as a type.
# Our docstrings never begin with a type, so this private-use character hides the colons from Napoleon.
COLON = "\ue000"


def hide_colons(_app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Replace the colons that Napoleon would misinterpret. Runs before Napoleon."""
    for number, line in enumerate(lines):
        if number == 0:
            misread = what in {"property", "attribute", "data"}
        else:
            misread = lines[number - 1].strip() in {"Returns:", "Yields:"}
        if misread:
            lines[number] = re.sub(r"(?<!:):(?=\s|$)", COLON, line)


def show_colons(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Restore the colons. Runs after Napoleon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


# Functions return objects of these classes; users do not construct them.
NOT_CONSTRUCTED = {
    f"trio_ws.{name}"
    for name in (
        *(
            "Attempt",
            "Attempts",
            "Connecting",
            "Opening",
            "ReceiveStream",
            "ReconnectingChannel",
            "Router",
            "SendStream",
        ),
        *("Server", "ServerWebSocket", "Topic", "WebSocket"),
    )
}


def hide_constructor(
    _app: Sphinx, _what: str, name: str, _object: object, _options: object, _signature: str, _returned: str
) -> tuple[str, str] | None:
    """Hide the arguments of classes that users do not construct."""
    return ("", "") if name in NOT_CONSTRUCTED else None


def hide_bases(_app: Sphinx, _name: str, _object: object, _options: object, bases: list[type]) -> None:
    """Hide ``AsyncWithOnly``, a base class that only raises errors for wrong usage."""
    bases[:] = [base for base in bases if base.__name__ != "AsyncWithOnly"] or [object]


def convert_markdown(_app: Sphinx, path: Path, _parent: str, content: list[str]) -> None:
    """Convert the Markdown in CHANGELOG.md to reStructuredText: headings, links, code. Lists are the same in both."""
    if path.suffix == ".md":
        text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", content[0])
        text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", text)
        content[0] = re.sub(r"^(#+) (.*)$", underline, text, flags=re.MULTILINE)


def underline(heading: re.Match[str]) -> str:
    return f"{heading[2]}\n{'=-~'[len(heading[1]) - 1] * len(heading[2])}"


def setup(app: Sphinx) -> None:
    # Intersphinx and Napoleon have the default priority, 500; lower priorities are called first.
    app.connect("missing-reference", resolve, priority=600)
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", show_colons, priority=600)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("autodoc-process-bases", hide_bases)
    app.connect("include-read", convert_markdown)
