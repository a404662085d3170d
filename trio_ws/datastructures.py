"""HTTP headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias, Union, cast

from .exceptions.handshake import InvalidHeader

__all__ = ["Headers", "HeadersLike", "MultipleValuesError"]


class MultipleValuesError(LookupError):
    """A header that was asked for one value has several."""

    def __str__(self) -> str:
        # Like KeyError, it has the name as its argument.
        if len(self.args) == 1:
            return f"the header {self.args[0]!r} has several values: use get_all()"
        return super().__str__()


class _SupportsKeysAndGetItem(Protocol):
    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, key: str, /) -> str: ...


#: What :class:`Headers` can be made from.
HeadersLike: TypeAlias = Union["Headers", Mapping[str, str], Iterable[tuple[str, str]], _SupportsKeysAndGetItem]

#: A token (RFC 9110, section 5.6.2).
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110, section 5.5: a value holds no control characters but the horizontal tab. On the wire it is
# ISO 8859-1, so a character past U+00FF has no spelling.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


#: Names that nearly all opening handshakes have, as they are spelled there. Each connection keeps its request and its
#: response, so they share these: that is a KiB less for each. (No interning: some versions of Python never free what
#: has been interned, and names come from the network.)
COMMON_NAMES = (
    *("Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Connection", "Content-Length", "Cookie"),
    *("Host", "Origin", "Pragma", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Sec-WebSocket-Key"),
    *("Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "Server", "Upgrade", "User-Agent", "X-Forwarded-For"),
)
_FOLDED = {spelling: name.lower() for name in COMMON_NAMES for spelling in (name, name.lower())}


def _checked(name: Any, value: Any) -> str:
    """Return the name of a header in lower case. Raises if the header is not valid."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a header is a str, not {name!r}")
    if not isinstance(value, str):
        raise TypeError(f"the value of the header {name!r} is a str, not {value!r}")
    folded = _FOLDED.get(name)
    if folded is None:
        if not TOKEN.fullmatch(name):
            raise InvalidHeader(name, value, "the name is not a token (RFC 9110, section 5.1)")
        folded = name.lower()
    # Nearly all are of the first kind, which is found out sooner.
    if not (value.isascii() and value.isprintable()) and not _VALUE.fullmatch(value):
        raise InvalidHeader(name, value, "the value has a character that is not allowed (RFC 9110, section 5.5)")
    return folded


def _fold(key: Any) -> Any:
    # ASCII only: the lower case of U+212A, KELVIN SIGN, is the letter k. What is not a str is not found, as
    # in a dict.
    return key.lower() if isinstance(key, str) and key.isascii() else key


class Headers(MutableMapping[str, str]):
    """HTTP headers: a mapping that ignores case in names and knows that a name can occur several times.

    It keeps the order and the spelling of what was put in, finds a name at once, and behaves like a ``dict``
    with lower-case keys as long as no header has several values. Where one does:

    * ``headers[name]`` raises :exc:`KeyError` if there is no value, returns the value if there is exactly
      one, and raises :exc:`MultipleValuesError` if there are more. So do the other ways to ask for one value;
    * ``headers[name] = value`` **adds** a value; to replace them all, ``del headers[name]`` first;
    * ``del headers[name]`` removes all the values of a header (this is slow);
    * :meth:`get_all` and :meth:`raw_items` return everything.

    Iteration and ``len()`` count each name once. Two ``Headers`` are equal when they have the same values, in
    the same order, for each name.

    Args:
        *args: At most one of: another ``Headers``, a mapping, an iterable of pairs.
        **kwargs: Headers whose names are Python names.

    Raises:
        InvalidHeader: if a name is not a token, or a value has a character that is not allowed, such as CR,
            LF or NUL.
        TypeError: if a name or a value is not a str.
    """

    __slots__ = ("_by_name", "_pairs")

    # Everything in order and as it was spelled; and the values by lower-case name. Both change together.
    _pairs: list[tuple[str, str]]
    _by_name: dict[str, list[str]]

    def __init__(self, /, *args: HeadersLike, **kwargs: str) -> None:
        self._pairs = []
        self._by_name = {}
        self.update(*args, **kwargs)

    # -- Changing --------------------------------------------------------------------------------------------

    def __setitem__(self, key: str, value: str) -> None:
        self.update([(key, value)])

    def __delitem__(self, key: str) -> None:
        folded = _fold(key)
        del self._by_name[folded]
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != folded]

    def clear(self) -> None:
        """Remove all headers."""
        self._pairs = []
        self._by_name = {}

    def update(self, /, *args: HeadersLike, **kwargs: str) -> None:
        """Add headers, keeping those that are there.

        Takes what the constructor takes and raises what it raises. If it raises, nothing has been added.
        """
        if len(args) > 1:
            raise TypeError(f"at most one positional argument, not {len(args)}")
        pairs: list[tuple[str, str]] = []
        for source in args:
            if isinstance(source, Headers):
                pairs += source._pairs
            elif isinstance(source, Mapping):
                pairs += source.items()
            elif hasattr(source, "keys"):  # as dict() does it
                mapping = cast("_SupportsKeysAndGetItem", source)
                pairs += [(name, mapping[name]) for name in mapping.keys()]  # noqa: SIM118  # not a mapping
            else:
                pairs += [(name, value) for name, value in source]
        pairs.extend(kwargs.items())
        names = [_checked(name, value) for name, value in pairs]
        for name, (_, value) in zip(names, pairs):  # noqa: B905  # they are as many
            self._by_name.setdefault(name, []).append(value)
        self._pairs += pairs

    # -- Asking for one value --------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> str:
        values = self._by_name[_fold(key)]
        if len(values) > 1:
            raise MultipleValuesError(key)
        return values[0]

    def __contains__(self, key: object) -> bool:
        return _fold(key) in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    # -- Asking for everything -------------------------------------------------------------------------------

    def get_all(self, key: str) -> list[str]:
        """Return all values of a header, in order: a new list, empty if there are none.

        Args:
            key: The name of the header.
        """
        return list(self._by_name.get(_fold(key), ()))

    def raw_items(self) -> Iterator[tuple[str, str]]:
        """Return an iterator of all ``(name, value)`` pairs, in order and as they were spelled."""
        return iter(self._pairs)

    def copy(self) -> Headers:
        """Return a copy that shares nothing with this one."""
        return Headers(self)

    __copy__ = copy

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return self._by_name == other._by_name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pairs!r})"

    def __str__(self) -> str:
        """The headers as they stand in a message: a line each, and the empty line that ends them."""
        return "".join(f"{name}: {value}\r\n" for name, value in self._pairs) + "\r\n"

    def serialize(self) -> bytes:
        """Return the headers as bytes (ISO 8859-1), with the empty line that ends them."""
        return str(self).encode("iso-8859-1")
