"""The TLS handshake of a client."""

from __future__ import annotations

import ssl

import trio

from ..connection.stream import StreamAdapter, StreamBroken
from .explain import explain

__all__ = ["start_tls"]


async def start_tls(stream: trio.abc.Stream, context: ssl.SSLContext, name: str) -> trio.SSLStream[trio.abc.Stream]:
    """Do the handshake of TLS, as a client. If it fails, or is cancelled, the stream is closed.

    Args:
        stream: The stream; also one with TLS.
        context: How to do it.
        name: The name that the certificate is checked against.

    Returns:
        The stream inside TLS.

    Raises:
        StreamBroken: if it fails.
    """
    try:
        # An end without the goodbye of TLS cannot deceive us: frames and the closing handshake tell whether all has
        # come.
        tls = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
        await tls.do_handshake()
    except trio.BrokenResourceError as exc:
        await StreamAdapter(stream).aclose(0)
        cause = exc.__cause__ or exc
        raise StreamBroken(f"TLS: {explain(cause)}") from cause
    except BaseException:  # cancellation too: the stream is not left open
        await StreamAdapter(stream).aclose(0)
        raise
    return tls
