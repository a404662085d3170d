"""Failed attempts to connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from .base import WebSocketException

if TYPE_CHECKING:
    from ..http11 import Response

__all__ = ["ConnectFailed", "NotConnected", "OpenTimeout", "ProxyFailed", "TLSFailed"]


@attrs.define(slots=False, eq=False, repr=False)
class ConnectFailed(WebSocketException, OSError):
    """Connecting failed, or the connection was lost before the opening handshake was complete.

    This is an :exc:`OSError`, and its ``__cause__`` has the details. A later attempt may succeed.

    Attributes:
        peer: The address, as messages show it.
        reason: What happened.
    """

    peer: str
    reason: str

    def __str__(self) -> str:
        return f"cannot connect to {self.peer}: {self.reason}"


class TLSFailed(ConnectFailed):
    """The TLS handshake failed, for example because the certificate is not trusted.

    Attributes:
        peer: The address, as messages show it.
        reason: What happened.
    """


@attrs.define(slots=False, eq=False, repr=False)
class ProxyFailed(ConnectFailed):
    """The proxy cannot be reached, or did not open a tunnel.

    Attributes:
        peer: The address behind the proxy, as messages show it.
        reason: What happened.
        proxy: The proxy, without user name and password.
        response: The proxy's response, if any, with its body decompressed. A body that is larger than 1 MiB, or that
            did not end, is truncated. None for a SOCKS proxy.
    """

    proxy: str
    response: Response | None = None

    def __str__(self) -> str:
        return f"cannot connect to {self.peer} through the proxy {self.proxy}: {self.reason}"


@attrs.define(slots=False, eq=False, repr=False)
class OpenTimeout(WebSocketException, trio.TooSlowError, TimeoutError):
    """The connection was not open after ``open_timeout`` seconds.

    Attributes:
        peer: The address, as messages show it.
        seconds: The timeout.
    """

    peer: str
    seconds: float

    def __str__(self) -> str:
        return f"connecting to {self.peer} took longer than {self.seconds:g} seconds"


@attrs.define(slots=False, eq=False, repr=False)
class NotConnected(WebSocketException, trio.BrokenResourceError):
    """The message was not sent because there is no connection at the moment.

    The ``__cause__``, if any, is the reason why the last connection ended or the last attempt failed. See
    :func:`~trio_ws.open_reconnecting`.

    Attributes:
        reason: The current state, such as a running attempt or the wait before the next one.
    """

    reason: str

    def __str__(self) -> str:
        return f"not connected: {self.reason}"
