"""For tests: two WebSockets without a network, a peer that follows a script, streams that fail where they are told to.

Nothing in here sleeps in earnest or does anything by chance, so with Trio's clock for tests
(:class:`trio.testing.MockClock`) the same happens each time. :mod:`trio_ws` does not import it::

    import trio_ws.testing
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trio.testing

from .client import connect_over
from .exceptions import ProtocolError
from .frames import Frame, Opcode
from .http11 import Request, RequestParser, Response, ResponseParser
from .protocol import Role
from .protocol.codec import FIN, RSV1, RSV2, RSV3, FrameDecoder, serialize
from .protocol.handshake import accept, build_request, check_response
from .server import open_connection, upgrade
from .settings import Options, Settings
from .uri import parse_uri
from .websocket import Session, WebSocket

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Corrupt",
    "Delay",
    "Drop",
    "Fault",
    "FaultyStream",
    "Reset",
    "Role",
    "ScriptedPeer",
    "Split",
    "Stall",
    "memory_websocket_pair",
]

#: What a client in memory asks for.
URI = "ws://memory.test/"

#: What a scripted client masks its frames with.
KEY = b"\x37\xfa\x21\x3d"


# -- Two WebSockets ------------------------------------------------------------------------------------------------


class memory_websocket_pair:
    """Two WebSockets that are connected with each other, for as long as a block.

    ::

        async with memory_websocket_pair() as (client, server):
            await client.send("hello")
            assert await server.receive() == "hello"

    Leaving the block closes both, the client first. What the block raises comes out as it is.

    Args:
        streams: What is between them: the client's end and the server's, for example of
            :func:`trio.testing.lockstep_stream_pair`, or in a :class:`FaultyStream`. The default is
            :func:`trio.testing.memory_stream_pair`.
        handshake: Whether the opening handshake goes over these streams. Otherwise nothing but frames does; what would
            have been agreed on is agreed on all the same.
        uri: What the client asks for.
        **options: See :class:`~trio_ws.Options`. They are for both ends.

    Raises:
        Exception: as :func:`~trio_ws.connect` does, on entering the block, if there is a handshake.
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
        *,
        handshake: bool = False,
        uri: str = URI,
        **options: Unpack[Options],
    ) -> None:
        self._client_stream, self._server_stream = streams or trio.testing.memory_stream_pair()
        self._connecting = connect_over(self._client_stream, uri, **options)
        self._settings = Settings(**options)
        self._handshake = handshake
        self._sessions = contextlib.AsyncExitStack()

    async def __aenter__(self) -> tuple[WebSocket, WebSocket]:
        client, server = await self._shake_hands() if self._handshake else self._agree()
        await self._sessions.enter_async_context(Session(server))
        await self._sessions.enter_async_context(Session(client))
        return client, server

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._sessions.__aexit__(exc_type, exc, traceback)

    def _agree(self) -> tuple[WebSocket, WebSocket]:
        server = upgrade(self._server_stream, self._connecting.request, self._settings)
        return self._connecting.upgrade(self._client_stream, server.response), server

    async def _shake_hands(self) -> tuple[WebSocket, WebSocket]:
        client = server = failure = None

        async def serve() -> None:
            nonlocal server
            server = await open_connection(self._server_stream, self._settings)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                try:
                    client = await self._connecting.open()
                except Exception as exc:  # raised below, out of the nursery's reach
                    failure = exc
                    nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            assert client is not None
            assert server is not None  # it has answered
        except BaseException:
            await trio.aclose_forcefully(self._client_stream)
            await trio.aclose_forcefully(self._server_stream)
            raise
        return client, server


# -- A peer that follows a script ----------------------------------------------------------------------------------


class ScriptedPeer:
    """One end of a connection that does what a test says, be it right or wrong, and nothing else.

    It answers no ping and no Close frame by itself. ::

        client_end, server_end = trio.testing.memory_stream_pair()
        nursery.start_soon(program_under_test, client_end)
        peer = ScriptedPeer(server_end)
        await peer.handshake()
        await peer.send(Frame(Opcode.TEXT, b"half a mess", fin=False), Frame(Opcode.PING, b""))
        assert await peer.receive() == Frame(Opcode.PONG, b"")

    Args:
        stream: The stream. From now on it belongs to the peer.
        role: Which end the peer is: the server where a client is tested.
    """

    def __init__(self, stream: trio.abc.Stream, role: Role = Role.SERVER) -> None:
        self.stream: trio.abc.Stream = stream
        self.role: Role = role
        self._decoder = FrameDecoder(role, RSV1 | RSV2 | RSV3)
        self._frames: deque[Frame] = deque()
        self._payload = bytearray()
        # How many of the bytes received are not in whole frames yet.
        self._incomplete = 0

    async def handshake(self) -> Request | Response:
        """Do the opening handshake, in which nothing is agreed on. For another one, send its bytes.

        Returns:
            What the other end has sent: its request, or its response.

        Raises:
            InvalidHandshake: if that is not right, or ends too early.
            BrokenResourceError: if the connection is lost.
        """
        if self.role is Role.SERVER:
            requests = RequestParser()
            asked = None
            while asked is None:
                asked = requests.feed(await self._receive_some())
            await self.send(accept(asked)[0].serialize())
            self._feed(requests.unused)
            return asked
        request = build_request(parse_uri(URI), random=os.urandom)
        await self.send(request.serialize())
        responses = ResponseParser()
        answer = None
        while answer is None:
            answer = responses.feed(await self._receive_some())
        check_response(request, answer)
        self._feed(responses.unused)
        return answer

    async def send(self, *frames: Frame | bytes) -> None:
        """Send frames, in one write.

        Args:
            *frames: The frames. A client masks them, always with the same key. Bytes go out as they are.
        """
        key = KEY if self.role is Role.CLIENT else None
        await self.stream.send_all(
            b"".join(each if isinstance(each, bytes) else serialize(each, key) for each in frames)
        )

    async def receive(self) -> Frame | None:
        """Return the next frame, or None at the end of the stream. When cancelled, nothing is lost.

        Raises:
            ProtocolError: if what has come is no frame, or the stream ends within one.
            BrokenResourceError: if the connection is lost.
        """
        while not self._frames:
            data = await self._receive_some()
            if data:
                self._feed(data)
            elif self._incomplete:
                raise ProtocolError("the stream has ended within a frame")
            else:
                return None
        return self._frames.popleft()

    async def aclose(self) -> None:
        """Close the stream, without a word."""
        await self.stream.aclose()

    async def _receive_some(self) -> bytes:
        return bytes(await self.stream.receive_some())

    def _feed(self, data: bytes) -> None:
        self._incomplete += len(data)
        for first_byte, piece, remaining in self._decoder.feed(data):
            self._payload += piece
            if not remaining:
                frame = _frame(first_byte, bytes(self._payload))
                self._payload.clear()
                self._incomplete -= len(serialize(frame, KEY if self.role is Role.SERVER else None))
                self._frames.append(frame)


def _frame(first_byte: int, payload: bytes) -> Frame:
    fin, rsv1, rsv2, rsv3 = (bool(first_byte & bit) for bit in (FIN, RSV1, RSV2, RSV3))
    return Frame(Opcode(first_byte & 0x0F), payload, fin, rsv1=rsv1, rsv2=rsv2, rsv3=rsv3)


# -- Faults --------------------------------------------------------------------------------------------------------


def _at_least_zero(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} is an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{attribute.name} is not negative, as {value} is")


@attrs.frozen
class Fault:
    """What goes wrong in one direction of a :class:`FaultyStream`. Use one of the kinds there are.

    Attributes:
        at: Where: how many bytes have passed before.
    """

    at: int = attrs.field(validator=_at_least_zero)


@attrs.frozen
class Split(Fault):
    """What comes after this place is sent, or received, separately."""


@attrs.frozen
class Delay(Fault):
    """What comes after this place comes later.

    Attributes:
        seconds: How much later.
    """

    seconds: float


@attrs.frozen
class Drop(Fault):
    """Bytes are lost.

    Attributes:
        count: How many; None for all that follow.
    """

    count: int | None = 1


@attrs.frozen
class Corrupt(Fault):
    """A byte becomes another one.

    Attributes:
        bits: Those of its bits that change, as a mask.
    """

    bits: int = 0xFF


@attrs.frozen
class Stall(Fault):
    """Nothing more passes, until the stream is closed."""


@attrs.frozen
class Reset(Fault):
    """The connection breaks, in both directions: from now on there is a :exc:`trio.BrokenResourceError`."""


class _Direction:
    """The bytes in one direction, and what is still to happen to them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = deque(sorted(faults, key=lambda fault: fault.at))
        self.position = 0
        #: What has come as far as ``position``.
        self.pending = b""

    def due(self) -> Fault | None:
        """Return the next fault if its place has been reached, and it has what it takes."""
        if not self.faults or self.faults[0].at > self.position:
            return None
        fault = self.faults[0]
        return None if isinstance(fault, (Drop, Corrupt)) and not self.pending else fault

    def take(self, count: int | None = None) -> bytes:
        """Let bytes pass, all or so many of them, but only as far as something happens."""
        size = len(self.pending) if count is None else min(count, len(self.pending))
        if self.faults:
            size = min(size, max(self.faults[0].at - self.position, 0))
        return self._cut(size)

    def lose(self, fault: Drop) -> None:
        """Lose what has come, as far as the fault wants it."""
        lost = len(self._cut(len(self.pending) if fault.count is None else fault.count))
        if fault.count is None:
            self.faults[0] = fault
        elif lost < fault.count:
            self.faults[0] = Drop(fault.at, fault.count - lost)
        else:
            self.faults.popleft()

    def _cut(self, size: int) -> bytes:
        taken, self.pending = self.pending[:size], self.pending[size:]
        self.position += len(taken)
        return taken


class FaultyStream(trio.abc.Stream):
    """A stream around another one, on which things go wrong where they are told to.

    ::

        client_end, server_end = trio.testing.memory_stream_pair()
        client_end = FaultyStream(client_end, sending=[Reset(200)], receiving=[Corrupt(131), Delay(140, seconds=5)])

    Places are counted in bytes, from 0, in each direction by itself; those that are lost count too. At one place there
    can be several faults: they happen in the order in which they are given. It is not half-closeable, whatever the
    stream below is.

    Args:
        stream: The stream below. From now on it belongs to this one.
        sending: What happens to what is sent.
        receiving: What happens to what is received.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, sending: Iterable[Fault] = (), receiving: Iterable[Fault] = ()
    ) -> None:
        self.stream: trio.abc.Stream = stream
        self._sending = _Direction(sending)
        self._receiving = _Direction(receiving)
        self._was_reset = False
        # Set when it is closed or was reset.
        self._over = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, as far as nothing happens to them."""
        direction = self._sending
        direction.pending = bytes(data)
        while direction.pending:
            await self._suffer(direction)
            passing = direction.take()
            if passing:
                with self._errors():
                    await self.stream.send_all(passing)
        if isinstance(direction.due(), Reset):
            # This has been sent, and the next thing that is known of the connection is that it is gone.
            await self._reset()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream below may take more."""
        with self._errors():
            await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes, as far as nothing happens to them."""
        direction = self._receiving
        while True:
            await self._suffer(direction)
            if direction.pending:
                return direction.take(max_bytes)
            with self._errors():
                data = await self.stream.receive_some(max_bytes)
            if not data:
                return b""
            direction.pending = bytes(data)

    async def aclose(self) -> None:
        """Close both streams."""
        self._over.set()
        await self.stream.aclose()

    async def _suffer(self, direction: _Direction) -> None:
        """Let happen what is to happen here."""
        if self._was_reset:
            raise self._gone()
        while (fault := direction.due()) is not None:
            if isinstance(fault, Drop):
                direction.lose(fault)
                continue
            if isinstance(fault, Corrupt):
                direction.pending = bytes([direction.pending[0] ^ fault.bits]) + direction.pending[1:]
            elif isinstance(fault, Delay):
                await trio.sleep(fault.seconds)
            elif isinstance(fault, Stall):
                await self._over.wait()
                raise self._gone()
            elif isinstance(fault, Reset):
                await self._reset()
                raise self._gone()
            direction.faults.popleft()

    async def _reset(self) -> None:
        self._was_reset = True
        self._over.set()
        await trio.aclose_forcefully(self.stream)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except trio.ClosedResourceError:
            raise self._gone() from None

    def _gone(self) -> Exception:
        if self._was_reset:
            return trio.BrokenResourceError("the test has reset this stream")
        return trio.ClosedResourceError("this stream was closed")
