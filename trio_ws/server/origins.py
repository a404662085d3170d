"""The check of the Origin header: which web pages may connect (RFC 6455, sections 4.2.2 and 10.2; RFC 6454).

A browser lets any page open a WebSocket to any server, with the user's cookies, and names the page in the Origin
header. A server that ignores this header lets any page act in the user's name. Clients other than browsers need not
send the header.

:data:`SAME_HOST` compares the origin with the host that the client has asked for. An attacker can choose that host by
*DNS rebinding*: if the name evil.example is made to resolve to the address of the server, pages of evil.example have
the same host as their requests to the server. The option ``hosts`` refuses such requests.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from ..exceptions import InvalidOrigin
from ..http11 import Request
from ..misuse.values import to_tuple
from ..uri import ParseError, parse_host

__all__ = ["ANY", "SAME_HOST", "Origins", "check_origin", "is_valid_host", "validate_origins"]


class _Rule(enum.Enum):
    SAME_HOST = "SAME_HOST"
    ANY = "ANY"

    def __repr__(self) -> str:
        return f"trio_ws.{self.value}"


#: Accept pages of the host that the request is for, over http and https, and requests without an Origin header.
SAME_HOST: Final = _Rule.SAME_HOST

#: Accept every origin.
ANY: Final = _Rule.ANY

#: The origins that may connect: ``SAME_HOST``, ``ANY``, or a sequence of origins, regular expressions that match a
#: whole origin, and None for requests without an Origin header.
Origins: TypeAlias = "_Rule | Sequence[str | re.Pattern[str] | None]"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# Scheme, host and port, as browsers write them. Browsers omit the default port.
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(?::([0-9]{1,5}))?")
# RFC 3986, section 3.2.2 allows other characters in a host, but no host on the Internet has any.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%]+)(?::([0-9]{0,5}))?")


def validate_origins(origins: Origins) -> Origins:
    """Validate the option ``origins``. Return it, with a sequence made a tuple.

    Raises:
        TypeError: If the option or one of its items has the wrong type.
        ValueError: If a string is not an origin.
    """
    if isinstance(origins, _Rule):
        return origins
    return tuple(map(_validate, to_tuple("origins", origins, "a sequence, SAME_HOST or ANY")))


def _validate(origin: object) -> str | re.Pattern[str] | None:
    """Validate an origin. Return it as browsers send it, with a name in ASCII."""
    if origin is None or isinstance(origin, re.Pattern):
        return origin
    if not isinstance(origin, str):
        raise TypeError(f"each of origins must be a str, a regular expression or None, not {origin!r}")
    if origin == "null":
        return origin
    match = _ORIGIN.fullmatch(origin)
    if match is None or "*" in origin:
        hint = ""
        if "*" in origin:
            every = origin == "*"
            hint = "; use origins=trio_ws.ANY to accept every origin" if every else "; use a regular expression"
        raise ValueError(f"each of origins must be like 'https://example.org', not {origin!r}{hint}")
    if origin.isascii():
        return origin
    try:
        return f"{match[1]}://{parse_host(match[2])}" + (f":{match[3]}" if match[3] else "")
    except ParseError as exc:
        raise ValueError(f"each of origins must have a valid host, not {origin!r}: {exc}") from exc


def check_origin(request: Request, origins: Origins, *, host: str | None = None, any_port: bool = False) -> None:
    """Check that the origin of a request may connect.

    Args:
        request: The request.
        origins: The origins that may connect.
        host: The host that the client has asked for; None for that of the Host header.
        any_port: Whether the port of the host is not the one that the client has connected to, as behind a proxy, so
            that only the names are compared.

    Raises:
        InvalidOrigin: If it may not, or if there is more than one Origin header.
    """
    if origins is ANY:
        return
    values = request.headers.get_all("Origin")
    if len(values) > 1:
        raise InvalidOrigin("Origin", ", ".join(values), "more than one Origin header")
    origin = values[0].strip(" \t") if values else None
    if isinstance(origins, _Rule):
        allowed = origin is None or _is_same_host(origin, host or request.headers["Host"], any_port)
    else:
        allowed = any(_matches(origin, each) for each in origins)
    if not allowed:
        raise InvalidOrigin("Origin", origin, "it is required" if origin is None else "this origin is not allowed")


def _parse(origin: str) -> tuple[str, str, int | None] | None:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    scheme, host, port = match[1].lower(), match[2].lower(), match[3]
    return scheme, host, _DEFAULT_PORTS.get(scheme) if port is None else int(port)


def _matches(origin: str | None, allowed: str | re.Pattern[str] | None) -> bool:
    if origin is None or allowed is None:
        return origin is allowed
    if isinstance(allowed, re.Pattern):
        return allowed.fullmatch(origin) is not None
    parsed = _parse(origin)
    return origin == allowed if parsed is None else parsed == _parse(allowed)


def _is_same_host(origin: str, host: str, any_port: bool) -> bool:
    """Whether an origin has the host and port of a Host header. The scheme may differ: a proxy may terminate TLS."""
    parsed, match = _parse(origin), _HOST.fullmatch(host.strip(" \t"))
    if parsed is None or match is None:
        return False
    scheme, name, port = parsed
    if scheme not in ("http", "https") or name != match[1].lower():
        return False
    return any_port or port == (int(match[2]) if match[2] else _DEFAULT_PORTS[scheme])


def is_valid_host(host: str) -> bool:
    """Whether a Host header is valid: a name or an address, with or without a port (RFC 9110, section 7.2)."""
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or 0) > 0xFFFF:
        return False
    if match[1].startswith("["):
        try:
            ipaddress.IPv6Address(match[1][1:-1])
        except ValueError:
            return False
    return True
