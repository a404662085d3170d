"""Servers on real sockets for tests: ``StartServer``, ``RunningServer``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from ..misuse.names import check_names
from ..misuse.usage import call_async, check_async_function
from ..server.options import ServeOptions
from ..server.routing import Router
from ..server.serve import serve
from ..server.server import Handler, ProcessRequest, Server, ServerWebSocket
from .handlers import find_failure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RunningServer", "StartServer"]


@attrs.frozen
class RunningServer:
    """A server that listens on a free port of this machine.

    Attributes:
        uri: The URI of the server, such as ``ws://127.0.0.1:40123``. Append a path to it.
        server: The server, for example to close it.
    """

    uri: str
    server: Server


class StartServer:
    """Starts servers that run until a nursery is cancelled. The fixture ``ws_server`` of the plugin is one.

    ::

        async def test_adder(ws_server: StartServer) -> None:
            server = await ws_server(adder)
            async with trio_ws.connect(server.uri) as ws: ...

    Args:
        nursery: The nursery in which the servers run.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def __call__(
        self, handler: Handler, *, raise_exceptions: bool = True, **options: Unpack[ServeOptions]
    ) -> RunningServer:
        """Start a server on a free port. Return once it is listening.

        Args:
            handler: The handler, or a router from :func:`~trio_ws.route`.
            raise_exceptions: Whether the exceptions of the handler are raised in the nursery too, so that the test
                fails. If False, they are only logged, as always. A :exc:`~trio_ws.ConnectionClosed` of a connection
                that is over is never raised.
            **options: See :class:`~trio_ws.ServeOptions`. The other parameters of :func:`~trio_ws.serve`, such as
                ``host``, ``ssl`` and ``limits``, are not among them.

        Raises:
            TypeError: If the handler is not an async function, or an option is unknown or of the wrong type.
            ValueError: If an option is out of range.
        """
        check_async_function("handler", handler)
        _check_options(options)
        if raise_exceptions:
            if isinstance(handler, Router):
                given = options.get("process_request") or ()
                functions: Iterable[ProcessRequest] = (given,) if callable(given) else given
                options["process_request"] = (*functions, handler.process_request)
            handler = self._report_failures(handler)
        server: Server = await self._nursery.start(partial(serve, handler, 0, host="127.0.0.1", **options))
        return RunningServer(f"ws://127.0.0.1:{server.port}", server)

    def _report_failures(self, handler: Handler) -> Handler:
        async def handle(ws: ServerWebSocket) -> None:
            try:
                await call_async("handler", handler, ws)
            except BaseException as exc:
                failure = find_failure(exc, ws)
                if failure is not None:
                    self._nursery.start_soon(_raise, failure)
                raise

        return handle


def _check_options(options: ServeOptions) -> None:
    """Check that all options are known. The parameters that only ``serve`` has would contradict the URI."""
    for option in options:
        if option in inspect.signature(serve).parameters:
            raise TypeError(
                f"StartServer takes only the options in trio_ws.ServeOptions, not {option!r}: for that, use"
                f" nursery.start(partial(trio_ws.serve, handler, ..., {option}=...))"
            )
    check_names(StartServer, options, ServeOptions)


async def _raise(exc: Exception) -> None:
    raise exc
