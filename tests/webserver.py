"""A web server for tests of the client: aiohttp, in a thread with its own event loop.

It accepts, redirects or rejects opening handshakes, like servers on the internet.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from .interop.peers import EventLoop

__all__ = ["WebServer", "headers_seen", "web_server"]

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def headers_seen(request: web.Request) -> web.StreamResponse:
    """Accept, send the headers of the request as JSON, and wait until the client closes."""
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    seen = {"path": request.path_qs, "headers": [[name, value] for name, value in request.headers.items()]}
    await ws.send_str(json.dumps(seen))
    async for _ in ws:
        pass
    return ws


class WebServer:
    """A running server.

    Attributes:
        port: The TCP port on 127.0.0.1.
        paths: The paths of the requests, in order.
    """

    def __init__(self, handle: Handle) -> None:
        self.paths: list[str] = []
        self.port = 0
        self._handle = handle
        self._runner: web.AppRunner | None = None

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None) -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", self._respond)
        self._runner = web.AppRunner(application, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path_qs)
        return await self._handle(request)


@contextmanager
def web_server(handle: Handle, *, tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    """Run a server within a block. The function handles all requests, in the other thread."""
    with EventLoop() as loop:
        server = WebServer(handle)
        loop.call(server.start(tls))
        try:
            yield server
        finally:
            loop.call(server.stop())
