"""Connection options, validated once and passed down as a single value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import attrs

from .exceptions.shown import show_fields
from .http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS
from .misuse.values import number, to_tuple
from .protocol.deflate import Deflate
from .protocol.handshake import check_subprotocols

if TYPE_CHECKING:
    from .instruments.interface import Instrument

__all__ = ["Options", "Settings", "pick", "to_instruments"]

KIB = 1024
MIB = 1024 * KIB


def _to_deflate(value: Any) -> Deflate | None:
    if value == "deflate":
        return Deflate()
    if value is None or isinstance(value, Deflate):
        return value
    raise TypeError(f"compression must be 'deflate', a Deflate or None, not {value!r}")


def to_instruments(value: Any) -> tuple[Instrument, ...]:
    """Convert the ``instruments`` option.

    Raises:
        TypeError: If it is not a sequence of instruments.
    """
    instruments: tuple[Instrument, ...] = to_tuple("instruments", value, "a sequence of Instruments", ordered=True)
    if not instruments:
        return ()
    from .instruments.interface import Instrument  # needed by few programs

    for instrument in instruments:
        if not isinstance(instrument, Instrument):
            raise TypeError(f"instruments must be a sequence of Instruments, but one of them is {instrument!r}")
    return instruments


@attrs.frozen(kw_only=True)
class Settings:
    """The validated options. :class:`Options` documents them.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
    """

    open_timeout: float | None = attrs.field(default=10, validator=number(minimum=0, none=True))
    close_timeout: float = attrs.field(default=10, validator=number(minimum=0, none=False, finite=True))
    ping_interval: float | None = attrs.field(default=20, validator=number(minimum=0.001, none=True))
    ping_timeout: float | None = attrs.field(default=20, validator=number(minimum=0.001, none=True))
    write_timeout: float | None = attrs.field(default=60, validator=number(minimum=0.001, none=True))
    max_message_size: int | None = attrs.field(default=MIB, validator=number(minimum=0, none=True, whole=True))
    max_fragments: int | None = attrs.field(default=16 * KIB, validator=number(minimum=1, none=True, whole=True))
    max_head_size: int = attrs.field(default=MAX_HEAD_SIZE, validator=number(minimum=1, none=False, whole=True))
    max_headers: int = attrs.field(default=MAX_HEADERS, validator=number(minimum=1, none=False, whole=True))
    receive_buffer: int = attrs.field(default=64 * KIB, validator=number(minimum=0, none=False, whole=True))
    send_buffer: int = attrs.field(default=64 * KIB, validator=number(minimum=0, none=False, whole=True))
    compression: Deflate | None = attrs.field(factory=Deflate, converter=_to_deflate)
    subprotocols: tuple[str, ...] = attrs.field(default=(), converter=check_subprotocols)
    instruments: tuple[Instrument, ...] = attrs.field(default=(), converter=to_instruments, hash=False)

    __repr__ = show_fields


class Options(TypedDict, total=False):
    """The keyword arguments that clients and servers share.

    Attributes:
        open_timeout: Seconds for opening a connection, including the TLS and WebSocket handshakes. None: no limit.
            Default: 10.
        close_timeout: Seconds for the closing handshake. The connection is dropped when they are over. Default: 10.
        ping_interval: Seconds between keepalive pings, which also measure the latency. None: no pings. Default: 20.
        ping_timeout: Seconds to wait for any data from the peer after a keepalive ping was written. When they are over,
            the connection fails with 1011. Time during which this end did not read does not count. None: no limit.
            Default: 20.
        write_timeout: Seconds to wait for the peer to accept any of the queued data, even if it keeps sending. When
            they are over, the connection fails. A peer that is merely slow is not affected. None: no limit.
            Default: 60.
        max_message_size: Maximum size of a received message in bytes, after decompression. A larger message fails the
            connection with 1009. None: no limit. Default: 1 MiB.
        max_fragments: Maximum number of fragments of less than 1 KiB in a received message. One more fails the
            connection with 1009. Larger fragments and control frames do not count. None: no limit. Default: 16,384.
        max_head_size: Maximum size of the peer's part of the opening handshake without a body: the start line and the
            headers, in bytes. A server answers a larger request with 431, a client raises :exc:`HeadTooBig`.
            Default: 32 KiB.
        max_headers: Maximum number of headers in the peer's part of the opening handshake. A server answers a request
            with more with 431, a client raises :exc:`TooManyHeaders`. Default: 128.
        receive_buffer: Bytes of memory for messages that wait to be received. When they are used up, the connection
            stops reading from the peer. There is always room for one message. Default: 64 KiB.
        send_buffer: Bytes of memory for messages that wait to be written. When they are used up, ``send`` waits. There
            is always room for one message. Default: 64 KiB.
        compression: ``"deflate"`` to compress messages with permessage-deflate (RFC 7692) if the peer agrees, a
            :class:`Deflate` to configure it, None for no compression. Default: ``"deflate"``.
        subprotocols: The supported subprotocols, in order of preference. Default: none.
        instruments: The instruments to call, in this order, when something happens on the connection; see
            :class:`Instrument`. Default: none.
    """

    open_timeout: float | None
    close_timeout: float
    ping_interval: float | None
    ping_timeout: float | None
    write_timeout: float | None
    max_message_size: int | None
    max_fragments: int | None
    max_head_size: int
    max_headers: int
    receive_buffer: int
    send_buffer: int
    compression: Literal["deflate"] | Deflate | None
    subprotocols: Sequence[str]
    instruments: Sequence[Instrument]


def pick(options: Mapping[str, Any], cls: type[Any]) -> dict[str, Any]:
    """Return the options that are fields of an attrs class."""
    fields = attrs.fields_dict(cls)
    return {name: value for name, value in options.items() if name in fields}
