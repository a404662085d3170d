"""Compression and decompression of messages: ``PerMessageDeflate``."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from ...exceptions import InvalidData
from ..codec import RSV1
from ..extensions import EncodingCache
from .settings import Deflate

__all__ = ["PerMessageDeflate", "load_back_end"]

#: The end of each compressed message: four bytes that are not sent (RFC 7692, section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: An empty block with the BFINAL bit.
_LAST_BLOCK = b"\x01\x00\x00\xff\xff"
_TAIL_AND_LAST_BLOCK = _TAIL + _LAST_BLOCK

#: Number of bytes to decompress at a time after the peer has ended a DEFLATE stream within a message. A stream can be
#: as short as two bytes, and at its end zlib copies the rest of its input: for a message of many streams, that would
#: take quadratic time.
_CHUNK = 4 * 1024
#: The largest limit for which limit + 1 is a valid argument for zlib.
_MAX_LIMIT = sys.maxsize - 1


#: The compression library. It is imported late, because not all programs use compression.
zlib: Any = None


def load_back_end() -> str:
    """Import the compression library: zlib-ng if it is installed, otherwise zlib. Idempotent.

    Clients and servers do this before they open or accept a connection, so that no connection has to wait for it.

    Returns:
        The name of the library: ``"zlib_ng"`` or ``"zlib"``.
    """
    global zlib
    if zlib is None:
        try:
            zlib = import_module("zlib_ng.zlib_ng")
        except ImportError:
            zlib = import_module("zlib")
    name: str = zlib.__name__
    return name.partition(".")[0]


class PerMessageDeflate:
    """The negotiated transform: an :class:`~trio_ws.protocol.extensions.Extension`.

    Args:
        settings: The options. Only ``level``, ``mem_level`` and ``min_size`` are used.
        send_bits: Window bits for sent messages.
        receive_bits: Window bits for received messages.
        send_takeover: Whether our compressor keeps its window between messages.
        receive_takeover: Whether the peer's compressor keeps its window between messages.
    """

    __slots__ = (
        "_compressing",
        "_compressor",
        "_decompressor",
        "_min_size",
        "_received_history",
        "_sent_history",
        "_settings",
        "receive_bits",
        "receive_takeover",
        "rsv",
        "send_bits",
        "send_takeover",
    )

    def __init__(
        self,
        settings: Deflate,
        *,
        send_bits: int,
        receive_bits: int,
        send_takeover: bool = True,
        receive_takeover: bool = True,
    ) -> None:
        if zlib is None:
            load_back_end()
        self.rsv: int = RSV1
        self.send_bits: int = send_bits
        self.receive_bits: int = receive_bits
        self.send_takeover: bool = send_takeover
        self.receive_takeover: bool = receive_takeover
        self._settings = settings
        self._min_size = settings.min_size
        # Both are created on demand. With context takeover, the history is the last uncompressed bytes of each
        # direction; it may be a quarter larger than the window.
        self._compressor: Any = None
        self._decompressor: Any = None
        self._sent_history = bytearray()
        self._received_history = bytearray()
        # True while a compressed message is being sent.
        self._compressing = False

    def __repr__(self) -> str:
        send = f"{self.send_bits} bits{'' if self.send_takeover else ' without context takeover'}"
        receive = f"{self.receive_bits} bits{'' if self.receive_takeover else ' without context takeover'}"
        return f"<{type(self).__name__} sends {send}, receives {receive}>"

    # -- Sending ---------------------------------------------------------------------------------------------------

    def encode(
        self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
    ) -> tuple[bytes, bool]:
        """Compress a message or a part of it (RFC 7692, section 7.2.1).

        Each part is flushed, so that the peer can decompress it as soon as it has arrived.
        """
        if first:
            self._compressing = not final or len(data) >= self._min_size
        if not self._compressing:
            return data, False
        if cache is not None and first and final:
            self._compressing = False
            return self._encode_cached(data, cache), True
        compressor = self._compressor
        if compressor is None:
            compressor = self._compressor = self._new_compressor(self._sent_history)
        compressed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if self.send_takeover:
            _append_history(self._sent_history, data, self.send_bits)
        if final:
            self._compressing = False
            # zlib outputs nothing if the last part is empty and the part before was flushed. b"\0" is an empty block.
            compressed = compressed[:-4] or b"\x00"
            if not self.send_takeover:
                self._compressor = None
        return compressed, True

    def _encode_cached(self, data: bytes, cache: EncodingCache) -> bytes:
        """Compress a message for many connections: once for all that have the same parameters.

        These connections have different histories, so the compressed message cannot refer to any, and gets larger.
        """
        settings = self._settings
        key = data, settings.level, settings.mem_level, self.send_bits
        compressed = cache.payloads.get(key)
        if compressed is None:
            compressor = self._new_compressor(b"")
            compressed = (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            cache.payloads[key] = compressed
        if self.send_takeover:
            _append_history(self._sent_history, data, self.send_bits)
            self._compressor = None  # it has not seen this message; a new one gets it from the history
        return compressed

    def _new_compressor(self, history: bytes | bytearray) -> Any:
        settings = self._settings
        bits = self.send_bits
        more: list[Any] = []
        if bits == 8:
            # zlib has no compressor for this window. With this strategy, matches reach back only one byte.
            bits, more = 9, [zlib.Z_RLE]
        elif history:
            more = [zlib.Z_DEFAULT_STRATEGY, history]
        return zlib.compressobj(settings.level, zlib.DEFLATED, -bits, settings.mem_level, *more)

    # -- Receiving -------------------------------------------------------------------------------------------------

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        """Decompress a part of a message (RFC 7692, section 7.2.2).

        Raises:
            InvalidData: If the data is not valid DEFLATE, or the last block of the message is incomplete.
        """
        try:
            decompressed, size = self._decompress(data, limit)
            if size < len(data):
                decompressed += self._decompress_more(data, size, None if limit is None else limit - len(decompressed))
            complete = not final or (limit is not None and len(decompressed) > limit) or self._end_message()
        except zlib.error as exc:
            raise InvalidData(f"a compressed message is corrupt: {exc}") from exc
        if not complete:
            raise InvalidData("a compressed message is incomplete")
        return decompressed

    def _decompress(self, data: bytes, limit: int | None) -> tuple[bytes, int]:
        """Decompress up to the end of the DEFLATE stream or of the data. Return the output and the position."""
        decompressor = self._decompressor
        if decompressor is None:
            history = self._received_history
            decompressor = self._decompressor = (
                zlib.decompressobj(-self.receive_bits, history) if history else zlib.decompressobj(-self.receive_bits)
            )
        # 0 means "no limit" to zlib. An output of limit + 1 bytes shows that the message is too big.
        decompressed = decompressor.decompress(data, 0 if limit is None or limit > _MAX_LIMIT else limit + 1)
        if decompressor.eof:
            # The peer has ended the stream (section 7.2.3.4). A new one starts here, without history.
            self._end_stream()
            return decompressed, len(data) - len(decompressor.unused_data)
        if self.receive_takeover:
            _append_history(self._received_history, decompressed, self.receive_bits)
        return decompressed, len(data)

    def _decompress_more(self, data: bytes, position: int, limit: int | None) -> bytes:
        """Decompress the following DEFLATE streams of the message."""
        parts: list[bytes] = []
        while position < len(data) and (limit is None or limit >= 0):
            part, size = self._decompress(data[position : position + _CHUNK], limit)
            position += size
            parts.append(part)
            if limit is not None:
                limit -= len(part)
        return b"".join(parts)

    def _end_stream(self) -> None:
        self._decompressor = None
        self._received_history.clear()

    def _end_message(self) -> bool:
        """Append the omitted tail, and return whether the message is complete with it.

        It is complete if the tail produces no output and ends a block. An additional empty last block checks the
        latter: zlib reaches the end of the stream only if the block starts where another one has ended.
        """
        decompressor, self._decompressor = self._decompressor, None
        # Without a decompressor, the message ended with a stream, and lacks the empty block after it.
        if decompressor is None or decompressor.decompress(_TAIL_AND_LAST_BLOCK, 1) or not decompressor.eof:
            return False
        if decompressor.unused_data != _LAST_BLOCK:
            return not decompressor.unused_data
        # The peer's empty block itself ended the stream, which is valid too.
        self._received_history.clear()
        return True

    # -- Both ------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Free the compressor, and cut each history to the size of its window.

        The compressor is kept in the middle of a message.
        """
        if not self._compressing:
            self._compressor = None
        self._sent_history = self._sent_history[-(1 << self.send_bits) :]
        self._received_history = self._received_history[-(1 << self.receive_bits) :]


def _append_history(history: bytearray, data: bytes, bits: int) -> None:
    """Append data to a history. Keep the size of the window, and up to a quarter more.

    Thanks to the extra quarter, the history need not be moved for every message.
    """
    size = 1 << bits
    if len(data) > size:
        data = data[-size:]
    excess = len(history) + len(data) - size
    if excess > size >> 2:
        del history[:excess]
    history += data
