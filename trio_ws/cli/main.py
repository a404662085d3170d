"""The command line: ``trio-ws COMMAND``, or ``python -m trio_ws COMMAND``.

An error prints one line on standard error and sets exit status 1; wrong usage sets exit status 2, and Ctrl-C sets 130.
``serve`` closes its connections at the first Ctrl-C and exits with 0.
``connect`` prints received messages on standard output and everything else on standard error.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

import trio

from ..client.backoff import leaves
from ..exceptions import WebSocketException
from ..version import __version__
from . import bench, connect, demo, serve
from .arguments import close_code, count, header, port, seconds, size, sizes
from .failure import Failure, WrongUsage, one_line, print_error

__all__ = ["main"]

_Commands = Callable[..., argparse.ArgumentParser]


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
    """Print a one-line error and return the exit status. Raise the exception again if it looks like a bug.

    Of a group of exceptions, such as those of several connections to the same server, the first one is printed.
    """
    exceptions = list(leaves(exc))
    if any(isinstance(each, KeyboardInterrupt) for each in exceptions):
        print_error("interrupted")
        return 130
    if not all(isinstance(each, (Failure, WebSocketException, OSError, ImportError)) for each in exceptions):
        raise exc
    print_error(f"error: {one_line(exceptions[0])}")
    return 2 if isinstance(exceptions[0], WrongUsage) else 1


def _parser() -> argparse.ArgumentParser:
    is_script = os.path.splitext(os.path.basename(sys.argv[0]))[0] == "trio-ws"
    parser = argparse.ArgumentParser(
        prog="trio-ws" if is_script else "python -m trio_ws",
        description="WebSocket from the shell.",
        epilog="Exit status: 0 success, 1 failure (one line on standard error says why), 2 wrong arguments, 3 fewer"
        " messages than --max-messages, 130 interrupted, 143 terminated. A server that is stopped exits with 0.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trio_ws {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands.add_parser)
    _add_connect(commands.add_parser)
    _add_bench(commands.add_parser)
    command = commands.add_parser(
        "demo",
        help="run a server and a client, and print what they do",
        description="Start a server on a free local port, connect to it, and print each step with its time.",
        allow_abbrev=False,
    )
    command.set_defaults(run=demo.run)
    return parser


def _add_serve(add_parser: _Commands) -> None:
    command = add_parser(
        "serve",
        help="run an echo server, a chat or a page",
        description="Run a server that sends each message back, or, with --broadcast, to all other clients.",
        allow_abbrev=False,
    )
    command.add_argument("--host", help=f"name or address to listen on (default: {serve.HOST})")
    command.add_argument("--port", type=port, help=f"port, 0 for any free one (default: {serve.PORT})")
    command.add_argument("--unix", metavar="PATH", help="listen on a Unix socket instead")
    command.add_argument("--cert", "--tls-cert", metavar="FILE", help="certificate chain, PEM; serve wss://")
    command.add_argument(
        "--key", "--tls-key", metavar="FILE", help="private key, PEM, unless it is in the same file as the certificate"
    )
    command.add_argument("--broadcast", action="store_true", help="send each message to all other clients: a chat")
    command.add_argument("--static", metavar="DIR", help="answer plain HTTP requests with the files of a folder")
    command.add_argument("--metrics", action="store_true", help="serve metrics for Prometheus at /metrics")
    command.add_argument(
        "--max-size", type=size, default=2**20, metavar="SIZE", help="largest message to accept (default: 1M)"
    )
    command.add_argument("--no-compression", action="store_true", help="do not compress messages")
    command.set_defaults(run=serve.run)


def _add_connect(add_parser: _Commands) -> None:
    command = add_parser(
        "connect",
        help="send lines or a file, and print messages",
        description="Connect to a server. Send each line of standard input as a text message, and print each received"
        " message. At the end of the input, close the connection after printing the last messages. On a terminal,"
        " /help lists the commands.",
        epilog="Exit status: 0 if the connection was closed normally, by either end, or with --close-code, or"
        " --max-messages were received; 1 on failure, including a connection that was closed abnormally; 2 for wrong"
        " arguments; 3 if fewer than --max-messages were received; 130 after Ctrl-C; 143 after SIGTERM.",
        allow_abbrev=False,
    )
    command.add_argument(
        "uri", metavar="URI", nargs="?", help="ws://..., wss://... or ws+unix:...; optional with --unix"
    )

    group = command.add_argument_group("input")
    inputs = group.add_mutually_exclusive_group()
    inputs.add_argument("--file", metavar="FILE", help="send a file as one message; - for standard input")
    inputs.add_argument("--no-stdin", action="store_true", help="send nothing; listen until the server closes")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument(
        "--binary",
        action="store_true",
        help="send binary messages; write received ones as they are, unless to a terminal",
    )
    kinds.add_argument(
        "--base64", action="store_true", help="binary messages are in base64, in the input and in the output"
    )

    group = command.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object per event")
    group.add_argument("--timestamps", action="store_true", help="print the time before each line")
    group.add_argument("-v", "--verbose", action="store_true", help="show the opening handshake and all frames")
    group.add_argument(
        "--max-messages", type=count, metavar="N", help="close after N messages, and not at the end of the input"
    )

    group = command.add_argument_group("connection")
    group.add_argument("--unix", metavar="PATH", help="connect to a Unix socket")
    group.add_argument(
        "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'", help="add a request header"
    )
    group.add_argument("--subprotocol", action="append", default=[], metavar="NAME", help="offer a subprotocol")
    group.add_argument("--origin", help="set the Origin header, such as https://example.org")
    group.add_argument(
        "--auth", metavar="USER[:PASSWORD]", help="authenticate; a password that is missing is asked for"
    )
    group.add_argument("--proxy", metavar="URL", help="connect through a proxy; 'none' ignores the environment")
    group.add_argument("--insecure", action="store_true", help="do not verify the certificate of a wss:// server")
    group.add_argument(
        "--max-size", type=size, default=2**20, metavar="SIZE", help="largest message to accept (default: 1M)"
    )
    group.add_argument("--no-compression", action="store_true", help="do not offer compression")
    group.add_argument("--ping", type=seconds, metavar="SECONDS", help="ping regularly and print the round-trip time")
    group.add_argument("--reconnect", action="store_true", help="connect again when the connection is lost")
    group.add_argument(
        "--close-code", type=close_code, default=1000, metavar="CODE", help="code to close with (default: %(default)s)"
    )
    command.set_defaults(run=connect.run, parser=command)


def _add_bench(add_parser: _Commands) -> None:
    command = add_parser(
        "bench",
        help="measure round trips to an echo server",
        description="Send messages to a server that sends them back, and measure the time until each one returns.",
        allow_abbrev=False,
    )
    command.add_argument("uri", metavar="URI", help="ws://... or wss://... of an echo server")
    command.add_argument("--connections", type=count, default=10, metavar="N", help="default: %(default)s")
    command.add_argument(
        "--size",
        type=sizes,
        default=[32],
        metavar="SIZE,...",
        help="message sizes in bytes, one run each (default: 32)",
    )
    command.add_argument(
        "--duration", type=seconds, default=5.0, metavar="SECONDS", help="of each run (default: %(default)s)"
    )
    command.add_argument(
        "--window", type=count, default=1, metavar="N", help="messages under way on each connection (default: 1)"
    )
    command.add_argument(
        "--processes", type=count, default=1, metavar="N", help="processes to share the connections (default: 1)"
    )
    command.add_argument("--binary", action="store_true", help="send binary messages instead of text")
    command.add_argument("--compression", action="store_true", help="offer compression")
    command.add_argument("--insecure", action="store_true", help="do not verify the certificate of a wss:// server")
    command.add_argument("--json", action="store_true", help="print one JSON object per run")
    command.add_argument("--plot", metavar="FILE.png", help="draw the distribution of round trips; needs matplotlib")
    command.set_defaults(run=bench.run)
