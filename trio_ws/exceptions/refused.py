"""Responses to the opening handshake other than 101."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .handshake import InvalidHandshake
from .shown import escape, show_value

if TYPE_CHECKING:
    from ..datastructures import Headers
    from ..http11 import Response

__all__ = ["InvalidRedirect", "InvalidStatus"]


@attrs.define(slots=False, eq=False, repr=False)
class InvalidStatus(InvalidHandshake):
    """The server responded with a status other than 101 Switching Protocols, or other than 2xx over HTTP/2.

    The message of the exception includes the headers and the beginning of the body.

    Attributes:
        response: The server's response. A body compressed with gzip or deflate is decompressed; the headers are
            unchanged. A body larger than 1 MiB, or one that did not end, is truncated.
    """

    response: Response

    @property
    def status_code(self) -> int:
        """The status code of the response."""
        return self.response.status_code

    @property
    def reason_phrase(self) -> str:
        """The reason phrase of the response; may be empty."""
        return self.response.reason_phrase

    @property
    def headers(self) -> Headers:
        """The headers of the response."""
        return self.response.headers

    @property
    def body(self) -> bytes:
        """The body of the response; empty if there is none."""
        return self.response.body or b""

    def __str__(self) -> str:
        return f"the server refused the WebSocket connection: {_show(self.response)}"


@attrs.define(slots=False, eq=False, repr=False)
class InvalidRedirect(InvalidStatus):
    """The redirect was not followed: from ``wss`` to ``ws``, a loop, too many redirects, or an invalid location.

    Attributes:
        response: The server's response.
        reason: Why the redirect was not followed.
    """

    reason: str

    def __str__(self) -> str:
        return f"the redirect was not followed because {self.reason}: {_show(self.response)}"


# Bounds for the part of a response in messages: headers, and characters of each header and of the body.
_SHOWN_HEADERS = 20
_SHOWN_CHARACTERS = 500


def _show(response: Response) -> str:
    """Summarize a response on one line."""
    shown = f"HTTP status {response.status_code} {escape(response.reason_phrase)}".rstrip()
    headers = list(response.headers.raw_items())
    if headers:
        lines = [_shorten(escape(f"{name}: {show_value(name, value)}")) for name, value in headers[:_SHOWN_HEADERS]]
        if len(headers) > _SHOWN_HEADERS:
            lines.append(f"and {len(headers) - _SHOWN_HEADERS} more")
        shown += f" ({'; '.join(lines)})"
    if response.body:
        shown += f" {_shorten(response.body[: 4 * _SHOWN_CHARACTERS].decode(errors='replace'))}"
    return shown


def _shorten(text: str) -> str:
    """Return text on one line, printable and truncated."""
    line = " ".join(text.split())
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
