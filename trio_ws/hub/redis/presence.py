"""The numbers of members of all processes, and which processes are alive.

The numbers of a process belong to its *session*, which is alive while a key exists that expires after ``LIFETIME``
seconds unless it is renewed. So one command every few seconds is enough for any number of topics, and the numbers of a
process that was killed, or of an earlier session of this one, do not count.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import trio

from ...exceptions import BackendUnavailable
from .client import Command, RedisClient
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
        # Held while numbers are sent.
        self._lock = trio.Lock()

    async def start(self, nursery: trio.Nursery) -> None:
        """Begin the session, and renew it regularly.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        await self._client.call([self._node_command(b"DEL", self._previous)])
        await self._renew()
        nursery.start_soon(self._renew_regularly)

    def _node_command(self, name: bytes, session: str, *arguments: Any) -> Command:
        """Return a command about the key of a session."""
        key = self._names.node(session)
        return Command(key, name, (key, *arguments))

    async def _renew(self) -> bool:
        """Renew the session. Return whether it was alive."""
        lifetime = int(LIFETIME * 1000)
        before, _ = await self._client.call(
            [
                self._node_command(b"EXISTS", self._session),
                self._node_command(b"SET", self._session, b"", b"PX", lifetime),
            ]
        )
        return bool(before)

    async def _renew_regularly(self) -> None:
        repeat_at = trio.current_time() + REPEAT
        while True:
            await trio.sleep(RENEWAL)
            if not await self._renew() or trio.current_time() >= repeat_at:
                # Another process may have removed the numbers while the session was not alive.
                repeat_at = trio.current_time() + REPEAT
                topics = list(self._counts)
                for index in range(0, len(topics), BATCH):
                    await self._send(topics[index : index + BATCH])

    async def stop(self) -> None:
        """End the session at once, if Redis answers quickly."""
        with trio.move_on_after(0.5, shield=True):
            try:
                await self._client.call([self._node_command(b"DEL", self._session)])
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

    async def _send(self, topics: Iterable[str]) -> None:
        async with self._lock:  # so that Redis gets the last numbers last
            commands = []
            for topic in topics:
                key = self._names.members(topic)
                if count := self._counts.get(topic):
                    commands.append(Command(key, b"HSET", (key, self._session, count)))
                    commands.append(Command(key, b"EXPIRE", (key, KEPT)))
                else:
                    commands.append(Command(key, b"HDEL", (key, self._session)))
            await self._client.call(commands)

    async def count(self, topic: str) -> int:
        """Return the number of members in the other processes.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        key = self._names.members(topic)
        (result,) = await self._client.call([Command(key, b"HGETALL", (key,))])
        numbers = {name.decode(): int(count) for name, count in result.items()}
        sessions = [session for session in numbers if session.partition(".")[0] != self._node]
        alive = await self._client.call([self._node_command(b"EXISTS", session) for session in sessions])
        dead = [session for session, exists in zip(sessions, alive, strict=True) if not exists]
        if dead:
            await self._client.call([Command(key, b"HDEL", (key, *dead))])
        return sum(numbers[session] for session in itertools.compress(sessions, alive))
