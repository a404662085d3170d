"""Decoding of messages from frames (RFC 6455, sections 5.4, 5.6 and 8.1).

A message is a ``str`` or ``bytes``. Nearly all messages arrive in one piece and need no assembling. The others are
assembled and validated as they arrive: a message that exceeds the size limit fails at the header of the frame that
makes it too large or, if an extension transforms it, at the first byte above the limit; text fails at the first byte
that is not valid UTF-8.

An extension may expand a few bytes a thousandfold. Therefore its input is processed in small steps, between which
:meth:`MessageDecoder.feed` yields None for a pause: the caller can let other tasks run, deliver the messages so far, or
wait for room in its buffers. Every frame counts towards the next pause, because a read may contain very many. Most
compressed messages take a single step and have a fast path.

A message can be received in parts before it is complete. :meth:`MessageDecoder.take_part` returns the current part and
*claims* the message: the decoder then yields its end as a :class:`LastPart` instead of a whole message.
:meth:`MessageDecoder.skip` claims the message too, and discards the rest of it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from sys import getsizeof
from typing import TYPE_CHECKING, TypeAlias

import attrs

from ..exceptions import InvalidData, MessageTooBig, ProtocolError, TooManyFragments
from ..exceptions.shown import show_fields
from ..frames import Close, CloseCode, Opcode
from .codec import BATCH, FIN, FRAME_BATCH, FrameDecoder, Role
from .pure import Buffer

if TYPE_CHECKING:
    from .extensions import Extension

__all__ = ["ControlFrame", "LastPart", "Message", "MessageDecoder"]

Message: TypeAlias = str | bytes

#: A control frame: its opcode and its payload. Creating a :class:`Frame` would take longer than everything else.
ControlFrame: TypeAlias = tuple[int, bytes]

_CONTROL = 0x08
_CLOSE = FIN | Opcode.CLOSE
# As integers, because members of an enum are slower.
_CONT_OPCODE = int(Opcode.CONT)
_TEXT_OPCODE = int(Opcode.TEXT)
# Set in the opcode TEXT, but not in BINARY.
_TEXT = 0x01

# Parts smaller than this are joined in batches as they arrive. A message in a million fragments then uses about as much
# memory as in one.
_SMALL = 4096
_SMALL_BATCH = 256

# Number of bytes that an extension gets in one step. 1 KiB can expand to 1 MiB, which takes 2 or 3 milliseconds.
_STEP = 1024
# Number of output bytes between two pauses. Each input byte counts for 16 output bytes, because the slowest input may
# produce no output. A message from a batch counts for _MESSAGE bytes, and any other frame for _FRAME bytes.
_PAUSE = 64 * 1024
_MESSAGE = _PAUSE // BATCH
_FRAME = _PAUSE // FRAME_BATCH

# Fragments with a smaller payload count towards the limit on fragments, in bytes.
_SMALL_FRAGMENT = 1024


@attrs.frozen
class LastPart:
    """The last part of a message that was received in parts.

    Attributes:
        data: The rest of the message, after the parts taken before.
        size: Size of the whole message in bytes.
    """

    data: Message
    size: int = attrs.field(default=0, eq=False)

    __repr__ = show_fields

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + getsizeof(self.data)


class MessageDecoder:
    """Decodes received bytes into messages and control frames.

    Args:
        role: The role of this end.
        max_message_size: Maximum size of a message in bytes, after decompression; None for no limit.
        extensions: The extensions in use, in the order in which they were negotiated.
        max_fragments: Maximum number of fragments of less than 1 KiB in a message; None for no limit.

    Attributes:
        frames: Number of received frames of any kind, including the current one.
    """

    __slots__ = (
        "_announced",
        "_claimed",
        "_extension_by_first_byte",
        "_extensions",
        "_fragments",
        "_frames",
        "_in_frame",
        "_limit",
        "_max_fragments",
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
        "frames",
    )

    def __init__(
        self,
        role: Role,
        max_message_size: int | None = None,
        extensions: Sequence[Extension] = (),
        max_fragments: int | None = None,
    ) -> None:
        rsv = 0
        for extension in extensions:
            rsv |= extension.rsv
        self._frames = FrameDecoder(role, rsv, assemble=True)
        self._limit = max_message_size
        self._max_fragments = max_fragments
        self._extensions = extensions
        # The extension that transformed a message, by the first byte of its frame, for messages in one frame.
        self._extension_by_first_byte = {
            FIN | extension.rsv | opcode: extension
            for extension in extensions
            for opcode in (Opcode.TEXT, Opcode.BINARY)
        }
        # The current message. Its opcode, CONT if there is none; and whether one of its frames is incomplete.
        self._opcode = _CONT_OPCODE
        self._in_frame = False
        # Its size in bytes: according to the frame headers received so far, and of the payload received so far.
        self._announced = 0
        self._size = 0
        # The number of its small fragments.
        self._fragments = 0
        # The extensions that transformed it, in the order in which to undo that.
        self._transforms: list[Extension] = []
        self._since_pause = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        # Its parts, and the small parts that are not joined yet.
        self._parts: list[Message] = []
        self._parts_size = 0
        self._small: list[Message] = []
        self._small_size = 0
        self._claimed = False
        self._skipped = False
        self.frames: int = 0

    @property
    def in_progress(self) -> Opcode | None:
        """The opcode of the current incomplete message; None if there is none."""
        return Opcode(self._opcode) if self._opcode else None

    @property
    def held(self) -> int:
        """Memory used by the parts of the current message, in bytes."""
        return self._small_size + self._parts_size + self._frames.assembled

    def detach(self) -> None:
        """Copy the bytes that :meth:`feed` has not decoded yet, so that the buffer they came in can be reused."""
        self._frames.detach()

    @property
    def expected(self) -> int:
        """Number of bytes likely to arrive next, judging by the last frame."""
        return self._frames.expected

    def take_part(self) -> Message:
        """Return the part of the current message that arrived since the last call. Claims the message.

        The part may be empty.

        Raises:
            ProtocolError: If no message is in progress.
        """
        self._check_in_progress()
        self._claimed = True
        return self._take_parts()

    def skip(self) -> None:
        """Discard the current message. Its remaining frames are still validated.

        Raises:
            ProtocolError: If no message is in progress.
        """
        self._check_in_progress()
        self._claimed = self._skipped = True
        self._take_parts()

    def _check_in_progress(self) -> None:
        if not self._opcode:
            raise ProtocolError("there is no incomplete message")

    def feed(self, data: Buffer) -> Iterator[list[Message] | Message | LastPart | ControlFrame | None]:
        """Yield messages, lists of messages, and control frames, in the order of arrival; and None for a pause.

        The iterator must be exhausted before this is called again.

        Args:
            data: The next bytes.

        Raises:
            ProtocolError: While iterating, if the peer violates the protocol, after everything that arrived before was
                yielded. The decoder cannot be used any more then.
        """
        frames = self._frames
        frames.feed(data)
        while True:
            if not self._opcode and (messages := frames.take_messages(self._limit)):
                self.frames += len(messages)
                self._since_pause += _MESSAGE * len(messages)
                yield messages
                if frames.release():  # most reads end at the end of a message
                    return
            elif pieces := frames.take_pieces():
                for first_byte, payload, remaining in pieces:
                    if not self._in_frame:
                        self.frames += 1
                        self._since_pause += _FRAME
                    if first_byte & _CONTROL:
                        if first_byte == _CLOSE:
                            Close.parse(payload)  # raises if it is not valid
                        yield first_byte & 0x0F, payload
                        continue
                    extension = self._extension_by_first_byte.get(first_byte)
                    if extension is not None and not remaining and not self._opcode and len(payload) <= _STEP:
                        whole = self._transform_whole(first_byte, payload, extension)
                        if self._since_pause >= _PAUSE:
                            self._since_pause = 0
                            yield None
                        yield whole
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
                if frames.release():
                    return
            else:
                return
            if self._since_pause >= _PAUSE:
                self._since_pause = 0
                yield None

    def _start_frame(self, first_byte: int, size: int) -> None:
        opcode = first_byte & 0x0F
        if self._opcode:
            if opcode:
                raise ProtocolError(f"{Opcode(opcode).name} frame within a fragmented message")
        else:
            if not opcode:
                raise ProtocolError("CONT frame without a message to continue")
            self._opcode = opcode
            self._announced = self._size = self._fragments = 0
            # Received messages pass the extensions in reverse order.
            self._transforms = [each for each in reversed(self._extensions) if first_byte & each.rsv]
        if size < _SMALL_FRAGMENT and (first_byte < FIN or not opcode):
            self._fragments += 1
            if self._max_fragments is not None and self._fragments > self._max_fragments:
                raise TooManyFragments(self._max_fragments)
        if self._transforms:
            return  # the size limit applies to the output of the extensions, see _add()
        self._announced += size
        if self._limit is not None and self._announced > self._limit:
            raise MessageTooBig(self._announced, self._limit)

    def _transform_whole(self, first_byte: int, data: bytes, extension: Extension) -> Message:
        """Return a message that takes one step: the fast path for :meth:`_transform` and :meth:`_add`."""
        limit = self._limit
        message = _decode(extension, data, True, limit)
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
        """Decode a part with the extensions, and add the output to the message. Yield for pauses."""
        for start in range(0, len(data) or 1, _STEP):
            piece = data[start : start + _STEP]
            last = final and start + _STEP >= len(data)
            self._since_pause += 16 * len(piece)
            for extension in self._transforms:
                room = None if self._limit is None else self._limit - self._size
                piece = _decode(extension, piece, last, room)
                if room is not None and len(piece) > room:  # the next extension must not get an incomplete message
                    raise MessageTooBig(self._size + len(piece), self._size + room)
            self._add(piece, last)
            self._since_pause += len(piece)
            if self._since_pause >= _PAUSE:
                self._since_pause = 0
                yield

    def _add(self, data: bytes, final: bool) -> None:
        """Add a part to the message. Its size has been checked: in its header or, if transformed, after that."""
        self._size += len(data)
        if not data and not final:
            return
        part: Message = data
        if self._opcode == _TEXT_OPCODE:
            try:
                part = self._utf8.decode(data, final)
                # Python's decoder rejects a surrogate only at its third byte. Feeding one makes it fail at the second.
                if b"\xed\xa0" <= self._utf8.getstate()[0] < b"\xee":
                    self._utf8.decode(b"\x80")
            except UnicodeDecodeError as exc:
                raise _not_utf8(exc) from exc
        if part and not self._skipped:
            self._append(part)

    def _append(self, part: Message) -> None:
        # This is the size in memory: one character may make every character of its string take four bytes.
        size = getsizeof(part)
        if size < _SMALL:
            self._small.append(part)
            self._small_size += size
            if len(self._small) == _SMALL_BATCH:
                self._flush_small()
        else:
            self._flush_small()
            self._parts.append(part)
            self._parts_size += size

    def _flush_small(self) -> None:
        if self._small:
            part = self._concatenate(self._small)
            self._small.clear()
            self._small_size = 0
            self._parts.append(part)
            self._parts_size += getsizeof(part)

    def _take_parts(self) -> Message:
        if assembled := self._frames.take_assembled():
            self._append(assembled)
        self._flush_small()
        parts, self._parts = self._parts, []
        self._parts_size = 0
        return parts[0] if len(parts) == 1 else self._concatenate(parts)

    def _concatenate(self, parts: list[Message]) -> Message:
        if self._opcode == _TEXT_OPCODE:
            return "".join(parts)  # type: ignore[arg-type]  # all are str
        return b"".join(parts)  # type: ignore[arg-type]  # all are bytes

    def _finish(self) -> Message | LastPart | None:
        data = self._take_parts()
        claimed, skipped = self._claimed, self._skipped
        self._opcode = _CONT_OPCODE
        self._claimed = self._skipped = False
        if skipped:
            return None
        return LastPart(data, self._size) if claimed else data


def _not_utf8(exc: UnicodeDecodeError) -> InvalidData:
    return InvalidData(f"text is not UTF-8: {exc.reason} {exc.object[exc.start : exc.end].hex(' ')}")


def _decode(extension: Extension, data: bytes, final: bool, limit: int | None) -> bytes:
    """Decode data with an extension. An exception that is not a violation by the peer closes with 1011."""
    try:
        decoded = extension.decode(data, final=final, limit=limit)
        if not isinstance(decoded, bytes):
            raise TypeError(f"decode() must return bytes, not {type(decoded).__name__}")
        return decoded
    except ProtocolError:
        raise
    except Exception as exc:
        error = ProtocolError(f"an extension failed: {type(exc).__name__}")
        error.code = CloseCode.INTERNAL_ERROR
        raise error from exc
