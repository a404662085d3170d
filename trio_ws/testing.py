"""For tests: two WebSockets without a network, a peer that follows a script, streams that fail where they are told to.

Nothing in here sleeps in earnest or does anything by chance, so with Trio's clock for tests
(:class:`trio.testing.MockClock`) the same happens each time. :mod:`trio_ws` does not import it::

    import trio_ws.testing
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trio.testing

from .client import connect_over
from .exceptions import ConnectFailed, ProtocolError
from .frames import Frame, Opcode
from .http11 import Request, RequestParser, Response, ResponseParser
from .opening import Answering, open_connection, upgrade
from .protocol import Role
from .protocol.codec import FIN, RSV1, RSV2, RSV3, FrameDecoder, serialize
from .protocol.handshake import accept, build_request, check_response
from .settings import Options, Settings
from .stream import Transport
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

    Leaving the block closes both, the client first. What the block raises comes out as it is. A pair is entered once.

    Args:
        streams: What is between them: the client's end and the server's, for example of
            :func:`trio.testing.lockstep_stream_pair`, or in a :class:`FaultyStream`. The default is
            :func:`trio.testing.memory_stream_pair`.
        handshake: Whether the opening handshake goes over these streams. Otherwise nothing but frames does; what would
            have been agreed on is agreed on all the same.
        uri: What the client asks for.
        **options: See :class:`~trio_ws.Options`. They are for both ends.

    Raises:
        Exception: as :func:`~trio_ws.connect` does, on entering the block, if there is a handshake. Both streams are
            closed then.
        InvalidURI: if the URI is not valid.
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
        self._sessions: contextlib.AsyncExitStack | None = None
        self._server: WebSocket | None = None

    async def __aenter__(self) -> tuple[WebSocket, WebSocket]:
        if self._sessions is not None:
            raise RuntimeError("a pair is entered once: make another one")
        self._sessions = contextlib.AsyncExitStack()
        client, server = await self._shake_hands() if self._handshake else self._agree()
        await self._sessions.enter_async_context(Session(server))
        await self._sessions.enter_async_context(Session(client))
        self._server = server
        return client, server

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sessions is None or self._server is None:
            raise RuntimeError("this pair was not entered")
        # The block has ended, so it is not about to answer what it has received; the server need not wait for that.
        self._server._connection.inbox.stop_answering()
        await self._sessions.__aexit__(exc_type, exc, traceback)

    def _agree(self) -> tuple[WebSocket, WebSocket]:
        server = upgrade(self._server_stream, self._connecting.request, self._settings)
        return self._connecting.upgrade(self._client_stream, server.response), server

    async def _shake_hands(self) -> tuple[WebSocket, WebSocket]:
        client = server = failure = None

        async def serve() -> None:
            nonlocal server
            server = await open_connection(self._server_stream, self._settings, Answering())
            if server is None:
                await Transport(self._server_stream).aclose(0)  # as a server does; the client may be waiting

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
            if server is None:  # its stream has sent the whole answer, and failed all the same
                raise ConnectFailed(self._connecting.request.headers["Host"], "the server's stream failed")
        except BaseException:
            # Not aclose_forcefully(): when we are cancelled, the first one would raise, and the second not be closed.
            await Transport(self._client_stream).aclose(0)
            await Transport(self._server_stream).aclose(0)
            if failure is None:
                await trio.lowlevel.checkpoint_if_cancelled()  # by itself, not in the group that comes from the nursery
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
        # What is wrong with those after the last frame.
        self._error: ProtocolError | None = None

    async def handshake(self) -> Request | Response:
        """Do the opening handshake, in which nothing is agreed on. For another one, send its bytes.

        Returns:
            What the other end has sent: its request, or its response.

        Raises:
            InvalidHandshake: if that is not right, or ends too early.
            trio.BrokenResourceError: if the connection is lost.
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
            ProtocolError: if what has come next is no frame, or the stream ends within one. Nothing can be received
                after that.
            trio.BrokenResourceError: if the connection is lost.
        """
        while not self._frames:
            if self._error is not None:
                raise self._error
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
        try:
            self._decoder.feed(data)
            while (piece := self._decoder.next_piece()) is not None:
                first_byte, payload, remaining = piece
                self._payload += payload
                if not remaining:
                    frame = _frame(first_byte, bytes(self._payload))
                    self._payload.clear()
                    self._incomplete -= len(serialize(frame, KEY if self.role is Role.SERVER else None))
                    self._frames.append(frame)
        except ProtocolError as exc:
            self._error = exc  # for when the frames before it have been received


def _frame(first_byte: int, payload: bytes) -> Frame:
    fin, rsv1, rsv2, rsv3 = (bool(first_byte & bit) for bit in (FIN, RSV1, RSV2, RSV3))
    return Frame(Opcode(first_byte & 0x0F), payload, fin, rsv1=rsv1, rsv2=rsv2, rsv3=rsv3)


# -- Faults --------------------------------------------------------------------------------------------------------


def _number(
    *, minimum: int = 0, maximum: float = math.inf, whole: bool = True, none: bool = False
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and none:
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise TypeError(f"{attribute.name} is a {'whole ' if whole else ''}number, not {value!r}")
        if not minimum <= value <= maximum:
            raise ValueError(f"{attribute.name} is from {minimum} to {maximum}, not {value!r}")

    return check


@attrs.frozen
class Fault:
    """What goes wrong in one direction of a :class:`FaultyStream`. Use one of the kinds there are.

    Attributes:
        at: Where: how many bytes have passed before.

    Raises:
        TypeError: if a value is of the wrong type.
        ValueError: if it is out of range.
    """

    at: int = attrs.field(validator=_number())


@attrs.frozen
class Split(Fault):
    """What comes after this place is sent, or received, separately."""


@attrs.frozen
class Delay(Fault):
    """What comes after this place comes later, be it bytes or the end of the stream.

    Attributes:
        seconds: How much later.
    """

    seconds: float = attrs.field(validator=_number(whole=False))


@attrs.frozen
class Drop(Fault):
    """Bytes are lost, from this place on.

    Attributes:
        count: How many; None for all that follow.
    """

    count: int | None = attrs.field(default=1, validator=_number(none=True))


@attrs.frozen
class Corrupt(Fault):
    """The byte at this place becomes another one.

    Attributes:
        bits: Those of its bits that change, as a mask: 1 to 255.
    """

    bits: int = attrs.field(default=0xFF, validator=_number(minimum=1, maximum=0xFF))


@attrs.frozen
class Stall(Fault):
    """Nothing more passes, not even the end of the stream, until the stream is closed."""


@attrs.frozen
class Reset(Fault):
    """The connection breaks, in both directions: from now on there is a :exc:`trio.BrokenResourceError`.

    The stream below is closed, and that is what its other end sees.
    """


class _Direction:
    """The bytes in one direction, and what is still to happen to them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        faults = list(faults)
        for fault in faults:
            if not isinstance(fault, (Split, Delay, Drop, Corrupt, Stall, Reset)):
                raise TypeError(f"{fault!r} is none of the faults that there are")
        self.faults = deque(sorted(faults, key=lambda fault: fault.at))
        self.position = 0
        #: What has come as far as ``position``, and whether nothing comes after it.
        self.pending = b""
        self.ended = False
        #: As far as which place bytes are lost.
        self.lost_until = 0
        #: When the delay ends that has begun.
        self.resume_at: float | None = None
        self.busy = False

    def due(self) -> Fault | None:
        """Lose what is to be lost. Return the next fault if its place has been reached, and it has what it takes."""
        while True:
            self.take(max(self.lost_until - self.position, 0))
            if not self.faults or self.faults[0].at > self.position:
                return None
            fault = self.faults[0]
            if isinstance(fault, Drop):
                end = sys.maxsize if fault.count is None else fault.at + fault.count
                self.lost_until = max(self.lost_until, end)
            elif not isinstance(fault, Split):
                waits = isinstance(fault, Corrupt) or (isinstance(fault, Delay) and not self.ended)
                return None if waits and not self.pending else fault
            self.faults.popleft()

    def take(self, count: int | None = None) -> bytes:
        """Let bytes pass, all or so many of them, but only as far as something happens."""
        size = len(self.pending) if count is None else min(count, len(self.pending))
        if self.faults:
            size = min(size, self.faults[0].at - self.position)
        taken, self.pending = self.pending[:size], self.pending[size:]
        self.position += size
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

    Raises:
        TypeError: if one of these is no fault.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, sending: Iterable[Fault] = (), receiving: Iterable[Fault] = ()
    ) -> None:
        self.stream: trio.abc.Stream = stream
        self._sending = _Direction(sending)
        self._receiving = _Direction(receiving)
        self._was_reset = False
        self._was_closed = False
        # Set by either.
        self._over = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, as far as nothing happens to them.

        Raises:
            trio.BrokenResourceError: if the connection is lost, or was reset.
            trio.ClosedResourceError: if the stream is closed.
            trio.BusyResourceError: if another task is sending.
        """
        await trio.lowlevel.checkpoint()
        direction = self._sending
        with self._using(direction):
            direction.pending = bytes(data)
            while direction.pending:
                await self._suffer(direction)
                passing = direction.take()
                if passing:
                    await self.stream.send_all(passing)
            if isinstance(direction.due(), Reset):
                # This has been sent, and the next thing that is known of the connection is that it is gone.
                await self._reset()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream below may take more.

        Raises:
            Exception: as :meth:`send_all` does.
        """
        with self._using(self._sending):
            await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes, as far as nothing happens to them. When cancelled, nothing is lost.

        Args:
            max_bytes: How many at most. None: as many as the stream below has.

        Returns:
            The bytes; none at the end of the stream.

        Raises:
            trio.BrokenResourceError: if the connection is lost, or was reset.
            trio.ClosedResourceError: if the stream is closed.
            trio.BusyResourceError: if another task is receiving.
            ValueError: if ``max_bytes`` is less than 1.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1, not {max_bytes}")
        await trio.lowlevel.checkpoint()
        direction = self._receiving
        with self._using(direction):
            while True:
                await self._suffer(direction)
                if direction.pending or direction.ended:
                    return direction.take(max_bytes)
                direction.pending = bytes(await self.stream.receive_some(max_bytes))
                direction.ended = not direction.pending

    async def aclose(self) -> None:
        """Close both streams."""
        self._was_closed = True
        self._over.set()
        await self.stream.aclose()

    async def _suffer(self, direction: _Direction) -> None:
        """Let happen what is to happen here."""
        while (fault := direction.due()) is not None:
            if isinstance(fault, Corrupt):
                direction.pending = bytes([direction.pending[0] ^ fault.bits]) + direction.pending[1:]
            elif isinstance(fault, Reset):
                await self._reset()
                raise self._gone()
            else:
                # When it is cancelled, the time that has passed counts in the next call.
                if direction.resume_at is None:
                    seconds = fault.seconds if isinstance(fault, Delay) else math.inf
                    direction.resume_at = trio.current_time() + seconds
                with trio.move_on_at(direction.resume_at):
                    await self._over.wait()
                if self._over.is_set():
                    raise self._gone()
                direction.resume_at = None
            direction.faults.popleft()

    async def _reset(self) -> None:
        self._was_reset = True
        self._over.set()
        await trio.aclose_forcefully(self.stream)

    @contextlib.contextmanager
    def _using(self, direction: _Direction) -> Iterator[None]:
        """One task at a time uses a direction; and all get to know why it is over, whatever the stream below says."""
        if self._over.is_set():
            raise self._gone()
        if direction.busy:
            raise trio.BusyResourceError("another task is using this stream")
        direction.busy = True
        try:
            yield
        except trio.ClosedResourceError:
            raise self._gone() from None
        finally:
            direction.busy = False

    def _gone(self) -> Exception:
        if self._was_reset and not self._was_closed:
            return trio.BrokenResourceError("the test has reset this stream")
        return trio.ClosedResourceError("this stream was closed")
