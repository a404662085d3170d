"""Configuration of Sphinx: ``nox -s docs`` builds, and fails on any warning, unresolved references included."""

from __future__ import annotations

import os
import pydoc

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

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "py:obj"

html_theme = "furo"
html_title = f"trio_ws {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
# One parameter a line where a signature is longer.
python_maximum_signature_line_length = 80

napoleon_google_docstring = True
napoleon_numpy_docstring = False
# An entry of `Attributes:` is then a target: :attr:`Close.code` links to it.
napoleon_use_ivar = False
napoleon_attr_annotations = True

# The names of other projects link to their documentation only when asked to, because that takes the network:
# `TRIO_WS_DOCS_LINKS=1 nox -s docs`. Without, they are text; resolve() sees to that.
if os.environ.get("TRIO_WS_DOCS_LINKS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
        "attrs": ("https://www.attrs.org/en/stable", None),
        "h11": ("https://h11.readthedocs.io/en/stable", None),
    }


def canonical_names(name: str) -> list[str]:
    """Return the names under which autodoc may have listed what this name means, the name itself first.

    What ``trio_ws`` re-exports, autodoc lists where it is defined: ``trio_ws.Close`` is ``trio_ws.frames.Close``.
    """
    parent, _, attribute = name.rpartition(".")
    names = [name]
    for path, suffix in [(name, ""), (parent, f".{attribute}")]:
        found = pydoc.locate(path) if path else None
        if isinstance(found, type):
            names.append(f"{found.__module__}.{found.__qualname__}{suffix}")
        elif callable(found):
            names.append(f"{found.__module__}.{getattr(found, '__qualname__', '')}{suffix}")
    return names


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Resolve a reference to a Python object for which Sphinx finds no target.

    - A name of ours may be short, as in the code: ``Close`` for what ``trio_ws`` or the module at hand calls so.
    - A name of another project is text, if it exists: a misspelt one is reported.
    - So is what no page can list: type variables, aliases, private classes in a signature.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].lstrip(".~")
    module = node.get("py:module")
    candidates = [target, *([f"{module}.{target}"] if module else []), f"trio_ws.{target}"]
    objects = env.domains.python_domain.objects
    for candidate in candidates:
        for name in canonical_names(candidate):
            if name in objects:
                entry = objects[name]
                return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)
    for candidate in candidates:
        found = pydoc.locate(candidate)
        if found is not None:
            public = not any(part.startswith("_") for part in target.split("."))
            defined_in = str(getattr(found, "__module__", None) or getattr(found, "__name__", ""))
            listed = isinstance(found, type) or callable(found) or pydoc.inspect.ismodule(found)
            ours = defined_in.partition(".")[0] == "trio_ws"
            return None if ours and public and listed else contnode
    return None


def keep_first_line(
    _app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Keep Napoleon from taking what precedes a colon in the first line of a property's docstring for its type."""
    if what in {"property", "attribute", "data"}:
        lines.insert(0, "")


def setup(app: Sphinx) -> None:
    # After intersphinx, and before Napoleon: both use the default, 500.
    app.connect("missing-reference", resolve, priority=600)
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)
