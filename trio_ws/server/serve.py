"""The entry points of the server: ``serve`` and ``serve_over``."""

from __future__ import annotations

import contextlib
import os
import ssl as ssl_module
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import trio

from ..http2.negotiation import PRIOR_KNOWLEDGE, HTTP2Option, check_http2, offer
from ..misuse.names import check_names
from ..misuse.usage import check_async_function, check_in_trio
from ..misuse.values import check_instance, check_int, check_path, check_stream, to_tuple
from ..protocol.supported import server_extensions
from ..settings import Settings, pick
from .accept import Acceptor
from .forwarded.trust import Forwarding
from .limits import Limits
from .listeners import is_abstract, open_tcp_listeners, open_unix_listener
from .options import ServeOptions
from .policy import HandshakePolicy
from .server import Handler, Server

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["serve", "serve_over"]

_LIMITS = Limits()

_Listeners: TypeAlias = "Sequence[trio.abc.Listener[trio.abc.Stream]]"
_Path: TypeAlias = "str | os.PathLike[str]"


async def serve(
    handler: Handler,
    port: int | None = None,
    *,
    host: str | None = None,
    path: _Path | None = None,
    mode: int | None = None,
    listeners: _Listeners | None = None,
    ssl: ssl_module.SSLContext | None = None,
    http2: HTTP2Option = False,
    backlog: int | None = None,
    reuse_port: bool = False,
    limits: Limits = _LIMITS,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None:
    """Serve WebSocket connections until cancelled, or ended with :meth:`Server.aclose` or :meth:`Server.drain`.

    ::

        await trio_ws.serve(echo, 8765, host="localhost")

        server = await nursery.start(partial(trio_ws.serve, echo, 0))   # returns once it is listening

    Each connection runs in its own task, which calls the handler. When the handler returns, the connection is closed
    with 1000. When the handler raises an exception, it is logged and the connection is closed with 1011; the server and
    the other connections continue. When ``serve`` is cancelled, each connection is sent a Close frame with 1001 if that
    can be done without waiting, and then dropped. Use :meth:`Server.aclose` for a graceful shutdown, and
    :meth:`Server.drain` to let the connections go on until they end by themselves.

    Args:
        handler: An async function that takes a :class:`ServerWebSocket`, or a router from :func:`route`.
        port: The TCP port to listen on; 0 for any free port.
        host: The host name or address to listen on; None for all addresses of this machine.
        path: The path of a Unix socket to listen on, instead of ``port``. A file that a killed server has left behind
            is replaced. On Linux, a path that begins with a NUL is the name of an abstract socket, which has no file.
        mode: The permissions of the file at ``path``, such as ``0o660``: a client must be allowed to write to it. None
            to let the umask decide.
        listeners: Trio listeners to accept connections from, instead of ``port``. They are closed at the end.
        ssl: The TLS context; None for plain connections. A certificate that is loaded into the context later (with
            ``load_cert_chain``) applies to connections from then on.
        http2: True to serve HTTP/2 and HTTP/1.1 on the same TLS port (RFC 8441); the client chooses. This sets the ALPN
            protocols of the context, so a server without ``http2`` must not share it. ``"prior-knowledge"`` to serve
            both without TLS, for a proxy that speaks HTTP/2. It requires h2 (``pip install trio-ws[http2]``).
        backlog: How many connections the operating system queues until they are accepted; None for as many as
            possible. Not with ``listeners``, which listen already.
        reuse_port: Whether other processes may listen on the same port (``SO_REUSEPORT``). The operating system then
            distributes the connections among them.
        limits: The limits of the server.
        task_status: Used by ``nursery.start``, which returns the :class:`Server` once it is listening.
        **options: See :class:`ServeOptions`.

    Raises:
        OSError: If listening fails. It has the type and the errno of the system's error. It names the host and the
            port, or its ``filename`` is the path.
        TypeError: If not exactly one of ``port``, ``path`` and ``listeners`` is given, if another argument has no
            meaning together with it, or if an option is unknown or of the wrong type.
        ValueError: If an option is out of range, ``host`` cannot be a host name, ``path`` is empty, or ``ssl`` is not a
            server-side context; if ``http2`` is True without TLS, or ``"prior-knowledge"`` with it.
        ImportError: If ``http2`` is given and h2 is not installed.
    """
    check_in_trio("serve()")
    check_async_function("handler", handler)
    if sum(each is not None for each in (port, path, listeners)) != 1:
        raise TypeError("exactly one of port, path and listeners must be given")
    if host is not None and port is None:
        raise TypeError("host must be given together with port")
    if reuse_port and port is None:
        raise TypeError("reuse_port must be given together with port")
    if listeners is not None:
        listeners = _check_listeners(listeners, ssl, backlog)
    if backlog is not None:
        check_int("backlog", backlog, 1)
    if mode is not None:
        check_int("mode", mode, 0, 0o777)
    if mode is not None and (path is None or is_abstract(path)):
        raise TypeError("mode must be given together with the path of a file")
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits, not {limits!r}")
    _check_address(port, host, path)
    check_instance("reuse_port", reuse_port, bool, "a bool")
    settings, policy = _parse(serve, options)
    file_stat = None
    if ssl is not None:
        _check_tls(ssl)
    _check_http2(http2, ssl, listeners)
    if ssl is not None and http2:
        offer(ssl)
    if port is not None:
        listeners = await open_tcp_listeners(port, host=host, backlog=backlog, reuse_port=reuse_port)
    elif path is not None:
        listener, file_stat = await open_unix_listener(path, backlog, mode)
        listeners = [listener]
    assert listeners is not None
    acceptor = Acceptor(listeners, handler, settings, ssl, policy, limits, http2)
    try:
        await acceptor.run(task_status)
    finally:
        if path is not None and file_stat is not None:
            # The file may have been removed, or replaced by the socket of a server that takes over from this one.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path), file_stat):
                    os.unlink(path)


async def serve_over(stream: trio.abc.Stream, handler: Handler, **options: Unpack[ServeOptions]) -> None:
    """Serve one WebSocket connection over a Trio stream. Return when the connection has ended.

    The handler is run as by :func:`serve`. The stream is closed at the end.

    Args:
        stream: The stream. The connection takes ownership of it.
        handler: An async function that takes a :class:`ServerWebSocket`, or a router from :func:`route`.
        **options: See :class:`ServeOptions`.

    Raises:
        TypeError: If an option is unknown or of the wrong type.
        ValueError: If an option is out of range.
    """
    check_in_trio("serve_over()")
    check_stream("stream", stream)
    check_async_function("handler", handler)
    settings, policy = _parse(serve_over, options)
    await Acceptor([], handler, settings, None, policy, _LIMITS).serve_connection(stream)


def _parse(function: Callable[..., object], options: ServeOptions) -> tuple[Settings, HandshakePolicy]:
    check_names(function, options, ServeOptions)
    settings = Settings(**pick(options, Settings))
    forwarding = Forwarding(**pick(options, Forwarding))
    policy = HandshakePolicy(forwarding=forwarding, **pick(options, HandshakePolicy))
    server_extensions(policy.extensions, settings.compression)  # raise now, not for each client
    return settings, policy


def _check_address(port: object, host: object, path: object) -> None:
    """Check the types and the ranges of the address parameters."""
    if port is not None:
        if isinstance(port, str) and not port.isdigit():  # in other libraries, the host comes first
            raise TypeError(f"port must be an int, not {port!r}; a host must be given as host={port!r}")
        check_int("port", port, 0, 0xFFFF)
        check_instance("host", host, (str, type(None)), "a str or None")
    if path is not None:
        check_path("path", path)
        if path in ("", b""):
            raise ValueError("path must not be empty")


def _check_listeners(
    listeners: _Listeners, ssl: ssl_module.SSLContext | None, backlog: int | None
) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
    validated = to_tuple("listeners", listeners, "an iterable of Trio listeners")
    if not validated:
        raise ValueError("listeners must not be empty")
    for listener in validated:
        if not hasattr(listener, "accept"):
            raise TypeError(f"each of listeners must be a Trio listener, not {listener!r}")
        if ssl is not None and isinstance(listener, trio.SSLListener):
            raise TypeError("ssl must not be given together with a trio.SSLListener, which does TLS already")
    if backlog is not None:
        raise TypeError("backlog must be given together with port or path: listeners listen already")
    return validated


def _check_http2(http2: HTTP2Option, context: ssl_module.SSLContext | None, listeners: _Listeners | None) -> None:
    check_http2(http2)
    has_tls = context is not None or any(isinstance(each, trio.SSLListener) for each in listeners or ())
    if http2 is True and not has_tls:
        raise ValueError(f"http2 must be {PRIOR_KNOWLEDGE!r} without TLS, not True")
    if http2 == PRIOR_KNOWLEDGE and has_tls:
        raise ValueError(f"http2 must be True with TLS, not {PRIOR_KNOWLEDGE!r}")


def _check_tls(context: ssl_module.SSLContext) -> None:
    """Raise now if the context would fail for every client."""
    check_instance("ssl", context, ssl_module.SSLContext, "an ssl.SSLContext or None")
    try:
        context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_side=True)
    except ssl_module.SSLError as exc:
        raise ValueError(
            "ssl must be a server-side context, such as ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        ) from exc
