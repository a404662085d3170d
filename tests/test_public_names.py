"""Exported names: their ``__module__`` is the package, wherever they are defined."""

from __future__ import annotations

import inspect
import pickle
from typing import get_origin

import trio_ws

EXPORTED = {name: getattr(trio_ws, name) for name in trio_ws.__all__}


def test_classes_and_functions_show_the_package() -> None:
    for name, value in EXPORTED.items():
        # On Python 3.10, isinstance(alias, type) is true for some type aliases.
        if (inspect.isclass(value) and get_origin(value) is None) or inspect.isfunction(value):
            assert (value.__module__, value.__qualname__) == ("trio_ws", name)
    assert repr(trio_ws.WebSocket) == "<class 'trio_ws.WebSocket'>"


def test_type_aliases_are_unchanged() -> None:
    assert trio_ws.Handler.__module__ != "trio_ws"  # Callable[...] belongs to the standard library


def test_pickles_show_the_package() -> None:
    for value in (
        trio_ws.Close(1000, "bye"),
        trio_ws.Headers({"X": "y"}),
        trio_ws.ConnectionClosedOK(None, None),
        trio_ws.InvalidStatus(trio_ws.Response(403, "Forbidden", {})),
    ):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(value, protocol)
            assert b"trio_ws." not in pickled
            assert type(pickle.loads(pickled)) is type(value)
