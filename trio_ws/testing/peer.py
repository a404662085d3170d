"""A peer controlled frame by frame: ``ScriptedPeer``."""

from __future__ import annotations

import os
from collections import deque

import trio

from ..exceptions import ProtocolError
from ..frames import Frame, Opcode
from ..http11 import Request, RequestParser, Response, ResponseParser
from ..misuse.values import check_instance
from ..protocol import Role
from ..protocol.codec import FIN, RSV1, RSV2, RSV3, FrameDecoder, serialize
from ..protocol.handshake import accept, build_request, check_response
from ..uri import parse_uri

__all__ = ["ScriptedPeer"]

#: The URI that a scripted client requests, and the default of memory_websocket_pair.
URI = "ws://memory.test/"

#: The masking key of a scripted client.
KEY = b"\x37\xfa\x21\x3d"


class ScriptedPeer:
    """One end of a connection that sends exactly what a test tells it to, valid or not.

    It does not answer pings and Close frames by itself. ::

        client_end, server_end = trio.testing.memory_stream_pair()
        nursery.start_soon(program_under_test, client_end)
        peer = ScriptedPeer(server_end)
        await peer.handshake()
        await peer.send(Frame(Opcode.TEXT, b"half a mess", fin=False), Frame(Opcode.PING, b""))
        assert await peer.receive() == Frame(Opcode.PONG, b"")

    Args:
        stream: The stream. The peer takes ownership of it.
        role: The role of the peer; ``Role.SERVER`` to test a client.

    Attributes:
        stream: The stream.
        role: The role of the peer.
    """

    def __init__(self, stream: trio.abc.Stream, role: Role = Role.SERVER) -> None:
        self.stream: trio.abc.Stream = stream
        self.role: Role = role
        self._decoder = FrameDecoder(role, RSV1 | RSV2 | RSV3)
        self._frames: deque[Frame] = deque()
        self._payload = bytearray()
        # The number of received bytes that are not part of a complete frame yet.
        self._incomplete = 0
        # The error after the last valid frame, if any.
        self._error: ProtocolError | None = None

    async def handshake(self) -> Request | Response:
        """Do the opening handshake, without subprotocol and extensions. For any other handshake, send its bytes.

        Returns:
            The request or the response of the other end.

        Raises:
            InvalidHandshake: If the other end's handshake is not valid or not complete.
            trio.BrokenResourceError: If the connection is lost.
        """
        if self.role is Role.SERVER:
            request_parser = RequestParser()
            received = None
            while received is None:
                received = request_parser.feed(await self._receive_some())
            await self.send(accept(received)[0].serialize())
            self._feed(request_parser.unused)
            return received
        request = build_request(parse_uri(URI), random=os.urandom)
        await self.send(request.serialize())
        response_parser = ResponseParser()
        response = None
        while response is None:
            response = response_parser.feed(await self._receive_some())
        check_response(request, response)
        self._feed(response_parser.unused)
        return response

    async def send(self, *frames: Frame | bytes) -> None:
        """Send frames or bytes in one write.

        Args:
            *frames: The frames. A client masks them, always with the same key. ``bytes`` are sent unchanged.

        Raises:
            TypeError: If one of the frames is neither a Frame nor bytes. Nothing is sent then.
            trio.BrokenResourceError: If the connection is lost.
        """
        for each in frames:
            check_instance("each of frames", each, (Frame, bytes), "a Frame or bytes")
        key = KEY if self.role is Role.CLIENT else None
        await self.stream.send_all(
            b"".join(each if isinstance(each, bytes) else serialize(each, key) for each in frames)
        )

    async def receive(self) -> Frame | None:
        """Return the next frame, or None at the end of the stream. No frame is lost if this is cancelled.

        Raises:
            ProtocolError: If the next bytes are not a valid frame, or the stream ends within a frame. All further calls
                raise it too.
            trio.BrokenResourceError: If the connection is lost.
        """
        while not self._frames:
            if self._error is not None:
                raise self._error
            data = await self._receive_some()
            if data:
                self._feed(data)
            elif self._incomplete:
                raise ProtocolError("end of stream within a frame")
            else:
                return None
        return self._frames.popleft()

    async def aclose(self) -> None:
        """Close the stream without sending anything."""
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
            self._error = exc  # raised after the frames before it have been received


def _frame(first_byte: int, payload: bytes) -> Frame:
    fin, rsv1, rsv2, rsv3 = (bool(first_byte & bit) for bit in (FIN, RSV1, RSV2, RSV3))
    return Frame(Opcode(first_byte & 0x0F), payload, fin, rsv1=rsv1, rsv2=rsv2, rsv3=rsv3)
