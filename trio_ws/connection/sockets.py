"""Counts of the operating system for a socket: bytes on their way to the peer, and bytes that were not read yet."""

from __future__ import annotations

import select
import sys
from typing import Any

if sys.platform == "linux":
    import fcntl

__all__ = ["count_undelivered", "has_unread"]

#: Requests for the number of bytes not acknowledged by the peer, and of those not even sent (``linux/sockios.h``).
_SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B


def count_undelivered(sock: Any) -> tuple[int, int]:
    """Return the number of written bytes that the peer's system has not acknowledged, and of those not even sent.

    Both are 0 if the system does not report them.

    Args:
        sock: A socket; None for none.
    """
    if sys.platform != "linux" or sock is None:
        return 0, 0
    counts: list[int] = []
    for request in (_SIOCOUTQ, _SIOCOUTQNSD):
        try:
            counts.append(int.from_bytes(fcntl.ioctl(sock.fileno(), request, bytes(4)), sys.byteorder))
        except (OSError, ValueError):  # the socket does not support the request, or is closed
            counts.append(counts[0] if counts else 0)
    return counts[0], counts[1]


def has_unread(sock: Any) -> bool:
    """Whether unread bytes, or the end of the stream, have arrived. False if the system cannot tell.

    Args:
        sock: A socket; None for none.
    """
    if sock is None or sock.fileno() < 0 or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))
