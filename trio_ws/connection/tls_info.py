"""The parameters of a TLS connection: ``TLSInfo``."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from ..exceptions.shown import show_fields

__all__ = ["TLSInfo", "describe_tls"]


@attrs.frozen(kw_only=True)
class TLSInfo:
    """The parameters of a TLS connection, as they were after the TLS handshake.

    Attributes:
        version: The version of TLS, such as ``"TLSv1.3"``.
        cipher: The name of the cipher suite, such as ``"TLS_AES_256_GCM_SHA384"``.
        alpn_protocol: The protocol that was selected by ALPN (RFC 7301); None if there is none.
        peer_certificate: The certificate of the peer, as :meth:`ssl.SSLSocket.getpeercert` returns it; None if the peer
            has sent none. It is empty if it was not verified, because the ``verify_mode`` of the context is
            :data:`ssl.CERT_NONE`.
    """

    version: str
    cipher: str
    alpn_protocol: str | None = None
    # A dict has no hash.
    peer_certificate: Mapping[str, Any] | None = attrs.field(default=None, hash=False)

    __repr__ = show_fields


def describe_tls(tls_object: Any) -> TLSInfo | None:
    """Return the parameters of a TLS connection; None if its handshake is not done, or it has failed.

    Args:
        tls_object: An :class:`ssl.SSLObject` or a :class:`trio.SSLStream`.
    """
    try:
        version, cipher = tls_object.version(), tls_object.cipher()
        if version is None or cipher is None:
            return None
        return TLSInfo(
            version=version,
            cipher=cipher[0],
            alpn_protocol=tls_object.selected_alpn_protocol(),
            peer_certificate=tls_object.getpeercert(),
        )
    except (trio.NeedHandshakeError, ssl.SSLError, ValueError):  # ValueError: getpeercert() before the handshake
        return None
