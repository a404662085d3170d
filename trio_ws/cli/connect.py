"""``trio-ws connect``: a client that sends lines or a file, and prints messages.

A :class:`Client` lasts for one command, which may have several connections, one after the other. Its tasks:

* one turns the input into actions, from the first connection on;
* of each connection, one performs the actions, one receives and prints messages, and with ``--ping`` one pings;
* one waits for SIGINT and SIGTERM, and closes the connection. A second signal does not wait for the server, or for who
  reads the output.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

import trio

from ..client.attempts import attempts
from ..client.backoff import is_retryable
from ..client.connect import connect, connect_unix
from ..client.connecting import Connecting
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed, ConnectionClosedError
from .commands import Action, CloseConnection, Parser, Ping, Send, SendFile, ShowNote
from .credentials import basic_credentials
from .failure import Failure, WrongUsage, print_error
from .files import can_be_read_again, send_file
from .interactive import can_edit, editing
from .lines import StdinLines, TypedLines
from .output import Binary, JsonOutput, Output, ShowFrames, TextOutput
from .style import is_terminal

__all__ = ["run"]

#: The exit status if the connection was closed before ``--max-messages`` were received.
TOO_FEW_MESSAGES = 3


async def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    if options.uri is None:
        if options.unix is None:
            options.parser.error("URI is required, unless there is --unix")
        options.uri = "ws://localhost/"
    with contextlib.ExitStack() as stack:
        output, actions = stack.enter_context(_terminal(options))
        client = Client(options, output, actions)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            if not is_terminal(sys.stdout):
                _let_the_second_signal_kill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.watch_signals, signals)
                await client.run()
                nursery.cancel_scope.cancel()
    return client.report()


def _let_the_second_signal_kill() -> None:
    """Restore the default action of SIGINT and SIGTERM at the first of them, so that the next one ends the process.

    Python goes on with a write to a full pipe after each signal that it handles, so nothing else could end that.
    """

    def handle(notify: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        notify(number, frame)

    for each in (signal.SIGINT, signal.SIGTERM):
        notify = signal.getsignal(each)
        assert callable(notify)  # it wakes the receiver, which restores the handlers at the end
        signal.signal(each, functools.partial(handle, notify))


@contextlib.contextmanager
def _terminal(options: argparse.Namespace) -> Iterator[tuple[Output, AsyncIterable[Action]]]:
    """Choose the output and the input. Use the terminal until the end of the block."""
    binary: Binary = "base64" if options.base64 else "raw" if options.binary else "hex"
    parser = Parser(options.binary, options.base64, options.close_code)
    if options.json:
        yield JsonOutput(), _input(options, parser)
    elif options.file is not None or options.no_stdin or not is_terminal(sys.stdin):
        yield TextOutput(binary, options.timestamps), _input(options, parser)
    elif can_edit():
        output = TextOutput(binary, options.timestamps)
        with editing(parser) as lines:
            output.print_above(lines.stream)
            yield output, lines
            output.print_above(None)
    else:
        yield TextOutput(binary, options.timestamps, prompt="> "), TypedLines(parser, "> ")


def _input(options: argparse.Namespace, parser: Parser) -> AsyncIterable[Action]:
    if options.file is not None:
        # Otherwise the server would learn of the mistake, too.
        if options.file != "-" and (os.path.isdir(options.file) or not os.access(options.file, os.R_OK)):
            raise WrongUsage(f"cannot read {options.file}: it must be a file that exists and is readable")
        return _Actions([SendFile(options.file, options.binary)])
    return _Actions([]) if options.no_stdin else StdinLines(parser)


class _Actions(AsyncIterator[Action]):
    """Actions that are known in advance."""

    def __init__(self, actions: list[Action]) -> None:
        self._actions = iter(actions)

    async def __anext__(self) -> Action:
        for action in self._actions:
            return action
        raise StopAsyncIteration


class Client:
    """The state of one command.

    Args:
        options: The arguments of the command.
        output: The output.
        actions: The actions to perform.
    """

    def __init__(self, options: argparse.Namespace, output: Output, actions: AsyncIterable[Action]) -> None:
        self._options = options
        self._output = output
        self._actions = actions
        self._connect = _connection_factory(options, output)
        self._scope = trio.CancelScope()
        # The current connection, or the last one if no other follows.
        self._ws: WebSocket | None = None
        # The actions of all connections: their channel, and the one that was begun and not completed.
        self._send_channel, self._channel = trio.open_memory_channel[Action](0)
        self._pending: Action | None = None
        self._is_reading = False
        self._received = 0
        # The signal that ends the command, if any; and how the last connection was closed.
        self._signal: int | None = None
        self._outcome: ConnectionClosed | None = None
        # True once no other connection must be opened.
        self._finishing = False

    async def run(self) -> None:
        """Connect, and stay until there is nothing left to do."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                if self._options.reconnect:
                    async for attempt in attempts(self._connect, is_retryable=self._is_retryable):
                        async with attempt as ws:
                            await self._use(ws, nursery)
                else:
                    async with self._connect() as ws:
                        await self._use(ws, nursery)
                nursery.cancel_scope.cancel()

    def report(self) -> int:
        """Report the end of the command and return the exit status."""
        if self._outcome is not None:
            self._output.closed(self._outcome)
        if self._signal is not None:
            print_error("interrupted")
            return 128 + self._signal
        if self._options.reconnect and self._has_lost_input():
            raise Failure("cannot send the rest of the input again: what was read of it cannot be read twice")
        if isinstance(self._outcome, ConnectionClosedError) and not self._was_closed_with(self._options.close_code):
            return 1
        if self._options.max_messages is not None and self._received < self._options.max_messages:
            return TOO_FEW_MESSAGES
        return 0

    def _was_closed_with(self, code: int) -> bool:
        """Whether this end closed the connection with a code, and the server answered with the same one."""
        end = self._outcome
        if end is None or end.sent is None or end.rcvd is None or end.rcvd_then_sent or end.__cause__ is not None:
            return False
        return end.sent.code == end.rcvd.code == code

    async def watch_signals(self, signals: AsyncIterator[int]) -> None:
        """Close the connection at the first signal. Do not wait for that at the second one."""
        self._signal = await signals.__anext__()
        self._finishing = True
        if self._ws is None or self._outcome is not None:  # There is no connection, and none is wanted any more.
            self._scope.cancel()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ws.aclose, self._options.close_code)
            await signals.__anext__()
            self._scope.cancel()
            nursery.cancel_scope.cancel()

    def _is_retryable(self, error: Exception) -> bool:
        """Return whether to connect again, and report the error if so."""
        if self._finishing or self._has_lost_input() or not is_retryable(error):
            return False
        if self._outcome is not None:
            self._output.closed(self._outcome)
        else:
            self._output.retrying(error)
        self._ws = self._outcome = None
        return True

    def _has_lost_input(self) -> bool:
        """Whether sending an input was begun and not completed that cannot be read again."""
        return isinstance(self._pending, SendFile) and not can_be_read_again(self._pending.path)

    # -- One connection --------------------------------------------------------------------------------------------

    async def _use(self, ws: WebSocket, nursery: trio.Nursery) -> None:
        """Use a connection until it is closed."""
        self._ws = ws
        self._outcome = None
        self._output.opened(self._options.uri, ws)
        if not self._is_reading:
            self._is_reading = True
            nursery.start_soon(self._read_input)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self._send, ws)
            if self._options.ping is not None:
                tasks.start_soon(self._ping_regularly, ws)
            self._outcome = await self._receive(ws)
            tasks.cancel_scope.cancel()

    async def _read_input(self) -> None:
        async with self._send_channel:
            async for action in self._actions:
                await self._send_channel.send(action)

    async def _receive(self, ws: WebSocket) -> ConnectionClosed:
        """Print messages until the connection is closed. Return the exception that tells how it was closed."""
        while True:
            try:
                message = await ws.receive()
            except ConnectionClosed as exc:
                return exc
            self._output.received(message)
            self._received += 1
            if self._received == self._options.max_messages:
                self._finishing = True
                await ws.aclose(self._options.close_code)

    async def _send(self, ws: WebSocket) -> None:
        """Perform actions until there are no more, or the connection is closed."""
        try:
            while True:
                if self._pending is None:
                    try:
                        self._pending = await self._channel.receive()
                    except trio.EndOfChannel:
                        break
                await self._perform(self._pending, ws)
                self._pending = None
            if not (self._options.no_stdin or self._options.max_messages is not None):
                self._finishing = True
                await ws.send_close(self._options.close_code)
        except ConnectionClosed:
            pass  # _receive() returns it. The action is performed on the next connection, if there is one.

    async def _perform(self, action: Action, ws: WebSocket) -> None:
        if isinstance(action, Send):
            await ws.send(action.message)
        elif isinstance(action, SendFile):
            await send_file(ws, action)
        elif isinstance(action, Ping):
            self._output.ponged(await ws.ping())
        elif isinstance(action, CloseConnection):
            self._finishing = True
            await ws.aclose(action.code, action.reason)
        elif isinstance(action, ShowNote):
            self._output.note(action.text)

    async def _ping_regularly(self, ws: WebSocket) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._output.ponged(await ws.ping())
                await trio.sleep(self._options.ping)


# -- Connecting ------------------------------------------------------------------------------------------------------


def _connection_factory(options: argparse.Namespace, output: Output) -> functools.partial[Connecting]:
    """Return a function that returns a new connection.

    Raises:
        WrongUsage: If the arguments are not valid.
    """
    arguments: dict[str, Any] = {
        "headers": options.header,
        "subprotocols": options.subprotocol,
        "origin": options.origin,
        "max_message_size": options.max_size,
    }
    if options.verbose:
        arguments["instruments"] = [ShowFrames(output)]
    if options.no_compression:
        arguments["compression"] = None
    if options.auth is not None:
        arguments["credentials"] = basic_credentials(options.auth)
    if options.insecure and options.uri.lower().startswith("wss:"):
        arguments["ssl"] = ssl.create_default_context()
        arguments["ssl"].check_hostname = False
        arguments["ssl"].verify_mode = ssl.CERT_NONE
    if options.unix is not None:
        if options.proxy is not None:
            raise WrongUsage("--proxy must not be used together with --unix")
        make = functools.partial(connect_unix, options.unix, options.uri, **arguments)
    else:
        if options.proxy is not None:
            arguments["proxy"] = None if options.proxy == "none" else options.proxy
        make = functools.partial(connect, options.uri, **arguments)
    try:
        make()
    except ValueError as exc:
        raise WrongUsage(str(exc)) from exc
    return make
