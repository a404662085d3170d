"""WebSocket URIs: what is valid is ready for use, and everything else raises InvalidURI."""

from __future__ import annotations

import copy
import ipaddress
import pickle
import re
import string
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_ws.exceptions import InvalidURI
from trio_ws.uri import ParseError, WebSocketURI, is_unix, parse_host, parse_unix_uri, parse_uri

from .protocol.strategies import deterministic

# Anything that a request line or a Host header can hold.
VISIBLE = re.compile(r"[!-~]+")


def assert_sound(uri: WebSocketURI) -> None:
    """Check what everyone who is handed a URI relies on."""
    assert type(uri.secure) is bool
    assert VISIBLE.fullmatch(uri.host)
    assert uri.host_without_zone == uri.host_without_zone.lower()
    assert not set(uri.host_without_zone) & set("/?#@[]%\\")
    if ":" in uri.host:
        ipaddress.IPv6Address(uri.host_without_zone)
    assert type(uri.port) is int
    assert 1 <= uri.port <= 65535
    assert uri.path == "" or uri.path.startswith("/")
    assert uri.resource_name.startswith("/")
    assert VISIBLE.fullmatch(uri.resource_name)
    assert "#" not in uri.resource_name
    assert "?" not in uri.path
    assert VISIBLE.fullmatch(uri.host_header)
    assert (uri.username is None) == (uri.password is None) == (uri.user_info is None)
    if uri.user_info is not None:
        ":".join(uri.user_info).encode()
    # Its parts make the same URI again.
    scheme = "wss" if uri.secure else "ws"
    again = parse_uri(f"{scheme}://{uri.host_header}{uri.path}{'?' if uri.query else ''}{uri.query}")
    assert again == attrs.evolve(uri, host=uri.host_without_zone, username=None, password=None)
    assert parse_uri(f"{scheme}://{uri.host_header}{uri.resource_name}").resource_name == uri.resource_name


# -- WebSocketURI --------------------------------------------------------------------------------------------


def test_fields_in_order() -> None:
    uri = WebSocketURI(True, "example.org", 8443, "/path", "query", "user", "password")
    assert uri == WebSocketURI(
        secure=True,
        host="example.org",
        port=8443,
        path="/path",
        query="query",
        username="user",
        password="password",
    )
    assert attrs.astuple(uri) == (True, "example.org", 8443, "/path", "query", "user", "password")


def test_user_information_is_optional() -> None:
    uri = WebSocketURI(False, "example.org", 80, "", "")
    assert uri.username is None
    assert uri.password is None
    assert uri.user_info is None


@pytest.mark.parametrize(
    "path, query, resource_name",
    [("", "", "/"), ("/", "", "/"), ("/a/b", "", "/a/b"), ("", "q", "/?q"), ("/a", "b=c&d?e", "/a?b=c&d?e")],
)
def test_resource_name(path: str, query: str, resource_name: str) -> None:
    assert WebSocketURI(False, "example.org", 80, path, query).resource_name == resource_name


@pytest.mark.parametrize(
    "username, password, user_info",
    [
        (None, None, None),
        ("user", "password", ("user", "password")),
        ("", "password", ("", "password")),
        ("user", "", ("user", "")),
        ("user", None, ("user", "")),
    ],
)
def test_user_info(username: str | None, password: str | None, user_info: tuple[str, str] | None) -> None:
    uri = WebSocketURI(False, "example.org", 80, "", "", username, password)
    assert uri.user_info == user_info


@pytest.mark.parametrize(
    "secure, host, port, host_header",
    [
        (False, "example.org", 80, "example.org"),
        (True, "example.org", 443, "example.org"),
        (False, "example.org", 443, "example.org:443"),
        (True, "example.org", 80, "example.org:80"),
        (False, "example.org", 8080, "example.org:8080"),
        (False, "::1", 80, "[::1]"),
        (True, "::1", 8443, "[::1]:8443"),
        (False, "127.0.0.1", 1, "127.0.0.1:1"),
    ],
)
def test_host_header(secure: bool, host: str, port: int, host_header: str) -> None:
    assert WebSocketURI(secure, host, port, "", "").host_header == host_header


def test_uri_is_a_value() -> None:
    text = "wss://user:password@example.org/path?query"
    uri = parse_uri(text)
    assert uri == parse_uri(text)
    assert len({uri, parse_uri(text), parse_uri("ws://example.org/")}) == 2
    assert pickle.loads(pickle.dumps(uri)) == uri
    assert copy.deepcopy(uri) == uri
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        uri.host = "other"  # type: ignore[misc]
    assert not hasattr(uri, "__dict__")


def test_repr_does_not_tell_the_password() -> None:
    shown = repr(parse_uri("ws://user:hunter2@example.org/"))
    assert "hunter2" not in shown
    assert "user" in shown
    assert "password=None" in repr(parse_uri("ws://example.org/"))


# -- Valid URIs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ws://localhost/", WebSocketURI(False, "localhost", 80, "/", "")),
        ("wss://localhost/", WebSocketURI(True, "localhost", 443, "/", "")),
        ("ws://localhost", WebSocketURI(False, "localhost", 80, "", "")),
        ("ws://localhost/path?query", WebSocketURI(False, "localhost", 80, "/path", "query")),
        ("ws://localhost/path;params", WebSocketURI(False, "localhost", 80, "/path;params", "")),
        ("ws://localhost?query", WebSocketURI(False, "localhost", 80, "", "query")),
        ("ws://localhost/?", WebSocketURI(False, "localhost", 80, "/", "")),
        ("ws://localhost/a?b?c/d@e:f", WebSocketURI(False, "localhost", 80, "/a", "b?c/d@e:f")),
        ("ws://localhost//a//b/", WebSocketURI(False, "localhost", 80, "//a//b/", "")),
        ("ws://localhost/../a/./b", WebSocketURI(False, "localhost", 80, "/../a/./b", "")),
        ("ws://localhost/@:!$&'()*+,;=-._~", WebSocketURI(False, "localhost", 80, "/@:!$&'()*+,;=-._~", "")),
        ("WSS://LocalHost/PATH?QUERY", WebSocketURI(True, "localhost", 443, "/PATH", "QUERY")),
        ("ws://example.org./", WebSocketURI(False, "example.org.", 80, "/", "")),
        ("ws://a_b.example.org/", WebSocketURI(False, "a_b.example.org", 80, "/", "")),
        ("ws://127.0.0.1:8080/", WebSocketURI(False, "127.0.0.1", 8080, "/", "")),
        ("ws://user:password@h/", WebSocketURI(False, "h", 80, "/", "", "user", "password")),
        ("ws://:password@h/", WebSocketURI(False, "h", 80, "/", "", "", "password")),
        ("ws://user:@h/", WebSocketURI(False, "h", 80, "/", "", "user", "")),
        ("ws://:@h/", WebSocketURI(False, "h", 80, "/", "", "", "")),
        ("ws://a:b:c@h/", WebSocketURI(False, "h", 80, "/", "", "a", "b:c")),
        ("ws://a%3Ab%40:%2F%25%C3%A9@h:1/", WebSocketURI(False, "h", 1, "/", "", "a:b@", "/%é")),
        ("ws://ü:é@h/", WebSocketURI(False, "h", 80, "/", "", "ü", "é")),
        ("ws://u:p@[::1]:81/", WebSocketURI(False, "::1", 81, "/", "", "u", "p")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_valid(text: str, expected: WebSocketURI) -> None:
    uri = parse_uri(text)
    assert uri == expected
    assert_sound(uri)


@pytest.mark.parametrize(
    "port, expected",
    [
        ("", 80),
        (":", 80),
        (":1", 1),
        (":80", 80),
        (":443", 443),
        (":65535", 65535),
        (":00080", 80),
        pytest.param(":" + "0" * 5000 + "80", 80, id="five thousand zeros"),
    ],
)
def test_port(port: str, expected: int) -> None:
    assert parse_uri(f"ws://example.org{port}/").port == expected
    assert parse_uri(f"ws://[::1]{port}/").port == expected
    assert parse_uri(f"ws://u:p@example.org{port}?q").port == expected


@pytest.mark.parametrize("scheme, expected", [("ws", 80), ("wss", 443)])
def test_default_port(scheme: str, expected: int) -> None:
    assert parse_uri(f"{scheme}://example.org/").port == expected
    assert parse_uri(f"{scheme}://example.org:/").port == expected


@pytest.mark.parametrize(
    "address, host",
    [
        ("::1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1"),
        ("::", "::"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
    ],
)
def test_ipv6(address: str, host: str) -> None:
    uri = parse_uri(f"ws://[{address}]:8080/")
    assert (uri.host, uri.port) == (host, 8080)
    assert uri.host_header == f"[{host}]:8080"
    assert_sound(uri)
    assert parse_uri(f"ws://[{address}]").host_header == f"[{host}]"


def test_ipv6_with_an_ipv4_address_in_it() -> None:
    # Its spelling depends on the version of Python.
    uri = parse_uri("ws://[::ffff:1.2.3.4]/")
    assert ipaddress.IPv6Address(uri.host) == ipaddress.IPv6Address("::ffff:102:304")
    assert_sound(uri)


@pytest.mark.parametrize(
    "host, expected",
    [
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("MÜNCHEN.Example", "xn--mnchen-3ya.example"),
        # IDNA 2008 keeps the sharp s, IDNA 2003 made it ss.
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("m%C3%BCnchen.example", "xn--mnchen-3ya.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("münchen.example.", "xn--mnchen-3ya.example."),
        ("１２７.０.０.１", "127.0.0.1"),
        ("ex%61mple.%4Frg", "example.org"),
    ],
)
def test_host_is_encoded(host: str, expected: str) -> None:
    uri = parse_uri(f"ws://{host}:8080/")
    assert uri.host == expected
    assert_sound(uri)


@pytest.mark.parametrize(
    "target, resource_name",
    [
        ("/a%20b", "/a%20b"),
        ("/a%20b?c%20d", "/a%20b?c%20d"),
        ("/é%20b", "/%C3%A9%20b"),
        ("/é", "/%C3%A9"),
        ("/%c3%a9", "/%c3%a9"),
        ("/%25", "/%25"),
        ("/%2F%3F%23", "/%2F%3F%23"),
        ("/日本?語=é%26", "/%E6%97%A5%E6%9C%AC?%E8%AA%9E=%C3%A9%26"),
        ("/😀", "/%F0%9F%98%80"),
        ("?é", "/?%C3%A9"),
        ("/%FF", "/%FF"),
        ("/\x80\u3000", "/%C2%80%E3%80%80"),
    ],
    ids=ascii,
)
def test_what_is_encoded_stays_as_it_is(target: str, resource_name: str) -> None:
    uri = parse_uri(f"ws://example.org{target}")
    assert uri.resource_name == resource_name
    assert_sound(uri)


@pytest.mark.parametrize(
    "target, resource_name",
    [
        ("/?channels[]=a&channels[]=b", "/?channels%5B%5D=a&channels%5B%5D=b"),
        ('/?f={"a":1}', "/?f=%7B%22a%22:1%7D"),
        ("/a|b^c`d<e>", "/a%7Cb%5Ec%60d%3Ce%3E"),
        ("/a b?c d", "/a%20b?c%20d"),
        ("/100%", "/100%25"),
        ("/%2", "/%252"),
        ("/%zz%20%", "/%25zz%20%25"),
        ("/%\u0662\u0660", "/%25%D9%A2%D9%A0"),
        ("/%%20", "/%25%20"),
        ("?a\\b", "/?a%5Cb"),
        ("/[::1]", "/%5B::1%5D"),
    ],
    ids=ascii,
)
def test_what_a_uri_must_not_contain_is_encoded(target: str, resource_name: str) -> None:
    uri = parse_uri(f"ws://example.org{target}")
    assert uri.resource_name == resource_name
    assert_sound(uri)


@pytest.mark.parametrize(
    "text, host, host_header",
    [
        ("ws://[fe80::1%25eth0]/", "fe80::1%eth0", "[fe80::1]"),
        ("wss://[FE80:0::1%25Eth0]:8443/", "fe80::1%Eth0", "[fe80::1]:8443"),
        ("ws://u:p@[fe80::1%2525]:81/x", "fe80::1%25", "[fe80::1]:81"),
        ("ws://[fe80::1%25en%30]", "fe80::1%en0", "[fe80::1]"),
        ("ws://[fe80::1%25br-0.1_~]", "fe80::1%br-0.1_~", "[fe80::1]"),
    ],
)
def test_zone(text: str, host: str, host_header: str) -> None:
    uri = parse_uri(text)
    assert (uri.host, uri.host_header) == (host, host_header)
    assert_sound(uri)


@pytest.mark.parametrize("length", [63, 64])
def test_longest_label(length: int) -> None:
    text = f"ws://{'a' * length}.example/"
    if length == 63:
        assert parse_uri(text).host == "a" * 63 + ".example"
    else:
        with pytest.raises(InvalidURI):
            parse_uri(text)


@pytest.mark.parametrize("dot", ["", "."], ids=["relative", "absolute"])
def test_longest_host(dot: str) -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(longest) == 253
    assert parse_uri(f"ws://{longest}{dot}/").host == longest + dot
    with pytest.raises(InvalidURI):
        parse_uri(f"ws://{longest}a{dot}/")


# -- Invalid URIs --------------------------------------------------------------------------------------------

INVALID = {
    "empty": "",
    "no scheme": "example.org",
    "no scheme but a colon": "://example.org/",
    "relative": "/path",
    "network path": "//example.org/",
    "http": "http://example.org/",
    "https": "https://example.org/",
    "other scheme": "wsx://example.org/",
    "scheme with a space": " ws://example.org/",
    "scheme with a letter that folds": "w\u017f://example.org/",
    "only a scheme": "ws:",
    "scheme and slash": "ws:/",
    "no slashes": "ws:example.org",
    "one slash": "ws:/example.org/",
    "backslashes": "ws:\\\\example.org\\",
    "no host": "ws://",
    "no host but a path": "ws:///path",
    "no host but a query": "ws://?query",
    "no host but a port": "ws://:80/",
    "no host but user information": "ws://user:password@/",
    "no host but both": "ws://user:password@:80/",
    "fragment": "ws://example.org/path#fragment",
    "empty fragment": "ws://example.org/#",
    "fragment after the host": "ws://example.org#fragment",
    "fragment in the query": "ws://example.org/?a#b",
    "fragment for a host": "ws://#",
    "port of letters": "ws://example.org:port/",
    "port with a sign": "ws://example.org:+80/",
    "negative port": "ws://example.org:-80/",
    "port with an underscore": "ws://example.org:8_0/",
    "port with a point": "ws://example.org:80.0/",
    "port in hexadecimal": "ws://example.org:0x50/",
    "port of other digits": "ws://example.org:٨٠/",
    "port of superscripts": "ws://example.org:²/",
    "port 0": "ws://example.org:0/",
    "port 00000": "ws://example.org:00000/",
    "port 65536": "ws://example.org:65536/",
    "port 99999": "ws://example.org:99999/",
    "long port": "ws://example.org:" + "9" * 5000 + "/",
    "two ports": "ws://example.org:80:80/",
    "port with a percent sign": "ws://example.org:%38%30/",
    "bracket not closed": "ws://[::1/",
    "bracket not opened": "ws://::1]/",
    "IPv6 without brackets": "ws://::1/",
    "nothing in brackets": "ws://[]/",
    "name in brackets": "ws://[example.org]/",
    "IPv4 in brackets": "ws://[127.0.0.1]/",
    "IPvFuture": "ws://[v1.fe80]/",
    "too many groups": "ws://[1:2:3:4:5:6:7:8:9]/",
    "group too long": "ws://[12345::]/",
    "two double colons": "ws://[1::2::3]/",
    "bare zone": "ws://[fe80::1%eth0]/",
    "empty zone": "ws://[fe80::1%25]/",
    "space in the zone": "ws://[fe80::1%25a%20b]/",
    "newline in the zone": "ws://[fe80::1%25a%0Ab]/",
    "slash in the zone": "ws://[fe80::1%25a%2Fb]/",
    "percent sign in the zone": "ws://[fe80::1%25%25]/",
    "bracket in the zone": "ws://[fe80::1%25a%5D]/",
    "bad escape in the zone": "ws://[fe80::1%25%e]/",
    "zone not ASCII": "ws://[fe80::1%25é]/",
    "zone without an address": "ws://[%25eth0]/",
    "IPv4 with a zone": "ws://[127.0.0.1%25eth0]/",
    "zone of a name": "ws://example.org%25eth0/",
    "slash in the password": "ws://user:se/cret@example.org/",
    "question mark in the password": "ws://user:se?cret@example.org/",
    "text after the bracket": "ws://[::1]x/",
    "text before the bracket": "ws://x[::1]/",
    "port 65536 after the bracket": "ws://[::1]:65536/",
    "double brackets": "ws://[[::1]]/",
    "user without password": "ws://user@example.org/",
    "empty user information": "ws://@example.org/",
    "at sign in the user information": "ws://user@host:password@example.org/",
    "quote in the user information": 'ws://"user":password@example.org/',
    "bracket in the user information": "ws://[user:password@example.org/",
    "user information not UTF-8": "ws://%FF:password@example.org/",
    "password not UTF-8": "ws://user:%C3@example.org/",
    "bad escape in the user": "ws://%:password@example.org/",
    "bad escape in the password": "ws://user:%4@example.org/",
    "surrogate in the user": "ws://\ud800:password@example.org/",
    "surrogate in the password": "ws://user:\udfff@example.org/",
    "escaped surrogate in the user": "ws://%ED%A0%80:password@example.org/",
    "bad escape in the host": "ws://ex%zzample.org/",
    "escaped percent sign in the host": "ws://ex%25ample.org/",
    "escaped slash in the host": "ws://example.org%2Fpath/",
    "escaped at sign in the host": "ws://user%40example.org/",
    "escaped colon in the host": "ws://example.org%3A80/",
    "escaped NUL in the host": "ws://example%00.org/",
    "escaped newline in the host": "ws://example.org%0D%0AX:%20y/",
    "host not UTF-8": "ws://%FF.example/",
    "surrogate in the host": "ws://\ud800.example/",
    "surrogate in the path": "ws://example.org/\ud800",
    "surrogate in the query": "ws://example.org/?\udc80",
    "space in the host": "ws://exam ple.org/",
    "space at the end": "ws://example.org/ ",
    "tab": "ws://example.org/a\tb",
    "newline": "ws://example.org/a\nb",
    "newline at the end": "ws://example.org/\n",
    "newline in the scheme": "w\ns://example.org/",
    "CRLF in the path": "ws://example.org/ HTTP/1.1\r\nX: y",
    "NUL": "ws://example.org/\0",
    "DEL": "ws://example.org/\x7f",
    "backslash in the path": "ws://example.org/a\\b",
    "backslash in the host": "ws://example.org\\@evil.example/",
    "quote in the host": 'ws://"example.org"/',
    "star in a label that is not ASCII": "ws://*.münchen.example/",
    "IDNA: empty label": "ws://münchen..example/",
    "IDNA: only a mark": "ws://\u0301.example/",
    "IDNA: unassigned": "ws://\U000e0fff.example/",
    "IDNA: slash by compatibility": "ws://\u2100.example/",
    "IDNA: question mark by compatibility": "ws://example\uff1f.org/",
    "IDNA: number sign by compatibility": "ws://example\uff03.org/",
    "IDNA: label too long": f"ws://{'ü' * 64}.example/",
    "IDNA: very long": f"ws://{'ü' * 100_000}.example/",
    "IDNA: nothing left": "ws://\u00ad/",
    "empty label": "ws://example..org/",
    "empty first label": "ws://.example.org/",
    "only a dot": "ws://./",
    "two dots at the end": "ws://example.org../",
    "host too long": f"ws://{'a.' * 200}example/",
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID.keys())
def test_invalid(text: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert type(caught.value) is InvalidURI
    assert caught.value.uri == text
    assert caught.value.reason
    assert caught.value.reason in str(caught.value)
    # Neither internals nor a repetition of what the reason says.
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, ValueError)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "text, word",
    [
        ("example.org", "scheme"),
        ("http://example.org/", "http"),
        ("ws:///path", "host"),
        ("ws://example.org/#a", "fragment"),
        ("ws://example.org/a ", "space"),
        ("ws://example.org/a\\b", "backslash in the path"),
        ("ws://example.org/\x7f", "'\\x7f'"),
        ("ws://exam\nple.org/", "'\\n'"),
        ("ws://example.org:65536/", "'65536'"),
        ("ws://[::x]/", "IPv6"),
        ("ws://user@example.org/", "password"),
        ("ws://us%er:password@example.org/", "user information"),
        ("ws://example.org/\ud800", "path"),
        ("ws://example.org/?\ud800", "query"),
        ("ws://[fe80::1%eth0]/", "%25"),
        ("ws://us:se/cret@example.org/", "slash"),
        ("ws://ex%zzample.org/", "host"),
        ("ws://\u0301.example/", "IDNA"),
    ],
    ids=ascii,
)
def test_the_reason_says_where(text: str, word: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert word in caught.value.reason


@pytest.mark.parametrize("value", [b"ws://example.org/", None, 1, ["ws://example.org/"]], ids=repr)
def test_not_a_str(value: Any) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(value)
    assert caught.value.uri is value


@pytest.mark.parametrize(
    "text, cause",
    [
        ("ws://%FF:password@example.org/", UnicodeDecodeError),
        ("ws://%FF.example/", UnicodeDecodeError),
        ("ws://[::x]/", ValueError),
        ("ws://\u0301.example/", UnicodeError),
        ("ws://example.org/\ud800", UnicodeEncodeError),
    ],
    ids=ascii,
)
def test_the_cause_is_kept(text: str, cause: type[Exception]) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize(
    "text",
    [
        "http://user:hunter2@example.org/",
        "ws://user:hunter2@example.org:99999/",
        "ws://user:hun/ter2@example.org/",
        "ws://user:hun?ter2@example.org/",
        "ws://user:hun#ter2@example.org/",
        "ws://user:hunter2@@example.org/",
        "ws://user:hun@ter2@example.org/",
        "ws://user:%hunter2@example.org/",
        "ws:/user:hunter2@example.org/",
        "ws:user:hunter2@example.org/",
        "//user:hunter2@example.org/",
        "user:hunter2@example.org",
        " ws://user:hunter2@example.org/",
        "ws://user:hunter2\n@example.org/",
        "ws://[user:hunter2@example.org/",
        "ws+unix://user:hunter2@example.org/",
    ],
)
def test_the_password_is_not_shown(text: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    for shown in (str(caught.value), repr(caught.value), caught.value.reason):
        assert "hun" not in shown
        assert "ter2" not in shown
    assert caught.value.uri == text


def test_what_is_no_password_is_shown() -> None:
    for text in ("http://example.org:80/?m=a@b", "http://example.org/a@b:c", "http://[::1]:80/a@b"):
        with pytest.raises(InvalidURI) as caught:
            parse_uri(text)
        assert text in str(caught.value)


# -- Properties ----------------------------------------------------------------------------------------------


def check(text: str) -> None:
    try:
        uri = parse_uri(text)
    except InvalidURI as exc:
        refused = exc.uri
    else:
        assert_sound(uri)
        return
    assert refused == text


anything = st.text(st.characters())


@deterministic
@given(anything)
def test_any_text(text: str) -> None:
    check(text)
    check(f"ws://{text}")


@deterministic
@given(anything, anything)
def test_any_text_in_any_place(first: str, second: str) -> None:
    for text in [
        f"ws://{first}:{second}",
        f"ws://{first}:{second}@example.org",
        f"ws://[{first}]:{second}/",
        f"ws://example.org/{first}?{second}",
        f"{first}://{second}/",
    ]:
        check(text)


PARTS = [
    *[
        "ws:",
        "wss:",
        "WS:",
        "http:",
        "//",
        "/",
        "?",
        "#",
        "@",
        ":",
        "[",
        "]",
        "[::1]",
        "%",
        "%20",
        "%FF",
        "%C3%A9",
    ],
    *[
        "example",
        ".",
        "org",
        "é",
        "ü",
        "\ud800",
        " ",
        "\n",
        "\x00",
        "80",
        "65535",
        "65536",
        "0",
        "user:pw@",
        "\\",
    ],
    *["xn--", "-", "_", "\u00ad", "\u2100", "。", "🙂", "v1.", "%3A", "%2F", "%00", "a" * 63],
]


@settings(deterministic, max_examples=300)
@given(st.lists(st.sampled_from(PARTS), max_size=10))
def test_any_order_of_parts(parts: list[str]) -> None:
    check("".join(parts))
    check("ws://" + "".join(parts))


labels = st.text(string.ascii_letters + string.digits, min_size=1, max_size=10)
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
unreserved = st.text(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/", max_size=10)


@deterministic
@given(st.sampled_from(["ws", "wss"]), hosts, st.none() | st.integers(1, 65535), unreserved, unreserved)
@example("wss", "[::1]", 443, "", "")
def test_whatever_is_put_together_is_taken_apart(
    scheme: str, host: str, port: int | None, path: str, query: str
) -> None:
    uri = parse_uri(f"{scheme}://{host}{'' if port is None else f':{port}'}/{path}?{query}")
    assert uri.secure == (scheme == "wss")
    if host.startswith("["):
        assert ipaddress.ip_address(uri.host) == ipaddress.ip_address(host[1:-1])
    else:
        assert uri.host == host.lower()
    assert uri.port == (port or {"ws": 80, "wss": 443}[scheme])
    assert (uri.path, uri.query) == (f"/{path}", query)
    assert_sound(uri)


@deterministic
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_user_information_round_trip(username: str, password: str) -> None:
    def quote(text: str) -> str:
        return "".join(f"%{octet:02X}" for octet in text.encode())

    uri = parse_uri(f"ws://{quote(username)}:{quote(password)}@example.org/")
    assert uri.user_info == (username, password)


# -- Unix sockets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri, path, resource",
    [
        ("ws+unix:/run/app.sock", "/run/app.sock", "/"),
        ("ws+unix:///run/app.sock", "/run/app.sock", "/"),
        ("WS+UNIX:/run/app.sock:/chat?room=1", "/run/app.sock", "/chat?room=1"),
        ("ws+unix:///run/app.sock:/a:b", "/run/app.sock", "/a:b"),
        ("ws+unix:/run/app.sock:?room=1", "/run/app.sock", "/?room=1"),
        ("ws+unix:/run/app.sock:", "/run/app.sock", "/"),
        ("ws+unix:run/app.sock:/x", "run/app.sock", "/x"),
        ("ws+unix:/with%20space%3A%3f%25:/%20", "/with space:?%", "/%20"),
        ("ws+unix:/bücher", "/bücher", "/"),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
def test_unix_uri(uri: str, path: str, resource: str, secure: bool) -> None:
    if secure:
        uri = uri[:2] + "s" + uri[2:]
    assert is_unix(uri)
    file, parsed = parse_unix_uri(uri)
    assert file == path
    assert parsed.resource_name == resource
    assert (parsed.secure, parsed.host, parsed.host_header) == (secure, "localhost", "localhost")


@pytest.mark.parametrize(
    "uri, reason",
    [
        ("ws+unix:", "it must look like"),
        ("ws+unix://host/run/app.sock", "it must look like"),
        ("ws+unix:?x", "it must look like"),
        ("ws+unix:/run/app.sock?x", "it must look like"),
        ("ws+unix:/run/app.sock:chat", "must start with a slash"),
        ("ws+unix:/run/app.sock:/#part", "must not have a fragment"),
        ("ws+unix:/run/app.sock:/a\nb", "percent-encoded"),
        ("ws+unix:/run/%00", "NUL"),
        ("http+unix:/run/app.sock", "it must look like"),
    ],
)
def test_unix_uris_that_are_none(uri: str, reason: str) -> None:
    with pytest.raises(InvalidURI, match=reason) as caught:
        parse_unix_uri(uri)
    assert caught.value.uri == uri


@pytest.mark.parametrize("uri", ["ws:/run/app.sock", "ws://example.org/", "unix:/run/app.sock", "ws+unix", ""])
def test_what_is_no_unix_uri(uri: str) -> None:
    assert not is_unix(uri)


def test_parse_host() -> None:
    assert parse_host("example.org") == "example.org"
    assert parse_host("bücher.example") == "xn--bcher-kva.example"
    assert parse_host("::1") == "::1"
    assert parse_host("fe80::1%eth0") == "fe80::1%eth0"
    for text in ("", "a b", "[::1]", "a:1", "::g"):
        with pytest.raises(ParseError):
            parse_host(text)
