"""Proxies and their URLs: ``Proxy``, ``parse_proxy``."""

from __future__ import annotations

import pickle
import traceback
import urllib.parse
import urllib.request
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws.client.proxy import Proxy, parse_proxy
from trio_ws.datastructures import Headers
from trio_ws.exceptions import InvalidProxy

pytestmark = pytest.mark.usefixtures("watchdog")

SCHEMES = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]


# -- Parsing and checking---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, expected",
    [
        ("http://proxy.example", ("http", "proxy.example", 80, None, None)),
        ("http://proxy.example:3128/", ("http", "proxy.example", 3128, None, None)),
        ("https://proxy.example", ("https", "proxy.example", 443, None, None)),
        ("socks4://proxy.example", ("socks4", "proxy.example", 1080, None, None)),
        ("socks4a://user@proxy.example", ("socks4a", "proxy.example", 1080, "user", None)),
        ("socks4a://user:@proxy.example", ("socks4a", "proxy.example", 1080, "user", "")),
        ("socks5://user:pass@proxy.example", ("socks5", "proxy.example", 1080, "user", "pass")),
        ("socks5h://proxy.example:9050", ("socks5h", "proxy.example", 9050, None, None)),
        ("HTTP://Proxy.Example:00080", ("http", "proxy.example", 80, None, None)),
        ("http://proxy.example:", ("http", "proxy.example", 80, None, None)),
        ("http://127.0.0.1:3128", ("http", "127.0.0.1", 3128, None, None)),
        ("http://[2001:DB8::0:1]:3128", ("http", "2001:db8::1", 3128, None, None)),
        ("http://user:pass@[::1]", ("http", "::1", 80, "user", "pass")),
        ("http://bücher.example", ("http", "xn--bcher-kva.example", 80, None, None)),
        ("http://us%C3%A9r:p%40s%3As%2Fw@proxy.example", ("http", "proxy.example", 80, "usér", "p@s:s/w")),
        ("http://usér:pàss@proxy.example", ("http", "proxy.example", 80, "usér", "pàss")),
        ("http://user@proxy.example", ("http", "proxy.example", 80, "user", None)),
        ("http://:pass@proxy.example", ("http", "proxy.example", 80, "", "pass")),
        ("http://@proxy.example", ("http", "proxy.example", 80, "", None)),
    ],
)
async def test_parse(url: str, expected: tuple[Any, ...]) -> None:
    assert parse_proxy(url) == Proxy(*expected)


INVALID = [
    "",
    "proxy.example",
    "proxy.example:3128",
    "//proxy.example",
    "http:proxy.example",
    "http:/proxy.example",
    "http://",
    "http:///",
    "http://:3128",
    "http://user:pass@",
    "http://user:pass@:3128",
    "ftp://proxy.example",
    "socks://proxy.example",
    "wss://proxy.example",
    "http://proxy.example:0",
    "http://proxy.example:65536",
    "http://proxy.example:http",
    "http://proxy.example:٣",
    "http://proxy.example/path",
    "http://proxy.example//",
    "http://proxy.example?query",
    "http://proxy.example#fragment",
    "http://proxy example",
    " http://proxy.example",
    "http://proxy.example\n",
    "http://proxy..example",
    "http://::1",
    "http://[::1",
    "http://[fe80::1%eth0]",
    "http://%zz.example",
    "http://%ff.example",
    f"http://{'x' * 64}.example",
    "http://\N{ZERO WIDTH JOINER}.example",
    "http://us%3Aer:pass@proxy.example",
    "http://user:pa%00ss@proxy.example",
    "http://user:pa%0Ass@proxy.example",
    "http://user:pa%ss@proxy.example",
    "http://user:pa%ff@proxy.example",
    "http://user:pa ss@proxy.example",
    "http://user:pa/ss@proxy.example",
    "http://user:pa#ss@proxy.example",
    "http://user:pa?ss@proxy.example",
    "http://user:pa@ss@proxy.example",
    "http://user:p\udcff@proxy.example",
    "socks4://user:pass@proxy.example",
    "socks4://us%00er@proxy.example",
    "socks4a://us%C3%A9r@proxy.example",
    "socks5://us%C3%A9r:pass@proxy.example",
    "socks5://user:p%C3%A0ss@proxy.example",
    "socks5://user@proxy.example",
    "socks5://user:@proxy.example",
    "socks5://:pass@proxy.example",
    f"socks5://{'x' * 256}:pass@proxy.example",
    f"socks5h://user:{'x' * 256}@proxy.example",
]


@pytest.mark.parametrize("url", INVALID)
async def test_invalid(url: str) -> None:
    with pytest.raises(InvalidProxy) as caught:
        parse_proxy(url)
    assert caught.value.reason


@pytest.mark.parametrize("value", [None, b"http://proxy.example", 3128])
async def test_wrong_type(value: Any) -> None:
    with pytest.raises(InvalidProxy) as caught:
        parse_proxy(value)
    assert caught.value.proxy == repr(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ftp", "proxy.example", 80),
        ("http", "", 80),
        ("http", "[::1]", 80),
        ("http", "proxy.example:80", 80),
        ("http", "proxy/example", 80),
        ("http", "proxy.example", 0),
        ("http", "proxy.example", 65536),
        ("http", "proxy.example", 80, None, "pass"),
        ("http", "proxy.example", 80, "us:er", "pass"),
        ("socks4a", "proxy.example", 80, "us\0er"),
    ],
)
async def test_a_proxy_is_valid_once_constructed(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidProxy):
        Proxy(*arguments)


async def test_the_host_of_a_proxy() -> None:
    assert Proxy("http", "Bücher.example", 80).host == "xn--bcher-kva.example"
    assert Proxy("http", "2001:DB8::0:1", 80).url == "http://[2001:db8::1]:80"
    with pytest.raises(InvalidProxy) as caught:
        Proxy("http", "http://user:S3CRET@proxy.example", 80)
    assert "S3CRET" not in str(caught.value)


async def test_a_proxy_is_a_value() -> None:
    proxy = parse_proxy("http://user:pass@proxy.example:3128")
    assert pickle.loads(pickle.dumps(proxy)) == proxy
    assert len({proxy, parse_proxy("http://user:pass@proxy.example:3128"), parse_proxy("http://proxy.example")}) == 2
    with pytest.raises(AttributeError):
        proxy.port = 1  # type: ignore[misc]  # wrong on purpose


async def test_a_proxy_from_its_url() -> None:
    assert Proxy("http://user:p%40ss@proxy.example") == Proxy("http", "proxy.example", 80, "user", "p@ss")
    proxy = Proxy("https://proxy.example", headers={"X-Route": "eu"})
    assert proxy == Proxy("https", "proxy.example", 443, headers=[("X-Route", "eu")])
    assert proxy != Proxy("https://proxy.example")
    # mypy knows attrs.evolve() only for classes without overloads.
    evolved = attrs.evolve(proxy, port=1)  # type: ignore[misc]  # mypy does not know overloads of __init__ here
    assert evolved == Proxy("https", "proxy.example", 1, headers={"x-route": "eu"})
    assert pickle.loads(pickle.dumps(proxy)) == proxy
    assert len({proxy, Proxy("https://proxy.example"), Proxy("https://proxy.example")}) == 2


@pytest.mark.parametrize("arguments", [("http", "proxy.example"), ("http", None, 80), ("http", None, None, "user")])
async def test_incomplete_parts(arguments: Any) -> None:
    with pytest.raises(TypeError, match="URL"):
        Proxy(*arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("scheme", value) for value in (5, b"http")),
        *(("host", value) for value in (5, b"proxy.example")),
        *(("port", value) for value in (3128.5, "3128", True)),
        *(("username", value) for value in (5, b"user")),
        *(("password", value) for value in (12345, b"S3CRET")),
    ],
)
async def test_parts_of_the_wrong_type(name: str, value: Any) -> None:
    parts = {"scheme": "http", "host": "proxy.example", "port": 3128, "username": "user", "password": "secret"}
    with pytest.raises(TypeError, match=f"{name} must be .*, not {type(value).__name__}") as caught:
        Proxy(**{**parts, name: value})
    assert "S3CRET" not in str(caught.value)


async def test_the_headers_of_a_proxy() -> None:
    headers = Headers({"X-Route": "eu"})
    proxy = Proxy("http://proxy.example", headers=headers)
    headers["X-Route"] = "us"
    assert proxy.headers == Headers({"X-Route": "eu"})
    assert Proxy("http://proxy.example").headers == Headers()


@pytest.mark.parametrize(
    "url, headers, error",
    [
        ("http://proxy.example", {"X-Token": "S3CRET\r\n"}, InvalidProxy),
        ("http://proxy.example", {"X Token": "S3CRET"}, InvalidProxy),
        ("http://proxy.example", {"Host": "S3CRET"}, InvalidProxy),
        ("http://proxy.example", {"content-length": "S3CRET"}, InvalidProxy),
        ("http://proxy.example", {"Transfer-Encoding": "S3CRET"}, InvalidProxy),
        ("socks5://proxy.example", {"X-Token": "S3CRET"}, InvalidProxy),
        ("http://user:S3CRET@proxy.example", {"Host": "x"}, InvalidProxy),
        ("http://proxy.example", {"X-Token": b"S3CRET"}, TypeError),
        ("http://proxy.example", "S3CRET", TypeError),
        ("http://proxy.example", ["S3CRET"], TypeError),
        ("http://proxy.example", None, TypeError),
    ],
)
async def test_invalid_headers_of_a_proxy(url: str, headers: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        Proxy(url, headers=headers)
    assert type(caught.value) is error
    assert "S3CRET" not in "".join(traceback.format_exception(caught.value))


async def test_the_values_of_headers_are_not_shown() -> None:
    proxy = Proxy("http://proxy.example", headers=[("Proxy-Authorization", "Bearer S3CRET"), ("X-A", "S3CRET")])
    assert repr(proxy).endswith("headers={'Proxy-Authorization': '***', 'X-A': '***'})")
    assert "S3CRET" not in f"{proxy} {proxy.url}"


@pytest.mark.parametrize("url", ["http://user:S3CRET@proxy.example", "socks5h://user:S3CRET@[::1]:9050"])
async def test_the_password_is_not_shown(url: str) -> None:
    proxy = parse_proxy(url)
    assert "S3CRET" not in f"{proxy!r} {proxy} {proxy.url}"
    assert "user" not in proxy.url
    assert parse_proxy(proxy.url).host == proxy.host


HOSTS = st.sampled_from(["proxy.example", "127.0.0.1", "[::1]", "xn--bcher-kva.example"])

ASCII = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":"), min_size=1, max_size=255)


@given(scheme=st.sampled_from(SCHEMES), host=HOSTS, port=st.integers(1, 65535), data=st.data())
async def test_any_valid_url(scheme: str, host: str, port: int, data: st.DataObject) -> None:
    username = data.draw(st.none() | ASCII)
    with_password = username is not None and not scheme.startswith("socks4")
    password = data.draw(ASCII) if with_password else None
    quote = partial(urllib.parse.quote, safe="")
    credentials = (
        "" if username is None else quote(username) + ("" if password is None else f":{quote(password)}") + "@"
    )
    proxy = parse_proxy(f"{scheme}://{credentials}{host}:{port}")
    assert proxy == Proxy(scheme, host.strip("[]"), port, username, password)
    assert proxy.url == f"{scheme}://{host}:{port}"


@given(
    st.text()
    | st.builds("{}{}{}".format, st.sampled_from([f"{scheme}://" for scheme in SCHEMES]), st.text(), st.text())
)
async def test_any_text(url: str) -> None:
    try:
        proxy = parse_proxy(url)
    except InvalidProxy:
        pass
    else:
        assert parse_proxy(proxy.url).url == proxy.url


@given(
    before=st.sampled_from(["", "http", "http:", "http://", "socks5://", "://", "x://y"]),
    username=st.text(),
    around=st.tuples(st.text(), st.text()),
    host=st.sampled_from(["proxy.example", "", "[::1", "x:y", "proxy.example/x"]),
)
@example("http://", "user", ("", "/"), "proxy.example")
@example("http://", "user", ("", "#"), "proxy.example")
@example("http://", "user", ("[", "\n"), "proxy.example")
@example("http://", "user", ("", "%ff"), "proxy.example")
async def test_no_message_has_the_password(before: str, username: str, around: tuple[str, str], host: str) -> None:
    password = f"{around[0]}S3CRET{around[1]}"
    try:
        proxy = parse_proxy(f"{before}{username}:{password}@{host}")
        shown = f"{proxy!r} {proxy.url}"
    except InvalidProxy as exc:
        shown = f"{exc} {exc!r} {exc.args} {exc.proxy} {exc.reason}"
    assert "S3CRET" not in shown
