"""Limits on frames that cost this end more than their sender: ``FloodGuard``.

HTTP/2 has several frames that a peer can send without end, and that no flow control holds back. Each kind may occur a
certain number of times within ten seconds; a header block may have a certain number of frames and size. Beyond that,
the connection ends with GOAWAY(ENHANCE_YOUR_CALM) (RFC 9113, section 10.5). All peers that the tests know of stay far
below these limits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from .frames import Flag, FrameType

__all__ = ["Flood", "FloodGuard"]

#: The time to which the limits below apply, in seconds.
PERIOD = 10.0

#: Streams that the peer opens and resets, or opens beyond the limit (CVE-2023-44487, "rapid reset").
MAX_RESETS = 1_000

#: SETTINGS frames. Each is applied to all streams, and acknowledged.
MAX_SETTINGS = 100

#: PING frames. Each is answered.
MAX_PINGS = 1_000

#: Frames without any use: DATA frames without data, PRIORITY frames, WINDOW_UPDATE frames for which nothing was sent,
#: answers to PING and SETTINGS frames, interim responses, RST_STREAM and HEADERS frames of closed streams, frames of
#: unknown types.
MAX_USELESS = 1_000

#: WINDOW_UPDATE frames that are expected for each frame of data, and as many again for each KiB of it: one for the
#: stream and one for the connection. Further ones are of no use.
UPDATES_PER_FRAME = 2

#: The size of a frame of data, in bytes, below which none is expected if the peer's window has left no more room.
MIN_FRAGMENT = 128

#: CONTINUATION frames of one header block.
MAX_CONTINUATIONS = 32


@attrs.frozen
class Flood(Exception):
    """The peer has exceeded a limit.

    Attributes:
        reason: The limit, as text for the log and the GOAWAY frame.
    """

    reason: str

    def __str__(self) -> str:
        return self.reason


class _Rate:
    """Counts events, and tells when there are too many within :data:`PERIOD`.

    Args:
        name: The events, as text.
        limit: The number of events within the period that is too many.
    """

    __slots__ = ("_name", "_times")

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._times: deque[float] = deque(maxlen=limit)

    def count(self, now: float) -> None:
        times = self._times
        times.append(now)
        if len(times) == times.maxlen and now - times[0] <= PERIOD:
            raise Flood(f"{times.maxlen} {self._name} within {PERIOD:g} seconds")


class FloodGuard:
    """Counts the frames of a peer. Every method raises :exc:`Flood` when a limit is reached.

    Args:
        clock: A function that returns the current time in seconds.
    """

    __slots__ = (
        "_clock",
        "_expected_updates",
        "_pings",
        "_resets",
        "_settings",
        "_useless",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expected_updates = 0
        # Created when they are needed: most connections need none.
        self._resets: _Rate | None = None
        self._settings: _Rate | None = None
        self._pings: _Rate | None = None
        self._useless: _Rate | None = None

    def count_frame(self, kind: int, flags: int) -> None:
        """Count a WINDOW_UPDATE, SETTINGS or PING frame.

        Args:
            kind: The type of the frame.
            flags: Its flags.
        """
        if kind == FrameType.WINDOW_UPDATE:
            self.count_window_update()
        elif flags & Flag.ACK:
            self.count_useless()
        elif kind == FrameType.SETTINGS:
            self.count_settings()
        elif kind == FrameType.PING:
            self.count_ping()

    def count_reset(self) -> None:
        """Count a stream that the peer has opened in vain."""
        if self._resets is None:
            self._resets = _Rate("streams were reset", MAX_RESETS)
        self._resets.count(self._clock())

    def count_settings(self) -> None:
        """Count a SETTINGS frame."""
        if self._settings is None:
            self._settings = _Rate("SETTINGS frames", MAX_SETTINGS)
        self._settings.count(self._clock())

    def count_ping(self) -> None:
        """Count a PING frame."""
        if self._pings is None:
            self._pings = _Rate("PING frames", MAX_PINGS)
        self._pings.count(self._clock())

    def count_useless(self) -> None:
        """Count a frame without any use."""
        if self._useless is None:
            self._useless = _Rate("frames without any use", MAX_USELESS)
        self._useless.count(self._clock())

    def expect_window_updates(self, size: int) -> None:
        """Record that data was sent, for which the peer gives room back; or, with 0, that a stream was opened.

        Args:
            size: The size of the data, in bytes.
        """
        self._expected_updates += UPDATES_PER_FRAME * (1 + size // 1024)

    def count_window_update(self) -> None:
        """Count a WINDOW_UPDATE frame, unless it is expected."""
        if self._expected_updates:
            self._expected_updates -= 1
        else:
            self.count_useless()
