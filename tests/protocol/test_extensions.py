"""The interfaces of extensions, with small extensions that are negotiated and then transform messages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given

from trio_ws.exceptions import MessageTooBig, NegotiationError
from trio_ws.frames import Frame, Opcode
from trio_ws.protocol import Protocol, Role
from trio_ws.protocol.codec import RSV2, RSV3
from trio_ws.protocol.extensions import ClientExtension, EncodingCache, Extension, Params, ServerExtension
from trio_ws.protocol.handshake import Agreement, accept, build_request, check_response
from trio_ws.uri import parse_uri

from .strategies import (
    AnswerReverse,
    Counting,
    OfferReverse,
    Repeat,
    Repeats,
    Reverse,
    deterministic,
    drain,
    no_random,
    payloads,
    positions,
    split,
)

# mypy checks these lines.
_reverse: Extension = Reverse()
_repeat: Extension = Repeat(2)
_offers: list[ClientExtension] = [OfferReverse(), Repeats()]
_answers: list[ServerExtension] = [AnswerReverse(), Repeats()]


def negotiate(
    client: Sequence[ClientExtension], server: Sequence[ServerExtension]
) -> tuple[Agreement, Agreement, str | None]:
    """Return the agreements of client and server, and the server's header."""
    request = build_request(parse_uri("ws://example.org/"), random=Counting(), extensions=client)
    response, agreed_by_server = accept(request, extensions=server)
    agreed_by_client = check_response(request, response, extensions=client)
    return agreed_by_client, agreed_by_server, response.headers.get("Sec-WebSocket-Extensions")


def connect(
    client: Sequence[ClientExtension],
    server: Sequence[ServerExtension],
    *,
    max_message_size: int | None = None,
) -> tuple[Protocol, Protocol]:
    agreed_by_client, agreed_by_server, _ = negotiate(client, server)
    return (
        Protocol(
            Role.CLIENT,
            random=Counting(),
            max_message_size=max_message_size,
            extensions=agreed_by_client.extensions,
        ),
        Protocol(
            Role.SERVER,
            random=no_random,
            max_message_size=max_message_size,
            extensions=agreed_by_server.extensions,
        ),
    )


@pytest.mark.parametrize(
    "offers, answers, rsv, header",
    [
        ([], [], [], None),
        ([OfferReverse()], [], [], None),
        ([], [AnswerReverse()], [], None),
        ([OfferReverse()], [AnswerReverse()], [RSV2], "x-reverse"),
        # The first alternative that the server supports.
        (
            [OfferReverse((("level", "9"),), (("level", "1"), ("fast", None)), ())],
            [AnswerReverse((("level", "1"), ("fast", None)))],
            [RSV2],
            "x-reverse; level=1; fast",
        ),
        ([OfferReverse((("level", "9"),))], [AnswerReverse()], [], None),
        # Two extensions, in the client's order.
        ([OfferReverse(), Repeats()], [Repeats(), AnswerReverse()], [RSV2, RSV3], "x-reverse, x-repeat; times=2"),
        ([Repeats(), OfferReverse()], [Repeats(), AnswerReverse()], [RSV3, RSV2], "x-repeat; times=2, x-reverse"),
        # Two extensions with the same bit: the first offer wins.
        ([OfferReverse(), Repeats(2, RSV2)], [AnswerReverse(), Repeats(2, RSV2)], [RSV2], "x-reverse"),
        ([Repeats(2, RSV2), OfferReverse()], [AnswerReverse(), Repeats(2, RSV2)], [RSV2], "x-repeat; times=2"),
    ],
)
def test_negotiation(
    offers: list[ClientExtension], answers: list[ServerExtension], rsv: list[int], header: str | None
) -> None:
    agreed_by_client, agreed_by_server, answer = negotiate(offers, answers)
    assert [extension.rsv for extension in agreed_by_client.extensions] == rsv
    assert [extension.rsv for extension in agreed_by_server.extensions] == rsv
    assert list(map(type, agreed_by_client.extensions)) == list(map(type, agreed_by_server.extensions))
    assert answer == header


def test_the_client_checks_the_answer() -> None:
    class Liar(AnswerReverse):
        def answer(self, params: Params) -> tuple[Params, Extension] | None:
            return (("level", "10"),), Reverse()

    with pytest.raises(NegotiationError):
        negotiate([OfferReverse((("level", "9"),))], [Liar()])


@deterministic
@given(positions, payloads)
def test_messages_both_ways(where: list[int], payload: bytes) -> None:
    negotiated: list[tuple[list[ClientExtension], list[ServerExtension]]] = [
        ([OfferReverse()], [AnswerReverse()]),
        ([OfferReverse(), Repeats(1)], [AnswerReverse(), Repeats(1)]),
        ([], []),
    ]
    for offers, answers in negotiated:
        ends = connect(offers, answers)
        for sender, receiver in itertools.permutations(ends):
            opcode = Opcode.BINARY
            for fragment, final in split(payload, where):
                receiver.receive(b"".join(sender.encode(opcode, fragment, final)))
                receiver.receive(b"".join(sender.encode(Opcode.PING, b"between")))
                opcode = Opcode.CONT
            for data in sender.encode(Opcode.TEXT, b"t"):
                receiver.receive(data)
            *events, text = drain(receiver)
            assert text == "t"
            assert [event for event in events if type(event) is not Frame] == [payload]
            assert len(events) == len(where) + 2


def test_wire_format() -> None:
    client, server = connect([OfferReverse()], [AnswerReverse()])
    assert b"".join(server.encode(Opcode.TEXT, b"hello")) == b"\xa1\x05olleh"
    # Only the first frame is marked, ...
    assert b"".join(server.encode(Opcode.BINARY, b"ab", False)) == b"\x22\x00"
    assert b"".join(server.encode(Opcode.CONT, b"cd", False)) == b"\x00\x00"
    # ... control frames are unchanged, ...
    assert b"".join(server.encode(Opcode.PING, b"ping")) == b"\x89\x04ping"
    assert b"".join(server.encode(Opcode.CONT, b"ef", True)) == b"\x80\x06fedcba"
    # ... and an extension need not mark every message.
    assert b"".join(server.encode(Opcode.TEXT, b"x")) == b"\x81\x01x"
    client.receive(b"\xa1\x05olleh\x22\x00\x00\x00\x89\x04ping\x80\x06fedcba\x81\x01x")
    assert drain(client) == ["hello", Frame(Opcode.PING, b"ping"), b"abcdef", "x"]


def test_the_order_of_two() -> None:
    client, server = connect([OfferReverse(), Repeats(2)], [AnswerReverse(), Repeats(2)])
    # Reversed, then halved; doubled, then reversed.
    assert b"".join(server.encode(Opcode.BINARY, b"ccbbaa")) == b"\xb2\x03abc"
    client.receive(b"\xb2\x03abc")
    assert drain(client) == [b"ccbbaa"]


@pytest.mark.parametrize("marks", [RSV2, RSV3, RSV2 | RSV3])
def test_marks_are_rejected_without_an_agreement(marks: int) -> None:
    client, _ = connect([], [])
    client.receive(bytes([0x82 | marks, 0x00]))
    (event,) = drain(client)
    assert getattr(event, "code", None) == 1002


def test_limits() -> None:
    client, _ = connect([Repeats(1000)], [Repeats(1000)], max_message_size=5000)
    client.receive(b"\x92\x05abcde")
    assert drain(client) == [b"".join(bytes([octet]) * 1000 for octet in b"abcde")]
    client.receive(b"\x12\x03abc\x80\x03def")
    (event,) = drain(client)
    assert isinstance(event, MessageTooBig)


def test_a_new_cache_is_empty() -> None:
    cache = EncodingCache()
    assert (cache.payloads, cache.frames) == ({}, {})
