"""Wrong usage: ``await`` instead of ``async with``, functions that are not async, calls outside of Trio.

Without these checks, each mistake would fail later, with an error about something else. Only certain mistakes are
reported early: a function that returns a value may return an awaitable, so it must be called to find out whether it is
async. No check runs more than once per connection.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import trio

__all__ = [
    "AsyncWithOnly",
    "call_async",
    "check_async_function",
    "check_in_thread_of_trio",
    "check_in_trio",
    "outside_of_trio",
]


class AsyncWithOnly:
    """Base class of async context managers. ``await`` and ``with`` raise a TypeError that names ``async with``.

    Type checkers do not see these methods, so they report such code as they would without this class.
    """

    __slots__ = ()

    def _explain_use(self) -> str:
        """Return the correct usage, such as ``"connect() must be used as `async with connect(...) as ws:`"``."""
        raise NotImplementedError

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise TypeError(f"{self._explain_use()}, not with `await`")

        def __enter__(self) -> NoReturn:
            raise TypeError(f"{self._explain_use()}, not with `with`")

        def __exit__(self, *_: object) -> None:
            """Exist only because `with` looks this method up before it calls `__enter__`."""


def check_async_function(name: str, function: Any, keywords: Iterable[str] = ()) -> None:
    """Check that an argument can be an async function that takes a WebSocket.

    Args:
        name: The name of the argument, for the error message.
        function: The value of the argument.
        keywords: The names of the keyword arguments that the function must take besides the WebSocket.

    Raises:
        TypeError: If calling the function would certainly fail.
    """
    if inspect.iscoroutine(function):
        function.close()  # otherwise Python warns "coroutine ... was never awaited"
        called = function.__name__
        raise TypeError(f"{name} must be an async function, not the result of calling one: {called}, not {called}(...)")
    if not callable(function):
        raise TypeError(f"{name} must be an async function, not {function!r}")
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} must be an async function without `yield`, not {function!r}")
    if _only_returns_none(function):
        raise TypeError(f"{name} must be an async function, but {function!r} is not: write `async def`")
    try:
        # A wrapped function may take other arguments than its decorated form.
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # some callables have no signature
        return
    try:
        signature.bind(None, **dict.fromkeys(keywords))
    except TypeError as exc:
        arguments = " and ".join(["a WebSocket", *keywords])
        raise TypeError(f"{name} must take {arguments}: {exc}") from None


def _only_returns_none(function: Any) -> bool:
    """Whether this is a function in Python that returns no value. Others may return an awaitable."""
    if not inspect.isfunction(function):
        return False
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return False
    for before, instruction in pairwise(dis.get_instructions(function)):
        if instruction.opname == "RETURN_VALUE":
            returns_constant = before.opname == "LOAD_CONST" and not instruction.is_jump_target
            if not returns_constant or before.argval is not None:
                return False
        if instruction.opname == "RETURN_CONST" and instruction.argval is not None:
            return False
    return True


def call_async(
    name: str, function: Callable[..., Awaitable[object]], /, *args: object, **kwargs: object
) -> Awaitable[Any]:
    """Call an async function and return its awaitable.

    Args:
        name: The name of the argument that holds the function, for the error message.
        function: The function.
        *args: The arguments of the function.
        **kwargs: The keyword arguments of the function.

    Raises:
        TypeError: If the function is not async.
        Exception: The exception of the function, if it is not async and raises one.
    """
    result = function(*args, **kwargs)
    if not inspect.isawaitable(result):
        raise TypeError(f"{name} must be an async function, but {function!r} returned {result!r}")
    return result


def check_in_trio(call: str) -> None:
    """Check that the caller is a Trio task.

    Args:
        call: The call that is checked, such as ``"connect()"``, for the error message.

    Raises:
        RuntimeError: If the caller is not a Trio task.
    """
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise outside_of_trio(call) from None


def check_in_thread_of_trio(call: str) -> None:
    """Check that Trio runs in this thread, for functions that are not async and wake tasks.

    Args:
        call: The call that is checked, such as ``"broadcast()"``, for the error message.

    Raises:
        RuntimeError: If it does not.
    """
    try:
        trio.current_time()
    except RuntimeError:
        raise RuntimeError(
            f"{call} must be called in the thread in which Trio runs; in another one, use trio.from_thread.run_sync()"
        ) from None


def outside_of_trio(call: str) -> RuntimeError:
    """Return the error for a call outside of a Trio task."""
    where = "under asyncio" if _is_in_asyncio() else "outside of it"
    instead = "use trio.run(main), or trio.from_thread.run() in another thread"
    return RuntimeError(f"{call} must be called in a Trio task, not {where}: {instead}")


def _is_in_asyncio() -> bool:
    asyncio = sys.modules.get("asyncio")  # it cannot be running if it was not imported
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
