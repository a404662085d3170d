"""The client side of TLS: ``start_tls``, ``load_default_context``."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Sequence

import trio

from ..connection.stream import StreamAdapter, StreamBroken
from .explain import explain

__all__ = ["load_default_context", "start_tls"]


#: Default contexts by the environment variables that they depend on.
_contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}
_lock = threading.Lock()


async def load_default_context() -> ssl.SSLContext:
    """Return the default TLS context, which all connections share.

    The first call loads the certificates of the system, which takes tens of milliseconds, in a thread.
    """
    # The variables name other certificates, and a file for the keys of the connections.
    environment = tuple(map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")))
    context = _contexts.get(environment)
    if context is None:
        context = await trio.to_thread.run_sync(_create_context, environment)
    return context


def _create_context(environment: tuple[str | None, ...]) -> ssl.SSLContext:
    with _lock:
        if environment not in _contexts:
            _contexts[environment] = ssl.create_default_context()
        return _contexts[environment]


async def start_tls(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    name: str,
    *,
    nestable: bool = False,
    alpn: Sequence[str] | None = None,
) -> StreamAdapter:
    """Do a TLS handshake as the client. If it fails or is cancelled, the stream is closed.

    Args:
        stream: The stream below TLS, which may itself be a TLS stream.
        context: The TLS context.
        name: The name that the certificate must be valid for.
        nestable: Whether the result must be around a Trio stream, for TLS inside TLS.
        alpn: The protocols to offer to the server; None to leave that to the context.

    Returns:
        The TLS stream.

    Raises:
        StreamBroken: If the handshake fails.
    """
    from ..connection import tls  # needed with TLS only

    adapter = StreamAdapter(stream)
    try:
        return await tls.start_tls(adapter, context, server_hostname=name, nestable=nestable, alpn=alpn)
    except StreamBroken as exc:
        await adapter.aclose(0)
        cause = exc.__cause__
        raise StreamBroken(f"TLS: {explain(exc)}") from (cause and cause.__cause__) or cause
    except BaseException:  # Cancellation must not leave the stream open either.
        await adapter.aclose(0)
        raise
