"""picows, with aiofastnet, which it requires and uses by default. It has no compression and sends no pings by default.

Its handlers are called with frames. The echo is the one of its README. For text it uses the method that decodes, so
that its handler has a ``bytes`` or a ``str`` like those of the others.

Set: ``max_frame_size``, because the limit cannot be turned off.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server

from ..clients import Stopwatch, batch_size, batches_on_the_way
from ..job import HOST, MIB, Job
from ..results import percentile
from ..tls import server_context
from ..worker import finish, report

LIMIT = 64 * MIB


def close(transport: WSTransport, frame: WSFrame) -> None:
    """Answer a Close frame."""
    transport.send_close(frame.get_close_code(), frame.get_close_message())
    transport.disconnect()


class Echo(WSListener):
    """Echoes."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            transport.send(WSMsgType.BINARY, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, frame.get_payload_as_utf8_text())
        elif frame.msg_type == WSMsgType.CLOSE:
            close(transport, frame)


class FanOut(WSListener):
    """Sends each message to all connections but the one it came from."""

    def __init__(self, connections: set[WSTransport]) -> None:
        self._connections = connections

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._connections.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            message = frame.get_payload_as_bytes()
            for each in self._connections - {transport}:
                each.send(WSMsgType.BINARY, message)
        elif frame.msg_type == WSMsgType.CLOSE:
            close(transport, frame)


class Client(WSListener):
    """The clients of clients.py, with callbacks."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._message = job.message
        self._type = WSMsgType.TEXT if job.text else WSMsgType.BINARY
        self._size = batch_size(job)
        self._received = -1  # the first message is for comparison
        self._stopwatch = Stopwatch(job)
        self._start = 0.0
        self._warm = time.perf_counter() + job.warm_up
        self._times: list[float] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(self._type, self._message)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        message = frame.get_payload_as_utf8_text() if self._job.text else frame.get_payload_as_bytes()
        if self._received < 0:
            if message != self._message:
                raise ValueError("this is not what was sent")
            self._received = 0
            if self._job.round_trip:
                self._start_round_trip(transport)
            else:
                for _ in range(batches_on_the_way(self._job)):
                    self._send_batch(transport)
        elif self._job.round_trip:
            self._end_round_trip(transport)
        else:
            self._received += 1
            if self._received == self._size:
                self._received = 0
                rate = self._stopwatch.end_of_batch()
                if rate is not None:
                    finish({"rate": rate})
                self._send_batch(transport)

    def _send_batch(self, transport: WSTransport) -> None:
        for _ in range(self._size):
            transport.send(self._type, self._message)

    def _start_round_trip(self, transport: WSTransport) -> None:
        self._start = time.perf_counter()
        transport.send(self._type, self._message)

    def _end_round_trip(self, transport: WSTransport) -> None:
        now = time.perf_counter()
        if now >= self._warm:
            self._times.append(now - self._start)
            if now >= self._warm + self._job.seconds:
                finish({"median": statistics.median(self._times), "p99": percentile(self._times, 99)})
        self._start_round_trip(transport)


async def run_server(job: Job) -> None:
    connections: set[WSTransport] = set()
    server = await ws_create_server(
        lambda request: FanOut(connections) if job.fan_out else Echo(),
        HOST,
        0,
        ssl=server_context(job.certificates),
        max_frame_size=LIMIT,
    )
    report(port=server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def run_client(job: Job) -> None:
    transport, _ = await ws_connect(lambda: Client(job), f"ws://{HOST}:{job.port}/", max_frame_size=LIMIT)
    await transport.wait_disconnected()


def serve(job: Job) -> None:
    asyncio.run(run_server(job))


def client(job: Job) -> None:
    asyncio.run(run_client(job))
