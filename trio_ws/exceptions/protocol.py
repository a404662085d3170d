"""Frames and messages that RFC 6455, or a limit, does not allow."""

from __future__ import annotations

import attrs

from .base import WebSocketException

__all__ = ["InvalidData", "MessageTooBig", "ProtocolError", "TooManyMessages"]


@attrs.define(slots=False, eq=False)
class ProtocolError(WebSocketException, ValueError):
    """A frame or a sequence of frames that RFC 6455 does not allow.

    Raised where such a frame is constructed. When a peer sends one, it is the ``__cause__`` of the
    :exc:`ConnectionClosedError` that the connection ends with.

    Attributes:
        reason: What is wrong.
    """

    reason: str

    #: The close code (RFC 6455, section 7.4.1) that a connection fails with because of this.
    code = 1002

    def __str__(self) -> str:
        return self.reason


class InvalidData(ProtocolError):
    """The content of a message is not what its type says, such as text that is not UTF-8.

    Attributes:
        reason: What is wrong.
    """

    code = 1007


@attrs.define(slots=False, eq=False)
class MessageTooBig(ProtocolError):
    """A message is larger than this endpoint accepts.

    Attributes:
        reason: What is wrong.
        size: How large the message is at least, in bytes.
        limit: How large it may be, in bytes.
    """

    size: int
    limit: int
    reason: str = attrs.field(init=False)

    code = 1009

    @reason.default
    def _reason(self) -> str:
        return f"message of at least {self.size} bytes, the limit is {self.limit}"


@attrs.define(slots=False, eq=False)
class TooManyMessages(ProtocolError):
    """The peer sends more messages than we accept.

    Attributes:
        limit: How many per second it may send.
    """

    limit: float
    reason: str = attrs.field(init=False)

    code = 1008

    @reason.default
    def _reason(self) -> str:
        return f"more than {self.limit:g} messages per second"
