"""A prompt with line editing and a history, which incoming messages do not disturb. It needs prompt_toolkit.

prompt_toolkit runs on asyncio, so the prompt has a thread with one event loop for the whole session. The same loop
prints: it erases the prompt, prints, and draws the prompt and the unfinished line again. prompt_toolkit's own
``patch_stdout()`` is no alternative: it loses what is printed while one prompt ends and the next one begins, and leaves
raw mode meanwhile, so that keys such as Ctrl-D are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import io
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import trio

from .commands import Action, Parser
from .failure import Failure
from .style import is_capable, is_terminal

__all__ = ["EditedLines", "can_edit", "editing"]


def can_edit() -> bool:
    """Return whether lines can be edited: on a capable terminal, and with prompt_toolkit."""
    capable = is_terminal(sys.stdin) and is_capable(sys.stdout)
    return capable and importlib.util.find_spec("prompt_toolkit") is not None


@contextlib.contextmanager
def editing(parser: Parser) -> Iterator[EditedLines]:
    """Use the terminal for a prompt until the end of the block.

    Args:
        parser: The parser of the lines.
    """
    lines = EditedLines(parser)
    lines.start()
    try:
        yield lines
    finally:
        lines.stop()


class EditedLines:
    """The actions for lines that are edited at a prompt. The prompt appears when the first one is asked for.

    Args:
        parser: The parser of the lines.

    Attributes:
        stream: A stream that prints above the line that is being edited.
    """

    def __init__(self, parser: Parser) -> None:
        self.stream: io.TextIOBase = _Above(self._print)
        self._parser = parser
        # The lines on their way to Trio. The channel is closed at the end of the input.
        self._sender, self._receiver = trio.open_memory_channel[str](math.inf)
        self._token = trio.lowlevel.current_trio_token()
        # The thread of the prompt, and the error that has ended it.
        self._thread = threading.Thread(target=self._run, name="trio-ws prompt", daemon=True)
        self._error: Exception | None = None
        # Everything below belongs to the loop of the thread, except that other threads may read `_loop` once it is set.
        self._is_running = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: Any = None

    # -- The thread of Trio ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, and wait until it can print."""
        self._thread.start()
        self._is_running.wait()

    def stop(self) -> None:
        """End the prompt, and wait until everything is printed."""
        self._call(self._stop)
        self._thread.join()

    def __aiter__(self) -> EditedLines:
        return self

    async def __anext__(self) -> Action:
        self._call(self._begin)
        try:
            return self._parser.parse_typed(await self._receiver.receive())
        except trio.EndOfChannel:
            if self._error is not None:
                raise Failure(f"cannot use the terminal: {self._error}") from self._error
            raise StopAsyncIteration from None

    def _print(self, text: str) -> None:
        self._call(functools.partial(self._write, text))

    def _call(self, function: Callable[[], None]) -> None:
        """Call a function in the loop of the thread, unless the thread has ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)

    # -- The thread of the prompt ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as exc:
            self._error = exc
        finally:
            self._is_running.set()
            self._to_trio(self._sender.close)

    async def _main(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.application import create_app_session
        from prompt_toolkit.input import create_input
        from prompt_toolkit.output import create_output

        self._may_begin, self._stopped = asyncio.Event(), asyncio.Event()
        with create_app_session(create_input(sys.stdin), create_output(sys.stdout)):
            self._session = PromptSession()
            self._loop = asyncio.get_running_loop()
            self._is_running.set()
            await self._may_begin.wait()
            try:
                while not self._stopped.is_set():
                    line = await self._session.prompt_async("> ", pre_run=self._exit_if_stopped, handle_sigint=False)
                    self._to_trio(functools.partial(self._sender.send_nowait, line))
            except EOFError:
                pass
            except KeyboardInterrupt:
                # On a terminal in raw mode, Ctrl-C is a key and not a signal.
                signal.raise_signal(signal.SIGINT)
            self._to_trio(self._sender.close)
            await self._stopped.wait()  # There may still be something to print.

    def _write(self, text: str) -> None:
        app = self._session.app
        if app.is_running:
            app.renderer.erase()
        self._session.output.enable_autowrap()
        self._session.output.write_raw(text.replace("\n", "\r\n"))
        self._session.output.flush()
        if app.is_running:
            app.renderer.request_absolute_cursor_position()
            app.invalidate()

    def _begin(self) -> None:
        self._may_begin.set()

    def _stop(self) -> None:
        self._may_begin.set()
        self._stopped.set()
        self._exit_if_stopped()

    def _exit_if_stopped(self) -> None:
        app = self._session.app
        if self._stopped.is_set() and app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    def _to_trio(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)


class _Above(io.TextIOBase):
    """A stream for ``print()`` that passes on what was written when it is flushed."""

    def __init__(self, print_text: Callable[[str], None]) -> None:
        self._print_text = print_text
        self._text = ""

    def write(self, text: str) -> int:
        self._text += text
        return len(text)

    def flush(self) -> None:
        if self._text:
            text, self._text = self._text, ""
            self._print_text(text)
