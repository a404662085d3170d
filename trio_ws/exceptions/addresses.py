"""Invalid URIs and proxies."""

from __future__ import annotations

import re

import attrs

from .base import WebSocketException

__all__ = ["InvalidProxy", "InvalidURI"]


@attrs.define(slots=False, eq=False, repr=False)
class InvalidURI(WebSocketException, ValueError):
    """The string is not a valid WebSocket URI (RFC 6455, section 3).

    Attributes:
        uri: The string.
        reason: What is wrong.
    """

    uri: str = attrs.field(repr=lambda uri: repr(_without_password(uri)))
    reason: str

    def __str__(self) -> str:
        return f"{_without_password(self.uri)!r} is not a WebSocket URI: {self.reason}"


# Both patterns are compiled when they are first used, because most programs never show such an error.
# A URI whose authority is a host, and perhaps a port. An at sign behind that belongs to the path or query.
_NO_CREDENTIALS = r"(?s)(\w[\w+.\-]*:)?//(\[[^\]@]*\]|[^:@/?#\[]*)(:[0-9]*)?([/?#].*)?"
_PASSWORD = r"(?is)((?:wss?:|\w[\w+.\-]*:(?=//))?/*[^:@]*:).*@"


def _without_password(uri: object) -> str:
    # Messages end up in logs, which must not contain passwords. The URI may be malformed in any way.
    text = str(uri)
    if "@" not in text:  # first, because the search for a password takes long in a long text
        return text
    return text if re.fullmatch(_NO_CREDENTIALS, text) else re.sub(_PASSWORD, r"\1***@", text, count=1)


def _without_credentials(url: object) -> str:
    # The string may be malformed in any way. Everything before the last "@" may belong to the credentials.
    return re.sub(r"^(\w[\w+.\-]*://)?.*@", r"\1***@", str(url), flags=re.DOTALL)


@attrs.define(slots=False, eq=False, repr=False)
class InvalidProxy(WebSocketException, ValueError):
    """The string is not the URL of a supported proxy.

    Attributes:
        proxy: The string, with ``***`` instead of user name and password, which must not end up in logs.
        reason: What is wrong.
    """

    proxy: str = attrs.field(converter=_without_credentials)
    reason: str

    def __str__(self) -> str:
        return f"{self.proxy!r} is not a valid proxy: {self.reason}"
