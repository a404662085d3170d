"""The work of the clients of all libraries, on Trio and asyncio, given functions that send and receive a message."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import trio

from . import wire
from .job import Job
from .load import BATCH, WINDOW
from .results import percentile
from .worker import finish

Send: TypeAlias = Callable[[Any], Awaitable[object]]
Receive: TypeAlias = Callable[[], Awaitable[Any]]


class Semaphore(Protocol):
    """The clock of Trio or of asyncio."""

    async def acquire(self) -> Any: ...

    def release(self) -> None: ...


def batch_size(job: Job) -> int:
    """Return the number of messages in a batch."""
    return max(1, BATCH // wire.frame_size(job.size, masked=True))


def batches_on_the_way(job: Job) -> int:
    """Return the maximum number of unanswered batches; the load generator for servers has the same."""
    return max(2, WINDOW // (batch_size(job) * wire.frame_size(job.size, masked=True)))


class Stopwatch:
    """Measures the time from the end of the warm-up to the end of the measurement, both at the end of a batch."""

    def __init__(self, job: Job) -> None:
        self._warm = time.perf_counter() + job.warm_up
        self._seconds = job.seconds
        self._size = batch_size(job)
        self._start: float | None = None
        self._batches = 0

    def end_of_batch(self) -> float | None:
        """Return the messages per second once the time is up; None before."""
        now = time.perf_counter()
        if self._start is None:
            if now >= self._warm:
                self._start = now
            return None
        self._batches += 1
        if now < self._start + self._seconds:
            return None
        return self._batches * self._size / (now - self._start)


class Pipeline:
    """Sends and receives concurrently, with a bounded number of unanswered messages."""

    def __init__(self, job: Job, semaphore: Semaphore) -> None:
        self._message = job.message
        self._size = batch_size(job)
        self._stopwatch = Stopwatch(job)
        self._semaphore = semaphore

    async def send(self, send: Send) -> None:
        """Send batches, forever."""
        while True:
            await self._semaphore.acquire()
            for _ in range(self._size):
                await send(self._message)

    async def receive(self, receive: Receive) -> None:
        """Receive until the time is up, and report."""
        while True:
            for _ in range(self._size):
                await receive()
            self._semaphore.release()
            rate = self._stopwatch.end_of_batch()
            if rate is not None:
                finish({"rate": rate})


async def round_trips(job: Job, send: Send, receive: Receive) -> None:
    """Send one message at a time, and report."""
    message = job.message
    times: list[float] = []
    warm = time.perf_counter() + job.warm_up
    now = 0.0
    while now < warm + job.seconds:
        start = time.perf_counter()
        await send(message)
        await receive()
        now = time.perf_counter()
        if now >= warm:
            times.append(now - start)
    finish({"median": statistics.median(times), "p99": percentile(times, 99)})


async def check(job: Job, send: Send, receive: Receive) -> None:
    """Check that the first echo is the message sent."""
    await send(job.message)
    if await receive() != job.message:
        raise ValueError("this is not what was sent")


async def measure_trio(job: Job, send: Send, receive: Receive) -> None:
    """Run the job with a client on Trio."""
    await check(job, send, receive)
    if job.round_trip:
        await round_trips(job, send, receive)
    pipeline = Pipeline(job, trio.Semaphore(batches_on_the_way(job)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.send, send)
        nursery.start_soon(pipeline.receive, receive)


async def measure_asyncio(job: Job, send: Send, receive: Receive) -> None:
    """Run the job with a client on asyncio."""
    await check(job, send, receive)
    if job.round_trip:
        await round_trips(job, send, receive)
    pipeline = Pipeline(job, asyncio.Semaphore(batches_on_the_way(job)))
    await asyncio.gather(pipeline.send(send), pipeline.receive(receive))
