"""The messages in the frames (RFC 6455, sections 5.4, 5.6 and 8.1).

A message *is* a ``str`` or ``bytes``. One that comes in a single piece, as nearly all do, passes straight through. Any
other is put together here, and is judged as it comes in: a frame is refused by the length in its header when the
message would become too large, or where an extension transforms it, at the first byte too many; and text fails at the
first byte that cannot be UTF-8.

What an extension transforms back is handled in small steps, and :meth:`MessageDecoder.feed` pauses between them by
yielding None, because a few bytes may become a thousand times as many: whoever iterates can do something else, hand out
what there is, or wait until there is room. A whole message that takes no more than one such step, as nearly all do,
needs nothing of what the others need, and takes a short way.

A message in progress can be handed out before it is complete. :meth:`MessageDecoder.take_part` returns what there is so
far and *claims* the message: its end then comes out as a :class:`LastPart` instead of as a message.
:meth:`MessageDecoder.skip` claims it too, and drops the rest.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from sys import getsizeof
from typing import TYPE_CHECKING, TypeAlias

import attrs

from ..exceptions import InvalidData, MessageTooBig, ProtocolError
from ..frames import Frame, Opcode
from .codec import FIN, FrameDecoder, Role
from .pure import Buffer

if TYPE_CHECKING:
    from .extensions import Extension

__all__ = ["LastPart", "Message", "MessageDecoder"]

Message: TypeAlias = str | bytes

_CONTROL = 0x08
# Among the opcodes of messages only that of text has this bit.
_TEXT = 0x01

# Pieces smaller than this are put together in batches as they come, so that a message in a million fragments costs
# about as much memory as in one.
_SMALL = 4096
_BATCH = 256

# An extension gets at most so many bytes at a time: a KiB can become a MiB, which takes 2 or 3 milliseconds.
_STEP = 1024
# It is time for a pause after so many bytes have come out, where each that went in counts for 16 more: what takes the
# longest may not come to anything.
_PAUSE = 64 * 1024


@attrs.frozen
class LastPart:
    """The end of a message that was claimed while it was coming in.

    Attributes:
        data: What came after the last part that was taken.
        size: The size of the whole message in bytes.
    """

    data: Message
    size: int = attrs.field(default=0, eq=False)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + getsizeof(self.data)


class MessageDecoder:
    """Turns what arrives into messages and control frames.

    Args:
        role: Which end we are.
        max_message_size: How large a message may be, in bytes, after the extensions; None for any size.
        extensions: The extensions in use, in the order in which they were negotiated.
    """

    __slots__ = (
        "_announced",
        "_claimed",
        "_extensions",
        "_frames",
        "_in_frame",
        "_limit",
        "_marks",
        "_opcode",
        "_parts",
        "_parts_size",
        "_since_pause",
        "_size",
        "_skipped",
        "_small",
        "_small_size",
        "_transforms",
        "_utf8",
    )

    def __init__(self, role: Role, max_message_size: int | None = None, extensions: Sequence[Extension] = ()) -> None:
        rsv = 0
        for extension in extensions:
            rsv |= extension.rsv
        self._frames = FrameDecoder(role, rsv, whole=True)
        self._limit = max_message_size
        self._extensions = extensions
        # How a frame begins that is a whole message, transformed by one extension; and which that is.
        self._marks = {FIN | each.rsv | opcode: each for each in extensions for opcode in (Opcode.TEXT, Opcode.BINARY)}
        # The message in progress: its opcode, or CONT if there is none; whether one of its frames is in progress; ...
        self._opcode = Opcode.CONT
        self._in_frame = False
        # ... its size so far in bytes, announced in the headers of its frames and come; ...
        self._announced = 0
        self._size = 0
        # ... what transforms it; and how it is delivered.
        self._transforms: list[Extension] = []
        self._since_pause = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._parts: list[Message] = []
        self._parts_size = 0
        self._small: list[Message] = []
        self._small_size = 0
        self._claimed = False
        self._skipped = False

    @property
    def in_progress(self) -> Opcode | None:
        """The opcode of the message of which there is a part but not all; None if there is none."""
        return self._opcode or None

    @property
    def held(self) -> int:
        """How many bytes of memory the message in progress takes, as far as it waits here to be delivered."""
        return self._small_size + self._parts_size + self._frames.assembled

    def detach(self) -> None:
        """Copy what :meth:`feed` has not come to: the memory that it came in is needed for something else."""
        self._frames.detach()

    @property
    def expected(self) -> int:
        """How many bytes are likely to come soon, as far as that can be told from the last frame."""
        return self._frames.expected

    def take_part(self) -> Message:
        """Return what has come of the message in progress since the last call; it may be empty. Claims the message.

        Raises:
            ProtocolError: If no message is in progress.
        """
        self._check_in_progress()
        self._claimed = True
        return self._join()

    def skip(self) -> None:
        """Drop the message in progress, what there is and what comes. Still judged, it will not be delivered.

        Raises:
            ProtocolError: If no message is in progress.
        """
        self._check_in_progress()
        self._claimed = self._skipped = True
        self._join()

    def _check_in_progress(self) -> None:
        if not self._opcode:
            raise ProtocolError("no message is in progress")

    def feed(self, data: Buffer) -> Iterator[list[Message] | Message | LastPart | Frame | None]:
        """Yield the messages, several in a list or one, and the control frames between them; and None for a pause.

        Iterate to the end before feeding more.

        Args:
            data: The bytes, in order.

        Raises:
            ProtocolError: while iterating, if the peer violates the protocol, after all that came before was yielded.
                There is no going on from there.
        """
        frames = self._frames
        frames.feed(data)
        while True:
            if not self._opcode and (messages := frames.take_messages(self._limit)):
                yield messages
                if frames.is_used_up():  # as most that arrives is whole messages
                    return
                continue
            piece = frames.next_piece()
            if piece is None:
                return
            first_byte, payload, remaining = piece
            extension = self._marks.get(first_byte)
            if extension is not None and not remaining and not self._opcode and len(payload) <= _STEP:
                whole = self._transform_whole(first_byte, payload, extension)
                if self._since_pause >= _PAUSE:
                    self._since_pause = 0
                    yield None
                yield whole
                continue
            if first_byte & _CONTROL:
                yield Frame(first_byte & 0x0F, payload)
                continue
            if not self._in_frame:
                self._start_frame(first_byte, len(payload) + remaining)
            self._in_frame = remaining > 0
            final = first_byte >= FIN and not remaining
            if self._transforms:
                yield from self._transform(payload, final)
            else:
                self._add(payload, final)
            if final and (message := self._finish()) is not None:
                yield message

    def _start_frame(self, first_byte: int, size: int) -> None:
        opcode = Opcode(first_byte & 0x0F)
        if self._opcode:
            if opcode is not Opcode.CONT:
                raise ProtocolError(f"a {opcode.name} frame within a fragmented message")
        else:
            if opcode is Opcode.CONT:
                raise ProtocolError("a CONT frame without a message to continue")
            self._opcode = opcode
            self._announced = self._size = 0
            # Received messages go back through the extensions the other way round.
            self._transforms = [each for each in reversed(self._extensions) if first_byte & each.rsv]
        if self._transforms:
            return  # how large it is on the wire says nothing: what comes out is judged as it comes
        self._announced += size
        if self._limit is not None and self._announced > self._limit:
            raise MessageTooBig(self._announced, self._limit)

    def _transform_whole(self, first_byte: int, data: bytes, extension: Extension) -> Message:
        """Return a whole message that takes one step: what :meth:`_transform` and :meth:`_add` would make of it."""
        limit = self._limit
        message = extension.decode(data, final=True, limit=limit)
        self._since_pause += 16 * len(data) + len(message)
        if limit is not None and len(message) > limit:
            raise MessageTooBig(len(message), limit)
        if not first_byte & _TEXT:
            return message
        try:
            return message.decode()
        except UnicodeDecodeError as exc:
            raise _not_utf8(exc) from exc

    def _transform(self, data: bytes, final: bool) -> Iterator[None]:
        """Add what extensions have to transform back. Yield when it is time for a pause."""
        for start in range(0, len(data) or 1, _STEP):
            piece = data[start : start + _STEP]
            last = final and start + _STEP >= len(data)
            self._since_pause += 16 * len(piece)
            for extension in self._transforms:
                room = None if self._limit is None else self._limit - self._size
                piece = extension.decode(piece, final=last, limit=room)
            self._add(piece, last)
            self._since_pause += len(piece)
            if self._since_pause >= _PAUSE:
                self._since_pause = 0
                yield

    def _add(self, data: bytes, final: bool) -> None:
        self._size += len(data)
        if self._limit is not None and self._size > self._limit:
            raise MessageTooBig(self._size, self._limit)
        part: Message = data
        if self._opcode is Opcode.TEXT:
            try:
                part = self._utf8.decode(data, final)
                # Python's decoder waits for the third byte of a surrogate before it refuses the second: give it one.
                if b"\xed\xa0" <= self._utf8.getstate()[0] < b"\xee":
                    self._utf8.decode(b"\x80")
            except UnicodeDecodeError as exc:
                raise _not_utf8(exc) from exc
        if part and not self._skipped:
            self._keep(part)

    def _keep(self, part: Message) -> None:
        # In text, a single character makes all those that are put together with it take four bytes each.
        size = getsizeof(part)
        if size < _SMALL:
            self._small.append(part)
            self._small_size += size
            if len(self._small) == _BATCH:
                self._flush_small()
        else:
            self._flush_small()
            self._parts.append(part)
            self._parts_size += size

    def _flush_small(self) -> None:
        if self._small:
            part = self._put_together(self._small)
            self._small.clear()
            self._small_size = 0
            self._parts.append(part)
            self._parts_size += getsizeof(part)

    def _join(self) -> Message:
        if assembled := self._frames.take_assembled():
            self._keep(assembled)
        self._flush_small()
        parts, self._parts = self._parts, []
        self._parts_size = 0
        return parts[0] if len(parts) == 1 else self._put_together(parts)

    def _put_together(self, parts: list[Message]) -> Message:
        if self._opcode is Opcode.TEXT:
            return "".join(parts)  # type: ignore[arg-type]  # all are str
        return b"".join(parts)  # type: ignore[arg-type]  # all are bytes

    def _finish(self) -> Message | LastPart | None:
        data = self._join()
        claimed, skipped = self._claimed, self._skipped
        self._opcode = Opcode.CONT
        self._claimed = self._skipped = False
        if skipped:
            return None
        return LastPart(data, self._size) if claimed else data


def _not_utf8(exc: UnicodeDecodeError) -> InvalidData:
    return InvalidData(f"text is not UTF-8: {exc.reason} {exc.object[exc.start : exc.end].hex(' ')}")
