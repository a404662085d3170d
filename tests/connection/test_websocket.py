"""Tests of the public methods of WebSocket: sending, receiving, streams, pings, cancellation, scheduling."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ws
from trio_ws.connection.websocket import WebSocket, connection_of
from trio_ws.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedLocally,
    ConnectionClosedOK,
    InvalidData,
)
from trio_ws.frames import Close, Frame, Opcode
from trio_ws.protocol import Message, Role

from ..support import (
    PAIRS,
    URI,
    attempt,
    binary,
    both,
    cancelled,
    close,
    cont,
    each_pair,
    each_role,
    echo,
    ignore_closed,
    opened,
    ping,
    pipe_pair,
    pong,
    read_messages,
    settle_and_cancel,
    stream_parts,
    text,
)

if sys.version_info < (3, 11):
    pass

settle = wait_all_tasks_blocked


# -- Sending ---------------------------------------------------------------------------------------------------------


@each_role
async def test_send(role: Role) -> None:
    async with opened(role) as (ws, peer):
        await ws.send("héllo")
        await ws.send("")
        await ws.send(b"\x00\xff")
        await ws.send(bytearray(b"array"))
        await ws.send(memoryview(b"a-view-")[::2])
        await ws.send(b"h\xc3\xa9", text=True)
        await ws.send("é", text=False)
        await ws.send("é", text=True)
        await ws.send(b"b", text=False)
        await ws.send(b"x" * 200_000)
        expected = [text("héllo"), text(""), binary(b"\x00\xff"), binary(b"array"), binary(b"ave-"), text("hé")]
        expected += [binary("é".encode()), text("é"), binary(b"b"), binary(b"x" * 200_000)]
        assert [await peer.receive() for _ in expected] == expected


async def test_what_is_sent_is_what_it_was() -> None:
    async with opened() as (ws, peer):
        data = bytearray(b"before")
        await ws.send(data)
        data[:] = b"after!"
        assert await peer.receive() == binary(b"before")


@pytest.mark.parametrize("message", [None, 1, ["a"], object(), {}, 1.5])
async def test_what_cannot_be_sent(message: Any) -> None:
    async with opened() as (ws, peer):
        with pytest.raises(TypeError):
            await ws.send(message)
        with pytest.raises(TypeError):
            await ws.ping(1 if message is None else message)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(TypeError):
            await ws.pong(message)
        await ws.send("next")
        assert await peer.receive() == text("next")


@pytest.mark.parametrize("data", [b"\xff", b"a\xc3", b"\xed\xa0\x80"])
async def test_bytes_that_are_no_text(data: bytes) -> None:
    async with opened() as (ws, peer):
        with pytest.raises(InvalidData) as raised:
            await ws.send(data, text=True)
        assert isinstance(raised.value.__cause__, UnicodeDecodeError)
        with pytest.raises(ValueError):
            await ws.send("\ud800")
        await ws.send("next")
        assert await peer.receive() == text("next")


async def test_many_send_at_the_same_time() -> None:
    # Some messages fit into the buffers, and some are larger than the outbox and the stream.
    sizes = [0, 1, 10, 125, 126, 1000, 65535, 65536, 100_000]
    ours, theirs = pipe_pair(1000)
    async with opened(streams=(ours, theirs), send_buffer=5000) as (ws, peer):

        async def send(name: int) -> None:
            for number, size in enumerate(sizes):
                await ws.send(bytes([name, number]) + bytes([name]) * size)

        async with trio.open_nursery() as nursery:
            for name in range(5):
                nursery.start_soon(send, name)
            frames = [await peer.receive() for _ in range(5 * len(sizes))]
        seen: dict[int, list[int]] = {}
        for frame in frames:
            assert frame is not None
            name, number = frame.data[:2]
            assert frame == binary(bytes([name, number]) + bytes([name]) * sizes[number])
            seen.setdefault(name, []).append(number)
        assert seen == {name: list(range(len(sizes))) for name in range(5)}


async def test_senders_are_served_in_order(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        for i in range(20):
            nursery.start_soon(ws.send, bytes([i]) * (1 if i % 3 else 1000))
            await settle()
        frames = [await peer.receive() for _ in range(20)]
        assert [frame and frame.data[0] for frame in frames] == list(range(20))


async def test_one_message_of_any_size_has_room() -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, _):
        await ws.send(b"x" * 5_000_000)
        assert not await attempt(partial(ws.send, b""))


async def test_a_send_cancelled_while_it_waits_sends_nothing(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        await ws.send(b"1" * 1000)
        with trio.CancelScope() as scope:
            nursery.start_soon(ws.send, b"2")
            await settle()
            nursery.start_soon(settle_and_cancel, scope)
            await ws.send(b"3")
        assert scope.cancelled_caught
        nursery.start_soon(ws.send, "4")
        assert [await peer.receive() for _ in range(3)] == [binary(b"1" * 1000), binary(b"2"), text("4")]


async def test_a_queued_message_is_sent_as_a_whole(nursery: trio.Nursery) -> None:
    # When the tasks are cancelled, the first message is half-written, and the second is in the outbox.
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                for data in (b"1" * 1000, b"2" * 1000):
                    inner.start_soon(ws.send, data)
                    await settle()
                nursery.start_soon(settle_and_cancel, scope)
                await trio.sleep_forever()
        await ws.send(b"3")
        assert [await peer.receive() for _ in range(3)] == [binary(b"1" * 1000), binary(b"2" * 1000), binary(b"3")]


# -- Receiving -------------------------------------------------------------------------------------------------------


@each_role
@each_pair
async def test_receive(role: Role, kind: str) -> None:
    streams = PAIRS[kind]()
    async with opened(role, streams if role is Role.CLIENT else streams[::-1]) as (ws, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                peer.send, text("héllo"), text(""), binary(b"\xff"), binary(b""), binary(b"x" * 1000), text("last")
            )
            received = [await ws.receive() for _ in range(6)]
            assert received == ["héllo", "", b"\xff", b"", b"x" * 1000, "last"]


@each_role
async def test_fragments_with_control_frames_between(role: Role) -> None:
    async with opened(role) as (ws, peer):
        await peer.send(
            ping(b"1"),
            text("é".encode()[:1], fin=False),
            ping(b"2"),
            pong(b"unsolicited"),
            cont(b""),
            cont("é".encode()[1:]),
            ping(b"3"),
            cont(b"", fin=True),
            ping(b"4"),
        )
        assert await ws.receive() == "é"
        assert [await peer.receive() for _ in range(4)] == [pong(b"1"), pong(b"2"), pong(b"3"), pong(b"4")]


async def test_decode() -> None:
    async with opened() as (ws, peer):
        await peer.send(*[text("é"), binary("é".encode())] * 3)
        assert await ws.receive(decode=True) == "é"
        assert await ws.receive(decode=True) == "é"
        assert await ws.receive(decode=False) == "é".encode()
        assert await ws.receive(decode=False) == "é".encode()
        assert await ws.receive(decode=None) == "é"
        assert await ws.receive(decode=None) == "é".encode()


async def test_binary_that_cannot_be_decoded() -> None:
    async with opened() as (ws, peer):
        await peer.send(binary(b"a\xff"), text("next"))
        with pytest.raises(InvalidData) as raised:
            await ws.receive(decode=True)
        cause = raised.value.__cause__
        assert isinstance(cause, UnicodeDecodeError)
        assert cause.object == b"a\xff"
        assert await ws.receive() == "next"


async def test_many_receive_at_the_same_time() -> None:
    async with opened(receive_buffer=0) as (ws, peer):
        received: list[Message] = []

        async def receive(count: int) -> None:
            for _ in range(count):
                message = await ws.receive()
                received.append(message)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(receive, 10)
            for i in range(50):
                await peer.send(text(b"%d" % i, fin=False))
                await peer.send(cont(b"!", fin=True))
        assert sorted(received) == sorted(f"{i}!" for i in range(50))


async def test_receivers_are_served_in_order(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        received: list[tuple[int, Message]] = []

        async def receive(name: int) -> None:
            received.append((name, await ws.receive()))

        for name in range(5):
            nursery.start_soon(receive, name)
            await settle()
        for i in range(5):
            await peer.send(binary(bytes([i])))
            await settle()
        assert received == [(i, bytes([i])) for i in range(5)]


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with opened() as (ws, peer):
        frames = [text("1", fin=False), cont(b"2"), ping(), cont(b"3", fin=True), text("4"), text("5", fin=False)]
        received = []
        for frame in [*frames, cont(b"6", fin=True)]:
            received += await attempt(ws.receive)
            assert await cancelled(ws.receive)
            await peer.send(frame)
            assert await cancelled(ws.receive)
            await settle()
            assert await cancelled(ws.receive)
        received.append(await ws.receive())
        assert received == ["123", "4", "56"]


async def test_iteration() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("1"), binary(b"2"), close())
        assert [message async for message in ws] == ["1", b"2"]
        # Iterating does not use up the end.
        assert [message async for message in ws] == []
        with pytest.raises(ConnectionClosedOK):
            await ws.receive()


async def test_it_is_a_channel() -> None:
    async with opened() as (ws, _):
        assert isinstance(ws, trio.abc.Channel)


@each_role
async def test_repr_and_properties(role: Role) -> None:
    async with opened(role) as (ws, peer):
        assert "open" in repr(ws)
        assert (ws.close_code, ws.close_reason, ws.latency) == (None, None, None)
        assert (ws.local_address, ws.remote_address, ws.subprotocol) == (None, None, None)
        await ws.send_close(3000)
        assert "closing" in repr(ws)
        assert (ws.close_code, ws.close_reason) == (None, None)
        await peer.send(close(4000, "why"))
        with pytest.raises(ConnectionClosedError):
            await ws.receive()
        await trio.aclose_forcefully(peer.stream)
        await ws.wait_closed()
        assert "closed" in repr(ws)
        assert (ws.close_code, ws.close_reason) == (4000, "why")


async def test_close_code_of_a_lost_connection() -> None:
    async with opened() as (ws, peer):
        await peer.stream.aclose()
        with pytest.raises(ConnectionClosedError):
            await ws.receive()
        assert (ws.close_code, ws.close_reason) == (1006, "")


# -- send_stream -----------------------------------------------------------------------------------------------------


@each_role
async def test_send_stream(role: Role) -> None:
    async with opened(role) as (ws, peer):
        async with ws.send_stream(text=True) as out:
            await out.send("a")
            assert await peer.receive() == text("a", fin=False)
            await out.send("é".encode()[:1])
            await out.send(memoryview("é".encode()[1:]))
            await out.send("")
            await out.send(b"")
        async with ws.send_stream() as out:
            await out.send(bytearray(b"\xff"))
        async with ws.send_stream(text=True):
            pass
        async with ws.send_stream(text=False):
            pass
        expected = [cont("é".encode()[:1]), cont("é".encode()[1:]), cont(b"", fin=True)]
        expected += [binary(b"\xff", fin=False), cont(b"", fin=True), text(""), binary(b"")]
        assert [await peer.receive() for _ in expected] == expected


async def test_other_senders_wait_for_the_stream(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):

        async def send_in_parts() -> None:
            async with ws.send_stream() as out:
                await out.send(b"d")

        async with ws.send_stream() as out:
            await out.send(b"a")
            nursery.start_soon(ws.send, b"c")
            await settle()
            nursery.start_soon(send_in_parts)
            await settle()
            nursery.start_soon(ws.send, b"e")
            await settle()
            # Control frames do not wait.
            await peer.send(ping(b"now"))
            assert [await peer.receive() for _ in range(2)] == [binary(b"a", fin=False), pong(b"now")]
            await out.send(b"b")
        expected = [cont(b"b"), cont(b"", fin=True), binary(b"c"), binary(b"d", fin=False), cont(b"", fin=True)]
        assert [await peer.receive() for _ in range(6)] == [*expected, binary(b"e")]


async def test_parts_wait_for_room(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), send_buffer=1000) as (ws, peer):
        sent = 0

        async def send() -> None:
            nonlocal sent
            async with ws.send_stream() as out:
                for _ in range(100):
                    await out.send(b"x" * 500)
                    sent += 1

        nursery.start_soon(send)
        await settle()
        assert sent < 5
        messages, _, _ = read_messages([frame for frame in [await peer.receive() for _ in range(101)] if frame])
        assert messages == [b"x" * 50_000]


@pytest.mark.parametrize("parts", [["a", b"\xff"], ["\ud800"], [b"\xc3", "a"], [b"\xe2\x82", b"("]])
async def test_a_part_that_is_no_text(parts: list[Any]) -> None:
    async with opened() as (ws, peer):
        async with ws.send_stream(text=True) as out:
            for part in parts[:-1]:
                await out.send(part)
            with pytest.raises(ValueError):
                await out.send(parts[-1])
            # The wrong part has no effect: the text before it can be continued.
            await out.send({b"\xc3": b"\xa9", b"\xe2\x82": b"\xac"}.get(parts[0], b""))
        frames: list[Frame] = []
        while not frames or not frames[-1].fin:
            frame = await peer.receive()
            assert frame is not None
            frames.append(frame)
        assert read_messages(frames)[0] == [{"a": "a", b"\xc3": "é", b"\xe2\x82": "€"}.get(parts[0], "")]


async def test_a_part_of_the_wrong_kind() -> None:
    async with opened() as (ws, peer):
        async with ws.send_stream() as out:
            for part in ("text", None, 1):
                with pytest.raises(TypeError):
                    await out.send(part)  # type: ignore[arg-type]  # that is the point
        assert await peer.receive() == binary(b"")


async def test_text_that_ends_in_the_middle_of_a_character() -> None:
    async with opened() as (ws, peer):
        with pytest.raises(InvalidData):
            async with ws.send_stream(text=True) as out:
                await out.send(b"\xc3")
        assert await peer.receive() == text(b"\xc3", fin=False)
        frame = await peer.receive()
        assert frame is not None
        assert Close.parse(frame.data).code == 1011


async def test_abandoned_before_anything_was_sent() -> None:
    async with opened() as (ws, peer):
        with pytest.raises(KeyError):
            async with ws.send_stream() as out:
                await out.send(b"")
                raise KeyError
        assert await cancelled(lambda: stream_parts(ws, b"a"))
        await ws.send("next")
        assert await peer.receive() == text("next")


@pytest.mark.parametrize("by_cancellation", [False, True])
async def test_abandoned_after_something_was_sent(by_cancellation: bool, nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        nursery.start_soon(peer.behave)
        with trio.CancelScope() as scope, pytest.raises((KeyError, trio.Cancelled)) as raised:
            async with ws.send_stream() as out:
                await out.send(b"a")
                nursery.start_soon(ignore_closed, ws.send, b"waits")
                await settle()
                if by_cancellation:
                    scope.cancel()
                    await trio.sleep_forever()
                raise KeyError
        assert raised.type is (trio.Cancelled if by_cancellation else KeyError)
        with pytest.raises(ConnectionClosedError) as closed:
            await ws.send("next")
        assert closed.value.sent is not None
        assert closed.value.sent.code == 1011


async def test_abandoning_drops_nothing_that_was_sent_before() -> None:
    async with opened() as (ws, peer):
        await ws.send("before")
        with pytest.raises(KeyError):
            async with ws.send_stream() as out:
                await out.send(b"a")
                raise KeyError
        frames = [await peer.receive() for _ in range(3)]
        assert frames == [text("before"), binary(b"a", fin=False), close(1011, "message abandoned")]


async def test_a_cancelled_part_is_not_sent() -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        async with ws.send_stream(text=True) as out:
            await out.send(b"ab" * 100 + b"\xc3")
            # Neither half of the character is sent twice.
            assert not await attempt(partial(out.send, b"\xa9\xe2"))
            assert await cancelled(partial(out.send, b"\xa9\xe2"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(out.send, b"\xa9d")
                frames = [await peer.receive() for _ in range(2)]
        assert frames == [text(b"ab" * 100 + b"\xc3", fin=False), cont(b"\xa9d")]
        assert await peer.receive() == cont(b"", fin=True)


async def test_sending_in_the_middle_of_the_own_stream() -> None:
    async with opened() as (ws, peer):
        async with ws.send_stream() as out:
            for nested in (partial(ws.send, b"a"), partial(stream_parts, ws)):
                with pytest.raises(RuntimeError):
                    await nested()
            await out.send(b"b")
        assert [await peer.receive() for _ in range(2)] == [binary(b"b", fin=False), cont(b"", fin=True)]


async def test_a_send_stream_is_used_once() -> None:
    async with opened() as (ws, peer):
        out = ws.send_stream()
        with pytest.raises(trio.ClosedResourceError):
            await out.send(b"too early")
        async with out:
            await out.send(b"a")
        with pytest.raises(trio.ClosedResourceError):
            await out.send(b"too late")
        with pytest.raises(RuntimeError):
            await out.__aenter__()
        await ws.send("next")
        assert [await peer.receive() for _ in range(3)] == [binary(b"a", fin=False), cont(b"", fin=True), text("next")]


async def test_a_send_stream_is_entered_by_one_task() -> None:
    async with opened() as (ws, _):
        out = ws.send_stream()
        outcomes: list[object] = []

        async def enter() -> None:
            try:
                async with out:
                    outcomes.append("entered")
                    await settle()
            except RuntimeError as exc:
                outcomes.append(type(exc))

        # Each of these calls may let the other task run first.
        for _ in range(31):
            await ws.send("")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            nursery.start_soon(enter)
        assert sorted(map(str, outcomes)) == sorted(map(str, ["entered", RuntimeError]))


async def test_two_tasks_send_parts_at_the_same_time(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        async with ws.send_stream() as out:
            await out.send(b"a" * 100)
            nursery.start_soon(out.send, b"b")
            await settle()
            with pytest.raises(trio.BusyResourceError):
                await out.send(b"c")
            assert [await peer.receive() for _ in range(2)] == [binary(b"a" * 100, fin=False), cont(b"b")]


async def test_a_part_that_waits_when_the_block_is_left(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        outcomes: list[type[Exception]] = []

        async def late() -> None:
            try:
                await out.send(b"b")
            except Exception as exc:
                outcomes.append(type(exc))

        async with ws.send_stream() as out:
            await out.send(b"a" * 100)
            nursery.start_soon(late)
            await settle()
        await settle()
        assert outcomes == [trio.ClosedResourceError]
        assert [await peer.receive() for _ in range(2)] == [binary(b"a" * 100, fin=False), cont(b"", fin=True)]


async def test_the_connection_is_closed_in_the_middle_of_a_message() -> None:
    async with opened() as (ws, peer):
        with pytest.raises(ConnectionClosedOK):
            # The message is incomplete, and the user must learn that when leaving the block.
            async with ws.send_stream() as out:
                await out.send(b"a")
                await peer.send(close())
                await settle()
                with pytest.raises(ConnectionClosedOK):
                    await out.send(b"b")
        with pytest.raises(ConnectionClosedOK):
            await ws.send_stream().__aenter__()


async def test_closing_in_the_middle_of_the_own_message(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        nursery.start_soon(peer.behave)
        with pytest.raises(ConnectionClosedLocally):
            async with ws.send_stream() as out:
                await out.send(b"a")
                await ws.aclose()


async def test_a_part_waits_when_the_connection_is_closed(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs), send_buffer=0) as (ws, peer):
        outcomes: list[type[Exception]] = []

        async def send() -> None:
            try:
                await stream_parts(ws, b"a" * 100, b"b")
            except ConnectionClosed as exc:
                outcomes.append(type(exc))

        nursery.start_soon(send)
        await settle()
        await peer.stream.aclose()
        await settle()
        assert outcomes == [ConnectionClosedError]


# -- receive_stream --------------------------------------------------------------------------------------------------


@each_role
@each_pair
async def test_receive_stream(role: Role, kind: str) -> None:
    streams = PAIRS[kind]()
    async with opened(role, streams if role is Role.CLIENT else streams[::-1]) as (ws, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                peer.send,
                text("ab", fin=False),
                ping(),
                cont("é".encode()[:1]),
                cont("é".encode()[1:], fin=True),
                binary(b"c"),
            )
            async with ws.receive_stream() as parts:
                assert parts.text
                assert "".join([str(part) async for part in parts]) == "abé"
                assert [part async for part in parts] == []
            async with ws.receive_stream() as parts:
                assert not parts.text
                assert [part async for part in parts] == [b"c"]


async def test_parts_come_as_they_arrive() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("", fin=False), cont(b"a"))
        async with ws.receive_stream() as parts:
            assert await parts.__anext__() == "a"
            await peer.send(cont(b""), cont(b"b"), cont(b"c"))
            await settle()
            assert await parts.__anext__() == "bc"
            await peer.send(cont(b"", fin=True), text(""))
            with pytest.raises(StopAsyncIteration):
                await parts.__anext__()
        assert await ws.receive() == ""


async def test_a_message_larger_than_the_inbox_in_parts(nursery: trio.Nursery) -> None:
    ours, theirs = pipe_pair(1000)
    async with opened(streams=(ours, theirs), receive_buffer=1000) as (ws, peer):
        nursery.start_soon(peer.send, binary(b"x" * 100_000), text("next"))
        async with ws.receive_stream() as parts:
            received = []
            async for part in parts:
                received.append(len(part))
                # Nothing is read ahead except what fits into the inbox.
                await settle()
                assert len(theirs.outgoing.data) == 1000 or sum(received) > 95_000
            assert sum(received) == 100_000
            assert max(received) <= 2000
        assert await ws.receive() == "next"


@pytest.mark.parametrize("take", [0, 1])
@pytest.mark.parametrize("when", ["whole", "half arrived", "later"])
async def test_leaving_a_receive_stream_early(take: int, when: str) -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a", fin=when == "whole" and not take))
        async with ws.receive_stream() as parts:
            for _ in range(take):
                assert await parts.__anext__() == "a"
            if when != "later" and take:
                await peer.send(cont(b"b", fin=when == "whole"))
                await settle()
        if when != "whole":
            await peer.send(cont(b"c"))
            await settle()
            await peer.send(cont(b"d", fin=True))
        await peer.send(binary(b"next"))
        assert await ws.receive() == b"next"
        await ws.send("answer")
        assert await peer.receive() == text("answer")


@pytest.mark.parametrize("by_cancellation", [False, True])
async def test_leaving_a_receive_stream_with_an_exception(by_cancellation: bool) -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a", fin=False))
        with trio.CancelScope() as scope, pytest.raises((KeyError, trio.Cancelled)):
            async with ws.receive_stream() as parts:
                assert await parts.__anext__() == "a"
                if by_cancellation:
                    scope.cancel()
                    await parts.__anext__()
                raise KeyError
        await peer.send(cont(b"b", fin=True), text("next"))
        assert await ws.receive() == "next"


async def test_two_messages_are_skipped_while_the_first_comes_in(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        entered = []

        async def skip() -> None:
            async with ws.receive_stream() as parts:
                entered.append(parts.text)

        await peer.send(text("a", fin=False))
        await skip()
        nursery.start_soon(skip)
        await settle()
        assert entered == [True]
        await peer.send(cont(b"b"), cont(b"c", fin=True), binary(b"d", fin=False))
        await settle()
        assert entered == [True, False]
        await peer.send(cont(b"e", fin=True), text("next"))
        assert await ws.receive() == "next"


async def test_a_cancelled_part_is_not_lost() -> None:
    async with opened() as (ws, peer):
        received = []
        await peer.send(text("1", fin=False))
        assert await cancelled(lambda: ws.receive_stream().__aenter__())
        async with ws.receive_stream() as parts:
            for frame in [cont(b"2"), cont(b"3"), ping(), cont(b"4", fin=True)]:
                received += await attempt(parts.__anext__)
                assert await cancelled(parts.__anext__)
                await peer.send(frame)
                assert await cancelled(parts.__anext__)
                await settle()
            received += [part async for part in parts]
        assert "".join(map(str, received)) == "1234"


async def test_a_cancelled_entry_takes_nothing(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        assert not await attempt(ws.receive_stream().__aenter__)
        await peer.send(text("a"))
        assert await ws.receive() == "a"


async def test_other_receivers_wait_for_the_stream(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        received: list[Message] = []

        async def receive() -> None:
            received.append(await ws.receive())

        await peer.send(text("a", fin=False))
        async with ws.receive_stream() as parts:
            nursery.start_soon(receive)
            await peer.send(cont(b"b", fin=True), text("c"), text("d"))
            await settle()
            assert received == []
            assert "".join([str(part) async for part in parts]) == "ab"
            await settle()
            assert received == []
        assert await ws.receive() == "d"
        assert received == ["c"]


async def test_receiving_in_the_middle_of_the_own_stream() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a"), text("next"))
        async with ws.receive_stream() as parts:
            for nested in (ws.receive, ws.__anext__, ws.receive_stream().__aenter__):
                with pytest.raises(RuntimeError):
                    await nested()
            assert [part async for part in parts] == ["a"]
        assert await ws.receive() == "next"


async def test_a_receive_stream_is_used_once() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a"), text("next"))
        parts = ws.receive_stream()
        with pytest.raises(trio.ClosedResourceError):
            await parts.__anext__()
        async with parts:
            assert await parts.__anext__() == "a"
        with pytest.raises(trio.ClosedResourceError):
            await parts.__anext__()
        with pytest.raises(RuntimeError):
            await parts.__aenter__()
        assert await ws.receive() == "next"


async def test_two_tasks_receive_parts_at_the_same_time(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        received: list[Message] = []

        async def receive() -> None:
            received.append(await parts.__anext__())

        await peer.send(text("a", fin=False))
        async with ws.receive_stream() as parts:
            assert await parts.__anext__() == "a"
            nursery.start_soon(receive)
            await settle()
            with pytest.raises(trio.BusyResourceError):
                await parts.__anext__()
            await peer.send(cont(b"b"))
            await settle()
            assert received == ["b"]


async def test_a_task_waits_for_a_part_when_the_block_is_left(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        outcomes: list[object] = []

        async def receive() -> None:
            try:
                outcomes.append(await parts.__anext__())
            except Exception as exc:
                outcomes.append(type(exc))

        await peer.send(text("a", fin=False))
        async with ws.receive_stream() as parts:
            assert await parts.__anext__() == "a"
            nursery.start_soon(receive)
            await settle()
        await peer.send(cont(b"b", fin=True), text("next"))
        assert await ws.receive() == "next"
        await settle()
        assert outcomes == [trio.ClosedResourceError]


async def test_what_came_before_the_end_comes_in_parts() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a", fin=False))
        await peer.stream.aclose()
        await settle()
        received = []
        with pytest.raises(ConnectionClosedError):
            async with ws.receive_stream() as parts:
                async for part in parts:
                    received.append(part)
        assert received == ["a"]
        with pytest.raises(ConnectionClosedError):
            async with ws.receive_stream():
                raise AssertionError


async def test_the_end_while_a_part_is_waited_for(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        outcomes: list[object] = []

        async def receive() -> None:
            try:
                async with ws.receive_stream() as parts:
                    async for part in parts:
                        outcomes.append(part)
            except ConnectionClosed as exc:
                outcomes.append(exc.code)

        nursery.start_soon(receive)
        await peer.send(text("a", fin=False), close(4000))
        await settle()
        assert outcomes == ["a", 4000]


async def test_a_violation_in_the_middle_of_the_parts() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a", fin=False), cont(b"b\xff"))
        received = []
        with pytest.raises(ConnectionClosedError) as raised:
            async with ws.receive_stream() as parts:
                async for part in parts:
                    received.append(part)
        assert received == ["a"]
        assert isinstance(raised.value.__cause__, InvalidData)


# -- Pings -----------------------------------------------------------------------------------------------------------


@each_role
async def test_ping(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role) as (ws, peer):

        async def answer(delay: float) -> None:
            frame = await peer.receive()
            assert frame is not None
            await trio.sleep(delay)
            await peer.send(pong(frame.data))

        for data, delay in ((b"a", 1), ("é", 2), (b"", 0), (b"x" * 125, 3), (None, 4)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, delay)
                assert await ws.ping(data) == delay
                assert ws.latency == delay


async def test_a_ping_that_is_too_long() -> None:
    async with opened() as (ws, peer):
        for data in (b"x" * 126, "é" * 63):
            for call in (partial(ws.ping, data), partial(ws.ping, data, wait=False), partial(ws.pong, data)):
                with pytest.raises(ValueError):
                    await call()
        await ws.send("next")
        assert await peer.receive() == text("next")


async def test_a_pong_answers_the_pings_before_it_too(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        trips = {}

        async def send(data: bytes) -> None:
            trips[data] = await ws.ping(data)

        async with trio.open_nursery() as nursery:
            for data in (b"1", b"2", b"3"):
                nursery.start_soon(send, data)
                await trio.sleep(1)
            await peer.send(pong(b"2"))
            await settle()
            assert trips == {b"1": 3, b"2": 2}
            assert ws.latency == 2
            await peer.send(pong(b"3"))
        assert trips == {b"1": 3, b"2": 2, b"3": 1}


async def test_pings_without_data_differ(nursery: trio.Nursery) -> None:
    async with opened() as (ws, peer):
        for _ in range(3):
            nursery.start_soon(ignore_closed, ws.ping)
            await settle()
        frames = [await peer.receive() for _ in range(3)]
        assert len({frame and frame.data for frame in frames}) == 3


async def test_pongs_that_nobody_asked_for() -> None:
    async with opened() as (ws, peer):
        await peer.send(pong(), pong(b"a"), pong(b"x" * 125), text("next"))
        assert await ws.receive() == "next"
        assert ws.latency is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.ping, b"a")
            assert await peer.receive() == ping(b"a")
            await peer.send(pong(b"b"), pong(b"a"), pong(b"a"))
        await peer.send(text("last"))
        assert await ws.receive() == "last"


async def test_a_cancelled_ping_can_be_sent_again(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        for _ in range(2):
            with trio.move_on_after(1) as scope:
                await ws.ping(b"a")
            assert scope.cancelled_caught
        await peer.send(pong(b"a"))
        async with trio.open_nursery() as nursery:
            assert [await peer.receive() for _ in range(2)] == [ping(b"a")] * 2
            await settle()
            assert ws.latency is None

            @nursery.start_soon
            async def answer() -> None:
                assert await peer.receive() == ping(b"a")
                await trio.sleep(1)
                await peer.send(pong(b"a"))

            assert await ws.ping(b"a") == 1


async def test_a_ping_cancelled_before_it_goes_out_is_not_sent() -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await ws.send(b"x" * 100)
        await settle()
        assert not await attempt(partial(ws.ping, b"a"))
        assert await cancelled(ws.ping)
        await ws.send("next")
        assert [await peer.receive() for _ in range(2)] == [binary(b"x" * 100), text("next")]


@each_role
async def test_a_ping_without_waiting(role: Role, autojump_clock: MockClock) -> None:
    async with opened(role) as (ws, peer):
        before = trio.current_time()
        await ws.ping("é", wait=False)
        await ws.ping(wait=False)
        frames = [await peer.receive() for _ in range(2)]
        assert trio.current_time() == before
        assert frames[0] == ping("é".encode())
        assert frames[1] is not None
        assert (frames[1].opcode, len(frames[1].data)) == (Opcode.PING, 4)
        assert ws.latency is None
        # The pong updates the latency, and answers the earlier ping, too.
        await trio.sleep(3)
        await peer.send(pong(frames[1].data))
        await settle()
        assert ws.latency == 3
        await trio.sleep(3)
        await peer.send(pong("é".encode()), text("next"))
        assert await ws.receive() == "next"
        assert ws.latency == 3


async def test_pings_without_waiting_are_bounded(autojump_clock: MockClock) -> None:
    # This peer answers no ping. Those for which a task waits are not affected.
    async with opened(ping_interval=30) as (ws, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.ping, b"awaited")
            await settle()
            for i in range(200):
                await ws.ping(b"%d" % i, wait=False)
            await settle()
            pings = connection_of(ws).keepalive._pings
            assert [each.data for each in pings] == [b"awaited", *(b"%d" % i for i in range(136, 200))]
            await peer.send(pong(b"awaited"))
        await peer.send(pong(b"199"))
        await settle()
        assert connection_of(ws).keepalive._pings == []


async def test_pings_without_waiting_are_bounded_while_nothing_is_written() -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await ws.send(b"x" * 100)
        await settle()
        for i in range(200):
            await ws.ping(b"%d" % i, wait=False)
        await ws.send("next")
        assert await peer.receive() == binary(b"x" * 100)
        assert [await peer.receive() for _ in range(64)] == [ping(b"%d" % i) for i in range(136, 200)]
        assert await peer.receive() == text("next")


@each_role
async def test_pong(role: Role) -> None:
    async with opened(role) as (ws, peer):
        await ws.pong()
        await ws.pong("é")
        await ws.pong(b"x" * 125)
        await peer.send(ping(b"p"))
        assert [await peer.receive() for _ in range(4)] == [
            pong(),
            pong("é".encode()),
            pong(b"x" * 125),
            pong(b"p"),
        ]


async def test_unsolicited_pongs_leave_room_for_answers() -> None:
    ours, theirs = pipe_pair(10)
    async with opened(streams=(ours, theirs)) as (ws, peer):
        await ws.send(b"x" * 100)
        await settle()
        await peer.send(ping(b"p"))
        await settle()
        for i in range(200):
            await ws.pong(b"%d" % i)
        assert await peer.receive() == binary(b"x" * 100)
        assert [await peer.receive() for _ in range(64)] == [pong(b"p"), *(pong(b"%d" % i) for i in range(63))]
        await ws.send("next")
        assert await peer.receive() == text("next")


async def test_no_control_frames_after_the_end(autojump_clock: MockClock) -> None:
    async with opened() as (ws, peer):
        await peer.send(close())
        assert await peer.receive() == close()
        for call in (ws.ping, partial(ws.ping, wait=False), ws.pong):
            with pytest.raises(ConnectionClosedOK):
                await call()
    async with opened() as (ws, peer):
        await ws.send_close()
        for call in (partial(ws.ping, wait=False), ws.pong):
            with pytest.raises(ConnectionClosed):
                await call()


# -- Cancellation and scheduling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [False, True])
async def test_every_call_can_be_cancelled(closed: bool) -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a", fin=False), cont(b"b"))
        # In a cancelled scope, a call does nothing even if it would not have to wait.
        async with ws.receive_stream() as parts, ws.send_stream() as out:
            await parts.__anext__()
            await peer.send(cont(b"c", fin=True), text("next"))
            await settle()
            assert await cancelled(parts.__anext__)
            assert await cancelled(partial(out.send, b"x"))
            assert [part async for part in parts] == ["c"]
        assert await peer.receive() == binary(b"")
        if closed:
            await peer.send(close())
            await settle()
        for call in (
            partial(ws.send, "x"),
            ws.receive,
            ws.__anext__,
            ws.ping,
            partial(ws.ping, wait=False),
            ws.pong,
            partial(ws.send_close, 4000),
            lambda: ws.send_stream().__aenter__(),
            lambda: ws.receive_stream().__aenter__(),
        ):
            for _ in range(40):
                assert await cancelled(call)
        assert await ws.receive() == "next"
        if not closed:
            await ws.send("y")
            assert await peer.receive() == text("y")


async def test_leaving_a_stream_can_be_cancelled() -> None:
    async with opened() as (ws, peer):
        await peer.send(text("a"), text("b"))
        await settle()
        with trio.CancelScope() as scope:
            async with ws.receive_stream():
                scope.cancel()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            async with ws.send_stream():
                scope.cancel()
        assert scope.cancelled_caught
        # The block was left all the same.
        assert await ws.receive() == "b"
        assert await peer.receive() == binary(b"")


class Turns(trio.abc.Instrument):
    """Counts how often a task runs."""

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


async def count_turns(call: Callable[[], Awaitable[object]], times: int) -> int:
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    for _ in range(times):
        await call()
    trio.lowlevel.remove_instrument(turns)
    return turns.count


@pytest.mark.parametrize("name", ["send", "receive", "both", "part out", "no part in", "stream out", "stream in"])
async def test_others_run_at_least_once_in_32_calls(name: str) -> None:
    # None of these calls ever has to wait.
    count = 3200
    async with opened(receive_buffer=10**9, send_buffer=10**9) as (ws, peer):
        await peer.send(b"\x81\x01a" * (count + 1))
        await settle()

        async def send_and_receive() -> None:
            await ws.send("a")
            await ws.receive()

        async def skip() -> None:
            async with ws.receive_stream():
                pass

        async with ws.receive_stream() as parts, ws.send_stream() as out:

            async def no_more_parts() -> None:
                with pytest.raises(StopAsyncIteration):
                    await parts.__anext__()

            assert await parts.__anext__() == "a"
            turns = 0
            if name == "part out":
                turns = await count_turns(partial(out.send, b"a"), count)
            elif name == "no part in":
                turns = await count_turns(no_more_parts, count)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "send": partial(ws.send, "a"),
            "receive": ws.receive,
            "both": send_and_receive,
            "stream out": partial(stream_parts, ws),
            "stream in": skip,
        }
        if name in calls:
            turns = await count_turns(calls[name], count)
        assert turns >= count // 32
        # Not every call lets others run, because that would be slow.
        if name in ("send", "receive"):
            assert turns < count // 16


async def test_calls_are_counted_over_all_connections() -> None:
    async with AsyncExitStack() as stack:
        websockets = [(await stack.enter_async_context(opened(send_buffer=10**9)))[0] for _ in range(64)]

        async def send() -> None:
            for ws in websockets:
                await ws.send("a")

        # No connection sees more than five of these calls.
        assert await count_turns(send, 5) >= 10


async def test_a_third_task_runs_while_messages_flood_both_ways(autojump_clock: MockClock) -> None:
    async with both() as (client, server):
        calls = 0
        between: list[int] = []

        async def repeat(call: Callable[[], Awaitable[object]]) -> None:
            nonlocal calls
            while True:
                await call()
                calls += 1

        async with trio.open_nursery() as nursery:
            for ws in (client, server):
                nursery.start_soon(repeat, ws.receive)
                nursery.start_soon(repeat, partial(ws.send, "a"))
            last = 0
            for _ in range(300):
                await trio.lowlevel.checkpoint()
                between.append(calls - last)
                last = calls
            nursery.cancel_scope.cancel()
        assert calls > 1000
        # In each round of the scheduler, each of the four tasks has one turn. Ours may be the first of one round and
        # the last of the next.
        assert max(between) <= 2 * 4 * 32


# -- Both ends -------------------------------------------------------------------------------------------------------


@each_pair
async def test_client_and_server(kind: str, nursery: trio.Nursery) -> None:
    ours, theirs = PAIRS[kind]()

    nursery.start_soon(trio_ws.serve_over, theirs, echo)
    async with trio_ws.connect_over(ours, URI) as ws:
        for message in ("héllo", b"\xff" * 300, "", b""):
            await ws.send(message)
            assert await ws.receive() == message
        async with ws.send_stream(text=True) as out:
            await out.send("a")
            await out.send("b")
        async with ws.receive_stream() as parts:
            assert parts.text
            assert "".join([str(part) async for part in parts]) == "ab"
        assert await ws.ping() >= 0


@pytest.mark.parametrize("size", [1, 8, 32])
@pytest.mark.parametrize("with_pings", [False, True])
async def test_both_send_much_at_once(size: int, with_pings: bool, autojump_clock: MockClock) -> None:
    message = bytes(range(256)) * (size * 4096)
    async with both(pipe_pair(1 << 16), max_message_size=None) as (client, server):
        pings = 0

        async def ping_loop(ws: WebSocket) -> None:
            nonlocal pings
            while True:
                pings += 1  # its pong may or may not arrive before the end
                await ws.ping()

        async def exchange(ws: WebSocket) -> None:
            async with trio.open_nursery() as inner:
                inner.start_soon(ws.send, message)
                assert await ws.receive() == message

        async with trio.open_nursery() as nursery:
            if with_pings:
                nursery.start_soon(ping_loop, client)
                nursery.start_soon(ping_loop, server)
            async with trio.open_nursery() as exchanges:
                exchanges.start_soon(exchange, client)
                exchanges.start_soon(exchange, server)
            nursery.cancel_scope.cancel()
        assert (pings > 0) is with_pings
