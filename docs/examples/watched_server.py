"""An echo server with logging, and with metrics on the same port.

It needs ``pip install trio-ws[prometheus]``. Run it with ``python watched_server.py``,
connect with ``trio-ws connect ws://localhost:8765``, and open
http://localhost:8765/metrics. With ``-v`` it also logs each frame.
"""

import logging
import sys

import trio
import trio_ws

logger = logging.getLogger("watched_server")


class SlowPeers(trio_ws.Instrument):
    """Logs peers that take a second or more to answer a ping."""

    def ping_answered(self, ws: trio_ws.ObservedWebSocket, seconds: float) -> None:
        if seconds >= 1:
            logger.warning("connection %d is slow: %.3f seconds", ws.id, seconds)


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    metrics = trio_ws.PrometheusInstrument()
    instruments = [trio_ws.LogConnections(), trio_ws.LogFrames(), SlowPeers(), metrics]
    await trio_ws.serve(
        echo,
        8765,
        host="localhost",
        instruments=instruments,
        process_request=metrics.serve_at("/metrics"),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG if "-v" in sys.argv else logging.INFO)
    trio.run(main)
