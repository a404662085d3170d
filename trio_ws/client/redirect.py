"""HTTP redirects (RFC 9110, section 15.4).

Servers redirect to ``http`` and ``https`` URLs, which stand for ``ws`` and ``wss`` here. A redirect never leads from an
encrypted connection to an unencrypted one, and credentials never leave their origin (scheme, host and port).
"""

from __future__ import annotations

import urllib.parse

import attrs

from ..exceptions import InvalidRedirect, InvalidURI
from ..exceptions.shown import hide_passwords
from ..http11 import Response
from ..uri import WebSocketURI, parse_uri

__all__ = ["is_redirect", "resolve_redirect", "same_origin", "without_credentials"]

#: The status codes of redirects with a single target. A GET request stays a GET request with all of them.
STATUS_CODES = frozenset({301, 302, 303, 307, 308})

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def is_redirect(response: Response) -> bool:
    """Return whether a response is a redirect."""
    return response.status_code in STATUS_CODES


def same_origin(one: WebSocketURI, other: WebSocketURI) -> bool:
    """Return whether two URIs have the same scheme, host and port."""
    return (one.secure, one.host, one.port) == (other.secure, other.host, other.port)


def resolve_redirect(uri: WebSocketURI, response: Response) -> WebSocketURI:
    """Return the URI that a redirect leads to.

    Args:
        uri: The URI of the request. The result has its user information if it has the same origin.
        response: The redirect.

    Raises:
        InvalidRedirect: If the response does not have exactly one Location with a valid URI, or leads from ``wss`` to
            ``ws``.
    """
    # Several Location headers are not a problem if they are the same.
    locations = list(dict.fromkeys(location.strip(" \t") for location in response.headers.get_all("Location")))
    if len(locations) != 1:
        raise InvalidRedirect(
            response, "it has no Location header" if not locations else "it has more than one Location header"
        )
    try:
        target = parse_uri(_resolve(uri, locations[0]))
    except (InvalidURI, ValueError) as exc:
        reason = exc.reason if isinstance(exc, InvalidURI) else str(exc)
        location = hide_passwords(locations[0])
        raise InvalidRedirect(response, f"its Location {location!r} is not a WebSocket URI: {reason}") from exc
    if uri.secure and not target.secure:
        location = hide_passwords(locations[0])
        raise InvalidRedirect(response, f"it leads from wss to ws, which is not encrypted: {location!r}")
    if target.host == uri.host_without_zone:
        # The server does not know the zone under which this machine reaches it.
        target = attrs.evolve(target, host=uri.host)
    if target.user_info is None and same_origin(uri, target):
        target = attrs.evolve(target, username=uri.username, password=uri.password)
    return target


def _resolve(uri: WebSocketURI, location: str) -> str:
    """Return the URI for a Location, which may be relative, as browsers understand it."""
    if "\t" in location:
        raise ValueError("the character '\\t' must be percent-encoded")  # urljoin() would remove it
    octets = location.encode("iso-8859-1")
    try:
        location = octets.decode()
    except UnicodeDecodeError:  # not UTF-8, so send the same bytes back
        location = "".join(chr(octet) if octet < 0x80 else f"%{octet:02X}" for octet in octets)
    path = location.partition("#")[0].partition("?")[0]
    host = f"[{uri.host.replace('%', '%25')}]" if ":" in uri.host else uri.host
    base = f"{'https' if uri.secure else 'http'}://{host}:{uri.port}{uri.resource_name}"
    scheme, separator, rest = urllib.parse.urljoin(base, path.replace("\\", "/") + location[len(path) :]).partition(":")
    scheme = _SCHEMES.get(scheme.lower(), scheme)
    # WebSocket URIs have no fragment, but a Location may have one (RFC 9110, section 10.2.2).
    return (scheme + separator + rest).partition("#")[0]


def without_credentials(uri: WebSocketURI) -> str:
    """Return a URI without its user information, safe to show in messages."""
    return f"{'wss' if uri.secure else 'ws'}://{uri.host_header}{uri.resource_name}"
