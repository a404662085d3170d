"""Text from elsewhere in messages: ``escape``, ``hide_passwords``, ``quote``.

Messages end up in logs and on terminals. What a peer has sent must not break a line in two or control a terminal there,
and nobody's password has a place there.
"""

from __future__ import annotations

import re

__all__ = ["escape", "hide_passwords", "quote"]

#: The maximum number of bytes that :func:`quote` quotes.
MAX_QUOTED = 80

_PASSWORD = re.compile(r"(//[^/?#\s@:]*:)[^/?#\s]*@")


def escape(text: str) -> str:
    r"""Return text with all characters that are not printable escaped, as in ``\n`` or ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hide_passwords(text: str) -> str:
    """Return text with ``***`` for the passwords of the URIs in it."""
    return _PASSWORD.sub(r"\1***@", text)


def quote(data: bytes | bytearray) -> str:
    """Return the beginning of the first line of what a peer has sent, in quotes and on one line."""
    line = bytes(data[: MAX_QUOTED + 1]).partition(b"\n")[0]
    text = line[:MAX_QUOTED].removesuffix(b"\r").decode("iso-8859-1")
    return f"{text!r}{'...' if len(line) > MAX_QUOTED else ''}"
