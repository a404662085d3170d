from __future__ import annotations

import re

import pytest
import websockets.exceptions
import websockets.headers
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.exceptions import InvalidHeader
from trio_ws.protocol.extensions import Params
from trio_ws.protocol.grammar import build_extensions, build_list, is_token, parse_extensions, parse_tokens

from .strategies import deterministic

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SEPARATORS = '()<>@,;:\\"/[]?={} \t'

tokens = st.text(alphabet=TOKEN_CHARACTERS, min_size=1, max_size=8)
spaces = st.text(alphabet=" \t", max_size=3)
params = st.lists(st.tuples(tokens, st.one_of(st.none(), tokens)), max_size=3).map(tuple)
extensions = st.lists(st.tuples(tokens, params), min_size=1, max_size=4)

# Random values that often resemble a list.
soup = st.lists(st.text(alphabet='ab=;,"\\ \t\xe9', max_size=10), min_size=1, max_size=3)


def test_tokens() -> None:
    for character in map(chr, range(256)):
        assert is_token(character) is (character in TOKEN_CHARACTERS)
        assert is_token(f"a{character}b") is (character in TOKEN_CHARACTERS)
    assert is_token(TOKEN_CHARACTERS)
    assert not is_token("")
    assert not is_token("chat\n")


# -- Lists of tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, expected",
    [
        (["chat"], ["chat"]),
        (["chat, superchat"], ["chat", "superchat"]),
        (["chat,superchat"], ["chat", "superchat"]),
        (["chat", "superchat"], ["chat", "superchat"]),
        (["\t chat \t, \t superchat\t "], ["chat", "superchat"]),
        # RFC 9110, section 5.6.1.2: empty elements are ignored.
        ([",chat,, ,superchat,"], ["chat", "superchat"]),
        (["", "chat", ""], ["chat"]),
        (["chat, chat"], ["chat", "chat"]),
        (["keep-alive, Upgrade"], ["keep-alive", "Upgrade"]),
        (["v10.stomp, !#$%&'*+-.^_`|~"], ["v10.stomp", "!#$%&'*+-.^_`|~"]),
    ],
)
def test_lists_of_tokens(values: list[str], expected: list[str]) -> None:
    assert parse_tokens("X", values) == expected


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [" \t "],
        [","],
        [", ,"],
        ["", ""],
        ["chat superchat"],
        ["chat;q=1"],
        ['"chat"'],
        ["chat/1"],
        ["chät"],
        ["chat\n"],
        ["chat, @"],
        ["chat,\x00"],
        ["=a"],
    ],
)
def test_malformed_lists_of_tokens(values: list[str]) -> None:
    with pytest.raises(InvalidHeader) as caught:
        parse_tokens("X-Name", values)
    assert caught.value.name == "X-Name"
    assert caught.value.value == ", ".join(values)


def test_separators_are_no_tokens() -> None:
    for character in SEPARATORS.replace(",", "").replace(" ", "").replace("\t", ""):
        for value in (character, f"a{character}b", f"a, {character}"):
            with pytest.raises(InvalidHeader):
                parse_tokens("X", [value])


@deterministic
@given(st.lists(tokens, min_size=1, max_size=5), spaces, spaces)
def test_built_lists_can_be_parsed(items: list[str], before: str, after: str) -> None:
    assert parse_tokens("X", [build_list(items)]) == items
    assert parse_tokens("X", items) == items
    assert parse_tokens("X", [f"{after},{before}".join(items) + after]) == items


# -- Extensions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, expected",
    [
        # RFC 6455, section 9.1, and RFC 7692, section 7.1.3.
        (["foo"], [("foo", ())]),
        (["bar; baz=2"], [("bar", (("baz", "2"),))]),
        (["foo, bar; baz=2"], [("foo", ()), ("bar", (("baz", "2"),))]),
        (["foo", "bar; baz=2"], [("foo", ()), ("bar", (("baz", "2"),))]),
        (["deflate-stream"], [("deflate-stream", ())]),
        (
            ["mux; max-channels=4; flow-control, deflate-stream"],
            [("mux", (("max-channels", "4"), ("flow-control", None))), ("deflate-stream", ())],
        ),
        (["private-extension"], [("private-extension", ())]),
        (
            ["permessage-deflate; client_max_window_bits; server_max_window_bits=10", "permessage-deflate"],
            [
                ("permessage-deflate", (("client_max_window_bits", None), ("server_max_window_bits", "10"))),
                ("permessage-deflate", ()),
            ],
        ),
        # Optional whitespace everywhere, and none.
        (["a;b=1;c,d"], [("a", (("b", "1"), ("c", None))), ("d", ())]),
        (["\ta \t;\tb\t=\t1 ; c , d "], [("a", (("b", "1"), ("c", None))), ("d", ())]),
        ([", a,, b;c ,"], [("a", ()), ("b", (("c", None),))]),
        # The extension decides about duplicate parameters.
        (["a; b=1; b=2; B"], [("a", (("b", "1"), ("b", "2"), ("B", None)))]),
        # Quotes change nothing.
        (['a; b="10"'], [("a", (("b", "10"),))]),
        (['a; b = "x-y" ; c'], [("a", (("b", "x-y"), ("c", None)))]),
        (['a; b="1\\0", c'], [("a", (("b", "10"),)), ("c", ())]),
        (['a; b="\\1\\0"'], [("a", (("b", "10"),))]),
    ],
)
def test_extensions(values: list[str], expected: list[tuple[str, Params]]) -> None:
    assert parse_extensions("X", values) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        ";",
        "a;",
        "a; ",
        "a;;b",
        "a;,b",
        "; a",
        "a b",
        "a; b c",
        "a; b=1 c",
        "a; b=",
        "a; b= ",
        "a; b=, c",
        "a; b=;c",
        "a; =1",
        "a=1",
        "a; b==1",
        "a; b=1=2",
        "a/1",
        "a; b=\xe9",
        'a; "b"',
        '"a"',
        'a; b="',
        'a; b="1',
        'a; b="1\\',
        'a; b="1\\"',
        'a; b=""',
        'a; b="1 0"',
        'a; b="1\\ 0"',
        'a; b="1,0"',
        'a; b="1;0"',
        'a; b="1\\"0"',
        'a; b="\\\\"',
        'a; b="\xe9"',
        'a; b="1"0',
        'a; b="1""0"',
        'a; b=1"0"',
        "a; b='1,0'x y",
    ],
)
def test_malformed_lists_of_extensions(value: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        parse_extensions("X-Name", [value])
    assert caught.value.name == "X-Name"
    assert caught.value.value == value
    # The same next to a valid element, unless the value is empty, which is a valid element.
    if value.strip(" ,"):
        for values in (["good; x=1", value], [value, "good"]):
            with pytest.raises(InvalidHeader):
                parse_extensions("X-Name", values)


def test_quoted_strings_end_within_a_value() -> None:
    with pytest.raises(InvalidHeader):
        parse_extensions("X", ['a; b="x', 'y"'])


@pytest.mark.parametrize(
    "items, expected",
    [
        ([("foo", ())], "foo"),
        ([("foo", ()), ("bar", (("baz", "2"),))], "foo, bar; baz=2"),
        ([("a", (("b", None), ("c", "1")))], "a; b; c=1"),
    ],
)
def test_build_extensions(items: list[tuple[str, Params]], expected: str) -> None:
    assert build_extensions(items) == expected


@deterministic
@given(extensions)
def test_built_extensions_can_be_parsed(items: list[tuple[str, Params]]) -> None:
    assert parse_extensions("X", [build_extensions(items)]) == items
    assert parse_extensions("X", [build_extensions([item]) for item in items]) == items


@deterministic
@given(extensions)
def test_websockets_parses_our_headers(items: list[tuple[str, Params]]) -> None:
    theirs = websockets.headers.parse_extension(build_extensions(items))
    assert [(name, tuple(values)) for name, values in theirs] == items


@deterministic
@given(extensions)
def test_quoted_values(items: list[tuple[str, Params]]) -> None:
    def quote(match: re.Match[str]) -> str:
        return '="' + "".join("\\" + c if i % 2 else c for i, c in enumerate(match[1])) + '"'

    quoted = re.sub(r"=([^;,\s]+)", quote, build_extensions(items))
    assert parse_extensions("X", [quoted]) == items


@deterministic
@given(soup)
def test_any_value_is_parsed_or_rejected(values: list[str]) -> None:
    """A parsed value stays the same when it is built and parsed again."""
    try:
        items = parse_extensions("X", values)
    except InvalidHeader:
        pass
    else:
        assert items
        assert parse_extensions("X", [build_extensions(items)]) == items
    try:
        names = parse_tokens("X", values)
    except InvalidHeader:
        pass
    else:
        assert [name for name, _ in parse_extensions("X", values)] == names
        assert all(is_token(name) for name in names)


@deterministic
@given(soup)
def test_same_result_as_websockets(values: list[str]) -> None:
    # websockets expects that HTTP has removed the whitespace around the list.
    value = ", ".join(values).strip(" \t")
    try:
        theirs = [(name, tuple(values)) for name, values in websockets.headers.parse_extension(value)]
    except websockets.exceptions.InvalidHeaderFormat:
        with pytest.raises(InvalidHeader):
            parse_extensions("X", values)
    else:
        assert parse_extensions("X", values) == theirs


# -- Hostile values --------------------------------------------------------------------------------------------------

BIG = 200_000


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=repr(value[:8]))
        for value in (
            "," * BIG,
            " " * BIG,
            ", " * BIG,
            "a" + " " * BIG + "b",
            "a; " + " " * BIG,
            "a" + " ;" * BIG,
            "a; b" + " " * BIG + "@",
            "a; b=" + " " * BIG,
            "a; b=1" + " " * BIG + "c",
            "a; b=" * BIG,
            'a; b="' + "x" * BIG,
            'a; b="' + "\\" * BIG,
            'a; b="' + "\\\\" * BIG,
            'a; b="' + '\\"' * BIG,
            'a; b="' + "x" * BIG + " " * BIG + '"',
            'a; b=""' * BIG,
            '"' * BIG,
            "=" * BIG,
        )
    ],
)
def test_large_malformed_values(value: str) -> None:
    # The test is that this finishes: more than linear time would take minutes.
    with pytest.raises(InvalidHeader):
        parse_extensions("X", [value])
    with pytest.raises(InvalidHeader):
        parse_tokens("X", [value])


def test_large_valid_values() -> None:
    assert parse_tokens("X", ["a" * 1_000_000]) == ["a" * 1_000_000]
    assert parse_tokens("X", [" ," * BIG + "a" + ", " * BIG]) == ["a"]
    assert parse_tokens("X", ["a" + " " * 1_000_000]) == ["a"]
    assert parse_tokens("X", ["a , " * 50_000]) == ["a"] * 50_000
    assert parse_tokens("X", ["a"] * 50_000) == ["a"] * 50_000
    assert parse_extensions("X", ["a" + " ; b = 1 " * 50_000]) == [("a", (("b", "1"),) * 50_000)]
    assert parse_extensions("X", ['a; b="' + "\\x" * BIG + '"']) == [("a", (("b", "x" * BIG),))]
