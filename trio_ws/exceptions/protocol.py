"""Frames and messages that violate RFC 6455 or a limit."""

from __future__ import annotations

import attrs

from .base import WebSocketException

__all__ = ["InvalidData", "MessageTooBig", "ProtocolError", "TooManyFragments", "TooManyMessages"]


@attrs.define(slots=False, eq=False, repr=False)
class ProtocolError(WebSocketException, ValueError):
    """A frame or a sequence of frames is not allowed by RFC 6455.

    Constructing an invalid frame raises this. When the peer sends one, this is the ``__cause__`` of the
    :exc:`ConnectionClosedError` that ends the connection.

    Attributes:
        reason: What is wrong.
    """

    reason: str

    #: The close code (RFC 6455, section 7.4.1) with which the connection fails.
    code = 1002

    def __str__(self) -> str:
        return self.reason


class InvalidData(ProtocolError):
    """The payload does not match the type of the message, for example text that is not UTF-8.

    Attributes:
        reason: What is wrong.
    """

    code = 1007


@attrs.define(slots=False, eq=False, repr=False)
class MessageTooBig(ProtocolError):
    """A message is larger than this endpoint accepts.

    Attributes:
        reason: What is wrong.
        size: Size of the message received so far, in bytes. The whole message may be larger.
        limit: Maximum size, in bytes.
    """

    size: int
    limit: int
    reason: str = attrs.field(init=False)

    code = 1009

    @reason.default
    def _reason(self) -> str:
        return f"the message must have at most {self.limit} bytes, not {self.size} or more"


@attrs.define(slots=False, eq=False, repr=False)
class TooManyFragments(ProtocolError):
    """The peer sent a message with more small fragments than this endpoint accepts.

    Attributes:
        limit: Maximum number of fragments of less than 1 KiB.
    """

    limit: int
    reason: str = attrs.field(init=False)

    code = 1009

    @reason.default
    def _reason(self) -> str:
        return f"the message must have at most {self.limit} fragments of less than 1 KiB"


@attrs.define(slots=False, eq=False, repr=False)
class TooManyMessages(ProtocolError):
    """The peer sent more messages, fragments or control frames per second than this endpoint accepts.

    Attributes:
        limit: Maximum number of messages per second. Every frame counts as a message.
    """

    limit: float
    reason: str = attrs.field(init=False)

    code = 1008

    @reason.default
    def _reason(self) -> str:
        return f"at most {self.limit:g} messages per second are allowed"
