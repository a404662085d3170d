"""Text for people: ``show_fields`` for attrs classes, ``escape``, ``hide_passwords``, ``show_value`` and ``quote``.

The last four are for text from elsewhere. Messages end up in logs and on terminals. What a peer has sent must not
break a line in two or control a terminal there, and nobody's password has a place there.
"""

from __future__ import annotations

import re
from typing import Any

import attrs

__all__ = ["escape", "hide_passwords", "quote", "show_fields", "show_value"]

#: The headers whose values are secret, in lower case.
SECRET_HEADERS: frozenset[str] = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})

#: The maximum number of bytes that :func:`quote` quotes.
MAX_QUOTED = 80

# Compiled when it is first used, because most programs never show such a text.
_PASSWORD = r"(//[^/?#\s@:]*:)[^/?#\s]*@"


def show_fields(instance: Any) -> str:
    """Return the ``repr`` that attrs would generate for an instance of an attrs class.

    As ``__repr__ = show_fields``, it takes less than half of the time that attrs needs to generate and compile a method
    for each class, which was a sixth of the import of the package.
    """
    shown = []
    for field in attrs.fields(type(instance)):
        if field.repr:
            value = getattr(instance, field.name)
            shown.append(f"{field.name}={repr(value) if field.repr is True else field.repr(value)}")
    name = type(instance).__qualname__.rpartition(">.")[2]
    return f"{name}({', '.join(shown)})"


def escape(text: str) -> str:
    r"""Return text with all characters that are not printable escaped, as in ``\n`` or ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hide_passwords(text: str) -> str:
    """Return text with ``***`` for the passwords of the URIs in it."""
    return re.sub(_PASSWORD, r"\1***@", text)


def show_value(name: str, value: str) -> str:
    """Return the value of a header, with ``***`` for a secret and for the passwords of URIs in it."""
    return "***" if name.lower() in SECRET_HEADERS else hide_passwords(value)


def quote(data: bytes | bytearray) -> str:
    """Return the beginning of the first line of what a peer has sent, in quotes and on one line."""
    line = bytes(data[: MAX_QUOTED + 1]).partition(b"\n")[0]
    text = line[:MAX_QUOTED].removesuffix(b"\r").decode("iso-8859-1")
    return f"{text!r}{'...' if len(line) > MAX_QUOTED else ''}"
