"""Decompression of response bodies."""

from __future__ import annotations

import zlib

import attrs

from .messages import SPACE, Response

__all__ = ["MAX_BODY_SIZE", "decode_body"]

#: Maximum size of the body of a response, in bytes.
MAX_BODY_SIZE: int = 1024 * 1024

# The first bytes of the gzip format (RFC 1952, section 2.3.1).
_GZIP = b"\x1f\x8b"

# Number of bytes to decompress at a time. A piece with an error in it yields no output at all, so pieces are small.
_PIECE = 4 * 1024


def decode_body(response: Response) -> Response:
    """Return the response with its body decompressed if it was compressed with gzip or deflate.

    A truncated or corrupt body is decompressed as far as possible, up to ``MAX_BODY_SIZE`` bytes. Bodies with other
    codings are returned unchanged, and so are the headers.
    """
    codings = response.headers.get_all("Content-Encoding")
    if not response.body or len(codings) != 1:
        return response
    # 47 makes zlib detect gzip and zlib formats. The "deflate" coding is the zlib format, but many servers send raw
    # DEFLATE data instead, hence -15.
    for wbits in {"gzip": [47], "x-gzip": [47], "deflate": [47, -15]}.get(codings[0].strip(SPACE).lower(), []):
        if body := _decompress(response.body, wbits):
            return attrs.evolve(response, body=body)
    return response


def _decompress(data: bytes, wbits: int) -> bytes:
    """Decompress as much as possible, perhaps nothing."""
    body = bytearray()
    decompressor = zlib.decompressobj(wbits)
    position = 0
    while position < len(data) and len(body) < MAX_BODY_SIZE:
        if decompressor.eof:
            if not data.startswith(_GZIP):
                break
            # A gzip file may consist of several members (RFC 1952, section 2.2).
            decompressor = zlib.decompressobj(wbits)
        piece = data[position : position + _PIECE]
        try:
            body += decompressor.decompress(piece, MAX_BODY_SIZE - len(body))
        except zlib.error:
            break
        position += len(piece) - len(decompressor.unused_data)
    return bytes(body)
