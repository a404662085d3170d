"""The other end of a connection, as far as it is known before the first request: ``Peer``."""

from __future__ import annotations

from typing import Any

import attrs

from ...connection.stream import StreamAdapter
from .proxy_protocol import ProxyHeader
from .trust import Forwarding

__all__ = ["Peer", "peer_of"]


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
