"""The frames of a request or a response (RFC 9113, section 8.1): ``MessageRules``.

::

    headers  DATA*  [trailers]

A message of other frames, or with another length than its Content-Length header says, is malformed: that ends its
stream. Malformed headers are found later, by :mod:`~trio_ws.http2.headers`, so that a request can be answered.
"""

from __future__ import annotations

from h2.errors import ErrorCodes

from ..exceptions import InvalidHandshake
from .blocks import HeaderBlock
from .frames import StreamViolation
from .headers import HeaderList, check_fields, expect_length

__all__ = ["MessageRules"]


class MessageRules:
    """The messages that are being received. Every method raises :exc:`StreamViolation` if one is malformed.

    WebSockets are no messages; :meth:`forget` removes them.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        # The streams of which the headers have arrived, but not the end; with the number of bytes that are to come, or
        # None if the headers do not say it.
        self._rest: dict[int, int | None] = {}

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._rest

    def check_headers(self, block: HeaderBlock) -> None:
        """Check headers. If they are not the first ones of a message, they must be its trailers."""
        if block.stream_id in self._rest:
            if not block.ends:
                raise _malformed(block.stream_id, "trailers must be the end of a message")
            _check_fields(block.stream_id, block.headers)

    def check_interim(self, block: HeaderBlock) -> None:
        """Check an interim response."""
        if block.ends:
            raise _malformed(block.stream_id, "an interim response must not be the end of a message")
        fields = [field for field in block.headers if field[0] != b":status"]
        if len(fields) != len(block.headers) - 1 or (b":status", b"101") in block.headers:
            # RFC 9113, sections 8.3.2 and 8.6.
            raise _malformed(block.stream_id, "a response must have one status, which is not 101")
        _check_fields(block.stream_id, fields)

    def begin(self, stream_id: int, headers: HeaderList) -> None:
        """Record the headers of a message."""
        self._rest[stream_id] = expect_length(headers)

    def receive_data(self, stream_id: int, size: int) -> None:
        """Count the bytes of a DATA frame."""
        rest = self._rest.get(stream_id)
        if rest is not None:
            self._rest[stream_id] = rest = rest - size
            if rest < 0:
                raise _malformed(stream_id, "a message is longer than its Content-Length header says")

    def end(self, stream_id: int) -> None:
        """Record the end of a message."""
        if self._rest.pop(stream_id, None):
            raise _malformed(stream_id, "a message is shorter than its Content-Length header says")

    def forget(self, stream_id: int) -> None:
        """Forget the message of a stream, if there is one."""
        self._rest.pop(stream_id, None)


def _check_fields(stream_id: int, headers: HeaderList) -> None:
    try:
        check_fields(headers)
    except InvalidHandshake as exc:
        raise _malformed(stream_id, str(exc)) from exc


def _malformed(stream_id: int, reason: str) -> StreamViolation:
    return StreamViolation(stream_id, ErrorCodes.PROTOCOL_ERROR, reason)
