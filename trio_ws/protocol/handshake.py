"""The opening handshake (RFC 6455, section 4), as pure functions on requests and responses.

A client makes a request with :func:`build_request` and reads the answer with :func:`check_response`; a server answers
with :func:`accept`, or with :func:`reject` when that raised. What they agreed on is an :class:`Agreement`, and the open
connection begins with it. Every failure is an :exc:`InvalidHandshake`; which status a server answers with follows from
its type, in :func:`reject` alone.
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
from ..uri import WebSocketURI
from .extensions import ClientExtension, Extension, Params, ServerExtension
from .grammar import build_extensions, build_list, is_token, parse_extensions, parse_tokens

__all__ = ["Agreement", "accept", "build_request", "check_response", "is_upgrade", "reject"]

VERSION = "13"

# What the accept key is derived with (RFC 6455, section 1.3).
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# Most characters of an explanation of what is wrong with a request.
_MAX_EXPLANATION = 500

# Sixteen bytes in base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

# The headers that make the handshake: a caller that sets them asks for something else than a WebSocket connection.
_OURS = frozenset(
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


@attrs.frozen
class Agreement:
    """What client and server have agreed on.

    Attributes:
        subprotocol: The subprotocol in use, or None.
        extensions: The extensions in use, in the order in which the server named them.
    """

    subprotocol: str | None = None
    extensions: tuple[Extension, ...] = ()


def check_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    """Return the subprotocols as a tuple, after a look at each (RFC 6455, section 4.1, item 10).

    Raises:
        TypeError: if it is not a sequence of strings. A set or a mapping is not in an order of preference.
        ValueError: if one is not a token, or occurs twice.
    """
    if isinstance(subprotocols, (str, bytes)) or not isinstance(subprotocols, Sequence):
        raise TypeError(f"subprotocols must be a sequence of str in order of preference, not {subprotocols!r}")
    checked = tuple(subprotocols)
    for subprotocol in checked:
        if not isinstance(subprotocol, str):
            raise TypeError(f"a subprotocol is a str, not {subprotocol!r}")
        if not is_token(subprotocol):
            raise ValueError(f"the subprotocol {subprotocol!r} is not a token")
    if len(set(checked)) < len(checked):
        raise ValueError(f"a subprotocol occurs twice in {checked!r}")
    return checked


def check_headers(headers: HeadersLike) -> Headers:
    """Return a copy of the headers of a caller.

    Raises:
        InvalidHeader: if one is not valid, or is one of those that make the handshake.
    """
    more = Headers(headers)
    for name, value in more.raw_items():
        if name.lower() in _OURS:
            raise InvalidHeader(name, value, "the opening handshake sets this header itself")
    return more


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
        uri: What to connect to. User information becomes Basic credentials.
        random: Returns as many unpredictable bytes as it is asked for.
        subprotocols: What to offer, in order of preference.
        extensions: What to offer, in order of preference.
        user_agent: The User-Agent header; None for none.
        headers: More headers. They replace the Host, Authorization and User-Agent headers that would be there
            otherwise.

    Raises:
        InvalidHeader: if one of ``headers`` is not valid, or is one that makes the handshake.
    """
    more = check_headers(headers)
    ours = Headers()
    ours["Host"] = uri.host_header
    # Some servers compare the whole value, so it is this one token.
    ours["Upgrade"] = "websocket"
    ours["Connection"] = "Upgrade"
    ours["Sec-WebSocket-Key"] = base64.b64encode(random(16)).decode()
    ours["Sec-WebSocket-Version"] = VERSION
    if subprotocols:
        ours["Sec-WebSocket-Protocol"] = build_list(subprotocols)
    offers = [(extension.name, params) for extension in extensions for params in extension.offers()]
    if offers:
        ours["Sec-WebSocket-Extensions"] = build_extensions(offers)
    if uri.user_info is not None:
        credentials = ":".join(uri.user_info).encode()
        ours["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    if user_agent is not None:
        ours["User-Agent"] = user_agent
    for name in more:
        if name in ours:
            del ours[name]
    ours.update(more)
    return Request(uri.resource_name, ours)


def check_response(
    request: Request,
    response: Response,
    *,
    subprotocols: Sequence[str] = (),
    extensions: Sequence[ClientExtension] = (),
) -> Agreement:
    """Read the answer of a server (RFC 6455, section 4.1, last part).

    Args:
        request: What was asked.
        response: What was answered.
        subprotocols: What was offered.
        extensions: What was offered.

    Raises:
        InvalidStatus: if the status is not 101.
        InvalidHeader: if a header is missing, malformed or wrong; :exc:`InvalidUpgrade` if it is no upgrade.
        NegotiationError: if the server chose what was not offered.
    """
    if response.status_code != 101:
        raise InvalidStatus(response)
    headers = response.headers
    _check_upgrade(headers, lenient=True)
    upgrade = _get(headers, "Upgrade")
    if upgrade.lower() != "websocket":
        # A client lists what it would like; what a server lists, it has switched to, one on top of the other.
        raise InvalidUpgrade("Upgrade", upgrade, "'websocket' alone is expected")
    accept_key = _get(headers, "Sec-WebSocket-Accept")
    if accept_key != _accept_key(request.headers["Sec-WebSocket-Key"]):
        raise InvalidHeader("Sec-WebSocket-Accept", accept_key, "it does not follow from the key that was sent")
    return Agreement(_accepted_subprotocol(headers, subprotocols), _accepted_extensions(headers, extensions))


def _accepted_subprotocol(headers: Headers, offered: Sequence[str]) -> str | None:
    values = _get_list(headers, "Sec-WebSocket-Protocol")
    if not values:
        return None
    subprotocols = parse_tokens("Sec-WebSocket-Protocol", values)
    if len(subprotocols) > 1:
        raise InvalidHeader("Sec-WebSocket-Protocol", build_list(values), "a server chooses one subprotocol")
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
            raise NegotiationError(f"the server chose the extension {name!r}{' twice' if known else ', not offered'}")
        extension = offer.accept(params)
        if _conflicts(extension, accepted):
            raise NegotiationError(f"the extension {name!r} uses a reserved bit that another one uses")
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
    """Return the answer of a server to a request that is in order (RFC 6455, section 4.2).

    Args:
        request: What is asked.
        subprotocols: What the server speaks, in order of preference. Without one in common there is none.
        extensions: What the server supports. Among the client's offers the first that is understood wins.
        server: The Server header; None for none.
        headers: More headers for the answer.
        select_subprotocol: Called with what the client speaks, in its order of preference, which may be nothing;
            returns one of these or None. Then ``subprotocols`` does not count.

    Raises:
        InvalidMessage: if the version of HTTP is not 1.1, or the request has a body.
        InvalidMethod: if the method is not GET.
        InvalidHeader: if a header is missing, malformed or wrong; :exc:`InvalidUpgrade` if it is no upgrade to a
            version of WebSocket that we speak.
    """
    if request.http_version != "1.1":
        raise InvalidMessage(f"HTTP/{request.http_version} cannot be upgraded, HTTP/1.1 can", 505)
    if request.method != "GET":
        raise InvalidMethod(request.method)
    asked = request.headers
    # A body would be read as frames: that is how requests are smuggled.
    if "Transfer-Encoding" in asked or any(value != "0" for value in asked.get_all("Content-Length")):
        raise InvalidMessage("an opening handshake has no body")
    _get(asked, "Host")
    _check_upgrade(asked)
    key = _get(asked, "Sec-WebSocket-Key")
    if not _KEY.fullmatch(key):
        raise InvalidHeader("Sec-WebSocket-Key", key, "it is not sixteen bytes in base64")
    version = _get(asked, "Sec-WebSocket-Version")
    if version != VERSION:
        raise InvalidUpgrade("Sec-WebSocket-Version", version, f"the version that we speak is {VERSION}")

    subprotocol = _choose_subprotocol(asked, subprotocols, select_subprotocol)
    answers = _answer_extensions(asked, extensions)

    ours = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", _accept_key(key))]
    if subprotocol is not None:
        ours.append(("Sec-WebSocket-Protocol", subprotocol))
    if answers:
        chosen = [(name, params) for name, params, _ in answers]
        ours.append(("Sec-WebSocket-Extensions", build_extensions(chosen)))
    if server is not None:
        ours.append(("Server", server))
    if headers:
        ours.extend(check_headers(headers).raw_items())
    response = Response(101, reason_phrase(101), ours)
    return response, Agreement(subprotocol, tuple(extension for _, _, extension in answers))


def _choose_subprotocol(
    headers: Headers, supported: Sequence[str], select: Callable[[Sequence[str]], str | None] | None
) -> str | None:
    values = headers.get_all("Sec-WebSocket-Protocol")
    offered = parse_tokens("Sec-WebSocket-Protocol", values) if values else []
    if select is not None:
        chosen = select(offered)
        if chosen is not None and chosen not in offered:
            raise ValueError(f"select_subprotocol() chose {chosen!r}, which the client does not speak: {offered!r}")
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
        if not _conflicts(extension, [each for _, _, each in answers]):
            answers.append((name, params, extension))
            del by_name[name]
    return answers


def reject(exc: InvalidHandshake, *, server: str | None = None) -> Response:
    """Return the answer of a server to a request that failed.

    Args:
        exc: Why it failed.
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
    # RFC 9110, section 7.8: what names an Upgrade must name it in Connection too.
    headers["Connection"] = "Upgrade, close" if status == 426 else "close"
    headers["Content-Type"] = "text/plain; charset=utf-8"
    if server is not None:
        headers["Server"] = server
    # What the peer sent may be quoted in it, and need not come back in full. No body answers HEAD (RFC 9110, 9.3.2).
    text = None if isinstance(exc, InvalidMethod) and exc.method == "HEAD" else f"{str(exc)[:_MAX_EXPLANATION]}\n"
    return Response(
        status, reason_phrase(status), headers, None if text is None else text.encode(errors="replace"), exc
    )


def is_upgrade(request: Request) -> bool:
    """Whether a request wants to become a WebSocket, whatever else may be wrong with it."""
    return any(
        token.partition("/")[0].strip(" \t").lower() == "websocket"
        for value in request.headers.get_all("Upgrade")
        for token in value.split(",")
    )


# -- Both ----------------------------------------------------------------------------------------------------------


def _accept_key(key: str) -> str:
    """RFC 6455, section 4.2.2, item 5.4."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def _get(headers: Headers, name: str) -> str:
    """Return the value of a header of which there must be exactly one."""
    values = headers.get_all(name)
    if not values:
        raise InvalidHeader(name, None, "it is missing")
    if len(values) > 1:
        raise InvalidHeader(name, build_list(values), "there is more than one")
    return values[0].strip(" \t")


def _check_upgrade(headers: Headers, *, lenient: bool = False) -> None:
    """Check what both messages must have to be an upgrade (RFC 6455, sections 4.1 and 4.2.1)."""
    for name, token in (("Connection", "upgrade"), ("Upgrade", "websocket")):
        values = headers.get_all(name)
        if not values:
            raise InvalidUpgrade(name, None, f"it is missing, {token!r} is expected")
        if lenient and token in (each.lower() for each in _elements(values)):
            continue  # whatever else is there
        if token not in (each.lower() for each in _upgrade_tokens(name, values)):
            raise InvalidUpgrade(name, build_list(values), f"{token!r} is expected")


def _upgrade_tokens(name: str, values: Sequence[str]) -> list[str]:
    if name == "Upgrade":
        # protocol ["/" version]: the slash is all that a list of tokens would not let pass.
        return _elements(values)
    return parse_tokens(name, values)


def _elements(values: Sequence[str]) -> list[str]:
    return [each.strip(" \t") for each in build_list(values).split(",")]


def _conflicts(extension: Extension, others: Sequence[Extension]) -> bool:
    return any(extension.rsv & other.rsv for other in others)
