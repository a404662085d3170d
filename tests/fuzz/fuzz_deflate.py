"""Compression: messages come out as they went in, and corrupt ones are refused within their limit.

The first two bytes are options, the rest is one message, or two at the first line break.
"""

from __future__ import annotations

from tests.fuzz.harness import chunks, instrument, main

with instrument():
    from trio_ws.exceptions import ProtocolError
    from trio_ws.protocol.deflate import Deflate, PerMessageDeflate


def TestOneInput(data: bytes) -> None:
    if len(data) < 2:
        return
    options, size, data = data[0], data[1], data[2:]
    check_round_trip(data, options, size)
    check_corrupt(data, options, size)


def make(options: int) -> PerMessageDeflate:
    bits, takeover = 8 + (options & 7), bool(options & 8)
    settings = Deflate(min_size=0, level=1 + (options >> 5))
    return PerMessageDeflate(
        settings, send_bits=bits, receive_bits=bits, send_takeover=takeover, receive_takeover=takeover
    )


def check_round_trip(data: bytes, options: int, size: int) -> None:
    sender, receiver = make(options), make(options)
    for message in data.split(b"\n", 1) * 2:
        parts = chunks(message, size) or [b""]
        received = b""
        for number, part in enumerate(parts):
            final = number == len(parts) - 1
            encoded, marked = sender.encode(part, first=not number, final=final)
            assert marked
            # Received in smaller pieces than it was sent.
            pieces = chunks(encoded, 7) or [b""]
            for piece in pieces[:-1]:
                received += receiver.decode(piece, final=False, limit=None)
            received += receiver.decode(pieces[-1], final=final, limit=None)
        assert received == message
        if options & 16:
            sender.rest()
            receiver.rest()


def check_corrupt(data: bytes, options: int, size: int) -> None:
    def decode(pieces: list[bytes], limit: int | None) -> bytes | None:
        receiver = make(options)
        received = b""
        try:
            for number, piece in enumerate(pieces):
                left = None if limit is None else limit - len(received)
                received += receiver.decode(piece, final=number == len(pieces) - 1, limit=left)
                if limit is not None and len(received) > limit:
                    assert len(received) == limit + 1
                    return received
        except ProtocolError:
            return None
        return received

    whole = decode([data], None)
    assert decode(chunks(data, size) or [b""], None) == whole
    if whole is not None:
        limited = decode([data], 100)
        assert limited == whole[:101]


if __name__ == "__main__":
    main(TestOneInput)
