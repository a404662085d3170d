"""The flow control of received data that carries WebSockets: ``Tunnels``.

Both windows of the peer, that of the stream and that of the connection, grow when the application's side has taken
bytes (RFC 9113, section 5.2). A WINDOW_UPDATE frame is sent when half of the window of a stream has been taken, from
that stream or from the connection. So what was taken and not given back yet is less than the window of one stream.
"""

from __future__ import annotations

import attrs

from .frames import FrameType, frame_header

__all__ = ["Tunnel", "Tunnels"]


@attrs.define(eq=False)
class Tunnel:
    """A stream whose DATA frames carry a WebSocket.

    Attributes:
        stream_id: The number of the stream.
        window: The number of bytes that the peer may still send.
        taken: Bytes that were taken since the last WINDOW_UPDATE.
        ended: Whether the peer has ended its direction.
    """

    stream_id: int
    window: int
    taken: int = 0
    ended: bool = False


class Tunnels:
    """The tunnels of a connection. Methods that take bytes return the frames to send, if any.

    Args:
        window: The window of each stream, in bytes.
    """

    __slots__ = ("_taken", "_tunnels", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._tunnels: dict[int, Tunnel] = {}
        # Bytes that were taken since the last WINDOW_UPDATE for the connection.
        self._taken = 0

    def get(self, stream_id: int) -> Tunnel | None:
        """Return the tunnel of a stream; None if the stream is none."""
        return self._tunnels.get(stream_id)

    def open(self, stream_id: int) -> Tunnel:
        """Make a stream a tunnel."""
        tunnel = self._tunnels[stream_id] = Tunnel(stream_id, self._window)
        return tunnel

    def close(self, tunnel: Tunnel, unread: int) -> bytes:
        """Forget a tunnel, and take the received bytes that nobody will read any more."""
        if self._tunnels.pop(tunnel.stream_id, None) is None:
            return b""
        return self.take_from_connection(unread)

    def take(self, tunnel: Tunnel, size: int) -> bytes:
        """Take bytes that a tunnel has received."""
        update = b""
        tunnel.taken += size
        if tunnel.taken * 2 >= self._window and not tunnel.ended:
            update = _window_update(tunnel.stream_id, tunnel.taken)
            tunnel.window += tunnel.taken
            tunnel.taken = 0
        return update + self.take_from_connection(size)

    def take_from_connection(self, size: int) -> bytes:
        """Take bytes that count for the window of the connection only."""
        self._taken += size
        if self._taken * 2 < self._window:
            return b""
        taken, self._taken = self._taken, 0
        return _window_update(0, taken)


def _window_update(stream_id: int, size: int) -> bytes:
    return frame_header(4, FrameType.WINDOW_UPDATE, 0, stream_id) + size.to_bytes(4, "big")
