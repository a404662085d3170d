"""The ``Connector``, which creates successive connections for ``attempts`` and ``open_reconnecting``.

These rules hold for both:

1. **The predicate decides whether to retry.** ``is_retryable`` is called with every exception from connecting, and with
   the exception for every end of a connection, including a normal closure. If it returns False, no retry follows.
2. **Every attempt except the first is delayed**; see :mod:`trio_ws.client.backoff`. When a limit of the
   :class:`Backoff` is reached, the last error is final.
3. **Connections share no state.** Messages that the server sends between two connections are lost. The last messages
   that were sent on a lost connection may be lost too, since ``send`` does not wait until the server has received them.
4. **No generator holds a resource**: ``async with`` closes everything that is open.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from ..datastructures import Headers
from ..exceptions import ConnectFailed
from ..misuse.names import check_names
from .backoff import Backoff
from .connect import connect
from .connecting import Connecting
from .options import ConnectOptions

__all__ = ["Connector", "Target", "check_retrying"]

#: A URI, or a function, async or not, that is called for each attempt and returns the result of :func:`connect`.
Target: TypeAlias = "str | Callable[[], Connecting | Awaitable[Connecting]]"


class Connector:
    """Creates the successive connections of one client.

    Args:
        function: The public function that received the options, for error messages.
        target: The URI, or a function that returns the result of :func:`connect`.
        options: The keyword arguments of :func:`connect`; only allowed with a URI.

    Raises:
        Exception: If :func:`connect` raises it.
        TypeError: If there are both a function and options.
    """

    def __init__(self, function: Callable[..., object], target: Target, options: ConnectOptions) -> None:
        self._target = target
        self._options = options
        self._first: Connecting | None = None
        if not callable(target):
            check_names(function, options, ConnectOptions)
            if "headers" in options:  # it may be an iterator
                self._options = {**options, "headers": Headers(options["headers"])}
            # Calling connect() here makes wrong arguments raise at once, not later in the background.
            self._first = connect(target, **self._options)
        elif options:
            raise TypeError(
                f"{', '.join(options)}: options must be passed to connect() in the function,"
                f" not to {function.__name__}()"
            )

    async def dial(self) -> Connecting:
        """Return the next connection. Enter it at once, since it may hold an open stream.

        Raises:
            ConnectFailed: If the function raises an OSError.
            TypeError: If the function returns something else than a connection.
        """
        if not callable(self._target):
            first, self._first = self._first, None
            return connect(self._target, **self._options) if first is None else first
        try:
            connecting = self._target()
            # Connecting has an __await__(), but only to raise an error.
            if not isinstance(connecting, Connecting) and inspect.isawaitable(connecting):
                connecting = await connecting
        except ConnectFailed:
            raise
        except OSError as exc:
            raise ConnectFailed("the server", exc.strerror or str(exc) or type(exc).__name__) from exc
        if not isinstance(connecting, Connecting):
            raise TypeError(f"the function must return the result of connect(), not {connecting!r}")
        return connecting


def check_retrying(backoff: Any, is_retryable: Any) -> None:
    """Check the types of ``backoff`` and ``is_retryable``."""
    if not isinstance(backoff, Backoff):
        raise TypeError(f"backoff must be a Backoff, not {backoff!r}")
    if not callable(is_retryable):
        raise TypeError(f"is_retryable must be callable, not {is_retryable!r}")
    if inspect.iscoroutinefunction(is_retryable):
        raise TypeError(f"is_retryable must be a function that is not async, not {is_retryable!r}")
