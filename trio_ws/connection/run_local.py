"""Values that exist once per run of Trio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

__all__ = ["RunLocal"]

T = TypeVar("T")


class RunLocal(Generic[T]):
    """A value created once per ``trio.run()``, on first use.

    Args:
        make: The function that creates the value.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._var: trio.lowlevel.RunVar[T] = trio.lowlevel.RunVar("trio_ws")

    def get(self) -> T:
        """Return the value of this run."""
        try:
            return self._var.get()
        except LookupError:
            value = self._make()
            self._var.set(value)
            return value
