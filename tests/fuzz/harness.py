"""Helpers for the fuzz targets.

A target is a module ``fuzz_NAME.py`` with a function ``TestOneInput(data)`` that raises an exception if it finds a bug.
``python -m tests.fuzz.fuzz_NAME`` runs it with atheris and the arguments of libFuzzer; without atheris, targets can be
imported all the same, and ``test_fuzz.py`` calls them with each file of their corpus.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

__all__ = ["check_text", "chunks", "decoded_in_python", "instrument", "main", "outcome"]


def instrument() -> AbstractContextManager[Any]:
    """Return a context manager for the imports of what is tested: atheris then measures their coverage."""
    if "atheris" not in sys.modules and not sys.argv[0].endswith(("pytest", "__main__.py")):
        try:
            import atheris
        except ImportError:
            return nullcontext()
        return atheris.instrument_imports(include=["trio_ws", "h11"])  # type: ignore[no-any-return]  # it has no types
    return nullcontext()


def main(test_one_input: Callable[[bytes], None]) -> None:
    """Fuzz a target until it fails, or until the limits in the arguments of libFuzzer are reached."""
    import atheris

    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


def chunks(data: bytes, size: int) -> list[bytes]:
    """Split data into chunks of a size in bytes, but into at most 51; into a single one for size 0."""
    size = size and max(size, len(data) // 50)
    return [data[at : at + size] for at in range(0, len(data), size)] if size else [data] if data else []


def outcome(function: Callable[[], Any], *expected: type[Exception]) -> Any:
    """Return the result of a call, or the class of the exception if it is one of the expected ones."""
    try:
        return function()
    except expected as exc:
        check_text(exc)
        return type(exc)


def check_text(exc: Exception) -> None:
    """Check that an error says something."""
    if not str(exc):
        raise AssertionError(f"{type(exc).__name__} has no text")


@contextmanager
def decoded_in_python() -> Iterator[None]:
    """Use the functions of ``pure.py`` instead of the compiled ones."""
    from trio_ws.protocol import pure

    codec: Any = importlib.import_module("trio_ws.protocol.codec")
    connection: Any = importlib.import_module("trio_ws.protocol.connection")

    names = ("Payload", "apply_mask", "pack", "take_messages", "take_small_frames")
    before = {name: getattr(codec, name) for name in names}
    for name in names:
        setattr(codec, name, getattr(pure, name))
    connection.pack = pure.pack
    try:
        yield
    finally:
        for name in names:
            setattr(codec, name, before[name])
        connection.pack = before["pack"]
