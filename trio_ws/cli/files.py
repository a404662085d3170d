"""Sending a file as one message."""

from __future__ import annotations

import os
import sys

import trio

from ..connection.websocket import WebSocket
from ..exceptions import InvalidData
from .commands import SendFile
from .failure import Failure, one_line
from .style import ProgressBar

__all__ = ["can_be_read_again", "send_file"]

#: Bytes to read and send at once. A file that is not larger is sent as a single frame.
CHUNK = 2**18


async def send_file(ws: WebSocket, action: SendFile) -> None:
    """Send a file, or standard input for ``-``, as one message; show the progress on a terminal.

    Raises:
        ConnectionClosed: If the connection is closed.
        Failure: If the file cannot be read, or is sent as text and is not UTF-8.
    """
    if action.path == "-":
        await _send_from(ws, action, None if sys.stdin is None else sys.stdin.fileno())
        return
    try:
        # Opening a FIFO waits for a writer.
        descriptor = await trio.to_thread.run_sync(_open, action.path, abandon_on_cancel=True)
    except OSError as exc:
        raise Failure(f"cannot read {action.path}: {exc.strerror or one_line(exc)}") from exc
    try:
        await _send_from(ws, action, descriptor)
    finally:
        os.close(descriptor)


def can_be_read_again(path: str) -> bool:
    """Whether a file can be sent again after a part of it was read. Standard input, which is ``-``, cannot."""
    return path != "-" and os.path.isfile(path)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


async def _send_from(ws: WebSocket, action: SendFile, descriptor: int | None) -> None:
    size = 0 if descriptor is None else os.fstat(descriptor).st_size
    progress = ProgressBar(sys.stderr, size or None)
    try:
        first = await _read(action, descriptor)
        following = await _read(action, descriptor) if first else b""
        if not following:
            await ws.send(first, text=not action.binary)
            progress.advance(len(first))
            return
        async with ws.send_stream(text=not action.binary) as parts:
            await parts.send(first)
            progress.advance(len(first))
            while following:
                await parts.send(following)
                progress.advance(len(following))
                following = await _read(action, descriptor)
    except (InvalidData, ValueError) as exc:
        raise Failure(f"{action.path} is not UTF-8; use --binary to send it as a binary message") from exc
    finally:
        progress.close()


async def _read(action: SendFile, descriptor: int | None) -> bytes:
    """Read up to :data:`CHUNK` bytes; fewer only at the end of the file."""
    chunks: list[bytes] = []
    missing = CHUNK
    while missing and descriptor is not None:
        try:
            # A pipe may have nothing to read for a long time.
            data = await trio.to_thread.run_sync(os.read, descriptor, missing, abandon_on_cancel=True)
        except OSError as exc:
            raise Failure(f"cannot read {action.path}: {exc.strerror or one_line(exc)}") from exc
        if not data:
            break
        chunks.append(data)
        missing -= len(data)
    return b"".join(chunks)
