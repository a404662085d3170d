"""Redirects (RFC 9110, section 15.4): where a response sends a client.

Schemes are mapped, since servers know the way to themselves as ``http`` and ``https``. What was encrypted stays so, and
credentials stay within an origin: that is scheme, host and port.
"""

from __future__ import annotations

import urllib.parse

import attrs

from ..exceptions import InvalidRedirect, InvalidURI
from ..http11 import Response
from ..uri import WebSocketURI, parse_uri

__all__ = ["is_redirect", "redirected", "same_origin"]

#: The status codes of redirects that name one place to go to. A client that asks with GET goes on asking with GET.
STATUS_CODES = frozenset({301, 302, 303, 307, 308})

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def is_redirect(response: Response) -> bool:
    """Whether a response sends the client somewhere else."""
    return response.status_code in STATUS_CODES


def same_origin(one: WebSocketURI, other: WebSocketURI) -> bool:
    """Whether two URIs have the same scheme, host and port."""
    return (one.secure, one.host, one.port) == (other.secure, other.host, other.port)


def redirected(uri: WebSocketURI, response: Response) -> WebSocketURI:
    """Return where a redirect sends a client that has asked for a URI.

    Args:
        uri: What was asked for. Its user information is kept within its origin, and dropped elsewhere.
        response: A redirect.

    Raises:
        InvalidRedirect: if it names no place to go to, or one where a client must not go.
    """
    locations = response.headers.get_all("Location")
    if len(locations) != 1:
        raise InvalidRedirect(response, "it has no Location" if not locations else "it has several Locations")
    base = f"{'https' if uri.secure else 'http'}://{uri.host_header}{uri.resource_name}"
    location = locations[0].strip()
    try:
        scheme, separator, rest = urllib.parse.urljoin(base, location).partition(":")
        scheme = _SCHEMES.get(scheme.lower(), scheme)
        # A fragment is for whoever shows what comes; the last one of a chain would count (section 10.2.2).
        target = parse_uri((scheme + separator + rest).partition("#")[0])
    except (InvalidURI, ValueError) as exc:
        reason = exc.reason if isinstance(exc, InvalidURI) else str(exc)
        raise InvalidRedirect(response, f"its Location {location!r} is no place for WebSocket: {reason}") from exc
    if uri.secure and not target.secure:
        raise InvalidRedirect(response, f"it leads from wss to ws, without encryption: {location!r}")
    if target.user_info is None and same_origin(uri, target):
        target = attrs.evolve(target, username=uri.username, password=uri.password)
    return target


def show(uri: WebSocketURI) -> str:
    """Return a URI for a message, which is no place for a password."""
    return f"{'wss' if uri.secure else 'ws'}://{uri.host_header}{uri.resource_name}"
