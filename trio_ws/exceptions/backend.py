"""Engines that connect the hubs of several processes."""

from __future__ import annotations

import attrs

from .base import WebSocketException

__all__ = ["BackendUnavailable"]


@attrs.define(slots=False, eq=False, repr=False)
class BackendUnavailable(WebSocketException):
    """The engine behind a :class:`Backend` does not answer right now. Trying again may help.

    :meth:`Hub.run` handles it and connects again. :meth:`Topic.count_members` raises it.

    Attributes:
        reason: What happened.
    """

    reason: str

    def __str__(self) -> str:
        return f"the back end is unavailable: {self.reason}"
