"""Interoperability with ``ws``, the WebSocket library of Node.

It runs in a process of its own, see ``node_peer.mjs``. The package is installed once, into ``node_modules`` next to
this file. Without Node these tests are skipped.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_ws
from trio_ws import Deflate
from trio_ws.exceptions import ConnectionClosedOK, InvalidStatus

from ..support import HANGS
from .compression import OUR_ANSWERS, Answer, Negotiation, Theirs, ours, theirs
from .peers import (
    MIB,
    SIMILAR,
    Certificates,
    Connect,
    End,
    Library,
    Listening,
    Peer,
    Scenarios,
    negotiated,
    result_of,
)

HERE = Path(__file__).parent


def install(npm: str) -> Path:
    """Return a folder with the packages of ``package.json``. Install them first if necessary."""
    package = HERE / "package.json"
    version: str = json.loads(package.read_text())["dependencies"]["ws"]
    folder = HERE / "node_modules" / version
    if folder.exists():
        return folder
    folder.parent.mkdir(exist_ok=True)
    # Install to a temporary folder first, because several test runs may do this at the same time.
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
        staging = Path(temporary) / "package"
        staging.mkdir()
        shutil.copy(package, staging)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(
            command,
            cwd=staging,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=HANGS,
        )
        if done.returncode != 0:
            pytest.fail(f"npm cannot install ws:\n{done.stdout}{done.stderr}")
        try:
            staging.rename(folder)
        except OSError:
            assert folder.exists()  # another test run was faster
    return folder


class Node:
    """The process of the Node peer."""

    def __init__(self, node: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [node, str(HERE / "node_peer.mjs"), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.ids = itertools.count()
        self.futures: dict[int, Future[Any]] = {}
        self.reader = threading.Thread(target=self.read, name="node")
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            outcome = json.loads(line)
            future = self.futures.pop(outcome["id"])
            if "error" in outcome:
                future.set_exception(RuntimeError(outcome["error"]))
            else:
                future.set_result(outcome["result"])
        for future in self.futures.values():
            future.set_exception(RuntimeError("Node has ended"))

    async def call(self, name: str, **parameters: Any) -> Any:
        assert self.process.stdin is not None
        number = next(self.ids)
        future = self.futures[number] = Future()
        line = json.dumps({"id": number, "call": name, **parameters}).encode() + b"\n"
        # In a thread, because the process may read slower than we write.
        await trio.to_thread.run_sync(self.write, line)
        return await result_of(future)

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.reader.join()
        self.process.stdout.close()
        assert self.process.wait() == 0


def encode(message: str | bytes) -> dict[str, str]:
    return {"text": message} if isinstance(message, str) else {"binary": base64.b64encode(message).decode()}


@attrs.define
class NodePeer(Peer):
    node: Node
    connection: int

    async def send(self, message: str | bytes, *, compress: bool = True) -> None:
        await self.node.call("send", connection=self.connection, message=encode(message), compress=compress)

    async def send_parts(self, parts: Sequence[str] | Sequence[bytes]) -> None:
        await self.node.call("send_parts", connection=self.connection, parts=[encode(part) for part in parts])

    async def receive(self) -> str | bytes | End:
        received = await self.node.call("receive", connection=self.connection)
        if "close" in received:
            return End(*received["close"])
        return received["text"] if "text" in received else base64.b64decode(received["binary"])

    async def echo(self, count: int) -> None:
        await self.node.call("echo", connection=self.connection, count=count)

    async def ping(self) -> None:
        await self.node.call("ping", connection=self.connection)

    async def close(self, code: int | None, reason: str = "") -> None:
        await self.node.call("close", connection=self.connection, code=code, reason=reason)

    async def kill(self) -> None:
        await self.node.call("kill", connection=self.connection)


class NodeListening(Listening):
    def __init__(self, node: Node, server: int, port: int) -> None:
        self.node = node
        self.server = server
        self.port = port

    async def accept(self) -> Peer:
        return make_peer(self.node, await self.node.call("accept", server=self.server))


def make_peer(node: Node, answer: dict[str, Any]) -> Peer:
    return NodePeer(answer["subprotocol"], answer["header"], node, answer["connection"])


def compress(compression: Theirs) -> Any:
    """Return the settings of the library: by default, compression without a threshold."""
    if compression is None:
        return False
    return {"threshold": 0, **({} if compression == "default" else compression)}


class NodeWs(Library):
    """ws. Its client offers permessage-deflate by default, and its server accepts it here."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def connect(
        self,
        uri: str,
        tls: Certificates | None,
        subprotocols: Sequence[str],
        limit: int,
        compression: Theirs = "default",
    ) -> Peer:
        answer = await self.node.call(
            "connect",
            uri=uri,
            ca=None if tls is None else tls.authority,
            subprotocols=list(subprotocols),
            limit=limit,
            deflate=compress(compression),
        )
        return make_peer(self.node, answer)

    @contextlib.asynccontextmanager
    async def listen(
        self, tls: Certificates | None, subprotocols: Sequence[str], limit: int, compression: Theirs = "default"
    ) -> AsyncIterator[Listening]:
        pem = None if tls is None else {"cert": tls.chain, "key": tls.key}
        answer = await self.node.call(
            "listen", tls=pem, subprotocols=list(subprotocols), limit=limit, deflate=compress(compression)
        )
        try:
            yield NodeListening(self.node, **answer)
        finally:
            with trio.CancelScope(shield=True):
                await self.node.call("stop", server=answer["server"])


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        # Contributors to a Python library need not have Node. CI has it.
        pytest.skip("Node is not installed: there is no `node` or no `npm`")
    process = Node(node, install(npm))
    yield NodeWs(process)
    process.stop()


BOTH_ALONE = {"serverNoContextTakeover": True, "clientNoContextTakeover": True}
SMALL = {"serverMaxWindowBits": 9, "clientMaxWindowBits": 10}

NEGOTIATIONS = [
    # Its server agrees to all requests, and lets us choose our window.
    *ours(
        "client",
        {
            "off": None,
            "default": Answer(),
            "every size": Answer(),
            "server alone": Answer(server_takeover=False),
            "client alone": Answer(client_takeover=False),
            "both alone": Answer(server_takeover=False, client_takeover=False),
            "9 and 10 bits": Answer(9, 10),
            "10 and 9 bits": Answer(10, 9),
            "8 bits for the server": Answer(8),
            "8 bits for the client": Answer(None, 8),
            "15 bits": Answer(15, 15),
        },
    ),
    *ours("server", {**OUR_ANSWERS, "8 bits for the client": Answer(12, 8)}),
    *theirs(
        "client",
        ("off", None, None),
        ("server alone", {"serverNoContextTakeover": True}, Answer(server_takeover=False)),
        ("client alone", {"clientNoContextTakeover": True}, Answer(client_takeover=False)),
        ("both alone", BOTH_ALONE, Answer(server_takeover=False, client_takeover=False)),
        ("9 and 10 bits", SMALL, Answer(9, 10)),
        ("8 bits", {"serverMaxWindowBits": 8, "clientMaxWindowBits": 8}, Answer(8, 8)),
        ("15 bits", {"serverMaxWindowBits": 15, "clientMaxWindowBits": 15}, Answer(15, 15)),
    ),
    *theirs(
        "server",
        ("off", None, None),
        # Without this offer we may not choose its window.
        ("own window", {"clientMaxWindowBits": False}, Answer(12, None)),
        ("server alone", {"serverNoContextTakeover": True}, Answer(12, 12, server_takeover=False)),
        ("client alone", {"clientNoContextTakeover": True}, Answer(12, 12, client_takeover=False)),
        ("both alone", BOTH_ALONE, Answer(12, 12, server_takeover=False, client_takeover=False)),
        ("9 and 10 bits", SMALL, Answer(9, 10)),
        ("8 bits", {"serverMaxWindowBits": 8, "clientMaxWindowBits": 8}, Answer(8, 8)),
        ("15 bits", {"serverMaxWindowBits": 15, "clientMaxWindowBits": 15}, Answer(12, 12)),
    ),
    # Settings of both ends.
    Negotiation(
        "client",
        "both less",
        Deflate(server_max_window_bits=10, client_max_window_bits=10, server_no_context_takeover=True),
        {"serverMaxWindowBits": 9, "clientMaxWindowBits": 9, "clientNoContextTakeover": True},
        Answer(9, 9, server_takeover=False, client_takeover=False),
    ),
    Negotiation(
        "server",
        "both less",
        Deflate(server_max_window_bits=10, client_max_window_bits=9, server_no_context_takeover=True),
        {"serverMaxWindowBits": 9, "clientMaxWindowBits": 10, "clientNoContextTakeover": True},
        Answer(9, 9, server_takeover=False, client_takeover=False),
    ),
    # It also has a threshold, but only without context takeover.
    Negotiation(
        "client",
        "their threshold",
        "deflate",
        {"serverNoContextTakeover": True, "threshold": 1000},
        Answer(server_takeover=False),
        threshold=1000,
    ),
    Negotiation(
        "server",
        "their threshold",
        "deflate",
        {"clientNoContextTakeover": True, "threshold": 1000},
        Answer(12, 12, client_takeover=False),
        threshold=1000,
    ),
]


class TestNodeWs(Scenarios):
    async def test_no_subprotocol_in_common(self, library: Library, role: str) -> None:
        if role == "client":
            await super().test_no_subprotocol_in_common(library, role)
            return
        # This client rejects a response without a subprotocol, although that is valid (RFC 6455, section 4.2.2).
        async with trio.open_nursery() as nursery:
            serve = partial(trio_ws.serve, trio_ws.WebSocket.receive, 0, host="127.0.0.1", subprotocols=["b"])
            server = await nursery.start(serve)
            with pytest.raises(RuntimeError, match="no subprotocol"):
                await library.connect(f"ws://127.0.0.1:{server.port}/path", None, ["a"], MIB)
            await server.aclose()

    async def test_a_window_too_small_for_its_server(self, library: Library) -> None:
        # It rejects the request, although it could go on without compression.
        compression = Deflate(server_max_window_bits=9)
        async with library.listen(None, [], MIB, {"serverMaxWindowBits": 10}) as listening:
            with pytest.raises(InvalidStatus) as caught:
                async with trio_ws.connect(f"ws://127.0.0.1:{listening.port}/path", compression=compression):
                    pytest.fail("the connection was opened")
        assert caught.value.response.status_code == 400

    async def test_messages_below_its_threshold(self, library: Library, negotiation: Negotiation) -> None:
        async with negotiated(library, negotiation) as (ws, peer, _, theirs):
            assert isinstance(peer, NodePeer)
            plain = attrs.evolve(theirs, send=partial(peer.send, compress=False), compresses=False)
            # The uncompressed messages do not enter the window.
            for direction in theirs, plain, theirs:
                await direction.exchange(*SIMILAR[:3], 100 * SIMILAR[0].encode())
        assert ws.close_code == 1000
        assert await peer.receive() == End(1000, "")

    async def test_close_frame_without_a_code(self, connected: Connect) -> None:
        async with connected() as (ws, peer), trio.open_nursery() as nursery:
            assert isinstance(peer, NodePeer)
            nursery.start_soon(peer.close, None)
            with pytest.raises(ConnectionClosedOK) as caught:
                await ws.receive()
            assert caught.value.code == 1005
            # We send the same.
            assert await peer.receive() == End(1005, "")
