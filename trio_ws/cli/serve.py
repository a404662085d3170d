"""``python -m trio_ws serve``: an echo server."""

from __future__ import annotations

import argparse
import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from functools import partial

import trio

from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosedError
from ..server.serve import serve
from ..server.server import Server
from .failure import Failure, one_line

__all__ = ["run"]

logger: logging.Logger = logging.getLogger("trio_ws.cli")


async def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    context = _server_context(options.tls_cert, options.tls_key)
    try:
        listeners = await trio.open_tcp_listeners(options.port, host=options.host)
    except (OSError, UnicodeError) as exc:  # UnicodeError: the host name is invalid.
        raise Failure(f"cannot listen on {options.host}:{options.port}: {one_line(exc)}") from exc
    # Set up the signal handler first: a signal may arrive as soon as "listening on" is printed.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve, _echo_and_log, listeners=listeners, ssl=context))
            scheme = "ws" if context is None else "wss"
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(f"listening on {scheme}://{host}:{server.port}/ (Ctrl-C stops)", flush=True)
            await _close_on_signal(server, signals)
    return 0


def _server_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise Failure("--tls-key must be used together with --tls-cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as exc:  # SSLError is an OSError too.
        raise Failure(f"cannot use the certificate {certificate!r}: {one_line(exc)}") from exc
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


async def _echo_and_log(ws: WebSocket) -> None:
    peer = _format_address(ws.remote_address)
    logger.info("%s opened %s", peer, ws.request.path)
    messages = 0
    try:
        async for message in ws:
            await ws.send(message)
            messages += 1
    except ConnectionClosedError:
        pass  # The close code is logged below.
    finally:
        code = "" if ws.close_code is None else f" {ws.close_code}"
        logger.info("%s closed%s after %d messages", peer, code, messages)


def _format_address(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address or "peer")
