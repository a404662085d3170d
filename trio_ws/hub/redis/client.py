"""The client for Redis: errors, timeouts, commands and scripts. Uses coredis, which it imports only when needed."""

from __future__ import annotations

import math
import re
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import trio

from ...client.backoff import leaves
from ...exceptions import BackendUnavailable, MessagesRefused
from ..backend import Publication
from .scripts import SCRIPTS, Script, slot_of
from .url import make_ssl_context

if TYPE_CHECKING:
    import coredis

    Redis: TypeAlias = "coredis.Redis[bytes] | coredis.RedisCluster[bytes]"

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Command", "RedisClient", "import_coredis", "is_refusal", "within"]

#: Names of the errors that somebody has to repair, by the names of their classes in coredis.
_PERMANENT = (
    "AuthenticationError",
    "AuthorizationError",
    "CommandSyntaxError",
    "UnknownCommandError",
    "WrongTypeError",
)

#: The beginnings of others, which coredis does not tell apart.
_PERMANENT_TEXTS = ("DB index is out of range", "The user executing the script can't")

#: Errors of commands in a script that do not concern the message, by the beginnings of their texts.
_TEMPORARY = re.compile(
    r"\b(ASK|BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|MOVED|NOREPLICAS|OOM|READONLY|TRYAGAIN|non local key)\b"
)


def import_coredis() -> Any:
    """Import coredis.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import coredis
        import coredis.connection
        import coredis.exceptions
    except ImportError as exc:
        raise ImportError("RedisBackend requires coredis: pip install trio-ws[redis]") from exc
    return coredis


@contextmanager
def within(seconds: float) -> Iterator[trio.CancelScope]:
    """Limit the time of a call to Redis, and translate its errors.

    Args:
        seconds: The limit. The deadline of the cancel scope can be changed.

    Raises:
        BackendUnavailable: If Redis does not answer, or cannot do its work right now.
    """
    try:
        with trio.fail_after(seconds) as scope:
            yield scope
    except (BackendUnavailable, MessagesRefused):
        raise
    except trio.TooSlowError:
        raise BackendUnavailable(f"Redis has not answered within {seconds:g} seconds") from None
    except (Exception, BaseExceptionGroup) as exc:
        if isinstance(exc, BaseExceptionGroup):
            cancelled, others = exc.split(trio.Cancelled)
            if cancelled is not None and (others is None or _find_temporary(others) is not None):
                # Cancellation has closed the connection, or its end comes at the same time.
                raise cancelled from None
        error = _find_temporary(exc)
        if error is None:
            raise
        if isinstance(error, BackendUnavailable):
            raise error from None
        raise BackendUnavailable(f"{type(error).__name__}: {error}"[:200]) from exc


def _find_temporary(exc: BaseException) -> BaseException | None:
    """Return the error, if trying again may help."""
    import anyio

    coredis = import_coredis()
    temporary = (
        BackendUnavailable,
        coredis.exceptions.RedisError,
        OSError,
        TimeoutError,
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
        anyio.EndOfStream,
        trio.BrokenResourceError,
        trio.ClosedResourceError,
    )
    permanent = tuple(getattr(coredis.exceptions, name) for name in _PERMANENT)
    errors = list(leaves(exc))
    causes = [error.__cause__ for error in errors]
    for error in (*errors, *causes):
        if isinstance(error, (*permanent, ssl.SSLCertVerificationError)) or str(error).startswith(_PERMANENT_TEXTS):
            return None
    # The pool of coredis raises an internal error if a node of a cluster cannot be reached.
    if all(isinstance(error, temporary) or type(error).__module__.startswith("coredis.") for error in errors):
        return errors[0]
    return None


def is_refusal(exc: Exception) -> bool:
    """Return whether an error says that Redis will never accept a message: it is too large, or the script fails."""
    errors = import_coredis().exceptions
    text = str(exc)
    if type(exc) is errors.ResponseError and not text.startswith(_PERMANENT_TEXTS):
        # After a protocol error, Redis closes the connection.
        return text.startswith("Protocol error") or ("user_script" in text and not _TEMPORARY.search(text))
    # Something else uses the name of a key.
    return type(exc) is errors.WrongTypeError


class Command(NamedTuple):
    """A command.

    Attributes:
        key: The key or channel that it is about.
        name: Its name.
        arguments: Its arguments.
    """

    key: bytes
    name: bytes
    arguments: tuple[Any, ...]

    @classmethod
    def of_script(cls, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Command:
        """Return the command that runs a script."""
        return cls(keys[0], b"EVALSHA", (script.sha, len(keys), *keys, *arguments))


class RedisClient:
    """A client for one session.

    Args:
        url: The URL.
        ssl_context: The TLS configuration; None for the usual one, or for that of the URL.
        timeout: Maximum time of a call, in seconds.
        first_nodes: Hosts and ports of nodes to ask for the layout of the cluster, in this order. None if it is not a
            cluster.

    Attributes:
        timeout: Maximum time of a call, in seconds.
        is_cluster: Whether it is a cluster.
        redis: The client of coredis.
    """

    def __init__(
        self,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None,
        timeout: float,
        first_nodes: Sequence[tuple[str, int]] | None = None,
    ) -> None:
        coredis = import_coredis()
        options: dict[str, Any] = {"connect_timeout": timeout, "decode_responses": False}
        if ssl_context is None and urlsplit(url).scheme == "rediss":
            ssl_context = make_ssl_context(url)
        if ssl_context is not None:
            options["ssl_context"] = ssl_context
        self.timeout: float = timeout
        self.is_cluster: bool = first_nodes is not None
        if first_nodes is not None:
            options["startup_nodes"] = [coredis.connection.TCPLocation(host, port) for host, port in first_nodes]
        make = coredis.Redis if first_nodes is None else coredis.RedisCluster
        # The connections for commands, by the name of the node. Those of the pool would be used up when calls are
        # cancelled.
        self._connections: dict[str, Any] = {}
        self.redis: Redis = make.from_url(url, decode_components=True, **options)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the client open until cancelled. Started when Redis has answered and knows the scripts.

        Raises:
            BackendUnavailable: If Redis cannot be reached.
        """
        with within(self.timeout) as scope:
            async with self.redis:
                for name in self.nodes():
                    self._connections[name] = connection = await self.open_connection(name)
                    for script in SCRIPTS:
                        await connection.create_request(b"SCRIPT LOAD", script.text)
                scope.deadline = math.inf
                task_status.started()
                await trio.sleep_forever()

    def nodes(self) -> list[str]:
        """Return the names of the primary nodes of the cluster, or one empty name for a single server."""
        pool: Any = self.redis.connection_pool
        return [node.name for node in pool.cluster_layout.primaries] if self.is_cluster else [""]

    def locations(self) -> list[tuple[str, int]]:
        """Return the hosts and ports of all nodes of the cluster, including the replicas."""
        pool: Any = self.redis.connection_pool
        return [(node.host, node.port) for node in pool.cluster_layout.nodes]

    def node_of(self, key: bytes) -> str:
        """Return the name of the node that has a key or a channel."""
        if not self.is_cluster:
            return ""
        pool: Any = self.redis.connection_pool
        return str(pool.cluster_layout.node_for_slot(slot_of(key)).name)

    async def open_connection(self, name: str) -> Any:
        """Return a new connection to a node. Closed together with the client.

        Raises:
            BackendUnavailable: If the node cannot be reached.
        """
        pool: Any = self.redis.connection_pool
        if not self.is_cluster:
            return await pool.get_connection()
        (node,) = (node for node in pool.cluster_layout.primaries if node.name == name)
        return await pool.get_connection(node=node)

    async def call(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once, and return their results.

        If this is cancelled, the commands have been sent, or will be. They go to the same connection as all others, so
        the commands for one key are executed in the order of the calls.

        Args:
            commands: The commands.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        await trio.lowlevel.checkpoint()
        with within(math.inf):
            return [await self.wait(request) for request in self._send(commands)]

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        requests = []
        for command in commands:
            connection = self._connections.get(self.node_of(command.key))
            if connection is None:
                raise BackendUnavailable("the cluster has a new node")
            requests.append(connection.create_request(command.name, *command.arguments, decode=False))
        return requests

    async def publish(self, commands: Sequence[Command], publications: Sequence[Sequence[Publication]]) -> list[Any]:
        """Send commands that publish messages, and return their results.

        Args:
            commands: The commands.
            publications: The messages of each command.

        Raises:
            BackendUnavailable: If Redis does not answer.
            MessagesRefused: If Redis will never accept the messages of one command.
        """
        await trio.lowlevel.checkpoint()
        results = []
        with within(math.inf):
            for request, messages in zip(self._send(commands), publications, strict=True):
                try:
                    results.append(await self.wait(request))
                except Exception as exc:  # the class alone does not tell a refusal: Redis explains it in the text
                    if not is_refusal(exc):
                        raise
                    raise MessagesRefused([message.number for message in messages], str(exc)[:200]) from None
        return results

    async def wait(self, request: Any) -> Any:
        """Wait for the answer to a command.

        If this process has been held up, the answer may be there, but was not read yet. So if it is not there in time,
        this waits once more.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        for _ in range(2):
            with trio.move_on_after(self.timeout / 2):
                return await request
        raise BackendUnavailable(f"Redis has not answered within {self.timeout:g} seconds")
