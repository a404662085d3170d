"""The numbers of members of all processes, and which processes are alive.

The numbers of a process belong to its *session*, which is alive while a key exists that expires after ``LIFETIME``
seconds unless it is renewed. So one command every few seconds is enough for any number of topics, and the numbers of a
process that was killed, or of an earlier session of this one, do not count.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import trio

from ...exceptions import BackendUnavailable
from .client import RedisClient, within
from .scripts import Names

__all__ = ["Presence"]

#: Seconds after which a session is no longer alive, and between two renewals.
LIFETIME = 8.0
RENEWAL = 2.0

#: Seconds for which numbers are kept, and after which they are sent again.
KEPT = 3600
REPEAT = 1200

#: How many numbers to send at once.
BATCH = 500


class Presence:
    """The numbers of members.

    Args:
        client: The client.
        names: The names of keys.
        node: The id of the back end.
        number: The number of the session.
    """

    def __init__(self, client: RedisClient, names: Names, node: str, number: int) -> None:
        self._client = client
        self._names = names
        self._node = node
        self._previous = f"{node}.{number - 1}"
        self._session = f"{node}.{number}"
        self._counts: dict[str, int] = {}

    async def start(self, nursery: trio.Nursery) -> None:
        """Begin the session, and renew it regularly.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        with within(self._client.timeout):
            await self._client.redis.delete([self._names.node(self._previous)])
        await self._renew()
        nursery.start_soon(self._renew_regularly)

    async def _renew(self) -> bool:
        """Renew the session. Return whether it was alive."""
        with within(self._client.timeout):
            key, lifetime = self._names.node(self._session), int(LIFETIME * 1000)
            before = await self._client.redis.pexpire(key, lifetime)
            if not before:
                await self._client.redis.set(key, b"1", px=lifetime)
        return bool(before)

    async def _renew_regularly(self) -> None:
        repeat_at = trio.current_time() + REPEAT
        while True:
            await trio.sleep(RENEWAL)
            if not await self._renew() or trio.current_time() >= repeat_at:
                # Another process may have removed the numbers while the session was not alive.
                repeat_at = trio.current_time() + REPEAT
                counts = list(self._counts.items())
                for index in range(0, len(counts), BATCH):
                    await self._send(dict(counts[index : index + BATCH]))

    async def stop(self) -> None:
        """End the session at once, if Redis answers quickly."""
        with trio.move_on_after(0.5, shield=True):
            try:
                with within(0.5):
                    await self._client.redis.delete([self._names.node(self._session)])
            except BackendUnavailable:
                pass  # It expires soon.

    async def set(self, counts: Mapping[str, int]) -> None:
        """Set the numbers of members that topics have in this process.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        await trio.lowlevel.checkpoint()
        for topic, count in counts.items():
            if count:
                self._counts[topic] = count
            else:
                self._counts.pop(topic, None)
        await self._send(counts)

    async def _send(self, counts: Mapping[str, int]) -> None:
        def add(pipe: Any) -> None:
            for topic, count in counts.items():
                key = self._names.members(topic)
                if count:
                    pipe.hset(key, {self._session: count})
                    pipe.expire(key, KEPT)
                else:
                    pipe.hdel(key, [self._session])

        await self._client.pipeline(add)

    async def count(self, topic: str) -> int:
        """Return the number of members in the other processes.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        key = self._names.members(topic)
        with within(self._client.timeout):
            numbers = {name.decode(): int(count) for name, count in (await self._client.redis.hgetall(key)).items()}
        sessions = [session for session in numbers if session.partition(".")[0] != self._node]
        if not sessions:
            return 0

        def add(pipe: Any) -> None:
            for session in sessions:
                pipe.exists([self._names.node(session)])

        alive = await self._client.pipeline(add)
        dead = [session for session, exists in zip(sessions, alive, strict=True) if not exists]
        if dead:
            with within(self._client.timeout):
                await self._client.redis.hdel(key, dead)
        return sum(numbers[session] for session in itertools.compress(sessions, alive))
