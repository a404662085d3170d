"""The raw echo server, the same for every client.

It knows the size of the client's frames, and answers each with a prepared frame, without parsing it. It serves one
connection at a time.
"""

from __future__ import annotations

import socket

from . import wire
from .job import HOST, KIB, Job
from .worker import report

READ = 256 * KIB


def serve(job: Job) -> None:
    """Report the port, and serve until the process ends."""
    opcode = wire.TEXT if job.text else wire.BINARY
    answer = wire.frame(opcode, job.payload, masked=False)
    size = wire.frame_size(job.size, masked=True)
    answers = memoryview(answer * (READ // size + 1))
    with socket.create_server((HOST, 0)) as listener:
        report(port=listener.getsockname()[1])
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.sendall(wire.response(wire.receive_head(sock)))
                echo(sock, size, answers, len(answer))


def echo(sock: socket.socket, size: int, answers: memoryview, answer_size: int) -> None:
    """Answer each frame of this size until the connection is closed."""
    buffer = bytearray(READ)
    received = 0
    while count := sock.recv_into(buffer):
        whole, received = divmod(received + count, size)
        if whole:
            sock.sendall(answers[: whole * answer_size])
