"""The connections of a server that are not WebSockets yet: ``Openings``.

Each has an opening handshake in progress, or has had the response to a plain HTTP request and may send another one.
Only handshakes in progress count for ``Limits.openings``. When that limit or ``Limits.connections`` is reached, the
oldest connection that waits for its client gives way to the new one. Otherwise, one client could keep out all others
with connections on which it sends nothing. A connection whose request is being answered does not give way: a server
that cannot keep up with complete requests would answer none of them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import attrs
import trio

__all__ = ["OpeningTask", "Openings", "Stage"]


class Stage(enum.Enum):
    """Progress of a connection with its next request."""

    #: Nothing of a request has arrived.
    SILENT = enum.auto()
    #: A part of a request has arrived.
    READING = enum.auto()
    #: A request has arrived and is being answered.
    ANSWERING = enum.auto()
    #: The last request was answered, and nothing of another one has arrived.
    IDLE = enum.auto()
    #: The last request was answered, and the connection is being closed.
    ENDING = enum.auto()

    @property
    def is_answered(self) -> bool:
        """Whether the last request was answered, and nothing of another one has arrived."""
        return self in (Stage.IDLE, Stage.ENDING)


@attrs.define(eq=False, repr=False)
class OpeningTask:
    """The task of a connection that is not a WebSocket yet.

    Attributes:
        scope: Its cancel scope.
        stage: How far it has come.
        dismissed: Why it has been told to leave, as the end of a line for the log; None if it has not.
    """

    scope: trio.CancelScope
    stage: Stage = Stage.SILENT
    dismissed: str | None = None


class Openings:
    """The connections that are not WebSockets yet. The length is the number of opening handshakes in progress.

    Attributes:
        leaving: The number of connections that have been told to leave and have not ended yet.
    """

    __slots__ = ("_active", "_idle", "leaving")

    def __init__(self) -> None:
        # As ordered sets, oldest first.
        self._active: dict[OpeningTask, None] = {}
        self._idle: dict[OpeningTask, None] = {}
        self.leaving: int = 0

    def __len__(self) -> int:
        return len(self._active)

    def __iter__(self) -> Iterator[OpeningTask]:
        yield from self._active
        yield from self._idle

    def add(self, task: OpeningTask) -> None:
        """Add a connection on which nothing has arrived."""
        self._active[task] = None

    def add_idle(self, task: OpeningTask) -> None:
        """Add a connection whose last request was answered, and which may send another one."""
        self._idle[task] = None

    def discard(self, task: OpeningTask) -> None:
        """Remove a connection that has become a WebSocket or has ended. Idempotent."""
        self._active.pop(task, None)
        self._idle.pop(task, None)
        if task.dismissed is not None:
            task.dismissed = None
            self.leaving -= 1

    def advance(self, task: OpeningTask, stage: Stage) -> None:
        """Record how far a connection has come."""
        task.stage = stage
        if task.dismissed is not None:
            return
        old, new = (self._active, self._idle) if stage.is_answered else (self._idle, self._active)
        if task in old:
            del old[task]
            new[task] = None

    def make_room(self, reached: str, *, idle: bool) -> bool:
        """Close the oldest connection that waits for its client, to make room for a new one.

        Args:
            reached: The limit that is reached, as text for the log.
            idle: Whether idle connections can give way, too. They are the first to do so.

        Returns:
            Whether there is such a connection.
        """
        tasks = iter(self._idle if idle and self._idle else self._active)
        task = next((task for task in tasks if task.stage is not Stage.ANSWERING), None)
        if task is None:
            return False
        self._dismiss(task, f"gave way to another one: {reached}")
        return True

    def dismiss_idle(self) -> None:
        """End the connections on which no request has arrived since the last response."""
        for task in list(self._idle):
            if task.stage is Stage.IDLE:  # the others end soon, and their clients may still be reading the response
                self._dismiss(task, "ended: the server is draining")

    def _dismiss(self, task: OpeningTask, reason: str) -> None:
        del (self._idle if task.stage.is_answered else self._active)[task]
        task.dismissed = reason
        self.leaving += 1
        task.scope.cancel()
