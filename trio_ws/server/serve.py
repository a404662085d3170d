"""Serving connections: ``serve`` and ``serve_over``."""

from __future__ import annotations

import contextlib
import os
import ssl as ssl_module
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import trio

from ..settings import Settings, check_names, pick
from .accept import Acceptor
from .forwarded.trust import Forwarding
from .limits import Limits
from .listeners import open_tcp_listeners, open_unix_listener
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
    listeners: _Listeners | None = None,
    ssl: ssl_module.SSLContext | None = None,
    backlog: int | None = None,
    reuse_port: bool = False,
    limits: Limits = _LIMITS,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServeOptions],
) -> None:
    """Serve WebSocket connections, until cancelled or until :meth:`Server.aclose` has done its work.

    ::

        await trio_ws.serve(echo, 8765, host="localhost")

        server = await nursery.start(partial(trio_ws.serve, echo, 0))   # to go on when it listens

    Each connection has a task of its own, which calls the handler. When the handler returns, its connection is closed
    with 1000. When it raises, the exception is logged and the connection closed with 1011; the others live on. When
    ``serve`` is cancelled, each connection is sent a Close frame with 1001 if that takes no waiting, and cut.

    Args:
        handler: An async function that takes a :class:`ServerWebSocket`; or a :func:`route`, which finds one by the
            path.
        port: The TCP port to listen on; 0 for any that is free.
        host: The name or address to listen on; None for all of this machine.
        path: A Unix socket to listen on instead. What a server has left there that was killed is replaced.
        listeners: Trio listeners to accept from instead; they are closed at the end.
        ssl: How to do TLS; None for plain connections. A certificate that is loaded into the context later
            (``load_cert_chain``) is used for the connections that come then.
        backlog: How many connections the operating system holds until they are accepted; None for a good default.
        reuse_port: Whether other processes may listen on the same port, among which the system then divides the
            connections.
        limits: How much the server takes on.
        task_status: Trio's; ``started`` is called with the :class:`Server` as soon as it listens.
        **options: See :class:`ServeOptions`.

    Raises:
        OSError: if it cannot listen there.
        TypeError: if not exactly one of ``port``, ``path`` and ``listeners`` is given, or an option is of the wrong
            type or does not exist.
        ValueError: if an option is out of range, or ``ssl`` is not a context for servers.
    """
    if sum(each is not None for each in (port, path, listeners)) != 1:
        raise TypeError("exactly one of port, path and listeners says where to listen")
    if host is not None and port is None:
        raise TypeError("host goes with port")
    if reuse_port and port is None:
        raise TypeError("reuse_port goes with port")
    if not isinstance(limits, Limits):
        raise TypeError(f"limits are Limits, not {limits!r}")
    if listeners is not None and not listeners:
        raise ValueError("there is nothing to listen on: listeners is empty")
    settings, policy = _parse("serve", options)
    ours = None
    if ssl is not None:
        _check_tls(ssl)
    if port is not None:
        listeners = await open_tcp_listeners(port, host=host, backlog=backlog, reuse_port=reuse_port)
    elif path is not None:
        listener, ours = await open_unix_listener(path, backlog)
        listeners = [listener]
    assert listeners is not None
    acceptor = Acceptor(listeners, handler, settings, ssl, policy, limits)
    try:
        await acceptor.run(task_status)
    finally:
        if path is not None and ours is not None:
            # Somebody may have removed it, or have put another socket in its place to take over from us.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path), ours):
                    os.unlink(path)


async def serve_over(stream: trio.abc.Stream, handler: Handler, **options: Unpack[ServeOptions]) -> None:
    """Serve one WebSocket connection over any Trio stream; return when it is over.

    What :func:`serve` says about handlers applies. The stream is closed at the end.

    Args:
        stream: The stream. From now on it belongs to the connection.
        handler: An async function that takes a :class:`ServerWebSocket`; or a :func:`route`, which finds one by the
            path.
        **options: See :class:`ServeOptions`.

    Raises:
        TypeError: if an option is of the wrong type or does not exist.
        ValueError: if an option is out of range.
    """
    settings, policy = _parse("serve_over", options)
    await Acceptor([], handler, settings, None, policy, _LIMITS).serve_connection(stream)


def _parse(function: str, options: ServeOptions) -> tuple[Settings, HandshakePolicy]:
    check_names(function, options, ServeOptions)
    settings = Settings(**pick(options, Settings))
    forwarding = Forwarding(**pick(options, Forwarding))
    return settings, HandshakePolicy(forwarding=forwarding, **pick(options, HandshakePolicy))


def _check_tls(context: ssl_module.SSLContext) -> None:
    """Raise now what would otherwise be raised when the first client comes."""
    try:
        context.wrap_bio(ssl_module.MemoryBIO(), ssl_module.MemoryBIO(), server_side=True)
    except ssl_module.SSLError as exc:
        raise ValueError("ssl is not a context for servers") from exc
