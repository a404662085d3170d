"""HTTP headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, TypeAlias, Union, cast

from .exceptions.handshake import InvalidHeader

__all__ = ["Headers", "HeadersLike", "MultipleValuesError"]


class MultipleValuesError(LookupError):
    """A single value of a header was requested, but the header occurs several times."""

    def __str__(self) -> str:
        # Like a KeyError, this exception has the name as its only argument.
        if len(self.args) == 1:
            return f"the header {self.args[0]!r} has several values; use get_all()"
        return super().__str__()


class _SupportsKeysAndGetItem(Protocol):
    def keys(self) -> Iterable[str]: ...
    def __getitem__(self, key: str, /) -> str: ...


#: Everything that the constructor of :class:`Headers` accepts.
HeadersLike: TypeAlias = Union["Headers", Mapping[str, str], Iterable[tuple[str, str]], _SupportsKeysAndGetItem]

#: A token (RFC 9110, section 5.6.2).
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110, section 5.5: the only control character that a value may contain is the horizontal tab. On the wire, values
# are ISO 8859-1, which cannot encode characters beyond U+00FF.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


#: Common header names in opening handshakes. Every connection keeps its request and its response; sharing these strings
#: saves 1 KiB per connection. They are not interned because some versions of Python never free interned strings, and
#: names come from the network.
COMMON_NAMES = (
    *("Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Connection", "Content-Length", "Cookie"),
    *("Host", "Origin", "Pragma", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Sec-WebSocket-Key"),
    *("Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "Server", "Upgrade", "User-Agent", "X-Forwarded-For"),
)
_FOLDED = {spelling: name.lower() for name in COMMON_NAMES for spelling in (name, name.lower())}


def _checked(name: Any, value: Any) -> str:
    """Return the name of a header in lower case. Raises if the header is not valid."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a header must be a str, not {name!r}")
    if not isinstance(value, str):  # it may be secret
        raise TypeError(f"the value of the header {name!r} must be a str, not {type(value).__name__}")
    folded = _FOLDED.get(name)
    if folded is None:
        if not TOKEN.fullmatch(name):
            raise InvalidHeader(name, value, "the name must be a token (RFC 9110, section 5.1)")
        folded = name.lower()
    # The first test is faster, and nearly all values pass it.
    if not (value.isascii() and value.isprintable()) and not _VALUE.fullmatch(value):
        raise InvalidHeader(name, value, "the value must not contain this character (RFC 9110, section 5.5)")
    return folded


def _to_pairs(source: Any) -> list[tuple[Any, Any]]:
    # The headers may be secret, so the errors show types only.
    expected = "headers must be a Headers, a mapping or an iterable of pairs of str"
    # Concrete classes come first because a test for an abstract class takes longer than all the rest.
    if isinstance(source, (str, bytes, bytearray)) or not isinstance(source, (list, tuple, Iterable)):
        raise TypeError(f"{expected}, not {type(source).__name__}")
    pairs = []
    for pair in source:
        # Strings of two characters could be unpacked too.
        if isinstance(pair, (str, bytes)) or not isinstance(pair, (tuple, Sequence)) or len(pair) != 2:
            raise TypeError(f"{expected}, not an iterable of {type(pair).__name__}")
        pairs.append((pair[0], pair[1]))
    return pairs


def _fold(key: Any) -> Any:
    # Names are ASCII. Other strings stay as they are: U+212A (KELVIN SIGN) has the lower case "k", but must not match
    # it. Keys of other types also stay as they are, and are not found, as in a dict.
    return key.lower() if isinstance(key, str) and key.isascii() else key


class Headers(MutableMapping[str, str]):
    """HTTP headers: a mapping with case-insensitive names, which can occur several times.

    The order and the spelling of the headers are kept. As long as no name occurs twice, this is a ``dict`` with
    lower-case keys. Repeated headers work like this:

    * ``headers[name]`` and ``headers.get(name)`` return the value if there is exactly one, and raise
      :exc:`MultipleValuesError` if there are more;
    * ``headers[name] = value`` **adds** a value; to replace the existing values, ``del headers[name]`` first;
    * ``del headers[name]`` removes all values of a header, in time proportional to the number of headers;
    * :meth:`get_all` returns all values of a header, :meth:`raw_items` all headers.

    Iteration and ``len()`` count each name once. Two ``Headers`` are equal when each name has the same values in the
    same order.

    Args:
        *args: At most one of: another ``Headers``, a mapping, an iterable of ``(name, value)`` pairs.
        **kwargs: Headers whose names are Python identifiers.

    Raises:
        InvalidHeader: If a name is not a token, or a value contains a forbidden character, such as CR, LF or NUL.
        TypeError: If a name or a value is not a str.
    """

    __slots__ = ("_by_name", "_pairs")

    # All headers, in order and with their spelling; and the values by lower-case name. Both always change together.
    _pairs: list[tuple[str, str]]
    _by_name: dict[str, list[str]]

    def __init__(self, /, *args: HeadersLike, **kwargs: str) -> None:
        # All of them are valid. Headers is an abstract class for isinstance(), which makes that several times slower.
        if len(args) == 1 and type(args[0]) is Headers and not kwargs:
            self._pairs = args[0]._pairs.copy()
            self._by_name = {name: values.copy() for name, values in args[0]._by_name.items()}
            return
        self._pairs = []
        self._by_name = {}
        self.update(*args, **kwargs)

    # -- Changing --------------------------------------------------------------------------------------------

    def __setitem__(self, key: str, value: str) -> None:
        self._by_name.setdefault(_checked(key, value), []).append(value)
        self._pairs.append((key, value))

    def __delitem__(self, key: str) -> None:
        folded = _fold(key)
        del self._by_name[folded]
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != folded]

    def clear(self) -> None:
        """Remove all headers."""
        self._pairs = []
        self._by_name = {}

    def update(self, /, *args: HeadersLike, **kwargs: str) -> None:
        """Add headers and keep the existing ones.

        Arguments and exceptions are those of the constructor. If an exception is raised, nothing was added.
        """
        if len(args) > 1:
            raise TypeError(f"expected at most one positional argument, not {len(args)}")
        pairs: list[tuple[str, str]] = []
        for source in args:
            if isinstance(source, (list, tuple)):  # first because the tests below take longer than all the rest
                pairs += _to_pairs(source)
            elif isinstance(source, Headers):
                pairs += source._pairs
            elif isinstance(source, Mapping):
                pairs += source.items()
            elif hasattr(source, "keys"):  # dict() looks for the same method
                mapping = cast("_SupportsKeysAndGetItem", source)
                pairs += [(name, mapping[name]) for name in mapping.keys()]  # noqa: SIM118  # not a mapping
            else:
                pairs += _to_pairs(source)
        pairs.extend(kwargs.items())
        names = [_checked(name, value) for name, value in pairs]
        for name, (_, value) in zip(names, pairs):  # noqa: B905  # they are as many
            self._by_name.setdefault(name, []).append(value)
        self._pairs += pairs

    # -- Single values ----------------------------------------------------------------------------------------

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

    # -- All values ------------------------------------------------------------------------------------------

    def get_all(self, key: str) -> list[str]:
        """Return a new list of all values of a header, in order. It is empty if there are none.

        Args:
            key: The name of the header.
        """
        return list(self._by_name.get(_fold(key), ()))

    def raw_items(self) -> Iterator[tuple[str, str]]:
        """Return an iterator of all ``(name, value)`` pairs, in order and with their spelling."""
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
        """Return the headers as in a message: one line each, then an empty line."""
        return "".join(f"{name}: {value}\r\n" for name, value in self._pairs) + "\r\n"

    def serialize(self) -> bytes:
        """Return the headers encoded as ISO 8859-1, followed by an empty line."""
        return str(self).encode("iso-8859-1")
