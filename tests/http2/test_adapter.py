"""A stream of HTTP/2 tells how much of it was not delivered, as a socket does; keepalive relies on it."""

from __future__ import annotations

import trio
import trio.testing

from trio_ws.connection.stream import StreamAdapter
from trio_ws.http2.adapter import HTTP2StreamAdapter
from trio_ws.http2.connection import HTTP2Connection


class CountingTransport(StreamAdapter):
    """A transport whose system reports numbers of undelivered and of unsent bytes, which the test sets."""

    counts = (0, 0)

    def count_undelivered(self) -> tuple[int, int]:
        return self.counts


def open_tunnel(connection: HTTP2Connection) -> HTTP2StreamAdapter:
    stream = connection.open_stream([(b":method", b"CONNECT"), (b":protocol", b"websocket")])
    stream.open_tunnel()
    return HTTP2StreamAdapter(stream)


async def test_the_undelivered_bytes_of_a_stream() -> None:
    transport = CountingTransport(trio.testing.memory_stream_pair()[0])
    # Its tasks do not run, so that the output stays until the test takes it.
    connection = HTTP2Connection(transport, is_client=True, max_streams=2, max_head_size=1000, max_headers=10)
    protocol = connection.protocol
    first, second = open_tunnel(connection), open_tunnel(connection)

    # The output of the connection has not been sent.
    assert first.write_now([bytes(1000)])
    waiting = protocol.measure_output()
    assert waiting > 1009
    assert first.count_undelivered() == (waiting, waiting)

    # Nor has that of the transport.
    protocol.take_output()
    transport.counts = (waiting, 900)
    assert first.count_undelivered() == (waiting, 900)
    transport.counts = (600, 0)
    assert first.count_undelivered() == (600, 0)

    # What another stream sends later, does not count, except for the header of its frame.
    assert second.write_now([bytes(5000)])
    assert first.count_undelivered() == (609, 9)
    assert second.count_undelivered() == (5609, 5009)
    protocol.take_output()
    transport.counts = (3000, 2000)
    assert first.count_undelivered() == (0, 0)
    assert second.count_undelivered() == (3000, 2000)

    # What the windows of the peer hold back has not been sent, either.
    transport.counts = (0, 0)
    assert not first.write_now([bytes(100_000)])
    protocol.take_output()
    held_back = 6000 + 100_000 - 65_535
    assert first.count_undelivered() == (held_back, held_back)
    assert second.count_undelivered() == (0, 0)
