"""The command line: ``python -m trio_ws serve | connect | demo``.

Errors are one line on standard error and exit status 1; wrong usage is exit status 2. Received messages go to standard
output, everything else that ``connect`` has to say goes to standard error.
"""

from __future__ import annotations

import argparse
import codecs
import io
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import trio

from ..client.connect import connect
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed, ConnectionClosedError, WebSocketException
from ..protocol import Message
from ..server.serve import serve
from ..server.server import Server
from ..version import __version__

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["main"]

logger: logging.Logger = logging.getLogger("trio_ws.cli")


class _Failure(Exception):
    """What to tell the user, in one line, before exiting with status 1."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        args: The arguments; None for those of the process.
    """
    options = _parser().parse_args(args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a message may have what the terminal cannot show
    try:
        return trio.run(options.run, options)  # type: ignore[no-any-return]  # a namespace is untyped
    except BaseException as exc:
        return _report(exc)


def _report(exc: BaseException) -> int:
    """Tell the user about an exception that is an outcome, and return the exit status. Raise any other again."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    if isinstance(exc, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if not isinstance(exc, (_Failure, WebSocketException, OSError)):
        raise exc
    print(f"error: {_one_line(exc)}", file=sys.stderr)
    return 1


def _one_line(exc: BaseException) -> str:
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror and not exc.filename else str(exc)
    return " ".join(text.split()) or type(exc).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trio_ws", description="WebSocket from the shell.")
    parser.add_argument("--version", action="version", version=f"trio_ws {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run an echo server", description="Run an echo server.")
    command.add_argument("--host", default="localhost", help="name or address to listen on (default: %(default)s)")
    command.add_argument("--port", type=_port, default=8765, help="port, 0 for any free one (default: %(default)s)")
    command.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM: serve wss://")
    command.add_argument("--tls-key", metavar="FILE", help="its private key, PEM, unless it is in the same file")
    command.set_defaults(run=_serve)

    command = commands.add_parser(
        "connect",
        help="send lines, print messages",
        description="Connect to a server. Each line of standard input is sent as a text message; each message that"
        " comes in is printed. At the end of the input the connection is closed, and the last answers are waited for.",
    )
    command.add_argument("uri", metavar="URI", help="ws://... or wss://...")
    command.add_argument(
        "--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'", help="add a request header"
    )
    command.add_argument("--subprotocol", action="append", default=[], metavar="NAME", help="offer a subprotocol")
    command.add_argument("--insecure", action="store_true", help="do not verify the certificate of a wss:// server")
    command.set_defaults(run=_connect)

    command = commands.add_parser(
        "demo",
        help="show a server and a client at work",
        description="Start a server on a free local port, connect to it, and show what happens, with times.",
    )
    command.set_defaults(run=_demo)
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 'NAME: VALUE'")
    return name.strip(), value.strip()


# -- serve ---------------------------------------------------------------------------------------------------------


async def _serve(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    context = _server_context(options.tls_cert, options.tls_key)
    try:
        listeners = await trio.open_tcp_listeners(options.port, host=options.host)
    except (OSError, UnicodeError) as exc:  # the latter when the name of the host is none
        raise _Failure(f"cannot listen on {options.host}:{options.port}: {_one_line(exc)}") from exc
    # The signals first: whoever reads that we are listening may send one.
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
            raise _Failure("--tls-key goes with --tls-cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as exc:  # that of the ssl module is one too
        raise _Failure(f"cannot use the certificate {certificate!r}: {_one_line(exc)}") from exc
    return context


async def _close_on_signal(server: Server, signals: AsyncIterator[int]) -> None:
    """Close the server at the first signal, and stop at once at the second."""
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
    peer = _name(ws.remote_address)
    logger.info("%s opened %s", peer, ws.request.path)
    messages = 0
    try:
        async for message in ws:
            await ws.send(message)
            messages += 1
    except ConnectionClosedError:
        pass  # said below
    finally:
        code = "" if ws.close_code is None else f" {ws.close_code}"
        logger.info("%s closed%s after %d messages", peer, code, messages)


def _name(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address or "peer")


# -- connect -------------------------------------------------------------------------------------------------------


async def _connect(options: argparse.Namespace) -> int:
    secure = options.uri.lower().startswith("wss:")
    context = None
    if options.insecure and secure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        connection = connect(options.uri, ssl=context, headers=options.header, subprotocols=options.subprotocol)
    except ValueError as exc:
        raise _Failure(str(exc)) from exc
    interactive = sys.stdin is not None and sys.stdin.isatty()
    async with connection as ws:
        subprotocol = "" if ws.subprotocol is None else f", subprotocol {ws.subprotocol}"
        print(f"connected to {options.uri}{subprotocol}", file=sys.stderr)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_lines, ws, "> " if interactive else "")
            outcome = await _print_messages(ws, "\r< {}\n> " if interactive else "{}\n")
            nursery.cancel_scope.cancel()
    overwrite = "\r" if interactive else ""  # the prompt
    print(f"{overwrite}connection closed: {outcome}", file=sys.stderr)
    return 1 if isinstance(outcome, ConnectionClosedError) else 0


async def _send_lines(ws: WebSocket, prompt: str) -> None:
    """Send lines of standard input until its end or that of the connection."""
    try:
        async for line in _Lines(prompt):
            await ws.send(line)
        await ws.send_close()
    except ConnectionClosed:
        pass  # whoever receives reports it


class _Lines:
    """The lines of standard input.

    Read by a thread, because no system can wait for a terminal, a pipe and a file alike; and from the file descriptor,
    because a thread that is left behind in ``sys.stdin`` would hold a lock that the exit of the interpreter needs.
    Where the standard input is closed, there are none.
    """

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._eof = sys.stdin is None

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        print(self._prompt, end="", flush=True)
        while "\n" not in self._text and not self._eof:
            data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 65536, abandon_on_cancel=True)
            self._eof = not data
            try:
                self._text += self._decoder.decode(data, final=self._eof)
            except UnicodeDecodeError as exc:
                raise _Failure("standard input is not UTF-8") from exc
        if not self._text:
            raise StopAsyncIteration
        line, _, self._text = self._text.partition("\n")
        return line.removesuffix("\r")


async def _print_messages(ws: WebSocket, template: str) -> ConnectionClosed:
    """Print messages until the connection is closed; return how that was."""
    while True:
        try:
            message = await ws.receive()
        except ConnectionClosed as exc:
            return exc
        print(template.format(_show(message)), end="", flush=True)


def _show(message: Message) -> str:
    return message if isinstance(message, str) else f"[{len(message)} bytes] {message.hex(' ')}"


# -- demo ----------------------------------------------------------------------------------------------------------


async def _demo(_options: argparse.Namespace) -> int:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, _echo, 0, host="127.0.0.1"))
        uri = f"ws://127.0.0.1:{server.port}/demo"
        say = _transcript()
        say(f"server listening on {uri}")
        async with connect(uri, max_message_size=2**24) as ws:
            say(f"connected: {ws.response.status_code} {ws.response.reason_phrase}")
            for message in ("hello", b"\x00\x01\x02", "\N{EARTH GLOBE EUROPE-AFRICA} " * 200_000):
                await ws.send(message)
                say(f"sent      {_describe(message)}")
                answer = await ws.receive()
                say(f"received  {_describe(answer)}")
                if answer != message:
                    raise _Failure("this is not what was sent")
            seconds = await ws.ping()
            say(f"ping      round trip of {seconds * 1e6:.0f} µs")
            await ws.aclose(1000, "bye")
            say(f"closed    {ws.close_code} {ws.close_reason}".rstrip())
        await server.aclose()
        say("server closed")
    return 0


async def _echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def _transcript() -> Callable[[str], None]:
    start = time.perf_counter()

    def say(text: str) -> None:
        print(f"{(time.perf_counter() - start) * 1000:8.2f} ms  {text}", flush=True)

    return say


def _describe(message: Message) -> str:
    if isinstance(message, str):
        kind, size = "text", len(message.encode())
        shown = repr(message) if len(message) <= 20 else f"{message[:8]!r}..."
    else:
        kind, size, shown = "binary", len(message), message.hex(" ")
    return f"{kind}, {size:,} bytes: {shown}"
