"""Running handlers in tests: like a server, but their exceptions reach the test."""

from __future__ import annotations

import sys

from ..connection.session import close_after
from ..connection.websocket import connection_of
from ..misuse.usage import call_async
from ..server.accept import is_connection_closed
from ..server.server import Handler, ServerWebSocket

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["find_failure", "run_handler"]


async def run_handler(handler: Handler, ws: ServerWebSocket) -> None:
    """Call a handler and close the connection. Raise the exceptions that :func:`trio_ws.serve` logs as failures."""
    try:
        await call_async("handler", handler, ws)
    except BaseException as exc:
        failure = find_failure(exc, ws)
        await close_after(ws, exc)
        if failure is not None:
            raise
        rest = exc.split(Exception)[1] if isinstance(exc, BaseExceptionGroup) else exc
        if rest is not None and not isinstance(rest, Exception):
            raise rest from None
    else:
        await close_after(ws, None)


def find_failure(exc: BaseException, ws: ServerWebSocket) -> Exception | None:
    """Return the part of a handler's exception that :func:`trio_ws.serve` logs as a failure; None if there is none.

    Call this before the connection is closed. A ConnectionClosed is no failure if the connection is over: the peer left
    while the handler was using it.
    """
    failure = exc.split(Exception)[0] if isinstance(exc, BaseExceptionGroup) else exc
    if not isinstance(failure, Exception):
        return None
    return None if connection_of(ws).state.is_settled and is_connection_closed(failure) else failure
