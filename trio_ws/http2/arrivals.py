"""The streams that the peer has opened, until a task serves them: ``Arrivals``."""

from __future__ import annotations

from collections import deque

import trio
from h2.errors import ErrorCodes

from .stream import HTTP2Stream

__all__ = ["Arrivals"]


class Arrivals:
    """A queue of streams, for one task that waits for them."""

    __slots__ = ("_event", "_has_ended", "_streams")

    def __init__(self) -> None:
        self._streams: deque[HTTP2Stream] = deque()
        self._event: trio.Event | None = None
        self._has_ended = False

    def put(self, stream: HTTP2Stream) -> None:
        """Add a stream."""
        self._streams.append(stream)
        self._wake()

    def end(self) -> None:
        """Record that there will be no more. Idempotent."""
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def get(self) -> HTTP2Stream | None:
        """Wait for the next stream. Return None if there will be no more. Safe to cancel."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._streams:
            if self._has_ended:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return None
            self._event = trio.Event()
            await self._event.wait()
        return self._streams.popleft()

    def refuse(self) -> None:
        """Refuse the streams that nobody will serve."""
        while self._streams:
            self._streams.popleft().abort(ErrorCodes.REFUSED_STREAM)
