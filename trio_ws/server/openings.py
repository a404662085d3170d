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
    """How far a connection has come with its next request."""

    #: Nothing of a request has arrived.
    SILENT = enum.auto()
    #: A part of a request has arrived.
    READING = enum.auto()
    #: A request has arrived and is being answered.
    ANSWERING = enum.auto()
    #: The last request was answered, and nothing of another one has arrived.
    IDLE = enum.auto()


@attrs.define(eq=False)
class OpeningTask:
    """The task of a connection that is not a WebSocket yet.

    Attributes:
        scope: Its cancel scope.
        stage: How far it has come.
        reached: The limit that it has to give way for, as text for the log; None if there is none.
    """

    scope: trio.CancelScope
    stage: Stage = Stage.SILENT
    reached: str | None = None


class Openings:
    """The connections that are not WebSockets yet. The length is the number of opening handshakes in progress.

    Attributes:
        leaving: The number of connections that have been told to give way and have not ended yet.
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

    def discard(self, task: OpeningTask) -> None:
        """Remove a connection that has become a WebSocket or has ended. Idempotent."""
        self._active.pop(task, None)
        self._idle.pop(task, None)
        if task.reached is not None:
            task.reached = None
            self.leaving -= 1

    def advance(self, task: OpeningTask, stage: Stage) -> None:
        """Record how far a connection has come."""
        task.stage = stage
        if task.reached is not None:
            return  # it is leaving
        old, new = (self._active, self._idle) if stage is Stage.IDLE else (self._idle, self._active)
        if task in old:
            del old[task]
            new[task] = None

    def make_room(self, reached: str, *, idle: bool) -> bool:
        """Let the oldest connection that waits for its client give way.

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
        del (self._idle if task.stage is Stage.IDLE else self._active)[task]
        task.reached = reached
        self.leaving += 1
        task.scope.cancel()
        return True
