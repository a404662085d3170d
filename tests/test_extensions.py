"""Extensions of the application: the ``extensions`` option of clients and servers, over real sockets.

The interfaces without I/O are tested in protocol/test_extensions.py.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from trio_ws.connection import writer
from trio_ws.connection.encoder import THREAD_SIZE
from trio_ws.exceptions import ConnectionClosedError, InvalidStatus, NegotiationError, ProtocolError
from trio_ws.protocol import RSV1, RSV2, RSV3, ClientExtension, EncodingCache, Extension, Params, ServerExtension
from trio_ws.protocol.deflate import DeflateClient, DeflateServer

from .support import each_role, echo, opened

example = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "examples" / "checksum.py"))
Checksum = example["Checksum"]
OfferChecksum = example["OfferChecksum"]
AcceptChecksum = example["AcceptChecksum"]


class Suffix:
    """An extension that appends a letter to a message, and removes it. It offers and accepts itself.

    Args:
        letter: The letter. Messages that begin with "!" make the methods raise an exception.
        rsv: The reserved bit.
    """

    def __init__(self, letter: str = "a", rsv: int = RSV2) -> None:
        self.name = f"x-{letter}"
        self.letter = letter.encode()
        self.rsv = rsv
        self.encoded: list[bytes] = []
        self._held = b""

    def offers(self) -> Sequence[Params]:
        return [()]

    def accept(self, params: Params) -> Extension:
        return self

    def answer(self, params: Params) -> tuple[Params, Extension] | None:
        return (), self

    def encode(
        self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
    ) -> tuple[bytes, bool]:
        if data.startswith(b"!encode"):
            raise RuntimeError("encode")
        self.encoded.append(data)
        return (data + self.letter if final else data), True

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        if data.startswith(b"!decode"):
            raise RuntimeError("decode")
        data, self._held = self._held + data, b""
        if not final:
            data, self._held = data[:-1], data[-1:]
        elif not data.endswith(self.letter):
            raise ProtocolError("no suffix")
        return data[:-1] if final else data

    def rest(self) -> None:
        pass


# mypy checks these lines.
_client: ClientExtension = Suffix()
_server: ServerExtension = Suffix()


async def start(nursery: trio.Nursery, **options: Any) -> str:
    """Start an echo server, and return its URI."""
    server = await nursery.start(partial(trio_ws.serve, echo, 0, host="127.0.0.1", **options))
    return f"ws://127.0.0.1:{server.port}"


async def stream(ws: trio_ws.WebSocket, message: bytes, size: int) -> None:
    async with ws.send_stream() as out:
        for start in range(0, len(message), size):
            await out.send(message[start : start + size])


# -- Negotiation and transformation --------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_checksums(
    compression: Any, at_once: bool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WRITE_AT_ONCE", at_once)
    uri = await start(nursery, compression=compression, extensions=[AcceptChecksum()], max_message_size=None)
    async with trio_ws.connect(uri, compression=compression, extensions=[OfferChecksum()], max_message_size=None) as ws:
        header = ws.response.headers["Sec-WebSocket-Extensions"]
        assert [each.partition(";")[0] for each in header.split(", ")] == [
            "x-crc32",
            *(["permessage-deflate"] if compression else []),
        ]
        for message in ("héllo", b"", "", b"abc", b"x" * THREAD_SIZE * 3, bytes(range(256)) * 100):
            await ws.send(message)
            assert await ws.receive() == message
            await ws.send(message, compress=False)
            assert await ws.receive() == message
        await stream(ws, bytes(range(256)) * 100, 77)
        assert await ws.receive() == bytes(range(256)) * 100
        async with trio.open_nursery() as sending:
            sending.start_soon(ws.send, b"y" * 300_000)
            async with ws.receive_stream() as parts:
                assert b"".join([bytes(part) async for part in parts if isinstance(part, bytes)]) == b"y" * 300_000
        for _ in range(3):
            trio_ws.broadcast([ws], "to many " * 20)
            assert await ws.receive() == "to many " * 20


async def test_one_end_without_the_extension(nursery: trio.Nursery) -> None:
    without = await start(nursery)
    async with trio_ws.connect(without, extensions=[OfferChecksum()]) as ws:
        assert ws.request.headers["Sec-WebSocket-Extensions"].startswith("x-crc32, permessage-deflate")
        assert "x-crc32" not in ws.response.headers["Sec-WebSocket-Extensions"]
        await ws.send("hello")
        assert await ws.receive() == "hello"
    uri = await start(nursery, extensions=[AcceptChecksum()], compression=None)
    async with trio_ws.connect(uri) as ws:
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_over_any_stream(nursery: trio.Nursery) -> None:
    client, server = trio.testing.memory_stream_pair()
    nursery.start_soon(partial(trio_ws.serve_over, extensions=[AcceptChecksum()]), server, echo)
    async with trio_ws.connect_over(client, "ws://example.org/", extensions=[OfferChecksum()]) as ws:
        assert ws.response.headers["Sec-WebSocket-Extensions"].startswith("x-crc32")
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def test_a_wrong_checksum(nursery: trio.Nursery) -> None:
    class Liar(Checksum):  # type: ignore[misc, valid-type]  # the class comes from the example
        def encode(self, data: bytes, *, first: bool, final: bool, cache: Any = None) -> tuple[bytes, bool]:
            return data + b"lie!", True

    class OfferLies(OfferChecksum):  # type: ignore[misc, valid-type]  # the class comes from the example
        def accept(self, params: Params) -> Extension:
            return Liar()

    uri = await start(nursery, extensions=[AcceptChecksum()])
    async with trio_ws.connect(uri, extensions=[OfferLies()]) as ws:
        await ws.send("hello")
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.receive()
        assert (caught.value.code, caught.value.reason) == (1002, "the checksum of a message is wrong")


# -- The order -----------------------------------------------------------------------------------------------------


async def test_the_order_is_that_of_the_client(nursery: trio.Nursery) -> None:
    a, b = Suffix("a", RSV2), Suffix("b", RSV3)
    uri = await start(nursery, extensions=[b, a])
    for offers, header in (([a, b], "x-a, x-b, permessage-deflate"), ([b, a], "x-b, x-a, permessage-deflate")):
        mine = [Suffix(each.letter.decode(), each.rsv) for each in offers]
        async with trio_ws.connect(uri, extensions=mine) as ws:
            assert ws.response.headers["Sec-WebSocket-Extensions"].startswith(f"{header};")
            await ws.send("hello")
            assert await ws.receive() == "hello"
        # The first one gets the message, the second one what the first one has made of it.
        assert [each.encoded for each in mine] == [[b"hello"], [b"hello" + mine[0].letter]]


async def test_compression_first(nursery: trio.Nursery) -> None:
    deflate = trio_ws.Deflate()
    uri = await start(nursery, compression=None, extensions=[Suffix(), DeflateServer(deflate)])
    mine = Suffix()
    async with trio_ws.connect(uri, compression=None, extensions=[DeflateClient(deflate), mine]) as ws:
        assert ws.response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate;")
        await ws.send("hello " * 100)
        assert await ws.receive() == "hello " * 100
    assert len(mine.encoded[0]) < 50


async def test_two_extensions_with_the_same_bit(nursery: trio.Nursery) -> None:
    # The one that is offered first wins, here over compression.
    uri = await start(nursery, extensions=[Suffix(rsv=RSV1)])
    async with trio_ws.connect(uri, extensions=[Suffix(rsv=RSV1)]) as ws:
        assert ws.response.headers["Sec-WebSocket-Extensions"] == "x-a"
        await ws.send("hello " * 100)
        assert await ws.receive() == "hello " * 100


async def test_the_limit_applies_to_each_extension(nursery: trio.Nursery) -> None:
    # With the suffix, the decompressed message has one byte more than the limit.
    uri = await start(nursery, extensions=[Suffix()], max_message_size=10_000)
    async with trio_ws.connect(uri, extensions=[Suffix()]) as ws:
        await ws.send(b"x" * 9_999)
        assert await ws.receive() == b"x" * 9_999
        await ws.send(b"x" * 10_000)
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.receive()
        assert caught.value.code == 1009


# -- Wrong extensions ----------------------------------------------------------------------------------------------


class NoToken(Suffix):
    def __init__(self) -> None:
        super().__init__()
        self.name = "x, y"


class Nameless(Suffix):
    def __init__(self) -> None:
        super().__init__()
        self.name = None  # type: ignore[assignment]  # wrong on purpose


@pytest.mark.parametrize(
    "extensions, error",
    [
        (Suffix(), TypeError),
        ({Suffix()}, TypeError),
        ("x-a", TypeError),
        (None, TypeError),
        (["x-a"], TypeError),
        ([Suffix], TypeError),
        ([Checksum()], TypeError),
        ([Nameless()], TypeError),
        ([NoToken()], ValueError),
        ([Suffix(), Suffix()], ValueError),
    ],
)
async def test_wrong_options(extensions: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="extension"):
        trio_ws.connect("ws://example.org/", extensions=extensions)
    with pytest.raises(error, match="extension"):
        await trio_ws.serve(echo, 0, extensions=extensions)


async def test_compression_twice() -> None:
    deflate = trio_ws.Deflate()
    with pytest.raises(ValueError, match="compression must be None"):
        trio_ws.connect("ws://example.org/", extensions=[DeflateClient(deflate)])
    with pytest.raises(ValueError, match="compression must be None"):
        await trio_ws.serve(echo, 0, extensions=[DeflateServer(deflate)])


async def test_a_wrong_bit(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    uri = await start(nursery, extensions=[Suffix()])
    wrong = await start(nursery, extensions=[Suffix(rsv=0)])
    for rsv in (0, 0x80, RSV2 | RSV3):
        with pytest.raises(ValueError, match="rsv"):
            async with trio_ws.connect(uri, extensions=[Suffix(rsv=rsv)]):
                pass
    with pytest.raises(InvalidStatus) as caught:
        async with trio_ws.connect(wrong, extensions=[Suffix()]):
            pass
    assert caught.value.status_code == 500


async def test_an_answer_that_is_not_accepted(nursery: trio.Nursery) -> None:
    class Chatty(AcceptChecksum):  # type: ignore[misc, valid-type]  # the class comes from the example
        def answer(self, params: Params) -> tuple[Params, Extension] | None:
            return (("level", "9"),), Checksum()

    uri = await start(nursery, extensions=[Chatty()])
    with pytest.raises(NegotiationError, match="has no parameters"):
        async with trio_ws.connect(uri, extensions=[OfferChecksum()]):
            pass


# -- Extensions that fail ------------------------------------------------------------------------------------------


async def send_small(ws: trio_ws.WebSocket) -> None:
    await ws.send(b"!encode")


async def send_large(ws: trio_ws.WebSocket) -> None:
    await ws.send(b"!encode" + bytes(THREAD_SIZE))


async def send_part(ws: trio_ws.WebSocket) -> None:
    async with ws.send_stream() as out:
        await out.send(b"!encode")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("send", [send_small, send_large, send_part])
async def test_encode_fails(
    send: Callable[[trio_ws.WebSocket], Any], at_once: bool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WRITE_AT_ONCE", at_once)
    uri = await start(nursery, extensions=[Suffix()])
    async with trio_ws.connect(uri, extensions=[Suffix()]) as ws:
        await ws.send("before")
        assert await ws.receive() == "before"
        with pytest.raises(ConnectionClosedError) as caught:
            await send(ws)
            await ws.receive()
        assert caught.value.sent == trio_ws.Close(1011, "an extension failed")
        assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    "decoded", ["text", bytearray(b"array"), memoryview(b"view"), None], ids=lambda it: type(it).__name__
)
async def test_decode_returns_something_else(
    decoded: Any, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = await start(nursery, extensions=[Suffix()])
    async with trio_ws.connect(uri, extensions=[Suffix()]) as ws:
        monkeypatch.setattr(Suffix, "decode", lambda *_, **__: decoded)
        await ws.send(b"hello")
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.receive()
        assert caught.value.rcvd == trio_ws.Close(1011, "an extension failed: TypeError")


@pytest.mark.parametrize("more", [b"", b"x" * 5000])
async def test_decode_fails(more: bytes, nursery: trio.Nursery) -> None:
    async def handle(ws: trio_ws.WebSocket) -> None:
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.receive()
        causes.append(caught.value.__cause__)

    causes: list[Any] = []
    server = await nursery.start(partial(trio_ws.serve, handle, 0, host="127.0.0.1", extensions=[Suffix()]))
    async with trio_ws.connect(f"ws://127.0.0.1:{server.port}", compression=None, extensions=[Suffix()]) as ws:
        await ws.send(b"!decode" + more)
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.receive()
        assert caught.value.rcvd == trio_ws.Close(1011, "an extension failed: RuntimeError")
    assert isinstance(causes[0], ProtocolError)
    assert isinstance(causes[0].__cause__, RuntimeError)


@each_role
async def test_the_last_flush_fails(role: Any) -> None:
    async with opened(role, extensions=[Suffix()]) as (ws, peer):
        await ws.send(b"!encode")
        with trio.CancelScope() as scope:
            scope.cancel()
            await ws.aclose()
        assert scope.cancelled_caught
        assert ws.close_code == 1006
        assert await peer.receive_all() == []
