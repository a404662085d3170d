"""Interoperability of compression and its negotiation with two other libraries.

The tests never ask these libraries to compress with a window of 8 bits, because zlib cannot do that.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import attrs
import pytest
import websockets.exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate as TheirDeflate,
)
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as TheirProtocol
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage
from wsproto.events import Message as TheirMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from trio_ws.exceptions import NegotiationError
from trio_ws.frames import Opcode
from trio_ws.protocol import Message, Role
from trio_ws.protocol.deflate import Deflate, DeflateClient, DeflateServer, PerMessageDeflate
from trio_ws.protocol.grammar import build_extensions, parse_extensions

from .strategies import OTHER, compressible, deflates, deterministic, drain, positions, protocol, split

# Each test runs with each compression library. The fixture needs no reset between two examples.
pytestmark = pytest.mark.usefixtures("zlib_module")
deterministic = settings(
    deterministic, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

#: The fragments of a message: all str, or all bytes.
Fragments: TypeAlias = Sequence[Message]


@st.composite
def fragmented(draw: st.DrawFn) -> Fragments:
    where = draw(positions)
    if draw(st.booleans()):
        return [part for part, _ in split(draw(compressible), where)]
    text = draw(st.text(max_size=50)) * draw(st.sampled_from([1, 20]))
    borders = [0, *sorted(min(position, len(text)) for position in where), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


def join(fragments: Fragments) -> Message:
    return type(fragments[0])().join(fragments)  # type: ignore[arg-type]  # all are of one type


def raw(part: Message) -> bytes:
    return part.encode() if isinstance(part, str) else part


class Ours:
    """This library."""

    def __init__(self, role: Role, transform: PerMessageDeflate) -> None:
        self._protocol = protocol(role, extensions=[transform])

    def send(self, fragments: Fragments) -> bytes:
        opcode = Opcode.TEXT if isinstance(fragments[0], str) else Opcode.BINARY
        wire = b""
        for index, part in enumerate(fragments):
            wire += b"".join(self._protocol.encode(opcode, raw(part), index == len(fragments) - 1))
            opcode = Opcode.CONT
        return wire

    def receive(self, wire: bytes) -> Sequence[object]:
        self._protocol.receive(wire)
        return drain(self._protocol)


class Websockets:
    """websockets, without I/O."""

    def __init__(self, role: Role, transform: TheirDeflate) -> None:
        self._protocol = TheirProtocol(Side.CLIENT if role is Role.CLIENT else Side.SERVER, state=OPEN, max_size=None)
        self._protocol.extensions = [transform]
        self._begun: list[bytes] = []
        self._is_text = False

    def send(self, fragments: Fragments) -> bytes:
        for index, part in enumerate(fragments):
            data, fin = raw(part), index == len(fragments) - 1
            if index:
                self._protocol.send_continuation(data, fin)
            elif isinstance(part, str):
                self._protocol.send_text(data, fin)
            else:
                self._protocol.send_binary(data, fin)
        return b"".join(self._protocol.data_to_send())

    def receive(self, wire: bytes) -> Sequence[object]:
        self._protocol.receive_data(wire)
        messages: list[Message] = []
        for frame in self._protocol.events_received():
            assert not isinstance(frame, Exception)
            opcode, data, fin = _fields(frame)
            if opcode is not TheirOpcode.CONT:
                self._is_text = opcode is TheirOpcode.TEXT
            self._begun.append(data)
            if fin:
                whole = b"".join(self._begun)
                messages.append(whole.decode() if self._is_text else whole)
                self._begun.clear()
        assert self._protocol.parser_exc is None
        return messages


def _fields(frame: Any) -> tuple[TheirOpcode, bytes, bool]:
    return frame.opcode, bytes(frame.data), frame.fin


class Wsproto:
    """wsproto. Without pings between fragments, because it would forget whether the message is compressed."""

    def __init__(self, role: Role, transform: WsprotoDeflate) -> None:
        assert transform.enabled()
        kind = ConnectionType.CLIENT if role is Role.CLIENT else ConnectionType.SERVER
        self._connection = Connection(kind, [transform])
        self._begun: list[Any] = []

    def send(self, fragments: Fragments) -> bytes:
        wire = b""
        for index, part in enumerate(fragments):
            finished = index == len(fragments) - 1
            message: TheirMessage[Any] = (
                TextMessage(part, message_finished=finished)
                if isinstance(part, str)
                else BytesMessage(raw(part), message_finished=finished)
            )
            wire += self._connection.send(message)
        return wire

    def receive(self, wire: bytes) -> Sequence[object]:
        self._connection.receive_data(wire)
        messages: list[Any] = []
        for event in self._connection.events():
            assert isinstance(event, TheirMessage)
            self._begun.append(event.data if isinstance(event.data, str) else bytes(event.data))
            if event.message_finished:
                messages.append(type(self._begun[0])().join(self._begun))
                self._begun.clear()
        return messages


def talk(ours: Ours, theirs: Websockets | Wsproto, conversation: Sequence[Fragments]) -> None:
    """Let both ends send all messages in turn."""
    for fragments in conversation:
        assert theirs.receive(ours.send(fragments)) == [join(fragments)]
        assert ours.receive(theirs.send(fragments)) == [join(fragments)]


def nine(value: int | None) -> int | None:
    return value and max(value, 9)


#: Settings with which the server does not compress with a window of 8 bits, the client does not, or neither does.
servers_from_9 = deflates.map(lambda each: attrs.evolve(each, server_max_window_bits=nine(each.server_max_window_bits)))
clients_from_9 = deflates.map(lambda each: attrs.evolve(each, client_max_window_bits=nine(each.client_max_window_bits)))
from_9 = servers_from_9.map(lambda each: attrs.evolve(each, client_max_window_bits=nine(each.client_max_window_bits)))

conversations = st.lists(fragmented(), min_size=1, max_size=4)


# -- websockets ------------------------------------------------------------------------------------------------------

bits_8 = st.none() | st.integers(8, 15)
bits_9 = st.none() | st.integers(9, 15)
compress_settings = st.fixed_dictionaries({"level": st.sampled_from([1, 6, 9]), "memLevel": st.integers(1, 9)})

websockets_servers = st.builds(
    ServerPerMessageDeflateFactory,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=bits_9,
    client_max_window_bits=bits_8,
    compress_settings=compress_settings,
)
websockets_clients = st.builds(
    ClientPerMessageDeflateFactory,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=bits_8,
    client_max_window_bits=bits_9 | st.just(True),
    compress_settings=compress_settings,
)


def check_agreement(ours: PerMessageDeflate, send_at_most: int, theirs: TheirDeflate) -> None:
    """Check that both have the same parameters. We may use a smaller window than negotiated."""
    assert ours.send_bits == min(theirs.remote_max_window_bits, send_at_most)
    assert ours.receive_bits >= theirs.local_max_window_bits
    assert ours.send_takeover is not theirs.remote_no_context_takeover
    assert ours.receive_takeover is not theirs.local_no_context_takeover


@deterministic
@given(servers_from_9, websockets_servers, conversations)
def test_websockets_answers(
    client: Deflate, server: ServerPerMessageDeflateFactory, conversation: Sequence[Fragments]
) -> None:
    (offer,) = DeflateClient(client).offers()
    params, theirs = server.process_request_params(offer, [])
    assert isinstance(theirs, TheirDeflate)
    ours = DeflateClient(client).accept(tuple(params))
    check_agreement(ours, client.client_max_window_bits or 12, theirs)
    talk(Ours(Role.CLIENT, ours), Websockets(Role.SERVER, theirs), conversation)


@deterministic
@given(websockets_clients, clients_from_9, conversations)
def test_websockets_offers(
    client: ClientPerMessageDeflateFactory, server: Deflate, conversation: Sequence[Fragments]
) -> None:
    offer = tuple(client.get_request_params())
    answer = DeflateServer(server).answer(offer)
    assert answer is not None
    params, ours = answer
    theirs = client.process_response_params(params, [])
    assert isinstance(theirs, TheirDeflate)
    check_agreement(ours, 15, theirs)
    talk(Ours(Role.SERVER, ours), Websockets(Role.CLIENT, theirs), conversation)


@deterministic
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "server_no_context_takeover",
                    "client_no_context_takeover",
                    "server_max_window_bits",
                    "client_max_window_bits",
                    "unknown",
                ]
            ),
            st.none() | st.sampled_from(["7", "8", "9", "10", "15", "16", "08", "abc", "true"]),
        ),
        max_size=3,
    ).map(tuple),
    st.builds(Deflate, server_max_window_bits=st.none() | st.just(10), server_no_context_takeover=st.booleans()),
)
def test_websockets_rejects_the_same_answers(params: Any, client: Deflate) -> None:
    def accepts(function: Any, *args: Any) -> bool:
        try:
            return function(*args) is not None
        except (NegotiationError, websockets.exceptions.InvalidHandshake):
            return False

    if ("server_max_window_bits", "8") not in params:
        their_server = ServerPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12)
        assert accepts(DeflateServer(Deflate()).answer, params) == accepts(
            their_server.process_request_params, params, []
        )
    if ("client_max_window_bits", "8") not in params:
        their_client = ClientPerMessageDeflateFactory(
            server_max_window_bits=client.server_max_window_bits,
            server_no_context_takeover=client.server_no_context_takeover,
        )
        assert accepts(DeflateClient(client).accept, params) == accepts(
            their_client.process_response_params, params, []
        )


# -- wsproto ---------------------------------------------------------------------------------------------------------


@st.composite
def wsproto_ends(draw: st.DrawFn) -> WsprotoDeflate:
    return WsprotoDeflate(
        client_no_context_takeover=draw(st.booleans()),
        server_no_context_takeover=draw(st.booleans()),
        client_max_window_bits=draw(bits_9),
        server_max_window_bits=draw(bits_9),
    )


@deterministic
@given(from_9, wsproto_ends(), conversations)
def test_wsproto_answers(client: Deflate, theirs: WsprotoDeflate, conversation: Sequence[Fragments]) -> None:
    (offer,) = DeflateClient(client).offers()
    answer = theirs.accept(build_extensions([("permessage-deflate", offer)]))
    assert isinstance(answer, str)
    ((_, params),) = parse_extensions("", ["; ".join(filter(None, ["permessage-deflate", answer]))])
    ours = DeflateClient(client).accept(params)
    assert ours.send_bits == min(theirs.client_max_window_bits, client.client_max_window_bits or 12)
    # wsproto does not use settings of its own that it did not send.
    assert ours.receive_bits >= theirs.server_max_window_bits
    assert ours.send_takeover is not theirs.client_no_context_takeover
    assert ours.receive_takeover is not theirs.server_no_context_takeover
    talk(Ours(Role.CLIENT, ours), Wsproto(Role.SERVER, theirs), conversation)


@deterministic
@given(wsproto_ends(), from_9, conversations)
def test_wsproto_offers(theirs: WsprotoDeflate, server: Deflate, conversation: Sequence[Fragments]) -> None:
    ((_, offer),) = parse_extensions("", [f"permessage-deflate; {theirs.offer()}"])
    answer = DeflateServer(server).answer(offer)
    assert answer is not None
    params, ours = answer
    theirs.finalize(build_extensions([("permessage-deflate", params)]))
    assert (ours.send_bits, ours.receive_bits) == (theirs.server_max_window_bits, theirs.client_max_window_bits)
    assert ours.send_takeover is not theirs.server_no_context_takeover
    assert ours.receive_takeover is not theirs.client_no_context_takeover
    talk(Ours(Role.SERVER, ours), Wsproto(Role.CLIENT, theirs), conversation)


# -- Both ------------------------------------------------------------------------------------------------------------


@deterministic
@given(deflates, st.integers(9, 15), st.booleans(), st.sampled_from(list(OTHER)), conversations)
def test_the_transform_alone(
    settings: Deflate, bits: int, takeover: bool, role: Role, conversation: Sequence[Fragments]
) -> None:
    """Test every window in both directions, without the negotiation."""

    def ours() -> Ours:
        transform = PerMessageDeflate(
            settings, send_bits=bits, receive_bits=bits, send_takeover=takeover, receive_takeover=takeover
        )
        return Ours(role, transform)

    talk(ours(), Websockets(OTHER[role], TheirDeflate(not takeover, not takeover, bits, bits)), conversation)
    wsproto = WsprotoDeflate(not takeover, bits, not takeover, bits)
    wsproto.finalize("permessage-deflate")
    talk(ours(), Wsproto(OTHER[role], wsproto), conversation)
