"""The client side of the TLS handshake: ``start_tls``."""

from __future__ import annotations

import ssl

import trio

from ..connection import tls
from ..connection.stream import StreamAdapter, StreamBroken
from .explain import explain

__all__ = ["start_tls"]


async def start_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, name: str, *, nestable: bool = False
) -> StreamAdapter:
    """Do a TLS handshake as the client. If it fails or is cancelled, the stream is closed.

    Args:
        stream: The stream below TLS, which may itself be a TLS stream.
        context: The TLS context.
        name: The name that the certificate must be valid for.
        nestable: Whether the result must be around a Trio stream, for TLS inside TLS.

    Returns:
        The TLS stream.

    Raises:
        StreamBroken: If the handshake fails.
    """
    adapter = StreamAdapter(stream)
    try:
        return await tls.start_tls(adapter, context, server_hostname=name, nestable=nestable)
    except StreamBroken as exc:
        await adapter.aclose(0)
        cause = exc.__cause__
        raise StreamBroken(f"TLS: {explain(exc)}") from (cause and cause.__cause__) or cause
    except BaseException:  # Cancellation must not leave the stream open either.
        await adapter.aclose(0)
        raise
