"""Responses other than 101 to an opening handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .handshake import InvalidHandshake
from .shown import escape, hide_passwords

if TYPE_CHECKING:
    from ..datastructures import Headers
    from ..http11 import Response

__all__ = ["InvalidRedirect", "InvalidStatus"]


@attrs.define(slots=False, eq=False)
class InvalidStatus(InvalidHandshake):
    """The server answered with another status than 101 Switching Protocols.

    The message has the headers and the beginning of the body too.

    Attributes:
        response: The whole answer: status code, reason phrase, headers and body. Of a body that is larger
            than 1 MiB, or that does not end, it has what came first. What was compressed with gzip or deflate is
            decompressed; the headers are as they came.
    """

    response: Response

    @property
    def status_code(self) -> int:
        """The status code."""
        return self.response.status_code

    @property
    def reason_phrase(self) -> str:
        """The text that goes with it; may be empty."""
        return self.response.reason_phrase

    @property
    def headers(self) -> Headers:
        """The headers."""
        return self.response.headers

    @property
    def body(self) -> bytes:
        """The body; empty if there is none."""
        return self.response.body or b""

    def __str__(self) -> str:
        return f"the server refused the WebSocket connection: {_show(self.response)}"


@attrs.define(slots=False, eq=False)
class InvalidRedirect(InvalidStatus):
    """The server sends us where we do not go: to ``ws`` from ``wss``, in a circle, once too often, or nowhere.

    Attributes:
        reason: Why we do not go there.
    """

    reason: str

    def __str__(self) -> str:
        return f"the server sent a redirect that is not followed, because {self.reason}: {_show(self.response)}"


#: How much of a response the message of an exception shows: headers, and characters of each and of the body.
_SHOWN_HEADERS = 20
_SHOWN_CHARACTERS = 500


def _show(response: Response) -> str:
    """Return what was in a response, on one line."""
    shown = f"HTTP status {response.status_code} {escape(response.reason_phrase)}".rstrip()
    headers = list(response.headers.raw_items())
    if headers:
        lines = [_shorten(escape(f"{name}: {hide_passwords(value)}")) for name, value in headers[:_SHOWN_HEADERS]]
        if len(headers) > _SHOWN_HEADERS:
            lines.append(f"and {len(headers) - _SHOWN_HEADERS} more")
        shown += f" ({'; '.join(lines)})"
    if response.body:
        shown += f" {_shorten(response.body[: 4 * _SHOWN_CHARACTERS].decode(errors='replace'))}"
    return shown


def _shorten(text: str) -> str:
    """Return text on one line, in characters that can be printed, and not too long."""
    line = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
