"""``RedisBackend``: the back end for Redis or Valkey."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from ...exceptions import BackendUnavailable
from ...misuse.values import check_instance, check_int
from ..backend import Backend, BackendEvent, History, Position, Publication
from ..memory import check_max_age
from .client import RedisClient, import_coredis
from .presence import Presence
from .pubsub import PubSub
from .scripts import Names
from .streams import Streams, StreamSettings
from .url import check_url

__all__ = ["RedisBackend"]

#: The largest ``history``.
MAX_HISTORY = 10**9


class RedisBackend(Backend):
    """A back end that connects hubs through Redis or Valkey. Requires coredis, the extra ``redis``.

    ::

        hub = trio_ws.Hub(backend=trio_ws.RedisBackend("redis://127.0.0.1:6379/0", prefix="app:"))
        await nursery.start(hub.run)

    By default, messages are stored in Redis Streams, one for each topic. They have positions, and an outage of Redis,
    or of the network, loses none as long as Redis keeps its data (``appendonly yes``) and the history is long enough.
    If it does not, this is noticed: the messages count as lost, and ``when_lost`` of the hub applies.

    With ``streams=False``, messages are only published and not stored, which takes less work. Every outage then counts
    as a loss for the topics with members, and :meth:`Topic.join` recovers nothing.

    It needs Redis 6.2, or 7.0 if ``sharded`` or in a cluster. All processes must use the same options. If Redis does
    not answer within ``timeout`` seconds, it counts as unavailable. A process that was killed no longer counts as
    having members after 8 seconds.

    Args:
        url: ``redis://HOST:PORT/DATABASE``, with TLS ``rediss://``, or ``unix:///PATH?db=DATABASE``. User name and
            password are part of the URL: ``redis://USER:PASSWORD@HOST``, percent-encoded.
        prefix: What the names of all keys and channels begin with. Applications that share a database need different
            ones; with ``streams=False``, those that share a server, because channels belong to no database.
        streams: Whether to store messages.
        history: Maximum number of stored messages of a topic, from 1 to 10^9. A burst of more is a loss for the other
            processes.
        max_age: Seconds for which messages are stored at least. They may stay up to twice as long.
        sharded: Whether to use sharded publish and subscribe, which is always used in a cluster.
        cluster: Whether the URL is that of a node in a cluster. It must answer at first; then, any node will do.
        ssl_context: The TLS configuration for ``rediss://``; None for the usual one, which checks the certificate and
            the name of the host, unless parameters of the URL say otherwise: ``ssl_ca_certs``, ``ssl_certfile`` and
            ``ssl_keyfile`` are paths, ``ssl_cert_reqs`` is ``none``, ``optional`` or ``required``, and
            ``ssl_check_hostname`` is ``true`` or ``false``.
        timeout: Maximum time for an answer, in seconds.

    Raises:
        ImportError: If coredis is not installed (``pip install trio-ws[redis]``).
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "trio_ws:",
        streams: bool = True,
        history: int = 10_000,
        max_age: float = 300.0,
        sharded: bool = False,
        cluster: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 5.0,
    ) -> None:
        import_coredis()
        check_url(url)
        check_instance("prefix", prefix, str, "a str")
        for name, value in (("streams", streams), ("sharded", sharded), ("cluster", cluster)):
            check_instance(name, value, bool, "a bool")
        if cluster and urlsplit(url).scheme == "unix":
            raise ValueError("url must begin with redis:// or rediss:// if cluster is true, not with unix://")
        database = urlsplit(url).path.strip("/")
        if cluster and database.strip("0"):
            raise ValueError(f"a cluster has only database 0, not {database!r}")
        check_int("history", history, 1, MAX_HISTORY)
        check_max_age(max_age)
        check_instance("ssl_context", ssl_context, (ssl.SSLContext, type(None)), "an ssl.SSLContext or None")
        if ssl_context is not None and urlsplit(url).scheme != "rediss":
            raise ValueError("ssl_context must be None unless url begins with rediss://")
        if ssl_context is not None and urlsplit(url).query:
            raise ValueError("url must have no parameters with ssl_context, which takes their place")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be a number, not {timeout!r}")
        if not 0 < timeout < 60:
            raise ValueError(f"timeout must be between 0 and 60, not {timeout}")
        self._url = url
        self._names = Names(prefix)
        self._uses_streams = streams
        self._settings = StreamSettings(history, max_age, sharded or cluster)
        self._cluster = cluster
        self._ssl_context = ssl_context
        self._timeout = timeout
        # Hosts and ports of nodes of the cluster; first, that of the URL.
        self._nodes: list[tuple[str, int]] = []
        if cluster:
            parts = urlsplit(url)
            assert parts.hostname is not None
            self._nodes.append((parts.hostname, parts.port or 6379))
        self._published: dict[str, Position] = {}
        # The number of the session, and its parts.
        self._session = 0
        self._messages: Streams | PubSub | None = None
        self._presence: Presence | None = None

    def __repr__(self) -> str:
        parts = urlsplit(self._url)
        # Without user name and password.
        return f"<{type(self).__name__} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}>"

    async def connect(self) -> None:
        """Connect to Redis.

        Raises:
            BackendUnavailable: If Redis cannot be reached.
        """
        self._session += 1
        client = RedisClient(
            self._url, ssl_context=self._ssl_context, timeout=self._timeout, first_nodes=self._first_nodes()
        )
        await self.nursery.start(client.run)
        if self._cluster:
            self._nodes[1:] = [node for node in client.locations() if node != self._nodes[0]]
        messages: Streams | PubSub
        if self._uses_streams:
            messages = Streams(client, self._names, self._settings, self._published)
        else:
            messages = PubSub(client, self._names, sharded=self._settings.sharded)
        await messages.start(self.nursery)
        presence = Presence(client, self._names, self.id, self._session)
        await presence.start(self.nursery)
        self._messages, self._presence = messages, presence

    def _first_nodes(self) -> list[tuple[str, int]] | None:
        """Return the nodes to ask for the layout of the cluster: all, beginning with another one each time.

        One that does not answer takes the time of the whole attempt.
        """
        if not self._cluster:
            return None
        first = (self._session - 1) % len(self._nodes)
        return self._nodes[first:] + self._nodes[:first]

    async def disconnect(self) -> None:
        """Remove the members of this process from the presence in Redis, if Redis answers quickly."""
        presence, self._presence, self._messages = self._presence, None, None
        if presence is not None:
            await presence.stop()

    @property
    def _connected(self) -> Streams | PubSub:
        if self._messages is None:
            raise BackendUnavailable("it is not connected, Hub.run() must be running")
        return self._messages

    async def publish(self, batch: Sequence[Publication]) -> None:
        """Publish messages.

        Raises:
            BackendUnavailable: If Redis does not answer.
            MessagesRefused: If Redis will never accept some of the messages.
        """
        await self._connected.publish(batch)

    async def receive(self) -> Sequence[BackendEvent]:
        """Wait for messages and losses.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        return await self._connected.receive()

    async def subscribe(self, topics: Mapping[str, Position | None]) -> Mapping[str, Position | None]:
        """Subscribe to topics.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        return await self._connected.subscribe(topics)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Unsubscribe from topics.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        await self._connected.unsubscribe(topics)

    async def set_members(self, counts: Mapping[str, int]) -> None:
        """Set the numbers of members.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        if self._presence is None:
            raise BackendUnavailable("it is not connected, Hub.run() must be running")
        await self._presence.set(counts)

    async def count_members(self, topic: str) -> int:
        """Return the number of members that a topic has in the other hubs.

        Raises:
            BackendUnavailable: If Redis does not answer, or the back end is not entered.
        """
        if self._presence is None:
            raise BackendUnavailable("it is not connected, Hub.run() must be running")
        return await self._presence.count(topic)

    async def history(self, topic: str, since: Position, max_bytes: int) -> History:
        """Return the messages of a topic after a position.

        Raises:
            BackendUnavailable: If Redis does not answer, or the back end is not entered.
        """
        return await self._connected.history(topic, since, max_bytes)
