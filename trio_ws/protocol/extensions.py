"""What an extension is to the rest of the protocol (RFC 6455, section 9).

Three small interfaces, for the three moments of an extension's life: what a client offers, what a server answers, and
what then transforms the messages of one connection. An extension transforms whole messages and says so with one of the
reserved bits on the first frame; control frames are not its business.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeAlias

__all__ = ["ClientExtension", "Extension", "Params", "ServerExtension", "Shared"]

#: The parameters of an extension, in order: names with their values, None where there is no value.
Params: TypeAlias = "tuple[tuple[str, str | None], ...]"


class Shared:
    """What has been made of one message that goes to many connections.

    It is made once for all connections that agreed on the same, and kept as long as the message is.

    Attributes:
        results: The payloads that extensions have made. The keys have the old payload in them, and whatever else the
            new one depends on.
        frames: Whole frames, unmasked, by their first byte and payload.
    """

    __slots__ = ("frames", "results")

    def __init__(self) -> None:
        self.results: dict[Hashable, bytes] = {}
        self.frames: dict[tuple[int, bytes], bytes] = {}


class Extension(Protocol):
    """An extension in use on one connection, with what has been agreed on."""

    @property
    def rsv(self) -> int:
        """The reserved bit that marks a message as transformed: ``RSV1``, ``RSV2`` or ``RSV3`` of the codec."""

    def encode(self, data: bytes, *, first: bool, final: bool, shared: Shared | None = None) -> tuple[bytes, bool]:
        """Transform what is about to be sent.

        Args:
            data: The payload of the next frame of a message.
            first: Whether it is the first frame.
            final: Whether it is the last.
            shared: For a message in one frame that other connections get too: what is there already can be used, and
                what is not can be added.

        Returns:
            The new payload, and whether the message is marked. Only the answer for the first frame counts.
        """

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        """Transform back what has been received. Called for marked messages only.

        Args:
            data: The next piece of the message.
            final: Whether it is the last.
            limit: How many bytes the message may still have; None for any number. When more would come out, one more is
                enough: the message is refused then.

        Raises:
            ProtocolError: If the data are not what a peer may send.
        """

    def rest(self) -> None:
        """Give back memory that is not worth having while no messages come and go.

        What is encoded and decoded after it must be the same to the peer as if it had not been called.
        """


class ClientExtension(Protocol):
    """What a client needs to offer an extension and understand the answer."""

    @property
    def name(self) -> str:
        """The registered name."""

    def offers(self) -> Sequence[Params]:
        """The parameters to offer it with: once for each alternative, the preferred one first."""

    def accept(self, params: Params) -> Extension:
        """Take the server's answer.

        Raises:
            NegotiationError: If it is no answer to what was offered.
        """


class ServerExtension(Protocol):
    """What a server needs to answer an offer."""

    @property
    def name(self) -> str:
        """The registered name."""

    def answer(self, params: Params) -> tuple[Params, Extension] | None:
        """Return what to answer to one offer and the extension to use; None to decline."""
