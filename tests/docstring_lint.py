"""Check that docstrings begin with an imperative or a noun phrase.

``python tests/docstring_lint.py`` checks ``trio_ws/`` and ``tests/``; arguments select other files or folders. It reads
the first lines of docstrings, and of the ``#:`` comments that document attributes. They must not start with one of
:data:`OPENINGS`. "Whether" is allowed for a bool: a function or property that returns one, or an attribute that is
annotated or assigned as one.

It uses only the standard library.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parent.parent

OPENINGS = re.compile(r"(What|Who|Whom|Whose|Where|Whether|Take note|Takes note|Say|Says|See to|Sees to)\b")

Assignment: TypeAlias = "ast.Assign | ast.AnnAssign"

#: Builtin functions that return a bool.
BOOL_FUNCTIONS = {"all", "any", "bool", "callable", "hasattr", "isinstance", "issubclass"}


def find_problems(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line number of each bad first line, and the line."""
    tree = ast.parse(source)
    lines = [*docstrings(tree), *attribute_comments(source, tree)]
    for number, text, is_bool in sorted(lines):
        opening = OPENINGS.match(text)
        if opening and not (is_bool and opening[0] == "Whether"):
            yield number, text


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield the line number and the first line of each docstring, and whether it describes a bool."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            returns = node.returns if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else None
            if node.body and (text := first_line(node.body[0])) is not None:
                yield node.body[0].lineno, text, mentions_bool(returns)
        # A string that follows an assignment documents it.
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for statement, following in itertools.pairwise(body):
                text = first_line(following)
                if isinstance(statement, (ast.Assign, ast.AnnAssign)) and text is not None:
                    yield following.lineno, text, is_bool_assignment(statement)


def attribute_comments(source: str, tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield the line number and the first line of each ``#:`` comment, and whether it describes a bool."""
    assignments = {node.lineno: node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AnnAssign))}
    comments = {
        token.start[0]: (token.string.removeprefix("#:").strip(), token.line[: token.start[1]].strip() != "")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.string.startswith("#:")
    }
    for number, (text, is_trailing) in comments.items():
        if is_trailing:
            yield number, text, number in assignments and is_bool_assignment(assignments[number])
        elif number - 1 not in comments:  # the first line of a block
            end = number
            while end in comments:
                end += 1
            yield number, text, end in assignments and is_bool_assignment(assignments[end])


def first_line(statement: ast.stmt) -> str | None:
    """Return the first line of a statement that is a string; None if it is not."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        if isinstance(value, str):
            return value.strip().partition("\n")[0]
    return None


def is_bool_assignment(node: Assignment) -> bool:
    """Return whether an assignment is of a bool, judging by its annotation or value."""
    if isinstance(node, ast.AnnAssign) and mentions_bool(node.annotation):
        return True
    value = node.value
    if isinstance(value, ast.Constant):
        return isinstance(value.value, bool)
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id in BOOL_FUNCTIONS
    return isinstance(value, ast.Compare) or (isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not))


def mentions_bool(annotation: ast.expr | None) -> bool:
    """Return whether an annotation contains bool or a type guard."""
    if annotation is None:
        return False
    words = re.findall(r"\w+", ast.unparse(annotation))
    return not {"bool", "TypeGuard", "TypeIs"}.isdisjoint(words)


def main(arguments: list[str]) -> int:
    """Check the files and folders, by default all; return the exit status."""
    places = [Path(argument) for argument in arguments] or [ROOT / "trio_ws", ROOT / "tests"]
    files = [path for place in places for path in (sorted(place.rglob("*.py*")) if place.is_dir() else [place])]
    count = 0
    for path in files:
        if path.suffix not in (".py", ".pyi"):
            continue
        for number, text in find_problems(path.read_text("utf-8")):
            count += 1
            print(f"{path}:{number}: begin with an imperative or a noun phrase: {text}")
    if count:
        print(f"{count} docstrings or attribute comments begin in another way")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
