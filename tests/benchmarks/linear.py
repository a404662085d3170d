"""Series of measurements of this library alone, each of which should be linear."""

from __future__ import annotations

import os
import time

from . import wire
from .job import KIB, MIB, Job

#: Sizes of a message, in bytes.
SIZES = (KIB, 512 * KIB, MIB, 3 * MIB // 2, 2 * MIB, 3 * MIB, 4 * MIB)
#: Numbers of frames per message, of FRAGMENT bytes each.
FRAGMENTS = (1, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000)
FRAGMENT = 8
#: Numbers of connections that are in use at the same time.
CONNECTIONS = (10, 250, 500, 1000, 1500, 2000)
#: Sizes of a read in bytes, for a message of MESSAGE bytes.
CHUNKS = (1, 2, 3, 4, 6, 8, 16, 64, KIB, 64 * KIB)
MESSAGE = 64 * KIB


def reads(job: Job) -> dict[str, float]:
    """Return the seconds to parse a message, by the number of reads. There are no sockets."""
    from trio_ws.protocol import Protocol, Role

    frame = wire.frame(wire.BINARY, bytes(MESSAGE), masked=True)
    result = {}
    for size in CHUNKS:
        chunks = [frame[at : at + size] for at in range(0, len(frame), size)]
        best = float("inf")
        end = time.perf_counter() + job.seconds
        while time.perf_counter() < end or best == float("inf"):
            protocol = Protocol(Role.SERVER, random=os.urandom)
            start = time.perf_counter()
            for chunk in chunks:
                protocol.receive(chunk)
            best = min(best, time.perf_counter() - start)
            if protocol.next_event() != bytes(MESSAGE):
                raise ValueError("this is not what was sent")
        result[str(len(chunks))] = best
    return result
