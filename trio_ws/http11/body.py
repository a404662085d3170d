"""The bodies of responses that are compressed."""

from __future__ import annotations

import zlib

import attrs

from .messages import SPACE, Response

__all__ = ["MAX_BODY_SIZE", "decode_body"]

#: Most bytes in the body of a response.
MAX_BODY_SIZE: int = 1024 * 1024

# How many bytes of a body are decompressed at a time. Where one is wrong, nothing comes out of those before it.
_PIECE = 4 * 1024


def decode_body(response: Response) -> Response:
    """Return a response with its body decompressed, as far as it has come, if it is compressed with gzip or deflate.

    At most as much comes out as a body may have. Other bodies stay as they are, and so do the headers.
    """
    codings = response.headers.get_all("Content-Encoding")
    if not response.body or len(codings) != 1:
        return response
    # It sees by itself which of the two formats it is. What is called deflate has one, and often comes without.
    for wbits in {"gzip": [47], "x-gzip": [47], "deflate": [47, -15]}.get(codings[0].strip(SPACE).lower(), []):
        if body := _decompress(response.body, wbits):
            return attrs.evolve(response, body=body)
    return response


def _decompress(data: bytes, wbits: int) -> bytes:
    """Return what can be decompressed, which may be nothing."""
    body = bytearray()
    decompressor = zlib.decompressobj(wbits)
    position = 0
    while position < len(data) and len(body) < MAX_BODY_SIZE:
        if decompressor.eof:
            # What gzip makes may be several streams, one after the other (RFC 1952, section 2.2).
            decompressor = zlib.decompressobj(wbits)
        piece = data[position : position + _PIECE]
        try:
            body += decompressor.decompress(piece, MAX_BODY_SIZE - len(body))
        except zlib.error:
            break
        position += len(piece) - len(decompressor.unused_data)
    return bytes(body)
