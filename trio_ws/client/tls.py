"""The client side of the TLS handshake: ``start_tls``."""

from __future__ import annotations

import ssl

import trio

from ..connection.stream import StreamAdapter, StreamBroken
from .explain import explain

__all__ = ["start_tls"]


async def start_tls(stream: trio.abc.Stream, context: ssl.SSLContext, name: str) -> trio.SSLStream[trio.abc.Stream]:
    """Do a TLS handshake as the client. If it fails or is cancelled, the stream is closed.

    Args:
        stream: The stream below TLS, which may itself be a TLS stream.
        context: The TLS context.
        name: The name that the certificate must be valid for.

    Returns:
        The TLS stream.

    Raises:
        StreamBroken: If the handshake fails.
    """
    try:
        # https_compatible=True accepts an end of the stream without close_notify. This is safe because frames and the
        # closing handshake show whether anything was cut off.
        tls = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
        await tls.do_handshake()
    except trio.BrokenResourceError as exc:
        await StreamAdapter(stream).aclose(0)
        cause = exc.__cause__ or exc
        raise StreamBroken(f"TLS: {explain(cause)}") from cause
    except BaseException:  # Cancellation must not leave the stream open either.
        await StreamAdapter(stream).aclose(0)
        raise
    return tls
