"""``trio-ws serve``: an echo server or a chat, which can also serve the files of a folder."""

from __future__ import annotations

import argparse
import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import trio

from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosedError
from ..exceptions.shown import escape
from ..hub.broadcast import broadcast
from ..observe.prometheus import PrometheusInstrument
from ..server.listeners import open_tcp_listeners
from ..server.serve import serve
from ..server.server import Handler, ProcessRequest, Server
from ..uri import bracket_ipv6
from .failure import Failure, WrongUsage, one_line
from .static import serve_folder

__all__ = ["HOST", "PORT", "run"]

#: The host and the port without ``--host`` and ``--port``.
HOST = "localhost"
PORT = 8765

logger: logging.Logger = logging.getLogger("trio_ws.cli")


async def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if options.unix is not None and (options.host is not None or options.port is not None):
        raise WrongUsage("--unix must not be used together with --host and --port")
    context = _server_context(options.cert, options.key)
    arguments = _serve_options(options)
    host = HOST if options.host is None else options.host
    if options.unix is None:
        arguments["listeners"] = await _listen(PORT if options.port is None else options.port, host)
    else:
        arguments["path"] = options.unix
    handler = _make_handler(chat=options.broadcast)
    # Set up the signal handler first: a signal may arrive as soon as "listening on" is printed.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve, handler, ssl=context, **arguments))
            scheme = "ws" if context is None else "wss"
            if options.unix is None:
                uri = f"{scheme}://{bracket_ipv6(host)}:{server.port}/"
            else:
                uri = f"{scheme}+unix:{options.unix}"
            print(f"listening on {uri} (Ctrl-C stops)", flush=True)
            await _close_on_signal(server, signals)
    return 0


async def _listen(port: int, host: str) -> list[trio.SocketListener]:
    try:
        return await open_tcp_listeners(port, host=host, backlog=None, reuse_port=False)
    except ValueError as exc:
        raise WrongUsage(f"--{exc}") from exc


def _serve_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of :func:`serve` that are not about listening."""
    arguments: dict[str, Any] = {"max_message_size": options.max_size}
    if options.no_compression:
        arguments["compression"] = None
    answers: list[ProcessRequest] = []
    if options.metrics:
        metrics = _make_metrics()
        arguments["instruments"] = [metrics]
        answers.append(metrics.serve_at("/metrics"))
    if options.static is not None:
        answers.append(serve_folder(options.static))
    if answers:
        arguments["process_request"] = answers
    return arguments


def _make_metrics() -> PrometheusInstrument:
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as exc:
        raise Failure("--metrics needs prometheus-client: pip install trio-ws[prometheus]") from exc
    return PrometheusInstrument(CollectorRegistry())


def _server_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise WrongUsage("--key must be used together with --cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as exc:  # SSLError is an OSError too.
        raise WrongUsage(f"cannot use the certificate {certificate!r}: {one_line(exc)}") from exc
    return context


async def _close_on_signal(server: Server, signals: AsyncIterator[int]) -> None:
    """Close the server at the first signal; raise KeyboardInterrupt at the second one."""
    await signals.__anext__()
    print("closing", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_raise_at_next_signal, signals)
        await server.aclose()
        nursery.cancel_scope.cancel()


async def _raise_at_next_signal(signals: AsyncIterator[int]) -> None:
    await signals.__anext__()
    raise KeyboardInterrupt


# -- The handler -----------------------------------------------------------------------------------------------------


def _make_handler(*, chat: bool) -> Handler:
    """Return a handler that sends each message back or, in a chat, to all other clients. It logs connections."""
    connected: set[WebSocket] = set()

    async def handle(ws: WebSocket) -> None:
        peer = _format_address(ws.remote_address)
        logger.info("%s opened %s", peer, ws.request.path.partition("?")[0])  # a query may hold a token
        connected.add(ws)
        messages = 0
        try:
            async for message in ws:
                if chat:
                    broadcast(connected - {ws}, message)
                else:
                    await ws.send(message)
                messages += 1
        except ConnectionClosedError:
            pass  # The close code is logged below.
        finally:
            connected.remove(ws)
            code = "" if ws.close_code is None else f" {ws.close_code}"
            logger.info("%s closed%s after %d messages", peer, code, messages)

    return handle


def _format_address(address: object) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return escape(str(address or "peer"))  # a client chooses the path of its socket
