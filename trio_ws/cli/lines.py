"""Lines of standard input: from a file, a pipe, or a terminal without line editing."""

from __future__ import annotations

import os
import sys

import trio

from .commands import Action, Parser

__all__ = ["StdinLines", "TypedLines"]

#: Bytes to read at once.
CHUNK = 65536


class StdinLines:
    """The actions for the lines of standard input; none if it is closed.

    A thread reads them, because no system call waits for terminals, pipes and files alike. It reads from the file
    descriptor, because an abandoned thread inside ``sys.stdin`` would hold a lock that the interpreter needs at exit.

    Args:
        parser: The parser of the lines.
        prompt: The text to print before each line.
    """

    def __init__(self, parser: Parser, prompt: str = "") -> None:
        self.parser = parser
        self._prompt = prompt
        self._data = bytearray()
        # The number of bytes at the beginning that contain no end of a line.
        self._searched = 0
        self._eof = sys.stdin is None

    def __aiter__(self) -> StdinLines:
        return self

    async def __anext__(self) -> Action:
        print(self._prompt, end="", flush=True)
        while (end := self._data.find(b"\n", self._searched)) < 0 and not self._eof:
            self._searched = len(self._data)
            data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), CHUNK, abandon_on_cancel=True)
            self._eof = not data
            self._data += data
        if not self._data:
            raise StopAsyncIteration
        if end < 0:
            end = len(self._data)
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        return self.parse(line.removesuffix(b"\r"))

    def parse(self, line: bytes) -> Action:
        """Return the action for a line."""
        return self.parser.parse_line(line)


class TypedLines(StdinLines):
    """The actions for lines that are typed on a terminal. They may be commands such as ``/ping``."""

    def parse(self, line: bytes) -> Action:
        """Return the action for a line."""
        return self.parser.parse_typed(line.decode(errors="replace"))
