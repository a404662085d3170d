"""Making one connection after the other: ``Connector``, behind ``attempts`` and ``open_reconnecting``.

What both do alike:

1. **A predicate says whether connecting again may help**: ``is_retryable``, asked about everything that connecting
   raises, and about how each connection ended, a normal end included. When it says no, that is the end.
2. **Before each attempt but the first there is a wait**: see :mod:`trio_ws.client.backoff`. When the limits of the
   :class:`Backoff` are reached, the last error is the end.
3. **Nothing is kept of the connection before.** The messages that the server sent while there was no connection are
   lost, and so may be what was sent last: that it was given to a connection does not mean that it has arrived.
4. **No generator holds anything**, and nothing is open that ``async with`` does not close.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from ..exceptions import ConnectFailed
from ..settings import check_names
from .backoff import Backoff
from .connect import Connecting, connect
from .options import ConnectOptions

__all__ = ["Connector", "Target", "check_retrying"]

#: What to connect to: a URI, or a function that is called for each attempt and returns what :func:`connect` returns.
Target: TypeAlias = "str | Callable[[], Connecting | Awaitable[Connecting]]"


class Connector:
    """Makes the connections of one client, one after the other.

    Args:
        function: The name of the function that was called with the options.
        target: The URI, or a function that says how to connect.
        options: The keyword arguments of :func:`connect`, for a URI.

    Raises:
        Exception: as :func:`connect` does.
        TypeError: if there are both a function and options.
    """

    def __init__(self, function: str, target: Target, options: ConnectOptions) -> None:
        self._target = target
        self._options = options
        self._first: Connecting | None = None
        if not callable(target):
            check_names(function, options, ConnectOptions)
            # What is wrong with the arguments is raised now, and not in the background.
            self._first = connect(target, **options)
        elif options:
            raise TypeError(f"{', '.join(options)}: give that to the connect() in the function, not besides it")

    async def dial(self) -> Connecting:
        """Return the next connection, which is to be entered at once: it may hold a stream."""
        if not callable(self._target):
            first, self._first = self._first, None
            return connect(self._target, **self._options) if first is None else first
        try:
            result = self._target()
            connecting = await result if inspect.isawaitable(result) else result
        except ConnectFailed:
            raise
        except OSError as exc:
            raise ConnectFailed("the server", exc.strerror or str(exc) or type(exc).__name__) from exc
        if not isinstance(connecting, Connecting):
            raise TypeError(f"the function returns what connect() returns, not {connecting!r}")
        return connecting


def check_retrying(backoff: Any, is_retryable: Any) -> None:
    """Check the types of the options that say when to connect again."""
    if not isinstance(backoff, Backoff):
        raise TypeError(f"backoff is a Backoff, not {backoff!r}")
    if not callable(is_retryable):
        raise TypeError(f"is_retryable is a function, not {is_retryable!r}")
