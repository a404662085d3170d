"""Close codes as labels of metrics."""

from __future__ import annotations

from collections.abc import Collection

from ..frames import CloseCode

__all__ = ["code_label"]

_STANDARD = frozenset(CloseCode)


def code_label(code: int, separate: Collection[int]) -> str:
    """Return the label of a close code: ``3xxx`` or ``4xxx`` unless it has a standard meaning or is in ``separate``.

    Peers choose the codes, and each label creates a time series.
    """
    return str(code) if code in _STANDARD or code in separate else f"{code // 1000}xxx"
