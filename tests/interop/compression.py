"""Tests of compression with other libraries: the negotiation, and the data on the wire."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import attrs
import trio

from trio_ws import Deflate

#: Our option ``compression``.
Ours: TypeAlias = Literal["deflate"] | Deflate | None

#: The options of the other library; ``"default"`` for its defaults, None for no compression.
Theirs: TypeAlias = Mapping[str, Any] | Literal["default"] | None

#: Our default window.
OUR_BITS = 12

HEADER = "Sec-WebSocket-Extensions"


class Passed(NamedTuple):
    """A message on the wire.

    Attributes:
        compressed: Whether it is marked as compressed.
        sizes: The sizes of the payloads of its frames.
    """

    compressed: bool
    sizes: list[int]

    @property
    def size(self) -> int:
        return sum(self.sizes)


class Wire:
    """Forwards and records the data of one connection. Its ends are ``"client"`` and ``"server"``."""

    def __init__(self) -> None:
        self._logs = {"client": bytearray(), "server": bytearray()}
        self._taken = {"client": 0, "server": 0}

    @contextlib.asynccontextmanager
    async def tap(self, port: int) -> AsyncIterator[int]:
        """Listen on a new port, and forward connections to another one. Yield the new port."""
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, partial(self._relay, port), 0, host="127.0.0.1")
            listeners: list[trio.SocketListener] = await nursery.start(serve)
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    async def _relay(self, port: int, client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, "client", client, server)
            nursery.start_soon(self._copy, "server", server, client)

    async def _copy(self, sender: str, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        # After the closing handshake, an end need not wait for the other one to disconnect.
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in source:
                self._logs[sender] += data
                await sink.send_all(data)
            await sink.send_eof()

    def take(self, sender: str) -> list[Passed]:
        """Return the messages that an end has sent since the last call."""
        log = self._logs[sender]
        position = self._taken[sender] or log.index(b"\r\n\r\n") + 4
        messages = []
        compressed, sizes = False, []
        while position + 2 <= len(log):
            first, second = log[position : position + 2]
            start, size = position + 2, second & 0x7F
            if size > 125:
                width = 2 if size == 126 else 8
                size = int.from_bytes(log[start : start + width], "big")
                start += width
            position = start + size + (4 if second & 0x80 else 0)
            if position > len(log):
                break
            opcode, rsv = first & 0x0F, first & 0x70
            # Only the first frame of a message is marked as compressed (RFC 7692, section 6).
            assert rsv in ((0x00, 0x40) if opcode in (1, 2) else (0x00,))
            if opcode < 8:
                compressed = bool(rsv) if opcode else compressed
                sizes.append(size)
                if first & 0x80:
                    messages.append(Passed(compressed, sizes))
                    self._taken[sender], sizes = position, []
        return messages


@attrs.frozen
class Answer:
    """The parameters of permessage-deflate in a response. Bits of None stand for 15."""

    server_bits: int | None = None
    client_bits: int | None = None
    server_takeover: bool = attrs.field(default=True, kw_only=True)
    client_takeover: bool = attrs.field(default=True, kw_only=True)

    @classmethod
    def parse(cls, header: str | None) -> Answer | None:
        if header is None:
            return None
        name, *params = header.split("; ")
        assert name == "permessage-deflate"
        values: dict[str, str] = {}
        for param in params:
            key, _, value = param.partition("=")
            assert key not in values
            values[key] = value
        bits = [int(values.pop(f"{end}_max_window_bits", 0)) or None for end in ("server", "client")]
        takeover = [values.pop(f"{end}_no_context_takeover", None) is None for end in ("server", "client")]
        assert not values
        return cls(*bits, server_takeover=takeover[0], client_takeover=takeover[1])


@attrs.frozen
class Negotiation:
    """The settings of the two ends, and the expected agreement.

    Attributes:
        role: Our role.
        name: A name for the combination of settings.
        ours: Our settings.
        theirs: The settings of the library.
        answer: The parameters in the response; None for no compression.
        threshold: Minimum size of the messages that the library compresses.
    """

    role: str
    name: str
    ours: Ours
    theirs: Theirs
    answer: Answer | None
    threshold: int = 0

    def __str__(self) -> str:
        return f"{self.role}: {self.name}"

    @property
    def offered(self) -> bool:
        """Whether the client offers compression."""
        return (self.ours if self.role == "client" else self.theirs) is not None


@attrs.frozen
class Direction:
    """One direction of a connection, and its expected properties.

    Attributes:
        wire: The wire between the ends.
        sender: The sending end.
        send: A function that sends.
        receive: A function that receives at the other end.
        compresses: Whether messages are compressed.
        min_size: Minimum size of the messages that are compressed.
        bits: The window bits.
        finds: Whether the compressor finds matches in the window.
        takeover: Whether the window is kept between messages.
    """

    wire: Wire
    sender: str
    send: Callable[[Any], Awaitable[object]]
    receive: Callable[[], Awaitable[object]]
    compresses: bool = False
    min_size: int = 0
    bits: int = 15
    finds: bool = False
    takeover: bool = True

    @classmethod
    def make(cls, negotiation: Negotiation, wire: Wire, ours: bool, send: Any, receive: Any) -> Direction:
        answer, settings = negotiation.answer, negotiation.ours
        client = (negotiation.role == "client") is ours
        sender = "client" if client else "server"
        if answer is None:
            return cls(wire, sender, send, receive)
        bits = (answer.client_bits if client else answer.server_bits) or 15
        takeover = answer.client_takeover if client else answer.server_takeover
        if not ours:
            return cls(wire, sender, send, receive, True, negotiation.threshold, bits, True, takeover)
        settings = settings if isinstance(settings, Deflate) else Deflate()
        if client:
            # A client may use a smaller window than negotiated.
            bits = min(bits, settings.client_max_window_bits or OUR_BITS)
            takeover = takeover and not settings.client_no_context_takeover
        # zlib has no matches in a window of 8 bits, and neither have we.
        return cls(wire, sender, send, receive, True, settings.min_size, bits, bits > 8, takeover)

    async def exchange(self, *messages: str | bytes) -> list[Passed]:
        """Send messages, and check that they arrive, and their form on the wire."""

        async def send() -> None:
            for message in messages:
                await self.send(message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for message in messages:
                # Not in the assertion, whose message would take forever.
                same = await self.receive() == message
                assert same
        passed = self.wire.take(self.sender)
        assert len(passed) == len(messages)
        for message, each in zip(messages, passed, strict=True):
            size = len(message.encode() if isinstance(message, str) else message)
            assert each.compressed is (self.compresses and size >= self.min_size)
            assert each.compressed or each.size == size
        return passed


#: Our settings, by name. "Alone" is without context takeover.
OURS: dict[str, Ours] = {
    "off": None,
    "default": "deflate",
    "every size": Deflate(min_size=0),
    "server alone": Deflate(server_no_context_takeover=True),
    "client alone": Deflate(client_no_context_takeover=True),
    "both alone": Deflate(server_no_context_takeover=True, client_no_context_takeover=True),
    "9 and 10 bits": Deflate(server_max_window_bits=9, client_max_window_bits=10),
    "10 and 9 bits": Deflate(server_max_window_bits=10, client_max_window_bits=9, level=1, mem_level=1),
    "8 bits for the server": Deflate(server_max_window_bits=8),
    "8 bits for the client": Deflate(client_max_window_bits=8),
    "15 bits": Deflate(server_max_window_bits=15, client_max_window_bits=15, level=9, mem_level=9),
}

#: Our answers with these settings as a server. By default, all libraries let us choose their window.
OUR_ANSWERS: dict[str, Answer | None] = {
    "off": None,
    "default": Answer(12, 12),
    "every size": Answer(12, 12),
    "server alone": Answer(12, 12, server_takeover=False),
    "client alone": Answer(12, 12, client_takeover=False),
    "both alone": Answer(12, 12, server_takeover=False, client_takeover=False),
    "9 and 10 bits": Answer(9, 10),
    "10 and 9 bits": Answer(10, 9),
    "8 bits for the server": Answer(8, 12),
    "15 bits": Answer(15, 15),
}


def ours(role: str, answers: Mapping[str, Answer | None]) -> list[Negotiation]:
    """Return the negotiations with our settings and the defaults of the library."""
    return [Negotiation(role, name, OURS[name], "default", answer) for name, answer in answers.items()]


def theirs(role: str, *cases: tuple[str, Theirs, Answer | None]) -> list[Negotiation]:
    """Return the negotiations with settings of the library and our defaults."""
    return [Negotiation(role, f"their {name}", "deflate", options, answer) for name, options, answer in cases]
