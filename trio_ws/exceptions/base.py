"""Base class of all exceptions of the library.

The attrs classes in this package are not frozen, because the interpreter sets __traceback__, __context__ and __notes__.
They have no slots, because a class cannot inherit from two classes with slots. They compare by identity, like all
exceptions. Subclasses that add no attributes are ordinary classes.
"""

from __future__ import annotations

import attrs

from .shown import show_fields

__all__ = ["WebSocketException"]


class WebSocketException(Exception):
    """Base class of all exceptions of this library."""

    def __repr__(self) -> str:
        return show_fields(self) if attrs.has(type(self)) else super().__repr__()
