"""Which pages may connect: the check of the Origin header (RFC 6455, sections 4.2.2 and 10.2; RFC 6454).

Browsers let any page open a WebSocket to any server, with the cookies of the user. What they do is to say which page it
is. A server that does not look at it serves the pages of everybody. Programs that are no browsers say nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from ..exceptions import InvalidOrigin
from ..http11 import Request

__all__ = ["ANY", "SAME_HOST", "Origins", "check_host", "check_origin", "check_origins"]


class _Rule(enum.Enum):
    SAME_HOST = "SAME_HOST"
    ANY = "ANY"

    def __repr__(self) -> str:
        return f"trio_ws.{self.value}"


#: Pages of the host that the request is for, and programs that are no browsers.
SAME_HOST: Final = _Rule.SAME_HOST

#: All pages.
ANY: Final = _Rule.ANY

#: Which pages may connect: one of the two above, or a list of origins, of regular expressions that match the whole
#: origin, and None for requests without an origin.
Origins: TypeAlias = "_Rule | Sequence[str | re.Pattern[str] | None]"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# An origin is scheme, host and port, as browsers write them. (A port may not be shown when it is the default.)
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(?::([0-9]{1,5}))?")
# Other characters may be in a host (RFC 3986, section 3.2.2), but are in none that there is.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~%]+)(?::([0-9]{0,5}))?")


def check_origins(origins: Origins) -> Origins:
    """Return what may be given as origins.

    Raises:
        TypeError: if it is something else.
        ValueError: if a string is no origin.
    """
    if isinstance(origins, _Rule):
        return origins
    if isinstance(origins, (str, bytes, re.Pattern)):
        raise TypeError(f"origins is a sequence, not {origins!r}")
    checked = tuple(origins)
    for origin in checked:
        if origin is None or isinstance(origin, re.Pattern):
            continue
        if not isinstance(origin, str):
            raise TypeError(f"an origin is a str, a regular expression or None, not {origin!r}")
        if origin != "null" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin, such as 'https://example.org'")
    return checked


def check_origin(request: Request, origins: Origins) -> None:
    """Check that a page may connect.

    Raises:
        InvalidOrigin: if not.
    """
    if origins is ANY:
        return
    values = request.headers.get_all("Origin")
    if len(values) > 1:
        raise InvalidOrigin("Origin", ", ".join(values), "there is more than one")
    origin = values[0].strip(" \t") if values else None
    if isinstance(origins, _Rule):
        allowed = origin is None or _is_of_host(origin, request.headers["Host"])
    else:
        allowed = any(_matches(origin, each) for each in origins)
    if not allowed:
        raise InvalidOrigin("Origin", origin, "it may not connect")


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


def _is_of_host(origin: str, host: str) -> bool:
    """Whether an origin is of the host in a Host header. The scheme may be another one: a proxy may do TLS for us."""
    parsed, match = _parse(origin), _HOST.fullmatch(host.strip(" \t"))
    if parsed is None or match is None:
        return False
    scheme, name, port = parsed
    own_port = int(match[2]) if match[2] else _DEFAULT_PORTS.get(scheme)
    return (name, port) == (match[1].lower(), own_port)


def check_host(host: str) -> bool:
    """Whether this can be the value of a Host header: a name or an address, and perhaps a port (RFC 9110, 7.2)."""
    match = _HOST.fullmatch(host)
    return match is not None and int(match[2] or 0) <= 0xFFFF
