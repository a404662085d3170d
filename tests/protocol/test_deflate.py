from __future__ import annotations

import functools
import importlib.util
import itertools
import sys
import tracemalloc
import types
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_ws.exceptions import InvalidData, InvalidHeader, MessageTooBig, NegotiationError, ProtocolError
from trio_ws.frames import Frame, Opcode
from trio_ws.http11 import Response
from trio_ws.protocol import Event, LastPart, Protocol, Role
from trio_ws.protocol.codec import RSV1, RSV2
from trio_ws.protocol.deflate import Deflate, DeflateClient, DeflateServer, PerMessageDeflate
from trio_ws.protocol.extensions import ClientExtension, EncodingCache, Extension, ServerExtension
from trio_ws.protocol.handshake import accept, build_request, check_response
from trio_ws.uri import parse_uri

from .strategies import (
    BACK_ENDS,
    BINARY,
    CONT,
    FIN,
    PING,
    PONG,
    ROLES,
    TEXT,
    Counting,
    agree,
    back_end,
    comparable,
    compressible,
    compressing_with,
    cut,
    deflates,
    deterministic,
    drain,
    events_of,
    frame_to,
    from_server,
    noise,
    one_by_one,
    positions,
    protocol,
    split,
)

# Each test runs with each compression library. The fixture needs no reset between two examples.
pytestmark = pytest.mark.usefixtures("zlib_module")
deterministic = settings(
    deterministic, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

# mypy checks these lines.
_extension: type[Extension] = PerMessageDeflate
_client: ClientExtension = DeflateClient(Deflate())
_server: ServerExtension = DeflateServer(Deflate())

EXTENSIONS = "Sec-WebSocket-Extensions"
TAIL = b"\x00\x00\xff\xff"
EVERYTHING = Deflate(min_size=0)


# -- Settings --------------------------------------------------------------------------------------------------------


def settings_with(name: str, value: Any) -> Deflate:
    made = Deflate(**{name: value})
    assert getattr(made, name) == value
    return made


@pytest.mark.parametrize("name, minimum, maximum", [("level", 1, 9), ("mem_level", 1, 9), ("min_size", 0, None)])
def test_integers(name: str, minimum: int, maximum: int | None) -> None:
    settings_with(name, minimum)
    settings_with(name, maximum or 10**30)
    for out_of_range in (minimum - 1, maximum and maximum + 1):
        if out_of_range is not None:
            allowed = "at least 0" if maximum is None else f"from {minimum} to {maximum}"
            with pytest.raises(ValueError, match=f"^{name} must be {allowed}, not {out_of_range}$"):
                settings_with(name, out_of_range)
    for wrong in (None, True, 6.0, "6"):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {wrong!r}$"):
            settings_with(name, wrong)


def test_the_defaults() -> None:
    assert Deflate() == Deflate(
        level=4,
        mem_level=5,
        server_max_window_bits=None,
        client_max_window_bits=None,
        server_no_context_takeover=False,
        client_no_context_takeover=False,
        min_size=64,
    )


@pytest.mark.parametrize("name", ["server_no_context_takeover", "client_no_context_takeover"])
def test_flags(name: str) -> None:
    for value in (True, False):
        settings_with(name, value)
    for wrong in (None, 1, "no"):
        with pytest.raises(TypeError, match=f"^{name} must be a bool, not {wrong!r}$"):
            settings_with(name, wrong)


@pytest.mark.parametrize("name", ["server_max_window_bits", "client_max_window_bits"])
def test_window_bits(name: str) -> None:
    for value in (None, *range(8, 16)):
        settings_with(name, value)
    for out_of_range in (-9, 0, 7, 16):
        with pytest.raises(ValueError):
            settings_with(name, out_of_range)
    for wrong in (True, 12.0, "12"):
        with pytest.raises(TypeError):
            settings_with(name, wrong)


def test_settings_are_values() -> None:
    assert Deflate() == Deflate(level=4)
    assert hash(Deflate()) == hash(Deflate())
    with pytest.raises(TypeError):
        Deflate(9)  # type: ignore[call-arg]  # that is the point
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Deflate().level = 9  # type: ignore[misc]  # that is the point


# -- Negotiation -----------------------------------------------------------------------------------------------------


class Agreed(NamedTuple):
    """The negotiated parameters of a transform."""

    send_bits: int
    receive_bits: int
    send_takeover: bool = True
    receive_takeover: bool = True


def agreed(transform: Extension) -> Agreed:
    assert isinstance(transform, PerMessageDeflate)
    assert transform.rsv == RSV1
    return Agreed(transform.send_bits, transform.receive_bits, transform.send_takeover, transform.receive_takeover)


def ask(offers: Sequence[str], server: Deflate | None = None) -> tuple[str | None, Agreed | None]:
    """Return the server's answer to the offers, and its parameters."""
    request = build_request(parse_uri("ws://example.org/"), random=Counting())
    headers = request.headers.copy()
    for offer in offers:
        headers[EXTENSIONS] = offer
    response, agreement = accept(
        attrs.evolve(request, headers=headers), extensions=[DeflateServer(server or Deflate())]
    )
    transforms = [agreed(extension) for extension in agreement.extensions]
    return response.headers.get(EXTENSIONS), transforms[0] if transforms else None


def tell(answers: Sequence[str], client: Deflate | None = None) -> Agreed | None:
    """Return the parameters of a client that gets these answers."""
    extensions = [DeflateClient(client or Deflate())]
    request = build_request(parse_uri("ws://example.org/"), random=Counting(), extensions=extensions)
    response, _ = accept(request)
    headers = response.headers.copy()
    for answer in answers:
        headers[EXTENSIONS] = answer
    agreement = check_response(request, Response(101, "Switching Protocols", headers), extensions=extensions)
    transforms = [agreed(extension) for extension in agreement.extensions]
    return transforms[0] if transforms else None


@pytest.mark.parametrize(
    "settings, offer",
    [
        (Deflate(), "permessage-deflate; client_max_window_bits"),
        (Deflate(client_max_window_bits=8), "permessage-deflate; client_max_window_bits=8"),
        (
            Deflate(server_max_window_bits=15),
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits",
        ),
        (
            Deflate(
                server_no_context_takeover=True,
                client_no_context_takeover=True,
                server_max_window_bits=9,
                client_max_window_bits=10,
            ),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=9; client_max_window_bits=10",
        ),
    ],
)
def test_offers_of_a_client(settings: Deflate, offer: str) -> None:
    request = build_request(parse_uri("ws://example.org/"), random=Counting(), extensions=[DeflateClient(settings)])
    assert request.headers[EXTENSIONS] == offer


SERVER_BITS = "permessage-deflate; server_max_window_bits"
CLIENT_BITS = "permessage-deflate; client_max_window_bits"


@pytest.mark.parametrize(
    "offer, settings, answer, expected",
    [
        # No parameters: the server must not ask for a smaller client window.
        ("permessage-deflate", Deflate(), f"{SERVER_BITS}=12", Agreed(12, 15)),
        ("permessage-deflate", Deflate(client_max_window_bits=9), f"{SERVER_BITS}=12", Agreed(12, 15)),
        ("permessage-deflate", Deflate(server_max_window_bits=15), f"{SERVER_BITS}=15", Agreed(15, 15)),
        # The smaller server window wins.
        (f"{SERVER_BITS}=15", Deflate(), f"{SERVER_BITS}=12", Agreed(12, 15)),
        (f"{SERVER_BITS}=8", Deflate(), f"{SERVER_BITS}=8", Agreed(8, 15)),
        (f"{SERVER_BITS}=9", Deflate(server_max_window_bits=10), f"{SERVER_BITS}=9", Agreed(9, 15)),
        (f"{SERVER_BITS}=11", Deflate(server_max_window_bits=10), f"{SERVER_BITS}=10", Agreed(10, 15)),
        # The smaller client window wins.
        (CLIENT_BITS, Deflate(), f"{SERVER_BITS}=12; client_max_window_bits=12", Agreed(12, 12)),
        (f"{CLIENT_BITS}=15", Deflate(), f"{SERVER_BITS}=12; client_max_window_bits=12", Agreed(12, 12)),
        (f"{CLIENT_BITS}=8", Deflate(), f"{SERVER_BITS}=12; client_max_window_bits=8", Agreed(12, 8)),
        (
            CLIENT_BITS,
            Deflate(client_max_window_bits=15),
            f"{SERVER_BITS}=12; client_max_window_bits=15",
            Agreed(12, 15),
        ),
        (
            f"{CLIENT_BITS}=10",
            Deflate(client_max_window_bits=9),
            f"{SERVER_BITS}=12; client_max_window_bits=9",
            Agreed(12, 9),
        ),
        # No context takeover if either end wants none.
        (
            "permessage-deflate; server_no_context_takeover",
            Deflate(),
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12",
            Agreed(12, 15, send_takeover=False),
        ),
        (
            "permessage-deflate",
            Deflate(server_no_context_takeover=True),
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12",
            Agreed(12, 15, send_takeover=False),
        ),
        (
            "permessage-deflate; client_no_context_takeover",
            Deflate(),
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=12",
            Agreed(12, 15, receive_takeover=False),
        ),
        (
            "permessage-deflate",
            Deflate(client_no_context_takeover=True),
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=12",
            Agreed(12, 15, receive_takeover=False),
        ),
        # All four parameters, in any order, with spaces and quotes.
        (
            'permessage-deflate ;client_max_window_bits = "13" ; server_no_context_takeover;server_max_window_bits="9";'
            "client_no_context_takeover",
            Deflate(client_max_window_bits=14),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=9; client_max_window_bits=13",
            Agreed(9, 13, send_takeover=False, receive_takeover=False),
        ),
    ],
)
def test_answers_of_a_server(offer: str, settings: Deflate, answer: str, expected: Agreed) -> None:
    assert ask([offer], settings) == (answer, expected)


# Errors in a single parameter, in offers and answers.
BAD_PARAMETERS = [
    # Values for parameters without one, ...
    *(
        f"{side}_max_window_bits={value}"
        for side in ("server", "client")
        for value in ("7", "16", "0", "1", "150", "-9", "+9", "8.0", "abc", "08", "0x9", '"7"', '"16"', "1e1")
    ),
    # ... and missing values.
    "server_max_window_bits",
    "server_no_context_takeover=true",
    "server_no_context_takeover=1",
    'client_no_context_takeover="10"',
    # Duplicates, even of the same value.
    "server_no_context_takeover; server_no_context_takeover",
    "client_no_context_takeover; server_no_context_takeover; client_no_context_takeover",
    "server_max_window_bits=10; server_max_window_bits=10",
    "client_max_window_bits=10; client_max_window_bits=11",
    # Unknown parameters, some of them misspelled.
    "unknown",
    "unknown=1",
    "Server_No_Context_Takeover",
    "max_window_bits=10",
    "client_max_window_bits=10; c2s_max_window_bits=10",
]


def test_a_server_declines_malformed_offers() -> None:
    for parameters in [*BAD_PARAMETERS, "client_max_window_bits; client_max_window_bits=10"]:
        bad = f"permessage-deflate; {parameters}"
        assert ask([bad]) == (None, None)
        # The server goes on to the next offer.
        expected = (f"{SERVER_BITS}=11; client_max_window_bits=12", Agreed(11, 12))
        assert ask([f"{bad}, {SERVER_BITS}=11; client_max_window_bits"]) == expected
        assert ask([bad, f"{SERVER_BITS}=11; client_max_window_bits", f"{SERVER_BITS}=9"]) == expected
        # One valid offer is enough.
        assert ask([f"{SERVER_BITS}=11; client_max_window_bits, {bad}"]) == expected


def test_a_server_answers_the_first_valid_offer() -> None:
    assert ask([f"{SERVER_BITS}=10, {SERVER_BITS}=9"]) == (f"{SERVER_BITS}=10", Agreed(10, 15))
    assert ask([f"x-other, {SERVER_BITS}=9, permessage-deflate"]) == (f"{SERVER_BITS}=9", Agreed(9, 15))
    assert ask(["Permessage-Deflate, permessage-bzip2"]) == (None, None)
    assert ask([]) == (None, None)


@pytest.mark.parametrize(
    "header",
    [
        "permessage-deflate;",
        "permessage-deflate; client_max_window_bits=",
        'permessage-deflate; client_max_window_bits="',
        'permessage-deflate; client_max_window_bits=""',
        'permessage-deflate; client_max_window_bits="1 0"',
        "permessage-deflate client_max_window_bits",
    ],
)
def test_malformed_headers(header: str) -> None:
    with pytest.raises(InvalidHeader):
        ask([header])
    with pytest.raises(InvalidHeader):
        tell([header])


def test_an_empty_header() -> None:
    with pytest.raises(InvalidHeader):
        ask([","])
    assert tell([","]) is None


@pytest.mark.parametrize(
    "answer, settings, expected",
    [
        # Without a parameter the window is the largest. Our own may be smaller.
        ("permessage-deflate", Deflate(), Agreed(12, 15)),
        ("permessage-deflate", Deflate(client_max_window_bits=15), Agreed(15, 15)),
        ("permessage-deflate", Deflate(client_max_window_bits=9), Agreed(9, 15)),
        # Parameters of the server, requested or not.
        (f"{SERVER_BITS}=8", Deflate(), Agreed(12, 8)),
        (f'{SERVER_BITS}="15"', Deflate(), Agreed(12, 15)),
        (f"{SERVER_BITS}=10", Deflate(server_max_window_bits=10), Agreed(12, 10)),
        (f"{SERVER_BITS}=9", Deflate(server_max_window_bits=10), Agreed(12, 9)),
        ("permessage-deflate; server_no_context_takeover", Deflate(), Agreed(12, 15, receive_takeover=False)),
        (
            "permessage-deflate; server_no_context_takeover",
            Deflate(server_no_context_takeover=True),
            Agreed(12, 15, receive_takeover=False),
        ),
        # Requests of the server. Our own settings limit the window further.
        (f"{CLIENT_BITS}=8", Deflate(), Agreed(8, 15)),
        (f"{CLIENT_BITS}=15", Deflate(), Agreed(12, 15)),
        (f"{CLIENT_BITS}=10", Deflate(client_max_window_bits=15), Agreed(10, 15)),
        (f"{CLIENT_BITS}=10", Deflate(client_max_window_bits=9), Agreed(9, 15)),
        ("permessage-deflate; client_no_context_takeover", Deflate(), Agreed(12, 15, send_takeover=False)),
        # Our own settings, without a request of the server.
        ("permessage-deflate", Deflate(client_no_context_takeover=True), Agreed(12, 15, send_takeover=False)),
        # All four parameters.
        (
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=10; "
            "client_no_context_takeover; server_no_context_takeover",
            Deflate(),
            Agreed(9, 10, send_takeover=False, receive_takeover=False),
        ),
    ],
)
def test_answers_that_a_client_accepts(answer: str, settings: Deflate, expected: Agreed) -> None:
    assert tell([answer], settings) == expected


def test_a_client_rejects_malformed_answers() -> None:
    for parameters in [*BAD_PARAMETERS, "client_max_window_bits"]:
        with pytest.raises(NegotiationError):
            tell([f"permessage-deflate; {parameters}"])


@pytest.mark.parametrize(
    "answer, settings",
    [
        ("permessage-deflate", Deflate(server_no_context_takeover=True)),
        ("permessage-deflate; client_no_context_takeover", Deflate(server_no_context_takeover=True)),
        ("permessage-deflate", Deflate(server_max_window_bits=14)),
        (f"{SERVER_BITS}=11", Deflate(server_max_window_bits=10)),
        (f"{CLIENT_BITS}=10", Deflate(server_max_window_bits=10)),
        # Duplicates, and another extension.
        ("permessage-deflate, permessage-deflate", Deflate()),
        ("permessage-deflate, x-other", Deflate()),
        ("permessage-bzip2", Deflate()),
        ("Permessage-Deflate", Deflate()),
    ],
)
def test_a_client_rejects_answers_that_do_not_match(answer: str, settings: Deflate) -> None:
    with pytest.raises(NegotiationError):
        tell([answer], settings)


def test_a_client_accepts_no_compression() -> None:
    assert tell([], Deflate(server_max_window_bits=10, server_no_context_takeover=True)) is None


@deterministic
@given(deflates, deflates)
def test_both_ends_agree(client: Deflate, server: Deflate) -> None:
    for_client, for_server = (agreed(transform) for transform in agree(client, server))
    # No sender uses a larger window than the receiver has, and both ends agree on context takeover.
    assert for_client.send_bits <= for_server.receive_bits
    assert for_server.send_bits <= for_client.receive_bits
    assert for_client.send_takeover == for_server.receive_takeover
    assert for_server.send_takeover == for_client.receive_takeover
    # Windows are at most as large as requested.
    for end in (client, server):
        assert for_server.send_bits <= (end.server_max_window_bits or 15)
        assert for_client.send_bits <= (end.client_max_window_bits or 15)
        assert not (end.server_no_context_takeover and for_server.send_takeover)
        assert not (end.client_no_context_takeover and for_client.send_takeover)


# -- The compression library ------------------------------------------------------------------------------------------


def fresh_module() -> Any:
    """Import transform.py again as a new module."""
    spec = importlib.util.find_spec("trio_ws.protocol.deflate.transform")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_zlib_ng_is_used_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package, library = types.ModuleType("zlib_ng"), types.ModuleType("zlib_ng.zlib_ng")
    monkeypatch.setitem(sys.modules, "zlib_ng", package)
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", library)
    module = fresh_module()
    assert module.load_back_end() == "zlib_ng"
    assert module.zlib is library


def test_zlib_is_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    module = fresh_module()
    assert module.load_back_end() == "zlib"
    assert module.zlib is zlib


def test_the_library_is_imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fresh_module()
    assert module.zlib is None
    module.PerMessageDeflate(Deflate(), send_bits=15, receive_bits=15)
    library = module.zlib
    assert library is not None
    monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
    assert module.load_back_end() == library.__name__.partition(".")[0]
    assert module.zlib is library


@pytest.mark.parametrize("bits", range(8, 16))
def test_back_ends_understand_each_other(bits: int) -> None:
    for sender, receiver in list(itertools.product(BACK_ENDS, BACK_ENDS)):
        compressor, decompressor = back_end(sender), back_end(receiver)
        for level, takeover in ((1, True), (3, False), (6, True), (9, True)):
            here = transform(Deflate(level=level, min_size=0), bits=bits, takeover=takeover)
            there = transform(bits=bits, takeover=takeover)
            for message in (*MESSAGES, b"".join(MESSAGES)):
                with compressing_with(compressor):
                    fragments = compress(here, message[:100], message[100:])
                with compressing_with(decompressor):
                    assert decompress(there, *fragments) == message


# -- Helpers for the transform ---------------------------------------------------------------------------------------


def transform(settings: Deflate = EVERYTHING, *, bits: int = 15, takeover: bool = True) -> PerMessageDeflate:
    """Return a transform with the same parameters in both directions."""
    return PerMessageDeflate(
        settings, send_bits=bits, receive_bits=bits, send_takeover=takeover, receive_takeover=takeover
    )


def compress(sender: PerMessageDeflate, *fragments: bytes) -> list[bytes]:
    """Return the fragments of a message, all compressed."""
    compressed = []
    for index, fragment in enumerate(fragments):
        data, marked = sender.encode(fragment, first=index == 0, final=index == len(fragments) - 1)
        assert marked
        compressed.append(data)
    return compressed


def decompress(receiver: PerMessageDeflate, *pieces: bytes, limit: int | None = None) -> bytes:
    """Return the message in these pieces."""
    parts = []
    for index, piece in enumerate(pieces):
        parts.append(receiver.decode(piece, final=index == len(pieces) - 1, limit=limit))
        if limit is not None:
            limit -= len(parts[-1])
            if limit < 0:
                break
    return b"".join(parts)


def connect(
    client: Deflate = EVERYTHING, server: Deflate = EVERYTHING, *, max_message_size: int | None = None
) -> tuple[Protocol, Protocol]:
    """Return both ends of a connection."""
    ends = zip(ROLES, agree(client, server), strict=True)
    first, second = (protocol(role, max_message_size=max_message_size, extensions=[end]) for role, end in ends)
    return first, second


def compressed_frame(payload: bytes, first_byte: int = FIN | BINARY) -> bytes:
    """Return a frame with a compressed payload, as a server sends it."""
    return frame_to(Role.CLIENT, first_byte | RSV1, payload)


def receive(*wire: bytes, limit: int | None = None, transforms: PerMessageDeflate | None = None) -> list[Event]:
    """Return the events of a client that receives these bytes."""
    receiver = protocol(Role.CLIENT, max_message_size=limit, extensions=[transforms or transform()])
    for data in wire:
        receiver.receive(data)
    return drain(receiver)


MESSAGES = [
    b"",
    b"x",
    b"Hello",
    b"Hello" * 100,
    b'{"id": 17, "price": 3.14, "bids": [[1, 2], [3, 4], [5, 6]]}',
    noise(0, 300),
    noise(1, 20) * 30,
    bytes(1000) + noise(2, 200) + b"A" * 1000 + noise(2, 200),
]


# -- RFC 7692, section 7.2.3 -----------------------------------------------------------------------------------------

HELLO = bytes.fromhex("f2 48 cd c9 c9 07 00")


def test_one_block() -> None:
    assert receive(bytes.fromhex("c1 07 f2 48 cd c9 c9 07 00")) == ["Hello"]


def test_one_block_in_two_fragments() -> None:
    assert receive(bytes.fromhex("41 03 f2 48 cd 80 04 c9 c9 07 00")) == ["Hello"]


def test_sharing_the_window() -> None:
    again = bytes.fromhex("f2 00 11 00 00")
    assert receive(compressed_frame(HELLO), compressed_frame(again)) == [b"Hello", b"Hello"]
    # The second message refers to the first one in the window.
    for alone in ([again], [HELLO, again]):
        *_, error = receive(*map(compressed_frame, alone), transforms=transform(takeover=False))
        assert type(error) is InvalidData


def test_no_compression() -> None:
    assert receive(bytes.fromhex("c1 0b 00 05 00 fa ff 48 65 6c 6c 6f 00")) == ["Hello"]


BFINAL = bytes.fromhex("f3 48 cd c9 c9 07 00 00")


@pytest.mark.parametrize("takeover", [True, False])
def test_bfinal(takeover: bool) -> None:
    wire = [compressed_frame(BFINAL), compressed_frame(HELLO), compressed_frame(BFINAL[:-1] + BFINAL)]
    for data in (wire, one_by_one(b"".join(wire))):
        assert receive(*data, transforms=transform(takeover=takeover)) == [b"Hello", b"Hello", b"HelloHello"]


def test_two_blocks() -> None:
    wire = bytes.fromhex("c1 0d f2 48 05 00 00 00 ff ff ca c9 c9 07 00")
    assert receive(wire) == ["Hello"]


def test_an_empty_fragment() -> None:
    wire = [compressed_frame(HELLO + TAIL, BINARY), frame_to(Role.CLIENT, FIN | CONT, b"\x00")]
    assert receive(*wire) == [b"Hello"]
    # An empty message, and one with another type of empty block.
    assert receive(compressed_frame(b"\x00"), compressed_frame(b"\x02\x00")) == [b"", b""]


# On some systems zlib is zlib-ng, whose output differs from the examples in the RFC.
@pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="zlib-ng may choose other blocks")
def test_zlib_produces_the_examples() -> None:
    with compressing_with(zlib):
        sender = transform()
        assert compress(sender, b"Hello") == [HELLO]
        assert compress(sender, b"Hello") == [bytes.fromhex("f2 00 11 00 00")]
        sender = transform(takeover=False)
        assert compress(sender, b"Hello") == compress(sender, b"Hello") == [HELLO]
        assert compress(sender, b"") == [b"\x00"]


# -- Messages both ways ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("takeover", [True, False])
def test_every_window(bits: int, takeover: bool) -> None:
    sender, receiver = (transform(bits=bits, takeover=takeover) for _ in range(2))
    for message in (*MESSAGES, *MESSAGES):
        assert decompress(receiver, *compress(sender, message)) == message
        assert decompress(receiver, *compress(sender, b"", message[:70], b"", message[70:], b"")) == message


@deterministic
@given(deflates, deflates, st.data())
def test_any_messages(client: Deflate, server: Deflate, data: st.DataObject) -> None:
    for sender, receiver in itertools.permutations(connect(client, server)):
        wire = b""
        expected: list[Event] = []
        for _ in range(data.draw(st.integers(1, 4))):
            message = data.draw(compressible)
            transformed = data.draw(st.booleans())
            opcode = Opcode.BINARY
            for fragment, final in split(message, data.draw(positions)):
                wire += b"".join(sender.encode(opcode, fragment, final, transform=transformed))
                if final:
                    expected.append(message)
                if data.draw(st.booleans()):
                    wire += b"".join(sender.encode(Opcode.PING, b"between"))
                    expected.append(Frame(Opcode.PING, b"between"))
                opcode = Opcode.CONT
        for piece in cut(wire, data.draw(positions)):
            receiver.receive(piece)
        assert drain(receiver) == expected


@deterministic
@given(deflates, st.lists(compressible, min_size=1, max_size=3))
def test_one_byte_at_a_time(settings: Deflate, messages: list[bytes]) -> None:
    sender, receiver = connect(settings, settings)
    for message in messages:
        for byte in one_by_one(b"".join(sender.encode(Opcode.BINARY, message[:2000]))):
            receiver.receive(byte)
    assert drain(receiver) == [message[:2000] for message in messages]


@deterministic
@given(st.text(), positions)
def test_text(text: str, where: list[int]) -> None:
    sender, receiver = connect()
    opcode = Opcode.TEXT
    for fragment, final in split(text.encode(), where):
        receiver.receive(b"".join(sender.encode(opcode, fragment, final)))
        opcode = Opcode.CONT
    assert drain(receiver) == [text]


def test_text_is_validated_after_decompression() -> None:
    sender, receiver = connect()
    for chunk in sender.encode(Opcode.TEXT, b"\xff" * 100):
        receiver.receive(chunk)
    (event,) = drain(receiver)
    assert type(event) is InvalidData


def test_claimed_messages() -> None:
    sender, receiver = connect()
    message = b"".join(MESSAGES)
    for claim in (receiver.take_part, receiver.skip_message):
        receiver.receive(b"".join(sender.encode(Opcode.BINARY, message[:500], False)))
        assert receiver.message_in_progress is Opcode.BINARY
        # Each part can be decompressed as soon as it has arrived.
        assert claim() in (message[:500], None)
        receiver.receive(b"".join(sender.encode(Opcode.CONT, message[500:])))
    # Skipped messages are part of the context.
    receiver.receive(b"".join(sender.encode(Opcode.BINARY, message)))
    assert drain(receiver) == [LastPart(message[500:]), message]


@pytest.mark.parametrize("fragments", [1, 2, 5])
@pytest.mark.parametrize("takeover", [True, False])
def test_empty_messages(fragments: int, takeover: bool) -> None:
    sender, receiver = (transform(takeover=takeover) for _ in range(2))
    for _ in range(3):
        pieces = compress(sender, *[b""] * fragments)
        assert pieces[-1]
        assert decompress(receiver, *pieces) == b""
    assert decompress(receiver, *compress(sender, b"Hello")) == b"Hello"


def test_a_library_without_output_for_an_empty_flush() -> None:
    """RFC 7692, section 7.2.3.6: "If the compression library doesn't generate any data when its buffer is empty"."""

    class Quiet:
        Z_SYNC_FLUSH = DEFLATED = 0

        def compressobj(self, *_args: int) -> Quiet:
            return self

        def compress(self, data: bytes) -> bytes:
            return b""

        def flush(self, _mode: int) -> bytes:
            return b""

    with compressing_with(Quiet()):
        compressed = compress(transform(), b"", b"")
    assert compressed == [b"", b"\x00"]
    assert decompress(transform(), *compressed) == b""


def test_repr() -> None:
    assert repr(transform(bits=9)) == "<PerMessageDeflate sends 9 bits, receives 9 bits>"
    without = "9 bits without context takeover"
    assert repr(transform(bits=9, takeover=False)) == f"<PerMessageDeflate sends {without}, receives {without}>"


# -- Which messages are compressed -----------------------------------------------------------------------------------


def first_bytes(wire: Sequence[bytes]) -> int:
    return wire[0][0]


@pytest.mark.parametrize("min_size", [0, 1, 64, 5000])
def test_small_messages_are_not_compressed(min_size: int) -> None:
    _, sender = connect(server=Deflate(min_size=min_size))
    for size in {max(min_size - 1, 0), min_size, min_size + 1}:
        first_byte, payload = from_server(*sender.encode(Opcode.BINARY, bytes(size)))
        assert bool(first_byte & RSV1) is (size >= min_size)
        assert (payload == bytes(size)) is (size < min_size)
    # The final size is not known when the first fragment is sent.
    assert sender.encode(Opcode.TEXT, b"", False)[0][0] == TEXT | RSV1
    assert sender.encode(Opcode.CONT, b"", False)[0][0] == CONT
    assert sender.encode(Opcode.CONT, b"")[0][0] == FIN | CONT


def test_compression_can_be_turned_off_for_a_message() -> None:
    receiver, sender = connect()
    wire = [
        *sender.encode(Opcode.TEXT, b"a" * 100, transform=False),
        *sender.encode(Opcode.TEXT, b"b" * 100),
        *sender.encode(Opcode.TEXT, b"c" * 100, False, transform=False),
        # The first fragment decides.
        *sender.encode(Opcode.CONT, b"d" * 100, transform=True),
        *sender.encode(Opcode.TEXT, b"e" * 100, False),
        *sender.encode(Opcode.CONT, b"f" * 100, transform=False),
    ]
    frames = [from_server(data) for data in wire]
    assert [first_byte for first_byte, _ in frames] == [0x81, 0xC1, 0x01, 0x80, 0x41, 0x80]
    assert [data == data[:1] * 100 for _, data in frames] == [True, False, True, True, False, False]
    receiver.receive(b"".join(wire))
    assert drain(receiver) == ["a" * 100, "b" * 100, "c" * 100 + "d" * 100, "e" * 100 + "f" * 100]


def test_uncompressed_messages_leave_the_context_alone() -> None:
    receiver, sender = connect(server=Deflate(min_size=200))
    message = noise(3, 300)
    sizes = []
    for _ in range(3):
        wire = sender.encode(Opcode.BINARY, message)
        sizes.append(len(from_server(*wire)[1]))
        for other in (noise(4, 199), b""):
            wire += sender.encode(Opcode.BINARY, other)
        wire += sender.encode(Opcode.BINARY, noise(5, 40_000), transform=False)
        receiver.receive(b"".join(wire))
        assert drain(receiver) == [message, noise(4, 199), b"", noise(5, 40_000)]
    # The context has the compressed message, but not the uncompressed ones.
    assert sizes[0] >= 300
    assert max(sizes[1:]) < 30


def test_context_takeover() -> None:
    message = noise(6, 300)
    with_takeover, without = transform(), transform(takeover=False)
    assert len(compress(with_takeover, message)[0]) > 300 > 10 * len(compress(with_takeover, message)[0])
    assert compress(without, message) == compress(without, message)
    # Fragments of one message share their context in any case.
    first, second = compress(without, message, message)
    assert len(first) > 300 > 10 * len(second)


class Watched:
    """A zlib module that records the objects it creates."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def compressobj(self, *args: Any) -> Any:
        self.made.append(("compressobj", *args))
        return zlib.compressobj(*args)

    def decompressobj(self, *args: Any) -> Any:
        self.made.append(("decompressobj", *args))
        return zlib.decompressobj(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(zlib, name)


def test_zlib_objects_are_created_on_demand() -> None:
    library = Watched()
    with compressing_with(library):
        client, server = connect(Deflate(), Deflate(level=9, mem_level=7, client_max_window_bits=10))
        for sender, receiver in ((client, server), (server, client)):
            receiver.receive(b"".join(sender.encode(Opcode.TEXT, b"short")))
            receiver.receive(b"".join(sender.encode(Opcode.TEXT, b"l" * 100, transform=False)))
        assert library.made == []
        server.receive(b"".join(client.encode(Opcode.TEXT, b"l" * 100)))
        assert library.made == [("compressobj", 4, zlib.DEFLATED, -10, 5), ("decompressobj", -10)]
        del library.made[:]
        # The compressor is kept. Each message gets a new decompressor, with the history as its dictionary.
        server.receive(b"".join(client.encode(Opcode.TEXT, b"l" * 100)))
        assert library.made == [("decompressobj", -10, b"l" * 200)]
        del library.made[:]
        client.receive(b"".join(server.encode(Opcode.TEXT, b"l" * 100)))
        assert library.made == [("compressobj", 9, zlib.DEFLATED, -12, 7), ("decompressobj", -12)]
        assert len(drain(client)) == 3
        assert len(drain(server)) == 4


def test_nothing_is_kept_without_context_takeover() -> None:
    def transfer(ends: Sequence[PerMessageDeflate]) -> None:
        for end in ends:
            for message in MESSAGES:
                assert decompress(end, *compress(end, message)) == message

    kept = {}
    for takeover in (True, False):
        ends = [transform(takeover=takeover) for _ in range(10)]
        transfer(ends[:1])  # allocates objects that are created only once
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            transfer(ends)
            kept[takeover] = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert kept[True] > 10 * 32768
    assert kept[False] < 5000


# -- The window ------------------------------------------------------------------------------------------------------


# RFC 1951, section 3.2.5: the least length and distance of each code, and its extra bits.
LENGTHS = [*((3 + i, 0) for i in range(8)), *(((4 + i % 4 << i // 4) + 3, i // 4) for i in range(4, 24)), (258, 0)]
DISTANCES = [*((1 + i, 0) for i in range(4)), *(((2 + i % 2 << i // 2) + 1, i // 2) for i in range(2, 28))]
# Section 3.2.7.
ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]


class Reader:
    """A DEFLATE decoder, written after RFC 1951, that records how far back matches reach; zlib does not tell."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        # Section 3.1.1: the digits of all bits, from the least significant one of the first byte on.
        self.bits = "".join(f"{byte:08b}"[::-1] for byte in data)
        self.position = 0
        self.output = bytearray()
        self.farthest = 0

    def number(self, width: int) -> int:
        self.position += width
        return int(self.bits[self.position - width : self.position][::-1] or "0", 2)

    def symbol(self, codes: dict[str, int]) -> int:
        for length in range(1, 16):
            symbol = codes.get(self.bits[self.position : self.position + length])
            if symbol is not None:
                self.position += length
                return symbol
        raise AssertionError("there is no such code")

    @staticmethod
    def codes(lengths: Sequence[int]) -> dict[str, int]:
        """Section 3.2.2."""
        codes = {}
        code = 0
        for length in range(1, 16):
            code <<= 1
            for symbol, each in enumerate(lengths):
                if each == length:
                    codes[f"{code:0{length}b}"] = symbol
                    code += 1
        return codes

    def dynamic(self) -> tuple[dict[str, int], dict[str, int]]:
        """Section 3.2.7."""
        literals, distances, meta = self.number(5) + 257, self.number(5) + 1, self.number(4) + 4
        meta_lengths = [0] * 19
        for symbol in ORDER[:meta]:
            meta_lengths[symbol] = self.number(3)
        meta_codes = self.codes(meta_lengths)
        lengths: list[int] = []
        while len(lengths) < literals + distances:
            symbol = self.symbol(meta_codes)
            if symbol < 16:
                lengths.append(symbol)
            elif symbol == 16:
                lengths += lengths[-1:] * (self.number(2) + 3)
            else:
                lengths += [0] * (self.number(3) + 3 if symbol == 17 else self.number(7) + 11)
        return self.codes(lengths[:literals]), self.codes(lengths[literals:])

    def block(self) -> None:
        assert not self.number(1), "the last block"
        kind = self.number(2)
        if kind == 0:
            start = -(-self.position // 8) + 4
            end = start + int.from_bytes(self.data[start - 4 : start - 2], "little")
            self.output += self.data[start:end]
            self.position = 8 * end
            return
        if kind == 1:
            literals = self.codes([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8)
            distances = self.codes([5] * 30)
        else:
            literals, distances = self.dynamic()
        while (symbol := self.symbol(literals)) != 256:
            if symbol < 256:
                self.output.append(symbol)
                continue
            least, extra = LENGTHS[symbol - 257]
            length = least + self.number(extra)
            least, extra = DISTANCES[self.symbol(distances)]
            distance = least + self.number(extra)
            self.farthest = max(self.farthest, distance)
            assert distance <= len(self.output)
            for _ in range(length):
                self.output.append(self.output[-distance])

    def decode(self) -> bytes:
        while self.position < len(self.bits):
            self.block()
        return bytes(self.output)


def far_apart(bits: int) -> list[bytes]:
    """Return messages with many repetitions, at all distances up to more than twice the window."""
    count = max(2**bits // 32, 4)
    phrases = [noise(number, 32) for number in range(count)]
    order = noise(bits, 2 * count) + noise(0, 100)
    text = b"".join(phrases[(at * 7 + jump) % count] for at, jump in enumerate(order))
    return [text[: len(text) // 3], text[len(text) // 3 :], text[:500]]


@pytest.mark.parametrize("level", [1, 6])
@pytest.mark.parametrize("bits", range(8, 16))
def test_the_window_is_not_exceeded(bits: int, level: int) -> None:
    sender = transform(Deflate(level=level, min_size=0), bits=bits)
    messages = far_apart(bits)
    wire = [compress(sender, message)[0] + TAIL for message in messages]
    reader = Reader(b"".join(wire))
    assert reader.decode() == b"".join(messages)
    assert reader.farthest <= 2**bits
    # The window is also used. With the smallest one, zlib finds only repetitions of one byte.
    assert reader.farthest > 2 ** (bits - 2) if bits > 8 else reader.farthest <= 1


@pytest.mark.parametrize("decompressor", BACK_ENDS)
@pytest.mark.parametrize("bits", range(8, 16))
def test_a_decompressor_with_this_window_is_enough(bits: int, decompressor: str) -> None:
    for level in [1, 2, 3, 5, 9]:
        messages = [message[:5000] for message in far_apart(bits)] + MESSAGES
        sender = transform(Deflate(level=level, min_size=0), bits=bits)
        receiver = back_end(decompressor).decompressobj(-bits)
        for message in messages:
            # In small pieces, because zlib allows any distance within the output of one call.
            data = compress(sender, message)[0] + TAIL
            assert b"".join(receiver.decompress(piece) for piece in cut(data, range(0, len(data), 16))) == message


def test_repetitions_are_found_with_the_smallest_window() -> None:
    sender = transform(bits=8)
    assert len(compress(sender, b"x" * 100_000)[0]) < 1000


def stored(data: bytes) -> bytes:
    """Return uncompressed DEFLATE blocks."""
    blocks = b""
    for part in cut(data, range(0, len(data), 0xFFFF)):
        blocks += b"\x00" + len(part).to_bytes(2, "little") + (0xFFFF ^ len(part)).to_bytes(2, "little") + part
    return blocks


def far_match(bits: int) -> tuple[bytes, bytes]:
    """Return data that fills a window, and its first three bytes as a match, encoded by hand as zlib never does."""
    filling = noise(9, 2**bits)
    number, (least, extra) = next(
        (number, code) for number, code in reversed(list(enumerate(DISTANCES))) if code[0] <= 2**bits
    )
    # A block with fixed codes: a match of three bytes (257), its distance, the end; and an empty block.
    fields = ["0", "10", f"{1:07b}", f"{number:05b}", f"{2**bits - least:0{extra}b}"[::-1], "0000000", "000"]
    text = "".join(fields)
    text += "0" * (-len(text) % 8)
    return filling, bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8))


@pytest.mark.parametrize("bits", range(8, 16))
def test_the_negotiated_window_can_be_decompressed(bits: int) -> None:
    filling, match = far_match(bits)
    for pieces in ((stored(filling) + match,), one_by_one(stored(filling) + match)):
        assert decompress(transform(bits=bits), *pieces) == filling + filling[:3]
    # This also works across messages.
    receiver = transform(bits=bits)
    assert decompress(receiver, stored(filling) + b"\x00") == filling
    assert decompress(receiver, match) == filling[:3]


# -- Messages for many
# connections-----------------------------------------------------------------------------------------


def encode_cached(sender: PerMessageDeflate, message: bytes, cache: EncodingCache) -> bytes:
    data, marked = sender.encode(message, first=True, final=True, cache=cache)
    assert marked
    return data


def test_a_message_for_many_is_compressed_once() -> None:
    message = b"".join(MESSAGES)
    cache = EncodingCache()
    # Context takeover and earlier messages do not matter.
    senders = [transform(bits=bits, takeover=takeover) for bits in (9, 12) for takeover in (True, False)]
    senders += [transform(Deflate(level=level, mem_level=1, min_size=0), bits=12) for level in (1, 9, 1, 9)]
    for number, sender in enumerate(senders):
        compress(sender, noise(number, 100))
    compressed = [encode_cached(sender, message, cache) for sender in senders]
    assert len(cache.payloads) == 4
    for one, same in ((0, 1), (2, 3), (4, 6), (5, 7)):
        assert compressed[one] is compressed[same]
    assert encode_cached(senders[0], b"another", cache) is not compressed[0]
    assert all(decompress(transform(), data) == message for data in compressed)


@settings(deterministic, max_examples=50)
@given(deflates, deflates, st.data())
def test_shared_messages_between_other_messages(client: Deflate, server: Deflate, data: st.DataObject) -> None:
    """Shared messages between other messages that are sent to one connection only."""
    ends = [pair for _ in range(3) for pair in itertools.permutations(connect(client, server))]
    expected: list[list[bytes]] = [[] for _ in ends]

    def deliver(index: int, message: bytes, transform: bool | EncodingCache) -> None:
        sender, receiver = ends[index]
        expected[index].append(message)
        receiver.receive(b"".join(sender.encode_all([(FIN | Opcode.BINARY, message, transform)])))

    for _ in range(data.draw(st.integers(1, 6))):
        message = data.draw(compressible)
        if data.draw(st.booleans()):
            cache = EncodingCache()
            for index in range(len(ends)):
                deliver(index, message, cache)
        else:
            deliver(data.draw(st.integers(0, len(ends) - 1)), message, data.draw(st.booleans()))
        if data.draw(st.booleans()):
            ends[data.draw(st.integers(0, len(ends) - 1))][0].rest()
    assert [drain(receiver) for _, receiver in ends] == expected


def test_a_shared_message_does_not_refer_to_earlier_ones() -> None:
    sender, receiver = transform(), transform()
    message = noise(1, 300)
    before = compress(sender, message)[0]
    shared = encode_cached(sender, message, EncodingCache())
    assert abs(len(shared) - len(before)) < 10
    # But the next message may refer to it.
    (after,) = compress(sender, message)
    assert len(after) < 30
    assert [decompress(receiver, data) for data in (before, shared, after)] == [message] * 3


def test_shared_messages_of_any_size_and_in_parts() -> None:
    receiver, sender = connect(server=Deflate(min_size=100))
    cache = EncodingCache()
    for message in (b"a" * 99, b"b" * 100_000):
        receiver.receive(b"".join(sender.encode(Opcode.BINARY, message, transform=cache)))
    assert len(cache.payloads) == 1
    # A single part is not useful for other connections.
    receiver.receive(b"".join(sender.encode(Opcode.BINARY, b"c" * 100, False, transform=cache)))
    receiver.receive(b"".join(sender.encode(Opcode.CONT, b"c" * 100, transform=cache)))
    assert drain(receiver) == [b"a" * 99, b"b" * 100_000, b"c" * 200]
    assert len(cache.payloads) == 1


def test_no_history_of_shared_messages_without_context_takeover() -> None:
    sender = transform(takeover=False)
    encode_cached(sender, noise(1, 10_000), EncodingCache())
    assert not sender._sent_history
    assert sender._compressor is None


# -- Resting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(8, 16))
def test_rest_in_every_window(bits: int) -> None:
    for takeover in [True, False]:
        for resting in ["sender", "receiver", "both"]:
            sender, receiver = (transform(bits=bits, takeover=takeover) for _ in range(2))
            for message in (b"".join(MESSAGES), *MESSAGES, *far_apart(bits), *MESSAGES):
                for _ in range(2):
                    if resting != "receiver":
                        sender.rest()
                    if resting != "sender":
                        receiver.rest()
                assert decompress(receiver, *compress(sender, message)) == message
                assert decompress(receiver, *compress(sender, b"", message[:70], b"", message[70:], b"")) == message


@settings(deterministic, max_examples=50)
@given(deflates, deflates, st.data())
def test_rest_at_any_time(client: Deflate, server: Deflate, data: st.DataObject) -> None:
    """Also within messages and within frames, compressed or not."""

    rests = itertools.cycle(data.draw(st.lists(st.booleans(), min_size=1, max_size=10)))

    def perhaps_rest(end: Protocol) -> None:
        if next(rests):
            end.rest()

    for sender, receiver in itertools.permutations(connect(client, server)):
        expected = []
        for _ in range(data.draw(st.integers(1, 4))):
            message = data.draw(compressible)
            transformed = data.draw(st.booleans())
            expected.append(message)
            opcode = Opcode.BINARY
            for fragment, final in split(message, data.draw(positions)):
                perhaps_rest(sender)
                wire = b"".join(sender.encode(opcode, fragment, final, transform=transformed))
                for piece in cut(wire, data.draw(positions)):
                    perhaps_rest(receiver)
                    receiver.receive(piece)
                opcode = Opcode.CONT
        assert drain(receiver) == expected


@pytest.mark.parametrize("bits", range(8, 16))
def test_the_window_is_not_exceeded_after_a_rest(bits: int) -> None:
    for level in [1, 2, 4, 9]:
        sender = transform(Deflate(level=level, min_size=0), bits=bits)
        messages = [message for part in far_apart(bits) for message in (part[:1000], part[1000:])]
        wire = b""
        for message in messages:
            sender.rest()
            # For another decoder it is one stream, as without rest().
            wire += compress(sender, message)[0] + TAIL
        reader = Reader(wire)
        assert reader.decode() == b"".join(messages)
        assert reader.farthest <= 2**bits
        assert reader.farthest > 2 ** (bits - 2) if bits > 8 else reader.farthest <= 1


@pytest.mark.parametrize("bits", range(9, 16))
def test_rest_keeps_the_history_of_sent_messages(bits: int) -> None:
    busy, resting = (transform(bits=bits) for _ in range(2))
    phrases = [noise(number, 100) for number in range(2**bits // 500)]
    sizes = []
    for message in (*phrases, b"".join(phrases), *phrases, noise(0, 2**bits // 2), noise(0, 2**bits // 2)):
        resting.rest()
        sizes.append([len(compress(each, message)[0]) for each in (busy, resting)])
    # Only the first occurrence is long. Repetitions are as short as without rest().
    assert all(min(pair) > 95 for pair in sizes[: len(phrases)])
    assert all(max(pair) < 50 for pair in sizes[len(phrases) + 1 : -2])
    assert sum(resting for _, resting in sizes) <= 1.01 * sum(busy for busy, _ in sizes) + 10


@pytest.mark.parametrize("bits", range(8, 16))
def test_rest_keeps_the_history_of_received_messages(bits: int) -> None:
    """Matches reach the far end of the window, in one larger message and in many smaller ones."""
    filling, match = far_match(bits)
    for messages in ([stored(filling)], [stored(b"more") + stored(filling)], list(map(stored, one_by_one(filling)))):
        receiver = transform(bits=bits)
        for data in messages:
            decompress(receiver, data + b"\x00")
        receiver.rest()
        assert decompress(receiver, match) == filling[:3]


@pytest.mark.parametrize("bits", [9, 15])
def test_the_history_ends_at_a_last_block(bits: int) -> None:
    again = bytes.fromhex("f2 00 11 00 00")
    hello = stored(b"Hello")
    for before, passes in (([hello + b"\x00"], True), ([HELLO, BFINAL], False), ([hello + b"\x01"], False)):
        receiver = transform(bits=bits)
        for data in before:
            assert decompress(receiver, data) == b"Hello"
            receiver.rest()
        if passes:
            assert decompress(receiver, again) == b"Hello"
        else:
            with pytest.raises(InvalidData):
                decompress(receiver, again)


def test_rest_within_a_message() -> None:
    sender, receiver = transform(takeover=False), transform(takeover=False)
    message = b"".join(MESSAGES)
    wire = []
    for index in range(0, len(message), 500):
        wire.append(sender.encode(message[index : index + 500], first=not index, final=index + 500 >= len(message))[0])
        sender.rest()
    pieces = one_by_one(b"".join(wire))
    received = b""
    for piece in pieces[:-1]:
        received += receiver.decode(piece, final=False, limit=None)
        receiver.rest()
    assert received + receiver.decode(pieces[-1], final=True, limit=None) == message


@pytest.mark.parametrize("sender, receiver", list(itertools.product(BACK_ENDS, BACK_ENDS)))
def test_back_ends_understand_each_other_after_a_rest(sender: str, receiver: str) -> None:
    compressor, decompressor = back_end(sender), back_end(receiver)
    for bits, level in itertools.product((8, 9, 12, 15), (1, 4, 9)):
        here, there = transform(Deflate(level=level, min_size=0), bits=bits), transform(bits=bits)
        for message in (*MESSAGES, b"".join(MESSAGES), *MESSAGES):
            with compressing_with(compressor):
                fragments = compress(here, message[:100], message[100:])
                here.rest()
            with compressing_with(decompressor):
                assert decompress(there, *fragments) == message
                there.rest()


def test_rest_creates_nothing() -> None:
    library = Watched()
    with compressing_with(library):
        sender, receiver = transform(Deflate(), bits=12), transform(bits=12)
        sender.rest()
        receiver.rest()
        assert library.made == []
        assert decompress(receiver, *compress(sender, b"a" * 100)) == b"a" * 100
        assert library.made == [("compressobj", 4, zlib.DEFLATED, -12, 5), ("decompressobj", -12)]
        del library.made[:]
        for _ in range(3):
            sender.rest()
            receiver.rest()
        assert library.made == []
        for _ in range(2):
            assert decompress(receiver, *compress(sender, b"a" * 100)) == b"a" * 100
        assert library.made == [
            ("compressobj", 4, zlib.DEFLATED, -12, 5, zlib.Z_DEFAULT_STRATEGY, b"a" * 300),
            ("decompressobj", -12, b"a" * 300),
            ("decompressobj", -12, b"a" * 300),
        ]


@pytest.mark.parametrize("bits, takeover", [(9, True), (12, True), (15, True), (15, False)])
def test_memory_after_a_rest(bits: int, takeover: bool) -> None:
    def transfer(ends: Sequence[PerMessageDeflate]) -> None:
        for end in ends:
            for message in (*MESSAGES, noise(bits, 100_000), *one_by_one(noise(bits, 300))):
                assert decompress(end, *compress(end, message)) == message
            end.rest()

    transfer([transform()])  # allocates objects that are created only once
    ends = [transform(bits=bits, takeover=takeover) for _ in range(10)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        transfer(ends)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # One window for each direction.
    assert kept < len(ends) * (2 * 2**bits * takeover + 300)


@pytest.mark.parametrize("bits", [9, 15])
def test_the_history_is_bounded(bits: int) -> None:
    end = transform(bits=bits)
    for message in (*one_by_one(noise(0, 300)), noise(1, 2**bits - 1), b"", noise(2, 2**bits), noise(3, 100_000)):
        for _ in range(5):
            assert decompress(end, *compress(end, message)) == message
            for last in (end._sent_history, end._received_history):
                assert len(last) <= 1.25 * 2**bits
                assert sys.getsizeof(last) <= 1.5 * 2**bits + 100
                assert bytes(last).endswith(message[-(2**bits) :])


# -- Limits ----------------------------------------------------------------------------------------------------------


MIB = 2**20


@functools.cache
def bomb(mebibytes: int) -> bytes:
    """Return a compressed message of zeros, at about a thousandth of its size."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    # The first block has no history. All others are the same.
    first, other = (compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(2))
    return first + other * (mebibytes - 1) + b"\x00"


def too_big(events: Sequence[Event], limit: int) -> bool:
    """Whether the last event is MessageTooBig with this limit, and no other event is an error."""
    *before, error = events
    return (
        isinstance(error, MessageTooBig)
        and (error.code, error.limit) == (1009, limit)
        and error.size > limit
        and not any(isinstance(event, ProtocolError) for event in before)
    )


def fragments(message: bytes, count: int) -> list[bytes]:
    """Return a message in this many fragments, as a server sends it."""
    return frames_of(compress(transform(), *cut(message, range(0, len(message), -(-len(message) // count)))))


def frames_of(pieces: Sequence[bytes]) -> list[bytes]:
    """Return a frame for each piece of a compressed message."""
    last = len(pieces) - 1
    return [
        frame_to(Role.CLIENT, (0 if at else BINARY | RSV1) | (FIN if at == last else 0), piece)
        for at, piece in enumerate(pieces)
    ]


@pytest.mark.parametrize("limit", [100, 4096, 16384, 16385, 32768, 65536, MIB])
def test_exactly_the_limit_passes(limit: int) -> None:
    for count in [1, 2, 7]:
        whole, more = fragments(b"ab" * (limit // 2) + b"c" * (limit % 2), count), fragments(bytes(limit + 1), count)
        for receive_pieces in (list, join_all, byte_by_byte):
            (message,) = receive(*receive_pieces(whole), limit=limit)
            assert isinstance(message, bytes)
            assert len(message) == limit
            assert too_big(receive(*receive_pieces(more), limit=limit), limit)


def join_all(chunks: Iterable[bytes]) -> list[bytes]:
    return [b"".join(chunks)]


def byte_by_byte(chunks: Iterable[bytes]) -> list[bytes]:
    return one_by_one(b"".join(chunks))


@pytest.mark.parametrize("limit", range(20))
def test_a_small_limit(limit: int) -> None:
    for size in range(25):
        for data in (compress(transform(), bytes(size)), compress(transform(), bytes(size // 2), bytes(-(-size // 2)))):
            for pieces in (data, one_by_one(b"".join(data))):
                message = decompress(transform(), *pieces, limit=limit)
                assert message == bytes(min(size, limit + 1))


def test_the_limit_is_not_for_the_compressed_size() -> None:
    # A peer that flushes after each byte sends several times the size of the message.
    compressor = zlib.compressobj(wbits=-15)
    pieces = [compressor.compress(b"%c" % i) + compressor.flush(zlib.Z_SYNC_FLUSH) for i in range(100)]
    pieces[-1] = pieces[-1].removesuffix(b"\x00\x00\xff\xff")
    for wire in (frames_of([b"".join(pieces)]), frames_of(pieces)):
        assert sum(map(len, wire)) > 500
        assert receive(*wire, limit=100) == [bytes(range(100))]
        assert too_big(receive(*wire, limit=99), 99)


def test_every_message_has_the_whole_limit() -> None:
    sender, receiver = connect(max_message_size=1000)
    for _ in range(5):
        receiver.receive(b"".join(sender.encode(Opcode.BINARY, bytes(1000))))
    receiver.receive(b"".join(sender.encode(Opcode.BINARY, bytes(1001))))
    events = drain(receiver)
    assert events[:5] == [bytes(1000)] * 5
    assert too_big(events, 1000)


@pytest.mark.parametrize("runs", [1, 2, 50])
def test_streams_of_one_message_share_the_limit(runs: int) -> None:
    data = BFINAL[:-1] * runs + b"\x00"
    for pieces in ([data], one_by_one(data)):
        assert decompress(transform(), *pieces, limit=5 * runs) == b"Hello" * runs
        for limit in range(5 * runs):
            assert len(decompress(transform(), *pieces, limit=limit)) == limit + 1


@pytest.mark.parametrize("limit", [sys.maxsize - 1, sys.maxsize, sys.maxsize + 1, 2**100])
def test_a_limit_larger_than_memory(limit: int) -> None:
    assert receive(compressed_frame(HELLO), limit=limit) == [b"Hello"]


def peak_of(function: Any, *args: Any) -> int:
    """Return the peak of allocated memory during a call, in bytes."""
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_bomb_takes_no_more_memory_than_the_limit(at_once: bool) -> None:
    data = compressed_frame(bomb(100))
    assert len(data) < 2**17
    wire = [data] if at_once else cut(data, range(0, len(data), 1000))
    events: list[Event] = []
    # The output exists twice while its parts are joined.
    assert peak_of(lambda: events.extend(receive(*wire, limit=MIB))) < 3 * MIB
    assert too_big(events, MIB)


def test_a_bomb_in_fragments_takes_no_more_memory_than_the_limit() -> None:
    pieces = cut(bomb(100), range(0, MIB, 1000))
    wire = [compressed_frame(pieces[0], BINARY), *(frame_to(Role.CLIENT, CONT, piece) for piece in pieces[1:])]
    events: list[Event] = []
    assert peak_of(lambda: events.extend(receive(*wire, limit=5 * MIB))) < 13 * MIB
    assert too_big(events, 5 * MIB)


def test_a_gibibyte() -> None:
    data = bomb(1024)
    # zlib also copies the input that it has not processed.
    assert peak_of(lambda: transform().decode(data, final=True, limit=1000)) < len(data) + MIB


def test_no_limit() -> None:
    assert receive(compressed_frame(bomb(3))) == [bytes(3 * MIB)]
    assert receive(*one_by_one(compressed_frame(bomb(1)))) == [bytes(MIB)]


def test_many_streams_are_not_copied_repeatedly() -> None:
    """zlib copies the rest of its input at the end of each stream, and a stream can be as short as two bytes."""
    sizes: list[int] = []

    class Decompressor:
        def __init__(self, decompressor: Any) -> None:
            self._decompressor = decompressor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decompressor, name)

        def decompress(self, data: bytes, max_length: int) -> Any:
            sizes.append(len(data))
            return self._decompressor.decompress(data, max_length)

    class WatchedDecompressors(Watched):
        def decompressobj(self, *args: Any) -> Decompressor:
            return Decompressor(super().decompressobj(*args))

    with compressing_with(WatchedDecompressors()):
        assert decompress(transform(), b"\x03\x00" * 20_000 + HELLO) == b"Hello"
    assert len(sizes) > 20_000
    assert sum(sizes) < 20_000 * 5000


# -- Corrupt input ---------------------------------------------------------------------------------------------------


def outcome(*pieces: bytes, limit: int | None = MIB) -> bytes | type[Exception]:
    """Return the message in these pieces, or InvalidData. Other exceptions propagate."""
    try:
        return decompress(transform(), *pieces, limit=limit)
    except InvalidData:
        return InvalidData


def test_every_prefix_of_a_message() -> None:
    for message in MESSAGES:
        (data,) = compress(transform(), message)
        for size in range(len(data)):
            for pieces in ((data[:size],), one_by_one(data[:size]) or [b""]):
                # zlib may start a block anywhere. A message that ends at a block boundary is valid.
                result = outcome(*pieces)
                assert result is InvalidData or (size > 0 and isinstance(result, bytes) and message.startswith(result))
                assert result != message or not data[size:].strip(b"\x00")


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        # Within the tables of a block, where the appended tail is read as data.
        b"\x04\x00",
        # The same, and the appended empty last block ends the stream too early.
        bytes.fromhex("1d8ec1154431080269498e74a36df0523bcbdf4b"),
        # Within the content, and before its start.
        HELLO[:2],
        b"",
    ],
)
def test_a_message_that_ends_within_a_block(data: bytes, takeover: bool) -> None:
    (error,) = receive(compressed_frame(data), transforms=transform(takeover=takeover))
    assert type(error) is InvalidData


@pytest.mark.parametrize("data", [HELLO, BFINAL, b"\x00"])
@pytest.mark.parametrize("takeover", [True, False])
def test_every_prefix_of_a_message_in_one_block(data: bytes, takeover: bool) -> None:
    for size in range(len(data)):
        for wire in ([compressed_frame(data[:size])], one_by_one(compressed_frame(data[:size]))):
            (error,) = receive(*wire, transforms=transform(takeover=takeover))
            assert type(error) is InvalidData
            assert error.code == 1007


def test_the_appended_tail_is_not_content() -> None:
    """A block that lacks its last four bytes must not get them from the appended tail."""
    stored = bytes.fromhex("000500faff") + b"Hello\x00"
    assert zlib.decompressobj(-15).decompress(stored[:6] + TAIL) == b"H" + TAIL
    assert outcome(stored) == b"Hello"
    for size in range(2, len(stored)):
        assert outcome(stored[:size]) is InvalidData
        assert outcome(*one_by_one(stored[:size])) is InvalidData
    # The first byte alone is a valid empty message.
    assert outcome(stored[:1]) == b""


def test_every_bit_flipped() -> None:
    for message in MESSAGES:
        for data in (compress(transform(), message)[0], b"".join(compress(transform(), message[:50], message[50:]))):
            for position in range(8 * min(len(data), 150)):
                flipped = bytearray(data)
                flipped[position // 8] ^= 1 << position % 8
                result = outcome(bytes(flipped))
                assert result is InvalidData or isinstance(result, bytes)
                # And in one piece.
                for opcode in (TEXT, BINARY):
                    (event,) = receive(compressed_frame(bytes(flipped), FIN | opcode), limit=5000)
                    assert isinstance(event, (str, bytes)) or type(event) in (InvalidData, MessageTooBig)


@deterministic
@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([0, 5, 100, None]), st.booleans())
def test_any_bytes(first: bytes, second: bytes, limit: int | None, takeover: bool) -> None:
    def results(*messages: list[bytes]) -> list[bytes | None]:
        receiver = transform(takeover=takeover)
        found: list[bytes | None] = []
        for pieces in messages:
            try:
                message = decompress(receiver, *pieces, limit=limit)
            except InvalidData:
                message = None
            # If a message is both too large and corrupt after that, either error is fine.
            found.append(message if limit is None or message is None or len(message) <= limit else None)
            if found[-1] is None:
                break
        return found

    # The result does not depend on the pieces.
    at_once = results([first], [second])
    assert at_once == results(one_by_one(first) or [b""], one_by_one(second) or [b""])
    assert at_once == results([first[:20], first[20:]], [second[:3], b"", second[3:]])


@deterministic
@given(st.sampled_from(MESSAGES[2:]), st.binary(min_size=1, max_size=12), st.booleans())
def test_trailing_data(message: bytes, rest: bytes, final: bool) -> None:
    (data,) = compress(transform(), message)
    start = BFINAL[:-1] if final else data + TAIL
    result = outcome(start + rest)
    expected = b"Hello" if final else message
    assert isinstance(result, type) or result.startswith(expected)
    # Data after a last block is decompressed like a message of its own.
    alone = outcome(rest)
    if final:
        assert result == (alone if isinstance(alone, type) else expected + alone)


@pytest.mark.parametrize(
    "rest, expected",
    [
        # RFC 7692, section 7.2.3.4: the last octet is necessary.
        (b"", InvalidData),
        (b"\x00", b"Hello"),
        (b"\x02\x00", b"Hello"),
        # Two more streams, one of them empty.
        (b"\x03\x00\x00", b"Hello"),
        (b"\x03\x00" + BFINAL, b"HelloHello"),
        # The empty block at the end may be a last block.
        (b"\x01", b"Hello"),
        # Invalid DEFLATE: a block of type 3, a length that does not match its complement, a match without history.
        (b"\x07", InvalidData),
        (b"\x00" + TAIL[::-1], InvalidData),
        (bytes.fromhex("f2 00 11 00 00"), InvalidData),
        (TAIL, InvalidData),
    ],
)
def test_data_after_a_last_block(rest: bytes, expected: bytes | type[Exception]) -> None:
    data = BFINAL[:-1] + rest
    assert outcome(data) == expected
    assert outcome(*one_by_one(data)) == expected
    if expected is not InvalidData:
        # The next message starts with a new context, or with that of the last stream.
        receiver = transform()
        assert decompress(receiver, data) == expected
        assert decompress(receiver, HELLO) == b"Hello"


def test_the_tail_must_not_be_sent() -> None:
    assert outcome(HELLO + TAIL) is InvalidData
    assert outcome(TAIL) is InvalidData


def test_no_events_after_corrupt_data() -> None:
    for wrong in (b"\x07", HELLO[:3]):
        receiver = protocol(Role.CLIENT, extensions=[transform()])
        for data in (compressed_frame(HELLO), compressed_frame(wrong), compressed_frame(HELLO)):
            receiver.receive(data)
        assert [type(event) for event in drain(receiver)] == [bytes, InvalidData]


# -- The reserved bit -------------------------------------------------------------------------------------------------


def test_the_bit_is_on_the_first_frame_only() -> None:
    _, sender = connect()
    frames = [sender.encode(Opcode.TEXT, b"a" * 100, False), sender.encode(Opcode.CONT, b"b" * 100, False)]
    frames.append(sender.encode(Opcode.PING, b"c"))
    frames.append(sender.encode(Opcode.CONT, b"d" * 100))
    frames.append(sender.encode(Opcode.PONG, b"e"))
    assert [first_bytes(wire) for wire in frames] == [TEXT | RSV1, CONT, FIN | PING, FIN | CONT, FIN | PONG]
    # Control frames are not compressed.
    assert from_server(*frames[2]) == (FIN | PING, b"c")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("first_byte", [FIN | TEXT, FIN | BINARY, TEXT, BINARY])
def test_the_bit_is_rejected_without_an_agreement(role: Role, first_byte: int) -> None:
    wire = frame_to(role, first_byte | RSV1, HELLO)
    for pieces in ([wire], one_by_one(wire)):
        assert [event[0] for event in events_of(role, pieces)] == [ProtocolError]


def violations() -> Iterator[list[tuple[int, bytes]]]:
    begun = (TEXT | RSV1, HELLO[:3])
    for rsv in (RSV1, RSV2, RSV1 | RSV2):
        # On control frames, alone and between fragments.
        for opcode in (PING, PONG, 0x8):
            yield [(FIN | opcode | rsv, b"")]
            yield [begun, (FIN | opcode | rsv, b"")]
        # On continuations of a compressed and an uncompressed message.
        for fin in (FIN, 0):
            yield [begun, (fin | CONT | rsv, HELLO[3:])]
            yield [(TEXT, b"plain"), (fin | CONT | rsv, HELLO)]
            yield [(fin | CONT | rsv, HELLO)]
        # On a message within another message.
        yield [begun, (FIN | TEXT | rsv, HELLO)]
    # A bit that was not negotiated.
    yield [(FIN | TEXT | RSV2, HELLO)]
    yield [(FIN | TEXT | RSV1 | RSV2, HELLO)]


@pytest.mark.parametrize("role", ROLES)
def test_the_bit_is_rejected_elsewhere(role: Role) -> None:
    for frames in list(violations()):
        wire = b"".join(frame_to(role, first_byte, payload) for first_byte, payload in frames)
        for pieces in ([wire], one_by_one(wire)):
            events = events_of(role, pieces, extensions=[transform()])
            assert [event[0] for event in events] == [ProtocolError]
            assert events[0][1] == 1002


@pytest.mark.parametrize("role", ROLES)
def test_control_frames_change_nothing(role: Role) -> None:
    controls = frame_to(role, FIN | PING, b"1") + frame_to(role, FIN | PONG, HELLO) + frame_to(role, FIN | PING, b"")
    wire = controls
    for at, byte in enumerate(one_by_one(HELLO[:-1])):
        wire += frame_to(role, CONT if at else BINARY | RSV1, byte) + controls
    wire += frame_to(role, FIN | CONT, HELLO[-1:]) + controls + frame_to(role, FIN | TEXT, b"plain") + controls
    for pieces in ([wire], one_by_one(wire)):
        events = events_of(role, pieces, extensions=[transform()])
        assert [event for event in events if event[0] is not Frame] == [(bytes, b"Hello"), (str, "plain")]
        assert events[:3] == [
            comparable(Frame(Opcode.PING, b"1")),
            comparable(Frame(Opcode.PONG, HELLO)),
            comparable(Frame(Opcode.PING, b"")),
        ]
        assert len(events) == 3 * (len(HELLO) + 2) + 2


def test_uncompressed_messages_may_be_received() -> None:
    again = bytes.fromhex("f2 00 11 00 00")
    wire = [compressed_frame(HELLO, FIN | TEXT)]
    for plain in (b"", b"plain" * 10_000):
        wire.append(frame_to(Role.CLIENT, FIN | BINARY, plain))
        wire.append(frame_to(Role.CLIENT, BINARY, plain) + frame_to(Role.CLIENT, FIN | CONT, plain))
        wire.append(compressed_frame(again, FIN | TEXT))
    many = b"plain" * 10_000
    assert receive(*wire) == ["Hello", b"", b"", "Hello", many, many + many, "Hello"]
