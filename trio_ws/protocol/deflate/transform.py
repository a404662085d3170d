"""Compressing and decompressing messages: ``PerMessageDeflate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ...exceptions import InvalidData
from ..codec import RSV1
from ..extensions import Shared
from .settings import Deflate

if TYPE_CHECKING:
    import zlib
else:
    try:
        from zlib_ng import zlib_ng as zlib
    except ImportError:
        import zlib

__all__ = ["BACK_END", "PerMessageDeflate"]

#: The library that compresses: ``zlib`` or ``zlib_ng``.
BACK_END: str = zlib.__name__.partition(".")[0]

#: What ends each message and does not travel (RFC 7692, section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: An empty last block.
_LAST_BLOCK = b"\x01\x00\x00\xff\xff"
_TAIL_AND_LAST_BLOCK = _TAIL + _LAST_BLOCK

#: How much is decompressed at a time once the peer has ended a run of blocks. A run may take two bytes, and at its end
#: zlib copies all that follows: in a message made of such runs, that would be the whole rest each time.
_CHUNK = 4 * 1024
#: The largest limit that zlib can be given, less the one byte more that we ask for.
_MAX_LIMIT = sys.maxsize - 1


class PerMessageDeflate:
    """The transform that was agreed on: an :class:`~trio_ws.protocol.extensions.Extension`.

    Args:
        settings: Level, memory and smallest message.
        send_bits: The window of what we send.
        receive_bits: The window of what we receive.
        send_takeover: Whether our compressor keeps its window from message to message.
        receive_takeover: Whether the peer's does.
    """

    __slots__ = (
        "_compressing",
        "_compressor",
        "_decompressor",
        "_min_size",
        "_received",
        "_sent",
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
        self.rsv: int = RSV1
        self.send_bits: int = send_bits
        self.receive_bits: int = receive_bits
        self.send_takeover: bool = send_takeover
        self.receive_takeover: bool = receive_takeover
        self._settings = settings
        self._min_size = settings.min_size
        # Made when they are needed; and with context takeover, the last bytes that have passed.
        self._compressor: Any = None
        self._decompressor: Any = None
        self._sent = bytearray()
        self._received = bytearray()
        # Whether a message is being sent that is compressed.
        self._compressing = False

    def __repr__(self) -> str:
        send = f"{self.send_bits} bits{'' if self.send_takeover else ' without context takeover'}"
        receive = f"{self.receive_bits} bits{'' if self.receive_takeover else ' without context takeover'}"
        return f"<{type(self).__name__} sends {send}, receives {receive}>"

    # -- Sending ---------------------------------------------------------------------------------------------------

    def encode(self, data: bytes, *, first: bool, final: bool, shared: Shared | None = None) -> tuple[bytes, bool]:
        """Compress a message, or a part of one (RFC 7692, section 7.2.1). Each part can be read when it has arrived."""
        if first:
            self._compressing = not final or len(data) >= self._min_size
        if not self._compressing:
            return data, False
        if shared is not None and first and final:
            self._compressing = False
            return self._encode_shared(data, shared), True
        compressor = self._compressor
        if compressor is None:
            compressor = self._compressor = self._new_compressor(self._sent)
        compressed = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if self.send_takeover:
            _remember(self._sent, data, self.send_bits)
        if final:
            self._compressing = False
            compressed = _cut_tail(compressed)
            if not self.send_takeover:
                self._compressor = None
        return compressed, True

    def _encode_shared(self, data: bytes, shared: Shared) -> bytes:
        """Compress a message that other connections get too, once for all with the same parameters.

        What was sent before is not the same to all, so the message does not refer to it, although it may: it is larger
        by that.
        """
        settings = self._settings
        key = data, settings.level, settings.mem_level, self.send_bits
        compressed = shared.results.get(key)
        if compressed is None:
            compressor = self._new_compressor(b"")
            compressed = _cut_tail(compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))
            shared.results[key] = compressed
        if self.send_takeover:
            _remember(self._sent, data, self.send_bits)
            self._compressor = None  # it knows nothing of this message; the next one begins with what was sent
        return compressed

    def _new_compressor(self, sent: bytes | bytearray) -> Any:
        settings = self._settings
        bits = self.send_bits
        more: list[Any] = []
        if bits == 8:
            # zlib cannot compress with so small a window. With this strategy it never looks back further than one byte.
            bits, more = 9, [zlib.Z_RLE]
        elif sent:
            more = [zlib.Z_DEFAULT_STRATEGY, sent]
        return zlib.compressobj(settings.level, zlib.DEFLATED, -bits, settings.mem_level, *more)

    # -- Receiving -------------------------------------------------------------------------------------------------

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        """Decompress a piece of a message (RFC 7692, section 7.2.2).

        Raises:
            InvalidData: If it is not DEFLATE, or if the message is not complete at its end.
        """
        try:
            decompressed, size = self._decompress(data, limit)
            if size < len(data):
                decompressed += self._decompress_more(data, size, None if limit is None else limit - len(decompressed))
            complete = not final or (limit is not None and len(decompressed) > limit) or self._end_message()
        except zlib.error as exc:
            raise InvalidData(f"a compressed message is corrupt: {exc}") from exc
        if not complete:
            raise InvalidData("a compressed message ends too early")
        return decompressed

    def _decompress(self, data: bytes, limit: int | None) -> tuple[bytes, int]:
        """Decompress a run of blocks. Return what comes out, and where the run ends, or the data."""
        decompressor = self._decompressor
        if decompressor is None:
            decompressor = self._decompressor = self._new_decompressor()
        # 0 is "no limit" to zlib. The one byte more tells whether the limit was passed.
        decompressed = decompressor.decompress(data, 0 if limit is None else min(limit, _MAX_LIMIT) + 1)
        if decompressor.eof:
            # The peer has ended the run (section 7.2.3.4): what follows is a new one, with nothing before it.
            self._end_run()
            return decompressed, len(data) - len(decompressor.unused_data)
        if self.receive_takeover:
            _remember(self._received, decompressed, self.receive_bits)
        return decompressed, len(data)

    def _decompress_more(self, data: bytes, position: int, limit: int | None) -> bytes:
        """Decompress the runs of blocks that begin here."""
        parts: list[bytes] = []
        while position < len(data) and (limit is None or limit >= 0):
            part, size = self._decompress(data[position : position + _CHUNK], limit)
            position += size
            parts.append(part)
            if limit is not None:
                limit -= len(part)
        return b"".join(parts)

    def _end_run(self) -> None:
        self._decompressor = None
        self._received.clear()

    def _new_decompressor(self) -> Any:
        if self._received:
            return zlib.decompressobj(-self.receive_bits, self._received)
        return zlib.decompressobj(-self.receive_bits)

    def _end_message(self) -> bool:
        """Put back what did not travel, and return whether the message ended with it.

        That is so if nothing more comes out, and if we are between two blocks then: there, and only there, an empty
        last block can be read.
        """
        decompressor, self._decompressor = self._decompressor, None
        # Without one, the message ended with a run of blocks, and lacks the empty block behind it.
        if decompressor is None or decompressor.decompress(_TAIL_AND_LAST_BLOCK, 1) or not decompressor.eof:
            return False
        if decompressor.unused_data != _LAST_BLOCK:
            return not decompressor.unused_data
        # The peer's own block was the last of a run already, which is as good.
        self._received.clear()
        return True

    # -- Both ------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Keep no more than the next messages need: of each direction, as many bytes as the window has.

        In the middle of a message, what it needs is left as it is.
        """
        if not self._compressing:
            self._compressor = None
        self._sent = self._sent[-(1 << self.send_bits) :]
        self._received = self._received[-(1 << self.receive_bits) :]


def _cut_tail(compressed: bytes) -> bytes:
    """Cut off what does not travel of the last part of a message."""
    # Nothing comes out where a part ended just before: that is an empty block, too.
    return compressed[: -len(_TAIL)] or b"\x00"


def _remember(last: bytearray, data: bytes, bits: int) -> None:
    """Add data to the last bytes that have passed. Kept are as many as the window has, and up to a quarter more.

    Because of the quarter they do not have to be moved for each message.
    """
    size = 1 << bits
    data = data[-size:]
    excess = len(last) + len(data) - size
    if excess > size >> 2:
        del last[:excess]
    last += data
