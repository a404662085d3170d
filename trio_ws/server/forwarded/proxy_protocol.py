"""The PROXY protocol, versions 1 and 2: ``ProxyHeader`` and its parser."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TypeAlias

import attrs
import trio

from ...connection.stream import StreamAdapter
from ...exceptions.shown import show_fields
from .trust import to_ip

__all__ = ["InvalidProxyHeader", "ProxyHeader", "ProxyHeaderParser", "read_proxy_header"]

#: A socket address: a host and a port, or the path of a Unix socket.
_Address: TypeAlias = "tuple[str, int] | str | bytes"

_PREFIX = b"PROXY "
_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

#: The maximum and minimum size of a version 1 header in bytes. The shortest is "PROXY UNKNOWN" and CRLF.
MAX_LINE_SIZE = 107
_MIN_LINE_SIZE = 15

#: The maximum (our choice) and minimum size of a version 2 header in bytes. It contains addresses, up to 216 bytes, and
#: any additional fields (TLVs) of the proxy.
MAX_HEADER_SIZE = 4096
_MIN_HEADER_SIZE = 16

_LOCAL, _PROXY = 0, 1
_TCP4, _TCP6, _UNIX_STREAM = 0x11, 0x21, 0x31
# Unspecified, and datagrams. Their addresses are ignored: they do not describe a stream.
_IGNORED_FAMILIES = frozenset({0x00, 0x12, 0x22, 0x32})
_ADDRESS_SIZES = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}

#: The type of the TLV about TLS, and the bit of its first byte that is set if the client uses TLS.
_TLV_SSL, _CLIENT_SSL = 0x20, 0x01


class InvalidProxyHeader(Exception):
    """The connection does not begin with a valid PROXY header. Never raised to users."""


@attrs.frozen
class ProxyHeader:
    """A header of the PROXY protocol.

    Attributes:
        source: The address of the client; None if the proxy does not know it, or made the connection for itself.
        destination: The address that the client connected to; None like ``source``.
        secure: Whether the client uses TLS, according to the header.
    """

    source: _Address | None = None
    destination: _Address | None = None
    secure: bool = False

    __repr__ = show_fields


class ProxyHeaderParser:
    """Incremental parser for one PROXY header, version 1 or 2."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def needed(self) -> int:
        """The fewest bytes still missing. Reading no more than this never reads past the end of the header."""
        data, size = self._data, len(self._data)
        if data.startswith(_SIGNATURE[:1]):
            if size < _MIN_HEADER_SIZE:
                return _MIN_HEADER_SIZE - size
            return _MIN_HEADER_SIZE + int.from_bytes(data[14:16], "big") - size
        if size < _MIN_LINE_SIZE:
            return _MIN_LINE_SIZE - size
        if data.endswith(b"\r"):
            return 1
        # At least a space and one character for each missing field, and the end of the line.
        missing = max(0, 5 - data.count(b" ")) if data.startswith(b"PROXY TCP") else 0
        return 2 * missing + 2

    @property
    def unused(self) -> bytes:
        """The bytes that were fed after the header."""
        return bytes(self._data)

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Add received bytes. Return the header once it is complete, None before.

        Args:
            data: The next bytes; empty at the end of the stream.

        Raises:
            InvalidProxyHeader: If the bytes are not a PROXY header, or the stream ends before its end.
        """
        if not data:
            raise InvalidProxyHeader("end of stream before the end of the PROXY header")
        self._data += data
        if _SIGNATURE.startswith(self._data[: len(_SIGNATURE)]):
            return self._parse_binary()
        if _PREFIX.startswith(self._data[: len(_PREFIX)]):
            return self._parse_line()
        raise InvalidProxyHeader("no PROXY header")

    def _parse_line(self) -> ProxyHeader | None:
        end = self._data.find(b"\r\n", 0, MAX_LINE_SIZE)
        if end < 0:
            if len(self._data) >= MAX_LINE_SIZE:
                raise InvalidProxyHeader(f"PROXY header of more than {MAX_LINE_SIZE} bytes")
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 2]
        if _UNKNOWN.fullmatch(line):
            return ProxyHeader()
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidProxyHeader("malformed PROXY header")
        kind = ipaddress.IPv4Address if match[1] == b"4" else ipaddress.IPv6Address
        source, destination = (_to_address(kind, match[i].decode(), int(match[i + 2])) for i in (2, 3))
        return ProxyHeader(source, destination)

    def _parse_binary(self) -> ProxyHeader | None:
        if len(self._data) < _MIN_HEADER_SIZE:
            return None
        version, command = divmod(self._data[12], 16)
        if version != 2 or command not in (_LOCAL, _PROXY):
            raise InvalidProxyHeader(f"unknown version or command {self._data[12]:#04x} in the PROXY header")
        family = self._data[13]
        size = _MIN_HEADER_SIZE + int.from_bytes(self._data[14:16], "big")
        if size > MAX_HEADER_SIZE:
            raise InvalidProxyHeader(f"PROXY header of more than {MAX_HEADER_SIZE} bytes")
        if len(self._data) < size:
            return None
        block = bytes(self._data[_MIN_HEADER_SIZE:size])
        del self._data[:size]
        if command == _LOCAL or family in _IGNORED_FAMILIES:
            return ProxyHeader()
        if family not in _ADDRESS_SIZES:
            raise InvalidProxyHeader(f"unknown address family {family:#04x} in the PROXY header")
        return _parse_block(family, block)


def _to_address(
    kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], address: str | bytes, port: int
) -> tuple[str, int]:
    try:
        ip = to_ip(str(kind(address)))
    except ValueError as exc:
        raise InvalidProxyHeader(f"malformed PROXY header: {exc}") from exc
    if port > 0xFFFF:
        raise InvalidProxyHeader(f"invalid port {port} in the PROXY header")
    return str(ip), port


def _parse_block(family: int, block: bytes) -> ProxyHeader:
    """Parse the part of a version 2 header that follows its first 16 bytes."""
    size = _ADDRESS_SIZES[family]
    if len(block) < size:
        raise InvalidProxyHeader("PROXY header too short for its addresses")
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
    """Return the path of a Unix socket as the socket module does: ``bytes`` for an abstract one, "" for none."""
    path = field.partition(b"\0")[0]
    return os.fsdecode(path) if path else field.rstrip(b"\0") or ""


def _read_tlvs(data: bytes) -> list[tuple[int, bytes]]:
    """Return the types and values of the TLVs that follow the addresses."""
    found = []
    position = 0
    while position < len(data):
        start = position + 3
        end = start + int.from_bytes(data[position + 1 : start], "big")
        if max(start, end) > len(data):
            raise InvalidProxyHeader("PROXY header too short for its TLVs")
        found.append((data[position], data[start:end]))
        position = end
    return found


async def read_proxy_header(stream: StreamAdapter) -> ProxyHeader:
    """Read the PROXY header from the beginning of a connection, below TLS, and nothing after it.

    If this is cancelled, part of the header may be lost, so the connection must be closed.

    Raises:
        InvalidProxyHeader: If the connection does not begin with a valid PROXY header.
        StreamBroken: If the connection is lost.
    """
    below = stream.stream
    while isinstance(below, trio.SSLStream):
        below = below.transport_stream
    transport = StreamAdapter(below)
    parser = ProxyHeaderParser()
    header = None
    while header is None:
        header = parser.feed(bytes(await transport.receive_view(parser.needed)))
    return header
