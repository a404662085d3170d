"""HTTP/2: the frames of a client or a server, whole input against chunks of it.

The first two bytes are options: which end is tested, and the size of the chunks. The rest is received after the preface
and the SETTINGS frame of the peer, which are valid. Each request for a WebSocket, and each response that accepts one,
opens a tunnel, whose bytes are taken at once.
"""

from __future__ import annotations

from typing import Any

from tests.fuzz.harness import chunks, instrument, main, outcome

with instrument():
    import h2.events

    from trio_ws.exceptions import InvalidHandshake
    from trio_ws.http2.frames import DataEvent, FrameType, ProtocolFailed, frame_header
    from trio_ws.http2.headers import to_request, to_response
    from trio_ws.http2.negotiation import PREFACE
    from trio_ws.http2.protocol import HTTP2Protocol
    from trio_ws.http2.tunnels import Tunnel

LIMITS = {"max_head_size": 1000, "max_headers": 5}

#: The request of a client that is tested.
REQUEST = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":path", b"/"),
    (b":authority", b"example.org"),
]


class End:
    """One end of a connection.

    Attributes:
        events: What it has received.
    """

    def __init__(self, *, is_client: bool) -> None:
        self.events: list[Any] = []
        self._protocol = HTTP2Protocol(
            is_client=is_client, max_streams=3, window=2**15, max_header_list=1_000, clock=lambda: 0.0
        )
        self._tunnels: dict[int, Tunnel] = {}
        if is_client:
            for stream_id in (1, 3):
                self._protocol.h2.send_headers(stream_id, REQUEST)
            self.receive(frame_header(0, FrameType.SETTINGS, 0, 0))
        else:
            self.receive(PREFACE + frame_header(0, FrameType.SETTINGS, 0, 0))

    def receive(self, data: bytes) -> bool:
        """Receive bytes. Return whether the connection goes on."""
        self._protocol.feed(data)
        try:
            while True:
                for event in self._protocol.step():
                    self._dispatch(event)
                if not self._protocol.has_more:
                    return True
                if self._protocol.needs_pause:
                    self._protocol.pause()
        except ProtocolFailed as exc:
            self.events.append(str(exc))
            return False

    def take_output(self) -> bytes:
        """Return what it has to send."""
        return b"".join(self._protocol.take_output())

    def _dispatch(self, event: Any) -> None:
        stream_id = getattr(event, "stream_id", 0)
        self.events.append((type(event).__name__, stream_id))
        if isinstance(event, h2.events.RequestReceived):
            request = outcome(lambda: to_request(event.headers, **LIMITS), InvalidHandshake)
            self.events.append(request)
            if getattr(request, "protocol", None) is not None and event.stream_ended is None:
                self._tunnels[stream_id] = self._protocol.open_tunnel(stream_id)
        elif isinstance(event, h2.events.ResponseReceived):
            response = outcome(lambda: to_response(event.headers, **LIMITS), InvalidHandshake)
            self.events.append(response)
            if getattr(response, "status_code", None) == 200 and event.stream_ended is None:
                self._tunnels[stream_id] = self._protocol.open_tunnel(stream_id)
        elif isinstance(event, DataEvent):
            self.events.append(event.data)
            self._protocol.take(self._tunnels[stream_id], len(event.data))
        elif isinstance(event, h2.events.DataReceived):
            self.events.append(event.data)


def TestOneInput(data: bytes) -> None:
    if len(data) < 2:
        return
    is_client, size, data = bool(data[0] & 1), data[1], data[2:]
    whole = run(chunks(data, 0), is_client)
    assert run(chunks(data, size), is_client) == whole
    assert run(chunks(data, 1), is_client) == whole


def run(pieces: list[bytes], is_client: bool) -> tuple[list[Any], bytes]:
    """Return what an end has received, and what it has to send."""
    end = End(is_client=is_client)
    for piece in pieces:
        if not end.receive(piece):
            break
    return end.events, end.take_output()


if __name__ == "__main__":
    main(TestOneInput)
