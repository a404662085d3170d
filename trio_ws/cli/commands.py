"""The actions of a user of ``trio-ws connect``, and the commands that stand for them at a prompt."""

from __future__ import annotations

import base64
import binascii
from typing import TypeAlias

import attrs

from ..frames import MAX_CONTROL_PAYLOAD, CloseCode, may_send
from .failure import Failure

__all__ = ["HELP", "Action", "CloseConnection", "Parser", "Ping", "Send", "SendFile", "ShowNote"]

HELP = """\
/ping                 measure the round-trip time
/binary 00 FF 10      send a binary message, in hexadecimal
/close [CODE [TEXT]]  close the connection, for example: /close 4000 bye
/help                 show this
//text                send a text that begins with a slash
Ctrl-D and Ctrl-C close the connection. Everything else is sent as a text message."""


@attrs.frozen
class Send:
    """Send a message."""

    message: str | bytes


@attrs.frozen
class SendFile:
    """Send a file, or standard input for ``-``, as one message."""

    path: str
    binary: bool


@attrs.frozen
class Ping:
    """Measure the round-trip time."""


@attrs.frozen
class CloseConnection:
    """Close the connection."""

    code: int = CloseCode.NORMAL_CLOSURE
    reason: str = ""


@attrs.frozen
class ShowNote:
    """Show a text to the user."""

    text: str


Action: TypeAlias = "Send | SendFile | Ping | CloseConnection | ShowNote"


@attrs.frozen
class Parser:
    """Turns lines into actions.

    Args:
        binary: Whether lines are sent as binary messages.
        base64_encoded: Whether lines are binary messages in base64.
        close_code: The code of ``/close`` without a code.
    """

    binary: bool = False
    base64_encoded: bool = False
    close_code: int = CloseCode.NORMAL_CLOSURE

    def parse_line(self, line: bytes) -> Send:
        """Return the action for a line of a file or a pipe, without its end.

        Raises:
            Failure: If the line is not valid.
        """
        if self.base64_encoded:
            try:
                return Send(base64.b64decode(line, validate=True))
            except binascii.Error as exc:
                raise Failure(f"a line of standard input is not base64: {exc}") from exc
        if self.binary:
            return Send(line)
        try:
            return Send(line.decode())
        except UnicodeDecodeError as exc:
            raise Failure("standard input is not UTF-8") from exc

    def parse_typed(self, line: str) -> Action:
        """Return the action for a line that was typed at a prompt. What is wrong becomes a :class:`ShowNote`."""
        if line.startswith("/") and not line.startswith("//"):
            return self._parse_command(line)
        try:
            return self.parse_line(line.removeprefix("/" if line.startswith("//") else "").encode())
        except Failure as exc:
            return ShowNote(str(exc))

    def _parse_command(self, line: str) -> Action:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/help":
            return ShowNote(HELP)
        if name == "/ping":
            return Ping()
        if name == "/binary":
            try:
                return Send(bytes.fromhex(rest))
            except ValueError:
                return ShowNote("/binary must be followed by bytes in hexadecimal, for example: /binary 00 FF 10")
        if name == "/close":
            return _parse_close(rest, self.close_code)
        return ShowNote(f"{name} is not a command; /help lists them, and //text sends a text that begins with a slash")


def _parse_close(arguments: str, close_code: int) -> Action:
    code, _, reason = arguments.partition(" ")
    reason = reason.strip()
    if not code:
        return CloseConnection(close_code)
    if not (code.isascii() and code.isdigit() and len(code) == 4 and may_send(int(code))):
        return ShowNote("the code must be between 3000 and 4999, or a standard one such as 1000")
    if len(reason.encode()) > MAX_CONTROL_PAYLOAD - 2:
        return ShowNote(f"the text must be at most {MAX_CONTROL_PAYLOAD - 2} bytes long")
    return CloseConnection(int(code), reason)
