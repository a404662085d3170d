"""The part of the opening handshake that differs between HTTP/1.1 and HTTP/2, as functions on requests and responses.

HTTP/1.1 upgrades the connection: a GET request with ``Upgrade: websocket`` and a random key, and a 101 response with a
hash of that key (RFC 6455, sections 4.1 and 4.2). HTTP/2 has no upgrades. There, an *extended CONNECT* request names
``websocket`` in its ``:protocol`` pseudo-header, and any 2xx response turns its stream into a WebSocket (RFC 8441). A
client sends no key then. But an intermediary may pass on a client that uses HTTP/1.1, with its key; the server answers
it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence

from ..datastructures import Headers
from ..exceptions import InvalidHeader, InvalidMessage, InvalidMethod, InvalidUpgrade
from ..http11 import Request, Response
from .grammar import build_list, parse_tokens

__all__ = [
    "VERSION",
    "accepts",
    "check_connect_request",
    "check_upgrade_request",
    "check_upgrade_response",
    "is_upgrade",
    "upgrade_headers",
]

#: The version of the WebSocket protocol, for the Sec-WebSocket-Version header.
VERSION: str = "13"

# The GUID for the Sec-WebSocket-Accept header (RFC 6455, section 1.3).
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# Exactly 16 bytes, encoded as base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


def is_upgrade(request: Request) -> bool:
    """Return whether a request asks for a WebSocket, even if it is invalid otherwise."""
    if request.http_version == "2":
        return request.method == "CONNECT" and request.protocol == "websocket"
    return any(
        token.partition("/")[0].strip(" \t").lower() == "websocket"
        for value in request.headers.get_all("Upgrade")
        for token in value.split(",")
    )


def accepts(request: Request, response: Response) -> bool:
    """Return whether the status of a response turns the connection, or the stream of HTTP/2, into a WebSocket."""
    if request.http_version == "2":
        return request.method == "CONNECT" and 200 <= response.status_code < 300
    return response.status_code == 101


# -- HTTP/1.1 ------------------------------------------------------------------------------------------------------


def upgrade_headers(random: Callable[[int], bytes]) -> list[tuple[str, str]]:
    """Return the headers with which a client asks for an upgrade.

    Args:
        random: A function that returns the requested number of unpredictable bytes.
    """
    key = base64.b64encode(random(16)).decode()
    # Some servers compare the whole values of the first two, so each is a single token.
    return [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", key)]


def check_upgrade_request(request: Request) -> list[tuple[str, str]]:
    """Check a request for an upgrade, and return the headers of the response that agree to it.

    Raises:
        InvalidMessage: If the version of HTTP is not 1.1, or the request has a body.
        InvalidMethod: If the method is not GET.
        InvalidHeader: If a header is missing, malformed or wrong; :exc:`InvalidUpgrade` if the request does not ask to
            upgrade to version 13 of WebSocket.
    """
    if request.http_version != "1.1":
        raise InvalidMessage(f"the request must be HTTP/1.1, not HTTP/{request.http_version}", 505)
    if request.method != "GET":
        raise InvalidMethod(request.method)
    headers = request.headers
    # The server would read a body as frames, which allows request smuggling.
    if "Transfer-Encoding" in headers or any(length != "0" for length in headers.get_all("Content-Length")):
        raise InvalidMessage("the request must not have a body")
    _get_single(headers, "Host")
    _check_upgrade(headers)
    key = _get_key(headers)
    _check_version(headers)
    return [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", _accept_key(key))]


def check_upgrade_response(request: Request, response: Response) -> None:
    """Check that a 101 response agrees to the upgrade that the client has asked for.

    Raises:
        InvalidHeader: If a header is missing, malformed or wrong; :exc:`InvalidUpgrade` for Connection and Upgrade.
    """
    headers = response.headers
    _check_upgrade(headers, lenient=True)
    upgrade = _get_single(headers, "Upgrade")
    if upgrade.lower() != "websocket":
        # Several protocols in a response would be layered on top of each other.
        raise InvalidUpgrade("Upgrade", upgrade, "it must be 'websocket'")
    accept_key = _get_single(headers, "Sec-WebSocket-Accept")
    if accept_key != _accept_key(request.headers["Sec-WebSocket-Key"]):
        raise InvalidHeader(
            "Sec-WebSocket-Accept", accept_key, "it must match the Sec-WebSocket-Key header of the request"
        )


# -- HTTP/2 --------------------------------------------------------------------------------------------------------


def check_connect_request(request: Request) -> list[tuple[str, str]]:
    """Check an extended CONNECT request, and return the headers of the response that agree to it.

    Raises:
        InvalidMessage: If the request is for another protocol, or for none, or has a body.
        InvalidMethod: If the method is neither CONNECT nor GET.
        InvalidHeader: If a header is missing, malformed or wrong; :exc:`InvalidUpgrade` if the request does not ask for
            version 13 of WebSocket.
    """
    if request.method not in ("CONNECT", "GET"):
        raise InvalidMethod(request.method)
    if request.protocol is None:
        raise InvalidMessage("only WebSockets are served here: use CONNECT with the :protocol websocket (RFC 8441)")
    if request.protocol != "websocket":
        raise InvalidMessage(f":protocol must be websocket, not {request.protocol}", 501)
    headers = request.headers
    if any(length != "0" for length in headers.get_all("Content-Length")):
        raise InvalidMessage("the request must not have a body")
    _get_single(headers, "Host")
    _check_version(headers)
    if "Sec-WebSocket-Key" in headers:
        return [("Sec-WebSocket-Accept", _accept_key(_get_key(headers)))]
    return []


# -- Parts ---------------------------------------------------------------------------------------------------------


def _check_version(headers: Headers) -> None:
    version = _get_single(headers, "Sec-WebSocket-Version")
    if version != VERSION:
        raise InvalidUpgrade("Sec-WebSocket-Version", version, f"it must be {VERSION}")


def _get_key(headers: Headers) -> str:
    key = _get_single(headers, "Sec-WebSocket-Key")
    if not _KEY.fullmatch(key):
        raise InvalidHeader("Sec-WebSocket-Key", key, "it must be 16 bytes in base64")
    return key


def _accept_key(key: str) -> str:
    """Return the value of Sec-WebSocket-Accept (RFC 6455, section 4.2.2, item 5.4)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def _get_single(headers: Headers, name: str) -> str:
    """Return the value of a header that must occur exactly once."""
    values = headers.get_all(name)
    if not values:
        raise InvalidHeader(name, None, "it is required")
    if len(values) > 1:
        raise InvalidHeader(name, build_list(values), "it must occur only once")
    return values[0].strip(" \t")


def _check_upgrade(headers: Headers, *, lenient: bool = False) -> None:
    """Check the Connection and Upgrade headers of either message (RFC 6455, sections 4.1 and 4.2.1)."""
    for name, token in (("Connection", "upgrade"), ("Upgrade", "websocket")):
        values = headers.get_all(name)
        if not values:
            raise InvalidUpgrade(name, None, f"it is required and must contain {token!r}")
        # Elements that are not tokens are ignored then.
        if lenient and token in (element.lower() for element in _elements(values)):
            continue
        if token not in (value.lower() for value in _upgrade_tokens(name, values)):
            raise InvalidUpgrade(name, build_list(values), f"it must contain {token!r}")


def _upgrade_tokens(name: str, values: Sequence[str]) -> list[str]:
    if name == "Upgrade":
        # An element may be a protocol with a version, such as "HTTP/2.0", and the slash is not allowed in a token.
        return _elements(values)
    return parse_tokens(name, values)


def _elements(values: Sequence[str]) -> list[str]:
    return [each.strip(" \t") for each in build_list(values).split(",")]
