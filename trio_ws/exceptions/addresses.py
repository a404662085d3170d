"""Invalid URIs and proxies."""

from __future__ import annotations

import re

import attrs

from .base import WebSocketException

__all__ = ["InvalidProxy", "InvalidURI"]


@attrs.define(slots=False, eq=False)
class InvalidURI(WebSocketException, ValueError):
    """The string is not a valid WebSocket URI (RFC 6455, section 3).

    Attributes:
        uri: The string.
        reason: What is wrong.
    """

    uri: str
    reason: str

    def __str__(self) -> str:
        # Messages end up in logs, which must not contain passwords.
        shown = re.sub(r"(//[^/?#@]*:)[^/?#]*@", r"\1***@", str(self.uri))
        return f"{shown!r} is not a WebSocket URI: {self.reason}"


def _without_credentials(url: object) -> str:
    # The string may be malformed in any way. Everything before the last "@" may belong to the credentials.
    return re.sub(r"^(\w[\w+.\-]*://)?.*@", r"\1***@", str(url), flags=re.DOTALL)


@attrs.define(slots=False, eq=False)
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
