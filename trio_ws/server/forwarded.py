"""Who the client is, when it comes through a proxy: X-Forwarded-For, Forwarded (RFC 7239), and the PROXY protocol.

To a server behind a proxy, all connections come from the proxy. It says in a header whose they are: in HTTP, or in
front of everything else (the PROXY protocol, https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt). Anybody can
send such headers. So:

* They count when they come from a proxy that is trusted, and otherwise mean nothing.
* Each proxy adds what it sees to the end of a header. So headers are read from the right, and only as far as those who
  speak are trusted: the first address that is not trusted is the client. What is to the left of it is what the client
  says, and is not even parsed: nothing that it may contain changes what is read on the right.
* Where something cannot be understood, or the proxy says that it does not know, the last address before it stands.
* Forwarded and X-Forwarded-For in one request must say the same. A proxy sets one of them. The other one may have come
  from the client, through it, and there is no telling which is which.
* In the PROXY protocol nothing is guessed: either all connections begin with it, or none.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import attrs
import trio

from ..connection.stream import StreamAdapter
from ..datastructures import Headers
from ..exceptions import InvalidHeader

__all__ = [
    "Forwarding",
    "InvalidProxyHeader",
    "Peer",
    "ProxyHeader",
    "ProxyHeaderParser",
    "TrustedProxies",
    "find_client",
    "peer_of",
    "read_proxy_header",
]

_IPAddress: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_IPNetwork: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

#: Proxies: IP addresses, networks, and ``"unix"`` for all that connect through a Unix socket.
TrustedProxies: TypeAlias = (
    "Sequence[str | ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network]"
)

#: An address as a socket has it: a host and a port, or the path of a Unix socket.
_Address: TypeAlias = "tuple[str, int] | str | bytes"

UNIX = "unix"


# -- Whom to trust ---------------------------------------------------------------------------------------------------


def _to_proxies(proxies: TrustedProxies) -> tuple[_IPNetwork | str, ...]:
    if isinstance(proxies, (str, bytes)):
        raise TypeError(f"trusted_proxies is a sequence of addresses, not {proxies!r}")
    return tuple(_to_network(proxy) for proxy in proxies)


def _to_network(proxy: object) -> _IPNetwork | str:
    if proxy == UNIX:
        return UNIX
    if not isinstance(proxy, (str, *_IP_TYPES)):
        raise TypeError(f"a proxy is an IP address, a network or {UNIX!r}, not {proxy!r}")
    network = ipaddress.ip_network(proxy)
    # Addresses of IPv4 in those of IPv6 are not looked at as such, see _to_ip().
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


_IP_TYPES = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)


def _to_ip(text: str) -> _IPAddress | None:
    """Return an IP address, that of IPv4 if it stands for one; None if it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


@attrs.frozen(kw_only=True)
class Forwarding:
    """Which proxies a server is behind: see :func:`serve`.

    Raises:
        TypeError: if ``trusted_proxies`` is no sequence of such things, or ``proxy_protocol`` no bool.
        ValueError: if a string is no IP address, and no network.
    """

    trusted_proxies: tuple[_IPNetwork | str, ...] = attrs.field(default=(), converter=_to_proxies)
    proxy_protocol: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))

    def trusts(self, address: Any) -> bool:
        """Whether an address, in the form that a socket gives it, is that of a trusted proxy."""
        if not self.trusted_proxies:
            return False
        if isinstance(address, (str, bytes)):
            return UNIX in self.trusted_proxies
        ip = _to_ip(str(address[0]).partition("%")[0]) if isinstance(address, tuple) else None
        return ip is not None and any(not isinstance(each, str) and ip in each for each in self.trusted_proxies)


@attrs.frozen
class Peer:
    """Who is at the other end of a connection, as far as it is known.

    Attributes:
        address: The address of the client; None without a socket.
        proxy_address: The address that the connection comes from, if that is a proxy's.
        secure: Whether the client uses TLS.
        forwards: Whether headers may say who else is behind it.
    """

    address: Any
    proxy_address: Any = None
    secure: bool = False
    forwards: bool = False


def peer_of(transport: StreamAdapter, forwarding: Forwarding, header: ProxyHeader | None = None) -> Peer:
    """Return what is known of a peer before its first request.

    Args:
        transport: The connection.
        forwarding: Which proxies there are.
        header: What it began with, if it did.
    """
    address = transport.remote_address
    if header is None:
        return Peer(address, secure=transport.is_tls, forwards=forwarding.trusts(address))
    # Where a trusted proxy says that it does not know its client, the client is not trusted for that. And a path is
    # one on the proxy's side.
    source = header.source
    return Peer(
        address if source is None else source,
        proxy_address=address,
        secure=header.secure or transport.is_tls,
        forwards=isinstance(source, tuple) and forwarding.trusts(source),
    )


# -- X-Forwarded-For and Forwarded -----------------------------------------------------------------------------------

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PAIR = re.compile(rf'({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")')
_SEPARATOR = re.compile(r"[ \t]*(?:;[ \t]*)+")
_NODE = re.compile(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::(?:([0-9]{1,5})|_[0-9A-Za-z._\-]+))?")
_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}

#: As many commas can be in an element, in quotes. It bounds the work.
_MAX_COMMAS = 16


@attrs.frozen
class _Hop:
    """What a proxy says: from whom it has the request, and whether that came over TLS. None where it does not say."""

    address: tuple[str, int] | None
    secure: bool | None


def find_client(peer: Peer, headers: Headers, forwarding: Forwarding) -> Peer:
    """Return who a request is from.

    Args:
        peer: Who is at the other end of the connection that it came through.
        headers: Its headers.
        forwarding: Which proxies there are.

    Raises:
        InvalidHeader: if Forwarded and X-Forwarded-For contradict each other.
    """
    if not peer.forwards:
        return peer
    said = []
    if "X-Forwarded-For" in headers or ("X-Forwarded-Proto" in headers and "Forwarded" not in headers):
        said.append(_walk(_read_x_forwarded(headers), forwarding))
    if "Forwarded" in headers:
        said.append(_walk(_read_forwarded(headers), forwarding))
    if not said:
        return peer
    if len({(hop.address and hop.address[0], hop.secure) for hop in said}) > 1:
        value = ", ".join(headers.get_all("Forwarded"))
        raise InvalidHeader("Forwarded", value, "it contradicts X-Forwarded-For and X-Forwarded-Proto")
    hop = said[-1]
    return attrs.evolve(
        peer,
        address=hop.address or peer.address,
        proxy_address=peer.proxy_address or peer.address,
        secure=peer.secure if hop.secure is None else hop.secure,
    )


def _walk(hops: Iterable[_Hop], forwarding: Forwarding) -> _Hop:
    """Go from hop to hop, from the right, as long as who speaks is trusted. Return what is known then."""
    address, secure = None, None
    for hop in hops:
        secure = hop.secure
        if hop.address is None:
            break
        address = hop.address
        if not forwarding.trusts(address):
            break
    return _Hop(address, secure)


def _read_x_forwarded(headers: Headers) -> Iterator[_Hop]:
    """Yield what X-Forwarded-For and X-Forwarded-Proto say, from the right.

    Some proxies add to the second one, too; others replace it. Then there is one scheme for all hops.
    """
    schemes = _reversed_list(headers, "X-Forwarded-Proto")
    for number, text in enumerate(_reversed_list(headers, "X-Forwarded-For") or [""]):
        scheme = schemes[min(number, len(schemes) - 1)] if schemes else ""
        yield _Hop(_parse_address(text), _SCHEMES.get(scheme.lower()))


def _reversed_list(headers: Headers, name: str) -> list[str]:
    items = (item.strip(" \t") for item in ",".join(headers.get_all(name)).split(","))
    return [item for item in items if item][::-1]


def _read_forwarded(headers: Headers) -> Iterator[_Hop]:
    """Yield what Forwarded says, from the right."""
    for value in reversed(headers.get_all("Forwarded")):
        for element in _reversed_elements(value):
            if element is None:
                yield _Hop(None, None)
                return
            yield _Hop(_parse_node(element.get("for", "")), _SCHEMES.get(element.get("proto", "").lower()))


def _reversed_elements(value: str) -> Iterator[dict[str, str] | None]:
    """Yield the elements of a Forwarded header (RFC 7239, section 4), the last one first; None at what is none.

    A comma may also be in a quoted string, and which quotes belong together shows only from the left, where the client
    may have put one. But what is behind a comma in a quoted string is never an element: it has one quote too few.
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
        end = start  # before the comma; or -1, when that was all


def _parse_element(text: str) -> dict[str, str] | None:
    """Return the parameters in an element; nothing if it is empty, None if it is none."""
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
    """Return the address of a node (RFC 7239, section 6); None if it has none, such as "unknown"."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    ip, port = _to_ip(match[1] or match[2]), int(match[3] or 0)
    return None if ip is None or port > 0xFFFF or (match[2] and ":" not in match[2]) else (str(ip), port)


def _parse_address(text: str) -> tuple[str, int] | None:
    """Return an address in X-Forwarded-For, which has no grammar: IPv6 comes with and without brackets."""
    ip = _to_ip(text) if "%" not in text else None
    return _parse_node(text) if ip is None else (str(ip), 0)


# -- The PROXY protocol ----------------------------------------------------------------------------------------------

_PREFIX = b"PROXY "
_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

#: The most bytes that a header of version 1 takes, and the fewest: "PROXY UNKNOWN", and the end of the line.
MAX_LINE_SIZE = 107
_MIN_LINE_SIZE = 15

#: The most bytes that a header of version 2 may take here, and the fewest. There are addresses in it, of 216 bytes at
#: most, and whatever else proxies have to say.
MAX_HEADER_SIZE = 4096
_MIN_HEADER_SIZE = 16

_LOCAL, _PROXY = 0, 1
_TCP4, _TCP6, _UNIX_STREAM = 0x11, 0x21, 0x31
# None at all, and datagrams, which this is not: their addresses are of no use to us.
_OTHERS = frozenset({0x00, 0x12, 0x22, 0x32})
_ADDRESS_SIZES = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}

#: What says in version 2 that the client uses TLS: a type, and a bit of its first byte.
_TLV_SSL, _CLIENT_SSL = 0x20, 0x01


class InvalidProxyHeader(Exception):
    """What a connection begins with is no header of the PROXY protocol. It never leaves this package."""


@attrs.frozen
class ProxyHeader:
    """What a header of the PROXY protocol says.

    Attributes:
        source: The address of the client; None if the proxy speaks for itself, or does not know.
        destination: The address that the client has connected to, likewise.
        secure: Whether it says that the client uses TLS.
    """

    source: _Address | None = None
    destination: _Address | None = None
    secure: bool = False


class ProxyHeaderParser:
    """Reads a header of the PROXY protocol, version 1 or 2, fed in pieces of any size."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def needed(self) -> int:
        """The fewest bytes that it still takes. Who reads no more at a time takes nothing that comes after it."""
        data, size = self._data, len(self._data)
        if data.startswith(_SIGNATURE[:1]):
            if size < _MIN_HEADER_SIZE:
                return _MIN_HEADER_SIZE - size
            return _MIN_HEADER_SIZE + int.from_bytes(data[14:16], "big") - size
        if size < _MIN_LINE_SIZE:
            return _MIN_LINE_SIZE - size
        if data.endswith(b"\r"):
            return 1
        # A space and a character for each field that is missing, and the end of the line.
        missing = max(0, 5 - data.count(b" ")) if data.startswith(b"PROXY TCP") else 0
        return 2 * missing + 2

    @property
    def unused(self) -> bytes:
        """The bytes that were fed and came after the header."""
        return bytes(self._data)

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take what has arrived; return the header once it is whole.

        Args:
            data: The bytes, in order. Empty means that no more will come.

        Raises:
            InvalidProxyHeader: if it is no such header, or ends too early.
        """
        if not data:
            raise InvalidProxyHeader("it was closed before the end of the PROXY header")
        self._data += data
        if _SIGNATURE.startswith(self._data[: len(_SIGNATURE)]):
            return self._parse_binary()
        if _PREFIX.startswith(self._data[: len(_PREFIX)]):
            return self._parse_line()
        raise InvalidProxyHeader("it does not begin with a PROXY header")

    def _parse_line(self) -> ProxyHeader | None:
        end = self._data.find(b"\r\n", 0, MAX_LINE_SIZE)
        if end < 0:
            if len(self._data) >= MAX_LINE_SIZE:
                raise InvalidProxyHeader(f"its PROXY header has more than {MAX_LINE_SIZE} bytes")
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 2]
        if _UNKNOWN.fullmatch(line):
            return ProxyHeader()
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidProxyHeader("its PROXY header is malformed")
        kind = ipaddress.IPv4Address if match[1] == b"4" else ipaddress.IPv6Address
        source, destination = (_to_address(kind, match[i].decode(), int(match[i + 2])) for i in (2, 3))
        return ProxyHeader(source, destination)

    def _parse_binary(self) -> ProxyHeader | None:
        if len(self._data) < _MIN_HEADER_SIZE:
            return None
        version, command = divmod(self._data[12], 16)
        if version != 2 or command not in (_LOCAL, _PROXY):
            raise InvalidProxyHeader(f"its PROXY header has the unknown version or command {self._data[12]:#04x}")
        family = self._data[13]
        size = _MIN_HEADER_SIZE + int.from_bytes(self._data[14:16], "big")
        if size > MAX_HEADER_SIZE:
            raise InvalidProxyHeader(f"its PROXY header has more than {MAX_HEADER_SIZE} bytes")
        if len(self._data) < size:
            return None
        block = bytes(self._data[_MIN_HEADER_SIZE:size])
        del self._data[:size]
        if command == _LOCAL or family in _OTHERS:
            return ProxyHeader()
        if family not in _ADDRESS_SIZES:
            raise InvalidProxyHeader(f"its PROXY header has the unknown address family {family:#04x}")
        return _parse_block(family, block)


def _to_address(
    kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], address: str | bytes, port: int
) -> tuple[str, int]:
    try:
        ip = _to_ip(str(kind(address)))
    except ValueError as exc:
        raise InvalidProxyHeader(f"its PROXY header is malformed: {exc}") from exc
    if port > 0xFFFF:
        raise InvalidProxyHeader(f"its PROXY header has the port {port}")
    return str(ip), port


def _parse_block(family: int, block: bytes) -> ProxyHeader:
    """Return what is behind the first 16 bytes of a header of version 2."""
    size = _ADDRESS_SIZES[family]
    if len(block) < size:
        raise InvalidProxyHeader("its PROXY header is too short for its addresses")
    source: _Address
    destination: _Address
    if family == _UNIX_STREAM:
        source, destination = _to_path(block[:108]), _to_path(block[108:216])
    else:
        kind = ipaddress.IPv4Address if family == _TCP4 else ipaddress.IPv6Address
        width = size // 2 - 2
        ports = [int.from_bytes(block[i : i + 2], "big") for i in (2 * width, 2 * width + 2)]
        source, destination = (_to_address(kind, block[i * width :][:width], ports[i]) for i in (0, 1))
    secure = any(kind == _TLV_SSL and value[:1] and value[0] & _CLIENT_SSL for kind, value in _read_tlvs(block[size:]))
    return ProxyHeader(source, destination, secure)


def _to_path(field: bytes) -> str | bytes:
    """Return the path of a Unix socket as the socket module has it: bytes for one without a file."""
    path = field.partition(b"\0")[0]
    return os.fsdecode(path) if path else field.rstrip(b"\0") or ""


def _read_tlvs(data: bytes) -> list[tuple[int, bytes]]:
    """Return the types and values in what follows the addresses."""
    found = []
    position = 0
    while position < len(data):
        start = position + 3
        end = start + int.from_bytes(data[position + 1 : start], "big")
        if max(start, end) > len(data):
            raise InvalidProxyHeader("its PROXY header is too short for what it holds")
        found.append((data[position], data[start:end]))
        position = end
    return found


async def read_proxy_header(stream: trio.abc.Stream) -> ProxyHeader:
    """Read the PROXY header that a connection begins with, and nothing behind it. It comes before TLS.

    When this is cancelled, the connection is of no more use.

    Raises:
        InvalidProxyHeader: if it does not begin with one.
        StreamBroken: if the connection is lost.
    """
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    transport = StreamAdapter(stream)
    parser = ProxyHeaderParser()
    header = None
    while header is None:
        header = parser.feed(bytes(await transport.receive_view(parser.needed)))
    return header
