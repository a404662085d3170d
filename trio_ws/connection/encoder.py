"""The encoder: turns frames into bytes, and bounds the number of compressors in memory.

It has three callers, all in :mod:`trio_ws.connection.writer`, which never run at the same time: the writer task,
``write_at_once()``, and the final flush of the writer task.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

import trio

from ..frames import Close, Opcode
from ..instruments.null import NullObserver
from ..protocol import Protocol
from ..protocol.codec import CONTROL, FIN
from ..protocol.connection import OutgoingFrame
from .limits import NoLimits
from .run_local import RunLocal

__all__ = ["MAX_COMPRESSORS", "THREAD_SIZE", "CompressorCache", "Encoder", "EncodingFailed"]

#: Payloads of at least this size, in bytes, are compressed in a thread, so that other tasks can run meanwhile. For
#: smaller ones, a thread costs more than it gains; ``tests/benchmarks/compression.py`` measures it.
THREAD_SIZE = 64 * 1024

#: Maximum number of connections that keep their compressor, per run of Trio. A compressor of zlib-ng takes 160 KiB or
#: more, and creating it again takes 10 µs. With 400 connections, 256 compressors would take 90 KiB per connection.
MAX_COMPRESSORS = 32

#: The limiter of the compressing threads. It cannot be Trio's default limiter: all threads of that one might be waiting
#: in ``trio.from_thread.run(ws.send, ...)`` for a compression that could then never start.
_limiter = RunLocal(lambda: trio.CapacityLimiter(os.cpu_count() or 1))


class CompressorCache:
    """LRU of encoders that keep their compressor. The others free theirs, and create a new one when needed.

    :data:`MAX_COMPRESSORS` is the maximum number.
    """

    def __init__(self) -> None:
        self._encoders: OrderedDict[Encoder, None] = OrderedDict()

    def touch(self, encoder: Encoder) -> None:
        """Mark the compressor of an encoder as recently used, and free the oldest one if there are too many."""
        encoders = self._encoders
        try:
            encoders.move_to_end(encoder)
        except KeyError:
            encoders[encoder] = None
            if len(encoders) > MAX_COMPRESSORS:
                oldest, _ = encoders.popitem(last=False)
                oldest.free_memory()

    def remove(self, encoder: Encoder) -> None:
        """Remove the encoder of a connection that has ended."""
        self._encoders.pop(encoder, None)


_cache = RunLocal(CompressorCache)


class EncodingFailed(Exception):
    """An extension has raised an exception, which is the ``__cause__``. Only a Close frame may follow."""


class Encoder:
    """Turns frames into bytes, in order.

    Args:
        protocol: The protocol.
        compresses: Whether extensions are in use, so that encoding may be slow.
        limits: The limits of the connection, for which sent messages are activity.
        observer: The observer of the connection.

    Attributes:
        is_plain: Whether frames are neither masked nor transformed, so that their bytes are those of other connections.
        interrupted: Whether encoding has begun and not finished. If it was cancelled or has failed, the peer cannot
            decode later messages, and only a Close frame may follow.
    """

    def __init__(self, protocol: Protocol, compresses: bool, limits: NoLimits, observer: NullObserver) -> None:
        self._protocol = protocol
        self._limits = limits
        self._observer = observer
        self._cache = _cache.get() if compresses else None
        self._compresses = compresses
        self.is_plain: bool = not (compresses or protocol.masks)
        self.interrupted: bool = False

    def needs_thread(self, frames: Sequence[OutgoingFrame]) -> bool:
        """Whether frames are so large that they should be encoded in a thread."""
        if not self._compresses:
            return False
        size = 0  # a loop, because a generator would take as long as everything else here
        for _, data, transform in frames:
            if transform:
                size += len(data)
        return size >= THREAD_SIZE

    def encode(self, frames: list[OutgoingFrame]) -> list[bytes]:
        """Return the encoded frames, as chunks of bytes.

        Raises:
            EncodingFailed: If an extension fails.
        """
        self.interrupted = True
        try:
            chunks = self._protocol.encode_all(frames)
        except Exception as exc:
            raise EncodingFailed from exc
        self.record_sent(frames, chunks)
        return chunks

    async def encode_in_thread(self, frames: list[OutgoingFrame]) -> list[bytes]:
        """Encode frames in a thread. When cancelled, the thread is abandoned.

        Raises:
            EncodingFailed: If an extension fails.
        """
        self.interrupted = True
        try:
            encoded = await trio.to_thread.run_sync(
                self._try_to_encode, frames, abandon_on_cancel=True, limiter=_limiter.get()
            )
        except RuntimeError:  # no thread could be started
            return self.encode(frames)
        if isinstance(encoded, Exception):
            raise EncodingFailed from encoded
        self.record_sent(frames, encoded)
        return encoded

    def _try_to_encode(self, frames: list[OutgoingFrame]) -> list[bytes] | Exception:
        try:
            return self._protocol.encode_all(frames)
        except Exception as exc:  # extensions of users may raise anything; the caller raises EncodingFailed
            return exc

    def encode_close(self, close: Close) -> list[bytes]:
        """Return the encoded Close frame, as chunks of bytes."""
        chunks = self._protocol.encode_close(close)
        self._observer.record_sent([(FIN | Opcode.CLOSE, close.serialize(), False)], chunks)
        return chunks

    def record_sent(self, frames: list[OutgoingFrame], chunks: list[bytes]) -> None:
        """Record that frames are sent. The chunks are their encoded bytes."""
        self.interrupted = False
        if self._cache is not None:
            for _, _, transform in frames:
                if transform:
                    self._cache.touch(self)
                    break
        self._observer.record_sent(frames, chunks)
        if frames and not frames[-1][0] & CONTROL:
            self._limits.record_sent()

    def free_memory(self) -> None:
        """Free the compressor, and other memory that is not needed until the next message."""
        if not self.interrupted:  # otherwise, a thread may be using the compressor
            self._protocol.rest()

    def close(self) -> None:
        """Leave the cache, because the connection has ended."""
        if self._cache is not None:
            self._cache.remove(self)
            self._cache = None
