"""The interfaces of extensions (RFC 6455, section 9).

There are three: one makes the offers of a client, one makes the answers of a server, and one transforms the messages of
a connection. An extension transforms whole messages, and marks them with one of the reserved bits in the first frame.
It never sees control frames.

A sent message passes the negotiated extensions in the order of the server's response, which is the order of the
client's offers. A received message passes them in reverse order.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeAlias

__all__ = ["ClientExtension", "EncodingCache", "Extension", "Params", "ServerExtension"]

#: The parameters of an extension, in order: pairs of a name and a value, or None without a value.
Params: TypeAlias = "tuple[tuple[str, str | None], ...]"


class EncodingCache:
    """Encoded forms of one message that is sent to many connections.

    The message is encoded once for all connections that negotiated the same parameters.

    Attributes:
        payloads: Payloads produced by extensions. The keys contain the original payload and everything else that the
            result depends on.
        frames: Unmasked frames, by their first byte and payload.
    """

    __slots__ = ("frames", "payloads")

    def __init__(self) -> None:
        self.payloads: dict[Hashable, bytes] = {}
        self.frames: dict[tuple[int, bytes], bytes] = {}


class Extension(Protocol):
    """An extension in use on one connection, with its negotiated parameters."""

    @property
    def rsv(self) -> int:
        """The reserved bit that marks a message as transformed: ``RSV1``, ``RSV2`` or ``RSV3`` of the codec.

        permessage-deflate uses ``RSV1``. Two extensions with the same bit cannot be used together.
        """

    def encode(
        self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
    ) -> tuple[bytes, bool]:
        """Transform the payload of a frame to send.

        Large payloads are transformed in a thread. If this raises an exception, the connection fails with 1011.

        Args:
            data: The payload of the next frame of a message.
            first: Whether it is the first frame of the message.
            final: Whether it is the last frame of the message.
            cache: The cache of a message that is sent to many connections in a single frame: read the result from it,
                or add it.

        Returns:
            The new payload, and whether to mark the message as transformed. The mark matters only for the first frame.
        """

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        """Undo the transformation of a received message. Called only for marked messages.

        Args:
            data: The next part of the message.
            final: Whether it is the last part.
            limit: Remaining size that the message may have, in bytes; None for no limit. An output of one byte more is
                enough to make the message fail, even if another extension would make it smaller.

        Raises:
            ProtocolError: If the data is invalid. The connection fails with the ``code`` of the exception; after other
                exceptions, with 1011.
        """

    def rest(self) -> None:
        """Free memory that is not needed while the connection is idle. This must not raise an exception.

        The peer must not notice: messages encoded and decoded afterwards must be compatible with it as before.
        """


class ClientExtension(Protocol):
    """An extension that a client offers. One object serves any number of connections."""

    @property
    def name(self) -> str:
        """The registered name of the extension."""

    def offers(self) -> Sequence[Params]:
        """Return the parameters of each offer, in order of preference."""

    def accept(self, params: Params) -> Extension:
        """Return the extension for the server's answer.

        Args:
            params: The parameters in the server's response.

        Raises:
            NegotiationError: If the answer does not match an offer.
        """


class ServerExtension(Protocol):
    """An extension that a server supports. One object serves any number of connections."""

    @property
    def name(self) -> str:
        """The registered name of the extension."""

    def answer(self, params: Params) -> tuple[Params, Extension] | None:
        """Return the parameters of the response and the extension to use, or None to decline the offer.

        Args:
            params: The parameters of one offer.
        """
