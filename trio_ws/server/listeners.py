"""Listeners for TCP ports, Unix sockets, and sockets passed by systemd; and accepting from any listener."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from ..uri import bracket_ipv6

__all__ = ["accept_from", "is_abstract", "open_systemd_listeners", "open_tcp_listeners", "open_unix_listener"]

_Path: TypeAlias = "str | os.PathLike[str]"

#: The first file descriptor that systemd passes; see sd_listen_fds(3).
_FIRST_FD = 3

_BACKLOG = 0xFFFF

#: Errors of ``accept()`` that mean the system is out of resources, and the seconds to wait before trying again.
_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPT_DELAY = 0.1

#: Seconds between two log lines about that.
LOG_INTERVAL = 1.0

#: Errors of ``accept()`` that only concern the connection that was to be accepted. Its client has left already, or the
#: network or a firewall has dropped it (see accept(2) of Linux).
_DROPPED = frozenset(
    getattr(errno, name)
    for name in ("ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENONET")
    if hasattr(errno, name)
)

logger: logging.Logger = logging.getLogger("trio_ws.server")


async def accept_from(
    listener: trio.abc.Listener[trio.abc.Stream],
    serve_connection: Callable[[trio.abc.Stream], Awaitable[object]],
    nursery: trio.Nursery,
) -> None:
    """Accept connections until cancelled, then close the listener.

    :func:`trio.serve_listeners` would also close each stream again when its task ends, in a cancelled scope. That costs
    as much time as the whole opening handshake, and our streams are closed already.

    Args:
        listener: The listener.
        serve_connection: An async function that is called for each connection, in a task of its own.
        nursery: The nursery for these tasks.

    Raises:
        OSError: If the listener fails.
    """
    next_log = -math.inf
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as exc:
                if exc.errno in _DROPPED:
                    await trio.lowlevel.checkpoint()
                    continue
                if exc.errno not in _OVERLOADED:
                    raise
                if trio.current_time() >= next_log:
                    next_log = trio.current_time() + LOG_INTERVAL
                    logger.error("cannot accept connections, trying every %g seconds: %s", ACCEPT_DELAY, exc)
                await trio.sleep(ACCEPT_DELAY)
            else:
                nursery.start_soon(serve_connection, stream)


async def open_tcp_listeners(
    port: int, *, host: str | None, backlog: int | None, reuse_port: bool
) -> list[trio.SocketListener]:
    """Return listeners for a TCP port, one for each address of the host.

    Args:
        port: The port; 0 for any free port.
        host: The host name or address to listen on; None for all addresses of this machine.
        backlog: How many connections the operating system queues until they are accepted; None for the largest
            possible backlog.
        reuse_port: Whether other processes may listen on the same port (``SO_REUSEPORT``).

    Raises:
        OSError: If listening fails, or if the system does not support ``reuse_port``. It has the type and the errno of
            the system's error, and names the host and the port.
        ValueError: If ``host`` cannot be a host name.
    """
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise OSError(errno.EOPNOTSUPP, "reuse_port must be False on this system: it has no SO_REUSEPORT")
    try:
        if reuse_port:
            return await _open_shared_tcp_listeners(port, host, backlog)
        return await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    except OSError as exc:
        message = f"cannot listen on {_show_address(host, port)}: {exc.strerror or exc}"
        raise type(exc)(exc.errno, message) from exc
    except UnicodeError as exc:
        raise ValueError(f"host must be a host name or an address, not {host!r}") from exc


async def _open_shared_tcp_listeners(port: int, host: str | None, backlog: int | None) -> list[trio.SocketListener]:
    """Return listeners like :func:`trio.open_tcp_listeners`, but with ``SO_REUSEPORT``."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[trio.SocketListener] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = trio.socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await sock.bind(address)
                sock.listen(_BACKLOG if backlog is None else min(backlog, _BACKLOG))
            except BaseException:  # also when cancelled: leave no socket open
                sock.close()
                raise
            listeners.append(trio.SocketListener(sock))
    except BaseException:  # also when cancelled: leave no socket open
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def _show_address(host: str | None, port: int) -> str:
    return f"port {port}" if host is None else f"{bracket_ipv6(host)}:{port}"


def is_abstract(path: _Path) -> bool:
    """Whether a path is the name of an abstract Unix socket, which has no file."""
    return os.fsdecode(path).startswith("\0")


async def open_unix_listener(
    path: _Path, backlog: int | None, mode: int | None = None
) -> tuple[trio.SocketListener, os.stat_result | None]:
    """Return a listener for a Unix socket, and the ``stat`` of the socket's file, to recognize that file later.

    A file that a killed server has left behind is replaced, but not that of a server that is listening.

    Args:
        path: The path of the file. The name of an abstract socket, which has no file, begins with a NUL.
        backlog: How many connections the operating system queues; None for the largest possible backlog.
        mode: The permissions of the file; None to let the umask decide. Nobody can connect before they are set, because
            a socket refuses connections until it listens.

    Raises:
        OSError: If listening fails. Its ``filename`` is the path.
    """
    name = os.fsdecode(path)
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EOPNOTSUPP, "path must be None on this system: it has no Unix sockets")
    if is_abstract(name) and sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "path must be the path of a file: this system has no abstract Unix sockets")
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        if mode is not None:
            with contextlib.suppress(OSError):  # where it works, the file never has wider permissions
                os.fchmod(sock.fileno(), mode)
        try:
            await sock.bind(name)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or is_abstract(name):
                raise
            if not _is_socket(name):
                raise OSError(exc.errno, "the path is taken by a file that is not a socket", name) from exc
            if not _is_stale(name):
                raise
            os.unlink(name)
            await sock.bind(name)
        if mode is not None:
            os.chmod(name, mode)  # the umask may have removed some
        sock.listen(_BACKLOG if backlog is None else min(backlog, _BACKLOG))
        file_stat = None if is_abstract(name) else os.stat(name)
    except OSError as exc:
        sock.close()
        if exc.filename is not None:
            raise
        # Only the error for a path that is too long, which is Python's own, has no errno.
        raise type(exc)(exc.errno or errno.ENAMETOOLONG, exc.strerror or str(exc), name) from exc
    except BaseException:  # also when cancelled: leave no socket open
        sock.close()
        raise
    return trio.SocketListener(sock), file_stat


def _is_socket(path: str) -> bool:
    """Whether a path leads to a socket. True also if there is no file any more, or it cannot be examined."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True


def _is_stale(path: str) -> bool:
    """Whether a socket's file has no process that listens on it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)  # a listening socket accepts at once, or its backlog is full
            sock.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def open_systemd_listeners() -> list[trio.SocketListener]:
    """Return listeners for the sockets that systemd passes to this process ("socket activation").

    They are for the ``listeners`` of :func:`serve`.

    ::

        await trio_ws.serve(handler, listeners=trio_ws.open_systemd_listeners())

    The environment variables that describe the sockets (``LISTEN_FDS`` and others) are removed, so that child processes
    do not claim them. A second call returns no listeners.

    Returns:
        The listeners, in the order of the unit file; an empty list if systemd passed no sockets to this process.

    Raises:
        OSError: If a file descriptor is not a listening stream socket.
    """
    count = os.environ.pop("LISTEN_FDS", "0")
    process = os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdigit():
        return []
    listeners = []
    for number in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(number, False)
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(_to_listening_socket(number))))
    return listeners


def _to_listening_socket(number: int) -> socket.socket:
    sock = socket.socket(fileno=number)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise OSError(errno.EINVAL, f"file descriptor {number} must be a listening stream socket")
    return sock
