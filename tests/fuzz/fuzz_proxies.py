"""Forwarded, X-Forwarded-For, -Proto and -Host, and the PROXY protocol.

The first byte selects one of them. The lines after it are headers, or the rest is a PROXY header and what follows it.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from tests.fuzz.harness import chunks, instrument, main, outcome

with instrument():
    from trio_ws.datastructures import Headers
    from trio_ws.exceptions import InvalidHeader
    from trio_ws.server.forwarded.headers import find_client
    from trio_ws.server.forwarded.peer import Peer
    from trio_ws.server.forwarded.proxy_protocol import InvalidProxyHeader, ProxyHeader, ProxyHeaderParser
    from trio_ws.server.forwarded.trust import Forwarding
    from trio_ws.server.origins import is_valid_host

FORWARDING = Forwarding(trusted_proxies=["10.0.0.0/8", "fd00::/8"])
PROXY = Peer(("10.0.0.1", 1234), is_trusted_proxy=True)
NAMES = {"f": "Forwarded", "a": "X-Forwarded-For", "p": "X-Forwarded-Proto", "h": "X-Forwarded-Host"}


def TestOneInput(data: bytes) -> None:
    if not data:
        return
    if data[:1] == b"H":
        check_headers(data[1:].decode("iso-8859-1"))
    else:
        check_proxy_protocol(data[1:], data[0])


def check_headers(text: str) -> None:
    """Check the headers of a request. Each line begins with a letter of NAMES."""
    pairs = [(NAMES[line[0]], line[1:]) for line in text.split("\n") if line[:1] in NAMES]
    headers = outcome(lambda: Headers(pairs), InvalidHeader)
    if not isinstance(headers, Headers):
        return
    client = outcome(lambda: find_client(PROXY, headers, FORWARDING), InvalidHeader)
    if isinstance(client, Peer):
        check_address(client.address)
        assert client.host is None or is_valid_host(client.host)
    untrusted = Peer(("203.0.113.1", 1234))
    assert find_client(untrusted, headers, FORWARDING) is untrusted


def check_address(address: Any) -> None:
    host, port = address
    ipaddress.ip_address(host)
    assert 0 <= port <= 0xFFFF


def check_proxy_protocol(data: bytes, size: int) -> None:
    def parse(pieces: list[bytes]) -> Any:
        parser = ProxyHeaderParser()
        for number, piece in enumerate(pieces):
            header = parser.feed(piece)
            if header is not None:
                return header, parser.unused + b"".join(pieces[number + 1 :])
        return None

    def parse_as_needed() -> Any:
        parser = ProxyHeaderParser()
        rest = data
        while rest:
            needed = parser.needed
            assert needed > 0
            header, rest = parser.feed(rest[:needed]), rest[needed:]
            if header is not None:
                # Nothing was read past the end of the header.
                assert parser.unused == b""
                return header, rest
        return None

    whole = outcome(lambda: parse(chunks(data, 0)), InvalidProxyHeader)
    assert outcome(lambda: parse(chunks(data, size)), InvalidProxyHeader) == whole
    assert outcome(lambda: parse(chunks(data, 1)), InvalidProxyHeader) == whole
    assert outcome(parse_as_needed, InvalidProxyHeader) == whole
    if isinstance(whole, tuple):
        header, unused = whole
        assert isinstance(header, ProxyHeader)
        assert data.endswith(unused)
        for address in (header.source, header.destination):
            if isinstance(address, tuple):
                check_address(address)


if __name__ == "__main__":
    main(TestOneInput)
