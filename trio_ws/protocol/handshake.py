"""The opening handshake (RFC 6455, section 4), as pure functions on requests and responses.

This is the part that all versions of HTTP share; :mod:`~trio_ws.protocol.proofs` has the parts that differ.

A client makes its request with :func:`build_request` and checks the response with :func:`check_response`. A server
makes its response with :func:`accept`, or with :func:`reject` if that raised an exception. The result is an
:class:`Agreement`, the parameters of the open connection. All failures are subclasses of :exc:`InvalidHandshake`, which
:func:`reject` maps to status codes.
"""

from __future__ import annotations

import base64
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
from .proofs import (
    VERSION,
    accepts,
    check_connect_request,
    check_upgrade_request,
    check_upgrade_response,
    is_upgrade,
    upgrade_headers,
)

__all__ = ["Agreement", "accept", "accepts", "build_request", "check_response", "is_upgrade", "reject"]

# Maximum number of characters in the body of a rejection.
_MAX_EXPLANATION = 500

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
    http_version: str = "1.1",
) -> Request:
    """Return the request of a client (RFC 6455, section 4.1; RFC 8441, section 5, for HTTP/2).

    Args:
        uri: The URI to connect to. Its user information becomes Basic credentials.
        random: A function that returns the requested number of unpredictable bytes, such as ``os.urandom``.
        subprotocols: The subprotocols to offer, in order of preference.
        extensions: The extensions to offer, in order of preference.
        user_agent: The User-Agent header; None for none.
        headers: Additional headers. They replace the default Host, Authorization and User-Agent headers.
        http_version: ``"1.1"`` for a GET request with an upgrade, ``"2"`` for an extended CONNECT request.

    Raises:
        InvalidHeader: If one of ``headers`` is not valid, or belongs to the handshake itself.
    """
    extra_headers = check_headers(headers)
    own_headers = [("Host", uri.host_header)]
    if http_version == "1.1":
        own_headers += upgrade_headers(random)
    own_headers.append(("Sec-WebSocket-Version", VERSION))
    if subprotocols:
        own_headers.append(("Sec-WebSocket-Protocol", build_list(subprotocols)))
    offers = [(extension.name, params) for extension in extensions for params in extension.offers()]
    if offers:
        own_headers.append(("Sec-WebSocket-Extensions", build_extensions(offers)))
    if uri.user_info is not None:
        credentials = ":".join(uri.user_info).encode()
        own_headers.append(("Authorization", f"Basic {base64.b64encode(credentials).decode()}"))
    if user_agent is not None:
        own_headers.append(("User-Agent", user_agent))
    request_headers = [header for header in own_headers if header[0] not in extra_headers]
    request_headers += extra_headers.raw_items()
    if http_version == "2":
        return Request(uri.resource_name, request_headers, method="CONNECT", http_version="2", protocol="websocket")
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
        InvalidStatus: If the status is not 101, or not 2xx for HTTP/2.
        InvalidHeader: If a header is missing, malformed or wrong; :exc:`InvalidUpgrade` for Connection and Upgrade.
        NegotiationError: If the server chose something that was not offered.
    """
    if not accepts(request, response):
        raise InvalidStatus(response)
    headers = response.headers
    if request.http_version == "1.1":
        check_upgrade_response(request, response)
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
        InvalidMessage: If the version of HTTP is neither 1.1 nor 2, or the request has a body. Over HTTP/2, also if it
            is not an extended CONNECT request for a WebSocket.
        InvalidMethod: If the method is not GET, or CONNECT over HTTP/2.
        InvalidHeader: If a header is missing, malformed or wrong; :exc:`InvalidUpgrade` if the request does not ask to
            upgrade to version 13 of WebSocket.
        ValueError: If ``select_subprotocol`` returned a subprotocol that the client does not offer.
    """
    is_http2 = request.http_version == "2"
    proof = check_connect_request(request) if is_http2 else check_upgrade_request(request)
    request_headers = request.headers
    subprotocol = _choose_subprotocol(request_headers, subprotocols, select_subprotocol)
    answers = _answer_extensions(request_headers, extensions)

    response_headers = list(proof)
    if subprotocol is not None:
        response_headers.append(("Sec-WebSocket-Protocol", subprotocol))
    if answers:
        chosen = [(name, params) for name, params, _ in answers]
        response_headers.append(("Sec-WebSocket-Extensions", build_extensions(chosen)))
    if server is not None:
        response_headers.append(("Server", server))
    if headers:
        response_headers.extend(check_headers(headers).raw_items())
    status = 200 if is_http2 else 101
    response = Response(status, reason_phrase(status), response_headers)
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


def reject(exc: InvalidHandshake, *, server: str | None = None, http_version: str = "1.1") -> Response:
    """Return the response of a server to an invalid request.

    Args:
        exc: The reason for the rejection.
        server: The Server header; None for none.
        http_version: The version of HTTP. In HTTP/2, nothing can be upgraded, and no response ends the connection.
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
        status = 400 if http_version == "2" else 426
        headers["Sec-WebSocket-Version"] = VERSION
    else:
        status = 400
    if status == 426:
        headers["Upgrade"] = "websocket"
    if http_version != "2":
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


# -- Both ----------------------------------------------------------------------------------------------------------


def _conflicts(extension: Extension, others: Sequence[Extension]) -> bool:
    return any(extension.rsv & other.rsv for other in others)
