"""Errors for unknown options. They name the function and the option, and say what to write instead."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio.testing

import trio_ws
from trio_ws.misuse import names
from trio_ws.testing import memory_websocket_pair

URI = "ws://example.org/"


async def never(ws: trio_ws.WebSocket) -> None:
    raise AssertionError


def connect_unix(**options: Any) -> object:
    return trio_ws.connect_unix("socket", URI, **options)


def connect_over(**options: Any) -> object:
    return trio_ws.connect_over(trio.testing.memory_stream_pair()[0], URI, **options)


def connect(**options: Any) -> object:
    return trio_ws.connect(URI, **options)


def attempts(**options: Any) -> object:
    return trio_ws.attempts(URI, **options)


def open_reconnecting(**options: Any) -> object:
    return trio_ws.open_reconnecting(URI, **options)


def serve(**options: Any) -> object:
    return trio.run(lambda: trio_ws.serve(never, 0, **options))


def serve_over(**options: Any) -> object:
    return trio.run(lambda: trio_ws.serve_over(trio.testing.memory_stream_pair()[0], never, **options))


def error_of(function: Callable[..., object], option: str) -> str:
    with pytest.raises(TypeError) as caught:
        function(**{option: None})
    beginning = f"{function.__name__}() has no option {option!r}; "
    assert str(caught.value).startswith(beginning)
    return str(caught.value).removeprefix(beginning)


# Options of other libraries that are unknown here or mean something else, as "option:text that the error contains".
# Each of them must lead to a suggestion.
CLIENTS = {
    "websockets": """create_connection create_protocol extra_headers:headers additional_headers:headers
        family klass local_addr:local_address logger loop max_queue:receive_buffer max_size:max_message_size path
        process_exception:is_retryable read_limit:receive_buffer reconnect_delays:backoff sock stream
        timeout:open_timeout user_agent_header:user_agent write_limit:send_buffer""",
    "trio-websocket": """connect_timeout:open_timeout disconnect_timeout:close_timeout extra_headers:headers
        message_queue_size:receive_buffer resource ssl_context:ssl use_ssl:wss:// receive_buffer_size""",
    "aiohttp": """auth:credentials autoclose autoping:answered compress:compression fingerprint:ssl
        heartbeat:ping_interval max_msg_size:max_message_size params protocols:subprotocols proxy_auth
        proxy_headers:headers= receive_timeout:trio.fail_after ssl_context:ssl timeout:open_timeout trust_env
        verify_ssl:ssl""",
    "picows": """enable_auto_ping:ping_interval enable_auto_pong auto_ping_idle_timeout:ping_interval
        auto_ping_reply_timeout:ping_timeout auto_ping_strategy extra_headers:headers logger_name
        max_frame_size:max_message_size socket_factory ssl_context:ssl websocket_handshake_timeout:open_timeout""",
    "httpx-ws": """keepalive_ping_interval_seconds:ping_interval keepalive_ping_timeout_seconds:ping_timeout
        max_message_size_bytes:max_message_size queue_size:receive_buffer""",
    "websocket-client": "cookie:cookies header:headers http_proxy_host:proxy socket sslopt:ssl",
    "misspelled": """cookie:cookies compresion:compression header:headers max_mesage_size:max_message_size
        ping_intervall:ping_interval subprotocol:subprotocols Headers:headers""",
    "of Deflate": "level:compression=Deflate(level=...) min_size:compression=Deflate(min_size=...)",
}
SERVERS = {
    "websockets": """create_connection create_protocol extra_headers:headers klass logger loop
        max_queue:receive_buffer max_size:max_message_size origin:origins read_limit:receive_buffer reuse_address sock
        start_serving unix_path:path write_limit:send_buffer""",
    "trio-websocket": """connect_timeout:open_timeout disconnect_timeout:close_timeout handler_nursery
        message_queue_size:receive_buffer receive_buffer_size ssl_context:ssl""",
    "aiohttp": "autoclose autoping compress:compression heartbeat:ping_interval max_msg_size protocols:subprotocols",
    "others": "auth:basic_auth cors:origins max_connections:Limits(connections=...) routes:route( bind:host",
    "misspelled": "origns:origins reuseport:reuse_port trusted_proxy:trusted_proxies hots:host",
    "of Limits": "per_address:limits=Limits(per_address=...) idle:limits=Limits(idle=...)",
}


@pytest.mark.parametrize("library", CLIENTS)
def test_client_options_of_other_libraries(library: str) -> None:
    for each in CLIENTS[library].split():
        option, _, expected = each.partition(":")
        hint = error_of(connect, option)
        assert expected in hint
        assert "see trio_ws." not in hint


@pytest.mark.parametrize("library", SERVERS)
def test_server_options_of_other_libraries(library: str) -> None:
    for each in SERVERS[library].split():
        option, _, expected = each.partition(":")
        hint = error_of(serve, option)
        assert expected in hint
        assert "see trio_ws." not in hint


@pytest.mark.parametrize(
    "function, option, hint",
    [
        (connect, "extra_headers", "did you mean 'headers'?"),
        (connect, "nonsense", "see trio_ws.ConnectOptions"),
        (connect_unix, "nonsense", "see trio_ws.ConnectUnixOptions"),
        (connect_unix, "host", "only connect() has this option"),
        (connect_over, "port", "only connect() has this option"),
        (connect_unix, "proxy", "only connect() has this option"),
        (connect_over, "nonsense", "see trio_ws.ConnectOverOptions"),
        (connect_over, "ssl_context", "wrap the stream in a trio.SSLStream instead"),
        (connect_over, "max_redirects", "redirects are not followed over a given stream"),
        (attempts, "reconnect_delays", "did you mean 'backoff'?"),
        (attempts, "process_exception", "did you mean 'is_retryable'?"),
        (attempts, "max_attempts", "use backoff=Backoff(max_attempts=...)"),
        (attempts, "on_connect", "only open_reconnecting() has this option"),
        (open_reconnecting, "on_conect", "did you mean 'on_connect'?"),
        (open_reconnecting, "extra_headers", "did you mean 'headers'?"),
        (serve, "nonsense", "see trio_ws.ServeOptions"),
        (serve_over, "port", "use serve() to listen"),
        (serve_over, "ssl", "wrap the stream in a trio.SSLStream instead"),
        (memory_websocket_pair, "nonsense", "see trio_ws.Options"),
        (memory_websocket_pair, "max_size", "did you mean 'max_message_size'?"),
    ],
)
def test_hints(function: Callable[..., object], option: str, hint: str) -> None:
    assert error_of(function, option) == hint


def test_the_tables_know_our_options() -> None:
    options = set(trio_ws.ConnectOptions.__optional_keys__ | trio_ws.ServeOptions.__optional_keys__)
    for function in (trio_ws.attempts, trio_ws.open_reconnecting, trio_ws.serve):
        options |= set(inspect.signature(function).parameters)
    assert set(names.COUNTERPARTS) <= options
    # Advice for one of our own options would never be used.
    assert not set(names.ADVICE) & options
    others = [other for others in names.COUNTERPARTS.values() for other in others.split()]
    assert len(set(others)) == len(others)
    assert not set(others) & options
    advice = {**names.ADVICE, **names.CLIENT_ADVICE, **names.SERVER_ADVICE}.values()
    mentioned = {name for text in advice for name in re.findall(r"\b([a-z]+(?:_[a-z]+)+)\b(?!\()", text)}
    assert mentioned - {"trio_ws"} <= options


@pytest.mark.parametrize("cls", [trio_ws.Backoff, trio_ws.Deflate, trio_ws.Limits])
def test_the_tables_know_the_fields_of_classes(cls: type[Any]) -> None:
    (fields,) = [fields for name, fields in names.FIELDS.values() if name == cls.__name__]
    assert sorted(fields.split()) == sorted(field.name for field in attrs.fields(cls))
