"""A stream of HTTP/2 tells how much of it was not delivered, as a socket does; keepalive relies on it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_ws.connection.core import Connection
from trio_ws.connection.stream import StreamAdapter
from trio_ws.http2.adapter import HTTP2StreamAdapter
from trio_ws.http2.connection import HTTP2Connection
from trio_ws.protocol import Role
from trio_ws.settings import Settings


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


@pytest.mark.parametrize("held_by", ["the connection", "nobody delivers", "the window of the stream"])
async def test_keepalive_of_a_stream_behind_another_one(held_by: str, mock_clock: trio.testing.MockClock) -> None:
    """A ping that must wait is no reason to take the peer for dead, as long as it takes what comes first."""
    transport = CountingTransport(trio.testing.memory_stream_pair()[0])
    connection = HTTP2Connection(transport, is_client=True, max_streams=2, max_head_size=1000, max_headers=10)
    first, second = open_tunnel(connection), open_tunnel(connection)
    settings = Settings(ping_interval=2, ping_timeout=2, write_timeout=10, compression=None)
    ws = Connection(Role.CLIENT, second, settings)
    # The first stream has used all of the window of the connection.
    assert not first.write_now([bytes(100_000)])
    if held_by == "the window of the stream":
        connection.protocol.h2.outbound_flow_control_window += 2**20
        connection.protocol.h2.streams[3].outbound_flow_control_window = 0
    transport.bytes_written = 65_535
    connection.protocol.take_output()
    failures = []
    for second_passed in range(30):
        if held_by == "nobody delivers":
            transport.counts = (65_535, 65_535)
        else:
            transport.counts = (65_535 - 100 * second_passed, 0)
        failure = ws.keepalive.check()
        if failure is not None:
            failures.append((second_passed, str(failure)))
            break
        if second_passed == 2:
            assert not second.write_now([b"\x89\x80" + bytes(4)])
        mock_clock.jump(1)
    if held_by == "the connection":
        assert not failures
    else:
        # Until the ping, what the connection has delivered may have been delivered for it.
        assert [second_passed for second_passed, _ in failures] == [4 if held_by == "nobody delivers" else 6]
        assert "no sign of life" in failures[0][1]
