"""A value for each run of Trio, made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

__all__ = ["PerRun"]

T = TypeVar("T")


class PerRun(Generic[T]):
    """What all connections of a run of Trio share, and those of another run do not.

    Args:
        make: Makes the value.
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
