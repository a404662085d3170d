"""The host and the path that a request is for: ``to_origin_form``, ``has_port``, ``strip_port``."""

from __future__ import annotations

import re

import attrs

from ..exceptions import InvalidMessage, InvalidMethod
from ..http11 import Request
from .origins import is_valid_host

__all__ = ["has_port", "strip_port", "to_origin_form"]

#: Maximum number of characters of a request target in an error.
_MAX_SHOWN = 100

# RFC 9112, section 3.2.2. A user name in it is an error (RFC 9110, section 4.2.4).
_ABSOLUTE = re.compile(r"(?:https?|wss?)://([^/?#@]+)([/?].*)?", re.IGNORECASE)


def to_origin_form(request: Request) -> Request:
    """Return a request whose target is a path, with the query if there is one (RFC 9112, section 3.2).

    If the target is a whole URL, its host replaces that of the Host header.

    Raises:
        InvalidMessage: If the target is neither a path nor a URL with a path.
        InvalidMethod: If it is a CONNECT request without a protocol, whose target is neither.
    """
    target = request.path
    if target.startswith("/"):
        return request
    if request.method == "CONNECT" and request.protocol is None:
        raise InvalidMethod(request.method)
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not is_valid_host(match[1]):
        shown = target if len(target) <= _MAX_SHOWN else f"{target[:_MAX_SHOWN]}..."
        raise InvalidMessage(f"the request target must be a path, not {shown!r}")
    headers = request.headers.copy()
    if "Host" in headers:
        del headers["Host"]
    headers["Host"] = match[1]
    path = match[2] or "/"
    return attrs.evolve(request, path=path if path.startswith("/") else f"/{path}", headers=headers)


def has_port(host: str) -> bool:
    """Whether a valid host has a port."""
    return strip_port(host) != host.lower()


def strip_port(host: str) -> str:
    """Return the name in a Host header, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and (port.isdigit() or not port) and not name.endswith(":") else host).lower()
