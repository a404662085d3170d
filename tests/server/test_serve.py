"""The arguments of ``serve``: ports, Unix sockets and listeners."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws

from ..support import echo
from .clients import (
    MemoryListener,
    never,
    start,
    start_in_memory,
    start_tcp,
    url,
)

pytestmark = pytest.mark.usefixtures("watchdog")

# -- Listeners -------------------------------------------------------------------------------------------------------


async def test_serve(nursery: trio.Nursery) -> None:
    server = await start(nursery, echo, port=0, host="127.0.0.1")
    assert server.addresses == [("127.0.0.1", server.port)]
    assert server.port > 0
    assert repr(server) == f"<Server on [('127.0.0.1', {server.port})] with 0 connections>"
    async with trio_ws.connect(url(server)) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        assert [each.remote_address for each in server.connections] == [ws.local_address]
        assert repr(server).endswith(" with 1 connections>")
        async with trio_ws.connect(url(server)) as other:
            await other.send("hello")
            assert await other.receive() == "hello"
            assert len(server.connections) == 2
            before = server.connections
    await server.aclose()
    # Both attributes are copies: a later change of the server does not affect them, nor do they affect the server.
    assert len(before) == 2
    assert server.connections == frozenset()
    server.addresses.clear()
    assert len(server.addresses) == 1


async def test_serve_without_start() -> None:
    """Without ``nursery.start``, with the port as the second argument."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_ws.serve, echo, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


async def test_several_listeners(nursery: trio.Nursery) -> None:
    listeners: list[trio.abc.Listener[Any]] = [MemoryListener()]
    listeners += await trio.open_tcp_listeners(0, host="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listeners += await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    server = await start(nursery, echo, listeners=listeners)
    first, second, third = server.addresses
    assert first is None
    assert second == ("127.0.0.1", server.port)
    assert third[0] == "127.0.0.1"
    assert third[1] != server.port
    assert isinstance(listeners[0], MemoryListener)
    async with trio_ws.connect(url(server)), trio_ws.connect_over(listeners[0].connect(), "ws://any/"):
        assert len(server.connections) == 2
    await server.aclose()
    assert listeners[0].closed


async def test_no_tcp_port(nursery: trio.Nursery) -> None:
    server, _ = await start_in_memory(nursery, echo)
    assert server.addresses == [None]
    with pytest.raises(AttributeError):
        server.port  # noqa: B018


async def test_tls(nursery: trio.Nursery, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    server = await start_tcp(nursery, ssl=server_context)
    async with trio_ws.connect(f"wss://127.0.0.1:{server.port}", ssl=client_context) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        (ours,) = server.connections
        assert (ours.local_address, ours.remote_address) == (ws.remote_address, ws.local_address)


async def test_arguments_that_would_be_ignored(server_context: ssl.SSLContext) -> None:
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as tcp:
        tls = trio.SSLListener(tcp, server_context)
        for options, message in (
            ({"listeners": [tcp], "backlog": 5}, "backlog must be given together with port or path"),
            ({"listeners": [tcp], "host": "localhost"}, "host must be given together with port"),
            ({"listeners": [tcp], "reuse_port": True}, "reuse_port must be given together with port"),
            ({"listeners": [tcp], "mode": 0o660}, "mode must be given together with the path"),
            (
                {"listeners": [tcp, tls], "ssl": server_context},
                "ssl must not be given together with a trio.SSLListener",
            ),
            ({"path": "app.sock", "host": "localhost"}, "host must be given together with port"),
            ({"path": "app.sock", "reuse_port": True}, "reuse_port must be given together with port"),
            ({"port": 0, "mode": 0o660}, "mode must be given together with the path"),
            ({"port": 0, "process_request": {print}}, "process_request must be a function, a sequence"),
        ):
            with pytest.raises(TypeError, match=message):
                await trio_ws.serve(echo, **options)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"port": 0, "backlog": 0}, ValueError, "backlog must be at least 1, not 0"),
        ({"port": 0, "backlog": -1}, ValueError, "backlog must be at least 1, not -1"),
        ({"port": 0, "backlog": "5"}, TypeError, "backlog must be an int, not '5'"),
        ({"path": "app.sock", "backlog": 1.5}, TypeError, "backlog must be an int, not 1.5"),
        ({"path": "app.sock", "backlog": True}, TypeError, "backlog must be an int, not True"),
        ({"listeners": []}, ValueError, "listeners must not be empty"),
        ({"listeners": [1]}, TypeError, "each of listeners must be a Trio listener, not 1"),
        ({"listeners": MemoryListener()}, TypeError, "listeners must be an iterable of Trio listeners"),
        ({"listeners": {1}}, TypeError, "each of listeners must be a Trio listener, not 1"),
    ],
)
async def test_arguments_of_the_wrong_kind(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await trio_ws.serve(echo, **options)


async def test_listeners_of_any_iterable(nursery: trio.Nursery) -> None:
    listener = MemoryListener()
    server = await start(nursery, echo, listeners=(each for each in [listener]))
    async with trio_ws.connect_over(listener.connect(), "ws://any/"):
        pass
    await server.aclose()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets on this system")
class TestUnixSocket:
    @pytest.mark.parametrize("convert", [str, Path])
    async def test_the_file_exists_while_the_server_runs(self, convert: Callable[[Path], Any], tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            server = await start(nursery, echo, path=convert(path))
            assert server.addresses == [str(path)]
            with pytest.raises(AttributeError):
                server.port  # noqa: B018
            stream = await trio.open_unix_socket(path)
            async with trio_ws.connect_over(stream, "ws://any/") as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
            await server.aclose()
            assert not path.exists()

    async def test_cancelled(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            await start(nursery, echo, path=path, backlog=1)
            assert path.exists()
            nursery.cancel_scope.cancel()
        assert not path.exists()

    async def test_in_use(self, tmp_path: Path, nothing_left: Callable[[], None]) -> None:
        path = tmp_path / "socket"
        path.write_text("mine")
        with pytest.raises(OSError) as caught:
            await trio_ws.serve(echo, path=path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.read_text() == "mine"
        nothing_left()

    async def test_the_file_was_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            await start(nursery, echo, path=path)
            path.unlink()
            nursery.cancel_scope.cancel()
        assert not path.exists()

    async def test_the_file_was_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            old = await start(nursery, echo, path=path)
            # The old file is moved, not removed: otherwise the new one could get the same inode.
            path.rename(tmp_path / "old")
            new = await start(nursery, echo, path=path)
            await old.aclose()
            assert path.exists()
            await new.aclose()
            assert not path.exists()


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({}, TypeError),
        ({"port": 0, "path": "socket"}, TypeError),
        ({"port": 0, "listeners": [MemoryListener()]}, TypeError),
        ({"path": "socket", "listeners": [MemoryListener()]}, TypeError),
        ({"path": "socket", "host": "127.0.0.1"}, TypeError),
        ({"host": "127.0.0.1"}, TypeError),
        ({"listeners": []}, ValueError),
        ({"port": 0, "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}, ValueError),
        ({"port": 0, "nonsense": 1}, TypeError),
        ({"port": 0, "max_message_size": -1}, ValueError),
        ({"port": 0, "subprotocols": "chat"}, TypeError),
        ({"port": 0, "host": "203.0.113.1"}, OSError),
    ],
)
async def test_arguments(arguments: dict[str, Any], error: type[Exception], nothing_left: Callable[[], None]) -> None:
    with pytest.raises(error):
        await trio_ws.serve(never, **arguments)
    nothing_left()


@pytest.mark.parametrize("options, error", [({"nonsense": 1}, TypeError), ({"open_timeout": -1}, ValueError)])
async def test_arguments_of_serve_over(options: dict[str, Any], error: type[Exception]) -> None:
    _, stream = trio.testing.memory_stream_pair()
    with pytest.raises(error):
        await trio_ws.serve_over(stream, never, **options)


async def test_port_in_use(nursery: trio.Nursery) -> None:
    server = await start_tcp(nursery)
    with pytest.raises(OSError) as caught:
        await trio_ws.serve(never, server.port, host="127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE
