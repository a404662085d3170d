"""Requests and responses: whole input against chunks of it, and what was parsed against what it is serialized to.

The first two bytes are options, the rest is received.
"""

from __future__ import annotations

from typing import Any

from tests.fuzz.harness import chunks, instrument, main, outcome

with instrument():
    from trio_ws.exceptions import InvalidHandshake
    from trio_ws.http11 import Request, RequestParser, Response, ResponseParser
    from trio_ws.http11.body import decode_body
    from trio_ws.http11.parsers import TunnelParser

PARSERS: list[Any] = [RequestParser, ResponseParser, TunnelParser, ResponseParser]


def TestOneInput(data: bytes) -> None:
    if len(data) < 2:
        return
    options, size, data = data[0], data[1], data[2:]
    parser = PARSERS[options & 3]
    limits: dict[str, int] = {"max_head_size": 200, "max_headers": 5} if options & 4 else {}
    if limits and parser is not RequestParser:
        limits["max_body_size"] = 50
    whole = parse(parser, chunks(data, 0), limits, end=bool(options & 8))
    assert parse(parser, chunks(data, size), limits, end=bool(options & 8)) == whole
    assert parse(parser, chunks(data, 1), limits, end=bool(options & 8)) == whole
    if isinstance(whole, tuple):
        message, unused = whole
        assert data.endswith(unused)
        check_round_trip(message)


def parse(parser: Any, pieces: list[bytes], limits: dict[str, int], *, end: bool) -> Any:
    """Return the message and the bytes after it, the class of an error, or None if the message is not complete."""

    def run() -> Any:
        parsing = parser(**limits)
        for number, piece in enumerate(pieces):
            message = parsing.feed(piece)
            if message is not None:
                return message, parsing.unused + b"".join(pieces[number + 1 :])
        if end:
            message = parsing.feed(b"")
            if message is not None:
                return message, parsing.unused
        return None

    return outcome(run, InvalidHandshake)


def check_round_trip(message: Request | Response) -> None:
    """Serialize a message, and parse it again. Not all that can be received may also be sent."""
    serialized = outcome(message.serialize, InvalidHandshake)
    if not isinstance(serialized, bytes):
        return
    if isinstance(message, Request):
        if message.http_version == "1.1":
            assert RequestParser().feed(serialized) == message
        return
    parser = ResponseParser()
    again = parser.feed(serialized)
    if again is None and message.status_code >= 200:
        again = parser.feed(b"")
    if message.status_code == 101 or message.status_code >= 200:
        assert again is not None
        assert (again.status_code, again.body or b"") == (message.status_code, message.body or b"")
        decode_body(message)


if __name__ == "__main__":
    main(TestOneInput)
