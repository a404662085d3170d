"""permessage-deflate (RFC 7692): negotiation, and the transform of messages.

A message is compressed as one run of DEFLATE blocks that ends with an empty block, of which the last four bytes are
left out (section 7.2). Compressor and decompressor go on with their windows from message to message, unless it was
agreed that they start anew for each ("no context takeover").

What matters of the messages before is their last bytes, as many as the window has; whatever else a compressor and a
decompressor hold is for their own convenience. So these bytes are kept here, and both can be thrown away between two
messages: new ones that have them for a dictionary go on where the old ones were. A decompressor is made so cheaply that
each message has its own. A compressor takes some microseconds, so it is kept until :meth:`PerMessageDeflate.rest` puts
it away, which is for connections that are idle: then a few KiB are left of up to some hundreds.

Each direction has a window of 2 to the power of 8 to 15 bytes, and what the server compresses with is what the client
must be ready to decompress, hence ``server_max_window_bits`` and ``client_max_window_bits``. Either end may use less
than was agreed on.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import attrs

from ..exceptions import InvalidData, NegotiationError
from .codec import RSV1
from .extensions import Params, Shared

if TYPE_CHECKING:
    import zlib
else:
    try:
        from zlib_ng import zlib_ng as zlib
    except ImportError:
        import zlib

__all__ = ["Deflate", "DeflateClient", "DeflateServer", "PerMessageDeflate"]

NAME = "permessage-deflate"

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

#: How large our window is where nobody asks for another: it has most of the benefit, and an eighth of the memory.
_WINDOW_BITS = 12
_MAX_WINDOW_BITS = 15

_WINDOW_BITS_VALUE = re.compile(r"[89]|1[0-5]")


def _integer(minimum: int, maximum: int | None = None, *, optional: bool = False) -> Any:
    kind = "an int or None" if optional else "an int"
    allowed = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{attribute.name} is {kind}, not {value!r}")
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"{attribute.name} is {allowed}, not {value}")

    return check


_bits = _integer(8, _MAX_WINDOW_BITS, optional=True)


def _flag(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} is True or False, not {value!r}")


@attrs.frozen(kw_only=True)
class Deflate:
    """How to compress messages.

    Where the two ends differ, the smaller window is agreed on, and no context takeover if either wants none.

    Attributes:
        level: How hard to try, from 1, the fastest, to 9, the smallest.
        mem_level: Memory for the compressor besides its window, from 1, the least, to 9. With zlib each step doubles
            it; zlib-ng takes more, and hardly minds this.
        server_max_window_bits: The window of what the server sends, from 8 to 15. A client that sets it refuses a
            server that compresses without agreeing to it.
        client_max_window_bits: The window of what the client sends, from 8 to 15. A server can only ask for it when the
            client says that it understands.
        server_no_context_takeover: Whether the server compresses each message by itself: less memory, less compression.
            A client that sets it refuses a server that does not agree to it.
        client_no_context_takeover: The same for the client, which can do so by itself.
        min_size: Messages of fewer bytes are not compressed.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if it is out of range.
    """

    level: int = attrs.field(default=4, validator=_integer(1, 9))
    mem_level: int = attrs.field(default=5, validator=_integer(1, 9))
    server_max_window_bits: int | None = attrs.field(default=None, validator=_bits)
    client_max_window_bits: int | None = attrs.field(default=None, validator=_bits)
    server_no_context_takeover: bool = attrs.field(default=False, validator=_flag)
    client_no_context_takeover: bool = attrs.field(default=False, validator=_flag)
    min_size: int = attrs.field(default=64, validator=_integer(0))


# -- Negotiation ---------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Parameters:
    """The four parameters (RFC 7692, section 7.1). Without window bits the window is the largest.

    ``client_max_window_bits`` is True when it is there without a value, which only an offer may have.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | bool | None = None

    @classmethod
    def parse(cls, params: Params, *, offer: bool) -> _Parameters:
        values: dict[str, Any] = {}
        for name, value in params:
            if name in values:
                raise NegotiationError(f"the parameter {name!r} of {NAME} occurs twice")
            if name in ("server_no_context_takeover", "client_no_context_takeover"):
                if value is not None:
                    raise NegotiationError(f"the parameter {name!r} of {NAME} has no value")
                values[name] = True
            elif name in ("server_max_window_bits", "client_max_window_bits"):
                if value is None and offer and name == "client_max_window_bits":
                    values[name] = True
                elif value is None or not _WINDOW_BITS_VALUE.fullmatch(value):
                    raise NegotiationError(f"the parameter {name!r} of {NAME} is from 8 to 15, not {value!r}")
                else:
                    values[name] = int(value)
            else:
                raise NegotiationError(f"{NAME} has no parameter {name!r}")
        return cls(**values)

    def build(self) -> Params:
        params: list[tuple[str, str | None]] = []
        for field in attrs.fields(_Parameters):
            value = getattr(self, field.name)
            if value is True:
                params.append((field.name, None))
            elif value:
                params.append((field.name, str(value)))
        return tuple(params)


@attrs.frozen
class DeflateClient:
    """The client's side of the negotiation: a :class:`~trio_ws.protocol.extensions.ClientExtension`."""

    settings: Deflate
    name: str = attrs.field(default=NAME, init=False)

    def offers(self) -> list[Params]:
        """Offer it once (RFC 7692, section 7.1)."""
        settings = self.settings
        return [
            _Parameters(
                server_no_context_takeover=settings.server_no_context_takeover,
                client_no_context_takeover=settings.client_no_context_takeover,
                server_max_window_bits=settings.server_max_window_bits,
                client_max_window_bits=settings.client_max_window_bits or True,
            ).build()
        ]

    def accept(self, params: Params) -> PerMessageDeflate:
        """Take the server's answer.

        Raises:
            NegotiationError: if it is malformed, or not what was asked for.
        """
        settings = self.settings
        answer = _Parameters.parse(params, offer=False)
        if settings.server_no_context_takeover and not answer.server_no_context_takeover:
            raise NegotiationError(f"the server does not agree to 'server_no_context_takeover' of {NAME}")
        # Some servers leave out what is the largest anyway.
        wanted, answered = settings.server_max_window_bits, answer.server_max_window_bits or _MAX_WINDOW_BITS
        if wanted is not None and answered > wanted:
            raise NegotiationError(f"the server does not agree to 'server_max_window_bits={wanted}' of {NAME}")
        return PerMessageDeflate(
            settings,
            send_bits=min(
                answer.client_max_window_bits or _MAX_WINDOW_BITS, settings.client_max_window_bits or _WINDOW_BITS
            ),
            receive_bits=answered,
            send_takeover=not (settings.client_no_context_takeover or answer.client_no_context_takeover),
            receive_takeover=not answer.server_no_context_takeover,
        )


@attrs.frozen
class DeflateServer:
    """The server's side of the negotiation: a :class:`~trio_ws.protocol.extensions.ServerExtension`."""

    settings: Deflate
    name: str = attrs.field(default=NAME, init=False)

    def answer(self, params: Params) -> tuple[Params, PerMessageDeflate] | None:
        """Answer one offer; decline it if it is malformed (RFC 7692, section 7)."""
        settings = self.settings
        try:
            offer = _Parameters.parse(params, offer=True)
        except NegotiationError:
            return None
        send_bits = min(
            offer.server_max_window_bits or _MAX_WINDOW_BITS, settings.server_max_window_bits or _WINDOW_BITS
        )
        # True stands for any size, and for the number 15 here. Without it we must not ask for less.
        receive_bits = None
        if offer.client_max_window_bits:
            offered = _MAX_WINDOW_BITS if offer.client_max_window_bits is True else offer.client_max_window_bits
            receive_bits = min(offered, settings.client_max_window_bits or _WINDOW_BITS)
        answer = _Parameters(
            server_no_context_takeover=offer.server_no_context_takeover or settings.server_no_context_takeover,
            client_no_context_takeover=offer.client_no_context_takeover or settings.client_no_context_takeover,
            server_max_window_bits=send_bits,
            client_max_window_bits=receive_bits,
        )
        return answer.build(), PerMessageDeflate(
            settings,
            send_bits=send_bits,
            receive_bits=receive_bits or _MAX_WINDOW_BITS,
            send_takeover=not answer.server_no_context_takeover,
            receive_takeover=not answer.client_no_context_takeover,
        )


# -- Transform -----------------------------------------------------------------------------------------------------


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
            InvalidData: if it is not DEFLATE, or if the message is not complete at its end.
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
