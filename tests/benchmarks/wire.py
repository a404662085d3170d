"""Hand-made frames and opening handshakes (RFC 6455), so that load generators depend on no library."""

from __future__ import annotations

import base64
import hashlib
import re
import socket

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40

#: Any key will do: security does not matter here, and the work of the servers does not depend on the key.
MASK = b"\x37\xfa\x21\x3d"

#: The GUID for Sec-WebSocket-Accept (section 1.3).
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = base64.b64encode(bytes(range(16))).decode()


def frame(opcode: int, payload: bytes, *, masked: bool, fin: bool = True, rsv1: bool = False) -> bytes:
    """Return a frame (section 5.2)."""
    length = len(payload)
    first = opcode | FIN * fin | RSV1 * rsv1
    mask_bit = 0x80 * masked
    if length < 126:
        head = bytes([first, mask_bit | length])
    elif length < 1 << 16:
        head = bytes([first, mask_bit | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, mask_bit | 127]) + length.to_bytes(8, "big")
    return head + MASK + mask(payload) if masked else head + payload


def mask(payload: bytes) -> bytes:
    """Return the payload masked with :data:`MASK`."""
    keys = (MASK * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(payload), "big")


def frame_size(length: int, *, masked: bool) -> int:
    """Return the size of a frame with a payload of this size."""
    head = 2 if length < 126 else 4 if length < 1 << 16 else 10
    return head + 4 * masked + length


def message(opcode: int, payload: bytes, fragments: int) -> bytes:
    """Return a client's message in this number of frames of about the same size."""
    size = -(-len(payload) // fragments)
    frames = [
        frame(CONT if at else opcode, payload[at * size : (at + 1) * size], masked=True, fin=at == fragments - 1)
        for at in range(fragments)
    ]
    return b"".join(frames)


def request(*, compression: bool = False) -> bytes:
    """Return the opening handshake of a client. With compression, it offers the same as browsers."""
    lines = [
        "GET / HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    if compression:
        lines.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    return "\r\n".join([*lines, "", ""]).encode()


def response(head: bytes) -> bytes:
    """Return the response of a server, without extensions."""
    found = re.search(rb"^Sec-WebSocket-Key: *(\S+)", head, re.IGNORECASE | re.MULTILINE)
    assert found, head
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept(found[1])}", "", ""]).encode()


def accept(key: bytes) -> str:
    """Return the value of Sec-WebSocket-Accept for a key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()


def receive_head(sock: socket.socket) -> bytes:
    """Receive a request or a response. The peer must not send anything after it yet."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = sock.recv(4096)
        if not data:
            raise EOFError(f"closed in the opening handshake, after {head!r}")
        head += data
    return head


def shake_hands(sock: socket.socket, *, compression: bool = False) -> bytes:
    """Do the opening handshake of a client. Return the response."""
    sock.sendall(request(compression=compression))
    head = receive_head(sock)
    if not head.startswith(b"HTTP/1.1 101") or accept(KEY.encode()).encode() not in head:
        raise ValueError(f"not the answer to a WebSocket handshake: {head!r}")
    return head


def client_window_bits(head: bytes) -> int:
    """Return the window bits that this response allows a client (RFC 7692, section 7.1.2.2)."""
    found = re.search(rb'permessage-deflate.*client_max_window_bits="?(\d+)', head, re.IGNORECASE)
    return int(found[1]) if found else 15
