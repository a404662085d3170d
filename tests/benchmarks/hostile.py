"""Hostile peers that send as many small frames as the server reads, and a well-behaved client that sends pings."""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import threading
from dataclasses import dataclass

from . import wire
from .job import KIB, Job
from .load import PATIENCE, compress, connect, durations
from .results import percentile
from .worker import report

#: Number of hostile peers next to the well-behaved client.
PEERS = 3

#: Approximate number of bytes to send at a time.
BATCH = 16 * KIB

_BYTE = b"a"


@dataclass(frozen=True)
class Kind:
    """A kind of small frame.

    Attributes:
        title: Its name in tables.
        frames: One or more frames, to be sent repeatedly.
        before: Frames to send once before them.
        after: Frames to send once after them.
        compressed: Whether the frames are compressed.
    """

    title: str
    frames: bytes
    before: bytes = b""
    after: bytes = b""
    compressed: bool = False


def _frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    return wire.frame(opcode, payload, masked=True, fin=fin, rsv1=rsv1)


KINDS = {
    "empty": Kind("empty text", _frame(wire.TEXT)),
    "text": Kind("text of 1 B", _frame(wire.TEXT, _BYTE)),
    "ping": Kind("empty ping", _frame(wire.PING)),
    "pong": Kind("empty pong", _frame(wire.PONG)),
    "continuation": Kind(
        "empty continuation frame of one endless message",
        _frame(wire.CONT, fin=False),
        before=_frame(wire.BINARY, _BYTE, fin=False),
        after=_frame(wire.CONT),
    ),
    "fragments": Kind("text in two fragments of 1 B", _frame(wire.TEXT, _BYTE, fin=False) + _frame(wire.CONT, _BYTE)),
    "compressed": Kind(
        "compressed text of 1 B", _frame(wire.TEXT, compress([_BYTE], bits=9)[0], rsv1=True), compressed=True
    ),
}


def _open(job: Job) -> socket.socket:
    sock = connect(job)
    wire.shake_hands(sock, compression=KINDS[job.kind].compressed)
    return sock


def _drain(sock: socket.socket) -> None:
    """Receive and discard bytes until the server disconnects."""
    while sock.recv(64 * KIB):
        pass


def send(job: Job) -> dict[str, float]:
    """Send about ``job.size`` bytes of frames, and a Close frame. Return the number of bytes."""
    kind = KINDS[job.kind]
    batch = kind.frames * (BATCH // len(kind.frames))
    count = job.size // len(batch)
    with _open(job) as sock:
        # The server answers pings, and stops reading if the answers are not received.
        drain = threading.Thread(target=_drain, args=[sock])
        drain.start()
        sock.sendall(kind.before)
        for _ in range(count):
            sock.sendall(batch)
        sock.sendall(kind.after + _frame(wire.CLOSE, (1000).to_bytes(2, "big")))
        drain.join(PATIENCE)
        if drain.is_alive():
            raise TimeoutError("the server has not disconnected after a Close frame")
    return {"bytes": len(batch) * count}


def flood(job: Job) -> None:
    """Send frames on several connections forever. Open a connection again when the server closes it."""
    opened = threading.Semaphore(0)
    for _ in range(PEERS):
        threading.Thread(target=_flood_forever, args=[job, opened], daemon=True).start()
    for _ in range(PEERS):
        opened.acquire()
    report(open=PEERS)
    threading.Event().wait()


def _flood_forever(job: Job, opened: threading.Semaphore) -> None:
    kind = KINDS[job.kind]
    batch = kind.frames * (BATCH // len(kind.frames))
    while True:
        with contextlib.suppress(OSError, EOFError), _open(job) as sock:
            opened.release()
            sock.setblocking(False)
            poll = select.poll()
            poll.register(sock, select.POLLIN | select.POLLOUT)
            unsent = memoryview(kind.before + batch)
            while True:
                poll.poll()
                with contextlib.suppress(BlockingIOError):
                    if not sock.recv(64 * KIB):
                        break
                with contextlib.suppress(BlockingIOError):
                    unsent = unsent[sock.send(unsent) :] or memoryview(batch)


def pings(job: Job) -> dict[str, float]:
    """Send one ping at a time. Return the median and the 99th percentile of the round-trip times in seconds."""
    ping, pong = _frame(wire.PING, _BYTE), wire.frame(wire.PONG, _BYTE, masked=False)
    with _open(job) as sock:

        def turn() -> None:
            sock.sendall(ping)
            if sock.recv(len(pong)) != pong:
                raise ValueError("the answer must be a pong")

        times = durations(job, turn)
    return {"median": statistics.median(times), "p99": percentile(times, 99)}
