"""Connections that were not made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from .base import WebSocketException

if TYPE_CHECKING:
    from ..http11 import Response

__all__ = ["ConnectFailed", "NotConnected", "OpenTimeout", "ProxyFailed", "TLSFailed"]


@attrs.define(slots=False, eq=False)
class ConnectFailed(WebSocketException, OSError):
    """The connection was not made, or was lost before the opening handshake was complete.

    It is also an :exc:`OSError`, and its ``__cause__`` tells more. Trying again may help.

    Attributes:
        peer: What we tried to reach, for messages.
        reason: What happened.
    """

    peer: str
    reason: str

    def __str__(self) -> str:
        return f"cannot connect to {self.peer}: {self.reason}"


class TLSFailed(ConnectFailed):
    """The TLS handshake failed, for example because the certificate is not to be trusted.

    Attributes:
        peer: What we tried to reach, for messages.
        reason: What failed to verify.
    """


@attrs.define(slots=False, eq=False)
class ProxyFailed(ConnectFailed):
    """The proxy cannot be reached, or there is no way through it.

    Attributes:
        peer: What we tried to reach through the proxy, for messages.
        reason: What happened.
        proxy: The proxy, without user name and password.
        response: The whole answer, where there is one: status code, reason phrase, headers and body. Of a body that is
            larger than 1 MiB, or that does not end, it has what came first. What was compressed is decompressed. None
            for a SOCKS proxy.
    """

    proxy: str
    response: Response | None = None

    def __str__(self) -> str:
        return f"cannot connect to {self.peer} through the proxy {self.proxy}: {self.reason}"


@attrs.define(slots=False, eq=False)
class OpenTimeout(WebSocketException, trio.TooSlowError, TimeoutError):
    """The connection was not open after ``open_timeout`` seconds.

    Attributes:
        peer: What we tried to reach, for messages.
        seconds: The time that was allowed.
    """

    peer: str
    seconds: float

    def __str__(self) -> str:
        return f"no open connection with {self.peer} after {self.seconds:g} seconds"


@attrs.define(slots=False, eq=False)
class NotConnected(WebSocketException, trio.BrokenResourceError):
    """There is no connection at the moment, and the message was to be sent at once or not at all.

    Nothing of it was sent. The ``__cause__``, if any, is why the last connection ended, or could not be made. See
    :func:`~trio_ws.open_reconnecting`.

    Attributes:
        reason: What is going on instead.
    """

    reason: str

    def __str__(self) -> str:
        return f"not connected: {self.reason}"
