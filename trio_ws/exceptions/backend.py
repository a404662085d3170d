"""Engines that connect the hubs of several processes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from .base import WebSocketException

__all__ = ["BackendUnavailable", "MessagesRefused"]


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


@attrs.define(slots=False, eq=False, repr=False)
class MessagesRefused(WebSocketException):
    """The engine behind a :class:`Backend` will never accept some messages, such as ones that are too large for it.

    Back ends raise this from :meth:`Backend.publish`. The :class:`Hub` handles it.

    Attributes:
        numbers: The numbers of the messages.
        reason: What the engine has said.
    """

    numbers: Sequence[int]
    reason: str

    def __str__(self) -> str:
        return f"the engine refuses {len(self.numbers)} messages: {self.reason}"
