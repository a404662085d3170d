"""The lines of a head: what is not HTTP is recognized at its first line, and errors quote the line that is wrong.

h11 has the last word on the grammar, but it waits for the end of a head, which never comes from a peer that speaks
another protocol. Its error messages are not passed on either, because they show its own insides.
"""

from __future__ import annotations

import re

from ..exceptions.handshake import InvalidMessage
from ..exceptions.shown import quote

__all__ = ["check_request_line", "explain_head", "explain_local_error"]

#: Maximum number of bytes of an incomplete start line that are examined. This bounds the work if they come one by one.
_MAX_EXAMINED = 512

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(_TOKEN + rb" [\x21-\x7e]+ HTTP/[0-9]\.[0-9]")
# These are compiled when they are first used, because most requests arrive at once and are valid.
_TARGET = rb"[\x21-\x7e]*"
_HEADER_LINE = _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*"
_HTTP = b"HTTP/"

#: Other protocols, by the bytes that they begin with.
_PROTOCOLS = (
    (b"\x16", "TLS"),
    (b"\x15\x03", "TLS"),
    (b"PRI * HTTP/2.0", "HTTP/2"),
    (b"SSH-", "SSH"),
    (b"PROXY ", "a header of the PROXY protocol"),
    (b"\r\n\r\n\0\r\nQUIT\n", "a header of the PROXY protocol"),
)

#: Errors of h11 about messages that this end composes.
_LOCAL_ERRORS = {
    "Missing mandatory Host: header": "there must be exactly one Host header",
    "Found multiple Host: headers": "there must be exactly one Host header",
    "conflicting Content-Length headers": "there must be at most one Content-Length",
    "bad Content-Length": "Content-Length must be a number",
    "multiple Transfer-Encoding headers": "Transfer-Encoding must be chunked",
    "Only Transfer-Encoding: chunked is supported": "Transfer-Encoding must be chunked",
    "I only send HTTP/1.1": "the version must be HTTP/1.1",
    "Too much data for declared Content-Length": "the body must not be longer than its Content-Length",
    "Too little data for declared Content-Length": "the body must not be shorter than its Content-Length",
}


def check_request_line(data: bytes, end: int) -> None:
    """Check the first line of a request, as far as it has arrived.

    Args:
        data: The beginning of the request.
        end: The position of the line feed; -1 if it has not arrived yet.

    Raises:
        InvalidMessage: If it is not, or cannot become, a request line.
    """
    if end >= 0:
        line = data[:end].removesuffix(b"\r")
        if not _REQUEST_LINE.fullmatch(line) or line == b"PRI * HTTP/2.0":
            raise _not_http(line or data)
        return
    line = data[:_MAX_EXAMINED]
    method, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    if line and not (re.fullmatch(_TOKEN, method) and re.fullmatch(_TARGET, target) and _HTTP.startswith(version[:5])):
        raise _not_http(line)


def _not_http(line: bytes) -> InvalidMessage:
    for prefix, protocol in _PROTOCOLS:
        if line.startswith(prefix):
            return InvalidMessage(f"this is {protocol}, not an HTTP/1.1 request: {quote(line)}")
    return InvalidMessage(f"this is not an HTTP/1.1 request: {quote(line)}")


def explain_head(head: bytes) -> str:
    """Return what is wrong with a head that h11 has refused, although its start line is well-formed."""
    values: dict[bytes, list[bytes]] = {}
    start, *lines = [line.removesuffix(b"\r") for line in head.split(b"\n")]
    for number, line in enumerate(lines):
        if line[:1] in (b" ", b"\t") and number and re.fullmatch(_HEADER_LINE, b"X:" + line):
            continue  # the line before goes on
        if line and not re.fullmatch(_HEADER_LINE, line):
            return f"this is not a header: {quote(line)}"
        name, _, value = line.partition(b":")
        values.setdefault(name.lower(), []).append(value.strip(b" \t"))
    if not start.startswith(_HTTP) and len(values.get(b"host", ())) != 1:
        return "there must be exactly one Host header"
    for header in ("Content-Length", "Transfer-Encoding"):
        found = values.get(header.lower().encode())
        if found is not None:
            return f"invalid {header}: {quote(b', '.join(found))}"
    return f"the headers after this line are invalid: {quote(start)}"


def explain_local_error(error: str) -> str:
    """Return what is wrong with a message of this end, in our words.

    Args:
        error: The message of an exception of h11.
    """
    return _LOCAL_ERRORS.get(error, "it is not valid HTTP/1.1")
