"""The fixtures of the pytest plugin, and running handlers in tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.testing import StartServer, WebSocketPair, memory_websocket_pair

from ..support import echo

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytest_plugins = ["trio_ws.testing.plugin"]

ROOT = Path(__file__).resolve().parent.parent.parent


async def echo_once(ws: trio_ws.WebSocket) -> None:
    await ws.send(await ws.receive())


async def ask_forever(ws: trio_ws.WebSocket) -> None:
    """Fails when the client leaves."""
    while True:
        await ws.send("more?")
        await ws.receive()


# -- A pair ----------------------------------------------------------------------------------------------------------


async def test_ws_pair(ws_pair: WebSocketPair) -> None:
    client, server = ws_pair
    assert (client, server) == (ws_pair.client, ws_pair.server)
    await client.send("hello")
    assert await server.receive() == "hello"


async def test_ws_pair_serves_a_handler(ws_pair: WebSocketPair, nursery: trio.Nursery) -> None:
    nursery.start_soon(ws_pair.serve, echo_once)
    await ws_pair.client.send("hello")
    assert [message async for message in ws_pair.client] == ["hello"]
    assert ws_pair.client.close_code == 1000


async def test_ws_pair_with_a_handler_that_does_not_end(ws_pair: WebSocketPair, nursery: trio.Nursery) -> None:
    nursery.start_soon(ws_pair.serve, ask_forever)
    assert await ws_pair.client.receive() == "more?"


@pytest.mark.parametrize("abort", [False, True])
async def test_a_handler_whose_client_leaves(abort: bool) -> None:
    async def ask_in_nursery(ws: trio_ws.WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_forever, ws)

    for handler in (echo, ask_forever, ask_in_nursery):
        async with memory_websocket_pair() as pair, trio.open_nursery() as nursery:
            nursery.start_soon(pair.serve, handler)
            await trio.testing.wait_all_tasks_blocked()
            if abort:
                pair.client.abort()
            else:
                await pair.client.aclose(4000)
        # The handlers without a nursery raised a ConnectionClosedError, which is not a failure.
        assert pair.server.state is trio_ws.State.CLOSED


async def failure_of(handler: Callable[[trio_ws.WebSocket], Awaitable[object]], code: int) -> BaseException:
    """Return the exception that ``serve()`` of a pair raises; check the code that the client gets."""
    async with memory_websocket_pair() as pair:
        with pytest.raises(BaseException) as caught:
            await pair.serve(handler)
        with pytest.raises(trio_ws.ConnectionClosed):
            await pair.client.receive()
        assert pair.client.close_code == code
    return caught.value


async def test_a_handler_that_fails() -> None:
    exc = ValueError("a bug")

    async def fail(ws: trio_ws.WebSocket) -> None:
        raise exc

    assert await failure_of(fail, 1011) is exc


async def test_a_handler_that_fails_after_the_client_left() -> None:
    async def fail(ws: trio_ws.WebSocket) -> None:
        await ws.wait_closed()
        raise ValueError

    async with memory_websocket_pair() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.client.aclose)
        with pytest.raises(ValueError):
            await pair.serve(fail)


async def test_groups_of_exceptions() -> None:
    closed = trio_ws.ConnectionClosedOK(None, None)
    for group, expected in [
        (ExceptionGroup("", [closed, ValueError()]), [trio_ws.ConnectionClosedOK, ValueError]),
        (BaseExceptionGroup("", [closed, KeyboardInterrupt()]), [KeyboardInterrupt]),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), [KeyboardInterrupt]),
        (ExceptionGroup("", [closed]), []),
    ]:

        async def fail(ws: trio_ws.WebSocket, group: BaseException = group) -> None:
            await ws.wait_closed()
            raise group

        async with memory_websocket_pair() as pair, trio.open_nursery() as nursery:
            nursery.start_soon(pair.client.aclose)
            if expected:
                with pytest.raises(BaseExceptionGroup) as caught:
                    await pair.serve(fail)
                assert [type(exc) for exc in caught.value.exceptions] == expected
            else:
                await pair.serve(fail)


async def test_a_handler_that_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_websocket_pair() as pair:
        with trio.move_on_after(1) as scope:
            await pair.serve(echo)
        assert scope.cancelled_caught
        with pytest.raises(trio_ws.ConnectionClosed):
            await pair.client.receive()
        assert pair.client.close_code == 1001


async def test_a_pair_with_a_handler_that_is_not_async(ws_pair: WebSocketPair) -> None:
    def handler(ws: trio_ws.ServerWebSocket) -> None: ...

    with pytest.raises(TypeError, match="handler must be an async function"):
        await ws_pair.serve(handler)  # type: ignore[arg-type]  # wrong on purpose
    assert ws_pair.server.state is trio_ws.State.OPEN
    with pytest.raises(TypeError, match=r"handler must be an async function, but .* returned None"):
        await ws_pair.serve(partial(handler))  # type: ignore[arg-type]  # wrong on purpose


async def test_a_pair_with_a_router(ws_pair: WebSocketPair) -> None:
    with pytest.raises(TypeError, match=r"handler must not be a router.*serve_over\(\) or the fixture ws_server"):
        await ws_pair.serve(trio_ws.route({"/": echo}))
    assert ws_pair.server.state is trio_ws.State.OPEN


# -- Servers ---------------------------------------------------------------------------------------------------------


async def test_ws_server(ws_server: StartServer) -> None:
    first = await ws_server(echo)
    second = await ws_server(echo_once, subprotocols=["chat"])
    async with trio_ws.connect(f"{first.uri}/path") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        (connection,) = first.server.connections
        assert connection.request.path == "/path"
    async with trio_ws.connect(second.uri, subprotocols=["chat"]) as ws:
        assert ws.subprotocol == "chat"
    await first.server.aclose()


async def test_ws_server_with_a_handler_that_is_not_async(ws_server: StartServer) -> None:
    def handler(ws: trio_ws.ServerWebSocket) -> None: ...

    with pytest.raises(TypeError, match="handler must be an async function"):
        await ws_server(handler)  # type: ignore[arg-type]  # wrong on purpose


async def test_ws_server_with_parameters_of_serve(ws_server: StartServer, tmp_path: Path) -> None:
    for option, value in [
        ("host", "localhost"),
        ("port", 0),
        ("path", tmp_path / "app.sock"),
        ("limits", trio_ws.Limits()),
        ("ssl", None),
    ]:
        with pytest.raises(TypeError, match=rf"only the options in trio_ws\.ServeOptions, not '{option}'"):
            await ws_server(echo, **{option: value})  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="no option 'max_mesage_size'; did you mean 'max_message_size'"):
        await ws_server(echo, max_mesage_size=1)  # type: ignore[call-arg]  # wrong on purpose


async def test_ws_server_with_a_client_that_leaves(ws_server: StartServer) -> None:
    server = await ws_server(ask_forever)
    async with trio_ws.connect(server.uri) as ws:
        assert await ws.receive() == "more?"
    async with trio_ws.connect(server.uri) as ws:
        ws.abort()


@pytest.mark.parametrize("process_request", [None, lambda opening, request: None, [lambda opening, request: None]])
async def test_ws_server_with_a_router(ws_server: StartServer, process_request: trio_ws.ProcessRequest | None) -> None:
    server = await ws_server(trio_ws.route({"/echo": echo}), process_request=process_request)
    async with trio_ws.connect(f"{server.uri}/echo") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
    with pytest.raises(trio_ws.InvalidStatus):
        async with trio_ws.connect(server.uri):
            pass


async def fail_on_message(ws: trio_ws.WebSocket) -> None:
    await ws.receive()
    raise ValueError("a bug")


async def test_ws_server_that_may_fail(ws_server: StartServer) -> None:
    server = await ws_server(fail_on_message, raise_exceptions=False)
    async with trio_ws.connect(server.uri) as ws:
        await ws.send("x")
        with pytest.raises(trio_ws.ConnectionClosedError):
            await ws.receive()
        assert ws.close_code == 1011


@pytest.mark.parametrize("routed", [False, True])
async def test_an_exception_of_a_handler_is_raised(routed: bool) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            handler = trio_ws.route({"/": fail_on_message}) if routed else fail_on_message
            server = await StartServer(nursery)(handler)
            async with trio_ws.connect(server.uri) as ws:
                await ws.send("x")
                await trio.sleep_forever()
    assert [type(exc) for exc in caught.value.exceptions] == [ValueError]


# -- In a project of its own -----------------------------------------------------------------------------------------

PROJECT = """\
import trio_ws

pytest_plugins = ["trio_ws.testing.plugin"]


async def fail(ws):
    raise ValueError("a bug")


async def test_pair(ws_pair):
    await ws_pair.client.send("hello")
    assert await ws_pair.server.receive() == "hello"


async def test_pair_fails(ws_pair, nursery):
    nursery.start_soon(ws_pair.serve, fail)
    await ws_pair.client.wait_closed()


async def test_server_fails(ws_server):
    server = await ws_server(fail)
    async with trio_ws.connect(server.uri) as ws:
        await ws.wait_closed()
"""


def run_pytest(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:cov", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout


@pytest.mark.parametrize("trio_mode", [False, True])
def test_in_a_project(trio_mode: bool, tmp_path: Path) -> None:
    mark = "" if trio_mode else "import pytest\npytestmark = pytest.mark.trio\n"
    (tmp_path / "test_it.py").write_text(mark + PROJECT)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntrio_mode = {trio_mode}\nfilterwarnings = error\n")
    output = run_pytest(tmp_path, "-q", "-rfE")
    assert re.search("^2 failed, 1 passed", output, re.MULTILINE), output
    assert output.count("ValueError: a bug") >= 2


def test_nothing_is_loaded_unasked(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import sys\ndef test_it():\n    assert 'trio_ws' not in sys.modules\n")
    assert "1 passed" in run_pytest(tmp_path)
