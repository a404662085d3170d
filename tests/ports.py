"""Ports for programs that cannot be told to take any free port, and report which."""

from __future__ import annotations

import secrets
import socket

__all__ = ["free_port"]

#: Below the range from which systems take the ports of outgoing connections, and those of programs that ask for any
#: port. So a port from here stays free until it is used, however many tests run at the same time.
_MINIMUM, _MAXIMUM = 10_000, 32_000


def free_port(maximum: int = _MAXIMUM) -> int:
    """Return a port of this machine on which nobody listens.

    Args:
        maximum: The highest port to return.
    """
    while True:
        port = secrets.choice(range(_MINIMUM, maximum + 1))  # `random` may have the same seed in another process
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
