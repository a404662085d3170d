"""The client of a request, from X-Forwarded-For, -Proto and -Host, and Forwarded: ``find_client``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import attrs

from ...datastructures import Headers
from ...exceptions import InvalidHeader
from ..origins import is_valid_host
from .peer import Peer
from .trust import Forwarding, to_ip

__all__ = ["find_client"]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR = re.compile(rf'({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")')
_SEPARATOR = re.compile(r"[ \t]*(?:;[ \t]*)+")
_NODE = re.compile(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::(?:([0-9]{1,5})|_[0-9A-Za-z._\-]+))?")
_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}

#: The most commas in the quoted strings of one element. This bounds the work.
_MAX_COMMAS = 16


@attrs.frozen(eq=False, repr=False)
class _Hop:
    """One proxy's information: who sent it the request, whether over TLS, and for which host. None for unknown."""

    address: tuple[str, int] | None
    secure: bool | None
    host: str | None = None


def find_client(peer: Peer, headers: Headers, forwarding: Forwarding) -> Peer:
    """Return the client that sent a request.

    Args:
        peer: The peer of the connection that the request came through.
        headers: The headers of the request.
        forwarding: The trusted proxies.

    Raises:
        InvalidHeader: If Forwarded and the X-Forwarded headers contradict each other.
    """
    if not peer.is_trusted_proxy:
        return peer
    found = []
    others = "X-Forwarded-Proto" in headers or "X-Forwarded-Host" in headers
    if "X-Forwarded-For" in headers or (others and "Forwarded" not in headers):
        found.append(_find_client_hop(_read_x_forwarded(headers), forwarding))
    if "Forwarded" in headers:
        found.append(_find_client_hop(_read_forwarded(headers), forwarding))
    if not found:
        return peer
    hosts = {hop.host.lower(): hop.host for hop in found if hop.host is not None}
    if len(hosts) > 1 or len({(hop.address and hop.address[0], hop.secure) for hop in found}) > 1:
        value = ", ".join(headers.get_all("Forwarded"))
        raise InvalidHeader("Forwarded", value, "contradicts X-Forwarded-For, X-Forwarded-Proto or X-Forwarded-Host")
    hop = found[-1]
    return attrs.evolve(
        peer,
        address=hop.address or peer.address,
        proxy_address=peer.proxy_address or peer.address,
        secure=peer.secure if hop.secure is None else hop.secure,
        host=next(iter(hosts.values()), None),
    )


def _find_client_hop(hops: Iterable[_Hop], forwarding: Forwarding) -> _Hop:
    """Return the first hop whose address is not a trusted proxy, or the last known one. Hops come from the right."""
    address, secure, host = None, None, None
    for hop in hops:
        secure = hop.secure
        host = hop.host or host  # a proxy that names none has passed on the one that it got
        if hop.address is None:
            break
        address = hop.address
        if not forwarding.trusts(address):
            break
    return _Hop(address, secure, host)


def _read_x_forwarded(headers: Headers) -> Iterator[_Hop]:
    """Yield the hops of X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host, from the right.

    Some proxies append to the last two, others replace them. If they have fewer items, the leftmost one is used for the
    remaining hops.
    """
    schemes = _reversed_list(headers, "X-Forwarded-Proto")
    hosts = _reversed_list(headers, "X-Forwarded-Host")
    for number, text in enumerate(_reversed_list(headers, "X-Forwarded-For") or [""]):
        scheme = schemes[min(number, len(schemes) - 1)] if schemes else ""
        host = hosts[min(number, len(hosts) - 1)] if hosts else ""
        yield _Hop(_parse_address(text), _SCHEMES.get(scheme.lower()), _to_host(host))


def _to_host(text: str) -> str | None:
    return text if is_valid_host(text) else None


def _reversed_list(headers: Headers, name: str) -> list[str]:
    items = (item.strip(" \t") for item in ",".join(headers.get_all(name)).split(","))
    return [item for item in items if item][::-1]


def _read_forwarded(headers: Headers) -> Iterator[_Hop]:
    """Yield the hops of Forwarded, from the right. A malformed element becomes an unknown hop, which is the last."""
    for value in reversed(headers.get_all("Forwarded")):
        for element in _reversed_elements(value):
            if element is None:
                yield _Hop(None, None)
                return
            secure = _SCHEMES.get(element.get("proto", "").lower())
            yield _Hop(_parse_node(element.get("for", "")), secure, _to_host(element.get("host", "")))


def _reversed_elements(value: str) -> Iterator[dict[str, str] | None]:
    """Yield the elements of a Forwarded header (RFC 7239, section 4), last one first; None for a malformed element.

    Elements are separated by commas, but a quoted string may contain commas too. Quotes can only be matched from the
    left, where the client may have put a stray one. Reading from the right still works: the text after a comma inside
    a quoted string is never a valid element, because its quotes are unbalanced.
    """
    end = len(value)
    while end >= 0:
        start, element = end, None
        for _ in range(_MAX_COMMAS + 1):
            start = value.rfind(",", 0, start)
            element = _parse_element(value[start + 1 : end])
            if element is not None or start < 0:
                break
        if element is None:
            yield None
            return
        if element:
            yield element
        end = start  # the position of the comma, or -1 after the first element


def _parse_element(text: str) -> dict[str, str] | None:
    """Return the parameters of an element; an empty dict if it is empty, None if it is malformed."""
    text = text.strip(" \t")
    element: dict[str, str] = {}
    if not text:
        return element
    text = text.strip("; \t")
    position = 0
    while True:
        pair = _PAIR.match(text, position)
        if pair is None or pair[1].lower() in element:
            return None
        element[pair[1].lower()] = pair[2] if pair[3] is None else re.sub(r"\\(.)", r"\1", pair[3])
        if pair.end() == len(text):
            return element
        separator = _SEPARATOR.match(text, pair.end())
        if separator is None:
            return None
        position = separator.end()


def _parse_node(text: str) -> tuple[str, int] | None:
    """Return the address and port of a node (RFC 7239, section 6); None if it has no address, such as "unknown"."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    ip, port = to_ip(match[1] or match[2]), int(match[3] or 0)
    return None if ip is None or port > 0xFFFF or (match[2] and ":" not in match[2]) else (str(ip), port)


def _parse_address(text: str) -> tuple[str, int] | None:
    """Return an address of X-Forwarded-For. The header has no grammar: IPv6 comes with and without brackets."""
    ip = to_ip(text) if "%" not in text else None
    return _parse_node(text) if ip is None else (str(ip), 0)
