"""Received bytes become frames: ``Input``."""

from __future__ import annotations

from h2.errors import ErrorCodes

from .frames import HEADER_SIZE, MAX_FRAME_SIZE, Chunk, Violation, parse_header

__all__ = ["Input"]


class Input:
    """The received bytes that were not processed yet.

    Args:
        preface: The bytes that must come before the first frame.
    """

    __slots__ = ("_data", "_position", "_preface")

    def __init__(self, preface: bytes) -> None:
        self._preface = preface
        self._data = memoryview(b"")
        self._position = 0

    @property
    def is_empty(self) -> bool:
        """Whether all received bytes were processed."""
        return self._position == len(self._data)

    def add(self, data: Chunk) -> None:
        """Add received bytes. If their memory will be used again, call :meth:`copy` before that."""
        rest = self._data[self._position :]
        self._data = memoryview(b"".join((rest, data)) if rest else data)
        self._position = 0

    def copy(self) -> None:
        """Copy the rest."""
        self._data = memoryview(bytes(self._data[self._position :]))
        self._position = 0

    def take(self) -> tuple[memoryview, int, int, int] | None:
        """Return the next frame with its header, its type, its flags and its stream; None if it is not complete.

        Raises:
            Violation: If the preface is wrong, or the frame is too large.
        """
        view = self._data
        if self._preface:
            self._skip_preface()
        position = self._position
        if len(view) - position < HEADER_SIZE:
            return None
        length, kind, flags, stream_id = parse_header(view, position)
        if length > MAX_FRAME_SIZE:
            raise Violation(ErrorCodes.FRAME_SIZE_ERROR, f"a frame has {length} bytes")
        end = position + HEADER_SIZE + length
        if end > len(view):
            return None
        self._position = end
        return view[position:end], kind, flags, stream_id

    def _skip_preface(self) -> None:
        size = min(len(self._preface), len(self._data) - self._position)
        end = self._position + size
        if self._data[self._position : end] != self._preface[:size]:
            raise Violation(ErrorCodes.PROTOCOL_ERROR, "the connection preface of HTTP/2 is missing")
        self._preface = self._preface[size:]
        self._position = end
