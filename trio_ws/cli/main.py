"""The command line: ``python -m trio_ws serve | connect | demo``.

An error prints one line on standard error and sets exit status 1; wrong usage sets exit status 2, and Ctrl-C sets 130.
``connect`` prints received messages on standard output and everything else on standard error.
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
        args: The arguments; None for ``sys.argv[1:]``.
    """
    options = _parser().parse_args(args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # Messages may contain characters that the terminal lacks.
    try:
        return trio.run(options.run, options)  # type: ignore[no-any-return]  # a namespace is untyped
    except BaseException as exc:
        return _report(exc)


def _report(exc: BaseException) -> int:
    """Print a one-line error and return the exit status. Raise the exception again if it looks like a bug."""
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
    command.add_argument("--tls-cert", metavar="FILE", help="certificate chain, PEM; serve wss://")
    command.add_argument(
        "--tls-key", metavar="FILE", help="private key, PEM, unless it is in the same file as the certificate"
    )
    command.set_defaults(run=serve.run)

    command = commands.add_parser(
        "connect",
        help="send lines and print messages",
        description="Connect to a server. Send each line of standard input as a text message, and print each received"
        " message. At the end of the input, close the connection after printing the last messages.",
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
        help="run a server and a client, and print what they do",
        description="Start a server on a free local port, connect to it, and print each step with its time.",
    )
    command.set_defaults(run=demo.run)
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"the port must be between 0 and 65535, not {text!r}")
    return int(text)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"a header must look like 'NAME: VALUE', not {text!r}")
    return name.strip(), value.strip()
