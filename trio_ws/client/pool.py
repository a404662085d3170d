"""``HTTP2Pool``: HTTP/2 connections that several WebSockets share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Hashable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

from ..misuse.usage import AsyncWithOnly, check_in_trio

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["HTTP2Pool", "Pooled"]


class Pooled(Protocol):
    """The part of an HTTP/2 connection that a pool uses.

    Attributes:
        on_end: A function to call when the connection has ended.
    """

    on_end: Callable[[], object]

    @property
    def has_room(self) -> bool:
        """Whether another stream may be opened now."""
        ...

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks of the connection."""
        ...

    async def aclose(self, seconds: float) -> None:
        """Close the connection."""
        ...


P = TypeVar("P", bound=Pooled)

#: The number of servers without HTTP/2 that a pool remembers. Each may keep a TLS context in memory.
MAX_UNSUPPORTED = 100


class HTTP2Pool(AsyncWithOnly):
    """A pool of HTTP/2 connections to servers, which the WebSockets that use it share.

    ::

        async with trio_ws.HTTP2Pool() as pool:
            async with trio_ws.connect("wss://example.org/a", http2=True, pool=pool) as a:
                async with trio_ws.connect("wss://example.org/b", http2=True, pool=pool) as b:
                    ...

    WebSockets share a connection if they have the same scheme, host and port, and the same options for connecting, such
    as ``ssl``, ``proxy`` and ``max_head_size``. The first one opens it. When the server allows no more streams, another
    one is opened. A server that does not speak WebSocket over HTTP/2 is connected to with HTTP/1.1, without the pool.

    The connections live in a nursery of the pool. They stay open between WebSockets, and are closed at the end of the
    block, together with the WebSockets that are still open. Tasks that are connecting with the pool then get a
    :exc:`RuntimeError`, or a :exc:`ConnectFailed` if they have sent their requests. It can be entered once.
    """

    def __init__(self) -> None:
        # The context manager of the nursery, from the beginning of the block on; and the nursery until its end.
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        # Those of the tasks that dial, or wait for another task that does.
        self._scopes: set[trio.CancelScope] = set()
        # The servers to which connections are open or being opened.
        self._entries: dict[Hashable, _Entry[Pooled]] = {}
        # Servers that are known not to speak WebSocket over HTTP/2: an ordered set, with the last used ones at the end.
        self._unsupported: dict[Hashable, None] = {}

    def _explain_use(self) -> str:
        return "an HTTP2Pool must be used as `async with HTTP2Pool() as pool:`"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {self.connections} connections>"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return sum(len(entry.connections) for entry in self._entries.values())

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._manager is not None:
            raise RuntimeError("a pool must be entered only once")
        check_in_trio("HTTP2Pool()")
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._manager is None or self._nursery is None:
            raise RuntimeError("the pool was not entered")
        nursery, self._nursery = self._nursery, None
        for scope in self._scopes:
            scope.cancel()
        # From here on, nothing waits for a peer for long, so it need not be cancelled.
        nursery.cancel_scope.shield = True
        for entry in list(self._entries.values()):
            for connection in list(entry.connections):
                nursery.start_soon(connection.aclose, 0)
        await self._manager.__aexit__(None, None, None)

    async def get(
        self, key: Hashable, dial: Callable[[], Awaitable[P | None]], refused: Container[object] = ()
    ) -> P | None:
        """Return a connection with room for another stream. Internal: :func:`connect` calls it.

        Only one task at a time dials for a key; the others wait for it.

        Args:
            key: Identifies the server, and the way to it.
            dial: A function that opens a connection. It returns None if the server does not speak HTTP/2.
            refused: The connections that must not be returned.

        Raises:
            RuntimeError: If the pool is not open, or is closed meanwhile.
            Exception: If ``dial`` raises it.
        """
        self._check_open()
        entry: _Entry[P] = self._entries.setdefault(key, _Entry())  # type: ignore[assignment]  # connections of one key have one type
        entry.users += 1
        try:
            connection = entry.find(refused)
            if connection is not None:
                return connection
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    async with entry.lock:
                        return await self._find_or_dial(key, entry, dial, refused)
                finally:
                    self._scopes.discard(scope)
            raise RuntimeError("the pool was closed")
        finally:
            entry.users -= 1
            self._drop_if_unused(key, entry)

    async def _find_or_dial(
        self, key: Hashable, entry: _Entry[P], dial: Callable[[], Awaitable[P | None]], refused: Container[object]
    ) -> P | None:
        connection = entry.find(refused)  # another task may have opened one meanwhile
        if connection is not None:
            return connection
        if key in self._unsupported:
            self.remember_unsupported(key)
            return None
        connection = await dial()
        if connection is None:
            self.remember_unsupported(key)
            return None
        if self._nursery is None:  # closed just before the connection was open
            await connection.aclose(0)
            raise RuntimeError("the pool was closed")
        entry.connections[connection] = None
        connection.on_end = partial(self._drop_connection, key, entry, connection)
        connection.start(self._nursery)
        return connection

    def _drop_connection(self, key: Hashable, entry: _Entry[P], connection: P) -> None:
        entry.connections.pop(connection, None)
        self._drop_if_unused(key, entry)

    def _drop_if_unused(self, key: Hashable, entry: _Entry[P]) -> None:
        if not entry.users and not entry.connections:
            self._entries.pop(key, None)

    def remember_unsupported(self, key: Hashable) -> None:
        """Record that a server does not speak WebSocket over HTTP/2. Internal, like :meth:`get`."""
        self._unsupported.pop(key, None)
        self._unsupported[key] = None
        if len(self._unsupported) > MAX_UNSUPPORTED:
            del self._unsupported[next(iter(self._unsupported))]

    def _check_open(self) -> None:
        if self._nursery is None:
            raise RuntimeError(
                "the pool must be open: connect inside of the block of `async with HTTP2Pool() as pool:`"
            )


class _Entry(Generic[P]):
    """The connections for one key.

    Attributes:
        connections: The connections, as an ordered set.
        lock: Held by the task that dials.
        users: The number of tasks that dial or wait for the lock.
    """

    def __init__(self) -> None:
        self.connections: dict[P, None] = {}
        self.lock = trio.Lock()
        self.users = 0

    def find(self, refused: Container[object]) -> P | None:
        return next((each for each in self.connections if each.has_room and each not in refused), None)
