"""The client for Redis: errors, timeouts, scripts and pipelines. Uses coredis, which it imports only when needed."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import trio

from ...client.backoff import leaves
from ...exceptions import BackendUnavailable
from .scripts import SCRIPTS, Script

if TYPE_CHECKING:
    import coredis

    Redis: TypeAlias = "coredis.Redis[bytes] | coredis.RedisCluster[bytes]"

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["RedisClient", "check_url", "import_coredis", "within"]

#: Names of the errors that somebody has to repair, by the names of their classes in coredis.
_PERMANENT = (
    "AuthenticationError",
    "AuthorizationError",
    "CommandSyntaxError",
    "UnknownCommandError",
    "WrongTypeError",
)


def import_coredis() -> Any:
    """Import coredis.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import coredis
        import coredis.exceptions
    except ImportError as exc:
        raise ImportError("RedisBackend requires coredis: pip install trio-ws[redis]") from exc
    return coredis


def check_url(url: object) -> None:
    """Check a URL of Redis. The errors do not show it, because it may have a password.

    Raises:
        TypeError: If it is not a str.
        ValueError: If it is no URL of Redis.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"url must begin with redis://, rediss:// or unix://, not with {parts.scheme!r}")
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("url must have a path after unix://")
    elif not parts.hostname:
        raise ValueError(f"url must have a host after {parts.scheme}://")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("the port in url must be between 0 and 65535") from None


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limit the time of a call to Redis, and translate its errors.

    Raises:
        BackendUnavailable: If Redis does not answer, or cannot do its work right now.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except BackendUnavailable:
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
    if any(isinstance(error, (*permanent, ssl.SSLCertVerificationError)) for error in (*errors, *causes)):
        return None
    return errors[0] if all(isinstance(error, temporary) for error in errors) else None


class RedisClient:
    """A client for one session.

    Args:
        url: The URL.
        cluster: Whether it is the URL of a cluster.
        ssl_context: The TLS configuration; None for the usual one, or for that of the URL.
        timeout: Maximum time of a call, in seconds.

    Attributes:
        timeout: Maximum time of a call, in seconds.
        is_cluster: Whether it is a cluster.
        redis: The client of coredis.
    """

    def __init__(self, url: str, *, cluster: bool, ssl_context: ssl.SSLContext | None, timeout: float) -> None:
        coredis = import_coredis()
        options: dict[str, Any] = {"connect_timeout": timeout, "decode_responses": False}
        parts = urlsplit(url)
        if (
            ssl_context is None
            and parts.scheme == "rediss"
            and not any(n.startswith("ssl_") for n in parse_qs(parts.query))
        ):
            # That of coredis does not check the name of the host.
            ssl_context = ssl.create_default_context()
        if ssl_context is not None:
            options["ssl_context"] = ssl_context
        self.timeout: float = timeout
        self.is_cluster: bool = cluster
        make = coredis.RedisCluster if cluster else coredis.Redis
        self.redis: Redis = make.from_url(url, decode_components=True, **options)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the client open until cancelled. Started when Redis has answered and knows the scripts.

        Raises:
            BackendUnavailable: If Redis cannot be reached.
        """
        with within(float("inf")):
            async with self.redis:
                with within(self.timeout):
                    for script in SCRIPTS:
                        await self.redis.script_load(script.text)
                task_status.started()
                await trio.sleep_forever()

    async def pipeline(self, add: Callable[[Any], object]) -> list[Any]:
        """Send commands at once, and return their results.

        Args:
            add: A function that adds the commands to a pipeline.

        Raises:
            BackendUnavailable: If Redis does not answer.
        """
        with within(self.timeout):
            # Errors that coredis raises by itself quote all arguments.
            async with self.redis.pipeline(transaction=False, raise_on_error=False) as pipe:
                add(pipe)
            results = list(pipe.results or ())
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return results

    async def run_script(self, script: Script, calls: Sequence[tuple[list[bytes], list[Any]]]) -> list[Any]:
        """Call a script several times.

        Args:
            script: The script.
            calls: The keys and the arguments of each call.

        Raises:
            BackendUnavailable: If Redis does not answer, or has lost the script.
        """

        def add(pipe: Any) -> None:
            for keys, args in calls:
                pipe.evalsha(script.sha, keys, args)

        return await self.pipeline(add)
