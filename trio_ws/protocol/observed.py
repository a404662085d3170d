"""Frames as they come in, for somebody who watches.

What nearly all frames go through, :mod:`trio_ws.protocol.messages`, does not stop at each of them, and has nobody to
tell. :class:`ObservedDecoder` does the same and tells of every frame; it is used where somebody wants to know, and
takes more time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import attrs

from ..frames import MAX_CONTROL_PAYLOAD, MAX_SHOWN, Frame, Opcode, show_payload
from .codec import FIN, FrameDecoder, Role
from .messages import LastPart, Message, MessageDecoder
from .pure import Buffer

if TYPE_CHECKING:
    from .extensions import Extension

__all__ = ["FrameInfo", "ObservedDecoder", "OnFrame", "size_of"]

#: So much of a payload is kept: all of a control frame, and of other frames what a line of a log has room for.
START = max(MAX_CONTROL_PAYLOAD, 4 * MAX_SHOWN)


@attrs.frozen
class FrameInfo:
    """What there is to say about a frame. ``str()`` makes a line for a log of it.

    Attributes:
        opcode: What it is.
        size: The size of its payload in bytes; where messages are compressed, without that.
        start: The beginning of the payload: 256 bytes or less.
        fin: Whether it is the last frame of its message.
    """

    opcode: Opcode
    size: int
    start: bytes
    fin: bool = True

    @classmethod
    def of(cls, first_byte: int, data: bytes) -> FrameInfo:
        """Return what there is to say about a frame with this first byte of its header, and this payload."""
        return cls(Opcode(first_byte & 0x0F), len(data), data[:START], first_byte >= FIN)

    def __str__(self) -> str:
        shown = show_payload(self.opcode, self.start, self.size, self.fin)
        size = f"{self.size} byte{'' if self.size == 1 else 's'}"
        return f"{self.opcode.name} {shown} [{size}{'' if self.fin else ', continued'}]"


#: What is told of each frame, when all of it has come.
OnFrame: TypeAlias = Callable[[FrameInfo], object]


def size_of(message: Message) -> int:
    """Return the size of a message in bytes, as UTF-8 if it is text."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


class ObservedDecoder(MessageDecoder):
    """A decoder that tells of each frame. A frame that is refused is not told of.

    Args:
        role: As for :class:`MessageDecoder`, like all that follows.
        max_message_size: How large a message may be.
        extensions: The extensions in use.
        on_frame: What is told.
    """

    __slots__ = ("_first_byte", "_frame_size", "_frame_start", "_on_frame")

    def __init__(
        self, role: Role, max_message_size: int | None, extensions: Sequence[Extension], on_frame: OnFrame
    ) -> None:
        super().__init__(role, max_message_size, extensions)
        rsv = 0
        for extension in extensions:
            rsv |= extension.rsv
        # Payloads are to come through _add(), and nothing is to be put together below it.
        self._frames = FrameDecoder(role, rsv)
        self._on_frame = on_frame
        # The data frame in progress: how it began, and what has come of its payload.
        self._first_byte = 0
        self._frame_size = 0
        self._frame_start = b""

    def feed(self, data: Buffer) -> Iterator[list[Message] | Message | LastPart | Frame | None]:
        """Do what :meth:`MessageDecoder.feed` does, and tell of the frames."""
        for event in super().feed(data):
            if isinstance(event, list):
                for message in event:
                    self._tell_whole(message)
            elif isinstance(event, Frame):
                self._on_frame(FrameInfo.of(FIN | event.opcode, event.data))
            yield event

    def _start_frame(self, first_byte: int, size: int) -> None:
        super()._start_frame(first_byte, size)
        self._first_byte = first_byte
        self._frame_size = 0
        self._frame_start = b""

    def _transform_whole(self, first_byte: int, data: bytes, extension: Extension) -> Message:
        message = super()._transform_whole(first_byte, data, extension)
        self._tell_whole(message)
        return message

    def _transform(self, data: bytes, final: bool) -> Iterator[None]:
        yield from super()._transform(data, final)
        if not self._in_frame:
            self._tell()

    def _add(self, data: bytes, final: bool) -> None:
        super()._add(data, final)
        self._frame_size += len(data)
        self._frame_start += data[: START - len(self._frame_start)]
        if not self._transforms and not self._in_frame:
            self._tell()

    def _tell(self) -> None:
        opcode = Opcode(self._first_byte & 0x0F)
        self._on_frame(FrameInfo(opcode, self._frame_size, self._frame_start, self._first_byte >= FIN))

    def _tell_whole(self, message: Message) -> None:
        if isinstance(message, str):
            # A character takes a byte or more.
            start = message[:START].encode()[:START]
            self._on_frame(FrameInfo(Opcode.TEXT, size_of(message), start))
        else:
            self._on_frame(FrameInfo(Opcode.BINARY, len(message), message[:START]))
