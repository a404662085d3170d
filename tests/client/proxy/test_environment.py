"""Proxies from the environment and the system settings: ``find_proxy``."""

from __future__ import annotations

import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.client.proxy import Proxy, find_proxy
from trio_ws.exceptions import InvalidProxy
from trio_ws.uri import parse_uri

pytestmark = pytest.mark.usefixtures("watchdog")


# -- The proxy of the environment ------------------------------------------------------------------------------------


def name_of(proxy: Proxy | None) -> str | None:
    return None if proxy is None else proxy.url


@pytest.mark.parametrize(
    "environment, secure, plain",
    [
        ({}, None, None),
        ({"https_proxy": "http://a:1"}, "http://a:1", None),
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1", None),
        ({"https_proxy": "http://a:1", "http_proxy": "http://b:2"}, "http://a:1", "http://b:2"),
        ({"all_proxy": "socks5://a"}, "socks5://a:1080", "socks5://a:1080"),
        ({"ALL_PROXY": "http://a", "http_proxy": "http://b"}, "http://a:80", "http://b:80"),
        ({"all_proxy": "http://a", "socks_proxy": "socks4a://b"}, "socks4a://b:1080", "socks4a://b:1080"),
        ({"https_proxy": "http://a", "socks_proxy": "socks4a://b"}, "http://a:80", "socks4a://b:1080"),
        ({"wss_proxy": "http://a", "https_proxy": "http://b", "ws_proxy": "http://c"}, "http://a:80", "http://c:80"),
        ({"https_proxy": "a:3128"}, "http://a:3128", None),
        ({"https_proxy": "user:pass@a:3128"}, "http://a:3128", None),
        ({"https_proxy": " http://a:3128/ "}, "http://a:3128", None),
        ({"https_proxy": "https://a"}, "https://a:443", None),
        ({"socks_proxy": "a:9050"}, "socks5h://a:9050", "socks5h://a:9050"),
        ({"socks_proxy": "http://a:9050"}, "socks5h://a:9050", "socks5h://a:9050"),
        ({"all_proxy": "socks://a"}, "socks5h://a:1080", "socks5h://a:1080"),
        ({"https_proxy": "", "all_proxy": "http://a"}, "http://a:80", "http://a:80"),
        ({"https_proxy": " ", "all_proxy": "http://a"}, "http://a:80", "http://a:80"),
        ({"ftp_proxy": "http://a"}, None, None),
        # A web server sets this variable for a CGI script from a request header (CVE-2016-1000110).
        ({"REQUEST_METHOD": "GET", "HTTP_PROXY": "http://evil"}, None, None),
    ],
    ids=str,
)
async def test_variables(
    environment: dict[str, str], secure: str | None, plain: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert name_of(await find_proxy(parse_uri("wss://example.org/"))) == secure
    assert name_of(await find_proxy(parse_uri("ws://example.org/"))) == plain


async def test_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://us%C3%A9r:p%40ss@a")
    assert await find_proxy(parse_uri("wss://example.org/")) == Proxy("http", "a", 80, "usér", "p@ss")


@pytest.mark.parametrize(
    "no_proxy, uri, bypassed",
    [
        ("example.org", "wss://example.org/", True),
        ("example.org", "wss://example.org./", True),
        ("example.org", "wss://sub.example.org/", True),
        (".example.org", "wss://sub.example.org/", True),
        ("example.org", "wss://badexample.org/", False),
        ("example.org", "wss://example.org.evil.example/", False),
        ("example.com, example.org", "wss://example.org:81/", True),
        ("EXAMPLE.org", "wss://Example.ORG/", True),
        ("example.org:81", "wss://example.org:81/", True),
        ("example.org:81", "wss://example.org/", False),
        ("example.org:443", "wss://example.org/", True),
        ("*", "wss://example.org/", True),
        ("192.0.2.1", "wss://192.0.2.1/", True),
        ("2001:db8::1", "wss://[2001:db8::1]/", True),
        ("[2001:db8::1]", "wss://[2001:db8::1]/", True),
        ("2001:db8::2", "wss://[2001:db8::1]/", False),
        # Networks.
        ("10.0.0.0/8", "wss://10.1.2.3/", True),
        ("10.0.0.0/8", "wss://11.1.2.3/", False),
        ("10.9.9.9/8", "wss://10.1.2.3/", True),
        ("10.1.2.3/32,", "wss://10.1.2.3:81/", True),
        ("0.0.0.0/0", "wss://10.1.2.3/", True),
        ("0.0.0.0/0", "wss://example.org/", False),
        ("0.0.0.0/0", "wss://[2001:db8::1]/", False),
        ("2001:db8::/32", "wss://[2001:db8::1]/", True),
        ("[2001:DB8::]/32", "wss://[2001:db8::1]/", True),
        ("2001:db9::/32", "wss://[2001:db8::1]/", False),
        ("10.0.0.0/8", "wss://[::ffff:10.1.2.3]/", True),
        ("10.0.0.0/33,nonsense/8,/8,10.0.0.0/", "wss://10.1.2.3/", False),
        # Ports and other spellings.
        ("10.1.2.3:81", "wss://10.1.2.3:81/", True),
        ("10.1.2.3:81", "wss://10.1.2.3/", False),
        ("[2001:db8::1]:81", "wss://[2001:db8::1]:81/", True),
        ("[2001:db8::1]:81", "wss://[2001:db8::1]:82/", False),
        ("2001:DB8:0::1", "wss://[2001:db8::1]/", True),
        ("*:81", "wss://example.org:81/", True),
        ("*:81", "wss://example.org/", False),
        (" example.com  example.org ", "wss://example.org/", True),
        ("example.com,\texample.org", "wss://example.org/", True),
        (".example.org", "wss://example.org/", True),
        (".Example.org:81", "wss://sub.example.org:81/", True),
        ("*.example.org", "wss://sub.example.org/", True),
        ("*.example.org", "wss://badexample.org/", False),
        ("example.org.", "wss://example.org/", True),
        ("bücher.example", "wss://www.xn--bcher-kva.example/", True),
        ("2.3", "wss://10.1.2.3/", False),
        ("org", "wss://example.org/", True),
        (",, ,", "wss://example.org/", False),
        (".", "wss://example.org/", False),
        ("exam ple.org", "wss://example.org/", False),
        ("example.org:x", "wss://example.org/", False),
        ("", "wss://example.org/", False),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
async def test_no_proxy(name: str, no_proxy: str, uri: str, bypassed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://a")
    monkeypatch.setenv(name, no_proxy)
    assert (await find_proxy(parse_uri(uri)) is None) is bypassed


@pytest.mark.parametrize(
    "host, bypassed",
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("[fe80::1%25eth0]", True),
        ("[fe80::1]", False),
        ("notlocalhost", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("[2001:db8::1]", False),
    ],
)
async def test_this_machine(host: str, bypassed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://a")
    assert (await find_proxy(parse_uri(f"wss://{host}/")) is None) is bypassed


@pytest.mark.parametrize("value", ["ftp://a", "http://user:S3CRET@a:b", "http://user:S3:CRET/@"])
async def test_invalid_variables(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", value)
    connecting = trio_ws.connect("wss://example.org/")
    with pytest.raises(InvalidProxy) as caught:
        async with connecting:
            pytest.fail("the connection was opened")
    assert "https_proxy" in caught.value.reason
    assert "S3" not in str(caught.value)


@pytest.mark.parametrize("system", ["darwin", "win32"])
async def test_system_settings(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read in a worker thread, because this may block."""
    threads = []

    async def run_sync(function: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        threads.append(function)
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    settings = {"https": "http://a:3128", "socks": "http://b:1080"}
    monkeypatch.setattr(urllib.request, "getproxies", lambda: urllib.request.getproxies_environment() or settings)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: host.startswith("local"))
    assert name_of(await find_proxy(parse_uri("wss://example.org/"))) == "http://a:3128"
    assert name_of(await find_proxy(parse_uri("ws://example.org/"))) == "socks5h://b:1080"
    assert await find_proxy(parse_uri("ws://local.example/")) is None
    assert len(threads) == 3
    # Empty variables count as unset.
    monkeypatch.setenv("http_proxy", "")
    assert name_of(await find_proxy(parse_uri("wss://example.org/"))) == "http://a:3128"
    assert len(threads) == 4
    # The environment has precedence, and needs no thread.
    monkeypatch.setenv("https_proxy", "http://c:8080")
    assert name_of(await find_proxy(parse_uri("wss://example.org/"))) == "http://c:8080"
    assert await find_proxy(parse_uri("ws://localhost/")) is None
    assert len(threads) == 4


async def test_nothing_is_imported_until_it_is_needed() -> None:
    code = "import sys, trio_ws; assert not {'python_socks', 'urllib.request'} & set(sys.modules)"
    await trio.run_process([sys.executable, "-c", code], cwd=Path(__file__).parent.parent.parent.parent)
