"""The load generator: raw sockets, the same for every server.

It prepares all data before the clock starts, and counts the received bytes. It checks the contents of echoes only
before and after the measurement.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from . import tls, wire
from .job import HOST, KIB, Job
from .results import percentile
from .worker import report

#: Timeout for a server that does not answer, in seconds.
PATIENCE = 30.0
#: Bytes of small messages per write, and maximum number of unanswered bytes; at least two messages.
BATCH = 16 * KIB
WINDOW = 64 * KIB
#: Number of distinct messages for compression.
DISTINCT = 256
#: Seconds for a server to notice that its peer has disconnected.
NOTICE = 0.02
#: Minimum number of repetitions, however long they take.
REPETITIONS = 3
#: Number of clients that open connections at the same time.
CLIENTS = 4

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def connect(job: Job, buffer: int | None = None) -> socket.socket:
    """Open a TCP connection, with TLS if the job says so. ``buffer`` is the size of both socket buffers in bytes."""
    sock = socket.create_connection((HOST, job.port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if buffer is not None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, buffer)
    if job.certificates is not None:
        return tls.client_context(job.certificates).wrap_socket(sock, server_hostname="localhost")
    return sock


def open_websocket(job: Job, buffer: int | None = None) -> socket.socket:
    """Open a WebSocket connection."""
    sock = connect(job, buffer)
    if not job.raw:
        wire.shake_hands(sock)
    return sock


def probe(job: Job) -> None:
    """Connect, disconnect, and wait until the server has noticed. A handler that spins then would distort results."""
    socket.create_connection((HOST, job.port), timeout=PATIENCE).close()
    time.sleep(NOTICE)  # the server is another process


def request_and_echo(job: Job) -> tuple[bytes, bytes]:
    """Return the bytes of a message to send, and of its echo."""
    opcode = wire.TEXT if job.text else wire.BINARY
    request = wire.message(opcode, job.payload, job.fragments)
    return request, request if job.raw else wire.frame(opcode, job.payload, masked=False)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive this number of bytes."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError(f"closed after {len(data)} of {size} bytes")
        data += part
    return bytes(data)


def exchange(sock: socket.socket, request: bytes, echo: bytes) -> None:
    """Send a message, receive the echo and check it."""
    sock.sendall(request)
    if receive_exactly(sock, len(echo)) != echo:
        raise ValueError("this is not what was sent")


# -- Pipelined -----------------------------------------------------------------------------------------------------


class Counter(Protocol):
    """Counts the messages in received data."""

    messages: int

    def feed(self, data: memoryview) -> None: ...


class EqualMessages:
    """Counts messages of the same size, by the number of bytes."""

    def __init__(self, size: int) -> None:
        self.messages = 0
        self._size = size
        self._received = 0

    def feed(self, data: memoryview) -> None:
        self._received += len(data)
        self.messages = self._received // self._size


class CompressedMessages:
    """Counts compressed messages, by their frame headers, and keeps the first ones."""

    def __init__(self, keep: int) -> None:
        self.messages = 0
        self.received = 0
        self.payloads: list[bytes] = []
        self._keep = keep
        self._data = b""

    def feed(self, data: memoryview) -> None:
        self.received += len(data)
        buffer = self._data + data
        start = 0
        while len(buffer) - start >= 4:
            length, head = buffer[start + 1], 2
            if length == 126:
                length, head = int.from_bytes(buffer[start + 2 : start + 4], "big"), 4
            end = start + head + length
            if end > len(buffer):
                break
            if len(self.payloads) < self._keep:
                self.payloads.append(buffer[start + head : end])
            self.messages += 1
            start = end
        self._data = buffer[start:]


def pump(job: Job, sock: socket.socket, batch: bytes, messages: int, counter: Counter) -> float:
    """Send batches of this number of messages without waiting for the echoes, up to the limit of unanswered bytes.

    One thread sends and receives without blocking in either, because a server may not read while it writes.

    Returns:
        Echoed messages per second, between the warm-up and the end. All echoes have arrived at the end.
    """
    window = messages * max(2, WINDOW // len(batch))
    buffer = memoryview(bytearray(256 * KIB))
    unsent = memoryview(b"")
    sent = 0
    first, last = None, None  # times at the end of a message, and the number of messages
    warm = time.perf_counter() + job.warm_up
    sock.setblocking(False)
    poll = select.poll()
    while last is None or counter.messages < sent:
        if not unsent and last is None and sent + messages - counter.messages <= window:
            unsent = memoryview(batch)
            sent += messages
        if unsent:
            with contextlib.suppress(*WOULD_BLOCK):
                unsent = unsent[sock.send(unsent) :]
        try:
            size = sock.recv_into(buffer)
        except WOULD_BLOCK:
            poll.register(sock, select.POLLIN | select.POLLOUT if unsent else select.POLLIN)
            if not poll.poll(PATIENCE * 1000):
                raise TimeoutError(f"{counter.messages} of {sent} messages have come back") from None
            continue
        if not size:
            raise EOFError(f"closed after {counter.messages} messages")
        before = counter.messages
        counter.feed(buffer[:size])
        if counter.messages > before and last is None:
            now = time.perf_counter()
            if first is None:
                if now >= warm:
                    first = now, counter.messages
            elif now >= first[0] + job.seconds:
                last = now, counter.messages
    sock.settimeout(PATIENCE)
    assert first is not None
    return (last[1] - first[1]) / (last[0] - first[0])


def echo(job: Job) -> dict[str, float]:
    """Return the messages per second of one connection."""
    request, answer = request_and_echo(job)
    batch = max(1, BATCH // len(request))
    counter = EqualMessages(len(answer))
    with open_websocket(job) as sock:
        exchange(sock, request, answer)
        rate = pump(job, sock, request * batch, batch, counter)
        exchange(sock, request, answer)
    return {"rate": rate, "messages": counter.messages}


def compressed(job: Job) -> dict[str, float]:
    """Return the messages per second of one connection, and the bytes per message on the wire."""
    from .compression import feed  # imported late, because it imports the library

    messages = feed(job.size, DISTINCT)
    counter = CompressedMessages(keep=DISTINCT)
    with connect(job) as sock:
        bits = wire.client_window_bits(wire.shake_hands(sock, compression=True))
        frames = [wire.frame(wire.TEXT, each, masked=True, rsv1=True) for each in compress(messages, bits)]
        rate = pump(job, sock, b"".join(frames), DISTINCT, counter)
    if decompress(counter.payloads) != messages:
        raise ValueError("these are not the messages that were sent")
    return {"rate": rate, "messages": counter.messages, "wire": counter.received / counter.messages}


def compress(messages: Sequence[bytes], bits: int) -> list[bytes]:
    """Return the payloads of compressed messages (RFC 7692) that may be sent repeatedly.

    Nothing refers to what came before the first one. So they mean the same wherever they come.
    """
    compressor = zlib.compressobj(wbits=-bits)
    return [(compressor.compress(each) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for each in messages]


def decompress(payloads: Sequence[bytes]) -> list[bytes]:
    """Return the messages in compressed payloads."""
    decompressor = zlib.decompressobj(wbits=-15)
    return [decompressor.decompress(each + b"\0\0\xff\xff") for each in payloads]


# -- One at a time -------------------------------------------------------------------------------------------------


def round_trip(job: Job) -> dict[str, float]:
    """Return the seconds from a message to its echo: the median and the 99th percentile."""
    request, answer = request_and_echo(job)
    buffer = memoryview(bytearray(len(answer)))
    with open_websocket(job) as sock:

        def turn() -> None:
            sock.sendall(request)
            missing = len(answer)
            while missing:
                size = sock.recv_into(buffer[-missing:])
                if not size:
                    raise EOFError("closed before the echo")
                missing -= size

        times = durations(job, turn)
    if buffer != answer:
        raise ValueError("this is not what was sent")
    return {"median": statistics.median(times), "p99": percentile(times, 99)}


def durations(job: Job, turn: Callable[[], object]) -> list[float]:
    """Call a function repeatedly, and return its durations after the warm-up."""
    times: list[float] = []
    warm = time.perf_counter() + job.warm_up
    now = 0.0
    while now < warm + job.seconds or len(times) < REPETITIONS:
        start = time.perf_counter()
        turn()
        now = time.perf_counter()
        if now >= warm:
            times.append(now - start)
    return times


def handshakes(job: Job) -> dict[str, float]:
    """Return the connections per second that a few concurrent clients open and close."""
    counts = [0] * CLIENTS
    failures: list[Exception] = []
    close = wire.frame(wire.CLOSE, (1000).to_bytes(2, "big"), masked=True)
    warm = time.perf_counter() + job.warm_up
    end = warm + job.seconds

    def client(number: int) -> None:
        try:
            while time.perf_counter() < end:
                with connect(job) as sock:
                    wire.shake_hands(sock)
                    sock.sendall(close)
                    while sock.recv(4096):  # the server hangs up first
                        pass
                if time.perf_counter() >= warm:
                    counts[number] += 1
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=client, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {"rate": sum(counts) / (time.perf_counter() - warm)}


# -- Many connections ----------------------------------------------------------------------------------------------


def hold(job: Job) -> None:
    """Open connections, report it, and keep them open. With compression, send a message on each first."""
    socks = []
    for _ in range(job.connections):
        sock = connect(job)
        head = wire.shake_hands(sock, compression=job.compression is not None)
        if job.compression is not None:
            exchange_compressed(sock, job.payload, wire.client_window_bits(head))
        socks.append(sock)
    report(open=len(socks))
    threading.Event().wait()


def exchange_compressed(sock: socket.socket, message: bytes, bits: int) -> None:
    """Send a compressed message, receive the echo and check it."""
    (payload,) = compress([message], bits)
    sock.sendall(wire.frame(wire.TEXT, payload, masked=True, rsv1=True))
    counter = CompressedMessages(keep=1)
    while not counter.messages:
        data = sock.recv(4096)
        if not data:
            raise EOFError("closed before the echo")
        counter.feed(memoryview(data))
    if decompress(counter.payloads) != [message]:
        raise ValueError("this is not what was sent")


class Crowd:
    """Many open connections that expect the same message. They are closed at the end of the block."""

    def __init__(self, job: Job) -> None:
        self.request, self._answer = request_and_echo(job)
        self._closing = contextlib.ExitStack()
        self._poll = self._closing.enter_context(select.epoll())
        self.socks = [self._closing.enter_context(open_websocket(job)) for _ in range(job.connections)]
        self._by_number = {sock.fileno(): sock for sock in self.socks}
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def receive(self) -> None:
        """Wait until each connection has received the message."""
        missing = len(self.socks)
        while missing:
            ready = self._poll.poll(PATIENCE)
            if not ready:
                raise TimeoutError(f"{missing} of {len(self.socks)} connections have not received the message")
            for number, _ in ready:
                # It is small: it comes whole or not at all.
                if self._by_number[number].recv(4096) != self._answer:
                    raise ValueError("this is not what was sent")
            missing -= len(ready)


def fan_out(job: Job) -> dict[str, float]:
    """Return the number of messages per second that reach all connections."""
    with Crowd(job) as crowd, open_websocket(job) as control:

        def turn() -> None:
            control.sendall(crowd.request)
            crowd.receive()

        return {"rate": 1 / statistics.fmean(durations(job, turn))}


def echo_all(job: Job) -> dict[str, float]:
    """Return the seconds until each of many connections has sent a message and received the echo."""
    with Crowd(job) as crowd:

        def turn() -> None:
            for sock in crowd.socks:
                sock.sendall(crowd.request)
            crowd.receive()

        return {"median": statistics.median(durations(job, turn))}
