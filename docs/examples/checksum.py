"""An extension that adds a CRC-32 to every message, so that the receiver detects damage.

Run it with ``python checksum.py``: a client and a server in one program negotiate
``x-crc32`` and exchange messages.
"""

import zlib
from collections.abc import Sequence
from functools import partial

import trio
import trio_ws
from trio_ws.protocol import RSV2, EncodingCache, Params

NAME = "x-crc32"

#: The size of a CRC-32 in bytes.
SIZE = 4


class Checksum:
    """The extension on one connection: a ``trio_ws.protocol.extensions.Extension``."""

    rsv = RSV2

    def __init__(self) -> None:
        # The checksums of the messages in progress, and the last bytes received, which
        # may be the peer's checksum.
        self._sent = self._received = 0
        self._end = b""

    def encode(
        self, data: bytes, *, first: bool, final: bool, cache: EncodingCache | None = None
    ) -> tuple[bytes, bool]:
        """Append the checksum to the last part of a message."""
        self._sent = zlib.crc32(data, 0 if first else self._sent)
        return (data + self._sent.to_bytes(SIZE, "big") if final else data), True

    def decode(self, data: bytes, *, final: bool, limit: int | None) -> bytes:
        """Remove the checksum from the end of a message, and check it."""
        data = self._end + data
        data, self._end = data[:-SIZE], data[-SIZE:]
        self._received = zlib.crc32(data, self._received)
        if final:
            if self._end != self._received.to_bytes(SIZE, "big"):
                raise trio_ws.ProtocolError("the checksum of a message is wrong")
            self._received, self._end = 0, b""
        return data

    def rest(self) -> None:
        """Do nothing: there is no memory to free."""


class OfferChecksum:
    """The client's side: a ``trio_ws.protocol.extensions.ClientExtension``."""

    name = NAME

    def offers(self) -> Sequence[Params]:
        """Return one offer, which has no parameters."""
        return [()]

    def accept(self, params: Params) -> Checksum:
        """Return the extension for the server's answer."""
        if params:
            raise trio_ws.NegotiationError(
                f"{NAME} has no parameters, but the server sent {params!r}"
            )
        return Checksum()


class AcceptChecksum:
    """The server's side: a ``trio_ws.protocol.extensions.ServerExtension``."""

    name = NAME

    def answer(self, params: Params) -> tuple[Params, Checksum] | None:
        """Accept an offer without parameters."""
        return None if params else ((), Checksum())


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(trio_ws.serve, echo, 0, host="localhost", extensions=[AcceptChecksum()])
        server = await nursery.start(serve)
        async with trio_ws.connect(
            f"ws://localhost:{server.port}", extensions=[OfferChecksum()]
        ) as ws:
            print(ws.response.headers["Sec-WebSocket-Extensions"].split(",")[0])
            await ws.send("hello")
            print(await ws.receive())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
