"""A WebSocket as a channel of values: JSON, msgspec, protobuf or any other encoding.

Encoding and decoding are functions of the application. A message that cannot be decoded concerns only itself: it was
received completely, so the channel raises :exc:`DecodeError` with the message in it and continues with the next one.
Whether to ignore it, to answer it or to close the connection (with 1007, for example) is up to the application.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from ..exceptions import DecodeError
from ..protocol import Message

__all__ = ["TypedChannel"]

T = TypeVar("T")


class TypedChannel(trio.abc.Channel[T]):
    """A channel of values over a WebSocket. Each value is one message.

    ::

        async with trio_ws.connect("wss://example.org/feed") as ws:
            channel = trio_ws.TypedChannel(ws, json.dumps, json.loads)
            await channel.send({"subscribe": "prices"})
            async for value in channel: ...

    Any number of tasks may send, receive and iterate at the same time, as with the WebSocket. The WebSocket can still
    be used directly, for example to close it with a code; what it receives, the channel does not.

    If sending and receiving use different types, T is their union: ``TypedChannel[Command | Event]``.

    Args:
        ws: The WebSocket. A :class:`ReconnectingChannel` works, too.
        encode: A function that takes a value and returns the message: a ``str`` for a text message, bytes for a binary
            message.
        decode: A function that takes a message and returns the value. It gets a ``str`` for a text message, ``bytes``
            for a binary message.

    Attributes:
        ws: The WebSocket.

    Raises:
        TypeError: If ``encode`` or ``decode`` is not callable, or is an async function.
    """

    ws: trio.abc.Channel[Message]

    def __init__(
        self, ws: trio.abc.Channel[Message], encode: Callable[[T], Message], decode: Callable[[Any], T]
    ) -> None:
        if not (hasattr(ws, "send") and hasattr(ws, "receive")):
            raise TypeError(f"ws must be a WebSocket or another channel, not {ws!r}")
        for name, function in (("encode", encode), ("decode", decode)):
            if not callable(function):
                raise TypeError(f"{name} must be a function, not {function!r}")
            if inspect.iscoroutinefunction(function):
                raise TypeError(f"{name} must be a function that is not async, not {function!r}")
        self.ws = ws
        self._encode = encode
        self._decode = decode

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.ws!r}>"

    async def send(self, value: T) -> None:
        """Encode a value and send it.

        If this is cancelled, nothing was sent. Exceptions from ``encode`` propagate, and nothing is sent.

        Args:
            value: The value.

        Raises:
            ConnectionClosed: If the connection is closed or closing.
            TypeError: If ``encode`` returns neither a str nor bytes.
        """
        await self.ws.send(self._encode(value))

    async def receive(self) -> T:
        """Receive the next message and decode it. No message is lost if this is cancelled.

        Raises:
            DecodeError: If ``decode`` raises an exception. It has the message as an attribute. The next call receives
                the next message.
            ConnectionClosed: If the connection is closed and no message is left.
        """
        return self._decoded(await self.ws.receive())

    async def __anext__(self) -> T:
        return self._decoded(await self.ws.__anext__())

    async def aclose(self) -> None:
        """Close the WebSocket with 1000, like :meth:`WebSocket.aclose`."""
        await self.ws.aclose()

    def _decoded(self, message: Message) -> T:
        try:
            return self._decode(message)
        except Exception as exc:
            raise DecodeError(message, str(exc) or type(exc).__name__) from exc
