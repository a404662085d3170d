"""Messages that are sent or received in parts: ``send_stream()`` and ``receive_stream()``."""

from __future__ import annotations

import codecs
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from ..exceptions import InvalidData
from ..frames import Close, CloseCode, Opcode
from ..misuse.usage import AsyncWithOnly
from ..protocol import Message
from ..protocol.codec import FIN
from .checkpoints import call_counter
from .core import Connection
from .sendable import Sendable, prepare

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ReceiveStream", "SendStream"]


class SendStream(AsyncWithOnly):
    """A message that is sent in parts; see :meth:`WebSocket.send_stream`."""

    def __init__(self, connection: Connection, text: bool, compress: bool) -> None:
        self._connection = connection
        self._checkpoint = call_counter.get().checkpoint
        self._text = text
        self._compress = compress
        self._opcode = Opcode.TEXT if text else Opcode.BINARY
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._entered = False
        self._active = False
        self._busy = False

    def _explain_use(self) -> str:
        return "send_stream() must be used as `async with ws.send_stream() as out:`"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a send_stream() can be entered only once: call send_stream() for each message")
        self._entered = True
        await self._checkpoint()
        if not await self._connection.outbox.begin_parts(self):
            raise await self._connection.outcome()
        self._active = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._active = False
        outbox = self._connection.outbox
        if exc is not None:
            self._abandon()
            return
        try:
            self._utf8.decode(b"", True)
        except UnicodeDecodeError as error:
            self._abandon()
            raise InvalidData("the parts of a text message must not end in the middle of a character") from error
        if not outbox.end_parts((FIN | self._opcode, b"", self._compress)):
            raise await self._connection.outcome()
        await self._checkpoint()

    def _abandon(self) -> None:
        if self._opcode is Opcode.CONT:  # a part was sent already
            self._connection.begin_closing(Close(CloseCode.INTERNAL_ERROR, "message abandoned"))
        self._connection.outbox.end_parts(None)

    async def send(self, part: Sendable) -> None:
        """Send the next part of the message. When cancelled, nothing of this part is sent.

        Args:
            part: For a text message, a ``str``, or UTF-8 as bytes, which may end in the middle of a character. For a
                binary message, bytes.

        Raises:
            ConnectionClosed: If the connection is closing or closed.
            TypeError: If the part is neither text nor bytes, or is a ``str`` in a binary message.
            ValueError: If the message is text, and the part is not UTF-8 or cannot be encoded as UTF-8.
            trio.ClosedResourceError: If this is called outside of the block.
            trio.BusyResourceError: If another task is sending a part.
        """
        if isinstance(part, str) and not self._text:
            raise TypeError("a part of a binary message must be bytes, not str")
        data = prepare(part, None)[1]
        await self._checkpoint()
        self._check_active()
        if self._busy:
            raise trio.BusyResourceError("another task is sending a part of this message")
        before = self._utf8.getstate()
        if self._text:
            try:
                self._utf8.decode(data)
            except UnicodeDecodeError as exc:
                self._utf8.setstate(before)
                raise InvalidData(f"a part of a text message must be UTF-8: {exc.reason}") from exc
        if not data:
            return
        self._connection.observer.report()
        self._busy = True
        sent = False
        try:
            sent = await self._connection.outbox.put_part(self, (self._opcode, data, self._compress))
        finally:
            self._busy = False
            if not sent:
                self._utf8.setstate(before)
        if not sent:
            self._check_active()
            raise await self._connection.outcome()
        self._opcode = Opcode.CONT

    def _check_active(self) -> None:
        if not self._active:
            raise trio.ClosedResourceError("send() must be called inside the send_stream() block")


class ReceiveStream(AsyncWithOnly):
    """A message that is received in parts, as an asynchronous iterator; see :meth:`WebSocket.receive_stream`.

    Attributes:
        text: True if the parts are ``str``, False if they are ``bytes``.
    """

    text: bool

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.inbox
        self._checkpoint = call_counter.get().checkpoint
        self._entered = False
        self._active = False
        self._busy = False
        self._complete = False

    def _explain_use(self) -> str:
        return "receive_stream() must be used as `async with ws.receive_stream() as parts:`"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a receive_stream() can be entered only once: call receive_stream() for each message")
        self._entered = True
        await self._checkpoint()
        if not await self._inbox.begin_parts(self):
            raise await self._connection.outcome()
        self._active = True
        self.text = self._inbox.next_is_text()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._active = False
        self._inbox.end_parts(complete=self._complete)
        if exc is None:
            await self._checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Receive the next part. When cancelled, no part is lost.

        Raises:
            ConnectionClosed: If the connection is closed before the message is complete.
            trio.ClosedResourceError: If this is called outside of the block.
            trio.BusyResourceError: If another task is receiving a part.
        """
        await self._checkpoint()
        self._check_active()
        if self._busy:
            raise trio.BusyResourceError("another task is receiving a part of this message")
        while not self._complete:
            self._busy = True
            try:
                part = await self._inbox.get_part(self)
            finally:
                self._busy = False
            if part is None:
                self._check_active()
                raise await self._connection.outcome()
            data, self._complete = part
            if data:
                return data
        raise StopAsyncIteration

    def _check_active(self) -> None:
        if not self._active:
            raise trio.ClosedResourceError("parts must be received inside the receive_stream() block")
