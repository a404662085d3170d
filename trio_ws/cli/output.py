"""The output of ``trio-ws connect``: for people, or one JSON object per event.

Text from a peer passes one function before it is printed on a terminal: :func:`~trio_ws.cli.terminal.show` for
messages, :func:`~trio_ws.cli.failure.one_line` for errors and close reasons. JSON escapes everything that is not ASCII.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import sys
from typing import Any, Literal, TextIO, TypeAlias

from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed, ConnectionClosedError
from ..exceptions.shown import hide_passwords, show_value
from ..instruments.interface import FrameInfo, Instrument, ObservedWebSocket
from ..protocol import Message
from ..protocol.observed import size_of
from .failure import Failure, one_line
from .style import is_terminal, paint
from .terminal import show

__all__ = ["Binary", "JsonOutput", "Output", "ShowFrames", "TextOutput", "timestamp"]

#: The format of binary messages on standard output.
Binary: TypeAlias = Literal["hex", "base64", "raw"]


def timestamp() -> str:
    """Return the current time in UTC, in the format of RFC 3339, with milliseconds."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Output:
    """Base class: an output of nothing."""

    def opened(self, uri: str, ws: WebSocket) -> None:
        """Report that a connection is open."""

    def received(self, message: Message) -> None:
        """Report a message."""

    def ponged(self, seconds: float) -> None:
        """Report the round-trip time of a ping."""

    def frame(self, direction: Literal["<", ">"], frame: FrameInfo) -> None:
        """Report a frame that was received (``<``) or sent (``>``)."""

    def head(self, direction: Literal["<", ">"], line: str) -> None:
        """Report a line of the opening handshake."""

    def retrying(self, error: Exception) -> None:
        """Report an error that is no reason to give up."""

    def closed(self, error: ConnectionClosed) -> None:
        """Report that a connection is closed."""

    def note(self, text: str) -> None:
        """Show a hint to a user at a prompt."""


class TextOutput(Output):
    """Messages on standard output, everything else on standard error.

    Args:
        binary: The format of binary messages.
        timestamps: Whether each line begins with the time.
        prompt: The prompt of a terminal without line editing, which each message overwrites and repeats; or None.
    """

    def __init__(self, binary: Binary = "hex", timestamps: bool = False, prompt: str | None = None) -> None:
        self._binary = binary
        self._timestamps = timestamps
        self._prompt = prompt
        self._interactive = prompt is not None
        # The stream that stands in for terminals while a prompt is edited there.
        self._above: io.TextIOBase | None = None

    def print_above(self, stream: io.TextIOBase | None) -> None:
        """Print everything for terminals to this stream from now on, above the line that is being edited.

        Args:
            stream: The stream; None to print to the terminals again.
        """
        self._above = stream
        self._interactive = True

    def opened(self, uri: str, ws: WebSocket) -> None:
        """Report that a connection is open."""
        subprotocol = "" if ws.subprotocol is None else f", subprotocol {ws.subprotocol}"
        self._print_line(sys.stderr, f"connected to {hide_passwords(uri)}{subprotocol}", "dim")

    def received(self, message: Message) -> None:
        """Print a message."""
        on_terminal = is_terminal(sys.stdout)
        if isinstance(message, str):
            text = show(message) if on_terminal else message
        elif self._binary == "raw" and not on_terminal and sys.stdout is not None:
            sys.stdout.flush()
            sys.stdout.buffer.write(message)
            sys.stdout.buffer.flush()
            return
        elif self._binary == "base64":
            text = base64.b64encode(message).decode()
        else:
            text = f"[{len(message)} bytes] {message.hex(' ')}"
        time = self._time(sys.stdout)
        if self._prompt is not None:
            print(f"\r{time}< {text}\n{self._prompt}", end="", flush=True)
        elif self._interactive:
            self._print(sys.stdout, f"{time}{paint('<', 'cyan', sys.stdout)} {text}")
        else:
            self._print(sys.stdout, time + text)

    def ponged(self, seconds: float) -> None:
        """Print a round-trip time."""
        self._print_line(sys.stderr, f"ping: {seconds * 1000:.2f} ms", "dim")

    def frame(self, direction: Literal["<", ">"], frame: FrameInfo) -> None:
        """Print a frame."""
        self._print_line(sys.stderr, f"{direction} {frame}", "dim")

    def head(self, direction: Literal["<", ">"], line: str) -> None:
        """Print a line of the opening handshake."""
        self._print_line(sys.stderr, f"{direction} {hide_passwords(one_line(Failure(line)))}", "dim")

    def retrying(self, error: Exception) -> None:
        """Print an error."""
        self._print_line(sys.stderr, f"reconnecting: {one_line(error)}", "red")

    def closed(self, error: ConnectionClosed) -> None:
        """Print how a connection was closed."""
        overwrite = "" if self._prompt is None else "\r"
        color = "red" if isinstance(error, ConnectionClosedError) else "dim"
        self._print_line(sys.stderr, f"connection closed: {_describe_end(error)}", color, overwrite)

    def note(self, text: str) -> None:
        """Print a hint."""
        self._print_line(sys.stderr, text, "dim")

    def _time(self, stream: TextIO | None) -> str:
        return paint(timestamp(), "dim", stream) + " " if self._timestamps else ""

    def _print_line(self, stream: TextIO | None, text: str, color: str, before: str = "") -> None:
        self._print(stream, f"{before}{self._time(stream)}{paint(text, color, stream)}")

    def _print(self, stream: TextIO | None, text: str) -> None:
        if stream is None:  # print() would use standard output
            return
        above = self._above if is_terminal(stream) else None
        print(text, file=stream if above is None else above, flush=True)


class JsonOutput(Output):
    """One JSON object per line and event, on standard output."""

    def opened(self, uri: str, ws: WebSocket) -> None:
        """Report that a connection is open."""
        self._print("open", uri=hide_passwords(uri), subprotocol=ws.subprotocol)

    def received(self, message: Message) -> None:
        """Print a message."""
        if isinstance(message, str):
            self._print("text", data=message, size=size_of(message))
        else:
            self._print("binary", base64=base64.b64encode(message).decode(), size=len(message))

    def ponged(self, seconds: float) -> None:
        """Print a round-trip time."""
        self._print("pong", seconds=round(seconds, 6))

    def frame(self, direction: Literal["<", ">"], frame: FrameInfo) -> None:
        """Print a frame."""
        kind = "frame-received" if direction == "<" else "frame-sent"
        self._print(kind, opcode=frame.opcode.name.lower(), fin=frame.fin, size=frame.size)

    def head(self, direction: Literal["<", ">"], line: str) -> None:
        """Print a line of the opening handshake."""
        self._print("response" if direction == "<" else "request", data=hide_passwords(line))

    def retrying(self, error: Exception) -> None:
        """Print an error."""
        self._print("retry", error=one_line(error))

    def closed(self, error: ConnectionClosed) -> None:
        """Print how a connection was closed."""
        clean = not isinstance(error, ConnectionClosedError)
        self._print("close", code=error.code, reason=error.reason, clean=clean, description=_describe_end(error))

    def _print(self, kind: str, **fields: Any) -> None:
        print(json.dumps({"time": timestamp(), "type": kind, **fields}), flush=True)


def _describe_end(error: ConnectionClosed) -> str:
    """Return how a connection was closed, with the error behind that unless a close reason has told it."""
    text, cause = one_line(error), error.__cause__
    if cause is None or one_line(cause) in text:
        return text
    return f"{text}: {one_line(cause)}"


class ShowFrames(Instrument):
    """Reports the opening handshake and each frame to an output.

    Args:
        output: The output.
    """

    def __init__(self, output: Output) -> None:
        self._output = output

    def connection_opened(self, ws: ObservedWebSocket) -> None:
        """Report the request and the response, without credentials."""
        self._output.head(">", f"{ws.request.method} {ws.request.path}")
        for name, value in ws.request.headers.raw_items():
            self._output.head(">", _format_header(name, value))
        self._output.head("<", f"{ws.response.status_code} {ws.response.reason_phrase}")
        for name, value in ws.response.headers.raw_items():
            self._output.head("<", _format_header(name, value))

    def frame_received(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """Report a received frame."""
        self._output.frame("<", frame)

    def frame_sent(self, ws: ObservedWebSocket, frame: FrameInfo) -> None:
        """Report a sent frame."""
        self._output.frame(">", frame)


def _format_header(name: str, value: str) -> str:
    return f"{name}: {show_value(name, value)}"
