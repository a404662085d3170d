"""The client of a connection, before its first request: ``Peer``."""

from __future__ import annotations

from typing import Any

import attrs

from ...connection.stream import StreamAdapter
from ...exceptions.shown import show_fields
from .proxy_protocol import ProxyHeader
from .trust import Forwarding

__all__ = ["Peer", "identify_peer", "show_address"]


@attrs.frozen
class Peer:
    """The client of a connection, as far as it is known.

    Attributes:
        address: The address of the client; None without a socket.
        proxy_address: The address of the proxy that has named the client; None if there is none.
        secure: Whether the client uses TLS.
        is_trusted_proxy: Whether the connection comes from a trusted proxy, whose HTTP headers can name the client.
        host: The host that the client has asked for, with the port if there is one, if a trusted proxy names it.
    """

    address: Any
    proxy_address: Any = None
    secure: bool = False
    is_trusted_proxy: bool = False
    host: str | None = None

    __repr__ = show_fields


def identify_peer(transport: StreamAdapter, forwarding: Forwarding, header: ProxyHeader | None = None) -> Peer:
    """Return the client of a connection, as far as it is known before the first request.

    Args:
        transport: The stream.
        forwarding: The trusted proxies.
        header: The PROXY header that the connection began with, if any.
    """
    address = transport.remote_address
    if header is None:
        return Peer(address, secure=(transport.tls_object is not None), is_trusted_proxy=forwarding.trusts(address))
    # Without a source, the client is unknown and must not inherit the proxy's trust. Nor does a path make a client
    # trusted as "unix": it is a path on the proxy's machine.
    source = header.source
    return Peer(
        address if source is None else source,
        proxy_address=address,
        secure=header.secure or (transport.tls_object is not None),
        is_trusted_proxy=isinstance(source, tuple) and forwarding.trusts(source),
    )


def show_address(address: Any) -> str:
    """Return a socket address as text for a log line.

    A client chooses the path of its Unix socket, so control characters in it are escaped.
    """
    text = str(address)
    return text if text.isprintable() else repr(text)
