"""The protocol of an open connection, without I/O.

A :class:`Protocol` starts after the opening handshake, which is in :mod:`trio_ws.protocol.handshake`. Feed it received
bytes with :meth:`~Protocol.receive`, and get events from :meth:`~Protocol.next_event`. The ``encode`` methods return
the bytes to send. It has no socket, no clock and no source of randomness of its own.

Events have the order of the wire:

* a ``str`` or ``bytes`` is a whole text or binary message;
* a :class:`LastPart` ends a message that was received in parts (see :mod:`trio_ws.protocol.messages`);
* a :class:`Frame` is a control frame. Nothing is answered automatically: the caller must answer a ping with
  :meth:`~Protocol.encode`, and a Close frame with :meth:`~Protocol.encode_close`;
* a :exc:`ProtocolError` is a violation by the peer. Everything before it was valid, and no event follows. The caller
  should close the connection with its ``code``. After a Close frame, it means that this frame came in the middle of a
  fragmented message, which is lost. The caller should answer the Close frame as usual.

After a Close frame or a violation, further input is ignored (RFC 6455, sections 1.4 and 7.1.7).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..exceptions import ProtocolError
from ..frames import Close, Frame, Opcode
from .closing import Closing
from .codec import FIN, RSV1, RSV2, RSV3, Role
from .extensions import EncodingCache
from .hot import pack
from .messages import ControlFrame, LastPart, Message, MessageDecoder
from .pure import Buffer, header

if TYPE_CHECKING:
    from .extensions import Extension
    from .observed import OnFrame

__all__ = ["LARGE", "Event", "OutgoingFrame", "PlainEvent", "Protocol"]

Event: TypeAlias = Message | LastPart | Frame | ProtocolError

#: An event in which control frames are tuples.
PlainEvent: TypeAlias = Message | LastPart | ControlFrame | ProtocolError

#: Payloads smaller than this are copied to follow their header in one chunk, in bytes. Larger ones are not copied,
#: unless they are masked.
LARGE = 16 * 1024

#: A frame for :meth:`Protocol.encode_all`: the first byte of its header, with FIN and the opcode; its payload; and
#: whether the extensions may transform it, or a cache of its encoded forms.
OutgoingFrame: TypeAlias = "tuple[int, bytes, bool | EncodingCache]"


class Protocol:
    """One end of an open WebSocket connection.

    Args:
        role: The role of this end.
        random: A function that returns the requested number of unpredictable bytes, for the masking keys of a client
            (RFC 6455, section 10.3). Use ``os.urandom``.
        max_message_size: Maximum size of a received message in bytes, after decompression; None for no limit.
        max_fragments: Maximum number of fragments of less than 1 KiB in a received message; None for no limit.
        extensions: The extensions in use, in the order in which they were negotiated.
        on_frame: A function to call with each received frame. It makes receiving slower.

    Raises:
        ValueError: If the ``rsv`` of an extension is not one of the reserved bits.

    Attributes:
        closing: The state of the closing handshake.
    """

    __slots__ = (
        "_counted",
        "_events",
        "_extensions",
        "_failed",
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
        max_fragments: int | None = None,
        extensions: Sequence[Extension] = (),
        on_frame: OnFrame | None = None,
    ) -> None:
        for extension in extensions:
            if extension.rsv not in (RSV1, RSV2, RSV3):
                raise ValueError(f"the rsv of an extension must be RSV1, RSV2 or RSV3, not {extension.rsv!r}")
        self.closing: Closing = Closing()
        if on_frame is None:
            self._messages = MessageDecoder(role, max_message_size, extensions, max_fragments)
        else:
            from .observed import ObservedDecoder  # needed by few programs

            self._messages = ObservedDecoder(role, max_message_size, extensions, on_frame, max_fragments)
        # Received events: whole messages, and then all events since the first of another kind. Most of the time, there
        # are only whole messages.
        self._whole: list[Message] = []
        self._events: deque[PlainEvent] | None = None
        self._failed = False
        # The number of received frames at the last call of take_frame_count().
        self._counted = 0
        self._extensions = extensions
        # True while a fragmented message is being sent; and the extensions that transform it.
        self._sending = False
        self._transforms: Sequence[Extension] = ()
        self._random = random if role is Role.CLIENT else None

    @property
    def masks(self) -> bool:
        """Whether this end masks the frames that it sends: True for clients (RFC 6455, section 5.1)."""
        return self._random is not None

    def rest(self) -> None:
        """Free memory that is not needed while the connection is idle. Compression can use a lot of it.

        The connection goes on as before, but the next message in each direction takes slightly longer. This may be
        called at any time, except while another thread is encoding.
        """
        for extension in self._extensions:
            extension.rest()

    # -- Receiving -------------------------------------------------------------------------------------------------

    def receive(self, data: Buffer) -> None:
        """Feed bytes received from the peer.

        Args:
            data: The next bytes, in chunks of any size.
        """
        for _ in self.receive_in_steps(data):
            pass

    def receive_in_steps(self, data: Buffer) -> Iterator[None]:
        """Feed bytes received from the peer, and yield about every millisecond or two.

        Decompression, or decoding many small messages, can take long and use much memory. Between two steps, the caller
        can let other tasks run, handle the events so far, or wait for room in its buffers. The iterator must be
        exhausted before more bytes are fed.

        Args:
            data: The next bytes, in chunks of any size. A mutable buffer must not change during the first step.
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
                elif (type(event) is str or type(event) is bytes) and not self._events:
                    self._whole.append(event)
                else:
                    self._add(event)
                    if type(event) is tuple and event[0] == Opcode.CLOSE:
                        self.closing.receive(Close.parse(event[1]))
                        if self._messages.in_progress:
                            self._add(ProtocolError("Close frame in the middle of a message"))
                        return
        except ProtocolError as exc:
            self._failed = True
            self._add(exc)

    def _add(self, event: PlainEvent) -> None:
        if self._events is None:
            self._events = deque()
        self._events.append(event)

    def receive_eof(self) -> None:
        """Record that the connection below has ended."""
        self.closing.lose()

    def next_event(self) -> Event | None:
        """Return the next event, or None until more bytes are fed."""
        event = self.next_plain_event()
        return Frame(Opcode(event[0]), event[1]) if isinstance(event, tuple) else event

    def next_plain_event(self) -> PlainEvent | None:
        """Return the next event like :meth:`next_event`, but control frames as tuples, which is faster."""
        if self._whole:
            self._events = deque([*self.next_messages(), *(self._events or ())])
        if not self._events:
            self._events = None  # an empty deque would take 760 bytes
            return None
        return self._events.popleft()

    def next_messages(self) -> list[Message]:
        """Return the whole messages at the front of the queue; faster than :meth:`next_event` for each.

        The list may be empty even if the next event is a message: :meth:`next_event` returns that one.
        """
        whole, self._whole = self._whole, []
        return whole

    def take_frame_count(self) -> int:
        """Return the number of frames of any kind that were received since the last call."""
        before, self._counted = self._counted, self._messages.frames
        return self._counted - before

    @property
    def message_in_progress(self) -> Opcode | None:
        """TEXT or BINARY while a message is incomplete; None otherwise."""
        return self._messages.in_progress

    @property
    def held(self) -> int:
        """Memory used by the parts of the incomplete message, in bytes."""
        return self._messages.held

    @property
    def expected(self) -> int:
        """Number of bytes likely to arrive next: a good size for the next read."""
        return self._messages.expected

    def take_part(self) -> Message:
        """Return the part of the incomplete message that arrived since the last call. It may be empty.

        The end of the message will be a :class:`LastPart` event.

        Raises:
            ProtocolError: If there is no incomplete message.
        """
        return self._messages.take_part()

    def skip_message(self) -> None:
        """Discard the incomplete message. Its remaining frames are still validated.

        Raises:
            ProtocolError: If there is no incomplete message.
        """
        self._messages.skip()

    # -- Sending ---------------------------------------------------------------------------------------------------

    def encode(
        self, opcode: Opcode, data: bytes, fin: bool = True, *, transform: bool | EncodingCache = True
    ) -> list[bytes]:
        """Return the bytes of a frame to send, as a list of chunks. This avoids copying large payloads.

        Args:
            opcode: TEXT or BINARY to start a message, CONT to continue it, PING or PONG.
            data: The payload. Text must be encoded as UTF-8.
            fin: Whether this is the last frame of the message.
            transform: Whether the extensions may transform the message that starts here. For a message in one frame
                that is sent to many connections, pass a cache of its encoded forms.

        Raises:
            ProtocolError: If this frame may not be sent now.
        """
        if not self.closing.can_send:
            raise ProtocolError("nothing may be sent after a Close frame or the end of the connection")
        first_byte = int(opcode)
        if opcode < Opcode.CLOSE:
            if (opcode is Opcode.CONT) is not self._sending:
                raise ProtocolError(
                    f"{opcode.name} frame {'within' if self._sending else 'without'} a fragmented message"
                )
            if not self._sending:
                self._transforms = self._extensions if transform else ()
            cache = transform if isinstance(transform, EncodingCache) else None
            for extension in self._transforms:
                data, marked = extension.encode(data, first=not self._sending, final=fin, cache=cache)
                if marked and not self._sending:
                    first_byte |= extension.rsv
            self._sending = not fin
        elif opcode is Opcode.CLOSE:
            raise ProtocolError("use encode_close() to send a Close frame")
        else:
            Frame(opcode, data, fin)  # validates the control frame
        return self._frame(first_byte | FIN if fin else first_byte, data)

    def encode_all(self, frames: Sequence[OutgoingFrame]) -> list[bytes]:
        """Return the bytes of several frames to send, as a list of chunks; faster than :meth:`encode` for each.

        Args:
            frames: The frames.

        Raises:
            ProtocolError: If one of the frames may not be sent now. Some of the others may have been encoded then.
        """
        if frames and self.closing.can_send and not self._sending:
            # Loops instead of comprehensions, because most of the time there is only one frame.
            for first_byte, data, _ in frames:
                if first_byte < FIN or len(data) >= LARGE:
                    break
            else:
                small = list(frames)
                if self._extensions:
                    for index, frame in enumerate(frames):
                        if frame[2]:
                            small[index] = self._transform_whole(frame)
                if len(frames) == 1 and self._random is None and isinstance(cache := frames[0][2], EncodingCache):
                    return [self._pack_cached(*small[0][:2], cache)]
                return [pack(small, None if self._random is None else self._random(4 * len(small)))]
        chunks: list[bytes] = []
        for first_byte, data, transform in frames:
            chunks += self.encode(Opcode(first_byte & 0x0F), data, first_byte >= FIN, transform=transform)
        return chunks

    def _transform_whole(self, frame: OutgoingFrame) -> OutgoingFrame:
        first_byte, data, transform = frame
        cache = transform if isinstance(transform, EncodingCache) else None
        for extension in self._extensions:
            data, marked = extension.encode(data, first=True, final=True, cache=cache)
            if marked:
                first_byte |= extension.rsv
        return first_byte, data, False

    def _pack_cached(self, first_byte: int, data: bytes, cache: EncodingCache) -> bytes:
        frame = cache.frames.get((first_byte, data))
        if frame is None:
            frame = cache.frames[first_byte, data] = pack([(first_byte, data, True)])
        return frame

    def encode_close(self, close: Close) -> list[bytes]:
        """Return the bytes of a Close frame to send, as a list of chunks. Nothing can be sent after it.

        Args:
            close: The close code and reason.

        Raises:
            ProtocolError: If a Close frame was sent before, or the connection is lost.
        """
        self.closing.send(close)
        return self._frame(FIN | Opcode.CLOSE, close.serialize())

    def _frame(self, first_byte: int, data: bytes) -> list[bytes]:
        if self._random is not None:
            return [pack([(first_byte, data, True)], self._random(4))]
        if len(data) < LARGE:
            return [pack([(first_byte, data, True)])]
        return [header(first_byte, len(data)), data]
