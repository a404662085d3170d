"""A peer that follows a script: ``ScriptedPeer``."""

from __future__ import annotations

import os
from collections import deque

import trio

from ..exceptions import ProtocolError
from ..frames import Frame, Opcode
from ..http11 import Request, RequestParser, Response, ResponseParser
from ..protocol import Role
from ..protocol.codec import FIN, RSV1, RSV2, RSV3, FrameDecoder, serialize
from ..protocol.handshake import accept, build_request, check_response
from ..uri import parse_uri

__all__ = ["ScriptedPeer"]

#: The URI that a scripted client asks for, and a pair in memory.
URI = "ws://memory.test/"

#: The key that a scripted client masks its frames with.
KEY = b"\x37\xfa\x21\x3d"


class ScriptedPeer:
    """One end of a connection that does what a test says, be it right or wrong, and nothing else.

    It answers no ping and no Close frame by itself. ::

        client_end, server_end = trio.testing.memory_stream_pair()
        nursery.start_soon(program_under_test, client_end)
        peer = ScriptedPeer(server_end)
        await peer.handshake()
        await peer.send(Frame(Opcode.TEXT, b"half a mess", fin=False), Frame(Opcode.PING, b""))
        assert await peer.receive() == Frame(Opcode.PONG, b"")

    Args:
        stream: The stream. From now on it belongs to the peer.
        role: Which end the peer is: the server where a client is tested.
    """

    def __init__(self, stream: trio.abc.Stream, role: Role = Role.SERVER) -> None:
        self.stream: trio.abc.Stream = stream
        self.role: Role = role
        self._decoder = FrameDecoder(role, RSV1 | RSV2 | RSV3)
        self._frames: deque[Frame] = deque()
        self._payload = bytearray()
        # How many of the bytes received are not in whole frames yet.
        self._incomplete = 0
        # What is wrong with those after the last frame.
        self._error: ProtocolError | None = None

    async def handshake(self) -> Request | Response:
        """Do the opening handshake, in which nothing is agreed on. For another one, send its bytes.

        Returns:
            What the other end has sent: its request, or its response.

        Raises:
            InvalidHandshake: if that is not right, or ends too early.
            trio.BrokenResourceError: if the connection is lost.
        """
        if self.role is Role.SERVER:
            requests = RequestParser()
            asked = None
            while asked is None:
                asked = requests.feed(await self._receive_some())
            await self.send(accept(asked)[0].serialize())
            self._feed(requests.unused)
            return asked
        request = build_request(parse_uri(URI), random=os.urandom)
        await self.send(request.serialize())
        responses = ResponseParser()
        answer = None
        while answer is None:
            answer = responses.feed(await self._receive_some())
        check_response(request, answer)
        self._feed(responses.unused)
        return answer

    async def send(self, *frames: Frame | bytes) -> None:
        """Send frames, in one write.

        Args:
            *frames: The frames. A client masks them, always with the same key. Bytes go out as they are.
        """
        key = KEY if self.role is Role.CLIENT else None
        await self.stream.send_all(
            b"".join(each if isinstance(each, bytes) else serialize(each, key) for each in frames)
        )

    async def receive(self) -> Frame | None:
        """Return the next frame, or None at the end of the stream. When cancelled, nothing is lost.

        Raises:
            ProtocolError: if what has come next is no frame, or the stream ends within one. Nothing can be received
                after that.
            trio.BrokenResourceError: if the connection is lost.
        """
        while not self._frames:
            if self._error is not None:
                raise self._error
            data = await self._receive_some()
            if data:
                self._feed(data)
            elif self._incomplete:
                raise ProtocolError("the stream has ended within a frame")
            else:
                return None
        return self._frames.popleft()

    async def aclose(self) -> None:
        """Close the stream, without a word."""
        await self.stream.aclose()

    async def _receive_some(self) -> bytes:
        return bytes(await self.stream.receive_some())

    def _feed(self, data: bytes) -> None:
        self._incomplete += len(data)
        try:
            self._decoder.feed(data)
            while (piece := self._decoder.next_piece()) is not None:
                first_byte, payload, remaining = piece
                self._payload += payload
                if not remaining:
                    frame = _frame(first_byte, bytes(self._payload))
                    self._payload.clear()
                    self._incomplete -= len(serialize(frame, KEY if self.role is Role.SERVER else None))
                    self._frames.append(frame)
        except ProtocolError as exc:
            self._error = exc  # for when the frames before it have been received


def _frame(first_byte: int, payload: bytes) -> Frame:
    fin, rsv1, rsv2, rsv3 = (bool(first_byte & bit) for bit in (FIN, RSV1, RSV2, RSV3))
    return Frame(Opcode(first_byte & 0x0F), payload, fin, rsv1=rsv1, rsv2=rsv2, rsv3=rsv3)
