"""From frames to bytes: the sending half of the protocol, and the memory that compressors take.

Three call it, one after the other and never at the same time: the writer task, the write without waiting, and the last
words of the writer (see :mod:`trio_ws.connection.writer`).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

import trio

from ..frames import Close, Opcode
from ..instruments.observer import NullObserver
from ..protocol import Protocol
from ..protocol.codec import FIN
from ..protocol.connection import OutgoingFrame
from .limits import NoLimits
from .run_local import RunLocal

__all__ = ["MAX_COMPRESSORS", "THREAD_SIZE", "CompressorCache", "Encoder"]

#: Payloads of at least so many bytes are compressed in a thread, so that other tasks go on meanwhile. Below, the thread
#: costs more than it is worth; ``tests/benchmarks/compression.py`` measures it.
THREAD_SIZE = 64 * 1024

#: How many connections keep their compressors, at most, in one run of Trio.
MAX_COMPRESSORS = 256

#: How many threads compress at once, at most. Not Trio's own limiter: all its threads might be waiting for us, in
#: ``trio.from_thread.run(ws.send, ...)``.
_limiter = RunLocal(lambda: trio.CapacityLimiter(os.cpu_count() or 1))


class CompressorCache:
    """LRU of encoders that keep their compressor; the others free theirs, and make a new one when they need it.

    A compressor takes a hundred KiB or so.
    """

    def __init__(self) -> None:
        self._encoders: OrderedDict[Encoder, None] = OrderedDict()

    def touch(self, encoder: Encoder) -> None:
        """Mark the compressor of an encoder as the latest used."""
        encoders = self._encoders
        encoders[encoder] = None
        encoders.move_to_end(encoder)
        if len(encoders) > MAX_COMPRESSORS:
            oldest, _ = encoders.popitem(last=False)
            oldest.rest()

    def remove(self, encoder: Encoder) -> None:
        """Forget an encoder whose connection has ended."""
        self._encoders.pop(encoder, None)


_cache = RunLocal(CompressorCache)


class Encoder:
    """Turns frames into bytes, in the order in which they are given to it.

    Args:
        protocol: The protocol.
        compresses: Whether extensions are in use, so that encoding may take long.
        limits: The limits of the connection, which count sent messages as activity.
        observer: The observer of the connection.

    Attributes:
        compresses: Whether extensions are in use.
        interrupted: Whether encoding was begun and has not come to its end. If it never does, the peer cannot decode
            what would come after it, and only a Close frame may follow.
    """

    def __init__(self, protocol: Protocol, compresses: bool, limits: NoLimits, observer: NullObserver) -> None:
        self._protocol = protocol
        self._limits = limits
        self._observer = observer
        self._cache = _cache.get() if compresses else None
        self.compresses: bool = compresses
        self.interrupted: bool = False

    def takes_long(self, frames: Sequence[OutgoingFrame]) -> bool:
        """Whether to encode these in a thread."""
        return self.compresses and sum(len(data) for _, data, transform in frames if transform) >= THREAD_SIZE

    def encode(self, frames: list[OutgoingFrame]) -> list[bytes]:
        """Return the bytes of frames, in chunks."""
        self.interrupted = True
        chunks = self._protocol.encode_all(frames)
        self._note(frames, chunks)
        return chunks

    async def encode_in_thread(self, frames: list[OutgoingFrame]) -> list[bytes]:
        """Do the same in a thread. When cancelled, the thread is left alone."""
        self.interrupted = True
        encode = self._protocol.encode_all
        try:
            chunks = await trio.to_thread.run_sync(encode, frames, abandon_on_cancel=True, limiter=_limiter.get())
        except RuntimeError:  # no thread can be started
            chunks = encode(frames)
        self._note(frames, chunks)
        return chunks

    def encode_close(self, close: Close) -> list[bytes]:
        """Return the bytes of the Close frame."""
        chunks = self._protocol.encode_close(close)
        self._observer.record_sent([(FIN | Opcode.CLOSE, close.serialize(), False)], chunks)
        return chunks

    def _note(self, frames: list[OutgoingFrame], chunks: list[bytes]) -> None:
        self.interrupted = False
        if self._cache is not None and any(transform for _, _, transform in frames):
            self._cache.touch(self)
        self._observer.record_sent(frames, chunks)
        if frames and frames[-1][0] & 0x0F < Opcode.CLOSE:
            self._limits.note_sent()

    def rest(self) -> None:
        """Give back memory that is not worth having while nothing is sent."""
        if not self.interrupted:  # a thread may be using it
            self._protocol.rest()

    def close(self) -> None:
        """Free the compressor for good: the connection has ended."""
        if self._cache is not None:
            self._cache.remove(self)
            self._cache = None
