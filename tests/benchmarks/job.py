"""The parameters of a process of the benchmark: one class for all kinds of processes, sent as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

KIB = 1024
MIB = 1024 * KIB

#: The address on which all servers listen.
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The parameters of a measurement. Each process uses those that concern it.

    Attributes:
        port: The TCP port to connect to.
        size: Size of a message in bytes.
        text: Whether messages are text.
        fragments: Number of frames per message.
        seconds: Duration of the measurement.
        warm_up: Seconds of the same work before the measurement.
        round_trip: Whether a client sends one message at a time, instead of many without waiting.
        connections: Number of connections to open.
        compression: None, ``"default"``, or ``"equal"`` for the parameters that websockets has by default.
        ping_interval: Seconds between keepalive pings, for servers that have them; None for no pings.
        certificates: A folder with the files that :mod:`tls` creates, for TLS; None for plain connections.
        fan_out: Whether a server sends each message to all other connections; otherwise it echoes.
        raw: Whether the server echoes bytes without the WebSocket protocol.
        sink: Whether the server only receives messages, without answering.
        kind: The kind of small frames that a hostile peer sends: a key of :data:`hostile.KINDS`.
    """

    port: int = 0
    size: int = 32
    text: bool = False
    fragments: int = 1
    seconds: float = 0.3
    warm_up: float = 0.1
    round_trip: bool = False
    connections: int = 1
    compression: str | None = None
    ping_interval: float | None = None
    certificates: str | None = None
    fan_out: bool = False
    raw: bool = False
    sink: bool = False
    kind: str = ""

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def payload(self) -> bytes:
        """The message as bytes. All messages are the same, and ASCII like most text."""
        line = b'{"type":"trade","seq":10000001,"px":"99.87","qty":0.3141}\n'
        return (line * (self.size // len(line) + 1))[: self.size]

    @property
    def message(self) -> Any:
        """The message as ``str`` or ``bytes``."""
        return self.payload.decode() if self.text else self.payload
