"""The option ``http2``, and how both ends of a connection agree on HTTP/2. These functions do not require h2.

With TLS, the client offers ``h2`` and ``http/1.1``, and the server chooses one (ALPN, RFC 7301). Without TLS, HTTP/2
begins with a preface that no request of HTTP/1.1 begins with (RFC 9113, section 3.4); the client must know in advance
that the server understands it.
"""

from __future__ import annotations

import importlib
import ssl
from typing import Literal, TypeAlias

import trio

from ..connection.stream import StreamAdapter, stream_broken

__all__ = [
    "PRIOR_KNOWLEDGE",
    "HTTP2Option",
    "check_http2",
    "detect_http2",
    "has_chosen_http2",
    "offer",
]

#: The type of the option ``http2``.
HTTP2Option: TypeAlias = Literal[True, False, "prior-knowledge"]

#: The value of ``http2`` for connections without TLS.
PRIOR_KNOWLEDGE: Literal["prior-knowledge"] = "prior-knowledge"

#: The first bytes of every client.
PREFACE: bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def check_http2(value: object) -> None:
    """Check the option ``http2``, and that h2 is installed if it is used.

    Args:
        value: The value of the option.

    Raises:
        TypeError: If the value is neither a bool nor a str.
        ValueError: If the value is another str.
        ImportError: If it asks for HTTP/2 and h2 is not installed.
    """
    if not isinstance(value, (bool, str)):
        raise TypeError(f"http2 must be a bool or {PRIOR_KNOWLEDGE!r}, not {value!r}")
    if isinstance(value, str) and value != PRIOR_KNOWLEDGE:
        raise ValueError(f"http2 must be a bool or {PRIOR_KNOWLEDGE!r}, not {value!r}")
    if value:
        try:
            importlib.import_module("h2.connection")
        except ImportError as exc:
            raise ImportError(f"http2={value!r} requires h2: pip install trio-ws[http2]") from exc


def offer(context: ssl.SSLContext) -> None:
    """Add HTTP/2 to the protocols that a server offers in TLS handshakes with this context."""
    context.set_alpn_protocols(["h2", "http/1.1"])


def has_chosen_http2(stream: StreamAdapter) -> bool:
    """Whether both ends have agreed on HTTP/2 in the TLS handshake."""
    tls_object = stream.tls_object
    return tls_object is not None and tls_object.selected_alpn_protocol() == "h2"


async def detect_http2(stream: StreamAdapter, http2: HTTP2Option) -> tuple[bool, bytes]:
    """Find out, as the server, whether a client speaks HTTP/2.

    If this is cancelled, some of the first bytes may be lost.

    Args:
        stream: The stream.
        http2: The option of the server.

    Returns:
        Whether it does, and the bytes that were read from the stream.

    Raises:
        StreamBroken: If the connection is lost.
    """
    if stream.tls_object is not None:
        if isinstance(stream.tls_object, trio.SSLStream):  # of a listener that does TLS itself
            try:
                await stream.tls_object.do_handshake()
            except trio.BrokenResourceError as exc:
                raise stream_broken(exc) from exc
        return has_chosen_http2(stream), b""
    data = b""
    while http2 == PRIOR_KNOWLEDGE and len(data) < len(PREFACE) and PREFACE.startswith(data):
        portion = await stream.receive()
        if not portion:
            break
        data += portion
    return data.startswith(PREFACE), data
