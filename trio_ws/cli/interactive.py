"""A prompt with line editing and a history, which incoming messages do not disturb. It needs prompt_toolkit.

prompt_toolkit has an event loop of its own, so the prompt runs in a thread. The thread has changed the mode of the
terminal, so it must not be abandoned: :class:`EditedLines` makes the prompt return when it is cancelled.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

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
def editing(parser: Parser) -> Iterator[tuple[EditedLines, TextIO]]:
    """Use the terminal for a prompt until the end of the block.

    Args:
        parser: The parser of the lines.

    Yields:
        The lines, and a stream that prints above the line that is being edited.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output import create_output
    from prompt_toolkit.patch_stdout import StdoutProxy

    with create_app_session(create_input(sys.stdin), create_output(sys.stdout)):
        stream: Any = StdoutProxy(raw=True)
        try:
            yield EditedLines(parser, PromptSession()), stream
        finally:
            stream.close()


class EditedLines:
    """The actions for lines that are edited at a prompt.

    Args:
        parser: The parser of the lines.
        session: A ``PromptSession`` of prompt_toolkit.
    """

    def __init__(self, parser: Parser, session: Any) -> None:
        self._parser = parser
        self._session = session

    def __aiter__(self) -> EditedLines:
        return self

    async def __anext__(self) -> Action:
        prompt = _Prompt(self._session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prompt.stop_when_cancelled)
            # Cancelling this waits for the thread.
            await trio.to_thread.run_sync(prompt.run)
            nursery.cancel_scope.cancel()
        if prompt.line is None:
            raise StopAsyncIteration
        return self._parser.parse_typed(prompt.line)


class _Prompt:
    """One line at the prompt.

    Attributes:
        line: The line; None if the input has ended, or the prompt was stopped.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._stopped = False
        self.line: str | None = None

    def run(self) -> None:
        """Wait for a line. Run this in a thread."""
        try:
            self.line = self._session.prompt("> ", pre_run=self._exit_if_stopped, handle_sigint=False)
        except EOFError:
            pass
        except KeyboardInterrupt:
            # On a terminal in raw mode, Ctrl-C is a key and not a signal.
            signal.raise_signal(signal.SIGINT)
        except OSError as exc:
            raise Failure(f"cannot read from the terminal: {exc}") from exc

    async def stop_when_cancelled(self) -> None:
        """Make :meth:`run` return when this task is cancelled, if it has not returned yet."""
        try:
            await trio.sleep_forever()
        finally:
            # The prompt may be about to start: then it has not set its loop, but will see the flag later.
            self._stopped = True
            loop = self._session.app.loop
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # The loop is closed: the prompt has returned.
                    loop.call_soon_threadsafe(self._exit_if_stopped)

    def _exit_if_stopped(self) -> None:
        app = self._session.app
        if self._stopped and app.is_running and not app.is_done:
            app.exit(exception=EOFError)
