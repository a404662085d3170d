"""What a server listens on: TCP ports, Unix sockets, and sockets that systemd hands over."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TypeAlias

import trio

__all__ = ["open_systemd_listeners", "open_tcp_listeners", "open_unix_listener"]

_Path: TypeAlias = "str | os.PathLike[str]"

#: The first file descriptor that systemd hands over; see sd_listen_fds(3).
_FIRST_FD = 3

_BACKLOG = 0xFFFF


async def open_tcp_listeners(
    port: int, *, host: str | None, backlog: int | None, reuse_port: bool
) -> list[trio.SocketListener]:
    """Return listeners for a TCP port, one for each address of the host.

    Args:
        port: The port; 0 for any that is free.
        host: The name or address to listen on; None for all of this machine.
        backlog: How many connections the operating system holds until they are accepted; None for a good default.
        reuse_port: Whether other processes may listen on the same port, too.

    Raises:
        OSError: if it cannot listen there.
    """
    if not reuse_port:
        return await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError(errno.EOPNOTSUPP, "this system has no SO_REUSEPORT")
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
                sock.listen(min(backlog or _BACKLOG, _BACKLOG))
            except BaseException:  # cancellation too: no socket is left open
                sock.close()
                raise
            listeners.append(trio.SocketListener(sock))
    except BaseException:  # cancellation too: no socket is left open
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def open_unix_listener(path: _Path, backlog: int | None) -> tuple[trio.SocketListener, os.stat_result]:
    """Return a listener for a Unix socket, and what tells its file from any other.

    The file of a server that was killed is replaced; that of one that listens is not.

    Raises:
        OSError: if it cannot listen there.
    """
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        try:
            await sock.bind(os.fspath(path))
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            await sock.bind(os.fspath(path))
        sock.listen(min(backlog or _BACKLOG, _BACKLOG))
        ours = os.stat(path)
    except BaseException:  # cancellation too: no socket is left open
        sock.close()
        raise
    return trio.SocketListener(sock), ours


def _is_stale(path: _Path) -> bool:
    """Whether a file is a socket on which nobody listens."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)  # one that listens accepts at once, or says that its backlog is full
            sock.connect(os.fspath(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def open_systemd_listeners() -> list[trio.SocketListener]:
    """Return the sockets that systemd hands over ("socket activation"), for ``listeners`` of :func:`serve`.

    ::

        await trio_ws.serve(handler, listeners=trio_ws.open_systemd_listeners())

    They are taken out of the environment, so that no other process takes them for its own.

    Returns:
        The listeners, in the order of the unit's file; none if the process was started in another way.

    Raises:
        OSError: if one is no socket that listens for connections.
    """
    count = os.environ.pop("LISTEN_FDS", "0")
    process = os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdigit():
        return []
    listeners = []
    for number in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(number, False)
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(_listening(number))))
    return listeners


def _listening(number: int) -> socket.socket:
    sock = socket.socket(fileno=number)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise OSError(errno.EINVAL, f"the file descriptor {number} is no socket that listens for connections")
    return sock
