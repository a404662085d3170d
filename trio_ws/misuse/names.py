"""Unknown options: ``check_names()``.

The error suggests the option that was probably meant. Many users come from another library, so the tables below contain
the options of websockets, trio-websocket, aiohttp, picows, httpx-ws and websocket-client. They are only read when an
option is unknown.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["check_names"]

#: Our options, each with the names that other libraries use for it.
COUNTERPARTS = {
    "backoff": "reconnect_delays retry_delays",
    "close_timeout": "closing_timeout disconnect_timeout shutdown_timeout",
    "compression": "compress deflate permessage_deflate",
    "cookies": "cookie_jar cookiejar",
    "credentials": "get_headers",
    "headers": "additional_headers extra_headers header http_headers response_headers",
    "host": "address bind hostname interface",
    "hosts": "allowed_hosts",
    "instruments": "instrument observers trace_configs",
    "is_retryable": "process_exception",
    "local_address": "local_addr source_address",
    "max_message_size": "max_msg_size max_message_size_bytes max_payload max_payload_length max_size",
    "max_redirects": "allow_redirects follow_redirects redirects",
    "open_timeout": (
        "connect_timeout connection_timeout conn_timeout handshake_timeout opening_timeout timeout"
        " websocket_handshake_timeout"
    ),
    "path": "unix_path unix_socket",
    "ping_interval": "auto_ping_idle_timeout heartbeat heartbeat_interval keepalive keepalive_ping_interval_seconds",
    "ping_timeout": "auto_ping_reply_timeout keepalive_ping_timeout_seconds pong_timeout",
    "proxy": "http_proxy http_proxy_host proxies proxy_url",
    "reuse_port": "reuseport",
    "ssl": "context ssl_context tls",
    "server_header": "server server_software",
    "subprotocols": "protocols",
    "user_agent": "useragent user_agent_header",
    "write_timeout": "send_timeout",
}

#: Options that take an instance of a class, each with that class and its fields.
FIELDS = {
    "backoff": ("Backoff", "factor initial max_attempts max_elapsed max_retry_after maximum random reset_after"),
    "compression": (
        "Deflate",
        "client_max_window_bits client_no_context_takeover level mem_level min_size server_max_window_bits"
        " server_no_context_takeover",
    ),
    "limits": ("Limits", "connections idle lifetime messages_per_second openings per_address streams"),
}

_LOGGER = "use instruments=[LogConnections()], which logs to the loggers trio_ws.client and trio_ws.server"
_NO_CLASS = "connections are always WebSocket objects; wrap them where you use them"
_NURSERY = "each connection has its own nursery; start the function in the nursery that should contain them"
_PINGS = "pings are always answered; ping_interval and ping_timeout configure the keepalive"
_QUEUE = "receive_buffer limits the queue of received messages, in bytes"
_SEND_QUEUE = "send_buffer limits the queue of messages to send, in bytes"
_RETRY = "attempts() and open_reconnecting() take backoff=Backoff(...) and is_retryable"
_STREAM = "use connect_over(stream, uri)"
_STREAM_TLS = "wrap the stream in a trio.SSLStream instead"
_TLS = "pass an ssl.SSLContext as ssl"

#: Advice for options of other libraries that have no counterpart here.
ADVICE = {
    "autoclose": "Close frames are always answered",
    "autoping": _PINGS,
    "auto_ping_strategy": _PINGS,
    "create_connection": _NO_CLASS,
    "create_protocol": _NO_CLASS,
    "decode_text": "use receive(decode=False)",
    "enable_auto_ping": _PINGS,
    "enable_auto_pong": _PINGS,
    "handler_nursery": _NURSERY,
    "klass": _NO_CLASS,
    "logger": _LOGGER,
    "logger_name": _LOGGER,
    "loop": "trio_ws runs under Trio, which has no event loop objects",
    "max_frame_size": "max_message_size limits the whole message, however many frames it has",
    "max_queue": _QUEUE,
    "message_queue_size": _QUEUE,
    "nursery": _NURSERY,
    "queue_size": _QUEUE,
    "read_limit": _QUEUE,
    "receive_buffer_size": _QUEUE,
    "receive_timeout": "call receive() inside `with trio.fail_after(seconds):`",
    "recv_timeout": "call receive() inside `with trio.fail_after(seconds):`",
    "write_limit": _SEND_QUEUE,
    "writer_limit": _SEND_QUEUE,
}

#: Advice for client functions only.
CLIENT_ADVICE = {
    "auth": "put the user name and password into the URI, or use headers or credentials",
    "backoff": _RETRY,
    "basic_auth": "put the user name and password into the URI, or use headers or credentials",
    "family": "use local_address to choose between IPv4 and IPv6",
    "fingerprint": _TLS,
    "happy_eyeballs_delay": "only connect() has this option",
    "heartbeat_timeout": "use ping_timeout",
    "host": "only connect() has this option",
    "is_retryable": _RETRY,
    "local_address": "only connect() has this option",
    "max_redirects": "redirects are not followed over a given stream",
    "max_retries": _RETRY,
    "on_connect": "only open_reconnecting() has this option",
    "params": "put the query into the URI",
    "password": "put the user name and password into the URI",
    "path": "put it into the URI, or use connect_unix(path) for a Unix socket",
    "port": "only connect() has this option",
    "process_exception": _RETRY,
    "proxy": "only connect() has this option",
    "proxy_auth": "put the user name and password into the URL of the proxy",
    "proxy_headers": "use proxy=Proxy(url, headers=...)",
    "proxy_ssl": "only connect() has this option",
    "reconnect_delays": _RETRY,
    "resource": "put it into the URI",
    "retries": _RETRY,
    "server_hostname": _STREAM_TLS,
    "sock": _STREAM,
    "socket": _STREAM,
    "socket_factory": _STREAM,
    "ssl": _STREAM_TLS,
    "ssl_context": _STREAM_TLS,
    "sslopt": _TLS,
    "stream": _STREAM,
    "trust_env": "environment proxies are used by default; proxy=None turns them off",
    "use_ssl": "use a wss:// URI",
    "username": "put the user name and password into the URI",
    "verify_ssl": _TLS,
}

#: Advice for server functions only.
SERVER_ADVICE = {
    "auth": "use process_request=basic_auth(...)",
    "basic_auth": "use process_request=basic_auth(...)",
    "cors": "use origins",
    "host": "use serve() to listen",
    "limits": "use serve() to listen",
    "listeners": "use serve() to listen",
    "max_connections": "use serve() with limits=Limits(connections=...)",
    "origin": "use origins",
    "path": "use route({path: handler}) as the handler",
    "port": "use serve() to listen",
    "reuse_address": "address reuse is always on",
    "routes": "use route({path: handler}) as the handler",
    "sock": "pass a list of Trio listeners as listeners",
    "sockets": "pass a list of Trio listeners as listeners",
    "ssl": _STREAM_TLS,
    "ssl_context": _STREAM_TLS,
    "start_serving": "serve() starts listening at once; use nursery.start() to wait until it does",
    "user_agent": "use server_header",
}


def check_names(function: Callable[..., object], options: Mapping[str, object], known: Any) -> None:
    """Check that a function knows all the options that it was called with.

    Args:
        function: The function, or the class, that was called.
        options: The ``**options`` that it received.
        known: The :class:`~typing.TypedDict` of its options.

    Raises:
        TypeError: If an option is unknown. The message suggests what to write instead.
    """
    for option in options:
        if option not in known.__optional_keys__:
            hint = _suggest(option, {*_parameters_of(function), *known.__optional_keys__})
            raise TypeError(
                f"{function.__name__}() has no option {option!r}; {hint or f'see trio_ws.{known.__name__}'}"
            )


def _parameters_of(function: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]


def _suggest(option: str, known: Collection[str]) -> str | None:
    """Return a suggestion for an unknown option, or None.

    Args:
        option: The unknown option.
        known: The names of the parameters and options of the function.
    """
    for name, others in COUNTERPARTS.items():
        if name in known and option in others.split():
            return f"did you mean {name!r}?"
    for name, (cls, fields) in FIELDS.items():
        if name in known and option in fields.split():
            return f"use {name}={cls}({option}=...)"
    if "user_agent" in known and option in CLIENT_ADVICE:
        return CLIENT_ADVICE[option]
    if "server_header" in known and option in SERVER_ADVICE:
        return SERVER_ADVICE[option]
    if option in ADVICE:
        return ADVICE[option]

    import difflib  # needed for this error only

    close = difflib.get_close_matches(option, known, n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else None
