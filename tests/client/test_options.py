"""The options of ``connect`` and its variants: each is typed, and used in exactly one class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio.testing

import trio_ws
from trio_ws.client.dial import Dialer
from trio_ws.client.request import RequestBuilder
from trio_ws.settings import Settings
from trio_ws.testing import memory_websocket_pair

URI = "ws://example.org/"


def names(cls: type[Any]) -> set[str]:
    return {field.name for field in attrs.fields(cls)}


REQUEST = names(Settings) | (names(RequestBuilder) - {"settings"})
OTHERS = {"max_redirects", "http2", "pool"}
DIALING = names(Dialer) - {"first", "path", "user_agent_for_proxy"}


def connect_over(uri: str, **options: Any) -> object:
    return trio_ws.connect_over(trio.testing.memory_stream_pair()[0], uri, **options)


def connect_unix(uri: str, **options: Any) -> object:
    return trio_ws.connect_unix("socket", uri, **options)


def test_every_option_is_used() -> None:
    assert trio_ws.ConnectOverOptions.__optional_keys__ == REQUEST
    tcp = {"host", "port", "happy_eyeballs_delay", "local_address", "proxy", "proxy_ssl"}
    assert trio_ws.ConnectUnixOptions.__optional_keys__ == (REQUEST | DIALING | OTHERS) - tcp
    assert trio_ws.ConnectOptions.__optional_keys__ == REQUEST | DIALING | OTHERS


@pytest.mark.parametrize(
    "function, options",
    [
        (trio_ws.connect, "ConnectOptions"),
        (trio_ws.connect_unix, "ConnectUnixOptions"),
        (trio_ws.connect_over, "ConnectOverOptions"),
        (trio_ws.attempts, "ConnectOptions"),
        (trio_ws.open_reconnecting, "ConnectOptions"),
    ],
)
def test_functions_are_typed(function: Callable[..., object], options: str) -> None:
    parameter = inspect.signature(function).parameters["options"]
    assert parameter.kind is inspect.Parameter.VAR_KEYWORD
    assert parameter.annotation == f"Unpack[{options}]"


@pytest.mark.parametrize(
    "function, name, option",
    [
        (trio_ws.connect, "connect", "nonsense"),
        (connect_unix, "connect_unix", "nonsense"),
        (connect_unix, "connect_unix", "local_address"),
        (connect_over, "connect_over", "nonsense"),
        (connect_over, "connect_over", "ssl"),
        (connect_over, "connect_over", "settings"),
        (trio_ws.connect, "connect", "path"),
        (trio_ws.attempts, "attempts", "nonsense"),
        (trio_ws.open_reconnecting, "open_reconnecting", "nonsense"),
        (lambda _, **options: memory_websocket_pair(**options), "memory_websocket_pair", "headers"),
    ],
)
def test_unknown_options(function: Callable[..., object], name: str, option: str) -> None:
    with pytest.raises(TypeError) as caught:
        function(URI, **{option: None})
    assert str(caught.value).startswith(f"{name}() has no option {option!r}; ")
