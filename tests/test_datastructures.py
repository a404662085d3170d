"""Headers: a case-insensitive mapping that keeps order and spelling, and contains only valid headers."""

from __future__ import annotations

import copy
import pickle
import types
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws.datastructures import Headers, HeadersLike, MultipleValuesError
from trio_ws.exceptions import InvalidHeader

from .protocol.strategies import deterministic

PAIRS = [("Host", "example.org"), ("Cookie", "a=1"), ("X-Trace", "1"), ("cookie", "b=2")]

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VALUE_CHARACTERS = "\t" + "".join(map(chr, [*range(0x20, 0x7F), *range(0x80, 0x100)]))
names = st.text(TOKEN_CHARACTERS, min_size=1, max_size=8)
values = st.text(VALUE_CHARACTERS, max_size=8)


@pytest.fixture
def headers() -> Headers:
    return Headers(PAIRS)


def raw(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.raw_items())


# -- MultipleValuesError -------------------------------------------------------------------------------------


def test_multiple_values_error_is_a_lookup_error() -> None:
    assert issubclass(MultipleValuesError, LookupError)
    # With KeyError, get() would return its default.
    assert not issubclass(MultipleValuesError, KeyError)


def test_multiple_values_error_names_the_header() -> None:
    assert "'Cookie'" in str(MultipleValuesError("Cookie"))
    assert str(MultipleValuesError()) == ""
    assert "b" in str(MultipleValuesError("a", "b"))


def test_multiple_values_error_can_be_pickled() -> None:
    exc = pickle.loads(pickle.dumps(MultipleValuesError("Cookie")))
    assert type(exc) is MultipleValuesError
    assert exc.args == ("Cookie",)


# -- Construction --------------------------------------------------------------------------------------------


class Alike:
    """Not a mapping, but with the methods that ``dict()`` uses."""

    def keys(self) -> Iterator[str]:
        return iter(["A", "B"])

    def __getitem__(self, key: str, /) -> str:
        return key.lower()


class Repetitive(UserDict[str, str]):
    """A mapping with several values for a key, as in other libraries."""

    def items(self) -> Any:
        return [("A", "a"), ("A", "b")]


@pytest.mark.parametrize(
    "source, expected",
    [
        pytest.param([("A", "a"), ("B", "b"), ("a", "c")], [("A", "a"), ("B", "b"), ("a", "c")], id="list"),
        pytest.param((("A", "a"),), [("A", "a")], id="tuple"),
        pytest.param([["A", "a"]], [("A", "a")], id="lists"),
        pytest.param(iter([("A", "a"), ("B", "b")]), [("A", "a"), ("B", "b")], id="iterator"),
        pytest.param({"A": "a", "B": "b"}, [("A", "a"), ("B", "b")], id="dict"),
        pytest.param({"A": "a"}.items(), [("A", "a")], id="items"),
        pytest.param(UserDict({"A": "a"}), [("A", "a")], id="UserDict"),
        pytest.param(types.MappingProxyType({"A": "a"}), [("A", "a")], id="proxy"),
        pytest.param(Repetitive({"A": "a"}), [("A", "a"), ("A", "b")], id="several items"),
        pytest.param(Alike(), [("A", "a"), ("B", "b")], id="keys and getitem"),
        pytest.param(Headers([("A", "a"), ("a", "b")]), [("A", "a"), ("a", "b")], id="Headers"),
        pytest.param([], [], id="nothing in it"),
    ],
)
def test_construction(source: HeadersLike, expected: list[tuple[str, str]]) -> None:
    headers = Headers(source)
    assert raw(headers) == expected
    assert all(type(pair) is tuple for pair in headers.raw_items())


def test_construction_from_nothing() -> None:
    headers = Headers()
    assert raw(headers) == []
    assert len(headers) == 0
    assert not headers


def test_construction_from_keywords() -> None:
    assert raw(Headers(Host="a", Upgrade="b")) == [("Host", "a"), ("Upgrade", "b")]


def test_construction_from_both() -> None:
    assert raw(Headers([("Host", "a")], Host="b", Origin="c")) == [
        ("Host", "a"),
        ("Host", "b"),
        ("Origin", "c"),
    ]


def test_any_name_is_a_keyword() -> None:
    assert raw(Headers(self="a", args="b")) == [("self", "a"), ("args", "b")]
    headers = Headers()
    headers.update(self="a")
    assert raw(headers) == [("self", "a")]


def test_construction_from_headers_shares_nothing(headers: Headers) -> None:
    other = Headers(headers)
    other["Cookie"] = "c=3"
    del headers["Host"]
    assert headers.get_all("Cookie") == ["a=1", "b=2"]
    assert other["Host"] == "example.org"


@pytest.mark.parametrize("source", [None, 1, "text", b"bytes"], ids=repr)
def test_construction_from_something_else(source: Any) -> None:
    with pytest.raises(TypeError, match=r"^headers must be a Headers, a mapping or an iterable of pairs of str, not "):
        Headers(source)


@pytest.mark.parametrize("args", [({}, {}), (None,), (1,)], ids=["two", "None", "int"])
def test_construction_from_wrong_types(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        Headers(*args)


@pytest.mark.parametrize("source", [["x"], ["ab"], [b"ab"], [("A",)], [("A", "a", "b")], [1], [{"A", "a"}]])
def test_construction_from_items_that_are_not_pairs(source: Any) -> None:
    with pytest.raises(TypeError, match=r"^headers must be a Headers, a mapping or an iterable of pairs of str, not "):
        Headers(source)


@pytest.mark.parametrize("source", ["A: a", b"A: a", bytearray(b"A: a"), None, 1])
def test_construction_from_what_has_no_pairs(source: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Headers(source)
    name = type(source).__name__
    assert str(caught.value) == f"headers must be a Headers, a mapping or an iterable of pairs of str, not {name}"


def test_is_a_mutable_mapping() -> None:
    assert isinstance(Headers(), MutableMapping)
    assert isinstance(Headers(), Mapping)


def test_is_slotted() -> None:
    headers: Any = Headers()
    with pytest.raises(AttributeError):
        headers.extra = 1


# -- Single values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Host", "host", "HOST", "hOsT"])
def test_lookup_ignores_case(headers: Headers, name: str) -> None:
    assert headers[name] == "example.org"
    assert headers.get(name) == "example.org"
    assert headers.get_all(name) == ["example.org"]
    assert name in headers


@pytest.mark.parametrize("name", ["Hos", "Host ", "", "\u212a"], ids=ascii)
def test_lookup_of_a_missing_name(headers: Headers, name: str) -> None:
    with pytest.raises(KeyError) as caught:
        headers[name]
    assert caught.type is KeyError
    assert name not in headers
    assert headers.get(name) is None
    assert headers.get(name, "default") == "default"
    assert headers.get_all(name) == []
    with pytest.raises(KeyError):
        del headers[name]


@pytest.mark.parametrize("spelling", ["\u212aey", "K\u0117y", "\u017fec"], ids=ascii)
def test_lookup_folds_ascii_only(spelling: str) -> None:
    # The lower case of KELVIN SIGN and the upper case of LATIN SMALL LETTER LONG S are ASCII letters.
    headers = Headers(Key="1", Sec="2")
    assert spelling not in headers
    assert headers.get(spelling) is None


@pytest.mark.parametrize("key", [None, 1, b"Host", ("Host",)], ids=repr)
def test_lookup_of_another_type(headers: Headers, key: Any) -> None:
    assert key not in headers
    assert headers.get(key) is None
    assert headers.pop(key, "default") == "default"
    assert headers.get_all(key) == []
    with pytest.raises(KeyError):
        headers[key]
    with pytest.raises(KeyError):
        del headers[key]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda headers: headers["COOKIE"], id="getitem"),
        pytest.param(lambda headers: headers.get("COOKIE"), id="get"),
        pytest.param(lambda headers: headers.get("COOKIE", "default"), id="get with default"),
        pytest.param(lambda headers: headers.pop("COOKIE"), id="pop"),
        pytest.param(lambda headers: headers.pop("COOKIE", "default"), id="pop with default"),
        pytest.param(lambda headers: headers.setdefault("COOKIE", "default"), id="setdefault"),
        pytest.param(lambda headers: list(headers.items()), id="items"),
        pytest.param(lambda headers: list(headers.values()), id="values"),
        pytest.param(lambda headers: dict(headers), id="dict"),
    ],
)
def test_one_value_of_several(headers: Headers, ask: Callable[[Headers], object]) -> None:
    with pytest.raises(MultipleValuesError):
        ask(headers)
    # The headers are unchanged.
    assert raw(headers) == PAIRS


def test_one_value_of_several_names_the_requested_key(headers: Headers) -> None:
    with pytest.raises(MultipleValuesError) as caught:
        headers["COOKIE"]
    assert caught.value.args == ("COOKIE",)


def test_contains_a_name_with_several_values(headers: Headers) -> None:
    assert "COOKIE" in headers


def test_iteration_and_len_count_each_name_once(headers: Headers) -> None:
    assert list(headers) == ["host", "cookie", "x-trace"]
    assert len(headers) == 3
    assert list(headers.keys()) == ["host", "cookie", "x-trace"]
    assert headers


def test_like_a_dict_without_repeated_names() -> None:
    headers = Headers({"Host": "a", "Origin": "b"})
    assert dict(headers) == {"host": "a", "origin": "b"}
    assert list(headers.items()) == [("host", "a"), ("origin", "b")]
    assert list(headers.values()) == ["a", "b"]
    match headers:
        case {"host": host}:
            assert host == "a"


# -- All values ----------------------------------------------------------------------------------------------


def test_get_all(headers: Headers) -> None:
    assert headers.get_all("Cookie") == ["a=1", "b=2"]
    assert headers.get_all("Host") == ["example.org"]
    assert headers.get_all("Origin") == []


@pytest.mark.parametrize("name", ["Cookie", "Origin"], ids=["there", "missing"])
def test_get_all_returns_a_new_list(headers: Headers, name: str) -> None:
    before = list(headers.get_all(name))
    headers.get_all(name).append("mine")
    assert headers.get_all(name) == before
    assert raw(headers) == PAIRS


def test_raw_items_keeps_order_and_spelling(headers: Headers) -> None:
    items = headers.raw_items()
    assert isinstance(items, Iterator)
    assert list(items) == PAIRS


def test_values_are_kept_unchanged() -> None:
    assert raw(Headers(A=" \t a\t ", B="", C="é")) == [("A", " \t a\t "), ("B", ""), ("C", "é")]


# -- Changing ------------------------------------------------------------------------------------------------


def test_setting_adds(headers: Headers) -> None:
    headers["HOST"] = "other"
    headers["Origin"] = "x"
    assert raw(headers) == [*PAIRS, ("HOST", "other"), ("Origin", "x")]
    assert headers.get_all("Host") == ["example.org", "other"]


def test_deleting_removes_all_values(headers: Headers) -> None:
    del headers["COOKIE"]
    assert raw(headers) == [("Host", "example.org"), ("X-Trace", "1")]
    assert "Cookie" not in headers
    assert headers.get_all("Cookie") == []
    with pytest.raises(KeyError):
        del headers["Cookie"]


def test_deleting_then_setting_replaces(headers: Headers) -> None:
    del headers["Cookie"]
    headers["Cookie"] = "c=3"
    assert headers["Cookie"] == "c=3"
    assert raw(headers)[-1] == ("Cookie", "c=3")


def test_update_adds(headers: Headers) -> None:
    headers.update({"host": "other"}, Origin="x")
    assert raw(headers) == [*PAIRS, ("host", "other"), ("Origin", "x")]


def test_update_with_itself(headers: Headers) -> None:
    headers.update(headers)
    assert raw(headers) == PAIRS + PAIRS


@pytest.mark.parametrize(
    "pairs, error",
    [
        ([("A", "a"), ("B ", "b")], InvalidHeader),
        ([("A", "a"), ("B", "\n")], InvalidHeader),
        ([("A", "a"), ("B", 1)], TypeError),
        ([("A", "a"), 1], TypeError),
    ],
    ids=["name", "value", "type", "pair"],
)
def test_update_adds_all_or_nothing(headers: Headers, pairs: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        headers.update(pairs)
    with pytest.raises(TypeError):
        headers.update({"A": "a"}, {"B": "b"})
    assert raw(headers) == PAIRS


def test_setdefault(headers: Headers) -> None:
    assert headers.setdefault("HOST", "other") == "example.org"
    assert headers.setdefault("Origin", "x") == "x"
    assert raw(headers) == [*PAIRS, ("Origin", "x")]


def test_pop(headers: Headers) -> None:
    assert headers.pop("HOST") == "example.org"
    assert headers.pop("Host", "default") == "default"
    with pytest.raises(KeyError):
        headers.pop("Host")
    assert raw(headers) == PAIRS[1:]


def test_popitem() -> None:
    headers = Headers(Host="a")
    assert headers.popitem() == ("host", "a")
    with pytest.raises(KeyError):
        headers.popitem()


def test_clear(headers: Headers) -> None:
    headers.clear()
    assert raw(headers) == []
    assert list(headers) == []
    assert headers.get_all("Host") == []
    headers["Host"] = "a"
    assert raw(headers) == [("Host", "a")]


# -- Validation ----------------------------------------------------------------------------------------------


def add_by_setting(headers: Headers, name: str, value: str) -> None:
    headers[name] = value


def add_by_setdefault(headers: Headers, name: str, value: str) -> None:
    headers.setdefault(name, value)


def add_by_update(headers: Headers, name: str, value: str) -> None:
    headers.update([(name, value)])


def add_by_mapping(headers: Headers, name: str, value: str) -> None:
    headers.update({name: value})


def add_by_keyword(headers: Headers, name: str, value: str) -> None:
    headers.update(**{name: value})


def construct(headers: Headers, name: str, value: str) -> None:
    Headers([*headers.raw_items(), (name, value)])


ways = pytest.mark.parametrize(
    "add", [add_by_setting, add_by_setdefault, add_by_update, add_by_mapping, add_by_keyword, construct]
)


@ways
@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a:", "a\r\nb", "a\n", "\x00", "é", "\u212a", "(a)", "a/b", '"a"', "a\x7f"],
    ids=ascii,
)
def test_names_are_tokens(headers: Headers, add: Callable[[Headers, str, str], None], name: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        add(headers, name, "value")
    assert (caught.value.name, caught.value.value) == (name, "value")
    assert raw(headers) == PAIRS


@ways
@pytest.mark.parametrize(
    "value",
    ["\r", "\n", "\0", "a\r\nB: c", "a\n", "\n a", "\x0b", "\x1f", "\x7f", "\u0100", "€", "\ud800"],
    ids=ascii,
)
def test_values_cannot_leave_their_line(headers: Headers, add: Callable[[Headers, str, str], None], value: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        add(headers, "Name", value)
    assert (caught.value.name, caught.value.value) == ("Name", value)
    assert raw(headers) == PAIRS


def test_every_character_of_a_name() -> None:
    accepted = []
    for character in map(chr, [*range(0x180), 0x212A, 0xFF21]):
        try:
            Headers([(character, "")])
        except InvalidHeader:
            continue
        accepted.append(character)
    assert sorted(accepted) == sorted(TOKEN_CHARACTERS)


def test_every_character_of_a_value() -> None:
    accepted = []
    for character in map(chr, [*range(0x180), 0x2028, 0xD800, 0x1F600]):
        try:
            Headers(Name=character)
        except InvalidHeader:
            continue
        accepted.append(character)
    assert accepted == list(VALUE_CHARACTERS)


@ways
@pytest.mark.parametrize("value", [b"value", 1, None, ["a", "b"]], ids=repr)
def test_values_are_str(headers: Headers, add: Callable[[Headers, str, Any], None], value: Any) -> None:
    with pytest.raises(TypeError):
        add(headers, "Name", value)
    assert raw(headers) == PAIRS


@pytest.mark.parametrize("name", [b"Name", 1, None], ids=repr)
def test_names_are_str(headers: Headers, name: Any) -> None:
    with pytest.raises(TypeError):
        headers[name] = "value"
    with pytest.raises(TypeError):
        Headers({name: "value"})
    assert raw(headers) == PAIRS


# -- Copies and comparison -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [Headers.copy, copy.copy, copy.deepcopy, lambda headers: pickle.loads(pickle.dumps(headers))],
    ids=["copy()", "copy.copy", "copy.deepcopy", "pickle"],
)
def test_copies_share_nothing(headers: Headers, duplicate: Callable[[Headers], Headers]) -> None:
    other = duplicate(headers)
    assert type(other) is Headers
    assert other == headers
    assert raw(other) == PAIRS
    other["Cookie"] = "c=3"
    other["Origin"] = "x"
    del other["Host"]
    assert raw(headers) == PAIRS
    assert headers.get_all("Cookie") == ["a=1", "b=2"]
    headers["Cookie"] = "d=4"
    assert other.get_all("Cookie") == ["a=1", "b=2", "c=3"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Headers([("HOST", "a"), ("Cookie", "1"), ("cookie", "2")]), id="case of names"),
        pytest.param(Headers([("Cookie", "1"), ("Host", "a"), ("Cookie", "2")]), id="order of names"),
    ],
)
def test_equality_ignores(other: Headers) -> None:
    headers = Headers([("Host", "a"), ("Cookie", "1"), ("Cookie", "2")])
    assert headers == other
    assert (headers != other) is False


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Headers([("Host", "a"), ("Cookie", "2"), ("Cookie", "1")]), id="order of values"),
        pytest.param(Headers([("Host", "A"), ("Cookie", "1"), ("Cookie", "2")]), id="case of values"),
        pytest.param(Headers([("Host", "a"), ("Cookie", "1")]), id="a value less"),
        pytest.param(Headers([("Host", "a")]), id="a name less"),
        pytest.param(Headers(), id="nothing"),
        pytest.param([("Host", "a"), ("Cookie", "1"), ("Cookie", "2")], id="pairs"),
        pytest.param(None, id="None"),
    ],
)
def test_inequality(other: object) -> None:
    headers = Headers([("Host", "a"), ("Cookie", "1"), ("Cookie", "2")])
    assert headers != other
    assert (headers == other) is False


def test_never_equal_to_a_dict() -> None:
    headers, mapping = Headers(host="a"), {"host": "a"}
    assert headers != mapping
    assert mapping != headers


def test_is_not_hashable(headers: Headers) -> None:
    with pytest.raises(TypeError):
        hash(headers)


# -- Text and bytes ------------------------------------------------------------------------------------------


def test_str_and_serialize(headers: Headers) -> None:
    text = "Host: example.org\r\nCookie: a=1\r\nX-Trace: 1\r\ncookie: b=2\r\n\r\n"
    assert str(headers) == text
    assert headers.serialize() == text.encode()


def test_str_and_serialize_without_headers() -> None:
    assert str(Headers()) == "\r\n"
    assert Headers().serialize() == b"\r\n"


def test_serialize_is_iso_8859_1() -> None:
    assert Headers(Name="naïve").serialize() == b"Name: na\xefve\r\n\r\n"


def test_repr(headers: Headers) -> None:
    assert eval(repr(headers)) == headers
    assert raw(eval(repr(headers))) == PAIRS


# -- Properties ----------------------------------------------------------------------------------------------


@deterministic
@given(st.lists(st.tuples(names, values)))
@example([("a", "1"), ("A", "2"), ("b", "3"), ("a", "4")])
def test_any_valid_pairs_are_kept(pairs: list[tuple[str, str]]) -> None:
    headers = Headers(pairs)
    assert raw(headers) == pairs
    assert raw(headers.copy()) == pairs
    assert set(headers) == {name.lower() for name, _ in pairs}
    for name, _ in pairs:
        assert headers.get_all(name.upper()) == [v for n, v in pairs if n.lower() == name.lower()]
    # Each header is on one line, whatever its value is.
    lines = headers.serialize().decode("iso-8859-1").split("\r\n")
    assert lines == [f"{name}: {value}" for name, value in pairs] + ["", ""]


@deterministic
@given(st.text(max_size=4), st.text(max_size=4))
@example("Name", "a\r\nb")
def test_any_text_is_on_one_line_or_rejected(name: str, value: str) -> None:
    try:
        data = Headers([(name, value)]).serialize()
    except InvalidHeader as exc:
        refused = (exc.name, exc.value)
    else:
        assert data.count(b"\r") == data.count(b"\n") == 2
        assert b"\0" not in data
        return
    assert refused == (name, value)


few_names = st.sampled_from(["a", "A", "b", "B", "c"])
changes = st.one_of(
    st.tuples(st.just("set"), few_names, values),
    st.tuples(st.just("delete"), few_names, st.none()),
    st.tuples(st.just("pop"), few_names, values),
    st.tuples(st.just("setdefault"), few_names, values),
    st.tuples(st.just("update"), few_names, values),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


class Model:
    """A slow and simple model of Headers: a list of pairs."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def get_all(self, name: str) -> list[str]:
        return [value for other, value in self.pairs if other.lower() == name.lower()]

    def get_one(self, name: str) -> str:
        found = self.get_all(name)
        if len(found) > 1:
            raise MultipleValuesError(name)
        if not found:
            raise KeyError(name)
        return found[0]

    def remove(self, name: str) -> None:
        if not self.get_all(name):
            raise KeyError(name)
        self.pairs = [pair for pair in self.pairs if pair[0].lower() != name.lower()]

    def apply(self, change: str, name: Any, value: Any) -> object:
        if change in ("set", "update"):
            self.pairs.append((name, value))
        elif change == "delete":
            self.remove(name)
        elif change == "pop":
            if not self.get_all(name):
                return value
            found = self.get_one(name)
            self.remove(name)
            return found
        elif change == "setdefault":
            if self.get_all(name):
                return self.get_one(name)
            self.pairs.append((name, value))
            return value
        else:
            self.pairs = []
        return None


def apply(headers: Headers, change: str, name: Any, value: Any) -> object:
    if change == "set":
        headers[name] = value
    elif change == "update":
        headers.update({name: value})
    elif change == "delete":
        del headers[name]
    elif change == "pop":
        return headers.pop(name, value)
    elif change == "setdefault":
        return headers.setdefault(name, value)
    else:
        headers.clear()
    return None


def outcome(function: Callable[..., object], *args: Any) -> object:
    try:
        return function(*args)
    except LookupError as exc:
        return type(exc)


@deterministic
@given(st.lists(changes))
@example([("set", "a", "1"), ("set", "A", "2"), ("pop", "a", "3"), ("delete", "A", None), ("set", "a", "4")])
def test_behaves_like_a_list_of_pairs(steps: list[tuple[str, Any, Any]]) -> None:
    headers, model = Headers(), Model()
    for step in steps:
        assert outcome(apply, headers, *step) == outcome(model.apply, *step)
        assert raw(headers) == model.pairs
        assert sorted(headers) == sorted({name.lower() for name, _ in model.pairs})
        for name in "abc":
            assert headers.get_all(name) == model.get_all(name)
            assert outcome(headers.__getitem__, name) == outcome(model.get_one, name)
