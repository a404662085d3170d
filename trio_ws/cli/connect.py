"""``python -m trio_ws connect``: a client that sends lines and prints messages."""

from __future__ import annotations

import argparse
import codecs
import os
import ssl
import sys

import trio

from ..client.connect import connect
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed, ConnectionClosedError
from ..exceptions.shown import hide_passwords
from ..protocol import Message
from .failure import Failure, one_line
from .terminal import show

__all__ = ["run"]


async def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    secure = options.uri.lower().startswith("wss:")
    context = None
    if options.insecure and secure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        connection = connect(options.uri, ssl=context, headers=options.header, subprotocols=options.subprotocol)
    except ValueError as exc:
        raise Failure(str(exc)) from exc
    interactive = sys.stdin is not None and sys.stdin.isatty()
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    async with connection as ws:
        subprotocol = "" if ws.subprotocol is None else f", subprotocol {ws.subprotocol}"
        print(f"connected to {hide_passwords(options.uri)}{subprotocol}", file=sys.stderr)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_lines, ws, "> " if interactive else "")
            outcome = await _print_messages(ws, "\r< {}\n> " if interactive else "{}\n", on_terminal)
            nursery.cancel_scope.cancel()
    overwrite = "\r" if interactive else ""  # Overwrite the prompt.
    print(f"{overwrite}connection closed: {one_line(outcome)}", file=sys.stderr)
    return 1 if isinstance(outcome, ConnectionClosedError) else 0


async def _send_lines(ws: WebSocket, prompt: str) -> None:
    """Send lines from standard input until standard input or the connection ends."""
    try:
        async for line in _StdinLines(prompt):
            await ws.send(line)
        await ws.send_close()
    except ConnectionClosed:
        pass  # _print_messages() reports it.


class _StdinLines:
    """The lines of standard input; none if it is closed.

    A thread reads them, because no system call waits for terminals, pipes and files alike. It reads from the file
    descriptor, because an abandoned thread inside ``sys.stdin`` would hold a lock that the interpreter needs at exit.
    """

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._eof = sys.stdin is None

    def __aiter__(self) -> _StdinLines:
        return self

    async def __anext__(self) -> str:
        print(self._prompt, end="", flush=True)
        while "\n" not in self._text and not self._eof:
            data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 65536, abandon_on_cancel=True)
            self._eof = not data
            try:
                self._text += self._decoder.decode(data, final=self._eof)
            except UnicodeDecodeError as exc:
                raise Failure("standard input is not UTF-8") from exc
        if not self._text:
            raise StopAsyncIteration
        line, _, self._text = self._text.partition("\n")
        return line.removesuffix("\r")


async def _print_messages(ws: WebSocket, template: str, terminal: bool) -> ConnectionClosed:
    """Print messages until the connection is closed. Return the exception that tells how it was closed."""
    while True:
        try:
            message = await ws.receive()
        except ConnectionClosed as exc:
            return exc
        print(template.format(_format(message, terminal)), end="", flush=True)


def _format(message: Message, terminal: bool) -> str:
    if not isinstance(message, str):
        return f"[{len(message)} bytes] {message.hex(' ')}"
    return show(message) if terminal else message
