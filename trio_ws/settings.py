"""The options of a connection, gathered once and passed down as one value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import attrs

from .http11.parsers import MAX_HEAD_SIZE, MAX_HEADERS
from .instruments import Instrument
from .protocol.deflate import Deflate
from .protocol.handshake import check_subprotocols

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["Options", "Settings", "check_names", "pick"]

KIB = 1024
MIB = 1024 * KIB


def _number(
    *, minimum: float, none: bool, finite: bool = False, whole: bool = False
) -> Callable[[Any, Attribute[Any], Any], None]:
    def check(_instance: Any, attribute: Attribute[Any], value: Any) -> None:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "whole number" if whole else "number"
            raise TypeError(f"{attribute.name} is a {kind}{' or None' if none else ''}, not {value!r}")
        if not value >= minimum or (finite and math.isinf(value)):
            raise ValueError(f"{attribute.name} is at least {minimum}{' and finite' if finite else ''}, not {value!r}")

    return check


def _to_deflate(value: Any) -> Deflate | None:
    if value == "deflate":
        return Deflate()
    if value is None or isinstance(value, Deflate):
        return value
    raise TypeError(f"compression is 'deflate', a Deflate or None, not {value!r}")


def _to_instruments(value: Any) -> tuple[Instrument, ...]:
    if isinstance(value, (Instrument, Set, Mapping)):  # The order counts.
        raise TypeError(f"instruments must be a sequence of Instruments, not {value!r}")
    instruments = tuple(value)
    for each in instruments:
        if not isinstance(each, Instrument):
            raise TypeError(f"instruments are Instruments, not {each!r}")
    return instruments


@attrs.frozen(kw_only=True)
class Settings:
    """What ``connect`` and ``serve`` accept as keyword arguments, checked. See :class:`Options` for the meaning.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if it is out of range.
    """

    open_timeout: float | None = attrs.field(default=10, validator=_number(minimum=0, none=True))
    close_timeout: float = attrs.field(default=10, validator=_number(minimum=0, none=False, finite=True))
    ping_interval: float | None = attrs.field(default=20, validator=_number(minimum=0.001, none=True))
    ping_timeout: float | None = attrs.field(default=20, validator=_number(minimum=0.001, none=True))
    write_timeout: float | None = attrs.field(default=60, validator=_number(minimum=0.001, none=True))
    max_message_size: int | None = attrs.field(default=MIB, validator=_number(minimum=0, none=True, whole=True))
    receive_buffer: int = attrs.field(default=64 * KIB, validator=_number(minimum=0, none=False, whole=True))
    send_buffer: int = attrs.field(default=64 * KIB, validator=_number(minimum=0, none=False, whole=True))
    max_head_size: int = attrs.field(default=MAX_HEAD_SIZE, validator=_number(minimum=1, none=False, whole=True))
    max_headers: int = attrs.field(default=MAX_HEADERS, validator=_number(minimum=1, none=False, whole=True))
    compression: Deflate | None = attrs.field(factory=Deflate, converter=_to_deflate)
    subprotocols: tuple[str, ...] = attrs.field(default=(), converter=check_subprotocols)
    instruments: tuple[Instrument, ...] = attrs.field(default=(), converter=_to_instruments, hash=False)


class Options(TypedDict, total=False):
    """The options that clients and servers share, as keyword arguments.

    Attributes:
        open_timeout: Seconds in which a connection must be open, opening handshakes of TLS and WebSocket included.
            None: no limit. Default: 10.
        close_timeout: Seconds in which a connection must be closed once its closing handshake has begun; then it is
            cut.
            Default: 10.
        ping_interval: Seconds between two pings that keep the connection alive and measure its latency. None: no pings.
            Default: 20.
        ping_timeout: Seconds without a byte from the peer after such a ping has left; then the connection fails with
            1011. Time in which this end did not read does not count. None: no limit. Default: 20.
        write_timeout: Seconds in which the peer takes nothing of what waits for it, even if it sends; then the
            connection fails. A peer that takes it slowly is not affected. None: no limit. Default: 60.
        max_message_size: Size in bytes of the largest message that is accepted; a larger one fails the connection with
            1009. None: no limit. Default: 1 MiB.
        receive_buffer: Bytes of memory for messages that were received and not yet asked for. When they take more, no
            more is read from the peer. There is always room for one message. Default: 64 KiB.
        send_buffer: Bytes of memory for messages that were given to ``send`` and are not yet written. When they take
            more, ``send`` waits. There is always room for one message. Default: 64 KiB.
        max_head_size: Maximum size in bytes of the first line and the headers of the peer's message in the opening
            handshake, and of the answer of a proxy. A larger one is refused; see :exc:`HeadTooBig`. Large cookies or
            tokens may need more. Default: 32 KiB.
        max_headers: Maximum number of headers in such a message. More are refused; see :exc:`TooManyHeaders`.
            Default: 128.
        compression: ``"deflate"`` to compress messages with permessage-deflate (RFC 7692) if the peer agrees, a
            :class:`Deflate` to say how, None not to compress. Default: ``"deflate"``.
        subprotocols: The subprotocols that this end speaks, in order of preference. Default: none.
        instruments: What is told of all that happens, in this order; see :class:`Instrument`. Default: none.
    """

    open_timeout: float | None
    close_timeout: float
    ping_interval: float | None
    ping_timeout: float | None
    write_timeout: float | None
    max_message_size: int | None
    receive_buffer: int
    send_buffer: int
    max_head_size: int
    max_headers: int
    compression: Literal["deflate"] | Deflate | None
    subprotocols: Sequence[str]
    instruments: Sequence[Instrument]


def check_names(function: str, options: Mapping[str, object], known: Any) -> None:
    """Raise for an option that a function does not have, as Python does for an unexpected keyword argument.

    Args:
        function: The name of the function.
        options: The keyword arguments that it was called with.
        known: The :class:`~typing.TypedDict` of those that it has.

    Raises:
        TypeError: if there is another one.
    """
    for name in options:
        if name not in known.__optional_keys__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def pick(options: Mapping[str, Any], cls: type[Any]) -> dict[str, Any]:
    """Return those of the options that are fields of an attrs class."""
    return {field.name: options[field.name] for field in attrs.fields(cls) if field.name in options}
