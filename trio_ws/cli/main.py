"""The command line: ``python -m trio_ws serve | connect | demo``.

Errors are one line on standard error and exit status 1; wrong usage is exit status 2. Received messages go to standard
output, everything else that ``connect`` has to say goes to standard error.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

import trio

from ..exceptions import WebSocketException
from ..version import __version__
from . import connect, demo, serve
from .failure import Failure, one_line

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["main"]


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
    if not isinstance(exc, (Failure, WebSocketException, OSError)):
        raise exc
    print(f"error: {one_line(exc)}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trio_ws", description="WebSocket from the shell.")
    parser.add_argument("--version", action="version", version=f"trio_ws {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="run an echo server", description="Run an echo server.")
    command.add_argument("--host", default="localhost", help="name or address to listen on (default: %(default)s)")
    command.add_argument("--port", type=_port, default=8765, help="port, 0 for any free one (default: %(default)s)")
    command.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM: serve wss://")
    command.add_argument("--tls-key", metavar="FILE", help="its private key, PEM, unless it is in the same file")
    command.set_defaults(run=serve.run)

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
    command.set_defaults(run=connect.run)

    command = commands.add_parser(
        "demo",
        help="show a server and a client at work",
        description="Start a server on a free local port, connect to it, and show what happens, with times.",
    )
    command.set_defaults(run=demo.run)
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
