"""A message decoder that reports every received frame.

:class:`~trio_ws.protocol.messages.MessageDecoder` decodes most frames in batches, and reports none of them.
:class:`ObservedDecoder` is slower, and used only if an instrument observes frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import attrs

from ..exceptions.shown import show_fields
from ..frames import MAX_CONTROL_PAYLOAD, MAX_SHOWN, Opcode, show_payload
from .codec import FIN, FrameDecoder, Role
from .messages import ControlFrame, LastPart, Message, MessageDecoder
from .pure import Buffer

if TYPE_CHECKING:
    from .extensions import Extension

__all__ = ["FrameInfo", "ObservedDecoder", "OnFrame", "size_of"]

#: Maximum size of ``FrameInfo.start``, in bytes: enough for a whole control frame and for a line of a log.
START = max(MAX_CONTROL_PAYLOAD, 4 * MAX_SHOWN)


@attrs.frozen
class FrameInfo:
    """A summary of a frame. ``str()`` returns a line for a log.

    Attributes:
        opcode: The opcode.
        size: Size of the uncompressed payload in bytes.
        start: The beginning of the uncompressed payload, at most 256 bytes.
        fin: Whether this is the last frame of its message.
    """

    opcode: Opcode
    size: int
    start: bytes
    fin: bool = True

    __repr__ = show_fields

    @classmethod
    def of(cls, first_byte: int, data: bytes) -> FrameInfo:
        """Return the summary of a frame.

        Args:
            first_byte: The first byte of its header.
            data: Its payload, uncompressed.
        """
        return cls(Opcode(first_byte & 0x0F), len(data), data[:START], first_byte >= FIN)

    def __str__(self) -> str:
        shown = show_payload(self.opcode, self.start, self.size, self.fin)
        size = f"{self.size} byte{'' if self.size == 1 else 's'}"
        return f"{self.opcode.name} {shown} [{size}{'' if self.fin else ', continued'}]"


#: A callback for frames that were received completely.
OnFrame: TypeAlias = Callable[[FrameInfo], object]


def size_of(message: Message) -> int:
    """Return the size of a message in bytes, as UTF-8 if it is text."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


class ObservedDecoder(MessageDecoder):
    """A message decoder that calls a function with each received frame, except invalid ones.

    Args:
        role: See :class:`MessageDecoder`.
        max_message_size: See :class:`MessageDecoder`.
        extensions: See :class:`MessageDecoder`.
        on_frame: The function to call.
        max_fragments: See :class:`MessageDecoder`.
    """

    __slots__ = ("_first_byte", "_frame_size", "_frame_start", "_on_frame")

    def __init__(
        self,
        role: Role,
        max_message_size: int | None,
        extensions: Sequence[Extension],
        on_frame: OnFrame,
        max_fragments: int | None = None,
    ) -> None:
        super().__init__(role, max_message_size, extensions, max_fragments)
        rsv = 0
        for extension in extensions:
            rsv |= extension.rsv
        # The frame decoder must not assemble messages: _add() needs to see the pieces.
        self._frames = FrameDecoder(role, rsv)
        self._on_frame = on_frame
        # The current data frame: its first byte, the size of its payload so far, and the beginning of its payload.
        self._first_byte = 0
        self._frame_size = 0
        self._frame_start = b""

    def feed(self, data: Buffer) -> Iterator[list[Message] | Message | LastPart | ControlFrame | None]:
        """Do the same as :meth:`MessageDecoder.feed`, and report the frames."""
        for event in super().feed(data):
            if isinstance(event, list):
                for message in event:
                    self._report_message(message)
            elif isinstance(event, tuple):
                opcode, payload = event
                self._on_frame(FrameInfo.of(FIN | opcode, payload))
            yield event

    def _start_frame(self, first_byte: int, size: int) -> None:
        super()._start_frame(first_byte, size)
        self._first_byte = first_byte
        self._frame_size = 0
        self._frame_start = b""

    def _transform_whole(self, first_byte: int, data: bytes, extension: Extension) -> Message:
        message = super()._transform_whole(first_byte, data, extension)
        self._report_message(message)
        return message

    def _transform(self, data: bytes, final: bool) -> Iterator[None]:
        yield from super()._transform(data, final)
        if not self._in_frame:
            self._report_frame()

    def _add(self, data: bytes, final: bool) -> None:
        super()._add(data, final)
        self._frame_size += len(data)
        self._frame_start += data[: START - len(self._frame_start)]
        if not self._transforms and not self._in_frame:
            self._report_frame()

    def _report_frame(self) -> None:
        opcode = Opcode(self._first_byte & 0x0F)
        self._on_frame(FrameInfo(opcode, self._frame_size, self._frame_start, self._first_byte >= FIN))

    def _report_message(self, message: Message) -> None:
        if isinstance(message, str):
            # Every character takes at least one byte, so START characters are enough.
            start = message[:START].encode()[:START]
            self._on_frame(FrameInfo(Opcode.TEXT, size_of(message), start))
        else:
            self._on_frame(FrameInfo(Opcode.BINARY, len(message), message[:START]))
