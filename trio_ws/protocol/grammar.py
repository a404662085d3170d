"""Parsing of header values in the opening handshake (RFC 6455, section 9.1; RFC 9110, section 5.6).

The scanner reads a value once from left to right, in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..exceptions import InvalidHeader
from .extensions import Params

__all__ = ["build_extensions", "build_list", "is_token", "parse_extensions", "parse_tokens"]

T = TypeVar("T")

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SPACE = re.compile(r"[ \t]*")


def is_token(text: str) -> bool:
    """Whether the text is a token (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def parse_tokens(name: str, values: Sequence[str]) -> list[str]:
    """Parse a header that is a list of tokens, such as Connection or Sec-WebSocket-Protocol.

    Args:
        name: Name of the header, for errors.
        values: All its values. Together they are one list.

    Raises:
        InvalidHeader: If the values are not a list of tokens.
    """
    if len(values) == 1 and is_token(values[0]):
        return [values[0]]  # the most common case
    return _Scanner(name, values).list_of(_Scanner.token)


def parse_extensions(name: str, values: Sequence[str]) -> list[tuple[str, Params]]:
    """Parse a Sec-WebSocket-Extensions header.

    Args:
        name: Name of the header, for errors.
        values: All its values. Together they are one list.

    Returns:
        The name and the parameters of each extension, in order. A parameter may occur several times.

    Raises:
        InvalidHeader: If the values are not a list of extensions.
    """
    return _Scanner(name, values).list_of(_Scanner.extension)


def build_list(items: Iterable[str]) -> str:
    """Return the value of a list header."""
    return ", ".join(items)


def build_extensions(extensions: Iterable[tuple[str, Params]]) -> str:
    """Return the value of a Sec-WebSocket-Extensions header."""
    return build_list(
        "; ".join([name, *(key if value is None else f"{key}={value}" for key, value in params)])
        for name, params in extensions
    )


class _Scanner:
    """Scans a header value from left to right."""

    def __init__(self, name: str, values: Sequence[str]) -> None:
        self._name = name
        self._text = ", ".join(values)
        self._position = 0

    def list_of(self, item: Callable[[_Scanner], T]) -> list[T]:
        """Read the whole value as ``1#item``: skip empty elements, require one that is not (RFC 9110, 5.6.1)."""
        items = []
        while self._position < len(self._text):
            self._skip_space()
            if not self._accept(","):
                if self._position == len(self._text):
                    break
                items.append(item(self))
                self._skip_space()
                if not self._accept(",") and self._position < len(self._text):
                    raise self._error("expected a comma")
        if not items:
            raise self._error("the list must not be empty")
        return items

    def extension(self) -> tuple[str, Params]:
        name = self.token()
        params = []
        while self._accept_spaced(";"):
            params.append(self._parameter())
        return name, tuple(params)

    def token(self) -> str:
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            raise self._error("expected a token")
        self._position = match.end()
        return match[0]

    def _parameter(self) -> tuple[str, str | None]:
        name = self.token()
        if not self._accept_spaced("="):
            return name, None
        return name, self._quoted_token() if self._accept('"') else self.token()

    def _quoted_token(self) -> str:
        """Read the rest of a quoted string. Unquoted, it must be a token (RFC 6455, section 9.1)."""
        characters: list[str] = []
        start = self._position
        while self._position < len(self._text):
            character = self._text[self._position]
            self._position += 1
            if character == '"':
                value = "".join(characters)
                if not is_token(value):
                    self._position = start
                    raise self._error("expected a token in the quotes")
                return value
            if character == "\\" and self._position < len(self._text):
                character = self._text[self._position]
                self._position += 1
            characters.append(character)
        raise self._error("expected a closing quote")

    def _accept_spaced(self, character: str) -> bool:
        """Skip a character and the whitespace around it, if it comes next. Return whether it did."""
        position = self._position
        self._skip_space()
        if self._accept(character):
            self._skip_space()
            return True
        self._position = position
        return False

    def _accept(self, character: str) -> bool:
        found = self._text.startswith(character, self._position)
        self._position += found
        return found

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._position)
        assert match is not None  # the pattern also matches the empty string
        self._position = match.end()

    def _error(self, reason: str) -> InvalidHeader:
        return InvalidHeader(self._name, self._text, f"{reason} at position {self._position}")
