"""An open connection as one machine, without I/O.

A :class:`Protocol` is born open: the opening handshake is over, see :mod:`trio_ws.protocol.handshake`. Bytes go in with
:meth:`~Protocol.receive`, events come out of :meth:`~Protocol.next_event`; what is to be sent goes through the
``encode`` methods, which return bytes. It holds no socket, no clock and no source of randomness of its own.

Events come in the order of the wire:

* a ``str`` or ``bytes`` is a whole message, text or binary;
* a :class:`LastPart` ends a message that was claimed early (see :mod:`trio_ws.protocol.messages`);
* a :class:`Frame` is a control frame. A ping wants :meth:`~Protocol.encode` to be called for a pong, a Close frame
  wants :meth:`~Protocol.encode_close`: nothing is answered behind the caller's back;
* a :exc:`ProtocolError` is a violation by the peer, in its place: everything before it was good, and nothing comes
  after it. Whoever reads it closes with its ``code``.

After a Close frame or a violation, further input is ignored (RFC 6455, sections 1.4 and 7.1.7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from struct import iter_unpack
from typing import TYPE_CHECKING, TypeAlias

from ..exceptions import ProtocolError
from ..frames import Close, Frame, Opcode
from .closing import Closing
from .codec import BATCH, FIN, Role
from .extensions import Shared
from .hot import pack
from .messages import LastPart, Message, MessageDecoder
from .observed import ObservedDecoder, OnFrame
from .pure import Buffer, header

if TYPE_CHECKING:
    from .extensions import Extension

__all__ = ["LARGE", "Event", "OutgoingFrame", "Protocol"]

Event: TypeAlias = Message | LastPart | Frame | ProtocolError

# Masking keys are drawn so many at a time: asking the operating system for each would cost more than the masking.
_KEYS = 256

#: A payload that is smaller is copied to join its header. A larger one stays where it is, unless it is masked.
LARGE = 16 * 1024

#: A frame to send, as :meth:`Protocol.encode_all` takes it: the first byte of its header, with FIN and the opcode; its
#: payload; and whether the extensions may transform it, or what they have made of it for other connections.
OutgoingFrame: TypeAlias = "tuple[int, bytes, bool | Shared]"


class Protocol:
    """One open WebSocket connection, seen from one end.

    Args:
        role: Which end this is.
        random: Returns as many unpredictable bytes as it is asked for; a client masks with them (RFC 6455, section
            10.3). ``os.urandom`` is meant.
        max_message_size: How large a message from the peer may be, in bytes; None for any size.
        extensions: The extensions in use, in the order in which they were negotiated.
        on_frame: What is told of each frame that comes in; None for nobody.

    Attributes:
        closing: The state of the closing handshake.
    """

    __slots__ = (
        "_events",
        "_extensions",
        "_failed",
        "_keys",
        "_messages",
        "_random",
        "_sending",
        "_transforms",
        "_whole",
        "closing",
    )

    def __init__(
        self,
        role: Role,
        *,
        random: Callable[[int], bytes],
        max_message_size: int | None = None,
        extensions: Sequence[Extension] = (),
        on_frame: OnFrame | None = None,
    ) -> None:
        self.closing: Closing = Closing()
        self._messages = (
            MessageDecoder(role, max_message_size, extensions)
            if on_frame is None
            else ObservedDecoder(role, max_message_size, extensions, on_frame)
        )
        # What has come in: whole messages, and then everything else.
        self._whole: list[Message] = []
        self._events: deque[Event] | None = None
        self._failed = False
        self._extensions = extensions
        # Whether a fragmented message is being sent; and what transforms it.
        self._sending = False
        self._transforms: Sequence[Extension] = ()
        self._random = random if role is Role.CLIENT else None
        self._keys: Iterator[tuple[bytes]] = iter(())

    def rest(self) -> None:
        """Give back memory that is not worth having while nothing comes and goes; compression can have a lot of it.

        Everything goes on after it as if it had not been called, only that the next message each way takes a little
        longer. It may be called at any time, but not while another thread encodes.
        """
        for extension in self._extensions:
            extension.rest()
        self._keys = iter(())

    # -- Receiving -------------------------------------------------------------------------------------------------

    def receive(self, data: Buffer) -> None:
        """Take bytes from the peer.

        Args:
            data: The bytes, in order, in portions of any size.
        """
        for _ in self.receive_in_steps(data):
            pass

    def receive_in_steps(self, data: Buffer) -> Iterator[None]:
        """Take bytes from the peer, and yield each time that a millisecond or two may have passed, or much has come.

        Compressed bytes can take long and become many, and so can small messages. Between two steps there is time for
        something else: for other connections, for the events so far, or to wait until there is room for more. Iterate
        to the end before more is received.

        Args:
            data: The bytes, in order, in portions of any size. They are only borrowed for the first step.
        """
        if self._failed or not self.closing.can_receive:
            return
        try:
            for event in self._messages.feed(data):
                if event is None:
                    self._messages.detach()
                    yield
                    continue
                if isinstance(event, list):
                    if self._events:
                        self._events.extend(event)
                    elif self._whole:
                        self._whole += event
                    else:
                        self._whole = event
                elif isinstance(event, (str, bytes)) and not self._events:
                    self._whole.append(event)
                else:
                    self._add(event)
                    if type(event) is Frame and event.opcode is Opcode.CLOSE:
                        self.closing.receive(Close.parse(event.data))
                        return
                if len(self._whole) + len(self._events or ()) >= BATCH:
                    self._messages.detach()
                    yield
        except ProtocolError as exc:
            self._failed = True
            self._add(exc)

    def _add(self, event: Event) -> None:
        if self._events is None:
            self._events = deque()
        self._events.append(event)

    def receive_eof(self) -> None:
        """Take note that the connection below has ended."""
        self.closing.lose()

    def next_event(self) -> Event | None:
        """Return the next event, or None if there is none until more is received."""
        if self._whole:
            self._events = deque([*self.next_messages(), *(self._events or ())])
        if not self._events:
            self._events = None  # most of the time there are none, and even an empty one takes 760 bytes
            return None
        return self._events.popleft()

    def next_messages(self) -> list[Message]:
        """Return whole messages that come before the next event. There may be none, even if that is one too.

        This is for speed: it has nearly all messages when many of them are received at once.
        """
        whole, self._whole = self._whole, []
        return whole

    @property
    def message_in_progress(self) -> Opcode | None:
        """TEXT or BINARY while there is a part of a message but not all of it; None otherwise."""
        return self._messages.in_progress

    @property
    def held(self) -> int:
        """How many bytes of the message in progress are kept in memory."""
        return self._messages.held

    @property
    def expected(self) -> int:
        """How many bytes are likely to come soon, as far as that can be told: it is worth asking for so many."""
        return self._messages.expected

    def take_part(self) -> Message:
        """Return what has come of the message in progress since the last call; it may be empty.

        The message is claimed with that: its end will come as a :class:`LastPart`.
        """
        return self._messages.take_part()

    def skip_message(self) -> None:
        """Drop the message in progress: neither what has come of it nor what will come is delivered."""
        self._messages.skip()

    # -- Sending ---------------------------------------------------------------------------------------------------

    def encode(self, opcode: Opcode, data: bytes, fin: bool = True, *, transform: bool | Shared = True) -> list[bytes]:
        """Return the bytes of a frame to send, in order, in chunks. A large payload is not copied to join its header.

        Args:
            opcode: TEXT or BINARY for a message, CONT to continue one, PING or PONG.
            data: The payload. Text is UTF-8 already.
            fin: Whether the message ends with this.
            transform: Whether the extensions may transform the message that begins with this. For a message in one
                frame, it can be what they have made of it for other connections.

        Raises:
            ProtocolError: If no such frame may be sent now.
        """
        if not self.closing.can_send:
            raise ProtocolError("nothing may be sent after a Close frame")
        first_byte = int(opcode)
        if opcode < Opcode.CLOSE:
            if (opcode is Opcode.CONT) is not self._sending:
                raise ProtocolError(f"a {opcode.name} frame {'within' if self._sending else 'without'} a message")
            if not self._sending:
                self._transforms = self._extensions if transform else ()
            shared = transform if isinstance(transform, Shared) else None
            for extension in self._transforms:
                data, marked = extension.encode(data, first=not self._sending, final=fin, shared=shared)
                if marked and not self._sending:
                    first_byte |= extension.rsv
            self._sending = not fin
        elif opcode is Opcode.CLOSE:
            raise ProtocolError("a Close frame is sent with encode_close()")
        else:
            Frame(opcode, data, fin)  # raises if there is no such control frame
        return self._frame(first_byte | FIN if fin else first_byte, data)

    def encode_all(self, frames: Sequence[OutgoingFrame]) -> list[bytes]:
        """Return the bytes of several frames to send, in order, in chunks.

        It does what :meth:`encode` does for each of them, only faster.

        Args:
            frames: The frames.

        Raises:
            ProtocolError: If one of them may not be sent now. Then it is not known how far it has come.
        """
        if frames and self.closing.can_send and not self._sending:
            small = [frame for frame in frames if frame[0] >= FIN and len(frame[1]) < LARGE]
            if len(small) == len(frames):
                if self._extensions:
                    small = [self._transform_whole(frame) if frame[2] else frame for frame in small]
                if len(frames) == 1 and self._random is None and isinstance(shared := frames[0][2], Shared):
                    return [self._pack_shared(*small[0][:2], shared)]
                return [pack(small, None if self._random is None else self._random(4 * len(small)))]
        chunks: list[bytes] = []
        for first_byte, data, transform in frames:
            chunks += self.encode(Opcode(first_byte & 0x0F), data, first_byte >= FIN, transform=transform)
        return chunks

    def _transform_whole(self, frame: OutgoingFrame) -> OutgoingFrame:
        first_byte, data, transform = frame
        shared = transform if isinstance(transform, Shared) else None
        for extension in self._extensions:
            data, marked = extension.encode(data, first=True, final=True, shared=shared)
            if marked:
                first_byte |= extension.rsv
        return first_byte, data, False

    def _pack_shared(self, first_byte: int, data: bytes, shared: Shared) -> bytes:
        frame = shared.frames.get((first_byte, data))
        if frame is None:
            frame = shared.frames[first_byte, data] = pack([(first_byte, data, True)])
        return frame

    def encode_close(self, close: Close) -> list[bytes]:
        """Return the bytes of a Close frame to send. Nothing can be sent after it.

        Args:
            close: What it says.

        Raises:
            ProtocolError: If one has been sent already, or the connection is lost.
        """
        self.closing.send(close)
        return self._frame(FIN | Opcode.CLOSE, close.serialize())

    def _frame(self, first_byte: int, data: bytes) -> list[bytes]:
        if self._random is not None:
            return [pack([(first_byte, data, True)], self._next_key(self._random))]
        if len(data) < LARGE:
            return [pack([(first_byte, data, True)])]
        return [header(first_byte, len(data)), data]

    def _next_key(self, random: Callable[[int], bytes]) -> bytes:
        # Right even while another thread is in here: each step of the iterator is atomic.
        for (key,) in self._keys:
            return key
        self._keys = iter_unpack("4s", random(4 * _KEYS))
        return self._next_key(random)
