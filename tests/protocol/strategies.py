"""Helpers for the tests of the protocol: hand-made frames, invalid UTF-8, small extensions, compression."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from trio_ws.exceptions import MessageTooBig, NegotiationError, ProtocolError
from trio_ws.protocol import Event, Protocol, Role
from trio_ws.protocol.codec import RSV2, RSV3
from trio_ws.protocol.deflate import Deflate, DeflateClient, DeflateServer, PerMessageDeflate, transform
from trio_ws.protocol.extensions import EncodingCache, Extension, Params

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
ROLES = [Role.CLIENT, Role.SERVER]
OTHER = {Role.CLIENT: Role.SERVER, Role.SERVER: Role.CLIENT}
KEY = b"\x37\xfa\x21\x3d"


def xor(data: bytes, key: bytes) -> bytes:
    """Mask as described in the RFC: octet i of the payload with octet i modulo 4 of the key."""
    keys = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(data), "big")


def frame_to(
    role: Role,
    first_byte: int,
    payload: bytes = b"",
    *,
    width: int | None = None,
    size: int | None = None,
    mask: bool | None = None,
    key: bytes = KEY,
) -> bytes:
    """Return a frame as the peer of ``role`` sends it, or a deliberately invalid one.

    Args:
        width: How many bytes an extended length has: 0, 2 or 8.
        size: The length in the header, when it is not that of the payload.
        mask: Whether it is masked, when it is not as it must be.
    """
    size = len(payload) if size is None else size
    mask = role is Role.SERVER if mask is None else mask
    if width is None:
        width = 0 if size < 126 else 2 if size < 0x10000 else 8
    seven_bits = {0: size, 2: 126, 8: 127}[width]
    header = bytes([first_byte, seven_bits | (0x80 if mask else 0)]) + (size.to_bytes(width, "big") if width else b"")
    return header + key + xor(payload, key) if mask else header + payload


def from_server(*chunks: bytes) -> tuple[int, bytes]:
    """Return the first byte of a frame that a server sends, and its payload."""
    data = b"".join(chunks)
    return data[0], data[{126: 4, 127: 10}.get(data[1], 2) :]


def cut(data: bytes, positions: Iterable[int]) -> list[bytes]:
    """Return the pieces of ``data`` between these positions."""
    borders = [0, *sorted(position for position in positions if 0 < position < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(borders)]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def no_random(size: int) -> bytes:
    raise AssertionError("a server masks nothing")


class Counting:
    """A deterministic replacement for a source of randomness, which counts its calls."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, size: int) -> bytes:
        self.sizes.append(size)
        return bytes((len(self.sizes) + i) % 256 for i in range(size))


def protocol(role: Role, *, max_message_size: int | None = None, extensions: Sequence[Extension] = ()) -> Protocol:
    random = Counting() if role is Role.CLIENT else no_random
    return Protocol(role, random=random, max_message_size=max_message_size, extensions=extensions)


def drain(protocol: Protocol) -> list[Event]:
    events = []
    while (event := protocol.next_event()) is not None:
        events.append(event)
    return events


def comparable(event: Event) -> Any:
    """Return a value to compare events with, because exceptions compare by identity."""
    if isinstance(event, ProtocolError):
        return type(event), event.code, vars(event)
    return type(event), event


def events_of(
    role: Role,
    pieces: Iterable[bytes],
    *,
    max_message_size: int | None = None,
    extensions: Sequence[Extension] = (),
) -> list[Any]:
    """Return the events of a new Protocol that is fed these pieces, ready to compare."""
    receiver = protocol(role, max_message_size=max_message_size, extensions=extensions)
    for piece in pieces:
        receiver.receive(piece)
    return [comparable(event) for event in drain(receiver)]


# -- UTF-8 -----------------------------------------------------------------------------------------------------------

VALID_TEXTS = [
    "",
    "\x00",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    # The first and the last character of each length, and those next to the surrogates.
    "\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",
    # Noncharacters and a byte order mark are valid text.
    "\ufffe\uffff\U0001fffe\U0010fffe",
    "\ufeffmark",
]

#: Invalid UTF-8, and the index of the first byte that makes it invalid (RFC 3629, sections 3 and 4).
NOT_UTF8 = [
    (b"\x80", 0),
    (b"\xbf", 0),
    # Overlong: in two, three and four bytes.
    (b"\xc0\xaf", 0),
    (b"\xc1\xbf", 0),
    (b"\xe0\x80\xaf", 1),
    (b"\xe0\x9f\xbf", 1),
    (b"\xf0\x80\x80\xaf", 1),
    (b"\xf0\x8f\xbf\xbf", 1),
    # Surrogates, alone and in pairs.
    (b"\xed\xa0", 1),
    (b"\xed\xa0\x80", 1),
    (b"\xed\xaf\xbf", 1),
    (b"\xed\xbf\xbf", 1),
    (b"\xed\xa0\x80\xed\xb0\x80", 1),
    # Past U+10FFFF, and bytes that never occur.
    (b"\xf4\x90\x80\x80", 1),
    (b"\xf5\x80\x80\x80", 0),
    (b"\xf8\x88\x80\x80\x80", 0),
    (b"\xfc\x84\x80\x80\x80\x80", 0),
    (b"\xfe", 0),
    (b"\xff", 0),
    # A character interrupted by another one.
    (b"\xc2A", 1),
    (b"\xe2A", 1),
    (b"\xe2\x82A", 2),
    (b"\xf0A", 1),
    (b"\xf0\x9fA", 2),
    (b"\xf0\x9f\x98A", 3),
    (b"\xf0\x9f\x98\xc3\xa4", 3),
]

#: Incomplete characters.
BROKEN_OFF = [b"\xc2", b"\xe2", b"\xe2\x82", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98"]


# -- Extensions ------------------------------------------------------------------------------------------------------


class Reverse:
    """An extension in use that reverses messages. It does not mark messages of one byte."""

    rsv = RSV2

    def __init__(self) -> None:
        self._sending: list[bytes] = []
        self._receiving: list[bytes] = []
        self._received = 0

    def encode(
        self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
    ) -> tuple[bytes, bool]:
        if first and final and len(data) == 1:
            return data, False
        if first:
            self._sending = []
        self._sending.insert(0, data[::-1])
        return (b"".join(self._sending) if final else b""), True

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        self._receiving.insert(0, data[::-1])
        self._received += len(data)
        if limit is not None and self._received > limit:
            raise MessageTooBig(self._received, limit)
        if not final:
            return b""
        parts, self._receiving, self._received = self._receiving, [], 0
        return b"".join(parts)

    def rest(self) -> None:
        pass


class Repeat:
    """An extension in use that repeats every byte on decoding, like a decompression bomb."""

    rsv = RSV3

    def __init__(self, times: int) -> None:
        self.times = times
        self.limits: list[int | None] = []
        self.rests = 0

    def encode(
        self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
    ) -> tuple[bytes, bool]:
        return data[:: self.times], True

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        self.limits.append(limit)
        if limit is not None and len(data) * self.times > limit:
            raise MessageTooBig(len(data) * self.times, limit)
        return b"".join(bytes([octet]) * self.times for octet in data)

    def rest(self) -> None:
        self.rests += 1


class OfferReverse:
    """Offers :class:`Reverse`, and checks the answer."""

    name = "x-reverse"

    def __init__(self, *offers: Params) -> None:
        self._offers = offers or ((),)

    def offers(self) -> Sequence[Params]:
        return self._offers

    def accept(self, params: Params) -> Extension:
        if params not in self._offers:
            raise NegotiationError(f"{params!r} was not offered")
        return Reverse()


class AnswerReverse:
    """Accepts :class:`Reverse` with exactly these parameters."""

    name = "x-reverse"

    def __init__(self, params: Params = ()) -> None:
        self._params = params

    def answer(self, params: Params) -> tuple[Params, Extension] | None:
        return (params, Reverse()) if params == self._params else None


class Repeats:
    """Offers and accepts :class:`Repeat` with ``times=N``."""

    name = "x-repeat"

    def __init__(self, times: int = 2, rsv: int = RSV3) -> None:
        self._times = times
        self._rsv = rsv

    def offers(self) -> Sequence[Params]:
        return [(("times", str(self._times)),)]

    def accept(self, params: Params) -> Extension:
        extension = Repeat(int(dict(params)["times"] or 0))
        extension.rsv = self._rsv
        return extension

    def answer(self, params: Params) -> tuple[Params, Extension] | None:
        return params, self.accept(params)


# -- Hypothesis ------------------------------------------------------------------------------------------------------

deterministic = settings(derandomize=True)

masking_keys = st.binary(min_size=4, max_size=4)

#: Payload sizes at which the encoding of the length, or the way of storing the payload, changes.
BOUNDARIES = [0, 1, 2, 125, 126, 127, 128, 4095, 4096, 65535, 65536]

payloads = st.one_of(st.binary(max_size=200), st.sampled_from([b"\xa5" * size for size in BOUNDARIES]))
texts = st.one_of(st.text(max_size=60), st.sampled_from(VALID_TEXTS), st.sampled_from(["\u20ac" * 1366, "é" * 40_000]))
control_payloads = st.one_of(st.binary(max_size=12), st.sampled_from([b"p" * 124, b"p" * 125]))
roles = st.sampled_from(ROLES)
positions = st.lists(st.integers(min_value=0, max_value=400), max_size=8)


def split(data: bytes, positions: Iterable[int]) -> Iterator[tuple[bytes, bool]]:
    """Yield the fragments of a message and whether each is the last. Some may be empty."""
    borders = [0, *sorted(min(position, len(data)) for position in positions), len(data)]
    for i, (start, end) in enumerate(pairwise(borders)):
        yield data[start:end], i == len(borders) - 2


# -- Compression -----------------------------------------------------------------------------------------------------

BACK_ENDS = ["zlib", "zlib-ng"]


def back_end(name: str) -> Any:
    """Return a compression library. Skip the test if zlib-ng is not installed."""
    if name == "zlib":
        return zlib
    # zlib-ng is optional, and the tests on one Python run without it; see noxfile.py.
    return pytest.importorskip("zlib_ng.zlib_ng", reason="zlib-ng is not installed")


@contextmanager
def compressing_with(module: Any) -> Iterator[None]:
    """Make transform.py use this library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transform, "zlib", module)
        yield


def agree(client: Deflate, server: Deflate) -> tuple[PerMessageDeflate, PerMessageDeflate]:
    """Negotiate these settings, and return the transforms of client and server."""
    (offer,) = DeflateClient(client).offers()
    answer = DeflateServer(server).answer(offer)
    assert answer is not None
    params, of_server = answer
    return DeflateClient(client).accept(params), of_server


def noise(seed: int, size: int) -> bytes:
    """Return incompressible bytes."""
    return random.Random(seed).randbytes(size)


window_bits = st.none() | st.integers(min_value=8, max_value=15)
deflates = st.builds(
    Deflate,
    level=st.sampled_from([1, 2, 4, 6, 9]),
    mem_level=st.integers(min_value=1, max_value=9),
    server_max_window_bits=window_bits,
    client_max_window_bits=window_bits,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    min_size=st.sampled_from([0, 1, 64, 1000]),
)

_WORDS = [b'{"id": ', b"null, ", b'"price": 3.14', b"}\r\n", b"\x00" * 40, bytes(range(256)), noise(1, 100)]
#: Messages of all sizes, compressible or not.
compressible = st.one_of(
    st.lists(st.sampled_from(_WORDS), max_size=100).map(b"".join),
    st.builds(bytes.__mul__, st.binary(min_size=1, max_size=30), st.sampled_from([1, 10, 1000])),
    st.builds(noise, st.integers(0, 9), st.sampled_from([100, 5000, 40_000])),
    payloads,
)
