"""Frames: the compiled functions against those in Python, and whole input against chunks of it.

The first two bytes are options, the rest is received.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.fuzz.harness import chunks, decoded_in_python, instrument, main

with instrument():
    from trio_ws.exceptions import ProtocolError
    from trio_ws.protocol import Protocol, Role, hot, pure
    from trio_ws.protocol.codec import RSV1, FrameDecoder

#: The most bytes of a message in half of the runs.
LIMIT = 1000


class Reverse:
    """An extension that reverses the bytes of a part of a message, so that every part of it is transformed once."""

    rsv = RSV1

    def encode(self, data: bytes, *, first: bool, final: bool, cache: object = None) -> tuple[bytes, bool]:
        return data[::-1], True

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        return bytes(byte ^ 0xFF for byte in data)

    def rest(self) -> None:
        pass


def TestOneInput(data: bytes) -> None:
    if len(data) < 2:
        return
    options, size, data = data[0], data[1], data[2:]
    role = Role.SERVER if options & 1 else Role.CLIENT
    limit = LIMIT if options & 2 else None
    compare_functions(data, options, size, limit)
    compare_decoders(data, role, RSV1 if options & 4 else 0, size)
    compare_protocols(data, role, limit, transformed=bool(options & 4), size=size)


def compare_functions(data: bytes, options: int, position: int, limit: int | None) -> None:
    """Compare the functions that process every byte, with the same arguments."""
    masked = bool(options & 1)
    allowed = bytes(byte & 1 for byte in (data * 256)[:256].ljust(256, b"\1"))
    compiled: Any = hot
    assert compiled.take_messages(data, position, masked, limit, 5) == pure.take_messages(
        data, position, masked, limit, 5
    )
    assert compiled.take_small_frames(data, position, masked, allowed, 5) == pure.take_small_frames(
        data, position, masked, allowed, 5
    )
    key, payload = data[:4].ljust(4, b"\0"), data[4:]
    assert compiled.apply_mask(payload, key, position) == pure.apply_mask(payload, key, position)
    frames = [(first_byte, payload[:first_byte], True) for first_byte in payload[:8]]
    keys = (key * 8)[: 4 * len(frames)] if masked else None
    assert compiled.pack(frames, keys) == pure.pack(frames, keys)
    ours, theirs = compiled.Payload(len(payload)), pure.Payload(len(payload))
    for chunk in chunks(payload, position):
        ours.add(chunk, key if masked else b"")
        theirs.add(chunk, key if masked else b"")
        assert ours.size == theirs.size
    assert ours.take() == theirs.take()


def compare_decoders(data: bytes, role: Role, rsv: int, size: int) -> None:
    """Compare the frames that a decoder finds in whole input and in chunks."""

    def decode(pieces: list[bytes], assemble: bool) -> tuple[list[tuple[int, bytes]], str]:
        decoder = FrameDecoder(role, rsv, assemble=assemble)
        frames: list[tuple[int, bytes]] = []
        payload = b""
        try:
            for piece in pieces:
                decoder.feed(piece)
                while (found := decoder.next_piece()) is not None:
                    first_byte, part, remaining = found
                    payload += part
                    if not remaining:
                        frames.append((first_byte, payload))
                        payload = b""
        except ProtocolError as exc:
            return frames, str(exc)
        return frames, ""

    whole = decode(chunks(data, 0), False)
    assert decode(chunks(data, size), True) == whole
    assert decode(chunks(data, 1), False) == whole
    with decoded_in_python():
        assert decode(chunks(data, 0), True) == whole


def compare_protocols(data: bytes, role: Role, limit: int | None, *, transformed: bool, size: int) -> None:
    """Compare the events of a connection, for whole input and chunks, compiled and not, observed and not."""

    def receive(pieces: list[bytes], on_frame: Callable[..., None] | None = None) -> list[object]:
        extensions = [Reverse()] if transformed else []
        protocol = Protocol(
            role,
            random=bytes,
            max_message_size=limit,
            max_fragments=50,
            extensions=extensions,
            on_frame=on_frame,
        )
        events: list[object] = []
        for piece in pieces:
            protocol.receive(piece)
            while (event := protocol.next_event()) is not None:
                events.append((type(event), str(event)) if isinstance(event, Exception) else event)
        protocol.receive_eof()
        return events

    whole = receive(chunks(data, 0))
    assert receive(chunks(data, size)) == whole
    assert receive(chunks(data, 1)) == whole
    assert receive(chunks(data, size), lambda *_: None) == whole
    with decoded_in_python():
        assert receive(chunks(data, 0)) == whole
        assert receive(chunks(data, size)) == whole


if __name__ == "__main__":
    main(TestOneInput)
