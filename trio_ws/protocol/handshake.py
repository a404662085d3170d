"""The opening handshake (RFC 6455, section 4), as pure functions on requests and responses.

A client makes its request with :func:`build_request` and checks the response with :func:`check_response`. A server
makes its response with :func:`accept`, or with :func:`reject` if that raised an exception. The result is an
:class:`Agreement`, the parameters of the open connection. All failures are subclasses of :exc:`InvalidHandshake`, which
:func:`reject` maps to status codes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence

import attrs

from ..datastructures import Headers, HeadersLike
from ..exceptions import (
    HostNotServed,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
)
from ..http11 import Request, Response
from ..http11.messages import reason_phrase
from ..misuse.values import to_tuple
from ..uri import WebSocketURI
from .extensions import ClientExtension, Extension, Params, ServerExtension
from .grammar import build_extensions, build_list, is_token, parse_extensions, parse_tokens

__all__ = ["Agreement", "accept", "build_request", "check_response", "is_upgrade", "reject"]

VERSION = "13"

# The GUID for the Sec-WebSocket-Accept header (RFC 6455, section 1.3).
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# Maximum number of characters in the body of a rejection.
_MAX_EXPLANATION = 500

# Exactly 16 bytes, encoded as base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

# Headers that belong to the handshake itself. Callers cannot set them.
_HANDSHAKE_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)


@attrs.frozen(repr=False)
class Agreement:
    """The negotiated parameters of a connection.

    Attributes:
        subprotocol: The subprotocol in use, or None.
        extensions: The extensions in use, in the order of the server's response.
    """

    subprotocol: str | None = None
    extensions: tuple[Extension, ...] = ()


def check_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    """Validate subprotocols, and return them as a tuple (RFC 6455, section 4.1, item 10).

    Raises:
        TypeError: If ``subprotocols`` is not a sequence of strings, such as a set, which has no order.
        ValueError: If a subprotocol is not a token, or occurs twice.
    """
    checked = to_tuple("subprotocols", subprotocols, "a sequence of str, in order of preference", ordered=True)
    for subprotocol in checked:
        if not isinstance(subprotocol, str):
            raise TypeError(f"subprotocols must be a sequence of strings, but one of them is {subprotocol!r}")
        if not is_token(subprotocol):
            raise ValueError(f"subprotocols must be tokens (RFC 9110, section 5.6.2), not {subprotocol!r}")
    if len(set(checked)) < len(checked):
        raise ValueError(f"subprotocols must be unique, not {checked!r}")
    return checked


def check_headers(headers: HeadersLike) -> Headers:
    """Validate additional headers, and return a copy of them.

    Raises:
        InvalidHeader: If a header is not valid, or belongs to the handshake itself.
    """
    extra_headers = Headers(headers)
    for name, value in extra_headers.raw_items():
        if name.lower() in _HANDSHAKE_HEADERS:
            raise InvalidHeader(name, value, "it must not be set: the opening handshake sets this header itself")
    return extra_headers


# -- Client --------------------------------------------------------------------------------------------------------


def build_request(
    uri: WebSocketURI,
    *,
    random: Callable[[int], bytes],
    subprotocols: Sequence[str] = (),
    extensions: Sequence[ClientExtension] = (),
    user_agent: str | None = None,
    headers: HeadersLike = (),
) -> Request:
    """Return the request of a client (RFC 6455, section 4.1).

    Args:
        uri: The URI to connect to. Its user information becomes Basic credentials.
        random: A function that returns the requested number of unpredictable bytes, such as ``os.urandom``.
        subprotocols: The subprotocols to offer, in order of preference.
        extensions: The extensions to offer, in order of preference.
        user_agent: The User-Agent header; None for none.
        headers: Additional headers. They replace the default Host, Authorization and User-Agent headers.

    Raises:
        InvalidHeader: If one of ``headers`` is not valid, or belongs to the handshake itself.
    """
    extra_headers = check_headers(headers)
    request_headers = Headers()
    request_headers["Host"] = uri.host_header
    # Some servers compare the whole values of these two headers, so each is a single token.
    request_headers["Upgrade"] = "websocket"
    request_headers["Connection"] = "Upgrade"
    request_headers["Sec-WebSocket-Key"] = base64.b64encode(random(16)).decode()
    request_headers["Sec-WebSocket-Version"] = VERSION
    if subprotocols:
        request_headers["Sec-WebSocket-Protocol"] = build_list(subprotocols)
    offers = [(extension.name, params) for extension in extensions for params in extension.offers()]
    if offers:
        request_headers["Sec-WebSocket-Extensions"] = build_extensions(offers)
    if uri.user_info is not None:
        credentials = ":".join(uri.user_info).encode()
        request_headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    if user_agent is not None:
        request_headers["User-Agent"] = user_agent
    for name in extra_headers:
        if name in request_headers:
            del request_headers[name]
    request_headers.update(extra_headers)
    return Request(uri.resource_name, request_headers)


def check_response(
    request: Request,
    response: Response,
    *,
    subprotocols: Sequence[str] = (),
    extensions: Sequence[ClientExtension] = (),
) -> Agreement:
    """Check the response of a server. Return the negotiated parameters (RFC 6455, section 4.1, last part).

    Args:
        request: The client's request.
        response: The server's response.
        subprotocols: The offered subprotocols.
        extensions: The offered extensions.

    Raises:
        InvalidStatus: If the status is not 101.
        InvalidHeader: If a header is missing, malformed or wrong; :exc:`InvalidUpgrade` for Connection and Upgrade.
        NegotiationError: If the server chose something that was not offered.
    """
    if response.status_code != 101:
        raise InvalidStatus(response)
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
    return Agreement(_accepted_subprotocol(headers, subprotocols), _accepted_extensions(headers, extensions))


def _accepted_subprotocol(headers: Headers, offered: Sequence[str]) -> str | None:
    values = _get_list(headers, "Sec-WebSocket-Protocol")
    if not values:
        return None
    subprotocols = parse_tokens("Sec-WebSocket-Protocol", values)
    if len(subprotocols) > 1:
        raise InvalidHeader("Sec-WebSocket-Protocol", build_list(values), "it must be a single subprotocol")
    if subprotocols[0] not in offered:
        raise NegotiationError(f"the server chose the subprotocol {subprotocols[0]!r}, which was not offered")
    return subprotocols[0]


def _accepted_extensions(headers: Headers, offered: Sequence[ClientExtension]) -> tuple[Extension, ...]:
    values = _get_list(headers, "Sec-WebSocket-Extensions")
    if not values:
        return ()
    by_name = {extension.name: extension for extension in offered}
    accepted: list[Extension] = []
    for name, params in parse_extensions("Sec-WebSocket-Extensions", values):
        offer = by_name.pop(name, None)
        if offer is None:
            known = any(extension.name == name for extension in offered)
            raise NegotiationError(
                f"the server chose the extension {name!r}{' twice' if known else ', which was not offered'}"
            )
        extension = offer.accept(params)
        if _conflicts(extension, accepted):
            raise NegotiationError(f"the extension {name!r} uses the reserved bit of another extension")
        accepted.append(extension)
    return tuple(accepted)


def _get_list(headers: Headers, name: str) -> list[str]:
    """Return the values of a list in a response. An empty list counts as none, for the user cannot change it."""
    return [value for value in headers.get_all(name) if value.strip(" \t,")]


# -- Server --------------------------------------------------------------------------------------------------------


def accept(
    request: Request,
    *,
    subprotocols: Sequence[str] = (),
    extensions: Sequence[ServerExtension] = (),
    server: str | None = None,
    headers: HeadersLike = (),
    select_subprotocol: Callable[[Sequence[str]], str | None] | None = None,
) -> tuple[Response, Agreement]:
    """Check a request. Return the server's response and the negotiated parameters (RFC 6455, section 4.2).

    Args:
        request: The client's request.
        subprotocols: The supported subprotocols, in order of preference. If the client offers none of them, the
            connection has no subprotocol.
        extensions: The supported extensions. For each, the client's first acceptable offer is accepted.
        server: The Server header; None for none.
        headers: Additional headers for the response.
        select_subprotocol: A function that chooses the subprotocol instead. It is called with the possibly empty list
            of subprotocols that the client offers, and returns one of them or None. ``subprotocols`` is ignored then.

    Raises:
        InvalidMessage: If the version of HTTP is not 1.1, or the request has a body.
        InvalidMethod: If the method is not GET.
        InvalidHeader: If a header is missing, malformed or wrong; :exc:`InvalidUpgrade` if the request does not ask to
            upgrade to version 13 of WebSocket.
        ValueError: If ``select_subprotocol`` returned a subprotocol that the client does not offer.
    """
    if request.http_version != "1.1":
        raise InvalidMessage(f"the request must be HTTP/1.1, not HTTP/{request.http_version}", 505)
    if request.method != "GET":
        raise InvalidMethod(request.method)
    request_headers = request.headers
    # The server would read a body as frames, which allows request smuggling.
    content_lengths = request_headers.get_all("Content-Length")
    if "Transfer-Encoding" in request_headers or any(length != "0" for length in content_lengths):
        raise InvalidMessage("the request must not have a body")
    _get_single(request_headers, "Host")
    _check_upgrade(request_headers)
    key = _get_single(request_headers, "Sec-WebSocket-Key")
    if not _KEY.fullmatch(key):
        raise InvalidHeader("Sec-WebSocket-Key", key, "it must be 16 bytes in base64")
    version = _get_single(request_headers, "Sec-WebSocket-Version")
    if version != VERSION:
        raise InvalidUpgrade("Sec-WebSocket-Version", version, f"it must be {VERSION}")

    subprotocol = _choose_subprotocol(request_headers, subprotocols, select_subprotocol)
    answers = _answer_extensions(request_headers, extensions)

    response_headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", _accept_key(key))]
    if subprotocol is not None:
        response_headers.append(("Sec-WebSocket-Protocol", subprotocol))
    if answers:
        chosen = [(name, params) for name, params, _ in answers]
        response_headers.append(("Sec-WebSocket-Extensions", build_extensions(chosen)))
    if server is not None:
        response_headers.append(("Server", server))
    if headers:
        response_headers.extend(check_headers(headers).raw_items())
    response = Response(101, reason_phrase(101), response_headers)
    return response, Agreement(subprotocol, tuple(extension for _, _, extension in answers))


def _choose_subprotocol(
    headers: Headers, supported: Sequence[str], select: Callable[[Sequence[str]], str | None] | None
) -> str | None:
    values = headers.get_all("Sec-WebSocket-Protocol")
    offered = parse_tokens("Sec-WebSocket-Protocol", values) if values else []
    if select is not None:
        chosen = select(offered)
        if chosen is not None and chosen not in offered:
            raise ValueError(f"select_subprotocol must return one of {offered!r} or None, not {chosen!r}")
        return chosen
    return next((subprotocol for subprotocol in supported if subprotocol in offered), None)


def _answer_extensions(headers: Headers, supported: Sequence[ServerExtension]) -> list[tuple[str, Params, Extension]]:
    values = headers.get_all("Sec-WebSocket-Extensions")
    if not values:
        return []
    by_name = {extension.name: extension for extension in supported}
    answers: list[tuple[str, Params, Extension]] = []
    for name, offer in parse_extensions("Sec-WebSocket-Extensions", values):
        answer = by_name[name].answer(offer) if name in by_name else None
        if answer is None:
            continue
        params, extension = answer
        if not _conflicts(extension, [other for _, _, other in answers]):
            answers.append((name, params, extension))
            del by_name[name]
    return answers


def reject(exc: InvalidHandshake, *, server: str | None = None) -> Response:
    """Return the response of a server to an invalid request.

    Args:
        exc: The reason for the rejection.
        server: The Server header; None for none.
    """
    headers = Headers()
    if isinstance(exc, InvalidMessage):
        status = exc.status
    elif isinstance(exc, InvalidMethod):
        status = 405
        headers["Allow"] = "GET"
    elif isinstance(exc, InvalidOrigin):
        status = 403
    elif isinstance(exc, HostNotServed):
        status = 421
    elif isinstance(exc, InvalidUpgrade):
        status = 426
        headers["Upgrade"] = "websocket"
        headers["Sec-WebSocket-Version"] = VERSION
    else:
        status = 400
    # A message with an Upgrade header must list it in Connection (RFC 9110, section 7.8).
    headers["Connection"] = "Upgrade, close" if status == 426 else "close"
    headers["Content-Type"] = "text/plain; charset=utf-8"
    if server is not None:
        headers["Server"] = server
    # The text may quote what the peer sent, at any length. A response to HEAD has no body (RFC 9110, section 9.3.2).
    text = None if isinstance(exc, InvalidMethod) and exc.method == "HEAD" else f"{str(exc)[:_MAX_EXPLANATION]}\n"
    return Response(
        status, reason_phrase(status), headers, None if text is None else text.encode(errors="replace"), exc
    )


def is_upgrade(request: Request) -> bool:
    """Return whether a request asks for an upgrade to WebSocket, even if it is invalid otherwise."""
    return any(
        token.partition("/")[0].strip(" \t").lower() == "websocket"
        for value in request.headers.get_all("Upgrade")
        for token in value.split(",")
    )


# -- Both ----------------------------------------------------------------------------------------------------------


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


def _conflicts(extension: Extension, others: Sequence[Extension]) -> bool:
    return any(extension.rsv & other.rsv for other in others)
