"""The heads of responses, before h11 reads them: ``check_start``, ``Head``.

A client cannot change what other people's servers and proxies send. So where HTTP lets a recipient choose, their heads
are read as browsers and curl read them, although h11 is stricter:

* White space between the parts of the status line, and between the name of a header and its colon, is ignored
  (RFC 9112, sections 4 and 5.1).
* Control characters in the reason phrase and in values become spaces (RFC 9110, section 5.5).
* Content-Length and Transfer-Encoding do not count where there is no body (RFC 9112, section 6.3; RFC 9110, section
  9.3.6). A body in an unknown transfer coding ends with the connection, unless it is chunked.

Only one response is read from a connection. So no response can be mistaken for another one.
"""

from __future__ import annotations

import re

from ..exceptions.handshake import InvalidMessage
from ..exceptions.shown import quote
from .messages import BODILESS

__all__ = ["Head", "check_start"]

_STATUS_LINE = re.compile(rb"(HTTP/[0-9]\.[0-9])[ \t]+([1-9][0-9]{2})(?:[ \t]([^\n]*?))?\r?")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:(.*)", re.DOTALL)
_START = b"HTTP/"
_CONTROL_CHARACTERS = bytes(octet for octet in range(0x20) if octet != ord("\t")) + b"\x7f"
_SPACES = bytes.maketrans(_CONTROL_CHARACTERS, b" " * len(_CONTROL_CHARACTERS))
#: The headers that say where a body ends, in lower case.
_FRAMING = (b"content-length", b"transfer-encoding")


def check_start(data: bytes) -> None:
    """Check the beginning of a response as far as it has arrived, to recognize other protocols at once.

    Raises:
        InvalidMessage: If it is not HTTP, or its status line is malformed.
    """
    if not _START.startswith(data[: len(_START)]):
        hint = ": this looks like TLS, which wss:// is for" if data[0] in (0x15, 0x16) else ""
        raise InvalidMessage(f"it is not HTTP, but begins with {quote(data)}{hint}")
    end = data.find(b"\n")
    if end >= 0 and not _STATUS_LINE.fullmatch(data, 0, end):
        raise InvalidMessage(f"its first line is not a status line: {quote(data)}")


class Head:
    """The head of a response in the way that h11 needs it.

    Args:
        data: The head, including the empty line. Its first line is a status line.
        is_tunnel: Whether it is an answer to a CONNECT request.

    Attributes:
        data: The head for h11. The names of the headers about the length of the body are replaced, and the one that
            counts is added at the end.
        names: The names of the headers, without the one at the end.

    Raises:
        InvalidMessage: If a line is not a header.
    """

    def __init__(self, data: bytes, is_tunnel: bool) -> None:
        status_line, *lines = data.split(b"\n")
        match = _STATUS_LINE.fullmatch(status_line)
        assert match is not None  # see check_start()
        version, code, reason = match.groups(b"")
        self.status_code: int = int(code)
        self.names: list[bytes] = []
        self._framing: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING}
        result = [b"%b %b %b" % (version, code, reason.translate(_SPACES))]
        result += [self._convert(line.removesuffix(b"\r")) for line in lines[:-2]]
        if not (code[:1] == b"1" or self.status_code in BODILESS or (is_tunnel and code[:1] == b"2")):
            result += self._choose_framing()
        self.data: bytes = b"\r\n".join([*result, b"", b""])

    def _convert(self, line: bytes) -> bytes:
        """Return a line for h11."""
        line = line.translate(_SPACES)
        if line[:1] in (b" ", b"\t"):
            if not self.names:
                raise InvalidMessage(f"its first header begins with a space: {quote(line)}")
            if (name := self.names[-1].lower()) in _FRAMING:
                self._framing[name][-1] += line
            return line
        match = _HEADER.fullmatch(line)
        if match is None:
            raise InvalidMessage(f"a line is not a header: {quote(line)}")
        name, value = match.groups()
        self.names.append(name)
        if name.lower() in _FRAMING:
            self._framing[name.lower()].append(value)
            name = b"x"
        return name + b":" + value

    def _choose_framing(self) -> list[bytes]:
        """Return the header that tells h11 where the body ends; none if it ends with the connection."""
        codings = [each.strip(b" \t").lower() for each in b",".join(self._framing[b"transfer-encoding"]).split(b",")]
        codings = [each for each in codings if each not in (b"", b"identity")]
        if codings:
            # It overrides Content-Length (RFC 9112, section 6.3).
            return [b"Transfer-Encoding: chunked"] if codings[-1] == b"chunked" else []
        lengths = self._framing[b"content-length"]
        return [b"Content-Length: " + b",".join(lengths)] if lengths else []
