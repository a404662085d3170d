"""A WebSocket client for asyncio, on the sans-I/O protocol.

It sends each argument and prints the answer.
"""

import asyncio
import os
import sys

from trio_ws import Close, Frame, Opcode, parse_uri
from trio_ws.http11 import ResponseParser
from trio_ws.protocol import Protocol, Role
from trio_ws.protocol.handshake import build_request, check_response


class Connection:
    """An open connection, for one task only.

    A complete client also has to send and receive at the same time.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = Protocol(Role.CLIENT, random=os.urandom, max_message_size=2**20)
        self._protocol.receive(received)

    async def send(self, message: str) -> None:
        self._writer.writelines(self._protocol.encode(Opcode.TEXT, message.encode()))
        await self._writer.drain()

    async def receive(self) -> str | bytes | None:
        """Return the next message; None after the server has closed."""
        while True:
            event = self._protocol.next_event()
            if isinstance(event, (str, bytes)):
                return event
            if event is None:
                data = await self._reader.read(65536)
                if not data:
                    return None
                self._protocol.receive(data)
            elif isinstance(event, Exception):
                raise event
            elif isinstance(event, Frame) and event.opcode is Opcode.PING:
                self._writer.writelines(self._protocol.encode(Opcode.PONG, event.data))
            elif isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                await self.close()
                return None

    async def close(self) -> None:
        if self._protocol.closing.can_send:
            self._writer.writelines(self._protocol.encode_close(Close(1000, "")))
            await self._writer.drain()


async def main(uri: str, *messages: str) -> None:
    target = parse_uri(uri)
    reader, writer = await asyncio.open_connection(target.host, target.port)
    request = build_request(target, random=os.urandom)
    writer.write(request.serialize())
    parser = ResponseParser()
    while (response := parser.feed(await reader.read(65536))) is None:
        pass
    check_response(request, response)
    connection = Connection(reader, writer, parser.unused)
    for message in messages:
        await connection.send(message)
        print(await connection.receive())
    await connection.close()
    assert await connection.receive() is None
    writer.close()
    await writer.wait_closed()


asyncio.run(main(*sys.argv[1:]))
